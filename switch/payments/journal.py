"""The durable journal: what is written of a walk, by one lane per statement kind (lane.py).

Rules: an error on COMMIT means unknown, and is resolved by running the same idempotent statement again on a new
connection, which waits on the unique index or the row lock until the old backend has decided. Other errors give each row its own verdict.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from datetime import datetime
from enum import Enum
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from switch import metrics
from switch.database import INTENT_PLANS, OUTCOME_PLANS, Connection
from switch.failpoints import failpoint, failpoint_held
from switch.payments.lane import Lane
from switch.payments.transaction import Transaction

INTENTS_MAX = 2048
TICK_S = 0.05

class Intent(NamedTuple):
    """A transaction to be claimed for its idempotency key. `refuse_duplicate`: the merchant's duplicate policy."""

    transaction: Transaction
    route: str
    fingerprint: bytes
    refuse_duplicate: bool


class Claim(Enum):
    OURS = "ours"
    DUPLICATE = "duplicate"  # the key is somebody's: read what is stored
    POSSIBLE_DUPLICATE = "possible_duplicate"  # refused by the merchant's policy; nothing written, the key stays free
    REFUSED = "refused"  # the database refused this very row
    UNAVAILABLE = "unavailable"  # not durable in time, or not known: nothing may be sent


class Duty(NamedTuple):
    """What a transaction owes, with the numbers of its own message, fixed before the first transmission."""

    merchant_id: UUID
    transaction_id: UUID
    acquirer_id: UUID
    kind: str
    cause: str
    stan: str
    transmitted_at: str
    match_key: str
    next_attempt_at: datetime


class Outcome(NamedTuple):
    """A step of one life: compare-and-set from (state, version) to what `transaction` now says, with what is owed for it."""

    transaction: Transaction
    from_state: str
    duty: Duty | None = None
    created: Intent | None = None  # a capture that this outcome brings about, with its own duty; or the next attempt at the sale
    created_duty: Duty | None = None
    event: tuple[str, str] | None = None  # kind, detail as JSON


class Written(Enum):
    OURS = "ours"
    LOST = "lost"  # somebody else moved the row first: read it and obey
    REFUSED = "refused"
    UNKNOWN = "unknown"  # not known to be durable in time: the terminal is told pending, and nobody may approve any more


# Columns written by an intent, in the order of the type intent_row, which goes on with route, fingerprint, refuse. Rows travel as an array
# of that composite: a third of the CPU of one array per column, on both sides.
INTENT_COLUMNS = (
    "merchant_id", "transaction_id", "type", "exchange", "original_id", "store_id", "terminal_id", "caller", "idempotency_key", "acquirer_id",
    "business_date", "worker_epoch", "amount", "currency", "tip_amount", "cashback_amount", "capture_method", "partial_approval", "entry_mode",
    "masked_pan", "card_last4", "brand", "pan_token", "pan_token_key", "pan_sealed", "pan_key", "pan_sealed_on", "card_sequence_number", "emv",
    "mti", "processing_code", "stan", "transmitted_at", "local_time", "local_date", "pos_entry_mode", "pos_condition", "rrn",
    "card_acceptor_terminal", "card_acceptor", "mcc", "match_key", "received_at", "send_not_after", "respond_by", "request_message",
    "terminal_trace", "reference",
    "same_trace",
)
_columns = ", ".join(INTENT_COLUMNS)
intent_values = attrgetter(*INTENT_COLUMNS)

