"""The ledger: transfers between two accounts of one currency, so that it sums to zero by its form. Nothing posted is ever changed.

A balance is credits minus debits: what we owe is positive (merchant, reserve, hold, payout, fee, tax), what is owed to us or was spent is
negative (acquirer, bank, cost, loss). Amounts are minor units.
"""

import os
import time
from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from switch.database import Connection
from switch.errors import Problem
from switch.ids import uuid7

KINDS = frozenset({"merchant", "acquirer", "fee", "cost", "tax", "reserve", "hold", "suspense", "bank", "loss", "payout", "dispute"})
OF_MERCHANT = frozenset({"merchant", "reserve", "hold", "payout", "dispute"})
AT_ONCE = 5000
DAY_LOCK, OPENING_LOCK = 3583010, 3583011
OPEN_DAY_TRIES = 5


class Account(NamedTuple):
    """One per kind, owner and currency; made when it is first posted to."""

    kind: str
    currency: str
    merchant_id: UUID | None = None
    acquirer_id: UUID | None = None


class Transfer(NamedTuple):
    """`amount` moves from `debit` to `credit`. `object`: shown id of what caused it. The same `posting_key` is posted once. `acquirer_id`: whose
    business date it is, where its accounts do not say and a settlement is to show it."""

    debit: Account
    credit: Account
    amount: int
    cause: str
    object: str
    business_date: date
    posting_key: str
    note: str = ""
    corrects: UUID | None = None
    acquirer_id: UUID | None = None


class PostingConflict(Exception):
    """A posting key was used before for something else: our own code gives two postings one name."""


def fault(transfer: Transfer) -> str | None:
    """Why a transfer is none, or None. The database says the same."""
    if transfer.amount < 1:
        return "its amount is not positive"
    if transfer.debit.currency != transfer.credit.currency:
        return "its accounts have two currencies"
    if transfer.debit == transfer.credit:
        return "its accounts are one"
    for account in (transfer.debit, transfer.credit):
        if account.kind not in KINDS or (account.kind in OF_MERCHANT) != (account.merchant_id is not None):
            return f"there is no such account: {account.kind}"
    return None


def moved(debit: Account, credit: Account, amount: int, cause: str, object_: str, business_date: date, posting_key: str,
          note: str = "") -> list[Transfer]:
    """The transfer of a signed amount: a negative one goes the other way, zero is none."""
    if amount < 0:
        debit, credit = credit, debit
    return [Transfer(debit, credit, abs(amount), cause, object_, business_date, posting_key, note)] if amount else []


OPEN = """INSERT INTO account (account_id, kind, currency, merchant_id, acquirer_id)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::uuid[])
ON CONFLICT (kind, merchant_id, acquirer_id, currency) DO NOTHING"""
ACCOUNTS = """SELECT a.account_id, a.kind, a.currency, a.merchant_id, a.acquirer_id FROM account a
JOIN (SELECT DISTINCT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::uuid[]) AS o(kind, currency, merchant_id, acquirer_id)) o
  ON a.kind = o.kind AND a.currency = o.currency AND a.merchant_id IS NOT DISTINCT FROM o.merchant_id
  AND a.acquirer_id IS NOT DISTINCT FROM o.acquirer_id"""
POST = """INSERT INTO transfer (transfer_id, debit_account, credit_account, amount, currency, cause, object, business_date, posting_key, note,
  corrects, acquirer_id)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::date[], $9::text[], $10::text[],
  $11::uuid[], $12::uuid[])
ON CONFLICT (posting_key) DO NOTHING RETURNING posting_key"""
POSTED = """SELECT posting_key, debit_account, credit_account, amount FROM transfer WHERE posting_key = ANY($1::text[])"""


async def post(connection: Connection, transfers: Sequence[Transfer]) -> int:
    """Posts what is not posted yet, inside the caller's database transaction; returns how many were new.

    Raises PostingConflict: a key was posted before with other accounts or another amount. Raises ValueError: a transfer that is none.
    """
    for transfer in transfers:
        wrong = fault(transfer)
        if wrong is not None:
            raise ValueError(f"{transfer.posting_key} cannot be posted: {wrong}")
    return sum([await _post(connection, transfers[start:start + AT_ONCE]) for start in range(0, len(transfers), AT_ONCE)])


