"""Offers of acquirers, what was measured of them, and what merchants say: in the database. Measured figures come from recorded transactions alone."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.clock import clock
from switch.database import Connection, Pool, work
from switch.errors import Problem
from switch.ids import lowest
from switch.merchants import BRANDS
from switch.merchants.applications.opening import new_id
from switch.merchants.choosing.months import BOUNDS_MS, Month, estimate, first_of
from switch.settlement.fees import tariffs
from switch.settlement.fees.bills import Bill
from switch.settlement.fees.terms import TermsError, tariff_from
from switch.settlement.jobs.table import Due, Run

PAGE_MAX, OFFERS_MAX = 200, 100
DAYS_BACK = 3  # that the job looks for, should it have been away

ADD = """INSERT INTO acquirer_offer (offer_id, acquirer_id, name, country, terms, funding_days, created_by)
VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7)"""
GET = "SELECT * FROM acquirer_offer WHERE offer_id = $1"
PAGE = "SELECT * FROM acquirer_offer WHERE ($1::uuid IS NULL OR offer_id < $1) AND ($2::text IS NULL OR state = $2) ORDER BY offer_id DESC LIMIT $3"
ACTIVATE = """UPDATE acquirer_offer SET state = 'active', activated_by = $2, activated_at = now() WHERE offer_id = $1 AND state = 'draft'
RETURNING true"""
RETIRE = "UPDATE acquirer_offer SET state = 'retired', retired_by = $2, retired_at = now() WHERE offer_id = $1 AND state <> 'retired' RETURNING true"
IN_FORCE = """SELECT o.* FROM acquirer_offer o WHERE o.state = 'active' AND (o.country IS NULL OR $1::text IS NULL OR o.country = $1)
ORDER BY o.offer_id LIMIT $2"""
_BUCKET = "width_bucket(greatest(0, extract(epoch FROM outcome_at - received_at) * 1000)::numeric, $4::numeric[])"
# First requests of a UTC day, each attempt at the acquirer that got it. Answered: it said yes or no.
MEASURE = f"""INSERT INTO acquirer_measured (acquirer_id, day, asked, approved, declined, minutes, minutes_answered, times)
SELECT acquirer_id, $1, count(*), count(*) FILTER (WHERE outcome = 'APPROVED'), count(*) FILTER (WHERE outcome = 'DECLINED'),
  count(DISTINCT minute), count(DISTINCT minute) FILTER (WHERE outcome IN ('APPROVED', 'DECLINED')),
  ARRAY[{", ".join(f"count(*) FILTER (WHERE bucket = {number} AND outcome IN ('APPROVED', 'DECLINED'))" for number in range(len(BOUNDS_MS) + 1))}]
FROM (SELECT acquirer_id, outcome, date_trunc('minute', received_at) AS minute, {_BUCKET} AS bucket FROM history_transaction
      WHERE transaction_id >= $2 AND transaction_id < $3 AND exchange = 'request' AND original_id IS NULL) AS t
GROUP BY acquirer_id ON CONFLICT (acquirer_id, day) DO NOTHING"""
FIGURES = """SELECT acquirer_id, sum(asked)::bigint AS asked, sum(approved)::bigint AS approved, sum(declined)::bigint AS declined,
  sum(minutes)::bigint AS minutes, sum(minutes_answered)::bigint AS minutes_answered,
  max(measured_at) AS measured_at
