"""What follow-ups may do to their original, by hand-written SQL as the writer's role and as the owner: the limits are the database's."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
import rows
from asyncpg import exceptions as refusals

from switch import database, metrics
from switch.payments.journal import Journal, Outcome, Written, run_follow_up_outcomes
from switch.payments.reservations import FollowUp, run
from switch.payments.transaction import Transaction
from switch.payments.verbs import CODE_OF, Refusal
from tests.test_schema import OUTCOMES, SQL, insert, put, role, update

AMOUNTS = ("authorised", "capturable", "captured", "refunded", "charged_back", "capture_reserved", "increment_reserved", "refund_reserved", "void_reserved",
           "voided", "voided_captured", "released")
__all__ = ["role"]


@pytest_asyncio.fixture(scope="module")
async def connections(database_url: str) -> AsyncIterator[dict[str, SQL]]:
    found = {"switch_writer": await database.connect(database_url, "switch_writer"), "owner": await asyncpg.connect(database_url)}
    yield found
    for connection in found.values():
        await connection.close()


@pytest_asyncio.fixture
async def sql(connections: dict[str, SQL], role: str) -> AsyncIterator[SQL]:
    transaction = connections[role].transaction()
    await transaction.start()
    yield connections[role]
    await transaction.rollback()


async def original(sql: SQL, *, captured: int = 0, capturable: int = 1000, **changes: Any) -> Transaction:
    """Approved for 1000 and captured by hand, if nothing else is said."""
    row = await insert(sql, rows.transaction(capture_method="manual" if not captured else "automatic", **changes))
    await update(sql, row, state="APPROVED", **OUTCOMES["APPROVED"] | {"captured": captured, "capturable": capturable})
    return row


def follow_up(of: Transaction, type_: str = "capture", amount: int = 400, **changes: Any) -> Transaction:
    values = {"type": type_, "exchange": "advice" if type_ in ("capture", "tip") else "request", "amount": amount, "original_id": of.transaction_id,
              "pan_token": of.pan_token, "acquirer_id": of.acquirer_id, "capture_method": None}
    return rows.transaction(**values | changes)


async def money(sql: SQL, row: Transaction) -> dict[str, int]:
    """The amounts that are not as an approved original of 1000 has them."""
    found = await sql.fetchrow(f"SELECT {', '.join(AMOUNTS)} FROM transaction WHERE transaction_id = $1", row.transaction_id)
    usual = {"authorised": 1000, "capturable": 1000}
    return {name: value for name, value in dict(found).items() if value != usual.get(name, 0)}  # type: ignore[call-overload]


BOOKED = {"capture": {"captured": 400}, "tip": {"captured": 1400}, "refund": {"captured": 1000, "refunded": 400}, "increment": {"authorised": 1400, "capturable": 1400},
          "void": {"voided": 1000, "voided_captured": 1000}}
HELD = {"capture": {"capture_reserved": 400}, "tip": {"captured": 1000, "capture_reserved": 400}, "refund": {"captured": 1000, "refund_reserved": 400},
        "increment": {"increment_reserved": 400}, "void": {"captured": 1000, "void_reserved": 1000}}
BEFORE = {type_: {"captured": 1000} if type_ in ("tip", "refund", "void") else {} for type_ in BOOKED}
# Every way that a follow-up's state can go, and what its original then has.
PATHS = {
    "": HELD, "APPROVED": BOOKED, "DECLINED": BEFORE, "NOT_SENT": BEFORE, "REVERSING": HELD, "REVERSING REVERSED": BEFORE, "REVERSING PARKED": HELD,
    "REVERSING PARKED REVERSED": BEFORE, "REVERSING PARKED CONFIRMED": BOOKED, "REVERSING PARKED REVERSING REVERSED": BEFORE, "APPROVED REVERSING": HELD,
    "APPROVED REVERSING REVERSED": BEFORE, "APPROVED REVERSING PARKED CONFIRMED": BOOKED, "DECLINED REVERSING": BEFORE, "DECLINED REVERSING REVERSED": BEFORE,
    "NOT_SENT REVERSING REVERSED": BEFORE, "REVERSING REVERSED REVERSING": BEFORE, "REVERSING REVERSED REVERSING REVERSED": BEFORE, "APPROVED APPROVED": BOOKED,
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("type_", BOOKED)
async def test_the_amounts_of_the_original_follow_every_step_of_a_follow_up(sql: SQL, type_: str, path: str) -> None:
    of = await original(sql, captured=BEFORE[type_].get("captured", 0), capturable=1400 if type_ == "tip" else 1000)
    row = await insert(sql, follow_up(of, type_, 1000 if type_ == "void" else 400))
    for state in path.split():
        outcome = OUTCOMES.get(state, {}) if "outcome" in OUTCOMES.get(state, {}) else {}
        await update(sql, row, state=state, **{name: value for name, value in outcome.items() if name not in ("authorised", "capturable", "captured")}
                     | ({"approved_amount": row.amount} if state == "APPROVED" else {}))
    expected = PATHS[path][type_] | ({"capturable": 1400} if type_ == "tip" else {})
    assert await money(sql, of) == expected
    reserved = await sql.fetchval("SELECT reserved FROM transaction WHERE transaction_id = $1", row.transaction_id)
    assert reserved == (row.amount if PATHS[path] is HELD else 0)


@pytest.mark.parametrize("path", ["APPROVED", "DECLINED", "REVERSING", "REVERSING REVERSED", "APPROVED REVERSING", "APPROVED REVERSING REVERSED"])
async def test_a_capture_that_was_booked_with_its_sale_moves_only_when_it_does_not_stand(sql: SQL, path: str) -> None:
    of = await original(sql, captured=1000)
    row = await insert(sql, follow_up(of, "capture", 1000, idempotency_key=None))
    assert await money(sql, of) == {"captured": 1000}
    for state in path.split():
        await update(sql, row, state=state, **{name: value for name, value in OUTCOMES.get(state, {}).items() if name not in ("authorised", "capturable", "captured")})
    last = path.split()[-1]
    assert await money(sql, of) == {"APPROVED": {"captured": 1000}, "REVERSING": {"capture_reserved": 1000}}.get(last, {})


async def test_what_is_booked_on_an_original_that_is_undone_is_gone_with_it(sql: SQL) -> None:
    of = await original(sql, captured=1000)
    row = await insert(sql, follow_up(of, "capture", 1000, idempotency_key=None))
    await update(sql, of, state="REVERSING", captured=0)
    await update(sql, of, state="REVERSED")
    await update(sql, row, state="REVERSING")
    assert await money(sql, of) == {"capture_reserved": 1000}
    await update(sql, row, state="REVERSED")
    assert await money(sql, of) == {}


async def test_a_final_capture_releases_what_is_left_and_gives_it_back_when_it_is_undone(sql: SQL) -> None:
    of = await original(sql)
    other = await insert(sql, follow_up(of, amount=100))
    row = await insert(sql, follow_up(of, amount=300), final_capture=True)
    done = {name: value for name, value in OUTCOMES["APPROVED"].items() if name not in ("authorised", "capturable", "captured")}
    await update(sql, row, state="APPROVED", **done | {"approved_amount": 300})
    assert await money(sql, of) == {"captured": 300, "capture_reserved": 100, "released": 600}
    await update(sql, other, state="APPROVED", **done | {"approved_amount": 100})
    await update(sql, row, state="REVERSING")
    assert await money(sql, of) == {"captured": 100, "capture_reserved": 300}


OVER: list[tuple[dict[str, Any], list[tuple[str, int]], str]] = [
    ({}, [("capture", 1001)], "captured_within_capturable"), ({}, [("capture", 600), ("capture", 401)], "captured_within_capturable"),
    ({"captured": 1000}, [("tip", 1)], "captured_within_capturable"), ({"captured": 1000, "capturable": 1100}, [("tip", 60), ("tip", 41)], "captured_within_capturable"),
    ({"captured": 1000}, [("refund", 1001)], "undone_within_captured"), ({"captured": 1000}, [("refund", 600), ("refund", 401)], "undone_within_captured"),
    ({}, [("refund", 1)], "undone_within_captured"), ({}, [("capture", 1), ("void", 1000)], "void_stands_alone"), ({}, [("void", 1000), ("void", 1000)], "void_once"),
    ({}, [("void", 1000), ("capture", 1)], "void_once"), ({"captured": 1000}, [("void", 1000), ("refund", 1)], "void_once"),
    ({"captured": 1000}, [("refund", 1), ("void", 1000)], "void_stands_alone"), ({}, [("increment", 1), ("void", 1000)], "void_stands_alone"),
    ({}, [("capture", 1), ("increment", 1)], "increment_before_capture"), ({"captured": 1000}, [("increment", 1)], "increment_before_capture"),
]


@pytest.mark.parametrize(("of", "wanted", "constraint"), OVER, ids=str)
async def test_what_would_take_or_give_too_much_is_refused_by_name(sql: SQL, of: dict[str, Any], wanted: list[tuple[str, int]], constraint: str) -> None:
    parent = await original(sql, **of)
    for type_, amount in wanted[:-1]:
        await insert(sql, follow_up(parent, type_, amount))
    before = await money(sql, parent)
    with pytest.raises(refusals.CheckViolationError) as refused:
        async with sql.transaction():
            await insert(sql, follow_up(parent, *wanted[-1]))
    assert refused.value.constraint_name == constraint and constraint in CODE_OF
    assert await money(sql, parent) == before


@pytest.mark.parametrize("state", ["SENT", "DECLINED", "NOT_SENT", "REVERSING", "REVERSED", "PARKED"])
async def test_only_what_stands_is_followed(sql: SQL, state: str) -> None:
    parent = await put(sql, state, capture_method="manual")
    with pytest.raises(refusals.CheckViolationError) as refused:
        await insert(sql, follow_up(parent))
    assert refused.value.constraint_name == "original_stands"


async def test_an_expired_authorization_is_not_captured(sql: SQL) -> None:
    at = datetime.now(UTC) - timedelta(hours=168, seconds=1)
    parent = await insert(sql, rows.transaction(capture_method="manual"))
    await update(sql, parent, state="APPROVED", **OUTCOMES["APPROVED"] | {"outcome_at": at, "captured": 0})
    for type_ in ("capture", "increment"):
        with pytest.raises(refusals.CheckViolationError) as refused:
            async with sql.transaction():
                await insert(sql, follow_up(parent, type_))
        assert refused.value.constraint_name == "original_not_expired"
    await insert(sql, follow_up(parent, "void", 1000))


@pytest.mark.parametrize("changes", [
    {"merchant_id": uuid4()}, {"currency": "USD"}, {"acquirer_id": uuid4()}, {"pan_token": b"x" * 32}, {"original_id": uuid4()}, {"state": "APPROVED", **{
        "outcome": "APPROVED", "response_code": "00", "approved_amount": 400, "outcome_at": datetime(2026, 11, 23, tzinfo=UTC)}}, {"type": "purchase"},
], ids=lambda changes: next(iter(changes)))
async def test_a_follow_up_is_of_its_own_original(sql: SQL, changes: dict[str, Any]) -> None:
    parent = await original(sql)
    with pytest.raises(refusals.CheckViolationError) as refused:
        await insert(sql, follow_up(parent), **changes)
    assert refused.value.constraint_name == "follow_up_of_its_original"


async def test_a_follow_up_has_no_follow_ups(sql: SQL) -> None:
    capture = await insert(sql, follow_up(await original(sql)))
    with pytest.raises(refusals.CheckViolationError) as refused:
        await insert(sql, follow_up(capture, "refund", pan_token=capture.pan_token))
    assert refused.value.constraint_name == "follow_up_of_its_original"


@pytest.mark.parametrize(("changes", "constraint"), [
    *(({"type": type_, "original_id": None}, "follow_up_has_original") for type_ in ("capture", "increment", "void", "tip")),
    *(({"type": type_, "idempotency_key": None}, "follow_up_has_key") for type_ in ("increment", "void", "tip", "refund")),
], ids=str)
async def test_a_follow_up_has_an_original_and_a_key(sql: SQL, changes: dict[str, Any], constraint: str) -> None:
    row = follow_up(await original(sql, captured=1000, capturable=1400), changes["type"], 400)
    values = {name: value for name, value in changes.items() if name != "type"}
    for name in values:
        setattr(row, name, None)
    with pytest.raises(refusals.CheckViolationError) as refused:
        await insert(sql, row)
    assert refused.value.constraint_name == constraint


@pytest.mark.parametrize("sets", [{"released": -1}, {"released": 1001}, {"captured": 1, "released": 1000}], ids=str)
async def test_no_more_is_released_than_there_is(sql: SQL, sets: dict[str, int]) -> None:
    parent = await original(sql)
    with pytest.raises(refusals.CheckViolationError, match="captured_within_capturable"):
        await update(sql, parent, **sets)
    await update(sql, parent, released=1000)


@pytest.mark.parametrize("name", ["capture_reserved", "increment_reserved", "refund_reserved", "void_reserved", "voided", "voided_captured", "tolerance", "reserved", "expires_at",
                                  "final_capture"])
async def test_what_follow_ups_hold_is_moved_by_the_database_alone(connections: dict[str, SQL], name: str) -> None:
    with pytest.raises(refusals.InsufficientPrivilegeError):
        await connections["switch_writer"].execute(f"UPDATE transaction SET {name} = {name}, version = version + 1")


@pytest.mark.parametrize("name", ["capture_reserved", "increment_reserved", "refund_reserved", "void_reserved", "voided"])
async def test_nothing_is_held_or_voided_below_zero_even_by_the_owner(connections: dict[str, SQL], name: str) -> None:
    sql = connections["owner"]
    transaction = sql.transaction()
    await transaction.start()
    parent = await original(sql, captured=1000)
    with pytest.raises(refusals.CheckViolationError):
        await update(sql, parent, **{name: -1})
    await transaction.rollback()


async def test_a_declined_advice_leaves_a_line_of_loss_and_a_declined_request_none(sql: SQL) -> None:
    parent = await original(sql, captured=1000, capturable=2000)
    declined = {"outcome": "DECLINED", "outcome_at": datetime.now(UTC), "response_code": "51"}
    tip, refund = await insert(sql, follow_up(parent, "tip", 70)), await insert(sql, follow_up(parent, "refund", 80))
    advised = await insert(sql, follow_up(parent, "refund", 90, exchange="advice"))
    offline = await insert(sql, rows.transaction(type="offline_sale", exchange="advice"))
    for row in (tip, refund, advised, offline):
        await update(sql, row, state="DECLINED", **declined)
    lost = {row["transaction_id"]: (row["type"], row["amount"], row["original_id"]) for row in await sql.fetch("SELECT * FROM merchant_loss")}
    assert lost == {tip.transaction_id: ("tip", 70, parent.transaction_id), offline.transaction_id: ("offline_sale", 1000, None)}


@pytest.mark.parametrize(("terms", "hours"), [
    ([], 168), ([("*", "*", 24)], 24), ([("*", "*", 24), ("*", "visa", 48)], 48), ([("*", "visa", 48), ("5411", "*", 72)], 72),
    ([("5411", "*", 72), ("5411", "visa", 96)], 96), ([("5812", "*", 72), ("*", "amex", 96)], 168),
])
async def test_an_authorization_ends_by_the_most_particular_terms(connections: dict[str, SQL], terms: list[tuple[str, str, int]], hours: int) -> None:
    sql = connections["owner"]
    transaction = sql.transaction()
    await transaction.start()
    acquirer = uuid4()
    await sql.execute("INSERT INTO acquirer (acquirer_id, name, dialect, message_mode) VALUES ($1, $2, 'iso87_ascii', 'single')", acquirer, f"a{acquirer.hex[:8]}")
    for mcc, brand, valid in terms:
        await rows.insert(sql, "authorization_terms", acquirer_id=acquirer, mcc=mcc, brand=brand, valid_hours=valid)
    held = await original(sql, acquirer_id=acquirer, capturable=1150)
    sold = await original(sql, acquirer_id=acquirer, captured=1000)
    found = await sql.fetchrow("SELECT expires_at - outcome_at AS valid, tolerance FROM transaction WHERE transaction_id = $1", held.transaction_id)
    assert dict(found) == {"valid": timedelta(hours=hours), "tolerance": 150}  # type: ignore[call-overload]
    assert await sql.fetchval("SELECT expires_at FROM transaction WHERE transaction_id = $1", sold.transaction_id) is None
    await transaction.rollback()


@pytest.mark.parametrize("terms", [
    {"mcc": "54"}, {"mcc": ""}, {"brand": "VISA"}, {"brand": ""}, {"completion_basis_points": -1}, {"completion_basis_points": 10_001}, {"tip_basis_points": -1},
    {"tip_basis_points": 10_001}, {"valid_hours": 0}, {"valid_hours": 8785},
], ids=str)
async def test_terms_are_within_reason(connections: dict[str, SQL], terms: dict[str, Any]) -> None:
    with pytest.raises(refusals.CheckViolationError):
        await rows.insert(connections["owner"], "authorization_terms", acquirer_id=rows.ACQUIRER, **terms)


# The statement of the lane, against a database that others change.


async def test_what_only_the_database_saw_is_a_refusal_too_and_leaves_the_key_free(connections: dict[str, SQL], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second wall alone: the rules in front of it say yes to everything."""
    sql = connections["switch_writer"]
    parent = await original(sql)
    monkeypatch.setattr("switch.payments.verbs.refusal", lambda *_: None)
    over = FollowUp(follow_up(parent, amount=1001), "captures", bytes(32), rows.DAY)
    assert await run(sql, [over], False) == [Refusal("amount_exceeds_capturable")]
    with pytest.raises(refusals.CheckViolationError):
        await run(sql, [over, FollowUp(follow_up(parent, amount=1), "captures", bytes(32), rows.DAY)], False)
    assert await sql.fetchval("SELECT count(*) FROM idempotency WHERE idempotency_key = $1", over.transaction.idempotency_key) == 0
    assert await money(sql, parent) == {}


