"""How a transaction is shown: built from its row alone, so an answer survives a crash and is the same each time. Only whether it has
expired is asked of the clock, and not for the answers that are final."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson

from switch.clock import clock
from switch.ids import show
from switch.payments.desk import stands
from switch.payments.history import Duty
from switch.payments.transaction import (
    APPROVED,
    CONFIRMED,
    PARKED,
    REVERSED,
    REVERSING,
    SENT,
    STATUS,
    Transaction,
    payment_status,
    payment_status_at,
    stood_in,
)
from switch.payments.verbs import expired, to_capture, to_refund

ASK_AFTER_S = 2  # between two looks of a terminal at what its payer has not decided
REVERSAL_STATE = {REVERSING: "open", REVERSED: "done", PARKED: "parked"}


def stamp(at: datetime | None) -> str | None:
    """RFC 3339 in UTC."""
    return None if at is None else f"{at.isoformat(timespec='microseconds')[:26]}Z"


def _at(at: datetime | None) -> datetime | str | None:
    """As `stamp`, left to orjson where that writes the same: a quarter of the time. Whole seconds it would write without their zeros."""
    return at if at is not None and at.microsecond and at.tzinfo is UTC else stamp(at)


def _common(row: Transaction) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": show("transaction", row.transaction_id), "type": row.type}
    if row.original_id is not None:
        shown["original"] = show("transaction", row.original_id)
    return shown


def _what(row: Transaction) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "currency": row.currency, "response_code": row.response_code, "reason": row.reason, "advice": row.advice,
        "approval_code": row.approval_code, "rrn": row.rrn, "stan": row.stan, "acquirer": show("acquirer", row.acquirer_id),
        "acquirer_rrn": row.acquirer_rrn, "card": _card(row),
        "terminal_trace": row.terminal_trace, "reference": row.reference,
    }
    if row.possible_duplicate_of is not None:
        shown["possible_duplicate_of"] = show("transaction", row.possible_duplicate_of)
    if row.answer_emv:
        shown["emv"] = row.answer_emv
    if row.balances:
        shown["balances"] = balances(row.balances)
    return shown


def _card(row: Transaction) -> dict[str, str]:
    return {"masked_pan": row.masked_pan, "brand": row.brand, "entry_mode": row.entry_mode}


def balances(de54: str) -> list[dict[str, Any]]:
    """DE54 in elements of 20: account type, amount type, currency, sign, amount in minor units."""
    elements = [de54[at:at + 20] for at in range(0, len(de54) - 19, 20)]
    return [{"account_type": e[:2], "amount_type": e[2:4], "currency_code": e[4:7], "amount": int(e[8:20]) * (-1 if e[7] == "D" else 1)}
            for e in elements if e[8:20].isdigit()]


def _amounts(authorised: int, capturable: int, captured: int, refunded: int, charged_back: int) -> dict[str, int]:
    return {"authorised": authorised, "capturable": capturable, "captured": captured, "refunded": refunded, "charged_back": charged_back}


def _money(row: Transaction, now: datetime) -> dict[str, Any]:
    """The amounts as they stand now, what follow-ups in flight or in doubt hold of them, and what is left."""
    capturable = row.capture_method is not None and not expired(row, now)
    return {**_amounts(row.authorised, row.capturable, row.captured, row.refunded, row.charged_back), "voided": row.voided,
            "left_to_capture": to_capture(row) if capturable else 0, "left_to_refund": to_refund(row),
            "reserved": {"capture": row.capture_reserved, "increment": row.increment_reserved, "refund": row.refund_reserved,
                         "void": row.void_reserved}}


def first(row: Transaction) -> tuple[int, bytes]:
    """Status and body of the answer to the POST: 201 as it was at the outcome, byte for byte; 202 as it stands now."""
    if stood_in(row):
        return _in_its_stead(row)
    if not stands(row):
        return 202, orjson.dumps(unsold(row))
    approved = row.approved_amount or 0
    captured = approved if row.capture_method == "automatic" else 0
    assert row.outcome is not None
    money = (approved, approved + row.tolerance, captured, 0, 0)
    body = {**_common(row), "status": STATUS[row.outcome], "payment_status": payment_status(row.outcome, approved, captured, 0, 0),
            "amount": row.amount, "approved_amount": approved, **_what(row), "amounts": _amounts(*money),
            "created_at": _at(row.received_at), "server_time": _at(row.outcome_at)}
    return 201, orjson.dumps(body, option=orjson.OPT_UTC_Z)


def _in_its_stead(row: Transaction) -> tuple[int, bytes]:
    """What was told of a sale that was approved in its acquirer's stead, from what was fixed then: the same bytes whatever the acquirer says
    later, until the sale is undone."""
    if row.state in REVERSAL_STATE:
        return 202, orjson.dumps(unsold(row))
    told = replace(row, response_code=None, reason="stand_in", advice="none", acquirer_rrn=None, answer_emv=None, balances=None)
    amount, at = row.amount, stamp(row.received_at)
    body = {**_common(row), "status": STATUS[APPROVED], "approved_by": "stand_in", "payment_status": payment_status(APPROVED, amount, amount, 0, 0),
            "amount": amount, "approved_amount": amount, **_what(told), "amounts": _amounts(amount, amount, amount, 0, 0), "created_at": at,
            "server_time": at}
    return 201, orjson.dumps(body)


def follow_up(row: Transaction) -> tuple[int, bytes]:
    """Status and body of the answer to the POST of a follow-up: 201 as it was at the outcome, byte for byte; 202 as it stands now."""
    if not stands(row):
        return 202, orjson.dumps(unsold(row))
    assert row.outcome is not None
    return 201, orjson.dumps({**_common(row), "status": STATUS[row.outcome], "amount": row.amount, "approved_amount": row.approved_amount or 0,
                              **_what(row), "created_at": stamp(row.received_at), "server_time": stamp(row.outcome_at)})


def accepted(row: Transaction) -> tuple[int, bytes]:
    """The answer to an offline approval: it is written down and will be said until it is answered. The same bytes as long as it stands."""
    if row.state in REVERSAL_STATE:
        return 202, orjson.dumps(unsold(row))
    return 201, orjson.dumps({**_common(row), "status": "accepted", "amount": row.amount, "currency": row.currency,
                              "approval_code": row.approval_code, "rrn": row.rrn, "stan": row.stan,
                              "acquirer": show("acquirer", row.acquirer_id), "card": _card(row),
                              "terminal_trace": row.terminal_trace, "reference": row.reference, "created_at": stamp(row.received_at)})


def unsold(row: Transaction) -> dict[str, Any]:
    """A 202: this sale did not happen, or its payer has not decided; GET it for the end of the story."""
    shown = {**_common(row), "status": STATUS[row.state], "amount": row.amount, "currency": row.currency, "reason": row.reason,
             "advice": _advice(row), "reversal": reversal(row, None), "rrn": row.rrn, "stan": row.stan,
             "terminal_trace": row.terminal_trace, "reference": row.reference, "created_at": stamp(row.received_at)}
    if row.state == SENT and row.exchange == "query":
        shown["ask"] = {"path": f"/v1/authorizations/{show('transaction', row.transaction_id)}", "after_s": ASK_AFTER_S}
    return shown


def _advice(row: Transaction) -> str | None:
    if row.state == SENT:
        return "none" if row.exchange == "advice" else "ask_again"  # an advice is repeated until it is answered
    if row.state == CONFIRMED:
        return "none"  # two people found that it stands, whatever was advised before
    if row.original_id is not None and row.state in REVERSAL_STATE:
        return "retry_new_key"
    return "new_payment_allowed" if row.state in REVERSAL_STATE else row.advice


def reversal(row: Transaction, duty: Duty | None) -> dict[str, Any] | None:
    if row.state not in REVERSAL_STATE:
        return None
    shown: dict[str, Any] = {"state": REVERSAL_STATE[row.state], "since": stamp(duty.created_at if duty else row.outcome_at)}
    if duty is not None:
        shown |= {"cause": duty.cause, "stan": duty.stan, "transmissions": duty.transmissions, "last_sent_at": stamp(duty.last_sent_at),
                  "last_code": duty.last_code, "next_attempt_at": stamp(duty.next_attempt_at) if duty.state == "open" else None,
                  "closed_at": stamp(duty.closed_at), "closed_by": duty.closed_by}
    return shown


def current(row: Transaction, duty: Duty | None = None) -> dict[str, Any]:
    """The transaction as it stands now."""
    now = clock.now()
    tried_before = {} if row.attempt_of is None else {"attempt_of": show("transaction", row.attempt_of)}
    untold = stood_in(row) and row.state == SENT
    if stood_in(row):
        tried_before["approved_by"] = "stand_in"
        if untold:  # as its customer was told, until its acquirer has answered
            row = replace(row, state=APPROVED, approved_amount=row.amount, authorised=row.amount, capturable=row.amount, captured=row.amount,
                          reason="stand_in", advice="none")
    return {**_common(row), **tried_before, "status": STATUS[row.state], "payment_status": payment_status_at(row, now),
            "amount": row.amount, "approved_amount": row.approved_amount if row.state in (APPROVED, CONFIRMED) else 0, **_what(row),
            "advice": _advice(row), "amounts": _money(row, now) | ({"left_to_refund": 0} if untold else {}),
            "reversal": reversal(row, duty), "expires_at": stamp(row.expires_at),
            "store": show("store", row.store_id), "terminal": show("terminal", row.terminal_id), "business_date": row.business_date.isoformat(),
            "tip_amount": row.tip_amount, "cashback_amount": row.cashback_amount, "capture_method": row.capture_method,
            "created_at": stamp(row.received_at), "outcome_at": stamp(row.outcome_at)}
