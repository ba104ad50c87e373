"""Statements on paper: one document of labels and texts, set as HTML for the browser's printer, or as PDF where typst is installed."""

import asyncio
import importlib.util
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from switch import money
from switch.errors import Problem
from switch.ids import show
from switch.settlement.exports.statements import Statement
from switch.settlement.fees.pricing import NO_RULE, NO_TARIFF

Language = Literal["en", "zh"]
TEMPLATES = Path(__file__).with_name("templates")
PRESS = Path(__file__).with_name("press.py")
PRESS_S, PRESSES = 20.0, 2
NO_FONT = 4
REFUSED = {"pdf": "no_pdf", "png": "no_image"}

# Every word of a statement, in each language.
WORDS: dict[str, dict[Language, str]] = {
    "title": {"en": "Settlement statement", "zh": "结算单"},
    "merchant": {"en": "Merchant", "zh": "商户"}, "acquirer": {"en": "Acquirer", "zh": "收单机构"},
    "settlement": {"en": "Settlement", "zh": "结算编号"}, "day": {"en": "Business date", "zh": "营业日"}, "due": {"en": "Due on", "zh": "到账日"},
    "currency": {"en": "Currency", "zh": "币种"}, "zone": {"en": "Time zone", "zh": "时区"},
    "provisional": {"en": "Provisional: this settlement is not posted yet.", "zh": "暂定：本结算单尚未入账。"},
    "summary": {"en": "Summary", "zh": "汇总"}, "item": {"en": "Item", "zh": "项目"}, "count": {"en": "Count", "zh": "笔数"},
    "amount": {"en": "Amount", "zh": "金额"}, "sales": {"en": "Sales", "zh": "销售"}, "refunds": {"en": "Refunds", "zh": "退款"},
    "adjustments": {"en": "Adjustments of earlier days", "zh": "往日调整"}, "gross": {"en": "Gross", "zh": "总额"},
    "fees": {"en": "Fees", "zh": "手续费"}, "tax": {"en": "Tax on fees", "zh": "手续费税金"}, "net": {"en": "Net", "zh": "净额"},
    "held": {"en": "Held as reserve until", "zh": "保证金，释放日"}, "payable": {"en": "Net after reserve", "zh": "扣除保证金后净额"},
    "how": {"en": "How the fees come about", "zh": "手续费明细"}, "rule": {"en": "Rule", "zh": "计费规则"}, "kind": {"en": "Kind", "zh": "类型"},
    "brand": {"en": "Card", "zh": "卡种"}, "fee": {"en": "Fee", "zh": "手续费"}, "by_store": {"en": "By store", "zh": "按门店"},
    "store": {"en": "Store", "zh": "门店"}, "for": {"en": "Of", "zh": "所属日"},
    "by_day": {"en": "Adjustments by the day they belong to", "zh": "调整所属日期"},
    "charge": {"en": "Charge", "zh": "服务费"}, "sale": {"en": "sale", "zh": "销售"}, "refund": {"en": "refund", "zh": "退款"},
    "adjustment": {"en": "adjustment", "zh": "调整"}, "chargeback": {"en": "chargeback", "zh": "拒付"},
    "correction": {"en": "correction", "zh": "更正"},
    "contract_charge": {"en": "charge by contract", "zh": "合同收费"}, "deposit": {"en": "deposit", "zh": "押金"},
    "beside": {"en": "Chargebacks, corrections and charges by contract of that day, taken or given back at once beside the net",
               "zh": "当日拒付、退回、更正及合同收费（即时入账，不含于净额）"},
    "came_to": {"en": "Net with these", "zh": "净额与上述合计"},
    "reference": {"en": "Reference", "zh": "参考号"},
    "debit": {"en": "debit", "zh": "借记卡"}, "credit": {"en": "credit", "zh": "贷记卡"}, "prepaid": {"en": "prepaid", "zh": "预付卡"},
    "unknown": {"en": "unknown", "zh": "卡种未知"},
    "note": {"en": "The summary is signed from the merchant's point of view: gross is the sum of sales, refunds and adjustments, net that of gross, "
                   "fees and tax. In the other tables fees are what was charged.",
             "zh": "汇总表金额以商户角度计正负：总额为销售、退款与调整之和，净额为总额、手续费与税金之和；其他表中的手续费为已收取的金额。"},
}
UNPRICED: Mapping[str, Mapping[Language, str]] = {  # our words where a tariff's would stand
    NO_TARIFF: {"en": NO_TARIFF, "zh": "无有效费率"}, NO_RULE: {"en": NO_RULE, "zh": "费率中无适用规则"}}


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int  # the first columns; the others are numbers
    last: int = 0  # rows at the end that are sums


@dataclass(frozen=True, slots=True)
class Document:
    """All that is printed, as texts."""

    language: Language
    title: str
    warning: str | None
    facts: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]
    note: str


