"""The rules of closing a batch: sums, balance, which transactions differ; and the message that tells an acquirer."""

from datetime import date
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.dialect import answer_mti, load
from switch.settlement.batches.forwarding import Total, message, pause, verdict
from switch.settlement.batches.totals import Difference, Entry, Sums, balanced, differences, sums

ACQUIRER = UUID(int=9)


def entries(*amounts: int, currency: str = "CNY") -> list[Entry]:
    return [Entry(UUID(int=number), ACQUIRER, currency, amount) for number, amount in enumerate(amounts, 1)]


def test_sales_and_refunds_are_summed_by_currency() -> None:
    assert sums([*entries(1000, -300, 500), *entries(7, currency="USD")]) == {"CNY": Sums(2, 1500, 1, 300), "USD": Sums(1, 7, 0, 0)}
    assert sums([]) == {}


@pytest.mark.parametrize(("counted", "in_balance"), [
    ({"CNY": Sums(2, 1500, 1, 300)}, True), ({"CNY": Sums(2, 1500, 1, 300), "USD": Sums()}, True), ({}, False), ({"CNY": Sums(3, 1500, 1, 300)}, False),
    ({"CNY": Sums(2, 1501, 1, 300)}, False), ({"CNY": Sums(2, 1500, 0, 300)}, False), ({"CNY": Sums(2, 1500, 1, 299)}, False), ({"USD": Sums(2, 1500, 1, 300)}, False),
    ({"CNY": Sums(2, 1500, 1, 300), "USD": Sums(1, 1)}, False),
])
def test_every_figure_of_every_currency_must_agree(counted: dict[str, Sums], in_balance: bool) -> None:
    assert balanced(counted, sums(entries(1000, -300, 500))) is in_balance


def test_a_list_names_exactly_what_differs() -> None:
    found = differences({}, entries(1000, -300, 500), {UUID(int=1): 1000, UUID(int=2): -301, UUID(int=7): 40})
    assert found == [Difference("amount", UUID(int=2), -301, -300), Difference("only_books", UUID(int=3), None, 500), Difference("only_terminal", UUID(int=7), 40, None)]


def test_without_a_list_one_amount_may_explain_it() -> None:
    books = entries(1000, 500, 500, -300)
    missing = differences({"CNY": Sums(2, 1500, 1, 300)}, books, None)  # a sale of 500 was not counted
    assert missing == [Difference("suspect", UUID(int=2), None, 500), Difference("suspect", UUID(int=3), None, 500)]
    assert differences({"CNY": Sums(4, 3000, 1, 300)}, books, None) == [Difference("suspect", UUID(int=1), None, 1000)]  # one was counted twice
    assert differences({"CNY": Sums(3, 2000, 0, 0)}, books, None) == [Difference("suspect", UUID(int=4), None, -300)]
    assert differences({"CNY": Sums(9, 9, 9, 9)}, books, None) == [] and differences({"CNY": Sums(3, 2000, 1, 300)}, books, None) == []


@given(st.lists(st.integers(-999, 999).filter(bool), max_size=12), st.data())
def test_what_is_left_out_is_named(amounts: list[int], data: st.DataObject) -> None:
    books = entries(*amounts)
    left = set(data.draw(st.sets(st.sampled_from(books)))) if books else set()
    counted = [entry for entry in books if entry not in left]
    listed = {entry.transaction_id: entry.amount for entry in counted}
    assert balanced(sums(counted), sums(books)) == (not left)
    assert {each.transaction_id for each in differences(sums(counted), books, listed)} == {entry.transaction_id for entry in left}
    if len(left) == 1:
        assert left <= {entry for entry in books if entry.transaction_id in {each.transaction_id for each in differences(sums(counted), books, None)}}


TOTAL = Total(UUID(int=1), UUID(int=2), ACQUIRER, "CNY", UUID(int=3), date(2026, 11, 23), 2, 1500, 1, 300, "000017", "1123101112", 0, "T0000001", "M00000000000001")
FIRST = {"0": "0500", "7": "1123101112", "11": "000017", "41": "T0000001", "42": "M00000000000001", "15": "1123", "50": "156", "74": "0000000001", "76": "0000000002",
         "86": "0000000000000300", "88": "0000000000001500", "97": "D0000000000001200"}


def test_the_message_and_its_repeat_have_the_same_numbers() -> None:
    dialect = load("iso87_ascii")
    assert message(TOTAL, dialect) == FIRST and answer_mti("0501") == "0510"
    assert message(TOTAL._replace(transmissions=1), dialect) == FIRST | {"0": "0501"}
    assert message(TOTAL._replace(sales=100), dialect)["97"] == "C0000000000000200"


@pytest.mark.parametrize(("answer", "found"), [
    ({"39": "00", "66": "1"}, "in_balance"), ({"39": "00"}, "in_balance"), ({"39": "00", "66": "2"}, "out_of_balance"), ({"39": "00", "66": "3"}, "refused"),
    ({"39": "95"}, "out_of_balance"), ({"39": "95", "66": "1"}, "out_of_balance"), ({"39": "12"}, "refused"), ({"39": "40"}, "refused"), ({"39": "96"}, None), ({"39": "91"}, None),
])
def test_what_an_answer_says(answer: dict[str, str], found: str | None) -> None:
    assert verdict(answer) == found


def test_pauses_grow_and_have_a_bound() -> None:
    assert [pause(count, 1.0).total_seconds() for count in (0, 1, 2, 9, 99)] == [2, 4, 8, 300, 300] and pause(0, 0.0).total_seconds() == 1
