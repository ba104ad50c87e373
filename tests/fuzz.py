"""`python -m tests.fuzz --inputs N --seed S`: random and mutated bytes into everything that reads what others send.

An input is the seed, the reader's name and a number: `--only NAME --number N` gives one of them again. What a reader may do with any bytes is
said in its function here; the last line of output is one JSON object, and the exit code is 1 when anything was found.
"""

import argparse
import asyncio
import io
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from messages.codec import DecodeError, EncodeError, decode, encode, reference_decode
from messages.dialect import load
from messages.framing import Deframer, FramingError, frame
from messages.tlv import ELEMENTS_MAX, EMV_STORED, TlvError, keep, parse
from switch import logs
from switch.api import strict
from switch.api.edge import BETWEEN, EdgeLimits, EdgeProtocol, edge_protocol
from switch.errors import PROBLEMS
from switch.links import LinkSettings, Reply, Settled
from switch.links.exchange import ENDED_MAX
from switch.links.protocol import LinkProtocol

DIALECT = load("iso87_ascii")
AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
FOUND_MAX = 20
SLOW_S = 1.0  # no single input may take that long
SALE = {"0": "0200", "2": "4111111111111111", "3": "000000", "4": "000000001000", "7": "1125120000", "11": "000101", "12": "120000", "13": "1125",
        "14": "3012", "18": "5411", "22": "051", "25": "00", "37": "632900000101", "41": "TERM0001", "42": "MERCHANT0000001", "49": "156"}
ECHOED = ("3", "4", "7", "11", "37", "41", "42", "49")
TRACK, CHIP = "4111111111111111D30122011234", "9F2608A1B2C3D4E5F60718950500000080009A03261125E10A9F3501225F2A020156"
MESSAGES = [SALE, {**SALE, "35": TRACK, "52": "0123456789ABCDEF", "55": CHIP}, {**SALE, "0": "0420", "90": "0200000101112512000000000000000000000000000000"[:42]},
            {"0": "0800", "7": "1125120000", "11": "000777", "70": "301"}, {"0": "0800", "7": "1125120000", "11": "000778", "15": "1126", "70": "201"},
            {"0": "0810", "7": "1125120000", "11": "900001", "39": "00", "70": "301"}]
SEEDS = [encode(DIALECT, message) for message in MESSAGES]
TOKENS = [b"\0", b"\xff", b"\xff\xff\xff\xff", b"0", b"99", b"999", b"FFFFFFFFFFFFFFFF", b"8000000000000000", b"0000000000000000", b"0210", b" ", b"\r\n", "４".encode()]


def answer(request: dict[str, str], **changed: str) -> bytes:
    return encode(DIALECT, {"0": "0210", **{number: request[number] for number in ECHOED}, "38": "123456", "39": "00", **changed})


def noise(random: Random, most: int = 80) -> bytes:
    return random.randbytes(random.randrange(most))


def mutated(random: Random, data: bytes, tokens: list[bytes] = TOKENS) -> bytes:
    """The same bytes with one to four faults."""
    for _ in range(random.randrange(1, 5)):
        at = random.randrange(len(data) + 1)
        to = min(len(data), at + random.randrange(12))
        match random.randrange(6):
            case 0:
                data = data[:at] + bytes([random.randrange(256)]) + data[at + 1:]
            case 1:
                data = data[:at] + data[to:]
            case 2:
                data = data[:to] + data[at:]
            case 3:
                token = random.choice(tokens)
                data = data[:at] + token + data[at + (len(token) if random.random() < 0.5 else 0):]
            case 4:
                data = data[:at] + noise(random, 12) + data[at:]
            case _:
                data = data[:at]
    return data


def pieces(random: Random, data: bytes) -> list[bytes]:
    """The stream as the network may cut it."""
    cuts = sorted({random.randrange(len(data) + 1) for _ in range(random.randrange(5))})
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def cut(stream: bytes) -> tuple[list[bytes], bool]:
    """The payloads of a whole stream, and whether it breaks off at a length that may not be."""
    payloads, at = [], 0
    while len(stream) - at >= 2:
        length = int.from_bytes(stream[at:at + 2], "big")
        if not 1 <= length <= DIALECT.framing.max_length:
            return payloads, True
        if at + 2 + length > len(stream):
            break
        payloads.append(stream[at + 2:at + 2 + length])
        at += 2 + length
    return payloads, False


