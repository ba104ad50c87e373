"""What became of duties, written many at once by a lane: each with its transaction, in one commit, and never by a worker that lost the lease.

Originals are locked first, then transactions in the order of the array, then duties, as the journal does.
"""

import os
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from switch.database import Connection
from switch.failpoints import failpoint_held
from switch.ids import show, uuid7
from switch.payments.duties import Again, Close, Decision, Park
from switch.payments.journal import LOCK_FIRST
from switch.payments.transaction import Event


class Answered(NamedTuple):
    """What the answer to an advice says."""

    message: str | None  # masked, JSON
    sent_at: datetime | None
    reason: str | None
    advice: str | None
    approval_code: str | None = None
    acquirer_rrn: str | None = None


UNANSWERED = Answered(None, None, None, None)


class Ended(NamedTuple):
    """One transmission that has ended. `original_id`: whose amounts move with this one; `leased_until`: as this worker took it."""

    transaction_id: UUID
    original_id: UUID | None
    kind: str
    leased_until: datetime
    decision: Decision
    code: str | None
    answered: Answered = UNANSWERED


# An alert rides in the commit that causes it: nobody may die, or be in doubt of that commit, before a person is told.
_AGAIN_TOLD = """
    ON CONFLICT (kind, object) DO UPDATE SET last_at = now(), count = alert.count + 1, acknowledged_by = NULL, acknowledged_at = NULL"""
