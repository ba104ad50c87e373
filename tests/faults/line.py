"""A proxy on an acquirer's line that knows where frames begin: it cuts, goes half open, refuses, delays, doubles and swaps frames."""

import asyncio
import random
import threading
from collections import Counter
from contextlib import suppress
from typing import NamedTuple

from acquirer_stubs.codec import BadLength, frame, split

HELD_S = 0.05  # how long a frame waits at most for one to be swapped with; far less than any reversal's grace


class Weather(NamedTuple):
    """Chances per frame, and the longest delay in seconds. A delayed frame delays those behind it, as on any TCP line."""

    doubled: float = 0.0
    swapped: float = 0.0
    delay_s: float = 0.0


CALM = Weather()


class Pipe:
    """One connection of the switch and ours to the host."""

    def __init__(self) -> None:
        self.dead = False  # half open: everything that comes is taken and thrown away
        self.writers: list[asyncio.StreamWriter] = []

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Line:
    """A proxy before one host, with a loop in a thread of its own; its verbs may be called from any thread."""

    def __init__(self, port: int, host_port: int, seed: int) -> None:
        self.port, self.host_port, self.draw = port, host_port, random.Random(seed)
        self.weather, self.refusing = CALM, False
        self.pipes: set[Pipe] = set()
        self.made: Counter[str] = Counter()  # what the weather did to frames
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result(10)

    async def _listen(self) -> None:
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    # the verbs

    def cut(self) -> None:
        self.loop.call_soon_threadsafe(self._cut, list(self.pipes))

    def half_open(self, seconds: float) -> None:
        """The connections that stand now carry nothing more, and end after `seconds`; new ones work."""
        def begin() -> None:
            dying = list(self.pipes)
            for pipe in dying:
                pipe.dead = True
            self.loop.call_later(seconds, self._cut, dying)

        self.loop.call_soon_threadsafe(begin)

    def refuse(self, seconds: float) -> None:
        """No line at all for a while."""
        def begin() -> None:
            self.refusing = True
            self._cut(list(self.pipes))
            self.loop.call_later(seconds, self._take)

        self.loop.call_soon_threadsafe(begin)

    def heal(self) -> None:
        self.weather = CALM
        self.loop.call_soon_threadsafe(self._take)
        self.loop.call_soon_threadsafe(lambda: self._cut([pipe for pipe in self.pipes if pipe.dead]))

    def end(self) -> None:
        async def close() -> None:
            self.server.close()
            self._cut(list(self.pipes))
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.05)

        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(close(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()

    # in the loop

    def _take(self) -> None:
        self.refusing = False

    def _cut(self, pipes: list[Pipe]) -> None:
        for pipe in pipes:
            pipe.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pipe = Pipe()
        pipe.writers.append(writer)
        self.pipes.add(pipe)
        try:
            if self.refusing:
                return
            host_reader, host_writer = await asyncio.open_connection("127.0.0.1", self.host_port)
            pipe.writers.append(host_writer)
            ends = [asyncio.ensure_future(self._carry(pipe, reader, host_writer)), asyncio.ensure_future(self._carry(pipe, host_reader, writer))]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            pipe.cut()
            self.pipes.discard(pipe)

    async def _carry(self, pipe: Pipe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rest, held = b"", list[bytes]()
        with suppress(OSError):
            while data := await reader.read(65536):
                try:
                    bodies, rest = split(rest + data)
                except BadLength:  # a host that speaks nonsense: it is not ours to mend
                    writer.write(rest + data)
                    rest = b""
                    continue
                for body in bodies:
                    if pipe.dead:
                        continue
                    await self._one(frame(body), writer, held)

    async def _one(self, framed: bytes, writer: asyncio.StreamWriter, held: list[bytes]) -> None:
        weather = self.weather
        if weather.delay_s:
            self.made["delayed"] += 1
            await asyncio.sleep(self.draw.random() * weather.delay_s)
        if not held and self.draw.random() < weather.swapped:
            self.made["swapped"] += 1
            held.append(framed)
            self.loop.call_later(HELD_S, self._release, writer, held)
            return
        twice = self.draw.random() < weather.doubled
        self.made["doubled"] += twice
        writer.write(framed * (1 + twice))
        self._release(writer, held)

    def _release(self, writer: asyncio.StreamWriter, held: list[bytes]) -> None:
        if held and not writer.transport.is_closing():
            writer.write(b"".join(held))
        held.clear()
