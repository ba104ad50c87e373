"""acquirer_stubs.issuer and loadtests.chip: published cryptograms, each other, and our own reading of EMV book 2; what is wrong is not approved."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyemv import ac, kd

from acquirer_stubs.behaviours import Decision
from acquirer_stubs.codec import Message
from acquirer_stubs.faults import BadFault, parse
from acquirer_stubs.issuer import SIGNED, SIZES, Chip, Issuer, element, elements
from loadtests.chip import MASTER, ChipCard
from switch.security import cryptograms
from switch.security.ciphers import ClearKey

VECTORS = {each["id"]: each for each in map(json.loads, (Path(__file__).parent / "vectors" / "crypto.jsonl").read_text().splitlines())}
PANS = ("4111111111111111", "6212345678900000003")  # the second is longer than 16 digits, where options A and B differ
APPROVED, PARTLY, DECLINED = (Decision("0210", code) for code in ("00", "10", "51"))


def of_published(name: str) -> tuple[Issuer, Message]:
    """A request with the published cryptogram, cut into its elements."""
    vector = VECTORS[name]
    inputs, at, data = vector["inputs"], 0, ""
    for tag in SIGNED:
        data += element(tag, bytes.fromhex(inputs["data"][at:at + 2 * SIZES[tag]]))
        at += 2 * SIZES[tag]
    assert at == len(inputs["data"])
    data += element("9F26", bytes.fromhex(vector["expected"])) + element("9F10", bytes.fromhex(inputs["iad"]))
    return Issuer(bytes.fromhex(inputs["imk"])), {0: "0200", 2: inputs["pan"], 23: f"0{inputs['psn']}", 55: data}


@pytest.mark.parametrize("name", ["jmeter-arqc-cvn10", "jmeter-arqc-cvn18"])
def test_a_published_cryptogram_is_right_for_its_card_alone(name: str) -> None:
    issuer, message = of_published(name)
    assert isinstance(issuer.verified(message), Chip)
    assert issuer.verified(message | {23: "002"}) == issuer.verified(message | {2: PANS[1]}) == "cryptogram_wrong"
    track = {de: value for de, value in message.items() if de != 2} | {35: f"{message[2]}D30122010000012345"}
    assert isinstance(issuer.verified(track), Chip)


@pytest.mark.parametrize("name", ["jmeter-arqc-cvn10", "jmeter-arqc-cvn18"])
@pytest.mark.parametrize("tag", [*SIGNED, "9F26"])
def test_a_cryptogram_is_over_every_element(name: str, tag: str) -> None:
    issuer, message = of_published(name)
    data = elements(message[55])
    data[tag] = bytes([data[tag][0] ^ 1]) + data[tag][1:]
    assert issuer.verified(message | {55: "".join(element(*each) for each in data.items())}) == "cryptogram_wrong"


def test_published_answers_are_what_pyemv_computes() -> None:
    for name, session in (("jpos-arpc-vsdc-m1", False), ("jpos-arpc-cskd-m1", True), ("jpos-arpc-cskd-m2", True)):
        inputs = VECTORS[name]["inputs"]
        key = kd.derive_icc_mk_a(bytes.fromhex(inputs["imk"]), inputs["pan"], inputs["psn"])
        key, asked = kd.derive_common_sk(key, bytes.fromhex(inputs["atc"]) + bytes(6)) if session else key, bytes.fromhex(inputs["arqc"])
        found = ac.generate_arpc_2(key, asked, bytes.fromhex(inputs["csu"])) if "csu" in inputs else ac.generate_arpc_1(key, asked, bytes.fromhex(inputs["arc"]))
        assert found.hex().upper() == VECTORS[name]["expected"]


def told(card: ChipCard, amount: int = 5000) -> Message:
    asked = card.ask(amount)
    return {0: "0200", 2: asked["pan"], 23: asked["sequence_number"].zfill(3), 55: asked["emv"]}


@pytest.mark.parametrize("pan", PANS)
@pytest.mark.parametrize("version", [10, 18])
@pytest.mark.parametrize("decision", [APPROVED, PARTLY])
def test_a_card_and_its_issuer_know_each_other(pan: str, version: int, decision: Decision) -> None:
    issuer, card, other = Issuer(bytes.fromhex(MASTER)), ChipCard(MASTER, pan, version=version), ChipCard("13" * 16, pan, version=version)
    chip = issuer.verified(told(card))
    assert isinstance(chip, Chip)
    assert card.takes(issuer.answered({}, decision, chip)[55])
    assert not card.takes(issuer.answered({}, decision, chip, "wrong")[55])
    assert not card.takes(issuer.answered({}, decision, chip, "missing")[55]) and not card.takes(None)
    assert issuer.verified(told(other)) == "cryptogram_wrong"
    told(card)
    assert not card.takes(issuer.answered({}, decision, chip)[55]), "an answer to the payment before"


@pytest.mark.parametrize("tag", ["71", "72"])
@pytest.mark.parametrize("version", [10, 18])
def test_a_script_is_carried_out_when_its_mac_is_the_issuer_s(version: int, tag: str) -> None:
    issuer, card = Issuer(bytes.fromhex(MASTER)), ChipCard(MASTER, PANS[0], version=version)
    chip = issuer.verified(told(card))
    assert isinstance(chip, Chip)
    said = issuer.answered({}, APPROVED, chip, script=tag)[55]
    assert list(elements(said)) == ["91", "8A", tag] and card.takes(said)
    (command,) = card.scripts
    assert command.startswith("841E000008") and card.takes(said[:-2] + f"{int(said[-2:], 16) ^ 1:02X}") and card.scripts == [command]


def test_only_an_approval_is_answered() -> None:
    issuer = Issuer(bytes.fromhex(MASTER))
    chip = issuer.verified(told(ChipCard(MASTER, PANS[0])))
    assert isinstance(chip, Chip) and issuer.answered({39: "51"}, DECLINED, chip, script="72") == {39: "51"}


@pytest.mark.parametrize("pan", PANS)
def test_common_core_and_both_answers_are_as_our_own_reading_of_the_book_has_them(pan: str) -> None:
    """switch.security.cryptograms shares nothing with pyemv."""
    issuer, card, key = Issuer(bytes.fromhex(MASTER)), ChipCard(MASTER, PANS[0]), ClearKey("tdes", bytes.fromhex(MASTER))
    data = elements(told(card)[55]) | {"9F10": bytes.fromhex("0FA500" + "00" * 29)}
    session = cryptograms.common_session_key(cryptograms.card_key(key, PANS[0], "01"), data["9F36"].hex())
    data["9F26"] = cryptograms.cryptogram(session, b"".join(data[tag] for tag in SIGNED) + data["9F10"], 2)
    chip = issuer.verified({0: "0100", 2: PANS[0], 23: "001", 55: "".join(element(*each) for each in data.items())})
    assert isinstance(chip, Chip)
    answer = elements(issuer.answered({}, APPROVED, chip)[55])
    assert answer["91"] == cryptograms.status_response(session, data["9F26"], bytes.fromhex("00800000")) + bytes.fromhex("00800000")
    ten = ChipCard(MASTER, pan, version=10)
    chip = issuer.verified(told(ten))
    assert isinstance(chip, Chip)
    answer = elements(issuer.answered({}, APPROVED, chip)[55])
    assert answer["91"] == cryptograms.response(cryptograms.card_key(key, pan, "01"), ten.cryptogram, b"00") + b"00" and answer["8A"] == b"00"


def of_pboc() -> tuple[Issuer, Message]:
    """A worked example of an issuer's, with its master key and all that was signed (uzzz.org, 8 January 2016). DE39 of its answer is 01."""
    signed = {"9F02": "000000000001", "9F03": "0" * 12, "9F1A": "0156", "95": "0080046000", "5F2A": "0156", "9A": "140701", "9C": "00", "9F37": "1E78EEBC",
              "82": "7D00", "9F36": "0240", "9F26": "5D016C91005E7CC2", "9F10": "07000103A04002010A010000001000D1F61152"}
    data = "".join(element(tag, bytes.fromhex(value)) for tag, value in signed.items())
    return Issuer(bytes.fromhex("F0C34A8124CEE0A91A0B034AA97D6EAC")), {0: "0200", 2: "6228000100001", 23: "001", 55: data}


