"""What each statement of the switch does to the books; known by the very constants that the switch runs. One it does not know is an error."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from datetime import timedelta
from typing import Any

from switch import alerts, directory
from switch.links import numbering, roster, slots
from switch.notices import subscribed
from switch.payments import (
    cancellation,
    evidence,
    expiry,
    fulfilment,
    history,
    journal,
    recovery,
    reservations,
    resolution,
    reversals,
    undelivered,
    watch,
)
from switch.payments.transaction import Transaction
from switch.security import keystore
from switch.settlement.batches import forwarding
from tests.simulation.books import Row, Session, end_statement, insert_transaction, put_duty, refused, update_transaction

Rows = list[Any]
Statement = Callable[..., Rows]
RUN: dict[str, Statement] = {}
ABSENT: Row = {field.name: None for field in fields(Transaction)}
NEW: Row = {**ABSENT, **{field.name: field.default for field in fields(Transaction) if field.default is not MISSING}}
DUTY_COLUMNS = ("merchant_id", "transaction_id", "acquirer_id", "kind", "cause", "stan", "transmitted_at", "match_key", "next_attempt_at")
NEW_DUTY: Row = {"state": "open", "transmissions": 0, "first_sent_at": None, "last_sent_at": None, "last_code": None, "not_found_at": None,
                 "closed_at": None, "closed_by": None, "leased_until": None, "faults": 0, "parked_reason": None}


def statement(*texts: str) -> Callable[[Statement], Statement]:
    def register(run: Statement) -> Statement:
        for text in texts:
            RUN[text] = run
        return run

    return register


def run(session: Session, text: str, arguments: tuple[Any, ...]) -> Rows:
    """All or nothing. Raises what PostgreSQL would, and Blocked."""
    mark = session.mark()
    try:
        result = RUN[text](session, *arguments)
        end_statement(session)
        return result
    except BaseException:
        session.opened.clear()
        session.back_to(mark)
        raise


# journal


@statement(journal.INTENTS)
def intents(session: Session, asked: Rows) -> Rows:
    rows = []
    for values in sorted(asked, key=lambda values: (values[0], values[7], values[8])):
        row: Row = {**NEW, **dict(zip(journal.INTENT_COLUMNS, values, strict=False)), "intent_at": session.now}
        route, fingerprint, refuse = values[-3:]
        row["possible_duplicate_of"] = suspect = _suspect(session, row)
        claimed = False
        if not (refuse and suspect is not None):
            key = (row["merchant_id"], row["caller"], row["idempotency_key"])
            if session.locked("idempotency", key) is None:
                session.put("idempotency", key, {"route": route, "fingerprint": fingerprint, "transaction_id": row["transaction_id"]})
                insert_transaction(session, row)
                claimed = True
        rows.append((row["transaction_id"], suspect, row["intent_at"] if claimed else None, refuse))
    return rows


def _suspect(session: Session, asked: Row) -> Any:
    """The statement's snapshot is the one before it: rows of the same statement are not seen."""
    standing = [row for row in session.books.table("transaction").values() if row["state"] in ("SENT", "APPROVED")
                and row["idempotency_key"] not in (asked["idempotency_key"], None)]
    for row in standing:
        if asked["same_trace"] is not None and row["same_trace"] == asked["same_trace"] and \
                row["received_at"] > asked["received_at"] - timedelta(days=1):
            return row["transaction_id"]
    for row in standing:
        if row["pan_token"] == asked["pan_token"] and row["amount"] == asked["amount"] > 0 and row["currency"] == asked["currency"] and \
                row["terminal_id"] == asked["terminal_id"] and row["received_at"] > asked["received_at"] - timedelta(minutes=5):
            return row["transaction_id"]
    return None


@statement(journal.OURS)
def ours(session: Session, ids: Rows) -> Rows:
    found = [session.get("transaction", key) for key in ids]
    return [(row["transaction_id"], row["possible_duplicate_of"], row["intent_at"]) for row in found if row]


@statement(journal.KNOWN_KEYS)
def known_keys(session: Session, *key: Any) -> Rows:
    return [(1,)] if session.get("idempotency", key) else []


