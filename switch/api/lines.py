"""An acquirer's lines, their breaker, and what its host says of its business day, as operators read and arrange them."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import Response

from switch import logs
from switch.api.answers import stamp
from switch.api.documented import documented
from switch.api.onboard import Ident, body_of, identified, said
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.database import Pool
from switch.ids import show
from switch.merchants.host_days import HostDays, Notice
from switch.merchants.lines import Breaker, Line, add_line, breaker_of, change_line, lines_of, set_breaker

PAGE_MAX = 200
File = Annotated[str, Field(max_length=1000, description="An absolute path on the machines that connect")]
Codes = Annotated[list[Annotated[str, Field(max_length=3)]], Field(max_length=20)]


class LineRequest(Model):
    """The lowest `priority` that is well carries; several `connections` are shared evenly. A `server_name` means TLS: the host's certificate must be
    for it, and from `ca_file` (else from who the machine trusts); `certificate_file` and `key_file` are ours, if the host wants one."""

    host: Annotated[str, Field(max_length=253)]
    port: int
    priority: int = 0
    connections: int = 1
    server_name: Annotated[str, Field(max_length=253)] | None = None
    ca_file: File | None = None
    certificate_file: File | None = None
    key_file: File | None = None


class LineChange(Model):
    """What is given changes; an empty text takes it away. `retired` is the end of a line."""

    host: Annotated[str, Field(max_length=253)] | None = None
    port: int | None = None
    priority: int | None = None
    connections: int | None = None
    status: Literal["active", "down", "retired"] | None = None
    server_name: Annotated[str, Field(max_length=253)] | None = None
    ca_file: File | None = None
    certificate_file: File | None = None
    key_file: File | None = None


class BreakerRequest(Model):
    """A line's breaker opens at `faults` (timeouts and `codes`) within the window that are `percent` of all that ended in it; after the pause it
    closes by `probes` echoes in a row. `faults` 0: no breaker. `codes` null: the dialect's."""

    faults: Annotated[int, Field(ge=0, le=100_000)]
    percent: Annotated[int, Field(ge=1, le=100)] = 50
    window_ms: Annotated[int, Field(ge=1000, le=600_000)] = 10_000
    pause_ms: Annotated[int, Field(ge=100, le=600_000)] = 5_000
    probes: Annotated[int, Field(ge=1, le=100)] = 3
    codes: Codes | None = None


class HostCutOverRequest(Model):
    """What the host's cut-over message does: `open` opens the day here, `record` only keeps it for a person, `cut_over` opens it and asks for the
    cut-over of the day before."""

    host_cut_over: Literal["open", "record", "cut_over"]


MODELS = (LineRequest, LineChange, BreakerRequest, HostCutOverRequest)


class ShownLine(Shape):
    id: str
    acquirer: str
    first: bool
    host: str
    port: int
    priority: int
    connections: int
    status: Literal["active", "down", "retired"]
    server_name: str | None
    ca_file: str | None
    certificate_file: str | None
    key_file: str | None
    created_at: str


class AllLines(Shape):
    items: list[ShownLine]
    next: None


class ShownBreaker(Shape):
    acquirer: str
    faults: int
    percent: int
    window_ms: int
    pause_ms: int
    probes: int
    codes: list[str] | None


class ShownHostCutOver(Shape):
    acquirer: str
    host_cut_over: Literal["open", "record", "cut_over"]


class ShownNotice(Shape):
    id: int
    acquirer: str
    month_day: str
    open_date: str
    business_date: str | None
    action: Literal["opened", "recorded", "asked", "known", "refused"]
    count: int
    first_at: str
    last_at: str


class Notices(Shape):
    items: list[ShownNotice]
    next: int | None


class Parts(Protocol):
    """What these routes need of the switch."""

    writers: Pool
    host_days: HostDays


def _line(line: Line) -> dict[str, Any]:
    shown = asdict(line)
    return {"id": show("line", shown.pop("line_id")), "acquirer": show("acquirer", shown.pop("acquirer_id")), **shown,
            "created_at": stamp(line.created_at)}


def _notice(notice: Notice) -> dict[str, Any]:
    return {"id": notice.notice_id, "acquirer": show("acquirer", notice.acquirer_id), "month_day": notice.month_day,
            "open_date": notice.open_date.isoformat(), "business_date": notice.business_date.isoformat() if notice.business_date else None,
            "action": notice.action, "count": notice.count, "first_at": stamp(notice.first_at), "last_at": stamp(notice.last_at)}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    async def operator(request: Request) -> Caller:
        caller = require(identify(request), "operator")
        if request.method != "GET":
            logs.info("operator", method=request.method, path=request.scope["route"].path, detail=caller.key_id)
        return caller

    routes = APIRouter(tags=["operations"], dependencies=[Depends(operator)], responses=refused(401, 403, 404, 422, 503))
    _lines(routes, parts)
    _breaker(routes, parts)
    _host_days(routes, parts)
    return routes


