"""Material and trainings drawn by Hypothesis against the database: versions have no gap, also of two writers at once, and nothing is overwritten."""

import asyncio
from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from switch import database
from switch.database import Pool
from switch.errors import Problem
from switch.terminals.devices import By
from switch.terminals.training import Held, Training
from tests.lives import CHOICE, PERSON, Watched, draw

TODAY = date(2026, 11, 26)
MODEL = "PX9"
TITLES, ROLES = st.sampled_from(["Refunds", "Paper"]), st.sampled_from(["cashier", "owner"])


class Drawn(Watched):
    """The model: the ids of each title's material in the order of their versions, and the trainings of a store."""

    count = 0

    @classmethod
    def wanted(cls) -> set[str]:
        return {"material", "together", "training", "of tomorrow", "other material"}

    @initialize()
    def begin(self) -> None:
        Drawn.count += 1
        self.model, self.training = f"{MODEL}-{Drawn.count}", Training(self.pool, self.pool)
        self.store = self.wait(self.shop())
        self.materials: dict[tuple[str, str], list[UUID]] = {}
        self.held: list[tuple[str, tuple[UUID, ...], str]] = []

    async def shop(self) -> UUID:
        return (await self.onboarding.store(await self.merchant(), "Store")).store_id

    async def add(self, title: str, role: str, by: Any) -> Any:
        return await self.training.add_material(self.model, role, "en", title, None, "Press the key.", By(by.name, by.key_id))

    @rule(title=TITLES, role=ROLES, by=PERSON)
    def material(self, title: str, role: str, by: Any) -> None:
        self.keep(title, role, [self.wait(self.add(title, role, by))])
        self.seen["material"] += 1

    @rule(title=TITLES, role=ROLES, by=PERSON)
    def two_writers_at_once(self, title: str, role: str, by: Any) -> None:
        async def both() -> list[Any]:
            return list(await asyncio.gather(*(self.add(title, role, by) for _ in range(2))))

        self.keep(title, role, sorted(self.wait(both()), key=lambda row: int(row["version"])))
        self.seen["together"] += 1

    def keep(self, title: str, role: str, rows: list[Any]) -> None:
        known = self.materials.setdefault((title, role), [])
        assert [row["version"] for row in rows] == [len(known) + n for n in range(1, len(rows) + 1)]
        known.extend(row["material_id"] for row in rows)

    @rule(role=ROLES, chosen=CHOICE, by=PERSON, ahead=st.integers(-2, 1))
    def train(self, role: str, chosen: int, by: Any, ahead: int) -> None:
        every = [(ident, of) for (_, of), known in sorted(self.materials.items()) for ident in known]
        used = every[chosen % len(every):][:2] if every else []
        held = Held(self.store, self.model, role, "Zhang San", "Li Wei", TODAY + timedelta(days=ahead), tuple(ident for ident, _ in used))
        wrong = "of tomorrow" if ahead > 0 else "other material" if any(of != role for _, of in used) else "training"
        try:
            self.wait(self.training.record(held, TODAY, By(by.name, by.key_id)))
        except Problem as problem:
            assert problem.code == "invalid" and wrong != "training", (problem.errors, wrong)
        else:
            assert wrong == "training"
            self.held.append((role, tuple(held.materials), by.name))
        self.seen[wrong] += 1

    @invariant()
    def all_is_kept_as_it_came(self) -> None:
        async def read() -> tuple[Any, Any]:
            return await self.training.materials(self.model, None, None, None, 200), await self.training.trainings(None, self.store, None, 200)

        materials, trainings = self.wait(read())
        found: dict[tuple[str, str], list[UUID]] = {}
        for row in sorted(materials, key=lambda row: int(row["version"])):
            found.setdefault((row["title"], row["role"]), []).append(row["material_id"])
        assert found == self.materials
        assert [(row["role"], tuple(row["materials"]), row["person"]) for row in reversed(trainings)] == self.held


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    opened = await database.pool(database_url, "switch_writer", 4)
    yield opened
    await opened.close()


async def test_material_and_trainings_drawn_at_random(pool: Pool) -> None:
    await draw(Drawn, pool, 40)


@pytest.mark.parametrize("statement", ["UPDATE training SET trainee = 'x'", "UPDATE training_material SET title = 'x'", "DELETE FROM training",
                                       "DELETE FROM training_material"])
async def test_nothing_of_it_is_overwritten(pool: Pool, statement: str) -> None:
    with pytest.raises(database.asyncpg.InsufficientPrivilegeError):
        await pool.execute(statement)