# One round trip: who looks like a sale that already stands, who gets the key, and the row itself. A key that is taken gives no row.
INTENTS = f"""
WITH asked AS (
    SELECT * FROM unnest($1::intent_row[])
), judged AS MATERIALIZED (
    SELECT asked.*, coalesce(
        (SELECT t.transaction_id FROM transaction t WHERE t.same_trace = asked.same_trace
          AND t.idempotency_key <> asked.idempotency_key AND t.state IN ('SENT', 'APPROVED')
          AND t.received_at > asked.received_at - interval '1 day' LIMIT 1),
        (SELECT t.transaction_id FROM transaction t WHERE t.pan_token = asked.pan_token AND t.amount = asked.amount AND t.currency = asked.currency
          AND t.received_at > asked.received_at - interval '5 minutes' AND t.terminal_id = asked.terminal_id
          AND t.idempotency_key <> asked.idempotency_key AND t.state IN ('SENT', 'APPROVED') AND asked.amount > 0 LIMIT 1)
    ) AS possible_duplicate_of FROM asked
), claimed AS (
    INSERT INTO idempotency (merchant_id, caller, idempotency_key, route, fingerprint, transaction_id)
    SELECT merchant_id, caller, idempotency_key, route, fingerprint, transaction_id FROM judged
    WHERE NOT (refuse AND possible_duplicate_of IS NOT NULL)
    ORDER BY merchant_id, caller, idempotency_key
    ON CONFLICT (merchant_id, caller, idempotency_key) DO NOTHING RETURNING transaction_id
), written AS (
    INSERT INTO transaction ({_columns}, state, possible_duplicate_of)
    SELECT {_columns}, 'SENT', possible_duplicate_of FROM judged JOIN claimed USING (transaction_id)
    RETURNING transaction_id, intent_at
)
SELECT j.transaction_id, j.possible_duplicate_of, w.intent_at, j.refuse FROM judged j LEFT JOIN written w USING (transaction_id)
"""
OURS = "SELECT transaction_id, possible_duplicate_of, intent_at FROM transaction WHERE transaction_id = ANY($1::uuid[])"
KNOWN_KEYS = """SELECT 1 FROM idempotency WHERE merchant_id = $1 AND caller = $2 AND idempotency_key = $3"""


async def run_intents(connection: Connection, intents: Sequence[Intent], doubtful: bool) -> list[Claim]:
    """Claims keys and writes the rows; sets `intent_at` and `possible_duplicate_of` on those that are ours."""
    await failpoint_held("t1.before_commit")
    rows = await connection.fetch(INTENTS, [(*intent_values(intent.transaction), intent.route, intent.fingerprint, intent.refuse_duplicate)
                                            for intent in intents])
    failpoint("t1.after_commit")
    found = {row[0]: row for row in rows}
    ours = {row[0]: row for row in rows if row[2] is not None}
    if doubtful and len(ours) < len(intents):
        stored = await connection.fetch(OURS, [intent.transaction.transaction_id for intent in intents])
        ours |= {row[0]: row for row in stored}
    verdicts = []
    for intent in intents:
        transaction = intent.transaction
        row = ours.get(transaction.transaction_id)
        if row is not None:
            transaction.possible_duplicate_of, transaction.intent_at = row[1], row[2]
            verdicts.append(Claim.OURS)
            continue
        judged = found[transaction.transaction_id]
        if judged[3] and judged[1] is not None and not await connection.fetchval(
                KNOWN_KEYS, transaction.merchant_id, transaction.caller, transaction.idempotency_key):
            transaction.possible_duplicate_of = judged[1]
            verdicts.append(Claim.POSSIBLE_DUPLICATE)
        else:
            verdicts.append(Claim.DUPLICATE)
    return verdicts


# In the order of the type outcome_row, which goes on with from_state.
OUTCOME_COLUMNS = (
    "transaction_id", "merchant_id", "state", "version", "authorised", "capturable", "captured", "sent_at", "answered_at", "outcome_at",
    "outcome", "response_code", "reason", "advice", "approval_code", "approved_amount", "acquirer_rrn", "answer_emv", "balances",
    "answer_message",
)
_outcome_sets = ", ".join(f"{name} = o.{name}" for name in OUTCOME_COLUMNS if name not in ("transaction_id", "merchant_id"))
outcome_values = attrgetter(*OUTCOME_COLUMNS)

