"""The walk of one authorization: intent, request, outcome. Three awaits, one way down (ARCHITECTURE.md)."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from messages.dialect import match_key
from messages.grammar import MAC_ERROR
from switch import alerts, logs, metrics
from switch.clock import clock
from switch.database import UNKNOWN
from switch.directory import Directory
from switch.errors import Problem
from switch.failpoints import failpoint
from switch.ids import show
from switch.links import Bounced, Link, Reply, Silence
from switch.links.numbering import Numbers
from switch.payments import cards, rerouting, translation
from switch.payments.admission import Admission, Permit
from switch.payments.asked import Asked, Door, Seller
from switch.payments.confirmation import told_again
from switch.payments.desk import Desk, Key, Told
from switch.payments.drafts import Drafts, new_id
from switch.payments.duties import first_attempt_at
from switch.payments.history import History
from switch.payments.journal import Claim, Duty, Intent, Journal, Outcome, Written
from switch.payments.pins import Pins
from switch.payments.timers import HTTP_MARGIN_S, send_within
from switch.payments.transaction import APPROVED, DECLINED, NOT_SENT, SENT, STATUS, Event, Transaction, step
from switch.payments.translation import Order, Verdict, de7
from switch.payments.verbs import tolerance
from switch.payments.ways import Way, Ways
from switch.records import Acquirer, Terminal
from switch.security.vault import Vault

REVERSAL_FIRST = 0.6  # of the time in which a sale may leave, so that it still does
UNDO_TRIES = 5
NETWORK_REASON = {"timeout": "no_answer", "line_lost": "line_lost", "bad_mac": MAC_ERROR, "unreadable": "answer_unreadable",
                  "not_authentic": "answer_not_authentic"}
EVENT_OF_SILENCE = {"timeout": Event.SILENCE, "line_lost": Event.LINE_LOST, "bad_mac": Event.BAD_MAC, "unreadable": Event.DOUBT,
                    "not_authentic": Event.BAD_MAC}
ROUTE = "authorizations"
metrics.authorizations.expect(*STATUS.values())


class Attempt(NamedTuple):
    """A sale on its way to one acquirer: its row, its message, its way."""

    transaction: Transaction
    message: dict[str, str]
    way: Way


class Authorizations:
    """Walks authorizations of this worker. Joined in app.py."""

    def __init__(self, directory: Directory, vault: Vault, journal: Journal, numbers: Numbers, links: Mapping[UUID, Link],
                 desk: Desk, books: History, alarm: alerts.Alerts, admission: Admission, *, worker_epoch: int, commit_budget_s: float,
                 cleared: Callable[[UUID, Acquirer, float], Awaitable[bool]], pins: Pins | None = None,
                 guarded: Callable[..., Awaitable[Told]] | None = None,
                 unreached: Callable[[Asked, list[Acquirer], Problem], Awaitable[Told]] | None = None) -> None:
        """`cleared(terminal, acquirer, seconds)`: sends what the terminal still owes; whether nothing is left (Reversals.clear). `guarded`: what is
        given to it, between what rules say before it and what became of it (Gatekeeper.sell), asked while the directory has any. `unreached`: a sale
        whose acquirers cannot be reached, with what it is refused by otherwise (StandIns.sell)."""
        self.directory, self.vault, self.journal, self.numbers, self.links = directory, vault, journal, numbers, links
        self.desk, self.books, self.alarm, self.admission, self.worker_epoch = desk, books, alarm, admission, worker_epoch
        self.commit_budget_s, self.cleared, self.guarded, self.unreached = commit_budget_s, cleared, guarded, unreached
        self.ways = Ways(directory, links, admission, desk, lambda: len(journal.intents.queue), pins, commit_budget_s=commit_budget_s)
        self.drafts, self.alternatives = Drafts(vault, numbers, worker_epoch, pins), self.ways.alternatives

    async def authorize(self, order: Order, seller: Seller, key: str, fingerprint: bytes, door: Door, route: str = ROUTE,
                        own_task: bool = False) -> Told:
        """One authorization, or a refund without one, under its key. Shapes: 201 and 202 are rows, refusals are Problem (nothing written).
        `own_task`: nobody cancels the task that calls."""
        identity = (seller.merchant.merchant_id, seller.terminal.terminal_id, key)
        submit = self.desk.walk if own_task else self.desk.submit
        return await submit(identity, route, fingerprint, lambda: self._walk(order, seller, identity, fingerprint, door, route))

    async def _walk(self, order: Order, seller: Seller, key: Key, fingerprint: bytes, door: Door, route: str) -> Told:
        asked = Asked(order, seller, key, fingerprint, door, route, self.ways.brand(order), new_id())
        alternatives = self.ways.alternatives_of(asked)
        way = self.ways.find(asked, alternatives)
        if way is None:
            refusal = self.ways.refusal(asked, alternatives)
            if refusal.code != "acquirer_unavailable" or self.unreached is None:
                raise refusal
            return await self.unreached(asked, alternatives, refusal)
        acquirer = way.acquirer
        try:
            if acquirer.reversals.first and not await self._reversals_first(seller.terminal, acquirer, door):
                if await self.desk.history.key(*key) is not None:  # not a new sale
                    return await self.told_again(key, route, fingerprint, door.at + acquirer.answer_timeout_s)
                raise Problem("reversal_pending", retry_after=2, extra={"processed": False})
            return await (self.guarded(asked, way, alternatives, self.sell) if self.directory.guarded and self.guarded is not None
                          else self.sell(asked, way, alternatives))
        finally:
            way.permit.leave(self.desk.loop.time())  # whatever ended it; after its answer this changes nothing

    async def sell(self, asked: Asked, way: Way, alternatives: list[Acquirer]) -> Told:
        try:
            attempt = Attempt(*self.drafts.request(asked, way.acquirer, asked.identity), way)
        except Problem:
            if asked.order.pin_block is None or await self.desk.history.key(*asked.key) is None:
                raise
            # sold, when its PIN key was another one
            return await self.told_again(asked.key, asked.route, asked.fingerprint, asked.door.at + way.acquirer.answer_timeout_s)
        door, transaction, acquirer = asked.door, attempt.transaction, way.acquirer
        failpoint("claim.before")
        claim = await self.journal.intent(  # AWAIT 1: durable before the first byte leaves
            Intent(transaction, asked.route, asked.fingerprint, asked.seller.merchant.duplicate_policy == "refuse"), door.at + self.commit_budget_s)
        if claim is not Claim.OURS:
            way.permit.leave(self.desk.loop.time())
            return await self._not_ours(claim, transaction, asked.key, asked.route, asked.fingerprint, self._http_deadline(door, acquirer))
        outcome, result = await self._sent(attempt, asked)
        if len(alternatives) > 1 and (cause := rerouting.cause(transaction, result, acquirer.reroute_codes)):
            return await self._tried_elsewhere(asked, attempt, outcome, cause, alternatives)
        written = await self.journal.outcome(outcome, self._http_deadline(door, acquirer) - HTTP_MARGIN_S)  # AWAIT 3: durable before the answer
        return await self.told(transaction, written)

    async def _sent(self, attempt: Attempt, asked: Asked) -> tuple[Outcome, Reply | Bounced | Silence]:
        """Says it to the acquirer. What came of it, as a step that is still to be written, with what its rules say of the sale."""
        transaction, message, (acquirer, link, permit) = attempt
        door = asked.door
        result = await link.request(message, send_not_after=door.at + send_within(acquirer.answer_timeout_s),  # AWAIT 2
                                    deadline=door.at + acquirer.answer_timeout_s)
        leave(permit, result, self.desk.loop.time())
        outcome = await self.outcome(transaction, acquirer, result)
        return outcome if asked.risk is None else outcome._replace(event=asked.risk), result

    async def _tried_elsewhere(self, asked: Asked, attempt: Attempt, outcome: Outcome, cause: str, alternatives: list[Acquirer]) -> Told:
        """Nothing of this attempt stands where it was made, and another acquirer may be asked; the last attempt's outcome is the sale's."""
        tried = {attempt.way.acquirer.acquirer_id}
        while True:
            deadline = self._http_deadline(asked.door, attempt.way.acquirer) - HTTP_MARGIN_S
            following = None
            if cause and len(tried) < rerouting.ATTEMPTS_MAX:
                following = await self._following(asked, attempt.transaction, [each for each in alternatives if each.acquirer_id not in tried])
            if following is None:
                return await self.told(attempt.transaction, await self.journal.outcome(outcome, deadline))
            try:
                written = await self._handed_on(asked, outcome, following, cause, deadline)
                if written is not None:
                    return await self.told(attempt.transaction, written)
                metrics.reroutes.labels(cause).inc()
                attempt = following
                tried.add(attempt.way.acquirer.acquirer_id)
                outcome, result = await self._sent(attempt, asked)
                cause = rerouting.cause(attempt.transaction, result, attempt.way.acquirer.reroute_codes)
            finally:
                following.way.permit.leave(self.desk.loop.time())

    async def _handed_on(self, asked: Asked, outcome: Outcome, following: Attempt, cause: str, deadline: float) -> Written | None:
        """The commit that says that nothing stands makes the next attempt, and moves the key to it: then None. Else what was written."""
        row, advice = outcome.transaction, outcome.transaction.advice
        row.advice = rerouting.SUPERSEDED
        event = json.dumps({"to": show("transaction", following.transaction.transaction_id), "cause": cause,
                            "acquirer": show("acquirer", following.transaction.acquirer_id)})
        created = Intent(following.transaction, asked.route, asked.fingerprint, False)
        written = await self.journal.outcome(outcome._replace(created=created, event=("rerouted", event)), deadline)
        if written is Written.REFUSED:  # the books take no such attempt: then this one was the last
            row.advice = advice
            return await self.journal.outcome(outcome, deadline)
        return None if written is Written.OURS else written

    async def _following(self, asked: Asked, before: Transaction, left: list[Acquirer]) -> Attempt | None:
        """The next attempt at a sale, with a place on its way; None when no other acquirer can take it in what is left of its time."""
        now = self.desk.loop.time()
        way = self.ways.find(asked, [each for each in left if now + rerouting.LEAST_S < asked.door.at + send_within(each.answer_timeout_s)])
        if way is None:
            return None
        try:
            if not way.acquirer.reversals.first or await self._reversals_first(asked.seller.terminal, way.acquirer, asked.door):
                attempt = Attempt(*self.drafts.request(asked, way.acquirer, new_id()), way)
                attempt.transaction.attempt_of = before.transaction_id
                attempt.transaction.possible_duplicate_of = before.possible_duplicate_of
                return attempt
        except Problem as problem:  # no number, or the journal does not answer: the attempt that was made is the last
            logs.warning("not_rerouted", transaction_id=before.transaction_id, code=problem.code)
        way.permit.leave(self.desk.loop.time())
        return None

    def _http_deadline(self, door: Door, acquirer: Acquirer) -> float:
        return door.at + acquirer.answer_timeout_s + self.commit_budget_s + HTTP_MARGIN_S

    async def _reversals_first(self, terminal: Terminal, acquirer: Acquirer, door: Door) -> bool:
        """For acquirers that want a terminal's reversal before its next sale: whether none is left. Raises Problem: nothing is written yet."""
        left = door.at + REVERSAL_FIRST * send_within(acquirer.answer_timeout_s) - asyncio.get_running_loop().time()
        try:
            return await self.cleared(terminal.terminal_id, acquirer, left)
        except (*UNKNOWN, asyncpg.PostgresError, Problem):
            raise Problem("journal_unavailable", retry_after=2, extra={"processed": False}) from None

    async def _not_ours(self, claim: Claim, transaction: Transaction, key: Key, route: str, fingerprint: bytes, deadline: float) -> Told:
        if claim is Claim.DUPLICATE:
            return await self.told_again(key, route, fingerprint, deadline)
        if claim is Claim.POSSIBLE_DUPLICATE:
            assert transaction.possible_duplicate_of is not None
            raise Problem("possible_duplicate", extra={"possible_duplicate_of": show("transaction", transaction.possible_duplicate_of)})
        raise Problem("journal_unavailable", retry_after=2, extra={"processed": False})

    async def outcome(self, transaction: Transaction, acquirer: Acquirer, result: Reply | Bounced | Silence) -> Outcome:
        """What the exchange came to, as one step of the life, with what it owes."""
        if isinstance(result, Reply):
            transaction.sent_at, transaction.answered_at = result.sent_at, result.answered_at
            metrics.acquirer_seconds.observe((result.answered_at - result.sent_at).total_seconds())
            event, verdict = read(transaction, acquirer, result.message)
            self.alternatives.note(acquirer.acquirer_id, event is not Event.DOUBT and verdict.response_code not in acquirer.reroute_codes)
            return await self.advance(transaction, acquirer, event, verdict)
        if isinstance(result, Bounced):
            transaction.reason, transaction.advice = result.reason, "retry_new_key"
            return await self.advance(transaction, acquirer, Event.BOUNCE)
        transaction.sent_at = result.sent_at
        self.alternatives.note(acquirer.acquirer_id, False)
        transaction.reason, transaction.advice = NETWORK_REASON[result.reason], advised(transaction)
        return await self.advance(transaction, acquirer, EVENT_OF_SILENCE[result.reason])

    async def advance(self, transaction: Transaction, acquirer: Acquirer, event: Event, verdict: Verdict | None = None,
                      closed_by: str | None = None) -> Outcome:
        """Moves the row in memory by one event and returns the journal's step. Raises IllegalEvent."""
        now, from_state = clock.now(), transaction.state
        next_step = step(from_state, event, transaction.exchange, closed_by)
        transaction.state = next_step.state
        transaction.version += 1
        if from_state == SENT and next_step.state in (APPROVED, DECLINED, NOT_SENT):
            transaction.outcome = next_step.state
        if next_step.state != SENT:
            transaction.outcome_at = transaction.outcome_at or now
        created, created_duty = None, None
        if from_state == SENT and next_step.state == APPROVED and verdict is not None:
            book_approval(transaction, acquirer, verdict)
            if captures_later(transaction, acquirer):
                created, created_duty = await self._capture(transaction, acquirer, now)
        if event is Event.UNDO:
            transaction.captured = 0
        duty = await self._reversal_duty(transaction, acquirer, event, now) if next_step.duty == "reversal" else None
        if next_step.duty == "query":  # under the numbers of what is asked for
            duty = Duty(transaction.merchant_id, transaction.transaction_id, acquirer.acquirer_id, "query", event.value, transaction.stan,
                        transaction.transmitted_at, transaction.match_key, now + timedelta(seconds=acquirer.query.first_s))
        if next_step.alert:
            await self.alarm.raise_(next_step.alert, show("transaction", transaction.transaction_id))
        return Outcome(transaction, from_state, duty, created, created_duty)

    async def _reversal_duty(self, transaction: Transaction, acquirer: Acquirer, event: Event, now: datetime) -> Duty:
        borrowed = acquirer.dialect.reversal_stan == "original"
        stan = transaction.stan if borrowed else await self.numbers.stan_soon(acquirer.acquirer_id)
        earliest = first_attempt_at(now, transaction.send_not_after, acquirer.reversal_grace_s, transaction.answered_at is not None)
        return Duty(transaction.merchant_id, transaction.transaction_id, acquirer.acquirer_id, "reversal", event.value, stan, de7(now),
                    translation.reversal_key(transaction, acquirer.dialect, stan, de7(now)), earliest)

    async def _capture(self, original: Transaction, acquirer: Acquirer, now: datetime) -> tuple[Intent, Duty]:
        """The advice that captures a dual-message sale: a transaction of its own, owed by the commit that approves the sale."""
        stan = await self.numbers.stan_soon(acquirer.acquirer_id)
        rrn = await self.numbers.rrn_soon(acquirer.acquirer_id, acquirer.business_date)
        rule, identity = acquirer.dialect.messages["capture"], new_id()
        assert original.approved_amount is not None
        row = replace(
            original, transaction_id=identity, type="capture", exchange="advice", original_id=original.transaction_id, idempotency_key=None,
            amount=original.approved_amount, tip_amount=0, cashback_amount=0, mti=rule.mti, processing_code=rule.fixed["3"],
            pos_condition=rule.fixed.get("25", "00"), stan=stan, rrn=rrn, transmitted_at=de7(now), received_at=now, send_not_after=now,
            respond_by=now, request_message="{}", business_date=acquirer.business_date, state=SENT, version=1, match_key="",
            pan_sealed=b"", terminal_trace=None, same_trace=None, attempt_of=None)
        pan, expiry = cards.opened(self.vault, original)
        row.pan_key, row.pan_sealed = cards.sealed(self.vault, pan, expiry, identity, row.pan_sealed_on)
        message = translation.follow_up(row, original, acquirer.dialect, pan, expiry, acquirer.institution_code)
        row.match_key = match_key(acquirer.dialect, message)
        row.request_message = translation.masked(acquirer.dialect, message)
        return (Intent(row, "captures", b"", False),
                Duty(row.merchant_id, identity, acquirer.acquirer_id, "advice", "capture", stan, row.transmitted_at, row.match_key, now))

    async def told(self, transaction: Transaction, written: Written) -> Told:
        """What is told of an exchange whose outcome was written, or not."""
        if written is Written.OURS:
            if transaction.original_id is None:
                metrics.authorizations.inc(STATUS[transaction.state])
            return Told(transaction, False)
        if written is Written.UNKNOWN:  # not durable in time: pending, and from now on nobody may approve it
            return Told(replace(transaction, state=SENT, outcome=None, reason="outcome_unknown", advice="ask_again"), False)
        stored = await self.books.transaction(transaction.transaction_id)  # somebody reversed it first: obey the row
        logs.warning("outcome_lost", transaction_id=transaction.transaction_id, state=stored.state if stored else None)
        if stored is None:
            raise Problem("internal")
        return Told(stored, False)

    async def told_again(self, key: Key, route: str, fingerprint: bytes, deadline: float) -> Told:
        """The stored answer of a key, an approval confirmed first (confirmation.py)."""
        return await told_again(self.desk, self.journal, self.commit_budget_s, key, route, fingerprint, deadline)

    async def undo(self, transaction: Transaction, event: Event, closed_by: str | None = None, reason: str | None = None) -> Written:
        """Sends a stored transaction into REVERSING by a durable step; `closed_by`: how its last reversal was closed; `reason`: why, in the word of
        whoever wants it."""
        acquirer = self.directory.acquirers[transaction.acquirer_id]
        if transaction.outcome not in (DECLINED, NOT_SENT):  # their 201 was told and is replayed byte for byte
            transaction.reason, transaction.advice = reason or event.value, "retry_new_key" if event is Event.BOUNCE else "new_payment_allowed"
        outcome = await self.advance(transaction, acquirer, event, closed_by=closed_by)
        written = await self.journal.outcome(outcome, asyncio.get_running_loop().time() + self.commit_budget_s)
        if written is Written.OURS and captures_later(transaction, acquirer):
            await self.undo_captures(transaction)
        return written

    async def undo_captures(self, original: Transaction) -> None:
        """The capture that a sale owes by itself goes with the sale. May be repeated; Problem not_ready when it is not known to be gone."""
        for follower in await self.desk.history.followers(original):
            for _ in range(UNDO_TRIES if follower.automatic else 0):
                capture = await self.desk.history.transaction(follower.transaction_id)
                if capture is None or capture.state not in (SENT, APPROVED):
                    break
                if await self.undo(capture, Event.UNDO) is Written.OURS:
                    break
            else:
                if follower.automatic:
                    raise Problem("not_ready", "The journal cannot be written just now; cancel again.", retry_after=2)


