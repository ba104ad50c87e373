"""The revisions of the schema, run by alembic. The only door to it."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from switch.errors import StartError

REMEDIES = {  # by SQLSTATE
    "42501": "give the database's user the right to create tables and roles",
    "55P03": "something holds a lock for longer than the revision waits: end it, or start again when it has ended (pg_stat_activity names it)",
    "57014": "somebody cancelled it, or a statement_timeout did: start again, with a longer one",
    "53100": "the database's disk is full: make room, and start again",
}


def config(folder: Path, connection: Connection | None = None) -> Config:
    """Of the revisions in `folder`; migrations/env.py takes the connection from it."""
    made = Config()
    made.set_main_option("script_location", str(folder))
    made.set_main_option("path_separator", "os")
    made.attributes["connection"] = connection
    return made


async def upgrade(folder: Path, wanted: str, connect: Callable[[], Awaitable[Any]]) -> None:
    """To the newest revision in `folder`, which is `wanted`. Raises StartError when the database refuses.

    `connect` makes asyncpg's connection, which reads a URL here as everywhere else: SQLAlchemy would refuse its parameters, such as sslmode.
    """
    engine = create_async_engine("postgresql+asyncpg://", poolclass=NullPool, async_creator=connect)
    try:
        async with engine.connect() as connection:  # each revision commits by itself, and some build an index beside the traffic
            await connection.run_sync(lambda connection: command.upgrade(config(folder, connection), "head"))
    except SQLAlchemyError as error:
        raise StartError(f"the schema cannot be migrated to {wanted} ({type(error).__name__}: {_cause(error)}); {_remedy(error)}") from None
    finally:
        await engine.dispose()


def _remedy(error: SQLAlchemyError) -> str:
    return REMEDIES.get(getattr(getattr(error, "orig", None), "sqlstate", None) or "",
                        "mend what the database says, and start again: it goes on where it was")


def _cause(error: SQLAlchemyError) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0].rsplit(":", 1)[-1].strip()
