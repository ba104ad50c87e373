"""What an answer, a silence or a bounce means for a duty: pure rules, total over whatever comes from a wire.

A duty is a row that owes an acquirer a message: the reversal of a request in doubt, an advice, or a query.
Rule 1: only a code that speaks about the undo closes a reversal; a code in no set is sent again. Rule 2: "not found" closes only when received
twice, the second time when the original can no longer arrive. Rule 3: a reversal is never dropped: past its maximum age it is parked for a person.
Rule 4: an advice has no age.
Rule 5: nor has a query. It ends with the host's word alone; past the payer's time it asks the host to close the order, and believes what that says.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from messages.dialect import repeat_mti
from messages.grammar import QueryRule
from switch.payments.transaction import Event

PAUSE_MIN_S = 0.5
PAUSE_MAX_S = 60.0  # on top of the shortest; the jitter is full: from nothing to all of it
BOUNCE_PAUSE_S = 1.0
LEASE_MARGIN_S = 5.0  # on top of the acquirer's time: a worker that still lives has settled by then
NOT_FOUND_SETTLE_S = 60.0
FAULTS_MAX = 3


class Owed(NamedTuple):
    """What the rules need of a duty, after the transmission that is judged was counted."""

    kind: str  # reversal, advice, query
    transmissions: int
    faults: int  # how often its message could not be built
    owed_at: datetime  # its age counts from here
    not_found_at: datetime | None  # the first "not found"
    settled_at: datetime  # from when "not found" can be believed: see settled_at()


class Asking(NamedTuple):
    """How a host is asked for one order. `closes_at`: when the payer's time is over, and it is asked to close it; None: never."""

    rule: QueryRule
    closes_at: datetime | None


class Close(NamedTuple):
    by: str  # ack, not_found, declined, no_effect
    event: Event


class Again(NamedTuple):
    """Another transmission, not before `at`."""

    at: datetime
    not_found_at: datetime | None = None  # to be remembered unless there is an earlier one; of a query as it stands now
    sent: bool = True  # False: it never left, so the transmission is not counted
    fault: bool = False  # its message could not be built


class Park(NamedTuple):
    reason: str  # max_age, code, unbuildable
    event: Event = Event.GIVE_UP


Decision = Close | Again | Park
NO_EFFECT = Close("no_effect", Event.ACKNOWLEDGED)  # the host takes no reversal for it, since nothing of it stands


def reversal_answered(owed: Owed, code: str, codes: Mapping[str, str], max_age_s: float, now: datetime, fraction: float) -> Decision:
    """`code`: DE39 of the 0430. `codes`: DE39 -> acknowledged, not_found, retry, park. `fraction`: drawn, 0 to 1, for the jitter."""
    meaning = codes.get(code, "retry")
    if meaning == "acknowledged":
        return Close("ack", Event.ACKNOWLEDGED)
    if meaning == "park":
        return Park("code")
    if meaning != "not_found":
        return _again(owed, max_age_s, now, fraction)
    if owed.not_found_at is not None and now >= owed.settled_at:
        return Close("not_found", Event.NOT_FOUND)
    return _again(owed, max_age_s, now, fraction, not_before=owed.settled_at, not_found_at=owed.not_found_at or now)


def advice_answered(owed: Owed, event: Event, now: datetime, fraction: float) -> Decision:
    """`event`: what the answer says of the advice. A doubt is no answer: it is repeated, whatever its age."""
    if event is Event.APPROVE:
        return Close("ack", event)
    if event is Event.DECLINE:
        return Close("declined", event)
    return _again(owed, 0.0, now, fraction)


def query_answered(owed: Owed, event: Event, found: bool, asking: Asking, now: datetime, fraction: float) -> Decision:
    """`event`: what the answer says of the order; `found`: whether the host knows it. One that it does not know, twice and when the order can no
    longer arrive, was never made."""
    if not found:
        if owed.not_found_at is not None and now >= owed.settled_at:
            return Close("not_found", Event.DECLINE)
        return Again(asked_again(owed, asking, now, fraction), owed.not_found_at or now)
    if event is Event.APPROVE:
        return Close("ack", event)
    if event is Event.DECLINE:
        return Close("declined", event)
    return Again(asked_again(owed, asking, now, fraction))


def query_unheard(owed: Owed, sent: bool, asking: Asking, now: datetime, fraction: float) -> Decision:
    """Nothing came that could be believed, or it was never handed over."""
    return Again(asked_again(owed, asking, now, fraction), owed.not_found_at, sent)


