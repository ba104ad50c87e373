"""Money that comes from acquirers: entries of bank statements against what was cleared for a day, and what was cleared against our own books.

An entry belongs to the acquirer and business date that its text names. It is posted as it is, for the money has come: the bank is debited, the
acquirer's debt falls. What is short or too much stays in the acquirer's account and is an exception of that day.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch.database import Connection, Pool
from switch.ids import show
from switch.settlement import ledger
from switch.settlement.ledger import Account
from switch.settlement.reconciliation import exceptions
from switch.settlement.reconciliation.clearing import Refused

ENTRIES_MAX = 100_000
WAIT = timedelta(days=7)  # from a business date to the statement in which its money must have come
DATE = re.compile(r"\b(20[0-9]{2})-?([01][0-9])-?([0-3][0-9])\b", re.ASCII)
KINDS = ["funding", "funding_missing"]

ENTRIES = """SELECT file_id, line_no, booked_on, amount, currency, bank_reference, text FROM statement_entry WHERE file_id = $1
ORDER BY line_no LIMIT $2"""
# Statements of one account may overlap, and an entry is money only once.
TWICE = """SELECT e.line_no FROM statement_entry e JOIN clearing_file f USING (file_id) WHERE e.file_id = $1 AND (
  EXISTS (SELECT FROM statement_entry o JOIN clearing_file g USING (file_id) WHERE o.bank_reference = e.bank_reference
          AND g.institution = f.institution AND o.file_id <> e.file_id)
  OR EXISTS (SELECT FROM statement_entry o WHERE o.file_id = e.file_id AND o.bank_reference = e.bank_reference AND o.line_no < e.line_no))
ORDER BY e.line_no LIMIT 1"""
ACQUIRERS = "SELECT acquirer_id, name, institution_code FROM directory_acquirer"
NAME = """INSERT INTO funding_entry (file_id, line_no, acquirer_id, business_date, currency, amount, booked_on) VALUES ($1, $2, $3, $4, $5, $6, $7)"""
UNKNOWN_ENTRY = f"""INSERT INTO reconciliation_exception (exception_id, business_date, kind, subject, rule, file_id, line_no, rrn, currency,
expected, found, difference) VALUES ({exceptions.NEW_ID}, $1, 'unknown_entry', $2, 'no_acquirer', $3, $4, '', $5, 0, $6, $6) ON CONFLICT DO NOTHING"""
# What the acquirer says that it pays for a day: its files of that day, less its fees.
CLEARED = """
SELECT coalesce(c.currency, b.currency) AS currency, c.amount AS cleared, b.amount AS received FROM (
    SELECT l.currency, sum(CASE l.kind WHEN 'sale' THEN l.amount ELSE -l.amount END - l.fee)::bigint AS amount
    FROM clearing_line l JOIN clearing_file f USING (file_id) WHERE f.acquirer_id = $1 AND f.business_date = $2 GROUP BY l.currency) c
FULL JOIN (SELECT currency, sum(amount)::bigint AS amount FROM funding_entry WHERE acquirer_id = $1 AND business_date = $2 GROUP BY currency) b
  USING (currency) ORDER BY currency"""
BOOKED = """SELECT currency, sum(CASE kind WHEN 'sale' THEN amount ELSE -amount END)::bigint AS amount FROM reconciliation_movement
WHERE acquirer_id = $1 AND business_date = $2 GROUP BY currency ORDER BY currency"""
CLEARED_GROSS = """SELECT currency, sum(CASE kind WHEN 'sale' THEN amount ELSE -amount END)::bigint AS amount, sum(fee)::bigint AS fees
FROM clearing_line WHERE acquirer_id = $1 AND business_date = $2 GROUP BY currency ORDER BY currency"""
NEWEST_STATEMENT = "SELECT max(business_date) FROM clearing_file WHERE document = 'statement'"
ADD_FINAL = """INSERT INTO rc_final (business_date, kind, rule, subject, rrn, currency, expected, found) VALUES ($1, $2, $3, $4, '', $5, $6, $7)"""
UNPAID = """SELECT DISTINCT f.business_date, f.acquirer_id FROM clearing_file f WHERE f.document = 'clearing' AND f.business_date <= $1
AND f.business_date > $1::date - 60
AND NOT EXISTS (SELECT FROM funding_entry e WHERE e.acquirer_id = f.acquirer_id AND e.business_date = f.business_date)"""


class Named(NamedTuple):
    """Whose money an entry is, and of which business date."""

    acquirer_id: UUID
    business_date: date


def names(acquirers: Iterable[tuple[UUID, str, str | None]]) -> dict[str, UUID]:
    """Names and institution codes; one that two acquirers share names neither."""
    found: dict[str, set[UUID]] = {}
    for acquirer_id, *known in acquirers:
        for name in known:
            if name:
                found.setdefault(name, set()).add(acquirer_id)
    return {name: next(iter(ids)) for name, ids in found.items() if len(ids) == 1}


def named(text: str, acquirers: Mapping[str, UUID]) -> Named | None:
    """By the words of an entry's text: exactly one acquirer and one date. `acquirers`: names and institution codes."""
    found = {acquirers[word] for word in re.split(r"[\s,;:/]+", text) if word in acquirers}
    days = set()
    for year, month, day in DATE.findall(text):
        try:
            days.add(date(int(year), int(month), int(day)))
        except ValueError:
            continue
    return Named(found.pop(), days.pop()) if len(found) == len(days) == 1 else None