@statement(journal.OUTCOMES)
def outcomes(session: Session, steps: Rows) -> Rows:
    """A statement gives match keys back before it takes others (judge_changed): what is SENT can only give its own back."""
    moved = []
    for values in sorted(steps, key=lambda values: values[-1] != "SENT"):
        changes: Row = dict(zip(journal.OUTCOME_COLUMNS, values, strict=False))
        row = session.locked("transaction", changes["transaction_id"])
        if row is not None and row["state"] == values[-1] and row["version"] == changes["version"] - 1:
            del changes["merchant_id"]
            update_transaction(session, changes.pop("transaction_id"), **changes)
            moved.append((row["transaction_id"],))
    return moved


@statement(journal.OUTCOMES_OURS)
def outcomes_ours(session: Session, *columns: Rows) -> Rows:
    found = [(session.get("transaction", key), step) for key, *step in zip(*columns, strict=True)]
    return [(row["transaction_id"],) for row, step in found if row and [row["state"], row["version"], row["outcome_at"]] == step]


@statement(journal.DUTIES)
def duties(session: Session, *columns: Rows) -> Rows:
    for values in zip(*columns, strict=True):
        new: Row = {**NEW_DUTY, **dict(zip(DUTY_COLUMNS, values, strict=True)), "created_at": session.now,
                    "owed_at": session.now, "terminal_id": session.get("transaction", values[1])["terminal_id"]}
        old = session.locked("duty", new["transaction_id"])
        if old is not None:
            kept = ("stan", "transmitted_at", "match_key", "transmissions", "first_sent_at", "last_sent_at", "last_code")
            new |= {"created_at": old["created_at"], "terminal_id": old["terminal_id"]}
            if old["kind"] == new["kind"]:
                new |= {name: old[name] for name in kept}
        put_duty(session, new)
    return []


@statement(journal.EVENTS)
def events(session: Session, *columns: Rows) -> Rows:
    for merchant_id, transaction_id, kind, detail in zip(*columns, strict=True):
        event(session, merchant_id, transaction_id, kind, detail)
    return []


@statement(journal.ATTEMPT)
def attempt(session: Session, rows: Rows, before: Any) -> Rows:
    (values,) = rows
    was = session.locked("transaction", before)
    session.claim("transaction_attempt_of", before, values[1], "transaction_attempt_of")
    insert_transaction(session, {**NEW, **dict(zip(journal.INTENT_COLUMNS, values, strict=False)), "intent_at": session.now, "attempt_of": before,
                                 "possible_duplicate_of": was["possible_duplicate_of"]})
    return [(session.now,)]


@statement(journal.MOVE_KEY)
def move_key(session: Session, merchant_id: Any, caller: Any, idempotency_key: str, route: str, fingerprint: bytes, transaction_id: Any) -> Rows:
    """With the trigger idempotency_moves: only from an attempt that ended without effect, to the one after it."""
    key = (merchant_id, caller, idempotency_key)
    held, new = session.locked("idempotency", key), session.get("transaction", transaction_id)
    was = session.get("transaction", held["transaction_id"])
    same = ("merchant_id", "caller", "idempotency_key", "terminal_id", "type", "exchange", "amount", "currency", "pan_token", "original_id")
    if was["state"] not in ("NOT_SENT", "DECLINED") or was["outcome"] != was["state"] or new["attempt_of"] != was["transaction_id"] \
            or new["state"] != "SENT" or was["acquirer_id"] == new["acquirer_id"] or any(was[name] != new[name] for name in same):
        raise refused("one_sale_per_key")
    session.put("idempotency", key, {**held, "transaction_id": transaction_id})
    return []


@statement(journal.CREATED)
def created(session: Session, rows: Rows) -> Rows:
    for values in rows:
        insert_transaction(session, {**NEW, **dict(zip(journal.INTENT_COLUMNS, values, strict=False)), "intent_at": session.now})
    return []


# follow-ups: the triggers reserve and book (books)


@statement(reservations.ORIGINALS)
def originals(session: Session, keys: Rows) -> Rows:
    found = [session.locked("transaction", key) for key in sorted(keys)]
    for row in found:
        if row is not None:
            session.hold("transaction", row["transaction_id"])
    return [row for row in found if row is not None]


@statement(reservations.FOLLOWERS)
def followers_of(session: Session, merchants: Rows, keys: Rows) -> Rows:
    return [(key, *row) for merchant_id, key in zip(merchants, keys, strict=True) for row in followers(session, merchant_id, key)]


@statement(reservations.KNOWN)
def known(session: Session, *columns: Rows) -> Rows:
    found = [(key, session.get("idempotency", key)) for key in zip(*columns, strict=True)]
    return [(*key, row["transaction_id"]) for key, row in found if row]


