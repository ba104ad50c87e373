"""The cut-over: one step machine per acquirer and business date, each step a row. It may be run again at any time and goes on where it was.

open     the next day is open and this one closing; the directory's change makes the workers use it
confirm  every live worker has confirmed a directory version that has it
wait     nothing of the day is SENT any more, or the time for that is over
take     the day is closed: the database refuses its intents; what had no outcome yet is written down
price    settlements with their priced lines, merchant by merchant (taking.py)
post     a transfer per settlement and pair of accounts (posting.py)
state    the settlements are shown to their merchants; reserves whose time has come go back
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg

from switch import logs
from switch.database import Connection
from switch.errors import Problem
from switch.failpoints import failpoint
from switch.ids import show
from switch.settlement.cutover import tempo
from switch.settlement.cutover.batch_rows import Day
from switch.settlement.cutover.posting import post_some, state_some
from switch.settlement.cutover.stated import announce
from switch.settlement.cutover.taking import Batch
from switch.settlement.fees.metering import Metered
from switch.settlement.fees.pricing import Pricing
from switch.settlement.funding import reserves
from switch.settlement.funding.business_days import calendar_of
from switch.settlement.funding.calendar import business_date_at
from switch.settlement.ledger import DAY_LOCK

STEPS = ("open", "confirm", "wait", "take", "price", "post", "state")
CONFIRM_S = 60.0  # for workers that live and yet do not read the directory: then a person must look
GRACE_S = 3.0  # intents that were on their way when their worker confirmed: send_not_after, and its commit
WAIT_MARGIN_S = 10.0  # over the acquirer's answer timeout
POLL_S = 0.1
LISTED = 100

Connect = Callable[[], Awaitable[Connection]]
Told = Callable[[Connection, Sequence[asyncpg.Record]], Awaitable[None]]


class Cutover(NamedTuple):
    """Where a cut-over stands. `waits_for`: why it cannot go on just now, empty when it is done."""

    acquirer_id: UUID
    business_date: date
    next_date: date
    step: str
    done: bool
    waits_for: str = ""


class LostHold(Exception):
    """Another runner has taken this cut-over over; this one stops, and has written nothing since."""


# The oldest day that is not finished: a cut-over that was begun, else the oldest day that is not closed.
DUE = """SELECT least(
  (SELECT min(business_date) FROM cutover WHERE acquirer_id = $1 AND ended_at IS NULL),
  (SELECT min(business_date) FROM business_day WHERE acquirer_id = $1 AND state <> 'closed'))"""
ACQUIRER = "SELECT name, calendar, answer_timeout_ms FROM directory_acquirer WHERE acquirer_id = $1"
CLOCK = "SELECT cut_over_minute, time_zone FROM directory_acquirer WHERE acquirer_id = $1"
LATER_DAY = "SELECT min(business_date) FROM business_day WHERE acquirer_id = $1 AND business_date > $2"
KNOWN_DAY = """SELECT coalesce(c.ended_at IS NOT NULL, false) AS finished FROM business_day d LEFT JOIN cutover c USING (acquirer_id, business_date)
WHERE d.acquirer_id = $1 AND d.business_date = $2"""
LOCK_DAY = f"SELECT pg_advisory_xact_lock({DAY_LOCK}, day_lock($1, $2))"
RUN_LOCK = "SELECT pg_try_advisory_lock(3583012, day_lock($1, date '2000-01-01'))"
OPEN_NEXT = "INSERT INTO business_day (acquirer_id, business_date) VALUES ($1, $2) ON CONFLICT (acquirer_id, business_date) DO NOTHING"
CLOSING = "UPDATE business_day SET state = 'closing' WHERE acquirer_id = $1 AND business_date < $2 AND state = 'open'"
CLOSED = "UPDATE business_day SET state = 'closed', closed_at = now() WHERE acquirer_id = $1 AND business_date = $2"
BEGIN = """INSERT INTO cutover (acquirer_id, business_date, next_date) VALUES ($1, $2, $3)
ON CONFLICT (acquirer_id, business_date) DO UPDATE SET epoch = cutover.epoch + 1 RETURNING epoch, next_date"""
FENCE = "SELECT 1 FROM cutover WHERE acquirer_id = $1 AND business_date = $2 AND epoch = $3 FOR NO KEY UPDATE"
END = "UPDATE cutover SET ended_at = now() WHERE acquirer_id = $1 AND business_date = $2 AND ended_at IS NULL"
STEP_BEGUN = """INSERT INTO cutover_step (acquirer_id, business_date, step) VALUES ($1, $2, $3)
ON CONFLICT (acquirer_id, business_date, step) DO UPDATE SET state = cutover_step.state
RETURNING state, extract(epoch FROM clock_timestamp() - started_at)::float8 AS seconds"""
STEP_TOLD = "UPDATE cutover_step SET detail = $4::jsonb WHERE acquirer_id = $1 AND business_date = $2 AND step = $3 AND state = 'running'"
STEP_DONE = """UPDATE cutover_step SET state = 'done', ended_at = clock_timestamp(), detail = $4::jsonb
WHERE acquirer_id = $1 AND business_date = $2 AND step = $3 AND state = 'running'"""
STANDS = """SELECT c.business_date, c.next_date, c.started_at, c.ended_at, coalesce(jsonb_agg(jsonb_build_object('step', s.step, 'state', s.state,
  'started_at', s.started_at, 'ended_at', s.ended_at, 'detail', s.detail) ORDER BY s.started_at)
  FILTER (WHERE s.step IS NOT NULL), '[]')::text AS steps
