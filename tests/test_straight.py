"""The straight way says the same as the reference through pyiso8583, or says nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messages.codec import DecodeError, EncodeError, decode, encode, reference_decode, reference_encode
from messages.dialect import load
from messages.straight import PLANS_MAX, Straight

DIALECT = load("iso87_ascii")
ALPHABET = {"n": "0123456789", "an": "0123456789ABCxyz ", "ans": "0123456789 ~|!Az", "z": "0123456789=D", "b": "0123456789abcDEF"}


def value_of(number: str) -> st.SearchStrategy[str]:
    field = DIALECT.fields[number]
    if field.type == "x+n":
        return st.builds(str.__add__, st.sampled_from("CD"), st.text("0123456789", min_size=field.length - 1, max_size=field.length - 1))
    unit = 2 if field.type == "b" else 1
    most = min(field.length, 40) // unit
    least = 0 if field.prefix else field.length // unit
    return st.text(ALPHABET[field.type], min_size=least * unit, max_size=max(most, least) * unit).filter(lambda text: len(text) % unit == 0)


@st.composite
def messages(draw: st.DrawFn) -> dict[str, str]:
    numbers = draw(st.lists(st.sampled_from(sorted(DIALECT.fields)), unique=True, max_size=24))
    return {"0": draw(st.sampled_from(["0100", "0200", "0210", "0420", "0430", "0800"])), **{number: draw(value_of(number)) for number in numbers}}


@settings(max_examples=300, deadline=None)
@given(messages())
def test_both_ways_write_the_same_bytes_and_read_them_back(message: dict[str, str]) -> None:
    straight = Straight(DIALECT)
    wire = reference_encode(DIALECT, message)
    assert straight.encode(message) in (wire, None)
    assert encode(DIALECT, message) == wire
    assert decode(DIALECT, wire) == reference_decode(DIALECT, wire)


@settings(max_examples=500, deadline=None)
@given(messages(), st.integers(0, 400), st.sampled_from([b"", b"0", b"9", b"A", b"\xff", b"\0", b" ", b"00000"]), st.integers(0, 3))
def test_a_damaged_message_is_judged_the_same_both_ways(message: dict[str, str], at: int, put: bytes, cut: int) -> None:
    wire = reference_encode(DIALECT, message)
    at %= len(wire) + 1
    damaged = wire[:at] + put + wire[at + cut:]
    assert judged(decode, damaged) == judged(reference_decode, damaged)


def judged(reader, data: bytes) -> object:
    try:
        return reader(DIALECT, data)
    except DecodeError as error:
        return error.field, error.position, error.reason


@pytest.mark.parametrize("message", [
    {"0": "0200", "3": "00000", "4": "0000000010000"},  # one too short, the next too long: the sum is right
    {"0": "0200", "3": "000000", "4": "00000000100\n"},
    {"0": "200", "3": "000000"},
    {"0": "0200", "55": "ABC"},
    {"0": "0200", "2": "4" * 20},
    {"0": "0200", "41": "T000\x000001"[:8]},
    {"0": "0200", "3": 0},
    {"0": "0200", "200": "1"},
    {"3": "000000"},
])
def test_what_is_wrong_is_never_written_straight(message: dict[str, str]) -> None:
    assert Straight(DIALECT).encode(message) is None
    with pytest.raises(EncodeError):
        encode(DIALECT, message)


def test_the_usual_messages_take_the_straight_way() -> None:
    request = {"0": "0200", "2": "4111111111111111", "3": "000000", "4": "000000010000", "7": "1123101112", "11": "000001", "12": "181112",
               "13": "1123", "14": "3012", "18": "5812", "22": "052", "25": "00", "37": "632700000001", "41": "T0000001",
               "42": "M00000000000001", "49": "156", "55": "9F2608A1B2C3D4E5F60718"}
    straight = Straight(DIALECT)
    wire = straight.encode(request)
    assert wire == reference_encode(DIALECT, request)
    assert straight.decode(wire) == request


def test_a_host_that_invents_bitmaps_costs_no_memory() -> None:
    straight = Straight(DIALECT)
    for number in range(2, 2 + 3 * PLANS_MAX):
        bits = 1 << (62 - number % 40) | 1 << (number // 40)
        straight.decode(b"0800" + f"{bits & (1 << 63) - 1:016X}".encode())
    assert len(straight.readers) <= PLANS_MAX
