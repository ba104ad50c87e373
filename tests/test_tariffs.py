"""Tariffs and costs in a real PostgreSQL: agreed, replaced by a new row, never overwritten, and never for a day that is closed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import asdict
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from migrations.versions.r0007_tariffs import STATEMENTS
from switch import database
from switch.database import Pool
from switch.errors import Problem
from switch.merchants import Acquirer, BinRange
from switch.merchants.onboarding import Onboarding
from switch.settlement.fees.charges import price
from switch.settlement.fees.tariffs import COSTS, TARIFF, agree, costs_of, holding, in_force, page, prices, tariffs_of
from tests import rows
from tests.conftest import create_database
from tests.test_fees import sale

TERMS: dict[str, Any] = {"name": "Retail", "currency": "CNY", "rules": [{"name": "All", "price": {"basis_points": "38.25", "fixed": 3}}]}
COST_TERMS: dict[str, Any] = {"name": "Bank", "currency": "CNY", "rules": [{"name": "All", "interchange": {"basis_points": 35}}]}
JANUARY, MARCH = date(2031, 1, 1), date(2031, 3, 1)
ONE_DAY = timedelta(days=1)


@pytest_asyncio.fixture(scope="module")
async def pool(database_url: str) -> AsyncIterator[Pool]:
    writers = await database.pool(database_url, "switch_writer", 6)
    yield writers
    await writers.close()


@pytest_asyncio.fixture(scope="module")
async def onboarding(pool: Pool) -> Onboarding:
    return Onboarding(pool)


async def a_merchant(onboarding: Onboarding) -> UUID:
    organisation = await onboarding.organisation("Tariffs")
    return (await onboarding.merchant(organisation.organisation_id, "Noodles", "5812")).merchant_id


async def an_acquirer(onboarding: Onboarding) -> UUID:
    return (await onboarding.acquirer(f"bank-{uuid4().hex[:8]}", "iso87_ascii", "127.0.0.1", 9)).acquirer_id


async def refused(doing: Awaitable[Any]) -> Problem:
    with pytest.raises(Problem) as problem:
        await doing
    return problem.value


async def test_what_is_agreed_is_read_back_with_who_and_when(pool: Pool, onboarding: Onboarding) -> None:
    merchant, acquirer = await a_merchant(onboarding), await an_acquirer(onboarding)
    agreed = await agree(pool, TARIFF, merchant, JANUARY, TERMS, "Li Wei")
    costs = await agree(pool, COSTS, acquirer, JANUARY, COST_TERMS, "Wang Fang")
    assert (agreed.owner_id, agreed.effective_from, agreed.version, agreed.terms, agreed.created_by) == (merchant, JANUARY, 1, TERMS, "Li Wei")
    async with pool.acquire() as connection:
        now = await connection.fetchval("SELECT now()")
        assert abs((now - agreed.created_at).total_seconds()) < 60
        assert [each.ident for each in await holding(connection, COSTS, acquirer)] == [costs.ident]
    of_merchant, of_acquirers = await prices(pool, merchant, {acquirer})
    priced = price(of_merchant[0], of_acquirers[acquirer][0], sale(10_000))
    assert (priced.fee, priced.interchange, priced.tariff_id) == (41, 35, agreed.ident)


async def test_the_tariff_in_force_is_the_latest_that_has_begun(pool: Pool, onboarding: Onboarding) -> None:
    merchant = await a_merchant(onboarding)
    march = await agree(pool, TARIFF, merchant, MARCH, TERMS, "a")
    january = await agree(pool, TARIFF, merchant, JANUARY, TERMS, "a")
    async with pool.acquire() as connection:
        found = [await in_force(connection, TARIFF, merchant, day) for day in (JANUARY - ONE_DAY, JANUARY, MARCH - ONE_DAY, MARCH, date(2040, 1, 1))]
        assert found == [None, january, january, march, march]
        assert [each.effective_from for each in await tariffs_of(connection, merchant)] == [JANUARY, MARCH]
        assert await tariffs_of(connection, uuid4()) == [] and await costs_of(connection, uuid4()) == []


async def test_of_one_date_the_newest_row_holds_and_the_old_one_stays(pool: Pool, onboarding: Onboarding) -> None:
    merchant = await a_merchant(onboarding)
    first = await agree(pool, TARIFF, merchant, JANUARY, TERMS, "a")
    assert (await refused(agree(pool, TARIFF, merchant, JANUARY, TERMS, "b"))).code == "already_exists"
    second = await agree(pool, TARIFF, merchant, JANUARY, {**TERMS, "name": "Better"}, "b", replaces=first.ident)
    assert second.version == 2
    for replaces in (first.ident, uuid4()):
        assert (await refused(agree(pool, TARIFF, merchant, JANUARY, TERMS, "c", replaces=replaces))).code == "conflict"
    assert (await refused(agree(pool, TARIFF, merchant, MARCH, TERMS, "c", replaces=second.ident))).code == "conflict"
    async with pool.acquire() as connection:
        assert [each.name for each in await tariffs_of(connection, merchant)] == ["Better"]
    assert [each.ident for each in await page(pool, TARIFF, merchant, 10)] == [second.ident, first.ident]
    assert [each.ident for each in await page(pool, TARIFF, merchant, 10, second.ident)] == [first.ident]
    assert [each.ident for each in await page(pool, TARIFF, merchant, 1)] == [second.ident]
    both = await asyncio.gather(*(agree(pool, TARIFF, merchant, JANUARY, TERMS, "d", replaces=second.ident) for _ in range(2)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in both) == ["Agreed", "Problem"]


async def test_what_is_agreed_can_be_neither_changed_nor_taken_away(pool: Pool, onboarding: Onboarding, database_url: str) -> None:
    merchant = await a_merchant(onboarding)
    await agree(pool, TARIFF, merchant, JANUARY, TERMS, "a")
    owner = await asyncpg.connect(database_url)
    for table in ("merchant_tariff", "acquirer_cost"):
        for statement in (f"UPDATE {table} SET version = 9", f"DELETE FROM {table}", f"TRUNCATE {table}"):
            with pytest.raises((asyncpg.CheckViolationError, asyncpg.FeatureNotSupportedError)):  # contracts refer to tariffs
                await owner.execute(statement)
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await pool.execute(statement)
    await owner.close()


async def sold(url: str, merchant: UUID, acquirer: UUID, day: date) -> None:
    """One sale of the merchant on that business date."""
    row = rows.transaction(merchant_id=merchant, acquirer_id=acquirer, business_date=day)
    owner = await asyncpg.connect(url)
    await rows.insert(owner, "transaction", **{name: value for name, value in asdict(row).items() if value is not None})
    await owner.close()


async def test_a_day_that_is_closed_or_being_closed_keeps_its_prices(pool: Pool, onboarding: Onboarding, database_url: str) -> None:
    merchant, idle, acquirer, other = await a_merchant(onboarding), await a_merchant(onboarding), await an_acquirer(onboarding), await an_acquirer(onboarding)
    today = (await onboarding.get(Acquirer, acquirer)).business_date
    await sold(database_url, merchant, acquirer, today)
    await onboarding.open_business_day(acquirer, today + ONE_DAY)
    for kind, owner, terms in ((TARIFF, merchant, TERMS), (COSTS, acquirer, COST_TERMS)):
        for day in (today, today - ONE_DAY, date(2020, 1, 1)):
            problem = await refused(agree(pool, kind, owner, day, terms, "a"))
            assert problem.code == "conflict" and f"{today + ONE_DAY}." in problem.detail
        await agree(pool, kind, owner, today + ONE_DAY, terms, "a")
    assert (await refused(onboarding.tariff(merchant, today, 38))).code == "conflict"
    await agree(pool, TARIFF, idle, today, TERMS, "a")  # who sold nothing on it
    await agree(pool, COSTS, other, today, COST_TERMS, "a")  # whose day is open


async def test_a_day_that_is_being_closed_waits_for_the_tariff_or_the_tariff_for_it(pool: Pool, onboarding: Onboarding, database_url: str) -> None:
    merchant, acquirer = await a_merchant(onboarding), await an_acquirer(onboarding)
    day = (await onboarding.get(Acquirer, acquirer)).business_date + 10 * ONE_DAY
    await onboarding.open_business_day(acquirer, day)
    await sold(database_url, merchant, acquirer, day)
    for kind, owner, terms in ((TARIFF, merchant, TERMS), (COSTS, acquirer, COST_TERMS)):
        closing = await database.connect(database_url, "switch_writer")
        async with closing.transaction():
            await closing.execute("UPDATE business_day SET state = 'closing' WHERE acquirer_id = $1 AND business_date = $2", acquirer, day)
            late = asyncio.create_task(refused(agree(pool, kind, owner, day, terms, "a")))
            while not await pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") and not late.done():
                await asyncio.sleep(0.01)
            assert not late.done()
        assert (await late).code == "conflict"
        await closing.close()


async def test_bad_terms_and_strangers_are_refused_and_nothing_is_written(pool: Pool, onboarding: Onboarding) -> None:
    merchant = await a_merchant(onboarding)
    problem = await refused(agree(pool, TARIFF, merchant, JANUARY, {**TERMS, "rules": []}, "a"))
    assert (problem.code, problem.errors[0]["field"]) == ("invalid", "terms/rules")
    problem = await refused(agree(pool, TARIFF, merchant, JANUARY, {**TERMS, "rules": [*TERMS["rules"], {"name": "v", "match": {"brand": "vsa"}, "price": {}}]}, "a", brands={"visa"}))
    assert problem.errors[0]["field"] == "terms/rules/1/match/brand"
    for day in (date(1999, 12, 31), date(2100, 1, 1)):
        assert (await refused(agree(pool, TARIFF, merchant, day, TERMS, "a"))).errors[0]["field"] == "effective_from"
    assert (await refused(agree(pool, TARIFF, uuid4(), JANUARY, TERMS, "a"))).code == "not_found"
    assert (await refused(agree(pool, COSTS, merchant, JANUARY, COST_TERMS, "a"))).code == "not_found"
    assert (await refused(page(pool, TARIFF, uuid4(), 5))).code == "not_found"
    assert await page(pool, TARIFF, merchant, 5) == []


async def test_installed_brands_are_known(pool: Pool, onboarding: Onboarding) -> None:
    merchant = await a_merchant(onboarding)
    await onboarding.install_bins((BinRange("990000", "990099", "clubcard", "prepaid", (16,)),))
    await agree(pool, TARIFF, merchant, JANUARY, {**TERMS, "rules": [*TERMS["rules"], {"name": "v", "match": {"brand": "clubcard"}, "price": {}}]}, "a")


async def test_a_flat_rate_is_a_tariff_with_one_rule(pool: Pool, onboarding: Onboarding) -> None:
    merchant = await a_merchant(onboarding)
    await onboarding.tariff(merchant, JANUARY, 38)
    async with pool.acquire() as connection:
        (tariff,) = await tariffs_of(connection, merchant)
    assert [price(tariff, None, sale(10_000, currency=currency)).fee for currency in ("CNY", "USD")] == [38, 38]
    assert (tariff.effective_from, tariff.name) == (JANUARY, "Flat rate")
    assert (await refused(onboarding.tariff(merchant, JANUARY, 40))).code == "already_exists"


async def test_flat_rates_of_the_release_before_are_tariffs_after_the_migration(cluster_url: str) -> None:
    """Rows that stood before the migration, and rows that the release before writes after it."""
    url = await create_database(cluster_url)
    owner = await asyncpg.connect(url)
    organisation, merchant = uuid4(), uuid4()
    await owner.execute("INSERT INTO organisation (organisation_id, name) VALUES ($1, 'x')", organisation)
    await owner.execute("INSERT INTO merchant (merchant_id, organisation_id, name, mcc, time_zone) VALUES ($1, $2, 'x', '5812', 'UTC')", merchant, organisation)
    await owner.execute("DROP TABLE merchant_tariff, acquirer_cost CASCADE; DROP FUNCTION take_flat_tariff CASCADE; DROP FUNCTION flat_terms, refuse_closed_terms, refuse_terms_change")
    await owner.execute("INSERT INTO tariff (merchant_id, effective_from, basis_points) VALUES ($1, '2026-01-01', 60), ($1, '2026-02-01', 0)", merchant)
    for statement in STATEMENTS:
        await owner.execute(statement)
    await owner.execute("SET ROLE switch_writer")
    await owner.execute("INSERT INTO tariff (merchant_id, effective_from, basis_points) VALUES ($1, '2026-03-01', 10000)", merchant)
    found = await tariffs_of(owner, merchant)
    await owner.close()
    assert [(each.effective_from.month, price(each, None, sale(10_000)).fee) for each in found] == [(1, 60), (2, 0), (3, 10_000)]
