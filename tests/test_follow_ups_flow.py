"""Follow-ups of an authorization through HTTP, TCP and PostgreSQL: what is told, what is reserved and booked, what the acquirer booked."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.flows import Shop, new_key, open_shop
from tests.processes import Answer


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("follow_ups")) as opened:
        yield opened


async def follow(shop: Shop, verb: str, shown_id: str, body: Any = None, key: str = "till", idempotency_key: str | None = None) -> Answer:
    return await shop.ask("POST", f"/v1/authorizations/{shown_id}/{verb}", {} if body is None else body, key,
                          Idempotency_Key=idempotency_key or new_key())


async def hold(shop: Shop, amount: int, till: str = "till", **changed: Any) -> Any:
    answer = await shop.pay(amount, key=till, type="preauthorization", **changed)
    assert (answer.status, answer.body["status"]) == (201, "approved"), answer.raw
    return answer.body


async def test_a_preauthorization_is_captured_in_parts(shop: Shop) -> None:
    held = await hold(shop, 10000)
    first = await follow(shop, "captures", held["id"], {"amount": 4000})
    assert first.status == 201, first.raw
    assert (first.body["status"], first.body["type"], first.body["original"], first.body["amount"]) == ("approved", "capture", held["id"], 4000)
    now = await shop.get(held["id"])
    assert (now["amounts"]["captured"], now["amounts"]["left_to_capture"], now["payment_status"]) == (4000, 6000, "partially_captured")
    rest = await follow(shop, "captures", held["id"])
    assert (rest.status, rest.body["amount"]) == (201, 6000)
    now = await shop.get(held["id"])
    assert (now["amounts"]["captured"], now["amounts"]["left_to_capture"], now["payment_status"]) == (10000, 0, "captured")
    assert await shop.host.effect(first.body["rrn"]) == (4000, 0) and await shop.host.effect(rest.body["rrn"]) == (6000, 0)
    (sent,) = await shop.host.received(first.body["rrn"])
    (request,) = await shop.host.received(held["rrn"])
    assert (sent["0"], sent["25"], sent["38"]) == ("0220", "06", held["approval_code"])
    assert sent["90"] == f"{request['0']}{request['11']}{request['7']}{'0' * 22}"


async def test_a_sale_is_voided(shop: Shop) -> None:
    sold = (await shop.pay(7000)).body
    void = await follow(shop, "voids", sold["id"])
    assert (void.status, void.body["status"], void.body["amount"]) == (201, "approved", 7000), void.raw
    now = await shop.get(sold["id"])
    assert (now["status"], now["payment_status"], now["amounts"]["captured"], now["amounts"]["voided"]) == ("approved", "voided", 0, 7000)
    assert await shop.host.effect(void.body["rrn"]) == (-7000, 0)
