"""The scenarios of an acquirer with two hosts, and so with two lines: an acquirer of its own, whose hosts are stubs of their own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tests.certify.bench import ANSWER_MS, GRACE_MS, Bench, eventually, mode_of
from tests.certify.table import Table, purpose
from tests.faults.stage import Stub, free_port
from tests.processes import ask, stub_book

SCENARIOS = Table()
scenario = SCENARIOS.scenario
ONE_FAULT = {"faults": 1, "percent": 1, "pause_ms": 100, "probes": 1}  # a breaker that asks for echoes at once, not when the line has been quiet for long


class Pair(NamedTuple):
    """An acquirer with a preferred host and another; two tills that sell through it. The hosts share no book."""

    bench: Bench
    acquirer: str
    ports: tuple[int, int]
    hosts: list[Stub]
    tills: tuple[str, str]

    def host(self, at: int, name: str) -> Stub:
        """One of them starts to listen."""
        self.hosts.append(Stub(self.bench.folder, f"{self.tills[0]}-{name}", self.ports[at], 0.0, self.bench.dialect.name))
        return self.hosts[-1]

    async def states(self) -> dict[int, dict[str, Any]]:
        """The lines by the port that they go to."""
        return {line["port"]: line for line in (await self.bench.link(self.acquirer))["lines"]}

    async def up(self, *wanted: bool) -> None:
        """Until exactly these lines, in order, are up and, if they have a breaker, sell."""
        async def reached() -> bool:
            lines = await self.states()
            return tuple(port in lines and lines[port]["state"] == "up" and lines[port]["breaker"] in ("none", "closed") for port in self.ports) == wanted

        await eventually(reached, f"not {wanted} of the lines are up", 30)


@asynccontextmanager
async def two_hosts(bench: Bench, name: str) -> AsyncIterator[Pair]:
    ports, tills = (free_port(), free_port()), (f"{name}.one", f"{name}.two")
    acquirer = await bench.made("/v1/acquirers", {
        "name": name, "dialect": bench.dialect.name, "host": "127.0.0.1", "port": ports[0], "message_mode": mode_of(bench.dialect),
        "institution_code": "12345678", "answer_timeout_ms": ANSWER_MS, "reversal_grace_ms": GRACE_MS})
    await bench.made(f"/v1/acquirers/{acquirer['id']}/lines", {"host": "127.0.0.1", "port": ports[1], "priority": 10})
    merchant = await bench.made("/v1/merchants", {"organisation": bench.organisation, "name": name, "mcc": "5812"})
    store = await bench.made("/v1/stores", {"merchant": merchant["id"], "name": name, "city": "Shanghai"})
    for till in tills:
        terminal = await bench.made("/v1/terminals", {"store": store["id"], "name": till})
        bench.keys[till] = (await bench.made("/v1/keys", {"role": "terminal", "terminal": terminal["id"]}))["key"]
    await bench.made("/v1/routes", {"acquirer": acquirer["id"], "merchant": merchant["id"]})
    pair = Pair(bench, acquirer["id"], ports, [], tills)
    try:
        yield pair
        assert (await bench.ask("POST", f"/v1/links/{pair.acquirer}/down", key="operator")).status == 200
    finally:
        for host in pair.hosts:
            await asyncio.to_thread(host.end)


async def heard(host: Stub, amount: int) -> list[str]:
    """MTIs of what a host heard of that amount."""
    book = await stub_book(f"http://127.0.0.1:{host.control_port}")
    return [line["mti"] for line in book if line["kind"] == "received" and line.get("fields", {}).get("4") == f"{amount:012d}"]


async def order(host: Stub, action: str, value: object, match: object, count: int | None = 1) -> None:
    body = {"match": match, "action": action, "value": value, "count": count}
    assert (await ask(f"http://127.0.0.1:{host.control_port}", "POST", "/faults", "", body)).status == 201


async def told(pair: Pair, host: Stub, amount: int) -> None:
    """A sale goes to that host."""
    await pair.bench.approved(amount, till=pair.tills[1])
    assert await heard(host, amount), "another host was asked"


@scenario(4, "echoes that stay unanswered: the line is given up, the other host takes the sales, and gives them back", purpose("echo"))
async def echo_unanswered(bench: Bench) -> None:
    async with two_hosts(bench, "quiet") as pair:
        first, second = pair.host(0, "first"), pair.host(1, "second")
        await pair.up(True, True)
        await told(pair, first, 1300)
        answer = await bench.ask("PUT", f"/v1/acquirers/{pair.acquirer}/breaker", ONE_FAULT, "operator")
        assert answer.status == 200, answer.raw
        await pair.up(True, True)  # with the breaker
        await order(first, "silence", None, {"70": "001"}, None)
        await order(first, "half_open", "before", {"4": f"{1400:012d}"})
        answer = await bench.pay(1400, till=pair.tills[0])
        assert answer.status == 202, answer.raw

        async def given_up() -> bool:
            return (await pair.states())[pair.ports[0]]["last_error"] == "echo unanswered"

        await told(pair, second, 1500)
        await eventually(given_up, "the line is not given up", 40)
        assert (await bench.link(pair.acquirer))["state"] == "up", "the other line does not carry"
        await told(pair, second, 1600)
        await order_forgotten(first)
        await pair.up(True, True)
        await told(pair, first, 1700)


async def order_forgotten(host: Stub) -> None:
    assert (await ask(f"http://127.0.0.1:{host.control_port}", "DELETE", "/faults", "")).status == 200


@scenario(21, "the host refuses the connection: the other one takes the sales until it listens")
async def connection_refused(bench: Bench) -> None:
    async with two_hosts(bench, "away") as pair:
        second = pair.host(1, "second")
        await pair.up(False, True)
        await told(pair, second, 4700)
        first = pair.host(0, "first")
        await pair.up(True, True)
        await told(pair, first, 4750)
