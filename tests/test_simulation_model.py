"""The books of the simulation are PostgreSQL's: the switch's own functions and statements run on both, and results and rows are compared."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from migrations.versions.r0003_follow_ups import STEPS
from switch import database
from switch.links import numbering, roster, slots
from switch.payments import cancellation, duties, evidence, history, recovery, resolution, reversals
from switch.payments.fulfilment import Ended, run_ended
from switch.payments.journal import Outcome, run_follow_up_outcomes, run_intents, run_outcomes
from switch.payments.reservations import FollowUp
from switch.payments.reservations import run as run_follow_ups
from switch.payments.transaction import STATUS, Event, Transaction
from tests import rows
from tests.simulation import statements
from tests.simulation.books import Books, Session

PHASES = [Phase.generate]
NEAR = timedelta(seconds=20)  # both clocks are the machine's, and a run is short
STATES = tuple(STATUS)
COLUMNS = tuple(field.name for field in fields(Transaction) if field.name != "transaction_id")
DUTY_COLUMNS = ("kind", "state", "cause", "stan", "transmitted_at", "match_key", "next_attempt_at", "transmissions", "first_sent_at",
                "last_sent_at", "last_code", "not_found_at", "closed_at", "closed_by", "owed_at", "leased_until", "faults", "parked_reason", "terminal_id")
HOUR = timedelta(hours=1)
picked, rarely = st.integers(0, 1 << 16), st.sampled_from((*[False] * 9, True))
NEXT = {state: [to for step in STEPS for at, to in [step.split(">")] if at == state] for state in STATES}


class Refused(str):
    """The kind of a database error."""


class Direct:
    """A connection to the model, without a line in between."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.open: Session | None = None

    async def fetch(self, text: str, *arguments: Any) -> list[Any]:
        session = self.open or Session(self.books)
        found = statements.run(session, text, arguments)
        if self.open is None:
            session.commit()
        return found

    async def fetchval(self, text: str, *arguments: Any) -> Any:
        found = await self.fetch(text, *arguments)
        return found[0][0] if found else None

    execute = fetch

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        if self.open is not None:  # a savepoint, whose failure fails the whole
            yield
            return
        self.open = session = Session(self.books)
        try:
            yield
        except BaseException:
            self.open = None
            session.rollback()
            raise
        self.open = None
        session.commit()


def same(real: Any, model: Any) -> bool:
    if isinstance(real, datetime) and isinstance(model, datetime):
        return abs(real - model) < NEAR
    if isinstance(real, asyncpg.Record | list | tuple):
        model = list(model.values()) if isinstance(model, dict) else model
        return len(real) == len(model) and all(map(same, real, model))
    return bool(real == model)


