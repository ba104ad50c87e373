"""The story of one transaction: told from its own columns; event rows exist only for what deviates."""

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from switch.api import answers
from switch.clock import clock
from switch.directory import Directory
from switch.ids import show
from switch.money import text
from switch.payments.history import History
from switch.payments.rerouting import superseded
from switch.payments.transaction import APPROVED, DECLINED, SENT, STATUS, Transaction, payment_status_at, stood_in


async def tell(row: Transaction, history: History, directory: Directory) -> dict[str, Any]:
    """Times in order, what was sent and answered (masked), what is owed, what followed, and one line for people."""
    duty = await history.duty(row.transaction_id)
    events = [(event["at"], event["kind"], _detail(event["kind"], json.loads(event["detail"]))) for event in await history.events(row.transaction_id)]
    acquirer = directory.acquirers.get(row.acquirer_id)
    steps: list[tuple[datetime | None, str, Any]] = [
        (row.received_at, "received at the door", None),
        (row.intent_at, "written down, before anything was sent", None if row.attempt_of is None else
         {"attempt_after": show("transaction", row.attempt_of)}),
        (row.sent_at, f"sent to {acquirer.name if acquirer else 'the acquirer'}", json.loads(row.request_message)),
        (row.answered_at, f"answered with code {row.response_code}", json.loads(row.answer_message) if row.answer_message else None),
        (row.outcome_at, f"outcome written: {STATUS[row.outcome] if row.outcome else 'not known, reversal owed'}", {"reason": row.reason}),
        *events,
    ]
    if duty is not None:
        steps += [(duty.created_at, f"{duty.kind} owed because of {duty.cause}", None), (duty.first_sent_at, f"{duty.kind} first sent", None),
                  (duty.last_sent_at if duty.transmissions > 1 else None, f"{duty.kind} sent again, {duty.transmissions} times in all", None),
                  (duty.closed_at, f"{duty.kind} closed by {duty.closed_by}, code {duty.last_code}", None)]
    told = sorted(((at, what, detail) for at, what, detail in steps if at is not None), key=lambda step: step[0])
    return {
        "id": show("transaction", row.transaction_id), "in_short": _in_short(row), "transaction": answers.current(row, duty),
        "steps": [{"at": answers.stamp(at), "after_ms": round((at - row.received_at).total_seconds() * 1000, 1), "what": what, "detail": detail}
                  for at, what, detail in told],
        "followed_by": [{"id": show("transaction", follower.transaction_id), "type": follower.type, "status": STATUS[follower.state],
                         "amount": follower.amount} for follower in await history.followers(row)],
    }


def _in_short(row: Transaction) -> str:
    amount = text(row.amount, row.currency)
    in_part = f" in part, {text(row.approved_amount, row.currency)}," if row.approved_amount and row.approved_amount < row.amount else ""
    how = {
        "pending": "is with the acquirer; its outcome is not known yet", "approved": f"was approved{in_part} with code {row.approval_code}",
        "declined": f"was declined: {row.reason}", "not_sent": f"was never sent: {row.reason}",
        "reversing": f"is being reversed: {row.reason}; the sale did not happen", "reversed": f"was reversed: {row.reason}",
        "parked": "could not be reversed; a person must decide", "confirmed": "was confirmed by a person",
    }[STATUS[row.state]]
    if stood_in(row) and row.state in (SENT, APPROVED, DECLINED):
        then = {SENT: "which has not answered yet", APPROVED: "which took it", DECLINED: f"which then declined it: {row.reason}"}[row.state]
        how = f"was approved in its acquirer's stead, {then}"
    elsewhere = "; another acquirer was asked instead" if superseded(row) else ""
    ended = "; it expired before anything of it was captured" if payment_status_at(row, clock.now()) == "expired" else ""
    return f"{row.type} of {amount} on {row.masked_pan} {how}{elsewhere}{ended}"


def _detail(kind: str, detail: Any) -> Any:
    """What rules found is for operators: here the hits are only named (GET /v1/risk-hits)."""
    return {"hits": [show("risk_hit", UUID(hit["hit_id"])) for hit in detail["hits"]]} if kind == "risk" else detail
