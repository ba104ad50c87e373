"""Endpoints of merchants: made, changed, disabled, their secrets rotated; the log of what was delivered, and sending again."""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from switch.clock import clock
from switch.database import UNKNOWN, Pool
from switch.errors import Problem
from switch.ids import lowest, show
from switch.notices import webhooks
from switch.notices.addresses import Refused
from switch.notices.events import body_of, new_id
from switch.notices.post import Post
from switch.notices.subscribed import Subscribed
from switch.security.vault import Vault

PER_MERCHANT_MAX = 20
PAGE_MAX = 200
BEHIND = timedelta(minutes=15)  # where a new cursor begins: as far back as it would stand

_ENDPOINT = """endpoint_id, merchant_id, url, description, types, state, disabled_reason, disabled_at, failing_since, last_status, last_fault,
old_secret_until, per_second, at_once, created_at"""
LOCK_MERCHANT = "SELECT FROM merchant WHERE merchant_id = $1 FOR NO KEY UPDATE"
COUNT = "SELECT count(*) FROM webhook_endpoint WHERE merchant_id = $1 AND state = 'enabled'"
CREATE = f"""INSERT INTO webhook_endpoint (merchant_id, endpoint_id, url, description, types, secret_key, secret_sealed)
VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {_ENDPOINT}"""
CURSOR = "INSERT INTO webhook_cursor (merchant_id, read_to, closed_to) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
PAGE = f"""SELECT {_ENDPOINT} FROM webhook_endpoint WHERE ($1::uuid IS NULL OR merchant_id = $1) AND ($2::uuid IS NULL OR endpoint_id < $2)
AND (NOT $3 OR failing_since IS NOT NULL OR disabled_reason IN ('gone', 'failing')) ORDER BY endpoint_id DESC LIMIT $4"""
GET = f"SELECT {_ENDPOINT} FROM webhook_endpoint WHERE endpoint_id = $1 AND ($2::uuid IS NULL OR merchant_id = $2)"
# What was disabled and is enabled again is told what happens from now on.
CHANGE = f"""UPDATE webhook_endpoint SET url = coalesce($3, url), description = coalesce($4, description), types = coalesce($5, types),
  state = CASE WHEN $6 THEN 'enabled' WHEN NOT $6 THEN 'disabled' ELSE state END,
  disabled_reason = CASE WHEN $6 THEN NULL WHEN NOT $6 THEN coalesce(disabled_reason, 'merchant') ELSE disabled_reason END,
  disabled_at = CASE WHEN $6 THEN NULL WHEN NOT $6 THEN coalesce(disabled_at, now()) ELSE disabled_at END,
  since = CASE WHEN $6 AND state = 'disabled' OR $5 IS NOT NULL THEN now() ELSE since END,
  failing_since = CASE WHEN $6 OR $3 IS NOT NULL THEN NULL ELSE failing_since END,
  resume_at = CASE WHEN $6 OR $3 IS NOT NULL THEN NULL ELSE resume_at END
WHERE endpoint_id = $1 AND merchant_id = $2 RETURNING {_ENDPOINT}"""
END_ALL = """UPDATE webhook_delivery SET state = 'failed', ended_at = now(), leased_until = NULL, last_fault = 'endpoint_disabled'
WHERE endpoint_id = $1 AND state = 'due'"""
ROTATE = f"""UPDATE webhook_endpoint SET old_secret_key = secret_key, old_secret_sealed = secret_sealed, old_secret_until = now() + $5,
  secret_key = $3, secret_sealed = $4 WHERE endpoint_id = $1 AND merchant_id = $2 RETURNING {_ENDPOINT}"""
