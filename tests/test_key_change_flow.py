"""Keys that the host changes of itself, while sales run over real sockets: none is lost, a wrong offer changes nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import flows
import pytest
import pytest_asyncio
from conftest import create_database

from switch.ids import show
from switch.security.ciphers import ClearKey
from tests.keyed import TERMINAL_KEY, Desk, open_desk, pin
from tests.processes import stub_book

pytestmark = pytest.mark.asyncio(loop_scope="module")
ACCEPTED, REFUSED = "800", "904"  # action codes of 1993


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def desk(cluster_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    async with open_desk(await create_database(cluster_url), tmp_path_factory.mktemp("changing"), dialect="iso93_ascii") as opened:
        await opened.load(TERMINAL_KEY.reveal(), show("terminal", opened.shop.ids["terminal.lost"]), "pin", "tpk-1")
        yield opened


async def answers(desk: Desk) -> list[str]:
    """What the switch said to the host's key changes, oldest first."""
    return [line["fields"]["39"] for line in await stub_book(desk.host.control)
            if line["kind"] == "received" and line.get("mti") == "0810" and line["fields"].get("70") == "101"]


async def changed(desk: Desk, how: bool | str = True) -> str:
    """The host sends keys; how the switch answered."""
    before = len(await answers(desk))
    await desk.host.act(key_change=how)

    async def told() -> Any:
        found = await answers(desk)
        return found if len(found) > before else None

    return str((await flows.eventually(told, "the key change is not answered", 20.0))[before])


async def mac_key(desk: Desk) -> Any:
    (key,) = await desk.keys(purpose="mac", state="active")
    return key["kcv"]


async def sold(desk: Desk, amount: int, till: str = "lost", **more: Any) -> None:
    answer = await desk.sell(amount, till, **more)
    assert (answer.status, answer.body["status"]) == (201, "approved"), answer.raw


async def test_keys_that_the_host_changes_while_sales_run_cost_no_sale(desk: Desk) -> None:
    stop, count, begun = asyncio.Event(), 0, await mac_key(desk)

    async def sell(till: str) -> None:
        nonlocal count
        while not stop.is_set():
            await sold(desk, 1000, till, card=pin()) if till == "lost" else await sold(desk, 1100, till)
            count += 1

    tills = [asyncio.create_task(sell(till)) for till in ("lost", await desk.till("beside"))]
    try:
        for how in (True, "60", True):
            had, held = count, desk.shop.switch.custody.store.find(desk.acquirer_id, "mac")
            assert await changed(desk, how) == ACCEPTED
            assert desk.shop.switch.custody.store.find(desk.acquirer_id, "mac") != held

            async def more(had: int = had) -> bool:
                return count > had + 3 or any(task.done() for task in tills)

            await flows.eventually(more, "nothing is sold under new keys", 30.0)
    finally:
        stop.set()
        await asyncio.gather(*tills)
    assert await mac_key(desk) != begun, "what the host gave is written down"
    assert {each["0"] for each in await reversals(desk)} == set(), "a sale was lost"


async def test_a_terminal_with_a_key_of_sm4_sells_at_a_host_with_one_of_des(desk: Desk) -> None:
    key = ClearKey("sm4", bytes(range(16)))
    await desk.load(key.reveal(), show("terminal", desk.shop.ids["terminal.lost"]), "pin", "tpk-sm4", "sm4")
    await sold(desk, 1400, card=pin(form="sm4", key=key, key_id="tpk-sm4"))
    wrong = await desk.sell(1400, card=pin("4321", form="sm4", key=key, key_id="tpk-sm4"))
    assert (wrong.status, wrong.body["response_code"]) == (201, "117"), wrong.raw
    for card, field in ((pin(form="sm4", key_id="tpk-1", key=key), "card.pin.format"), (pin(form="sm4", pan="5555555555554444", key=key, key_id="tpk-sm4"),
                                                                                     "card.pin.block")):
        refused = await desk.shop.pay(1400, key="lost", card=card)
        assert (refused.status, refused.body["errors"][0]["field"]) == (422, field), refused.raw


async def reversals(desk: Desk) -> list[dict[str, Any]]:
    return [{"0": line["mti"]} for line in await desk.received() if line.get("mti", "")[1:2] == "4"]


async def test_an_answer_under_the_key_before_is_believed_for_its_grace(desk: Desk) -> None:
    assert await changed(desk) == ACCEPTED
    await desk.host.order("mac", "former", {"4": f"{1200:012d}"}, 1)
    await sold(desk, 1200)


@pytest.mark.parametrize("how", ["kcv", "56", "40s"], ids=["a wrong check value", "a layout of another dialect", "a MAC key that makes no MACs here"])
async def test_keys_that_cannot_be_taken_are_refused_whole_and_those_before_stay(desk: Desk, how: str) -> None:
    held = desk.shop.switch.custody.store.find(desk.acquirer_id, "pin"), desk.shop.switch.custody.store.find(desk.acquirer_id, "mac")
    assert await changed(desk, how) == REFUSED
    assert held == (desk.shop.switch.custody.store.find(desk.acquirer_id, "pin"), desk.shop.switch.custody.store.find(desk.acquirer_id, "mac"))
    await sold(desk, 1300)
    assert (await desk.line())["state"] == "up"


async def test_a_sign_on_without_keys_leaves_those_that_are_there(desk: Desk) -> None:
    held, before = desk.shop.switch.custody.store.find(desk.acquirer_id, "mac"), await desk.sign_ins()
    await desk.host.order("keys", "none", {"0": "0800", "70": "001"}, 1)
    assert (await desk.ask("POST", f"/v1/links/{desk.acquirer}/sign-on")).status in (200, 202)

    async def signed_on() -> bool:
        return await desk.sign_ins() > before

    await flows.eventually(signed_on, "no sign-on", 20.0)
    assert desk.shop.switch.custody.store.find(desk.acquirer_id, "mac") == held
