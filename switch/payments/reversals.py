"""Duties, stored and forwarded: reversals until acknowledged, advices until answered. Built from the stored row alone."""

import asyncio
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from messages.dialect import repeat_mti
from switch import alerts, logs, metrics
from switch.database import UNKNOWN, Pool
from switch.directory import Acquirer, Directory
from switch.errors import Problem
from switch.ids import show
from switch.links.acquirer import AcquirerLink, Bounced, Reply, Silence
from switch.payments import translation
from switch.payments.history import History
from switch.payments.transaction import Event, Transaction, step
from switch.security.vault import Vault, VaultError

POLL_S = 0.25
AT_ONCE_MAX = 64
BACKOFF_MAX_S = 60.0
LEASE_MARGIN_S = 5.0
SEND_WITHIN_S = 2.0
NOT_FOUND_SETTLE_S = 60.0  # "not found" closes a reversal only this long after its original could still have arrived

# Counted and leased before the write, so that after a crash the next transmission knows that it is a repeat.
TAKE = """
WITH due AS (
    SELECT transaction_id FROM duty WHERE state = 'open' AND acquirer_id = ANY($1::uuid[]) AND next_attempt_at <= now()
    ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE duty d SET next_attempt_at = now() + $3, transmissions = d.transmissions + 1,
  first_sent_at = coalesce(d.first_sent_at, now()), last_sent_at = now()
FROM due WHERE d.transaction_id = due.transaction_id
RETURNING d.transaction_id, d.acquirer_id, d.kind, d.cause, d.stan, d.transmitted_at, d.transmissions, d.not_found_at
"""
# A cancellation may turn an advice into a reversal while the advice is on its way: what comes of the one never touches the other.
AGAIN = """UPDATE duty SET next_attempt_at = $2, last_code = coalesce($3, last_code), not_found_at = coalesce(not_found_at, $4)
WHERE transaction_id = $1 AND state = 'open' AND kind = $5"""
NOT_SENT = """UPDATE duty SET next_attempt_at = $2, transmissions = greatest(transmissions - 1, 0)
WHERE transaction_id = $1 AND state = 'open' AND kind = $3"""
CLOSE_REVERSAL = """
WITH closed AS (
    UPDATE duty SET state = 'done', closed_at = now(), closed_by = $2, last_code = $3
    WHERE transaction_id = $1 AND state = 'open' AND kind = 'reversal' RETURNING transaction_id
)
UPDATE transaction t SET state = $4, version = t.version + 1, captured = 0 FROM closed c
WHERE t.transaction_id = c.transaction_id AND t.state IN ('REVERSING', 'PARKED') RETURNING 1
"""
CLOSE_ADVICE = """
WITH closed AS (
    UPDATE duty SET state = 'done', closed_at = now(), closed_by = $2, last_code = $3::text
    WHERE transaction_id = $1 AND state = 'open' AND kind = 'advice' RETURNING transaction_id
)
UPDATE transaction t SET state = $4::text, version = t.version + 1, outcome = $4::text, outcome_at = now(), answered_at = now(),
  response_code = $3::text, approved_amount = CASE WHEN $4::text = 'APPROVED' THEN t.amount ELSE 0 END, answer_message = $5,
  sent_at = coalesce(t.sent_at, $6), reason = $7, advice = $8, (authorised, capturable, captured) = (
    SELECT m, m, m FROM (SELECT CASE WHEN $4::text = 'APPROVED' AND t.type = 'offline_sale' THEN t.amount ELSE 0 END) booked(m))
FROM closed c WHERE t.transaction_id = c.transaction_id AND t.state = 'SENT' RETURNING 1
"""
# The original before its follow-up, and both before the duty: the order of every statement that moves them.
LOCK_FIRST = """SELECT 1 FROM transaction WHERE transaction_id = ANY($1::uuid[]) ORDER BY original_id IS NOT NULL, transaction_id
FOR NO KEY UPDATE"""
OPEN = "SELECT count(*) FROM duty WHERE state = 'open' AND kind = 'reversal'"


class Taken(NamedTuple):
    transaction_id: UUID
    acquirer_id: UUID
    kind: str
    cause: str
    stan: str
    transmitted_at: str
    transmissions: int
    not_found_at: datetime | None


