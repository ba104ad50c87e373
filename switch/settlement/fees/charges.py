"""What a transaction costs: tariffs and costs as values, and one calculation behind every estimate and every settlement. Pure.

Rule 1: integers only. Amounts are minor units; a rate is in millionths, so that 100 of them are one basis point.
Rule 2: each line of a fee is rounded by itself, as the tariff names it, so that every line can be checked with a pocket calculator.
Rule 3: sales of a month are priced in the order of capture time and id; tiers are marginal over the volume of the sales before.

A fee is positive when the merchant pays it, a cost when we do. Gross is signed from the merchant's point of view: a refund is negative.
"""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

from switch.settlement.fees.matching import FREE, REFUND, Entry, Matcher, Price, Rule, Tier

WHOLE = 1_000_000  # millionths

Rounding = Callable[[int, int], int]


def half_even(numerator: int, denominator: int) -> int:
    """The quotient as a whole number; a half goes to the even neighbour. The denominator is positive."""
    whole, rest = divmod(numerator, denominator)
    rest *= 2
    return whole + 1 if rest > denominator or (rest == denominator and whole & 1) else whole


def half_up(numerator: int, denominator: int) -> int:
    """A half goes away from zero."""
    whole = (2 * abs(numerator) + denominator) // (2 * denominator)
    return whole if numerator >= 0 else -whole


def up(numerator: int, denominator: int) -> int:
    """Away from zero."""
    whole = -(-abs(numerator) // denominator)
    return whole if numerator >= 0 else -whole


def down(numerator: int, denominator: int) -> int:
    """Towards zero."""
    whole = abs(numerator) // denominator
    return whole if numerator >= 0 else -whole


ROUNDINGS: Mapping[str, Rounding] = {"half_even": half_even, "half_up": half_up, "up": up, "down": down}


@dataclass(frozen=True, slots=True)
class Periodic:
    """Charged once a month: `amount` for each terminal, each store, or once for the merchant."""

    name: str
    per: str  # terminal store merchant
    currency: str
    amount: int


@dataclass(frozen=True, slots=True)
class Tax:
    """On the fees of a statement: on top of them, or contained in them."""

    name: str
    rate: int
    inclusive: bool


NO_TAX = Tax("none", 0, False)


@dataclass(frozen=True, slots=True)
class Tariff:
    """What a merchant pays from a date on. `returns`: of a sale's fee at its refund: none, proportional, all."""

    name: str
    currency: str  # of what it says in money, unless a rule names another; "*": every currency, with rates alone
    rules: tuple[Rule, ...]
    effective_from: date = date.min
    tariff_id: UUID | None = None
    returns: str = "none"
    periodic: tuple[Periodic, ...] = ()
    tax: Tax = NO_TAX
    rounding: str = "half_even"
    matcher: Matcher = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "matcher", Matcher(self.name, self.rules))


@dataclass(frozen=True, slots=True)
class Costs:
    """What an acquirer and the schemes take from a date on. `returns`: of interchange, scheme and acquirer fees at a refund."""

    name: str
    currency: str
    rules: tuple[Rule, ...]
    effective_from: date = date.min
    returns: tuple[str, str, str] = ("none", "none", "none")
    rounding: str = "half_even"
    matcher: Matcher = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "matcher", Matcher(self.name, self.rules))


class Original(NamedTuple):
    """The sale behind a refund as it was priced, and how much of it was refunded before."""

    amount: int
    fee: int
    interchange: int = 0
    scheme_fee: int = 0
    acquirer_fee: int = 0
    refunded: int = 0


class Sale(NamedTuple):
    """The facts of a transaction. `amount` is positive for a refund too. `original`: what the books know of the sale that a refund gives back."""

    transaction_id: UUID
    captured_at: datetime
    amount: int
    kind: str  # sale refund; from here to the MCC they are the facts that rules look at
    currency: str
    brand: str
    card_type: str
    method: str  # card qr
    entry_mode: str
    mcc: str
    authorised_on: date  # the business date whose tariff holds
    acquirer_id: UUID | None = None
    original_id: UUID | None = None
    original: Original | None = None
    settled_on: date | None = None  # the business date whose settlement has it; None: as it was captured


class Line(NamedTuple):
    """A line of a fee: rate, fixed, interchange, scheme, minimum, cap, returned. `base` and `rate` tell how it came about."""

    kind: str
    base: int
    rate: int
    amount: int


