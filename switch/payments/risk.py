"""Judging a sale: rules, limits and lists against what counters say. Pure: a sale and counts in, hits out; the strongest action decides.

A list entry goes first: what is blocked is refused, what is allowed is asked nothing but its merchant's limits. A rule counts the sales that it
is for, this one included, and is broken by more than its `count_max` or `amount_max`. Refused sales are not counted: they are in no books.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from switch.money import decimal, text
from switch.payments.judging import Counts, Plan
from switch.payments.velocity import Counter, Counters, Different, Sale, Seen, Spec
from switch.watchlist import Limit, RiskEntry, RiskRule

ACTIONS = ("flag", "hold", "decline", "block")  # the last is the strongest
REFUSES = frozenset({"decline", "block"})
PLANS_MAX = 10_000


class Hit(NamedTuple):
    """Why a sale is looked at, held or refused, in words and figures."""

    source: str  # rule limit list
    source_id: UUID
    kind: str
    action: str
    blocks: str | None
    why: str
    figures: Mapping[str, Any]


class Judged(NamedTuple):
    """A sale with what it hit. `counters`: those that count it. `ask`: its merchant's limit, when only the books can say whether it is kept."""

    sale: Sale
    hits: tuple[Hit, ...]
    counters: tuple[Counter | Different, ...]
    ask: Limit | None = None

    @property
    def refused(self) -> bool:
        return any(hit.action in REFUSES for hit in self.hits)


Why = tuple[str, dict[str, Any]] | None


def _lasting(seconds: int) -> str:
    for unit, long in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds % long == 0 and seconds >= long:
            return f"{seconds // long} {unit if seconds > long else unit[:-1]}"
    return f"{seconds} seconds"


def _velocity(rule: RiskRule, counts: Counts, sale: Sale) -> Why:
    seen = _sums(counts[0], sale)
    within = f"of one {rule.subject} within {_lasting(rule.window_s or 0)}, more than"
    if rule.count_max is not None:
        return (f"{seen.sales} sales {within} {rule.count_max}", {"count": seen.sales, "count_max": rule.count_max, "window_s": rule.window_s})
    return (f"{text(seen.amount, sale.currency)} {within} {text(rule.amount_max or 0, sale.currency)}",
            {"amount": seen.amount, "amount_max": rule.amount_max, "currency": sale.currency, "window_s": rule.window_s})


def _split(rule: RiskRule, counts: Counts, sale: Sale) -> Why:
    low, seen = counts[0].spec.low, _sums(counts[0], sale)
    return (f"{seen.sales} sales of one card at one terminal within {_lasting(rule.window_s or 0)}, each from {decimal(low or 0, sale.currency)} to "
            f"{text(rule.amount_max or 0, sale.currency)}, more than {rule.count_max}; {text(seen.amount, sale.currency)} together",
            {"count": seen.sales, "count_max": rule.count_max, "low": low, "high": rule.amount_max, "amount": seen.amount, "currency": sale.currency,
             "window_s": rule.window_s})


def _sums(counter: Counter | Different, sale: Sale) -> Seen:
    """With the sale, which is counted already."""
    assert isinstance(counter, Counter)
    return counter.seen(sale)


def _amount(rule: RiskRule, counts: Counts, sale: Sale) -> Why:
    return (f"{text(sale.amount, sale.currency)} in one sale, more than {text(rule.amount_max or 0, sale.currency)}",
            {"amount": sale.amount, "amount_max": rule.amount_max, "currency": sale.currency})


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def _night(rule: RiskRule, counts: Counts, sale: Sale) -> Why:
    least = rule.amount_min
    begin, end = _clock(rule.minute_from or 0), _clock(rule.minute_until or 0)
    return (f"a sale at {_clock(sale.minute)} where the merchant is, between {begin} and {end}"
            + ("" if least is None else f", of {text(sale.amount, sale.currency)}, not less than {text(least, sale.currency)}"),
            {"time": _clock(sale.minute), "time_from": begin, "time_until": end, "amount": sale.amount, "currency": sale.currency})