class Reversals:
    """The worker that fulfils duties. Any number of workers may run; a row is taken by one at a time."""

    def __init__(self, pool: Pool, directory: Directory, history: History, vault: Vault,
                 links: Mapping[UUID, AcquirerLink], alarm: alerts.Alerts) -> None:
        self.pool, self.directory, self.history, self.vault, self.links, self.alarm = pool, directory, history, vault, links, alarm
        self.at_work: set[asyncio.Task[None]] = set()

    async def work(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self._take_due()
                metrics.reversals_open.set(await self.pool.fetchval(OPEN))
            except (*UNKNOWN, asyncpg.PostgresError) as error:
                logs.warning("duties_not_read", error=type(error).__name__)
                await asyncio.sleep(1)

    async def _take_due(self) -> None:
        usable = [acquirer_id for acquirer_id, link in self.links.items() if link.usable() and acquirer_id in self.directory.acquirers]
        room = AT_ONCE_MAX - len(self.at_work)
        if not usable or room <= 0:
            return
        longest = max(self.directory.acquirers[acquirer_id].answer_timeout_s for acquirer_id in usable)
        for row in await self.pool.fetch(TAKE, usable, room, timedelta(seconds=longest + LEASE_MARGIN_S)):
            task = asyncio.get_running_loop().create_task(self._fulfil(Taken(*row)))
            self.at_work.add(task)
            task.add_done_callback(self.at_work.discard)

    async def _fulfil(self, taken: Taken) -> None:
        acquirer, link = self.directory.acquirers[taken.acquirer_id], self.links[taken.acquirer_id]
        try:
            transaction = await self.history.transaction(taken.transaction_id)
            assert transaction is not None
            message = await self._message(taken, transaction, acquirer)
            if message is None:
                return
            now = asyncio.get_running_loop().time()
            result = await link.request(message, send_not_after=now + SEND_WITHIN_S, deadline=now + acquirer.answer_timeout_s)
            metrics.reversals.labels("sent" if not isinstance(result, Bounced) else "bounced").inc()
            await self.settle(taken, transaction, acquirer, result)
        except (*UNKNOWN, asyncpg.PostgresError, Problem) as error:  # its lease ends by itself, and it is sent again
            logs.warning("duty_interrupted", transaction_id=taken.transaction_id, error=type(error).__name__)

    async def _message(self, taken: Taken, transaction: Transaction, acquirer: Acquirer) -> dict[str, str] | None:
        try:
            pan, expiry = self.vault.open(transaction.pan_key, transaction.pan_sealed, transaction.transaction_id.bytes,
                                          transaction.pan_sealed_on)
        except VaultError as error:
            logs.error("card_unreadable", transaction_id=taken.transaction_id, code=error.code)
            await self.alarm.raise_("unreadable_card", show("transaction", taken.transaction_id))
            return None
        if taken.kind == "reversal":
            message = translation.reversal(transaction, acquirer.dialect, pan, expiry, taken.stan, taken.transmitted_at)
        else:
            original = await self.history.transaction(transaction.original_id) if transaction.original_id is not None else None
            message = translation.follow_up(transaction, original, acquirer.dialect, pan, expiry)
        if taken.transmissions > 1:
            message["0"] = repeat_mti(message["0"])
        return message

    async def settle(self, taken: Taken, transaction: Transaction, acquirer: Acquirer, result: Reply | Bounced | Silence) -> None:
        """What one transmission came to, written down."""
        now = datetime.now(UTC)
        if isinstance(result, Bounced):
            await self.pool.execute(NOT_SENT, taken.transaction_id, now + timedelta(seconds=1), taken.kind)
        elif isinstance(result, Silence):
            await self._again(taken, now, None, None)
        elif taken.kind == "reversal":
            await self._reversal_answered(taken, transaction, acquirer, result, now)
        else:
            await self._advice_answered(taken, transaction, acquirer, result, now)

    async def _reversal_answered(self, taken: Taken, transaction: Transaction, acquirer: Acquirer, reply: Reply, now: datetime) -> None:
        code = reply.message["39"].strip()
        meaning = acquirer.dialect.reversal_codes.get(code)
        settled_at = transaction.send_not_after + timedelta(seconds=acquirer.answer_timeout_s + NOT_FOUND_SETTLE_S)
        if meaning == "not_found" and (taken.not_found_at is None or now < settled_at):
            await self._again(taken, now, code, now, settled_at)
        elif meaning is None:
            await self._again(taken, now, code, None)
        else:
            event = Event.ACKNOWLEDGED if meaning == "acknowledged" else Event.NOT_FOUND
            state = step(transaction.state, event, transaction.exchange).state
            closed_by = "ack" if event is Event.ACKNOWLEDGED else "not_found"
            if await self._close(transaction, CLOSE_REVERSAL, closed_by, code, state):
                metrics.reversals.labels(closed_by).inc()
                logs.info("reversed", transaction_id=taken.transaction_id, reason=closed_by, attempt=taken.transmissions)

    async def _advice_answered(self, taken: Taken, transaction: Transaction, acquirer: Acquirer, reply: Reply, now: datetime) -> None:
        verdict = translation.verdict(transaction, acquirer.dialect, reply.message)
        after = step(transaction.state, verdict.event, transaction.exchange)
        if after.state == transaction.state:  # doubt: an advice is repeated until it is answered
            await self._again(taken, now, verdict.response_code, None)
            return
        closed_by = "ack" if verdict.event is Event.APPROVE else "declined"
        if await self._close(transaction, CLOSE_ADVICE, closed_by, verdict.response_code, after.state, verdict.message, reply.sent_at,
                             verdict.reason, verdict.advice) and verdict.event is Event.DECLINE:
            kind = "capture_declined" if transaction.type == "capture" else "advice_declined"
            await self.alarm.raise_(kind, show("transaction", taken.transaction_id))

    async def _close(self, transaction: Transaction, statement: str, *arguments: object) -> bool:
        if transaction.original_id is None:
            return bool(await self.pool.fetchval(statement, transaction.transaction_id, *arguments))
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(LOCK_FIRST, [transaction.original_id, transaction.transaction_id])
            return bool(await connection.fetchval(statement, transaction.transaction_id, *arguments))

    async def _again(self, taken: Taken, now: datetime, code: str | None, not_found_at: datetime | None,
                     not_before: datetime | None = None) -> None:
        """Another transmission after a full-jitter backoff, for "not found" not before the original can no longer arrive."""
        pause = timedelta(seconds=0.5 + random.random() * min(BACKOFF_MAX_S, 2.0 ** min(taken.transmissions, 10)))
        at = max(now + pause, not_before) if not_before is not None else now + pause
        await self.pool.execute(AGAIN, taken.transaction_id, at, code, not_found_at, taken.kind)
