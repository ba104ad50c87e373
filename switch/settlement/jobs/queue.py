"""The queue under the jobs: pgqueuer's tables in the schema `queue`, which revision 0010 made and nothing at run time alters."""

from collections.abc import Sequence
from uuid import UUID

from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder, QuerySchedulerBuilder
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.domain.types import Channel

from switch.database import Connection

ROLE = "switch_queue"  # the only role that deletes, and only here
CHANNEL = Channel("ch_pgqueuer")
# Each name is said: what is left out pgqueuer reads from variables of the environment, such as CHANNEL.
NAMES = DBSettings(prefix="", db_schema="queue", channel=CHANNEL, function="fn_pgqueuer_changed", statistics_table="pgqueuer_statistics",
                   queue_status_type="pgqueuer_status", queue_table="pgqueuer", queue_table_log="pgqueuer_log", trigger="tg_pgqueuer_changed",
                   schedules_table="pgqueuer_schedules", durability=Durability.durable, widen_id=False)


def queries(connection: Connection) -> Queries:
    """pgqueuer's statements on this connection, in the schema `queue`."""
    return Queries(AsyncpgDriver(connection), QueryBuilderEnvironment(NAMES), QueryQueueBuilder(NAMES), QuerySchedulerBuilder(NAMES))  # type: ignore[arg-type]


async def push(connection: Connection, jobs: Sequence[tuple[str, UUID]], entry: str = "") -> None:
    """Puts jobs (kind, id) into the queue, in the caller's transaction. One that is in it already stays as it is.

    `entry` tells this place in the queue from the one that an attempt which has just ended leaves a moment later.
    """
    if jobs:
        count = len(jobs)
        await queries(connection).enqueue([kind for kind, _ in jobs], [job_id.bytes for _, job_id in jobs], [0] * count, None,
                                          [f"{job_id}{entry}" for _, job_id in jobs], None, on_conflict="skip")


HASTEN = """WITH due AS (UPDATE queue.pgqueuer SET execute_after = now() WHERE payload = $1 AND status = 'queued' RETURNING id)
SELECT count(*) FROM due"""


async def hasten(connection: Connection, job_id: UUID) -> bool:
    """What waits in the queue for a later attempt is due now; whether anything does."""
    return bool(await connection.fetchval(HASTEN, job_id.bytes))
