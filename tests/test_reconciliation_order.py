"""Files in any order give the same exceptions and the same ledger; a run repeats its result; the plan of a run needs no memory of ours."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from acquirer_stubs.clearing import Item, csv_lines, plant, statement_lines
from switch import database
from switch.errors import Problem
from switch.settlement import ledger
from switch.settlement.jobs import table
from switch.settlement.reconciliation import runs
from switch.settlement.reconciliation.intake import Intake
from tests.conftest import create_database

ACQUIRER, WHO = UUID(int=7), "12345678"
DAY = date(2026, 11, 24)
SALE = """
INSERT INTO transaction (merchant_id, transaction_id, type, exchange, state, store_id, terminal_id, caller, idempotency_key, acquirer_id, business_date, worker_epoch,
  amount, currency, capture_method, authorised, capturable, captured, entry_mode, masked_pan, card_last4, brand, pan_token, pan_token_key, pan_sealed, pan_key,
  pan_sealed_on, mti, processing_code, stan, transmitted_at, local_time, local_date, pos_entry_mode, pos_condition, rrn, card_acceptor_terminal, card_acceptor, mcc,
  match_key, received_at, send_not_after, respond_by, outcome_at, outcome, response_code, approval_code, approved_amount, request_message)
SELECT m, ('01980b53-7a10-7000-8000-' || lpad(to_hex(g), 12, '0'))::uuid, 'purchase', 'request', 'APPROVED', m, m, m, 'key-of-a-sale-' || lpad(g::text, 6, '0'), $1,
  $2::date + g % 2, 1, 1000 + g, 'CNY', 'automatic', 1000 + g, 1000 + g, 1000 + g, 'chip', '62123456****0003', '0003', 'visa', sha256('x'), 't1', 'sealed', 'k1', $2, '0200',
  '000000', lpad(g::text, 6, '0'), '1124080000', '160000', '1124', '051', '00', '6328' || lpad(g::text, 8, '0'), 'T0000001', 'M00000000000001', '5411', '2|' || g,
  now(), now(), now(), now(), 'APPROVED', '00', lpad(g::text, 6, '0'), 1000 + g, '{}'
FROM generate_series(1, 60) g, (SELECT '00000000-0000-7000-8000-000000000001'::uuid AS m) AS one"""


def files() -> list[tuple[str, bytes]]:
    """Two days with every difference, each in two files; a line of the first day that comes with the second; what the bank says."""
    def item(number: int) -> Item:
        day = (DAY + timedelta(number % 2)).isoformat()
        return Item(f"6328{number:08d}", f"{number:06d}", "T0000001", "M00000000000001", f"{number:06d}", "S", 1000 + number, "156", 0, day, f"REF{number}")

    found = []
    late = item(2)
    for at in (0, 1):
        day = (DAY + timedelta(at)).isoformat()
        items = [item(number) for number in range(1, 61) if number % 2 == at and number != 2]
        changed, _ = plant(items, {"missing": 2, "extra": 2, "amount": 2, "duplicate": 1, "date": 1}, seed=at)
        halves = changed[:15], changed[15:] + ([late] if at else [])
        found += [("clearing", "".join(csv_lines(half, WHO, day, number)).encode()) for number, half in enumerate(halves, 1)]
        found.append(("statement", "".join(statement_lines({"156": 30_000 + at}, WHO, day, "2026-11-26", account="CN0012345678", number=at + 1, strange=1)).encode()))
    return found


class Books:
    """One database with the sales, and what was brought in."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def connect(self) -> database.Connection:
        return await database.connect(self.url, "switch_writer")

    async def open(self) -> None:
        owner = await asyncpg.connect(self.url)
        await owner.execute("INSERT INTO acquirer (acquirer_id, name, dialect, message_mode, institution_code) VALUES ($1, 'a', 'iso87_ascii', 'single', $2)", ACQUIRER, WHO)
        await owner.execute("ALTER TABLE transaction DISABLE TRIGGER USER")
        await owner.execute(SALE, ACQUIRER, DAY)
        await owner.execute("ALTER TABLE transaction ENABLE TRIGGER USER")
        await owner.close()

    async def bring(self, document: str, data: bytes, *, run: bool) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield data

        await Intake(self.connect).take(document, ACQUIRER if document == "clearing" else None, [WHO] if document == "clearing" else None, "f", chunks(), "Li Wei")
        if run:
            await self.run()

    async def run(self) -> None:
        connection = await self.connect()
        try:
            await runs.finish(connection)
        finally:
            await connection.close()

    async def tell(self) -> tuple[Any, Any, Any]:
        connection = await self.connect()
        try:
            exceptions = await connection.fetch("""SELECT e.business_date, e.kind, rule, e.rrn, e.currency, expected, found, difference, l.reference
                FROM reconciliation_exception e LEFT JOIN clearing_line l ON l.file_id = e.file_id AND l.line_no = e.line_no WHERE state <> 'withdrawn'""")
            moved = await connection.fetch("SELECT cause, amount, business_date FROM transfer")
            return sorted(map(tuple, exceptions), key=repr), sorted(map(tuple, moved)), await ledger.balances(connection)
        finally:
            await connection.close()


