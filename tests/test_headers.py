"""messages.headers through the codec's door: TPDU and VIP headers, reject headers, and the quirk of two fixed bitmaps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.codec import DecodeError, EncodeError, Rejected, decode, encode
from messages.dialect import LITERALS, build, load
from messages.headers import Header, answering, explained

CUP, VISA = load("unionpay_pos"), load("visa_base1")
ECHO = {"0": "0820", "11": "000078", "41": "10016919", "42": "84329004582000B", "60": "00000001301"}
SIGN_ON = {"0": "0800", "7": "1001215717", "11": "002155", "37": "227421002155", "63": "8000000002", "70": "071"}


def test_a_message_leaves_with_the_default_header_and_may_carry_its_own() -> None:
    sent = encode(CUP, ECHO)
    assert sent.hex().startswith("6000030000603100310100" + "0820")
    assert decode(CUP, sent) == {**ECHO, "h": "6000030000603100310100"}
    assert encode(CUP, {**ECHO, "h": "6000000003603130310100"}).hex().startswith("6000000003603130310100")


def test_an_answer_goes_back_where_the_message_came_from() -> None:
    assert answering(CUP.header, "6000030009603100310100") == "6000090003603100310100" if CUP.header else False
    assert answering(Header("vip", "16010200461291280000110000110041040016010676"), "16010200461291280000110000110041040016010676")[10:22] == "000011129128"


def test_the_vip_header_counts_header_and_message() -> None:
    sent = encode(VISA, SIGN_ON)
    assert int.from_bytes(sent[3:5], "big") == len(sent)
    assert decode(VISA, sent)["70"] == "071"
    for broken in (sent + b"\0", sent[:-1], b"\x15" + sent[1:], b""):
        with pytest.raises(DecodeError) as caught:
            decode(VISA, broken)
        assert caught.value.field == "h"


def test_a_reject_is_named_and_gives_back_what_was_refused() -> None:
    ours = encode(VISA, SIGN_ON)
    head = bytearray.fromhex("1A010200000000000000000000000000000000000000" + "8000" + "0123")
    head[3:5] = (len(head) + len(ours)).to_bytes(2, "big")
    with pytest.raises(Rejected) as caught:
        decode(VISA, bytes(head) + ours)
    assert (caught.value.code, caught.value.message["11"], caught.value.field) == ("0123", "002155", "h")
    with pytest.raises(Rejected) as caught:
        head[3:5] = (len(head) + 3).to_bytes(2, "big")
        decode(VISA, bytes(head) + b"abc")
    assert caught.value.message == {}


@pytest.mark.parametrize("text", ["", "60", "6100030000603100310100", "600003000060310031010000", "zz"])
def test_a_header_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(EncodeError, match="field h"):
        encode(CUP, {**ECHO, "h": text})


def test_the_parts_of_a_header_have_names() -> None:
    assert CUP.header is not None and VISA.header is not None
    assert dict(explained(CUP.header, "6000030000603100310100"))["processing_request"] == "0"
    assert "".join(value for _, value in explained(VISA.header, VISA.header.default)) == VISA.header.default


@pytest.mark.parametrize(("name", "message"), [("iso87_ascii", {"0": "0800", "7": "0604123456", "11": "123456", "41": "TERMID01"}), ("visa_base1", SIGN_ON)])
def test_two_fixed_bitmaps_have_bit_1_clear(name: str, message: dict[str, str]) -> None:
    plain, fixed = build({**LITERALS[name], "header": None}), build({**LITERALS[name], "header": None, "fixed_bitmap": True})
    for fields in (message, {**message, "70": "301"}):
        sent = encode(fixed, fields)
        assert decode(fixed, sent) == decode(plain, encode(plain, fields))
        with pytest.raises(DecodeError):
            decode(plain, sent)
    with pytest.raises(DecodeError):
        decode(fixed, encode(plain, {**message, "70": "301"}))


def test_the_published_message_with_that_quirk_is_read() -> None:
    dialect = build({**LITERALS["iso87_ascii"], "fixed_bitmap": True})
    text = b"0800" + b"0220000000800000" + b"0400000000000000" + b"0604123456" + b"123456" + b"TERMID01" + b"301"
    assert decode(dialect, text) == {"0": "0800", "7": "0604123456", "11": "123456", "41": "TERMID01", "70": "301"}
    assert encode(dialect, decode(dialect, text)) == text


@pytest.mark.parametrize(("bits", "field", "position"), [("82200000" + "00800000" + "0400000000000000", "1", 15), ("0220000000800000" + "00000000" + "00000000", "41", 47),
                                                         ("0220000000800000" + "0000000" + "0000000", "1", 15), ("0220000000800000" + "0400000000000100", "120", 23)])
def test_with_a_header_and_two_fixed_bitmaps_the_place_is_counted_in_the_frame(bits: str, field: str, position: int) -> None:
    iso = {**LITERALS["iso87_ascii"], "fixed_bitmap": True, "header": ("tpdu", "6000030000603100310100"), "coding": {"bitmap": "binary"}}
    fields = {number: shape for number, shape in iso["fields"].items() if number != "120"}
    dialect = build({**iso, "fields": fields, "shown": "3 11"})
    wire = bytes.fromhex("6000030000603100310100") + b"0800" + bytes.fromhex(bits) + b"0604123456" + b"123456" + b"TERMI\x0001"
    with pytest.raises(DecodeError) as caught:
        decode(dialect, wire if len(bits) == 32 else wire[:15 + len(bits) // 2])
    assert (caught.value.field, caught.value.position) == (field, position), str(caught.value)


@given(st.binary(max_size=120), st.sampled_from(["iso93_ascii", "unionpay_pos", "visa_base1", "mastercard_cis"]))
def test_any_bytes_are_a_message_or_a_decode_error(data: bytes, name: str) -> None:
    dialect = load(name)
    head = bytes.fromhex(dialect.header.default) if dialect.header else b""
    for wire in (data, head + data):
        try:
            decode(dialect, wire)
        except DecodeError:
            continue
