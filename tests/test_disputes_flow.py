"""Disputes over real HTTP: notices one by one and as files, evidence, answers, outcomes; nobody sees another's, and nothing is taken twice."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
import pytest_asyncio

from switch import database
from switch.notices.webhooks import TYPES
from switch.settlement.disputes import life
from switch.settlement.disputes.cases import Cases
from switch.settlement.disputes.deadlines import Deadlines
from switch.settlement.jobs.foreman import Foreman
from switch.settlement.jobs.table import Kind, kinds_of
from tests.deadlines import look
from tests.flows import Shop, eventually, new_key, open_shop
from tests.processes import Answer, Caller, run
from tests.test_disputes import file as csv_of
from tests.test_exhibits import HOSTILE, JPEG, PDF, PNG, SOUND
from tests.test_openapi import faults, fits

TODAY = f"{datetime.now(UTC):%Y-%m-%d}"


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("disputes"), SWITCH_WEBHOOK_TARGETS="any") as opened:
        yield opened


@pytest_asyncio.fixture(scope="module")
async def spec(shop: Shop) -> Any:
    return (await shop.ask("GET", "/openapi.json")).body


def notice(shop: Shop, sale: str, amount: int = 10_000, reference: str = "", **more: Any) -> dict[str, Any]:
    return {"acquirer": shop.shown("acquirer.single"), "kind": "chargeback", "reference": reference or f"CB-{new_key()[:12]}", "transaction": sale, "amount": amount,
            "currency": "CNY", "reason_code": "4853", "noticed_on": TODAY} | more


async def post(shop: Shop, path: str, body: Any, key: str = "operator", idempotency_key: str | None = None) -> Answer:
    return await shop.ask("POST", path, body, key, Idempotency_Key=idempotency_key or new_key())


async def opened(shop: Shop, amount: int = 10_000, sold: int = 10_000, key: str = "till", **more: Any) -> dict[str, Any]:
    """A sale, and a dispute about it."""
    sale = (await shop.pay(sold, key=key)).body["id"]
    answer = await post(shop, "/v1/disputes", notice(shop, sale, amount, **more))
    assert answer.status == 201, answer.raw
    return dict(answer.body)


async def upload(shop: Shop, dispute: str, content: bytes, media_type: str = "application/pdf", name: str = "slip.pdf", key: str = "merchant.one",
                 idempotency_key: str | None = None, **headers: str) -> Answer:
    caller = Caller()
    lines = [f"POST /v1/disputes/{dispute}/evidence?name={quote(name)} HTTP/1.1", "Host: switch", f"Authorization: Bearer {shop.keys.get(key, key)}",
             f"Content-Length: {len(content)}", f"Content-Type: {media_type}", f"Idempotency-Key: {idempotency_key or new_key()}",
             *(f"{each.replace('_', '-')}: {value}" for each, value in headers.items())]
    try:
        return await caller.ask(shop.base, "\r\n".join(lines).encode() + b"\r\n\r\n" + content)
    finally:
        caller.close()


async def bring(shop: Shop, raw: bytes, acquirer: str | None = None, key: str = "operator", media_type: str = "text/csv") -> Answer:
    caller = Caller()
    lines = [f"POST /v1/dispute-notices?acquirer={acquirer or shop.shown('acquirer.single')} HTTP/1.1", "Host: switch", f"Authorization: Bearer {shop.keys[key]}",
             f"Content-Length: {len(raw)}", f"Content-Type: {media_type}"]
    try:
        return await caller.ask(shop.base, "\r\n".join(lines).encode() + b"\r\n\r\n" + raw)
    finally:
        caller.close()


async def posted(shop: Shop, dispute: str) -> dict[str, int]:
    """What stands in the ledger for a dispute, by kind of account."""
    return {row["kind"]: row["sum"] for row in await shop.sql(
        "SELECT a.kind, sum(e.amount)::bigint AS sum FROM ledger_entry e JOIN account a USING (account_id) WHERE e.object = $1 GROUP BY a.kind", dispute)}


async def test_a_chargeback_is_answered_and_won(shop: Shop, spec: Any) -> None:
    dispute = await opened(shop, 4000)
    ident = dispute["id"]
    assert (dispute["state"], dispute["amount"], dispute["charged"], dispute["brand"]) == ("chargeback", 4000, 4000, "unionpay")
    assert await posted(shop, ident) == {"merchant": -4000, "dispute": 0, "acquirer": 4000}
    sale = await shop.get(dispute["transaction"])
    assert (sale["payment_status"], sale["amounts"]["charged_back"], sale["amounts"]["left_to_refund"]) == ("charged_back", 4000, 6000)
    (balance,) = (await shop.ask("GET", "/v1/balance", key="merchant.one")).body["items"]
    open_ones = (await shop.sql("SELECT sum(charged)::bigint AS sum FROM dispute WHERE merchant_id = $1 AND closed_at IS NULL", shop.ids["merchant.one"]))[0]["sum"]
    assert balance["disputed"] == open_ones >= 4000 and balance["posted"] <= -4000
    void = await post(shop, f"/v1/authorizations/{dispute['transaction']}/voids", {}, "till")
    undo = await post(shop, f"/v1/authorizations/{dispute['transaction']}/reversals", {}, "till")
    assert (void.status, undo.status) == (409, 409), "what is charged back is not undone as well"
    taken = await upload(shop, ident, PDF)
    fits(spec, "post", "/v1/disputes/{dispute}/evidence", taken)
    assert (taken.status, taken.body["size"], taken.body["media_type"]) == (201, len(PDF), "application/pdf")
    answer = await post(shop, f"/v1/disputes/{ident}/represent", {"files": [taken.body["id"]], "statement": "Delivered.\nSigned for."}, "merchant.one")
    fits(spec, "post", "/v1/disputes/{dispute}/represent", answer)
    assert (answer.status, answer.body["state"], answer.body["answer_by"]) == (200, "represented", None)
    late = await upload(shop, ident, PNG, "image/png", "late.png")
    assert (late.status, late.body["code"]) == (409, "dispute_waits")
    won = await post(shop, f"/v1/disputes/{ident}/decide", {"outcome": "won", "note": "Letter of today"})
    fits(spec, "post", "/v1/disputes/{dispute}/decide", won)
    assert (won.body["state"], won.body["charged"], won.body["closed_at"] is None) == ("won", 0, False)
    assert await posted(shop, ident) == {"merchant": 0, "dispute": 0, "acquirer": 0}
    assert (await shop.get(dispute["transaction"]))["amounts"]["charged_back"] == 0
    whole = await shop.ask("GET", f"/v1/disputes/{ident}", key="merchant.one")
    fits(spec, "get", "/v1/disputes/{dispute}", whole)
    assert [(event["event"], event["state"], event["by"]) for event in whole.body["events"]] == [
        ("charge_back", "chargeback", "operator"), ("represent", "represented", shop.shown("merchant.one")), ("win", "won", "operator")]
    assert (await shop.ask("GET", f"/v1/disputes/{ident}", key="operator")).body["events"][0]["by"] == "person:Flow Tester"
    assert whole.body["events"][1]["files"] == [taken.body["id"]] and whole.body["evidence"] == [taken.body]
    for path, body in (("represent", {"statement": "Again"}), ("accept", {}), ("decide", {"outcome": "lost"})):
        closed = await post(shop, f"/v1/disputes/{ident}/{path}", body)
        assert (closed.status, closed.body["code"]) == (409, "dispute_closed")


async def test_a_retrieval_moves_nothing_and_may_become_a_chargeback_of_a_part(shop: Shop) -> None:
    dispute = await opened(shop, reference="RR-1", kind="retrieval")
    assert (dispute["state"], dispute["charged"]) == ("retrieval", 0) and await posted(shop, dispute["id"]) == {}
    answered = await post(shop, f"/v1/disputes/{dispute['id']}/represent", {"statement": "The slip is enclosed"}, "merchant.one")
    assert answered.body["state"] == "answered"
    body = notice(shop, dispute["transaction"], 2500, "RR-1")
    for _ in range(2):  # the second one is known
        charged = await post(shop, "/v1/disputes", body)
        assert (charged.status, charged.body["id"], charged.body["state"], charged.body["charged"]) == (201, dispute["id"], "chargeback", 2500)
    other = (await shop.pay(10_000)).body["id"]
    for wrong, code in (({"transaction": other}, "already_exists"), ({"amount": 2499}, "conflict"), ({"currency": "USD"}, "conflict")):
        refused = await post(shop, "/v1/disputes", body | wrong)
        assert (refused.status, refused.body["code"]) == (409, code), refused.raw
    assert (await post(shop, f"/v1/disputes/{dispute['id']}/accept", {}, "merchant.one")).body["state"] == "accepted"
    assert await posted(shop, dispute["id"]) == {"merchant": -2500, "dispute": 0, "acquirer": 2500}


async def test_fees_and_days_are_arranged_with_the_acquirer(shop: Shop, spec: Any) -> None:
    path, route = f"/v1/acquirers/{shop.shown('acquirer.dual')}/dispute-terms", "/v1/acquirers/{acquirer}/dispute-terms"
    example = spec["paths"][route]["put"]["requestBody"]["content"]["application/json"]["example"]
    for body in (example, {"deadlines": [{"kind": "chargeback", "brand": "unionpay", "answer_days": 6, "warn_days": 2}],
                           "fees": [{"kind": "chargeback", "currency": "CNY", "fee": 900, "cost": 700}]}):
        fits(spec, "put", route, await shop.ask("PUT", path, body, "operator"))
    shown = await shop.ask("GET", path, key="operator")
    fits(spec, "get", route, shown)
    assert shown.body["fees"] == [{"kind": "chargeback", "currency": "CNY", "fee": 900, "cost": 700}] and len(shown.body["deadlines"]) == 5
    sale = (await shop.pay(7000, key="dual")).body["id"]
    dispute = (await post(shop, "/v1/disputes", notice(shop, sale, 7000, acquirer=shop.shown("acquirer.dual")))).body
    assert dispute["answer_by"].startswith(f"{datetime.now(UTC) + timedelta(days=7):%Y-%m-%dT00:00:00}")
    assert await posted(shop, dispute["id"]) == {"merchant": -7900, "dispute": 0, "acquirer": 7700, "fee": 900, "cost": -700}
    for wrong in ({"deadlines": [{"kind": "chargeback", "answer_days": 5, "warn_days": 5}]}, {"fees": [{"kind": "won", "currency": "CNY", "fee": 1}]}, {"x": 1},
                  {"deadlines": [{"kind": "chargeback", "answer_days": 181, "warn_days": 5}]}, {"fees": [{"kind": "chargeback", "currency": "CNY", "fee": -1}]},
                  {"fees": [{"kind": "chargeback", "currency": "CNY", "fee": 1}] * 2}):
        assert (await shop.ask("PUT", path, wrong, "operator")).status == 422, wrong
    assert (await shop.ask("PUT", "/v1/acquirers/acq_0192f0c4-7c1e-7aaa-8bbb-1234567890ab/dispute-terms", {}, "operator")).status == 404
    assert [(await shop.ask(method, path, {}, key)).status for method in ("GET", "PUT") for key in ("merchant.one", "till")] == [403] * 4


async def test_a_key_has_one_effect_and_one_answer(shop: Shop) -> None:
    sale = (await shop.pay(10_000)).body["id"]
    key, body = new_key(), notice(shop, sale, 3000)
    together = await asyncio.gather(*(post(shop, "/v1/disputes", body, idempotency_key=key) for _ in range(5)))
    assert {answer.status for answer in together} == {201} and len({answer.raw for answer in together}) == 1
    assert sorted(answer.headers.get("idempotent-replayed", "") for answer in together) == ["", *["true"] * 4]
    assert len(await shop.sql("SELECT 1 FROM dispute WHERE reference = $1", body["reference"])) == 1
    reused = await post(shop, "/v1/disputes", body | {"amount": 1}, idempotency_key=key)
    assert (reused.status, reused.body["code"]) == (422, "idempotency_key_reused")
    ident, answer_key = together[0].body["id"], new_key()
    first = await post(shop, f"/v1/disputes/{ident}/represent", {"statement": "It was delivered"}, "merchant.one", answer_key)
    await post(shop, f"/v1/disputes/{ident}/decide", {"outcome": "lost"})
    again = await post(shop, f"/v1/disputes/{ident}/represent", {"statement": "It was delivered"}, "merchant.one", answer_key)
    assert (again.status, again.raw, again.headers["idempotent-replayed"]) == (200, first.raw, "true")
    file_key = new_key()
    dispute = await opened(shop)
    one = await upload(shop, dispute["id"], PNG, "image/png", "a.png", idempotency_key=file_key)
    two = await upload(shop, dispute["id"], PNG, "image/png", "a.png", idempotency_key=file_key)
    three = await upload(shop, dispute["id"], PNG, "image/png", "b.png")
    other = await upload(shop, dispute["id"], JPEG, "image/jpeg", "a.png", idempotency_key=file_key)
    assert one.raw == two.raw and three.body["id"] == one.body["id"] and (other.status, other.body["code"]) == (422, "idempotency_key_reused")
    for bad in (None, "short"):
        headers = {} if bad is None else {"Idempotency_Key": bad}
        assert (await shop.ask("POST", "/v1/disputes", body, "operator", **headers)).status == 400


async def test_evidence_is_sealed_and_comes_back_as_an_attachment(shop: Shop) -> None:
    dispute = await opened(shop)
    large = JPEG[:-2] + bytes((4 << 20) - len(JPEG)) + JPEG[-2:]
    for media_type, content, ending in (("application/pdf", PDF, "pdf"), ("image/png", PNG, "png"), ("image/jpeg", large, "jpg")):
        taken = await upload(shop, dispute["id"], content, media_type, f"Beleg é.{ending}")
        assert taken.status == 201, taken.raw
        got = await shop.ask("GET", f"/v1/disputes/{dispute['id']}/evidence/{taken.body['id']}", key="merchant.one")
        assert (got.status, got.raw) == (200, content)
        assert {name: got.headers[name] for name in ("content-type", "content-disposition", "x-content-type-options", "content-security-policy", "cache-control")} == {
            "content-type": media_type, "content-disposition": f'attachment; filename="{taken.body["id"]}.{ending}"', "x-content-type-options": "nosniff",
            "content-security-policy": "default-src 'none'; sandbox", "cache-control": "no-store"}
        (stored,) = await shop.sql("SELECT sealed, sha256 FROM dispute_file WHERE file_id = $1", UUID(taken.body["id"][4:]))
        assert content[:16] not in stored["sealed"] and stored["sha256"].hex() == taken.body["sha256"]
        for key in ("merchant.two", "till", "x"):
            assert (await shop.ask("GET", f"/v1/disputes/{dispute['id']}/evidence/{taken.body['id']}", key=key)).status == {"merchant.two": 404, "till": 403, "x": 401}[key]
        elsewhere = await opened(shop)
        assert (await shop.ask("GET", f"/v1/disputes/{elsewhere['id']}/evidence/{taken.body['id']}", key="merchant.one")).status == 404


async def test_hostile_files_are_refused(shop: Shop) -> None:
    dispute = await opened(shop)
    for name, content in HOSTILE.items():
        for media_type in SOUND:
            answer = await upload(shop, dispute["id"], content, media_type)
            assert (answer.status, answer.body["code"]) == (422, "evidence_refused"), (name, answer.raw)
    assert await shop.sql("SELECT 1 FROM dispute_file f JOIN dispute d USING (dispute_id) WHERE d.reference = $1", dispute["reference"]) == []


async def test_uploads_have_bounds(shop: Shop) -> None:
    dispute = await opened(shop)
    for content, media_type, headers, status in (
            (b"", "application/pdf", {}, 422), (PDF, "text/html", {}, 415), (PDF, "application/pdf; charset=utf-8", {}, 415), (PDF, "application/json", {}, 415),
            (PDF, "image/png", {}, 422), (bytes((4 << 20) + 1), "application/pdf", {}, 413), (PDF, "application/pdf", {"Content_Encoding": "gzip"}, 415)):
        assert (await upload(shop, dispute["id"], content, media_type, **headers)).status == status, (media_type, len(content))
    for name in ("../x", "a\nb", "x" * 121, " x", "a/b.pdf", ""):
        assert (await upload(shop, dispute["id"], PDF, name=name)).status == 422, name
    for number in range(10):
        assert (await upload(shop, dispute["id"], PDF[:-6] + b"%d\n%%%%EOF\n" % number)).status == 201
    eleventh = await upload(shop, dispute["id"], PDF[:-6] + b"10\n%%EOF\n")
    assert (eleventh.status, eleventh.body["code"]) == (422, "evidence_refused")
    assert (await upload(shop, "dsp_0192f0c4-7c1e-7aaa-8bbb-1234567890ab", PDF)).status == 404
    assert (await upload(shop, dispute["id"], PDF, key="merchant.two")).status == 404
    assert (await upload(shop, dispute["id"], PDF, key="till")).status == 403


async def test_foreign_is_absent_and_terminals_have_no_say(shop: Shop) -> None:
    dispute = await opened(shop)
    path = f"/v1/disputes/{dispute['id']}"
    for address in (path, "/v1/disputes/dsp_x", f"/v1/disputes?merchant={shop.shown('merchant.one')}"):
        assert (await shop.ask("GET", address, key="merchant.two")).status == 404, address
    for verb, body in (("represent", {"statement": "Mine"}), ("accept", {})):
        assert (await post(shop, f"{path}/{verb}", body, "merchant.two")).status == 404
        assert (await post(shop, f"{path}/{verb}", body, "till")).status == 403
    assert [item["id"] for item in (await shop.ask("GET", "/v1/disputes", key="merchant.two")).body["items"] if item["merchant"] == shop.shown("merchant.one")] == []
    assert (await shop.ask("GET", "/v1/disputes", key="till")).status == (await shop.ask("GET", path, key="till")).status == 403
    for key in ("merchant.one", "till"):
        assert (await post(shop, "/v1/disputes", notice(shop, dispute["transaction"], 1), key)).status == 403
        assert (await post(shop, f"{path}/decide", {"outcome": "won"}, key)).status == 403
        assert (await bring(shop, csv_of(), key=key)).status == 403
    theirs = (await shop.pay(7000, key="dual")).body["id"]
    assert (await post(shop, "/v1/disputes", notice(shop, theirs, 1))).status == 404, "the sale is another acquirer's"


async def test_the_list_is_paged_and_narrowed(shop: Shop, spec: Any) -> None:
    dispute = await opened(shop)
    for query, there in ((f"transaction={dispute['transaction']}", True), ("state=chargeback", True), ("state=won", False), ("open=true", True), ("open=false", False),
                         (f"acquirer={shop.shown('acquirer.dual')}", False)):
        answer = await shop.ask("GET", f"/v1/disputes?{query}&limit=200", key="merchant.one")
        fits(spec, "get", "/v1/disputes", answer)
        assert (dispute["id"] in [item["id"] for item in answer.body["items"]]) == there, query
    first = (await shop.ask("GET", "/v1/disputes?limit=1", key="operator")).body
    second = (await shop.ask("GET", f"/v1/disputes?limit=1&after={first['next']}", key="operator")).body
    assert first["items"][0]["id"] == dispute["id"] > second["items"][0]["id"]
    for query in ("limit=0", "state=x", "open=maybe", "after=x", "transaction=x"):
        assert (await shop.ask("GET", f"/v1/disputes?{query}", key="operator")).status in (404, 422), query


@pytest.mark.parametrize(("changed", "status", "code"), [
    ({"amount": 0}, 422, "invalid"), ({"amount": 10_001}, 409, "amount_exceeds_disputable"), ({"amount": "1"}, 422, "invalid"), ({"currency": "USD"}, 422, "invalid"),
    ({"currency": "cny"}, 422, "invalid"), ({"kind": "won"}, 422, "invalid"), ({"reference": "="}, 422, "invalid"), ({"reference": "4111111111111111"}, 422, "invalid"),
    ({"reference": "x" * 41}, 422, "invalid"), ({"transaction": "txn_0192f0c4-7c1e-7aaa-8bbb-1234567890ab"}, 404, "not_found"), ({"transaction": "x"}, 404, "not_found"),
    ({"transaction": None}, 422, "invalid"), ({"rrn": "632700000017"}, 422, "invalid"), ({"transaction": None, "rrn": "999999999999"}, 404, "not_found"), ({"reason_code": ""}, 422, "invalid"),
    ({"noticed_on": "2099-01-01"}, 422, "invalid"), ({"noticed_on": "2020-01-01"}, 422, "invalid"), ({"noticed_on": "2026-02-30"}, 422, "invalid"), ({"acquirer": "acq_x"}, 404, "not_found"),
    ({"x": 1}, 422, "invalid"), ({"amount": 10**16}, 400, "json_number"),
])
async def test_a_notice_that_makes_no_sense_is_refused_and_posts_nothing(shop: Shop, changed: dict[str, Any], status: int, code: str) -> None:
    sale = (await shop.pay(10_000)).body["id"]
    body = {name: value for name, value in (notice(shop, sale) | changed).items() if value is not None}
    before = await shop.sql("SELECT count(*) FROM transfer")
    answer = await post(shop, "/v1/disputes", body)
    assert (answer.status, answer.body["code"]) == (status, code), answer.raw
    assert "4111" not in answer.raw.decode() and await shop.sql("SELECT count(*) FROM transfer") == before


async def test_words_that_make_no_sense_are_refused(shop: Shop) -> None:
    dispute = await opened(shop)
    path = f"/v1/disputes/{dispute['id']}"
    mine = (await upload(shop, (await opened(shop))["id"], PDF)).body["id"]
    for verb, body, status, code in (
            ("represent", {}, 422, "evidence_missing"), ("represent", {"files": [mine]}, 422, "invalid"), ("represent", {"files": ["dsf_x"]}, 404, "not_found"),
            ("represent", {"statement": "card 4111111111111111"}, 422, "invalid"), ("represent", {"statement": "a\0b"}, 400, "json_nul"), ("represent", {"statement": " "}, 422, "invalid"),
            ("represent", {"statement": "x" * 2001}, 422, "invalid"), ("represent", {"files": [mine] * 11}, 422, "invalid"), ("represent", {"x": 1}, 422, "invalid"),
            ("decide", {"outcome": "maybe"}, 422, "invalid"), ("decide", {}, 422, "invalid"), ("decide", {"outcome": "pre_arbitration"}, 409, "dispute_move"), ("accept", [], 422, "invalid")):
        answer = await post(shop, f"{path}/{verb}", body)
        assert (answer.status, answer.body["code"]) == (status, code), (verb, body, answer.raw)
    assert (await shop.ask("GET", path, key="operator")).body["state"] == "chargeback"


async def test_a_refund_and_a_chargeback_race_for_the_same_money(shop: Shop) -> None:
    """Two commits at once: one of them gets it, and never more than was captured."""
    won = set()
    for turn in range(12):
        sale = (await shop.pay(10_000)).body["id"]
        refund = post(shop, "/v1/refunds", {"authorization": sale, "amount": 7000}, "till")
        charge = post(shop, "/v1/disputes", notice(shop, sale, 7000))
        answers = await asyncio.gather(*((refund, charge) if turn % 2 else (charge, refund)))
        refunded, charged = answers if turn % 2 else answers[::-1]
        assert {refunded.status, charged.status} == {201, 409}, (refunded.raw, charged.raw)
        loser = refunded if refunded.status == 409 else charged
        assert loser.body["code"] in ("amount_exceeds_refundable", "amount_exceeds_disputable")
        amounts = (await shop.get(sale))["amounts"]
        assert amounts["refunded"] + amounts["charged_back"] == 7000
        won.add(refunded.status)
    assert won, "somebody won"


async def test_a_file_opens_moves_and_closes(shop: Shop, spec: Any) -> None:
    sales = [(await shop.pay(amount)).body for amount in (5000, 6000)]
    first = csv_of(f"chargeback,F-1,,{sales[0]['rrn']},5000,CNY,4853,{TODAY}", f"retrieval,F-2,{sales[1]['id']},,6000,CNY,4800,{TODAY}", first="disputes,1,single,1")
    taken = await bring(shop, first)
    fits(spec, "post", "/v1/dispute-notices", taken)
    assert (taken.status, taken.body["lines"], taken.body["total"], taken.body["changed"]) == (201, 2, 11_000, 2)
    before = await shop.sql("SELECT count(*) AS transfers, (SELECT count(*) FROM dispute_event) AS events FROM transfer")
    again = await bring(shop, first)
    fits(spec, "post", "/v1/dispute-notices", again)
    assert (again.status, again.body) == (200, taken.body)
    assert await shop.sql("SELECT count(*) AS transfers, (SELECT count(*) FROM dispute_event) AS events FROM transfer") == before
    second = await bring(shop, csv_of(f"chargeback,F-1,,{sales[0]['rrn']},5000,CNY,4853,{TODAY}", f"lost,F-1,,,5000,CNY,4853,{TODAY}",
                                      f"chargeback,F-2,{sales[1]['id']},,2000,CNY,4853,{TODAY}", first="disputes,1,12345678,2"))
    assert (second.status, second.body["changed"]) == (201, 2), second.raw
    third = await bring(shop, csv_of(f"lost,F-1,,,5000,CNY,4853,{TODAY}", first="disputes,1,single,3"))
    assert (third.status, third.body["changed"]) == (201, 0), "what is known changes nothing"
    states = {row["reference"]: (row["state"], row["charged"]) for row in await shop.sql("SELECT reference, state, charged FROM dispute WHERE reference LIKE 'F-%'")}
    assert states == {"F-1": ("lost", 5000), "F-2": ("chargeback", 2000)}


async def test_a_file_that_is_not_right_is_refused_whole_and_nothing_is_posted(shop: Shop) -> None:
    sale = (await shop.pay(5000)).body
    sound = f"chargeback,G-1,,{sale['rrn']},5000,CNY,4853,{TODAY}"
    before = await shop.sql("SELECT count(*) AS transfers, (SELECT count(*) FROM dispute) AS disputes, (SELECT count(*) FROM dispute_notice_file) AS files FROM transfer")
    for lines, line in (([sound, sound.replace("G-1", "G-2")], 4), ([sound, f"won,G-9,,,5000,CNY,4853,{TODAY}"], 4), ([sound, sound.replace("G-1", "G-3").replace(sale["rrn"], "999999999999")], 4),
                        ([sound, f"won,G-1,,,4999,CNY,4853,{TODAY}"], 4), ([sound, f"pre_arbitration,G-1,,,5000,CNY,4853,{TODAY}"], 4), ([sound.replace("CNY", "USD")], 3),
                        ([sound.replace("5000", "5001")], 3), ([sound.replace(TODAY, "2099-01-01")], 3)):
        answer = await bring(shop, csv_of(*lines, first="disputes,1,single,90"))
        assert (answer.status, answer.body["code"], answer.body["errors"][0]["field"]) == (422, "file_refused", f"line {line}"), answer.raw
    for raw in (b"", b"PK\3\4", csv_of(sound, first="disputes,1,dual,90"), csv_of(sound, first="disputes,1,single,90")[:-3]):
        assert (await bring(shop, raw)).status == 422
    assert (await bring(shop, csv_of(sound), media_type="application/json")).status == 415
    assert (await bring(shop, csv_of(sound), acquirer="acq_x")).status == 404
    assert (await bring(shop, bytes((4 << 20) + 1))).status == 413
    assert await shop.sql("SELECT count(*) AS transfers, (SELECT count(*) FROM dispute) AS disputes, (SELECT count(*) FROM dispute_notice_file) AS files FROM transfer") == before
    assert (await shop.get(sale["id"]))["amounts"]["charged_back"] == 0
    assert (await bring(shop, csv_of(sound, first="disputes,1,single,91"))).status == 201
    other = await bring(shop, csv_of(first="disputes,1,single,91"))
    assert (other.status, other.body["code"]) == (409, "conflict"), "another file under a number that was used"


async def test_what_nobody_answers_is_called_out_and_then_lost(shop: Shop) -> None:
    dispute = await opened(shop, 3000)
    pool = await database.pool(shop.url, "switch_writer", 2)
    try:
        end = datetime.fromisoformat(dispute["answer_by"])
        for now, state, alerts in ((end - timedelta(days=6), "chargeback", []), (end - timedelta(days=4), "chargeback", ["dispute_due"]),
                                   (end - timedelta(seconds=1), "chargeback", ["dispute_due"]), (end, "lost", ["dispute_due", "dispute_overdue"])):
            await asyncio.gather(*(look(pool, Cases(), now) for _ in range(3)))  # several workers look
            assert (await shop.ask("GET", f"/v1/disputes/{dispute['id']}", key="merchant.one")).body["state"] == state
            found = await shop.sql("SELECT kind, count FROM alert WHERE object = $1 ORDER BY kind", dispute["id"])
            assert found == [{"kind": kind, "count": 1} for kind in alerts]
    finally:
        await pool.close()
    late = await post(shop, f"/v1/disputes/{dispute['id']}/represent", {"statement": "Too late"}, "merchant.one")
    assert (late.status, late.body["code"]) == (409, "dispute_closed")
    assert await posted(shop, dispute["id"]) == {"merchant": -3000, "dispute": 0, "acquirer": 3000}
    won = await post(shop, f"/v1/disputes/{dispute['id']}/decide", {"outcome": "won"})
    assert (won.body["state"], await posted(shop, dispute["id"])) == ("won", {"merchant": 0, "dispute": 0, "acquirer": 0})


async def test_deadlines_are_kept_by_jobs_once_however_many_workers_look(shop: Shop) -> None:
    overdue = await opened(shop, 200, noticed_on=f"{datetime.now(UTC) - timedelta(days=30):%Y-%m-%d}")
    soon = await opened(shop, 300, noticed_on=f"{datetime.now(UTC) - timedelta(days=18):%Y-%m-%d}")
    deadlines = Deadlines(shop.switch.owed, Cases())
    kind = Kind("dispute", "keeps deadlines", deadlines.do, "* * * * * */1", deadlines.due)
    foremen = [Foreman(kinds_of(kind), lambda role: database.connect(shop.url, role), lambda: database.pool(shop.url, "switch_writer", 4), 2.0) for _ in range(2)]
    running = [asyncio.create_task(foreman.work()) for foreman in foremen]
    try:
        async def kept() -> bool:
            return [row["state"] for row in await shop.sql("SELECT state FROM job WHERE kind = 'dispute'")].count("done") >= 2

        await eventually(kept, "the deadlines are not kept", 20)
        await asyncio.sleep(2.5)  # they look again
    finally:
        await asyncio.gather(*(foreman.stop() for foreman in foremen))
        await asyncio.gather(*running)
    mine = {dispute["id"]: alert for dispute, alert in ((overdue, "dispute_overdue"), (soon, "dispute_due"))}
    jobs = [row for row in await shop.sql("SELECT key, state, detail FROM job WHERE kind = 'dispute'") if row["key"].split(":")[0] in mine]
    assert sorted(row["key"].split(":")[:3] for row in jobs) == sorted([ident, "chargeback", alert] for ident, alert in mine.items())
    assert {row["state"] for row in jobs} == {"done"} and {row["detail"] for row in jobs} == {'{"moved": true}'}
    for ident, alert in mine.items():
        assert await shop.sql("SELECT kind, count FROM alert WHERE object = $1", ident) == [{"kind": alert, "count": 1}]
    assert [(await shop.ask("GET", f"/v1/disputes/{each['id']}", key="merchant.one")).body["state"] for each in (overdue, soon)] == ["lost", "chargeback"]


async def test_an_answer_after_its_time_is_refused_before_anybody_has_looked(shop: Shop) -> None:
    old = f"{datetime.now(UTC) - timedelta(days=30):%Y-%m-%d}"
    dispute = await opened(shop, 100, noticed_on=old)
    for verb, body in (("represent", {"statement": "Too late"}), ("accept", {})):
        answer = await post(shop, f"/v1/disputes/{dispute['id']}/{verb}", body, "merchant.one")
        assert (answer.status, answer.body["code"]) == (409, "dispute_overdue")
    assert (await upload(shop, dispute["id"], PDF)).body["code"] == "dispute_overdue"


@pytest.mark.parametrize("path", ["/v1/disputes", "/v1/disputes/{dispute}/represent", "/v1/disputes/{dispute}/accept", "/v1/disputes/{dispute}/decide"])
async def test_the_examples_fit_their_schema(spec: Any, path: str) -> None:
    content = spec["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert faults(spec, content["schema"], content["example"]) == []


async def test_the_command_line_lists_shows_opens_and_decides(shop: Shop, tmp_path: Any) -> None:
    sale = (await shop.pay(8000)).body["id"]
    ours = ("--url", shop.base, "--key", shop.keys["operator"])

    async def said(*words: str) -> Any:
        return await asyncio.to_thread(run, tmp_path / "home", "disputes", *words, *ours)

    made = await said("open", "--acquirer", shop.shown("acquirer.single"), "--reference", "CLI-1", "--transaction", sale, "--amount", "8000", "--currency", "CNY", "--reason-code", "4853",
                      "--noticed-on", TODAY)
    assert made.code == 0 and "chargeback" in made.out, made.err
    ident = made.out.split()[0]
    assert ident in (await said("list", "--open")).out
    decided = await said("decide", ident, "lost", "--note", "Letter of today")
    assert decided.code == 0 and "lost" in decided.out
    shown = (await said("show", ident)).out
    assert "charge_back" in shown and "lose" in shown and "Letter of today" in shown
    refused = await said("decide", ident, "lost")
    assert refused.code == 2 and "409" in refused.err and refused.out == ""


def test_every_state_has_an_event_of_its_own() -> None:
    assert {f"dispute.{state}" for state in (*life.STATES, "due")} == {name for name in TYPES if name.startswith("dispute.")}


async def test_each_step_is_told_once_in_its_own_commit(shop: Shop) -> None:
    """A step that is refused, or said again, tells nothing."""
    made = await shop.ask("POST", "/v1/webhooks", {"url": "http://127.0.0.1:9/hook", "types": ["*"]}, "merchant.one")
    assert made.status == 201, made.raw
    sale = (await shop.pay(10_000)).body["id"]
    body, key = notice(shop, sale, 4000), new_key()
    first = (await post(shop, "/v1/disputes", body, idempotency_key=key)).body
    await post(shop, "/v1/disputes", body, idempotency_key=key)
    await post(shop, "/v1/disputes", body)
    assert (await post(shop, "/v1/disputes", notice(shop, sale, 9000))).status == 409
    await post(shop, f"/v1/disputes/{first['id']}/represent", {"statement": "It was delivered"}, "merchant.one")
    for outcome in ("pre_arbitration", "won", "won"):
        await post(shop, f"/v1/disputes/{first['id']}/decide", {"outcome": outcome})
    told = await shop.sql("SELECT type, object, body FROM webhook_event WHERE merchant_id = $1 AND type LIKE 'dispute.%' ORDER BY event_id", shop.ids["merchant.one"])
    assert [(row["type"], row["object"]) for row in told] == [(f"dispute.{state}", first["id"]) for state in ("chargeback", "represented", "pre_arbitration", "won")]
    assert json.loads(told[0]["body"])["data"] == {
        "id": first["id"], "transaction": sale, "state": "chargeback", "amount": 4000, "currency": "CNY", "reason_code": "4853", "answer_by": first["answer_by"].split(".")[0] + "Z"}
