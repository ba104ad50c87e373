"""One key, one sale: replays, restarts, crowds, clients that hang up (reliability: I-1, I-12, I-13, fault rows 52-54)."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import pytest_asyncio

from switch.ids import show
from tests.flows import ANSWER_TIMEOUT_MS, ROUTE, Shop, body_of, eventually, new_key, open_shop
from tests.processes import CARD, Answer, Caller, request

VARYING = ("date", "idempotent-replayed")


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("idempotency")) as opened:
        yield opened


def same(first: Answer, again: Answer) -> None:
    """Byte for byte, and marked as given again."""
    assert (first.status, again.status) == (201, 201), (first.raw, again.raw)
    assert again.raw == first.raw
    assert "idempotent-replayed" not in first.headers and again.headers["idempotent-replayed"] == "true"
    assert {name: value for name, value in first.headers.items() if name not in VARYING} == \
        {name: value for name, value in again.headers.items() if name not in VARYING}


async def sent_for(shop: Shop, key: str, host: str = "till") -> list[str]:
    """MTIs of all messages that the acquirer got for a key."""
    rows = await shop.by_key(key)
    assert len(rows) == 1
    return [message["0"] for message in await shop.host_of(host).received(rows[0]["rrn"])]


SALES = [
    ("till", {"amount": 5000}), ("till", {"amount": 5051}), ("till", {"amount": 5110, "partial_approval": "accept"}),
    ("till", {"amount": None, "type": "balance_inquiry"}), ("till", {"amount": 5200, "type": "preauthorization"}), ("dual", {"amount": 5300}),
    ("till", {"amount": 5400, "tip_amount": 100, "reference": "table", "terminal_trace": "77"}),
]


@pytest.mark.parametrize(("till", "changed"), SALES)
async def test_a_replay_is_byte_for_byte_the_first_answer(shop: Shop, till: str, changed: dict[str, object]) -> None:
    key, body = new_key(), body_of(**changed)  # type: ignore[arg-type]
    first = await shop.post(body, key, till)
    again = await shop.post(json.dumps(dict(reversed(body.items())), indent=3).encode(), key, till)  # the parsed body counts, not its bytes
    same(first, again)
    assert await sent_for(shop, key, till) == [(await shop.by_key(key))[0]["mti"]]


async def test_a_possible_duplicate_replays_with_its_warning(shop: Shop) -> None:
    await shop.pay(5500)
    key = new_key()
    first = await shop.pay(5500, key)
    assert first.body["possible_duplicate_of"]
    same(first, await shop.pay(5500, key))


async def test_after_a_restart_the_answer_comes_from_the_row(shop: Shop) -> None:
    keys = {new_key(): (till, changed) for till, changed in SALES}
    firsts = {key: await shop.post(body_of(**changed), key, till) for key, (till, changed) in keys.items()}  # type: ignore[arg-type]
    await shop.stop()
    await shop.start()
    for key, (till, changed) in keys.items():
        same(firsts[key], await shop.post(body_of(**changed), key, till))  # type: ignore[arg-type]


CHANGES = [{"amount": 6001}, {"currency": "USD"}, {"card": CARD | {"expiry": "3011"}}, {"card": CARD | {"pan": "4111111111111111"}},
           {"reference": "x"}, {"tip_amount": 1}, {"type": "cash_advance"}, {"partial_approval": "refuse"}]


@pytest.mark.parametrize("changed", CHANGES)
async def test_the_same_key_with_another_body_is_refused_and_has_no_effect(shop: Shop, changed: dict[str, object]) -> None:
    key = new_key()
    first = await shop.pay(6000, key)
    other = await shop.post(body_of(6000) | changed, key)
    assert (other.status, other.body["code"]) == (422, "idempotency_key_reused")
    assert await sent_for(shop, key) == ["0200"]
    same(first, await shop.pay(6000, key))


async def test_the_rightful_body_is_answered_while_another_one_is_being_refused(shop: Shop) -> None:
    """What is at work under a key need not be what the key belongs to."""
    key = new_key()
    first = await shop.pay(6000, key)
    for _ in range(10):
        other, again = await asyncio.gather(shop.pay(6001, key), shop.pay(6000, key))
        assert (other.status, other.body["code"]) == (422, "idempotency_key_reused")
        same(first, again)


async def test_another_body_is_refused_while_the_first_runs(shop: Shop) -> None:
    key = new_key()
    await shop.host.order("delay", ANSWER_TIMEOUT_MS / 2000)
    first = asyncio.create_task(shop.pay(6100, key))
    await eventually(lambda: _ordered_is_taken(shop), "the sale has not left")
    other = await shop.pay(6200, key)
    assert (other.status, other.body["code"]) == (422, "idempotency_key_reused")
    assert (await first).status == 201


async def _ordered_is_taken(shop: Shop) -> bool:
    return bool((await shop.host.stats())["faults_left"] == 0)


async def test_a_key_burnt_by_a_cancellation_belongs_to_that_route(shop: Shop) -> None:
    key = new_key()
    assert (await shop.cancel(key)).status == 200
    answer = await shop.pay(6300, key)
    assert (answer.status, answer.body["code"]) == (409, "cancelled_by_terminal")


async def test_the_same_key_of_another_terminal_is_another_sale(shop: Shop) -> None:
    key = new_key()
    answers = [await shop.pay(6400, key, till) for till in ("till", "neighbour", "branch", "dual", "strict")]
    assert [answer.status for answer in answers] == [201] * 5
    assert len({answer.body["id"] for answer in answers}) == 5
    for till, answer in zip(("till", "neighbour", "branch", "dual", "strict"), answers, strict=True):
        same(answer, await shop.pay(6400, key, till))


async def crowd(shop: Shop, keys: list[str], amount: int, connections: int) -> dict[str, list[Answer]]:
    """Every key's POST, over that many keep-alive connections at once."""
    waiting, answers = list(keys), {key: [] for key in keys}
    body = body_of(amount)

    async def client() -> None:
        caller = Caller()
        try:
            while waiting:
                key = waiting.pop()
                answers[key].append(await caller.ask(shop.base, request("POST", ROUTE, shop.keys["till"], body, Idempotency_Key=key)))
        finally:
            caller.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return answers


