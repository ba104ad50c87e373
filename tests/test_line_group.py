"""Several lines of one acquirer over real TCP: which carries, which takes over and when the first comes back."""

import asyncio
import socket
from contextlib import asynccontextmanager
from time import monotonic

from switch.links import Bounced, LinkSettings, Reply, Silence
from switch.links.acquirer import AcquirerLink
from switch.links.breaker import Terms
from switch.links.exchange import Exchanges
from switch.links.group import LineGroup
from tests.test_link_connection import DIALECT, FAST, Host, approval, approving, both_loops, numbered, quiet, read, until, wire

TERMS = Terms(2, 50, 10.0, 0.1, 2, frozenset({"91", "96"}))


class Place:
    """Where a host listens; it may go away and come back at the same port."""

    def __init__(self, *scripts, sign_on=True):
        self.host = Host(*scripts, sign_on=sign_on)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.server, self.writers = None, []

    async def serve(self, reader, writer):
        self.writers.append(writer)
        await self.host.serve(reader, writer)

    async def open(self):
        if self.listener is None:
            self.listener = socket.create_server(("127.0.0.1", self.port))
        self.server = await asyncio.start_server(self.serve, sock=self.listener)

    def close(self):
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()
        self.listener, self.writers = None, []

    @property
    def money(self):
        return [message[11] for message in self.host.received if message[0] != "0800"]


class Acquirer:
    def __init__(self, *places, priorities, **settings):
        stans, self.unmatched, exchanges = iter(f"{n:06d}" for n in range(900001, 999999)), [], Exchanges(DIALECT)
        self.lines = [AcquirerLink(
            "acq", "test host", DIALECT, LinkSettings("127.0.0.1", place.port, line=str(at), priority=priority, **{**FAST, **settings}),
            next_stan=lambda: next(stans), on_unmatched=self.unmatched.append, on_cut_over=lambda _: None, exchanges=exchanges)
            for at, (place, priority) in enumerate(zip(places, priorities, strict=True))]
        self.group = LineGroup(list(reversed(self.lines)))

    def request(self, n, within=2.0):
        now = monotonic()
        return self.group.request(numbered(n), send_not_after=now + 1.0, deadline=now + within)


@asynccontextmanager
async def acquirer(*places, priorities=(0, 10), **settings):
    for place in places:
        await place.open()
    opened = Acquirer(*places, priorities=priorities, **settings)
    opened.group.start()
    try:
        await until(lambda: all(line.usable() for line in opened.lines))
        yield opened
    finally:
        await opened.group.close()
        for place in places:
            if place.listener is not None:
                place.close()
        others = [task for task in asyncio.all_tasks() if task.get_coro().__name__ == "serve"]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)
    assert [place.host.faults for place in places] == [[] for _ in places]


@both_loops
async def test_the_first_line_carries_while_it_is_well_and_the_second_stands_by_signed_on():
    first, second = Place(approving), Place(approving)
    async with acquirer(first, second) as bank:
        assert [type(await bank.request(n)) for n in range(1, 6)] == [Reply] * 5
        assert (len(first.money), len(second.money)) == (5, 0)
        shown = bank.group.snapshot()
        assert (shown["state"], shown["port"], shown["sent"], [line["state"] for line in shown["lines"]]) == ("up", first.port, 5, ["up", "up"])


@both_loops
async def test_a_lost_line_is_taken_over_at_once_and_the_first_comes_back_when_it_is_well():
    first, second = Place(approving), Place(approving)
    async with acquirer(first, second) as bank:
        await bank.request(1)
        first.close()
        await until(lambda: not bank.lines[0].usable())
        assert bank.group.usable() and bank.group.state == "up"
        assert isinstance(await bank.request(2), Reply)
        assert second.money == ["000002"]
        await first.open()
        await until(bank.lines[0].usable)
        assert isinstance(await bank.request(3), Reply)
        assert (first.money, second.money) == (["000001", "000003"], ["000002"])


@both_loops
async def test_what_was_written_to_a_lost_line_is_unknown_and_never_sent_again_over_another():
    first, second = Place(quiet), Place(approving)
    async with acquirer(first, second) as bank:
        waiting = bank.request(1)
        await until(lambda: first.money == ["000001"])
        first.close()
        outcome = await waiting
        assert (type(outcome), outcome.reason) == (Silence, "line_lost")
        assert second.money == []


@both_loops
async def test_a_key_in_flight_at_one_line_is_refused_at_the_other():
    first, second = Place(quiet), Place(approving)
    async with acquirer(first, second) as bank:
        waiting = bank.request(1)
        await until(lambda: first.money == ["000001"])
        assert await bank.lines[1].request(numbered(1), send_not_after=monotonic() + 1, deadline=monotonic() + 2) == Bounced("duplicate_key")
        waiting.cancel()


