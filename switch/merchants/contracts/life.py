"""A contract's life. Pure: all that changes its state is in LIFE; the database holds the same steps (migrations r0026, STEPS)."""

from collections.abc import Mapping
from types import MappingProxyType

from switch.life import Life

DRAFT, OFFERED, SIGNED = "draft", "offered", "signed_by_merchant"
IN_FORCE, AMENDED, TERMINATED, EXPIRED = "in_force", "amended", "terminated", "expired"
REFUSED, WITHDRAWN = "refused", "withdrawn"

# (state, event) -> state. `sign` and `refuse` are the merchant's; `amend` is done to a contract by the one that follows it; `begin`, `expire` and
# `terminate` come with their day; the others are the provider's. Either side may give notice.
LIFE = Life("A contract", "contract_move", {
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
BY_MERCHANT = frozenset({"sign", "refuse", "notice"})
OPEN = frozenset({DRAFT, OFFERED, SIGNED})  # one of a merchant at a time
CLOSED = frozenset({AMENDED, TERMINATED, EXPIRED, REFUSED, WITHDRAWN})
HELD = frozenset({IN_FORCE, AMENDED, TERMINATED, EXPIRED})  # was in force once: both have signed
SHOWN_TO_MERCHANT = frozenset(LIFE.states) - {DRAFT}
WAITS_FOR: Mapping[str, str] = MappingProxyType({DRAFT: "provider", OFFERED: "merchant", SIGNED: "provider"})

MERCHANT, PROVIDER = "merchant", "provider"
SIGNS: Mapping[str, str] = MappingProxyType({MERCHANT: "sign", PROVIDER: "countersign"})
