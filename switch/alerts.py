"""Alerts: a row, a metric, a log line. Kinds are a closed list; docs/runbook.md has an entry for each."""

import json
import os
import time
from types import MappingProxyType
from typing import Any

import asyncpg

from switch import logs, metrics
from switch.database import UNKNOWN, Pool
from switch.ids import uuid7

# kind -> what it means for money
KINDS = MappingProxyType({
    "contradicting_answer": "the acquirer answered the same request twice and differently",
    "acquirer_not_used": "an acquirer's timers do not nest: its new record is not used, and its payments may go nowhere",
    "answer_to_unsent": "the acquirer answered a request that never left this switch",
    "capture_declined": "the acquirer declined a capture advice: the merchant's money is at risk",
    "reversal_parked": "a reversal could not be delivered; a person must resolve it",
    "undelivered_approval": "an approval was not delivered to its terminal, and nobody has asked for it since",
    "unreadable_card": "a sealed card number could not be opened: its reversal cannot be built",
})

RAISE = """
INSERT INTO alert (alert_id, kind, object) VALUES ($1, $2, $3)
ON CONFLICT (kind, object) DO UPDATE SET last_at = now(), count = alert.count + 1, acknowledged_by = NULL, acknowledged_at = NULL
"""


class Alerts:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def raise_(self, kind: str, object_: str) -> None:
        """Raises an alert about an object (its shown id). The log line and the metric come even when the row cannot be written."""
        assert kind in KINDS, kind
        metrics.alerts.labels(kind).inc()
        logs.error("alert", alert=kind, detail=object_)
        try:
            await self.pool.execute(RAISE, uuid7(time.time_ns() // 1_000_000, os.urandom(10)), kind, object_)
        except (*UNKNOWN, asyncpg.PostgresError) as error:
            logs.error("alert_not_written", alert=kind, error=type(error).__name__)


def detail(**fields: Any) -> str:
    """The detail of an event row, as JSON."""
    return json.dumps(fields, default=str)
