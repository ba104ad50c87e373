"""Receipts: what they say in each state and language, how they stand on 58 and 80 mm, and of the card never more than four digits."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio
import rows
from hypothesis import given
from hypothesis import strategies as st

from switch.api.merchant import Type
from switch.ids import show
from switch.payments.receipts import COLUMNS, WORDS, Head, centred, folded, pair, printed, receipt, sheet, width
from switch.payments.transaction import STATUS, Transaction
from tests.flows import Shop, new_key, open_shop
from tests.processes import CARD
from tests.test_openapi import fits

HEAD = Head("Harbour Noodles 海港面馆", "Pier 3", "Shanghai", "harbour-bank", ZoneInfo("Asia/Shanghai"))
AT = datetime(2026, 3, 1, 16, 30, tzinfo=UTC)


def row(**changes: Any) -> Transaction:
    return rows.transaction(**{"received_at": AT, "state": "APPROVED", "amount": 12_300, "currency": "CNY", "approval_code": "A1B2C3", "response_code": "00",
                               "approved_amount": 12_300, "authorised": 12_300, "captured": 12_300, **changes})


def said(language: Any = "en", copy_for: Any = "customer", **changes: Any) -> Any:
    return receipt(row(**changes), "txn_1", HEAD, language, copy_for)


def test_an_approved_sale_says_what_was_paid_and_when_by_the_stores_clock() -> None:
    made = said()
    assert (made.title, made.result, made.paid, made.amount, made.amount_text, made.approval_code) == ("SALE", "APPROVED", True, 12_300, "123.00 CNY", "A1B2C3")
    assert made.at == "2026-03-02 00:30:00"
    assert (said("zh").title, said("zh").result) == ("消费", "交易成功")


@pytest.mark.parametrize("state", sorted(STATUS))
@pytest.mark.parametrize("language", ["en", "zh"])
def test_only_what_stands_is_paid_and_whatever_else_says_so(state: str, language: str) -> None:
    made = said(language, state=state)
    assert made.paid is (state in ("APPROVED", "CONFIRMED"))
    assert made.amount == (12_300 if made.paid else 0) and (made.approval_code is not None) is made.paid
    paper = printed(made, 58)
    if not made.paid:
        assert made.result in (WORDS["declined"][language], WORDS["not_sent"][language], WORDS["pending"][language], WORDS["reversing"][language],
                               WORDS["reversed"][language], WORDS["parked"][language])
        assert "0.00 CNY" in paper and WORDS["approved"][language] not in paper and "A1B2C3" not in paper
    assert not said(language, "merchant", state=state).signature or made.paid


def test_a_void_is_told_on_every_later_copy() -> None:
    made = said(voided=12_300)
    assert (made.status, made.paid, made.amount) == ("voided", False, 0) and "VOIDED" in printed(made, 80)


def test_a_partial_approval_says_what_was_asked_and_what_was_taken() -> None:
    paper = printed(said(approved_amount=6150, authorised=6150, captured=6150), 80)
    assert "61.50 CNY" in paper and "123.00 CNY" in paper and "Asked for" in paper


def test_what_follow_ups_have_made_of_it_is_told_and_nothing_where_there_are_none() -> None:
    plain, later = printed(said(captured=12_300), 80), printed(said(captured=14_300, refunded=2_000), 80)
    assert "by now" not in plain
    assert "Charged by now" in later and "143.00 CNY" in later and "Refunded by now" in later and "20.00 CNY" in later


def test_an_offline_sale_is_accepted_before_its_acquirer_has_answered() -> None:
    made = said(type="offline_sale", exchange="advice", state="SENT", approved_amount=None)
    assert (made.status, made.paid, made.amount) == ("accepted", True, 12_300)


@pytest.mark.parametrize("type_", get_args(Type))
def test_every_type_and_state_has_its_words_in_both_languages(type_: str) -> None:
    assert all(WORDS[type_][language] for language in ("en", "zh"))
    assert STATUS.keys() and all(WORDS[status]["zh"] and WORDS[status]["en"] for status in STATUS.values())
    assert printed(said("zh", "merchant", type=type_), 58)


def test_the_merchants_copy_has_a_line_to_sign_and_the_customers_has_none() -> None:
    assert "____" in printed(said(copy_for="merchant"), 58) and "MERCHANT COPY" in printed(said(copy_for="merchant"), 58)
    assert "____" not in printed(said(), 58) and "CUSTOMER COPY" in printed(said(), 58)
    assert "____" not in printed(said(copy_for="merchant", type="refund"), 58)


@pytest.mark.parametrize(("language", "words"), [
    ("en", ("Original sale", "txn_", "Original ref. no. 606000000017", "Original date 2026-03-01 12:30:00", "Original amount 123.00 CNY")),
    ("zh", ("原交易号", "txn_", "原参考号 606000000017", "原交易日期 2026-03-01 12:30:00", "原交易金额 123.00 CNY")),
])
def test_a_refund_names_the_sale_that_it_gives_back_on(language: Any, words: tuple[str, ...]) -> None:
    sale = row(received_at=datetime(2026, 3, 1, 4, 30, tzinfo=UTC), rrn="606000000017")
    made = receipt(row(type="refund", amount=100, approved_amount=100, rrn="606100000018"), "txn_1", HEAD, language, "customer", original=sale)
    assert (made.original, made.original_rrn, made.original_at, made.original_amount) == (
        show("transaction", sale.transaction_id), "606000000017", "2026-03-01 12:30:00", 12_300)
    for millimetres in COLUMNS:
        paper = printed(made, millimetres)
        assert all(each in " ".join(paper.split()) for each in words) and max(map(width, paper.splitlines())) <= COLUMNS[millimetres]
    assert any(("606000000017" in value) for part in sheet(made, 58)["parts"] for _, value in part)
    assert "riginal" not in printed(said(), 58) and said().original_rrn is None


@given(text=st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=200), columns=st.sampled_from(sorted(COLUMNS.values())))
def test_nothing_is_wider_than_the_paper_and_nothing_is_lost(text: str, columns: int) -> None:
    lines = list(folded(text, columns))
    assert all(width(line) <= columns for line in [*lines, *centred(text, columns), *pair("Merchant no.", text, columns)])
    assert "".join(lines).replace(" ", "").replace("\u3000", "") == "".join(text.split()).replace(" ", "") or any(each.isspace() for each in text)


@pytest.mark.parametrize("millimetres", sorted(COLUMNS))
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_receipt_fits_its_paper(millimetres: int, language: str) -> None:
    for copy_for in ("customer", "merchant"):
        made = said(language, copy_for, reference="x" * 64, tip_amount=300, cashback_amount=1000, amount=999_999_999_999, approved_amount=999_999_999_999)
        paper = printed(made, millimetres, "欢迎光临海港面馆" * 5, "Thank you\nCome again")
        assert max(map(width, paper.splitlines())) <= COLUMNS[millimetres]
        assert "9999999999.99 CNY" in paper and "Come again" in paper


def test_chinese_characters_take_two_columns() -> None:
    assert (width("海港"), width("ab"), width("é"), width("ａ")) == (4, 2, 1, 2)
    assert list(pair("金额", "1.00 CNY", 16)) == ["金额    1.00 CNY"]


EXAMPLE = {"en": Head("Harbour Noodles", "Pier 3", "Shanghai", "harbour-bank", HEAD.zone), "zh": Head("海港面馆", "三号码头店", "上海", "harbour-bank", HEAD.zone)}


@pytest.mark.parametrize(("language", "header", "footer"), [("en", "Welcome", "Thank you"), ("zh", "欢迎光临", "谢谢惠顾")])
def test_the_receipts_in_the_documents_are_those_that_are_printed(language: Any, header: str, footer: str) -> None:
    sale = row(received_at=datetime(2026, 3, 1, 4, 30, tzinfo=UTC), rrn="606000000017", stan="000017", reference="table 4", brand="unionpay", card_last4="0003")
    made = receipt(sale, "txn_01980b53-7a10-7c3e-9f52-3b7a1c0de4f1", EXAMPLE[language], language, "customer")
    assert printed(made, 58, header, footer) == (Path(__file__).parent.parent / "docs" / "receipts" / f"receipt-58-{language}.txt").read_text()


# Over HTTP


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("receipts")) as opened:
        yield opened


async def test_a_receipt_comes_as_json_and_as_text_and_knows_four_digits(shop: Shop) -> None:
    spec = (await shop.ask("GET", "/openapi.json")).body
    sale = (await shop.pay(12_300, reference="table 4")).body
    path = f"/v1/transactions/{sale['id']}/receipt"
    answer = await shop.ask("GET", path)
    fits(spec, "get", "/v1/transactions/{transaction}/receipt", answer)
    assert (answer.body["paid"], answer.body["amount"], answer.body["approval_code"], answer.body["language"]) == (True, 12_300, sale["approval_code"], "zh")
    assert answer.body["masked_pan"] == "**** **** **** 0003"
    assert (await shop.ask("GET", f"/v1/authorizations/{sale['id']}/receipt")).body == answer.body
    text = await shop.ask("GET", path, Accept="text/plain")
    other = await shop.ask("GET", f"{path}?format=text&width=80&language=en&copy_for=merchant")
    assert text.headers["content-type"] == other.headers["content-type"] == "text/plain; charset=utf-8"
    assert "消费" in text.raw.decode() and "SALE" in other.raw.decode() and sale["rrn"] in other.raw.decode() and "table 4" in text.raw.decode()
    assert max(map(width, text.raw.decode().splitlines())) <= 32 < max(map(width, other.raw.decode().splitlines())) <= 48
    for each in (answer, text, other):
        assert CARD["pan"][:6] not in each.raw.decode() and CARD["pan"] not in each.raw.decode()
    voided = await shop.ask("POST", f"/v1/authorizations/{sale['id']}/voids", {}, "till", Idempotency_Key=new_key())
    assert voided.status == 201
    assert (await shop.ask("GET", path)).body["status"] == "voided"
    assert (await shop.ask("GET", f"/v1/transactions/{voided.body['id']}/receipt?language=en")).body["title"] == "VOID"


async def test_the_receipt_of_a_refund_names_its_sale_over_http(shop: Shop) -> None:
    spec = (await shop.ask("GET", "/openapi.json")).body
    sale = (await shop.pay(12_300, key="till")).body
    refund = await shop.ask("POST", "/v1/refunds", {"authorization": sale["id"], "amount": 500}, "till", Idempotency_Key=new_key())
    assert refund.status == 201, refund.raw
    path = f"/v1/transactions/{refund.body['id']}/receipt"
    answer = await shop.ask("GET", path, key="till")
    fits(spec, "get", "/v1/transactions/{transaction}/receipt", answer)
    assert (answer.body["original"], answer.body["original_rrn"], answer.body["original_amount"]) == (sale["id"], sale["rrn"], 12_300)
    texts = [(await shop.ask("GET", f"{path}?format=text&language={language}", key="till")).raw.decode() for language in ("en", "zh")]
    assert all(sale["rrn"] in text for text in texts) and "原参考号" in texts[1]
    first = (await shop.ask("GET", f"/v1/transactions/{sale['id']}/receipt", key="till")).body
    assert (first["original"], first["original_rrn"], first["original_at"], first["original_amount"]) == (None, None, None, None)


async def test_the_paper_and_language_of_the_terminals_parameters_hold(shop: Shop) -> None:
    values = {"receipt_language": "en", "receipt_width_mm": 80, "receipt_header": "Welcome aboard", "receipt_footer": "See you"}
    await shop.ask("PUT", f"/v1/parameters/{shop.shown('terminal.branch')}", {"values": values, "reason": "as agreed"}, "operator")
    sale = (await shop.pay(5000, key="branch")).body["id"]
    paper = (await shop.ask("GET", f"/v1/transactions/{sale}/receipt?format=text", key="branch")).raw.decode()
    assert "Welcome aboard" in paper.splitlines()[0] and "See you" in paper and "SALE" in paper and max(map(width, paper.splitlines())) == 48


async def test_a_receipt_is_seen_by_whom_the_transaction_is_seen(shop: Shop) -> None:
    sale = (await shop.pay(5000)).body["id"]
    seen = {key: (await shop.ask("GET", f"/v1/transactions/{sale}/receipt", key=key)).status
            for key in ("till", "neighbour", "branch", "dual", "merchant.one", "merchant.two", "operator", "nobody")}
    assert seen == {"till": 200, "neighbour": 200, "branch": 404, "dual": 404, "merchant.one": 200, "merchant.two": 404, "operator": 200, "nobody": 401}
    for wrong in ("txn_x", "txn_0192f0c4-7c1e-7aaa-8bbb-1234567890ab"):
        assert (await shop.ask("GET", f"/v1/transactions/{wrong}/receipt")).status == 404
    for query in ("width=57", "language=de", "copy_for=x", "format=gif"):
        assert (await shop.ask("GET", f"/v1/transactions/{sale}/receipt?{query}")).status == 422
