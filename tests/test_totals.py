"""The rules of closing a batch: sums, balance, which transactions differ; and the message that tells an acquirer."""

from dataclasses import replace
from datetime import date
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.codec import decode, encode
from messages.dialect import Dialect, answer_mti, load
from switch.settlement.batches.sending import pause
from switch.settlement.batches.totals import Difference, Entry, Sums, balanced, differences, sums
from switch.settlement.batches.wording import Item, Said, Unsayable, end, pages, taken, totals, upload, verdict

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


SAID = Said("CNY", date(2026, 11, 23), "000017", "1123101112", 0, "T0000001", "M00000000000001")
FIGURES = {True: Sums(2, 1500, 1, 300), False: Sums(1, 70, 0, 0)}
HOUSE, CUP = load("iso87_ascii"), load("unionpay_pos")
FIRST = {"0": "0500", "7": "1123101112", "11": "000017", "41": "T0000001", "42": "M00000000000001", "15": "1123", "50": "156", "74": "0000000001", "76": "0000000003",
         "86": "0000000000000300", "88": "0000000000001570", "97": "D0000000000001270"}
CUP_FIRST = {"0": "0500", "11": "000017", "41": "T0000001", "42": "M00000000000001", "49": "156", "60": "00261123201", "63": "001",
             "48": "000000001500" "002" "000000000300" "001" "0" "000000000070" "001" "000000000000" "000" "0"}


def test_the_message_and_its_repeat_have_the_same_numbers() -> None:
    assert totals(SAID, FIGURES, HOUSE) == FIRST and answer_mti("0501") == "0510"
    assert totals(SAID._replace(transmissions=1), FIGURES, HOUSE) == FIRST | {"0": "0501"}
    assert totals(SAID, {True: Sums(2, 100, 1, 300)}, HOUSE)["97"] == "C0000000000000200"


def over_the_wire(message: dict[str, str]) -> dict[str, str]:
    return {number: value for number, value in decode(CUP, encode(CUP, message)).items() if number != "h"}


def test_a_unionpay_terminal_says_its_own_cards_and_the_others_apart_and_a_repeat_is_the_same() -> None:
    assert totals(SAID, FIGURES, CUP) == CUP_FIRST == totals(SAID._replace(transmissions=3), FIGURES, CUP)
    assert over_the_wire(CUP_FIRST) == CUP_FIRST


def test_a_reconciliation_of_1993_says_it_by_its_action_code() -> None:
    of_1993 = load("iso93_ascii")
    told = totals(SAID, FIGURES, of_1993)
    assert told == {number: value for number, value in FIRST.items() if number != "15"} | {"0": "1520", "12": "261123101112", "24": "500", "28": "261123"}
    assert decode(of_1993, encode(of_1993, told)) == told and totals(SAID._replace(transmissions=1), FIGURES, of_1993)["0"] == "1521"
    january = SAID._replace(business_date=date(2026, 12, 31), transmitted_at="0101000001")
    assert totals(january, FIGURES, of_1993)["12"] == "270101000001"
    assert [verdict({"0": "1530", "39": code}, of_1993) for code in ("500", "501", "000", "907", "904")] == [
        "in_balance", "out_of_balance", "refused", None, "refused"]


def test_what_is_longer_than_its_place_is_not_said() -> None:
    for figures in ({True: Sums(1000, 1000)}, {False: Sums(0, 0, 1000, 1000)}, {True: Sums(1, 10**12)}):
        with pytest.raises(Unsayable):
            totals(SAID, figures, CUP)
    assert totals(SAID, {True: Sums(999, 10**12 - 1)}, CUP)["48"].startswith("9" * 15)


def test_what_an_answer_says() -> None:
    for answer, found in (
            ({"39": "00", "66": "1"}, "in_balance"), ({"39": "00", "66": "2"}, "out_of_balance"), ({"39": "00", "66": "3"}, "refused"),
            ({"39": "95"}, "out_of_balance"), ({"39": "95", "66": "1"}, "out_of_balance"), ({"39": "12"}, "refused"), ({"39": "40"}, "refused"),
            ({"39": "96"}, None), ({"39": "91"}, None)):
        assert verdict({"0": "0510", **answer}, HOUSE) == found, answer


