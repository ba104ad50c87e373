"""Disputes in the books: opened by an acquirer's notice, moved by people and by their deadlines, each step in one commit with all that it moves.

Whoever moves a dispute locks its sale first, then the dispute, as follow-ups do; the trigger of the database moves what is charged back.
"""

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg

from switch import notices
from switch.database import Connection
from switch.errors import Problem
from switch.ids import show, uuid7
from switch.settlement import ledger
from switch.settlement.disputes import life
from switch.settlement.disputes.life import ACCEPTED, CLOSED, LOST, NOTICES, OUTCOMES, TO_ANSWER, About, Fee, Term
from switch.settlement.disputes.notices import Notice

SWITCH = "switch"  # who moves what nobody answered
OLDEST = timedelta(days=400)

# What the database refuses, and the problem that it is. A chargeback and a refund that race for the same money end here, one of them.
CODES: Mapping[str, str] = {"undone_within_captured": "amount_exceeds_disputable", "void_stands_alone": "amount_exceeds_disputable",
                            "dispute_of_its_sale": "not_found", "dispute_once": "already_exists"}

# Tells a merchant in the caller's database transaction: connection, merchant, type, shown id, what it is about.
Tell = Callable[[Connection, UUID, str, str, Mapping[str, Any]], Awaitable[object]]


class Step(NamedTuple):
    """A step that somebody wants. `day`: of the acquirer's word, for what has a deadline; `amount`: of a chargeback, else as it was."""

    event: str
    by: str
    note: str = ""
    files: Sequence[UUID] = ()
    day: date | None = None
    amount: int | None = None
    reason_code: str | None = None


COLUMNS = """merchant_id, dispute_id, acquirer_id, transaction_id, reference, state, version, amount, currency, charged, brand, reason_code,
noticed_on, opened_by, opened_at, answer_by, warn_at, warned_at, closed_at"""
SALE = """SELECT merchant_id, transaction_id, original_id, acquirer_id, currency, brand, captured, refunded, refund_reserved, charged_back
FROM transaction WHERE transaction_id = $1 FOR NO KEY UPDATE"""
BY_RRN = """SELECT coalesce(t.original_id, t.transaction_id) FROM transaction t WHERE t.acquirer_id = $1 AND t.rrn = $2 AND t.type <> 'refund'
GROUP BY 1 LIMIT 2"""
ORIGINAL = "SELECT coalesce(original_id, transaction_id) FROM transaction WHERE transaction_id = $1"
FIND = "SELECT transaction_id, merchant_id FROM dispute WHERE dispute_id = $1"
KNOWN = "SELECT dispute_id FROM dispute WHERE acquirer_id = $1 AND reference = $2"
EVENTS = "SELECT event FROM dispute_event WHERE dispute_id = $1"
LOCK = f"SELECT {COLUMNS} FROM dispute WHERE dispute_id = $1 FOR NO KEY UPDATE"
OPEN = f"""INSERT INTO dispute (merchant_id, dispute_id, acquirer_id, transaction_id, reference, state, amount, currency, brand, reason_code,
noticed_on, opened_by, answer_by, warn_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING {COLUMNS}"""
MOVE = f"""UPDATE dispute SET state = $2, version = version + 1, amount = $3, reason_code = $4, noticed_on = $5, answer_by = $6, warn_at = $7,
warned_at = NULL, closed_at = CASE WHEN $8 THEN coalesce(closed_at, now()) END WHERE dispute_id = $1 AND version = $9 RETURNING {COLUMNS}"""
NOTE = "INSERT INTO dispute_event (merchant_id, dispute_id, event, state, by, note, files) VALUES ($1, $2, $3, $4, $5, $6, $7)"
OWN_FILES = "SELECT count(*) FROM dispute_file WHERE dispute_id = $1 AND file_id = ANY($2::uuid[])"
# The most particular row holds.
TERM = """SELECT answer_days, warn_days FROM dispute_deadline WHERE kind = $1 AND (acquirer_id = $2 OR acquirer_id IS NULL) AND brand IN ($3, '*')
ORDER BY acquirer_id IS NULL, brand = '*' LIMIT 1"""
FEE = "SELECT fee, cost FROM dispute_fee WHERE acquirer_id = $1 AND kind = $2 AND currency = $3"
DAY = "SELECT time_zone, ($2::timestamptz AT TIME ZONE time_zone)::date AS today FROM directory_acquirer WHERE acquirer_id = $1"


