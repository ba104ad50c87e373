"""Handing a request to the worker that holds the line: bytes both ways, over real sockets, and whoever dies or stands still."""

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from test_link_connection import DIALECT, FAST, Host, approval, approving, numbered, read, until

from switch.links import Bounced, LinkSettings, Reply, Silence
from switch.links.acquirer import AcquirerLink
from switch.links.handover import (
    CLOCKS_APART_S,
    FRAME_MAX,
    Ask,
    HandoverError,
    Hello,
    Reader,
    Status,
    Told,
    encode,
    same_clock,
)
from switch.links.holder import LOOK_S, Holder, address_of, here
from switch.links.shared import GUARD_S, SharedLink
from switch.links.slots import Place, Slots

BANK = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"
AT = datetime(2026, 3, 1, 2, 3, 4, 567, tzinfo=UTC)
FRAMES = (
    Hello(BANK, 12.5), Status(True, "up", True), Status(True, "up", False), Status(False, "down", False), Ask(7, numbered(1), 100.25, 130.5),
    Told(7, Reply({"0": "0210", "39": "00"}, AT, AT)), Told(8, Silence("timeout", AT)), Told(9, Bounced("window_full")),
)


@given(st.lists(st.sampled_from(FRAMES), max_size=8), st.lists(st.integers(0, 3000), max_size=8))
def test_frames_arrive_as_they_were_however_the_bytes_are_cut(frames, cuts):
    content, reader, got = b"".join(map(encode, frames)), Reader(), []
    places = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    for start, end in pairwise(places):
        got += reader.feed(content[start:end])
    assert got == frames and reader.rest == b""


@pytest.mark.parametrize("content", [
    b"", b"x", b"[]", b"null", b'{"ask":1}', b'{"ask":"1","message":{},"send_not_after":1.0,"deadline":1.0}',
    b'{"ask":1,"message":{"2":4111111111111111},"send_not_after":1.0,"deadline":1.0}', b'{"told":1,"reply":{},"sent_at":"now","answered_at":"now"}',
    b'{"told":1,"silence":"timeout","sent_at":"2026-03-01T00:00:00"}', b'{"hello":"../../etc","now":1.0}', b'{"hello":"%s"}' % BANK.encode(),
    b'{"usable":1,"state":"up"}', b"\xff\xfe", b"[" * 50_000,
])
def test_what_is_no_frame_is_refused_without_repeating_it(content):
    with pytest.raises(HandoverError) as refused:
        Reader().feed(len(content).to_bytes(4, "big") + content)
    assert "4111" not in str(refused.value)


def test_a_length_beyond_the_limit_is_refused_before_its_bytes_come():
    with pytest.raises(HandoverError):
        Reader().feed((FRAME_MAX + 1).to_bytes(4, "big"))
    with pytest.raises(HandoverError):
        encode(Ask(1, {"48": "x" * FRAME_MAX}, 1.0, 2.0))


def test_no_frame_shows_its_message_when_printed():
    for frame in FRAMES:
        assert "4111111111111111" not in repr(frame)


def test_clocks_agree_when_the_hello_is_from_now_or_has_waited_a_little():
    assert same_clock(100.0, 100.0) and same_clock(100.0, 100.0 + CLOCKS_APART_S)
    assert not same_clock(100.0, 99.0) and not same_clock(100.0, 101.0 + CLOCKS_APART_S)


# over real sockets


async def nowhere():
    raise OSError


class Pair:
    """A holder with its line, and an asker without a slot."""

    def __init__(self, folder, port, **settings):
        stans = iter(f"{n:06d}" for n in range(900001, 999999))
        self.evidence, self.late = [], []
        self.leased, self.asker_leased = True, True
        line = LinkSettings("127.0.0.1", port, **{**FAST, **settings})

        def own(evidence, may_write):
            return AcquirerLink(BANK, "bank", DIALECT, line, next_stan=lambda: next(stans), on_unmatched=evidence.append,
                                on_cut_over=lambda _: None, may_write=may_write)

        self.link = own(self.evidence, lambda: self.leased)
        self.holder = Holder(folder, 1, lambda acquirer_id: self.link if UUID(acquirer_id) == UUID(BANK) else None)
        self.asker = SharedLink(BANK, "bank", DIALECT, line, slots=Slots(nowhere, 2, "x:y"), limit=1, make=lambda may: own(self.late, may),
                                may_send=lambda: self.asker_leased, on_unmatched=self.late.append)
        self.address = address_of(folder, 1)

    def place(self, held, *holders):
        """What the slots would tell the asker."""
        if held:
            self.asker.slots.held[UUID(BANK)] = time.monotonic()
        self.asker.slots.wanted[UUID(BANK)][1](Place(held, holders))

    def request(self, n, within=2.0, send_within=1.0):
        now = time.monotonic()
        return self.asker.request(numbered(n), send_not_after=now + send_within, deadline=now + within)


