"""An answer to a change is given when the worker that was asked serves by it: what its caller does next finds it in force.

Other workers follow within a second by themselves (directory.py). What a payment, a follow-up or a heartbeat is told never waits for this.
"""

from collections.abc import Awaitable, Callable
from typing import Any

ASGI = Callable[[Any, Any, Any], Awaitable[None]]
READS = frozenset({"GET", "HEAD", "OPTIONS"})
OF_TERMINALS = ("/v1/authorizations", "/v1/refunds", "/v1/advices", "/v1/cancellations")
HEARTBEATS = "/heartbeats"


def taken_up(rest: ASGI, caught_up: Callable[[], Awaitable[None]]) -> ASGI:
    """`rest`, whose good answers to changes wait until this worker's records have `caught_up`."""
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] in READS or scope["path"].startswith(OF_TERMINALS) or scope["path"].endswith(HEARTBEATS):
            await rest(scope, receive, send)
            return

        async def told(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] < 300:
                await caught_up()
            await send(message)

        await rest(scope, receive, told)

    return application