def leave(permit: Permit, result: Reply | Bounced | Silence | None, now: float) -> None:
    """Gives the place back, with what the acquirer showed."""
    if isinstance(result, Reply):
        permit.leave(now, (result.answered_at - result.sent_at).total_seconds())
    else:
        permit.leave(now, None, isinstance(result, Silence) and result.reason == "timeout")


def read(transaction: Transaction, acquirer: Acquirer, message: Mapping[str, str]) -> tuple[Event, Verdict]:
    """The answer's event and verdict; what it says is put on the row as evidence."""
    verdict = translation.verdict(transaction, acquirer.dialect, message)
    transaction.response_code, transaction.reason, transaction.advice = verdict.response_code, verdict.reason, verdict.advice
    transaction.approval_code, transaction.acquirer_rrn = verdict.approval_code, verdict.acquirer_rrn
    transaction.answer_emv, transaction.balances, transaction.answer_message = verdict.emv, verdict.balances, verdict.message
    if verdict.event in (Event.DOUBT, Event.PARTIAL_REFUSED):
        transaction.advice = advised(transaction)
    return verdict.event, verdict


def advised(transaction: Transaction) -> str:
    """What a terminal may do whose sale has no outcome: where it is asked for, the sale may still be paid."""
    return "ask_again" if transaction.exchange == "query" else "new_payment_allowed"


