"""The end of authorizations that are captured by hand: what is left of them is released. Any number of workers may sweep."""

import asyncio

import asyncpg

from switch import logs
from switch.database import UNKNOWN, Pool

SWEEP_S = 10.0
SWEEP_MAX = 200

# The acquirer's hold ends by itself at the same time: nothing is sent. What a follow-up still holds stays its own; if it is given back
# later, the trigger of follow-ups sets release_at again, and a later sweep releases that too.
RELEASE = """
WITH due AS (
    SELECT transaction_id FROM transaction WHERE release_at IS NOT NULL AND release_at <= now()
    ORDER BY release_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
), looked_at AS (
    UPDATE transaction t SET release_at = NULL, version = t.version + 1,
      released = CASE WHEN t.state IN ('APPROVED', 'CONFIRMED') AND t.voided = 0 THEN t.capturable - t.captured - t.capture_reserved
                      ELSE t.released END
    FROM due WHERE t.transaction_id = due.transaction_id RETURNING t.merchant_id, t.transaction_id, t.released
), told AS (
    INSERT INTO transaction_event (merchant_id, transaction_id, kind, detail)
    SELECT merchant_id, transaction_id, 'expired', jsonb_build_object('released', released) FROM looked_at WHERE released > 0
)
SELECT count(*) FROM looked_at
"""


class Expiry:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def work(self) -> None:
        """Sweeps until cancelled; a full batch is followed by the next at once."""
        while True:
            try:
                if await self.sweep() == SWEEP_MAX:
                    continue
            except (*UNKNOWN, asyncpg.PostgresError) as error:
                logs.warning("expiry_interrupted", error=type(error).__name__)
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> int:
        """Releases what is left of expired authorizations; returns how many it looked at. Again changes nothing."""
        done: int = await self.pool.fetchval(RELEASE, SWEEP_MAX)
        if done:
            logs.info("authorizations_expired", count=done)
        return done
