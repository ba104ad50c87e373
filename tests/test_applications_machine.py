"""An application's life drawn by Hypothesis against the database: every move is one that the model allows, each has its row, and nothing is overwritten."""

from typing import Any, ClassVar
from uuid import UUID

import asyncpg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from switch import database
from switch.database import work
from switch.merchants.applications.cases import moved
from switch.merchants.applications.life import LIFE, WAITS_FOR
from switch.merchants.applications.review import Review
from switch.payments.resolution import Person
from switch.security.vault import Keyring, Vault
from tests.lives import PEOPLE, Drawn, draw


class Application(Drawn):
    LIFE, CODE, BEGUN, REASONS = LIFE, "application_move", ("begin", "draft", "Chen Jie", ""), ("seen", "cut off", "")
    ROW = "SELECT state, version, due_at FROM application WHERE application_id = $1"
    TOLD = "SELECT number, event, state, person, reason FROM application_event WHERE application_id = $1 ORDER BY number"
    vault: ClassVar[Vault]

    async def made(self) -> UUID:
        return (await Review(self.pool, self.vault).begin("company", "CN", {"name": "x", "mcc": "5999"}, PEOPLE[0]))[0]

    def able(self) -> list[str]:
        """To withdraw is possible nearly always, and the end."""
        return [event for event in super().able() if event != "withdraw"]

    async def move(self, event: str, by: Person, reason: str) -> None:
        merchant = await self.merchant() if event in ("approve", "pass") else None
        async with work(self.pool) as connection:
            row = await connection.fetchrow("SELECT * FROM application WHERE application_id = $1 FOR NO KEY UPDATE", self.id)
            assert row is not None
            await moved(connection, row, event, by, reason, merchant_id=merchant)

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
    def somebody_waits_until_it_is_due(self) -> None:
        assert (self.wait(self.kept())[0]["due_at"] is not None) == (self.state in WAITS_FOR)


async def test_lives_drawn_at_random(database_url: str, tmp_path: Any) -> None:
    pool = await database.pool(database_url, "switch_writer", 4)
    try:
        Application.vault = Vault(Keyring.create(tmp_path / "keys"))
        await draw(Application, pool, 50)
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
