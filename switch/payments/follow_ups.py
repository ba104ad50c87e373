"""The walk of a follow-up: judged and reserved in one commit, then said to the acquirer, then booked or given back by its outcome.

A request in doubt is reversed, and its original stands. An advice states what already happened: it is repeated until it is answered.
"""

import os
import time
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from messages.dialect import match_key
from switch import logs, metrics
from switch.database import UNKNOWN
from switch.errors import Problem
from switch.failpoints import failpoint
from switch.ids import show, uuid7
from switch.links import Link
from switch.payments import cards, duties, translation, verbs
from switch.payments.admission import AUTHORIZATION, CAPTURE, VOID, Permit
from switch.payments.asked import Door
from switch.payments.authorization import Authorizations, leave
from switch.payments.desk import Key, Told
from switch.payments.doubts import Doubts
from switch.payments.journal import Claim, Duty
from switch.payments.reservations import FollowUp, Reservations
from switch.payments.reversals import Reversals, Taken
from switch.payments.timers import HTTP_MARGIN_S, send_within
from switch.payments.transaction import STATUS, Transaction
from switch.payments.translation import de7, hhmmss, mmdd
from switch.payments.verbs import Refusal
from switch.records import Acquirer
from switch.security.pan import Pan
from switch.security.vault import VaultError