@statement(reservations.WRITE)
def write(session: Session, asked: Rows, keys: Rows, finals: Rows, codes: Rows) -> Rows:
    written, more = [], {key: (final, code) for key, final, code in zip(keys, finals, codes, strict=True)}
    for values in sorted(asked, key=lambda values: (values[0], values[7], values[8])):
        row: Row = {**NEW, **dict(zip(journal.INTENT_COLUMNS, values, strict=False)), "intent_at": session.now}
        row["final_capture"], row["approval_code"] = more[row["transaction_id"]]
        place, (route, fingerprint, _) = (row["merchant_id"], row["caller"], row["idempotency_key"]), values[-3:]
        if session.locked("idempotency", place) is None:
            session.put("idempotency", place, {"route": route, "fingerprint": fingerprint, "transaction_id": row["transaction_id"]})
            insert_transaction(session, row)
            written.append((row["transaction_id"], row["intent_at"]))
    return written


@statement(reservations.DUTIES)
def reserved_duties(session: Session, *columns: Rows) -> Rows:
    for *values, sent in zip(*columns, strict=True):
        new: Row = {**NEW_DUTY, **dict(zip(DUTY_COLUMNS, values, strict=True)), "created_at": session.now, "owed_at": session.now, "terminal_id": None}
        if sent:
            new |= {"leased_until": new["next_attempt_at"], "transmissions": 1, "first_sent_at": session.now, "last_sent_at": session.now}
        put_duty(session, new)
    return []


# duties


TAKEN = ("transaction_id", "acquirer_id", "kind", "stan", "transmitted_at", "transmissions", "faults", "owed_at", "not_found_at", "leased_until")


def _free(session: Session, row: Row) -> bool:
    return row["state"] == "open" and (row["leased_until"] is None or row["leased_until"] <= session.now)


def _unlocked(session: Session, row: Row) -> bool:
    return session.books.locks.get(("duty", row["transaction_id"])) in (None, session)


def _taken(session: Session, row: Row, lease: timedelta) -> tuple[Any, ...]:
    until = session.now + lease
    row = {**row, "next_attempt_at": until, "leased_until": until, "transmissions": row["transmissions"] + 1,
           "first_sent_at": row["first_sent_at"] or session.now, "last_sent_at": session.now}
    put_duty(session, row)
    return tuple(row[name] for name in TAKEN)


@statement(reversals.TAKE)
def take(session: Session, acquirers: Rows, at_most: Rows, leases: Rows) -> Rows:
    taken = []
    for acquirer_id, room, lease in zip(acquirers, at_most, leases, strict=True):
        due = [row for row in session.live("duty") if row["acquirer_id"] == acquirer_id and row["next_attempt_at"] <= session.now
               and _free(session, row) and _unlocked(session, row)]
        taken += [_taken(session, row, lease) for row in sorted(due, key=lambda row: row["next_attempt_at"])[:room]]
    return taken


@statement(reversals.OPEN_OF_TERMINAL)
def open_of_terminal(session: Session, terminal_id: Any, acquirer_id: Any, limit: int) -> Rows:
    return [(row["transaction_id"],) for row in session.live("duty") if row["terminal_id"] == terminal_id and row["acquirer_id"] == acquirer_id
            and row["kind"] == "reversal"][:limit]


@statement(reversals.TAKE_THESE)
def take_these(session: Session, keys: Rows, lease: timedelta) -> Rows:
    rows = [session.locked("duty", key) for key in keys]
    return [_taken(session, row, lease) for row in rows if row["kind"] == "reversal" and _free(session, row)
            and (row["transmissions"] > 0 or row["next_attempt_at"] <= session.now)]


@statement(reversals.TOO_OLD)
def too_old(session: Session, acquirers: Rows, ages: Rows, limit: int) -> Rows:
    found = []
    for acquirer_id, age in zip(acquirers, ages, strict=True):
        old = [row for row in session.live("duty") if row["acquirer_id"] == acquirer_id and row["kind"] == "reversal"
               and row["owed_at"] <= session.now - age and _free(session, row) and _unlocked(session, row)]
        for row in old[:limit]:
            put_duty(session, {**row, "leased_until": session.now + timedelta(minutes=1)})
            found.append((row["transaction_id"], session.now + timedelta(minutes=1)))
    return found


@statement(reversals.OPEN)
def open_reversals(session: Session, limit: int) -> Rows:
    return [(min(limit, sum(row["kind"] == "reversal" for row in session.live("duty"))),)]