def framing(random: Random) -> None:
    """Whole payloads in order, or FramingError for good; never more than one frame in memory."""
    payloads = [noise(random) or b"x" for _ in range(random.randrange(1, 4))]
    stream = b"".join(frame(DIALECT.framing, payload) for payload in payloads)
    broken = random.random() < 0.7
    if broken:
        stream = mutated(random, stream)
    deframer, got, fault = Deframer(DIALECT.framing), [], False
    for piece in pieces(random, stream):
        try:
            found = deframer.feed(piece)
            assert not fault, "it reads on after a fault"
            got += found
        except FramingError as error:
            fault, got = True, got + list(error.frames)
        assert deframer.pending <= DIALECT.framing.max_length + 2
    assert broken or (got == payloads and not fault and deframer.pending == 0)
    assert (got, fault) == cut(stream)


def codec(random: Random) -> None:
    """A message or DecodeError, the same by both ways; what is a message is written and read back the same."""
    data = mutated(random, random.choice(SEEDS)) if random.random() < 0.9 else noise(random, 300)
    results: list[Any] = []
    for way in (decode, reference_decode):
        try:
            results.append(way(DIALECT, data))
        except DecodeError as error:
            results.append((error.field, error.position))
            assert "4111111111111111" not in str(error) + repr(error.decoded)
    assert results[0] == results[1], "the two ways disagree"
    if isinstance(results[0], dict):
        assert decode(DIALECT, encode(DIALECT, results[0])) == results[0]


def codec_out(random: Random) -> None:
    """Bytes or EncodeError for any texts in a message."""
    message = dict(random.choice(MESSAGES))
    for _ in range(random.randrange(1, 4)):
        number = random.choice([*message, str(random.randrange(140))])
        message[number] = random.choice([mutated(random, message.get(number, "12").encode("utf-8", "surrogatepass")).decode("latin-1"), "", "０１", "\ud800", "9" * random.randrange(1200)])
    try:
        data = encode(DIALECT, message)
    except EncodeError:
        return
    assert {number: value.upper() for number, value in decode(DIALECT, data).items()} == {number: value.upper() for number, value in message.items()}


