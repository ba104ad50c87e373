"""The line over real TCP, under asyncio and uvloop, against a scripted host whose bytes are made by hand."""

import asyncio
import socket
import struct
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic, sleep

import pytest
import uvloop

from messages.dialect import load
from switch.links.acquirer import AcquirerLink, Bounced, LinkSettings, Reply, Silence

DIALECT = load("iso87_ascii")
LENGTHS = {
    2: -2,
    3: 6,
    4: 12,
    7: 10,
    11: 6,
    12: 6,
    13: 4,
    14: 4,
    15: 4,
    18: 4,
    22: 3,
    25: 2,
    37: 12,
    38: 6,
    39: 2,
    41: 8,
    42: 15,
    49: 3,
    70: 3,
}
ECHOED = (3, 4, 7, 11, 37, 41, 42, 49)
FAST = {
    "connect_timeout": 1.0, "sign_on_timeout": 0.5, "echo_idle": 30.0, "echo_timeout": 0.1, "backoff_min": 0.01, "backoff_max": 0.05,
}  # fmt: skip


def both_loops(scenario):
    def test(new_loop):
        loop = new_loop()
        try:
            loop.run_until_complete(asyncio.wait_for(scenario(), 8))
        finally:
            loop.close()

    test.__name__ = scenario.__name__
    return pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])(test)


def numbered(n):
    return {
        "0": "0200", "2": "4111111111111111", "3": "000000", "4": "000000001000", "7": "0229235950", "11": f"{n:06d}", "12": "235950",
        "13": "0229", "14": "3012", "18": "5411", "22": "051", "25": "00", "37": f"406000{n:06d}", "41": "TERM0001",
        "42": "MERCHANT0000001", "49": "840",
    }  # fmt: skip


def wire(mti, fields):
    numbers = sorted(fields)
    width = 128 if numbers[-1] > 64 else 64
    bits = sum(1 << (width - number) for number in numbers) | (1 << 127 if width == 128 else 0)
    text = mti + f"{bits:0{width // 4}X}" + "".join(fields[number] for number in numbers)
    return struct.pack(">H", len(text)) + text.encode()


async def read(reader):
    """The next message as {number: text}, 0 is the MTI."""
    (length,) = struct.unpack(">H", await reader.readexactly(2))
    text = (await reader.readexactly(length)).decode()
    message, place = {0: text[:4]}, 20
    bits = f"{int(text[4:20], 16):064b}"
    if bits[0] == "1":
        bits, place = bits + f"{int(text[20:36], 16):064b}", 36
    for number in (n for n in range(2, len(bits) + 1) if bits[n - 1] == "1"):
        size = LENGTHS[number]
        if size < 0:
            size, place = int(text[place : place - size]), place - size
        message[number] = text[place : place + size]
        place += size
    assert place == len(text)
    return message


def approval(request, **changed):
    return wire("0210", {n: request[n] for n in ECHOED} | {38: "123456", 39: "00"} | {int(key[1:]): value for key, value in changed.items()})


def network(code, **more):
    return wire("0800", {7: "0229120000", 11: "000777", 70: code} | {int(key[1:]): value for key, value in more.items()})


async def answer_network(reader, writer, expected, code="00"):
    message = await read(reader)
    assert (message[0], message[70]) == ("0800", expected)
    assert abs(datetime.strptime(f"2024{message[7]}", "%Y%m%d%H%M%S") - datetime.now(UTC).replace(tzinfo=None, year=2024)).seconds < 5
    writer.write(wire("0810", {7: message[7], 11: message[11], 39: code, 70: message[70]}))


