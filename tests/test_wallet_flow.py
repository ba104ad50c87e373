"""Sales by payment code at a QR wallet, over HTTP on both sides and PostgreSQL: paid, declined, pending until the wallet has spoken, and given back."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from switch.security.pan import PaymentCode
from tests.flows import eventually, new_key
from tests.processes import ask
from tests.wallets import CODE, SECRET, Purse, new_code, open_purse, reachable

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def purse(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Purse]:
    folder: Path = tmp_path_factory.mktemp("purse")
    async with open_purse(database_url, folder) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def calm(purse: Purse) -> AsyncIterator[None]:
    yield
    await purse.forget()


async def until(purse: Purse, shown_id: str, status: str, seconds: float = 25.0) -> Any:
    return await purse.shop.until(shown_id, status, seconds)


async def test_a_paid_code_is_an_approved_and_captured_sale(purse: Purse) -> None:
    answer = await purse.pay(12500, CODE, reference="table 4")
    assert (answer.status, answer.body["status"], answer.body["payment_status"]) == (201, "approved", "captured"), answer.body
    assert answer.body["card"] == {"masked_pan": "************", "brand": "wechat", "entry_mode": "qr"}
    assert answer.body["amounts"]["captured"] == 12500
    assert await purse.net(answer.body["id"]) == 12500
    assert await purse.asked(answer.body["id"]) == ["pay"]


async def test_the_same_key_gives_the_same_answer_and_pays_once(purse: Purse) -> None:
    key, code = new_key(), new_code()
    first, second = await purse.pay(3000, code, key), await purse.pay(3000, code, key)
    assert first.raw == second.raw and second.headers["idempotent-replayed"] == "true"
    assert await purse.net(first.body["id"]) == 3000


@pytest.mark.parametrize(("ending", "reason"), [
    (51, "insufficient_funds"), (54, "expired_payment_code"), (14, "invalid_payment_code"), (61, "exceeds_amount_limit"), (5, "do_not_honour")])
async def test_a_decline_says_why_and_moves_nothing(purse: Purse, ending: int, reason: str) -> None:
    answer = await purse.pay(4000 + ending)
    assert (answer.status, answer.body["status"], answer.body["reason"]) == (201, "declined", reason), answer.body
    assert await purse.net(answer.body["id"]) == 0


async def test_a_code_pays_once(purse: Purse) -> None:
    code = new_code()
    await purse.sold(2000, code=code)
    again = await purse.pay(2100, code)
    assert (again.body["status"], again.body["reason"]) == ("declined", "invalid_payment_code")


async def test_pending_is_202_and_is_asked_for_until_it_is_paid(purse: Purse) -> None:
    key, code = new_key(), new_code()
    answer = await purse.pay(5009, code, key)
    told = answer.body
    assert (answer.status, told["status"], told["reason"], told["advice"], told["reversal"]) == (202, "pending", "payer_decides", "ask_again", None)
    assert told["ask"] == {"path": f"/v1/authorizations/{told['id']}", "after_s": 2}
    duty = await purse.shop.duty(told["id"])
    assert duty is not None and (duty["kind"], duty["state"], duty["cause"]) == ("query", "open", "pending")
    now = await until(purse, told["id"], "approved")
    assert (now["payment_status"], now["amounts"]["captured"], now["advice"]) == ("captured", 5009, "none")
    again = await purse.pay(5009, code, key)
    assert (again.status, again.body["status"]) == (201, "approved")
    assert (await purse.asked(told["id"]))[:2] == ["pay", "query"] and "cancel" not in await purse.asked(told["id"])
    assert await purse.net(told["id"]) == 5009
    asked = (await purse.shop.ask("GET", told["ask"]["path"], key="lost")).body
    assert asked["status"] == "approved"


async def test_a_pending_sale_that_the_payer_refuses_is_declined(purse: Purse) -> None:
    told = (await purse.pay(5108)).body
    await purse.decide(told["id"], "declined", "insufficient_funds")
    now = await until(purse, told["id"], "declined")
    assert (now["reason"], now["advice"]) == ("insufficient_funds", "other_card")
    assert await purse.net(told["id"]) == 0


async def test_a_duplicate_of_a_pending_sale_is_answered_at_once(purse: Purse) -> None:
    key, code = new_key(), new_code()
    told = (await purse.pay(5208, code, key)).body
    again = await purse.pay(5208, code, key)
    assert (again.status, again.body["id"], again.body["status"]) == (202, told["id"], "pending")
    await purse.decide(told["id"], "paid")
    await until(purse, told["id"], "approved")


async def test_past_the_payers_time_the_order_is_closed_by_the_wallets_word_alone(purse: Purse) -> None:
    told = (await purse.pay(5308)).body
    await purse.order("silence", 1, "close")  # the first close is not answered: nothing is concluded from that
    now = await until(purse, told["id"], "declined")
    assert (now["reason"], now["advice"], now["response_code"]) == ("not_paid_in_time", "retry_new_key", "P1")
    asked = await purse.asked(told["id"])
    assert asked[0] == "pay" and asked.count("close") >= 2 and "cancel" not in asked
    assert await purse.net(told["id"]) == 0
    story = await purse.shop.story(told["id"])
    assert "query owed because of pending" in [step["what"] for step in story["steps"]]


async def test_an_order_that_is_paid_when_it_is_to_be_closed_is_sold(purse: Purse) -> None:
    told = (await purse.pay(5408)).body
    await purse.order("garbage", None, "query", None)  # nothing that queries say can be read
    await purse.decide(told["id"], "paid")
    now = await until(purse, told["id"], "approved")
    assert "close" in await purse.asked(told["id"])
    assert now["amounts"]["captured"] == await purse.net(told["id"]) == 5408


BAD = [("garbage", None, "answer_unreadable", "undecodable"), ("garbage", "frame", "answer_unreadable", "undecodable"), ("huge", None, "answer_unreadable", "undecodable"),
       ("wrong", "amount", "answer_unreadable", "differs"), ("wrong", "order", "answer_unreadable", "differs"), ("wrong", "currency", "answer_unreadable", "differs"),
       ("wrong", "status", "answer_unreadable", "undecodable"), ("wrong", "-amount", "answer_unreadable", "undecodable"), ("status", 500, "answer_unreadable", "undecodable"),
       ("unsigned", None, "answer_not_authentic", "not_authentic")]


@pytest.mark.parametrize(("action", "value", "reason", "evidence"), BAD)
async def test_an_answer_that_cannot_be_believed_is_unknown_recorded_and_asked_for(purse: Purse, action: str, value: Any, reason: str, evidence: str) -> None:
    await purse.order(action, value, "pay")
    answer = await purse.pay(6000)
    assert (answer.status, answer.body["status"], answer.body["reason"], answer.body["advice"]) == (202, "pending", reason, "ask_again"), answer.body

    async def recorded() -> Any:
        return await purse.shop.sql("SELECT reason, field FROM unmatched_answer WHERE transaction_id = $1", UUID(answer.body["id"][4:]))

    assert (await eventually(recorded, "no evidence"))[0]["reason"] == evidence
    now = await until(purse, answer.body["id"], "approved")  # it had been paid
    assert now["amounts"]["captured"] == await purse.net(answer.body["id"]) == 6000
    if action == "unsigned":
        alerts = (await purse.shop.ask("GET", "/v1/alerts", key="operator")).body["items"]
        assert ("answer_not_authentic", purse.acquirer) in [(alert["kind"], alert["object"]) for alert in alerts]


@pytest.mark.parametrize(("action", "value", "reason"), [("silence", 3, "no_answer"), ("cut", None, "line_lost")])
async def test_silence_is_pending_and_never_reversed(purse: Purse, action: str, value: Any, reason: str) -> None:
    await purse.order(action, value, "pay")
    answer = await purse.pay(6100)
    assert (answer.status, answer.body["status"], answer.body["reason"]) == (202, "pending", reason), answer.body
    await until(purse, answer.body["id"], "approved")
    assert "cancel" not in await purse.asked(answer.body["id"])


async def test_an_order_that_never_arrived_stays_pending_until_the_wallet_has_said_so_twice(purse: Purse) -> None:
    await purse.order("cut", "before", "pay")
    answer = await purse.pay(6200)
    assert (answer.status, answer.body["status"]) == (202, "pending")

    async def not_found() -> Any:
        duty = await purse.shop.duty(answer.body["id"])
        return duty if duty is not None and duty["not_found_at"] is not None else None

    duty = await eventually(not_found, "the wallet was not asked", 12.0)
    row = await purse.shop.row(answer.body["id"])
    assert row["state"] == "SENT" and duty["next_attempt_at"] > row["send_not_after"]
    cancelled = await purse.shop.cancel(row["idempotency_key"], "lost")
    assert cancelled.status == 202
    await until(purse, answer.body["id"], "reversed")
    assert await purse.net(answer.body["id"]) == 0


async def test_a_terminal_that_cancels_what_is_pending_has_the_order_cancelled(purse: Purse) -> None:
    key = new_key()
    told = (await purse.pay(5508, None, key)).body
    answer = await purse.shop.cancel(key, "lost")
    assert (answer.status, answer.body["status"]) == (202, "reversing")
    now = await until(purse, told["id"], "reversed")
    assert now["payment_status"] == "none" and now["reversal"]["closed_by"] == "ack"
    assert (await purse.asked(told["id"]))[-1] == "cancel" and await purse.net(told["id"]) == 0


async def test_a_cancellation_of_what_was_paid_gives_the_money_back(purse: Purse) -> None:
    key = new_key()
    sold = (await purse.pay(7000, None, key)).body
    assert (await purse.shop.cancel(key, "lost")).status == 202
    await until(purse, sold["id"], "reversed")
    assert await purse.net(sold["id"]) == 0


async def test_a_refund_gives_a_part_back_and_no_more_than_was_paid(purse: Purse) -> None:
    sold = await purse.sold(8000)
    refund = await purse.follow("/v1/refunds", {"authorization": sold["id"], "amount": 3000}, "merchant.four")
    assert (refund.status, refund.body["status"]) == (201, "approved"), refund.body
    assert await purse.net(sold["id"]) == 5000
    assert (await purse.shop.get(sold["id"]))["amounts"]["refunded"] == 3000
    beyond = await purse.follow("/v1/refunds", {"authorization": sold["id"], "amount": 5001}, "merchant.four")
    assert (beyond.status, beyond.body["code"]) == (409, "amount_exceeds_refundable")


async def test_a_pending_refund_holds_its_amount_until_the_wallet_has_done_it(purse: Purse) -> None:
    sold = await purse.sold(8000)
    refund = await purse.follow("/v1/refunds", {"authorization": sold["id"], "amount": 2004}, "merchant.four")
    assert (refund.status, refund.body["status"], refund.body["advice"]) == (202, "pending", "ask_again"), refund.body
    assert (await purse.shop.get(sold["id"]))["amounts"]["reserved"]["refund"] == 2004
    await until(purse, refund.body["id"], "approved")
    amounts = (await purse.shop.get(sold["id"]))["amounts"]
    assert (amounts["refunded"], amounts["reserved"]["refund"]) == (2004, 0)
    assert await purse.net(sold["id"]) == 5996


async def test_a_refund_without_an_answer_is_asked_for_and_done_once(purse: Purse) -> None:
    sold = await purse.sold(8000)
    await purse.order("silence", 3, "refund")
    refund = await purse.follow("/v1/refunds", {"authorization": sold["id"], "amount": 1000}, "merchant.four")
    assert (refund.status, refund.body["status"]) == (202, "pending")
    await until(purse, refund.body["id"], "approved")
    assert await purse.net(sold["id"]) == 7000


async def test_a_declined_refund_gives_its_reservation_back(purse: Purse) -> None:
    sold = await purse.sold(8000)
    refund = await purse.follow("/v1/refunds", {"authorization": sold["id"], "amount": 1003}, "merchant.four")
    assert (refund.status, refund.body["status"]) == (201, "declined")
    assert (await purse.shop.get(sold["id"]))["amounts"]["reserved"]["refund"] == 0


async def test_a_void_takes_all_of_it_back(purse: Purse) -> None:
    sold = await purse.sold(9000)
    voided = await purse.follow(f"/v1/authorizations/{sold['id']}/voids", {})
    assert (voided.status, voided.body["status"]) == (201, "approved"), voided.body
    assert (await purse.shop.get(sold["id"]))["payment_status"] == "voided"
    assert await purse.net(sold["id"]) == 0


@pytest.mark.parametrize(("path", "body"), [("captures", {"amount": 1}), ("tips", {"tip_amount": 1}), ("increments", {"amount": 1})])
async def test_what_a_wallet_cannot_do_is_refused(purse: Purse, path: str, body: dict[str, int]) -> None:
    sold = await purse.sold(1000)
    answer = await purse.follow(f"/v1/authorizations/{sold['id']}/{path}", body)
    assert (answer.status, answer.body["code"]) == (422, "not_supported")


@pytest.mark.parametrize("changed", [{"type": "preauthorization"}, {"capture_method": "manual"}, {"type": "cash_advance"}])
async def test_a_payment_code_pays_purchases_alone(purse: Purse, changed: dict[str, str]) -> None:
    answer = await purse.pay(1000, **changed)
    assert (answer.status, answer.body["code"]) == (422, "not_supported")


async def test_a_card_does_not_go_to_a_wallet(purse: Purse) -> None:
    answer = await purse.shop.pay(1000, key="lost")
    assert (answer.status, answer.body["code"]) == (422, "not_supported")


async def test_the_code_stands_nowhere(purse: Purse) -> None:
    code = new_code()
    sold = (await purse.pay(7709, code)).body
    await until(purse, sold["id"], "approved")
    refused = await purse.pay(1000, code, reference=f"code {code}")
    assert (refused.status, refused.body["code"]) == (422, "invalid") and code not in refused.raw.decode()
    keyed = await purse.pay(1000, code, f"k{code}")
    assert (keyed.status, keyed.body["code"]) == (400, "idempotency_key_malformed")
    row = await purse.shop.row(sold["id"])
    assert row["pan_sealed"] == b"" and code not in repr(row)
    for table in ("transaction", "transaction_event", "duty", "unmatched_answer"):
        assert await purse.shop.sql(f"SELECT 1 FROM {table} t WHERE t::text LIKE '%' || $1 || '%'", code) == []
    assert (await purse.shop.sql("SELECT 1 FROM transaction WHERE pan_token = $1", purse.shop.switch.vault.token(PaymentCode(code)))) != []


async def test_the_secret_is_sealed_and_never_shown(purse: Purse) -> None:
    shown = await purse.shop.ask("GET", f"/v1/acquirers/{purse.acquirer}/account", key="operator")
    assert shown.status == 200 and SECRET not in shown.raw.decode() and shown.body["secret_at"]
    stored = await purse.shop.sql("SELECT * FROM acquirer_secret")
    assert SECRET.encode() not in stored[0]["secret_sealed"]


async def test_a_secret_that_the_wallet_does_not_know_makes_nothing_of_its_answers(purse: Purse) -> None:
    path, options = f"/v1/acquirers/{purse.acquirer}/account", (await purse.shop.ask("GET", f"/v1/acquirers/{purse.acquirer}/account", key="operator")).body["options"]
    assert (await purse.shop.ask("PUT", path, {"options": options, "secret": "another secret for tests"}, "operator")).status == 200
    await purse.shop.caught_up()
    await reachable(purse)
    answer = await purse.pay(6600)
    assert (answer.status, answer.body["status"], answer.body["reason"]) == (202, "pending", "answer_not_authentic"), answer.body
    assert (await purse.shop.ask("PUT", path, {"options": options, "secret": SECRET}, "operator")).status == 200
    await purse.shop.caught_up()
    await reachable(purse)
    assert (await purse.shop.ask("POST", f"/v1/authorizations/{answer.body['id']}/reversals", {}, "lost", Idempotency_Key=new_key())).status == 202
    await until(purse, answer.body["id"], "reversed")


async def test_a_wallet_that_is_away_is_passed_over_before_anything_is_written(purse: Purse) -> None:
    async with purse.shop.switch.writers.acquire() as connection:
        await connection.execute("UPDATE acquirer SET status = 'down' WHERE name = 'wallet'")
    await purse.shop.caught_up()
    answer = await purse.pay(1000)
    assert (answer.status, answer.body["code"], answer.body["processed"]) == (503, "acquirer_unavailable", False)
    async with purse.shop.switch.writers.acquire() as connection:
        await connection.execute("UPDATE acquirer SET status = 'active' WHERE name = 'wallet'")
    await purse.shop.caught_up()
    await reachable(purse)
    await purse.sold(1000)


@pytest.mark.parametrize("field", ["server_name", "ca_file", "certificate_file", "key_file"])
async def test_the_lines_of_a_wallet_take_no_tls_that_would_be_ignored(purse: Purse, field: str) -> None:
    lines = f"/v1/acquirers/{purse.acquirer}/lines"
    (line,) = (await purse.shop.ask("GET", lines, None, "operator")).body["items"]
    value = "wallet.test" if field == "server_name" else "/etc/switch/file.pem"
    for method, path, body in (("POST", lines, {"host": "127.0.0.2", "port": 5000, field: value}), ("PATCH", f"{lines}/{line['id']}", {field: value})):
        answer = await purse.shop.ask(method, path, body, "operator")
        assert (answer.status, [error["field"] for error in answer.body["errors"]]) == (422, [field]), answer.raw
    assert (await purse.shop.ask("PATCH", f"{lines}/{line['id']}", {field: ""}, "operator")).status == 200
    assert (await purse.shop.ask("GET", lines, None, "operator")).body["items"] == [line]


async def test_the_wallet_is_shown_among_the_lines(purse: Purse) -> None:
    lines = (await purse.shop.ask("GET", "/v1/links", key="operator")).body["items"]
    line = next(each for each in lines if each["name"] == "wallet")
    assert (line["state"], line["port"]) == ("up", purse.port) and line["answered"] >= 1


async def test_the_books_agree_at_the_end(purse: Purse) -> None:
    """What the switch holds of each sale is what stands at the wallet."""
    rows = await purse.shop.sql("""SELECT t.transaction_id, t.state, t.captured - t.refunded AS worth FROM transaction t JOIN acquirer a USING (acquirer_id)
        WHERE a.name = 'wallet' AND t.original_id IS NULL""")
    stats = (await ask(purse.control, "GET", "/stats", "")).body
    assert stats["net"]["CNY"] == sum(row["worth"] for row in rows if row["state"] == "APPROVED")
    assert [row for row in rows if row["state"] in ("SENT", "REVERSING", "PARKED")] == []
