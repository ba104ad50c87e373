"""The life of a payout: one table. Pure.

What a bank says is a fact, and each fact posts its own transfers once, whatever came before it: so any order of files gives the same ledger.
"""

from datetime import date
from typing import NamedTuple
from uuid import UUID

from switch.ids import show
from switch.settlement.ledger import Account, Transfer

REQUESTED, SENT, CONFIRMED, RETURNED = "requested", "sent", "confirmed", "returned"
# send: its file went to the bank. confirm: the bank paid it. return: the bank paid it and the money came back. reject: the bank did not pay it.
SEND, CONFIRM, RETURN, REJECT = "send", "confirm", "return", "reject"
EVENT_OF = {"confirmed": CONFIRM, "returned": RETURN, "rejected": REJECT}

LIFE = {
    (REQUESTED, SEND): SENT,
    (SENT, CONFIRM): CONFIRMED, (SENT, RETURN): RETURNED, (SENT, REJECT): RETURNED,
    (CONFIRMED, CONFIRM): CONFIRMED, (CONFIRMED, RETURN): RETURNED, (CONFIRMED, REJECT): RETURNED,
    (RETURNED, CONFIRM): RETURNED, (RETURNED, RETURN): RETURNED, (RETURNED, REJECT): RETURNED,
}
ILLEGAL = {
    (REQUESTED, CONFIRM): "not_sent", (REQUESTED, RETURN): "not_sent", (REQUESTED, REJECT): "not_sent",
    (SENT, SEND): "sent_already", (CONFIRMED, SEND): "answered_already", (RETURNED, SEND): "answered_already",
}


class IllegalMove(Exception):
    """`name`: not_sent, sent_already, answered_already."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Payout(NamedTuple):
    merchant_id: UUID
    payout_id: UUID
    currency: str
    amount: int


def step(state: str, event: str) -> str:
    """The next state. Raises IllegalMove."""
    if (state, event) in ILLEGAL:
        raise IllegalMove(ILLEGAL[state, event])
    return LIFE[state, event]


def contradicts(facts: frozenset[str]) -> bool:
    """The bank says that it did not pay what it paid, and nothing came back: a person must ask it."""
    return {"confirmed", "rejected"} <= facts and "returned" not in facts


def requested(payout: Payout, on: date) -> list[Transfer]:
    """From what the merchant is owed to what is on its way."""
    return [_moved(payout, "payout_requested", "merchant", "payout", on)]


def transfers(payout: Payout, event: str, on: date, reason: str = "") -> list[Transfer]:
    """What an answer of the bank posts. What came back had been paid, also when the bank never said so."""
    paid = _moved(payout, "payout_confirmed", "payout", "bank", on)
    back = _moved(payout, "payout_returned", "bank", "payout", on, reason)
    given = _moved(payout, "payout_given_back", "payout", "merchant", on, reason)
    return {CONFIRM: [paid], RETURN: [paid, back, given], REJECT: [given]}[event]


def _moved(payout: Payout, cause: str, debit: str, credit: str, on: date, note: str = "") -> Transfer:
    def account(kind: str) -> Account:
        return Account(kind, payout.currency, None if kind == "bank" else payout.merchant_id)

    return Transfer(account(debit), account(credit), payout.amount, cause, show("payout", payout.payout_id), on,
                    f"payout:{payout.payout_id}:{cause}", note)
