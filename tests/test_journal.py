"""The journal on a real PostgreSQL: group commit, duplicates, verdicts row by row, deadlines, and doubt about a COMMIT."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
import rows
from proxy import Proxy, bind, commit

from switch import database
from switch.payments.journal import INTENT_COLUMNS, INTENTS_MAX, OUTCOME_COLUMNS, Claim, Intent, Journal, Outcome, Written
from switch.payments.lane import GATHER_S, PACE_S
from switch.payments.transaction import Transaction

LONG_S = 8.0
Unsure = list[Outcome]


def soon(seconds: float = LONG_S) -> float:
    return asyncio.get_running_loop().time() + seconds


@asynccontextmanager
async def started(url: str, late: list[Intent] | None = None) -> AsyncIterator[tuple[Journal, Unsure]]:
    """A journal, and what it was unsure about; `late` gets the intents whose walk had ended."""
    unsure: Unsure = []
    journal = Journal(lambda plans: database.connect(url, "switch_writer", **plans), unsure.append, late.append if late is not None else lambda _: None)
    await journal.start()
    try:
        yield journal, unsure
    finally:
        async with asyncio.timeout(LONG_S):
            await journal.stop()


@pytest_asyncio.fixture(scope="module")
async def journal(database_url: str) -> AsyncIterator[Journal]:
    async with started(database_url) as (found, unsure):
        yield found
        assert not unsure


@pytest_asyncio.fixture(scope="module")
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    found = Proxy(database_url)
    await found.start()
    yield found
    await found.stop()


async def claimed(journal: Journal, *intents: Intent) -> list[Claim]:
    return await asyncio.gather(*[journal.intent(intent, soon()) for intent in intents])


async def stored(owner: asyncpg.Connection, row: Transaction) -> asyncpg.Record | None:
    return await owner.fetchrow("SELECT * FROM transaction WHERE transaction_id = $1", row.transaction_id)


def approved(row: Transaction, **changes: Any) -> Outcome:
    values: dict[str, Any] = {"state": "APPROVED", "version": row.version + 1, "outcome": "APPROVED", "outcome_at": datetime.now(UTC),
                              "response_code": "00", "approved_amount": row.amount, "authorised": row.amount, "capturable": row.amount,
                              "captured": row.amount, "reason": "approved", "advice": "none"}
    return Outcome(replace(row, **(values | changes)), row.state)


def reversing(row: Transaction, **changes: Any) -> Outcome:
    after = replace(row, state="REVERSING", version=row.version + 1, outcome_at=row.outcome_at or datetime.now(UTC), captured=0)
    return Outcome(after, row.state, rows.duty(row, **changes), event=("reversed", '{"by": "test"}'))


async def sent(journal: Journal, count: int = 1, **changes: Any) -> list[Transaction]:
    made = [rows.transaction(**changes) for _ in range(count)]
    assert set(await claimed(journal, *map(rows.intent, made))) == {Claim.OURS}
    return made


# The statements and the types.


async def test_the_arrays_of_the_journal_have_the_columns_of_its_types(owner: asyncpg.Connection) -> None:
    async def columns(name: str) -> list[str]:
        return [row[0] for row in await owner.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 ORDER BY attnum", name)]

    assert await columns("intent_row") == [*INTENT_COLUMNS, "route", "fingerprint", "refuse"]
    assert await columns("outcome_row") == [*OUTCOME_COLUMNS, "from_state"]


async def test_every_value_of_an_intent_and_of_an_outcome_comes_back_as_it_was(journal: Journal, owner: asyncpg.Connection) -> None:
    row = rows.transaction(tip_amount=10, cashback_amount=20, capture_method="manual", partial_approval="accept", card_sequence_number="001",
                           emv="9F3303E0F8C8", terminal_trace="000017", reference="tisch 4", same_trace=-5)
    assert await claimed(journal, rows.intent(row)) == [Claim.OURS]
    assert row.intent_at is not None
    outcome = approved(row, capturable=1150, captured=7, approval_code="A1B2C3", acquirer_rrn="000000000001", answer_emv="8A023030", balances="x",
                       answer_message='{"39":"00"}', sent_at=rows_at(1), answered_at=rows_at(2))
    assert await journal.outcome(outcome, soon()) is Written.OURS
    found = Transaction(**dict((await stored(owner, row)) or {}))
    assert replace(found, tolerance=0, expires_at=None, release_at=None) == outcome.transaction
    assert (found.tolerance, found.expires_at) == (150, outcome.transaction.outcome_at + timedelta(hours=168))  # type: ignore[operator]


def rows_at(seconds: int) -> datetime:
    return datetime(2026, 11, 23, 8, 0, seconds, 123456, tzinfo=UTC)


# Group commit.


async def test_what_gathers_during_one_commit_is_the_next_batch(journal: Journal, owner: asyncpg.Connection) -> None:
    made = await sent(journal, 600)
    commits = await owner.fetchval("SELECT count(DISTINCT intent_at) FROM transaction WHERE transaction_id = ANY($1)",
                                   [row.transaction_id for row in made])
    assert 3 <= commits <= 5
    assert set(await asyncio.gather(*[journal.outcome(approved(row), soon()) for row in made])) == {Written.OURS}
    writers = await owner.fetchval("SELECT count(DISTINCT xmin::text) FROM transaction WHERE transaction_id = ANY($1)",
                                   [row.transaction_id for row in made])
    assert 3 <= writers <= 5


async def test_what_comes_in_each_turn_of_the_loop_goes_together_and_is_not_waited_for_longer_than_it_says(
        journal: Journal, owner: asyncpg.Connection) -> None:
    async def commits(turns: int, pause: float) -> int:
        made = []
        for _ in range(turns):
            row = rows.transaction()
            made.append((row, journal.intent(rows.intent(row), soon())))
            time.sleep(pause)
            await asyncio.sleep(0)
        assert {await claim for _, claim in made} == {Claim.OURS}
        return await owner.fetchval("SELECT count(DISTINCT intent_at) FROM transaction WHERE transaction_id = ANY($1)",
                                    [row.transaction_id for row, _ in made])

    await asyncio.sleep(2 * PACE_S)
    assert await commits(20, 0.0) == 1, "one a turn"
    await asyncio.sleep(2 * PACE_S)
    assert await commits(20, GATHER_S / 4) > 1, "for ever, a first sale would wait"


async def test_one_row_does_not_wait_for_company(journal: Journal) -> None:
    begun = soon(0)
    await sent(journal)
    assert soon(0) - begun < 0.5


async def test_stopping_writes_what_is_queued(database_url: str, owner: asyncpg.Connection) -> None:
    made = [rows.transaction() for _ in range(300)]
    async with started(database_url) as (journal, _):
        waiting = [journal.intent(rows.intent(row), soon()) for row in made]
    assert {future.result() for future in waiting} == {Claim.OURS}
    assert await owner.fetchval("SELECT count(*) FROM transaction WHERE transaction_id = ANY($1)", [row.transaction_id for row in made]) == 300


# Duplicates.


async def test_one_key_in_one_batch_is_claimed_once(journal: Journal, owner: asyncpg.Connection) -> None:
    key = f"key-{uuid4().hex}"
    made = [rows.transaction(idempotency_key=key) for _ in range(8)]
    others = [rows.transaction() for _ in range(8)]
    verdicts = await claimed(journal, *map(rows.intent, made + others))
    assert sorted(verdict.value for verdict in verdicts[:8]) == ["duplicate"] * 7 + ["ours"]
    assert set(verdicts[8:]) == {Claim.OURS}
    assert await owner.fetchval("SELECT count(*) FROM transaction WHERE idempotency_key = $1", key) == 1


async def test_one_key_over_two_workers_is_claimed_once(journal: Journal, database_url: str, owner: asyncpg.Connection) -> None:
    keys = [f"key-{uuid4().hex}" for _ in range(200)]
    mine, theirs = ([rows.transaction(idempotency_key=key) for key in order] for order in (keys, reversed(keys)))
    theirs.reverse()
    async with started(database_url) as (other, _):
        both = await asyncio.gather(claimed(journal, *map(rows.intent, mine)), claimed(other, *map(rows.intent, theirs)))
    assert all({first, second} == {Claim.OURS, Claim.DUPLICATE} for first, second in zip(*both, strict=True))
    winners = {row.transaction_id for row, verdict in zip(mine + theirs, both[0] + both[1], strict=True) if verdict is Claim.OURS}
    found = await owner.fetch("""SELECT t.transaction_id FROM transaction t JOIN idempotency i USING (transaction_id)
                                 WHERE t.idempotency_key = ANY($1)""", keys)
    assert {row[0] for row in found} == winners
    assert len(found) == 200


async def test_a_burnt_key_is_a_duplicate(journal: Journal, owner: asyncpg.Connection) -> None:
    row = rows.transaction()
    await rows.insert(owner, "idempotency", merchant_id=row.merchant_id, caller=row.caller, idempotency_key=row.idempotency_key, route="burnt",
                      fingerprint=bytes(32))
    assert await claimed(journal, rows.intent(row)) == [Claim.DUPLICATE]
    assert await stored(owner, row) is None


CARD, TRACE = os.urandom(32), 77
FIRST_AT = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize(("changes", "found"), [
    ({"pan_token": CARD}, True),
    ({"pan_token": CARD, "received_at": FIRST_AT + timedelta(seconds=299)}, True),
    ({"pan_token": CARD, "received_at": FIRST_AT + timedelta(seconds=300)}, False),
    ({"pan_token": CARD, "amount": 1001}, False),
    ({"pan_token": CARD, "currency": "JPY"}, False),
    ({"pan_token": CARD, "terminal_id": UUID(int=99)}, False),
    ({}, False),
    ({"same_trace": TRACE}, True),
    ({"same_trace": TRACE, "amount": 5, "received_at": FIRST_AT + timedelta(hours=23)}, True),
    ({"same_trace": TRACE, "received_at": FIRST_AT + timedelta(hours=24)}, False),
    ({"same_trace": TRACE + 1}, False),
], ids=["same card, amount and terminal", "after 299 s", "after 300 s", "other amount", "other currency", "other terminal", "other card", "same trace",
        "same trace after 23 h", "same trace the next day", "other trace"])
@pytest.mark.parametrize("state", ["SENT", "APPROVED", "DECLINED", "NOT_SENT", "REVERSING"])
async def test_a_sale_that_looks_like_one_that_stands_is_marked(
        journal: Journal, owner: asyncpg.Connection, changes: dict[str, Any], found: bool, state: str) -> None:
    mark = os.urandom(7)  # the rows of each case have a card, a trace and a terminal of their own
    terminal, trace = UUID(bytes=mark + bytes(9)), int.from_bytes(mark, "big")

    def own(values: dict[str, Any]) -> dict[str, Any]:
        values = {"terminal_id": terminal, "received_at": FIRST_AT + timedelta(seconds=1)} | values
        if "pan_token" in values:
            values["pan_token"] = mark + CARD[7:]
        if "same_trace" in values:
            values["same_trace"] += trace
        return values

    [first] = await sent(journal, **own({"pan_token": CARD, "same_trace": TRACE, "received_at": FIRST_AT}))
    await bring_to(journal, first, state)
    second = rows.transaction(**own(changes))
    expected = first.transaction_id if found and state in ("SENT", "APPROVED") else None

    refused = rows.intent(replace(second, transaction_id=rows.new_id()), refuse=True)
    if expected is not None:  # the merchant's policy: nothing is written, and the key stays free
        assert await claimed(journal, refused) == [Claim.POSSIBLE_DUPLICATE]
        assert refused.transaction.possible_duplicate_of == expected
        assert await stored(owner, refused.transaction) is None
    assert await claimed(journal, rows.intent(second)) == [Claim.OURS]
    assert second.possible_duplicate_of == expected
    assert ((await stored(owner, second)) or {})["possible_duplicate_of"] == expected


async def bring_to(journal: Journal, row: Transaction, state: str) -> None:
    outcomes = {"APPROVED": approved(row), "REVERSING": reversing(row),
                "DECLINED": approved(row, state="DECLINED", outcome="DECLINED", authorised=0, capturable=0, captured=0, approved_amount=0),
                "NOT_SENT": approved(row, state="NOT_SENT", outcome="NOT_SENT", authorised=0, capturable=0, captured=0, approved_amount=None)}
    if state != "SENT":
        assert await journal.outcome(outcomes[state], soon()) is Written.OURS


async def test_the_same_key_again_is_a_duplicate_and_not_a_possible_one(journal: Journal) -> None:
    row = rows.transaction()
    assert await claimed(journal, rows.intent(row, refuse=True)) == [Claim.OURS]
    again = replace(row, transaction_id=rows.new_id())
    assert await claimed(journal, rows.intent(again, refuse=True)) == [Claim.DUPLICATE]
    third = rows.transaction(pan_token=row.pan_token)
    assert await claimed(journal, rows.intent(third)) == [Claim.OURS]
    # now the first sale looks like the third; its key is known all the same
    assert await claimed(journal, rows.intent(replace(row, transaction_id=rows.new_id()), refuse=True)) == [Claim.DUPLICATE]


@pytest.mark.parametrize("shared", ["pan_token", "same_trace"])
async def test_two_possible_duplicates_that_come_in_one_turn_are_judged_one_after_the_other(journal: Journal, shared: str) -> None:
    first = rows.transaction(same_trace=uuid4().int >> 66)
    second = rows.transaction(**{shared: getattr(first, shared)})
    assert await claimed(journal, rows.intent(first), rows.intent(second, refuse=True)) == [Claim.OURS, Claim.POSSIBLE_DUPLICATE]
    assert second.possible_duplicate_of == first.transaction_id


async def test_an_inquiry_without_an_amount_is_nobodys_duplicate(journal: Journal) -> None:
    [first] = await sent(journal, type="balance_inquiry", amount=0, capture_method=None)
    [second] = await sent(journal, type="balance_inquiry", amount=0, capture_method=None, pan_token=first.pan_token)
    assert second.possible_duplicate_of is None


# Verdicts row by row.

BAD: dict[str, dict[str, Any]] = {
    "malformed card number": {"masked_pan": "4111"}, "NUL": {"reference": "a\0b"}, "half a surrogate": {"reference": "\ud800"},
    "beyond 64 bits": {"amount": 2**70}, "wrong type": {"business_date": "tomorrow"}, "missing": {"mcc": None},
    "malformed key": {"idempotency_key": "short"},
}


@pytest.mark.parametrize("fault", BAD)
async def test_one_bad_intent_gets_its_own_verdict_and_its_neighbours_are_written(
        journal: Journal, owner: asyncpg.Connection, fault: str) -> None:
    bad, good = rows.transaction(**BAD[fault]), [rows.transaction() for _ in range(9)]
    mended = replace(bad, **{name: getattr(good[0], name) for name in BAD[fault]}, transaction_id=rows.new_id())
    verdicts = await claimed(journal, rows.intent(bad), *map(rows.intent, good))
    assert verdicts == [Claim.REFUSED] + [Claim.OURS] * 9
    assert all([await stored(owner, row) for row in good])
    if "key" not in fault:
        assert await claimed(journal, rows.intent(mended)) == [Claim.OURS], "the key of a refused row stays free"


@pytest.mark.parametrize("name", ["rrn", "match_key"])
async def test_a_number_that_is_taken_is_that_rows_error_and_never_a_duplicate(journal: Journal, owner: asyncpg.Connection, name: str) -> None:
    [taken] = await sent(journal)
    bad, good = rows.transaction(**{name: getattr(taken, name)}), rows.transaction()
    assert await claimed(journal, rows.intent(bad), rows.intent(good)) == [Claim.REFUSED, Claim.OURS]
    assert await stored(owner, bad) is None


@pytest.mark.parametrize("spoil", [
    lambda outcome: outcome._replace(transaction=replace(outcome.transaction, state="CONFIRMED")),
    lambda outcome: outcome._replace(transaction=replace(outcome.transaction, captured=2000)),
    lambda outcome: outcome._replace(transaction=replace(outcome.transaction, state="REVERSING", outcome=None)),
    lambda outcome: outcome._replace(transaction=replace(outcome.transaction, response_code="00000")),
    lambda outcome: outcome._replace(transaction=replace(outcome.transaction, reason="\0")),
    lambda outcome: outcome._replace(event=("kind", "not json")),
], ids=["illegal step", "more than may be captured", "reversing without a duty", "long code", "NUL", "broken event"])
async def test_one_bad_outcome_gets_its_own_verdict_and_its_neighbours_are_written(
        journal: Journal, owner: asyncpg.Connection, spoil: Callable[[Outcome], Outcome]) -> None:
    made = await sent(journal, 6)
    outcomes = [spoil(approved(made[0])), *map(approved, made[1:5]), reversing(made[5])]
    verdicts = await asyncio.gather(*[journal.outcome(outcome, soon()) for outcome in outcomes])
    assert verdicts == [Written.REFUSED] + [Written.OURS] * 5
    states = [((await stored(owner, row)) or {})["state"] for row in made]
    assert states == ["SENT", *["APPROVED"] * 4, "REVERSING"]


# Steps of a life.


async def test_a_step_that_came_too_late_is_lost_and_nothing_of_it_is_written(journal: Journal, owner: asyncpg.Connection) -> None:
    made = await sent(journal, 3)
    assert await journal.outcome(reversing(made[1]), soon()) is Written.OURS
    outcomes = [approved(row)._replace(event=("late", "{}")) for row in made]
    assert await asyncio.gather(*[journal.outcome(outcome, soon()) for outcome in outcomes]) == [Written.OURS, Written.LOST, Written.OURS]
    found = (await stored(owner, made[1])) or {}
    assert (found["state"], found["version"], found["outcome"], found["authorised"]) == ("REVERSING", 2, None, 0)
    assert await owner.fetch("SELECT kind FROM transaction_event WHERE transaction_id = $1", made[1].transaction_id) == [("reversed",)]


async def test_a_step_from_an_older_version_is_lost_even_in_the_same_state(journal: Journal, owner: asyncpg.Connection) -> None:
    [row] = await sent(journal)
    owed = reversing(row)
    assert await journal.outcome(owed, soon()) is Written.OURS
    moved = Outcome(replace(owed.transaction, version=3, reason="first"), "REVERSING")
    assert await journal.outcome(moved, soon()) is Written.OURS
    assert await journal.outcome(Outcome(replace(moved.transaction, reason="second"), "REVERSING"), soon()) is Written.LOST
    found = (await stored(owner, row)) or {}
    assert (found["version"], found["reason"]) == (3, "first")


async def test_two_steps_of_one_transaction_are_never_in_one_batch(journal: Journal, owner: asyncpg.Connection) -> None:
    made = await sent(journal, 20)
    first = [approved(row) for row in made]
    second = [reversing(outcome.transaction) for outcome in first]
    verdicts = await asyncio.gather(*[journal.outcome(outcome, soon()) for outcome in first + second])
    assert set(verdicts) == {Written.OURS}
    found = [(await stored(owner, row)) or {} for row in made]
    assert {(row["state"], row["version"], row["outcome"]) for row in found} == {("REVERSING", 3, "APPROVED")}


async def the_duty(owner: asyncpg.Connection, row: Transaction) -> dict[str, Any]:
    return dict((await owner.fetchrow("SELECT * FROM duty WHERE transaction_id = $1", row.transaction_id)) or {})


CLOSE = """WITH d AS (UPDATE duty SET state = 'done', closed_at = now(), closed_by = 'not_found', not_found_at = now(), transmissions = 3,
  first_sent_at = now(), last_sent_at = now(), last_code = '25' WHERE transaction_id = $1)
