"""PostgreSQL: connections by role, and the schema's version. The only door to asyncpg's connections and to alembic."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection as SyncConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from switch import logs
from switch.errors import Problem, StartError

# asyncpg's classes take a type parameter for the checker only.
if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection, Pool = asyncpg.Connection, asyncpg.Pool

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"
MIGRATION_LOCK = 3583003
MIGRATION_WAIT_S = 120
CONNECT_TIMEOUT_S = 3.0
COMMAND_TIMEOUT_S = 10.0
# One schema ahead is served too: in a rolling deploy the new release migrates while the old one still runs (CHANGELOG says which).
SCHEMA_AHEAD = 1

# Whatever asyncpg raises when the server dies under a statement: the outcome of that statement is unknown, never "not written".
UNKNOWN = (OSError, asyncio.TimeoutError, asyncpg.InternalClientError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError,
           asyncpg.OperatorInterventionError, asyncpg.exceptions.ConnectionDoesNotExistError, asyncpg.InsufficientResourcesError,
           asyncpg.CannotConnectNowError)

# Plans of the hot statements must not change with the statistics of the day: always the indexes.
PLANS = {"enable_seqscan": "off", "plan_cache_mode": "force_generic_plan"}
INTENT_PLANS = PLANS | {"enable_nestloop": "off", "enable_mergejoin": "off"}  # a batch joined with itself: its square by nested loops
OUTCOME_PLANS = PLANS | {"enable_hashjoin": "off", "enable_mergejoin": "off"}  # rows in the order of the array
# Of who follows a change log for ever: a plan made while the tables were small would read all of the large ones, each second.
FOLLOW_PLANS = {"plan_cache_mode": "force_custom_plan", "enable_seqscan": "off"}


async def connect(url: str, role: str, **settings: str) -> Connection:
    """One connection that acts as `role` and commits synchronously. Raises what UNKNOWN lists when the server is not there."""
    return await asyncpg.connect(
        url, timeout=CONNECT_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S,
        server_settings={"role": role, "application_name": role, "synchronous_commit": "on", "timezone": "UTC", "jit": "off", **settings})


async def pool(url: str, role: str, size: int, **settings: str) -> Pool:
    """Connections that act as `role`. Lists walk down an index in its order: never through the table, never all to sort them."""
    return await asyncpg.create_pool(
        url, min_size=1, max_size=size, timeout=CONNECT_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S,
        server_settings={"role": role, "application_name": role, "synchronous_commit": "on", "timezone": "UTC", "jit": "off",
                         "enable_seqscan": "off", "enable_bitmapscan": "off", **settings})


def _config(connection: SyncConnection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The newest revision that this release brings, e.g. "0001"."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    assert newest is not None
    return newest


async def version(connection: Connection) -> str | None:
    """The schema's revision, None for an empty database; one query."""
    try:
        found = await connection.fetchval("SELECT version_num FROM schema_version")
    except asyncpg.UndefinedTableError:
        return None
    return None if found is None else str(found)


async def migrate(url: str, progress: Callable[[str], None] = lambda line: None) -> str:
    """Brings the schema to this release's revision and returns it. Several starters at once: one works, the others wait.

    The advisory lock is taken by trying, since a session that waits inside the lock call holds a snapshot (libraries: migrations).
    Raises StartError when the database belongs to a release more than one revision newer, or cannot be reached.
    """
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
    except (*UNKNOWN, asyncpg.PostgresError, ValueError) as error:
        raise StartError(f"the database cannot be reached ({type(error).__name__}); check SWITCH_DATABASE_URL and that the server runs") from None
    try:
        found, wanted = await version(connection), head()
        if found == wanted:
            return wanted
        if found is not None and int(found) > int(wanted):
            if int(found) > int(wanted) + SCHEMA_AHEAD:
                raise StartError(f"the schema is at {found}, this release serves {wanted} and one ahead; install a newer release")
            return found
        for _ in range(MIGRATION_WAIT_S * 5):
            if await connection.fetchval("SELECT pg_try_advisory_lock($1)", MIGRATION_LOCK):
                break
            await asyncio.sleep(0.2)
        else:
            raise StartError("another process has been migrating this database for two minutes; look for it in pg_stat_activity")
        found = await version(connection)  # another release may have gone further meanwhile
        if found is None or int(found) < int(wanted):
            progress(f"migrating the schema from {found or 'empty'} to {wanted}")
            try:
                await _upgrade(url)
            except SQLAlchemyError as error:
                raise StartError(f"the schema cannot be migrated to {wanted} ({type(error).__name__}: {_cause(error)}); "
                                 "give the database's user the right to create tables and roles") from None
            logs.info("schema_migrated", version=wanted)
        return wanted
    finally:
        await connection.close()


def _cause(error: SQLAlchemyError) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0].rsplit(":", 1)[-1].strip()


async def _upgrade(url: str) -> None:
    # asyncpg reads the URL here as everywhere else: SQLAlchemy would refuse its parameters, such as sslmode.
    engine = create_async_engine("postgresql+asyncpg://", poolclass=NullPool,
                                 async_creator=lambda: asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, server_settings={"lock_timeout": "5s"}))

    def run(connection: SyncConnection) -> None:
        command.upgrade(_config(connection), "head")

    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


UNSURE = "The database does not answer. Look first whether it was written."


def unsure(words: str = UNSURE) -> Problem:
    """What whoever asked for a write is told when the database went away meanwhile."""
    return Problem("not_ready", words, retry_after=2)


@asynccontextmanager
async def work(pool: Pool, words: str = UNSURE) -> AsyncIterator[Connection]:
    """One transaction of what somebody asked for. Raises Problem not_ready when it is not known whether it was committed."""
    try:
        async with pool.acquire() as connection, connection.transaction():
            yield connection
    except UNKNOWN:
        raise unsure(words) from None


async def slices(connection: Connection, size: int, statement: str, *arguments: Any) -> AsyncIterator[list[Any]]:
    """The rows of a statement, at most `size` at a time, as they stood at one moment. Raises what UNKNOWN lists."""
    try:
        async with connection.transaction():
            cursor = await connection.cursor(statement, *arguments)
            while rows := await cursor.fetch(size):
                yield rows
    except asyncpg.InterfaceError as error:  # of the ROLLBACK on a connection that is gone: why it went is what matters
        raise error.__context__ or error from None


def record_of(cls: Callable[..., Any], row: asyncpg.Record) -> Any:
    """The dataclass whose attributes are named like the columns."""
    return cls(**dict(row))
