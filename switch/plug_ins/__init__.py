"""Acquirers that do not speak ISO 8583: what one is asked, and what it says, as values (docs/plug-ins.md).

A plug-in is a `PlugIn` value, found by its entry point in the group `switch.acquirers`. It opens a `Host` per acquirer; everything else is the
switch's: numbers, the journal, deadlines, limits, the query loop, reversals, evidence.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

VERBS = frozenset({"pay", "query", "close", "cancel", "refund", "void"})  # pay, query and cancel must be offered
# What a host may answer. paid: the sale stands; done: so does the refund or void; closed: not paid, and never will be; cancelled: nothing stands,
# whatever was paid is given back; unknown_order: the host knows no such order.
WORDS = frozenset({"paid", "done", "declined", "pending", "closed", "cancelled", "unknown_order"})
DECLINES = ("refused", "insufficient_funds", "code_invalid", "code_expired", "limit_exceeded", "not_permitted", "not_refundable")
UNSENT = frozenset({"not_connected", "busy", "too_late", "lease_lost", "unfit"})
UNKNOWN = frozenset({"timeout", "line_lost", "unreadable", "differs", "not_authentic"})


@dataclass(frozen=True, slots=True)
class Asked:
    """One question. `order` is our number of the sale, `part` that of the refund or void that is meant, both 32 hex digits. `code` is a secret:
    used once, for `pay`, and neither logged nor stored."""

    verb: str
    order: str
    part: str | None
    amount: int  # minor units: of the part, else of the order
    currency: str  # ISO 4217, alpha
    merchant: str  # how the host knows the merchant and the terminal
    terminal: str
    code: str | None = field(default=None, repr=False)
    limit_s: int | None = None  # of pay: how long the payer has


class Answer(NamedTuple):
    """What the host said, and what it said it of; the switch compares. `reason`: one of DECLINES; `reference`: the host's own number."""

    word: str
    order: str
    part: str | None
    amount: int
    currency: str
    reason: str = ""
    reference: str = ""


class Unsent(NamedTuple):
    """Provably nothing left: one of UNSENT."""

    reason: str


class Unknown(NamedTuple):
    """Sent, and nothing came that can be believed: one of UNKNOWN. `field`: what was wrong with it; `size`: bytes that came."""

    reason: str
    field: str | None = None
    size: int = 0


Said = Answer | Unsent | Unknown


class Leave(Protocol):
    """Asked at once before the first byte is written. False: write nothing, and say Unsent with `refusal`."""

    refusal: str

    def __call__(self) -> bool: ...


class Host(Protocol):
    """One acquirer account of one worker."""

    async def reach(self) -> None:
        """Raises OSError when the host cannot be reached. Bounded by the caller."""

    async def ask(self, asked: Asked, leave: Leave, now: datetime) -> Said:
        """Cancelled at the deadline. Raises nothing for what the host does."""

    async def close(self) -> None: ...


class Option(NamedTuple):
    """A setting of an acquirer: what it says, the form of its value, and the value without it (None: it must be given)."""

    says: str
    form: str
    default: str | None = None


class Account(NamedTuple):
    """How one acquirer is set up. `secret`: what signs what we say to it."""

    name: str
    host: str
    port: int
    options: Mapping[str, str]
    secret: bytes = b""
    window: int = 64

    def __repr__(self) -> str:
        return f"<Account {self.name}>"

    def option(self, plug_in: "PlugIn", name: str) -> str:
        return self.options.get(name) or plug_in.options[name].default or ""


@dataclass(frozen=True, slots=True, eq=False)
class PlugIn:
    """`verbs`: what its hosts can do, of VERBS. `faults(account)`: what only the plug-in knows to be wrong."""

    name: str
    verbs: frozenset[str]
    open: Callable[[Account], Host]
    options: Mapping[str, Option]
    secret: bool = False  # whether it needs one
    faults: Callable[[Account], list[tuple[str, str]]] = lambda account: []


def option_faults(known: Mapping[str, Option], options: Mapping[str, str]) -> list[tuple[str, str]]:
    """(field, rule) for each option that is unknown, missing or malformed."""
    found = [(f"options.{name[:40]}", f"one of: {', '.join(sorted(known)) or 'none'}") for name in options if name not in known]
    for name, option in known.items():
        value = options.get(name)
        if value is None and option.default is None:
            found.append((f"options.{name}", f"must be given: {option.says}"))
        elif value is not None and not re.fullmatch(option.form, value, re.ASCII):
            found.append((f"options.{name}", option.says))
    return found
