"""The leak scan at the end of a fault run: database files and their log, tables, a dump, logs, books, journals, metrics and error answers."""

import asyncio
import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests import leak_scan
from tests.leak_scan import PANS

SEEN_AT_LEAST = {"table": 10_000, "dump": 10_000, "run": 4_000_000, "text": 5_000}  # bytes; less, and the scan shows nothing


def card(number: int) -> dict[str, Any]:
    """A canary card with everything that may never be kept."""
    return leak_scan.card(PANS[number % len(PANS)])


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
    texts = {path.name: path.read_text("utf-8", "replace") for path in (*folder.glob("*.err"), *folder.glob("*.out"), *folder.glob("*.jsonl"))}
    texts |= {f"answer {number}": each.decode("utf-8", "surrogateescape") for number, each in enumerate(heard)}
    found = asyncio.run(leak_scan.everything(url, {"run": folder}, texts))
    scarce = [f"only {found.looked.get(kind, 0)} bytes of {kind} were looked at" for kind, least in SEEN_AT_LEAST.items() if found.looked.get(kind, 0) < least]
    return found.found + scarce
