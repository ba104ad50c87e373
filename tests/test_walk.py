"""One authorization through HTTP, TCP and PostgreSQL: what a terminal is told, what is stored, what the acquirer booked."""

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio

from switch.app import Switch
from switch.demo import prepare
from switch.serve import base_url, listen, serving
from switch.settings import load

PAN = "6212345678900000003"


class Running(SimpleNamespace):
    """A switch, its stub and its keys."""

    async def post(self, path: str, body: Any, key: str | None = None, token: str | None = None, **headers: str) -> httpx.Response:
        own = {"authorization": f"Bearer {token or self.keys['terminal_key']}"} | ({"idempotency-key": key} if key else {})
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(path, content=content, headers=own | {"content-type": "application/json"} | headers)

    async def get(self, path: str, token: str | None = None) -> httpx.Response:
        return await self.client.get(path, headers={"authorization": f"Bearer {token or self.keys['terminal_key']}"})

    async def sell(self, amount: int = 10000, key: str | None = None, **more: Any) -> httpx.Response:
        return await self.post("/v1/authorizations", sale(amount, **more), key or new_key())

    async def fault(self, action: str, match: Any = "any", **more: Any) -> None:
        answer = await self.client.post(f"{self.control}/faults", json={"match": match, "action": action, "count": 1, **more})
        assert answer.status_code < 300, answer.text

    async def net(self, rrn: str) -> int:
        """What the acquirer's book holds for a sale, after all."""
        found = (await self.client.get(f"{self.control}/book?after=0")).json()["items"]
        return sum(item.get("effect", item.get("net", 0)) for item in found if item.get("kind") == "decision" and item.get("rrn") == rrn)

    async def until(self, transaction: str, status: str, seconds: float = 8) -> dict[str, Any]:
        for _ in range(int(seconds / 0.05)):
            body = (await self.get(f"/v1/authorizations/{transaction}")).json()
            if body["status"] == status:
                return body
            await asyncio.sleep(0.05)
        raise AssertionError(f"{transaction} is {body['status']}, not {status}: {body}")


def new_key() -> str:
    return uuid.uuid4().hex


def sale(amount: int | None = 10000, **more: Any) -> dict[str, Any]:
    card = {"entry_mode": "chip", "pan": PAN, "expiry": "3012"} | more.pop("card", {})
    amounts = {"amount": amount} if amount else {}
    return {"type": "purchase", "currency": "CNY", "card": card, "terminal_trace": uuid.uuid4().hex[:12]} | amounts | more


