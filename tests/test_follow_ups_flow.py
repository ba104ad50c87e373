"""Follow-ups of an authorization through HTTP, TCP and PostgreSQL: what is told, what is reserved and booked, what the acquirer booked."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from loadtests.terminal import Terminal
from switch.clock import clock
from switch.errors import Problem
from switch.payments.asked import Door
from switch.payments.follow_ups import Wanted
from switch.payments.transaction import Event
from tests.flows import ANSWER_TIMEOUT_MS, ROUTE, Shop, eventually, new_key, open_shop
from tests.processes import CARD, Answer, stub_book

OFFLINE = {name: CARD[name] for name in ("entry_mode", "pan", "expiry")}


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("follow_ups")) as opened:
        yield opened


async def follow(shop: Shop, verb: str, shown_id: str, body: Any = None, key: str = "till", idempotency_key: str | None = None) -> Answer:
    body = {} if body is None else body
    if verb == "refunds":
        return await shop.ask("POST", "/v1/refunds", {"authorization": shown_id, **body}, key, Idempotency_Key=idempotency_key or new_key())
    return await shop.ask("POST", f"{ROUTE}/{shown_id}/{verb}", body, key, Idempotency_Key=idempotency_key or new_key())


async def hold(shop: Shop, amount: int, till: str = "till", **changed: Any) -> Any:
    answer = await shop.pay(amount, key=till, type="preauthorization", **changed)
    assert (answer.status, answer.body["status"]) == (201, "approved"), answer.raw
    return answer.body


async def sale(shop: Shop, amount: int, till: str = "till", **changed: Any) -> Any:
    """An approved purchase whose capture, if it has one, is acknowledged."""
    sold = (await shop.pay(amount, key=till, **changed)).body
    assert sold["status"] == "approved", sold
    for row in await shop.sql("SELECT transaction_id FROM transaction WHERE original_id = $1", UUID(sold["id"][4:])):
        await shop.until(f"txn_{row['transaction_id']}", "approved")
    return sold


async def money(shop: Shop, shown_id: str) -> dict[str, Any]:
    return dict((await shop.get(shown_id))["amounts"])


def nothing_reserved(amounts: dict[str, Any]) -> bool:
    return not any(amounts["reserved"].values())


async def test_a_void_takes_all_that_there_is_when_it_is_written(shop: Shop) -> None:
    held = await hold(shop, 2000)
    before = await shop.switch.history.transaction(UUID(held["id"][4:]))  # as its void was asked for
    assert before is not None
    assert (await follow(shop, "increments", held["id"], {"amount": 500})).body["status"] == "approved"
    door = Door(asyncio.get_running_loop().time(), clock.now(), None)
    with pytest.raises(Problem) as refused:
        await shop.switch.follow_ups.follow(Wanted("voids"), before, before.caller, new_key(), bytes(32), door)
    assert refused.value.code == "follow_up_open"
    void = (await follow(shop, "voids", held["id"])).body
    assert (void["status"], void["amount"]) == ("approved", 2500)


# Each verb, approved.


@pytest.mark.parametrize("till", ["till", "dual"])
async def test_a_preauthorization_is_captured_in_parts(shop: Shop, till: str) -> None:
    held, host = await hold(shop, 10000, till), shop.host_of(till)
    first = await follow(shop, "captures", held["id"], {"amount": 4000}, till)
    assert first.status == 201, first.raw
    assert (first.body["status"], first.body["type"], first.body["original"], first.body["amount"]) == ("approved", "capture", held["id"], 4000)
    now = await shop.get(held["id"])
    assert (now["amounts"]["captured"], now["amounts"]["left_to_capture"], now["payment_status"]) == (4000, 6000, "partially_captured")
    rest = await follow(shop, "captures", held["id"], None, till)
    assert (rest.status, rest.body["amount"]) == (201, 6000)
    now = await shop.get(held["id"])
    assert (now["amounts"]["captured"], now["amounts"]["left_to_capture"], now["payment_status"]) == (10000, 0, "captured")
    assert await host.effect(first.body["rrn"]) == (4000, 0) and await host.effect(rest.body["rrn"]) == (6000, 0)
    (sent,), (request,) = await host.received(first.body["rrn"]), await host.received(held["rrn"])
    assert (sent["0"], sent["3"], sent["25"], sent["38"]) == ("0220", "000000", "06", held["approval_code"])
    assert sent["90"] == f"{request['0']}{request['11']}{request['7']}{'0' * 22}"
    assert not {"35", "52", "55"} & sent.keys() and sent["token"] == request["token"]
    third = await follow(shop, "captures", held["id"], {"amount": 1}, till)
    assert (third.status, third.body["code"], third.body["amounts"]["left_to_capture"]) == (409, "amount_exceeds_capturable", 0)
    assert [each["type"] for each in (await shop.story(held["id"]))["followed_by"]] == ["capture", "capture"]


async def test_a_final_capture_gives_back_what_is_left(shop: Shop) -> None:
    held = await hold(shop, 10000)
    assert (await follow(shop, "captures", held["id"], {"amount": 3000, "final": True})).status == 201
    amounts = await money(shop, held["id"])
    assert (amounts["captured"], amounts["left_to_capture"]) == (3000, 0)
    refused = await follow(shop, "captures", held["id"], {"amount": 1})
    assert (refused.status, refused.body["code"]) == (409, "amount_exceeds_capturable")


async def test_an_increment_raises_what_may_be_captured(shop: Shop) -> None:
    held = await hold(shop, 10000)
    raised = await follow(shop, "increments", held["id"], {"amount": 2500})
    assert (raised.status, raised.body["status"]) == (201, "approved"), raised.raw
    amounts = await money(shop, held["id"])
    assert (amounts["authorised"], amounts["left_to_capture"]) == (12500, 12500) and nothing_reserved(amounts)
    (sent,) = await shop.host.received(raised.body["rrn"])
    assert (sent["0"], sent["25"], sent["38"], sent["4"]) == ("0100", "60", held["approval_code"], "000000002500")
    assert (await follow(shop, "captures", held["id"], {"amount": 12500})).status == 201
    refused = await follow(shop, "increments", held["id"], {"amount": 100})
    assert (refused.status, refused.body["code"]) == (409, "not_incrementable")


@pytest.mark.parametrize(("till", "changed"), [("till", {}), ("dual", {}), ("till", {"type": "preauthorization"}), ("till", {"type": "cash_advance"})])
async def test_a_void_takes_all_of_it_back(shop: Shop, till: str, changed: dict[str, Any]) -> None:
    host = shop.host_of(till)
    before = (await host.stats())["net"].get("156", 0), (await host.stats())["held"].get("156", 0)
    sold = await sale(shop, 7000, till, **changed)
    void = await follow(shop, "voids", sold["id"], None, till)
    assert (void.status, void.body["status"], void.body["amount"]) == (201, "approved", 7000), void.raw
    now = await shop.get(sold["id"])
    assert (now["status"], now["payment_status"], now["amounts"]["captured"], now["amounts"]["voided"]) == ("approved", "voided", 0, 7000)
    assert ((await host.stats())["net"].get("156", 0), (await host.stats())["held"].get("156", 0)) == before
    listed = (await shop.ask("GET", "/v1/transactions?payment_status=voided&limit=50", key="operator")).body["items"]
    assert sold["id"] in {item["id"] for item in listed} and void.body["id"] not in {item["id"] for item in listed}
    for verb, body, code in (("voids", None, "already_voided"), ("captures", None, "already_voided"), ("refunds", None, "already_voided"),
                             ("tips", {"tip_amount": 1}, "already_voided"), ("increments", {"amount": 1}, "already_voided")):
        refused = await follow(shop, verb, sold["id"], body, till)
        assert (refused.status, refused.body["code"]) == (409, code)
    (sent,) = await host.received(void.body["rrn"])
    assert (sent["0"], sent["3"], sent["38"]) == ("0200", "020000", sold["approval_code"])


async def test_an_incremented_hold_is_voided_whole(shop: Shop) -> None:
    held = await hold(shop, 5000)
    assert (await follow(shop, "increments", held["id"], {"amount": 1500})).status == 201
    void = await follow(shop, "voids", held["id"])
    assert (void.status, void.body["status"], void.body["amount"]) == (201, "approved", 6500)
    assert await shop.host.effect(void.body["rrn"]) == (0, -6500)


@pytest.mark.parametrize("till", ["till", "dual"])
async def test_a_sale_is_refunded_in_parts_and_never_beyond_it(shop: Shop, till: str) -> None:
    sold, host = await sale(shop, 9000, till), shop.host_of(till)
    first = await follow(shop, "refunds", sold["id"], {"amount": 2000}, till)
    assert (first.status, first.body["status"], first.body["original"]) == (201, "approved", sold["id"]), first.raw
    assert (await shop.get(sold["id"]))["payment_status"] == "partially_refunded"
    refused = await follow(shop, "refunds", sold["id"], {"amount": 7001}, till)
    assert (refused.status, refused.body["code"], refused.body["amounts"]["left_to_refund"]) == (409, "amount_exceeds_refundable", 7000)
    rest = await follow(shop, "refunds", sold["id"], None, till)
    assert (rest.status, rest.body["amount"]) == (201, 7000)
    now = await shop.get(sold["id"])
    assert (now["payment_status"], now["amounts"]["refunded"], now["amounts"]["left_to_refund"]) == ("refunded", 9000, 0)
    assert await host.effect(first.body["rrn"]) == (-2000, 0) and await host.effect(rest.body["rrn"]) == (-7000, 0)
    (sent,) = await host.received(first.body["rrn"])
    assert (sent["0"], sent["3"]) == ("0200", "200000") and "90" in sent
    refused = await follow(shop, "voids", sold["id"], None, till)
    assert (refused.status, refused.body["code"]) == (409, "not_voidable")


async def test_a_tip_is_taken_within_the_margin_of_the_terms(shop: Shop) -> None:
    acquirer = shop.shown("acquirer.dual")
    for terms in ({"brand": "*", "mcc": "5812", "tip_basis_points": 2000}, {"mcc": "*", "brand": "unionpay", "completion_basis_points": 1500, "valid_hours": 720}):
        answer = await shop.ask("PUT", f"/v1/acquirers/{acquirer}/terms", terms, "operator")
        assert answer.status == 200, answer.raw
    await shop.caught_up()
    sold = await sale(shop, 10003, "dual")
    assert sold["amounts"]["capturable"] == 12003
    refused = await follow(shop, "tips", sold["id"], {"tip_amount": 2001}, "dual")
    assert (refused.status, refused.body["code"], refused.body["amounts"]["left_to_capture"]) == (409, "amount_exceeds_capturable", 2000)
    tip = await follow(shop, "tips", sold["id"], {"tip_amount": 2000}, "dual")
    assert (tip.status, tip.body["status"]) == (201, "approved"), tip.raw
    now = await shop.get(sold["id"])
    assert (now["amounts"]["captured"], now["amounts"]["left_to_capture"], now["payment_status"]) == (12003, 0, "captured")
    assert await shop.dual.effect(tip.body["rrn"]) == (2000, 0)
    (sent,) = await shop.dual.received(tip.body["rrn"])
    assert (sent["0"], sent["3"], sent["4"]) == ("0220", "020000", "000000002000")
    assert (await shop.post({**sold_body(10003)}, key="dual")).status == 201
    void = await follow(shop, "voids", sold["id"], None, "dual")
    assert (void.status, void.body["amount"]) == (201, 12003)


async def test_nobody_tips_cash(shop: Shop) -> None:
    """The terms of the test before hold: a tip of 20 % of what was bought."""
    cash = await sale(shop, 10000, "dual", type="cash_advance")
    assert cash["amounts"]["capturable"] == 10000
    refused = await follow(shop, "tips", cash["id"], {"tip_amount": 1}, "dual")
    assert (refused.status, refused.body["code"]) == (409, "not_tippable")
    assert (await sale(shop, 10000, "dual", cashback_amount=4000))["amounts"]["capturable"] == 10000 + 1200


def sold_body(amount: int) -> dict[str, Any]:
    return {"type": "purchase", "amount": amount, "currency": "CNY", "card": CARD}


async def test_the_tolerance_of_a_completion_is_that_of_its_approval(shop: Shop) -> None:
    """The terms of the test before hold for this MCC; without an MCC of its own the brand's would."""
    held = await hold(shop, 10000, "dual")
    assert held["amounts"]["capturable"] == 10000  # the MCC's terms allow completions nothing
    replay_key = new_key()
    await shop.ask("PUT", f"/v1/acquirers/{shop.shown('acquirer.dual')}/terms", {"mcc": "5812", "tip_basis_points": 2000, "completion_basis_points": 1500}, "operator")
    await shop.caught_up()
    first = await shop.pay(10003, replay_key, "dual", type="preauthorization")
    assert first.body["amounts"]["capturable"] == 11503
    raised = await follow(shop, "increments", first.body["id"], {"amount": 1003}, "dual")
    assert raised.status == 201
    assert (await money(shop, first.body["id"]))["capturable"] == 11503 + 1003 + 150
    usual = await shop.pay(10003, key="dual", type="preauthorization")
    whole = await follow(shop, "captures", usual.body["id"], None, "dual")
    assert (whole.status, whole.body["amount"]) == (201, 10003), "the tolerance is for who names an amount"
    over = await follow(shop, "captures", first.body["id"], {"amount": 12657}, "dual")
    assert (over.status, over.body["code"]) == (409, "amount_exceeds_capturable")
    assert (await follow(shop, "captures", first.body["id"], {"amount": 12656}, "dual")).status == 201
    again = await shop.pay(10003, replay_key, "dual", type="preauthorization")
    assert again.raw == first.raw and again.headers["idempotent-replayed"] == "true"


