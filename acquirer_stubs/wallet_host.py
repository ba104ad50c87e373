"""The wallet's HTTP side: signed requests in, decisions into a durable book, signed answers out. `python -m acquirer_stubs wallet --help`.

    POST /orders {order, amount, currency, code, merchant, terminal, expires_in}      GET /orders/O
    POST /orders/O/close | cancel {amount, currency}
    POST /orders/O/refunds {refund, amount, currency}      GET /orders/O/refunds/R      POST /orders/O/refunds/R/cancel {amount, currency}
    answers {order, refund?, status, reason?, amount, currency, reference}; status: paid done declined pending closed cancelled unknown_order

Each request carries Wallet-Client, Wallet-Timestamp (unix seconds), Wallet-Nonce and Wallet-Signature: HMAC-SHA-256 in hex, under the secret,
over method, target, client, timestamp, nonce and the SHA-256 of the body in hex, one a line. An answer is signed over its status, the request's
nonce and the SHA-256 of its body. An unknown order is a 404 whose amount and currency say nothing.
"""
import asyncio
import fcntl
import hashlib
import hmac
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from acquirer_stubs.book import BookError, lines_of, now
from acquirer_stubs.wallet import Asked, Decision, Wallet

HEAD_BYTES_MAX, BODY_BYTES_MAX = 16_384, 65_536
CLOCK_OFF_S = 300
ACTIONS = frozenset({"delay", "silence", "cut", "wrong", "garbage", "huge", "unsigned", "status"})
FIELDS = ("order", "refund", "status", "amount", "currency")
PATHS = re.compile(r"/orders(?:/(?P<order>[0-9a-f]{32})(?:/(?:(?P<act>close|cancel)|refunds(?:/(?P<part>[0-9a-f]{32})(?P<undo>/cancel)?)?))?)?")


class Request(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class BadRequest(Exception):
    """Answered with an HTTP status and nothing booked; arguments: the status, what is wrong."""


@dataclass(slots=True)
class Fault:
    """One order to misbehave: `verb` None matches all; `left` None = until deleted."""
    verb: str | None
    action: str
    value: Any
    left: int | None


def parse(order: Any) -> Fault:
    """A fault from the JSON body of POST /faults. Raises ValueError, whose text says what is wrong."""
    if not isinstance(order, dict) or not order.keys() <= {"match", "action", "value", "count"} or order.get("action") not in ACTIONS:
        raise ValueError(f"an object with match, action ({' '.join(sorted(ACTIONS))}), value and count is expected")
    match, count, value = order.get("match", "any"), order.get("count", 1), order.get("value")
    if not (match == "any" or (isinstance(match, dict) and match.keys() == {"verb"})):
        raise ValueError('match: "any" or {"verb": ...}')
    if count is not None and (type(count) is not int or count < 1):
        raise ValueError("count: a whole number from 1, or null")
    if order["action"] == "wrong" and str(value).removeprefix("-") not in FIELDS:
        raise ValueError(f"value: one of {' '.join(FIELDS)}, or with - in front to leave it out")
    return Fault(None if match == "any" else str(match["verb"]), order["action"], value, count)


class WalletBook:
    """One JSON line per request and per decision, on the disk before the answer leaves."""

    def __init__(self, path: Path, *, fast: bool) -> None:
        self.path, self.fast, self.seq = path, fast, 0
        self.lines: list[str] = []
        self.disk = ThreadPoolExecutor(1, "book")

    def open(self, wallet: Wallet) -> None:
        """Locks it and reads it back. Raises BookError."""
        try:
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = 0
            for raw, line in lines_of(self.path):
                size += len(raw)
                self.seq += 1
                self.lines.append(raw.decode().rstrip("\n"))
                if line["kind"] == "decision":
                    wallet.apply(Decision(*(line[name] for name in Decision._fields)))
            os.ftruncate(self.file, size)  # of a torn last line
        except BlockingIOError:
            raise BookError(f"{self.path}: another host is writing this book") from None
        except (OSError, KeyError) as error:
            raise BookError(f"{self.path}: {getattr(error, 'strerror', None) or 'not a book of this host'}") from None

    async def write(self, *entries: dict[str, Any]) -> None:
        added = []
        for entry in entries:
            self.seq += 1
            added.append(json.dumps({"seq": self.seq, "at": now(), **entry}))
        await asyncio.get_running_loop().run_in_executor(self.disk, self._store, "".join(f"{line}\n" for line in added).encode())
        self.lines += added

    def _store(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.file, data):]
        if not self.fast:
            os.fdatasync(self.file)

    def page(self, after: int, limit: int) -> tuple[list[str], int | None]:
        """As Book.page."""
        found = self.lines[max(after, 0):max(after, 0) + limit]
        last = max(after, 0) + len(found)
        return found, last if last < len(self.lines) else None

    def close(self) -> None:
        self.disk.shutdown()
        os.close(self.file)


