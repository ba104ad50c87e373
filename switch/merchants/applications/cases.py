"""Applications in the database: begun, changed and moved, each move in one commit with its row in the history."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg

from switch.database import Connection
from switch.errors import Problem, taken
from switch.life import same_person
from switch.merchants.applications.life import IN_REVIEW, LIFE, OPEN_TO_APPLICANT, TIME
from switch.merchants.applications.opening import new_id
from switch.payments.resolution import Person
from switch.security import credentials

BEGIN = "INSERT INTO application (application_id, entity_type, country, state, due_at) VALUES ($1, $2, $3, 'draft', now() + $4)"
KEY = "INSERT INTO api_key (key_id, role, application_id, secret_digest) VALUES ($1, 'applicant', $2, $3)"
END_KEYS = "UPDATE api_key SET revoked_at = now() WHERE application_id = $1 AND revoked_at IS NULL"
LOCK = "SELECT * FROM application WHERE application_id = $1 FOR NO KEY UPDATE"
MOVE = """UPDATE application SET state = $2, version = version + 1, reviewer = $3, due_at = now() + $4::interval,
state_since = now(), merchant_id = $5, limits = $6::jsonb WHERE application_id = $1 RETURNING *"""
NOTE = """INSERT INTO application_event (application_id, number, event, was, state, person, key_id, reason, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb)"""
PROFILE = "SELECT content, number FROM application_profile WHERE application_id = $1 ORDER BY number DESC LIMIT 1"
ADD_PROFILE = """INSERT INTO application_profile (application_id, number, content, person)
VALUES ($1, (SELECT 1 + coalesce(max(number), 0) FROM application_profile WHERE application_id = $1), $2::jsonb, $3)"""


async def locked(connection: Connection, application_id: UUID) -> asyncpg.Record:
    """Raises Problem not_found."""
    row = await connection.fetchrow(LOCK, application_id)
    if row is None:
        raise Problem("not_found")
    return row


def held(row: asyncpg.Record, by: Person) -> None:
    """Whoever reviews has taken it: two never decide at once. Raises Problem: application_move, taken."""
    if row["state"] != IN_REVIEW:
        raise Problem("application_move", f"An application that is {row['state']} is not in review; take it first when it is submitted.")
    if not same_person(row["reviewer"], by.name):
        raise taken(row["reviewer"], row["state_since"])


async def begun(connection: Connection, entity_type: str, country: str, profile: Mapping[str, Any], by: Person) -> tuple[UUID, str]:
    """The application and the text of the applicant's key, which exists in this answer alone."""
    identity, issued = new_id(), credentials.issue("applicant")
    await connection.execute(BEGIN, identity, entity_type, country, TIME["draft"])
    await connection.execute(NOTE, identity, 1, "begin", None, "draft", by.name, by.key_id, "", "{}")
    await connection.execute(ADD_PROFILE, identity, json.dumps(dict(profile)), by.name)
    await connection.execute(KEY, issued.key_id, identity, issued.digest)
    return identity, issued.text


async def key_again(connection: Connection, application_id: UUID) -> str:
    """A new key; those before end."""
    await locked(connection, application_id)
    issued = credentials.issue("applicant")
    await connection.execute(END_KEYS, application_id)
    await connection.execute(KEY, issued.key_id, application_id, issued.digest)
    return issued.text


async def profile_of(connection: Connection, application_id: UUID) -> dict[str, Any]:
    """The newest."""
    found: dict[str, Any] = json.loads(await connection.fetchval(PROFILE, application_id))
    return found


async def changed(connection: Connection, application_id: UUID, profile: Mapping[str, Any], by: Person) -> None:
    """A new version of the profile. Raises Problem: not_found, application_move."""
    row = await locked(connection, application_id)
    if row["state"] not in OPEN_TO_APPLICANT:
        raise Problem("application_move", f"The profile of an application that is {row['state']} does not change.")
    await connection.execute(ADD_PROFILE, application_id, json.dumps(dict(profile)), by.name)


async def moved(connection: Connection, row: asyncpg.Record, event: str, by: Person, reason: str, detail: Mapping[str, Any] | None = None, *,
                merchant_id: UUID | None = None, limits: Mapping[str, Any] | None = None) -> asyncpg.Record:
    """One step of a locked application. Raises Problem application_move."""
    refused = LIFE.refusal(row["state"], event)
    if refused is not None:
        raise Problem(*refused)
    state = LIFE[row["state"], event]
    reviewer = by.name if event in ("take", "take_over") else row["reviewer"]
    after = await connection.fetchrow(MOVE, row["application_id"], state, reviewer, TIME.get(state), merchant_id,
                                      None if limits is None else json.dumps(dict(limits)))
    assert after is not None  # it is locked
    await connection.execute(NOTE, row["application_id"], after["version"], event, row["state"], state, by.name, by.key_id, reason,
                             json.dumps(dict(detail or {})))
    return after
