"""Feedback in the database: what merchants, terminals and applicants think, about anything of theirs, and the one answer to it."""

from collections.abc import Mapping
from types import MappingProxyType
from uuid import UUID

import asyncpg

from switch.database import Pool, work
from switch.errors import Problem
from switch.ids import read, show
from switch.merchants.support.announcements import Reader
from switch.notices import tell
from switch.notices.events import new_id

PAGE_MAX = 200
KINDS = ("suggestion", "complaint", "praise", "question")
COLUMNS = "feedback_id, kind, object, text, merchant_id, given_by, given_at, answer, answered_by, answered_at"

# Kind of object -> whether it is the merchant's.
OWNED: Mapping[str, str] = MappingProxyType({
    "transaction": "SELECT true FROM history_transaction WHERE transaction_id = $1 AND merchant_id = $2",
    "terminal": "SELECT true FROM directory_terminal WHERE terminal_id = $1 AND merchant_id = $2",
    "store": "SELECT true FROM directory_store WHERE store_id = $1 AND merchant_id = $2",
    "device": "SELECT true FROM device WHERE device_id = $1 AND merchant_id = $2",
    "ticket": "SELECT true FROM ticket WHERE ticket_id = $1 AND merchant_id = $2",
    "settlement": "SELECT true FROM settlement WHERE settlement_id = $1 AND merchant_id = $2",
    "contract": "SELECT true FROM contract WHERE contract_id = $1 AND merchant_id = $2",
})
ADD = "INSERT INTO feedback (feedback_id, kind, object, text, merchant_id, given_by) VALUES ($1, $2, $3, $4, $5, $6)"
# A merchant sees what its terminals said; a terminal and an applicant what they said themselves.
_MINE = "($1::boolean OR given_by = $2 OR (merchant_id = $3 AND $4::boolean))"
PAGE = f"""SELECT {COLUMNS} FROM feedback WHERE {_MINE} AND ($5::boolean IS NULL OR (answer IS NOT NULL) = $5)
AND ($6::uuid IS NULL OR feedback_id < $6) ORDER BY feedback_id DESC LIMIT $7"""
ONE = f"SELECT {COLUMNS} FROM feedback WHERE {_MINE} AND feedback_id = $5"
ANSWER = f"""UPDATE feedback SET answer = $2, answered_by = $3, answered_at = now() WHERE feedback_id = $1 AND answer IS NULL
RETURNING {COLUMNS}"""


class Feedback:
    """Raises Problem: not_found, conflict, invalid, not_ready."""

    def __init__(self, writers: Pool, readers: Pool) -> None:
        self.writers, self.readers = writers, readers

    async def give(self, kind: str, text: str, about: str | None, by: Reader) -> UUID:
        """`about`: the shown id of something of the giver's own; another's is absent."""
        async with work(self.writers) as connection:
            if about is not None:
                statement, ident = _about(about)
                if not await connection.fetchval(statement, ident, by.merchant_id):
                    raise Problem("not_found")
            await connection.execute(ADD, made := new_id(), kind, about, text, by.merchant_id, by.name)
        return made

    async def page(self, reader: Reader, answered: bool | None, before: UUID | None, limit: int) -> list[asyncpg.Record]:
        """Newest first."""
        async with work(self.readers) as connection:
            return await connection.fetch(PAGE, *_asked(reader), answered, before, limit)

    async def one(self, feedback_id: UUID, reader: Reader) -> asyncpg.Record:
        async with work(self.readers) as connection:
            row = await connection.fetchrow(ONE, *_asked(reader), feedback_id)
        if row is None:
            raise Problem("not_found")
        return row

    async def answer(self, feedback_id: UUID, text: str, by: Reader) -> None:
        """Once, by somebody of ours; its merchant gets a notice in the same commit."""
        async with work(self.writers) as connection:
            if await connection.fetchrow(ONE, *_asked(by), feedback_id) is None:
                raise Problem("not_found")
            row = await connection.fetchrow(ANSWER, feedback_id, text, by.name)
            shown = show("feedback", feedback_id)
            if row is None:
                raise Problem("conflict", f"{shown} was answered before; it stays as it was said.")
            if row["merchant_id"] is not None:
                await tell(connection, row["merchant_id"], "feedback.answered", shown, {"id": shown, "kind": row["kind"], "object": row["object"]})


def _about(about: str) -> tuple[str, UUID]:
    for kind, statement in OWNED.items():
        if (ident := read(kind, about)) is not None:
            return statement, ident
    raise Problem("invalid", "One or more fields are wrong; see errors.",
                  errors=[{"field": "about", "rule": f"an id of: {', '.join(OWNED)}", "type": "rule"}])


def _asked(reader: Reader) -> tuple[bool, str, UUID | None, bool]:
    return reader.ours, reader.name, reader.merchant_id, reader.role == "merchant"
