"""Whatever a client sends gets a clear 4xx that repeats nothing of it, never a 5xx; what belongs to others looks absent (fault rows 62-78)."""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pytest
import pytest_asyncio

from switch import database, logs
from switch.errors import PROBLEMS
from switch.ids import PREFIXES
from switch.merchants.onboarding import Onboarding
from tests.flows import ROUTE, Shop, body_of, new_key, open_shop
from tests.processes import CARD, Answer
from tests.test_rights import BOOK

CANARY = "canary-7f3a9c"


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("bad_input")) as opened:
        yield opened


def refused(answer: Answer, status: int | tuple[int, ...], code: str | None = None) -> Any:
    """A problem of the closed list that repeats nothing."""
    assert answer.status in (status if isinstance(status, tuple) else (status,)), (answer.status, answer.raw)
    body = answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["code"] in PROBLEMS and PROBLEMS[body["code"]].status == answer.status == body["status"] and body["type"] == f"/problems/{body['code']}"
    assert code is None or body["code"] == code, answer.raw
    assert CANARY not in answer.raw.decode() + str(answer.headers)
    return body


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


GOOD = json.dumps(body_of(5000))
JSON_FAULTS = [
    (b"", 400, "json_malformed"), (b"{", 400, "json_malformed"), (b"null", 422, "invalid"), (b"[]", 422, "invalid"), (b"1", 422, "invalid"),
    (b'"x"', 422, "invalid"), (f'{{"amount": "{CANARY}'.encode(), 400, "json_malformed"), (b"{'type': 1}", 400, "json_malformed"),
    (GOOD.encode() + b"x", 400, "json_malformed"), (GOOD.encode() + GOOD.encode(), 400, "json_malformed"), (b"\xef\xbb\xbf" + GOOD.encode(), 400, "json_encoding"),
    (GOOD.encode("utf-16"), 400, "json_encoding"), (GOOD.replace("purchase", "\xe9").encode("latin-1"), 400, "json_encoding"),
    (b'{"type": "\xc0\xaf"}', 400, "json_encoding"), (b'{"type": "\xed\xa0\x80"}', 400, "json_encoding"),
    (b'{"type": "\\ud800"}', 400, "json_surrogate"), (b'{"\\udfff": 1}', 400, "json_surrogate"), (b'{"type": "a\\u0000b"}', 400, "json_nul"),
    (b'{"type": "a\x00b"}', 400, "json_malformed"), (b'{"type": "a\nb"}', 400, "json_malformed"),
    (GOOD.replace('"currency"', f'"amount": 1, "currency": "{CANARY}", "currency"').encode(), 400, "json_duplicate_key"),
    (GOOD.replace('"pan"', '"expiry": "3012", "pan"').encode(), 400, "json_duplicate_key"),
    *((GOOD.replace("5000", number).encode(), 400, "json_number") for number in (
        "NaN", "Infinity", "-Infinity", "1e3", "1.0", "1E+2", "5000.00", "-0", "0.1e1", "9" * 16, "9" * 5000, "-" + "9" * 300)),
    *((GOOD.replace("5000", number).encode(), 400, "json_malformed") for number in ("+1", "01", "0x10", "1_000", ".5", "5.", "٥", "１２")),
    (nested(17).encode(), 400, "json_depth"), (nested(5000).encode(), 400, "json_depth"), (b"[" * 30_000, 400, None), (b"[" * 30_000 + b"]" * 30_000, 400, "json_depth"),
    (b'{"a":' * 10_000, 400, None), (nested(16).encode(), 422, "invalid"),
    (b" " * 65_000 + b"{}", 422, "invalid"), (b"{}" + b" " * 65_535, 413, "body_too_large"),
]


@pytest.mark.parametrize("path", [ROUTE, "/v1/cancellations", "/v1/merchants"])
async def test_a_body_that_is_not_strict_json_is_refused_alike_on_every_route(shop: Shop, path: str) -> None:
    key = "operator" if path == "/v1/merchants" else "till"
    for raw, status, code in JSON_FAULTS:
        refused(await shop.ask("POST", path, raw or b" ", key, Idempotency_Key=new_key()), status, code)


