"""A licence's days drawn by Hypothesis against the database: two workers look at once, each step is done once, and a renewed one that is accepted lifts."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import ClassVar
from uuid import UUID

import pytest
import pytest_asyncio
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from switch import database
from switch.api.applications import PROFILE
from switch.database import Pool, work
from switch.ids import show
from switch.merchants.applications.cases import moved
from switch.merchants.applications.review import Review
from switch.merchants.licences.calendar import LIFTED, STEPS, due
from switch.merchants.licences.recorded import Seen
from switch.merchants.licences.renewals import Licences, kept
from switch.security.vault import Keyring, Vault
from tests.lives import PEOPLE, Watched, draw
from tests.test_exhibits import PDF

KIND, FIELDS = "food_licence", {"number": "JY13101010000001"}


class Drawn(Watched):
    """The model: the last day of what is in force, the day, and what was done about each end."""

    vault: ClassVar[Vault]

    @classmethod
    def wanted(cls) -> set[str]:
        return {*STEPS, LIFTED, "refused"}

    @initialize()
    def begin(self) -> None:
        self.end = datetime.now(UTC).date() + timedelta(days=60)
        self.day, self.done = self.end - timedelta(days=32), set[tuple[date, str]]()
        self.licences = Licences(self.pool, self.pool, self.vault)
        self.owner = self.wait(self.approved())
        self.wait(self.renewed(self.end, "accepted"))

    async def approved(self) -> UUID:
        application, _ = await Review(self.pool, self.vault).begin("company", "CN", dict(PROFILE), PEOPLE[0])
        owner = await self.merchant()
        async with work(self.pool) as connection:
            for event in ("submit", "take", "approve"):
                row = await connection.fetchrow("SELECT * FROM application WHERE application_id = $1 FOR NO KEY UPDATE", application)
                assert row is not None
                await moved(connection, row, event, PEOPLE[0], "seen", merchant_id=owner if event == "approve" else None)
        return owner

    async def renewed(self, end: date, verdict: str) -> list[str]:
        document = await self.licences.renew(self.owner, KIND, FIELDS, end, PEOPLE[0])
        await self.licences.file(document, self.owner, "scan.pdf", "application/pdf", PDF, PEOPLE[0])
        return await self.licences.judge(document, verdict, "seen", PEOPLE[1])

    def about(self) -> set[str]:
        return {step for end, step in self.done if end == self.end}

    @rule(over=st.sampled_from((-30, -8, -7, -1, 0, 1, 2, 15, 16)))
    def days_go_by(self, over: int) -> None:
        self.day = max(self.day + timedelta(days=1), self.end + timedelta(days=over))
        self.look()

    @rule()
    def look(self) -> None:
        async def both() -> tuple[list[str], list[bool]]:
            found = [each for each in await self.licences.due(datetime(self.day.year, self.day.month, self.day.day, 4, tzinfo=UTC))
                     if each.arguments["merchant"] == show("merchant", self.owner)]

            async def one(number: int) -> bool:
                async with work(self.pool) as connection:
                    return await kept(connection, found[number].arguments)

            return [str(each.arguments["step"]) for each in found], await asyncio.gather(*(one(n % len(found)) for n in range(2 * len(found))))

        steps, done = self.wait(both())
        step = due(self.end, self.day, self.about())
        assert steps == ([] if step is None else [step]) and sorted(done) == ([] if step is None else [False, True]), "done by one of two"
        if step is not None:
            self.seen[step] += 1
            self.done.add((self.end, step))

    @rule(days=st.integers(10, 60), accepted=st.booleans())
    def renew(self, days: int, accepted: bool) -> None:
        end = max(self.end, self.day) + timedelta(days=days)
        if sum(step == LIFTED for _, step in self.done) > 3:
            return
        lifted = self.wait(self.renewed(end, "accepted" if accepted else "refused"))
        if not accepted:
            self.seen["refused"] += 1
            assert lifted == []
            return
        over = [step for step in ("limit", "suspend") if step in self.about()]
        assert lifted == over, "what the end brought is taken back, and nothing else"
        if over:
            self.seen[LIFTED] += 1
            self.done.add((self.end, LIFTED))
        self.end = end

    @invariant()
    def what_was_done_is_written_once_and_in_force(self) -> None:
        async def read() -> tuple[set[tuple[date, str]], str, int]:
            async with work(self.pool) as connection:
                return ({(row["expires_on"], row["step"]) for row in await connection.fetch("SELECT * FROM licence_step WHERE merchant_id = $1", self.owner)},
                        await connection.fetchval("SELECT status FROM merchant WHERE merchant_id = $1", self.owner),
                        await connection.fetchval("SELECT count(*) FROM merchant_limit WHERE merchant_id = $1 AND state = 'active'", self.owner))

        about = self.about()
        assert self.wait(read()) == (self.done, "suspended" if "suspend" in about else "active", int("limit" in about))


class Recorded(Drawn):
    """The same of a merchant that never applied: what an operator has seen counts at once."""

    async def approved(self) -> UUID:
        return await self.merchant()

    async def renewed(self, end: date, verdict: str) -> list[str]:
        if verdict == "refused":
            return []
        _, lifted = await self.licences.record(self.owner, Seen(KIND, FIELDS, end, "CNY"), "seen", PEOPLE[0])
        return lifted


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    opened = await database.pool(database_url, "switch_writer", 4)
    yield opened
    await opened.close()


@pytest.mark.parametrize("machine", [Drawn, Recorded])
async def test_days_and_renewals_drawn_at_random(pool: Pool, tmp_path: Path, machine: type[Drawn]) -> None:
    Drawn.vault = Vault(Keyring.create(tmp_path / "keys"))
    await draw(machine, pool, 60)
