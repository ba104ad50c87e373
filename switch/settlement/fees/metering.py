"""The fee engine behind a cut-over: tariffs and costs in force, the month's volume, what a refund gives back, monthly fees and tax."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from uuid import UUID

from switch import money
from switch.database import Connection
from switch.settlement.fees import charges, corrections, pricing
from switch.settlement.fees.charges import Costs, Original, Sale, Schedule, Tariff, Tax
from switch.settlement.fees.corrections import Corrections, Counted
from switch.settlement.fees.matching import REFUND, SALE
from switch.settlement.fees.pricing import Closing, Pricer, Settled, Taken
from switch.settlement.fees.tariffs import costs_of, tariffs_of

# Of the month before this day; sales that were approved late and what was undone since in the day that settled the difference. And whether other
# acquirers have settled this day: their sales are counted where they come in its order.
MONTH_TO_DATE = """SELECT coalesce(sum(coalesce(volume, sales)) FILTER (WHERE business_date < $3), 0)::bigint AS volume,
coalesce(bool_or(business_date = $3), false) AS others FROM settlement
WHERE merchant_id = $1 AND currency = $2 AND business_date BETWEEN date_trunc('month', $3::date)::date AND $3"""
# Two acquirers' cut-overs at once wait for each other here: the later one sees the sales of the earlier, and monthly fees come once.
LOCK = "SELECT pg_advisory_xact_lock(3583013, hashtext($1::uuid::text))"
CHARGED = """SELECT EXISTS (SELECT FROM settlement WHERE merchant_id = $1 AND currency = $2 AND extras @> '[{"monthly": true}]'
AND business_date BETWEEN date_trunc('month', $3::date)::date AND (date_trunc('month', $3::date) + interval '1 month - 1 day')::date)"""
COUNTS = """SELECT (SELECT count(*) FROM directory_terminal WHERE merchant_id = $1 AND own_status = 'active') AS terminal,
(SELECT count(*) FROM directory_store WHERE merchant_id = $1) AS store"""


@dataclass(slots=True)
class MeteredPricer:
    """Of one merchant, currency and day. `volume`: of the month's sales so far; `sold`: what the day itself took of sales with refunds.

    `others`: what other acquirers have settled for this day, in the order in which it is counted.
    """

    tariffs: Schedule[Tariff]
    costs: Schedule[Costs]
    currency: str
    business_date: date
    volume: int
    counts: Mapping[str, int] | None  # None: this month's fees were charged
    others: Sequence[Counted] = ()
    corrections: Corrections = field(default_factory=Corrections)
    passed: int = 0
    sold: dict[UUID, Original] = field(default_factory=dict)
    to_tax: dict[tuple[Tax, str], int] = field(default_factory=lambda: defaultdict(int))
    priced: int = 0

    @property
    def owes_month(self) -> bool:
        return self.counts is not None

    def prices(self, taken: Sequence[Taken]) -> list[pricing.Price]:
        return [self._price(each) for each in taken]

    def _price(self, taken: Taken) -> pricing.Price:
        while self.passed < len(self.others) and self.others[self.passed][:2] < (taken.captured_at, taken.transaction_id):
            self.volume, self.passed = self.volume + self.others[self.passed].counts, self.passed + 1
        if not taken.amount:
            self.volume += taken.counts
            return pricing.Price(rule=UNDONE)
        tariff, costs = self.tariffs.on(taken.authorised_on), self.costs.on(taken.authorised_on)
        refund = taken.amount < 0
        sale = Sale(taken.transaction_id, taken.captured_at, abs(taken.amount), REFUND if refund else SALE, taken.currency, taken.brand,
                    taken.card_type, "qr" if taken.entry_mode == "qr" else "card", taken.entry_mode, taken.mcc, taken.authorised_on, None,
                    taken.sale, self._original(taken) if refund else None)
        found = charges.price(tariff, costs, sale, self.volume)
        self._remember(taken, found)
        if tariff is not None and found.fee:
            self.to_tax[tariff.tax, tariff.rounding] += found.fee
        self.priced += found.fee
        rule = found.rule or (pricing.NO_TARIFF if tariff is None else pricing.NO_RULE)
        return pricing.Price(found.fee, found.interchange, found.scheme_fee, found.acquirer_fee, found.tariff_id, rule)

    def _original(self, taken: Taken) -> Original | None:
        """What was taken of the refund's sale: on earlier days by the books, today by this pricer."""
        before, today = taken.settled or NOTHING, self.sold.get(taken.sale) if taken.sale is not None else None
        known = Original(*(one + other for one, other in zip(before, today or Original(0, 0), strict=True)))
        return known if known.amount else None

    def _remember(self, taken: Taken, found: charges.Priced) -> None:
        self.volume += taken.counts
        if taken.sale is None or not (taken.given_back or taken.amount < 0):
            return
        known = self.sold.get(taken.sale, Original(0, 0))
        if taken.amount > 0:
            self.sold[taken.sale] = Original(known.amount + taken.amount, known.fee + found.fee, known.interchange + found.interchange,
                                             known.scheme_fee + found.scheme_fee, known.acquirer_fee + found.acquirer_fee, known.refunded)
        else:
            self.sold[taken.sale] = known._replace(refunded=known.refunded - taken.amount)

    def close(self, charged: int) -> Closing:
        """Monthly fees when they are due, and the tax on all fees by the tariff that they came from; a fee given back by the one in force today."""
        tariff, extras = self.tariffs.on(self.business_date), list[pricing.Extra]()
        if self.counts is not None:
            for each, count, amount in charges.periodic_fees(tariff, self.counts):
                if each.currency == self.currency:
                    extras.append(pricing.Extra(f"{each.name}: {count} x {money.text(each.amount, each.currency)}", amount, True))
        if tariff is not None:
            self.to_tax[tariff.tax, tariff.rounding] += charged - self.priced + sum(each.amount for each in extras)
        tax = 0
        for (kind, rounding), base in self.to_tax.items():
            amount = charges.taxed(kind, base, rounding) if kind.rate else 0
            tax += amount
            if amount and kind.inclusive:  # contained in the fees: shown as tax, and taken out of them
                extras.append(pricing.Extra(f"{kind.name} contained in the fees", -amount))
        return Closing(tax, tuple(extras))


