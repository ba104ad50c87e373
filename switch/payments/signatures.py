"""Signatures of cardholders: one PNG per transaction, sealed as it was uploaded, with its hash; never changed."""

import hashlib
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Pool, work
from switch.errors import Problem
from switch.files.drawing import Sheet, size_of
from switch.files.png import NoPng
from switch.payments.receipts import SIGNED, Signed
from switch.payments.transaction import APPROVED, CONFIRMED, Transaction
from switch.security.vault import Vault, VaultError

SHEET = Sheet(64 << 10, 16, 16, 1024, 512)

COLUMNS = "merchant_id, transaction_id, width, height, size, sha256, key_id, sealed, signed_at, uploaded_by"
ADD = f"""INSERT INTO transaction_signature (merchant_id, transaction_id, width, height, size, sha256, key_id, sealed, uploaded_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (transaction_id) DO NOTHING RETURNING {COLUMNS}"""
ONE = f"SELECT {COLUMNS} FROM transaction_signature WHERE merchant_id = $1 AND transaction_id = $2"


class Signature(NamedTuple):
    row: asyncpg.Record
    content: bytes

    @property
    def signed(self) -> Signed:
        return Signed(self.row["sha256"].hex(), self.row["signed_at"])


class Signatures:
    """Raises Problem: signature_refused, already_exists, conflict, not_found, not_ready."""

    def __init__(self, writers: Pool, readers: Pool, vault: Vault) -> None:
        self.writers, self.readers, self.vault = writers, readers, vault

    async def add(self, transaction: Transaction, content: bytes, by: str) -> tuple[asyncpg.Record, bool]:
        """The signature, and whether it is new: the same bytes again are the same signature. `transaction`: as it stands now."""
        try:
            size = size_of(content, SHEET)
        except NoPng as error:
            raise Problem("signature_refused", str(error)) from None
        if transaction.type not in SIGNED or (transaction.state not in (APPROVED, CONFIRMED) and transaction.exchange != "advice"):
            raise Problem("conflict", "Only a payment that was approved is signed for.")
        digest, row_id = hashlib.sha256(content).digest(), transaction.transaction_id
        key_id, sealed = self.vault.seal_row("signature", content, row_id.bytes)
        async with work(self.writers) as connection:
            row = await connection.fetchrow(ADD, transaction.merchant_id, row_id, *size, len(content), digest, key_id, sealed, by)
            if row is not None:
                return row, True
            row = await connection.fetchrow(ONE, transaction.merchant_id, row_id)
        if row is None or row["sha256"] != digest:
            raise Problem("already_exists", "This payment has a signature; it is never replaced.")
        return row, False

    async def find(self, merchant_id: UUID, transaction_id: UUID) -> Signature | None:
        """With its bytes, checked by their seal."""
        try:
            row = await self.readers.fetchrow(ONE, merchant_id, transaction_id)
        except UNKNOWN:
            raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None
        if row is None:
            return None
        try:
            return Signature(row, self.vault.open_row("signature", row["key_id"], row["sealed"], transaction_id.bytes))
        except VaultError as error:
            raise Problem("not_ready", f"The signature cannot be opened ({error.code}); tell the operator.") from None
