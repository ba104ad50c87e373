"""Between the books and the wire: every message field by field, every answer in our words."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import rows

from messages.codec import decode, encode
from messages.dialect import answer_fault, load
from messages.tlv import TlvError
from switch.payments import translation
from switch.payments.transaction import Event, Transaction
from switch.payments.translation import Order
from switch.records import Acquirer, Merchant, Store
from switch.security.pan import Pan, Secret

DIALECT = load("iso87_ascii")
PAN, TRACK, PIN = "4111111111111111", "4111111111111111=28121010000012345678", "0123456789ABCDEF"
EMV = "9F2608AABBCCDDEEFF00119F3602000157114111111111111111D28121010000012345"
EMV_KEPT = "9F2608AABBCCDDEEFF00119F36020001"
MERCHANT = Merchant(UUID(int=1), UUID(int=9), "Corner Shop", "active", "5411", ZoneInfo("UTC"), "warn")
STORE = Store(UUID(int=2), MERCHANT.merchant_id, "Corner", "Shanghai", "CN", ZoneInfo("Asia/Shanghai"))
ACQUIRER = Acquirer(UUID(int=4), "bank", DIALECT, "single", "active", None, ZoneInfo("UTC"), 3.0, 1.0, 9, (), date(2026, 11, 23))


def order(**changes: Any) -> Order:
    values: dict[str, Any] = {
        "type": "purchase", "amount": 1000, "currency": "CNY", "capture_method": "automatic", "partial_approval": "refuse", "tip_amount": 0,
        "cashback_amount": 0, "entry_mode": "chip", "pan": Pan(PAN), "expiry": "2812", "track2": None, "sequence_number": None, "emv": None,
        "pin_block": None, "terminal_trace": None, "reference": None, "local_time": None,
    }
    return Order(**values | changes)


BASE = {
    "0": "0200", "2": PAN, "3": "000000", "4": "000000001000", "7": "1123080000", "11": "000123", "12": "160000", "13": "1123", "14": "2812",
    "18": "5411", "22": "051", "25": "00", "37": "632700000123", "41": "T0000001", "42": "M00000000000001",
    "43": "Corner Shop              Shanghai     CN", "49": "156",
}
FULL = {"track2": Secret(TRACK), "sequence_number": "001", "emv": translation.emv(EMV), "pin_block": Secret(PIN)}


def row(**changes: Any) -> Transaction:
    return rows.transaction(**({"stan": "000123", "rrn": "632700000123"} | changes))


def test_a_request_carries_what_every_request_carries_and_nothing_else() -> None:
    assert translation.request(order(), row(), ACQUIRER, MERCHANT, STORE) == BASE


@pytest.mark.parametrize(("changes", "fields"), [
    ({"sequence_number": "001"}, {"23": "001"}), ({"track2": Secret(TRACK)}, {"35": TRACK}), ({"pin_block": Secret(PIN)}, {"52": PIN}),
    ({"emv": translation.emv(EMV)}, {"55": EMV}), ({"tip_amount": 150}, {"54": "0044156D000000000150"}),
    ({"cashback_amount": 5}, {"54": "0040156D000000000005"}),
    ({"tip_amount": 1, "cashback_amount": 2}, {"54": "0040156D0000000000020044156D000000000001"}),
])
def test_what_was_given_is_added(changes: dict[str, Any], fields: dict[str, str]) -> None:
    assert translation.request(order(**changes), row(), ACQUIRER, MERCHANT, STORE) == BASE | fields


def test_the_acquirers_institution_code_is_added_when_it_has_one() -> None:
    found = translation.request(order(), row(), ACQUIRER._replace(institution_code="62120001"), MERCHANT, STORE)
    assert found == BASE | {"32": "62120001"}


@pytest.mark.parametrize(("name", "city", "de43"), [
    ("A" * 40, "B" * 40, "A" * 25 + "B" * 13 + "CN"), ("", "X", " " * 25 + "X" + " " * 12 + "CN"),
    ("Corner Shop", "", None), ("咖啡店", "Shanghai", None), ("Café", "Wien", None), ("A\tB", "Wien", None),
])
def test_name_and_place_are_forty_characters_of_plain_ascii_or_left_out(name: str, city: str, de43: str | None) -> None:
    found = translation.request(order(), row(), ACQUIRER, MERCHANT._replace(name=name), STORE._replace(city=city))
    assert found.get("43") == de43


def test_a_whole_request_goes_over_the_wire_and_back() -> None:
    message = translation.request(order(**FULL, tip_amount=5), row(), ACQUIRER._replace(institution_code="6212"), MERCHANT, STORE)
    assert decode(DIALECT, encode(DIALECT, message)) == message


def test_a_wrong_order_is_found_before_anything_is_written() -> None:
    assert translation.fault(order(), DIALECT, "single") is None


@pytest.mark.parametrize(("changes", "mode", "faulty"), [
    ({"capture_method": "manual"}, "single", True), ({"capture_method": "manual"}, "dual", False),
    ({"type": "cash_advance"}, "single", False), ({"type": "cash_advance", "capture_method": "manual"}, "single", True),
    ({"type": "cash_advance", "capture_method": "manual"}, "dual", False),
    ({"type": "preauthorization", "capture_method": "manual"}, "single", False),
    ({"type": "preauthorization", "capture_method": "manual"}, "dual", False), ({"type": "preauthorization"}, "dual", True),
    ({"type": "gift"}, "dual", True), ({"entry_mode": "face"}, "single", True), ({"pin_block": Secret(PIN)}, "single", False),
    ({"pin_block": Secret(PIN * 2)}, "single", True), ({"type": "balance_inquiry", "capture_method": None, "amount": 0}, "single", False),
    ({"type": "account_verification", "capture_method": None, "amount": 0}, "dual", False),
])
def test_what_this_acquirer_cannot_do(changes: dict[str, Any], mode: str, faulty: bool) -> None:
    assert (translation.fault(order(**changes), DIALECT, mode) is not None) is faulty


def test_a_fault_never_tells_a_secret() -> None:
    assert PIN not in (translation.fault(order(pin_block=Secret(PIN * 2)), DIALECT, "single") or "")


@pytest.mark.parametrize(("type_", "mode", "verb"), [
    ("purchase", "single", "purchase.single"), ("purchase", "dual", "purchase.dual"), ("cash_advance", "dual", "cash_advance.dual"),
    ("preauthorization", "single", "preauthorization"), ("balance_inquiry", "dual", "balance_inquiry"),
])
def test_the_verb_has_the_mode_where_the_mode_matters(type_: str, mode: str, verb: str) -> None:
    assert translation.verb(type_, mode) == verb
    assert verb in DIALECT.messages


@pytest.mark.parametrize(("entry", "pin", "de22"), [
    ("manual", None, "012"), ("magstripe", Secret(PIN), "021"), ("chip", Secret(PIN), "051"), ("contactless", None, "072"), ("fallback", None, "802"),
])
def test_the_entry_mode_says_how_card_and_pin_were_read(entry: str, pin: Secret | None, de22: str) -> None:
    assert translation.entry_mode(order(entry_mode=entry, pin_block=pin), DIALECT) == de22


def test_the_local_time_is_the_terminals_or_that_of_its_store() -> None:
    at = datetime(2026, 11, 23, 20, 30, tzinfo=UTC)
    assert f"{translation.local(order(), STORE, at):%m%d%H%M%S}" == "1124043000"
    told = datetime(2026, 11, 24, 4, 29, 59)
    assert translation.local(order(local_time=told), STORE, at) == told


# What follows a request.


def test_a_reversal_is_built_from_the_row_alone_without_track_pin_or_chip() -> None:
    original = row(approval_code="A1")
    sent = translation.request(order(**FULL), original, ACQUIRER, MERCHANT, STORE)
    found = translation.reversal(original, DIALECT, Pan(PAN), "2812", "000999", "1123080107")
    assert found == {
        "0": "0420", "2": PAN, "3": "000000", "4": "000000001000", "7": "1123080107", "11": "000999", "12": "160000", "13": "1123", "14": "2812",
        "18": "5411", "22": "051", "25": "00", "37": "632700000123", "38": "A1    ", "41": "T0000001", "42": "M00000000000001", "49": "156",
        "90": "0200" + "000123" + "1123080000" + "0" * 22,
    }
    assert not set(found) & DIALECT.never_stored
    assert {number: found[number] for number in ("2", "3", "4", "12", "13", "37", "41", "42", "49")} == {
        number: sent[number] for number in ("2", "3", "4", "12", "13", "37", "41", "42", "49")}


def test_a_reversal_of_what_was_never_answered_has_no_approval_code() -> None:
    assert "38" not in translation.reversal(row(), DIALECT, Pan(PAN), "2812", "000999", "1123080107")


def test_what_follows_a_request_has_its_institution_too() -> None:
    original, code = row(approval_code="A12345"), "62120001"
    undone = translation.reversal(original, DIALECT, Pan(PAN), "2812", "000999", "1123080107", None, code)
    capture = translation.follow_up(row(type="capture", mti="0220"), original, DIALECT, Pan(PAN), "2812", code)
    for message in (undone, capture):
        assert (message["32"], message["90"]) == (code, "02000001231123080000" + "0" * 22)
    offline = translation.follow_up(row(type="offline_sale", mti="0220"), None, DIALECT, Pan(PAN), "2812", code)
    assert (offline["32"], "90" in offline) == (code, False)


def test_a_reversal_says_the_same_whenever_it_is_built() -> None:
    original = row()
    first = translation.reversal(original, DIALECT, Pan(PAN), "2812", "000999", "1123080107")
    assert translation.reversal(replace(original, state="REVERSING", version=7), DIALECT, Pan(PAN), "2812", "000999", "1123080107") == first


def test_a_capture_names_its_original() -> None:
    original = row(mti="0100", approval_code="123456")
    advice = row(type="capture", mti="0220", pos_condition="06", stan="000124", rrn="632700000124", amount=900, transmitted_at="1123080500")
    found = translation.follow_up(advice, original, DIALECT, Pan(PAN), "2812")
    assert (found["0"], found["4"], found["7"], found["11"], found["25"], found["37"], found["38"], found["90"]) == (
        "0220", "000000000900", "1123080500", "000124", "06", "632700000124", "123456", "0100" + "000123" + "1123080000" + "0" * 22)
    assert decode(DIALECT, encode(DIALECT, found)) == found


# What comes back.


def answer(**fields: str) -> dict[str, str]:
    echo = {number: BASE[number] for number in ("3", "4", "7", "11", "37", "41", "42", "49")}
    return {"0": "0210", **echo, **{name.removeprefix("de"): value for name, value in fields.items()}}


@pytest.mark.parametrize(("code", "amount", "partial", "event", "approved"), [
    ("00", 1000, "refuse", Event.APPROVE, 1000), ("08", 1000, "refuse", Event.APPROVE, 1000), ("11", 1000, "refuse", Event.APPROVE, 1000),
    ("10", 400, "accept", Event.APPROVE, 400), ("10", 400, "refuse", Event.PARTIAL_REFUSED, 400),
    ("05", 1000, "refuse", Event.DECLINE, 0), ("51", 1000, "accept", Event.DECLINE, 0), ("91", 1000, "refuse", Event.DECLINE, 0),
    ("06", 1000, "refuse", Event.DOUBT, 0), ("68", 1000, "refuse", Event.DOUBT, 0), ("96", 1000, "refuse", Event.DOUBT, 0),
    ("98", 1000, "refuse", Event.DOUBT, 0), ("Z9", 1000, "accept", Event.DOUBT, 0), ("85", 1000, "accept", Event.DOUBT, 0),
])
def test_an_answer_in_our_words(code: str, amount: int, partial: str, event: Event, approved: int) -> None:
    message = answer(de39=code, de38="123456", de4=f"{amount:012d}")
    assert answer_fault(DIALECT, BASE, message) is None
    found = translation.verdict(row(partial_approval=partial), DIALECT, message)
    assert (found.event, found.approved_amount, found.response_code) == (event, approved, code)


def test_what_an_answer_brings_along_is_kept_and_nothing_more() -> None:
    message = answer(de39="00", de38="12 ", de37="999900000001", de54="0002156D000000012345", de55="8A023030" + EMV, de2=PAN, de35=TRACK, de48="x")
    found = translation.verdict(row(), DIALECT, message)
    assert (found.approval_code, found.acquirer_rrn, found.emv, found.balances) == ("12", "999900000001", "8A023030", "0002156D000000012345")
    stored = json.loads(found.message)
    assert stored["39"] == "00"
    for secret in (PAN, TRACK, "D28121010000012345"):
        assert secret not in found.message


def test_an_empty_approval_code_is_none() -> None:
    found = translation.verdict(row(), DIALECT, answer(de39="05", de38="      "))
    assert found.approval_code is None


SCRIPT = "72169F180400000001860D841E000008A0575BDEFC8B1A00"


@pytest.mark.parametrize("text", [SCRIPT, SCRIPT.replace("72", "71", 1), "910A029EF7F3AEF630BA30308A023030" + SCRIPT + SCRIPT])
def test_scripts_for_the_chip_come_through_whole(text: str) -> None:
    found = translation.verdict(row(), DIALECT, answer(de39="00", de38="1", de55=text + EMV))
    assert found.emv == text


def test_chip_data_that_the_acquirer_has_no_room_for_is_refused_before_anything_is_written() -> None:
    visa = load("visa_base1")
    most = translation.emv("9F2681F8" + "00" * 248)  # 252 bytes: three more go in front
    over = translation.emv("9F2681F9" + "00" * 249)
    assert translation.fault(order(emv=most, capture_method="manual"), visa, "dual") is None
    assert translation.fault(order(emv=over, capture_method="manual"), visa, "dual") == "this acquirer takes at most 252 bytes of EMV data"
    assert translation.fault(order(emv=over), DIALECT, "single") is None


@pytest.mark.parametrize("text", ["zz", "8A", "8A0530", "9F"])
def test_chip_data_of_an_answer_that_cannot_be_read_is_left_out(text: str) -> None:
    found = translation.verdict(row(), DIALECT, answer(de39="00", de38="1", de55=text))
    assert found.emv is None
    assert found.event is Event.APPROVE


# What is stored of a request.


def test_what_is_stored_of_a_request_shows_no_secret() -> None:
    sent = order(**FULL)
    message = translation.request(sent, row(), ACQUIRER, MERCHANT, STORE)
    for text in (translation.masked(DIALECT, message), translation.masked(DIALECT, message, sent.emv.stored if sent.emv else None)):
        stored = json.loads(text)
        assert set(stored) == set(message)
        assert (stored["2"], stored["14"], stored["55"]) == ("41111111****1111", "****", EMV_KEPT)
        for secret in (PAN, TRACK, PIN, "2812", "57114111"):
            assert secret not in text


def test_of_chip_data_only_the_tags_of_the_list_are_kept() -> None:
    found = translation.emv(EMV.lower())
    assert (found.sent, found.stored) == (EMV, EMV_KEPT)
    with pytest.raises(TlvError) as caught:
        translation.emv("5709" + PAN)
    assert PAN not in str(caught.value)


@pytest.mark.parametrize(("mti", "answers", "is_answer"), [
    ("0200", "0210", True), ("0200", "0430", False), ("0100", "0110", True), ("0220", "0230", True), ("0200", "0200", False), ("0200", "", False),
])
def test_only_the_requests_own_answer_is_one(mti: str, answers: str, is_answer: bool) -> None:
    assert translation.is_answer_to(row(mti=mti), {"0": answers}) is is_answer


UNIONPAY = ACQUIRER._replace(dialect=load("unionpay_pos"))


def test_a_pin_block_brings_the_fields_that_say_how_it_is_made() -> None:
    said = translation.request(order(pin_block=Secret(PIN)), row(), UNIONPAY, MERCHANT, STORE)
    assert (said["26"], said["52"], said["53"]) == ("12", PIN, "2600000000000000")
    assert not {"26", "53"} & translation.request(order(), row(), UNIONPAY, MERCHANT, STORE).keys()


@pytest.mark.parametrize(("changes", "code"), [({"reason": "mac_error"}, "A0"), ({"reason": "no_answer"}, "98"),
                                               ({"reason": "undo", "answered_at": datetime(2026, 11, 23, tzinfo=UTC)}, "06")])
def test_a_reversal_says_why(changes: dict[str, Any], code: str) -> None:
    undone = row(pos_condition="00", **changes)
    assert translation.reversal(undone, UNIONPAY.dialect, Pan(PAN), "2812", undone.stan, "1123080001")["39"] == code


@pytest.mark.parametrize(("form", "block", "translated", "faulty"), [
    ("iso0", PIN, False, False), ("iso1", PIN, False, True), ("iso3", PIN, False, True), ("iso4", PIN * 2, False, True), ("iso4", PIN * 2, True, False),
    ("iso3", PIN, True, False)])
def test_an_acquirer_without_a_key_takes_blocks_as_they_are(form: str, block: str, translated: bool, faulty: bool) -> None:
    wanted = order(pin_block=Secret(block), pin_format=form)
    assert (translation.fault(wanted, DIALECT, "single", translated) is not None) == faulty
