"""Licences of merchants in the database: what is due about them is done once, in one commit with its row; a renewed one that is accepted lifts it."""

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg

from switch.clock import clock
from switch.database import Connection, Pool, work
from switch.errors import Problem
from switch.ids import read, show
from switch.merchants.applications.cases import locked, profile_of
from switch.merchants.applications.opening import new_id
from switch.merchants.applications.papers import VERDICT, Papers
from switch.merchants.applications.requirements import needed
from switch.merchants.licences import recorded
from switch.merchants.licences.calendar import EARLIEST, LIFTED, NOTICES, due, limits_of
from switch.merchants.licences.recorded import Seen
from switch.merchants.risk_rules import ADD_LIMIT, RETIRE
from switch.notices import tell
from switch.payments.resolution import Person
from switch.security.vault import Vault
from switch.settlement.jobs.table import Due, Run, Unfit

AT_ONCE = 500
SWITCH = Person("switch", "")

# What is good the longest, by merchant and kind (r0041).
_NEWEST = """SELECT DISTINCT ON (h.merchant_id, h.kind) h.*, m.time_zone,
  ARRAY(SELECT s.step FROM licence_step s WHERE s.merchant_id = h.merchant_id AND s.kind = h.kind AND s.expires_on = h.expires_on) AS done
FROM licence_held h JOIN directory_merchant m ON m.merchant_id = h.merchant_id WHERE"""
# With whether its last day is over where the merchant is.
HELD = f"""SELECT held.*, expires_on < (now() AT TIME ZONE time_zone)::date AS over
FROM ({_NEWEST} h.merchant_id = $1 ORDER BY h.merchant_id, h.kind, h.expires_on DESC) AS held"""
# Those that end soon or have ended, and no other version of theirs holds for longer; what was suspended for is done with.
ENDING = f"""SELECT * FROM ({_NEWEST} h.expires_on <= $1 AND m.status <> 'closed' AND NOT EXISTS (
    SELECT FROM licence_step s WHERE s.merchant_id = h.merchant_id AND s.kind = h.kind AND s.expires_on = h.expires_on AND s.step = 'suspend')
  AND NOT EXISTS (SELECT FROM licence_held n WHERE n.merchant_id = h.merchant_id AND n.kind = h.kind AND n.expires_on > h.expires_on)
  ORDER BY h.merchant_id, h.kind, h.expires_on DESC) AS ending ORDER BY expires_on LIMIT $2"""
STEP = """INSERT INTO licence_step (merchant_id, kind, expires_on, step, person, reason, detail) VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb)
ON CONFLICT DO NOTHING RETURNING true"""
STEPS_OF = """SELECT s.*, EXISTS (SELECT FROM licence_step l WHERE l.merchant_id = s.merchant_id AND l.kind = s.kind AND l.expires_on = s.expires_on
  AND l.step = 'lift') AS lifted FROM licence_step s WHERE s.merchant_id = $1 ORDER BY s.at, s.kind"""
LOCK = "SELECT status FROM merchant WHERE merchant_id = $1 FOR NO KEY UPDATE"
STATUS = "UPDATE merchant SET status = $2 WHERE merchant_id = $1 AND status = $3 RETURNING true"
SELLS = f"""{STATUS.removesuffix(' RETURNING true')} AND NOT EXISTS (
  SELECT FROM merchant_leaving l WHERE l.merchant_id = $1 AND l.state IN ('stopped', 'returned', 'settled')) RETURNING true"""
LIMIT_NOW = "SELECT * FROM merchant_limit WHERE merchant_id = $1 AND currency = $2 AND state = 'active'"
ONE_LIMIT = "SELECT * FROM merchant_limit WHERE limit_id = $1"
APPLICATION = "SELECT application_id, country, entity_type FROM application WHERE merchant_id = $1"
DOCUMENT = """SELECT d.document_id, d.application_id, d.kind, d.expires_on, a.merchant_id, f.document_id IS NOT NULL AS filed,
  EXISTS (SELECT FROM application_document n WHERE n.application_id = d.application_id AND n.kind = d.kind AND n.number > d.number) AS older
FROM application_document d JOIN application a USING (application_id) LEFT JOIN application_file f USING (document_id)
WHERE d.document_id = $1 AND a.state = 'approved' AND ($2::uuid IS NULL OR a.merchant_id = $2)"""


class Watched(NamedTuple):
    """Of a merchant: whether its ends are watched, the kinds that its business needs, what is in force, what has ended with nothing after it, what
    was done about it, and what operators recorded."""

    watched: bool
    needed: list[str]
    in_force: list[asyncpg.Record]
    ended: list[asyncpg.Record]
    steps: list[asyncpg.Record]
    recorded: list[asyncpg.Record]


