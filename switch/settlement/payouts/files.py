"""Files to the bank: made once from what is asked for, kept sealed as they are, and the same bytes whenever they are wanted again.

A payout is in one file for ever. Until a file is known to be sent there is no other in its currency: whoever dies between writing and saying so
finds it again, and the bank knows the same message by its id.
"""

import asyncio
import hashlib
from datetime import UTC, date, datetime
from uuid import UUID

import asyncpg

from switch.database import Connection, Pool, work
from switch.errors import Problem
from switch.failpoints import failpoint
from switch.ids import show
from switch.security.vault import Sealed, Vault, VaultError
from switch.settlement.funding.business_days import Days
from switch.settlement.funding.calendar import common
from switch.settlement.payouts import bank_accounts, bank_csv, pain001
from switch.settlement.payouts.bank_accounts import new_id
from switch.settlement.payouts.life import SEND, Payout, step
from switch.settlement.payouts.pain001 import Credit, Order
from switch.settlement.payouts.runs import told

PURPOSE: Sealed = "payout_file"
IN_A_FILE, PAGE_MAX = 2000, 200
FORMATS = {"pain001": pain001.written, "csv": bank_csv.written}
EXTENSION = {"pain001": "xml", "csv": "csv"}
FILE_LOCK = 3583034
AGAIN = "It is not known whether it was written; ask again, twice is once."

SHOWN = """file_id, bank_account_id, currency, format, execution_date, payouts, total, encode(sha256, 'hex') AS sha256, size, state, made_by, made_at,
sent_by, sent_at"""
UNSENT = f"SELECT {SHOWN} FROM payout_file WHERE currency = $1 AND state = 'made'"
# To the account that is agreed now: one that was exchanged or suspended since the payout was asked for gets nothing any more.
WAITING = """SELECT p.payout_id, p.amount, b.bank_account_id, p.end_to_end_id, m.calendar
FROM payout p JOIN merchant m ON m.merchant_id = p.merchant_id
JOIN bank_account b ON b.merchant_id = p.merchant_id AND b.currency = p.currency AND b.state = 'active'
WHERE p.currency = $1 AND p.file_id IS NULL ORDER BY p.payout_id LIMIT $2 FOR NO KEY UPDATE OF p"""
ADD = f"""INSERT INTO payout_file (file_id, bank_account_id, currency, format, execution_date, payouts, total, key_id, content, sha256, size, made_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING {SHOWN}"""
TAKE = """UPDATE payout p SET file_id = $1, bank_account_id = n.bank_account_id FROM unnest($2::uuid[], $3::uuid[]) AS n(payout_id, bank_account_id)
WHERE p.payout_id = n.payout_id AND p.file_id IS NULL"""
ONE = f"SELECT {SHOWN} FROM payout_file WHERE file_id = $1"
LOCK = ONE + " FOR NO KEY UPDATE"
PAGE = f"""SELECT {SHOWN} FROM payout_file WHERE ($1::uuid IS NULL OR file_id < $1) ORDER BY file_id DESC LIMIT $2"""
CONTENT = "SELECT format, key_id, content, sha256 FROM payout_file WHERE file_id = $1"
SENT = f"UPDATE payout_file SET state = 'sent', sent_by = $2, sent_at = now() WHERE file_id = $1 RETURNING {SHOWN}"
# What the bank has answered meanwhile is sent already.
LEFT = """UPDATE payout SET state = $2, sent_at = now() WHERE file_id = $1 AND state = 'requested'
RETURNING merchant_id, payout_id, currency, amount"""


