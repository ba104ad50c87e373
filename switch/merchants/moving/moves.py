"""Changes of acquirer in the database: each step in one commit with its row in the history and with the rules that make it true."""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg

from switch.clock import clock
from switch.database import Connection, Pool, work
from switch.errors import Problem
from switch.ids import show
from switch.merchants.applications.opening import new_id
from switch.merchants.moving import owed
from switch.merchants.moving.life import CLOSED, LIFE, MOVED, Share, in_the_way, made
from switch.merchants.onboarding import NUMBERING_LOCK
from switch.merchants.routes import RETIRE, Conditions, add_route
from switch.merchants.rules import refuse
from switch.payments.resolution import Person

PAGE_MAX, NAMED_MAX = 200, 20

PLAN = """INSERT INTO merchant_move (move_id, merchant_id, from_acquirer, to_acquirer, state, planned_for) VALUES ($1, $2, $3, $4, 'planned', $5)"""
NOTE = """INSERT INTO merchant_move_event (move_id, number, event, was, state, person, key_id, reason, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb)"""
GET = "SELECT * FROM merchant_move WHERE move_id = $1 AND ($2::uuid IS NULL OR merchant_id = $2)"
PAGE = """SELECT * FROM merchant_move WHERE ($1::uuid IS NULL OR merchant_id = $1) AND ($2::text IS NULL OR state = $2)
AND ($3::uuid IS NULL OR move_id < $3) ORDER BY move_id DESC LIMIT $4"""
EVENTS = "SELECT number, event, was, state, person, reason, detail, at FROM merchant_move_event WHERE move_id = $1 ORDER BY number"
MOVE = "UPDATE merchant_move SET state = $2, version = version + 1, state_since = now() WHERE move_id = $1 RETURNING *"
MERCHANT = "SELECT status, mcc, time_zone FROM directory_merchant WHERE merchant_id = $1"
ACQUIRER = "SELECT EXISTS (SELECT FROM directory_acquirer WHERE acquirer_id = $1)"
# Rules in force that some sale of the merchant could meet, without those that the change itself made.
RULES = """SELECT r.* FROM directory_rule r WHERE r.state = 'active' AND (r.merchant_id IS NULL OR r.merchant_id = $1)
AND (r.mccs IS NULL OR $2 = ANY(r.mccs))
AND NOT EXISTS (SELECT FROM merchant_move_route m WHERE m.move_id = $3 AND m.route_id = r.route_id) ORDER BY r.route_id"""
MINE = """SELECT m.route_id, r.acquirer_id FROM merchant_move_route m JOIN directory_rule r USING (route_id)
WHERE m.move_id = $1 AND r.state = 'active' ORDER BY m.route_id"""
KEEP = "INSERT INTO merchant_move_route (move_id, route_id, number) VALUES ($1, $2, $3)"
OWN = "SELECT route_id FROM directory_rule WHERE state = 'active' AND merchant_id = $1 AND acquirer_id = $2 ORDER BY route_id"
UNNUMBERED = """SELECT t.terminal_id, t.name FROM directory_terminal t WHERE t.merchant_id = $1 AND t.status <> 'retired'
AND ($3::uuid[] IS NULL OR t.store_id = ANY($3)) AND NOT EXISTS (SELECT FROM directory_acquirer_terminal n WHERE n.merchant_id = t.merchant_id
AND n.terminal_id = t.terminal_id AND n.acquirer_id = $2) ORDER BY t.terminal_id LIMIT $4"""
LAST_SHARE = "SELECT detail FROM merchant_move_event WHERE move_id = $1 AND event = 'share' ORDER BY number DESC LIMIT 1"


class Moved(NamedTuple):
    """A change with its history. `missing`: terminals that the new acquirer has no number for, at most NAMED_MAX."""

    row: asyncpg.Record
    events: list[asyncpg.Record]
    missing: list[asyncpg.Record]


def _found(value: Any) -> Any:
    if value is None:
        raise Problem("not_found")
    return value