@both_loops
async def test_an_answer_that_the_host_gives_over_its_other_line_counts():
    asked = asyncio.Event()

    async def ask_here(host, reader, writer):
        host.received.append(await read(reader))
        asked.set()
        await quiet(host, reader, writer)

    async def answer_there(host, reader, writer):
        await asked.wait()
        writer.write(approval(first.host.received[0]))
        await quiet(host, reader, writer)

    first, second = Place(ask_here), Place(answer_there)
    async with acquirer(first, second) as bank:
        assert isinstance(await bank.request(1), Reply)
        assert bank.unmatched == [] and [line.in_flight for line in bank.lines] == [0, 0]


@both_loops
async def test_equals_share_what_there_is():
    first, second = Place(quiet), Place(quiet)
    async with acquirer(first, second, priorities=(5, 5)) as bank:
        waiting = [bank.request(n) for n in range(1, 9)]
        await until(lambda: len(first.money) == len(second.money) == 4)
        for each in waiting:
            each.cancel()


@both_loops
async def test_a_full_window_spills_over_and_all_full_bounces():
    first, second = Place(quiet), Place(quiet)
    async with acquirer(first, second, window=2) as bank:
        waiting = [bank.request(n) for n in range(1, 5)]
        await until(lambda: len(first.money) == len(second.money) == 2)
        assert not bank.group.usable()
        assert (await bank.request(5)).reason == "window_full"
        for each in waiting:
            each.cancel()


async def deaf_to_money(host, reader, writer):
    """Answers echoes alone."""
    while True:
        message = await read(reader)
        host.received.append(message)
        if message[0] == "0800":
            writer.write(wire("0810", {7: message[7], 11: message[11], 39: "00", 70: message[70]}))


@both_loops
async def test_a_line_whose_breaker_is_open_is_passed_over_and_probed_with_echoes_only():
    first, second = Place(deaf_to_money), Place(approving)
    async with acquirer(first, second) as bank:
        bank.group.guard(TERMS._replace(pause_s=60.0))
        for n in (1, 2):
            assert (await bank.request(n, within=0.1)).reason == "timeout"
        assert (bank.lines[0].tripped(), bank.lines[0].sells(), bank.group.sells(), bank.group.tripped()) == (True, False, True, False)
        assert isinstance(await bank.request(3), Reply)
        assert (first.money, second.money) == (["000001", "000002"], ["000003"])
        second.close()
        await until(lambda: not bank.lines[1].usable())
        assert (bank.group.sells(), bank.group.tripped(), bank.group.usable()) == (False, True, True), "what is owed still finds a line"
        waiting = bank.request(4)
        await until(lambda: first.money[-1] == "000004")
        waiting.cancel()


@both_loops
async def test_a_breaker_closes_by_echoes_and_no_money_is_sent_for_it():
    first, second = Place(deaf_to_money), Place(approving)
    async with acquirer(first, second) as bank:
        bank.group.guard(TERMS)
        for n in (1, 2):
            await bank.request(n, within=0.1)
        assert bank.lines[0].breaker.state == "open"
        await until(bank.lines[0].sells)
        echoes = [message for message in first.host.received if message[0] == "0800" and message[70] == "301"]
        assert (len(echoes), first.money) == (TERMS.probes, ["000001", "000002"])


@both_loops
async def test_acknowledged_reversals_do_not_make_a_host_look_well():
    async def deaf_to_sales(host, reader, writer):
        while True:
            message = await read(reader)
            host.received.append(message)
            if message[0] == "0420":
                writer.write(wire("0430", {n: message[n] for n in (3, 4, 7, 11, 37, 41, 42, 49)} | {39: "00"}))

    first, second = Place(deaf_to_sales), Place(approving)
    async with acquirer(first, second) as bank:
        bank.group.guard(TERMS._replace(percent=100, pause_s=60.0))
        for n in (1, 2):
            sale = bank.request(n, within=0.1)
            reversal = bank.lines[0].request({**numbered(100 + n), "0": "0420"}, send_not_after=monotonic() + 1, deadline=monotonic() + 2)
            assert (type(await reversal), type(await sale)) == (Reply, Silence)
        assert bank.lines[0].tripped()


@both_loops
async def test_a_breaker_whose_terms_stay_goes_on_and_one_that_is_taken_away_is_gone():
    first, second = Place(deaf_to_money), Place(approving)
    async with acquirer(first, second) as bank:
        bank.group.guard(TERMS._replace(pause_s=60.0))
        for n in (1, 2):
            await bank.request(n, within=0.1)
        bank.group.guard(TERMS._replace(pause_s=60.0))
        assert bank.lines[0].breaker.state == "open"
        bank.group.guard(None)
        assert bank.lines[0].sells() and [health.breaker for health in bank.group.health()] == ["none", "none"]


@both_loops
async def test_a_drain_signs_all_lines_off_and_up_brings_them_back():
    first, second = Place(approving), Place(approving)
    async with acquirer(first, second) as bank:
        await bank.group.drain(0.5)
        assert bank.group.state == "down" and not bank.group.usable()
        assert (await bank.request(1)).reason == "line_down"
        assert [place.host.received[-1][70] for place in (first, second)] == ["002", "002"]
        await bank.group.up()
        await until(lambda: all(line.usable() for line in bank.lines))
