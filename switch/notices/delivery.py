"""The sender of webhooks: takes deliveries that are due by lease, sends each signed, writes down what came of it. Rules: webhooks.py.

At least once: an attempt is counted before it is made and recorded after; a worker that dies in between leaves a lease that ends, and the
same event goes again under the same webhook-id.
"""

import asyncio
import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch import alerts, logs, metrics
from switch.clock import clock
from switch.database import UNKNOWN, Connection, Pool
from switch.failpoints import failpoint
from switch.ids import show
from switch.notices import webhooks
from switch.notices.events import new_id
from switch.notices.post import Post
from switch.notices.subscribed import Subscribed
from switch.notices.webhooks import Result, Verdict
from switch.security.vault import Vault, VaultError

POLL_S = 0.25
PLACES = 200  # deliveries on their way from one worker
PLACES_FAILING = 100  # of them to endpoints that fail: many that hang must not hold up those that answer
STOP_S = 3.0
GAUGE_S = 5.0
COUNT_MAX = 10_000
ENDPOINTS_MAX = 100

# The endpoints first and alone: the next statement then sees what others took of them, and nobody takes more than an endpoint's share.
# Those that answer come before those that fail.
LOCK = """
SELECT w.endpoint_id FROM webhook_endpoint w
WHERE w.state = 'enabled' AND (w.resume_at IS NULL OR w.resume_at <= now()) AND (w.failing_since IS NOT NULL) = $2 AND EXISTS (
    SELECT FROM webhook_delivery d WHERE d.endpoint_id = w.endpoint_id AND d.state = 'due' AND d.next_attempt_at <= now()
      AND (d.leased_until IS NULL OR d.leased_until <= now()))
ORDER BY w.taken_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
"""
# Of each endpoint as many as its pace allows since the last taking and as may be at once; one that fails gets one.
TAKE = """
WITH room AS (
    SELECT w.endpoint_id, least(floor(extract(epoch FROM now() - w.taken_at) * w.per_second), w.per_second,
        CASE WHEN w.failing_since IS NULL THEN w.at_once ELSE 1 END
        - (SELECT count(*) FROM webhook_delivery b WHERE b.endpoint_id = w.endpoint_id AND b.state = 'due' AND b.leased_until > now())) AS at_most
    FROM webhook_endpoint w WHERE w.endpoint_id = ANY($1::uuid[])
), due AS (
    SELECT d.merchant_id, d.endpoint_id, d.event_id FROM room r CROSS JOIN LATERAL (
        SELECT merchant_id, endpoint_id, event_id, next_attempt_at FROM webhook_delivery
        WHERE endpoint_id = r.endpoint_id AND state = 'due' AND next_attempt_at <= now() AND (leased_until IS NULL OR leased_until <= now())
        ORDER BY next_attempt_at, event_id LIMIT greatest(r.at_most, 0)::bigint FOR NO KEY UPDATE SKIP LOCKED) d
    LIMIT $2
), taken AS (
    UPDATE webhook_delivery d SET attempts = d.attempts + 1, leased_until = now() + $3::interval FROM due
    WHERE (d.merchant_id, d.endpoint_id, d.event_id) = (due.merchant_id, due.endpoint_id, due.event_id)
    RETURNING d.merchant_id, d.endpoint_id, d.event_id, d.attempts, d.step
), paced AS (
    UPDATE webhook_endpoint SET taken_at = now() WHERE endpoint_id IN (SELECT endpoint_id FROM taken)
)
SELECT t.merchant_id, t.endpoint_id, t.event_id, t.attempts, t.step, w.url, w.secret_key, w.secret_sealed, w.failing_since,
  CASE WHEN w.old_secret_until > now() THEN w.old_secret_key END AS old_secret_key, w.old_secret_sealed, e.body
FROM taken t JOIN webhook_endpoint w USING (merchant_id, endpoint_id) JOIN webhook_event e USING (merchant_id, event_id) ORDER BY t.event_id
"""
# A success is written on the endpoint only when it ends a failure or says something new: else each delivery would write a row that others wait for.
WORKS = """UPDATE webhook_endpoint SET failing_since = NULL, last_status = $2, last_fault = NULL, resume_at = NULL
WHERE endpoint_id = $1 AND (failing_since IS NOT NULL OR last_status IS DISTINCT FROM $2)"""
FAILS = """UPDATE webhook_endpoint SET failing_since = coalesce(failing_since, now()), last_status = $2, last_fault = $3,
resume_at = greatest(resume_at, $4) WHERE endpoint_id = $1"""
DISABLE = """UPDATE webhook_endpoint SET state = 'disabled', disabled_reason = $2, disabled_at = now()
WHERE endpoint_id = $1 AND state = 'enabled' RETURNING true"""
END_ALL = """UPDATE webhook_delivery SET state = 'failed', ended_at = now(), leased_until = NULL, last_fault = 'endpoint_disabled'
WHERE endpoint_id = $1 AND state = 'due'"""
# Only what is still this attempt's: a lease that ran out may have given the delivery to somebody else.
SETTLE = """
UPDATE webhook_delivery SET state = $5, step = step + 1, next_attempt_at = coalesce($6, next_attempt_at), leased_until = NULL, last_status = $7,
  last_fault = $8, ended_at = CASE WHEN $5 <> 'due' THEN now() END
WHERE merchant_id = $1 AND endpoint_id = $2 AND event_id = $3 AND attempts = $4 AND state = 'due'
"""
ATTEMPT = """INSERT INTO webhook_attempt (merchant_id, endpoint_id, event_id, number, duration_ms, status, fault, answer)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING"""
DUE = "SELECT count(*) FROM (SELECT FROM webhook_delivery WHERE state = 'due' AND next_attempt_at <= now() LIMIT $1) AS counted"
FAILING = "SELECT count(*) FROM (SELECT FROM webhook_endpoint WHERE failing_since IS NOT NULL AND state = 'enabled' LIMIT $1) AS counted"