async def _post(connection: Connection, transfers: Sequence[Transfer]) -> int:
    ids = await _accounts(connection, sorted({account for each in transfers for account in (each.debit, each.credit)}, key=str))
    keys = [each.posting_key for each in transfers]
    new = {row[0] for row in await connection.fetch(
        POST, _new_ids(len(transfers)), [ids[each.debit] for each in transfers], [ids[each.credit] for each in transfers],
        [each.amount for each in transfers], [each.debit.currency for each in transfers], [each.cause for each in transfers],
        [each.object for each in transfers], [each.business_date for each in transfers], keys, [each.note for each in transfers],
        [each.corrects for each in transfers], [each.acquirer_id for each in transfers])}
    if len(new) < len(transfers):
        posted = {row[0]: tuple(row)[1:] for row in await connection.fetch(POSTED, keys)}
        for each in transfers:
            if posted[each.posting_key] != (ids[each.debit], ids[each.credit], each.amount):
                raise PostingConflict(f"{each.posting_key} was posted before with other accounts or another amount")
    return len(new)


async def _accounts(connection: Connection, wanted: Sequence[Account]) -> dict[Account, UUID]:
    """Who makes accounts does so alone: two that made the same ones would wait for each other crosswise."""
    found = await _known(connection, wanted)
    missing = [account for account in wanted if account not in found]
    if missing:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", OPENING_LOCK)
        await connection.execute(OPEN, _new_ids(len(missing)), *map(list, zip(*missing, strict=True)))
        found |= await _known(connection, missing)
    return found


async def _known(connection: Connection, wanted: Sequence[Account]) -> dict[Account, UUID]:
    rows = await connection.fetch(ACCOUNTS, *map(list, zip(*wanted, strict=True))) if wanted else []
    return {Account(*tuple(row)[1:]): row[0] for row in rows}


def _new_ids(count: int) -> list[UUID]:
    """In the order of the postings, also within a millisecond (RFC 9562, section 6.2, method 1: a counter of 12 bits)."""
    now = time.time_ns() // 1_000_000
    return [uuid7(now + number // 4096, (number % 4096).to_bytes(2, "big") + os.urandom(8)) for number in range(count)]


# A shared lock as intents take it. It is tried and never waited for: whoever closes the day has opened the next one.
OPEN_DAY = f"""SELECT day.business_date, pg_try_advisory_xact_lock_shared({DAY_LOCK}, day_lock($1, day.business_date)) AS held
FROM (SELECT max(business_date) AS business_date FROM business_day WHERE acquirer_id = $1 AND state = 'open') day
WHERE day.business_date IS NOT NULL"""
STILL_OPEN = "SELECT state <> 'closed' FROM business_day WHERE acquirer_id = $1 AND business_date = $2"


async def open_day(connection: Connection, acquirer_id: UUID) -> date | None:
    """The acquirer's open business date, which no cut-over takes before the caller's database transaction has ended. None: it has none."""
    for _ in range(OPEN_DAY_TRIES):
        row = await connection.fetchrow(OPEN_DAY, acquirer_id)
        if row is None:
            return None
        if row["held"] and await connection.fetchval(STILL_OPEN, acquirer_id, row["business_date"]):
            day: date = row["business_date"]
            return day
    raise Problem("not_ready", "The business day is being closed; ask again.", retry_after=1)


BALANCES = """
SELECT a.kind, a.currency, a.merchant_id, a.acquirer_id,
  coalesce((SELECT sum(t.amount) FROM transfer t WHERE t.credit_account = a.account_id AND t.posted_at <= until), 0)::bigint
  - coalesce((SELECT sum(t.amount) FROM transfer t WHERE t.debit_account = a.account_id AND t.posted_at <= until), 0)::bigint
FROM account a CROSS JOIN coalesce($3, timestamptz 'infinity') AS until
WHERE ($1::uuid IS NULL OR a.merchant_id = $1) AND ($2::text[] IS NULL OR a.kind = ANY($2))
"""


async def balances(connection: Connection, merchant_id: UUID | None = None, kinds: Sequence[str] | None = None,
                   at: datetime | None = None) -> dict[Account, int]:
    """Credits minus debits of each account, in one snapshot; of one merchant, of some kinds, and as of an instant of posting."""
    rows = await connection.fetch(BALANCES, merchant_id, None if kinds is None else list(kinds), at)
    return {Account(*tuple(row)[:4]): row[4] for row in rows}