FROM acquirer_measured WHERE acquirer_id = ANY($1::uuid[]) AND day >= $2 GROUP BY acquirer_id"""
TIMES = """SELECT m.acquirer_id, u.place, sum(u.count)::bigint AS count FROM acquirer_measured m, unnest(m.times) WITH ORDINALITY AS u(count, place)
WHERE m.acquirer_id = ANY($1::uuid[]) AND m.day >= $2 GROUP BY m.acquirer_id, u.place ORDER BY u.place"""
RATE = """INSERT INTO acquirer_rating (merchant_id, acquirer_id, number, stars, words, person)
VALUES ($1, $2, (SELECT 1 + coalesce(max(number), 0) FROM acquirer_rating WHERE merchant_id = $1 AND acquirer_id = $2), $3, $4, $5) RETURNING *"""
# Who sold through it: settled with it at any time, or approved there in the last days.
SOLD = """SELECT EXISTS (SELECT FROM settlement WHERE merchant_id = $1 AND acquirer_id = $2 AND sales_count > 0)
OR EXISTS (SELECT FROM history_transaction WHERE merchant_id = $1 AND transaction_id >= $3 AND acquirer_id = $2 AND outcome = 'APPROVED')"""
RATINGS = """SELECT acquirer_id, count(*) AS count, sum(stars)::bigint AS stars FROM (
  SELECT DISTINCT ON (acquirer_id, merchant_id) acquirer_id, stars FROM acquirer_rating WHERE acquirer_id = ANY($1::uuid[])
  ORDER BY acquirer_id, merchant_id, number DESC) AS newest GROUP BY acquirer_id"""
KNOWN = "SELECT EXISTS (SELECT FROM directory_acquirer WHERE acquirer_id = $1)"


class Compared(NamedTuple):
    """An offer beside the others. `bill`: of the month that was asked for; None: it has no price for it, and `why` says so."""

    row: asyncpg.Record
    bill: Bill | None
    why: str
    figures: asyncpg.Record | None
    times: tuple[int, ...]
    rating: asyncpg.Record | None


class Offers:
    """Raises Problem: not_found, invalid, conflict, not_ready."""

    def __init__(self, writers: Pool, readers: Pool) -> None:
        self.writers, self.readers = writers, readers

    async def add(self, acquirer_id: UUID, name: str, country: str | None, terms: Mapping[str, Any], funding_days: int, by: str) -> asyncpg.Record:
        """A draft. `terms`: a document of fees as merchants' tariffs have it (docs/fees.md)."""
        try:
            tariff_from(dict(terms), brands=BRANDS)
        except TermsError as error:
            raise Problem("invalid", "One or more fields are wrong; see errors.",
                          errors=[{"field": f"terms{fault.place.replace('/', '.')}", "rule": fault.rule, "type": "rule"}
                                  for fault in error.faults]) from None
        async with work(self.writers) as connection:
            if not await connection.fetchval(KNOWN, acquirer_id):
                raise Problem("not_found")
            await connection.execute(ADD, identity := new_id(), acquirer_id, name, country, json.dumps(dict(terms)), funding_days, by)
            return await self._get(connection, identity)

    async def switch(self, offer_id: UUID, by: str, *, on: bool) -> asyncpg.Record:
        """On: a draft is shown to all from now on. Off: for good; again changes nothing."""
        async with work(self.writers) as connection:
            await self._get(connection, offer_id)
            if on and not await connection.fetchval(ACTIVATE, offer_id, by):
                raise Problem("conflict", "Only a draft can be switched on; add the offer anew.")
            if not on:
                await connection.execute(RETIRE, offer_id, by)
            return await self._get(connection, offer_id)

    async def page(self, before: UUID | None, state: str | None, limit: int) -> list[asyncpg.Record]:
        async with work(self.readers) as connection:
            return await connection.fetch(PAGE, before, state, min(limit, PAGE_MAX) + 1)

    async def compare(self, month: Month, country: str | None, days: int) -> list[Compared]:
        """Every offer in force, the cheapest first; those without a price last. `days`: the window of what was measured."""
        now = clock.now()
        since = now.date() - timedelta(days=days)
        async with work(self.readers) as connection:
            rows = await connection.fetch(IN_FORCE, country, OFFERS_MAX)
            acquirers = sorted({row["acquirer_id"] for row in rows})
            figures = {row["acquirer_id"]: row for row in await connection.fetch(FIGURES, acquirers, since)}
            times = await connection.fetch(TIMES, acquirers, since)
            ratings = {row["acquirer_id"]: row for row in await connection.fetch(RATINGS, acquirers)}
        _, costs = await tariffs.prices(self.readers, UUID(int=0), set(acquirers))
        first = datetime.combine(first_of(now.date()), time(), UTC)
        found = []
        for row in rows:
            billed, why = priced(dict(row), costs, month, first)
            found.append(Compared(row, billed, why, figures.get(row["acquirer_id"]),
                                  tuple(each["count"] for each in times if each["acquirer_id"] == row["acquirer_id"]),
                                  ratings.get(row["acquirer_id"])))
        return sorted(found, key=lambda each: (each.bill is None, 0 if each.bill is None else total(each.bill, month.currency)))

    async def rate(self, merchant_id: UUID, acquirer_id: UUID, stars: int, words: str, by: str) -> asyncpg.Record:
        """One that counts per merchant and acquirer: the newest. Raises Problem conflict: it did not sell through it."""
        async with work(self.writers) as connection:
            if not await connection.fetchval(KNOWN, acquirer_id):
                raise Problem("not_found")
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"rating {merchant_id} {acquirer_id}")
            if not await connection.fetchval(SOLD, merchant_id, acquirer_id, lowest(clock.now() - timedelta(days=2))):
                raise Problem("conflict", "Only who sold through an acquirer rates it.")
            row = await connection.fetchrow(RATE, merchant_id, acquirer_id, stars, words, by)
            assert row is not None
            return row

    async def measure(self, day: date) -> int:
        """Sums a UTC day up, once; how many acquirers had sales on it."""
        begin = datetime.combine(day, time(), UTC)
        async with work(self.writers) as connection:
            done = await connection.execute(MEASURE, day, lowest(begin), lowest(begin + timedelta(days=1)), list(BOUNDS_MS))
        return int(done.split()[-1])

    async def due(self, now: datetime) -> Sequence[Due]:
        """Days that are over, each once."""
        return [Due(f"measured:{day}", {"day": day.isoformat()}) for day in (now.date() - timedelta(days=back) for back in range(1, DAYS_BACK + 1))]

    async def do(self, run: Run) -> Mapping[str, Any]:
        return {"acquirers": await self.measure(date.fromisoformat(run.job.arguments["day"]))}

    async def _get(self, connection: Connection, offer_id: UUID) -> asyncpg.Record:
        row = await connection.fetchrow(GET, offer_id)
        if row is None:
            raise Problem("not_found")
        return row


def priced(row: Any, costs: Mapping[UUID | None, Any], month: Month, first: datetime) -> tuple[Bill | None, str]:
    """The bill of a month under an offer, or why there is none."""
    tariff = tariff_from(json.loads(row["terms"]), tariff_id=row["offer_id"])
    found = estimate(tariff, costs, month, first, row["acquirer_id"])
    if found.unpriced:
        return None, "it has no price in this currency"
    if any(not each.cost_rule and any(line.kind == "interchange" for line in each.lines) for each in found.priced):
        return None, "it passes interchange on, and none is known"
    return found, ""


def total(found: Bill, currency: str) -> int:
    """What a month costs in all: fees, what is charged by the month, tax on top."""
    totals = found.totals[currency]
    return totals.fees + totals.periodic + totals.tax_on_top
