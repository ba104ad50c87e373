"""Licences of merchants that never applied: recorded by operators who have seen them, with real sales; and `switch licence ...` as it is typed."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from switch import database
from switch.cli import _parser, main
from switch.database import work
from switch.ids import show
from switch.merchants.licences.renewals import kept
from tests.flows import Shop, eventually, open_shop
from tests.test_applications_flow import END
from tests.test_documented_commands import verbs
from tests.test_licences import ok, opened

TODAY = datetime.now(UTC).date()


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("recorded")) as shop:
        for name in ("chen", "wang"):
            shop.keys[name] = (await shop.ask("POST", "/v1/keys", {"role": "operator", "person": name.title()}, key="administrator")).body["key"]
        await shop.caught_up()
        yield shop


class Onboarded:
    """A merchant as `switch onboard` makes it, with a till that sells."""

    def __init__(self, shop: Shop, merchant: str) -> None:
        self.shop, self.id, self.till = shop, merchant, f"till of {merchant}"

    @classmethod
    async def new(cls, shop: Shop) -> "Onboarded":
        organisation = await ok(shop, "POST", "/v1/organisations", {"name": "Noodle House Ltd"})
        made = await ok(shop, "POST", "/v1/merchants", {"organisation": organisation["id"], "name": "Noodle House", "mcc": "5812", "time_zone": "Asia/Shanghai"})
        store = await ok(shop, "POST", "/v1/stores", {"merchant": made["id"], "name": "Bund", "city": "Shanghai", "country": "CN"})
        till = await ok(shop, "POST", "/v1/terminals", {"store": store["id"], "name": "Till 1"})
        await ok(shop, "POST", "/v1/routes", {"acquirer": shop.shown("acquirer.single"), "merchant": made["id"]})
        self = cls(shop, made["id"])
        shop.keys[self.till] = (await ok(shop, "POST", "/v1/keys", {"role": "terminal", "terminal": till["id"]}))["key"]
        shop.keys[self.id] = (await ok(shop, "POST", "/v1/keys", {"role": "merchant", "merchant": self.id}))["key"]
        await shop.caught_up()
        return self

    async def records(self, until: date, status: int = 201, key: str = "chen", **other: Any) -> Any:
        body = {"kind": "food_licence", "fields": {"number": "JY13101010000117"}, "expires_on": until.isoformat(), "currency": "CNY",
                "reason": "seen at the shop"} | other
        found = await ok(self.shop, "POST", f"/v1/merchants/{self.id}/licences", body, key, status)
        await self.shop.caught_up()
        return found

    async def look(self, on: date) -> list[str]:
        """What the job would do on a day, done."""
        licences = self.shop.switch.journey.licences
        found = [each for each in await licences.due(datetime(on.year, on.month, on.day, 4, tzinfo=UTC)) if each.arguments["merchant"] == self.id]
        for each in found:
            async with work(licences.writers) as connection:
                assert await kept(connection, each.arguments)
        await self.shop.caught_up()
        return [str(each.arguments["step"]) for each in found]

    async def shown(self) -> Any:
        return await ok(self.shop, "GET", "/v1/licences", key=self.id, status=200)

    async def sells(self, amount: int, status: int = 201) -> None:
        async def sold() -> bool:
            return (await self.shop.pay(amount, key=self.till)).status == status

        await eventually(sold, f"a sale of {amount} does not end with {status}")


async def test_a_recorded_licence_is_reminded_of_limits_suspends_and_a_newer_record_lifts_it(shop: Shop) -> None:
    one, end = await Onboarded.new(shop), TODAY + timedelta(days=60)
    assert (await one.shown())["watched"] is False and await one.look(end + timedelta(days=99)) == []
    first = await one.records(end)
    assert first["lifted"] == []
    await one.sells(200_000)
    assert [step for over in (-31, -30, -7, -1, 0, 1, 2) for step in await one.look(end + timedelta(days=over))] == ["remind_30", "remind_7", "remind_1", "limit"]
    await one.sells(200_000, 403)
    await one.sells(10_000)
    assert await one.look(end + timedelta(days=15)) == ["suspend"]
    await one.sells(10_000, 403)
    later = end + timedelta(days=1000)
    assert (await one.records(later, key="wang", reason="the renewed one"))["lifted"] == ["limit", "suspend"]
    await one.sells(200_000)
    assert await one.look(end + timedelta(days=40)) == []
    shown = await one.shown()
    assert (shown["watched"], [each["expires_on"] for each in shown["in_force"]], shown["ended"]) == (True, [later.isoformat()], [])
    assert [(each["by"], each["reason"], each["expires_on"]) for each in shown["recorded"]] == [
        ("Wang", "the renewed one", later.isoformat()), ("Chen", "seen at the shop", end.isoformat())]
    assert [(each["step"], each["by"]) for each in shown["steps"]][-1] == ("lift", "Wang")
    told = [each["title"] for each in (await ok(shop, "GET", "/v1/notices?language=zh", key=one.id, status=200))["items"] if each["kind"].startswith("licence.")]
    assert told == ["新证照已通过审核", "证照已到期：暂停收款", "证照已到期：限额收款", "证照即将到期", "证照即将到期", "证照即将到期"]


async def test_the_last_record_counts_and_not_the_longest_and_an_end_that_was_lifted_comes_no_second_time(shop: Shop) -> None:
    one, end = await Onboarded.new(shop), TODAY - timedelta(days=1)
    await one.records(TODAY + timedelta(days=3000), reason="a year mistaken")
    assert (await one.records(end, reason="the year as it stands there"))["lifted"] == []
    over = await one.shown()
    assert (over["in_force"], [each["expires_on"] for each in over["ended"]]) == ([], [end.isoformat()])  # its day is over: it allows nothing
    assert await one.look(TODAY + timedelta(days=1)) == ["limit"]
    assert (await one.records(TODAY + timedelta(days=400)))["lifted"] == ["limit"]
    refused = await one.records(end, 409)
    assert (refused["code"], "no second time" in refused["detail"]) == ("conflict", True)
    assert await one.look(TODAY + timedelta(days=2)) == []


async def test_what_cannot_be_recorded_is_refused_by_name(shop: Shop) -> None:
    one = await Onboarded.new(shop)
    for field, said in (("fields", {"fields": {"other": "x"}}), ("kind", {"kind": "bank_account", "fields": {"iban": "x"}}), ("currency", {"currency": "QQQ"}),
                        ("reason", {"reason": ""}), ("fields.number", {"kind": "business_licence", "fields": {"number": "91310000MA1FL0000X", "name": "Noodle"}})):
        assert field in [fault["field"] for fault in (await one.records(TODAY, 422, **said))["errors"]], field
    assert (await one.shown())["recorded"] == []
    nobody = await shop.ask("POST", f"/v1/merchants/mer_{UUID(int=1)}/licences", {"kind": "food_licence", "fields": {"number": "JY1310101"}, "expires_on": END,
                                                                              "currency": "CNY", "reason": "x"}, "operator")
    assert nobody.status == 404
    assert (await one.records(TODAY, 403, key=one.id))["code"] == "forbidden"
    applied = Onboarded(shop, await opened(shop))
    assert "POST /v1/licences" in (await applied.records(TODAY, 409))["detail"]


async def test_what_was_recorded_is_sealed_and_never_changed(shop: Shop) -> None:
    one = await Onboarded.new(shop)
    made = await one.records(TODAY)
    (row,) = await shop.sql("SELECT * FROM licence_record WHERE merchant_id = $1", UUID(one.id[4:]))
    assert (show("document", row["document_id"]), row["person"], row["reason"]) == (made["document"], "Chen", "seen at the shop")
    assert b"JY13101010000117" not in row["sealed"] and "JY13101010000117" not in str(dict(row))
    writer = await database.connect(shop.url, "switch_writer")
    try:
        for statement in ("UPDATE licence_record SET expires_on = expires_on + 1", "DELETE FROM licence_record"):
            with pytest.raises(Exception, match="permission denied"):
                await writer.execute(statement)
    finally:
        await writer.close()


async def test_the_command_records_shows_and_judges(shop: Shop, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert set(verbs(verbs(_parser())["licence"])) == {"show", "record", "verdict"}
    one = await Onboarded.new(shop)
    monkeypatch.setenv("SWITCH_HOME", str(tmp_path))

    async def typed(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = await asyncio.to_thread(main, ["licence", *words, "--url", shop.base, "--key", shop.keys["chen"]])
        said = capfd.readouterr()
        return code, said.out, "\n".join(line for line in said.err.splitlines() if not line.startswith("{"))

    code, out, _ = await typed("record", one.id, "--paper", "food_licence", "--number", "JY13101010000118", "--until", END, "--currency", "CNY", "--reason", "seen")
    assert (code, "lifted: nothing" in out) == (0, True)
    _, out, _ = await typed("show", one.id)
    assert out.splitlines()[0].endswith("  watched  needs: business_licence, tax_registration, representative_identity, food_licence")
    assert f"  food_licence until {END}  {(await one.shown())['recorded'][0]['document']}" in out and "Chen: seen" in out
    code, _, err = await typed("verdict", f"doc_{UUID(int=1)}", "accepted", "--reason", "x")
    assert code != 0 and "refused with 404" in err, err
