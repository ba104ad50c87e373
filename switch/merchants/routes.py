"""Routes as rules: written once, switched on and off by a person. What was written never changes; another rule takes its place."""

import os
import re
import time
from datetime import date
from typing import Any, TypedDict
from uuid import UUID

from switch.database import Connection
from switch.errors import Problem
from switch.ids import uuid7
from switch.merchants import ROUTED
from switch.merchants.rules import RULES, Rule, check, number, refuse, text
from switch.money import CURRENCIES

ENTRY_MODES = ("chip", "contactless", "magstripe", "manual", "fallback", "qr")
LISTED_MAX = 100
_MCC = re.compile("[0-9]{4}")


class Conditions(TypedDict, total=False):
    """Which sales a rule is for, and how it stands among rules of its rank. None is what was not given: whatever it is."""

    name: str | None
    bin_low: str | None
    bin_high: str | None
    amount_min: int | None  # minor units of the one currency
    amount_max: int | None
    currencies: list[str] | None
    mccs: list[str] | None
    entry_modes: list[str] | None
    weekdays: list[int] | None  # 1 is Monday
    time_from: str | None  # hh:mm where the merchant is
    time_until: str | None
    weight: int | None
    cost_basis_points: int | None
    cost_fixed: int | None
    healthy_percent: int | None
    stores: list[UUID] | None  # of the one merchant
    date_from: date | None  # where the merchant is, included
    date_until: date | None  # not included


def _several(fits: Any, rule: str) -> Rule:
    return (lambda value: isinstance(value, list) and 1 <= len(value) <= LISTED_MAX and len(set(value)) == len(value) and all(map(fits, value)),
            f"1 to {LISTED_MAX} of {rule}, each once")


_digits, _time = text("[0-9]{4,12}", "4 to 12 digits"), text("([01][0-9]|2[0-3]):[0-5][0-9]", "a time of day, hh:mm")
_date: Rule = (lambda value: type(value) is date, "a day, yyyy-mm-dd")
ROUTE_RULES: dict[str, Rule] = {
    "name": RULES["name"], "priority": RULES["priority"], "by": RULES["person"], "bin_low": _digits, "bin_high": _digits,
    "amount_min": number(0, 999_999_999_999), "amount_max": number(0, 999_999_999_999),
    "currencies": _several(lambda value: value in CURRENCIES, "ISO 4217 alpha codes with minor units"),
    "mccs": _several(lambda value: isinstance(value, str) and _MCC.fullmatch(value), "four digits (ISO 18245)"),
    "entry_modes": _several(lambda value: value in ENTRY_MODES, ", ".join(ENTRY_MODES)),
    "weekdays": _several(lambda value: type(value) is int and 1 <= value <= 7, "1 (Monday) to 7"),
    "time_from": _time, "time_until": _time,
    "weight": number(0, 10_000), "cost_basis_points": number(0, 10_000), "cost_fixed": number(0, 1_000_000), "healthy_percent": number(1, 100),
    "stores": _several(lambda value: isinstance(value, UUID), "stores of the merchant"),
    "date_from": _date, "date_until": _date,
    "state": (lambda value: value in ("draft", "active"), "one of: draft, active"),
}


def _contradictions(conditions: Conditions) -> list[tuple[str, str]]:
    """What is sound by itself and not together."""
    low, high = conditions.get("bin_low"), conditions.get("bin_high")
    least, most = conditions.get("amount_min"), conditions.get("amount_max")
    begin, end = conditions.get("time_from"), conditions.get("time_until")
    faults = []
    if (low is None) != (high is None) or (low is not None and high is not None and (len(low) != len(high) or low > high)):
        faults.append(("bin_high", "as many digits as bin_low, and not less than it"))
    if least is not None and most is not None and least > most:
        faults.append(("amount_max", "not less than amount_min"))
    in_money = any(amount is not None for amount in (least, most, conditions.get("cost_fixed")))
    if in_money and len(conditions.get("currencies") or ()) != 1:
        faults.append(("currencies", "exactly one, when an amount is given: amounts are its minor units"))
    if (begin is None) != (end is None) or (begin is not None and begin == end):
        faults.append(("time_until", "given with time_from, and another time"))
    first, last = conditions.get("date_from"), conditions.get("date_until")
    if first is not None and last is not None and first >= last:
        faults.append(("date_until", "later than date_from: the first day on which the rule does not hold any more"))
    return faults


