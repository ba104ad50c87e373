"""The compiled functions say the same as the reference through pyiso8583, or nothing. CODEC_EXAMPLES=<n> draws more messages."""

import ast
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import iso8583
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from messages import compiled as generator
from messages.bitmaps import NAMED_MAX, SIDE_MAX, SIGHTINGS, Compiled
from messages.codec import DecodeError, EncodeError, compiled, decode, decode_with_spec, encode, reference_decode, reference_encode
from messages.compiled import Table, bitmap_at, reader_source, unknown, writer_source
from messages.dialect import LITERALS, build, load
from messages.fields import CONTENT
from tests.codec_bench import RATIO_MAX, compare
from tests.test_codec import ACCEPTED, REFUSED

DIALECT = load("iso87_ascii")
TABLE = compiled(DIALECT).table
EXAMPLES = int(os.environ.get("CODEC_EXAMPLES", "5000"))
DRAWN = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
ALPHABET = {"n": "0123456789", "an": "0123456789ABCxyz ", "ans": "0123456789 ~|!Az", "z": "0123456789=D", "b": "0123456789abcDEF"}
FOLDER = Path(os.environ.get("VECTORS") or Path(__file__).parent / "vectors")
SPECS: dict[str, dict[str, Any]] = json.loads((FOLDER / "specs.json").read_text())
VECTORS: list[dict[str, Any]] = [json.loads(line) for line in (FOLDER / "messages.jsonl").read_text().splitlines()]
REQUEST = {"0": "0100", "2": "4111111111111111", "3": "000000", "4": "000000010000", "7": "1123101112", "11": "000001", "12": "181112",
           "13": "1123", "14": "3012", "18": "5812", "22": "052", "25": "00", "37": "632700000001", "41": "T0000001",
           "42": "M00000000000001", "49": "156"}


def warm(table: Table) -> Compiled:
    return Compiled(table, [])


def read(codec: Compiled, data: bytes) -> dict[str, str] | None:
    """By the compiled function alone, whether or not its bitmap was met before."""
    for _ in range(SIGHTINGS - 1):
        codec.decode(data)
    return codec.decode(data)


def written(codec: Compiled, message: dict[str, str]) -> bytes | None:
    for _ in range(SIGHTINGS - 1):
        codec.encode(message)
    return codec.encode(message)


def value_of(number: str) -> st.SearchStrategy[str]:
    field = DIALECT.fields[number]
    if field.type == "x+n":
        return st.builds(str.__add__, st.sampled_from("CD"), st.text("0123456789", min_size=field.length - 1, max_size=field.length - 1))
    unit = 2 if field.type == "b" else 1
    most = min(field.length, 40) // unit
    least = 0 if field.prefix else field.length // unit
    pairs = st.integers(least, max(most, least)).flatmap(lambda size: st.text(ALPHABET[field.type], min_size=size * unit, max_size=size * unit))
    return pairs


VALUES = {number: value_of(number) for number in DIALECT.fields}
MTIS = st.sampled_from(["0100", "0200", "0210", "0420", "0430", "0800"])


@st.composite
def messages(draw: st.DrawFn) -> dict[str, str]:
    numbers = draw(st.lists(st.sampled_from(sorted(DIALECT.fields)), unique=True, max_size=16))
    return {"0": draw(MTIS), **{number: draw(VALUES[number]) for number in numbers}}


