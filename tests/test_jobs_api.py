"""Jobs over HTTP and on the command line, and what a running switch does with them when it is killed or stopped."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from switch.api import jobs as api
from switch.ids import show
from switch.settlement.jobs import table
from switch.settlement.jobs.table import Due
from tests.flows import Shop, eventually, new_key, open_shop
from tests.processes import Process, ask, environment, run
from tests.settlements import settle


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("jobs")) as opened:
        yield opened


async def planted(shop: Shop, kind: str = "unknown_here", **arguments: Any) -> str:
    """A job of a kind that no worker of this release knows: it stays queued."""
    async with shop.switch.writers.acquire() as connection, connection.transaction():
        job, _ = await table.ask(connection, kind, Due(uuid4().hex, arguments), "Li Wei")
    return show("job", job.job_id)


async def test_a_job_is_shown_as_documented_and_by_whom_it_was_asked(shop: Shop) -> None:
    ident = await planted(shop, day="2026-11-25")
    body = (await shop.ask("GET", f"/v1/jobs/{ident}", key="operator")).body
    assert body.keys() == api.EXAMPLE.keys()
    assert (body["id"], body["state"], body["asked_by"], body["arguments"], body["progress"], body["attempts"]) == (
        ident, "queued", "Li Wei", {"day": "2026-11-25"}, {"done": 0, "total": None}, 0)


async def test_the_list_has_pages_and_filters(shop: Shop) -> None:
    made = [await planted(shop, "paged") for _ in range(5)]
    first = (await shop.ask("GET", "/v1/jobs?kind=paged&limit=3", key="operator")).body
    second = (await shop.ask("GET", f"/v1/jobs?kind=paged&limit=3&after={first['next']}", key="operator")).body
    assert [item["id"] for item in first["items"] + second["items"]] == made[::-1] and second["next"] is None
    await shop.ask("POST", f"/v1/jobs/{made[0]}/cancel", {}, "operator")
    cancelled = (await shop.ask("GET", "/v1/jobs?kind=paged&state=cancelled", key="operator")).body["items"]
    assert [(item["id"], item["cancel_asked_by"]) for item in cancelled] == [(made[0], "Flow Tester")]
    assert (await shop.ask("GET", "/v1/jobs?state=lost", key="operator")).status == 422
    assert (await shop.ask("GET", "/v1/jobs?kind=housekeeping&state=failed", key="operator")).body["items"] == []
    refused = await shop.ask("GET", "/v1/jobs?kind=exprot", key="operator")
    assert refused.status == 422 and "export" in refused.body["errors"][0]["rule"]


@pytest.mark.parametrize("key", ["till", "merchant.one"])
async def test_jobs_are_for_operators(shop: Shop, key: str) -> None:
    ident = await planted(shop)
    for method, path in (("GET", "/v1/jobs"), ("GET", f"/v1/jobs/{ident}"), ("POST", f"/v1/jobs/{ident}/retry"), ("POST", f"/v1/jobs/{ident}/cancel")):
        assert (await shop.ask(method, path, key=key)).status == 403


async def test_what_is_no_job_is_not_found_and_what_cannot_be_tried_again_is_a_conflict(shop: Shop) -> None:
    for ident in ("job_x", show("job", uuid4()), "txn_x"):
        for method, end in (("GET", ""), ("POST", "/retry"), ("POST", "/cancel")):
            assert (await shop.ask(method, f"/v1/jobs/{ident}{end}", key="operator")).status == 404
    ident = await planted(shop)
    assert (await shop.ask("POST", f"/v1/jobs/{ident}/retry", {}, "operator")).body["code"] == "conflict"
    assert (await shop.ask("POST", f"/v1/jobs/{ident}/cancel", {}, "operator")).body["state"] == "cancelled"
    assert (await shop.ask("POST", f"/v1/jobs/{ident}/cancel", {}, "operator")).status == 409
    assert (await shop.ask("POST", f"/v1/jobs/{ident}/retry", {}, "operator")).body["state"] == "queued"


async def test_the_command_line_lists_shows_and_tries_again(shop: Shop, tmp_path: Path) -> None:
    ident, where = await planted(shop, "by_hand", day="2026-11-25"), ("--url", shop.base, "--key", shop.keys["operator"])

    async def said(*words: str) -> str:
        done = await asyncio.to_thread(run, tmp_path / "home", "jobs", *words, *where)
        assert done.code == 0, done.err
        return done.out

    listed = await said("list", "--job-kind", "by_hand")
    assert ident in listed and "queued" in listed and "asked by Li Wei" in listed
    assert '"day": "2026-11-25"' in await said("show", ident)
    assert "cancelled" in await said("cancel", ident)
    assert "queued" in await said("retry", ident)
    refused = await asyncio.to_thread(run, tmp_path / "home", "jobs", "retry", ident, *where)
    assert (refused.code, "only one that failed" in refused.err) == (2, True)


async def test_jobs_take_no_connection_of_payments(shop: Shop) -> None:
    """Every connection for jobs is busy, and payments and reads go on."""
    pool = shop.switch.foreman.pool
    assert pool is not None and pool not in (shop.switch.writers, shop.switch.readers, shop.switch.owed)
    taken = [await pool.acquire() for _ in range(pool.get_max_size())]
    try:
        assert (await shop.pay(5000)).status == 201
        assert (await shop.ask("GET", "/v1/transactions", key="merchant.one")).status == 200
        assert (await shop.ask("GET", "/v1/jobs", key="operator")).status == 200
    finally:
        for connection in taken:
            await pool.release(connection)


async def test_a_switch_that_is_killed_in_an_export_leaves_no_file_and_the_next_one_writes_it(shop: Shop, tmp_path: Path) -> None:
    """kill -9 of a real switch while it writes; its own home, so that the shop's switch does not find the file."""
    await shop.stop()  # only the others take jobs
    identity = await settle(shop.url, shop.ids["merchant.one"], shop.ids["acquirer.single"], shop.ids["store.first"], shop.ids["terminal.till"], 40_000)
    variables = environment(tmp_path / "home", SWITCH_DATABASE_URL=shop.url)
    owner = await asyncpg.connect(shop.url)

    def served(name: str) -> Process:
        return Process(tmp_path, name, (sys.executable, "-m", "switch", "serve"), variables)

    async def running() -> bool:
        row = await owner.fetchrow("SELECT state, progress_done FROM job WHERE kind = 'export'")
        return bool(row and row["state"] == "running" and row["progress_done"] > 0)

    async def finished() -> bool:
        return bool(await owner.fetchval("SELECT state = 'done' FROM job WHERE kind = 'export'"))

    first, second = served("first"), None
    try:
        base = str(first.first_line()["base_url"])
        body = {"of": "settlement", "settlement": show("settlement", identity), "format": "csv"}
        asked = await ask(base, "POST", "/v1/exports", shop.keys["merchant.one"], body, Idempotency_Key=new_key())
        assert asked.status == 202, asked.raw
        await eventually(running, "it does not begin", 20)
        os.kill(first.pid, signal.SIGKILL)
        first.popen.wait(10)
        files = [path for path in (tmp_path / "home" / "exports").rglob("*") if path.is_file()]
        assert [path.suffix for path in files] == [".part"], "half a file has no name of a whole one"
        second = served("second")
        base = str(second.first_line()["base_url"])
        await eventually(finished, "nobody carries on", 40)
        job = await owner.fetchrow("SELECT attempts, failures, detail FROM job WHERE kind = 'export'")
        assert (job["attempts"], job["failures"], json.loads(job["detail"])["rows"]) == (2, 0, 40_000)
        (path,) = [path for path in (tmp_path / "home" / "exports").rglob("*.csv")]
        assert len(path.read_text().splitlines()) == 40_001
    finally:
        await owner.close()
        for each in (first, second):
            if each is not None:
                each.kill()
        await shop.start()
