"""Intents of follow-ups: the key, the row and what it reserves of its original in one commit, judged with the original locked.

Originals are locked first and in the order of their ids, here and in every statement that moves a follow-up (journal.LOCK_FIRST).
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch.clock import clock
from switch.database import INTENT_PLANS, Connection
from switch.failpoints import failpoint, failpoint_held
from switch.payments import verbs
from switch.payments.journal import INTENT_COLUMNS, TICK_S, Claim, Duty, intent_values
from switch.payments.lane import Lane
from switch.payments.transaction import SENT, Transaction
from switch.payments.verbs import Follower, Refusal

INTENTS_MAX = 1024


class FollowUp(NamedTuple):
    """A follow-up, or an offline sale, to be claimed for its key. `duty`: an advice's repeats, owed from the first commit on;
    `sent`: its first copy leaves as soon as this is durable; `stood_in_for`: a sale that takes its part of a day's limit (migrations r0024)."""

    transaction: Transaction
    route: str
    fingerprint: bytes
    open_day: date
    final: bool = False
    approval_code: str | None = None
    duty: Duty | None = None
    sent: bool = False
    stood_in_for: bool = False


_locked = ", ".join(field.name for field in fields(Transaction))
ORIGINALS = f"SELECT {_locked} FROM transaction WHERE transaction_id = ANY($1::uuid[]) ORDER BY transaction_id FOR NO KEY UPDATE"
FOLLOWERS = """SELECT original_id, transaction_id, type, state, amount, idempotency_key IS NULL AS automatic, business_date, received_at
FROM transaction t JOIN unnest($1::uuid[], $2::uuid[]) AS o(merchant_id, original_id) USING (merchant_id, original_id)"""
KNOWN = """SELECT k.merchant_id, k.caller, k.idempotency_key, k.transaction_id FROM idempotency k
JOIN unnest($1::uuid[], $2::uuid[], $3::text[]) AS asked(merchant_id, caller, idempotency_key) USING (merchant_id, caller, idempotency_key)"""
_columns = ", ".join(INTENT_COLUMNS)
# The trigger transaction_follow_up_intent reserves on the original; a key that another commit took first gives no row.
WRITE = f"""
WITH asked AS (
    SELECT * FROM unnest($1::intent_row[]) JOIN unnest($2::uuid[], $3::boolean[], $4::text[]) AS more(transaction_id, final_capture, approval_code)
      USING (transaction_id)
), claimed AS (
    INSERT INTO idempotency (merchant_id, caller, idempotency_key, route, fingerprint, transaction_id)
    SELECT merchant_id, caller, idempotency_key, route, fingerprint, transaction_id FROM asked
    ORDER BY merchant_id, caller, idempotency_key
    ON CONFLICT (merchant_id, caller, idempotency_key) DO NOTHING RETURNING transaction_id
)
INSERT INTO transaction ({_columns}, final_capture, approval_code, state)
SELECT {_columns}, final_capture, approval_code, 'SENT' FROM asked JOIN claimed USING (transaction_id)
RETURNING transaction_id, intent_at
"""
DUTIES = """
INSERT INTO duty (merchant_id, transaction_id, acquirer_id, kind, cause, stan, transmitted_at, match_key, next_attempt_at, leased_until,
                  transmissions, first_sent_at, last_sent_at)
SELECT d.merchant_id, d.transaction_id, d.acquirer_id, d.kind, d.cause, d.stan, d.transmitted_at, d.match_key, d.next_attempt_at,
  CASE WHEN s.sent THEN d.next_attempt_at END, s.sent::int, CASE WHEN s.sent THEN now() END, CASE WHEN s.sent THEN now() END
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[])
  WITH ORDINALITY AS d(merchant_id, transaction_id, acquirer_id, kind, cause, stan, transmitted_at, match_key, next_attempt_at, n)
JOIN unnest($10::boolean[]) WITH ORDINALITY AS s(sent, n) USING (n)
"""


# A sale that looks like one that stands is asked of its acquirer or not made: twice is likelier here, and nobody else would notice.
TWIN = """SELECT EXISTS (SELECT FROM transaction t WHERE t.pan_token = $1 AND t.amount = $2 AND t.terminal_id = $3 AND t.state IN ('SENT', 'APPROVED')
  AND t.received_at > $4::timestamptz - interval '5 minutes' AND t.transaction_id <> $5)"""
STAND_IN = "INSERT INTO stand_in (merchant_id, transaction_id, terms) VALUES ($1, $2, 0)"


async def run(connection: Connection, follow_ups: Sequence[FollowUp], doubtful: bool) -> list[Claim | Refusal]:
    """A verdict each, in order; what was accepted is durable. A limit that only the database saw is a Refusal too."""
    try:
        async with connection.transaction():
            verdicts = await _judge_and_write(connection, follow_ups)
            await failpoint_held("t1.before_commit")
        failpoint("t1.after_commit")
        return verdicts
    except asyncpg.CheckViolationError as error:
        code = verbs.CODE_OF.get(error.constraint_name or "")
        if len(follow_ups) > 1 or code is None:
            raise  # the lane tries them one by one
        return [Refusal(code, error.constraint_name or "" if code == "acquirer_unavailable" else "")]


