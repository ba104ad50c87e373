"""Contracts in the database: drawn up, revised and moved, each move in one commit with its row in the history."""

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from types import MappingProxyType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg

from switch.clock import clock
from switch.database import Connection
from switch.errors import Problem
from switch.ids import read, show, uuid7
from switch.merchants.contracts import standard, terms
from switch.merchants.contracts.document import Parties, printed
from switch.merchants.contracts.life import IN_FORCE, LIFE
from switch.notices import tell
from switch.payments.resolution import Person
from switch.settlement.fees.tariffs import known_brands
from switch.settlement.payouts.banking import masked

DOCUMENTS_MAX = 100
# Event -> what the merchant is told.
NOTICES: Mapping[str, str] = MappingProxyType({"offer": "contract.offered", "countersign": "contract.in_force", "notice": "contract.ending",
                                               "expire": "contract.ended", "terminate": "contract.ended"})

LOCK = "SELECT * FROM contract WHERE contract_id = $1 FOR NO KEY UPDATE"
# Contracts of one merchant are made and moved one after the other.
MERCHANT = "SELECT merchant_id, name, mcc, time_zone FROM merchant WHERE merchant_id = $1 FOR NO KEY UPDATE"
COUNTRY = "SELECT country FROM store WHERE merchant_id = $1 ORDER BY store_id LIMIT 1"
HELD = "SELECT * FROM contract WHERE merchant_id = $1 AND state = 'in_force'"
BEGIN = """INSERT INTO contract (contract_id, merchant_id, number, amends, state)
VALUES ($1, $2, (SELECT 1 + coalesce(max(number), 0) FROM contract WHERE merchant_id = $2), $3, 'draft') RETURNING *"""
MOVE = """UPDATE contract SET state = $2, version = version + 1, document = $3, from_on = $4, until_on = $5, begins_at = $6, begun_at = $7,
ends_at = $8, ends_as = $9, tariff_id = $10, state_since = CASE WHEN state = $2 THEN state_since ELSE now() END WHERE contract_id = $1 RETURNING *"""
MOVED = ("document", "from_on", "until_on", "begins_at", "begun_at", "ends_at", "ends_as", "tariff_id")
NOTE = """INSERT INTO contract_event (contract_id, number, event, was, state, person, key_id, reason, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb)"""
ADD = """INSERT INTO contract_document (contract_id, number, terms, texts, html, sha256, person)
VALUES ($1, $2, $3::jsonb, $4::jsonb, $5, $6, $7)"""
TERMS = "SELECT terms FROM contract_document WHERE contract_id = $1 AND number = $2"
ACCOUNT = "SELECT bank_account_id, currency, holder, last4, state FROM bank_account WHERE bank_account_id = $1 AND merchant_id = $2"
NEWEST_ACCOUNT = """SELECT bank_account_id FROM bank_account WHERE merchant_id = $1 AND currency = $2 AND state IN ('asked', 'active')
ORDER BY state = 'active' DESC, requested_at DESC LIMIT 1"""
CALENDAR = "SELECT true FROM calendar WHERE calendar = $1"


def new_id() -> UUID:
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


async def locked(connection: Connection, contract_id: UUID) -> asyncpg.Record:
    """Raises Problem not_found."""
    row = await connection.fetchrow(LOCK, contract_id)
    if row is None:
        raise Problem("not_found")
    return row


async def merchant_of(connection: Connection, merchant_id: UUID) -> asyncpg.Record:
    """Locked. Raises Problem not_found."""
    row = await connection.fetchrow(MERCHANT, merchant_id)
    if row is None:
        raise Problem("not_found")
    return row


async def held_and(connection: Connection, contract_id: UUID) -> tuple[asyncpg.Record, asyncpg.Record]:
    """The contract and its merchant, both locked, the merchant first: two contracts of one merchant never wait for each other.

    Raises Problem not_found.
    """
    merchant_id = await connection.fetchval("SELECT merchant_id FROM contract WHERE contract_id = $1", contract_id)
    if merchant_id is None:
        raise Problem("not_found")
    merchant = await merchant_of(connection, merchant_id)
    return await locked(connection, contract_id), merchant


def today(merchant: asyncpg.Record) -> date:
    """By the clock where the merchant is."""
    return clock.now().astimezone(ZoneInfo(merchant["time_zone"])).date()


async def country_of(connection: Connection, merchant_id: UUID) -> str:
    return await connection.fetchval(COUNTRY, merchant_id) or "CN"


async def document_of(connection: Connection, row: asyncpg.Record) -> dict[str, Any]:
    """The newest terms."""
    found: dict[str, Any] = json.loads(await connection.fetchval(TERMS, row["contract_id"], row["document"]))
    return found


async def account_of(connection: Connection, merchant_id: UUID, shown: str) -> asyncpg.Record | None:
    identity = read("bank_account", shown)
    return None if identity is None else await connection.fetchrow(ACCOUNT, identity, merchant_id)


def wrong(faults: list[terms.Fault]) -> Problem:
    return Problem("invalid", "The terms are wrong; see errors: each names the place as a JSON pointer.",
                   errors=[{"field": f"terms{fault.place}", "rule": fault.rule, "type": "terms"} for fault in faults])


