"""Exports: rows as CSV, JSON or a workbook, streamed to who asks or written to a file by a job. Of any length in the same memory."""

import asyncio
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from switch.database import Connection
from switch.ids import read, show
from switch.payments.history import Filter
from switch.payments.transaction import STATE_OF
from switch.settlement.exports import cells, statements
from switch.settlement.exports.cells import Column
from switch.settlement.exports.statements import LINE_COLUMNS, TRANSACTION_COLUMNS, Head, Row
from switch.settlement.jobs import table
from switch.settlement.jobs.table import Due, Job, Run, Unfit

KIND = "export"
KEPT = timedelta(days=7)
OPEN_MAX = 10  # exports of one merchant that wait or run
WORKBOOK = Path(__file__).with_name("workbook.py")
Rows = AsyncIterator[list[Row]]
Connect = Callable[[], Awaitable[Connection]]


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported: its columns, its rows when they are read, and what is said of it as a whole."""

    name: str
    columns: Sequence[Column]
    zone: ZoneInfo
    rows: Rows
    about: Mapping[str, Any]
    total: int | None = None


@asynccontextmanager
async def reading(connect: Connect) -> AsyncIterator[Connection]:
    """A connection of its own that sees one instant of the books and can write nothing."""
    connection = await connect()
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection
    finally:
        connection.terminate()


def of_settlement(connection: Connection, whole: Head) -> Source:
    amounts = {name: getattr(whole, name) for name in ("gross", "sales", "refunds", "adjustments", "fees", "tax", "net", "reserve_held")}
    about = {"id": show("settlement", whole.settlement_id), "merchant": show("merchant", whole.merchant_id), "merchant_name": whole.merchant_name,
             "acquirer": whole.acquirer_name, "business_date": whole.business_date.isoformat(), "due_on": whole.due_on.isoformat(),
             "currency": whole.currency, "state": whole.state, "time_zone": whole.zone.key, **amounts,
             **{f"{name}_decimal": cells.decimal(value, whole.currency) for name, value in amounts.items()}}
    total = whole.sales_count + whole.refunds_count + whole.adjustments_count + len(statements.charges(whole))
    return Source(f"settlement-{whole.business_date}-{whole.currency}", LINE_COLUMNS, whole.zone, statements.lines(connection, whole), about, total)


def of_transactions(connection: Connection, wanted: Filter, zone: ZoneInfo) -> Source:
    return Source("transactions", TRANSACTION_COLUMNS, zone, statements.transactions(connection, wanted), {"time_zone": zone.key})


async def csv(source: Source, bom: bool) -> AsyncIterator[bytes]:
    """The header leaves at once, then a piece per few rows."""
    yield ((cells.BOM if bom else "") + cells.line(cells.header(source.columns, source.zone))).encode()
    async for rows in source.rows:
        yield "".join(cells.line(cells.cells(source.columns, row, source.zone)) for row in rows).encode()


async def as_json(source: Source) -> AsyncIterator[bytes]:
    """One object: what it is, its items, and at the end how many they are, which tells a whole file from one that was cut."""
    yield json.dumps({"of": source.name, **source.about}, ensure_ascii=False)[:-1].encode() + b', "items": ['
    count = 0
    async for rows in source.rows:
        pieces = (json.dumps(cells.plain(source.columns, row, source.zone), ensure_ascii=False) for row in rows)
        yield "".join(f"{',' if count + at else ''}\n{piece}" for at, piece in enumerate(pieces)).encode()
        count += len(rows)
    yield f'\n], "count": {count}}}\n'.encode()


def streamed(source: Source, form: str, bom: bool) -> AsyncIterator[bytes]:
    return csv(source, bom) if form == "csv" else as_json(source)


# Files, written by jobs


class Exports:
    """The files of merchants, each in a folder of its merchant, under `home/exports`."""

    def __init__(self, connect: Connect, folder: Path) -> None:
        """`connect`: a connection that acts as the reader."""
        self.connect, self.folder = connect, folder

    def path(self, job: Job) -> Path:
        """Where the file of an export is, or will be: made of ids alone."""
        assert job.merchant_id is not None
        return self.folder / str(job.merchant_id) / f"{job.job_id}.{job.arguments['format']}"

    async def do(self, run: Run) -> Mapping[str, Any]:
        """Writes beside its name first: a file with its name is whole, and of the attempt that the job's row belongs to."""
        job, path = run.job, self.path(run.job)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(f".{job.job_id}.{job.attempts}.part")
        try:
            async with reading(self.connect) as connection:
                source = await self._source(connection, job)
                counted = Counted(source.rows, run, source.total)
                await self._write(part, job, Source(source.name, source.columns, source.zone, counted.rows(), source.about))
            size, digest = await asyncio.to_thread(_measured, part)
            async with run.pool.acquire() as connection, connection.transaction():
                await run.hold(connection)
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        await run.progress(counted.count, counted.count)
        return {"rows": counted.count, "bytes": size, "sha256": digest, "name": f"{source.name}.{job.arguments['format']}"}

    async def _source(self, connection: Connection, job: Job) -> Source:
        if job.arguments["of"] == "settlement":
            settlement_id = read("settlement", job.arguments["settlement"])
            whole = None if settlement_id is None else await statements.head(connection, settlement_id, job.merchant_id)
            if whole is None:
                raise Unfit("There is no such settlement of this merchant.")
            return of_settlement(connection, whole)
        zone = await connection.fetchval("SELECT time_zone FROM directory_merchant WHERE merchant_id = $1", job.merchant_id)
        return of_transactions(connection, filter_of(job), ZoneInfo(zone))

    async def _write(self, part: Path, job: Job, source: Source) -> None:
        form = job.arguments["format"]
        if form == "xlsx":
            await _workbook(part, source)
            return
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            async for piece in streamed(source, form, bool(job.arguments.get("bom"))):
                await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(_settle, file)

    def sweep(self, now: float) -> int:
        """Removes files whose time is over, and parts that a dead worker left; how many."""
        gone = 0
        for file in self.folder.glob("*/*"):
            with suppress(FileNotFoundError):
                if now - file.stat().st_mtime > (86_400 if file.suffix == ".part" else KEPT.total_seconds()):
                    shutil.rmtree(file) if file.is_dir() else file.unlink()
                    gone += 1
        return gone


