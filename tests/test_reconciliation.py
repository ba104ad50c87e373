"""The rules that pair lines with transactions: each in a table, and the SQL for a million lines held against them."""

from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from switch import database
from switch.settlement.reconciliation import runs
from switch.settlement.reconciliation.matching import REASONS, RULES, Line, Movement, across, explain, pairing, reconcile

DAY = date(2026, 11, 25)
RRN, OTHER = "632900000001", "632900000002"


def line(order: int = 1, **changes: Any) -> Line:
    values: dict[str, Any] = {"order": order, "business_date": DAY, "rrn": RRN, "stan": "000001", "terminal": "T0000001", "approval_code": "A00001", "kind": "sale",
                              "amount": 1000, "currency": "CNY", "fee": 6}
    return Line(**values | changes)


def movement(order: int = 1, **changes: Any) -> Movement:
    values: dict[str, Any] = {"order": order, "business_date": DAY, "rrn": RRN, "acquirer_rrn": "", "stan": "000001", "terminal": "T0000001",
                              "approval_code": "A00001", "kind": "sale", "amount": 1000, "currency": "CNY", "expected_fee": None}
    return Movement(**values | changes)


@pytest.mark.parametrize(("changed_line", "changed_movement", "rule", "finding"), [
    ({}, {}, "exact", None),
    ({"stan": "999999", "approval_code": "", "terminal": "X"}, {}, "exact", None),
    ({"rrn": OTHER}, {}, "approval_code", None),
    ({"rrn": "", "approval_code": ""}, {}, "stan", None),
    ({"rrn": OTHER, "stan": "", "approval_code": ""}, {"acquirer_rrn": OTHER}, "swapped_rrn", None),
    ({"amount": 999}, {}, "amount", "amount"),
    ({"kind": "refund"}, {}, "direction", "amount"),
    ({"fee": 7}, {"expected_fee": 6}, "exact", "fee"),
    ({"fee": 7}, {"expected_fee": 7}, "exact", None),
    ({"fee": 7}, {"expected_fee": None}, "exact", None),
])
def test_a_line_and_a_transaction_are_paired_by_the_first_rule_that_fits(changed_line: Any, changed_movement: Any, rule: str, finding: str | None) -> None:
    counts, findings = reconcile([line(**changed_line)], [movement(**changed_movement)])
    assert counts == {rule: 1}
    assert [each.kind for each in findings] == ([finding] if finding else [])


@pytest.mark.parametrize("changes", [
    {"currency": "USD"}, {"business_date": DAY + timedelta(1)}, {"rrn": OTHER, "stan": "9", "approval_code": "B"},
    {"rrn": OTHER, "terminal": "X"}, {"rrn": "", "stan": "", "approval_code": ""}, {"rrn": OTHER, "amount": 999},
])
def test_what_differs_more_is_missing_on_both_sides(changes: Any) -> None:
    counts, findings = reconcile([line(**changes)], [movement()])
    assert counts == {}
    assert [each.kind for each in findings] == ["missing_here", "missing_there"]


def test_what_is_absent_agrees_with_nothing() -> None:
    assert reconcile([line(rrn="", approval_code="", stan="")], [movement(rrn="", approval_code="", stan="")])[0] == {}


def test_a_second_line_of_the_same_is_a_duplicate_and_the_first_is_paired() -> None:
    counts, findings = reconcile([line(2), line(1)], [movement()])
    assert counts == {"exact": 1}
    assert [(each.kind, each.line.order) for each in findings if each.line] == [("duplicate", 2)]


@pytest.mark.parametrize(("days", "rule"), [(1, "day_after"), (-1, "day_before"), (2, None), (-2, None), (0, None)])
def test_a_line_with_the_date_of_a_neighbour_is_found_across_days(days: int, rule: str | None) -> None:
    assert [(each.kind, each.rule) for each in across([line(business_date=DAY + timedelta(days))], [movement()])] == ([("date", rule)] if rule else [])


def test_each_rule_is_explained() -> None:
    assert {rule.name for rule in RULES} < set(REASONS)
    assert explain(line(amount=999, fee=7), movement(expected_fee=6)) == ["amount: the file has 999, we have 1000", "fee: the file has 7, agreed is 6"]
    assert explain(line(rrn=""), movement()) == [f"rrn: the file has nothing, we have {RRN}"]


# SQL and Python say the same.

few = st.sampled_from
lines_drawn = st.lists(st.builds(line, rrn=few([RRN, OTHER, ""]), stan=few(["000001", ""]), terminal=few(["T1", "T2", ""]), approval_code=few(["A", "B", ""]),
                                 kind=few(["sale", "refund"]), amount=few([1000, 2000]), currency=few(["CNY", "USD"]), fee=few([6, 7])), max_size=7)
