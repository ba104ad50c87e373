"""Messages of other people's tests through our codec. VECTORS=<folder> runs all published ones; without it, those in tests/vectors/.

Each vector is read by the field table of its own host (`decode_with_spec`); those in HOUSE also by `iso87_ascii` itself, and those whose
table is in FAMILIES by a dialect of ours, which must write the same bytes again.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from messages.codec import DecodeError, decode, decode_with_spec, encode
from messages.dialect import LITERALS, Dialect, build, load
from messages.subfields import joined, split

OWN = Path(__file__).parent / "vectors"
FOLDER = Path(os.environ.get("VECTORS") or OWN)
SPECS: dict[str, dict[str, Any]] = json.loads((FOLDER / "specs.json").read_text())
VECTORS: list[dict[str, Any]] = [json.loads(line) for line in (FOLDER / "messages.jsonl").read_text().splitlines()]
NOT_HERE = (OWN / "not_here.txt").read_text().split()  # published messages whose dialect is not 1987 ASCII with hex bitmaps

# What iso87_ascii makes of a vector of its family: None = reads it and writes the same bytes; else the field it must refuse, because
# that host's format of the field is not the standard one (fees without sign, text in track 3, raw bytes or blanks in DE55).
HOUSE: dict[str, str | None] = {
    "j8583-trunc-0": "1",
    "j8583-trunc-2": "3",
    "j8583-trunc-4": "32",
    "jpos-iso87a": "28",
    "jpos-iso87a-f64": "28",
    "moov-error_message": "55",
    "moov-financial_transaction_message": None,
    "moov-iso_reversal_message_advice": None,
    "moov-iso_reversal_message_advice_missing_field": None,
    "moov-iso_reversal_message_advice_unexpected_field": None,
    "moov-iso_reversal_message_error_date": None,
    "moov-iso_reversal_message_response": "55",
    "moov-iso_reversal_repeat_message": "55",
    "moov-network_management_message": None,
    "moov-network_management_message_response": None,
    "nao1215-basei-0100-auth-request": "55",
    "nao1215-basei-0100-auth-request-unknown-tlv": "55",
    "nao1215-basei-0210-financial-response": "55",
    "nao1215-basei-0430-reversal-response": "55",
    "nao1215-basei-0800-network-echo": None,
    "nao1215-spec87ascii-0800-network-echo": None,
}

EPOC = {"52": ("pin_block", "b", 16, 0), "62": ("private_62", "ans", 6, 0), "63": ("private_63", "ans", 4, 0)}
# Field table of the source -> our dialect, and what that host has otherwise: data, as a literal of its own would.
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "unionpay-pos": ("unionpay_pos", {}, {}),
    "unionpay-pos-nohdr": ("unionpay_pos", {"header": None}, {}),
    "visa-base1": ("visa_base1", {}, {}),
    "mastercard-cis": ("mastercard_cis", {}, {}),
    "epoc-93-ascii": ("iso93_ascii", {}, EPOC),
    "jpos-iso93-ascii": ("iso93_ascii", {"sub_fields": {}}, {"56": ("original_data_elements", "ans", 35, 2)}),
}
# Fields that the source fills with something else than their standard layout.
UNLIKE = {"wearapay-0200": ("59",), "vfwz-sign_img_request": ("55",)}  # a plain number; tags of FF00 form that no BER has
VML_BYTES = 4  # of the framing that stands before the header in the Visa vectors


def dialect_of(vector: dict[str, Any]) -> Dialect:
    name, changed, fields = FAMILIES[vector["spec"]]
    return build({**LITERALS[name], **changed, "fields": {**LITERALS[name]["fields"], **fields}}) if changed or fields else load(name)


def message_bytes(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex(vector["hex"])[VML_BYTES:] if vector["spec"] == "visa-base1" else wire(vector)


def wire(vector: dict[str, Any]) -> bytes:
    # `verify_hex` is the same message where the source's own bitmap is not a standard one; `strip` counts bytes of foreign framing.
    return bytes.fromhex(vector.get("verify_hex") or vector["hex"])[vector.get("strip", 0) :]


@pytest.mark.parametrize("vector", [v for v in VECTORS if v.get("expect") != "reject"], ids=lambda vector: vector["id"])
def test_a_published_message_gives_the_fields_its_source_states(vector: dict[str, Any]) -> None:
    message = decode_with_spec(SPECS[vector["spec"]], wire(vector))
    expected = vector["fields"]
    assert expected
    wrong = [number for number in expected if message.get(number) != expected[number]]
    assert not wrong
    if "header" in vector and "h" in message:
        assert message["h"] == vector["header"]


@pytest.mark.parametrize("vector", [v for v in VECTORS if v.get("expect") == "reject"], ids=lambda vector: vector["id"])
def test_a_published_broken_message_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        decode_with_spec(SPECS[vector["spec"]], wire(vector))


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["id"] in HOUSE], ids=lambda vector: vector["id"])
def test_the_house_dialect_reads_what_is_standard_and_names_what_is_not(vector: dict[str, Any]) -> None:
    dialect, data, refused = load("iso87_ascii"), wire(vector), HOUSE[vector["id"]]
    if refused:
        with pytest.raises(DecodeError) as caught:
            decode(dialect, data)
        assert caught.value.field == refused
    else:
        assert decode(dialect, data) == vector["fields"]
        assert encode(dialect, vector["fields"]) == data


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["spec"] in FAMILIES and v.get("expect") != "reject"], ids=lambda vector: vector["id"])
def test_a_dialect_reads_its_hosts_messages_and_writes_the_same_bytes(vector: dict[str, Any]) -> None:
    dialect, data = dialect_of(vector), message_bytes(vector)
    message, by_reference = decode(dialect, data), vector["fields"]
    assert {number: message.get(number) for number in by_reference} == by_reference
    assert encode(dialect, message) == data
    for number, how in dialect.sub_fields.items():
        if number in message and number not in UNLIKE.get(vector["id"], ()):
            parts = {found.path: found.value for found in split(number, how, message[number], message["0"])}
            assert not parts or joined(number, how, parts, message["0"]) == message[number]


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["spec"] in FAMILIES], ids=lambda vector: vector["id"])
def test_a_message_of_a_dialect_cut_anywhere_or_longer_is_refused_by_name(vector: dict[str, Any]) -> None:
    dialect, data = dialect_of(vector), message_bytes(vector)
    for broken in (*(data[:end] for end in range(len(data))), data + b"0"):
        with pytest.raises(DecodeError) as caught:
            decode(dialect, broken)
        assert caught.value.field in {"h", "0", "1", *dialect.fields}


def test_every_vector_of_the_family_was_judged_and_what_was_not_run_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    ids = {vector["id"] for vector in VECTORS}
    assert ids >= set(HOUSE)
    assert not set(NOT_HERE) & set(HOUSE)
    not_run = [name for name in NOT_HERE if name not in ids]
    with capsys.disabled():
        print(f"\nconformance: {len(ids)} published messages run, {len(not_run)} not run: {' '.join(not_run) or '-'}")
        print("conformance: VECTORS=<folder> runs the messages of every dialect" if not_run else "conformance: every dialect was run")
        print("conformance: crypto.jsonl (MAC, PIN block, key and cryptogram values) is run by test_crypto_vectors.py")
    if FOLDER == OWN:
        assert ids == set(HOUSE) | {vector["id"] for vector in VECTORS if vector["spec"] in FAMILIES}
    else:
        assert not not_run
