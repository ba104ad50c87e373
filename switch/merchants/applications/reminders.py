"""Reminders: a document of a merchant that ends soon, once for each threshold, and a review that is late, once for each turn. Each is an alert."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from switch import alerts
from switch.database import Pool
from switch.ids import show
from switch.settlement.jobs.table import Due, Run

DAYS = (0, 7, 30)  # before a document's last day, the last first: of several that have come one is told
AT_ONCE = 200
ENDS, LATE = "document_ends", "review_overdue"  # kinds of alerts

# The newest version of a document of a merchant, as long as nobody was told at this threshold.
ENDING = """SELECT d.document_id, d.expires_on, t.days FROM application_document d JOIN application a USING (application_id)
CROSS JOIN LATERAL (SELECT min(days) AS days FROM unnest($2::integer[]) AS days WHERE d.expires_on - $1::date <= days) t
WHERE a.state = 'approved' AND d.expires_on <= $1::date + $3::integer
AND NOT EXISTS (SELECT FROM application_document n WHERE n.application_id = d.application_id AND n.kind = d.kind AND n.number > d.number)
AND NOT EXISTS (SELECT FROM application_reminder r WHERE r.object = 'doc_' || d.document_id AND r.threshold = 'days' || t.days)
ORDER BY d.expires_on, d.document_id LIMIT $4"""
OVERDUE = """SELECT application_id, version FROM application a WHERE due_at < $1 AND state IN ('submitted', 'in_review')
AND NOT EXISTS (SELECT FROM application_reminder r WHERE r.object = 'apl_' || a.application_id AND r.threshold = 'version' || a.version)
ORDER BY due_at, application_id LIMIT $2"""
TOLD = "INSERT INTO application_reminder (object, threshold) VALUES ($1, $2) ON CONFLICT (object, threshold) DO NOTHING RETURNING true"


class Reminders:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def due(self, now: datetime) -> list[Due]:
        """A job for each reminder that has come, by the day of UTC."""
        documents = await self.pool.fetch(ENDING, now.date(), list(DAYS), max(DAYS), AT_ONCE)
        reviews = await self.pool.fetch(OVERDUE, now, AT_ONCE)
        found = [(ENDS, show("document", row["document_id"]), f"days{row['days']}") for row in documents]
        found += [(LATE, show("application", row["application_id"]), f"version{row['version']}") for row in reviews]
        return [Due(f"{shown}:{at}", {"kind": kind, "object": shown, "threshold": at}) for kind, shown, at in found]

    async def do(self, run: Run) -> Mapping[str, Any]:
        kind, shown = run.job.arguments["kind"], run.job.arguments["object"]
        async with run.pool.acquire() as connection, connection.transaction():
            first = bool(await connection.fetchval(TOLD, shown, run.job.arguments["threshold"]))
            if first:
                await alerts.raise_within(connection, kind, shown)
            await run.hold(connection)
        if first:
            alerts.announce(kind, shown)
        return {"told": first}