async def test_a_batch_gives_each_its_verdict_and_the_same_batch_again_finds_its_own(connections: dict[str, SQL]) -> None:
    sql = connections["switch_writer"]
    first, second = await original(sql), await original(sql)
    batch = [FollowUp(follow_up(of, amount=amount), "captures", bytes(32), rows.DAY) for of, amount in ((second, 600), (first, 1000), (second, 600), (first, 1), (second, 400))]
    said = await run(sql, batch, False)
    assert [verdict.code if isinstance(verdict, Refusal) else verdict.value for verdict in said] == [
        "ours", "ours", "amount_exceeds_capturable", "amount_exceeds_capturable", "ours"]
    again = await run(sql, [batch[0], batch[1], batch[4]], True)
    assert [verdict.value for verdict in again if not isinstance(verdict, Refusal)] == ["ours", "ours", "ours"]
    assert await money(sql, second) == {"capture_reserved": 1000}
    other = FollowUp(follow_up(first, amount=1, idempotency_key=batch[0].transaction.idempotency_key), "captures", bytes(32), rows.DAY)
    assert [verdict.value for verdict in await run(sql, [other], False) if not isinstance(verdict, Refusal)] == ["duplicate"]


async def test_two_workers_that_reserve_on_the_same_originals_in_any_order_neither_deadlock_nor_overdraw(database_url: str, connections: dict[str, SQL]) -> None:
    parents = [await original(connections["switch_writer"]) for _ in range(4)]

    async def worker(order: list[Transaction]) -> list[Any]:
        sql = await database.connect(database_url, "switch_writer")
        said: list[Any] = []
        for _ in range(10):
            said += await run(sql, [FollowUp(follow_up(of, amount=70), "captures", bytes(32), rows.DAY) for of in order], False)
        await sql.close()
        return said

    verdicts = await asyncio.gather(worker(parents), worker(parents[::-1]), worker(parents[1:] + parents[:1]))
    assert sum(not isinstance(verdict, Refusal) for said in verdicts for verdict in said) == 4 * (1000 // 70)
    for of in parents:
        assert await money(connections["owner"], of) == {"capture_reserved": 980}


def outcome(row: Transaction) -> Outcome:
    row.state, row.outcome, row.version, row.outcome_at, row.response_code, row.approved_amount = "APPROVED", "APPROVED", 2, datetime.now(UTC), "00", row.amount
    return Outcome(row, "SENT")


async def test_two_workers_whose_outcomes_come_in_another_order_than_their_originals_do_not_deadlock(database_url: str, connections: dict[str, SQL]) -> None:
    parents = [await original(connections["switch_writer"]) for _ in range(6)]

    async def worker(order: list[Transaction]) -> None:
        sql = await database.connect(database_url, "switch_writer")
        for _ in range(12):
            rows_ = [follow_up(of, amount=1) for of in order]
            await run(sql, [FollowUp(row, "captures", bytes(32), rows.DAY) for row in rows_], False)
            assert set(await run_follow_up_outcomes(sql, [outcome(row) for row in rows_], False)) == {Written.OURS}
        await sql.close()

    await asyncio.gather(worker(parents), worker(parents[::-1]), worker(parents[3:] + parents[:3]))
    for of in parents:
        assert await money(connections["owner"], of) == {"captured": 36}


async def test_the_outcome_of_a_follow_up_is_not_in_a_batch_of_sales(database_url: str, connections: dict[str, SQL]) -> None:
    journal = Journal(lambda plans: database.connect(database_url, "switch_writer", **plans), lambda _: None)
    await journal.start()
    row = follow_up(await original(connections["switch_writer"]))
    await run(connections["switch_writer"], [FollowUp(row, "captures", bytes(32), rows.DAY)], False)
    before = metrics.registry.get_sample_value("switch_journal_rows_total", {"kind": "follow_up_outcome"})
    assert await journal.outcome(outcome(row), asyncio.get_running_loop().time() + 5) is Written.OURS
    assert metrics.registry.get_sample_value("switch_journal_rows_total", {"kind": "follow_up_outcome"}) == (before or 0) + 1
    await journal.stop()