async def checked(connection: Connection, merchant: asyncpg.Record, document: Mapping[str, Any], day: date | None) -> asyncpg.Record:
    """The payout account of sound terms. `day`: today, when they are offered. Raises Problem invalid with each place."""
    found = terms.faults(document, await known_brands(connection), day)
    account = await account_of(connection, merchant["merchant_id"], document["settlement"]["account"])
    if account is None or account["currency"] != document["currency"] or account["state"] not in ("asked", "active"):
        found.append(terms.Fault("/settlement/account", "a bank account of this merchant in the contract's currency, as PUT .../bank-account has it"))
    if not await connection.fetchval(CALENDAR, document["settlement"]["calendar"]):
        found.append(terms.Fault("/settlement/calendar", "the name of a calendar"))
    if found or account is None:
        raise wrong(found)
    return account


async def _written(connection: Connection, row: asyncpg.Record, number: int, merchant: asyncpg.Record, document: Mapping[str, Any],
                   by: Person) -> None:
    """A document: its bytes are made once, here, and kept."""
    account = await checked(connection, merchant, document, None)
    amends = "" if row["amends"] is None else show("contract", row["amends"])
    parties = Parties(show("contract", row["contract_id"]), row["number"], number, merchant["name"], document["provider"], amends,
                      f"{account['holder']} {masked(account['last4'])}")
    made = await asyncio.to_thread(printed, terms.read(document), parties)
    await connection.execute(ADD, row["contract_id"], number, json.dumps(dict(document)), json.dumps(asdict(made.document)),
                             made.html, made.sha256, by.name)


async def drawn_up(connection: Connection, merchant_id: UUID, document: Mapping[str, Any], by: Person) -> UUID:
    """A draft, which amends the contract in force if there is one. Raises Problem: not_found, invalid, already_exists."""
    merchant, identity = await merchant_of(connection, merchant_id), new_id()
    held = await connection.fetchrow(HELD, merchant_id)
    try:
        async with connection.transaction():
            row = await connection.fetchrow(BEGIN, identity, merchant_id, None if held is None else held["contract_id"])
    except asyncpg.UniqueViolationError:
        raise Problem("already_exists", "A contract of this merchant is not decided yet: revise it, or withdraw it.") from None
    assert row is not None
    await connection.execute(NOTE, identity, 1, "draw_up", None, "draft", by.name, by.key_id, "", "{}")
    await _written(connection, row, 1, merchant, document, by)
    return identity


async def drafted(connection: Connection, merchant_id: UUID, country: str, currency: str, by: Person) -> UUID:
    """A draft of standard terms from tomorrow on, in the commit that makes the merchant. Raises Problem."""
    merchant = await merchant_of(connection, merchant_id)
    account = await connection.fetchval(NEWEST_ACCOUNT, merchant_id, currency)
    starts = date.fromordinal(today(merchant).toordinal() + 1)
    return await drawn_up(connection, merchant_id, standard.terms(currency, country, show("bank_account", account), starts), by)


async def revised(connection: Connection, contract_id: UUID, document: Mapping[str, Any], by: Person, reason: str) -> None:
    """A new document; what was signed of those before stays with them. Raises Problem: not_found, invalid, contract_move, conflict."""
    row, merchant = await held_and(connection, contract_id)
    possible(row, "revise")
    if row["document"] >= DOCUMENTS_MAX:
        raise Problem("conflict", f"A contract has at most {DOCUMENTS_MAX} documents; withdraw it and draw up another.")
    await _written(connection, row, row["document"] + 1, merchant, document, by)
    await moved(connection, row, "revise", by, reason, document=row["document"] + 1)


def possible(row: asyncpg.Record, event: str) -> None:
    """Raises Problem contract_move."""
    refused = LIFE.refusal(row["state"], event)
    if refused is not None:
        raise Problem(*refused)


async def moved(connection: Connection, row: asyncpg.Record, event: str, by: Person, reason: str, detail: Mapping[str, Any] | None = None,
                **changed: Any) -> asyncpg.Record:
    """One step of a locked contract. `changed`: columns of MOVED. Raises Problem contract_move."""
    possible(row, event)
    state = LIFE[row["state"], event]
    after = await connection.fetchrow(MOVE, row["contract_id"], state, *(changed.get(name, row[name]) for name in MOVED))
    assert after is not None  # it is locked
    await connection.execute(NOTE, row["contract_id"], after["version"], event, row["state"], state, by.name, by.key_id, reason,
                             json.dumps(dict(detail or {})))
    if event in NOTICES:
        await told(connection, after, NOTICES[event], str(after["version"]))
    return after


async def told(connection: Connection, row: asyncpg.Record, type_: str, why: str) -> None:
    """The merchant gets a notice, in the caller's transaction; once for each `why`."""
    shown = show("contract", row["contract_id"])
    await tell(connection, row["merchant_id"], type_, f"{shown}:{why}",
               {"id": shown, "state": row["state"], **{name: row[name] and row[name].isoformat() for name in ("from_on", "until_on")}})


async def in_force(connection: Connection, merchant_id: UUID) -> asyncpg.Record | None:
    """Locked."""
    row = await connection.fetchrow(HELD + " FOR NO KEY UPDATE", merchant_id)
    assert row is None or row["state"] == IN_FORCE
    return row
