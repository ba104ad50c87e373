"""What a settled transaction costs: the fee engine as the cut-over asks it, merchant by merchant, in order of capture time and id."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from switch.database import Connection
from switch.settlement.fees.corrections import Corrections

NO_TARIFF = "no tariff in force"
NO_RULE = "no rule of the tariff is for it"  # what is settled without a fee, although its merchant has a tariff


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
    `settled`: of a refund, what the books of earlier days know of its sale. `counts`: by how much it changes the month's volume. With an
    amount of 0 it was undone after it was settled, and costs nothing any more.
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
    settled: Settled | None
    counts: int


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
    """Of one merchant, currency and business date. Called with its transactions in order, in pieces; then closed with the sum of their fees.

    `corrections`: of lines of earlier days that were priced before an earlier sale of another acquirer was known.
    """

    corrections: Corrections

    @property
    def owes_month(self) -> bool:
        """Whether the fees of the month are charged now, unless they come to nothing."""
        ...

    def prices(self, taken: Sequence[Taken]) -> Sequence[Price]: ...

    def close(self, fees: int) -> Closing: ...


class Pricing(Protocol):
    """Asked inside the database transaction that writes the settlement, for merchants in the order of their ids."""

    async def of(self, connection: Connection, acquirer_id: UUID, business_date: date, merchant_id: UUID, currency: str,
                 corrected: bool = False) -> Pricer:
        """`corrected`: whether lines of earlier days wait to be priced again."""
        ...