EVENT = "INSERT INTO webhook_event (merchant_id, event_id, type, object, happened_at, body) VALUES ($1, $2, 'webhook.test', $3, $4, $5)"
DELIVERY = "INSERT INTO webhook_delivery (merchant_id, endpoint_id, event_id) VALUES ($1, $2, $3)"
_DELIVERY = """d.event_id, e.type, e.object, d.state, d.attempts, d.next_attempt_at, d.last_status, d.last_fault, e.happened_at, d.created_at,
d.ended_at"""
DELIVERIES = f"""SELECT {_DELIVERY} FROM webhook_delivery d JOIN webhook_event e USING (merchant_id, event_id)
WHERE d.merchant_id = $1 AND d.endpoint_id = $2 AND ($3::uuid IS NULL OR d.event_id < $3) AND ($4::text IS NULL OR d.state = $4)
ORDER BY d.event_id DESC LIMIT $5"""
ONE = f"""SELECT {_DELIVERY}, e.body FROM webhook_delivery d JOIN webhook_event e USING (merchant_id, event_id)
WHERE d.merchant_id = $1 AND d.endpoint_id = $2 AND d.event_id = $3"""
ATTEMPTS = """SELECT number, ended_at, duration_ms, status, fault, answer FROM webhook_attempt
WHERE merchant_id = $1 AND endpoint_id = $2 AND event_id = $3 ORDER BY number DESC LIMIT 100"""
# Not while an attempt is on its way: what it comes to is written first.
REDELIVER = """UPDATE webhook_delivery SET state = 'due', step = 0, next_attempt_at = now(), leased_until = NULL, ended_at = NULL
WHERE merchant_id = $1 AND endpoint_id = $2 AND event_id = $3 AND (leased_until IS NULL OR leased_until <= now()) RETURNING true"""


