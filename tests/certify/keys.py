"""The scenarios of keys: check values, MACs, PIN blocks, keys that change, a host that wants another sign-on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from messages.dialect import Dialect
from switch.security.ciphers import ClearKey
from tests.certify.bench import Bench, eventually
from tests.certify.scenarios import AGAIN_S, reversals_of
from tests.certify.table import Table, exchanged_keys, macs, purpose
from tests.keyed import pin
from tests.processes import CARD, Answer

SCENARIOS = Table()
scenario = SCENARIOS.scenario
ANSWERS_MAX = 10  # that may pass before the line signs on anew: the third one running is due to, an answer to something else may come between


async def signs_on(bench: Bench, before: int) -> None:
    """There was another sign-on, and the line is up."""
    async def grown() -> bool:
        return await bench.sign_ons() > before

    await eventually(grown, "there is no new sign-on", 30)
    await bench.up()


async def refused_until_sign_on(bench: Bench, code: str, reason: str, sell: Callable[[], Awaitable[Answer]], amount: int) -> None:
    """Whatever costs `amount` is refused with a code, as new payments too, until the line has signed on anew."""
    before, stood = await bench.sign_ons(), await bench.stands()
    async with bench.misbehaving("code", code, {"4": f"{amount:012d}"}):
        for _ in range(ANSWERS_MAX):
            answer = await sell()
            assert answer.status == 201, answer.raw
            assert (answer.body["status"], answer.body["reason"], answer.body["advice"]) == ("declined", reason, "retry_new_key"), answer.raw
            if await bench.sign_ons() > before:
                break
        await signs_on(bench, before)
    again = await sell()
    assert (again.status, again.body["status"]) == (201, "approved"), again.raw
    assert await bench.stands() == stood + amount


@scenario(2, "a sign-on with a wrong check value: no key is taken, nothing is sold, tried again", exchanged_keys)
async def wrong_check_value(bench: Bench) -> None:
    before, held = await bench.sign_ons(), await bench.crypto_keys(purpose="mac", state="active")

    async def refused() -> bool:
        return "check value" in ((await bench.link())["last_error"] or "")

    async def tried_again() -> bool:
        return await bench.sign_ons() > before + 1

    async with bench.misbehaving("keys", "kcv", {"70": "001"}):
        assert (await bench.ask("POST", f"/v1/links/{bench.acquirer}/sign-on", key="operator")).status == 200
        await eventually(refused, "the wrong check value is not told", 20)
        answer = await bench.once(1200)
        assert (answer.status, answer.body["processed"]) == (503, False), answer.raw
        await eventually(tried_again, "the sign-on is not tried again", 30)
        assert await bench.crypto_keys(purpose="mac", state="active") == held, "a key of that sign-on was taken"
    await bench.up(seconds=30)
    await bench.approved(1200)
    assert await bench.crypto_keys(purpose="mac", state="active") != held


@scenario(28, "an answer with a wrong MAC, or with none: not believed, reversed with its own reason; the line signs on anew", macs)
async def wrong_mac(bench: Bench) -> None:
    before = await bench.stands()
    for how, amount in (("wrong", 4800), ("missing", 4900)):
        signed_on = await bench.sign_ons()
        async with bench.misbehaving("mac", how, {"4": f"{amount:012d}"}):  # to its reversals too
            answer = await bench.pay(amount)
            assert (answer.status, answer.body["reason"]) == (202, "mac_error"), answer.raw
            await signs_on(bench, signed_on)
        await bench.until(answer.body["id"], "reversed", 30)
        assert {each.get("39") for each in await reversals_of(bench, amount)} == {bench.dialect.reversal_reasons.get("mac_error")}
        assert await bench.stands() == before, "money is left at the host"


@scenario(29, "the host refuses our MACs: told as not sold, signed on anew, sold as a new payment; what cannot be believed is reversed", macs, beside=True)
async def mac_refused(bench: Bench) -> None:
    await refused_until_sign_on(bench, "A0", "mac_error", lambda: bench.pay(5200), 5200)
    before, stood = await bench.sign_ons(), await bench.stands()
    await bench.act(forget_keys=True)
    unsure = await bench.pay(5300, till="apart")  # refused under a key that we do not have
    assert (unsure.status, unsure.body["reason"]) == (202, "mac_error"), unsure.raw
    await signs_on(bench, before)
    await bench.approved(5400)
    assert await bench.stands() == stood + 5400
    bench.begun.set()
    row = await bench.until(unsure.body["id"], "reversed", AGAIN_S)
    assert row["reversal"]["closed_by"] == "not_found", row["reversal"]


@scenario(30, "a PIN block that is none: refused by the switch before anything is sent; by the host (99), where it says so: sold under new keys",
          exchanged_keys)
async def pin_block(bench: Bench) -> None:
    for wrong in (pin("1234", "5555555555554444"), pin("1234", CARD["pan"], key=ClearKey("tdes", bytes(range(16))))):
        answer = await bench.once(5500, card={**CARD, "pin": wrong["pin"]})
        assert (answer.status, answer.body["errors"][0]["field"]) == (422, "card.pin.block"), answer.raw
    assert not await bench.received(_4=f"{5500:012d}")
    if "99" in bench.dialect.codes:
        await refused_until_sign_on(bench, "99", "pin_block_error", lambda: bench.pay(5600, card=bench.pinned()), 5600)


async def unasked(bench: Bench, sold: list[dict[str, Any]], tills: list[asyncio.Task[None]]) -> None:
    """The host changes keys of itself, three times."""
    for _ in range(3):
        had, (held,) = len(sold), await bench.crypto_keys(purpose="mac", state="active")
        await bench.act(key_change=True)

        async def taken(held: dict[str, Any] = held) -> bool:
            return await bench.crypto_keys(purpose="mac", state="active") != [held]

        async def more(had: int = had) -> bool:
            return len(sold) > had + 4 or any(task.done() for task in tills)

        await eventually(taken, "the keys that the host sent are not in force", 20)
        await eventually(more, "nothing is sold under the host's keys", 20)


@scenario(31, "keys change while sales run: none is lost, and the key before is good for a while", exchanged_keys)
async def keys_change(bench: Bench) -> None:
    before, signed_on = await bench.stands(), await bench.sign_ons()
    (held,) = await bench.crypto_keys(purpose="mac", state="active")
    stop, sold = asyncio.Event(), list[dict[str, Any]]()

    async def sell(till: str) -> None:
        while not stop.is_set():
            sold.append(await bench.approved(100, till=till))

    tills = [asyncio.create_task(sell(till)) for till in ("till", "neighbour")]
    try:
        for number in range(1, 5):
            had = len(sold)
            assert (await bench.ask("POST", f"/v1/links/{bench.acquirer}/sign-on", key="operator")).status == 200
            await signs_on(bench, signed_on + number - 1)

            async def more(had: int = had) -> bool:
                return len(sold) > had + 4 or any(task.done() for task in tills)

            await eventually(more, "nothing is sold under new keys", 20)
        if "key_change" in bench.dialect.network:
            await unasked(bench, sold, tills)
    finally:
        stop.set()
        await asyncio.gather(*tills)
    assert await bench.stands() == before + 100 * len(sold)
    (now,) = await bench.crypto_keys(purpose="mac", state="active")
    assert now["kcv"] != held["kcv"]
    await bench.order("mac", "former")
    await bench.approved(5700)


def wants_sign_on(dialect: Dialect) -> bool:
    """Whether 77 says so: in other hands it is a decline like others."""
    return "77" in dialect.codes and dialect.codes["77"].reason == "sign_in_required"


def asks_for_sign_on(dialect: Dialect) -> str:
    return "" if wants_sign_on(dialect) else purpose("sign_off")(dialect)


@scenario(32, "the host wants another sign-on: by a code, or by signing off itself", asks_for_sign_on)
async def sign_on_wanted(bench: Bench) -> None:
    if wants_sign_on(bench.dialect):
        await refused_until_sign_on(bench, "77", "sign_in_required", lambda: bench.pay(5800), 5800)
    else:
        before = await bench.sign_ons()
        await bench.act(sign_off=True)
        await signs_on(bench, before)
        await bench.approved(5800)