@pytest_asyncio.fixture(scope="module")
async def running(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    home: Path = tmp_path_factory.mktemp("walk")
    stub = subprocess.Popen([sys.executable, "-m", "acquirer_stubs", "--book", str(home / "book.jsonl"), "--fast", "--die-with-parent"],
                            stdout=subprocess.PIPE)
    assert stub.stdout is not None
    host = json.loads(stub.stdout.readline())
    settings = replace(load({"SWITCH_HOME": str(home), "SWITCH_DATABASE_URL": database_url}), port=0)
    keys = await prepare(settings, database_url, "127.0.0.1", host["port"])
    owner = await asyncpg.connect(database_url)
    await owner.execute("UPDATE acquirer SET answer_timeout_ms = 700, reversal_grace_ms = 200")
    switch = Switch(settings, database_url, alone=True)
    listening = listen(settings)
    await switch.start()
    async with serving(switch, listening, settings), httpx.AsyncClient(base_url=base_url(listening), timeout=20) as client:
        yield Running(client=client, keys=keys, control=host["control_url"], switch=switch, owner=owner, home=home)
    await owner.close()
    stub.terminate()
    stub.wait()
    stub.stdout.close()


@pytest.mark.parametrize(("ending", "status", "code", "advice"), [
    (0, "approved", "00", "none"), (1, "declined", "01", "call_issuer"), (5, "declined", "05", "other_card"), (51, "declined", "51", "other_card"),
    (54, "declined", "54", "other_card"), (55, "declined", "55", "enter_pin"), (61, "declined", "61", "other_card"),
    (91, "declined", "91", "retry_new_key"),
])
async def test_the_amount_decides_and_the_answer_says_what_to_do(running: Running, ending: int, status: str, code: str, advice: str) -> None:
    answer = await running.sell(20000 + ending)
    body = answer.json()
    assert (answer.status_code, body["status"], body["response_code"], body["advice"]) == (201, status, code, advice)
    assert body["approved_amount"] == (20000 if status == "approved" else 0)
    assert body["payment_status"] == ("captured" if status == "approved" else "none")


@pytest.mark.parametrize("wish", ["accept", "refuse"])
async def test_a_partial_approval_is_taken_or_reversed(running: Running, wish: str) -> None:
    answer = await running.sell(30010, partial_approval=wish)
    if wish == "accept":
        assert (answer.status_code, answer.json()["approved_amount"]) == (201, 15005)
    else:
        assert (answer.status_code, answer.json()["status"]) == (202, "reversing")
        await running.until(answer.json()["id"], "reversed")


async def test_the_same_key_gives_the_same_bytes_and_another_body_is_refused(running: Running) -> None:
    key, body = new_key(), sale(40000)
    first = await running.post("/v1/authorizations", body, key)
    again = await running.post("/v1/authorizations", dict(reversed(body.items())), key)
    assert first.status_code == again.status_code == 201 and first.content == again.content
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    other = await running.post("/v1/authorizations", body | {"amount": 40100}, key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    foreign = await running.post("/v1/authorizations", body, key, running.keys["second_terminal_key"])
    assert foreign.status_code == 201 and foreign.json()["id"] != first.json()["id"]
    asked = await running.get(f"/v1/authorizations?idempotency_key={key}")
    assert asked.json()["id"] == first.json()["id"]


async def test_many_at_once_with_one_key_have_one_effect(running: Running) -> None:
    key, body = new_key(), sale(41000)
    answers = await asyncio.gather(*(running.post("/v1/authorizations", body, key) for _ in range(60)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    assert await running.owner.fetchval("SELECT count(*) FROM transaction WHERE idempotency_key = $1", key) == 1


@pytest.mark.parametrize("action", ["silence", "cut", "garbage", "code"])
async def test_without_a_certain_answer_the_sale_is_reversed(running: Running, action: str) -> None:
    await running.fault(action, **({"value": "Z9"} if action == "code" else {}))
    key, body = new_key(), sale(50000)
    answer = await running.post("/v1/authorizations", body, key)
    assert (answer.status_code, answer.json()["status"], answer.json()["advice"]) == (202, "reversing", "new_payment_allowed")
    owed = await running.owner.fetchrow(
        "SELECT d.kind, d.state FROM duty d JOIN transaction t USING (transaction_id) WHERE idempotency_key = $1", key)
    assert tuple(owed) == ("reversal", "open")
    await running.until(answer.json()["id"], "reversed")
    replay = await running.post("/v1/authorizations", body, key)
    assert (replay.status_code, replay.json()["status"]) == (202, "reversed")


@pytest.mark.parametrize("field", ["3", "4", "11", "37", "41", "49"])
async def test_an_answer_that_differs_is_no_answer_and_the_field_is_named(running: Running, field: str) -> None:
    await running.fault("wrong", value=field)
    answer = await running.sell(51000)
    assert answer.status_code == 202, answer.text
    named = await running.owner.fetchval("SELECT field FROM unmatched_answer ORDER BY unmatched_id DESC LIMIT 1")
    assert named == field
    await running.until(answer.json()["id"], "reversed")


async def test_a_late_approval_never_approves(running: Running) -> None:
    await running.fault("late", value=1.2)
    answer = await running.sell(52000)
    assert answer.status_code == 202
    await asyncio.sleep(1.3)
    body = await running.until(answer.json()["id"], "reversed")
    assert body["payment_status"] in ("none", "voided") and body["amounts"]["captured"] == 0
    kinds = [row[0] for row in await running.owner.fetch("SELECT reason FROM unmatched_answer ORDER BY unmatched_id DESC LIMIT 3")]
    assert "late" in kinds


async def test_cancelling_by_key_undoes_burns_and_may_be_repeated(running: Running) -> None:
    key, body = new_key(), sale(53000)
    sold = await running.post("/v1/authorizations", body, key)
    for expected in (202, None):
        answer = await running.post("/v1/cancellations", {"idempotency_key": key})
        assert answer.status_code in (expected or 200, 202)
    await running.until(sold.json()["id"], "reversed")
    replay = await running.post("/v1/authorizations", body, key)
    assert (replay.status_code, replay.json()["status"]) == (202, "reversed"), "what is undone is never called approved again"
    unknown = new_key()
    assert (await running.post("/v1/cancellations", {"idempotency_key": unknown})).status_code == 200
    late = await running.post("/v1/authorizations", body, unknown)
    assert (late.status_code, late.json()["code"]) == (409, "cancelled_by_terminal")


async def test_cancelling_while_the_answer_is_awaited_wins(running: Running) -> None:
    await running.fault("delay", value=0.4)
    key, body = new_key(), sale(54000)
    sold = asyncio.ensure_future(running.post("/v1/authorizations", body, key))
    await asyncio.sleep(0.2)
    assert (await running.post("/v1/cancellations", {"idempotency_key": key})).status_code == 202
    assert (await sold).status_code == 202
    await running.until((await sold).json()["id"], "reversed")


async def test_a_client_that_hangs_up_cancels_nothing(running: Running) -> None:
    await running.fault("delay", value=0.3)
    key = new_key()
    with pytest.raises(httpx.ReadTimeout):
        await running.client.post("/v1/authorizations", content=json.dumps(sale(55000)), timeout=0.1, headers={
            "authorization": f"Bearer {running.keys['terminal_key']}", "idempotency-key": key, "content-type": "application/json"})
    await asyncio.sleep(0.6)
    assert (await running.get(f"/v1/authorizations?idempotency_key={key}")).json()["status"] == "approved"


async def test_a_possible_duplicate_is_named_and_refused_where_the_merchant_wants_it(running: Running) -> None:
    body = sale(56000)
    first = (await running.post("/v1/authorizations", body, new_key())).json()
    second = await running.post("/v1/authorizations", body, new_key())
    assert second.json()["possible_duplicate_of"] == first["id"]
    await running.owner.execute("UPDATE merchant SET duplicate_policy = 'refuse'")
    await asyncio.sleep(1.2)
    key = new_key()
    refused = await running.post("/v1/authorizations", body, key)
    await running.owner.execute("UPDATE merchant SET duplicate_policy = 'warn'")
    assert (refused.status_code, refused.json()["code"]) == (409, "possible_duplicate")
    await asyncio.sleep(1.2)
    assert (await running.post("/v1/authorizations", body, key)).status_code == 201, "the key stayed free"


async def test_the_other_types_and_the_parts_of_an_amount(running: Running) -> None:
    balance = (await running.post("/v1/authorizations", sale(None, type="balance_inquiry"), new_key())).json()
    assert balance["status"] == "approved" and balance["balances"] and balance["approved_amount"] == 0
    assert (await running.post("/v1/authorizations", sale(None, type="account_verification"), new_key())).json()["status"] == "approved"
    held = (await running.sell(57000, type="preauthorization")).json()
    assert (held["payment_status"], held["amounts"]["captured"]) == ("authorized", 0)
    assert (await running.sell(58000, tip_amount=500, cashback_amount=1000)).json()["status"] == "approved"
    assert (await running.sell(58000, capture_method="manual")).json()["code"] == "not_supported"


async def test_the_story_is_told_from_the_columns_alone(running: Running) -> None:
    sold = (await running.sell(59000)).json()
    told = (await running.get(f"/v1/transactions/{sold['id']}/story")).json()
    assert [step["what"].split()[0] for step in told["steps"]] == ["received", "written", "sent", "answered", "outcome"]
    assert PAN not in json.dumps(told)
    assert await running.owner.fetchval("SELECT count(*) FROM transaction_event e JOIN transaction t USING (transaction_id) WHERE t.rrn = $1",
                                        sold["rrn"]) == 0


CANARY = "canary7391"
BAD = [
    (b'{"type":"purchase","type":"purchase"}', 400, "json_duplicate_key"), (b'{"amount": NaN}', 400, "json_number"),
    (b'{"amount": 1e3}', 400, "json_number"), (b'{"amount": 1.0}', 400, "json_number"), (b'{"amount": ' + b"9" * 5000 + b"}", 400, "json_number"),
    (b"[" * 30000, 400, "json_depth"), (b'{"reference": "\\ud800"}', 400, "json_surrogate"), (b'{"reference": "\\u0000"}', 400, "json_nul"),
    (b'\xef\xbb\xbf{}', 400, None), (b'{"a": "\xff"}', 400, "json_encoding"), (b"", 400, "json_malformed"), (b"[]", 422, "invalid"),
    (b"x" * 70000, 413, "body_too_large"), (b'{"' + CANARY.encode() + b'": 1}', 422, "invalid"),
    *((json.dumps(sale(1) | {"amount": amount}).encode(), 422, "invalid") for amount in (-5, 0, 10**12, "12", True, None)),
    *((json.dumps(sale(1) | extra).encode(), 422, "invalid") for extra in (
        {"currency": "XTS"}, {"currency": CANARY}, {"merchant_id": CANARY}, {"state": "APPROVED"}, {"type": CANARY},
        {"reference": "\u202e" + CANARY}, {"tip_amount": 2}, {"local_time": "2026-02-30T10:00:00"}, {"local_time": "2001-01-01T10:00:00"})),
    *((json.dumps(sale(1, card=card)).encode(), 422, "invalid") for card in (
        {"pan": "6212345678900000001"}, {"pan": CANARY}, {"expiry": "3013"}, {"expiry": "٣٠١٢"}, {"emv": "9F26"}, {"emv": CANARY}, {"entry_mode": CANARY},
        {"track2": "4111111111111111=3012"}, {"pin": {"block": CANARY, "format": "iso0", "key_id": "k"}})),
]


@pytest.mark.parametrize(("raw", "status", "code"), BAD, ids=range(len(BAD)))
async def test_bad_input_is_a_clear_4xx_that_echoes_nothing(running: Running, raw: bytes, status: int, code: str | None) -> None:
    before = await running.owner.fetchval("SELECT count(*) FROM transaction")
    answer = await running.post("/v1/authorizations", raw, new_key())
    assert answer.status_code == status and answer.headers["content-type"] == "application/problem+json", answer.text
    assert code in (None, answer.json()["code"]) and CANARY not in answer.text and "621234567" not in answer.text
    assert await running.owner.fetchval("SELECT count(*) FROM transaction") == before


@pytest.mark.parametrize(("headers", "status", "code"), [
    ({"authorization": "Bearer nonsense"}, 401, "unauthenticated"), ({"authorization": ""}, 401, "unauthenticated"),
    ({"content-type": "text/plain"}, 415, "content_type"), ({"content-encoding": "gzip"}, 415, "content_encoding"),
    ({"idempotency-key": "short"}, 400, "idempotency_key_malformed"), ({"idempotency-key": "k" * 65}, 400, "idempotency_key_malformed"),
    ({"request-deadline": "0.1"}, 422, "deadline_too_short"), ({"request-deadline": "soon"}, 422, "invalid"),
])
async def test_bad_headers_are_refused(running: Running, headers: dict[str, str], status: int, code: str) -> None:
    answer = await running.client.post("/v1/authorizations", content=json.dumps(sale()), headers={
        "authorization": f"Bearer {running.keys['terminal_key']}", "content-type": "application/json", "idempotency-key": new_key()} | headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_foreign_and_absent_are_the_same_404(running: Running) -> None:
    mine = (await running.sell(60000)).json()["id"]
    absent = f"txn_{uuid.uuid4()}"
    other = running.keys["second_terminal_key"]  # another store's
    for path in ("/v1/authorizations/{}", "/v1/transactions/{}", "/v1/transactions/{}/story"):
        foreign, missing = await running.get(path.format(mine), other), await running.get(path.format(absent), other)
        assert foreign.status_code == missing.status_code == 404
        assert {**foreign.json(), "request_id": ""} == {**missing.json(), "request_id": ""}
        assert (await running.get(path.format(mine), running.keys["merchant_key"])).status_code == 200
    assert mine not in (await running.get("/v1/transactions?limit=200", other)).text
    assert (await running.post("/v1/authorizations", sale(), new_key(), running.keys["merchant_key"])).status_code == 403


async def test_the_list_pages_without_gap_or_repeat_and_filters(running: Running) -> None:
    merchant = running.keys["merchant_key"]
    seen, after = [], ""
    while after is not None:
        page = (await running.get(f"/v1/transactions?limit=7{f'&after={after}' if after else ''}", merchant)).json()
        seen += [item["id"] for item in page["items"]]
        after = page["next"]
    assert seen == sorted(set(seen), reverse=True)
    assert len(seen) == await running.owner.fetchval("SELECT count(*) FROM transaction")
    one = (await running.sell(61000, reference="table 9")).json()
    for query in (f"rrn={one['rrn']}", f"stan={one['stan']}", f"approval_code={one['approval_code']}", "reference=table 9", "min=61000&max=61000"):
        assert [item["id"] for item in (await running.get(f"/v1/transactions?{query}", merchant)).json()["items"]] == [one["id"]], query
    assert (await running.get("/v1/transactions?status=nonsense", merchant)).status_code == 422


async def test_the_documented_example_is_accepted_and_every_answer_has_the_documented_shape(running: Running) -> None:
    schema = (await running.client.get("/openapi.json")).json()
    operation = schema["paths"]["/v1/authorizations"]["post"]
    answer = await running.post("/v1/authorizations", operation["requestBody"]["content"]["application/json"]["example"], new_key())
    assert answer.status_code == 201
    described = set(schema["components"]["schemas"]["ApprovedOrDeclined"]["properties"])
    assert set(answer.json()) <= described
    assert set(schema["components"]["schemas"]["ApprovedOrDeclined"]["required"]) <= set(answer.json())
    assert all("summary" in each for methods in schema["paths"].values() for each in methods.values())


async def test_metrics_health_and_readiness(running: Running) -> None:
    assert (await running.client.get("/healthz")).status_code == 200
    ready = (await running.client.get("/readyz")).json()
    assert ready["ready"] and ready["lines"] == {"demo": "up"}
    text = (await running.client.get("/metrics")).text
    assert "switch_authorizations_total" in text and PAN not in text
    assert (await running.client.get("/docs")).status_code == 200 and (await running.client.get("/problems/in_progress")).status_code == 200


async def test_no_card_secret_reaches_a_column(running: Running) -> None:
    track, pin, code = f"{PAN}=30121010000012345", "0123456789ABCDEF", "947"
    answer = await running.sell(62000, card={"track2": track, "security_code": code, "entry_mode": "magstripe",
                                             "pin": {"block": pin, "format": "iso0", "key_id": "zone1"}})
    assert answer.status_code == 201, answer.text
    tables = [row[0] for row in await running.owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    for table in tables:
        dump = str(await running.owner.fetch(f"SELECT t::text FROM {table} t"))
        for secret in (PAN, track, pin, PAN.encode().hex(), pin.encode().hex()):
            assert secret not in dump and secret.lower() not in dump, table
