"""The rules of follow-ups as a table: what is asked of which original, and what is said."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import rows

from messages.dialect import load
from switch.errors import PROBLEMS
from switch.money import AMOUNT_MAX
from switch.payments import verbs
from switch.payments.transaction import Transaction
from switch.payments.verbs import CODE_OF, RULES, VERBS, Follower, amount_of, exchange, refusal, taking_back_refusal, tolerance, undo_refusal

TODAY, YESTERDAY = rows.DAY, rows.DAY - timedelta(days=1)
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)

# Originals by name: approved for 1000 unless they say otherwise.
ORIGINALS: dict[str, dict[str, Any]] = {
    "sale": {"captured": 1000}, "sale of yesterday": {"captured": 1000, "business_date": YESTERDAY}, "tipped sale": {"captured": 1000, "capturable": 1200},
    "hold": {"capture_method": "manual", "type": "preauthorization"}, "hold of yesterday": {"capture_method": "manual", "business_date": YESTERDAY},
    "expired hold": {"capture_method": "manual", "expires_at": NOW}, "hold for a while": {"capture_method": "manual", "expires_at": NOW + timedelta(seconds=1)},
    "part captured": {"capture_method": "manual", "captured": 400}, "all captured": {"capture_method": "manual", "captured": 1000, "business_date": YESTERDAY},
    "released": {"capture_method": "manual", "captured": 400, "released": 600}, "capture open": {"capture_method": "manual", "capture_reserved": 700},
    "tolerant": {"capture_method": "manual", "capturable": 1150, "tolerance": 150},
    "void open": {"captured": 1000, "void_reserved": 1000}, "voided": {"voided": 1000, "voided_captured": 1000},
    "part refunded": {"captured": 1000, "refunded": 300, "refund_reserved": 200}, "charged back": {"captured": 1000, "charged_back": 1000},
    "declined": {"state": "DECLINED", "authorised": 0, "capturable": 0}, "reversing": {"state": "REVERSING"}, "reversed": {"state": "REVERSED"},
    "sent": {"state": "SENT", "authorised": 0, "capturable": 0}, "parked": {"state": "PARKED"}, "confirmed": {"state": "CONFIRMED", "captured": 1000},
    "inquiry": {"type": "balance_inquiry", "amount": 0}, "capture": {"type": "capture", "original_id": uuid4()}, "refund": {"type": "refund"},
    "large hold": {"capture_method": "manual", "amount": AMOUNT_MAX, "authorised": AMOUNT_MAX, "capturable": AMOUNT_MAX},
}
TABLE = """
capture    hold                100000  amount_exceeds_capturable
capture    hold                1000    -
capture    hold                1001    amount_exceeds_capturable
capture    tolerant            1150    -
capture    tolerant            1151    amount_exceeds_capturable
capture    hold of yesterday   1000    -
capture    hold for a while    1       -
capture    expired hold        1       not_capturable
capture    part captured       600     -
capture    part captured       601     amount_exceeds_capturable
capture    all captured        0       not_capturable
capture    released            1       amount_exceeds_capturable
capture    capture open        300     -
capture    capture open        301     amount_exceeds_capturable
capture    sale                1       not_capturable
capture    declined            1       not_capturable
capture    reversing           1       not_capturable
capture    parked              1       not_capturable
capture    inquiry             1       not_capturable
capture    capture             1       not_capturable
capture    sent                1       follow_up_open
capture    voided              1       already_voided
increment  hold                1       -
increment  hold of yesterday   1       -
increment  expired hold        1       not_incrementable
increment  part captured       1       not_incrementable
increment  capture open        1       not_incrementable
increment  sale                1       not_incrementable
increment  large hold          1       not_incrementable
increment  voided              1       already_voided
void       hold                1000    -
void       hold of yesterday   1000    -
void       expired hold        1000    -
void       sale                1000    -
void       sale of yesterday   1000    day_closed
void       part refunded       1000    not_voidable
void       charged back        1000    not_voidable
void       void open           1000    follow_up_open
void       voided              1000    already_voided
void       reversed            1000    not_voidable
void       sent                1000    follow_up_open
void       refund              1000    not_voidable
void       confirmed           1000    -
tip        sale                1       amount_exceeds_capturable
tip        tipped sale         200     -
tip        tipped sale         201     amount_exceeds_capturable
tip        sale of yesterday   1       day_closed
tip        hold                1       not_tippable
tip        part captured       600     -
tip        voided              1       already_voided
refund     sale                1000    -
refund     sale                1001    amount_exceeds_refundable
refund     sale of yesterday   1000    -
refund     part refunded       500     -
refund     part refunded       501     amount_exceeds_refundable
refund     charged back        0       not_refundable
refund     hold                1       not_refundable
refund     part captured       400     -
refund     released            400     -
refund     void open           1       follow_up_open
refund     voided              1       already_voided
refund     confirmed           1000    -
refund     reversing           1       not_refundable
refund     inquiry             1       not_refundable
"""


def original(name: str, **more: Any) -> Transaction:
    values = {"state": "APPROVED", "authorised": 1000, "capturable": 1000, "approved_amount": 1000} | ORIGINALS[name] | more
    return rows.transaction(**values)


def follower(type_: str = "capture", state: str = "APPROVED", amount: int = 400, automatic: bool = False, day: date = TODAY) -> Follower:
    return Follower(uuid4(), type_, state, amount, automatic, day, NOW)


def lines() -> list[tuple[str, str, int, str]]:
    found = []
    for line in TABLE.strip().splitlines():
        type_, *words, amount, code = line.split()
        found.append((type_, " ".join(words), int(amount), code))
    return found


@pytest.mark.parametrize(("type_", "name", "amount", "code"), lines())
def test_the_table(type_: str, name: str, amount: int, code: str) -> None:
    found = refusal(type_, original(name), [], amount, TODAY, NOW)
    assert (found.code if found else "-") == code
    if found is not None:
        assert PROBLEMS[found.code].status == 409 and found.amounts.keys() == {"authorised", "captured", "refunded", "charged_back", "left_to_capture", "left_to_refund"}
        assert (found.retry_after is not None) == (found.code == "follow_up_open")


@pytest.mark.parametrize(("type_", "name", "more", "amount"), [
    ("capture", "hold", {}, 1000), ("capture", "tolerant", {}, 1000), ("capture", "tolerant", {"captured": 400}, 600), ("capture", "tolerant", {"captured": 1000}, 0),
    ("capture", "tolerant", {"captured": 400, "released": 750}, 0), ("capture", "tolerant", {"capture_reserved": 300}, 700), ("capture", "released", {}, 0),
    ("refund", "part refunded", {}, 500), ("void", "sale", {}, 1000), ("void", "hold", {}, 1000)])
def test_without_an_amount_it_is_what_was_authorised_and_is_left(type_: str, name: str, more: dict[str, int], amount: int) -> None:
    """The tolerance is taken only by who names an amount."""
    assert amount_of(type_, original(name, **more), None) == amount


@pytest.mark.parametrize("state", ["SENT", "REVERSING", "PARKED"])
@pytest.mark.parametrize("automatic", [True, False])
def test_a_void_waits_for_every_open_follow_up_and_a_refund_for_the_capture_that_is_owed(state: str, automatic: bool) -> None:
    so_far = [follower(state=state, automatic=automatic)]
    void, refund = (refusal(type_, original("sale"), so_far, 1000, TODAY, NOW) for type_ in ("void", "refund"))
    assert void is not None and void.code == "follow_up_open"
    assert (refund.code if refund else None) == ("follow_up_open" if automatic else None)


def test_the_day_of_what_is_captured_by_hand_is_its_captures() -> None:
    captured = original("all captured")  # held yesterday
    for type_, amount in (("void", 1000), ("tip", 0)):
        assert refusal(type_, captured, [follower(day=TODAY)], amount, TODAY, NOW) is None
        closed = refusal(type_, captured, [follower(day=TODAY), follower(day=YESTERDAY)], amount, TODAY, NOW)
        assert closed is not None and closed.code == "day_closed"
        assert refusal(type_, captured, [follower(day=TODAY), follower(state="DECLINED", day=YESTERDAY)], amount, TODAY, NOW) is None


@pytest.mark.parametrize(("name", "followers", "code"), [
    ("sale", [], None), ("sale of yesterday", [], "day_closed"), ("sale", [follower(automatic=True)], None), ("sale", [follower(automatic=True, state="SENT")], None),
    ("sale", [follower("refund")], "follow_up_exists"), ("sale", [follower("refund", "CONFIRMED")], "follow_up_exists"), ("sale", [follower("refund", "SENT")], "follow_up_open"),
    ("sale", [follower("void", "REVERSING")], "follow_up_open"), ("sale", [follower("refund", "DECLINED"), follower("refund", "REVERSED"), follower("void", "NOT_SENT")], None),
    ("hold", [follower("capture", "PARKED")], "follow_up_open"), ("sent", [], None),
])
def test_what_something_was_built_on_is_not_undone(name: str, followers: list[Follower], code: str | None) -> None:
    found = undo_refusal(original(name), followers, TODAY)
    assert (found.code if found else None) == code


@pytest.mark.parametrize(("type_", "state", "name", "code"), [
    ("capture", "APPROVED", "sale", None), ("capture", "APPROVED", "part refunded", "follow_up_exists"), ("capture", "SENT", "part refunded", None),
    ("capture", "APPROVED", "voided", "already_voided"), ("tip", "APPROVED", "void open", "already_voided"), ("capture", "APPROVED", "reversing", None),
    ("increment", "APPROVED", "hold", None), ("increment", "APPROVED", "all captured", "follow_up_exists"), ("refund", "APPROVED", "part refunded", None),
    ("void", "APPROVED", "voided", None),
])
def test_a_follow_up_is_taken_back_unless_what_came_after_stands_on_it(type_: str, state: str, name: str, code: str | None) -> None:
    mine = rows.transaction(type=type_, state=state, amount=600, original_id=uuid4(), capturable=650 if type_ == "increment" else 0)
    found = taking_back_refusal(mine, original(name))
    assert (found.code if found else None) == code


@pytest.mark.parametrize(("authorised", "basis_points", "more"), [
    (1000, 0, 0), (1000, 1500, 150), (999, 1500, 149), (1, 1500, 0), (6, 1667, 1), (AMOUNT_MAX, 1500, 0), (AMOUNT_MAX - 5, 10_000, 5), (0, 1500, 0),
])
def test_a_tolerance_is_whole_minor_units_rounded_down_within_what_a_message_can_say(authorised: int, basis_points: int, more: int) -> None:
    assert tolerance(authorised, basis_points) == more


def test_the_dialect_says_what_is_a_request_and_what_an_advice() -> None:
    dialect = load("iso87_ascii")
    assert {type_: exchange(dialect, type_) for type_ in (*VERBS.values(), "offline_sale")} == {
        "capture": "advice", "tip": "advice", "increment": "request", "void": "request", "refund": "request", "offline_sale": "advice"}
    assert exchange(dialect, "a verb that it lacks") is None


def test_every_verb_has_its_rule_and_every_refusal_its_problem() -> None:
    assert set(VERBS.values()) == set(RULES) == set(verbs.NEVER)
    refused = {*CODE_OF.values(), *verbs.NEVER.values()} - {"acquirer_unavailable"}  # a stand-in beyond its terms: as if there were none
    assert all(PROBLEMS[code].status == 409 for code in refused)


@pytest.mark.parametrize("type_", VERBS.values())
def test_what_one_intent_of_a_batch_reserves_the_next_one_sees(type_: str) -> None:
    row, amount = original({"refund": "sale", "tip": "tipped sale", "void": "sale"}.get(type_, "hold")), 1000 if type_ == "void" else 150
    assert refusal(type_, row, [], amount, TODAY, NOW) is None
    added = follower(type_, "SENT", amount)
    verbs.reserve(row, added)
    assert {"capture": row.capture_reserved, "tip": row.capture_reserved, "increment": row.increment_reserved, "refund": row.refund_reserved, "void": row.void_reserved}[type_] == amount
    again = refusal(type_, row, [added], 900, TODAY, NOW)
    assert (again is None) == (type_ == "increment")


@pytest.mark.parametrize(("mti", "state", "own", "allowed"), [
    ("0100", "CONFIRMED", None, True), ("0100", "CONFIRMED", "REVERSED", True), ("0100", "CONFIRMED", "PARKED", False),
    ("0100", "CONFIRMED", "APPROVED", False), ("0100", "APPROVED", None, False), ("0200", "CONFIRMED", None, False)])
def test_what_two_people_confirmed_is_captured_by_hand_when_its_own_capture_is_gone(mti: str, state: str, own: str | None, allowed: bool) -> None:
    row = replace(original("sale"), mti=mti, state=state, captured=0)
    followers = [follower("capture", own, 1000)._replace(automatic=True)] if own else []
    refused = refusal("capture", row, followers, 1000, TODAY, NOW)
    assert (refused is None) == allowed and (allowed or refused.code == "not_capturable")


@pytest.mark.parametrize(("name", "amount"), [("sale", 999), ("sale", 1001), ("hold", 999)])
def test_a_void_is_about_all_that_there_is(name: str, amount: int) -> None:
    refused = refusal("void", original(name), [], amount, TODAY, NOW)
    assert refused is not None and (refused.code, refused.retry_after) == ("follow_up_open", verbs.RETRY_AFTER_S)
