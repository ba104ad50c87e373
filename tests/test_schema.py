"""The schema by itself: what hand-written SQL may not do to the books, as the writer's role and as the owner."""

import re
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
import rows
from asyncpg import exceptions as refusals

from switch import database
from switch.payments import recovery, watch
from switch.payments.journal import INTENT_COLUMNS, intent_values
from switch.payments.transaction import Transaction
from switch.settlement.cutover import steps

SQL = asyncpg.Connection
STATES = ("SENT", "APPROVED", "DECLINED", "NOT_SENT", "REVERSING", "REVERSED", "PARKED", "CONFIRMED")
# What may follow; "o": another version of the same state.
FOLLOWS = """
from        SENT APPROVED DECLINED NOT_SENT REVERSING REVERSED PARKED CONFIRMED
SENT        o    +        +        +        +         .        .      .
APPROVED    .    o        .        .        +         .        .      .
DECLINED    .    .        o        .        +         .        .      .
NOT_SENT    .    .        .        .        +         .        .      .
REVERSING   .    .        .        .        o         +        +      .
REVERSED    .    .        .        .        +         o        .      .
PARKED      .    .        .        .        +         +        o      +
CONFIRMED   .    .        .        .        .         .        .      o
"""
PATHS = {
    "SENT": (), "APPROVED": ("APPROVED",), "DECLINED": ("DECLINED",), "NOT_SENT": ("NOT_SENT",), "REVERSING": ("REVERSING",),
    "REVERSED": ("REVERSING", "REVERSED"), "PARKED": ("REVERSING", "PARKED"), "CONFIRMED": ("REVERSING", "PARKED", "CONFIRMED"),
}
AT = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
OUTCOMES: dict[str, dict[str, Any]] = {
    "APPROVED": {"outcome": "APPROVED", "outcome_at": AT, "response_code": "00", "approved_amount": 1000, "authorised": 1000,
                 "capturable": 1000, "captured": 1000},
    "DECLINED": {"outcome": "DECLINED", "outcome_at": AT, "response_code": "51"}, "NOT_SENT": {"outcome": "NOT_SENT", "outcome_at": AT},
}


@pytest_asyncio.fixture(scope="module")
async def connections(database_url: str) -> AsyncIterator[dict[str, SQL]]:
    found = {role: await database.connect(database_url, role) for role in ("switch_writer", "switch_reader")}
    found["owner"] = await asyncpg.connect(database_url)
    yield found
    for connection in found.values():
        await connection.close()


@pytest.fixture(params=["switch_writer", "owner"])
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture
async def sql(connections: dict[str, SQL], role: str) -> AsyncIterator[SQL]:
    """A connection of each role in turn, inside a transaction that is rolled back."""
    transaction = connections[role].transaction()
    await transaction.start()
    yield connections[role]
    await transaction.rollback()


async def insert(sql: SQL, row: Transaction, **changes: Any) -> Transaction:
    values = {name: value for name, value in asdict(row).items() if value is not None} | changes
    await rows.insert(sql, "transaction", **values)
    return row


async def update(sql: SQL, row: Transaction, *, versions: int = 1, **sets: Any) -> None:
    """One hand-written UPDATE; refused or not, what was before is still there for the next."""
    assignments = "".join(f", {name} = ${number}" for number, name in enumerate(sets, 3))
    async with sql.transaction():
        done = await sql.execute(f"UPDATE transaction SET version = version + $2{assignments} WHERE transaction_id = $1",
                                 row.transaction_id, versions, *sets.values())
    assert done == "UPDATE 1"


async def owe(sql: SQL, row: Transaction, kind: str = "reversal", **changes: Any) -> None:
    await rows.insert(sql, "duty", **(rows.duty(row, kind)._asdict() | changes))


async def put(sql: SQL, state: str = "SENT", **changes: Any) -> Transaction:
    """A row that came to its state by the steps of the life."""
    row = await insert(sql, rows.transaction(**changes))
    for following in PATHS[state]:
        await update(sql, row, state=following, **OUTCOMES.get(following, {}))
        if following == "REVERSING":
            await owe(sql, row)
    return row


def follows() -> dict[str, dict[str, str]]:
    head, *lines = [line.split() for line in FOLLOWS.strip().splitlines()]
    return {line[0]: dict(zip(head[1:], line[1:], strict=True)) for line in lines}


@pytest.mark.parametrize("state", STATES)
async def test_only_the_steps_of_the_life_are_taken(sql: SQL, state: str) -> None:
    row = await put(sql, state)
    taken = dict.fromkeys(STATES, ".")
    for target in STATES:
        outcome = OUTCOMES.get(target, {}) if state == "SENT" else {}
        attempt = sql.transaction()
        await attempt.start()
        try:
            await update(sql, row, state=target, **outcome)
            taken[target] = "o" if target == state else "+"
        except refusals.CheckViolationError:
            pass
        await attempt.rollback()
    assert taken == follows()[state]


@pytest.mark.parametrize("versions", [-1, 0, 2, 100])
async def test_a_version_is_neither_skipped_nor_used_twice(sql: SQL, versions: int) -> None:
    row = await put(sql)
    with pytest.raises(refusals.CheckViolationError, match="version"):
        await update(sql, row, versions=versions, state="DECLINED", **OUTCOMES["DECLINED"])
    await update(sql, row, versions=1, state="DECLINED", **OUTCOMES["DECLINED"])


