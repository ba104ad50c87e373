"""Risk rules, merchants' limits and lists: written once, switched on and off by a person. What was written never changes."""

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Connection, Pool, work
from switch.errors import Problem
from switch.ids import uuid7
from switch.merchants.routes import ENTRY_MODES
from switch.merchants.rules import RULES, Rule, check, number, refuse, text
from switch.money import CURRENCIES
from switch.terminals.whereabouts import SILENT

PAGE_MAX, LISTED_MAX = 200, 100
DIFFERENT = 50  # cards or terminals that a rule may ask for; counters know a few more (payments/velocity.py)

# What a kind needs, and what it may have; all may have a scope. `currency` goes with amounts.
NEEDS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "velocity": (frozenset({"subject", "window_s"}), frozenset({"count_max", "amount_max", "currency"})),
    "amount": (frozenset({"amount_max", "currency"}), frozenset()),
    "night": (frozenset({"time_from", "time_until"}), frozenset({"amount_min", "currency"})),
    "split": (frozenset({"window_s", "count_max", "amount_max", "basis_points", "currency"}), frozenset()),
    "refund_ratio": (frozenset({"subject", "window_s", "count_max", "basis_points", "currency"}), frozenset()),
    "card_testing": (frozenset({"subject", "window_s", "count_max"}), frozenset({"amount_max", "currency"})),
    "card_spread": (frozenset({"window_s", "count_max"}), frozenset()),
    "relocated": (frozenset({"window_s", "distance_km"}), frozenset()),
}
SUBJECTS, ACTIONS, BLOCKS = ("card", "terminal", "merchant", "store"), ("flag", "hold", "decline", "block"), ("card", "terminal")
PARAMETERS = ("currency", "subject", "window_s", "count_max", "amount_min", "amount_max", "basis_points", "time_from", "time_until",
              "distance_km")
SCOPE = ("mccs", "brands", "entry_modes")


def _one_of(*values: str) -> Rule:
    return lambda value: value in values, f"one of: {', '.join(values)}"


def _several(one: Rule) -> Rule:
    return (lambda value: isinstance(value, list) and 1 <= len(value) <= LISTED_MAX and len(set(value)) == len(value) and all(map(one[0], value)),
            f"1 to {LISTED_MAX}, each once: {one[1]}")


_amount, _clock = number(0, 999_999_999_999), text("([01][0-9]|2[0-3]):[0-5][0-9]", "a time of day, hh:mm")
_currency: Rule = (lambda value: value in CURRENCIES, "an ISO 4217 alpha code with minor units")
_reason: Rule = (lambda value: isinstance(value, str) and 1 <= len(value.strip()) <= 500 and value.isprintable(), "1 to 500 printable characters")
FIELDS: dict[str, Rule] = {
    "name": RULES["name"], "by": RULES["person"], "kind": _one_of(*NEEDS), "action": _one_of(*ACTIONS), "blocks": _one_of(*BLOCKS),
    "mccs": _several(RULES["mcc"]), "brands": _several(text("[a-z0-9_-]{1,40}", "a brand")), "entry_modes": _several(_one_of(*ENTRY_MODES)),
    "currency": _currency, "subject": _one_of(*SUBJECTS), "window_s": number(1, 604_800), "count_max": number(0, 1_000_000),
    "amount_min": _amount, "amount_max": _amount, "basis_points": number(1, 10_000), "time_from": _clock, "time_until": _clock,
    "distance_km": number(1, 20_000),
    "state": _one_of("draft", "active"), "per_sale": _amount, "per_day": _amount, "per_month": _amount, "reason": _reason,
    "verdict": _one_of("allow", "block"),
}


