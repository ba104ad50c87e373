"""Tickets, changes of acquirer, leavings, acceptance tests and roll-outs, each life drawn against the database: alone, repeated, out of order, by two at once."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from switch import database
from switch.database import Pool, work
from switch.merchants import terminal_keys
from switch.merchants.leaving.departures import Departures
from switch.merchants.leaving.life import LIFE as LEAVING
from switch.merchants.moving.life import LIFE as MOVING
from switch.merchants.moving.life import Share
from switch.merchants.moving.moves import Moves
from switch.merchants.support.life import LIFE as SUPPORT
from switch.merchants.support.tickets import About, Move, Tickets, Who
from switch.payments.resolution import Person
from switch.terminals import devices
from switch.terminals.acceptance import SHOW, Acceptance
from switch.terminals.acceptance_life import LIFE as TESTING
from switch.terminals.devices import By, Devices, Keys
from switch.terminals.releases import Releases
from switch.terminals.rollout import LIFE as ROLLING
from tests.lives import PEOPLE, Drawn, draw

BY = By("Li Wei", "ok_z")
KEYS = Keys(terminal_keys.issue, terminal_keys.revoke, terminal_keys.erase)


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    opened = await database.pool(database_url, "switch_writer", 4)
    yield opened
    await opened.close()


async def installed(machine: Drawn, model: str) -> tuple[UUID, UUID]:
    """A device at a new till, activated, and the till."""
    store = (await machine.onboarding.store(await machine.merchant(), "Store")).store_id
    till = (await machine.onboarding.terminal(store, "Till")).terminal_id
    fleet = Devices(machine.pool, machine.pool, KEYS)
    device_id = await fleet.register(uuid4().hex[:16].upper(), model, BY, "bought")
    await fleet.move(device_id, "order", BY, "x", store_id=store)
    await fleet.move(device_id, "ship", BY, "x")
    await fleet.move(device_id, "install", BY, "x", terminal_id=till)
    await step_device(machine.pool, device_id, "activate")
    return device_id, till


async def step_device(pool: Pool, device_id: UUID, event: str) -> None:
    async with work(pool) as connection:
        await devices.moved(connection, KEYS, await devices.locked(connection, device_id), event, BY, "x")


class Ticket(Drawn):
    AROUND = frozenset({"device_move"})  # a swap leaves a device that is not live yet, which nobody can take to repair
    LIFE, CODE, BEGUN = SUPPORT, "ticket_move", ("open", "open", "Chen Jie", "It prints nothing")
    ROW = "SELECT state, version FROM ticket WHERE ticket_id = $1"
    TOLD = "SELECT number, event, state, person, text FROM ticket_event WHERE ticket_id = $1 ORDER BY number"

    async def made(self) -> UUID:
        _, self.till = await installed(self, "PX1")
        self.tickets = Tickets(self.pool, KEYS)
        return await self.tickets.open(About(terminal_id=self.till), "Paper", self.BEGUN[3], "high", Who("Chen Jie", "ok_x", True))

    async def ready(self) -> None:
        """The device at the till is live or in repair, and another one stands by."""
        async with work(self.pool) as connection:
            bound = await connection.fetchrow("SELECT device_id, state FROM device WHERE terminal_id = $1", self.till)
        assert bound is not None
        steps = {"installed": ("activate", "go_live"), "activated": ("go_live",)}.get(bound["state"], ())
        for event in steps:
            await step_device(self.pool, bound["device_id"], event)

    async def move(self, event: str, by: Person, reason: str) -> None:
        spare = await Devices(self.pool, self.pool, KEYS).register(uuid4().hex[:16].upper(), "PX1", BY, "bought") if event == "swap" else None
        step = Move(event, reason, by.name if event in ("assign", "take_over") else None, spare)
        await self.tickets.move(self.id, step, Who(by.name, by.key_id, event not in ("answer", "withdraw")))

    def theirs(self, event: str, person: Person) -> bool:
        has = next((name for event, _, name, _ in reversed(self.history) if event in ("assign", "take_over")), person.name)
        return event == "assign" and self.state == "assigned" and has != person.name


class Change(Drawn):
    LIFE, CODE, BEGUN = MOVING, "move_step", ("plan", "planned", "Chen Jie", "cheaper")
    ROW = "SELECT state, version FROM merchant_move WHERE move_id = $1"
    TOLD = "SELECT number, event, state, person, reason FROM merchant_move_event WHERE move_id = $1 ORDER BY number"
    acquirers: Any = None

    async def made(self) -> UUID:
        if Change.acquirers is None:
            Change.acquirers = [(await self.onboarding.acquirer(f"{name}-{uuid4().hex[:8]}", "iso87_ascii", "127.0.0.1", 5000)).acquirer_id
                                for name in ("old", "new")]
        merchant, (old, new) = await self.merchant(), Change.acquirers
        await self.onboarding.route(old, merchant)
        self.moves = Moves(self.pool, self.pool)
        found: UUID = (await self.moves.plan(merchant, old, new, None, PEOPLE[0], self.BEGUN[3])).row["move_id"]
        return found

    async def move(self, event: str, by: Person, reason: str) -> None:
        await self.moves.step(self.id, event, Share(100) if event == "share" else None, by, reason)


class End(Drawn):
    LIFE, CODE, BEGUN = LEAVING, "leaving_step", ("notice", "noticed", "Chen Jie", "it closes")
    ROW = "SELECT state, version FROM merchant_leaving WHERE leaving_id = $1"
    TOLD = "SELECT number, event, state, person, reason FROM merchant_leaving_event WHERE leaving_id = $1 ORDER BY number"

    async def made(self) -> UUID:
        self.departures = Departures(self.pool, self.pool)
        found: UUID = (await self.departures.begin(await self.merchant(), PEOPLE[0], self.BEGUN[3])).row["leaving_id"]
        return found

    async def move(self, event: str, by: Person, reason: str) -> None:
        await self.departures.step(self.id, event, by, reason)


class Trial(Drawn):
    LIFE, CODE, BEGUN = TESTING, "acceptance_move", ("open", "open", "Li Wei", "installed")
    ROW = "SELECT state, version FROM acceptance_test WHERE test_id = $1"
    TOLD = "SELECT number, event, state, person, reason FROM acceptance_event WHERE test_id = $1 ORDER BY number"
    planned = False

    async def made(self) -> UUID:
        device_id, _ = await installed(self, "PX2")
        self.acceptance = Acceptance(self.pool, self.pool, KEYS)
        if not Trial.planned:
            await self.acceptance.plan("PX2", {"steps": [{"step": "chip"}], "checks": [], "roles": []}, None, BY, "x")
            Trial.planned = True
        return await self.acceptance.open(device_id, BY, self.BEGUN[3])

    async def ready(self) -> None:
        """Its one step is shown, once it runs; by what, is another test's matter."""
        async with work(self.pool) as connection:
            row = await connection.fetchrow("SELECT state, steps FROM acceptance_test WHERE test_id = $1 AND NOT EXISTS (SELECT FROM acceptance_step s "
                                            "WHERE s.test_id = acceptance_test.test_id)", self.id)
            for number, each in enumerate(json.loads(row["steps"]) if row is not None and row["state"] == "running" else [], 1):
                await connection.execute(SHOW, self.id, number, each["step"], each["dialect"], uuid4(), True, "[]", "[]", *BY)

    async def move(self, event: str, by: Person, reason: str) -> None:
        await self.acceptance.move(self.id, event, By(by.name, by.key_id), reason)


