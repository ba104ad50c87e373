"""The files under `home/postgres/`: the cluster and how it is made, its password and port, the log, the socket directory."""

import asyncio
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from switch.postgres.processes import PostgresError, Server, Way, tail

LOG_BYTES_MAX = 10 * 1024 * 1024
SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un.sun_path less its zero byte

# dynamic_shared_memory_type: a container's /dev/shm may be 64 MB, and posix segments outlive a kill -9 outside of home.
# min_wal_size: files of the log are used again and not removed after a quiet day. A new one is 16 MB of zeros, and whoever commits meanwhile
# waits for the disk to take them (0.4 s of slow commits, every four seconds of a busy hour).
# huge_pages: `try` crashes where huge pages exist but the container may not have them.
# log_*: a log line holds no value of a row, a parameter or a statement. terse drops DETAIL (the failing row) and CONTEXT,
# log_min_error_statement drops STATEMENT, and log_min_messages drops errors such as `invalid input syntax ... "value"`:
# the client gets all of them anyway.
SETTINGS: Mapping[str, str] = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_level": "replica",
    "min_wal_size": "1GB",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "huge_pages": "off",
    "dynamic_shared_memory_type": "mmap",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}

# The switch's own role may make databases and roles (migrations do), and is no superuser.
FIRST_STATEMENTS = """CREATE ROLE switch LOGIN CREATEDB CREATEROLE PASSWORD '{password}'
GRANT pg_monitor, pg_signal_backend TO switch
CREATE DATABASE switch OWNER switch
SELECT 'created' FROM pg_database WHERE datname = 'switch'
"""


def flags(settings: Mapping[str, str]) -> list[str]:
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def open_file(root: Path, name: str, mode: int) -> int:
    """Opens a file of ours, made 0600. What root makes in another user's folder goes to that user."""
    file = os.open(root / name, mode | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        owner = root.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)
    return file


