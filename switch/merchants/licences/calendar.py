"""What is due about a licence on a day. Pure; the table is the rule."""

from collections.abc import Collection, Mapping
from datetime import date
from types import MappingProxyType
from typing import Any

from switch.merchants.applications.scoring import LIGHT, Limits

# step -> from how many days after its last day on (negative: before). A licence is good on its last day.
STEPS: Mapping[str, int] = MappingProxyType({"remind_30": -30, "remind_7": -7, "remind_1": -1, "limit": 1, "suspend": 15})
LIFTED = "lift"
REMINDERS = frozenset({"remind_30", "remind_7", "remind_1"})
NOTICES: Mapping[str, str] = MappingProxyType({**{step: "licence.expiring" for step in REMINDERS}, "limit": "licence.limited",
                                               "suspend": "licence.suspended", LIFTED: "licence.lifted"})
EARLIEST = -min(STEPS.values())  # days before its end at which a licence is looked at


def due(expires_on: date, today: date, done: Collection[str]) -> str | None:
    """The step that is due, if it is not done. A limit comes before a suspension, however late somebody looks; of reminders the last one alone."""
    over = (today - expires_on).days
    reached = [step for step, day in STEPS.items() if over >= day]
    for step in ("limit", "suspend"):
        if step in reached and step not in done:
            return step
    if over >= STEPS["limit"] or not reached:
        return None
    return reached[-1] if reached[-1] not in done else None


def limits_of(currency: str, now: Any) -> Limits:
    """What a merchant may sell while its licence is over: what individuals may whom nobody has looked at, never more than it could before.

    `now`: the limit in force, by the names of Limits, or None.
    """
    found = LIGHT.get(currency, LIGHT["CNY"])
    if now is None:
        return found
    return Limits(*(low if (old := now[name]) is None else min(low, old) for name, low in zip(Limits._fields, found, strict=True)))