# Who may, and what is refused.


async def test_merchants_and_neighbours_of_the_store_may_follow_up_and_nobody_else_sees_it(shop: Shop) -> None:
    held = await hold(shop, 3000)
    for key in ("merchant.one", "neighbour"):
        assert (await follow(shop, "captures", held["id"], {"amount": 1000}, key)).status == 201
    for key in ("branch", "dual", "merchant.two"):
        for verb, body in (("captures", {"amount": 1}), ("voids", None), ("refunds", None), ("tips", {"tip_amount": 1}), ("increments", {"amount": 1}), ("reversals", None)):
            foreign = await follow(shop, verb, held["id"], body, key)
            absent = await follow(shop, verb, "txn_0192f0c4-7c1e-7aaa-8bbb-1234567890ab", body, key)
            assert foreign.status == absent.status == 404
            assert foreign.body | {"request_id": ""} == absent.body | {"request_id": ""}
    assert (await follow(shop, "captures", held["id"], {"amount": 1}, "operator")).status == 403
    assert (await follow(shop, "captures", held["id"], {"amount": 1}, "nonsense")).status == 401
    assert (await money(shop, held["id"]))["captured"] == 2000


BAD = [("captures", {"amount": 0}), ("captures", {"amount": "1"}), ("captures", {"final": 1}), ("captures", {"amount": 1, "state": "x"}), ("captures", []), ("voids", {"amount": 1}),
       ("increments", {}), ("increments", {"amount": -1}), ("tips", {"amount": 1}), ("tips", {"tip_amount": 10**12}), ("refunds", {"card": CARD}), ("refunds", {"currency": "CNY"}),
       ("reversals", {"amount": 1})]


