"""switch.inspection: dialects are read without being run, messages come and go as hex, and no card data is printed unless it is asked for."""

import io
import json
import os
import subprocess
from pathlib import Path

import pytest

from messages.codec import encode
from messages.dialect import LITERALS, load
from messages.framing import frame
from messages.grammar import page
from switch.cli import main
from tests.leak_scan import PANS, PIN_BLOCK, TRACK_TAIL, emv
from tests.processes import SWITCH, environment

PAN = PANS[1]
FULL = {"2": PAN, "14": "3012", "35": f"{PAN}D{TRACK_TAIL}", "52": PIN_BLOCK, "55": emv(PAN).upper()}
MESSAGES = {
    "iso87_ascii": {"0": "0200", **FULL, "3": "000000", "4": "000000001000", "11": "000123", "45": "B" + PAN + "^A/B^3012"},
    "iso93_ascii": {"0": "1200", **FULL, "3": "000000", "4": "000000001000", "11": "000123", "45": "B" + PAN + "^A/B^3012"},
    "unionpay_pos": {"0": "0320", **FULL, "36": PAN + "D" + TRACK_TAIL, "11": "000125", "48": "01" + "22000123" + "0000" + PAN + "000000012500",
                     "59": f"A30{len(PAN)}{PAN}", "60": "00261126201", "62": PAN},
    "visa_base1": {"0": "0100", **{n: v for n, v in FULL.items() if n != "55"}, "55": "01" + f"{len(emv(PAN)) // 2:04X}" + emv(PAN).upper(), "3": "000000",
                   "4": "000000001000", "11": "000123", "39": "51", "62": "8000000000000000E8"},
    "mastercard_cis": {"0": "0100", **FULL, "3": "000000", "4": "000000001000", "11": "000123", "45": "B" + PAN + "^A/B^3012", "48": "R", "61": "0" * 26},
}


def asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    monkeypatch.setenv("SWITCH_HOME", "unused")
    code = main(list(words))
    out = capsys.readouterr()
    return code, out.out, out.err


