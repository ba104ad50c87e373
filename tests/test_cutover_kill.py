"""kill -9 at each place of a cut-over: whoever runs it next ends it, and the books are those of a run that nobody disturbed."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from settled import DAY, ONE_DAY, Row, Till, open_till

from switch.failpoints import SETTLEMENT
from tests.cutting import BUSY
from tests.processes import ROOT, environment

MERCHANTS = 5
MANY = ("cutover.price", "cutover.priced", "cutover.post", "cutover.posted", "cutover.state", "cutover.stated")
CASES = [*((name, 1) for name in SETTLEMENT), *((name, 2) for name in MANY)]


@dataclass
class Shop:
    """Several merchants of one acquirer; a day that is settled, with an outcome that came late, a reserve to give back, and a day to be cut over."""

    tills: list[Till]

    @property
    def acquirer(self) -> Any:
        return self.tills[0].acquirer

    async def books(self) -> list[Row]:
        """Everything that a cut-over writes but ids and times, in an order of the merchants' own."""
        place = {till.merchant: number for number, till in enumerate(self.tills)}
        fetch = self.tills[0].fetch
        settlements = await fetch("""SELECT merchant_id, business_date, state, sales_count, sales, refunds, adjustments, fees, net, reserve_held,
            reserve_released_at IS NOT NULL AS released FROM settlement WHERE acquirer_id = $1""", self.acquirer)
        lines = await fetch("""SELECT merchant_id, business_date, kind, for_date, gross, fee FROM settlement_line WHERE acquirer_id = $1""", self.acquirer)
        entries = await fetch("""SELECT a.merchant_id, a.kind, e.amount, e.cause, e.business_date FROM ledger_entry e JOIN account a USING (account_id)
            WHERE e.object IN (SELECT 'set_' || settlement_id FROM settlement WHERE acquirer_id = $1)""", self.acquirer)
        late = await fetch("SELECT merchant_id, for_date, settled_on FROM late_change WHERE acquirer_id = $1", self.acquirer)
        days = await fetch("SELECT business_date, state FROM business_day WHERE acquirer_id = $1", self.acquirer)
        steps = await fetch("SELECT business_date, step, state FROM cutover_step WHERE acquirer_id = $1", self.acquirer)
        rows = [{**row, "merchant_id": place.get(row["merchant_id"]) if "merchant_id" in row else None}
                for row in (*settlements, *lines, *entries, *late, *days, *steps)]
        return sorted(rows, key=repr)


async def make(owner: asyncpg.Connection, url: str) -> Shop:
    tills = [await open_till(url, owner=owner, reserve_basis_points=500, reserve_days=1) for _ in range(MERCHANTS)]
    for till in tills[1:]:
        till.acquirer = tills[0].acquirer
    shop, late = Shop(tills), []
    for number, till in enumerate(tills):
        till.number = 1000 * number  # their RRNs are of one acquirer
        await till.made(amount=10_000 + number)
        late.append(await till.new(amount=500 + number))
    await tills[0].cut()
    for number, till in enumerate(tills):
        till.day = DAY + ONE_DAY
        for amount in (1000, 2000, 3000):
            sold = await till.made(amount=amount + number)
        await till.follow(sold, "refund", 100)
        await till.step(late[number], "APPROVED")
    await tills[1].new(amount=77)  # without an outcome when the day is taken
    return shop


def start(shop: Shop, order: str = "") -> subprocess.Popen[bytes]:
    more = {"SWITCH_TESTING": "1", "SWITCH_FAILPOINT": order} if order else {}
    return subprocess.Popen([sys.executable, "-m", "tests.cutting", shop.tills[0].url, str(shop.acquirer), (DAY + ONE_DAY).isoformat()],
                            env=environment(ROOT, **more), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def ended(*processes: subprocess.Popen[bytes]) -> list[int]:
    return [await asyncio.to_thread(process.wait, 60) for process in processes]


@pytest_asyncio.fixture(scope="module")
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def shop(owner: asyncpg.Connection, database_url: str) -> Shop:
    return await make(owner, database_url)


@pytest_asyncio.fixture(scope="module")
async def undisturbed(owner: asyncpg.Connection, database_url: str) -> list[Row]:
    shop = await make(owner, database_url)
    assert await ended(start(shop)) == [0]
    return await shop.books()


def test_the_undisturbed_books_hold_something(undisturbed: list[Row]) -> None:
    causes = {row["cause"] for row in undisturbed if "cause" in row}
    assert causes == {"sales", "refunds", "adjustments", "fees", "reserve_held", "reserve_released"}
    assert {row["kind"] for row in undisturbed if "for_date" in row and "gross" in row} == {"sale", "refund", "adjustment"}


@pytest.mark.parametrize(("name", "occurrence"), CASES)
async def test_killed_there_and_run_again_the_books_are_the_same(shop: Shop, undisturbed: list[Row], name: str, occurrence: int) -> None:
    assert await ended(start(shop, f"{name}:{occurrence}:kill")) == [-signal.SIGKILL], "nobody was killed there: this showed nothing"
    assert await ended(start(shop)) == [0]
    assert await shop.books() == undisturbed


async def test_several_at_once_are_one(shop: Shop, undisturbed: list[Row]) -> None:
    codes = await ended(*(start(shop) for _ in range(3)))
    assert set(codes) <= {0, BUSY} and 0 in codes
    assert await shop.books() == undisturbed


@contextmanager
def standing_still(shop: Shop, place: str) -> Iterator[subprocess.Popen[bytes]]:
    """A cut-over that stops at a failpoint; it does not outlive the test."""
    process = start(shop, f"{place}:1:stop")
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def held(process: subprocess.Popen[bytes]) -> None:
    """Until it stands still where its failpoint is."""
    for _ in range(600):
        assert process.poll() is None, "it ended: nobody stood still there"
        if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it does not stand still")


@pytest.mark.parametrize("place", ["cutover.open", "cutover.priced"])
async def test_of_two_processes_the_second_is_turned_away_and_later_finds_it_done(shop: Shop, undisturbed: list[Row], place: str) -> None:
    with standing_still(shop, place) as first:
        await held(first)
        stood = await shop.books()
        assert await ended(start(shop)) == [BUSY]
        assert await shop.books() == stood, "who is turned away has written nothing"
        first.send_signal(signal.SIGCONT)
        assert await ended(first) == [0]
    assert await ended(start(shop)) == [0], "done already"
    assert await shop.books() == undisturbed


async def test_one_that_lost_its_connection_while_it_stood_still_writes_nothing_after_the_other(shop: Shop, undisturbed: list[Row]) -> None:
    with standing_still(shop, "cutover.priced") as first:
        await held(first)
        assert await shop.tills[0].fetch("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = 3583012 AND granted")
        assert await ended(start(shop)) == [0]
        first.send_signal(signal.SIGCONT)
        assert await ended(first) != [0]
    assert await shop.books() == undisturbed


async def test_killed_again_and_again_it_still_ends(shop: Shop, undisturbed: list[Row]) -> None:
    for name in ("cutover.take", "cutover.priced", "cutover.priced", "cutover.posted", "cutover.stated", "cutover.state_end"):
        assert await ended(start(shop, f"{name}:1:kill")) == [-signal.SIGKILL]
    assert await ended(start(shop)) == [0]
    assert await shop.books() == undisturbed
