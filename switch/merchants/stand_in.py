"""Terms of standing in for an acquirer that cannot be reached: written once, the newest of a merchant and brand holds, and 'off' is written too."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from switch.acquirers import load as load_dialect
from switch.database import Connection, Pool, work
from switch.errors import Problem
from switch.merchants import BRANDS
from switch.merchants.rules import RULES, Rule, check, number, refuse, text
from switch.money import AMOUNT_MAX, CURRENCIES
from switch.payments.transaction import STOOD_IN_FOR

ANY = "*"
ENTRY_MODES = ("chip", "contactless")  # a stripe or a typed number proves no card
REASON_MAX = 500
STAND_IN_RULES: dict[str, Rule] = {
    "brand": (lambda value: value in (ANY, "unknown", *BRANDS), f"one of: {', '.join(sorted(BRANDS))}, unknown, or * for any"),
    "currency": (lambda value: value in CURRENCIES, "an ISO 4217 alpha code with minor units"),
    "sale_amount": number(1, AMOUNT_MAX), "day_amount": number(1, AMOUNT_MAX), "day_count": number(1, 1_000_000),
    "entry_modes": (lambda value: isinstance(value, list) and bool(value) and len(set(value)) == len(value) and set(value) <= set(ENTRY_MODES),
                    f"one or both of: {', '.join(ENTRY_MODES)}"),
    "reason": text(rf"\S(.{{0,{REASON_MAX - 2}}}\S)?", f"1 to {REASON_MAX} characters on one line, no space at either end"), "by": RULES["person"],
}


@dataclass(frozen=True, slots=True)
class Terms:
    """`merchant_id` None and brand "*": any. Amounts in minor units of `currency`; those of a day are of each merchant and brand."""

    acquirer_id: UUID
    merchant_id: UUID | None
    brand: str
    state: str  # on off
    currency: str
    sale_amount: int
    day_amount: int
    day_count: int
    entry_modes: list[str]
    reason: str
    created_by: str
    created_at: datetime
    number: int


@dataclass(frozen=True, slots=True)
class Day:
    """What was approved in an acquirer's stead and not reversed since."""

    merchant_id: UUID
    brand: str
    currency: str
    business_date: date
    amount: int
    count: int


COLUMNS = ("acquirer_id, merchant_id, brand, state, currency, sale_amount, day_amount, day_count, entry_modes, reason, created_by, created_at, "
           "number")
# One at a time per acquirer: the newest number is the newest row.
DIALECT = "SELECT dialect FROM acquirer WHERE acquirer_id = $1 FOR NO KEY UPDATE"
MERCHANT = "SELECT EXISTS (SELECT FROM merchant WHERE merchant_id = $1)"
SET = f"""INSERT INTO stand_in_terms (acquirer_id, merchant_id, brand, state, currency, sale_amount, day_amount, day_count, entry_modes, reason,
created_by) VALUES ($1, $2, $3, 'on', $4, $5, $6, $7, $8::text[], $9, $10) RETURNING {COLUMNS}"""
OFF = f"""INSERT INTO stand_in_terms (acquirer_id, merchant_id, brand, state, currency, sale_amount, day_amount, day_count, entry_modes, reason,
created_by) SELECT acquirer_id, merchant_id, brand, 'off', currency, sale_amount, day_amount, day_count, entry_modes, $4, $5
FROM directory_stand_in_terms WHERE acquirer_id = $1 AND merchant_id IS NOT DISTINCT FROM $2 AND brand = $3 RETURNING {COLUMNS}"""
NEWEST = f"SELECT {COLUMNS} FROM directory_stand_in_terms WHERE acquirer_id = $1 ORDER BY merchant_id NULLS LAST, brand DESC LIMIT 1000"
DAYS = """SELECT merchant_id, brand, currency, business_date, amount, count FROM stand_in_day WHERE acquirer_id = $1 AND count > 0
ORDER BY business_date DESC, amount DESC LIMIT 200"""


async def set_stand_in(pool: Pool, acquirer_id: UUID, merchant_id: UUID | None, brand: str, *, by: str, **said: Any) -> Terms:
    """From now on. `said`: currency, sale_amount, day_amount, day_count, entry_modes, reason. Raises Problem: not_found, invalid, conflict (its
    messages know no such advice), not_ready."""
    check(STAND_IN_RULES, brand=brand, by=by, **said)
    refuse([("day_amount", "not less than sale_amount")] if said["day_amount"] < said["sale_amount"] else [])
    async with work(pool) as connection:
        name = await connection.fetchval(DIALECT, acquirer_id)
        if name is None:
            raise Problem("not_found")
        dialect = load_dialect(name)
        rule = dialect.messages.get(STOOD_IN_FOR)
        if rule is None or rule.mti != "0220" or dialect.asks:
            raise Problem("conflict", "This acquirer's messages know no advice of a sale that was approved without it; nobody can stand in for it.")
        await _known(connection, merchant_id)
        row = await connection.fetchrow(SET, acquirer_id, merchant_id, brand, said["currency"], said["sale_amount"], said["day_amount"],
                                        said["day_count"], sorted(said["entry_modes"]), said["reason"], by)
        assert row is not None
        return Terms(*row)


async def end_stand_in(pool: Pool, acquirer_id: UUID, merchant_id: UUID | None, brand: str, reason: str, by: str) -> Terms:
    """No more sales of these; wider terms do not hold for them either. Raises Problem: not_found (there are none), invalid, not_ready."""
    check(STAND_IN_RULES, brand=brand, reason=reason, by=by)
    async with work(pool) as connection:
        if await connection.fetchval(DIALECT, acquirer_id) is None:
            raise Problem("not_found")
        row = await connection.fetchrow(OFF, acquirer_id, merchant_id, brand, reason, by)
        if row is None:
            raise Problem("not_found", "There are no such terms: merchant and brand must be those that they were set for.")
        return Terms(*row)


async def stand_in_of(pool: Pool, acquirer_id: UUID) -> tuple[list[Terms], list[Day]]:
    """The terms as they are, the most particular first, and what was taken of the latest days. Raises Problem: not_found, not_ready."""
    async with work(pool) as connection:
        if await connection.fetchval(DIALECT, acquirer_id) is None:
            raise Problem("not_found")
        return [Terms(*row) for row in await connection.fetch(NEWEST, acquirer_id)], [Day(*row) for row in await connection.fetch(DAYS, acquirer_id)]


async def _known(connection: Connection, merchant_id: UUID | None) -> None:
    if merchant_id is not None and not await connection.fetchval(MERCHANT, merchant_id):
        raise Problem("not_found", "There is no such merchant.")
