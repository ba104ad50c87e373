"""The standard terms by currency, and what is below them: then two people offer it. Pure; both are data."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from switch.merchants.contracts.terms import Terms, read
from switch.settlement.fees.charges import Meter, Sale, Tariff
from switch.settlement.fees.matching import REFUND, SALE

OFFER = "offer_contract"
YEAR_DAYS = 365


class Rates(NamedTuple):
    """Of a currency. Rates are basis points as tariffs say them, amounts minor units; `rent`, `communication`, `software`: a month."""

    all_cards: int
    debit: str
    debit_cap: int
    codes: str
    minimum: int
    rent: int
    communication: int
    software: int
    early_termination_fee: int
    deposit: int


STANDARD: Mapping[str, Rates] = MappingProxyType({
    "CNY": Rates(60, "50", 2000, "38", 1, 3000, 500, 1000, 30_000, 0),
    "HKD": Rates(160, "120", 5000, "80", 10, 8000, 1000, 2000, 80_000, 0),
    "EUR": Rates(120, "60", 500, "50", 5, 1200, 200, 300, 12_000, 0),
    "USD": Rates(220, "120", 1000, "80", 10, 1500, 300, 500, 15_000, 0),
    "GBP": Rates(120, "60", 500, "50", 5, 1200, 200, 300, 12_000, 0),
})
VAT: Mapping[str, Any] = MappingProxyType({"name": "VAT", "basis_points": 600, "inclusive": True})
PROVIDER = "Payment Service"  # as a contract names us unless it says otherwise
NOTICE_DAYS = 30
PAID: Mapping[str, Any] = MappingProxyType({
    "calendar": "daily", "funding_days": 1, "minimum_payout": 0, "reserve_basis_points": 0, "reserve_days": 180})


def tariff(currency: str) -> dict[str, Any]:
    """The document (docs/fees.md). A currency without rates of its own has rates alone, and two people offer it always."""
    rates = STANDARD.get(currency)
    if rates is None:
        return {"name": "Standard", "currency": currency, "rules": [{"name": "All cards", "price": {"basis_points": 250}}]}
    rules = [{"name": "All cards", "price": {"basis_points": rates.all_cards, "minimum": rates.minimum}},
             {"name": "Debit cards", "match": {"card_type": "debit"},
              "price": {"basis_points": rates.debit, "minimum": rates.minimum, "cap": rates.debit_cap}},
             {"name": "QR codes", "match": {"method": "qr"}, "price": {"basis_points": rates.codes, "minimum": rates.minimum}}]
    periodic = [{"name": "Terminal rent", "per": "terminal", "amount": rates.rent},
                {"name": "Communication", "per": "terminal", "amount": rates.communication},
                {"name": "Software", "per": "merchant", "amount": rates.software}]
    return {"name": "Standard", "currency": currency, "rules": rules, "refunds": {"returns": "none"}, "periodic": periodic, "tax": dict(VAT)}


def terms(currency: str, country: str, account: str, starts: date) -> dict[str, Any]:
    """Standard terms of a year from a day on, with a yearly end. `account`: where payouts go, as shown."""
    rates = STANDARD.get(currency)
    return {"language": "zh" if country in ("CN", "HK", "MO", "TW") else "en", "provider": PROVIDER,
            "currency": currency,
            "services": ["cards", "qr_codes", "terminals"], "tariff": tariff(currency), "once": [],
            "term": {"from": starts.isoformat(), "until": date.fromordinal(starts.toordinal() + YEAR_DAYS - 1).isoformat(),
                     "notice_days": NOTICE_DAYS,
                     "early_termination_fee": 0 if rates is None else rates.early_termination_fee, "deposit": 0 if rates is None else rates.deposit},
            "settlement": {"account": account, **PAID}}


class Floor(NamedTuple):
    """A term that is below the standard when it is less than there."""

    group: str
    name: str
    words: str


FLOORS = (
    Floor("term", "notice_days", "The notice is shorter than by the standard terms."),
    Floor("term", "early_termination_fee", "The fee for an early end is lower than by the standard terms."),
    Floor("term", "deposit", "The deposit is lower than by the standard terms."),
    Floor("paid", "funding_days", "The merchant is paid earlier than by the standard terms."),
    Floor("paid", "reserve_basis_points", "Less is kept as a reserve than by the standard terms."),
    Floor("paid", "reserve_days", "The reserve is kept for less time than by the standard terms."),
)


class Probe(NamedTuple):
    """A sale whose fee is asked for by both tariffs; with `volume` before it in its month."""

    brand: str
    card_type: str
    method: str
    entry_mode: str
    amount: int
    volume: int


CARD_BRANDS = ("amex", "diners", "discover", "jcb", "mastercard", "unionpay", "visa")
CODE_BRANDS = ("alipay", "unionpay", "wallet", "wechat")
# What the sales of a merchant are like: none may cost less than by the standard tariff.
PROBES = tuple(Probe(brand, card_type, method, entry, amount, volume)
               for method, brands, types, entries in (
                   ("card", CARD_BRANDS, ("debit", "credit", "prepaid", "unknown"), ("chip", "contactless", "magstripe", "manual", "fallback")),
                   ("qr", CODE_BRANDS, ("unknown",), ("qr",)))
               for brand in brands for card_type in types for entry in entries for amount in (1, 1000, 100_000, 50_000_000)
               for volume in (0, 1_000_000_000_000))
_AT, _ID = datetime(2026, 1, 1, tzinfo=UTC), UUID(int=0)


def _fee(of: Tariff, probe: Probe, currency: str, mcc: str, *, refunded: bool) -> int:
    """Of a sale, or of a sale with its whole refund."""
    meter = Meter([of], {}, {currency: probe.volume})
    facts = (currency, probe.brand, probe.card_type, probe.method, probe.entry_mode, mcc, _AT.date())
    sold = meter.price(Sale(_ID, _AT, probe.amount, SALE, *facts))
    if not refunded:
        return sold.fee
    return sold.fee + meter.price(Sale(UUID(int=1), _AT, probe.amount, REFUND, *facts, original_id=_ID)).fee


def below(offered: Terms, country: str, mcc: str) -> list[str]:
    """Why the terms are below the standard, in words; empty: one person may offer them."""
    if offered.currency not in STANDARD:
        return [f"There are no standard terms for {offered.currency}."]
    usual = read(terms(offered.currency, country, "", offered.term.starts))
    found = []
    for refunded, words in ((False, "Some sale costs less than by the standard tariff."),
                            (True, "A sale that is refunded costs less than by the standard tariff.")):
        mine, theirs = ([_fee(of.tariff, each, offered.currency, mcc, refunded=refunded) for each in PROBES] for of in (offered, usual))
        if any(one < other for one, other in zip(mine, theirs, strict=True)):
            found.append(words)
    for per in ("terminal", "store", "merchant"):
        charged, wanted = (sum(each.amount for each in of.tariff.periodic if each.per == per) for of in (offered, usual))
        if charged < wanted:
            found.append(f"Less is charged by the month for each {per} than by the standard tariff.")
    for floor in FLOORS:
        if getattr(getattr(offered, floor.group), floor.name) < getattr(getattr(usual, floor.group), floor.name):
            found.append(floor.words)
    return found
