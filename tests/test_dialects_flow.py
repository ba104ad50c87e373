"""Each dialect end to end: a sale, a decline, a timeout with its reversal and a void, over HTTP, TCP and PostgreSQL, with a host that speaks it."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import flows
import pytest
import pytest_asyncio
from conftest import create_database

from messages.dialect import answer_mti, load
from switch import database
from switch.links import Unmatched
from switch.merchants.onboarding import Onboarding
from tests.processes import stub, stub_book

DIALECTS = ("iso93_ascii", "unionpay_pos", "visa_base1", "mastercard_cis")
HOLDS = {"visa_base1", "mastercard_cis"}  # dual messages without captures and voids: an authorization holds, and clearing is by file
TRACK = "4111111111111111=28121010000012345678"


@dataclass(slots=True)
class Lane:
    shop: flows.Shop
    host: flows.Host
    dialect: str


@pytest_asyncio.fixture(params=DIALECTS, loop_scope="module", scope="module")
async def lane(request: pytest.FixtureRequest, cluster_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lane]:
    folder: Path = tmp_path_factory.mktemp("lane")
    name = request.param
    url = await create_database(cluster_url)
    for each in ("foreign", "shop"):
        (folder / each).mkdir()
    with stub(folder / "foreign", "--dialect", name) as host:
        pool = await database.pool(url, "switch_writer", 2)
        try:
            async with flows.open_shop(url, folder / "shop") as shop:
                office = Onboarding(pool)
                acquirer = await office.acquirer(name.replace("_", "-"), name, "127.0.0.1", host[0], institution_code="12345678",
                                                 message_mode="dual" if name in HOLDS else "single",
                                                 answer_timeout_ms=flows.ANSWER_TIMEOUT_MS, reversal_grace_ms=flows.GRACE_MS)
                await office.route(acquirer.acquirer_id, shop.ids["merchant.four"])
                await shop.caught_up()
                yield Lane(shop, flows.Host(*host), name)
        finally:
            await pool.close()


async def received(lane: Lane) -> list[dict[str, Any]]:
    return [line for line in await stub_book(lane.host.control) if line["kind"] == "received"]


async def net(lane: Lane) -> int:
    """What stands at the host: posted, or held where nothing is posted."""
    return int(sum(line["held" if lane.dialect in HOLDS else "net"] for line in await stub_book(lane.host.control) if line["kind"] == "decision"))


async def sale(lane: Lane, amount: int, **changed: Any) -> Any:
    method = {"capture_method": "manual"} if lane.dialect in HOLDS else {}

    async def sold() -> Any:
        answer = await lane.shop.pay(amount, key="lost", **method, **changed)
        return answer if answer.status in (201, 202) else None

    return await flows.eventually(sold, "the line is not up", 10.0)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_sale_is_approved_and_posted(lane: Lane) -> None:
    before = await net(lane)
    answer = await sale(lane, 12500)
    assert (answer.status, answer.body["status"]) == (201, "approved"), answer.body
    assert await net(lane) == before + 12500


@pytest.mark.asyncio(loop_scope="module")
async def test_a_swiped_sale_carries_its_track_and_nothing_keeps_it(lane: Lane) -> None:
    card = {"entry_mode": "magstripe", "pan": TRACK[:16], "expiry": "2812", "track2": TRACK}
    answer = await sale(lane, 700, card=card)
    assert answer.body["status"] == "approved", answer.body
    row = await lane.shop.row(answer.body["id"])
    assert TRACK[:16] not in row["request_message"]
    assert TRACK[17:] not in row["request_message"]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_decline_says_why_and_moves_nothing(lane: Lane) -> None:
    before = await net(lane)
    answer = await sale(lane, 12551)
    assert (answer.body["status"], answer.body["reason"]) == ("declined", "insufficient_funds"), answer.body
    assert await net(lane) == before


@pytest.mark.asyncio(loop_scope="module")
async def test_a_sale_without_an_answer_is_reversed_at_the_host(lane: Lane) -> None:
    before = await net(lane)
    await sale(lane, 100)
    await lane.host.order("silence")
    answer = await sale(lane, 4200)
    assert answer.status == 202, answer.body
    await lane.shop.until(answer.body["id"], "reversed")
    assert await net(lane) == before + 100
    row, duty = await lane.shop.row(answer.body["id"]), await lane.shop.duty(answer.body["id"])
    assert duty is not None
    assert (duty["stan"] == row["stan"]) == (lane.dialect == "unionpay_pos")
    reversals = [line for line in await received(lane) if line["mti"][:3] in ("040", "042")]
    assert reversals[-1]["fields"]["11"] == duty["stan"]


@pytest.mark.asyncio(loop_scope="module")
async def test_an_inquiry_without_an_answer_is_reversed_only_where_the_host_takes_a_reversal_for_it(lane: Lane) -> None:
    if "balance_inquiry" not in load(lane.dialect).messages:
        return
    await sale(lane, 100)
    await lane.host.order("silence")
    answer = await lane.shop.pay(None, key="lost", type="balance_inquiry")
    assert answer.status == 202, answer.body
    await lane.shop.until(answer.body["id"], "reversed")
    row, duty = await lane.shop.row(answer.body["id"]), await lane.shop.duty(answer.body["id"])
    said = [line for line in await received(lane) if line["mti"][:3] in ("040", "042") and line["fields"]["11"] == duty["stan"]]
    if lane.dialect == "unionpay_pos":
        assert (duty["closed_by"], duty["transmissions"], duty["first_sent_at"], duty["stan"], said) == ("no_effect", 0, None, row["stan"], [])
    else:
        assert (duty["closed_by"], duty["transmissions"], len(said)) == ("ack", 1, 1)
    assert (await sale(lane, 200)).body["status"] == "approved"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_late_approval_does_not_bring_the_sale_back(lane: Lane) -> None:
    before = await net(lane)
    await lane.host.order("late", 0.7)
    await lane.host.order("silence")  # for the reversal, which is therefore open when the answer comes
    answer = await sale(lane, 4300)

    async def recorded() -> Any:
        return await lane.shop.sql("SELECT reason FROM unmatched_answer WHERE transaction_id = $1", UUID(answer.body["id"][4:]))

    assert (await flows.eventually(recorded, "the late answer is not told of its sale"))[0]["reason"] == "late"
    await lane.shop.until(answer.body["id"], "reversed")
    assert await net(lane) == before


@pytest.mark.asyncio(loop_scope="module")
async def test_an_answer_that_comes_after_its_reversal_was_done_is_told_of_its_sale(lane: Lane) -> None:
    before = await net(lane)
    await lane.host.order("late", 2.0)
    answer = await sale(lane, 4400)
    assert answer.status == 202, answer.body
    await lane.shop.until(answer.body["id"], "reversed")
    identity = UUID(answer.body["id"][4:])
    assert await lane.shop.sql("SELECT FROM unmatched_answer WHERE transaction_id = $1", identity) == [], "it came before: this shows nothing"

    async def recorded() -> Any:
        return await lane.shop.sql("SELECT reason FROM unmatched_answer WHERE transaction_id = $1", identity)

    assert (await flows.eventually(recorded, "the late answer is not told of its sale"))[0]["reason"] == "late"
    assert (await lane.shop.get(answer.body["id"]))["status"] == "reversed"
    assert await net(lane) == before


async def closed_as_not_found(lane: Lane, amount: int) -> Any:
    """A sale that the host has booked without a word, and twice said not to know; its row."""
    exact = {"4": f"{amount:012d}"}
    await lane.host.order("silence", match=exact)
    await lane.host.order("code", "25", exact, 2)  # to its reversal
    shown = (await sale(lane, amount)).body["id"]

    async def said_once() -> bool:
        duty = await lane.shop.duty(shown)
        return duty is not None and duty["not_found_at"] is not None and duty["leased_until"] is None

    await flows.eventually(said_once, "the first answer to the reversal is not taken")
    identity = UUID(shown[4:])
    await lane.shop.sql("UPDATE transaction SET send_not_after = now() - interval '1 hour', version = version + 1 WHERE transaction_id = $1", identity)
    await lane.shop.sql("UPDATE duty SET next_attempt_at = now() WHERE transaction_id = $1", identity)
    assert (await lane.shop.until(shown, "reversed"))["reversal"]["closed_by"] == "not_found"
    return await lane.shop.row(shown)


def approval_of(lane: Lane, row: Any) -> dict[str, str]:
    """The host's answer to a stored sale."""
    dialect = load(lane.dialect)
    code = next(code for code, said in dialect.codes.items() if said.verdict == "approved")
    keys = dict(zip(dialect.match["*"], row["match_key"].split("|")[1:], strict=True))
    if "60.2" in keys:
        keys["60"] = f"22{keys.pop('60.2')}00060"
    return {"0": answer_mti(row["mti"]), "3": row["processing_code"], "4": f"{row['amount']:012d}", "38": "123456", "39": code, "49": "156", **keys}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("reason", ["late", "duplicate"])
