"""The cut-over over PostgreSQL: what of a day is taken, what comes later, what the database refuses, and that any number of runs is one."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import date, timedelta
from typing import Any

import pytest
import pytest_asyncio
from asyncpg import exceptions as refusals
from settled import DAY, ONE_DAY, Till, open_till

from switch.api.settlements import ShownSettlement
from switch.errors import Problem
from switch.settlement.cutover import batch_rows, steps, tempo
from switch.settlement.fees.corrections import Corrections
from switch.settlement.fees.pricing import Closing, Price, Settled, Taken


@pytest_asyncio.fixture
async def till(database_url: str) -> AsyncIterator[Till]:
    opened = await open_till(database_url)
    yield opened
    await opened.owner.close()


async def test_a_day_settles_gross_minus_fees(till: Till) -> None:
    sold = [await till.made(amount=amount) for amount in (1000, 2050, 15_000)]
    await till.follow(sold[0], "refund", 400)
    assert (await till.cut())[3:] == ("state", True, "")
    (settlement,) = await till.settlements()
    assert {name: settlement[name] for name in ("sales_count", "sales", "refunds_count", "refunds", "adjustments", "fees", "net", "state")} == {
        "sales_count": 3, "sales": 18_050, "refunds_count": 1, "refunds": 400, "adjustments": 0, "fees": 10 + 20 + 150, "net": 17_470, "state": "stated"}
    assert [(line["kind"], line["gross"], line["fee"], line["rule"]) for line in await till.lines()] == [
        ("sale", 1000, 10, "Flat rate: All sales"), ("sale", 2050, 20, "Flat rate: All sales"), ("sale", 15_000, 150, "Flat rate: All sales"), ("refund", -400, 0, "Flat rate: refunds are free")]
    assert await till.balance() == 17_470
    assert await till.balance("acquirer") == -17_650


@pytest.mark.parametrize("keys", [1, 3, 8, 9, 1000])
async def test_a_day_is_gathered_in_pieces_whatever_the_numbers_of_its_sales(till: Till, monkeypatch: pytest.MonkeyPatch, keys: int) -> None:
    """Seven sales with numbers of their day, the first and the last that there can be among them, and four with others."""
    monkeypatch.setattr(tempo, "BRISK", tempo.BRISK._replace(keys=keys, lines=2))
    day = f"{DAY:%Y%j}"[3:]
    mine = [await till.made(amount=1000 + number, rrn=rrn) for number, rrn in enumerate((
        f"{day}00000000", f"{day}99999999", *(f"{day}0000000{number}" for number in range(1, 6)),
        "000000000001", "999999999999", f"{int(day) - 1}99999999", f"{int(day) + 1}00000000"))]
    await till.made(amount=9000, rrn=f"{day}00000002", business_date=DAY + ONE_DAY)
    await till.step(await till.new(amount=9001, rrn=f"{day}00000006"), "DECLINED", outcome="DECLINED", response_code="51")
    await till.cut()
    assert [line["gross"] for line in await till.lines()] == [row.amount for row in mine]


async def test_the_rows_of_a_day_are_never_sorted(till: Till) -> None:
    """A sort of a large day holds a core for seconds, and payments beside it wait."""
    day = (till.acquirer, DAY)
    await batch_rows.prepare(till.owner)
    async with till.owner.transaction(isolation="repeatable_read", readonly=True):
        for statement in (batch_rows.JOINS, batch_rows.PLANS):
            await till.owner.execute(statement)
        plans = ["\n".join(row[0] for row in await till.owner.fetch(f"EXPLAIN (COSTS OFF) {statement}", *values))
                 for statement, values in ((batch_rows.ROWS, day), (batch_rows.PIECE, (*day, "", 9)))]
    assert "Index Scan using batch_key_pkey on batch_key k" in plans[0] and "Sort" not in plans[0], plans[0]
    assert "using transaction_rrn on transaction" in plans[1] and "Sort" not in plans[1], plans[1]


async def test_what_is_worth_nothing_is_not_taken(till: Till) -> None:
    await till.step(await till.new(), "DECLINED", outcome="DECLINED", response_code="51")
    await till.made("balance_inquiry", 0, capture_method=None)
    held = await till.made("preauthorization", 5000, capture_method="manual", mti="0100")
    await till.follow(held, "increment", 500)
    voided = await till.made(amount=3000)
    await till.follow(voided, "void", 3000)
    undone = await till.made(amount=700)
    for state in ("REVERSING", "REVERSED"):
        await till.step(undone, state, **({"captured": 0} if state == "REVERSING" else {}))
    await till.cut()
    assert await till.settlements() == []
    assert await till.balance() == 0


async def test_captures_tips_offline_sales_and_partial_approvals_settle_by_their_own_rows(till: Till) -> None:
    held = await till.made("preauthorization", 5000, capture_method="manual", mti="0100")
    first, second = await till.follow(held, "capture", 3000), await till.follow(held, "capture", 1500)
    dual = await till.made(amount=800, mti="0100")
    own = await till.follow(dual, "capture", 800, idempotency_key=None)
    plain = await till.new(amount=1000)
    await till.step(plain, "APPROVED", capturable=1200)
    tip = await till.follow(plain, "tip", 150)
    offline = await till.made("offline_sale", 600, exchange="advice", mti="0220")
    partly = await till.new(amount=1000, partial_approval="accept")
    await till.step(partly, "APPROVED", approved_amount=500)
    await till.cut()
    assert {line["transaction_id"]: line["gross"] for line in await till.lines()} == {
        first.transaction_id: 3000, second.transaction_id: 1500, own.transaction_id: 800, plain.transaction_id: 1000, tip.transaction_id: 150,
        offline.transaction_id: 600, partly.transaction_id: 500}


async def test_the_steps_are_rows_and_a_second_run_changes_nothing(till: Till) -> None:
    await till.made()
    first = await till.cut()
    books = [await till.settlements(), await till.lines(), await till.fetch("SELECT * FROM transfer ORDER BY 1")]
    assert await till.cut(DAY) == first
    assert [await till.settlements(), await till.lines(), await till.fetch("SELECT * FROM transfer ORDER BY 1")] == books
    (stands,) = await steps.stands(till.owner, till.acquirer)
    assert [(step["step"], step["state"]) for step in stands["steps"]] == [(step, "done") for step in steps.STEPS]
    assert stands["ended_at"] is not None
    assert await till.fetch("SELECT business_date, state FROM business_day WHERE acquirer_id = $1 ORDER BY 1", till.acquirer) == [
        {"business_date": DAY, "state": "closed"}, {"business_date": DAY + ONE_DAY, "state": "open"}]


async def test_an_approval_that_comes_late_is_an_adjustment_that_names_its_day(till: Till) -> None:
    await till.made(amount=1000)
    late = await till.new(amount=2000)
    await till.cut()
    (stands,) = await steps.stands(till.owner, till.acquirer)
    shown = f"txn_{late.transaction_id}"
    assert {step["step"]: step["detail"] for step in stands["steps"]}["wait"] == {"without_outcome": 1, "listed": [shown]}
    assert {step["step"]: step["detail"] for step in stands["steps"]}["take"] == {"carried": 1, "listed": [shown]}
    await till.step(late, "APPROVED")
    await till.made(amount=500)
    await till.cut()
    assert [(line["kind"], line["business_date"], line["for_date"], line["gross"], line["fee"]) for line in await till.lines(late)] == [
        ("adjustment", DAY + ONE_DAY, DAY, 2000, 20)]
    assert [(each["sales"], each["adjustments"], each["net"]) for each in await till.settlements()] == [(1000, 0, 990), (500, 2000, 2475)]
    await till.cut()
    assert len(await till.settlements()) == 2


async def test_outcomes_are_waited_for_and_settle_on_their_own_day_and_never_longer_than_the_bound(till: Till) -> None:
    soon, never = await till.new(amount=2000), await till.new(amount=700)
    running = asyncio.create_task(till.cut(wait_s=1.5))
    await asyncio.sleep(0.3)
    assert not running.done()
    await till.step(soon, "APPROVED")
    async with asyncio.timeout(10):
        await running
    assert [(line["kind"], line["for_date"], line["gross"]) for line in await till.lines()] == [("sale", DAY, 2000)]
    (stands,) = await steps.stands(till.owner, till.acquirer)
    assert {step["step"]: step["detail"] for step in stands["steps"]}["wait"] == {"without_outcome": 1, "listed": [f"txn_{never.transaction_id}"]}


async def test_what_is_undone_after_it_was_settled_goes_back_with_its_fee(till: Till) -> None:
    sold = await till.made(amount=2000)
    await till.cut()
    await till.step(sold, "REVERSING", captured=0)
    await till.cut()
    assert len(await till.lines(sold)) == 1, "nothing is decided while its reversal is open"
    await till.step(sold, "REVERSED")
    await till.cut()
    assert [(line["kind"], line["for_date"], line["gross"], line["fee"]) for line in await till.lines(sold)] == [
        ("sale", DAY, 2000, 20), ("adjustment", DAY, -2000, -20)]
    assert await till.balance() == 0
    assert (await till.settlements())[-1]["net"] == -1980


async def test_what_two_people_confirm_by_hand_is_settled_when_they_have_said_so(till: Till) -> None:
    doubtful = await till.new(amount=900)
    await till.step(doubtful, "REVERSING")
    await till.step(doubtful, "PARKED")
    await till.cut()
    await till.cut()
    assert await till.lines() == []
    await till.step(doubtful, "CONFIRMED")
    await till.cut()
    assert [(line["kind"], line["for_date"], line["gross"]) for line in await till.lines()] == [("adjustment", DAY, 900)]


async def test_a_void_that_is_decided_late_takes_back_the_sale_and_its_tip(till: Till) -> None:
    sold = await till.new(amount=1000)
    await till.step(sold, "APPROVED", capturable=1200)
    tip = await till.follow(sold, "tip", 200)
    void = await till.follow(sold, "void", 1200, approved=False)
    await till.cut()
    assert (await till.settlements())[0]["sales"] == 1200
    await till.step(void, "APPROVED")
    await till.cut()
    assert (await till.settlements())[1]["adjustments"] == -1200
    assert {line["transaction_id"] for line in await till.lines() if line["kind"] == "adjustment"} == {sold.transaction_id, tip.transaction_id}
    assert await till.balance() == 0


async def test_a_move_that_the_batch_did_not_see_is_not_marked_as_dealt_with(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    """It commits while the batch writes; the next cut-over must find it."""
    early, sold = await till.made(amount=100), await till.made(amount=2000)
    await till.cut()
    for state, sets in (("REVERSING", {"captured": 0}), ("REVERSED", {})):
        await till.step(early, state, **sets)

    async def told(_connection: object, lines: object) -> None:
        if not moved:
            moved.append(True)
            for state, sets in (("REVERSING", {"captured": 0}), ("REVERSED", {})):
                await till.step(sold, state, **sets)

    moved: list[bool] = []
    progress = steps.Runner._progress
    monkeypatch.setattr(steps.Runner, "_progress", lambda self, lines: _both(told(self, lines), progress(self, lines)))
    await till.cut()
    assert [line["kind"] for line in await till.lines(sold)] == ["sale"]
    await till.cut()
    assert [line["kind"] for line in await till.lines(sold)] == ["sale", "adjustment"]


async def _both(first: Any, second: Any) -> None:
    await first
    await second


# What the database refuses by itself.


async def test_a_closed_day_takes_no_intent(till: Till) -> None:
    await till.cut()
    with pytest.raises(refusals.CheckViolationError, match="2026-11-23 of the acquirer is closed"):
        await till.new(business_date=DAY)
    sold = await till.made()
    with pytest.raises(refusals.CheckViolationError, match="closed"):
        await till.follow(sold, "refund", 10, business_date=DAY)
    for statement in ("UPDATE business_day SET state = 'open' WHERE state = 'closed'", "UPDATE business_day SET state = 'closing' WHERE state = 'closed'"):
        with pytest.raises(refusals.CheckViolationError, match="stays closed"):
            await till.owner.execute(statement)


async def test_the_capture_that_a_late_approval_owes_is_written_and_settles_late(till: Till) -> None:
    dual = await till.new(amount=800, mti="0100")
    await till.cut()
    await till.step(dual, "APPROVED")
    own = await till.follow(dual, "capture", 800, idempotency_key=None, business_date=DAY)
    await till.cut()
    assert [(line["kind"], line["for_date"], line["gross"]) for line in await till.lines(own)] == [("adjustment", DAY, 800)]


async def test_whoever_closes_a_day_waits_for_the_intents_that_hold_it(till: Till, database_url: str) -> None:
    other = await open_till(database_url)
    other.acquirer, other.merchant = till.acquirer, till.merchant
    async with other.owner.transaction():
        await other.new(amount=700)
        holds = await till.fetch("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 3583010 AND mode = 'ShareLock'")
        assert holds[0]["count"] == 1
        await till.owner.execute("SET lock_timeout = '100ms'")
        with pytest.raises(refusals.LockNotAvailableError):
            await till.owner.execute(steps.LOCK_DAY, till.acquirer, DAY)
        running = asyncio.create_task(till.cut())
        await asyncio.sleep(0.5)
        assert not running.done(), "the day is not taken while an intent may still be written into it"
    await running
    await other.owner.close()
    carried = await till.fetch("SELECT for_date FROM late_change WHERE acquirer_id = $1", till.acquirer)
    assert [each["for_date"] for each in carried] == [DAY], "and the cut-over knows of it"


async def test_lines_and_settlements_hold_together(till: Till) -> None:
    await till.made()
    await till.cut()
    for statement in ("UPDATE settlement SET state = 'stated', net = net + 1", "UPDATE settlement_line SET fee = fee + 1", "DELETE FROM settlement_line",
                      "UPDATE transfer SET amount = 1"):
        writer = await till.connect()
        with pytest.raises(refusals.InsufficientPrivilegeError):
            await writer.execute(statement)
        await writer.close()
    with pytest.raises(refusals.CheckViolationError, match="settlement_net"):
        await till.owner.execute("UPDATE settlement SET net = net + 1")
    with pytest.raises(refusals.UniqueViolationError):
        await till.owner.execute("""INSERT INTO settlement (merchant_id, settlement_id, acquirer_id, business_date, currency, net, due_on)
            SELECT merchant_id, gen_random_uuid(), acquirer_id, business_date, currency, 0, due_on FROM settlement WHERE acquirer_id = $1""", till.acquirer)


# Order, workers, and who else is at it.


async def test_days_are_cut_over_in_their_order(till: Till) -> None:
    await till.owner.execute("INSERT INTO business_day (acquirer_id, business_date) VALUES ($1, $2)", till.acquirer, DAY + ONE_DAY)
    with pytest.raises(Problem, match="conflict"):
        await till.cut(DAY + ONE_DAY)
    with pytest.raises(Problem, match="not_found"):
        await till.cut(DAY - ONE_DAY)
    assert (await till.cut()).next_date == DAY + ONE_DAY, "the day that its host opened"
    assert (await till.cut()).business_date == DAY + ONE_DAY


async def test_a_live_worker_that_does_not_know_the_new_day_is_waited_for_and_a_dead_one_is_not(till: Till) -> None:
    await till.made()
    await till.owner.execute("INSERT INTO worker (host, pid, lease_until) VALUES ('dead', 1, now() - interval '1 second')")
    await till.owner.execute("INSERT INTO worker (host, pid, lease_until, ended_at) VALUES ('gone', 1, now() + interval '1 hour', now())")
    epoch = await till.owner.fetchval("INSERT INTO worker (host, pid, lease_until) VALUES ('lives', 1, now() + interval '1 hour') RETURNING epoch")
    waiting = await till.cut()
    assert (waiting.step, waiting.done) == ("confirm", False)
    assert f"workers {epoch} have not confirmed" in waiting.waits_for
    assert await till.settlements() == []
    await till.new(business_date=DAY)  # nothing is closed yet
    await till.owner.execute("UPDATE worker SET directory_version = (SELECT max(version) FROM directory_change) WHERE epoch = $1", epoch)
    assert (await till.cut()).done
    await till.owner.execute("UPDATE worker SET ended_at = now() WHERE epoch = $1", epoch)


async def test_two_runners_at_once_are_one(till: Till) -> None:
    await till.made()
    holder = await till.connect()
    await holder.fetchval(steps.RUN_LOCK, till.acquirer)
    with pytest.raises(Problem, match="conflict"):
        await till.cut()
    await holder.close()
    assert (await till.cut()).done


async def test_a_runner_that_was_overtaken_writes_nothing_more(till: Till) -> None:
    """Its session lock was lost with its connection to a proxy, say; its epoch is old."""
    await till.made()

    async def overtaken(_connection: object, _rows: object) -> None:
        raise AssertionError("never told")

    progress = steps.Runner._progress

    async def lose(self: steps.Runner, lines: int) -> None:
        await till.owner.execute("UPDATE cutover SET epoch = epoch + 1 WHERE acquirer_id = $1", till.acquirer)
        await progress(self, lines)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps.Runner, "_progress", lose)
        with pytest.raises(steps.LostHold):
            await till.cut(told=overtaken)
    assert await till.settlements() == []
    assert (await till.cut()).done


# Money in time.


async def test_due_dates_reserves_and_their_release(database_url: str) -> None:
    till = await open_till(database_url, funding_days=2, reserve_basis_points=500, reserve_days=3, day=date(2026, 11, 26))
    await till.made(amount=10_000)
    await till.cut()
    (settlement,) = await till.settlements()
    assert (settlement["due_on"], settlement["reserve_held"], settlement["reserve_release_on"]) == (date(2026, 11, 30), 500, date(2026, 11, 29))
    assert (await till.balance(), await till.balance("reserve")) == (9400, 500)
    for held, free in ((500, 9400), (500, 9400), (0, 9900)):
        await till.cut()
        assert (await till.balance("reserve"), await till.balance()) == (held, free)
    await till.owner.close()


async def test_each_merchant_and_currency_has_a_settlement_of_its_own(till: Till, database_url: str) -> None:
    other = await open_till(database_url)
    for merchant, currency, amount in ((till.merchant, "CNY", 100), (till.merchant, "USD", 200), (other.merchant, "CNY", 400)):
        await till.made(amount=amount, merchant_id=merchant, currency=currency)
    await till.cut()
    assert sorted((each["merchant_id"], each["currency"], each["sales"]) for each in await till.settlements()) == sorted(
        [(till.merchant, "CNY", 100), (till.merchant, "USD", 200), (other.merchant, "CNY", 400)])
    assert (await till.balance(), await till.balance(currency="USD"), await till.balance(merchant=other.merchant)) == (99, 198, 396)
    await other.owner.close()


async def test_an_acquirer_with_a_calendar_opens_its_next_business_day(till: Till) -> None:
    friday = DAY + timedelta(days=4)
    await till.owner.execute("UPDATE acquirer SET calendar = 'weekdays' WHERE acquirer_id = $1", till.acquirer)
    await till.owner.execute("UPDATE business_day SET business_date = $2 WHERE acquirer_id = $1", till.acquirer, friday)
    assert (await till.cut()).next_date == friday + timedelta(days=3)


async def test_whoever_prices_a_refund_is_told_what_was_settled_of_its_sale(till: Till) -> None:
    held = await till.made("preauthorization", 5000, capture_method="manual", mti="0100")
    for amount in (3000, 1000):
        await till.follow(held, "capture", amount)
    await till.follow(held, "refund", 500)
    await till.cut()
    await till.follow(held, "refund", 700)
    seen: list[Taken] = []

    class Listening:
        corrections = Corrections()

        def prices(self, taken: Sequence[Taken]) -> list[Price]:
            seen.extend(taken)
            return [Price() for _ in taken]

        def close(self, fees: int) -> Closing:
            return Closing()

    class Asked:
        async def of(self, *_: object) -> Listening:
            return Listening()

    await till.cut(pricing=Asked())
    assert [(each.amount, each.sale, each.settled) for each in seen] == [(-700, held.transaction_id, Settled(4000, 40, 0, 0, 0, 500))]


async def test_whoever_listens_is_told_of_a_settlement_once_and_its_day_is_to_be_reconciled(till: Till) -> None:
    await till.owner.execute("""INSERT INTO webhook_endpoint (merchant_id, endpoint_id, url, types, secret_sealed, secret_key, since)
        SELECT merchant_id, gen_random_uuid(), 'https://shop.example/', '{settlement.stated}', '\\x00', 'k', now() - interval '1 day' FROM merchant WHERE merchant_id = $1""", till.merchant)
    await till.made(amount=1000)
    await till.cut()
    await till.cut(DAY)
    events = await till.owner.fetch("SELECT type, body FROM webhook_event WHERE merchant_id = $1", till.merchant)
    assert [event["type"] for event in events] == ["settlement.stated"]
    data = json.loads(events[0]["body"])["data"]
    assert {name: data[name] for name in ("business_date", "sales", "fees", "net", "currency")} == {
        "business_date": DAY.isoformat(), "sales": 1000, "fees": 10, "net": 990, "currency": "CNY"}
    assert not set(data) ^ (set(ShownSettlement.model_fields) - {"id", "merchant", "state", "payout", "priced_at", "stated_at"} | {"settlement"})
    assert await till.owner.fetchval("SELECT count(*) FROM webhook_delivery WHERE merchant_id = $1", till.merchant) == 1
    asked = await till.owner.fetch("SELECT business_date, cause, state FROM reconciliation_run WHERE acquirer_id = $1", till.acquirer)
    assert [tuple(run) for run in asked] == [(DAY, "cutover", "due")]
