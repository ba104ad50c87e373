"""What an operator changed is in force when it is answered, at the worker that was asked, however slowly it reads its records."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from conftest import create_database

from switch.api.changes import taken_up
from switch.directory import Directory
from tests.flows import Shop, open_shop

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shop(cluster_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(await create_database(cluster_url), tmp_path_factory.mktemp("changes")) as opened:
        yield opened


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    refresh = Directory.refresh

    async def slowly(self: Directory, connection: asyncpg.Connection) -> int:
        await asyncio.sleep(0.4)
        return await refresh(self, connection)

    monkeypatch.setattr(Directory, "refresh", slowly)


async def test_a_key_is_good_as_soon_as_it_is_handed_out_and_for_nothing_once_it_is_revoked(shop: Shop, slow: None) -> None:
    made = await shop.ask("POST", "/v1/keys", {"role": "terminal", "terminal": shop.shown("terminal.till")}, "operator")
    assert (await shop.pay(1000, key=made.body["key"])).status == 201
    assert (await shop.ask("POST", f"/v1/keys/{made.body['id']}/revoke", {"reason": "Lost"}, "operator")).status == 200
    assert (await shop.pay(1000, key=made.body["key"])).status == 401


async def test_the_way_from_a_merchant_to_its_first_sale_has_no_pause(shop: Shop, slow: None) -> None:
    async def made(path: str, body: dict[str, Any]) -> Any:
        answer = await shop.ask("POST", path, body, "operator")
        assert answer.status == 201, answer.raw
        return answer.body

    merchant = (await made("/v1/merchants", {"organisation": (await made("/v1/organisations", {"name": "New"}))["id"], "name": "New shop",
                                             "mcc": "5812", "time_zone": "Asia/Shanghai"}))["id"]
    await made("/v1/routes", {"acquirer": shop.shown("acquirer.single"), "merchant": merchant})
    terminal = (await made("/v1/terminals", {"store": (await made("/v1/stores", {"merchant": merchant, "name": "First"}))["id"], "name": "Till 1"}))["id"]
    key = (await made("/v1/keys", {"role": "terminal", "terminal": terminal}))["key"]
    assert (await shop.pay(1000, key=key)).status == 201


@pytest.mark.parametrize(("method", "path", "status", "waits"), [
    ("POST", "/v1/keys", 201, True), ("PUT", "/v1/breakers", 200, True), ("DELETE", "/v1/webhooks", 204, True), ("POST", "/v1/keys", 422, False),
    ("GET", "/v1/keys", 200, False), ("POST", "/v1/authorizations/txn_1/captures", 201, False), ("POST", "/v1/terminals/trm_1/heartbeats", 200, False),
    ("POST", "/v1/cancellations", 202, False), ("POST", "/v1/advices", 201, False), ("POST", "/v1/refunds", 201, False),
])
async def test_which_answers_wait(method: str, path: str, status: int, waits: bool) -> None:
    said: list[str] = []

    async def rest(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def caught_up() -> None:
        said.append("caught up")

    async def send(message: Any) -> None:
        said.append(message["type"])

    await taken_up(rest, caught_up)({"type": "http", "method": method, "path": path}, None, send)
    assert said == ["caught up"] * waits + ["http.response.start", "http.response.body"]