class Host:
    """Runs one script per connection, the last one again for all further ones; a script that ends closes its connection."""

    def __init__(self, *scripts, sign_on=True):
        self.scripts, self.sign_on = scripts, sign_on
        self.connections, self.received, self.faults = 0, [], []

    async def serve(self, reader, writer):
        script = self.scripts[min(self.connections, len(self.scripts) - 1)]
        self.connections += 1
        try:
            if self.sign_on:
                await answer_network(reader, writer, "001")
            await script(self, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except Exception as fault:
            self.faults.append(fault)
        finally:
            writer.close()


async def quiet(host, reader, writer):
    while True:
        host.received.append(await read(reader))


async def approving(host, reader, writer):
    while True:
        message = await read(reader)
        host.received.append(message)
        if message[0] == "0800":
            writer.write(wire("0810", {7: message[7], 11: message[11], 39: "00", 70: message[70]}))
        elif message[0] == "0200":
            writer.write(approval(message))


class Watch:
    """A link and everything it reported."""

    def __init__(self, port, may_write=lambda: True, **settings):
        stans = iter(f"{n:06d}" for n in range(900001, 999999))
        self.unmatched, self.cut_overs, self.states, self.whys = [], [], [], []
        self.link = AcquirerLink(
            "acq", "test host", DIALECT, LinkSettings("127.0.0.1", port, **{**FAST, **settings}), next_stan=lambda: next(stans),
            on_unmatched=self.unmatched.append, on_cut_over=self.cut_overs.append, on_state=self.changed,
            may_write=may_write,
        )  # fmt: skip

    def changed(self, _, state, why):
        self.states.append(state)
        self.whys.append(why)

    def request(self, n, within=2.0, send_within=1.0):
        now = monotonic()
        return self.link.request(numbered(n), send_not_after=now + send_within, deadline=now + within)

    def told(self):
        return [(record.reason, record.field) for record in self.unmatched]


async def until(condition):
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def line(host, up=True, rcvbuf=0, **settings):
    listener = socket.create_server(("127.0.0.1", 0))
    if rcvbuf:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    server = await asyncio.start_server(host.serve, sock=listener)
    watch = Watch(listener.getsockname()[1], **settings)
    watch.link.start()
    try:
        if up:
            await until(watch.link.usable)
        yield watch
    finally:
        await watch.link.close()
        server.close()
        others = [task for task in asyncio.all_tasks() if task.get_coro().__name__ == "serve"]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)
    assert host.faults == []


@both_loops
async def test_the_line_signs_on_before_it_is_up_and_answers_come_with_their_times():
    before = datetime.now(UTC)
    async with line(Host(approving)) as watch:
        assert watch.link.state == "up"
        await until(lambda: watch.states == ["connecting", "signing_on", "up"])
        reply = await watch.request(1)
        assert isinstance(reply, Reply)
        assert (reply.message["0"], reply.message["11"], reply.message["39"]) == ("0210", "000001", "00")
        assert before <= reply.sent_at <= reply.answered_at <= datetime.now(UTC)
        assert "4111111111111111" not in repr(reply)


@both_loops
async def test_answers_out_of_order_over_one_line_reach_their_own_requests():
    async def backwards(host, reader, writer):
        requests = [await read(reader) for _ in range(100)]
        for request in reversed(requests):
            writer.write(approval(request))
        await quiet(host, reader, writer)

    host = Host(backwards)
    async with line(host) as watch:
        replies = await asyncio.gather(*(watch.request(n) for n in range(100)))
        assert [reply.message["37"] for reply in replies] == [f"406000{n:06d}" for n in range(100)]
        assert (host.connections, watch.link.snapshot()["pending"], watch.link.snapshot()["answered"]) == (1, 0, 100)


@both_loops
async def test_wrong_answers_are_recorded_with_their_field_and_the_right_one_still_counts():
    wrong = [{"_11": "000999"}, {"_37": "999999999999"}, {"_41": "TERM9999"}, {"_4": "000000009999"}, {"_49": "978"}]

    async def confused(host, reader, writer):
        request = await read(reader)
        for changed in wrong:
            writer.write(approval(request, **changed))
        writer.write(approval(request))
        await quiet(host, reader, writer)

    async with line(Host(confused)) as watch:
        assert isinstance(await watch.request(1), Reply)
        await until(lambda: len(watch.unmatched) == len(wrong))
        assert watch.told() == [("no_request", "11"), ("no_request", "37"), ("no_request", "41"), ("differs", "4"), ("differs", "49")]
        assert (watch.unmatched[0].acquirer_id, watch.unmatched[0].message["11"]) == ("acq", "000999")