UPDATE transaction SET state = 'REVERSED', version = version + 1 WHERE transaction_id = $1"""


async def test_a_reversal_opened_again_repeats_its_own_message(journal: Journal, owner: asyncpg.Connection) -> None:
    [row] = await sent(journal)
    first = reversing(row)
    assert await journal.outcome(first, soon()) is Written.OURS
    await owner.execute(CLOSE, row.transaction_id)
    closed = await the_duty(owner, row)
    again = reversing(replace(first.transaction, state="REVERSED", version=3), cause="approve")
    assert again.duty is not None
    assert await journal.outcome(again, soon()) is Written.OURS
    found = await the_duty(owner, row)
    kept = ("stan", "transmitted_at", "match_key", "transmissions", "first_sent_at", "last_sent_at", "last_code", "created_at", "kind")
    assert {name: found[name] for name in kept} == {name: closed[name] for name in kept}
    assert first.duty is not None
    assert found["stan"] == first.duty.stan != again.duty.stan
    assert (found["state"], found["cause"], found["closed_at"], found["closed_by"], found["not_found_at"]) == ("open", "approve", None, None, None)
    assert found["next_attempt_at"] == again.duty.next_attempt_at


async def test_an_advice_that_must_be_undone_becomes_a_reversal_with_its_own_numbers(journal: Journal, owner: asyncpg.Connection) -> None:
    [original] = await sent(journal)
    row = rows.transaction(type="capture", exchange="advice", original_id=original.transaction_id, idempotency_key=None)
    sale = approved(original)._replace(created=rows.intent(row), created_duty=rows.duty(row, "advice", cause="capture"))
    assert await journal.outcome(sale, soon()) is Written.OURS
    await owner.execute("""UPDATE duty SET transmissions = 4, first_sent_at = now(), last_sent_at = now(), last_code = '96'
                           WHERE transaction_id = $1""", row.transaction_id)
    undone = reversing(row)
    assert undone.duty is not None
    assert await journal.outcome(undone, soon()) is Written.OURS
    found = await the_duty(owner, row)
    assert {name: found[name] for name in undone.duty._fields} == undone.duty._asdict()
    assert [found[name] for name in ("transmissions", "first_sent_at", "last_sent_at", "last_code")] == [0, None, None, None]


@pytest.mark.parametrize("whole", [True, False])
async def test_a_capture_rides_in_the_commit_that_approves_the_sale_or_neither_is_written(
        journal: Journal, owner: asyncpg.Connection, whole: bool) -> None:
    [original, other] = await sent(journal, 2)
    row = rows.transaction(type="capture", exchange="advice", original_id=original.transaction_id, idempotency_key=None,
                           **({} if whole else {"rrn": other.rrn}))
    sale = approved(original)._replace(created=rows.intent(row), created_duty=rows.duty(row, "advice"))
    assert await journal.outcome(sale, soon()) is (Written.OURS if whole else Written.REFUSED)
    assert (await stored(owner, row) is not None) is whole
    assert bool(await the_duty(owner, row)) is whole
    assert ((await stored(owner, original)) or {})["state"] == ("APPROVED" if whole else "SENT")


# Deadlines.


@asynccontextmanager
async def key_held(database_url: str, row: Transaction) -> AsyncIterator[asyncpg.Connection]:
    """Somebody else's claim of the row's key, not committed: who wants the key waits."""
    other = await asyncpg.connect(database_url)
    transaction = other.transaction()
    await transaction.start()
    await rows.insert(other, "idempotency", merchant_id=row.merchant_id, caller=row.caller, idempotency_key=row.idempotency_key,
                      route="authorizations", fingerprint=bytes(32), transaction_id=rows.new_id())
    try:
        yield other
    finally:
        await transaction.rollback()
        await other.close()


async def test_what_was_too_late_before_the_database_was_asked_leaves_no_row(database_url: str, owner: asyncpg.Connection) -> None:
    waits, late = rows.transaction(), [rows.transaction() for _ in range(5)]
    async with started(database_url) as (journal, _):
        async with key_held(database_url, waits):
            first = journal.intent(rows.intent(waits), soon())
            await asyncio.sleep(0.05)
            begun = soon(0)
            assert await asyncio.gather(*[journal.intent(rows.intent(row), soon(0.2)) for row in late]) == [Claim.UNAVAILABLE] * 5
            assert 0.15 < soon(0) - begun < 0.6
        assert await first is Claim.OURS
    assert [await stored(owner, row) for row in late] == [None] * 5
    assert await stored(owner, waits) is not None


async def test_a_full_queue_refuses_intents_at_once_and_never_outcomes(database_url: str, owner: asyncpg.Connection) -> None:
    waits = rows.transaction()
    async with started(database_url) as (journal, _):
        [known] = await sent(journal)
        async with key_held(database_url, waits):
            first = journal.intent(rows.intent(waits), soon())
            await asyncio.sleep(0.05)
            more = [journal.intent(rows.intent(rows.transaction()), soon()) for _ in range(INTENTS_MAX)]
            refused = rows.transaction()
            beyond = journal.intent(rows.intent(refused), soon())
            assert beyond.done()
            assert beyond.result() is Claim.UNAVAILABLE
            assert not any(future.done() for future in more)
            assert await journal.outcome(approved(known), soon()) is Written.OURS
        assert {await first, *await asyncio.gather(*more)} == {Claim.OURS}
    assert await stored(owner, refused) is None


# Doubt.


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["intent", "outcome", "outcome with a duty, at the statement", "outcome with a duty, at the commit"])
async def test_doubt_about_a_commit_ends_with_the_truth(proxy: Proxy, owner: asyncpg.Connection, kind: str, when: str) -> None:
    async with started(proxy.url) as (journal, unsure):
        if kind == "intent":
            made = [rows.transaction() for _ in range(3)]
            proxy.arm(when)
            assert await claimed(journal, *map(rows.intent, made)) == [Claim.OURS] * 3
            assert all(row.intent_at is not None for row in made)
        else:
            made = await sent(journal, 3)
            proxy.arm(when, commit if kind.endswith("commit") else bind)
            steps = [reversing(row) if "duty" in kind else approved(row) for row in made]
            assert await asyncio.gather(*[journal.outcome(step, soon()) for step in steps]) == [Written.OURS] * 3
        assert proxy.fired.is_set()
        assert not unsure
    version, events = (1, 0) if kind == "intent" else (2, int("duty" in kind))
    for row in made:
        assert ((await stored(owner, row)) or {})["version"] == version
        for table, count in (("idempotency", 1), ("transaction", 1), ("transaction_event", events), ("duty", events)):
            assert await owner.fetchval(f"SELECT count(*) FROM {table} WHERE transaction_id = $1", row.transaction_id) == count, table


@pytest.mark.parametrize("when", ["before", "after"])
async def test_in_doubt_a_key_of_somebody_else_stays_somebody_elses(proxy: Proxy, owner: asyncpg.Connection, when: str) -> None:
    async with started(proxy.url) as (journal, _):
        [theirs] = await sent(journal)
        mine, free = rows.transaction(idempotency_key=theirs.idempotency_key), rows.transaction()
        proxy.arm(when)
        assert await claimed(journal, rows.intent(mine), rows.intent(free)) == [Claim.DUPLICATE, Claim.OURS]
        assert proxy.fired.is_set()
        proxy.arm(when)
        assert await journal.outcome(reversing(theirs), soon()) is Written.OURS
        proxy.arm(when)
        assert await journal.outcome(approved(theirs), soon()) is Written.LOST
        assert proxy.fired.is_set()
    assert await stored(owner, mine) is None


async def test_the_rerun_waits_until_the_old_backend_has_decided(proxy: Proxy, database_url: str, owner: asyncpg.Connection) -> None:
    """The client is cut off while its statement still waits on the server; the rerun must not decide before that one does."""
    waits, mine = rows.transaction(), rows.transaction()
    async with started(proxy.url) as (journal, _):
        async with key_held(database_url, waits):
            proxy.arm("orphan")
            verdicts = [journal.intent(rows.intent(row), soon()) for row in (waits, mine)]
            await asyncio.wait_for(proxy.fired.wait(), LONG_S)
            await until(lambda: backends_waiting(owner, 2))
            assert not any(verdict.done() for verdict in verdicts)
        assert await asyncio.gather(*verdicts) == [Claim.OURS] * 2
    keys = [waits.idempotency_key, mine.idempotency_key]
    assert await owner.fetchval("SELECT count(*) FROM transaction WHERE idempotency_key = ANY($1)", keys) == 2


async def backends_waiting(owner: asyncpg.Connection, count: int) -> bool:
    found = await owner.fetchval("""SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                                    AND query LIKE '%intent_row%'""")
    return bool(found >= count)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LONG_S):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_no_row_is_lost_or_doubled_while_backends_are_killed_under_load(database_url: str, owner: asyncpg.Connection) -> None:
    killed = 0

    async def kill() -> None:
        nonlocal killed
        while True:
            await asyncio.sleep(0.05)
            killed += await owner.fetchval("""SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE application_name = 'switch_writer' AND datname = current_database() AND pid NOT IN (
                  SELECT pid FROM pg_stat_activity WHERE backend_start > now() - interval '30 milliseconds')""")

    async def walk(journal: Journal, number: int) -> list[Any]:
        await asyncio.sleep(number % 40 * 0.04)
        row = rows.transaction()
        return [row, await journal.intent(rows.intent(row), soon(30)),
                await journal.outcome(reversing(row) if number % 3 == 0 else approved(row), soon(30))]

    async with started(database_url) as (journal, unsure):
        killer = asyncio.create_task(kill())
        walked = await asyncio.gather(*[walk(journal, number) for number in range(400)])
        killer.cancel()
        await asyncio.wait([killer])
        assert not unsure
    assert killed > 10
    assert {(claim, written) for _, claim, written in walked} == {(Claim.OURS, Written.OURS)}
    ids = [row.transaction_id for row, *_ in walked]
    found = await owner.fetch("SELECT state, version, count(*) FROM transaction WHERE transaction_id = ANY($1) GROUP BY 1, 2 ORDER BY 1", ids)
    assert [tuple(row) for row in found] == [("APPROVED", 2, 266), ("REVERSING", 2, 134)]
    for table in ("duty", "transaction_event"):
        assert await owner.fetchval(f"SELECT count(*) FROM {table} WHERE transaction_id = ANY($1)", ids) == 134


async def test_a_server_that_stays_away_gives_unavailable_and_unknown_in_time(proxy: Proxy, owner: asyncpg.Connection) -> None:
    async with started(proxy.url) as (journal, unsure):
        made = await sent(journal, 3)
        proxy.refusing = True
        proxy.cut_all()
        begun, new, outcomes = soon(0), rows.transaction(), [approved(row) for row in made]
        claim = journal.intent(rows.intent(new), soon(0.5))
        written = [journal.outcome(outcome, soon(0.5)) for outcome in outcomes]
        assert await claim is Claim.UNAVAILABLE
        assert await asyncio.gather(*written) == [Written.UNKNOWN] * 3
        assert 0.4 < soon(0) - begun < 1.0
        proxy.refusing = False
        await until(lambda: count_of(unsure, 3))
        await sent(journal)  # the lanes work again
    assert sorted(outcome.transaction.transaction_id for outcome in unsure) == sorted(row.transaction_id for row in made), "each once"
    assert await stored(owner, new) is None
    assert [((await stored(owner, row)) or {})["state"] for row in made] == ["SENT"] * 3


async def count_of(unsure: list[Any], count: int) -> bool:
    return len(unsure) >= count


async def test_what_was_told_unknown_is_not_written_by_a_connection_that_comes_late(proxy: Proxy, owner: asyncpg.Connection) -> None:
    async with started(proxy.url) as (journal, unsure):
        made = await sent(journal, 2)
        proxy.accept_after_s = 0.6
        proxy.cut_all()
        new = rows.transaction()
        claim, written = journal.intent(rows.intent(new), soon(0.3)), [journal.outcome(approved(row), soon(0.3)) for row in made]
        assert await claim is Claim.UNAVAILABLE
        assert await asyncio.gather(*written) == [Written.UNKNOWN] * 2
        await until(lambda: count_of(unsure, 2))
        proxy.accept_after_s = 0.0
        await sent(journal)
    assert len(unsure) == 2
    assert await stored(owner, new) is None
    assert [((await stored(owner, row)) or {})["state"] for row in made] == ["SENT"] * 2


async def test_an_approval_that_was_written_after_all_is_handed_over_for_its_undoing(proxy: Proxy, owner: asyncpg.Connection) -> None:
    async with started(proxy.url) as (journal, unsure):
        [row] = await sent(journal)
        proxy.arm("hold")
        outcome = approved(row)
        assert await journal.outcome(outcome, soon(0.3)) is Written.UNKNOWN
        assert proxy.fired.is_set()
        assert not unsure, "only once the database is back"
        proxy.cut_all()
        await until(lambda: count_of(unsure, 1))
        assert ((await stored(owner, row)) or {})["state"] == "APPROVED"
        assert await journal.outcome(reversing(outcome.transaction), soon()) is Written.OURS
    assert unsure == [outcome]


async def test_an_intent_that_was_written_after_all_is_handed_over_too(proxy: Proxy, owner: asyncpg.Connection) -> None:
    late: list[Intent] = []
    async with started(proxy.url, late) as (journal, _):
        intent = rows.intent(rows.transaction())
        proxy.arm("hold")
        assert await journal.intent(intent, soon(0.3)) is Claim.UNAVAILABLE
        assert not late
        proxy.cut_all()
        await until(lambda: count_of(late, 1))
        assert ((await stored(owner, intent.transaction)) or {})["state"] == "SENT"
    assert late == [intent]


async def test_what_was_told_unknown_while_its_batch_fell_apart_is_not_written_row_by_row(database_url: str, owner: asyncpg.Connection) -> None:
    async with started(database_url) as (journal, unsure):
        made = sorted(await sent(journal, 3), key=lambda row: row.transaction_id)  # the order of the batch
        other = await asyncpg.connect(database_url)
        async with other.transaction():  # holds the first row, so that the batch waits; then its last row breaks it
            await other.execute("SELECT FROM transaction WHERE transaction_id = $1 FOR UPDATE", made[0].transaction_id)
            steps = [(approved(made[0]), soon()), (approved(made[1]), soon(0.2)), (approved(made[2], captured=2000), soon())]
            written = [journal.outcome(outcome, deadline) for outcome, deadline in steps]
            assert await written[1] is Written.UNKNOWN
        await other.close()
        assert await asyncio.gather(*written) == [Written.OURS, Written.UNKNOWN, Written.REFUSED]
        assert [outcome.transaction.transaction_id for outcome in unsure] == [made[1].transaction_id]
    assert [((await stored(owner, row)) or {})["state"] for row in made] == ["APPROVED", "SENT", "SENT"]
