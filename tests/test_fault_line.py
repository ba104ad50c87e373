"""The proxy of the fault runs: frames stay whole whatever it does to them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from acquirer_stubs.codec import frame, split
from tests.faults.line import Line, Weather
from tests.faults.stage import free_port

BODIES = [b"%04d" % number + b"x" * (number % 50) for number in range(200)]


@asynccontextmanager
async def through() -> AsyncIterator[tuple[Line, asyncio.StreamReader, asyncio.StreamWriter, list[bytes]]]:
    """A proxy before a host that keeps what it gets and answers with the same."""
    got: list[bytes] = []

    async def host(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rest = b""
        while data := await reader.read(65536):
            bodies, rest = split(rest + data)
            got.extend(bodies)
            writer.write(b"".join(map(frame, bodies)))
        writer.close()

    port = free_port()
    server = await asyncio.start_server(host, "127.0.0.1", port)
    line = await asyncio.to_thread(Line, free_port(), port, 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
    try:
        async with asyncio.timeout(10):  # connected is not yet accepted
            while not any(len(pipe.writers) == 2 for pipe in line.pipes):
                await asyncio.sleep(0.01)
        yield line, reader, writer, got
    finally:
        writer.close()
        await asyncio.to_thread(line.end)
        server.close()


async def answers(reader: asyncio.StreamReader, seconds: float = 0.6) -> list[bytes]:
    found, rest = list[bytes](), b""
    while True:
        try:
            data = await asyncio.wait_for(reader.read(65536), seconds)
        except TimeoutError:
            return found
        if not data:
            return found
        bodies, rest = split(rest + data)
        found += bodies


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the connection ends, and nothing came over it."""
    try:
        return await asyncio.wait_for(reader.read(), 10) == b""
    except ConnectionResetError:
        return True


async def test_in_calm_weather_everything_passes_in_order() -> None:
    async with through() as (_, reader, writer, got):
        writer.write(b"".join(map(frame, BODIES)))
        assert await answers(reader) == got == BODIES


async def test_bad_weather_doubles_and_swaps_whole_frames_and_loses_none() -> None:
    async with through() as (line, reader, writer, got):
        line.weather = Weather(doubled=0.3, swapped=0.3, delay_s=0.001)
        writer.write(b"".join(map(frame, BODIES)))
        heard = await answers(reader)
        assert set(got) == set(heard) == set(BODIES) and len(got) > len(BODIES)
        assert got != sorted(got) and min(line.made[kind] for kind in ("doubled", "swapped", "delayed")) > 10


async def test_a_half_open_line_takes_everything_and_gives_nothing_until_it_ends() -> None:
    async with through() as (line, reader, writer, got):
        line.half_open(0.5)
        await asyncio.sleep(0.1)
        writer.write(b"".join(map(frame, BODIES)))
        assert await ended(reader) and got == []
        reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
        writer.write(frame(b"0200"))
        assert await answers(reader) == [b"0200"]
        writer.close()


async def test_a_refused_line_is_cut_at_once_and_comes_back() -> None:
    async with through() as (line, reader, _writer, _):
        line.refuse(0.3)
        assert await ended(reader)
        again, other = await asyncio.open_connection("127.0.0.1", line.port)
        assert await ended(again)
        other.close()
        await asyncio.sleep(0.5)
        again, other = await asyncio.open_connection("127.0.0.1", line.port)
        other.write(frame(b"0200"))
        assert await answers(again) == [b"0200"]
        other.close()
