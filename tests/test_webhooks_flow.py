"""Webhooks over real HTTP: what is sold is told to a receiver of the test, signed, again after failures, and not after it is gone."""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from switch.notices import delivery
from tests.conftest import create_database
from tests.flows import Shop, eventually, open_shop
from tests.processes import run
from tests.receivers import Receiver, hangs, receiver, says
from tests.test_webhooks import genuine

WITHIN_S = 15.0
AGAIN_NOW = "UPDATE webhook_delivery SET next_attempt_at = now() WHERE state = 'due'"


@pytest_asyncio.fixture
async def shop(cluster_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    async with open_shop(await create_database(cluster_url), tmp_path, SWITCH_WEBHOOK_TARGETS="any") as opened:
        yield opened


class Hook:
    """An endpoint of merchant one at a receiver."""

    def __init__(self, shop: Shop, made: Any) -> None:
        self.shop, self.id, self.secret, self.place = shop, made["id"], made["secret"], f"/v1/webhooks/{made['id']}"

    async def ask(self, method: str, rest: str = "", body: object = None, status: int = 200) -> Any:
        answer = await self.shop.ask(method, self.place + rest, body, "merchant.one")
        assert answer.status == status, answer.raw
        return answer.body

    async def test(self) -> str:
        return str((await self.ask("POST", "/test", {}, 202))["id"])

    async def deliveries(self) -> Any:
        return (await self.ask("GET", "/deliveries?limit=200"))["items"]

    async def ended(self, count: int) -> Any:
        """The deliveries, as soon as that many have ended and none is due."""
        async def reached() -> Any:
            items = await self.deliveries()
            return items if len(items) >= count and all(item["state"] != "due" for item in items) else None

        return await eventually(reached, f"not {count} that have ended", WITHIN_S)

    async def attempted(self, event: str, count: int) -> Any:
        async def reached() -> Any:
            found = await self.ask("GET", f"/deliveries/{event}")
            return found if len(found["log"]) >= count else None

        return await eventually(reached, f"{event} was not attempted {count} times", WITHIN_S)


async def hook(shop: Shop, at: Receiver, *types: str) -> Hook:
    made = await shop.ask("POST", "/v1/webhooks", {"url": at.url, "types": list(types or ("*",))}, "merchant.one")
    assert made.status == 201, made.raw
    return Hook(shop, made.body)


async def came(at: Receiver, count: int) -> None:
    async def reached() -> bool:
        return len(at.got) >= count

    await eventually(reached, f"not {count} came", WITHIN_S)


def kinds(at: Receiver) -> Counter[tuple[str, str]]:
    """(type, object) of what came."""
    return Counter((got.body["type"], got.body["data"]["id"]) for got in at.got)


async def test_sales_are_told_signed_and_told_again_after_a_failure_until_the_receiver_is_gone(shop: Shop, tmp_path: Path) -> None:
    async with receiver() as till:
        till.script.append(says(500, b"4111 1111 1111 1111 hey"))
        endpoint = await hook(shop, till)
        assert (await shop.ask("GET", endpoint.place, key="merchant.two")).status == 404
        approved, declined = (await shop.pay(10000)).body["id"], (await shop.pay(10051)).body["id"]
        await came(till, 3)
        assert set(kinds(till)) == {("transaction.approved", approved), ("transaction.declined", declined)}
        assert all(genuine([endpoint.secret], got.headers, got.raw) for got in till.got)
        assert len(set(till.ids())) == 2 and {got.raw for got in till.got if got.headers["webhook-id"] == till.ids()[0]} == {till.got[0].raw}
        (again,) = [item for item in await endpoint.ended(2) if item["attempts"] == 2]
        log = (await endpoint.ask("GET", f"/deliveries/{again['id']}"))["log"]
        assert [each["status"] for each in log] == [200, 500] and "4111" not in json.dumps(log)

        till.script.append(says(410))
        await endpoint.test()
        assert {item["state"] for item in await endpoint.ended(3)} == {"delivered", "failed"}
        assert (await endpoint.ask("GET"))["disabled_reason"] == "gone"
        assert [row["object"] for row in await shop.sql("SELECT object FROM alert WHERE kind = 'webhook_disabled'")] == [endpoint.id]
        listed = await asyncio.to_thread(run, tmp_path / "home", "webhooks", "--url", shop.base, "--key", shop.keys["operator"])
        assert listed.code == 0 and listed.out.startswith(f"{endpoint.id}  disabled ") and f"(gone)  last 410  {till.url}" in listed.out, listed
        count = len(till.got)
        await shop.pay(10000)
        await asyncio.sleep(3)
        assert len(till.got) == count
        await endpoint.ask("POST", "/test", {}, 409)


async def test_the_body_is_what_the_transaction_says_and_another_merchant_is_told_nothing(shop: Shop) -> None:
    async with receiver() as till, receiver() as foreign:
        await hook(shop, till)
        assert (await shop.ask("POST", "/v1/webhooks", {"url": foreign.url, "types": ["*"]}, "merchant.two")).status == 201
        shown = (await shop.pay(12300, reference="order-1")).body
        await came(till, 1)
        body = till.got[0].body
        assert {name: body["data"][name] for name in ("id", "amount", "approved_amount", "currency", "rrn", "approval_code", "reference", "store", "terminal")} == {
            "id": shown["id"], "amount": 12300, "approved_amount": 12300, "currency": "CNY", "rrn": shown["rrn"], "approval_code": shown["approval_code"],
            "reference": "order-1", "store": shop.shown("store.first"), "terminal": shop.shown("terminal.till")}
        assert body["data"]["card"]["masked_pan"] == shown["card"]["masked_pan"] and "6212345678900000003" not in till.got[0].raw.decode()
        await asyncio.sleep(2.5)
        assert not foreign.got


async def test_a_busy_receiver_is_left_alone_for_as_long_as_it_asks(shop: Shop) -> None:
    async with receiver() as till:
        endpoint = await hook(shop, till, "webhook.test")
        till.script.append(says(429, Retry_After="3600"))
        await endpoint.attempted(await endpoint.test(), 1)
        await endpoint.test()
        await asyncio.sleep(1)
        assert len(till.got) == 1, "nothing else goes there meanwhile"
        (row,) = await shop.sql("SELECT resume_at - now() AS left FROM webhook_endpoint WHERE state = 'enabled' AND resume_at IS NOT NULL")
        assert timedelta(minutes=59) < row["left"] <= timedelta(hours=1)
        await shop.sql("UPDATE webhook_endpoint SET resume_at = now() WHERE resume_at IS NOT NULL")
        await shop.sql(AGAIN_NOW)
        assert [item["state"] for item in await endpoint.ended(2)] == ["delivered", "delivered"]


async def test_a_secret_is_rotated_while_both_sign_and_then_the_old_one_no_longer(shop: Shop) -> None:
    async with receiver() as till:
        endpoint = await hook(shop, till, "webhook.test")
        new = (await endpoint.ask("POST", "/secret", {}))["secret"]
        assert new != endpoint.secret and len(base64.b64decode(new.removeprefix("whsec_"))) == 32
        assert "secret" not in await endpoint.ask("GET")
        await endpoint.test()
        await came(till, 1)
        assert len(till.got[0].headers["webhook-signature"].split(" ")) == 2
        assert all(genuine([secret], till.got[0].headers, till.got[0].raw) for secret in (new, endpoint.secret))
        await shop.sql("UPDATE webhook_endpoint SET old_secret_until = now() WHERE old_secret_until IS NOT NULL")
        await endpoint.test()
        await came(till, 2)
        assert genuine([new], till.got[1].headers, till.got[1].raw) and not genuine([endpoint.secret], till.got[1].headers, till.got[1].raw)


async def test_a_delivery_is_sent_again_by_hand_under_the_same_id_and_not_while_one_is_on_its_way(shop: Shop) -> None:
    async with receiver() as till:
        endpoint = await hook(shop, till, "webhook.test")
        event = await endpoint.test()
        await endpoint.ended(1)
        assert (await endpoint.ask("GET"))["last_status"] == 200, "an endpoint that never failed says so"
        assert (await endpoint.ask("POST", f"/deliveries/{event}/redeliver", {}, 202))["state"] == "due"
        log = (await endpoint.attempted(event, 2))["log"]
        assert [each["number"] for each in log] == [2, 1] and till.ids() == [event, event] and till.got[0].raw == till.got[1].raw
        till.usual = hangs
        await endpoint.ask("POST", f"/deliveries/{event}/redeliver", {}, 202)
        await came(till, 3)
        await endpoint.ask("POST", f"/deliveries/{event}/redeliver", {}, 409)
        for place in (f"/deliveries/{event}", f"/deliveries/{event}/redeliver", "", "/secret", "/test"):
            method = "GET" if place in ("", f"/deliveries/{event}") else "POST"
            assert (await shop.ask(method, endpoint.place + place, None if method == "GET" else {}, "merchant.two")).status == 404


async def test_an_endpoint_that_failed_for_five_days_is_disabled_and_told_again_once_it_is_enabled(shop: Shop) -> None:
    async with receiver(says(500)) as till:
        endpoint = await hook(shop, till, "webhook.test", "transaction.approved")
        await endpoint.attempted(await endpoint.test(), 1)
        other = await endpoint.test()
        await endpoint.attempted(other, 1)
        assert (await endpoint.ask("GET"))["state"] == "enabled"
        await shop.sql("UPDATE webhook_endpoint SET failing_since = now() - interval '5 days' WHERE failing_since IS NOT NULL")
        await shop.sql(AGAIN_NOW)
        assert {item["last_fault"] or item["last_status"] for item in await endpoint.ended(2)} <= {500, "endpoint_disabled"}
        shown = await endpoint.ask("GET")
        assert (shown["state"], shown["disabled_reason"], shown["last_status"]) == ("disabled", "failing", 500)
        assert await shop.sql("SELECT 1 FROM alert WHERE kind = 'webhook_disabled' AND object = $1", endpoint.id)
        await shop.pay(10000)
        till.usual = says(200)
        till.got.clear()
        await endpoint.ask("PATCH", "", {"enabled": True})
        await asyncio.sleep(1.1)  # what happened within a second of it may be told: clocks of two machines
        sold = (await shop.pay(10000)).body["id"]

        async def told() -> bool:
            return ("transaction.approved", sold) in kinds(till)

        await eventually(told, "not told", WITHIN_S)


async def test_two_workers_send_nothing_twice_and_keep_to_what_an_endpoint_takes_at_once(shop: Shop) -> None:
    await shop.start(alone=False)
    async with receiver() as till:
        async def slow(writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.1 + 0.15 * (len(till.got) % 4))  # so that places become free one by one
            await says(200)(writer)

        till.usual = slow
        endpoint = await hook(shop, till, "webhook.test")
        events = [await endpoint.test() for _ in range(30)]
        await endpoint.ended(30)
        assert Counter(till.ids()) == Counter(events)
        assert 1 < till.open_most <= 4


async def test_an_endpoint_gets_no_more_in_a_second_than_its_pace(shop: Shop) -> None:
    async with receiver() as till:
        times: list[float] = []

        async def quick(writer: asyncio.StreamWriter) -> None:
            times.append(asyncio.get_running_loop().time())
            await says(200)(writer)

        till.usual = quick
        endpoint = await hook(shop, till, "webhook.test")
        first = await endpoint.test()
        await endpoint.ended(1)
        await shop.sql("UPDATE webhook_endpoint SET per_second = 10 WHERE url = $1", till.url)
        await shop.sql("INSERT INTO webhook_event SELECT merchant_id, gen_random_uuid(), type, n::text, happened_at, body FROM webhook_event, generate_series(1, 39) n "
                       "WHERE event_id = $1", UUID(first[4:]))
        await shop.sql("INSERT INTO webhook_delivery (merchant_id, endpoint_id, event_id) SELECT e.merchant_id, $1, e.event_id FROM webhook_event e WHERE e.object <> $2",
                       UUID(endpoint.id[4:]), first)
        await came(till, 40)
        assert times[-1] - times[1] > (39 - 10) / 10 * 0.9, "a second's worth at once, the rest at its pace"


async def test_receivers_that_hang_do_not_hold_up_one_that_answers(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "PLACES", 6)
    monkeypatch.setattr(delivery, "PLACES_FAILING", 3)
    async with receiver(hangs) as bad, receiver() as good:
        hanging = [await hook(shop, bad, "webhook.test") for _ in range(6)]
        await shop.sql("UPDATE webhook_endpoint SET failing_since = now() WHERE url = $1", bad.url)
        for each in hanging:
            await each.test()
        await came(bad, 3)
        answering = await hook(shop, good, "webhook.test")
        began = asyncio.get_running_loop().time()
        for _ in range(10):
            await answering.test()
        await came(good, 10)
        assert asyncio.get_running_loop().time() - began < 5
        assert bad.open == 3, "of the hanging ones no more than their share"


async def test_an_endpoint_is_checked_when_it_is_saved_and_is_the_merchant_s_alone(database_url: str, tmp_path: Path) -> None:
    async with open_shop(database_url, tmp_path) as shop, receiver() as inside:
        for url in (inside.url, "https://127.0.0.1/", "https://localhost/", "https://[::1]/", "https://10.0.0.1/x", "https://169.254.169.254/latest"):
            answer = await shop.ask("POST", "/v1/webhooks", {"url": url, "types": ["*"]}, "merchant.one")
            assert answer.status == 422 and answer.body["errors"][0]["field"] == "url", answer.raw
            assert url.encode() not in answer.raw
        wanted: dict[str, Any] = {"url": "https://1.1.1.1/x", "types": ["transaction.aproved"]}
        assert (await shop.ask("POST", "/v1/webhooks", wanted, "merchant.one")).status == 422
        assert (await shop.ask("POST", "/v1/webhooks", wanted | {"types": ["*"], "description": "card 4111 1111 1111 1111"}, "merchant.one")).status == 422
        for key in ("till", "operator"):
            assert (await shop.ask("POST", "/v1/webhooks", wanted | {"types": ["*"]}, key)).status == 403
        assert not inside.open_most


async def test_a_merchant_has_at_most_twenty_and_one_more_once_one_is_disabled(shop: Shop) -> None:
    async with receiver() as till:
        made = [(await shop.ask("POST", "/v1/webhooks", {"url": till.url, "types": ["*"]}, "merchant.three")) for _ in range(21)]
        assert [answer.status for answer in made] == [201] * 20 + [409]
        first = f"/v1/webhooks/{made[0].body['id']}"
        assert (await shop.ask("DELETE", first, key="merchant.three")).body["disabled_reason"] == "merchant"
        assert (await shop.ask("POST", "/v1/webhooks", {"url": till.url, "types": ["*"]}, "merchant.three")).status == 201
        assert (await shop.ask("PATCH", first, {"enabled": True}, "merchant.three")).status == 409