def contradictions(kind: str, given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is sound by itself and not together."""
    needs, may = NEEDS[kind]
    faults = [(name, f"given, for the kind {kind}") for name in sorted(needs) if given.get(name) is None]
    faults += [(name, f"not given, for the kind {kind}") for name in PARAMETERS if given.get(name) is not None and name not in needs | may]
    if kind == "velocity" and given.get("count_max") is None and given.get("amount_max") is None:
        faults.append(("count_max", "given, or amount_max"))
    if kind == "velocity" and given.get("count_max") is not None and given.get("amount_max") is not None:
        faults.append(("amount_max", "not given with count_max: make two rules"))
    if (given.get("amount_max") is not None or given.get("amount_min") is not None) and given.get("currency") is None:
        faults.append(("currency", "given with an amount, which is its minor units"))
    if kind in ("card_testing", "card_spread") and (given.get("count_max") or 0) > DIFFERENT:
        faults.append(("count_max", f"at most {DIFFERENT} for the kind {kind}"))
    if kind == "card_testing" and given.get("subject") == "card":
        faults.append(("subject", "terminal, store or merchant, for the kind card_testing"))
    if kind == "relocated" and 0 < (given.get("window_s") or 0) < SILENT.total_seconds():
        faults.append(("window_s", f"at least {SILENT.total_seconds():.0f} for the kind relocated"))
    if given.get("time_from") is not None and given.get("time_from") == given.get("time_until"):
        faults.append(("time_until", "another time than time_from"))
    if (given.get("action") == "block") != (given.get("blocks") is not None):
        faults.append(("blocks", "given for the action block, and only then"))
    return faults


_COLUMNS = ("merchant_id", "name", "kind", "action", "blocks", *SCOPE, *PARAMETERS)
_CASTS = {name: "::text[]" for name in SCOPE}
_life = "CASE WHEN $2 = 'active' THEN $3 END, CASE WHEN $2 = 'active' THEN now() END"
ADD_RULE = f"""INSERT INTO risk_rule (rule_id, state, created_by, activated_by, activated_at, {", ".join(_COLUMNS)})
VALUES ($1, $2, $3, {_life}, {", ".join(f"${number}{_CASTS.get(name, '')}" for number, name in enumerate(_COLUMNS, 4))})"""
ADD_LIMIT = f"""INSERT INTO merchant_limit (limit_id, state, created_by, activated_by, activated_at, merchant_id, currency, per_sale, per_day,
  per_month)
VALUES ($1, $2, $3, {_life}, $4, $5, $6, $7, $8)"""
ADD_ENTRY = """INSERT INTO risk_entry (entry_id, subject, value, verdict, reason, created_by) VALUES ($1, $2, $3, $4, $5, $6)"""
END_ENTRY = "UPDATE risk_entry SET ended_by = $2, ended_at = now() WHERE entry_id = $1 AND ended_at IS NULL"
TABLES: Mapping[str, tuple[str, str]] = {"risk_rule": ("risk_rule", "rule_id"), "limit": ("merchant_limit", "limit_id"),
                                         "risk_entry": ("risk_entry", "entry_id")}
ONE = {kind: f"SELECT * FROM {table} WHERE {ident} = $1" for kind, (table, ident) in TABLES.items()}
PAGE = {kind: f"SELECT * FROM {table} WHERE $1::uuid IS NULL OR {ident} < $1 ORDER BY {ident} DESC LIMIT $2"
        for kind, (table, ident) in TABLES.items()}
LIVING = {kind: TABLES[kind] for kind in ("risk_rule", "limit")}
ACTIVATE = {kind: f"""UPDATE {table} SET state = 'active', activated_by = $2, activated_at = now() WHERE {ident} = $1 AND state = 'draft'
RETURNING true""" for kind, (table, ident) in LIVING.items()}
RETIRE = {kind: f"""UPDATE {table} SET state = 'retired', retired_by = $2, retired_at = now() WHERE {ident} = $1 AND state <> 'retired'
RETURNING true""" for kind, (table, ident) in LIVING.items()}
MERCHANT = "SELECT EXISTS (SELECT FROM merchant WHERE merchant_id = $1)"
TERMINAL = "SELECT EXISTS (SELECT FROM terminal WHERE terminal_id = $1)"
CARD_OF = "SELECT pan_token FROM transaction WHERE transaction_id = $1"


async def limited(connection: Connection, merchant_id: UUID, limits: Mapping[str, Any]) -> None:
    """In the caller's commit, in force at once. `limits`: currency and per_sale, per_day, per_month, in its minor units."""
    amounts = (limits.get(name) for name in ("per_sale", "per_day", "per_month"))
    await connection.execute(ADD_LIMIT, _new_id(), "active", "rules", merchant_id, limits["currency"], *amounts)


class RiskRules:
    """Writes as `switch_writer`. Raises Problem: not_found, invalid, conflict, already_exists, not_ready."""

    def __init__(self, writers: Pool, readers: Pool) -> None:
        self.writers, self.readers = writers, readers

    @asynccontextmanager
    async def _work(self) -> AsyncIterator[Connection]:
        try:
            async with work(self.writers) as connection:
                yield connection
        except asyncpg.UniqueViolationError:
            raise Problem("already_exists", "One is in force already for the same; retire or end it first, or name it in `retires`.") from None

    async def get(self, kind: str, ident: UUID) -> Any:
        try:
            return _found(await self.readers.fetchrow(ONE[kind], ident))
        except UNKNOWN:
            raise Problem("not_ready", "The records cannot be read just now.", retry_after=2) from None

    async def page(self, kind: str, limit: int, before: UUID | None) -> list[Any]:
        """Newest first, one more than `limit`."""
        try:
            return list(await self.readers.fetch(PAGE[kind], before, min(limit, PAGE_MAX) + 1))
        except UNKNOWN:
            raise Problem("not_ready", "The records cannot be read just now.", retry_after=2) from None

    async def rule(self, state: str, by: str, merchant_id: UUID | None, **said: Any) -> Any:
        """A rule, a draft unless it says otherwise."""
        given = {name: value for name, value in said.items() if value is not None}
        check(FIELDS, state=state, by=by, **given)
        refuse(contradictions(given["kind"], given))
        for several in SCOPE:
            given[several] = sorted(given[several]) if several in given else None
        async with self._work() as connection:
            if merchant_id is not None:
                _found(await connection.fetchval(MERCHANT, merchant_id) or None)
            await connection.execute(ADD_RULE, ident := _new_id(), state, by, merchant_id, *(given.get(name) for name in _COLUMNS[1:]))
            return await connection.fetchrow(ONE["risk_rule"], ident)

    async def limit(self, state: str, by: str, merchant_id: UUID, currency: str, per_sale: int | None, per_day: int | None,
                    per_month: int | None) -> Any:
        check(FIELDS, state=state, by=by, currency=currency, per_sale=per_sale, per_day=per_day, per_month=per_month)
        refuse([("per_sale", "given, or per_day, or per_month")] if per_sale is per_day is per_month is None else [])
        async with self._work() as connection:
            _found(await connection.fetchval(MERCHANT, merchant_id) or None)
            await connection.execute(ADD_LIMIT, ident := _new_id(), state, by, merchant_id, currency, per_sale, per_day, per_month)
            return await connection.fetchrow(ONE["limit"], ident)

    async def switch(self, kind: str, ident: UUID, by: str, *, on: bool, retires: tuple[UUID, ...] = ()) -> Any:
        """On: a draft is in force from now on, and `retires` are not, in one commit. Off: it is retired; again changes nothing."""
        check(FIELDS, by=by)
        async with self._work() as connection:
            _found(await connection.fetchrow(ONE[kind], ident))
            for other in sorted(set(retires)):
                if other == ident or not await connection.fetchval(RETIRE[kind], other, by):
                    raise Problem("conflict", "One of those to be retired is retired already, is not there, or is itself; nothing was changed.")
            if on and not await connection.fetchval(ACTIVATE[kind], ident, by):
                raise Problem("conflict", "Only a draft can be switched on; add it anew.")
            if not on:
                await connection.execute(RETIRE[kind], ident, by)
            return await connection.fetchrow(ONE[kind], ident)

    async def entry(self, subject: str, value: UUID | bytes, verdict: str, reason: str, by: str) -> Any:
        """On a list from now on: a merchant or terminal by its id, a card by its token, or by a transaction it made (`subject` transaction)."""
        check(FIELDS, verdict=verdict, reason=reason, by=by)
        async with self._work() as connection:
            if subject == "transaction":
                subject, value = "card", _found(await connection.fetchval(CARD_OF, value))
            elif subject != "card":
                _found(await connection.fetchval(MERCHANT if subject == "merchant" else TERMINAL, value) or None)
            shown = value.hex() if isinstance(value, bytes) else str(value)
            await connection.execute(ADD_ENTRY, ident := _new_id(), subject, shown, verdict, reason, by)
            return await connection.fetchrow(ONE["risk_entry"], ident)

    async def end(self, entry_id: UUID, by: str) -> Any:
        """Off its list; again changes nothing."""
        async with self._work() as connection:
            _found(await connection.fetchrow(ONE["risk_entry"], entry_id))
            await connection.execute(END_ENTRY, entry_id, by)
            return await connection.fetchrow(ONE["risk_entry"], entry_id)


def _new_id() -> UUID:
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


def _found(value: Any) -> Any:
    if value is None:
        raise Problem("not_found")
    return value