def test_a_published_cryptogram_of_pboc_is_right_and_its_answer_is_the_published_one() -> None:
    issuer, message = of_pboc()
    chip = issuer.verified(message)
    assert isinstance(chip, Chip)
    said = elements(issuer.answered({}, Decision("0210", "00"), chip)[55])
    key = cryptograms.pboc_session_key(cryptograms.card_key(ClearKey("tdes", issuer.master), message[2], "01"), "0240")
    assert cryptograms.cryptogram(key, bytes.fromhex(
        "000000000001000000000000015600800460000156140701001E78EEBC7D00024003A04002"), 2).hex().upper() == "5D016C91005E7CC2"
    assert cryptograms.response(key, chip.cryptogram, b"01").hex().upper() == "21415243527CE78F"
    assert said == {"91": cryptograms.response(key, chip.cryptogram, b"00") + b"00", "8A": b"00"}
    assert ac.generate_arpc_1(chip.key, chip.cryptogram, b"01").hex().upper() == "21415243527CE78F"


@pytest.mark.parametrize("tag", [*SIGNED, "9F26", "9F10"])
def test_a_cryptogram_of_pboc_is_over_every_element(tag: str) -> None:
    issuer, message = of_pboc()
    data = elements(message[55])
    data[tag] = data[tag][:3] + bytes([data[tag][3] ^ 1]) + data[tag][4:] if tag == "9F10" else bytes([data[tag][0] ^ 1]) + data[tag][1:]
    assert issuer.verified(message | {55: "".join(element(*each) for each in data.items())}) == "cryptogram_wrong"


