"""A terminal that stands elsewhere than its store, over HTTP and PostgreSQL: heartbeats say where it is, sales are judged by it within a second."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from switch.payments import away
from switch.payments.away import AwayTerminals
from tests.fleet import Device, device
from tests.flows import Shop, eventually, open_shop
from tests.test_risk_flow import get, hits_of, in_force, post

SHANGHAI, SUZHOU, BEIJING = (31_230_416, 121_473_701), (31_298_979, 120_585_289), (39_904_200, 116_407_396)
AT_ONCE_S = 1.5  # a second, and a sale


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("relocation")) as shop:
        yield shop


async def stands(shop: Shop, at: tuple[int | None, int | None], store: str = "first") -> None:
    answer = await shop.ask("PATCH", f"/v1/stores/{shop.shown(f'store.{store}')}", {"latitude_e6": at[0], "longitude_e6": at[1]}, "operator")
    assert (answer.status, answer.body.get("latitude_e6"), answer.body.get("longitude_e6")) == (200, *at), answer.raw


async def says(one: Device, at: tuple[int, int], accuracy_m: int | None = None) -> None:
    answer = await one.beat(position={"latitude_e6": at[0], "longitude_e6": at[1], "accuracy_m": accuracy_m})
    assert answer.status == 200, answer.raw


async def until(shop: Shop, one: Device, status: int, seconds: float = AT_ONCE_S) -> Any:
    async def reached() -> Any:
        answer = await shop.pay(1700, key=one.key)
        return answer if answer.status == status else None

    return await eventually(reached, f"no sale of {one.till} ends with {status}", seconds)


def relocated(one: Device, **said: Any) -> dict[str, Any]:
    return {"kind": "relocated", "distance_km": 50, "window_s": 3600, "merchant": one.shop.shown("merchant.one"), **said}


async def stays(shop: Shop, one: Device) -> list[int | None]:
    rows = await shop.sql("SELECT away_m FROM terminal_stay WHERE 'trm_' || terminal_id = $1 ORDER BY since", one.till)
    return [row["away_m"] for row in rows]


async def test_a_terminal_that_says_it_is_elsewhere_sells_no_more_within_a_second_and_again_when_it_is_back(shop: Shop) -> None:
    await stands(shop, SHANGHAI)
    one, other = await device(shop), await device(shop)
    async with in_force(shop, **relocated(one)) as rule:
        for each in (one, other):
            await says(each, SHANGHAI)
        assert await one.sells()
        await says(one, BEIJING, accuracy_m=300)
        refused = await until(shop, one, 403)
        assert (refused.body["code"], refused.body["processed"]) == ("risk_declined", False)
        hit = (await hits_of(shop, rule))[0]
        assert (hit["id"], hit["kind"], hit["action"], hit["terminal"]) == (refused.body["hit"], "relocated", "decline", one.till)
        assert hit["why"].startswith("the terminal is at least 1067.0 km from its store, more than 50, since 20"), hit["why"]
        assert sorted(hit["figures"]) == ["away_m", "distance_km", "since", "told_at", "window_s"]
        assert "39.9" not in str(hit) and "399042" not in str(hit), "a hit says how far, and not where"
        assert await other.sells(), "another terminal of the store"
        await says(one, SHANGHAI)
        await until(shop, one, 201)
    await says(one, BEIJING)
    assert await one.sells(), "nobody asks any more"


async def test_where_a_terminal_may_stand_is_said_by_the_distance_of_the_rule_and_by_what_the_terminal_is_sure_of(shop: Shop) -> None:
    await stands(shop, SHANGHAI)
    one = await device(shop)
    async with in_force(shop, **relocated(one, distance_km=90)):
        await says(one, SUZHOU)  # 84.8 km
        await asyncio.sleep(AT_ONCE_S)
        assert await one.sells()
        async with in_force(shop, **relocated(one, distance_km=80)):  # a nearer rule reads what was written before it
            await until(shop, one, 403)
            await says(one, SUZHOU, accuracy_m=8000)  # at least 76.8 km
            await until(shop, one, 201)


async def test_a_sale_of_a_terminal_elsewhere_is_held_and_told_at_another_worker_and_after_a_restart(shop: Shop) -> None:
    await stands(shop, SHANGHAI)
    one = await device(shop)
    async with in_force(shop, **relocated(one, action="hold")) as rule:
        await says(one, SHANGHAI)
        first = shop.base
        await shop.start(alone=False)
        second = shop.base
        assert first != second
        shop.base = first
        await says(one, BEIJING)  # to the first worker

        async def held() -> bool:
            shop.base = second
            sold = await shop.pay(1700, key=one.key)
            shop.base = first
            assert sold.body["status"] == "approved", sold.raw
            return sold.body["id"] in [each["transaction"] for each in await hits_of(shop, rule)]

        await eventually(held, "the second worker does not know where the terminal is", AT_ONCE_S)
        merchant = shop.ids["merchant.one"]

        async def placed() -> bool:
            return bool(await shop.sql("SELECT 1 FROM merchant_hold WHERE merchant_id = $1 AND amount = 1700", merchant))

        await eventually(placed, "nothing is held")
        await shop.stop()
        await shop.start()
        sold = await shop.pay(1700, key=one.key)  # the very first sale
        assert sold.body["id"] in [each["transaction"] for each in await hits_of(shop, rule)]


async def test_a_store_without_a_place_and_a_place_that_changed_make_unknown_where_terminals_are(shop: Shop) -> None:
    await stands(shop, (None, None), "second")
    one = await device(shop, store="second")
    async with in_force(shop, **relocated(one)):
        await says(one, BEIJING)
        assert await stays(shop, one) == [] and await one.sells()
        await stands(shop, SHANGHAI, "second")
        assert await one.sells()
        await says(one, BEIJING)
        await until(shop, one, 403)
        await stands(shop, BEIJING, "second")  # the operator had it wrong
        await until(shop, one, 201)
        await says(one, BEIJING)
        assert [None if away is None else round(away, -4) for away in await stays(shop, one)] == [1_070_000, None, 0]


async def test_a_device_in_the_place_of_another_begins_anew(shop: Shop) -> None:
    await stands(shop, SHANGHAI)
    one = await device(shop)
    async with in_force(shop, **relocated(one)):
        await says(one, BEIJING)
        await until(shop, one, 403)
        new = await Device(shop, one.till).register()
        swapped = await shop.ask("POST", f"/v1/devices/{one.id}/swap", {"replacement": new.id, "reason": "stolen"}, "operator")
        assert swapped.status == 200, swapped.raw
        assert (await new.activate()).status == 201
        await new.move("go_live")
        await shop.caught_up()
        await until(shop, new, 201)


async def test_a_place_counts_for_as_long_as_the_rule_says_and_a_stay_is_one_row(shop: Shop) -> None:
    await stands(shop, SHANGHAI)
    one = await device(shop)
    async with in_force(shop, **relocated(one)):
        for _ in range(3):
            await says(one, BEIJING)
        assert len(await stays(shop, one)) == 1
        await until(shop, one, 403)
        await shop.sql("""UPDATE terminal_stay SET since = since - interval '1 day', told_at = told_at - interval '61 minutes'
                          WHERE 'trm_' || terminal_id = $1""", one.till)
        await until(shop, one, 201, 3.0)
        await says(one, BEIJING)  # where it was meanwhile nobody knows: it is there since now
        await until(shop, one, 403)
        assert len(await stays(shop, one)) == 2


async def test_a_worker_knows_the_terminals_that_are_away_up_to_its_bound_and_none_that_nobody_asks_for(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await stands(shop, SHANGHAI)
    known = AwayTerminals(shop.switch.readers)
    devices = [await device(shop) for _ in range(3)]
    for one, at in zip(devices, (BEIJING, BEIJING, SHANGHAI), strict=True):
        await says(one, at)
    now = datetime.now(UTC)
    await known.follow(1_000_000, now)
    assert {one.till[4:] in map(str, known.known) for one in devices[:2]} == {True} and devices[2].till[4:] not in map(str, known.known)
    await known.follow(1_100_000, now)  # further than Beijing
    assert known.known == {}
    monkeypatch.setattr(away, "AWAY_MAX", 1)
    await known.follow(1_000_000, now)
    assert len(known.known) == 1
    await known.follow(1_000_000, now)  # what is new finds no room
    assert len(known.known) == 1
    await known.follow(None, now)
    assert known.known == {}


async def test_the_rule_is_tried_on_where_terminals_were_when_they_sold(shop: Shop) -> None:
    await stands(shop, SHANGHAI)
    one = await device(shop)
    begin, sold = datetime.now(UTC), []
    for at in (SHANGHAI, BEIJING, SUZHOU, SHANGHAI):
        await says(one, at)
        sold.append((await shop.pay(1700, key=one.key)).body["id"])
    draft = await post(shop, "risk-rules", {"name": "Elsewhere", "action": "decline", **relocated(one)}, 201)
    await shop.caught_up()
    asked = {"activate": [draft["id"]], "from": begin.isoformat(), "to": (datetime.now(UTC) + timedelta(minutes=1)).isoformat()}
    found = await post(shop, "risk-rules/try", asked)
    examples = {each["transaction"]: each["why"][0] for each in found["examples"]}
    assert list(examples) == sold[1:3]
    assert "1067." in examples[sold[1]] and "84." in examples[sold[2]]
    assert (await get(shop, f"risk-rules/{draft['id']}"))["distance_km"] == 50


@pytest.mark.parametrize(("said", "field"), [
    ({"window_s": 3600}, "distance_km"), ({"distance_km": 50}, "window_s"), ({"distance_km": 50, "window_s": 3599}, "window_s"),
    ({"distance_km": 0, "window_s": 3600}, "distance_km"), ({"distance_km": 20_001, "window_s": 3600}, "distance_km"),
    ({"distance_km": 50, "window_s": 3600, "count_max": 1}, "count_max"), ({"kind": "night", "time_from": "22:00", "time_until": "06:00", "distance_km": 5}, "distance_km"),
])
async def test_a_rule_that_makes_no_sense_names_its_field(shop: Shop, said: dict[str, Any], field: str) -> None:
    answer = await shop.ask("POST", "/v1/risk-rules", {"kind": "relocated", "name": "Wrong", "action": "flag", **said}, key="operator")
    assert answer.status == 422, answer.raw
    assert field in [fault["field"] for fault in answer.body["errors"]]


@pytest.mark.parametrize(("said", "status"), [
    ({"latitude_e6": 90_000_001, "longitude_e6": 0}, 422), ({"latitude_e6": 0, "longitude_e6": 180_000_001}, 422), ({"latitude_e6": 0, "longitude_e6": None}, 422),
    ({"latitude_e6": 0}, 422), ({"latitude_e6": 31.2, "longitude_e6": 121.4}, 400), ({"latitude_e6": True, "longitude_e6": 0}, 422),
])
async def test_a_place_that_is_none_is_refused(shop: Shop, said: dict[str, Any], status: int) -> None:
    answer = await shop.ask("PATCH", f"/v1/stores/{shop.shown('store.first')}", said, "operator")
    assert answer.status == status, answer.raw
    assert (await shop.ask("PATCH", f"/v1/stores/{shop.shown('store.first')}", {"latitude_e6": 0, "longitude_e6": 0}, "merchant.one")).status == 403
