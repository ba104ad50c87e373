"""Imports: a file is taken at once, checked whole by a job, and then written in pieces; what a piece wrote is never written again."""

import asyncio
import hashlib
import json
import os
import time
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Connection, Pool, unsure
from switch.errors import Problem, file_refused
from switch.ids import show, uuid7
from switch.merchants.bulk.sheet import OF, Fault, Reader, Row
from switch.merchants.onboarding import NUMBERING_LOCK
from switch.settlement.jobs import table
from switch.settlement.jobs.table import Due, Run
from switch.settlement.reconciliation.clearing import Refused
from switch.settlement.reconciliation.unpacking import PIECE_BYTES, Unpacker

KIND = "import"
PIECE = 250  # rows of one commit
STEP_BYTES = 4096  # read at once: some fifty rows, a millisecond
FAULTS_MAX = 1000  # that are kept; all are counted
PAGE_MAX = 200

SHOWN = "import_id, name, encode(sha256, 'hex') AS sha256, lines, dry_run, skip_bad, state, faults, written_to, made, asked_by, asked_at, ended_at"
ADD = f"""INSERT INTO bulk_import (import_id, name, sha256, content, lines, dry_run, skip_bad, asked_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
RETURNING {SHOWN}"""
ASKED = "SELECT content, lines, dry_run, skip_bad, state, written_to FROM bulk_import WHERE import_id = $1"
ONE = f"SELECT {SHOWN} FROM bulk_import WHERE import_id = $1"
PAGE = f"SELECT {SHOWN} FROM bulk_import WHERE $1::uuid IS NULL OR import_id < $1 ORDER BY import_id DESC LIMIT $2"
FAULTS = """SELECT line, field, rule FROM bulk_fault WHERE import_id = $1 AND (line, field) > ($2, $3) ORDER BY line, field LIMIT $4"""


def _new_id() -> UUID:
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


class Imports:
    """`pool` acts as the writer."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def take(self, chunks: AsyncIterable[bytes], name: str, by: str, *, dry_run: bool, skip_bad: bool) -> asyncpg.Record:
        """The import, asked for with its job in one commit. Raises Problem: file_refused with line and reason, not_ready."""
        reader, digest, packer, packed = Reader(), hashlib.sha256(), zlib.compressobj(6), bytearray()

        async def kept() -> AsyncIterator[bytes]:
            async for piece in _unpacked(chunks):
                digest.update(piece)
                packed.extend(packer.compress(piece))
                yield piece

        try:
            async for _ in _read(reader, kept()):
                pass
        except Refused as refused:
            raise file_refused(max(1, refused.line), refused.reason) from None
        packed.extend(packer.flush())
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow(ADD, identity := _new_id(), name, digest.digest(), bytes(packed), reader.line, dry_run, skip_bad, by)
                await table.ask(connection, KIND, Due(str(identity), {"import": show("import", identity)}), by)
        except UNKNOWN:
            raise unsure("It is not known whether the file was taken; send it again, twice changes nothing.") from None
        assert row is not None
        return row

    async def one(self, import_id: UUID) -> asyncpg.Record:
        """Raises Problem not_found, not_ready."""
        rows = await self.fetch(ONE, import_id)
        if not rows:
            raise Problem("not_found")
        return rows[0]

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        try:
            return await self.pool.fetch(statement, *arguments)
        except UNKNOWN:
            raise unsure() from None

    async def do(self, run: Run) -> Mapping[str, Any]:
        """The job: checks all rows, then writes them, unless it was a dry run or something is wrong. Carries on behind the last piece."""
        import_id = UUID(run.job.key)
        asked = await self.pool.fetchrow(ASKED, import_id)
        assert asked is not None
        state = asked["state"]
        if state == "queued":
            state = await self._checked(run, import_id, asked)
        if state == "writing":
            async for piece in _pieces(asked["content"], asked["written_to"]):
                async with self.pool.acquire() as connection, connection.transaction():
                    await run.hold(connection)
                    await _write(connection, import_id, piece)
                await run.progress(piece.last, asked["lines"] + 1)
            await _end(self.pool, run, import_id, "done")
        found = await self.pool.fetchrow("SELECT state, faults, made FROM bulk_import WHERE import_id = $1", import_id)
        assert found is not None
        return {"state": found["state"], "faults": found["faults"], "made": json.loads(found["made"])}

    async def _checked(self, run: Run, import_id: UUID, asked: asyncpg.Record) -> str:
        first: list[Fault] = []
        count = 0
        async for piece in _pieces(asked["content"], 0):
            async with self.pool.acquire() as connection:
                faults = piece.faults + (await Known.of(connection, piece.rows)).faults(piece.rows)
            count += len(faults)
            first += sorted(faults)[:FAULTS_MAX - len(first)]
            await run.progress(piece.last, 2 * asked["lines"] + 2)
        state = "checked" if asked["dry_run"] else "refused" if count and not asked["skip_bad"] else "writing"
        await _end(self.pool, run, import_id, state, first, count)
        return state


FAULT = """INSERT INTO bulk_fault (import_id, line, field, rule) SELECT $1, * FROM unnest($2::integer[], $3::text[], $4::text[])
ON CONFLICT (import_id, line, field) DO NOTHING"""
STEP = """UPDATE bulk_import SET state = $2, faults = coalesce($3, faults),
  ended_at = CASE WHEN $2 <> 'writing' THEN now() END WHERE import_id = $1"""


async def _end(pool: Pool, run: Run, import_id: UUID, state: str, faults: list[Fault] | None = None, count: int | None = None) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await run.hold(connection)
        if faults:
            await connection.execute(FAULT, import_id, *_columns(faults, 3))
        await connection.execute(STEP, import_id, state, count)


def _columns(rows: Iterable[Any], count: int) -> list[list[Any]]:
    """Rows as the arrays that unnest takes."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(count)]


