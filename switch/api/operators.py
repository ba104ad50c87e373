"""Routes for operators: whoever changes something is in the log, by the key and never by what was sent."""

from collections.abc import Awaitable, Callable

from fastapi import Request

from switch import logs
from switch.callers import Caller, require


def operators(identify: Callable[[Request], Caller]) -> Callable[[Request], Awaitable[Caller]]:
    """The dependency of a route that only operators may call."""
    async def operator(request: Request) -> Caller:
        caller = require(identify(request), "operator")
        if request.method != "GET":  # the route's pattern, since a path may hold anything
            logs.info("operator", method=request.method, path=request.scope["route"].path, detail=caller.key_id)
        return caller

    return operator


def person(caller: Caller) -> str:
    """Who an operator is."""
    assert caller.person is not None  # the database holds it for every operator's key
    return caller.person
