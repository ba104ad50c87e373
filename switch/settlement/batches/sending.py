"""What is owed to an acquirer of a batch, as rows of a table: numbered before it leaves, leased while it is asked, asked again after silence."""

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from switch.database import Connection, Pool
from switch.links import Bounced, Link, Reply, Silence
from switch.links.numbering import Numbers

LEASE_MARGIN_S = 10.0
SEND_WITHIN_S = 2.0
PAUSE_S, PAUSE_MAX_S = 2.0, 300.0
Key = Sequence[object]


def pause(transmissions: int, fraction: float) -> timedelta:
    """Until it is asked again: doubled each time, with jitter. `fraction`: from 0 to 1."""
    return timedelta(seconds=min(PAUSE_MAX_S, PAUSE_S * 2.0 ** min(transmissions, 10)) * (0.5 + fraction / 2))


class Owed:
    """Rows of one table, which have stan, transmitted_at, transmissions, next_attempt_at, state, code and answered_at."""

    def __init__(self, table: str, *key: str) -> None:
        which, at = " AND ".join(f"{column} = ${number}" for number, column in enumerate(key, 1)), len(key)
        waiting = f"{which} AND state = 'waiting'"
        self._sending = f"""UPDATE {table} SET stan = ${at + 1}, transmitted_at = ${at + 2}, transmissions = transmissions + 1,
next_attempt_at = now() + ${at + 3} WHERE {which}"""
        self._not_sent = f"UPDATE {table} SET transmissions = transmissions - 1, next_attempt_at = now() + ${at + 1} WHERE {waiting}"
        self._later = f"UPDATE {table} SET next_attempt_at = now() + ${at + 1}, code = ${at + 2} WHERE {waiting}"
        self._answered = f"UPDATE {table} SET state = ${at + 1}, code = ${at + 2}, answered_at = now() WHERE {waiting} RETURNING true"

    async def sending(self, connection: Connection, key: Key, stan: str, transmitted_at: str, answer_timeout_s: float) -> None:
        await connection.execute(self._sending, *key, stan, transmitted_at, timedelta(seconds=answer_timeout_s + LEASE_MARGIN_S))

    async def heard(self, pool: Pool, key: Key, transmissions: int, result: Reply | Bounced | Silence,
                    meaning: Callable[[Mapping[str, str]], str | None]) -> tuple[str, str] | None:
        """What was answered, by `meaning`, and its code. None: nothing that counts, and when it is asked again is written."""
        if isinstance(result, Bounced):
            await self.not_sent(pool, key)
            return None
        code = result.message["39"].strip() if isinstance(result, Reply) else None
        found = meaning(result.message) if isinstance(result, Reply) else None
        if found is None or code is None:
            await self.later(pool, key, transmissions, code)
            return None
        return found, code

    async def not_sent(self, pool: Pool, key: Key) -> None:
        await pool.execute(self._not_sent, *key, pause(0, random.random()))

    async def later(self, pool: Pool, key: Key, transmissions: int, code: str | None) -> None:
        await pool.execute(self._later, *key, pause(transmissions, random.random()), code)

    async def answered(self, connection: Connection | Pool, key: Key, state: str, code: str | None) -> bool:
        """False: somebody else wrote it before."""
        return bool(await connection.fetchval(self._answered, *key, state, code))


def numbered(numbers: Numbers, acquirer_id: UUID, stan: str | None, transmitted_at: str | None, now: str) -> tuple[str, str] | None:
    """DE11 and DE7 of a message: what it had when it was first sent, else new ones; None when no number is left."""
    if stan is not None and transmitted_at is not None:
        return stan, transmitted_at
    new = numbers.stan(acquirer_id)
    return None if new is None else (new, now)


async def asked(link: Link | None, message: Mapping[str, str], now: float, answer_timeout_s: float) -> Reply | Bounced | Silence:
    if link is None:
        return Bounced("line_down")
    return await link.request(dict(message), send_not_after=now + SEND_WITHIN_S, deadline=now + answer_timeout_s)
