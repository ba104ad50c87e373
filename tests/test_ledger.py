"""The ledger over PostgreSQL: what it takes, what it refuses, by our function and by hand-written SQL; and that it sums to zero in any snapshot."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
import rows
from asyncpg import exceptions as refusals

from switch import database
from switch.settlement import ledger
from switch.settlement.ledger import Account, PostingConflict, Transfer

DAY = date(2026, 11, 25)
SQL = asyncpg.Connection


@pytest_asyncio.fixture(scope="module")
async def house(database_url: str) -> dict[str, UUID]:
    """Two merchants and an acquirer."""
    owner = await asyncpg.connect(database_url)
    ids = {name: uuid4() for name in ("organisation", "one", "two", "acquirer")}
    await rows.insert(owner, "organisation", organisation_id=ids["organisation"], name="Ledger")
    for name in ("one", "two"):
        await rows.insert(owner, "merchant", merchant_id=ids[name], organisation_id=ids["organisation"], name=name, mcc="5411", time_zone="UTC")
    await rows.insert(owner, "acquirer", acquirer_id=ids["acquirer"], name="bank", dialect="iso87_ascii", message_mode="single")
    await owner.close()
    return ids


@pytest_asyncio.fixture(params=["switch_writer", "owner"])
async def sql(database_url: str, house: dict[str, UUID], request: pytest.FixtureRequest) -> AsyncIterator[SQL]:
    """A connection of each role, inside a transaction that is rolled back."""
    connection = await (asyncpg.connect(database_url) if request.param == "owner" else database.connect(database_url, "switch_writer"))
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


def sold(house: dict[str, UUID], amount: int, key: str, merchant: str = "one", currency: str = "CNY") -> Transfer:
    return Transfer(Account("acquirer", currency, None, house["acquirer"]), Account("merchant", currency, house[merchant]), amount, "sales",
                    "set_x", DAY, key)


async def test_a_transfer_moves_an_amount_from_one_account_to_another(sql: SQL, house: dict[str, UUID]) -> None:
    merchant, acquirer = Account("merchant", "CNY", house["one"]), Account("acquirer", "CNY", None, house["acquirer"])
    assert await ledger.post(sql, [sold(house, 1000, "a"), Transfer(merchant, Account("fee", "CNY"), 15, "fees", "set_x", DAY, "b")]) == 2
    assert await ledger.balances(sql) == {merchant: 985, acquirer: -1000, Account("fee", "CNY"): 15}
    assert await ledger.balances(sql, house["one"]) == {merchant: 985}
    assert await ledger.balances(sql, kinds=["fee"]) == {Account("fee", "CNY"): 15}


async def test_a_balance_is_told_as_of_any_instant(sql: SQL, house: dict[str, UUID]) -> None:
    await ledger.post(sql, [sold(house, 1000, "a")])
    assert sum((await ledger.balances(sql, house["one"], at=datetime(2026, 1, 1, tzinfo=UTC))).values()) == 0
    assert sum((await ledger.balances(sql, house["one"], at=await sql.fetchval("SELECT now()"))).values()) == 1000


async def test_the_same_posting_again_changes_nothing(sql: SQL, house: dict[str, UUID]) -> None:
    assert await ledger.post(sql, [sold(house, 1000, "a")]) == 1
    assert await ledger.post(sql, [sold(house, 1000, "a"), sold(house, 7, "b")]) == 1
    assert (await ledger.balances(sql, house["one"]))[Account("merchant", "CNY", house["one"])] == 1007


@pytest.mark.parametrize("changed", [{"amount": 999}, {"merchant": "two"}])
async def test_a_key_that_was_used_for_another_posting_is_a_fault_of_ours(sql: SQL, house: dict[str, UUID], changed: dict[str, object]) -> None:
    await ledger.post(sql, [sold(house, 1000, "a")])
    with pytest.raises(PostingConflict):
        await ledger.post(sql, [sold(house, **{"amount": 1000, "key": "a"} | changed)])  # type: ignore[arg-type]


def broken(house: dict[str, UUID]) -> list[Transfer]:
    good = sold(house, 5, "k")
    return [good._replace(amount=0), good._replace(amount=-1), good._replace(credit=good.debit), good._replace(debit=Account("fee", "USD")),
            good._replace(debit=Account("merchant", "CNY")), good._replace(debit=Account("fee", "CNY", house["one"])),
            good._replace(debit=Account("pocket", "CNY"))]


async def test_what_is_no_transfer_is_not_posted(sql: SQL, house: dict[str, UUID]) -> None:
    for transfer in broken(house):
        with pytest.raises(ValueError, match="cannot be posted"):
            await ledger.post(sql, [sold(house, 1, "first"), transfer])
    assert await sql.fetchval("SELECT count(*) FROM transfer") == 0


ILLEGAL = {
    "a negative amount": "INSERT INTO transfer SELECT gen_random_uuid(), debit_account, credit_account, -1, currency, cause, object, business_date FROM posted",
    "no amount": "INSERT INTO transfer SELECT gen_random_uuid(), debit_account, credit_account, 0, currency, cause, object, business_date FROM posted",
    "one account": "INSERT INTO transfer SELECT gen_random_uuid(), debit_account, debit_account, 1, currency, cause, object, business_date FROM posted",
    "another currency": "INSERT INTO transfer SELECT gen_random_uuid(), debit_account, credit_account, 1, 'USD', cause, object, business_date FROM posted",
    "the other's currency": """INSERT INTO transfer SELECT gen_random_uuid(), debit_account, (SELECT account_id FROM account WHERE currency = 'USD' LIMIT 1), 1,
                               currency, cause, object, business_date FROM posted""",
    "no such account": "INSERT INTO transfer SELECT gen_random_uuid(), debit_account, gen_random_uuid(), 1, currency, cause, object, business_date FROM posted",
    "an update": "UPDATE transfer SET amount = 2", "an update of nothing": "UPDATE transfer SET amount = 2 WHERE false",
    "a delete": "DELETE FROM transfer", "a truncation": "TRUNCATE transfer", "an account's update": "UPDATE account SET currency = 'EUR'",
    "an account's delete": "DELETE FROM account", "a second account": """INSERT INTO account (account_id, kind, merchant_id, acquirer_id, currency)
        SELECT gen_random_uuid(), kind, merchant_id, acquirer_id, currency FROM account""",
    "a merchant's account without merchant": "INSERT INTO account (account_id, kind, currency) VALUES (gen_random_uuid(), 'merchant', 'CNY')",
    "an acquirer's without acquirer": "INSERT INTO account (account_id, kind, currency) VALUES (gen_random_uuid(), 'acquirer', 'CNY')",
}


@pytest.mark.parametrize("what", ILLEGAL)
async def test_the_database_refuses(sql: SQL, house: dict[str, UUID], what: str) -> None:
    await ledger.post(sql, [sold(house, 1000, "a"), sold(house, 5, "b", currency="USD")._replace(
        debit=Account("bank", "USD"), credit=Account("suspense", "USD"))])
    statement = ILLEGAL[what].replace("FROM posted", "FROM (SELECT * FROM transfer WHERE posting_key = 'a') posted")
    if statement.startswith("INSERT INTO transfer"):
        statement = statement.replace("INSERT INTO transfer", """INSERT INTO transfer (transfer_id, debit_account, credit_account, amount, currency, cause,
            object, business_date, posting_key)""").replace("business_date FROM", "business_date, 'new' FROM")
    with pytest.raises((refusals.IntegrityConstraintViolationError, refusals.InsufficientPrivilegeError)):
        async with sql.transaction():
            await sql.execute(statement)
    assert await sql.fetchval("SELECT sum(amount) FROM transfer") == 1005


async def test_all_accounts_sum_to_zero_in_any_snapshot_while_others_post(database_url: str, house: dict[str, UUID]) -> None:
    chance, done = random.Random(7), asyncio.Event()
    accounts = [Account("merchant", "CNY", house["one"]), Account("merchant", "CNY", house["two"]), Account("acquirer", "CNY", None, house["acquirer"]),
                Account("fee", "CNY"), Account("tax", "CNY"), Account("reserve", "CNY", house["one"])]

    async def poster(number: int) -> None:
        connection = await database.connect(database_url, "switch_writer")
        for batch in range(30):
            transfers = [Transfer(*chance.sample(accounts, 2), chance.randint(1, 10**9), "sales", "set_x", DAY, f"{number}:{batch}:{each}")
                         for each in range(chance.randint(1, 5))]
            async with connection.transaction():
                for transfer in transfers:
                    await ledger.post(connection, [transfer])
        await connection.close()

    async def reader() -> int:
        connection, looks = await database.connect(database_url, "switch_reader"), 0
        while not done.is_set():
            found = await ledger.balances(connection)
            assert sum(found.values()) == 0, found
            looks += any(found.values())
        await connection.close()
        return looks

    reading = asyncio.create_task(reader())
    await asyncio.gather(*(poster(number) for number in range(3)))
    done.set()
    assert await reading > 0