def _lines(routes: APIRouter, parts: Parts) -> None:
    @routes.get("/v1/acquirers/{acquirer}/lines", summary="Where an acquirer's hosts listen, as they are preferred",
                responses=shaped(200, "All that are not retired", AllLines))
    async def lines(acquirer: str) -> Response:
        return said({"items": [_line(line) for line in await lines_of(parts.writers, identified("acquirer", acquirer))], "next": None})

    @routes.post("/v1/acquirers/{acquirer}/lines", summary="Add a line; every worker connects to it at once", status_code=201,
                 openapi_extra=documented(LineRequest, {"host": "10.0.0.6", "port": 5000, "priority": 10, "server_name": "host.bank.example",
                                                        "ca_file": "/etc/switch/bank-ca.pem", "certificate_file": "/etc/switch/switch.pem",
                                                        "key_file": "/etc/switch/switch.key"}),
                 responses=shaped(201, "The line", ShownLine) | refused(400, 409, 413, 415))
    async def add(request: Request, acquirer: str) -> Response:
        acquirer_id, wanted = identified("acquirer", acquirer), await body_of(request, LineRequest)
        return said(_line(await add_line(parts.writers, acquirer_id, **wanted.model_dump())), 201)

    @routes.patch("/v1/acquirers/{acquirer}/lines/{line}", summary="Move, secure, prefer, take down or retire a line, at every worker",
                  openapi_extra=documented(LineChange, {"status": "down"}),
                  responses=shaped(200, "As it is now", ShownLine) | refused(400, 409, 413, 415))
    async def change(request: Request, acquirer: str, line: Ident) -> Response:
        acquirer_id, line_id, wanted = identified("acquirer", acquirer), identified("line", line), await body_of(request, LineChange)
        return said(_line(await change_line(parts.writers, acquirer_id, line_id, **wanted.model_dump())))


def _breaker(routes: APIRouter, parts: Parts) -> None:
    def shown(acquirer: str, breaker: Breaker) -> dict[str, Any]:
        return {"acquirer": acquirer, **asdict(breaker), "codes": None if breaker.codes is None else list(breaker.codes)}

    @routes.get("/v1/acquirers/{acquirer}/breaker", summary="When an acquirer's lines stop taking new payments",
                responses=shaped(200, "As it is now", ShownBreaker))
    async def breaker(acquirer: str) -> Response:
        return said(shown(acquirer, await breaker_of(parts.writers, identified("acquirer", acquirer))))

    @routes.put("/v1/acquirers/{acquirer}/breaker", summary="Arrange it anew, at every worker",
                openapi_extra=documented(BreakerRequest, {"faults": 20, "percent": 50, "window_ms": 10_000, "pause_ms": 5_000, "probes": 3}),
                responses=shaped(200, "As it is now", ShownBreaker) | refused(400, 413, 415))
    async def arrange(request: Request, acquirer: str) -> Response:
        acquirer_id, wanted = identified("acquirer", acquirer), await body_of(request, BreakerRequest)
        given = wanted.model_dump()
        return said(shown(acquirer, await set_breaker(parts.writers, acquirer_id, Breaker(
            **given | {"codes": None if given["codes"] is None else tuple(given["codes"])}))))


def _host_days(routes: APIRouter, parts: Parts) -> None:
    @routes.get("/v1/acquirers/{acquirer}/host-cut-over", summary="What a cut-over message of an acquirer's host does",
                responses=shaped(200, "As it is now", ShownHostCutOver))
    async def policy(acquirer: str) -> Response:
        return said({"acquirer": acquirer, "host_cut_over": await parts.host_days.policy(identified("acquirer", acquirer))})

    @routes.put("/v1/acquirers/{acquirer}/host-cut-over", summary="Arrange it anew, for messages from now on",
                openapi_extra=documented(HostCutOverRequest, {"host_cut_over": "record"}),
                responses=shaped(200, "As it is now", ShownHostCutOver) | refused(400, 413, 415))
    async def arrange(request: Request, acquirer: str) -> Response:
        acquirer_id, wanted = identified("acquirer", acquirer), await body_of(request, HostCutOverRequest)
        return said({"acquirer": acquirer, "host_cut_over": await parts.host_days.policy(acquirer_id, wanted.host_cut_over)})

    @routes.get("/v1/acquirers/{acquirer}/host-cut-overs", summary="What an acquirer's host said of its business days, newest first",
                responses=shaped(200, "One page", Notices))
    async def notices(acquirer: str, limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
                      after: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None) -> Response:
        found = await parts.host_days.notices(identified("acquirer", acquirer), after, limit + 1)
        return said({"items": [_notice(notice) for notice in found[:limit]], "next": found[limit - 1].notice_id if len(found) > limit else None})
