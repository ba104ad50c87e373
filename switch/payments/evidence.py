"""Answers that match no waiting request: late, twice, wrong. Every one is recorded; what it proves may open or hasten a reversal."""

import asyncio
import contextlib
import json
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from messages.dialect import Dialect, answer_fault, differing_field, match_key
from messages.masking import mask
from switch import alerts, logs, metrics
from switch.background import Background
from switch.database import UNKNOWN, Pool
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import lowest, show
from switch.links.acquirer import Unmatched
from switch.money import CURRENCIES
from switch.payments import translation
from switch.payments.authorization import Authorizations
from switch.payments.history import History
from switch.payments.journal import Written
from switch.payments.transaction import REVERSING, SENT, Event, Transaction, step
from switch.records import Acquirer

QUEUE_MAX = 1000
STOP_S = 1.0
PAUSES_S = (0.1, 0.4, 1.0, 2.0, 5.0, 10.0)  # while the database is away
REFUSED_FOR_GOOD = ("22", "23")  # classes of SQLSTATE: a value that the database does not take; one that the driver cannot encode is a ValueError
AWAY = (*UNKNOWN, asyncpg.PostgresError, Problem)
DECIDED_WITHIN_S = 30  # beyond the acquirer's time: commits that are in doubt, and the recovery of a worker that died

RECORD = """INSERT INTO unmatched_answer (acquirer_id, received_at, reason, field, transaction_id, message, detail)
VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7)"""
FIND = "SELECT transaction_id FROM transaction WHERE acquirer_id = $1 AND rrn = $2 ORDER BY business_date DESC LIMIT 4"
# Where the host gives DE37: its answer is found by the key of what is still open.
FIND_OPEN = "SELECT transaction_id FROM open_exchange WHERE acquirer_id = $1 AND match_key = $2"
# Of what is closed, whose key may have been used again since: among those that were made just before the request left.
FIND_NEAR = """SELECT transaction_id FROM transaction WHERE transaction_id >= $3 AND transaction_id < $4 AND acquirer_id = $1 AND match_key = $2
ORDER BY transaction_id DESC LIMIT 1"""
EVENT = "INSERT INTO transaction_event (merchant_id, transaction_id, kind, detail) VALUES ($1, $2, $3, $4::jsonb)"
# An approval that comes while its reversal waits: what "not found" had proven is proven no more. No row: it was closed by a moment, and "not found"
# may have closed it.
EXPEDITE = """
WITH held AS (SELECT t.transaction_id FROM transaction t WHERE t.transaction_id = $1 AND t.state = 'REVERSING' FOR NO KEY UPDATE)
UPDATE duty d SET next_attempt_at = least(d.next_attempt_at, now()), not_found_at = CASE WHEN $2 THEN NULL ELSE d.not_found_at END
FROM held WHERE d.transaction_id = held.transaction_id AND d.state = 'open' RETURNING true"""


