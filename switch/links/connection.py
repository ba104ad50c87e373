"""The only socket of a line: feeds the protocol, writes what it asks for, hands its events on. Works under asyncio and uvloop."""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from typing import cast

from messages.dialect import match_key
from switch import logs
from switch.clock import clock
from switch.failpoints import failpoint, failpoint_half, failpoint_written
from switch.links import Bounced, CutOver, EchoEnded, KeyChange, LineClosed, Reply, Settled, Silence, Unmatched
from switch.links.breaker import Breaker
from switch.links.protocol import LinkProtocol
from switch.links.tls import refusal

TICK = 0.025  # seconds: the resolution of every deadline on the line
WRITE_BUFFER_MAX = 65_536  # bytes in the transport, and again in the kernel, before new requests wait in the protocol
JOIN_MAX = 8_192  # bytes of frames that may wait for the end of a turn of the loop, so that a host that does not read is still felt
SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, WRITE_BUFFER_MAX),
)

# MTI classes that a breaker counts. A host that acknowledges the reversal of each sale it did not answer would be half well by its answers.
COUNTED = ("1", "2")

Outcome = Reply | Bounced | Silence
Record = Unmatched | CutOver | KeyChange


class LineConnection(asyncio.Protocol):
    """One connection of a line, over TLS or not. `closed` is done when the socket is; `on_change` is called when the protocol's phase changed;
    `refused` says why the host did not want our certificate.

    `may_write` is asked just before each write, since this process may have stood still between any two of its instructions.
    """

    def __init__(self, protocol: LinkProtocol, on_record: Callable[[Record], None], on_change: Callable[[], None],
                 may_write: Callable[[], bool], breaker: Breaker | None = None) -> None:
        self._may_write, self.breaker = may_write, breaker
        self.refused: str | None = None
        self._loop = asyncio.get_running_loop()
        self._protocol, self._on_record, self._on_change = protocol, on_record, on_change
        self._phase: str = protocol.phase
        self._ticker: asyncio.TimerHandle | None = None
        self._frames: list[bytes] = []
        self._unwritten: list[tuple[Mapping[str, str], float]] = []  # the requests in them, with their send_not_after
        self._joined = 0  # bytes of them
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def request(self, message: Mapping[str, str], answer: asyncio.Future[Outcome], send_not_after: float, deadline: float) -> Bounced | None:
        """Write the request, or queue it, or say why not. `answer` gets the outcome of one that was accepted."""
        if self._transport.is_closing():
            return Bounced("line_down")
        failpoint("send.before")
        taken = self._protocol.request(message, answer, self._loop.time(), clock.now(), send_not_after, deadline)
        if type(taken) is bytes:  # what one turn of the loop brings leaves in one system call
            if not self._frames:
                self._loop.call_soon(self._write_frames)
            self._frames.append(taken)
            self._unwritten.append((message, send_not_after))
            self._joined += len(taken)
            if self._joined >= JOIN_MAX:
                self._write_frames()
            return None
        if isinstance(taken, Bounced) and taken.reason == "not_encodable":
            logs.error("not_encodable", acquirer_id=self._protocol.acquirer_id, detail=self._protocol.last_error)
        return cast(Bounced | None, taken)

    def _write_frames(self) -> None:
        frames, unwritten = self._frames, self._unwritten
        self._frames, self._unwritten, self._joined = [], [], 0
        if not frames or self._transport.is_closing():  # all of them have just been settled as lost
            return
        now, leased = time.monotonic(), self._may_write()  # the loop's clock is as old as its turn
        if not leased or now > min(instant for _, instant in unwritten):
            late = [not leased or now > instant for _, instant in unwritten]
            for (message, _), withdrawn in zip(unwritten, late, strict=True):
                if withdrawn:
                    self._protocol.withdraw(message, "too_late" if leased else "lease_lost")
            frames = [payload for payload, withdrawn in zip(frames, late, strict=True) if not withdrawn]
            self._flush()
        if frames:
            failpoint_half("send.half", self._transport.write, frames)
            failpoint_written("send.after")

    def sign_on(self) -> None:
        self._protocol.sign_on(self._loop.time(), clock.now())
        self._flush()

    def answer_key_change(self, message: Mapping[str, str], code: str) -> None:
        self._protocol.answer_key_change(message, code)
        self._flush()

    def close(self, reason: str, *, orderly: bool = False) -> None:
        """Give the line up at once: what was written and not answered is unknown."""
        self._protocol.close(reason, orderly=orderly)
        self._flush()

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_MAX)
        sock = transport.get_extra_info("socket")
        for level, option, value in SOCKET_OPTIONS:
            sock.setsockopt(level, option, value)
        try:
            self._protocol.connected(self._loop.time(), clock.now())
        except Exception as error:
            self._fault(error)
        self._flush()
        self._ticker = self._loop.call_later(TICK, self._tick)

    def data_received(self, data: bytes) -> None:
        failpoint("resp.read")
        try:
            self._protocol.receive(data, self._loop.time(), clock.now())
        except Exception as error:
            self._fault(error)
        self._flush()

    def _fault(self, error: Exception) -> None:
        """A fault of our own over what a host said ends this line alone, and says so: what was sent on it is unknown, and it is made anew."""
        logs.error("line_fault", acquirer_id=self._protocol.acquirer_id, error=type(error).__name__, where=logs.place(error))
        self._protocol.last_error = reason = f"a fault of ours: {type(error).__name__}"
        self._protocol.close(reason)
        self._transport.abort()  # also where the protocol had not begun

    def eof_received(self) -> None:
        self.close("closed by the host")

    def connection_lost(self, exc: Exception | None) -> None:
        self.refused = refusal(exc)
        self.close(self.refused or ("closed" if exc is None else f"line lost: {type(exc).__name__}"))
        if self._ticker is not None:
            self._ticker.cancel()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        self._protocol.pause(self._loop.time())

    def resume_writing(self) -> None:
        self._protocol.resume()
        while self._may_write() and (payload := self._protocol.next_queued(time.monotonic(), clock.now())) is not None:
            self._transport.write(payload)
        self._flush()

    # the three verbs

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(TICK, self._tick)
        now, utc = self._loop.time(), clock.now()
        if self.breaker is not None and self.breaker.probe_due(now, utc):
            self._protocol.probe(now, utc)
        try:
            self._protocol.tick(now, utc)
        except Exception as error:
            self._fault(error)
        self._flush()

    def _flush(self) -> None:
        output = self._protocol.take_output()
        if output and self._may_write():
            self._transport.write(output)
        elif output:  # what must be said and may not be: another worker may speak for us already
            self._protocol.close("lease lost")
        for event in self._protocol.take_events():
            if type(event) is Settled:
                self._settle(event)
            elif type(event) is LineClosed:
                self._probed(False)
                self._transport.abort()
            elif type(event) is EchoEnded:
                self._probed(event.answered)
            else:
                self._on_record(cast(Record, event))
        if self._protocol.phase is not self._phase:
            self._phase = self._protocol.phase
            self._on_change()

    def _probed(self, answered: bool) -> None:
        if self.breaker is not None:
            self.breaker.probed(answered, self._loop.time(), clock.now())

    def _count(self, breaker: Breaker, result: Outcome) -> None:
        """What the host showed by this one. A lost line is no fault of this kind: it is down, and nobody sends over it."""
        if isinstance(result, Reply):
            breaker.said(result.message.get("39", "").strip(), result.sent_at, self._loop.time(), clock.now())
        elif isinstance(result, Silence) and result.reason == "timeout":
            breaker.timed_out(result.sent_at, self._loop.time(), clock.now())

    def _settle(self, event: Settled) -> None:
        if self.breaker is not None and event.match_key[:1] in COUNTED:
            self._count(self.breaker, event.result)
        waiter = cast("asyncio.Future[Outcome]", event.token)
        if not waiter.done():
            waiter.set_result(event.result)
        elif isinstance(event.result, Reply):  # whoever asked was cancelled: the answer is evidence all the same
            message, answered_at = event.result.message, event.result.answered_at
            key = match_key(self._protocol.dialect, message)
            self._on_record(Unmatched(self._protocol.acquirer_id, message, "late", None, key, event.raw_length, answered_at, event.result.sent_at))
