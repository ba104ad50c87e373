"""Evidence files of disputes: what they are by their own bytes, sealed in the database with the commit that takes them, shown to their merchant."""

import hashlib
import os
import time
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.ids import uuid7
from switch.security.vault import Vault, VaultError
from switch.settlement.disputes import life
from switch.settlement.disputes.cases import locked

BYTES_MAX = 4 << 20
FILES_MAX = 10  # of one dispute

NOT_IN_NAMES = frozenset('/\\:*?"<>|')
ENDINGS: Mapping[str, str] = MappingProxyType({"application/pdf": "pdf", "image/png": "png", "image/jpeg": "jpg"})

COLUMNS = "merchant_id, dispute_id, file_id, name, media_type, size, sha256, uploaded_by, uploaded_at"
SAME = f"SELECT {COLUMNS} FROM dispute_file WHERE dispute_id = $1 AND sha256 = $2"
COUNT = "SELECT count(*) FROM dispute_file WHERE dispute_id = $1"
ADD = f"""INSERT INTO dispute_file (merchant_id, file_id, dispute_id, name, media_type, size, sha256, key_id, sealed, uploaded_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING {COLUMNS}"""
OPEN = f"""SELECT {COLUMNS}, key_id, sealed FROM dispute_file WHERE dispute_id = $1 AND file_id = $2 AND ($3::uuid IS NULL OR merchant_id = $3)"""


def sniffed(content: bytes) -> str | None:
    """The media type that the bytes are from their first to their last, or None. What begins as one thing and ends as another is nothing."""
    if content.startswith(b"%PDF-1.") or content.startswith(b"%PDF-2."):
        return "application/pdf" if b"%%EOF" in content[-1024:] and content.rstrip().endswith(b"%%EOF") else None
    if content.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        return "image/png" if content.endswith(b"\0\0\0\0IEND\xaeB`\x82") else None
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg" if content.endswith(b"\xff\xd9") else None
    return None


def fault(name: str, media_type: str, content: bytes) -> str | None:
    """Why a file is no evidence, or None."""
    if not content:
        return "It is empty."
    if len(content) > BYTES_MAX:
        return f"It is larger than {BYTES_MAX >> 20} MB."
    if not 1 <= len(name) <= 120 or not name.isprintable() or name != name.strip() or name.startswith(".") or set(name) & NOT_IN_NAMES:
        return "Its name must be 1 to 120 printable characters, without a path."
    found = sniffed(content)
    if found is None:
        return "Its bytes are no whole PDF, PNG or JPEG."
    return None if found == media_type else "Its bytes are of another type than its Content-Type says."


class Exhibits:
    """Raises Problem: not_found, evidence_refused, dispute_*, not_ready."""

    def __init__(self, vault: Vault, readers: Pool) -> None:
        self.vault, self.readers = vault, readers

    async def add(self, connection: Connection, dispute_id: UUID, merchant_id: UUID | None, name: str, media_type: str, content: bytes, by: str,
                  now: datetime) -> asyncpg.Record:
        """In the caller's database transaction, so that a kill leaves a whole file or none. The same bytes again are the file that is there."""
        wrong = fault(name, media_type, content)
        if wrong is not None:
            raise Problem("evidence_refused", wrong)
        row = await locked(connection, dispute_id, merchant_id)
        digest = hashlib.sha256(content).digest()
        same = await connection.fetchrow(SAME, dispute_id, digest)
        if same is not None:
            return same
        if row["state"] not in life.TO_ANSWER:
            raise Problem("dispute_closed" if row["state"] in life.CLOSED else "dispute_waits", "Files are taken while it waits for your answer.")
        if life.overdue("represent", row["answer_by"], now):
            raise Problem("dispute_overdue")
        if await connection.fetchval(COUNT, dispute_id) >= FILES_MAX:
            raise Problem("evidence_refused", f"A dispute has at most {FILES_MAX} files.")
        file_id = uuid7(time.time_ns() // 1_000_000, os.urandom(10))
        key_id, sealed = self.vault.seal_row("evidence", content, file_id.bytes)
        added = await connection.fetchrow(ADD, row["merchant_id"], file_id, dispute_id, name, media_type, len(content), digest, key_id, sealed, by)
        assert added is not None
        return added

    async def content(self, dispute_id: UUID, file_id: UUID, merchant_id: UUID | None) -> tuple[asyncpg.Record, bytes]:
        """The file and its bytes, checked against what was uploaded."""
        try:
            row = await self.readers.fetchrow(OPEN, dispute_id, file_id, merchant_id)
        except UNKNOWN:
            raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None
        if row is None:
            raise Problem("not_found")
        try:
            content = self.vault.open_row("evidence", row["key_id"], row["sealed"], row["file_id"].bytes)
        except VaultError as error:
            raise Problem("not_ready", f"The file cannot be opened ({error.code}); tell the operator.") from None
        return row, content
