"""Tickets: opened and seen by merchants and, for their store, by terminals; worked on by people of support and operators."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol, get_args

import asyncpg
from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from switch import logs
from switch.api import answers
from switch.api.answers import stamp
from switch.api.devices import optional
from switch.api.disputes import plain_lines
from switch.api.documented import documented
from switch.api.onboard import Ident, body_of, identified, paged, said
from switch.api.resolving import plain_text
from switch.api.shapes import Shape, TransactionNow, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.clock import clock
from switch.errors import Problem
from switch.ids import show
from switch.merchants.support.desk import PAGE_MAX, SupportDesk, Wanted, Whole
from switch.merchants.support.life import Term, overdue
from switch.merchants.support.tickets import About, Move, Tickets, Who
from switch.payments.history import History

State = Literal["open", "assigned", "waiting_for_merchant", "in_repair", "resolved", "closed"]
Severity = Literal["critical", "high", "normal", "low"]
Category = Literal["payments", "terminal", "settlement", "account", "other"]
Event = Literal["assign", "take_over", "ask", "answer", "repair", "give_back", "swap", "resolve", "withdraw", "close", "reopen"]
Text = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(plain_lines)]
Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(plain_text)]
Person = Annotated[str, Field(min_length=1, max_length=120), AfterValidator(plain_text)]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"
WRITES = refused(400, 409, 413, 415)


class TicketRequest(Model):
    """What does not work. Of `merchant`, `store`, `terminal` and `transaction` the most particular one is enough."""

    subject: Line
    text: Text
    severity: Severity = "normal"
    category: Category = "other"
    merchant: Ident | None = None
    store: Ident | None = None
    terminal: Ident | None = None
    transaction: Ident | None = None


class TicketStepRequest(Model):
    """`assignee` with assign, yourself when not given; what somebody else has you `take_over`. `replacement`, a device, with swap."""

    event: Event
    text: Text
    assignee: Person | None = None
    replacement: Ident | None = None

    @model_validator(mode="after")
    def _agrees(self) -> "TicketStepRequest":
        if self.assignee is not None and self.event != "assign":
            raise PydanticCustomError("assignee", "assignee is given to assign, and only then")
        if (self.replacement is not None) != (self.event == "swap"):
            raise PydanticCustomError("replacement", "replacement is given to swap, and only then")
        return self


class TicketCommentRequest(Model):
    """`internal`: the merchant does not see it; only support writes such."""

    text: Text
    internal: bool = False


class TicketRatingRequest(Model):
    stars: Annotated[int, Field(ge=1, le=5)]
    text: Annotated[str, Field(max_length=500), AfterValidator(lambda text: plain_lines(text) if text else text)] = ""


class TicketTermRequest(Model):
    """Minutes from the opening to the first answer, and to the resolution; for tickets from now on."""

    answer_minutes: Annotated[int, Field(ge=1, le=43_200)]
    resolve_minutes: Annotated[int, Field(ge=1, le=129_600)]

    @model_validator(mode="after")
    def _agrees(self) -> "TicketTermRequest":
        if self.answer_minutes > self.resolve_minutes:
            raise PydanticCustomError("answer_minutes", "answer_minutes is at most resolve_minutes")
        return self


MODELS = (TicketRequest, TicketStepRequest, TicketCommentRequest, TicketRatingRequest, TicketTermRequest)


class ShownTicket(Shape):
    """`answer_by`: until when support answers, null when it has; `resolve_by`: null when it is resolved. `overdue`: one of them has passed."""

    id: str
    merchant: str
    store: str | None
    terminal: str | None
    transaction: str | None
    subject: str
    category: Category
    severity: Severity
    state: State
    version: int
    assignee: str | None
    reopened: int
    answer_by: str | None
    resolve_by: str | None
    overdue: bool
    opened_by: str
    opened_at: str
    since: str


class TicketPage(Shape):
    """Newest first; `next` goes into `after`, null at the end."""

    items: list[ShownTicket]
    next: str | None


class TicketEvent(Shape):
    """A step, or a comment: `number` null. `device` was moved by it, `replacement` took its place."""

    at: str
    number: int | None
    event: str
    was: State | None
    state: State
    by: str
    internal: bool
    text: str
    device: str | None
    replacement: str | None


class ShownRating(Shape):
    stars: int
    text: str
    at: str


class WholeTicket(ShownTicket):
    """With everything that was done and said, the oldest first. `articles`: help about its category."""

    events: list[TicketEvent]
    rating: ShownRating | None
    articles: list[str]


class ShownCause(Shape):
    kind: str
    says: str
    help: str
    evidence: dict[str, Any]


class TicketCauses(Shape):
    """What may be wrong, the most telling first; each from records of the switch, as they are now."""

    items: list[ShownCause]
    next: None


class ShownTicketTerm(Shape):
    severity: Severity
    answer_minutes: int
    resolve_minutes: int
    set_by: str
    set_at: str


class AllTicketTerms(Shape):
    items: list[ShownTicketTerm]
    next: None


class Parts(Protocol):
    """What these routes need of the switch."""

    tickets: Tickets
    support_desk: SupportDesk
    history: History


def _ids(row: asyncpg.Record, *kinds: str) -> dict[str, str | None]:
    return {kind: None if row[f"{kind}_id"] is None else show(kind, row[f"{kind}_id"]) for kind in kinds}


def shown(row: asyncpg.Record, support: bool) -> dict[str, Any]:
    """Who of support has it is not the merchant's concern."""
    return {"id": show("ticket", row["ticket_id"]), **_ids(row, "merchant", "store", "terminal", "transaction"),
            **{name: row[name] for name in ("subject", "category", "severity", "state", "version", "reopened")},
            "assignee": row["assignee"] if support or row["assignee"] is None else "support",
            "overdue": overdue(row["answer_by"], row["resolve_by"], clock.now()),
            "opened_by": row["opened_by"] if support or row["opened_by"].startswith(("mer_", "sto_", "trm_")) else "support",
            **{name: stamp(row[name]) for name in ("answer_by", "resolve_by", "opened_at")}, "since": stamp(row["state_since"])}


