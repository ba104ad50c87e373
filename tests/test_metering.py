"""The fee engine behind a cut-over: tiers over the month, what refunds give back, monthly fees once, tax, costs; and the bill of the month is the same."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from settled import DAY, ONE_DAY, Till, agree, open_till

from switch.ids import show
from switch.settlement.fees.bills import bill
from switch.settlement.fees.charges import Sale
from switch.settlement.fees.pricing import NO_RULE
from switch.settlement.fees.tariffs import costs_of, tariffs_of

TERMS: dict[str, Any] = {
    "name": "Retail", "currency": "CNY", "rounding": "half_even", "refunds": {"returns": "proportional"},
    "rules": [{"name": "Tiers", "price": {"tiers": [{"up_to": 100_000, "basis_points": 200}, {"basis_points": 100}]}}],
    "periodic": [{"name": "Terminal rent", "per": "terminal", "amount": 3000}], "tax": {"name": "VAT", "basis_points": 600}}
COSTS: dict[str, Any] = {"name": "Bank", "currency": "CNY", "rules": [
    {"name": "All", "interchange": {"basis_points": 30}, "scheme": {"fixed": 2}, "acquirer": {"basis_points": 5}}]}


@pytest_asyncio.fixture
async def till(database_url: str) -> AsyncIterator[Till]:
    opened = await open_till(database_url)
    await opened.owner.execute("INSERT INTO store (merchant_id, store_id, name, time_zone) VALUES ($1, gen_random_uuid(), 'S', 'UTC')", opened.merchant)
    await opened.owner.execute("""INSERT INTO terminal (merchant_id, store_id, terminal_id, name) SELECT merchant_id, store_id, gen_random_uuid(), n::text
        FROM store, generate_series(1, 2) n WHERE merchant_id = $1""", opened.merchant)
    yield opened
    await opened.owner.close()


async def test_tiers_go_on_over_the_days_of_the_month_and_begin_anew_with_the_next(till: Till) -> None:
    await agree(till, {**TERMS, "periodic": [], "tax": {"name": "none", "basis_points": 0}})
    for amount in (80_000, 30_000):
        await till.made(amount=amount)
    await till.cut()
    await till.made(amount=10_000)
    await till.cut()
    assert [line["fee"] for line in await till.lines()] == [1600, 400 + 100, 100]
    while till.day < date(2026, 12, 1):
        await till.cut()
    await till.made(amount=10_000)
    await till.cut()
    assert [line["fee"] for line in await till.lines()][-1] == 200


async def test_a_refund_gives_the_fee_back_in_proportion_on_the_same_day_and_later(till: Till) -> None:
    await agree(till, {**TERMS, "periodic": [], "tax": {"name": "none", "basis_points": 0}})
    sold = await till.made(amount=10_000)
    await till.owner.execute("UPDATE transaction SET version = version + 1, capturable = capturable + 500 WHERE transaction_id = $1", sold.transaction_id)
    await till.follow(sold, "refund", 2500)
    await till.cut()
    for amount in (2500, 5000):
        await till.follow(sold, "refund", amount)
        await till.cut()
    assert [(line["gross"], line["fee"]) for line in await till.lines()] == [(10_000, 200), (-2500, -50), (-2500, -50), (-5000, -100)]
    assert sum(each["fees"] for each in await till.settlements()) == 0


async def test_a_sale_that_no_rule_is_for_is_settled_without_a_fee_and_somebody_is_called(till: Till) -> None:
    async def called() -> list[tuple[str, int]]:
        found = await till.owner.fetch("SELECT object, count FROM alert WHERE kind = 'sales_unpriced' AND object = $1", show("merchant", till.merchant))
        return [tuple(row) for row in found]

    await till.made(amount=10_000)
    await till.cut()
    assert await called() == [], "a merchant without a tariff pays nothing, and that is agreed"
    await agree(till, {**TERMS, "periodic": []})
    await till.made(amount=10_000)
    await till.cut()
    assert await called() == []
    for _ in range(2):
        await till.made(amount=2_500, currency="USD")
    await till.cut()
    assert [(line["currency"], line["fee"], line["rule"]) for line in await till.lines()][-2:] == [("USD", 0, NO_RULE)] * 2
    assert await called() == [(show("merchant", till.merchant), 1)], "once in a commit"
    await till.cut()
    assert await called() == [(show("merchant", till.merchant), 1)]


async def test_monthly_fees_come_once_a_month_with_tax_on_all_fees(till: Till) -> None:
    await agree(till, TERMS)
    for _ in range(2):
        await till.made(amount=10_000)
        await till.cut()
    first, second = await till.settlements()
    assert (first["fees"], first["tax"], first["net"]) == (200 + 6000, 372, 10_000 - 6200 - 372)
    assert json.loads(first["extras"]) == [{"name": "Terminal rent: 2 x 30.00 CNY", "amount": 6000, "monthly": True}]
    assert (second["fees"], second["tax"], json.loads(second["extras"])) == (200, 12, [])
    assert await till.balance() == first["net"] + second["net"]


async def test_a_month_without_a_sale_is_charged_on_its_last_day_and_once(till: Till) -> None:
    await agree(till, TERMS)
    await till.made(amount=10_000)
    while till.day < date(2027, 1, 1):
        await till.cut()
    sold, quiet = await till.settlements()
    assert (quiet["business_date"], quiet["sales_count"], quiet["fees"], quiet["tax"], quiet["net"]) == (date(2026, 12, 31), 0, 6000, 360, -6360)
    assert json.loads(quiet["extras"]) == [{"name": "Terminal rent: 2 x 30.00 CNY", "amount": 6000, "monthly": True}]
    assert await till.balance() == sold["net"] - 6360
    bills = bill(await tariffs_of(till.owner, till.merchant), {}, [], {}, {"terminal": 2}, date(2026, 12, 31))
    assert bills.totals["CNY"].periodic == quiet["fees"]


@pytest.mark.parametrize("change", ["UPDATE terminal SET status = 'suspended' WHERE merchant_id = $1", "UPDATE merchant SET status = 'closed' WHERE merchant_id = $1"])
async def test_nothing_is_charged_for_a_quiet_month_in_which_nothing_is_rented(till: Till, change: str) -> None:
    await agree(till, TERMS)
    await till.made(amount=10_000)
    await till.cut()
    await till.owner.execute(change, till.merchant)
    while till.day < date(2027, 1, 1):
        await till.cut()
    assert len(await till.settlements()) == 1


async def test_a_tax_that_the_fees_contain_is_taken_out_of_them(till: Till) -> None:
    await agree(till, {**TERMS, "periodic": [], "tax": {"name": "VAT", "basis_points": 2500, "inclusive": True}})
    await till.made(amount=10_000)
    await till.cut()
    (settlement,) = await till.settlements()
    assert (settlement["fees"], settlement["tax"], settlement["net"]) == (160, 40, 9800)


async def test_costs_and_margin_are_known_and_the_acquirer_keeps_them(till: Till) -> None:
    await agree(till, {**TERMS, "periodic": [], "tax": {"name": "none", "basis_points": 0}}, COSTS)
    await till.made(amount=10_000)
    await till.cut()
    (line,) = await till.lines()
    assert [line[name] for name in ("fee", "interchange", "scheme_fee", "acquirer_fee", "margin")] == [200, 30, 2, 5, 163]
    assert await till.balance("acquirer") == -10_000 + 37


@pytest.mark.parametrize("seed", range(12))
async def test_the_estimate_of_a_month_is_its_bill_whenever_its_sales_were_approved(till: Till, seed: int) -> None:
    """Drawn: on their day, around midnight, or days later; each sale by the volume of those before it, in the order of settlement."""
    chance = Random(seed)
    borders = sorted(chance.sample(range(20_000, 200_000), 3))
    tiers = [*({"up_to": border, "basis_points": rate} for border, rate in zip(borders, (250, 180, 120), strict=True)), {"basis_points": 90}]
    await agree(till, {**TERMS, "periodic": [], "rules": [{"name": "Tiers", "price": {"tiers": tiers}}]}, {**COSTS, "rules": [
        {"name": "All", "interchange": {"tiers": tiers}, "scheme": {"fixed": 2}, "acquirer": {"basis_points": 5}}]})
    facts, sold, late = list[Sale](), list[Any](), list[Any]()

    def fact(row: Any, kind: str, at: Any, original: UUID | None = None) -> None:
        facts.append(Sale(row.transaction_id, at, row.amount, kind, "CNY", row.brand, "unknown", "card", row.entry_mode, row.mcc, row.business_date, till.acquirer,
                          original, settled_on=till.day))

    for _ in range(5):
        midnight = datetime.combine(till.day, datetime.min.time(), UTC)
        for _ in range(chance.randrange(3)):
            if late:
                row = late.pop(chance.randrange(len(late)))
                at = midnight + timedelta(seconds=chance.randrange(1, 86_400))
                await till.step(row, "APPROVED", outcome_at=at)
                sold.append(row)
                fact(row, "sale", at)
        for _ in range(chance.randrange(1, 7)):
            row = await till.new(amount=chance.randrange(1, 40_000), received_at=midnight + timedelta(seconds=chance.randrange(86_400)))
            if chance.random() < 0.3:
                late.append(row)
                continue
            at = midnight + timedelta(seconds=chance.choice([chance.randrange(86_400), 86_400 + chance.randrange(9)]))
            await till.step(row, "APPROVED", outcome_at=at)
            sold.append(row)
            fact(row, "sale", at)
        if sold and chance.random() < 0.5:
            original = chance.choice(sold)
            row = await till.follow(original, "refund", 1)
            fact(row, "refund", row.received_at + timedelta(seconds=1), original.transaction_id)
        await till.cut()
    wanted = bill(await tariffs_of(till.owner, till.merchant), {till.acquirer: await costs_of(till.owner, till.acquirer)}, facts, {})
    assert {line["transaction_id"]: (line["gross"], line["fee"], line["interchange"]) for line in await till.lines()} == {
        priced.transaction_id: (priced.gross, priced.fee, priced.interchange) for priced in wanted.priced}
    settled = await till.settlements()
    assert sum(each["fees"] for each in settled) == wanted.totals["CNY"].fees
    assert sum(each["volume"] for each in settled) == wanted.month_to_date["CNY"] == sum(each.amount for each in facts if each.kind == "sale")


async def test_what_is_undone_leaves_the_volume_of_the_month_that_it_counted_in_and_comes_back_with_its_sale(till: Till) -> None:
    await agree(till, {**TERMS, "periodic": [], "tax": {"name": "none", "basis_points": 0}})
    first = await till.made(amount=80_000)
    await till.cut()
    await till.step(first, "REVERSING", captured=0)
    await till.step(first, "REVERSED")
    await till.made(amount=50_000)
    await till.cut()
    assert [(line["gross"], line["fee"]) for line in await till.lines()] == [(80_000, 1600), (-80_000, -1600), (50_000, 1000)], "as if it had never been sold"
    assert [each["volume"] for each in await till.settlements()] == [80_000, -30_000]
    last = await till.made(amount=60_000)
    while till.day < date(2026, 12, 1):
        await till.cut()
    assert (await till.lines(last))[0]["fee"] == 1000 + 100, "50,000 of the month were before it"
    await till.step(last, "REVERSING", captured=0)
    await till.step(last, "REVERSED")
    await till.made(amount=100_000)
    await till.cut()
    undone, sale = (await till.lines())[-1], (await till.lines())[-2]
    assert {(each["gross"], each["fee"]) for each in (undone, sale)} == {(-60_000, -1100), (100_000, 2000)}
    assert (await till.settlements())[-1]["volume"] == 100_000, "it counted in November, and December owes it nothing"


async def test_what_is_settled_day_by_day_is_the_bill_of_the_month(till: Till) -> None:
    await agree(till, {**TERMS, "periodic": []}, COSTS)
    facts: list[Sale] = []

    def fact(row: Any, kind: str, original: UUID | None = None) -> None:
        facts.append(Sale(row.transaction_id, row.received_at, row.amount, kind, "CNY", row.brand, "unknown", "card", row.entry_mode, row.mcc, row.business_date,
                          till.acquirer, original))

    sold = []
    for day in range(4):
        for number in range(6):
            row = await till.made(amount=7000 + 1013 * number + 17 * day)
            sold.append(row)
            fact(row, "sale")
        for original in sold[day * 5:day * 5 + 2]:
            row = await till.follow(original, "refund", 333 + day)
            fact(row, "refund", original.transaction_id)
        await till.cut()
    wanted = bill(await tariffs_of(till.owner, till.merchant), {till.acquirer: await costs_of(till.owner, till.acquirer)}, facts, {})
    assert {line["transaction_id"]: (line["fee"], line["interchange"], line["scheme_fee"], line["acquirer_fee"]) for line in await till.lines()} == {
        priced.transaction_id: priced[3:7] for priced in wanted.priced}
    assert sum(each["fees"] for each in await till.settlements()) == wanted.totals["CNY"].fees
    assert till.day == DAY + 4 * ONE_DAY
