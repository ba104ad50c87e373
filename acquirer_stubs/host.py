"""The host: TCP lines in, decisions into the book, answers out after their book lines are stored."""
import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import cast

from acquirer_stubs.behaviours import Decision, Known, answer, answerable, decide
from acquirer_stubs.book import Book
from acquirer_stubs.codec import BadLength, Message, Undecodable
from acquirer_stubs.dialects import SPEECHES, Heard, plainly
from acquirer_stubs.faults import KEYED, OF_CHIPS, Fault, Faults, corrupted, garbage
from acquirer_stubs.issuer import Chip, Issuer
from acquirer_stubs.keys import Keys

LINES_MAX = 1024
OWED_ANSWERS_MAX = 65_536
ASKED_OF_ISSUERS = ("10", "20")  # class and function of the MTIs that carry a cryptogram to be verified
ACCEPTED = ("00", "800")
CODE_SIGN_ON, CODE_SIGN_OFF, CODE_ECHO, CODE_CUTOVER, CODE_KEY_CHANGE = "001", "002", "301", "201", "101"


class Line(asyncio.Protocol):
    """One TCP connection of a switch."""

    def __init__(self, host: "Host") -> None:
        self.host = host
        self.number = 0
        self.signed_on = False
        self.hung = False      # half open: neither read nor answered
        self.choked = False    # the peer does not read our answers
        self.reading = True
        self.rest = b""
        self.out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are not its subclasses
        self.host.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.host.lines.discard(self)

    def data_received(self, data: bytes) -> None:
        broken = False
        try:
            bodies, self.rest = self.host.speech.split(self.rest + data if self.rest else data)
        except BadLength as error:
            bodies, broken, self.rest = error.args[1], True, b""
        for at, body in enumerate(bodies):
            if self.hung:
                self.rest = b"".join(map(self.host.speech.frame, bodies[at:])) + self.rest
                return
            if self.transport.is_closing():
                return
            self.host.receive(self, body)
        if broken:
            self.host.counts["bad_frames"] += 1
            self.transport.close()

    def pause_writing(self) -> None:
        self.choked = True
        self.settle_reading()

    def resume_writing(self) -> None:
        self.choked = False
        self.settle_reading()

    def settle_reading(self) -> None:
        """Reads exactly while there is room: not half open, the peer takes answers, and the host does not owe too many."""
        wanted = not (self.hung or self.choked or self.host.full or self.host.stopping)
        if wanted != self.reading and not self.transport.is_closing():
            self.reading = wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def post(self, framed: bytes) -> None:
        """Queues bytes for this turn of the loop; all of a turn leave in one write."""
        if self.hung or self.transport.is_closing():
            return
        self.out.append(framed)
        if len(self.out) == 1:
            self.host.loop.call_soon(self.flush)

    def flush(self) -> None:
        if self.out and not self.transport.is_closing():
            self.transport.write(b"".join(self.out))
        self.out.clear()


