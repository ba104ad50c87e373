"""Leased slots: never more lines than the acquirer takes, whoever asks at once, dies or stands still."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest_asyncio
import rows

from switch import database
from switch.database import Connection
from switch.links.slots import TRUSTED_S, Place, Slots
from tests.conftest import create_database
from tests.flows import eventually, open_shop


@pytest_asyncio.fixture(scope="module")
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def acquirer(owner: asyncpg.Connection, max_links: int) -> UUID:
    acquirer_id = uuid4()
    await rows.insert(owner, "acquirer", acquirer_id=acquirer_id, name=f"bank-{acquirer_id.hex[:8]}", dialect="iso87_ascii", message_mode="single",
                      max_links=max_links)
    return acquirer_id


class Worker:
    """One worker's slots, looked at when the test says so. `told`: the last it heard of each acquirer."""

    def __init__(self, url: str, epoch: int, connection: Connection) -> None:
        self.connection, self.epoch, self.told = connection, epoch, dict[UUID, Place]()
        self.slots = Slots(lambda: database.connect(url, "switch_writer"), epoch, f"host:/run/{epoch}.sock")

    def want(self, acquirer_id: UUID, limit: int) -> None:
        self.slots.want(acquirer_id, limit, lambda place: self.told.update({acquirer_id: place}))

    async def look(self, acquirer_id: UUID) -> Place:
        await self.slots.look(self.connection)
        return self.told[acquirer_id]


class Office(list[Worker]):
    """Workers on one database, all of them wanting a slot."""

    def __init__(self, url: str, owner: asyncpg.Connection) -> None:
        self.url, self.owner = url, owner

    async def hire(self, count: int, acquirer_id: UUID, limit: int) -> "Office":
        for _ in range(count):
            epoch = await self.owner.fetchval(
                "INSERT INTO worker (host, pid, lease_until) VALUES ('here', 1, now() + interval '1 hour') RETURNING epoch")
            self.append(Worker(self.url, epoch, await database.connect(self.url, "switch_writer")))
            self[-1].want(acquirer_id, limit)
        return self


@pytest_asyncio.fixture
async def office(database_url: str, owner: asyncpg.Connection) -> AsyncIterator[Office]:
    hired = Office(database_url, owner)
    yield hired
    for worker in hired:
        await worker.connection.close()


async def run_out(owner: asyncpg.Connection, worker: Worker) -> None:
    await owner.execute("UPDATE link_slot SET lease_until = now() - interval '1 ms' WHERE epoch = $1", worker.epoch)


async def test_of_workers_that_ask_at_once_as_many_get_a_slot_as_there_are(office: Office, owner: asyncpg.Connection) -> None:
    for limit in (1, 3):
        bank = await acquirer(owner, limit)
        several = await Office(office.url, owner).hire(8, bank, limit)
        office.extend(several)
        held: list[Worker] = []
        for _ in range(limit + 2):  # those who were slower at the same slot take the next one at the next look, and then nothing changes
            places = await asyncio.gather(*(worker.look(bank) for worker in several))
            before, held = held, [worker for worker, place in zip(several, places, strict=True) if place.held]
            assert set(before) <= set(held) and 1 <= len(held) <= limit
        assert len(held) == limit
        taken = await owner.fetch("SELECT slot, epoch FROM link_slot WHERE acquirer_id = $1 ORDER BY slot", bank)
        assert [row["slot"] for row in taken] == list(range(1, limit + 1)) and {row["epoch"] for row in taken} == {worker.epoch for worker in held}
        for worker, place in zip(several, places, strict=True):
            assert worker.slots.may_write(bank) is place.held
            assert place.held or sorted(place.holders) == sorted(each.slots.address for each in held)


async def test_a_slot_that_ran_out_is_anothers_and_its_former_holder_learns_it(office: Office, owner: asyncpg.Connection) -> None:
    bank = await acquirer(owner, 1)
    first, second = await office.hire(2, bank, 1)
    assert (await first.look(bank)).held and not (await second.look(bank)).held
    await run_out(owner, first)
    assert (await second.look(bank)).held
    assert await first.look(bank) == Place(False, (second.slots.address,)) and not first.slots.may_write(bank)
    assert (await second.look(bank)).held


async def test_a_holder_that_finds_its_slot_run_out_and_free_takes_it_anew(office: Office, owner: asyncpg.Connection) -> None:
    bank = await acquirer(owner, 1)
    (only,) = await office.hire(1, bank, 1)
    assert (await only.look(bank)).held
    await run_out(owner, only)
    assert (await only.look(bank)).held and only.slots.may_write(bank)


async def test_the_slot_of_an_ended_worker_is_free_at_once_and_the_ended_one_gets_none(office: Office, owner: asyncpg.Connection) -> None:
    bank = await acquirer(owner, 1)
    first, second = await office.hire(2, bank, 1)
    assert (await first.look(bank)).held
    await owner.execute("UPDATE worker SET ended_at = now() WHERE epoch = $1", first.epoch)
    assert (await second.look(bank)).held
    await run_out(owner, second)
    assert not (await first.look(bank)).held and not first.slots.may_write(bank)


