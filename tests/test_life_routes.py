"""Every route that moves a life, found in the OpenAPI file: steps out of order, the same step by two people at once, and again.

A new route with an `event` fails here until FRESH says how its object is made.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from switch.merchants.leaving import life as leaving
from switch.merchants.moving import life as moving
from switch.merchants.support import life as support
from switch.terminals import acceptance_life, lifecycle, rollout
from tests.fleet import Device, new_till
from tests.flows import Shop, open_shop


class Fresh(NamedTuple):
    """`make`: a new object, its id; `first`: a step that is possible then; `more`: what goes with a step."""

    life: Mapping[tuple[str, str], str]
    code: str
    make: Callable[[Shop], Awaitable[str]]
    first: str
    words: str = "reason"
    more: Mapping[str, dict[str, Any]] = {}
    owned: bool = False  # what `first` takes, another person cannot take by it


async def made(shop: Shop, path: str, **body: Any) -> str:
    answer = await shop.ask("POST", path, body, key="operator")
    assert answer.status == 201, answer.raw
    return str(answer.body["id"])


async def device(shop: Shop) -> str:
    return (await Device(shop, await new_till(shop)).register()).id


async def ticket(shop: Shop) -> str:
    return await made(shop, "/v1/tickets", merchant=shop.shown("merchant.one"), subject="Paper", text="It prints nothing", severity="high")


async def move(shop: Shop) -> str:
    return await made(shop, "/v1/moves", merchant=shop.shown("merchant.one"), from_acquirer=shop.shown("acquirer.single"),
                      to_acquirer=shop.shown("acquirer.dual"), reason="x")


async def end(shop: Shop) -> str:
    return await made(shop, "/v1/leavings", merchant=shop.shown("merchant.one"), reason="x")


async def stages(shop: Shop) -> str:
    for version in ("1.0", "2.0"):
        await shop.ask("POST", "/v1/releases", {"model": "PX8", "version": version, "url": "https://bank.example/px8", "sha256": "0" * 64, "size": 1},
                       key="operator")
    return await made(shop, "/v1/rollouts", model="PX8", version="2.0", back_to="1.0", percent=10, reason="x")


async def trial(shop: Shop) -> str:
    planned = await shop.ask("PUT", "/v1/acceptance-plans/PX8", {"steps": [{"step": "chip"}], "reason": "x"}, key="operator")
    assert planned.status in (200, 201), planned.raw
    tested = await Device(shop, await new_till(shop), model="PX8").be("installed")
    return await made(shop, f"/v1/devices/{tested.id}/acceptance-tests", reason="x")


FRESH: dict[str, Fresh] = {
    "/v1/devices/{device}/moves": Fresh(lifecycle.LIFE, "device_move", device, "retire",
                                         more={"order": {"store": "store.first"}, "install": {"terminal": "terminal.till"}}),
    "/v1/tickets/{ticket}/steps": Fresh({(at, event): after for (at, event), after in support.LIFE.items() if event in support.OF_SUPPORT},
                                        "ticket_move", ticket, "assign", "text", {"swap": {"replacement": "device"}}, owned=True),
    "/v1/moves/{ident}/steps": Fresh(moving.LIFE, "move_step", move, "cancel", more={"share": {"percent": 10}}),
    "/v1/leavings/{ident}/steps": Fresh(leaving.LIFE, "leaving_step", end, "withdraw"),
    "/v1/rollouts/{rollout}/changes": Fresh(rollout.LIFE, "rollout_move", stages, "pause", more={"advance": {"percent": 50}}),
    "/v1/acceptance-tests/{test}/moves": Fresh(acceptance_life.LIFE, "acceptance_move", trial, "cancel"),
}


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("lives")) as opened:
        opened.keys["second"] = (await opened.ask("POST", "/v1/keys", {"role": "operator", "person": "Wang Fang"}, key="administrator")).body["key"]
        opened.ids |= {"device": opened.ids["terminal.till"]}
        await opened.caught_up()
        yield opened


@pytest_asyncio.fixture(scope="module")
async def routes(shop: Shop) -> dict[str, list[str]]:
    """Of each route that takes an event, the events."""
    spec = (await shop.ask("GET", "/openapi.json", key="operator")).body
    found = {}
    for path, operations in spec["paths"].items():
        schema = operations.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        schema = spec["components"]["schemas"].get(schema.get("$ref", "").rsplit("/", 1)[-1], schema)
        if events := schema.get("properties", {}).get("event", {}).get("enum"):
            found[path] = events
    return found


async def test_every_route_that_moves_a_life_is_known_here(routes: dict[str, list[str]]) -> None:
    assert sorted(routes) == sorted(FRESH)


@pytest.mark.parametrize("path", FRESH)
async def test_out_of_order_repeated_and_by_two_at_once(shop: Shop, routes: dict[str, list[str]], path: str) -> None:
    fresh = FRESH[path]
    ident = await fresh.make(shop)
    target = path.replace(path[path.index("{"):path.index("}") + 1], ident)
    shown = target.rsplit("/", 1)[0]

    async def now() -> Any:
        return (await shop.ask("GET", shown, key="operator")).body

    async def send(event: str, key: str = "operator") -> Any:
        more = {name: shop.shown(value) if isinstance(value, str) else value for name, value in fresh.more.get(event, {}).items()}
        return await shop.ask("POST", target, {"event": event, fresh.words: "x", **more}, key=key)

    async def nothing_else_moves(state: str) -> None:
        before = await now()
        for event in routes[path]:
            if (state, event) not in fresh.life:
                refused = await send(event)
                assert (refused.status, refused.body["code"]) == (409, fresh.code), (state, event, refused.raw)
        assert await now() == before, "what is refused changes nothing"

    state, event = (await now())["state"], fresh.first
    await nothing_else_moves(state)
    found = await asyncio.gather(send(event), send(event, "second"))
    after = fresh.life[state, event]
    again = (after, event) in fresh.life and not fresh.owned
    assert sorted(answer.status for answer in found) == [200, 200 if again else 409], [answer.raw for answer in found]
    assert (await now())["state"] == after
    await nothing_else_moves(after)
