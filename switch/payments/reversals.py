"""Duties, stored and forwarded: reversals until acknowledged, advices until answered, queries until the host has decided. Built from the stored
row alone; decided in duties.py."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch import alerts, logs, metrics
from switch.clock import clock
from switch.database import OUTCOME_PLANS, UNKNOWN, Connection
from switch.directory import Directory
from switch.errors import Problem
from switch.failpoints import failpoint
from switch.ids import show
from switch.links import Bounced, Link, Reply, Share, Silence
from switch.payments import cards, duties, translation, verbs
from switch.payments.authorization import captures_later
from switch.payments.duties import Close, Decision, Owed, Pace, Park
from switch.payments.fulfilment import UNANSWERED, Answered, Ended, run_ended
from switch.payments.history import History
from switch.payments.lane import Lane
from switch.payments.transaction import Event, Transaction
from switch.records import Acquirer
from switch.security.vault import Vault, VaultError

POLL_S = 0.25
BUSY_POLL_S = 0.02  # while more is due than was taken
GAUGE_S = 5.0
SWEEP_S = 30.0
SWEEP_MAX = 500
COUNT_MAX = 10_000  # a gauge counts no further: the metric then says "at least"
SEND_WITHIN_S = 2.0  # of the taking: later it bounces, so a worker that stood still sends nothing that another has taken over
OF_TERMINAL_MAX = 20
STOP_S = 3.0
DECLINED_ADVICE = {"capture": "capture_declined", "purchase": "stand_in_declined"}  # alerts; of all others: advice_declined
# What a row that cannot be said in the dialect raises while its message is built: a poison row ends itself, not the worker.
UNBUILDABLE = (VaultError, ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)

_TAKEN = """d.transaction_id, d.acquirer_id, d.kind, d.stan, d.transmitted_at, d.transmissions, d.faults, d.owed_at, d.not_found_at, d.leased_until"""
# Counted and leased before the write, so that after a crash the next transmission knows that it is a repeat. The lease is a column of its own:
# who brings a duty forward does not take it from the worker that is sending it. duties.takeable says the same.
TAKE = f"""
WITH room AS (
    SELECT * FROM unnest($1::uuid[], $2::integer[], $3::interval[]) AS r(acquirer_id, at_most, lease)
), due AS (
    SELECT d.transaction_id, r.lease FROM room r CROSS JOIN LATERAL (
        SELECT transaction_id FROM duty WHERE acquirer_id = r.acquirer_id AND state = 'open' AND next_attempt_at <= now()
          AND (leased_until IS NULL OR leased_until <= now())
        ORDER BY next_attempt_at LIMIT r.at_most FOR UPDATE SKIP LOCKED) d
)
UPDATE duty d SET next_attempt_at = now() + due.lease, leased_until = now() + due.lease, transmissions = d.transmissions + 1,
  first_sent_at = coalesce(d.first_sent_at, now()), last_sent_at = now()
FROM due WHERE d.transaction_id = due.transaction_id RETURNING {_TAKEN}
"""
OPEN_OF_TERMINAL = "SELECT transaction_id FROM duty WHERE terminal_id = $1 AND acquirer_id = $2 AND state = 'open' AND kind = 'reversal' LIMIT $3"
# Before its time, but never before its first one, which waits for the grace.
TAKE_THESE = f"""
UPDATE duty d SET next_attempt_at = now() + $2, leased_until = now() + $2, transmissions = d.transmissions + 1,
  first_sent_at = coalesce(d.first_sent_at, now()), last_sent_at = now()
WHERE d.transaction_id = ANY($1::uuid[]) AND d.state = 'open' AND d.kind = 'reversal' AND (d.leased_until IS NULL OR d.leased_until <= now())
  AND (d.transmissions > 0 OR d.next_attempt_at <= now()) RETURNING {_TAKEN}
"""
# A line that is down for days: nothing is sent, and age still parks.
TOO_OLD = """
UPDATE duty SET leased_until = now() + interval '1 minute' WHERE transaction_id IN (
    SELECT d.transaction_id FROM unnest($1::uuid[], $2::interval[]) AS a(acquirer_id, max_age)
    CROSS JOIN LATERAL (SELECT transaction_id FROM duty WHERE acquirer_id = a.acquirer_id AND state = 'open' AND kind = 'reversal'
      AND owed_at <= now() - a.max_age AND (leased_until IS NULL OR leased_until <= now()) LIMIT $3 FOR UPDATE SKIP LOCKED) d)