@DRAWN
@given(messages(), st.integers(0, 400), st.sampled_from([b"", b"0", b"9", b"A", b"\xff", b"\0", b" ", b"00000", b"\xb2", b"_"]), st.integers(0, 3))
def test_both_ways_write_the_same_bytes_read_them_alike_and_judge_damage_alike(message: dict[str, str], at: int, put: bytes, cut: int) -> None:
    numbers = sorted(int(number) for number in message if number != "0")
    wire = reference_encode(DIALECT, message)
    write, reading = generator.writer(TABLE, numbers), generator.reader(TABLE, numbers, 2 if numbers and numbers[-1] > 64 else 1)
    assert write({"0": message["0"], **{str(number): message[str(number)] for number in numbers}}) == wire
    assert reading(wire) == reference_decode(DIALECT, wire)
    at %= len(wire) + 1
    damaged, head = wire[:at] + put + wire[at + cut:], 36 if numbers and numbers[-1] > 64 else 20
    assert judged(lambda: reading(damaged), damaged, bitmap=wire[4:head] == damaged[4:head]) == judged(lambda: reference_decode(DIALECT, damaged), damaged)
    assert judged(lambda: decode(DIALECT, damaged), damaged) == judged(lambda: reference_decode(DIALECT, damaged), damaged)


def judged(way: Any, data: bytes, *, bitmap: bool = True) -> object:
    """What a way says of bytes: the message, or field, place and reason; a function that does not say is asked of the reference."""
    try:
        found = way() if bitmap else None
    except generator.FAULTS as error:
        found = error if isinstance(error, DecodeError) else None
    if found is None:
        try:
            found = reference_decode(DIALECT, data)
        except DecodeError as error:
            found = error
    return (found.field, found.position, found.reason) if isinstance(found, DecodeError) else found


@pytest.mark.parametrize("message", [
    {"0": "0200", "3": "00000", "4": "0000000010000"},  # one too short, the next too long: the sum is right
    {"0": "0200", "3": "000000", "4": "00000000100\n"},
    {"0": "0200", "3": "00000²", "4": "000000000100"},
    {"0": "0200", "3": "00000٣", "4": "000000000100"},
    {"0": "200", "3": "000000"},
    {"0": "0200", "55": "ABC"},
    {"0": "0200", "52": "0412AC6789ABCDE", "55": "ABC"},  # two halves of a byte
    {"0": "0200", "55": "A B "},
    {"0": "0200", "2": "4" * 20},
    {"0": "0200", "41": "T000\x000001"[:8]},
    {"0": "0200", "41": "T00000é1"},
    {"0": "0200", "28": "000000100"},
    {"0": "0200", "3": 0},
    {"0": "0200", "3": None},
    {"0": "0200", "3": b"000000"},
    {"0": "0200", "3": ["0"] * 6},
    {"0": "0200", "200": "1"},
    {"0": "0200", "1": "8000000000000000"},
    {"0": "0200", "t": "0200"},
    {"0": "0200", "h": "0200"},
    {"3": "000000"},
])
def test_what_is_wrong_is_never_written_by_a_compiled_function(message: dict[str, str]) -> None:
    assert written(warm(TABLE), message) is None
    with pytest.raises(EncodeError):
        encode(DIALECT, message)


def test_the_messages_of_the_table_have_functions_from_the_first_on() -> None:
    codec, wire = Compiled(TABLE, compiled(DIALECT).named), reference_encode(DIALECT, REQUEST)
    assert codec.encode(REQUEST) == wire
    answer = {"0": "0110", **{number: REQUEST[number] for number in ("3", "4", "7", "11", "37")}, "38": "A1B2C3", "39": "00",
              **{number: REQUEST[number] for number in ("41", "42", "49")}}
    assert codec.decode(reference_encode(DIALECT, answer)) == answer
    assert (len(codec.writers.named), len(codec.readers.named)) == (1, 1)


def test_other_messages_are_compiled_when_they_come_often() -> None:
    codec, message = warm(TABLE), {**REQUEST, "55": "9F2608A1B2C3D4E5F60718"}
    wire = reference_encode(DIALECT, message)
    assert [codec.decode(wire) for _ in range(SIGHTINGS + 1)] == [None] * (SIGHTINGS - 1) + [message] * 2
    assert [codec.encode(message) for _ in range(SIGHTINGS + 1)] == [None] * (SIGHTINGS - 1) + [wire] * 2


