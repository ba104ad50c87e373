"""A dispute's life, what it may cost and what it moves. Pure: all that changes its state is in LIFE; the database holds the same steps.

A retrieval asks for papers and moves nothing. A chargeback takes the money at once: from the merchant over its dispute account to the acquirer,
and a win brings it back the same way. Amounts are minor units.
"""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from switch.life import Refusal
from switch.settlement.funding.calendar import DAY_MINUTES, cut_over
from switch.settlement.ledger import Account, Transfer, moved

RETRIEVAL, ANSWERED, UNANSWERED = "retrieval", "answered", "unanswered"
CHARGEBACK, REPRESENTED, PRE_ARBITRATION, ARBITRATION = "chargeback", "represented", "pre_arbitration", "arbitration"
WON, LOST, ACCEPTED, WITHDRAWN = "won", "lost", "accepted", "withdrawn"

# (state, event) -> state; None is a dispute that is not there yet. `expire` is the switch's own word, the others are people's.
LIFE: Mapping[tuple[str | None, str], str] = MappingProxyType({
    (None, "retrieve"): RETRIEVAL, (None, "charge_back"): CHARGEBACK,
    (RETRIEVAL, "represent"): ANSWERED, (RETRIEVAL, "expire"): UNANSWERED, (RETRIEVAL, "charge_back"): CHARGEBACK, (RETRIEVAL, "withdraw"): WITHDRAWN,
    (ANSWERED, "charge_back"): CHARGEBACK, (ANSWERED, "withdraw"): WITHDRAWN,
    (UNANSWERED, "charge_back"): CHARGEBACK, (UNANSWERED, "withdraw"): WITHDRAWN,
    (CHARGEBACK, "represent"): REPRESENTED, (CHARGEBACK, "accept"): ACCEPTED, (CHARGEBACK, "expire"): LOST, (CHARGEBACK, "win"): WON,
    (CHARGEBACK, "lose"): LOST, (CHARGEBACK, "withdraw"): WITHDRAWN,
    (REPRESENTED, "win"): WON, (REPRESENTED, "lose"): LOST, (REPRESENTED, "escalate"): PRE_ARBITRATION, (REPRESENTED, "withdraw"): WITHDRAWN,
    (PRE_ARBITRATION, "represent"): ARBITRATION, (PRE_ARBITRATION, "accept"): ACCEPTED, (PRE_ARBITRATION, "expire"): LOST,
    (PRE_ARBITRATION, "win"): WON, (PRE_ARBITRATION, "lose"): LOST, (PRE_ARBITRATION, "withdraw"): WITHDRAWN,
    (ARBITRATION, "win"): WON, (ARBITRATION, "lose"): LOST, (ARBITRATION, "withdraw"): WITHDRAWN,
    (LOST, "win"): WON,  # the acquirer's later word, such as an answer of its own that was in time
})
EVENTS = frozenset(event for _, event in LIFE)
STATES = frozenset(LIFE.values())
# From the notice of acquirers and the words of operators to events.
NOTICES: Mapping[str, str] = MappingProxyType({"retrieval": "retrieve", "chargeback": "charge_back"})
OUTCOMES: Mapping[str, str] = MappingProxyType({"won": "win", "lost": "lose", "withdrawn": "withdraw", "pre_arbitration": "escalate"})
CHARGED = frozenset({CHARGEBACK, REPRESENTED, PRE_ARBITRATION, ARBITRATION, LOST, ACCEPTED})  # the money is with the issuer
CLOSED = frozenset({WON, LOST, ACCEPTED, WITHDRAWN})
TO_ANSWER = frozenset({RETRIEVAL, CHARGEBACK, PRE_ARBITRATION})  # the merchant's turn: each has a deadline and a fee


class Term(NamedTuple):
    """Days to answer in, from the day of the notice; somebody is called `warn_days` before their end."""

    answer_days: int
    warn_days: int


class Fee(NamedTuple):
    """What the merchant pays when a dispute comes into a state, and what the acquirer charges us. Minor units."""

    fee: int = 0
    cost: int = 0


class About(NamedTuple):
    """What a posting needs to know of a dispute. `step`: its version after the step, so that each step posts under keys of its own."""

    dispute_id: UUID
    shown: str
    merchant_id: UUID
    acquirer_id: UUID
    currency: str
    amount: int
    step: int


def refusal(state: str | None, event: str) -> Refusal | None:
    """Why `event` may not come in `state`, or None."""
    if (state, event) in LIFE:
        return None
    if state in CLOSED:
        return Refusal("dispute_closed", f"It is {state}: nothing more can be done about it.")
    if event in ("represent", "accept") and state not in TO_ANSWER:
        return Refusal("dispute_waits", f"It is {state}: the next word is the acquirer's.")
    return Refusal("dispute_move", f"A dispute that is {state or 'not known'} cannot {event.replace('_', ' ')}.")


def step(state: str | None, event: str) -> str:
    """The state that follows. Raises LookupError: refusal() says why not."""
    return LIFE[state, event]


def times(noticed_on: date, term: Term, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Until when to answer, and when somebody is called: ends of days in the acquirer's zone."""
    last = noticed_on + timedelta(days=term.answer_days)
    return cut_over(last, DAY_MINUTES, zone), cut_over(last - timedelta(days=term.warn_days), DAY_MINUTES, zone)


def overdue(event: str, answer_by: datetime | None, now: datetime) -> bool:
    """Whether a merchant's word comes too late, also before the switch has looked."""
    return event in ("represent", "accept") and answer_by is not None and now >= answer_by


def postings(about: About, was: str | None, state: str, fee: Fee, day: date) -> list[Transfer]:
    """What a step moves in the ledger; nothing when no money changes its place."""
    merchant, held = (Account(kind, about.currency, about.merchant_id) for kind in ("merchant", "dispute"))
    acquirer = Account("acquirer", about.currency, None, about.acquirer_id)
    amount = ((state in CHARGED) - (was in CHARGED)) * about.amount
    cause = "chargeback" if amount > 0 else "chargeback_won"
    steps = (
        (cause, merchant, held, amount), (f"{cause}_acquirer", held, acquirer, amount),
        ("dispute_fee", merchant, Account("fee", about.currency), fee.fee), ("dispute_cost", Account("cost", about.currency), acquirer, fee.cost),
    )
    return [transfer for name, debit, credit, sum_ in steps
            for transfer in moved(debit, credit, sum_, name, about.shown, day, f"dispute:{about.dispute_id}:{about.step}:{name}")]