def link(random: Random) -> None:
    """Never an exception; each request ends once; what is kept is bounded; the next sound answer is still taken, or the line is closed."""
    numbers = iter(f"{number:06d}" for number in range(900001, 999999))
    line = LinkProtocol("acquirer", DIALECT, LinkSettings("host", 1, window=8), next_stan=lambda: next(numbers), draw=lambda: 1.0)
    now, ended = 0.0, []

    def receive(data: bytes) -> None:
        line.receive(data, now, AT)
        ended.extend(event for event in line.take_events() if isinstance(event, Settled))
        assert len(line.take_output()) <= 200 * (len(data) // 20 + 2), "it answers more than it was asked"

    line.connected(now, AT)
    line.take_output()
    receive(frame(DIALECT.framing, encode(DIALECT, {**MESSAGES[5], "7": f"{AT:%m%d%H%M%S}", "70": "001"})))
    assert line.phase == "up"
    sales = [{**SALE, "11": f"{number:06d}", "37": f"6329{number:08d}"} for number in range(1, 5)]
    for sale in sales[:3]:
        assert isinstance(line.request(sale, sale["11"], now, AT, now + 2, now + 30), bytes)
    for _ in range(random.randrange(1, 8)):
        sound = random.choice([answer(random.choice(sales)), *SEEDS])
        match random.randrange(4):
            case 0:
                receive(frame(DIALECT.framing, sound))
            case 1 | 2:
                receive(frame(DIALECT.framing, mutated(random, sound) or b"x"))
            case _:
                for piece in pieces(random, mutated(random, frame(DIALECT.framing, sound)) if random.random() < 0.5 else noise(random)):
                    receive(piece)
        now += random.choice([0.0, 0.01, 3.0])
        line.tick(now, AT)
        ended.extend(event for event in line.take_events() if isinstance(event, Settled))
    assert line._deframer.pending <= DIALECT.framing.max_length + 2 and len(line._exchanges) <= ENDED_MAX + 8
    if line.phase == "up" and not line._deframer.pending:
        assert isinstance(line.request(sales[3] | {"11": "000099", "37": "632900000099"}, "last", now, AT, now + 2, now + 30), bytes)
        receive(frame(DIALECT.framing, answer(sales[3] | {"11": "000099", "37": "632900000099"})))
        assert [type(event.result) for event in ended if event.token == "last"] == [Reply], "a sound answer after noise is not taken"
    line.close("end")
    ended.extend(event for event in line.take_events() if isinstance(event, Settled))
    tokens = [event.token for event in ended]
    assert len(tokens) == len(set(tokens)) and {sale["11"] for sale in sales[:3]} <= set(tokens) and line.in_flight == 0


def tlv(random: Random) -> None:
    """Elements or TlvError; what is kept is read again and holds no tag outside the list."""
    kind = random.random()
    if kind < 0.6:
        text = mutated(random, bytes.fromhex(CHIP), [b"\x80", b"\x81\x80", b"\x82\xff\xff", b"\x1f\xff", b"\xe1", b"\0"]).hex()
    else:
        text = noise(random).hex() if kind < 0.9 else mutated(random, CHIP.encode()).decode("latin-1")
    try:
        found, kept = parse(text), keep(text, EMV_STORED)
    except TlvError as error:
        assert str(error) == "" or len(str(error)) < 60
        return
    again = parse(kept)
    assert len(found) <= ELEMENTS_MAX and {tag for tag, _ in again} <= EMV_STORED and len(kept) <= len(text)
    assert [tag for tag, _ in found if tag in EMV_STORED] == [tag for tag, _ in again] and keep(kept, EMV_STORED) == kept


JSON_TOKENS = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\u0000", b"\\ud800", b"1e9", b"-0", b"NaN", b"Infinity", b"9" * 400, b"\xef\xbb\xbf", b"\xff", b"[" * 40, b'"amount": 1,', b"\\", b"\0"]
BODY = b'{"type": "purchase", "amount": 2500, "currency": "CNY", "card": {"entry_mode": "chip", "pan": "4111111111111111", "x": [1, null, true, "\\u00e9"]}}'


def body(random: Random) -> None:
    """A value that every reader reads alike, or StrictError with a code of ours and nothing of the body."""
    data = mutated(random, BODY, JSON_TOKENS) if random.random() < 0.9 else noise(random)
    try:
        value = strict.parse(data)
    except strict.StrictError as error:
        assert error.code in PROBLEMS and error.__context__ is None and "4111111111111111" not in error.detail
        return
    assert value == json.loads(data)


async def application(scope: Any, receive: Any, send: Any) -> None:
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(str(size)))]})
    await send({"type": "http.response.body", "body": str(size).encode()})


class Wire(asyncio.Transport):
    """What the protocol thinks is a socket."""

    def __init__(self, protocol: EdgeProtocol) -> None:
        super().__init__()
        self.protocol, self.written, self.closed = protocol, bytearray(), False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


LIMITS = EdgeLimits(head_bytes=600, headers=12, body_bytes=300, pipelined=3)
POST = b"POST /v1/authorizations HTTP/1.1\r\nHost: switch\r\nContent-Type: application/json\r\nIdempotency-Key: 0123456789abcdef\r\n"
REQUESTS = [POST + b"Content-Length: 11\r\n\r\n{\"a\": true}", POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n2\r\n1}\r\n0\r\n\r\n",
            b"GET /healthz?x=%00 HTTP/1.1\r\nHost: switch\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n", POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"]