@pytest.mark.parametrize(("verb", "body"), BAD, ids=str)
async def test_a_follow_up_takes_what_its_model_names_and_nothing_else(shop: Shop, verb: str, body: Any) -> None:
    path = "/v1/refunds" if verb == "refunds" else f"{ROUTE}/txn_0192f0c4-7c1e-7aaa-8bbb-1234567890ab/{verb}"
    answer = await shop.ask("POST", path, {"authorization": "txn_0192f0c4-7c1e-7aaa-8bbb-1234567890ab", **body} if verb == "refunds" else body, "till",
                            Idempotency_Key=new_key())
    assert (answer.status, answer.body["code"]) == (422, "invalid")
    missing = await shop.ask("POST", path, body, "till")
    assert (missing.status, missing.body["code"]) == (400, "idempotency_key_missing")


async def test_what_does_not_stand_and_what_has_no_money_is_not_followed(shop: Shop) -> None:
    declined = (await shop.pay(5051)).body
    balance = (await shop.pay(None, type="balance_inquiry")).body
    sold = await sale(shop, 4000)
    for shown, verb, code in ((declined, "captures", "not_capturable"), (declined, "refunds", "not_refundable"), (declined, "voids", "not_voidable"),
                              (declined, "reversals", "not_reversible"), (balance, "voids", "not_voidable"), (balance, "captures", "not_capturable"),
                              (sold, "captures", "not_capturable"), (sold, "increments", "not_incrementable")):
        answer = await follow(shop, verb, shown["id"], {"amount": 1} if verb in ("captures", "increments") else None)
        assert (answer.status, answer.body["code"]) == (409, code), (verb, answer.raw)
    held = await hold(shop, 4100)
    capture = (await follow(shop, "captures", held["id"])).body
    answer = await follow(shop, "refunds", capture["id"])  # of the authorization, not of its capture
    assert (answer.status, answer.body["code"]) == (409, "not_refundable")
    answer = await follow(shop, "tips", (await hold(shop, 4200))["id"], {"tip_amount": 1})
    assert (answer.status, answer.body["code"]) == (409, "not_tippable")


# Keys.


async def test_a_key_replays_its_follow_up_byte_for_byte_and_belongs_to_one_route_one_original_and_one_body(shop: Shop) -> None:
    held, other, key = await hold(shop, 8000), await hold(shop, 8100), new_key()
    first = await follow(shop, "captures", held["id"], {"amount": 8000}, idempotency_key=key)
    again = await follow(shop, "captures", held["id"], {"amount": 8000}, idempotency_key=key)
    assert (again.status, again.raw) == (201, first.raw) and again.headers["idempotent-replayed"] == "true"
    for verb, shown_id, body in (("captures", held["id"], {"amount": 1}), ("captures", other["id"], {"amount": 8000}), ("voids", held["id"], None)):
        reused = await follow(shop, verb, shown_id, body, idempotency_key=key)
        assert (reused.status, reused.body["code"]) == (422, "idempotency_key_reused")
    assert (await shop.pay(8000, key)).body["code"] == "idempotency_key_reused"
    found = await shop.ask("GET", f"{ROUTE}?idempotency_key={key}", key="till")
    assert found.body["id"] == first.body["id"]
    mine = await follow(shop, "captures", other["id"], {"amount": 8100}, "merchant.one", key)  # the merchant's key of the same text is its own
    assert mine.status == 201
    assert (await shop.ask("GET", f"{ROUTE}?idempotency_key={key}", key="merchant.one")).body["id"] == mine.body["id"]


