"""Licences of merchants that never applied, but were onboarded or imported: what an operator has seen of a paper that is kept elsewhere."""

import json
from collections.abc import Mapping
from datetime import date
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch.database import Connection
from switch.errors import Problem
from switch.merchants.applications.opening import new_id
from switch.merchants.applications.requirements import ACCOUNT, COMPANY, Fault, faults, needed
from switch.money import CURRENCIES
from switch.payments.resolution import Person
from switch.security.vault import Vault

VERSIONS_MAX = 100
RECORDED = "SELECT * FROM licence_record WHERE merchant_id = $1 ORDER BY at DESC, number DESC"
ADD = """INSERT INTO licence_record (document_id, merchant_id, kind, number, key_id, sealed, expires_on, currency, person, caller, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"""
BUSINESS = """SELECT m.mcc, (SELECT s.country FROM store s WHERE s.merchant_id = m.merchant_id ORDER BY s.store_id LIMIT 1) AS country
FROM merchant m WHERE m.merchant_id = $1"""


class Seen(NamedTuple):
    """What stands on a paper. `currency`: of the small limits that its end brings."""

    kind: str
    fields: Mapping[str, str]
    expires_on: date
    currency: str


async def of(connection: Connection, merchant_id: UUID) -> list[asyncpg.Record]:
    """All that was recorded, newest first."""
    return list(await connection.fetch(RECORDED, merchant_id))


async def needs(connection: Connection, merchant_id: UUID) -> list[str]:
    """The kinds that a company of its MCC needs where its first store is; the account that pays it is agreed elsewhere."""
    row = await connection.fetchrow(BUSINESS, merchant_id)
    return [] if row is None else [kind for kind in needed(row["country"] or "", COMPANY, row["mcc"]) if kind != ACCOUNT]


async def add(connection: Connection, vault: Vault, merchant_id: UUID, paper: Seen, reason: str, by: Person) -> UUID:
    """In the caller's commit, which holds the merchant's lock. Raises Problem: invalid, conflict."""
    row = await connection.fetchrow(BUSINESS, merchant_id)
    assert row is not None
    wrong = faults(paper.kind, row["country"] or "", paper.fields, paper.expires_on, paper.expires_on) if paper.kind != ACCOUNT else [
        Fault("kind", "a licence or an identity document; a bank account is agreed by two people")]
    if paper.currency not in CURRENCIES:
        wrong.append(Fault("currency", "an ISO 4217 alpha code with minor units"))
    if wrong:
        raise Problem("invalid", "One or more fields are wrong; see errors.",
                      errors=[{"field": each.field, "rule": each.rule, "type": "rule"} for each in wrong])
    number = 1 + sum(each["kind"] == paper.kind for each in await of(connection, merchant_id))
    if number > VERSIONS_MAX:
        raise Problem("conflict", f"A licence is recorded at most {VERSIONS_MAX} times.")
    identity = new_id()
    key_id, sealed = vault.seal_row("application", json.dumps(dict(paper.fields)).encode(), identity.bytes)
    await connection.execute(ADD, identity, merchant_id, paper.kind, number, key_id, sealed, paper.expires_on, paper.currency, by.name, by.key_id,
                             reason)
    return identity
