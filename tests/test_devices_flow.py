"""Devices over real HTTP, TCP and PostgreSQL: their life, what of it reaches the hot path, swaps, tampering, silence, parameters and roll-outs."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from switch import database, metrics
from switch.merchants.onboarding import Onboarding
from switch.terminals.silence import Silence
from tests.fleet import Device, device, new_serial, new_till
from tests.flows import Shop, eventually, new_key, open_shop
from tests.processes import Answer
from tests.test_openapi import faults, fits

NIL_ID = "0192f0c4-7c1e-7aaa-8bbb-1234567890ab"


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("devices")) as opened:
        pool = await database.pool(database_url, "switch_writer", 1)
        opened.keys["second"] = (await Onboarding(pool).key("operator", person="Chen Jie")).text
        await pool.close()
        await opened.caught_up()
        yield opened


@pytest_asyncio.fixture(scope="module")
async def spec(shop: Shop) -> Any:
    return (await shop.ask("GET", "/openapi.json")).body


def raised(kind: str) -> float:
    return metrics.registry.get_sample_value("switch_alerts_total", {"kind": kind}) or 0.0


# The life


async def test_the_whole_life_is_recorded_with_who_when_and_why(shop: Shop, spec: Any) -> None:
    one = await device(shop, "live")
    await one.move("maintain", reason="Printer")
    await one.move("restore", person="second", reason="Printer changed")
    fits(spec, "post", "/v1/devices/{device}/moves", await one.tried("return", reason="Shop closes"))
    fits(spec, "post", "/v1/devices/{device}/moves", await one.tried("ship"))
    await one.move("restock")
    await one.move("retire")
    events = await one.events()
    assert [(event["event"], event["was"], event["state"]) for event in events] == [
        ("register", None, "inventory"), ("order", "inventory", "ordered"), ("ship", "ordered", "shipped"), ("install", "shipped", "installed"),
        ("activate", "installed", "activated"), ("go_live", "activated", "live"), ("maintain", "live", "maintenance"), ("restore", "maintenance", "live"),
        ("return", "live", "returned"), ("restock", "returned", "inventory"), ("retire", "inventory", "retired")]
    assert [event["by"] for event in events][4:8] == [f"device {one.serial}", "Flow Tester", "Flow Tester", "Chen Jie"]
    assert (events[6]["reason"], events[7]["reason"], events[3]["terminal"], events[8]["terminal"]) == ("Printer", "Printer changed", one.till, one.till)
    assert [event["number"] for event in events] == list(range(1, 12))
    now = await one.now()
    assert (now["merchant"], now["store"], now["terminal"], now["sells"], now["keys_to_erase"]) == (None, None, None, False, 0)
    fits(spec, "get", "/v1/devices/{device}", await shop.ask("GET", f"/v1/devices/{one.id}", key="operator"))
    fits(spec, "get", "/v1/devices/{device}/events", await shop.ask("GET", f"/v1/devices/{one.id}/events?limit=3", key="operator"))
    page = (await shop.ask("GET", f"/v1/devices/{one.id}/events?limit=3", key="operator")).body
    following = (await shop.ask("GET", f"/v1/devices/{one.id}/events?limit=3&after={page['next']}", key="operator")).body
    assert [event["number"] for event in page["items"] + following["items"]] == [11, 10, 9, 8, 7, 6]


async def test_an_illegal_move_is_refused_by_name_and_changes_nothing(shop: Shop) -> None:
    one = await device(shop, "ordered")
    refused = await one.tried("go_live")
    assert (refused.status, refused.body["code"]) == (409, "device_move")
    assert refused.body["detail"] == "A device that is ordered cannot go_live; it can: cancel, ship, swap_in."
    assert (await one.now())["state"] == "ordered" and len(await one.events()) == 2


@pytest.mark.parametrize(("event", "more", "field"), [
    ("order", {"store": None}, ""), ("ship", {"store": "sto_x"}, ""), ("install", {"terminal": None}, ""), ("ship", {"sells": True}, ""), ("ship", {"reason": ""}, "reason"),
    ("ship", {"reason": "card 4111 1111 1111 1111"}, "reason"), ("activate", {}, "event"), ("swap_in", {}, "event"), ("x", {}, "event"), ("ship", {"state": "live"}, "(unknown field)"),
])
async def test_a_move_that_does_not_agree_with_itself_is_refused(shop: Shop, event: str, more: dict[str, Any], field: str) -> None:
    one = await Device(shop, "trm_x").register()
    answer = await one.tried(event, **more)
    assert answer.status == 422 and answer.body["errors"][0]["field"] == field, answer.raw
    assert "4111" not in answer.raw.decode()


async def test_a_serial_number_is_known_once(shop: Shop) -> None:
    one = await Device(shop, "trm_x").register()
    body = {"serial_number": one.serial, "model": "PX7", "reason": "again"}
    again = await asyncio.gather(*(shop.ask("POST", "/v1/devices", body, "operator") for _ in range(3)))
    assert {(answer.status, answer.body["code"]) for answer in again} == {(409, "already_exists")}
    for wrong in ("abc", "px7-1", "P" * 41, "PX7 1", "", "PX7\n1234"):
        assert (await shop.ask("POST", "/v1/devices", body | {"serial_number": wrong}, "operator")).status == 422


async def test_a_till_has_one_device_and_it_is_of_the_devices_store(shop: Shop) -> None:
    first = await device(shop, "installed")
    second = await Device(shop, first.till).be("shipped")
    taken = await second.tried("install")
    assert (taken.status, taken.body["code"], taken.body["detail"]) == (409, "already_exists", "Another device is bound to this terminal; swap it.")
    for wrong in (shop.shown("terminal.branch"), shop.shown("terminal.dual"), f"trm_{NIL_ID}"):
        answer = await second.tried("install", terminal=wrong)
        assert (answer.status, answer.body["errors"][0]["field"]) == (422, "terminal"), answer.raw
    assert (await Device(shop, "trm_x").register()).id
    lost = await (await Device(shop, "trm_x").register()).tried("order", store=f"sto_{NIL_ID}")
    assert (lost.status, lost.body["errors"][0]["field"]) == (422, "store")
    await shop.ask("PATCH", f"/v1/terminals/{(gone := await new_till(shop))}", {"status": "retired"}, "operator")
    assert (await second.tried("install", terminal=gone)).status == 422


async def test_of_two_operators_at_once_one_moves_and_the_other_is_told(shop: Shop) -> None:
    for event in ("go_live", "return", "retire"):
        one = await device(shop, "activated")
        answers = await asyncio.gather(*(one.tried(event, person) for person in ("operator", "second", "operator", "second")))
        assert sorted(answer.status for answer in answers) == [200, 409, 409, 409]
        assert {answer.body.get("code") for answer in answers} == {None, "device_move"}
        assert [each["number"] for each in await one.events()] == [1, 2, 3, 4, 5, 6]


async def test_two_devices_for_one_till_at_once(shop: Shop) -> None:
    till = await new_till(shop)
    two = [await Device(shop, till).be("shipped") for _ in range(2)]
    answers = await asyncio.gather(*(one.tried("install") for one in two))
    assert sorted(answer.status for answer in answers) == [200, 409]


# The hot path


async def test_a_till_sells_within_a_second_after_its_device_may_and_stops_as_fast(shop: Shop) -> None:
    one = await device(shop, "activated")
    assert await one.sells() is False
    refused = await shop.pay(5000, key=one.key)
    assert (refused.status, refused.body["code"]) == (403, "forbidden")
    started = asyncio.get_running_loop().time()
    await one.move("go_live")
    await one.until_it_sells(True)
    assert asyncio.get_running_loop().time() - started < 1.0
    for event, more, sells in (("maintain", {}, False), ("maintain", {"sells": True}, True), ("maintain", {"sells": False}, False), ("restore", {}, True), ("return", {}, False)):
        assert (await one.move(event, **more))["sells"] is sells
        started = asyncio.get_running_loop().time()
        await one.until_it_sells(sells)
        assert asyncio.get_running_loop().time() - started < 1.0, event


async def test_a_till_that_never_had_a_device_sells_as_before_and_one_that_lost_its_device_does_not(shop: Shop) -> None:
    assert (await shop.pay(5000, key="till")).status == 201
    till = await new_till(shop)
    by_hand = (await shop.ask("POST", "/v1/keys", {"role": "terminal", "terminal": till}, "operator")).body["key"]
    await shop.caught_up()
    assert (await shop.pay(5000, key=by_hand)).status == 201
    one = await Device(shop, till).be("installed")
    await one.tried("return")
    await shop.caught_up()
    assert (await shop.pay(5000, key=by_hand)).status == 401, "its keys ended with the device"
    again = (await shop.ask("POST", "/v1/keys", {"role": "terminal", "terminal": till}, "operator")).body["key"]
    await shop.caught_up()
    assert (await shop.pay(5000, key=again)).status == 403, "a till that had a device sells only with one"


async def test_what_an_operator_suspends_by_hand_no_device_switches_on(shop: Shop) -> None:
    one = await device(shop, "live")
    await one.until_it_sells(True)
    await shop.ask("PATCH", f"/v1/terminals/{one.till}", {"status": "suspended"}, "operator")
    await one.until_it_sells(False)
    await one.move("maintain", sells=True)
    await shop.caught_up()
    assert await one.sells() is False
    await shop.ask("PATCH", f"/v1/terminals/{one.till}", {"status": "active"}, "operator")
    await one.until_it_sells(True)


# Swap, return, repair


async def test_a_swap_is_one_commit_and_the_replacement_gets_a_key_of_its_own(shop: Shop, spec: Any) -> None:
    old = await device(shop, "live")
    await old.until_it_sells(True)
    new = await Device(shop, old.till).register()
    answer = await shop.ask("POST", f"/v1/devices/{old.id}/swap", {"replacement": new.id, "reason": "Screen broken"}, "operator")
    fits(spec, "post", "/v1/devices/{device}/swap", answer)
    assert (answer.body["id"], answer.body["state"], answer.body["terminal"]) == (new.id, "installed", old.till)
    await shop.caught_up()
    assert (await shop.pay(5000, key=old.key)).status == 401, "the old key ended"
    was = await old.now()
    assert (was["state"], was["terminal"], was["keys_to_erase"]) == ("returned", None, 1)
    assert (await new.activate()).status == 201
    await new.move("go_live")
    await new.until_it_sells(True)
    assert (await old.move("restock"))["keys_to_erase"] == 0
    assert (await old.events())[-2]["reason"] == "Screen broken"


async def test_what_cannot_be_swapped_is_refused_whole(shop: Shop) -> None:
    old, other = await device(shop, "live"), await device(shop, "ordered", "two")
    for replacement, status in ((old.id, 409), (other.id, 409), ((await device(shop, "live")).id, 409), (f"dev_{NIL_ID}", 404), ("dev_x", 404)):
        answer = await shop.ask("POST", f"/v1/devices/{old.id}/swap", {"replacement": replacement, "reason": "no"}, "operator")
        assert answer.status == status, answer.raw
    assert (await old.now())["state"] == "live" and (await old.sells() or await eventually(old.sells, "it does not sell"))


async def test_swaps_of_two_devices_by_each_other_at_once_end(shop: Shop) -> None:
    one, other = await device(shop, "live"), await Device(shop, "trm_x").register()
    answers = await asyncio.wait_for(asyncio.gather(*(
        shop.ask("POST", f"/v1/devices/{a.id}/swap", {"replacement": b.id, "reason": "at once"}, "operator") for a, b in ((one, other), (other, one)) * 3)), 10)
    assert {answer.status for answer in answers} <= {200, 409} and 200 in {answer.status for answer in answers}


# Tampering and heartbeats


async def test_a_heartbeat_is_kept_and_says_what_to_do(shop: Shop, spec: Any) -> None:
    one = await device(shop, "live")
    health = {"battery_percent": 40, "charging": False, "paper": "low", "signal_dbm": -90, "network": "4g", "queued_offline": 2, "batch_open": False,
              "position": {"latitude_e6": 31_230_416, "longitude_e6": -121_473_701, "accuracy_m": 12}}
    answer = await one.beat(**health)
    fits(spec, "post", "/v1/terminals/{terminal}/heartbeats", answer)
    assert answer.body == {"device": one.id, "state": "live", "sells": True, "erase_keys": False, "parameters_version": "0.0.0.0", "heartbeat_interval_s": 300,
                           "software": {"install": "none", "version": None, "url": None, "sha256": None, "size": None}}
    await one.beat(battery_percent=90, signal_dbm=-50, paper="ok")
    await one.beat(battery_percent=60, software_version="4.2.1")
    shown = await shop.ask("GET", f"/v1/devices/{one.id}/health", key="merchant.one")
    fits(spec, "get", "/v1/devices/{device}/health", shown)
    assert (shown.body["battery_percent"], shown.body["software_version"], shown.body["paper"], shown.body["latitude_e6"]) == (60, "4.2.1", None, None)
    hours = shown.body["hours"]
    assert (sum(hour["heartbeats"] for hour in hours), min(hour["battery_min"] for hour in hours), min(hour["signal_min"] for hour in hours)) == (3, 40, -90)
    assert (await one.now())["software_version"] == "4.2.1"


@pytest.mark.parametrize("wrong", [
    {"battery_percent": 101}, {"battery_percent": True}, {"signal_dbm": 1}, {"paper": "none"}, {"software_version": ""}, {"software_version": "4 2"}, {"position": {"latitude_e6": 1}},
    {"position": {"latitude_e6": 90_000_001, "longitude_e6": 0}}, {"tamper": "yes"}, {"unknown": 1}, {"queued_offline": -1}, {"network": "x"}, {"serial_number": "x"},
])
async def test_a_heartbeat_that_breaks_its_form_is_refused(shop: Shop, wrong: dict[str, Any]) -> None:
    answer = await shop.ask("POST", f"/v1/terminals/{shop.shown('terminal.till')}/heartbeats", {"serial_number": "PX7-1", "software_version": "1"} | wrong, "till")
    assert (answer.status, answer.body["code"]) == (422, "invalid")


async def test_a_large_heartbeat_is_refused_before_it_is_read(shop: Shop) -> None:
    answer = await shop.ask("POST", f"/v1/terminals/{shop.shown('terminal.till')}/heartbeats", b"x" * 70_000, "till")
    assert answer.status == 413


async def test_a_key_in_another_device_is_told_so(shop: Shop) -> None:
    one, other = await device(shop, "live"), new_serial()
    for answer in (await one.beat(serial_number=other), await shop.ask("POST", f"/v1/terminals/{shop.shown('terminal.till')}/heartbeats",
                                                                       {"serial_number": one.serial, "software_version": "1"}, "till")):
        assert (answer.status, answer.body["code"]) == (409, "device_mismatch")
    assert (await one.now())["software_version"] is None


async def noticed(shop: Shop, one: Device) -> dict[str, int]:
    """What its merchant was told of a device, by kind."""
    rows = await shop.sql("SELECT kind, count(*)::integer AS count FROM notice WHERE merchant_id = $1 AND data ->> 'device' = $2 GROUP BY kind",
                          shop.ids["merchant.one"], one.id)
    return {row["kind"]: row["count"] for row in rows}


async def test_a_tamper_signal_ends_the_device_at_once(shop: Shop) -> None:
    one = await device(shop, "live")
    await one.until_it_sells(True)
    before = raised("terminal_tampered")
    answer = await one.beat(tamper=True, battery_percent=3)
    assert (answer.status, answer.body["erase_keys"], answer.body["sells"], answer.body["state"]) == (200, True, False, "maintenance")
    started = asyncio.get_running_loop().time()
    await one.until_it_sells(False)
    assert asyncio.get_running_loop().time() - started < 1.0
    await shop.caught_up()
    assert (await one.beat()).status == 401, "which means the same: erase"
    now = await one.now()
    assert now["tampered_at"] is not None and (now["sells"], now["keys_to_erase"]) == (False, 1)
    assert (await shop.sql("SELECT kind, count FROM alert WHERE object = $1", one.id)) == [{"kind": "terminal_tampered", "count": 1}]
    assert raised("terminal_tampered") == before + 1
    assert await noticed(shop, one) == {"terminal.tampered": 1}
    assert [(event["event"], event["by"]) for event in await one.events()][-1] == ("tamper", f"device {one.serial}")
    for event in ("restore", "maintain"):
        refused = await one.tried(event)
        assert (refused.status, refused.body["code"]) == (409, "device_tampered")
    assert (await shop.ask("POST", f"/v1/devices/{one.id}/activation-codes", {}, "operator")).body["code"] == "device_tampered"
    await one.move("return")
    assert (await one.tried("restock")).body["code"] == "device_tampered"
    repaired = await one.move("repair", reason="Switch bent, no trace inside")
    assert (repaired["state"], repaired["tampered_at"], repaired["keys_to_erase"]) == ("inventory", None, 0)


async def test_an_operators_word_ends_it_as_well_and_twice_calls_once(shop: Shop) -> None:
    one = await device(shop, "live")
    await asyncio.gather(one.tried("tamper", "operator"), one.tried("tamper", "second"), one.beat(tamper=True), one.beat(tamper=True))
    assert (await one.now())["tampered_at"] is not None
    assert (await shop.sql("SELECT count FROM alert WHERE kind = 'terminal_tampered' AND object = $1", one.id)) == [{"count": 1}]


async def test_a_tamper_signal_is_taken_however_crowded_it_is(shop: Shop) -> None:
    one = await device(shop, "live")
    shop.switch.health.in_hand = 1000
    try:
        crowded = await one.beat()
        assert (crowded.status, crowded.body["code"], crowded.headers["retry-after"]) == (503, "overloaded", "30")
        assert (await one.beat(tamper=True)).body["erase_keys"] is True
    finally:
        shop.switch.health.in_hand = 0


async def test_a_device_that_falls_silent_is_called_once_until_it_speaks_again(shop: Shop) -> None:
    one, idle = await device(shop, "live"), await device(shop, "activated")
    watch = [Silence(shop.switch.owed) for _ in range(3)]
    await one.beat()
    assert await watch[0].look() == 0
    for device_id in (one.id, idle.id):
        await shop.sql("UPDATE device_health SET last_at = now() - interval '2 days' WHERE device_id = $1", UUID(device_id[4:]))
    assert await watch[0].look() == 0, "from going live on its time is counted anew"
    owner = await asyncpg.connect(shop.url)
    await owner.execute("ALTER TABLE device DISABLE TRIGGER USER")
    await owner.execute("UPDATE device SET state_since = now() - interval '2 days' WHERE device_id = ANY($1::uuid[])", [UUID(one.id[4:]), UUID(idle.id[4:])])
    await owner.execute("ALTER TABLE device ENABLE TRIGGER USER")
    await owner.close()
    before = raised("terminal_silent")
    assert sum(await asyncio.gather(*(each.look() for each in watch))) == 1
    assert sum(await asyncio.gather(*(each.look() for each in watch))) == 0 and raised("terminal_silent") == before + 1
    assert (await one.now())["silent_since"] is not None
    silent = (await shop.ask("GET", "/v1/devices?silent=true", key="operator")).body["items"]
    assert [each["id"] for each in silent] == [one.id]
    await one.beat()
    assert (await one.now())["silent_since"] is None
    await shop.sql("UPDATE device_health SET last_at = now() - interval '2 days' WHERE device_id = $1", UUID(one.id[4:]))
    assert await noticed(shop, one) == {"terminal.silent": 1}
    assert await watch[0].look() == 1
    assert (await shop.sql("SELECT count FROM alert WHERE kind = 'terminal_silent' AND object = $1", one.id)) == [{"count": 2}]


# Parameters


async def put(shop: Shop, owner: str, values: dict[str, Any], **more: Any) -> Answer:
    return await shop.ask("PUT", f"/v1/parameters/{owner}", {"values": values, "reason": "as agreed", **more}, "operator")


async def test_parameters_come_from_four_levels_with_an_etag_and_their_versions_stay(shop: Shop, spec: Any) -> None:
    one = await device(shop, "live", "second")
    path = f"/v1/terminals/{one.till}/parameters"
    fits(spec, "get", "/v1/terminals/{terminal}/parameters", await shop.ask("GET", path, key=one.key))
    levels = (("default", {"receipt_language": "zh", "receipt_width_mm": 58, "tips_allowed": True}), (shop.shown("merchant.one"), {"receipt_width_mm": 80}),
              (shop.shown("store.second"), {"tips_allowed": None, "heartbeat_interval_s": 60}), (one.till, {"x_logo": "a.png"}))
    for owner, values in levels:
        answer = await put(shop, owner, values)
        fits(spec, "put", "/v1/parameters/{owner}", answer)
        assert answer.status == 200 and answer.body["values"] == values, answer.raw
    first = await shop.ask("GET", path, key=one.key)
    version = first.body["version"]
    assert first.body["values"] == {"heartbeat_interval_s": 60, "receipt_language": "zh", "receipt_width_mm": 80, "x_logo": "a.png"}
    assert first.headers["etag"] == f'"{version}"' and version.split(".")[2:] == ["1", "1"]
    same = await shop.ask("GET", path, key=one.key, If_None_Match=first.headers["etag"])
    assert (same.status, same.raw, same.headers["etag"]) == (304, b"", first.headers["etag"])
    assert (await one.beat(parameters_version=version)).body["parameters_version"] == version
    await put(shop, one.till, {})
    told = (await one.beat(parameters_version=version)).body
    assert told["parameters_version"] != version and told["heartbeat_interval_s"] == 60
    second = await shop.ask("GET", path, key=one.key, If_None_Match=first.headers["etag"])
    assert (second.status, second.body["version"]) == (200, told["parameters_version"]) and "x_logo" not in second.body["values"]
    was = await shop.ask("GET", f"{path}?version={version}", key="merchant.one")
    assert was.body == first.body, "a version is the same for ever"
    for never in ("9.9.9.9", "1.1.1", "x"):
        assert (await shop.ask("GET", f"{path}?version={never}", key="operator")).status == 404
    history = await shop.ask("GET", f"/v1/parameters/{one.till}", key="merchant.one")
    fits(spec, "get", "/v1/parameters/{owner}", history)
    assert [(each["version"], each["values"], each["by"]) for each in history.body["items"]] == [(2, {}, "operator"), (1, {"x_logo": "a.png"}, "operator")]


async def test_of_two_writers_of_a_level_nobody_writes_over_what_he_has_not_seen(shop: Shop) -> None:
    till = await new_till(shop)
    answers = await asyncio.gather(*(put(shop, till, {"x_n": number}, after=0) for number in range(4)))
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409]
    answers = await asyncio.gather(*(put(shop, till, {"x_n": number}) for number in range(4)))
    assert sorted(answer.body["version"] for answer in answers) == [2, 3, 4, 5]


async def test_wrong_parameters_are_all_told_at_once_and_unknown_owners_are_absent(shop: Shop) -> None:
    answer = await put(shop, "default", {"tips_allowed": 1, "canary-7f": 1, "receipt_copies": 9})
    assert [each["field"] for each in answer.body["errors"]] == ["values.tips_allowed", "values.(unknown name)", "values.receipt_copies"]
    assert "canary" not in answer.raw.decode()
    for owner in (f"trm_{NIL_ID}", f"mer_{NIL_ID}", f"sto_{NIL_ID}", "dev_x", "x", "DEFAULT"):
        assert (await put(shop, owner, {})).status == 404


# Roll-outs


async def rolled_out(shop: Shop, model: str, percent: int = 100, **more: Any) -> str:
    for version in ("4.2.0", "4.3.0"):
        answer = await shop.ask("POST", "/v1/releases", {"model": model, "version": version, "url": f"https://files.example/{version}", "sha256": "ab" * 32, "size": 7}, "operator")
        assert answer.status in (201, 409), answer.raw
    body = {"model": model, "version": "4.3.0", "back_to": "4.2.0", "percent": percent, "reason": "First stage", **more}
    answer = await shop.ask("POST", "/v1/rollouts", body, "operator")
    assert answer.status == 201, answer.raw
    return str(answer.body["id"])


async def change(shop: Shop, rollout: str, event: str, **more: Any) -> Answer:
    return await shop.ask("POST", f"/v1/rollouts/{rollout}/changes", {"event": event, "reason": "as seen", **more}, "operator")


async def install(one: Device, version: str, **health: Any) -> str:
    return str((await one.beat(software_version=version, **health)).body["software"]["install"])


async def test_a_roll_out_goes_in_stages_pauses_and_goes_back(shop: Shop, spec: Any) -> None:
    fleet = [await device(shop, "live", model="R1") for _ in range(6)]
    rollout = await rolled_out(shop, "R1", 0)
    assert [await install(each, "4.2.0") for each in fleet] == ["none"] * 6
    fits(spec, "post", "/v1/rollouts/{rollout}/changes", await change(shop, rollout, "advance", percent=40))
    chosen = [await install(each, "4.2.0") == "now" for each in fleet]
    await change(shop, rollout, "advance", percent=100)
    told = (await fleet[0].beat(software_version="4.2.0")).body["software"]
    assert told == {"install": "now", "version": "4.3.0", "url": "https://files.example/4.3.0", "sha256": "ab" * 32, "size": 7}
    assert [await install(each, "4.2.0") for each in fleet] == ["now"] * 6, "who was chosen stays chosen"
    assert [await install(fleet[0], "4.3.0"), await install(fleet[1], "4.3.0")] == ["none", "none"]
    shown = await shop.ask("GET", f"/v1/rollouts/{rollout}", key="operator")
    fits(spec, "get", "/v1/rollouts/{rollout}", shown)
    assert (shown.body["devices"], shown.body["chosen"], shown.body["installed"]) == (6, 6, 2)
    assert (await change(shop, rollout, "pause")).body["state"] == "paused"
    assert [await install(each, "4.2.0") for each in fleet[2:]] == ["none"] * 4 and await install(fleet[0], "4.3.0") == "none"
    assert (await change(shop, rollout, "advance", percent=100)).status == 409
    await change(shop, rollout, "resume")
    assert await install(fleet[2], "4.2.0") == "now"
    await change(shop, rollout, "roll_back")
    back = (await fleet[0].beat(software_version="4.3.0")).body["software"]
    assert (back["install"], back["version"]) == ("now", "4.2.0") and await install(fleet[2], "4.2.0") == "none"
    events = (await shop.ask("GET", f"/v1/rollouts/{rollout}", key="operator")).body["events"]
    assert [(event["event"], event["percent"]) for event in events] == [("begin", 0), ("advance", 40), ("advance", 100), ("pause", 100), ("resume", 100), ("roll_back", 100)]
    for event in ("resume", "pause", "roll_back"):
        assert (await change(shop, rollout, event)).status == 409
    assert 0 <= sum(chosen) <= 6
    assert await noticed(shop, fleet[1]) == {"terminal.update": 1} and await noticed(shop, fleet[0]) == {"terminal.update": 2}, "once for each version"


async def test_a_percentage_never_shrinks_and_stores_bound_it(shop: Shop) -> None:
    one, other = await device(shop, "live", model="R2"), await device(shop, "live", "second", model="R2")
    rollout = await rolled_out(shop, "R2", 50, stores=[shop.shown("store.first")])
    for percent in (50, 49, 0):
        assert (await change(shop, rollout, "advance", percent=percent)).status == 409
    assert (await change(shop, rollout, "advance", percent=101)).status == 422
    assert (await change(shop, rollout, "pause", percent=60)).status == 422 and (await change(shop, rollout, "advance")).status == 422
    await change(shop, rollout, "advance", percent=100)
    assert (await install(one, "4.2.0"), await install(other, "4.2.0")) == ("now", "none")
    for wrong in ({"version": "9"}, {"back_to": "9"}, {"back_to": "4.3.0"}, {"stores": [shop.shown("store.first")] * 2}, {"stores": []}):
        body = {"model": "R2", "version": "4.3.0", "back_to": "4.2.0", "percent": 1, "reason": "no", **wrong}
        assert (await shop.ask("POST", "/v1/rollouts", body, "operator")).status == 422, wrong
    assert (await shop.ask("POST", "/v1/rollouts", body | {"stores": [f"sto_{NIL_ID}"]}, "operator")).status == 422


async def test_a_device_is_never_updated_in_the_middle_of_a_batch(shop: Shop) -> None:
    one = await device(shop, "live", model="R3")
    await rolled_out(shop, "R3")
    await one.until_it_sells(True)  # which is a sale
    batches = f"/v1/terminals/{one.till}/batches"
    assert await install(one, "4.2.0", batch_open=False) == "after_batch", "our books know better than the device"
    closed = await shop.ask("POST", batches, {"totals": [{"currency": "CNY", "sales_count": 1, "sales": 5000, "refunds_count": 0, "refunds": 0}]}, one.key, Idempotency_Key=new_key())
    assert closed.status == 201 and closed.body["in_balance"], closed.raw
    assert await install(one, "4.2.0", batch_open=True) == "after_batch", "and the device may know better than our books"
    assert await install(one, "4.2.0", batch_open=False) == "now"
    assert (await shop.pay(5051, key=one.key)).body["status"] == "declined"
    assert await install(one, "4.2.0") == "now", "a decline is in no batch"
    assert (await shop.pay(7000, key=one.key)).status == 201
    assert await install(one, "4.2.0") == "after_batch"


async def test_what_our_books_cannot_say_in_time_is_an_open_batch(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await device(shop, "live", model="R4")
    await rolled_out(shop, "R4")
    assert await install(one, "4.2.0") == "now"
    owner = await asyncpg.connect(shop.url)
    monkeypatch.setattr("switch.terminals.releases.LOOK_S", 0.2)
    try:
        async with owner.transaction():
            await owner.execute("LOCK TABLE transaction IN ACCESS EXCLUSIVE MODE")
            assert await install(one, "4.2.0", battery_percent=77) == "after_batch"
    finally:
        await owner.close()
    assert (await shop.ask("GET", f"/v1/devices/{one.id}/health", key="operator")).body["battery_percent"] == 77, "the heartbeat itself is kept"


# Who may what


ROUTES = [("GET", "/v1/devices/{device}", None), ("GET", "/v1/devices/{device}/events", None), ("GET", "/v1/devices/{device}/health", None),
          ("POST", "/v1/devices/{device}/moves", {"event": "return", "reason": "mine"}), ("POST", "/v1/devices/{device}/swap", {"replacement": "{device}", "reason": "x"}),
          ("POST", "/v1/devices/{device}/activation-codes", {}), ("GET", "/v1/terminals/{terminal}/parameters", None),
          ("POST", "/v1/terminals/{terminal}/heartbeats", {"serial_number": "PX7-1", "software_version": "1"}), ("GET", "/v1/parameters/{terminal}", None),
          ("GET", "/v1/parameters/{merchant}", None), ("GET", "/v1/parameters/{store}", None), ("PUT", "/v1/parameters/{terminal}", {"values": {}, "reason": "x"}),
          ("GET", "/v1/rollouts", None), ("POST", "/v1/rollouts", {}), ("GET", "/v1/releases", None), ("POST", "/v1/releases", {}), ("POST", "/v1/devices", {})]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=lambda value: value if isinstance(value, str) else "")
async def test_anothers_is_absent_and_nobody_does_what_is_not_his(shop: Shop, method: str, path: str, body: Any) -> None:
    one = await device(shop, "live")
    await one.beat()
    names = {"device": one.id, "terminal": one.till, "merchant": shop.shown("merchant.one"), "store": shop.shown("store.first")}
    told = json.loads(json.dumps(body).replace("{device}", one.id)) if body is not None else None
    statuses = {}
    for key in ("merchant.two", "dual", "neighbour", "merchant.one", "nobody"):
        statuses[key] = (await shop.ask(method, path.format(**names), told, key)).status
    absent = await shop.ask(method, path.format(**dict.fromkeys(names, f"dev_{NIL_ID}" if "{device}" in path else f"trm_{NIL_ID}")), told, "merchant.two")
    assert statuses["nobody"] == 401
    assert statuses["merchant.two"] in (403, 404) and statuses["dual"] in (403, 404) and statuses["neighbour"] in (403, 404)
    assert statuses["merchant.two"] == absent.status, "foreign and absent are the same"
    if method != "GET" or path in ("/v1/rollouts", "/v1/releases"):
        assert statuses["merchant.one"] == 403
    else:
        assert statuses["merchant.one"] in (200, 404) and (statuses["merchant.one"] == 200 or path == "/v1/devices/{device}/health")
    assert (await one.now())["state"] == "live"


async def test_a_merchants_list_is_its_own_and_its_events_end_with_its_time(shop: Shop, spec: Any) -> None:
    one = await device(shop, "live")
    listed = await shop.ask("GET", "/v1/devices?limit=200", key="merchant.two")
    fits(spec, "get", "/v1/devices", listed)
    assert one.id not in [item["id"] for item in listed.body["items"]] and all(item["merchant"] == shop.shown("merchant.two") for item in listed.body["items"])
    assert (await shop.ask("GET", f"/v1/devices?merchant={shop.shown('merchant.one')}", key="merchant.two")).status == 404
    mine = (await shop.ask("GET", f"/v1/devices?terminal={one.till}&state=live&serial_number={one.serial}&store={shop.shown('store.first')}", key="merchant.one")).body["items"]
    assert [item["id"] for item in mine] == [one.id]
    await one.move("return", reason="Shop closes")
    await one.move("restock", reason="Not the merchant's matter")
    assert (await shop.ask("GET", f"/v1/devices/{one.id}", key="merchant.one")).status == 404
    events = (await shop.ask("GET", f"/v1/devices/{one.id}/events", key="merchant.one")).body["items"]
    assert [event["event"] for event in events] == ["return", "go_live", "activate", "install", "ship", "order"]
    assert {event["by"] for event in events} == {"operator", f"device {one.serial}"}
    paged, after = [], ""
    while True:
        page = (await shop.ask("GET", f"/v1/devices?limit=2{after}", key="operator")).body
        paged += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert len(paged) == len(set(paged)) and one.id in paged and paged == sorted(paged, reverse=True)


async def test_a_merchant_sees_nothing_of_the_shop_that_had_the_device_before(shop: Shop) -> None:
    one = await device(shop, "live", "two")
    await one.beat(battery_percent=7, position={"latitude_e6": 1, "longitude_e6": 2})
    await shop.sql("UPDATE device_health_hour SET hour = hour - interval '3 hours' WHERE device_id = $1", UUID(one.id[4:]))
    for event in ("return", "restock"):
        await one.move(event)
    one.store, one.till = "first", await new_till(shop)
    path = f"/v1/devices/{one.id}/health"
    for event in ("order", "ship", "install"):
        await one.move(event)
        assert (await shop.ask("GET", path, key="merchant.one")).status == 404
    assert (await one.activate()).status == 201
    seen = (await shop.ask("GET", path, key="merchant.one")).body
    assert (seen["battery_percent"], seen["latitude_e6"], seen["hours"]) == (None, None, [])
    assert len((await shop.ask("GET", path, key="operator")).body["hours"]) == 1


async def test_the_examples_fit_their_schemas(spec: Any) -> None:
    seen = 0
    for path, methods in spec["paths"].items():
        for operation in methods.values():
            if operation["tags"][0] == "devices" and "requestBody" in operation:
                content = operation["requestBody"]["content"]["application/json"]
                assert faults(spec, content["schema"], content["example"]) == [], path
                seen += 1
    assert seen == 17


# What hand-written SQL may not do


@pytest.mark.parametrize("role", ["switch_writer", "owner"])
async def test_the_database_refuses_moves_that_are_none_and_moves_without_a_row(shop: Shop, role: str) -> None:
    one = await device(shop, "live")
    sql = await (asyncpg.connect(shop.url) if role == "owner" else database.connect(shop.url, role))
    identity = UUID(one.id[4:])
    try:
        for statement in ("UPDATE device SET state = 'inventory', terminal_id = NULL, merchant_id = NULL, store_id = NULL, version = version + 1 WHERE device_id = $1",
                          "UPDATE device SET state = 'maintenance' WHERE device_id = $1", "UPDATE device SET state = 'maintenance', version = version + 2 WHERE device_id = $1",
                          "UPDATE device SET state = 'maintenance', version = version + 1 WHERE device_id = $1", "UPDATE device SET terminal_id = NULL, version = version + 1 WHERE device_id = $1"):
            with pytest.raises(asyncpg.CheckViolationError):
                await sql.execute(statement, identity)
        if role == "switch_writer":
            for statement in ("UPDATE device SET serial_number = 'OTHER-1' WHERE device_id = $1", "DELETE FROM device WHERE device_id = $1",
                              "UPDATE device_event SET reason = 'other' WHERE device_id = $1", "DELETE FROM device_event WHERE device_id = $1",
                              "UPDATE activation_code SET digest = digest WHERE device_id = $1", "UPDATE parameter_set SET content = '{}' WHERE owner_id = $1",
                              "UPDATE rollout SET version = 'x' WHERE rollout_id = $1"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await sql.execute(statement, identity)
    finally:
        await sql.close()
    assert (await one.now())["state"] == "live"