def test_ten_thousand_bitmaps_of_a_host_cost_neither_memory_nor_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, draw, made = Compiled(TABLE, compiled(DIALECT).named), random.Random(8583), []
    named = reference_encode(DIALECT, {"0": "0810", "7": "1123101112", "11": "000001", "39": "00", "70": "301"})
    assert codec.decode(named) is not None
    monkeypatch.setattr("messages.bitmaps.reader", lambda *arguments: made.append(arguments) or (lambda data: None))
    bitmaps = [f"{draw.getrandbits(64):016X}{draw.getrandbits(64):016X}".encode() for _ in range(10_000)]
    for bitmap in bitmaps:
        codec.decode(b"0800" + bitmap)
    assert not made  # met once, compiled never
    fields = [4, 7, 11, 12, 13, 37, 41, 42, 49, 39]
    for at in range(400):  # each met often enough: only the last few are kept
        bits = sum(1 << (64 - number) for place, number in enumerate(fields) if at + 1 >> place & 1)
        for _ in range(SIGHTINGS):
            codec.decode(b"0800" + f"{bits:016X}".encode())
    assert made
    for side in (codec.readers, codec.writers):
        assert len(side.named) + len(side.recent) <= SIDE_MAX and len(side.named) <= NAMED_MAX and len(side.seen) <= SIDE_MAX
    assert codec.decode(named) is not None
    assert 2 * SIDE_MAX <= 64


def test_the_set_used_longest_ago_is_given_up_first() -> None:
    codec = warm(TABLE)
    wires = [reference_encode(DIALECT, {"0": "0800", str(number): "0" * DIALECT.fields[str(number)].length}) for number in range(3, 20)]
    for wire in wires[:-1]:
        assert read(codec, wire) is not None
    assert codec.decode(wires[0]) is not None
    assert read(codec, wires[-1]) is not None
    assert [codec.decode(wire) is not None for wire in (wires[0], wires[1], wires[2])] == [True, False, True]


def test_a_source_holds_nothing_of_a_message() -> None:
    numbers = sorted(map(int, DIALECT.fields))
    names = {"v", "a", "n", "e", "p", "t", "K", "L", "P"}
    fixed = {"read", "write", "data", "message", "ascii", "decode", "encode", "len", "map", "join", "isdigit", "isascii", "isalnum", "isprintable", "replace",
             "upper", "a2b_hex", "GET", "LENGTHS"}
    for source, constants in (reader_source(TABLE, numbers, 2), writer_source(TABLE, numbers)):
        tree = ast.parse(source)
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert {name for name in used - fixed if not (re.fullmatch(r"[A-Za-z]\d+", name) and name[0] in names)} == set()
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        assert texts <= {*map(str, numbers), "0", "", " ", "=", "D", "CD", "ascii", generator.bitmap_text(numbers)}
        assert all(isinstance(value, (dict, list)) or callable(value) for value in constants.values())
    secret = {**REQUEST, "41": "SECRET01", "48": "SECRET02"}
    codec = warm(TABLE)
    seen: list[str] = []
    original = generator._function
    try:
        generator._function = lambda source, constants, name: seen.append(source + repr(constants)) or original(source, constants, name)
        assert read(codec, reference_encode(DIALECT, secret)) == secret
        assert written(codec, secret) is not None
    finally:
        generator._function = original
    assert len(seen) == 2 and not any("SECRET" in text or secret["2"] in text or secret["37"] in text for text in seen)


def test_every_field_of_every_dialect_has_a_template() -> None:
    assert unknown(TABLE) == {}  # what this lists goes through the reference, and is named here


UNKNOWN = {
    "text of more than one byte": ({"data_enc": "gb18030"}, "ans", "code of text or length"),
    "a length in a code of its own": ({"len_enc": "utf-16", "len_type": 2}, "n", "code of text or length"),
    "two pads": ({"data_enc": "b", "len_count": "nibbles", "left_pad": "0", "right_pad": "F"}, "n", "nibbles of text, or two pads"),
    "half a byte without a pad": ({"data_enc": "b", "len_count": "nibbles", "max_len": 3}, "n", "odd nibbles without a pad"),
    "a signed amount of variable length": ({"len_type": 2}, "x+n", "content type"),
    "a type of its own": ({}, "xyz", "content type"),
    "a length beyond the limit": ({"max_len": 10_000, "len_type": 5}, "ans", "length"),
}