@pytest.mark.parametrize(("name", "value"), [
    ("merchant_id", uuid4()), ("transaction_id", uuid4()), ("type", "cash_advance"), ("exchange", "advice"), ("original_id", uuid4()),
    ("terminal_id", uuid4()), ("acquirer_id", uuid4()), ("business_date", date(2026, 11, 24)), ("amount", 1001), ("currency", "USD"),
    ("stan", "999998"), ("rrn", "999999999999"), ("transmitted_at", "1123080001"), ("match_key", "another"), ("pan_token", b"x" * 32),
    ("mti", "0100"), ("idempotency_key", "another-key-of-this-sale"), ("received_at", AT),
], ids=lambda value: value if isinstance(value, str) and "_" in value else "")
async def test_what_was_sent_never_changes(sql: SQL, role: str, name: str, value: Any) -> None:
    row = await put(sql)
    refusal = refusals.InsufficientPrivilegeError if role == "switch_writer" else refusals.CheckViolationError
    with pytest.raises(refusal):
        await update(sql, row, **{name: value})


async def test_an_outcome_once_written_stays(sql: SQL) -> None:
    row = await put(sql, "APPROVED")
    for outcome in ("DECLINED", "NOT_SENT", None):
        with pytest.raises(refusals.CheckViolationError):
            await update(sql, row, outcome=outcome, state="REVERSING")


CHANGEABLE = {
    "state", "version", "worker_epoch", "authorised", "capturable", "captured", "refunded", "sent_at", "answered_at",
    "outcome_at", "outcome", "response_code", "reason", "advice", "approval_code", "approved_amount", "acquirer_rrn", "answer_emv",
    "balances", "answer_message", "released", "release_at",
}


async def test_the_writer_may_change_these_columns_and_no_others(connections: dict[str, SQL]) -> None:
    found = await connections["owner"].fetch("""SELECT attname FROM pg_attribute WHERE attrelid = 'transaction'::regclass AND attnum > 0
        AND has_column_privilege('switch_writer', attrelid, attnum, 'UPDATE')""")
    assert {row[0] for row in found} == CHANGEABLE


@pytest.mark.parametrize(("type_", "amount", "tip", "cashback", "allowed"), [
    ("purchase", 1, 0, 0, True), ("purchase", 999_999_999_999, 0, 0, True), ("purchase", 1000, 400, 600, True),
    ("purchase", 0, 0, 0, False), ("purchase", -1, 0, 0, False), ("purchase", 1_000_000_000_000, 0, 0, False),
    ("purchase", 1000, 401, 600, False), ("purchase", 1000, 1001, 0, False), ("purchase", 1000, -1, 0, False), ("purchase", 1000, 1, -1, False),
    ("preauthorization", 0, 0, 0, False), ("cash_advance", 0, 0, 0, False), ("preauthorization", 1, 0, 0, True),
    ("balance_inquiry", 0, 0, 0, True), ("balance_inquiry", 1, 0, 0, False), ("balance_inquiry", -1, 0, 0, False),
    ("account_verification", 0, 0, 0, True), ("account_verification", 1, 0, 0, False), ("gift", 1000, 0, 0, False),
])
async def test_amounts_by_type(sql: SQL, type_: str, amount: int, tip: int, cashback: int, allowed: bool) -> None:
    row = rows.transaction(type=type_, amount=amount, tip_amount=tip, cashback_amount=cashback)
    if allowed:
        await insert(sql, row)
    else:
        with pytest.raises(refusals.CheckViolationError):
            await insert(sql, row)


@pytest.mark.parametrize(("sets", "allowed"), [
    ({"captured": 1000, "capturable": 1000}, True), ({"captured": 1001, "capturable": 1000}, False), ({"captured": -1}, False),
    ({"capturable": 999, "captured": 0}, False), ({"capturable": 1150, "captured": 1150}, True), ({"authorised": -1, "captured": 0}, False),
    ({"refunded": 1000}, True), ({"refunded": 1001}, False), ({"refunded": -1}, False), ({"charged_back": 1001}, False),
    ({"refunded": 400, "charged_back": 600}, True), ({"refunded": 401, "charged_back": 600}, False), ({"charged_back": -1}, False),
    ({"approved_amount": 1001}, False), ({"approved_amount": -1}, False), ({"approved_amount": None}, False), ({"response_code": None}, False),
    ({"outcome_at": None}, False),
], ids=str)
async def test_money_of_an_approved_sale(sql: SQL, role: str, sets: dict[str, Any], allowed: bool) -> None:
    row = await put(sql, "APPROVED")
    if "charged_back" in sets and role == "switch_writer":  # disputes move it, by their trigger
        with pytest.raises((refusals.InsufficientPrivilegeError, refusals.CheckViolationError)):
            await update(sql, row, **sets)
    elif allowed:
        await update(sql, row, **sets)
    else:
        with pytest.raises(refusals.CheckViolationError):
            await update(sql, row, **sets)


