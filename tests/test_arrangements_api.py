"""Calendars, the end of a business day, funding and holds, as operators arrange them over HTTP; and that settlements and balances obey."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.flows import Shop, open_shop
from tests.test_openapi import fits


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("arrangements")) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module")
async def file(shop: Shop) -> Any:
    return (await shop.ask("GET", "/openapi.json")).body


async def test_a_calendar_is_made_replaced_and_used(shop: Shop) -> None:
    path = "/v1/calendars/shanghai"
    assert (await shop.ask("GET", path, key="operator")).status == 404
    holidays = [{"day": f"2026-10-0{day}", "kind": "holiday"} for day in (1, 2)]
    for exceptions in (holidays, [{"day": "2026-10-10", "kind": "workday"}, holidays[0]], [holidays[0]]):
        made = await shop.ask("PUT", path, {"weekend": [7, 6], "exceptions": exceptions}, "operator")
        assert made.status == 200, made.raw
        assert made.body == {"calendar": "shanghai", "weekend": [6, 7], "exceptions": sorted(exceptions, key=lambda each: each["day"])}
        assert (await shop.ask("GET", path, key="operator")).body == made.body
    funding = f"/v1/merchants/{shop.shown('merchant.one')}/funding"
    assert (await shop.ask("GET", funding, key="operator")).body["calendar"] == "weekdays"
    wanted = {"calendar": "shanghai", "funding_days": 3, "minimum_payout": 500, "reserve_basis_points": 100, "reserve_days": 30}
    assert (await shop.ask("PUT", funding, wanted, "operator")).body == {"merchant": shop.shown("merchant.one"), **wanted}
    assert (await shop.ask("GET", funding, key="operator")).body == {"merchant": shop.shown("merchant.one"), **wanted}
    ending = f"/v1/acquirers/{shop.shown('acquirer.single')}/business-day"
    assert (await shop.ask("PUT", ending, {"calendar": "shanghai", "cut_over_minute": 1380}, "operator")).body["cut_over_minute"] == 1380
    assert (await shop.ask("GET", ending, key="operator")).body == {"acquirer": shop.shown("acquirer.single"), "calendar": "shanghai", "cut_over_minute": 1380}
    assert (await shop.pay(5000)).status == 201, "the worker goes on with the changed record"


@pytest.mark.parametrize(("path", "body", "status"), [
    ("/v1/calendars/x", {"weekend": [0]}, 422), ("/v1/calendars/x", {"weekend": [1, 2, 3, 4, 5, 6, 7]}, 422), ("/v1/calendars/X", {"weekend": []}, 422),
    ("/v1/calendars/x", {"weekend": [6], "exceptions": [{"day": "2026-02-30", "kind": "holiday"}]}, 422),
    ("/v1/calendars/x", {"weekend": [6], "exceptions": [{"day": "2026-02-03", "kind": "holiday"}] * 2}, 422), ("/v1/calendars/daily", {"weekend": [7]}, 409),
    ("/v1/merchants/{merchant}/funding", {"calendar": "nowhere"}, 422), ("/v1/merchants/{merchant}/funding", {"funding_days": 61}, 422),
    ("/v1/merchants/mer_x/funding", {}, 404), ("/v1/acquirers/{acquirer}/business-day", {"calendar": "nowhere"}, 422),
    ("/v1/acquirers/{acquirer}/business-day", {"cut_over_minute": 2880}, 422), ("/v1/acquirers/acq_x/business-day", {}, 404),
])
async def test_what_makes_no_sense_is_refused(shop: Shop, file: Any, path: str, body: Any, status: int) -> None:
    address = path.replace("{merchant}", shop.shown("merchant.one")).replace("{acquirer}", shop.shown("acquirer.single"))
    answer = await shop.ask("PUT", address, body, "operator")
    assert answer.status == status, answer.raw
    assert (await shop.ask("PUT", address, body, "merchant.one")).status == 403


async def test_a_hold_moves_its_amount_and_comes_back(shop: Shop, file: Any) -> None:
    path = f"/v1/merchants/{shop.shown('merchant.two')}/holds"
    amount = await shop.ask("POST", path, {"currency": "CNY", "amount": 700, "reason": "Disputed delivery"}, "operator")
    fits(file, "post", "/v1/merchants/{merchant}/holds", amount)
    assert (amount.status, amount.body["placed_by"], amount.body["released_at"]) == (201, "Flow Tester", None)
    again = await shop.ask("POST", path, {"currency": "CNY", "amount": 700, "reason": "Disputed delivery"}, "operator")
    assert (again.status, again.body["code"]) == (409, "already_exists")
    (found,) = (await shop.ask("GET", "/v1/balance", key="merchant.two")).body["items"]
    assert (found["on_hold"], found["posted"], found["payable_reason"]) == (700, -700, "negative_carried")
    everything = await shop.ask("POST", path, {"currency": "CNY", "reason": "Under investigation"}, "operator")
    (found,) = (await shop.ask("GET", "/v1/balance", key="merchant.two")).body["items"]
    assert found["payable_reason"] == "on_hold"
    for hold in (amount, everything, amount):
        released = await shop.ask("POST", f"{path}/{hold.body['id']}/release", key="operator")
        fits(file, "post", "/v1/merchants/{merchant}/holds/{hold}/release", released)
        assert (released.status, released.body["released_by"]) == (200, "Flow Tester")
    (found,) = (await shop.ask("GET", "/v1/balance", key="merchant.two")).body["items"]
    assert (found["on_hold"], found["posted"], found["payable_reason"]) == (0, 0, "nothing_due")
    listed = (await shop.ask("GET", path, key="operator"))
    fits(file, "get", "/v1/merchants/{merchant}/holds", listed)
    assert [hold["id"] for hold in listed.body["items"]] == [everything.body["id"], amount.body["id"]]
    assert (await shop.ask("GET", f"{path}?limit=1&after={everything.body['id']}", key="operator")).body["items"] == [listed.body["items"][1]]
    other = path.replace(shop.shown("merchant.two"), shop.shown("merchant.one"))
    assert (await shop.ask("POST", f"{other}/{amount.body['id']}/release", key="operator")).status == 404
    for body in ({"currency": "CNY", "amount": 0, "reason": "Disputed delivery"}, {"currency": "cny", "reason": "Disputed delivery"}, {"currency": "CNY", "reason": "short"},
                 {"currency": "CNY", "reason": "card 4111111111111111"}):
        assert (await shop.ask("POST", path, body, "operator")).status == 422
    assert (await shop.ask("POST", path, {"currency": "CNY", "reason": "Disputed delivery"}, "merchant.two")).status == 403