movements_drawn = st.lists(st.builds(movement, rrn=few([RRN, OTHER]), acquirer_rrn=few(["", RRN, OTHER]), stan=few(["000001", "000002"]), terminal=few(["T1", "T2"]),
                                     approval_code=few(["A", ""]), kind=few(["sale", "refund"]), amount=few([1000, 2000]), currency=few(["CNY", "USD"]),
                                     expected_fee=few([None, 6])), max_size=7)
IDENTITY = UUID(int=9)


@pytest_asyncio.fixture(scope="module")
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await database.connect(database_url, "switch_writer")
    owner = await asyncpg.connect(database_url)
    await owner.execute("INSERT INTO acquirer (acquirer_id, name, dialect, message_mode) VALUES ($1, 'rules', 'iso87_ascii', 'single')", IDENTITY)
    await owner.close()
    yield opened
    await opened.close()


def numbered(drawn: list[Any]) -> list[Any]:
    return [each._replace(order=order) for order, each in enumerate(drawn, 1)]


async def load(connection: asyncpg.Connection, lines: list[Line], movements: list[Movement], into: tuple[str, str] = ("rc_line", "rc_movement")) -> None:
    await connection.copy_records_to_table(into[0], records=[(*each, IDENTITY, each.order) for each in lines],
                                           columns=["n" if name == "order" else name for name in Line._fields] + ["file_id", "line_no"])
    await connection.copy_records_to_table(into[1], records=[(*each, IDENTITY, UUID(int=each.order)) for each in movements],
                                           columns=["n" if name == "order" else name for name in Movement._fields] + ["merchant_id", "transaction_id"])


@given(lines=lines_drawn, movements=movements_drawn)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_sql_pairs_and_finds_exactly_what_the_rules_do(connection: asyncpg.Connection, lines: list[Line], movements: list[Movement]) -> None:
    lines, movements = numbered(lines), numbered(movements)
    counts, findings = reconcile(lines, movements)
    change = connection.transaction()
    await change.start()
    try:
        for statement in runs.TABLES:
            await connection.execute(statement)
        await load(connection, lines, movements)
        assert await runs.pair_up(connection) == counts
        run = uuid4()
        await connection.execute(runs.REQUEST, run, IDENTITY, DAY, "test")
        await runs.find(connection, run, True)
        found = [tuple(row) for row in await connection.fetch(
            "SELECT kind, rule, line_no, transaction_id, expected, found FROM reconciliation_finding WHERE run_id = $1", run)]
    finally:
        await change.rollback()
    assert sorted(found, key=repr) == sorted([told(each) for each in findings], key=repr)


def told(finding: Any) -> tuple[Any, ...]:
    def signed(each: Any) -> Any:
        return None if each is None else each.amount if each.kind == "sale" else -each.amount

    figures = (-finding.movement.expected_fee, -finding.line.fee) if finding.kind == "fee" else (signed(finding.movement), signed(finding.line))
    return (finding.kind, finding.rule, finding.line.order if finding.line else None, UUID(int=finding.movement.order) if finding.movement else None, *figures)


days_drawn = st.integers(-1, 1).map(lambda days: DAY + timedelta(days))


@given(lines=st.lists(st.builds(line, rrn=few([RRN, OTHER]), business_date=days_drawn, amount=few([1000, 2000])), max_size=6),
       movements=st.lists(st.builds(movement, rrn=few([RRN, OTHER]), business_date=days_drawn, amount=few([1000, 2000])), max_size=6))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_sql_across_days_is_the_rules(connection: asyncpg.Connection, lines: list[Line], movements: list[Movement]) -> None:
    lines, movements = numbered(sorted(lines, key=lambda each: each.business_date)), numbered(sorted(movements, key=lambda each: each.business_date))
    change = connection.transaction()
    await change.start()
    try:
        for statement in runs.TABLES:
            await connection.execute(statement)
        await load(connection, lines, movements)
        pairs: set[tuple[str, int, int]] = set()
        for rule in RULES[-2:]:
            found = await connection.fetch(pairing(rule))
            pairs |= {(rule.name, row[0], row[1]) for row in found}
            await connection.execute("DELETE FROM rc_line WHERE n = ANY($1::int[])", [row[0] for row in found])
            await connection.execute("DELETE FROM rc_movement WHERE n = ANY($1::int[])", [row[1] for row in found])
    finally:
        await change.rollback()
    assert pairs == {(each.rule, each.line.order, each.movement.order) for each in across(lines, movements) if each.line and each.movement}