async def test_an_approval_that_comes_after_its_reversal_found_nothing_is_reversed_after_all(lane: Lane, reason: str) -> None:
    before = await net(lane)
    row = await closed_as_not_found(lane, 4600 if reason == "late" else 4700)
    assert await net(lane) == before + row["amount"], "the host does not have it: this shows nothing"
    await sale(lane, 100)
    lane.shop.switch.evidence.take(
        Unmatched(str(row["acquirer_id"]), approval_of(lane, row), reason, None, row["match_key"], 100, datetime.now(UTC), row["sent_at"]))

    async def again() -> Any:
        duty = await lane.shop.duty(f"txn_{row['transaction_id']}")
        return duty is not None and duty["closed_by"] == "ack"

    await flows.eventually(again, "it is not reversed again")
    assert (await lane.shop.get(f"txn_{row['transaction_id']}"))["status"] == "reversed"
    assert await net(lane) == before + 100


@pytest.mark.asyncio(loop_scope="module")
async def test_a_void_takes_the_sale_back(lane: Lane) -> None:
    if lane.dialect in HOLDS:
        assert not {"capture", "void", "refund"} & set(load(lane.dialect).messages)
        return
    before = await net(lane)
    sold = await sale(lane, 9900)
    voided = await lane.shop.ask("POST", f"/v1/authorizations/{sold.body['id']}/voids", {}, "lost", Idempotency_Key=flows.new_key())
    assert (voided.status, voided.body["status"]) == (201, "approved"), voided.body
    assert await net(lane) == before


