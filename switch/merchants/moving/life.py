"""The life of a change of acquirer. Pure: all that changes its state is in LIFE; the database holds the same steps (migrations r0029, STEPS)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from switch.life import Life

PLANNED, REGISTERING, MOVING, MOVED = "planned", "registering", "moving", "moved"
DONE, ROLLED_BACK, CANCELLED = "done", "rolled_back", "cancelled"

# (state, event) -> state. `share`: so much goes to the new one; `finish`: the old one is left, once nothing of it is open.
LIFE = Life("A change", "move_step", {
    (PLANNED, "register"): REGISTERING,
    (REGISTERING, "share"): MOVING, (MOVING, "share"): MOVING,
    (MOVING, "complete"): MOVED,
    (MOVED, "finish"): DONE,
    (MOVING, "roll_back"): ROLLED_BACK, (MOVED, "roll_back"): ROLLED_BACK,
    (PLANNED, "cancel"): CANCELLED, (REGISTERING, "cancel"): CANCELLED,
})
CLOSED = frozenset({DONE, ROLLED_BACK, CANCELLED})

# What of a rule is its own and not a condition: a rule that a move makes takes the conditions of the rule that it goes before.
_OWN = frozenset({"route_id", "acquirer_id", "merchant_id", "name", "priority", "weight", "state", "created_by", "created_at", "activated_by",
                  "activated_at", "retired_by", "retired_at", "cost_basis_points", "cost_fixed", "stores", "date_from"})


class Made(NamedTuple):
    """A rule to be made: which acquirer, at which priority, under which conditions."""

    acquirer_id: UUID
    brand: str | None
    priority: int
    conditions: dict[str, Any]


class Share(NamedTuple):
    """How much goes to the new acquirer: 1 to 100 per cent, of all stores (None) or of some, at once or from a day on (where the merchant is)."""

    percent: int
    stores: tuple[UUID, ...] | None = None
    date_from: Any = None


def in_the_way(rules: Sequence[Mapping[str, Any]], old: UUID, merchant_id: UUID) -> list[tuple[UUID, str]]:
    """Rules in force that could not be shared without changing what they mean, and why. `rules`: those that some sale of the merchant meets."""
    leading = [rule for rule in rules if rule["acquirer_id"] == old]
    shared = [(rule["route_id"], "it shares its rank with others by weight or cost") for rule in leading
              if rule["weight"] is not None or rule["cost_basis_points"] is not None or rule["cost_fixed"] is not None]
    bounded = [(rule["route_id"], "it is for some stores or days alone") for rule in leading
               if rule["stores"] is not None or rule["date_from"] is not None]
    general = {rule["priority"] for rule in leading if rule["merchant_id"] is None}
    beside = [(rule["route_id"], "it is for all merchants, of the same priority, and leads elsewhere") for rule in rules
              if rule["merchant_id"] is None and rule["acquirer_id"] != old and rule["priority"] in general]
    return shared + bounded + beside


def made(rules: Sequence[Mapping[str, Any]], old: UUID, new: UUID, share: Share) -> list[Made]:
    """Two rules before each that leads to the old acquirer, with the weights of the share: what it was for goes to both, and nothing else does.

    The rule itself stays in force behind them, so that the way back is to switch the two off.
    """
    found = []
    for rule in rules:
        if rule["acquirer_id"] != old:
            continue
        conditions = {name: value for name, value in rule.items() if name not in _OWN and name != "brand" and value is not None}
        conditions |= {"stores": list(share.stores)} if share.stores else {}
        conditions |= {"date_from": share.date_from} if share.date_from is not None else {}
        for acquirer_id, weight in ((new, share.percent), (old, 100 - share.percent)):
            found.append(Made(acquirer_id, rule["brand"], rule["priority"], {**conditions, "weight": weight}))
    return found
