"""Reversals that a person looks at: the list, sending one again, and resolving a parked one by hand, which takes two people."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.payments.transaction import PARKED, Event, step

PAGE_MAX = 200
RESOLUTIONS = {"reversed": Event.RESOLVE_REVERSED, "confirmed": Event.RESOLVE_CONFIRMED}

LIST = """SELECT d.transaction_id, d.acquirer_id, t.amount, t.currency, d.state, d.cause, d.stan, d.transmissions, d.created_at, d.last_sent_at,
d.last_code, d.next_attempt_at, d.parked_reason, extract(epoch FROM now() - d.owed_at)::bigint AS age_s
FROM history_duty d JOIN history_transaction t USING (merchant_id, transaction_id)
WHERE d.kind = 'reversal' AND d.state = ANY($1::text[]) AND ($2::uuid IS NULL OR d.acquirer_id = $2)
  AND ($3::uuid IS NULL OR d.transaction_id < $3) ORDER BY d.transaction_id DESC LIMIT $4"""
ONE = LIST.partition("WHERE")[0] + "WHERE d.transaction_id = $1"
# As everywhere, the original of a follow-up is locked first, then the transaction, then its duty.
LOCK_ORIGINAL = """SELECT 1 FROM transaction t JOIN transaction o ON o.transaction_id = t.original_id WHERE t.transaction_id = $1
FOR NO KEY UPDATE OF o"""
LOCK = """SELECT t.merchant_id, t.state, t.version, t.exchange, t.amount, t.approved_amount, t.original_id IS NOT NULL OR t.type = 'refund' AS whole
FROM transaction t
WHERE t.transaction_id = $1 FOR NO KEY UPDATE"""
DUTY = "SELECT kind, state, cause FROM duty WHERE transaction_id = $1 FOR NO KEY UPDATE"
REOPEN = """UPDATE transaction SET state = 'REVERSING', version = version + 1 WHERE transaction_id = $1 AND state = 'PARKED'"""
# Its age counts anew, and "not found" too. The numbers stay, so that the host sees a repeat.
REOPEN_DUTY = """UPDATE duty SET state = 'open', next_attempt_at = now(), owed_at = now(), leased_until = NULL, faults = 0, parked_reason = NULL,
not_found_at = NULL WHERE transaction_id = $1 AND state = 'parked'"""
# The first transmission keeps its time: it may not overtake its original.
NOW = """UPDATE duty SET next_attempt_at = least(next_attempt_at, now()) WHERE transaction_id = $1 AND state = 'open' AND transmissions > 0"""
REVERSED = "UPDATE transaction SET state = 'REVERSED', version = version + 1, captured = 0 WHERE transaction_id = $1"
# The approved amount stands. A single message has posted it; of a two-message sale it is held until somebody captures it, but for what its own
# capture took, if that was confirmed first.
CONFIRMED = """UPDATE transaction t SET state = 'CONFIRMED', version = t.version + 1, approved_amount = $2::bigint,
authorised = CASE WHEN t.original_id IS NULL THEN $2::bigint ELSE t.authorised END,
capturable = CASE WHEN t.original_id IS NULL THEN greatest(t.capturable, $2::bigint) ELSE t.capturable END,
captured = CASE WHEN t.original_id IS NOT NULL OR t.capture_method IS DISTINCT FROM 'automatic' THEN t.captured WHEN t.mti LIKE '02%' THEN $2::bigint
  ELSE (SELECT coalesce(sum(f.amount), 0)::bigint FROM transaction f WHERE f.merchant_id = t.merchant_id AND f.original_id = t.transaction_id
        AND f.idempotency_key IS NULL AND f.state IN ('SENT', 'APPROVED', 'CONFIRMED')) END
