"""The walk of one authorization: intent, request, outcome. Three awaits, one way down (ARCHITECTURE.md)."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol
from uuid import UUID

import asyncpg

from messages.dialect import match_key
from switch import alerts, logs, metrics
from switch.clock import clock
from switch.database import UNKNOWN
from switch.directory import Acquirer, Directory, Merchant, Store, Terminal
from switch.errors import Problem
from switch.failpoints import failpoint
from switch.ids import show, uuid7
from switch.links import Bounced, Link, Reply, Silence
from switch.links.numbering import Numbers
from switch.payments import routing, translation
from switch.payments.admission import AUTHORIZATION, QUERY, Admission, Permit
from switch.payments.confirmation import told_again
from switch.payments.desk import Desk, Key, Told
from switch.payments.duties import first_attempt_at
from switch.payments.history import History
from switch.payments.journal import Claim, Duty, Intent, Journal, Outcome, Written
from switch.payments.timers import HTTP_MARGIN_S, send_within
from switch.payments.transaction import APPROVED, DECLINED, NOT_SENT, SENT, STATUS, Event, Transaction, step
from switch.payments.translation import Order, Verdict, de7, hash64, hhmmss, mmdd
from switch.payments.verbs import tolerance
from switch.security.vault import Vault

CHOICES_MAX = 100_000
REVERSAL_FIRST = 0.6  # of the time in which a sale may leave, so that it still does
UNDO_TRIES = 5
NETWORK_REASON = {"timeout": "no_answer", "line_lost": "line_lost"}
EVENT_OF_SILENCE = {"timeout": Event.SILENCE, "line_lost": Event.LINE_LOST}
ROUTE = "authorizations"
PRIORITY = {"balance_inquiry": QUERY, "account_verification": QUERY}
TOLD = {state: metrics.authorizations.labels(status) for state, status in STATUS.items()}


class Seller(Protocol):
    """The terminal that asks, with its records as they were at the door."""

    @property
    def merchant(self) -> Merchant: ...
    @property
    def store(self) -> Store: ...
    @property
    def terminal(self) -> Terminal: ...


class Door(NamedTuple):
    """When the request came: loop time for deadlines, UTC for the books; `deadline_s` is what the client allows, if it said."""

    at: float
    received_at: datetime
    deadline_s: float | None


class Authorizations:
    """Walks authorizations of this worker. Joined in app.py."""

    def __init__(self, directory: Directory, vault: Vault, journal: Journal, numbers: Numbers, links: Mapping[UUID, Link],
                 desk: Desk, books: History, alarm: alerts.Alerts, admission: Admission, *, worker_epoch: int, commit_budget_s: float,
                 cleared: Callable[[UUID, Acquirer, float], Awaitable[bool]]) -> None:
        """`cleared(terminal, acquirer, seconds)`: sends what the terminal still owes; whether nothing is left (Reversals.clear)."""
        self.directory, self.vault, self.journal, self.numbers, self.links = directory, vault, journal, numbers, links
        self.desk, self.books, self.alarm, self.admission, self.worker_epoch = desk, books, alarm, admission, worker_epoch
        self.commit_budget_s, self.cleared = commit_budget_s, cleared

    async def authorize(self, order: Order, seller: Seller, key: str, fingerprint: bytes, door: Door, route: str = ROUTE,
                        own_task: bool = False) -> Told:
        """One authorization, or a refund without one, under its key. Shapes: 201 and 202 are rows, refusals are Problem (nothing written).
        `own_task`: nobody cancels the task that calls."""
        identity = (seller.merchant.merchant_id, seller.terminal.terminal_id, key)
        submit = self.desk.walk if own_task else self.desk.submit
        return await submit(identity, route, fingerprint, lambda: self._walk(order, seller, identity, fingerprint, door, route))

    def look(self, seller: Seller, key: str) -> None:
        """At the door, before the body is read. Raises Problem overloaded when it would be refused anyway, whatever it says."""
        merchant_id, terminal = seller.merchant.merchant_id, seller.terminal
        if (merchant_id, terminal.terminal_id, key) in self.desk.walks:  # the first request with this key runs: its answer is for this one too
            return
        queued, now = len(self.journal.intents.queue), self.desk.loop.time()
        reason = self.admission.shut(self.alternatives(terminal, routing.ANY), merchant_id, queued, now)
        if reason:
            raise self.shed(reason)

    def shed(self, reason: str) -> Problem:
        metrics.shed.labels(reason).inc()
        return Problem("overloaded", retry_after=self.admission.retry_after(), extra={"processed": False})

    async def _walk(self, order: Order, seller: Seller, key: Key, fingerprint: bytes, door: Door, route: str) -> Told:
        found = self.directory.brand(order.pan.reveal()[:12])
        brand = found.brand if found is not None else "unknown"
        acquirer, link, permit = self._usable(order, seller, brand, door)
        try:
            if acquirer.reversals.first and not await self._reversals_first(seller.terminal, acquirer, door):
                if await self.desk.history.key(*key) is not None:  # not a new sale
                    return await self.told_again(key, route, fingerprint, door.at + acquirer.answer_timeout_s)
                raise Problem("reversal_pending", retry_after=2, extra={"processed": False})
            return await self._sell(order, seller, key, fingerprint, door, route, brand, acquirer, link, permit)
        finally:
            permit.leave(self.desk.loop.time())  # whatever ended it; after its answer this changes nothing

    async def _sell(self, order: Order, seller: Seller, key: Key, fingerprint: bytes, door: Door, route: str, brand: str, acquirer: Acquirer,
                    link: Link, permit: Permit) -> Told:
        transaction = self.transaction(order, seller, key[2], acquirer, brand, door)
        message = translation.request(order, transaction, acquirer, seller.merchant, seller.store)
        transaction.match_key = match_key(acquirer.dialect, message)
        transaction.request_message = translation.masked(acquirer.dialect, message, transaction.emv)
        send_not_after = door.at + send_within(acquirer.answer_timeout_s)
        deadline = door.at + acquirer.answer_timeout_s
        http_deadline = deadline + self.commit_budget_s + HTTP_MARGIN_S

        failpoint("claim.before")
        claim = await self.journal.intent(  # AWAIT 1: durable before the first byte leaves
            Intent(transaction, route, fingerprint, seller.merchant.duplicate_policy == "refuse"), door.at + self.commit_budget_s)
        if claim is not Claim.OURS:
            permit.leave(self.desk.loop.time())
            return await self._not_ours(claim, transaction, key, route, fingerprint, http_deadline)
        result = await link.request(message, send_not_after=send_not_after, deadline=deadline)  # AWAIT 2
        leave(permit, result, self.desk.loop.time())
        outcome = await self.outcome(transaction, acquirer, result)
        written = await self.journal.outcome(outcome, http_deadline - HTTP_MARGIN_S)  # AWAIT 3: durable before the answer
        return await self.told(transaction, written)

    def _usable(self, order: Order, seller: Seller, brand: str, door: Door) -> tuple[Acquirer, Link, Permit]:
        """The first acquirer that may and can take it, with a place on the way to it. Raises Problem before anything is written."""
        alternatives = self.alternatives(seller.terminal, brand)
        if not alternatives:
            raise Problem("no_route", retry_after=60, extra={"processed": False})
        refusal, crowded, now = None, False, self.desk.loop.time()
        for acquirer in alternatives:
            fault = translation.fault(order, acquirer.dialect, acquirer.message_mode)
            if fault is not None:
                refusal = refusal or fault
                continue
            needed = acquirer.answer_timeout_s + self.commit_budget_s
            if door.deadline_s is not None and door.deadline_s < needed:
                raise Problem("deadline_too_short", f"Request-Deadline must be at least {needed:g} seconds for this acquirer.")
            link = self.links.get(acquirer.acquirer_id)
            if acquirer.status != "active" or link is None:
                continue
            if link.sells():
                permit = self.admission.enter(acquirer.acquirer_id, seller.merchant.merchant_id, PRIORITY.get(order.type, AUTHORIZATION), now)
                if permit is not None:
                    return acquirer, link, permit
            crowded = crowded or (link.state == "up" and not link.tripped())  # no room at the gate, or its window is full
        if crowded:
            raise self.shed("acquirer")
        if refusal is not None:
            raise Problem("not_supported", refusal)
        raise Problem("acquirer_unavailable", retry_after=5, extra={"processed": False})

    async def _reversals_first(self, terminal: Terminal, acquirer: Acquirer, door: Door) -> bool:
        """For acquirers that want a terminal's reversal before its next sale: whether none is left. Raises Problem: nothing is written yet."""
        left = door.at + REVERSAL_FIRST * send_within(acquirer.answer_timeout_s) - asyncio.get_running_loop().time()
        try:
            return await self.cleared(terminal.terminal_id, acquirer, left)
        except (*UNKNOWN, asyncpg.PostgresError, Problem):
            raise Problem("journal_unavailable", retry_after=2, extra={"processed": False}) from None

    def alternatives(self, terminal: Terminal, brand: str) -> list[Acquirer]:
        """What routing chose for this terminal and brand; kept until the directory changes."""
        chosen = self.directory.chosen
        found = chosen.get((terminal.terminal_id, brand))
        if found is None:
            if len(chosen) > CHOICES_MAX:
                chosen.clear()
            found = chosen[terminal.terminal_id, brand] = routing.choose(self.directory.ordered_routes, self.directory.acquirers, terminal, brand)
        return found

    def transaction(self, order: Order, seller: Seller, key: str, acquirer: Acquirer, brand: str, door: Door) -> Transaction:
        """The row of an order before its message is made. Raises Problem overloaded: no number is left."""
        stan, rrn = self.numbers.stan(acquirer.acquirer_id), self.numbers.rrn(acquirer.acquirer_id, acquirer.business_date)
        if stan is None or rrn is None:
            raise Problem("overloaded", retry_after=1, extra={"processed": False})
        received_at = door.received_at
        transaction_id = uuid7(time.time_ns() // 1_000_000, os.urandom(10))
        today = received_at.date()
        pan_key, sealed = self.vault.seal(order.pan, order.expiry, transaction_id.bytes, today)
        rule = acquirer.dialect.messages[translation.verb(order.type, acquirer.message_mode)]
        wall = translation.local(order, seller.store, received_at)
        terminal_id, token = seller.terminal.terminal_id.bytes, self.vault.token(order.pan)
        terminal_number, acceptor = seller.terminal.numbers[acquirer.acquirer_id]
        return Transaction(
            merchant_id=seller.merchant.merchant_id, transaction_id=transaction_id, type=order.type, exchange="request",
            store_id=seller.store.store_id, terminal_id=seller.terminal.terminal_id, caller=seller.terminal.terminal_id, idempotency_key=key,
            acquirer_id=acquirer.acquirer_id, business_date=acquirer.business_date, worker_epoch=self.worker_epoch,
            amount=order.amount, currency=order.currency, tip_amount=order.tip_amount, cashback_amount=order.cashback_amount,
            capture_method=order.capture_method, partial_approval=order.partial_approval, entry_mode=order.entry_mode,
            masked_pan=order.pan.masked, card_last4=order.pan.last4, brand=brand, pan_token=token,
            pan_token_key=self.vault.token_key_id, pan_sealed=sealed, pan_key=pan_key, pan_sealed_on=today,
            card_sequence_number=order.sequence_number, emv=order.emv.stored if order.emv else None,
            mti=rule.mti, processing_code=rule.fixed["3"], stan=stan, transmitted_at=de7(received_at), local_time=hhmmss(wall),
            local_date=mmdd(wall), pos_entry_mode=translation.entry_mode(order, acquirer.dialect), pos_condition=rule.fixed.get("25", "00"), rrn=rrn,
            card_acceptor_terminal=terminal_number, card_acceptor=acceptor, mcc=seller.merchant.mcc, match_key="",
            received_at=received_at, send_not_after=received_at + timedelta(seconds=send_within(acquirer.answer_timeout_s)),
            respond_by=received_at + timedelta(seconds=acquirer.answer_timeout_s), request_message="",
            terminal_trace=order.terminal_trace, reference=order.reference,
            same_trace=hash64(terminal_id, mmdd(wall).encode(), order.terminal_trace.encode()) if order.terminal_trace else None)

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
            return await self.advance(transaction, acquirer, *read(transaction, acquirer, result.message))
        if isinstance(result, Bounced):
            transaction.reason, transaction.advice = result.reason, "retry_new_key"
            return await self.advance(transaction, acquirer, Event.BOUNCE)
        transaction.sent_at = result.sent_at
        transaction.reason, transaction.advice = NETWORK_REASON[result.reason], "new_payment_allowed"
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
        transaction.outcome_at = transaction.outcome_at or now
        created, created_duty = None, None
        if from_state == SENT and next_step.state == APPROVED and verdict is not None:
            book_approval(transaction, acquirer, verdict)
            if captures_later(transaction, acquirer):
                created, created_duty = await self._capture(transaction, acquirer, now)
        if event is Event.UNDO:
            transaction.captured = 0
        duty = await self._reversal_duty(transaction, acquirer, event, now) if next_step.duty == "reversal" else None
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
        rule, identity = acquirer.dialect.messages["capture"], uuid7(time.time_ns() // 1_000_000, os.urandom(10))
        assert original.approved_amount is not None
        row = replace(
            original, transaction_id=identity, type="capture", exchange="advice", original_id=original.transaction_id, idempotency_key=None,
            amount=original.approved_amount, tip_amount=0, cashback_amount=0, mti=rule.mti, processing_code=rule.fixed["3"],
            pos_condition=rule.fixed.get("25", "00"), stan=stan, rrn=rrn, transmitted_at=de7(now), received_at=now, send_not_after=now,
            respond_by=now, request_message="{}", business_date=acquirer.business_date, state=SENT, version=1, match_key="",
            pan_sealed=b"", terminal_trace=None, same_trace=None)
        pan, expiry = self.vault.open(original.pan_key, original.pan_sealed, original.transaction_id.bytes, original.pan_sealed_on)
        row.pan_key, row.pan_sealed = self.vault.seal(pan, expiry, identity.bytes, row.pan_sealed_on)
        message = translation.follow_up(row, original, acquirer.dialect, pan, expiry, acquirer.institution_code)
        row.match_key = match_key(acquirer.dialect, message)
        row.request_message = translation.masked(acquirer.dialect, message)
        return (Intent(row, "captures", b"", False),
                Duty(row.merchant_id, identity, acquirer.acquirer_id, "advice", "capture", stan, row.transmitted_at, row.match_key, now))

    async def told(self, transaction: Transaction, written: Written) -> Told:
        """What is told of an exchange whose outcome was written, or not."""
        if written is Written.OURS:
            if transaction.original_id is None:
                TOLD[transaction.state].inc()
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

    async def undo(self, transaction: Transaction, event: Event, closed_by: str | None = None) -> Written:
        """Sends a stored transaction into REVERSING by a durable step; `closed_by`: how its last reversal was closed."""
        acquirer = self.directory.acquirers[transaction.acquirer_id]
        if transaction.outcome not in (DECLINED, NOT_SENT):  # their 201 was told and is replayed byte for byte
            transaction.reason, transaction.advice = event.value, "retry_new_key" if event is Event.BOUNCE else "new_payment_allowed"
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
        transaction.advice = "new_payment_allowed"
    return verdict.event, verdict


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
            transaction.tolerance = tolerance(approved, terms.tip_basis_points if by_itself else terms.completion_basis_points)
        transaction.authorised, transaction.capturable = approved, approved + transaction.tolerance
        transaction.captured = approved if by_itself else 0