class Counted:
    """Rows as they pass, told to the job's row."""

    def __init__(self, source: Rows, run: Run, total: int | None) -> None:
        self.source, self.run, self.total, self.count = source, run, total, 0

    async def rows(self) -> Rows:
        async for rows in self.source:
            self.count += len(rows)
            await self.run.progress(self.count, None if self.total is None else max(self.total, self.count + 1))
            yield rows


def filter_of(job: Job) -> Filter:
    """The filter that an export of transactions was asked for with."""
    asked = job.arguments

    def instant(name: str) -> datetime | None:
        return datetime.fromisoformat(asked[name]) if asked.get(name) else None

    def ident(kind: str) -> UUID | None:
        return read(kind, asked[kind]) if asked.get(kind) else None

    return Filter(merchant_id=job.merchant_id, since=instant("from"), until=instant("to"), store_id=ident("store"),
                  terminal_id=ident("terminal"), states=(STATE_OF[asked["status"]],) if asked.get("status") else None,
                  payment_status=asked.get("payment_status"), type=asked.get("type"))


async def _workbook(part: Path, source: Source) -> None:
    """Rows go to a process of its own, as fast as it takes them. Raises OSError when it fails, as when the disk is full."""
    kinds = [kind for column in source.columns for kind in
             {"amount": ("number", "text"), "number": ("number",)}.get(column.kind, ("text",))]
    about = {"sheet": source.name[:25], "header": cells.header(source.columns, source.zone), "kinds": kinds}
    process = await asyncio.create_subprocess_exec(sys.executable, str(WORKBOOK), str(part), stdin=asyncio.subprocess.PIPE,
                                                   stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(about).encode() + b"\n")
        async for rows in source.rows:
            process.stdin.write("".join(json.dumps(_sheet_row(source, row)) + "\n" for row in rows).encode())
            await process.stdin.drain()
        process.stdin.write(b"null\n")
        await process.stdin.drain()
        process.stdin.close()
        if code := await process.wait():
            raise OSError(f"the workbook was not written ({code})")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _sheet_row(source: Source, row: Row) -> list[str | int | None]:
    """Cells of a workbook have types: a text there is never a formula, so nothing is put in front of it."""
    found: list[str | int | None] = []
    for column in source.columns:
        value = row[column.name]
        if column.kind == "amount":
            found += [value, None if value is None else cells.decimal(value, row["currency"])]
        elif column.kind == "number":
            found.append(value)
        else:
            found.append(None if value is None else cells.local(value, source.zone) if column.kind == "time" else str(value))
    return found


def _settle(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _measured(path: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 16):
            digest.update(piece)
        return file.tell(), digest.hexdigest()


OPEN = "SELECT count(*) FROM job WHERE merchant_id = $1 AND kind = 'export' AND state IN ('queued', 'running', 'waiting')"
LOCK_MERCHANT = "SELECT pg_advisory_xact_lock(3583035, hashtext($1))"


async def ask(connection: Connection, merchant_id: UUID, key: str, arguments: Mapping[str, Any], asked_by: str) -> Job | None:
    """The export under that key of that merchant: the same job however often it is asked for. None: too many of theirs are open."""
    async with connection.transaction():
        await connection.execute(LOCK_MERCHANT, str(merchant_id))
        if await connection.fetchval(OPEN, merchant_id) >= OPEN_MAX:
            return None
        return (await table.ask(connection, KIND, Due(f"{merchant_id}:{key}", arguments, merchant_id), asked_by))[0]


def expires_at(job: Job) -> datetime | None:
    """When the file of a done export is removed."""
    return job.ended_at + KEPT if job.state == "done" and job.ended_at is not None else None


SWEEP_LOG = "DELETE FROM queue.pgqueuer_log WHERE created < now() - interval '30 days'"


class Housekeeping:
    """Removes what is kept for a time only: files of exports, and the queue's own log."""

    def __init__(self, exports: Exports, connect: Connect) -> None:
        """`connect`: a connection that acts as the queue's role."""
        self.exports, self.connect = exports, connect

    async def due(self, now: datetime) -> list[Due]:
        return [Due(f"{now:%Y-%m-%dT%H}")]

    async def do(self, run: Run) -> Mapping[str, Any]:
        files = await asyncio.to_thread(self.exports.sweep, time.time())
        connection = await self.connect()
        try:
            rows = int((await connection.execute(SWEEP_LOG)).rpartition(" ")[2])
        finally:
            connection.terminate()
        return {"files": files, "log_rows": rows}
