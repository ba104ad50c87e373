"""Licences that end: what is due when, and reminders, limits, suspension and the renewed one, with real sales."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from switch.database import work
from switch.ids import show
from switch.merchants.licences.calendar import STEPS, due, limits_of
from switch.merchants.licences.renewals import kept
from tests.flows import Shop, eventually, open_shop
from tests.processes import Answer, Caller
from tests.test_applications_flow import END, FOOD, whole
from tests.test_exhibits import PDF

DAY = date(2026, 11, 26)


@pytest.mark.parametrize(("over", "done", "step"), [
    (-31, (), None), (-30, (), "remind_30"), (-30, ("remind_30",), None), (-8, ("remind_30",), None), (-7, ("remind_30",), "remind_7"), (-3, (), "remind_7"),
    (-1, ("remind_7",), "remind_1"), (0, (), "remind_1"), (0, ("remind_1",), None), (1, (), "limit"), (1, ("limit",), None), (14, ("limit",), None),
    (15, ("limit",), "suspend"), (400, (), "limit"), (400, ("limit",), "suspend"), (400, ("limit", "suspend"), None),
])
def test_what_is_due_on_a_day(over: int, done: tuple[str, ...], step: str | None) -> None:
    assert due(DAY, DAY + timedelta(days=over), done) == step
    assert step is None or step in STEPS


def test_limits_never_allow_more_than_before() -> None:
    low = limits_of("CNY", None)
    assert limits_of("CNY", {"per_sale": 1, "per_day": None, "per_month": 10**12}) == (1, low.per_day, low.per_month)
    assert limits_of("JPY", None) == low


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("licences")) as shop:
        for name in ("chen", "wang"):
            shop.keys[name] = (await shop.ask("POST", "/v1/keys", {"role": "operator", "person": name.title()}, key="administrator")).body["key"]
        await shop.caught_up()
        yield shop


async def ok(shop: Shop, method: str, path: str, body: Any = None, key: str = "operator", status: int = 201) -> Any:
    answer = await shop.ask(method, path, body, key=key)
    assert answer.status == status, answer.raw
    return answer.body


async def opened(shop: Shop) -> str:
    """A merchant that applied and was approved, with a till `bakery` that sells, and a key of its own."""
    applicant = await whole(shop)
    assert (await applicant.take()).status == 200
    await applicant.judge_all()
    answer = await applicant.decide("approve")
    if answer.status == 202:
        await ok(shop, "POST", f"/v1/approvals/{answer.body['id']}/approve", {}, "wang", 200)
    merchant = str((await applicant.now())["merchant"])
    (till, *_) = await shop.sql("SELECT terminal_id FROM terminal WHERE merchant_id = $1", UUID(merchant[4:]))
    shop.keys["bakery"] = (await ok(shop, "POST", "/v1/keys", {"role": "terminal", "terminal": show("terminal", till["terminal_id"])}))["key"]
    shop.keys["baker"] = (await ok(shop, "POST", "/v1/keys", {"role": "merchant", "merchant": merchant}))["key"]
    await ok(shop, "POST", "/v1/routes", {"acquirer": shop.shown("acquirer.single"), "merchant": merchant})
    await shop.caught_up()
    return merchant


async def look(shop: Shop, merchant: str, on: date) -> list[str]:
    """What the job would do on a day, done; the steps."""
    licences = shop.switch.journey.licences
    found = [each for each in await licences.due(datetime(on.year, on.month, on.day, 4, tzinfo=UTC))
             if each.arguments["merchant"] == merchant and each.arguments["kind"] == "food_licence"]
    for each in found:
        async with work(licences.writers) as connection:
            assert await kept(connection, each.arguments), "it is done once"
        async with work(licences.writers) as connection:
            assert not await kept(connection, each.arguments), "and not again"
    await shop.caught_up()
    return [str(each.arguments["step"]) for each in found]


async def sells(shop: Shop, amount: int) -> None:
    async def sold() -> bool:
        return (await shop.pay(amount, key="bakery")).status == 201

    await eventually(sold, "it does not sell")


async def scan(shop: Shop, document: str, key: str) -> Answer:
    lines = [f"POST /v1/licences/{document}/file HTTP/1.1", "Host: switch", f"Authorization: Bearer {shop.keys[key]}", f"Content-Length: {len(PDF)}",
             "Content-Type: application/pdf"]
    caller = Caller()
    try:
        return await caller.ask(shop.base, "\r\n".join(lines).encode() + b"\r\n\r\n" + PDF)
    finally:
        caller.close()


async def test_a_licence_that_ends_is_told_limits_suspends_and_the_renewed_one_lifts_it(shop: Shop) -> None:
    merchant, end = await opened(shop), date.fromisoformat(END)
    await sells(shop, 200_000)
    steps = []
    for over in (-31, -30, -29, -7, -1, 0, 1, 2):
        steps += await look(shop, merchant, end + timedelta(days=over))
    assert steps == ["remind_30", "remind_7", "remind_1", "limit"]
    limited = await shop.pay(200_000, key="bakery")
    assert (limited.status, limited.body["code"]) == (403, "risk_declined"), limited.raw
    await sells(shop, 10_000)  # what is small goes on
    assert await look(shop, merchant, end + timedelta(days=15)) == ["suspend"]
    assert (await shop.pay(10_000, key="bakery")).status == 403
    shown = await ok(shop, "GET", "/v1/licences", key="baker", status=200)
    assert [each["step"] for each in shown["steps"]] == [*steps, "suspend"] and "food_licence" in shown["needed"]
    later = (end + timedelta(days=1500)).isoformat()
    renewed = await ok(shop, "POST", "/v1/licences", {"kind": "food_licence", "fields": FOOD, "expires_on": later}, "baker")
    verdict = {"verdict": "accepted", "reason": "number and seal agree"}
    unseen = await shop.ask("POST", f"/v1/licences/{renewed['document']}/verdicts", verdict, key="chen")
    assert (unseen.status, unseen.body["code"]) == (409, "conflict"), "there is no file to look at"
    assert (await scan(shop, renewed["document"], "merchant.one")).status == 404, "another merchant's"
    assert (await scan(shop, renewed["document"], "baker")).status == 201
    refused = await ok(shop, "POST", f"/v1/licences/{renewed['document']}/verdicts", verdict | {"verdict": "refused"}, "chen")
    assert refused["lifted"] == [] and (await shop.pay(10_000, key="bakery")).status == 403
    assert (await shop.ask("POST", f"/v1/licences/{renewed['document']}/verdicts", verdict, key="baker")).status == 403, "nobody accepts its own"
    accepted = await ok(shop, "POST", f"/v1/licences/{renewed['document']}/verdicts", verdict, "chen")
    assert accepted["lifted"] == ["limit", "suspend"]
    await shop.caught_up()
    await sells(shop, 200_000)
    assert await look(shop, merchant, end + timedelta(days=40)) == [], "the renewed one counts"
    notices = [each["title"] for each in (await ok(shop, "GET", "/v1/notices?language=zh", key="baker", status=200))["items"] if each["kind"].startswith("licence.")]
    assert notices == ["新证照已通过审核", "证照已到期：暂停收款", "证照已到期：限额收款", "证照即将到期", "证照即将到期", "证照即将到期"]
    told = await shop.sql("SELECT step, person, reason FROM licence_step WHERE merchant_id = $1 ORDER BY at", UUID(merchant[4:]))
    assert (told[-1]["step"], told[-1]["person"], told[-1]["reason"]) == ("lift", "Chen", verdict["reason"])
    assert all(row["person"] == "switch" and row["reason"] for row in told[:-1])


async def test_a_merchant_that_never_applied_is_told_so_and_what_to_do(shop: Shop) -> None:
    wanted = {"kind": "food_licence", "fields": FOOD, "expires_on": "2031-01-01"}
    for key, whose in (("merchant.one", {}), ("operator", {"merchant": shop.shown("merchant.one")})):
        refused = await shop.ask("POST", "/v1/licences", wanted | whose, key=key)
        assert (refused.status, refused.body["code"]) == (409, "no_application")
        assert "POST /v1/applications" in refused.body["detail"] and "POST /v1/merchants/{merchant}/licences" in refused.body["detail"]
    shown = (await shop.ask("GET", "/v1/licences", key="merchant.one")).body
    assert (shown["watched"], shown["in_force"], shown["recorded"]) == (False, [], [])
    assert shown["needed"] == ["business_licence", "tax_registration", "representative_identity", "food_licence"]


async def test_licences_are_their_merchants_alone_and_what_cannot_be_is_refused(shop: Shop) -> None:
    assert (await shop.ask("GET", "/v1/licences", key="till")).status == 403
    assert (await shop.ask("GET", f"/v1/licences?merchant={shop.shown('merchant.two')}", key="merchant.one")).status == 404
    over = await shop.ask("POST", "/v1/licences", {"kind": "food_licence", "fields": FOOD, "expires_on": "2020-01-01"}, key="baker")
    assert (over.status, over.body["errors"][0]["field"]) == (422, "expires_on")
    wrong = await shop.ask("POST", "/v1/licences", {"kind": "food_licence", "fields": {"other": "x"}, "expires_on": "2031-01-01"}, key="baker")
    assert wrong.status == 422
    assert (await shop.ask("POST", f"/v1/licences/doc_{UUID(int=1)}/verdicts", {"verdict": "accepted", "reason": "x"}, key="operator")).status == 404
