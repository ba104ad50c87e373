"""An approval whose worker does not know that its commit stood: undone, unless somebody was told it meanwhile."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from switch.ids import read
from switch.payments.journal import Outcome
from switch.payments.transaction import APPROVED, REVERSING, SENT
from tests.flows import ANSWER_TIMEOUT_MS, Shop, body_of, eventually, new_key, open_shop


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("confirmation")) as opened:
        yield opened


async def doubted(shop: Shop, shown_id: str) -> None:
    """What the worker does that told "pending": its own outcome, as it had written it."""
    identity = read("transaction", shown_id)
    assert identity is not None
    row = await shop.switch.history.transaction(identity)
    assert row is not None
    row.version = 2
    shop.switch.doubts.unsure(Outcome(row, SENT))


async def test_what_nobody_was_told_is_undone(shop: Shop) -> None:
    sale = (await shop.pay(6100)).body
    await doubted(shop, sale["id"])
    await shop.until(sale["id"], "reversed")


@pytest.mark.parametrize("built_on", [False, True])
async def test_a_cancellation_in_doubt_is_finished_only_while_nothing_was_built_on_the_sale(shop: Shop, built_on: bool) -> None:
    sale = (await shop.pay(6300, type="preauthorization")).body
    identity = read("transaction", sale["id"])
    assert identity is not None
    row = await shop.switch.history.transaction(identity)  # as the cancellation judged it
    assert row is not None
    if built_on:  # written down, and with the acquirer when the worker looks
        await shop.host.order("delay", ANSWER_TIMEOUT_MS * 0.6 / 1000, {"0": "0220"})
        capture = asyncio.create_task(shop.ask("POST", f"/v1/authorizations/{sale['id']}/captures", {"amount": 300}, Idempotency_Key=new_key()))

        async def reserved() -> bool:
            return bool((await shop.row(sale["id"]))["capture_reserved"])

        await eventually(reserved, "the capture is not written down")
        assert (await shop.row(sale["id"]))["version"] == row.version + 1
    row.state, row.version = REVERSING, row.version + 1
    shop.switch.doubts.unsure(Outcome(row, APPROVED))
    if built_on:
        assert (await capture).body["status"] == "approved"
        await asyncio.sleep(1)  # the first look comes after 0.2 s
        now = await shop.get(sale["id"])
        assert (now["status"], now["amounts"]["captured"]) == ("approved", 300)
    else:
        await shop.until(sale["id"], "reversed")


async def test_what_was_told_again_stands(shop: Shop) -> None:
    key, body = new_key(), body_of(6200)
    first = await shop.post(body, key)
    again = await shop.post(body, key)
    assert (first.status, again.status, again.raw) == (201, 201, first.raw)
    await doubted(shop, first.body["id"])
    await asyncio.sleep(1)  # the first look comes after 0.2 s
    assert (await shop.row(first.body["id"]))["state"] == "APPROVED"


async def test_that_its_own_capture_was_declined_tells_nobody_anything(shop: Shop) -> None:
    await shop.dual.order("code", "05", match={"0": "0220"})
    sale = (await shop.pay(6500, key="dual")).body

    async def given_back() -> bool:
        return bool((await shop.row(sale["id"]))["captured"] == 0)

    await eventually(given_back, "the capture is not declined")
    assert (await shop.row(sale["id"]))["version"] == 3
    await doubted(shop, sale["id"])
    await shop.until(sale["id"], "reversed")


async def test_what_was_told_again_stands_also_when_its_own_capture_was_declined(shop: Shop) -> None:
    await shop.dual.order("code", "05", match={"0": "0220"})
    key, body = new_key(), body_of(6600)
    sale = (await shop.post(body, key, "dual")).body

    async def given_back() -> bool:
        return bool((await shop.row(sale["id"]))["captured"] == 0)

    await eventually(given_back, "the capture is not declined")
    for _ in range(2):
        assert (await shop.post(body, key, "dual")).status == 201
    assert (await shop.row(sale["id"]))["version"] == 4
    await doubted(shop, sale["id"])
    await asyncio.sleep(1)  # the first look comes after 0.2 s
    assert (await shop.row(sale["id"]))["state"] == "APPROVED"


async def test_a_second_replay_writes_nothing(shop: Shop) -> None:
    key, body = new_key(), body_of(6300)
    sale = await shop.post(body, key)
    versions = []
    for _ in range(3):
        await shop.post(body, key)
        versions.append((await shop.row(sale.body["id"]))["version"])
    assert versions == [3, 3, 3]


async def test_what_is_undone_already_is_not_told_as_approved(shop: Shop) -> None:
    key, body = new_key(), body_of(6400)
    sale = (await shop.post(body, key)).body
    await doubted(shop, sale["id"])
    await shop.until(sale["id"], "reversed")
    assert (await shop.post(body, key)).status == 202
