"""Connections by role, and the schema's version: who migrates, who waits, who is refused."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from switch import database
from switch.errors import StartError
from switch.upgrade import upgrade


@pytest_asyncio.fixture
async def empty(cluster_url: str) -> AsyncIterator[str]:
    """A database without a schema."""
    name = f"t_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(cluster_url)
    await connection.execute(f"CREATE DATABASE {name}")
    yield cluster_url.rsplit("/", 1)[0] + f"/{name}"
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@pytest_asyncio.fixture(scope="module")
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def at(owner: asyncpg.Connection, version: str) -> None:
    await owner.execute("UPDATE schema_version SET version_num = $1", version)


async def test_several_starters_at_once_one_works_and_all_are_served(empty: str) -> None:
    told: list[str] = []
    assert await asyncio.gather(*[database.migrate(empty, told.append) for _ in range(5)]) == [database.head()] * 5
    assert told == [f"migrating the schema from empty to {database.head()}"]
    connection = await asyncpg.connect(empty)
    assert await database.version(connection) == database.head()
    assert await connection.fetch("SELECT version_num FROM schema_version") == [(database.head(),)]
    assert await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = "
                                     "(SELECT oid FROM pg_database WHERE datname = current_database())") == 0
    await connection.close()


async def test_a_migration_that_was_broken_off_goes_on_where_it_was(empty: str) -> None:
    connection = await asyncpg.connect(empty)
    await connection.execute("CREATE TABLE batch_upload (of_somebody_else int)")
    with pytest.raises(StartError, match=r'relation "batch_upload" already exists'):
        await database.migrate(empty)
    assert await database.version(connection) == "0036"
    await connection.execute("DROP TABLE batch_upload")
    assert await database.migrate(empty) == database.head()
    await connection.execute("UPDATE schema_version SET version_num = '0048'")  # killed between a revision and its number
    await connection.execute("CREATE INDEX transaction_last4 ON transaction (merchant_id, card_last4, transaction_id)")
    assert await database.migrate(empty) == database.head()
    assert await connection.fetch("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'transaction'::regclass "
                                  "AND (NOT indisvalid OR pg_get_indexdef(indexrelid) LIKE '%card_last4%')") == [("transaction_by_last4",)]
    await connection.close()


@pytest.mark.parametrize(("code", "remedy"), [
    ("42501", "give the database's user the right"), ("55P03", "something holds a lock .*pg_stat_activity names it"), ("57014", "somebody cancelled it"),
    ("53100", "the database.s disk is full: make room"), ("23505", "mend what the database says, and start again"),
])
async def test_a_migration_that_is_refused_says_why_and_what_to_do(empty: str, tmp_path: Path, code: str, remedy: str) -> None:
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text((database.MIGRATIONS / "env.py").read_text("utf-8"), "utf-8")
    (tmp_path / "versions" / "r0001_refused.py").write_text(f"""
from alembic import op

revision, down_revision, branch_labels, depends_on = "0001", None, None, None


def upgrade() -> None:
    op.execute("DO $$BEGIN RAISE 'not today' USING ERRCODE = '{code}'; END$$")
