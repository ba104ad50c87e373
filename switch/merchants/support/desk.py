"""Tickets as they are read: the queue, one with its words, and the facts behind the causes that are suggested."""

import json
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.clock import clock
from switch.database import Connection, Pool, work
from switch.errors import Problem
from switch.ids import lowest, show
from switch.merchants.support.causes import LOOK_BACK, Cause, Declines, Facts, Health, Line, causes
from switch.merchants.support.tickets import COLUMNS, Who

PAGE_MAX = 200
ROWS_MAX = 50

ONE = f"SELECT {COLUMNS} FROM ticket WHERE ticket_id = $1 AND ($2::uuid IS NULL OR merchant_id = $2) AND ($3::uuid IS NULL OR store_id = $3)"
PAGE = f"""SELECT {COLUMNS} FROM ticket WHERE ($1::uuid IS NULL OR merchant_id = $1) AND ($2::uuid IS NULL OR store_id = $2)
AND ($3::text IS NULL OR state = $3) AND ($4::uuid IS NULL OR terminal_id = $4) AND ($5::uuid IS NULL OR ticket_id < $5)
ORDER BY ticket_id DESC LIMIT $6"""
# Overdue ones first, then by severity, then by which deadline comes next.
QUEUE = f"""SELECT {", ".join(f"t.{name.strip()}" for name in COLUMNS.split(","))}, coalesce(t.answer_by <= $1, false) OR t.resolve_by <= $1 AS late
FROM ticket t JOIN ticket_term r USING (severity) WHERE t.resolve_by IS NOT NULL AND ($2::text IS NULL OR t.assignee = $2)
ORDER BY late DESC, r.rank, least(t.answer_by, t.resolve_by), t.ticket_id LIMIT $3"""
EVENTS = """SELECT number, event, was, state, person, support, internal, text, device_id, replacement_id, at FROM ticket_event
WHERE ticket_id = $1 AND ($2 OR NOT internal) ORDER BY event_id"""
HELP = """SELECT ARRAY(SELECT slug FROM help_article a WHERE $1 = ANY(topics) AND NOT withdrawn
  AND NOT EXISTS (SELECT FROM help_article n WHERE n.slug = a.slug AND n.number > a.number) ORDER BY slug LIMIT 20)"""
RATING = "SELECT stars, text, at FROM ticket_rating WHERE ticket_id = $1"
TERMS = "SELECT severity, answer_minutes, resolve_minutes, set_by, set_at FROM ticket_term ORDER BY rank"
STATUS = "SELECT status FROM directory_merchant WHERE merchant_id = $1"
TILL = """SELECT t.status, (SELECT count(*) FROM directory_api_key k WHERE k.terminal_id = t.terminal_id AND k.revoked_at IS NULL
  AND (k.expires_at IS NULL OR k.expires_at > $2)) AS keys
FROM directory_terminal t WHERE t.terminal_id = $1"""
HEALTH = """SELECT d.device_id, d.state, d.tampered_at, h.last_at, h.silent_since, h.battery_percent, h.charging, h.paper
FROM device d LEFT JOIN device_health h USING (device_id) WHERE d.terminal_id = $1"""
# Of the acquirers that have numbers for the terminal: those that a sale of it may go to.
LINES = """SELECT l.acquirer_id, l.signed_on, l.shown, l.at FROM worker w JOIN worker_line l USING (epoch)
WHERE w.ended_at IS NULL AND w.lease_until > now() AND l.acquirer_id IN (SELECT acquirer_id FROM directory_acquirer_terminal WHERE terminal_id = $1)
ORDER BY l.acquirer_id, l.epoch"""
DECLINED = """SELECT response_code, reason, count(*)::integer AS count, (array_agg(transaction_id ORDER BY transaction_id DESC))[1] AS last,
  max(outcome_at) AS last_at
FROM history_transaction WHERE merchant_id = $1 AND terminal_id = $2 AND transaction_id > $3 AND state = 'DECLINED'
GROUP BY response_code, reason ORDER BY count(*) DESC LIMIT $4"""
LIMITS = """SELECT why, sum(times)::integer AS count, max(last_at) AS last_at FROM risk_hit
WHERE merchant_id = $1 AND ($2::uuid IS NULL OR terminal_id = $2) AND source = 'limit' AND hit_id > $3
GROUP BY why ORDER BY max(last_at) DESC LIMIT $4"""
TROUBLE = """SELECT kind, object, last_at FROM alert WHERE kind IN ('mac_fault', 'working_keys_refused') AND last_at > $1
AND object IN (SELECT 'acq_' || acquirer_id FROM directory_acquirer_terminal WHERE terminal_id = $2) ORDER BY last_at DESC LIMIT $3"""


