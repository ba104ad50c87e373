"""What became of duties, in the books: their alerts ride in the same commit, and a second run of a doubtful one changes nothing."""

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