async def test_a_refusal_leaves_the_key_free(shop: Shop) -> None:
    held, key = await hold(shop, 1000), new_key()
    assert (await follow(shop, "captures", held["id"], {"amount": 1001}, idempotency_key=key)).status == 409
    assert (await follow(shop, "captures", held["id"], {"amount": 1000}, idempotency_key=key)).status == 201


async def test_duplicates_of_a_running_follow_up_wait_for_it(shop: Shop) -> None:
    held, key = await hold(shop, 6000), new_key()
    await shop.host.order("delay", 0.2, {"0": "0220"})
    answers = await asyncio.gather(*(follow(shop, "captures", held["id"], {"amount": 6000}, idempotency_key=key) for _ in range(8)))
    assert {answer.raw for answer in answers} == {answers[0].raw} and {answer.status for answer in answers} == {201}
    assert len(await shop.host.received(answers[0].body["rrn"])) == 1


# Limits hold when all come at once.


@pytest.mark.parametrize("till", ["till", "dual"])
async def test_twenty_captures_at_once_never_take_more_than_there_is(shop: Shop, till: str) -> None:
    held = await hold(shop, 10000, till)
    left = (await money(shop, held["id"]))["left_to_capture"]
    answers = await asyncio.gather(*(follow(shop, "captures", held["id"], {"amount": 1200}, till) for _ in range(20)))
    taken = [answer for answer in answers if answer.status == 201]
    assert len(taken) == left // 1200 and {answer.body["code"] for answer in answers if answer.status != 201} == {"amount_exceeds_capturable"}
    amounts = await money(shop, held["id"])
    assert amounts["captured"] == 1200 * len(taken) and nothing_reserved(amounts)
    assert sum([(await shop.host_of(till).effect(answer.body["rrn"]))[0] for answer in taken]) == amounts["captured"]


async def test_twenty_refunds_at_once_never_give_back_more_than_was_taken(shop: Shop) -> None:
    sold = await sale(shop, 10000)
    answers = await asyncio.gather(*(follow(shop, "refunds", sold["id"], {"amount": 1500}) for _ in range(20)))
    given = [answer for answer in answers if answer.status == 201]
    assert len(given) == 6 and {answer.body["code"] for answer in answers if answer.status != 201} == {"amount_exceeds_refundable"}
    assert sum([(await shop.host.effect(answer.body["rrn"]))[0] for answer in given]) == -9000
    assert (await money(shop, sold["id"]))["refunded"] == 9000


async def test_voids_captures_and_a_cancellation_at_once_leave_books_that_agree(shop: Shop) -> None:
    for amount in range(20020, 20032):
        key = new_key()
        held = (await shop.pay(amount, key, type="preauthorization")).body
        await asyncio.gather(follow(shop, "voids", held["id"]), follow(shop, "voids", held["id"]), follow(shop, "captures", held["id"], {"amount": 5000}),
                             shop.cancel(key))
        rows = await shop.sql("SELECT rrn, type, state FROM transaction WHERE transaction_id = $1 OR original_id = $1", UUID(held["id"][4:]))
        for row in rows:
            assert row["state"] in ("APPROVED", "DECLINED", "REVERSING", "REVERSED"), row
        now = await eventually(lambda shown=held["id"]: settled(shop, shown), "it does not come to rest")
        effects = [await shop.host.effect(row["rrn"]) for row in rows]
        amounts = now["amounts"]
        assert nothing_reserved(amounts)
        assert sum(net for net, _ in effects) == (amounts["captured"] if now["status"] == "approved" else 0), (now, rows, effects)


async def settled(shop: Shop, shown_id: str) -> Any:
    now = await shop.get(shown_id)
    return now if now["status"] in ("approved", "reversed") and nothing_reserved(now["amounts"]) else None


# Declined, silent, lost, in doubt.


async def original_of(shop: Shop, verb: str, amount: int) -> Any:
    return await (hold(shop, amount) if verb in ("captures", "increments") else sale(shop, amount))


REQUESTS = [("increments", {"amount": 1100}, "increment"), ("voids", None, "void"), ("refunds", {"amount": 1100}, "refund")]
ADVICES = [("captures", {"amount": 1100}, "capture"), ("captures", {"amount": 1100, "final": True}, "capture")]


@pytest.mark.parametrize(("verb", "body", "kind"), REQUESTS)
async def test_a_declined_request_gives_back_what_it_reserved_and_its_original_stands(shop: Shop, verb: str, body: Any, kind: str) -> None:
    original = await original_of(shop, verb, 6600)
    before, key = await money(shop, original["id"]), new_key()
    await shop.host.order("code", "57", {"0": "0100" if kind == "increment" else "0200"})
    answer = await follow(shop, verb, original["id"], body, idempotency_key=key)
    assert (answer.status, answer.body["status"], answer.body["approved_amount"]) == (201, "declined", 0), answer.raw
    assert await money(shop, original["id"]) == before
    again = await follow(shop, verb, original["id"], body, idempotency_key=key)
    assert again.raw == answer.raw
    assert (await follow(shop, verb, original["id"], body)).body["status"] == "approved"


