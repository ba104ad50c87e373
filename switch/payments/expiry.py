"""The end of authorizations that are captured by hand: what is left of them is released. Any number of workers may sweep."""

import asyncio

import asyncpg

from switch import logs
from switch.database import UNKNOWN, Pool

SWEEP_S = 10.0
SWEEP_MAX = 200

# The acquirer's hold ends by itself at the same time: nothing is sent. What a follow-up still holds stays its own; if it is given back
# later, a later sweep releases that too.
RELEASE = """
WITH due AS (
    SELECT transaction_id FROM transaction
    WHERE expires_at IS NOT NULL AND state = 'APPROVED' AND voided = 0 AND captured + capture_reserved + released < capturable
      AND expires_at <= now() AND void_reserved = 0
    ORDER BY expires_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
), released AS (
    UPDATE transaction t SET released = t.capturable - t.captured - t.capture_reserved, version = t.version + 1
    FROM due WHERE t.transaction_id = due.transaction_id RETURNING t.merchant_id, t.transaction_id, t.released
)
INSERT INTO transaction_event (merchant_id, transaction_id, kind, detail)
SELECT merchant_id, transaction_id, 'expired', jsonb_build_object('released', released) FROM released RETURNING 1
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
        """Releases what is left of expired authorizations; returns how many. Again changes nothing."""
        done = len(await self.pool.fetch(RELEASE, SWEEP_MAX))
        if done:
            logs.info("authorizations_expired", count=done)
        return done