@both_loops
async def test_silence_ends_at_the_deadline_and_the_late_answer_and_its_duplicate_are_evidence():
    async def slow(host, reader, writer):
        request = await read(reader)
        await asyncio.sleep(0.15)
        writer.write(approval(request) * 2)
        await quiet(host, reader, writer)

    async with line(Host(slow)) as watch:
        outcome = await watch.request(1, within=0.1)
        assert isinstance(outcome, Silence)
        assert outcome.reason == "timeout"
        await until(lambda: len(watch.unmatched) == 2)
        assert watch.told() == [("late", None), ("late", None)]
        assert watch.unmatched[0].match_key == "2|0229235950|000001|406000000001|TERM0001|MERCHANT0000001"
        assert watch.link.snapshot()["late"] == 2


@both_loops
async def test_silence_is_told_within_a_tick_of_the_deadline_and_never_before_it():
    async with line(Host(quiet)) as watch:
        over = []
        for n in range(5):
            start = monotonic()
            assert (await watch.request(n, within=0.03)).reason == "timeout"
            over.append(monotonic() - start - 0.03)
        assert min(over) >= 0
        assert sorted(over)[2] < 0.04


@both_loops
async def test_a_second_answer_is_a_duplicate():
    async def twice(host, reader, writer):
        writer.write(approval(await read(reader)) * 2)
        await quiet(host, reader, writer)

    async with line(Host(twice)) as watch:
        assert isinstance(await watch.request(1), Reply)
        await until(lambda: watch.told() == [("duplicate", None)])


@both_loops
async def test_garbage_in_a_frame_leaves_the_line_up():
    async def garbage(host, reader, writer):
        request = await read(reader)
        writer.write(b"\x00\x05\x00\xff\x80zz" + approval(request))
        await quiet(host, reader, writer)

    host = Host(garbage)
    async with line(host) as watch:
        assert isinstance(await watch.request(1), Reply)
        await until(lambda: watch.told() == [("undecodable", "0")])
        assert (host.connections, watch.link.snapshot()["undecodable"]) == (1, 1)


def partial_then_eof(writer, request):
    writer.write(approval(request)[:40])
    writer.close()


def reset(writer, request):
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def half_close(writer, request):
    writer.write_eof()


def bad_length(writer, request):
    writer.write(b"\xff\xff" + approval(request))


@pytest.mark.parametrize(("end", "why"), [
    (partial_then_eof, "closed by the host"), (reset, "ConnectionResetError"), (half_close, "closed by the host"), (bad_length, "framing lost: "),
])
def test_a_line_that_ends_makes_everything_in_flight_unknown_at_once_and_comes_back(end, why):
    @both_loops
    async def scenario():
        async def ending(host, reader, writer):
            await read(reader)
            end(writer, await read(reader))
            await asyncio.sleep(1)

        host = Host(ending, approving)
        async with line(host) as watch:
            start = monotonic()
            outcomes = await asyncio.gather(watch.request(1, within=20.0), watch.request(2, within=20.0))
            assert monotonic() - start < 0.5
            assert [(type(outcome), outcome.reason) for outcome in outcomes] == [(Silence, "line_lost")] * 2
            assert await watch.request(3) == Bounced("line_down")
            await until(watch.link.usable)
            assert isinstance(await watch.request(4), Reply)
            assert (watch.link.snapshot()["line_losses"], watch.link.snapshot()["reconnects"]) == (1, 1)
            assert [told for told in watch.whys if told is not None] == [told := watch.link.snapshot()["last_error"]] and why in told

    for new_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        scenario(new_loop)


@both_loops
async def test_an_answer_that_comes_over_the_next_connection_is_late():
    asked = []

    async def lose(host, reader, writer):
        asked.append(await read(reader))

    async def answer_old(host, reader, writer):
        writer.write(approval(asked[0]))
        await quiet(host, reader, writer)

    async with line(Host(lose, answer_old)) as watch:
        assert (await watch.request(1)).reason == "line_lost"
        await until(lambda: watch.told() == [("late", None)])


