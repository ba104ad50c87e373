"""Fixtures: one embedded PostgreSQL per test run, a fresh migrated database per module."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from switch import database
from switch.postgres import EmbeddedPostgres


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


async def create_database(cluster_url: str) -> str:
    """A new database, migrated; its URL."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    connection = await asyncpg.connect(cluster_url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    url = cluster_url.rsplit("/", 1)[0] + f"/{name}"
    await database.migrate(url)
    return url


@pytest_asyncio.fixture(scope="module")
async def database_url(cluster_url: str) -> str:
    return await create_database(cluster_url)
