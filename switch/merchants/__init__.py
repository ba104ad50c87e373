"""Who sells, where, and through whom: organisations, merchants, stores, terminals, acquirers, routes and keys as values."""

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

from switch.payments.routing import CODE_BRANDS, WALLET


@dataclass(frozen=True, slots=True)
class Organisation:
    organisation_id: UUID
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Merchant:
    merchant_id: UUID
    organisation_id: UUID
    name: str
    status: str  # active suspended closed
    mcc: str
    time_zone: str
    duplicate_policy: str  # warn refuse
    undelivered: str  # alert reverse: what happens to an approval that its terminal never heard of
    created_at: datetime
    unreferenced_refunds: bool = False


@dataclass(frozen=True, slots=True)
class Store:
    store_id: UUID
    merchant_id: UUID
    name: str
    city: str
    country: str
    time_zone: str
    created_at: datetime
    latitude_e6: int | None = None  # millionths of a degree; None: its place is not known
    longitude_e6: int | None = None


class Numbers(NamedTuple):
    """How an acquirer knows a terminal."""

    acquirer_id: UUID
    card_acceptor_terminal: str  # DE41, 8 characters
    card_acceptor: str  # DE42, 15 characters


@dataclass(frozen=True, slots=True)
class Terminal:
    terminal_id: UUID
    merchant_id: UUID
    store_id: UUID
    name: str
    status: str  # active suspended retired
    created_at: datetime
    numbers: tuple[Numbers, ...]


@dataclass(frozen=True, slots=True)
class Acquirer:
    acquirer_id: UUID
    name: str
    dialect: str
    message_mode: str  # single dual
    status: str  # active down draining
    institution_code: str | None
    time_zone: str
    answer_timeout_ms: int
    reversal_grace_ms: int
    min_in_flight: int
    max_in_flight: int
    max_links: int  # over all workers; 0 = each worker its own
    created_at: datetime
    host: str
    port: int
    business_date: date  # of the open day
    reversal_codes: dict[str, str]  # DE39 of an answered reversal -> its meaning here, over the dialect's
    reversal_max_age_s: int
    reversals_per_second: int  # of all workers together
    reversals_at_once: int  # of all workers together
    reversal_first: bool
    reroute_codes: list[str] | None  # None: the dialect's


@dataclass(frozen=True, slots=True)
class Route:
    route_id: UUID
    acquirer_id: UUID
    merchant_id: UUID | None  # None: every merchant's
    brand: str | None  # None: every brand
    priority: int  # the lowest is tried first
    name: str | None
    bin_low: str | None
    bin_high: str | None
    amount_min: int | None
    amount_max: int | None
    currencies: list[str] | None
    mccs: list[str] | None
    entry_modes: list[str] | None
    weekdays: list[int] | None
    time_from: str | None
    time_until: str | None
    weight: int | None
    cost_basis_points: int | None
    cost_fixed: int | None
    healthy_percent: int | None
    stores: list[UUID] | None
    date_from: date | None
    date_until: date | None
    state: str  # draft active retired
    created_by: str
    created_at: datetime
    activated_by: str | None
    activated_at: datetime | None
    retired_by: str | None
    retired_at: datetime | None


@dataclass(frozen=True, slots=True)
class Key:
    key_id: str
    role: str  # terminal merchant staff operator support reviewer administrator applicant
    merchant_id: UUID | None
    store_id: UUID | None  # of staff
    terminal_id: UUID | None
    person: str | None
    issued_by: str | None  # a person; None: on the machine itself, or by the way of a terminal or an application
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class IssuedKey:
    key: Key
    text: str = field(repr=False)  # shown once, stored nowhere


@dataclass(frozen=True, slots=True)
class Tariff:
    merchant_id: UUID
    effective_from: date
    basis_points: int


@dataclass(frozen=True, slots=True)
class BinRange:
    low: str
    high: str
    brand: str
    card_type: str  # debit credit prepaid unknown
    pan_lengths: tuple[int, ...]


R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """One page of a list. `next`: what to give as `after` for the next one, None at the end."""

    items: tuple[R, ...]
    next: UUID | str | date | None


# Six-digit ranges of the brands (ISO/IEC 7812 issuer numbers as the schemes publish them), none overlapping. What kind of card it is,
# the first six digits do not tell.
_RANGES = (
    ("300000", "305999", "diners", range(14, 20)), ("309500", "309599", "diners", range(14, 20)),
    ("340000", "349999", "amex", (15,)), ("352800", "358999", "jcb", range(16, 20)),
    ("360000", "369999", "diners", range(14, 20)), ("370000", "379999", "amex", (15,)),
    ("380000", "399999", "diners", range(14, 20)), ("400000", "499999", "visa", (13, 16, 19)),
    ("222100", "272099", "mastercard", (16,)), ("510000", "559999", "mastercard", (16,)),
    ("601100", "601199", "discover", range(16, 20)), ("620000", "629999", "unionpay", range(16, 20)),
    ("644000", "659999", "discover", range(16, 20)), ("810000", "817199", "unionpay", range(16, 20)),
)
BRANDS = frozenset(brand for _, _, brand, _ in _RANGES)
ROUTED = BRANDS | {WALLET, *CODE_BRANDS.values()}  # payment codes have brands too


def default_bins() -> tuple[BinRange, ...]:
    """UnionPay, Visa, Mastercard, Amex, JCB, Diners and Discover as ranges of six digits."""
    return tuple(BinRange(low, high, brand, "unknown", tuple(lengths)) for low, high, brand, lengths in _RANGES)
