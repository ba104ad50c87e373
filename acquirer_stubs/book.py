"""The host's durable book: an append-only file, one JSON line for every received message and every decision.

    {"seq", "at", "kind": "received", "line", "mti", "fields": {DE: masked value}}    or "undecodable" and "bytes" instead of mti, fields
    {"seq", "at", "kind": "decision", "received": seq, "fault", ...the Decision's own fields}

Sequence numbers start at 1 and have no gaps. Nothing is answered before its lines are stored; what gathers during one fsync is the
next batch. Card numbers stand as first six and last four plus a keyed hash, whose key lives in FILE.key, apart from the book.
"""
import asyncio
import fcntl
import hmac
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from acquirer_stubs.behaviours import Decision, Known
from acquirer_stubs.codec import Message

CLEAR = frozenset((3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 15, 18, 19, 22, 23, 24, 25, 32, 33,
                   37, 38, 39, 41, 42, 43, 49, 50, 51, 54, 66, 70, 74, 76, 86, 88, 90, 95, 97))
NAMES = [str(de) for de in range(129)]
LINES_PER_MARK = 256
PAGE_LINES_MAX = 1000

_encode = json.JSONEncoder(separators=(",", ":")).encode
_DECISION = ",".join(f'"{name}":%d' if kind is int else f'"{name}":"%s"' for name, kind in Decision.__annotations__.items())
_second = (0, "")


class BookError(Exception):
    """The book cannot be opened, read or written; nothing may be answered from here on."""


def now() -> str:
    """The wall clock as RFC 3339 UTC with milliseconds."""
    global _second
    milliseconds = time.time_ns() // 1_000_000
    second = milliseconds // 1000
    if second != _second[0]:
        _second = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{_second[1]}.{milliseconds % 1000:03d}Z"


def _object(fields: dict[str, str]) -> str:
    """JSON of an object of printable ASCII texts: joined by hand unless a value needs an escape, for speed."""
    values = "".join(fields.values())
    if '"' in values or "\\" in values:
        return _encode(fields)
    return "{" + ",".join([f'"{name}":"{value}"' for name, value in fields.items()]) + "}"


def _members(decision: Decision) -> str:
    """JSON of a decision's fields without the braces; the texts of a terminal are the only ones that may need an escape."""
    texts = decision.key + decision.original + decision.rrn + decision.terminal + decision.currency
    if '"' in texts or "\\" in texts:
        return _encode(decision._asdict())[1:-1]
    return _DECISION % decision


def card_number(message: Message) -> str:
    """DE2, or what stands before the separator of track 2; empty if the message has neither."""
    return message.get(2) or message.get(35, "").replace("D", "=").partition("=")[0]


def masked(message: Message, token: str) -> dict[str, str]:
    """Elements that may be written down: an allowlist in clear, the card as first six and last four, of the rest only the length."""
    fields: dict[str, str] = {}
    for de, value in message.items():
        if de in CLEAR:
            fields[NAMES[de]] = value
        elif de == 2:
            shown = 6 if len(value) > 12 else 0
            fields["2"] = value[:shown] + "*" * (len(value) - shown - 4) + value[-4:] if len(value) > 4 else "*" * len(value)
        elif de:
            fields[NAMES[de]] = f"*{len(value)}"
    if token:
        fields["token"] = token
    return fields