@pytest.mark.parametrize("fault", ["silence", "cut", "code"])
@pytest.mark.parametrize(("verb", "body", "kind"), REQUESTS)
async def test_a_request_in_doubt_keeps_its_reservation_until_it_is_reversed_and_its_original_stands(
        shop: Shop, verb: str, body: Any, kind: str, fault: str) -> None:
    original, host = await original_of(shop, verb, 6700), shop.host
    before, key = await money(shop, original["id"]), new_key()
    if fault == "code":
        await host.order("silence", match={"0": "0420"})  # its reversal waits for its first repeat
    await host.order(fault, {"silence": None, "cut": None, "code": "96"}[fault], {"0": "0100" if kind == "increment" else "0200"})
    answer = await follow(shop, verb, original["id"], body, idempotency_key=key)
    assert (answer.status, answer.body["status"], answer.body["advice"]) == (202, "reversing", "retry_new_key"), answer.raw
    held = await money(shop, original["id"])
    assert held["reserved"] == before["reserved"] | {kind: answer.body["amount"]} and held["captured"] == before["captured"]
    assert held["left_to_refund"] == before["left_to_refund"] - (1100 if kind == "refund" else 0)
    blocked = await follow(shop, "voids", original["id"])
    assert (blocked.status, blocked.body["code"]) == (409, "follow_up_open") and "retry-after" in blocked.headers
    await shop.until(answer.body["id"], "reversed")
    assert await money(shop, original["id"]) == before and (await shop.get(original["id"]))["status"] == "approved"
    assert await host.effect(answer.body["rrn"]) == (0, 0)
    replay = await follow(shop, verb, original["id"], body, idempotency_key=key)
    assert (replay.status, replay.body["status"]) == (202, "reversed")
    reversals = [message for message in await host.received(answer.body["rrn"]) if message["0"] in ("0420", "0421")]
    assert [message["0"] for message in reversals[:2]] == (["0420", "0421"] if fault == "code" else ["0420"])
    await eventually(lambda: lines_up(shop), "the line does not come back")
    assert (await follow(shop, verb, original["id"], body)).body["status"] == "approved"


async def lines_up(shop: Shop) -> bool:
    return all(link.usable() for link in shop.switch.links.values())


@pytest.mark.parametrize("fault", ["silence", "cut", "code"])
@pytest.mark.parametrize(("verb", "body", "kind"), ADVICES)
async def test_an_advice_in_doubt_is_repeated_with_the_same_numbers_until_it_is_answered(shop: Shop, verb: str, body: Any, kind: str, fault: str) -> None:
    original, key = await original_of(shop, verb, 6800), new_key()
    await shop.host.order(fault, {"silence": None, "cut": None, "code": "96"}[fault], {"0": "0220"})
    answer = await follow(shop, verb, original["id"], body, idempotency_key=key)
    assert (answer.status, answer.body["status"], answer.body["advice"], answer.body["reversal"]) == (202, "pending", "none", None), answer.raw
    assert (await money(shop, original["id"]))["reserved"]["capture"] == 1100
    now = await shop.until(answer.body["id"], "approved")
    amounts = await money(shop, original["id"])
    assert (amounts["captured"], amounts["left_to_capture"]) == (1100, 0 if "final" in body else 5700) and nothing_reserved(amounts)
    first, *again = await shop.host.received(now["rrn"])
    assert first["0"] == "0220" and {message["0"] for message in again} == {"0221"} and all(message | {"0": "0220"} == first for message in again)
    assert await shop.host.effect(now["rrn"]) == (1100, 0)
    replay = await follow(shop, verb, original["id"], body, idempotency_key=key)
    assert (replay.status, replay.body["status"]) == (201, "approved")
    await eventually(lambda: lines_up(shop), "the line does not come back")


async def test_a_declined_capture_is_an_alert_and_a_merchants_loss_and_never_a_reversal(shop: Shop) -> None:
    original = await hold(shop, 6900)
    await shop.host.order("code", "57", {"0": "0220"})
    answer = await follow(shop, "captures", original["id"], {"amount": 900})
    assert (answer.status, answer.body["status"]) == (201, "declined")
    amounts = await money(shop, original["id"])
    assert (amounts["captured"], amounts["left_to_capture"]) == (0, 6900) and nothing_reserved(amounts)
    (loss,) = await shop.sql("SELECT * FROM merchant_loss WHERE transaction_id = $1", UUID(answer.body["id"][4:]))
    assert (loss["amount"], loss["currency"], loss["type"], loss["response_code"]) == (900, "CNY", "capture", "57")
    alerts = (await shop.ask("GET", "/v1/alerts", key="operator")).body["items"]
    assert any(alert["kind"] == "capture_declined" and alert["object"] == answer.body["id"] for alert in alerts)
    assert [message["0"] for message in await shop.host.received(answer.body["rrn"])] == ["0220"]


async def test_the_declined_capture_of_a_dual_sale_is_no_longer_captured_and_may_not_be_refunded(shop: Shop) -> None:
    await shop.dual.order("code", "57", {"0": "0220"})
    sold = (await shop.pay(7100, key="dual")).body
    (capture,) = await shop.sql("SELECT transaction_id FROM transaction WHERE original_id = $1", UUID(sold["id"][4:]))
    await shop.until(f"txn_{capture['transaction_id']}", "declined")
    now = await shop.get(sold["id"])
    assert (now["status"], now["amounts"]["captured"]) == ("approved", 0)
    answer = await follow(shop, "refunds", sold["id"], None, "dual")
    assert (answer.status, answer.body["code"]) == (409, "not_refundable")
    (loss,) = await shop.sql("SELECT amount FROM merchant_loss WHERE transaction_id = $1", capture["transaction_id"])
    assert loss["amount"] == 7100


async def test_a_dual_sale_is_neither_refunded_nor_voided_before_its_capture_is_acknowledged(shop: Shop) -> None:
    await shop.dual.order("silence", match={"0": "0220"})
    sold = (await shop.pay(7200, key="dual")).body
    for verb in ("refunds", "voids"):
        answer = await follow(shop, verb, sold["id"], None, "dual")
        assert (answer.status, answer.body["code"]) == (409, "follow_up_open")
    (capture,) = await shop.sql("SELECT transaction_id FROM transaction WHERE original_id = $1", UUID(sold["id"][4:]))
    await shop.until(f"txn_{capture['transaction_id']}", "approved")
    assert (await follow(shop, "voids", sold["id"], None, "dual")).status == 201


