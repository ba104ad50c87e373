"""One authorization from JSON to the acquirer's book and back: codes, types, parts, wire, story, refusals before the intent."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from switch.api.shapes import ApprovedOrDeclined, NotSold, ProblemDetails
from tests.flows import ANSWER_TIMEOUT_MS, Shop, eventually, local_now, new_key, open_shop
from tests.processes import CARD, Answer, stub_book


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("authorization")) as opened:
        yield opened


def outcome(answer: Answer) -> Any:
    """A 201, held against its documented shape."""
    assert answer.status == 201, answer.raw
    ApprovedOrDeclined.model_validate(answer.body, strict=True)
    assert answer.headers["content-type"] == "application/json"
    return answer.body


def unsold(answer: Answer) -> Any:
    assert answer.status == 202, answer.raw
    NotSold.model_validate(answer.body, strict=True)
    return answer.body


def refused(answer: Answer, status: int, code: str) -> Any:
    assert (answer.status, answer.body["code"]) == (status, code), answer.raw
    ProblemDetails.model_validate(answer.body, strict=True)
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.body


DECLINED = [("01", "refer_to_issuer", "call_issuer"), ("05", "do_not_honour", "other_card"), ("51", "insufficient_funds", "other_card"),
            ("54", "expired_card", "other_card"), ("55", "incorrect_pin", "enter_pin"), ("61", None, None),
            ("91", "issuer_unavailable", "retry_new_key")]


@pytest.mark.parametrize(("code", "reason", "advice"), DECLINED)
@pytest.mark.parametrize("key", ["till", "dual"])
async def test_a_decline_is_an_outcome_with_its_reason_and_advice(shop: Shop, key: str, code: str, reason: str | None, advice: str | None) -> None:
    body = outcome(await shop.pay(70000 + int(code), key=key))
    assert (body["status"], body["response_code"], body["payment_status"], body["approved_amount"]) == ("declined", code, "none", 0)
    assert body["approval_code"] is None and set(body["amounts"].values()) == {0}
    if reason:
        assert (body["reason"], body["advice"]) == (reason, advice)
    assert body["reason"] and body["advice"]
    assert await shop.host_of(key).effect(body["rrn"]) == (0, 0)


@pytest.mark.parametrize("amount", [100, 1, 1099, 7700, 999_999_999_999])
async def test_any_other_ending_approves_with_code_and_amounts(shop: Shop, amount: int) -> None:
    if amount % 100 == 1:
        amount += 1
    body = outcome(await shop.pay(amount))
    assert (body["status"], body["payment_status"], body["approved_amount"], body["amount"]) == ("approved", "captured", amount, amount)
    assert (body["response_code"], body["reason"], body["advice"]) == ("00", "approved", "none")
    assert body["amounts"] == {"authorised": amount, "capturable": amount, "captured": amount, "refunded": 0, "charged_back": 0}
    assert re.fullmatch("[0-9]{6}", body["approval_code"]) and re.fullmatch("[0-9]{6}", body["stan"]) and re.fullmatch("[0-9]{12}", body["rrn"])
    assert body["card"] == {"masked_pan": "62123456*******0003", "brand": "unionpay", "entry_mode": "chip"}
    assert body["acquirer"] == shop.shown("acquirer.single")
    assert await shop.host.effect(body["rrn"]) == (amount, 0)
    for stamp in ("created_at", "server_time"):
        assert abs((datetime.now(UTC) - datetime.fromisoformat(body[stamp])).total_seconds()) < 20


async def test_code_96_is_doubt_and_is_reversed(shop: Shop) -> None:
    body = unsold(await shop.pay(1096))
    assert (body["status"], body["advice"], body["reason"]) == ("reversing", "new_payment_allowed", "system_malfunction")
    assert body["reversal"]["state"] == "open"
    await shop.until(body["id"], "reversed")


TYPES = [  # type, key, amount, MTI, DE3, DE25, amounts: captured, payment status, posted, held
    ("purchase", "till", 5000, "0200", "000000", "00", 5000, "captured", (5000, 0)),
    ("purchase", "dual", 5000, "0100", "000000", "00", 5000, "captured", (0, 5000)),
    ("cash_advance", "till", 6000, "0200", "010000", "00", 6000, "captured", (6000, 0)),
    ("cash_advance", "dual", 6000, "0100", "010000", "00", 6000, "captured", (0, 6000)),
    ("preauthorization", "till", 7000, "0100", "000000", "06", 0, "authorized", (0, 7000)),
    ("preauthorization", "dual", 7000, "0100", "000000", "06", 0, "authorized", (0, 7000)),
    ("balance_inquiry", "till", None, "0100", "310000", "00", 0, "none", (0, 0)),
    ("balance_inquiry", "dual", None, "0100", "310000", "00", 0, "none", (0, 0)),
    ("account_verification", "till", None, "0100", "330000", "00", 0, "none", (0, 0)),
    ("account_verification", "dual", None, "0100", "330000", "00", 0, "none", (0, 0)),
]


@pytest.mark.parametrize(("type_", "key", "amount", "mti", "de3", "de25", "captured", "status", "effect"), TYPES)
async def test_each_type_in_each_message_mode(shop: Shop, type_: str, key: str, amount: int | None, mti: str, de3: str, de25: str, captured: int,
                                              status: str, effect: tuple[int, int]) -> None:
    body = outcome(await shop.pay(amount, key=key, type=type_))
    assert (body["type"], body["status"], body["payment_status"]) == (type_, "approved", status)
    assert body["amounts"]["captured"] == captured and body["amounts"]["authorised"] == (amount or 0)
    (sent,) = await shop.host_of(key).received(body["rrn"])
    assert (sent["0"], sent["3"], sent["4"], sent["25"]) == (mti, de3, f"{amount or 0:012d}", de25)
    assert await shop.host_of(key).effect(body["rrn"]) == effect
    if type_ == "balance_inquiry":
        assert body["balances"] == [{"account_type": "00", "amount_type": "02", "currency_code": "156", "amount": 1_000_000}]
    if type_ == "account_verification":
        assert (body["response_code"], body["reason"]) == ("85", "no_reason_to_decline")
    now = await shop.get(body["id"], key)
    assert now["amounts"]["reserved"] == {"capture": 0, "increment": 0, "refund": 0, "void": 0} and now["amounts"]["voided"] == 0
    assert (now["amounts"]["left_to_capture"], now["amounts"]["left_to_refund"]) == (now["amounts"]["capturable"] - now["amounts"]["captured"], now["amounts"]["captured"])
    now["amounts"] = {name: now["amounts"][name] for name in body["amounts"]}
    assert {name: now[name] for name in ("status", "amounts", "payment_status", "approved_amount")} == \
        {name: body[name] for name in ("status", "amounts", "payment_status", "approved_amount")}


async def test_a_dual_sale_owes_its_capture_in_the_same_commit_and_the_acquirer_posts_it(shop: Shop) -> None:
    body = outcome(await shop.pay(8000, key="dual"))
    (capture,) = await shop.sql("SELECT * FROM transaction WHERE original_id = $1", UUID(body["id"][4:]))
    await shop.until(f"txn_{capture['transaction_id']}", "approved")
    assert (capture["type"], capture["exchange"], capture["amount"], capture["mti"]) == ("capture", "advice", 8000, "0220")
    (advice,) = await shop.dual.received(capture["rrn"])
    (request,) = await shop.dual.received(body["rrn"])
    assert (advice["0"], advice["3"], advice["25"], advice["38"]) == ("0220", "000000", "06", body["approval_code"])
    assert advice["90"] == f"0100{body['stan']}{request['7']}{'0' * 22}"
    assert await shop.dual.effect(capture["rrn"]) == (8000, 0)
    told = await shop.story(body["id"])
    assert told["followed_by"] == [{"id": f"txn_{capture['transaction_id']}", "type": "capture", "status": "approved", "amount": 8000}]


async def test_manual_capture_on_a_dual_acquirer_holds_and_sends_no_advice(shop: Shop) -> None:
    body = outcome(await shop.pay(8100, key="dual", capture_method="manual"))
    assert (body["payment_status"], body["amounts"]["captured"]) == ("authorized", 0)
    assert await shop.sql("SELECT 1 FROM transaction WHERE original_id = $1", UUID(body["id"][4:])) == []


@pytest.mark.parametrize("key", ["till", "dual"])
async def test_a_partial_approval_that_the_terminal_accepts_is_approved_with_its_part(shop: Shop, key: str) -> None:
    body = outcome(await shop.pay(3110, key=key, partial_approval="accept"))
    assert (body["status"], body["response_code"], body["amount"], body["approved_amount"]) == ("approved", "10", 3110, 1555)
    assert (body["amounts"]["authorised"], body["amounts"]["captured"], body["payment_status"]) == (1555, 1555, "captured")
    assert sum(await shop.host_of(key).effect(body["rrn"])) == 1555
    assert "in part" in (await shop.story(body["id"]))["in_short"]
    if key == "dual":
        (capture,) = await shop.sql("SELECT amount FROM transaction WHERE original_id = $1", UUID(body["id"][4:]))
        assert capture["amount"] == 1555


@pytest.mark.parametrize("key", ["till", "dual"])
async def test_a_partial_approval_that_the_terminal_refuses_is_reversed(shop: Shop, key: str) -> None:
    body = unsold(await shop.pay(3210, key=key))
    assert (body["status"], body["advice"], body["reason"]) == ("reversing", "new_payment_allowed", "approved_in_part")
    now = await shop.until(body["id"], "reversed")
    assert (now["approved_amount"], now["payment_status"]) == (0, "none")
    assert await shop.host_of(key).effect(body["rrn"]) == (0, 0)
    sent, reversal = await shop.host_of(key).received(body["rrn"])
    assert reversal["0"] == "0420" and reversal["90"] == f"{sent['0']}{sent['11']}{sent['7']}{'0' * 22}"


async def test_tip_and_cashback_are_parts_of_the_amount_and_travel_in_de54(shop: Shop) -> None:
    body = outcome(await shop.pay(9000, tip_amount=700, cashback_amount=300))
    (sent,) = await shop.host.received(body["rrn"])
    assert (sent["4"], sent["54"]) == ("000000009000", "0040156D0000000003000044156D000000000700")
    now = await shop.get(body["id"])
    assert (now["tip_amount"], now["cashback_amount"], now["amount"]) == (700, 300, 9000)


UNSUPPORTED = [
    ({"card": None, "qr": {"code": "123456789012"}}, 422, "not_supported"),
    ({"card": CARD | {"pin": {"block": "A1" * 16, "format": "iso4", "key_id": "z1"}}}, 422, "not_supported"),
    ({"capture_method": "manual"}, 422, "not_supported"),
    ({"type": "cash_advance", "capture_method": "manual"}, 422, "not_supported"),
    ({"type": "preauthorization", "capture_method": "automatic"}, 422, "not_supported"),
]


@pytest.mark.parametrize(("changed", "status", "code"), UNSUPPORTED)
async def test_what_the_acquirer_does_not_offer_is_refused_before_anything_is_written(shop: Shop, changed: Any, status: int, code: str) -> None:
    key = new_key()
    refused(await shop.pay(5000, key, **changed), status, code)
    assert await shop.by_key(key) == []
    outcome(await shop.pay(5000, key))  # the key stayed free


TRACK2 = CARD["pan"] + "D30122010000012345"
EMV = "9F2608A1B2C3D4E5F60718950500000080009A03261123"


async def test_the_wire_carries_what_the_contract_says_and_secrets_reach_the_host(shop: Shop) -> None:
    card = CARD | {"entry_mode": "magstripe", "track2": TRACK2, "sequence_number": "7", "emv": EMV.lower(), "security_code": "123",
                   "pin": {"block": "0123456789abcdef", "format": "iso0", "ksn": "F" * 16}}
    local = local_now(minutes=-3)
    body = outcome(await shop.pay(4200, card=card, local_time=local, terminal_trace="000042", reference="table 9"))
    (sent,) = await shop.host.received(body["rrn"])
    terminal, acceptor = (await shop.sql("SELECT card_acceptor_terminal, card_acceptor FROM acquirer_terminal WHERE terminal_id = $1"
                                         " AND acquirer_id = $2", shop.ids["terminal.till"], shop.ids["acquirer.single"]))[0].values()
    token = sent.pop("token")
    assert len(token) == 32 and sent == {
        "0": "0200", "2": "621234*********0003", "3": "000000", "4": "000000004200", "7": sent["7"], "11": body["stan"],
        "12": local[11:].replace(":", ""), "13": local[5:10].replace("-", ""), "14": "*4", "18": "5812", "22": "021", "23": "007", "25": "00",
        "32": "12345678", "35": f"*{len(TRACK2)}", "37": body["rrn"], "41": terminal, "42": acceptor,
        "43": f"{'Merchant one':<25}{'Shanghai':<13}CN", "49": "156", "52": "*16", "55": f"*{len(EMV)}"}
    assert abs((datetime.now(UTC) - datetime.strptime(f"{datetime.now(UTC).year}{sent['7']}", "%Y%m%d%H%M%S").replace(tzinfo=UTC))
               .total_seconds()) < 20
    assert body["rrn"][:4] == f"{(await shop.row(body['id']))['business_date']:%Y%j}"[3:]
    stored = await shop.row(body["id"])
    assert (stored["terminal_trace"], stored["reference"], stored["card_sequence_number"], stored["emv"]) == ("000042", "table 9", "007", EMV)
    assert (body["terminal_trace"], body["reference"]) == ("000042", "table 9")


ENTRY = [("manual", "012"), ("magstripe", "022"), ("chip", "052"), ("contactless", "072"), ("fallback", "802")]


@pytest.mark.parametrize(("mode", "de22"), ENTRY)
async def test_the_entry_mode_is_told_in_de22(shop: Shop, mode: str, de22: str) -> None:
    body = outcome(await shop.pay(4300, card=CARD | {"entry_mode": mode}))
    assert (await shop.host.received(body["rrn"]))[0]["22"] == de22


@pytest.mark.parametrize(("currency", "numeric"), [("JPY", "392"), ("BHD", "048"), ("USD", "840")])
async def test_amounts_are_minor_units_of_the_currency_on_the_wire(shop: Shop, currency: str, numeric: str) -> None:
    body = outcome(await shop.pay(1500, currency=currency))
    (sent,) = await shop.host.received(body["rrn"])
    assert (sent["49"], sent["4"], body["currency"]) == (numeric, "000000001500", currency)


@pytest.mark.parametrize("pan", ["4111111111111111", "5555555555554444", "378282246310005", "6212345678900000003", "4222222222222", "630400000000"])
async def test_every_length_of_card_number_is_taken_and_shown_masked(shop: Shop, pan: str) -> None:
    body = outcome(await shop.pay(4500, card=CARD | {"pan": pan}))
    masked = body["card"]["masked_pan"]
    shown = 8 if len(pan) >= 16 else 6 if len(pan) >= 13 else 0
    assert len(masked) == len(pan) and masked.startswith(pan[:shown] + "*") and pan not in str(body)
    found = (await shop.ask("GET", f"/v1/transactions?last4={pan[-4:]}&limit=200", key="merchant.one")).body["items"]
    assert body["id"] in {item["id"] for item in found}


async def test_the_story_of_a_plain_sale_is_told_from_its_columns_alone(shop: Shop) -> None:
    body = outcome(await shop.pay(4600))
    told = await shop.story(body["id"])
    assert [step["what"] for step in told["steps"]] == [
        "received at the door", "written down, before anything was sent", "sent to single", "answered with code 00", "outcome written: approved"]
    assert [step["at"] for step in told["steps"]] == sorted(step["at"] for step in told["steps"])
    assert told["steps"][2]["detail"]["2"] == "62123456*******0003" and told["steps"][3]["detail"]["39"] == "00"
    assert "46.00 CNY" in told["in_short"] and "approved" in told["in_short"]
    assert await shop.sql("SELECT 1 FROM transaction_event WHERE transaction_id = $1", UUID(body["id"][4:])) == []
    assert await shop.sql("SELECT 1 FROM unmatched_answer WHERE transaction_id = $1", UUID(body["id"][4:])) == []


async def test_the_intent_is_stored_before_the_host_received_and_the_outcome_after(shop: Shop) -> None:
    row = await shop.row(outcome(await shop.pay(4700))["id"])
    assert row["received_at"] <= row["intent_at"] <= row["sent_at"] <= row["answered_at"] <= row["outcome_at"]
    assert row["sent_at"] <= row["send_not_after"]


async def _waiting(shop: Shop, statement: str) -> bool:
    """Whether a statement of the journal waits for a lock."""
    return bool(await shop.sql("""SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                               AND strpos(query, $1) > 0""", statement))


async def _seen(shop: Shop, amount: int) -> list[Any]:
    return [line for line in await stub_book(shop.host.control) if line["kind"] == "received" and line.get("fields", {}).get("4") == f"{amount:012d}"]


async def test_nothing_is_sent_while_the_intent_is_not_durable(shop: Shop) -> None:
    other = await asyncpg.connect(shop.url)
    try:
        async with other.transaction():
            await other.execute("LOCK TABLE idempotency IN SHARE MODE")
            sale = asyncio.create_task(shop.pay(4800))
            await eventually(lambda: _waiting(shop, "intent_row"), "the intent does not wait")
            assert await _seen(shop, 4800) == [] and not sale.done()
        outcome(await sale)
        assert len(await _seen(shop, 4800)) == 1
    finally:
        await other.close()


async def test_approved_is_not_said_while_the_outcome_is_not_durable(shop: Shop) -> None:
    key, other = new_key(), await asyncpg.connect(shop.url)
    try:
        await shop.host.order("delay", ANSWER_TIMEOUT_MS / 2000, {"4": f"{4900:012d}"})
        sale = asyncio.create_task(shop.pay(4900, key))
        await eventually(lambda: _seen(shop, 4900), "the sale has not left")
        async with other.transaction():
            await other.execute("SELECT 1 FROM transaction WHERE idempotency_key = $1 FOR UPDATE", key)
            ended = asyncio.ensure_future(eventually(lambda: _waiting(shop, "outcome_row"), "the outcome does not wait"))
            await asyncio.wait([sale, ended], return_when=asyncio.FIRST_COMPLETED)
            assert not sale.done(), "approved before it was written down"
            await ended
        assert outcome(await sale)["status"] == "approved"
    finally:
        await other.close()


async def test_a_possible_duplicate_is_named_and_sold_where_the_merchant_only_wants_a_warning(shop: Shop) -> None:
    first = outcome(await shop.pay(12345, reference="a"))
    again = outcome(await shop.pay(12345, reference="b"))
    other = outcome(await shop.pay(12346))
    assert again["possible_duplicate_of"] == first["id"] and "possible_duplicate_of" not in first and "possible_duplicate_of" not in other
    assert "possible_duplicate_of" not in outcome(await shop.pay(12345, key="neighbour"))
    traced = outcome(await shop.pay(12400, terminal_trace="000777"))
    assert outcome(await shop.pay(12500, terminal_trace="000777"))["possible_duplicate_of"] == traced["id"]


async def test_a_possible_duplicate_is_refused_where_the_merchant_wants_that_and_the_key_stays_free(shop: Shop) -> None:
    first, key = outcome(await shop.pay(22345, key="strict")), new_key()
    problem = refused(await shop.pay(22345, key, "strict"), 409, "possible_duplicate")
    assert problem["possible_duplicate_of"] == first["id"]
    assert await shop.by_key(key) == []
    assert (await shop.ask("GET", f"/v1/authorizations?idempotency_key={key}", key="strict")).status == 404
    outcome(await shop.pay(22400, key, "strict"))
    assert outcome(await shop.pay(22345, await _key_of(shop, first), "strict"))["id"] == first["id"]  # its own replay is no duplicate


async def _key_of(shop: Shop, body: Any) -> str:
    return str((await shop.row(body["id"]))["idempotency_key"])


async def test_a_declined_or_reversed_sale_makes_no_duplicate(shop: Shop) -> None:
    outcome(await shop.pay(23405, key="strict"))
    outcome(await shop.pay(23405, key="strict"))
    key = new_key()
    first = outcome(await shop.pay(23500, key, "strict"))
    assert (await shop.cancel(key, "strict")).status == 202
    await shop.until(first["id"], "reversed")
    outcome(await shop.pay(23500, key="strict"))


@pytest.mark.parametrize(("deadline", "status"), [("3", 422), ("3.599", 422), ("3.6", 201), ("35", 201), ("301", 422), ("-1", 422), ("1e2", 422),
                                                  ("NaN", 422), ("", 422)])
async def test_a_request_deadline_must_leave_the_acquirer_and_the_commit_their_time(shop: Shop, deadline: str, status: int) -> None:
    key = new_key()
    body = {"type": "purchase", "amount": 4800, "currency": "CNY", "card": CARD}
    answer = await shop.post(body, key, Request_Deadline=deadline)
    if status == 201:
        outcome(answer)
    else:
        refused(answer, 422, "deadline_too_short" if deadline in ("3", "3.599") else "invalid")
        assert await shop.by_key(key) == []


@pytest.mark.parametrize(("shift", "status"), [({"hours": 23.9}, 201), ({"hours": -23.9}, 201), ({"hours": 24.1}, 422), ({"hours": -24.1}, 422),
                                               ({"days": 366}, 422)])
async def test_a_clock_more_than_a_day_off_its_store_is_refused(shop: Shop, shift: dict[str, float], status: int) -> None:
    answer = await shop.pay(4900, local_time=local_now(**shift))
    assert answer.status == status, answer.raw
    if status == 422:
        assert [error["field"] for error in answer.body["errors"]] == ["local_time"]


def shed(answer: Answer, code: str) -> None:
    """503 before the intent: nothing was written, and the terminal is told so."""
    problem = refused(answer, 503, code)
    assert problem["processed"] is False and int(answer.headers["retry-after"]) >= 1


async def test_without_a_route_the_answer_is_503_and_the_key_stays_free(shop: Shop) -> None:
    key = new_key()
    shed(await shop.pay(5000, key, "lost"), "no_route")
    assert await shop.by_key(key) == []
    assert (await shop.ask("GET", f"/v1/authorizations?idempotency_key={key}", key="lost")).status == 404


async def test_a_full_window_sheds_and_the_same_key_sells_later(shop: Shop) -> None:
    acquirer = f"/v1/acquirers/{shop.shown('acquirer.single')}"
    await _window(shop, acquirer, 1)
    key = new_key()
    await shop.host.order("delay", ANSWER_TIMEOUT_MS / 2000, {"4": "000000005200"})
    slow = asyncio.create_task(shop.pay(5200))
    await eventually(lambda: _taken(shop), "the slow sale has not left")
    shed(await shop.pay(5300, key), "overloaded")
    outcome(await slow)
    assert await shop.by_key(key) == []
    outcome(await shop.pay(5300, key))
    await _window(shop, acquirer, 2048)


async def _taken(shop: Shop) -> bool:
    """Whether the one fault that was ordered has met its message."""
    return (await shop.host.stats())["faults_left"] == 0


async def _window(shop: Shop, acquirer: str, size: int) -> None:
    answer = await shop.ask("PATCH", acquirer, {"max_in_flight": size}, "operator")
    assert answer.status == 200, answer.raw

    async def applied() -> bool:
        links = (await shop.ask("GET", "/v1/links", key="operator")).body["items"]
        return any(link["name"] == "single" and link["window"] == size and link["state"] == "up" for link in links)

    await eventually(applied, "the window was not changed")


async def test_a_line_that_is_down_sheds_and_the_key_sells_when_it_is_up_again(shop: Shop) -> None:
    link, key = f"/v1/links/{shop.shown('acquirer.single')}", new_key()
    assert (await shop.ask("POST", f"{link}/down", key="operator")).status in (200, 202)

    async def state_is(wanted: str) -> bool:
        return {item["name"]: item["state"] for item in (await shop.ask("GET", "/v1/links", key="operator")).body["items"]}["single"] == wanted

    await eventually(lambda: state_is("down"), "the line does not go down")
    shed(await shop.pay(5400, key), "acquirer_unavailable")
    assert await shop.by_key(key) == []
    refused = await shop.ask("POST", f"{link}/sign-on", key="operator")
    assert (refused.status, refused.body["code"]) == (409, "conflict"), "nothing would come of it"
    assert (await shop.ask("POST", f"{link}/up", key="operator")).status in (200, 202)
    await eventually(lambda: state_is("up"), "the line does not come up")
    outcome(await shop.pay(5400, key))


@pytest.mark.parametrize("text", ["5555555555554444", "paid with 5555 5555 5555 4444 12/28", "5555-5555-5555-4444"])
async def test_another_cards_number_in_a_reference_is_refused_and_stands_nowhere(shop: Shop, text: str) -> None:
    card = {"entry_mode": "manual", "pan": "4111111111111111", "expiry": "2812"}
    sale = outcome(await shop.pay(1000))["id"]
    answers = [await shop.pay(1000, card=card, reference=text)]
    for path, body in ((f"/v1/authorizations/{sale}/captures", {}), (f"/v1/authorizations/{sale}/voids", {}), ("/v1/refunds", {"authorization": sale, "amount": 100})):
        answers.append(await shop.ask("POST", path, body | {"reference": text}, Idempotency_Key=new_key()))
    for refused in answers:
        assert (refused.status, refused.body["code"], refused.body["errors"][0]["type"]) == (422, "invalid", "card_number"), refused.raw
        assert b"5555" not in refused.raw
    assert await shop.sql("SELECT 1 FROM transaction WHERE reference LIKE '%4444%'") == []
    assert (await shop.pay(1100, reference="order 5555555555554445 of 2026")).status == 201


async def test_a_drain_ends_what_runs_and_sheds_what_comes(shop: Shop) -> None:
    """The last one of this file: it ends the switch, and a busy machine needs time to ask it something meanwhile."""
    patient = await shop.ask("PATCH", f"/v1/acquirers/{shop.shown('acquirer.single')}", {"answer_timeout_ms": 8000}, "operator")
    assert patient.status == 200, patient.raw
    await shop.host.order("delay", 3.0)
    running, key = asyncio.create_task(shop.pay(5500)), new_key()
    await eventually(lambda: _taken(shop), "the sale has not left")
    stopping = asyncio.create_task(shop.stop())
    await eventually(lambda: _draining(shop), "the switch does not drain")
    shed(await shop.pay(5600, key), "draining")
    assert (await shop.ask("GET", "/readyz")).status == 503
    outcome(await running)
    await stopping
    await shop.start()
    assert await shop.by_key(key) == []
    outcome(await shop.pay(5600, key))


async def _draining(shop: Shop) -> bool:
    return shop.switch.draining
