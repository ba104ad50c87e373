"""Batches of a UnionPay terminal over real HTTP, TCP and PostgreSQL: totals, what the host does not agree with, and the upload of it, over kill -9 too."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest_asyncio

from switch.ids import show
from tests.certify.bench import Bench, eventually, opened
from tests.certify.scenarios import arranged
from tests.processes import CARD, stub_book

TILL = "neighbour"
FOREIGN = {"entry_mode": "chip", "pan": "4111111111111111", "expiry": "3012"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(cluster_url: str, tmp_path_factory: Any) -> AsyncIterator[Bench]:
    folder: Path = tmp_path_factory.mktemp("uploads") / "bench"
    made = await opened(cluster_url, folder, "unionpay_pos")
    try:
        await arranged(made)
        (merchant,) = await sql(made, "SELECT merchant_id FROM merchant")
        made.keys["office"] = (await made.made("/v1/keys", {"role": "merchant", "merchant": show("merchant", merchant[0])}))["key"]
        yield made
    finally:
        await asyncio.to_thread(made.end)


async def close(bench: Bench, sales: list[int], refunds: list[int]) -> str:
    totals = {"currency": "CNY", "sales_count": len(sales), "sales": sum(sales), "refunds_count": len(refunds), "refunds": sum(refunds)}
    made = await bench.ask("POST", f"/v1/terminals/{bench.terminals[TILL]}/batches", {"totals": [totals]}, TILL, Idempotency_Key=secrets.token_hex(16))
    assert (made.status, made.body["in_balance"]) == (201, True), made.raw
    return str(made.body["id"])


async def answered(bench: Bench, batch: str) -> list[tuple[str, str | None]]:
    """State and code per acquirer, as soon as none is waited for."""
    async def reached() -> Any:
        shown = (await bench.ask("GET", f"/v1/terminals/{bench.terminals[TILL]}/batches/{batch}", key=TILL)).body
        return shown if all(each["state"] != "waiting" for each in shown["acquirers"]) else None

    shown = await eventually(reached, "the host says nothing", 30.0)
    return [(each["state"], each["code"]) for each in shown["acquirers"]]


async def sql(bench: Bench, statement: str, *arguments: object) -> list[Any]:
    connection = await asyncpg.connect(bench.url)
    try:
        return list(await connection.fetch(statement, *arguments))
    finally:
        await connection.close()


async def uploaded(bench: Bench, batch: str) -> list[Any]:
    """The messages of its upload, as soon as none waits."""
    async def reached() -> Any:
        rows = await sql(bench, "SELECT * FROM batch_upload WHERE batch_id::text = $1 ORDER BY number", batch[4:])
        return rows if rows and all(row["state"] != "waiting" for row in rows) else None

    return list(await eventually(reached, "the upload does not end", 60.0))


async def heard(bench: Bench, mti: str) -> list[dict[str, Any]]:
    """What the host received, with its decision on it."""
    lines = await stub_book(bench.control)
    received = {line["seq"]: line for line in lines if line["kind"] == "received" and line.get("mti") == mti}
    return [{**received[line["received"]], "decision": line} for line in lines if line["kind"] == "decision" and line["received"] in received]


async def emptied(bench: Bench) -> None:
    """A batch that begins now, also at the host."""
    await bench.approved(100, till=TILL)
    await answered(bench, await close(bench, [100], []))


async def refunded(bench: Bench, sale: str, amount: int, by: str) -> None:
    async def given() -> Any:
        answer = await bench.ask("POST", "/v1/refunds", {"authorization": sale, "amount": amount}, by, Idempotency_Key=secrets.token_hex(16))
        return answer if answer.status == 201 else None

    assert await eventually(given, "no refund")


async def test_the_host_agrees_with_sales_refunds_and_what_was_voided(bench: Bench) -> None:
    await emptied(bench)
    sale = await bench.approved(10_000, till=TILL)
    await bench.approved(3000, till=TILL, card=FOREIGN)
    voided = await bench.approved(7000, till=TILL)
    assert (await bench.follow("voids", voided["id"], till=TILL)).status == 201
    held = await bench.approved(6000, till=TILL, type="preauthorization")
    assert (await bench.follow("captures", held["id"], {"amount": 4500}, till=TILL)).status == 201
    assert (await bench.follow("voids", held["id"], till=TILL)).status == 201
    await refunded(bench, sale["id"], 1000, TILL)
    batch = await close(bench, [10_000, 3000], [1000])
    assert await answered(bench, batch) == [("in_balance", "00")]
    told = (await heard(bench, "0500"))[-1]
    assert {de: int(told["fields"][de]) for de in ("74", "76", "86", "88")} == {"74": 3, "76": 4, "86": 12_500, "88": 24_500}
    assert not await sql(bench, "SELECT FROM batch_upload WHERE batch_id::text = $1", batch[4:])
    await bench.approved(500, till=TILL)
    assert await answered(bench, await close(bench, [500], [])) == [("in_balance", "00")]  # nothing of it is counted again


async def test_a_batch_of_voided_sales_alone_is_told_too(bench: Bench) -> None:
    await emptied(bench)
    voided = await bench.approved(7100, till=TILL)
    assert (await bench.follow("voids", voided["id"], till=TILL)).status == 201
    assert await answered(bench, await close(bench, [], [])) == [("in_balance", "00")]


async def disagreed(bench: Bench) -> str:
    """A batch of nine sales, one of them by a foreign card, a voided one and a refund, that the host counts otherwise: the office gave a refund, too."""
    await emptied(bench)
    sale, amounts = await bench.approved(10_000, till=TILL), [10_000, *range(2000, 2800, 100)]
    for amount in amounts[1:]:
        await bench.approved(amount, till=TILL, **({"card": FOREIGN} if amount == 2300 else {}))
    voided = await bench.approved(7000, till=TILL)
    assert (await bench.follow("voids", voided["id"], till=TILL)).status == 201
    await refunded(bench, sale["id"], 1000, TILL)
    await refunded(bench, sale["id"], 300, "office")
    return await close(bench, amounts, [1000])


async def test_what_the_host_does_not_agree_with_is_uploaded_and_told_aloud(bench: Bench) -> None:
    batch = await disagreed(bench)
    await bench.order("code", "96", {"0": "0320"})  # the first is said again
    assert await answered(bench, batch) == [("out_of_balance", "00")]
    assert [row["kind"] for row in await sql(bench, "SELECT kind FROM alert WHERE object = $1", batch)] == ["batch_out_of_balance"]
    rows = await uploaded(bench, batch)
    assert [(len(row["transactions"]), row["state"], row["code"]) for row in rows] == [(8, "accepted", "00"), (1, "accepted", "00"), (3, "accepted", "00"), (0, "accepted", "00")]
    said = [each for each in await heard(bench, "0320") if each["fields"]["11"] in {row["stan"] for row in rows}]
    assert [(each["fields"]["48" if "48" in each["fields"] else "4"], each["decision"]["code"], each["decision"]["amount"]) for each in said] == [
        ("*322", "96", 0), ("*322", "00", 8), ("000000001000", "00", 1), ("*122", "00", 3), ("*4", "00", 0)]
    shown = (await bench.ask("GET", f"/v1/terminals/{bench.terminals[TILL]}/batches/{batch}", key=TILL)).body
    assert [each["upload"] for each in shown["acquirers"]] == ["accepted"]
    assert said[0]["fields"]["11"] == said[1]["fields"]["11"] and len({row["stan"] for row in rows}) == 4
    await bench.approved(500, till=TILL)
    assert await answered(bench, await close(bench, [500], [])) == [("in_balance", "00")]


async def test_the_next_totals_wait_until_the_upload_before_them_has_ended(bench: Bench) -> None:
    await bench.order("silence", match={"0": "0320"})
    batch = await disagreed(bench)
    assert await answered(bench, batch) == [("out_of_balance", "00")]
    shown = (await bench.ask("GET", f"/v1/terminals/{bench.terminals[TILL]}/batches/{batch}", key="operator")).body
    assert [each["upload"] for each in shown["acquirers"]] == ["waiting"]
    await bench.approved(600, till=TILL)
    following = await close(bench, [600], [])
    assert await answered(bench, following) == [("in_balance", "00")]
    assert len(await uploaded(bench, batch)) == 4
    lines = [line["mti"] for line in await stub_book(bench.control) if line["kind"] == "received" and line.get("mti") in ("0320", "0500")]
    assert lines[-7:] == ["0500", *["0320"] * 5, "0500"]


async def test_an_upload_goes_on_after_kill_9_where_it_was_under_the_same_numbers(bench: Bench) -> None:
    bench.server.failpoint = "batch.uploaded:2:kill"
    bench.killed()
    await bench.up()
    batch = await disagreed(bench)
    await eventually(lambda: ended(bench), "the switch lives", 30.0)
    before = await sql(bench, "SELECT number, stan, transmitted_at, state FROM batch_upload WHERE batch_id::text = $1 ORDER BY number", batch[4:])
    assert [(row["state"], row["stan"] is not None) for row in before] == [("accepted", True), ("waiting", True), ("waiting", False), ("waiting", False)]
    await asyncio.to_thread(bench.server.wait_ready)
    await bench.up()
    rows = await uploaded(bench, batch)
    assert [(row["state"], row["transmissions"]) for row in rows] == [("accepted", 1), ("accepted", 2), ("accepted", 1), ("accepted", 1)]
    assert [(row["stan"], row["transmitted_at"]) for row in rows[:2]] == [(row["stan"], row["transmitted_at"]) for row in before[:2]]
    said = [each for each in await heard(bench, "0320") if each["fields"]["11"] in {row["stan"] for row in rows}]
    assert [(each["fields"]["11"], each["decision"]["reason"]) for each in said] == [
        (rows[0]["stan"], ""), (rows[1]["stan"], ""), (rows[1]["stan"], "duplicate"), (rows[2]["stan"], ""), (rows[3]["stan"], "")]
    assert not any(FOREIGN["pan"] in line or CARD["pan"] in line for line in bench.server.said.splitlines())


async def ended(bench: Bench) -> bool:
    return not bench.server.process.running


async def alerts(bench: Bench, batch: str) -> list[str]:
    return [row["kind"] for row in await sql(bench, "SELECT kind FROM alert WHERE object = $1", batch)]


async def test_a_host_that_says_nothing_of_the_balance_has_not_agreed(bench: Bench) -> None:
    await emptied(bench)
    await bench.approved(6000, till=TILL)
    await bench.order("wrong", "-48", {"0": "0500"})
    batch = await close(bench, [6000], [])
    assert (await answered(bench, batch), await alerts(bench, batch)) == ([("refused", "00")], ["batch_out_of_balance"])
    assert not await sql(bench, "SELECT FROM batch_upload WHERE batch_id::text = $1", batch[4:])


async def test_what_the_host_refuses_of_an_upload_is_kept_as_refused_and_the_rest_goes_on(bench: Bench) -> None:
    await bench.order("code", "30", {"0": "0320"})
    batch = await disagreed(bench)
    rows = await uploaded(bench, batch)
    assert [(row["state"], row["code"]) for row in rows] == [("refused", "30"), ("accepted", "00"), ("accepted", "00"), ("accepted", "00")]  # 4 of 12 at the end
    shown = (await bench.ask("GET", f"/v1/terminals/{bench.terminals[TILL]}/batches/{batch}", key=TILL)).body
    assert [each["upload"] for each in shown["acquirers"]] == ["refused"]


async def test_totals_that_do_not_fit_are_not_sent_and_told_aloud(bench: Bench) -> None:
    await emptied(bench)
    await bench.approved(6100, till=TILL)
    said = len(await heard(bench, "0500"))
    assert (await bench.ask("POST", f"/v1/links/{bench.acquirer}/down", key="operator")).status == 200
    batch = await close(bench, [6100], [])
    await sql(bench, "UPDATE batch_entry SET amount = 1000000000000 WHERE batch_id::text = $1", batch[4:])
    assert (await bench.ask("POST", f"/v1/links/{bench.acquirer}/up", key="operator")).status == 200
    assert (await answered(bench, batch), await alerts(bench, batch)) == ([("refused", None)], ["batch_out_of_balance"])
    assert len(await heard(bench, "0500")) == said