def judged(cleared: int | None, received: int | None, over: bool) -> tuple[str, str] | None:
    """Kind and rule of what a day's funding is, in one currency; None when it is as cleared. `over`: it must have come by now."""
    if cleared is None:
        return None  # nothing to hold it against yet: the day's file is not here
    if received is None:
        return ("funding_missing", "no_entry") if over and cleared else None
    return None if cleared == received else ("funding", "funding")


async def take(connection: Connection, file_id: UUID) -> None:
    """A statement's entries, in the commit of the file: named, posted, or unknown and for a person to look at."""
    if (twice := await connection.fetchval(TWICE, file_id)) is not None:
        raise Refused(twice + 1, "an entry with this bank reference is there already")
    known = names([(row[0], row[1], row[2]) for row in await connection.fetch(ACQUIRERS)])
    days: set[Named] = set()
    transfers = []
    for entry in await connection.fetch(ENTRIES, file_id, ENTRIES_MAX):
        whose = named(entry["text"], known)
        subject = f"{show('clearing_file', file_id)}:{entry['line_no']}"
        if whose is None:
            await exceptions.alert(connection, None, entry["booked_on"])
            await connection.execute(UNKNOWN_ENTRY, entry["booked_on"], subject, file_id, entry["line_no"], entry["currency"], entry["amount"])
            continue
        await connection.execute(NAME, file_id, entry["line_no"], *whose, entry["currency"], entry["amount"], entry["booked_on"])
        currency = entry["currency"]
        transfers += ledger.moved(Account("bank", currency), Account("acquirer", currency, acquirer_id=whose.acquirer_id), entry["amount"],
                                  "acquirer_funding", show("acquirer", whose.acquirer_id), entry["booked_on"], f"funding:{subject}")
        days.add(whose)
    await ledger.post(connection, transfers)
    if (newest := await connection.fetchval(NEWEST_STATEMENT)) is not None:
        days |= {Named(row["acquirer_id"], row["business_date"]) for row in await connection.fetch(UNPAID, newest - WAIT)}
    await follow(connection, days)


async def follow(connection: Connection, days: Iterable[Named]) -> None:
    """The exceptions about the funding of these days become what the files and statements say now."""
    for each in sorted(days, key=str):
        newest = await connection.fetchval(NEWEST_STATEMENT)
        await connection.execute(exceptions.FINAL_TABLE)
        for row in await connection.fetch(CLEARED, *each, timeout=900):
            found = judged(row["cleared"], row["received"], newest is not None and newest - WAIT >= each.business_date)
            if found is not None:
                await connection.execute(ADD_FINAL, each.business_date, *found, f"funding:{row['currency']}", row["currency"], row["cleared"],
                                         row["received"] or 0)
        await exceptions.sync(connection, each.acquirer_id, each.business_date, KINDS, days=0)
        await connection.execute("DROP TABLE rc_final")


async def three_ways(pool: Pool, acquirer_id: UUID, day: date) -> list[dict[str, object]]:
    """By currency: what our books, the acquirer's lines and the bank say of one date. Minor units; None where nothing is known."""
    sums: dict[str, dict[str, object]] = {}
    booked, cleared, paid = [await pool.fetch(statement, acquirer_id, day, timeout=60) for statement in (BOOKED, CLEARED_GROSS, CLEARED)]

    def of(row: asyncpg.Record) -> dict[str, object]:
        return sums.setdefault(row["currency"], {"currency": row["currency"], "booked": None, "cleared": None, "fees": None, "to_be_paid": None,
                                                 "received": None})

    for row in booked:
        of(row)["booked"] = row["amount"]
    for row in cleared:
        of(row).update(cleared=row["amount"], fees=row["fees"])
    for row in paid:
        of(row).update(to_be_paid=row["cleared"], received=row["received"])
    return [sums[currency] for currency in sorted(sums)]
