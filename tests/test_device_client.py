"""The simulated device against a real switch: activated, updated, cut from power, offline, opened; and its verbs as a person types them."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from loadtests.device import Device as Simulated
from loadtests.device import Refused
from loadtests.verbs import main
from tests.fleet import Device, device
from tests.flows import Shop, open_shop

ROOT = Path(__file__).resolve().parent.parent


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("device_client")) as opened:
        yield opened


@pytest_asyncio.fixture
async def pair(shop: Shop, tmp_path: Path) -> AsyncIterator[tuple[Device, Simulated]]:
    """A device as its operator sees it, live, and as it is itself."""
    one, itself = await device(shop, "installed", model="S1"), Simulated(tmp_path / "flash")
    told = await asyncio.to_thread(itself.activate, shop.base, one.serial, await one.code())
    assert told["device"] == one.id and "key" not in told
    one.key = itself.memory["key"]
    await one.move("go_live")
    await one.until_it_sells(True)
    await shop.ask("POST", f"/v1/terminals/{one.till}/batches", {"totals": [{"currency": "CNY", "sales_count": 1, "sales": 5000, "refunds_count": 0, "refunds": 0}]}, one.key,
                   Idempotency_Key="first-batch-of-" + one.serial)
    yield one, itself
    itself.close()


async def test_its_life_of_a_day(shop: Shop, pair: tuple[Device, Simulated]) -> None:
    one, itself = pair
    await shop.ask("PUT", f"/v1/parameters/{one.till}", {"values": {"offline_allowed": True, "offline_amount_max": 9000, "offline_count_max": 2}, "reason": "x"}, "operator")
    with pytest.raises(Refused, match="not allowed"):
        itself.sell_offline(5000)
    await asyncio.to_thread(itself.heartbeat, battery_percent=80)
    assert itself.memory["parameters"]["offline_amount_max"] == 9000 and await asyncio.to_thread(itself.fetch_parameters) is False
    sold = await asyncio.to_thread(itself.sell, 12_300)
    assert sold.sold and itself.batch_open
    for amount, allowed in ((5000, True), (9001, False), (6000, True), (7000, False)):
        if allowed:
            itself.sell_offline(amount)
        else:
            with pytest.raises(Refused):
                itself.sell_offline(amount)
    itself.power_loss()
    assert len(itself.memory["queue"]) == 2, "what was approved offline is on disk"
    assert await asyncio.to_thread(itself.sync) == 2 and itself.memory["queue"] == []
    listed = (await shop.ask("GET", f"/v1/transactions?terminal={one.till}&type=offline_sale", key="operator")).body["items"]
    assert sorted(item["amount"] for item in listed) == [5000, 6000]
    closed = await asyncio.to_thread(itself.terminal.close_batch, itself.memory["terminal"])
    assert closed["in_balance"] is True, closed
    assert not itself.batch_open


async def test_an_update_waits_for_the_batch(shop: Shop, pair: tuple[Device, Simulated]) -> None:
    _, itself = pair
    for version in ("1.0.0", "2.0.0"):
        await shop.ask("POST", "/v1/releases", {"model": "S1", "version": version, "url": "https://files.example/x", "sha256": "0" * 64, "size": 1}, "operator")
    await shop.ask("POST", "/v1/rollouts", {"model": "S1", "version": "2.0.0", "back_to": "1.0.0", "percent": 100, "reason": "x"}, "operator")
    await asyncio.to_thread(itself.sell, 5000)
    told = await asyncio.to_thread(itself.heartbeat)
    assert (told["software"]["install"], itself.memory["software_version"]) == ("after_batch", "1.0.0")
    await asyncio.to_thread(itself.terminal.close_batch, itself.memory["terminal"])
    await asyncio.to_thread(itself.heartbeat)
    assert itself.memory["software_version"] == "2.0.0"
    assert (await asyncio.to_thread(itself.heartbeat))["software"]["install"] == "none"


async def test_what_was_opened_erases_its_keys_even_when_the_answer_is_lost(shop: Shop, pair: tuple[Device, Simulated]) -> None:
    one, itself = pair
    exchange = itself.terminal.exchange
    itself.terminal.exchange = lambda *wanted: (exchange(*wanted), ("broken", {}, 0.0))[1]  # type: ignore[method-assign]
    with pytest.raises(Refused):
        await asyncio.to_thread(itself.heartbeat, tamper=True)
    itself.power_loss()
    assert itself.memory["tampered"] and "key" in itself.memory
    await shop.caught_up()
    await asyncio.to_thread(itself.heartbeat)  # 401: the same word
    assert "key" not in itself.memory and "key" not in json.loads(itself.file.read_text())
    with pytest.raises(Refused, match="no key"):
        itself.sell(5000)
    assert (await one.now())["tampered_at"] is not None


async def test_the_verbs_as_a_person_types_them(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, folder = await device(shop, "installed", model="S2"), str(tmp_path / "flash")

    async def typed(*words: str, code: int = 0) -> Any:
        assert await asyncio.to_thread(main, [folder, *words]) == code
        said = capsys.readouterr()
        return json.loads(said.out) if code == 0 else said.err

    assert "activate it first" in await typed("sell", "5000", code=1)
    assert "401 activation_refused" in await typed("activate", one.serial, "0000-0000", "--url", shop.base, code=1)
    assert (await typed("activate", one.serial, await one.code(), "--url", shop.base))["device"] == one.id
    await one.move("go_live")
    await shop.caught_up()
    assert (await typed("parameters"))["version"]
    assert (await typed("heartbeat", "--battery", "55", "--position", "31.230416", "-121.473701"))["sells"] is True
    health = (await shop.ask("GET", f"/v1/devices/{one.id}/health", key="operator")).body
    assert (health["battery_percent"], health["latitude_e6"], health["longitude_e6"]) == (55, 31_230_416, -121_473_701)
    assert (await typed("sell", "5000"))["sold"] is True
    refused = await typed("sell", "5300", "--imk", "0123456789ABCDEFFEDCBA9876543210")  # this host has no issuer: the chip takes no such answer
    assert (refused["sold"], refused["status"]) == (False, "reversing")
    (lost,) = await typed("power-loss", "7000")
    assert (lost["sold"], lost["status"]) == (False, "reversing")
    assert (await typed("sync")) == {"taken": 0, "left": 0}
    assert (await typed("close"))["in_balance"] is True
    assert (await typed("heartbeat", "--tamper"))["erase_keys"] is True
    assert "no key" in await typed("sell", "5000", code=1)
    assert (tmp_path / "flash" / "device.json").stat().st_mode & 0o077 == 0


async def test_it_does_its_acceptance_test_and_signs(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [{"step": each} for each in ("chip", "swipe", "contactless", "manual", "decline", "timeout", "cancellation", "preauthorization", "capture", "void", "refund", "receipt")]
    assert (await shop.ask("PUT", "/v1/acceptance-plans/S3", {"steps": steps, "reason": "x"}, "operator")).status == 200
    one, itself, folder = await device(shop, "installed", model="S3"), Simulated(tmp_path / "flash"), str(tmp_path / "flash")
    await asyncio.to_thread(itself.activate, shop.base, one.serial, await one.code())
    assert await asyncio.to_thread(itself.accept) == {"running": False}
    test = (await shop.ask("POST", f"/v1/devices/{one.id}/acceptance-tests", {"reason": "x"}, "operator")).body["id"]
    await shop.ask("POST", f"/v1/acceptance-tests/{test}/moves", {"event": "begin", "reason": "x"}, "operator")
    await shop.caught_up()
    await shop.host.order("silence", match={"4": f"{990_000:012d}"})
    done = await asyncio.to_thread(itself.accept, 990_000)
    assert done["shown"] == {each["step"]: [] for each in steps} and (done["skipped"], done["missing"], done["standing"], done["not_voided"]) == ([], [], [], []), done
    assert (await shop.ask("POST", f"/v1/acceptance-tests/{test}/moves", {"event": "pass", "reason": "x"}, "operator")).body["state"] == "passed"
    await one.move("go_live")
    await shop.caught_up()
    sold = await asyncio.to_thread(itself.sell, 12_300)
    itself.close()
    assert await asyncio.to_thread(main, [folder, "sign", str(sold.id)]) == 0
    signed = json.loads(capsys.readouterr().out)
    receipt = (await shop.ask("GET", f"/v1/transactions/{sold.id}/receipt", key="merchant.one")).body
    assert receipt["signature_sha256"] == signed["sha256"]
    assert await asyncio.to_thread(main, [folder, "sign", "txn_x"]) == 1 and "404" in capsys.readouterr().err
    assert await asyncio.to_thread(main, [folder, "accept"]) == 0 and json.loads(capsys.readouterr().out) == {"running": False}


async def test_its_whole_day_in_one_command(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await shop.host.order("silence", match={"4": f"{7_000:012d}"})  # so that it is killed before its answer
    words = [str(tmp_path / "flash"), "day", "--url", shop.base, "--operator-key", shop.keys["operator"], "--store", shop.shown("store.first")]
    assert await asyncio.to_thread(main, words) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert (told["sold"], told["offline"], told["update"], told["software"], told["in_balance"]) == (2, 2, "after_batch", "1.1.0", True)
    assert told["lost"] in (["reversing"], ["reversed"], ["cancelled"], ["409 cancelled_by_terminal"]), "the sale that was killed did not happen"
    assert "123.00" in said.err, "receipts are printed"
    listed = (await shop.ask("GET", f"/v1/transactions?terminal={told['terminal']}", key="operator")).body["items"]
    assert sorted(item["amount"] for item in listed if item["status"] in ("approved", "pending")) == [4500, 5000, 6000, 12_300]


def test_it_starts_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "loadtests.terminal", tmp_path / "flash", "sell", "1"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "refused: activate it first\n")
