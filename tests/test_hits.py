"""Hits on their way into the books: bounded, never silently lost, and written once however often they are sent."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from switch import database, metrics
from switch.alerts import Alerts
from switch.payments.hits import LEFT_MAX, Hits
from tests.flows import Shop
from tests.test_risk_flow import shop, till  # noqa: F401


async def never(*_: Any) -> None:
    raise AssertionError("no hold was asked for")


def made(shop: Shop, name: str, **changed: Any) -> dict[str, Any]:  # noqa: F811
    return {"merchant_id": str(shop.ids[f"merchant.{name}"]), "store_id": str(uuid4()), "terminal_id": str(shop.ids[f"terminal.{name}"]),
            "idempotency_key": "k" * 16, "pan_token": "5d" * 32, "masked_pan": "411111******1111", "amount": 5, "currency": "CNY",
            "hit_at": "2026-03-01T02:03:04Z", "transaction_id": None, "hit_id": str(uuid4()), "source": "rule", "source_id": str(UUID(int=5)),
            "kind": "amount", "action": "decline", "blocks": None, "why": "much", "figures": {}, **changed}


async def test_what_cannot_be_kept_is_counted_and_an_alert(shop: Shop) -> None:  # noqa: F811
    name = await till(shop)
    pool = await database.pool(shop.url, "switch_writer", 2)
    try:
        hits, row = Hits(pool, Alerts(pool), never, never), made(shop, name)
        before = metrics.risk_hits_lost._value.get()
        hits.keep([row] * (LEFT_MAX + 3))
        assert (len(hits.left), hits.lost, metrics.risk_hits_lost._value.get() - before) == (LEFT_MAX, 3, 3)
        del hits.left[10:]
        assert not hits.left[0][1].is_set()
        await hits.write()
        assert hits.left == []
        (stored,) = await shop.sql("SELECT times, action FROM risk_hit WHERE hit_id = $1", UUID(row["hit_id"]))
        assert (stored["times"], stored["action"]) == (1, "decline")
    finally:
        await pool.close()


@pytest.mark.parametrize("again", ["same", "another"])
async def test_the_same_hit_is_written_once_and_another_try_of_the_key_is_a_time_more(shop: Shop, again: str) -> None:  # noqa: F811
    row = made(shop, await till(shop))
    second = row if again == "same" else {**row, "hit_id": str(uuid4())}
    for each in (row, second):
        await shop.sql("SELECT record_risk_hits($1::jsonb, NULL)", json.dumps([each]))
    (stored,) = await shop.sql("SELECT hit_id, times FROM risk_hit WHERE terminal_id = $1", UUID(row["terminal_id"]))
    assert (str(stored["hit_id"]), stored["times"]) == (row["hit_id"], 1 if again == "same" else 2)