@both_loops
async def test_a_refused_connection_is_tried_again_until_the_host_is_there():
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    watch, host = Watch(port), Host(approving)
    watch.link.start()
    await until(lambda: watch.link.snapshot()["reconnects"] >= 3)
    assert watch.link.snapshot()["last_error"] == "not connected: ConnectionRefusedError"
    assert await watch.request(1) == Bounced("line_down")
    server = await asyncio.start_server(host.serve, "127.0.0.1", port)
    await until(watch.link.usable)
    assert isinstance(await watch.request(2), Reply)
    await watch.link.close()
    server.close()


@both_loops
async def test_a_host_that_never_reads_makes_new_requests_wait_bounce_and_then_loses_the_line():
    async def deaf(host, reader, writer):
        writer.transport.pause_reading()
        await asyncio.sleep(5)

    async with line(Host(deaf, quiet), rcvbuf=4096, write_deadline=0.8, window=4000) as watch:
        written = [watch.request(n, within=20.0, send_within=5.0) for n in range(2000)]
        queued = [watch.request(n, within=20.0, send_within=0.05) for n in range(2000, 2050)]
        assert {outcome.reason for outcome in await asyncio.gather(*queued)} == {"too_late"}
        sent = watch.link.snapshot()["sent"]
        assert 0 < sent < 2000
        outcomes = await asyncio.gather(*written)
        assert [outcome.reason for outcome in outcomes] == ["line_lost"] * sent + ["line_down"] * (2000 - sent)
        assert watch.link.snapshot()["last_error"] == "write deadline: the host does not read"


@both_loops
async def test_a_host_that_reads_again_in_time_gets_everything_in_order():
    async def hesitant(host, reader, writer):
        writer.transport.pause_reading()
        await asyncio.sleep(0.2)
        writer.transport.resume_reading()
        await approving(host, reader, writer)

    host = Host(hesitant)
    async with line(host, rcvbuf=4096, write_deadline=5.0, window=4000) as watch:
        outcomes = [watch.request(n, within=5.0, send_within=5.0) for n in range(2000)]
        assert watch.link.snapshot()["sent"] < 2000
        assert all(isinstance(outcome, Reply) for outcome in await asyncio.gather(*outcomes))
        assert [message[11] for message in host.received] == [f"{n:06d}" for n in range(2000)]


@both_loops
async def test_a_flapping_host_is_not_stormed():
    async def flap(host, reader, writer):
        await asyncio.sleep(0.01)

    host = Host(flap)
    async with line(host, up=False, backoff_min=0.05, backoff_max=0.4) as watch:
        await asyncio.sleep(0.6)
        assert 2 <= host.connections <= 20
        assert watch.link.snapshot()["line_losses"] >= 1


@both_loops
async def test_a_host_sign_off_makes_the_line_unusable_until_it_has_signed_on_again():
    signed_on = asyncio.Event()

    async def leaving(host, reader, writer):
        await asyncio.sleep(0.02)
        writer.write(network("002"))
        host.received.append(await read(reader))
        sign_on = await read(reader)
        await signed_on.wait()
        writer.write(wire("0810", {7: sign_on[7], 11: sign_on[11], 39: "00", 70: sign_on[70]}))
        await approving(host, reader, writer)

    host = Host(leaving)
    async with line(host, up=False) as watch:
        await until(lambda: watch.states == ["connecting", "signing_on", "up", "signing_on"])
        assert watch.whys == [None, None, None, "signed off by the host"]
        assert await watch.request(1) == Bounced("line_down")
        signed_on.set()
        await until(watch.link.usable)
        assert isinstance(await watch.request(2), Reply)
        assert host.connections == 1
        assert host.received[0] == {0: "0810", 7: "0229120000", 11: "000777", 39: "00", 70: "002"}


