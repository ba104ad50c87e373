"""Approvals that their terminal never heard of: the client hangs up before the answer, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
import rows

from switch import metrics
from tests.flows import ROUTE, Row, Shop, body_of, eventually, new_key, open_shop

AFTER_S = 0.6


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("undelivered"), SWITCH_UNDELIVERED_AFTER=str(AFTER_S)) as opened:
        yield opened


async def hang_up(shop: Shop, amount: int, key: str = "till") -> tuple[str, Row]:
    """A payment whose terminal is gone before the acquirer has answered: its key, and its row once it has an outcome."""
    idempotency_key = new_key()
    await shop.host_of(key).order("delay", 0.2)
    host, port = shop.base.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(body_of(amount)).encode()
    writer.write((f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer {shop.keys[key]}\r\n"
                  f"Idempotency-Key: {idempotency_key}\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body)
    await writer.drain()

    async def sent() -> Any:
        return await shop.by_key(idempotency_key)

    await eventually(sent, "the intent is not written")
    writer.close()

    async def decided() -> Row | None:
        rows = await shop.by_key(idempotency_key)
        return rows[0] if rows[0]["outcome"] else None

    return idempotency_key, await eventually(decided, "there is no outcome")


async def mark(shop: Shop, row: Row) -> Row | None:
    found = await shop.sql("SELECT * FROM undelivered WHERE transaction_id = $1", row["transaction_id"])
    return found[0] if found else None


async def settled(shop: Shop, row: Row) -> Row:
    async def looked_at() -> Row | None:
        found = await mark(shop, row)
        return found if found and (found["settled_at"] or found["heard_at"]) else None

    return await eventually(looked_at, "nobody looked at it")


async def alerts_of(shop: Shop, identity: UUID) -> list[Row]:
    return await shop.sql("SELECT * FROM alert WHERE kind = 'undelivered_approval' AND object = $1", f"txn_{identity}")


def counted() -> float:
    return metrics.registry.get_sample_value("switch_undelivered_total") or 0.0


async def test_an_approval_that_nobody_heard_of_raises_an_alert_and_stands(shop: Shop) -> None:
    before = counted()
    _, row = await hang_up(shop, 10_000)
    assert (row["state"], counted()) == ("APPROVED", before + 1)
    lost = (await settled(shop, row))["lost_at"]
    assert (datetime.now(UTC) - lost).total_seconds() >= AFTER_S
    (alert,) = await alerts_of(shop, row["transaction_id"])
    assert alert["count"] == 1
    assert (await shop.row(f"txn_{row['transaction_id']}"))["state"] == "APPROVED"
    assert "answer_not_delivered" in [step["what"] for step in (await shop.story(f"txn_{row['transaction_id']}"))["steps"]]
    await asyncio.sleep(AFTER_S)
    assert (await alerts_of(shop, row["transaction_id"]))[0]["count"] == 1, "once is enough"


@pytest.mark.parametrize("how", ["same key again", "by key", "by id"])
async def test_an_approval_that_the_terminal_asks_for_in_time_is_heard(shop: Shop, how: str) -> None:
    key, row = await hang_up(shop, 10_100)
    if how == "same key again":
        assert (await shop.pay(10_100, key)).headers["idempotent-replayed"] == "true"
    elif how == "by key":
        assert (await shop.ask("GET", f"{ROUTE}?idempotency_key={key}")).body["status"] == "approved"
    else:
        assert (await shop.ask("GET", f"{ROUTE}/txn_{row['transaction_id']}")).body["status"] == "approved"
    assert (await settled(shop, row))["heard_at"] is not None
    await asyncio.sleep(AFTER_S * 1.5)
    assert await alerts_of(shop, row["transaction_id"]) == []


async def test_a_merchant_or_an_operator_who_looks_is_not_the_terminal(shop: Shop) -> None:
    _, row = await hang_up(shop, 10_200)
    for key in ("merchant.one", "operator"):
        assert (await shop.get(f"txn_{row['transaction_id']}", key))["status"] == "approved"
    assert (await settled(shop, row))["heard_at"] is None
    assert len(await alerts_of(shop, row["transaction_id"])) == 1


async def test_a_cancelled_sale_is_known_to_its_terminal(shop: Shop) -> None:
    key, row = await hang_up(shop, 10_300)
    assert (await shop.cancel(key)).status == 202
    await settled(shop, row)
    assert await alerts_of(shop, row["transaction_id"]) == []


@pytest.mark.parametrize(("idempotency_key", "known"), [("a-follow-up-of-the-terminal", True), (None, False)])
async def test_a_sale_with_a_follow_up_is_known_to_its_terminal_and_one_with_our_own_capture_is_not(
        shop: Shop, idempotency_key: str | None, known: bool) -> None:
    _, row = await hang_up(shop, 10_350)
    ours = ("merchant_id", "store_id", "terminal_id", "caller", "acquirer_id", "business_date", "currency", "pan_token")
    kind = {"type": "refund", "exchange": "request"} if known else {"type": "capture", "exchange": "advice"}
    follower = rows.transaction(**{name: row[name] for name in ours}, **kind, original_id=row["transaction_id"], idempotency_key=idempotency_key)
    connection = await asyncpg.connect(shop.url)
    try:
        await rows.insert(connection, "transaction", **{name: value for name, value in asdict(follower).items() if value is not None})
    finally:
        await connection.close()
    await settled(shop, row)
    assert len(await alerts_of(shop, row["transaction_id"])) == (0 if known else 1)


async def test_a_decline_that_nobody_heard_of_is_nothing(shop: Shop) -> None:
    _, row = await hang_up(shop, 10_051)
    assert row["state"] == "DECLINED"
    _, later = await hang_up(shop, 10_400)
    await settled(shop, later)  # marks are written in order
    assert await mark(shop, row) is None


async def test_an_answer_that_arrives_leaves_no_row(shop: Shop) -> None:
    answer = await shop.pay(10_500)
    _, later = await hang_up(shop, 10_600)
    await settled(shop, later)
    assert await mark(shop, await shop.row(answer.body["id"])) is None


async def test_it_is_not_forgotten_by_a_restart(shop: Shop) -> None:
    _, row = await hang_up(shop, 10_700)
    await shop.stop()
    found = await mark(shop, row)
    assert found and found["settled_at"] is None
    await shop.start()
    await settled(shop, row)
    assert len(await alerts_of(shop, row["transaction_id"])) == 1


@pytest.mark.parametrize("key", ["till", "dual"])
async def test_a_merchant_may_have_it_reversed(shop: Shop, key: str) -> None:
    merchant = shop.shown("merchant.two" if key == "dual" else "merchant.one")
    answer = await shop.ask("PATCH", f"/v1/merchants/{merchant}", {"undelivered": "reverse"}, "operator")
    assert (answer.status, answer.body["undelivered"], answer.body["status"]) == (200, "reverse", "active")
    try:
        _, row = await hang_up(shop, 10_800, key)
        shown = await shop.until(f"txn_{row['transaction_id']}", "reversed")
        assert shown["reversal"]["cause"] == "undo"
        assert len(await alerts_of(shop, row["transaction_id"])) == 1

        async def nothing_stands() -> bool:
            return await shop.host_of(key).effect(row["rrn"]) == (0, 0)

        await eventually(nothing_stands, "it still stands at the acquirer")
        for capture in await shop.sql("SELECT transaction_id FROM transaction WHERE original_id = $1", row["transaction_id"]):
            await shop.until(f"txn_{capture['transaction_id']}", "reversed")
    finally:
        await shop.ask("PATCH", f"/v1/merchants/{merchant}", {"undelivered": "alert"}, "operator")


async def test_what_its_terminal_is_told_in_that_very_moment_is_not_reversed(shop: Shop) -> None:
    merchant, undelivered, answers = shop.shown("merchant.one"), shop.switch.undelivered, []
    undo = undelivered.undo

    async def asked_first(*of: Any) -> object:
        answers.append(await shop.pay(10_850, key))
        return await undo(*of)

    undelivered.undo = asked_first
    await shop.ask("PATCH", f"/v1/merchants/{merchant}", {"undelivered": "reverse"}, "operator")
    try:
        key, row = await hang_up(shop, 10_850)
        await eventually(lambda: settled(shop, row), "nobody looked at it")
        await asyncio.sleep(AFTER_S)
        assert [answer.status for answer in answers] == [201]
        assert (await shop.row(f"txn_{row['transaction_id']}"))["state"] == "APPROVED"
    finally:
        undelivered.undo = undo
        await shop.ask("PATCH", f"/v1/merchants/{merchant}", {"undelivered": "alert"}, "operator")


async def test_it_does_not_matter_which_mark_is_written_first(shop: Shop) -> None:
    """A worker that replays the answer may be quicker than the one that could not give it."""
    row = (await shop.row((await shop.pay(10_900)).body["id"]))
    transaction = await shop.switch.history.transaction(row["transaction_id"])
    assert transaction is not None
    undelivered = shop.switch.undelivered
    undelivered.heard(transaction)
    await undelivered.write()
    undelivered.lost(transaction)
    await undelivered.write()
    found = await mark(shop, row)
    assert found and found["heard_at"] is not None
    await asyncio.sleep(AFTER_S * 1.5)
    assert await undelivered.look() == 0
    assert await alerts_of(shop, row["transaction_id"]) == []
