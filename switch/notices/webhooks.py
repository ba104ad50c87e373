"""The rules of webhooks as tables (Standard Webhooks 1.0.0): signature, schedule, what an answer means. Time and chance come as arguments."""

import base64
import hashlib
import hmac
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

SECRET_PREFIX = "whsec_"  # noqa: S105 - the form of a secret, not one
SECRET_BYTES = 32  # of at least 24
ROTATION = timedelta(hours=24)  # how long the old secret still signs

# Kept as data, so that a merchant who misspells a type is told. Of transactions: told by the sweep; the others by their rooms.
TYPES: Mapping[str, str] = MappingProxyType({
    "transaction.approved": "a sale, preauthorization or offline sale was approved",
    "transaction.declined": "the acquirer declined a transaction",
    "transaction.not_sent": "a transaction never left the switch: nothing was charged",
    "transaction.captured": "a capture or tip was taken",
    "transaction.incremented": "an authorization was raised",
    "transaction.voided": "a void was approved",
    "transaction.refunded": "a refund was approved",
    "transaction.reversed": "a transaction was undone: nothing of it stands",
    "transaction.confirmed": "two persons found that a transaction in doubt stands",
    "settlement.stated": "a statement is ready",
    "payout.requested": "a payout was made", "payout.sent": "a payout went to the bank", "payout.confirmed": "the bank paid it",
    "payout.returned": "the bank gave it back",
    "dispute.retrieval": "the issuer asks for papers",
    "dispute.answered": "you answered a retrieval",
    "dispute.unanswered": "nobody answered a retrieval in time",
    "dispute.chargeback": "the issuer took the money back",
    "dispute.represented": "you contest a chargeback",
    "dispute.pre_arbitration": "the issuer contests your answer",
    "dispute.arbitration": "the scheme decides",
    "dispute.due": "your answer to a dispute is due soon",
    "dispute.won": "a dispute was won",
    "dispute.lost": "a dispute was lost",
    "dispute.accepted": "you accepted a chargeback",
    "dispute.withdrawn": "the issuer took it back",
    "ticket.answered": "support answered a ticket, or asks you something",
    "ticket.resolved": "support resolved a ticket",
    "feedback.answered": "support answered your feedback",
    "licence.expiring": "a licence or document ends soon",
    "licence.limited": "a licence has ended: what you may sell is limited",
    "licence.suspended": "a licence has ended and was not renewed: you sell nothing until it is",
    "licence.lifted": "a renewed licence was accepted",
    "application.approved": "your application was approved",
    "contract.offered": "a contract waits for your signature",
    "contract.in_force": "both have signed: a contract is in force",
    "contract.ending": "a contract ends soon, or notice was given",
    "contract.ended": "a contract has ended: nothing more is sold by it",
    "terminal.silent": "a live terminal has not been heard of for too long",
    "terminal.tampered": "a terminal was opened: its keys are ended",
    "terminal.update": "a terminal gets new software",
    "webhook.test": "sent on request, to try an endpoint",
})

# (type of transaction) -> event of its approval
APPROVED: Mapping[str, str] = MappingProxyType({
    "purchase": "transaction.approved", "preauthorization": "transaction.approved", "cash_advance": "transaction.approved",
    "offline_sale": "transaction.approved", "balance_inquiry": "transaction.approved", "account_verification": "transaction.approved",
    "capture": "transaction.captured", "tip": "transaction.captured", "increment": "transaction.incremented", "void": "transaction.voided",
    "refund": "transaction.refunded",
})
DECIDED: Mapping[str, str] = MappingProxyType({"DECLINED": "transaction.declined", "NOT_SENT": "transaction.not_sent"})
CLOSED: Mapping[str, str] = MappingProxyType({"REVERSED": "transaction.reversed", "CONFIRMED": "transaction.confirmed"})


def decided(type_: str, outcome: str) -> str:
    """The event of a transaction's outcome, which never changes once it is written."""
    return APPROVED[type_] if outcome == "APPROVED" else DECIDED[outcome]


def outcomes(wanted: Collection[str]) -> list[tuple[str, str]]:
    """(type of transaction, outcome) of which at least one of the events `wanted`, or `*`, tells."""
    return [(type_, outcome) for type_ in APPROVED for outcome in ("APPROVED", *DECIDED) if "*" in wanted or decided(type_, outcome) in wanted]


# From one attempt to the next: ten attempts in about three days.
SCHEDULE = (timedelta(seconds=5), timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=2), timedelta(hours=5), timedelta(hours=10),
            timedelta(hours=14), timedelta(hours=20), timedelta(hours=24))
JITTER = 0.2  # of a pause, added: receivers that failed together are not asked again together
GIVE_UP_AFTER = timedelta(days=5)  # without a single success, whatever was sent
THROTTLED_S = 60  # when the answer does not say how long
RETRY_AFTER_MAX_S = 86_400
BUSY = frozenset({429, 502, 503, 504})
DEADLINE_S = 20.0  # of one attempt in all, from the name's look-up to the last byte that is read
LEASE_S = 40.0  # longer than an attempt with what is written of it
ANSWER_MAX = 16_384  # bytes of an answer that are read
HEAD_MAX = 16_384
SHOWN_MAX = 200  # characters of an answer that the log keeps
DIGITS = re.compile(r"[0-9](?:[ -]?[0-9]){7,}")


@dataclass(frozen=True, slots=True)
class Result:
    """What one attempt came to: a status, or why there is none."""

    status: int | None
    fault: str | None = None
    answer: str = ""
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the delivery, and of its endpoint. `again_at`: the next attempt, None when there is none."""

    delivered: bool
    again_at: datetime | None
    disable: str = ""  # why the endpoint is told nothing more
    resume_at: datetime | None = None  # nothing at all goes to the endpoint before


def verdict(result: Result, step: int, failing_since: datetime | None, now: datetime, draw: float) -> Verdict:
    """What an attempt means. `step`: how many of the schedule were made before it; `draw`: from 0 to 1."""
    if result.status is not None and 200 <= result.status < 300:
        return Verdict(True, None)
    if result.status == 410:
        return Verdict(False, None, disable="gone")
    if failing_since is not None and now - failing_since >= GIVE_UP_AFTER:
        return Verdict(False, None, disable="failing")
    resume_at = now + timedelta(seconds=wait_s(result.retry_after)) if result.status in BUSY else None
    if step >= len(SCHEDULE):
        return Verdict(False, None, resume_at=resume_at)
    again_at = now + SCHEDULE[step] * (1 + JITTER * draw)
    return Verdict(False, again_at if resume_at is None else max(again_at, resume_at), resume_at=resume_at)


def wait_s(retry_after: str | None) -> int:
    """Seconds of a Retry-After; dates and nonsense are as good as none."""
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 10):
        return THROTTLED_S
    return min(int(retry_after), RETRY_AFTER_MAX_S)


def shown_secret(secret: bytes) -> str:
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def signature(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    signed = hmac.new(secret, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(signed).decode()


def headers(secrets: Iterable[bytes], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """What goes beside the body; one signature per secret, the newest first. `timestamp`: of this attempt, seconds since 1970."""
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(signature(secret, message_id, timestamp, body) for secret in secrets)}


def shown_answer(raw: bytes) -> str:
    """The first characters of an answer for the log: printable, and without anything that may be a card number."""
    text = raw[:SHOWN_MAX * 4].decode("utf-8", "replace")
    plain = "".join(each if each.isprintable() else " " for each in text)
    return DIGITS.sub(lambda found: "*" * len(found[0]), plain)[:SHOWN_MAX]
