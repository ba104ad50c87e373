"""What a transaction must be to show a step of an acceptance test, and whether paper, books and acquirer say the same of it. Pure.

A step is never shown by a person's word: RULES says what the recorded transaction must be, `findings` what of it is not so.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

STOOD = frozenset({"APPROVED", "CONFIRMED"})
SALES = frozenset({"purchase", "preauthorization", "cash_advance"})


class Rule(NamedTuple):
    """None: it does not matter. `original`: what it must follow, a sale that this test made; `paper`: what was printed must be sent along."""

    types: frozenset[str]
    states: frozenset[str] = STOOD
    entry_mode: str | None = None
    answered: bool | None = None  # whether the acquirer's answer decided it
    original: frozenset[str] = frozenset()
    effect: str | None = None  # amount of the original that must have moved
    paper: bool = False


RULES: Mapping[str, Rule] = MappingProxyType({
    "chip": Rule(SALES, entry_mode="chip"),
    "swipe": Rule(SALES, entry_mode="magstripe"),
    "contactless": Rule(SALES, entry_mode="contactless"),
    "manual": Rule(SALES, entry_mode="manual"),
    "qr": Rule(frozenset({"purchase"}), entry_mode="qr"),
    "decline": Rule(SALES, frozenset({"DECLINED"}), answered=True),
    "timeout": Rule(SALES, frozenset({"REVERSED"}), answered=False),  # no answer came, and the reversal is acknowledged
    "cancellation": Rule(SALES, frozenset({"REVERSED"})),
    "preauthorization": Rule(frozenset({"preauthorization"})),
    "capture": Rule(frozenset({"capture"}), original=frozenset({"preauthorization"}), effect="captured"),
    "void": Rule(frozenset({"void"}), original=SALES, effect="voided"),
    "refund": Rule(frozenset({"refund"}), original=SALES, effect="refunded"),
    "receipt": Rule(SALES | {"refund"}, paper=True),
})
# What a model asks for when nobody says otherwise.
USUAL = ("chip", "swipe", "contactless", "decline", "timeout", "void", "refund", "receipt")


@dataclass(frozen=True, slots=True)
class Seen:
    """A transaction as the books have it, with what the acquirer said of it. Amounts in minor units."""

    transaction_id: UUID
    type: str
    state: str
    entry_mode: str
    terminal_id: UUID
    caller: UUID
    dialect: str
    amount: int
    approved_amount: int | None
    currency: str
    last4: str
    rrn: str
    acquirer_rrn: str | None
    stan: str
    approval_code: str | None
    response_code: str | None
    acknowledged: bool  # its reversal was: by the acquirer, not by "not found"
    voided: int
    captured: int
    refunded: int
    capturable: int
    original: "Seen | None" = None
    told_amount: int | None = None  # DE4 of the acquirer's answer
    cleared: tuple[int, str] | None = None  # amount and currency in a clearing file of the acquirer


@dataclass(frozen=True, slots=True)
class Printed:
    """What stood on the terminal's paper."""

    masked_pan: str
    amount: int
    currency: str
    rrn: str
    approval_code: str | None = None
    stan: str | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """One field as three say it; None is what that one does not know. `booked_by`: answer, clearing_file."""

    field: str
    printed: str | None
    recorded: str | None
    booked: str | None
    booked_by: str | None
    same: bool


class Within(NamedTuple):
    """Which test: its till, and the transactions that were made since it began."""

    terminal_id: UUID
    first: UUID  # the smallest id of its time


def findings(step: str, dialect: str | None, seen: Seen, within: Within, printed: Printed | None) -> list[str]:
    """Why `seen` does not show the step, for a person; empty when it does."""
    rule, found = RULES[step], list[str]()
    if not _of(seen, within):
        found.append("It was not made by this till since the test began.")
    if dialect is not None and seen.dialect != dialect:
        found.append(f"It went to an acquirer that speaks {seen.dialect}, not {dialect}.")
    if seen.type not in rule.types:
        found.append(f"It is a {seen.type}; wanted: {', '.join(sorted(rule.types))}.")
    if seen.state not in rule.states:
        found.append(f"It is {seen.state.lower()}; wanted: {', '.join(sorted(each.lower() for each in rule.states))}.")
    if rule.entry_mode not in (None, seen.entry_mode):
        found.append(f"Its entry mode is {seen.entry_mode}; wanted: {rule.entry_mode}.")
    if rule.answered is not None and (seen.response_code is not None) is not rule.answered:
        found.append("The acquirer did not answer it." if rule.answered else "The acquirer answered it.")
    if "REVERSED" in rule.states and seen.state == "REVERSED" and not seen.acknowledged:
        found.append("The acquirer did not acknowledge its reversal.")
    found += _of_original(rule, seen, within)
    if rule.paper and printed is None:
        found.append("Send what was printed along.")
    found += [f"{each.field}: the paper, the books and the acquirer do not say the same." for each in compared(seen, printed) if not each.same]
    return found


