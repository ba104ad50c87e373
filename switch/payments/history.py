"""Reads: single transactions, the list with its filters, the story. Through the views `history_*`, as the reader's role."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Pool
from switch.errors import Problem
from switch.ids import lowest
from switch.payments.rerouting import superseded
from switch.payments.transaction import Transaction
from switch.payments.verbs import Follower

PAGE_MAX = 200

COLUMNS = ", ".join(field.name for field in fields(Transaction))

TRANSACTION = f"SELECT {COLUMNS} FROM history_transaction WHERE transaction_id = $1"
TRANSACTIONS = f"SELECT {COLUMNS} FROM history_transaction WHERE transaction_id = ANY($1::uuid[])"
CAPTURE = f"""SELECT {COLUMNS} FROM history_transaction WHERE merchant_id = $1 AND original_id = $2 AND transaction_id < $3 AND type = 'capture'
AND state IN ('APPROVED', 'CONFIRMED') ORDER BY transaction_id DESC LIMIT 1"""
KEY = """SELECT route, fingerprint, transaction_id FROM history_idempotency
WHERE merchant_id = $1 AND caller = $2 AND idempotency_key = $3"""
DUTY = """SELECT kind, state, cause, stan, transmissions, first_sent_at, last_sent_at, last_code, next_attempt_at, created_at, closed_at,
closed_by FROM history_duty WHERE transaction_id = $1"""
EVENTS = "SELECT at, kind, detail FROM history_event WHERE transaction_id = $1 ORDER BY event_id"
FOLLOWERS = """SELECT transaction_id, type, state, amount, idempotency_key IS NULL AS automatic, business_date, received_at
FROM history_transaction WHERE merchant_id = $1 AND original_id = $2 ORDER BY transaction_id"""


class KnownKey(NamedTuple):
    route: str
    fingerprint: bytes
    transaction_id: UUID | None  # None: burnt by a cancellation


class Duty(NamedTuple):
    kind: str
    state: str
    cause: str
    stan: str
    transmissions: int
    first_sent_at: datetime | None
    last_sent_at: datetime | None
    last_code: str | None
    next_attempt_at: datetime
    created_at: datetime
    closed_at: datetime | None
    closed_by: str | None


@dataclass(frozen=True, slots=True)
class Filter:
    """What a list may be narrowed by. `merchant_id` and `store_id` come from who asks; None = no limit."""

    merchant_id: UUID | None = None
    store_id: UUID | None = None
    terminal_id: UUID | None = None
    acquirer_ids: tuple[UUID, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None
    states: tuple[str, ...] | None = None
    payment_status: str | None = None
    type: str | None = None
    rrn: str | None = None
    stan: str | None = None
    approval_code: str | None = None
    reference: str | None = None
    last4: str | None = None
    token: bytes | None = None
    amount_min: int | None = None
    amount_max: int | None = None
    before: UUID | None = None  # the last id of the page before


# What `payment_status` means in SQL; the same rule as transaction.payment_status_at, held by a test.
_STANDS = "state IN ('APPROVED', 'CONFIRMED') AND voided = 0"
_HELD = f"{_STANDS} AND charged_back = 0 AND refunded = 0 AND captured = 0 AND authorised > 0"
_EXPIRED = "expires_at IS NOT NULL AND expires_at <= now() AND capture_reserved = 0"
PAYMENT_STATUS = {
    "none": f"NOT ({_STANDS} AND (authorised > 0 OR charged_back > 0 OR refunded > 0 OR captured > 0)"
            " OR state IN ('APPROVED', 'CONFIRMED') AND voided > 0 OR state = 'REVERSED' AND authorised > 0)",
    "voided": "state = 'REVERSED' AND authorised > 0 OR state IN ('APPROVED', 'CONFIRMED') AND voided > 0",
    "charged_back": f"{_STANDS} AND charged_back > 0",
    "refunded": f"{_STANDS} AND charged_back = 0 AND refunded > 0 AND refunded >= captured",
    "partially_refunded": f"{_STANDS} AND charged_back = 0 AND refunded > 0 AND refunded < captured",
    "captured": f"{_STANDS} AND charged_back = 0 AND refunded = 0 AND captured > 0 AND captured >= authorised",
    "partially_captured": f"{_STANDS} AND charged_back = 0 AND refunded = 0 AND captured > 0 AND captured < authorised",
    "authorized": f"{_HELD} AND NOT ({_EXPIRED})",
    "expired": f"{_HELD} AND {_EXPIRED}",
}

_CONDITIONS = (
    ("merchant_id", "merchant_id = {}"), ("store_id", "store_id = {}"), ("terminal_id", "terminal_id = {}"),
    ("acquirer_ids", "acquirer_id = ANY({}::uuid[])"), ("states", "state = ANY({}::text[])"), ("type", "type = {}"), ("rrn", "rrn = {}"),
    ("stan", "stan = {}"),
    ("approval_code", "(merchant_id, transaction_id) IN (SELECT a.merchant_id, a.transaction_id FROM approval_lookup a WHERE a.approval_code = {})"),
    ("reference", "reference = {}"), ("last4", "card_last4 = {}"), ("token", "pan_token = {}"),
    ("amount_min", "amount >= {}"), ("amount_max", "amount <= {}"), ("before", "transaction_id < {}"),
)


def list_query(wanted: Filter, limit: int | None) -> tuple[str, list[Any]]:
    """The statement and its arguments. Ids are UUIDv7, so the order by id is the order by time, and `from` and `to` are bounds of the id.
    `limit` None: all of them, for a cursor."""
    conditions, arguments = [], []
    for name, condition in _CONDITIONS:
        value = getattr(wanted, name)
        if value is not None:
            arguments.append(list(value) if isinstance(value, tuple) else value)
            conditions.append(condition.format(f"${len(arguments)}"))
    for instant, sign in ((wanted.since, ">="), (wanted.until, "<")):
        if instant is not None:
            arguments.append(lowest(instant))
            conditions.append(f"transaction_id {sign} ${len(arguments)}")
    if wanted.payment_status is not None:
        conditions.append(f"({PAYMENT_STATUS[wanted.payment_status]})")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    end = "" if limit is None else f" LIMIT {int(limit)}"
    return f"SELECT {COLUMNS} FROM history_transaction{where} ORDER BY transaction_id DESC{end}", arguments


class History:
    """All reads of this worker. A database that is not there is Problem not_ready, never an empty answer."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def _fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        try:
            return await self.pool.fetch(statement, *arguments)
        except UNKNOWN:
            raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None

    async def transaction(self, transaction_id: UUID) -> Transaction | None:
        rows = await self._fetch(TRANSACTION, transaction_id)
        return Transaction(**dict(rows[0])) if rows else None

    async def sale(self, transaction_id: UUID) -> Transaction | None:
        """As `transaction`; an attempt that another one has followed gives way to that, also when its key was read before it did."""
        while True:
            row = await self.transaction(transaction_id)
            if row is None or not superseded(row) or row.idempotency_key is None:
                return row
            known = await self.key(row.merchant_id, row.caller, row.idempotency_key)  # the commit that told of the next attempt moved it
            if known is None or known.transaction_id in (None, row.transaction_id):
                return row
            transaction_id = known.transaction_id

    async def transactions(self, transaction_ids: list[UUID]) -> dict[UUID, Transaction]:
        """Those that are there, by id."""
        return {row["transaction_id"]: Transaction(**dict(row)) for row in await self._fetch(TRANSACTIONS, transaction_ids)}

    async def capture(self, original: Transaction, before: UUID) -> Transaction | None:
        """The newest capture of an authorization that stands and is older than `before`: what a follow-up of that id names."""
        rows = await self._fetch(CAPTURE, original.merchant_id, original.transaction_id, before)
        return Transaction(**dict(rows[0])) if rows else None

    async def key(self, merchant_id: UUID, caller: UUID, idempotency_key: str) -> KnownKey | None:
        rows = await self._fetch(KEY, merchant_id, caller, idempotency_key)
        return KnownKey(*rows[0]) if rows else None

    async def duty(self, transaction_id: UUID) -> Duty | None:
        rows = await self._fetch(DUTY, transaction_id)
        return Duty(*rows[0]) if rows else None

    async def page(self, wanted: Filter, limit: int) -> list[Transaction]:
        """Newest first, at most `limit` rows."""
        statement, arguments = list_query(wanted, min(limit, PAGE_MAX + 1))
        return [Transaction(**dict(row)) for row in await self._fetch(statement, *arguments)]

    async def events(self, transaction_id: UUID) -> list[asyncpg.Record]:
        return await self._fetch(EVENTS, transaction_id)

    async def followers(self, transaction: Transaction) -> list[Follower]:
        """What was made of a transaction: captures, increments, voids, tips and refunds, in the order of their ids."""
        return [Follower(*row) for row in await self._fetch(FOLLOWERS, transaction.merchant_id, transaction.transaction_id)]