def signature(secret: bytes, *parts: str | bytes) -> str:
    text = "\n".join(hashlib.sha256(part).hexdigest() if isinstance(part, bytes) else part for part in parts)
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


class WalletHost:
    """All of one wallet."""

    def __init__(self, book: WalletBook, wallet: Wallet, client: str, secret: str, delay: float = 0.0) -> None:
        self.book, self.wallet, self.client, self.secret, self.delay = book, wallet, client, secret.encode(), delay
        self.faults: list[Fault] = []
        self.counts: Counter[str] = Counter()
        self.one_at_a_time = asyncio.Lock()  # decisions are booked in their order
        self.server: asyncio.Server | None = None
        self.writers: set[asyncio.StreamWriter] = set()

    async def start(self, address: str, port: int, **tls: Any) -> int:
        """Listens; returns the port taken. Raises OSError."""
        self.server = await asyncio.start_server(self._serve, address, port, limit=HEAD_BYTES_MAX, **tls)
        return int(self.server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
        for writer in list(self.writers):
            writer.close()
        async with self.one_at_a_time:
            self.book.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests one after the other on a kept connection."""
        self.writers.add(writer)
        self.counts["connections"] += 1
        try:
            while True:
                request = await self._read(reader)
                answer = await self._answer(request)
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            pass  # it went away, or does not speak HTTP
        finally:
            self.writers.discard(writer)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        length = int(headers.get("content-length", "0"))
        if length > BODY_BYTES_MAX:
            raise ValueError
        return Request(method, target, headers, await reader.readexactly(length))

    async def _answer(self, request: Request) -> bytes | None:
        """The bytes of the answer, or None: the connection is closed instead."""
        nonce = request.headers.get("wallet-nonce", "")
        self.counts["requests"] += 1
        try:
            asked = self._asked(request)
        except BadRequest as error:
            self.counts["bad_requests"] += 1
            return self._http(error.args[0], json.dumps({"error": error.args[1]}).encode(), nonce)
        fault = next(self._fault(asked), None)
        if fault is not None and fault.action == "cut" and fault.value == "before":
            return None
        async with self.one_at_a_time:
            decision = await self._decide(asked, fault)
        shown: dict[str, Any] = {"order": decision.order, "status": decision.word, "amount": decision.amount, "currency": decision.currency,
                                 "reference": f"W{decision.order[-12:]}"}
        if decision.reason:
            shown["reason"] = decision.reason
        if decision.part:
            shown["refund"] = decision.part
        if self.delay:
            await asyncio.sleep(self.delay)
        return await self._sent(404 if decision.word == "unknown_order" else 200, shown, nonce, fault)

    async def _decide(self, asked: Asked, fault: Fault | None) -> Decision:
        decision = self.wallet.decide(asked)
        received = {"kind": "received", **{name: value for name, value in asked._asdict().items() if value}}
        entries = [received]
        if self.wallet.changes(decision):
            self.wallet.apply(decision)
            entries.append({"kind": "decision", "fault": fault.action if fault else "", "verb": asked.verb, **decision._asdict(),
                            "rrn": decision.order, "held": 0, "code": decision.word})
        await self.book.write(*entries)
        return decision

    async def person(self, order: str, word: str, reason: str) -> bool:
        """The payer decides. False: nothing of that order waits."""
        async with self.one_at_a_time:
            decision = self.wallet.person(order, word, reason)
            if decision is None:
                return False
            self.wallet.apply(decision)
            await self.book.write({"kind": "decision", "fault": "", "verb": "person", **decision._asdict(), "rrn": decision.order, "held": 0,
                                   "code": decision.word})
        return True

    async def _sent(self, status: int, shown: dict[str, Any], nonce: str, fault: Fault | None) -> bytes | None:
        """An answer, or what a fault makes of it."""
        if fault is None:
            return self._http(status, json.dumps(shown).encode(), nonce)
        if fault.action == "silence":
            await asyncio.sleep(3600 if fault.value is None else float(fault.value))
            return None
        if fault.action == "cut":
            return None
        if fault.action == "delay":
            await asyncio.sleep(float(fault.value or 1))
        elif fault.action == "wrong":
            shown = corrupted(shown, str(fault.value))
        elif fault.action == "garbage":
            return b"\xff\xfe no HTTP at all\r\n\r\n" if fault.value == "frame" else self._http(status, b"\xff{not json", nonce)
        elif fault.action == "huge":
            return self._http(status, json.dumps({**shown, "more": "x" * (1 << 20)}).encode(), nonce)
        elif fault.action == "unsigned":
            return self._http(status, json.dumps(shown).encode(), "another nonce")
        elif fault.action == "status":
            return self._http(int(fault.value or 500), json.dumps(shown).encode(), nonce)
        return self._http(status, json.dumps(shown).encode(), nonce)

    def _http(self, status: int, body: bytes, nonce: str) -> bytes:
        head = (f"HTTP/1.1 {status} {'OK' if status == 200 else 'Other'}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                f"Wallet-Signature: {signature(self.secret, str(status), nonce, body)}\r\n\r\n")
        return head.encode() + body

    def _fault(self, asked: Asked) -> Iterator[Fault]:
        for fault in self.faults:
            if fault.verb in (None, asked.verb):
                if fault.left is not None:
                    fault.left -= 1
                    if not fault.left:
                        self.faults.remove(fault)
                yield fault
                return

    def _asked(self, request: Request) -> Asked:
        """Raises BadRequest: not signed as agreed, or none of the requests above."""
        headers = request.headers
        stamp, nonce, client = headers.get("wallet-timestamp", ""), headers.get("wallet-nonce", ""), headers.get("wallet-client", "")
        expected = signature(self.secret, request.method, request.target, client, stamp, nonce, request.body)
        if client != self.client or not nonce or not hmac.compare_digest(headers.get("wallet-signature", "").encode(), expected.encode()):
            raise BadRequest(401, "not signed by a known client")
        if not stamp.isdigit() or abs(int(stamp) - time.time()) > CLOCK_OFF_S:
            raise BadRequest(401, "the timestamp is too far off")
        found = PATHS.fullmatch(request.target)
        try:
            body = json.loads(request.body) if request.method == "POST" else {}
        except ValueError:
            raise BadRequest(400, "the body is not JSON") from None
        if found is None or not isinstance(body, dict):
            raise BadRequest(400, "no such request")
        order, part = found["order"] or body.get("order", ""), found["part"] or body.get("refund", "")
        money = body.get("amount", 0), body.get("currency", "")
        if request.method == "GET" and order:
            return Asked("query", order, part)
        if request.method != "POST" or type(money[0]) is not int or money[0] < 1 or not re.fullmatch("[A-Z]{3}", str(money[1])):
            raise BadRequest(400, "no such request, or amount and currency are not there")
        if found["act"] or found["undo"]:
            return Asked(found["act"] or "cancel", order, part, *money)
        if part:
            return Asked("refund", order, part, *money)
        code = body.get("code", "")
        if not re.fullmatch("[0-9a-f]{32}", str(order)) or not re.fullmatch("[0-9]{12,32}", str(code)):
            raise BadRequest(400, "order: 32 hex digits; code: 12 to 32 digits")
        token = hmac.new(self.secret, code.encode(), hashlib.sha256).hexdigest()[:32]
        return Asked("pay", order, "", *money, str(body.get("terminal", "")), str(body.get("merchant", "")), token)


def corrupted(shown: dict[str, Any], value: str) -> dict[str, Any]:
    """One member changed to another value of its kind, or left out for "-NAME"."""
    name = value.lstrip("-")
    if value.startswith("-"):
        return {key: held for key, held in shown.items() if key != name}
    other: dict[str, Any] = {"order": "0" * 32, "refund": "0" * 32, "status": "delighted", "currency": "XTS"}
    return {**shown, name: shown["amount"] + 1 if name == "amount" else other[name]}