HTTP_TOKENS = [b"\r\n", b"\n", b"\r", b": ", b"\0", b"\xff", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Content-Length: 99999999999999999999\r\n",
               b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Host: x\r\n", b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"HTTP/9.9", b"0\r\n\r\n",
               b"FFFFFFFFFFFFFFFFF\r\n", b" ", b"%", b"//", b"http://[::", b"X: " + b"y" * 700 + b"\r\n", b"z" * 400, b"Connection: close\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]


class Edge:
    """One loop and one configuration for all inputs of the HTTP edge."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        config = uvicorn.Config(application, http=edge_protocol(LIMITS), ws="none", lifespan="off", interface="asgi3", log_config=None)
        config.load()
        self.config, self.failures = config, []
        self.loop.set_exception_handler(lambda loop, context: self.failures.append(context))

    def __call__(self, random: Random) -> None:
        """Never an exception, never a 5xx; nothing grows past its limit; a sound request behind it is answered, or the connection ends."""
        self.loop.run_until_complete(self.one(random))

    async def one(self, random: Random) -> None:
        state = ServerState()
        protocol = self.config.http_protocol_class(config=self.config, server_state=state, app_state={}, _loop=self.loop)
        wire = Wire(protocol)
        protocol.connection_made(wire)
        sound = [random.choice(REQUESTS) for _ in range(random.randrange(1, 4))]
        stream = b"".join(mutated(random, request, HTTP_TOKENS) if random.random() < 0.6 else request for request in sound)
        if random.random() < 0.1:
            stream = noise(random, 1500)
        for piece in pieces(random, stream):
            if not wire.closed:
                protocol.data_received(piece)
            if random.random() < 0.5:
                await asyncio.sleep(0)
            assert len(protocol.pipeline) <= LIMITS.pipelined
        await self.settle(state)
        ended = wire.closed or protocol._over
        if not ended and protocol._part == BETWEEN:
            before = len(wire.written)
            protocol.data_received(b"GET /last HTTP/1.1\r\nHost: switch\r\n\r\n")
            await self.settle(state)
            # Bytes of an unfinished request line may stand before it: then it is refused, and that ends the connection too.
            assert len(wire.written) > before or wire.closed or protocol._over or protocol._part != BETWEEN, "a sound request gets no answer"
        answers = bytes(wire.written)
        assert not answers or answers.startswith(b"HTTP/1.1 "), answers[:40]
        assert b"HTTP/1.1 5" not in answers and b"Idempotency" not in answers, answers
        protocol.connection_lost(None)
        if protocol.timeout_keep_alive_task is not None:
            protocol.timeout_keep_alive_task.cancel()
        await self.settle(state)
        assert not state.tasks and not self.failures, self.failures

    async def settle(self, state: ServerState) -> None:
        """Until what the input started has ended or waits for more bytes."""
        for _ in range(12):
            await asyncio.sleep(0)
            if not state.tasks:
                return

    def close(self) -> None:
        self.loop.close()


READERS: dict[str, Callable[[Random], None]] = {"framing": framing, "codec": codec, "codec_out": codec_out, "link": link, "tlv": tlv, "json": body}
SHARES = {"framing": 2, "codec": 4, "codec_out": 2, "link": 4, "tlv": 3, "json": 3, "edge": 2}
ORDER = [name for turn in range(max(SHARES.values())) for name, share in SHARES.items() if turn < share]


def fuzz(inputs: int, seed: int, only: str | None = None, number: int | None = None, progress: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """How many inputs each reader got, and what was found: reader, number and the traceback's end of at most FOUND_MAX."""
    edge = Edge()
    readers, counts, found = READERS | {"edge": edge}, dict.fromkeys(SHARES, 0), []
    begun = time.monotonic()
    level, stream = logs.log.level, logs.log.stream
    logs.configure(io.StringIO(), "error")
    try:
        for at in range(inputs) if number is None else [number]:
            name = only or ORDER[at % len(ORDER)]
            started = time.perf_counter()
            try:
                readers[name](Random(f"{seed}:{name}:{at}"))
                assert time.perf_counter() - started < SLOW_S or number is not None, "it took more than a second"
            except Exception as error:
                found.append({"reader": name, "number": at, "error": f"{type(error).__name__}: {str(error)[:200]}", "where": traceback.format_exc().splitlines()[-4:-1]})
                progress(f"fuzz: {name} {at}: {found[-1]['error']}")
                edge.failures.clear()
                if len(found) >= FOUND_MAX:
                    break
            counts[name] += 1
            if at % 50_000 == 49_999:
                progress(f"fuzz: {at + 1} of {inputs} inputs, {len(found)} found, {time.monotonic() - begun:.0f} s")
    finally:
        logs.log.level, logs.log.stream = level, stream
        edge.close()
    return {"seed": seed, "inputs": counts, "found": found, "seconds": round(time.monotonic() - begun, 1)}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(SHARES))
    parser.add_argument("--number", type=int)
    wanted = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    result = fuzz(wanted.inputs, wanted.seed, wanted.only, wanted.number, lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(result))
    return 1 if result["found"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
