"""A lean HTTP/1.1 keep-alive driver on asyncio protocols: prebuilt requests, closed or open loop, one regular expression per answer.

Closed loop: every connection sends its next request as soon as it has its answer. Open loop: requests fall due on a fixed schedule and each
time is taken from the scheduled instant, so a stall of the service is felt by all requests that fell due meanwhile.
"""
import asyncio
import math
import re
import secrets
import time
import urllib.parse
from array import array
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import cast

from loadtests.processes import RunError

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
STATUS = re.compile(rb'"status": ?"(\w+)"')
ANSWER_TIMEOUT = 45.0
# Chip data of a test card: cryptogram, its kind, issuer data, random number, counter, TVR, date, type, currency, profile, country.
CHIP = {"9F26": "A1B2C3D4E5F60718", "9F27": "80", "9F10": "07010103A0B00101", "9F37": "DEADBEEF", "9F36": "0042", "95": "0000000000",
        "9A": "261123", "9C": "00", "5F2A": "0156", "82": "3C00", "9F1A": "0156"}
EMV = "".join(f"{tag}{len(value) // 2:02X}{value}" for tag, value in CHIP.items())
BINS = ("622126", "411111", "555555", "621234")


def sample_pan(number: int) -> str:
    """A 16-digit PAN of a test BIN with a valid Luhn digit."""
    body = f"{BINS[number % len(BINS)]}{number % 10**9:09d}"
    doubled = (int(digit) * (2 if place % 2 == 0 else 1) for place, digit in enumerate(body))
    return f"{body}{-sum(value // 10 + value % 10 for value in doubled) % 10}"


class Workload:
    """An endless row of different purchases for one caller; every amount ends in 00, which the stub approves."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = urllib.parse.urlsplit(url)
        self.count, self.prefix = 0, secrets.token_hex(8)
        self.pans = [sample_pan(number * 7919).encode() for number in range(4999)]
        body = self.body(100_000, sample_pan(0), 0)
        head = (f"POST /v1/authorizations HTTP/1.1\r\nHost: {self.url.netloc}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n" + (f"Authorization: Bearer {key}\r\n" if key else "") + "Idempotency-Key: ")
        self.template = (head + self.prefix + "%016x\r\n\r\n").encode() + self.body(-1, "PAN", -1).encode()

    def body(self, amount: int, pan: str, trace: int) -> str:
        """The JSON body; holes are bytes-format fields of the same width when the arguments are -1."""
        money, number, card = ("%d", "%06d", "%b") if amount < 0 else (f"{amount}", f"{trace:06d}", pan)
        return (f'{{"type":"purchase","amount":{money},"currency":"CNY","card":{{"entry_mode":"chip","pan":"{card}","expiry":"3012",'
                f'"emv":"{EMV}"}},"terminal_trace":"{number}","reference":"order-{number}"}}')

    def next(self) -> tuple[bytes, int]:
        """The next request and its amount; the same card and amount meet again only after 4999 * 8999 requests."""
        self.count += 1
        number, amount = self.count % 1_000_000, 100_000 + self.count % 8999 * 100
        return self.template % (self.count, amount, self.pans[self.count % 4999], number, number), amount


@dataclass(slots=True)
class Tally:
    """What one phase was answered. times: seconds of each answer, from sending (closed) or from its scheduled instant (open)."""

    statuses: Counter[str] = field(default_factory=Counter)
    approved_amount: int = 0
    times: "array[float]" = field(default_factory=lambda: array("d"))
    seconds: float = 0.0

    @property
    def approved(self) -> int:
        return self.statuses["201 approved"]


def percentile(values: "array[float] | list[float]", share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; 0.0 when there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)] if ordered else 0.0


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on it."""

    def __init__(self, driver: "Driver") -> None:
        self.driver, self.buffer = driver, b""
        self.since, self.amount, self.busy = 0.0, 0, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, since: float) -> None:
        request, self.amount = self.driver.workload.next()
        self.since, self.busy = since, True
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer = data = self.buffer + data if self.buffer else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return
        length = LENGTH.search(data, 0, end)
        if length is None:
            self.driver.fail("an answer has no Content-Length")
        elif len(data) >= end + 4 + int(length[1]):
            self.buffer, self.busy = b"", False
            word = STATUS.search(data, end)
            self.driver.answered(self, f"{data[9:12].decode()} {word[1].decode() if word else ''}")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.driver.closing:
            self.driver.fail(f"the service closed a connection ({'busy' if self.busy else 'idle'})")