# The array comes sorted by id and drives a nested loop, so rows are locked in id order. Found by the id alone: with the merchant in the
# condition a plan made on an empty table may take any index that starts with it.
OUTCOMES = f"""
UPDATE transaction t SET {_outcome_sets} FROM unnest($1::outcome_row[]) AS o
WHERE t.transaction_id = o.transaction_id AND t.state = o.from_state AND t.version = o.version - 1
RETURNING t.transaction_id
"""
OUTCOMES_OURS = """
SELECT t.transaction_id FROM transaction t JOIN unnest($1::uuid[], $2::text[], $3::int4[], $4::timestamptz[])
  AS o(transaction_id, state, version, outcome_at) USING (transaction_id)
WHERE t.state = o.state AND t.version = o.version AND t.outcome_at IS NOT DISTINCT FROM o.outcome_at
"""
# A reversal that is opened again repeats its own message; an advice that must be undone becomes a reversal with its own numbers.
DUTIES = """
INSERT INTO duty (merchant_id, transaction_id, acquirer_id, kind, cause, stan, transmitted_at, match_key, next_attempt_at, terminal_id)
SELECT o.*, (SELECT t.terminal_id FROM transaction t WHERE t.transaction_id = o.transaction_id)
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[])
  AS o(merchant_id, transaction_id, acquirer_id, kind, cause, stan, transmitted_at, match_key, next_attempt_at)
ON CONFLICT (merchant_id, transaction_id) DO UPDATE SET state = 'open', cause = EXCLUDED.cause, next_attempt_at = EXCLUDED.next_attempt_at,
  owed_at = now(), leased_until = NULL, faults = 0, parked_reason = NULL,
  closed_at = NULL, closed_by = NULL, not_found_at = NULL, kind = EXCLUDED.kind,
  stan = CASE WHEN duty.kind = EXCLUDED.kind THEN duty.stan ELSE EXCLUDED.stan END,
  transmitted_at = CASE WHEN duty.kind = EXCLUDED.kind THEN duty.transmitted_at ELSE EXCLUDED.transmitted_at END,
  match_key = CASE WHEN duty.kind = EXCLUDED.kind THEN duty.match_key ELSE EXCLUDED.match_key END,
  transmissions = CASE WHEN duty.kind = EXCLUDED.kind THEN duty.transmissions ELSE 0 END,
  first_sent_at = CASE WHEN duty.kind = EXCLUDED.kind THEN duty.first_sent_at END,
  last_sent_at = CASE WHEN duty.kind = EXCLUDED.kind THEN duty.last_sent_at END,
  last_code = CASE WHEN duty.kind = EXCLUDED.kind THEN duty.last_code END
"""
EVENTS = """INSERT INTO transaction_event (merchant_id, transaction_id, kind, detail)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::jsonb[])"""
# The next attempt at a sale looks like another one exactly when the first did; its key names it from now on (migrations r0018).
ATTEMPT = f"""INSERT INTO transaction ({_columns}, state, attempt_of, possible_duplicate_of)
SELECT {_columns}, 'SENT', $2, (SELECT t.possible_duplicate_of FROM transaction t WHERE t.transaction_id = $2) FROM unnest($1::intent_row[])
RETURNING intent_at"""
MOVE_KEY = """INSERT INTO idempotency (merchant_id, caller, idempotency_key, route, fingerprint, transaction_id) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (merchant_id, caller, idempotency_key) DO UPDATE SET transaction_id = EXCLUDED.transaction_id"""
CREATED = f"INSERT INTO transaction ({_columns}, state) SELECT {_columns}, 'SENT' FROM unnest($1::intent_row[])"


async def run_outcomes(connection: Connection, outcomes: Sequence[Outcome], doubtful: bool) -> list[Written]:
    """Moves the rows; duties, events and captures of those that moved ride in the same commit."""
    steps = [(*outcome_values(outcome.transaction), outcome.from_state) for outcome in outcomes]
    if all(outcome.duty is None and outcome.created is None and outcome.event is None for outcome in outcomes):
        await failpoint_held("t2.before_commit")
        moved = {row[0] for row in await connection.fetch(OUTCOMES, steps)}
    else:
        async with connection.transaction():
            moved = {row[0] for row in await connection.fetch(OUTCOMES, steps)}
            await _ride_along(connection, [outcome for outcome in outcomes if outcome.transaction.transaction_id in moved])
            await failpoint_held("t2.before_commit")
        failpoint("rev.queued")
    failpoint("t2.after_commit")
    if doubtful and len(moved) < len(outcomes):
        mine = [outcome.transaction for outcome in outcomes]
        moved |= {row[0] for row in await connection.fetch(
            OUTCOMES_OURS, [t.transaction_id for t in mine], [t.state for t in mine], [t.version for t in mine], [t.outcome_at for t in mine])}
    return [Written.OURS if outcome.transaction.transaction_id in moved else Written.LOST for outcome in outcomes]


# Whoever moves follow-ups locks their originals first, in the order of their ids: the triggers of the follow-ups change them.
LOCK_FIRST = "SELECT 1 FROM transaction WHERE transaction_id = ANY($1::uuid[]) ORDER BY transaction_id FOR NO KEY UPDATE"


async def run_follow_up_outcomes(connection: Connection, outcomes: Sequence[Outcome], doubtful: bool) -> list[Written]:
    """Like run_outcomes, for rows that have an original."""
    async with connection.transaction():
        await connection.execute(LOCK_FIRST, sorted({outcome.transaction.original_id for outcome in outcomes if outcome.transaction.original_id}))
        return await run_outcomes(connection, outcomes, doubtful)


