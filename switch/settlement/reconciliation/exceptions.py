"""What does not agree, until a person has dealt with it: runs open, change and withdraw exceptions, people own, discuss and resolve them.

`difference` is what comes to us more (positive) or less than our books hold, in minor units. A resolution moves it from the acquirer's account to
where it belongs; when a later file explains the exception after all, that is taken back by a transfer that corrects it.
"""

import os
import time
from collections.abc import Mapping
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch import alerts
from switch.database import UNKNOWN, Connection, Pool, unsure
from switch.errors import Problem, taken
from switch.ids import show, uuid7
from switch.life import same_person
from switch.settlement import ledger
from switch.settlement.ledger import Account, Transfer
from switch.settlement.reconciliation.matching import REASONS, Line, Movement, explain

FOUR_EYES_ABOVE = 50_000  # minor units: what one person may decide
PAGE_MAX, COMMENTS_MAX = 200, 500
BY_RUN = "reconciliation"
# What a resolution moves the difference to; those that move nothing are said and no more.
MOVES = {"write_off": "loss", "suspense": "suspense", "adjust": "merchant"}
RESOLUTIONS = (*MOVES, "claim", "accept")

FINAL_TABLE = """CREATE TEMP TABLE rc_final (business_date date, kind text, rule text, subject text, file_id uuid, line_no int, merchant_id uuid,
transaction_id uuid, rrn text, currency text, expected bigint, found bigint) ON COMMIT DROP"""
FINAL = """
INSERT INTO rc_final
SELECT f.business_date, f.kind, f.rule, coalesce('txn_' || f.transaction_id, f.file_id || ':' || f.line_no), f.file_id, f.line_no, f.merchant_id,
  f.transaction_id, f.rrn, f.currency, coalesce(f.expected, 0), coalesce(f.found, 0)
FROM rc_found f WHERE f.business_date BETWEEN $1::date - 1 AND $1::date + 1
  AND NOT EXISTS (SELECT FROM rc_across a WHERE a.line_order = f.n OR a.movement_order = f.n)
UNION ALL
SELECT m.business_date, 'date', a.rule, 'txn_' || m.transaction_id, l.file_id, l.line_no, m.merchant_id, m.transaction_id, m.rrn, m.currency,
  m.expected, l.found
FROM rc_across a JOIN rc_found l ON l.n = a.line_order JOIN rc_found m ON m.n = a.movement_order
WHERE m.business_date BETWEEN $1::date - 1 AND $1::date + 1"""
# A UUIDv7 of the server's clock (RFC 9562): there may be a million of them.
NEW_ID = """encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) PLACING substring(int8send(
(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid"""
OPEN = f"""
INSERT INTO reconciliation_exception AS e (exception_id, acquirer_id, business_date, kind, subject, rule, file_id, line_no, merchant_id,
  transaction_id, rrn, currency, expected, found, difference)
SELECT {NEW_ID}, $1, business_date, kind, subject, rule, file_id, line_no, merchant_id, transaction_id, rrn, currency, expected, found,
  found - expected FROM rc_final ORDER BY business_date, kind, subject
ON CONFLICT ON CONSTRAINT exception_once DO UPDATE
SET rule = EXCLUDED.rule, file_id = EXCLUDED.file_id, line_no = EXCLUDED.line_no, expected = EXCLUDED.expected, found = EXCLUDED.found,
  difference = EXCLUDED.difference, state = 'open', resolution = NULL, resolved_by = NULL, approved_by = NULL, resolved_at = NULL,
  version = e.version + 1, changed_at = now()
WHERE e.state = 'withdrawn' OR (e.expected, e.found, e.rule) IS DISTINCT FROM (EXCLUDED.expected, EXCLUDED.found, EXCLUDED.rule)
RETURNING exception_id, version, business_date"""
WITHDRAW = """
UPDATE reconciliation_exception e SET state = 'withdrawn', resolution = NULL, resolved_by = NULL, approved_by = NULL, resolved_at = NULL,
  version = version + 1, changed_at = now()
WHERE e.acquirer_id IS NOT DISTINCT FROM $1 AND e.business_date BETWEEN $2 AND $3 AND e.kind = ANY($4::text[]) AND e.state <> 'withdrawn'
  AND NOT EXISTS (SELECT FROM rc_final f WHERE f.business_date = e.business_date AND f.kind = e.kind AND f.subject = e.subject)
RETURNING exception_id"""
SAY = "INSERT INTO reconciliation_comment (exception_id, by, what, text) SELECT unnest($1::uuid[]), $2, $3, $4"
POSTED = """SELECT t.*, d.kind AS debit_kind, d.merchant_id AS debit_merchant, d.acquirer_id AS debit_acquirer, c.kind AS credit_kind,
c.merchant_id AS credit_merchant, c.acquirer_id AS credit_acquirer
FROM transfer t JOIN account d ON d.account_id = t.debit_account JOIN account c ON c.account_id = t.credit_account
WHERE t.object = ANY($1::text[]) AND t.corrects IS NULL AND NOT EXISTS (SELECT FROM transfer u WHERE u.corrects = t.transfer_id)
ORDER BY t.transfer_id"""
OF_FILES = ["missing_here", "missing_there", "amount", "fee", "duplicate", "date"]

