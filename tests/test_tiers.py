"""Tiers of a merchant that sells at two acquirers: what a sale costs is the same whichever day is cut over first, and the estimate says it."""

import dataclasses
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
import rows
from settled import Till, agree, open_till

from switch.settlement.fees.bills import bill
from switch.settlement.fees.charges import Meter, Sale, in_order
from switch.settlement.fees.tariffs import costs_of, tariffs_of

TERMS: dict[str, Any] = {"name": "Retail", "currency": "CNY", "refunds": {"returns": "proportional"},
                         "rules": [{"name": "Tiers", "price": {"tiers": [{"up_to": 100_000, "basis_points": 200}, {"basis_points": 100}]}}]}
COSTS: dict[str, Any] = {"name": "Bank", "currency": "CNY", "refunds": {"interchange": "proportional"}, "rules": [
    {"name": "All", "interchange": {"tiers": [{"up_to": 60_000, "basis_points": 50}, {"basis_points": 30}]}, "scheme": {"fixed": 2}}]}
HOURS_BEHIND = (-8, 5)  # of their midnights against UTC: Shanghai, New York
DAYS = 4


@pytest_asyncio.fixture
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def two_tills(url: str, owner: asyncpg.Connection, day: date, terms: dict[str, Any] = TERMS) -> tuple[Till, Till]:
    """One merchant at two acquirers."""
    one = await open_till(url, day=day, owner=owner)
    acquirer = uuid4()
    await rows.insert(owner, "acquirer", acquirer_id=acquirer, name=f"a{os.urandom(6).hex()}", dialect="iso87_ascii", message_mode="single")
    await rows.insert(owner, "business_day", acquirer_id=acquirer, business_date=day)
    other = dataclasses.replace(one, acquirer=acquirer, number=100_000)
    await agree(one, terms, COSTS)
    await agree(other, None, COSTS)
    return one, other


async def fees(*tills: Till) -> list[list[tuple[date, int, int]]]:
    return [[(line["for_date"], line["gross"], line["fee"]) for line in await till.lines()] for till in tills]


async def test_an_earlier_sale_that_is_settled_later_changes_what_the_later_one_cost_on_the_next_day(database_url: str, owner: asyncpg.Connection) -> None:
    day, then = date(2026, 11, 23), datetime(2026, 11, 23, 9, tzinfo=UTC)
    one, other = await two_tills(database_url, owner, day)
    sold = [await till.new(amount=80_000) for till in (one, other)]
    await other.step(sold[1], "APPROVED", outcome_at=then)
    await one.step(sold[0], "APPROVED", outcome_at=then + timedelta(hours=1), capturable=80_500)
    await one.cut()
    await other.cut()
    assert await fees(one, other) == [[(day, 80_000, 1600)], [(day, 80_000, 1600)]], "each was the first that was known"
    await one.follow(sold[0], "refund", 20_000)
    await one.cut()
    changed, refund = (await one.lines())[1:]
    assert (changed["kind"], changed["for_date"], changed["gross"], changed["fee"]) == ("adjustment", day, 0, 400 + 600 - 1600)
    assert "at all acquirers" in changed["rule"] and (refund["gross"], refund["fee"]) == (-20_000, -250), "a quarter of what it costs now"
    settled = (await one.settlements())[1]
    assert (settled["adjustments_count"], settled["adjustments"], settled["fees"], settled["volume"]) == (1, 0, -850, 0)
    assert await one.balance() == 160_000 - 20_000 - 1600 - 1000 + 250 and await one.balance("fee") >= 2350
    await other.cut()
    await one.cut()
    assert [len(each) for each in await fees(one, other)] == [3, 1], "looked at once, and nothing more to change"


async def test_an_adjustment_comes_when_nothing_else_is_settled_and_not_on_top_of_what_was_undone(database_url: str, owner: asyncpg.Connection) -> None:
    day = date(2026, 11, 23)
    one, other = await two_tills(database_url, owner, day)
    first, second = await one.made(amount=60_000), await one.made(amount=60_000)
    await one.cut()
    row = await other.new(amount=50_000)
    await other.step(row, "APPROVED", outcome_at=first.received_at - timedelta(hours=1))
    await other.cut()
    await one.step(second, "REVERSING", captured=0)
    await one.step(second, "REVERSED")
    await one.cut()
    total: dict[Any, int] = defaultdict(int)
    for line in await one.lines():
        total[line["transaction_id"]] += line["fee"]
    assert total == {first.transaction_id: 1000 + 100, second.transaction_id: 0}
    again, after = await two_tills(database_url, owner, day)
    await again.made(amount=80_000)
    await again.cut()
    row = await after.new(amount=80_000)
    await after.step(row, "APPROVED", outcome_at=datetime(2026, 11, 23, 1, tzinfo=UTC))
    await after.cut()
    await again.cut()
    assert [(each["adjustments_count"], each["fees"], each["net"]) for each in await again.settlements()] == [(0, 1600, 78_400), (1, -600, 600)]