async def test_without_a_line_a_request_is_refused_and_an_advice_is_taken_and_said_later(shop: Shop) -> None:
    held, sold, key = await hold(shop, 7300), await sale(shop, 7400), new_key()
    link = shop.switch.links[shop.ids["acquirer.single"]]
    await link.down()
    refused = await follow(shop, "refunds", sold["id"], None, idempotency_key=key)
    assert (refused.status, refused.body["code"], refused.body["processed"]) == (503, "acquirer_unavailable", False)
    capture_key = new_key()
    taken = await follow(shop, "captures", held["id"], {"amount": 7300}, idempotency_key=capture_key)
    assert (taken.status, taken.body["status"]) == (202, "pending")
    await asyncio.sleep(ANSWER_TIMEOUT_MS / 1000)
    async with asyncio.timeout(2):  # nobody waits for an advice that is repeated anyway
        again = await follow(shop, "captures", held["id"], {"amount": 7300}, idempotency_key=capture_key)
    assert (again.status, again.body["id"]) == (202, taken.body["id"])
    await link.up()
    await shop.until(taken.body["id"], "approved")
    assert [message["0"] for message in await shop.host.received(taken.body["rrn"])] == ["0220"]
    assert (await follow(shop, "refunds", sold["id"], None, idempotency_key=key)).status == 201


async def test_a_request_that_a_dead_worker_left_is_reversed_with_its_reservation_and_an_advice_goes_on(shop: Shop) -> None:
    """The rows as a worker leaves them that dies between intent and outcome: SENT, under an epoch whose lease is over."""
    sold = await sale(shop, 7600)
    await shop.host.order("late", 1.5, {"0": "0200"})
    walk = asyncio.create_task(follow(shop, "refunds", sold["id"], {"amount": 600}))
    row = await eventually(lambda: open_follower(shop, sold["id"]), "the refund is not there")
    await shop.sql("UPDATE transaction SET worker_epoch = 0, version = version + 1 WHERE transaction_id = $1", row["transaction_id"])
    assert await shop.switch.recovery.sweep() >= 0
    told = await walk
    assert (told.status, told.body["status"]) == (202, "reversing")
    await shop.until(told.body["id"], "reversed")
    assert (await money(shop, sold["id"]))["left_to_refund"] == 7600
    assert await shop.host.effect(told.body["rrn"]) == (0, 0)


async def open_follower(shop: Shop, shown_id: str) -> Any:
    rows = await shop.sql("SELECT * FROM transaction WHERE original_id = $1 AND state = 'SENT'", UUID(shown_id[4:]))
    return rows[0] if rows else None


async def test_a_late_approval_of_a_declined_refund_is_reversed_and_reserves_nothing_again(shop: Shop) -> None:
    sold = await sale(shop, 7700)
    await shop.host.order("code", "57", {"0": "0200"})
    declined = (await follow(shop, "refunds", sold["id"], {"amount": 7700})).body
    other = await follow(shop, "refunds", sold["id"], {"amount": 7700})
    assert (declined["status"], other.status) == ("declined", 201)
    row = await shop.switch.history.transaction(UUID(declined["id"][4:]))
    assert row is not None
    await shop.switch.authorizations.undo(row, Event.APPROVE)
    amounts = await money(shop, sold["id"])
    assert (amounts["refunded"], amounts["reserved"]["refund"]) == (7700, 0)
    assert (await shop.get(declined["id"]))["status"] in ("reversing", "reversed")


# Days, reversals, keys taken back.


async def test_who_made_a_sale_may_reverse_it_as_long_as_nothing_followed(shop: Shop) -> None:
    sold, key = await sale(shop, 8200), new_key()
    for other in ("neighbour", "merchant.one"):
        answer = await follow(shop, "reversals", sold["id"], None, other)
        assert (answer.status, answer.body["code"]) == (403, "forbidden")
    answer = await follow(shop, "reversals", sold["id"], None, idempotency_key=key)
    assert (answer.status, answer.body["status"]) == (202, "reversing"), answer.raw
    await shop.until(sold["id"], "reversed")
    again = await follow(shop, "reversals", sold["id"], None, idempotency_key=key)
    assert (again.status, again.body["status"]) == (200, "reversed")
    assert (await follow(shop, "reversals", (await sale(shop, 8300))["id"], None, idempotency_key=key)).body["code"] == "idempotency_key_reused"
    assert await shop.host.effect(sold["rrn"]) == (0, 0)
    assert [message["0"] for message in await shop.host.received(sold["rrn"])] == ["0200", "0420"]
    refunded = await sale(shop, 8400)
    assert (await follow(shop, "refunds", refunded["id"], {"amount": 100})).status == 201
    answer = await follow(shop, "reversals", refunded["id"])
    assert (answer.status, answer.body["code"]) == (409, "follow_up_exists")


async def test_a_dual_sale_is_reversed_with_the_capture_it_owed(shop: Shop) -> None:
    sold = await sale(shop, 8500, "dual")
    assert (await follow(shop, "reversals", sold["id"], None, "dual")).status == 202
    await shop.until(sold["id"], "reversed")
    (capture,) = await shop.sql("SELECT rrn, transaction_id FROM transaction WHERE original_id = $1", UUID(sold["id"][4:]))
    await shop.until(f"txn_{capture['transaction_id']}", "reversed")
    assert await shop.dual.effect(sold["rrn"]) == (0, 0) and await shop.dual.effect(capture["rrn"]) == (0, 0)
    assert nothing_reserved(await money(shop, sold["id"])) and (await money(shop, sold["id"]))["captured"] == 0


@pytest.mark.parametrize(("verb", "body", "kind"), [*REQUESTS, *ADVICES])
async def test_a_terminal_that_lost_the_answer_takes_its_follow_up_back_by_key(shop: Shop, verb: str, body: Any, kind: str) -> None:
    original, key = await original_of(shop, verb, 8600), new_key()
    before = await money(shop, original["id"])
    made = (await follow(shop, verb, original["id"], body, idempotency_key=key)).body
    assert made["status"] == "approved"
    answer = await shop.cancel(key)
    assert (answer.status, answer.body["id"], answer.body["status"]) == (202, made["id"], "reversing")
    await shop.until(made["id"], "reversed")
    assert await money(shop, original["id"]) == before
    assert await shop.host.effect(made["rrn"]) == (0, 0)


