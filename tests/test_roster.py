"""The roster: every worker tells of all lines, and their parts of what an acquirer takes add up to it, whoever comes, goes or stands still."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
import rows

from switch import database
from switch.database import Pool
from switch.links import Health, Share
from switch.links.roster import Roster
from tests.flows import Shop, eventually, open_shop

SHOWN = {"host": "127.0.0.1", "port": 1, "pending": 0, "window": 8, "last_error": None, "last_answer_at": None, "reconnects": 0}


@pytest.mark.parametrize("workers", range(1, 9))
@pytest.mark.parametrize("whole", [1, 2, 7, 8, 9, 200])
def test_the_parts_of_all_add_up_to_the_whole_and_differ_by_one_at_most(workers: int, whole: int) -> None:
    parts = [Share(workers, place).of(whole) for place in range(workers)]
    assert sum(parts) == whole and max(parts) - min(parts) <= 1


class Line:
    """A line as far as the roster looks."""

    def __init__(self, acquirer_id: UUID) -> None:
        self.acquirer_id, self.state, self.since = acquirer_id, "up", datetime.now(UTC)
        self.breakers = ["none"]  # one per line

    def health(self) -> list[Health]:
        return [Health(str(at), self.state, breaker, 0, None) for at, breaker in enumerate(self.breakers)]

    def snapshot(self) -> dict[str, Any]:
        lines = [{"line": str(at), "breaker": breaker, "since": self.since, "breaker_since": self.since, "certificate_ends_at": None}
                 for at, breaker in enumerate(self.breakers)]
        return {**SHOWN, "acquirer_id": str(self.acquirer_id), "name": "bank", "state": self.state, "since": self.since, "lines": lines}


class Team:
    """Workers on one database, each with a line to one acquirer of its own."""

    def __init__(self, pool: Pool, owner: asyncpg.Connection) -> None:
        self.pool, self.owner, self.bank = pool, owner, uuid4()
        self.rosters: list[Roster] = []
        self.lines: list[Line] = []

    async def hire(self, count: int) -> None:
        await rows.insert(self.owner, "acquirer", acquirer_id=self.bank, name=f"bank-{self.bank.hex[:8]}", dialect="iso87_ascii", message_mode="single")
        for _ in range(count):
            epoch = await self.owner.fetchval("INSERT INTO worker (host, pid, lease_until) VALUES ('here', 7, now() + interval '1 hour') RETURNING epoch")
            self.lines.append(Line(self.bank))
            self.rosters.append(Roster(self.pool, epoch, {self.bank: self.lines[-1]}))  # type: ignore[dict-item]

    async def look(self) -> list[Share | None]:
        for _ in range(2):  # the first writes what it has before the last has written
            for roster in self.rosters:
                await roster.look()
        return [roster.share(self.bank) for roster in self.rosters]

    async def worker(self, at: int, sets: str) -> None:
        await self.owner.execute(f"UPDATE worker SET {sets} WHERE epoch = $1", self.rosters[at].epoch)


@pytest_asyncio.fixture(scope="module")
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def team(database_url: str, owner: asyncpg.Connection) -> AsyncIterator[Team]:
    pool = await database.pool(database_url, "switch_writer", 2)
    team = Team(pool, owner)
    await team.hire(3)
    yield team
    for at in range(3):
        await team.worker(at, "ended_at = now()")
    await pool.close()


async def test_workers_that_are_signed_on_share_and_each_has_a_place(team: Team) -> None:
    assert await team.look() == [Share(3, 0), Share(3, 1), Share(3, 2)]


@pytest.mark.parametrize("state", ["disconnected", "connecting", "signing_on", "draining", "down"])
async def test_a_worker_whose_line_is_not_signed_on_leaves_its_part_to_the_others(team: Team, state: str) -> None:
    team.lines[0].state = state
    assert await team.look() == [None, Share(2, 0), Share(2, 1)]
    team.lines[0].state = "handed_over"
    assert await team.look() == [Share(3, 0), Share(3, 1), Share(3, 2)]


@pytest.mark.parametrize("sets", ["ended_at = now()", "lease_until = now() - interval '1 ms'"])
async def test_a_worker_that_is_dead_has_no_part(team: Team, sets: str) -> None:
    await team.look()
    await team.worker(1, sets)
    assert await team.look() == [Share(2, 0), None, Share(2, 1)]


async def test_what_was_not_read_for_a_while_is_not_known(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    await team.look()
    monkeypatch.setattr("switch.links.roster.KNOWN_S", 0.05)
    await asyncio.sleep(0.1)
    assert team.rosters[0].share(team.bank) is None
    await team.rosters[0].look()
    assert team.rosters[0].share(team.bank) == Share(3, 0)


async def test_what_does_not_change_is_written_now_and_then_and_a_change_at_once(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    async def written() -> datetime:
        return await team.owner.fetchval("SELECT at FROM worker_line WHERE epoch = $1", roster.epoch)  # type: ignore[no-any-return]

    roster, line = team.rosters[0], team.lines[0]
    await roster.look()
    first = await written()
    await roster.look()
    assert await written() == first
    line.state = "signing_on"
    await roster.look()
    second = await written()
    assert second > first
    monkeypatch.setattr("switch.links.roster.WRITE_S", 0.0)
    await roster.look()
    assert await written() > second


async def test_a_change_of_one_line_of_several_is_written_at_once_and_told_to_the_others(team: Team) -> None:
    await team.look()
    line = team.lines[1]
    for breakers in (["closed", "none"], ["open", "none"]):
        line.breakers = breakers
        await team.rosters[1].look()
        (told,) = [each for each in await team.rosters[0].others() if each["worker"] == team.rosters[1].epoch]
        assert [each["breaker"] for each in told["lines"]] == breakers
        assert told["lines"][0]["since"] == told["lines"][0]["breaker_since"] == line.since and told["lines"][0]["certificate_ends_at"] is None


async def test_the_others_lines_are_told_with_their_age_and_of_ended_workers_nothing(team: Team) -> None:
    await team.look()
    await team.owner.execute("UPDATE worker_line SET at = at - interval '7 seconds' WHERE epoch = $1", team.rosters[1].epoch)
    await team.worker(1, "lease_until = now() - interval '1 minute'")  # it stands still, and nobody has ended it yet
    told = [line for line in await team.rosters[0].others() if line["acquirer_id"] == str(team.bank)]
    assert [(line["worker"], line["machine"], line["pid"], line["state"]) for line in told] == [
        (roster.epoch, "here", 7, "up") for roster in team.rosters[1:]]
    assert told[0]["age_ms"] >= 7000 > told[1]["age_ms"] >= 0 and told[0]["since"] == team.lines[1].since
    await team.worker(1, "ended_at = now()")
    assert [line["worker"] for line in await team.rosters[0].others() if line["acquirer_id"] == str(team.bank)] == [team.rosters[2].epoch]


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("roster")) as shop:
        yield shop


async def test_each_worker_tells_of_the_lines_of_all(shop: Shop) -> None:
    other = Shop(shop.url, shop.settings, shop.host, shop.dual, shop.keys, shop.ids)
    await other.start(alone=False)
    try:
        for asked in (shop, other):
            async def all_there(asked: Shop = asked) -> Any:
                answer = await asked.ask("GET", "/v1/links", key="operator")
                assert answer.body["complete"] is True and answer.body["next"] is None
                there = {(line["name"], line["worker"]) for line in answer.body["items"] if line["state"] == "up"}
                return answer.body["items"] if there == {(name, each.switch.lease.epoch) for name in ("single", "dual") for each in (shop, other)} else None

            lines = await eventually(all_there, "a line is missing")
            assert [(line["name"], line["worker"]) for line in lines] == sorted((line["name"], line["worker"]) for line in lines)
            ages = {line["worker"]: line["age_ms"] for line in lines}
            assert ages.pop(asked.switch.lease.epoch) == 0 and all(0 <= age < 8000 for age in ages.values())
        await other.switch.links[shop.ids["acquirer.single"]].down()

        async def told() -> bool:
            lines = (await shop.ask("GET", "/v1/links", key="operator")).body["items"]
            return [line["state"] for line in lines if line["name"] == "single" and line["worker"] == other.switch.lease.epoch] == ["down"]

        await eventually(told, "the other worker does not hear of it", 2.0)
    finally:
        gone = other.switch.lease.epoch
        await other.stop()
    assert gone not in {line["worker"] for line in (await shop.ask("GET", "/v1/links", key="operator")).body["items"]}


async def test_without_the_database_a_worker_tells_of_its_own_lines_and_says_that_these_are_not_all(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> list[dict[str, Any]]:
        raise OSError("the database is away")

    monkeypatch.setattr(shop.switch.roster, "others", away)
    body = (await shop.ask("GET", "/v1/links", key="operator")).body
    assert body["complete"] is False and {line["worker"] for line in body["items"]} == {shop.switch.lease.epoch} and len(body["items"]) == 2
