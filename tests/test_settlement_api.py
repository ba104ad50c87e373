"""Settlement over real HTTP: a day is sold, cut over by an operator's word, and read by its merchant; nobody sees another's."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.flows import Shop, eventually, new_key, open_shop
from tests.processes import run
from tests.test_openapi import fits


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("settlement")) as opened:
        await opened.sql("INSERT INTO tariff SELECT merchant_id, '2020-01-01', 100 FROM merchant")
        yield opened


@pytest_asyncio.fixture(scope="module")
async def file(shop: Shop) -> Any:
    return (await shop.ask("GET", "/openapi.json")).body


async def balance(shop: Shop, key: str = "merchant.one") -> dict[str, Any]:
    """Of its one currency."""
    (found,) = (await shop.ask("GET", "/v1/balance", key=key)).body["items"]
    return dict(found)


async def cut_over(shop: Shop, acquirer: str, body: Any = None) -> Any:
    """Asks for it over HTTP, and waits until it has ended."""
    path = f"/v1/acquirers/{shop.shown(acquirer)}/cutovers"
    begun = await shop.ask("POST", path, body or {}, "operator")
    assert begun.status == 202, begun.raw

    async def ended() -> Any:
        shown = (await shop.ask("GET", f"{path}?business_date={begun.body['business_date']}", key="operator")).body["items"]
        return shown[0] if shown and shown[0]["ended_at"] else None

    return await eventually(ended, "the cut-over does not end", 20)


@pytest_asyncio.fixture(scope="module")
async def day(shop: Shop) -> dict[str, Any]:
    """A day of both acquirers, cut over; what was sold, by name, and the balance of the evening before."""
    sold = {"till": (await shop.pay(10_000)).body, "branch": (await shop.pay(20_000, key="branch")).body, "dual": (await shop.pay(7000, key="dual")).body}
    await shop.until((await shop.pay(500, key="till", type="preauthorization")).body["id"], "approved")
    refund = await shop.ask("POST", "/v1/refunds", {"authorization": sold["till"]["id"], "amount": 2500}, Idempotency_Key=new_key())
    assert refund.status == 201, refund.raw
    row = await shop.row(sold["till"]["id"])
    capture = f"txn_{(await shop.sql('SELECT transaction_id FROM transaction WHERE original_id = $1', (await shop.row(sold['dual']['id']))['transaction_id']))[0]['transaction_id']}"
    await shop.until(capture, "approved")
    evening = await balance(shop)
    steps = [await cut_over(shop, name) for name in ("acquirer.single", "acquirer.dual")]
    return {"sold": sold, "refund": refund.body, "date": row["business_date"].isoformat(), "evening": evening, "steps": steps, "capture": capture}


async def settlement_of(shop: Shop, merchant: str = "merchant.one") -> dict[str, Any]:
    (found,) = (await shop.ask("GET", "/v1/settlements", key=merchant)).body["items"]
    return dict(found)


async def test_the_day_is_told_before_and_after_it_is_settled(shop: Shop, day: dict[str, Any]) -> None:
    assert (day["evening"]["posted"], day["evening"]["not_settled"], day["evening"]["payable"]) == (0, 27_500, 0)
    await shop.sql("UPDATE settlement SET due_on = due_on + 3")  # where the merchant is, tomorrow may have begun
    now = await balance(shop)
    assert (now["posted"], now["not_settled"], now["not_due"], now["payable"], now["payable_reason"]) == (27_200, 0, 27_200, 0, "nothing_due")
    assert now["next_due_on"] == (await settlement_of(shop))["due_on"]
    await shop.sql("UPDATE settlement SET due_on = due_on - 30")
    assert (await balance(shop))["payable"] == 27_200
    await shop.sql("UPDATE settlement SET due_on = due_on + 27")


async def test_a_settlement_adds_up(shop: Shop, day: dict[str, Any]) -> None:
    shown = await settlement_of(shop)
    assert {name: shown[name] for name in ("business_date", "sales_count", "sales", "refunds_count", "refunds", "fees", "net", "state")} == {
        "business_date": day["date"], "sales_count": 2, "sales": 30_000, "refunds_count": 1, "refunds": 2500, "fees": 300, "net": 27_200, "state": "stated"}
    assert (await shop.ask("GET", f"/v1/settlements/{shown['id']}", key="merchant.one")).body == shown
    assert shown["priced_at"] <= shown["stated_at"]
    dual = await settlement_of(shop, "merchant.two")
    (line,) = (await shop.ask("GET", f"/v1/settlements/{dual['id']}/transactions", key="merchant.two")).body["items"]
    assert (line["transaction"], line["original"], line["type"], line["gross"]) == (day["capture"], day["sold"]["dual"]["id"], "capture", 7000)


async def test_its_transactions_are_paged_and_narrowed(shop: Shop, day: dict[str, Any]) -> None:
    path = f"/v1/settlements/{(await settlement_of(shop))['id']}/transactions"
    whole = (await shop.ask("GET", path, key="merchant.one")).body
    assert [line["transaction"] for line in whole["items"]] == [day["refund"]["id"], day["sold"]["branch"]["id"], day["sold"]["till"]["id"]]
    assert [(line["kind"], line["gross"], line["fee"], line["net"]) for line in whole["items"]] == [
        ("refund", -2500, 0, -2500), ("sale", 20_000, 200, 19_800), ("sale", 10_000, 100, 9900)]
    paged, after = [], ""
    while after is not None:
        page = (await shop.ask("GET", f"{path}?limit=1{after}", key="merchant.one")).body
        paged += page["items"]
        after = page["next"] and f"&after={page['next']}"
    assert paged == whole["items"]
    for query, count in ((f"store={shop.shown('store.second')}", 1), (f"terminal={shop.shown('terminal.till')}", 2), ("brand=unionpay", 3), ("brand=visa", 0),
                         (f"date={day['date']}", 3), ("date=2020-01-01", 0)):
        assert len((await shop.ask("GET", f"{path}?{query}", key="merchant.one")).body["items"]) == count, query


async def test_the_list_is_narrowed_by_acquirer_currency_and_date(shop: Shop, day: dict[str, Any]) -> None:
    for query, count in ((f"acquirer={shop.shown('acquirer.single')}", 1), (f"acquirer={shop.shown('acquirer.dual')}", 0), ("currency=CNY", 1),
                         ("currency=USD", 0), (f"from={day['date']}", 1), ("to=2020-01-01", 0)):
        assert len((await shop.ask("GET", f"/v1/settlements?{query}", key="merchant.one")).body["items"]) == count, query
    everyone = (await shop.ask("GET", "/v1/settlements?limit=1", key="operator")).body
    rest = (await shop.ask("GET", f"/v1/settlements?after={everyone['next']}", key="operator")).body
    assert (len(everyone["items"]), len(rest["items"]), rest["next"]) == (1, 1, None)


async def test_the_history_tells_each_transfer_and_sums_to_the_balance(shop: Shop, day: dict[str, Any]) -> None:
    found = (await shop.ask("GET", "/v1/balance/history", key="merchant.one")).body
    assert [(entry["account"], entry["cause"], entry["amount"]) for entry in found["items"]][::-1] == [
        ("merchant", "sales", 30_000), ("merchant", "refunds", -2500), ("merchant", "fees", -300)]
    assert {entry["object"] for entry in found["items"]} == {(await settlement_of(shop))["id"]}
    first = (await shop.ask("GET", "/v1/balance/history?limit=2", key="merchant.one")).body
    second = (await shop.ask("GET", f"/v1/balance/history?limit=2&after={first['next']}", key="merchant.one")).body
    assert first["items"] + second["items"] == found["items"]
    for query, count in (("account=reserve", 0), ("currency=USD", 0), ("from=2020-01-01T00:00:00Z", 3), ("to=2020-01-01T00:00:00Z", 0)):
        assert len((await shop.ask("GET", f"/v1/balance/history?{query}", key="merchant.one")).body["items"]) == count, query


async def test_foreign_is_absent_and_terminals_have_no_say(shop: Shop, day: dict[str, Any]) -> None:
    shown = (await settlement_of(shop))["id"]
    for path in (f"/v1/settlements/{shown}", f"/v1/settlements/{shown}/transactions", "/v1/settlements/set_x",
                 f"/v1/balance?merchant={shop.shown('merchant.one')}", f"/v1/balance/history?merchant={shop.shown('merchant.one')}",
                 f"/v1/settlements?merchant={shop.shown('merchant.one')}"):
        assert (await shop.ask("GET", path, key="merchant.two")).status == 404, path
    for path in ("/v1/settlements", f"/v1/settlements/{shown}", f"/v1/settlements/{shown}/transactions", "/v1/balance", "/v1/balance/history"):
        assert (await shop.ask("GET", path, key="till")).status == 403, path
    cutovers = f"/v1/acquirers/{shop.shown('acquirer.single')}/cutovers"
    assert [(await shop.ask(method, cutovers, body, key)).status for key in ("till", "merchant.one") for method, body in (("GET", None), ("POST", {}))] == [403] * 4
    assert (await shop.ask("GET", "/v1/balance", key="operator")).status == 422
    assert (await shop.ask("GET", f"/v1/balance?merchant={shop.shown('merchant.one')}", key="operator")).body["items"] == [await balance(shop)]


async def test_what_is_not_stated_is_shown_to_operators_alone(shop: Shop, day: dict[str, Any]) -> None:
    await shop.sql("UPDATE settlement SET state = 'posted' WHERE merchant_id = $1", shop.ids["merchant.two"])
    try:
        assert (await shop.ask("GET", "/v1/settlements", key="merchant.two")).body["items"] == []
        (shown,) = (await shop.ask("GET", f"/v1/settlements?merchant={shop.shown('merchant.two')}", key="operator")).body["items"]
        assert (await shop.ask("GET", f"/v1/settlements/{shown['id']}", key="merchant.two")).status == 404
    finally:
        await shop.sql("UPDATE settlement SET state = 'stated' WHERE merchant_id = $1", shop.ids["merchant.two"])


async def test_the_steps_are_shown_and_asking_again_changes_nothing(shop: Shop, day: dict[str, Any]) -> None:
    shown = day["steps"][0]
    assert [(step["step"], step["state"]) for step in shown["steps"]] == [(name, "done") for name in ("open", "confirm", "wait", "take", "price", "post", "state")]
    assert await cut_over(shop, "acquirer.single", {"business_date": day["date"]}) == shown
    path = f"/v1/acquirers/{shop.shown('acquirer.single')}/cutovers"
    for body, status in (({}, 409), ({"business_date": "2020-01-01"}, 404), ({"business_date": "2026-02-30"}, 422), ({"business_date": 20_260_101}, 422), ({"x": 1}, 422)):
        assert (await shop.ask("POST", path, body, "operator")).status == status, body
    assert (await shop.ask("POST", "/v1/acquirers/acq_x/cutovers", {}, "operator")).status == 404


async def test_a_day_that_has_not_begun_is_closed_only_by_its_name(shop: Shop, day: dict[str, Any]) -> None:
    path, next_date = f"/v1/acquirers/{shop.shown('acquirer.dual')}/cutovers", day["steps"][1]["next_date"]
    once_too_often = await shop.ask("POST", path, {}, "operator")
    assert (once_too_often.status, once_too_often.body["code"]) == (409, "conflict") and f"{next_date} has not begun" in once_too_often.body["detail"]
    assert (await cut_over(shop, "acquirer.dual", {"business_date": next_date}))["business_date"] == next_date


async def test_after_it_the_next_day_is_sold_and_the_old_one_cannot_be_undone(shop: Shop, day: dict[str, Any]) -> None:
    sold = (await shop.pay(4000)).body
    assert (await shop.row(sold["id"]))["business_date"].isoformat() == day["steps"][0]["next_date"]
    for verb in ("voids", "reversals"):
        refused = await shop.ask("POST", f"/v1/authorizations/{day['sold']['branch']['id']}/{verb}", {}, "branch", Idempotency_Key=new_key())
        assert (refused.status, refused.body["code"]) == (409, "day_closed")
    assert (await balance(shop))["not_settled"] == 4000


async def test_what_moves_after_its_day_was_settled_is_in_the_balance_until_it_is(shop: Shop, day: dict[str, Any]) -> None:
    """A capture of a settled day that was decided late; and one whose day took it, and that no longer stands."""
    before = (await balance(shop, "merchant.two"))["not_settled"]
    capture = (await shop.row(day["capture"]))["transaction_id"]
    line = await shop.sql("SELECT gross FROM settlement_line WHERE transaction_id = $1", capture)
    assert [row["gross"] for row in line] == [7000]
    await shop.sql("""INSERT INTO late_change (merchant_id, transaction_id, acquirer_id, for_date)
        SELECT merchant_id, transaction_id, acquirer_id, business_date FROM transaction WHERE transaction_id = $1""", capture)
    assert (await balance(shop, "merchant.two"))["not_settled"] == before, "it is worth what was settled of it"
    await shop.sql("ALTER TABLE settlement_line DISABLE TRIGGER USER")
    await shop.sql("UPDATE settlement_line SET gross = 3000 WHERE transaction_id = $1", capture)
    assert (await balance(shop, "merchant.two"))["not_settled"] == before + 4000
    await shop.sql("UPDATE settlement_line SET gross = 7000 WHERE transaction_id = $1", capture)
    await shop.sql("UPDATE late_change SET settled_on = for_date WHERE transaction_id = $1", capture)


async def test_every_answer_has_its_documented_shape(shop: Shop, file: Any, day: dict[str, Any]) -> None:
    shown = (await settlement_of(shop))["id"]
    for path, query in (("/v1/settlements", ""), ("/v1/settlements/{settlement}", ""), ("/v1/settlements/{settlement}/transactions", ""), ("/v1/balance", ""),
                        ("/v1/balance/history", ""), ("/v1/settlements", "?from=2026-02-30"), ("/v1/settlements", "?limit=0"), ("/v1/balance", "?merchant=x")):
        for key in ("merchant.one", "operator", "till", "x"):
            fits(file, "get", path, await shop.ask("GET", path.replace("{settlement}", shown) + query, key=key))
    cutovers = "/v1/acquirers/{acquirer}/cutovers"
    for query in ("", "?limit=1", "?after=2020-01-01", "?after=x"):
        fits(file, "get", cutovers, await shop.ask("GET", cutovers.replace("{acquirer}", shop.shown("acquirer.single")) + query, key="operator"))


async def test_the_command_line_shows_and_runs_it(shop: Shop, day: dict[str, Any], tmp_path: Any) -> None:
    variables = {"SWITCH_DATABASE_URL": shop.url}
    status = run(tmp_path / "home", "cutover", "status", "single", **variables)
    assert status.code == 0 and day["date"] in status.out and status.out.count(" done ") >= 7
    assert run(tmp_path / "home", "cutover", "status", "single", "2020-01-01", **variables).out == "no cut-over of 2020-01-01 has begun\n"
    again = run(tmp_path / "home", "cutover", "run", shop.shown("acquirer.single"), day["date"], **variables)
    assert (again.code, json.loads(again.out)["done"]) == (0, True)
    for words in (("run", "nobody"), ("run", "single", "2020-01-01"), ("run", "single", "yesterday"), ("run", "single")):
        refused = run(tmp_path / "home", "cutover", *words, **variables)
        assert refused.code == 2 and refused.out == "" and refused.err, words
