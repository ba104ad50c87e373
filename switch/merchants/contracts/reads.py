"""Contracts as they are read: one with its documents, signatures and history; pages; the bytes of a document and of a signature."""

import json
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.database import Pool, work
from switch.errors import Problem
from switch.merchants.contracts.cases import document_of
from switch.security.vault import Vault, VaultError
from switch.settlement.exports.paper import Document, Table

ONE = "SELECT * FROM contract WHERE contract_id = $1 AND ($2::uuid IS NULL OR merchant_id = $2)"
PAGE = """SELECT * FROM contract WHERE ($1::uuid IS NULL OR merchant_id = $1) AND ($2::text IS NULL OR state = $2)
AND ($3::boolean OR state <> 'draft') AND ($4::uuid IS NULL OR contract_id < $4) ORDER BY contract_id DESC LIMIT $5"""
EVENTS = "SELECT number, event, was, state, person, reason, detail, at FROM contract_event WHERE contract_id = $1 ORDER BY number"
DOCUMENTS = "SELECT number, sha256, person, at FROM contract_document WHERE contract_id = $1 ORDER BY number"
SIGNATURES = """SELECT document, side, name, sha256, image_sha256, person, at FROM contract_signature WHERE contract_id = $1 ORDER BY document, at"""
DOCUMENT = "SELECT number, terms, texts, html, sha256 FROM contract_document WHERE contract_id = $1 AND number = $2"
IMAGE = "SELECT signature_id, key_id, sealed FROM contract_signature WHERE contract_id = $1 AND document = $2 AND side = $3"
APPLIED = "SELECT merchant_id FROM application WHERE application_id = $1"


class Whole(NamedTuple):
    row: asyncpg.Record
    terms: dict[str, Any]
    documents: list[asyncpg.Record]
    signatures: list[asyncpg.Record]
    events: list[asyncpg.Record]


class Reads:
    """Raises Problem: not_found (another merchant's too), not_ready."""

    def __init__(self, readers: Pool, vault: Vault) -> None:
        self.readers, self.vault = readers, vault

    async def merchant_of(self, application_id: UUID) -> UUID:
        """The merchant that an approved application made."""
        async with work(self.readers) as connection:
            found: UUID | None = await connection.fetchval(APPLIED, application_id)
        if found is None:
            raise Problem("not_found")
        return found

    async def one(self, contract_id: UUID, merchant_id: UUID | None) -> Whole:
        """`merchant_id`: who reads, None for operators. A draft is the provider's own."""
        async with work(self.readers) as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            row = await connection.fetchrow(ONE, contract_id, merchant_id)
            if row is None or (merchant_id is not None and row["state"] == "draft"):
                raise Problem("not_found")
            return Whole(row, await document_of(connection, row), await connection.fetch(DOCUMENTS, contract_id),
                         await connection.fetch(SIGNATURES, contract_id), await connection.fetch(EVENTS, contract_id))

    async def page(self, merchant_id: UUID | None, state: str | None, after: UUID | None, limit: int, *, drafts: bool) -> list[asyncpg.Record]:
        """Newest first."""
        async with work(self.readers) as connection:
            return await connection.fetch(PAGE, merchant_id, state, drafts, after, limit)

    async def document(self, contract_id: UUID, number: int) -> asyncpg.Record:
        async with work(self.readers) as connection:
            row = await connection.fetchrow(DOCUMENT, contract_id, number)
        if row is None:
            raise Problem("not_found")
        return row

    async def texts(self, contract_id: UUID, number: int) -> Document:
        """What a document says, to be printed otherwise, with the hash of the one that is signed."""
        row = await self.document(contract_id, number)
        said = json.loads(row["texts"])
        tables = tuple(Table(**table) for table in said["tables"])
        return Document(**{**said, "tables": tables, "facts": (*said["facts"], ("SHA-256", row["sha256"].hex()))})

    async def image(self, contract_id: UUID, number: int, side: str) -> bytes:
        async with work(self.readers) as connection:
            row = await connection.fetchrow(IMAGE, contract_id, number, side)
        if row is None:
            raise Problem("not_found")
        try:
            return self.vault.open_row("contract_signature", row["key_id"], row["sealed"], row["signature_id"].bytes)
        except VaultError as error:
            raise Problem("not_ready", f"The signature cannot be opened ({error.code}); tell the operator.") from None
