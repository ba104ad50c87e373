"""Runs of the reconciliation: one acquirer and business date at a time, in one commit, always with the same result for the same books and files.

A run pairs the lines that carry its date with the transactions of its date, rule by rule (`reconciliation.RULES`), and writes what it found. What is
left over is then held against the leftovers of the neighbouring dates, and the exceptions of those dates follow. Nothing depends on the order in
which files came or runs were made, so a late file changes the day that it speaks of. Each run is a job.
"""

import json
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import date, datetime
from typing import Any
from uuid import UUID

from switch import logs
from switch.database import Connection, Pool
from switch.ids import read, show, uuid7
from switch.settlement.jobs import table
from switch.settlement.jobs.table import Due, NotYet, Run
from switch.settlement.reconciliation import exceptions, incoming
from switch.settlement.reconciliation.matching import ACROSS_DAYS, WITHIN_DAY, pairing

KIND = "reconciliation"  # of its jobs
STATEMENT_S, AT_ONCE, AGAIN_S = 900.0, 200, 0.5
LOCK = "SELECT pg_advisory_xact_lock(3583036, hashtext($1::text))"

REQUEST = """INSERT INTO reconciliation_run (run_id, acquirer_id, business_date, cause) VALUES ($1, $2, $3, $4)
ON CONFLICT (acquirer_id, business_date) WHERE state = 'due' DO UPDATE SET state = 'due' RETURNING run_id"""
LEFT = "SELECT run_id FROM reconciliation_run WHERE state IN ('due', 'running') ORDER BY business_date, run_id LIMIT $1"
NEXT = "SELECT run_id FROM reconciliation_run WHERE state = 'due' ORDER BY business_date, run_id LIMIT 1"
# Of dates whose lines explain each other. One that hangs is not waited for: the order changes no result, only who is called in between.
EARLIER = """SELECT EXISTS (SELECT FROM reconciliation_run r JOIN reconciliation_run e USING (acquirer_id)
WHERE r.run_id = $1 AND r.state = 'due' AND e.business_date BETWEEN r.business_date - 2 AND r.business_date - 1
  AND e.state IN ('due', 'running') AND e.requested_at > now() - interval '1 minute')"""
# Committed before anything is read: whoever asks from now on asks for another run, and who asked before has committed what it is to see.
BEGIN = "UPDATE reconciliation_run SET state = 'running', started_at = clock_timestamp() WHERE run_id = $1 AND state = 'due'"
BEGUN = "SELECT acquirer_id, business_date FROM reconciliation_run WHERE run_id = $1 AND state = 'running' FOR UPDATE"
SHOWN = """run_id, acquirer_id, business_date, state, cause, requested_at, started_at, ended_at, complete, lines, movements, matched, found, digest"""
PAGE = f"""SELECT {SHOWN} FROM reconciliation_run WHERE ($1::uuid IS NULL OR acquirer_id = $1) AND ($2::date IS NULL OR business_date = $2)
AND ($3::uuid IS NULL OR run_id < $3) ORDER BY run_id DESC LIMIT $4"""

_COMMON = "business_date date, rrn text, stan text, terminal text, approval_code text, kind text, amount bigint, currency text"
TABLES = tuple(f"CREATE TEMP TABLE {name} ({columns}) ON COMMIT DROP" for name, columns in (
    ("rc_line", f"n int, {_COMMON}, fee bigint, file_id uuid, line_no int"),
    ("rc_movement", f"n int, {_COMMON}, acquirer_rrn text, expected_fee bigint, merchant_id uuid, transaction_id uuid"),
    ("rc_pair", "rule text, line_order int, movement_order int"),
    ("rc_line_left", f"n int, {_COMMON}, fee bigint, file_id uuid, line_no int"),
    ("rc_movement_left", f"n int, {_COMMON}, acquirer_rrn text, expected_fee bigint, merchant_id uuid, transaction_id uuid")))
