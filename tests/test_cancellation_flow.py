"""Undo by key: whatever the terminal cancels does not stand at the acquirer, and what it did not make stays untouched."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from tests.flows import ANSWER_TIMEOUT_MS, GRACE_MS, ROUTE, Shop, eventually, new_key, open_shop


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("cancellation")) as opened:
        yield opened


async def taken(shop: Shop, till: str = "till") -> bool:
    return bool((await shop.host_of(till).stats())["faults_left"] == 0)


async def captures(shop: Shop, shown_id: str) -> list[dict[str, Any]]:
    return await shop.sql("SELECT * FROM transaction WHERE original_id = $1", UUID(shown_id[4:]))


SALES = [("till", {}), ("till", {"type": "preauthorization"}), ("dual", {"capture_method": "manual"}), ("till", {"type": "cash_advance"})]


@pytest.mark.parametrize(("till", "changed"), SALES)
async def test_an_approved_sale_is_undone_at_the_acquirer(shop: Shop, till: str, changed: dict[str, Any]) -> None:
    key, host = new_key(), shop.host_of(till)
    sold = (await shop.pay(5000, key, till, **changed)).body
    assert sold["status"] == "approved" and sum(await host.effect(sold["rrn"])) == 5000
    answer = await shop.cancel(key, till)
    assert (answer.status, answer.body["id"], answer.body["status"], answer.body["advice"]) == (202, sold["id"], "reversing", "new_payment_allowed")
    assert answer.body["approved_amount"] == 0 and answer.body["reversal"]["cause"] == "undo"
    now = await shop.until(sold["id"], "reversed")
    assert (now["payment_status"], now["amounts"]["captured"], now["reversal"]["closed_by"]) == ("voided", 0, "ack")
    assert await host.effect(sold["rrn"]) == (0, 0)
    request, reversal = await host.received(sold["rrn"])
    assert reversal["0"] == "0420" and reversal["38"] == sold["approval_code"] and reversal["11"] != request["11"]
    assert reversal["90"] == f"{request['0']}{request['11']}{request['7']}{'0' * 22}"
    assert all(reversal[de] == request[de] for de in ("2", "3", "4", "12", "13", "18", "22", "25", "37", "41", "42", "49", "token"))


async def test_cancelling_again_says_the_same_and_sends_nothing_more(shop: Shop) -> None:
    key = new_key()
    sold = (await shop.pay(5100, key)).body
    answers = await asyncio.gather(*(shop.cancel(key) for _ in range(10)))
    assert {answer.status for answer in answers} <= {200, 202} and {answer.body["id"] for answer in answers} == {sold["id"]}
    assert {answer.body["status"] for answer in answers} <= {"reversing", "reversed"}
    await shop.until(sold["id"], "reversed")
    again = await shop.cancel(key)
    assert (again.status, again.body["status"]) == (200, "reversed")
    assert [message["0"] for message in await shop.host.received(sold["rrn"])] == ["0200", "0420"]


async def test_a_declined_sale_stays_declined(shop: Shop) -> None:
    key = new_key()
    declined = (await shop.pay(5151, key)).body
    answer = await shop.cancel(key)
    assert (answer.status, answer.body["status"]) == (200, "declined")
    assert await shop.duty(declined["id"]) is None
    replay = await shop.pay(5151, key)
    assert replay.status == 201 and replay.body["status"] == "declined"


async def test_an_unknown_key_is_burnt_so_that_a_late_original_is_refused(shop: Shop) -> None:
    key = new_key()
    for _ in range(2):
        answer = await shop.cancel(key)
        assert (answer.status, answer.body) == (200, {"id": None, "status": "cancelled", "advice": "new_payment_allowed"})
    late = await shop.pay(5200, key)
    assert (late.status, late.body["code"]) == (409, "cancelled_by_terminal")
    found = await shop.ask("GET", f"{ROUTE}?idempotency_key={key}", key="till")
    assert (found.status, found.body["code"]) == (409, "cancelled_by_terminal")
    assert await shop.by_key(key) == []
    assert (await shop.pay(5200, key, "neighbour")).status == 201  # another terminal's key of the same text is its own


async def test_a_cancellation_that_races_its_original_leaves_nothing_standing(shop: Shop) -> None:
    keys = [new_key() for _ in range(30)]
    both = [asyncio.gather(shop.pay(5300 + at, key, "neighbour"), shop.cancel(key, "neighbour")) for at, key in enumerate(keys)]
    for key, (sale, cancelled) in zip(keys, await asyncio.gather(*both), strict=True):
        assert cancelled.status in (200, 202), cancelled.raw
        if cancelled.body["id"] is None:
            assert (sale.status, sale.body["code"]) == (409, "cancelled_by_terminal")
            assert await shop.by_key(key) == []
        elif cancelled.body["status"] != "declined":
            now = await shop.until(cancelled.body["id"], "reversed", 70)
            assert sum(await shop.host.effect(now["rrn"])) == 0


async def test_cancelling_while_the_answer_is_awaited_undoes_it_and_the_terminal_is_not_told_approved(shop: Shop) -> None:
    key = new_key()
    await shop.host.order("delay", ANSWER_TIMEOUT_MS / 2000)
    sale = asyncio.create_task(shop.pay(5400, key))
    await eventually(lambda: taken(shop), "the sale has not left")
    cancelled = await shop.cancel(key)
    assert (cancelled.status, cancelled.body["status"]) == (202, "reversing")
    answer = await sale
    assert (answer.status, answer.body["status"], answer.body["advice"]) == (202, "reversing", "new_payment_allowed")
    now = await shop.until(answer.body["id"], "reversed")
    assert (now["approved_amount"], now["payment_status"]) == (0, "none")
    assert await shop.host.effect(now["rrn"]) == (0, 0)


async def test_a_dual_sale_and_its_capture_are_both_undone(shop: Shop) -> None:
    key = new_key()
    sold = (await shop.pay(5500, key, "dual")).body
    (capture,) = await captures(shop, sold["id"])
    await shop.until(f"txn_{capture['transaction_id']}", "approved")
    assert (await shop.cancel(key, "dual")).status == 202
    await shop.until(sold["id"], "reversed")
    await shop.until(f"txn_{capture['transaction_id']}", "reversed")
    assert await shop.dual.effect(sold["rrn"]) == (0, 0) and await shop.dual.effect(capture["rrn"]) == (0, 0)
    assert [message["0"] for message in await shop.dual.received(capture["rrn"])] == ["0220", "0420"]


async def test_a_capture_that_is_on_its_way_is_reversed_when_its_answer_comes_after_the_cancellation(shop: Shop) -> None:
    key = new_key()
    await shop.dual.order("delay", GRACE_MS / 1333, {"0": "0220"})  # after the cancellation, before the reversal may leave
    sold = (await shop.pay(5600, key, "dual")).body
    (capture,) = await captures(shop, sold["id"])
    await eventually(lambda: taken(shop, "dual"), "the advice has not left")
    assert (await shop.cancel(key, "dual")).status == 202
    await shop.until(sold["id"], "reversed")
    await shop.until(f"txn_{capture['transaction_id']}", "reversed")
    assert await shop.dual.effect(sold["rrn"]) == (0, 0) and await shop.dual.effect(capture["rrn"]) == (0, 0)
    duty = await shop.duty(f"txn_{capture['transaction_id']}")
    assert duty is not None and (duty["kind"], duty["state"], duty["closed_by"]) == ("reversal", "done", "ack")


async def test_a_capture_whose_advice_was_lost_is_still_reversed(shop: Shop) -> None:
    key = new_key()
    await shop.dual.order("silence", match={"0": "0220"})
    sold = (await shop.pay(5700, key, "dual")).body
    (capture,) = await captures(shop, sold["id"])
    await eventually(lambda: taken(shop, "dual"), "the advice has not left")
    assert (await shop.cancel(key, "dual")).status == 202
    await shop.until(f"txn_{capture['transaction_id']}", "reversed")
    await shop.until(sold["id"], "reversed")
    assert await shop.dual.effect(sold["rrn"]) == (0, 0) and await shop.dual.effect(capture["rrn"]) == (0, 0)


async def test_a_lost_capture_advice_is_repeated_until_it_is_answered(shop: Shop) -> None:
    await shop.dual.order("silence", match={"0": "0220"})
    sold = (await shop.pay(5800, key="dual")).body
    (capture,) = await captures(shop, sold["id"])
    await shop.until(f"txn_{capture['transaction_id']}", "approved")
    assert [message["0"] for message in await shop.dual.received(capture["rrn"])] == ["0220", "0221"]
    assert await shop.dual.effect(capture["rrn"]) == (5800, 0)  # applied once


async def test_the_capture_of_a_sale_is_undone_though_its_worker_died_between_the_two(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_key()
    sold = (await shop.pay(6400, key, "dual")).body
    (capture,) = await shop.sql("SELECT transaction_id FROM transaction WHERE original_id = $1", UUID(sold["id"][4:]))
    shown = f"txn_{capture['transaction_id']}"
    await shop.until(shown, "approved")

    async def dead(*_: Any) -> None:
        pass

    monkeypatch.setattr(shop.switch.authorizations, "undo_captures", dead)  # the sale is undone, and nobody is left for the rest
    assert (await shop.cancel(key, "dual")).status == 202
    for each in (sold["id"], shown):
        now = await shop.until(each, "reversed")
        assert await shop.dual.effect(now["rrn"]) == (0, 0)


async def test_only_its_own_terminal_can_cancel_a_sale(shop: Shop) -> None:
    key = new_key()
    sold = (await shop.pay(5900, key)).body
    for other in ("neighbour", "branch", "dual"):
        answer = await shop.cancel(key, other)
        assert (answer.status, answer.body["id"]) == (200, None)
    for other in ("merchant.one", "operator"):
        assert (await shop.cancel(key, other)).status == 403
    assert (await shop.get(sold["id"]))["status"] == "approved"


BAD = [({}, "invalid"), ({"idempotency_key": "short"}, "invalid"), ({"idempotency_key": 1}, "invalid"), ({"idempotency_key": "a" * 16 + "\n"}, "invalid"),
       ({"idempotency_key": "a" * 16, "id": "x"}, "invalid"), ([], "invalid")]


@pytest.mark.parametrize(("body", "code"), BAD)
async def test_a_cancellation_names_one_key_and_nothing_else(shop: Shop, body: object, code: str) -> None:
    answer = await shop.ask("POST", "/v1/cancellations", body, "till")
    assert (answer.status, answer.body["code"]) == (422, code)


async def test_a_reversal_that_the_host_refuses_or_ignores_is_repeated_as_a_repeat(shop: Shop) -> None:
    key = new_key()
    sold = (await shop.pay(6000, key)).body
    await shop.host.order("code", "96", {"0": "0420"})
    await shop.cancel(key)
    await shop.until(sold["id"], "reversed")
    assert [message["0"] for message in await shop.host.received(sold["rrn"])] == ["0200", "0420", "0421"]
    duty = await shop.duty(sold["id"])
    assert duty is not None and (duty["transmissions"], duty["closed_by"]) == (2, "ack")
    first, again = (await shop.host.received(sold["rrn"]))[1:]
    assert first | {"0": ""} == again | {"0": ""}  # a repeat is the same message
    assert await shop.host.effect(sold["rrn"]) == (0, 0)


async def test_after_a_cut_over_of_the_host_the_day_is_closed_for_cancelling(shop: Shop) -> None:
    key, later = new_key(), new_key()
    sold = (await shop.pay(6100, key)).body
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    await shop.host.act(cutover=f"{tomorrow:%m%d}")

    async def opened() -> bool:
        rows = await shop.sql("SELECT 1 FROM business_day WHERE acquirer_id = $1 AND business_date = $2 AND state = 'open'",
                              shop.ids["acquirer.single"], tomorrow)
        return bool(rows)

    await eventually(opened, "the day was not opened")

    async def closed() -> bool:
        answer = await shop.cancel(key)
        return answer.status == 409 and answer.body["code"] == "day_closed"

    async def sells_on_the_new_day() -> bool:
        answer = await shop.pay(6200, later, "branch")
        return answer.status == 201

    await eventually(sells_on_the_new_day, "nothing is sold after the cut-over")
    row = await shop.row((await shop.pay(6200, later, "branch")).body["id"])
    if row["business_date"] != tomorrow:  # sold before the record came; the next one is not
        await eventually(lambda: _on(shop, tomorrow), "the new day is not used")
    await eventually(closed, "the closed day can still be cancelled")
    now = await shop.get(sold["id"])
    assert (now["status"], now["payment_status"]) == ("approved", "captured")
    assert await shop.host.effect(sold["rrn"]) == (6100, 0)
    replay = await shop.pay(6100, key)
    assert replay.status == 201 and replay.body["id"] == sold["id"]


async def _on(shop: Shop, day: object) -> bool:
    row = await shop.row((await shop.pay(6300, key="branch")).body["id"])
    return bool(row["business_date"] == day and row["rrn"].startswith(f"{row['business_date']:%Y%j}"[3:]))


async def test_every_state_that_this_file_left_is_closed(shop: Shop) -> None:
    open_duties = await shop.sql("SELECT t.type, t.state, d.* FROM duty d JOIN transaction t USING (transaction_id) WHERE d.state = 'open'")
    assert [duty for duty in open_duties if duty["last_code"] != "25"] == []