FROM cutover c LEFT JOIN cutover_step s USING (acquirer_id, business_date)
WHERE c.acquirer_id = $1 AND ($2::date IS NULL OR c.business_date = $2) AND ($3::date IS NULL OR c.business_date < $3)
GROUP BY c.acquirer_id, c.business_date ORDER BY c.business_date DESC LIMIT $4"""
VERSION = "SELECT coalesce(max(version), 0) FROM directory_change WHERE kind = 'business_day' AND key = $1"
BEHIND = "SELECT epoch FROM worker WHERE ended_at IS NULL AND lease_until > now() AND directory_version < $1 ORDER BY epoch"
LEFT_OPEN = """SELECT transaction_id FROM sent_transaction WHERE acquirer_id = $1 AND business_date = $2
ORDER BY transaction_id LIMIT $3"""
LEFT_COUNT = "SELECT count(*) FROM sent_transaction WHERE acquirer_id = $1 AND business_date = $2"
TOTALS = """SELECT count(*) AS settlements, coalesce(sum(sales_count), 0)::bigint AS sales, coalesce(sum(refunds_count), 0)::bigint AS refunds,
  coalesce(sum(adjustments_count), 0)::bigint AS adjustments FROM settlement WHERE acquirer_id = $1 AND business_date = $2"""
# What has no outcome when the day is taken settles when it has one.
CARRY = """
INSERT INTO late_change (merchant_id, transaction_id, acquirer_id, for_date)
SELECT t.merchant_id, t.transaction_id, t.acquirer_id, t.business_date FROM open_transaction t
  WHERE t.acquirer_id = $1 AND t.business_date = $2
UNION ALL
SELECT t.merchant_id, t.transaction_id, t.acquirer_id, t.business_date FROM duty d JOIN transaction t USING (merchant_id, transaction_id)
  WHERE d.state = 'parked' AND t.acquirer_id = $1 AND t.business_date = $2 AND t.state = 'PARKED'