""", "utf-8")
    with pytest.raises(StartError, match=rf"^the schema cannot be migrated to 0001 \(\w+: not today\); {remedy}"):
        await upgrade(tmp_path, "0001", lambda: asyncpg.connect(empty))


async def test_an_index_is_built_beside_whoever_reads_for_long(empty: str) -> None:
    await database.migrate(empty)
    owner, reader = await asyncpg.connect(empty), await asyncpg.connect(empty)
    await at(owner, "0048")
    async with reader.transaction(isolation="repeatable_read", readonly=True):
        await reader.fetchval("SELECT count(*) FROM transaction")
        upgrading = asyncio.create_task(database.migrate(empty))
        await asyncio.sleep(6)  # more than what other revisions wait for a lock
        assert not upgrading.done()
        await asyncio.wait_for(owner.fetchval("SELECT count(*) FROM transaction"), 1)
    assert await upgrading == database.head()
    await owner.close()
    await reader.close()


async def test_an_empty_database_has_no_version(empty: str) -> None:
    connection = await asyncpg.connect(empty)
    assert await database.version(connection) is None
    await connection.close()


async def test_a_migrated_database_is_left_alone(database_url: str) -> None:
    told: list[str] = []
    assert await database.migrate(database_url, told.append) == database.head()
    assert not told


def ahead(steps: int) -> str:
    return f"{int(database.head()) + steps:04d}"


async def test_a_schema_one_ahead_is_served_two_ahead_is_refused(database_url: str, owner: asyncpg.Connection) -> None:
    try:
        await at(owner, ahead(1))
        assert await database.migrate(database_url) == ahead(1)
        await at(owner, ahead(2))
        with pytest.raises(StartError, match=rf"^the schema is at {ahead(2)}, this release serves {database.head()} and one ahead"):
            await database.migrate(database_url)
    finally:
        await at(owner, database.head())


async def test_who_waited_while_another_release_went_further_does_not_migrate_back(database_url: str, owner: asyncpg.Connection) -> None:
    try:
        await at(owner, "0000")
        await owner.execute("SELECT pg_advisory_lock($1)", database.MIGRATION_LOCK)
        told: list[str] = []
        waiting = asyncio.create_task(database.migrate(database_url, told.append))
        done, _ = await asyncio.wait([waiting], timeout=0.4)
        assert not done, "it waits for the one that migrates"
        await at(owner, ahead(1))
        await owner.execute("SELECT pg_advisory_unlock($1)", database.MIGRATION_LOCK)
        await asyncio.wait_for(waiting, 5)
        assert not told
        assert await database.version(owner) == ahead(1)
    finally:
        await owner.execute("SELECT pg_advisory_unlock_all()")
        await at(owner, database.head())


@pytest.mark.parametrize("parameters", ["?sslmode=prefer", "?sslmode=disable&application_name=switch"])
async def test_a_url_may_carry_parameters(empty: str, parameters: str) -> None:
    assert await database.migrate(empty + parameters) == database.head()
    assert await database.migrate((empty + parameters).replace("postgresql://", "postgres://")) == database.head()


SECRET = "s3cretWord"


@pytest.mark.parametrize("url", [
    f"postgresql://switch:{SECRET}@127.0.0.1:1/switch", f"postgresql://switch:{SECRET}@127.0.0.1:notaport/switch",
    f"postgresql://switch:{SECRET}@no-such-host.invalid/switch", f"postgresql://switch:{SECRET}@127.0.0.1:1/switch?sslmode=maybe",
])
async def test_a_server_that_cannot_be_reached_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(StartError, match=r"^the database cannot be reached \(\w+\); check SWITCH_DATABASE_URL and that the server runs$") as caught:
        await database.migrate(url)
    assert SECRET not in str(caught.value)


async def test_a_wrong_password_is_the_same_line(cluster_url: str) -> None:
    host = cluster_url.split("@")[1]
    with pytest.raises(StartError, match=r"cannot be reached \(InvalidPasswordError\)"):
        await database.migrate(f"postgresql://switch:{SECRET}@{host}")


@pytest.mark.parametrize("role", ["switch_writer", "switch_reader"])
async def test_a_connection_acts_as_its_role_and_commits_synchronously(database_url: str, role: str) -> None:
    connection = await database.connect(database_url, role)
    pool = await database.pool(database_url, role, 1)
    for ask in (connection, pool):
        assert await ask.fetchrow("SELECT current_user::text, current_setting('synchronous_commit'), current_setting('timezone')") == (role, "on", "UTC")
    async with pool.acquire() as again:  # still so after a connection was given back
        assert await again.fetchval("SELECT current_user") == role
    await pool.close()
    await connection.close()


async def test_what_a_dying_server_raises_is_unknown_and_what_a_row_does_wrong_is_not(database_url: str, owner: asyncpg.Connection) -> None:
    connection = await database.connect(database_url, "switch_writer")
    sleeping = asyncio.create_task(connection.fetch("SELECT pg_sleep(30)"))
    await asyncio.sleep(0.1)
    await owner.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
    with pytest.raises(database.UNKNOWN):
        await sleeping
    with pytest.raises(database.UNKNOWN):
        await connection.fetch("SELECT 1")
    with pytest.raises(asyncpg.PostgresError) as caught:
        await owner.execute("INSERT INTO organisation VALUES ($1, '')", uuid4())
    assert not isinstance(caught.value, database.UNKNOWN)


async def test_a_statement_that_never_ends_is_given_up_as_unknown(database_url: str) -> None:
    connection = await database.connect(database_url, "switch_writer")
    with pytest.raises(database.UNKNOWN):
        await connection.fetch("SELECT pg_sleep(30)", timeout=0.2)
    await connection.close()
