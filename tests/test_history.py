"""Reads of the books: each filter against a filter in Python over the same rows, and the plans against an index."""

import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
import rows

from switch import database
from switch.database import Pool
from switch.errors import Problem
from switch.ids import instant, lowest, uuid7
from switch.payments import evidence, history
from switch.payments.history import PAYMENT_STATUS, Filter, History, list_query
from switch.payments.transaction import STATUS, Transaction, payment_status_at

START = datetime(2026, 11, 1, tzinfo=UTC)
PAST, FUTURE = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
MERCHANTS, STORES, TERMINALS, ACQUIRERS = ([UUID(int=kind * 100 + number) for number in range(count)] for kind, count in
                                           ((1, 3), (2, 4), (3, 6), (4, 3)))
TOKENS = [bytes([number]) * 32 for number in range(5)]
TYPES = ("purchase", "preauthorization", "cash_advance", "balance_inquiry", "account_verification", "capture")


def money(chance: random.Random, state: str, amount: int) -> dict[str, Any]:
    """Amounts that the schema allows, and all cases of payment_status."""
    if state in ("SENT", "DECLINED", "NOT_SENT"):
        return {}
    if state == "APPROVED" or chance.random() < 0.6:
        authorised = chance.choice([amount, amount, amount // 2, 0])
        capturable = authorised + chance.choice([0, 0, 150])
        captured = chance.choice([0, capturable, authorised, authorised // 2])
        refunded = chance.choice([0, 0, captured, captured // 2])
        charged_back = chance.choice([0, 0, 0, captured - refunded])
        ends = chance.choice([None, PAST, FUTURE]) if captured in (0, authorised // 2) else None
        reserved = chance.choice([0, 0, capturable - captured]) if ends else 0
        return {"outcome": "APPROVED", "outcome_at": START, "response_code": "00", "approved_amount": authorised, "authorised": authorised,
                "capturable": capturable, "captured": captured, "refunded": refunded, "charged_back": charged_back,
                "expires_at": ends, "capture_reserved": reserved}
    return {}


def made(chance: random.Random, number: int) -> Transaction:
    type_, state = chance.choice(TYPES), chance.choice(sorted(STATUS))
    amount = 0 if type_ in ("balance_inquiry", "account_verification") else chance.choice([1, 500, 1000, 1001, 999_999_999_999])
    at = START + timedelta(milliseconds=chance.randrange(10**7))
    return rows.transaction(
        transaction_id=uuid7((at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1), chance.randbytes(10)),
        merchant_id=chance.choice(MERCHANTS), store_id=chance.choice(STORES), terminal_id=chance.choice(TERMINALS),
        acquirer_id=chance.choice(ACQUIRERS), type=type_, exchange="advice" if type_ == "capture" else "request",
        original_id=UUID(int=7) if type_ == "capture" else None, idempotency_key=None if type_ == "capture" else f"key-{number:016d}",
        amount=amount, state=state, stan=f"{chance.randrange(1, 40):06d}", card_last4=f"{chance.randrange(5):04d}",
        pan_token=chance.choice(TOKENS), reference=chance.choice([None, "table 1", "table 2", "' OR true --"]),
        approval_code=chance.choice([None, "A1", "B2", "123456"]), received_at=at, **money(chance, state, amount))


values_of_row = attrgetter(*(field.name for field in fields(Transaction)))


async def fill(url: str, records: list[Transaction]) -> None:
    """Puts rows in as they are, past the rules for single steps, which this file is not about."""
    owner = await asyncpg.connect(url)
    await owner.execute("ALTER TABLE transaction DISABLE TRIGGER USER")
    names = [field.name for field in fields(Transaction)]
    values = [values_of_row(replace(record, intent_at=record.received_at)) for record in records]
    await owner.copy_records_to_table("transaction", records=values, columns=names)
    await owner.execute("ALTER TABLE transaction ENABLE TRIGGER USER")
    await owner.execute("INSERT INTO approval_lookup SELECT approval_code, merchant_id, transaction_id FROM transaction WHERE approval_code IS NOT NULL")
    await owner.execute("ANALYZE transaction, approval_lookup")
    await owner.close()


@pytest.fixture(scope="module")
def books() -> list[Transaction]:
    chance = random.Random(20261123)
    return [made(chance, number) for number in range(700)]


@pytest_asyncio.fixture(scope="module")
async def reads(database_url: str, books: list[Transaction]) -> AsyncIterator[History]:
    await fill(database_url, books)
    pool = await database.pool(database_url, "switch_reader", 4)
    yield History(pool)
    await pool.close()


def status_of(row: Transaction) -> str:
    return payment_status_at(row, datetime.now(UTC))


# What each filter means, said once more.
MEANING: dict[str, Callable[[Transaction, Any], bool]] = {
    "merchant_id": lambda row, value: row.merchant_id == value, "store_id": lambda row, value: row.store_id == value,
    "terminal_id": lambda row, value: row.terminal_id == value, "acquirer_ids": lambda row, value: row.acquirer_id in value,
    "since": lambda row, value: row.received_at >= value, "until": lambda row, value: row.received_at < value,
    "states": lambda row, value: row.state in value, "payment_status": lambda row, value: status_of(row) == value,
    "type": lambda row, value: row.type == value, "rrn": lambda row, value: row.rrn == value, "stan": lambda row, value: row.stan == value,
    "approval_code": lambda row, value: row.approval_code == value, "reference": lambda row, value: row.reference == value,
    "last4": lambda row, value: row.card_last4 == value, "token": lambda row, value: row.pan_token == value,
    "amount_min": lambda row, value: row.amount >= value, "amount_max": lambda row, value: row.amount <= value,
    "before": lambda row, value: row.transaction_id < value,
}


def values_of(name: str, books: list[Transaction], chance: random.Random) -> Any:
    row = chance.choice(books)
    simple = {"merchant_id": row.merchant_id, "store_id": row.store_id, "terminal_id": row.terminal_id, "type": row.type, "rrn": row.rrn,
              "stan": row.stan, "approval_code": row.approval_code or "A1", "reference": row.reference or "table 1", "last4": row.card_last4,
              "token": row.pan_token, "amount_min": row.amount, "amount_max": row.amount, "before": row.transaction_id,
              "since": row.received_at, "until": row.received_at, "payment_status": status_of(row)}
    if name == "acquirer_ids":
        return tuple(chance.sample(ACQUIRERS, chance.randrange(3)))
    if name == "states":
        return tuple(chance.sample(sorted(STATUS), chance.randrange(4)))
    return simple[name]


def filtered(books: list[Transaction], wanted: dict[str, Any]) -> list[UUID]:
    found = [row.transaction_id for row in books if all(MEANING[name](row, value) for name, value in wanted.items())]
    return sorted(found, reverse=True)


async def listed(reads: History, wanted: dict[str, Any], limit: int = 1000) -> list[UUID]:
    statement, arguments = list_query(Filter(**wanted), limit)
    return [row["transaction_id"] for row in await reads.pool.fetch(statement, *arguments)]


def test_every_filter_has_a_meaning_here() -> None:
    assert set(MEANING) == {field.name for field in fields(Filter)}


async def test_without_a_filter_everything_comes_newest_first(reads: History, books: list[Transaction]) -> None:
    assert await listed(reads, {}) == filtered(books, {})


@pytest.mark.parametrize("name", MEANING)
async def test_a_filter_returns_exactly_its_rows(reads: History, books: list[Transaction], name: str) -> None:
    chance, sizes = random.Random(name), set()
    for _ in range(8):
        value = values_of(name, books, chance)
        expected = filtered(books, {name: value})
        assert await listed(reads, {name: value}) == expected, value
        sizes.add(len(expected))
    assert max(sizes) > 0
    assert min(sizes) < len(books), "a filter that lets all pass shows nothing"


async def test_filters_together_return_what_all_of_them_let_pass(reads: History, books: list[Transaction]) -> None:
    chance, hits = random.Random(7), 0
    for _ in range(150):
        names = chance.sample(sorted(MEANING), chance.randrange(2, 5))
        row = [chance.choice(books)]  # of one row, so that most of the questions have an answer
        wanted = {name: values_of(name, row, chance) for name in names}
        expected = filtered(books, wanted)
        assert await listed(reads, wanted) == expected, wanted
        hits += bool(expected)
    assert hits > 30


@pytest.mark.parametrize("status", PAYMENT_STATUS)
async def test_the_payment_status_in_sql_is_the_one_of_the_life(reads: History, books: list[Transaction], status: str) -> None:
    expected = filtered(books, {"payment_status": status})
    assert expected, "the rows hold every status"
    assert await listed(reads, {"payment_status": status}) == expected


async def test_each_row_has_exactly_one_payment_status(reads: History, books: list[Transaction]) -> None:
    found = [transaction_id for status in PAYMENT_STATUS for transaction_id in await listed(reads, {"payment_status": status})]
    assert sorted(found) == sorted(row.transaction_id for row in books)


async def test_pages_put_together_are_the_whole_list_without_gap_or_repeat(reads: History, books: list[Transaction]) -> None:
    wanted, found = Filter(merchant_id=MERCHANTS[0]), []
    while page := await reads.page(replace(wanted, before=found[-1].transaction_id if found else None), 37):
        found += page
        assert len(page) <= 37
    assert [row.transaction_id for row in found] == filtered(books, {"merchant_id": MERCHANTS[0]})
    assert {row.transaction_id: row for row in books if row.merchant_id == MERCHANTS[0]} == {
        row.transaction_id: replace(row, intent_at=None) for row in found}


async def test_a_page_ends_at_two_hundred_and_one_whatever_is_asked(reads: History) -> None:
    assert len(await reads.page(Filter(), 100_000)) == history.PAGE_MAX + 1 == 201


async def test_a_bound_in_the_middle_of_a_millisecond_takes_the_whole_of_it(reads: History, books: list[Transaction]) -> None:
    row = books[0]
    at = row.received_at + timedelta(microseconds=400)
    assert row.transaction_id in await listed(reads, {"since": at})
    assert lowest(at) == lowest(row.received_at)


async def test_a_text_is_a_value_and_never_a_piece_of_sql(reads: History, books: list[Transaction]) -> None:
    for reference in ("' OR true --", "'; DROP TABLE transaction; --", "$1", "%"):
        assert await listed(reads, {"reference": reference}) == filtered(books, {"reference": reference})


async def test_single_reads(reads: History, books: list[Transaction]) -> None:
    row = books[0]
    assert replace(await reads.transaction(row.transaction_id) or row, intent_at=None) == row
    assert await reads.transaction(UUID(int=1)) is None
    assert await reads.duty(row.transaction_id) is None
    assert await reads.key(row.merchant_id, row.caller, "no-such-key-at-all") is None
    assert await reads.events(row.transaction_id) == []
    captures = {row.transaction_id for row in books if row.type == "capture" and row.merchant_id == MERCHANTS[0]}
    original = replace(row, transaction_id=UUID(int=7), merchant_id=MERCHANTS[0])
    assert {found.transaction_id for found in await reads.followers(original)} == captures


async def test_a_database_that_is_away_is_not_an_empty_answer(database_url: str, reads: History) -> None:
    pool = await database.pool(database_url, "switch_reader", 1)
    await pool.close()
    for read in (History(pool).page(Filter(), 10), History(pool).transaction(UUID(int=1)), History(pool).events(UUID(int=1))):
        with pytest.raises(Problem, match="not_ready"):
            await read


# Plans.

PAGE = 51


@pytest_asyncio.fixture(scope="module")
async def crowded(cluster_url: str) -> AsyncIterator[tuple[Pool, list[Transaction]]]:
    """20,000 rows of four merchants; as the reader's role."""
    from conftest import create_database  # noqa: PLC0415

    chance, url = random.Random(1), await create_database(cluster_url)
    records = []
    for number in range(20_000):
        at = START + timedelta(seconds=number)
        records.append(rows.transaction(
            transaction_id=uuid7((at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1), chance.randbytes(10)), received_at=at,
            merchant_id=UUID(int=number % 4 + 1), store_id=UUID(int=number % 20), terminal_id=UUID(int=number % 200), acquirer_id=UUID(int=number % 3),
            stan=f"{number + 1:06d}", card_last4=f"{chance.randrange(10_000):04d}", pan_token=number.to_bytes(2, "big") * 16,
            amount=chance.randrange(1, 100_000), reference=f"order {number}", type=chance.choice(TYPES[:3]),
            **approved_or_not(chance)))
    await fill(url, records)
    readers = await database.pool(url, "switch_reader", 1)
    yield readers, records
    await readers.close()


def approved_or_not(chance: random.Random) -> dict[str, Any]:
    if chance.random() < 0.2:
        return {"state": "DECLINED", "outcome": "DECLINED"}
    return {"state": "APPROVED", "outcome": "APPROVED", "outcome_at": START, "response_code": "00", "approved_amount": 1, "authorised": 1,
            "capturable": 1, "captured": chance.randrange(2), "approval_code": f"{chance.randrange(10**6):06d}"}


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]


@pytest.mark.parametrize("name", sorted(set(MEANING) - {"merchant_id"}))
async def test_a_merchants_list_with_this_filter_reads_an_index(
        crowded: tuple[Pool, list[Transaction]], name: str) -> None:
    reader, records = crowded
    row = next(row for row in records[10_000:] if row.state == "APPROVED")
    value = {"acquirer_ids": (row.acquirer_id,), "states": (row.state,)}.get(name) or values_of(name, [row], random.Random(1))
    wanted = {"merchant_id": row.merchant_id, name: value}
    if name == "rrn":  # as the API asks: in the index of the acquirers
        wanted["acquirer_ids"] = tuple(UUID(int=number) for number in range(3))
    statement, arguments = list_query(Filter(**wanted), PAGE)
    plan = nodes(json.loads(await reader.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *arguments))[0]["Plan"])
    kinds = [node["Node Type"] for node in plan]
    assert "Seq Scan" not in kinds, (name, kinds)
    for node in plan:
        if "Sort" in node["Node Type"]:
            assert max(child["Actual Rows"] for child in node["Plans"]) <= PAGE, f"{name} sorts more than a page: {kinds}"
    if name in SELECTIVE:
        read = sum(node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0) for node in plan)
        assert read <= 10 * PAGE, f"{name} reads {read} rows that it throws away: {kinds}"


# What names one sale or one card is found at once; the others narrow a walk down the merchant's key.
SELECTIVE = frozenset({"rrn", "approval_code", "reference", "last4", "token", "since", "until", "before"})


async def test_the_sale_of_a_late_answer_is_looked_for_among_those_of_its_moment(crowded: tuple[Pool, list[Transaction]]) -> None:
    reader, records = crowded
    row = records[10_000]
    at = instant(row.transaction_id)
    statement = evidence.FIND_NEAR.replace("FROM transaction", "FROM history_transaction")  # the reader's role
    arguments = row.acquirer_id, row.match_key, lowest(at - timedelta(seconds=30)), lowest(at + timedelta(seconds=1))
    assert [found[0] for found in await reader.fetch(statement, *arguments)] == [row.transaction_id]
    plan = nodes(json.loads(await reader.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *arguments))[0]["Plan"])
    assert "Seq Scan" not in [node["Node Type"] for node in plan]
    assert sum(node.get("Rows Removed by Filter", 0) for node in plan) <= 40


async def test_an_operators_list_without_a_merchant_reads_an_index_too(crowded: tuple[Pool, list[Transaction]]) -> None:
    reader, _ = crowded
    statement, arguments = list_query(Filter(), PAGE)
    plan = nodes(json.loads(await reader.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *arguments))[0]["Plan"])
    assert {node["Node Type"] for node in plan} <= {"Limit", "Index Scan"}
