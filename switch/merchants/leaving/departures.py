"""Merchants who leave, in the database: each step in one commit with its row, and refused by name while something is in its way."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg

from switch.clock import clock
from switch.database import Connection, Pool, work
from switch.errors import Problem
from switch.ids import show
from switch.merchants.applications.opening import new_id
from switch.merchants.leaving.life import BEFORE_SETTLED, BEFORE_STOP, LIFE, kept
from switch.merchants.moving import owed
from switch.money import text
from switch.payments.resolution import Person
from switch.terminals.lifecycle import ASSIGNED

PAGE_MAX, NAMED_MAX = 200, 20

BEGIN = "INSERT INTO merchant_leaving (leaving_id, merchant_id, state) VALUES ($1, $2, 'noticed')"
NOTE = """INSERT INTO merchant_leaving_event (leaving_id, number, event, was, state, person, key_id, reason, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb)"""
GET = "SELECT * FROM merchant_leaving WHERE leaving_id = $1 AND ($2::uuid IS NULL OR merchant_id = $2)"
PAGE = """SELECT * FROM merchant_leaving WHERE ($1::uuid IS NULL OR merchant_id = $1) AND ($2::uuid IS NULL OR leaving_id < $2)
ORDER BY leaving_id DESC LIMIT $3"""
EVENTS = "SELECT number, event, was, state, person, reason, detail, at FROM merchant_leaving_event WHERE leaving_id = $1 ORDER BY number"
MOVE = "UPDATE merchant_leaving SET state = $2, version = version + 1, state_since = now() WHERE leaving_id = $1 RETURNING *"
MERCHANT = "SELECT status, time_zone FROM merchant WHERE merchant_id = $1 FOR NO KEY UPDATE"
STATUS = "UPDATE merchant SET status = $2 WHERE merchant_id = $1 AND status = $3 RETURNING true"
COUNTRY = "SELECT country FROM directory_store WHERE merchant_id = $1 ORDER BY store_id LIMIT 1"
DEVICES = "SELECT device_id, state FROM device WHERE merchant_id = $1 AND state = ANY($2::text[]) ORDER BY device_id LIMIT $3"
TO_ERASE = """SELECT DISTINCT k.device_id FROM device_key k JOIN api_key a USING (key_id)
WHERE a.merchant_id = $1 AND k.erase_asked_at IS NOT NULL AND k.erased_at IS NULL LIMIT $2"""
RETIRE_TILLS = "UPDATE terminal SET status = 'retired' WHERE merchant_id = $1 AND status <> 'retired'"
END_TILL_KEYS = "UPDATE api_key SET revoked_at = now() WHERE merchant_id = $1 AND terminal_id IS NOT NULL AND revoked_at IS NULL"
END_KEYS = "UPDATE api_key SET revoked_at = now() WHERE merchant_id = $1 AND revoked_at IS NULL"
BALANCES = """SELECT a.kind, a.currency, sum(e.amount)::bigint AS balance FROM account a JOIN ledger_entry e USING (account_id)
WHERE a.merchant_id = $1 GROUP BY a.kind, a.currency HAVING sum(e.amount) <> 0 ORDER BY a.kind, a.currency"""
# Whether it was this leaving that stopped the merchant, and no licence that has ended keeps it from selling.
OURS = """SELECT EXISTS (SELECT FROM merchant_leaving_event WHERE leaving_id = $1 AND event = 'stop' AND detail @> '{"suspended": true}')
AND NOT EXISTS (SELECT FROM licence_step s WHERE s.merchant_id = $2 AND s.step = 'suspend' AND NOT EXISTS (SELECT FROM licence_step l
  WHERE l.merchant_id = s.merchant_id AND l.kind = s.kind AND l.expires_on = s.expires_on AND l.step = 'lift'))"""
OPEN_MOVE = "SELECT move_id FROM merchant_move WHERE merchant_id = $1 AND state IN ('planned', 'registering', 'moving', 'moved')"


class Leaving(NamedTuple):
    """`open`: everything that is open now."""

    row: asyncpg.Record
    events: list[asyncpg.Record]
    open: list[owed.Owed]


def _found(value: Any) -> Any:
    if value is None:
        raise Problem("not_found")
    return value


class Departures:
    """Writes as `switch_writer`. Raises Problem: not_found, conflict, already_exists, leaving_step, leaving_waits, not_ready."""

    def __init__(self, writers: Pool, readers: Pool) -> None:
        self.writers, self.readers = writers, readers

    async def page(self, merchant_id: UUID | None, before: UUID | None, limit: int) -> list[asyncpg.Record]:
        async with work(self.readers) as connection:
            return await connection.fetch(PAGE, merchant_id, before, min(limit, PAGE_MAX) + 1)

    async def get(self, leaving_id: UUID, merchant_id: UUID | None = None) -> Leaving:
        async with work(self.readers) as connection:
            return await _whole(connection, _found(await connection.fetchrow(GET, leaving_id, merchant_id)))

    async def begin(self, merchant_id: UUID, by: Person, reason: str) -> Leaving:
        """Notice is given; everything goes on as before."""
        try:
            async with work(self.writers) as connection:
                if _found(await connection.fetchrow(MERCHANT, merchant_id))["status"] == "closed":
                    raise Problem("conflict", "The merchant is closed already.")
                await connection.execute(BEGIN, identity := new_id(), merchant_id)
                await connection.execute(NOTE, identity, 1, "notice", None, "noticed", by.name, by.key_id, reason, "{}")
                return await _whole(connection, await connection.fetchrow(GET, identity, None))
        except asyncpg.UniqueViolationError:
            raise Problem("already_exists", "This merchant is leaving already; go on with that.") from None

    async def step(self, leaving_id: UUID, event: str, by: Person, reason: str) -> Leaving:
        """One step with all that it does, or nothing of it."""
        async with work(self.writers) as connection:
            row = _found(await connection.fetchrow(f"{GET} FOR NO KEY UPDATE", leaving_id, None))
            refused = LIFE.refusal(row["state"], event)
            if refused is not None:
                raise Problem(*refused)
            detail = await _do(connection, row["merchant_id"], leaving_id, event)
            after = await connection.fetchrow(MOVE, leaving_id, LIFE[row["state"], event])
            assert after is not None  # it is locked
            await connection.execute(NOTE, leaving_id, after["version"], event, row["state"], after["state"], by.name, by.key_id, reason,
                                     json.dumps(detail))
            return await _whole(connection, after)


async def _whole(connection: Connection, row: Any) -> Leaving:
    return Leaving(row, await connection.fetch(EVENTS, row["leaving_id"]), await owed.owed(connection, row["merchant_id"]))


async def _do(connection: Connection, merchant_id: UUID, leaving_id: UUID, event: str) -> Mapping[str, Any]:
    """What a step does besides moving the state; what is worth keeping of it. Raises Problem leaving_waits."""
    merchant = await connection.fetchrow(MERCHANT, merchant_id)
    assert merchant is not None
    match event:
        case "stop":
            await _nothing_of(connection, merchant_id, BEFORE_STOP)
            move = await connection.fetchval(OPEN_MOVE, merchant_id)
            if move is not None:
                raise Problem("leaving_waits", f"A change of acquirer is not ended: {show('move', move)}.")
            return {"suspended": await connection.fetchval(STATUS, merchant_id, "suspended", "active") is not None}
        case "withdraw":
            ours = await connection.fetchval(OURS, leaving_id, merchant_id)
            return {"active": bool(ours) and await connection.fetchval(STATUS, merchant_id, "active", "suspended") is not None}
        case "return":
            return await _returned(connection, merchant_id)
        case "settle":
            await _nothing_of(connection, merchant_id, BEFORE_SETTLED)
            balances = await connection.fetch(BALANCES, merchant_id)
            if balances:
                raise Problem("leaving_waits", "Its accounts are not empty: "
                              + "; ".join(f"{each['kind']} {text(each['balance'], each['currency'])}" for each in balances) + ".")
            return {}
    assert event == "close"
    ended = clock.now().astimezone(ZoneInfo(merchant["time_zone"])).date()
    country = await connection.fetchval(COUNTRY, merchant_id) or ""
    await connection.fetchval(STATUS, merchant_id, "closed", merchant["status"])
    await connection.execute(END_KEYS, merchant_id)
    return {"kept": [{"what": each.what, "until": each.until.isoformat(), "source": each.source} for each in kept(country, ended)]}


async def _nothing_of(connection: Connection, merchant_id: UUID, kinds: frozenset[str]) -> None:
    items = owed.named(await owed.owed(connection, merchant_id), kinds)
    if items:
        raise Problem("leaving_waits", f"Something is open: {items}.")


async def _returned(connection: Connection, merchant_id: UUID) -> Mapping[str, Any]:
    """Devices are back and say that they erased their keys; then all tills and their keys end."""
    devices = await connection.fetch(DEVICES, merchant_id, sorted(ASSIGNED), NAMED_MAX)
    if devices:
        raise Problem("leaving_waits", "These devices are not returned: " + ", ".join(show("device", each["device_id"]) for each in devices) + ".")
    left = await connection.fetch(TO_ERASE, merchant_id, NAMED_MAX)
    if left:
        raise Problem("leaving_waits", "Keys are not erased in these devices: " + ", ".join(show("device", each["device_id"]) for each in left) + ".")
    tills = await connection.execute(RETIRE_TILLS, merchant_id)
    keys = await connection.execute(END_TILL_KEYS, merchant_id)
    return {"tills": int(tills.split()[-1]), "keys": int(keys.split()[-1])}