LINES = """INSERT INTO rc_line SELECT row_number() OVER (ORDER BY f.business_date, f.number, f.institution, l.line_no), l.business_date, l.rrn,
l.stan, l.terminal, l.approval_code, l.kind, l.amount, l.currency, l.fee, l.file_id, l.line_no
FROM clearing_line l JOIN clearing_file f USING (file_id) WHERE l.acquirer_id = $1 AND l.business_date = $2"""
# A fee is held against what was priced, once the acquirer's costs of that day are known at all.
MOVEMENTS = """INSERT INTO rc_movement SELECT row_number() OVER (ORDER BY m.transaction_id), m.business_date, m.rrn, m.stan, m.terminal,
m.approval_code, m.kind, m.amount, m.currency, m.acquirer_rrn, s.cost, m.merchant_id, m.transaction_id
FROM reconciliation_movement m LEFT JOIN (
    SELECT merchant_id, transaction_id, interchange + scheme_fee + acquirer_fee AS cost FROM settlement_line
    WHERE acquirer_id = $1 AND business_date = $2 AND for_date = $2 AND kind <> 'adjustment' AND interchange + scheme_fee + acquirer_fee >= 0
      AND (SELECT sum(costs) FROM settlement WHERE acquirer_id = $1 AND business_date = $2) > 0) s
  ON s.merchant_id = m.merchant_id AND s.transaction_id = m.transaction_id
WHERE m.acquirer_id = $1 AND m.business_date = $2"""
PAIR = {rule.name: f"INSERT INTO rc_pair SELECT '{rule.name}', line_order, movement_order FROM ({pairing(rule)}) AS p" for rule in WITHIN_DAY[:1]} | {
    rule.name: f"""INSERT INTO rc_pair SELECT '{rule.name}', line_order, movement_order
    FROM ({pairing(rule, 'rc_line_left', 'rc_movement_left')}) AS p""" for rule in WITHIN_DAY[1:]}
LEFT_OVER = (
    "ANALYZE rc_pair",
    "INSERT INTO rc_line_left SELECT * FROM rc_line l WHERE NOT EXISTS (SELECT FROM rc_pair p WHERE p.line_order = l.n)",
    "INSERT INTO rc_movement_left SELECT * FROM rc_movement m WHERE NOT EXISTS (SELECT FROM rc_pair p WHERE p.movement_order = m.n)",
)
TAKE = ("DELETE FROM rc_line_left l USING rc_pair p WHERE p.rule = $1 AND p.line_order = l.n",
        "DELETE FROM rc_movement_left m USING rc_pair p WHERE p.rule = $1 AND p.movement_order = m.n")
FIND = """
INSERT INTO reconciliation_finding (run_id, finding_no, kind, rule, file_id, line_no, merchant_id, transaction_id, rrn, movement, currency, expected,
  found)
SELECT $1, row_number() OVER (ORDER BY kind, line_order, movement_order), kind, rule, file_id, line_no, merchant_id, transaction_id, rrn, movement,
  currency, expected, found
FROM (
    SELECT 'amount' AS kind, p.rule, l.file_id, l.line_no, m.merchant_id, m.transaction_id, m.rrn, m.kind AS movement, m.currency,
      CASE m.kind WHEN 'sale' THEN m.amount ELSE -m.amount END AS expected, CASE l.kind WHEN 'sale' THEN l.amount ELSE -l.amount END AS found,
      p.line_order, p.movement_order
    FROM rc_pair p JOIN rc_line l ON l.n = p.line_order JOIN rc_movement m ON m.n = p.movement_order WHERE p.rule = ANY($2::text[])
    UNION ALL
    SELECT 'fee', 'fee', l.file_id, l.line_no, m.merchant_id, m.transaction_id, m.rrn, m.kind, m.currency, -m.expected_fee, -l.fee, p.line_order,
      p.movement_order
    FROM rc_pair p JOIN rc_line l ON l.n = p.line_order JOIN rc_movement m ON m.n = p.movement_order
    WHERE $4::boolean AND p.rule <> ALL($2::text[]) AND m.expected_fee <> l.fee
    UNION ALL
    SELECT CASE WHEN again THEN 'duplicate' ELSE 'missing_here' END, CASE WHEN again THEN 'cleared_twice' ELSE 'no_transaction' END, file_id, line_no,
      NULL, NULL, rrn, kind, currency, NULL, CASE kind WHEN 'sale' THEN amount ELSE -amount END, n, 0
    FROM (SELECT l.*, l.rrn <> '' AND EXISTS (SELECT FROM rc_line o JOIN rc_pair p ON p.line_order = o.n
                      WHERE o.rrn = l.rrn AND o.kind = l.kind AND o.amount = l.amount AND o.currency = l.currency) AS again FROM rc_line_left l) AS x
    UNION ALL
    SELECT 'missing_there', 'no_line', NULL, NULL, merchant_id, transaction_id, rrn, kind, currency,
      CASE kind WHEN 'sale' THEN amount ELSE -amount END, NULL, 0, n FROM rc_movement_left WHERE $3::boolean
) AS f"""
AMOUNTS = [rule.name for rule in WITHIN_DAY if rule.finding]
# The same books and files give the same digest, whenever and how often they are run.
END = """
UPDATE reconciliation_run r SET state = 'done', ended_at = clock_timestamp(), complete = $2, lines = $3, movements = $4,
matched = $5::jsonb, found = (SELECT coalesce(jsonb_object_agg(kind, count), '{}') FROM
    (SELECT kind, count(*) AS count FROM reconciliation_finding WHERE run_id = $1 GROUP BY kind) AS k),
digest = md5(concat_ws('|', $3::int, $4::int, $5::text, $2::boolean, (SELECT sum(hashtextextended(concat_ws('|', kind, rule, rrn, movement, currency,
    expected, found, transaction_id), 0)::numeric) FROM reconciliation_finding WHERE run_id = $1)))
WHERE run_id = $1"""
COMPLETE = "SELECT EXISTS (SELECT FROM clearing_file WHERE acquirer_id = $1 AND business_date = $2)"

