"""Applying and reviewing: submit, take, decide; the light path of individuals; what an approval makes, all in one commit each."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg

from switch.clock import clock
from switch.database import Connection, Pool, work
from switch.errors import Problem
from switch.ids import show
from switch.life import same_person
from switch.merchants.applications import scoring
from switch.merchants.applications.cases import begun, changed, held, key_again, locked, moved, profile_of
from switch.merchants.applications.life import IN_REVIEW, LIFE
from switch.merchants.applications.numbers import age, born
from switch.merchants.applications.opening import opened
from switch.merchants.applications.papers import Document, gaps, newest
from switch.merchants.applications.requirements import ACCOUNT, IDENTITY, INDIVIDUAL, Gap, account_of, needed
from switch.merchants.applications.scoring import Facts, Reason
from switch.notices import tell
from switch.payments.resolution import Person
from switch.security.vault import Vault

APPROVE = "approve_application"
RULES, APPLICANT = Person("rules", ""), "applicant"
# Draws up the contract in the commit that makes a merchant: connection, merchant, country, currency, who.
Drafted = Callable[[Connection, UUID, str, str, Person], Awaitable[UUID]]
# Told in the commit that makes a merchant with limits: connection, merchant, limits with their currency.
Limited = Callable[[Connection, UUID, Mapping[str, Any]], Awaitable[None]]

OTHERS = """SELECT count(DISTINCT d.application_id) AS named, count(DISTINCT d.application_id) FILTER (WHERE a.state = 'refused') AS refused
FROM application_document d JOIN application a USING (application_id)
WHERE d.subject = ANY($2::bytea[]) AND d.application_id <> $1 AND a.state NOT IN ('draft', 'withdrawn')"""
LAST = "SELECT event, person FROM application_event WHERE application_id = $1 AND number = $2"


class Judged(NamedTuple):
    """What is known of an application when somebody decides."""

    profile: dict[str, Any]
    documents: list[Document]
    gaps: list[Gap]
    facts: Facts
    reasons: list[Reason]
    score: int
    by_two: list[str]

    def detail(self) -> dict[str, Any]:
        return {"score": self.score, "reasons": [reason._asdict() for reason in self.reasons]}


class Decision(NamedTuple):
    """`version`: of the application that was looked at."""

    event: str
    version: int
    reason: str


def today(profile: Mapping[str, Any], now: datetime) -> date:
    """By the clock where the business is."""
    return now.astimezone(ZoneInfo(profile["time_zone"])).date()


async def judged(connection: Connection, vault: Vault, row: asyncpg.Record) -> Judged:
    """Raises Problem not_ready."""
    profile = await profile_of(connection, row["application_id"])
    documents, day = await newest(connection, vault, row["application_id"]), today(profile, clock.now())
    missing = gaps(row, profile, documents, day)
    wanted = needed(row["country"], row["entity_type"], profile["mcc"])
    counted = [each for each in documents if each.row["kind"] in wanted]
    others = await connection.fetchrow(OTHERS, row["application_id"], [each.row["subject"] for each in counted])
    assert others is not None
    identity = next((each.fields["number"] for each in counted if each.row["kind"] == IDENTITY), "")
    birth = born(identity) if row["country"] == "CN" else None
    facts = Facts(row["entity_type"], profile["mcc"], profile["currency"], profile["monthly_volume"], profile["average_ticket"],
                  profile["years_in_business"], others["named"], others["refused"], None if birth is None else age(birth, day),
                  min((each.row["expires_on"] for each in counted if each.row["expires_on"] is not None), default=None), len(missing),
                  sum(each.row["verdict"] == "accepted" for each in counted), len(wanted))
    reasons = scoring.reasons(facts, day)
    points = scoring.score(reasons)
    return Judged(profile, documents, missing, facts, reasons, points, scoring.by_two(facts, points))


def _incomplete(missing: list[Gap]) -> Problem:
    return Problem("application_incomplete", errors=[{"field": gap.kind, "rule": gap.detail, "type": gap.what} for gap in missing])


class Review:
    """Raises Problem: not_found, invalid, application_*, conflict, not_ready."""

    def __init__(self, writers: Pool, vault: Vault, limited: Limited | None = None, drafted: Drafted | None = None) -> None:
        self.writers, self.vault, self.limited, self.drafted = writers, vault, limited, drafted

    async def begin(self, entity_type: str, country: str, profile: Mapping[str, Any], by: Person) -> tuple[UUID, str]:
        """The application, and the applicant's key."""
        async with work(self.writers) as connection:
            return await begun(connection, entity_type, country, profile, by)

    async def key(self, application_id: UUID) -> str:
        """A new key of an applicant who lost its own."""
        async with work(self.writers) as connection:
            return await key_again(connection, application_id)

    async def change(self, application_id: UUID, profile: Mapping[str, Any], by: Person) -> None:
        async with work(self.writers) as connection:
            await changed(connection, application_id, profile, by)

    async def submit(self, application_id: UUID, by: Person) -> None:
        """To the reviewers; an individual whom the rules know enough of is approved at once, with low limits."""
        async with work(self.writers) as connection:
            row = await locked(connection, application_id)
            possible(row, "submit")
            known = await judged(connection, self.vault, row)
            if known.gaps:
                raise _incomplete(known.gaps)
            waits = scoring.light(known.facts, known.score) if row["entity_type"] == INDIVIDUAL else None
            row = await moved(connection, row, "submit", by, "", known.detail() | ({"waits_because": waits} if waits else {}))
            if waits is None or waits:
                return
            limits = scoring.LIGHT[known.facts.currency]._asdict() | {"currency": known.facts.currency}
            merchant_id = await self._opened(connection, row, known, RULES, APPLICANT, None)
            await moved(connection, row, "pass", RULES, "All rules of the light path hold.", known.detail() | {"limits": limits},
                        merchant_id=merchant_id, limits=limits)
            if self.limited is not None:
                await self.limited(connection, merchant_id, limits)

    async def withdraw(self, application_id: UUID, by: Person, reason: str) -> None:
        async with work(self.writers) as connection:
            await moved(connection, await locked(connection, application_id), "withdraw", by, reason)

    async def take(self, application_id: UUID, by: Person, reason: str, over: bool = False) -> None:
        """From the queue; `over`: from a colleague who has it. Whoever has it already changes nothing. Raises Problem taken."""
        async with work(self.writers) as connection:
            row = await locked(connection, application_id)
            if row["state"] != IN_REVIEW:
                await moved(connection, row, "take", by, reason)
            elif not same_person(row["reviewer"], by.name):
                if not over:
                    held(row, by)
                await moved(connection, row, "take_over", by, reason, {"from": row["reviewer"]})

    async def decide(self, application_id: UUID, decision: Decision, by: Person) -> list[str]:
        """Done when it returns nothing; else why two people must agree, and nothing was done: ask the second one (`approved`).

        The same decision of the same person again changes nothing.
        """
        async with work(self.writers) as connection:
            row = await locked(connection, application_id)
            if await _decided(connection, row, decision, by):
                return []
            possible(row, decision.event)
            if row["version"] != decision.version:
                raise Problem("application_changed")
            if decision.event == "refuse" and row["state"] == "more_wanted":  # whom it waited for in vain
                await moved(connection, row, "refuse", by, decision.reason)
                return []
            held(row, by)
            known = await judged(connection, self.vault, row)
            if decision.event == "approve":
                _whole(known)
                if known.by_two:
                    return known.by_two
                await self._approve(connection, row, known, decision.reason, by)
            else:
                await moved(connection, row, decision.event, by, decision.reason, known.detail())
        return []

    async def approved(self, connection: Connection, application_id: UUID, payload: Mapping[str, Any], people: Mapping[str, str]) -> None:
        """What two people agreed on, if it is still what they looked at."""
        row = await locked(connection, application_id)
        if row["version"] != payload["version"]:
            raise Problem("application_changed")
        known = await judged(connection, self.vault, row)
        _whole(known)
        by = Person(people["requested_by"], "")
        await self._approve(connection, row, known, people["reason"], by, people["decided_by"])

    async def _approve(self, connection: Connection, row: asyncpg.Record, known: Judged, reason: str, by: Person,
                       agreed_by: str | None = None) -> None:
        """One person's approval leaves the bank account asked: its payouts wait for another's."""
        possible(row, "approve")
        merchant_id = await self._opened(connection, row, known, by, by.name, agreed_by)
        more = {} if agreed_by is None else {"agreed_by": agreed_by}
        await moved(connection, row, "approve", by, reason, known.detail() | more, merchant_id=merchant_id)

    async def _opened(self, connection: Connection, row: asyncpg.Record, known: Judged, by: Person, asked_by: str, agreed_by: str | None) -> UUID:
        account = next(account_of(each.fields) for each in known.documents if each.row["kind"] == ACCOUNT)
        merchant_id = await opened(connection, self.vault, row["country"], known.profile, account, asked_by, agreed_by)
        if self.drafted is not None:
            await self.drafted(connection, merchant_id, row["country"], known.facts.currency, by)
        shown = show("application", row["application_id"])
        await tell(connection, merchant_id, "application.approved", shown, {"id": shown, "merchant": show("merchant", merchant_id)})
        return merchant_id


def possible(row: asyncpg.Record, event: str) -> None:
    """Raises Problem application_move."""
    refused = LIFE.refusal(row["state"], event)
    if refused is not None:
        raise Problem(*refused)


def _whole(known: Judged) -> None:
    """An approval follows a look at every document. Raises Problem application_incomplete."""
    if known.gaps:
        raise _incomplete(known.gaps)
    if known.facts.documents_accepted < known.facts.documents:
        raise Problem("application_incomplete", "Somebody must look at every document first.",
                      errors=[{"field": each.row["kind"], "rule": "Accept or refuse it.", "type": "unseen"} for each in known.documents
                              if each.row["verdict"] is None])


async def _decided(connection: Connection, row: asyncpg.Record, decision: Decision, by: Person) -> bool:
    last = await connection.fetchrow(LAST, row["application_id"], decision.version + 1)
    return (last is not None and row["version"] == decision.version + 1 and last["event"] == decision.event
            and same_person(last["person"], by.name))
