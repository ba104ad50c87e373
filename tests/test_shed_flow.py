"""What is shed over real HTTP: 503 with processed false, nothing written, the key free, and every place given back."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from switch import metrics
from switch.payments.admission import REVERSAL, Gate
from tests.flows import Shop, body_of, eventually, new_key, open_shop
from tests.processes import Answer

LIMIT = 4


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("shed")) as opened:
        changed = {"max_in_flight": LIMIT, "min_in_flight": LIMIT}
        assert (await opened.ask("PATCH", f"/v1/acquirers/{opened.shown('acquirer.single')}", changed, "operator")).status == 200
        await opened.caught_up()

        async def up() -> bool:
            link = opened.switch.links[opened.ids["acquirer.single"]]
            return link.settings.window == LIMIT and link.usable()

        await eventually(up, "the line is not up again")
        yield opened


def gate_of(shop: Shop) -> Gate:
    return shop.switch.admission.gates[shop.ids["acquirer.single"]]


def shed(reason: str) -> float:
    return metrics.registry.get_sample_value("switch_shed_total", {"reason": reason}) or 0.0


def check_shed(answer: Answer) -> None:
    assert (answer.status, answer.body["code"], answer.body["processed"]) == (503, "overloaded", False)
    assert answer.headers["retry-after"] in ("1", "2", "3")


async def written(shop: Shop) -> tuple[Any, ...]:
    found = await shop.sql("SELECT (SELECT count(*) FROM idempotency) AS keys, (SELECT count(*) FROM transaction) AS rows")
    return tuple(found[0].values())


async def test_more_than_the_limit_is_shed_without_a_trace_and_the_same_keys_sell_later(shop: Shop) -> None:
    await shop.host.order("delay", 0.3, count=10)
    before, keys = await written(shop), [new_key() for _ in range(10)]
    answers = await asyncio.gather(*(shop.pay(10_000, key) for key in keys))
    statuses = Counter(answer.status for answer in answers)
    assert 1 <= statuses[201] <= LIMIT and statuses[201] + statuses[503] == 10
    for answer in answers:
        if answer.status == 503:
            check_shed(answer)
    after = await written(shop)
    assert (after[0] - before[0], after[1] - before[1]) == (statuses[201], statuses[201])
    await shop.host.forget()
    for key, answer in zip(keys, answers, strict=True):
        again = await shop.pay(10_000, key)
        assert (again.status, again.body["status"]) == (201, "approved")
        assert ("idempotent-replayed" in again.headers) == (answer.status == 201)
    assert (gate_of(shop).in_flight, gate_of(shop).held) == (0, {})


async def test_the_door_sheds_before_it_reads_the_body(shop: Shop) -> None:
    permits = [gate_of(shop).enter(shop.ids["merchant.three"], REVERSAL, asyncio.get_running_loop().time()) for _ in range(LIMIT)]
    before = shed("full")
    try:
        check_shed(await shop.post({"not": "a sale"}))
        assert shed("full") == before + 1
        assert (await shop.pay(10_000, key="dual")).status == 201, "another acquirer has its own limit"
        assert (await shop.post(body_of(10_000), key="operator")).status == 403, "who may not sell is told so first"
    finally:
        for permit in permits:
            assert permit is not None
            permit.leave(0.0)
    assert (await shop.post({"not": "a sale"})).status == 422


async def test_who_asks_again_for_a_running_key_waits_for_its_answer_even_at_a_shut_door(shop: Shop) -> None:
    await shop.host.order("delay", 0.3)
    key = new_key()
    first = asyncio.create_task(shop.pay(10_000, key))

    async def running() -> bool:
        return bool(shop.switch.desk.walks)

    await eventually(running, "it does not run")
    permits = [gate_of(shop).enter(shop.ids["merchant.three"], REVERSAL, asyncio.get_running_loop().time()) for _ in range(LIMIT)]
    try:
        check_shed(await shop.pay(10_000))
        again = await shop.pay(10_000, key)
        assert (again.status, again.raw) == (201, (await first).raw)
    finally:
        for permit in permits:
            assert permit is not None
            permit.leave(0.0)


async def test_a_worker_whose_loop_is_late_sheds_until_it_has_caught_up(shop: Shop) -> None:
    before, answers = shed("lag"), list[Answer]()
    for _ in range(40):
        paying = asyncio.create_task(shop.pay(10_000))
        await asyncio.sleep(0)
        time.sleep(0.6)  # the loop itself stands still
        answers.append(await paying)
        if answers[-1].status == 503:
            break
    check_shed(answers[-1])
    assert len(answers) > 1, "once is a hiccup"
    assert shed("lag") == before + 1

    async def admitted() -> bool:
        return (await shop.pay(10_000)).status == 201

    await eventually(admitted, "it sheds for ever")


async def test_a_place_comes_back_whatever_ends_the_walk(shop: Shop) -> None:
    """A timeout, a lost line, a refused amount of numbers, a fault of ours."""
    await shop.host.order("silence")
    assert (await shop.pay(10_000)).status == 202
    await shop.host.order("cut")
    assert (await shop.pay(10_000)).status == 202

    async def up() -> bool:
        return shop.switch.links[shop.ids["acquirer.single"]].usable()

    await eventually(up, "the line is not up again")
    numbers = shop.switch.numbers
    stan = numbers.stan
    for broken in (lambda _: None, lambda _: 1 // 0):
        numbers.stan = broken  # type: ignore[method-assign]
        try:
            assert (await shop.pay(10_000)).status in (500, 503)
        finally:
            numbers.stan = stan  # type: ignore[method-assign]
    assert (gate_of(shop).in_flight, gate_of(shop).held) == (0, {})


async def test_reads_cannot_starve_what_must_be_written(shop: Shop) -> None:
    """Every connection of the readers and of the ordinary writers is taken: a reversal goes out, the lease is renewed, a sale is made."""
    switch = shop.switch
    async with _taken(switch.readers), _taken(switch.writers):
        await shop.host.order("silence")
        answer = await shop.pay(10_000)
        assert (answer.status, answer.body["status"]) == (202, "reversing")

        async def acknowledged() -> bool:
            return (await shop.row(answer.body["id"]))["state"] == "REVERSED"

        await eventually(acknowledged, "the reversal waits for a reader")
        renewed = (await shop.sql("SELECT max(lease_until) AS until FROM worker"))[0]["until"]

        async def renewed_again() -> bool:
            return (await shop.sql("SELECT max(lease_until) AS until FROM worker"))[0]["until"] > renewed

        await eventually(renewed_again, "the lease waits for a writer")
        assert (await shop.pay(10_000)).status == 201


class _taken:
    """All connections of a pool, held."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool, self.held = pool, list[Any]()

    async def __aenter__(self) -> None:
        self.held = [await self.pool.acquire() for _ in range(self.pool.get_max_size())]

    async def __aexit__(self, *_: object) -> None:
        for connection in self.held:
            await self.pool.release(connection)