def test_a_settlement_code_that_is_not_there_is_no_balance() -> None:
    assert verdict({"0": "0510", "39": "00"}, HOUSE) == "refused"
    assert verdict({"0": "0510", "39": "00", "66": " "}, HOUSE) == "refused"
    for figures in (None, "", "0" * 30, "0" * 30 + "1", "0" * 31 + "1" * 31, "0" * 30 + "1" + "0" * 31, "x" * 62):
        answer = {"0": "0510", "39": "00"} | ({} if figures is None else {"48": figures})
        assert verdict(answer, CUP) == "refused", figures


@pytest.mark.parametrize(("own", "foreign", "found"), [("1", "1", "in_balance"), ("1", "2", "out_of_balance"), ("2", "1", "out_of_balance"), ("1", "3", "refused"), ("0", "0", "refused")])
def test_a_unionpay_host_says_it_for_its_own_cards_and_for_the_others(own: str, foreign: str, found: str) -> None:
    assert verdict({"0": "0510", "39": "00", "48": "0" * 30 + own + "0" * 30 + foreign}, CUP) == found


def test_a_host_may_say_it_by_its_response_code_alone() -> None:
    plain: Dialect = replace(HOUSE, batch=HOUSE.batch._replace(codes={"00": "in_balance", "95": "out_of_balance", "96": "again"}, told=()))
    assert [verdict({"0": "0510", "39": code, "66": "2"}, plain) for code in ("00", "95", "96", "12")] == ["in_balance", "out_of_balance", None, "refused"]


def item(number: int, amount: int, **more: Any) -> Item:
    return Item(UUID(int=number), amount, True, "6212345678900000003", f"{number:06d}", "626123456789", "A1B2C3", date(2026, 11, 22), "000731", "1122")._replace(**more)


def test_an_upload_says_records_then_refunds_one_by_one_then_how_many_were_taken() -> None:
    said = SAID._replace(stan="000018")
    base = {"0": "0320", "11": "000018", "41": "T0000001", "42": "M00000000000001"}
    records = upload(said, [item(5, 1500), item(6, 70, own=False, pan="4111111111111111"), item(7, 20, pan="")], CUP)
    assert records == base | {"60": "00261123201", "48": "03" "00" "000005" "06212345678900000003" "000000001500" "01" "000006" "00004111111111111111" "000000000070"
                              "00" "000007" "00000000000000000000" "000000000020"}
    refund = upload(said, [item(8, -300)], CUP)
    assert refund == base | {"2": "6212345678900000003", "3": "200000", "4": "000000000300", "25": "00", "37": "626123456789", "38": "A1B2C3", "49": "156",
                             "60": "25261123206", "61": "2611220007311122"}
    assert "2" not in upload(said, [item(8, -300, pan="")], CUP)
    last = end(said, 4, CUP)
    assert last == base | {"48": "0004", "60": "00261123202"}
    assert all(over_the_wire(each) == each for each in (records, refund, last))
    assert "6212345" not in repr(item(5, 1500))


@given(st.lists(st.integers(-9, 9).filter(bool), max_size=30))
def test_an_upload_names_each_transaction_once_and_fits(amounts: list[int]) -> None:
    entries = [(UUID(int=number), amount) for number, amount in enumerate(amounts)]
    found = list(pages(entries, CUP))
    assert sorted(entry for page in found for entry in page) == entries
    assert all(len(page) == 1 or (len(page) <= 8 and min(amount for _, amount in page) > 0) for page in found)
    single = replace(CUP, batch=CUP.batch._replace(items=None))
    assert [page for page in pages(entries, single)] == [[entry] for entry in entries]


def test_an_upload_is_taken_refused_or_said_again() -> None:
    assert [taken({"39": code}, CUP) for code in ("00", "96", "30", "95")] == ["accepted", None, "refused", "refused"]


def test_pauses_grow_and_have_a_bound() -> None:
    assert [pause(count, 1.0).total_seconds() for count in (0, 1, 2, 9, 99)] == [2, 4, 8, 300, 300] and pause(0, 0.0).total_seconds() == 1