def _event(row: asyncpg.Record, support: bool) -> dict[str, Any]:
    return {"at": stamp(row["at"]), **{name: row[name] for name in ("number", "event", "was", "state", "internal", "text")},
            "by": row["person"] if support or not row["support"] else "support",
            "device": None if row["device_id"] is None else show("device", row["device_id"]),
            "replacement": None if row["replacement_id"] is None else show("device", row["replacement_id"])}


def _whole(whole: Whole, support: bool) -> dict[str, Any]:
    rating = whole.rating and {"stars": whole.rating["stars"], "text": whole.rating["text"], "at": stamp(whole.rating["at"])}
    return {**shown(whole.row, support), "events": [_event(event, support) for event in whole.events], "rating": rating,
            "articles": whole.articles}


def _term(row: asyncpg.Record) -> dict[str, Any]:
    return {**dict(row), "set_at": stamp(row["set_at"])}


def _evidence(evidence: Any) -> dict[str, Any]:
    return {name: stamp(value) if isinstance(value, datetime) else value for name, value in evidence.items()}


def who(caller: Caller) -> Who:
    """Support and operators see all; a merchant its own; a terminal and staff those of their store. Raises Problem forbidden."""
    require(caller, "merchant", "terminal", "staff", "support", "operator")
    if caller.role in ("support", "operator"):
        return Who(caller.person or "", caller.key_id, True)
    assert caller.merchant_id is not None
    if caller.role == "terminal":
        assert caller.terminal_id is not None
        return Who(show("terminal", caller.terminal_id), caller.key_id, False, caller.merchant_id, caller.store_id)
    if caller.store_id is not None:
        return Who(show("store", caller.store_id), caller.key_id, False, caller.merchant_id, caller.store_id)
    return Who(show("merchant", caller.merchant_id), caller.key_id, False, caller.merchant_id)


def writing(identify: Callable[[Request], Caller], request: Request) -> Who:
    """Whoever writes here; people of ours are logged by their key. Raises Problem."""
    caller = identify(request)
    found = who(caller)
    if found.support:
        logs.info("operator", method=request.method, path=request.scope["route"].path, detail=caller.key_id)
    return found


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["support"], responses=refused(401, 403, 404, 422, 503))
    _terms(routes, parts, identify)
    _reads(routes, parts, identify)
    _writes(routes, parts, identify)
    return routes