KNOWN_BRAND = "SELECT EXISTS (SELECT FROM bin_range WHERE brand = $1)"
_PLACES = ("acquirer_id", "merchant_id", "brand", *Conditions.__annotations__)
_CASTS = {"currencies": "::text[]", "mccs": "::text[]", "entry_modes": "::text[]", "weekdays": "::smallint[]", "stores": "::uuid[]"}
STORES_OF = "SELECT count(*) FROM store WHERE merchant_id = $1 AND store_id = ANY($2::uuid[])"
SAME_IN_FORCE = f"""SELECT EXISTS (SELECT FROM route a JOIN route b ON {" AND ".join(
    f"a.{name} IS NOT DISTINCT FROM b.{name}" for name in _PLACES if name != "name")}
WHERE a.route_id = $1 AND b.route_id <> $1 AND a.state = 'active' AND b.state = 'active')"""
ROUTE = f"""INSERT INTO route (route_id, priority, state, created_by, activated_by, activated_at, {", ".join(_PLACES)})
VALUES ($1, $2, $3, $4, CASE WHEN $3 = 'active' THEN $4 END, CASE WHEN $3 = 'active' THEN now() END,
  {", ".join(f"${number}{_CASTS.get(name, '')}" for number, name in enumerate(_PLACES, 5))})"""


def check_route(priority: int, state: str, by: str, conditions: Conditions) -> None:
    """Raises Problem invalid with every field that breaks its rule."""
    given = {name: value for name, value in conditions.items() if value is not None}
    check(ROUTE_RULES, priority=priority, state=state, by=by, **given)
    refuse(_contradictions(conditions))


async def add_route(connection: Connection, acquirer_id: UUID, merchant_id: UUID | None, brand: str | None, priority: int, state: str, by: str,
                    conditions: Conditions) -> UUID:
    """In the caller's transaction, with the lock of numbering held. Raises Problem: invalid, already_exists."""
    if brand not in (None, "unknown", *ROUTED) and not await connection.fetchval(KNOWN_BRAND, brand):
        refuse([("brand", f"one of: {', '.join(sorted(ROUTED))}, unknown, or of an installed range")])
    stores = conditions.get("stores")
    if stores and (merchant_id is None or await connection.fetchval(STORES_OF, merchant_id, stores) != len(stores)):
        refuse([("stores", "stores of the merchant that the rule is for")])
    values: dict[str, Any] = {"acquirer_id": acquirer_id, "merchant_id": merchant_id, "brand": brand, **conditions}
    for several in _CASTS:  # two rules that say the same are the same, whatever the order
        values[several] = None if values.get(several) is None else sorted(values[several])
    ident = uuid7(time.time_ns() // 1_000_000, os.urandom(10))
    await connection.execute(ROUTE, ident, priority, state, by, *(values.get(name) for name in _PLACES))
    await _only_one(connection, ident)
    return ident


async def _only_one(connection: Connection, route_id: UUID) -> None:
    """Two rules in force that say the same, whatever their priority and name: one of them would be forgotten."""
    if await connection.fetchval(SAME_IN_FORCE, route_id):
        raise Problem("already_exists", "A rule in force says the same; name it in `retires`, or retire it first.")


ACTIVATE = "UPDATE route SET state = 'active', activated_by = $2, activated_at = now() WHERE route_id = $1 AND state = 'draft' RETURNING true"
RETIRE = "UPDATE route SET state = 'retired', retired_by = $2, retired_at = now() WHERE route_id = $1 AND state <> 'retired' RETURNING true"


async def activate_route(connection: Connection, route_id: UUID, by: str, retires: list[UUID]) -> None:
    """Switches a draft on, and others off in the same commit. Raises Problem: conflict (it is no draft, or one of them is retired already),
    already_exists."""
    check(ROUTE_RULES, by=by)
    if not await connection.fetchval(ACTIVATE, route_id, by):
        raise Problem("conflict", "Only a draft can be switched on; add the rule anew.")
    for other in sorted(set(retires)):
        if other == route_id or not await connection.fetchval(RETIRE, other, by):
            raise Problem("conflict", "One of the rules to be retired is retired already, is not there, or is the rule itself; nothing was changed.")
    await _only_one(connection, route_id)


async def retire_route(connection: Connection, route_id: UUID, by: str) -> None:
    """Switches it off for good. Again changes nothing."""
    check(ROUTE_RULES, by=by)
    await connection.fetchval(RETIRE, route_id, by)
