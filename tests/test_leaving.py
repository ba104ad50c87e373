"""How a merchant leaves: the table, how long things are kept, and the whole way over HTTP."""

import re
from collections.abc import AsyncIterator
from datetime import date
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from migrations.versions.r0029_moving import LEAVING_STEPS
from switch.merchants.leaving.life import LIFE, RETENTION, kept
from tests.flows import Shop, eventually, new_key, open_shop
from tests.processes import ROOT
from tests.test_moving_flow import approved


def test_the_database_holds_the_same_steps() -> None:
    assert sorted(LEAVING_STEPS) == sorted(f"{was}>{state}" for (was, _), state in LIFE.items())


@pytest.mark.parametrize("state", LIFE.states)
@pytest.mark.parametrize("event", LIFE.events)
def test_an_event_follows_or_is_refused_by_name(state: str, event: str) -> None:
    found = LIFE.refusal(state, event)
    assert (found is None) == ((state, event) in LIFE)
    assert found is None or (found.code == "leaving_step" and state in found.detail and event in found.detail)


@pytest.mark.parametrize(("country", "years"), [("CN", {"identity": 10, "transactions": 10, "accounts": 30}), ("DE", {"identity": 5, "transactions": 5, "accounts": 10}),
                                                ("", {"identity": 5, "transactions": 5, "accounts": 10})])
def test_what_is_kept_and_until_when_is_data_with_its_source(country: str, years: dict[str, int]) -> None:
    assert {each.what: each.until.year - 2026 for each in kept(country, date(2026, 11, 26))} == years
    assert kept("DE", date(2028, 2, 29))[0].until == date(2033, 3, 1), "never a day too short"


def test_the_guide_names_each_period_with_its_source() -> None:
    text = (ROOT / "docs/moving.md").read_text()
    told = re.findall(r"^\| (identity|transactions|accounts) \| (\S+) \| (\d+) \| (.+) \|$", text, re.M)
    assert told == [(each.what, each.country or "others", str(each.years), each.source) for each in RETENTION]
    assert all(re.search(r"(article|annex|section) \d+", each.source) for each in RETENTION), "where in it"


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("leaving")) as shop:
        yield shop


async def begun(shop: Shop, merchant: str) -> str:
    answer = await shop.ask("POST", "/v1/leavings", {"merchant": shop.shown(f"merchant.{merchant}"), "reason": "the shop closes"}, key="operator")
    assert answer.status == 201, answer.raw
    return str(answer.body["id"])


async def go(shop: Shop, leaving: str, event: str) -> Any:
    return await shop.ask("POST", f"/v1/leavings/{leaving}/steps", {"event": event, "reason": f"to {event}"}, key="operator")


async def test_a_merchant_that_sold_nothing_leaves_step_by_step_and_what_the_law_says_is_kept(shop: Shop) -> None:
    leaving = await begun(shop, "four")
    twice = await shop.ask("POST", "/v1/leavings", {"merchant": shop.shown("merchant.four"), "reason": "again"}, key="operator")
    assert (twice.status, twice.body["code"]) == (409, "already_exists")
    assert "noticed cannot close" in (await go(shop, leaving, "close")).body["detail"]
    for event, state in (("stop", "stopped"), ("return", "returned"), ("settle", "settled"), ("close", "closed")):
        answer = await go(shop, leaving, event)
        assert (answer.status, answer.body["state"]) == (200, state), answer.raw
    body = answer.body
    assert [each["event"] for each in body["events"]] == ["notice", "stop", "return", "settle", "close"]
    assert {each["what"] for each in body["kept"]} == {"identity", "transactions", "accounts"} and body["can"] == []
    merchant = (await shop.ask("GET", f"/v1/merchants/{shop.shown('merchant.four')}", key="operator")).body
    assert merchant["status"] == "closed"

    async def locked_out() -> bool:
        return (await shop.ask("GET", "/v1/leavings", key="merchant.four")).status == 401 and (await shop.pay(10_000, key="lost")).status == 401

    await eventually(locked_out, "its keys still open something")
    assert (await shop.sql("SELECT count(*) AS n FROM terminal WHERE merchant_id = $1 AND status <> 'retired'", shop.ids["merchant.four"]))[0]["n"] == 0


async def test_it_is_refused_by_name_while_something_is_open_and_sales_stop_within_a_second(shop: Shop) -> None:
    held = await approved(shop, 50_000, type="preauthorization", capture_method="manual", key="strict")
    await approved(shop, 20_000, key="strict")
    leaving = await begun(shop, "three")
    waits = await go(shop, leaving, "stop")
    assert (waits.status, waits.body["code"]) == (409, "leaving_waits") and "preauthorizations: 1 of 500.00 CNY" in waits.body["detail"]
    void = await shop.ask("POST", f"/v1/authorizations/{held['id']}/voids", {}, key="strict", Idempotency_Key=new_key())
    assert void.status == 201, void.raw
    stopped = await go(shop, leaving, "stop")
    assert stopped.status == 200, stopped.raw
    await shop.caught_up()
    assert (await shop.pay(10_000, key="strict")).status == 403
    returned = await go(shop, leaving, "return")
    assert returned.status == 200, returned.raw
    unpaid = await go(shop, leaving, "settle")
    assert (unpaid.status, unpaid.body["code"]) == (409, "leaving_waits") and "unsettled: 1 of 200.00 CNY" in unpaid.body["detail"]
    assert "returned cannot withdraw" in (await go(shop, leaving, "withdraw")).body["detail"]


async def test_a_device_in_the_shop_is_named_and_who_stays_sells_again(shop: Shop) -> None:
    made = await shop.ask("POST", "/v1/devices", {"serial_number": "LEAVE-0001", "model": "P200", "reason": "new"}, key="operator")
    device = made.body["id"]
    ordered = await shop.ask("POST", f"/v1/devices/{device}/moves", {"event": "order", "store": shop.shown("store.two"), "reason": "for the shop"}, key="operator")
    assert ordered.status == 200, ordered.raw
    leaving = await begun(shop, "two")
    assert (await go(shop, leaving, "stop")).status == 200
    waits = await go(shop, leaving, "return")
    assert (waits.status, waits.body["code"]) == (409, "leaving_waits") and device in waits.body["detail"]
    assert (await go(shop, leaving, "withdraw")).body["state"] == "withdrawn"
    await shop.caught_up()
    await approved(shop, 10_000, key="dual")
    again = await begun(shop, "two")
    assert again != leaving, "one that was withdrawn is over"


async def test_merchants_see_their_own_alone_and_the_database_takes_no_step_without_its_row(shop: Shop) -> None:
    leaving = await begun(shop, "one")
    assert (await shop.ask("GET", f"/v1/leavings/{leaving}", key="merchant.one")).status == 200
    assert (await shop.ask("GET", f"/v1/leavings/{leaving}", key="merchant.two")).status == 404
    assert (await shop.ask("POST", f"/v1/leavings/{leaving}/steps", {"event": "stop", "reason": "x"}, key="merchant.one")).status == 403
    with pytest.raises(asyncpg.CheckViolationError, match="recorded with who"):
        await shop.sql("UPDATE merchant_leaving SET state = 'stopped', version = version + 1 WHERE leaving_id = $1", UUID(leaving[4:]))
    assert (await go(shop, leaving, "withdraw")).status == 200
