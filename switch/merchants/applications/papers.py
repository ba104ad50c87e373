"""Documents of applications: versions with their fields and files, sealed; verdicts of reviewers; what is missing. Only added to."""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.clock import clock
from switch.database import Connection, Pool, work
from switch.errors import Problem
from switch.files import scans
from switch.merchants.applications import requirements
from switch.merchants.applications.cases import held, locked
from switch.merchants.applications.opening import new_id
from switch.merchants.applications.requirements import Gap, Paper
from switch.payments.resolution import Person
from switch.security.vault import Vault, VaultError

VERSIONS_MAX = 20

NEWEST = """SELECT DISTINCT ON (d.kind) d.document_id, d.application_id, d.kind, d.number, d.key_id, d.sealed, d.subject, d.expires_on, d.at,
f.name, f.media_type, f.size, f.sha256, v.verdict, v.reason, v.person AS verdict_by, v.at AS verdict_at
FROM application_document d LEFT JOIN application_file f USING (document_id)
LEFT JOIN LATERAL (SELECT verdict, reason, person, at FROM application_verdict WHERE document_id = d.document_id ORDER BY number DESC LIMIT 1) v
ON true WHERE d.application_id = $1 ORDER BY d.kind, d.number DESC"""
ADD = """INSERT INTO application_document (document_id, application_id, kind, number, key_id, sealed, subject, expires_on, person)
VALUES ($1, $2, $3, (SELECT 1 + coalesce(max(number), 0) FROM application_document WHERE application_id = $2 AND kind = $3), $4, $5, $6, $7, $8)"""
FILE = """INSERT INTO application_file (document_id, name, media_type, size, sha256, key_id, sealed, person)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"""
VERDICT = """INSERT INTO application_verdict (document_id, number, verdict, person, reason)
VALUES ($1, (SELECT 1 + coalesce(max(number), 0) FROM application_verdict WHERE document_id = $1), $2, $3, $4)"""
OPEN = """SELECT f.document_id, f.media_type, f.key_id, f.sealed, f.sha256 FROM application_file f JOIN application_document d USING (document_id)
WHERE d.application_id = $1 AND f.document_id = $2"""


class Document(NamedTuple):
    """The newest version of a document of its kind, with what stands on it in clear."""

    row: asyncpg.Record
    fields: Mapping[str, str]

    def paper(self) -> Paper:
        row = self.row
        return Paper(row["kind"], self.fields, row["expires_on"], row["media_type"] is not None, row["verdict"], row["reason"] or "")


async def newest(connection: Connection, vault: Vault, application_id: UUID) -> list[Document]:
    """Raises Problem not_ready: a key is missing."""
    return [Document(row, json.loads(_unsealed(vault, row))) for row in await connection.fetch(NEWEST, application_id)]


def _unsealed(vault: Vault, row: asyncpg.Record) -> bytes:
    try:
        return vault.open_row("application", row["key_id"], row["sealed"], row["document_id"].bytes)
    except VaultError as error:
        raise Problem("not_ready", f"A document cannot be opened ({error.code}); tell the operator.") from None


def gaps(application: asyncpg.Record, profile: Mapping[str, Any], documents: list[Document], today: date) -> list[Gap]:
    return requirements.gaps(application["country"], application["entity_type"], profile["mcc"], [each.paper() for each in documents], today)


class Papers:
    """Raises Problem: not_found, invalid, application_move, document_refused, conflict, not_ready."""

    def __init__(self, writers: Pool, readers: Pool, vault: Vault, states: tuple[str, ...] = ("draft", "more_wanted")) -> None:
        """`states`: of applications that take documents."""
        self.writers, self.readers, self.vault, self.states = writers, readers, vault, states

    async def add(self, application_id: UUID, kind: str, fields: Mapping[str, str], expires_on: date | None, by: Person) -> UUID:
        """A new version of the document; those before stay, and count no more."""
        async with work(self.writers) as connection:
            row = await locked(connection, application_id)
            _taking(row, self.states)
            wrong = requirements.faults(kind, row["country"], fields, expires_on, clock.now().date())
            if wrong:
                raise Problem("invalid", "One or more fields are wrong; see errors.",
                              errors=[{"field": each.field, "rule": each.rule, "type": "rule"} for each in wrong])
            if any(each["kind"] == kind and each["number"] >= VERSIONS_MAX for each in await connection.fetch(NEWEST, application_id)):
                raise Problem("conflict", f"A document has at most {VERSIONS_MAX} versions.")
            identity = new_id()
            key_id, sealed = self.vault.seal_row("application", json.dumps(dict(fields)).encode(), identity.bytes)
            named = fields.get("number") or fields.get("iban") or fields["account_number"]
            subject = self.vault.fingerprint(f"application|{row['country']}|{named}".encode())
            await connection.execute(ADD, identity, application_id, kind, key_id, sealed, subject, expires_on, by.name)
        return identity

    async def file(self, application_id: UUID, document_id: UUID, name: str, media_type: str, content: bytes, by: Person) -> None:
        """The scan of a document, once; the same bytes again change nothing. Another scan is another version."""
        wrong = await asyncio.to_thread(scans.fault, name, media_type, content)
        if wrong is not None:
            raise Problem("document_refused", wrong)
        async with work(self.writers) as connection:
            row = await locked(connection, application_id)
            document = await _current(connection, application_id, document_id)
            digest = hashlib.sha256(content).digest()
            if document["sha256"] == digest:
                return
            _taking(row, self.states)
            if document["sha256"] is not None:
                raise Problem("conflict", "This version has a file; send the document's fields again and upload to the new version.")
            key_id, sealed = self.vault.seal_row("application_file", content, document_id.bytes)
            await connection.execute(FILE, document_id, name, media_type, len(content), digest, key_id, sealed, by.name)

    async def judge(self, application_id: UUID, document_id: UUID, verdict: str, reason: str, by: Person) -> None:
        """What a reviewer finds of the newest version: accepted or refused. A later verdict counts; the earlier stays."""
        async with work(self.writers) as connection:
            held(await locked(connection, application_id), by)
            if (await _current(connection, application_id, document_id))["sha256"] is None:
                raise Problem("conflict", "It has no file to look at.")
            await connection.execute(VERDICT, document_id, verdict, by.name, reason)

    async def content(self, application_id: UUID, document_id: UUID) -> tuple[asyncpg.Record, bytes]:
        """The file of any version and its bytes."""
        async with work(self.readers) as connection:
            row = await connection.fetchrow(OPEN, application_id, document_id)
        if row is None:
            raise Problem("not_found")
        try:
            return row, self.vault.open_row("application_file", row["key_id"], row["sealed"], document_id.bytes)
        except VaultError as error:
            raise Problem("not_ready", f"The file cannot be opened ({error.code}); tell the operator.") from None


def _taking(row: asyncpg.Record, states: tuple[str, ...]) -> None:
    if row["state"] not in states:
        raise Problem("application_move", f"An application that is {row['state']} takes no documents.")


async def _current(connection: Connection, application_id: UUID, document_id: UUID) -> asyncpg.Record:
    """Raises Problem: not_found (also another application's), conflict."""
    rows = await connection.fetch(NEWEST, application_id)
    found = next((row for row in rows if row["document_id"] == document_id), None)
    if found is not None:
        return found
    if await connection.fetchval("SELECT true FROM application_document WHERE application_id = $1 AND document_id = $2", application_id, document_id):
        raise Problem("conflict", "A newer version of this document is there.")
    raise Problem("not_found")