class Machine(RuleBasedStateMachine):
    """Each example has an acquirer, a terminal and a merchant of its own, so that nothing is ever deleted."""

    loop: asyncio.AbstractEventLoop
    real: asyncpg.Connection

    def __init__(self) -> None:
        super().__init__()
        self.books = Books(lambda: datetime.now(UTC))
        self.model = Direct(self.books)
        self.merchant, self.acquirer, self.terminal = uuid4(), uuid4(), uuid4()
        self.loop.run_until_complete(self.real.execute(
            "INSERT INTO acquirer (acquirer_id, name, dialect, message_mode, max_links) VALUES ($1, $2, 'iso87_ascii', 'dual', 2)", self.acquirer,
            f"a{self.acquirer.hex[:20]}"))
        self.books.table("directory_acquirer")[1] = {"acquirer_id": self.acquirer, "max_links": 2}
        self.count, self.first = itertools.count(1), uuid4().int >> 64 << 64  # ids in the order of their making, in every run of an example
        self.known: list[Transaction] = []  # as they were claimed
        self.taken: list[tuple[Any, Any]] = []  # of the real one, of the model
        self.epochs: list[tuple[int, int]] = []

    def both(self, act: Callable[..., Awaitable[Any]], *arguments: Any) -> tuple[Any, Any]:
        """Runs it on both; the results must be the same, or the errors. `arguments` that are tuples of two are one for each."""
        results, texts = [], []
        for side, connection in enumerate((self.real, self.model)):
            given = [argument[side] if isinstance(argument, Pair) else deepcopy(argument) for argument in arguments]
            try:
                results.append(self.loop.run_until_complete(act(connection, *given)))
            except asyncpg.PostgresError as error:
                results.append(Refused(type(error).__name__))
                texts.append(str(error))
        assert isinstance(results[0], Refused) == isinstance(results[1], Refused), (results, texts)
        self.compare()
        return results[0], results[1]

    def agreed(self, act: Callable[..., Awaitable[Any]], *arguments: Any) -> tuple[Any, Any]:
        real, model = self.both(act, *arguments)
        several = isinstance(real, Refused) and isinstance(arguments[0], list) and len(arguments[0]) > 1
        assert several or same(real, model), (real, model)  # which of several faults is met first is nobody's promise: the rows go one by one then
        return real, model

    def statement(self, text: str, *arguments: Any) -> tuple[Any, Any]:
        return self.agreed(lambda connection, *given: connection.fetch(text, *given), *arguments)

    def compare(self) -> None:
        ids = [row.transaction_id for row in self.known]
        self._table("transaction", COLUMNS, ids)
        self._table("duty", DUTY_COLUMNS, ids)

    def _table(self, name: str, columns: tuple[str, ...], ids: list[UUID]) -> None:
        found = self.loop.run_until_complete(self.real.fetch(
            f"SELECT transaction_id, {', '.join(columns)} FROM {name} WHERE transaction_id = ANY($1::uuid[])", ids))
        model = self.books.table(name)
        real, modelled = {row["transaction_id"] for row in found}, {key for key, row in model.items() if row is not None}
        assert real == modelled, (name, [row for row in self.known if row.transaction_id in real ^ modelled])
        for row in found:
            differing = [(column, row[column], model[row["transaction_id"]][column]) for column in columns
                         if not same(row[column], model[row["transaction_id"]][column])
                         # of several that look alike either names one, whichever it finds
                         and not (column == "possible_duplicate_of" and row[column] in ids and model[row["transaction_id"]][column] in ids)]
            assert not differing, (name, differing)

    def row(self, draw: int) -> dict[str, Any]:
        return list(self.books.table("transaction").values())[draw % len(self.books.table("transaction"))]

    def has_rows(self) -> bool:
        return bool(self.books.table("transaction"))

    def new(self, **changes: Any) -> Transaction:
        number = next(self.count)
        given = {"transaction_id": UUID(int=self.first + number), "merchant_id": self.merchant, "acquirer_id": self.acquirer,
                 "terminal_id": self.terminal, "caller": self.terminal, "rrn": f"6332{number:08d}", "stan": f"{number:06d}", "idempotency_key": f"key-of-{number:016d}"}
        return rows.transaction(**given | changes)

    @initialize()
    def shop(self) -> None:
        """A sale that is sent, one whose capture is owed, two whose reversals are, and a hold."""
        start = [*(self.new() for _ in range(4)), self.new(capture_method="manual")]
        capture = self.new(type="capture", exchange="advice", original_id=start[1].transaction_id, idempotency_key=None)
        self.known += [*start, capture]
        self.agreed(run_intents, [rows.intent(row) for row in start], False)
        now = datetime.now(UTC)
        sold = replace(start[1], state="APPROVED", outcome="APPROVED", version=2, outcome_at=now, response_code="00", approved_amount=1000,
                       authorised=1000, capturable=1000, captured=1000)
        held = replace(sold, **{name: getattr(start[4], name) for name in ("transaction_id", "capture_method")}, captured=0)
        undone = [replace(row, state="REVERSING", version=2, outcome_at=now) for row in start[2:4]]
        due = [now - HOUR + timedelta(seconds=next(self.count)) for _ in range(3)]
        self.agreed(run_outcomes, [
            Outcome(sold, "SENT", None, rows.intent(capture), rows.duty(capture, "advice", next_attempt_at=due[0])),
            *[Outcome(row, "SENT", rows.duty(row, next_attempt_at=at)) for row, at in zip(undone, due[1:], strict=True)], Outcome(held, "SENT")], False)

    @rule(data=st.data(), size=st.integers(1, 3), doubtful=st.booleans())
    def intents(self, data: st.DataObject, size: int, doubtful: bool) -> None:
        batch = []
        for _ in range(size):
            claimed = [row for row in self.known if row.idempotency_key is not None]
            old = claimed[data.draw(picked) % len(claimed)]
            if data.draw(rarely) and old.transaction_id not in {each.transaction.transaction_id for each in batch}:
                batch.append(rows.intent(old))
                continue
            row = self.new(
                idempotency_key=f"key-{data.draw(st.integers(0, 5)):016d}", capture_method=data.draw(st.sampled_from(("automatic", "manual"))), amount=data.draw(st.sampled_from((1000, 1000, 2500))),
                pan_token=bytes(31) + bytes([data.draw(st.integers(0, 1))]), **({"rrn": old.rrn} if data.draw(rarely) else {}),
                match_key=old.match_key if data.draw(rarely) else f"2|{uuid4().hex}",
                same_trace=(self.terminal.int >> 70) + data.draw(st.integers(0, 1)) if data.draw(rarely) else None)
            batch.append(rows.intent(row, refuse=data.draw(rarely)))
        self.known += [each.transaction for each in batch if each.transaction not in self.known]
        self.agreed(run_intents, batch, doubtful)

    @precondition(has_rows)
    @rule(draws=st.lists(picked, min_size=1, max_size=3), doubtful=st.booleans(), data=st.data())
    def outcomes(self, draws: list[int], doubtful: bool, data: st.DataObject) -> None:
        chosen = {row["transaction_id"]: row for row in map(self.row, draws)}
        for run, followers in ((run_outcomes, False), (run_follow_up_outcomes, True)):  # lanes of their own
            mine = [row for row in chosen.values() if (row["original_id"] is not None) == followers]
            batch = [self._outcome(row, data) for row in sorted(mine, key=lambda row: row["transaction_id"])]
            if batch:
                self.agreed(run, batch, doubtful)

    def _outcome(self, row: dict[str, Any], data: st.DataObject) -> Outcome:
        transaction = Transaction(**row)
        from_state = transaction.state if not data.draw(rarely) else data.draw(st.sampled_from(STATES))
        allowed = NEXT[transaction.state] or list(STATES)
        choice, free = data.draw(picked), data.draw(rarely)
        transaction.state = STATES[choice % len(STATES)] if free else allowed[choice % len(allowed)]
        transaction.version += 1 + data.draw(rarely)
        transaction.outcome_at = transaction.outcome_at or datetime.now(UTC)
        if transaction.state in ("APPROVED", "DECLINED", "NOT_SENT") and transaction.outcome is None:
            transaction.outcome = transaction.state
        if transaction.state == "APPROVED":
            transaction.response_code, transaction.approved_amount = "00", transaction.amount
            transaction.authorised = transaction.capturable = transaction.captured = transaction.amount + data.draw(rarely)
        elif data.draw(st.booleans()):
            transaction.captured = 0
        duty, created, created_duty = None, None, None
        if (transaction.state == "REVERSING" and not data.draw(rarely)) or data.draw(rarely):
            duty = rows.duty(transaction, next_attempt_at=self._instant(data))
        if transaction.state == "APPROVED" and data.draw(st.booleans()):
            capture = self.new(type="capture", exchange="advice", original_id=transaction.transaction_id, idempotency_key=None)
            self.known.append(capture)
            created, created_duty = rows.intent(capture), rows.duty(capture, "advice", next_attempt_at=self._instant(data))
        if transaction.state in ("DECLINED", "NOT_SENT") and transaction.original_id is None and transaction.exchange == "request" and data.draw(st.booleans()):
            created = rows.intent(self._next_attempt(transaction, data))
            self.known.append(created.transaction)
        return Outcome(transaction, from_state, duty, created, created_duty)

    def _next_attempt(self, row: Transaction, data: st.DataObject) -> Transaction:
        """At another acquirer, under the same key; or one that the books must refuse."""
        given = {name: getattr(row, name) for name in ("idempotency_key", "type", "amount", "currency", "pan_token")}
        given["acquirer_id"] = UUID(int=self.acquirer.int ^ 1) if row.acquirer_id == self.acquirer else self.acquirer
        if data.draw(rarely):
            given |= data.draw(st.sampled_from(({"amount": row.amount + 1}, {"acquirer_id": row.acquirer_id}, {"pan_token": bytes(32)})))
        return self.new(attempt_of=row.transaction_id, **given)
    @precondition(has_rows)
    @rule(draw=picked, size=st.integers(1, 3), doubtful=st.booleans(), data=st.data())
    def follow_ups(self, draw: int, size: int, doubtful: bool, data: st.DataObject) -> None:
        """Of one original, or of an id that is none; some of a key that is taken already."""
        originals = [row for row in self.books.table("transaction").values() if row["original_id"] is None] if not data.draw(rarely) else [self.row(draw)]
        standing = [row for row in originals if row["state"] in ("APPROVED", "CONFIRMED")]
        of = (standing or originals)[draw % len(standing or originals)]
        batch = []
        for _ in range(size):
            type_ = data.draw(st.sampled_from(("capture", "capture", "tip", "increment", "refund", "refund", "void")))
            row = self.new(type=type_, exchange="advice" if type_ in ("capture", "tip") else "request", original_id=of["transaction_id"], capture_method=None,
                           pan_token=of["pan_token"], amount=data.draw(st.sampled_from((300, 500, 1000, 1500))), business_date=of["business_date"],
                           **({"idempotency_key": f"key-{data.draw(st.integers(0, 5)):016d}"} if data.draw(rarely) else {}))
            duty = rows.duty(row, "advice", next_attempt_at=self._instant(data)) if row.exchange == "advice" else None
            batch.append(FollowUp(row, f"{type_}s", bytes(32), of["business_date"], data.draw(st.booleans()), duty=duty, sent=data.draw(st.booleans())))
        self.known += [each.transaction for each in batch]
        self.agreed(run_follow_ups, batch, doubtful)

    @precondition(lambda self: self.epochs)
    @rule(verb=st.sampled_from(("take", "take", "renew", "holders", "release", "write", "write", "shares")), draw=picked, limit=st.integers(1, 2),
          lease=st.sampled_from((HOUR, -HOUR)), up=st.booleans())
    def lines(self, verb: str, draw: int, limit: int, lease: timedelta, up: bool) -> None:
        epoch = Pair(self.epochs[draw % len(self.epochs)])
        address = f"here:/run/{draw % len(self.epochs)}.sock"
        asked: dict[str, tuple[str, tuple[Any, ...]]] = {
            "take": (slots.TAKE, (self.acquirer, limit, epoch, lease, address)), "renew": (slots.RENEW, (epoch, lease)),
            "holders": (slots.HOLDERS, ([self.acquirer], epoch)), "release": (slots.RELEASE, (epoch, self.acquirer if up else None)),
            "write": (roster.WRITE, (epoch, [self.acquirer], [up], ['{"state": "up"}'])), "shares": (roster.SHARES, (epoch,))}
        self.statement(asked[verb][0], *asked[verb][1])

    def _instant(self, data: st.DataObject) -> datetime:
        """Due or not by many hours, and no two alike: never so near to now that both sides could see it differently."""
        return datetime.now(UTC) + (24 * HOUR if data.draw(rarely) else -24 * HOUR) + timedelta(seconds=60 * next(self.count))

    @rule(room=st.integers(1, 3), lease=st.sampled_from((HOUR, -HOUR)), kind=st.sampled_from(("take", "these", "old")))
    def take(self, room: int, lease: timedelta, kind: str) -> None:
        if kind == "take":
            due = sorted(row["next_attempt_at"] for row in self.books.table("duty").values() if row["state"] == "open")
            while room < len(due) and due[room - 1] == due[room]:  # which of two that are due at one instant comes first nobody says
                room += 1
            both = self.both(lambda c: c.fetch(reversals.TAKE, [self.acquirer], [room], [lease]))
        elif kind == "these":
            both = self.both(lambda c: c.fetch(reversals.TAKE_THESE, list(self.books.table("duty")), lease))
        else:
            both = self.both(lambda c: c.fetch(reversals.TOO_OLD, [self.acquirer], [-HOUR], 500))
        real, model = ({row[0]: row for row in each} for each in both)
        assert real.keys() == model.keys()
        for key, row in sorted(real.items()):
            assert same(row, model[key])
            self.taken.append((Lease(key, row[-1]), Lease(key, model[key][-1])))

    @precondition(lambda self: self.taken)
    @rule(draws=st.lists(picked, min_size=1, max_size=3), doubtful=st.booleans(), data=st.data())
    def ended(self, draws: list[int], doubtful: bool, data: st.DataObject) -> None:
        chosen = {self.taken[draw % len(self.taken)][0].key: self.taken[draw % len(self.taken)] for draw in draws}
        batches: tuple[list[Ended], list[Ended]] = ([], [])
        for key, leases in sorted(chosen.items()):
            kind = self.books.table("duty")[key]["kind"] if not data.draw(rarely) else data.draw(st.sampled_from(("reversal", "advice")))
            code = data.draw(st.sampled_from(("00", "96", None)))
            decision = data.draw(st.sampled_from((
                duties.Close("ack", Event.ACKNOWLEDGED), duties.Close("not_found", Event.NOT_FOUND) if kind == "reversal" else
                duties.Close("declined", Event.DECLINE), duties.Park("max_age"), duties.Park("unbuildable"), duties.Again(self._instant(data)),
                duties.Again(self._instant(data), not_found_at=datetime.now(UTC)), duties.Again(self._instant(data), sent=False, fault=True))))
            if isinstance(decision, duties.Close):
                code = code or "00"
            for side, lease in enumerate(leases):
                batches[side].append(Ended(key, self.books.table("transaction")[key]["original_id"], kind, lease.until, decision, code))
        self.agreed(run_ended, Pair(batches), doubtful)

    @precondition(has_rows)
    @rule(draw=picked, approved=st.booleans())
    def evidence(self, draw: int, approved: bool) -> None:
        row = self.row(draw)
        self.statement(evidence.EXPEDITE, row["transaction_id"], approved)
        self.statement(evidence.FIND, self.acquirer, row["rrn"])
        self.statement(history.FOLLOWERS, self.merchant, row["transaction_id"])
        self.statement(history.DUTY, row["transaction_id"])

    @rule(number=st.integers(0, 7))
    def burn(self, number: int) -> None:
        key = (self.merchant, self.terminal, f"key-{number:016d}")
        self.statement(cancellation.BURN, *key)
        self.statement(history.KEY, *key)

    @precondition(has_rows)
    @rule(draw=picked, verb=st.sampled_from(("retry", "reversed", "confirmed", "now")), amount=st.sampled_from((500, 1000, 9000)))
    def person(self, draw: int, verb: str, amount: int) -> None:
        key = self.row(draw)["transaction_id"]
        if self.books.table("duty").get(key) is None:
            return

        async def act(connection: Any) -> None:
            async with connection.transaction():
                if verb == "retry":
                    await connection.execute(resolution.REOPEN, key)
                    await connection.execute(resolution.REOPEN_DUTY, key)
                elif verb == "now":
                    await connection.execute(resolution.NOW, key)
                else:
                    await connection.execute(*((resolution.CONFIRMED, key, amount) if verb == "confirmed" else (resolution.REVERSED, key)))
                    await connection.execute(resolution.CLOSE_DUTY, key)

        self.both(act)

    @rule(lease=st.sampled_from((HOUR, -HOUR)), verb=st.sampled_from(("claim", "renew", "end", "end_dead")), draw=picked)
    def worker(self, lease: timedelta, verb: str, draw: int) -> None:
        if verb == "claim" or not self.epochs:
            self.epochs.append(self.both(lambda c: c.fetchval(recovery.CLAIM, "host", os.getpid(), lease)))
            return
        epoch = Pair(self.epochs[draw % len(self.epochs)])
        if verb == "renew":
            self.agreed(lambda c, epoch: c.fetchval(recovery.RENEW, epoch, lease), epoch)
        else:
            self.both(lambda c, epoch: c.execute(recovery.END if verb == "end" else recovery.END_DEAD, epoch), epoch)

    @precondition(has_rows)
    @rule(late=st.sampled_from((HOUR, -HOUR)), draw=picked)
    def abandoned(self, late: timedelta, draw: int) -> None:
        ids = {row.transaction_id for row in self.known}
        real, model = self.both(lambda c: c.fetch(recovery.ABANDONED, rows.transaction().worker_epoch, late, 1_000_000))
        assert {row[0] for row in real} & ids == {row[0] for row in model}

    @rule(count=st.integers(1, 50))
    def numbers(self, count: int) -> None:
        self.statement(numbering.LEASE, self.acquirer, "stan", count)
        stans = [f"{number:06d}" for number in range(1, 60)]
        real, model = self.both(lambda c: c.fetch(numbering.OPEN_STANS, self.acquirer, stans))
        assert {row[0] for row in real} == {row[0] for row in model}


class Pair(tuple[Any, Any]):
    """One value for the real one, one for the model."""


class Lease:
    def __init__(self, key: UUID, until: datetime) -> None:
        self.key, self.until = key, until


def test_the_model_does_what_postgresql_does(database_url: str) -> None:
    loop = asyncio.new_event_loop()
    try:
        Machine.loop = loop
        Machine.real = loop.run_until_complete(database.connect(database_url, "switch_writer"))
        loop.run_until_complete(Machine.real.execute("SET synchronous_commit = off"))
        run_state_machine_as_test(Machine, settings=settings(
            max_examples=300, stateful_step_count=20, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck), derandomize=True))
        loop.run_until_complete(Machine.real.close())
    finally:
        loop.close()
