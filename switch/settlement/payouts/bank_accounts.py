"""Bank accounts of merchants, and ours: asked for by one person, agreed by another, the number sealed from the first moment."""

import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.database import Connection, Pool, work
from switch.errors import Problem
from switch.ids import read, uuid7
from switch.money import CURRENCIES
from switch.security.vault import Sealed, Vault, VaultError
from switch.settlement.payouts import banking
from switch.settlement.payouts.banking import BankAccount

PURPOSE: Sealed = "bank_account"
SHOWN = """bank_account_id, merchant_id, currency, holder, iban, last4, bank_code, bic, country, state, requested_by, requested_at, approved_by,
active_at, ended_at"""
MERCHANT = "SELECT true FROM merchant WHERE merchant_id = $1"
ASK = f"""INSERT INTO bank_account (bank_account_id, merchant_id, currency, holder, iban, key_id, sealed, last4, bank_code, bic, country,
requested_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING {SHOWN}"""
LOCK = "SELECT * FROM bank_account WHERE bank_account_id = $1 FOR NO KEY UPDATE"
ASKED = f"""SELECT {SHOWN} FROM bank_account WHERE merchant_id = $1 AND currency = $2 AND state = 'asked' ORDER BY requested_at DESC LIMIT 1"""
END = """UPDATE bank_account SET state = 'replaced', ended_at = now() WHERE merchant_id IS NOT DISTINCT FROM $1 AND currency = $2 AND state
IN ('active', 'suspended')"""
AGREE = """UPDATE bank_account SET state = 'active', active_at = now(), approved_by = $2 WHERE bank_account_id = $1"""
SUSPEND = "UPDATE bank_account SET state = 'suspended' WHERE bank_account_id = $1 AND state = 'active'"
PAGE = f"""SELECT {SHOWN} FROM bank_account WHERE merchant_id IS NOT DISTINCT FROM $1 AND state IN ('active', 'suspended') ORDER BY currency"""
SEALED = """SELECT bank_account_id, holder, iban, key_id, sealed, bank_code, bic, country FROM bank_account
WHERE bank_account_id = ANY($1::uuid[]) ORDER BY bank_account_id"""
RESEAL = "UPDATE bank_account SET key_id = $2, sealed = $3 WHERE bank_account_id = $1"
OURS = "SELECT bank_account_id, currency FROM bank_account WHERE merchant_id IS NULL AND active_at IS NOT NULL"
OUR_ACTIVE = "SELECT bank_account_id FROM bank_account WHERE merchant_id IS NULL AND currency = $1 AND state = 'active'"


class Ours(NamedTuple):
    bank_account_id: UUID
    currency: str
    account: BankAccount


def new_id() -> UUID:
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


class BankAccounts:
    """Raises Problem: not_found, invalid, not_ready."""

    def __init__(self, pool: Pool, vault: Vault) -> None:
        self.pool, self.vault = pool, vault

    async def page(self, merchant_id: UUID | None) -> list[asyncpg.Record]:
        """What payouts go to now, one for each currency; None: where they come from."""
        async with work(self.pool) as connection:
            return await connection.fetch(PAGE, merchant_id)

    async def ask(self, merchant_id: UUID | None, currency: str, account: BankAccount, by: str) -> asyncpg.Record:
        """Stored, and used for nothing until it is agreed. `merchant_id` None: our own account."""
        if wrong := banking.fault(account):
            raise Problem("invalid", errors=[{"field": wrong[0], "rule": wrong[1], "type": "rule"}])
        if currency not in CURRENCIES:
            raise Problem("invalid", errors=[{"field": "currency", "rule": "a code of ISO 4217", "type": "rule"}])
        identity = new_id()
        key_id, sealed = self.vault.seal_row(PURPOSE, banking.padded(account.number), identity.bytes)
        async with work(self.pool) as connection:
            if merchant_id is not None and not await connection.fetchval(MERCHANT, merchant_id):
                raise Problem("not_found")
            row = await connection.fetchrow(ASK, identity, merchant_id, currency, account.holder, account.iban, key_id, sealed, account.number[-4:],
                                            account.bank_code, account.bic, account.country, by)
            assert row is not None
            return row

    async def asked(self, merchant_id: UUID, currency: str) -> asyncpg.Record:
        """The newest that nobody has agreed yet, such as the one that an applicant named. Raises Problem not_found."""
        async with work(self.pool) as connection:
            row = await connection.fetchrow(ASKED, merchant_id, currency)
            if row is None:
                raise Problem("not_found", "No account of this merchant waits in this currency.")
            return row


async def agree(connection: Connection, _object: str, payload: Mapping[str, Any], people: Mapping[str, str]) -> None:
    """Executes an approval inside its commit: from now on payouts go there."""
    identity = read("bank_account", payload["bank_account"])
    row = None if identity is None else await connection.fetchrow(LOCK, identity)
    if row is None or row["state"] != "asked":
        raise Problem("conflict", "This account was agreed already.")
    await connection.execute(END, row["merchant_id"], row["currency"])
    other = people["requested_by"] if people["decided_by"] == row["requested_by"] else people["decided_by"]  # who had not asked for it
    await connection.execute(AGREE, identity, other)


async def opened(connection: Connection, vault: Vault, ids: list[UUID]) -> dict[UUID, BankAccount]:
    """The accounts in clear. What an older key sealed is sealed anew in the caller's commit, so that the old one can be retired in time.

    Raises Problem not_ready: a key is missing.
    """
    found = {}
    for row in await connection.fetch(SEALED, ids):
        identity: UUID = row["bank_account_id"]
        try:
            plain = vault.open_row(PURPOSE, row["key_id"], row["sealed"], identity.bytes)
        except VaultError:
            raise Problem("not_ready", "An account number cannot be opened: its key is missing.", retry_after=60) from None
        if row["key_id"] != vault.keyring.current:
            await connection.execute(RESEAL, identity, *vault.seal_row(PURPOSE, plain, identity.bytes))
        found[identity] = BankAccount(row["holder"], banking.unpadded(plain), row["iban"], row["bank_code"], row["bic"], row["country"])
    return found


async def ours(connection: Connection, vault: Vault) -> list[Ours]:
    """All our accounts that were ever agreed: statements of old ones still come."""
    rows = await connection.fetch(OURS)
    accounts = await opened(connection, vault, [row["bank_account_id"] for row in rows])
    return [Ours(row["bank_account_id"], row["currency"], accounts[row["bank_account_id"]]) for row in rows]