class Whole(NamedTuple):
    row: asyncpg.Record
    events: list[asyncpg.Record]
    rating: asyncpg.Record | None
    articles: list[str]


class Wanted(NamedTuple):
    """What a list is narrowed by; None is no limit."""

    state: str | None = None
    terminal_id: UUID | None = None
    before: UUID | None = None


class SupportDesk:
    """Raises Problem: not_found, not_ready."""

    def __init__(self, readers: Pool) -> None:
        self.readers = readers

    async def page(self, who: Who, wanted: Wanted, limit: int) -> list[asyncpg.Record]:
        """Newest first."""
        async with work(self.readers) as connection:
            return await connection.fetch(PAGE, who.merchant_id, who.store_id, *wanted, min(limit, PAGE_MAX + 1))

    async def queue(self, assignee: str | None, limit: int) -> list[asyncpg.Record]:
        """What waits for support or for the merchant, the most urgent first."""
        async with work(self.readers) as connection:
            return await connection.fetch(QUEUE, clock.now(), assignee, min(limit, PAGE_MAX))

    async def one(self, ticket_id: UUID, who: Who) -> Whole:
        """In one snapshot; internal words are for support alone."""
        async with work(self.readers) as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            row = await _one(connection, ticket_id, who)
            return Whole(row, await connection.fetch(EVENTS, ticket_id, who.support), await connection.fetchrow(RATING, ticket_id),
                         await connection.fetchval(HELP, row["category"]))

    async def terms(self) -> list[asyncpg.Record]:
        async with work(self.readers) as connection:
            return await connection.fetch(TERMS)

    async def causes(self, ticket_id: UUID, who: Who) -> list[Cause]:
        """As they are now."""
        async with work(self.readers) as connection:
            row = await _one(connection, ticket_id, who)
            return causes(await facts(connection, row["merchant_id"], row["terminal_id"], clock.now()))


async def _one(connection: Connection, ticket_id: UUID, who: Who) -> asyncpg.Record:
    row = await connection.fetchrow(ONE, ticket_id, who.merchant_id, who.store_id)
    if row is None:
        raise Problem("not_found")
    return row


async def facts(connection: Connection, merchant_id: UUID, terminal_id: UUID | None, now: datetime) -> Facts:
    """What is recorded about a merchant, and about its terminal when there is one."""
    since, after = now - LOOK_BACK, lowest(now - LOOK_BACK)
    merchant = await connection.fetchval(STATUS, merchant_id)
    limits = tuple((each["why"], each["count"], each["last_at"])
                   for each in await connection.fetch(LIMITS, merchant_id, terminal_id, after, ROWS_MAX))
    if terminal_id is None:
        return Facts(now, merchant, limits=limits)
    till, device = await connection.fetchrow(TILL, terminal_id, now), await connection.fetchrow(HEALTH, terminal_id)
    assert till is not None  # the ticket refers to it
    return Facts(
        now, merchant, till["status"], till["keys"], None if device is None else Health(show("device", device[0]), *tuple(device)[1:]),
        tuple(_line(each) for each in await connection.fetch(LINES, terminal_id)),
        tuple(Declines(each["response_code"], each["reason"], each["count"], show("transaction", each["last"]), each["last_at"])
              for each in await connection.fetch(DECLINED, merchant_id, terminal_id, after, ROWS_MAX)),
        limits, tuple((each["kind"], each["object"], each["last_at"]) for each in await connection.fetch(TROUBLE, since, terminal_id, ROWS_MAX)))


def _line(row: asyncpg.Record) -> Line:
    shown: dict[str, Any] = json.loads(row["shown"])
    ends = [datetime.fromisoformat(each["certificate_ends_at"]) for each in shown.get("lines", ()) if each.get("certificate_ends_at")]
    return Line(show("acquirer", row["acquirer_id"]), row["signed_on"], shown["state"], shown.get("breaker"), min(ends, default=None), row["at"])