@pytest.mark.parametrize(("state", "sets", "name"), [
    ("APPROVED", {"approved_amount": 1001}, "approved_within_amount"), ("APPROVED", {"approved_amount": None}, "approved_has_outcome"),
    ("APPROVED", {"captured": 1001}, "captured_within_capturable"), ("APPROVED", {"refunded": 1001}, "undone_within_captured"),
    ("APPROVED", {"capturable": 999, "captured": 0}, "authorised_within_capturable"), ("DECLINED", {"authorised": 1, "capturable": 1}, "declined_has_no_money"),
    ("NOT_SENT", {"voided": -1}, "void_stands_alone"), ("APPROVED", {"version": 3}, "transaction_life"), ("APPROVED", {"outcome": None}, "approved_has_outcome"),
], ids=str)
async def test_an_outcome_that_breaks_a_rule_is_refused_by_its_name(connections: dict[str, SQL], state: str, sets: dict[str, Any], name: str) -> None:
    sql = connections["owner"]
    async with sql.transaction():
        row = await put(sql)
        with pytest.raises(refusals.CheckViolationError) as refused:
            await update(sql, row, versions=sets.get("version", 1), state=state, **{k: v for k, v in (OUTCOMES[state] | sets).items() if k != "version"})
        assert refused.value.constraint_name == name
        await update(sql, row, state=state, **OUTCOMES[state])  # all the rest of it was right


@pytest.mark.parametrize("state", ["DECLINED", "NOT_SENT", "SENT"])
async def test_what_was_not_approved_holds_no_money(sql: SQL, state: str) -> None:
    row = await put(sql)
    with pytest.raises(refusals.CheckViolationError):
        await update(sql, row, state=state, **(OUTCOMES.get(state, {}) | {"authorised": 1000, "capturable": 1000}))


@pytest.mark.parametrize(("name", "value"), [
    ("currency", "cny"), ("currency", "CN"), ("currency", "CNYY"), ("mti", "200"), ("mti", "02A0"), ("processing_code", "00000"), ("stan", "000000"),
    ("stan", "1"), ("stan", "12345a"), ("transmitted_at", "112308000"), ("local_time", "16:000"), ("local_date", "11-3"), ("pos_entry_mode", "51"),
    ("pos_condition", "0"), ("rrn", "63270000001"), ("rrn", "63270000000x"), ("card_acceptor_terminal", "T000001"), ("card_acceptor", "M1"),
    ("mcc", "541"), ("mcc", "54 1"), ("card_last4", "111"), ("pan_token", b"short"), ("capture_method", "later"), ("partial_approval", "maybe"),
    ("exchange", "both"), ("masked_pan", "4111111111111111"), ("masked_pan", "411111111***1111"), ("masked_pan", "41111111****11111"),
    ("masked_pan", "*****"), ("masked_pan", ""), ("state", "SOLD"),
])
async def test_a_malformed_value_gives_no_row(sql: SQL, name: str, value: Any) -> None:
    with pytest.raises(refusals.CheckViolationError):
        await insert(sql, rows.transaction(), **{name: value})


@pytest.mark.parametrize("masked", ["41111111****1111", "411111*****1111", "41111111*******1111", "*" * 12])
async def test_a_masked_card_number_of_every_length_has_a_row(sql: SQL, masked: str) -> None:
    await insert(sql, rows.transaction(masked_pan=masked))


# Numbers that may stand once.


@pytest.mark.parametrize("state", ["SENT", "REVERSING"])
async def test_two_open_rows_never_share_a_match_key(sql: SQL, state: str) -> None:
    row = await put(sql, state)
    with pytest.raises(refusals.UniqueViolationError):
        async with sql.transaction():
            await insert(sql, rows.transaction(match_key=row.match_key))
    await insert(sql, rows.transaction(match_key=row.match_key, acquirer_id=uuid4()))


@pytest.mark.parametrize("state", ["SENT", "REVERSING", "APPROVED", "DECLINED", "NOT_SENT", "REVERSED", "PARKED", "CONFIRMED"])
async def test_what_is_open_and_what_was_approved_is_found(sql: SQL, state: str) -> None:
    row = await put(sql, state)
    found = await sql.fetchval("SELECT count(*) FROM open_transaction WHERE transaction_id = $1", row.transaction_id)
    assert found == (state in ("SENT", "REVERSING"))
    sent = await sql.fetchval("SELECT count(*) FROM sent_transaction WHERE transaction_id = $1", row.transaction_id)
    assert sent == (state == "SENT")
    assert await sql.fetchval("SELECT state FROM open_exchange WHERE transaction_id = $1", row.transaction_id) == (state if found else None)
    code = await sql.fetchval("SELECT approval_code FROM transaction WHERE transaction_id = $1", row.transaction_id)
    for told in (code, "Z9Z9Z9") if state != "NOT_SENT" else (code,):  # nothing follows on it but its reversal
        if told != code:
            await sql.execute("UPDATE transaction SET approval_code = $2, version = version + 1 WHERE transaction_id = $1", row.transaction_id, told)
        codes = await sql.fetch("SELECT approval_code FROM approval_lookup WHERE transaction_id = $1", row.transaction_id)
        assert [each[0] for each in codes] == ([told] if told else [])


@pytest.mark.parametrize("state", ["APPROVED", "DECLINED", "NOT_SENT", "REVERSED", "PARKED", "CONFIRMED"])
async def test_a_match_key_is_free_again_after_the_outcome(sql: SQL, state: str) -> None:
    row = await put(sql, state)
    await insert(sql, rows.transaction(match_key=row.match_key))