@pytest.mark.parametrize(("changed", "type_", "reason"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_no_template_knows_is_named_and_left_to_the_reference(changed: dict[str, Any], type_: str, reason: str) -> None:
    table = Table({**TABLE.spec, "48": {**TABLE.spec["48"], "len_type": 0, "max_len": 4, **changed}}, {**TABLE.types, "48": type_})
    assert unknown(table) == {"48": reason}
    assert written(warm(table), {"0": "0800", "48": "0000"}) is None
    assert written(warm(table), {"0": "0800", "11": "000001"}) is not None


def spec(code: str, bitmap: str, number: str, length: str, **pads: str) -> dict[str, dict[str, Any]]:
    """A host's table with fields of each kind: MTI and bitmap, numeric, text, binary, each fixed and variable."""
    def field(data: str, width: int, most: int, count: str = "bytes") -> dict[str, Any]:
        return {"data_enc": data, "len_enc": length, "len_type": width, "max_len": most, "desc": "", "len_count": count, **(pads if count == "nibbles" else {})}
    count = "nibbles" if number == "b" else "bytes"
    wide = 1 if length in ("b", "bcd") else 2
    return {"h": field("b", 0, 0), "t": field("b" if bitmap == "b" else code, 0, 2 if bitmap == "b" else 4), "p": field(bitmap, 0, 8), "1": field(bitmap, 0, 8),
            "2": field(number, wide, 19, count), "3": field(number, 0, 6, count), "4": field(number, 0, 13, count), "22": field(number, 0, 3, count),
            "35": field(number, wide, 37, count), "37": field(code, 0, 12), "41": field(code, 0, 8), "44": field(code, wide, 25), "48": field(code, 2 if wide == 1 else 3, 999),
            "52": field("b", 0, 8), "55": field("b", 2 if wide == 1 else 3, 255), "64": field("b", 0, 8), "90": field(number, 0, 41, count), "102": field(code, wide, 28)}


TYPES = {"2": "n", "3": "n", "4": "n", "22": "n", "35": "z", "37": "an", "41": "ans", "44": "ans", "48": "ans", "52": "b", "55": "b", "64": "b", "90": "n", "102": "ans"}
HOSTS = {
    "text": spec("ascii", "ascii", "ascii", "ascii"),
    "text with binary bitmaps": spec("ascii", "b", "ascii", "ascii"),
    "BCD, padded left with 0": spec("ascii", "b", "b", "bcd", left_pad="0"),
    "BCD, padded right with F": spec("latin-1", "b", "b", "bcd", right_pad="F"),
    "EBCDIC and BCD, binary lengths": spec("cp500", "b", "b", "b", left_pad="0"),
    "EBCDIC throughout": spec("cp500", "cp500", "cp500", "cp500"),
    "EBCDIC with binary bitmaps": spec("cp037", "b", "cp037", "cp037"),
}
MIXED = settings(max_examples=max(EXAMPLES // 25, 100), deadline=None, suppress_health_check=list(HealthCheck))


def text_of(host: dict[str, Any], number: str) -> st.SearchStrategy[str]:
    field, type_ = host[number], TYPES[number]
    size = st.integers(0, min(field["max_len"], 40)) if field["len_type"] else st.just(field["max_len"])
    if field["data_enc"] == "b" and field["len_count"] == "bytes":
        return size.flatmap(lambda count: st.text("0123456789ABCDEF", min_size=2 * count, max_size=2 * count))
    alphabet = "0123456789D" if type_ == "z" and field["data_enc"] == "b" else ALPHABET[type_]
    return size.flatmap(lambda count: st.text(alphabet, min_size=count, max_size=count))


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
@MIXED
@given(data=st.data())
def test_each_code_of_text_length_and_pad_is_as_the_reference_has_it(host: dict[str, dict[str, Any]], data: st.DataObject) -> None:
    numbers = sorted(data.draw(st.sets(st.sampled_from(sorted(TYPES)))), key=int)
    message = {"0": data.draw(MTIS), **{number: data.draw(text_of(host, number)) for number in numbers}}
    document = {("t" if number == "0" else number): value for number, value in message.items()}
    wire = bytes(iso8583.encode(dict(document), host)[0])
    codec = warm(Table(host, TYPES))
    assert not codec.unknown
    assert written(codec, message) == wire
    assert read(codec, wire) == message == decode_with_spec(host, wire)
    at = data.draw(st.integers(0, len(wire) - 1))
    damaged = wire[:at] + data.draw(st.binary(max_size=3)) + wire[at + data.draw(st.integers(0, 3)):]
    found = read(codec, damaged)
    if found is not None:
        assert found == decode_with_spec(host, damaged)
        assert all(content(host, number, value) for number, value in found.items() if number != "0") and found["0"].isdecimal()
    else:
        try:
            expected = decode_with_spec(host, damaged)
        except DecodeError:
            return
        assert not strict(host, damaged, expected)


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize(("number", "wrong"), [("37", "é"), ("37", "²"), ("41", "é"), ("44", "é"), ("22", "²"), ("2", "²"), ("35", "²")])
def test_a_character_outside_ascii_is_never_read(host: dict[str, dict[str, Any]], number: str, wrong: str) -> None:
    field = host[number]
    if field["data_enc"] in ("b", "ascii"):
        number, field = "41", host["41"]
    right = "0" * (8 if field["len_type"] else field["max_len"])
    message = {"0": "0100", number: right}
    codec = warm(Table(host, TYPES))
    wire = bytes(iso8583.encode({"t": "0100", number: right}, host)[0])
    assert read(codec, wire) == message
    code = field["data_enc"]
    assert codec.decode(wire[:-1] + wrong.encode("latin-1" if code == "ascii" else code)) is None
    assert written(codec, {**message, number: right[:-1] + wrong}) is None


def test_two_halves_of_a_byte_in_two_fields_are_not_one_byte() -> None:
    raw = {**TABLE.spec["55"], "data_enc": "b", "len_enc": "bcd", "len_type": 2}
    table = Table({**TABLE.spec, "56": TABLE.spec["55"], "58": raw, "59": raw},
                  {**TABLE.types, "56": "b", "58": "b", "59": "b"})
    for first, second in (("55", "56"), ("58", "59")):
        codec = warm(table)
        assert written(codec, {"0": "0100", first: "ABCD", second: "ABCD"}) is not None
        assert codec.encode({"0": "0100", first: "ABC", second: "ABC"}) is None
    codec = warm(table)
    assert read(codec, written(codec, {"0": "0100", "55": "ABCD", "56": "ABCD"}) or b"") is not None
    assert codec.decode(b"01000000000000000300003ABC003ABC") is None


@pytest.mark.parametrize(("host", "right", "wrong"), [("BCD, padded left with 0", b"\x01\x23", b"\x11\x23"), ("BCD, padded right with F", b"\x12\x3f", b"\x12\x30")])
def test_half_a_byte_of_padding_is_what_the_table_says(host: str, right: bytes, wrong: bytes) -> None:
    codec, head = warm(Table(HOSTS[host], TYPES)), bytes.fromhex("0100" + "0000040000000000")
    assert read(codec, head + right) == {"0": "0100", "22": "123"}
    assert codec.decode(head + wrong) is None
    variable = warm(Table(HOSTS[host], TYPES))
    head = bytes.fromhex("0100" + "4000000000000000" + "03")
    assert read(variable, head + right) == {"0": "0100", "2": "123"}
    assert variable.decode(head + wrong) is None


def content(host: dict[str, dict[str, Any]], number: str, value: str) -> bool:
    return re.fullmatch(CONTENT[TYPES[number]].replace("{n}", "*"), value) is not None


def strict(host: dict[str, dict[str, Any]], data: bytes, message: dict[str, str]) -> bool:
    """Whether what pyiso8583 reads is also right: content by type, bitmaps in upper case and without bit 65 (which adds a bitmap)."""
    start, end = bitmap_at(Table(host, TYPES))
    code = host["p"]["data_enc"]
    bitmaps = "" if code == "b" else data[start:2 * end - start].decode(code, "replace")[:32 if data[start:end].decode(code)[0] in "89ABCDEF" else 16]
    return (re.fullmatch("[0-9]{4}", message["0"]) is not None and bitmaps == bitmaps.upper()
            and all(content(host, number, value) for number, value in message.items() if number != "0"))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_a_published_message_is_read_and_written_as_by_the_reference(vector: dict[str, Any]) -> None:
    host = SPECS[vector["spec"]]
    wire = bytes.fromhex(vector.get("verify_hex") or vector["hex"])[vector.get("strip", 0):]
    codec = warm(Table(host, {}))
    try:
        expected = decode_with_spec(host, wire)
    except DecodeError:
        assert read(codec, wire) is None
        return
    assert vector.get("expect") != "reject"
    assert read(codec, wire) == expected
    document = {("t" if number == "0" else number): value for number, value in expected.items()}
    assert written(codec, expected) == bytes(iso8583.encode(document, host)[0])


@pytest.mark.parametrize(("wire", "field", "position", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_the_reference_refuses_a_compiled_function_does_not_read(wire: bytes, field: str, position: int, reason: str) -> None:
    codec = warm(TABLE)
    assert read(codec, wire) is None
    for _ in range(SIGHTINGS):  # through the door, when the bitmap has its function
        with pytest.raises(DecodeError, match=re.escape(reason)) as caught:
            decode(DIALECT, wire)
    assert (caught.value.field, caught.value.position) == (field, position)


@pytest.mark.parametrize(("wire", "message"), ACCEPTED.values(), ids=ACCEPTED)
def test_what_the_reference_accepts_a_compiled_function_reads(wire: bytes, message: dict[str, str]) -> None:
    assert read(warm(TABLE), wire) == message


@pytest.mark.parametrize("data", [None, "0800", 8, bytearray(b"0800"), memoryview(b"0800" + b"0" * 16), b"", b"08", [b"0800"]])
def test_what_is_no_bytes_is_left_to_the_reference(data: Any) -> None:
    assert read(warm(TABLE), data) is None


def test_a_pair_takes_a_fifth_of_the_reference_s_time_at_most() -> None:
    tries = (compare(rounds=5) for _ in range(5))  # another process may have the core for one of them
    assert any(result["ratio"] <= RATIO_MAX for result in tries)


LENGTHS = ["+5", " 5", "5 ", "1_", "-0", "-1", "AB", "²2", "\u0665\u0665", "\n5", "0x", "99", "20"]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_hostile_length_is_refused_under_its_field(length: str) -> None:
    wire = b"02004000000000000000" + length.encode("latin-1", "replace")[:2] + b"4" * 19
    codec = warm(TABLE)
    assert read(codec, b"0200400000000000000019" + b"4" * 19) == {"0": "0200", "2": "4" * 19}
    assert codec.decode(wire) is None
    with pytest.raises(DecodeError) as caught:
        decode(DIALECT, wire)
    assert caught.value.field == "2"


def test_a_dialect_that_is_built_later_has_functions_of_its_own() -> None:
    other = build({**LITERALS["iso87_ascii"], "name": "other", "fields": {**LITERALS["iso87_ascii"]["fields"], "13": ("local_date", "n", 6, 0)}})
    wire = encode(other, {"0": "0100", "13": "261123"})
    assert decode(other, wire) == {"0": "0100", "13": "261123"}
    with pytest.raises(DecodeError):
        decode(DIALECT, wire)
