"""Tickets in the database: opened, moved, spoken about and rated; each step in one commit with its row and with what it does to a device."""

from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch.clock import clock
from switch.database import Connection, Pool, work
from switch.errors import Problem, taken
from switch.ids import show
from switch.life import same_person
from switch.merchants.support.life import ANSWERS, ASSIGNED, ENDED, LIFE, ON_DEVICE, OPEN, Term, deadlines, refusal
from switch.notices import tell
from switch.terminals import devices
from switch.terminals.devices import By, Keys, new_id

COLUMNS = """ticket_id, merchant_id, store_id, terminal_id, transaction_id, subject, severity, state, version, assignee, reopened, answer_by,
resolve_by, answer_missed_at, resolve_missed_at, opened_by, opened_at, state_since, category"""
TERM = "SELECT answer_minutes, resolve_minutes FROM ticket_term WHERE severity = $1"
SET_TERM = """UPDATE ticket_term SET answer_minutes = $2, resolve_minutes = $3, set_by = $4, set_at = now() WHERE severity = $1
RETURNING severity, answer_minutes, resolve_minutes, set_by, set_at"""
MERCHANT = "SELECT true FROM directory_merchant WHERE merchant_id = $1"
STORE = "SELECT merchant_id, store_id FROM directory_store WHERE store_id = $1"
TILL = "SELECT merchant_id, store_id FROM directory_terminal WHERE terminal_id = $1"
SALE = "SELECT merchant_id, store_id, terminal_id FROM history_transaction WHERE transaction_id = $1"
ADD = f"""INSERT INTO ticket (merchant_id, ticket_id, store_id, terminal_id, transaction_id, subject, severity, state, answer_by, resolve_by,
opened_by, opened_at, category) VALUES ($1, $2, $3, $4, $5, $6, $7, 'open', $8, $9, $10, $11, $12) RETURNING {COLUMNS}"""
LOCK = f"""SELECT {COLUMNS} FROM ticket WHERE ticket_id = $1 AND ($2::uuid IS NULL OR merchant_id = $2) AND ($3::uuid IS NULL OR store_id = $3)
FOR NO KEY UPDATE"""
MOVE = f"""UPDATE ticket SET state = $2, version = version + 1, assignee = $3, reopened = $4, answer_by = $5, resolve_by = $6,
answer_missed_at = CASE WHEN $7 THEN NULL ELSE answer_missed_at END, resolve_missed_at = CASE WHEN $7 THEN NULL ELSE resolve_missed_at END,
state_since = now() WHERE ticket_id = $1 RETURNING {COLUMNS}"""
NOTE = """INSERT INTO ticket_event (merchant_id, ticket_id, number, event, was, state, person, key_id, support, internal, text, device_id,
replacement_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) RETURNING event_id"""
ANSWERED = "UPDATE ticket SET answer_by = NULL WHERE ticket_id = $1 AND answer_by IS NOT NULL"
TAKEN = "SELECT max(at) FROM ticket_event WHERE merchant_id = $1 AND ticket_id = $2 AND event IN ('assign', 'take_over')"
RATE = "INSERT INTO ticket_rating (merchant_id, ticket_id, stars, text, rated_by) VALUES ($1, $2, $3, $4, $5)"
DEVICE = "SELECT device_id FROM device WHERE terminal_id = $1"


class Who(NamedTuple):
    """Somebody of support or of a merchant. `merchant_id`, `store_id`: whose tickets they see; None: all."""

    name: str
    key_id: str
    support: bool
    merchant_id: UUID | None = None
    store_id: UUID | None = None


class About(NamedTuple):
    """What a ticket is about; a transaction names its terminal, a terminal its store, a store its merchant."""

    merchant_id: UUID | None = None
    store_id: UUID | None = None
    terminal_id: UUID | None = None
    transaction_id: UUID | None = None


class Move(NamedTuple):
    """A step. `assignee` with assign and take_over, `replacement_id` with swap, and only there."""

    event: str
    text: str
    assignee: str | None = None
    replacement_id: UUID | None = None


