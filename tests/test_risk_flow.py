"""Risk over HTTP, TCP and PostgreSQL: rules refuse, block, flag and hold; limits hold over restarts and workers; people review what was hit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from switch import database
from switch.app import Switch
from switch.merchants.onboarding import Onboarding
from tests.flows import Shop, body_of, eventually, new_key, open_shop

VISA = {"entry_mode": "chip", "pan": "4111111111111111", "expiry": "3012"}
MASTERCARD = {"entry_mode": "chip", "pan": "5555555555554444", "expiry": "3012"}
AMEX = {"entry_mode": "chip", "pan": "378282246310005", "expiry": "3012"}


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("risk")) as shop:
        yield shop


async def till(shop: Shop) -> str:
    """A merchant of its own for a test, with one terminal; the name of both."""
    name = new_key()[:8]
    pool = await database.pool(shop.url, "switch_writer", 1)
    try:
        office = Onboarding(pool)
        organisation = await office.organisation("Risk")
        merchant = await office.merchant(organisation.organisation_id, name, "5812", "Asia/Shanghai")
        await office.route("single", merchant.merchant_id)
        store = await office.store(merchant.merchant_id, "Store", city="Shanghai")
        terminal = await office.terminal(store.store_id, name)
        shop.ids |= {f"merchant.{name}": merchant.merchant_id, f"terminal.{name}": terminal.terminal_id}
        shop.keys[name] = (await office.key("terminal", terminal_id=terminal.terminal_id)).text
    finally:
        await pool.close()
    await shop.caught_up()
    return name


async def post(shop: Shop, path: str, body: Any, status: int = 200) -> Any:
    answer = await shop.ask("POST", f"/v1/{path}", body, key="operator")
    assert answer.status == status, answer.raw
    return answer.body


async def get(shop: Shop, path: str) -> Any:
    answer = await shop.ask("GET", f"/v1/{path}", key="operator")
    assert answer.status == 200, answer.raw
    return answer.body


@asynccontextmanager
async def in_force(shop: Shop, **said: Any) -> AsyncIterator[Any]:
    rule = await post(shop, "risk-rules", {"name": "A rule", "action": "decline", "state": "active", **said}, 201)
    await shop.caught_up()
    yield rule
    await post(shop, f"risk-rules/{rule['id']}/retire", {})
    await shop.caught_up()


async def limited(shop: Shop, name: str, **said: Any) -> Any:
    limit = await post(shop, "merchant-limits", {"merchant": shop.shown(f"merchant.{name}"), "currency": "CNY", "state": "active", **said}, 201)
    await shop.caught_up()
    return limit


async def hits_of(shop: Shop, rule: Any) -> list[Any]:
    return list((await get(shop, f"risk-hits?rule={rule['id']}"))["items"])


def velocity(shop: Shop, name: str, **said: Any) -> dict[str, Any]:
    return {"kind": "velocity", "subject": "card", "window_s": 600, "count_max": 2, "merchant": shop.shown(f"merchant.{name}"), **said}


async def test_what_a_sale_hit_goes_with_it_to_the_acquirer_that_takes_it(shop: Shop) -> None:
    name = await till(shop)
    await post(shop, "routes", {"acquirer": shop.shown("acquirer.dual"), "merchant": shop.shown(f"merchant.{name}"), "priority": 900}, 201)
    async with in_force(shop, kind="amount", amount_max=10, currency="CNY", action="flag", merchant=shop.shown(f"merchant.{name}")) as rule:
        await shop.host.order("code", "91")
        answer = await shop.pay(1700, key=name, card=VISA)
        assert (answer.body["status"], answer.body["acquirer"]) == ("approved", shop.shown("acquirer.dual")), answer.raw
        (hit,) = await hits_of(shop, rule)
        assert hit["transaction"] == answer.body["id"]


async def test_a_card_s_third_sale_within_the_window_is_refused_and_nothing_is_sent(shop: Shop) -> None:
    name = await till(shop)
    async with in_force(shop, **velocity(shop, name)) as rule:
        for amount in (1100, 1200):
            assert (await shop.pay(amount, key=name, card=VISA)).status == 201
        key = new_key()
        refused = await shop.pay(1300, key, key=name, card=VISA)
        assert (refused.status, refused.body["code"], refused.body["processed"]) == (403, "risk_declined", False), refused.raw
        assert await shop.by_key(key) == []
        (hit,) = await hits_of(shop, rule)
        assert (hit["id"], hit["why"], hit["transaction"]) == (refused.body["hit"], "3 sales of one card within 10 minutes, more than 2", None)
        assert hit["figures"] == {"count": 3, "count_max": 2, "window_s": 600}
        assert hit["masked_pan"].startswith("411111") and VISA["pan"] not in str(hit)
        assert (await shop.pay(1300, key=name, card=MASTERCARD)).status == 201
        again = await shop.pay(1300, key, key=name, card=VISA)  # the key stayed free: the same is judged again, and is the same hit
        assert again.status == 403
        assert [(each["id"], each["times"]) for each in await hits_of(shop, rule)] == [(hit["id"], 2)]
    assert (await shop.pay(1300, key, key=name, card=VISA)).status == 201


async def test_what_is_in_the_books_under_a_key_is_told_whatever_the_rules_say_by_now(shop: Shop) -> None:
    name, key = await till(shop), new_key()
    first = await shop.pay(1100, key, key=name, card=VISA)
    async with in_force(shop, kind="amount", amount_max=10, currency="CNY", merchant=shop.shown(f"merchant.{name}")) as rule:
        replayed = await shop.pay(1100, key, key=name, card=VISA)
        assert (replayed.status, replayed.body) == (201, first.body)
        assert await hits_of(shop, rule) == []
        assert (await shop.pay(1100, key=name, card=VISA)).status == 403


async def test_a_sale_that_comes_twice_counts_once(shop: Shop) -> None:
    name, key = await till(shop), new_key()
    async with in_force(shop, **velocity(shop, name)):
        for _ in range(4):
            assert (await shop.pay(1100, key, key=name, card=VISA)).status == 201
        assert (await shop.pay(1200, key=name, card=VISA)).status == 201
        assert (await shop.pay(1300, key=name, card=VISA)).status == 403


async def test_a_flag_rides_in_the_commit_of_its_sale_and_is_reviewed_once(shop: Shop) -> None:
    name = await till(shop)
    async with in_force(shop, kind="amount", action="flag", amount_max=5000, currency="CNY", merchant=shop.shown(f"merchant.{name}")) as rule:
        sold = await shop.pay(6000, key=name, card=VISA)
        assert (sold.status, sold.body["status"]) == (201, "approved")
        (hit,) = await hits_of(shop, rule)  # at once: it was in the commit
        assert (hit["transaction"], hit["state"], hit["why"]) == (sold.body["id"], "open", "60.00 CNY in one sale, more than 50.00 CNY")
        story = await shop.story(sold.body["id"])
        assert [step["detail"] for step in story["steps"] if step["what"] == "risk"] == [{"hits": [hit["id"]]}]
        decided = await post(shop, f"risk-hits/{hit['id']}/dismiss", {"reason": "A wedding"})
        assert (decided["state"], decided["decided_by"], decided["reason"]) == ("dismissed", "Flow Tester", "A wedding")
        await post(shop, f"risk-hits/{hit['id']}/confirm", {"reason": "No"}, 409)
        assert hit["id"] not in [each["id"] for each in (await get(shop, "risk-hits?state=open"))["items"]]


async def test_a_hold_keeps_the_money_of_its_sale_once_and_a_dismissal_frees_it(shop: Shop) -> None:
    name = await till(shop)
    merchant = shop.ids[f"merchant.{name}"]
    async with in_force(shop, kind="amount", action="hold", amount_max=5000, currency="CNY", merchant=shop.shown(f"merchant.{name}")) as rule:
        assert (await shop.pay(7000, key=name, card=VISA)).body["status"] == "approved"
        declined = await shop.pay(7005, key=name, card=VISA)
        assert declined.body["status"] == "declined"

        async def settled() -> bool:
            return sorted(str(each["held"]) for each in await hits_of(shop, rule)) == ["not_needed", "placed"]

        await eventually(settled, "the hold is not placed")
        (hold,) = await shop.sql("SELECT * FROM merchant_hold WHERE merchant_id = $1", merchant)
        hit = next(each for each in await hits_of(shop, rule) if each["held"] == "placed")
        assert (hold["amount"], hold["released_at"], f"rht_{hold['hold_id']}") == (7000, None, hit["id"])
        await shop.sql("UPDATE risk_hit SET held = 'wanted' WHERE hit_id = $1", hold["hold_id"])  # a worker died before it had noted it
        await eventually(settled, "the hold is not noted again")
        assert len(await shop.sql("SELECT 1 FROM merchant_hold WHERE merchant_id = $1", merchant)) == 1
        await post(shop, f"risk-hits/{hit['id']}/dismiss", {"reason": "Known"})

        async def released() -> bool:
            return [row["released_at"] is not None for row in await shop.sql("SELECT * FROM merchant_hold WHERE merchant_id = $1", merchant)] == [True]

        await eventually(released, "the hold is not released")


async def test_a_block_lists_the_card_for_everybody_until_its_hit_is_dismissed(shop: Shop) -> None:
    name, other = await till(shop), await till(shop)
    async with in_force(shop, **velocity(shop, name, action="block", blocks="card", count_max=1)) as rule:
        assert (await shop.pay(1100, key=name, card=AMEX)).status == 201
        assert (await shop.pay(1200, key=name, card=AMEX)).status == 403
        assert (await shop.pay(1300, key=other, card=AMEX)).status == 403  # at once, where it was blocked
        (hit,) = [each for each in await hits_of(shop, rule) if each["action"] == "block"]
    await shop.caught_up()
    assert (await shop.pay(1300, key=other, card=AMEX)).status == 403
    entry = next(each for each in (await get(shop, "risk-lists"))["items"] if each["rule"] == rule["id"])
    assert (entry["subject"], entry["verdict"], entry["created_by"]) == ("card", "block", "risk rule")
    await post(shop, f"risk-hits/{hit['id']}/dismiss", {"reason": "Known"})
    await shop.caught_up()
    shop.switch.protection.guard.blocked.clear()  # else ten seconds later
    assert (await shop.pay(1300, key=other, card=AMEX)).status == 201


async def test_a_listed_terminal_is_refused_and_an_allowed_card_is_asked_nothing(shop: Shop) -> None:
    name = await till(shop)
    entry = await post(shop, "risk-lists", {"terminal": shop.shown(f"terminal.{name}"), "verdict": "block", "reason": "Stolen"}, 201)
    await shop.caught_up()
    assert (await shop.pay(1100, key=name, card=VISA)).status == 403
    await post(shop, "risk-lists", {"terminal": shop.shown(f"terminal.{name}"), "verdict": "allow", "reason": "Not"}, 409)
    await post(shop, f"risk-lists/{entry['id']}/end", {})
    await shop.caught_up()
    sold = await shop.pay(1100, key=name, card=VISA)
    assert sold.status == 201
    async with in_force(shop, kind="amount", amount_max=10, currency="CNY", merchant=shop.shown(f"merchant.{name}")):
        assert (await shop.pay(1200, key=name, card=VISA)).status == 403
        allowed = await post(shop, "risk-lists", {"transaction": sold.body["id"], "verdict": "allow", "reason": "The owner's own"}, 201)
        await shop.caught_up()
        assert (await shop.pay(1200, key=name, card=VISA)).status == 201
        assert (await shop.pay(1200, key=name, card=MASTERCARD)).status == 403
        await post(shop, f"risk-lists/{allowed['id']}/end", {})


async def test_many_declined_cards_at_a_terminal_are_card_testing(shop: Shop) -> None:
    name = await till(shop)
    async with in_force(shop, kind="card_testing", subject="terminal", window_s=3600, count_max=2, merchant=shop.shown(f"merchant.{name}")) as rule:
        for card in (VISA, MASTERCARD, AMEX):
            declined = await shop.pay(2005, key=name, card=card)
            assert (declined.status, declined.body["status"]) == (201, "declined")
        assert (await shop.pay(100, key=name, card=VISA)).status == 403
        (hit,) = await hits_of(shop, rule)
        assert hit["why"] == "3 different cards at one terminal within 1 hour with sales declined, more than 2"


async def test_a_merchant_s_day_ends_at_its_limit_and_what_was_undone_is_given_back(shop: Shop) -> None:
    name = await till(shop)
    await shop.pay(3000, key=name, card=VISA)  # before the limit: it counts
    await limited(shop, name, per_sale=5000, per_day=9000)
    assert "sale" in (await shop.pay(5100, key=name, card=VISA)).body["detail"]
    sold = await shop.pay(5000, key=name, card=VISA)
    assert sold.status == 201
    refused = await shop.pay(1100, key=name, card=VISA)
    assert (refused.status, refused.body["detail"]) == (403, "The merchant's limit is reached: per day.")
    assert (await shop.pay(1000, key=name, card=VISA)).status == 201
    declined = await shop.pay(105, key=name, card=VISA, currency="USD")
    assert (declined.status, declined.body["code"]) == (403, "risk_declined")
    voided = await shop.ask("POST", f"/v1/authorizations/{sold.body['id']}/voids", {}, key=name, Idempotency_Key=new_key())
    assert voided.status == 201, voided.raw

    async def given_back() -> bool:
        return (await shop.pay(4000, key=name, card=MASTERCARD)).status == 201

    await eventually(given_back, "a voided sale is held against its merchant")
    assert (await shop.pay(2000, key=name, card=MASTERCARD)).status == 403


async def test_sales_at_once_do_not_go_over_the_limit_together(shop: Shop) -> None:
    name = await till(shop)
    await limited(shop, name, per_day=5000)
    answers = await asyncio.gather(*(shop.pay(1000 + number * 100, key=name, card=VISA) for number in range(1, 9)))
    assert sum(answer.body["amount"] for answer in answers if answer.status == 201) <= 5000
    assert {answer.status for answer in answers} == {201, 403}


async def test_counts_and_totals_outlive_a_restart_and_cross_workers(shop: Shop) -> None:
    name = await till(shop)
    await limited(shop, name, per_day=5000)
    async with in_force(shop, **velocity(shop, name)):
        assert (await shop.pay(1100, key=name, card=VISA)).status == 201
        assert (await shop.pay(1200, key=name, card=VISA)).status == 201
        await shop.stop()
        await shop.start()
        assert (await shop.pay(1300, key=name, card=VISA)).status == 403
        assert (await shop.pay(3000, key=name, card=MASTERCARD)).status == 403
        assert (await shop.pay(1000, key=name, card=MASTERCARD)).status == 201
        first = shop.base
        other = await second_worker(shop)
        assert shop.base != first
        assert (await shop.pay(1000, key=name, card=MASTERCARD)).status == 201  # at the second worker: MASTERCARD's second
        assert other.protection.guard.directory.guarded
        shop.base = first

        async def told() -> bool:
            return (await shop.pay(100, key=name, card=MASTERCARD)).status == 403

        await eventually(told, "what the second worker sold is not counted by the first")


async def second_worker(shop: Shop) -> Switch:
    await shop.start(alone=False)
    return shop.switch


async def test_a_rule_is_tried_on_what_was_sold_before_it_is_switched_on(shop: Shop) -> None:
    name = await till(shop)
    since = datetime.now(UTC) - timedelta(minutes=10)
    sold = [(await shop.pay(amount, key=name, card=VISA)).body["id"] for amount in (1100, 1200, 1300, 1400)]
    draft = await post(shop, "risk-rules", {"name": "Draft", "action": "decline", **velocity(shop, name)}, 201)
    await shop.caught_up()
    body = {"activate": [draft["id"]], "from": since.isoformat(), "to": (datetime.now(UTC) + timedelta(minutes=1)).isoformat()}
    trial = await post(shop, "risk-rules/try", body)
    assert trial["fired"] == [{"rule": draft["id"], "name": "Draft", "action": "decline", "hits": 2, "approved": 2, "charged_back": 0, "cards": 1,
                               "merchants": 1}]
    assert [each["transaction"] for each in trial["examples"]] == sold[2:]  # refused sales are not counted: both are the third
    assert trial["after"]["decline"] == trial["before"]["decline"] + 2
    assert (await shop.pay(1500, key=name, card=VISA)).status == 201  # a draft does nothing


@pytest.mark.parametrize(("said", "field"), [
    ({"kind": "velocity", "subject": "card"}, "window_s"), ({"kind": "amount", "amount_max": 5}, "currency"),
    ({"kind": "night", "time_from": "22:00", "time_until": "22:00"}, "time_until"), ({"kind": "amount", "amount_max": 5, "currency": "XXQ"}, "currency"),
    ({"kind": "card_spread", "window_s": 60, "count_max": 51}, "count_max"), ({"kind": "card_spread", "window_s": 604801, "count_max": 1}, "window_s"),
    ({"kind": "night", "time_from": "22:00", "time_until": "06:00", "action": "block"}, "blocks"),
    ({"kind": "night", "time_from": "22:00", "time_until": "06:00", "count_max": 3}, "count_max"),
])
async def test_a_rule_that_makes_no_sense_names_its_field(shop: Shop, said: dict[str, Any], field: str) -> None:
    answer = await shop.ask("POST", "/v1/risk-rules", {"name": "Wrong", "action": "flag", **said}, key="operator")
    assert answer.status == 422, answer.raw
    assert field in [fault["field"] for fault in answer.body["errors"]]


async def test_only_operators_see_and_change_what_sales_are_judged_by(shop: Shop) -> None:
    for path in ("risk-rules", "risk-hits", "risk-lists", "merchant-limits"):
        for key in ("till", "merchant.one"):
            assert (await shop.ask("GET", f"/v1/{path}", key=key)).status == 403
    assert (await shop.ask("POST", "/v1/risk-rules", body_of(1), key="till")).status == 403
