"""Statements on paper: our own words are in the language of the statement, those of tariffs stay as they were agreed."""

from datetime import date
from uuid import UUID
from zoneinfo import ZoneInfo

from switch.settlement.exports.paper import document
from switch.settlement.exports.statements import Head, Statement
from switch.settlement.fees.pricing import NO_RULE, NO_TARIFF

SOME, DAY = UUID(int=1), date(2026, 11, 28)


def test_what_no_tariff_was_for_and_a_kind_of_card_are_said_in_the_language_of_the_statement() -> None:
    whole = Head(SOME, SOME, "Noodles", "demo", ZoneInfo("Asia/Shanghai"), DAY, DAY, "CNY", "stated", 3, 300, 0, 0, 0, 0, 0, 0, 300, 0, None, ())
    fees = [{"rule": rule, "kind": "sale", "brand": "unionpay", "card_type": card_type, "count": 1, "gross": 100, "fee": 0}
            for rule, card_type in ((NO_TARIFF, "unknown"), (NO_RULE, "debit"), ("sales", "credit"))]
    english, chinese = [[row[:3] for row in document(Statement(whole, fees, (), ()), language).tables[1].rows] for language in ("en", "zh")]
    assert english == [(NO_TARIFF, "sale", "unionpay unknown"), (NO_RULE, "sale", "unionpay debit"), ("sales", "sale", "unionpay credit")]
    assert chinese == [("无有效费率", "销售", "unionpay 卡种未知"), ("费率中无适用规则", "销售", "unionpay 借记卡"), ("sales", "销售", "unionpay 贷记卡")]
