"""Every route, each role, another merchant's object: generated from the OpenAPI file, so that a new route is in it by itself.

`tests/rights.txt` lists for each route the roles that are let in; a route that is new, or lets in somebody else, differs from it until it says so:
`RIGHTS=write python -m pytest tests/test_rights.py` writes it anew.
"""

import itertools
import os
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from switch.api.applications import PROFILE
from switch.ids import PREFIXES
from switch.settlement.jobs import table
from switch.settlement.jobs.table import Due
from tests.fleet import Device
from tests.flows import Shop, eventually, new_key, open_shop

BOOK = Path(__file__).with_name("rights.txt")
ROLES = ("nobody", "terminal", "staff", "merchant", "applicant", "support", "reviewer", "administrator", "operator")
METHODS = ("get", "post", "put", "patch", "delete")
PUBLIC = {"GET /healthz", "GET /readyz", "GET /metrics", "GET /problems", "GET /problems/{code}", "POST /v1/registrations"}
# How the objects of a path are called in their ids, where it is not the singular of the segment before them.
KINDS = {"authorizations": "transaction", "transactions": "transaction", "batches": "batch", "crypto-keys": "crypto_key", "deliveries": "webhook_event",
         "evidence": "dispute_file", "files": "payout_file", "links": "acquirer", "merchant-limits": "limit", "parameters": "terminal", "reversals": "transaction",
         "acceptance-tests": "acceptance_test", "licences": "document",
         "risk-hits": "risk_hit", "risk-lists": "risk_entry", "risk-rules": "risk_rule"}
PLAIN = {"calendars": "CN", "keys": "t00000000000000f", "problems": "not_found", "acceptance-plans": "PX7", "signatures": "merchant",
         "ticket-terms": "high", "help-articles": "paper"}  # objects without an id of ours
# What an object that is another's may still be told: where the answer does not depend on whose it is.
GENERIC = {"GET /v1/calendars/{calendar}", "GET /v1/acceptance-plans/{model}", "GET /v1/help-articles/{article}"}
PARAMETER = re.compile(r"([\w-]+)/\{(\w+)\}")


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("rights"), SWITCH_TESTING="1") as opened:
        opened.keys["nobody"] = f"tk_t{'0' * 15}.{'a' * 43}"
        opened.keys |= {"terminal": opened.keys["till"], "merchant": opened.keys["merchant.one"]}
        for role, of in (("staff", {"store": opened.shown("store.first")}), ("support", {}), ("reviewer", {})):
            made = await opened.ask("POST", "/v1/keys", {"role": role, "person": f"Some {role.title()}", **of}, "administrator")
            opened.keys[role] = made.body["key"]
        async def begun() -> str:
            answer = await opened.ask("POST", "/v1/applications", {"entity_type": "company", "country": "CN", "profile": dict(PROFILE)}, "operator")
            return str(answer.body.get("key", ""))

        opened.keys["applicant"] = await eventually(begun, "nobody may apply")
        yield opened


@pytest_asyncio.fixture(scope="module")
async def foreign(shop: Shop) -> dict[str, str]:
    """Objects of merchant two, by kind; the roles asked with belong to merchant one."""
    sale = await shop.pay(100, key="dual")
    assert sale.status == 201, sale.raw
    device = await Device(shop, shop.shown("terminal.dual"), "two").register()
    await device.move("order")
    async with shop.switch.writers.acquire() as connection, connection.transaction():
        job, _ = await table.ask(connection, "export", Due("rights-of-others", {"of": "transactions", "format": "csv"}, shop.ids["merchant.two"]), "two")
    found = {"transaction": sale.body["id"], "merchant": shop.shown("merchant.two"), "store": shop.shown("store.two"), "device": device.id,
             "terminal": shop.shown("terminal.dual"), "acquirer": shop.shown("acquirer.dual"), "export": f"exp_{job.job_id}", "job": f"job_{job.job_id}"}
    return {kind: f"{prefix}{uuid.uuid4()}" for kind, prefix in PREFIXES.items()} | found


@pytest_asyncio.fixture(scope="module")
async def client(shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=shop.base, timeout=20) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module")
async def schema(shop: Shop) -> Any:
    return (await shop.ask("GET", "/openapi.json", key="operator")).body