def with_field(place: str, value: object) -> dict[str, Any]:
    body = json.loads(json.dumps(body_of(5000)))
    *parents, last = place.split(".")
    at = body
    for parent in parents:
        at = at.setdefault(parent, {})
    at[last] = value
    return body


AMOUNTS = [0, -1, -5000, 10**12, 10**14, "5000", True, None, [], {}, "٥٠٠٠", "5e3"]
FIELDS: dict[str, list[object]] = {
    "amount": AMOUNTS, "tip_amount": [-1, 5001, 10**13, "1", True, None], "cashback_amount": [-1, 5001, "1", None],
    "currency": [CANARY, "cny", "ZZZ", "156", "CN", "CNY ", "", 156, None, "СNY", "XAU"],
    "type": [CANARY, "Purchase", "refund", "capture", "", 1, None, ["purchase"]],
    "capture_method": [CANARY, "Automatic", 1, ""], "partial_approval": [CANARY, "yes", True, None],
    "terminal_trace": [CANARY, "", "1" * 13, "٣", "a b", "'; --", 17, "a\n"], "reference": ["", "x" * 65, "table é", f"{CANARY}\n", "\x1b[31m", 5, "\u2028", "a\tb"],
    "local_time": [CANARY, "2026-13-01T00:00:00", "2026-02-30T10:00:00", "2026-11-23T24:00:00", "2026-11-23T10:00:60", "2026-11-23 10:00:00",
                   "2026-11-23T10:00:00Z", "2026-11-23T10:00:00+08:00", "٢٠٢٦-11-23T10:00:00", "0000-01-01T00:00:00", 1700000000, ""],
    "card.pan": [CANARY, "", "4111111111111112", "411111111111111", "4" * 20, "4" * 11, "4111 1111 1111 1111", "4111-1111-1111-1111", "٤١١١١١١١١١١١١١١١", 411111111111112, None,
                 "4111111111111111\n"],
    "card.expiry": [CANARY, "3013", "3000", "312", "30122", "٣٠١٢", "30-12", 3012, None, "3012\n"],
    "card.entry_mode": [CANARY, "CHIP", "", 5, None], "card.sequence_number": [CANARY, "", "1234", "٣", 1], "card.security_code": [CANARY, "12", "12345", 123],
    "card.emv": [CANARY, "9F", "9F26", "9F2608A1", "A1B", "ZZ", "5A0841111111", "9F2681", "80" * 3, "9F26 08", 5, "00" * 256, "", "9A03261123" * 2, "9F360200FF9A032611239F36020100"],
    "card.track2": [CANARY, "", "4111111111111111=3012", "6212345678900000003", "6212345678900000003=", "6212345678900000003=3012X", "6212345678900000003^3012", 5,
                    "6212345678900000003D" + "1" * 18],
    "card.pin": [CANARY, {}, {"block": "0" * 16}, {"block": "0" * 16, "format": "iso0"}, {"block": "0" * 16, "format": "iso2", "key_id": "k"},
                 {"block": "0" * 15, "format": "iso0", "key_id": "k"}, {"block": "0" * 32, "format": "iso0", "key_id": "k"}, {"block": "0" * 16, "format": "iso4", "key_id": "k"},
                 {"block": "0" * 16, "format": "iso0", "key_id": "k", "ksn": "F" * 16}, {"block": "0" * 16, "format": "iso0", "key_id": ""},
                 {"block": "0" * 16, "format": "iso0", "ksn": "F" * 25}, {"block": CANARY, "format": "iso0", "key_id": CANARY}],
    "card": [CANARY, [], None, {}, [CARD], "4111111111111111"], "qr": [CANARY, {}, {"code": "1"}, {"code": "1" * 33}, {"code": "123456789012"}],
}