class Cases:
    """All of these run in the caller's database transaction. Raises Problem: not_found, dispute_*, amount_exceeds_disputable, conflict, invalid."""

    def __init__(self, tell: Tell = notices.tell) -> None:
        self.tell = tell

    async def notice(self, connection: Connection, acquirer_id: UUID, notice: Notice, by: str, now: datetime) -> tuple[asyncpg.Record, bool]:
        """The dispute that an acquirer's notice opened or moved, and whether that is new: the same notice again changes nothing."""
        known = await connection.fetchval(KNOWN, acquirer_id, notice.reference)
        if notice.kind not in NOTICES:
            if known is None:
                raise Problem("not_found", "No dispute has this reference.")
            return await self._again_or(connection, known, notice, Step(OUTCOMES[notice.kind], by, day=notice.noticed_on), now)
        if known is None:
            return await self._open(connection, acquirer_id, notice, by, now), True
        if await self._sale_of(connection, acquirer_id, notice) != (await locked(connection, known, None))["transaction_id"]:
            raise Problem("already_exists", "This reference belongs to a dispute about another sale.")
        step = Step(NOTICES[notice.kind], by, day=notice.noticed_on, amount=notice.amount, reason_code=notice.reason_code)
        return await self._again_or(connection, known, notice, step, now)

    async def move(self, connection: Connection, dispute_id: UUID, step: Step, now: datetime, merchant_id: UUID | None = None) -> asyncpg.Record:
        """One step. `merchant_id`: whose it must be."""
        row = await locked(connection, dispute_id, merchant_id)
        refused = life.refusal(row["state"], step.event)
        if refused is not None:
            raise Problem(*refused)
        if life.overdue(step.event, row["answer_by"], now):
            raise Problem("dispute_overdue")
        files = list(dict.fromkeys(step.files))
        if step.event == "represent" and not files and not step.note:
            raise Problem("evidence_missing")
        if files and await connection.fetchval(OWN_FILES, dispute_id, files) != len(files):
            raise Problem("invalid", "A file is not one of this dispute.",
                          errors=[{"field": "files", "rule": "ids of files of this dispute", "type": "rule"}])
        state = life.step(row["state"], step.event)
        amount = row["amount"] if step.amount is None else step.amount
        day = await _day(connection, row["acquirer_id"], now)
        noticed_on = _noticed(step.day or day["today"], day["today"]) if state in TO_ANSWER else row["noticed_on"]
        times = await _times(connection, row["acquirer_id"], row["brand"], state, noticed_on, day["time_zone"])
        moved = await connection.fetchrow(MOVE, dispute_id, state, amount, step.reason_code or row["reason_code"], noticed_on, *times,
                                          state in CLOSED, row["version"])
        assert moved is not None  # it is locked
        await connection.execute(NOTE, moved["merchant_id"], dispute_id, step.event, state, step.by, step.note, files)
        await self._post(connection, moved, row["state"], day["today"])
        return moved

    async def _open(self, connection: Connection, acquirer_id: UUID, notice: Notice, by: str, now: datetime) -> asyncpg.Record:
        state = life.step(None, NOTICES[notice.kind])
        sale = await _sale(connection, await self._sale_of(connection, acquirer_id, notice))
        if sale["acquirer_id"] != acquirer_id:
            raise Problem("not_found", "This acquirer has no such sale.")
        if sale["currency"] != notice.currency:
            raise Problem("invalid", "The sale is in another currency.", errors=[{"field": "currency", "rule": "as in the sale", "type": "rule"}])
        left = sale["captured"] - sale["refunded"] - sale["refund_reserved"] - sale["charged_back"]
        if notice.amount > left:
            raise Problem("amount_exceeds_disputable", extra={"amounts": {"captured": sale["captured"], "refunded": sale["refunded"],
                                                                          "charged_back": sale["charged_back"], "left_to_dispute": max(0, left)}})
        day = await _day(connection, acquirer_id, now)
        times = await _times(connection, acquirer_id, sale["brand"], state, _noticed(notice.noticed_on, day["today"]), day["time_zone"])
        dispute_id = uuid7(time.time_ns() // 1_000_000, os.urandom(10))
        row = await connection.fetchrow(
            OPEN, sale["merchant_id"], dispute_id, acquirer_id, sale["transaction_id"], notice.reference, state, notice.amount,
            notice.currency, sale["brand"], notice.reason_code, notice.noticed_on, by, *times)
        assert row is not None
        await connection.execute(NOTE, row["merchant_id"], row["dispute_id"], NOTICES[notice.kind], state, by, "", [])
        await self._post(connection, row, None, day["today"])
        return row

    async def _again_or(self, connection: Connection, dispute_id: UUID, notice: Notice, step: Step, now: datetime) -> tuple[asyncpg.Record, bool]:
        """An acquirer's word that was taken before changes nothing; another one moves the dispute."""
        row = await locked(connection, dispute_id, None)
        if notice.currency != row["currency"] or (notice.amount != row["amount"] and (notice.kind not in NOTICES or notice.kind == row["state"])):
            raise Problem("conflict", "The dispute with this reference has another amount or currency.")
        stands = {"lost": (LOST, ACCEPTED)}.get(notice.kind, (notice.kind,))
        if row["state"] in stands or step.event in {each["event"] for each in await connection.fetch(EVENTS, dispute_id)}:
            return row, False
        return await self.move(connection, dispute_id, step, now), True

    async def _sale_of(self, connection: Connection, acquirer_id: UUID, notice: Notice) -> UUID:
        if notice.transaction_id is not None:
            found = await connection.fetch(ORIGINAL, notice.transaction_id)
        else:
            found = await connection.fetch(BY_RRN, acquirer_id, notice.rrn)
        if not found:
            raise Problem("not_found", "There is no such sale.")
        if len(found) > 1:
            raise Problem("conflict", "More than one sale has this RRN; name the transaction.")
        sale: UUID = found[0][0]
        return sale

    async def _post(self, connection: Connection, row: asyncpg.Record, was: str | None, today: date) -> None:
        """What is posted belongs to the acquirer's open business date."""
        state, shown = row["state"], show("dispute", row["dispute_id"])
        found = await connection.fetchrow(FEE, row["acquirer_id"], state, row["currency"]) if state in TO_ANSWER else None
        about = About(row["dispute_id"], shown, row["merchant_id"], row["acquirer_id"], row["currency"], row["amount"], row["version"])
        day = await ledger.open_day(connection, row["acquirer_id"]) or today
        await ledger.post(connection, life.postings(about, was, state, Fee(*found) if found else Fee(), day))
        await self.tell(connection, row["merchant_id"], f"dispute.{state}", shown, told(row))


def told(row: asyncpg.Record) -> dict[str, Any]:
    """What a webhook says about a dispute."""
    return {"id": show("dispute", row["dispute_id"]), "transaction": show("transaction", row["transaction_id"]), "state": row["state"],
            "amount": row["amount"], "currency": row["currency"], "reason_code": row["reason_code"],
            "answer_by": None if row["answer_by"] is None else f"{row['answer_by'].astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}


async def _sale(connection: Connection, transaction_id: UUID) -> asyncpg.Record:
    """Locked."""
    row = await connection.fetchrow(SALE, transaction_id)
    if row is None:
        raise Problem("not_found", "There is no such sale.")
    return row


async def locked(connection: Connection, dispute_id: UUID, merchant_id: UUID | None) -> asyncpg.Record:
    """A dispute with its sale, both locked, the sale first. `merchant_id`: whose it must be. Raises Problem not_found."""
    found = await connection.fetchrow(FIND, dispute_id)
    if found is None or merchant_id not in (None, found["merchant_id"]):
        raise Problem("not_found")
    await _sale(connection, found["transaction_id"])
    row = await connection.fetchrow(LOCK, dispute_id)
    assert row is not None  # nothing is deleted
    return row


async def _day(connection: Connection, acquirer_id: UUID, now: datetime) -> asyncpg.Record:
    row = await connection.fetchrow(DAY, acquirer_id, now)
    if row is None:
        raise Problem("not_found", "There is no such acquirer.")
    return row


def _noticed(day: date, today: date) -> date:
    """Raises Problem invalid: a notice of tomorrow, or of years ago."""
    if not today - OLDEST <= day <= today + timedelta(days=1):
        raise Problem("invalid", "The notice is of a day that cannot be.", errors=[
            {"field": "noticed_on", "rule": f"not in the future, and at most {OLDEST.days} days ago", "type": "rule"}])
    return day


async def _times(connection: Connection, acquirer_id: UUID, brand: str, state: str, noticed_on: date,
                 zone: str) -> tuple[datetime | None, datetime | None]:
    if state not in TO_ANSWER:
        return None, None
    found = await connection.fetchrow(TERM, state, acquirer_id, brand)
    assert found is not None  # there is one for all
    return life.times(noticed_on, Term(*found), ZoneInfo(zone))