class Tickets:
    """Raises Problem: not_found, taken, ticket_move, ticket_rated, conflict, device_move, device_tampered, invalid, not_ready."""

    def __init__(self, pool: Pool, keys: Keys) -> None:
        self.pool, self.keys = pool, keys

    async def open(self, about: About, subject: str, text: str, severity: str, who: Who, category: str = "other") -> UUID:
        """Its deadlines are those of the severity now; later terms change them for later tickets."""
        async with work(self.pool) as connection:
            merchant_id, store_id, terminal_id = await _place(connection, about, who)
            now, ticket_id = clock.now(), new_id()
            times = deadlines(await _term(connection, severity), now)
            await connection.fetchrow(ADD, merchant_id, ticket_id, store_id, terminal_id, about.transaction_id, subject, severity, *times, who.name,
                                      now, category)
            await connection.fetchval(NOTE, merchant_id, ticket_id, 1, "open", None, OPEN, who.name, who.key_id, who.support, False, text, None, None)
        return ticket_id

    async def move(self, ticket_id: UUID, move: Move, who: Who) -> None:
        """One step, with what it does to the device of the ticket's terminal."""
        async with work(self.pool) as connection:
            row = await locked(connection, ticket_id, who)
            refused = refusal(row["state"], move.event, who.support)
            if refused is not None:
                raise Problem(*refused)
            if move.event == "assign" and row["state"] == ASSIGNED and not same_person(row["assignee"], who.name):
                raise taken(row["assignee"], await connection.fetchval(TAKEN, row["merchant_id"], ticket_id))
            device_id = await self._device(connection, row, move, who) if move.event in ON_DEVICE else None
            state = LIFE[row["state"], move.event]
            assignee, reopens = move.assignee or row["assignee"], move.event == "reopen"
            answer_by = None if move.event in ANSWERS or state in ENDED else row["answer_by"]
            resolve_by = None if state in ENDED else row["resolve_by"]
            if reopens:
                answer_by, resolve_by = deadlines(await _term(connection, row["severity"]), clock.now())
            after = await connection.fetchrow(MOVE, ticket_id, state, assignee, row["reopened"] + reopens, answer_by, resolve_by, reopens)
            assert after is not None  # it is locked
            await connection.fetchval(NOTE, row["merchant_id"], ticket_id, after["version"], move.event, row["state"], state, who.name, who.key_id,
                                      who.support, False, move.text, device_id, move.replacement_id)
            if who.support and move.event in ANSWERS:
                type_ = "ticket.resolved" if move.event == "resolve" else "ticket.answered"
                await tell(connection, row["merchant_id"], type_, f"{show('ticket', ticket_id)}:{after['version']}", told(after))

    async def comment(self, ticket_id: UUID, text: str, internal: bool, who: Who) -> None:
        """A word without a step. The first of support that the merchant sees ends the wait for an answer."""
        async with work(self.pool) as connection:
            row = await locked(connection, ticket_id, who)
            event_id = await connection.fetchval(NOTE, row["merchant_id"], ticket_id, None, "comment", row["state"], row["state"], who.name,
                                                 who.key_id, who.support, internal, text, None, None)
            if who.support and not internal:
                await connection.execute(ANSWERED, ticket_id)
                await tell(connection, row["merchant_id"], "ticket.answered", f"{show('ticket', ticket_id)}:c{event_id}", told(row))

    async def rate(self, ticket_id: UUID, stars: int, text: str, who: Who) -> None:
        """Once, when it is closed, by its merchant."""
        try:
            async with work(self.pool) as connection:
                row = await locked(connection, ticket_id, who)
                await connection.execute(RATE, row["merchant_id"], ticket_id, stars, text, who.name)
        except asyncpg.UniqueViolationError:
            raise Problem("ticket_rated") from None
        except asyncpg.CheckViolationError as error:
            if error.constraint_name != "ticket_rating_closed":
                raise
            raise Problem("ticket_move", "A ticket is rated when it is closed; close it first.") from None

    async def set_term(self, severity: str, term: Term, by: str) -> asyncpg.Record:
        async with work(self.pool) as connection:
            row = await connection.fetchrow(SET_TERM, severity, *term, by)
        assert row is not None  # every severity has its row
        return row

    async def _device(self, connection: Connection, row: asyncpg.Record, move: Move, who: Who) -> UUID:
        """Moves the device that is bound to the ticket's terminal, in the ticket's commit."""
        device_id: UUID | None = await connection.fetchval(DEVICE, row["terminal_id"])
        if device_id is None:
            raise Problem("conflict", "No device is bound to the ticket's terminal; see GET /v1/devices.")
        by, reason = By(who.name, who.key_id), f"{show('ticket', row['ticket_id'])}: {move.text}"[:500]
        if move.event == "swap":
            assert move.replacement_id is not None
            await devices.swapped(connection, self.keys, device_id, move.replacement_id, by, reason)
        else:
            await devices.moved(connection, self.keys, await devices.locked(connection, device_id), ON_DEVICE[move.event], by, reason)
        return device_id


async def _term(connection: Connection, severity: str) -> Term:
    row = await connection.fetchrow(TERM, severity)
    assert row is not None  # every severity has its row
    return Term(*row)


async def locked(connection: Connection, ticket_id: UUID, who: Who) -> asyncpg.Record:
    """Raises Problem not_found: also for somebody else's."""
    row = await connection.fetchrow(LOCK, ticket_id, who.merchant_id, who.store_id)
    if row is None:
        raise Problem("not_found")
    return row


def told(row: asyncpg.Record) -> dict[str, str | None]:
    """What a webhook and a notice say of a ticket."""
    return {"id": show("ticket", row["ticket_id"]), "subject": row["subject"], "state": row["state"], "severity": row["severity"],
            "terminal": None if row["terminal_id"] is None else show("terminal", row["terminal_id"])}


async def _place(connection: Connection, about: About, who: Who) -> tuple[UUID, UUID | None, UUID | None]:
    """Merchant, store and terminal, from the most particular thing that was named. Raises Problem: not_found, invalid."""
    if about.merchant_id not in (None, who.merchant_id or about.merchant_id) or about.store_id not in (None, who.store_id or about.store_id):
        raise Problem("not_found")
    merchant_id, store_id, terminal_id = about.merchant_id or who.merchant_id, about.store_id or who.store_id, about.terminal_id
    for statement, ident in ((SALE, about.transaction_id), (TILL, about.terminal_id), (STORE, about.store_id)):
        if ident is None:
            continue
        found = await connection.fetchrow(statement, ident)
        if found is None or merchant_id not in (None, found["merchant_id"]) or store_id not in (None, found["store_id"]) or \
                terminal_id not in (None, found.get("terminal_id", terminal_id)):
            raise Problem("not_found")
        merchant_id, store_id, terminal_id = found["merchant_id"], found["store_id"], found.get("terminal_id", terminal_id)
    if merchant_id is None:
        raise Problem("invalid", "One or more fields are wrong; see errors.",
                      errors=[{"field": "merchant", "rule": "a merchant, store, terminal or transaction", "type": "rule"}])
    if not await connection.fetchval(MERCHANT, merchant_id):
        raise Problem("not_found")
    return merchant_id, store_id, terminal_id
