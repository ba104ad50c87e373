"""Codes that merchants show, over HTTP: who may make one, what it says, and that its pictures are pictures."""

import base64
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from messages.emvco_qr import parse
from tests.flows import Shop, open_shop
from tests.processes import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("qr_codes")) as opened:
        answer = await opened.ask("PUT", f"/v1/acquirers/{opened.shown('acquirer.single')}/account", {"options": {"qr_guid": "com.example.pay"}}, "operator")
        assert answer.status == 200, answer.body
        await opened.caught_up()
        yield opened


async def make(shop: Shop, key: str = "till", **body: Any) -> Answer:
    return await shop.ask("POST", "/v1/qr-codes", {"currency": "CNY", **body}, key)


async def test_a_terminals_static_code_names_its_merchant_and_account(shop: Shop) -> None:
    answer = await make(shop)
    assert (answer.status, answer.body["method"], answer.body["terminal"]) == (200, "static", shop.shown("terminal.till")), answer.body
    found, terminal = parse(answer.body["payload"]), shop.switch.directory.terminals[shop.ids["terminal.till"]]
    number, acceptor = terminal.numbers[shop.ids["acquirer.single"]]
    assert found["26"] == {"00": "com.example.pay", "01": acceptor.strip(), "02": number.strip()}
    assert (found["52"], found["53"], found["58"], found["59"], found["60"], found["62"]) == ("5812", "156", "CN", "Merchant one", "Shanghai", {"07": number.strip()})
    assert "54" not in found and answer.body["acquirer"] == shop.shown("acquirer.single")
    assert (await make(shop)).body == answer.body


@pytest.mark.parametrize(("amount", "currency", "shown"), [(1250, "CNY", "12.50"), (5, "USD", "0.05"), (700, "JPY", "700"), (1234567, "KWD", "1234.567")])
async def test_a_dynamic_code_is_of_one_sale(shop: Shop, amount: int, currency: str, shown: str) -> None:
    answer = await make(shop, amount=amount, currency=currency, reference="table 4", bill="B-17")
    found = parse(answer.body["payload"])
    assert (answer.body["method"], found["54"], found["62"]["05"], found["62"]["01"]) == ("dynamic", shown, "table 4", "B-17")  # type: ignore[index]


async def test_the_pictures_are_pictures(shop: Shop) -> None:
    body = (await make(shop, amount=1)).body
    assert base64.b64decode(body["png"], validate=True).startswith(b"\x89PNG\r\n\x1a\n")
    assert ET.fromstring(body["svg"]).tag.endswith("svg") and "script" not in body["svg"]


async def test_a_merchant_makes_them_for_its_own_terminals_alone(shop: Shop) -> None:
    own = await make(shop, "merchant.one", terminal=shop.shown("terminal.branch"))
    assert (own.status, own.body["terminal"]) == (200, shop.shown("terminal.branch"))
    for key, terminal in (("merchant.one", shop.shown("terminal.dual")), ("merchant.one", "trm_nothing"), ("till", shop.shown("terminal.branch"))):
        assert (await make(shop, key, terminal=terminal)).status == 404
    assert (await make(shop, "merchant.one")).body["errors"][0]["field"] == "terminal"
    assert (await make(shop, "operator")).status == 403 and (await make(shop, "nobody")).status == 401


async def test_who_has_no_acquirer_for_them_is_told(shop: Shop) -> None:
    assert ((await make(shop, "dual")).body["code"], (await make(shop, "lost")).body["code"]) == ("not_supported", "not_supported")
    assert (await make(shop, acquirer=shop.shown("acquirer.dual"))).body["code"] == "not_supported"


@pytest.mark.parametrize("body", [{"amount": 0}, {"currency": "ZZZ"}, {"reference": "x"}, {"amount": 1, "reference": "x" * 26}, {"amount": 1, "reference": "é"}, {"more": 1}])
async def test_what_a_code_cannot_say_is_refused(shop: Shop, body: dict[str, Any]) -> None:
    answer = await make(shop, **body)
    assert (answer.status, answer.body["code"]) == (422, "invalid"), answer.body


async def test_accounts_are_the_operators(shop: Shop) -> None:
    path = f"/v1/acquirers/{shop.shown('acquirer.single')}/account"
    for key in ("till", "merchant.one"):
        assert (await shop.ask("GET", path, key=key)).status == (await shop.ask("PUT", path, {"options": {}}, key)).status == 403
    shown = await shop.ask("GET", path, key="operator")
    assert shown.body == {"acquirer": shop.shown("acquirer.single"), "dialect": "iso87_ascii", "options": {"qr_guid": "com.example.pay"}, "secret_at": None}
    refused = await shop.ask("PUT", path, {"options": {"colour": "red"}, "secret": "x" * 20}, "operator")
    assert [error["field"] for error in refused.body["errors"]] == ["options.colour", "secret"] and "red" not in refused.raw.decode()
    assert (await shop.ask("PUT", "/v1/acquirers/acq_nothing/account", {"options": {}}, "operator")).status == 404