def _refund_ratio(rule: RiskRule, counts: Counts, sale: Sale) -> Why:
    (amount_forth, (count, amount_back)) = _sums(counts[0], sale).amount, _sums(counts[1], sale)
    if count <= (rule.count_max or 0) or amount_back * 10_000 <= (rule.basis_points or 0) * amount_forth:
        return None
    return (f"{count} refunds of {text(amount_back, sale.currency)} against sales of {text(amount_forth, sale.currency)} of one "
            f"{rule.subject} within {_lasting(rule.window_s or 0)}, more than {_percent(rule.basis_points or 0)}",
            {"refunds": count, "refunded": amount_back, "sold": amount_forth, "basis_points": rule.basis_points, "currency": sale.currency,
             "window_s": rule.window_s})


def _percent(basis_points: int) -> str:
    return f"{basis_points // 100}.{basis_points % 100:02d} %"


def _different(rule: RiskRule, counts: Counts, sale: Sale) -> int | None:
    counter = counts[0]
    assert isinstance(counter, Different)
    seen = counter.seen(sale)
    count = len(seen) + (sale[counter.of] not in seen and counter.small(sale))
    return count if count > (rule.count_max or 0) else None


def _card_testing(rule: RiskRule, counts: Counts, sale: Sale) -> Why:
    found = _different(rule, counts, sale)
    if found is None:
        return None
    small = "" if rule.amount_max is None else f" or of at most {text(rule.amount_max, rule.currency or sale.currency)}"
    return (f"{found} different cards at one {rule.subject} within {_lasting(rule.window_s or 0)} with sales declined{small}, "
            f"more than {rule.count_max}",
            {"cards": found, "count_max": rule.count_max, "small": rule.amount_max, "window_s": rule.window_s})


def _card_spread(rule: RiskRule, counts: Counts, sale: Sale) -> Why:
    found = _different(rule, counts, sale)
    if found is None:
        return None
    return (f"one card at {found} different terminals within {_lasting(rule.window_s or 0)}, more than {rule.count_max}",
            {"terminals": found, "count_max": rule.count_max, "window_s": rule.window_s})