@both_loops
async def test_an_unanswered_sign_on_ends_the_connection_and_is_tried_anew():
    host = Host(quiet, sign_on=False)
    async with line(host, up=False, sign_on_timeout=0.05) as watch:
        await until(lambda: host.connections >= 3)
        assert "up" not in watch.states
        assert watch.link.snapshot()["last_error"] == "sign_on unanswered"


@both_loops
async def test_a_cut_over_under_load_is_answered_and_disturbs_nothing():
    async def cutting(host, reader, writer):
        for n in range(60):
            message = await read(reader)
            if n == 20:
                writer.write(network("201", _15="0301"))
            if message[0] == "0810":
                host.received.append(message)
            else:
                writer.write(approval(message))
        await approving(host, reader, writer)

    host = Host(cutting)
    async with line(host) as watch:
        for _ in range(4):
            base = watch.link.snapshot()["sent"]
            assert all(isinstance(reply, Reply) for reply in await asyncio.gather(*(watch.request(base + n) for n in range(20))))
        assert (watch.cut_overs, watch.unmatched) == (["0301"], [])
        assert host.received[0] == {0: "0810", 7: "0229120000", 11: "000777", 39: "00", 70: "201"}


@both_loops
async def test_an_idle_line_is_kept_alive_by_echoes():
    host = Host(approving)
    async with line(host, echo_idle=0.05) as watch:
        await until(lambda: len(host.received) >= 3)
        assert {(message[0], message[70]) for message in host.received} == {("0800", "301")}
        assert (watch.link.state, watch.link.snapshot()["echo_failures"]) == ("up", 0)


@both_loops
async def test_a_half_open_line_is_found_by_its_unanswered_echoes():
    host = Host(quiet, approving)
    async with line(host, echo_idle=0.05, echo_timeout=0.05, echo_failures=3) as watch:
        outcome = await watch.request(1, within=20.0)
        assert (outcome.reason, watch.link.snapshot()["last_error"]) == ("line_lost", "echo unanswered")
        assert [message[70] for message in host.received[1:]] == ["301"] * 3
        await until(watch.link.usable)


@both_loops
async def test_a_drain_finishes_what_is_in_flight_signs_off_and_stays_down_until_up():
    async def unhurried(host, reader, writer):
        request = await read(reader)
        await asyncio.sleep(0.1)
        writer.write(approval(request))
        await answer_network(reader, writer, "002")
        host.received.append("signed off")
        await quiet(host, reader, writer)

    host = Host(unhurried, approving)
    async with line(host) as watch:
        pending = watch.request(1)
        drain = asyncio.ensure_future(watch.link.drain(2.0))
        await asyncio.sleep(0.02)
        assert (watch.link.state, watch.link.usable()) == ("draining", False)
        assert await watch.request(2) == Bounced("draining")
        await drain
        assert isinstance(await pending, Reply)
        assert (watch.link.state, host.received, watch.link.snapshot()["line_losses"]) == ("down", ["signed off"], 0)
        await asyncio.sleep(0.1)
        assert (host.connections, await watch.request(3)) == (1, Bounced("line_down"))
        await watch.link.up()
        await until(watch.link.usable)
        assert isinstance(await watch.request(4), Reply)


@both_loops
async def test_a_drain_gives_up_at_its_limit_and_what_is_left_is_unknown():
    async with line(Host(quiet), sign_on_timeout=0.1) as watch:
        pending = watch.request(1, within=20.0)
        start = monotonic()
        await watch.link.drain(0.1)
        assert 0.2 <= monotonic() - start < 0.4
        assert (await pending).reason == "line_lost"


@both_loops
async def test_down_and_up_work_while_there_is_no_connection():
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    watch = Watch(port, backoff_min=20.0, backoff_max=20.0)
    watch.link.start()
    await until(lambda: watch.link.state == "disconnected")
    await watch.link.down()
    assert watch.link.state == "down"
    host = Host(approving)
    server = await asyncio.start_server(host.serve, "127.0.0.1", port)
    await asyncio.sleep(0.05)
    assert host.connections == 0
    await watch.link.up()
    await until(watch.link.usable)
    await watch.link.close()
    assert watch.link.state == "down"
    server.close()