class PayoutFiles:
    """Raises Problem: not_found, conflict, invalid, not_ready."""

    def __init__(self, pool: Pool, vault: Vault) -> None:
        self.pool, self.vault = pool, vault

    async def make(self, currency: str, format_: str, execution_date: date | None, by: str) -> tuple[asyncpg.Record, bool]:
        """The file of what is asked for, at most 2,000 payouts, and whether it is new: the one that is not sent yet comes first."""
        async with work(self.pool, AGAIN) as connection:
            await connection.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", FILE_LOCK, currency)
            unsent = await connection.fetchrow(UNSENT, currency)
            if unsent is not None:
                if unsent["format"] != format_:
                    raise Problem("conflict", "Another file in this currency is not sent yet, in another format.",
                                  extra={"file": show("payout_file", unsent["file_id"])})
                return unsent, False
            return await self._make(connection, currency, format_, execution_date, by), True

    async def _make(self, connection: Connection, currency: str, format_: str, execution_date: date | None, by: str) -> asyncpg.Record:
        payer = await connection.fetchval(bank_accounts.OUR_ACTIVE, currency)
        if payer is None:
            raise Problem("conflict", "No bank account of ours is agreed for this currency. Ask for one by PUT /v1/payouts/bank-account; "
                                      "a second person approves it.")
        rows = await connection.fetch(WAITING, currency, IN_A_FILE)
        if not rows:
            raise Problem("conflict", "No payout in this currency waits for a file.")
        accounts = await bank_accounts.opened(connection, self.vault, [payer, *{row["bank_account_id"] for row in rows}])
        file_id, now = new_id(), datetime.now(UTC).replace(microsecond=0)
        days = Days(connection)
        soonest = common(execution_date or now.date(), [await days.calendar(name, now.date()) for name in {row["calendar"] for row in rows}])
        day = execution_date or soonest
        if day != soonest:
            raise Problem("invalid", errors=[{"field": "execution_date", "rule": f"a business day of all whom it pays; the next one is {soonest}",
                                              "type": "rule"}])
        if not now.date() <= day <= date.fromordinal(now.date().toordinal() + 30):
            raise Problem("invalid", errors=[{"field": "execution_date", "rule": "today or one of the next 30 days", "type": "rule"}])
        credits = [Credit(row["end_to_end_id"], row["amount"], accounts[row["bank_account_id"]], f"Payout {show('payout', row['payout_id'])}")
                   for row in rows]
        order = Order(file_id.hex, now, day, currency, accounts[payer], credits)
        content = await asyncio.to_thread(FORMATS[format_], order)
        key_id, sealed = self.vault.seal_row(PURPOSE, content, file_id.bytes)
        file = await connection.fetchrow(ADD, file_id, payer, currency, format_, day, len(rows), order.total, key_id, sealed,
                                         hashlib.sha256(content).digest(), len(content), by)
        taken = await connection.execute(TAKE, file_id, [row["payout_id"] for row in rows], [row["bank_account_id"] for row in rows])
        assert file is not None and taken == f"UPDATE {len(rows)}"
        failpoint("payout.file")
        return file

    async def content(self, file_id: UUID) -> tuple[str, bytes]:
        """Its name, and exactly the bytes that were made."""
        async with work(self.pool, AGAIN) as connection:
            row = await connection.fetchrow(CONTENT, file_id)
        if row is None:
            raise Problem("not_found")
        try:
            data = self.vault.open_row(PURPOSE, row["key_id"], row["content"], file_id.bytes)
        except VaultError:
            raise Problem("not_ready", "The file cannot be opened: its key is missing.", retry_after=60) from None
        assert hashlib.sha256(data).digest() == row["sha256"]
        return f"{show('payout_file', file_id)}.{EXTENSION[row['format']]}", data

    async def sent(self, file_id: UUID, by: str) -> asyncpg.Record:
        """The bank has it. Again changes nothing."""
        async with work(self.pool, AGAIN) as connection:
            file = await connection.fetchrow(LOCK, file_id)
            if file is None:
                raise Problem("not_found")
            if file["state"] == "sent":
                return file
            for row in await connection.fetch(LEFT, file_id, step("requested", SEND)):
                await told(connection, Payout(**dict(row)), "sent")
            file = await connection.fetchrow(SENT, file_id, by)
            assert file is not None
            return file

    async def page(self, before: UUID | None, limit: int) -> list[asyncpg.Record]:
        """Newest first."""
        async with work(self.pool, AGAIN) as connection:
            return await connection.fetch(PAGE, before, min(limit, PAGE_MAX + 1))

    async def one(self, file_id: UUID) -> asyncpg.Record:
        async with work(self.pool, AGAIN) as connection:
            row = await connection.fetchrow(ONE, file_id)
        if row is None:
            raise Problem("not_found")
        return row
