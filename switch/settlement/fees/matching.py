"""Rules of tariffs and costs, and which of them prices a transaction. Pure.

Amounts are minor units; a rate is in millionths, so that 100 of them are one basis point.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

SALE, REFUND = "sale", "refund"
WEIGHT = ("currency", "mcc", "brand", "card_type", "method", "entry_mode")  # the weightiest first; the amount comes last
KNOWN_MAX = 50_000  # combinations of facts whose rules a matcher remembers
NO_LIMIT = 1 << 62


class Tier(NamedTuple):
    """`rate` for the part of the month's volume below `up_to`, None for all above the tier before."""

    up_to: int | None
    rate: int


@dataclass(frozen=True, slots=True)
class Price:
    """Rate on the amount (or by tiers) plus fixed plus what is passed on; then not below the minimum, not above the cap."""

    rate: int = 0
    fixed: int = 0
    minimum: int | None = None
    cap: int | None = None
    tiers: tuple[Tier, ...] = ()
    interchange_plus: str = ""  # "interchange", "interchange_and_scheme": what is passed on as it is


FREE = Price()


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule is for; None is anything. The band holds amounts from `amount_from` on, below `amount_below`."""

    kind: str = SALE
    currency: frozenset[str] | None = None
    brand: frozenset[str] | None = None
    card_type: frozenset[str] | None = None
    method: frozenset[str] | None = None
    entry_mode: frozenset[str] | None = None
    mcc: frozenset[str] | None = None
    amount_from: int = 0
    amount_below: int | None = None

    @property
    def banded(self) -> bool:
        return self.amount_from > 0 or self.amount_below is not None

    @property
    def named(self) -> tuple[bool, ...]:
        """Which facts it names, the weightiest first."""
        return (*(getattr(self, name) is not None for name in WEIGHT), self.banded)

    @property
    def rank(self) -> tuple[int, tuple[bool, ...]]:
        """Of the rules that fit, the highest wins: the one that names most facts, then the one that names the weightier fact."""
        return sum(self.named), self.named

    def fits(self, facts: tuple[str, ...]) -> bool:
        """`facts` as in Sale; the band is looked at later."""
        return facts[0] == self.kind and all(wanted is None or fact in wanted for wanted, fact in zip(
            (self.currency, self.brand, self.card_type, self.method, self.entry_mode, self.mcc), facts[1:], strict=True))


@dataclass(frozen=True, slots=True)
class Rule:
    """Of a tariff: one price. Of costs: interchange, scheme and acquirer, in this order."""

    name: str
    match: Match
    prices: tuple[Price, ...]


class Entry(NamedTuple):
    low: int
    below: int
    rule: Rule
    label: str


class Matcher:
    """Which rule prices a sale; what was found is remembered by the facts alone."""

    __slots__ = ("known", "name", "ranked")

    def __init__(self, name: str, rules: Iterable[Rule]) -> None:
        self.name, self.known = name, dict[tuple[str, ...], tuple[Entry, ...]]()
        self.ranked = sorted(rules, key=lambda rule: rule.match.rank, reverse=True)

    def entries(self, facts: tuple[str, ...]) -> tuple[Entry, ...]:
        """The rules that fit, the winner first; of those with a band the first whose band holds the amount wins."""
        if len(self.known) >= KNOWN_MAX:
            self.known.clear()
        found = []
        for rule in self.ranked:
            if rule.match.fits(facts):
                below = rule.match.amount_below
                found.append(Entry(rule.match.amount_from, NO_LIMIT if below is None else below, rule, f"{self.name}: {rule.name}"))
                if not rule.match.banded:
                    break
        self.known[facts] = entries = tuple(found)
        return entries