@asynccontextmanager
async def pair(folder, host, **settings):
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0)
    both = Pair(folder, server.sockets[0].getsockname()[1], **settings)
    both.link.start()
    await both.holder.open()
    both.asker.start()
    both.place(False, both.address)
    try:
        await until(both.asker.usable)
        yield both
    finally:
        await both.asker.close()
        await both.link.close()
        await both.holder.close()
        server.close()
        others = [task for task in asyncio.all_tasks() if task.get_coro().__name__ == "serve"]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.01)
    assert host.faults == []


def both_loops(scenario):
    def test(new_loop, tmp_path):
        loop = new_loop()
        try:
            loop.run_until_complete(asyncio.wait_for(scenario(tmp_path / "run"), 10))
        finally:
            loop.close()

    test.__name__ = scenario.__name__
    return pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])(test)


@both_loops
async def test_a_request_that_is_handed_over_is_answered_with_the_times_of_the_line(folder):
    before = datetime.now(UTC)
    async with pair(folder, host := Host(approving)) as both:
        replies = await asyncio.gather(*(both.request(n) for n in range(1, 51)))
        assert [reply.message["11"] for reply in replies] == [f"{n:06d}" for n in range(1, 51)]
        assert all(before <= reply.sent_at <= reply.answered_at <= datetime.now(UTC) for reply in replies)
        assert sorted(message[11] for message in host.received) == [f"{n:06d}" for n in range(1, 51)] and host.connections == 1
        assert both.asker.state == "handed_over" and both.evidence == both.late == []
        shown, own = both.asker.snapshot(), both.link.snapshot()
        assert (shown["sent"], shown["answered"], shown["pending"]) == (50, 50, 0) and shown.keys() == own.keys()


@both_loops
async def test_what_the_holder_may_not_send_is_bounced_and_nothing_leaves(folder):
    async with pair(folder, host := Host(approving)) as both:
        assert await both.request(1, send_within=-0.1) == Bounced("too_late")
        both.leased = False
        assert await both.request(2) == Bounced("lease_lost")
        both.leased, both.asker_leased = True, False
        assert await both.request(3) == Bounced("lease_lost")
        both.asker_leased = True
        assert await both.asker.request({**numbered(4), "4": "x" * 70_000}, send_not_after=time.monotonic() + 1,
                                        deadline=time.monotonic() + 2) == Bounced("not_encodable")
        assert isinstance(await both.request(5), Reply)
        assert [message[11] for message in host.received] == ["000005"] and both.asker.snapshot()["sent"] == 1


@both_loops
async def test_a_frame_that_lay_in_the_socket_past_its_time_is_bounced_not_sent(folder):
    async with pair(folder, host := Host(approving)) as both:
        asked = both.request(1, send_within=0.1)
        await asyncio.sleep(0)
        time.sleep(0.2)  # both stand still, the frame with them
        assert await asked == Bounced("too_late")
        assert host.received == []


@both_loops
async def test_the_windows_of_asker_and_holder_bound_what_is_in_flight(folder):
    async def silent(host, reader, writer):
        while True:
            host.received.append(await read(reader))

    async with pair(folder, Host(silent), window=4) as both:
        asked = [both.request(n, within=0.5) for n in range(1, 7)]
        assert not both.asker.usable()
        assert [await each for each in asked[4:]] == [Bounced("window_full")] * 2
        assert {(await each).reason for each in asked[:4]} == {"timeout"}
        assert both.asker.snapshot()["timeouts"] == 4
        await until(both.asker.usable)


@both_loops
async def test_a_holder_that_is_lost_leaves_silence_and_one_that_never_was_a_bounce(folder):
    async def silent(host, reader, writer):
        while True:
            host.received.append(await read(reader))

    async with pair(folder, host := Host(silent)) as both:
        handed = both.request(1)
        await until(lambda: host.received)
        for visit in list(both.holder.visits):
            visit.transport.abort()
        lost = await handed
        assert isinstance(lost, Silence) and lost.reason == "line_lost" and lost.sent_at <= datetime.now(UTC)
        assert await both.request(2) == Bounced("line_down") and not both.asker.usable() and both.asker.state == "disconnected"
        both.place(False, both.address)  # the next look finds the holder again
        await until(both.asker.usable)


@both_loops
async def test_a_holder_that_stands_still_ends_in_silence_and_its_later_answer_is_evidence(folder):
    held, answers = asyncio.Event(), []

    async def slow(host, reader, writer):
        host.received.append(message := await read(reader))
        await held.wait()
        writer.write(approval(message))
        await reader.read()

    async with pair(folder, host := Host(slow)) as both:
        tell = both.holder.visits.copy().pop()
        passed = tell.tell
        tell.tell = lambda number, answer: answers.append((number, answer))  # told only later, as by one that stood still
        handed = both.request(1, within=0.3)
        await until(lambda: host.received)
        held.set()
        silence = await handed
        assert isinstance(silence, Silence) and silence.reason == "timeout"
        (number, answer), = answers
        passed(number, answer)
        await until(lambda: both.late)
        assert [(record.reason, record.acquirer_id, record.message["11"]) for record in both.late] == [("late", BANK, "000001")]