class Host:
    """All lines, the faults ordered, and what the host knows."""

    def __init__(self, book: Book, known: Known, *, delay: float = 0.0, require_sign_on: bool = False,
                 dialect: str = "iso87_ascii", keys: Keys | None = None, issuer: Issuer | None = None) -> None:
        self.speech, self.keys, self.issuer = SPEECHES[dialect], keys, issuer
        self.book, self.known, self.delay, self.require_sign_on = book, known, delay, require_sign_on
        self.loop = asyncio.get_running_loop()
        self.lines: set[Line] = set()
        self.faults = Faults()
        self.counts: Counter[str] = Counter()
        self.capacity: float | None = None
        self.full = False      # too many answers owed
        self.stopping = False
        self._owed = 0
        self._next_slot = 0.0
        self._next_line = 0
        self._trace = 0
        self._server: asyncio.Server | None = None

    async def start(self, address: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listens; returns the port taken. Raises OSError."""
        self._server = await self.loop.create_server(lambda: Line(self), address, port, backlog=256, ssl=tls)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Accepts and reads nothing more, stores the book and answers what it stored; answers not yet due are not sent."""
        self.stopping = True
        if self._server is not None:
            self._server.close()
        for line in self.lines:
            line.settle_reading()
        await self.book.close()
        for line in list(self.lines):
            line.flush()
            line.transport.close()
        await asyncio.sleep(0)

    def opened(self, line: Line) -> None:
        if len(self.lines) >= LINES_MAX:
            self.counts["refused_lines"] += 1
            line.transport.abort()
            return
        self._next_line += 1
        line.number = self._next_line
        self.lines.add(line)
        if self.full:
            line.settle_reading()

    def receive(self, line: Line, body: bytes) -> None:
        """One frame body: decided and gathered for the book now, answered when the book has it."""
        try:
            heard = self.speech.read(body)
        except Undecodable as error:
            self.known.received["undecodable"] += 1
            self.book.record_undecodable(line.number, str(error), len(body))
            return
        message = heard.message
        fault = self.faults.take(message) if self.faults.ordered and answerable(message) else None
        if fault is not None and (fault.action == "half_open" or fault.value == "before"):
            self._break(line, fault)
            if fault.value == "before":
                return
        self.known.received[message[0]] += 1
        token = self.book.token(message)
        if not answerable(message):
            if self.keys is not None and message.get(70) == CODE_KEY_CHANGE:
                self.keys.settled(message.get(39) in ACCEPTED)
            self.book.record(line.number, message, token, None, "", lambda: None)
            return
        chip, ordered = self._verified(message), str(fault.value) if fault is not None and fault.action == "code" else heard.refusal
        decision = decide(message, self.known, token=token, serial=self.book.seq + 1,
                          forced=ordered or (self.issuer.refusal if self.issuer is not None and isinstance(chip, str) else ""),
                          refused=self.keys.fault(heard.wire, body) if self.keys is not None else "",
                          signed_on=line.signed_on or not self.require_sign_on)
        if isinstance(chip, str) and decision.reason == "fault" and not ordered:
            decision = decision._replace(reason=chip)
        self.known.apply(decision)
        if message.get(70) in (CODE_SIGN_ON, CODE_SIGN_OFF) and decision.code == "00":
            line.signed_on = message[70] == CODE_SIGN_ON
        self._count_owed(1)
        self.book.record(line.number, message, token, decision, fault.action if fault is not None else "",
                         partial(self._answer, line, heard, decision, fault, chip))

    def _verified(self, message: Message) -> Chip | str | None:
        """None: there is no cryptogram, or nobody who could tell."""
        asked = self.issuer is not None and 55 in message and message[0][1:3] in ASKED_OF_ISSUERS
        return self.issuer.verified(message) if self.issuer is not None and asked else None

    def _answer(self, line: Line, heard: Heard, decision: Decision, fault: Fault | None, chip: Chip | str | None) -> None:
        """The book has it: the answer, or what a fault makes of it."""
        reply, speech = answer(heard.message, decision), self.speech
        if self.issuer is not None and isinstance(chip, Chip):
            said = {fault.action: str(fault.value)} if fault is not None else {}
            reply = self.issuer.answered(reply, decision, chip, said.get("arpc", ""), said.get("script", ""))
        wait = self.delay
        if fault is None or fault.action in KEYED or fault.action in OF_CHIPS:
            framed = speech.frame(self._said(reply, heard, decision, fault))
        elif fault.action in ("silence", "cut", "half_open"):
            self._count_owed(-1)
            if fault.action == "cut":
                if fault.value == "middle":
                    whole = speech.frame(self._said(reply, heard, decision))
                    line.post(whole[:len(whole) // 2])
                self._break(line, fault)
            return
        elif fault.action == "garbage":
            framed = garbage(fault, len(self._said(reply, heard, decision)))
            framed = framed if fault.value == "frame" else speech.frame(framed[2:])
        else:
            spoilt = partial(corrupted, value=str(fault.value)) if fault.action == "wrong" else plainly
            framed = speech.frame(self._said(reply, heard, decision, spoilt=spoilt))
            framed *= 2 if fault.action == "duplicate" else 1
            wait += float(fault.value or 0) if fault.action in ("delay", "late") else 0.0
        if self.capacity is not None:
            self._next_slot = max(self._next_slot, self.loop.time()) + 1 / self.capacity
            wait += self._next_slot - self.loop.time()
        if wait > 0:
            self.loop.call_later(wait, self._send, line, framed)
        else:
            self._send(line, framed)

    def _said(self, reply: Message, heard: Heard, decision: Decision, fault: Fault | None = None,
              spoilt: Callable[[Message], Message] = plainly) -> bytes:
        """The answer as it goes out, with keys for a sign-in and its MAC where this host has keys."""
        if self.keys is None:
            return self.speech.write(reply, heard, spoilt)
        how = str(fault.value) if fault is not None and fault.action in KEYED else ""
        if heard.message.get(70) == CODE_SIGN_ON and decision.code == "00" and (keys := self.keys.issue(how)):
            reply = reply | {62: keys}
        return self.keys.sealed(self.speech.write(reply, heard, spoilt), heard.wire[0], how)

    def _break(self, line: Line, fault: Fault) -> None:
        line.flush()
        if fault.action == "cut":
            line.transport.close()
        else:
            line.hung = True
            line.settle_reading()

    def _send(self, line: Line, framed: bytes) -> None:
        self._count_owed(-1)
        self.counts["answers"] += 1
        line.post(framed)

    def _count_owed(self, change: int) -> None:
        self._owed += change
        full = self._owed >= (OWED_ANSWERS_MAX // 2 if self.full else OWED_ANSWERS_MAX)
        if full != self.full:
            self.full = full
            for line in self.lines:
                line.settle_reading()

    def heal(self) -> None:
        """Half-open lines are read and answered again, starting with what waits in their sockets."""
        for line in list(self.lines):
            if line.hung:
                line.hung = False
                line.settle_reading()
                line.data_received(b"")

    def announce(self, code: str, settlement_date: str = "", how: str = "") -> int:
        """Sends an 0800 with DE70 = code on every line; returns the number of lines. DE15 is given for a cut-over; a key change has new keys
        where this host has some, `how` as in Keys.issue."""
        lines = [line for line in self.lines if not line.hung]
        keys = self.keys.offer(how) if self.keys is not None and code == CODE_KEY_CHANGE else ""
        for line in lines:
            self._trace = self._trace % 999_999 + 1
            message: Message = {0: "0800", 7: datetime.now(UTC).strftime("%m%d%H%M%S"), 11: f"{self._trace:06d}"}
            if settlement_date:
                message[15] = settlement_date
            if keys:
                message[62] = keys
            message[70] = code
            line.post(self.speech.frame(self.speech.write(message, None, plainly)))
            if code == CODE_SIGN_OFF:
                line.signed_on = False
        return len(lines)
