"""A host that no code here knows, from one literal in a file: checked, spoken, answered, undone; and what is said of a file that is wrong."""

import io
import json
import re
import sys
from pathlib import Path

import pytest

from messages.codec import DecodeError, Rejected, decode, encode
from messages.dialect import DialectError, answer_fault, build, match_key, repeat_mti
from messages.framing import KINDS, Deframer, Framing, FramingError, frame
from messages.headers import Header, answering, explained
from messages.mac import carried, covered, placed
from messages.subfields import SubfieldError, joined, layout, split
from switch.cli import main
from switch.commands.inspection import _check, _literal
from switch.errors import StartError
from switch.payments import translation
from switch.security.ciphers import ClearKey
from switch.security.macs import iso9797_3
from switch.security.pan import Pan
from tests.test_translation import ACQUIRER, MERCHANT, PAN, STORE, order, row
from tests.unseen import jcx_host
from tests.unseen.wire import Host, Piece, bcd

FILE = Path(jcx_host.__file__)
TEXT = FILE.read_text()
DIALECT = build(jcx_host.DIALECT)
HEADER = "ISO015000050".encode("cp037")
HOST = Host(lambda mti: mti.encode("cp037"), lambda bits, more: f"{bits:032X}"[:32 if more else 16].encode("cp037"), lambda body: HEADER)
KEY = ClearKey("tdes", bytes(range(16)))


def e(value: str) -> Piece:
    return Piece(value.encode("cp037"), value)


def ll(value: str, digits: int = 2) -> Piece:
    return Piece(f"{len(value):0{digits}d}{value}".encode("cp037"), value)


def lll(value: str) -> Piece:
    return ll(value, 3)


PIECES = {2: ll(PAN), 3: e("000000"), 4: e("000000001000"), 7: e("1123080000"), 11: e("000123"), 12: e("160000"), 13: e("1123"), 14: e("2812"),
          18: e("5411"), 22: e("0510"), 25: e("00"), 37: e("632700000123"), 41: e("T0000001"), 42: e("M00000000000001"),
          43: e("Corner Shop              Shanghai     CN"), 48: lll("01003POS02006000123"), 49: e("156"), 126: lll("01POS00045411")}
INNER = "60000080" + "00000000" + "05abc-1".encode("cp037").hex().upper() + "ROUTE001".encode("cp037").hex().upper() + "003yes".encode("cp037").hex().upper()
RICH = {**PIECES, 28: Piece("D".encode("cp037") + bcd("00000150"), "D00000150"), 54: lll("0002156C0000000123000001156D000000000001"),
        63: Piece(f"{len(INNER) // 2:04d}".encode("cp037") + bytes.fromhex(INNER), INNER), 128: Piece(bytes(range(8)), "0001020304050607")}
PARTS = {"48.01": "POS", "48.02": "000123", "54.1.2": "02", "54.2.4": "D000000000001", "63.2": "abc-1", "63.3": "ROUTE001", "63.25": "yes",
         "126.1": "01", "126.2": "POS", "126.4": "5411"}


def asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, *words: str) -> str:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert main(list(words)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_the_commands_speak_it_from_its_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ": jcx_host: sound, " in asked(monkeypatch, capsys, "", "dialect", "check", str(FILE))
    said = HOST.said("rich", "0200", RICH)
    wire = b"%04d" % len(said.wire) + said.wire
    words = ("--dialect", str(FILE), "--framed")
    whole = {number: value for number, value in said.fields.items() if number not in ("48", "54", "63", "126")}
    given = {**whole, **{path: value for number in ("48", "54", "63", "126") for path, value in parts(said.fields, number).items()}}
    assert bytes.fromhex(asked(monkeypatch, capsys, json.dumps(given), "message", "encode", *words)) == wire
    found = json.loads(asked(monkeypatch, capsys, wire.hex(), "message", "decode", "--clear", *words))
    assert {number: found[number] for number in said.fields} == dict(said.fields)
    told = asked(monkeypatch, capsys, wire.hex(), "message", "explain", *words)
    assert re.search(r"126\.4 +remark +5411", told) and re.search(r"63\.25 +text", told) and PAN not in told


def parts(fields: dict[str, str] | object, number: str) -> dict[str, str]:
    assert isinstance(fields, dict)
    return {part.path: part.value for part in split(number, DIALECT.sub_fields[number], fields[number], fields["0"])}


def test_its_bytes_and_parts_are_those_of_the_description() -> None:
    said = HOST.said("rich", "0200", RICH)
    message = decode(DIALECT, said.wire)
    assert {number: value for number, value in message.items() if number != "h"} == dict(said.fields)
    assert encode(DIALECT, message) == said.wire
    found = {path: value for number in ("48", "54", "63", "126") for path, value in parts(said.fields, number).items()}
    assert {path: found.get(path) for path in PARTS} == PARTS
    for end in range(len(said.wire)):
        with pytest.raises(DecodeError):
            decode(DIALECT, said.wire[:end])


@pytest.mark.parametrize("sign", [b"\xc5", b"C", b"\xf0"])
def test_a_sign_that_is_none_is_refused(sign: bytes) -> None:
    wrong = {**RICH, 28: Piece(sign + bcd("00000150"), "")}
    with pytest.raises(DecodeError, match=f"field 28 at byte {HOST.at(28, wrong)}: .*x\\+n"):
        decode(DIALECT, HOST.message("0200", wrong))


def test_a_sale_is_said_answered_and_undone_without_a_line_of_code() -> None:
    acquirer, sale = ACQUIRER._replace(dialect=DIALECT), row()
    request = translation.request(order(), sale, acquirer, MERCHANT, STORE)
    assert encode(DIALECT, request) == HOST.message("0200", PIECES)
    echoed = {each: PIECES[each] for each in (3, 4, 7, 11, 37, 41, 42, 49, 126)}
    answer = decode(DIALECT, HOST.message("0210", {**echoed, 38: e("A1B2C3"), 39: e("00")}))
    assert match_key(DIALECT, answer) == match_key(DIALECT, request) == "2|000123|632700000123|T0000001|01"
    assert answer_fault(DIALECT, request, answer) is None and translation.verdict(sale, DIALECT, answer).event.name == "APPROVE"
    assert match_key(DIALECT, {**answer, "126": "02POS00045411"}) != match_key(DIALECT, request)
    undo = translation.reversal(sale, DIALECT, Pan(PAN), "2812", "000999", "1123080107")
    said = decode(DIALECT, encode(DIALECT, {**undo, "0": repeat_mti(undo["0"])}))
    assert (undo["0"], said["0"], said["11"], said["90"]) == ("0420", "0421", "000999", "0200" + "000123" + "1123080000" + "0" * 22)


def test_its_mac_is_the_last_field_and_over_all_before_it_but_the_header() -> None:
    assert carried(DIALECT, "0200") is not None and carried(DIALECT, "0800") is None
    bare = HOST.message("0200", {**PIECES, 128: Piece(bytes(8), "")})
    sealed = placed(DIALECT, bare, iso9797_3(KEY, covered(DIALECT, bare)))
    assert sealed[:-8] == bare[:-8] and sealed[-8:] == iso9797_3(KEY, bare[len(HEADER):-8])


# What a hand slips into: what stands in the file, what is written instead, and what the refusal must say of place, value and what is accepted.
MISTAKES = [
    ('("ascii4", 4096)', '("ascii5", 4096)', "framing: kind: 'ascii5' is not accepted; one of binary2"),
    ('("ascii4", 4096)', '("ascii4", 10000)', "framing ascii4: max_length: 10000 is not accepted; a number from 1 to 9999"),
    ('("ascii4", 4096)', '("ascii4", "4096")', "framing: max_length: '4096' is not accepted; a number"),
    ('"plain", "C9', '"plain", "ISO', "header: bytes: 'ISO.*hexadecimal text"),
    ('"text": "cp037"', '"text": "ebcdic"', "coding: text is 'ebcdic', none of ascii"),
    ('"n", 19, 2)', '"num", 19, 2)', "field 2: type num is none of n, an"),
    ('"n", 19, 2)', '"n", "19", 2)', "fields 2: length: '19' is not accepted; a number"),
    ('"n", 19, 2)', '"n", 19, 7)', "fields 2: prefix: 7 is not accepted; a number from 0 to 6"),
    ('"2": ("primary', '2: ("primary', "fields: 2 is not accepted; the number of a field as text"),
    ('("processing_code", "n", 6, 0)', '("processing_code", "n", 6)', r"fields 3: \('processing_code', 'n', 6\).*\(name, type, length, prefix"),
    ('{"code": "bcd"}', '{"coding": "bcd"}', "fields 28: options: 'coding' is not accepted; one of code, length_code, pad"),
    ('{"code": "bcd"}', '{"code": "packed"}', "field 28: code is none of .*: packed"),
    ('("transaction_fee", "x+n", 9', '("transaction_fee", "x+n", 8', "field 28: a sign and digits in bcd .* odd length, and not 8"),
    ('"reversal_first": False', '"reverse_first": False', "reverse_first: unknown key; known: name"),
    ('"reversal_first": False', '"reversal_first": "no"', "reversal_first: 'no' is not accepted; True or False"),
    ('("tlv", 2, 3)', '("ltv", 2, 3)', "sub_fields 48: .*'ltv'.* is no layout: positional"),
    ('("programme", "n", 2)', '("programme", "digits", 2)', "sub_fields 126: .*type 'digits' is none of n"),
    ('2: ("switch_key"', '99: ("switch_key"', "sub_fields 63: .*part 99: bits go from 1 to 64"),
    ('"41", "126.1")', '"41", "48")', "match: field 48 is not fixed: only"),
    ('"41", "126.1")', '"41", "126.4")', "match: no field 126.4 in fields"),
    ('"8": ("7", "11")', '"8": "11"', r"match 8: '11' is not accepted; a tuple of numbers; one alone is written \('11',\)"),
    ('("declined", "do_not', '("decline", "do_not', "codes N1: verdict: 'decline' is not accepted; one of approved"),
    ('"N1": (', '"N": (', "code N: not two characters"),
    ('"iso9797_3"', '"retail"', "mac: algorithm: 'retail' is not accepted; one of iso9797_1"),
    ('("128", "iso9797_3"', '("52", "iso9797_3"', "mac: field 52 is not the last one"),
    ("{stan}", "{trace}", "composed 48: no name trace; known: mti"),
    ("{stan}", "{stan", "composed 48: not a template: .*a text with names such as"),
    ('("0420", {}', '("420", {}', "messages reversal: MTI: '420' is not accepted; an MTI of four digits"),
    ('"purchase.single"', '"sale.single"', "messages: 'sale.single' is not accepted; one of purchase"),
    ('"25": "06"}, ("38", "90"))', '"25": "6"}, ("38", "90"))', "message capture: field 25 cannot be 6: exactly 2 characters of type n"),
    ('"sign_on": "001"', '"logon": "001"', "network: logon is none of sign_on"),
    ('"iso87_ascii",', '"iso87",', "like: 'iso87' is none of iso87_ascii"),
    ('"051": "0510"', '"051": "05100"', "entry_forms 051: field 22 cannot be 05100: exactly 4"),
    ('"never_stored": ("35", ', '"never_stored": (', "field 35: card data, so it belongs to never_stored"),
    ("50: ((", "48: ((", "key_exchange: the parts of 48 bytes are not as long, they have 50"),
    ('8, "01")', '8, "1")', "mark: '1' is not accepted; hexadecimal text"),
    ('{"53": "2001010100000000"}', '{"53": "20"}', "with_pin: no field 53 with 20: exactly 16 characters of type n"),
    ('        "39": ("response_code", "an", 2, 0),\n', "", r"fields: 39 \(response code\) is missing"),
    ('"framing": ("ascii4", 4096),', '"framing": ("ascii4", 4096)', "line 9: invalid syntax"),
    ('"3": ("processing_code", "n", 6, 0),', '"3": ("a", "n", 6, 0), "3": ("b", "n", 6, 0),', "line 14: \"3\" is there twice"),
    ('"framing": (', '"framing": tuple(', "line 9: tuple.* is not a literal but a call: .*only texts"),
]


@pytest.mark.parametrize(("right", "wrong", "says"), MISTAKES, ids=[says[:40] for _, _, says in MISTAKES])
def test_a_typical_mistake_is_told_by_place_value_and_what_is_accepted(right: str, wrong: str, says: str, tmp_path: Path) -> None:
    assert TEXT.count(right) >= 1
    file, told = tmp_path / "host.py", list[str]()
    file.write_text(TEXT.replace(right, wrong, 1))
    try:
        assert _check(file, told.append) == 1
    except StartError as error:
        told.append(str(error))
    else:
        with pytest.raises(DialectError):  # and so it is never loaded
            build(_literal(file))
    found = next((line.removeprefix(f"{file}: ") for line in told if re.search(says, line)), "")
    assert found, told
    assert found.startswith(f"line {line_of(says, TEXT, file.read_text())}: ")


def line_of(says: str, right: str, wrong: str) -> int:
    """Where two texts begin to differ; where something is missing, of what it should be in, or what it should be said of."""
    missing = {"fields: 39": '"fields"', "field 35": '"35": '}
    if at := next((wrong.index(text) for fault, text in missing.items() if says.startswith(fault)), 0):
        return wrong.count("\n", 0, at) + 1
    return wrong.count("\n", 0, next(at for at, (one, other) in enumerate(zip(right, wrong, strict=False)) if one != other)) + 1


@pytest.mark.parametrize(("kind", "prefix"), [("hex4", b"000A"), ("gicc", b"\0\0\0\x0a"), ("binary3", b"\0\0\x0a")])
def test_more_ways_to_say_a_length(kind: str, prefix: bytes) -> None:
    framing = Framing(kind, 4096)
    assert frame(framing, b"0123456789") == prefix + b"0123456789"
    nothing = b"" if kind == "hex4" else bytes(KINDS[kind].size)
    assert Deframer(framing).feed(nothing + prefix + b"0123456789" + prefix) == [b"0123456789"]
    for wrong in {"hex4": (b"0x0A", b" 00A", b"0000", b"FFFF"), "gicc": (b"\0\1\0\x0a",), "binary3": (b"\xff\0\0",)}[kind]:
        with pytest.raises(FramingError):
            Deframer(framing).feed(wrong)


CUPS = b"\x2e\x02" + b"0000" + b"00010000   " + b"00012345   " + b"000" + b"0" + b"00000000" + b"0" + b"00000"
BANK = build({**jcx_host.DIALECT, "header": ("cups", CUPS.hex())})


def test_the_header_of_a_bank_s_line_counts_names_both_ends_and_says_what_came_back() -> None:
    wire = encode(BANK, {"0": "0800", "7": "1123080000", "11": "000001", "70": "301"})
    assert (wire[:2], wire[2:6], len(CUPS)) == (b"\x2e\x02", b"%04d" % len(wire), 46)
    message = decode(BANK, wire)
    assert bytes.fromhex(answering(Header("cups", CUPS.hex()), message["h"]))[6:28] == b"00012345   00010000   "
    assert dict(explained(Header("cups", CUPS.hex()), message["h"]))["destination"] == b"00010000   ".hex().upper()
    with pytest.raises(Rejected, match="field h at byte 0: rejected with code 20001") as caught:
        decode(BANK, wire[:41] + b"20001" + wire[46:])
    assert caught.value.message["11"] == "000001"
    for wrong in (wire[:45], b"\x2d" + wire[1:], wire[:2] + b"0001" + wire[6:]):
        with pytest.raises(DecodeError, match="field h at byte 0"):
            decode(BANK, wrong)


@pytest.mark.parametrize(("how", "value", "part"), [
    (("positional", (("remark", "ans", 4, 2),)), "05hello", "9.1"), (("positional", (("remark", "ans", 4, 2),)), "0x", "9.1"),
    (("positional", (("remark", "ans", 4, 2),)), "04abc", "9.1"), (("records", 0, (("amount", "n", 3),)), "1234", "9"),
    (("records", 0, (("amount", "n", 1),)), "1" * 100, "9"), (("tlv", 2, 2, 1), "R42", "9"), (("tlv", 2, 2, 1), "R4205a", "9"),
    (("bitmapped", 1, {1: ("text", "ascii", 3, 2)}), "80" + b"04".hex(), "9.1"), (("bitmapped", 1, {1: ("text", "ascii", 3, 2)}), "80" + b"03a".hex(), "9.1"),
])
def test_parts_that_are_cut_or_too_long_are_refused_by_name(how: tuple[object, ...], value: str, part: str) -> None:
    with pytest.raises(SubfieldError) as caught:
        split("9", layout(how), value, "0200")
    assert caught.value.part == part and value not in str(caught.value)


def test_elements_behind_a_category_join_again() -> None:
    how = layout(("tlv", 2, 2, 1))
    assert joined("48", how, {"48.0": "R", "48.42": "010"}, "0100") == "R4203010"
    with pytest.raises(SubfieldError):
        joined("48", how, {"48.42": "010"}, "0100")
