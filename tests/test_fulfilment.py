"""What became of duties, in the books: their alerts ride in the same commit, and a second run of a doubtful one changes nothing."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
import rows

from switch import database
from switch.ids import show
from switch.payments.duties import Close
from switch.payments.evidence import EXPEDITE
from switch.payments.fulfilment import Answered, Ended, run_ended
from switch.payments.journal import INTENT_COLUMNS, intent_values
from switch.payments.transaction import Event, Transaction

LEASE = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest_asyncio.fixture(scope="module")
async def writer(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await database.connect(database_url, "switch_writer")
    yield connection
    await connection.close()


async def advice(writer: asyncpg.Connection, **changes: Any) -> Transaction:
    """An offline sale that the acquirer has not answered yet, leased to us."""
    row = rows.transaction(type="offline_sale", exchange="advice", mti="0220", **changes)
    await rows.insert(writer, "transaction", **dict(zip(INTENT_COLUMNS, intent_values(row), strict=True)), state="SENT")
    await rows.insert(writer, "duty", **rows.duty(row, "advice")._asdict(), leased_until=LEASE)
    return row


def ended(row: Transaction, by: str, event: Event, code: str) -> Ended:
    return Ended(row.transaction_id, row.original_id, "advice", LEASE, Close(by, event), code, Answered("{}", LEASE, "do_not_honour", "none"))


async def alerts_of(writer: asyncpg.Connection, row: Transaction) -> list[tuple[str, int]]:
    return [tuple(found) for found in await writer.fetch("SELECT kind, count FROM alert WHERE object = $1", show("transaction", row.transaction_id))]


async def test_the_alert_of_a_declined_advice_rides_in_its_commit_and_a_second_run_changes_nothing(writer: asyncpg.Connection) -> None:
    row = await advice(writer)
    declined = ended(row, "declined", Event.DECLINE, "05")
    assert await run_ended(writer, [declined], False) == [True]
    assert await alerts_of(writer, row) == [("advice_declined", 1)]
    assert await run_ended(writer, [declined], True) == [False]
    assert await alerts_of(writer, row) == [("advice_declined", 1)]


async def test_an_approved_advice_alerts_nobody(writer: asyncpg.Connection) -> None:
    row = await advice(writer)
    assert await run_ended(writer, [ended(row, "ack", Event.APPROVE, "00")], False) == [True]
    assert await alerts_of(writer, row) == []
    assert await writer.fetchval("SELECT state FROM transaction WHERE transaction_id = $1", row.transaction_id) == "APPROVED"


@pytest.mark.parametrize("late", [timedelta(seconds=1), timedelta(seconds=-1)])
async def test_what_was_answered_counts_whoever_holds_the_lease_by_now(writer: asyncpg.Connection, late: timedelta) -> None:
    row = await advice(writer)
    answered = ended(row, "ack", Event.APPROVE, "00")._replace(leased_until=LEASE + late)
    assert await run_ended(writer, [answered], False) == [True]


async def reversing(writer: asyncpg.Connection) -> Transaction:
    """A sale whose host said once that it does not know it, leased to us."""
    row = rows.transaction()
    await rows.insert(writer, "transaction", **dict(zip(INTENT_COLUMNS, intent_values(row), strict=True)), state="SENT")
    async with writer.transaction():
        await writer.execute("UPDATE transaction SET state = 'REVERSING', version = 2, outcome_at = now() WHERE transaction_id = $1", row.transaction_id)
        await rows.insert(writer, "duty", **rows.duty(row)._asdict(), leased_until=LEASE, not_found_at=LEASE)
    return row


async def test_an_approval_that_is_being_written_is_waited_for_before_not_found_closes(writer: asyncpg.Connection, database_url: str) -> None:
    row = await reversing(writer)
    closing = Ended(row.transaction_id, None, "reversal", LEASE, Close("not_found", Event.NOT_FOUND), "25")
    other = await database.connect(database_url, "switch_writer")
    try:
        async with other.transaction():
            await other.execute(EXPEDITE, row.transaction_id, True)
            at_once = asyncio.create_task(run_ended(writer, [closing], False))
            await asyncio.wait([at_once], timeout=0.3)
        assert await at_once == [False]
    finally:
        await other.close()
    found = await writer.fetchrow("SELECT t.state, d.state AS duty, d.not_found_at FROM transaction t JOIN duty d USING (transaction_id) WHERE t.transaction_id = $1",
                                  row.transaction_id)
    assert tuple(found) == ("REVERSING", "open", None)
