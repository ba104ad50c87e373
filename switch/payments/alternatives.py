"""What routing chooses from on this worker: the directory's rules made ready, and how the acquirers answer it."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from switch.directory import Directory
from switch.links import Link
from switch.payments import routing
from switch.payments.asked import Asked
from switch.payments.health import Answers
from switch.payments.routing import BIN_DIGITS, Book, Health, Plan, Sale
from switch.records import Acquirer, Merchant, Terminal
from switch.security.pan import Pan

CHOICES_MAX = 100_000
ANY = "*"  # as a brand: whatever the sale is


class Alternatives:
    """Kept in step with the directory: what was made ready is forgotten when it changes. Joined in app.py."""

    def __init__(self, directory: Directory, links: Mapping[UUID, Link], now: Callable[[], float]) -> None:
        self.directory, self.links, self.now = directory, links, now
        self.made_of: object = None
        self.book = Book(())
        self.answers: dict[UUID, Answers] = {}

    def of(self, asked: Asked) -> list[Acquirer]:
        """The acquirers that may serve a sale, best first. Where the rules say the same of all sales of a terminal and brand, they are
        asked once."""
        terminal = asked.seller.terminal
        found = self.directory.chosen.get((terminal.terminal_id, asked.brand))
        if found is None:
            merchant = asked.seller.merchant
            plan = self.current().plan(merchant.merchant_id, merchant.mcc, asked.brand)
            found = self._keep(terminal, asked.brand, self._fixed(plan, terminal) if plan.fixed else plan)
        if type(found) is list:
            return found
        assert isinstance(found, Plan)
        return routing.choose(found, sale(asked, found.timed), terminal.numbers, self.directory.acquirers, self.health)

    def reach(self, terminal: Terminal, merchant: Merchant) -> list[Acquirer]:
        """All that some sale of the terminal could go to."""
        found: list[Acquirer] | None = self.directory.chosen.get((terminal.terminal_id, ANY))
        if found is None:
            routes = [route for route in self.current().reach(merchant.merchant_id, merchant.mcc) if route.acquirer_id in terminal.numbers]
            found = self._keep(terminal, ANY, routing.each_once(routes, self.directory.acquirers))
        return found

    def current(self) -> Book:
        """The rules in force."""
        if self.made_of is not self.directory.ordered_routes:
            self.made_of, self.book = self.directory.ordered_routes, Book(self.directory.ordered_routes)
        return self.book

    def health(self, acquirer_id: UUID) -> Health:
        """What this worker sees of an acquirer now."""
        link, answers = self.links.get(acquirer_id), self.answers.get(acquirer_id)
        up = link is not None and link.state == "up" and not link.tripped()
        return Health(up, *(answers.counts(self.now()) if answers is not None else (0, 0)))

    def note(self, acquirer_id: UUID, answered: bool) -> None:
        """What became of a request that left. `answered`: by a host that could say yes or no."""
        answers = self.answers.get(acquirer_id)
        if answers is None:
            answers = self.answers[acquirer_id] = Answers()
        answers.note(self.now(), answered)

    def _fixed(self, plan: Plan, terminal: Terminal) -> list[Acquirer]:
        return routing.each_once((route for group in plan.groups for route in group if route.acquirer_id in terminal.numbers),
                                 self.directory.acquirers)

    def _keep(self, terminal: Terminal, brand: str, found: list[Acquirer] | Plan) -> Any:
        chosen = self.directory.chosen
        if len(chosen) > CHOICES_MAX:
            chosen.clear()
        chosen[terminal.terminal_id, brand] = found
        return found


def sale(asked: Asked, timed: bool) -> Sale:
    """The request as rules see it; the merchant's wall clock is read only for those that look at it."""
    order, merchant, at = asked.order, asked.seller.merchant, asked.door.received_at
    digits = order.pan.reveal()[:BIN_DIGITS] if isinstance(order.pan, Pan) else ""  # a payment code is in no range of card numbers
    return Sale(merchant.merchant_id, merchant.mcc, asked.brand, digits, order.amount, order.currency, order.entry_mode,
                at.astimezone(merchant.zone) if timed else at, asked.identity,
                asked.seller.store.store_id)
