"""messages.codec: golden bytes written by hand from the wire contract, and what the wrapper adds to pyiso8583's strictness."""

import contextlib
import re

import iso8583
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messages.codec import DecodeError, EncodeError, _plan, decode, decode_with_spec, encode
from messages.dialect import load
from messages.framing import Deframer, frame
from messages.grammar import Field

DIALECT = load("iso87_ascii")
PAN = "4111111111111111"
RRN, TERMINAL, MERCHANT = "632709000123", "TERM0001", "MERCHANT0000001"

PURCHASE = {
    **{"0": "0200", "2": PAN, "3": "000000", "4": "000000012500", "7": "1123091500", "11": "000123", "12": "101500", "13": "1123"},
    **{"14": "2812", "18": "5411", "22": "012", "25": "00", "37": RRN, "41": TERMINAL, "42": MERCHANT, "49": "978"},
}
PURCHASE_BYTES = (
    b"0200" b"723C448008C08000" b"16" b"4111111111111111" b"000000" b"000000012500" b"1123091500" b"000123" b"101500" b"1123"
    b"2812" b"5411" b"012" b"00" b"632709000123" b"TERM0001" b"MERCHANT0000001" b"978"
)  # fmt: skip
PURCHASE_ANSWER = {
    **{"0": "0210", "3": "000000", "4": "000000012500", "7": "1123091500", "11": "000123"},
    **{"37": RRN, "38": "A1B2C3", "39": "00", "41": TERMINAL, "42": MERCHANT, "49": "978"},
}
PURCHASE_ANSWER_BYTES = (
    b"0210" b"322000000EC08000" b"000000" b"000000012500" b"1123091500" b"000123"
    b"632709000123" b"A1B2C3" b"00" b"TERM0001" b"MERCHANT0000001" b"978"
)  # fmt: skip
CHIP_AND_PIN = {
    **{"0": "0100", "2": PAN, "3": "000000", "4": "000000012500", "7": "1123091500", "11": "000123", "12": "101500", "13": "1123"},
    **{"14": "2812", "18": "5411", "22": "051", "23": "001", "25": "06", "35": f"{PAN}=28122010000000000", "37": RRN},
    **{"41": "T1      ", "42": "SHOP 1         ", "49": "978", "52": "0412AC6789ABCDEF", "55": "9F2608DEAE676D1C4734119F270180"},
}
CHIP_AND_PIN_BYTES = (
    b"0100" b"723C468028C09200" b"16" b"4111111111111111" b"000000" b"000000012500" b"1123091500" b"000123" b"101500" b"1123"
    b"2812" b"5411" b"051" b"001" b"06" b"34" b"4111111111111111=28122010000000000" b"632709000123" b"T1      " b"SHOP 1         "
    b"978" b"0412AC6789ABCDEF" b"030" b"9F2608DEAE676D1C4734119F270180"
)  # fmt: skip
REVERSAL = {
    **{"0": "0420", "2": PAN, "3": "000000", "4": "000000012500", "7": "1123091545", "11": "000124", "12": "101500", "13": "1123"},
    **{"22": "012", "25": "00", "37": RRN, "41": TERMINAL, "42": MERCHANT, "49": "978"},
    "90": "020000012311230915000000000000000000000000",
}
REVERSAL_BYTES = (
    b"0420" b"F238048008C08000" b"0000004000000000" b"16" b"4111111111111111" b"000000" b"000000012500" b"1123091545" b"000124"
    b"101500" b"1123" b"012" b"00" b"632709000123" b"TERM0001" b"MERCHANT0000001" b"978"
    b"0200" b"000123" b"1123091500" b"00000000000" b"00000000000"
)  # fmt: skip
REVERSAL_ANSWER = {
    **{"0": "0430", "3": "000000", "4": "000000012500", "7": "1123091545", "11": "000124"},
    **{"37": RRN, "39": "00", "41": TERMINAL, "42": MERCHANT, "49": "978"},
}
REVERSAL_ANSWER_BYTES = (
    b"0430" b"322000000AC08000" b"000000" b"000000012500" b"1123091545" b"000124"
    b"632709000123" b"00" b"TERM0001" b"MERCHANT0000001" b"978"
)  # fmt: skip
SIGN_ON = {"0": "0800", "7": "1123090000", "11": "000001", "70": "001"}
SIGN_ON_BYTES = b"0800822000000000000004000000000000001123090000000001001"
SIGN_ON_ANSWER = {"0": "0810", "7": "1123090000", "11": "000001", "39": "00", "70": "001"}
SIGN_ON_ANSWER_BYTES = b"081082200000020000000400000000000000112309000000000100001"

