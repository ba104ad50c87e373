"""What acquirers allow beyond the authorised amount and for how long, and what a merchant may do that others may not."""

from dataclasses import astuple, dataclass
from uuid import UUID

from switch.database import Pool, work
from switch.errors import Problem
from switch.merchants import BRANDS
from switch.merchants.rules import check, refuse

ANY = "*"


@dataclass(frozen=True, slots=True)
class Terms:
    """Of an acquirer, for an MCC and a brand, "*" for any. Basis points are hundredths of a percent of the authorised amount."""

    acquirer_id: UUID
    mcc: str
    brand: str
    completion_basis_points: int
    tip_basis_points: int
    valid_hours: int


BOUNDS = (("completion_basis_points", 0, 10_000), ("tip_basis_points", 0, 10_000), ("valid_hours", 1, 8784))
KNOWN = "SELECT EXISTS (SELECT FROM acquirer WHERE acquirer_id = $1)"
SET = """INSERT INTO authorization_terms (acquirer_id, mcc, brand, completion_basis_points, tip_basis_points, valid_hours)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (acquirer_id, mcc, brand) DO UPDATE SET completion_basis_points = EXCLUDED.completion_basis_points,
  tip_basis_points = EXCLUDED.tip_basis_points, valid_hours = EXCLUDED.valid_hours"""
LIST = """SELECT acquirer_id, mcc, brand, completion_basis_points, tip_basis_points, valid_hours FROM authorization_terms
WHERE acquirer_id = $1 ORDER BY mcc DESC, brand DESC"""
PERMIT = "UPDATE merchant SET unreferenced_refunds = $2 WHERE merchant_id = $1 RETURNING true"


async def set_terms(pool: Pool, terms: Terms) -> Terms:
    """For authorizations that are approved from now on. Raises Problem: not_found, invalid, not_ready."""
    check(mcc=None if terms.mcc == ANY else terms.mcc)
    refuse([(name, f"a whole number from {low} to {high}") for name, low, high in BOUNDS if not low <= getattr(terms, name) <= high])
    refuse([] if terms.brand in (ANY, "unknown", *BRANDS) else [("brand", f"one of: {', '.join(sorted(BRANDS))}, unknown, or * for any")])
    async with work(pool) as connection:
        if not await connection.fetchval(KNOWN, terms.acquirer_id):
            raise Problem("not_found")
        await connection.execute(SET, *astuple(terms))
    return terms


async def terms_of(pool: Pool, acquirer_id: UUID) -> list[Terms]:
    """The most particular first. Raises Problem not_found."""
    async with work(pool) as connection:
        if not await connection.fetchval(KNOWN, acquirer_id):
            raise Problem("not_found")
        return [Terms(*row) for row in await connection.fetch(LIST, acquirer_id)]


async def permit(pool: Pool, merchant_id: UUID, unreferenced_refunds: bool) -> None:
    """Whether the merchant's terminals may give money back that no sale here took. Raises Problem not_found."""
    async with work(pool) as connection:
        if not await connection.fetchval(PERMIT, merchant_id, unreferenced_refunds):
            raise Problem("not_found")
