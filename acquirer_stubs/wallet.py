"""A QR wallet: what it decides. Pure rules over an order and what the book already holds; `Wallet.apply` alone changes what it knows.

    amount modulo 100   05 14 51 54 61 40 57 decline with the reason of REASONS, 08 stays pending until somebody decides (POST /host), 09 is paid so
                        many seconds after it came, anything else is paid at once
    close               a pending order is closed and never paid; any other is answered as it stands
    cancel              a pending order is closed, a paid one given back whole; one that is not known yet is refused when it comes
    refund              up to what was paid and not given back; 04 pending until it is asked for again, 03 declined
An order, or a refund, that comes again is answered as it stands; with another amount or currency it is declined.
"""
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

REASONS = {5: "refused", 14: "code_invalid", 51: "insufficient_funds", 54: "code_expired", 57: "not_permitted", 61: "limit_exceeded"}
WAITS, PAYS_LATER = 8, 9
REFUND_LATER, REFUND_DECLINED = 4, 3
VERBS = ("pay", "query", "close", "cancel", "refund")


class Asked(NamedTuple):
    """One request, as the HTTP side read it. `part`: the refund that is meant; `token`: keyed hash of the payment code."""
    verb: str
    order: str
    part: str = ""
    amount: int = 0
    currency: str = ""
    terminal: str = ""
    merchant: str = ""
    token: str = ""


class Decision(NamedTuple):
    """What became of an order or a refund, complete enough to rebuild the wallet from the book. `net`: minor units that move by it."""
    order: str
    part: str
    word: str
    reason: str
    amount: int
    currency: str
    net: int
    terminal: str
    token: str
    at: float  # when the order or the refund came


@dataclass(slots=True)
class Order:
    amount: int
    currency: str
    terminal: str
    word: str
    reason: str
    at: float
    given_back: int = 0
    refunds: dict[str, "Refund"] = field(default_factory=dict)


@dataclass(slots=True)
class Refund:
    amount: int
    currency: str
    word: str
    reason: str
    asked: int = 0