async def test_what_others_stand_on_is_not_taken_back(shop: Shop) -> None:
    key, sale_key = new_key(), new_key()
    held = (await shop.pay(8700, sale_key, type="preauthorization")).body
    await follow(shop, "captures", held["id"], {"amount": 5000}, idempotency_key=key)
    assert (await follow(shop, "refunds", held["id"], {"amount": 4000})).status == 201
    for each in (key, sale_key):
        answer = await shop.cancel(each)
        assert (answer.status, answer.body["code"]) == (409, "follow_up_exists")
    assert (await money(shop, held["id"]))["refunded"] == 4000
    raised, key = await hold(shop, 8800), new_key()
    await follow(shop, "increments", raised["id"], {"amount": 1000}, idempotency_key=key)
    await follow(shop, "captures", raised["id"], {"amount": 9000})
    answer = await shop.cancel(key)
    assert (answer.status, answer.body["code"]) == (409, "follow_up_exists")


async def test_the_reference_terminal_follows_up_and_sends_the_same_key_again_after_a_power_loss(shop: Shop, tmp_path: Path) -> None:
    held = await hold(shop, 8900)

    def till(journal: str) -> Terminal:
        return Terminal(shop.base, shop.keys["till"], tmp_path / journal, sleep=lambda seconds: None)

    first = till("first")
    taken = await asyncio.to_thread(first.follow, "captures", held["id"], {"amount": 900})
    assert (taken.sold, taken.status, taken.amount) == (True, "approved", 900)
    refused = await asyncio.to_thread(first.follow, "captures", held["id"], {"amount": 9000})
    assert (refused.sold, refused.status) == (False, "409 amount_exceeds_capturable") and first.unfinished == []
    journal, key = till("second"), new_key()
    journal.journal.write({"key": key, "amount": 1000, "currency": "", "path": f"/v1/authorizations/{held['id']}/captures", "body": {"amount": 1000}})
    made = await follow(shop, "captures", held["id"], {"amount": 1000}, idempotency_key=key)  # and the power went before its answer was stored
    (receipt,) = await asyncio.to_thread(journal.resume)
    assert (receipt.sold, receipt.id) == (True, made.body["id"])
    for each in (first, journal):
        each.journal.file.close()
    assert (await money(shop, held["id"]))["captured"] == 1900


# Without an original.


async def test_a_refund_without_a_sale_needs_the_merchants_permission(shop: Shop) -> None:
    body, key = {"card": CARD, "amount": 1700, "currency": "CNY", "reference": "goodwill"}, new_key()
    assert (await shop.ask("POST", "/v1/refunds", body, "till", Idempotency_Key=key)).status == 403
    merchant = shop.shown("merchant.one")
    assert (await shop.ask("PUT", f"/v1/merchants/{merchant}/permissions", {"unreferenced_refunds": True}, "merchant.one")).status == 403
    assert (await shop.ask("PUT", f"/v1/merchants/{merchant}/permissions", {"unreferenced_refunds": True}, "operator")).status == 200
    await shop.caught_up()
    given = await shop.ask("POST", "/v1/refunds", body, "till", Idempotency_Key=key)
    assert (given.status, given.body["status"], given.body["type"], given.body["amount"]) == (201, "approved", "refund", 1700), given.raw
    assert await shop.host.effect(given.body["rrn"]) == (-1700, 0)
    (sent,) = await shop.host.received(given.body["rrn"])
    assert (sent["0"], sent["3"]) == ("0200", "200000") and "90" not in sent
    again = await shop.ask("POST", "/v1/refunds", body, "till", Idempotency_Key=key)
    assert again.raw == given.raw
    assert (await shop.ask("POST", "/v1/refunds", body, "merchant.one", Idempotency_Key=new_key())).status == 403
    await shop.host.order("silence", match={"0": "0200"})
    silent = await shop.ask("POST", "/v1/refunds", body | {"amount": 1800}, "till", Idempotency_Key=new_key())
    assert (silent.status, silent.body["status"]) == (202, "reversing")
    await shop.until(silent.body["id"], "reversed")
    assert await shop.host.effect(silent.body["rrn"]) == (0, 0)


async def advise(shop: Shop, amount: int, key: str | None = None, till: str = "till", **changed: Any) -> Answer:
    body = {"amount": amount, "currency": "CNY", "approval_code": "Y1", "card": OFFLINE, **changed}
    return await shop.ask("POST", "/v1/advices", body, till, Idempotency_Key=key or new_key())


@pytest.mark.parametrize("till", ["till", "dual"])
async def test_an_offline_approval_is_accepted_when_durable_and_said_until_it_is_answered(shop: Shop, till: str) -> None:
    key, host = new_key(), shop.host_of(till)
    await host.order("silence", match={"0": "0220"})
    answer = await advise(shop, 2300, key, till)
    assert (answer.status, answer.body["status"], answer.body["type"], answer.body["approval_code"]) == (201, "accepted", "offline_sale", "Y1")
    now = await shop.until(answer.body["id"], "approved")
    assert (now["payment_status"], now["amounts"]["captured"], now["amounts"]["authorised"]) == ("captured", 2300, 2300)
    again = await advise(shop, 2300, key, till)
    assert again.raw == answer.raw and again.headers["idempotent-replayed"] == "true"
    sent = await host.received(answer.body["rrn"])
    assert [message["0"] for message in sent] == ["0220", "0221"]
    assert (sent[0]["25"], sent[0]["38"].strip(), "90" in sent[0]) == ("00", "Y1", False)
    assert await host.effect(answer.body["rrn"]) == (2300, 0)
    assert (await follow(shop, "refunds", answer.body["id"], {"amount": 300}, till)).body["status"] == "approved"
    void = await follow(shop, "voids", (await advised(shop, 2400, till))["id"], None, till)
    assert (void.status, void.body["status"]) == (201, "approved"), void.raw


async def advised(shop: Shop, amount: int, till: str) -> Any:
    return await shop.until((await advise(shop, amount, till=till)).body["id"], "approved")


