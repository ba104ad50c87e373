"""The sweep over what was decided: nothing is missed, whenever it becomes visible, nothing is told twice; and kill -9 between an attempt and its record."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from switch.ids import lowest, show
from switch.notices import subscribed
from switch.notices.events import tell
from switch.security.vault import Keyring
from tests.conftest import create_database
from tests.faults.stage import Server, sql
from tests.flows import Shop, eventually, onboard, open_shop
from tests.processes import BROKEN, ask
from tests.receivers import Receiver, receiver
from tests.test_webhooks_flow import Hook, came, hook, kinds

AT_ONCE = timedelta(0)
COPY = "INSERT INTO transaction SELECT (jsonb_populate_record(t, $2::jsonb)).* FROM transaction t WHERE transaction_id = $1"


@pytest_asyncio.fixture
async def shop(cluster_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    async with open_shop(await create_database(cluster_url), tmp_path, SWITCH_WEBHOOK_TARGETS="any") as opened:
        yield opened


@asynccontextmanager
async def unhindered(shop: Shop) -> AsyncIterator[Any]:
    """A connection past the triggers of the life, for rows as other machines and other days would have left them."""
    connection = await asyncpg.connect(shop.url)
    try:
        await connection.execute("ALTER TABLE transaction DISABLE TRIGGER USER")
        yield connection
    finally:
        await connection.close()


def made(ago: timedelta, number: int = 0) -> UUID:
    """An id of that time."""
    return UUID(int=lowest(datetime.now(UTC) - ago).int + number)


async def copied(connection: Any, shown: str, identity: UUID, **changed: Any) -> str:
    """The row of a sale once more under another id; its shown id."""
    pairs = ", ".join(f'"{name}": {"null" if value is None else chr(34) + str(value) + chr(34)}' for name, value in
                      {"transaction_id": identity, "rrn": f"9{identity.int % 10**11:011d}", **changed}.items())
    assert await connection.execute(COPY, UUID(shown[4:]), "{" + pairs + "}") == "INSERT 0 1"
    return show("transaction", identity)


async def whole(shop: Shop) -> None:
    """A look from the cursor on, now."""
    async def looked() -> bool:
        return await shop.switch.sweep.turn(AT_ONCE, AT_ONCE) > 0  # 0 while the sweep's own turn has the merchant

    await eventually(looked, "nobody was swept")


async def told(at: Receiver, type_: str, object_: str) -> None:
    async def reached() -> bool:
        return (type_, object_) in kinds(at)

    await eventually(reached, f"{type_} of {object_} was not told: {kinds(at)}", 15)


async def told_once(shop: Shop, at: Receiver) -> None:
    """After some more looks nothing has come twice."""
    for _ in range(3):
        await whole(shop)
    await asyncio.sleep(1)
    assert set(kinds(at).values()) == {1} and set(Counter(at.ids()).values()) == {1}


async def test_a_row_that_is_committed_late_is_told_although_newer_ones_were_told_before(shop: Shop) -> None:
    async with receiver() as till, unhindered(shop) as late:
        await hook(shop, till)
        first = (await shop.pay(10000)).body["id"]
        await told(till, "transaction.approved", first)
        async with late.transaction():
            a_little = await copied(late, first, made(timedelta(seconds=20)))
            much = await copied(late, first, made(timedelta(minutes=8)))
            second = (await shop.pay(10000)).body["id"]
            await told(till, "transaction.approved", second)
            await whole(shop)
            assert len(till.got) == 2
        await told(till, "transaction.approved", a_little)  # by the short window
        await whole(shop)
        await told(till, "transaction.approved", much)
        await told_once(shop, till)


async def test_a_silent_sale_is_told_as_reversed_and_never_as_approved(shop: Shop) -> None:
    async with receiver() as till:
        await hook(shop, till)
        await shop.host.order("silence")
        undone = (await shop.pay(10000)).body["id"]
        await shop.until(undone, "reversed")
        sold = (await shop.pay(10000)).body["id"]
        await told(till, "transaction.reversed", undone)
        await told(till, "transaction.approved", sold)
        await told_once(shop, till)
        assert set(kinds(till)) == {("transaction.reversed", undone), ("transaction.approved", sold)}


async def test_of_a_sale_that_was_tried_elsewhere_only_the_last_attempt_is_told(shop: Shop) -> None:
    added = await shop.ask("POST", "/v1/routes", {"acquirer": shop.shown("acquirer.dual"), "merchant": shop.shown("merchant.one"), "priority": 200},
                           key="operator")
    assert added.status == 201
    await shop.caught_up()
    async with receiver() as till:
        await hook(shop, till)
        await shop.host.order("code", "91")
        sold = (await shop.pay(10000)).body
        assert sold["acquirer"] == shop.shown("acquirer.dual")
        await told(till, "transaction.approved", sold["id"])
        declined = (await shop.pay(10051)).body["id"]
        await told(till, "transaction.declined", declined)
        await whole(shop)
        await told_once(shop, till)
        outcomes = [(kind, object_) for kind, object_ in kinds(till) if kind in ("transaction.approved", "transaction.declined")]
        assert sorted(outcomes) == sorted([("transaction.approved", sold["id"]), ("transaction.declined", declined)])


async def test_an_approval_that_is_undone_later_is_told_as_both(shop: Shop) -> None:
    async with receiver() as till:
        await hook(shop, till)
        key = "a" * 32
        sold = (await shop.pay(10000, key)).body["id"]
        await told(till, "transaction.approved", sold)
        await shop.cancel(key)
        await shop.until(sold, "reversed")
        await told(till, "transaction.reversed", sold)
        await told_once(shop, till)


async def test_follow_ups_are_told_with_their_original(shop: Shop) -> None:
    async with receiver() as till:
        await hook(shop, till)
        sold = (await shop.pay(10000)).body["id"]
        refund = (await shop.ask("POST", "/v1/refunds", {"authorization": sold, "amount": 4000}, Idempotency_Key="r" * 32)).body["id"]
        await told(till, "transaction.refunded", refund)
        assert [got.body["data"]["original"] for got in till.got if got.body["type"] == "transaction.refunded"] == [sold]


async def test_what_had_no_outcome_when_the_cursor_passed_is_told_when_it_has_one(shop: Shop) -> None:
    async with receiver() as till, unhindered(shop) as books:
        await hook(shop, till)
        sold = (await shop.pay(10000)).body["id"]
        identity = made(timedelta(minutes=20))
        await books.execute("UPDATE webhook_cursor SET read_to = $1", made(timedelta(minutes=30)))
        capture = await copied(books, sold, identity, state="SENT", outcome=None, outcome_at=None, approved_amount=None, authorised=0, captured=0)
        await whole(shop)
        assert [row["transaction_id"] for row in await shop.sql("SELECT * FROM webhook_undecided")] == [identity]
        assert (await shop.sql("SELECT read_to FROM webhook_cursor"))[0]["read_to"] > identity, "the cursor has passed it"
        await books.execute("UPDATE transaction SET state = 'APPROVED', outcome = 'APPROVED', outcome_at = now(), approved_amount = amount, "
                            "authorised = amount, captured = amount WHERE transaction_id = $1", identity)
        await told(till, "transaction.approved", capture)
        await told_once(shop, till)
        assert await shop.sql("SELECT 1 FROM webhook_undecided WHERE told_at IS NULL") == []


async def test_only_what_is_wanted_is_told_and_much_that_is_not_holds_nothing_up(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("switch.notices.sweep.PAGE", 2)
    monkeypatch.setattr("switch.notices.sweep.PAGES_MAX", 2)
    async with receiver() as till:
        await hook(shop, till, "transaction.declined")
        for _ in range(8):
            await shop.pay(10000)
        declined = [(await shop.pay(10051)).body["id"] for _ in range(6)]
        for each in declined:
            await told(till, "transaction.declined", each)
        await told_once(shop, till)
        assert set(kinds(till)) == {("transaction.declined", each) for each in declined}
        assert await shop.sql("SELECT 1 FROM webhook_event WHERE type <> 'transaction.declined'") == []


async def test_nothing_that_happened_before_an_endpoint_was_made_is_told(shop: Shop) -> None:
    async with receiver() as till:
        await shop.pay(10000)
        await asyncio.sleep(1.1)
        await hook(shop, till)
        after = (await shop.pay(10000)).body["id"]
        await told(till, "transaction.approved", after)
        await whole(shop)
        assert set(kinds(till)) == {("transaction.approved", after)}


async def test_an_event_of_another_room_is_told_if_its_commit_is_and_once(shop: Shop) -> None:
    async with receiver() as till:
        await hook(shop, till, "payout.sent")
        merchant = shop.ids["merchant.one"]
        pool = shop.switch.writers
        with pytest.raises(ZeroDivisionError):
            async with pool.acquire() as connection, connection.transaction():
                assert await tell(connection, merchant, "payout.sent", "pay_1", {"id": "pay_1"}) == 1
                raise ZeroDivisionError
        for _ in range(3):
            async with pool.acquire() as connection, connection.transaction():
                await tell(connection, merchant, "payout.sent", "pay_2", {"id": "pay_2"})
                await tell(connection, merchant, "payout.returned", "pay_2", {"id": "pay_2"})
                await tell(connection, shop.ids["merchant.two"], "payout.sent", "pay_3", {"id": "pay_3"})
        await came(till, 1)
        await asyncio.sleep(1)
        assert kinds(till) == {("payout.sent", "pay_2"): 1}


async def test_while_nobody_is_subscribed_nothing_but_one_small_read_runs(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    fetchval, acquire = type(shop.switch.notices).fetchval, type(shop.switch.notices).acquire

    def counted(pool: Any, *rest: Any, **named: Any) -> Any:
        if pool is shop.switch.notices:
            asked.append("acquire")
        return acquire(pool, *rest, **named)

    async def counted_read(pool: Any, text: str, *rest: Any, **named: Any) -> Any:
        if pool is shop.switch.notices:
            asked.append(text)
        return await fetchval(pool, text, *rest, **named)

    monkeypatch.setattr(type(shop.switch.notices), "acquire", counted)
    monkeypatch.setattr(type(shop.switch.notices), "fetchval", counted_read)
    await shop.pay(10000)
    await asyncio.sleep(subscribed.LOOK_S * 2)
    assert set(asked) <= {subscribed.ANY, "acquire"} and 1 <= asked.count(subscribed.ANY) <= 3
    assert asked.count("acquire") <= asked.count(subscribed.ANY)
    async with receiver() as till:  # and the first endpoint wakes it at once
        endpoint = await hook(shop, till)
        await endpoint.test()
        await came(till, 1)
        await endpoint.ask("DELETE")
        await shop.switch.subscribed.look()
        assert not shop.switch.subscribed.some.is_set()


async def test_killed_between_an_attempt_and_its_record_it_is_sent_again_under_the_same_id(cluster_url: str, tmp_path: Path) -> None:
    url = await create_database(cluster_url)
    hosts: Any = type("Host", (), {"port": 9})()
    furnished = Shop(url, None, hosts, hosts)  # type: ignore[arg-type] - only onboarded, never started in this process
    await onboard(furnished)
    Keyring.create(tmp_path / "keys.json")
    async with receiver() as till:
        server = await asyncio.to_thread(Server, tmp_path, "killed", url, "webhook.sent:1:kill", SWITCH_WEBHOOK_TARGETS="any")
        try:
            await asyncio.to_thread(server.wait_ready)
            shop = Shop(url, None, hosts, hosts, furnished.keys, furnished.ids, server.base)  # type: ignore[arg-type]
            endpoint = await hook(shop, till, "webhook.test")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Hook, "ask", _unanswered)
                await endpoint.ask("POST", "/test", {}, 202)
            await eventually(lambda: _ended(server), "it was not killed", 20)
            (row,) = await asyncio.to_thread(sql, url, "SELECT state, attempts, leased_until > now() AS leased FROM webhook_delivery")
            assert (row["state"], row["attempts"], row["leased"]) == ("due", 1, True) and len(till.got) == 1
            assert await asyncio.to_thread(sql, url, "SELECT 1 FROM webhook_attempt") == []
            await asyncio.to_thread(sql, url, "UPDATE webhook_delivery SET leased_until = now()")
            await asyncio.to_thread(server.revive)
            await asyncio.to_thread(server.wait_ready)
            await came(till, 2)
            (item,) = await endpoint.ended(1)
            assert (item["state"], item["attempts"]) == ("delivered", 2) and till.ids() == [item["id"], item["id"]]
            assert till.got[0].raw == till.got[1].raw
        finally:
            await asyncio.to_thread(server.end)


async def _unanswered(self: Hook, method: str, rest: str = "", body: object = None, status: int = 200) -> None:
    """The switch may die before it answers."""
    with suppress(*BROKEN):
        await ask(self.shop.base, method, self.place + rest, self.shop.keys["merchant.one"], body)


async def _ended(server: Server) -> bool:
    return not server.process.running