class Moves:
    """Writes as `switch_writer`. Raises Problem: not_found, invalid, conflict, already_exists, move_step, move_waits, not_ready."""

    def __init__(self, writers: Pool, readers: Pool, terms: owed.Terms = owed.no_terms) -> None:
        self.writers, self.readers, self.terms = writers, readers, terms

    async def page(self, merchant_id: UUID | None, state: str | None, before: UUID | None, limit: int) -> list[asyncpg.Record]:
        async with work(self.readers) as connection:
            return await connection.fetch(PAGE, merchant_id, state, before, min(limit, PAGE_MAX) + 1)

    async def get(self, move_id: UUID, merchant_id: UUID | None = None) -> Moved:
        """`merchant_id`: whose it must be."""
        async with work(self.readers) as connection:
            return await self._whole(connection, _found(await connection.fetchrow(GET, move_id, merchant_id)))

    async def obligations(self, move_id: UUID, merchant_id: UUID | None = None) -> tuple[list[owed.Owed], Sequence[Mapping[str, Any]]]:
        """What is open at the old acquirer, and what the contract with it says of its end."""
        async with work(self.readers) as connection:
            row = _found(await connection.fetchrow(GET, move_id, merchant_id))
            return (await owed.owed(connection, row["merchant_id"], row["from_acquirer"]),
                    await self.terms(connection, row["merchant_id"], row["from_acquirer"]))

    async def plan(self, merchant_id: UUID, old: UUID, new: UUID, planned_for: date | None, by: Person, reason: str) -> Moved:
        """A change that begins. Nothing of the traffic moves."""
        refuse([("to", "another acquirer than from")] if old == new else [])
        try:
            async with work(self.writers) as connection:
                merchant = _found(await connection.fetchrow(MERCHANT, merchant_id))
                if merchant["status"] == "closed":
                    raise Problem("conflict", "A closed merchant changes no acquirer.")
                for acquirer_id in (old, new):
                    _found(await connection.fetchval(ACQUIRER, acquirer_id) or None)
                if not any(rule["acquirer_id"] == old for rule in await connection.fetch(RULES, merchant_id, merchant["mcc"], None)):
                    raise Problem("conflict", "No rule in force leads this merchant's sales to the acquirer that it would leave.")
                await connection.execute(PLAN, identity := new_id(), merchant_id, old, new, planned_for)
                await connection.execute(NOTE, identity, 1, "plan", None, "planned", by.name, by.key_id, reason, "{}")
                return await self._whole(connection, await connection.fetchrow(GET, identity, None))
        except asyncpg.UniqueViolationError:
            raise Problem("already_exists", "Another change of this merchant is not ended; end that one first.") from None

    async def step(self, move_id: UUID, event: str, share: Share | None, by: Person, reason: str, version: int | None = None) -> Moved:
        """One step, with the rules that make it true, whole or not at all. `share`: with the event share, and only then."""
        refuse([("percent", "given with the event share, and only then")] if (share is None) == (event == "share") else [])
        async with work(self.writers) as connection:
            await connection.execute("SELECT pg_advisory_xact_lock($1)", NUMBERING_LOCK)
            row = _found(await connection.fetchrow(f"{GET} FOR NO KEY UPDATE", move_id, None))
            if version is not None and version != row["version"]:
                raise Problem("conflict", "The change went on meanwhile; read it again and decide anew.")
            refused = LIFE.refusal(row["state"], event)
            if refused is not None:
                raise Problem(*refused)
            detail = await self._do(connection, row, event, share, by)
            after = await connection.fetchrow(MOVE, move_id, LIFE[row["state"], event])
            assert after is not None  # it is locked
            await connection.execute(NOTE, move_id, after["version"], event, row["state"], after["state"], by.name, by.key_id, reason,
                                     json.dumps(detail))
            return await self._whole(connection, after)

    async def _do(self, connection: Connection, row: asyncpg.Record, event: str, share: Share | None, by: Person) -> dict[str, Any]:
        """What a step does besides moving the state; what is worth keeping of it."""
        match event:
            case "share":
                assert share is not None
                return await self._shared(connection, row, share, by)
            case "complete":
                return await _complete(connection, row)
            case "finish":
                open_items = owed.named(await owed.owed(connection, row["merchant_id"], row["from_acquirer"]), owed.BLOCKS_FINISH)
                if open_items:
                    raise Problem("move_waits", f"Something is open at the acquirer that would be left: {open_items}.")
                left = [rule["route_id"] for rule in await connection.fetch(OWN, row["merchant_id"], row["from_acquirer"])]
                return {"retired": await _retired(connection, left, by)}
            case "roll_back":
                return {"retired": await _retired(connection, [rule["route_id"] for rule in await connection.fetch(MINE, row["move_id"])], by)}
        return {}

    async def _shared(self, connection: Connection, row: asyncpg.Record, share: Share, by: Person) -> dict[str, Any]:
        """The rules of the share before this one end and its own begin, in this commit: no sale meets both or neither."""
        merchant_id, new = row["merchant_id"], row["to_acquirer"]
        merchant = await connection.fetchrow(MERCHANT, merchant_id)
        assert merchant is not None
        missing = await connection.fetch(UNNUMBERED, merchant_id, new, None if share.stores is None else list(share.stores), NAMED_MAX)
        if missing:
            raise Problem("move_waits", "The new acquirer has no number for these terminals; add them first: "
                          + ", ".join(show("terminal", each["terminal_id"]) for each in missing) + ".")
        rules = [dict(rule) for rule in await connection.fetch(RULES, merchant_id, merchant["mcc"], row["move_id"])]
        wrong = in_the_way(rules, row["from_acquirer"], merchant_id)
        if wrong:
            raise Problem("move_waits", "Give the merchant rules of its own first: "
                          + "; ".join(f"{show('route', route_id)}: {why}" for route_id, why in wrong[:NAMED_MAX]) + ".")
        retired = await _retired(connection, [rule["route_id"] for rule in await connection.fetch(MINE, row["move_id"])], by)
        added = []
        for each in made(rules, row["from_acquirer"], new, share):
            conditions: Conditions = {**_conditions(each.conditions), "name": f"{show('move', row['move_id'])} {share.percent} %"}  # type: ignore[typeddict-item]
            route_id = await add_route(connection, each.acquirer_id, merchant_id, each.brand, each.priority, "active", by.name, conditions)
            await connection.execute(KEEP, row["move_id"], route_id, row["version"] + 1)
            added.append(show("route", route_id))
        if not added:
            raise Problem("move_waits", "No rule in force leads this merchant's sales to the old acquirer any more.")
        return {"percent": share.percent, "stores": None if share.stores is None else [show("store", each) for each in share.stores],
                "date_from": None if share.date_from is None else share.date_from.isoformat(), "rules": added, "retired": retired}

    async def _whole(self, connection: Connection, row: Any) -> Moved:
        missing = [] if row["state"] in CLOSED or row["state"] == MOVED else await connection.fetch(
            UNNUMBERED, row["merchant_id"], row["to_acquirer"], None, NAMED_MAX)
        return Moved(row, await connection.fetch(EVENTS, row["move_id"]), missing)


def _conditions(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name in Conditions.__annotations__}


async def _retired(connection: Connection, routes: Sequence[UUID], by: Person) -> list[str]:
    return [show("route", each) for each in routes if await connection.fetchval(RETIRE, each, by.name)]


async def _complete(connection: Connection, row: asyncpg.Record) -> dict[str, Any]:
    """Everything goes to the new acquirer already. Raises Problem move_waits."""
    share = json.loads(await connection.fetchval(LAST_SHARE, row["move_id"]))
    merchant = await connection.fetchrow(MERCHANT, row["merchant_id"])
    assert merchant is not None
    today = clock.now().astimezone(ZoneInfo(merchant["time_zone"])).date().isoformat()
    if share["percent"] != 100 or share["stores"] is not None or (share["date_from"] or today) > today:
        raise Problem("move_waits", "Not everything goes to the new acquirer yet: share 100 per cent of all stores first, and wait for its day.")
    return {}

