"""An acquirer's lines and their breaker: where its hosts listen, which goes first, how each is secured, when it is not used."""

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, TypedDict, Unpack
from uuid import UUID

from messages.soundness import says_outage
from switch.acquirers import load as load_dialect
from switch.acquirers import plug_ins
from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.ids import uuid7
from switch.merchants.rules import check, refuse

LINES_MAX = 16  # of one acquirer, retired ones left out
CONNECTIONS_MAX = 32  # of one acquirer and worker


@dataclass(frozen=True, slots=True)
class Line:
    """`first`: the line that the acquirer was added with; its host and port are the acquirer's. A server name means TLS."""

    acquirer_id: UUID
    line_id: UUID
    host: str
    port: int
    priority: int
    connections: int
    status: str  # active down retired
    server_name: str | None
    ca_file: str | None
    certificate_file: str | None
    key_file: str | None
    created_at: datetime
    first: bool


class LineChange(TypedDict, total=False):
    """What is given changes; None is what was not given, "" takes a text away."""

    host: str | None
    port: int | None
    priority: int | None
    connections: int | None
    status: str | None
    server_name: str | None
    ca_file: str | None
    certificate_file: str | None
    key_file: str | None


@dataclass(frozen=True, slots=True)
class Breaker:
    """Of each line of an acquirer; 0 faults: none. `codes` None: the dialect's."""

    faults: int = 0
    percent: int = 50
    window_ms: int = 10_000
    pause_ms: int = 5_000
    probes: int = 3
    codes: tuple[str, ...] | None = None


SECURING = ("server_name", "ca_file", "certificate_file", "key_file")
COLUMNS = "acquirer_id, line_id, host, port, priority, connections, status, server_name, ca_file, certificate_file, key_file, created_at, first"
DIALECT = "SELECT dialect FROM acquirer WHERE acquirer_id = $1 FOR NO KEY UPDATE"
LIST = f"SELECT {COLUMNS} FROM directory_line WHERE acquirer_id = $1 AND status <> 'retired' ORDER BY priority, line_id"
ADD = """INSERT INTO acquirer_further_line (acquirer_id, line_id, host, port, priority, connections, status, server_name, ca_file,
  certificate_file, key_file) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"""
TABLE = {True: "acquirer_line", False: "acquirer_further_line"}
CHANGE = {first: f"""UPDATE {table} SET host = $3, port = $4, priority = $5, connections = $6, status = $7, server_name = $8, ca_file = $9,
certificate_file = $10, key_file = $11 WHERE acquirer_id = $1 AND line_id = $2""" for first, table in TABLE.items()}
BREAKER = "SELECT faults, percent, window_ms, pause_ms, probes, codes FROM acquirer_breaker WHERE acquirer_id = $1"
SET_BREAKER = """INSERT INTO acquirer_breaker (acquirer_id, faults, percent, window_ms, pause_ms, probes, codes) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (acquirer_id) DO UPDATE SET faults = excluded.faults, percent = excluded.percent, window_ms = excluded.window_ms,
  pause_ms = excluded.pause_ms, probes = excluded.probes, codes = excluded.codes"""


@asynccontextmanager
async def _work(pool: Pool) -> AsyncIterator[Connection]:
    try:
        async with pool.acquire() as connection, connection.transaction():
            yield connection
    except UNKNOWN:
        raise Problem("not_ready", "The database does not answer. Look first whether it was written.", retry_after=2) from None


async def _dialect(connection: Connection, acquirer_id: UUID) -> str:
    """Locks the acquirer: its lines are changed by one at a time. Raises Problem not_found."""
    name = await connection.fetchval(DIALECT, acquirer_id)
    if name is None:
        raise Problem("not_found")
    return str(name)


def _securable(name: str, given: Mapping[str, Any]) -> None:
    """A plug-in connects by itself: what is set here would be believed, and would secure nothing. Raises Problem invalid."""
    if name in plug_ins():
        refuse([(field, f"none: the plug-in {name} secures its connections itself, by the options of the acquirer")
                for field in SECURING if given.get(field)])


async def lines_of(pool: Pool, acquirer_id: UUID) -> list[Line]:
    """In the order in which they are preferred, without retired ones. Raises Problem: not_found, not_ready."""
    async with _work(pool) as connection:
        await _dialect(connection, acquirer_id)
        return [Line(*row) for row in await connection.fetch(LIST, acquirer_id)]


