"""The leak scan at the end of a fault run: database files and their log, a dump, logs, books, journals, metrics and error answers."""

import asyncio
import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from tests import test_leaks
from tests.test_leaks import PANS

TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"


def card(number: int) -> dict[str, Any]:
    """A canary card with everything that may never be kept."""
    return test_leaks.card(PANS[number % len(PANS)])


def dump(url: str) -> bytes:
    """Every row of every table, as text."""
    async def read() -> bytes:
        connection = await asyncpg.connect(url)
        try:
            tables = [row[0] for row in await connection.fetch(TABLES)]
            return "\n".join([str(row[0]) for table in tables for row in await connection.fetch(f'SELECT t::text FROM "{table}" t')]).encode()
        finally:
            await connection.close()

    return asyncio.run(read())


def answers(base: str, key: str, operator: str) -> list[bytes]:
    """What the switch says about metrics, lists, and requests that are wrong in many ways, head and body."""
    pan = PANS[0]
    bad: list[object] = [f'{{"card": "{pan}', {"type": pan}, {"type": "purchase", "amount": -1, "currency": "CNY", "card": card(0)},
                         {"type": "purchase", "amount": 5000, "currency": pan, "card": card(1)}, [pan], {pan: pan},
                         {"type": "purchase", "amount": 5000, "currency": "CNY", "card": {**card(2), "pan": PANS[2] + "1"}}]
    found = [ask(base, "POST", "/v1/authorizations", key, body, f"leak-scan-{number:016d}") for number, body in enumerate(bad)]
    return found + [ask(base, "GET", path, operator) for path in (
        "/metrics", "/readyz", "/v1/links", "/v1/alerts", "/v1/reversals?limit=200", "/v1/unmatched-answers?limit=200", "/v1/transactions?limit=200",
        f"/v1/transactions/{pan}")]


def ask(base: str, method: str, path: str, key: str, body: object = None, idempotency_key: str = "") -> bytes:
    address = urlsplit(base)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    try:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **({"Idempotency-Key": idempotency_key} if idempotency_key else {})}
        connection.request(method, path, body if isinstance(body, str) else json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        return repr(answer.getheaders()).encode() + answer.read()
    finally:
        connection.close()


def scan(folder: Path, url: str, heard: list[bytes]) -> list[str]:
    """Where a canary lies, and in which form. `folder` holds the cluster, logs, books and journals of the run."""
    found, rows = [], dump(url)
    assert PANS[0][:8].encode() + b"****" in rows, "no canary was used: this scan shows nothing"
    for name, content in (("a row", rows), *((f"answer {number}", each) for number, each in enumerate(heard))):
        found += [f"{name}: {form}" for form in test_leaks.leaks(content)]
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            found += [f"{path.relative_to(folder)}: {form}" for form in test_leaks.leaks(path.read_bytes().rstrip(b"\0"))]
    return found
