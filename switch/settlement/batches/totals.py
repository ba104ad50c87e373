"""What a terminal counted against what the books say: the rules of closing a batch. Pure. Minor units; entries are signed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

DIFFERENCES_MAX = 200


class Sums(NamedTuple):
    """Of one currency; all positive."""

    sales_count: int = 0
    sales: int = 0
    refunds_count: int = 0
    refunds: int = 0

    def plus(self, amount: int) -> "Sums":
        if amount > 0:
            return self._replace(sales_count=self.sales_count + 1, sales=self.sales + amount)
        return self._replace(refunds_count=self.refunds_count + 1, refunds=self.refunds - amount)


class Entry(NamedTuple):
    """What a batch takes of a transaction."""

    transaction_id: UUID
    acquirer_id: UUID
    currency: str
    amount: int


class Difference(NamedTuple):
    """`kind`: only_terminal, only_books, amount (both know it, differently), or suspect (its amount is what is missing or too much)."""

    kind: str
    transaction_id: UUID
    terminal_amount: int | None
    books_amount: int | None


def sums(entries: Iterable[Entry]) -> dict[str, Sums]:
    """By currency."""
    found: dict[str, Sums] = {}
    for entry in entries:
        found[entry.currency] = found.get(entry.currency, Sums()).plus(entry.amount)
    return found


def balanced(counted: Mapping[str, Sums], books: Mapping[str, Sums]) -> bool:
    """A currency that one side does not name is nothing of it."""
    return all(counted.get(currency, Sums()) == books.get(currency, Sums()) for currency in counted.keys() | books.keys())


def differences(counted: Mapping[str, Sums], entries: Sequence[Entry], listed: Mapping[UUID, int] | None) -> list[Difference]:
    """Which transactions differ: by the terminal's own list, or, without one, those whose amount alone explains a currency's difference."""
    if listed is not None:
        ours = {entry.transaction_id: entry.amount for entry in entries}
        found = [Difference("only_terminal" if each not in ours else "only_books" if each not in listed else "amount", each, listed.get(each),
                            ours.get(each)) for each in sorted(listed.keys() | ours.keys()) if listed.get(each) != ours.get(each)]
    else:
        books = sums(entries)
        found = [Difference("suspect", entry.transaction_id, None, entry.amount) for entry in entries
                 if _explains(entry, counted.get(entry.currency, Sums()), books[entry.currency])]
    return found[:DIFFERENCES_MAX]


def _explains(entry: Entry, counted: Sums, books: Sums) -> bool:
    """Whether the two would agree without it, or with it twice."""
    return counted != books and (counted.plus(entry.amount) == books or books.plus(entry.amount) == counted)
