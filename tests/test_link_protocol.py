"""The link's decisions: bytes in, events and bytes out, at invented instants. All wire bytes here are made by hand."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messages.dialect import load, match_key
from switch.links import Bounced, CutOver, EchoEnded, KeyChange, LineClosed, LinkSettings, Reply, Settled, Silence, Unmatched
from switch.links import network as network_rules
from switch.links.backoff import backoff_delay
from switch.links.exchange import ENDED_MAX, Exchange, Exchanges
from switch.links.protocol import KEY_CHANGES_MAX, PAUSED_NETWORK_FRAMES_MAX, LinkProtocol

DIALECT = load("iso87_ascii")
SETTINGS = LinkSettings("host.test", 5000, window=4)
START = datetime(2024, 2, 29, 23, 59, 50, tzinfo=UTC)
REQUEST = {
    "0": "0200", "2": "4111111111111111", "3": "000000", "4": "000000001000", "7": "0229235950", "11": "000101", "12": "235950",
    "13": "0229", "14": "3012", "18": "5411", "22": "051", "25": "00", "37": "406000000101", "41": "TERM0001", "42": "MERCHANT0000001",
    "49": "840",
}  # fmt: skip
ECHOED = ("3", "4", "7", "11", "37", "41", "42", "49")


def wire(message):
    """A frame of iso87_ascii, assembled without the codec under test."""
    numbers = sorted(int(number) for number in message if number != "0")
    bits = sum(1 << (128 - number) for number in numbers) | (1 << 127 if numbers[-1] > 64 else 0)
    bitmap = f"{bits:032X}"[: 32 if numbers[-1] > 64 else 16]
    text = message["0"] + bitmap + "".join(("16" if number == 2 else "") + message[str(number)] for number in numbers)
    return len(text).to_bytes(2, "big") + text.encode()


def answer_to(request, **changed):
    """The bytes of an approval, with the named fields (`_4="..."`) changed, or left out when None."""
    answer = {"0": "0210", **{number: request[number] for number in ECHOED}, "38": "123456", "39": "00"}
    answer |= {key[1:]: value for key, value in changed.items()}
    return wire({number: value for number, value in answer.items() if value is not None})


def numbered(n, **changed):
    return {**REQUEST, "11": f"{n:06d}", "37": f"406000{n:06d}", **changed}


class Line:
    """A protocol and its invented clock, in seconds since START."""

    def __init__(self, signed_on=True, draw=lambda: 1.0, exchanges=None, keyed=False, **changed):
        stans = iter(f"{n:06d}" for n in range(900001, 999999))
        self.protocol = LinkProtocol("acq", DIALECT, replace(SETTINGS, **changed), next_stan=lambda: next(stans), draw=draw, exchanges=exchanges,
                                     keyed=keyed)
        self.now = 0.0
        self.connect(signed_on)

    def connect(self, signed_on=True):
        self.protocol.connected(self.now, self.utc)
        sent = self.protocol.take_output()
        if signed_on:
            assert self.receive(self.network_answer(sent)) == ([], b"")
        return sent

    @property
    def utc(self):
        return START + timedelta(seconds=self.now)

    def network_answer(self, sent, **changed):
        text = sent[2:].decode()
        assert text[:36] == "080082200000000000000400000000000000"
        answer = {"0": "0810", "7": text[36:46], "11": text[46:52], "39": "00", "70": text[52:55]}
        answer |= {key[1:]: value for key, value in changed.items()}
        return wire({number: value for number, value in answer.items() if value is not None})

    def receive(self, data, at=None):
        self.now = self.now if at is None else at
        self.protocol.receive(data, self.now, self.utc)
        return self.protocol.take_events(), self.protocol.take_output()

    def tick(self, at):
        self.now = at
        self.protocol.tick(self.now, self.utc)
        return self.protocol.take_events(), self.protocol.take_output()

    def request(self, message=REQUEST, token="token", send_not_after=2.0, deadline=30.0):
        return self.protocol.request(message, token, self.now, self.utc, self.now + send_not_after, self.now + deadline)


def told(events):
    """Events in a short form: (token, outcome) or (reason, field)."""
    short = []
    for event in events:
        if isinstance(event, Settled):
            short.append((event.token, getattr(event.result, "reason", "reply")))
        elif isinstance(event, Unmatched):
            short.append((event.reason, event.field))
        else:
            short.append(tuple(event))
    return short


def network(code, **fields):
    return wire({"0": "0800", "7": "0229120000", "11": "000777", "70": code} | {key[1:]: value for key, value in fields.items()})


# requests and answers


def test_an_answer_settles_its_request_with_the_times_of_sending_and_answering():
    line = Line()
    line.now = 1.0
    assert line.request() == wire(REQUEST)
    answer = answer_to(REQUEST)
    events, output = line.receive(answer, at=1.5)
    (settled,) = events
    assert output == b""
    assert (settled.token, settled.raw_length) == ("token", len(answer) - 2)
    assert settled.result.sent_at == START + timedelta(seconds=1)
    assert settled.result.answered_at == START + timedelta(seconds=1.5)
    assert settled.result.message == {"0": "0210", **{n: REQUEST[n] for n in ECHOED}, "38": "123456", "39": "00"}
    assert (line.protocol.in_flight, line.protocol.counters.answered) == (0, 1)


@pytest.mark.parametrize(
    ("changed", "reason", "field"),
    [
        ({"_11": "000999"}, "no_request", "11"),
        ({"_37": "999999999999"}, "no_request", "37"),
        ({"_41": "TERM0002"}, "no_request", "41"),
        ({"_42": "MERCHANT0000002"}, "no_request", "42"),
        ({"_7": "0229235951"}, "no_request", "7"),
        ({"_11": None}, "no_request", "11"),
        ({"_0": "0110"}, "no_request", "0"),
        ({"_11": "000999", "_37": "999999999999"}, "no_request", None),
        ({"_4": "000000001001"}, "differs", "4"),
        ({"_4": "000000000500"}, "differs", "4"),
        ({"_49": "978"}, "differs", "49"),
        ({"_3": "200000"}, "differs", "3"),
        ({"_4": None}, "differs", "4"),
        ({"_39": None}, "differs", "39"),
        ({"_38": None}, "differs", "38"),
        ({"_0": "0230"}, "differs", "0"),
        ({"_2": "4222222222222220"}, "differs", "2"),
        ({"_0": "0200"}, "unknown_mti", "0"),
        ({"_0": "0420"}, "unknown_mti", "0"),
        ({"_0": "0100"}, "unknown_mti", "0"),
    ],
)
def test_what_is_no_answer_is_recorded_with_its_field_and_the_request_waits_on(changed, reason, field):
    line = Line()
    line.request()
    events, output = line.receive(answer_to(REQUEST, **changed))
    assert (told(events), output) == ([(reason, field)], b"")
    assert (line.protocol.counters.unmatched, line.protocol.in_flight) == (1, 1)
    assert told(line.receive(answer_to(REQUEST))[0]) == [("token", "reply")]


@pytest.mark.parametrize(
    ("changed", "field"), [({"_11": "000102"}, "11"), ({"_37": "406000000102"}, "37"), ({"_11": "000102", "_7": "0229235951"}, "7")]
)
def test_the_nearest_request_names_the_field_when_a_wrong_number_is_another_requests_number(changed, field):
    line = Line()
    line.request(numbered(101))
    line.request(numbered(102, **{"7": "0301000000", "41": "TERM0002"}))
    assert told(line.receive(answer_to(numbered(101), **changed))[0]) == [("no_request", field)]


@pytest.mark.parametrize(("changed", "field"), [
    ({"11": "000999"}, "11"), ({"41": "TERM0009"}, "41"), ({"42": "MERCHANT0000009"}, "42"), ({"60": "2226112900060"}, "60.2"), ({"0": "0110"}, "0"),
    ({"11": "000999", "41": "TERM0009"}, None), ({"11": "000101", "37": None}, "11"),
])
def test_where_the_host_gives_the_rrn_the_terminal_names_the_request_that_is_meant(changed, field):
    exchanges, dialect = Exchanges(load("unionpay_pos")), load("unionpay_pos")
    for stan, terminal in (("000101", "TERM0001"), ("000102", "TERM0002"), ("000103", "TERM0003")):
        request = {"0": "0200", "11": stan, "41": terminal, "42": "MERCHANT0000001", "60": "2226112800060"}
        exchanges.add(Exchange(match_key(dialect, request), request, "token", Line().protocol, 1.0, 2.0))
    answer = {"0": "0210", "11": "000102", "37": "H00000000001", "41": "TERM0002", "42": "MERCHANT0000001", "60": "2226112800060", **changed}
    assert exchanges.nearest_difference({number: value for number, value in answer.items() if value is not None}) == field


def test_a_partial_approval_may_differ_in_the_amount():
    line = Line()
    line.request()
    assert told(line.receive(answer_to(REQUEST, _39="10", _4="000000000500"))[0]) == [("token", "reply")]


def test_answers_out_of_order_reach_their_own_requests():
    line = Line()
    for n in (1, 2, 3):
        line.request(numbered(n), token=n)
    events, _ = line.receive(b"".join(answer_to(numbered(n)) for n in (3, 1, 2)))
    assert told(events) == [(3, "reply"), (1, "reply"), (2, "reply")]
    assert [event.result.message["11"] for event in events] == ["000003", "000001", "000002"]


def test_an_answer_after_the_timeout_is_late_and_a_second_answer_is_a_duplicate():
    line = Line()
    line.request(deadline=3.0)
    assert line.tick(2.99) == ([], b"")
    assert told(line.tick(3.0)[0]) == [("token", "timeout")]
    (late,) = line.receive(answer_to(REQUEST), at=4.0)[0]
    assert (late.reason, late.field, late.match_key) == ("late", None, "2|0229235950|000101|406000000101|TERM0001|MERCHANT0000001")
    assert late.received_at == START + timedelta(seconds=4)
    line.request(numbered(2), token=2)
    assert told(line.receive(answer_to(numbered(2)) * 2)[0]) == [(2, "reply"), ("duplicate", None)]
    assert (line.protocol.counters.timeouts, line.protocol.counters.late, line.protocol.counters.unmatched) == (1, 1, 1)


def test_a_late_answer_over_another_amount_says_so():
    line = Line()
    line.request(deadline=3.0)
    line.tick(3.0)
    assert told(line.receive(answer_to(REQUEST, _4="000000009999"))[0]) == [("late", "4")]


def test_an_answer_that_is_read_after_its_deadline_is_late_even_if_no_tick_came_between():
    line = Line()
    line.request(deadline=3.0)
    assert told(line.receive(answer_to(REQUEST), at=3.0)[0]) == [("token", "timeout"), ("late", None)]


def test_ended_requests_are_forgotten_oldest_first_and_keep_no_card_data():
    line = Line(window=ENDED_MAX + 10)
    for n in range(ENDED_MAX + 1):
        line.request(numbered(n), deadline=1.0)
    line.tick(1.0)
    assert told(line.receive(answer_to(numbered(0)))[0]) == [("no_request", None)]
    assert told(line.receive(answer_to(numbered(1)))[0]) == [("late", None)]
    kept = line.protocol._exchanges
    assert len(kept) == len(line.protocol.exchanges._by_stan) == len(line.protocol.exchanges._by_number) == ENDED_MAX
    assert "4111111111111111" not in repr([exchange.request for exchange in kept.values()])


def test_the_heap_of_deadlines_stays_bounded_while_requests_come_and_go():
    line = Line()
    for n in range(1500):
        line.request(numbered(n))
        line.receive(answer_to(numbered(n)))
    assert len(line.protocol._deadlines.heap) <= 2 * SETTINGS.window + 1024


# refusals


def drained(line):
    line.request(numbered(9))
    line.protocol.drain(100.0)


@pytest.mark.parametrize(
    ("prepare", "changed", "reason"),
    [
        (lambda line: line.request(), {}, "duplicate_key"),
        (lambda line: line.request(), {"message": {**REQUEST, "0": "0201"}}, "duplicate_key"),
        (lambda line: [line.request(numbered(n)) for n in range(4)], {}, "window_full"),
        (lambda line: None, {"send_not_after": -0.001}, "too_late"),
        (lambda line: None, {"deadline": 0.0}, "too_late"),
        (lambda line: None, {"message": {**REQUEST, "4": "12.50"}}, "not_encodable"),
        (lambda line: None, {"message": {"2": "4111111111111111"}}, "not_encodable"),
        (drained, {}, "draining"),
        (lambda line: line.protocol.close("lost"), {}, "line_down"),
        (lambda line: line.receive(network("002")), {}, "line_down"),
        (lambda line: line.protocol.sign_on(0.0, START), {}, "line_down"),
    ],
)
def test_a_refused_request_is_bounced_by_name_and_leaves_no_trace(prepare, changed, reason):
    line = Line()
    prepare(line)
    before = line.protocol.in_flight, line.protocol.counters.sent
    assert line.request(**changed) == Bounced(reason)
    assert (line.protocol.in_flight, line.protocol.counters.sent) == before


def test_a_key_is_free_again_when_its_request_has_ended():
    line = Line()
    line.request(deadline=1.0)
    line.tick(1.0)
    assert line.request({**REQUEST, "0": "0201"}) == wire({**REQUEST, "0": "0201"})


# writing paused


def test_while_the_host_does_not_read_requests_wait_and_leave_in_order_when_it_does():
    line = Line()
    line.protocol.pause(0.0)
    assert [line.request(numbered(n), token=n) for n in (1, 2)] == [None, None]
    line.now = 1.0
    line.protocol.resume()
    assert line.protocol.next_queued(1.0, line.utc) == wire(numbered(1))
    line.protocol.pause(1.0)  # the first write filled the buffer again
    assert line.protocol.next_queued(1.0, line.utc) is None
    line.protocol.resume()
    assert line.protocol.next_queued(1.0, line.utc) == wire(numbered(2))
    (settled,) = line.receive(answer_to(numbered(2)))[0]
    assert settled.result.sent_at == START + timedelta(seconds=1)


def test_a_queued_request_bounces_at_its_send_not_after_and_a_written_one_waits_until_its_deadline():
    line = Line(write_deadline=60.0)
    line.protocol.pause(0.0)
    line.request(numbered(1), token=1, send_not_after=0.5)
    line.request(numbered(2), token=2, send_not_after=1.5, deadline=10.0)
    assert told(line.tick(0.5)[0]) == [(1, "too_late")]
    line.protocol.resume()
    assert line.protocol.next_queued(0.6, line.utc) == wire(numbered(2))
    assert line.tick(9.99)[0] == []
    assert told(line.tick(10.0)[0]) == [(2, "timeout")]
    assert told(line.receive(answer_to(numbered(1)))[0]) == [("no_request", None)]


def test_the_send_limit_is_checked_just_before_the_write_even_without_a_tick():
    line = Line()
    line.protocol.pause(0.0)
    line.request(send_not_after=0.5)
    line.protocol.resume()
    assert line.protocol.next_queued(0.51, line.utc) is None
    assert told(line.protocol.take_events()) == [("token", "too_late")]


def test_an_answer_to_a_request_that_is_still_queued_is_no_answer():
    line = Line()
    line.protocol.pause(0.0)
    line.request()
    assert told(line.receive(answer_to(REQUEST))[0]) == [("no_request", None)]
    assert line.protocol.in_flight == 1


def test_a_host_that_does_not_read_until_the_write_deadline_loses_the_line():
    line = Line(write_deadline=2.0)
    line.request(numbered(1), token=1)
    line.protocol.pause(0.0)
    line.request(numbered(2), token=2, send_not_after=9.0)
    assert line.tick(1.99)[0] == []
    assert told(line.tick(2.0)[0]) == [(1, "line_lost"), (2, "line_down"), ("write deadline: the host does not read",)]


def test_a_host_that_sends_network_messages_and_reads_nothing_loses_the_line():
    line = Line()
    line.protocol.pause(0.0)
    events, output = line.receive(network("301") * PAUSED_NETWORK_FRAMES_MAX)
    assert events == []
    assert output.count(b"0810") == PAUSED_NETWORK_FRAMES_MAX
    assert told(line.receive(network("301"))[0]) == [("the host sends network messages and does not read",)]


# the end of a line


def test_a_lost_line_ends_everything_in_flight_at_once_and_is_told_once():
    line = Line()
    for n in (1, 2):
        line.request(numbered(n), token=n)
    line.protocol.close("reset")
    line.protocol.close("again")
    events = line.protocol.take_events()
    assert told(events) == [(1, "line_lost"), (2, "line_lost"), ("reset",)]
    assert events[0].result == Silence("line_lost", START)
    assert (line.protocol.counters.line_losses, line.protocol.in_flight) == (1, 0)


def test_an_answer_over_the_next_connection_is_late_and_half_a_frame_of_the_last_one_is_gone():
    line = Line()
    line.request()
    line.receive(answer_to(REQUEST)[:50])
    line.protocol.close("reset")
    line.protocol.take_events()
    line.connect()
    assert told(line.receive(answer_to(REQUEST))[0]) == [("late", None)]


@pytest.mark.parametrize("header", [b"\x00\x00", b"\xff\xff"])
def test_a_lost_framing_closes_the_line_but_answers_before_it_count(header):
    line = Line()
    for n in (1, 2):
        line.request(numbered(n), token=n)
    events, _ = line.receive(answer_to(numbered(1)) + header + answer_to(numbered(2)))
    assert told(events)[:2] == [(1, "reply"), (2, "line_lost")]
    assert isinstance(events[2], LineClosed)
    assert events[2].reason.startswith("framing lost: ")
    assert line.receive(answer_to(numbered(2))) == ([], b"")


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"\x00\x01hello", "1"),
        (b"02", "0"),
        (b"0210" + b"zz" * 8, "1"),
        (answer_to(REQUEST)[2:-1], "49"),
        (answer_to(REQUEST)[2:] + b"1", None),
    ],
)
def test_an_undecodable_frame_is_recorded_and_the_line_stays(payload, field):
    line = Line()
    line.request()
    (record,), output = line.receive(len(payload).to_bytes(2, "big") + payload)
    assert (record.reason, record.message, record.raw_length, output) == ("undecodable", None, len(payload), b"")
    assert field is None or record.field == field
    assert record.fault is not None and record.fault.startswith("at byte ")
    assert told(line.receive(answer_to(REQUEST))[0]) == [("token", "reply")]
    assert line.protocol.counters.undecodable == 1


# sign-on


def test_a_connection_signs_on_with_utc_time_before_the_line_is_up():
    line = Line(signed_on=False)
    line.protocol.close("once more")
    line.protocol.take_events()
    sent = line.connect(signed_on=False)
    assert sent == wire({"0": "0800", "7": "0229235950", "11": "900002", "70": "001"})
    assert (line.protocol.phase, line.protocol.usable(), line.request()) == ("signing_on", False, Bounced("line_down"))
    line.receive(line.network_answer(sent))
    assert (line.protocol.phase, line.protocol.usable()) == ("up", True)


@pytest.mark.parametrize(("changed", "field"), [({"_11": "000001"}, "11"), ({"_7": "0101000000"}, "7"), ({"_70": "301"}, "70")])
def test_an_0810_that_does_not_match_signs_nobody_on(changed, field):
    line = Line(signed_on=False)
    line.protocol.close("")
    line.protocol.take_events()
    sent = line.connect(signed_on=False)
    assert told(line.receive(line.network_answer(sent, **changed))[0]) == [("no_request", field)]
    assert line.protocol.phase == "signing_on"


@pytest.mark.parametrize("code", ["05", "91", None])
def test_a_refused_sign_on_is_repeated_after_the_backoff(code):
    line = Line(signed_on=False)
    line.protocol.close("")
    sent = line.connect(signed_on=False)
    line.receive(line.network_answer(sent, _39=code))
    assert (line.protocol.phase, line.protocol.last_error) == ("signed_off", f"sign-on refused: {code or 'without DE39'}")
    assert line.tick(0.099)[1] == b""
    again = line.tick(0.1)[1]
    line.receive(line.network_answer(again, _39="91"))
    assert line.tick(0.299)[1] == b""  # doubled
    line.receive(line.network_answer(line.tick(0.301)[1]))
    assert line.protocol.phase == "up"


def test_an_unanswered_sign_on_closes_the_line():
    line = Line(signed_on=False)
    assert line.tick(4.99) == ([], b"")
    assert told(line.tick(5.0)[0]) == [("sign_on unanswered",)]


def test_without_a_number_the_sign_on_waits_for_one():
    stans = iter([None, "000005"])
    protocol = LinkProtocol("acq", DIALECT, SETTINGS, next_stan=lambda: next(stans), draw=lambda: 1.0)
    protocol.connected(0.0, START)
    assert (protocol.phase, protocol.take_output()) == ("signed_off", b"")
    protocol.tick(0.1, START)
    assert protocol.take_output() == wire({"0": "0800", "7": "0229235950", "11": "000005", "70": "001"})


def test_a_host_sign_off_is_answered_and_the_line_signs_on_again_after_the_backoff():
    line = Line()
    line.request(token=1)
    events, output = line.receive(network("002"))
    assert (events, output) == ([], wire({"0": "0810", "7": "0229120000", "11": "000777", "39": "00", "70": "002"}))
    assert not line.protocol.usable()
    assert told(line.receive(answer_to(REQUEST))[0]) == [(1, "reply")]  # what was in flight may still be answered
    assert line.tick(0.09)[1] == b""
    line.receive(line.network_answer(line.tick(0.1)[1]))
    assert line.protocol.usable()


def test_a_host_sign_on_ends_the_wait_after_its_sign_off():
    line = Line(backoff_min=10.0)
    line.receive(network("002"))
    line.receive(network("001"))
    assert b"001" in line.tick(0.01)[1]


# echo


def test_an_idle_line_is_tested_and_any_answered_echo_starts_the_idle_time_again():
    line = Line()
    assert line.tick(29.9)[1] == b""
    sent = line.tick(30.0)[1]
    assert sent == wire({"0": "0800", "7": "0301000020", "11": "900002", "70": "301"})
    assert line.receive(line.network_answer(sent), at=31.0) == ([], b"")
    assert line.tick(60.9)[1] == b""
    assert line.tick(61.0)[1] != b""


def test_three_unanswered_echoes_close_the_line():
    line = Line()
    line.request(deadline=99.0)
    sent = [line.tick(at)[1] != b"" for at in (30.0, 34.9, 35.0, 39.9, 40.0)]
    assert sent == [True, False, True, False, True]
    assert line.protocol.echo_failures == 2
    assert told(line.tick(45.0)[0]) == [("token", "line_lost"), ("echo unanswered",)]


def test_a_refused_echo_is_no_proof_of_life():
    line = Line()
    for at in (30.0, 35.0, 40.0):
        line.receive(line.network_answer(line.tick(at)[1], _39="91"), at=at + 0.1)
    assert told(line.tick(45.0)[0]) == [("echo unanswered",)]


def test_traffic_forgives_an_unanswered_echo():
    line = Line()
    line.request(deadline=99.0)
    line.tick(30.0)
    line.tick(35.0)
    assert line.protocol.echo_failures == 1
    line.receive(answer_to(REQUEST), at=36.0)
    assert line.protocol.echo_failures == 0
    assert line.tick(40.0) == ([], b"")
    assert line.tick(65.9)[1] == b""
    assert line.tick(66.0)[1] != b""


def test_a_line_that_only_sends_is_idle_too():
    line = Line(window=100)
    for second in range(30):
        line.now = float(second)
        line.request(numbered(second), deadline=99.0)
    assert line.tick(30.0)[1] != b""


# what hosts initiate


@pytest.mark.parametrize(("text", "day"), [
    ("1129", "1129"), ("0229", "0229"), ("0230", None), ("1131", None), ("1301", None), ("", None), ("26W4", None), ("261129", "1129"), ("151129", None),
    ("261131", None), ("261229", None), ("26W481", None), ("20261129", None), ("٢٦١١", None)])
def test_the_day_that_a_host_opens_is_one_of_the_calendar_and_of_its_year(text: str, day: str | None) -> None:
    assert network_rules.day_opened(text, date(2026, 11, 27)) == day


@pytest.mark.parametrize(
    ("sent", "code", "events"),
    [
        (network("301"), "00", []),
        (network("001"), "00", []),
        (network("201", _15="0301"), "00", [("0301",)]),
        (network("201", _15="0229"), "00", [("0229",)]),
        (network("201", _15="1301"), "30", [("unknown_mti", "15")]),
        (network("201", _15="0230"), "30", [("unknown_mti", "15")]),
        (network("201", _15="1131"), "30", [("unknown_mti", "15")]),
        (network("201"), "30", [("unknown_mti", "15")]),
        (network("161"), "30", [("unknown_mti", "70")]),
        (network("101"), "30", [("unknown_mti", "70")]),
    ],
)
def test_a_host_0800_is_answered_with_its_own_numbers(sent, code, events):
    line = Line()
    happened, output = line.receive(sent)
    assert told(happened) == events
    assert output == wire({"0": "0810", "7": "0229120000", "11": "000777", "39": code, "70": sent[-3:].decode()})
    assert line.protocol.usable()


def test_a_host_0800_without_the_usual_fields_is_answered_and_recorded():
    line = Line()
    events, output = line.receive(wire({"0": "0800", "11": "000777"}))
    assert (told(events), output) == ([("unknown_mti", "70")], wire({"0": "0810", "11": "000777", "39": "30"}))


def test_a_cut_over_leaves_requests_in_flight_alone():
    line = Line()
    line.request()
    events, _ = line.receive(network("201", _15="0301") + answer_to(REQUEST))
    assert events[0] == CutOver("0301")
    assert isinstance(events[1].result, Reply)


def test_a_key_change_waits_for_whoever_installs_the_keys_and_is_answered_with_their_code():
    line = Line(keyed=True)
    line.request()
    events, output = line.receive(network("101", _96="0123456789ABCDEF"))
    assert (events, output) == ([KeyChange({"0": "0800", "7": "0229120000", "11": "000777", "70": "101", "96": "0123456789ABCDEF"})], b"")
    assert told(line.receive(answer_to(REQUEST))[0]) == [("token", "reply")], "payments go on meanwhile"
    line.protocol.answer_key_change(events[0].message, "88")
    assert line.protocol.take_output() == wire({"0": "0810", "7": "0229120000", "11": "000777", "39": "88", "70": "101"})


def test_key_changes_that_nobody_answers_yet_are_bounded_and_forgotten_with_their_connection():
    line = Line(keyed=True)
    events, output = line.receive(network("101") * (KEY_CHANGES_MAX + 1))
    assert [type(event) for event in events] == [*[KeyChange] * KEY_CHANGES_MAX, Unmatched]
    assert output == wire({"0": "0810", "7": "0229120000", "11": "000777", "39": "30", "70": "101"})
    line.protocol.close("lost")
    assert told(line.protocol.take_events()) == [("lost",)]
    line.connect()
    line.protocol.answer_key_change(events[0].message, "00")
    assert line.protocol.take_output() == b""


def test_a_probe_is_an_echo_whose_end_is_told_and_other_echoes_are_not():
    line = Line()
    line.protocol.probe(line.now, line.utc)
    sent = line.protocol.take_output()
    assert sent[-3:] == b"301"
    line.protocol.probe(line.now, line.utc)
    assert line.protocol.take_output() == b"", "one at a time"
    assert line.receive(line.network_answer(sent))[0] == [EchoEnded(True)]
    sent = line.tick(SETTINGS.echo_idle)[1]
    assert line.receive(line.network_answer(sent))[0] == []
    line.protocol.probe(line.now, line.utc)
    line.protocol.take_output()
    line.receive(network("301"), at=line.now + 1)
    assert line.tick(line.now + SETTINGS.echo_timeout)[0] == [EchoEnded(False)], "a sign of life is no answer"


# lines that share what is in flight


def two_lines(**changed):
    exchanges = Exchanges(DIALECT)
    return Line(exchanges=exchanges, **changed), Line(exchanges=exchanges, **changed)


def test_an_answer_may_come_over_another_line_than_its_request():
    first, second = two_lines()
    first.request(token="a")
    assert told(second.receive(answer_to(REQUEST))[0]) == [("a", "reply")]
    assert (first.protocol.in_flight, second.protocol.in_flight) == (0, 0)
    assert told(first.receive(answer_to(REQUEST))[0]) == [("duplicate", None)]


def test_a_key_is_in_flight_once_over_all_lines_and_free_again_afterwards():
    first, second = two_lines()
    assert first.request() == wire(REQUEST)
    assert second.request() == Bounced("duplicate_key")
    first.receive(answer_to(REQUEST))
    assert second.request() == wire(REQUEST)


def test_a_lost_line_takes_its_own_requests_with_it_and_no_others():
    first, second = two_lines()
    first.request(token="a")
    second.request(numbered(2), token="b")
    first.protocol.close("lost")
    assert told(first.protocol.take_events()) == [("a", "line_lost"), ("lost",)]
    assert (first.protocol.in_flight, second.protocol.in_flight) == (0, 1)
    assert told(second.receive(answer_to(REQUEST))[0]) == [("late", None)]
    assert told(second.receive(answer_to(numbered(2)))[0]) == [("b", "reply")]


def test_a_timeout_counts_at_the_line_that_sent_it_even_when_another_notices():
    first, second = two_lines()
    first.request(token="a", deadline=3.0)
    assert told(second.receive(answer_to(REQUEST), at=3.0)[0]) == [("a", "timeout"), ("late", None)]
    assert (first.protocol.counters.timeouts, second.protocol.counters.timeouts) == (1, 0)
    assert first.tick(3.1)[0] == []


# drain


def test_a_drain_waits_for_what_is_in_flight_then_signs_off_and_closes():
    line = Line()
    line.request()
    line.protocol.drain(20.0)
    assert line.tick(1.0) == ([], b"")
    assert told(line.receive(answer_to(REQUEST), at=2.0)[0]) == [("token", "reply")]
    sent = line.tick(2.1)[1]
    assert sent == wire({"0": "0800", "7": "0229235952", "11": "900002", "70": "002"})
    assert line.request(numbered(2)) == Bounced("draining")
    assert told(line.receive(line.network_answer(sent))[0]) == [("drained",)]
    assert line.protocol.counters.line_losses == 0


def test_a_drain_ends_at_its_limit_with_unknown_outcomes():
    line = Line()
    line.request()
    line.protocol.drain(3.0)
    assert line.tick(2.9)[1] == b""
    assert line.tick(3.0)[1] != b""
    assert told(line.tick(8.0)[0]) == [("token", "line_lost"), ("sign_off unanswered",)]


def test_a_drain_of_a_line_that_is_signed_off_closes_it_without_a_word():
    line = Line()
    line.receive(network("002"))
    line.protocol.drain(3.0)
    assert line.tick(0.2) == ([LineClosed("drained")], b"")


# backoff


@pytest.mark.parametrize(
    ("attempt", "fraction", "delay"), [(0, 1.0, 0.1), (1, 1.0, 0.2), (3, 0.5, 0.4), (7, 1.0, 10.0), (10**6, 0.25, 2.5), (5, 0.0, 0.0)]
)
def test_the_backoff_is_a_fraction_of_a_doubling_limited_delay(attempt, fraction, delay):
    assert backoff_delay(attempt, 0.1, 10.0, fraction) == pytest.approx(delay)


def test_a_flapping_line_backs_off_further_and_only_a_stable_one_starts_small_again():
    line = Line()
    delays = []
    for up_for in (2.0, 2.0, 2.0, 10.0):
        line.now += up_for
        line.protocol.close("flap")
        line.protocol.take_events()
        delays.append(line.protocol.backoff.delay(line.now))
        line.connect()
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.1])


# any bytes


SCRIPT = b"".join(
    [
        answer_to(numbered(2)),
        network("301"),
        answer_to(numbered(1), _4="000000000001"),
        answer_to(numbered(1)),
        network("201", _15="0301"),
        b"\x00\x03abc",
        answer_to(numbered(1)),
        answer_to(numbered(3), _41="TERM9999"),
        answer_to(numbered(3)),
        b"\x00\x00",
    ]
)


def replay(pieces):
    line = Line()
    for n in (1, 2, 3, 4):
        line.request(numbered(n), token=n)
    results = [line.receive(piece) for piece in pieces]
    return [event for events, _ in results for event in events], b"".join(output for _, output in results)


@given(st.lists(st.integers(0, len(SCRIPT)), max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_split_of_the_stream_gives_the_same_events_and_bytes(cuts):
    places = [0, *sorted(cuts), len(SCRIPT)]
    assert replay(SCRIPT[a:b] for a, b in pairwise(places)) == WHOLE


WHOLE = replay([SCRIPT])


def test_the_script_of_the_split_test_says_what_is_expected_and_byte_by_byte_the_same():
    assert told(WHOLE[0]) == [
        (2, "reply"), ("differs", "4"), (1, "reply"), ("0301",), ("undecodable", "0"), ("duplicate", None), ("no_request", "41"),
        (3, "reply"), (4, "line_lost"), ("framing lost: frame length is zero",),
    ]  # fmt: skip
    assert replay(bytes([byte]) for byte in SCRIPT) == WHOLE


DIGITS = st.text("0123456789", min_size=4, max_size=4)
MUTATED = st.builds(
    lambda n, at, noise: (lambda good: good[:2] + good[2 : 2 + at] + noise + good[2 + at + len(noise) :])(answer_to(numbered(n))),
    st.integers(1, 4), st.integers(0, 60), st.binary(max_size=6) | DIGITS.map(str.encode),
)  # fmt: skip


@given(st.lists(st.binary(max_size=60) | MUTATED | DIGITS.map(lambda mti: wire({"0": mti, "11": "000001", "70": "301"})), max_size=12))
@settings(max_examples=200, deadline=None)
def test_random_bytes_never_raise_and_settle_each_request_exactly_once(pieces):
    line = Line()
    for n in (1, 2, 3, 4):
        line.request(numbered(n), token=n)
    events = [event for piece in pieces for event in line.receive(piece)[0]]
    events += line.tick(50.0)[0]
    line.protocol.close("end")
    events += line.protocol.take_events()
    assert sorted(event.token for event in events if isinstance(event, Settled)) == [1, 2, 3, 4]
    assert line.protocol.in_flight == 0