@statement(reversals.PARKED)
def parked(session: Session, limit: int) -> Rows:
    return [(min(limit, sum(row["state"] == "parked" for row in session.rows("duty"))),)]


# what became of duties: transactions first, then duties, as the statements do


def _move(session: Session, key: Any, states: tuple[str, ...], **changes: Any) -> bool:
    row = session.locked("transaction", key)
    if row is None or row["state"] not in states:
        return False
    update_transaction(session, key, version=row["version"] + 1, **changes)
    return True


def _done(session: Session, key: Any, kind: str, closed_by: str, code: Any) -> Rows:
    duty = session.locked("duty", key)
    if duty is None or duty["kind"] != kind or duty["state"] not in ("open", "parked"):
        return []
    put_duty(session, {**duty, "state": "done", "closed_at": session.now, "closed_by": closed_by, "last_code": code, "leased_until": None})
    return [(key,)]


@statement(fulfilment.CLOSE_REVERSALS)
def close_reversals(session: Session, *columns: Rows) -> Rows:
    closed = []
    for key, closed_by, code in zip(*columns, strict=True):
        duty = session.get("duty", key)
        states = ("REVERSING", "PARKED") if closed_by in ("ack", "no_effect") else ("REVERSING",) if duty and duty["not_found_at"] is not None else ()
        if _move(session, key, states, state="REVERSED", captured=0):
            closed += _done(session, key, "reversal", closed_by, code)
            if closed_by == "no_effect":
                put_duty(session, {**session.locked("duty", key), "transmissions": 0, "first_sent_at": None, "last_sent_at": None})
    return closed


@statement(fulfilment.CLOSE_ADVICES)
def close_advices(session: Session, *columns: Rows) -> Rows:
    closed = []
    for key, closed_by, code, state, object_, _, message, sent_at, reason, advice, acquirer_rrn in zip(*columns, strict=True):
        row = session.locked("transaction", key)
        sold = row["amount"] if row is not None and state == "APPROVED" and row["type"] == "offline_sale" else 0
        if row is not None and row["exchange"] == "advice" and _move(
                session, key, ("SENT",), state=state, outcome=state, outcome_at=session.now, answered_at=session.now, response_code=code,
                approved_amount=row["amount"] if state == "APPROVED" else 0, answer_message=message, sent_at=row["sent_at"] or sent_at,
                reason=reason, advice=advice, acquirer_rrn=acquirer_rrn, authorised=sold, capturable=sold, captured=sold):
            if closed_by == "declined":
                raise_(session, None, "capture_declined" if row["type"] == "capture" else "advice_declined", object_)
            closed += _done(session, key, "advice", closed_by, code)
    return closed


def _mine(session: Session, key: Any, kind: str, leased_until: Any) -> Row | None:
    row = session.locked("duty", key)
    return row if row is not None and row["state"] == "open" and row["kind"] == kind and row["leased_until"] == leased_until else None


@statement(fulfilment.AGAIN)
def again(session: Session, *columns: Rows) -> Rows:
    moved = []
    for key, kind, leased_until, code, at, not_found_at, sent, fault in zip(*columns, strict=True):
        if row := _mine(session, key, kind, leased_until):
            put_duty(session, {
                **row, "next_attempt_at": at, "last_code": code or row["last_code"], "leased_until": None,
                "not_found_at": row["not_found_at"] or not_found_at, "faults": row["faults"] + fault,
                "transmissions": row["transmissions"] if sent else max(row["transmissions"] - 1, 0),
                **({} if sent or row["transmissions"] > 1 else {"first_sent_at": None, "last_sent_at": None})})
            moved.append((key,))
    return moved


@statement(fulfilment.PARK_REVERSALS)
def park_reversals(session: Session, *columns: Rows) -> Rows:
    return _park(session, "reversal", columns)


@statement(fulfilment.PARK_ADVICES)
def park_advices(session: Session, *columns: Rows) -> Rows:
    return _park(session, "advice", columns)


def _park(session: Session, kind: str, columns: tuple[Rows, ...]) -> Rows:
    moved = []
    for key, leased_until, reason, code, object_, _ in zip(*columns, strict=True):
        row = _mine(session, key, kind, leased_until)
        if row is None or (kind == "reversal" and not _move(session, key, ("REVERSING",), state="PARKED")):
            continue
        raise_(session, None, f"{kind}_parked", object_)
        unbuildable = reason == "unbuildable"
        put_duty(session, {**row, "state": "parked", "parked_reason": reason, "last_code": code or row["last_code"], "leased_until": None,
                           "transmissions": max(row["transmissions"] - unbuildable, 0), "faults": row["faults"] + unbuildable})
        moved.append((key,))
    return moved


