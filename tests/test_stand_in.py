"""Standing in for an acquirer that cannot be reached: which sales, by rules alone; and over HTTP, with the line taken down and given back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from messages.dialect import load
from switch.payments.stand_in import against
from switch.payments.translation import Emv, Order
from switch.records import StandInTerms
from switch.security.pan import Pan, PaymentCode, Secret
from tests.flows import ROUTE, Shop, eventually, new_key, open_shop
from tests.processes import Answer

TERMS = StandInTerms(True, "CNY", 5000, 12_000, 3, frozenset({"chip", "contactless"}))
ORDER = Order("purchase", 5000, "CNY", "automatic", "refuse", 0, 0, "chip", Pan("6212345678900000003"), "3012", None, None, None, None, None, None,
              None)
SAID = {"currency": "CNY", "sale_amount": 5000, "day_amount": 12_000, "day_count": 4, "reason": "Agreed for the tests"}


@pytest.mark.parametrize(("changed", "reason"), [
    ({}, ""), ({"entry_mode": "contactless"}, ""), ({"emv": Emv("9F270180", "")}, ""), ({"emv": Emv("9F270140", "")}, ""),
    ({"amount": 5001}, "sale_amount"), ({"amount": 0}, "no_plain_purchase"), ({"currency": "USD"}, "currency"),
    ({"pin_block": Secret("0123456789ABCDEF")}, "pin_online"), ({"emv": Emv("9F270100", "")}, "declined_by_card"),
    ({"entry_mode": "magstripe"}, "entry_mode"), ({"entry_mode": "manual"}, "entry_mode"), ({"entry_mode": "fallback"}, "entry_mode"),
    ({"pan": PaymentCode("621234567890123456"), "entry_mode": "qr"}, "no_card"), ({"cashback_amount": 100}, "no_plain_purchase"),
    ({"capture_method": "manual"}, "no_plain_purchase"), ({"type": "preauthorization"}, "no_plain_purchase"), ({"type": "refund"}, "no_plain_purchase"),
    ({"type": "cash_advance"}, "no_plain_purchase"), ({"type": "balance_inquiry"}, "no_plain_purchase"),
])
def test_nobody_stands_in_for_a_sale_that_its_terms_do_not_name(changed: dict[str, Any], reason: str) -> None:
    assert against(ORDER._replace(**changed), TERMS, load("iso87_ascii")) == reason


def test_nobody_stands_in_without_terms_or_without_a_message_that_says_it() -> None:
    house = load("iso87_ascii")
    assert against(ORDER, None, house) == "no_terms"
    mute = replace(house, messages={verb: rule for verb, rule in house.messages.items() if verb != "offline_sale"})
    assert against(ORDER, TERMS, mute) == "no_advice"


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("stand_in")) as shop:
        yield shop


def path(shop: Shop, name: str = "single") -> str:
    return f"/v1/acquirers/{shop.shown(f'acquirer.{name}')}/stand-in"


async def terms(shop: Shop, name: str = "single", **said: Any) -> Any:
    answer = await shop.ask("PUT", path(shop, name), SAID | said, key="operator")
    assert answer.status == 200, answer.raw
    await shop.caught_up()
    return answer.body


async def off(shop: Shop, name: str = "single", **said: Any) -> None:
    answer = await shop.ask("POST", f"{path(shop, name)}/off", {"reason": "The test is over", **said}, key="operator")
    assert answer.status == 200, answer.raw
    await shop.caught_up()


async def lines(shop: Shop, name: str, port: int, *others: Shop) -> None:
    path = f"/v1/acquirers/{shop.shown(f'acquirer.{name}')}/lines"
    (first,) = (await shop.ask("GET", path, key="operator")).body["items"]
    assert (await shop.ask("PATCH", f"{path}/{first['id']}", {"port": port}, key="operator")).status == 200

    async def reached() -> bool:
        found = [each.switch.links.get(shop.ids[f"acquirer.{name}"]) for each in (shop, *others)]
        return all((link is not None and link.usable()) == (port > 1) for link in found)

    await eventually(reached, f"the line to {port} is not as it should be")


async def nothing_owed(shop: Shop) -> bool:
    return await shop.sql("SELECT 1 FROM duty WHERE kind = 'advice' AND state = 'open'") == []


@asynccontextmanager
async def away(shop: Shop, name: str = "single", *others: Shop) -> AsyncIterator[None]:
    """The acquirer cannot be reached by any of these workers; what is owed to it waits."""
    await eventually(lambda: nothing_owed(shop), "an advice of an earlier test is still owed")
    await lines(shop, name, 1, *others)  # where nobody listens
    try:
        yield
    finally:
        await lines(shop, name, (shop.dual if name == "dual" else shop.host).port, *others)


@asynccontextmanager
async def standing_in(shop: Shop, name: str = "single", **said: Any) -> AsyncIterator[None]:
    """With fresh room in the day."""
    await shop.sql("DELETE FROM stand_in_day")
    await terms(shop, name, **said)
    yield
    await off(shop, name, **{key: said[key] for key in ("merchant", "brand") if key in said})


async def stood_in(shop: Shop, amount: int, key: str | None = None, till: str = "till", **changed: Any) -> Answer:
    answer = await shop.pay(amount, key, till, **changed)
    assert (answer.status, answer.body.get("approved_by")) == (201, "stand_in"), answer.raw
    return answer


async def follow(shop: Shop, verb: str, shown_id: str, till: str, **said: Any) -> Answer:
    at, body = ("/v1/refunds", {"authorization": shown_id, **said}) if verb == "refunds" else (f"{ROUTE}/{shown_id}/{verb}", said)
    return await shop.ask("POST", at, body, till, Idempotency_Key=new_key())


async def taken(shop: Shop) -> tuple[int, int]:
    days = (await shop.ask("GET", path(shop), key="operator")).body["days"]
    return sum(day["amount"] for day in days), sum(day["count"] for day in days)


async def acknowledged(shop: Shop, shown_id: str) -> bool:
    return (await shop.row(shown_id))["state"] == "APPROVED"


async def test_it_is_off_until_terms_say_otherwise_and_again_when_they_end(shop: Shop) -> None:
    key = new_key()
    async with away(shop):
        refused = await shop.pay(1100, key)
        assert (refused.status, refused.body["code"], refused.body["processed"]) == (503, "acquirer_unavailable", False)
    async with standing_in(shop), away(shop):
        assert (await stood_in(shop, 1100, key)).body["status"] == "approved"  # nothing was kept of the refusal
    async with away(shop):
        assert (await shop.pay(1200)).status == 503


@pytest.mark.parametrize("till", ["till", "dual"])
async def test_a_sale_is_told_as_approved_when_durable_and_said_to_its_acquirer_when_that_is_back(shop: Shop, till: str) -> None:
    name, key, host = "dual" if till == "dual" else "single", new_key(), shop.host_of(till)
    async with standing_in(shop, name):
        async with away(shop, name):
            answer = await stood_in(shop, 2100, key, till)
            body = answer.body
            assert (body["status"], body["payment_status"], body["approved_amount"], body["amounts"]["captured"]) == ("approved", "captured", 2100, 2100)
            assert body["approval_code"].startswith("S") and body["response_code"] is None
            again = await shop.pay(2100, key, till)
            assert again.raw == answer.raw and again.headers["idempotent-replayed"] == "true"
            now = await shop.get(body["id"])
            assert (now["status"], now["approved_by"], now["amounts"]["left_to_refund"]) == ("approved", "stand_in", 0)
            for verb in ("refunds", "voids"):
                waits = await follow(shop, verb, body["id"], till)
                assert (waits.status, waits.body["code"], waits.headers["retry-after"]) == (409, "follow_up_open", "5"), waits.raw
            assert await host.received(body["rrn"]) == []
            await host.order("silence", match={"0": "0220"})
        await eventually(lambda: acknowledged(shop, body["id"]), "it is not said")
    assert [message["0"] for message in await host.received(body["rrn"])] == ["0220", "0221"]
    assert (await host.received(body["rrn"]))[0]["38"].strip() == body["approval_code"]
    assert await host.effect(body["rrn"]) == (2100, 0)
    assert (await shop.pay(2100, key, till)).raw == answer.raw
    row = await shop.row(body["id"])
    assert (row["captured"], row["authorised"], row["approved_amount"]) == (2100, 2100, 2100)
    refund = await follow(shop, "refunds", body["id"], till, amount=100)
    assert (refund.status, refund.body["status"]) == (201, "approved"), refund.raw
    capture = await follow(shop, "captures", body["id"], till, amount=100)
    assert (capture.status, capture.body["code"]) == (409, "not_capturable")
    found = await shop.sql("SELECT kind, amount, business_date FROM reconciliation_movement WHERE transaction_id = $1", UUID(body["id"][4:]))
    assert [(each["kind"], each["amount"], each["business_date"]) for each in found] == [("sale", 2100, row["business_date"])]


async def test_what_the_acquirer_declines_afterwards_is_an_alert_and_a_loss_and_stays_as_it_was_told(shop: Shop) -> None:
    key = new_key()
    async with standing_in(shop):
        async with away(shop):
            answer = await stood_in(shop, 2200, key)
            await shop.host.order("code", "51", {"0": "0220"})
        now = await shop.until(answer.body["id"], "declined")
        assert await taken(shop) == (2200, 1), "what was risked stays counted"
    assert (now["approved_by"], now["amounts"]["captured"], now["reversal"]) == ("stand_in", 0, None)
    assert (await shop.pay(2200, key)).raw == answer.raw
    (loss,) = await shop.sql("SELECT * FROM merchant_loss WHERE transaction_id = $1", UUID(answer.body["id"][4:]))
    assert (loss["amount"], loss["type"], loss["response_code"].strip()) == (2200, "purchase", "51")
    alerts = (await shop.ask("GET", "/v1/alerts", key="operator")).body["items"]
    assert [alert["kind"] for alert in alerts if alert["object"] == answer.body["id"]] == ["stand_in_declined"]
    assert [message["0"] for message in await shop.host.received(answer.body["rrn"])] == ["0220"]
    assert "which then declined it" in (await shop.story(answer.body["id"]))["in_short"]


@pytest.mark.parametrize("said_before", [False, True])
async def test_cancelled_by_its_key_it_is_reversed_and_its_part_of_the_day_given_back(shop: Shop, said_before: bool) -> None:
    key = new_key()
    async with standing_in(shop):
        async with away(shop):
            answer = await stood_in(shop, 2300, key)
            if not said_before:
                cancelled = await shop.cancel(key)
                assert (cancelled.status, cancelled.body["status"]) == (202, "reversing"), cancelled.raw
                assert (await shop.pay(2300, key)).status == 202
                assert await taken(shop) == (2300, 1), "not before it is known that nothing stands"
        if said_before:
            await eventually(lambda: acknowledged(shop, answer.body["id"]), "it is not said")
            assert (await shop.cancel(key)).body["status"] == "reversing"
        else:  # "not found" is believed when nothing of it can arrive any more: its time is brought forward
            await shop.sql("UPDATE duty SET not_found_at = now() - interval '2 minutes', next_attempt_at = now() WHERE transaction_id = $1",
                           UUID(answer.body["id"][4:]))
            await shop.host.order("code", "00", {"0": "0420"})
            await shop.host.order("code", "00", {"0": "0421"})
        await shop.until(answer.body["id"], "reversed")
        assert await taken(shop) == (0, 0)
        await shop.host.forget()
    received = [message["0"] for message in await shop.host.received(answer.body["rrn"])]
    assert [mti for mti in received if mti[:2] == "02"] == (["0220"] if said_before else []), "never said after it was cancelled"
    assert await shop.host.effect(answer.body["rrn"]) == (0, 0)


async def test_the_limits_of_a_sale_and_of_a_day_hold_and_particular_terms_go_first(shop: Shop) -> None:
    async with standing_in(shop, sale_amount=3000, day_amount=7000, day_count=3), away(shop):
        assert (await shop.pay(3001)).body["code"] == "acquirer_unavailable"
        for amount in (2900, 2901):
            await stood_in(shop, amount)
        assert (await shop.pay(2902)).status == 503, "the amount of the day"
        assert (await shop.pay(1000, card={"entry_mode": "magstripe", "pan": "6212345678900000003", "expiry": "3012"})).status == 503
        assert (await shop.pay(100, type="preauthorization", capture_method="manual")).status == 503
        await stood_in(shop, 101)
        assert (await shop.pay(102)).status == 503, "the count of the day"
        assert await taken(shop) == (5902, 3)
        await terms(shop, merchant=shop.shown("merchant.one"), brand="unionpay")
        await off(shop, merchant=shop.shown("merchant.one"), brand="unionpay")
        await shop.sql("DELETE FROM stand_in_day")
        assert (await shop.pay(103)).status == 503, "the merchant's own terms say no"
        await terms(shop, merchant=shop.shown("merchant.one"), brand="unionpay", sale_amount=200, day_amount=200)
        await stood_in(shop, 104)
        assert (await shop.pay(105)).status == 503
    listed = (await shop.ask("GET", path(shop), key="operator")).body["items"]
    assert [(each["merchant"], each["brand"], each["state"], each["created_by"]) for each in listed] == [
        (shop.shown("merchant.one"), "unionpay", "on", "Flow Tester"), (None, "*", "off", "Flow Tester")]
    await off(shop, merchant=shop.shown("merchant.one"), brand="unionpay")
    await terms(shop, merchant=shop.shown("merchant.one"), brand="unionpay", sale_amount=5000)


async def test_a_sale_that_looks_like_one_that_stands_and_one_that_rules_refuse_are_not_approved(shop: Shop) -> None:
    async with standing_in(shop, merchant=shop.shown("merchant.one"), brand="unionpay"):
        assert (await shop.pay(3300)).body["status"] == "approved"
        rule = await shop.ask("POST", "/v1/risk-rules", {"name": "No", "action": "decline", "state": "active", "kind": "amount", "amount_max": 3900,
                                                         "currency": "CNY"}, key="operator")
        assert rule.status == 201, rule.raw
        await shop.caught_up()
        async with away(shop):
            assert (await shop.pay(3300)).status == 503
            assert (await shop.pay(4000)).body["code"] == "risk_declined"
            await stood_in(shop, 3400)
        assert (await shop.ask("POST", f"/v1/risk-rules/{rule.body['id']}/retire", {}, key="operator")).status == 200
        await shop.caught_up()


async def test_behind_an_open_breaker_it_stands_in_too_and_what_is_owed_is_said_without_waiting_for_it_to_close(shop: Shop) -> None:
    breaker = f"/v1/acquirers/{shop.shown('acquirer.single')}/breaker"
    assert (await shop.ask("PUT", breaker, {"faults": 3, "percent": 1, "pause_ms": 60_000, "probes": 1}, key="operator")).status == 200
    async with standing_in(shop, merchant=shop.shown("merchant.one"), brand="unionpay"):
        await shop.host.order("code", "91", {"0": "0200"}, 3)
        assert [(await shop.pay(4500 + n)).body.get("response_code") for n in range(3)] == ["91"] * 3
        link = shop.switch.links[shop.ids["acquirer.single"]]
        await eventually(lambda: asyncio.sleep(0, link.tripped()), "the breaker does not open")
        answer = await stood_in(shop, 4600)
        assert await taken(shop) == (4600, 1)
        await eventually(lambda: acknowledged(shop, answer.body["id"]), "it is not said")
        assert [message["0"] for message in await shop.host.received(answer.body["rrn"])] == ["0220"], "nobody was asked for it before"
    assert (await shop.ask("PUT", breaker, {"faults": 0}, key="operator")).status == 200
    await shop.caught_up()


async def test_two_workers_together_never_take_more_than_a_day_allows(shop: Shop) -> None:
    other = Shop(shop.url, shop.settings, shop.host, shop.dual, shop.keys, shop.ids)
    await other.start(alone=False)
    try:
        async with standing_in(shop, merchant=shop.shown("merchant.one"), brand="unionpay", day_amount=9000, day_count=5, sale_amount=2000):
            await other.caught_up()
            async with away(shop, "single", other):
                answers = await asyncio.gather(*(each.pay(1000 + number, key=till) for number, (each, till) in enumerate(
                    (each, till) for till in ("till", "neighbour", "branch") for _ in range(4) for each in (shop, other))))
                approved = [answer for answer in answers if answer.status == 201]
                assert len(approved) == 5 and {answer.status for answer in answers} == {201, 503}, [answer.raw for answer in answers]
                assert await taken(shop) == (sum(answer.body["amount"] for answer in approved), 5)
            for answer in approved:
                await eventually(lambda answer=answer: acknowledged(shop, answer.body["id"]), "it is not said")  # type: ignore[misc]
                assert [message["0"] for message in await shop.host.received(answer.body["rrn"])] == ["0220"]
    finally:
        await other.stop()


async def test_the_books_take_no_stand_in_without_terms_nor_change_one(shop: Shop) -> None:
    sold = (await shop.pay(4400)).body["id"]
    for statement, constraint in (
        ("INSERT INTO stand_in (merchant_id, transaction_id, terms) SELECT merchant_id, transaction_id, 1 FROM transaction WHERE transaction_id = $1",
         "stand_in_terms_allow"),
        ("UPDATE stand_in SET at = now() WHERE transaction_id <> $1", "stand_in_stays"),
        ("DELETE FROM stand_in WHERE transaction_id <> $1", "stand_in_stays"),
        ("UPDATE stand_in_terms SET day_amount = 1 WHERE $1::uuid IS NOT NULL", "stand_in_stays"),
    ):
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await shop.sql(statement, UUID(sold[4:]))
        assert refused.value.constraint_name == constraint


@pytest.mark.parametrize(("said", "field"), [
    ({"day_amount": 4999}, "day_amount"), ({"sale_amount": 0}, "sale_amount"), ({"currency": "ZZZ"}, "currency"), ({"brand": "nobody"}, "brand"),
    ({"entry_modes": ["manual"]}, "entry_modes"), ({"entry_modes": ["chip", "chip"]}, "entry_modes"), ({"reason": " "}, "reason"),
])
async def test_terms_that_cannot_be_are_refused_by_their_field(shop: Shop, said: dict[str, Any], field: str) -> None:
    refused = await shop.ask("PUT", path(shop), SAID | said, key="operator")
    assert refused.status == 422 and any(field in error["field"] for error in refused.body["errors"]), refused.raw


async def test_terms_are_an_operators_and_of_what_there_is(shop: Shop) -> None:
    for key in ("till", "merchant.one"):
        assert (await shop.ask("PUT", path(shop), SAID, key=key)).status == 403
        assert (await shop.ask("GET", path(shop), key=key)).status == 403
    absent = f"/v1/acquirers/acq_{UUID(int=5)}/stand-in"
    assert (await shop.ask("PUT", absent, SAID, key="operator")).status == (await shop.ask("GET", absent, key="operator")).status == 404
    assert (await shop.ask("PUT", path(shop), SAID | {"merchant": f"mer_{UUID(int=5)}"}, key="operator")).status == 404
    assert (await shop.ask("POST", f"{path(shop, 'dual')}/off", {"reason": "x", "brand": "jcb"}, key="operator")).status == 404