async def play(tills: tuple[Till, Till], seed: int, order: list[int], undo: bool) -> tuple[dict[Any, Any], list[Sale]]:
    """A script of each acquirer's days, drawn by `seed` alone; its days are cut over in `order`. Returns transactions by name, and the facts."""
    chances, named, facts = [Random(f"{seed}:{each}") for each in (0, 1)], dict[Any, Any](), list[Sale]()
    state: list[tuple[list[Any], list[Any]]] = [([], []), ([], [])]  # sold, late

    def fact(till: Till, row: Any, kind: str, at: datetime, original: Any = None) -> None:
        facts.append(Sale(row.transaction_id, at, row.amount, kind, "CNY", row.brand, "unknown", "card", row.entry_mode, row.mcc, row.business_date, till.acquirer,
                          original.transaction_id if original else None, settled_on=till.day))

    for which in order:
        till, chance, (sold, late) = tills[which], chances[which], state[which]
        dawn = datetime.combine(till.day, datetime.min.time(), UTC) + timedelta(hours=HOURS_BEHIND[which])
        for number in range(chance.randrange(5)):
            at = dawn + timedelta(seconds=chance.randrange(86_400), milliseconds=which + 2 * number)
            name, fate = (which, till.day, number), chance.random()
            if late and fate < 0.2:
                row = late.pop(0)
            else:
                row = named[name] = await till.new(amount=chance.randrange(1, 60_000), received_at=at)
                if fate > 0.8:
                    late.append(row)
                    continue
            await till.step(row, "APPROVED", outcome_at=at)
            sold.append(row)
            fact(till, row, "sale", at)
        if sold and chance.random() < 0.6:
            original, at = chance.choice(sold), dawn + timedelta(seconds=86_399, milliseconds=500 + which)
            row = named[which, till.day, "refund"] = await till.new("refund", 1 + original.amount // 9, original_id=original.transaction_id)
            await till.step(row, "APPROVED", outcome_at=at)
            fact(till, row, "refund", at, original)
            sold.remove(original)
        elif undo and sold and chance.random() < 0.7:
            row = sold.pop(chance.randrange(len(sold)))
            await till.step(row, "REVERSING", captured=0)
            await till.step(row, "REVERSED")
        await till.cut()
    for _ in range(2):  # the day after the last of both looks at what it did not know
        for till in tills:
            await till.cut()
    return named, facts


async def charged(*tills: Till) -> dict[Any, tuple[int, int, int, int]]:
    total: dict[Any, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for line in [line for till in tills for line in await till.lines()]:
        for at, name in enumerate(("gross", "fee", "interchange", "scheme_fee")):
            total[line["transaction_id"]][at] += line[name]
    return {each: (a, b, c, d) for each, (a, b, c, d) in total.items()}


def drawn(seed: int) -> tuple[dict[str, Any], list[int], date]:
    """Borders, an order of cut-overs, and the first day: of some seeds the month ends in between."""
    chance = Random(seed)
    borders = sorted(chance.sample(range(10_000, 200_000), 3))
    tiers = [*({"up_to": border, "basis_points": rate} for border, rate in zip(borders, (250, 180, 120), strict=True)), {"basis_points": 90}]
    order = [0] * DAYS + [1] * DAYS
    chance.shuffle(order)
    return {**TERMS, "rules": [{"name": "Tiers", "price": {"tiers": tiers}}]}, order, date(2026, 11, 29 if seed % 3 == 0 else 10)


@pytest.mark.parametrize("seed", range(8))
async def test_the_estimate_of_a_month_is_its_bill_at_two_acquirers_in_any_order_of_their_days(database_url: str, owner: asyncpg.Connection, seed: int) -> None:
    terms, order, first = drawn(seed)
    tills = await two_tills(database_url, owner, first, terms)
    _, facts = await play(tills, seed, order, undo=False)
    tariffs, costs = await tariffs_of(owner, tills[0].merchant), {till.acquirer: await costs_of(owner, till.acquirer) for till in tills}
    meter, month, wanted = Meter(tariffs, costs, {}), first.month, dict[Any, Any]()
    for sale in in_order(facts):
        if sale.settled_on is not None and sale.settled_on.month != month:
            meter.volume, month = {}, sale.settled_on.month
        priced = meter.price(sale)
        wanted[sale.transaction_id] = (priced.gross, priced.fee, priced.interchange, priced.scheme_fee)
    assert await charged(*tills) == wanted
    if month == first.month:
        estimate = bill(tariffs, costs, facts, {}).totals["CNY"]
        settled = [each for till in tills for each in await till.settlements()]
        assert (sum(each["fees"] for each in settled), sum(each["net"] for each in settled)) == (estimate.fees, estimate.net)


@pytest.mark.parametrize("seed", range(20, 22))
async def test_what_is_undone_too_costs_the_same_in_any_order_of_the_days(database_url: str, owner: asyncpg.Connection, seed: int) -> None:
    terms, order, first = drawn(seed)
    found = []
    for each in (order, [0] * DAYS + [1] * DAYS, [1] * DAYS + [0] * DAYS):
        tills = await two_tills(database_url, owner, first, terms)
        named, _ = await play(tills, seed, each, undo=True)
        total = await charged(*tills)
        found.append({name: total.get(row.transaction_id) for name, row in named.items()})
    assert found[0] == found[1] == found[2] and any(found[0].values())
