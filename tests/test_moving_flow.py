"""A merchant's change of acquirer over HTTP, on two hosts with traffic on it: shares, the way back, follow-ups where it was authorised."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from tests.flows import Shop, eventually, new_key, open_shop
from tests.processes import Answer


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("moving")) as shop:
        yield shop


async def planned(shop: Shop, merchant: str = "one", old: str = "single", new: str = "dual") -> str:
    answer = await shop.ask("POST", "/v1/moves", {"merchant": shop.shown(f"merchant.{merchant}"), "from_acquirer": shop.shown(f"acquirer.{old}"),
                                                  "to_acquirer": shop.shown(f"acquirer.{new}"), "reason": "lower fees"}, key="operator")
    assert answer.status == 201, answer.raw
    return str(answer.body["id"])


async def ask_step(shop: Shop, move: str, event: str, **said: Any) -> Answer:
    return await shop.ask("POST", f"/v1/moves/{move}/steps", {"event": event, "reason": f"{event} it", **said}, key="operator")


async def step(shop: Shop, move: str, event: str, **said: Any) -> Any:
    answer = await ask_step(shop, move, event, **said)
    assert answer.status == 200, answer.raw
    return answer.body


async def refused(shop: Shop, move: str, event: str, code: str, **said: Any) -> str:
    answer = await ask_step(shop, move, event, **said)
    assert (answer.body["code"]) == code, answer.raw
    return str(answer.body["detail"])


async def approved(shop: Shop, amount: int, **more: Any) -> Any:
    """A sale that was approved; one that met a machine standing still is made anew."""
    async def sold() -> Any:
        answer = await shop.pay(amount, **more)
        return answer.body if answer.status == 201 and answer.body["status"] == "approved" else None

    return await eventually(sold, "nothing is approved")


async def where(shop: Shop, key: str = "till") -> str:
    """Where a new sale goes."""
    sold = await approved(shop, 10_000, key=key)
    return "single" if sold["acquirer"] == shop.shown("acquirer.single") else "dual"


async def follow(shop: Shop, original: str, verb: str, body: dict[str, Any]) -> Any:
    path, said = ("/v1/refunds", {"authorization": original, **body}) if verb == "refunds" else (f"/v1/authorizations/{original}/{verb}", body)
    answer = await shop.ask("POST", path, said, key="till", Idempotency_Key=new_key())
    assert answer.status == 201, answer.raw
    return answer.body


async def balanced(shop: Shop, shown_ids: list[str]) -> None:
    """What stands in our books is what stands at the hosts, sale by sale."""
    for each in shown_ids:
        async def same(ident: str = each) -> bool:
            row = await shop.row(ident)
            host = shop.host if row["acquirer_id"] == shop.ids["acquirer.single"] else shop.dual
            posted, held = await host.effect(row["rrn"])
            stands = row["state"] in ("APPROVED", "CONFIRMED")
            return posted + held == (row["amount"] if stands else 0) and (await shop.duty(ident) or {"state": "done"})["state"] == "done"

        await eventually(same, f"{each} differs")


async def test_shares_and_the_way_back_under_traffic_lose_nothing_and_follow_ups_go_where_it_was_authorised(shop: Shop) -> None:
    held, over = [await approved(shop, amount, type="preauthorization", capture_method="manual") for amount in (50_000, 9_000)]
    part = await shop.ask("POST", f"/v1/authorizations/{over['id']}/captures", {"amount": 4_000, "final": True}, "till", Idempotency_Key=new_key())
    assert part.status == 201, part.raw
    await shop.until(part.body["id"], "approved")  # what is left of it is released: nothing of it is open
    before, kept = await approved(shop, 20_000), await approved(shop, 30_000)
    assert held["acquirer"] == before["acquirer"] == shop.shown("acquirer.single")
    move = await planned(shop)
    await step(shop, move, "register")
    open_items = (await shop.ask("GET", f"/v1/moves/{move}/obligations", key="operator")).body["open"]
    assert {"preauthorizations", "unsettled"} <= {each["kind"] for each in open_items}, open_items
    assert next(each["amount"] for each in open_items if each["kind"] == "preauthorizations") == 50_000
    sold: list[Any] = []
    stop = asyncio.Event()

    async def traffic(till: str) -> None:
        while not stop.is_set():
            answer = await shop.pay(10_000, key=till)
            assert answer.status in (201, 202, 503), answer.raw
            if "id" in answer.body:  # else nothing was sent
                sold.append({**answer.body, "till": till})

    running = [asyncio.create_task(traffic(till)) for till in ("till", "branch")]
    shared = await step(shop, move, "share", percent=50)
    assert (shared["state"], shared["share"]) == ("moving", {"percent": 50, "stores": None, "date_from": None})
    await shop.caught_up()
    half = len(sold)
    await eventually(lambda: _enough(sold, half + 40), "no traffic", 20)
    await step(shop, move, "share", percent=100)
    await shop.caught_up()
    full = len(sold)
    await eventually(lambda: _enough(sold, full + 10), "no traffic", 20)
    all_there = len(sold)
    complete = await step(shop, move, "complete")
    assert complete["state"] == "moved"
    notice = {"acquirer": shop.shown("acquirer.single"), "kind": "chargeback", "reference": "MOVED-1", "transaction": before["id"], "amount": 100, "currency": "CNY",
              "reason_code": "10.4", "noticed_on": date.today().isoformat()}
    elsewhere = await shop.ask("POST", "/v1/disputes", notice | {"acquirer": shop.shown("acquirer.dual")}, key="operator", Idempotency_Key=new_key())
    assert elsewhere.status in (404, 409, 422), "the new acquirer has nothing to dispute of it"
    disputed = await shop.ask("POST", "/v1/disputes", notice, key="operator", Idempotency_Key=new_key())
    assert (disputed.status, disputed.body["acquirer"]) == (201, shop.shown("acquirer.single")), disputed.raw
    waits = await refused(shop, move, "finish", "move_waits")
    assert "disputes: 1 of 1.00 CNY" in waits
    assert "preauthorizations: 1 of 500.00 CNY" in waits
    new_sale = next(each for each in sold[full + 4:all_there]
                    if each["status"] == "approved" and each["acquirer"] == shop.shown("acquirer.dual") and each["till"] == "till")  # who gives it back
    back = await step(shop, move, "roll_back")
    assert back["state"] == "rolled_back" and back["share"] is None and back["can"] == []
    await shop.caught_up()
    rest = len(sold)
    await eventually(lambda: _enough(sold, rest + 10), "no traffic", 20)
    stop.set()
    await asyncio.gather(*running)
    halves, whole, back_again = (Counter(each["acquirer"] for each in part if each["status"] == "approved")
                                 for part in (sold[half + 4:full - 4], sold[full + 4:all_there], sold[rest + 4:]))
    assert len(halves) == 2, "half and half is not all of one"
    assert set(whole) == {shop.shown("acquirer.dual")} and set(back_again) == {shop.shown("acquirer.single")}
    captured = await follow(shop, held["id"], "captures", {"amount": 50_000})
    refund = await follow(shop, before["id"], "refunds", {"amount": 19_900})
    voided = await follow(shop, kept["id"], "voids", {})
    assert voided["acquirer"] == shop.shown("acquirer.single")
    assert {captured["acquirer"], refund["acquirer"]} == {shop.shown("acquirer.single")}
    refund_there = await follow(shop, new_sale["id"], "refunds", {"amount": 1_000})
    assert refund_there["acquirer"] == shop.shown("acquirer.dual"), "although everything goes to the old one again"
    await balanced(shop, [each["id"] for each in sold])


async def _enough(sold: list[Any], wanted: int) -> bool:
    return len(sold) >= wanted


async def test_one_store_goes_first_and_a_day_to_come_waits(shop: Shop) -> None:
    move = await planned(shop)
    await step(shop, move, "register")
    await step(shop, move, "share", percent=100, stores=[shop.shown("store.second")])
    await shop.caught_up()
    assert [await where(shop, key) for key in ("till", "branch", "neighbour")] == ["single", "dual", "single"]
    tomorrow = (date.today() + timedelta(days=3)).isoformat()
    await step(shop, move, "share", percent=100, date_from=tomorrow)
    await shop.caught_up()
    assert [await where(shop, key) for key in ("till", "branch")] == ["single", "single"], "its day has not come"
    assert "its day" in await refused(shop, move, "complete", "move_waits")
    await step(shop, move, "share", percent=100, date_from="2026-01-01")
    await shop.caught_up()
    assert [await where(shop, key) for key in ("till", "branch")] == ["dual", "dual"]
    shown = (await shop.ask("GET", f"/v1/moves/{move}", key="operator")).body
    assert [each["event"] for each in shown["events"]] == ["plan", "register", "share", "share", "share"]
    assert all(each["by"] == "Flow Tester" and each["reason"] for each in shown["events"])
    await step(shop, move, "roll_back")
    await shop.caught_up()
    assert await where(shop, "branch") == "single"


async def test_a_reversal_that_was_open_when_the_traffic_moved_goes_to_the_old_acquirer(shop: Shop) -> None:
    move = await planned(shop)
    await step(shop, move, "register")
    await shop.host.order("silence", match={"0": "0200"})
    sold = await shop.pay(30_000)
    assert sold.status == 202, sold.raw
    await step(shop, move, "share", percent=100)
    found = await shop.until(sold.body["id"], "reversed", 15)
    assert found["acquirer"] == shop.shown("acquirer.single")
    await balanced(shop, [sold.body["id"]])
    await step(shop, move, "roll_back")
    await shop.caught_up()


async def test_what_may_not_be_is_refused_and_changes_nothing(shop: Shop) -> None:
    said = {"merchant": shop.shown("merchant.one"), "from_acquirer": shop.shown("acquirer.single"), "to_acquirer": shop.shown("acquirer.dual"), "reason": "x"}
    same = await shop.ask("POST", "/v1/moves", said | {"to_acquirer": said["from_acquirer"]}, key="operator")
    assert (same.status, same.body["errors"][0]["field"]) == (422, "to")
    nowhere = await shop.ask("POST", "/v1/moves", said | {"from_acquirer": said["to_acquirer"], "to_acquirer": said["from_acquirer"]}, key="operator")
    assert (nowhere.status, nowhere.body["code"]) == (409, "conflict")
    move = await planned(shop)
    twice = await shop.ask("POST", "/v1/moves", said, key="operator")
    assert (twice.status, twice.body["code"]) == (409, "already_exists")
    assert "planned cannot share" in await refused(shop, move, "share", "move_step", percent=5)
    registered = await step(shop, move, "register", version=1)
    assert registered["version"] == 2
    stale = await ask_step(shop, move, "cancel", version=1)
    assert (stale.status, stale.body["code"]) == (409, "conflict")
    assert (await ask_step(shop, move, "share")).status == 422, "of how much?"
    assert (await ask_step(shop, move, "share", percent=0)).status == 422
    foreign = await ask_step(shop, move, "share", percent=10, stores=[shop.shown("store.two")])
    assert (foreign.status, foreign.body["errors"][0]["field"]) == (422, "stores"), "another merchant's store"
    general = await shop.ask("POST", "/v1/routes", {"acquirer": said["to_acquirer"], "merchant": said["merchant"], "weight": 5, "brand": "jcb"}, key="operator")
    assert general.status == 201
    assert (await ask_step(shop, move, "share", percent=10)).status == 200, "a rule that leads elsewhere is in nobody's way"
    await step(shop, move, "roll_back")
    await shop.ask("POST", f"/v1/routes/{general.body['id']}/retire", {}, key="operator")
    for event in ("register", "roll_back", "cancel"):
        assert "nothing follows" in await refused(shop, move, event, "move_step")


async def test_a_terminal_without_a_number_is_named_before_anything_moves(shop: Shop) -> None:
    bare = await shop.ask("POST", "/v1/terminals", {"store": shop.shown("store.first"), "name": "Bare", "numbers": []}, key="operator")
    assert bare.status == 201, bare.raw
    move = await planned(shop)
    await step(shop, move, "register")
    shown = (await shop.ask("GET", f"/v1/moves/{move}", key="merchant.one")).body
    assert shown["missing_numbers"] == [bare.body["id"]]
    assert bare.body["id"] in await refused(shop, move, "share", "move_waits", percent=10)
    number = {"acquirer": shop.shown("acquirer.dual"), "card_acceptor_terminal": "NEW00001", "card_acceptor": "NEWMID000000001"}
    assert (await shop.ask("POST", f"/v1/terminals/{bare.body['id']}/numbers", number, key="operator")).status in (200, 201)
    assert (await step(shop, move, "share", percent=10))["missing_numbers"] == []
    await step(shop, move, "roll_back")


async def test_merchants_see_their_own_and_nobody_but_operators_moves_anything(shop: Shop) -> None:
    move = await planned(shop, "three")
    assert (await shop.ask("GET", f"/v1/moves/{move}", key="merchant.three")).status == 200
    assert [each["id"] for each in (await shop.ask("GET", "/v1/moves", key="merchant.three")).body["items"]] == [move]
    for path in (f"/v1/moves/{move}", f"/v1/moves/{move}/obligations", f"/v1/moves?merchant={shop.shown('merchant.three')}"):
        assert (await shop.ask("GET", path, key="merchant.one")).status == 404, path
        assert (await shop.ask("GET", path, key="till")).status == 403, path
    for key in ("merchant.three", "till"):
        assert (await shop.ask("POST", f"/v1/moves/{move}/steps", {"event": "register", "reason": "x"}, key=key)).status == 403
    assert (await shop.ask("POST", f"/v1/moves/mov_{UUID(int=5)}/steps", {"event": "register", "reason": "x"}, key="operator")).status == 404
    await step(shop, move, "cancel")


async def test_the_database_takes_no_step_that_is_none_and_none_without_its_row(shop: Shop) -> None:
    move = UUID((await planned(shop, "three"))[4:])
    with pytest.raises(asyncpg.CheckViolationError, match="does not become"):
        await shop.sql("UPDATE merchant_move SET state = 'moving', version = version + 1 WHERE move_id = $1", move)
    with pytest.raises(asyncpg.CheckViolationError, match="recorded with who"):
        await shop.sql("UPDATE merchant_move SET state = 'registering', version = version + 1 WHERE move_id = $1", move)
    await step(shop, f"mov_{move}", "cancel")
