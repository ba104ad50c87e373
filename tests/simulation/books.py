"""PostgreSQL as far as the switch uses it: tables of rows, sessions with row locks, unique indexes, the triggers of the schema."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from migrations.versions.r0003_follow_ups import STEPS

Row = dict[str, Any]
AGREES, OWED = {"REVERSING": "open", "PARKED": "parked"}, {"open": "REVERSING", "parked": "PARKED"}
OPEN_STATES = ("SENT", "REVERSING")
ABSENT: Any = object()
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
        self.tables: dict[str, dict[Any, Any]] = defaultdict(dict)
        self.locks: dict[tuple[str, Any], Session] = {}
        self.serial = 0
        self.live: dict[str, dict[Any, Row]] = {"transaction": {}, "duty": {}}  # what is SENT, what is owed: the partial indexes
        self.made_of: dict[Any, list[Any]] = {}  # original -> its follow-ups, in the order of their commits

    def table(self, name: str) -> dict[Any, Any]:
        return self.tables[name]

    def next(self) -> int:
        self.serial += 1
        return self.serial


class Session:
    """One transaction: its writes are seen by itself only until it commits, and lock what they touch."""

    def __init__(self, books: Books) -> None:
        self.books, self.now = books, books.now()
        self.overlay: dict[tuple[str, Any], Any] = {}
        self.opened: list[tuple[Any, str, Any]] = []  # by this statement: acquirer, key of the wire, transaction
        self.owes: list[Any] = []  # transactions that must have an open reversal at the end
        self.waiters: list[Callable[[], None]] = []

    def get(self, table: str, key: Any) -> Any:
        if self.overlay:
            found = self.overlay.get((table, key), ABSENT)
            if found is not ABSENT:
                return found
        return self.books.tables[table].get(key)

    def locked(self, table: str, key: Any) -> Any:
        """The row for an update. Raises Blocked."""
        if self.books.locks:
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

    def followers(self, original_id: Any) -> list[Row]:
        found = [self.get("transaction", key) for key in self.books.made_of.get(original_id, ())]
        return found + [row for (table, key), row in self.overlay.items() if table == "transaction" and row["original_id"] == original_id
                        and key not in self.books.table(table)]

    def put(self, table: str, key: Any, row: Any) -> None:
        place = table, key
        owner = self.books.locks.setdefault(place, self)
        if owner is not self:
            raise Blocked(owner)
        self.overlay[place] = row

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
        if not self.overlay:
            self._end()
            return
        for transaction_id in self.owes:
            duty, stands = self.get("duty", transaction_id), self.get("transaction", transaction_id)["state"]
            owed = duty["state"] if duty is not None and duty["kind"] == "reversal" else None
            if AGREES.get(stands, owed) != owed or (owed in OWED and stands != OWED[owed]):
                self.rollback()
                raise refused(f"a reversal that is {owed} of a transaction that is {stands}")
        changes = [(table, key, self.books.table(table).get(key), row) for (table, key), row in self.overlay.items()]
        for table, key, old, row in changes:
            self.books.table(table)[key] = row
            if old is None and table == "transaction" and row["original_id"] is not None:
                self.books.made_of.setdefault(row["original_id"], []).append(key)
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


def refused(text: str, constraint: str | None = None) -> asyncpg.CheckViolationError:
    error = asyncpg.CheckViolationError(text)
    error.constraint_name = constraint
    return error


# The schema's rules for the two tables that matter.


def insert_transaction(session: Session, row: Row) -> None:
    key = row["transaction_id"]
    if row["original_id"] is not None and row["idempotency_key"] is not None:
        row = _reserve_on_original(session, row)
    session.claim("transaction_by_id", key, key, "transaction_by_id")
    session.claim("transaction_rrn", (row["acquirer_id"], row["rrn"], row["business_date"]), key, "transaction_rrn")
    _check(row)
    session.put("transaction", key, row)
    session.opened.append((row["acquirer_id"], row["match_key"], key))


def end_statement(session: Session) -> None:
    """What a trigger does once all rows of a statement are there: the keys of the wire that they take."""
    opened, session.opened = session.opened, []
    for acquirer_id, match_key, key in opened:
        session.claim("transaction_open_match_key", (acquirer_id, match_key), key, "transaction_open_match_key")


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


RESERVED = {"capture": "capture_reserved", "tip": "capture_reserved", "increment": "increment_reserved", "refund": "refund_reserved",
            "void": "void_reserved"}
SAME = ("merchant_id", "currency", "acquirer_id", "pan_token")


def _reserve_on_original(session: Session, row: Row) -> Row:
    original, type_ = session.locked("transaction", row["original_id"]), row["type"]
    broken = (
        "follow_up_of_its_original" if original is None or any(original[name] != row[name] for name in SAME) or original["original_id"] is not None else
        "original_stands" if original["state"] not in BOOKED else
        "void_once" if original["void_reserved"] + original["voided"] > 0 else
        "original_not_expired" if type_ in ("capture", "increment") and original["expires_at"] is not None and original["expires_at"] <= session.now else
        "increment_before_capture" if type_ == "increment" and original["captured"] + original["capture_reserved"] > 0 else
        "follow_up_of_its_original" if type_ not in RESERVED else None)
    if broken is not None:
        raise refused(f"transaction: a follow-up broke {broken}", broken)
    name = RESERVED[type_]
    update_transaction(session, row["original_id"], version=original["version"] + 1, **{name: original[name] + row["amount"]})
    return {**row, "reserved": row["amount"]}


def _book_on_original(session: Session, old: Row, row: Row) -> Row:
    automatic, type_, amount = row["idempotency_key"] is None, row["type"], row["amount"]
    was, now = (state in BOOKED or (automatic and state == "SENT") for state in (old["state"], row["state"]))
    row = {**row, "reserved": 0 if now or row["state"] in GIVEN_BACK else amount if was else old["reserved"]}
    held, booked = row["reserved"] - old["reserved"], (now - was) * amount
    if held or booked:
        original = session.locked("transaction", row["original_id"])
        name = RESERVED[type_]
        changes: Row = {"version": original["version"] + 1, "release_at": original["expires_at"], name: original[name] + held}
        changes |= _booked(original, row, held, booked)
        update_transaction(session, row["original_id"], **changes)
    return row


def _booked(original: Row, row: Row, held: int, booked: int) -> Row:
    """What is booked on the original, or taken off again, beside what is reserved."""
    stands, captured = original["state"] in BOOKED, original["captured"]
    if not booked:
        return {}
    if row["type"] == "refund":
        return {"refunded": original["refunded"] + booked}
    if row["type"] == "increment":
        more = max(row["capturable"], row["amount"]) * (1 if booked > 0 else -1)
        return {"authorised": original["authorised"] + booked, "capturable": original["capturable"] + more}
    if row["type"] == "void":
        return {"voided": original["voided"] + booked, "voided_captured": captured if booked > 0 else 0,
                "captured": captured if not stands else 0 if booked > 0 else original["voided_captured"]}
    changes: Row = {"captured": captured + booked if stands else captured}
    if row["type"] == "capture" and row["final_capture"]:
        changes["released"] = original["capturable"] - captured - booked - original["capture_reserved"] - held if booked > 0 else 0
    return changes


def _check(row: Row) -> None:
    captured, reserved = row["captured"], row["capture_reserved"] + row["increment_reserved"] + row["refund_reserved"]
    held = {
        "captured_within_capturable": captured + row["capture_reserved"] + row["released"] <= row["capturable"]
        and min(row["capture_reserved"], row["released"], row["increment_reserved"]) >= 0,
        "authorised_within_capturable": row["authorised"] <= row["capturable"],
        "undone_within_captured": row["refunded"] + row["refund_reserved"] + row["charged_back"] <= captured and row["refund_reserved"] >= 0,
        "void_stands_alone": row["void_reserved"] == row["voided"] == 0 or (
            min(row["void_reserved"], row["voided"]) >= 0 and reserved + row["refunded"] + row["charged_back"] == 0
            and (row["voided"] == 0 or (captured == 0 and row["void_reserved"] == 0))),
        "approved_within_amount": row["approved_amount"] is None or 0 <= row["approved_amount"] <= row["amount"],
        "declined_has_no_money": row["state"] not in ("SENT", "DECLINED", "NOT_SENT") or row["authorised"] == 0,
        "approved_has_outcome": row["state"] != "APPROVED" or (
            row["outcome"] == "APPROVED" and None not in (row["outcome_at"], row["response_code"], row["approved_amount"])),
    }
    if not all(held.values()):
        broken = next(name for name, holds in held.items() if not holds)
        raise refused(f"transaction: constraint {broken}", broken)


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