async def _ride_along(connection: Connection, outcomes: list[Outcome]) -> None:
    made = [outcome.created for outcome in outcomes if outcome.created is not None]
    captures = [intent.transaction for intent in made if intent.transaction.attempt_of is None]
    if captures:
        await connection.execute(CREATED, [(*intent_values(row), "", b"", False) for row in captures])
    for intent in made:
        if intent.transaction.attempt_of is not None:
            await _try_again(connection, intent)
    duties = [duty for outcome in outcomes for duty in (outcome.duty, outcome.created_duty) if duty is not None]
    if duties:
        await connection.execute(DUTIES, *zip(*duties, strict=True))
    events = [(outcome.transaction.merchant_id, outcome.transaction.transaction_id, *outcome.event) for outcome in outcomes if outcome.event]
    if events:
        await connection.execute(EVENTS, *zip(*events, strict=True))


async def _try_again(connection: Connection, intent: Intent) -> None:
    row = intent.transaction
    row.intent_at = await connection.fetchval(ATTEMPT, [(*intent_values(row), "", b"", False)], row.attempt_of)
    await connection.execute(MOVE_KEY, row.merchant_id, row.caller, row.idempotency_key, intent.route, intent.fingerprint, row.transaction_id)


def twins(intent: Intent) -> tuple[Hashable, ...]:
    """What two possible duplicates share; the second is claimed after the first, else the statement would not see it."""
    row = intent.transaction
    card = (row.pan_token, row.amount, row.currency, row.terminal_id)
    return (card,) if row.same_trace is None else (card, row.same_trace)


class Journal:
    """Intents, bounded and refused when full; outcomes, never refused: there are no more of them than intents in flight. Outcomes of
    follow-ups have a lane of their own, since they change their originals too."""

    def __init__(self, connect: Callable[[dict[str, str]], Awaitable[Connection]], on_unsure: Callable[[Outcome], None],
                 on_late: Callable[[Intent], None] = lambda intent: None) -> None:
        """`connect(settings)`: a writer's connection with these server settings. `on_late` gets an intent that may have become durable
        after its walk had ended."""
        self.intents = Lane("intent", lambda: connect(INTENT_PLANS), INTENTS_MAX, Claim.UNAVAILABLE, Claim.UNAVAILABLE, Claim.REFUSED, run_intents,
                            on_late, lambda intent: intent.transaction.transaction_id, twins)
        self.outcomes = Lane("outcome", lambda: connect(OUTCOME_PLANS), 1 << 30, Written.UNKNOWN, Written.UNKNOWN, Written.REFUSED, run_outcomes,
                             on_unsure, lambda outcome: outcome.transaction.transaction_id)
        self.follow_ups = Lane("follow_up_outcome", lambda: connect(OUTCOME_PLANS), 1 << 30, Written.UNKNOWN, Written.UNKNOWN, Written.REFUSED,
                               run_follow_up_outcomes, on_unsure, lambda outcome: outcome.transaction.transaction_id)
        self.lanes = (self.intents, self.outcomes, self.follow_ups)
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connects all lanes and runs an empty batch through those of sales, so that the first sale does not wait for plans."""
        loop = asyncio.get_running_loop()
        for lane, statement in ((self.intents, INTENTS), (self.outcomes, OUTCOMES)):
            await lane.open()
            assert lane.connection is not None
            await lane.connection.fetch(statement, [])
        await self.follow_ups.open()
        self.tasks = [*(loop.create_task(lane.work()) for lane in self.lanes), loop.create_task(self._tick())]

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            now = loop.time()
            for lane in self.lanes:
                lane.expire(now)
                metrics.journal_queue.labels(lane.name).set(len(lane.queue))

    def intent(self, intent: Intent, deadline: float) -> "asyncio.Future[Claim]":
        """Durable claim of a key. `deadline`: loop time after which the answer is UNAVAILABLE."""
        return self.intents.submit(intent, deadline)

    def outcome(self, outcome: Outcome, deadline: float) -> "asyncio.Future[Written]":
        """Durable step of a life. After `deadline` the answer is UNKNOWN and `on_unsure` gets the outcome once the database is back."""
        return (self.outcomes if outcome.transaction.original_id is None else self.follow_ups).submit(outcome, deadline)

    async def stop(self) -> None:
        """Writes what is queued, then ends. Bounded by the caller."""
        for lane in self.lanes:
            lane.stopping = True
            lane.wake.set()
        await asyncio.gather(*self.tasks[:-1])
        self.tasks[-1].cancel()
        for lane in self.lanes:
            if lane.connection is not None:
                await lane.connection.close(timeout=2)
