"""A contract's life. Pure: all that changes its state is in LIFE; the database holds the same steps (migrations r0026, STEPS)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

DRAFT, OFFERED, SIGNED = "draft", "offered", "signed_by_merchant"
IN_FORCE, AMENDED, TERMINATED, EXPIRED = "in_force", "amended", "terminated", "expired"
REFUSED, WITHDRAWN = "refused", "withdrawn"

# (state, event) -> state. `sign` and `refuse` are the merchant's; `amend` is done to a contract by the one that follows it; `begin`, `expire` and
# `terminate` come with their day; the others are the provider's. Either side may give notice.
LIFE: Mapping[tuple[str, str], str] = MappingProxyType({
    (DRAFT, "revise"): DRAFT, (OFFERED, "revise"): DRAFT, (SIGNED, "revise"): DRAFT,
    (DRAFT, "offer"): OFFERED,
    (OFFERED, "sign"): SIGNED,
    (OFFERED, "refuse"): REFUSED,
    (SIGNED, "countersign"): IN_FORCE,
    (IN_FORCE, "begin"): IN_FORCE,
    (IN_FORCE, "notice"): IN_FORCE,
    (IN_FORCE, "amend"): AMENDED,
    (IN_FORCE, "terminate"): TERMINATED,
    (IN_FORCE, "expire"): EXPIRED,
    **{(state, "withdraw"): WITHDRAWN for state in (DRAFT, OFFERED, SIGNED)},
})
STATES = tuple(dict.fromkeys([DRAFT, *LIFE.values()]))
EVENTS = frozenset(event for _, event in LIFE)
BY_MERCHANT = frozenset({"sign", "refuse", "notice"})
OPEN = frozenset({DRAFT, OFFERED, SIGNED})  # one of a merchant at a time
CLOSED = frozenset({AMENDED, TERMINATED, EXPIRED, REFUSED, WITHDRAWN})
HELD = frozenset({IN_FORCE, AMENDED, TERMINATED, EXPIRED})  # was in force once: both have signed
SHOWN_TO_MERCHANT = frozenset(STATES) - {DRAFT}
WAITS_FOR: Mapping[str, str] = MappingProxyType({DRAFT: "provider", OFFERED: "merchant", SIGNED: "provider"})

MERCHANT, PROVIDER = "merchant", "provider"
SIGNS: Mapping[str, str] = MappingProxyType({MERCHANT: "sign", PROVIDER: "countersign"})


class Refusal(NamedTuple):
    """Why a contract may not move so: a code of errors.PROBLEMS."""

    code: str
    detail: str


def refusal(state: str, event: str) -> Refusal | None:
    """Why `event` may not come in `state`, or None."""
    if (state, event) in LIFE:
        return None
    allowed = sorted(event for at, event in LIFE if at == state)
    can = f"it can: {', '.join(allowed)}" if allowed else "nothing follows"
    return Refusal("contract_move", f"A contract that is {state} cannot {event}; {can}.")


def step(state: str, event: str) -> str:
    """The state that follows. Raises LookupError: refusal() says why not."""
    return LIFE[state, event]