@pytest.mark.asyncio(loop_scope="module")
async def test_a_void_without_an_answer_is_itself_reversed(lane: Lane) -> None:
    if lane.dialect in HOLDS:
        assert not {"capture", "void", "refund"} & set(load(lane.dialect).messages)
        return
    before = await net(lane)
    sold = await sale(lane, 8800)
    await lane.host.order("silence")
    voided = await lane.shop.ask("POST", f"/v1/authorizations/{sold.body['id']}/voids", {}, "lost", Idempotency_Key=flows.new_key())
    assert voided.status == 202, voided.body
    await lane.shop.until(voided.body["id"], "reversed")
    assert await net(lane) == before + 8800


@pytest.mark.asyncio(loop_scope="module")
async def test_a_preauthorization_is_captured_in_part(lane: Lane) -> None:
    if lane.dialect in HOLDS:
        assert not {"capture", "void", "refund"} & set(load(lane.dialect).messages)
        return
    before = await net(lane)
    held = await sale(lane, 20000, type="preauthorization")
    assert held.body["status"] == "approved", held.body
    path = f"/v1/authorizations/{held.body['id']}"
    captured = await lane.shop.ask("POST", f"{path}/captures", {"amount": 15000}, "lost", Idempotency_Key=flows.new_key())
    assert captured.status in (201, 202), captured.body
    await lane.shop.until(captured.body["id"], "approved")
    assert await net(lane) == before + 15000


@pytest.mark.asyncio(loop_scope="module")
async def test_a_refund_names_its_sale(lane: Lane) -> None:
    if lane.dialect in HOLDS:
        assert not {"capture", "void", "refund"} & set(load(lane.dialect).messages)
        return
    before = await net(lane)
    sold = await sale(lane, 3000)
    refunded = await lane.shop.ask("POST", "/v1/refunds", {"authorization": sold.body["id"], "amount": 1000}, "merchant.four",
                                   Idempotency_Key=flows.new_key())
    assert refunded.status in (201, 202), refunded.body
    await lane.shop.until(refunded.body["id"], "approved")
    assert await net(lane) == before + 2000


@pytest.mark.asyncio(loop_scope="module")
async def test_what_the_host_cannot_do_is_refused_before_anything_is_sent(lane: Lane) -> None:
    if lane.dialect not in HOLDS:
        assert "increment" not in load(lane.dialect).messages
        held = await sale(lane, 5000, type="preauthorization")
        path, body = f"/v1/authorizations/{held.body['id']}/increments", {"amount": 100}
        answer = await lane.shop.ask("POST", path, body, "lost", Idempotency_Key=flows.new_key())
    else:
        answer = await lane.shop.pay(5000, key="lost")  # automatic capture
    assert (answer.status, answer.body["code"]) == (422, "not_supported"), answer.body


@pytest.mark.asyncio(loop_scope="module")
async def test_a_payment_code_is_sold_where_the_dialect_has_a_field_for_it(lane: Lane) -> None:
    before, code = await net(lane), "6212345678901234567"
    answer = await lane.shop.pay(4500, key="lost", card=None, qr={"code": code}, **({"capture_method": "manual"} if lane.dialect in HOLDS else {}))
    if lane.dialect != "unionpay_pos":
        assert (answer.status, answer.body["code"]) == (422, "not_supported"), answer.body
        return
    assert (answer.status, answer.body["status"], answer.body["card"]) == (
        201, "approved", {"masked_pan": "************", "brand": "unionpay", "entry_mode": "qr"}), answer.body
    assert await net(lane) == before + 4500
    heard = [line["fields"] for line in await received(lane) if line["mti"] == "0200"][-1]
    assert heard["22"] == "032" and heard["59"] == f"*{len(code) + 5}" and not {"2", "14", "35"} & set(heard)
    row = await lane.shop.row(answer.body["id"])
    assert code not in repr(row) and row["pan_sealed"] == b""
    refunded = await lane.shop.ask("POST", "/v1/refunds", {"authorization": answer.body["id"], "amount": 1500}, "merchant.four", Idempotency_Key=flows.new_key())
    await lane.shop.until(refunded.body["id"], "approved")
    assert await net(lane) == before + 3000