# a person


@statement(resolution.LOCK_ORIGINAL)
def lock_original(session: Session, key: Any) -> Rows:
    row = session.get("transaction", key)
    if row is not None and row["original_id"] is not None:
        session.locked("transaction", row["original_id"])
        session.hold("transaction", row["original_id"])
    return []


@statement(resolution.LOCK)
def lock(session: Session, key: Any) -> Rows:
    row = session.locked("transaction", key)
    session.hold("transaction", key)
    names = ("merchant_id", "state", "version", "exchange", "amount", "approved_amount")
    whole = row is not None and (row["original_id"] is not None or row["type"] == "refund")
    return [{**{name: row[name] for name in names}, "whole": whole}] if row else []


@statement(resolution.DUTY)
def lock_duty(session: Session, key: Any) -> Rows:
    row = session.locked("duty", key)
    return [{name: row[name] for name in ("kind", "state", "cause")}] if row else []


@statement(resolution.ONE)
def one(session: Session, key: Any) -> Rows:
    return [{"transaction_id": key}]


@statement(resolution.REOPEN)
def reopen(session: Session, key: Any) -> Rows:
    _move(session, key, ("PARKED",), state="REVERSING")
    return []


@statement(resolution.REOPEN_DUTY)
def reopen_duty(session: Session, key: Any) -> Rows:
    row = session.locked("duty", key)
    if row["state"] == "parked":
        put_duty(session, {**row, "state": "open", "next_attempt_at": session.now, "owed_at": session.now, "leased_until": None, "faults": 0,
                           "parked_reason": None, "not_found_at": None})
    return []


@statement(resolution.NOW)
def now(session: Session, key: Any) -> Rows:
    row = session.locked("duty", key)
    if row["state"] == "open" and row["transmissions"] > 0:
        put_duty(session, {**row, "next_attempt_at": min(row["next_attempt_at"], session.now)})
    return []


@statement(resolution.REVERSED)
def resolved_reversed(session: Session, key: Any) -> Rows:
    row = session.locked("transaction", key)
    update_transaction(session, key, state="REVERSED", version=row["version"] + 1, captured=0)
    return []


@statement(resolution.CONFIRMED)
def resolved_confirmed(session: Session, key: Any, amount: int) -> Rows:
    row = session.locked("transaction", key)
    changes: Row = {"state": "CONFIRMED", "version": row["version"] + 1, "approved_amount": amount}
    if row["original_id"] is None:
        changes |= {"authorised": amount, "capturable": max(row["capturable"], amount)}
        if row["capture_method"] == "automatic":
            own = [each["amount"] for each in session.followers(key) if each["idempotency_key"] is None and each["state"] in ("SENT", "APPROVED", "CONFIRMED")]
            changes["captured"] = amount if row["mti"].startswith("02") else sum(own)
    update_transaction(session, key, **changes)
    return []


@statement(resolution.CLOSE_DUTY)
def close_duty(session: Session, key: Any) -> Rows:
    row = session.locked("duty", key)
    put_duty(session, {**row, "state": "done", "closed_at": session.now, "closed_by": "person", "leased_until": None})
    return []


# recovery and leases


@statement(recovery.CLAIM)
def claim(session: Session, host: str, pid: int, lease: timedelta) -> Rows:
    epoch = session.books.next()
    session.put("worker", epoch, {"epoch": epoch, "lease_until": session.now + lease, "ended_at": None})
    return [(epoch,)]


@statement(recovery.RENEW)
def renew(session: Session, epoch: int, lease: timedelta) -> Rows:
    row = session.locked("worker", epoch)
    if row is None or row["ended_at"] is not None:
        return []
    session.put("worker", epoch, {**row, "lease_until": session.now + lease})
    return [(1,)]


@statement(recovery.KNOWS)
def knows(session: Session, epoch: int, version: int) -> Rows:
    """Nothing that the books of a simulation look at."""
    return []


@statement(recovery.CLOCK)
def time_of_day(session: Session) -> Rows:
    return [(session.now,)]


@statement(recovery.END)
def end(session: Session, epoch: int) -> Rows:
    row = session.locked("worker", epoch)
    if row is not None and row["ended_at"] is None:
        session.put("worker", epoch, {**row, "lease_until": session.now, "ended_at": session.now})
    return []


