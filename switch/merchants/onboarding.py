"""Onboarding: the one place that writes the directory's tables, each write checked first and whole or not at all."""

import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import Unpack
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg

from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.ids import uuid7
from switch.merchants import (
    Acquirer,
    BinRange,
    IssuedKey,
    Key,
    Merchant,
    Numbers,
    Organisation,
    Page,
    Route,
    Store,
    Tariff,
    Terminal,
    catalogue,
    default_bins,
)
from switch.merchants.catalogue import PAGE_MAX, R, found, page_of
from switch.merchants.reversal_terms import ReversalTerms, check_terms, dialect_faults, first_faults, set_terms
from switch.merchants.routes import Conditions, activate_route, add_route, check_route, retire_route
from switch.merchants.rules import ACQUIRER_RULES, check, refuse
from switch.payments.timers import Limits, acquirer_faults
from switch.security import credentials
from switch.terminals.stays import STORE_UNKNOWN

NUMBERING_LOCK = 3583004  # who gives numbers or routes waits here: two writers never choose the same one
MERCHANT_STATUSES = ("active", "suspended", "closed")  # the last is the end
TERMINAL_STATUSES = ("active", "suspended", "retired")
ACQUIRER_STATUSES = ("active", "down", "draining")


def _new_id() -> UUID:
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


def _padded(numbers: Numbers) -> Numbers:
    """Left-justified and space-filled, as they go on the wire. Raises Problem invalid."""
    check(card_acceptor_terminal=numbers.card_acceptor_terminal, card_acceptor=numbers.card_acceptor)
    return Numbers(numbers.acquirer_id, numbers.card_acceptor_terminal.ljust(8), numbers.card_acceptor.ljust(15))


ORGANISATION = "INSERT INTO organisation (organisation_id, name) VALUES ($1, $2)"
MERCHANT = """INSERT INTO merchant (merchant_id, organisation_id, name, mcc, time_zone, duplicate_policy, undelivered)
VALUES ($1, $2, $3, $4, $5, $6, $7)"""
MERCHANT_UNDELIVERED = "UPDATE merchant SET undelivered = $2 WHERE merchant_id = $1"
STORE = "INSERT INTO store (store_id, merchant_id, name, city, country, time_zone) VALUES ($1, $2, $3, $4, $5, $6)"
STORE_PLACE = "UPDATE store SET latitude_e6 = $3, longitude_e6 = $4 WHERE merchant_id = $1 AND store_id = $2"
TERMINAL = "INSERT INTO terminal (terminal_id, merchant_id, store_id, name) VALUES ($1, $2, $3, $4)"
MERCHANT_STATUS = "UPDATE merchant SET status = $2 WHERE merchant_id = $1 AND (status <> $3 OR status = $2) RETURNING true"
TERMINAL_STATUS = "UPDATE terminal SET status = $2 WHERE terminal_id = $1 AND (status <> $3 OR status = $2) RETURNING true"
ACQUIRER = """INSERT INTO acquirer (acquirer_id, name, dialect, message_mode, institution_code, time_zone,
answer_timeout_ms, reversal_grace_ms, max_in_flight, min_in_flight) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"""
LINE = "INSERT INTO acquirer_line (acquirer_id, line_id, host, port) VALUES ($1, $2, $3, $4)"
CHANGE_ACQUIRER = """UPDATE acquirer SET status = coalesce($2, status), answer_timeout_ms = coalesce($3, answer_timeout_ms),
reversal_grace_ms = coalesce($4, reversal_grace_ms), max_in_flight = coalesce($5, max_in_flight),
min_in_flight = coalesce($6, min_in_flight) WHERE acquirer_id = $1"""
CHANGE_LINE = "UPDATE acquirer_line SET host = coalesce($2, host), port = coalesce($3, port) WHERE acquirer_id = $1"
OPEN_DAY = "INSERT INTO business_day (acquirer_id, business_date) VALUES ($1, $2) ON CONFLICT (acquirer_id, business_date) DO NOTHING"
CLOSE_DAYS = "UPDATE business_day SET state = 'closing' WHERE acquirer_id = $1 AND business_date < $2 AND state = 'open'"
KEY = """INSERT INTO api_key (key_id, role, merchant_id, store_id, terminal_id, person, secret_digest, expires_at, issued_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"""
# What a key of each role is for; nothing else is given.
SUBJECTS: Mapping[credentials.Role, tuple[str, ...]] = {
    "terminal": ("terminal",), "merchant": ("merchant",), "staff": ("store", "person"),
    "operator": ("person",), "support": ("person",), "reviewer": ("person",), "administrator": ("person",)}