# An acknowledgement ends a parked one too. What has no effect is closed without having left. "Not found" was counted before, and an approval that
# came meanwhile has taken that count away: whoever takes it holds the transaction (evidence.EXPEDITE), so the rows of "not found" are locked before
# this statement looks.
CLOSE_REVERSALS = """
WITH asked AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[]) AS a(transaction_id, closed_by, code)
), moved AS (
    UPDATE transaction t SET state = 'REVERSED', version = t.version + 1, captured = 0 FROM asked a
    WHERE t.transaction_id = a.transaction_id AND t.state IN ('REVERSING', 'PARKED')
      AND (a.closed_by IN ('ack', 'no_effect') OR t.state = 'REVERSING' AND EXISTS (
           SELECT FROM duty d WHERE d.transaction_id = a.transaction_id AND d.not_found_at IS NOT NULL))
    RETURNING t.transaction_id, a.closed_by, a.code
)
UPDATE duty d SET state = 'done', closed_at = now(), closed_by = m.closed_by, last_code = m.code, leased_until = NULL,
  transmissions = CASE WHEN m.closed_by = 'no_effect' THEN 0 ELSE d.transmissions END,
  first_sent_at = CASE WHEN m.closed_by <> 'no_effect' THEN d.first_sent_at END,
  last_sent_at = CASE WHEN m.closed_by <> 'no_effect' THEN d.last_sent_at END
FROM moved m WHERE d.transaction_id = m.transaction_id AND d.kind = 'reversal' AND d.state IN ('open', 'parked') RETURNING d.transaction_id
"""
# A cancellation may turn an advice into a reversal while the advice is on its way: what comes of the one never touches the other.
CLOSE_ADVICES = """
WITH asked AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::uuid[], $7::text[],
      $8::timestamptz[], $9::text[], $10::text[], $11::text[])
      AS a(transaction_id, closed_by, code, state, object, alert_id, message, sent_at, reason, advice, acquirer_rrn)
), moved AS (
    UPDATE transaction t SET state = a.state, version = t.version + 1, outcome = a.state, outcome_at = now(), answered_at = now(),
      response_code = a.code, approved_amount = CASE WHEN a.state = 'APPROVED' THEN t.amount ELSE 0 END, answer_message = a.message,
      sent_at = coalesce(t.sent_at, a.sent_at), reason = a.reason, advice = a.advice, acquirer_rrn = a.acquirer_rrn,
      (authorised, capturable, captured) = (
        SELECT m, m, m FROM (SELECT CASE WHEN a.state = 'APPROVED' AND t.type IN ('offline_sale', 'purchase') THEN t.amount ELSE 0 END) booked(m))
    FROM asked a WHERE t.transaction_id = a.transaction_id AND t.state = 'SENT' AND t.exchange = 'advice'
    RETURNING t.transaction_id, t.type, a.closed_by, a.code, a.object, a.alert_id
), told AS (
    INSERT INTO alert (alert_id, kind, object)
    SELECT alert_id, CASE type WHEN 'capture' THEN 'capture_declined' WHEN 'purchase' THEN 'stand_in_declined' ELSE 'advice_declined' END, object
    FROM moved WHERE closed_by = 'declined' ORDER BY object""" + _AGAIN_TOLD + """
)
UPDATE duty d SET state = 'done', closed_at = now(), closed_by = m.closed_by, last_code = m.code, leased_until = NULL
FROM moved m WHERE d.transaction_id = m.transaction_id AND d.kind = 'advice' AND d.state IN ('open', 'parked') RETURNING d.transaction_id
"""
# The host's word on what it had not decided. A cancellation may have turned the query into a reversal meanwhile, as with an advice.
CLOSE_QUERIES = """
WITH asked AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[], $8::text[], $9::text[],
      $10::text[]) AS a(transaction_id, closed_by, code, state, message, sent_at, reason, advice, approval_code, acquirer_rrn)
), moved AS (
    UPDATE transaction t SET state = a.state, version = t.version + 1, outcome = a.state, outcome_at = now(), answered_at = now(),
      response_code = a.code, approved_amount = CASE WHEN a.state = 'APPROVED' THEN t.amount ELSE 0 END, answer_message = a.message,
      sent_at = coalesce(t.sent_at, a.sent_at), reason = a.reason, advice = a.advice, approval_code = a.approval_code,
      acquirer_rrn = a.acquirer_rrn, (authorised, capturable, captured) = (
        SELECT m, m, CASE WHEN t.capture_method = 'automatic' THEN m ELSE 0 END
        FROM (SELECT CASE WHEN a.state = 'APPROVED' AND t.original_id IS NULL AND t.type <> 'refund' THEN t.amount ELSE 0 END) booked(m))
    FROM asked a WHERE t.transaction_id = a.transaction_id AND t.state = 'SENT' AND t.exchange = 'query'
    RETURNING t.transaction_id, a.closed_by, a.code
)
UPDATE duty d SET state = 'done', closed_at = now(), closed_by = m.closed_by, last_code = m.code, leased_until = NULL
FROM moved m WHERE d.transaction_id = m.transaction_id AND d.kind = 'query' AND d.state = 'open' RETURNING d.transaction_id
"""
# Unlike a reversal's, the count of "not found" begins anew when the host knows the order after all.
ASK_AGAIN = """
UPDATE duty d SET next_attempt_at = a.at, last_code = coalesce(a.code, d.last_code), leased_until = NULL, not_found_at = a.not_found_at,
  transmissions = CASE WHEN a.sent THEN d.transmissions ELSE greatest(d.transmissions - 1, 0) END
FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::boolean[])
  AS a(transaction_id, leased_until, code, at, not_found_at, sent)
WHERE d.transaction_id = a.transaction_id AND d.state = 'open' AND d.kind = 'query' AND d.leased_until = a.leased_until
RETURNING d.transaction_id
"""
AGAIN = """
UPDATE duty d SET next_attempt_at = a.at, last_code = coalesce(a.code, d.last_code), leased_until = NULL,
  not_found_at = coalesce(d.not_found_at, a.not_found_at), faults = d.faults + a.fault::integer,
  transmissions = CASE WHEN a.sent THEN d.transmissions ELSE greatest(d.transmissions - 1, 0) END,
  first_sent_at = CASE WHEN a.sent OR d.transmissions > 1 THEN d.first_sent_at END,
  last_sent_at = CASE WHEN a.sent OR d.transmissions > 1 THEN d.last_sent_at END
FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::boolean[], $8::boolean[])
  AS a(transaction_id, kind, leased_until, code, at, not_found_at, sent, fault)
WHERE d.transaction_id = a.transaction_id AND d.state = 'open' AND d.kind = a.kind AND d.leased_until = a.leased_until
RETURNING d.transaction_id
"""
_PARKED = """
UPDATE duty d SET state = 'parked', parked_reason = m.reason, last_code = coalesce(m.code, d.last_code), leased_until = NULL,
  transmissions = CASE WHEN m.reason = 'unbuildable' THEN greatest(d.transmissions - 1, 0) ELSE d.transmissions END,
  faults = d.faults + (m.reason = 'unbuildable')::integer"""
