"""Tariff and cost documents: JSON to values, strictly. What is wrong is refused with its place as a JSON pointer and what to do. Pure."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date
from itertools import combinations
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from switch.money import AMOUNT_MAX, CURRENCIES
from switch.settlement.fees.charges import NO_TAX, ROUNDINGS, Costs, Periodic, Tariff, Tax
from switch.settlement.fees.matching import FREE, NO_LIMIT, REFUND, SALE, WEIGHT, Match, Price, Rule, Tier

ANY = "*"
RULES_MAX, TIERS_MAX, VALUES_MAX, FAULTS_MAX = 200, 20, 500, 20
BASIS_POINTS_MAX = 10_000
CARD_TYPES = ("debit", "credit", "prepaid", "unknown")
METHODS = ("card", "qr")
ENTRY_MODES = ("chip", "contactless", "magstripe", "manual", "fallback", "qr")
RETURNS = ("none", "proportional", "all")
PER = ("terminal", "store", "merchant")
COMPONENTS = ("interchange", "scheme", "acquirer")
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,4})(\.[0-9]{1,2})?", re.ASCII)
_MCC = re.compile("[0-9]{4}", re.ASCII)
_BRAND = re.compile("[a-z0-9_-]{1,40}", re.ASCII)
VALUES: Mapping[str, tuple[Callable[[str], object], str]] = {
    "brand": (_BRAND.fullmatch, "a brand in small letters, such as visa"),
    "card_type": (CARD_TYPES.__contains__, f"one of: {', '.join(CARD_TYPES)}"),
    "method": (METHODS.__contains__, f"one of: {', '.join(METHODS)}"),
    "entry_mode": (ENTRY_MODES.__contains__, f"one of: {', '.join(ENTRY_MODES)}"),
    "mcc": (_MCC.fullmatch, "four digits (ISO 18245)"),
    "currency": (CURRENCIES.__contains__, "an ISO 4217 alpha code, such as CNY"),
}


class Fault(NamedTuple):
    place: str  # JSON pointer (RFC 6901)
    rule: str


class TermsError(ValueError):
    """A document that is refused: every fault found, at most 20. They hold nothing of the document but its places."""

    def __init__(self, faults: Collection[Fault]) -> None:
        super().__init__("; ".join(f"{fault.place or '/'}: {fault.rule}" for fault in faults))
        self.faults = tuple(faults)[:FAULTS_MAX]


R = TypeVar("R")


class _Reader:
    """Reads members of an object and gathers faults; what is wrong reads as its default."""

    def __init__(self, brands: Collection[str] | None) -> None:
        self.faults: list[Fault] = []
        self.brands = brands

    def fault(self, place: str, rule: str) -> None:
        self.faults.append(Fault(place, rule))

    def members(self, value: Any, place: str, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.fault(place, "must be an object")
            return {}
        known = {*required, *optional}
        if any(name not in known for name in value):
            self.fault(place, f"has an unknown member; known are: {', '.join(sorted(known))}")
        for name in required:
            if name not in value:
                self.fault(f"{place}/{name}", "is missing")
        return {name: each for name, each in value.items() if name in known}

    def text(self, value: Any, place: str) -> str:
        if isinstance(value, str) and 1 <= len(value) <= 80 and value.isprintable() and value == value.strip():
            return value
        self.fault(place, "must be 1 to 80 printable characters, no space at either end")
        return ""

    def one_of(self, value: Any, place: str, known: Collection[str]) -> str:
        if isinstance(value, str) and value in known:
            return value
        self.fault(place, f"must be one of: {', '.join(known)}")
        return next(iter(known))

    def money(self, value: Any, place: str, lowest: int = 0) -> int:
        if type(value) is int and lowest <= value <= AMOUNT_MAX:
            return value
        self.fault(place, f"must be a whole number of minor units from {lowest} to {AMOUNT_MAX}")
        return lowest

    def rate(self, value: Any, place: str) -> int:
        """Basis points as millionths: 38 or "38.25"."""
        text = str(value) if type(value) is int else value
        if isinstance(text, str) and _DECIMAL.fullmatch(text):
            whole, _, part = text.partition(".")
            millionths = int(whole) * 100 + int(part.ljust(2, "0"))
            if millionths <= BASIS_POINTS_MAX * 100:
                return millionths
        self.fault(place, f'must be basis points from 0 to {BASIS_POINTS_MAX}: a whole number, or a text with at most two decimals such as "38.25"')
        return 0

    def items(self, value: Any, place: str, most: int, least: int = 1) -> list[Any]:
        if isinstance(value, list) and least <= len(value) <= most:
            return value
        self.fault(place, f"must be a list of {least} to {most}")
        return []

    def values(self, name: str, value: Any, place: str) -> frozenset[str] | None:
        """One value, a list of them, or "*" for any."""
        if value == ANY:
            return None
        allowed, rule = VALUES[name]
        wanted = self.items(value, place, VALUES_MAX) if isinstance(value, list) else [value]
        for at, each in enumerate(wanted):
            where = f"{place}/{at}" if isinstance(value, list) else place
            if not isinstance(each, str) or not allowed(each):
                self.fault(where, f"must be {rule}, or * for any" if rule.startswith(("a ", "an ")) else f"must be {rule}; or * for any")
            elif name == "brand" and self.brands is not None and each not in self.brands:
                self.fault(where, f"must be a known brand: {', '.join(sorted(self.brands))}")
        return frozenset(each for each in wanted if isinstance(each, str))


def tariff_from(document: Any, effective_from: date = date.min, tariff_id: UUID | None = None, brands: Collection[str] | None = None) -> Tariff:
    """The tariff of a document. `brands`: those that rules may name, None for any. Raises TermsError."""
    reader = _Reader(brands)
    given = reader.members(document, "", ("name", "currency", "rules"), ("rounding", "refunds", "periodic", "tax"))
    currency = _currency(reader, given)
    rules = _rules(reader, given, currency, costs=False)
    refunds = reader.members(given.get("refunds", {}), "/refunds", (), ("returns",))
    tariff = Tariff(reader.text(given.get("name", "-"), "/name"), currency, rules, effective_from, tariff_id,
                    reader.one_of(refunds.get("returns", "none"), "/refunds/returns", RETURNS),
                    tuple(_periodic(reader, given, currency)), _tax(reader, given),
                    reader.one_of(given.get("rounding", "half_even"), "/rounding", ROUNDINGS))
    if reader.faults:
        raise TermsError(reader.faults)
    return tariff


def costs_from(document: Any, effective_from: date = date.min, brands: Collection[str] | None = None) -> Costs:
    """The costs of a document. Raises TermsError."""
    reader = _Reader(brands)
    given = reader.members(document, "", ("name", "currency", "rules"), ("rounding", "refunds"))
    currency = _currency(reader, given)
    rules = _rules(reader, given, currency, costs=True)
    refunds = reader.members(given.get("refunds", {}), "/refunds", (), COMPONENTS)
    interchange, scheme, acquirer = (reader.one_of(refunds.get(name, "none"), f"/refunds/{name}", RETURNS) for name in COMPONENTS)
    costs = Costs(reader.text(given.get("name", "-"), "/name"), currency, rules, effective_from, (interchange, scheme, acquirer),
                  reader.one_of(given.get("rounding", "half_even"), "/rounding", ROUNDINGS))
    if reader.faults:
        raise TermsError(reader.faults)
    return costs


def _currency(reader: _Reader, given: dict[str, Any]) -> str:
    value = given.get("currency", ANY)
    if isinstance(value, str) and (value == ANY or value in CURRENCIES):
        return value
    reader.fault("/currency", "must be an ISO 4217 alpha code, such as CNY; or * when the rules name rates alone")
    return ANY


def _rules(reader: _Reader, given: dict[str, Any], currency: str, *, costs: bool) -> tuple[Rule, ...]:
    found, names = [], set[str]()
    for at, each in enumerate(reader.items(given.get("rules", []), "/rules", RULES_MAX)):
        place = f"/rules/{at}"
        rule = reader.members(each, place, ("name",) if costs else ("name", "price"), ("match", *(COMPONENTS if costs else ())))
        name = reader.text(rule.get("name", "-"), f"{place}/name")
        if name in names:
            reader.fault(f"{place}/name", "is the name of a rule before it; name it apart, since statements show it")
        names.add(name)
        match = _match(reader, rule.get("match", {}), f"{place}/match", currency)
        wanted = COMPONENTS if costs else ("price",)
        prices = tuple(_price(reader, rule[part], f"{place}/{part}", match, costs=costs) if part in rule else FREE for part in wanted)
        found.append(Rule(name, match, prices))
    if not reader.faults:
        _check_defaults(reader, found, currency)
        _check_overlaps(reader, found)
    return tuple(found)


def _match(reader: _Reader, value: Any, place: str, currency: str) -> Match:
    given = reader.members(value, place, (), ("kind", *WEIGHT, "amount"))
    kind = reader.one_of(given.get("kind", SALE), f"{place}/kind", (SALE, REFUND))
    named = {name: reader.values(name, given[name], f"{place}/{name}") for name in WEIGHT if name in given}
    if "currency" not in given and currency != ANY:
        named["currency"] = frozenset({currency})
    band = reader.members(given.get("amount", {}), f"{place}/amount", (), ("from", "below"))
    low = reader.money(band.get("from", 0), f"{place}/amount/from")
    below = reader.money(band["below"], f"{place}/amount/below", 1) if "below" in band else None
    if below is not None and below <= low:
        reader.fault(f"{place}/amount/below", "must be more than `from`: the band holds amounts from `from` on, below `below`")
    match = Match(kind=kind, **named, amount_from=low, amount_below=below)
    if match.banded:
        _one_currency(reader, match, f"{place}/amount")
    return match


def _one_currency(reader: _Reader, match: Match, place: str) -> None:
    if match.currency is None or len(match.currency) != 1:
        reader.fault(place, "says an amount, so its rule must be for one currency: name it in `match`, or in the document's `currency`")


def _price(reader: _Reader, value: Any, place: str, match: Match, *, costs: bool) -> Price:
    optional = ("basis_points", "fixed", "minimum", "cap", "tiers", *(() if costs else ("interchange_plus",)))
    given = reader.members(value, place, (), optional)
    amounts = {name: reader.money(given[name], f"{place}/{name}") for name in ("fixed", "minimum", "cap") if name in given}
    if amounts or "tiers" in given:
        _one_currency(reader, match, place)
    if "tiers" in given and "basis_points" in given:
        reader.fault(f"{place}/basis_points", "must be left out beside `tiers`, which have their own")
    if amounts.get("minimum", 0) > amounts.get("cap", NO_LIMIT):
        reader.fault(f"{place}/cap", "must not be less than `minimum`")
    plus = ""
    if "interchange_plus" in given:
        plus = reader.one_of(given["interchange_plus"], f"{place}/interchange_plus", ("interchange", "interchange_and_scheme"))
    if match.kind == REFUND and ("tiers" in given or plus):
        reader.fault(place, "is for refunds, which have neither tiers nor interchange to pass on")
    return Price(reader.rate(given["basis_points"], f"{place}/basis_points") if "basis_points" in given else 0, amounts.get("fixed", 0),
                 amounts.get("minimum"), amounts.get("cap"), _tiers(reader, given, f"{place}/tiers"), plus)


def _tiers(reader: _Reader, given: dict[str, Any], place: str) -> tuple[Tier, ...]:
    if "tiers" not in given:
        return ()
    found, last = [], 0
    tiers = reader.items(given["tiers"], place, TIERS_MAX)
    for at, each in enumerate(tiers):
        final = at == len(tiers) - 1
        tier = reader.members(each, f"{place}/{at}", ("basis_points",) if final else ("up_to", "basis_points"), ("up_to",) if final else ())
        up_to = None
        if final and "up_to" in tier:
            reader.fault(f"{place}/{at}/up_to", "must be left out of the last tier, which holds for all above")
        elif "up_to" in tier:
            up_to = reader.money(tier["up_to"], f"{place}/{at}/up_to", 1)
            if up_to <= last:
                reader.fault(f"{place}/{at}/up_to", "must be more than that of the tier before")
            last = up_to
        found.append(Tier(up_to, reader.rate(tier.get("basis_points", 0), f"{place}/{at}/basis_points")))
    return tuple(found)


def _periodic(reader: _Reader, given: dict[str, Any], currency: str) -> Iterator[Periodic]:
    for at, each in enumerate(reader.items(given.get("periodic", []), "/periodic", RULES_MAX, 0)):
        place = f"/periodic/{at}"
        fee = reader.members(each, place, ("name", "per", "amount"), ("currency",))
        own = fee.get("currency", currency)
        if not isinstance(own, str) or own not in CURRENCIES:
            reader.fault(f"{place}/currency", "must be an ISO 4217 alpha code, since the document names none for its amounts")
        yield Periodic(reader.text(fee.get("name", "-"), f"{place}/name"), reader.one_of(fee.get("per", PER[0]), f"{place}/per", PER), str(own),
                       reader.money(fee.get("amount", 1), f"{place}/amount", 1))


def _tax(reader: _Reader, given: dict[str, Any]) -> Tax:
    if "tax" not in given:
        return NO_TAX
    tax = reader.members(given["tax"], "/tax", ("name", "basis_points"), ("inclusive",))
    if not isinstance(tax.get("inclusive", False), bool):
        reader.fault("/tax/inclusive", "must be true or false")
    return Tax(reader.text(tax.get("name", "-"), "/tax/name"), reader.rate(tax.get("basis_points", 0), "/tax/basis_points"),
               tax.get("inclusive") is True)


def _check_defaults(reader: _Reader, rules: list[Rule], currency: str) -> None:
    """Every currency that a rule for sales names has a rule for all of its sales."""
    plain = [rule.match.currency for rule in rules if rule.match.kind == SALE and not any(rule.match.named[1:])]
    covered = {each for currencies in plain if currencies is not None for each in currencies}
    if None in plain:
        return
    wanted = {each for rule in rules if rule.match.kind == SALE for each in rule.match.currency or ()} | {currency}
    for each in sorted(wanted - covered):
        reader.fault("/rules", "needs a rule for what no other is for: one without `match`" if each in (currency, ANY) else
                     f'needs a rule for all else in {each}: one with `"match": {{"currency": "{each}"}}` alone')


def _check_overlaps(reader: _Reader, rules: list[Rule]) -> None:
    for (first, one), (second, other) in combinations(enumerate(rules), 2):
        if one.match.kind == other.match.kind and one.match.named == other.match.named and _overlap(one.match, other.match):
            reader.fault(f"/rules/{second}/match", f"is for transactions that /rules/{first} is for too, and neither is more particular; "
                                                   "take the overlap out of one, or name one more fact")


def _overlap(one: Match, other: Match) -> bool:
    for name in WEIGHT:
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine is not None and theirs is not None and not mine & theirs:
            return False
    return one.amount_from < (other.amount_below or NO_LIMIT) and other.amount_from < (one.amount_below or NO_LIMIT)