WHERE t.transaction_id = $1"""
CLOSE_DUTY = "UPDATE duty SET state = 'done', closed_at = now(), closed_by = 'person', leased_until = NULL WHERE transaction_id = $1"
EVENT = "INSERT INTO transaction_event (merchant_id, transaction_id, kind, detail) VALUES ($1, $2, $3, $4::jsonb)"


class Person(NamedTuple):
    """Who acts, and with which key."""

    name: str
    key_id: str


class Resolution:
    """Raises Problem: not_found, conflict (not in a state for that), invalid, not_ready (the database is away)."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def page(self, states: Sequence[str], acquirer_id: UUID | None, before: UUID | None, limit: int) -> list[asyncpg.Record]:
        """Newest first, at most `limit`."""
        try:
            return await self.pool.fetch(LIST, list(states), acquirer_id, before, min(limit, PAGE_MAX + 1))
        except UNKNOWN:
            raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None

    async def retry(self, transaction_id: UUID, by: Person) -> asyncpg.Record:
        """Sends it again now: a parked one is opened again, an open one brought forward. Again changes nothing."""
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                transaction, duty = await _locked(connection, transaction_id)
                if duty["state"] == "done":
                    raise Problem("conflict", "This reversal is done.")
                if duty["state"] == "parked":
                    if duty["kind"] == "reversal":
                        step(transaction["state"], Event.RETRY, transaction["exchange"])
                        await connection.execute(REOPEN, transaction_id)
                    await connection.execute(REOPEN_DUTY, transaction_id)
                    await connection.execute(EVENT, transaction["merchant_id"], transaction_id, f"{duty['kind']}_sent_again_by_a_person",
                                             json.dumps({"by": by.name, "key": by.key_id}))
                else:
                    await connection.execute(NOW, transaction_id)
                (row,) = await connection.fetch(ONE, transaction_id)
                return row
        except UNKNOWN:
            raise Problem("not_ready", "It is not known whether that was written; ask again.", retry_after=2) from None

    async def asked(self, transaction_id: UUID, resolution: str, approved_amount: int | None) -> dict[str, Any]:
        """What an approval holds, checked before anybody is asked to approve it. `approved_amount`: minor units, when confirmed."""
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                transaction, duty = await _locked(connection, transaction_id)
        except UNKNOWN:
            raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None
        _must_be_parked(transaction)
        if resolution == "reversed":
            if approved_amount is not None:
                raise _invalid("only when the resolution is confirmed")
            return {"resolution": resolution, "version": transaction["version"]}
        whole = transaction["amount"]
        if approved_amount is None and duty["cause"] == "partial_refused":
            raise _invalid("to be said: the acquirer approved only a part")
        if approved_amount is not None and not min(1, whole) <= approved_amount <= whole:
            raise _invalid("from 1 to the amount of the transaction")
        if approved_amount not in (None, whole) and transaction["whole"]:  # its original, and what settles, have all of it or nothing
            raise _invalid("the whole amount: of what is not a sale no part can stand; have the acquirer reverse it")
        known = transaction["approved_amount"]
        return {"resolution": resolution, "version": transaction["version"],
                "approved_amount": approved_amount if approved_amount is not None else known if known else whole}

    async def resolve(self, connection: Connection, transaction_id: UUID, payload: Mapping[str, Any], people: Mapping[str, str]) -> None:
        """Executes an approval inside its commit. `people`: who asked, who decided, why, under which approval; all of it stands in the story."""
        transaction, _ = await _locked(connection, transaction_id)
        _must_be_parked(transaction)
        if payload.get("version", transaction["version"]) != transaction["version"]:  # of an approval asked for by an earlier release: none
            raise Problem("conflict", "It was sent again since somebody looked: what the acquirer holds may have changed. Refuse this and ask anew.")
        step(transaction["state"], RESOLUTIONS[payload["resolution"]], transaction["exchange"])
        if payload["resolution"] == "confirmed":
            await connection.execute(CONFIRMED, transaction_id, payload["approved_amount"])
        else:
            await connection.execute(REVERSED, transaction_id)
        await connection.execute(CLOSE_DUTY, transaction_id)
        await connection.execute(EVENT, transaction["merchant_id"], transaction_id, f"resolved_by_two_people_as_{payload['resolution']}",
                                 json.dumps(dict(people)))


async def _locked(connection: Connection, transaction_id: UUID) -> tuple[asyncpg.Record, asyncpg.Record]:
    await connection.execute(LOCK_ORIGINAL, transaction_id)
    transaction = await connection.fetchrow(LOCK, transaction_id)
    duty = await connection.fetchrow(DUTY, transaction_id)
    if transaction is None or duty is None:
        raise Problem("not_found")
    return transaction, duty


def _must_be_parked(transaction: asyncpg.Record) -> None:
    if transaction["state"] != PARKED:
        raise Problem("conflict", "Only a parked reversal is resolved by hand.")


def _invalid(rule: str) -> Problem:
    return Problem("invalid", errors=[{"field": "approved_amount", "rule": rule, "type": "rule"}])
