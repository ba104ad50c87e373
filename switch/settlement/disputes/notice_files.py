"""Files of dispute notices: taken in one commit, or refused whole with nothing written; the same file again changes nothing."""

import hashlib
import os
import time
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Connection, Pool
from switch.errors import PROBLEMS, Problem, file_refused
from switch.failpoints import failpoint
from switch.ids import uuid7
from switch.settlement.disputes.cases import CODES, Cases
from switch.settlement.disputes.notices import Notice, NoticeFile, Refused, parse

TAKE_S = 60.0

COLUMNS = "file_id, acquirer_id, number, sha256, size, lines, total, changed, received_by, received_at"
ACQUIRER = "SELECT name, institution_code FROM directory_acquirer WHERE acquirer_id = $1"
LOCK = "SELECT pg_advisory_xact_lock(3583014, hashtext($1))"
SEEN = f"SELECT {COLUMNS} FROM dispute_notice_file WHERE acquirer_id = $1 AND sha256 = $2"
NUMBERED = "SELECT true FROM dispute_notice_file WHERE acquirer_id = $1 AND number = $2"
ADD = f"""INSERT INTO dispute_notice_file (file_id, acquirer_id, number, sha256, size, lines, total, changed, received_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING {COLUMNS}"""
# All sales of the file, in the order in which follow-ups lock theirs.
LOCK_SALES = """SELECT transaction_id FROM transaction WHERE transaction_id IN (
  SELECT d.transaction_id FROM dispute d WHERE d.acquirer_id = $1 AND d.reference = ANY($2::text[])
  UNION SELECT coalesce(t.original_id, t.transaction_id) FROM transaction t WHERE t.transaction_id = ANY($3::uuid[])
  UNION SELECT coalesce(t.original_id, t.transaction_id) FROM transaction t WHERE t.acquirer_id = $1 AND t.rrn = ANY($4::text[]))
ORDER BY transaction_id FOR NO KEY UPDATE"""


async def take(pool: Pool, cases: Cases, acquirer_id: UUID, raw: bytes, by: str, now: datetime) -> tuple[asyncpg.Record, bool]:
    """The file's row, and whether it is new. Raises Problem: not_found, file_refused (line and reason), conflict, not_ready."""
    line = 1
    try:
        async with pool.acquire() as connection, connection.transaction():
            names = await connection.fetchrow(ACQUIRER, acquirer_id)
            if names is None:
                raise Problem("not_found")
            await connection.execute(LOCK, str(acquirer_id))
            digest = hashlib.sha256(raw).digest()
            seen = await connection.fetchrow(SEEN, acquirer_id, digest)
            if seen is not None:
                return seen, False
            file = parse(raw, {name for name in names if name})
            if await connection.fetchval(NUMBERED, acquirer_id, file.number):
                raise Problem("conflict", "Another file with this number is there already; the sender must number it anew.")
            await _lock_sales(connection, acquirer_id, file.notices)
            changed = 0
            for notice in file.notices:
                line = notice.line
                changed += (await cases.notice(connection, acquirer_id, notice, by, now))[1]
            row = await _add(connection, acquirer_id, file, digest, len(raw), changed, by)
            failpoint("dispute.file")
        return row, True
    except Refused as refused:
        line, reason = refused.line, refused.reason
    except Problem as problem:
        if problem.code in ("conflict", "not_found", "not_ready") and line == 1:
            raise
        reason = problem.detail or PROBLEMS[problem.code].title
    except asyncpg.IntegrityConstraintViolationError as error:
        reason = PROBLEMS[CODES.get(error.constraint_name or "", "conflict")].title
    except UNKNOWN:
        raise Problem("not_ready", "It is not known whether the file was written; send it again, twice is once.", retry_after=2) from None
    raise file_refused(line, reason)


async def _lock_sales(connection: Connection, acquirer_id: UUID, notices: Sequence[Notice]) -> None:
    await connection.fetch(LOCK_SALES, acquirer_id, [notice.reference for notice in notices],
                           [notice.transaction_id for notice in notices if notice.transaction_id], [notice.rrn for notice in notices if notice.rrn],
                           timeout=TAKE_S)


async def _add(connection: Connection, acquirer_id: UUID, file: NoticeFile, digest: bytes, size: int, changed: int, by: str) -> asyncpg.Record:
    file_id = uuid7(time.time_ns() // 1_000_000, os.urandom(10))
    row = await connection.fetchrow(ADD, file_id, acquirer_id, file.number, digest, size, len(file.notices), file.total, changed, by)
    assert row is not None
    return row