RETURNING transaction_id, leased_until
"""
OPEN = "SELECT count(*) FROM (SELECT FROM duty WHERE state = 'open' AND kind = 'reversal' LIMIT $1) AS counted"
PARKED = "SELECT count(*) FROM (SELECT FROM duty WHERE state = 'parked' LIMIT $1) AS counted"


class Taken(NamedTuple):
    """A duty that is this worker's until `leased_until`."""

    transaction_id: UUID
    acquirer_id: UUID
    kind: str
    stan: str
    transmitted_at: str
    transmissions: int
    faults: int
    owed_at: datetime
    not_found_at: datetime | None
    leased_until: datetime

    def owed(self, transaction: Transaction, acquirer: Acquirer) -> Owed:
        return Owed(self.kind, self.transmissions, self.faults, self.owed_at, self.not_found_at,
                    duties.settled_at(transaction.send_not_after, acquirer.answer_timeout_s))


class Reversals:
    """The worker that fulfils duties. Any number of workers may run; a row is taken by one at a time. Each acquirer has a pace and places of
    its own, which the workers that are signed on there share."""

    def __init__(self, connect: Callable[[dict[str, str]], Awaitable[Connection]], directory: Directory, history: History, vault: Vault,
                 links: Mapping[UUID, Link], alarm: alerts.Alerts, may_send: Callable[[], bool], share: Callable[[UUID], Share | None],
                 undo_captures: Callable[[Transaction], Awaitable[None]]) -> None:
        """`connect(settings)`: a writer's connection. `may_send`: whether this worker's own lease is good. `share`: its part at an acquirer,
        None while it is not known. `undo_captures`: of what a sale owes by itself, raises Problem."""
        self.connect, self.directory, self.history, self.vault, self.links, self.alarm = connect, directory, history, vault, links, alarm
        self.may_send, self.share, self.undo_captures = may_send, share, undo_captures
        self.lane = Lane("duty", lambda: connect(OUTCOME_PLANS), 1 << 30, False, False, False, run_ended, lambda ended: None,
                         lambda ended: ended.transaction_id)
        self.at_work: set[asyncio.Task[None]] = set()
        self.busy: dict[UUID, int] = {}  # per acquirer
        self.paces: dict[UUID, Pace] = {}
        self.full: set[UUID] = set()  # acquirers that had as many due as might leave: more may be waiting
        self.loop = asyncio.get_running_loop()
        self.connection: Connection | None = None
        self.one_at_a_time = asyncio.Lock()
        self.gauged_at = self.swept_at = float("-inf")

    async def work(self) -> None:
        """Until cancelled."""
        writer = self.loop.create_task(self.lane.work())
        try:
            while True:
                more = False
                try:
                    more = await self._turn()
                    await self._look_around()
                except (*UNKNOWN, asyncpg.PostgresError, Problem) as error:
                    logs.warning("duties_not_read", error=type(error).__name__)
                    await asyncio.sleep(1)
                await asyncio.sleep(BUSY_POLL_S if more else POLL_S)
        finally:
            writer.cancel()

    async def stop(self) -> None:
        """Writes down what came of those on their way; the lines are closed already. Bounded."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await asyncio.gather(*self.at_work, return_exceptions=True)
        if self.connection is not None:
            self.connection.terminate()

    async def clear(self, terminal_id: UUID, acquirer: Acquirer, seconds: float) -> bool:
        """Whether the terminal owes this acquirer no reversal any more: what is open is sent now, each at most once, and waited for.

        Raises what UNKNOWN lists, and Problem.
        """
        until, tried = self.loop.time() + seconds, set[UUID]()
        while True:
            found = [row[0] for row in await self._fetch(OPEN_OF_TERMINAL, terminal_id, acquirer.acquirer_id, OF_TERMINAL_MAX)]
            if not found:
                return True
            if untried := [each for each in found if each not in tried]:
                started = self.loop.time()
                if self.may_send():
                    rows = await self._fetch(TAKE_THESE, untried, duties.lease(acquirer.answer_timeout_s))
                    tried |= {row[0] for row in rows}
                    await self._begin([Taken(*row) for row in rows], started)
            if self.loop.time() >= until:
                return False
            await asyncio.sleep(BUSY_POLL_S)

    async def _fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """On a connection of our own, whose plans do not change with the statistics of the day. One that failed is not used again."""
        async with self.one_at_a_time:
            if self.connection is None or self.connection.is_closed():
                self.connection = await self.connect(OUTCOME_PLANS)
            try:
                return await self.connection.fetch(statement, *arguments)
            except UNKNOWN:
                self.connection.terminate()
                raise

    async def _turn(self) -> bool:
        """Takes what is due and may leave now. Whether more is waiting."""
        started = self.loop.time()
        room = self._room(started)
        if not room or not self.may_send():
            return bool(self.full)
        rows = await self._fetch(TAKE, list(room), list(room.values()),
                                 [duties.lease(self.directory.acquirers[each].answer_timeout_s) for each in room])
        taken = [Taken(*row) for row in rows]
        for each in taken:
            self.paces[each.acquirer_id] = self.paces[each.acquirer_id].spent(1)
        await self._begin(taken, started)
        for acquirer_id, count in room.items():
            if sum(each.acquirer_id == acquirer_id for each in taken) == count:
                self.full.add(acquirer_id)
            else:
                self.full.discard(acquirer_id)
        return bool(self.full)

    def _room(self, now: float) -> dict[UUID, int]:
        """How many may leave now, by acquirer whose line is signed on: this worker's share of its pace and places, less what is on its way."""
        found = {}
        for acquirer_id, link in self.links.items():
            acquirer = self.directory.acquirers.get(acquirer_id)
            share = self.share(acquirer_id)
            if acquirer is None or share is None or not link.usable():
                self.full.discard(acquirer_id)
                continue
            pace = self.paces[acquirer_id] = self.paces.get(acquirer_id, Pace(0.0, now)).refilled(
                acquirer.reversals.per_second / share.workers, now)
            count = min(int(pace.tokens), share.of(acquirer.reversals.at_once) - self.busy.get(acquirer_id, 0))
            if count > 0:
                found[acquirer_id] = count
        return found

    async def _begin(self, taken: list[Taken], started: float) -> None:
        """One task each; the rows of all in one read, and those of the originals of advices in another."""
        if not taken:
            return
        rows = await self.history.transactions([each.transaction_id for each in taken])
        named = [row for row in rows.values() if row.original_id is not None and (row.exchange != "request" or self._named(row))]
        originals = await self.history.transactions([row.original_id for row in named if row.original_id is not None]) if named else {}
        for each in taken:
            row = rows.get(each.transaction_id)
            if row is None:  # the reader is behind the writer; its lease ends by itself
                continue
            original = originals.get(row.original_id) if row.original_id is not None else None
            if original is not None and verbs.names_capture(row.type, original, self.directory.acquirers[row.acquirer_id].dialect):
                original = await self.history.capture(original, row.transaction_id) or original
            self.busy[each.acquirer_id] = self.busy.get(each.acquirer_id, 0) + 1
            task = self.loop.create_task(self._fulfil(each, row, original, started + SEND_WITHIN_S))
            self.at_work.add(task)
            task.add_done_callback(self._ended)

    def _named(self, row: Transaction) -> bool:
        """Whether the reversal of a request names what that followed, as messages of our house do not."""
        acquirer = self.directory.acquirers.get(row.acquirer_id)
        return acquirer is not None and not acquirer.dialect.house

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """A fault of our own in one duty ends neither the worker nor the duty, whose lease ends by itself."""
        self.at_work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logs.error("duty_failed", error=type(error).__name__)

    async def _fulfil(self, taken: Taken, transaction: Transaction, original: Transaction | None, send_not_after: float) -> None:
        """From the message to what is written of it."""
        try:
            await self._write(taken, transaction, await self._exchange(taken, transaction, original, send_not_after))
        except (*UNKNOWN, asyncpg.PostgresError, Problem) as error:  # its lease ends by itself, and it is sent again
            logs.warning("duty_interrupted", transaction_id=taken.transaction_id, error=type(error).__name__)
        finally:
            self.busy[taken.acquirer_id] -= 1

    async def settle(self, taken: Taken, transaction: Transaction, acquirer: Acquirer, result: Reply | Bounced | Silence) -> None:
        """What a transmission by somebody else came to: the first copy of an advice. Raises what UNKNOWN lists."""
        await self._write(taken, transaction, self._decided(taken, transaction, acquirer, result))

    async def _write(self, taken: Taken, transaction: Transaction, ended: Ended) -> None:
        if await self.lane.submit(ended, float("inf")):
            self._tell(taken, transaction, ended)

    async def _exchange(self, taken: Taken, transaction: Transaction, original: Transaction | None, send_not_after: float) -> Ended:
        acquirer, link = self.directory.acquirers[taken.acquirer_id], self.links.get(taken.acquirer_id)
        if taken.kind == "reversal" and captures_later(transaction, acquirer):  # whoever undid the sale may have died before it undid these
            await self.undo_captures(transaction)
        if taken.kind == "reversal" and transaction.type in acquirer.dialect.not_reversed:
            return _of(taken, transaction, duties.NO_EFFECT)
        result: Reply | Bounced | Silence = Bounced("line_down")
        try:
            message = self._message(taken, transaction, original, acquirer)
        except UNBUILDABLE as error:
            await self._unbuilt(taken, error)
            if taken.kind == "query":
                asking = _asking(transaction, acquirer)
                return _of(taken, transaction, duties.query_unheard(taken.owed(transaction, acquirer), False, asking, clock.now(), 1.0))
            return _of(taken, transaction, duties.unbuilt(taken.owed(transaction, acquirer), clock.now(), random.random()))
        if link is not None and self.may_send():
            result = await link.request(message, send_not_after=send_not_after, deadline=self.loop.time() + acquirer.answer_timeout_s)
            failpoint("rev.sent")
        metrics.reversals.labels("sent" if not isinstance(result, Bounced) else "bounced").inc()
        return self._decided(taken, transaction, acquirer, result)

    def _decided(self, taken: Taken, transaction: Transaction, acquirer: Acquirer, result: Reply | Bounced | Silence) -> Ended:
        """What the rules say of one transmission."""
        owed, draw, now, max_age_s = taken.owed(transaction, acquirer), random.random(), clock.now(), acquirer.reversals.max_age_s
        if taken.kind == "query":
            return _asked(taken, transaction, acquirer, result, owed, now, draw)
        if isinstance(result, Bounced):
            poison = result.reason == "not_encodable"
            return _of(taken, transaction, duties.unbuilt(owed, now, draw) if poison else duties.bounced(owed, max_age_s, now, draw))
        if isinstance(result, Silence):
            return _of(taken, transaction, duties.unanswered(owed, max_age_s, now, draw))
        code = result.message["39"].strip()
        if taken.kind == "reversal":
            return _of(taken, transaction, duties.reversal_answered(owed, code, acquirer.reversals.codes, max_age_s, now, draw), code)
        verdict = translation.verdict(transaction, acquirer.dialect, result.message)
        answered = Answered(verdict.message, result.sent_at, verdict.reason, verdict.advice, acquirer_rrn=verdict.acquirer_rrn)
        return _of(taken, transaction, duties.advice_answered(owed, verdict.event, now, draw), code, answered)

    def _message(self, taken: Taken, transaction: Transaction, original: Transaction | None, acquirer: Acquirer) -> dict[str, str]:
        """Raises what UNBUILDABLE lists."""
        if taken.kind == "query":
            verb = duties.asks_what(_asking(transaction, acquirer), clock.now())
            return translation.query(transaction, original, acquirer.dialect, verb, acquirer.institution_code)
        pan, expiry = cards.opened(self.vault, transaction)
        if taken.kind == "reversal":
            message = translation.reversal(transaction, acquirer.dialect, pan, expiry, taken.stan, taken.transmitted_at, original,
                                           acquirer.institution_code)
        else:
            message = translation.follow_up(transaction, original, acquirer.dialect, pan, expiry, acquirer.institution_code)
        if acquirer.dialect.repeat_mark:
            message["0"] = duties.mti_of(message["0"], taken.transmissions)
        return message

    async def _unbuilt(self, taken: Taken, error: Exception) -> None:
        if isinstance(error, VaultError):
            logs.error("card_unreadable", transaction_id=taken.transaction_id, code=error.code)
            await self.alarm.raise_("unreadable_card", show("transaction", taken.transaction_id))
        else:
            logs.error("duty_not_buildable", transaction_id=taken.transaction_id, error=type(error).__name__)

    def _tell(self, taken: Taken, transaction: Transaction, ended: Ended) -> None:
        """What people hear of it, once it is durable; the rows of alerts rode in its commit."""
        decision = ended.decision
        if isinstance(decision, Park):
            _tell_parked(taken.transaction_id, taken.kind)
        elif isinstance(decision, Close) and taken.kind == "reversal":
            metrics.reversals.labels(decision.by).inc()
            logs.info("reversed", transaction_id=taken.transaction_id, reason=decision.by, attempt=taken.transmissions)
        elif isinstance(decision, Close) and decision.event is Event.DECLINE:
            alerts.announce(DECLINED_ADVICE.get(transaction.type, "advice_declined"), show("transaction", taken.transaction_id))

    async def _look_around(self) -> None:
        """The gauges, and what is too old at an acquirer that cannot be reached."""
        now = self.loop.time()
        if now - self.gauged_at >= GAUGE_S:
            self.gauged_at = now
            for gauge, statement in ((metrics.reversals_open, OPEN), (metrics.reversals_parked, PARKED)):
                gauge.set((await self._fetch(statement, COUNT_MAX))[0][0])
        shortest = min((each.reversals.max_age_s for each in self.directory.acquirers.values()), default=SWEEP_S)
        if now - self.swept_at >= min(SWEEP_S, shortest):
            self.swept_at = now
            await self._park_old()

    async def _park_old(self) -> None:
        away = [each for each in self.directory.acquirers.values()
                if (link := self.links.get(each.acquirer_id)) is None or not link.usable()]
        if not away or not self.may_send():
            return
        rows = await self._fetch(TOO_OLD, [each.acquirer_id for each in away],
                                 [timedelta(seconds=each.reversals.max_age_s) for each in away], SWEEP_MAX)
        ended = [Ended(row[0], None, "reversal", row[1], Park("max_age"), None) for row in rows]
        for each, moved in zip(ended, await asyncio.gather(*(self.lane.submit(each, float("inf")) for each in ended)), strict=True):
            if moved:
                _tell_parked(each.transaction_id, "reversal")