async def _unpacked(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Of a file as it comes. Raises Refused."""
    unpacker = Unpacker()
    async for chunk in chunks:
        for piece in unpacker.feed(chunk):
            yield piece
    for piece in unpacker.end():
        yield piece


async def _stored(content: bytes) -> AsyncIterator[bytes]:
    unpacker = zlib.decompressobj()
    for at in range(0, len(content), PIECE_BYTES):
        data = content[at:at + PIECE_BYTES]
        while data:
            yield unpacker.decompress(data, PIECE_BYTES)
            data = unpacker.unconsumed_tail
    yield unpacker.flush()


async def _read(reader: Reader, pieces: AsyncIterable[bytes]) -> AsyncIterator[Row | Fault]:
    """What the reader finds. It rests as long as it works, since payments go first. Raises Refused."""
    async for piece in pieces:
        for at in range(0, len(piece), STEP_BYTES):
            began = time.perf_counter()
            found = [*reader.feed(piece[at:at + STEP_BYTES])]
            await asyncio.sleep(time.perf_counter() - began)
            for each in found:
                yield each
    reader.end()


class Piece(NamedTuple):
    """Consecutive rows of a file and what is wrong among them; `last`: its last line."""

    rows: list[Row]
    faults: list[Fault]
    last: int


async def _pieces(content: bytes, after: int) -> AsyncIterator[Piece]:
    """Of what stands behind line `after`; all is read, since what is wrong in a row may be told by those before."""
    reader = Reader()
    rows: list[Row] = []
    faults: list[Fault] = []
    last = after
    async for found in _read(reader, _stored(content)):
        if found.line <= after:
            continue
        if found.line > last and len(rows) + len(faults) >= PIECE:  # the faults of a row stay together
            yield Piece(rows, faults, last)
            rows, faults = [], []
        last = found.line
        (rows if isinstance(found, Row) else faults).append(found)  # type: ignore[arg-type]
    if rows or faults:
        yield Piece(rows, faults, reader.line)


REFERENCES = """SELECT r.kind, r.reference, r.digest, r.subject_id FROM external_reference r
JOIN unnest($1::text[], $2::text[]) AS asked (kind, reference) USING (kind, reference)"""
ACQUIRERS = "SELECT name, acquirer_id FROM acquirer WHERE name = ANY($1::text[])"
TAKEN = """SELECT n.acquirer_id, n.card_acceptor_terminal, n.card_acceptor, n.terminal_id FROM acquirer_terminal n
JOIN unnest($1::uuid[], $2::text[], $3::text[]) AS asked (acquirer_id, card_acceptor_terminal, card_acceptor)
  USING (acquirer_id, card_acceptor_terminal, card_acceptor)
UNION SELECT acquirer_id, card_acceptor_terminal, card_acceptor, terminal_id FROM acquirer_terminal
WHERE terminal_id = ANY($4::uuid[])"""


class Known(NamedTuple):
    """What the books have already of some rows."""

    references: Mapping[tuple[str, str], tuple[bytes, UUID]]
    acquirers: Mapping[str, UUID]
    holders: Mapping[tuple[UUID, str, str], UUID]  # numbers -> terminal
    numbered: Mapping[tuple[UUID, UUID], tuple[str, str]]  # terminal and acquirer -> numbers

    @classmethod
    async def of(cls, connection: Connection, rows: list[Row]) -> "Known":
        keys = {(kind, row.key(kind)) for row in rows for kind in OF}
        references = {(row["kind"], row["reference"]): (row["digest"], row["subject_id"])
                      for row in await connection.fetch(REFERENCES, *_columns(sorted(keys), 2))}
        acquirers = {row["name"]: row["acquirer_id"]
                     for row in await connection.fetch(ACQUIRERS, sorted({row.values["acquirer"] for row in rows} - {""}))}
        numbers = {(acquirers[row.values["acquirer"]], *numbers_of(row)) for row in rows if row.values["acquirer"] in acquirers}
        tills = [subject for (kind, _), (_, subject) in references.items() if kind == "terminal"]
        taken = await connection.fetch(TAKEN, *_columns(numbers, 3), tills)
        return cls(references, acquirers, {(row[0], row[1], row[2]): row[3] for row in taken}, {(row[3], row[0]): (row[1], row[2]) for row in taken})

    def faults(self, rows: list[Row]) -> list[Fault]:
        return [fault for row in rows for fault in self.faults_of(row)]

    def faults_of(self, row: Row) -> list[Fault]:
        """What stands against a row: nothing that is there is ever overwritten."""
        found = [Fault(row.line, kind, "the values that this reference was imported with; what is there is not overwritten")
                 for kind in OF if (known := self.references.get((kind, row.key(kind)))) is not None and known[0] != row.digest(kind)]
        if not (name := row.values["acquirer"]):
            return found
        if (acquirer_id := self.acquirers.get(name)) is None:
            return [*found, Fault(row.line, "acquirer", "the name of an acquirer that is there")]
        terminal_id = self.references.get(("terminal", row.key("terminal")), (b"", None))[1]
        holder = self.holders.get((acquirer_id, *numbers_of(row)))
        if holder is not None and holder != terminal_id:
            found.append(Fault(row.line, "card_acceptor_terminal", "numbers that no other terminal has at this acquirer"))
        elif holder is None and terminal_id is not None and (terminal_id, acquirer_id) in self.numbered:
            found.append(Fault(row.line, "acquirer", "the numbers that the terminal has at this acquirer; they are never changed"))
        return found


def numbers_of(row: Row) -> tuple[str, str]:
    """As they go on the wire."""
    return row.values["card_acceptor_terminal"].ljust(8), row.values["card_acceptor"].ljust(15)


ORGANISATIONS = "INSERT INTO organisation (organisation_id, name) SELECT * FROM unnest($1::uuid[], $2::text[])"
MERCHANTS = """INSERT INTO merchant (merchant_id, organisation_id, name, mcc, time_zone)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[])"""
STORES = """INSERT INTO store (store_id, merchant_id, name, city, country, time_zone)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[])"""
TERMINALS = """INSERT INTO terminal (terminal_id, merchant_id, store_id, name) SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[])"""
NUMBERED = """INSERT INTO acquirer_terminal (merchant_id, acquirer_id, terminal_id, card_acceptor_terminal, card_acceptor)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[])"""
REFERENCE = """INSERT INTO external_reference (import_id, kind, reference, digest, subject_id)
SELECT $1, * FROM unnest($2::text[], $3::text[], $4::bytea[], $5::uuid[])"""
# Those that the check had found are there already; when it had found more than are kept, all of them are counted.
LATE = """INSERT INTO bulk_fault (import_id, line, field, rule) SELECT $1, * FROM unnest($2::integer[], $3::text[], $4::text[])
WHERE (SELECT count(*) FROM bulk_fault WHERE import_id = $1) < $5 ON CONFLICT (import_id, line, field) DO NOTHING RETURNING line"""
WRITTEN = """UPDATE bulk_import SET state = 'writing', written_to = $2, faults = faults + $3, made = $4 WHERE import_id = $1"""


async def _write(connection: Connection, import_id: UUID, piece: Piece) -> None:
    """The rows of a piece that are still sound, whole; what became wrong since the check is a fault too."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", NUMBERING_LOCK)
    known = await Known.of(connection, piece.rows)
    faults = known.faults(piece.rows)
    wrong = {fault.line for fault in faults}
    ids = {key: subject for key, (_, subject) in known.references.items()}
    made: dict[str, list[tuple[Any, ...]]] = {"organisation": [], "merchant": [], "store": [], "terminal": [], "number": []}
    references: list[tuple[Any, ...]] = []
    for row in piece.rows:
        if row.line in wrong:
            continue
        values = row.values
        for kind in OF:
            if (key := (kind, row.key(kind))) in ids:
                continue
            ident = ids[key] = _new_id()
            references.append((*key, row.digest(kind), ident))
            merchant_id, store_id = ids["merchant", row.key("merchant")], ids.get(("store", row.key("store")))
            if kind == "merchant":
                made["organisation"].append((ident, values["merchant_name"]))
            made[kind].append({"merchant": (ident, ident, values["merchant_name"], values["mcc"], values["time_zone"]),
                               "store": (ident, merchant_id, values["store_name"], values["city"], values["country"], values["time_zone"]),
                               "terminal": (ident, merchant_id, store_id, values["terminal_name"])}[kind])
        if values["acquirer"] and (acquirer_id := known.acquirers[values["acquirer"]], *numbers_of(row)) not in known.holders:
            made["number"].append((ids["merchant", row.key("merchant")], acquirer_id, ids["terminal", row.key("terminal")], *numbers_of(row)))
    for kind, statement in (("organisation", ORGANISATIONS), ("merchant", MERCHANTS), ("store", STORES), ("terminal", TERMINALS),
                            ("number", NUMBERED)):
        if made[kind]:
            await connection.execute(statement, *_columns(made[kind], 0))
    if references:
        await connection.execute(REFERENCE, import_id, *_columns(references, 4))
    came = await connection.fetch(LATE, import_id, *_columns(faults, 3), FAULTS_MAX) if faults else []
    before = json.loads(await connection.fetchval("SELECT made FROM bulk_import WHERE import_id = $1", import_id))
    counts = {kind: before.get(kind, 0) + len(rows) for kind, rows in made.items() if kind != "organisation"}
    await connection.execute(WRITTEN, import_id, piece.last, len(came), json.dumps(counts))


EXPORT = """SELECT rm.reference AS merchant, m.name AS merchant_name, m.mcc, split_part(rs.reference, '/', 2) AS store, s.name AS store_name,
  split_part(rt.reference, '/', 2) AS terminal, t.name AS terminal_name, s.time_zone, s.city, s.country, coalesce(a.name, '') AS acquirer,
  coalesce(rtrim(n.card_acceptor_terminal), '') AS card_acceptor_terminal, coalesce(rtrim(n.card_acceptor), '') AS card_acceptor
FROM external_reference rt JOIN terminal t ON t.terminal_id = rt.subject_id JOIN store s USING (merchant_id, store_id)
JOIN merchant m USING (merchant_id)
JOIN external_reference rs ON rs.subject_id = s.store_id JOIN external_reference rm ON rm.subject_id = m.merchant_id
LEFT JOIN acquirer_terminal n ON n.merchant_id = t.merchant_id AND n.terminal_id = t.terminal_id LEFT JOIN acquirer a ON a.acquirer_id = n.acquirer_id
WHERE rt.kind = 'terminal' ORDER BY rt.reference, a.name"""
