"""The life of a ticket: one table, who may take which step, and its deadlines. Pure.

A device moves with its ticket: `repair` maintains it, `give_back` restores it, `swap` gives its till to another one.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple

from switch.life import Life, Refusal

OPEN, ASSIGNED, WAITING, IN_REPAIR, RESOLVED, CLOSED = "open", "assigned", "waiting_for_merchant", "in_repair", "resolved", "closed"

LIFE = Life("A ticket", "ticket_move", {
    (OPEN, "assign"): ASSIGNED, (ASSIGNED, "assign"): ASSIGNED,  # given on by whoever has it
    (ASSIGNED, "take_over"): ASSIGNED,
    (ASSIGNED, "ask"): WAITING, (WAITING, "answer"): ASSIGNED,
    (ASSIGNED, "repair"): IN_REPAIR, (IN_REPAIR, "give_back"): ASSIGNED,
    (ASSIGNED, "swap"): ASSIGNED, (IN_REPAIR, "swap"): ASSIGNED,
    (ASSIGNED, "resolve"): RESOLVED, (WAITING, "resolve"): RESOLVED,
    (OPEN, "withdraw"): CLOSED, (WAITING, "withdraw"): CLOSED, (RESOLVED, "close"): CLOSED,
    (RESOLVED, "reopen"): OPEN, (CLOSED, "reopen"): OPEN,
})
OF_MERCHANT = frozenset({"answer", "withdraw", "close", "reopen"})  # support takes every step but `answer` and `withdraw`
OF_SUPPORT = LIFE.events - {"answer", "withdraw"}
ON_DEVICE: Mapping[str, str] = MappingProxyType({"repair": "maintain", "give_back": "restore", "swap": "swap"})
ANSWERS = frozenset({"ask", "resolve"})  # words that the merchant sees end the wait for the first answer, as visible comments do
ENDED = frozenset({RESOLVED, CLOSED})
SEVERITIES = ("critical", "high", "normal", "low")


class Term(NamedTuple):
    """Minutes from the opening to the first answer, and to the resolution."""

    answer_minutes: int
    resolve_minutes: int


def refusal(state: str, event: str, support: bool) -> Refusal | None:
    """Why `event` may not come in `state` from somebody of support, or of the merchant; None when it may."""
    may = OF_SUPPORT if support else OF_MERCHANT
    if event in LIFE.events and event not in may:
        return Refusal("ticket_move", f"{event} is not for {'support' if support else 'the merchant'}.")
    return LIFE.refusal(state, event, may)


def deadlines(term: Term, since: datetime) -> tuple[datetime, datetime]:
    """Until when somebody must have answered, and until when it must be resolved."""
    return since + timedelta(minutes=term.answer_minutes), since + timedelta(minutes=term.resolve_minutes)


def overdue(answer_by: datetime | None, resolve_by: datetime | None, now: datetime) -> bool:
    return any(by is not None and by <= now for by in (answer_by, resolve_by))