class Taken(NamedTuple):
    """A delivery that is this worker's until its lease ends, with what is sent."""

    merchant_id: UUID
    endpoint_id: UUID
    event_id: UUID
    attempts: int
    step: int
    url: str
    secret_key: str
    secret_sealed: bytes
    failing_since: datetime | None
    old_secret_key: str | None
    old_secret_sealed: bytes | None
    body: str


class Sender:
    """Any number of workers may run; a delivery is taken by one at a time."""

    def __init__(self, pool: Pool, vault: Vault, post: Post, subscribed: Subscribed) -> None:
        self.pool, self.vault, self.post, self.subscribed = pool, vault, post, subscribed
        self.at_work: dict[asyncio.Task[None], bool] = {}  # whether it goes to an endpoint that fails
        self.gauged_at = float("-inf")

    async def work(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            more = 0
            if not self.subscribed.some.is_set():
                metrics.webhooks_due.set(0)
                metrics.webhooks_failing.set(0)
                await self.subscribed.some.wait()
            try:
                more = await self.turn()
                if loop.time() - self.gauged_at >= GAUGE_S:
                    self.gauged_at = loop.time()
                    metrics.webhooks_due.set(await self.pool.fetchval(DUE, COUNT_MAX))
                    metrics.webhooks_failing.set(await self.pool.fetchval(FAILING, COUNT_MAX))
            except (*UNKNOWN, asyncpg.PostgresError) as error:
                logs.warning("webhooks_not_read", error=type(error).__name__)
                await asyncio.sleep(1)
            await asyncio.sleep(0.02 if more else POLL_S)

    async def stop(self) -> None:
        """What is on its way gets a moment to be written down; the rest goes again when its lease has ended."""
        if self.at_work:
            await asyncio.wait(self.at_work, timeout=STOP_S)
        for task in self.at_work:
            task.cancel()

    async def turn(self) -> int:
        """Takes what is due and may leave now, and sends it in tasks; returns how many."""
        free = PLACES - len(self.at_work)
        if free <= 0:
            return 0
        failing = PLACES_FAILING - sum(self.at_work.values())
        async with self.pool.acquire() as connection, connection.transaction():
            endpoints = [row[0] for row in await connection.fetch(LOCK, min(free, ENDPOINTS_MAX), False)]
            if (room := min(free - len(endpoints), failing)) > 0:
                endpoints += [row[0] for row in await connection.fetch(LOCK, room, True)]
            rows = await connection.fetch(TAKE, endpoints, free, timedelta(seconds=webhooks.LEASE_S)) if endpoints else []
        for taken in (Taken(*row) for row in rows):
            task = asyncio.get_running_loop().create_task(self._deliver(taken))
            self.at_work[task] = taken.failing_since is not None
            task.add_done_callback(self._ended)
        return len(rows)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """A fault of our own in one delivery ends neither the worker nor the delivery, whose lease ends by itself."""
        del self.at_work[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            logs.error("webhook_interrupted", error=type(error).__name__, where=logs.place(error))

    async def _deliver(self, taken: Taken) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        result = await self._send(taken)
        failpoint("webhook.sent")
        duration_ms = round((loop.time() - started) * 1000)
        metrics.webhook_seconds.observe(duration_ms / 1000)
        found = webhooks.verdict(result, taken.step, taken.failing_since, clock.now(), random.random())
        metrics.webhooks.labels("delivered" if found.delivered else "failed" if found.again_at is None else "again").inc()
        async with self.pool.acquire() as connection, connection.transaction():
            disabled = await self._record(connection, taken, result, found, duration_ms)
        if disabled:
            alerts.announce("webhook_disabled", show("webhook", taken.endpoint_id))
        if not found.delivered:
            logs.info("webhook_not_delivered", detail=show("webhook", taken.endpoint_id), status=result.status, reason=result.fault,
                      attempt=taken.attempts, ms=duration_ms)

    async def _send(self, taken: Taken) -> Result:
        body, message_id = taken.body.encode(), show("webhook_event", taken.event_id)
        try:
            secrets = [self.vault.open_row("webhook", taken.secret_key, taken.secret_sealed, taken.endpoint_id.bytes)]
            if taken.old_secret_key is not None and taken.old_secret_sealed is not None:
                secrets.append(self.vault.open_row("webhook", taken.old_secret_key, taken.old_secret_sealed, taken.endpoint_id.bytes))
        except VaultError as error:
            logs.error("webhook_secret_unreadable", detail=show("webhook", taken.endpoint_id), code=error.code)
            return Result(None, "secret_unreadable")
        headers: Mapping[str, str] = webhooks.headers(secrets, message_id, int(clock.now().timestamp()), body)
        return await self.post.send(taken.url, headers, body)

    async def _record(self, connection: Connection, taken: Taken, result: Result, found: Verdict, duration_ms: int) -> bool:
        """What came of an attempt, with what it means for the endpoint, in one commit. Whether the endpoint was disabled by it."""
        key = (taken.merchant_id, taken.endpoint_id, taken.event_id)
        if found.delivered:
            await connection.execute(WORKS, taken.endpoint_id, result.status)
        else:
            await connection.execute(FAILS, taken.endpoint_id, result.status, result.fault, found.resume_at)
        state = "delivered" if found.delivered else "failed" if found.again_at is None else "due"
        await connection.execute(SETTLE, *key, taken.attempts, state, found.again_at, result.status, result.fault)
        await connection.execute(ATTEMPT, *key, taken.attempts, duration_ms, result.status, result.fault, result.answer or None)
        if not found.disable or not await connection.fetchval(DISABLE, taken.endpoint_id, found.disable):
            return False
        await connection.execute(END_ALL, taken.endpoint_id)
        await connection.execute(alerts.RAISE, new_id(), "webhook_disabled", show("webhook", taken.endpoint_id))
        return True