def _relocated(rule: RiskRule, counts: Counts, sale: Sale) -> Why:
    away = sale.away
    assert away is not None
    since, told = (datetime.fromtimestamp(at_ms // 1000, UTC).isoformat().replace("+00:00", "Z") for at_ms in away[1:])
    return (f"the terminal is at least {away.metres / 1000:.1f} km from its store, more than {rule.distance_km}, since {since}; "
            f"it last said so at {told}",
            {"away_m": away.metres, "distance_km": rule.distance_km, "since": since, "told_at": told, "window_s": rule.window_s})


def specs(rule: RiskRule) -> tuple[Spec, ...]:
    """What is counted for a rule: of the sales that it is for."""
    if rule.window_s is None:
        return ()
    scope = (rule.merchant_id, rule.mccs, rule.brands, rule.entry_modes)
    window, subject = rule.window_s * 1000, rule.subject or ""
    match rule.kind:
        case "velocity":
            return (Spec(subject, window, scope, rule.currency),)
        case "split":
            high = rule.amount_max or 0
            return (Spec("split", window, scope, rule.currency, high - high * (rule.basis_points or 0) // 10_000, high),)
        case "refund_ratio":
            return Spec(subject, window, scope, rule.currency), Spec(subject, window, scope, rule.currency, refunds=True)
        case "card_testing":
            return (Spec(subject, window, scope, rule.currency, high=rule.amount_max, different="card", declined=True),)
        case "card_spread":
            return (Spec("card", window, scope, different="terminal"),)
    return ()


# Why a sale breaks a rule of a kind, asked when the plan says that it may (judging.py); None: it does not after all.
WORDS: Mapping[str, Callable[[RiskRule, Counts, Sale], Why]] = MappingProxyType({
    "velocity": _velocity, "amount": _amount, "night": _night, "split": _split, "refund_ratio": _refund_ratio, "card_testing": _card_testing,
    "card_spread": _card_spread, "relocated": _relocated,
})


class Book:
    """All rules in force, made ready: one plan per kind of sale, when it is first asked for."""

    def __init__(self, rules: Iterable[RiskRule], entries: Mapping[tuple[str, str], RiskEntry], before: Counters | None = None,
                 now_ms: int = 0) -> None:
        """`before`: counters of the rules before; those that are still asked for go on."""
        self.rules = sorted((rule for rule in rules if rule.state == "active"), key=lambda rule: rule.rule_id)
        self.entries = entries
        # What rules name: sales that differ in nothing of it share a plan.
        self.own = {rule.merchant_id for rule in self.rules}
        self.mccs, self.brands, self.entry_modes = (
            frozenset(value for rule in self.rules for value in getattr(rule, name) or ()) for name in ("mccs", "brands", "entry_modes"))
        self.currencies = frozenset(rule.currency for rule in self.rules)
        self.counters = Counters([spec for rule in self.rules for spec in specs(rule)], before=before, now_ms=now_ms)
        self.plans: dict[tuple[UUID | None, str, str, str, str, bool], Plan] = {}

    def plan(self, sale: Sale) -> Plan:
        key = (sale.merchant_id if sale.merchant_id in self.own else None, sale.mcc if sale.mcc in self.mccs else "",
               sale.brand if sale.brand in self.brands else "", sale.entry_mode if sale.entry_mode in self.entry_modes else "",
               sale.currency if sale.currency in self.currencies else "", sale.type == "refund")
        found = self.plans.get(key)
        if found is None:
            if len(self.plans) >= PLANS_MAX:
                self.plans.clear()
            found = self.plans[key] = self._plan(sale)
        return found

    def _plan(self, sale: Sale) -> Plan:
        asked = [(rule, tuple(self.counters.of[spec] for spec in specs(rule) if spec in self.counters.of)) for rule in self.rules
                 if in_scope(rule, sale)]
        return Plan([(rule, counts) for rule, counts in asked if len(counts) == len(specs(rule))], sale)

    def listed(self, sale: Sale) -> RiskEntry | None:
        """The entry that decides about a sale: a block goes before any allowance."""
        entries = self.entries
        named = [found for key in (("card", sale.card.hex()), ("terminal", str(sale.terminal_id)), ("merchant", str(sale.merchant_id)))
                 if (found := entries.get(key)) is not None]
        return next((entry for entry in named if entry.verdict == "block"), named[0] if named else None)

    def judge(self, sale: Sale) -> Judged:
        """What rules and lists say; limits are judged by whom has their totals. A sale that is not refused is counted."""
        entry = self.listed(sale) if self.entries else None
        if entry is not None and entry.verdict == "block":
            return Judged(sale, (blocked(entry),), ())
        plan = self.plan(sale)
        if entry is not None:
            for counter in plan.counters:
                counter.add(sale, sale.at_ms)
            return Judged(sale, (), plan.counters)
        broken = plan.judge(sale)
        if not broken:
            return Judged(sale, (), plan.counters)
        return self._hit(plan, sale, broken)

    def _hit(self, plan: Plan, sale: Sale, broken: tuple[int, ...]) -> Judged:
        """`broken`: the rules that may be, by their places in the plan."""
        asked = [plan.asked[at] for at in broken]
        hits = tuple(hit_of(rule, why) for rule, counts in asked if (why := WORDS[rule.kind](rule, counts, sale)) is not None)
        judged = Judged(sale, hits, plan.counters)
        if judged.refused:
            for counter in plan.sums:
                counter.take_back(sale)
        else:
            for different in plan.sets:
                different.add(sale, sale.at_ms)
        return judged


def hit_of(rule: RiskRule, why: tuple[str, dict[str, Any]]) -> Hit:
    return Hit("rule", rule.rule_id, rule.kind, rule.action, rule.blocks, *why)


def in_scope(rule: RiskRule, sale: Sale) -> bool:
    return (rule.merchant_id in (None, sale.merchant_id) and (rule.mccs is None or sale.mcc in rule.mccs)
            and (rule.brands is None or sale.brand in rule.brands) and (rule.entry_modes is None or sale.entry_mode in rule.entry_modes))


def blocked(entry: RiskEntry) -> Hit:
    return Hit("list", entry.entry_id, f"listed_{entry.subject}", "decline", None, f"the {entry.subject} is blocked: {entry.reason}"[:500], {})


def strongest(hits: Iterable[Hit]) -> str | None:
    return max((hit.action for hit in hits), key=ACTIONS.index, default=None)


def over_limit(limit: Limit, amount: int, day: int, month: int) -> Hit | None:
    """The part of a limit that a sale would break. `day`, `month`: what was sold in its day and month before."""
    for span, most, total in (("sale", limit.per_sale, amount), ("day", limit.per_day, day + amount), ("month", limit.per_month, month + amount)):
        if most is not None and total > most:
            return Hit("limit", limit.limit_id, f"limit_per_{span}", "decline", None,
                       f"{text(total, limit.currency)} in one {span} of the merchant, more than its limit of {text(most, limit.currency)}",
                       {"amount": total, "amount_max": most, "currency": limit.currency, "per": span})
    return None