class Endpoints:
    """Raises Problem: not_found, invalid, conflict, not_ready (the database is away). `merchant_id` None: an operator asks, for all."""

    def __init__(self, pool: Pool, vault: Vault, post: Post, subscribed: Subscribed) -> None:
        self.pool, self.vault, self.post, self.subscribed = pool, vault, post, subscribed

    async def create(self, merchant_id: UUID, url: str, types: Sequence[str], description: str) -> tuple[asyncpg.Record, str]:
        """The endpoint and its secret, which is shown this once."""
        await self._check(url)
        identity, secret, now = new_id(), os.urandom(webhooks.SECRET_BYTES), clock.now()
        key_id, sealed = self.vault.seal_row("webhook", secret, identity.bytes)
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                await connection.execute(LOCK_MERCHANT, merchant_id)
                if await connection.fetchval(COUNT, merchant_id) >= PER_MERCHANT_MAX:
                    raise Problem("conflict", f"A merchant has at most {PER_MERCHANT_MAX} enabled endpoints; disable one first.")
                row = await connection.fetchrow(CREATE, merchant_id, identity, url, description, list(types), key_id, sealed)
                await connection.execute(CURSOR, merchant_id, lowest(now - BEHIND), now - BEHIND)
        except UNKNOWN:
            raise Problem("not_ready") from None
        assert row is not None
        self.subscribed.some.set()
        return row, webhooks.shown_secret(secret)

    async def page(self, merchant_id: UUID | None, after: UUID | None, failing: bool, limit: int) -> list[asyncpg.Record]:
        return await self._fetch(PAGE, merchant_id, after, failing, limit)

    async def get(self, merchant_id: UUID | None, endpoint_id: UUID) -> asyncpg.Record:
        found = await self._fetch(GET, endpoint_id, merchant_id)
        if not found:
            raise Problem("not_found")
        return found[0]

    async def change(self, merchant_id: UUID, endpoint_id: UUID, *, url: str | None = None, types: Sequence[str] | None = None,
                     description: str | None = None, enabled: bool | None = None) -> asyncpg.Record:
        """What is None stays. What was due to an endpoint that is disabled ends."""
        await self.get(merchant_id, endpoint_id)
        if url is not None:
            await self._check(url)
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                if enabled:
                    await connection.execute(LOCK_MERCHANT, merchant_id)
                row = await connection.fetchrow(CHANGE, endpoint_id, merchant_id, url, description, None if types is None else list(types), enabled)
                if enabled and await connection.fetchval(COUNT, merchant_id) > PER_MERCHANT_MAX:
                    raise Problem("conflict", f"A merchant has at most {PER_MERCHANT_MAX} enabled endpoints; disable one first.")
                if enabled is False:
                    await connection.execute(END_ALL, endpoint_id)
        except UNKNOWN:
            raise Problem("not_ready") from None
        assert row is not None
        if enabled:
            self.subscribed.some.set()
        return row

    async def rotate(self, merchant_id: UUID, endpoint_id: UUID) -> tuple[asyncpg.Record, str]:
        """A new secret, shown this once; for a day the old one signs beside it."""
        secret = os.urandom(webhooks.SECRET_BYTES)
        key_id, sealed = self.vault.seal_row("webhook", secret, endpoint_id.bytes)
        found = await self._fetch(ROTATE, endpoint_id, merchant_id, key_id, sealed, webhooks.ROTATION)
        if not found:
            raise Problem("not_found")
        return found[0], webhooks.shown_secret(secret)

    async def test(self, merchant_id: UUID, endpoint_id: UUID) -> asyncpg.Record:
        """An event of no other meaning, for this endpoint alone; returns its delivery."""
        endpoint = await self.get(merchant_id, endpoint_id)
        if endpoint["state"] != "enabled":
            raise Problem("conflict", "The endpoint is disabled; enable it first.")
        event_id, now = new_id(), clock.now()
        object_ = show("webhook_event", event_id)
        body = body_of("webhook.test", now, {"id": object_, "webhook": show("webhook", endpoint_id)})
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                await connection.execute(EVENT, merchant_id, event_id, object_, now, body)
                await connection.execute(DELIVERY, merchant_id, endpoint_id, event_id)
        except UNKNOWN:
            raise Problem("not_ready") from None
        return await self.delivery(merchant_id, endpoint_id, event_id)

    async def deliveries(self, merchant_id: UUID | None, endpoint_id: UUID, after: UUID | None, state: str | None,
                         limit: int) -> list[asyncpg.Record]:
        endpoint = await self.get(merchant_id, endpoint_id)
        return await self._fetch(DELIVERIES, endpoint["merchant_id"], endpoint_id, after, state, limit)

    async def delivery(self, merchant_id: UUID | None, endpoint_id: UUID, event_id: UUID) -> asyncpg.Record:
        endpoint = await self.get(merchant_id, endpoint_id)
        found = await self._fetch(ONE, endpoint["merchant_id"], endpoint_id, event_id)
        if not found:
            raise Problem("not_found")
        return found[0]

    async def attempts(self, merchant_id: UUID | None, endpoint_id: UUID, event_id: UUID) -> list[asyncpg.Record]:
        """The newest first, at most a hundred."""
        endpoint = await self.get(merchant_id, endpoint_id)
        return await self._fetch(ATTEMPTS, endpoint["merchant_id"], endpoint_id, event_id)

    async def redeliver(self, merchant_id: UUID, endpoint_id: UUID, event_id: UUID) -> asyncpg.Record:
        """Sends it again from now on, under the same webhook-id, with the whole schedule before it."""
        endpoint = await self.get(merchant_id, endpoint_id)
        await self.delivery(merchant_id, endpoint_id, event_id)
        if endpoint["state"] != "enabled":
            raise Problem("conflict", "The endpoint is disabled; enable it first.")
        if not await self._fetch(REDELIVER, merchant_id, endpoint_id, event_id):
            raise Problem("conflict", "An attempt is on its way; look at the log, then decide anew.")
        return await self.delivery(merchant_id, endpoint_id, event_id)

    async def _check(self, url: str) -> None:
        try:
            await self.post.check(url)
        except Refused as refused:
            raise Problem("invalid", errors=[{"field": "url", "rule": str(refused)}]) from None

    async def _fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        try:
            return await self.pool.fetch(statement, *arguments)
        except UNKNOWN:
            raise Problem("not_ready") from None