@pytest.mark.asyncio(loop_scope="module")
async def test_a_sale_by_payment_code_without_an_answer_is_reversed_without_a_card(lane: Lane) -> None:
    if load(lane.dialect).qr_code is None:
        assert "qr" not in load(lane.dialect).entry_modes
        return
    before = await net(lane)
    await lane.host.order("silence")
    answer = await lane.shop.pay(4600, key="lost", card=None, qr={"code": "6212345678901234568"})
    assert answer.status == 202, answer.body
    await lane.shop.until(answer.body["id"], "reversed")
    assert await net(lane) == before
    undone = [line["fields"] for line in await received(lane) if line["mti"] == "0400"][-1]
    assert not {"2", "14", "59"} & set(undone)


@pytest.mark.asyncio(loop_scope="module")
async def test_what_undoes_a_captured_preauthorization_names_its_capture_where_the_host_knows_it_by_itself(
        lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """UnionPay: a completion is voided as such (60.1 21) and refunded by its DE37; its DE61 has the batch and trace of the completion."""
    if lane.dialect != "unionpay_pos":
        assert "void.capture" not in load(lane.dialect).messages
        return

    async def captured(amount: int) -> tuple[str, Any]:
        held = await sale(lane, 8000, type="preauthorization")
        taken = await lane.shop.ask("POST", f"/v1/authorizations/{held.body['id']}/captures", {"amount": amount}, "lost", Idempotency_Key=flows.new_key())
        assert taken.status == 201, taken.body
        await lane.shop.until(taken.body["id"], "approved")
        return held.body["id"], await lane.shop.row(taken.body["id"])

    reversals, owed = lane.shop.switch.reversals, list[dict[str, str]]()
    made = reversals._message
    monkeypatch.setattr(reversals, "_message", lambda *of: owed.append(message := made(*of)) or message)
    before = await net(lane)
    held, capture = await captured(6000)
    await lane.host.order("silence")
    unheard = await lane.shop.ask("POST", f"/v1/authorizations/{held}/voids", {}, "lost", Idempotency_Key=flows.new_key())
    assert unheard.status == 202
    await lane.shop.until(unheard.body["id"], "reversed")
    said, undone, trace = json.loads((await lane.shop.row(unheard.body["id"]))["request_message"]), owed[-1], capture["stan"]
    assert (said["3"], said["25"], said["4"], said["60"][:2], said["61"][6:12]) == ("200000", "06", "000000006000", "21", trace)
    assert said["37"].strip() == (capture["acquirer_rrn"] or capture["rrn"]).strip()
    assert (undone["0"], undone["61"], undone["60"][:2]) == ("0400", said["61"], "21"), "its reversal names the same"
    assert await net(lane) == before + 6000
    voided = await lane.shop.ask("POST", f"/v1/authorizations/{held}/voids", {}, "lost", Idempotency_Key=flows.new_key())
    assert (voided.status, voided.body["status"]) == (201, "approved"), voided.body
    assert await net(lane) == before

    held, capture = await captured(5000)
    refund = await lane.shop.ask("POST", "/v1/refunds", {"authorization": held, "amount": 1000}, "merchant.four", Idempotency_Key=flows.new_key())
    await lane.shop.until(refund.body["id"], "approved")
    row = await lane.shop.row(refund.body["id"])
    said = json.loads(row["request_message"])
    assert (said["61"][6:12], said["37"].strip()) == (capture["stan"], (capture["acquirer_rrn"] or capture["rrn"]).strip())
    assert row["acquirer_rrn"], "the number that the host gave an advice is kept"
    assert await net(lane) == before + 4000

    held, _ = await captured(3000)
    more = await lane.shop.ask("POST", f"/v1/authorizations/{held}/captures", {"amount": 1000}, "lost", Idempotency_Key=flows.new_key())
    await lane.shop.until(more.body["id"], "approved")
    parts = await lane.shop.ask("POST", f"/v1/authorizations/{held}/voids", {}, "lost", Idempotency_Key=flows.new_key())
    assert (parts.status, parts.body["code"]) == (409, "not_voidable"), parts.body
