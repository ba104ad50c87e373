"""Imports of merchants, stores and terminals from CSV, for operators: taken at once, done by a job; and what was imported, as the same CSV."""

import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.download import Download, Places
from switch.api.onboard import identified, paged, said
from switch.api.operators import operators, person
from switch.api.shapes import refused
from switch.callers import Caller
from switch.errors import Problem
from switch.ids import show
from switch.merchants.bulk import imports
from switch.merchants.bulk.imports import Imports
from switch.merchants.bulk.sheet import COLUMNS
from switch.settlement.exports.files import Connect, reading

ROWS = 500  # of a slice of the export
EXAMPLE: Mapping[str, Any] = {
    "id": "imp_01980b53-7a10-7c3e-9f52-3b7a1c0de4f1", "name": "north.csv", "sha256": "9f" * 32, "lines": 50_001, "dry_run": False, "skip_bad": False,
    "state": "done", "faults": 0, "written_to": 50_001, "made": {"merchant": 10_000, "store": 12_000, "terminal": 50_000, "number": 50_000},
    "asked_by": "Li Wei", "asked_at": "2026-11-26T02:03:04.000000Z", "ended_at": "2026-11-26T02:04:05.000000Z"}
FAULT: Mapping[str, Any] = {"line": 17, "column": "mcc", "rule": "four digits (ISO 18245)"}
SHEET = ("merchant,merchant_name,mcc,store,store_name,city,terminal,terminal_name,acquirer,card_acceptor_terminal,card_acceptor\r\n"
         "M-1,Noodles,5812,1,Main street,Shanghai,1,Till 1,bank,A0000001,NOODLES00000001\r\n")


class Parts(Protocol):
    imports: Imports
    places: Places

    def reader(self) -> Connect: ...


def shown(row: Any) -> dict[str, Any]:
    return {"id": show("import", row["import_id"]), "made": json.loads(row["made"]),
            **{name: row[name] for name in ("name", "sha256", "lines", "dry_run", "skip_bad", "state", "faults", "written_to", "asked_by")},
            **{name: stamp(row[name]) for name in ("asked_at", "ended_at")}}


def _answered(code: int = 200, **more: Any) -> dict[int | str, dict[str, Any]]:
    return {code: {"description": "The import", "content": {"application/json": {"example": {**EXAMPLE, **more}}}}}


def _listed(example: Mapping[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "One page", "content": {"application/json": {"example": {"items": [dict(example)], "next": None}}}}}


async def _streamed(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect:
        raise Problem("request_malformed", "The connection ended before the file.") from None


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    operator = operators(identify)
    routes = APIRouter(dependencies=[Depends(operator)], responses=refused(401, 403, 404, 422, 503), tags=["onboarding"])

    @routes.post("/v1/imports", summary="Bring in merchants, stores and terminals from CSV; a job checks and writes them", status_code=202,
                 responses=_answered(202, state="queued", written_to=0, made={}, ended_at=None) | refused(400, 413, 415),
                 openapi_extra={"requestBody": {"required": True, "description": "CSV as it is, or gzip: a row for each terminal at an acquirer.",
                                                "content": {"text/csv": {"schema": {"type": "string"}, "example": SHEET}}}})
    async def bring(request: Request, caller: Annotated[Caller, Depends(operator)], name: Annotated[str, Query(max_length=120)] = "",
                    dry_run: Annotated[bool, Query(description="check, write nothing")] = False,
                    skip_bad: Annotated[bool, Query(description="write what is sound although something is wrong")] = False) -> Response:
        if "content-encoding" in request.headers:
            raise Problem("content_encoding", "Send the bytes of the file; a gzip file is one without Content-Encoding, too.")
        if not name.isprintable():
            raise Problem("invalid", errors=[{"field": "name", "type": "rule", "rule": "printable characters"}])
        return said(shown(await parts.imports.take(_streamed(request), name, person(caller), dry_run=dry_run, skip_bad=skip_bad)), 202)

    @routes.get("/v1/imports", summary="Imports, newest first", responses=_listed(EXAMPLE))
    async def page(limit: Annotated[int, Query(ge=1, le=imports.PAGE_MAX)] = 50, after: str | None = None) -> Response:
        rows = await parts.imports.fetch(imports.PAGE, None if after is None else identified("import", after), limit + 1)
        return paged([shown(row) for row in rows], limit)

    @routes.get("/v1/imports/{ident}", summary="How far an import is, and what it made", responses=_answered())
    async def one(ident: str) -> Response:
        return said(shown(await parts.imports.one(identified("import", ident))))

    @routes.get("/v1/imports/{ident}/faults", summary="What is wrong in an import: line, column and rule, by line", responses=_listed(FAULT))
    async def faults(ident: str, limit: Annotated[int, Query(ge=1, le=imports.PAGE_MAX)] = 50,
                     after: Annotated[str | None, Query(pattern="^[0-9]{1,9}/[a-z_]{1,40}$", description="LINE/COLUMN")] = None) -> Response:
        import_id = identified("import", ident)
        await parts.imports.one(import_id)
        line, _, column = (after or "0/").partition("/")
        rows = await parts.imports.fetch(imports.FAULTS, import_id, int(line), column, limit + 1)
        items = [{"line": row["line"], "column": row["field"], "rule": row["rule"]} for row in rows[:limit]]
        return said({"items": items, "next": f"{items[-1]['line']}/{items[-1]['column']}" if len(rows) > limit else None})

    @routes.get("/v1/directory/export", summary="What was imported and stands now, as CSV that imports take",
                responses={200: {"description": "The file", "content": {"text/csv": {"schema": {"type": "string"}, "example": SHEET}}}})
    async def export(caller: Annotated[Caller, Depends(operator)]) -> Response:
        @asynccontextmanager
        async def opened() -> AsyncIterator[AsyncIterator[bytes]]:
            async with parts.places.place(caller), reading(parts.reader()) as connection:
                yield _lines(connection)

        return Download(opened(), "text/csv; charset=utf-8", "directory.csv")

    return routes


async def _lines(connection: Any) -> AsyncIterator[bytes]:
    yield _line(COLUMNS)
    cursor = await connection.cursor(imports.EXPORT)
    while rows := await cursor.fetch(ROWS):
        yield b"".join(_line([row[name] for name in COLUMNS]) for row in rows)


def _line(cells: Any) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue().encode()