def _of(taken: Taken, transaction: Transaction, decision: Decision, code: str | None = None, answered: Answered = UNANSWERED) -> Ended:
    return Ended(taken.transaction_id, transaction.original_id, taken.kind, taken.leased_until, decision, code, answered)


def _asking(transaction: Transaction, acquirer: Acquirer) -> duties.Asking:
    sale = transaction.original_id is None and transaction.type != "refund"
    return duties.asking(transaction.received_at, sale and "close" in acquirer.dialect.messages, acquirer.query)


def _asked(taken: Taken, transaction: Transaction, acquirer: Acquirer, result: Reply | Bounced | Silence, owed: Owed, now: datetime,
           draw: float) -> Ended:
    """What a query or its close came to."""
    asking = _asking(transaction, acquirer)
    if not isinstance(result, Reply):
        return _of(taken, transaction, duties.query_unheard(owed, isinstance(result, Silence), asking, now, draw))
    verdict = translation.verdict(transaction, acquirer.dialect, result.message)
    found = acquirer.reversals.codes.get(verdict.response_code) != "not_found"
    answered = Answered(verdict.message, result.sent_at, verdict.reason, verdict.advice if found else "retry_new_key", verdict.approval_code,
                        verdict.acquirer_rrn)
    return _of(taken, transaction, duties.query_answered(owed, verdict.event, found, asking, now, draw), verdict.response_code, answered)


def _tell_parked(transaction_id: UUID, kind: str) -> None:
    metrics.reversals.labels("parked").inc()
    alerts.announce("reversal_parked" if kind == "reversal" else "advice_parked", show("transaction", transaction_id))
