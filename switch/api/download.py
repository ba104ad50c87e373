"""Downloads: what is streamed from the books, with a place, a deadline, and an end that shows when it was cut short."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from switch import logs
from switch.callers import Caller
from switch.database import UNKNOWN
from switch.errors import Problem
from switch.settlement.exports.files import Connect, reading

STREAMS, STREAMS_OF_ONE = 4, 2  # at once in this worker, and of one merchant
STREAM_S = 300.0  # from the first byte to the last
Opened = AbstractAsyncContextManager[AsyncIterator[bytes]]


class Places:
    """How many downloads run, and whose."""

    def __init__(self, limit: int = STREAMS, limit_of_one: int = STREAMS_OF_ONE) -> None:
        self.limit, self.limit_of_one = limit, limit_of_one
        self.taken: Counter[object] = Counter()

    @asynccontextmanager
    async def place(self, caller: Caller) -> AsyncIterator[None]:
        """Raises Problem overloaded: each holds a connection to the database, and those are few."""
        whose = caller.merchant_id or caller.key_id
        if self.taken.total() >= self.limit or self.taken[whose] >= self.limit_of_one:
            raise Problem("overloaded", "Other downloads are running; ask for a file (POST /v1/exports) or try again.", retry_after=5)
        self.taken[whose] += 1
        try:
            yield
        finally:
            self.taken[whose] -= 1
            self.taken += Counter()  # keeps those that hold a place


class Download(Response):
    """Sends pieces as fast as the client takes them, for `seconds` at most. A client that is gone or too slow is cut off: what it has then is
    no whole answer, and HTTP says so.
    """

    def __init__(self, opened: Opened, media_type: str, name: str, seconds: float = STREAM_S) -> None:
        super().__init__(media_type=media_type, headers={
            "cache-control": "no-store", "x-content-type-options": "nosniff", "content-disposition": f"attachment; filename*=UTF-8''{quote(name)}"})
        del self.headers["content-length"]
        self.opened, self.seconds = opened, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_gone(receive))
        pump = asyncio.ensure_future(self._pump(send))
        try:
            await asyncio.wait({gone, pump}, timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED)
            if not pump.done():
                logs.warning("download_cut", reason="gone" if gone.done() else "slow")
        finally:
            for task in (gone, pump):
                task.cancel()
            await asyncio.gather(gone, pump, return_exceptions=True)
        if not pump.cancelled() and (error := pump.exception()) is not None:
            raise error
        if pump.cancelled() and not gone.done():
            raise TimeoutError  # half an answer is out: the server closes the connection

    async def _pump(self, send: Send) -> None:
        started = False
        async with self.opened as pieces:
            async for piece in pieces:
                if not started:  # a refusal, or a database that is away, is still an answer of its own before this
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    started = True
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        # The end comes last of all: with it the client counts as gone, and what is still to be closed would be cut short.
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def attachment(body: bytes, media_type: str, name: str, how: str = "attachment") -> Response:
    return Response(body, media_type=media_type, headers={
        "cache-control": "no-store", "x-content-type-options": "nosniff", "content-disposition": f"{how}; filename*=UTF-8''{quote(name)}"})


@asynccontextmanager
async def books(connect: Connect) -> AsyncIterator[Any]:
    """A connection for one answer. Raises Problem not_ready when the database is not there."""
    try:
        async with reading(connect) as connection:
            yield connection
    except UNKNOWN:
        raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None