async def _judge_and_write(connection: Connection, follow_ups: Sequence[FollowUp]) -> list[Claim | Refusal]:
    rows = [follow_up.transaction for follow_up in follow_ups]
    originals = await _originals(connection, rows)
    followers = await _followers(connection, list(originals.values()))
    known = {tuple(row)[:3]: row[3] for row in await connection.fetch(
        KNOWN, [row.merchant_id for row in rows], [row.caller for row in rows], [row.idempotency_key for row in rows])}
    verdicts: dict[UUID, Claim | Refusal] = {}
    accepted: list[FollowUp] = []
    for follow_up in follow_ups:
        row = follow_up.transaction
        taken = known.get((row.merchant_id, row.caller, row.idempotency_key))
        if taken is not None or (row.merchant_id, row.caller, row.idempotency_key) in known:
            verdicts[row.transaction_id] = Claim.OURS if taken == row.transaction_id else Claim.DUPLICATE
            continue
        refused = await _doubled(connection, row) if follow_up.stood_in_for else _refused(follow_up, originals, followers)
        if refused is not None:
            verdicts[row.transaction_id] = refused
        else:
            accepted.append(follow_up)
    written = await _write(connection, accepted)
    for follow_up in accepted:
        intent_at = written.get(follow_up.transaction.transaction_id)
        follow_up.transaction.intent_at = intent_at
        verdicts[follow_up.transaction.transaction_id] = Claim.DUPLICATE if intent_at is None else Claim.OURS
    return [verdicts[row.transaction_id] for row in rows]


async def _originals(connection: Connection, rows: Sequence[Transaction]) -> dict[UUID, Transaction]:
    wanted = sorted({row.original_id for row in rows if row.original_id is not None})
    found = await connection.fetch(ORIGINALS, wanted) if wanted else []
    return {row["transaction_id"]: Transaction(**dict(row)) for row in found}


async def _followers(connection: Connection, originals: Sequence[Transaction]) -> dict[UUID, list[Follower]]:
    found: dict[UUID, list[Follower]] = {original.transaction_id: [] for original in originals}
    if originals:
        for row in await connection.fetch(FOLLOWERS, [o.merchant_id for o in originals], [o.transaction_id for o in originals]):
            found[row[0]].append(Follower(*tuple(row)[1:]))
    return found


async def _doubled(connection: Connection, row: Transaction) -> Refusal | None:
    doubled = await connection.fetchval(TWIN, row.pan_token, row.amount, row.terminal_id, row.received_at, row.transaction_id)
    return Refusal("acquirer_unavailable", "possible_duplicate") if doubled else None


def _refused(follow_up: FollowUp, originals: dict[UUID, Transaction], followers: dict[UUID, list[Follower]]) -> Refusal | None:
    row = follow_up.transaction
    if row.original_id is None:
        return None
    original, so_far = originals[row.original_id], followers[row.original_id]
    refused = verbs.refusal(row.type, original, so_far, row.amount, follow_up.open_day, clock.now())
    if refused is None:
        added = Follower(row.transaction_id, row.type, SENT, row.amount, False, row.business_date, row.received_at)
        so_far.append(added)
        verbs.reserve(original, added)
    return refused


async def _write(connection: Connection, accepted: Sequence[FollowUp]) -> dict[UUID, datetime]:
    if not accepted:
        return {}
    steps = [(*intent_values(each.transaction), each.route, each.fingerprint, False) for each in accepted]
    rows = await connection.fetch(WRITE, steps, [each.transaction.transaction_id for each in accepted], [each.final for each in accepted],
                                  [each.approval_code for each in accepted])
    written = {row[0]: row[1] for row in rows}
    owed = [each for each in accepted if each.duty is not None and each.transaction.transaction_id in written]
    if owed:
        duties = [each.duty for each in owed if each.duty is not None]
        await connection.execute(DUTIES, *zip(*duties, strict=True), [each.sent for each in owed])
    stood_in = [each.transaction for each in accepted if each.stood_in_for and each.transaction.transaction_id in written]
    for row in sorted(stood_in, key=_day):
        await connection.execute(STAND_IN, row.merchant_id, row.transaction_id)
    return written


def _day(row: Transaction) -> tuple[str, ...]:
    """Rows of days are locked in this order, after the keys."""
    return str(row.acquirer_id), row.business_date.isoformat(), str(row.merchant_id), row.brand, row.currency, str(row.transaction_id)


def key_of(follow_up: FollowUp) -> Hashable:
    """Two of one key are judged one after the other: the second finds the first."""
    row = follow_up.transaction
    return row.merchant_id, row.caller, row.idempotency_key


class Reservations:
    """The lane of these intents, beside the journal's: a refused follow-up never makes sales go one by one."""

    def __init__(self, connect: Callable[[dict[str, str]], Awaitable[Connection]], on_late: Callable[[FollowUp], None]) -> None:
        """`on_late` gets an intent that may have become durable after its walk had ended."""
        self.lane = Lane("follow_up", lambda: connect(INTENT_PLANS), INTENTS_MAX, Claim.UNAVAILABLE, Claim.UNAVAILABLE, Claim.REFUSED, run, on_late,
                         lambda follow_up: follow_up.transaction.transaction_id, lambda follow_up: (key_of(follow_up),))
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        await self.lane.open()
        self.tasks = [loop.create_task(self.lane.work()), loop.create_task(self._tick())]

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.lane.expire(asyncio.get_running_loop().time())

    def intent(self, follow_up: FollowUp, deadline: float) -> "asyncio.Future[Claim | Refusal]":
        """Durable claim of a key with its reservation. `deadline`: loop time after which the answer is UNAVAILABLE."""
        return self.lane.submit(follow_up, deadline)

    async def stop(self) -> None:
        """Writes what is queued, then ends. Bounded by the caller."""
        self.lane.stopping = True
        self.lane.wake.set()
        await asyncio.gather(*self.tasks[:1])
        self.tasks[1].cancel()
        with suppress(OSError):
            if self.lane.connection is not None:
                await self.lane.connection.close(timeout=2)