def ordered(message: dict[str, str]) -> dict[str, str]:
    return dict(sorted(message.items(), key=lambda item: int(item[0])))


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("kind", ["decode", "explain"])
def test_nothing_of_a_card_is_printed(name: str, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    data = encode(load(name), ordered(MESSAGES[name]))
    code, out, err = asked(monkeypatch, capsys, data.hex(), "message", kind, "--dialect", name)
    assert (code, err) == (0, "")
    for secret in (PAN, TRACK_TAIL, PIN_BLOCK, PAN[8:-4], PAN.encode().hex().upper(), "3012"):
        assert secret not in out
    assert PAN[-4:] in out
    for end in (len(data) - 3, len(data) // 2):  # cut, so refused: what is said of it shows nothing either
        code, out, err = asked(monkeypatch, capsys, data[:end].hex(), "message", kind, "--dialect", name)
        assert code == 2 and out == "" and "field" in err
        for secret in (PAN, TRACK_TAIL, PIN_BLOCK, PAN[:8]):
            assert secret not in err


@pytest.mark.parametrize("name", MESSAGES)
def test_what_is_encoded_decodes_to_the_same_when_it_may_be_shown(name: str, monkeypatch: pytest.MonkeyPatch,
                                                                   capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = asked(monkeypatch, capsys, json.dumps(MESSAGES[name]), "message", "encode", "--dialect", name, "--framed")
    assert (code, err) == (0, "")
    assert bytes.fromhex(out) == frame(load(name).framing, encode(load(name), ordered(MESSAGES[name])))
    code, out, _ = asked(monkeypatch, capsys, out, "message", "decode", "--dialect", name, "--framed", "--clear")
    assert {number: value for number, value in json.loads(out).items() if number != "h"} == MESSAGES[name]


def test_parts_are_named_and_codes_are_explained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"0": "0210", "11": "000123", "39": "51", "60.1": "22", "60.2": "261126", "60.3": "000"}
    _, out, _ = asked(monkeypatch, capsys, json.dumps(given), "message", "encode", "--dialect", "unionpay_pos")
    _, out, _ = asked(monkeypatch, capsys, out, "message", "explain", "--dialect", "unionpay_pos")
    rows = [line.split() for line in out.splitlines()]
    assert ["60.2", "batch", "261126"] in rows
    assert ["39", "response_code", "51", "(declined:", "insufficient_funds)"] in rows
    assert ["h", "processing_request", "0"] in rows


@pytest.mark.parametrize(("kind", "text", "says"), [
    ("decode", "zz", "not hexadecimal"), ("decode", "00", "field h"), ("encode", "[1]", "JSON object"), ("encode", "{", "not JSON"),
    ("encode", '{"0": "0200", "2": "41111111111x"}', "field 2: not at most 19"), ("encode", '{"0": "0200", "60.1": "2"}', "sub-field 60.1"),
    ("encode", '{"0": "0200", "99.1": "2"}', "field ?"), ("encode", '{"11": "000001"}', "the MTI is missing; give it under"), ("decode", "0" * 200_001, "more than"),
])
def test_what_cannot_be_read_is_refused_by_name(kind: str, text: str, says: str, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = asked(monkeypatch, capsys, text, "message", kind, "--dialect", "unionpay_pos")
    assert (code, out) == (2, "")
    assert says in err
    assert "41111111111" not in err


@pytest.mark.parametrize("name", LITERALS)
def test_our_own_dialects_pass_the_check(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(__file__).parents[1] / "messages" / "dialects" / f"{name}.py"
    code, out, _ = asked(monkeypatch, capsys, "", "dialect", "check", str(file))
    assert code == 0
    assert f"{name}: sound" in out


@pytest.mark.parametrize(("text", "code", "says"), [
    ("DIALECT = {'a': open('x')}", 2, "line 1: open('x') is not a literal but a call: write what it gives"), ("import os\nDIALECT = {}", 2, "one literal"), ("DIALECT = {", 2, "line 1"),
    ("OTHER = {}", 2, "must be called DIALECT"), ("DIALECT = {}", 1, "name: missing"), ("['x']", 1, "not a mapping"),
    ("DIALECT = {**{}}", 2, "not a literal but a dict with a key that is none"), ("DIALECT = __import__('os').system('true')", 2, "not a literal"), ("(" * 500, 2, "line 1"),
])
def test_a_file_that_is_no_dialect_is_never_run(text: str, code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dialect.py").write_text(text)
    found, out, err = asked(monkeypatch, capsys, "", "dialect", "check", str(tmp_path / "dialect.py"))
    assert found == code
    assert says in out + err


def test_every_fault_of_a_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    literal = {**LITERALS["iso93_ascii"], "agree": ("3", "1"), "reversal_stan": "any"}
    (tmp_path / "two.py").write_text(repr(literal))
    code, out, _ = asked(monkeypatch, capsys, "", "dialect", "check", str(tmp_path / "two.py"))
    assert (code, len(out.splitlines())) == (1, 2)
    assert asked(monkeypatch, capsys, "", "dialect", "check", str(tmp_path / "none.py"))[0] == 2


def test_a_file_is_a_dialect_for_messages_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fifth.py").write_text(repr({**LITERALS["iso93_ascii"], "name": "fifth", "coding": {"text": "cp500", "bitmap": "binary"}}))
    words = ("--dialect", str(tmp_path / "fifth.py"))
    _, out, err = asked(monkeypatch, capsys, '{"0": "1804", "11": "000001", "24": "801"}', "message", "encode", *words)
    assert out.startswith("F1F8F0F4" + "0020010000000000"), err
    assert json.loads(asked(monkeypatch, capsys, out, "message", "decode", *words)[1])["24"] == "801"


def test_the_grammar_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(monkeypatch, capsys, "", "dialect", "grammar")[1] == page()


@pytest.mark.parametrize(("name", "parts"), [
    ("iso87_ascii", ("frame      binary2: ", "primary_account_number                 n..19      LL     ascii, length ascii in 2 bytes", "sign_on 0800/001")),
    ("unionpay_pos", ("header     tpdu, ours 6000030000603100310100: ", "in our answers to a host destination and source change places",
                      "60=22{batch}00060", "the code is in 60.3",
                      "parts: in 03..: 4 long: 1 count n 4\n", "parts: in 03..: else a count of 2 digits, then records of 1 type n 2, 2 trace n 6, ",
                      "parts: tags of 2 characters, lengths of 3 digits, values", "48.4 credits_number, ", "a debit, and its void a credit",
                      "00 told; 95 out_of_balance; 06 09 68 90 91 96 98 again; any other refuses", "told by 48.5, 48.10, each: 1 in_balance, 2 out_of_balance",
                      "at most 8 in 48, each {kind}{item_stan}{card}{amount}; 39 of its answers 00", "are of unionpay alone",
                      "MAC in 64, unionpay_ecb, of classes 1, 2, 4", "keys in 62: 24, 40, 60, 56, 57 bytes", "not offered: cash_advance, increment",
                      "11, 41, 42, 60.2; 11, 41, 42 (class 8)", "unanswered 98")),
    ("visa_base1", ("text cp500, MTI bcd, bitmaps binary", "n 4               bcd, odd: left 0", "purchase.dual          0100  3=000000 25=00",
                    "with 52: 53=2001010100000000", "55 begins with 01, then 2 bytes", "051=0510 052=0520", "answered 2501",
                    "a bitmap of 3 bytes, then for each bit that is set 1 network_id bcd 2 bytes, 2 ")),
    ("iso93_ascii", ("frame      ascii4: ", "56={original_elements}", "sign_on 1804/801", "4 institution n at most 11 behind a length of 2 digits",
                     "parts: records of 1 account_type n 2", "totals of a terminal: 28 date, 50 currency, ", "500 in_balance; 501 out_of_balance")),
    ("mastercard_cis", ("not offered: ",)),
])
def test_a_dialect_is_shown_as_its_host_must_speak_it(name: str, parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = asked(monkeypatch, capsys, "", "dialect", "show", name)
    assert (code, err) == (0, "") and [part for part in parts if part not in out] == []
    dialect = load(name)
    numbers = {line.split()[0] for line in out.partition("\nrequests: ")[0].partition("\nfields: ")[2].splitlines()[1:] if line[:6].strip()}
    assert numbers == dialect.fields.keys() and [verb for verb in dialect.messages if f"      {verb:22} " not in out] == []
    assert [each for each in (*dialect.codes, *dialect.reversal_codes) if f" {each}" not in out.partition("\nDE39 of requests")[2]] == []


def test_a_dialects_file_is_shown_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bank.py").write_text(f"DIALECT = {({**LITERALS['iso87_ascii'], 'name': 'bank'})!r}\n")
    assert asked(monkeypatch, capsys, "", "dialect", "show", str(tmp_path / "bank.py"))[1].startswith("bank: the wire")
    assert "no dialect 'banc'; known: iso87_ascii" in asked(monkeypatch, capsys, "", "dialect", "show", "banc")[2]


def test_a_reader_that_stops_reading_is_no_fault(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    ended = subprocess.run([*SWITCH, "dialect", "grammar"], stdout=writes, stderr=subprocess.PIPE, env=environment(tmp_path), timeout=60)
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (0, b"")
