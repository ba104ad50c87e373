"""A merchant's traffic hour by hour, from recorded sales; and the commands that ask for it, for notices and for ratings."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from switch.cli import main
from tests.flows import Shop, open_shop, staffed
from tests.test_openapi import fits
from tests.test_tickets_flow import opened

Typed = Callable[..., Awaitable[str]]


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("traffic")) as opened:
        await staffed(opened, database_url)
        await opened.caught_up()
        yield opened


@pytest.fixture
def typed(shop: Shop, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Typed:
    """What a command prints when it ends with 0."""
    monkeypatch.setenv("SWITCH_HOME", str(tmp_path))

    async def run(*words: str, key: str = "merchant.one") -> str:
        capfd.readouterr()
        code = await asyncio.to_thread(main, [*words, "--url", shop.base, "--key", shop.keys[key]])
        said = capfd.readouterr()
        assert code == 0, said.err
        return said.out

    return run


async def traffic(shop: Shop, key: str = "merchant.one", **query: str) -> list[Any]:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    answer = await shop.ask("GET", f"/v1/traffic?{asked}", key=key)
    assert answer.status == 200, answer.raw
    return list(answer.body["items"])


async def test_each_sale_is_counted_once_by_what_became_of_it(shop: Shop, typed: Typed) -> None:
    assert await traffic(shop) == []
    sold = [await shop.pay(amount, f"traffic-key-{amount:05d}") for amount in (10_000, 20_000, 30_000, 10_051)]
    undone = await shop.cancel("traffic-key-30000")
    assert [answer.body["status"] for answer in sold] == ["approved"] * 3 + ["declined"]
    back = await shop.ask("POST", "/v1/refunds", {"authorization": sold[0].body["id"], "amount": 4000}, "till", Idempotency_Key="traffic-refund-001")
    assert (back.status, undone.status < 300) == (201, True), (back.raw, undone.raw)
    part = await shop.pay(3110, "traffic-key-part", partial_approval="accept")
    assert 0 < part.body["approved_amount"] < 3110
    asked = await shop.pay(None, "traffic-key-question", type="account_verification")
    assert asked.status == 201, asked.raw
    await shop.pay(500, key="dual")  # another merchant's
    rows = await traffic(shop)
    told = {name: sum(row[name] for row in rows) for name in ("sales", "approved", "declined", "undone", "open", "amount", "refunds")}
    assert told == {"sales": 5, "approved": 3, "declined": 1, "undone": 1, "open": 0, "refunds": 1,
                    "amount": 30_000 + part.body["approved_amount"]}
    assert {(row["currency"], row["terminals"]) for row in rows} == {("CNY", 1)}
    if len(rows) == 1:  # no hour ended meanwhile
        assert rows[0]["approval_rate"] == 7500 and rows[0]["hour"].endswith(":00:00.000000Z")
    line = (await typed("traffic")).splitlines()[0]
    assert " sales: " in line and " approved (" in line and " CNY approved; " in line
    assert await typed("traffic", "--merchant", shop.shown("merchant.one"), key="operator") != ""
    fits((await shop.ask("GET", "/openapi.json")).body, "get", "/v1/traffic", await shop.ask("GET", "/v1/traffic", key="merchant.one"))


async def test_a_period_is_as_it_was_asked_for_and_at_most_seven_days(shop: Shop) -> None:
    await shop.pay(10_000)
    now = datetime.now(UTC)
    past = {"from": (now - timedelta(days=7)).strftime("%Y-%m-%dT%H:%M:%SZ"), "to": (now - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")}
    assert await traffic(shop, **past) == []
    for wrong in ({"from": (now - timedelta(days=8)).strftime("%Y-%m-%dT%H:%M:%SZ")}, {"from": past["to"], "to": past["from"]}):
        answer = await shop.ask("GET", "/v1/traffic?" + "&".join(f"{name}={value}" for name, value in wrong.items()), key="merchant.one")
        assert (answer.status, answer.body["errors"][0]["field"]) == (422, "from")


async def test_traffic_is_its_merchants_and_operators_alone(shop: Shop) -> None:
    assert (await shop.ask("GET", f"/v1/traffic?merchant={shop.shown('merchant.two')}", key="merchant.one")).status == 404
    assert (await shop.ask("GET", "/v1/traffic", key="till")).status == 403
    assert (await shop.ask("GET", "/v1/traffic", key="operator")).status == 422, "an operator says whose"


async def test_notices_are_read_and_what_was_done_is_rated_by_the_command(shop: Shop, typed: Typed) -> None:
    ticket = await opened(shop)
    await ticket.step("assign")
    await ticket.step("resolve", text="Cable changed")
    await ticket.step("close", "owner")
    rated = await typed("ticket", "rate", ticket.id, "5", "--text", "Quick and friendly", key="owner")
    assert "rated 5 of 5 Quick and friendly" in rated
    unread = (await typed("notice", "list", "--unread", key="owner")).splitlines()
    notice = next(line for line in unread if "ticket.resolved" in line).split()[0]
    assert (await typed("notice", "read", notice, key="owner")).splitlines()[0].split()[2] == "read"
    assert not [line for line in (await typed("notice", "list", "--unread", key="owner")).splitlines() if line.startswith(notice)]
    assert (await typed("offer", "rate", shop.shown("acquirer.single"), "4", "--words", "quick")).strip() == f"{shop.shown('acquirer.single')}  4 of 5 quick"