def told(key: str, answers: list[Answer]) -> None:
    """201 or 409 only, every 201 with the same bytes, and exactly one of them is no replay."""
    counted = Counter(answer.status for answer in answers)
    assert set(counted) <= {201, 409}, (key, counted)
    sold = [answer for answer in answers if answer.status == 201]
    assert len({answer.raw for answer in sold}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in sold) == 1
    for answer in answers:
        if answer.status == 409:
            assert answer.body["code"] == "in_progress" and int(answer.headers["retry-after"]) >= 1


async def test_two_hundred_posts_of_one_key_at_once_have_one_effect(shop: Shop) -> None:
    key = new_key()
    await shop.host.order("delay", 0.3)
    answers = await crowd(shop, [key] * 200, 7700, 200)
    told(key, answers[key])
    assert 409 in {answer.status for answer in answers[key]}
    assert await sent_for(shop, key) == ["0200"]
    rows = await shop.by_key(key)
    assert await shop.host.effect(rows[0]["rrn"]) == (7700, 0)


async def test_twenty_keys_forty_posts_each_over_sixty_connections(shop: Shop) -> None:
    keys = [new_key() for _ in range(20)]
    before = await shop.host.stats()
    answers = await crowd(shop, keys * 40, 7800, 60)
    for key in keys:
        assert len(answers[key]) == 40
        told(key, answers[key])
    after = await shop.host.stats()
    assert after["net"]["156"] - before["net"]["156"] == 20 * 7800
    assert after["received"]["0200"] - before["received"]["0200"] == 20 and after["duplicates"] == before["duplicates"]


@pytest.mark.parametrize("cut_after", ["the body", "the host has it"])
async def test_a_client_that_hangs_up_does_not_stop_its_sale(shop: Shop, cut_after: str) -> None:
    key, address = new_key(), urlsplit(shop.base)
    await shop.host.order("delay", ANSWER_TIMEOUT_MS / 2000)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request("POST", ROUTE, shop.keys["till"], body_of(7900), Idempotency_Key=key))
    await writer.drain()
    if cut_after == "the host has it":
        await eventually(lambda: _ordered_is_taken(shop), "the sale has not left")
    else:
        await eventually(lambda: shop.by_key(key), "the sale has not been written down")
    writer.transport.abort()
    del reader

    async def sold() -> bool:
        found = await shop.ask("GET", f"{ROUTE}?idempotency_key={key}", key="till")
        return found.status == 200 and found.body["status"] == "approved"

    await eventually(sold, "the sale did not complete")
    replay = await shop.pay(7900, key)
    assert replay.status == 201 and replay.headers["idempotent-replayed"] == "true" and replay.body["status"] == "approved"
    assert await sent_for(shop, key) == ["0200"]