async def test_each_row_of_a_statement_is_judged_and_found_by_itself(sql: SQL) -> None:
    kept, *left = [await insert(sql, rows.transaction()) for _ in range(6)]
    ids = [row.transaction_id for row in left]
    approve = """UPDATE transaction SET version = version + 1, state = 'APPROVED', outcome = 'APPROVED', outcome_at = now(), response_code = '00',
        approval_code = lpad((approved.place * 7)::text, 6, '0'), approved_amount = CASE WHEN transaction_id = $2 THEN amount + 1 ELSE amount END
        FROM unnest($1::uuid[]) WITH ORDINALITY AS approved (id, place) WHERE transaction_id = approved.id"""
    with pytest.raises(refusals.CheckViolationError) as refused:
        async with sql.transaction():
            await sql.execute(approve, ids, ids[3])
    assert refused.value.constraint_name == "approved_within_amount"
    await sql.execute(approve, ids, None)
    codes = await sql.fetch("SELECT transaction_id, approval_code FROM approval_lookup WHERE transaction_id = ANY($1) ORDER BY approval_code", ids)
    assert [tuple(code) for code in codes] == [(each, f"{place * 7:06d}") for place, each in enumerate(ids, 1)]
    still = await sql.fetch("SELECT transaction_id FROM sent_transaction WHERE transaction_id = ANY($1)", [kept.transaction_id, *ids])
    assert [each[0] for each in still] == [kept.transaction_id]


@pytest.mark.parametrize("statement", [recovery.ABANDONED, recovery.IN_DOUBT, watch.OLD_DOUBTS, steps.LEFT_COUNT])
async def test_what_waits_is_looked_up_by_its_id_whatever_the_planner_believes(connections: dict[str, SQL], statement: str) -> None:
    """The plan of an empty database is kept while the tables grow: it must not read every transaction, each second."""
    reader = connections["switch_reader"]
    async with reader.transaction():
        await reader.execute("SET LOCAL enable_seqscan = off")
        await reader.execute("SET LOCAL enable_bitmapscan = off")
        values = {recovery.ABANDONED: "1, interval '1s', 9", recovery.IN_DOUBT: "", watch.OLD_DOUBTS: "ARRAY[gen_random_uuid()], interval '1s'",
                  steps.LEFT_COUNT: "gen_random_uuid(), '2026-11-23'"}[statement]
        await reader.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await reader.execute(f"PREPARE waits AS {statement}")
        plan = "\n".join(row[0] for row in await reader.fetch(f"EXPLAIN (COSTS OFF) EXECUTE waits {f'({values})' if values else ''}"))
        await reader.execute("DEALLOCATE waits")
    assert re.search(r"Index (Only )?Scan using transaction_by_id on transaction x\n\s+Index Cond: \(transaction_id = o.transaction_id\)", plan), plan
    assert plan.count(" on transaction ") == 1


async def test_an_index_of_rare_values_cannot_serve_a_look_up_by_id(connections: dict[str, SQL]) -> None:
    """PostgreSQL 18 skips leading columns: in small books the index of last fours was the cheapest way to an id."""
    owner = connections["owner"]
    before = owner.transaction()
    await before.start()
    for setting in ("enable_seqscan", "enable_bitmapscan"):
        await owner.execute(f"SET LOCAL {setting} = off")
    await owner.execute("DROP INDEX transaction_by_id")
    plans = ["\n".join(row[0] for row in await owner.fetch(f"EXPLAIN (COSTS OFF) SELECT amount FROM transaction WHERE {condition}"))
             for condition in (f"transaction_id = '{uuid4()}'", f"merchant_id = '{uuid4()}' AND card_last4 = '1111' ORDER BY transaction_id DESC LIMIT 9")]
    await before.rollback()
    assert "using transaction_pkey" in plans[0], plans[0]
    assert "Backward using transaction_by_last4" in plans[1] and "Sort" not in plans[1], plans[1]


@pytest.mark.parametrize("born", [{"state": "APPROVED"}, {"state": "REVERSING"}, {"state": "DECLINED"}, {"version": 2}, {"outcome": "APPROVED"}])
async def test_a_life_begins_as_sent(sql: SQL, born: dict[str, Any]) -> None:
    row = dict(zip(INTENT_COLUMNS, intent_values(rows.transaction()), strict=True))
    with pytest.raises(refusals.CheckViolationError):
        async with sql.transaction():
            await rows.insert(sql, "transaction", **row | {"state": "SENT", "version": 1} | born)
    await rows.insert(sql, "transaction", **row, state="SENT")


async def test_card_ranges_of_one_length_do_not_overlap(connections: dict[str, SQL]) -> None:
    owner = connections["owner"]
    ranges = owner.transaction()
    await ranges.start()
    try:
        await rows.insert(owner, "bin_range", low="990000", high="990999", brand="x", card_type="debit", pan_lengths=[16])
        for low, high in (("990500", "991000"), ("990999", "990999"), ("980000", "990000")):
            with pytest.raises(refusals.ExclusionViolationError):
                async with owner.transaction():
                    await rows.insert(owner, "bin_range", low=low, high=high, brand="x", card_type="debit", pan_lengths=[16])
        for low, high in (("991000", "991000"), ("99050000", "99059999")):
            await rows.insert(owner, "bin_range", low=low, high=high, brand="x", card_type="debit", pan_lengths=[16])
    finally:
        await ranges.rollback()