@both_loops
async def test_the_answer_to_what_nobody_waits_for_any_more_is_evidence_and_ends_its_guard(folder):
    faults = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))

    async def slow(host, reader, writer):
        host.received.append(message := await read(reader))
        await asyncio.sleep(0.05)
        writer.write(approval(message))
        await reader.read()

    async with pair(folder, Host(slow)) as both:
        both.request(1, within=0.3).cancel()
        await until(lambda: both.late)
        await asyncio.sleep(0.3 + GUARD_S + 0.1)
        assert (len(both.late), both.asker.counters.timeouts, faults) == (1, 0, [])


@both_loops
async def test_the_answer_to_an_asker_that_died_is_the_holders_evidence(folder):
    held = asyncio.Event()

    async def slow(host, reader, writer):
        host.received.append(message := await read(reader))
        await held.wait()
        writer.write(approval(message))
        await reader.read()

    async with pair(folder, host := Host(slow)) as both:
        handed = both.request(1)
        await until(lambda: host.received)
        both.asker.errand.transport.abort()
        assert (await handed).reason == "line_lost"
        await until(lambda: not both.holder.visits)
        held.set()
        await until(lambda: both.evidence)
        assert [(record.reason, record.message["11"]) for record in both.evidence] == [("late", "000001")]


@both_loops
async def test_with_a_slot_the_asker_connects_itself_and_without_it_hands_over_again(folder):
    async with pair(folder, host := Host(approving)) as both:
        await both.link.close()
        await until(lambda: not both.asker.usable())
        both.place(True)
        await until(both.asker.usable)
        assert both.asker.state == "up" and host.connections == 2
        assert isinstance(await both.request(1), Reply)
        both.asker.slots.held.clear()  # the slot's time is over before anybody said so
        assert await both.request(2) == Bounced("lease_lost")
        both.place(False)
        await until(lambda: both.asker.state == "disconnected")
        assert await both.request(3) == Bounced("line_down")


@both_loops
async def test_an_operators_verbs_hold_for_the_way_over_the_holder_and_for_the_line_that_follows(folder):
    async with pair(folder, Host(approving)) as both:
        await both.asker.drain(0.1)
        assert both.asker.state == "down" and not both.asker.usable() and await both.request(1) == Bounced("draining")
        both.place(True)
        await asyncio.sleep(0.05)
        assert both.asker.state == "down", "a line that takes over obeys what an operator said before"
        await both.link.close()
        await both.asker.up()
        await until(both.asker.usable)


@both_loops
async def test_the_socket_is_ours_alone_and_refuses_what_it_does_not_understand(folder):
    async with pair(folder, Host(approving)) as both:
        path = folder / "1.sock"
        assert (path.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
        hello = encode(Hello(BANK, time.monotonic()))
        for content in (b"\xff" * 8, encode(Ask(1, {}, 1.0, 2.0)), hello + hello, encode(Hello(BANK, time.monotonic() + 50)), encode(Status(True, "up", True))):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(content)
            with suppress(ConnectionError):
                while await reader.read(1000):
                    pass
            writer.close()
        assert isinstance(await both.request(1), Reply)
    assert not path.exists()


@both_loops
async def test_a_visitor_that_has_not_said_what_it_wants_keeps_nobody_from_hearing_of_the_line(folder):
    async with pair(folder, Host(approving)) as both:
        _, silent = await asyncio.open_unix_connection(folder / "1.sock")
        await until(lambda: len(both.holder.visits) == 2)
        await asyncio.sleep(4 * LOOK_S)
        await both.link.down()
        await until(lambda: not both.asker.usable())
        await both.link.up()
        await until(both.asker.usable)
        silent.close()


@both_loops
async def test_a_folder_whose_path_is_too_long_for_a_socket_serves_all_the_same(folder):
    deep = folder / ("long-" * 20) / ("longer-" * 10)
    deep.mkdir(parents=True, mode=0o700)
    async with pair(deep, Host(approving)) as both:
        assert len(str(deep)) > 107 and isinstance(await both.request(1), Reply)


def test_a_holder_of_another_machine_is_not_here():
    assert here(address_of(Path("run"), 3)) == Path("run/3.sock")
    assert here("elsewhere:/run/3.sock") is None


@both_loops
async def test_an_asker_leaves_a_holder_whose_line_stays_down_for_another(folder):
    async with pair(folder, Host(approving)) as both:
        fine = Holder(folder, 2, lambda _: both.link)
        await fine.open()
        both.holder.line = lambda _: None
        await until(lambda: not both.asker.usable())
        for _ in range(100):
            if both.asker.usable():
                break
            both.place(False, address_of(folder, 1), address_of(folder, 2))
            await asyncio.sleep(0.04)
        assert isinstance(await both.request(1), Reply) and len(fine.visits) == 1
        await fine.close()
