"""An application's life drawn by Hypothesis against the database: every move is one that the model allows, each has its row, and nothing is overwritten."""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from switch import database
from switch.database import Pool, work
from switch.errors import Problem
from switch.merchants.applications.cases import moved
from switch.merchants.applications.life import LIFE, WAITS_FOR
from switch.merchants.applications.review import Review
from switch.merchants.onboarding import Onboarding
from switch.payments.resolution import Person
from switch.security.vault import Keyring, Vault

T = TypeVar("T")
PEOPLE = (Person("Chen Jie", "ok_x"), Person("Wang Fang", "ok_y"))


class Drawn(RuleBasedStateMachine):
    """The model: a state, the number of moves, and the history so far."""

    pool: Pool
    vault: Vault
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
        profile = {"name": "x", "mcc": "5999"}
        self.id, _ = self.wait(Review(self.pool, self.vault).begin("company", "CN", profile, PEOPLE[0]))
        self.state, self.history = "draft", [("begin", "draft", "Chen Jie", "")]
        for event in (*("submit", "take", "ask_more")[:("draft", "submitted", "in_review", "more_wanted").index(first[0])], first[1]):
            self.any_move(event, person, "on its way")

    async def move(self, event: str, by: Person, reason: str) -> None:
        merchant = (await self.onboarding.merchant(self.organisation, "Made", "5999")).merchant_id if event in ("approve", "pass") else None
        async with work(self.pool) as connection:
            row = await connection.fetchrow("SELECT * FROM application WHERE application_id = $1 FOR NO KEY UPDATE", self.id)
            assert row is not None
            await moved(connection, row, event, by, reason, merchant_id=merchant)

    @rule(event=st.sampled_from(sorted(LIFE.events)), person=st.sampled_from(PEOPLE), reason=st.sampled_from(["seen", "cut off", ""]))
    def any_move(self, event: str, person: Person, reason: str) -> None:
        try:
            self.wait(self.move(event, person, reason))
        except Problem as problem:
            assert problem.code == "application_move" and (self.state, event) not in LIFE
            return
        self.seen[f"{self.state} {event}"] += 1
        self.state = LIFE[self.state, event]
        self.history.append((event, self.state, person.name, reason))

    @rule(choice=st.integers(0, 99), person=st.sampled_from(PEOPLE))
    def next_move(self, choice: int, person: Person) -> None:
        able = sorted(event for state, event in LIFE if state == self.state and event != "withdraw")
        if able:
            self.any_move(able[choice % len(able)], person, "next")

    @rule(state=st.sampled_from(LIFE.states))
    def a_move_past_the_code_is_refused_by_the_database(self, state: str) -> None:
        """Whatever it writes, there is no row that says who and why."""
        async def write() -> None:
            async with work(self.pool) as connection:
                await connection.execute("""UPDATE application SET state = $2, version = version + 1, reviewer = 'x', merchant_id = NULL, limits = NULL,
                    due_at = CASE WHEN $3 THEN now() END WHERE application_id = $1""", self.id, state, state in WAITS_FOR)

        with pytest.raises(asyncpg.CheckViolationError):
            self.wait(write())

    @invariant()
    def the_history_is_whole(self) -> None:
        async def read() -> tuple[Any, list[Any]]:
            async with work(self.pool) as connection:
                return (await connection.fetchrow("SELECT * FROM application WHERE application_id = $1", self.id), await connection.fetch(
                    "SELECT number, event, state, person, reason FROM application_event WHERE application_id = $1 ORDER BY number", self.id))

        row, events = self.wait(read())
        assert (row["state"], row["version"]) == (self.state, len(self.history)) and (row["due_at"] is not None) == (self.state in WAITS_FOR)
        assert [tuple(event) for event in events] == [(number, *told) for number, told in enumerate(self.history, 1)]


async def test_lives_drawn_at_random(database_url: str, tmp_path: Any) -> None:
    pool = await database.pool(database_url, "switch_writer", 4)
    try:
        onboarding = Onboarding(pool)
        Drawn.pool, Drawn.vault, Drawn.onboarding, Drawn.loop = pool, Vault(Keyring.create(tmp_path / "keys")), onboarding, asyncio.get_running_loop()
        Drawn.organisation, Drawn.seen = (await onboarding.organisation("Made")).organisation_id, Counter()
        await asyncio.to_thread(run_state_machine_as_test, Drawn, settings=settings(
            max_examples=120, stateful_step_count=5, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck)))
        assert set(Drawn.seen) == {f"{state} {event}" for state, event in LIFE}, "a move was never drawn"
    finally:
        await pool.close()


@pytest.mark.parametrize("statement", ["UPDATE application_event SET reason = 'x'", "UPDATE application_document SET kind = 'tax_registration'",
                                       "UPDATE application_file SET name = 'x'", "UPDATE application_verdict SET verdict = 'accepted'",
                                       "UPDATE application_profile SET person = 'x'", "UPDATE application SET country = 'DE'", "DELETE FROM application_event"])
async def test_nothing_of_it_is_overwritten(database_url: str, statement: str) -> None:
    pool = await database.pool(database_url, "switch_writer", 1)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.execute(statement)
    finally:
        await pool.close()
