"""Real processes for the tests: the switch and its hosts as a shell would start them, each ended by its own pid, and HTTP without a library."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
SWITCH = (sys.executable, "-m", "switch")
READY_S, STOP_S = 60.0, 30.0
CARD = {"entry_mode": "chip", "pan": "6212345678900000003", "expiry": "3012"}
BROKEN = (OSError, EOFError)  # what a connection that was cut raises


class Answer(NamedTuple):
    """One whole HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


class Caller:
    """One keep-alive connection. What it raises when the connection is cut is in BROKEN; the next call connects anew."""

    def __init__(self) -> None:
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.sent_at: float | None = None  # monotonic; None while nothing is on its way

    async def connect(self, base_url: str) -> None:
        address = urlsplit(base_url)
        self.reader, self.writer = await asyncio.open_connection(address.hostname, address.port)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None

    async def ask(self, base_url: str, request: bytes) -> Answer:
        if self.reader is None or self.writer is None:
            await self.connect(base_url)
        assert self.reader is not None and self.writer is not None
        try:
            self.writer.write(request)
            self.sent_at = time.monotonic()
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
            status = int(head[0].split(" ")[1])
            answer = Answer(status, headers, b"" if status == 304 or request.startswith(b"HEAD ") else await self.reader.readexactly(int(headers["content-length"])))
        except BaseException:  # also whoever was cancelled leaves no connection behind
            self.close()
            raise
        self.sent_at = None
        if headers.get("connection") == "close":
            self.close()
        return answer