@both_loops
async def test_sign_on_by_the_operator_is_sent_over_the_standing_connection():
    host = Host(approving)
    async with line(host) as watch:
        await watch.link.sign_on()
        assert (watch.link.state, watch.link.usable()) == ("signing_on", False)
        await until(watch.link.usable)
        assert (host.connections, [message[70] for message in host.received]) == (1, ["001"])


@both_loops
async def test_a_full_window_and_a_live_key_are_refused_without_a_byte():
    host = Host(quiet)
    async with line(host, window=2) as watch:
        first, again = watch.request(1, within=0.2), watch.request(1)
        second, third = watch.request(2, within=0.2), watch.request(3)
        assert (await again, await third) == (Bounced("duplicate_key"), Bounced("window_full"))
        assert not watch.link.usable()
        assert [outcome.reason for outcome in await asyncio.gather(first, second)] == ["timeout", "timeout"]
        assert watch.link.usable()
        assert [message[11] for message in host.received] == ["000001", "000002"]


@both_loops
async def test_a_request_whose_time_to_send_is_over_leaves_no_byte():
    host = Host(approving)
    async with line(host) as watch:
        assert await watch.request(1, send_within=-0.001) == Bounced("too_late")
        assert isinstance(await watch.request(2), Reply)
        assert [message[11] for message in host.received] == ["000002"]


@both_loops
async def test_once_a_write_has_failed_the_next_request_leaves_no_byte():
    async def reset_when_told(host, reader, writer):
        host.writer = writer
        await quiet(host, reader, writer)

    host = Host(reset_when_told)
    async with line(host) as watch:
        await until(lambda: hasattr(host, "writer"))
        reset(host.writer, None)
        await asyncio.sleep(0)  # the host's socket is closed, the line has not been told
        first = watch.request(1)
        await asyncio.sleep(0)  # frames of one turn of the loop leave together: this is the write that fails
        second = watch.request(2)
        assert [(await first).reason, (await second).reason] == ["line_lost", "line_down"]


@both_loops
async def test_a_host_that_hangs_up_without_reading_ends_everything_at_once():
    async def deaf_then_gone(host, reader, writer):
        writer.transport.pause_reading()
        await asyncio.sleep(0.05)
        writer.write_eof()
        await asyncio.sleep(5)

    async with line(Host(deaf_then_gone, quiet), rcvbuf=4096, write_deadline=5.0, window=4000) as watch:
        start = monotonic()
        outcomes = await asyncio.gather(*(watch.request(n, within=20.0, send_within=5.0) for n in range(2000)))
        assert monotonic() - start < 3
        assert {outcome.reason for outcome in outcomes} == {"line_lost", "line_down"}


@both_loops
async def test_a_stalled_loop_does_not_send_what_has_become_too_old():
    host = Host(approving)
    async with line(host) as watch:
        limit = asyncio.get_running_loop().time() + 0.02
        sleep(0.03)
        assert await watch.link.request(numbered(1), send_not_after=limit, deadline=limit + 1) == Bounced("too_late")


@both_loops
async def test_the_answer_to_a_cancelled_caller_is_evidence():
    async def delayed(host, reader, writer):
        request = await read(reader)
        await asyncio.sleep(0.05)
        writer.write(approval(request))
        await quiet(host, reader, writer)

    async with line(Host(delayed)) as watch:
        watch.request(1).cancel()
        await until(lambda: watch.told() == [("late", None)])
        assert watch.unmatched[0].match_key == "2|0229235950|000001|406000000001|TERM0001|MERCHANT0000001"


@both_loops
async def test_a_consumer_that_raises_harms_no_request():
    async def twice_then_on(host, reader, writer):
        writer.write(approval(await read(reader)) * 2)
        await approving(host, reader, writer)

    def broken(record):
        raise RuntimeError("consumer")

    raised = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(str(context["exception"])))
    host = Host(twice_then_on)
    async with line(host) as watch:
        watch.link._on_unmatched = broken
        assert isinstance(await watch.request(1), Reply)
        assert isinstance(await watch.request(2), Reply)
        assert (raised, host.connections) == (["consumer"], 1)