async def test_an_rrn_stands_once_per_acquirer_and_business_date(sql: SQL) -> None:
    row = await put(sql, "DECLINED")
    with pytest.raises(refusals.UniqueViolationError):
        async with sql.transaction():
            await insert(sql, rows.transaction(rrn=row.rrn))
    await insert(sql, rows.transaction(rrn=row.rrn, acquirer_id=uuid4()))
    await insert(sql, rows.transaction(rrn=row.rrn, business_date=row.business_date + timedelta(days=1)))


async def test_an_acquirers_rrn_may_come_twice(sql: SQL) -> None:
    for _ in range(2):
        row = await put(sql)
        await update(sql, row, state="DECLINED", acquirer_rrn="000000000001", **OUTCOMES["DECLINED"])


async def test_a_transaction_owes_one_thing_at_a_time(sql: SQL) -> None:
    row = await put(sql, "REVERSING")
    with pytest.raises(refusals.UniqueViolationError):
        await owe(sql, row, "advice")


async def claim(sql: SQL, key: str, **changes: Any) -> None:
    values = {"merchant_id": rows.MERCHANT, "caller": rows.TERMINAL, "idempotency_key": key, "route": "authorizations", "fingerprint": bytes(32),
              "transaction_id": uuid4()} | changes
    async with sql.transaction():
        await rows.insert(sql, "idempotency", **values)


@pytest.mark.parametrize("key", [
    "", "a" * 15, "a" * 65, "key with a space", "key.with.a.period", "key/with/a/slash", "schlüssel-0123456789", "key-0123456789abc\n",
    "\nkey-0123456789abc", "key-0123456789ab\tc", "'; DROP TABLE duty",
])
async def test_a_malformed_key_is_refused(sql: SQL, key: str) -> None:
    with pytest.raises(refusals.CheckViolationError):
        await claim(sql, key)


@pytest.mark.parametrize("key", ["a" * 16, "Z" * 64, "0192f0c4-7c1e-7aaa-8bbb-1234567890ab", "____----____----"])
async def test_a_key_belongs_to_one_caller_once(sql: SQL, key: str) -> None:
    await claim(sql, key)
    with pytest.raises(refusals.UniqueViolationError):
        await claim(sql, key, route="burnt", transaction_id=None)
    await claim(sql, key, caller=uuid4())
    await claim(sql, key, merchant_id=uuid4())


@pytest.mark.parametrize("changes", [{"route": "burnt"}, {"transaction_id": None}, {"fingerprint": bytes(31)}, {"fingerprint": bytes(33)}], ids=str)
async def test_a_key_is_burnt_or_has_a_transaction(sql: SQL, changes: dict[str, Any]) -> None:
    with pytest.raises(refusals.CheckViolationError):
        await claim(sql, "a-key-of-somebody", **changes)


# Once reversing, somebody owes the reversal.


@pytest.mark.parametrize(("duty", "allowed"), [
    ({}, True), (None, False), ({"kind": "advice"}, False), ({"state": "done", "closed_at": AT, "closed_by": "ack"}, False),
    ({"state": "parked"}, False),
], ids=["an open reversal", "nothing", "an advice", "a closed one", "a parked one"])
@pytest.mark.parametrize("state", ["SENT", "APPROVED", "DECLINED", "NOT_SENT"])
async def test_reversing_without_an_open_reversal_is_refused_at_the_commit(
        connections: dict[str, SQL], role: str, state: str, duty: dict[str, Any] | None, allowed: bool) -> None:
    sql = connections[role]
    row = await put(sql, state)

    async def reverse() -> None:
        async with sql.transaction():
            await update(sql, row, state="REVERSING")
            if duty is not None:
                await owe(sql, row, **duty)

    if allowed:
        await reverse()
    else:
        with pytest.raises(refusals.CheckViolationError, match="REVERSING without an open reversal"):
            await reverse()
    assert (await sql.fetchval("SELECT state FROM transaction WHERE transaction_id = $1", row.transaction_id) == "REVERSING") is allowed
    assert bool(await sql.fetchval("SELECT count(*) FROM duty WHERE transaction_id = $1", row.transaction_id)) is allowed


@pytest.mark.parametrize("sets", [
    {"state": "done"}, {"closed_at": AT}, {"state": "done", "closed_at": AT}, {"state": "open", "closed_at": AT, "closed_by": "ack"},
    {"state": "parked", "closed_at": AT, "closed_by": "ack"}, {"state": "done", "closed_at": AT, "closed_by": "age"}, {"state": "dropped"},
    {"stan": "000000"}, {"stan": "12345x"}, {"transmitted_at": "112308000x"}, {"transmissions": -1}, {"kind": "question"},
], ids=str)
async def test_a_duty_is_closed_whole_and_by_somebody(sql: SQL, sets: dict[str, Any]) -> None:
    row = await put(sql, "REVERSING")
    assignments = ", ".join(f"{name} = ${number}" for number, name in enumerate(sets, 2))
    with pytest.raises(refusals.CheckViolationError):
        await sql.execute(f"UPDATE duty SET {assignments} WHERE transaction_id = $1", row.transaction_id, *sets.values())


async def test_a_duty_belongs_to_a_transaction(sql: SQL) -> None:
    with pytest.raises(refusals.ForeignKeyViolationError):
        await owe(sql, rows.transaction())


# Roles.


async def tables(sql: SQL) -> list[str]:
    return [row[0] for row in await sql.fetch("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")]