REVOKE = "UPDATE api_key SET revoked_at = now() WHERE key_id = $1 AND revoked_at IS NULL"
BIN = """INSERT INTO bin_range (low, high, brand, card_type, pan_lengths) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (low, high) DO NOTHING RETURNING true"""
BINS = "SELECT low, high, brand, card_type, pan_lengths FROM bin_range ORDER BY low, high"
TARIFF = "INSERT INTO tariff (merchant_id, effective_from, basis_points) VALUES ($1, $2, $3)"
TARIFFS = """SELECT merchant_id, effective_from, basis_points FROM tariff
WHERE merchant_id = $1 AND ($2::date IS NULL OR effective_from < $2) ORDER BY effective_from DESC LIMIT $3"""
NUMBER = """INSERT INTO acquirer_terminal (merchant_id, acquirer_id, terminal_id, card_acceptor_terminal, card_acceptor)
VALUES ($1, $2, $3, $4, $5)"""


def _lowest_free(column: str, letter: str, digits: int) -> str:
    """The lowest number, as text, that no terminal of acquirer a has in a generated form."""
    used = f"""SELECT 0 AS n UNION SELECT substr({column}, 2)::bigint FROM acquirer_terminal
        WHERE acquirer_id = a.acquirer_id AND {column} ~ '^{letter}[0-9]{{{digits}}}$'"""
    return f"""SELECT '{letter}' || lpad((min(n) + 1)::text, {digits}, '0') AS text
        FROM (SELECT n, lead(n) OVER (ORDER BY n) AS following FROM ({used}) used) gaps WHERE following IS DISTINCT FROM n + 1"""


# One terminal at every acquirer: the card acceptor of its store, else of its merchant, else a new one.
NUMBER_TERMINAL = f"""INSERT INTO acquirer_terminal (merchant_id, acquirer_id, terminal_id, card_acceptor_terminal, card_acceptor)
SELECT $1, a.acquirer_id, $2, free.text, coalesce(known.card_acceptor, new.text) FROM acquirer a
CROSS JOIN LATERAL ({_lowest_free("card_acceptor_terminal", "T", 7)}) free CROSS JOIN LATERAL ({_lowest_free("card_acceptor", "M", 14)}) new
LEFT JOIN LATERAL (SELECT n.card_acceptor FROM acquirer_terminal n JOIN terminal t USING (merchant_id, terminal_id)
  WHERE n.acquirer_id = a.acquirer_id AND n.merchant_id = $1 ORDER BY t.store_id = $3 DESC, t.terminal_id LIMIT 1) known ON true"""
# Every terminal at a new acquirer, which has given no number yet.
NUMBER_ACQUIRER = """INSERT INTO acquirer_terminal (merchant_id, acquirer_id, terminal_id, card_acceptor_terminal, card_acceptor)
SELECT merchant_id, $1, terminal_id, 'T' || lpad(row_number() OVER (ORDER BY terminal_id)::text, 7, '0'),
  'M' || lpad(dense_rank() OVER (ORDER BY merchant_id)::text, 14, '0') FROM terminal WHERE status <> 'retired'"""


async def _number_terminal(connection: Connection, merchant_id: UUID, terminal_id: UUID, numbers: Numbers) -> None:
    await found(connection, Acquirer, numbers.acquirer_id)
    await connection.execute(NUMBER, merchant_id, numbers.acquirer_id, terminal_id, numbers.card_acceptor_terminal, numbers.card_acceptor)


