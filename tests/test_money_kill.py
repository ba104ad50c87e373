"""kill -9 at the commits of disputes and batches: the same key, or the same file, again is one effect, and the books are whole."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.flows import eventually, new_key
from tests.processes import BROKEN, Answer, Caller, Demo, ask, stub_book
from tests.test_disputes import file as csv_of
from tests.test_disputes_flow import TODAY
from tests.test_exhibits import PDF

TESTING = {"SWITCH_TESTING": "1"}


async def raw(demo: Demo, path: str, key: str, content: bytes, media_type: str, **headers: str) -> Answer:
    caller = Caller()
    lines = [f"POST {path} HTTP/1.1", "Host: switch", f"Authorization: Bearer {key}", f"Content-Length: {len(content)}", f"Content-Type: {media_type}",
             *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    try:
        return await caller.ask(demo.base, "\r\n".join(lines).encode() + b"\r\n\r\n" + content)
    finally:
        caller.close()


async def sql(demo: Demo, statement: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(demo.handover["database_url"])
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def killed(demo: Demo, asked: Any) -> None:
    with pytest.raises(BROKEN):
        print(await asked)
    await eventually(_ended(demo), "the switch lives")


def _ended(demo: Demo) -> Any:
    async def ended() -> bool:
        return not demo.running

    return ended


SUMS = "SELECT count(*), coalesce(sum(amount), 0)::bigint FROM transfer"


async def test_a_notice_its_file_and_evidence_survive_a_kill_as_one(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Demo(home, **TESTING, SWITCH_FAILPOINT="keyed.work:1:kill") as demo:
        sale = (await demo.pay(new_key(), 10_000)).body
        acquirer, operator = sale["acquirer"], demo.handover["operator_key"]
        shown = (await ask(demo.base, "GET", f"/v1/transactions/{sale['id']}", operator)).body
        body = {"acquirer": shown["acquirer"], "kind": "chargeback", "reference": "CB-1", "transaction": sale["id"], "amount": 4000, "currency": "CNY",
                "reason_code": "4853", "noticed_on": TODAY}
        key = new_key()
        await killed(demo, demo.ask("POST", "/v1/disputes", body, operator, Idempotency_Key=key))
    with Demo(home, **TESTING, SWITCH_FAILPOINT="keyed.work:2:kill,dispute.file:1:kill") as demo:
        assert (await sql(demo, SUMS), await sql(demo, "SELECT count(*) FROM dispute")) == ([(0, 0)], [(0,)])
        answers = [await demo.ask("POST", "/v1/disputes", body, operator, Idempotency_Key=key) for _ in range(2)]
        assert [answer.status for answer in answers] == [201, 201] and answers[0].raw == answers[1].raw
        dispute, file_key = answers[0].body["id"], new_key()
        await killed(demo, raw(demo, f"/v1/disputes/{dispute}/evidence?name=slip.pdf", operator, PDF, "application/pdf", Idempotency_Key=file_key))
    notices = csv_of(f"lost,CB-1,,,4000,CNY,4853,{TODAY}", first="disputes,1,stub,1")
    with Demo(home, **TESTING, SWITCH_FAILPOINT="dispute.file:1:kill") as demo:
        assert await sql(demo, "SELECT count(*) FROM dispute_file") == [(0,)]
        for _ in range(2):
            taken = await raw(demo, f"/v1/disputes/{dispute}/evidence?name=slip.pdf", operator, PDF, "application/pdf", Idempotency_Key=file_key)
            assert taken.status == 201, taken.raw
        assert await sql(demo, "SELECT count(*) FROM dispute_file") == [(1,)]
        name = (await sql(demo, "SELECT name FROM acquirer"))[0][0]
        notices = notices.replace(b",stub,", f",{name},".encode())
        await killed(demo, raw(demo, f"/v1/dispute-notices?acquirer={acquirer}", operator, notices, "text/csv"))
    with Demo(home) as demo:
        assert await sql(demo, "SELECT state FROM dispute") == [("chargeback",)] and await sql(demo, SUMS) == [(2, 8000)]
        statuses = [(await raw(demo, f"/v1/dispute-notices?acquirer={acquirer}", operator, notices, "text/csv")).status for _ in range(2)]
        assert statuses == [201, 200] and await sql(demo, "SELECT state FROM dispute") == [("lost",)]
        assert await sql(demo, SUMS) == [(2, 8000)]
        assert (await ask(demo.base, "GET", f"/v1/disputes/{dispute}/evidence/{taken.body['id']}", operator)).raw == PDF


async def test_a_batch_whose_acquirer_had_answered_when_the_switch_died_is_asked_for_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Demo(home, **TESTING, SWITCH_FAILPOINT="batch.sent:1:kill") as demo:
        operator = demo.handover["operator_key"]
        sale = (await demo.pay(new_key(), 6000)).body
        shown = (await ask(demo.base, "GET", f"/v1/transactions/{sale['id']}", operator)).body
        await ask(demo.base, "PUT", f"/v1/acquirers/{sale['acquirer']}/batch-terms", operator, {"forward": True})
        terminal, key = shown["terminal"], new_key()
        mine = await sql(demo, f"SELECT count(*), sum(amount)::bigint FROM transaction WHERE state = 'APPROVED' AND terminal_id = '{terminal[4:]}'")
        body = {"totals": [{"currency": "CNY", "sales_count": mine[0][0], "sales": mine[0][1], "refunds_count": 0, "refunds": 0}]}
        closed = await demo.ask("POST", f"/v1/terminals/{terminal}/batches", body, Idempotency_Key=key)
        assert (closed.status, closed.body["in_balance"]) == (201, True), closed.raw
        await eventually(_ended(demo), "the switch lives")
    with Demo(home) as demo:
        again = await demo.ask("POST", f"/v1/terminals/{terminal}/batches", body, Idempotency_Key=key)
        assert again.raw == closed.raw

        async def told() -> bool:
            batch = (await demo.ask("GET", f"/v1/terminals/{terminal}/batches/{closed.body['id']}")).body
            return bool([each["state"] for each in batch["acquirers"]] == ["in_balance"])

        await eventually(told, "the acquirer is not asked again", 25)
        book = await stub_book(demo.handover["stub_control_url"])
        sent = [line for line in book if line["kind"] == "received" and line.get("mti", "").startswith("05")]
        assert [line["mti"] for line in sent] == ["0500", "0501"] and len({line["fields"]["11"] for line in sent}) == 1
        assert not [line for line in book if line.get("mti", "").startswith("04")]