SHOWN = """exception_id, acquirer_id, business_date, kind, rule, file_id, line_no, merchant_id, transaction_id, rrn, currency, expected, found,
difference, state, owner, resolution, resolved_by, approved_by, resolved_at, version, opened_at, changed_at"""
PAGE = f"""SELECT {SHOWN} FROM reconciliation_exception WHERE ($1::text[] IS NULL OR state = ANY($1)) AND ($2::uuid IS NULL OR acquirer_id = $2)
AND ($3::date IS NULL OR business_date = $3) AND ($4::text IS NULL OR kind = $4) AND ($5::text IS NULL OR owner = $5)
AND ($6::uuid IS NULL OR exception_id < $6) ORDER BY exception_id DESC LIMIT $7"""
GET = f"SELECT {SHOWN} FROM reconciliation_exception WHERE exception_id = $1"
LOCK = GET + " FOR NO KEY UPDATE"
COMMENTS = "SELECT at, by, what, text FROM reconciliation_comment WHERE exception_id = $1 ORDER BY comment_id LIMIT $2"
ASSIGN = f"UPDATE reconciliation_exception SET owner = $2 WHERE exception_id = $1 RETURNING {SHOWN}"
ASSIGNED_AT = "SELECT max(at) FROM reconciliation_comment WHERE exception_id = $1 AND what = 'assigned'"
RESOLVE = f"""UPDATE reconciliation_exception SET state = $2, resolution = $3, resolved_by = $4, approved_by = $5, resolved_at = now(),
version = version + 1 WHERE exception_id = $1 RETURNING {SHOWN}"""
PAIR = """SELECT l.business_date, l.rrn, l.stan, l.terminal, l.approval_code, l.kind, l.amount, l.currency, l.fee FROM clearing_line l
WHERE l.file_id = $1 AND l.line_no = $2"""
MOVEMENT = """SELECT business_date, rrn, acquirer_rrn, stan, terminal, approval_code, kind, amount, currency FROM reconciliation_movement
WHERE merchant_id = $1 AND transaction_id = $2"""


class Resolved(NamedTuple):
    """What a resolution was asked to be, checked."""

    resolution: str
    version: int
    two_people: bool


async def follow(connection: Connection, acquirer_id: UUID, day: date) -> None:
    """Opens, changes and withdraws the exceptions of a date and its neighbours by what their newest runs found (rc_found, rc_across)."""
    await connection.execute(FINAL_TABLE)
    await connection.execute(FINAL, day, timeout=900)
    await sync(connection, acquirer_id, day, OF_FILES)


async def sync(connection: Connection, acquirer_id: UUID | None, day: date, kinds: list[str], *, days: int = 1) -> None:
    """The exceptions of these kinds and of `days` around `day` become those of rc_final."""
    opened = await connection.fetch(OPEN, acquirer_id, timeout=900)
    for opened_on in sorted({row["business_date"] for row in opened}):
        await alert(connection, acquirer_id, opened_on)
    changed = [row["exception_id"] for row in opened if row["version"] > 1]
    withdrawn = [row["exception_id"] for row in await connection.fetch(
        WITHDRAW, acquirer_id, date.fromordinal(day.toordinal() - days), date.fromordinal(day.toordinal() + days), kinds, timeout=900)]
    for what, text, found in (("changed", "the figures changed: look at it anew", changed), ("withdrawn", "later files explain it", withdrawn)):
        if found:
            await connection.execute(SAY, found, BY_RUN, what, text)
            await _take_back(connection, found, day)