class Onboarding:
    """Writes as `switch_writer`. Raises Problem: not_found, already_exists, invalid, conflict; not_ready when the database is not there,
    and then it is not known whether the last write happened."""

    def __init__(self, pool: Pool, limits: Limits = Limits()) -> None:
        self.pool, self.limits = pool, limits

    @asynccontextmanager
    async def _work(self, *, numbering: bool = False) -> AsyncIterator[Connection]:
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                if numbering:
                    await connection.execute("SELECT pg_advisory_xact_lock($1)", NUMBERING_LOCK)
                yield connection
        except asyncpg.UniqueViolationError:
            raise Problem("already_exists") from None
        except asyncpg.CheckViolationError as error:
            raise Problem("conflict", "That business day is closed.") if error.constraint_name == "terms_of_open_days" else error from None
        except UNKNOWN:
            raise Problem("not_ready", "The database does not answer. Look first whether it was written.", retry_after=2) from None

    async def get(self, record: type[R], ident: UUID | str) -> R:
        """One record of KINDS by its id: `get(Merchant, merchant_id)`. Raises Problem not_found."""
        async with self._work() as connection:
            return await found(connection, record, ident)

    async def page(self, record: type[R], limit: int = 50, after: UUID | str | None = None, **within: UUID | None) -> Page[R]:
        """Newest first, at most `limit` (1-200), those before `after`; `within`: of one owner, by a column of WITHIN. Raises Problem not_found
        for an owner that is not there, or is another's."""
        limit = max(1, min(limit, PAGE_MAX))
        async with self._work() as connection:
            return await catalogue.page(connection, record, limit, after, **within)

    async def organisation(self, name: str) -> Organisation:
        check(name=name)
        async with self._work() as connection:
            await connection.execute(ORGANISATION, ident := _new_id(), name)
            return await found(connection, Organisation, ident)

    async def merchant(self, organisation_id: UUID, name: str, mcc: str, time_zone: str = "Asia/Shanghai",
                       duplicate_policy: str = "warn", undelivered: str = "alert") -> Merchant:
        """`undelivered`: whether an approval that its terminal never heard of raises an alert only, or is reversed too."""
        check(name=name, mcc=mcc, time_zone=time_zone, duplicate_policy=duplicate_policy, undelivered=undelivered)
        async with self._work() as connection:
            await found(connection, Organisation, organisation_id)
            await connection.execute(MERCHANT, ident := _new_id(), organisation_id, name, mcc, time_zone, duplicate_policy, undelivered)
            return await found(connection, Merchant, ident)

    async def store(self, merchant_id: UUID, name: str, city: str = "", country: str = "CN", time_zone: str | None = None) -> Store:
        """`time_zone`: the merchant's when not given."""
        check(name=name, city=city, country=country, time_zone=time_zone)
        async with self._work() as connection:
            merchant = await found(connection, Merchant, merchant_id)
            await connection.execute(STORE, ident := _new_id(), merchant_id, name, city, country, time_zone or merchant.time_zone)
            return await found(connection, Store, ident)

    async def store_place(self, store_id: UUID, latitude_e6: int | None, longitude_e6: int | None) -> Store:
        """Where it is, in millionths of a degree; None: not known. Where its terminals are is unknown until they say it again."""
        check(latitude_e6=latitude_e6, longitude_e6=longitude_e6)
        refuse([("longitude_e6", "given with latitude_e6, and only then")] if (latitude_e6 is None) != (longitude_e6 is None) else [])
        async with self._work() as connection:
            store = await found(connection, Store, store_id)
            await connection.execute(STORE_PLACE, store.merchant_id, store_id, latitude_e6, longitude_e6)
            await connection.execute(STORE_UNKNOWN, store.merchant_id, store_id)
            return await found(connection, Store, store_id)

    async def terminal(self, store_id: UUID, name: str, numbers: Iterable[Numbers] | None = None) -> Terminal:
        """With `numbers` None it gets generated ones at every acquirer; else exactly those, and more by `number` later."""
        check(name=name)
        given = None if numbers is None else [_padded(each) for each in numbers]
        async with self._work(numbering=True) as connection:
            store = await found(connection, Store, store_id)
            await connection.execute(TERMINAL, ident := _new_id(), store.merchant_id, store_id, name)
            if given is None:
                await connection.execute(NUMBER_TERMINAL, store.merchant_id, ident, store_id)
            for each in given or ():
                await _number_terminal(connection, store.merchant_id, ident, each)
            return await found(connection, Terminal, ident)

    async def number(self, terminal_id: UUID, acquirer_id: UUID, card_acceptor_terminal: str, card_acceptor: str) -> Terminal:
        """The acquirer's own numbers for a terminal that has none there. Raises Problem already_exists: numbers are never changed."""
        numbers = _padded(Numbers(acquirer_id, card_acceptor_terminal, card_acceptor))
        async with self._work(numbering=True) as connection:
            terminal = await found(connection, Terminal, terminal_id)
            if any(each.acquirer_id == acquirer_id for each in terminal.numbers):
                raise Problem("already_exists", "The terminal has numbers there, perhaps made when the acquirer was added with number_terminals. "
                                                "They never change; add a new terminal, or an acquirer that gives its numbers itself.")
            await _number_terminal(connection, terminal.merchant_id, terminal_id, numbers)
            return await found(connection, Terminal, terminal_id)

    async def merchant_status(self, merchant_id: UUID, status: str) -> Merchant:
        """active, suspended, closed. Raises Problem conflict: a closed merchant stays closed."""
        return await self._status(Merchant, MERCHANT_STATUS, MERCHANT_STATUSES, merchant_id, status)

    async def merchant_undelivered(self, merchant_id: UUID, undelivered: str) -> Merchant:
        """alert, reverse: from now on, for those that are not looked at yet too."""
        check(undelivered=undelivered)
        async with self._work() as connection:
            await connection.execute(MERCHANT_UNDELIVERED, merchant_id, undelivered)
            return await found(connection, Merchant, merchant_id)

    async def terminal_status(self, terminal_id: UUID, status: str) -> Terminal:
        """active, suspended, retired. Raises Problem conflict: a retired terminal stays retired."""
        return await self._status(Terminal, TERMINAL_STATUS, TERMINAL_STATUSES, terminal_id, status)

    async def _status(self, record: type[R], statement: str, statuses: tuple[str, ...], ident: UUID, status: str) -> R:
        refuse([] if status in statuses else [("status", f"one of: {', '.join(statuses)}")])
        async with self._work() as connection:
            await found(connection, record, ident)
            if await connection.fetchval(statement, ident, status, statuses[-1]) is None:
                raise Problem("conflict", f"What is {statuses[-1]} stays so.")
            return await found(connection, record, ident)

    async def acquirer(self, name: str, dialect: str, host: str, port: int, message_mode: str = "single",
                       institution_code: str | None = None, answer_timeout_ms: int = 30_000, reversal_grace_ms: int = 5_000,
                       max_in_flight: int = 2048, min_in_flight: int = 16, time_zone: str = "UTC", number_terminals: bool = True,
                       **terms: Unpack[ReversalTerms]) -> Acquirer:
        """With its line, its first business day (today in its zone), and generated numbers for all terminals unless
        `number_terminals` is False: then the acquirer's own come by `number`."""
        check(ACQUIRER_RULES, name=name, host=host, port=port, message_mode=message_mode, institution_code=institution_code,
               answer_timeout_ms=answer_timeout_ms, reversal_grace_ms=reversal_grace_ms, max_in_flight=max_in_flight,
               min_in_flight=min_in_flight, time_zone=time_zone)
        check_terms(terms)
        refuse(acquirer_faults(answer_timeout_ms / 1000, reversal_grace_ms / 1000, self.limits))
        refuse(dialect_faults(dialect, message_mode, terms.get("reversal_first")))
        async with self._work(numbering=True) as connection:
            await connection.execute(ACQUIRER, ident := _new_id(), name, dialect, message_mode, institution_code, time_zone,
                                     answer_timeout_ms, reversal_grace_ms, max_in_flight, min_in_flight)
            await set_terms(connection, ident, terms)
            await connection.execute(LINE, ident, _new_id(), host, port)
            await connection.execute(OPEN_DAY, ident, datetime.now(ZoneInfo(time_zone)).date())
            if number_terminals:
                await connection.execute(NUMBER_ACQUIRER, ident)
            return await found(connection, Acquirer, ident)

    async def change_acquirer(self, acquirer_id: UUID, *, status: str | None = None, host: str | None = None, port: int | None = None,
                              answer_timeout_ms: int | None = None, reversal_grace_ms: int | None = None,
                              max_in_flight: int | None = None, min_in_flight: int | None = None,
                              **terms: Unpack[ReversalTerms]) -> Acquirer:
        """Changes what is given; a new host or port makes every worker reconnect."""
        check(ACQUIRER_RULES, host=host, port=port, answer_timeout_ms=answer_timeout_ms, reversal_grace_ms=reversal_grace_ms,
               max_in_flight=max_in_flight, min_in_flight=min_in_flight)
        check_terms(terms)
        refuse([] if status in (None, *ACQUIRER_STATUSES) else [("status", f"one of: {', '.join(ACQUIRER_STATUSES)}")])
        async with self._work() as connection:
            await connection.execute(CHANGE_ACQUIRER, acquirer_id, status, answer_timeout_ms, reversal_grace_ms, max_in_flight,
                                     min_in_flight)
            await set_terms(connection, acquirer_id, terms)
            if host is not None or port is not None:
                await connection.execute(CHANGE_LINE, acquirer_id, host, port)
            changed = await found(connection, Acquirer, acquirer_id)
            refuse(first_faults(terms.get("reversal_first"), changed.reversal_first))
            if changed.status == "active" or answer_timeout_ms is not None or reversal_grace_ms is not None:
                refuse(acquirer_faults(changed.answer_timeout_ms / 1000, changed.reversal_grace_ms / 1000, self.limits))
            return changed

    async def acquirer_named(self, name: str) -> Acquirer:
        """Raises Problem not_found."""
        async with self._work() as connection:
            acquirer_id = await connection.fetchval("SELECT acquirer_id FROM acquirer WHERE name = $1", name)
            if acquirer_id is None:
                raise Problem("not_found", "No acquirer has this name; `switch acquirer list` shows those there are.")
            return await found(connection, Acquirer, acquirer_id)

    async def open_business_day(self, acquirer_id: UUID, business_date: date) -> None:
        """Opens a later day and sets those before it to closing; the same day again changes nothing. Raises Problem conflict: earlier."""
        async with self._work() as connection:
            if business_date < (await found(connection, Acquirer, acquirer_id)).business_date:
                raise Problem("conflict", "A later business day is open.")
            await connection.execute(OPEN_DAY, acquirer_id, business_date)
            await connection.execute(CLOSE_DAYS, acquirer_id, business_date)

    async def route(self, acquirer: UUID | str, merchant_id: UUID | None = None, brand: str | None = None, priority: int = 100,
                    state: str = "active", by: str = "command line", **conditions: Unpack[Conditions]) -> Route:
        """`acquirer`: id or name. `merchant_id`, `brand`: None for all. The lowest priority is tried first; `by`: the person."""
        check_route(priority, state, by, conditions)
        acquirer_id = acquirer if isinstance(acquirer, UUID) else (await self.acquirer_named(acquirer)).acquirer_id
        async with self._work(numbering=True) as connection:
            await found(connection, Acquirer, acquirer_id)
            if merchant_id is not None:
                await found(connection, Merchant, merchant_id)
            return await found(connection, Route, await add_route(connection, acquirer_id, merchant_id, brand, priority, state, by, conditions))

    async def switch_route(self, route_id: UUID, by: str, *, on: bool, retires: Iterable[UUID] = ()) -> Route:
        """On: a draft is a rule from now on, and `retires` are none, in one commit. Off: it is retired. Raises Problem conflict."""
        async with self._work(numbering=True) as connection:
            await found(connection, Route, route_id)
            await (activate_route(connection, route_id, by, list(retires)) if on else retire_route(connection, route_id, by))
            return await found(connection, Route, route_id)

    async def key(self, role: credentials.Role, *, terminal_id: UUID | None = None, merchant_id: UUID | None = None, store_id: UUID | None = None,
                  person: str | None = None, expires_at: datetime | None = None, issued_by: str | None = None) -> IssuedKey:
        """A key for what SUBJECTS names, and nothing else.

        `expires_at`: aware and in the future, None = until revoked. `issued_by`: the person who gave it.
        """
        check(person=person)
        given = {"terminal": terminal_id, "merchant": merchant_id, "store": store_id, "person": person}
        refuse([("role", f"one of: {', '.join(SUBJECTS)}")] if role not in SUBJECTS else
               [(name, f"given for the role {' or '.join(each for each, needs in SUBJECTS.items() if name in needs)}, and only then")
                for name, subject in given.items() if (subject is None) == (name in SUBJECTS[role])])
        if expires_at is not None and (expires_at.tzinfo is None or expires_at <= datetime.now(UTC)):
            refuse([("expires_at", "a time in the future, with its offset")])
        async with self._work() as connection:
            if terminal_id is not None:
                merchant_id = (await found(connection, Terminal, terminal_id)).merchant_id
            elif store_id is not None:
                merchant_id = (await found(connection, Store, store_id)).merchant_id
            elif merchant_id is not None:
                await found(connection, Merchant, merchant_id)
            issued = credentials.issue(role)
            await connection.execute(KEY, issued.key_id, role, merchant_id, store_id, terminal_id, person, issued.digest, expires_at, issued_by)
            return IssuedKey(await found(connection, Key, issued.key_id), issued.text)

    async def revoke_key(self, key_id: str) -> Key:
        """From now on the key is unknown. Again changes nothing. Raises Problem not_found."""
        async with self._work() as connection:
            await connection.execute(REVOKE, key_id)
            return await found(connection, Key, key_id)

    async def install_bins(self, ranges: Iterable[BinRange] = default_bins()) -> int:
        """Adds the ranges that are not there yet; returns how many."""
        rows = [(each.low, each.high, each.brand, each.card_type, list(each.pan_lengths)) for each in ranges]
        async with self._work() as connection:
            return sum([await connection.fetchval(BIN, *row) is not None for row in rows])

    async def bins(self) -> tuple[BinRange, ...]:
        async with self._work() as connection:
            return tuple(BinRange(**{**dict(row), "pan_lengths": tuple(row["pan_lengths"])}) for row in await connection.fetch(BINS))

    async def tariff(self, merchant_id: UUID, effective_from: date, basis_points: int) -> Tariff:
        """One flat rate from a date on, in hundredths of a percent. Raises Problem already_exists: a tariff is never changed."""
        check(basis_points=basis_points)
        async with self._work() as connection:
            await found(connection, Merchant, merchant_id)
            await connection.execute(TARIFF, merchant_id, effective_from, basis_points)
        return Tariff(merchant_id, effective_from, basis_points)

    async def tariffs(self, merchant_id: UUID, limit: int = 50, after: date | None = None) -> Page[Tariff]:
        """The latest first. Raises Problem not_found: no such merchant."""
        limit = max(1, min(limit, PAGE_MAX))
        async with self._work() as connection:
            await found(connection, Merchant, merchant_id)
            rows = await connection.fetch(TARIFFS, merchant_id, after, limit + 1)
        return page_of([Tariff(*row) for row in rows], limit, "effective_from")
