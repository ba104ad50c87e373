"""Kept connections to one HTTP host: a bounded number, one exchange at a time each, bounded in bytes; time is the caller's. A door to h11."""

import asyncio
import ssl
from collections.abc import Mapping

import h11

from switch.wallets.wire import BODY_MAX, HEAD_MAX, Call, Reply

CHUNK = 16 * 1024
IDLE_S = 20.0  # hosts close what rests; a request must not be what finds out


class NotHttp(Exception):
    """What came is no answer that can be taken: not HTTP, or too long. `size`: bytes of it."""

    def __init__(self, size: int) -> None:
        super().__init__("not HTTP, or too long")
        self.size = size


class Connection:
    """One connection. After an exchange that did not end whole it is of no further use."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.state = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_MAX)
        self.rested_at = asyncio.get_running_loop().time()

    def fresh(self, now: float) -> bool:
        return now - self.rested_at < IDLE_S and not self.reader.at_eof() and not self.writer.is_closing()

    def close(self) -> None:
        self.writer.transport.abort()  # no wait for a side that does not close

    def write(self, host: str, call: Call, headers: Mapping[str, str]) -> None:
        fixed = {"host": host, "user-agent": "payment-switch/1", "accept": "application/json", "content-length": str(len(call.body))}
        if call.body:
            fixed["content-type"] = "application/json"
        request = h11.Request(method=call.method, target=call.target, headers=list((fixed | dict(headers)).items()))
        parts = (self.state.send(request), self.state.send(h11.Data(data=call.body)), self.state.send(h11.EndOfMessage()))
        self.writer.write(b"".join(part for part in parts if part))

    async def read(self) -> Reply:
        """The whole answer. Raises NotHttp, OSError (EOF too)."""
        head: h11.Response | None = None
        body = bytearray()
        try:
            while True:
                event = self.state.next_event()
                if event is h11.NEED_DATA:
                    data = await self.reader.read(CHUNK)
                    if not data and head is None:
                        raise ConnectionResetError
                    self.state.receive_data(data)
                elif isinstance(event, h11.Response):
                    head = event
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > BODY_MAX:
                        raise NotHttp(len(body))
                elif isinstance(event, h11.EndOfMessage):
                    break
                elif not isinstance(event, h11.InformationalResponse):
                    raise ConnectionResetError
        except h11.RemoteProtocolError:
            raise NotHttp(len(body)) from None
        assert head is not None
        names = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in head.headers}
        return Reply(head.status_code, names, bytes(body))

    def rest(self) -> bool:
        """Ready for the next exchange; False: it must be closed."""
        if self.state.our_state is not h11.DONE or self.state.their_state is not h11.DONE:
            return False
        self.state.start_next_cycle()
        self.rested_at = asyncio.get_running_loop().time()
        return True


class Pool:
    """At most `most` connections to one host. `trust`: None is plain HTTP."""

    def __init__(self, host: str, port: int, most: int, trust: ssl.SSLContext | None) -> None:
        self.host, self.port, self.trust = host, port, trust
        self.places = asyncio.Semaphore(most)
        self.resting: list[Connection] = []
        self.used: set[Connection] = set()
        self.closed = False
        usual = 443 if trust else 80
        self.name = host if ":" not in host else f"[{host}]"
        self.header = self.name if port == usual else f"{self.name}:{port}"

    async def take(self) -> Connection:
        """A connection for one exchange, to be given back. Waits for a place. Raises OSError."""
        await self.places.acquire()
        try:
            connection = self._rested() or await self._connected()
        except BaseException:
            self.places.release()
            raise
        self.used.add(connection)
        return connection

    def give(self, connection: Connection, whole: bool) -> None:
        """Back. `whole`: its exchange has ended as it should."""
        self.used.discard(connection)
        self.places.release()
        if whole and not self.closed and connection.rest():
            self.resting.append(connection)
        else:
            connection.close()

    async def reach(self) -> None:
        """Connects, and keeps the connection for who comes next. Raises OSError."""
        connection = await self.take()
        self.used.discard(connection)
        self.places.release()
        self.resting.append(connection)

    def _rested(self) -> Connection | None:
        now = asyncio.get_running_loop().time()
        while self.resting:
            connection = self.resting.pop()
            if connection.fresh(now):
                return connection
            connection.close()
        return None

    async def _connected(self) -> Connection:
        if self.closed:
            raise ConnectionAbortedError
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=HEAD_MAX, ssl=self.trust,
                                                       server_hostname=self.host if self.trust else None)
        return Connection(reader, writer)

    def close(self) -> None:
        self.closed = True
        for connection in (*self.resting, *self.used):
            connection.close()
        self.resting.clear()