def _of(seen: Seen, within: Within) -> bool:
    return seen.terminal_id == within.terminal_id == seen.caller and seen.transaction_id.int >= within.first.int


def _of_original(rule: Rule, seen: Seen, within: Within) -> Iterable[str]:
    if not rule.original:
        return
    original = seen.original
    if original is None or not _of(original, within) or original.type not in rule.original:
        yield f"It does not follow a {' or '.join(sorted(rule.original))} of this test."
    elif rule.effect is not None and getattr(original, rule.effect) <= 0:
        yield f"Nothing of its original is {rule.effect}."


def compared(seen: Seen, printed: Printed | None) -> list[Compared]:
    """The paper against the books, and both against what the acquirer booked: the line of its clearing file if there is one, else its answer."""
    if printed is None:
        return []
    recorded = seen.amount if seen.approved_amount is None else seen.approved_amount
    amount, by = (seen.told_amount, "answer") if seen.cleared is None else (seen.cleared[0], "clearing_file")
    return [
        _compared("masked_pan", printed.masked_pan, f"**** **** **** {seen.last4}", None, None, _masked(printed.masked_pan, seen.last4)),
        _compared("amount", str(printed.amount), str(recorded), None if amount is None else str(amount), by),
        _compared("currency", printed.currency, seen.currency, None if seen.cleared is None else seen.cleared[1], by),
        _compared("rrn", printed.rrn, seen.rrn, seen.acquirer_rrn, "answer", printed.rrn in {seen.rrn, seen.acquirer_rrn}),
        _compared("approval_code", printed.approval_code, seen.approval_code, seen.approval_code, "answer"),
        *([] if printed.stan is None else [_compared("stan", printed.stan, seen.stan, None, None)]),
    ]


def _compared(field: str, printed: str | None, recorded: str | None, booked: str | None, by: str | None, same: bool | None = None) -> Compared:
    if same is None:
        same = printed == recorded and booked in (None, recorded)
    if field == "masked_pan" and not same:
        printed = None  # never kept: it may be a card number
    return Compared(field, printed, recorded, booked, by if booked is not None else None, same)


def _masked(text: str, last4: str) -> bool:
    """Four digits, the last, and no others."""
    return "".join(each for each in text if each.isdigit()) == last4 and text.endswith(last4)


def standing(seen: Iterable[Seen]) -> list[Seen]:
    """What of a test still moves money or may yet: nothing of it may reach a settlement."""
    return [each for each in seen if each.state in ("SENT", "REVERSING", "PARKED")
            or (each.state in STOOD and each.type in SALES | {"offline_sale"} and not each.voided
                and (each.captured > each.refunded or (each.captured == 0 and each.capturable > 0)))]


def missing(wanted: Iterable[Mapping[str, str | None]], shown: Iterable[tuple[str, str | None]]) -> list[dict[str, str | None]]:
    """The steps of `wanted` that nothing showed. `shown`: step and the dialect that its transaction went by."""
    done = set(shown)
    steps = {step for step, _ in done}
    return [dict(each) for each in wanted
            if (each["step"] not in steps if each["dialect"] is None else (each["step"], each["dialect"]) not in done)]


def asked(plan: Iterable[Mapping[str, str | None]], dialects: frozenset[str]) -> list[dict[str, str | None]]:
    """What a plan asks of a till: a step of one dialect only where the till has numbers at an acquirer that speaks it."""
    return [{"step": each["step"], "dialect": each.get("dialect")} for each in plan
            if each.get("dialect") is None or each["dialect"] in dialects]
