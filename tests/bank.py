"""A bank for tests: its statements built with the standard's own classes (camt.053), and its answers as CSV."""

import re
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

from pyiso20022.camt import camt_053_001_08 as camt
from xsdata.formats.dataclass.serializers import XmlSerializer
from xsdata.models.datatype import XmlDate, XmlDateTime

from switch import database

OUR_IBAN, THEIR_IBAN = "DE89370400440532013000", "GB82WEST12345698765432"
DAY = date(2026, 11, 26)


class Booked(NamedTuple):
    """`amount`: minor units of two decimals; `came`: to our account."""

    reference: str
    amount: int
    end_to_end_id: str = ""
    came: bool = False
    text: str = ""
    reason: str = ""


def _amount(amount: int, currency: str) -> Any:
    return camt.ActiveOrHistoricCurrencyAndAmount(value=Decimal(amount).scaleb(-2), ccy=currency)


def _sign(came: bool) -> Any:
    return camt.CreditDebitCode.CRDT if came else camt.CreditDebitCode.DBIT


def _entry(each: Booked, currency: str, day: date) -> Any:
    back = camt.PaymentReturnReason5(rsn=camt.ReturnReason5Choice(cd="AC04"), addtl_inf=[each.reason]) if each.reason else None
    details = camt.EntryTransaction10(
        refs=camt.TransactionReferences6(end_to_end_id=each.end_to_end_id or "NOTPROVIDED"), amt=_amount(each.amount, currency), cdt_dbt_ind=_sign(each.came),
        rtr_inf=back, rmt_inf=camt.RemittanceInformation16(ustrd=[each.text]) if each.text else None)
    return camt.ReportEntry10(
        amt=_amount(each.amount, currency), cdt_dbt_ind=_sign(each.came), sts=camt.EntryStatus1Choice(cd="BOOK"),
        bookg_dt=camt.DateAndDateTime2Choice(dt=XmlDate(day.year, day.month, day.day)), acct_svcr_ref=each.reference,
        bk_tx_cd=camt.BankTransactionCodeStructure4(prtry=camt.ProprietaryBankTransactionCodeStructure1(cd="NTRF")),
        ntry_dtls=[camt.EntryDetails9(tx_dtls=[details])])


def _balance(kind: str, amount: int, currency: str, day: date) -> Any:
    return camt.CashBalance8(
        tp=camt.BalanceType13(cd_or_prtry=camt.BalanceType10Choice(cd=kind)), amt=_amount(abs(amount), currency), cdt_dbt_ind=_sign(amount >= 0),
        dt=camt.DateAndDateTime2Choice(dt=XmlDate(day.year, day.month, day.day)))


def statement(booked: Sequence[Booked], identity: str = "STMT-1", account: str = OUR_IBAN, currency: str = "EUR", day: date = DAY, number: int = 1,
              opening: int = 1_000_000) -> bytes:
    moved = sum(each.amount if each.came else -each.amount for each in booked)
    at = XmlDateTime(day.year, day.month, day.day, 22, 0, 0, offset=0)
    content = camt.AccountStatement9(
        id=identity, elctrnc_seq_nb=Decimal(number), cre_dt_tm=at, acct=camt.CashAccount39(id=camt.AccountIdentification4Choice(iban=account), ccy=currency),
        bal=[_balance("OPBD", opening, currency, day), _balance("CLBD", opening + moved, currency, day)],
        txs_summry=camt.TotalTransactions6(ttl_ntries=camt.NumberAndSumOfTransactions4(
            nb_of_ntries=str(len(booked)), sum=Decimal(sum(each.amount for each in booked)).scaleb(-2))),
        ntry=[_entry(each, currency, day) for each in booked])
    document = camt.Document(bk_to_cstmr_stmt=camt.BankToCustomerStatementV08(grp_hdr=camt.GroupHeader81(msg_id=f"M-{identity}", cre_dt_tm=at), stmt=[content]))
    return XmlSerializer().render(document, ns_map={None: "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"}).encode()


def as_version(data: bytes, version: str) -> bytes:
    """The same statement as another version of the standard has it."""
    text = data.decode().replace("camt.053.001.08", f"camt.053.001.{version}")
    if version < "08":  # the status was a text of its own
        text = re.sub(r"<Sts>\s*<Cd>(\w+)</Cd>\s*</Sts>", r"<Sts>\1</Sts>", text)
    if version < "04":  # a payment had its amount among others, and no direction of its own
        text = re.sub(r"(<TxDtls>.*?</Refs>\s*)(<Amt .*?</Amt>)\s*<CdtDbtInd>\w+</CdtDbtInd>", r"\1<AmtDtls><TxAmt>\2</TxAmt></AmtDtls>", text, flags=re.DOTALL)
    return text.encode()


def answer_csv(rows: Sequence[tuple[str, str, str, str, str]], name: str = "ANSWER-1", account: str = OUR_IBAN, currency: str = "EUR", day: date = DAY,
               total: str | None = None) -> bytes:
    """Rows: end-to-end id, status, amount as text, bank reference, reason."""
    lines = [f"H,ANSWER,1,{account},{currency},{day},{name}"]
    lines += [f"A,{number},{ident},{status},{amount},{currency},{day},{reference},{reason}" for number, (ident, status, amount, reference, reason) in enumerate(rows, 1)]
    return "\n".join([*lines, f"T,{len(rows)},{total if total is not None else sum((Decimal(row[2]) for row in rows), Decimal('0.00'))}", ""]).encode()


async def every_day(url: str) -> None:
    """Whatever day it is, it is a business day of all merchants: tests run on Saturdays too."""
    connection = await database.connect(url, "switch_writer")
    try:
        await connection.execute("UPDATE merchant SET calendar = 'daily'")
    finally:
        await connection.close()
