"""A contract as it is printed and signed: labels and texts in its language, from its terms alone, so that the same terms give the same bytes."""

import hashlib
from typing import NamedTuple

from switch import money
from switch.merchants.contracts.terms import Terms
from switch.settlement.exports.paper import Document, Language, Table, html
from switch.settlement.fees.charges import Periodic
from switch.settlement.fees.matching import Match, Price, Rule
from switch.settlement.fees.wording import percent

# Every word of a contract, in each language.
WORDS: dict[str, dict[Language, str]] = {
    "title": {"en": "Merchant acquiring contract", "zh": "商户收单服务合同"},
    "contract": {"en": "Contract", "zh": "合同编号"},
    "version": {"en": "Version of the document", "zh": "文本版本"},
    "merchant": {"en": "Merchant", "zh": "商户"},
    "provider": {"en": "Provider", "zh": "服务商"},
    "amends": {"en": "Amends contract", "zh": "变更之合同"},
    "currency": {"en": "Currency", "zh": "币种"},
    "services": {"en": "Services", "zh": "服务项目"},
    "cards": {"en": "Bank cards", "zh": "银行卡收单"},
    "qr_codes": {"en": "Payment codes", "zh": "扫码支付"},
    "preauthorizations": {"en": "Preauthorizations", "zh": "预授权"},
    "terminals": {"en": "Terminals", "zh": "终端"},
    "online_payouts": {"en": "Payouts over the network", "zh": "线上结算"},
    "fees": {"en": "Fees of transactions", "zh": "交易手续费"},
    "rule": {"en": "Rule", "zh": "计费规则"},
    "for": {"en": "For", "zh": "适用范围"},
    "price": {"en": "Price", "zh": "费率"},
    "all": {"en": "all sales", "zh": "全部交易"},
    "refund": {"en": "refunds", "zh": "退款"},
    "at_least": {"en": "at least", "zh": "最低"},
    "at_most": {"en": "at most", "zh": "封顶"},
    "to": {"en": "up to", "zh": "至"},
    "above": {"en": "above", "zh": "以上"},
    "nothing": {"en": "nothing", "zh": "免费"},
    "interchange": {"en": "the interchange", "zh": "发卡行服务费"},
    "interchange_and_scheme": {"en": "the interchange and the scheme's fee", "zh": "发卡行服务费及网络服务费"},
    "other": {"en": "Other charges", "zh": "其他费用"},
    "charge": {"en": "Charge", "zh": "项目"},
    "when": {"en": "When", "zh": "收取方式"},
    "amount": {"en": "Amount", "zh": "金额"},
    "terminal": {"en": "a month for each terminal", "zh": "每台终端每月"},
    "store": {"en": "a month for each store", "zh": "每家门店每月"},
    "month": {"en": "a month", "zh": "每月"},
    "once": {"en": "once, when it begins", "zh": "一次性，自生效日"},
    "deposit": {"en": "Deposit", "zh": "保证金"},
    "back": {"en": "given back after the end", "zh": "合同终止后退还"},
    "early": {"en": "End before its time, by the merchant", "zh": "商户提前解约费"},
    "tax": {"en": "Tax", "zh": "税费"},
    "inclusive": {"en": "contained in the fees", "zh": "含于手续费"},
    "on_top": {"en": "on top of the fees", "zh": "另计于手续费"},
    "returns_none": {"en": "The fee of a sale is kept at its refund.", "zh": "退款不退还手续费。"},
    "returns_proportional": {"en": "A refund gives back its part of the sale's fee.", "zh": "退款按比例退还手续费。"},
    "returns_all": {"en": "The first refund gives back all of the sale's fee.", "zh": "首次退款退还全部手续费。"},
    "term": {"en": "Term", "zh": "合同期限"},
    "item": {"en": "Item", "zh": "项目"},
    "said": {"en": "Agreed", "zh": "约定"},
    "from": {"en": "First day", "zh": "生效日"},
    "until": {"en": "Last day", "zh": "到期日"},
    "open": {"en": "none: until notice", "zh": "无固定期限"},
    "notice": {"en": "Notice, days", "zh": "解约通知期（天）"},
    "settlement": {"en": "Settlement", "zh": "结算"},
    "account": {"en": "To the account", "zh": "结算账户"},
    "days": {"en": "Paid after, business days", "zh": "到账周期（工作日）"},
    "calendar": {"en": "Calendar", "zh": "工作日历"},
    "minimum": {"en": "Smallest payout", "zh": "最低结算金额"},
    "reserve": {"en": "Reserve, for days", "zh": "滚动保证金，天数"},
    "note": {
        "en": "Signed by both sides; each signature names the SHA-256 of this document. A transaction is priced by the contract in force on the "
              "business date on which it was authorised. After the last day of a contract nothing more is authorised; what was sold before is "
              "settled as agreed here.",
        "zh": "本合同由双方签署，签名均记载本文本的 SHA-256 值。交易按授权营业日有效的合同计费。"
              "合同到期后不再受理新交易，此前交易仍按本合同结算。"},
}