async def alert(connection: Connection, acquirer_id: UUID | None, day: date) -> None:
    """In the commit that opens exceptions: one alert per acquirer (or bank) and date."""
    object_ = f"{show('acquirer', acquirer_id) if acquirer_id else 'bank'} {day}"
    await connection.execute(alerts.RAISE, uuid7(time.time_ns() // 1_000_000, os.urandom(10)), "reconciliation_exceptions", object_)
    alerts.announce("reconciliation_exceptions", object_)


async def _open_day(connection: Connection, acquirer_id: UUID | None, otherwise: date) -> date:
    return (None if acquirer_id is None else await ledger.open_day(connection, acquirer_id)) or otherwise


async def _take_back(connection: Connection, exception_ids: list[UUID], day: date) -> None:
    """What was posted for exceptions that are no more what they were."""
    transfers = []
    for row in await connection.fetch(POSTED, [show("exception", each) for each in exception_ids]):
        debit = Account(row["debit_kind"], row["currency"], row["debit_merchant"], row["debit_acquirer"])
        credit = Account(row["credit_kind"], row["currency"], row["credit_merchant"], row["credit_acquirer"])
        on = await _open_day(connection, debit.acquirer_id or credit.acquirer_id, day)
        transfers.append(Transfer(credit, debit, row["amount"], "reconciliation_correction", row["object"], on, f"{row['posting_key']}:undone",
                                  "explained or changed by a later file", row["transfer_id"]))
    await ledger.post(connection, transfers)


def fault(row: Any, resolution: str) -> str | None:
    """Why an exception cannot be resolved so, or None."""
    if row["state"] not in ("open", "claimed"):
        return f"This exception is {row['state']}."
    if resolution == "accept":
        return "Only an exception without a difference is accepted; this one moves money." if row["difference"] else None
    if not row["difference"]:
        return "There is no difference to move; accept it."
    if resolution == "adjust" and row["merchant_id"] is None:
        return "No merchant is known for it: nothing of a merchant's can be adjusted."
    if resolution == "claim" and row["state"] == "claimed":
        return "It is claimed already."
    return None


def postings(row: Any, resolution: str, on: date, note: str) -> list[Transfer]:
    """What a resolution posts: the difference, from what the acquirer owes (or, without one, from the bank) to where it belongs."""
    if resolution not in MOVES:
        return []
    currency, object_ = row["currency"], show("exception", row["exception_id"])
    from_ = Account("acquirer", currency, acquirer_id=row["acquirer_id"]) if row["acquirer_id"] else Account("bank", currency)
    to = Account("merchant", currency, row["merchant_id"]) if resolution == "adjust" else Account(MOVES[resolution], currency)
    return ledger.moved(from_, to, row["difference"], f"reconciliation_{resolution}", object_, on, f"reconciliation:{object_}:{row['version']}", note)


class Exceptions:
    """Raises Problem: not_found, conflict, taken, not_ready."""

    def __init__(self, pool: Pool, four_eyes_above: int = FOUR_EYES_ABOVE) -> None:
        self.pool, self.four_eyes_above = pool, four_eyes_above

    async def page(self, states: list[str] | None, acquirer_id: UUID | None, day: date | None, kind: str | None, owner: str | None,
                   before: UUID | None, limit: int) -> list[asyncpg.Record]:
        """Newest first."""
        try:
            return await self.pool.fetch(PAGE, states, acquirer_id, day, kind, owner, before, min(limit, PAGE_MAX + 1))
        except UNKNOWN:
            raise unsure() from None

    async def get(self, exception_id: UUID) -> tuple[asyncpg.Record, list[str], list[asyncpg.Record]]:
        """The exception, how the two sides differ in words, and what was said about it, oldest first."""
        try:
            async with self.pool.acquire() as connection:
                row = await connection.fetchrow(GET, exception_id)
                if row is None:
                    raise Problem("not_found")
                line = await connection.fetchrow(PAIR, row["file_id"], row["line_no"]) if row["file_id"] else None
                movement = await connection.fetchrow(MOVEMENT, row["merchant_id"], row["transaction_id"]) if row["transaction_id"] else None
                words = [REASONS[row["rule"]]]
                if line is not None and movement is not None:
                    fee = -row["expected"] if row["kind"] == "fee" else None
                    words += explain(Line(0, **dict(line)), Movement(0, **dict(movement), expected_fee=fee))
                return row, words, await connection.fetch(COMMENTS, exception_id, COMMENTS_MAX)
        except UNKNOWN:
            raise unsure() from None

    async def comment(self, exception_id: UUID, by: str, text: str) -> None:
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                await _locked(connection, exception_id)
                await connection.execute(SAY, [exception_id], by, "comment", text)
        except UNKNOWN:
            raise unsure() from None

    async def assign(self, exception_id: UUID, by: str, owner: str | None, take_over: str | None = None) -> asyncpg.Record:
        """`owner` None takes the owner off. `take_over`: why it is taken from somebody else who has it. Raises Problem taken without it."""
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                row = await _locked(connection, exception_id)
                before = row["owner"]
                others = before is not None and not same_person(before, by)
                if others and take_over is None:
                    raise taken(before, await connection.fetchval(ASSIGNED_AT, exception_id))
                given = await connection.fetchrow(ASSIGN, exception_id, owner)
                words = f"to {owner or 'nobody'}" + (f", from {before}" if before else "") + (f": {take_over}" if others else "")
                await connection.execute(SAY, [exception_id], by, "assigned", words)
                assert given is not None  # it is locked
                return given
        except UNKNOWN:
            raise unsure() from None

    async def asked(self, exception_id: UUID, resolution: str) -> Resolved:
        """Whether it may be resolved so, and by how many people."""
        try:
            row = await self.pool.fetchrow(GET, exception_id)
        except UNKNOWN:
            raise unsure() from None
        if row is None:
            raise Problem("not_found")
        if wrong := fault(row, resolution):
            raise Problem("conflict", wrong)
        return Resolved(resolution, row["version"], resolution in MOVES and abs(row["difference"]) > self.four_eyes_above)

    async def resolve(self, exception_id: UUID, wanted: Resolved, by: str, note: str) -> asyncpg.Record:
        """By one person."""
        if wanted.two_people:
            raise Problem("conflict", "Two people decide about this much.")
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                return await _resolve(connection, exception_id, wanted.resolution, wanted.version, by, None, note)
        except UNKNOWN:
            raise unsure() from None

    async def approved(self, connection: Connection, exception_id: UUID, payload: Mapping[str, Any], people: Mapping[str, str]) -> None:
        """Executes an approval inside its commit."""
        await _resolve(connection, exception_id, payload["resolution"], payload["version"], people["requested_by"], people["decided_by"],
                       people["reason"])


async def _locked(connection: Connection, exception_id: UUID) -> asyncpg.Record:
    row = await connection.fetchrow(LOCK, exception_id)
    if row is None:
        raise Problem("not_found")
    return row


async def _resolve(connection: Connection, exception_id: UUID, resolution: str, version: int, by: str, approved_by: str | None,
                   note: str) -> asyncpg.Record:
    row = await _locked(connection, exception_id)
    if row["version"] != version:
        raise Problem("conflict", "The exception has changed since; look at it anew.")
    if wrong := fault(row, resolution):
        raise Problem("conflict", wrong)
    on = await _open_day(connection, row["acquirer_id"], row["business_date"])
    await ledger.post(connection, postings(row, resolution, on, note[:500]))
    state = "claimed" if resolution == "claim" else "resolved"
    decided = await connection.fetchrow(RESOLVE, exception_id, state, resolution, by, approved_by)
    await connection.execute(SAY, [exception_id], by, state, f"{resolution}: {note}"[:1000])
    assert decided is not None
    return decided