class Priced(NamedTuple):
    """`rule` and `cost_rule`: which priced it, as "tariff: rule"; empty when none was in force or fits, and then it costs nothing."""

    transaction_id: UUID
    currency: str
    gross: int
    fee: int
    interchange: int
    scheme_fee: int
    acquirer_fee: int
    margin: int
    rule: str
    cost_rule: str
    tariff_id: UUID | None
    lines: tuple[Line, ...]


def _charged(price: Price, amount: int, volume: int, rounded: Rounding, passed_on: tuple[int, int]) -> tuple[int, list[Line]]:
    """What `price` takes of an amount that comes on top of `volume`, with its lines. `passed_on`: interchange and scheme fee."""
    lines = []
    if price.tiers:
        fee = 0
        for base, rate in _parts(price.tiers, amount, volume):
            part = rounded(base * rate, WHOLE)
            fee += part
            lines.append(Line("rate", base, rate, part))
    elif price.rate:
        fee = rounded(amount * price.rate, WHOLE)
        lines.append(Line("rate", amount, price.rate, fee))
    else:
        fee = 0
    if price.fixed:
        fee += price.fixed
        lines.append(Line("fixed", 0, 0, price.fixed))
    if price.interchange_plus:
        fee += passed_on[0]
        lines.append(Line("interchange", 0, 0, passed_on[0]))
        if price.interchange_plus == "interchange_and_scheme":
            fee += passed_on[1]
            lines.append(Line("scheme", 0, 0, passed_on[1]))
    if price.minimum is not None and fee < price.minimum:
        lines.append(Line("minimum", price.minimum, 0, price.minimum - fee))
        fee = price.minimum
    elif price.cap is not None and fee > price.cap:
        lines.append(Line("cap", price.cap, 0, price.cap - fee))
        fee = price.cap
    return fee, lines


def _parts(tiers: tuple[Tier, ...], amount: int, volume: int) -> Iterable[tuple[int, int]]:
    """The amount cut at the borders of the tiers that it crosses, with the rate of each part."""
    for up_to, rate in tiers:
        if up_to is None or up_to > volume:
            part = amount if up_to is None else min(amount, up_to - volume)
            yield part, rate
            amount, volume = amount - part, volume + part
            if not amount:
                return


def _returned(policy: str, taken: int, sale: Original, amount: int, rounded: Rounding) -> int:
    """What is given back of `taken` at the refund of `amount`. Partial refunds give back in sum what one refund of their sum would."""
    if policy == "all":
        return 0 if sale.refunded else taken
    if policy == "none" or not taken:
        return 0
    before, after = min(sale.refunded, sale.amount), min(sale.refunded + amount, sale.amount)
    return rounded(taken * after, sale.amount) - rounded(taken * before, sale.amount)


def _found(matcher: Matcher, sale: Sale) -> Entry | None:
    facts = sale[3:10]
    entries = matcher.known.get(facts)
    if entries is None:
        entries = matcher.entries(facts)
    amount = sale.amount
    for entry in entries:
        if entry.low <= amount < entry.below:
            return entry
    return None


def _cost(costs: Costs | None, sale: Sale, volume: int) -> tuple[int, int, int, str]:
    """Interchange, scheme fee, acquirer fee, and the rule that says so."""
    if costs is None:
        return 0, 0, 0, ""
    entry, rounded, amount = _found(costs.matcher, sale), ROUNDINGS[costs.rounding], sale.amount
    taken, label = [0, 0, 0], ""
    if entry is not None:
        taken = [0 if price is FREE else _charged(price, amount, volume, rounded, (0, 0))[0] for price in entry.rule.prices]
        label = entry.label
    if sale.kind == REFUND and sale.original is not None:
        given = sale.original[2:5]
        taken = [own - _returned(policy, each, sale.original, amount, rounded) for own, policy, each in zip(taken, costs.returns, given, strict=True)]
    return taken[0], taken[1], taken[2], label


