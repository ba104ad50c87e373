"""Errors as problem details (RFC 9457): one shape for all, never echoing input; and the pages that explain them."""

import os
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from switch import logs, metrics
from switch.api.shapes import refused
from switch.errors import PROBLEMS, Problem

CONTENT_TYPE = "application/problem+json"
STATUS_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


def request_id() -> str:
    return os.urandom(8).hex()


def headers_of(problem: Problem) -> dict[str, str]:
    headers = {"content-type": CONTENT_TYPE, "cache-control": "no-store"}
    if problem.retry_after is not None:
        headers["retry-after"] = str(problem.retry_after)
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    return headers


def rendered(problem: Problem, identity: str | None = None) -> Response:
    metrics.refusals.labels(problem.code).inc()
    return Response(problem.body(identity or request_id()), problem.status, headers_of(problem))


def broken(error: Exception, path: str | None) -> Response:
    """A fault of ours: the log says where, under the request_id that the caller is told."""
    identity = request_id()
    logs.error("request_failed", error=type(error).__name__, path=path, where=logs.place(error), request_id=identity)
    return rendered(Problem("internal"), identity)


def allowed(request: Request) -> str:
    """What a 405 must say: every method of that address."""
    routes, scope = request.app.router.routes, request.scope
    return ", ".join(method for method in METHODS if any(
        route.matches({**scope, "method": "GET" if method == "HEAD" else method})[0] is Match.FULL for route in routes))


def field_errors(found: list[Any]) -> list[dict[str, str]]:
    """Place and rule of each fault. The name of an unknown field is input, so it is left out."""
    errors = []
    for fault in found[:20]:
        place = [str(part) for part in fault["loc"]]
        if fault["type"] == "extra_forbidden":
            place[-1:] = ["(unknown field)"]
        rule = "Input should be an object" if fault["type"] == "model_type" else fault["msg"]  # the library's own names one of our classes
        errors.append({"field": ".".join(place), "rule": rule, "type": fault["type"]})
    return errors


def invalid(error: ValidationError) -> Problem:
    return Problem("invalid", "One or more fields are wrong; see errors.",
                   errors=field_errors(error.errors(include_input=False, include_context=False, include_url=False)))


def install(app: FastAPI) -> None:
    """Every error of the documented routes leaves as a problem."""

    async def on_problem(_: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return rendered(error)

    async def on_validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return rendered(Problem("invalid", "One or more parameters are wrong; see errors.", errors=field_errors(list(error.errors()))))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        wrong_address = "There is no such address; /docs lists them." if error.status_code == 404 else ""
        answer = rendered(Problem(STATUS_CODES.get(error.status_code, "request_malformed"), wrong_address))
        if error.status_code == 405:
            answer.headers["allow"] = allowed(request)
        return answer

    async def on_fault(request: Request, error: Exception) -> Response:
        return broken(error, getattr(request.scope.get("route"), "path", None))

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_fault)


router = APIRouter(tags=["problems"], responses=refused(404, 422))


@router.get("/problems/{code}", summary="What a problem code means and what to do")
async def problem(code: str) -> dict[str, object]:
    kind = PROBLEMS.get(code)
    if kind is None:
        raise Problem("not_found")
    return {"code": code, "status": kind.status, "title": kind.title, "what_to_do": kind.remedy,
            "help": f"/v1/help-articles?topic={code}"}


@router.get("/problems", summary="All problem codes")
async def problems() -> dict[str, object]:
    return {"items": [{"code": code, "status": kind.status, "title": kind.title, "what_to_do": kind.remedy} for code, kind in PROBLEMS.items()]}