# What the neighbours explain: over the leftovers of the newest run of each date.
ACROSS_TABLES = (
    """CREATE TEMP TABLE rc_found (LIKE reconciliation_finding, n int, business_date date, amount bigint)
       ON COMMIT DROP""",
    "CREATE TEMP TABLE rc_across (rule text, line_order int, movement_order int) ON COMMIT DROP",
)
FOUND = """INSERT INTO rc_found SELECT f.*, row_number() OVER (ORDER BY r.business_date, f.finding_no), r.business_date,
  abs(coalesce(f.found, f.expected))
FROM reconciliation_finding f JOIN (
    SELECT DISTINCT ON (business_date) run_id, business_date FROM reconciliation_run
    WHERE acquirer_id = $1 AND state = 'done' AND business_date BETWEEN $2::date - 2 AND $2::date + 2
    ORDER BY business_date, ended_at DESC, run_id DESC) r USING (run_id)"""


def _rests(kind: str) -> str:
    side = "line_order" if kind == "missing_here" else "movement_order"
    return (f"(SELECT n, business_date, rrn, movement AS kind, amount, currency FROM rc_found WHERE kind = '{kind}' "
            f"AND NOT EXISTS (SELECT FROM rc_across a WHERE a.{side} = rc_found.n)) AS rests")


ACROSS = tuple(f"INSERT INTO rc_across SELECT '{rule.name}', line_order, movement_order "
               f"FROM ({pairing(rule, _rests('missing_here'), _rests('missing_there'))}) AS p" for rule in ACROSS_DAYS)


