"""The straight way of the hot route: whole requests without ASGI, answered in one write. Written against the internals of uvicorn 0.54."""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

WHOLE_ANSWER = "switch.whole_answer"


class _Unheard:
    """The event of a cycle that nobody waits for."""

    def set(self) -> None:
        """Nobody is told."""

    def clear(self) -> None:
        """Nobody is told."""


class StraightCycle(RequestResponseCycle):
    """A request of the straight way and its answer. What ASGI needs beside it is made only when it turns out not to come whole."""

    message_event: Any = _Unheard()
    disconnected = waiting_for_100_continue = response_started = response_complete = False
    more_body, chunked_encoding, expected_content_length = True, None, 0
    _scope: dict[str, Any] | None = None

    def __init__(self, protocol: HttpToolsProtocol) -> None:
        self.protocol, self.url, self.headers, self.body = protocol, protocol.url, protocol.headers, bytearray()
        self.transport, self.flow, self.default_headers = protocol.transport, protocol.flow, protocol.server_state.default_headers
        self.keep_alive, self.on_response = protocol.parser.should_keep_alive(), protocol.on_response_complete

    def __getattr__(self, name: str) -> Any:
        """The loggers, which the usual way alone asks for."""
        if name not in ("logger", "access_logger", "access_log"):
            raise AttributeError(name)
        return getattr(self.protocol, name)

    @property
    def scope(self) -> Any:  # type: ignore[override]
        if self._scope is None:
            of = self.protocol
            self._scope = {
                "type": "http", "asgi": {"version": of.asgi_version, "spec_version": "2.3"}, "http_version": "1.1", "server": of.server,
                "client": of.client, "scheme": of.scheme, "root_path": "", "headers": self.headers, "state": of.app_state.copy(),
                "method": "POST", "path": self.url.decode(), "raw_path": self.url, "query_string": b""}
        return self._scope

    def usual(self) -> None:
        """It goes on through ASGI, where somebody waits for the rest."""
        self.message_event = asyncio.Event()
        self.message_event.set()


class WholeAnswer:
    """An answer that can be given in one write, and what became of it."""

    __slots__ = ("cycle", "gone")
    _heads: ClassVar[tuple[object, object, int, bytes]] = (None, None, 0, b"")  # of the last answer: headers of the server and ours, status, bytes

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self.cycle, self.gone = cycle, False

    def write(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """Head and body in one write: one system call less per answer than two ASGI messages. `headers` are ours, without a length.

        False, with nothing done, when the client is slow or gone: then the usual way waits or gives up.
        """
        cycle = self.cycle
        if type(cycle) is not StraightCycle:
            cycle.scope.pop("extensions", None)  # it holds us: a ring per request would wait for the collector, which then stops us for 30 ms
        if cycle.flow.write_paused or cycle.disconnected or cycle.response_started or not cycle.keep_alive or cycle.transport.is_closing():
            self.gone = cycle.disconnected or cycle.transport.is_closing()
            return False
        server, own, code, head = WholeAnswer._heads  # the server makes new ones each second, when the date has changed
        if server is not cycle.default_headers or own is not headers or code != status:
            head = STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)])
            WholeAnswer._heads = cycle.default_headers, headers, status, head
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        cycle.message_event.set()
        cycle.on_response()
        return True

    def lost(self) -> bool:
        """After the usual way: whether the client was gone before its answer was handed over. What the network then does with it nobody knows."""
        return self.gone or self.cycle.disconnected or not self.cycle.response_complete


class StraightWay(NamedTuple):
    """A route whose whole requests go straight to `start(headers, body, answer)`, which runs them in a task that nobody cancels.

    A request that does not come whole in one segment takes the usual way through ASGI.
    """

    path: str
    start: Callable[[list[tuple[bytes, bytes]], bytes, WholeAnswer], None]

    @property
    def url(self) -> bytes:
        return self.path.encode()