@statement(recovery.END_DEAD)
def end_dead(session: Session, epoch: int) -> Rows:
    row = session.locked("worker", epoch)
    if row is not None and row["ended_at"] is None:
        session.put("worker", epoch, {**row, "ended_at": session.now})
    return []


@statement(recovery.END_ALL)
def end_all(session: Session) -> Rows:
    for row in list(session.rows("worker")):
        end(session, row["epoch"])
    return []


@statement(recovery.END_EXPIRED)
def end_expired(session: Session, epoch: int) -> Rows:
    for row in list(session.rows("worker")):
        if row["ended_at"] is None and row["lease_until"] < session.now and row["epoch"] != epoch:
            end_dead(session, row["epoch"])
    return []


@statement(recovery.ABANDONED)
def abandoned(session: Session, epoch: int, late: timedelta, limit: int) -> Rows:
    now = session.now
    alive = {row["epoch"] for row in session.rows("worker") if row["ended_at"] is None}
    found = [row["transaction_id"] for row in session.live("transaction") if row["exchange"] == "request" and
             (row["respond_by"] + late < now or (row["worker_epoch"] != epoch and row["worker_epoch"] not in alive))]
    return [(key,) for key in sorted(found)[:limit]]


@statement(recovery.IN_DOUBT)
def in_doubt(session: Session) -> Rows:
    return [(len(session.live("transaction")),)]


# history


@statement(history.TRANSACTION)
def transaction(session: Session, key: Any) -> Rows:
    row = session.get("transaction", key)
    return [row] if row else []


@statement(history.TRANSACTIONS)
def transactions(session: Session, keys: Rows) -> Rows:
    return [row for key in keys if (row := session.get("transaction", key))]


@statement(history.KEY)
def key(session: Session, *key: Any) -> Rows:
    row = session.get("idempotency", key)
    return [(row["route"], row["fingerprint"], row["transaction_id"])] if row else []


@statement(history.DUTY)
def duty(session: Session, key: Any) -> Rows:
    row = session.get("duty", key)
    return [tuple(row[name] for name in history.Duty._fields)] if row else []


@statement(history.FOLLOWERS)
def followers(session: Session, merchant_id: Any, original_id: Any) -> Rows:
    found = [row for row in session.followers(original_id) if row["merchant_id"] == merchant_id]
    return [(row["transaction_id"], row["type"], row["state"], row["amount"], row["idempotency_key"] is None, row["business_date"],
             row["received_at"]) for row in sorted(found, key=lambda row: row["transaction_id"])]


@statement(journal.LOCK_FIRST)
def lock_first(session: Session, keys: Rows) -> Rows:
    for key in sorted(keys):
        session.locked("transaction", key)
        session.hold("transaction", key)
    return [(1,) for _ in keys]


@statement(expiry.RELEASE)
def release(session: Session, limit: int) -> Rows:
    due = [row for row in session.rows("transaction") if row["release_at"] is not None and row["release_at"] <= session.now]
    for row in due[:limit]:
        stands = row["state"] in ("APPROVED", "CONFIRMED") and row["voided"] == 0
        released = row["capturable"] - row["captured"] - row["capture_reserved"] if stands else row["released"]
        update_transaction(session, row["transaction_id"], version=row["version"] + 1, release_at=None, released=released)
    return [(len(due[:limit]),)]


# evidence, alerts, cancellation, numbers


@statement(evidence.RECORD)
def record(session: Session, *values: Any) -> Rows:
    session.put("unmatched_answer", session.books.next(), values)
    return []


@statement(evidence.FIND)
def find(session: Session, acquirer_id: Any, rrn: str) -> Rows:
    found = [row for row in session.rows("transaction") if row["acquirer_id"] == acquirer_id and row["rrn"] == rrn]
    return [(row["transaction_id"],) for row in sorted(found, key=lambda row: row["business_date"], reverse=True)[:4]]


@statement(evidence.EVENT, resolution.EVENT)
def event(session: Session, merchant_id: Any, transaction_id: Any, kind: str, detail: str) -> Rows:
    session.put("transaction_event", session.books.next(), (transaction_id, kind, detail))
    return []


@statement(evidence.EXPEDITE)
def expedite(session: Session, key: Any, approved: bool) -> Rows:
    held = session.locked("transaction", key)
    row = session.locked("duty", key) if held is not None and held["state"] == "REVERSING" else None
    if row is None or row["state"] != "open":
        return []
    put_duty(session, {**row, "next_attempt_at": min(row["next_attempt_at"], session.now), "not_found_at": None if approved else row["not_found_at"]})
    return [(True,)]


