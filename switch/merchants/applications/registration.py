"""Individuals who register themselves: an application and its key for whoever asks, so many from one address in a time."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from switch.database import Pool, work
from switch.errors import Problem
from switch.merchants.applications.cases import begun
from switch.merchants.applications.requirements import INDIVIDUAL
from switch.payments.resolution import Person
from switch.terminals.guesses import subject_of

APPLICANT = Person("applicant", "")


class Limit(NamedTuple):
    """So many registrations from one address in `within`."""

    most: int
    within: timedelta


LIMITS = (Limit(5, timedelta(hours=1)), Limit(20, timedelta(days=1)))
ALL = Limit(2000, timedelta(days=1))  # of all addresses: drafts that nobody fills cannot fill the database

# Whoever registers from the same address waits until this one is counted.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('registration ' || $1, 0))"
COUNT = """SELECT count(*) FILTER (WHERE at > now() - $2::interval) AS few, count(*) FILTER (WHERE at > now() - $3::interval) AS many
FROM application_registration WHERE subject = $1 AND at > now() - $3::interval"""
COUNT_ALL = "SELECT count(*) FROM application_registration WHERE at > now() - $1::interval"
ADD = "INSERT INTO application_registration (application_id, subject) VALUES ($1, $2)"


class Registrations:
    """Raises Problem: too_many_attempts, not_ready."""

    def __init__(self, writers: Pool) -> None:
        self.writers = writers

    async def register(self, country: str, profile: Mapping[str, Any], host: str | None) -> tuple[UUID, str]:
        """The application and the applicant's key. `host`: the address that asks, as far as proxies are trusted."""
        subject, (few, many) = subject_of(host), LIMITS
        async with work(self.writers) as connection:
            await connection.execute(LOCK, subject)
            row = await connection.fetchrow(COUNT, subject, few.within, many.within)
            assert row is not None
            for count, limit in ((row["few"], few), (row["many"], many), (await connection.fetchval(COUNT_ALL, ALL.within), ALL)):
                if count >= limit.most:
                    raise Problem("too_many_attempts", "Too many registrations from this address; come back later, or ask the operator.",
                                  retry_after=int(limit.within.total_seconds()))
            identity, key = await begun(connection, INDIVIDUAL, country, profile, APPLICANT)
            await connection.execute(ADD, identity, subject)
        return identity, key
