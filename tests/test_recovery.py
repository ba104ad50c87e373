"""What a worker that is gone left behind: exactly one reversal each, whoever sweeps and however often; a live worker's rows are its own."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, tzinfo
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from messages.dialect import load
from messages.dialect import match_key as key_of_match
from switch import database
from switch.ids import show
from switch.payments import recovery
from switch.payments.journal import INTENT_COLUMNS
from switch.payments.recovery import LEASE_TRUSTED_S, Lease, Recovery, claim
from switch.security.pan import Pan
from tests import rows
from tests.flows import ANSWER_TIMEOUT_MS, ROUTE, Shop, body_of, eventually, new_key, open_shop
from tests.processes import CARD


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("recovery")) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module")
async def second(shop: Shop) -> AsyncIterator[Shop]:
    """Another worker on the same books."""
    other = Shop(shop.url, shop.settings, shop.host, shop.dual, shop.keys, shop.ids)
    await other.start(alone=False)
    yield other
    await other.stop()


async def dead_worker(shop: Shop) -> int:
    found = await shop.sql("INSERT INTO worker (host, pid, lease_until) VALUES ('gone', 1, now() - interval '1 hour') RETURNING epoch")
    return int(found[0]["epoch"])


async def left(shop: Shop, epoch: int, count: int = 1, key: str | None = None, **changes: Any) -> list[str]:
    """Sales that a worker wrote down and never finished; nobody knows whether they were sent. Their shown ids."""
    vault, now = shop.switch.vault, datetime.now(UTC)
    (numbers,) = await shop.sql("SELECT * FROM acquirer_terminal WHERE terminal_id = $1 AND acquirer_id = $2", shop.ids["terminal.till"],
                                shop.ids["acquirer.single"])
    connection = await asyncpg.connect(shop.url)
    shown = []
    try:
        for _ in range(count):
            identity, pan = rows.new_id(), Pan(CARD["pan"])
            pan_key, sealed = vault.seal(pan, CARD["expiry"], identity.bytes, now.date())
            row = rows.transaction(**{
                "transaction_id": identity, "merchant_id": shop.ids["merchant.one"], "store_id": shop.ids["store.first"],
                "terminal_id": shop.ids["terminal.till"], "caller": shop.ids["terminal.till"], "idempotency_key": key or new_key(),
                "acquirer_id": shop.ids["acquirer.single"], "worker_epoch": epoch, "masked_pan": pan.masked, "card_last4": pan.last4,
                "pan_sealed": sealed, "pan_key": pan_key, "pan_sealed_on": now.date(), "transmitted_at": f"{now:%m%d%H%M%S}",
                "card_acceptor_terminal": numbers["card_acceptor_terminal"], "card_acceptor": numbers["card_acceptor"],
                "send_not_after": now - timedelta(seconds=1), "respond_by": now, "rrn": f"9{int.from_bytes(os.urandom(4), 'big'):011d}", **changes})
            row.match_key = key_of_match(load("iso87_ascii"), {"0": "0200", "7": row.transmitted_at, "11": row.stan, "37": row.rrn,
                                                               "41": row.card_acceptor_terminal, "42": row.card_acceptor})
            values = asdict(row)
            await rows.insert(connection, "transaction", state="SENT", **{name: values[name] for name in INTENT_COLUMNS})
            await rows.insert(connection, "idempotency", merchant_id=row.merchant_id, caller=row.caller, idempotency_key=row.idempotency_key,
                              route="authorizations", fingerprint=os.urandom(32), transaction_id=identity)
            shown.append(show("transaction", identity))
    finally:
        await connection.close()
    return shown


async def owed(shop: Shop, shown: list[str]) -> list[dict[str, Any]]:
    return await shop.sql("SELECT d.*, t.state AS transaction_state FROM duty d JOIN transaction t USING (transaction_id) WHERE transaction_id = ANY($1)",
                          [UUID(each[4:]) for each in shown])


async def books(shop: Shop) -> list[dict[str, Any]]:
    """Every row of a payment with its version in PostgreSQL: equal twice = nothing was written between."""
    transactions = await shop.sql("SELECT transaction_id, xmin::text, state FROM transaction ORDER BY 1")
    return transactions + await shop.sql("SELECT transaction_id, cause, created_at FROM duty ORDER BY 1")


async def test_what_a_dead_worker_left_is_owed_exactly_one_reversal(shop: Shop, second: Shop) -> None:
    shown = await left(shop, await dead_worker(shop), 5)
    swept = await asyncio.gather(*(worker.switch.recovery.sweep() for worker in (shop, second) for _ in range(3)))
    duties = await owed(shop, shown)
    assert len(duties) == 5
    assert all((duty["kind"], duty["cause"], duty["state"], duty["transaction_state"]) == ("reversal", "crash", "open", "REVERSING") for duty in duties)
    assert sum(swept) <= 5  # the workers' own sweeps may have been first

    async def asked_once_each() -> bool:
        return all(duty["last_code"] == "25" for duty in await owed(shop, shown))

    await eventually(asked_once_each, "the host was not asked about all of them")
    for each in shown:
        assert [message["0"] for message in await shop.host.received((await shop.get(each))["rrn"])] == ["0420"]


async def test_a_second_sweep_changes_nothing(shop: Shop, second: Shop) -> None:
    await left(shop, await dead_worker(shop), 3)
    await shop.switch.recovery.sweep()
    before = await books(shop)
    assert await shop.switch.recovery.sweep() == 0 and await second.switch.recovery.sweep() == 0
    assert await books(shop) == before


async def test_more_than_one_sweeps_worth_is_recovered_by_the_workers_themselves(shop: Shop, second: Shop) -> None:
    shown = await left(shop, await dead_worker(shop), 230)

    async def all_owed() -> bool:
        return len(await owed(shop, shown)) == 230

    await eventually(all_owed, "some were not recovered", 15)
    assert await shop.sql("SELECT 1 FROM transaction WHERE state = 'SENT' AND transaction_id = ANY($1)", [UUID(each[4:]) for each in shown]) == []


async def test_a_sale_of_a_live_worker_is_left_alone_and_approved(shop: Shop, second: Shop) -> None:
    await shop.host.order("delay", ANSWER_TIMEOUT_MS / 2000)
    sale = asyncio.create_task(shop.pay(5000))
    await eventually(lambda: taken(shop), "the sale has not left")
    swept = [await second.switch.recovery.sweep() for _ in range(3)]
    answer = await sale
    assert swept == [0, 0, 0] and (answer.status, answer.body["status"]) == (201, "approved")


async def taken(shop: Shop) -> bool:
    return bool((await shop.host.stats())["faults_left"] == 0)


async def test_a_worker_that_lost_its_lease_obeys_the_one_that_took_over(shop: Shop, second: Shop) -> None:
    """The first worker stood still past its lease: its answer comes, but the sale is being reversed already."""
    loop, path, answer_s = asyncio.get_running_loop(), f"/v1/acquirers/{shop.shown('acquirer.single')}", 3.0
    assert (await shop.ask("PATCH", path, {"answer_timeout_ms": round(answer_s * 1000)}, "operator")).status == 200
    await shop.caught_up()
    await second.caught_up()
    for _ in range(5):
        begun = loop.time()
        await second.host.order("delay", answer_s * 0.85)
        sale = asyncio.create_task(second.pay(5100, new_key()))
        await eventually(lambda: taken(second), "the sale has not left")
        if loop.time() - begun < answer_s / 4:
            await shop.sql("UPDATE worker SET lease_until = now() - interval '1 second', ended_at = now() WHERE epoch = $1", second.switch.recovery.epoch)
            await shop.switch.recovery.sweep()  # or the one that runs each second was faster
            if loop.time() - begun < answer_s * 0.75:
                break
        await sale  # a busy machine: too little of the host's delay is left
    answer = await sale
    assert (await shop.ask("PATCH", path, {"answer_timeout_ms": ANSWER_TIMEOUT_MS}, "operator")).status == 200
    await shop.caught_up()
    await second.caught_up()
    assert (answer.status, answer.body["status"], answer.body["advice"]) == (202, "reversing", "new_payment_allowed")
    now = await shop.until(answer.body["id"], "reversed")
    assert (now["approved_amount"], await shop.host.effect(now["rrn"])) == (0, (0, 0))
    assert [message["0"] for message in await shop.host.received(now["rrn"])] == ["0200", "0420"]


class HourBehind(datetime):
    """The wall clock of a machine that is wrong."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "datetime":  # type: ignore[override]
        return datetime.now(tz) - timedelta(hours=1)


