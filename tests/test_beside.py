"""Days on which a merchant sold nothing, and disputes, corrections or its contract moved its balance all the same: each has a settlement that says so."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
import rows
from settled import DAY, ONE_DAY, Till, open_till

from switch import database
from switch.errors import Problem
from switch.ids import show
from switch.payments.transaction import Transaction
from switch.settlement import ledger
from switch.settlement.cutover.settlements import Settlements, Wanted, figures
from switch.settlement.disputes.cases import Cases
from switch.settlement.disputes.deadlines import OVERDUE, Deadlines
from switch.settlement.disputes.notices import Notice
from switch.settlement.exports import paper, statements
from switch.settlement.funding import arrangements
from switch.settlement.funding.charged import Falls, falls_on
from switch.settlement.jobs.table import NotYet
from switch.settlement.ledger import Account
from tests.snapshots import wrong

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)


@pytest_asyncio.fixture
async def till(database_url: str) -> AsyncIterator[Till]:
    opened = await open_till(database_url)
    await opened.owner.execute("""INSERT INTO dispute_fee (acquirer_id, kind, currency, fee, cost)
        SELECT $1, kind, 'CNY', 1500, 0 FROM unnest('{chargeback,retrieval}'::text[]) kind""", opened.acquirer)
    yield opened
    await opened.owner.close()


async def dispute(connection: Any, till: Till, sale: Transaction, kind: str = "chargeback", amount: int = 4000) -> None:
    """The acquirer's word, in the caller's database transaction."""
    opens = kind in ("chargeback", "retrieval")
    await Cases().notice(connection, till.acquirer, Notice(kind, f"CB-{sale.rrn}", sale.transaction_id if opens else None, None, amount, "CNY", "4853", NOW.date()),
                         "operator", NOW)


async def correct(till: Till, amount: int) -> None:
    """What a resolved exception of the reconciliation moves."""
    async with till.owner.transaction():
        day = await ledger.open_day(till.owner, till.acquirer)
        assert day is not None
        await ledger.post(till.owner, ledger.moved(Account("acquirer", "CNY", acquirer_id=till.acquirer), Account("merchant", "CNY", till.merchant), amount,
                                                   "reconciliation_adjust", f"exc_{uuid4()}", day, f"reconciliation:{uuid4()}"))


async def charge(till: Till, amount: int, name: str = "Installation", merchant: UUID | None = None) -> Falls:
    """What a contract charges once."""
    merchant = merchant or till.merchant
    async with till.owner.transaction():
        falls = await falls_on(till.owner, merchant, NOW.date())
        await ledger.post(till.owner, [each._replace(acquirer_id=falls.acquirer_id) for each in ledger.moved(
            Account("merchant", "CNY", merchant), Account("fee", "CNY"), amount, "contract_charge", f"con_{uuid4()}", falls.business_date, f"contract:{uuid4()}", name)])
    return falls


async def known_at(till: Till, acquirer: UUID, merchant: UUID, priority: int | None) -> None:
    """A terminal of the merchant has numbers there; with a priority, a route of all merchants leads there."""
    if not await till.fetch("SELECT FROM terminal WHERE merchant_id = $1", merchant):
        store = uuid4()
        await rows.insert(till.owner, "store", merchant_id=merchant, store_id=store, name="S", city="Shanghai", time_zone="UTC")
        await rows.insert(till.owner, "terminal", merchant_id=merchant, terminal_id=uuid4(), store_id=store, name="T")
    (terminal,) = await till.fetch("SELECT terminal_id FROM terminal WHERE merchant_id = $1", merchant)
    await rows.insert(till.owner, "acquirer_terminal", merchant_id=merchant, acquirer_id=acquirer, terminal_id=terminal["terminal_id"],
                      card_acceptor_terminal=uuid4().hex[:8], card_acceptor=uuid4().hex[:15])
    if priority is not None:
        await rows.insert(till.owner, "route", route_id=uuid4(), acquirer_id=acquirer, merchant_id=merchant, priority=priority)


async def shown(till: Till) -> list[dict[str, Any]]:
    """As GET /v1/settlements shows them, the oldest first."""
    pool = await database.pool(till.url, "switch_reader", 1)
    try:
        return [dict(row) for row in await Settlements(pool).page(Wanted(till.merchant, True), 50)][::-1]
    finally:
        await pool.close()


async def test_a_day_of_chargebacks_alone_has_a_settlement_that_shows_them(till: Till) -> None:
    sold, other = await till.made(amount=10_000), await till.made(amount=3000)
    await till.cut()
    await till.cut()  # a day on which nothing happened has none
    async with till.owner.transaction():
        await dispute(till.owner, till, sold)
        await dispute(till.owner, till, other, "retrieval", 3000)
    await till.cut()
    async with till.owner.transaction():
        await dispute(till.owner, till, sold, "won")
    await till.cut()
    assert [(row["business_date"], row["net"], row["sales_count"], row["state"], row["disputes"], row["dispute_fees"], row["corrections"]) for row in await shown(till)] == [
        (DAY, 12_870, 2, "stated", 0, 0, 0), (DAY + 2 * ONE_DAY, 0, 0, "stated", -4000, 3000, 0), (DAY + 3 * ONE_DAY, 0, 0, "stated", 4000, 0, 0)]
    assert await till.balance() == 12_870 - 3000
    assert await wrong(till.owner) == {}


async def test_what_a_correction_moves_alone_is_settled_too_and_the_day_explains_the_balance(till: Till) -> None:
    await till.made(amount=1000)
    await correct(till, -300)
    await till.cut()
    await correct(till, -5000)
    await till.cut()
    assert [(row["net"], row["disputes"], row["corrections"]) for row in await shown(till)] == [(990, 0, -300), (0, 0, -5000)]
    assert await till.balance() == 990 - 5300, "negative: carried until later sales cover it"
    assert len(await till.settlements()) == 2
    await till.cut(DAY + ONE_DAY)
    assert len(await till.settlements()) == 2, "asked again, it changes nothing"


async def test_the_statement_and_the_export_of_such_a_day_hold_what_moved(till: Till) -> None:
    sold = await till.made(amount=10_000)
    await till.cut()
    async with till.owner.transaction():
        await dispute(till.owner, till, sold)
    await correct(till, 250)
    await till.cut()
    settlement = (await till.settlements())[-1]
    async with till.owner.transaction():
        whole = await statements.head(till.owner, settlement["settlement_id"], till.merchant)
        assert whole is not None
        rows = [row async for some in statements.lines(till.owner, whole) for row in some]
        printed = paper.document(await statements.statement(till.owner, whole), "en")
    assert [(row["kind"], row["chargebacks"], row["adjustments"], row["fee"], row["net"]) for row in rows] == [
        ("chargeback", -4000, 0, 1500, -5500), ("correction", 0, 250, 0, 250)]
    assert rows[0]["transaction"] == f"txn_{sold.transaction_id}"
    (beside,) = [table for table in printed.tables if table.title.startswith("Chargebacks, corrections")]
    assert beside.rows[-1] == ("Net with these", "", "-52.50", "")
    assert "52.50" in paper.html(printed)


async def test_a_day_of_charges_alone_has_a_settlement_and_a_statement_that_show_them(till: Till) -> None:
    await till.made(amount=10_000)
    await till.cut()
    assert await charge(till, 30_000) == Falls(DAY + ONE_DAY, till.acquirer)
    hold = uuid4()
    async with till.owner.transaction():
        await arrangements.placed(till.owner, till.merchant, "CNY", 5000, "Deposit of contract con_x", "switch", hold, Falls(DAY + ONE_DAY, till.acquirer))
        await arrangements.placed(till.owner, till.merchant, "CNY", 70, "A hold by a person is in no settlement", "switch", uuid4())
    await till.cut()
    async with till.owner.transaction():
        await arrangements.released(till.owner, till.merchant, hold, "switch")
    await till.cut()
    await till.cut()
    assert [(row["business_date"], row["net"], row["contract_charges"], row["deposits"], row["corrections"], row["disputes"]) for row in await shown(till)] == [
        (DAY, 9900, 0, 0, 0, 0), (DAY + ONE_DAY, 0, 30_000, -5000, 0, 0), (DAY + 2 * ONE_DAY, 0, 0, 5000, 0, 0)]
    assert await till.balance() == 9900 - 30_000 - 70
    async with till.owner.transaction():
        whole = await statements.head(till.owner, (await till.settlements())[1]["settlement_id"], till.merchant)
        assert whole is not None
        lines = [row async for some in statements.lines(till.owner, whole) for row in some]
        printed = {language: paper.html(paper.document(await statements.statement(till.owner, whole), language)) for language in ("en", "zh")}
    assert sorted((row["kind"], row["adjustments"], row["fee"], row["net"], row["fee_rule"]) for row in lines) == [
        ("contract_charge", 0, 30_000, -30_000, "Installation"), ("deposit", -5000, 0, -5000, "Deposit of contract con_x")]
    for language, words in (("en", ("charge by contract", "deposit", "Net with these")), ("zh", ("合同收费", "押金", "净额与上述合计"))):
        for word in (*words, "Installation", "300.00", "-350.00"):
            assert word in printed[language], word


async def test_a_charge_falls_on_a_day_of_the_acquirer_that_the_merchant_sold_by_last_or_will_sell_by_first(till: Till, database_url: str) -> None:
    other = await open_till(database_url, owner=till.owner, day=DAY + 3 * ONE_DAY)
    assert await charge(till, 100) == Falls(NOW.date(), None), "no acquirer knows it yet: only the balance tells"
    await known_at(till, till.acquirer, till.merchant, None)
    assert await charge(till, 100) == Falls(DAY, till.acquirer)
    await known_at(till, other.acquirer, till.merchant, 50)
    assert await charge(till, 100) == Falls(DAY + 3 * ONE_DAY, other.acquirer)
    await till.made(amount=1000)
    assert await charge(till, 100) == Falls(DAY, till.acquirer)
    for each in (till, other):
        await each.cut()
    assert {(row["acquirer_id"], row["contract_charges"]) for row in await shown(till)} == {(till.acquirer, 200), (other.acquirer, 100)}


async def test_the_webhook_of_a_settlement_says_what_the_list_shows(till: Till) -> None:
    await till.owner.execute("""INSERT INTO webhook_endpoint (merchant_id, endpoint_id, url, types, secret_sealed, secret_key, since)
        VALUES ($1, gen_random_uuid(), 'https://shop.example/', '{settlement.stated}', '\\x00', 'k', now() - interval '1 day')""", till.merchant)
    sold = await till.made(amount=10_000)
    async with till.owner.transaction():
        await dispute(till.owner, till, sold)
    await correct(till, 250)
    await charge(till, 800)
    await till.cut()
    (body,) = await till.fetch("SELECT body FROM webhook_event WHERE merchant_id = $1", till.merchant)
    told, (row,) = json.loads(body["body"])["data"], await shown(till)
    assert (told["net"], told["disputes"], told["dispute_fees"], told["corrections"], told["contract_charges"]) == (9900, -4000, 1500, 250, 800)
    assert told == figures(row) | {"settlement": show("settlement", row["settlement_id"]), "acquirer": show("acquirer", till.acquirer)}


async def test_another_acquirer_shows_nothing_of_it(till: Till, database_url: str) -> None:
    sold = await till.made(amount=10_000)
    other = await open_till(database_url, owner=till.owner)
    await other.made(amount=700, merchant_id=till.merchant)
    async with till.owner.transaction():
        await dispute(till.owner, till, sold)
    for each in (till, other):
        await each.cut()
    assert {(row["acquirer_id"], row["disputes"], row["dispute_fees"]) for row in await shown(till)} == {(till.acquirer, -4000, 1500), (other.acquirer, 0, 0)}


async def test_a_cut_over_waits_for_the_chargeback_that_is_being_written_and_settles_it(till: Till) -> None:
    sold = await till.made(amount=10_000)
    await till.cut()
    writer = await till.connect()
    try:
        transaction = writer.transaction()
        await transaction.start()
        await dispute(writer, till, sold)
        running = asyncio.create_task(till.cut())
        await asyncio.sleep(0.5)
        assert not running.done(), "the day is not taken while something is written into it"
        await transaction.commit()
        await running
    finally:
        await writer.close()
    assert [(row["business_date"], row["disputes"]) for row in await shown(till)] == [(DAY, 0), (DAY + ONE_DAY, -4000)]


async def test_nothing_is_posted_to_a_day_that_is_being_taken(till: Till) -> None:
    """Whoever reads the open day just before the next one opens finds the lock taken, asks again, and waits for nobody."""
    async def asked(connection: Any) -> date | None:
        async with connection.transaction():
            return await ledger.open_day(connection, till.acquirer)

    writer, taker = await till.connect(), await till.connect()
    try:
        assert await asked(writer) == DAY
        async with taker.transaction():
            await taker.execute("SELECT pg_advisory_xact_lock(3583010, day_lock($1, $2))", till.acquirer, DAY)
            with pytest.raises(Problem) as refused:
                async with asyncio.timeout(5):
                    await asked(writer)
            assert (refused.value.code, refused.value.detail) == ("not_ready", "The business day is being closed; ask again.")
        await till.cut()
        assert await asked(writer) == DAY + ONE_DAY
    finally:
        await writer.close()
        await taker.close()


async def test_a_deadline_that_ends_while_its_day_is_taken_is_looked_at_again(till: Till) -> None:
    sold = await till.made(amount=10_000)
    async with till.owner.transaction():
        await dispute(till.owner, till, sold)
    (row,) = await till.fetch("SELECT dispute_id, answer_by FROM dispute WHERE transaction_id = $1", sold.transaction_id)
    taker, pool = await till.connect(), await database.pool(till.url, "switch_writer", 1)

    async def hold(_: Any) -> None:
        pass

    job = SimpleNamespace(arguments={"dispute": show("dispute", row["dispute_id"]), "what": OVERDUE, "at": row["answer_by"].isoformat()})
    run: Any = SimpleNamespace(pool=pool, hold=hold, job=job)
    try:
        async with taker.transaction():
            await taker.execute("SELECT pg_advisory_xact_lock(3583010, day_lock($1, $2))", till.acquirer, DAY)
            with pytest.raises(NotYet):
                await Deadlines(pool, Cases()).do(run)
        assert await Deadlines(pool, Cases()).do(run) == {"moved": True}
    finally:
        await taker.close()
        await pool.close()


async def test_a_thousand_days_of_others_are_not_read_for_a_page(till: Till) -> None:
    """Both questions go by the indexes of r0038."""
    await till.owner.execute("SET enable_seqscan = off")
    for where, arguments in (("business_date = $1 AND acquirer_id = $2", (DAY, till.acquirer)), ("business_date = $1 AND merchant_id = $2", (DAY, till.merchant))):
        plan = "\n".join(row[0] for row in await till.owner.fetch(f"EXPLAIN SELECT * FROM settled_beside WHERE {where}", *arguments))
        assert plan.count("using transfer_beside_") == 2, plan
