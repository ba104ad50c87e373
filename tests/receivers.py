"""A merchant's endpoint as the tests play it: real HTTP, answered as told, and what came is kept."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Play = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Got(NamedTuple):
    line: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


def says(status: int, body: bytes = b"", **headers: str) -> Play:
    """An answer; header names with _ for -."""
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]

    async def play(writer: asyncio.StreamWriter) -> None:
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return play


def writes(raw: bytes, pause_s: float = 0.0, times: int = 1) -> Play:
    """Bytes as they are, again and again after a pause."""
    async def play(writer: asyncio.StreamWriter) -> None:
        for _ in range(times):
            writer.write(raw)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return play


async def hangs(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(600)


@dataclass(slots=True)
class Receiver:
    """`script`: what the next ones get; then `usual`."""

    port: int = 0
    usual: Play = field(default_factory=lambda: says(200))
    script: list[Play] = field(default_factory=list)
    got: list[Got] = field(default_factory=list)
    open: int = 0
    open_most: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks?of=shop"

    def ids(self) -> list[str]:
        return [got.headers["webhook-id"] for got in self.got]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.open_most = max(self.open, self.open_most)
        try:
            with suppress(OSError, EOFError):
                line, *head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in head if each)}
                self.got.append(Got(line, headers, await reader.readexactly(int(headers["content-length"]))))
                await (self.script.pop(0) if self.script else self.usual)(writer)
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def receiver(usual: Play | None = None, trust: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    found = Receiver()
    if usual is not None:
        found.usual = usual
    tasks: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(task := asyncio.ensure_future(found.answer(reader, writer)))
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=trust)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