class Licences:
    """Raises Problem: not_found, invalid, conflict, no_application, document_refused, not_ready."""

    def __init__(self, writers: Pool, readers: Pool, vault: Vault) -> None:
        self.writers, self.readers, self.vault = writers, readers, vault
        self.papers = Papers(writers, readers, vault, ("approved",))

    async def of(self, merchant_id: UUID) -> Watched:
        async with work(self.readers) as connection:
            row = await connection.fetchrow(APPLICATION, merchant_id)
            seen = await recorded.of(connection, merchant_id)
            if row is None:
                kinds = await recorded.needs(connection, merchant_id)
            else:
                kinds = needed(row["country"], row["entity_type"], (await profile_of(connection, row["application_id"]))["mcc"])
            held = await connection.fetch(HELD, merchant_id)
            return Watched(row is not None or bool(seen), kinds, [each for each in held if not each["over"]], [each for each in held if each["over"]],
                           await connection.fetch(STEPS_OF, merchant_id), seen)

    async def record(self, merchant_id: UUID, paper: Seen, reason: str, by: Person) -> tuple[UUID, list[str]]:
        """Of a merchant that never applied: whoever has seen it says until when it is good. It counts at once; the steps that it lifts."""
        async with work(self.writers) as connection:
            status = await connection.fetchval(LOCK, merchant_id)
            if status is None:
                raise Problem("not_found")
            if status == "closed" or await connection.fetchval(APPLICATION, merchant_id) is not None:
                raise Problem("conflict", "The merchant is closed." if status == "closed" else
                              "The merchant applied: its renewed licence comes by POST /v1/licences, with its scan.")
            if any(each["expires_on"] == paper.expires_on and each["kind"] == paper.kind and each["lifted"]
                   for each in await connection.fetch(STEPS_OF, merchant_id)):
                raise Problem("conflict", "What this end brought was lifted and comes no second time; set the merchant's status.")
            made = await recorded.add(connection, self.vault, merchant_id, paper, reason, by)
            return made, await _lifted(connection, merchant_id, paper.kind, made, by, reason)

    async def renew(self, merchant_id: UUID, kind: str, fields: Mapping[str, str], expires_on: date, by: Person) -> UUID:
        """A new version, which counts once it is accepted."""
        async with work(self.readers) as connection:
            application = await connection.fetchval(APPLICATION, merchant_id)
        if application is None:
            raise Problem("no_application")
        return await self.papers.add(application, kind, fields, expires_on, by)

    async def file(self, document_id: UUID, merchant_id: UUID | None, name: str, media_type: str, content: bytes, by: Person) -> None:
        await self.papers.file((await self.document(document_id, merchant_id))["application_id"], document_id, name, media_type, content, by)

    async def document(self, document_id: UUID, merchant_id: UUID | None) -> asyncpg.Record:
        async with work(self.readers) as connection:
            return await _document(connection, document_id, merchant_id)

    async def judge(self, document_id: UUID, verdict: str, reason: str, by: Person) -> list[str]:
        """What a reviewer finds of a renewed one; accepted, it lifts in this commit what its forerunner's end brought. The steps lifted."""
        async with work(self.writers) as connection:
            row = await _document(connection, document_id, None)
            await locked(connection, row["application_id"])
            row = await _document(connection, document_id, None)
            if not row["filed"] or row["older"]:
                raise Problem("conflict", "It has no file to look at." if not row["filed"] else "A newer version of this document is there.")
            await connection.execute(VERDICT, document_id, verdict, by.name, reason)
            if verdict != "accepted" or row["expires_on"] is None:
                return []
            return await _lifted(connection, row["merchant_id"], row["kind"], document_id, by, reason)

    async def due(self, now: datetime) -> Sequence[Due]:
        """A job for each step that has come, by the calendar where the merchant is."""
        async with work(self.readers) as connection:
            rows = await connection.fetch(ENDING, now.date() + timedelta(days=EARLIEST + 1), AT_ONCE)
        found = []
        for row in rows:
            today = now.astimezone(ZoneInfo(row["time_zone"])).date()
            step = due(row["expires_on"], today, row["done"])
            if step is not None:
                merchant = show("merchant", row["merchant_id"])
                found.append(Due(f"{merchant}:{row['kind']}:{row['expires_on']}:{step}",
                                 {"merchant": merchant, "kind": row["kind"], "step": step, "today": today.isoformat()}))
        return found

    async def do(self, run: Run) -> Mapping[str, Any]:
        try:
            async with run.pool.acquire() as connection, connection.transaction():
                done = await kept(connection, run.job.arguments)
                await run.hold(connection)
        except Problem as problem:
            raise Unfit(f"The licence cannot be looked at: {problem.code}.") from None
        return {"done": done}