def changed(**values: str | None) -> str:
    data: dict[str, Any] = elements(told(ChipCard(MASTER, PANS[0]))[55]) | {name.strip("_"): value for name, value in values.items()}
    return "".join(element(tag, bytes.fromhex(value) if isinstance(value, str) else value) for tag, value in data.items() if value is not None)


INCOMPLETE = [{f"_{tag}": None} for tag in (*SIZES, "9F10")] + [{"_9F02": "0001"}, {"_9F26": ""}]


@pytest.mark.parametrize(("text", "word"), [
    ("9F", "chip_data_malformed"), ("9F26", "chip_data_malformed"), ("9F2608A1", "chip_data_malformed"), ("9F2682", "chip_data_malformed"),
    ("9A03261123" * 2, "chip_data_malformed"), ("ZZ", "chip_data_malformed"), ("", "chip_data_incomplete"), ("0000", "chip_data_incomplete"),
    *((changed(**each), "chip_data_incomplete") for each in INCOMPLETE),
    (changed(_9F10="06010B03A0B800"), "cryptogram_version"), (changed(_9F10="0601"), "cryptogram_version"), (changed(_9F10="0F" + "12" * 31), "cryptogram_version"),
    (changed(_9F10="0FA500" + "00" * 29), "cryptogram_wrong"),
])
def test_what_is_no_whole_cryptogram_is_refused_in_a_word(text: str, word: str) -> None:
    assert Issuer(bytes.fromhex(MASTER)).verified({0: "0200", 2: PANS[0], 23: "001", 55: text}) == word


def test_a_host_with_an_issuer_shows_no_key_of_a_card() -> None:
    chip = Issuer(bytes.fromhex(MASTER)).verified(told(ChipCard(MASTER, PANS[0])))
    assert isinstance(chip, Chip)
    shown = repr((chip, Issuer(bytes.fromhex(MASTER))))
    assert repr(chip.key)[2:-1] not in shown and "key" not in shown and "cryptogram" not in shown


@pytest.mark.parametrize("order", [{"action": "arpc", "value": "right"}, {"action": "arpc", "value": 1}, {"action": "script", "value": "86"}, {"action": "script", "value": []}])
def test_a_fault_of_the_issuer_that_it_does_not_have_is_refused(order: dict[str, Any]) -> None:
    with pytest.raises(BadFault, match="value"):
        parse({"match": "any", **order})


def test_faults_of_the_issuer_have_a_usual_form() -> None:
    assert [parse({"match": "any", "action": action}).value for action in ("arpc", "script")] == ["wrong", "72"]


@pytest.mark.parametrize("key", ["00", "0123456789ABCDEF", "Z" * 32])
def test_a_stub_does_not_start_with_a_master_key_that_is_none(tmp_path: Path, key: str) -> None:
    done = subprocess.run([sys.executable, "-m", "acquirer_stubs", "--book", str(tmp_path / "book"), "--imk", key], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and "--imk" in done.stderr and not (tmp_path / "book").exists()


def test_a_master_key_has_16_bytes_and_each_host_says_no_in_its_own_code() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Issuer(b"short")
    assert [Issuer(bytes(16), name).refusal for name in ("iso87_ascii", "visa_base1")] == ["63", "82"]
