"""A transaction on paper: what a receipt says, and how it stands on 58 and 80 mm, in English and Chinese. Pure.

It is told from the row as it stands now, so a copy that is printed after a void or a reversal says so. Of the card it knows the last four digits.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from switch.ids import show
from switch.money import text
from switch.payments.transaction import APPROVED, CONFIRMED, SENT, STATUS, Transaction, payment_status, stood_in

Language = Literal["en", "zh"]
Copy = Literal["customer", "merchant"]
COLUMNS: Mapping[int, int] = MappingProxyType({58: 32, 80: 48})  # of a printer with characters of 12 dots

WORDS: Mapping[str, Mapping[Language, str]] = MappingProxyType({
    "purchase": {"en": "SALE", "zh": "消费"}, "preauthorization": {"en": "PREAUTHORIZATION", "zh": "预授权"},
    "cash_advance": {"en": "CASH ADVANCE", "zh": "取现"}, "balance_inquiry": {"en": "BALANCE INQUIRY", "zh": "余额查询"},
    "account_verification": {"en": "ACCOUNT VERIFICATION", "zh": "账户验证"}, "capture": {"en": "COMPLETION", "zh": "预授权完成"},
    "increment": {"en": "INCREMENT", "zh": "预授权追加"}, "void": {"en": "VOID", "zh": "撤销"}, "tip": {"en": "TIP", "zh": "小费"},
    "refund": {"en": "REFUND", "zh": "退货"}, "offline_sale": {"en": "OFFLINE SALE", "zh": "离线消费"},
    "approved": {"en": "APPROVED", "zh": "交易成功"}, "declined": {"en": "DECLINED", "zh": "交易失败"},
    "not_sent": {"en": "NOT SENT - NOT CHARGED", "zh": "未发送，未扣款"}, "pending": {"en": "NOT DECIDED YET - NOT PAID", "zh": "处理中，未支付"},
    "reversing": {"en": "BEING REVERSED - NOT PAID", "zh": "冲正中，未支付"}, "reversed": {"en": "REVERSED - NOT PAID", "zh": "已冲正，未支付"},
    "parked": {"en": "BEING LOOKED INTO - NOT PAID", "zh": "人工处理中，未支付"}, "confirmed": {"en": "APPROVED", "zh": "交易成功"},
    "voided": {"en": "VOIDED - NOT CHARGED", "zh": "已撤销，未扣款"}, "accepted": {"en": "ACCEPTED OFFLINE", "zh": "离线受理"},
    "card_acceptor": {"en": "Merchant no.", "zh": "商户编号"}, "card_acceptor_terminal": {"en": "Terminal no.", "zh": "终端编号"},
    "card": {"en": "Card", "zh": "卡号"}, "brand": {"en": "Brand", "zh": "卡组织"}, "entry_mode": {"en": "Entry", "zh": "输入方式"},
    "amount": {"en": "Amount", "zh": "金额"}, "tip_amount": {"en": "of it tip", "zh": "其中小费"},
    "cashback_amount": {"en": "of it cashback", "zh": "其中取现"}, "asked": {"en": "Asked for", "zh": "请求金额"},
    "captured": {"en": "Charged by now", "zh": "已扣款合计"}, "refunded": {"en": "Refunded by now", "zh": "已退款合计"},
    "approval_code": {"en": "Approval", "zh": "授权码"}, "rrn": {"en": "Reference no.", "zh": "参考号"}, "stan": {"en": "Trace no.", "zh": "凭证号"},
    "response_code": {"en": "Response", "zh": "应答码"}, "at": {"en": "Date", "zh": "日期时间"}, "reference": {"en": "Order", "zh": "订单号"},
    "original": {"en": "Original sale", "zh": "原交易号"}, "original_rrn": {"en": "Original ref. no.", "zh": "原参考号"},
    "original_at": {"en": "Original date", "zh": "原交易日期"}, "original_amount": {"en": "Original amount", "zh": "原交易金额"},
    "transaction": {"en": "Id", "zh": "交易号"}, "signature": {"en": "Cardholder's signature", "zh": "持卡人签名"},
    "signed": {"en": "Signed on screen", "zh": "电子签名"}, "signature_hash": {"en": "SHA-256", "zh": "SHA-256"},
    "customer_copy": {"en": "CUSTOMER COPY", "zh": "持卡人存根"}, "merchant_copy": {"en": "MERCHANT COPY", "zh": "商户存根"},
    "agreed": {"en": "I agree to pay the amount above.", "zh": "本人确认以上交易，同意将其记入本卡账户"},
    "chip": {"en": "chip", "zh": "插卡"}, "contactless": {"en": "contactless", "zh": "挥卡"}, "magstripe": {"en": "stripe", "zh": "刷卡"},
    "manual": {"en": "typed in", "zh": "手输"}, "fallback": {"en": "stripe (fallback)", "zh": "降级刷卡"}, "qr": {"en": "payment code", "zh": "扫码"},
})
SIGNED = frozenset({"purchase", "preauthorization", "cash_advance", "capture", "tip", "offline_sale"})


class Head(NamedTuple):
    """Whose receipt it is. `acquirer`: the name of the acquirer."""

    merchant: str
    store: str
    city: str
    acquirer: str
    zone: ZoneInfo


class Signed(NamedTuple):
    """A signature that was drawn on a screen: the hash of its image (hex) and when it came."""

    sha256: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Receipt:
    """Amounts in minor units; `amount` is what is charged or given back, 0 when it is not."""

    transaction: str
    type: str
    status: str
    title: str
    result: str
    paid: bool
    copy_for: Copy
    language: Language
    merchant: str
    store: str
    city: str
    acquirer: str
    card_acceptor: str
    card_acceptor_terminal: str
    masked_pan: str
    brand: str
    entry_mode: str
    amount: int
    asked: int
    tip_amount: int
    cashback_amount: int
    captured: int
    refunded: int
    currency: str
    amount_text: str
    approval_code: str | None
    response_code: str | None
    rrn: str
    stan: str
    reference: str | None
    at: str
    signature: bool
    signature_sha256: str | None
    signed_at: str | None
    original: str | None
    original_rrn: str | None
    original_at: str | None
    original_amount: int | None


def receipt(row: Transaction, shown: str, head: Head, language: Language, copy: Copy, signed: Signed | None = None,
            original: Transaction | None = None) -> Receipt:
    """What the receipt says. `shown`: the transaction's id as it is shown. Who signed on the screen does not sign on paper. `original`: what a
    follow-up belongs to."""
    stands = row.state in (APPROVED, CONFIRMED)
    status = STATUS[row.state]
    if stands and payment_status(row.state, row.authorised, row.captured, row.refunded, row.charged_back, row.voided) == "voided":
        status = "voided"
    elif row.type == "offline_sale" and status == "pending":  # an advice is repeated until it is answered; the sale was made
        status = "accepted"
    elif stood_in(row) and row.state == SENT:
        status = "approved"
    paid = status in ("approved", "confirmed", "accepted")
    amount = _stands_for(row) if paid else 0
    since = (None,) * 4 if original is None else (show("transaction", original.transaction_id), original.rrn, _clock(original.received_at, head.zone),
                                                  _stands_for(original))
    return Receipt(
        shown, row.type, status, WORDS[row.type][language], WORDS[status][language], paid, copy, language, head.merchant, head.store, head.city,
        head.acquirer, row.card_acceptor.strip(), row.card_acceptor_terminal.strip(), f"**** **** **** {row.card_last4}", row.brand, row.entry_mode,
        amount, row.amount, row.tip_amount, row.cashback_amount, row.captured if paid else 0, row.refunded if paid else 0, row.currency,
        text(amount, row.currency),
        row.approval_code if paid else None, row.response_code, row.rrn, row.stan, row.reference, _clock(row.received_at, head.zone),
        paid and copy == "merchant" and row.type in SIGNED and signed is None, signed.sha256 if signed else None,
        _clock(signed.at, head.zone) if signed else None, *since)


def _stands_for(row: Transaction) -> int:
    return row.amount if row.approved_amount is None else row.approved_amount


def _clock(at: datetime, zone: ZoneInfo) -> str:
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S}"


def width(words: str) -> int:
    """Columns on paper: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 0 if unicodedata.combining(each) else 1 for each in words)