class Wallet:
    """All orders, the codes that were used, and the totals per currency."""

    def __init__(self, pays_after: float = 1.0) -> None:
        self.pays_after = pays_after
        self.orders: dict[str, Order] = {}
        self.cancelled_in_advance: set[str] = set()
        self.used: dict[str, str] = {}  # token of a code -> its order
        self.net: Counter[str] = Counter()
        self.decisions: Counter[str] = Counter()

    def apply(self, decision: Decision) -> None:
        """Books one decision; called once per decision line, live and on read-back."""
        self.decisions[decision.word] += 1
        self.net[decision.currency] += decision.net
        known = self.orders.get(decision.order)
        if known is None:
            if decision.word == "cancelled":
                self.cancelled_in_advance.add(decision.order)
                return
            known = self.orders[decision.order] = Order(decision.amount, decision.currency, decision.terminal, decision.word, decision.reason,
                                                        decision.at)
            if decision.token:
                self.used.setdefault(decision.token, decision.order)
        elif not decision.part:
            known.word, known.reason = decision.word, decision.reason
        if decision.part:
            refund = known.refunds.setdefault(decision.part, Refund(decision.amount, decision.currency, decision.word, decision.reason))
            refund.word, refund.reason = decision.word, decision.reason
            known.given_back -= decision.net

    def decide(self, asked: Asked, now: float | None = None) -> Decision:
        """The verdict; nothing is changed."""
        at = time.time() if now is None else now
        if asked.verb == "pay":
            return self._pay(asked, at)
        order = self.orders.get(asked.order)
        if order is None:
            known = asked.verb == "cancel" and not asked.part
            return Decision(asked.order, asked.part, "cancelled" if known else "unknown_order", "", asked.amount, asked.currency, 0, "", "", at)
        if (asked.amount, asked.currency) != (order.amount, order.currency) and asked.verb in ("close", "cancel") and not asked.part:
            return self._said(asked.order, order, "declined", "refused")
        if asked.verb == "refund":
            return self._refund(asked, order, at)
        if asked.part:
            return self._part(asked, order)
        word = self._grown(order, at)
        if asked.verb in ("close", "cancel") and word == "pending":
            return self._said(asked.order, order, "closed" if asked.verb == "close" else "cancelled")
        if asked.verb == "cancel":  # paid just now and given back at once moves nothing
            return self._said(asked.order, order, "cancelled", net=order.given_back - order.amount if order.word == "paid" else 0)
        return self._said(asked.order, order, word, order.reason, net=order.amount if word == "paid" and order.word == "pending" else 0)

    def _grown(self, order: Order, at: float) -> str:
        late = order.word == "pending" and order.amount % 100 == PAYS_LATER and at >= order.at + self.pays_after
        return "paid" if late else order.word

    def _said(self, name: str, order: Order, word: str, reason: str = "", net: int = 0) -> Decision:
        return Decision(name, "", word, reason, order.amount, order.currency, net, order.terminal, "", order.at)

    def _pay(self, asked: Asked, at: float) -> Decision:
        known, ending = self.orders.get(asked.order), asked.amount % 100
        if known is not None:
            if (known.amount, known.currency) != (asked.amount, asked.currency):
                return self._said(asked.order, known, "declined", "refused")._replace(amount=asked.amount, currency=asked.currency)
            return self._said(asked.order, known, self._grown(known, at), known.reason)
        word, reason = "paid", ""
        if asked.order in self.cancelled_in_advance:
            word, reason = "closed", ""
        elif asked.token in self.used:
            word, reason = "declined", "code_invalid"
        elif ending in REASONS:
            word, reason = "declined", REASONS[ending]
        elif ending in (WAITS, PAYS_LATER):
            word = "pending"
        net = asked.amount if word == "paid" else 0
        return Decision(asked.order, "", word, reason, asked.amount, asked.currency, net, asked.terminal, asked.token, at)

    def _refund(self, asked: Asked, order: Order, at: float) -> Decision:
        known = order.refunds.get(asked.part)
        if known is not None:
            return self._part(asked, order)
        if self._grown(order, at) != "paid" or asked.currency != order.currency or asked.amount > order.amount - order.given_back:
            word, reason = "declined", "not_refundable"
        elif asked.amount % 100 == REFUND_DECLINED:
            word, reason = "declined", "refused"
        else:
            word, reason = "pending" if asked.amount % 100 == REFUND_LATER else "done", ""
        net = -asked.amount if word == "done" else 0
        return Decision(asked.order, asked.part, word, reason, asked.amount, asked.currency, net, order.terminal, "", at)

    def _part(self, asked: Asked, order: Order) -> Decision:
        refund = order.refunds.get(asked.part)
        if refund is None:
            return Decision(asked.order, asked.part, "unknown_order", "", asked.amount, asked.currency, 0, order.terminal, "", 0.0)
        word, net = refund.word, 0
        if asked.verb == "cancel":
            word, net = "cancelled", refund.amount if refund.word == "done" else 0
        elif word == "pending":
            word, net = "done", -refund.amount
        return Decision(asked.order, asked.part, word, refund.reason, refund.amount, refund.currency, net, order.terminal, "", 0.0)

    def person(self, order: str, word: str, reason: str = "") -> Decision | None:
        """The payer decides a pending order: paid or declined. None: there is nothing to decide."""
        known = self.orders.get(order)
        if known is None or known.word != "pending" or word not in ("paid", "declined"):
            return None
        return self._said(order, known, word, reason or ("refused" if word == "declined" else ""), known.amount if word == "paid" else 0)

    def changes(self, decision: Decision) -> bool:
        """Whether a decision has to be booked: one that says again what stands does not."""
        order = self.orders.get(decision.order)
        if order is None:
            return decision.word != "unknown_order" and not (decision.word == "cancelled" and decision.order in self.cancelled_in_advance)
        if decision.part:
            refund = order.refunds.get(decision.part)
            return decision.word != "unknown_order" and (refund is None or refund.word != decision.word)
        return decision.amount == order.amount and decision.currency == order.currency and order.word != decision.word


def totals(wallet: Wallet) -> dict[str, Any]:
    return {"orders": len(wallet.orders), "net": dict(wallet.net), "decisions": dict(wallet.decisions)}
