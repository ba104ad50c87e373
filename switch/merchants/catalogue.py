"""Records of the directory as they are read: by id, and in pages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import asyncpg

from switch.database import Connection
from switch.errors import Problem
from switch.merchants import Acquirer, Key, Merchant, Numbers, Organisation, Page, Route, Store, Terminal
from switch.merchants.reversal_terms import read_terms

PAGE_MAX = 200
R = TypeVar("R")


def _terminal(row: asyncpg.Record) -> Terminal:
    numbers = tuple(Numbers(UUID(acquirer), terminal, acceptor) for acquirer, terminal, acceptor in row["numbers"])
    return Terminal(**{**dict(row), "numbers": numbers})


class Kind(NamedTuple):
    """Where the rows of one record come from; `ident` is the column of its id."""

    source: str
    ident: str
    computed: Mapping[str, str] = {}  # attribute -> expression
    build: Callable[[asyncpg.Record], Any] | None = None


KINDS: Mapping[type, Kind] = {
    Organisation: Kind("organisation t", "organisation_id"),
    Merchant: Kind("merchant t", "merchant_id"),
    Store: Kind("store t", "store_id"),
    Terminal: Kind("terminal t", "terminal_id", {"numbers": """ARRAY(
        SELECT ARRAY[n.acquirer_id::text, n.card_acceptor_terminal, n.card_acceptor] FROM acquirer_terminal n
        WHERE n.merchant_id = t.merchant_id AND n.terminal_id = t.terminal_id ORDER BY n.acquirer_id)"""}, _terminal),
    Acquirer: Kind("acquirer t JOIN acquirer_line l USING (acquirer_id)", "acquirer_id", {"host": "l.host", "port": "l.port",
        "business_date": "(SELECT max(d.business_date) FROM business_day d WHERE d.acquirer_id = t.acquirer_id AND d.state = 'open')"},
        lambda row: Acquirer(**read_terms(dict(row)))),
    Route: Kind("route t", "route_id"),
    Key: Kind("api_key t", "key_id"),
}


def _select(record: type[Any]) -> str:
    kind = KINDS[record]
    columns = [f"{kind.computed[f.name]} AS {f.name}" if f.name in kind.computed else f"t.{f.name}" for f in fields(record)]
    return f"SELECT {', '.join(columns)} FROM {kind.source}"


GET = {record: f"{_select(record)} WHERE t.{kind.ident} = $1" for record, kind in KINDS.items()}
# By whom a list may be narrowed; the narrowest counts, and is of the others. Each has an index that is in the list's order (r0033).
WITHIN: Mapping[type, Mapping[str, type]] = {Store: {"merchant_id": Merchant}, Terminal: {"store_id": Store, "merchant_id": Merchant}}


def paging(record: type[Any], owner: str | None = None) -> str:
    """Newest first: the ids are UUIDv7. A key's id is random, so keys go by their time. $1: after, $2: at most, $3: the owner."""
    kind = KINDS[record]
    if record is Key:
        return f"""{_select(Key)} WHERE $1::text IS NULL OR (t.created_at, t.key_id) < (SELECT created_at, key_id FROM api_key WHERE key_id = $1)
        ORDER BY t.created_at DESC, t.key_id DESC LIMIT $2"""
    of = "" if owner is None else f"AND t.{owner} = $3"
    return f"""{_select(record)} WHERE t.{kind.ident} < coalesce($1::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff') {of}
    ORDER BY t.{kind.ident} DESC LIMIT $2"""


async def page(connection: Connection, record: type[R], limit: int, after: UUID | str | None, **within: UUID | None) -> Page[R]:
    """Raises Problem not_found: an owner that is not there, or is not of the other one."""
    asked = {name: ident for name in WITHIN.get(record, {}) if (ident := within.get(name)) is not None}
    owners: list[Any] = [await found(connection, WITHIN[record][name], ident) for name, ident in asked.items()]
    if any(getattr(owners[0], name) != ident for name, ident in asked.items()):
        raise Problem("not_found")
    narrowest = list(asked.items())[:1]
    rows = await connection.fetch(paging(record, *(name for name, _ in narrowest)), after, limit + 1, *(ident for _, ident in narrowest))
    return page_of([_built(record, row) for row in rows], limit, KINDS[record].ident)


def _built(record: type[R], row: asyncpg.Record) -> R:
    built: R = (KINDS[record].build or (lambda values: record(**dict(values))))(row)
    return built


async def found(connection: Connection, record: type[R], ident: UUID | str) -> R:
    row = await connection.fetchrow(GET[record], ident)
    if row is None:
        raise Problem("not_found")
    return _built(record, row)


def page_of(rows: Sequence[Any], limit: int, ident: str) -> Page[Any]:
    """One row more than `limit` was read: it tells whether there is a next page."""
    return Page(tuple(rows[:limit]), getattr(rows[limit - 1], ident) if len(rows) > limit else None)
