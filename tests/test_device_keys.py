"""Keys of devices over real HTTP: a master key at the activation, working keys by sign-in, rotation, and the end of them. The device's half is of
loadtests, which opens what the switch wrapped."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from psec import tr31

from loadtests.device import Device as Simulated
from loadtests.device import Refused
from loadtests.keying import Transport
from loadtests.trial import CARD
from switch.merchants.device_keys import PAUSE_S
from switch.security.hsm import Handle
from switch.security.software_hsm import SoftwareHsm
from switch.terminals.devices import new_id
from tests.fleet import Device, device, new_till
from tests.flows import Shop, open_shop
from tests.keyed import KEYED
from tests.test_openapi import fits

HEX = re.compile("[0-9a-f]{32}")
OPENED: list[Simulated] = []


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("device-keys"), **KEYED) as opened:
        yield opened


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


async def activated(shop: Shop, folder: Path) -> tuple[Device, Simulated]:
    """A live device with its master key."""
    one, simulated = await device(shop, "installed"), Simulated(folder)
    OPENED.append(simulated)
    await asyncio.to_thread(simulated.activate, shop.base, one.serial, await one.code())
    one.key = simulated.memory["key"]
    await one.move("go_live")
    await shop.caught_up()
    await one.until_it_sells(True)
    return one, simulated


async def keys_of(shop: Shop, one: Device, state: str = "active") -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in await shop.sql("SELECT purpose, kcv FROM crypto_key WHERE terminal_id = $1 AND state = $2 ORDER BY key_id", UUID(one.till[4:]), state):
        found.setdefault(row["purpose"], []).append(row["kcv"])
    return found


async def rested(shop: Shop, one: Device) -> None:
    """As if the last sign-in had been longer ago."""
    await shop.sql("UPDATE crypto_key SET active_at = active_at - make_interval(secs => $2) WHERE terminal_id = $1", UUID(one.till[4:]), float(PAUSE_S))


async def test_a_device_gets_its_master_key_once_and_working_keys_by_sign_in(shop: Shop, tmp_path: Path) -> None:
    one, simulated = await activated(shop, tmp_path)
    assert HEX.fullmatch(simulated.memory["tmk"]) and (await keys_of(shop, one)).keys() == {"tmk"}
    values = await asyncio.to_thread(simulated.sign_in)
    assert values.keys() == {"pin", "mac", "track"} and len(set(values.values())) == 3
    assert {purpose: [value] for purpose, value in values.items()} == {purpose: kcvs for purpose, kcvs in (await keys_of(shop, one)).items() if purpose != "tmk"}
    again = await shop.ask("POST", f"/v1/terminals/{one.till}/key-sign-ins", {}, one.key)
    assert (again.status, again.body["code"]) == (429, "too_many_attempts") and 0 < int(again.headers["retry-after"]) <= PAUSE_S
    await rested(shop, one)
    first = simulated.memory["working"]
    assert await asyncio.to_thread(simulated.sign_in) != values and simulated.memory["working"]["pin"]["key"] != first["pin"]["key"]
    assert (await keys_of(shop, one, "replaced"))["pin"] == [values["pin"]]
    clear = {simulated.memory["tmk"], *(each["key"] for each in simulated.memory["working"].values())}
    for table in ("crypto_key", "device_key", "device_event"):
        rows = str(await shop.sql(f"SELECT t::text AS row FROM {table} t"))
        assert not any(key in rows.lower() for key in clear), table


async def test_the_answers_fit_and_a_key_in_none_of_them_is_clear(shop: Shop, tmp_path: Path) -> None:
    spec = (await shop.ask("GET", "/openapi.json")).body
    one, transport = await device(shop, "installed"), Transport()
    body = {"serial_number": one.serial, "code": await one.code(), "transport_key": transport.point.hex()}
    answer = await shop.ask("POST", "/v1/activations", body, "")
    fits(spec, "post", "/v1/activations", answer)
    master = transport.master(one.serial, answer.body["master_key"])
    assert master not in answer.raw.decode().lower()
    with pytest.raises(ValueError, match="tmk"):  # bound to its serial number
        transport.master("PX7-00000000", answer.body["master_key"])
    await shop.caught_up()
    signed = await shop.ask("POST", f"/v1/terminals/{one.till}/key-sign-ins", {}, answer.body["key"])
    fits(spec, "post", "/v1/terminals/{terminal}/key-sign-ins", signed)
    for each in signed.body["keys"]:  # a third reader of the same blocks
        header, _ = tr31.unwrap(bytes.fromhex(master), each["key_block"])
        assert (header.version_id, header.key_usage, header.exportability) == ("B", {"pin": "P0", "mac": "M3", "track": "D0"}[each["purpose"]], "N")
    listed = await shop.ask("GET", f"/v1/crypto-keys?owner={one.till}", key="operator")
    fits(spec, "get", "/v1/crypto-keys", listed)
    assert {each["source"] for each in listed.body["items"]} == {"activation", "sign_in"}


async def test_a_device_takes_all_keys_or_none(shop: Shop, tmp_path: Path) -> None:
    one, simulated = await activated(shop, tmp_path)
    answer = (await shop.ask("POST", f"/v1/terminals/{one.till}/key-sign-ins", {}, one.key)).body["keys"]
    for wrong in ([answer[0], answer[1] | {"kcv": "000000"}, answer[2]], [answer[0] | {"purpose": "mac"}], [answer[0] | {"key_block": answer[0]["key_block"][:-1] + "0"}]):
        with pytest.raises(Refused):
            simulated.take_keys(wrong if wrong[0]["kcv"] != "000000" else [*wrong, {}])
        assert simulated.memory["working"] == {}
    assert simulated.take_keys(answer) == {each["purpose"]: each["kcv"] for each in answer}


async def test_a_pin_goes_on_under_the_working_key_and_not_under_the_one_before(shop: Shop, tmp_path: Path) -> None:
    hsm = shop.switch.custody.hsm
    assert isinstance(hsm, SoftwareHsm)
    master: Handle = hsm.provisioned(new_id(), Transport().point, b"").key
    await shop.switch.custody.crypto_keys.installed(shop.ids["acquirer.single"], [hsm.worked(new_id(), "pin", master)[0]])
    one, simulated = await activated(shop, tmp_path)
    await asyncio.to_thread(simulated.sign_in)
    await rested(shop, one)
    assert (await asyncio.to_thread(simulated.sell, 4_400, "CNY", None, "1234")).sold
    old = simulated.with_pin("1234")
    await asyncio.to_thread(simulated.sign_in)
    refused = await shop.pay(4_500, key=one.key, card=CARD | old)
    assert (refused.status, refused.body["code"]) == (422, "invalid")
    assert (await asyncio.to_thread(simulated.sell, 4_600, "CNY", None, "1234")).sold


@pytest.mark.parametrize("how", ["tamper", "return", "swap"])
async def test_a_device_that_is_opened_or_gone_has_no_key_left_on_either_side(shop: Shop, tmp_path: Path, how: str) -> None:
    one, simulated = await activated(shop, tmp_path)
    await asyncio.to_thread(simulated.sign_in)
    assert shop.switch.custody.store.find(UUID(one.till[4:]), "pin", "working") is not None
    if how == "tamper":
        await asyncio.to_thread(lambda: simulated.heartbeat(tamper=True))
        assert simulated.memory.keys().isdisjoint({"key", "tmk", "working"}) and not HEX.search((tmp_path / "device.json").read_text())
    elif how == "return":
        await one.move("return")
    else:
        other = await Device(shop, one.till).register()
        assert (await shop.ask("POST", f"/v1/devices/{one.id}/swap", {"replacement": other.id, "reason": "as agreed"}, "operator")).status == 200
    assert await keys_of(shop, one) == {}
    await shop.caught_up()
    assert (await shop.ask("POST", f"/v1/terminals/{one.till}/key-sign-ins", {}, one.key)).status == 401


async def test_an_activation_without_a_point_ends_the_keys_of_before_and_wrong_points_leave_the_code(shop: Shop, tmp_path: Path) -> None:
    one, simulated = await activated(shop, tmp_path)
    await asyncio.to_thread(simulated.sign_in)
    await one.move("maintain")
    code = await one.code()
    for point in ("04" + "00" * 64, "04" + "11" * 63, "x"):  # off the curve, short, not hex
        answer = await shop.ask("POST", "/v1/activations", {"serial_number": one.serial, "code": code, "transport_key": point}, "")
        assert answer.status == 422, answer.raw
    plain = await shop.ask("POST", "/v1/activations", {"serial_number": one.serial, "code": code}, "")
    assert plain.body["master_key"] is None and await keys_of(shop, one) == {}
    await shop.caught_up()
    refused = await shop.ask("POST", f"/v1/terminals/{one.till}/key-sign-ins", {}, plain.body["key"])
    assert (refused.status, refused.body["code"]) == (409, "conflict")


async def test_only_the_terminal_itself_signs_in(shop: Shop) -> None:
    till: Any = await new_till(shop)
    for key, status in (("till", 404), ("dual", 404), ("operator", 403), ("merchant.one", 403)):
        assert (await shop.ask("POST", f"/v1/terminals/{till}/key-sign-ins", {}, key)).status == status, key
