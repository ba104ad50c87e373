"""Fixtures: one embedded PostgreSQL per test run, a fresh migrated database per module."""

import gc
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from switch import database
from switch.postgres import EmbeddedPostgres

pytest_plugins = ("tests.machine",)

# Begun first, the longest before the others, so that no process is left alone at the end.
LONG = ("test_simulation", "test_schemathesis", "test_failpoint_sweep", "test_workers", "test_webhook_sweep", "test_nemesis", "test_life_machine", "test_kill",
        "test_cutover_kill", "test_ablations", "test_lines_flow", "test_payouts_kill", "test_payouts_flow", "test_wallet_flow", "test_reversals_flow", "test_cli",
        "test_demo", "test_rights", "test_webhooks_flow", "test_dialects_flow", "test_keys_flow", "test_follow_ups_flow", "test_money_kill", "test_compiled")


gc.disable()  # until the tests are collected: a million objects, and none of them garbage


def pytest_collection_finish() -> None:
    gc.freeze()  # no later collection walks them
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(scope="module", autouse=True)
def left_open_is_told_where_it_was_opened() -> Iterator[None]:
    """What a file's tests leave to the collector, sockets and connections among it, is an error of that file and of no later one."""
    yield
    gc.collect()


@pytest_asyncio.fixture(scope="session")
async def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A superuser's URL of a real PostgreSQL with fsync on, for the whole run."""
    home: Path = tmp_path_factory.mktemp("cluster")
    embedded = EmbeddedPostgres(home, settings={"max_connections": "200"})
    url = await embedded.start()
    yield url
    await embedded.stop()


@pytest.fixture(scope="session")
def cluster_folder(cluster_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where that PostgreSQL keeps its files."""
    (folder,) = [each for each in tmp_path_factory.getbasetemp().glob("cluster*") if not each.is_symlink()]
    return folder


MIGRATED = "migrated"  # by the first that asks; every other database of the run is a copy of it


async def create_database(cluster_url: str) -> str:
    """A new database, migrated; its URL."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    connection = await asyncpg.connect(cluster_url)
    try:
        if await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", MIGRATED) is None:
            await connection.execute(f"CREATE DATABASE {MIGRATED}")
            await database.migrate(of(cluster_url, MIGRATED))
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {MIGRATED}")
    finally:
        await connection.close()
    return of(cluster_url, name)


def of(cluster_url: str, name: str) -> str:
    return f"{cluster_url.rsplit('/', 1)[0]}/{name}"


@pytest_asyncio.fixture(scope="module")
async def database_url(cluster_url: str) -> str:
    return await create_database(cluster_url)