class Driver:
    """N connections to one service and one workload; phases run one after the other and end with nothing on the way."""

    def __init__(self, workload: Workload) -> None:
        self.workload, self.tally, self.loop = workload, Tally(), asyncio.get_running_loop()
        self.connections: list[Connection] = []
        self.free: deque[Connection] = deque()
        self.due: deque[float] = deque()
        self.left, self.until, self.open_loop, self.closing = 0, 0.0, False, False
        self.total, self.failure = Tally(), ""
        self.idle: asyncio.Future[None] = self.loop.create_future()

    async def connect(self, count: int) -> None:
        for _ in range(count):
            _, protocol = await self.loop.create_connection(
                lambda: Connection(self), self.workload.url.hostname or "", self.workload.url.port or 80)
            self.connections.append(protocol)
        self.free.extend(self.connections)

    def close(self) -> None:
        self.closing = True
        for connection in self.connections:
            connection.transport.close()

    async def closed(self, seconds: float, count: int = 2**62) -> Tally:
        """Keeps all connections busy for so long, or until so many requests were sent."""
        self.begin(count, seconds, open_loop=False)
        while self.free and self.left > 0:
            self.left -= 1
            self.free.popleft().send(time.perf_counter())
        return await self.finish(seconds)

    async def open(self, rate: float, seconds: float) -> Tally:
        """Sends `rate` requests per second on an even schedule; one that finds no free connection waits, its clock running."""
        self.begin(round(rate * seconds), seconds, open_loop=True)
        start, number, total = time.perf_counter(), 0, self.left
        while number < total:
            now = time.perf_counter()
            while number < total and (since := start + number / rate) <= now:
                number += 1
                if self.free:
                    self.left -= 1
                    self.free.popleft().send(since)
                else:
                    self.due.append(since)
            if self.idle.done():
                break
            await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
        return await self.finish(seconds)

    def begin(self, count: int, seconds: float, *, open_loop: bool) -> None:
        if self.failure:
            raise RunError(self.failure)
        self.tally, self.left, self.open_loop = Tally(), count, open_loop
        self.started = time.perf_counter()
        self.until = self.started + seconds
        self.idle = self.loop.create_future()

    async def finish(self, seconds: float) -> Tally:
        try:
            await asyncio.wait_for(self.idle, seconds + ANSWER_TIMEOUT)
        except TimeoutError:
            raise RunError(f"requests without an answer after {ANSWER_TIMEOUT:g} s") from None
        self.tally.seconds = time.perf_counter() - self.started
        self.total.statuses += self.tally.statuses
        self.total.approved_amount += self.tally.approved_amount
        return self.tally

    def answered(self, connection: Connection, status: str) -> None:
        now, tally = time.perf_counter(), self.tally
        tally.times.append(now - connection.since)
        tally.statuses[status] += 1
        if status == "201 approved":
            tally.approved_amount += connection.amount
        if self.open_loop and self.due:
            self.left -= 1
            connection.send(self.due.popleft())
        elif not self.open_loop and self.left > 0 and now < self.until:
            self.left -= 1
            connection.send(now)
        else:
            self.free.append(connection)
            if len(self.free) == len(self.connections) and (self.left <= 0 or not self.open_loop) and not self.idle.done():
                self.idle.set_result(None)

    def fail(self, reason: str) -> None:
        self.failure = reason
        if not self.idle.done():
            self.idle.set_exception(RunError(reason))