GOLDEN = {
    "purchase": (PURCHASE, PURCHASE_BYTES),
    "purchase answer": (PURCHASE_ANSWER, PURCHASE_ANSWER_BYTES),
    "preauthorization with chip and PIN": (CHIP_AND_PIN, CHIP_AND_PIN_BYTES),
    "reversal": (REVERSAL, REVERSAL_BYTES),
    "reversal answer": (REVERSAL_ANSWER, REVERSAL_ANSWER_BYTES),
    "sign-on": (SIGN_ON, SIGN_ON_BYTES),
    "sign-on answer": (SIGN_ON_ANSWER, SIGN_ON_ANSWER_BYTES),
}


@pytest.mark.parametrize(("message", "wire"), GOLDEN.values(), ids=GOLDEN)
def test_the_wire_is_that_of_the_contract(message: dict[str, str], wire: bytes) -> None:
    assert encode(DIALECT, message) == wire
    assert decode(DIALECT, wire) == message


def test_a_framed_sign_on_starts_with_the_length_of_what_follows() -> None:
    assert frame(DIALECT.framing, encode(DIALECT, SIGN_ON)) == b"\x00\x37" + SIGN_ON_BYTES
    assert Deframer(DIALECT.framing).feed(b"\x00\x37" + SIGN_ON_BYTES) == [SIGN_ON_BYTES]


def test_fields_come_out_in_order_with_the_mti_first() -> None:
    assert list(decode(DIALECT, REVERSAL_BYTES)) == ["0", *sorted((set(REVERSAL) - {"0"}), key=int)]


def test_the_order_of_the_argument_does_not_matter_and_it_is_left_alone() -> None:
    message = dict(reversed(REVERSAL.items()))
    before = list(message.items())
    assert encode(DIALECT, message) == REVERSAL_BYTES
    assert list(message.items()) == before


ALPHABETS = {
    "n": "0123456789",
    "an": "0123456789ABCxyz ",
    "ans": "".join(map(chr, range(32, 127))),
    "z": "0123456789=D",
}


def content(field: Field) -> st.SearchStrategy[str]:
    if field.type == "b":
        size = field.length // 2
        return st.binary(min_size=0 if field.prefix else size, max_size=size).map(lambda data: data.hex().upper())
    if field.type == "x+n":
        digits = st.text("0123456789", min_size=field.length - 1, max_size=field.length - 1)
        return st.tuples(st.sampled_from("CD"), digits).map("".join)
    return st.text(ALPHABETS[field.type], min_size=0 if field.prefix else field.length, max_size=field.length)


FIELD_VALUES = st.sampled_from([*DIALECT.fields.values()]).flatmap(lambda field: st.tuples(st.just(field.number), content(field)))
MESSAGES = st.tuples(st.from_regex(r"0[1-8][0-4][0-5]", fullmatch=True), st.lists(FIELD_VALUES, max_size=12)).map(
    lambda drawn: {"0": drawn[0], **dict(drawn[1])},
)


