"""Evidence files of disputes: what they are by their own bytes, sealed in the database with the commit that takes them, shown to their merchant."""

import asyncio
import hashlib
import os
import time
from datetime import datetime
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.files import scans
from switch.ids import uuid7
from switch.security.vault import Vault, VaultError
from switch.settlement.disputes import life
from switch.settlement.disputes.cases import locked

FILES_MAX = 10  # of one dispute

COLUMNS = "merchant_id, dispute_id, file_id, name, media_type, size, sha256, uploaded_by, uploaded_at"
SAME = f"SELECT {COLUMNS} FROM dispute_file WHERE dispute_id = $1 AND sha256 = $2"
COUNT = "SELECT count(*) FROM dispute_file WHERE dispute_id = $1"
ADD = f"""INSERT INTO dispute_file (merchant_id, file_id, dispute_id, name, media_type, size, sha256, key_id, sealed, uploaded_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING {COLUMNS}"""
OPEN = f"""SELECT {COLUMNS}, key_id, sealed FROM dispute_file WHERE dispute_id = $1 AND file_id = $2 AND ($3::uuid IS NULL OR merchant_id = $3)"""


class Exhibits:
    """Raises Problem: not_found, evidence_refused, dispute_*, not_ready."""

    def __init__(self, vault: Vault, readers: Pool) -> None:
        self.vault, self.readers = vault, readers

    async def add(self, connection: Connection, dispute_id: UUID, merchant_id: UUID | None, name: str, media_type: str, content: bytes, by: str,
                  now: datetime) -> asyncpg.Record:
        """In the caller's database transaction, so that a kill leaves a whole file or none. The same bytes again are the file that is there."""
        wrong = await asyncio.to_thread(scans.fault, name, media_type, content)
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