@pytest.mark.parametrize("place", FIELDS)
async def test_a_wrong_value_is_refused_with_its_place_and_without_its_content(shop: Shop, place: str) -> None:
    for value in FIELDS[place]:
        problem = refused(await shop.post(with_field(place, value)), 422, "invalid")
        assert problem["errors"], (place, value)
        for error in problem["errors"]:
            assert set(error) == {"field", "rule", "type"} and error["rule"]
            assert error["field"] == "" or error["field"].split(".")[0] in place or place.split(".")[0] in error["field"], (value, error)


STRANGERS = ["merchant_id", "merchant", "state", "status", "id", "amount_captured", "captured", "approved_amount", "approval_code", "response_code", "acquirer",
             "terminal_id", "idempotency_key", "__proto__", "constructor", CANARY, "Amount", "amount ", "​amount", ""]


@pytest.mark.parametrize("place", ["", "card.", "card.pin."])
async def test_a_field_that_the_model_does_not_know_changes_nothing(shop: Shop, place: str) -> None:
    for name in STRANGERS:
        body = with_field("card.pin", {"block": "0" * 16, "format": "iso0", "key_id": "k1"}) if "pin" in place else body_of(5000)
        body = json.loads(json.dumps(body))
        target = body["card"]["pin"] if "pin" in place else body["card"] if place else body
        target[name] = 1
        key = new_key()
        problem = refused(await shop.post(body, key), 422, "invalid")
        assert [error["type"] for error in problem["errors"]] == ["extra_forbidden"]
        assert problem["errors"][0]["field"] == f"{place}(unknown field)" and "unknown" not in name
        assert await shop.by_key(key) == []


async def test_no_part_of_a_body_comes_back_even_when_every_field_is_wrong(shop: Shop) -> None:
    body: dict[str, Any] = {f"{CANARY}-{at}": CANARY for at in range(40)}
    body |= {"type": CANARY, "amount": CANARY, "currency": CANARY, "card": {"pan": CANARY, CANARY: CANARY, "pin": {CANARY: CANARY}}, "local_time": CANARY, "reference": CANARY * 9}
    problem = refused(await shop.post(body), 422, "invalid")
    assert len(problem["errors"]) <= 20
    refused(await shop.ask("POST", "/v1/cancellations", {CANARY: CANARY, "idempotency_key": CANARY}, "till"), 422, "invalid")
    refused(await shop.ask("POST", "/v1/merchants", {CANARY: CANARY, "name": CANARY, "mcc": CANARY, "organisation": CANARY}, "operator"), (404, 422))


CHIP_DATA = [("9F2608A1", "value runs past the end"), ("9F", "tag is cut"), ("9F26", "length is missing"), ("9A80", "indefinite length"), ("9A82", "length is cut"),
             ("9A83000001AA", "length of more than two bytes"), ("9F8181818101AA", "tag of more than 4 bytes"), ("9A03261123" * 2, "a tag is there twice"),
             ("9A032611237100" + "9A0326112" + "4", "a tag is there twice"), ("9A0" + "1" * 2, "hexadecimal"), ("00" * 256, "1 to 255 bytes"),
             ("9A00" * 65, "more than 64 elements")]


@pytest.mark.parametrize(("text", "fault"), CHIP_DATA)
async def test_chip_data_that_cannot_be_read_is_refused_with_what_is_wrong(shop: Shop, text: str, fault: str) -> None:
    key = new_key()
    problem = refused(await shop.post(with_field("card.emv", text), key), 422, "invalid")
    (error,) = problem["errors"]
    assert error["field"] == "card.emv" and fault in error["rule"] and (len(text) < 10 or text not in json.dumps(problem)), problem
    assert await shop.by_key(key) == []


CONTENT = [({"Content_Type": "text/plain"}, 415, "content_type"), ({"Content_Type": "application/x-www-form-urlencoded"}, 415, "content_type"),
           ({"Content_Type": f"application/json; charset={CANARY}"}, 415, "content_type"), ({"Content_Type": "application/json; charset=utf-16"}, 415, "content_type"),
           ({"Content_Encoding": "gzip"}, 415, "content_encoding"), ({"Content_Encoding": CANARY}, 415, "content_encoding"),
           ({"Idempotency_Key": CANARY + " "}, 400, None), ({"Idempotency_Key": CANARY[:10]}, 400, "idempotency_key_malformed"),
           ({"Request_Deadline": CANARY}, 422, "invalid"), ({"Request_Deadline": "٣٥"}, 422, "invalid")]