def _terms(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.get("/v1/ticket-terms", summary="Deadlines of tickets by severity", responses=shaped(200, "All", AllTicketTerms))
    async def terms(request: Request) -> Response:
        who(identify(request))
        return said({"items": [_term(row) for row in await parts.support_desk.terms()], "next": None})

    @routes.put("/v1/ticket-terms/{severity}", summary="Arrange a severity's deadlines anew, for tickets from now on",
                openapi_extra=documented(TicketTermRequest, {"answer_minutes": 30, "resolve_minutes": 240}),
                responses=shaped(200, "As it is now", ShownTicketTerm) | WRITES)
    async def arrange(request: Request, severity: str) -> Response:
        caller = require(identify(request), "operator")
        if severity not in get_args(Severity):
            raise Problem("not_found")
        wanted, by = await body_of(request, TicketTermRequest), writing(identify, request)
        assert caller.person is not None
        return said(_term(await parts.tickets.set_term(severity, Term(wanted.answer_minutes, wanted.resolve_minutes), by.name)))


def _reads(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.get("/v1/tickets", summary="Tickets, newest first; a terminal sees those of its store", responses=shaped(200, "One page", TicketPage))
    async def page(request: Request, limit: Limit = 50, after: str | None = None, state: State | None = None,
                   terminal: str | None = None) -> Response:
        caller = who(identify(request))
        rows = await parts.support_desk.page(caller, Wanted(state, optional("terminal", terminal), optional("ticket", after)), limit + 1)
        return paged([shown(row, caller.support) for row in rows], limit)

    @routes.get("/v1/ticket-queue", summary="What is to be done: overdue first, then by severity and deadline",
                responses=shaped(200, "The most urgent ones; `next` is always null", TicketPage))
    async def queue(request: Request, limit: Limit = 50, assignee: Annotated[str | None, Query(max_length=120)] = None) -> Response:
        require(identify(request), "support", "operator")
        return said({"items": [shown(row, True) for row in await parts.support_desk.queue(assignee, limit)], "next": None})

    @routes.get("/v1/tickets/{ticket}", summary="One ticket with what was done and said", responses=shaped(200, "The ticket", WholeTicket))
    async def one(request: Request, ticket: str) -> Response:
        caller = who(identify(request))
        return said(_whole(await parts.support_desk.one(identified("ticket", ticket), caller), caller.support))

    @routes.get("/v1/tickets/{ticket}/transaction", summary="The transaction that a ticket is about, as it stands now",
                responses=shaped(200, "As it stands now", TransactionNow))
    async def transaction(request: Request, ticket: str) -> Response:
        """Support sees those that tickets name, and no others."""
        caller = who(require(identify(request), "support", "operator"))
        about = (await parts.support_desk.one(identified("ticket", ticket), caller)).row["transaction_id"]
        row = await parts.history.transaction(about) if about is not None else None
        if row is None:
            raise Problem("not_found", "This ticket names no transaction.")
        return said(answers.current(row, await parts.history.duty(row.transaction_id)))

    @routes.get("/v1/tickets/{ticket}/causes", summary="What may be wrong, from the switch's own records",
                responses=shaped(200, "Suggestions with their evidence", TicketCauses))
    async def causes(request: Request, ticket: str) -> Response:
        caller = who(require(identify(request), "support", "operator"))
        found = await parts.support_desk.causes(identified("ticket", ticket), caller)
        return said({"items": [{"kind": each.kind, "says": each.says, "help": f"/v1/help-articles?topic={each.kind}",
                                "evidence": _evidence(each.evidence)} for each in found], "next": None})


def _writes(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    async def now(ticket: str, by: Who, status: int = 200) -> Response:
        return said(_whole(await parts.support_desk.one(identified("ticket", ticket), by), by.support), status)

    @routes.post("/v1/tickets", status_code=201, summary="Say what does not work",
                 openapi_extra=documented(TicketRequest, {"subject": "The terminal prints nothing", "text": "Since this morning, paper is in.",
                                                          "severity": "high", "terminal": f"trm_{_ID}"}),
                 responses=shaped(201, "The ticket", WholeTicket) | WRITES)
    async def opened(request: Request) -> Response:
        by = writing(identify, request)
        wanted = await body_of(request, TicketRequest)
        about = About(*(optional(kind, getattr(wanted, kind)) for kind in ("merchant", "store", "terminal", "transaction")))
        ticket_id = await parts.tickets.open(about, wanted.subject, wanted.text, wanted.severity, by, wanted.category)
        return await now(show("ticket", ticket_id), by, 201)

    @routes.post("/v1/tickets/{ticket}/steps", summary="The next step of a ticket; repair, give_back and swap move its device",
                 openapi_extra=documented(TicketStepRequest, {"event": "ask", "text": "Which lamp is on at the printer?"}),
                 responses=shaped(200, "As it is now", WholeTicket) | WRITES)
    async def step(request: Request, ticket: str) -> Response:
        by = writing(identify, request)
        ticket_id, wanted = identified("ticket", ticket), await body_of(request, TicketStepRequest)
        assignee = (wanted.assignee or by.name) if wanted.event in ("assign", "take_over") else None
        await parts.tickets.move(ticket_id, Move(wanted.event, wanted.text, assignee, optional("device", wanted.replacement)), by)
        return await now(ticket, by)

    @routes.post("/v1/tickets/{ticket}/comments", status_code=201, summary="Say something about a ticket",
                 openapi_extra=documented(TicketCommentRequest, {"text": "A technician comes at three."}),
                 responses=shaped(201, "The ticket", WholeTicket) | WRITES)
    async def comment(request: Request, ticket: str) -> Response:
        by = writing(identify, request)
        ticket_id, wanted = identified("ticket", ticket), await body_of(request, TicketCommentRequest)
        if wanted.internal and not by.support:
            require(identify(request), "support", "operator")
        await parts.tickets.comment(ticket_id, wanted.text, wanted.internal, by)
        return await now(ticket, by, 201)

    @routes.post("/v1/tickets/{ticket}/rating", status_code=201, summary="Rate a closed ticket, once, by its merchant",
                 openapi_extra=documented(TicketRatingRequest, {"stars": 5, "text": "Quick and friendly"}),
                 responses=shaped(201, "The ticket", WholeTicket) | WRITES)
    async def rate(request: Request, ticket: str) -> Response:
        require(identify(request), "merchant")
        by = writing(identify, request)
        ticket_id, wanted = identified("ticket", ticket), await body_of(request, TicketRatingRequest)
        await parts.tickets.rate(ticket_id, wanted.stars, wanted.text, by)
        return await now(ticket, by, 201)
