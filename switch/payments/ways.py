"""The way of a sale to an acquirer: where it may go, and whether there is room just now. Decided before anything is written."""

from collections.abc import Callable, Mapping
from typing import NamedTuple
from uuid import UUID

from switch import metrics
from switch.directory import Directory
from switch.errors import Problem
from switch.links import Link
from switch.payments import routing, translation
from switch.payments.admission import AUTHORIZATION, QUERY, Admission, Permit
from switch.payments.alternatives import Alternatives
from switch.payments.asked import Asked, Seller
from switch.payments.desk import Desk
from switch.payments.pins import Pins
from switch.payments.routing import BIN_DIGITS
from switch.payments.translation import Order
from switch.records import Acquirer
from switch.security.pan import PaymentCode

PRIORITY = {"balance_inquiry": QUERY, "account_verification": QUERY}


class Way(NamedTuple):
    """Where a sale may go just now: an acquirer with its line and a place on the way to it."""

    acquirer: Acquirer
    link: Link
    permit: Permit


class Ways:
    """Finds them for this worker."""

    def __init__(self, directory: Directory, links: Mapping[UUID, Link], admission: Admission, desk: Desk, queued: Callable[[], int],
                 pins: Pins | None = None, *, commit_budget_s: float) -> None:
        """`queued`: how many intents wait for their commit."""
        self.directory, self.links, self.admission, self.desk, self.queued, self.pins = directory, links, admission, desk, queued, pins
        self.commit_budget_s, self.alternatives = commit_budget_s, Alternatives(directory, links, desk.loop.time)

    def look(self, seller: Seller, key: str) -> None:
        """At the door, before the body is read. Raises Problem overloaded when it would be refused anyway, whatever it says."""
        merchant_id, terminal = seller.merchant.merchant_id, seller.terminal
        if (merchant_id, terminal.terminal_id, key) in self.desk.walks:  # the first request with this key runs: its answer is for this one too
            return
        queued, now = self.queued(), self.desk.loop.time()
        reason = self.admission.shut(self.alternatives.reach(terminal, seller.merchant), merchant_id, queued, now)
        if reason:
            raise self.shed(reason)

    def shed(self, reason: str) -> Problem:
        metrics.shed.labels(reason).inc()
        return Problem("overloaded", retry_after=self.admission.retry_after(), extra={"processed": False})

    def brand(self, order: Order) -> str:
        if isinstance(order.pan, PaymentCode):
            return routing.brand_of_code(order.pan.reveal()[:2])
        found = self.directory.brand(order.pan.reveal()[:BIN_DIGITS])
        return found.brand if found is not None else "unknown"

    def alternatives_of(self, asked: Asked) -> list[Acquirer]:
        """The acquirers that may serve it, best first. Raises Problem no_route."""
        found = self.alternatives.of(asked)
        if not found:
            raise Problem("no_route", retry_after=60, extra={"processed": False})
        return found

    def find(self, asked: Asked, alternatives: list[Acquirer]) -> Way | None:
        """To the first acquirer that may and can take it, with a place on the way."""
        order, deadline_s, now = asked.order, asked.door.deadline_s, self.desk.loop.time()
        for acquirer in alternatives:
            if self._fault(order, acquirer) is not None or self._too_short(deadline_s, acquirer):
                continue
            link = self.links.get(acquirer.acquirer_id)
            if acquirer.status == "active" and link is not None and link.sells():
                permit = self.admission.enter(acquirer.acquirer_id, asked.seller.merchant.merchant_id, PRIORITY.get(order.type, AUTHORIZATION), now)
                if permit is not None:
                    return Way(acquirer, link, permit)
        return None

    def _fault(self, order: Order, acquirer: Acquirer) -> str | None:
        """What of it this acquirer's messages cannot say."""
        keyed = self.pins is not None and order.pin_block is not None and self.pins.for_acquirer(acquirer.acquirer_id) is not None
        return translation.fault(order, acquirer.dialect, acquirer.message_mode, keyed)

    def _too_short(self, deadline_s: float | None, acquirer: Acquirer) -> bool:
        return deadline_s is not None and deadline_s < acquirer.answer_timeout_s + self.commit_budget_s

    def refusal(self, asked: Asked, alternatives: list[Acquirer]) -> Problem:
        """Why nobody takes it; nothing is written."""
        faults = [self._fault(asked.order, acquirer) for acquirer in alternatives]
        for acquirer, fault in zip(alternatives, faults, strict=True):
            if fault is not None:
                continue
            if self._too_short(asked.door.deadline_s, acquirer):
                needed = acquirer.answer_timeout_s + self.commit_budget_s
                return Problem("deadline_too_short", f"Request-Deadline must be at least {needed:g} seconds for this acquirer.")
            link = self.links.get(acquirer.acquirer_id)
            if acquirer.status == "active" and link is not None and link.state == "up" and not link.tripped():
                return self.shed("acquirer")  # no room at the gate, or its window is full
        if faults and all(faults):  # by nobody, now or later; one that could and is away for a moment is another matter
            return Problem("not_supported", faults[0] or "")
        return Problem("acquirer_unavailable", retry_after=5, extra={"processed": False})