async def test_any_order_of_files_gives_the_same_exceptions_and_the_same_ledger(cluster_url: str) -> None:
    orders = list(itertools.permutations(range(6)))
    told = []
    for order in [orders[0], orders[-1], *random.Random(4).sample(orders, 6)]:
        books, all_files = Books(await create_database(cluster_url)), files()
        await books.open()
        for at in order:
            await books.bring(*all_files[at], run=order[0] % 2 == 0)  # in some orders all of them are run at the end
        await books.run()
        told.append((order, await books.tell()))
    _, (exceptions, moved, balances) = told[0]
    kinds = [each[1] for each in exceptions]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"missing_there": 4, "missing_here": 4, "amount": 4, "duplicate": 2, "date": 2, "funding": 2, "unknown_entry": 2}
    assert len(moved) == 2 and sum(balances.values()) == 0
    for order, each in told[1:]:
        assert each == (exceptions, moved, balances), order


async def test_a_run_asked_for_again_gives_the_same_digest_and_nothing_new(cluster_url: str) -> None:
    books = Books(await create_database(cluster_url))
    await books.open()
    for each in files():
        await books.bring(*each, run=True)
    before = await books.tell()
    connection = await books.connect()
    for _ in range(2):
        await connection.execute("INSERT INTO reconciliation_run (run_id, acquirer_id, business_date, cause) VALUES (gen_random_uuid(), $1, $2, 'again')", ACQUIRER, DAY)
        await books.run()
    newest = await connection.fetch("SELECT digest FROM reconciliation_run WHERE business_date = $1 ORDER BY ended_at DESC LIMIT 3", DAY)
    await connection.close()
    assert len({row["digest"] for row in newest}) == 1 and before == await books.tell()


async def test_a_file_that_comes_while_its_day_is_run_waits_for_nothing_and_is_seen_by_another_run(cluster_url: str) -> None:
    books, (first, second, *_) = Books(await create_database(cluster_url)), files()
    await books.open()
    await books.bring(*first, run=False)
    connection, watch = await books.connect(), await books.connect()

    async def comes(_: Any) -> None:  # the lines of the day are read, and nothing is committed
        await asyncio.wait_for(books.bring(*second, run=False), 5)

    run_id = await watch.fetchval(runs.NEXT)
    lines = await watch.fetchval("SELECT count(*) FROM clearing_line WHERE business_date = $1", DAY)
    assert await runs.make(connection, run_id, comes) == {"lines": lines, "movements": 30}
    again = await watch.fetch("SELECT business_date, state FROM reconciliation_run WHERE business_date = $1 AND state <> 'done'", DAY)
    assert [tuple(row) for row in again] == [(DAY, "due")]
    await books.run()
    seen = await watch.fetchval("SELECT lines FROM reconciliation_run WHERE business_date = $1 ORDER BY ended_at DESC LIMIT 1", DAY)
    assert seen == await watch.fetchval("SELECT count(*) FROM clearing_line WHERE business_date = $1", DAY) > lines
    await connection.close()
    await watch.close()