def sync_folder(root: Path) -> None:
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def keep(root: Path, name: str, text: str) -> None:
    """Puts text into a small file at once and for good: a crash leaves the old one or the new one."""
    file = open_file(root, name + ".new", os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(file, text.encode())
        os.fsync(file)
    finally:
        os.close(file)
    os.rename(root / (name + ".new"), root / name)
    sync_folder(root)


def kept(root: Path, name: str, shape: str) -> str | None:
    """The text of a small file, None when there is none. Raises PostgresError when it is not of that shape (a regex)."""
    try:
        text = (root / name).read_text("utf-8", "replace").strip()
    except FileNotFoundError:
        return None
    if not re.fullmatch(shape, text):
        raise PostgresError(f"{root / name} is damaged: restore it")
    return text


def password(root: Path) -> str:
    """The switch's own password, made and on disk before it is used for the first time."""
    known = kept(root, "password", r"[A-Za-z0-9_-]+")
    if known is None:
        if (root / "cluster").exists():
            raise PostgresError(f"{root / 'password'} is missing, but its cluster exists: restore the file")
        known = secrets.token_urlsafe(24)
        keep(root, "password", known)
    return known


def check(root: Path, server: Server) -> None:
    """Raises PostgresError when the cluster is none, or another major version's."""
    cluster = root / "cluster"
    if not cluster.exists():
        return
    try:
        made_by = (cluster / "PG_VERSION").read_text("utf-8", "replace").strip()
    except FileNotFoundError as error:
        raise PostgresError(f"{cluster} is not a PostgreSQL cluster (no PG_VERSION): move it away, or restore it") from error
    if made_by != str(server.major):
        raise PostgresError(
            f"{cluster} was made by PostgreSQL {made_by}, but {server.binaries} holds {server.version}: name a directory with "
            f"PostgreSQL {made_by} in SWITCH_POSTGRES_BIN, or move the data over by pg_dump into a new SWITCH_HOME"
        )


async def create(root: Path, server: Server, settings: Mapping[str, str], switch_password: str, progress: Callable[[str], None]) -> None:
    """initdb in cluster.tmp, then role and database, then rename: a cluster that exists is complete. Raises PostgresError."""
    progress(f"creating a PostgreSQL {server.version} cluster in {root / 'cluster'}")
    fresh, secret = root / "cluster.tmp", root / "superuser.tmp"
    if fresh.exists():
        await asyncio.to_thread(shutil.rmtree, fresh)
    fresh.mkdir(mode=0o700)
    server.way.own(fresh)
    keep(root, secret.name, secrets.token_urlsafe(24))  # thrown away: nobody logs in as superuser, single-user mode is the way in
    server.way.own(secret)
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if server.major >= 17 else []
    initdb: list[str | Path] = [
        server.binaries / "initdb", "-D", fresh, "--username=postgres", f"--pwfile={secret}", "--data-checksums", "--encoding=UTF8",
        "--locale=C", *locale, "--auth-local=scram-sha-256", "--auth-host=scram-sha-256",
    ]  # fmt: skip
    status, said = await server.way.run(root, initdb)
    secret.unlink()
    if status:
        raise PostgresError(f"initdb in {fresh} failed with status {status}: {tail(said)}")
    careful = flags({**settings, "exit_on_error": "on"})
    single: list[str | Path] = [server.binaries / "postgres", "--single", "-D", fresh, *careful, "postgres"]
    status, said = await server.way.run(root, single, FIRST_STATEMENTS.format(password=switch_password))
    if status or "created" not in said:
        raise PostgresError(f"creating the database `switch` in {fresh} failed with status {status}: {tail(said)}")
    fresh.rename(root / "cluster")
    sync_folder(root)


def give(cluster: Path, way: Way) -> None:
    """Data root made in a namespace, now served by another user. The top goes last, so that an interrupted walk is walked again."""
    if way.name == "user" and cluster.stat().st_uid != way.uid:
        for folder, _, names in os.walk(cluster, topdown=False):
            for path in (*(Path(folder, name) for name in names), Path(folder)):
                way.own(path)


def pid_lines(cluster: Path) -> list[str]:
    """Lines of postmaster.pid: the first is the pid, the eighth `ready` once connections are taken. Empty when there is none."""
    try:
        return [line.strip() for line in (cluster / "postmaster.pid").read_text("utf-8", "replace").split("\n")]
    except FileNotFoundError:
        return []


def disown_pid_file(cluster: Path) -> None:
    """Makes a stale postmaster.pid harmless though some living process has its pid by now.

    PostgreSQL ignores its parent's pid there, and still checks the shared memory named in line 7: rewritten, not removed.
    """
    lines = pid_lines(cluster)
    if len(lines) >= 7 and lines[0].isdigit():
        file = os.open(cluster / "postmaster.pid", os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.ftruncate(file, os.write(file, "\n".join([str(os.getpid()), *lines[1:]]).encode()))
        finally:
            os.close(file)
    elif lines:
        (cluster / "postmaster.pid").unlink()  # torn by a power failure; PostgreSQL would refuse it for ever


def socket_folder(root: Path, way: Way, port: int) -> str:
    """Empties the socket directory. Returns the setting's value, nothing where the path is too long for a socket."""
    folder = root / "socket"
    if folder.exists():
        shutil.rmtree(folder)  # a stale socket lock may hold a pid that lives again
    folder.mkdir(mode=0o700)
    way.own(folder)
    if len(os.fsencode(folder / f".s.PGSQL.{port}")) > SOCKET_PATH_BYTES_MAX:
        return ""
    return '"{}"'.format(str(folder).replace('"', '""'))


def bound_log(root: Path) -> None:
    """Keeps postgres.log and one older one. Copied and cut, because the running server keeps the file open for append."""
    log = root / "postgres.log"
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        with open(log, "rb") as source, os.fdopen(open_file(root, "postgres.log.1", os.O_WRONLY | os.O_TRUNC), "wb") as target:
            shutil.copyfileobj(source, target)
        os.truncate(log, 0)