def folded(words: str, columns: int) -> Iterator[str]:
    """Lines of at most so many columns, broken where they end."""
    line = ""
    for each in words:
        if width(line + each) > columns:
            yield line.rstrip()
            line = each.lstrip()
        else:
            line += each
    yield line.rstrip()


def pair(label: str, value: str, columns: int) -> Iterator[str]:
    """Label to the left, value to the right; below each other when they do not fit."""
    gap = columns - width(label) - width(value)
    if gap >= 1:
        yield label + " " * gap + value
        return
    yield from folded(label, columns)
    for line in folded(value, columns):
        yield " " * (columns - width(line)) + line


def centred(words: str, columns: int) -> Iterator[str]:
    for line in folded(words, columns):
        yield " " * ((columns - width(line)) // 2) + line


def details(said: Receipt) -> list[tuple[str, str]]:
    """Labels and values between the result and the amount."""
    rows: list[tuple[str, str | None]] = [
        ("card_acceptor", said.card_acceptor), ("card_acceptor_terminal", said.card_acceptor_terminal), ("card", said.masked_pan),
        ("brand", said.brand.upper()), ("entry_mode", WORDS[said.entry_mode][said.language]), ("at", said.at), ("stan", said.stan), ("rrn", said.rrn),
        ("approval_code", said.approval_code), ("response_code", said.response_code), ("reference", said.reference)]
    return [(WORDS[name][said.language], value) for name, value in rows if value]


def original(said: Receipt) -> list[tuple[str, str]]:
    """Of a follow-up: which sale it belongs to."""
    if said.original is None or said.original_rrn is None or said.original_at is None or said.original_amount is None:
        return []
    rows = (("original", said.original), ("original_rrn", said.original_rrn), ("original_at", said.original_at),
            ("original_amount", text(said.original_amount, said.currency)))
    return [(WORDS[name][said.language], value) for name, value in rows]


def amounts(said: Receipt) -> list[tuple[str, str]]:
    """What was approved, what of it is for what, what follow-ups have made of it since, and what was asked if that is not the same."""
    rows = [("amount", said.amount_text)]
    if said.paid:
        parts = (("tip_amount", said.tip_amount), ("cashback_amount", said.cashback_amount))
        rows += [(name, text(part, said.currency)) for name, part in parts if part]
        later = (("captured", said.captured if said.captured != said.amount else 0), ("refunded", said.refunded))  # tips, captures, refunds since
        rows += [(name, text(sum_, said.currency)) for name, sum_ in later if sum_]
    if said.asked != said.amount:
        rows.append(("asked", text(said.asked, said.currency)))
    return [(WORDS[name][said.language], value) for name, value in rows]


def signing(said: Receipt) -> list[tuple[str, str]]:
    """Of a signature on the screen: when it came, and the hash of its image."""
    if said.signed_at is None or said.signature_sha256 is None:
        return []
    return [(WORDS["signed"][said.language], said.signed_at), (WORDS["signature_hash"][said.language], said.signature_sha256)]


def printed(said: Receipt, millimetres: int, header: str = "", footer: str = "") -> str:
    """The paper text for a printer of 58 or 80 mm."""
    columns, language = COLUMNS[millimetres], said.language
    word = {name: words[language] for name, words in WORDS.items()}
    rule, lines = "-" * columns, list[str]()
    for each in header.split("\n") if header else ():
        lines += centred(each, columns)
    lines += [*centred(said.merchant, columns), *centred(" ".join(filter(None, (said.store, said.city))), columns), rule,
              *centred(said.title, columns), *centred(said.result, columns), rule]
    for rows in (details(said), original(said), amounts(said), signing(said)):
        if rows:
            lines += [*(line for row in rows for line in pair(*row, columns)), rule]
    if said.signature:
        lines += [*folded(word["signature"], columns), "", "", "_" * columns, *folded(word["agreed"], columns)]
    for each in footer.split("\n") if footer else ():
        lines += centred(each, columns)
    lines += [*folded(f"{word['transaction']} {said.transaction}", columns), *centred(word[f"{said.copy_for}_copy"], columns)]
    return "\n".join(lines) + "\n"


def sheet(said: Receipt, millimetres: int, header: str = "", footer: str = "", signature: bytes | None = None) -> dict[str, Any]:
    """The same as one document of texts for an image or a PDF; `signature`: the PNG, as numbers."""
    word = {name: words[said.language] for name, words in WORDS.items()}
    return {"language": said.language, "millimetres": millimetres, "header": header.split("\n") if header else [],
            "head": [said.merchant, " ".join(filter(None, (said.store, said.city)))], "title": said.title, "result": said.result,
            "parts": [part for part in (details(said), original(said), amounts(said), signing(said)) if part],
            "signature": None if signature is None else list(signature), "line": word["signature"] if said.signature else None,
            "agreed": word["agreed"] if said.signature or signature else None, "footer": footer.split("\n") if footer else [],
            "last": [f"{word['transaction']} {said.transaction}", word[f"{said.copy_for}_copy"]]}