def captures_later(transaction: Transaction, acquirer: Acquirer) -> bool:
    by_itself = acquirer.message_mode == "dual" and transaction.capture_method == "automatic" and transaction.original_id is None
    return by_itself and bool(transaction.approved_amount)


def book_approval(transaction: Transaction, acquirer: Acquirer, verdict: Verdict) -> None:
    """An approval's money: held always; captured too when the message posts at once or its capture rides in the same commit. The tolerance
    in force is added to what may be captured. What a follow-up moves, the database books on its original."""
    approved = transaction.approved_amount = verdict.approved_amount
    terms = acquirer.terms_of(transaction.mcc, transaction.brand) if acquirer.terms and approved else None
    if transaction.type == "increment":
        transaction.capturable = approved + (tolerance(approved, terms.completion_basis_points) if terms else 0)
    elif transaction.original_id is None and transaction.type != "refund":
        by_itself = transaction.capture_method == "automatic"
        if terms:
            goods = 0 if transaction.type == "cash_advance" else max(0, approved - transaction.cashback_amount)  # nobody tips cash that is handed out
            transaction.tolerance = tolerance(goods, terms.tip_basis_points) if by_itself else tolerance(approved, terms.completion_basis_points)
        transaction.authorised, transaction.capturable = approved, approved + transaction.tolerance
        transaction.captured = approved if by_itself else 0
