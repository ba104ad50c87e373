"""PostgreSQL as far as the switch uses it: tables of rows, sessions with row locks, unique indexes, the triggers of the schema."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from migrations.versions.r0003_follow_ups import STEPS

Row = dict[str, Any]
AGREES, OWED = {"REVERSING": "open", "PARKED": "parked"}, {"open": "REVERSING", "parked": "PARKED"}
OPEN_STATES = ("SENT", "REVERSING")
LIVE = {"transaction": "SENT", "duty": "open"}


class Blocked(Exception):
    """The row belongs to an open transaction of another session: wait for its end."""

    def __init__(self, owner: "Session") -> None:
        super().__init__()
        self.owner = owner


class Books:
    """Committed rows by table and key. `watch(table, key, old, new)` sees each committed change."""

    def __init__(self, now: Callable[[], datetime], watch: Callable[[str, Any, Any, Any], None] = lambda *_: None) -> None:
        self.now, self.watch = now, watch
        self.tables: dict[str, dict[Any, Any]] = {}
        self.locks: dict[tuple[str, Any], Session] = {}
        self.serial = 0
        self.live: dict[str, dict[Any, Row]] = {"transaction": {}, "duty": {}}  # what is SENT, what is owed: the partial indexes

    def table(self, name: str) -> dict[Any, Any]:
        return self.tables.setdefault(name, {})

    def next(self) -> int:
        self.serial += 1
        return self.serial


class Session:
    """One transaction: its writes are seen by itself only until it commits, and lock what they touch."""

    def __init__(self, books: Books) -> None:
        self.books, self.now = books, books.now()
        self.overlay: dict[tuple[str, Any], Any] = {}
        self.owes: list[Any] = []  # transactions that must have an open reversal at the end
        self.waiters: list[Callable[[], None]] = []

    def get(self, table: str, key: Any) -> Any:
        return self.overlay[table, key] if (table, key) in self.overlay else self.books.table(table).get(key)

    def locked(self, table: str, key: Any) -> Any:
        """The row for an update. Raises Blocked."""
        owner = self.books.locks.get((table, key))
        if owner is not None and owner is not self:
            raise Blocked(owner)
        return self.get(table, key)

    def live(self, table: str) -> list[Row]:
        """Transactions that are SENT, or duties that are open."""
        if self.overlay:
            return [row for row in self.rows(table) if row["state"] == LIVE[table]]
        return list(self.books.live[table].values())

    def rows(self, table: str) -> Iterator[Any]:
        if not self.overlay:
            yield from list(self.books.table(table).values())
            return
        for key, row in list(self.books.table(table).items()):
            row = self.overlay.get((table, key), row)
            if row is not None:
                yield row
        for (name, key), row in list(self.overlay.items()):
            if name == table and row is not None and key not in self.books.table(table):
                yield row

    def put(self, table: str, key: Any, row: Any) -> None:
        self.locked(table, key)
        self.books.locks[table, key] = self
        self.overlay[table, key] = row

    def hold(self, table: str, key: Any) -> None:
        """A row lock without a change."""
        if (row := self.get(table, key)) is not None:
            self.put(table, key, row)

    def claim(self, table: str, key: Any, owner: Any, constraint: str) -> None:
        """One entry of a unique index. Raises UniqueViolationError."""
        if self.locked(table, key) not in (None, owner):
            error = asyncpg.UniqueViolationError(f"duplicate key value violates unique constraint {constraint}")
            error.constraint_name = constraint
            raise error
        self.put(table, key, owner)

    def mark(self) -> tuple[dict[tuple[str, Any], Any], list[Any]]:
        return dict(self.overlay), list(self.owes)

    def back_to(self, mark: tuple[dict[tuple[str, Any], Any], list[Any]]) -> None:
        """What a failed or blocked statement has done so far is undone."""
        for place in self.overlay:
            if place not in mark[0]:
                del self.books.locks[place]
        self.overlay, self.owes = mark

    def commit(self) -> None:
        """Raises CheckViolationError from the deferred trigger; then everything is undone."""
        for transaction_id in self.owes:
            duty, stands = self.get("duty", transaction_id), self.get("transaction", transaction_id)["state"]
            owed = duty["state"] if duty is not None and duty["kind"] == "reversal" else None
            if AGREES.get(stands, owed) != owed or (owed in OWED and stands != OWED[owed]):
                self.rollback()
                raise refused(f"a reversal that is {owed} of a transaction that is {stands}")
        changes = [(table, key, self.books.table(table).get(key), row) for (table, key), row in self.overlay.items()]
        for table, key, _, row in changes:
            self.books.table(table)[key] = row
            if table in LIVE:
                if row["state"] == LIVE[table]:
                    self.books.live[table][key] = row
                else:
                    self.books.live[table].pop(key, None)
        self._end()
        for table, key, old, row in changes:
            if old is not row:
                self.books.watch(table, key, old, row)

    def rollback(self) -> None:
        self._end()

    def _end(self) -> None:
        for place in self.overlay:
            del self.books.locks[place]
        self.overlay, self.owes = {}, []
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter()


def refused(text: str) -> asyncpg.CheckViolationError:
    return asyncpg.CheckViolationError(text)


# The schema's rules for the two tables that matter.


def insert_transaction(session: Session, row: Row) -> None:
    key = row["transaction_id"]
    session.claim("transaction_by_id", key, key, "transaction_by_id")
    session.claim("transaction_rrn", (row["acquirer_id"], row["rrn"], row["business_date"]), key, "transaction_rrn")
    session.claim("transaction_open_match_key", (row["acquirer_id"], row["match_key"]), key, "transaction_open_match_key")
    _check(row)
    session.put("transaction", key, row)


def update_transaction(session: Session, key: Any, **changes: Any) -> Row:
    old = session.locked("transaction", key)
    row: Row = {**old, **changes}
    if f"{old['state']}>{row['state']}" not in STEPS or row["version"] != old["version"] + 1:
        raise refused(f"transaction: {old['state']} may not become {row['state']}")
    if old["outcome"] is not None and row["outcome"] != old["outcome"]:
        raise refused("transaction: an outcome may not change")
    place = (row["acquirer_id"], row["match_key"])
    if row["state"] in OPEN_STATES and old["state"] not in OPEN_STATES:
        session.claim("transaction_open_match_key", place, key, "transaction_open_match_key")
    elif row["state"] not in OPEN_STATES and old["state"] in OPEN_STATES:
        session.put("transaction_open_match_key", place, None)
    if row["state"] != old["state"]:
        row = _follow_step(session, old, row)
    if row["state"] != old["state"] and (row["state"] in AGREES or old["state"] == "PARKED"):
        session.owes.append(key)
    _check(row)
    session.put("transaction", key, row)
    return row


BOOKED, GIVEN_BACK = ("APPROVED", "CONFIRMED"), ("DECLINED", "NOT_SENT", "REVERSED")


def _follow_step(session: Session, old: Row, row: Row) -> Row:
    """The trigger of follow-ups: what a step books on the original, and what an approval fixes."""
    if row["original_id"] is not None:
        return _book_on_original(session, old, row)
    if old["state"] == "SENT" and row["state"] == "APPROVED" and (row["capture_method"] == "manual" or row["capturable"] > row["authorised"]):
        row = {**row, "tolerance": row["capturable"] - row["authorised"]}
        if row["capture_method"] == "manual":
            row["expires_at"] = row["release_at"] = row["outcome_at"] + timedelta(hours=168)
    return row


def _book_on_original(session: Session, old: Row, row: Row) -> Row:
    """Of a capture: the other kinds of follow-ups are not simulated yet."""
    automatic = row["idempotency_key"] is None
    was, now = (state in BOOKED or (automatic and state == "SENT") for state in (old["state"], row["state"]))
    row = {**row, "reserved": 0 if now or row["state"] in GIVEN_BACK else row["amount"] if was else old["reserved"]}
    held, booked = row["reserved"] - old["reserved"], (now - was) * row["amount"]
    if held or booked:
        original = session.locked("transaction", row["original_id"])
        update_transaction(session, row["original_id"], version=original["version"] + 1, release_at=original["expires_at"],
                           capture_reserved=original["capture_reserved"] + held,
                           captured=original["captured"] + (booked if original["state"] in BOOKED else 0))
    return row


def _check(row: Row) -> None:
    held = (
        row["captured"] + row["capture_reserved"] + row["released"] <= row["capturable"], row["capture_reserved"] >= 0,
        row["authorised"] <= row["capturable"], row["refunded"] + row["refund_reserved"] + row["charged_back"] <= row["captured"],
        row["approved_amount"] is None or 0 <= row["approved_amount"] <= row["amount"],
        row["state"] not in ("SENT", "DECLINED", "NOT_SENT") or row["authorised"] == 0,
        row["state"] != "APPROVED" or (row["outcome"] == "APPROVED" and None not in
                                       (row["outcome_at"], row["response_code"], row["approved_amount"])),
    )
    if not all(held):
        raise refused(f"transaction: constraint {held.index(False)}")


def put_duty(session: Session, row: Row) -> None:
    key = row["transaction_id"]
    old = session.locked("duty", key)
    place = (row["acquirer_id"], row["match_key"])
    if old is not None and old["state"] == "open" and (row["state"] != "open" or old["match_key"] != row["match_key"]):
        session.put("duty_open_match_key", (old["acquirer_id"], old["match_key"]), None)
    if row["state"] == "open":
        session.claim("duty_open_match_key", place, key, "duty_open_match_key")
    if old is not None and row["kind"] == "reversal" and row["state"] != old["state"]:
        session.owes.append(key)
    session.put("duty", key, row)