def jump(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock of everything of the switch in this process is an hour behind."""
    for module in [module for name, module in sys.modules.items() if name.startswith("switch.")]:
        if getattr(module, "datetime", None) is datetime:
            monkeypatch.setattr(module, "datetime", HourBehind)
        if getattr(module, "time", None) is time:
            monkeypatch.setattr(module, "time", SimpleNamespace(**vars(time) | {"time": lambda: time.time() - 3600}))


async def test_a_wrong_clock_of_the_worker_moves_no_lease(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database's clock alone says until when a lease holds."""
    lease = "SELECT lease_until, extract(epoch FROM lease_until - now())::float AS left FROM worker WHERE epoch = $1"
    epoch = shop.switch.recovery.epoch
    jump(monkeypatch)
    (before,) = await shop.sql(lease, epoch)

    async def renewed() -> Any:
        (now,) = await shop.sql(lease, epoch)
        return now if now["lease_until"] != before["lease_until"] else None

    now = await eventually(renewed, "the lease was not renewed")
    assert recovery.LEASE_S - 5 < now["left"] < recovery.LEASE_S + 1  # the renewal may have begun just after the look at it


async def test_a_wrong_clock_of_the_worker_moves_no_deadline_no_reversal_and_no_key(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    key = (await shop.ask("POST", "/v1/keys", {"role": "operator", "person": "Wang Fang"}, "administrator")).body
    await shop.caught_up()
    assert (await shop.ask("GET", "/v1/merchants", key=key["key"])).status == 200
    jump(monkeypatch)
    await shop.host.order("silence", match={"0": "0200"})
    answer = await shop.pay(5300)
    assert (answer.status, answer.body["status"]) == (202, "reversing")
    await shop.until(answer.body["id"], "reversed")
    (at,) = await shop.sql("""SELECT t.*, d.transmitted_at AS reversed_at, extract(epoch FROM now() - t.received_at)::float AS age, d.created_at AS owed_at,
        d.first_sent_at FROM transaction t JOIN duty d USING (transaction_id) WHERE t.transaction_id = $1""", UUID(answer.body["id"][4:]))
    assert 0 <= at["age"] < 30 and at["received_at"] < at["send_not_after"] <= at["respond_by"] < at["received_at"] + timedelta(seconds=2)
    for said, instant in ((at["transmitted_at"], at["received_at"]), (at["reversed_at"], at["owed_at"])):
        assert abs(datetime.strptime(f"{instant.year}{said}+0000", "%Y%m%d%H%M%S%z") - instant) < timedelta(seconds=10)
    assert at["first_sent_at"] >= at["send_not_after"]
    await shop.ask("POST", f"/v1/keys/{key['id']}/revoke", key="administrator")
    await shop.caught_up()
    assert (await shop.ask("GET", "/v1/merchants", key=key["key"])).status == 401, "by the clock of this machine it ends in an hour"


async def test_past_its_time_a_sale_is_recovered_whoever_owns_it(shop: Shop, second: Shop) -> None:
    mine = shop.switch.recovery.epoch
    (fresh,) = await left(shop, mine, respond_by=datetime.now(UTC) + timedelta(seconds=5))
    (old,) = await left(shop, mine, respond_by=datetime.now(UTC) - timedelta(seconds=11))

    async def recovered() -> bool:
        return len(await owed(shop, [old])) == 1

    await eventually(recovered, "the old one is left in doubt")
    assert await owed(shop, [fresh]) == []
    assert (await shop.get(fresh))["status"] == "pending"
    transaction = UUID(fresh[4:])
    await shop.sql("UPDATE transaction SET worker_epoch = 0, version = version + 1 WHERE transaction_id = $1", transaction)
    await shop.switch.recovery.sweep()
    assert len(await owed(shop, [fresh])) == 1


async def test_a_capture_advice_of_a_dead_worker_stays_what_it_is_and_is_sent(shop: Shop, second: Shop) -> None:
    await shop.dual.order("silence", match={"0": "0220"})
    sold = (await shop.pay(5200, key="dual")).body
    epoch = await dead_worker(shop)
    (capture,) = await shop.sql("UPDATE transaction SET worker_epoch = $2, version = version + 1 WHERE original_id = $1 RETURNING transaction_id, rrn",
                                UUID(sold["id"][4:]), epoch)
    await shop.switch.recovery.sweep()
    shown = show("transaction", capture["transaction_id"])
    await shop.until(shown, "approved")
    duty = await shop.duty(shown)
    assert duty is not None and (duty["kind"], duty["closed_by"]) == ("advice", "ack")
    assert await shop.dual.effect(capture["rrn"]) == (5200, 0)


async def test_a_terminal_that_asks_again_after_the_crash_gets_not_sold(shop: Shop, second: Shop) -> None:
    key = new_key()
    (shown,) = await left(shop, await dead_worker(shop), key=key)
    first = await shop.ask("GET", f"{ROUTE}?idempotency_key={key}", key="till")
    assert first.status == 200 and first.body["status"] in ("pending", "reversing")
    other = await shop.post(body_of(1000), key)
    assert (other.status, other.body["code"]) == (422, "idempotency_key_reused")  # the stored fingerprint is another body's
    cancelled = await shop.cancel(key)
    assert cancelled.status == 202 and cancelled.body["id"] == shown and cancelled.body["status"] == "reversing"
    assert len(await owed(shop, [shown])) == 1


async def test_a_start_recovers_what_its_predecessor_left(shop: Shop, second: Shop) -> None:
    epoch = shop.switch.recovery.epoch
    (shown,) = await left(shop, epoch, respond_by=datetime.now(UTC) + timedelta(seconds=5))
    await shop.stop()
    await shop.start(alone=False)
    assert shop.switch.recovery.epoch > epoch

    async def recovered() -> bool:
        return len(await owed(shop, [shown])) == 1

    await eventually(recovered, "nobody recovered it")
    assert (await shop.pay(5300)).body["status"] == "approved"


async def test_a_start_serves_when_what_its_predecessor_left_has_its_reversals(shop: Shop, second: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that wants a terminal's reversal before its next sale would get the sale first."""
    sweep = Recovery.sweep

    async def nothing() -> int:
        return 0

    async def slow(self: Recovery) -> int:
        await asyncio.sleep(0.5)
        return await sweep(self)

    monkeypatch.setattr(second.switch.recovery, "sweep", nothing)
    (shown,) = await left(shop, shop.switch.recovery.epoch, respond_by=datetime.now(UTC) + timedelta(seconds=30))
    await shop.stop()
    monkeypatch.setattr(Recovery, "sweep", slow)
    await shop.start(alone=False)
    assert len(await owed(shop, [shown])) == 1


async def test_a_clean_stop_leaves_nothing_in_doubt(shop: Shop) -> None:
    await shop.host.order("delay", ANSWER_TIMEOUT_MS / 2000)
    sale = asyncio.create_task(shop.pay(5400))
    await eventually(lambda: taken(shop), "the sale has not left")
    epoch = shop.switch.recovery.epoch
    await shop.stop()
    assert (await sale).body["status"] == "approved"
    (worker,) = await shop.sql("SELECT ended_at, lease_until <= now() AS given_back FROM worker WHERE epoch = $1", epoch)
    assert worker["ended_at"] is not None and worker["given_back"]
    assert await shop.sql("SELECT 1 FROM transaction WHERE state = 'SENT' AND worker_epoch = $1 AND exchange = 'request'", epoch) == []
    await shop.start()


async def lease(shop: Shop) -> Lease:
    connection = await database.connect(shop.url, "switch_writer")
    try:
        return await claim(connection)
    finally:
        await connection.close()


async def test_a_lease_is_trusted_for_six_of_its_ten_seconds_and_not_by_the_loops_clock(shop: Shop) -> None:
    mine = await lease(shop)
    mine.renewed_at = time.monotonic() - LEASE_TRUSTED_S + 0.2
    assert mine.trusted()
    time.sleep(0.25)  # the loop stands still, and its clock with it
    assert not mine.trusted()


async def test_a_lease_that_ran_out_is_ended_for_good_by_whoever_sweeps(shop: Shop) -> None:
    mine = await lease(shop)
    await shop.sql("UPDATE worker SET lease_until = now() - interval '1 ms' WHERE epoch = $1", mine.epoch)
    await shop.switch.recovery.sweep()
    (row,) = await shop.sql("SELECT ended_at FROM worker WHERE epoch = $1", mine.epoch)
    assert row["ended_at"] is not None
    async with asyncio.timeout(5):
        await mine.keep(lambda: database.connect(shop.url, "switch_writer"))  # it wakes up, and returns
    assert mine.lost.is_set() and not mine.trusted()
    (again,) = await shop.sql("SELECT ended_at, lease_until < now() AS over FROM worker WHERE epoch = $1", mine.epoch)
    assert again["ended_at"] == row["ended_at"] and again["over"]


async def test_whoever_was_cut_off_from_the_database_lets_the_others_renew_first(shop: Shop) -> None:
    other, ours = await lease(shop), shop.switch.lease
    held, ours.restored_at = ours.restored_at, time.monotonic()
    try:
        await shop.sql("UPDATE worker SET lease_until = now() - interval '1 ms' WHERE epoch = $1", other.epoch)
        await shop.switch.recovery.sweep()
        assert (await shop.sql("SELECT ended_at FROM worker WHERE epoch = $1", other.epoch))[0]["ended_at"] is None
    finally:
        ours.restored_at = held
    keeping = asyncio.create_task(other.keep(lambda: database.connect(shop.url, "switch_writer")))
    await eventually(lambda: renewed(shop, other.epoch), "it could not renew")
    keeping.cancel()
    assert not other.lost.is_set()


async def renewed(shop: Shop, epoch: int) -> bool:
    return bool((await shop.sql("SELECT lease_until > now() AS renewed FROM worker WHERE epoch = $1", epoch))[0]["renewed"])


async def test_a_worker_whose_lease_was_ended_admits_nothing_hangs_up_and_says_so(shop: Shop) -> None:
    other = Shop(shop.url, shop.settings, shop.host, shop.dual, shop.keys, shop.ids)
    await other.start(alone=False)
    assert (await other.pay(6000)).status == 201 and other.switch.may_send()
    await shop.sql("UPDATE worker SET ended_at = now() WHERE epoch = $1", other.switch.lease.epoch)
    async with asyncio.timeout(5):
        await other.switch.lease.lost.wait()
    refused = await other.pay(6100)
    assert (refused.status, refused.body["processed"]) == (503, False) and not other.switch.may_send()
    await eventually(lambda: hung_up(other), "its lines stand")
    assert (await other.ask("GET", "/readyz")).body["checks"]["lease"] is False
    await other.stop()


async def hung_up(shop: Shop) -> bool:
    return all(link.state == "down" for link in shop.switch.links.values())


async def test_with_every_lease_ended_at_the_start_of_one_that_is_alone_its_own_is_left(shop: Shop) -> None:
    other = await lease(shop)
    await shop.stop()
    await shop.start(alone=True)
    assert (await shop.sql("SELECT ended_at FROM worker WHERE epoch = $1", other.epoch))[0]["ended_at"] is not None
    assert [row["epoch"] for row in await shop.sql("SELECT epoch FROM worker WHERE ended_at IS NULL")] == [shop.switch.lease.epoch]
    assert (await shop.pay(6200)).status == 201