def request(method: str, path: str, key: str, body: object = None, **headers: str) -> bytes:
    """The bytes of one HTTP request; header names with _ for -."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: switch", f"Authorization: Bearer {key}", f"Content-Length: {len(content)}",
             *(["Content-Type: application/json"] if content else []), *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


async def ask(base_url: str, method: str, path: str, key: str, body: object = None, **headers: str) -> Answer:
    """One request on a connection of its own."""
    caller = Caller()
    try:
        return await caller.ask(base_url, request(method, path, key, body, **headers))
    finally:
        caller.close()


def environment(home: Path, **more: str) -> dict[str, str]:
    """Ours without any SWITCH_ setting of the caller's shell."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SWITCH_")}
    return plain | {"SWITCH_HOME": str(home), "SWITCH_PORT": "0", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | more


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def last(self) -> Any:
        """The last line of stdout, parsed."""
        return json.loads(self.out.splitlines()[-1])


def run(home: Path, *arguments: str, seconds: float = 60.0, **variables: str) -> Ended:
    """`switch ARGUMENTS`, to its end."""
    done = subprocess.run([*SWITCH, *arguments], env=environment(home, **variables), cwd=home.parent, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=seconds, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


class Process:
    """A started process whose output goes to files. Ended by its pid alone."""

    def __init__(self, folder: Path, name: str, command: tuple[str, ...], variables: Mapping[str, str]) -> None:
        number = len(list(folder.glob(f"{name}-*.out")))
        self.out_path, self.err_path = folder / f"{name}-{number}.out", folder / f"{name}-{number}.err"
        with self.out_path.open("wb") as out, self.err_path.open("wb") as err:
            self.popen = subprocess.Popen(command, env=dict(variables), cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    @property
    def out(self) -> str:
        return self.out_path.read_text()

    @property
    def err(self) -> str:
        return self.err_path.read_text()

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def first_line(self) -> dict[str, Any]:
        """The JSON line that says that it is ready."""
        wait(lambda: "\n" in self.out or not self.running, f"{self.out_path.stem} says nothing")
        assert self.running, self.err[-2000:]
        line: dict[str, Any] = json.loads(self.out.splitlines()[0])
        return line

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(STOP_S)

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = STOP_S) -> int:
        """Its exit code, after a signal if it still runs. kill -9 when it does not listen, and then the test fails."""
        if self.running:
            self.popen.send_signal(number)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class Demo(Process):
    """`switch demo` on a home folder, ready when its handover is there."""

    def __init__(self, home: Path, *arguments: str, ready: bool = True, **variables: str) -> None:
        begun = time.monotonic()
        super().__init__(home.parent, f"demo-{home.name}", (*SWITCH, "demo", *arguments), environment(home, **variables))
        self.home, self.handover_path = home, home / "demo.json"
        self.handover: dict[str, Any] = {}
        if ready:
            self.wait_ready()
        self.start_s = time.monotonic() - begun

    def wait_ready(self) -> None:
        wait(lambda: f"serving on {self.base_of()}" in self.out or not self.running, "the demo is not ready", READY_S)
        assert self.running, self.out + self.err[-2000:]
        self.handover = json.loads(self.handover_path.read_text())

    def base_of(self) -> str:
        """What the handover says; a killed demo leaves its own behind, so only one that the demo itself names counts."""
        try:
            return str(json.loads(self.handover_path.read_text())["base_url"])
        except (OSError, ValueError):
            return "nothing yet"

    @property
    def base(self) -> str:
        return str(self.handover["base_url"])

    @property
    def key(self) -> str:
        return str(self.handover["terminal_key"])

    async def ask(self, method: str, path: str, body: object = None, key: str | None = None, **headers: str) -> Answer:
        return await ask(self.base, method, path, key or self.key, body, **headers)

    async def pay(self, idempotency_key: str, amount: int, **changed: Any) -> Answer:
        """One purchase; `changed` replaces members of the body."""
        return await self.ask("POST", "/v1/authorizations", sale(amount, **changed), Idempotency_Key=idempotency_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None and self.running:
            print(self.out[-3000:], self.err[-3000:])
        self.stop()


def sale(amount: int, **changed: Any) -> dict[str, Any]:
    body = {"type": "purchase", "amount": amount, "currency": "CNY", "card": CARD, **changed}
    return {name: value for name, value in body.items() if value is not None}


@contextmanager
def stub(folder: Path, *options: str) -> Iterator[tuple[int, str]]:
    """An acquirer stub that outlives the switch: its port and control address."""
    command = (sys.executable, "-m", "acquirer_stubs", "--port", "0", "--control-port", "0", "--book", str(folder / "book.jsonl"), *options)
    process = Process(folder, "stub", command, environment(folder))
    try:
        line = process.first_line()
        yield line["port"], line["control_url"]
    finally:
        process.stop()


@contextmanager
def foreign_host(folder: Path, *options: str) -> Iterator[tuple[str, Callable[[], list[dict[str, Any]]]]]:
    """The host of another company: its address, and what its book says so far."""
    book = folder / "foreign.jsonl"
    process = Process(folder, "foreign", (sys.executable, str(ROOT / "tests" / "foreign_host.py"), "--book", str(book), *options), os.environ)
    try:
        address = f"127.0.0.1:{process.first_line()['port']}"
        yield address, lambda: [json.loads(line) for line in book.read_text().splitlines()]
        assert process.running, process.err
    finally:
        process.stop()
    assert process.err == ""


async def stub_book(control_url: str) -> list[dict[str, Any]]:
    """All lines of a stub's book."""
    lines: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = (await ask(control_url, "GET", f"/book?after={after}", "")).body
        lines += page["items"]
        after = page["next"]
    return lines


def wait(ready: Callable[[], object], complaint: str, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, complaint
        time.sleep(0.02)


@asynccontextmanager
async def within(seconds: float, complaint: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise AssertionError(complaint) from None


def postmaster(home: Path) -> int:
    """The pid of a home folder's PostgreSQL."""
    return int((home / "postgres" / "cluster" / "postmaster.pid").read_text().splitlines()[0])


def alive(pid: int) -> bool:
    """Whether a process that may not be our child runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def family(pid: int) -> list[int]:
    """A process and its children."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return [pid, *(child for child, parent in parents.items() if parent == pid)]
