"""Alerts: a row, a metric, a log line. Kinds are a closed list; docs/runbook.md has an entry for each."""

import json
import os
import time
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any
from uuid import UUID

import asyncpg

from switch import logs, metrics
from switch.database import UNKNOWN, Connection, Pool
from switch.ids import uuid7

# kind -> what it means for money
KINDS = MappingProxyType({
    "contradicting_answer": "the acquirer answered the same request twice and differently",
    "acquirer_not_used": "an acquirer's timers do not nest: its new record is not used, and its payments may go nowhere",
    "answer_not_authentic": "an acquirer's answer has a wrong signature: nothing it says is believed, and its payments stay pending",
    "pending_old": "an acquirer has not decided a payment long after its payer's time was over: nobody knows whether it was paid",
    "answer_to_unsent": "the acquirer answered a request that never left this switch",
    "capture_declined": "the acquirer declined a capture advice: the merchant's money is at risk",
    "advice_declined": "the acquirer declined a tip or an offline approval: the merchant's money is at risk",
    "stand_in_declined": "the acquirer declined a sale that was approved in its stead: the goods are gone, and nobody pays for them",
    "reconciliation_exceptions": "a clearing file or a bank statement does not agree with the books",
    "batch_out_of_balance": "an acquirer counts another sum of a terminal's batch than our books do",
    "dispute_due": "a dispute waits for its merchant's answer, and the time for it ends soon",
    "dispute_overdue": "nobody answered a dispute in time: its money is lost",
    "payout_contradicted": "a bank says that it did not pay what it paid, and the money has not come back",
    "payout_returned": "a payout came back: the merchant is not paid until its bank account has been agreed anew",
    "document_ends": "a document of a merchant ends within 30 days, or has ended: what it allows may have to stop",
    "review_overdue": "an application has waited for a reviewer longer than it may: somebody who wants to sell is kept waiting",
    "risk_hits_lost": "the database was away for so long that what sales hit could not be kept: they are in no review",
    "reversal_parked": "a reversal could not be delivered; a person must resolve it",
    "advice_parked": "a capture's message cannot be built: its money is not collected until a person has looked",
    "line_down": "the line to an acquirer has been down for a minute: its payments go elsewhere or nowhere, and its reversals wait",
    "line_away": "one of an acquirer's lines has been down for a minute: another one carries its payments, and nothing is left if that fails too",
    "breaker_open": "an acquirer does not answer, or says that it cannot serve: new payments go elsewhere or nowhere, what is owed still leaves",
    "certificate_refused": "a line is not connected because a certificate is refused or cannot be used: its payments go elsewhere or nowhere",
    "certificate_ends": "a certificate of a line ends within 14 days: the line will not connect any more, and its payments go nowhere",
    "host_cut_over": "an acquirer's host began a new business day, and ours waits for a person: sales may settle under another date there than here",
    "acquirer_overloaded": "an acquirer has been too slow for what is offered for a minute: payments are refused unsent",
    "database_unreachable": "the database cannot be reached: payments are refused, and those in flight are told pending",
    "in_doubt_old": "a payment has had no outcome for a minute past its time: recovery does not work, and nobody owes its reversal yet",
    "worker_lost": "a worker died without giving its lease back: what it had in flight is reversed",
    "log_lines_lost": "log lines could not be written: what happens now leaves less of a trace",
    "reversal_old": "a reversal has not been acknowledged for 15 minutes: a cardholder's money is held for a sale that was not made",
    "job_failed": "a background job has failed as often as its kind allows: what it owes (a settlement, a payout, an export) is not done",
    "terminal_silent": "a live device has not been heard of for longer than it may be silent: its shop may be unable to sell",
    "terminal_tampered": "a device says that it was opened: it sells no more, its keys are ended and must be erased",
    "sales_unpriced": "sales were settled without a fee: their merchant has a tariff, and no rule of it is for them",
    "tier_correction_old": "what a merchant paid for the month's volume is not corrected for four days: its acquirer's day is not cut over",
    "ticket_overdue": "a ticket was not answered or not resolved in time: a shop may be unable to sell, and has waited longer than it was promised",
    "undelivered_approval": "an approval was not delivered to its terminal, and nobody has asked for it since",
    "webhook_disabled": "a merchant's webhook endpoint said 410 or failed for five days: it is told nothing more, its money is not touched",
    "unreadable_card": "a sealed card number could not be opened: its reversal cannot be built",
    "mac_fault": "answers of an acquirer had no MAC or a wrong one: what they said is not believed, and their payments are reversed",
    "working_keys_refused": "an acquirer brought no working keys that can be used: its line stays down, or keeps those before a key change",
})

for _kind in KINDS:  # a series that begins with its first alert shows no increase
    metrics.alerts.labels(_kind)

RAISE = """
INSERT INTO alert (alert_id, kind, object) VALUES ($1, $2, $3)
ON CONFLICT (kind, object) DO UPDATE SET last_at = now(), count = alert.count + 1, acknowledged_by = NULL, acknowledged_at = NULL
"""


SEEN = "UPDATE alert SET seen_at = now() FROM unnest($1::text[], $2::text[]) s (kind, object) WHERE alert.kind = s.kind AND alert.object = s.object"
OVER_S = 45  # some looks of any worker: what none of them has found for as long is over
RAISE_ONCE = "INSERT INTO alert (alert_id, kind, object) VALUES ($1, $2, $3) ON CONFLICT (kind, object) DO NOTHING RETURNING true"
LEFT_MAX = 1000


def _new_id() -> UUID:
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


class Alerts:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.left: list[tuple[str, str]] = []  # kind and object of rows that could not be written yet

    async def raise_(self, kind: str, object_: str) -> None:
        """Raises an alert about an object (its shown id). The log line and the metric come at once; a row that cannot be written now is
        written when the database is back."""
        announce(kind, object_)
        try:
            await self.pool.execute(RAISE, _new_id(), kind, object_)
        except (*UNKNOWN, asyncpg.PostgresError) as error:
            logs.error("alert_not_written", alert=kind, error=type(error).__name__)
            self.left = [*self.left, (kind, object_)][-LEFT_MAX:]

    async def raise_once(self, kind: str, object_: str) -> None:
        """For what happens once and that several workers see: the first of them raises it. Raises what UNKNOWN lists."""
        if await self.pool.fetchval(RAISE_ONCE, _new_id(), kind, object_):
            announce(kind, object_)

    async def seen(self, standing: Iterable[tuple[str, str]]) -> None:
        """Marks what a look of this worker has found standing, by kind and object. Raises what UNKNOWN lists."""
        if found := sorted(standing):
            await self.pool.execute(SEEN, [kind for kind, _ in found], [object_ for _, object_ in found])

    async def write_what_is_left(self) -> None:
        """Raises what UNKNOWN lists: then it is still left."""
        while self.left:
            await self.pool.execute(RAISE, _new_id(), *self.left[0])
            del self.left[0]


async def raise_within(connection: Connection, kind: str, object_: str) -> None:
    """Only the row, in the commit of what it tells; `announce` when that has committed."""
    await connection.execute(RAISE, _new_id(), kind, object_)


def announce(kind: str, object_: str) -> None:
    """The metric and the log line of an alert whose row is written, or rides in somebody's commit."""
    assert kind in KINDS, kind
    metrics.alerts.labels(kind).inc()
    logs.error("alert", alert=kind, detail=object_)


def detail(**fields: Any) -> str:
    """The detail of an event row, as JSON."""
    return json.dumps(fields, default=str)
