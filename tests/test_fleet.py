"""`switch terminal ...` as an operator types it, against a running switch."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from switch.cli import main
from tests.fleet import Device, device, new_serial, new_till
from tests.flows import Shop, open_shop


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("fleet")) as opened:
        yield opened


class Typed:
    """`switch terminal WORDS`: the lines it prints, or what it refuses."""

    def __init__(self, shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
        self.shop, self.capsys = shop, capsys

    async def __call__(self, *words: str) -> list[str]:
        code, said = await self.done(*words)
        assert code == 0, said
        return said

    async def refused(self, *words: str) -> str:
        code, said = await self.done(*words)
        assert code == 2, said
        return said[-1]

    async def done(self, *words: str) -> tuple[int, list[str]]:
        self.capsys.readouterr()
        code = await asyncio.to_thread(main, ["terminal", *words, "--url", self.shop.base, "--key", self.shop.keys["operator"]])
        out, err = self.capsys.readouterr()
        return code, [line for line in (out if code == 0 else err).splitlines() if not line.startswith('{"at"')]


@pytest.fixture
def typed(shop: Shop, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(shop, capsys)


async def test_a_device_from_the_inventory_to_its_swap(shop: Shop, typed: Typed) -> None:
    till, serial = await new_till(shop), new_serial()
    (line,) = await typed("register", serial, "--model", "PX7", "--reason", "bought")
    device_id = line.split()[0]
    assert f"{serial}" in line and "inventory" in line
    await typed("move", device_id, "order", "--store", shop.shown("store.first"), "--reason", "contract")
    assert "cannot install; it can: cancel, ship, swap_in" in await typed.refused("move", device_id, "install", "--terminal", till, "--reason", "x")
    await typed("move", device_id, "ship", "--reason", "parcel")
    await typed("move", device_id, "install", "--terminal", till, "--reason", "on site")
    (said,) = await typed("code", device_id)
    one = Device(shop, till)
    one.serial, one.id = serial, device_id
    assert (await one.activate(said.split()[0])).status == 201
    assert "live" in (await typed("move", device_id, "go_live", "--reason", "test sale seen"))[0]
    assert " sells " in (await typed("move", device_id, "maintain", "--sells", "--reason", "paper roll"))[0]
    await one.beat(battery_percent=44)
    assert "battery percent: 44" in await typed("health", device_id)
    now, *story = await typed("show", device_id)
    assert now.split()[:2] == [device_id, serial] and "maintenance" in now
    assert [line.split()[1] for line in story] == ["register", "order", "ship", "install", "activate", "go_live", "maintain"] and "by Flow Tester: contract" in story[1]
    listed = await typed("list", "--serial", serial, "--state", "maintenance", "--merchant", shop.shown("merchant.one"))
    assert [line.split()[0] for line in listed] == [device_id] and await typed("list", "--silent") == []
    spare = await Device(shop, till).register()
    swapped = await typed("swap", device_id, spare.id, "--reason", "broken")
    assert spare.id in swapped[0] and swapped[1] == f"it needs a code: switch terminal code {spare.id}"


async def test_parameters_and_roll_outs(shop: Shop, typed: Typed, tmp_path: Path) -> None:
    one = await device(shop, "live", model="F1")
    file = tmp_path / "parameters.json"
    file.write_text(json.dumps({"receipt_width_mm": 80}))
    assert "--reason" in await typed.refused("parameters", one.till, "--set", str(file))
    assert "version 1" in (await typed("parameters", one.till, "--set", str(file), "--reason", "wide paper"))[0]
    assert '{"receipt_width_mm": 80}' in (await typed("parameters", one.till))[0]
    for text, said in (("[]", "one JSON object"), ("{", "cannot be read: it is no JSON"), ('{"receipt_width_mm": 81}', "one of: 58, 80")):
        file.write_text(text)
        assert said in await typed.refused("parameters", one.till, "--set", str(file), "--reason", "x")
    software = tmp_path / "f1.bin"
    software.write_bytes(b"software")
    for version in ("1", "2"):
        (line,) = await typed("release", "F1", version, "--at", "https://files.example/x", "--file", str(software))
    assert line.endswith(f"F1 2  8 bytes  sha256 {hashlib.sha256(b'software').hexdigest()}")
    assert "cannot be read" in await typed.refused("release", "F1", "3", "--at", "https://files.example/x", "--file", str(tmp_path / "none"))
    assert "version of this model is known" in await typed.refused("release", "F1", "2", "--at", "https://files.example/x", "--file", str(software))
    (line,) = await typed("rollout", "F1", "2", "--back-to", "1", "--percent", "0", "--store", shop.shown("store.first"), "--reason", "first stage")
    rollout = line.split()[0]
    assert "0 of 0 chosen have it, 1 devices" in line
    assert "running 100 %" in (await typed("rollout-change", rollout, "advance", "--percent", "100", "--reason", "quiet"))[0]
    await one.beat(software_version="2")
    assert "1 of 1 chosen have it" in (await typed("rollouts", rollout))[0]
    assert "cannot resume" in await typed.refused("rollout-change", rollout, "resume", "--reason", "x")
    assert "rolled_back" in (await typed("rollout-change", rollout, "roll_back", "--reason", "printer"))[0]
    assert rollout in (await typed("rollouts"))[0]