@both_loops
async def test_close_ends_everything_in_flight():
    async with line(Host(quiet)) as watch:
        pending = watch.request(1, within=20.0)
        await watch.link.close()
        assert (await pending).reason == "line_lost"
        assert (watch.link.state, await watch.request(2)) == ("down", Bounced("line_down"))
    assert [task for task in asyncio.all_tasks() if task.get_name() == "link test host"] == []


@both_loops
async def test_the_snapshot_tells_what_operators_see():
    async with line(Host(approving)) as watch:
        await watch.request(1)
        shown = watch.link.snapshot()
        assert (shown.pop("since").tzinfo, shown.pop("last_answer_at").tzinfo) == (UTC, UTC)
        (each,) = shown.pop("lines")
        assert each.pop("since").tzinfo == UTC
        assert each == {
            "line": "", "number": 1, "priority": 0, "host": "127.0.0.1", "port": watch.link.settings.port, "state": "up", "pending": 0, "last_error": None,
            "breaker": "none", "breaker_since": None, "breaker_trips": 0, "tls": False, "certificate_ends_at": None,
        }  # fmt: skip
        assert shown == {
            "acquirer_id": "acq", "name": "test host", "host": "127.0.0.1", "port": watch.link.settings.port, "state": "up", "pending": 0,
            "window": 2048, "sent": 1, "answered": 1, "timeouts": 0, "unmatched": 0, "late": 0, "undecodable": 0, "line_losses": 0,
            "reconnects": 0, "echo_failures": 0, "last_error": None, "breaker": "none",
        }  # fmt: skip


@both_loops
async def test_the_socket_sends_at_once_and_is_watched_by_the_kernel():
    async with line(Host(quiet)) as watch:
        sock = watch.link._connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0


# a process that stands still


@both_loops
async def test_what_a_stand_still_made_late_does_not_leave_and_what_may_still_leave_does():
    host = Host(approving)
    async with line(host) as watch:
        late, good = watch.request(1, send_within=0.05), watch.request(2, send_within=2.0)
        sleep(0.1)  # after the request, before the turn's write
        assert (await late, isinstance(await good, Reply)) == (Bounced("too_late"), True)
        assert [message[11] for message in host.received] == ["000002"]
        assert (watch.link.snapshot()["sent"], watch.link.snapshot()["pending"]) == (1, 0)


@both_loops
async def test_without_its_lease_nothing_leaves_and_a_line_that_must_speak_hangs_up():
    host, leased = Host(approving), True
    async with line(host, echo_idle=0.3, may_write=lambda: leased) as watch:
        assert isinstance(await watch.request(1), Reply)
        waiting = watch.request(2)
        leased = False
        assert await waiting == Bounced("lease_lost")
        assert await watch.request(3) == Bounced("lease_lost")
        assert watch.link.state == "up"
        await until(lambda: watch.link.snapshot()["last_error"] == "lease lost")
        assert [message[11] for message in host.received] == ["000001"], "not even an echo"
        leased = True
        await until(watch.link.usable)
        assert isinstance(await watch.request(4), Reply)


@both_loops
async def test_what_waits_for_the_host_to_read_does_not_leave_without_the_lease():
    leased, reading, received = True, asyncio.Event(), []

    async def slow(host, reader, writer):
        await reading.wait()
        while True:
            received.append((await read(reader))[11])

    async with line(Host(slow), rcvbuf=2048, window=6000, write_deadline=5.0, may_write=lambda: leased) as watch:
        asked = [watch.request(1)]
        while watch.link._connection._protocol._paused_since is None:
            asked += [watch.request(len(asked) + 1 + n, send_within=1.0, within=1.5) for n in range(50)]
            await asyncio.sleep(0)
        queued = [watch.request(5000 + n, send_within=1.0, within=1.5) for n in range(5)]
        leased = False
        reading.set()
        assert [await each for each in queued] == [Bounced("too_late")] * 5
        await asyncio.wait(asked)
        assert "005000" not in received and received