@statement(alerts.RAISE)
def raise_(session: Session, alert_id: Any, kind: str, object_: str) -> Rows:
    old = session.locked("alert", (kind, object_))
    session.put("alert", (kind, object_), {"count": old["count"] + 1 if old else 1})
    return []


@statement(alerts.RAISE_ONCE)
def raise_once(session: Session, alert_id: Any, kind: str, object_: str) -> Rows:
    if session.locked("alert", (kind, object_)) is not None:
        return []
    return raise_(session, alert_id, kind, object_) or [(True,)]


@statement(watch.OLD_REVERSALS)
def old_reversals(session: Session, acquirers: Rows, age: timedelta) -> Rows:
    old = {row["acquirer_id"] for row in session.live("duty") if row["kind"] == "reversal" and row["created_at"] < session.now - age}
    return [(each,) for each in acquirers if each in old]


@statement(watch.OLD_DOUBTS)
def old_doubts(session: Session, acquirers: Rows, age: timedelta) -> Rows:
    old = {row["acquirer_id"] for row in session.live("transaction") if row["exchange"] == "request" and row["respond_by"] < session.now - age}
    return [(each,) for each in acquirers if each in old]


@statement(watch.OLD_CORRECTIONS)
def old_corrections(_: Session, __: Rows, ___: timedelta) -> Rows:
    return []  # no day is cut over here


@statement(watch.LOST_WORKERS)
def lost_workers(session: Session, age: timedelta) -> Rows:
    return [(row["epoch"],) for row in session.rows("worker") if row["ended_at"] is None
            and session.now - timedelta(days=1) < row["lease_until"] < session.now - age]


@statement(undelivered.MARK)
def mark(session: Session, *columns: Rows) -> Rows:
    for merchant_id, transaction_id, lost_at, heard_at in zip(*columns, strict=True):
        old = session.locked("undelivered", transaction_id) or {"lost_at": None, "heard_at": None, "settled_at": None}
        if old["heard_at"] is None:
            session.put("undelivered", transaction_id, {**old, "merchant_id": merchant_id, "transaction_id": transaction_id,
                                                        "lost_at": old["lost_at"] or lost_at, "heard_at": heard_at})
    return []


@statement(undelivered.EVENT)
def not_delivered(session: Session, *columns: Rows) -> Rows:
    for _, transaction_id, _ in zip(*columns, strict=True):
        event(session, None, transaction_id, "answer_not_delivered", "{}")
    return []


@statement(undelivered.DUE)
def unheard(session: Session, after: timedelta, limit: int) -> Rows:
    due = [row for row in session.rows("undelivered") if row["lost_at"] is not None and row["lost_at"] < session.now - after
           and row["heard_at"] is None and row["settled_at"] is None]
    sales = [session.get("transaction", row["transaction_id"]) for row in due[:limit]]
    return [(sale["merchant_id"], sale["transaction_id"], "alert", sale["state"] == "APPROVED", sale["version"]) for sale in sales]


@statement(undelivered.SETTLE)
def settle(session: Session, merchant_id: Any, key: Any) -> Rows:
    session.put("undelivered", key, {**session.locked("undelivered", key), "settled_at": session.now})
    return []


@statement(subscribed.ANY)
def anybody_told(session: Session) -> Rows:
    """The shop of the simulation has no webhooks, so neither the sweep over what was decided nor the sender runs."""
    return [(False,)]


@statement(cancellation.BURN)
def burn(session: Session, *key: Any) -> Rows:
    if session.locked("idempotency", key) is not None:
        return []
    session.put("idempotency", key, {"route": "burnt", "fingerprint": bytes(32), "transaction_id": None})
    return [(1,)]


@statement(numbering.LEASE)
def lease(session: Session, acquirer_id: Any, name: str, count: int) -> Rows:
    following = (session.locked("number_block", (acquirer_id, name)) or 1) + count
    session.put("number_block", (acquirer_id, name), following)
    return [(following - count,)]


@statement(numbering.OPEN_STANS)
def open_stans(session: Session, acquirer_id: Any, stans: Rows) -> Rows:
    taken = {row["stan"] for row in session.rows("transaction") if row["acquirer_id"] == acquirer_id and row["state"] in ("SENT", "REVERSING")}
    taken |= {row["stan"] for row in session.rows("duty") if row["acquirer_id"] == acquirer_id and row["state"] == "open"}
    return [(stan,) for stan in stans if stan in taken]