@pytest.mark.parametrize(("headers", "status", "code"), CONTENT)
async def test_a_wrong_header_is_refused(shop: Shop, headers: dict[str, str], status: int, code: str | None) -> None:
    raw = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in ({"Content_Type": "application/json", "Idempotency_Key": new_key()} | headers).items())
    refused(await plain(shop, f"POST {ROUTE} HTTP/1.1\r\n{raw}", GOOD.encode()), status, code)


async def plain(shop: Shop, head: str, body: bytes = b"", key: str = "till") -> Answer:
    """Bytes as they are, with Host, key and length added."""
    address = urlsplit(shop.base)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(f"{head}Host: switch\r\nAuthorization: Bearer {shop.keys[key]}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        return Answer(int(lines[0].split(" ")[1]), headers, await reader.readexactly(int(headers["content-length"])))
    finally:
        writer.close()


@pytest.mark.parametrize("twice", ["Idempotency-Key: {key}", "Content-Type: application/json", "Request-Deadline: 30", "Authorization: Bearer x"])
async def test_a_header_that_decides_comes_once(shop: Shop, twice: str) -> None:
    once = f"POST {ROUTE} HTTP/1.1\r\nContent-Type: application/json\r\nIdempotency-Key: {new_key()}\r\nRequest-Deadline: 30\r\n"
    refused(await plain(shop, once + twice.format(key=new_key()) + "\r\n", GOOD.encode()), 400, "request_malformed")


METHODS = [("GET", "/v1/cancellations", 405), ("PUT", ROUTE, 405), ("DELETE", ROUTE, 405), ("PATCH", ROUTE, 405), ("TRACE", ROUTE, 405), ("POST", "/healthz", 405),
           ("OPTIONS", ROUTE, 405), (CANARY.upper().replace("-", ""), ROUTE, (400, 405)), ("GET", f"/{CANARY}", 404), ("POST", "/v1/authorizations/", 404), ("GET", "/v1/transactions/", 404), ("GET", "//v1/transactions", 404),
           ("GET", "/v1/../v1/transactions", (400, 404)), ("GET", f"/v1/transactions/%00{CANARY}", 404), ("GET", f"/v1/transactions/{CANARY}/story", 404),
           ("GET", "/v1/transactions/%ff%fe", 404), ("GET", f"/problems/{CANARY}", 404), ("POST", f"{ROUTE}?_method=DELETE", 400)]


@pytest.mark.parametrize(("method", "path", "status"), METHODS)
async def test_an_address_or_method_that_is_not_there(shop: Shop, method: str, path: str, status: int | tuple[int, ...]) -> None:
    refused(await shop.ask(method, path, key="till"), status)


async def test_a_method_override_overrides_nothing(shop: Shop) -> None:
    answer = await shop.ask("GET", "/v1/transactions", key="till", X_HTTP_Method_Override="DELETE", X_Forwarded_For=CANARY)
    assert answer.status == 200 and CANARY not in answer.raw.decode()


QUERIES = ["limit=0", "limit=201", "limit=-1", "limit=1e2", f"limit={CANARY}", "limit=99999999999999999999999", f"status={CANARY}", "status=Approved", f"from={CANARY}",
           "from=2026-13-01", "from=99999-01-01", "min=-1", "min=1.5", "max=99999999999999", "last4=12345", "last4=%D9%A3%D9%A3%D9%A3%D9%A3", "rrn=1", f"rrn={CANARY}", "stan=12", "stan=1234567",
           f"token={CANARY}", "token=" + "G" * 64, "token=" + "a" * 63, "approval_code=1234567", "reference=%00", "reference=%F0%9F%98%80", "reference=" + "x" * 65,
           f"payment_status={CANARY}", f"type={CANARY}", "from=inf", "from=nan", "from=1e400", "to=-1e400", "limit=%00", "store=sto_%00", "min=%D9%A3"]
ABSENT = [f"store={CANARY}", f"terminal={CANARY}", f"acquirer={CANARY}", f"after={CANARY}", "after=txn_", "terminal=trm_" + "0" * 36, "after=", "store="]


async def test_a_wrong_filter_is_refused_and_an_id_of_another_form_is_absent(shop: Shop) -> None:
    for query in QUERIES:
        refused(await shop.ask("GET", f"/v1/transactions?{query}", key="merchant.one"), 422, "invalid")
    for query in ABSENT:
        refused(await shop.ask("GET", f"/v1/transactions?{query}", key="merchant.one"), 404, "not_found")


EDGES = ["from=0001-01-01T00:00:00%2B14:00", "to=9999-12-31T23:59:59-14:00", "from=1970-01-01", "from=-1", "from=9999-12-31", "to=0001-01-01", "from=253402300799",
         "min=0", "max=0", "min=999999999999&max=1", "reference=%27%20OR%201%3D1--", "reference=%25%25", "approval_code=%27--", "limit=200", "limit=1"]


async def test_no_filter_at_the_edge_of_its_range_is_a_fault_of_ours(shop: Shop) -> None:
    for query in EDGES:
        answer = await shop.ask("GET", f"/v1/transactions?{query}", key="merchant.one")
        assert answer.status in (200, 422), (query, answer.raw)


async def routes(shop: Shop) -> list[tuple[str, str, bool]]:
    """Method, path and whether it is open to all, of every documented route."""
    paths = (await shop.ask("GET", "/openapi.json")).body["paths"]
    open_to_all = {"/healthz", "/readyz", "/metrics", "/problems", "/problems/{code}",
                   "/v1/activations",  # a device that has no key yet asks with its code
                   "/v1/registrations"}  # and somebody who has none registers
    return [(method.upper(), path, path in open_to_all) for path, methods in paths.items() for method in methods]


def filled(path: str, **values: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: values.get(name[1], "txn_x"), path)


def key_variants(good: str, expired: str, revoked: str) -> dict[str, str | None]:
    prefix, _, secret = good.partition(".")
    return {
        "none": None, "empty": "Bearer ", "only the scheme": "Bearer", "basic": f"Basic {good}", "no scheme": good, "wrong case": f"Bearer {good.upper()}",
        "swapped case": f"Bearer {prefix}.{secret.swapcase()}", "cut": f"Bearer {good[:-1]}", "longer": f"Bearer {good}A", "prefix only": f"Bearer {prefix}",
        "no secret": f"Bearer {prefix}.", "other secret": f"Bearer {prefix}.{'A' * 43}", "other id": f"Bearer tk_t{'0' * 15}.{secret}",
        "other role": f"Bearer ok_o{prefix[4:]}.{secret}", "canary": f"Bearer {CANARY}", "two": f"Bearer {good} {good}", "comma": f"Bearer {good}, Bearer {good}",
        "unicode": "Bearer ключ", "long": f"Bearer {'a' * 9000}", "expired": f"Bearer {expired}", "revoked": f"Bearer {revoked}",
    }


async def test_a_key_that_is_not_right_gets_one_and_the_same_401_on_every_route(shop: Shop) -> None:
    pool = await database.pool(shop.url, "switch_writer", 1)
    office = Onboarding(pool)
    terminal = shop.ids["terminal.till"]
    revoked = await office.key("terminal", terminal_id=terminal)
    expired = await office.key("terminal", terminal_id=terminal, expires_at=datetime.now(UTC) + timedelta(seconds=0.2))
    await shop.caught_up()
    assert (await shop.ask("GET", "/v1/transactions", key=revoked.text)).status == 200
    await office.revoke_key(revoked.key.key_id)
    await pool.close()
    await shop.caught_up()
    await asyncio.sleep(0.3)
    bodies = set()
    for name, value in key_variants(shop.keys["till"], expired.text, revoked.text).items():
        for method, path, open_to_all in await routes(shop) if name in ("none", "other secret", "revoked", "expired", "canary") else [("GET", "/v1/transactions", False), ("POST", ROUTE, False)]:
            if open_to_all:
                continue
            answer = await unauthenticated(shop, method, filled(path, verb="up"), value)
            problem = refused(answer, 401, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer"
            bodies.add(json.dumps(problem | {"request_id": ""}))
    assert len(bodies) == 1


async def unauthenticated(shop: Shop, method: str, path: str, authorization: str | None) -> Answer:
    address = urlsplit(shop.base)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    body = GOOD.encode() if method in ("POST", "PATCH", "PUT") else b""
    try:
        line = "" if authorization is None else f"Authorization: {authorization}\r\n"
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: switch\r\n{line}Content-Type: application/json\r\nIdempotency-Key: {new_key()}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        return Answer(int(lines[0].split(" ")[1]), headers, await reader.readexactly(int(headers["content-length"])))
    finally:
        writer.close()


async def test_a_suspended_terminal_or_merchant_sells_nothing(shop: Shop) -> None:
    for kind, name in (("terminals", "terminal.branch"), ("merchants", "merchant.three")):
        till = "branch" if kind == "terminals" else "strict"
        assert (await shop.pay(5000, key=till)).status == 201
        assert (await shop.ask("PATCH", f"/v1/{kind}/{shop.shown(name)}", {"status": "suspended"}, "operator")).status == 200
        await shop.caught_up()
        refused(await shop.pay(5100, key=till), 403, "forbidden")
        assert (await shop.ask("PATCH", f"/v1/{kind}/{shop.shown(name)}", {"status": "active"}, "operator")).status == 200
        await shop.caught_up()
        assert (await shop.pay(5100, key=till)).status == 201


def open_to(role: str) -> set[str]:
    """The paths that are open to a role by some method, as tests/rights.txt says."""
    return {line.split()[1].rstrip(":") for line in BOOK.read_text().splitlines() if role in line.partition(":")[2].split()}


# The routes that follow an authorization, with a sound body each.
FOLLOW_UPS: dict[str, dict[str, int]] = {f"/v1/authorizations/{{authorization}}/{verb}": body for verb, body in (
    ("captures", {}), ("increments", {"amount": 1}), ("voids", {}), ("tips", {"tip_amount": 1}), ("reversals", {}))}


async def test_a_merchants_and_a_terminals_key_open_no_operators_route(shop: Shop) -> None:
    count = 0
    for method, path, open_to_all in await routes(shop):
        if open_to_all or path in open_to("terminal"):
            continue
        for key in ("till",) if path in open_to("merchant") else ("till", "merchant.one"):
            body = {"name": CANARY} if method in ("POST", "PATCH", "PUT") else None
            refused(await shop.ask(method, filled(path, verb="up"), body, key, Idempotency_Key=new_key()), 403, "forbidden")
            count += 1
    assert count >= 50
    for key in ("merchant.one", "operator"):
        refused(await shop.pay(5000, key=key), 403, "forbidden")


async def test_what_belongs_to_others_is_as_absent_as_what_does_not_exist(shop: Shop) -> None:
    """Every route with a transaction's id, by a terminal of another store, another merchant's terminal and another merchant."""
    sold = (await shop.pay(5200)).body["id"]
    absent = f"txn_{uuid4()}"
    forms = [absent, "txn_", "x", sold[4:], sold + "0", sold.replace("txn_", "mer_"), sold.upper(), f"txn_{{{sold[4:]}}}", f"txn_{sold[4:].replace('-', '')}", shop.shown("terminal.till")]
    reads = [(method, path) for method, path, _ in await routes(shop) if "{authorization}" in path or "{transaction}" in path]
    assert len(reads) >= 3
    assert FOLLOW_UPS.keys() <= {path for _, path in reads}
    bodies = set()

    async def ask(method: str, path: str, ident: str, key: str) -> Answer:
        headers = {"Idempotency_Key": new_key()} if method == "POST" else {}
        return await shop.ask(method, filled(path, authorization=ident, transaction=ident), FOLLOW_UPS.get(path, {}) if method == "POST" else None, key, **headers)

    for method, path in reads:
        for key in ("till", "neighbour", "merchant.one", "operator") if method == "GET" and not path.endswith("/signature") else ():
            assert (await ask(method, path, sold, key)).status == 200
        for key in ("branch", "dual", "strict", "merchant.two", "merchant.three"):
            bodies.add(same_404(await ask(method, path, sold, key)))
        for key in ("till", "branch", "merchant.two", "operator") if method == "GET" else ("till", "branch", "merchant.two"):
            for form in forms:
                if form == sold.upper() and (await ask(method, path, quote(form), key)).status == 200:
                    continue
                bodies.add(same_404(await ask(method, path, quote(form), key)))
    assert len(bodies) == 1
    assert (await shop.get(sold))["payment_status"] == "captured"  # nobody followed it


def same_404(answer: Answer) -> str:
    return json.dumps(refused(answer, 404, "not_found") | {"request_id": ""}) + str(sorted(set(answer.headers) - {"date"}))


async def test_operators_get_the_same_404_for_every_kind_of_absent_object(shop: Shop) -> None:
    kinds = {"organisations": "organisation", "merchants": "merchant", "stores": "store", "terminals": "terminal", "acquirers": "acquirer", "routes": "route"}
    bodies = set()
    for path, kind in kinds.items():
        for ident in (f"{PREFIXES[kind]}{uuid4()}", "x", f"{PREFIXES[kind]}", f"txn_{uuid4()}", CANARY):
            bodies.add(same_404(await shop.ask("GET", f"/v1/{path}/{ident}", key="operator")))
    for ident in ("t" + "0" * 15, CANARY, "x" * 500):
        bodies.add(same_404(await shop.ask("GET", f"/v1/keys/{ident}", key="operator")))
    assert len(bodies) == 1


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Our own log while a test runs."""
    before, stream = logs.log.stream, io.StringIO()
    logs.configure(stream, "debug")
    yield stream
    logs.configure(before, "info")


INJECTIONS = ["\r\n{\"level\": \"error\", \"event\": \"forged\"}", "\x1b[2Jforged", "forged\u2028", "{0}%s%(levelname)s{forged}", "${jndi:ldap://forged}", "forged\x85\x0b\x0c"]


async def test_no_input_writes_a_line_or_an_escape_into_our_log(shop: Shop, written: io.StringIO) -> None:
    for text in INJECTIONS:
        for place in ("reference", "terminal_trace", "type", "card.pan", "card.emv", "card.pin"):
            await shop.post(with_field(place, text))
        await shop.ask("GET", f"/v1/transactions/{quote(text)}", key="till")
        await shop.ask("GET", f"/v1/transactions?reference={quote(text)}", key="till")
        await shop.ask("POST", "/v1/merchants", {"organisation": text, "name": text, "mcc": "5812"}, "operator")
        await shop.ask("POST", "/v1/organisations", {"name": text}, "operator")
    await shop.pay(5300)
    await shop.ask("POST", f"/v1/links/{shop.shown('acquirer.single')}/sign-on", key="operator")
    lines = written.getvalue().split("\n")
    assert lines.pop() == "" and lines
    for line in lines:
        assert json.loads(line)["event"] != "forged" and line.isascii() and line.isprintable()
        assert "forged" not in line


async def test_nothing_in_this_file_was_a_fault_of_ours(shop: Shop) -> None:
    exposition = (await shop.ask("GET", "/metrics")).raw.decode()
    assert 'switch_refusals_total{code="invalid"}' in exposition
    assert 'switch_refusals_total{code="internal"}' not in exposition
    assert await shop.sql("SELECT 1 FROM transaction WHERE reference LIKE '%forged%' AND state = 'SENT'") == []
