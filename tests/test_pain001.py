"""Files to the bank: pain.001 valid against the standard's schema for whatever may be agreed, and CSV with the same figures."""

import csv
import io
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import xmlschema
from hypothesis import given, settings
from hypothesis import strategies as st

from switch.money import CURRENCIES
from switch.settlement.payouts import bank_csv, pain001
from switch.settlement.payouts.banking import BankAccount, fault
from switch.settlement.payouts.pain001 import NAMESPACE, Credit, Order

SCHEMA = Path(__file__).parent / "vectors" / "iso20022" / "pain.001.001.09.xsd"
NAME = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=70)
ACCOUNTS = st.one_of(
    st.builds(BankAccount, NAME, st.sampled_from(["DE89370400440532013000", "GB82WEST12345698765432", "MT84MALT011000012345MTLCAST001S"]), st.just(True),
              st.sampled_from([None, "37040044"]), st.sampled_from([None, "COBADEFFXXX", "WESTGB2L"]), st.sampled_from(["DE", "GB", "MT"])),
    st.builds(BankAccount, NAME, st.from_regex(r"\A[A-Z0-9][A-Z0-9-]{2,33}\Z"), st.just(False), st.from_regex(r"\A[A-Z0-9]{2,28}\Z"),
              st.sampled_from([None, "ICBKCNBJXXX"]), st.sampled_from(["CN", "US", "BR"]))).filter(lambda account: fault(account) is None)
ORDERS = st.builds(
    Order, st.uuids().map(lambda each: each.hex), st.just(datetime(2026, 11, 26, 2, 3, 4, tzinfo=UTC)), st.just(date(2026, 11, 27)),
    st.sampled_from(["EUR", "CNY", "JPY", "KWD", "CLF"]), ACCOUNTS,
    st.lists(st.builds(Credit, st.uuids().map(lambda each: each.hex), st.integers(1, 10**13), ACCOUNTS, st.just("Payout pay_1")), min_size=1, max_size=4))


@pytest.fixture(scope="module")
def schema() -> Any:
    return xmlschema.XMLSchema(str(SCHEMA))


def test_the_schema_refuses_what_is_wrong(schema: Any) -> None:
    order = Order("a" * 36, datetime(2026, 11, 26, tzinfo=UTC), date(2026, 11, 27), "EUR", *[BankAccount("A", "DE89370400440532013000", True, None, None, "DE")],
                  [Credit("e", 1, BankAccount("B", "x" * 35, False, "1", None, "DE"), "t")])
    assert len(list(schema.iter_errors(pain001.written(order).decode()))) >= 2


@settings(max_examples=60, deadline=None)
@given(order=ORDERS)
def test_every_file_is_valid_against_the_schema_and_says_what_was_ordered(schema: Any, order: Order) -> None:
    data = pain001.written(order)
    schema.validate(data.decode())
    root = ElementTree.fromstring(data)
    names = {"p": NAMESPACE}
    exponent = CURRENCIES[order.currency][1]
    amounts = [Decimal(each.text or "") for each in root.iterfind(".//p:InstdAmt", names)]
    assert amounts == [Decimal(each.amount).scaleb(-exponent) for each in order.credits]
    assert {each.text for each in root.iterfind(".//p:CtrlSum", names)} == {str(sum(amounts))}
    assert {each.text for each in root.iterfind(".//p:NbOfTxs", names)} == {str(len(order.credits))}
    assert [each.text for each in root.iterfind(".//p:EndToEndId", names)] == [each.end_to_end_id for each in order.credits]
    assert [each.text for each in root.iterfind(".//p:Cdtr/p:Nm", names)] == [each.to.holder for each in order.credits]
    assert pain001.written(order) == data, "the same order is the same bytes"


@settings(max_examples=60, deadline=None)
@given(order=ORDERS)
def test_the_csv_has_the_same_figures_and_no_cell_begins_like_a_formula(order: Order) -> None:
    rows = list(csv.reader(io.StringIO(bank_csv.written(order).decode(), newline="")))
    assert [row[0] for row in rows] == ["H", *["P"] * len(order.credits), "T"]
    assert sum((Decimal(row[8]) for row in rows[1:-1]), Decimal(0)) == Decimal(rows[-1][2]) and rows[-1][1] == str(len(order.credits))
    assert [row[4] for row in rows[1:-1]] == [each.to.number for each in order.credits]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for cell in row)
