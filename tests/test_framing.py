"""messages.framing: cutting messages out of a stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.framing import ECHOED, POLLS_MAX, Deframer, Framing, FramingError, frame

FRAMING = Framing("binary2", 4096)


def test_a_frame_is_two_big_endian_length_bytes_that_do_not_count_themselves() -> None:
    assert frame(FRAMING, b"A" * 258) == b"\x01\x02" + b"A" * 258


@pytest.mark.parametrize(("payload", "reason"), [(b"", "zero"), (b"A" * 4097, "over max_length 4096")])
def test_an_empty_or_too_long_payload_is_not_framed(payload: bytes, reason: str) -> None:
    with pytest.raises(FramingError, match=reason):
        frame(FRAMING, payload)


def test_the_longest_payload_passes_both_ways() -> None:
    payload = b"A" * 4096
    assert Deframer(FRAMING).feed(frame(FRAMING, payload)) == [payload]


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=6), st.lists(st.integers(min_value=1, max_value=40), min_size=1))
def test_payloads_come_out_the_same_however_the_stream_is_cut(payloads: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(frame(FRAMING, payload) for payload in payloads)
    deframer = Deframer(FRAMING)
    received: list[bytes] = []
    at = turn = 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        received += deframer.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert received == payloads
    assert deframer.pending == 0


def test_pending_counts_the_bytes_of_the_unfinished_frame() -> None:
    deframer = Deframer(FRAMING)
    assert deframer.feed(b"\x00\x03abc\x00\x05de") == [b"abc"]
    assert deframer.pending == 4
    assert deframer.feed(b"fgh") == [b"defgh"]
    assert deframer.pending == 0


@pytest.mark.parametrize(("length", "reason"), [(b"\x00\x00", "zero"), (b"\x10\x01", "4097 is over max_length 4096")])
def test_a_length_of_zero_or_over_the_limit_ends_the_stream_before_its_payload_is_kept(length: bytes, reason: str) -> None:
    deframer = Deframer(FRAMING)
    with pytest.raises(FramingError, match=reason):
        deframer.feed(length + b"A" * 100)
    assert deframer.pending == 0


def test_after_a_fault_nothing_is_read_any_more() -> None:
    deframer = Deframer(FRAMING)
    with pytest.raises(FramingError):
        deframer.feed(b"\x00\x00")
    for more in (frame(FRAMING, b"good"), b"\x00", b""):
        with pytest.raises(FramingError, match="zero"):
            deframer.feed(more)


def test_whole_payloads_before_a_fault_are_handed_over_with_it() -> None:
    with pytest.raises(FramingError) as caught:
        Deframer(FRAMING).feed(frame(FRAMING, b"good") + b"\x00\x00")
    assert caught.value.frames == (b"good",)


@given(st.lists(st.binary(max_size=600), max_size=8))
def test_any_bytes_leave_at_most_one_frame_waiting(pieces: list[bytes]) -> None:
    deframer = Deframer(Framing("binary2", 200))
    for piece in pieces:
        try:
            deframer.feed(piece)
        except FramingError:
            break
        assert deframer.pending < 202


@pytest.mark.parametrize(("kind", "max_length"), [("ascii9", 4096), ("binary2", 0), ("binary2", 65_536)])
def test_a_framing_that_cannot_be_is_refused(kind: str, max_length: int) -> None:
    with pytest.raises(ValueError, match="framing"):
        Framing(kind, max_length)


@pytest.mark.parametrize(("kind", "head"), [
    ("binary2", "0003"), ("binary2_own", "0005"), ("binary4", "00000003"), ("ascii4", "30303033"), ("bcd2", "0003"), ("vml", "00030000")])
def test_each_kind_counts_as_its_hosts_do(kind: str, head: str) -> None:
    framing = Framing(kind, 2000)
    assert frame(framing, b"abc") == bytes.fromhex(head) + b"abc"
    deframer, stream = Deframer(framing), frame(framing, b"abc") * 2 + frame(framing, b"x" * 1234)
    assert [body for at in range(len(stream)) for body in deframer.feed(stream[at:at + 1])] == [b"abc", b"abc", b"x" * 1234]
    assert deframer.pending == 0


@pytest.mark.parametrize(("kind", "keeping"), [("ascii4", b"0000"), ("vml", b"\0\0\0\0")])
def test_a_length_of_zero_keeps_a_line_alive_where_it_may(kind: str, keeping: bytes) -> None:
    framing = Framing(kind, 100)
    assert Deframer(framing).feed(keeping + frame(framing, b"good") + keeping) == [b"good"]


@pytest.mark.parametrize(("kind", "head"), [
    ("ascii4", b" 003"), ("ascii4", b"+003"), ("ascii4", b"00A3"), ("bcd2", b"\x00\xa3"), ("binary2_own", b"\x00\x01"), ("binary2_own", b"\x00\x02"),
    ("vml", b"\x00\x03\x00\x01"), ("binary4", b"\x01\x00\x00\x03"), ("bcd2", b"\x00\x00"), ("ascii4", b"9999")])
def test_what_is_no_length_loses_the_framing(kind: str, head: bytes) -> None:
    with pytest.raises(FramingError):
        Deframer(Framing(kind, 100)).feed(head + b"abc")


# Empty frames that are polls (jPOS AmexChannel: a length of 0000, though lengths count themselves).


@pytest.mark.parametrize(("kind", "polls"), [
    ("binary2", "0000"), ("binary2_own", "0000"), ("binary2_own", "0002"), ("binary4", "00000000"), ("vml", "00000000"), ("gicc", "00000000"),
    ("ascii4", "30303030"), ("bcd2", "0000"), ("binary3", "000000")])
def test_a_poll_goes_back_as_it_came_where_the_dialect_says_so(kind: str, polls: str) -> None:
    framing, poll = Framing(kind, 100, ECHOED), bytes.fromhex(polls)
    stream, whole = poll + frame(framing, b"good") + poll * 2 + frame(framing, b"more"), Deframer(framing)
    assert (whole.feed(stream), whole.take_polls(), whole.take_polls(), whole.pending) == ([b"good", b"more"], poll * 3, b"", 0)
    byte_by_byte = Deframer(framing)
    assert [each for at in range(len(stream)) for each in byte_by_byte.feed(stream[at:at + 1])] == [b"good", b"more"]
    assert byte_by_byte.take_polls() == poll * 3


@pytest.mark.parametrize(("kind", "head"), [("binary2_own", "0001"), ("binary2", "0065"), ("ascii4", "30302030"), ("gicc", "00010000")])
def test_only_an_empty_frame_is_a_poll(kind: str, head: str) -> None:
    deframer = Deframer(Framing(kind, 100, ECHOED))
    with pytest.raises(FramingError) as refused:
        deframer.feed(frame(Framing(kind, 100), b"good") + bytes.fromhex(head))
    assert refused.value.frames == (b"good",) and deframer.take_polls() == b""


def test_of_one_piece_of_bytes_so_many_polls_are_echoed_and_all_are_taken() -> None:
    deframer = Deframer(Framing("binary2_own", 100, ECHOED))
    assert (deframer.feed(bytes(2) * 1000), deframer.take_polls(), deframer.pending) == ([], bytes(2) * POLLS_MAX, 0)


def test_polls_are_echoed_or_left_to_the_kind() -> None:
    assert Deframer(Framing("ascii4", 100)).take_polls() == b""
    with pytest.raises(ValueError, match="polls must be 'polls echoed'"):
        Framing("binary2", 100, "polls")