@given(MESSAGES)
@settings(max_examples=200, deadline=None)
def test_what_is_encoded_decodes_to_the_same_message(message: dict[str, str]) -> None:
    assert decode(DIALECT, encode(DIALECT, message)) == message


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_random_bytes_are_a_message_or_a_decode_error(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode(DIALECT, data)


@given(st.sampled_from([wire for _, wire in GOLDEN.values()]), st.integers(0, 250), st.integers(0, 3), st.binary(max_size=3))
@settings(max_examples=400, deadline=None)
def test_damaged_messages_are_a_message_or_a_decode_error(wire: bytes, at: int, cut: int, put: bytes) -> None:
    damaged = wire[:at] + put + wire[at + cut :]
    try:
        message = decode(DIALECT, damaged)
    except DecodeError as fault:
        assert 0 <= fault.position <= len(damaged)
        assert PAN not in repr(fault.decoded) + str(fault)
    else:
        assert decode(DIALECT, encode(DIALECT, message)) == message


# The holes of pyiso8583 4.0.1. Each row: the bytes, the field at fault, its offset, the reason.
HEAD = b"0800822000000000000004000000000000001123090000000001"
DE2 = b"02004000000000000000"
REFUSED = {
    "a field 65, which would be a third bitmap": (b"080080000000000000008000000000000000" + b"0" * 16, "1", 20, "bitmap"),
    "a field beyond 128": (b"08008000000000000000800000000000000080000000000000001", "1", 20, "third bitmap"),
    "a length with a sign": (DE2 + b"+541111", "2", 20, "length"),
    "a length with a blank": (DE2 + b" 541111", "2", 20, "length"),
    "a negative length of zero": (DE2 + b"-0", "2", 20, "length"),
    "a length with an underscore": (b"020000000000000100001_0ABCDEFGHIJ", "48", 20, "length"),
    "a length of letters": (DE2 + b"AB41111", "2", 20, "length"),
    "a length over the maximum": (DE2 + b"20" + b"4" * 20, "2", 20, "maximum"),
    "letters in a numeric field": (HEAD[:-6] + b"0000A1001", "11", 46, "type n"),
    "a sign other than C and D": (b"02000000001000000000000000100", "28", 20, "x+n"),
    "letters in a PAN": (DE2 + b"054111F", "2", 20, "type n"),
    "a track with letters": (b"02000000000020000000054111F", "35", 20, "type z"),
    "a control character in text": (b"02000000000000800000TERM\x00001", "41", 20, "type ans"),
    "a byte above ASCII": (b"02000000000000800000TERM\xe9001", "41", 20, "invalid data"),
    "binary data that is not hex": (b"020000000000000010000412AC6789ABCDEG", "52", 20, "type b"),
    "raw binary data": (b"02000000000000001000\x04\x12\xac\x67\x89\xab\xcd\xef", "52", 20, "8 bytes, expecting 16"),
    "hex text of odd length": (b"020000000000000002000039F2", "55", 20, "type b"),
    "letters in the MTI": (b"08A0" + HEAD[4:] + b"001", "0", 0, "digits"),
    "a bitmap in lower case": (b"0200723c448008c08000" + PURCHASE_BYTES[20:], "1", 4, "bitmap"),
    "a bitmap with blanks": (b"020000000000000000  ", "1", 4, "bitmap"),
    "a bitmap that is not hex": (b"0200400000000000000G", "1", 4, "hex"),
    "a second bitmap that is missing": (b"02008000000000000000", "1", 20, "0 bytes"),
    "bytes left over": (SIGN_ON_BYTES + b"0", "70", 55, "Extra data"),
    "a field that is cut": (SIGN_ON_BYTES[:-1], "70", 52, "2 bytes, expecting 3"),
    "a length that is cut": (DE2 + b"1", "2", 20, "1 bytes wide"),
    "no data": (b"", "0", 0, "0 bytes"),
    "only an MTI": (b"0800", "1", 4, "0 bytes"),
}


@pytest.mark.parametrize(("wire", "field", "position", "reason"), REFUSED.values(), ids=REFUSED)
def test_bytes_are_refused_with_field_position_and_reason(wire: bytes, field: str, position: int, reason: str) -> None:
    with pytest.raises(DecodeError, match=re.escape(reason)) as caught:
        decode(DIALECT, wire)
    assert (caught.value.field, caught.value.position) == (field, position)


def test_pyiso8583_still_has_the_holes_that_the_wrapper_closes() -> None:
    spec = _plan(DIALECT).spec
    assert iso8583.decode(DE2 + b"+541111", spec)[0]["2"] == "41111"
    assert iso8583.decode(DE2 + b"054111F", spec)[0]["2"] == "4111F"
    with pytest.raises(KeyError):
        iso8583.decode(b"08008000000000000000800000000000000080000000000000001", spec)


ACCEPTED = {
    "hex text in lower case, folded": (b"020000000000000010000412ac6789abcdef", {"0": "0200", "52": "0412AC6789ABCDEF"}),
    "an empty variable field": (DE2 + b"00", {"0": "0200", "2": ""}),
    "a second bitmap without bits": (b"020080000000008000000000000000000000TERM0001", {"0": "0200", "41": "TERM0001"}),
    "a date that no calendar has": (b"020000020000000000000000", {"0": "0200", "15": "0000"}),
    "a message without fields": (b"02000000000000000000", {"0": "0200"}),
}


@pytest.mark.parametrize(("wire", "message"), ACCEPTED.values(), ids=ACCEPTED)
def test_what_leaves_no_room_for_two_readings_is_accepted(wire: bytes, message: dict[str, str]) -> None:
    assert decode(DIALECT, wire) == message


@pytest.mark.parametrize(
    ("changed", "field", "reason"),
    [
        ({"0": None}, "0", "missing"),
        ({"0": "200"}, "0", "four digits"),
        ({"0": "02OO"}, "0", "four digits"),
        ({"4": "12500"}, "4", "exactly 12"),
        ({"4": "0000000125.0"}, "4", "type n"),
        ({"4": "00000001250٣"}, "4", "type n"),
        ({"41": "TERM"}, "41", "exactly 8"),
        ({"41": "TERM0001\n"}, "41", "exactly 8"),
        ({"2": "4" * 20}, "2", "at most 19"),
        ({"43": "Gen\u00e8ve".ljust(40)}, "43", "type ans"),
        ({"28": "000000100"}, "28", "type x\\+n"),
        ({"52": "0412AC6789ABCDE"}, "52", "exactly 16"),
        ({"55": "9F2"}, "55", "type b"),
        ({"4": None, "1": "8000000000000000"}, "1", "not a field"),
        ({"65": "8000000000000000"}, "65", "not a field"),
        ({"129": "1"}, "129", "not a field"),
        ({"003": "000000"}, "003", "not a field"),
        ({"²": "000000"}, "²", "not a field"),
        ({"t": "0200"}, "t", "not a field"),
        ({"p": "0000000000000000"}, "p", "not a field"),
    ],
)
def test_a_message_of_ours_that_breaks_the_dialect_is_not_sent(changed: dict[str, str | None], field: str, reason: str) -> None:
    message = {number: value for number, value in {**PURCHASE, **changed}.items() if value is not None}
    with pytest.raises(EncodeError, match=reason) as caught:
        encode(DIALECT, message)
    assert caught.value.field == field


@pytest.mark.parametrize("value", [None, 12500, b"000000012500", ["0"]])
def test_only_text_is_encoded(value: object) -> None:
    with pytest.raises(EncodeError, match="not text") as caught:
        encode(DIALECT, {**PURCHASE, "4": value})  # type: ignore[dict-item]
    assert caught.value.field == "4"


def test_a_field_number_is_text_too() -> None:
    with pytest.raises(EncodeError, match="field 3: not a field"):
        encode(DIALECT, {"0": "0200", 3: "000000"})  # type: ignore[dict-item]


def test_hex_text_leaves_in_upper_case() -> None:
    assert encode(DIALECT, {**CHIP_AND_PIN, "52": "0412ac6789abcdef"}) == CHIP_AND_PIN_BYTES


def test_errors_never_show_a_value() -> None:
    with pytest.raises(EncodeError) as encoding:
        encode(DIALECT, {**PURCHASE, "2": PAN + "X"})
    assert PAN[4:] not in str(encoding.value) + repr(encoding.value)
    with pytest.raises(DecodeError) as decoding:
        decode(DIALECT, CHIP_AND_PIN_BYTES + b"!")
    shown = str(decoding.value) + repr(decoding.value) + repr(vars(decoding.value))
    assert PAN[6:] not in shown
    assert "0412AC6789ABCDEF" not in shown
    assert decoding.value.decoded["0"] == "0100"
    assert decoding.value.decoded["11"] == "000123"
    assert decoding.value.decoded["2"] == "<16 characters>"


@pytest.mark.parametrize("wire", [PURCHASE_BYTES + b"!", b"0200800000000000000080000000000000008000000000000000" + PAN.encode()])
def test_the_library_s_error_with_the_clear_message_does_not_hang_on_ours(wire: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(DIALECT, wire)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_card_number_that_slid_into_the_next_fields_is_not_shown() -> None:
    slid = b"0200700000000000000006" + PAN.encode() + b"00000012500"
    with pytest.raises(DecodeError) as caught:
        decode(DIALECT, slid)
    assert caught.value.decoded == {"0": "0200", "2": "<6 characters>", "3": "<6 characters>", "4": "<12 characters>"}


def test_a_raw_field_table_gets_the_same_structural_checks() -> None:
    spec = _plan(DIALECT).spec
    assert decode_with_spec(spec, SIGN_ON_BYTES) == SIGN_ON
    for wire in (DE2 + b"+541111", SIGN_ON_BYTES + b"0", b"08008000000000000000800000000000000080000000000000001"):
        with pytest.raises(DecodeError):
            decode_with_spec(spec, wire)
