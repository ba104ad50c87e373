"""A TCP proxy between asyncpg and PostgreSQL that knows where messages begin, and cuts at a chosen one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

Frame = tuple[bytes, bytes]  # type, body
Match = Callable[[bytes, bytes], bool]


def bind(kind: bytes, body: bytes) -> bool:
    """A prepared statement is about to run."""
    return kind == b"B"


def commit(kind: bytes, body: bytes) -> bool:
    return kind == b"Q" and body.startswith(b"COMMIT")


class Proxy:
    """One cut at a time: `arm(when, match)`, with `fired` set when it happened.

    when: "before": the matching message never reaches the server; "after": the server has answered it, the answer is thrown away;
    "hold": the same, but the line stays open and silent; "orphan": the client is cut off, the server never learns of it.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port, self.upstream = parts.hostname, parts.port, url
        self.when, self.match, self.fired = "", bind, asyncio.Event()
        self.refusing, self.accept_after_s = False, 0.0
        self.open: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The proxied URL. Without TLS, so that the messages can be told apart."""
        return self.upstream.replace(f"{self.host}:{self.port}", f"127.0.0.1:{self.listening}") + "?sslmode=disable"

    def arm(self, when: str, match: Match = bind) -> None:
        self.when, self.match = when, match
        self.fired.clear()

    def cut_all(self) -> None:
        for writer in list(self.open):
            writer.transport.abort()

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.listening = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self.server.close()
        self.cut_all()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.open.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if not self.refusing:
                await asyncio.sleep(self.accept_after_s)
                await self._between(reader, writer)
        writer.transport.abort()
        self.open.discard(writer)
        self.tasks.discard(task)

    async def _between(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(self.host, self.port)
        self.open.add(server_writer)
        line = _Line(self, writer, server_writer)
        try:
            length = await reader.readexactly(4)
            server_writer.write(length + await reader.readexactly(int.from_bytes(length, "big") - 4))
            ends = [asyncio.ensure_future(line.from_client(reader)), asyncio.ensure_future(line.from_server(server_reader))]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        finally:
            server_writer.transport.abort()
            self.open.discard(server_writer)


class _Line:
    """One connection's two directions."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.proxy, self.client, self.server = proxy, client, server
        self.when = ""  # not empty once this line was chosen

    async def from_client(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            async for kind, body in frames(reader):
                if not self.when and self.proxy.when and self.proxy.match(kind, body):
                    self.when, self.proxy.when = self.proxy.when, ""
                    if self.when == "before":
                        self.proxy.fired.set()
                        return
                self.server.write(pack(kind, body))
                if self.when == "orphan" and kind == b"S":
                    self.client.transport.abort()
                    self.proxy.fired.set()
        if self.when == "orphan":
            await asyncio.Event().wait()  # the server's side stays open

    async def from_server(self, reader: asyncio.StreamReader) -> None:
        async for kind, body in frames(reader):
            if not self.when:
                self.client.write(pack(kind, body))
            elif kind == b"Z" and self.when in ("after", "hold"):
                self.proxy.fired.set()
                if self.when == "after":
                    return
                await asyncio.Event().wait()


async def frames(reader: asyncio.StreamReader) -> AsyncIterator[Frame]:
    while True:
        head = await reader.readexactly(5)
        yield head[:1], await reader.readexactly(int.from_bytes(head[1:], "big") - 4)


def pack(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body
