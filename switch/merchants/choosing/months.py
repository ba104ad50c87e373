"""What a month would cost under an offer, by the calculation that settles, and percentiles of what was measured. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from switch.settlement.fees.bills import Bill, bill
from switch.settlement.fees.charges import Costs, Sale, Tariff

SALES_MAX = 10_000
BOUNDS_MS = (50, 100, 150, 200, 300, 400, 500, 700, 1000, 1500, 2000, 3000, 5000, 7000, 10_000, 15_000, 20_000, 30_000, 60_000)


class Part(NamedTuple):
    """A part of a month's sales: `share` is its weight among all parts."""

    brand: str
    card_type: str
    method: str  # card qr
    share: int


class Month(NamedTuple):
    """What is sold in a month. Amounts are minor units; `terminals` and `stores` are what is charged by the month for."""

    currency: str
    volume: int
    ticket: int
    mcc: str
    parts: tuple[Part, ...]
    terminals: int
    stores: int

    @property
    def sales(self) -> int:
        return -(-self.volume // self.ticket)


def sales_of(month: Month, first: datetime, acquirer_id: UUID) -> list[Sale]:
    """The month's sales: each of the ticket's size, the last of what is left; the parts take turns by their shares."""
    total, taken, found = sum(part.share for part in month.parts), [0] * len(month.parts), list[Sale]()
    for number in range(month.sales):
        # Whose turn it is: who is furthest behind its share.
        at = max(range(len(month.parts)), key=lambda each: (month.parts[each].share * (number + 1) - taken[each] * total, -each))
        taken[at] += 1
        part, amount = month.parts[at], min(month.ticket, month.volume - number * month.ticket)
        when = first + timedelta(seconds=number)
        found.append(Sale(UUID(int=number), when, amount, "sale", month.currency, part.brand, part.card_type, part.method,
                          "qr" if part.method == "qr" else "chip", month.mcc, first.date(), acquirer_id, None, None, first.date()))
    return found


def estimate(tariff: Tariff, costs: Mapping[UUID | None, Iterable[Costs]], month: Month, first: datetime, acquirer_id: UUID) -> Bill:
    """The bill of the month, with what is charged by the month."""
    return bill([tariff], costs, sales_of(month, first, acquirer_id), {}, {"terminal": month.terminals, "store": month.stores}, first.date())


def percentile(times: Sequence[int], percent: int) -> int | None:
    """Milliseconds under which so many per cent were answered: the bound of the bucket; None: nothing was, or later than all bounds."""
    total = sum(times)
    if not total:
        return None
    reached, wanted = 0, -(-total * percent // 100)
    for bound, count in zip(BOUNDS_MS, times, strict=False):
        reached += count
        if reached >= wanted:
            return bound
    return None


def first_of(day: date) -> date:
    return day.replace(day=1)