async def test_a_waiting_duplicate_that_hangs_up_leaves_the_first_alone(shop: Shop) -> None:
    key = new_key()
    await shop.host.order("delay", ANSWER_TIMEOUT_MS / 2000)
    first = asyncio.create_task(shop.pay(8000, key))
    await eventually(lambda: _ordered_is_taken(shop), "the sale has not left")
    waiting = [asyncio.create_task(shop.pay(8000, key)) for _ in range(5)]
    await asyncio.sleep(0.05)
    for task in waiting:
        task.cancel()
    same(await first, await shop.pay(8000, key))


async def test_a_202_replays_the_truth_of_the_moment_and_never_becomes_a_sale(shop: Shop) -> None:
    key = new_key()
    await shop.host.order("silence", match={"0": "0200"})
    first = await shop.pay(8100, key)
    assert (first.status, first.body["status"]) == (202, "reversing")
    await shop.until(first.body["id"], "reversed")
    again = await shop.pay(8100, key)
    assert (again.status, again.body["status"], again.body["advice"]) == (202, "reversed", "new_payment_allowed")
    assert again.body["id"] == first.body["id"] and again.body["reversal"]["state"] == "done"
    assert await sent_for(shop, key) == ["0200", "0420"]


async def test_a_cancelled_approval_never_replays_as_approved(shop: Shop) -> None:
    key = new_key()
    first = await shop.pay(8200, key)
    assert first.body["status"] == "approved"
    assert (await shop.cancel(key)).status == 202
    for _ in range(3):
        again = await shop.pay(8200, key)
        assert again.status == 202 and again.body["status"] in ("reversing", "reversed") and "approved_amount" not in again.body
    await shop.until(first.body["id"], "reversed")
    again = await shop.pay(8200, key)
    assert (again.status, again.body["status"]) == (202, "reversed")


async def test_a_key_is_found_by_its_terminal_and_nobody_else(shop: Shop) -> None:
    key = new_key()
    sold = (await shop.pay(8300, key)).body
    found = await shop.ask("GET", f"{ROUTE}?idempotency_key={key}", key="till")
    assert (found.status, found.body["id"]) == (200, sold["id"])
    absent = await shop.ask("GET", f"{ROUTE}?idempotency_key={new_key()}", key="till")
    for other in ("neighbour", "branch", "dual", "merchant.one"):  # a merchant's key of the same text is another one
        foreign = await shop.ask("GET", f"{ROUTE}?idempotency_key={key}", key=other)
        assert foreign.status == 404 and foreign.body | {"request_id": ""} == absent.body | {"request_id": ""}
    assert (await shop.ask("GET", f"{ROUTE}?idempotency_key={key}", key="operator")).status == 403


KEYS = [("", "malformed"), ("a" * 15, "malformed"), ("a" * 65, "malformed"), ("a" * 10_000, "malformed"), ("clé" * 6, "malformed"), ("a" * 15 + " ", "malformed"),
        ("a b" * 6, "malformed"), ("a" * 16 + "/", "malformed"), ("a" * 16 + "%00", "malformed")]


@pytest.mark.parametrize(("key", "fault"), KEYS)
async def test_a_key_that_is_none_is_refused(shop: Shop, key: str, fault: str) -> None:
    answer = await shop.ask("POST", ROUTE, body_of(8400), "till", Idempotency_Key=key)
    assert (answer.status, answer.body["code"]) == (400, f"idempotency_key_{fault}")


async def test_without_a_key_nothing_is_sold(shop: Shop) -> None:
    answer = await shop.ask("POST", ROUTE, body_of(8400), "till")
    assert (answer.status, answer.body["code"]) == (400, "idempotency_key_missing")


@pytest.mark.parametrize("key", ["a" * 16, "Z9_-" * 16])
async def test_the_shortest_and_the_longest_key_are_taken(shop: Shop, key: str) -> None:
    assert (await shop.pay(8500, key)).status == 201


async def test_every_sale_has_one_key_and_every_key_its_sale_unless_burnt(shop: Shop) -> None:
    await shop.pay(8600)
    await shop.cancel(new_key())
    rows = await shop.sql("SELECT i.transaction_id, i.route, t.transaction_id AS found FROM idempotency i LEFT JOIN transaction t USING (transaction_id)")
    assert {row["route"] for row in rows} == {"authorizations", "burnt"}
    for row in rows:
        assert (row["route"] == "burnt") == (row["transaction_id"] is None) == (row["found"] is None)
    orphans = await shop.sql("""SELECT t.transaction_id FROM transaction t WHERE t.exchange = 'request'
        AND NOT EXISTS (SELECT FROM idempotency i WHERE i.transaction_id = t.transaction_id)""")
    assert [show("transaction", UUID(str(row["transaction_id"]))) for row in orphans] == []