async def _document(connection: Connection, document_id: UUID, merchant_id: UUID | None) -> asyncpg.Record:
    row = await connection.fetchrow(DOCUMENT, document_id, merchant_id)
    if row is None:
        raise Problem("not_found")
    return row


async def kept(connection: Connection, asked: Mapping[str, Any]) -> bool:
    """The step that is due, in the caller's transaction; False when it was done, or the licence was renewed meanwhile."""
    merchant_id = read("merchant", asked["merchant"])
    assert merchant_id is not None
    status = await connection.fetchval(LOCK, merchant_id)
    row = next((each for each in await connection.fetch(HELD, merchant_id) if each["kind"] == asked["kind"]), None)
    if row is None or status == "closed" or due(row["expires_on"], date.fromisoformat(asked["today"]), row["done"]) != asked["step"]:
        return False
    detail = {}
    if asked["step"] == "limit":
        detail = await _limited(connection, merchant_id, row["currency"] or (await profile_of(connection, row["application_id"]))["currency"])
    elif asked["step"] == "suspend":
        detail = {"suspended": await connection.fetchval(STATUS, merchant_id, "suspended", "active") is not None}
    words = f"It is good until {row['expires_on']}."
    if not await connection.fetchval(STEP, merchant_id, row["kind"], row["expires_on"], asked["step"], SWITCH.name, words, json.dumps(detail)):
        return False
    await _told(connection, merchant_id, row["document_id"], row["kind"], row["expires_on"], asked["step"])
    return True


async def _told(connection: Connection, merchant_id: UUID, document_id: UUID, kind: str, expires_on: date, step: str) -> None:
    await tell(connection, merchant_id, NOTICES[step], f"{show('document', document_id)}:{step}",
               {"kind": kind, "expires_on": expires_on.isoformat(), "step": step, "merchant": show("merchant", merchant_id)})


async def _limited(connection: Connection, merchant_id: UUID, currency: str) -> dict[str, Any]:
    """Small limits take the place of those that hold, in this commit; none when another licence brought them already."""
    if any(each["step"] == "limit" and not each["lifted"] for each in await connection.fetch(STEPS_OF, merchant_id)):
        return {}
    before = await connection.fetchrow(LIMIT_NOW, merchant_id, currency)
    if before is not None:
        await connection.fetchval(RETIRE["limit"], before["limit_id"], SWITCH.name)
    limits = limits_of(currency, None if before is None else dict(before))
    await connection.execute(ADD_LIMIT, limit_id := new_id(), "active", SWITCH.name, merchant_id, currency, *limits)
    return {"limit": str(limit_id), "instead_of": None if before is None else str(before["limit_id"])}


async def _lifted(connection: Connection, merchant_id: UUID, kind: str, document_id: UUID, by: Person, reason: str) -> list[str]:
    """Takes back what the end of this kind of licence brought, as far as no other kind's end still asks for it."""
    await connection.fetchval(LOCK, merchant_id)
    row = next(each for each in await connection.fetch(HELD, merchant_id) if each["kind"] == kind)
    if row["document_id"] != document_id or row["expires_on"] < clock.now().astimezone(ZoneInfo(row["time_zone"])).date():
        return []
    before = [each for each in await connection.fetch(STEPS_OF, merchant_id) if each["step"] in ("limit", "suspend") and not each["lifted"]]
    ended = sorted({each["expires_on"] for each in before if each["kind"] == kind})
    for expires_on in ended:
        await connection.fetchval(STEP, merchant_id, kind, expires_on, LIFTED, by.name, reason, "{}")
    left = {each["step"] for each in before if each["kind"] != kind}
    every = await connection.fetch(STEPS_OF, merchant_id)
    lifted = []
    if ended and "limit" not in left:
        for each in every:
            detail = json.loads(each["detail"])
            if each["step"] == "limit" and detail.get("limit") and await connection.fetchval(RETIRE["limit"], UUID(detail["limit"]), by.name):
                lifted.append("limit")
                await _as_before(connection, detail["instead_of"], by)
    if ended and "suspend" not in left and any(each["step"] == "suspend" and json.loads(each["detail"])["suspended"] for each in before):
        lifted += ["suspend"] if await connection.fetchval(SELLS, merchant_id, "active", "suspended") else []
    if ended:
        await _told(connection, merchant_id, document_id, kind, row["expires_on"], LIFTED)
    return lifted


async def _as_before(connection: Connection, limit_id: str | None, by: Person) -> None:
    """A limit is written once: the one of before is added anew."""
    if limit_id is None:
        return
    old = await connection.fetchrow(ONE_LIMIT, UUID(limit_id))
    assert old is not None
    await connection.execute(ADD_LIMIT, new_id(), "active", by.name, old["merchant_id"], old["currency"], old["per_sale"], old["per_day"],
                             old["per_month"])