_TOLD = """
), told AS (
    INSERT INTO alert (alert_id, kind, object) SELECT alert_id, '{alert}', object FROM moved ORDER BY object""" + _AGAIN_TOLD + """
), noted AS (
    INSERT INTO transaction_event (merchant_id, transaction_id, kind, detail)
    SELECT merchant_id, transaction_id, '{alert}', jsonb_build_object('reason', reason, 'code', code) FROM moved
)"""
_ASKED = """
WITH asked AS (
    SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::uuid[])
      AS a(transaction_id, leased_until, reason, code, object, alert_id)
), """
PARK_REVERSALS = _ASKED + """moved AS (
    UPDATE transaction t SET state = 'PARKED', version = t.version + 1 FROM asked a, duty d
    WHERE t.transaction_id = a.transaction_id AND t.state = 'REVERSING' AND d.transaction_id = a.transaction_id AND d.state = 'open'
      AND d.leased_until = a.leased_until
    RETURNING t.merchant_id, a.*""" + _TOLD.format(alert="reversal_parked") + _PARKED + """
FROM moved m WHERE d.transaction_id = m.transaction_id AND d.kind = 'reversal' AND d.state = 'open' RETURNING d.transaction_id
"""
PARK_ADVICES = _ASKED + """moved AS (
    SELECT d.merchant_id, a.* FROM asked a JOIN duty d USING (transaction_id)
    WHERE d.kind = 'advice' AND d.state = 'open' AND d.leased_until = a.leased_until""" + _TOLD.format(alert="advice_parked") + _PARKED + """
FROM moved m WHERE d.transaction_id = m.transaction_id AND d.kind = 'advice' AND d.state = 'open' RETURNING d.transaction_id
"""
STATE_OF = {"ack": "APPROVED", "declined": "DECLINED", "not_found": "DECLINED"}


def _close_reversal(ended: Ended, close: Close) -> tuple[Any, ...]:
    return ended.transaction_id, close.by, ended.code


def _close_advice(ended: Ended, close: Close) -> tuple[Any, ...]:
    message, sent_at, reason, advice, _, acquirer_rrn = ended.answered
    return ended.transaction_id, close.by, ended.code, STATE_OF[close.by], *_alert(ended), message, sent_at, reason, advice, acquirer_rrn


def _query(ended: Ended) -> tuple[str, tuple[Any, ...]]:
    match ended.decision:
        case Close() as close:
            return CLOSE_QUERIES, (ended.transaction_id, close.by, ended.code, STATE_OF[close.by], *ended.answered)
        case Again() as again:
            return ASK_AGAIN, (ended.transaction_id, ended.leased_until, ended.code, again.at, again.not_found_at, again.sent)
        case Park():
            raise AssertionError("a query is never parked")


def _again(ended: Ended, again: Again) -> tuple[Any, ...]:
    return ended.transaction_id, ended.kind, ended.leased_until, ended.code, *again


def _park(ended: Ended, park: Park) -> tuple[Any, ...]:
    return ended.transaction_id, ended.leased_until, park.reason, ended.code, *_alert(ended)


def _alert(ended: Ended) -> tuple[str, UUID]:
    """Its object, and the id of its row if there will be one."""
    return show("transaction", ended.transaction_id), uuid7(time.time_ns() // 1_000_000, os.urandom(10))


def _written(ended: Ended) -> tuple[str, tuple[Any, ...]]:
    """The statement and the row for it."""
    if ended.kind == "query":
        return _query(ended)
    match ended.decision:
        case Close() as close:
            return (CLOSE_REVERSALS, _close_reversal(ended, close)) if ended.kind == "reversal" else (CLOSE_ADVICES, _close_advice(ended, close))
        case Again() as again:
            return AGAIN, _again(ended, again)
        case Park() as park:
            return PARK_REVERSALS if ended.kind == "reversal" else PARK_ADVICES, _park(ended, park)


def _locked_first(ended: Ended) -> Iterator[UUID]:
    if ended.original_id is not None:
        yield ended.original_id
    if isinstance(ended.decision, Close) and ended.decision.event is Event.NOT_FOUND:
        yield ended.transaction_id


async def run_ended(connection: Connection, batch: Sequence[Ended], doubtful: bool) -> list[bool]:
    """One commit for all of them; whether each moved its row. Run again after a doubtful commit it changes nothing more.

    A row that did not move was another worker's, or closed already: what stands in the books is obeyed.
    """
    await failpoint_held("rev.acked_uncommitted")
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for ended in batch:
        statement, row = _written(ended)
        rows.setdefault(statement, []).append(row)
    moved: set[UUID] = set()
    first = sorted({identity for ended in batch for identity in _locked_first(ended)})
    if len(rows) == 1 and not first:
        ((statement, values),) = rows.items()
        moved |= {row[0] for row in await connection.fetch(statement, *zip(*values, strict=True))}
    else:
        async with connection.transaction():
            if first:
                await connection.execute(LOCK_FIRST, first)
            for statement, values in rows.items():
                moved |= {row[0] for row in await connection.fetch(statement, *zip(*values, strict=True))}
    return [ended.transaction_id in moved for ended in batch]
