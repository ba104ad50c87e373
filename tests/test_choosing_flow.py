"""Offers side by side over HTTP: fees by the engine that settles, figures of recorded sales, ratings of who sold; and a recommendation."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from switch.merchants.choosing.months import Month, Part, sales_of
from tests.flows import Shop, open_shop

TERMS = {"name": "Cheap", "currency": "CNY", "rules": [{"name": "Cards", "price": {"tiers": [{"up_to": 300_000, "basis_points": 60}, {"basis_points": "38.25"}]}}],
         "periodic": [{"name": "Rent", "per": "terminal", "amount": 500}], "tax": {"name": "VAT", "basis_points": 600}}
DEAR = {"name": "Dear", "currency": "CNY", "rules": [{"name": "All", "price": {"basis_points": 90}}]}
ASK = {"mcc": "5812", "currency": "CNY", "monthly_volume": 1_000_003, "average_ticket": 7_000, "terminals": 2,
       "parts": [{"brand": "unionpay", "card_type": "debit", "share": 2}, {"brand": "visa", "card_type": "credit", "share": 1}]}


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("choosing")) as shop:
        for acquirer, terms in (("dual", DEAR), ("single", TERMS)):
            added = await post(shop, "/v1/offers", {"acquirer": shop.shown(f"acquirer.{acquirer}"), "name": terms["name"], "terms": terms, "funding_days": 1})
            assert added.status == 201, added.raw
            assert added.body["state"] == "draft"
            assert (await post(shop, f"/v1/offers/{added.body['id']}/activate")).status == 200
        yield shop


async def post(shop: Shop, path: str, body: Any = None, key: str = "operator") -> Any:
    return await shop.ask("POST", path, {} if body is None else body, key=key)


async def compared(shop: Shop, **said: Any) -> list[Any]:
    answer = await post(shop, "/v1/offers/comparisons", ASK | said, "merchant.one")
    assert answer.status == 200, answer.raw
    return list(answer.body["items"])


async def test_the_estimate_is_the_later_bill_of_the_same_transactions(shop: Shop) -> None:
    cheap, dear = await compared(shop)
    assert [each["name"] for each in (cheap, dear)] == ["Cheap", "Dear"] and cheap["cost"]["total"] < dear["cost"]["total"]
    agreed = await post(shop, f"/v1/merchants/{shop.shown('merchant.four')}/tariffs", {"effective_from": "2026-01-01", "terms": TERMS})
    assert agreed.status == 201, agreed.raw
    month = Month("CNY", ASK["monthly_volume"], ASK["average_ticket"], "5812", (Part("unionpay", "debit", "card", 2), Part("visa", "credit", "card", 1)), 2, 1)
    first = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    sold = [{"amount": each.amount, "currency": "CNY", "brand": each.brand, "card_type": each.card_type, "mcc": each.mcc,
             "acquirer": shop.shown("acquirer.single"), "captured_at": each.captured_at.isoformat()} for each in sales_of(month, first, shop.ids["acquirer.single"])]
    billed = await post(shop, "/v1/fees/estimates", {"merchant": shop.shown("merchant.four"), "transactions": sold, "periodic": {"terminals": 2, "stores": 1}})
    assert billed.status == 200, billed.raw
    totals = billed.body["totals"][0]
    cost = cheap["cost"]
    assert (cost["fees"], cost["periodic"], cost["tax"], cost["volume"]) == (totals["fees"], totals["periodic"], totals["taxes"][0]["amount"], totals["sales"])
    assert [(line["what"], line["amount"], line["count"]) for line in cost["lines"]] == [
        (line["what"], line["amount"], line["count"]) for line in billed.body["fee_lines"]]
    assert cost["net_of_sales"] == totals["net"]


async def test_figures_are_those_of_recorded_sales(shop: Shop) -> None:
    before = (await compared(shop))[0]["measured"]
    assert (before["asked"], before["p50_ms"], before["approval_basis_points"], before["measured_at"]) == (0, None, None, None), "nothing was typed in"
    for _ in range(3):
        assert (await shop.pay(10_000)).status in (201, 202)
    declined = await shop.pay(10_051)
    rows = await shop.sql("SELECT count(*) AS asked, count(*) FILTER (WHERE outcome = 'APPROVED') AS approved, count(*) FILTER (WHERE outcome = 'DECLINED') AS declined "
                          "FROM transaction WHERE acquirer_id = $1 AND exchange = 'request' AND original_id IS NULL", shop.ids["acquirer.single"])
    assert await shop.switch.journey.offers.measure(datetime.now(UTC).date()) >= 1, declined.raw
    assert await shop.switch.journey.offers.measure(datetime.now(UTC).date()) == 0, "a day is summed up once"
    found = next(each for each in await compared(shop) if each["name"] == "Cheap")["measured"]
    told = rows[0]
    assert found["asked"] == told["asked"] >= 4 and found["measured_at"] is not None
    assert found["approval_basis_points"] == told["approved"] * 10_000 // (told["approved"] + told["declined"])
    assert 0 < found["uptime_basis_points"] <= 10_000 and 0 < found["p50_ms"] <= found["p95_ms"]
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await _as_writer(shop, "UPDATE acquirer_measured SET approved = 0")


async def _as_writer(shop: Shop, statement: str) -> None:
    connection = await asyncpg.connect(shop.url, server_settings={"role": "switch_writer"})
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_only_who_sold_rates_and_the_newest_counts(shop: Shop) -> None:
    assert (await shop.pay(10_000)).status == 201
    said = {"acquirer": shop.shown("acquirer.single"), "stars": 2, "words": "slow"}
    refused = await post(shop, "/v1/ratings", said, "merchant.two")
    assert (refused.status, refused.body["code"]) == (409, "conflict"), "it sells elsewhere"
    assert (await post(shop, "/v1/ratings", said, "operator")).status == 403
    assert (await post(shop, "/v1/ratings", said | {"stars": 6}, "merchant.one")).status == 422
    for stars in (2, 5):
        assert (await post(shop, "/v1/ratings", said | {"stars": stars}, "merchant.one")).status == 201
    found = next(each for each in await compared(shop) if each["name"] == "Cheap")
    assert found["rating"] == {"count": 1, "hundredths": 500}
    assert [row["stars"] for row in await shop.sql("SELECT stars FROM acquirer_rating ORDER BY number")] == [2, 5], "nothing is overwritten"


async def test_a_business_gets_terminals_methods_and_a_plan_with_every_fee(shop: Shop) -> None:
    said = {"country": "CN", "mcc": "5812", "currency": "CNY", "monthly_volume": 1_000_000, "average_ticket": 5_000, "methods": ["card"], "place": "table",
            "terminals": 2, "budget": 10_000}
    answer = await post(shop, "/v1/recommendations", said, "merchant.one")
    assert answer.status == 200, answer.raw
    body = answer.body
    assert (body["terminal"]["model"], body["terminal"]["count"], body["terminal"]["price"]) == ("handheld", 2, None)
    assert (body["plan"]["name"], body["within_budget"]) == ("Cheap", True) and body["plan"]["cost"]["periodic"] == 1000
    assert body["plan"]["cost"]["total"] == sum(line["amount"] for line in body["plan"]["cost"]["lines"]) + body["plan"]["cost"]["tax"]
    assert [each["name"] for each in body["others"]] == ["Dear"]
    bought = (await post(shop, "/v1/recommendations", said | {"equipment": "buy", "budget": 1}, "merchant.one")).body
    assert bought["terminal"]["price"] > 0 and bought["plan"]["cost"]["periodic"] == 0 and bought["within_budget"] is False


@pytest.mark.parametrize(("changed", "field"), [
    ({"average_ticket": 1}, "average_ticket"), ({"currency": "ZZZ"}, "currency"), ({"methods": []}, "methods"), ({"place": "moon"}, "place"),
    ({"monthly_volume": 0}, "monthly_volume"), ({"mcc": "58"}, "mcc"),
])
async def test_answers_that_cannot_be_are_refused_by_their_field(shop: Shop, changed: dict[str, Any], field: str) -> None:
    said = {"country": "CN", "mcc": "5812", "currency": "CNY", "monthly_volume": 1_000_000, "average_ticket": 5_000, "methods": ["card"], "place": "table"}
    answer = await post(shop, "/v1/recommendations", said | changed)
    assert answer.status == 422 and any(fault["field"].startswith(field) for fault in answer.body["errors"]), answer.raw


async def test_offers_are_operators_business_and_their_terms_are_read(shop: Shop) -> None:
    wrong = await post(shop, "/v1/offers", {"acquirer": shop.shown("acquirer.single"), "name": "X", "terms": {"name": "X"}, "funding_days": 1})
    assert (wrong.status, wrong.body["code"]) == (422, "invalid") and wrong.body["errors"]
    assert (await post(shop, "/v1/offers", {}, "merchant.one")).status == 403
    assert (await shop.ask("GET", "/v1/offers", key="merchant.one")).status == 403
    assert (await post(shop, "/v1/offers/comparisons", ASK, "till")).status == 403
    offers = (await shop.ask("GET", "/v1/offers?state=active", key="operator")).body["items"]
    again = await post(shop, f"/v1/offers/{offers[0]['id']}/activate")
    assert (again.status, again.body["code"]) == (409, "conflict")
