"""How long an acquirer's clearing file of a day takes: written here from the books with planted differences, then reconciled by the command.

`settlement` calls it after its cut-over; the difference planted must be found, no more and no less.
"""
import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from loadtests.processes import RunError
from loadtests.services import SWITCH

SECONDS_MAX, RSS_MB_MAX, MEMORY_MAX = 90.0, 400.0, 1.2
MISSING_EVERY, AMOUNT_EVERY = 5003, 7001
ROWS = """SELECT rrn, stan, card_acceptor_terminal, card_acceptor, approval_code, CASE type WHEN 'refund' THEN 'R' ELSE 'S' END, approved_amount,
business_date FROM transaction ORDER BY transaction_id"""
FOUND = """SELECT kind, count(*) AS count FROM reconciliation_exception WHERE state = 'open' GROUP BY kind"""
POOR = 2000  # rows at a time


class Written(NamedTuple):
    lines: int
    missing: int
    amount: int


async def write(url: str, path: Path, acquirer: str) -> Written:
    """The file of all transactions of the one day that the books hold; some are left out, some have another amount."""
    connection = await asyncpg.connect(url)
    lines = missing = wrong = total = 0
    try:
        async with connection.transaction():
            day = await connection.fetchval("SELECT max(business_date) FROM transaction")
            with path.open("w") as file:
                file.write(f"H,CLEARING,1,{acquirer},{day},1\n")
                at = 0
                async for rrn, stan, terminal, acceptor, approval, kind, amount, on in connection.cursor(ROWS, prefetch=POOR):
                    at += 1
                    if at % MISSING_EVERY == 0:
                        missing += 1
                        continue
                    if at % AMOUNT_EVERY == 0:
                        wrong, amount = wrong + 1, amount + 1
                    lines += 1
                    total += amount if kind == "S" else -amount
                    file.write(f"D,{lines},{rrn},{stan},{terminal.strip()},{acceptor.strip()},{approval.strip()},{kind},"
                               f"{amount // 100}.{amount % 100:02d},CNY,0.06,{on},REF{at}\n")
                file.write(f"T,{lines},{total},{lines * 6}\n")
    finally:
        await connection.close()
    return Written(lines, missing, wrong)


async def reconcile(url: str, home: Path, acquirer: str, variables: dict[str, str], timed: Callable[..., Any]) -> dict[str, Any]:
    """Seconds and memory of `switch clearing load`. Raises RunError when it finds anything but what was planted."""
    path = home / "clearing.csv"
    written = await write(url, path, acquirer)
    size = path.stat().st_size
    try:
        ran = await asyncio.to_thread(timed, [*SWITCH, "clearing", "load", str(path), "--acquirer", acquirer, "--person", "Bench"], variables, home)
    finally:
        path.unlink()
    connection = await asyncpg.connect(url)
    try:
        found = {row["kind"]: row["count"] for row in await connection.fetch(FOUND, timeout=600)}
    finally:
        await connection.close()
    planted = {kind: count for kind, count in (("missing_there", written.missing), ("amount", written.amount)) if count}
    if found != planted:
        raise RunError(f"reconciled {json.dumps(found)}, planted was {json.dumps(planted)}")
    return {"clearing_lines": written.lines, "clearing_mb": round(size / (1 << 20), 1), "reconcile_s": round(ran.seconds, 2),
            "reconcile_rss_mb": round(ran.rss_mb, 1)}


def faults(small: dict[str, Any] | None, large: dict[str, Any] | None) -> list[str]:
    """Which limits a run of a million broke, and against one of a tenth of it."""
    found = []
    if large is not None:
        if large["reconcile_s"] > SECONDS_MAX:
            found.append(f"reconciling took {large['reconcile_s']} s, more than {SECONDS_MAX:g}")
        if large["reconcile_rss_mb"] > RSS_MB_MAX:
            found.append(f"reconciling took {large['reconcile_rss_mb']} MB, more than {RSS_MB_MAX:g}")
    if small is not None and large is not None and large["reconcile_rss_mb"] > MEMORY_MAX * small["reconcile_rss_mb"]:
        found.append(f"reconciling ten times as many took {large['reconcile_rss_mb'] / small['reconcile_rss_mb']:.2f} times the memory")
    return found
