"""Files come in: read as they arrive, written in one commit with the runs they ask for, or refused whole with nothing written."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Connection
from switch.errors import Problem, file_refused
from switch.ids import show, uuid7
from switch.settlement.reconciliation import incoming, runs
from switch.settlement.reconciliation.clearing import Line, Reader, Refused
from switch.settlement.reconciliation.unpacking import Unpacker

AT_ONCE = 2  # files that are read at a time
COPY_S = 1800.0
SHOWN = """file_id, document, format, acquirer_id, institution, business_date, number, name, encode(sha256, 'hex') AS sha256, size, lines, total,
fees, received_by, received_at"""
# The same content again is the file that is there; another content under its number is refused by the other constraint.
ADD = f"""INSERT INTO clearing_file (file_id, document, format, acquirer_id, institution, business_date, number, name, sha256, size, lines, total,
fees, dates, received_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT ON CONSTRAINT clearing_file_once DO NOTHING RETURNING {SHOWN}"""
KNOWN = f"SELECT {SHOWN} FROM clearing_file WHERE document = $1 AND acquirer_id IS NOT DISTINCT FROM $2 AND sha256 = $3"
PAGE = f"""SELECT {SHOWN} FROM clearing_file WHERE ($1::uuid IS NULL OR acquirer_id = $1) AND ($2::text IS NULL OR document = $2)
AND ($3::uuid IS NULL OR file_id < $3) ORDER BY file_id DESC LIMIT $4"""
LINE_COLUMNS = ("file_id", "acquirer_id", *Line._fields)
ENTRY_COLUMNS = ("file_id", "line_no", "booked_on", "business_date", "amount", "currency", "bank_reference", "text")


class _Seen(Exception):
    """The same content is there already; the argument is its row. Raised to undo what was copied."""


class Intake:
    """`connect` gives a connection of the writer's role, one for each file."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self.connect = connect
        self._places = asyncio.Semaphore(AT_ONCE)

    async def take(self, document: str, acquirer_id: UUID | None, institutions: Iterable[str] | None, name: str, chunks: AsyncIterable[bytes],
                   by: str) -> tuple[asyncpg.Record, bool]:
        """The file's row, and whether it is new. Raises Problem: file_refused (line and reason), conflict, overloaded, not_ready."""
        if self._places.locked():
            raise Problem("overloaded", "Other files are being read; send this one again in a minute.", retry_after=60)
        async with self._places:
            try:
                connection = await self.connect()
            except UNKNOWN:
                raise Problem("not_ready", "The books cannot be written just now.", retry_after=2) from None
            try:
                async with connection.transaction():
                    return await self._write(connection, Reader(document, institutions), acquirer_id, name, chunks, by), True
            except _Seen as seen:
                return seen.args[0], False
            except Refused as refused:
                raise file_refused(refused.line, refused.reason) from None
            except asyncpg.UniqueViolationError:
                raise Problem("conflict", "Another file with this date and number is there already; the sender must number it anew.") from None
            except UNKNOWN:
                raise Problem("not_ready", "It is not known whether the file was written; send it again, twice is once.", retry_after=2) from None
            finally:
                await connection.close()

    async def _write(self, connection: Connection, reader: Reader, acquirer_id: UUID | None, name: str, chunks: AsyncIterable[bytes],
                     by: str) -> asyncpg.Record:
        file_id, digest = uuid7(time.time_ns() // 1_000_000, os.urandom(10)), hashlib.sha256()
        size = 0

        async def records() -> AsyncIterator[tuple[Any, ...]]:
            nonlocal size
            async for piece in _unpacked(chunks):
                digest.update(piece)
                size += len(piece)
                for line in reader.feed(piece):
                    yield (file_id, acquirer_id, *line) if isinstance(line, Line) else (file_id, *line)
                await asyncio.sleep(0)  # payments go first

        if reader.document == "clearing":
            await connection.copy_records_to_table("clearing_line", records=records(), columns=LINE_COLUMNS, timeout=COPY_S)
            header, totals = reader.end()
            entries: list[tuple[Any, ...]] = []
        else:
            entries = []
            async for record in records():
                if len(entries) == incoming.ENTRIES_MAX:
                    raise Refused(reader.line, f"a statement has at most {incoming.ENTRIES_MAX} entries")
                entries.append(record)
            header, totals = reader.end()
        file = await connection.fetchrow(
            ADD, file_id, header.document, header.format, acquirer_id, header.institution, header.business_date, header.number, name, digest.digest(),
            size, totals.lines, totals.total, totals.fees, sorted(totals.dates), by)
        if file is None:
            raise _Seen(await connection.fetchrow(KNOWN, header.document, acquirer_id, digest.digest()))
        if acquirer_id is not None:
            await runs.request(connection, acquirer_id, {header.business_date, *totals.dates}, f"file {show('clearing_file', file_id)}")
        elif entries:
            await connection.copy_records_to_table("statement_entry", records=entries, columns=ENTRY_COLUMNS)
            await incoming.take(connection, file_id)
        return file


async def _unpacked(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    unpacker = Unpacker()
    async for chunk in chunks:
        for piece in unpacker.feed(chunk):
            yield piece
    for piece in unpacker.end():
        yield piece