NOTHING = Settled(0, 0, 0, 0, 0, 0)
UNDONE = "undone after it was settled"


class Metered:
    """The tariffs of merchants and the costs of acquirers as they were agreed."""

    def __init__(self) -> None:
        self.costs: dict[UUID, Schedule[Costs]] = {}

    async def of(self, connection: Connection, acquirer_id: UUID, business_date: date, merchant_id: UUID, currency: str,
                 corrected: bool = False) -> Pricer:
        if acquirer_id not in self.costs:
            self.costs[acquirer_id] = Schedule(await costs_of(connection, acquirer_id))
        tariffs, costs = Schedule(await tariffs_of(connection, merchant_id)), self.costs[acquirer_id]
        await connection.execute(LOCK, merchant_id)
        month = await connection.fetchrow(MONTH_TO_DATE, merchant_id, currency, business_date)
        assert month is not None
        others = await corrections.others(connection, merchant_id, currency, business_date, acquirer_id) if month["others"] else ()
        found = Corrections()
        if corrected:
            found = await corrections.replay(connection, tariffs, costs, merchant_id, currency, acquirer_id, business_date)
        today, counts = tariffs.on(business_date), None
        if today is not None and today.periodic and not await connection.fetchval(CHARGED, merchant_id, currency, business_date):
            row = await connection.fetchrow(COUNTS, merchant_id)
            counts = {} if row is None else dict(row)
        return MeteredPricer(tariffs, costs, currency, business_date, month["volume"], counts, others, found)
