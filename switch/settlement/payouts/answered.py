"""What a bank's answer says, whatever its form. Pure."""

from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

FACTS = ("confirmed", "returned", "rejected")
ENTRIES_MAX = 100_000


class Said(NamedTuple):
    """One movement or report about one payment. `line`: in the file, from 1; `amount`: positive minor units; `end_to_end_id`: empty when the bank
    names none; `fact`: None for money that is no answer to a payout."""

    line: int
    fact: str | None
    end_to_end_id: str
    credit: bool  # money came to us
    amount: int
    currency: str
    booked_on: date
    bank_reference: str
    reason: str


class Answer(NamedTuple):
    """`account`: whose statement it is, as the bank writes it. `statement`: the sender's own name of it. `books`: it is a statement of the
    account, in which every entry is money; else a report of payments."""

    format: str
    account: str
    currency: str
    statement: str
    number: int
    day: date
    books: bool
    said: Sequence[Said]
