"""What a contract brings into force, in the commit that does: the tariff from its first day, how the merchant is paid, charges, deposit; its end."""

from collections.abc import Mapping
from dataclasses import astuple
from datetime import date, datetime, time, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg

from switch.clock import clock
from switch.database import Connection
from switch.errors import Problem
from switch.ids import show
from switch.merchants.contracts import terms
from switch.merchants.contracts.cases import account_of, document_of, in_force, moved, today
from switch.payments.resolution import Person
from switch.settlement import ledger
from switch.settlement.fees import tariffs
from switch.settlement.fees.tariffs import TARIFF
from switch.settlement.funding import arrangements
from switch.settlement.funding.arrangements import SET_FUNDING, Funding
from switch.settlement.funding.charged import Falls, falls_on
from switch.settlement.ledger import Account

SWITCH = Person("switch", "")
DAY = timedelta(days=1)
# A sale keeps the price of the contract that was in force when it was authorised: no tariff begins on a day that has some.
SOLD = "SELECT max(business_date) FROM history_transaction WHERE merchant_id = $1 AND business_date >= $2"


def midnight(day: date, zone: str) -> datetime:
    """The first instant of a day where the merchant is."""
    return datetime.combine(day, time(0), ZoneInfo(zone))


async def came(connection: Connection, row: asyncpg.Record, merchant: asyncpg.Record, by: Person, detail: Mapping[str, Any]) -> asyncpg.Record:
    """Both have signed. Raises Problem: contract_terms (names what is in the way), contract_account, conflict."""
    document = await document_of(connection, row)
    agreed = terms.read(document)
    starts, ends = agreed.term.starts, agreed.term.ends
    account = await account_of(connection, row["merchant_id"], agreed.paid.account)
    if account is None or account["state"] != "active":
        raise Problem("contract_account")
    sold = await connection.fetchval(SOLD, row["merchant_id"], starts)
    current = await tariffs.in_force(connection, TARIFF, row["merchant_id"], starts)
    if sold is not None and current is not None:
        raise Problem("contract_terms", f"The merchant has sold on {sold} by the terms of before. Revise it to begin on {sold + DAY} or later.")
    before = await in_force(connection, row["merchant_id"])
    if before is not None and before["until_on"] is not None and starts > before["until_on"] + DAY:
        raise Problem("contract_terms", f"It must begin on {before['until_on'] + DAY} at the latest, the day after the contract that it amends.")
    tariff_id = await _priced(connection, row["merchant_id"], starts, document["tariff"], by)
    if before is not None:
        await moved(connection, before, "amend", by, "", {"by": show("contract", row["contract_id"]), "last_day": (starts - DAY).isoformat()})
    zone = merchant["time_zone"]
    row = await moved(connection, row, "countersign", by, "", detail, from_on=starts, until_on=ends, begins_at=midnight(starts, zone),
                      ends_at=None if ends is None else midnight(ends + DAY, zone), ends_as=None if ends is None else "expire", tariff_id=tariff_id)
    return await begun(connection, row, merchant) if starts <= today(merchant) else row


async def _priced(connection: Connection, merchant_id: UUID, starts: date, terms_of_tariff: Mapping[str, Any], by: Person) -> UUID:
    """The tariff from the first day on; where another was agreed for a later day, this one holds instead. Raises Problem conflict."""
    holding = {each.effective_from: each.ident for each in await tariffs.holding(connection, TARIFF, merchant_id) if each.effective_from >= starts}
    made = [await tariffs.agree_within(connection, TARIFF, merchant_id, day, terms_of_tariff, by.name, replaces=holding.get(day))
            for day in sorted({starts, *holding})]
    return made[0].ident


async def begun(connection: Connection, row: asyncpg.Record, merchant: asyncpg.Record) -> asyncpg.Record:
    """Its first day has come: the merchant is paid as agreed from now on, and what is charged once is charged. Raises Problem not_ready."""
    agreed, merchant_id = terms.read(await document_of(connection, row)), row["merchant_id"]
    paid, falls = agreed.paid, await falls_on(connection, merchant_id, today(merchant))
    funding = Funding(paid.calendar, paid.funding_days, paid.minimum_payout, paid.reserve_basis_points, paid.reserve_days)
    await connection.execute(SET_FUNDING, merchant_id, *astuple(funding))
    for at, once in enumerate(agreed.once):
        await _charged(connection, row, agreed.currency, once.amount * once.times, once.name, f"once:{at}", falls)
    if agreed.term.deposit and not await _deposit_of(connection, merchant_id, row["contract_id"]):
        await arrangements.placed(connection, merchant_id, agreed.currency, agreed.term.deposit,
                                  f"Deposit of contract {show('contract', row['contract_id'])}", SWITCH.name, row["contract_id"], falls)
    if row["amends"] is not None:  # whose deposit this contract's own has taken the place of
        await _given_back(connection, merchant_id, row["amends"])
    return await moved(connection, row, "begin", SWITCH, "Its first day has come.", begun_at=clock.now())


async def ended(connection: Connection, row: asyncpg.Record, merchant: asyncpg.Record, by: Person, reason: str) -> asyncpg.Record:
    """Its end has come: nothing more is sold by it. The deposit is given back, unless holds of operators say otherwise."""
    await _given_back(connection, row["merchant_id"], row["contract_id"])
    return await moved(connection, row, row["ends_as"], by, reason)


def end_of(last: date, zone: str) -> datetime:
    """No more sales from here on: the instant after a last day."""
    return midnight(last + DAY, zone)


async def charged_early(connection: Connection, row: asyncpg.Record, last: date, day: date) -> int:
    """The fee of who ends a contract before its time, in minor units; 0 when there is none. Raises Problem not_ready."""
    agreed = terms.read(await document_of(connection, row))
    if not terms.early(agreed.term, last):
        return 0
    fee = agreed.term.early_termination_fee
    await _charged(connection, row, agreed.currency, fee, "Early end", "early", await falls_on(connection, row["merchant_id"], day))
    return fee


async def _charged(connection: Connection, row: asyncpg.Record, currency: str, amount: int, name: str, key: str, falls: Falls) -> None:
    await ledger.post(connection, [each._replace(acquirer_id=falls.acquirer_id) for each in ledger.moved(
        Account("merchant", currency, row["merchant_id"]), Account("fee", currency), amount, "contract_charge", show("contract", row["contract_id"]),
        falls.business_date, f"contract:{row['contract_id']}:{key}", name)])


DEPOSIT = "SELECT released_at IS NULL FROM merchant_hold WHERE merchant_id = $1 AND hold_id = $2"


async def _deposit_of(connection: Connection, merchant_id: UUID, contract_id: UUID) -> bool | None:
    """Whether the deposit of a contract is held; None when it has none."""
    found: bool | None = await connection.fetchval(DEPOSIT, merchant_id, contract_id)
    return found


async def _given_back(connection: Connection, merchant_id: UUID, contract_id: UUID) -> None:
    if await _deposit_of(connection, merchant_id, contract_id):
        await arrangements.released(connection, merchant_id, contract_id, SWITCH.name)