def price(tariff: Tariff | None, costs: Costs | None, sale: Sale, volume_to_date: int = 0) -> Priced:
    """One transaction. `volume_to_date`: of this month's sales before it, in its currency."""
    interchange, scheme_fee, acquirer_fee, cost_rule = _cost(costs, sale, volume_to_date)
    fee, lines, label, amount, refund = 0, list[Line](), "", sale.amount, sale.kind == REFUND
    if tariff is not None:
        entry, rounded = _found(tariff.matcher, sale), ROUNDINGS[tariff.rounding]
        if entry is not None:
            label = entry.label
            fee, lines = _charged(entry.rule.prices[0], amount, volume_to_date, rounded, (interchange, scheme_fee))
        if refund:
            label = label or f"{tariff.name}: refunds are free"
            if sale.original is not None and (back := _returned(tariff.returns, sale.original.fee, sale.original, amount, rounded)):
                fee -= back
                lines.append(Line("returned", sale.original.fee, 0, -back))
    return Priced(sale.transaction_id, sale.currency, -amount if refund else amount, fee, interchange, scheme_fee, acquirer_fee,
                  fee - interchange - scheme_fee - acquirer_fee, label, cost_rule, tariff.tariff_id if tariff is not None and label else None,
                  tuple(lines))


T = TypeVar("T", Tariff, Costs)


class Schedule(Generic[T]):
    """Tariffs, or costs, by their dates. Of the same date the later in `all` holds."""

    def __init__(self, all_of_them: Iterable[T] = ()) -> None:
        self.latest_first: list[T] = sorted(all_of_them, key=lambda each: each.effective_from)[::-1]
        self.known: dict[date, T | None] = {}

    def on(self, day: date) -> T | None:
        """What is in force on a business date; None before the first."""
        if day not in self.known:
            self.known[day] = next((each for each in self.latest_first if each.effective_from <= day), None)
        return self.known[day]


class Meter:
    """Prices a merchant's transactions one after the other, in the order of capture time and id, and counts the month's volume by currency.

    `keep`: the sales whose refunds may come through this meter; None keeps all.
    """

    def __init__(self, tariffs: Iterable[Tariff], costs: Mapping[UUID | None, Iterable[Costs]], month_to_date: Mapping[str, int],
                 keep: Container[UUID] | None = None) -> None:
        self.tariffs, self.volume, self.keep = Schedule(tariffs), dict(month_to_date), keep
        self.costs = {acquirer_id: Schedule(each) for acquirer_id, each in costs.items()}
        self.sold: dict[UUID, Original] = {}

    def price(self, sale: Sale) -> Priced:
        of_acquirer = self.costs.get(sale.acquirer_id)
        tariff, costs = self.tariffs.on(sale.authorised_on), None if of_acquirer is None else of_acquirer.on(sale.authorised_on)
        volume = self.volume.get(sale.currency, 0)
        if sale.kind == REFUND:
            return self._refund(tariff, costs, sale, volume)
        priced = price(tariff, costs, sale, volume)
        self.volume[sale.currency] = volume + sale.amount
        if self.keep is None or sale.transaction_id in self.keep:
            self.sold[sale.transaction_id] = Original(sale.amount, *priced[3:7])
        return priced

    def _refund(self, tariff: Tariff | None, costs: Costs | None, refund: Sale, volume: int) -> Priced:
        if refund.original_id is None:
            return price(tariff, costs, refund, volume)
        known = self.sold.get(refund.original_id, refund.original)
        if known is not None:
            self.sold[refund.original_id] = known._replace(refunded=known.refunded + refund.amount)
        return price(tariff, costs, refund._replace(original=known), volume)


def in_order(sales: Iterable[Sale]) -> list[Sale]:
    """As settlements count them: by business date, then capture time, then id."""
    return sorted(sales, key=lambda sale: (sale.settled_on or sale.captured_at.date(), sale.captured_at, sale.transaction_id))


def periodic_fees(tariff: Tariff | None, counts: Mapping[str, int]) -> list[tuple[Periodic, int, int]]:
    """Each with how many and how much. `counts`: terminals and stores of the merchant, as {"terminal": 3, "store": 1}."""
    found = []
    for each in tariff.periodic if tariff is not None else ():
        count = 1 if each.per == "merchant" else counts.get(each.per, 0)
        if count:
            found.append((each, count, count * each.amount))
    return found


def taxed(tax: Tax, fees: int, rounding: str) -> int:
    """The tax on the fees of one statement, or in them."""
    return ROUNDINGS[rounding](fees * tax.rate, WHOLE + tax.rate if tax.inclusive else WHOLE)