ON CONFLICT (merchant_id, transaction_id) DO UPDATE SET settled_on = NULL RETURNING transaction_id"""


async def run(connect: Connect, acquirer_id: UUID, business_date: date | None = None, *, pricing: Pricing | None = None, told: Told = announce,
              grace_s: float = GRACE_S, wait_s: float | None = None, confirm_s: float = CONFIRM_S, gentle: bool = False,
              now: datetime | None = None) -> Cutover:
    """Runs the cut-over of a business date, by default the oldest that is not finished, to its end or to where it must wait.

    `connect` opens a writer's connection; two are used, and closed. `told` is called in the commit that states settlements. `wait_s`: how
    long open transactions are waited for at most; by default the acquirer's answer timeout and a margin. `gentle`: slower, beside payments.
    `now`: as `day_to_run`. Raises Problem: not_found, conflict (an earlier day is not finished; another runner works).
    """
    writer = await connect()
    try:
        runner = Runner(connect, writer, await day_to_run(writer, acquirer_id, business_date, now), pricing or Metered(), told)
        runner.grace_s, runner.wait_s, runner.confirm_s = grace_s, wait_s, confirm_s
        runner.pace = tempo.GENTLE if gentle else tempo.BRISK
        return await runner.run()
    finally:
        await writer.close()


async def day_to_run(connection: Connection, acquirer_id: UUID, business_date: date | None, now: datetime | None = None) -> Day:
    """The day that is asked for, by default the oldest that is not finished. `now`: of a person who asks, perhaps once too often: a day that has not
    begun must be named. Raises Problem: not_found, conflict."""
    oldest = await connection.fetchval(DUE, acquirer_id)
    day = oldest if business_date is None else business_date
    known = await connection.fetchrow(KNOWN_DAY, acquirer_id, day)
    if known is None:
        raise Problem("not_found", "This acquirer has no such business day.")
    if not known["finished"] and oldest is not None and oldest < day:
        raise Problem("conflict", f"The business day {oldest} is not finished; days are cut over in their order.")
    if business_date is None and now is not None:
        row = await connection.fetchrow(CLOCK, acquirer_id)
        assert row is not None  # it has a business day
        if day > (running := business_date_at(now, row["cut_over_minute"], ZoneInfo(row["time_zone"]))):
            raise Problem("conflict", f"Every business day up to {running} is closed; {day} has not begun. Name it to close it all the same.")
    return Day(acquirer_id, day)


async def stands(connection: Connection, acquirer_id: UUID, business_date: date | None = None, before: date | None = None,
                 limit: int = 50) -> list[dict[str, Any]]:
    """Cut-overs with their steps, the latest first."""
    rows = await connection.fetch(STANDS, acquirer_id, business_date, before, limit)
    return [{**dict(row), "steps": json.loads(row["steps"])} for row in rows]


class Runner:
    """One run. Its session lock keeps others away while it lives, its epoch stops it when its lock was lost."""

    grace_s: float = GRACE_S
    wait_s: float | None = None
    confirm_s: float = CONFIRM_S
    pace: tempo.Tempo = tempo.BRISK

    def __init__(self, connect: Connect, writer: Connection, day: Day, pricing: Pricing, told: Told) -> None:
        self.connect, self.writer, self.day, self.pricing, self.told = connect, writer, day, pricing, told
        self.next_date, self.epoch = day.business_date, 0

    async def run(self) -> Cutover:
        if not await self.writer.fetchval(RUN_LOCK, *self.day[:1]):
            raise Problem("conflict", "A cut-over of this acquirer is running; ask how it stands.")
        await self._open()
        for step, work in zip(STEPS[1:], (self._confirm, self._wait, self._take, self._price, self._post, self._state), strict=True):
            begun = await self.writer.fetchrow(STEP_BEGUN, *self.day, step)
            assert begun is not None
            if begun["state"] == "running":
                waits_for = await work(begun["seconds"])
                if waits_for:
                    return Cutover(*self.day, self.next_date, step, False, waits_for)
        return Cutover(*self.day, self.next_date, STEPS[-1], True)

    async def _fence(self) -> None:
        if await self.writer.fetchval(FENCE, *self.day, self.epoch) is None:
            raise LostHold

    @asynccontextmanager
    async def _commit(self, step: str) -> AsyncIterator[None]:
        """One commit of a step: ours, or none."""
        async with self.writer.transaction():
            await self._fence()
            yield
            failpoint(f"cutover.{step}")

    async def _done(self, step: str, **detail: Any) -> None:
        await self.writer.execute(STEP_DONE, *self.day, step, json.dumps(detail))
        logs.info("cutover", acquirer_id=self.day.acquirer_id, detail=f"{self.day.business_date} {step}")

    async def _open(self) -> None:
        """Opens the next business day, unless the acquirer itself has opened a later one."""
        acquirer_id, business_date = self.day
        acquirer = await self.writer.fetchrow(ACQUIRER, acquirer_id)
        assert acquirer is not None
        if self.wait_s is None:
            self.wait_s = acquirer["answer_timeout_ms"] / 1000 + WAIT_MARGIN_S
        calendar = await calendar_of(self.writer, acquirer["calendar"], business_date)
        async with self.writer.transaction():
            wanted = await self.writer.fetchval(LATER_DAY, *self.day) or calendar.after(business_date)
            row = await self.writer.fetchrow(BEGIN, *self.day, wanted)
            assert row is not None
            self.epoch, self.next_date = row["epoch"], row["next_date"]
            begun = await self.writer.fetchrow(STEP_BEGUN, *self.day, "open")
            assert begun is not None
            if begun["state"] == "running":
                await self.writer.execute(OPEN_NEXT, acquirer_id, self.next_date)
                await self.writer.execute(CLOSING, acquirer_id, self.next_date)
                await self._done("open", next=self.next_date.isoformat())
            failpoint("cutover.open")

    async def _confirm(self, seconds: float) -> str:
        """A dead worker is none; one that lives must have read the new day."""
        version = await self.writer.fetchval(VERSION, str(self.day.acquirer_id))
        until = asyncio.get_running_loop().time() + self.confirm_s
        while behind := [row[0] for row in await self.writer.fetch(BEHIND, version)]:
            if asyncio.get_running_loop().time() > until:
                await self.writer.execute(STEP_TOLD, *self.day, "confirm", json.dumps({"version": version, "workers_behind": behind}))
                return f"workers {', '.join(map(str, behind))} have not confirmed directory version {version}"
            await asyncio.sleep(POLL_S)
        async with self._commit("confirm"):
            await self._done("confirm", version=version)
        return ""

    async def _wait(self, seconds: float) -> str:
        assert self.wait_s is not None
        until = asyncio.get_running_loop().time() + max(0.0, self.wait_s - seconds)
        await asyncio.sleep(max(0.0, self.grace_s - seconds))
        while (count := await self.writer.fetchval(LEFT_COUNT, *self.day)) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(POLL_S)
        left = [show("transaction", row[0]) for row in await self.writer.fetch(LEFT_OPEN, *self.day, LISTED)]
        async with self._commit("wait"):
            await self._done("wait", without_outcome=count, listed=left)
        return ""

    async def _take(self, seconds: float) -> str:
        """Waits for the intents that hold the day, then nobody can write one: what the next statements see is all there will be."""
        async with self._commit("take"):
            await self.writer.execute(LOCK_DAY, *self.day)
            await self.writer.execute(CLOSED, *self.day)
            carried = [show("transaction", row[0]) for row in await self.writer.fetch(CARRY, *self.day)]
            await self._done("take", carried=len(carried), listed=carried[:LISTED])
        return ""

    async def _price(self, seconds: float) -> str:
        reader = await self.connect()
        try:
            await Batch(reader, self.writer, self.day, self.pricing, self._progress, self.pace).settle()
        finally:
            await reader.close()
        async with self._commit("price_end"):
            found = await self.writer.fetchrow(TOTALS, *self.day)
            assert found is not None
            await self._done("price", **dict(found))
        return ""

    async def _progress(self, lines: int) -> None:
        """In each commit of the batch: whether it is still ours, and how far it is."""
        await self._fence()
        await self.writer.execute(STEP_TOLD, *self.day, "price", json.dumps({"lines": lines}))

    async def _post(self, seconds: float) -> str:
        posted = -1
        while posted:
            async with self._commit("post"):
                posted = await post_some(self.writer, *self.day, self.pace.settlements)
            failpoint("cutover.posted")
            await asyncio.sleep(self.pace.pause_s)
        async with self._commit("post_end"):
            await self._done("post")
        return ""

    async def _state(self, seconds: float) -> str:
        stated = -1
        while stated:
            async with self._commit("state"):
                rows = await state_some(self.writer, *self.day, self.pace.settlements)
                await self.told(self.writer, rows)
                stated = len(rows)
            failpoint("cutover.stated")
            await asyncio.sleep(self.pace.pause_s)
        released = -1
        while released:
            async with self._commit("release"):
                released = await reserves.release(self.writer, self.day.business_date)
        async with self._commit("state_end"):
            await self._done("state")
            await self.writer.execute(END, *self.day)
        return ""
