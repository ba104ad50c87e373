"""Who is who, in memory: merchants, stores, terminals, acquirers, routes, keys. Records are immutable; a change replaces single records.

The tables' owners write; here they are read through the views `directory_*`. A request holds the records it read, so a change never
splits one request. Every worker polls the change log each second; NOTIFY only wakes it earlier.
"""

import asyncio
import json
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from types import MappingProxyType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg

from messages.dialect import Dialect
from switch import acquirers, logs, metrics, watchlist
from switch.alike import Alike, ApiKey, Keys, text, unwalked
from switch.database import UNKNOWN, Connection, slices
from switch.links import Tls
from switch.links.breaker import Terms as BreakerTerms
from switch.records import Acquirer, BinRange, Line, Merchant, ReversalTerms, Route, StandInTerms, Store, Terminal, Terms
from switch.watchlist import Limit, RiskEntry, RiskRule, Watchlist, conditions

POLL_S, STALE_AFTER_S = 1.0, 3.0
SLICE_S = 0.005
CHANGES_MAX = 1000
ROWS = 1000  # of a slice of a load
MERCHANT, STORE, TERMINAL = range(3)  # places of what Alike knows


MERCHANTS = """SELECT merchant_id, organisation_id, name, status, mcc, time_zone, duplicate_policy, unreferenced_refunds,
(SELECT extract(epoch FROM c.ends_at)::float8 FROM directory_contract c WHERE c.merchant_id = m.merchant_id) AS sells_until FROM directory_merchant m
WHERE $1::text[] IS NULL OR merchant_id = ANY($1::text[]::uuid[])"""
STORES = """SELECT store_id, merchant_id, name, city, country, time_zone FROM directory_store
WHERE $1::text[] IS NULL OR store_id = ANY($1::text[]::uuid[])"""
TERMINALS = """SELECT t.terminal_id, t.merchant_id, t.store_id, t.status,
  array_agg(n.acquirer_id) AS acquirers, array_agg(n.card_acceptor_terminal) AS terminals, array_agg(n.card_acceptor) AS acceptors
FROM directory_terminal t LEFT JOIN directory_acquirer_terminal n USING (merchant_id, terminal_id)
WHERE $1::text[] IS NULL OR t.terminal_id = ANY($1::text[]::uuid[]) GROUP BY t.merchant_id, t.terminal_id, t.store_id, t.status"""
ACQUIRERS = """SELECT a.*,
  ARRAY(SELECT ROW(l.line_id, l.host, l.port, l.priority, l.connections, l.server_name, l.ca_file, l.certificate_file, l.key_file)
        FROM directory_line l WHERE l.acquirer_id = a.acquirer_id AND l.status = 'active' ORDER BY l.priority, l.line_id) AS lines,
  (SELECT ROW(b.faults, b.percent, b.window_ms, b.pause_ms, b.probes, b.codes) FROM directory_breaker b
   WHERE b.acquirer_id = a.acquirer_id AND b.faults > 0) AS breaker,
  (SELECT max(d.business_date) FROM directory_business_day d WHERE d.acquirer_id = a.acquirer_id AND d.state = 'open') AS business_date,
  ARRAY(SELECT ROW(t.mcc, t.brand, t.completion_basis_points, t.tip_basis_points) FROM directory_authorization_terms t
        WHERE t.acquirer_id = a.acquirer_id) AS terms,
  ARRAY(SELECT ROW(t.merchant_id, t.brand, t.state = 'on', t.currency, t.sale_amount, t.day_amount, t.day_count, t.entry_modes)
        FROM directory_stand_in_terms t WHERE t.acquirer_id = a.acquirer_id) AS stand_in
FROM directory_acquirer a WHERE $1::text[] IS NULL OR a.acquirer_id = ANY($1::text[]::uuid[])"""
ROUTES = """SELECT route_id, acquirer_id, merchant_id, brand, priority, name, state, bin_low, bin_high, amount_min, amount_max, currencies, mccs,
entry_modes, weekdays, time_from, time_until, weight, cost_basis_points, cost_fixed, healthy_percent, stores, date_from,
date_until, activated_at, retired_at FROM directory_rule
WHERE $1::text[] IS NULL OR route_id = ANY($1::text[]::uuid[])"""
KEYS = """SELECT key_id, role, merchant_id, terminal_id, person, secret_digest, extract(epoch FROM least(expires_at, revoked_at))::float8 AS ends_at,
application_id, store_id FROM directory_api_key WHERE $1::text[] IS NULL OR key_id = ANY($1::text[])"""
BINS = """SELECT low, high, brand, card_type, pan_lengths FROM directory_bin_range WHERE $1::text[] IS NULL OR low = ANY($1::text[])"""
VERSION = "SELECT coalesce(max(version), 0) FROM directory_change"
CHANGES = "SELECT version, kind, key FROM directory_change WHERE version > $1 ORDER BY version LIMIT $2"


