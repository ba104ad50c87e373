"""What is due by the calendar: begun when the wall clock of the acquirer says so, once, and never by the midnight of UTC."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
import pytest_asyncio

from switch import database
from switch.errors import Problem
from switch.settlement.cutover import steps
from switch.settlement.cutover.schedule import CutOvers
from switch.settlement.cutover.steps import Cutover
from switch.settlement.funding.payable import shares
from switch.settlement.jobs import table
from switch.settlement.jobs.foreman import Foreman
from switch.settlement.jobs.table import Due, Kind, NotYet, Run, Unfit, kinds_of
from switch.settlement.payouts import runs
from switch.settlement.payouts.schedule import After, PayDays
from tests.flows import Shop, eventually, open_shop
from tests.settlements import DAY


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("schedules")) as opened:
        yield opened


def cut_overs(shop: Shop) -> CutOvers:
    return CutOvers(lambda: database.connect(shop.url, "switch_reader"), lambda acquirer, day: steps.run(shop.switch._writer, acquirer, day, grace_s=0.1))


@pytest.mark.parametrize(("zone", "minute", "ends"), [
    ("UTC", 1440, datetime(2026, 11, 26, 0, 0, tzinfo=UTC)), ("Asia/Shanghai", 1440, datetime(2026, 11, 25, 16, 0, tzinfo=UTC)),
    ("Asia/Shanghai", 1380, datetime(2026, 11, 25, 15, 0, tzinfo=UTC)), ("America/New_York", 1500, datetime(2026, 11, 26, 6, 0, tzinfo=UTC)),
])
async def test_a_day_is_due_at_the_acquirers_own_hour(shop: Shop, zone: str, minute: int, ends: datetime) -> None:
    acquirer = shop.ids["acquirer.single"]
    await shop.sql("DELETE FROM business_day WHERE acquirer_id = $1", acquirer)
    await shop.sql("INSERT INTO business_day (acquirer_id, business_date) VALUES ($1, $2)", acquirer, DAY)
    await shop.sql("UPDATE acquirer SET time_zone = $2, cut_over_minute = $3 WHERE acquirer_id = $1", acquirer, zone, minute)

    async def due(now: datetime) -> list[Due]:
        return [each for each in await cut_overs(shop).due(now) if each.arguments["acquirer"] == shop.shown("acquirer.single")]

    assert await due(ends - timedelta(seconds=1)) == []
    assert await due(ends) == [Due(f"{shop.shown('acquirer.single')}:2026-11-25", {"acquirer": shop.shown("acquirer.single"), "business_date": "2026-11-25"})]


async def test_the_end_of_the_day_settles_it_by_itself_and_once(shop: Shop) -> None:
    """Two workers look each second; the day, and those after it up to now, are cut over in their order."""
    acquirer, today = shop.ids["acquirer.dual"], datetime.now(UTC).date()
    await shop.sql("UPDATE acquirer SET time_zone = 'UTC', cut_over_minute = 1440 WHERE acquirer_id = $1", acquirer)
    await shop.sql("DELETE FROM business_day WHERE acquirer_id = $1", acquirer)
    await shop.sql("INSERT INTO business_day (acquirer_id, business_date) VALUES ($1, $2)", acquirer, today - timedelta(days=2))
    await shop.sql("DELETE FROM business_day WHERE acquirer_id <> $1", acquirer)
    kind = Kind("cutover", "ends days", cut_overs(shop).do, "* * * * * */1", cut_overs(shop).due)
    foremen = [Foreman(kinds_of(kind), lambda role: database.connect(shop.url, role), lambda: database.pool(shop.url, "switch_writer", 4), 2.0) for _ in range(2)]
    tasks = [asyncio.create_task(each.work()) for each in foremen]
    try:
        async def both() -> bool:
            return len(await shop.sql("SELECT 1 FROM job WHERE kind = 'cutover' AND state = 'done'")) == 2

        await eventually(both, f"{await shop.sql('SELECT * FROM job')}", 40)
        await asyncio.sleep(1.5)
    finally:
        for each in foremen:
            await each.stop()
        await asyncio.gather(*tasks)
    done = await shop.sql("SELECT key, asked_by, detail FROM job WHERE kind = 'cutover' ORDER BY key")
    assert [(row["key"], row["asked_by"]) for row in done] == [(f"{shop.shown('acquirer.dual')}:{today - timedelta(days=back)}", "schedule") for back in (2, 1)]
    days = await shop.sql("SELECT business_date, state FROM business_day WHERE acquirer_id = $1 ORDER BY business_date", acquirer)
    assert [(row["business_date"], row["state"]) for row in days] == [(today - timedelta(days=2), "closed"), (today - timedelta(days=1), "closed"), (today, "open")]


class Told:
    """A cut-over that comes to what the test says."""

    def __init__(self, outcome: Cutover | Exception) -> None:
        self.outcome = outcome

    async def run(self, acquirer_id: object, business_date: date) -> Cutover:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(("outcome", "expected", "words"), [
    (Problem("conflict", "A cut-over of this acquirer is running; ask how it stands."), NotYet, "is running"),
    (steps.LostHold(), NotYet, "taken"), (Problem("not_found", "This acquirer has no such business day."), Unfit, "no such"),
])
async def test_what_is_not_done_waits_or_fails_with_words(shop: Shop, outcome: Exception, expected: type[Exception], words: str) -> None:
    async with shop.switch.writers.acquire() as connection, connection.transaction():
        job, _ = await table.ask(connection, "not_here", Due(words, {"acquirer": shop.shown("acquirer.dual"), "business_date": "2026-11-25"}), "Li Wei")
    with pytest.raises(expected, match=words):
        await CutOvers(lambda: database.connect(shop.url, "switch_reader"), Told(outcome).run).do(Run(job, shop.switch.writers))
    waiting = Cutover(shop.ids["acquirer.dual"], DAY, DAY, "wait", False, "2 payments have no outcome")
    with pytest.raises(NotYet, match="wait: 2 payments have no outcome"):
        await CutOvers(lambda: database.connect(shop.url, "switch_reader"), Told(waiting).run).do(Run(job, shop.switch.writers))


async def test_a_worker_without_schedules_looks_for_nothing(shop: Shop) -> None:
    assert shop.settings.schedules is False
    async def at_work() -> bool:
        return shop.switch.foreman.managers is not None

    await eventually(at_work, "the foreman does not begin")
    manager, scheduler = shop.switch.foreman.managers or (None, None)
    assert manager is not None and scheduler is not None
    assert {key.entrypoint for key in scheduler.registry} == {"put_back"}
    assert set(manager.entrypoint_registry) == {"export", "cutover", "payouts", "reconciliation", "dispute", "housekeeping", "measured", "licence",
                                                "contract", "reminder", "import", "former_keys", "former_stays", "former_health"}


class Watched:
    """The part of a job's run that pay days use."""

    def __init__(self) -> None:
        self.said: list[int] = []

    async def progress(self, done: int) -> None:
        self.said.append(done)


def outcome(number: int, paid: bool) -> runs.Outcome:
    return runs.Outcome(UUID(int=number), "CNY", shares(100 if paid else 0, 0, 0, (), True), UUID(int=900 + number) if paid else None)


async def test_pay_days_go_on_after_the_last_merchant_until_nobody_is_left() -> None:
    pages = {None: runs.Run([outcome(1, True), outcome(2, False)], True), (UUID(int=2), "CNY"): runs.Run([outcome(3, True)], False)}

    async def some(after: After) -> runs.Run:
        return pages[after]

    watched = Watched()
    days = PayDays(some)
    assert await days.due(datetime(2026, 11, 26, 3, 4, tzinfo=UTC)) == [Due("2026-11-26T03")]
    assert await days.do(watched) == {"looked_at": 3, "asked_for": 2}  # type: ignore[arg-type]
    assert watched.said == [2, 3]


async def test_pay_days_wait_while_the_books_are_away() -> None:
    async def away(after: After) -> runs.Run:
        raise Problem("not_ready", "The database went away.")

    with pytest.raises(NotYet):
        await PayDays(away).do(Watched())  # type: ignore[arg-type]
