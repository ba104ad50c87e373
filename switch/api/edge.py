"""The HTTP edge: uvicorn's httptools protocol with limits on time, bytes and connections, of which uvicorn has none.

What is refused here never reaches the application, or reaches it as a disconnect. Written against the internals of uvicorn 0.54.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from switch import logs, metrics
from switch.api import problems
from switch.api.straight import WHOLE_ANSWER, StraightCycle, StraightWay, WholeAnswer
from switch.errors import PROBLEMS, Problem


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """What one process grants its HTTP clients."""

    request_seconds: float = 10.0  # from the connection, or from the first byte after an answer, to the last byte of the body
    write_seconds: float = 30.0  # for a client to take what waits for it
    linger_seconds: float = 1.0  # for a refused client to read why, while what it still sends is thrown away
    linger_bytes: int = 4 << 20
    head_bytes: int = 32 * 1024  # request line and headers
    headers: int = 100
    body_bytes: int = 64 * 1024
    large_body_bytes: int = 4 << 20  # of what LARGER reads whole
    upload_bytes: int = 2 << 30  # of what LARGER reads as it comes
    upload_step: int = 64 * 1024  # of it, in `request_seconds`: slower is too slow
    pipelined: int = 16  # requests waiting behind the one at work, per connection
    connections: int = 2000
    retry_after_seconds: int = 2


BETWEEN, HEAD, BODY = range(3)  # where in a request the parser is; an enum would cost a microsecond per request


# POSTs that take more than `body_bytes`, and whether they are read as they come.
LARGER: Mapping[str, bool] = MappingProxyType({
    "/v1/fees/estimates": False, "/v1/clearing-files": True, "/v1/dispute-notices": True, "/v1/payouts/answers": True,
    "/v1/imports": True,
    "/v1/disputes/{dispute}/evidence": True, "/v1/applications/{application}/documents/{document}/file": True,
    "/v1/contracts/{contract}/signature": True,
    "/v1/authorizations/{authorization}/signature": True,
    "/v1/licences/{document}/file": True,
})
_LARGER = [(re.compile(re.sub(r"{\w+}", "[0-9a-z_-]{1,64}", path).encode()), comes) for path, comes in LARGER.items()]


def _larger(path: bytes) -> bool | None:
    return next((comes for pattern, comes in _LARGER if pattern.fullmatch(path)), None)


class _Refused(Exception):
    """Stops the parser from within a callback."""


# A second one of these is a second opinion about where the request ends, who sends it or which one it is.
_ONCE = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect", b"content-type", b"authorization", b"idempotency-key"})


def edge_protocol(limits: EdgeLimits, straight: StraightWay | None = None) -> type["EdgeProtocol"]:
    """The class to give to uvicorn as `http=`, with these limits."""
    return type("EdgeProtocol", (EdgeProtocol,), {"limits": limits, "straight": straight})


class EdgeProtocol(HttpToolsProtocol):
    """One connection. Its hot callbacks name their base outright: `super()` in each would cost half a microsecond per request."""

    limits: ClassVar[EdgeLimits] = EdgeLimits()
    straight: ClassVar[StraightWay | None] = None

    _part = BETWEEN
    _over = False  # a request was refused: what still comes is thrown away
    _lingering = False  # the refusal is written and our side is shut
    _refusal = "request_malformed"  # the problem's code if the parser stops
    _read_by = 0.0  # loop time by which the request must be whole; 0: the client owes no bytes
    _write_by = 0.0  # loop time by which the client must have read; 0: it is not late
    _idle_by = 0.0  # loop time by which the next request must begin; 0: none is awaited
    _timer: asyncio.TimerHandle | None = None
    _timer_at = 0.0
    _segment = 0  # bytes of the segment at hand
    _first = True  # no byte of an earlier request is in the segment at hand
    _head = 0  # bytes of this head in earlier segments
    _once: dict[bytes, bytes]  # what this head says in the headers of _ONCE
    _body = 0  # bytes of body so far, without chunk framing
    _body_max = 0
    _uploading = False
    _step = 0  # bytes of body at which the clock of an upload starts anew
    _last = False  # the request at hand is an upload, and the client wants no other
    _discarded = 0
    _partial: RequestResponseCycle | None = None  # a request for the straight way that is not whole yet

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.limits.connections:
            self.transport, self._over = transport, True
            transport.write(self._problem("too_many_connections", f"retry-after: {self.limits.retry_after_seconds}\r\n"))
            self._close()
            return
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._over:
            self._discard(len(data))
            return
        self._idle_by = 0.0
        self._segment, self._first = len(data), self._part == BETWEEN
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._partial = None
            self._refuse(self._refusal)
            return
        if self._partial is not None:
            self._start_asgi_task(self._partial, self.app)
        cycle = self.cycle
        if self._part == BETWEEN and cycle is not None and (not cycle.response_complete or self._idle_by):
            self._read_by = 0.0  # whole and at work: the usual way out
            return
        if self._part == HEAD:
            self._head += self._segment
            if self._head > self.limits.head_bytes:
                self._refuse("headers_too_large")
                return
        self._await_request()

    # The parser's callbacks

    def on_message_begin(self) -> None:
        # How much of a segment belongs to a head behind another request is not known: it counts as none, the next ones in full.
        self._head = 0 if self._first else -self._segment
        self._first, self._part, self._body, self._once = False, HEAD, 0, {}
        self.url, self.headers, self.expect_100_continue = b"", [], False  # the scope is made when it is known to be asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._part == BODY:
            return  # a trailer: dropped, so that it neither fills memory nor passes for a header
        name = name.lower()
        if name in _ONCE:
            if name in self._once:
                raise _Refused
            self._once[name] = value
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        limits, once = self.limits, self._once
        if len(self.headers) > limits.headers:
            self._stop("headers_too_large")
        if (self._segment > limits.head_bytes or self._head + self._segment > limits.head_bytes) and self._head_size() > limits.head_bytes:
            self._stop("headers_too_large")
        # The parser has refused a Content-Length that is not a number or stands beside Transfer-Encoding (RFC 9112, 6.3).
        self._uploading, self._body_max = False, limits.body_bytes
        if b"content-length" not in once or int(once[b"content-length"]) > limits.body_bytes:
            comes = _larger(self.url.partition(b"?")[0]) if self.parser.get_method() == b"POST" else None
            self._uploading, self._step = comes is True, limits.upload_step
            if comes is not None:
                self._body_max = limits.upload_bytes if comes else limits.large_body_bytes
            if int(once.get(b"content-length", b"0")) > self._body_max:
                self._stop("body_too_large")
        if b"host" not in once and self.parser.get_http_version() != "1.0":
            self._stop("request_malformed")
        if b"transfer-encoding" in once and (once[b"transfer-encoding"].lower() != b"chunked" or self.parser.get_http_version() != "1.1"):
            self._stop("request_malformed")
        if self.parser.should_upgrade() or len(self.pipeline) >= limits.pipelined:
            self._stop("request_malformed")
        self.expect_100_continue = b"expect" in once and once[b"expect"].lower() == b"100-continue"
        if self._straight():
            self.cycle = self._partial = StraightCycle(self)
            self._part = BODY
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        HttpToolsProtocol.on_headers_complete(self)
        self._part = BODY
        if self._uploading and not self.cycle.keep_alive:
            self.cycle.keep_alive, self._last = True, True  # we close when it is answered: the cycle would not wait for the rest of the body
        if self._partial is None:
            self.scope["extensions"] = {WHOLE_ANSWER: WholeAnswer(self.cycle)}  # type: ignore[dict-item]

    def _straight(self) -> bool:
        """Whether this head is the plainest one of the straight way, and nothing is before it."""
        way, before = self.straight, self.cycle
        return (way is not None and self.url == way.url and self.parser.get_method() == b"POST" and self.parser.get_http_version() == "1.1"
                and not self.expect_100_continue and not self.root_path and self.limit_concurrency is None
                and (before is None or before.response_complete))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Its turn has come. StraightWay: without the task, the events and the messages of ASGI, a twentieth of what an authorization costs."""
        way = self.straight
        if way is not None and (type(cycle) is StraightCycle or (cycle.scope["path"] == way.path and cycle.scope["method"] == "POST")):
            if cycle.more_body and self._partial is None and cycle is self.cycle and self._part == HEAD:
                self._partial = cycle  # whole with this segment, or else the usual way
                return
            self._partial = None
            if not cycle.more_body:
                way.start(self._headers_of(cycle), bytes(cycle.body), WholeAnswer(cycle))
                return
            if type(cycle) is StraightCycle:
                cycle.usual()
            cycle.scope["extensions"] = {WHOLE_ANSWER: WholeAnswer(cycle)}  # type: ignore[dict-item]
        HttpToolsProtocol._start_asgi_task(self, cycle, app)

    @staticmethod
    def _headers_of(cycle: RequestResponseCycle) -> list[tuple[bytes, bytes]]:
        return cycle.headers if type(cycle) is StraightCycle else cycle.scope["headers"]  # type: ignore[return-value]

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        if self._body > self._body_max:
            self._stop("body_too_large")
        if self._uploading and self._body >= self._step:
            self._step, self._read_by = self._body + self.limits.upload_step, 0.0
        if self._partial is not None and type(self._partial) is StraightCycle:
            self._partial.body += body
        else:
            HttpToolsProtocol.on_body(self, body)

    def on_message_complete(self) -> None:
        self._part = BETWEEN
        if self.cycle.response_complete:  # answered before its end: the time between requests starts here
            self._rest()
        HttpToolsProtocol.on_message_complete(self)
        if self._partial is not None:
            self._start_asgi_task(self._partial, self.app)

    def _stop(self, code: str) -> None:
        self._refusal = code
        raise _Refused

    # Refusals

    def _refuse(self, code: str) -> None:
        """Answers the request at hand, if it is its turn, and closes.

        Requests accepted before it keep their answers: a 400 in the place of one would say that a payment was not made.
        """
        self._over, self._read_by = True, 0.0
        cycle = self.cycle
        if self._part == BODY:
            if cycle.response_started:
                self._close()
                return
            cycle.disconnected = True
            cycle.message_event.set()  # the application, which may wait for the rest, is told that the client is gone
            if not self.pipeline:
                self._answer(code)
                return

            async def in_turn(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
                self._answer(code)

            self.pipeline[0] = (cycle, in_turn)
        elif cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
        elif cycle is not None and self._part == BETWEEN:
            self._close()
        else:
            self._answer(code)

    def _answer(self, code: str) -> None:
        waiting = self.transport.get_write_buffer_size()
        self.transport.write(self._problem(code))
        self._linger(waiting)

    def _linger(self, waiting: int) -> None:
        """To close with bytes unread resets the connection, and the client may lose the answer (RFC 9112, 9.6)."""
        if not self.transport.can_write_eof():
            self._close()
            return
        self._over, self._lingering, self._read_by = True, True, 0.0
        self.transport.write_eof()
        self._write_within(self.limits.write_seconds if waiting else self.limits.linger_seconds)

    def _problem(self, code: str, header: str = "") -> bytes:
        identity = problems.request_id()
        metrics.refusals.labels(code).inc()
        logs.info("edge_refused", code=code, request_id=identity)
        body = Problem(code).body(identity)
        always = b"".join(b"%b: %b\r\n" % pair for pair in self.server_state.default_headers)
        own = f"content-type: application/problem+json\r\ncontent-length: {len(body)}\r\n{header}connection: close\r\n\r\n"
        return STATUS_LINE[PROBLEMS[code].status] + always + own.encode() + body

    def _discard(self, count: int) -> None:
        self._discarded += count
        if self._lingering and self._discarded > self.limits.linger_bytes:
            self.transport.abort()

    # Time

    def _await_request(self) -> None:
        """Starts the clock for what the client owes. It does not start again while bytes trickle in, and rests while we do not read."""
        if self.flow.read_paused:
            self._read_by = 0.0
        elif not self._read_by:
            self._read_by = self.loop.time() + self.limits.request_seconds
            self._watch(self._read_by)

    def _write_within(self, seconds: float) -> None:
        self._write_by = self.loop.time() + seconds
        self._watch(self._write_by)

    def _rest(self) -> None:
        self._idle_by = self.loop.time() + self.timeout_keep_alive
        self._watch(self._idle_by)

    def _watch(self, at: float) -> None:
        """One timer per connection, moved only forward: a request that comes whole costs none."""
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer, self._timer_at = self.loop.call_at(at, self._on_time), at

    def _on_time(self) -> None:
        self._timer = None
        now = self.loop.time()
        if self._write_by and now >= self._write_by:
            self.transport.abort()
            return
        if self._read_by and now >= self._read_by:
            self._refuse("request_timeout")
        if self._idle_by and now >= self._idle_by:
            self._idle_by = 0.0
            self._close()
        for at in (self._read_by, self._write_by, self._idle_by):
            if at:
                self._watch(at)

    def _close(self) -> None:
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._write_within(self.limits.write_seconds)  # close() alone waits for a slow reader for ever

    def on_response_complete(self) -> None:
        """As the base has it, but for a timer of its own for each answer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._close()
            return
        self.flow.resume_reading()
        if self._last:
            self._linger(self.transport.get_write_buffer_size()) if self._part == BODY else self._close()
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._rest()
        if self._part != BETWEEN and not self._over:
            self._await_request()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self._lingering and not self.transport.is_closing():
            self._write_within(self.limits.write_seconds)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self._lingering and not self.transport.is_closing():
            self._write_by = 0.0
