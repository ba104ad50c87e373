"""How long the money of a day takes: N captured transactions of M merchants, then one cut-over that prices, posts and states them.

The transactions are written by one statement, as rows of a real size in the order of their times. The cut-over is the command that operators
run; its wall time and the memory of its process count. `python -m loadtests.settlement --help`.
"""
import asyncio
import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from loadtests import settlement_beside, settlement_files
from loadtests.measured import Result, measured, parser, say
from loadtests.processes import Processes, RunError
from loadtests.services import SWITCH, Cluster, environment

DAY = date(2026, 11, 23)
SECONDS_MAX, GENTLE_SECONDS_MAX, RSS_MB_MAX, LINEAR_MAX, MEMORY_MAX = 180.0, 900.0, 400.0, 12.0, 1.2
MILLION, TENTH = 1_000_000, 100_000

HOUSE = (
    "INSERT INTO organisation (organisation_id, name) VALUES ('00000000-0000-7000-8000-000000000001', 'Bench')",
    """INSERT INTO acquirer (acquirer_id, name, dialect, message_mode)
    VALUES ('00000000-0000-7000-8000-000000000002', '{acquirer}', 'iso87_ascii', 'single')""",
    """INSERT INTO business_day (acquirer_id, business_date) VALUES ('00000000-0000-7000-8000-000000000002', '{day}')""",
)
MERCHANTS = (
    """INSERT INTO merchant (merchant_id, organisation_id, name, mcc, time_zone, reserve_basis_points)
    SELECT ('00000000-0000-7000-9000-' || lpad(to_hex(n), 12, '0'))::uuid, '00000000-0000-7000-8000-000000000001', 'Merchant ' || n, '5812',
      'Asia/Shanghai', CASE WHEN n % 10 = 0 THEN 500 ELSE 0 END FROM generate_series(1, $1::int) n""",
    """INSERT INTO tariff (merchant_id, effective_from, basis_points)
    SELECT merchant_id, '2020-01-01', 60 + (row_number() OVER ())::int % 90 FROM merchant""",
)
# Interleaved merchants, one sale in twenty refunded, one tipped; ids and times grow together as they do in life.
TRANSACTIONS = """
INSERT INTO transaction (merchant_id, transaction_id, type, exchange, state, version, original_id, store_id, terminal_id, caller, idempotency_key,
  acquirer_id, business_date, worker_epoch, amount, currency, capture_method, authorised, capturable, captured, refunded, entry_mode, masked_pan,
  card_last4, brand, pan_token, pan_token_key, pan_sealed, pan_key, pan_sealed_on, mti, processing_code, stan, transmitted_at, local_time, local_date,
  pos_entry_mode, pos_condition, rrn, card_acceptor_terminal, card_acceptor, mcc, match_key, received_at, send_not_after, respond_by, sent_at,
  answered_at, outcome_at, outcome, response_code, approval_code, approved_amount, acquirer_rrn, request_message, answer_message, reference)
SELECT m, id(n), t, CASE t WHEN 'tip' THEN 'advice' ELSE 'request' END, 'APPROVED', 2, CASE t WHEN 'purchase' THEN NULL ELSE id(n - 1) END, m, m, m,
  'bench-key-' || lpad(n::text, 12, '0'), '00000000-0000-7000-8000-000000000002', '{day}', 1, amount, 'CNY',
  CASE t WHEN 'purchase' THEN 'automatic' END, CASE t WHEN 'purchase' THEN amount ELSE 0 END, CASE t WHEN 'purchase' THEN amount ELSE 0 END,
  CASE t WHEN 'purchase' THEN amount ELSE 0 END, 0, 'chip', '62123456****0003', '0003',
  CASE n % 3 WHEN 0 THEN 'unionpay' WHEN 1 THEN 'visa' ELSE 'mastercard' END, sha256(n::text::bytea), 't1',
  sha256(n::text::bytea) || sha256((n + 1)::text::bytea), 'k1', '{day}', '0200', '000000',
  lpad((n % 999999 + 1)::text, 6, '0'), '1123080000', '160000', '1123', '051', '00', '6327' || lpad(n::text, 8, '0'), 'T0000001', 'M00000000000001',
  '5812', '2|' || n, at, at + interval '2 s', at + interval '3 s', at, at, at + interval '50 ms', 'APPROVED', '00', lpad((n % 999999)::text, 6, '0'),
  amount, lpad(n::text, 12, '0'), $2, $3, 'order ' || n
FROM (SELECT n, ('00000000-0000-7000-9000-' || lpad(to_hex((n / 20 * 7919 + n % 20 / 2) % $4 + 1), 12, '0'))::uuid AS m,
  CASE WHEN n % 20 = 19 THEN 'refund' WHEN n % 20 = 17 THEN 'tip' ELSE 'purchase' END AS t, 1000 + n * 37 % 90000 AS amount,
  timestamptz '{day} 00:00:00+00' + n * interval '80 ms' AS at FROM generate_series(1, $1::bigint) n) AS drawn
"""
ID = """CREATE FUNCTION pg_temp.id(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
SELECT (lpad(to_hex(1795392 * bigint '1000000' + n * 80), 12, '0') || '7000800' || lpad(to_hex(n), 13, '0'))::uuid $$"""
BOOKS = """SELECT (SELECT count(*) FROM settlement_line) AS lines, (SELECT count(*) FROM settlement WHERE state = 'stated') AS settlements,
  (SELECT coalesce(sum(gross - fee), 0)::bigint FROM settlement_line) AS net_of_lines, (SELECT coalesce(sum(net), 0)::bigint FROM settlement) AS net,
  (SELECT coalesce(sum(e.amount), 0)::bigint FROM ledger_entry e JOIN account a USING (account_id) WHERE a.kind IN ('merchant', 'reserve')) AS owed,
  (SELECT coalesce(sum(CASE type WHEN 'refund' THEN -amount ELSE amount END), 0)::bigint FROM transaction
   WHERE acquirer_id = '00000000-0000-7000-8000-000000000002') AS sold,
  (SELECT coalesce(sum(gross), 0)::bigint FROM settlement_line) AS gross"""