def filled(path: str, foreign: dict[str, str]) -> str:
    """The path with another merchant's object, or one that does not exist, in each place."""
    def of(match: re.Match[str]) -> str:
        segment = match[1]
        return f"{segment}/{PLAIN[segment] if segment in PLAIN else foreign[KINDS.get(segment, segment.removesuffix('s'))]}"
    return PARAMETER.sub(of, path)


def body_of(operation: Any) -> object:
    """The documented example; of a file anything."""
    content = operation.get("requestBody", {}).get("content", {})
    kind = next(iter(content), None)
    if kind is None:
        return None
    if kind != "application/json":
        return b"x"
    return content[kind].get("example", {})


async def asked(client: httpx.AsyncClient, shop: Shop, foreign: dict[str, str], method: str, path: str, operation: Any, role: str) -> tuple[int, str]:
    query = "&".join(f"{each['name']}={foreign.get(each['name'], 'a-key-of-16-signs')}" for each in operation.get("parameters", [])
                     if each["in"] == "query" and each.get("required"))
    body = body_of(operation)
    address = filled(path, foreign) + (f"?{query}" if query else "")
    if method == "get":  # some are streamed
        got = await client.get(address, headers={"authorization": f"Bearer {shop.keys[role]}"})
        return got.status_code, got.text
    answer = await shop.ask(method.upper(), address, body, role, Idempotency_Key=new_key())
    return answer.status, answer.raw.decode()


def routes(schema: Any) -> list[tuple[str, str, Any]]:
    return [(method, path, operations[method]) for path, operations in sorted(schema["paths"].items()) for method in METHODS if method in operations]


async def test_who_is_let_in_where(shop: Shop, client: httpx.AsyncClient, schema: Any, foreign: dict[str, str]) -> None:
    """An operator's writes are left out: they would be done."""
    lines, wrong = [], []
    for method, path, operation in routes(schema):
        name, let_in = f"{method.upper()} {path}", []
        for role in ROLES:
            if role == "operator" and method != "get":
                continue
            status, said = await asked(client, shop, foreign, method, path, operation, role)
            if status >= 500:
                wrong.append(f"{name} as {role}: {status}")
            if status not in (401, 403):
                let_in.append(role)
            if "{" in path and role in ("terminal", "staff", "merchant", "applicant") and name not in PUBLIC | GENERIC and (
                    status < 400 or (method == "get" and status not in (401, 403, 404)) or status == 409):
                wrong.append(f"{name} as {role} tells of another's object: {status} {said[:150]}")
        lines.append(f"{name}: {' '.join(let_in) or '-'}")
    text = "\n".join(lines) + "\n"
    if os.environ.get("RIGHTS") == "write":
        BOOK.write_text(text)
    assert not wrong, "\n".join(wrong)
    told, known = set(text.splitlines()), set(BOOK.read_text().splitlines())
    assert told == known, f"not in {BOOK.name}: {sorted(told - known)}; no longer so: {sorted(known - told)}"


def test_nobody_gets_in_but_where_it_is_said() -> None:
    let_in = {line.partition(":")[0] for line in BOOK.read_text().splitlines() if "nobody" in line.partition(":")[2]}
    assert let_in == PUBLIC


async def test_who_is_nobody_is_told_so_before_what_is_wrong_with_the_question(shop: Shop, client: httpx.AsyncClient, schema: Any, foreign: dict[str, str]) -> None:
    asked_before = []
    for method, path, operation in routes(schema):
        wrong = {each["name"]: "\x7f" for each in operation.get("parameters", []) if each["in"] == "query"}
        if wrong and f"{method.upper()} {path}" not in PUBLIC:
            said = [(await client.request(method, filled(path, foreign), params=query)).status_code for query in ({}, wrong, {"x": "y"})]
            if set(said) != {401}:
                asked_before.append(f"{method.upper()} {path}: {said}")
    assert not asked_before, "\n".join(asked_before)


async def test_every_object_of_a_path_has_a_kind(schema: Any) -> None:
    segments = set(itertools.chain.from_iterable((each[0] for each in PARAMETER.findall(path)) for path in schema["paths"]))
    assert {each for each in segments if KINDS.get(each, each.removesuffix("s")) not in PREFIXES and each not in PLAIN} == set(), "add it to KINDS"