@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {} CASCADE", "DROP TABLE {} CASCADE", "ALTER TABLE {} DISABLE TRIGGER USER"])
async def test_the_writer_removes_nothing_from_any_table(connections: dict[str, SQL], statement: str) -> None:
    names = await tables(connections["owner"])
    assert len(names) > 20
    for name in names:
        with pytest.raises(refusals.InsufficientPrivilegeError):
            await connections["switch_writer"].execute(statement.format(name))


@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {} CASCADE", "INSERT INTO {} DEFAULT VALUES", "SELECT * FROM {} FOR UPDATE"])
async def test_the_reader_writes_nothing_to_any_table(connections: dict[str, SQL], statement: str) -> None:
    for name in await tables(connections["owner"]):
        with pytest.raises(refusals.InsufficientPrivilegeError):
            await connections["switch_reader"].execute(statement.format(name))


async def test_the_reader_may_update_no_column_and_neither_role_makes_objects(connections: dict[str, SQL]) -> None:
    owner = connections["owner"]
    writable = await owner.fetch("""SELECT c.relname, p.privilege FROM pg_class c, unnest(ARRAY['INSERT', 'UPDATE', 'REFERENCES']) AS p(privilege)
        WHERE c.relkind IN ('r', 'v') AND c.relnamespace = 'public'::regnamespace
          AND has_any_column_privilege('switch_reader', c.oid, p.privilege)""")
    assert writable == []
    for role in ("switch_reader", "switch_writer"):
        assert not await owner.fetchval("SELECT has_schema_privilege($1, 'public', 'CREATE')", role)
        with pytest.raises(refusals.InsufficientPrivilegeError):
            await connections[role].execute("CREATE TABLE mine (n int)")


async def test_what_is_evidence_is_only_added_to(connections: dict[str, SQL]) -> None:
    owner = connections["owner"]
    for name in ("transaction_event", "unmatched_answer", "directory_change"):
        assert not await owner.fetchval("SELECT has_any_column_privilege('switch_writer', $1, 'UPDATE')", name)
    # A key moves to the next attempt at its sale, and its trigger allows nothing else (test_routing_flow.py).
    assert [row[0] for row in await owner.fetch("""SELECT attname FROM pg_attribute WHERE attrelid = 'idempotency'::regclass AND attnum > 0
        AND has_column_privilege('switch_writer', attrelid, attnum, 'UPDATE')""")] == ["transaction_id"]


# Card data.

# Every column that could hold free text or bytes. A new one needs a reason here why no track, security code or PIN block gets into it.
FREE = """
ticket               category
help_article         slug topics en zh written_by
announcement         role en zh reason made_by withdrawn_by
announcement_read    reader
feedback             kind object text answer given_by answered_by
open_exchange        match_key
acceptance_plan      model content reason person key_id
acceptance_test      steps state
acceptance_event     event was state reason person key_id
acceptance_step      step dialect findings compared person key_id
device_check         code reason person key_id
training             model role trainee trainer materials person key_id
training_material    model role language title address content person key_id
transaction_signature sha256 key_id sealed uploaded_by
application          entity_type country state reviewer limits
application_event    event was state person key_id reason detail
application_profile  content person
application_document kind key_id sealed person
application_file     name media_type sha256 key_id sealed person
application_verdict  verdict person reason
application_registration subject
application_reminder object threshold
contract             state ends_as
contract_event       event was state person key_id reason detail
contract_document    terms texts html sha256 person
contract_signature   side sha256 name image_sha256 key_id sealed person api_key
activation_code     digest issued_by ended_as
activation_failure  scope subject
device              serial_number model state
device_event        event was state person key_id reason
device_health       software_version paper network parameters_version
device_health_hour  software_version paper
device_key          key_id
parameter_set       owner_kind content person reason
rollout             model version back_to state stores
rollout_event       event state person reason
software_release    model version url sha256 notes person
acquirer_cost       terms created_by
account             kind currency
dispute             reference state currency brand reason_code opened_by
dispute_deadline    brand kind
dispute_event       event state by note files
dispute_fee         kind currency
dispute_file        name media_type sha256 key_id sealed uploaded_by
dispute_notice_file number sha256 received_by
keyed_answer        caller route body
batch_total         currency stan transmitted_at state code
batch_upload        currency transactions amounts stan transmitted_at state code
business_calendar   calendar kind
crypto_key          purpose name algorithm kcv storage_key wrapped source state requested_by approved_by
crypto_key_component kcv storage_key wrapped entered_by
calendar            calendar weekend
cutover_step        step state detail
merchant_hold       currency reason placed_by released_by
settlement          currency state extras
settlement_line     kind type currency rule brand card_type entry_mode mcc card_last4 rrn stan acquirer_rrn approval_code reference
transfer            currency cause object note posting_key
bulk_import         name sha256 content state made asked_by
bulk_fault          field rule
external_reference  kind reference digest
acquirer            name dialect message_mode status institution_code time_zone reversal_codes reroute_codes calendar options host_cut_over
acquirer_secret     secret_key secret_sealed
acquirer_line       host status server_name ca_file certificate_file key_file
acquirer_further_line host status server_name ca_file certificate_file key_file
acquirer_breaker    codes
host_cut_over       month_day action
acquirer_terminal   card_acceptor_terminal card_acceptor
alert               kind object acknowledged_by
api_key             key_id role person secret_digest store_id issued_by
approval            kind object payload reason requested_by requested_key state decided_by decided_key
authorization_terms mcc brand
bin_range           low high brand card_type pan_lengths
business_day        state
directory_change    kind key
link_slot           address
duty                kind state cause match_key last_code closed_by parked_reason
idempotency         route
job                 kind key arguments asked_by state detail error cancel_asked_by
merchant            name status mcc time_zone duplicate_policy undelivered calendar
merchant_loss       currency
merchant_tariff     terms created_by
number_block        name
organisation        name
acquirer_offer      name country terms state created_by activated_by retired_by
acquirer_measured   times
acquirer_rating     words person
licence_step        kind step person reason detail
licence_record      kind key_id sealed currency person caller reason
merchant_leaving    state
merchant_leaving_event event was state person key_id reason detail
merchant_move       state
merchant_move_event event was state person key_id reason detail
route               brand name bin_low bin_high currencies mccs entry_modes weekdays time_from time_until stores state created_by activated_by retired_by
schema_version      version_num
bank_account        currency holder key_id sealed last4 bank_code bic country state requested_by approved_by
bank_answer         format statement name sha256 received_by
bank_answer_entry   fact currency bank_reference reason
payout              currency state end_to_end_id reason requested_by
payout_file         currency format key_id content sha256 state made_by sent_by
clearing_file         document format institution name received_by dates sha256
clearing_line         rrn stan terminal acceptor approval_code kind currency reference
funding_entry         currency
reconciliation_comment by what text
reconciliation_exception kind subject rule rrn currency state owner resolution resolved_by approved_by
reconciliation_finding kind rule rrn movement currency
reconciliation_run    state cause matched found digest
statement_entry       currency bank_reference text
merchant_limit      currency state created_by activated_by retired_by
risk_entry          subject value verdict reason created_by ended_by
risk_hit            idempotency_key source kind action why figures pan_token masked_pan currency state decided_by reason held
risk_rule           name kind action blocks mccs brands entry_modes currency subject time_from time_until state created_by activated_by retired_by
store               name city country time_zone
terminal            name status
terminal_batch      totals differences
transaction         idempotency_key currency entry_mode masked_pan brand pan_token_key pan_sealed pan_key card_sequence_number emv
transaction         match_key reason advice answer_emv balances request_message answer_message terminal_trace reference
transaction_event   kind detail
unmatched_answer    reason field message detail
webhook_attempt     fault answer
webhook_delivery    state last_fault
webhook_endpoint    url description types state disabled_reason secret_sealed secret_key old_secret_sealed old_secret_key last_fault
webhook_event       type object body
worker              host
worker_line         shown
stand_in_day        brand currency
stand_in_terms      brand created_by currency entry_modes reason state
notice              data kind object read_by
notice_language     language set_by
ticket              assignee opened_by severity state subject
ticket_event        event key_id person state text was
ticket_rating       rated_by text
ticket_term         set_by severity
tier_correction     currency
"""
HARMLESS = {"uuid", "integer", "bigint", "boolean", "date", "timestamp with time zone", "smallint"}
KNOWN_SECRETS = ("track", "cvv", "cvc", "cav", "pin", "security_code", "expiry", "magstripe")


