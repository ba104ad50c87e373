"""Help articles in the database: every version stays, the newest counts; found by topic and by words, in either language."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg

from switch.database import Connection, Pool, work
from switch.errors import PROBLEMS, Problem
from switch.merchants.support.causes import KINDS as CAUSES

CATEGORIES = ("payments", "terminal", "settlement", "account", "other")
# What an article may be about: a category of tickets, a suggested cause, a code of a problem.
TOPICS = frozenset(CATEGORIES) | frozenset(CAUSES) | frozenset(PROBLEMS)
PAGE_MAX = 100
WORDS_MAX = 8

COLUMNS = "slug, number, topics, en, zh, withdrawn, written_by, written_at"
NEWEST = f"SELECT DISTINCT ON (slug) {COLUMNS} FROM help_article"
# Every word, somewhere in a title or text of either language. position() knows no wildcards.
PAGE = f"""SELECT {COLUMNS} FROM ({NEWEST} ORDER BY slug, number DESC) a WHERE (NOT withdrawn OR $1) AND ($2::text[] IS NULL OR topics && $2)
AND NOT EXISTS (SELECT FROM unnest($3::text[]) w
  WHERE position(w IN lower(concat_ws(' ', en ->> 'title', en ->> 'text', zh ->> 'title', zh ->> 'text'))) = 0)
AND ($4::text IS NULL OR slug > $4) ORDER BY slug LIMIT $5"""
ONE = f"SELECT {COLUMNS} FROM help_article WHERE slug = $1 ORDER BY number DESC LIMIT 1"
LOCK = "SELECT pg_advisory_xact_lock(3583032, hashtext($1))"
WRITE = f"""INSERT INTO help_article (slug, number, topics, en, zh, withdrawn, written_by)
SELECT $1, 1 + coalesce(max(number), 0), $2, $3::jsonb, $4::jsonb, $5, $6 FROM help_article WHERE slug = $1 RETURNING {COLUMNS}"""


class Wanted(NamedTuple):
    """What a list is narrowed by. `topics`: any of them; `words`: all of them; `withdrawn`: those too."""

    topics: Sequence[str] | None = None
    words: str = ""
    withdrawn: bool = False
    after: str | None = None


class Draft(NamedTuple):
    """`en` and `zh`: title and text."""

    topics: Sequence[str]
    en: Mapping[str, str]
    zh: Mapping[str, str]
    withdrawn: bool = False


class Articles:
    """Raises Problem: not_found, not_ready."""

    def __init__(self, writers: Pool, readers: Pool) -> None:
        self.writers, self.readers = writers, readers

    async def page(self, wanted: Wanted, limit: int) -> list[asyncpg.Record]:
        """By their slugs."""
        async with work(self.readers) as connection:
            return await connection.fetch(PAGE, wanted.withdrawn, None if wanted.topics is None else list(wanted.topics),
                                          wanted.words.lower().split()[:WORDS_MAX], wanted.after, limit)

    async def one(self, slug: str, withdrawn: bool) -> asyncpg.Record:
        async with work(self.readers) as connection:
            row = await connection.fetchrow(ONE, slug)
        if row is None or (row["withdrawn"] and not withdrawn):
            raise Problem("not_found")
        return row

    async def write(self, slug: str, draft: Draft, by: str) -> asyncpg.Record:
        """The next version; those before stay."""
        async with work(self.writers) as connection:
            await connection.execute(LOCK, slug)
            return await _written(connection, slug, draft, by)


async def _written(connection: Connection, slug: str, draft: Draft, by: str) -> asyncpg.Record:
    row = await connection.fetchrow(WRITE, slug, list(draft.topics), json.dumps(dict(draft.en)), json.dumps(dict(draft.zh)), draft.withdrawn, by)
    assert row is not None
    return row


def words_of(row: asyncpg.Record, language: str) -> dict[str, Any]:
    """Title and text."""
    found = json.loads(row[language])
    return {"title": found["title"], "text": found["text"]}
