"""Keys of people who may less than a merchant's owner or an operator: what they open, and who may give them."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio

from switch.rights import NARROW
from tests.flows import Shop, new_key, open_shop
from tests.test_bad_input import refused


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("roles")) as opened:
        made = await opened.ask("POST", "/v1/keys", {"role": "staff", "store": opened.shown("store.first"), "person": "Zhao Lei"}, "operator")
        assert (made.status, made.body["merchant"], made.body["store"], made.body["issued_by"]) == (
            201, opened.shown("merchant.one"), opened.shown("store.first"), "Flow Tester")
        opened.keys["staff"] = made.body["key"]
        yield opened


async def listed(shop: Shop, path: str, key: str) -> list[str]:
    found = await shop.ask("GET", path, key=key)
    assert found.status == 200, found.raw
    return [item["id"] for item in found.body["items"]]


async def test_staff_see_what_their_store_sold_and_nothing_of_another(shop: Shop) -> None:
    here, there = [(await shop.pay(1234, key=till)).body["id"] for till in ("neighbour", "branch")]
    seen = await listed(shop, "/v1/transactions?limit=200", "staff")
    assert here in seen and there not in seen and there in await listed(shop, "/v1/transactions?limit=200", "merchant.one")
    for path in ("/v1/transactions/{}", "/v1/authorizations/{}", "/v1/transactions/{}/story", "/v1/transactions/{}/receipt"):
        assert (await shop.ask("GET", path.format(here), key="staff")).status == 200
        refused(await shop.ask("GET", path.format(there), key="staff"), 404, "not_found")
    refused(await shop.ask("GET", f"/v1/transactions?store={shop.shown('store.second')}", key="staff"), 404, "not_found")
    async with httpx.AsyncClient(base_url=shop.base, timeout=20) as client:
        csv = (await client.get("/v1/transactions?format=csv", headers={"authorization": f"Bearer {shop.keys['staff']}"})).text
    assert here in csv and there not in csv


async def test_staff_move_no_money_and_see_none_of_the_merchants(shop: Shop) -> None:
    sale = (await shop.pay(1300, key="till")).body["id"]
    for path, body in ((f"/v1/authorizations/{sale}/voids", {}), ("/v1/refunds", {"original": sale, "amount": 100, "currency": "CNY"}),
                       ("/v1/authorizations", {}), ("/v1/exports", {}), ("/v1/webhooks", {})):
        answer = await shop.ask("POST", path, body, "staff", Idempotency_Key=new_key())
        assert (answer.status, answer.body["code"]) == (403, "forbidden"), (path, answer.raw)
    for path in ("/v1/balance", "/v1/settlements", "/v1/payouts", "/v1/keys", "/v1/alerts", "/v1/contracts", f"/v1/merchants/{shop.shown('merchant.one')}"):
        refused(await shop.ask("GET", path, key="staff"), 403, "forbidden")


async def test_owner_and_staff_read_their_own_stores_and_terminals(shop: Shop) -> None:
    def of(*names: str) -> set[str]:
        return {shop.shown(name) for name in names}

    tills = {"staff": of("terminal.till", "terminal.neighbour"), "merchant.one": of("terminal.till", "terminal.neighbour", "terminal.branch"),
             "merchant.two": of("terminal.dual")}
    stores = {"staff": of("store.first"), "merchant.one": of("store.first", "store.second"), "merchant.two": of("store.two")}
    for key in tills:
        assert (set(await listed(shop, "/v1/terminals", key)), set(await listed(shop, "/v1/stores", key))) == (tills[key], stores[key])
    assert set(await listed(shop, f"/v1/terminals?store={shop.shown('store.second')}", "merchant.one")) == of("terminal.branch")
    for query in (f"store={shop.shown('store.two')}", f"merchant={shop.shown('merchant.two')}"):
        refused(await shop.ask("GET", f"/v1/terminals?{query}", key="merchant.one"), 404, "not_found")
    refused(await shop.ask("GET", f"/v1/terminals?store={shop.shown('store.second')}", key="staff"), 404, "not_found")
    for path, key, status in ((f"/v1/terminals/{shop.shown('terminal.branch')}", "staff", 404), (f"/v1/stores/{shop.shown('store.second')}", "staff", 404),
                              (f"/v1/terminals/{shop.shown('terminal.branch')}", "merchant.one", 200), ("/v1/terminals", "till", 403),
                              (f"/v1/terminals/{shop.shown('terminal.branch')}", "merchant.two", 404), (f"/v1/stores/{shop.shown('store.first')}", "staff", 200),
                              (f"/v1/terminals/{shop.shown('terminal.branch')}/batches", "staff", 404),
                              (f"/v1/terminals/{shop.shown('terminal.neighbour')}/batches", "staff", 200)):
        assert (await shop.ask("GET", path, key=key)).status == status, (path, key)
    assert len(await listed(shop, "/v1/terminals?limit=200", "operator")) >= 6


async def test_staff_open_tickets_of_their_store(shop: Shop) -> None:
    asked = {"subject": "No paper", "text": "The printer says no.", "severity": "low", "category": "terminal"}
    made = await shop.ask("POST", "/v1/tickets", {**asked, "terminal": shop.shown("terminal.till")}, "staff")
    assert (made.status, made.body["opened_by"]) == (201, shop.shown("store.first")), made.raw
    assert (await shop.ask("POST", "/v1/tickets", {**asked, "terminal": shop.shown("terminal.branch")}, "staff")).status in (404, 422)
    whole = await shop.ask("POST", "/v1/tickets", {**asked, "terminal": shop.shown("terminal.branch")}, "merchant.one")
    assert made.body["id"] in await listed(shop, "/v1/tickets", "staff") and whole.body["id"] not in await listed(shop, "/v1/tickets", "staff")
    refused(await shop.ask("GET", f"/v1/tickets/{whole.body['id']}", key="staff"), 404, "not_found")


PEOPLE = ("operator", "support", "reviewer", "administrator")


@pytest.mark.parametrize("role", PEOPLE)
async def test_keys_of_people_are_given_and_revoked_by_administrators_alone(shop: Shop, role: str) -> None:
    asked = {"role": role, "person": "Wu Min"}
    refused(await shop.ask("POST", "/v1/keys", asked, "operator"), 403, "forbidden")
    made = await shop.ask("POST", "/v1/keys", asked, "administrator")
    assert (made.status, made.body["role"], made.body["issued_by"]) == (201, role, "Flow Administrator"), made.raw
    refused(await shop.ask("POST", f"/v1/keys/{made.body['id']}/revoke", key="operator"), 403, "forbidden")
    shop.keys["new"] = made.body["key"]
    await shop.caught_up()
    assert (await shop.ask("GET", "/v1/help-articles", key="new")).status == 200
    assert (await shop.ask("POST", f"/v1/keys/{made.body['id']}/revoke", key="administrator")).status == 200
    refused(await shop.ask("GET", "/v1/help-articles", key="new"), 401, "unauthenticated")


async def test_an_operator_may_end_the_own_key_and_those_of_merchants(shop: Shop) -> None:
    async def given(by: str, **asked: str) -> str:
        made = await shop.ask("POST", "/v1/keys", asked, by)
        shop.keys["new"] = made.body["key"]
        await shop.caught_up()
        return str(made.body["id"])

    key_id = await given("administrator", role="operator", person="Wu Min")
    assert (await shop.ask("POST", f"/v1/keys/{key_id}/revoke", key="new")).status == 200
    for asked in ({"role": "merchant", "merchant": shop.shown("merchant.two")}, {"role": "terminal", "terminal": shop.shown("terminal.dual")},
                  {"role": "staff", "store": shop.shown("store.two"), "person": "Sun Li"}):
        key_id = await given("operator", **asked)
        assert (await shop.ask("POST", f"/v1/keys/{key_id}/revoke", key="operator")).status == 200


@pytest.mark.parametrize("asked", [
    {"role": "staff", "person": "Wu Min"}, {"role": "staff", "store": "sto_01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"},
    {"role": "merchant", "store": "sto_01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"}, {"role": "reviewer"}, {"role": "owner", "person": "Wu Min"}])
async def test_a_key_is_for_what_its_role_names(shop: Shop, asked: dict[str, Any]) -> None:
    refused(await shop.ask("POST", "/v1/keys", asked, "administrator"), 422, "invalid")


async def test_reviewers_and_administrators_have_their_routes_alone(shop: Shop) -> None:
    made = await shop.ask("POST", "/v1/keys", {"role": "reviewer", "person": "Wu Min"}, "administrator")
    shop.keys["reviewer"] = made.body["key"]
    await shop.caught_up()
    own = {"reviewer": ("/v1/reviews", "/v1/applications", f"/v1/licences?merchant={shop.shown('merchant.one')}"), "administrator": ("/v1/keys", "/v1/terminals", "/v1/merchants", "/v1/alerts")}
    others = ("/v1/transactions", "/v1/settlements", "/v1/reversals", "/v1/routes", "/v1/links", "/v1/crypto-keys", "/v1/payouts", "/v1/risk-rules")
    for role, paths in own.items():
        for path in paths:
            assert (await shop.ask("GET", path, key=role)).status == 200, (role, path)
        for path in others:
            refused(await shop.ask("GET", path, key=role), 403, "forbidden")
    refused(await shop.ask("GET", "/v1/keys", key="reviewer"), 403, "forbidden")
    async with httpx.AsyncClient(base_url=shop.base, timeout=20) as client:  # HEAD is as GET, also for who may
        for role, status in (("administrator", 200), ("reviewer", 403)):
            assert (await client.head("/v1/keys", headers={"authorization": f"Bearer {shop.keys[role]}"})).status_code == status
    refused(await shop.ask("GET", "/v1/reviews", key="administrator"), 403, "forbidden")


async def test_every_route_of_a_narrow_role_is_there(shop: Shop) -> None:
    paths = (await shop.ask("GET", "/openapi.json", key="operator")).body["paths"]
    there = {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}
    assert {route for narrow in NARROW.values() for route in narrow.routes} - there == set()


@pytest.mark.parametrize("values", [
    "'f1234567', 'staff', (SELECT merchant_id FROM store LIMIT 1), NULL, 'Wu Min'", "'f1234568', 'staff', NULL, NULL, 'Wu Min'",
    "'r1234567', 'reviewer', (SELECT merchant_id FROM store LIMIT 1), NULL, 'Wu Min'", "'r1234568', 'reviewer', NULL, NULL, NULL",
    "'d1234567', 'administrator', NULL, NULL, NULL", "'x1234567', 'owner', NULL, NULL, 'Wu Min'",
    "'m1234567', 'merchant', (SELECT merchant_id FROM store LIMIT 1), (SELECT store_id FROM store LIMIT 1), NULL",
    "'f1234569', 'staff', (SELECT max(merchant_id::text)::uuid FROM store), (SELECT store_id FROM store ORDER BY merchant_id::text LIMIT 1), 'Wu Min'"])
async def test_the_database_refuses_a_key_that_is_for_nobody_or_for_too_much(shop: Shop, values: str) -> None:
    with pytest.raises((asyncpg.CheckViolationError, asyncpg.ForeignKeyViolationError)):
        await shop.sql(f"INSERT INTO api_key (secret_digest, key_id, role, merchant_id, store_id, person) VALUES (decode(repeat('00', 32), 'hex'), {values})")