class Parties(NamedTuple):
    """`account`: the payout account in words, its number masked."""

    contract: str
    number: int
    version: int
    merchant: str
    provider: str
    amends: str
    account: str


class Printed(NamedTuple):
    document: Document
    html: str
    sha256: bytes


def printed(terms: Terms, parties: Parties) -> Printed:
    """`sha256` is that of the HTML's UTF-8 bytes, which are kept as they are."""
    made = document(terms, parties)
    page = html(made)
    return Printed(made, page, hashlib.sha256(page.encode()).digest())


def document(terms: Terms, parties: Parties) -> Document:
    language: Language = "en" if terms.language == "en" else "zh"

    def word(name: str) -> str:
        return WORDS[name][language]

    def amount(value: int) -> str:
        return money.text(value, terms.currency)

    facts = [(word("contract"), f"{parties.contract} · {parties.number}"), (word("version"), str(parties.version)),
             (word("merchant"), parties.merchant), (word("provider"), parties.provider), (word("currency"), terms.currency),
             (word("services"), ", ".join(map(word, terms.services)))]
    if parties.amends:
        facts.insert(1, (word("amends"), parties.amends))
    paid, term = terms.paid, terms.term
    fees = [_fee(rule, language) for rule in terms.tariff.matcher.ranked]
    fees.append((word("refund"), "", word(f"returns_{terms.tariff.returns}")))
    other = [(each.name, word("once"), f"{each.times} × {amount(each.amount)}") for each in terms.once]
    other += [(each.name, word(_per(each)), money.text(each.amount, each.currency)) for each in terms.tariff.periodic]
    other += [(word("deposit"), word("back"), amount(term.deposit)), (word("early"), word("item"), amount(term.early_termination_fee))]
    tax = terms.tariff.tax
    if tax.rate:
        other.append((word("tax"), word("inclusive" if tax.inclusive else "on_top"), f"{tax.name} {percent(tax.rate)}"))
    agreed = [(word("from"), term.starts.isoformat()), (word("until"), word("open") if term.ends is None else term.ends.isoformat()),
              (word("notice"), str(term.notice_days))]
    settled = [(word("account"), parties.account), (word("days"), f"T+{paid.funding_days}"), (word("calendar"), paid.calendar),
               (word("minimum"), amount(paid.minimum_payout)), (word("reserve"), f"{percent(paid.reserve_basis_points * 100)}, {paid.reserve_days}")]
    pair = (word("item"), word("said"))
    tables = (Table(word("fees"), (word("rule"), word("for"), word("price")), tuple(fees), 3),
              Table(word("other"), (word("charge"), word("when"), word("amount")), tuple(other), 2),
              Table(word("term"), pair, tuple(agreed), 2), Table(word("settlement"), pair, tuple(settled), 2))
    return Document(language, word("title"), None, tuple(facts), tables, word("note"))


def _per(each: Periodic) -> str:
    return "month" if each.per == "merchant" else each.per


def _fee(rule: Rule, language: Language) -> tuple[str, str, str]:
    currency = min(rule.match.currency) if rule.match.currency else ""
    return rule.name, _match(rule.match, currency, language), _price(rule.prices[0], currency, language)


def _match(of: Match, currency: str, language: Language) -> str:
    named = [each for each in (of.brand, of.card_type, of.method, of.entry_mode, of.mcc) if each is not None]
    found = [WORDS["refund"][language]] if of.kind == "refund" else []
    found += [" / ".join(sorted(each)) for each in named]
    if of.banded:
        below = f" - {money.text(of.amount_below, currency)}" if of.amount_below is not None else f" {WORDS['above'][language]}"
        found.append(money.text(of.amount_from, currency) + below)
    return ", ".join(found) or WORDS["all"][language]


def _price(of: Price, currency: str, language: Language) -> str:
    parts = []
    if of.tiers:
        parts.append("; ".join(f"{percent(rate)} {WORDS['above'][language]}" if up_to is None else
                               f"{percent(rate)} {WORDS['to'][language]} {money.text(up_to, currency)}" for up_to, rate in of.tiers))
    elif of.rate:
        parts.append(percent(of.rate))
    if of.fixed:
        parts.append(money.text(of.fixed, currency))
    if of.interchange_plus:
        parts.append(WORDS[of.interchange_plus][language])
    bounds = ("at_least", of.minimum), ("at_most", of.cap)
    limits = [f"{WORDS[name][language]} {money.text(value, currency)}" for name, value in bounds if value is not None]
    return ", ".join([" + ".join(parts) or WORDS["nothing"][language], *limits])
