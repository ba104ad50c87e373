"""What stands in a contract: a document of terms as JSON, read strictly, and its first faults. Pure.

Amounts are minor units of `currency`; days are dates where the merchant is.
"""

from collections.abc import Collection, Mapping
from datetime import date
from typing import Any, NamedTuple

from switch.money import AMOUNT_MAX
from switch.settlement.fees.charges import Tariff
from switch.settlement.fees.terms import Fault as Fault
from switch.settlement.fees.terms import TermsError, tariff_from

SERVICES = ("cards", "qr_codes", "preauthorizations", "terminals", "online_payouts")
LANGUAGES = ("zh", "en")
NOTICE_DAYS_MAX, YEARS_MAX = 365, 10


class Once(NamedTuple):
    """Charged once, when the contract begins: `amount` for each of so many."""

    name: str
    amount: int
    times: int


class Term(NamedTuple):
    """`starts`, `ends`: first and last day, the latter None when it goes on until somebody gives notice."""

    starts: date
    ends: date | None
    notice_days: int
    early_termination_fee: int
    deposit: int


class Paid(NamedTuple):
    """How the merchant is paid: `account` as shown, and funding as docs/settlement.md has it."""

    account: str
    calendar: str
    funding_days: int
    minimum_payout: int
    reserve_basis_points: int
    reserve_days: int


class Terms(NamedTuple):
    language: str
    provider: str
    currency: str
    services: tuple[str, ...]
    tariff: Tariff
    once: tuple[Once, ...]
    term: Term
    paid: Paid


def read(document: Mapping[str, Any]) -> Terms:
    """Of a document that the API's shapes have let in, or that is stored. Raises TermsError: the tariff is wrong."""
    term, paid = document["term"], document["settlement"]
    ends = term["until"]
    return Terms(document["language"], document["provider"], document["currency"], tuple(document["services"]), tariff_from(document["tariff"]),
                 tuple(Once(each["name"], each["amount"], each["count"]) for each in document["once"]),
                 Term(date.fromisoformat(term["from"]), None if ends is None else date.fromisoformat(ends), term["notice_days"],
                      term["early_termination_fee"], term["deposit"]),
                 Paid(*(paid[name] for name in Paid._fields)))


def faults(document: Mapping[str, Any], brands: Collection[str] | None, today: date | None) -> list[Fault]:
    """What is wrong with terms beyond their shape, each with its JSON pointer. `today`: what is offered begins today or later; None: a draft."""
    try:
        tariff_from(document["tariff"], brands=brands)
    except TermsError as error:
        return [Fault(f"/tariff{each.place}", each.rule) for each in error.faults]
    terms, found = read(document), list[Fault]()
    starts, ends = terms.term.starts, terms.term.ends
    if terms.tariff.currency not in (terms.currency, "*"):
        found.append(Fault("/tariff/currency", "the contract's currency"))
    if ends is not None and ends < starts:
        found.append(Fault("/term/until", "not before the first day"))
    if ends is not None and ends.year - starts.year > YEARS_MAX:
        found.append(Fault("/term/until", f"at most {YEARS_MAX} years; leave it out when the contract has no end"))
    if today is not None and starts < today:
        found.append(Fault("/term/from", f"{today} or later"))
    if terms.term.deposit + sum(each.amount * each.times for each in terms.once) > AMOUNT_MAX:
        found.append(Fault("/once", "less money"))
    return found


def early(term: Term, last: date) -> bool:
    """Whether a contract whose last day is `last` has ended before its time."""
    return term.ends is not None and last < term.ends


def notice_over(term: Term, given: date) -> date:
    """The last day that notice given on a day can name at the earliest."""
    return date.fromordinal(given.toordinal() + term.notice_days)