async def request(connection: Connection, acquirer_id: UUID, days: Iterable[date], cause: str) -> None:
    """Asks for runs, in the caller's commit. One that waits already is enough; one that was given up is tried again."""
    for day in sorted(days):
        run_id = await connection.fetchval(REQUEST, uuid7(time.time_ns() // 1_000_000, os.urandom(10)), acquirer_id, day, cause)
        job, new = await table.ask(connection, KIND, _due(run_id), "switch")
        if not new and job.state in ("failed", "cancelled"):
            await table.retry(connection, job.job_id)


def _due(run_id: UUID) -> Due:
    return Due(show("run", run_id), {"run": show("run", run_id)})


class Runs:
    """`connect` gives a connection of the writer's role for each run."""

    def __init__(self, pool: Pool, connect: Callable[[], Awaitable[Connection]]) -> None:
        self.pool, self.connect = pool, connect

    async def due(self, now: datetime) -> list[Due]:
        """What was asked for and is not done: all of it has its job, but what an earlier release asked for."""
        return [_due(row[0]) for row in await self.pool.fetch(LEFT, AT_ONCE)]

    async def do(self, run: Run) -> Mapping[str, Any]:
        """One run, after those of the dates before it. Cut off, it leaves nothing, and begins anew."""
        run_id = read("run", run.job.arguments["run"])
        assert run_id is not None
        if await self.pool.fetchval(EARLIER, run_id):
            raise NotYet(AGAIN_S, "The run of an earlier date goes first.")
        connection = await self.connect()
        try:
            return await make(connection, run_id, run.hold)
        finally:
            connection.terminate()


async def finish(connection: Connection) -> int:
    """All that is due and that nobody has begun, in this process; how many were made."""
    made = 0
    while (run_id := await connection.fetchval(NEXT)) is not None:
        made += bool(await make(connection, run_id))
    return made


async def make(connection: Connection, run_id: UUID, hold: Callable[[Connection], Awaitable[None]] | None = None) -> Mapping[str, Any]:
    """One run; nothing when another has made it. `hold`: asked before the commit whether it is still ours to make."""
    await connection.execute(BEGIN, run_id)
    async with connection.transaction():
        begun = await connection.fetchrow(BEGUN, run_id)
        if begun is None:
            return {}
        counts = await _run(connection, run_id, begun["acquirer_id"], begun["business_date"])
        if hold is not None:
            await hold(connection)
    return counts


async def _run(connection: Connection, run_id: UUID, acquirer_id: UUID, day: date) -> Mapping[str, Any]:
    await connection.execute(LOCK, str(acquirer_id))
    # Tables that grew a moment ago look empty to the planner: a nested loop over a day would never end.
    await connection.execute("SET LOCAL work_mem = '96MB'")
    await connection.execute("SET LOCAL enable_nestloop = off")
    complete = await connection.fetchval(COMPLETE, acquirer_id, day)
    for statement in TABLES:
        await connection.execute(statement)
    lines = _count(await connection.execute(LINES, acquirer_id, day, timeout=STATEMENT_S))
    movements, matched = 0, dict[str, int]()
    if complete or lines:  # else nothing speaks of the date yet, which is so each night: its transactions need not be read to find nothing
        movements = _count(await connection.execute(MOVEMENTS, acquirer_id, day, timeout=STATEMENT_S))
        matched = await pair_up(connection)
        await find(connection, run_id, complete)
    await connection.execute(END, run_id, complete, lines, movements, json.dumps(matched, sort_keys=True), timeout=STATEMENT_S)
    for statement in ACROSS_TABLES:
        await connection.execute(statement)
    await connection.execute(FOUND, acquirer_id, day, timeout=STATEMENT_S)
    for statement in ACROSS:
        await connection.execute(statement, timeout=STATEMENT_S)
    await exceptions.follow(connection, acquirer_id, day)
    await connection.execute("DROP TABLE rc_final")
    await incoming.follow(connection, [incoming.Named(acquirer_id, day)])
    logs.info("reconciled", acquirer_id=acquirer_id, count=lines, rows=movements)
    return {"lines": lines, "movements": movements}


async def pair_up(connection: Connection) -> dict[str, int]:
    """Runs the rules over rc_line and rc_movement; how many pairs each made."""
    await connection.execute("ANALYZE rc_line, rc_movement", timeout=STATEMENT_S)
    matched = {}
    for at, (rule, statement) in enumerate(PAIR.items()):
        pairs = _count(await connection.execute(statement, timeout=STATEMENT_S))
        if pairs:
            matched[rule] = pairs
        if at == 0:
            for left in LEFT_OVER:
                await connection.execute(left, timeout=STATEMENT_S)
        elif pairs:
            for taken in TAKE:
                await connection.execute(taken, rule, timeout=STATEMENT_S)
    return matched


async def find(connection: Connection, run_id: UUID, complete: bool) -> None:
    """Writes what the pairs and the leftovers mean. `complete`: the file of the date is there, so that what it lacks is missing."""
    priced = await connection.fetchval("SELECT EXISTS (SELECT FROM rc_movement WHERE expected_fee IS NOT NULL)", timeout=STATEMENT_S)
    await connection.execute(FIND, run_id, AMOUNTS, complete, priced, timeout=STATEMENT_S)


def _count(status: str) -> int:
    return int(status.rsplit(" ", 1)[-1])