class Ran(NamedTuple):
    seconds: float
    cpu_s: float
    rss_mb: float


async def generate(url: str, count: int, merchants: int, acquirer: str = "bench") -> None:
    """A migrated database becomes one with `count` captured transactions. The triggers of their lives are off meanwhile: they are born approved."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(ID)
        for statement in HOUSE:
            await connection.execute(statement.format(day=DAY, acquirer=acquirer))
        await connection.execute(MERCHANTS[0], merchants)
        await connection.execute(MERCHANTS[1])
        await connection.execute("ALTER TABLE transaction DISABLE TRIGGER USER")
        message = json.dumps({str(de): "0" * 12 for de in range(2, 30)})
        await connection.execute(TRANSACTIONS.format(day=DAY).replace(" id(", " pg_temp.id("), count, message, message, merchants, timeout=1800)
        await connection.execute("ALTER TABLE transaction ENABLE TRIGGER USER")
        await connection.execute("VACUUM (ANALYZE) transaction", timeout=1800)
    finally:
        await connection.close()


def timed(command: list[str], variables: dict[str, str], folder: Path) -> Ran:
    """A command to its end: seconds, CPU seconds, and the most memory that its process had. Raises RunError."""
    started = time.monotonic()
    with (folder / "command.out").open("wb") as out, subprocess.Popen(command, env=variables, stdout=out, stderr=out) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RunError(f"{' '.join(command[2:])} ended with {process.returncode}: {(folder / 'command.out').read_text()[-500:]}")
    return Ran(time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


async def check(url: str, count: int) -> None:
    """The books after the cut-over agree with what was planted. Raises RunError."""
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(BOOKS, timeout=600)
    finally:
        await connection.close()
    assert row is not None
    if not (row["lines"] == count and row["gross"] == row["sold"] and row["net_of_lines"] == row["net"] == row["owed"]):
        raise RunError(f"the books do not agree: {dict(row)}")


async def measure(cluster: Cluster, processes: Processes, home: Path, count: int, merchants: int, gentle: bool) -> dict[str, Any]:
    async with cluster.fresh() as url:
        variables = environment(home, SWITCH_DATABASE_URL=url)
        processes.run("migrate", [*SWITCH, "migrate"], variables)
        started = time.monotonic()
        await generate(url, count, merchants)
        say(f"{count} captured transactions of {merchants} merchants written in {time.monotonic() - started:.0f} s")
        command = [*SWITCH, "cutover", "run", "bench", DAY.isoformat(), *(["--gentle"] if gentle else [])]
        ran = await asyncio.to_thread(timed, command, variables, home)
        await check(url, count)
        say(f"{count}: priced, posted and cut over in {ran.seconds:.1f} s with {ran.rss_mb:.0f} MB")
        reconciled = await settlement_files.reconcile(url, home, "bench", variables, timed)
        say(f"{count}: a file of {reconciled['clearing_mb']:.0f} MB reconciled in {reconciled['reconcile_s']:.1f} s with "
            f"{reconciled['reconcile_rss_mb']:.0f} MB")
    return {**reconciled, "count": count, "merchants": merchants, "cutover_s": round(ran.seconds, 2), "cutover_cpu_s": round(ran.cpu_s, 2),
            "cutover_rss_mb": round(ran.rss_mb, 1)}


def faults(runs: list[dict[str, Any]], gentle: bool) -> list[str]:
    """Which limits were broken; those of a million hold for fewer in proportion of nothing, so they are asked of a million alone."""
    found = [f"{run['count']}: {run['cutover_rss_mb']} MB are more than {RSS_MB_MAX:g}" for run in runs if run["cutover_rss_mb"] > RSS_MB_MAX]
    by_count = {run["count"]: run for run in runs}
    large, small = by_count.get(MILLION), by_count.get(TENTH)
    found += settlement_files.faults(small, large)
    seconds = GENTLE_SECONDS_MAX if gentle else SECONDS_MAX
    if large is not None and large["cutover_s"] > seconds:
        found.append(f"{large['cutover_s']} s are more than {seconds:g}")
    if large is not None and small is not None:
        if large["cutover_s"] > LINEAR_MAX * small["cutover_s"]:
            found.append(f"ten times as many took {large['cutover_s'] / small['cutover_s']:.1f} times as long, more than {LINEAR_MAX:g}")
        if large["cutover_rss_mb"] > MEMORY_MAX * small["cutover_rss_mb"]:
            found.append(f"ten times as many took {large['cutover_rss_mb'] / small['cutover_rss_mb']:.2f} times the memory, more than {MEMORY_MAX:g}")
    return found


def main() -> int:
    options_of = parser("settlement", __doc__)
    options_of.add_argument("--count", type=int, action="append", help=f"transactions; may be repeated; default: {TENTH} and {MILLION}")
    options_of.add_argument("--merchants", type=int, default=2000)
    options_of.add_argument("--gentle", action="store_true", help="the cut-over as it runs beside payments")
    options_of.add_argument("--beside", type=float, metavar="RATE", help="authorizations a second that are made meanwhile; default count: 100,000")
    options_of.add_argument("--seconds", type=float, default=20.0, help="with --beside: how long they are measured alone first")
    options = options_of.parse_args()
    if options.beside is not None and not (options.gentle and options.beside > 0):
        options_of.error("--beside RATE measures the gentle cut-over: say --gentle too")

    def run(result: Result, processes: Processes, home: Path) -> list[str]:
        runs = result.setdefault("runs", [])

        async def all_runs() -> None:
            cluster = Cluster(processes, home)
            await cluster.check()
            if options.beside:
                for count in options.count or (TENTH,):
                    runs.append(await settlement_beside.measure(cluster, processes, home, count, options.merchants, options.beside, options.seconds,
                                                                generate, check, timed, DAY.isoformat()))
                return
            for count in options.count or (TENTH, MILLION):
                runs.append(await measure(cluster, processes, home, count, options.merchants, options.gentle))

        asyncio.run(all_runs())
        return settlement_beside.faults(runs) if options.beside else faults(runs, options.gentle)

    return measured("settlement", run)


if __name__ == "__main__":
    sys.exit(main())
