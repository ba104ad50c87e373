"""Reversals to their end: whatever the acquirer answers, each is acknowledged or waits for a person, and leaves no faster than its acquirer wants."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from switch.errors import Problem
from switch.links import Unmatched
from switch.payments.duties import Close
from switch.payments.evidence import Evidence
from switch.payments.fulfilment import Ended, run_ended
from switch.payments.history import Duty, History
from switch.payments.transaction import Event
from tests.flows import ANSWER_TIMEOUT_MS, Host, Shop, eventually, open_shop

REVERSAL = {"0": "0420"}
TERMS = "reversal_codes = '{}', reversal_max_age_s = 259200, reversals_per_second = 1000, reversals_at_once = 200, reversal_first = false"


@pytest_asyncio.fixture(scope="module")
async def opened(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("reversals")) as shop:
        yield shop


@pytest_asyncio.fixture
async def shop(opened: Shop) -> AsyncIterator[Shop]:
    """The shop with its plain terms; what a test has ordered ends with it."""
    yield opened
    for host in (opened.host, opened.dual):
        await host.forget()
    await terms(opened, TERMS)


async def terms(shop: Shop, sets: str, name: str = "%") -> None:
    await shop.sql(f"UPDATE acquirer SET {sets} WHERE name LIKE $1", name)
    await shop.caught_up()


async def owed(shop: Shop, key: str = "till") -> str:
    """A sale that the acquirer answers with doubt; its reversal may leave at once."""
    answer = await shop.pay(1096, key=key)
    assert (answer.status, answer.body["status"]) == (202, "reversing"), answer.raw
    return str(answer.body["id"])


async def posted(shop: Shop) -> str:
    """A sale that the acquirer booked and nobody heard of; its reversal waits for the grace."""
    await shop.host.order("silence", match={"0": "0200"})
    answer = await shop.pay(1000)
    assert (answer.status, answer.body["status"]) == (202, "reversing"), answer.raw
    return str(answer.body["id"])


async def sent(shop: Shop, shown: str, host: Host | None = None) -> list[dict[str, str]]:
    """The transmissions of its reversal as the acquirer received them."""
    rrn = (await shop.row(shown))["rrn"]
    return [message for message in await (host or shop.host).received(rrn) if message["0"] in ("0420", "0421")]


async def duty(shop: Shop, shown: str, **wanted: object) -> dict[str, Any]:
    """The duty as soon as it stands so."""
    async def found() -> dict[str, Any] | None:
        row = await shop.duty(shown)
        return row if row is not None and all(row[name] == value for name, value in wanted.items()) else None

    row = await eventually(found, f"{shown}: never {wanted}")
    assert row is not None
    return row


async def hurry(shop: Shop, shown: str) -> None:
    """Its pause is over."""
    await shop.sql("UPDATE duty SET next_attempt_at = now() WHERE transaction_id = $1", UUID(shown[4:]))


async def alerts(shop: Shop, shown: str) -> list[str]:
    return [row["kind"] for row in await shop.sql("SELECT kind FROM alert WHERE object = $1", shown)]


@pytest.mark.parametrize(("action", "value"), [
    ("silence", None), ("delay", 2 * ANSWER_TIMEOUT_MS / 1000), ("code", "96"), ("code", "91"), ("code", "06"), ("code", "Z9"), ("garbage", None),
    ("cut", None), ("wrong", "11"), ("wrong", "-39"),
], ids=str)
async def test_a_reversal_without_a_clear_answer_is_repeated_as_0421_until_acknowledged(shop: Shop, action: str, value: Any) -> None:
    await shop.host.order(action, value, match=REVERSAL)
    shown = await (posted(shop) if action == "silence" else owed(shop))
    await duty(shop, shown, transmissions=1, leased_until=None, state="open")
    await hurry(shop, shown)
    now = await shop.until(shown, "reversed", 12)
    assert now["reversal"]["closed_by"] == "ack"
    transmissions = await sent(shop, shown)
    assert [each["0"] for each in transmissions][:2] == ["0420", "0421"]
    assert {each["0"] for each in transmissions[1:]} == {"0421"}
    assert len({tuple(sorted((number, text) for number, text in each.items() if number != "0")) for each in transmissions}) == 1
    assert await shop.host.effect(now["rrn"]) == (0, 0)
    assert (now["reversal"]["transmissions"], await alerts(shop, shown)) == (len(transmissions), [])


async def test_not_found_closes_only_the_second_time_and_late(shop: Shop) -> None:
    await shop.host.order("code", "25", match=REVERSAL)
    await shop.host.order("code", "12", match={"0": "0421"}, count=2)
    shown = await owed(shop)
    first = await duty(shop, shown, last_code="25", leased_until=None)
    assert first["not_found_at"] is not None
    assert (first["next_attempt_at"] - (await shop.row(shown))["send_not_after"]).total_seconds() >= 60
    await hurry(shop, shown)
    early = await duty(shop, shown, last_code="12", leased_until=None)
    assert (early["state"], early["not_found_at"]) == ("open", first["not_found_at"]), "the second one came while the original could still arrive"
    await shop.sql("UPDATE transaction SET send_not_after = now() - interval '1 hour', version = version + 1 WHERE transaction_id = $1", UUID(shown[4:]))
    await hurry(shop, shown)
    assert (await shop.until(shown, "reversed"))["reversal"]["closed_by"] == "not_found"
    assert len(await sent(shop, shown)) == 3


async def test_an_approval_that_comes_meanwhile_takes_the_first_not_found_away(shop: Shop) -> None:
    await shop.host.order("late", 3.2, match={"0": "0200"})
    await shop.host.order("code", "25", match=REVERSAL)
    await shop.host.order("code", "25", match={"0": "0421"})
    shown = str((await shop.pay(1000)).body["id"])
    await duty(shop, shown, last_code="25", leased_until=None)
    await shop.sql("UPDATE transaction SET send_not_after = now() - interval '1 hour', version = version + 1 WHERE transaction_id = $1", UUID(shown[4:]))
    row = await duty(shop, shown, transmissions=2, leased_until=None)
    assert row["state"] == "open", "the host has the original: what it said before proves nothing"
    await hurry(shop, shown)
    assert (await shop.until(shown, "reversed"))["reversal"]["closed_by"] == "ack"


@pytest.mark.parametrize("code", ["21", "30"])
async def test_a_code_that_repeating_cannot_mend_parks_at_once_for_a_person(shop: Shop, code: str) -> None:
    await shop.host.order("code", code, match=REVERSAL)
    shown = await owed(shop)
    now = await shop.until(shown, "parked")
    row = await duty(shop, shown, state="parked")
    assert (now["reversal"]["state"], row["last_code"], row["parked_reason"], row["transmissions"]) == ("parked", code, "code", 1)
    assert await alerts(shop, shown) == ["reversal_parked"]
    assert "reversal_parked" in [step["what"] for step in (await shop.story(shown))["steps"]]
    (replayed,) = [await shop.ask("GET", f"/v1/authorizations/{shown}", key="till")]
    assert replayed.body["status"] == "parked"


async def test_what_a_code_means_is_the_acquirers_own(shop: Shop) -> None:
    await terms(shop, """reversal_codes = '{"21": "acknowledged", "96": "park", "00": "retry"}'""", "single")
    await shop.host.order("code", "21", match=REVERSAL)
    assert (await shop.until(await owed(shop), "reversed"))["reversal"]["closed_by"] == "ack"
    await shop.host.order("code", "96", match=REVERSAL)
    assert (await duty(shop, shown := await owed(shop), state="parked"))["last_code"] == "96"
    assert (await shop.get(shown))["status"] == "parked"
    assert (await duty(shop, await owed(shop), last_code="00", state="open"))["closed_at"] is None


async def test_past_its_maximum_age_it_is_parked_and_never_dropped(shop: Shop) -> None:
    await terms(shop, "reversal_max_age_s = 1", "single")
    await shop.host.order("silence", match=REVERSAL)
    await shop.host.order("silence", match={"0": "0421"}, count=None)
    shown = await owed(shop)
    await shop.until(shown, "parked", 10)
    row = await duty(shop, shown, state="parked")
    assert row["parked_reason"] == "max_age" and row["transmissions"] >= 1
    assert await alerts(shop, shown) == ["reversal_parked"]
    before = len(await sent(shop, shown))
    await asyncio.sleep(0.6)
    assert len(await sent(shop, shown)) == before, "nobody sends what is parked"


async def test_it_grows_too_old_at_an_acquirer_that_cannot_be_reached(shop: Shop) -> None:
    await terms(shop, "reversals_at_once = 1, reversals_per_second = 1", "dual")
    shop.switch.reversals.busy[shop.ids["acquirer.dual"]] = 1  # its only place is taken: the reversal waits
    shown = await owed(shop, "dual")
    await terms(shop, "reversal_max_age_s = 1, status = 'down'", "dual")
    try:
        await shop.until(shown, "parked", 10)
        row = await duty(shop, shown, state="parked")
        assert (row["parked_reason"], row["transmissions"]) == ("max_age", 0)
        assert await alerts(shop, shown) == ["reversal_parked"]
    finally:
        shop.switch.reversals.busy[shop.ids["acquirer.dual"]] = 0
        await terms(shop, "status = 'active'", "dual")
        await shop.switch.lines.up(5)


async def test_a_row_that_cannot_be_said_is_parked_the_third_time_and_the_worker_lives(shop: Shop) -> None:
    await terms(shop, "reversals_at_once = 1", "single")
    shop.switch.reversals.busy[shop.ids["acquirer.single"]] = 1
    shown = await owed(shop)
    broken = "UPDATE transaction SET {} WHERE transaction_id = $1"
    await shop.sql(broken.format("pan_sealed = 'torn', version = version + 1"), UUID(shown[4:]))
    shop.switch.reversals.busy[shop.ids["acquirer.single"]] = 0
    for faults in (1, 2):
        row = await duty(shop, shown, faults=faults, leased_until=None)
        assert (row["state"], row["transmissions"], row["first_sent_at"]) == ("open", 0, None)
        await hurry(shop, shown)
    row = await duty(shop, shown, state="parked")
    assert (row["parked_reason"], row["faults"], row["transmissions"]) == ("unbuildable", 3, 0)
    assert sorted(await alerts(shop, shown)) == ["reversal_parked", "unreadable_card"]
    assert await sent(shop, shown) == []
    await shop.until(await owed(shop), "reversed")


async def test_a_reversal_never_leaves_before_its_grace(shop: Shop) -> None:
    shown = await posted(shop)
    await shop.until(shown, "reversed")
    row, owed_ = await shop.row(shown), await shop.duty(shown)
    assert owed_ is not None
    assert (owed_["first_sent_at"] - row["send_not_after"]).total_seconds() >= 0.2


async def test_each_acquirer_has_its_own_pace(shop: Shop) -> None:
    await terms(shop, "reversals_per_second = 10, min_in_flight = 64", "single")
    loop = asyncio.get_running_loop()
    shown = await asyncio.gather(*(owed(shop) for _ in range(16)))
    started = loop.time()
    await asyncio.gather(*(shop.until(each, "reversed") for each in shown))
    assert loop.time() - started > 1.0, "sixteen cannot leave in less than about one and a half seconds at ten a second"


async def test_a_slow_acquirer_holds_up_only_its_own_and_no_more_than_its_places(shop: Shop) -> None:
    await terms(shop, "reversals_at_once = 2", "single")
    await shop.host.order("delay", 0.4, match=REVERSAL, count=None)
    slow = await asyncio.gather(*(owed(shop) for _ in range(6)))
    seen: set[int] = set()

    async def watch() -> None:
        while True:
            seen.add(shop.switch.reversals.busy.get(shop.ids["acquirer.single"], 0))
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    await shop.until(await owed(shop, "dual"), "reversed")
    states = [(await shop.get(each))["status"] for each in slow]
    assert states.count("reversing") >= 2, "the other acquirer's reversal waited for the slow ones"
    await asyncio.gather(*(shop.until(each, "reversed") for each in slow))
    watching.cancel()
    assert max(seen) == 2


@pytest_asyncio.fixture
async def second(shop: Shop) -> AsyncIterator[Shop]:
    """Another worker on the same books."""
    other = Shop(shop.url, shop.settings, shop.host, shop.dual, shop.keys, shop.ids)
    await other.start(alone=False)
    yield other
    await other.stop()


async def test_two_workers_never_send_one_reversal_at_the_same_time(shop: Shop, second: Shop) -> None:
    await shop.host.order("delay", 0.3, match=REVERSAL, count=None)
    shown = await asyncio.gather(*(owed(worker) for worker in (shop, second) for _ in range(15)))
    stop = asyncio.Event()

    async def forward() -> None:
        """Somebody brings them forward all the time, as late answers do."""
        while not stop.is_set():
            await shop.sql("UPDATE duty SET next_attempt_at = least(next_attempt_at, now()) WHERE state = 'open'")
            await asyncio.sleep(0.02)

    forwarding = asyncio.create_task(forward())
    await asyncio.gather(*(shop.until(each, "reversed") for each in shown))
    stop.set()
    await forwarding
    for each in shown:
        assert [message["0"] for message in await sent(shop, each)] == ["0420"]


async def sharing(*workers: Shop) -> None:
    """All of them know that they share."""
    async def known() -> bool:
        shares = [worker.switch.roster.share(worker.ids["acquirer.single"]) for worker in workers]
        return all(share is not None and share.workers == len(workers) for share in shares)

    await eventually(known, "they do not know of each other")


async def test_two_workers_keep_together_to_the_pace_of_an_acquirer(shop: Shop, second: Shop) -> None:
    await sharing(shop, second)
    await terms(shop, "reversals_per_second = 10, min_in_flight = 64", "single")
    await second.caught_up()
    loop = asyncio.get_running_loop()
    shown = await asyncio.gather(*(owed(worker) for worker in (shop, second) for _ in range(15)))
    started = loop.time()
    await asyncio.gather(*(shop.until(each, "reversed") for each in shown))
    assert loop.time() - started > 2.0, "thirty cannot leave in less than about two and a half seconds at ten a second"


async def test_two_workers_keep_together_to_the_places_of_an_acquirer(shop: Shop, second: Shop) -> None:
    await sharing(shop, second)
    await terms(shop, "reversals_at_once = 3", "single")
    await second.caught_up()
    await shop.host.order("delay", 0.2, match=REVERSAL, count=None)
    shown = await asyncio.gather(*(owed(worker) for worker in (shop, second) for _ in range(8)))
    single, seen = shop.ids["acquirer.single"], set[tuple[int, int]]()

    async def watch() -> None:
        while True:
            seen.add((shop.switch.reversals.busy.get(single, 0), second.switch.reversals.busy.get(single, 0)))
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(shop.until(each, "reversed") for each in shown))
    watching.cancel()
    assert (max(mine for mine, _ in seen), max(theirs for _, theirs in seen)) == (2, 1), "the older worker has the odd place"


async def test_one_place_goes_to_a_worker_that_is_signed_on(shop: Shop, second: Shop) -> None:
    await sharing(shop, second)
    await terms(shop, "reversals_at_once = 1", "single")
    await second.caught_up()
    await shop.switch.links[shop.ids["acquirer.single"]].down()  # the older worker has the place until it loses its line
    try:
        shown = await owed(second)
        await second.until(shown, "reversed", 4.0)
    finally:
        await shop.switch.links[shop.ids["acquirer.single"]].up()
        await shop.switch.lines.up(5)


async def test_what_a_dead_worker_had_taken_is_given_back_by_time(shop: Shop) -> None:
    single = shop.ids["acquirer.single"]
    await terms(shop, "reversals_at_once = 1", "single")
    shop.switch.reversals.busy[single] = 1
    shown = await owed(shop)
    await shop.sql("UPDATE duty SET leased_until = now() + interval '1 second', transmissions = 1 WHERE transaction_id = $1", UUID(shown[4:]))
    shop.switch.reversals.busy[single] = 0
    await asyncio.sleep(0.6)
    assert await sent(shop, shown) == [], "it is still the other worker's"
    await shop.until(shown, "reversed")
    assert [message["0"] for message in await sent(shop, shown)] == ["0421"], "the dead one may have sent the first"


async def test_a_worker_without_a_lease_takes_and_sends_nothing(shop: Shop) -> None:
    reversals = shop.switch.reversals
    trusted = reversals.may_send
    reversals.may_send = lambda: False
    try:
        shown = await owed(shop)
        before = await duty(shop, shown)
        await asyncio.sleep(0.6)
        assert await duty(shop, shown) == before and await sent(shop, shown) == []
        asked = iter([True])
        reversals.may_send = lambda: next(asked, False)  # it runs out between the taking and the write
        row = await duty(shop, shown, leased_until=None, transmissions=0)
        await asyncio.sleep(0.3)
        assert (row["state"], row["first_sent_at"], await sent(shop, shown)) == ("open", None, [])
    finally:
        reversals.may_send = trusted
    await shop.until(shown, "reversed")


async def test_a_worker_that_lost_the_lease_of_a_duty_changes_nothing_of_it(shop: Shop) -> None:
    """It stood still, and another has taken the duty over: what the first one would do next does not count."""
    await shop.host.order("silence", match=REVERSAL)
    shown = await owed(shop)
    await duty(shop, shown, transmissions=1)
    (other,) = await shop.sql("""UPDATE duty SET leased_until = now() + interval '2 seconds', transmissions = 2 WHERE transaction_id = $1
        RETURNING leased_until""", UUID(shown[4:]))
    await asyncio.sleep(ANSWER_TIMEOUT_MS / 1000 + 0.3)
    row = await duty(shop, shown)
    assert (row["leased_until"], row["transmissions"], row["state"]) == (other["leased_until"], 2, "open")
    await hurry(shop, shown)
    await shop.until(shown, "reversed")


async def test_reversal_first_drives_it_before_the_next_sale(shop: Shop) -> None:
    await terms(shop, "reversal_first = true", "single")
    await shop.host.order("code", "96", match=REVERSAL)
    shown = await owed(shop)
    await duty(shop, shown, last_code="96", leased_until=None)
    await shop.sql("UPDATE duty SET next_attempt_at = now() + interval '1 hour' WHERE transaction_id = $1", UUID(shown[4:]))
    assert (await shop.pay(1000, key="neighbour")).status == 201, "another terminal owes nothing"
    assert (await shop.get(shown))["status"] == "reversing"
    assert (await shop.pay(1000)).status == 201
    assert (await shop.get(shown))["status"] == "reversed"


async def test_reversal_first_refuses_a_sale_while_the_last_one_is_not_undone(shop: Shop) -> None:
    await terms(shop, "reversal_first = true", "single")
    await shop.host.order("code", "96", match=REVERSAL)
    await shop.host.order("code", "91", match={"0": "0421"}, count=None)
    shown = await owed(shop)
    await duty(shop, shown, last_code="96", leased_until=None)
    await shop.sql("UPDATE duty SET next_attempt_at = now() + interval '1 hour' WHERE transaction_id = $1", UUID(shown[4:]))
    refused = await shop.pay(1000, key_ := "reversal-first-key-1")
    assert (refused.status, refused.body["code"], refused.body["processed"]) == (503, "reversal_pending", False)
    assert int(refused.headers["retry-after"]) >= 1 and await shop.by_key(key_) == []
    assert 2 <= len(await sent(shop, shown)) <= 4, "once for the sale and perhaps by the worker, not in a loop"
    await shop.host.forget()
    again = await shop.pay(1000, key_)
    assert (again.status, (await shop.get(shown))["status"]) == (201, "reversed")


async def test_a_key_that_is_known_is_answered_while_its_own_reversal_is_open(shop: Shop) -> None:
    await terms(shop, "reversal_first = true", "single")
    await shop.host.order("code", "96", match=REVERSAL)
    await shop.host.order("code", "91", match={"0": "0421"}, count=None)
    first = await shop.pay(1096, key_ := "reversal-first-key-2")
    again = await shop.pay(1096, key_)
    assert (first.status, again.status, again.body["id"], again.body["status"]) == (202, 202, first.body["id"], "reversing")
    await shop.host.forget()
    await hurry(shop, first.body["id"])
    await shop.until(first.body["id"], "reversed")


async def test_the_first_transmission_is_not_driven_before_its_grace(shop: Shop) -> None:
    await terms(shop, "reversal_first = true, reversal_grace_ms = 60000", "single")
    try:
        shown = await posted(shop)
        refused = await shop.pay(1000)
        assert (refused.status, refused.body["code"]) == (503, "reversal_pending")
        assert await sent(shop, shown) == []
    finally:
        await terms(shop, "reversal_grace_ms = 200", "single")
        await hurry(shop, shown)
    await shop.until(shown, "reversed")


async def test_the_database_going_away_leaves_the_duty_to_the_end_of_its_lease(shop: Shop) -> None:
    shown = await owed(shop)
    with contextlib.suppress(Problem):
        await shop.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")

    async def closed() -> bool:  # by SQL: a GET may meet a connection that has just died, and then says 503
        found = await duty(shop, shown)
        return bool(found["state"] == "done" and found["closed_by"] == "ack")

    await eventually(closed, "it is not acknowledged", 12)


class Meanwhile(History):
    """Something happens once, just after a duty was read."""

    happens: Callable[[], Awaitable[None]] | None = None

    async def duty(self, transaction_id: UUID) -> Duty | None:
        found = await super().duty(transaction_id)
        if (happens := self.happens) is not None:
            self.happens = None
            await happens()
        return found


async def approved_late(shop: Shop, shown: str, happens: Callable[[], Awaitable[None]]) -> None:
    """Its approval comes late, and `happens` while it is looked at; until its reversal is acknowledged."""
    switch, row = shop.switch, await shop.row(shown)
    request = (await shop.host.received(row["rrn"]))[0]
    answer = {number: request[number] for number in ("3", "4", "7", "11", "37", "41", "42", "49")} | {"0": "0210", "38": "A00001", "39": "00"}
    history = Meanwhile(switch.history.pool)
    history.happens = happens
    evidence = Evidence(switch.writers, switch.directory, history, switch.authorizations, switch.alarm)
    evidence.take(Unmatched(str(row["acquirer_id"]), answer, "late", None, row["match_key"], 0, row["received_at"], row["received_at"]))
    working = asyncio.create_task(evidence.work())
    try:
        await duty(shop, shown, state="done", closed_by="ack")
    finally:
        working.cancel()
        await evidence.stop()


async def test_an_approval_that_not_found_overtakes_by_a_moment_opens_the_reversal_again(shop: Shop) -> None:
    shown = await posted(shop)
    await shop.sql("UPDATE duty SET not_found_at = now() - interval '2 minutes' WHERE transaction_id = $1", UUID(shown[4:]))

    async def closed() -> None:
        ended = Ended(UUID(shown[4:]), None, "reversal", datetime.now(UTC), Close("not_found", Event.NOT_FOUND), "25")
        async with shop.switch.writers.acquire() as connection:
            assert await run_ended(connection, [ended], False) == [True]

    await approved_late(shop, shown, closed)
    assert await shop.host.effect((await shop.row(shown))["rrn"]) == (0, 0)


async def test_a_late_approval_is_not_forgotten_while_the_books_are_away(shop: Shop) -> None:
    await shop.host.order("code", "05", match={"0": "0200"})
    sale = (await shop.pay(1000)).body
    assert sale["status"] == "declined"

    async def away() -> None:
        raise Problem("not_ready")

    await approved_late(shop, sale["id"], away)


@pytest.mark.parametrize(("error", "tried"), [(asyncpg.DataError("no such text"), 1), (asyncpg.CannotConnectNowError("it starts"), 2)])
async def test_an_answer_that_the_books_will_never_take_holds_up_no_other(shop: Shop, error: Exception, tried: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(error, asyncpg.DataError):
        error.sqlstate = "22021"
    switch, seen = shop.switch, list[str]()
    evidence = Evidence(switch.writers, switch.directory, switch.history, switch.authorizations, switch.alarm)

    async def consider(unmatched: Unmatched) -> None:
        seen.append(unmatched.reason)
        if seen == ["first"]:
            raise error

    monkeypatch.setattr(evidence, "_consider", consider)
    for reason in ("first", "next"):
        evidence.queue.put_nowait(Unmatched("nobody", {}, reason, None, "", 0, datetime.now(UTC), datetime.now(UTC)))
    working = asyncio.create_task(evidence.work())
    try:
        async def both() -> bool:
            return seen == ["first"] * tried + ["next"]

        await eventually(both, "the next one waits", 3)
    finally:
        working.cancel()
