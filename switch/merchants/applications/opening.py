"""What an approval makes, in the commit that approves: organisation, merchant, store, terminals and bank account."""

import os
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from switch.database import Connection
from switch.ids import uuid7
from switch.merchants import onboarding
from switch.merchants.rules import check
from switch.security.vault import Vault
from switch.settlement.payouts import bank_accounts, banking
from switch.settlement.payouts.banking import BankAccount

LOCK = "SELECT pg_advisory_xact_lock($1)"


def new_id() -> UUID:
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


async def opened(connection: Connection, vault: Vault, country: str, profile: Mapping[str, Any], account: BankAccount, asked_by: str,
                 agreed_by: str | None) -> UUID:
    """The merchant. Two people agree the bank account, and the applicant who named it is none of them: `asked_by` has looked at it, or is the
    applicant when only rules have; without `agreed_by` it stays asked, and payouts wait.

    Raises Problem invalid.
    """
    store = profile["store"]
    check(name=profile["name"], mcc=profile["mcc"], time_zone=profile["time_zone"], city=store["city"], country=country)
    check(name=store["name"])
    await connection.execute(LOCK, onboarding.NUMBERING_LOCK)
    organisation_id, merchant_id, store_id = new_id(), new_id(), new_id()
    await connection.execute(onboarding.ORGANISATION, organisation_id, profile["name"])
    await connection.execute(onboarding.MERCHANT, merchant_id, organisation_id, profile["trading_name"] or profile["name"], profile["mcc"],
                             profile["time_zone"], "warn", "alert")
    await connection.execute(onboarding.STORE, store_id, merchant_id, store["name"], store["city"], country, profile["time_zone"])
    for number in range(1, profile["terminals"] + 1):
        terminal_id = new_id()
        await connection.execute(onboarding.TERMINAL, terminal_id, merchant_id, store_id, f"Till {number}")
        await connection.execute(onboarding.NUMBER_TERMINAL, merchant_id, terminal_id, store_id)
    identity = new_id()
    key_id, sealed = vault.seal_row(bank_accounts.PURPOSE, banking.padded(account.number), identity.bytes)
    await connection.execute(bank_accounts.ASK, identity, merchant_id, profile["currency"], account.holder, account.iban, key_id, sealed,
                             account.number[-4:], account.bank_code, account.bic, account.country, asked_by)
    if agreed_by is not None:
        await connection.execute(bank_accounts.AGREE, identity, agreed_by)
    return merchant_id