class Evidence:
    """Takes what the links could not match. The queue is bounded: a flood from a host costs records, not memory."""

    def __init__(self, pool: Pool, directory: Directory, history: History, authorizations: Authorizations,
                 alarm: alerts.Alerts) -> None:
        self.pool, self.directory, self.history, self.authorizations, self.alarm = pool, directory, history, authorizations, alarm
        self.queue: asyncio.Queue[Unmatched] = asyncio.Queue(QUEUE_MAX)
        self.undecided = Background()  # second answers whose first one is being written

    def take(self, unmatched: Unmatched) -> None:
        """Called by the link, from the loop; never waits."""
        metrics.unmatched_answers.labels(unmatched.reason).inc()
        try:
            self.queue.put_nowait(unmatched)
        except asyncio.QueueFull:
            metrics.unmatched_answers.labels("not_recorded").inc()

    async def work(self) -> None:
        """Until cancelled."""
        while True:
            unmatched = await self.queue.get()
            for pause_s in (*PAUSES_S, None):
                try:
                    await self._consider(unmatched)
                    break
                except AWAY as error:
                    if pause_s is None or isinstance(error, ValueError) or (getattr(error, "sqlstate", None) or "")[:2] in REFUSED_FOR_GOOD:
                        logs.warning("answer_not_recorded", reason=unmatched.reason, error=type(error).__name__)
                        break
                    await asyncio.sleep(pause_s)

    async def stop(self) -> None:
        """What was said twice is held against what stands, as far as it is decided by now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await asyncio.gather(*self.undecided.tasks)
        await self.undecided.end()

    async def _consider(self, unmatched: Unmatched) -> None:
        acquirer = self.directory.acquirers[UUID(unmatched.acquirer_id)]
        message = unmatched.message
        shown = json.dumps(mask(acquirer.dialect, message)).replace("\\u0000", "") if message is not None else None
        transaction, field = (await self._open(unmatched), None) if message is None else (
            await self._transaction(acquirer, message, unmatched.sent_at))
        field = unmatched.field or field
        await self.pool.execute(RECORD, acquirer.acquirer_id, unmatched.received_at, unmatched.reason, field,
                                transaction.transaction_id if transaction else None, shown, unmatched.fault)
        logs.warning("unmatched_answer", acquirer=acquirer.name, reason=unmatched.reason, field=field, detail=unmatched.fault,
                     transaction_id=transaction.transaction_id if transaction else None)
        if unmatched.reason == "bad_mac":
            await self.alarm.raise_("mac_fault", show("acquirer", acquirer.acquirer_id))
        if unmatched.reason == "not_authentic":
            await self.alarm.raise_("answer_not_authentic", show("acquirer", acquirer.acquirer_id))
        if transaction is not None and message is not None and unmatched.reason in ("late", "duplicate", "no_request"):
            await self._apply(acquirer, transaction, message, unmatched.reason)

    async def _open(self, unmatched: Unmatched) -> Transaction | None:
        """What an answer was to answer that is not believed, where its key is known."""
        if unmatched.match_key is None:
            return None
        rows = await self.pool.fetch(FIND_OPEN, UUID(unmatched.acquirer_id), unmatched.match_key)
        return await self.history.transaction(rows[0][0]) if rows else None

    async def _transaction(self, acquirer: Acquirer, message: dict[str, str], sent_at: datetime | None) -> tuple[Transaction | None, str | None]:
        """The stored request that this message answers: found by RRN, proven by the whole match key. With the field that makes it no answer
        to it, or that differs from the request that it is nearest to: the line that sent it may be another one, or gone."""
        differing = None
        key = match_key(acquirer.dialect, message)
        if "37" not in acquirer.dialect.match["*"]:
            rows = await self.pool.fetch(FIND_OPEN, acquirer.acquirer_id, key)
            if not rows and sent_at is not None:
                first, end = lowest(sent_at - timedelta(seconds=acquirer.answer_timeout_s)), lowest(sent_at + timedelta(milliseconds=1))
                rows = await self.pool.fetch(FIND_NEAR, acquirer.acquirer_id, key, first, end)
        else:
            rows = await self.pool.fetch(FIND, acquirer.acquirer_id, message["37"]) if message.get("37") else []
        for row in rows:
            transaction = await self.history.transaction(row[0])
            if transaction is not None and transaction.match_key == key:
                return transaction, answer_fault(acquirer.dialect, held(transaction, acquirer.dialect), message)
            if transaction is not None and differing is None and transaction.mti[1] == message["0"][1]:
                differing = differing_field(acquirer.dialect, request_of(transaction), message)
        return None, differing

    async def _apply(self, acquirer: Acquirer, transaction: Transaction, message: dict[str, str], reason: str) -> None:
        fault = answer_fault(acquirer.dialect, held(transaction, acquirer.dialect), message)
        if fault is not None or not translation.is_answer_to(transaction, message):
            return
        verdict = translation.verdict(transaction, acquirer.dialect, message)
        with contextlib.suppress(*AWAY):
            await self.pool.execute(EVENT, transaction.merchant_id, transaction.transaction_id, f"{reason}_answer",
                                    alerts.detail(response_code=verdict.response_code, approval_code=verdict.approval_code))
            if transaction.state != SENT:
                await self._hold_against(transaction, verdict.event)
                return
        if len(self.undecided.tasks) < QUEUE_MAX:
            self.undecided.later(self._once_decided(transaction.transaction_id, verdict.event, acquirer.answer_timeout_s + DECIDED_WITHIN_S))
        else:
            metrics.unmatched_answers.labels("not_recorded").inc()

    async def _once_decided(self, transaction_id: UUID, event: Event, within_s: float) -> None:
        """A second answer that came while the first was being written: it may say the opposite. What is never decided recovery reverses. Or an
        answer whose meaning could not be written at once."""
        for waits_s in (*(0.02 * 2**at for at in range(6)), *[1.0] * int(within_s)):
            await asyncio.sleep(waits_s)
            with contextlib.suppress(*AWAY):  # looked at again, as long as it takes
                transaction = await self.history.transaction(transaction_id)
                if transaction is not None and transaction.state != SENT:
                    await self._hold_against(transaction, event)
                    return
        logs.warning("answer_not_held_against", transaction_id=transaction_id)

    async def _hold_against(self, transaction: Transaction, said: Event) -> None:
        """What an answer means beside what stands: a reversal, a hastened one, an alert, or nothing. Raises Problem not_ready and what UNKNOWN
        lists."""
        duty = await self.history.duty(transaction.transaction_id)
        event = Event.APPROVE if said is Event.PARTIAL_REFUSED else said
        after = step(transaction.state, event, transaction.exchange, duty.closed_by if duty else None)
        if after.state == REVERSING and transaction.state != REVERSING:
            if await self.authorizations.undo(transaction, event, duty.closed_by if duty else None) is not Written.OURS:
                raise Problem("not_ready")
        elif after.duty == "expedite":
            if not await self.pool.fetchval(EXPEDITE, transaction.transaction_id, event is Event.APPROVE):
                raise Problem("not_ready")
        elif after.alert:
            await self.alarm.raise_(after.alert, show("transaction", transaction.transaction_id))


def held(transaction: Transaction, dialect: Dialect) -> dict[str, str]:
    """What an answer is held against. A DE41 or DE42 that the dialect composes, in another width, is not in the row as it was sent."""
    return {number: value for number, value in request_of(transaction).items() if number not in ("41", "42") or number not in dialect.composed}


def request_of(transaction: Transaction) -> dict[str, str]:
    """What of a stored request its answer repeats."""
    return {"0": transaction.mti, "3": transaction.processing_code, "4": f"{transaction.amount:012d}", "7": transaction.transmitted_at,
            "11": transaction.stan, "37": transaction.rrn, "41": transaction.card_acceptor_terminal, "42": transaction.card_acceptor,
            "49": CURRENCIES[transaction.currency][0]}
