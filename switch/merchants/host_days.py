"""What a host says of its business day (0800/201): kept, and followed as far as the acquirer's record allows. It never closes a day by itself."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from switch import alerts, logs
from switch.database import UNKNOWN, Pool
from switch.errors import Problem
from switch.ids import show
from switch.merchants.rules import check
from switch.settlement.jobs import table

CUT_OVER_DAYS_MAX = 7
JOB = "cutover"


@dataclass(frozen=True, slots=True)
class Notice:
    """`business_date` None: no day near `open_date` has that month and day. `count`: hosts say it on each line."""

    acquirer_id: UUID
    notice_id: int
    month_day: str
    open_date: date
    business_date: date | None
    action: str  # opened recorded asked known refused
    count: int
    first_at: datetime
    last_at: datetime


class Said(NamedTuple):
    """What a message comes to."""

    business_date: date | None
    action: str


def day_meant(today: date, month_day: str) -> date | None:
    """The day of an MMDD: its year is the one that puts it nearest to the open day. None: no such day."""
    candidates = []
    for shift in (-1, 0, 1):
        with suppress(ValueError):
            candidates.append(date(today.year + shift, int(month_day[:2]), int(month_day[2:])))
    return min(candidates, key=lambda candidate: abs((candidate - today).days), default=None)


ACTIONS = {"open": "opened", "record": "recorded", "cut_over": "asked"}


def decide(today: date, month_day: str, policy: str) -> Said:
    """`today`: the acquirer's open day. A day that is open already is known; one that is not within a week after it is refused."""
    meant = day_meant(today, month_day)
    if meant is None or not 0 <= (meant - today).days <= CUT_OVER_DAYS_MAX:
        return Said(None, "refused")
    return Said(meant, "known" if meant == today else ACTIONS[policy])


LOOK = """SELECT a.host_cut_over, (SELECT max(d.business_date) FROM business_day d
  WHERE d.acquirer_id = a.acquirer_id AND d.state = 'open') AS open_date
FROM acquirer a WHERE a.acquirer_id = $1 FOR NO KEY UPDATE"""
KEEP = """INSERT INTO host_cut_over AS kept (acquirer_id, month_day, open_date, business_date, action) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT ON CONSTRAINT host_cut_over_once DO UPDATE SET count = kept.count + 1, last_at = now() RETURNING count"""
NOTICES = """SELECT acquirer_id, notice_id, month_day, open_date, business_date, action, count, first_at, last_at FROM host_cut_over
WHERE acquirer_id = $1 AND ($2::bigint IS NULL OR notice_id < $2) ORDER BY notice_id DESC LIMIT $3"""
POLICY = "SELECT host_cut_over FROM acquirer WHERE acquirer_id = $1"
SET_POLICY = "UPDATE acquirer SET host_cut_over = $2 WHERE acquirer_id = $1 RETURNING host_cut_over"


class HostDays:
    """`open_day` opens an acquirer's business day (Onboarding)."""

    def __init__(self, pool: Pool, open_day: Callable[[UUID, date], Awaitable[None]]) -> None:
        self.pool, self.open_day = pool, open_day

    async def said(self, acquirer_id: UUID, month_day: str) -> None:
        """The host opened a new business day: DE15 of its 0800/201. Raises what UNKNOWN lists: then it is not kept."""
        async with self.pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(LOOK, acquirer_id)
            if row is None or row["open_date"] is None:
                return
            today, said = row["open_date"], decide(row["open_date"], month_day, row["host_cut_over"])
            count = await connection.fetchval(KEEP, acquirer_id, month_day, today, said.business_date, said.action)
            if count == 1 and said.action in ("recorded", "refused"):
                await alerts.raise_within(connection, "host_cut_over", show("acquirer", acquirer_id))
            if count == 1 and said.action == "asked":
                await table.ask(connection, JOB, table.Due(f"{show('acquirer', acquirer_id)}:{today}", {
                    "acquirer": show("acquirer", acquirer_id), "business_date": today.isoformat()}), "the acquirer's host")
        logs.info("cut_over_said", acquirer_id=acquirer_id, state=said.action, detail=said.business_date or "not within a week after the open day")
        if count == 1 and said.action in ("recorded", "refused"):
            alerts.announce("host_cut_over", show("acquirer", acquirer_id))
        if said.action in ("opened", "asked") and said.business_date is not None:
            with suppress(Problem):  # conflict: somebody has opened a later one meanwhile
                await self.open_day(acquirer_id, said.business_date)

    async def notices(self, acquirer_id: UUID, after: int | None, limit: int) -> list[Notice]:
        """Newest first. Raises Problem: not_found, not_ready."""
        try:
            async with self.pool.acquire() as connection:
                if await connection.fetchval(POLICY, acquirer_id) is None:
                    raise Problem("not_found")
                return [Notice(*row) for row in await connection.fetch(NOTICES, acquirer_id, after, limit)]
        except UNKNOWN:
            raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None

    async def policy(self, acquirer_id: UUID, wanted: str | None = None) -> str:
        """What its host's cut-over does: open, record, cut_over; from now on `wanted` if given. Raises Problem: not_found, invalid, not_ready."""
        check(host_cut_over=wanted)
        try:
            async with self.pool.acquire() as connection:
                row = await (connection.fetchval(POLICY, acquirer_id) if wanted is None else connection.fetchval(SET_POLICY, acquirer_id, wanted))
        except UNKNOWN:
            raise Problem("not_ready", "The database does not answer. Look first whether it was written.", retry_after=2) from None
        if row is None:
            raise Problem("not_found")
        return str(row)