async def test_what_is_not_renewed_may_not_write_long_before_another_may_take_it(office: Office, owner: asyncpg.Connection) -> None:
    bank = await acquirer(owner, 1)
    first, second = await office.hire(2, bank, 1)
    await first.look(bank)
    first.slots.held[bank] = time.monotonic() - TRUSTED_S + 0.5
    assert first.slots.may_write(bank)
    first.slots.held[bank] = time.monotonic() - TRUSTED_S - 0.01
    assert not first.slots.may_write(bank)
    assert not (await second.look(bank)).held
    left = await owner.fetchval("SELECT extract(epoch FROM lease_until - now())::float8 FROM link_slot WHERE acquirer_id = $1", bank)
    assert 9 < left <= 10


async def test_a_renewal_counts_from_when_it_was_asked_for(office: Office, owner: asyncpg.Connection) -> None:
    bank = await acquirer(owner, 1)
    (only,) = await office.hire(1, bank, 1)
    await only.look(bank)
    async with owner.transaction():
        await owner.execute("SELECT FROM link_slot WHERE epoch = $1 FOR UPDATE", only.epoch)
        asked_at, looking = time.monotonic(), asyncio.create_task(only.look(bank))
        await asyncio.sleep(0.3)
    await looking
    assert abs(only.slots.held[bank] - asked_at) < 0.1


async def test_a_lower_limit_takes_the_slots_above_it_away(office: Office, owner: asyncpg.Connection) -> None:
    bank = await acquirer(owner, 2)
    first, second = await office.hire(2, bank, 2)
    assert (await first.look(bank)).held and (await second.look(bank)).held
    await owner.execute("UPDATE acquirer SET max_links = 1 WHERE acquirer_id = $1", bank)
    first.want(bank, 1)
    second.want(bank, 1)
    assert ((await first.look(bank)).held, (await second.look(bank)).held) == (True, False)
    assert not second.slots.may_write(bank)


async def test_a_slot_that_is_given_back_is_anothers_at_once(office: Office, owner: asyncpg.Connection) -> None:
    bank = await acquirer(owner, 1)
    first, second = await office.hire(2, bank, 1)
    await first.look(bank)
    await first.slots.release(bank)
    assert not first.slots.may_write(bank)
    assert (await second.look(bank)).held


async def test_the_work_takes_renews_and_survives_a_database_that_is_away(database_url: str, owner: asyncpg.Connection) -> None:
    bank = await acquirer(owner, 1)
    epoch = await owner.fetchval("INSERT INTO worker (host, pid, lease_until) VALUES ('here', 1, now() + interval '1 hour') RETURNING epoch")
    made: list[Connection] = []

    async def connect() -> Connection:
        if len(made) == 1:
            made.append(made[0])
            raise OSError
        made.append(await database.connect(database_url, "switch_writer"))
        return made[-1]

    slots, told = Slots(connect, epoch, "host:/x"), list[Place]()
    task = asyncio.create_task(slots.work())
    await asyncio.sleep(0.05)
    assert made == [], "nobody limits its lines: nothing is asked"
    slots.want(bank, 1, told.append)
    async with asyncio.timeout(5):
        while not told:
            await asyncio.sleep(0.01)
    assert told[0].held
    made[0].terminate()
    seen = len(told)
    async with asyncio.timeout(8):
        while len(told) < seen + 2:
            await asyncio.sleep(0.01)
    assert told[-1].held and len(made) == 3
    task.cancel()
    await asyncio.wait([task])


async def test_a_worker_whose_acquirers_line_is_on_another_machine_answers_503_and_writes_nothing(cluster_url: str, tmp_path: Path) -> None:
    async with open_shop(await create_database(cluster_url), tmp_path) as shop:
        elsewhere = (await shop.sql("INSERT INTO worker (host, pid, lease_until) VALUES ('elsewhere', 1, now() + interval '1 hour') RETURNING epoch"))[0]
        bank = shop.ids["acquirer.single"]
        await shop.sql("INSERT INTO link_slot VALUES ($1, 1, $2, now() + interval '1 hour', 'elsewhere:/run/1.sock')", bank, elsewhere["epoch"])
        changed = await shop.ask("PATCH", f"/v1/acquirers/{shop.shown('acquirer.single')}", {"max_links": 1}, "operator")
        assert (changed.status, changed.body["max_links"]) == (200, 1)
        await shop.caught_up()
        refused = await shop.pay(1000)
        assert (refused.status, refused.body["code"], refused.body["processed"]) == (503, "acquirer_unavailable", False)
        assert await shop.sql("SELECT 1 FROM transaction") == []
        await shop.sql("UPDATE worker SET ended_at = now() WHERE epoch = $1", elsewhere["epoch"])

        async def sold() -> bool:
            return (await shop.pay(1000)).status == 201

        await eventually(sold, "the line does not come here")
        back = await shop.ask("PATCH", f"/v1/acquirers/{shop.shown('acquirer.single')}", {"max_links": 0}, "operator")
        assert back.status == 200
        await shop.caught_up()
        await eventually(sold, "the line of its own does not come up")
        assert await shop.sql("SELECT 1 FROM link_slot WHERE lease_until > now()") == []
