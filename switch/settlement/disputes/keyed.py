"""One key, one effect, one answer: what a key was answered is stored in the commit that did its work, and given again byte for byte."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import asyncpg

from switch import metrics
from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.failpoints import failpoint

LOCK = "SELECT pg_advisory_xact_lock(3583033, hashtext($1 || ' ' || $2))"
KNOWN = "SELECT route, fingerprint, status, body FROM keyed_answer WHERE caller = $1 AND idempotency_key = $2"
KEEP = "INSERT INTO keyed_answer (caller, idempotency_key, route, fingerprint, status, body) VALUES ($1, $2, $3, $4, $5, $6)"


class Asked(NamedTuple):
    """`caller`: whose key it is, such as the shown id of a merchant or `person:` and a name."""

    caller: str
    key: str
    route: str
    fingerprint: bytes


class Answered(NamedTuple):
    status: int
    body: str
    replayed: bool


async def once(pool: Pool, asked: Asked, work: Callable[[Connection], Awaitable[tuple[int, str]]], codes: dict[str, str]) -> Answered:
    """Runs `work` in one database transaction, once for its key; a second request waits for the first and gets its answer.

    `codes`: constraints that `work` may break, and the problem each of them is. Raises Problem: idempotency_key_reused, not_ready (the same key
    may be sent again), and what `work` raises, of which nothing is stored.
    """
    try:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(LOCK, asked.caller, asked.key)
            known = await connection.fetchrow(KNOWN, asked.caller, asked.key)
            if known is not None:
                if known["route"] != asked.route or known["fingerprint"] != asked.fingerprint:
                    raise Problem("idempotency_key_reused")
                metrics.replays.inc()
                return Answered(known["status"], known["body"], True)
            status, body = await work(connection)
            await connection.execute(KEEP, asked.caller, asked.key, asked.route, asked.fingerprint, status, body)
            failpoint("keyed.work")
        return Answered(status, body, False)
    except asyncpg.IntegrityConstraintViolationError as error:
        code = codes.get(error.constraint_name or "")
        if code is None:
            raise
    except UNKNOWN:
        raise Problem("not_ready", "It is not known whether it was written. Send the same key again.", retry_after=2) from None
    raise Problem(code)