PRIORITY = {"void": VOID, "capture": CAPTURE, "tip": CAPTURE, "refund": CAPTURE, "increment": AUTHORIZATION}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody asks to be done with an authorization. `amount` in minor units, None for all there is; `final`: nothing after it."""

    route: str
    amount: int | None = None
    final: bool = False
    reference: str | None = None

    @property
    def type(self) -> str:
        return verbs.VERBS[self.route]


class FollowUps:
    """Walks follow-ups of this worker. Joined in app.py."""

    def __init__(self, authorizations: Authorizations, doubts: Doubts, reservations: Reservations, reversals: Reversals,
                 lost: Callable[[Transaction], None]) -> None:
        """`lost` gets an approval whose terminal was not told (Undelivered.lost)."""
        self.lost = lost
        self.authorizations, self.doubts, self.reservations, self.reversals = authorizations, doubts, reservations, reversals
        self.directory, self.vault, self.numbers = authorizations.directory, authorizations.vault, authorizations.numbers
        self.desk, self.history = authorizations.desk, authorizations.desk.history

    async def follow(self, wanted: Wanted, original: Transaction, caller: UUID, key: str, fingerprint: bytes, door: Door) -> Told:
        """One follow-up of a visible original under its key. Raises Problem: whatever verbs.refusal names, and nothing is written then."""
        identity = (original.merchant_id, caller, key)
        told = await self.desk.submit(identity, wanted.route, fingerprint, lambda: self._walk(wanted, original, identity, fingerprint, door))
        metrics.follow_ups.labels(wanted.type, STATUS[told.transaction.state]).inc()
        return told

    async def _walk(self, wanted: Wanted, original: Transaction, key: Key, fingerprint: bytes, door: Door) -> Told:
        acquirer = self.directory.acquirers[original.acquirer_id]
        exchange = verbs.exchange(acquirer.dialect, wanted.type)
        deadline = door.at + acquirer.answer_timeout_s
        http_deadline = deadline + self.authorizations.commit_budget_s + HTTP_MARGIN_S
        if await self.history.key(*key) is not None:
            return await self.authorizations.told_again(key, wanted.route, fingerprint, http_deadline)
        if exchange is None:
            raise Problem("not_supported", f"The acquirer of this authorization has no {wanted.type}.")
        amount = verbs.amount_of(wanted.type, original, wanted.amount)
        followers = await self.history.followers(original)
        refused = verbs.refusal(wanted.type, original, followers, amount, acquirer.business_date, door.received_at)
        refused = refused or verbs.captured_in_parts(wanted.type, original, followers, acquirer.dialect)
        if refused is not None:
            raise problem(refused)
        link, permit = self._way(wanted.type, original.merchant_id, acquirer, exchange, door)
        try:
            row, message = await self._row(wanted, original, exchange, amount, key, acquirer, door)
            intent = FollowUp(row, wanted.route, fingerprint, acquirer.business_date, wanted.final,
                              duty=advice_duty(row, door.received_at, acquirer, link is not None), sent=link is not None)
            failpoint("claim.before")
            claim = await self.reservations.intent(intent, door.at + self.authorizations.commit_budget_s)  # AWAIT 1: reserved, durable, then sent
            if claim is Claim.DUPLICATE:
                return await self.authorizations.told_again(key, wanted.route, fingerprint, http_deadline)
            if claim is not Claim.OURS:
                raise problem(claim) if isinstance(claim, Refusal) else unavailable(exchange)
            if link is None or permit is None:
                return Told(row, False)
            if exchange == "advice":
                return await self._advised(intent, acquirer, link, permit, message, deadline)
            result = await link.request(message, send_not_after=door.at + send_within(acquirer.answer_timeout_s), deadline=deadline)  # AWAIT 2
            leave(permit, result, self.desk.loop.time())
            outcome = await self.authorizations.outcome(row, acquirer, result)
            written = await self.authorizations.journal.outcome(outcome, http_deadline - HTTP_MARGIN_S)  # AWAIT 3
            return await self.authorizations.told(row, written)
        finally:
            if permit is not None:
                permit.leave(self.desk.loop.time())

    def _way(self, type_: str, merchant_id: UUID, acquirer: Acquirer, exchange: str, door: Door) -> tuple[Link | None, Permit | None]:
        """The line for the first copy and a place on it. An advice is taken without; a request is refused before anything is written."""
        link = self._link(acquirer, exchange, door)
        if link is None:
            return None, None
        permit = self.authorizations.admission.enter(acquirer.acquirer_id, merchant_id, PRIORITY[type_], self.desk.loop.time())
        if permit is None and exchange != "advice":
            raise self.authorizations.ways.shed("acquirer")
        return (link, permit) if permit is not None else (None, None)

    def _link(self, acquirer: Acquirer, exchange: str, door: Door) -> Link | None:
        """The line for the first copy. An advice is taken without one; a request is refused before anything is written."""
        link = self.authorizations.links.get(acquirer.acquirer_id)
        if link is not None and acquirer.status == "active" and (link.sells() if exchange == "request" else link.usable()):
            needed = acquirer.answer_timeout_s + self.authorizations.commit_budget_s
            if exchange != "advice" and door.deadline_s is not None and door.deadline_s < needed:
                raise Problem("deadline_too_short", f"Request-Deadline must be at least {needed:g} seconds for this acquirer.")
            return link
        if exchange != "advice":
            raise Problem("acquirer_unavailable", retry_after=5, extra={"processed": False})
        return None

    async def _row(self, wanted: Wanted, original: Transaction, exchange: str, amount: int, key: Key, acquirer: Acquirer,
                   door: Door) -> tuple[Transaction, dict[str, str]]:
        """The row and its message, made from the original's row: the card from the vault, numbers and times of its own."""
        stan, rrn = self.numbers.stan(acquirer.acquirer_id), self.numbers.rrn(acquirer.acquirer_id, acquirer.business_date)
        if stan is None or rrn is None:
            raise Problem("overloaded", retry_after=1, extra={"processed": False})
        pan, expiry = await self._card(original)
        identity, now = uuid7(time.time_ns() // 1_000_000, os.urandom(10)), door.received_at
        pan_key, sealed = cards.sealed(self.vault, pan, expiry, identity, now.date())
        store = self.directory.stores.get(original.store_id)
        wall, named = now.astimezone(store.zone) if store is not None else now, original
        if verbs.names_capture(wanted.type, original, acquirer.dialect):
            named = await self.history.capture(original, identity) or original
        rule = acquirer.dialect.rule(wanted.type, named.type)
        row = replace(
            original, **FRESH | {"original_id": original.transaction_id}, transaction_id=identity, type=wanted.type, exchange=exchange,
            caller=key[1], idempotency_key=key[2], match_key="", request_message="{}", worker_epoch=self.authorizations.worker_epoch,
            business_date=acquirer.business_date, amount=amount,
            tip_amount=amount if wanted.type == "tip" else 0, cashback_amount=0, capture_method=None, partial_approval="refuse",
            pan_key=pan_key, pan_sealed=sealed, pan_sealed_on=now.date(), mti=rule.mti, processing_code=rule.fixed["3"],
            pos_condition=rule.fixed.get("25", "00"), stan=stan, rrn=rrn, transmitted_at=de7(now), local_time=hhmmss(wall), local_date=mmdd(wall),
            received_at=now, send_not_after=now + timedelta(seconds=send_within(acquirer.answer_timeout_s)),
            respond_by=now + timedelta(seconds=acquirer.answer_timeout_s), terminal_trace=None, reference=wanted.reference, same_trace=None,
            emv=None)
        message = translation.follow_up(row, named, acquirer.dialect, pan, expiry, acquirer.institution_code)
        row.match_key = match_key(acquirer.dialect, message)
        row.request_message = translation.masked(acquirer.dialect, message)
        return row, message

    async def _card(self, original: Transaction) -> tuple[Pan | None, str]:
        try:
            return cards.opened(self.vault, original)
        except VaultError as error:
            logs.error("card_unreadable", transaction_id=original.transaction_id, code=error.code)
            await self.authorizations.alarm.raise_("unreadable_card", show("transaction", original.transaction_id))
            raise Problem("internal") from None

    async def _advised(self, intent: FollowUp, acquirer: Acquirer, link: Link, permit: Permit, message: dict[str, str],
                       deadline: float) -> Told:
        """The first copy of an advice. Whatever becomes of it is written as for its repeats, which go on when it was not answered."""
        row, duty = intent.transaction, intent.duty
        assert duty is not None
        taken = Taken(row.transaction_id, row.acquirer_id, "advice", duty.stan, duty.transmitted_at, 1, 0, row.received_at, None,
                      duty.next_attempt_at)
        try:
            send_not_after = self.desk.loop.time() + send_within(acquirer.answer_timeout_s)
            result = await link.request(message, send_not_after=send_not_after, deadline=deadline)
            leave(permit, result, self.desk.loop.time())
            await self.reversals.settle(taken, row, acquirer, result)
            stored = await self.history.transaction(row.transaction_id)
        except (*UNKNOWN, asyncpg.PostgresError, Problem) as error:  # the duty's lease ends by itself, and it is sent again
            logs.warning("duty_interrupted", transaction_id=row.transaction_id, error=type(error).__name__)
            stored = None
        return Told(stored or row, False)

    def settle_late(self, follow_up: FollowUp) -> None:
        """This intent's walk has ended with 503. A request that became durable after all was never sent; an advice is said all the same,
        and whether its terminal asks again for a sale that was stood in for is watched like an answer that was lost."""
        if follow_up.stood_in_for:
            self.lost(follow_up.transaction)
        elif follow_up.transaction.exchange != "advice":
            self.doubts.never_sent(follow_up.transaction.transaction_id)


# Of an original's row, what is not its follow-up's: all that a row has only after its intent.
FRESH: dict[str, Any] = {field.name: field.default for field in fields(Transaction) if field.default is not MISSING}


def advice_duty(row: Transaction, now: datetime, acquirer: Acquirer, sent: bool) -> Duty | None:
    """The repeats of an advice; while its first copy is on its way nobody else sends it."""
    if row.exchange != "advice":
        return None
    first = now + duties.lease(acquirer.answer_timeout_s) if sent else now
    return Duty(row.merchant_id, row.transaction_id, row.acquirer_id, "advice", row.type, row.stan, row.transmitted_at, row.match_key, first)


def problem(refused: Refusal) -> Problem:
    amounts: dict[str, object] = {"amounts": dict(refused.amounts)} if refused.amounts else {}
    return Problem(refused.code, refused.detail, retry_after=refused.retry_after, extra=amounts)


def unavailable(exchange: str) -> Problem:
    """A request was not sent. An advice whose commit is in doubt may be said all the same: only its key tells."""
    if exchange != "advice":
        return Problem("journal_unavailable", retry_after=2, extra={"processed": False})
    return Problem("journal_unavailable", "It is not known whether it was written down. Send the same key again.", retry_after=2)
