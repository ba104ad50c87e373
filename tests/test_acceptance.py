"""An acceptance test's life and steps: the tables, what is refused by name, and that the database holds the same steps."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrations.versions import r0027_acceptance
from switch.errors import PROBLEMS
from switch.terminals.acceptance_life import LIFE
from switch.terminals.acceptance_steps import RULES, USUAL, Printed, Seen, Within, asked, compared, findings, missing, standing

FOLLOWS = """
from       begin    pass    fail    cancel     repeat
open       running  .       .       cancelled  .
running    .        passed  failed  cancelled  .
failed     .        .       .       .          repeated
passed     .        .       .       .          .
repeated   .        .       .       .          .
cancelled  .        .       .       .          .
"""
HEAD, *LINES = [line.split() for line in FOLLOWS.strip().splitlines()]
TABLE = {(line[0], event): state for line in LINES for event, state in zip(HEAD[1:], line[1:], strict=True)}
TILL, SALE, FIRST = UUID(int=1), UUID(int=200), UUID(int=100)
WITHIN = Within(TILL, FIRST)
SOLD = Seen(SALE, "purchase", "APPROVED", "chip", TILL, TILL, "iso87_ascii", 5000, 5000, "CNY", "0003", "600000000001", "600000000001", "000017", "A1B2C3", "00", False,
            0, 5000, 0, 5000, None, 5000)
PAPER = Printed("**** **** **** 0003", 5000, "CNY", "600000000001", "A1B2C3")


def seen(**changed: Any) -> Seen:
    return replace(SOLD, **changed)


@pytest.mark.parametrize(("state", "event"), TABLE)
def test_only_the_steps_of_the_life_are_taken(state: str, event: str) -> None:
    refused = LIFE.refusal(state, event)
    if TABLE[state, event] == ".":
        assert refused is not None and refused.code == "acceptance_move" and state in refused.detail and event in refused.detail
    else:
        assert refused is None and LIFE[state, event] == TABLE[state, event]


def test_the_table_of_this_test_is_whole_and_the_databases() -> None:
    assert {line[0] for line in LINES} == set(LIFE.states) and set(HEAD[1:]) == LIFE.events
    assert set(r0027_acceptance.STEPS) == {f"{was}>{state}" for (was, _), state in LIFE.items()}
    assert {each.strip(" '") for each in r0027_acceptance.STATES.split(",")} == set(LIFE.states)
    assert {"acceptance_move", "acceptance_incomplete", "device_not_ready"} <= PROBLEMS.keys() and set(USUAL) <= RULES.keys()


ORIGINAL = seen(transaction_id=UUID(int=150), voided=5000)
SHOWS = {
    "chip": seen(), "swipe": seen(entry_mode="magstripe"), "contactless": seen(entry_mode="contactless"), "manual": seen(entry_mode="manual"), "qr": seen(entry_mode="qr"),
    "decline": seen(state="DECLINED", response_code="51"), "timeout": seen(state="REVERSED", response_code=None, acknowledged=True),
    "cancellation": seen(state="REVERSED", acknowledged=True), "preauthorization": seen(type="preauthorization"),
    "capture": seen(type="capture", original=seen(type="preauthorization")), "void": seen(type="void", original=ORIGINAL),
    "refund": seen(type="refund", original=seen(refunded=5000)), "receipt": seen(),
}


def of(step: str, it: Seen, within: Within = WITHIN, printed: Printed | None = PAPER) -> list[str]:
    return findings(step, None, it, within, printed if RULES[step].paper else None)


def test_each_step_is_shown_by_what_it_wants_and_each_has_such_a_transaction() -> None:
    assert SHOWS.keys() == RULES.keys()
    assert {step: of(step, it) for step, it in SHOWS.items()} == {step: [] for step in SHOWS}


@pytest.mark.parametrize("step", RULES)
def test_nothing_else_shows_a_step(step: str) -> None:
    it = SHOWS[step]
    assert of(step, replace(it, terminal_id=UUID(int=9))) and of(step, replace(it, caller=UUID(int=9))), "another till's, or the merchant's own call"
    assert of(step, it, Within(TILL, UUID(int=it.transaction_id.int + 1))), "made before the test began"
    assert of(step, replace(it, type="balance_inquiry")) and of(step, replace(it, state="SENT")) and of(step, replace(it, state="REVERSING"))
    assert findings(step, "visa_base1", it, WITHIN, PAPER), "another acquirer's dialect"
    others = {each for each, other in SHOWS.items() if not of(step, other)}
    allowed = {"receipt": {"chip", "swipe", "contactless", "manual", "qr", "preauthorization", "refund"}, "cancellation": {"timeout"}, "chip": {"preauthorization", "receipt"}}
    assert others - {step} <= allowed.get(step, set()), step


@pytest.mark.parametrize(("step", "it"), [
    ("void", seen(type="void", original=replace(ORIGINAL, voided=0))), ("void", seen(type="void")), ("void", seen(type="void", original=replace(ORIGINAL, transaction_id=UUID(int=50)))),
    ("void", seen(type="void", original=replace(ORIGINAL, type="refund"))), ("refund", seen(type="refund", original=seen())), ("capture", seen(type="capture", original=seen())),
    ("timeout", seen(state="REVERSED", response_code=None, acknowledged=False)), ("timeout", seen(state="REVERSED", response_code="00", acknowledged=True)),
    ("cancellation", seen(state="REVERSED", acknowledged=False)), ("decline", seen(state="DECLINED", response_code=None)),
])
def test_what_only_looks_like_it_does_not_show_it(step: str, it: Seen) -> None:
    assert of(step, it)


@pytest.mark.parametrize(("changed", "field"), [
    ({"amount": 5001}, "amount"), ({"currency": "USD"}, "currency"), ({"rrn": "1"}, "rrn"), ({"approval_code": None}, "approval_code"), ({"stan": "1"}, "stan"),
    ({"masked_pan": "6212345678900000003"}, "masked_pan"), ({"masked_pan": "621234******0003"}, "masked_pan"), ({"masked_pan": "0003 ****"}, "masked_pan"),
])
def test_paper_and_books_must_say_the_same(changed: dict[str, Any], field: str) -> None:
    unlike = [each for each in compared(seen(), replace(PAPER, **changed)) if not each.same]
    assert [each.field for each in unlike] == [field]
    assert field != "masked_pan" or unlike[0].printed is None, "what may be a card number is not kept"


@pytest.mark.parametrize(("changed", "same"), [
    ({}, True), ({"told_amount": 4999}, False), ({"told_amount": None}, True), ({"cleared": (5000, "CNY")}, True), ({"cleared": (4999, "CNY")}, False),
    ({"cleared": (5000, "USD")}, False), ({"told_amount": 4999, "cleared": (5000, "CNY")}, True), ({"acquirer_rrn": None}, True), ({"acquirer_rrn": "700"}, True),
])
def test_the_books_and_the_acquirer_must_say_the_same(changed: dict[str, Any], same: bool) -> None:
    assert all(each.same for each in compared(seen(**changed), PAPER)) is same


@pytest.mark.parametrize(("changed", "stands"), [
    ({}, True), ({"voided": 5000}, False), ({"refunded": 5000}, False), ({"refunded": 4999}, True), ({"state": "SENT"}, True), ({"state": "REVERSING"}, True), ({"state": "PARKED"}, True),
    ({"state": "REVERSED"}, False), ({"state": "DECLINED"}, False), ({"state": "NOT_SENT"}, False), ({"type": "void"}, False), ({"type": "preauthorization", "captured": 0}, True),
    ({"type": "preauthorization", "captured": 0, "capturable": 0}, False), ({"type": "offline_sale"}, True),
])
def test_what_still_moves_money_stands(changed: dict[str, Any], stands: bool) -> None:
    assert bool(standing([seen(**changed)])) is stands


@given(plan=st.lists(st.fixed_dictionaries({"step": st.sampled_from(sorted(RULES)), "dialect": st.sampled_from([None, "a", "b"])}), max_size=8), dialects=st.sets(st.sampled_from("ab")))
def test_a_step_of_a_dialect_is_asked_where_it_is_spoken_and_shown_by_it_alone(plan: Any, dialects: set[str]) -> None:
    wanted = asked(plan, frozenset(dialects))
    assert {each["dialect"] for each in wanted} <= dialects | {None}
    assert missing(wanted, []) == wanted
    assert missing(wanted, [(each["step"], each["dialect"] or "c") for each in wanted]) == []
    assert [each for each in missing(wanted, [(each["step"], "c") for each in wanted]) if each["dialect"] is None] == []
