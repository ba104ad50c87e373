"""Lists of one owner among thousands read an index in its order, and no more rows than they show."""

import json
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from switch import database
from switch.database import Pool
from switch.merchants import Merchant, Store, Terminal
from switch.merchants.catalogue import WITHIN, paging
from tests import rows
from tests.test_history import nodes

ORGANISATION, PAGE = UUID(int=8), 10
HOUSE = (
    f"INSERT INTO merchant (merchant_id, organisation_id, name, mcc, time_zone) SELECT lpad(n::text, 32, '0')::uuid, '{ORGANISATION}', 'M', '5812', 'UTC' "
    "FROM generate_series(1, 60) n",
    "INSERT INTO store (merchant_id, store_id, name, city, country, time_zone) SELECT merchant_id, gen_random_uuid(), 'S', '', 'CN', 'UTC' "
    "FROM merchant, generate_series(1, 20)",
    "INSERT INTO terminal (merchant_id, store_id, terminal_id, name) SELECT merchant_id, store_id, gen_random_uuid(), 'T' FROM store, generate_series(1, 5)",
)


@pytest_asyncio.fixture(scope="module")
async def crowded(database_url: str) -> AsyncIterator[Pool]:
    owner = await asyncpg.connect(database_url)
    await rows.insert(owner, "organisation", organisation_id=ORGANISATION, name="Crowded")
    for statement in HOUSE:
        await owner.execute(statement)
    await owner.execute("ANALYZE")
    await owner.close()
    pool = await database.pool(database_url, "switch_writer", 1)
    yield pool
    await pool.close()


@pytest.mark.parametrize(("record", "owner"), [(record, name) for record, owners in WITHIN.items() for name in owners]
                         + [(Merchant, None), (Store, None), (Terminal, None)])
async def test_a_list_reads_an_index_in_its_order(crowded: Pool, record: type, owner: str | None) -> None:
    table = record.__name__.lower()
    ids = await crowded.fetch(f"SELECT {table}_id, {owner or 'NULL'} FROM {table} ORDER BY {table}_id DESC OFFSET 500 LIMIT 1") or [(None, None)]
    arguments = (ids[0][0], PAGE, *([ids[0][1]] if owner else []))
    plan = nodes(json.loads(await crowded.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {paging(record, owner)}", *arguments))[0]["Plan"])
    assert not {"Seq Scan", "Sort"} & {node["Node Type"] for node in plan if node.get("Relation Name") != "acquirer_terminal"}, plan
    assert sum(node.get("Rows Removed by Filter", 0) for node in plan) <= PAGE, plan
