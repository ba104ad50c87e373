"""Events as they are written: in the database transaction of what they tell, with a delivery for each endpoint that wants them."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from switch.clock import clock
from switch.database import Connection
from switch.ids import uuid7
from switch.notices.templates import KINDS
from switch.notices.webhooks import TYPES

# An event is written only if somebody wants it, and once, however often it is told. `since` has a second of slack: clocks of two machines.
TELL = """
WITH told AS (
    INSERT INTO webhook_event (merchant_id, event_id, type, object, happened_at, body)
    SELECT merchant_id, event_id, type, object, happened_at, body
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[], $6::text[])
         AS e (merchant_id, event_id, type, object, happened_at, body)
    WHERE EXISTS (SELECT FROM webhook_endpoint w WHERE w.merchant_id = e.merchant_id AND w.state = 'enabled' AND w.types && ARRAY[e.type, '*']
                  AND w.since <= e.happened_at + interval '1 second')
    ORDER BY merchant_id, object, type
    ON CONFLICT (merchant_id, object, type) DO NOTHING
    RETURNING merchant_id, event_id, type, happened_at
)
INSERT INTO webhook_delivery (merchant_id, endpoint_id, event_id)
SELECT t.merchant_id, w.endpoint_id, t.event_id FROM told t JOIN webhook_endpoint w ON w.merchant_id = t.merchant_id
WHERE w.state = 'enabled' AND w.types && ARRAY[t.type, '*'] AND w.since <= t.happened_at + interval '1 second'
ORDER BY t.event_id, w.endpoint_id
RETURNING true
"""
# For every merchant, whether or not it has an endpoint; once, however often it is told.
NOTICE = """
INSERT INTO notice (merchant_id, notice_id, kind, object, happened_at, data)
SELECT merchant_id, notice_id, kind, object, happened_at, data::jsonb
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[], $6::text[])
     AS n (merchant_id, notice_id, kind, object, happened_at, data)
ORDER BY merchant_id, object, kind ON CONFLICT (merchant_id, object, kind) DO NOTHING
"""


class Event(NamedTuple):
    """`object`: the shown id of what it is about; with `type` it makes the event one."""

    merchant_id: UUID
    type: str
    object: str
    happened_at: datetime
    data: Mapping[str, Any]


def new_id() -> UUID:
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


def body_of(type_: str, at: datetime, data: Mapping[str, Any]) -> str:
    """The envelope as it is signed and sent. ASCII, so that nothing on the way can read it otherwise."""
    return json.dumps({"type": type_, "timestamp": f"{at.isoformat(timespec='microseconds')[:26]}Z", "data": data}, separators=(",", ":"))


async def tell_all(connection: Connection, events: Sequence[Event]) -> int:
    """Writes events in their order, in the caller's database transaction; returns how many deliveries they made.

    What has words (templates.py) becomes a notice too, in the same commit."""
    if not events:
        return 0
    for event in events:
        assert event.type in TYPES, event.type
    noticed = [(e.merchant_id, new_id(), e.type, e.object, e.happened_at, json.dumps(dict(e.data))) for e in events if e.type in KINDS]
    if noticed:
        await connection.execute(NOTICE, *zip(*noticed, strict=True))
    rows = [(e.merchant_id, new_id(), e.type, e.object, e.happened_at, body_of(e.type, e.happened_at, e.data)) for e in events]
    return len(await connection.fetch(TELL, *zip(*rows, strict=True)))


async def tell(connection: Connection, merchant_id: UUID, type_: str, object_id: str, data: Mapping[str, Any]) -> int:
    """One event of now, told in the caller's database transaction: it is delivered if that commits, and once per `type_` and `object_id`."""
    return await tell_all(connection, [Event(merchant_id, type_, object_id, clock.now(), data)])
