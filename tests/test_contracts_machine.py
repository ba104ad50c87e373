"""A contract's life drawn by Hypothesis against the database: every move is one that the model allows, each has its row, and nothing is overwritten."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable
from datetime import date, timedelta
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from switch import database
from switch.clock import clock
from switch.database import Connection, Pool, work
from switch.errors import Problem
from switch.merchants.contracts import standard
from switch.merchants.contracts.cases import ADD, BEGIN, NOTE, moved, new_id
from switch.merchants.contracts.life import LIFE
from switch.merchants.contracts.signing import SIGN
from switch.merchants.onboarding import Onboarding
from switch.payments.resolution import Person
from switch.settlement.fees.tariffs import TARIFF, agree_within

T = TypeVar("T")
PEOPLE = (Person("Chen Jie", "ok_x"), Person("Wang Fang", "ok_y"))
HTML = "<p>terms</p>"
DIGEST = hashlib.sha256(HTML.encode()).digest()
DAY = date(2030, 1, 1)


async def document(connection: Connection, contract_id: UUID, number: int, html: str = HTML) -> None:
    await connection.execute(ADD, contract_id, number, "{}", "{}", html, hashlib.sha256(html.encode()).digest(), "Chen Jie")


async def draft(connection: Connection, merchant_id: UUID) -> UUID:
    identity = new_id()
    await connection.execute(BEGIN, identity, merchant_id, None)
    await connection.execute(NOTE, identity, 1, "draw_up", None, "draft", "Chen Jie", "ok_x", "", "{}")
    await document(connection, identity, 1)
    return identity


async def signed(connection: Connection, row: asyncpg.Record, side: str, digest: bytes = DIGEST) -> None:
    await connection.execute(SIGN, row["contract_id"], row["document"], side, digest, new_id(), "Wang Fang", 1, bytes(32), "k", bytes(29), "x", "y")


class Drawn(RuleBasedStateMachine):
    """The model: a state, the number of moves, and the history so far."""

    pool: Pool
    onboarding: Onboarding
    organisation: UUID
    loop: asyncio.AbstractEventLoop
    seen: Counter[str]

    def wait(self, given: Awaitable[T]) -> T:
        async def run() -> T:
            return await given

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(15)

    @initialize(first=st.sampled_from(sorted(LIFE)), person=st.sampled_from(PEOPLE))
    def begin(self, first: tuple[str, str], person: Person) -> None:
        """As far as the first drawn move can come, and that move."""
        async def made() -> None:
            self.merchant = (await self.onboarding.merchant(self.organisation, "Made", "5999")).merchant_id
            async with work(self.pool) as connection:
                self.id = await draft(connection, self.merchant)

        self.wait(made())
        self.state, self.history = "draft", [("draw_up", "draft", "Chen Jie", "")]
        far = ("draft", "offered", "signed_by_merchant", "in_force").index(first[0])
        for event in (*("offer", "sign", "countersign")[:far], first[1]):
            self.any_move(event, person, "on its way")

    async def move(self, event: str, by: Person, reason: str) -> None:
        async with work(self.pool) as connection:
            row = await connection.fetchrow("SELECT * FROM contract WHERE contract_id = $1 FOR NO KEY UPDATE", self.id)
            assert row is not None
            more: dict[str, Any] = {}
            if (row["state"], event) in LIFE:
                if event == "revise":
                    more["document"] = row["document"] + 1
                    await document(connection, self.id, row["document"] + 1)
                if event in ("sign", "countersign"):
                    await signed(connection, row, "merchant" if event == "sign" else "provider")
                if event == "countersign":
                    tariff = await agree_within(connection, TARIFF, self.merchant, DAY, standard.tariff("CNY"), by.name)
                    more |= {"tariff_id": tariff.ident, "from_on": DAY, "begins_at": clock.now()}
                if event in ("notice", "terminate", "expire"):
                    more |= {"ends_at": clock.now() + timedelta(days=1), "ends_as": "terminate" if event == "terminate" else "expire"}
            await moved(connection, row, event, by, reason, **more)

    @rule(event=st.sampled_from(sorted(LIFE.events)), person=st.sampled_from(PEOPLE), reason=st.sampled_from(["seen", ""]))
    def any_move(self, event: str, person: Person, reason: str) -> None:
        try:
            self.wait(self.move(event, person, reason))
        except Problem as problem:
            assert problem.code == "contract_move" and (self.state, event) not in LIFE
            return
        self.seen[f"{self.state} {event}"] += 1
        self.state = LIFE[self.state, event]
        self.history.append((event, self.state, person.name, reason))

    @rule(choice=st.integers(0, 99), person=st.sampled_from(PEOPLE))
    def next_move(self, choice: int, person: Person) -> None:
        able = sorted(event for state, event in LIFE if state == self.state)
        if able:
            self.any_move(able[choice % len(able)], person, "next")

    @rule(state=st.sampled_from(LIFE.states))
    def a_move_past_the_code_is_refused_by_the_database(self, state: str) -> None:
        """Whatever it writes, there is no row that says who and why."""
        async def write() -> None:
            async with work(self.pool) as connection:
                await connection.execute("UPDATE contract SET state = $2, version = version + 1 WHERE contract_id = $1", self.id, state)

        with pytest.raises(asyncpg.CheckViolationError):
            self.wait(write())

    @invariant()
    def the_history_is_whole(self) -> None:
        async def read() -> tuple[Any, list[Any]]:
            async with work(self.pool) as connection:
                return (await connection.fetchrow("SELECT * FROM contract WHERE contract_id = $1", self.id), await connection.fetch(
                    "SELECT number, event, state, person, reason FROM contract_event WHERE contract_id = $1 ORDER BY number", self.id))

        row, events = self.wait(read())
        assert (row["state"], row["version"]) == (self.state, len(self.history))
        assert [tuple(event) for event in events] == [(number, *told) for number, told in enumerate(self.history, 1)]


async def test_lives_drawn_at_random(database_url: str) -> None:
    pool = await database.pool(database_url, "switch_writer", 4)
    try:
        onboarding = Onboarding(pool)
        Drawn.pool, Drawn.onboarding, Drawn.loop = pool, onboarding, asyncio.get_running_loop()
        Drawn.organisation, Drawn.seen = (await onboarding.organisation("Made")).organisation_id, Counter()
        await asyncio.to_thread(run_state_machine_as_test, Drawn, settings=settings(
            max_examples=100, stateful_step_count=8, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck)))
        assert set(Drawn.seen) == {f"{state} {event}" for state, event in LIFE}, "a move was never drawn"
    finally:
        await pool.close()


@pytest.mark.parametrize("statement", ["UPDATE contract_event SET reason = 'x'", "UPDATE contract_document SET html = 'x'", "UPDATE contract_signature SET name = 'x'",
                                       "UPDATE contract SET merchant_id = NULL", "DELETE FROM contract_event", "DELETE FROM contract_signature"])
async def test_nothing_of_it_is_overwritten(database_url: str, statement: str) -> None:
    pool = await database.pool(database_url, "switch_writer", 1)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.execute(statement)
    finally:
        await pool.close()


async def test_the_database_takes_no_signature_of_another_version_no_forged_hash_and_no_second_contract(database_url: str) -> None:
    pool = await database.pool(database_url, "switch_writer", 2)
    try:
        onboarding = Onboarding(pool)
        merchant = (await onboarding.merchant((await onboarding.organisation("Made")).organisation_id, "Made", "5999")).merchant_id
        async with work(pool) as connection:
            identity = await draft(connection, merchant)
            await document(connection, identity, 2, "<p>other</p>")
            row = await connection.fetchrow("SELECT * FROM contract WHERE contract_id = $1", identity)
            assert row is not None
            for wrong in (hashlib.sha256(b"<p>other</p>").digest(), bytes(32)):
                with pytest.raises(asyncpg.ForeignKeyViolationError):
                    async with connection.transaction():
                        await signed(connection, row, "merchant", wrong)
            with pytest.raises(asyncpg.CheckViolationError):
                async with connection.transaction():
                    await connection.execute(ADD, identity, 3, "{}", "{}", HTML, bytes(32), "x")
            with pytest.raises(asyncpg.UniqueViolationError):
                async with connection.transaction():
                    await draft(connection, merchant)
            for _ in ("offer", "sign"):
                row = await moved(connection, row, _, PEOPLE[0], json.dumps({}))
            tariff = await agree_within(connection, TARIFF, merchant, DAY, standard.tariff("CNY"), "x")
            with pytest.raises(asyncpg.CheckViolationError, match="both sides"):
                async with connection.transaction():
                    await moved(connection, row, "countersign", PEOPLE[0], "", tariff_id=tariff.ident, from_on=DAY, begins_at=clock.now())
    finally:
        await pool.close()