async def test_a_declined_offline_approval_is_an_alert_and_a_merchants_loss(shop: Shop) -> None:
    await shop.host.order("code", "51", {"0": "0220"})
    answer = await advise(shop, 2500)
    now = await shop.until(answer.body["id"], "declined")
    assert (now["amounts"]["captured"], now["payment_status"]) == (0, "none")
    (loss,) = await shop.sql("SELECT * FROM merchant_loss WHERE transaction_id = $1", UUID(answer.body["id"][4:]))
    assert (loss["amount"], loss["type"], loss["original_id"]) == (2500, "offline_sale", None)
    alerts = (await shop.ask("GET", "/v1/alerts", key="operator")).body["items"]
    assert any(alert["kind"] == "advice_declined" and alert["object"] == answer.body["id"] for alert in alerts)
    assert [message["0"] for message in await shop.host.received(answer.body["rrn"])] == ["0220"]
    assert (await shop.ask("POST", "/v1/advices", {"amount": 1}, "till", Idempotency_Key=new_key())).status == 422
    assert (await advise(shop, 100, till="merchant.one")).status == 403


# What ends.


async def test_an_expired_authorization_is_released_and_not_captured_any_more(shop: Shop) -> None:
    held, late = await hold(shop, 9100), await hold(shop, 9200)
    await follow(shop, "captures", held["id"], {"amount": 100})
    row = await shop.row(held["id"])
    assert row["expires_at"] - row["outcome_at"] == timedelta(hours=168)
    assert (await shop.get(held["id"]))["expires_at"] is not None
    await shop.sql("UPDATE transaction SET expires_at = now() - interval '1 second', release_at = now(), version = version + 1 WHERE transaction_id = ANY($1::uuid[])",
                   [UUID(each["id"][4:]) for each in (held, late)])
    for verb, code in (("captures", "not_capturable"), ("increments", "not_incrementable")):
        answer = await follow(shop, verb, late["id"], {"amount": 1})
        assert (answer.status, answer.body["code"]) == (409, code) and "expired" in answer.body["detail"]
    for _ in range(2):  # from its end on, and after what is left was released
        now = await shop.get(late["id"])
        assert (now["status"], now["payment_status"], now["amounts"]["left_to_capture"], now["amounts"]["authorised"]) == ("approved", "expired", 0, 9200)
        assert await shop.switch.expiry.sweep() + await shop.switch.expiry.sweep() <= 2
        await eventually(lambda: released(shop, late["id"]), "it is not released")
    for status, there in (("expired", True), ("authorized", False)):
        for key in ("till", "merchant.one", "operator"):
            listed = (await shop.ask("GET", f"/v1/transactions?payment_status={status}&limit=200", key=key)).body["items"]
            assert (late["id"] in [each["id"] for each in listed]) == there and held["id"] not in [each["id"] for each in listed]
    assert (await shop.story(late["id"]))["in_short"].endswith("it expired before anything of it was captured")
    await eventually(lambda: released(shop, held["id"]), "it is not released")
    assert await shop.switch.expiry.sweep() == 0
    amounts = await money(shop, held["id"])
    assert (amounts["captured"], amounts["left_to_capture"], amounts["authorised"]) == (100, 0, 9100)
    answer = await follow(shop, "captures", held["id"], {"amount": 1})
    assert (answer.status, answer.body["code"]) == (409, "not_capturable")
    assert "expired" in {step["what"] for step in (await shop.story(held["id"]))["steps"]}
    assert (await follow(shop, "refunds", held["id"], {"amount": 100})).status == 201


async def released(shop: Shop, shown_id: str) -> bool:
    return bool((await shop.row(shown_id))["released"])


async def test_a_closed_day_ends_voids_and_tips_and_reversals_of_what_was_captured_and_leaves_refunds(shop: Shop) -> None:
    sold, held = await sale(shop, 9300, "dual"), await hold(shop, 9400, "dual")
    day = (await shop.row(sold["id"]))["business_date"]
    await shop.dual.act(cutover=f"{day + timedelta(days=1):%m%d}")

    async def opened() -> bool:
        return shop.switch.directory.acquirers[shop.ids["acquirer.dual"]].business_date == day + timedelta(days=1)

    await eventually(opened, "the day was not opened")
    for verb, body in (("voids", None), ("tips", {"tip_amount": 1}), ("reversals", None)):
        answer = await follow(shop, verb, sold["id"], body, "dual")
        assert (answer.status, answer.body["code"]) == (409, "day_closed"), (verb, answer.raw)
    assert (await follow(shop, "refunds", sold["id"], None, "dual")).status == 201
    assert (await follow(shop, "captures", held["id"], {"amount": 400}, "dual")).status == 201
    assert (await follow(shop, "voids", held["id"], None, "dual")).status == 201  # held yesterday, captured today


async def test_the_acquirers_book_holds_what_the_original_says(shop: Shop) -> None:
    """Everything that this file did: per original, captured less refunded is what the acquirer posted over it and all its follow-ups."""
    await eventually(lambda: quiet(shop), "something is still open", 70)
    rows = await shop.sql("SELECT transaction_id, original_id, acquirer_id, rrn, type, state, amount, captured, refunded, void_reserved FROM transaction")
    posted = {row["transaction_id"]: 0 for row in rows if row["original_id"] is None}
    for host, acquirer in ((shop.host, "acquirer.single"), (shop.dual, "acquirer.dual")):
        effects = await all_effects(host)
        for row in rows:
            if row["acquirer_id"] == shop.ids[acquirer]:
                posted[row["original_id"] or row["transaction_id"]] += effects.get(row["rrn"], 0)
    for row in rows:
        if row["original_id"] is None:
            own = -row["amount"] if row["type"] == "refund" and row["state"] == "APPROVED" else row["captured"] - row["refunded"]
            assert posted[row["transaction_id"]] == own, (dict(row), posted[row["transaction_id"]])
    reserved = "capture_reserved + increment_reserved + refund_reserved + void_reserved + reserved"
    assert await shop.sql(f"SELECT transaction_id FROM transaction WHERE {reserved} <> 0") == []
    assert len(posted) > 60


async def all_effects(host: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in await stub_book(host.control):
        if line["kind"] == "decision":
            found[line["rrn"]] = found.get(line["rrn"], 0) + line["net"]
    return found


async def quiet(shop: Shop) -> bool:
    return (await shop.sql("SELECT count(*) AS n FROM duty WHERE state = 'open' AND last_code IS DISTINCT FROM '25'"))[0]["n"] == 0
