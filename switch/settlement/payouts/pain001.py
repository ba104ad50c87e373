"""Payouts as an ISO 20022 customer credit transfer initiation, pain.001.001.09. Pure."""

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple

from pyiso20022.pain import pain_001_001_09 as pain
from xsdata.formats.dataclass.serializers import XmlSerializer
from xsdata.formats.dataclass.serializers.config import SerializerConfig
from xsdata.models.datatype import XmlDate, XmlDateTime

from switch.money import decimal
from switch.settlement.payouts.banking import BankAccount

NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:pain.001.001.09"
CLEARING = {"CN": "CNAPS", "US": "USABA", "GB": "GBDSC", "HK": "HKNCC", "IN": "INFSC", "AU": "AUBSB", "CA": "CACPA", "SG": "SGIBG", "TH": "THCBC",
            "TW": "TWNCC", "JP": "JPZGN", "NZ": "NZNCC", "ZA": "ZANCC"}  # how a country's bank codes are called


class Credit(NamedTuple):
    """One payout as a file has it. `text`: what the merchant reads on its bank statement."""

    end_to_end_id: str
    amount: int
    to: BankAccount
    text: str


class Order(NamedTuple):
    """What a file to the bank is made of. `message_id`: at most 35 characters, the same for the same file for ever."""

    message_id: str
    made_at: datetime
    execution_date: date
    currency: str
    payer: BankAccount
    credits: Sequence[Credit]

    @property
    def total(self) -> int:
        return sum(each.amount for each in self.credits)


def written(order: Order) -> bytes:
    """The file."""
    count, total = str(len(order.credits)), Decimal(decimal(order.total, order.currency))
    day, at = order.execution_date, order.made_at
    payment = pain.PaymentInstruction30(
        pmt_inf_id=order.message_id, pmt_mtd=pain.PaymentMethod3Code.TRF, btch_bookg=False, nb_of_txs=count, ctrl_sum=total,
        reqd_exctn_dt=pain.DateAndDateTime2Choice(dt=XmlDate(day.year, day.month, day.day)), dbtr=_party(order.payer),
        dbtr_acct=_account(order.payer, order.currency), dbtr_agt=_bank(order.payer),
        chrg_br=pain.ChargeBearerType1Code.SLEV if order.currency == "EUR" else None,  # in SEPA there is no other
        cdt_trf_tx_inf=[_credit(each, order.currency) for each in order.credits])
    header = pain.GroupHeader85(
        msg_id=order.message_id, cre_dt_tm=XmlDateTime(at.year, at.month, at.day, at.hour, at.minute, at.second, offset=0), nb_of_txs=count,
        ctrl_sum=total, initg_pty=_party(order.payer))
    document = pain.Document(cstmr_cdt_trf_initn=pain.CustomerCreditTransferInitiationV09(grp_hdr=header, pmt_inf=[payment]))
    serializer = XmlSerializer(config=SerializerConfig(indent="  ", encoding="UTF-8"))
    return serializer.render(document, ns_map={None: NAMESPACE}).encode()


def _credit(credit: Credit, currency: str) -> pain.CreditTransferTransaction34:
    amount = pain.ActiveOrHistoricCurrencyAndAmount(value=Decimal(decimal(credit.amount, currency)), ccy=currency)
    return pain.CreditTransferTransaction34(
        pmt_id=pain.PaymentIdentification6(instr_id=credit.end_to_end_id, end_to_end_id=credit.end_to_end_id),
        amt=pain.AmountType4Choice(instd_amt=amount), cdtr_agt=_bank(credit.to), cdtr=_party(credit.to),
        cdtr_acct=_account(credit.to, None), rmt_inf=pain.RemittanceInformation16(ustrd=[credit.text]))


def _party(account: BankAccount) -> pain.PartyIdentification135:
    return pain.PartyIdentification135(nm=account.holder, pstl_adr=pain.PostalAddress24(ctry=account.country))


def _account(account: BankAccount, currency: str | None) -> pain.CashAccount38:
    if account.iban:
        identity = pain.AccountIdentification4Choice(iban=account.number)
    else:
        identity = pain.AccountIdentification4Choice(othr=pain.GenericAccountIdentification1(id=account.number))
    return pain.CashAccount38(id=identity, ccy=currency)


def _bank(account: BankAccount) -> pain.BranchAndFinancialInstitutionIdentification6:
    """By BIC, by the country's bank code, or "not provided" as the guidelines of SEPA say where an IBAN is enough."""
    member = None
    if account.bank_code is not None:
        system = CLEARING.get(account.country)
        named = pain.ClearingSystemIdentification2Choice(cd=system) if system else None
        member = pain.ClearingSystemMemberIdentification2(clr_sys_id=named, mmb_id=account.bank_code)
    nothing = pain.GenericFinancialIdentification1(id="NOTPROVIDED") if account.bic is None and member is None else None
    return pain.BranchAndFinancialInstitutionIdentification6(
        fin_instn_id=pain.FinancialInstitutionIdentification18(bicfi=account.bic, clr_sys_mmb_id=member, othr=nothing))
