"""What a settled transaction costs: the fee engine as the cut-over asks it, merchant by merchant, in order of capture time and id."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from switch.database import Connection
from switch.settlement.funding import half_even


class Settled(NamedTuple):
    """What was settled before of the sale behind a refund, and how much of it was refunded."""

    amount: int
    fee: int
    interchange: int
    scheme_fee: int
    acquirer_fee: int
    refunded: int


class Taken(NamedTuple):
    """A transaction to be priced. `amount`: minor units, negative for a refund; `authorised_on`: the business date whose tariff holds.

    `sale`: the transaction that it belongs to, itself or its original; `given_back`: that one has refunds, so its price is asked for again;
    `settled`: of a refund, what the books of earlier days know of its sale.
    """

    transaction_id: UUID
    type: str
    amount: int
    currency: str
    authorised_on: date
    for_date: date
    captured_at: datetime
    brand: str
    card_type: str
    entry_mode: str
    mcc: str
    store_id: UUID
    terminal_id: UUID
    sale: UUID | None
    given_back: bool
    settled: Settled | None = None


class Price(NamedTuple):
    """Minor units, positive when charged: `fee` to the merchant, the others to us. `rule`: which rule of which tariff, in words."""

    fee: int = 0
    interchange: int = 0
    scheme_fee: int = 0
    acquirer_fee: int = 0
    tariff_id: UUID | None = None
    rule: str = ""


class Extra(NamedTuple):
    """A fee of a settlement that belongs to none of its transactions. `monthly`: charged once a month."""

    name: str
    amount: int
    monthly: bool = False


class Closing(NamedTuple):
    """`extras` are included in the fees of the settlement; `tax` comes on top of them."""

    tax: int = 0
    extras: tuple[Extra, ...] = ()


class Pricer(Protocol):
    """Of one merchant, currency and business date. Called with its transactions in order, in pieces; then closed with the sum of their fees."""

    def prices(self, taken: Sequence[Taken]) -> Sequence[Price]: ...

    def close(self, fees: int) -> Closing: ...


class Pricing(Protocol):
    """Asked inside the database transaction that writes the settlement, for merchants in the order of their ids."""

    async def of(self, connection: Connection, acquirer_id: UUID, business_date: date, merchant_id: UUID, currency: str) -> Pricer: ...


class FlatPricer:
    """One rate per tariff, rounded half to even; refunds give nothing back."""

    def __init__(self, rates: Sequence[tuple[date, int]]) -> None:
        self.rates = rates  # effective from, basis points; the latest first

    def prices(self, taken: Sequence[Taken]) -> list[Price]:
        return [self._price(each) for each in taken]

    def _price(self, taken: Taken) -> Price:
        rate = next((points for since, points in self.rates if since <= taken.authorised_on), None)
        if rate is None:
            return Price(rule="no tariff in force")
        if taken.amount <= 0:
            return Price(rule="refunds are free")
        return Price(half_even(taken.amount, rate), rule=f"{rate // 100}.{rate % 100:02d} %")

    def close(self, fees: int) -> Closing:
        return Closing()


RATES = "SELECT effective_from, basis_points FROM tariff WHERE merchant_id = $1 ORDER BY effective_from DESC"


class FlatTariffs:
    """The tariffs of the table `tariff`."""

    async def of(self, connection: Connection, acquirer_id: UUID, business_date: date, merchant_id: UUID, currency: str) -> Pricer:
        return FlatPricer([(row[0], row[1]) for row in await connection.fetch(RATES, merchant_id)])
