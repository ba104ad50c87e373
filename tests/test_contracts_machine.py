"""A contract's life drawn by Hypothesis against the database: every move is one that the model allows, each has its row, and nothing is overwritten."""

import hashlib
import json
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from switch import database
from switch.clock import clock
from switch.database import Connection, work
from switch.merchants.contracts import standard
from switch.merchants.contracts.cases import ADD, BEGIN, NOTE, moved, new_id
from switch.merchants.contracts.life import LIFE
from switch.merchants.contracts.signing import SIGN
from switch.merchants.onboarding import Onboarding
from switch.payments.resolution import Person
from switch.settlement.fees.tariffs import TARIFF, agree_within
from tests.lives import PEOPLE, Drawn, draw

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


class Contract(Drawn):
    LIFE, CODE, BEGUN, REASONS = LIFE, "contract_move", ("draw_up", "draft", "Chen Jie", ""), ("seen", "")
    ROW = "SELECT state, version FROM contract WHERE contract_id = $1"
    TOLD = "SELECT number, event, state, person, reason FROM contract_event WHERE contract_id = $1 ORDER BY number"

    async def made(self) -> UUID:
        self.owner = await self.merchant()
        async with work(self.pool) as connection:
            return await draft(connection, self.owner)

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
                    tariff = await agree_within(connection, TARIFF, self.owner, DAY, standard.tariff("CNY"), by.name)
                    more |= {"tariff_id": tariff.ident, "from_on": DAY, "begins_at": clock.now()}
                if event in ("notice", "terminate", "expire"):
                    more |= {"ends_at": clock.now() + timedelta(days=1), "ends_as": "terminate" if event == "terminate" else "expire"}
            await moved(connection, row, event, by, reason, **more)

    @rule(state=st.sampled_from(LIFE.states))
    def a_move_past_the_code_is_refused_by_the_database(self, state: str) -> None:
        """Whatever it writes, there is no row that says who and why."""
        async def write() -> None:
            async with work(self.pool) as connection:
                await connection.execute("UPDATE contract SET state = $2, version = version + 1 WHERE contract_id = $1", self.id, state)

        with pytest.raises(asyncpg.CheckViolationError):
            self.wait(write())


async def test_lives_drawn_at_random(database_url: str) -> None:
    pool = await database.pool(database_url, "switch_writer", 4)
    try:
        await draw(Contract, pool, 60)
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