# directory: read once; the shop of the simulation does not change


@statement(directory.VERSION)
def version(session: Session) -> Rows:
    return [(1,)]


@statement(directory.CHANGES)
def changes(session: Session, *_: Any) -> Rows:
    return []


def _read(name: str) -> Statement:
    return lambda session, keys: list(session.rows(f"directory_{name}"))


for _name, (_text, _, _) in directory.KINDS.items():
    RUN[_text] = _read(_name)


# lines that workers share, and what each worker's lines show


def _acquirer(session: Session, acquirer_id: Any) -> Row:
    return next(row for row in session.rows("directory_acquirer") if row["acquirer_id"] == acquirer_id)


def _runs(session: Session, epoch: int) -> bool:
    return bool(session.get("worker", epoch)["ended_at"] is None)


@statement(slots.TAKE)
def take_slot(session: Session, acquirer_id: Any, limit: int, epoch: int, lease: timedelta, address: str) -> Rows:
    for number in range(1, limit + 1):
        held = session.get("link_slot", (acquirer_id, number))
        if held is None or held["lease_until"] <= session.now or not _runs(session, held["epoch"]):
            held = session.locked("link_slot", (acquirer_id, number))
            if not _runs(session, epoch) or (held is not None and held["lease_until"] > session.now and _runs(session, held["epoch"])):
                return []
            session.put("link_slot", (acquirer_id, number), {"acquirer_id": acquirer_id, "slot": number, "epoch": epoch,
                                                             "lease_until": session.now + lease, "address": address})
            return [(number,)]
    return []


@statement(slots.RENEW)
def renew_slots(session: Session, epoch: int, lease: timedelta) -> Rows:
    mine = [row for row in session.rows("link_slot") if row["epoch"] == epoch and row["lease_until"] > session.now and _runs(session, epoch)
            and row["slot"] <= _acquirer(session, row["acquirer_id"])["max_links"]]
    for row in mine:
        session.put("link_slot", (row["acquirer_id"], row["slot"]), {**row, "lease_until": session.now + lease})
    return [(row["acquirer_id"],) for row in mine]


@statement(slots.HOLDERS)
def holders(session: Session, acquirers: Rows, epoch: int) -> Rows:
    found: dict[Any, list[str]] = {}
    for row in sorted(session.rows("link_slot"), key=lambda row: row["slot"]):
        if row["acquirer_id"] in acquirers and row["epoch"] != epoch and row["lease_until"] > session.now and _runs(session, row["epoch"]):
            found.setdefault(row["acquirer_id"], []).append(row["address"])
    return list(found.items())


@statement(slots.RELEASE)
def release_slots(session: Session, epoch: int, acquirer_id: Any) -> Rows:
    for row in list(session.rows("link_slot")):
        if row["epoch"] == epoch and acquirer_id in (None, row["acquirer_id"]):
            session.put("link_slot", (row["acquirer_id"], row["slot"]), {**row, "lease_until": session.now})
    return []


@statement(roster.WRITE)
def write_lines(session: Session, epoch: int, *columns: Rows) -> Rows:
    for acquirer_id, signed_on, shown in zip(*columns, strict=True):
        session.put("worker_line", (epoch, acquirer_id), {"epoch": epoch, "acquirer_id": acquirer_id, "signed_on": signed_on, "shown": shown})
    return []


@statement(roster.SHARES)
def shares(session: Session, epoch: int) -> Rows:
    live = [row for row in session.rows("worker_line") if row["signed_on"] and (worker := session.get("worker", row["epoch"]))["ended_at"] is None
            and worker["lease_until"] > session.now]
    signed_on: dict[Any, list[int]] = {}
    for row in live:
        signed_on.setdefault(row["acquirer_id"], []).append(row["epoch"])
    return [(acquirer_id, len(epochs), sum(each < epoch for each in epochs)) for acquirer_id, epochs in signed_on.items() if epoch in epochs]


@statement(keystore.KEYS)
def crypto_keys(session: Session, after: Any, limit: Any) -> Rows:
    """The hosts of a simulation have no keys."""
    return []


# settlement


@statement(forwarding.ANY)
def a_batch_waits(session: Session) -> Rows:
    """No terminal of a simulation closes a batch."""
    return [(False,)]
