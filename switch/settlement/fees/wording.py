"""Tariffs and lines of fees in words, for statements, merchants and operators. Pure."""

from collections.abc import Iterator

from switch.money import text
from switch.settlement.fees.bills import FeeLine
from switch.settlement.fees.charges import Costs, Line, Periodic, Tariff, Tax
from switch.settlement.fees.matching import FREE, REFUND, Match, Price

PER = {"terminal": "for each terminal", "store": "for each store", "merchant": "in all"}
RETURNS = {"none": "the fee of a sale is kept at its refund", "proportional": "a refund gives back its part of the sale's fee",
           "all": "the first refund gives back all of the sale's fee"}
ROUNDED = {"half_even": "half to the even unit", "half_up": "half away from zero", "up": "up", "down": "down"}
METHODS = {"card": "by card", "qr": "by QR code"}


def percent(rate: int) -> str:
    """Millionths as percent, at least two decimals: 3800 is 0.38 %."""
    whole, rest = divmod(rate, 10_000)
    decimals = f"{rest:04d}".rstrip("0").ljust(2, "0")
    return f"{whole}.{decimals} %"


def basis_points(rate: int) -> str:
    """Millionths as basis points, as a document says them."""
    whole, rest = divmod(rate, 100)
    return f"{whole}.{rest:02d}".rstrip("0") if rest else str(whole)


def line(said: Line, currency: str) -> str:
    """How a line of a transaction's fee came about."""
    match said.kind:
        case "rate":
            return f"{percent(said.rate)} of {text(said.base, currency)}"
        case "minimum":
            return f"raised to the minimum of {text(said.base, currency)}"
        case "cap":
            return f"lowered to the cap of {text(said.base, currency)}"
        case "returned":
            return f"given back of the sale's fee of {text(said.base, currency)}"
    return {"fixed": "fixed amount", "interchange": "interchange, passed on as it is", "scheme": "scheme fee, passed on as it is"}[said.kind]


def summed(said: FeeLine) -> str:
    """What a line of a bill adds up."""
    match said.kind:
        case "rate":
            return f"{percent(said.rate)} of {text(said.base, said.currency)}"
        case "terminal" | "store" | "merchant":
            return f"{text(said.rate, said.currency)} a month {PER[said.kind]}"
    return {"fixed": "fixed amounts", "interchange": "interchange, passed on as it is", "scheme": "scheme fees, passed on as they are",
            "minimum": "raised to the minimum", "cap": "lowered to the cap", "returned": "given back at refunds"}[said.kind]


def price(of: Price, currency: str) -> str:
    """A price in one breath: 0.38 %, at least 0.05 CNY, at most 18.00 CNY."""
    parts = []
    if of.tiers:
        tiers = (f"{percent(rate)} above" if up_to is None else f"{percent(rate)} up to {text(up_to, currency)}" for up_to, rate in of.tiers)
        parts.append(f"by the volume of the month ({', '.join(tiers)})")
    elif of.rate:
        parts.append(percent(of.rate))
    if of.fixed:
        parts.append(text(of.fixed, currency))
    if of.interchange_plus:
        parts.append("the interchange" + (" and the scheme's fee" if of.interchange_plus == "interchange_and_scheme" else ""))
    limits = [f"at least {text(of.minimum, currency)}"] if of.minimum is not None else []
    limits += [f"at most {text(of.cap, currency)}"] if of.cap is not None else []
    return ", ".join([" plus ".join(parts) or "nothing", *limits])


def match(of: Match) -> str:
    """What a rule is for."""
    facts = [" or ".join(sorted(each)) for each in (of.brand, of.card_type) if each is not None]
    found = [f"{' '.join(facts)} cards"] if facts else []
    found += [" or ".join(METHODS[each] for each in sorted(of.method))] if of.method is not None else []
    found += ["read by " + " or ".join(sorted(of.entry_mode))] if of.entry_mode is not None else []
    found += ["MCC " + " or ".join(sorted(of.mcc))] if of.mcc is not None else []
    found += ["in " + " or ".join(sorted(of.currency))] if of.currency is not None else []
    currency = min(of.currency) if of.currency else ""
    if of.amount_from:
        found.append(f"from {text(of.amount_from, currency)}")
    if of.amount_below is not None:
        found.append(f"below {text(of.amount_below, currency)}")
    return ("refunds" if of.kind == REFUND else "sales") + (f": {', '.join(found)}" if found else "")


def tariff(of: Tariff) -> list[str]:
    """A whole tariff, a sentence for each thing that it says."""
    return [*_rules(of), f"Refunds: {RETURNS[of.returns]}.", *(_periodic(each) for each in of.periodic),
            *([_tax(of.tax)] if of.tax.rate else []), f"Each line of a fee is rounded {ROUNDED[of.rounding]}."]


def costs(of: Costs) -> list[str]:
    returned = [f"Refunds, {name}: {RETURNS[each].replace('of a sale', 'of the original').replace('the sale', 'the original')}."
                for name, each in zip(("interchange", "scheme", "acquirer"), of.returns, strict=True)]
    return [*_rules(of), *returned, f"Each line of a cost is rounded {ROUNDED[of.rounding]}."]


def _rules(of: Tariff | Costs) -> Iterator[str]:
    names = ("interchange", "scheme", "acquirer") if isinstance(of, Costs) else ("",)
    for rule in of.matcher.ranked:
        currency = min(rule.match.currency) if rule.match.currency else ""
        told = [f"{name} {price(each, currency)}".strip() for name, each in zip(names, rule.prices, strict=True) if each is not FREE or not name]
        yield f"{rule.name} ({match(rule.match)}): {'; '.join(told) or 'nothing'}."


def _periodic(each: Periodic) -> str:
    return f"{each.name}: {text(each.amount, each.currency)} a month {PER[each.per]}."


def _tax(of: Tax) -> str:
    return f"{of.name}: {percent(of.rate)} {'contained in' if of.inclusive else 'on top of'} the fees of a statement."