async def test_a_run_begins_when_whoever_asked_for_it_too_has_committed(cluster_url: str) -> None:
    books = Books(await create_database(cluster_url))
    await books.open()
    asker, runner, watch = [await books.connect() for _ in range(3)]
    async with watch.transaction():
        await runs.request(watch, ACQUIRER, [DAY], "first")
    async with asker.transaction():
        await runs.request(asker, ACQUIRER, [DAY], "second")
        making = asyncio.create_task(runs.make(runner, await watch.fetchval(runs.NEXT)))
        await asyncio.sleep(0.5)
        assert not making.done(), "what comes with the second would be read past"
    assert await asyncio.wait_for(making, 10)
    assert [tuple(row) for row in await watch.fetch("SELECT state FROM reconciliation_run")] == [("done",)]
    for each in (asker, runner, watch):
        await each.close()


async def test_a_run_that_was_given_up_is_tried_again_when_it_is_asked_for_again(cluster_url: str) -> None:
    books = Books(await create_database(cluster_url))
    await books.open()
    connection = await books.connect()
    for given_up in ("cancelled", "failed", "not at all"):
        async with connection.transaction():
            await runs.request(connection, ACQUIRER, [DAY], "asked for")
        (job,) = await table.page(connection, 9, None, None, runs.KIND)
        assert job.state == "queued", given_up
        if given_up == "cancelled":
            await table.cancel(connection, job.job_id, "Li Wei")
        elif given_up == "failed":
            claimed = await table.claim(connection, job.job_id, job.job_id, 10.0)
            assert isinstance(claimed, table.Job) and await table.finish(connection, claimed, table.Ending("failed", "no", failed=True))
    assert await connection.fetchval("SELECT count(*) FROM reconciliation_run") == 1
    await connection.close()


async def test_a_refused_file_leaves_no_line_and_no_run(cluster_url: str) -> None:
    books = Books(await create_database(cluster_url))
    await books.open()
    (document, data), *_ = files()
    for broken in (data[:-1], data.replace(b",S,", b",X,", 1), data.replace(WHO.encode(), b"87654321")):
        with pytest.raises(Problem) as refused:
            await books.bring(document, broken, run=False)
        assert refused.value.code == "file_refused"
    connection = await books.connect()
    for relation in ("clearing_file", "clearing_line", "statement_entry", "reconciliation_run", "transfer"):
        assert await connection.fetchval(f"SELECT count(*) FROM {relation}") == 0, relation
    await connection.close()


async def test_while_nothing_speaks_of_a_day_its_transactions_are_not_read(cluster_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cut-over asks for a run, hours before the file comes: a walk through a million sales, beside payments, to find nothing."""
    books = Books(await create_database(cluster_url))
    await books.open()
    connection = await books.connect()
    async with connection.transaction():
        await runs.request(connection, ACQUIRER, [DAY], "cutover")
    run_id = await connection.fetchval(runs.NEXT)
    with monkeypatch.context() as patched:
        patched.setattr(runs, "MOVEMENTS", "read")  # no statement
        assert await runs.make(connection, run_id) == {"lines": 0, "movements": 0}
    assert [tuple(row) for row in await connection.fetch("SELECT state, complete, found FROM reconciliation_run")] == [("done", False, "{}")]
    for each in files():
        await books.bring(*each, run=True)
    assert await connection.fetchval("SELECT movements FROM reconciliation_run WHERE business_date = $1 ORDER BY ended_at DESC LIMIT 1", DAY) == 30
    await connection.close()
