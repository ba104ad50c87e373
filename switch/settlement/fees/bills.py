"""A month's fees as one bill: the calculation of `fees` over all its transactions, with totals, lines, periodic fees and tax. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple
from uuid import UUID

from switch.settlement.fees.charges import Costs, Meter, Original, Priced, Sale, Tariff, Tax, in_order, periodic_fees, taxed
from switch.settlement.fees.matching import REFUND


class Taxed(NamedTuple):
    tax: Tax
    base: int  # fees, with what is charged by the month
    amount: int


@dataclass(slots=True)
class Totals:
    """Of one currency. `fees`: of transactions; `periodic`: by the month; net = sales - refunds - fees - periodic - tax that comes on top."""

    sales_count: int = 0
    sales: int = 0
    refunds_count: int = 0
    refunds: int = 0
    fees: int = 0
    periodic: int = 0
    interchange: int = 0
    scheme_fees: int = 0
    acquirer_fees: int = 0
    taxes: tuple[Taxed, ...] = ()

    @property
    def tax(self) -> int:
        return sum(each.amount for each in self.taxes)

    @property
    def tax_on_top(self) -> int:
        return sum(each.amount for each in self.taxes if not each.tax.inclusive)

    @property
    def gross(self) -> int:
        return self.sales - self.refunds

    @property
    def margin(self) -> int:
        return self.fees - self.interchange - self.scheme_fees - self.acquirer_fees

    @property
    def net(self) -> int:
        return self.gross - self.fees - self.periodic - self.tax_on_top


class FeeLine(NamedTuple):
    """A line of the statement: all lines of fees of one rule, kind and rate. Of periodic fees `rate` is the amount of one."""

    currency: str
    rule: str
    kind: str
    rate: int
    times: int
    base: int
    amount: int


@dataclass(slots=True)
class Bill:
    """`priced` in the order in which it was counted. `month_to_date` and `sold`: what goes on in the next part of the month."""

    priced: list[Priced] = field(default_factory=list)
    totals: dict[str, Totals] = field(default_factory=dict)
    lines: list[FeeLine] = field(default_factory=list)
    unpriced: list[UUID] = field(default_factory=list)  # no tariff in force, or none of its rules is for them
    month_to_date: dict[str, int] = field(default_factory=dict)
    sold: dict[UUID, Original] = field(default_factory=dict)


def bill(tariffs: Iterable[Tariff], costs: Mapping[UUID | None, Iterable[Costs]], facts: Iterable[Sale], month_to_date: Mapping[str, int],
         counts: Mapping[str, int] | None = None, on: date | None = None) -> Bill:
    """The transactions of one merchant and month, in whatever order they come. `month_to_date`: volume by currency before the first of them.

    `counts`: terminals and stores for what is charged by the month, None when it is not due here; `on`: the date whose tariff says what.
    Its tax goes by the tariff in force when a transaction was authorised.
    """
    sales = in_order(facts)
    meter = Meter(tariffs, costs, month_to_date, {sale.original_id for sale in sales if sale.original_id is not None})
    result, lines = Bill(), dict[tuple[str, str, str, int], list[int]]()
    to_tax: dict[tuple[str, Tax, str], int] = {}
    for sale in sales:
        priced = meter.price(sale)
        result.priced.append(priced)
        _count(result.totals, sale, priced)
        if not priced.rule:
            result.unpriced.append(sale.transaction_id)
        for line in priced.lines:
            sums = lines.setdefault((sale.currency, priced.rule, line.kind, line.rate), [0, 0, 0])
            sums[0], sums[1], sums[2] = sums[0] + 1, sums[1] + line.base, sums[2] + line.amount
        tariff = meter.tariffs.on(sale.authorised_on)
        if tariff is not None and priced.fee:
            taxable = sale.currency, tariff.tax, tariff.rounding
            to_tax[taxable] = to_tax.get(taxable, 0) + priced.fee
    last = on or (sales[-1].authorised_on if sales else date.max)
    if counts is not None:
        _add_periodic(meter.tariffs.on(last), counts, result, lines, to_tax)
    result.lines = [FeeLine(*key, *sums) for key, sums in sorted(lines.items())]
    for (currency, tax, rounding), base in to_tax.items():
        if tax.rate:
            totals = result.totals[currency]
            totals.taxes = (*totals.taxes, Taxed(tax, base, taxed(tax, base, rounding)))
    result.month_to_date, result.sold = meter.volume, meter.sold
    return result


def _count(all_totals: dict[str, Totals], sale: Sale, priced: Priced) -> None:
    totals = all_totals.get(sale.currency)
    if totals is None:
        totals = all_totals[sale.currency] = Totals()
    if sale.kind == REFUND:
        totals.refunds_count, totals.refunds = totals.refunds_count + 1, totals.refunds + sale.amount
    else:
        totals.sales_count, totals.sales = totals.sales_count + 1, totals.sales + sale.amount
    totals.fees += priced.fee
    totals.interchange += priced.interchange
    totals.scheme_fees += priced.scheme_fee
    totals.acquirer_fees += priced.acquirer_fee


def _add_periodic(tariff: Tariff | None, counts: Mapping[str, int], result: Bill, lines: dict[tuple[str, str, str, int], list[int]],
                  to_tax: dict[tuple[str, Tax, str], int]) -> None:
    for each, count, amount in periodic_fees(tariff, counts):
        assert tariff is not None
        result.totals.setdefault(each.currency, Totals()).periodic += amount
        sums = lines.setdefault((each.currency, f"{tariff.name}: {each.name}", each.per, each.amount), [0, 0, 0])
        sums[0], sums[2] = sums[0] + count, sums[2] + amount
        taxable = each.currency, tariff.tax, tariff.rounding
        to_tax[taxable] = to_tax.get(taxable, 0) + amount