def lines_of(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Whole lines with their parsed form; a last line without its end or without sense is left out. Raises BookError on any other fault."""
    with path.open("rb") as file:
        expected, rest = 1, os.fstat(file.fileno()).st_size  # what a running host appends meanwhile is not looked at
        while raw := file.readline(rest):
            rest -= len(raw)
            try:
                line = json.loads(raw)
                sound = raw.endswith(b"\n") and line["seq"] == expected
            except (ValueError, TypeError, KeyError):
                sound = False
            if not sound:
                if rest:
                    raise BookError(f"{path}: line {expected} is damaged and not the last one")
                return
            yield raw, line
            expected += 1


def effects(path: Path) -> dict[tuple[str, str, str], tuple[int, int, str]]:
    """(DE37, DE41, DE49) -> (net, held, last code) in minor units, over all decisions of the book. Raises BookError, OSError."""
    found: dict[tuple[str, str, str], tuple[int, int, str]] = {}
    for _raw, line in lines_of(path):
        if line["kind"] == "decision" and line["rrn"]:
            key = line["rrn"], line["terminal"], line["currency"]
            net, held, _ = found.get(key, (0, 0, ""))
            found[key] = net + line["net"], held + line["held"], line["code"]
    return found


class Book:
    """One open book. `record` gathers lines; `then` of each runs in order on the loop once its lines are stored."""

    def __init__(self, path: Path, *, fast: bool) -> None:
        self.path, self.fast = path, fast
        self.seq = 0
        self.size = 0
        self.marks = [0]  # offset of line 1 + n * LINES_PER_MARK; only stored lines
        self.failed: Callable[[BaseException], None] = lambda error: None
        self._stored_seq = 0
        self._gathering: list[str] = []
        self._waiting: list[Callable[[], None]] = []
        self._busy = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._disk = ThreadPoolExecutor(1, "book")

    def open(self, known: Known) -> None:
        """Locks, reads back into `known`, cuts a torn last line, and positions at the end. Raises BookError."""
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._key = self._read_key()
            for raw, line in lines_of(self.path):
                self._mark(len(raw))
                if line["kind"] == "decision":
                    known.apply(Decision(*(line[name] for name in Decision._fields)))
                else:
                    known.received[line.get("mti", "undecodable")] += 1
            self.seq = self._stored_seq
            if os.fstat(self._file).st_size != self.size:
                os.ftruncate(self._file, self.size)
            os.fsync(self._file)
            folder = os.open(self.path.absolute().parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except BlockingIOError:
            raise BookError(f"{self.path}: another host is writing this book") from None
        except (OSError, KeyError) as error:
            raise BookError(f"{self.path}: {getattr(error, 'strerror', None) or 'not a book of this host'}") from None

    def _read_key(self) -> bytes:
        path = Path(f"{self.path}.key")
        if not path.exists():
            if os.fstat(self._file).st_size:
                raise BookError(f"{path}: missing, and the book is not empty")
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, secrets.token_bytes(32))
            os.fsync(descriptor)
            os.close(descriptor)
        return path.read_bytes()

    def token(self, message: Message) -> str:
        """A keyed hash of the card number, 32 hex characters; empty without a card."""
        number = card_number(message)
        return hmac.digest(self._key, number.encode(), "sha256").hex()[:32] if number else ""

    def record(self, line: int, message: Message, token: str, decision: Decision | None, fault: str, then: Callable[[], None]) -> None:
        """Books a received message and, if there is one, the decision on it."""
        at = now()
        self.seq += 1
        received = self.seq
        self._gathering.append(f'{{"seq":{received},"at":"{at}","kind":"received","line":{line},"mti":"{message[0]}",'
                               f'"fields":{_object(masked(message, token))}}}\n')
        if decision is not None:
            self.seq += 1
            self._gathering.append(f'{{"seq":{self.seq},"at":"{at}","kind":"decision","received":{received},"fault":"{fault}",'
                                   f'{_members(decision)}}}\n')
        self._wait(then)

    def record_undecodable(self, line: int, place: str, size: int) -> None:
        """Books that bytes came which are no message; the bytes themselves may hold card data and are not kept."""
        self.seq += 1
        self._gathering.append(f'{{"seq":{self.seq},"at":"{now()}","kind":"received","line":{line},"undecodable":{_encode(place)},'
                               f'"bytes":{size}}}\n')
        self._wait(lambda: None)

    def _wait(self, then: Callable[[], None]) -> None:
        self._waiting.append(then)
        if not self._busy:
            self._busy = True
            self._idle.clear()
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        lines, waiting = self._gathering, self._waiting
        self._gathering, self._waiting = [], []
        if self.fast:
            try:
                self._write(lines)
            except OSError as error:
                self._finish(error, lines, waiting)
            else:
                self._finish(None, lines, waiting)
            return
        stored = asyncio.get_running_loop().run_in_executor(self._disk, self._write, lines)
        stored.add_done_callback(lambda done: self._finish(done.exception(), lines, waiting))

    def _write(self, lines: list[str]) -> None:
        rest = memoryview("".join(lines).encode("ascii"))
        while rest:
            rest = rest[os.write(self._file, rest):]
        if not self.fast:
            os.fdatasync(self._file)

    def _finish(self, error: BaseException | None, lines: list[str], waiting: list[Callable[[], None]]) -> None:
        if error is not None:
            # After a failed fsync nobody knows what the disk holds: no later line may be promised either.
            self._idle.set()
            self.failed(error)
            return
        for line in lines:
            self._mark(len(line))
        for then in waiting:
            then()
        if self._waiting:
            self._begin()
        else:
            self._busy = False
            self._idle.set()

    def _mark(self, size: int) -> None:
        self._stored_seq += 1
        self.size += size
        if self._stored_seq % LINES_PER_MARK == 0:
            self.marks.append(self.size)

    def page(self, after: int, limit: int = PAGE_LINES_MAX) -> tuple[list[str], int | None]:
        """Stored lines as JSON text with a sequence number above `after`, and the `after` of the next page or None at the end."""
        first = max(after, 0) + 1
        last = min(first + limit - 1, self._stored_seq)
        if first > last:
            return [], None
        start = (first - 1) // LINES_PER_MARK
        end = last // LINES_PER_MARK + 1
        begin, stop = self.marks[start], self.marks[end] if end < len(self.marks) else self.size
        lines = os.pread(self._file, stop - begin, begin).decode("ascii").splitlines()
        skipped = first - 1 - start * LINES_PER_MARK
        return lines[skipped:skipped + last - first + 1], last if last < self._stored_seq else None

    async def close(self) -> None:
        """Waits for what gathers, then closes the file."""
        await self._idle.wait()
        self._disk.shutdown()
        os.close(self._file)
