"""One request for a payment, as it came to the door: who asks for what, under which key, and when."""

from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from switch.payments.desk import Key
from switch.payments.translation import Order
from switch.records import Merchant, Store, Terminal


class Seller(Protocol):
    """The terminal that asks, with its records as they were at the door."""

    @property
    def merchant(self) -> Merchant: ...
    @property
    def store(self) -> Store: ...
    @property
    def terminal(self) -> Terminal: ...


class Door(NamedTuple):
    """When the request came: loop time for deadlines, UTC for the books; `deadline_s` is what the client allows, if it said."""

    at: float
    received_at: datetime
    deadline_s: float | None


class Asked(NamedTuple):
    """One request under its key, as it came to the door. `identity`: of its first attempt; `risk`: the event of what it hit, if it did."""

    order: Order
    seller: Seller
    key: Key
    fingerprint: bytes
    door: Door
    route: str
    brand: str
    identity: UUID
    risk: tuple[str, str] | None = None