async def test_no_column_can_hold_a_track_a_security_code_or_a_pin_block(connections: dict[str, SQL]) -> None:
    found: dict[str, set[str]] = {}
    for row in await connections["owner"].fetch("""
            SELECT c.table_name, c.column_name, c.data_type, c.domain_name FROM information_schema.columns c
            JOIN information_schema.tables t USING (table_schema, table_name)
            WHERE table_schema = 'public' AND t.table_type = 'BASE TABLE'"""):
        assert not any(secret in row["column_name"] for secret in KNOWN_SECRETS), row["column_name"]
        if row["data_type"] not in HARMLESS and row["domain_name"] is None:
            found.setdefault(row["table_name"], set()).add(row["column_name"])
    listed: dict[str, set[str]] = {}
    for line in FREE.strip().splitlines():
        table, *columns = line.split()
        listed.setdefault(table, set()).update(columns)
    new = {table: columns - listed.get(table, set()) for table, columns in found.items()}
    assert not {table: columns for table, columns in new.items() if columns}
    # A domain in the books is a few characters, a number or a word of a list.
    for domain in await connections["owner"].fetch("SELECT typname FROM pg_type WHERE typtype = 'd' AND typnamespace = 'public'::regnamespace"):
        with pytest.raises((refusals.CheckViolationError, refusals.InvalidTextRepresentationError)):
            await connections["owner"].execute(f"SELECT ';4111111111111111=28121010000012345678?'::{domain['typname']}")


async def at_commit(sql: SQL) -> None:
    """What the database looks at only when the transaction commits, now."""
    async with sql.transaction():
        await sql.execute("SET CONSTRAINTS ALL IMMEDIATE")
    await sql.execute("SET CONSTRAINTS ALL DEFERRED")


async def set_duty(sql: SQL, row: Transaction, **sets: Any) -> None:
    assignments = ", ".join(f"{name} = ${number}" for number, name in enumerate(sets, 2))
    assert await sql.execute(f"UPDATE duty SET {assignments} WHERE transaction_id = $1", row.transaction_id, *sets.values()) == "UPDATE 1"


