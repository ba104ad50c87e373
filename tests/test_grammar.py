"""messages.grammar and messages.soundness: the page is the types, each dialect follows it, and faults are told by their part."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messages.codec import DecodeError, compiled, decode, encode, reference_decode, reference_encode
from messages.dialect import LITERALS, Dialect, build, faults, load
from messages.grammar import KEYS, Field, page
from messages.masking import mask

DIALECTS = {(name, fixed): build({**literal, "fixed_bitmap": fixed}) for name, literal in LITERALS.items() for fixed in (False, True)}


def test_the_page_is_written_from_the_types() -> None:
    assert (Path(__file__).parents[1] / "docs" / "dialects.md").read_text() == page()


@pytest.mark.parametrize("name", LITERALS)
def test_every_dialect_is_sound_and_all_of_its_fields_have_a_template(name: str) -> None:
    assert faults(LITERALS[name]) == []
    assert load(name).name == name
    assert compiled(load(name)).unknown == {}


@pytest.mark.parametrize(("change", "fault"), [
    (lambda literal: literal.update(colour="red"), "colour: unknown key"),
    (lambda literal: literal.pop("match"), "match: missing"),
    (lambda literal: literal.update(coding={"text": "utf-8"}), "coding: text is 'utf-8'"),
    (lambda literal: literal.update(coding={"letters": "ascii"}), "coding: no part letters"),
    (lambda literal: literal.update(header=("tpdu", "6100030000")), "header: no TPDU"),
    (lambda literal: literal.update(framing=("binary2", 4096, "echo")), "framing: polls: 'echo' is not accepted; one of polls echoed"),
    (lambda literal: literal.update(header=("sna", "00")), "header: kind: 'sna' is not accepted; one of tpdu"),
    (lambda literal: literal["fields"].update({"41": ("terminal", "ans", 8, 0, {"code": "bcd"})}), "field 41: code bcd cannot hold type ans"),
    (lambda literal: literal["fields"].update({"41": ("terminal", "ans", 8, 0, {"colour": "bcd"})}), "fields 41: options: 'colour'"),
    (lambda literal: literal["fields"].update({"64": ("mac", "b", 16, 0, {"code": "morse"})}), "field 64: code is none of"),
    (lambda literal: literal["fields"].update({"11": ("stan", "n", 6, 0, {"pad": "middle 0"})}), "field 11: pad is none of"),
    (lambda literal: literal.update(sub_fields={"60": ("spiral", ())}), "sub_fields 60: ('spiral', ()) is no layout"),
    (lambda literal: literal.update(sub_fields={"65": ("ber",)}), "sub_fields: no field 65"),
    (lambda literal: literal["match"].update({"*": ("11", "60.9")}), "match: no field 60.9"),
    (lambda literal: literal.update(never_stored=("36",)), "field 35: card data"),
    (lambda literal: literal.update(composed={"60": "{stan.__class__}"}), "composed 60: not a template"),
    (lambda literal: literal.update(composed={"60": "{colour}"}), "composed 60: no name colour"),
    (lambda literal: literal.update(composed={"39": "{reversal_reason}"}, reversal_reasons={}), "reversal_reasons"),
    (lambda literal: literal.update(reversal_stan="any"), "reversal_stan"),
    (lambda literal: literal["network"].update({"dance": "301"}), "network: dance"),
    (lambda literal: literal["batch"].update(colour="red"), "batch: 'colour' is not accepted; one of figures"),
    (lambda literal: literal["batch"].update(told=("48.11",)), "batch: told 48.11: no such place in a 0510"),
    (lambda literal: literal["batch"].update(told=()), "batch: codes say told, but told names no place"),
    (lambda literal: literal["batch"].update(codes={"00": "fine"}), "batch codes 00: 'fine' is not accepted; one of in_balance"),
    (lambda literal: literal["batch"].update(says={"1": "told"}), "batch says 1: 'told' is not accepted; one of in_balance, out_of_balance"),
    (lambda literal: literal["batch"]["figures"].update({"48.12": "net"}), "batch: figures 48.12: no such place in a 0500"),
    (lambda literal: literal["batch"].update(figures={"49": "currency"}), "message batch_close: no figure for field 48"),
    (lambda literal: literal["batch"].update(items=("45", 8, "{card}")), "batch: items: no field 45"),
    (lambda literal: literal["batch"].update(items=("48", 8, "{stan}")), "batch: items: no name stan"),
    (lambda literal: literal["messages"].pop("batch_end"), "message batch_upload: batch_upload and batch_end go together"),
    (lambda literal: literal["messages"].pop("batch_close"), "message batch_upload: there is no message batch_close"),
    (lambda literal: literal["messages"].update(batch_end=("0320", {}, (), {"48": "{amount}"})), "message batch_end: composed 48: no name amount"),
    (lambda literal: literal.update(network_rule={"composed": {"7": "{transmitted_at}"}}), "no field 11"),
    (lambda literal: literal["messages"]["purchase.single"][1].pop("3"), "field 3 is not fixed"),
    (lambda literal: literal.update(reversal_reasons={"unanswered": "98", "answered": "06", "mac": "A0"}), "reversal_reasons: mac is none of"),
    (lambda literal: literal.update(mac=("63", "cmac", ("2",), "A0")), "mac: field 63 is not the last one"),
    (lambda literal: literal.update(mac=("64", "crc", ("2",), "A0")), "mac: algorithm: 'crc' is not accepted; one of"),
    (lambda literal: literal.update(mac=("64", "cmac")), "mac: ('64', 'cmac') is not accepted; (field, algorithm, classes, code, [bytes])"),
    (lambda literal: literal.update(key_exchange=("63", {}, {})), "key_exchange: no field 63 of type b"),
    (lambda literal: literal.update(key_exchange=("62", {21: (("pin", "tdes", 16, 4),)}, {})), "key_exchange: the parts of 21 bytes are not as long"),
    (lambda literal: literal.update(key_exchange=("62", {20: (("tmk", "tdes", 16, 4),)}, {})), "key_exchange: layouts 20: purpose: 'tmk' is not accepted; one of"),
    (lambda literal: literal.update(with_pin={"26": "123"}), "with_pin: no field 26 with 123"),
])
def test_a_fault_is_named_by_its_part(change: Callable[[dict[str, Any]], object], fault: str) -> None:
    literal = copy.deepcopy(dict(LITERALS["unionpay_pos"]))
    change(literal)
    assert any(re.search(re.escape(fault), found) for found in faults(literal)), faults(literal)


SAMPLES: dict[str, list[dict[str, str]]] = {
    "unionpay_pos": [
        {"0": "0200", "2": "4111111111111111", "3": "000000", "4": "000000012500", "11": "000123", "14": "3112", "22": "021", "23": "001", "25": "00",
         "35": "4111111111111111D3112101000000000", "41": "TERM0001", "42": "MERCHANT0000001", "49": "156", "60": "2226112600060"},
        {"0": "0500", "11": "000124", "41": "TERM0001", "42": "MERCHANT0000001", "48": "0000000125000020000000005000010" + "0" * 31, "49": "156",
         "60": "00261126201", "63": "01 "},
        {"0": "0320", "11": "000125", "41": "TERM0001", "42": "MERCHANT0000001", "48": "01" + "22000123" + "00004111111111111111" + "000000012500",
         "60": "00261126201"},
    ],
    "iso93_ascii": [{"0": "1420", "2": "4111111111111111", "3": "000000", "4": "000000012500", "7": "1126101500", "11": "000124", "12": "261126101500",
                     "24": "400", "49": "978", "55": "9F2608DEAE676D1C473411", "56": "120000012326112610140000"}],
    "visa_base1": [{"0": "0100", "2": "4111111111111111", "3": "000000", "4": "000000012500", "7": "1126101500", "11": "000124", "22": "0510",
                    "35": "4111111111111111D31121010000000000", "41": "TERM0001", "62": "8000000000000000E8"}],
    "mastercard_cis": [{"0": "0100", "2": "4111111111111111", "3": "000000", "4": "000000012500", "7": "1126101500", "11": "000124", "22": "051",
                        "35": "4111111111111111D31121010000000000", "41": "TERM0001", "48": "R", "55": "9F2608DEAE676D1C473411", "61": "0" * 26}],
}


@pytest.mark.parametrize(("name", "message"), [(name, message) for name, messages in SAMPLES.items() for message in messages])
def test_compiled_and_reference_write_and_read_the_same(name: str, message: dict[str, str]) -> None:
    dialect = load(name)
    sent = encode(dialect, message)
    for _ in range(6):  # until the set of fields is compiled
        assert encode(dialect, message) == sent
        assert {n: value for n, value in decode(dialect, sent).items() if n != "h"} == message
    start = len(dialect.header.default) // 2 if dialect.header else 0
    assert sent[start:] == reference_encode(dialect, message)
    assert reference_decode(dialect, sent[start:]) == message


def test_a_track_with_an_equals_sign_leaves_with_d_where_it_is_bcd() -> None:
    message = {**SAMPLES["unionpay_pos"][0], "35": "4111111111111111=3112101000000000"}
    assert encode(load("unionpay_pos"), message) == encode(load("unionpay_pos"), SAMPLES["unionpay_pos"][0])


def test_each_key_says_what_it_is() -> None:
    assert all(key.says.endswith(".") and key.shape for key in KEYS.values())


ALPHABETS = {
    "n": "0123456789", "an": "0123456789AZaz ", "ans": "".join(map(chr, range(32, 127))), "z": "0123456789D", "b": "0123456789ABCDEF",
    "ansb": "".join(map(chr, range(256))),
}


def values(field: Field) -> st.SearchStrategy[str]:
    """What the field may hold, all of it."""
    if field.type == "x+n":
        return st.builds(str.__add__, st.sampled_from("CD"), st.text(ALPHABETS["n"], min_size=field.length - 1, max_size=field.length - 1))
    most = min(field.length, 60)
    if field.type == "b":
        size = (0, most // 2) if field.prefix else (field.length // 2, field.length // 2)
        return st.binary(min_size=size[0], max_size=size[1]).map(lambda data: data.hex().upper())
    return st.text(ALPHABETS[field.type], min_size=0 if field.prefix else field.length, max_size=most if field.prefix else field.length)


@st.composite
def messages(draw: st.DrawFn, dialect: Dialect) -> dict[str, str]:
    numbers = draw(st.sets(st.sampled_from(sorted(dialect.fields, key=int)), min_size=1, max_size=10))
    return {"0": "0200"} | {number: draw(values(dialect.fields[number])) for number in sorted(numbers, key=int)}


@pytest.mark.parametrize("name", LITERALS)
@pytest.mark.parametrize("fixed_bitmap", [False, True])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_a_dialect_writes_it_reads_and_nothing_shorter_or_longer(name: str, fixed_bitmap: bool, data: st.DataObject) -> None:
    dialect = DIALECTS[name, fixed_bitmap]
    message = data.draw(messages(dialect))
    sent = encode(dialect, message)
    read = decode(dialect, sent)
    assert {number: value for number, value in read.items() if number != "h"} == message
    assert encode(dialect, read) == sent
    end = data.draw(st.integers(0, len(sent) - 1))
    for broken in (sent[:end], sent + sent[:1]):
        with pytest.raises(DecodeError):
            decode(dialect, broken)


def test_a_second_bitmap_that_is_cut_off_or_no_bitmap_is_refused() -> None:
    dialect = DIALECTS["iso87_ascii", True]
    sent = encode(dialect, {"0": "0200", "11": "000001"})
    for broken in (sent[:20], sent[:20] + b"x" * 16 + sent[36:], sent[:30]):
        with pytest.raises(DecodeError) as refused:
            decode(dialect, broken)
        assert refused.value.field == "1"


@pytest.mark.parametrize("name", LITERALS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_nothing_of_a_card_survives_the_mask_in_any_dialect(name: str, data: st.DataObject) -> None:
    dialect = load(name)
    message = data.draw(messages(dialect))
    masked = mask(dialect, message)
    assert all(masked[number] == "***" for number in ("35", "36", "45", "52") if number in message and number in dialect.fields)
    others = [value for number, value in message.items() if number != "2"]  # a number of zeros is also an amount
    assert "2" not in message or len(message["2"]) < 13 or any(message["2"] in value for value in others) \
        or not any(message["2"] in value for value in masked.values())
    assert all(masked[number] != message[number] for number in message if number not in dialect.shown and number not in ("0", "2", "55") and message[number])
