"""What sales are judged by, as records: risk rules, merchants' limits, and lists. The directory reads and keeps them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from uuid import UUID


class RiskRule(NamedTuple):
    """Which sales people want to look at, hold or refuse. None: whatever it is. payments/risk.py reads it."""

    rule_id: UUID
    name: str
    kind: str
    action: str  # flag hold decline block
    blocks: str | None = None  # card, terminal
    merchant_id: UUID | None = None
    mccs: frozenset[str] | None = None
    brands: frozenset[str] | None = None
    entry_modes: frozenset[str] | None = None
    currency: str | None = None
    subject: str | None = None
    window_s: int | None = None
    count_max: int | None = None
    amount_min: int | None = None
    amount_max: int | None = None
    basis_points: int | None = None
    minute_from: int | None = None
    minute_until: int | None = None
    distance_km: int | None = None
    state: str = "active"  # draft active retired


class Limit(NamedTuple):
    """What a merchant may sell in one currency, per sale, day and month of its own zone. Minor units; None: any."""

    limit_id: UUID
    merchant_id: UUID
    currency: str
    per_sale: int | None
    per_day: int | None
    per_month: int | None
    state: str = "active"


class RiskEntry(NamedTuple):
    """A card, terminal or merchant that is refused, or asked nothing but its limits."""

    entry_id: UUID
    subject: str
    value: str
    verdict: str  # allow block
    reason: str
    ended: bool = False

RISK_RULES = """SELECT rule_id, name, kind, action, blocks, merchant_id, mccs, brands, entry_modes, currency, subject, window_s, count_max,
amount_min, amount_max, basis_points, time_from, time_until, distance_km, state FROM directory_risk_rule
WHERE $1::text[] IS NULL OR rule_id = ANY($1::text[]::uuid[])"""
LIMITS = """SELECT limit_id, merchant_id, currency, per_sale, per_day, per_month, state FROM directory_merchant_limit
WHERE $1::text[] IS NULL AND state = 'active' OR limit_id = ANY($1::text[]::uuid[])"""
RISK_ENTRIES = """SELECT entry_id, subject, value, verdict, reason, ended_at IS NOT NULL AS ended FROM directory_risk_entry
WHERE $1::text[] IS NULL AND ended_at IS NULL OR entry_id = ANY($1::text[]::uuid[])"""


def conditions(row: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as sets, times as minutes of the day."""
    values = {name: frozenset(value) if isinstance(value, list) else value for name, value in row.items()}
    for end in ("from", "until"):
        text: Any = values.pop(f"time_{end}")
        values[f"minute_{end}"] = None if text is None else int(text[:2]) * 60 + int(text[3:])
    return values


def rule(row: Any) -> RiskRule:
    return RiskRule(**conditions(dict(row)))


class Watchlist:
    """What is in force, found by what a sale has. `changed`: how often a rule did."""

    def __init__(self) -> None:
        self.rules: dict[UUID, RiskRule] = {}
        self.limits: dict[UUID, dict[str, Limit]] = {}  # by merchant and currency
        self.entries: dict[tuple[str, str], RiskEntry] = {}  # by subject and value
        self.changed = 0

    def take(self, record: RiskRule | Limit | RiskEntry) -> None:
        """A record as it is now."""
        if isinstance(record, RiskRule):
            self.changed += 1
            if record.state == "active":
                self.rules[record.rule_id] = record
            else:
                self.rules.pop(record.rule_id, None)
        elif isinstance(record, Limit):
            self._limit(record)
        elif not record.ended:
            self.entries[record.subject, record.value] = record
        elif (found := self.entries.get((record.subject, record.value))) is not None and found.entry_id == record.entry_id:
            del self.entries[record.subject, record.value]

    def _limit(self, limit: Limit) -> None:
        own = self.limits.get(limit.merchant_id, {})
        if limit.state == "active":
            self.limits[limit.merchant_id] = {**own, limit.currency: limit}
        elif (found := own.get(limit.currency)) is not None and found.limit_id == limit.limit_id:  # else another one took its place
            left = {currency: each for currency, each in own.items() if currency != limit.currency}
            if left:
                self.limits[limit.merchant_id] = left
            else:
                del self.limits[limit.merchant_id]

    def in_force(self) -> bool:
        """Whether there is anything to judge by."""
        return bool(self.rules or self.limits or self.entries)


KINDS: Mapping[str, tuple[str, Callable[[Any], Any], str]] = {
    "risk_rule": (RISK_RULES, rule, "risk_rules"),
    "merchant_limit": (LIMITS, lambda row: Limit(*row.values()), "limits"),
    "risk_entry": (RISK_ENTRIES, lambda row: RiskEntry(*row.values()), "risk_entries"),
}