DONE = {"state": "done", "closed_at": AT, "closed_by": "ack"}
# What is written of the transaction (or nothing), and of its duty, in one commit; whether it holds.
AGREE: tuple[tuple[str, str | None, dict[str, Any], bool], ...] = (
    ("REVERSING", "REVERSED", DONE, True), ("REVERSING", None, DONE, False), ("REVERSING", "PARKED", {"state": "parked"}, True),
    ("REVERSING", None, {"state": "parked"}, False), ("REVERSING", "PARKED", {}, False), ("REVERSING", "PARKED", DONE, False),
    ("REVERSING", "REVERSED", {"state": "parked"}, False), ("PARKED", "REVERSING", {"state": "open"}, True), ("PARKED", "REVERSING", {}, False),
    ("PARKED", None, {"state": "open"}, False), ("PARKED", "REVERSED", DONE, True), ("PARKED", None, DONE, False), ("PARKED", "REVERSED", {}, False),
    ("PARKED", "CONFIRMED", DONE | {"closed_by": "person"}, True), ("PARKED", "CONFIRMED", {}, False),
    ("PARKED", "CONFIRMED", {"state": "open"}, False), ("REVERSED", None, {"state": "open", "closed_at": None, "closed_by": None}, False),
)


@pytest.mark.parametrize(("state", "becomes", "duty", "holds"), AGREE)
async def test_a_reversal_and_its_transaction_say_the_same_when_the_commit_is_made(
        sql: SQL, state: str, becomes: str | None, duty: dict[str, Any], holds: bool) -> None:
    row = await put(sql, "REVERSING")
    before = {"REVERSED": DONE, "PARKED": {"state": "parked"}}.get(state)
    if before is not None:
        await update(sql, row, state=state)
        await set_duty(sql, row, **before)
    await at_commit(sql)
    if becomes is not None:
        await update(sql, row, state=becomes)
    if duty:
        await set_duty(sql, row, **duty)
    if holds:
        await at_commit(sql)
    else:
        with pytest.raises(refusals.CheckViolationError, match=r"reversal"):
            await at_commit(sql)


async def test_an_advice_is_closed_and_parked_for_itself(sql: SQL) -> None:
    row = await put(sql, type="capture", exchange="advice", original_id=uuid4(), idempotency_key=None)
    await owe(sql, row, "advice")
    for sets in ({"state": "parked"}, {"state": "open"}, DONE):
        await set_duty(sql, row, **sets)
        await at_commit(sql)


@pytest.mark.parametrize("codes", ['[]', '"21"', '{"21": "close"}', '{"2": "park"}', '{"21": 1}', '{"211": "park"}', '{"21": null}', '{"21": ["park"]}'])
async def test_codes_of_an_acquirer_are_of_the_four_meanings(sql: SQL, codes: str) -> None:
    await rows.insert(sql, "acquirer", acquirer_id=uuid4(), name="bank", dialect="iso87_ascii", message_mode="single")
    await sql.execute("""UPDATE acquirer SET reversal_codes = '{"21": "acknowledged", "Z9": "not_found", "96": "retry", "30": "park"}'""")
    with pytest.raises(refusals.CheckViolationError):
        await sql.execute("UPDATE acquirer SET reversal_codes = $1::jsonb", codes)


CANARY = "canary5f1c"


@pytest.mark.parametrize(("statement", "arguments"), [
    ("INSERT INTO organisation (organisation_id, name) VALUES ($1, repeat($2, 50))", [UUID(int=9), CANARY]),
    (f"INSERT INTO organisation (organisation_id, name) SELECT '00000000-0000-0000-0000-000000000009', repeat('{CANARY}', 50)", []),
    (f"SELECT '{CANARY}'::uuid", []), (f"SELECT '{CANARY}'::int", []), (f"SELECT {CANARY}", []), (f"DO $$BEGIN RAISE WARNING '{CANARY}'; END$$", []),
    ("INSERT INTO idempotency VALUES ($1, $1, $2, 'x', '')", [UUID(int=9), CANARY]),
    ("INSERT INTO schema_version SELECT version_num FROM schema_version", []),
])
async def test_a_failing_row_is_not_in_the_servers_log(connections: dict[str, SQL], statement: str, arguments: list[Any]) -> None:
    owner = connections["owner"]
    if "WARNING" in statement:
        await owner.execute(statement)
    else:
        with pytest.raises(asyncpg.PostgresError):
            await owner.execute(statement, *arguments)
    log = Path(await owner.fetchval("SHOW data_directory")).parent / "postgres.log"
    text = log.read_text("utf-8", "replace")
    assert "database system is ready" in text
    assert CANARY not in text
    assert "duplicate key" not in text


async def test_statistics_are_of_what_sales_are_looked_up_by(connections: dict[str, SQL]) -> None:
    """What no index and no list knows has none (r0039)."""
    rows = await connections["owner"].fetch("""
        SELECT a.attname, coalesce(a.attstattarget, -1) = 0 AS without, a.attnum = ANY(i.columns) AS indexed
        FROM pg_attribute a, (SELECT array_agg(DISTINCT k) AS columns FROM pg_index, unnest(indkey) AS k WHERE indrelid = 'transaction'::regclass) i
        WHERE a.attrelid = 'transaction'::regclass AND a.attnum > 0 AND NOT a.attisdropped""")
    without = {row["attname"] for row in rows if row["without"]}
    assert not without & {row["attname"] for row in rows if row["indexed"]}
    assert not without & {"state", "type", "store_id", "terminal_id", "brand", "amount", "stan", "rrn", "currency", "outcome_at", "idempotency_key"}
    assert {"request_message", "answer_message", "pan_sealed", "emv", "masked_pan", "refund_reserved"} <= without