class Stages(Drawn):
    LIFE, CODE, BEGUN = ROLLING, "rollout_move", ("begin", "running", "Chen Jie", "faster")
    ROW = "SELECT state, number AS version FROM rollout WHERE rollout_id = $1"
    TOLD = "SELECT number, event, state, person, reason FROM rollout_event WHERE rollout_id = $1 ORDER BY number"
    known = False

    async def made(self) -> UUID:
        self.releases, self.percent = Releases(self.pool, self.pool), 1
        if not Stages.known:
            for version in ("1", "2"):
                await self.releases.add("PX3", version, "https://bank.example/px3", "0" * 64, 1, "", "Li Wei")
            Stages.known = True
        return await self.releases.begin("PX3", "2", "1", 1, None, "Chen Jie", self.BEGUN[3])

    async def move(self, event: str, by: Person, reason: str) -> None:
        self.percent += event == "advance"
        await self.releases.change(self.id, event, self.percent if event == "advance" else None, by.name, reason)


@pytest.mark.parametrize(("machine", "examples"), [(Ticket, 40), (Change, 40), (End, 20), (Trial, 30), (Stages, 30)], ids=lambda each: getattr(each, "__name__", ""))
async def test_a_life_drawn_at_random_is_the_table_and_nothing_else(pool: Pool, machine: type[Drawn], examples: int) -> None:
    await draw(machine, pool, examples)