async def add_line(pool: Pool, acquirer_id: UUID, host: str, port: int, priority: int = 0, connections: int = 1, server_name: str | None = None,
                   ca_file: str | None = None, certificate_file: str | None = None, key_file: str | None = None) -> Line:
    """One more; every worker connects to it at once. Raises Problem: not_found, invalid, conflict, already_exists, not_ready."""
    check(host=host, port=port, line_priority=priority, connections=connections, server_name=server_name, ca_file=ca_file,
          certificate_file=certificate_file, key_file=key_file)
    async with _work(pool) as connection:
        _securable(await _dialect(connection, acquirer_id), {"server_name": server_name, "ca_file": ca_file, "certificate_file": certificate_file,
                                                             "key_file": key_file})
        known = [Line(*row) for row in await connection.fetch(LIST, acquirer_id)]
        identity = uuid7(time.time_ns() // 1_000_000, os.urandom(10))
        line = Line(acquirer_id, identity, host, port, priority, connections, "active", server_name, ca_file, certificate_file, key_file,
                    known[0].created_at, False)
        _fit([*known, line], line)
        await connection.execute(ADD, *_values(line))
        return await _line(connection, acquirer_id, identity)


async def change_line(pool: Pool, acquirer_id: UUID, line_id: UUID, **wanted: Unpack[LineChange]) -> Line:
    """What is given changes; workers drain the connections of a line that is another one now. Raises Problem as add_line does."""
    given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    check(**{{"priority": "line_priority", "status": "line_status"}.get(name, name): value for name, value in given.items() if value != ""})
    refuse([(name, "not empty") for name, value in given.items() if value == "" and name not in SECURING])
    async with _work(pool) as connection:
        _securable(await _dialect(connection, acquirer_id), given)
        before = await _line(connection, acquirer_id, line_id)
        changed: dict[str, Any] = {name: None if value == "" else value for name, value in given.items()}
        line = replace(before, **changed)
        if line.first and line.status == "retired":
            raise Problem("conflict", "The first line is never retired: give it another host, or take it down.")
        others = [Line(*row) for row in await connection.fetch(LIST, acquirer_id) if row["line_id"] != line_id]
        _fit([*others, line], line)
        await connection.execute(CHANGE[line.first], *_values(line))
        return line


async def _line(connection: Connection, acquirer_id: UUID, line_id: UUID) -> Line:
    """Raises Problem not_found: retired is absent."""
    for row in await connection.fetch(LIST, acquirer_id):
        if row["line_id"] == line_id:
            return Line(*row)
    raise Problem("not_found")


def _values(line: Line) -> list[Any]:
    return [getattr(line, field.name) for field in fields(Line) if field.name not in ("created_at", "first")]


def _fit(lines: list[Line], changed: Line) -> None:
    """What must hold of a line and of all together. Raises Problem: invalid, conflict, already_exists."""
    refuse([(name, "only with a server_name, which means TLS") for name in SECURING[1:] if getattr(changed, name) and not changed.server_name])
    if (changed.certificate_file is None) != (changed.key_file is None):
        refuse([("certificate_file", "together with key_file")])
    kept = [line for line in lines if line.status != "retired"]
    if len({(line.host, line.port) for line in kept}) < len(kept):
        raise Problem("already_exists", "The acquirer has a line to this host and port; raise its `connections` instead.")
    if len(kept) > LINES_MAX or sum(line.connections for line in kept) > CONNECTIONS_MAX:
        raise Problem("conflict", f"An acquirer has at most {LINES_MAX} lines with {CONNECTIONS_MAX} connections in all.")
    if not any(line.status == "active" for line in kept):
        raise Problem("conflict", "The last active line stays so: take the acquirer down instead.")


async def breaker_of(pool: Pool, acquirer_id: UUID) -> Breaker:
    """Raises Problem: not_found, not_ready."""
    async with _work(pool) as connection:
        await _dialect(connection, acquirer_id)
        row = await connection.fetchrow(BREAKER, acquirer_id)
        return Breaker() if row is None else Breaker(**{**dict(row), "codes": None if row["codes"] is None else tuple(row["codes"])})


async def set_breaker(pool: Pool, acquirer_id: UUID, breaker: Breaker) -> Breaker:
    """From now on, at every worker. Raises Problem: not_found, invalid, not_ready."""
    check(**{name: getattr(breaker, name) for name in ("faults", "percent", "window_ms", "pause_ms", "probes")})
    async with _work(pool) as connection:
        dialect = load_dialect(await _dialect(connection, acquirer_id))
        if breaker.faults and "echo" not in dialect.network:  # it is never probed with money
            refuse([("faults", "0 for a dialect without an echo, by which a breaker is probed")])
        refuse([("codes", "response codes of the dialect that say an outage, never an issuer's decision; at most 20, each once")]
               if not _countable(breaker.codes, dialect.codes) else [])
        await connection.execute(SET_BREAKER, acquirer_id, breaker.faults, breaker.percent, breaker.window_ms, breaker.pause_ms, breaker.probes,
                                 None if breaker.codes is None else list(breaker.codes))
        return breaker


def _countable(codes: tuple[str, ...] | None, known: Any) -> bool:
    return codes is None or (0 < len(codes) <= 20 and len(set(codes)) == len(codes) and all(says_outage(known.get(code)) for code in codes))