def asked_again(owed: Owed, asking: Asking, now: datetime, fraction: float) -> datetime:
    """Half as long again each time, up to the longest, with a fifth of jitter; and once when the payer's time is over."""
    rule = asking.rule
    at = now + timedelta(seconds=min(rule.longest_s, rule.first_s * 1.5 ** min(owed.transmissions, 30)) * (0.9 + 0.2 * fraction))
    return min(at, asking.closes_at) if asking.closes_at is not None and now < asking.closes_at else at


def asks_what(asking: Asking, now: datetime) -> str:
    """query, or close."""
    return "close" if asking.closes_at is not None and now >= asking.closes_at else "query"


def asking(received_at: datetime, closable: bool, rule: QueryRule) -> Asking:
    """`closable`: a sale, at a host that closes orders; what gives money back is only asked for."""
    return Asking(rule, received_at + timedelta(seconds=rule.limit_s) if closable else None)


def unanswered(owed: Owed, max_age_s: float, now: datetime, fraction: float) -> Decision:
    """It was sent, or may have been, and no answer came in time."""
    return _again(owed, max_age_s, now, fraction)


def bounced(owed: Owed, max_age_s: float, now: datetime, fraction: float) -> Decision:
    """It was never handed to the line."""
    if too_old(owed, max_age_s, now):
        return Park("max_age")
    return Again(now + timedelta(seconds=BOUNCE_PAUSE_S * (0.5 + fraction)), sent=False)


def unbuilt(owed: Owed, now: datetime, fraction: float) -> Decision:
    """Its message cannot be built from the row (card unreadable, a value the dialect cannot say): the third time a person must look."""
    if owed.faults + 1 >= FAULTS_MAX:
        return Park("unbuildable")
    return Again(now + pause(owed.faults + 1, fraction), sent=False, fault=True)


def too_old(owed: Owed, max_age_s: float, now: datetime) -> bool:
    return owed.kind == "reversal" and now >= owed.owed_at + timedelta(seconds=max_age_s)


def _again(owed: Owed, max_age_s: float, now: datetime, fraction: float, *, not_before: datetime | None = None,
           not_found_at: datetime | None = None) -> Decision:
    if too_old(owed, max_age_s, now):
        return Park("max_age")
    at = now + pause(owed.transmissions, fraction)
    return Again(max(at, not_before) if not_before is not None else at, not_found_at)


def pause(times: int, fraction: float) -> timedelta:
    """Exponential backoff with full jitter after `times` transmissions."""
    return timedelta(seconds=PAUSE_MIN_S + fraction * min(PAUSE_MAX_S, 2.0 ** min(times, 10)))


def settled_at(send_not_after: datetime, answer_timeout_s: float) -> datetime:
    """From when an original that the host does not know will not arrive any more (ARCHITECTURE.md, NOT_FOUND)."""
    return send_not_after + timedelta(seconds=answer_timeout_s + NOT_FOUND_SETTLE_S)


def first_attempt_at(now: datetime, send_not_after: datetime, grace_s: float, answered: bool) -> datetime:
    """A reversal may leave at once when its original was answered; else when the original can no longer leave, and a grace later,
    so that it cannot overtake it."""
    return now if answered else max(now, send_not_after) + timedelta(seconds=grace_s)


def mti_of(first: str, transmissions: int) -> str:
    """The MTI of the transmission with that number: a repeat from the second on, whether or not the first was answered."""
    return repeat_mti(first) if transmissions > 1 else first


def lease(answer_timeout_s: float) -> timedelta:
    """How long a duty belongs to the worker that took it; one that dies gives it back by time."""
    return timedelta(seconds=answer_timeout_s + LEASE_MARGIN_S)


def takeable(state: str, next_attempt_at: datetime, leased_until: datetime | None, now: datetime) -> bool:
    """Whether a worker may take it: open, due, and nobody else's. The statement TAKE says the same (reversals.py)."""
    return state == "open" and next_attempt_at <= now and (leased_until is None or leased_until <= now)


class Pace(NamedTuple):
    """How many more may leave: at most `per_second`, saved up for at most a tenth of a second, or for one."""

    tokens: float
    at: float  # monotonic seconds

    def refilled(self, per_second: float, now: float) -> "Pace":
        return Pace(min(max(1.0, per_second / 10), self.tokens + (now - self.at) * per_second), now)

    def spent(self, count: int) -> "Pace":
        return Pace(self.tokens - count, self.at)
