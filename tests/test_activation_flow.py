"""Activation over real HTTP and PostgreSQL: a code gives a key once; wrong codes are counted whatever else happens, and lock out."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from loadtests.keying import Transport
from switch.terminals import guesses
from switch.terminals.activation import Activation
from switch.terminals.devices import By
from tests.fleet import Device, device, new_serial
from tests.flows import Shop, open_shop
from tests.processes import Answer
from tests.test_openapi import fits

WRONG = "0000-0000"


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("activation"), SWITCH_TRUSTED_PROXIES="127.0.0.0/8") as opened:
        yield opened


@pytest_asyncio.fixture(scope="module")
async def spec(shop: Shop) -> Any:
    return (await shop.ask("GET", "/openapi.json")).body


@pytest_asyncio.fixture(autouse=True)
async def forgiven(shop: Shop) -> None:
    await shop.sql("UPDATE activation_failure SET failures = 0, locked_until = NULL")
    shop.switch.activation.locked_until.clear()


async def activate(shop: Shop, serial: str, code: str, address: str = "198.51.100.1") -> Answer:
    """As from an address behind our own proxy."""
    return await shop.ask("POST", "/v1/activations", {"serial_number": serial, "code": code}, "", X_Forwarded_For=address)


def refused(answer: Answer) -> bool:
    return (answer.status, answer.body.get("code")) == (401, "activation_refused")


async def codes_of(shop: Shop, one: Device) -> list[Any]:
    return await shop.sql("SELECT * FROM activation_code WHERE device_id = $1 ORDER BY number", UUID(one.id[4:]))


async def test_a_code_gives_the_tills_key_and_the_device_is_activated(shop: Shop, spec: Any) -> None:
    one = await device(shop, "installed")
    issued = await shop.ask("POST", f"/v1/devices/{one.id}/activation-codes", {}, "operator")
    fits(spec, "post", "/v1/devices/{device}/activation-codes", issued)
    waits = await one.now()
    assert waits["code_expires_at"] == issued.body["expires_at"] and waits["code_issued_at"] < waits["code_expires_at"]
    point = {"serial_number": one.serial, "code": issued.body["code"], "transport_key": Transport().point.hex()}
    assert (await shop.ask("POST", "/v1/activations", point, "")).body["code"] == "not_supported", "no security module: the code is as good as before"
    typed = issued.body["code"].lower().replace("-", " ")
    answer = await activate(shop, one.serial, typed)
    fits(spec, "post", "/v1/activations", answer)
    assert (answer.status, answer.body["device"], answer.body["terminal"], answer.body["merchant"]) == (201, one.id, one.till, shop.shown("merchant.one"))
    await shop.caught_up()
    one.key = answer.body["key"]
    assert (await one.beat()).status == 200 and (await one.now())["state"] == "activated"
    assert (await one.now())["code_issued_at"] is None, "it is used"
    (key,) = await shop.sql("SELECT k.*, a.terminal_id, a.revoked_at FROM device_key k JOIN api_key a USING (key_id) WHERE device_id = $1", UUID(one.id[4:]))
    assert key["terminal_id"] == UUID(one.till[4:]) and key["revoked_at"] is None and key["key_id"] in one.key
    assert [event["by"] for event in await one.events()][-1] == f"device {one.serial}"


async def test_the_key_and_the_code_are_shown_once_and_stored_nowhere(shop: Shop) -> None:
    one = await device(shop, "installed")
    code = await one.code()
    answer = await activate(shop, one.serial, code)
    key, plain = answer.body["key"], code.replace("-", "")
    assert refused(await activate(shop, one.serial, code)), "a used code is as good as none"
    shown = [await shop.ask("GET", path, key="operator") for path in (f"/v1/devices/{one.id}", f"/v1/devices/{one.id}/events", "/v1/devices", "/v1/keys?limit=200")]
    assert not [each for each in shown if key.partition(".")[2] in each.raw.decode() or code in each.raw.decode()]
    for table in ("activation_code", "device_key", "device_event", "api_key", "device", "activation_failure"):
        for row in await shop.sql(f"SELECT t::text AS text FROM {table} t"):
            assert key.partition(".")[2] not in row["text"] and plain not in row["text"] and code not in row["text"]
    assert code not in repr(shop.switch.activation) and (await codes_of(shop, one))[0]["digest"] != guesses.hashed(UUID(one.id[4:]), plain)[:32]


async def test_of_many_uses_at_once_one_gets_the_key(shop: Shop) -> None:
    one = await device(shop, "installed")
    code = await one.code()
    answers = await asyncio.gather(*(activate(shop, one.serial, code, f"198.51.100.{number}") for number in range(8)))
    assert sorted(answer.status for answer in answers) == [201, *[401] * 7]
    assert len(await shop.sql("SELECT FROM device_key WHERE device_id = $1", UUID(one.id[4:]))) == 1


async def test_a_new_code_ends_the_one_before_and_a_new_activation_the_key_before(shop: Shop) -> None:
    one = await device(shop, "installed")
    first, second = await one.code(), await one.code()
    assert first != second and refused(await activate(shop, one.serial, first))
    assert (await one.activate(second)).status == 201
    old = one.key
    assert (await one.beat()).status == 200
    assert (await one.activate()).status == 201, "the first answer was lost, say: a new code, a new key"
    assert (await shop.ask("GET", f"/v1/terminals/{one.till}/parameters", key=old)).status == 401 and (await one.beat()).status == 200
    assert [row["ended_as"] for row in await codes_of(shop, one)] == ["replaced", "used", "used"]


async def test_an_expired_code_is_refused_like_any_other(shop: Shop) -> None:
    one = await device(shop, "installed")
    issued = await shop.switch.activation.issue(UUID(one.id[4:]), By("Flow Tester"), timedelta(milliseconds=50))
    await asyncio.sleep(0.1)
    late, wrong, unknown = await activate(shop, one.serial, issued.code), await activate(shop, one.serial, WRONG), await activate(shop, new_serial(), WRONG)
    assert refused(late) and refused(wrong) and refused(unknown)
    bodies = [{name: value for name, value in answer.body.items() if name != "request_id"} for answer in (late, wrong, unknown)]
    assert bodies[0] == bodies[1] == bodies[2], "nothing tells which it was"


async def test_a_code_of_another_device_and_of_another_state_is_refused(shop: Shop) -> None:
    one, other = await device(shop, "installed"), await device(shop, "installed")
    code = await one.code()
    assert refused(await activate(shop, other.serial, code))
    await one.move("return")
    assert refused(await activate(shop, one.serial, code))
    for state in ("inventory", "ordered", "shipped", "live"):
        each = await device(shop, state)
        answer = await shop.ask("POST", f"/v1/devices/{each.id}/activation-codes", {}, "operator")
        assert (answer.status, answer.body["code"]) == (409, "device_move"), state


async def test_five_wrong_tries_end_a_code_and_the_right_one_is_too_late(shop: Shop) -> None:
    one = await device(shop, "installed")
    code = await one.code()
    for number in range(guesses.FAILURES_OF_A_CODE):
        assert refused(await activate(shop, one.serial, WRONG, f"198.51.100.{number}"))
    assert refused(await activate(shop, one.serial, code, "198.51.100.99"))
    assert [(row["failures"], row["ended_as"]) for row in await codes_of(shop, one)] == [(5, "guessed")]
    assert (await one.activate()).status == 201, "a new code of the operator's"


async def test_parallel_guesses_are_counted_one_by_one(shop: Shop) -> None:
    one = await device(shop, "installed")
    code = await one.code()
    tried = [*[WRONG] * 12, code, *[WRONG] * 3]
    answers = await asyncio.gather(*(activate(shop, one.serial, each, f"203.0.113.{number}") for number, each in enumerate(tried)))
    (row,) = await codes_of(shop, one)
    assert row["failures"] <= guesses.FAILURES_OF_A_CODE
    assert (row["ended_as"] == "used") is (201 in {answer.status for answer in answers})


async def test_many_codes_guessed_at_one_till_lock_it(shop: Shop) -> None:
    one = await device(shop, "installed")
    limit = guesses.LIMITS["terminal"].failures
    for number in range(limit):
        if number % guesses.FAILURES_OF_A_CODE == 0:
            code = await one.code()
        assert refused(await activate(shop, one.serial, WRONG, f"198.51.100.{number}"))
    code = await one.code()
    assert refused(await activate(shop, one.serial, code, "198.51.100.200")), "locked: even the right one, and nothing says so"
    row = (await codes_of(shop, one))[-1]
    assert row["ended_at"] is None and row["failures"] == 0
    await shop.sql("UPDATE activation_failure SET locked_until = now() - interval '1 second' WHERE scope = 'terminal'")
    assert (await activate(shop, one.serial, code, "198.51.100.201")).status == 201
    (counter,) = await shop.sql("SELECT failures FROM activation_failure WHERE scope = 'terminal' AND subject = $1", one.till)
    assert counter["failures"] == 0, "a right one forgives"


async def test_many_serial_numbers_tried_from_one_address_lock_that_address_alone(shop: Shop) -> None:
    one = await device(shop, "installed")
    code, limit = await one.code(), guesses.LIMITS["address"].failures
    answers = await asyncio.gather(*(activate(shop, new_serial(), WRONG, "192.0.2.66") for _ in range(limit)))
    assert all(map(refused, answers))
    for _ in range(2):  # by the database, then by what this worker remembers
        locked = await activate(shop, one.serial, code, "192.0.2.66")
        assert (locked.status, locked.body["code"]) == (429, "too_many_attempts") and 800 < int(locked.headers["retry-after"]) <= 901
    shop.switch.activation.locked_until.clear()
    assert (await activate(shop, one.serial, code, "192.0.2.66")).status == 429, "another worker knows it as well"
    assert (await activate(shop, one.serial, code, "192.0.2.67")).status == 201
    six = await asyncio.gather(*(activate(shop, new_serial(), WRONG, f"2001:db8::{number:x}") for number in range(limit)))
    assert all(map(refused, six)) and (await activate(shop, new_serial(), WRONG, "2001:db8::ffff")).status == 429, "a line has a whole /64"


async def test_what_is_counted_stays_counted_when_the_window_is_over_it_begins_anew(shop: Shop) -> None:
    for _ in range(3):
        await activate(shop, new_serial(), WRONG, "192.0.2.9")
    read = "SELECT failures FROM activation_failure WHERE scope = 'address' AND subject = '192.0.2.9'"
    assert (await shop.sql(read))[0]["failures"] == 3
    await shop.sql("UPDATE activation_failure SET since = now() - interval '16 minutes' WHERE subject = '192.0.2.9'")
    await activate(shop, new_serial(), WRONG, "192.0.2.9")
    assert (await shop.sql(read))[0]["failures"] == 1


@pytest.mark.parametrize("body", [{"serial_number": "PX7-1"}, {"code": "7K2M9QXD"}, {"serial_number": "px", "code": "x"}, {"serial_number": "PX7-1", "code": ""},
                                  {"serial_number": "PX7-1", "code": "x" * 21}, {"serial_number": "PX7-1", "code": 12345678}, {"serial_number": "PX7-1", "code": "x", "key": 1}, []])
async def test_a_body_of_another_form_is_refused_and_counts_nothing(shop: Shop, body: Any) -> None:
    answer = await shop.ask("POST", "/v1/activations", body, "", X_Forwarded_For="192.0.2.10")
    assert (answer.status, answer.body["code"]) == (422, "invalid")
    assert await shop.sql("SELECT FROM activation_failure WHERE subject = '192.0.2.10'") == []


async def test_a_crowd_is_told_to_come_back_and_counts_nothing(shop: Shop) -> None:
    one = await device(shop, "installed")
    code = await one.code()
    shop.switch.activation.in_hand = 64
    try:
        crowded = await activate(shop, one.serial, code, "192.0.2.11")
        assert (crowded.status, crowded.body["code"], crowded.headers["retry-after"]) == (503, "overloaded", "5")
    finally:
        shop.switch.activation.in_hand = 0
    assert (await activate(shop, one.serial, code, "192.0.2.11")).status == 201 and shop.switch.activation.in_hand == 0


async def test_the_memory_of_locked_addresses_is_bounded(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("switch.terminals.activation.REMEMBERED_MAX", 3)
    clock = [0.0]
    activation = Activation(shop.switch.of_devices, shop.switch.vault, shop.switch.devices.keys, lambda: clock[0])
    for number in range(9):
        activation._remember(f"192.0.2.{number}", 10.0)
    assert list(activation.locked_until) == ["192.0.2.6", "192.0.2.7", "192.0.2.8"]