class Directory:
    """All records of this worker. Look-ups are plain dict reads."""

    def __init__(self) -> None:
        self.merchants: dict[UUID, Merchant] = {}
        self.stores: dict[UUID, Store] = {}
        self.terminals: dict[UUID, Terminal] = {}
        self.acquirers: dict[UUID, Acquirer] = {}
        self.routes: dict[UUID, Route] = {}
        self.risk_rules: dict[UUID, RiskRule] = {}
        self.limits: dict[UUID, Limit] = {}
        self.risk_entries: dict[UUID, RiskEntry] = {}
        self.keys = Keys(self.terminals)
        self.bins: dict[str, BinRange] = {}
        self.ordered_routes: list[Route] = []  # those in force
        self.bins_by_length: list[tuple[int, list[str], list[BinRange]]] = []  # longest prefix first
        self.chosen: dict[tuple[UUID, str], Any] = {}  # routing's choices, or what they are made by; forgotten at each change
        self.watchlist = Watchlist()
        self.alike = Alike(self.merchants, self.stores, self.terminals)
        self.guarded = False  # whether sales are judged: a rule, limit or list entry is in force
        self.version = 0
        self.confirmed_at = float("-inf")  # monotonic
        self.changed = asyncio.Event()
        self.waiting: set[asyncio.Future[None]] = set()  # for the next reading of the change log
        self.on_acquirer: Callable[[Acquirer], Awaitable[bool]] | None = None  # False: not to be used

    def fresh(self, now: float) -> bool:
        """False when the change log could not be read for three seconds: this worker then stops admitting."""
        return now - self.confirmed_at < STALE_AFTER_S

    def brand(self, pan_prefix: str) -> BinRange | None:
        """The range that holds a PAN, by its first 12 digits; the longest prefix wins (ranges of one length do not overlap)."""
        for length, lows, ranges in self.bins_by_length:
            prefix = pan_prefix[:length]
            at = bisect_right(lows, prefix) - 1
            if at >= 0 and prefix <= ranges[at].high:
                return ranges[at]
        return None

    async def load(self, connection: Connection) -> None:
        """Reads everything, in slices. The version is read first: a change made meanwhile is applied again, which is harmless."""
        version = await connection.fetchval(VERSION)
        with unwalked():
            for kind, (statement, *_) in KINDS.items():
                async for rows in slices(connection, ROWS, statement, None):
                    await self._take(kind, rows)
        self._reorder(KINDS)
        self._confirm(version)

    async def refresh(self, connection: Connection) -> int:
        """Applies what the change log has beyond our version; returns how many changes."""
        total = 0
        while True:
            changes = await connection.fetch(CHANGES, self.version, CHANGES_MAX)
            keys: dict[str, set[str]] = {}
            for change in changes:
                keys.setdefault(OWNER_OF.get(change["kind"], change["kind"]), set()).add(change["key"])
            for kind, changed in sorted(keys.items(), key=lambda each: each[0] == "acquirer"):  # last: a line comes up when its routes are known
                await self._take(kind, await connection.fetch(KINDS[kind][0], sorted(changed)))
            self._reorder(keys)
            self._confirm(changes[-1]["version"] if changes else self.version)
            total += len(changes)
            if len(changes) < CHANGES_MAX:
                return total

    def _confirm(self, version: int) -> None:
        self.version, self.confirmed_at = version, time.monotonic()
        metrics.directory_version.set(version)

    async def _take(self, kind: str, rows: Iterable[Any]) -> None:
        _, build, name = KINDS[kind]
        target, started = getattr(self, name), time.perf_counter()
        for row in rows:
            try:
                record = build(row, self.alike)
            except (LookupError, ValueError) as error:  # a dialect or zone of a newer release: one record waits, the others serve
                logs.error("directory_record_refused", type=kind, where=str(row[0]), error=type(error).__name__)
                continue
            if record is not None:
                if kind == "acquirer" and self.on_acquirer is not None and not await self.on_acquirer(record):
                    continue  # else its line and the numbers of its day are ready before it is seen
                target[record[0]] = record
                if kind in watchlist.KINDS:
                    self.watchlist.take(record)
            if time.perf_counter() - started > SLICE_S:
                await asyncio.sleep(0)
                started = time.perf_counter()

    def _reorder(self, changed: Collection[str]) -> None:
        """Makes ready what is found by looking through all records of a kind; `changed`: the kinds of which some were read."""
        if not CHOSEN_BY.isdisjoint(changed):
            self.chosen = {}
        if "route" in changed:
            self.ordered_routes = sorted((route for route in self.routes.values() if route.state == "active"), key=precedence)
        self.guarded = self.watchlist.in_force()
        if "bin_range" not in changed:
            return
        ordered = sorted(self.bins.values(), key=lambda found: (-len(found.low), found))
        self.bins_by_length = [(length, [found.low for found in ranges], ranges) for length, each in groupby(ordered, lambda found: len(found.low))
                               if (ranges := list(each))]

    async def caught_up(self) -> None:
        """Until what is committed now is in force here; not longer than a worker may go on without having read the log."""
        read = asyncio.get_running_loop().create_future()
        self.waiting.add(read)
        self.changed.set()
        await asyncio.wait([read], timeout=STALE_AFTER_S)
        self.waiting.discard(read)

    async def follow(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        """Keeps the records fresh until cancelled: woken by NOTIFY, and each second anyway; reconnects for ever."""
        connection: Connection | None = None
        try:
            while True:
                waiting, self.waiting = self.waiting, set()
                try:
                    if connection is None or connection.is_closed():
                        connection = await connect()
                        await connection.add_listener("directory", lambda *_: self.changed.set())
                    await self.refresh(connection)
                    for each in waiting:
                        each.set_result(None)
                except (*UNKNOWN, asyncpg.PostgresError) as error:
                    logs.warning("directory_unreachable", error=type(error).__name__)
                    self.waiting |= waiting
                    if connection is not None:
                        connection.terminate()
                    connection = None
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self.changed.wait()
                self.changed.clear()
        finally:
            if connection is not None:
                connection.terminate()


def precedence(route: Route) -> tuple[object, ...]:
    """Which of two fitting rules goes first: the lower priority, then the more particular one. Only rules whose order is not told by the rest
    differ in the last part alone, and those may share what fits them by weight or cost (payments/routing.py)."""
    conditions = (route.amount_min if route.amount_min is not None else route.amount_max, route.currencies, route.mccs, route.entry_modes,
                  route.weekdays, route.minute_from, route.stores, route.date_from or route.date_until)
    return (route.priority, route.merchant_id is None, -len(route.bin_low or ""), route.brand is None,
            -sum(condition is not None for condition in conditions), route.route_id)


def _merchant(row: asyncpg.Record, alike: Alike) -> Merchant:
    merchant_id, organisation_id, name, status, mcc, zone, duplicates, unreferenced_refunds, sells_until = row.values()
    return Merchant(merchant_id, alike.few(organisation_id), name, text(status), text(mcc), ZoneInfo(zone), text(duplicates),
                    unreferenced_refunds, sells_until)


def _store(row: asyncpg.Record, alike: Alike) -> Store:
    store_id, merchant_id, name, city, country, zone = row.values()
    return Store(store_id, alike.of(MERCHANT, merchant_id), name, text(city), text(country), ZoneInfo(zone))


def _api_key(row: asyncpg.Record, alike: Alike) -> ApiKey:
    key_id, role, merchant_id, terminal_id, person, digest, ends_at, application_id, store_id = row.values()
    merchant_id, terminal_id = merchant_id and alike.of(MERCHANT, merchant_id), terminal_id and alike.of(TERMINAL, terminal_id)
    return ApiKey(key_id, text(role), merchant_id, terminal_id, person, digest, ends_at, application_id, store_id)


def _acquirer(row: asyncpg.Record, _: Alike) -> Acquirer | None:
    if row["business_date"] is None:  # its first day is opened in the same commit; the day's own change brings it
        return None
    dialect, options = acquirers.load(row["dialect"]), MappingProxyType(json.loads(row["options"]))
    return Acquirer(row["acquirer_id"], row["name"], dialect, row["message_mode"], row["status"],
                    row["institution_code"], ZoneInfo(row["time_zone"]), row["answer_timeout_ms"] / 1000, row["reversal_grace_ms"] / 1000,
                    row["max_in_flight"], tuple(_line(line) for line in row["lines"]), row["business_date"],
                    reversal_terms(row, dialect),
                    {(mcc, brand): Terms(*basis_points) for mcc, brand, *basis_points in row["terms"]}, row["min_in_flight"],
                    row["max_links"], row["sign_on_at"], frozenset(dialect.reroute_codes if row["reroute_codes"] is None else row["reroute_codes"]),
                    options, acquirers.query_rule(row["dialect"], options), row["secret_at"], _breaker(row["breaker"], dialect),
                    {(merchant, brand): StandInTerms._make((*said, frozenset(modes))) for merchant, brand, *said, modes in row["stand_in"]})


def _line(row: Sequence[Any]) -> Line:
    line_id, host, port, priority, connections, server_name, *files = row
    return Line(line_id, host, port, priority, connections, None if server_name is None else Tls(server_name, *files))


def _breaker(row: Sequence[Any] | None, dialect: Dialect) -> BreakerTerms | None:
    if row is None:
        return None
    faults, percent, window_ms, pause_ms, probes, codes = row
    return BreakerTerms(faults, percent, window_ms / 1000, pause_ms / 1000, probes, frozenset(dialect.outage_codes if codes is None else codes))


def reversal_terms(row: asyncpg.Record, dialect: Dialect) -> ReversalTerms:
    codes = MappingProxyType({**dialect.reversal_codes, **json.loads(row["reversal_codes"])})
    return ReversalTerms(codes, float(row["reversal_max_age_s"]), row["reversals_per_second"], row["reversals_at_once"],
                         row["reversal_first"] or dialect.reversal_first)


def _terminal(row: asyncpg.Record, alike: Alike) -> Terminal:
    known_as: list[Any] = []
    for acquirer_id, number, acceptor in zip(row["acquirers"], row["terminals"], row["acceptors"], strict=True):
        if acquirer_id is not None:
            known_as += alike.few(acquirer_id), number, text(acceptor)
    return Terminal(row["terminal_id"], alike.of(MERCHANT, row["merchant_id"]), alike.of(STORE, row["store_id"]), text(row["status"]),
                    tuple(known_as))


KINDS: dict[str, tuple[str, Callable[[Any, Alike], Any], str]] = {
    "merchant": (MERCHANTS, _merchant, "merchants"),
    "store": (STORES, _store, "stores"),
    "terminal": (TERMINALS, _terminal, "terminals"),
    "acquirer": (ACQUIRERS, _acquirer, "acquirers"),
    "route": (ROUTES, lambda row, _: Route(**conditions(dict(row))), "routes"),
    **{kind: (statement, partial(lambda build, row, _: build(row), build), name) for kind, (statement, build, name) in watchlist.KINDS.items()},
    "api_key": (KEYS, _api_key, "keys"),
    "bin_range": (BINS, lambda row, _: BinRange(*row.values())._replace(pan_lengths=tuple(row["pan_lengths"])), "bins"),
}
CHOSEN_BY = frozenset({"merchant", "terminal", "acquirer", "route"})  # what routing's choices are made from
# A change of a dependent row reloads the record that carries it.
OWNER_OF = {"authorization_terms": "acquirer", "acquirer_line": "acquirer", "business_day": "acquirer", "acquirer_terminal": "terminal"}