def document(statement: Statement, language: Language) -> Document:
    whole = statement.whole

    def word(name: str) -> str:
        return WORDS[name][language] if name in WORDS else name

    def amount(value: int) -> str:
        return money.text(value, whole.currency).rpartition(" ")[0]

    facts = (("merchant", whole.merchant_name), ("acquirer", whole.acquirer_name), ("settlement", show("settlement", whole.settlement_id)),
             ("day", whole.business_date.isoformat()), ("due", whole.due_on.isoformat()), ("currency", whole.currency), ("zone", whole.zone.key))
    summary = [("sales", str(whole.sales_count), whole.sales), ("refunds", str(whole.refunds_count), -whole.refunds),
               ("adjustments", str(whole.adjustments_count), whole.adjustments), ("gross", "", whole.gross), ("fees", "", -whole.fees),
               ("tax", "", -whole.tax), ("net", "", whole.net)]
    rows = [(word(name), count, amount(value)) for name, count, value in summary]
    if whole.reserve_held:
        rows += [(f"{word('held')} {whole.reserve_release_on}", "", amount(-whole.reserve_held)),
                 (word("payable"), "", amount(whole.net - whole.reserve_held))]
    fees = [(UNPRICED[row["rule"]][language] if row["rule"] in UNPRICED else row["rule"], word(row["kind"]),
             f"{row['brand']} {word(row['card_type'])}", str(row["count"]), amount(row["gross"]), amount(row["fee"])) for row in statement.fees]
    fees += [(name, word("charge"), "", "", "", amount(value)) for name, value in whole.charges]
    tables = [Table(word("summary"), tuple(map(word, ("item", "count", "amount"))), tuple(rows), 1, 1),
              Table(word("how"), tuple(map(word, ("rule", "kind", "brand", "count", "gross", "fee"))), tuple(fees), 3)]
    if len(statement.stores) > 1:
        tables.append(Table(word("by_store"), tuple(map(word, ("store", "count", "sales", "refunds", "gross", "fee"))), tuple(
            (row["store"] or "", str(row["count"]), *(amount(row[name]) for name in ("sales", "refunds", "gross", "fee")))
            for row in statement.stores), 1))
    if statement.adjustments:
        tables.append(Table(word("by_day"), tuple(map(word, ("for", "count", "gross", "fee"))), tuple(
            (row["for_date"].isoformat(), str(row["count"]), amount(row["gross"]), amount(row["fee"])) for row in statement.adjustments), 1))
    if whole.beside:
        moved = [(row["name"] or row["reference"], word(row["kind"]), amount(row["gross"]), amount(row["fee"])) for row in whole.beside]
        came_to = whole.net + sum(row["gross"] - row["fee"] for row in whole.beside)
        tables.append(Table(word("beside"), tuple(map(word, ("reference", "kind", "amount", "fee"))),
                            (*moved, (word("came_to"), "", amount(came_to), "")), 2, 1))
    return Document(language, word("title"), word("provisional") if whole.state == "priced" else None,
                    tuple((word(name), value) for name, value in facts), tuple(tables), word("note"))


PAGES = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def html(printed: Document) -> str:
    """One page without scripts and without anything from elsewhere; every text of others is escaped."""
    return PAGES.get_template("statement.html").render(document=printed)


def can_print() -> bool:
    return importlib.util.find_spec("typst") is not None


class Press:
    """Prints PDF and PNG, each in a process of its own, a few at a time."""

    def __init__(self, fonts: Path) -> None:
        """`fonts`: a folder whose fonts are used beside the system's."""
        self.fonts, self.free = fonts, asyncio.Semaphore(PRESSES)

    async def pdf(self, printed: Document) -> bytes:
        """Raises Problem: no_pdf when it is not installed or no font has the characters, overloaded."""
        return await self.of("statement", "pdf", asdict(printed), "html")

    async def of(self, template: str, form: Literal["pdf", "png"], content: dict[str, Any], instead: str) -> bytes:
        """`content` as `template` sets it. `instead`: what to ask for where it cannot be printed. Raises Problem: no_pdf, no_image, overloaded."""
        if not can_print():
            raise Problem(REFUSED[form], f"{form.upper()} needs the optional extra `reports`, which is not installed here; ask for format={instead} "
                                         "and print that.")
        if self.free.locked():
            raise Problem("overloaded", "Other documents are being printed.", retry_after=2)
        async with self.free:
            return await self._printed(template, form, json.dumps(content).encode(), instead)

    async def _printed(self, template: str, form: str, content: bytes, instead: str) -> bytes:
        command = [sys.executable, str(PRESS), form, str(TEMPLATES / f"{template}.typ"), *([str(self.fonts)] if self.fonts.is_dir() else [])]
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                                                       stderr=asyncio.subprocess.DEVNULL)
        try:
            async with asyncio.timeout(PRESS_S):
                out, _ = await process.communicate(content)
        except TimeoutError:
            raise Problem("overloaded", "The document could not be printed in time.", retry_after=5) from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode == NO_FONT:
            raise Problem(REFUSED[form], "No font here is known to have the characters of this document; for Chinese ones put a font into the folder "
                                         f"`fonts` of the switch's home, or ask for format={instead}.")
        if process.returncode != 0:
            raise Problem("internal")
        return out
