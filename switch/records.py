"""What a worker knows of whom: records that the directory keeps. Immutable; a change puts another one in the place of the old."""

from collections.abc import Mapping
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from messages.dialect import Dialect
from messages.grammar import QueryRule
from switch.alike import Numbers
from switch.links import Tls
from switch.links.breaker import Terms as BreakerTerms


class Merchant(NamedTuple):
    merchant_id: UUID
    organisation_id: UUID
    name: str
    status: str
    mcc: str
    zone: ZoneInfo
    duplicate_policy: str
    unreferenced_refunds: bool = False
    sells_until: float | None = None  # unix time at which its contract ends, or ended; None: it has no end, or no contract


class Store(NamedTuple):
    store_id: UUID
    merchant_id: UUID
    name: str
    city: str
    country: str
    zone: ZoneInfo


class Terminal(NamedTuple):
    terminal_id: UUID
    merchant_id: UUID
    store_id: UUID
    status: str
    known_as: tuple[Any, ...]  # acquirer, DE41, DE42, and so on

    @property
    def numbers(self) -> Numbers:
        """acquirer -> (DE41, DE42)"""
        return Numbers(self.known_as)


class ReversalTerms(NamedTuple):
    """How reversals are sent to an acquirer, and what it says to them."""

    codes: Mapping[str, str]  # DE39 -> acknowledged, not_found, retry, park: the dialect's, and over them the acquirer's own
    max_age_s: float
    per_second: int  # of all workers together
    at_once: int  # of all workers together
    first: bool  # a terminal's open reversal is done before its next sale


PLAIN_TERMS = ReversalTerms(MappingProxyType({}), 259_200.0, 1000, 200, False)


class Terms(NamedTuple):
    """What an acquirer allows beyond the authorised amount, in hundredths of a percent: completions by hand, tips."""

    completion_basis_points: int
    tip_basis_points: int


class StandInTerms(NamedTuple):
    """Which sales may be approved in an acquirer's stead. Amounts in minor units; those of a day are of a merchant, brand and business date."""

    on: bool
    currency: str
    sale_amount: int
    day_amount: int
    day_count: int
    entry_modes: frozenset[str]


class Line(NamedTuple):
    """Where an acquirer's host listens, and how it is reached."""

    line_id: UUID
    host: str
    port: int
    priority: int = 0  # the lowest carries while it is well
    connections: int = 1  # of each worker, at once
    tls: Tls | None = None


class Acquirer(NamedTuple):
    acquirer_id: UUID
    name: str
    dialect: Dialect
    message_mode: str
    status: str
    institution_code: str | None
    zone: ZoneInfo
    answer_timeout_s: float
    reversal_grace_s: float
    max_in_flight: int
    lines: tuple[Line, ...]  # active ones, in their order
    business_date: date  # of the open day
    reversals: ReversalTerms = PLAIN_TERMS
    terms: Mapping[tuple[str, str], Terms] = MappingProxyType({})  # by MCC and brand, "*" for any; usually empty
    min_in_flight: int = 16
    max_links: int = 0  # lines over all workers; 0 = each worker its own
    sign_on_at: datetime | None = None  # when an operator last asked for a sign-on
    reroute_codes: frozenset[str] = frozenset()  # DE39 of declined requests after which another acquirer may be asked
    options: Mapping[str, str] = MappingProxyType({})  # of its plug-in, and how QR codes of merchants name it
    query: QueryRule = QueryRule()  # when it is asked for what it has not decided
    secret_at: datetime | None = None  # when the secret was set that signs what is said to it
    breaker: BreakerTerms | None = None  # of each line; None: there is none
    stand_in: Mapping[tuple[UUID | None, str], StandInTerms] = MappingProxyType({})  # by merchant and brand, None and "*" for any; usually empty

    def terms_of(self, mcc: str, brand: str) -> Terms | None:
        """The most particular terms that hold; the MCC goes before the brand."""
        terms = self.terms
        return terms.get((mcc, brand)) or terms.get((mcc, "*")) or terms.get(("*", brand)) or terms.get(("*", "*"))

    def stands_in(self, merchant_id: UUID, brand: str) -> StandInTerms | None:
        """The most particular terms, unless they say no; the merchant goes before the brand."""
        places = (merchant_id, brand), (merchant_id, "*"), (None, brand), (None, "*")
        return next((held if held.on else None for place in places if (held := self.stand_in.get(place)) is not None), None)


class Route(NamedTuple):
    """A rule: which sales may go to an acquirer, and when it goes before others. None: whatever it is. payments/routing.py reads it."""

    route_id: UUID
    acquirer_id: UUID
    merchant_id: UUID | None
    brand: str | None
    priority: int
    name: str | None = None
    state: str = "active"  # draft active retired
    bin_low: str | None = None
    bin_high: str | None = None
    amount_min: int | None = None
    amount_max: int | None = None
    currencies: frozenset[str] | None = None
    mccs: frozenset[str] | None = None
    entry_modes: frozenset[str] | None = None
    weekdays: frozenset[int] | None = None  # 1 is Monday
    minute_from: int | None = None  # of the day, where the merchant is
    minute_until: int | None = None  # not after minute_from: on the day after
    weight: int | None = None
    cost_basis_points: int | None = None
    cost_fixed: int | None = None
    healthy_percent: int | None = None
    stores: frozenset[UUID] | None = None
    date_from: date | None = None  # where the merchant is
    date_until: date | None = None  # not included
    activated_at: datetime | None = None
    retired_at: datetime | None = None


class BinRange(NamedTuple):
    low: str
    high: str
    brand: str
    card_type: str
    pan_lengths: tuple[int, ...]
