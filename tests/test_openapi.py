"""The served OpenAPI file is the contract: complete, its example works, answers fit it, and the hot route takes exactly what it says."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from switch.api.application import application as made_of
from switch.api.documented import Description
from switch.api.edge import LARGER
from tests.flows import ROUTE, Shop, body_of, local_now, new_key, open_shop
from tests.processes import CARD, Answer
from tests.test_house import text_of

METHODS = ("get", "post", "patch", "put", "delete")


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("openapi")) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module")
async def file(shop: Shop) -> Any:
    answer = await shop.ask("GET", "/openapi.json")
    assert answer.status == 200
    return answer.body


async def test_the_file_and_its_page_are_made_once_and_not_in_the_loop(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a second, and payments would stand still meanwhile."""
    fresh, made = Description(), list[bool]()
    generated = FastAPI.openapi

    def openapi(app: FastAPI) -> dict[str, Any]:
        made.append(threading.current_thread() is threading.main_thread())
        return generated(app)

    monkeypatch.setattr(FastAPI, "openapi", openapi)
    monkeypatch.setattr("switch.api.application.DESCRIPTION", fresh)
    apps = [made_of(shop.switch) for _ in range(2)]
    answers = await asyncio.gather(*(asyncio.to_thread(fresh.of, app) for app in apps))
    assert answers[0] is answers[1] and made == [False]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=apps[0]), base_url="http://switch") as client:
        fresh._made = None
        assert (await client.get("/openapi.json")).json()["paths"].keys() == json.loads(answers[0][0])["paths"].keys()
        assert "Payment switch API" in (await client.get("/docs")).text
    assert made == [False, False]


TYPES: dict[str, tuple[type, ...]] = {"object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "null": (type(None),)}


def faults(file: Any, schema: Any, value: Any, place: str = "") -> list[str]:
    """Where a value breaks a schema, by the keywords that our file uses; an unknown keyword is a fault of the test."""
    if "$ref" in schema:
        return faults(file, file["components"]["schemas"][schema["$ref"].rpartition("/")[2]], value, place)
    known = {"type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const", "pattern", "minimum", "maximum", "minLength", "maxLength", "title",
             "description", "default", "example", "format", "maxItems"}
    assert schema.keys() <= known, schema.keys() - known
    found = []
    if "anyOf" in schema and all(faults(file, each, value, place) for each in schema["anyOf"]):
        found.append(f"{place}: none of anyOf")
    if ("enum" in schema and value not in schema["enum"]) or ("const" in schema and value != schema["const"]):
        found.append(f"{place}: not in enum")
    wanted = schema.get("type")
    if wanted is None:
        return found
    if not isinstance(value, TYPES[wanted]) or (isinstance(value, bool) and wanted != "boolean"):
        return [*found, f"{place}: not of type {wanted}"]
    return found + (of_object(file, schema, value, place) if isinstance(value, dict) else of_plain(file, schema, value, place))


def of_object(file: Any, schema: Any, value: dict[str, Any], place: str) -> list[str]:
    properties = schema.get("properties", {})
    found = [f"{place}.{name}: missing" for name in schema.get("required", []) if name not in value]
    for name, each in value.items():
        if name in properties:
            found += faults(file, properties[name], each, f"{place}.{name}")
        elif schema.get("additionalProperties", True) is False:
            found.append(f"{place}.{name}: unknown")
    return found


def of_plain(file: Any, schema: Any, value: Any, place: str) -> list[str]:
    if isinstance(value, list) and len(value) > schema.get("maxItems", len(value)):
        return [f"{place}: too many"]
    if isinstance(value, list):
        return [fault for at, each in enumerate(value) for fault in faults(file, schema.get("items", {}), each, f"{place}[{at}]")]
    found = []
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"].replace("$", r"\Z"), value, re.ASCII):
            found.append(f"{place}: pattern")
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            found.append(f"{place}: length")
    if isinstance(value, int) and not isinstance(value, bool) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        found.append(f"{place}: range")
    return found


def test_the_validator_of_this_test_finds_faults() -> None:
    schema = {"type": "object", "properties": {"a": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}, "b": {"type": "string", "pattern": "^[0-9]{2}$"}},
              "required": ["b"], "additionalProperties": False}
    for value in ({"b": "12"}, {"a": None, "b": "12"}, {"a": 1, "b": "12"}):
        assert faults({}, schema, value) == []
    for value in ({}, {"b": "1"}, {"b": "12\n"}, {"b": 12}, {"a": 0, "b": "12"}, {"a": True, "b": "12"}, {"a": "1", "b": "12"}, {"b": "12", "c": 1}, [], None, {"b": "١٢"}):
        assert faults({}, schema, value) != [], value


def operations(file: Any) -> list[tuple[str, str, Any]]:
    return [(method, path, operation) for path, methods in file["paths"].items() for method, operation in methods.items() if method in METHODS]


async def test_every_route_is_described_with_its_answers_and_refusals(file: Any) -> None:
    assert file["openapi"].startswith("3.1") and file["components"]["securitySchemes"]
    assert len(operations(file)) >= 40
    for method, path, operation in operations(file):
        assert operation.get("summary") and operation.get("tags"), (method, path)
        codes = set(operation["responses"])
        assert codes & {"200", "201", "202"}, (method, path)
        if path.startswith("/v1/"):
            assert {"401", "422", "503"} <= codes, (method, path)
        if method in ("post", "patch") and "requestBody" in operation:
            assert {"400", "413", "415"} <= codes and operation["requestBody"]["required"], (method, path)
        for name in re.findall(r"\{(\w+)\}", path):
            assert [p for p in operation["parameters"] if p["name"] == name and p["in"] == "path"], (method, path)
        assert len({p["name"] for p in operation.get("parameters", [])}) == len(operation.get("parameters", []))
    assert len({operation["operationId"] for _, _, operation in operations(file)}) == len(operations(file))


async def test_what_takes_more_than_others_is_a_route_that_takes_bytes_or_a_large_document(file: Any) -> None:
    for path, comes in LARGER.items():
        ((media, _), *_) = file["paths"][path]["post"]["requestBody"]["content"].items()
        assert (media == "application/json") is not comes, path
    taken = {path for method, path, operation in operations(file) if method == "post"
             and not set(operation.get("requestBody", {"content": {"application/json"}})["content"]) & {"application/json"}}
    assert taken == {path for path, comes in LARGER.items() if comes}, "whatever takes bytes reads them as they come"


CONTRACT = """
POST authorizations cancellations refunds advices authorizations/{}/captures authorizations/{}/increments authorizations/{}/voids
POST authorizations/{}/tips authorizations/{}/reversals authorizations/{}/signature fees/estimates
GET authorizations authorizations/{} authorizations/{}/receipt transactions transactions/{} transactions/{}/story settlements settlements/{}
GET settlements/{}/transactions balance webhooks terminals/{}/batches organisations merchants stores terminals acquirers routes keys reversals links
GET alerts approvals
"""  # what outside programs are written against
FILTERS = {"from", "to", "status", "payment_status", "type", "store", "terminal", "acquirer", "rrn", "stan", "approval_code", "reference", "last4", "token",
           "min", "max", "limit", "after"}


async def test_every_route_of_the_contract_is_there(file: Any) -> None:
    there = {(method.upper(), re.sub("{[a-z_]+}", "{}", path)) for path, methods in file["paths"].items() for method in methods}
    wanted = {(line.split()[0], f"/v1/{path}") for line in CONTRACT.split("\n") if line for path in line.split()[1:]}
    assert wanted - there == set()
    assert {each["name"] for each in file["paths"]["/v1/transactions"]["get"]["parameters"]} >= FILTERS


async def test_no_reference_dangles_and_no_refusal_has_another_shape_than_a_problem(file: Any) -> None:
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(file)))
    assert named <= file["components"]["schemas"].keys()
    assert not {"HTTPValidationError", "ValidationError"} & file["components"]["schemas"].keys()
    for method, path, operation in operations(file):
        for code, response in operation["responses"].items():
            if code >= "400" and path != "/readyz":  # which says in its own words why it is not ready
                ((media, content),) = response["content"].items()
                assert media == "application/problem+json", (method, path, code)
                assert content["schema"] == {"$ref": "#/components/schemas/ProblemDetails"}, (method, path, code)


async def test_docs_is_one_page_without_a_script(shop: Shop, file: Any) -> None:
    page = (await shop.ask("GET", "/docs")).raw.decode()
    assert "<script" not in page and all(path in page for path in file["paths"])


async def test_the_documented_example_is_really_sold(shop: Shop, file: Any) -> None:
    operation = file["paths"][ROUTE]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    assert faults(file, content["schema"], content["example"]) == []
    answer = await shop.post(content["example"])
    assert (answer.status, answer.body["status"]) == (201, "approved")
    key = next(parameter for parameter in operation["parameters"] if parameter["name"] == "Idempotency-Key")
    assert key["required"] and re.search(key["schema"]["pattern"], new_key()) and not re.search(key["schema"]["pattern"], "short")


async def test_the_payment_of_the_terminal_guide_is_really_sold(shop: Shop) -> None:
    (body,) = re.findall(r'^\{"type": "purchase".*?\}\}$', text_of("docs/terminal-guide.md"), re.DOTALL | re.MULTILINE)
    answer = await shop.post(json.loads(body))
    assert (answer.status, answer.body["status"]) == (201, "approved")


def fits(file: Any, method: str, path: str, answer: Answer) -> None:
    """The answer has a documented status and shape."""
    responses = file["paths"][path][method]["responses"]
    assert str(answer.status) in responses, (method, path, answer.status)
    contents = responses[str(answer.status)].get("content", {})
    content = contents[answer.headers["content-type"].partition(";")[0]] if contents else {}
    if "schema" in content:
        assert faults(file, content["schema"], answer.body) == [], answer.raw


SALES = [{"amount": 5000}, {"amount": 5051}, {"amount": 5110, "partial_approval": "accept"}, {"amount": 5210}, {"amount": 5096}, {"amount": None, "type": "balance_inquiry"},
         {"amount": 5300, "tip_amount": 10, "terminal_trace": "1", "reference": "r", "card": CARD | {"emv": "9F2608A1B2C3D4E5F60718"}}, {"amount": 5000}, {"amount": 0},
         {"amount": None, "type": "account_verification"}, {"amount": 5400, "type": "preauthorization"}, {"amount": 5500, "capture_method": "manual"}]


async def test_every_answer_of_the_terminals_and_merchants_routes_has_its_documented_shape(shop: Shop, file: Any) -> None:
    statuses = set()
    for till in ("till", "dual", "lost"):
        for changed in SALES:
            key = new_key()
            answer = await shop.post(body_of(**changed), key, till)  # type: ignore[arg-type]
            fits(file, "post", ROUTE, answer)
            statuses.add(answer.status)
            fits(file, "get", ROUTE, await shop.ask("GET", f"{ROUTE}?idempotency_key={key}", key=till))
            if answer.status in (201, 202):
                for path in ("/v1/authorizations/{authorization}", "/v1/transactions/{authorization}", "/v1/transactions/{transaction}/story"):
                    address = path.replace("{authorization}", answer.body["id"]).replace("{transaction}", answer.body["id"])
                    fits(file, "get", path, await shop.ask("GET", address, key=till))
            fits(file, "post", "/v1/cancellations", await shop.cancel(key, till))
            fits(file, "post", "/v1/cancellations", await shop.cancel(key, till))
            if answer.status == 202:
                await shop.until(answer.body["id"], "reversed")
                fits(file, "get", "/v1/transactions/{transaction}/story", await shop.ask("GET", f"/v1/transactions/{answer.body['id']}/story", key=till))
        fits(file, "get", "/v1/transactions", await shop.ask("GET", "/v1/transactions?limit=200", key=till))
    assert statuses == {201, 202, 422, 503}
    for key in ("x", "merchant.one", "operator"):
        fits(file, "get", "/v1/transactions", await shop.ask("GET", "/v1/transactions", key=key))
        fits(file, "post", ROUTE, await shop.pay(5000, key=key))
        fits(file, "get", ROUTE, await shop.ask("GET", f"{ROUTE}?idempotency_key={new_key()}", key=key))
    fits(file, "get", "/v1/transactions", await shop.ask("GET", "/v1/transactions?limit=0", key="till"))
    fits(file, "get", "/v1/transactions", await shop.ask("GET", "/v1/transactions?store=x", key="till"))
    fits(file, "get", "/problems/{code}", await shop.ask("GET", "/problems/x"))
    fits(file, "post", "/v1/cancellations", await shop.ask("POST", "/v1/cancellations", b"{", "till"))


FOLLOW_UPS = [("captures", {"amount": 2000}), ("captures", {}), ("increments", {"amount": 100}), ("voids", {}), ("tips", {"tip_amount": 100}), ("refunds", {}), ("refunds", {"amount": 100}),
              ("reversals", {}), ("captures", {"amount": 0}), ("voids", {"x": 1})]


async def test_every_answer_to_a_follow_up_has_its_documented_shape(shop: Shop, file: Any) -> None:
    statuses = set()
    for till, faults_ordered in (("till", ()), ("dual", ()), ("till", ("silence", "code"))):
        for verb, body in FOLLOW_UPS:
            made = (await shop.pay(6000, key=till, type="preauthorization" if verb in ("captures", "increments") else "purchase")).body
            for action in faults_ordered:
                await shop.host.order(action, "51" if action == "code" else None, {"0": "0220" if verb == "captures" else "0200"})
            path = "/v1/refunds" if verb == "refunds" else f"/v1/authorizations/{{authorization}}/{verb}"
            body = {"authorization": made["id"], **body} if verb == "refunds" else body
            for _ in range(2):
                answer = await shop.ask("POST", path.replace("{authorization}", made["id"]), body, till, Idempotency_Key=new_key())
                fits(file, "post", path, answer)
                statuses.add(answer.status)
                if answer.status == 202 and verb == "reversals":
                    await shop.until(made["id"], "reversed")
                if answer.status in (200, 201, 202):
                    fits(file, "get", "/v1/transactions/{transaction}/story", await shop.ask("GET", f"/v1/transactions/{answer.body['id']}/story", key=till))
            fits(file, "get", "/v1/authorizations/{authorization}", await shop.ask("GET", f"/v1/authorizations/{made['id']}", key=till))
            await shop.host.forget()
    assert statuses == {200, 201, 202, 409, 422}
    fits(file, "get", "/v1/transactions", await shop.ask("GET", "/v1/transactions?limit=200&type=capture", key="operator"))


FOLLOWED = [*(f"/v1/authorizations/{{authorization}}/{verb}" for verb in ("captures", "increments", "voids", "tips", "reversals")), "/v1/refunds", "/v1/advices",
            "/v1/acquirers/{acquirer}/terms", "/v1/merchants/{merchant}/permissions", "/v1/merchants/{merchant}/tariffs", "/v1/acquirers/{acquirer}/costs", "/v1/fees/estimates"]


@pytest.mark.parametrize("path", FOLLOWED)
async def test_the_examples_of_follow_ups_fit_their_schema(file: Any, path: str) -> None:
    operation = next(operation for method, operation in file["paths"][path].items() if method in ("post", "put"))
    content = operation["requestBody"]["content"]["application/json"]
    assert faults(file, content["schema"], content["example"]) == []
    if not path.endswith(("terms", "permissions", "tariffs", "costs", "estimates")):
        assert next(parameter for parameter in operation["parameters"] if parameter["name"] == "Idempotency-Key")["required"]


async def test_offline_sales_and_terms_are_answered_as_documented(shop: Shop, file: Any) -> None:
    operation = file["paths"]["/v1/advices"]["post"]
    body, key = operation["requestBody"]["content"]["application/json"]["example"], new_key()
    for each in (body, body, body | {"amount": 1}):
        fits(file, "post", "/v1/advices", await shop.ask("POST", "/v1/advices", each, "till", Idempotency_Key=key))
    for caller in ("merchant.one", "operator", "x", "lost"):
        fits(file, "post", "/v1/advices", await shop.ask("POST", "/v1/advices", body, caller, Idempotency_Key=new_key()))
    fits(file, "post", "/v1/cancellations", await shop.cancel(key))
    fits(file, "post", "/v1/advices", await shop.ask("POST", "/v1/advices", body, "till", Idempotency_Key=key))
    terms, permissions = "/v1/acquirers/{acquirer}/terms", "/v1/merchants/{merchant}/permissions"
    for caller, acquirer in (("operator", shop.shown("acquirer.single")), ("operator", "acq_x"), ("till", shop.shown("acquirer.single"))):
        address = terms.replace("{acquirer}", acquirer)
        for wanted in ({}, {"brand": "no such"}, {"mcc": "12"}, {"mcc": "5812", "tip_basis_points": 1}):
            fits(file, "put", terms, await shop.ask("PUT", address, wanted, caller))
        fits(file, "get", terms, await shop.ask("GET", address, key=caller))
    for merchant in (shop.shown("merchant.one"), "mer_0192f0c4-7c1e-7aaa-8bbb-1234567890ab"):
        for wanted in ({"unreferenced_refunds": False}, {}):
            fits(file, "put", permissions, await shop.ask("PUT", permissions.replace("{merchant}", merchant), wanted, "operator"))


LOCAL_TIME = local_now()
PANS = ["4111111111111111", "5555555555554444", "6212345678900000003", "378282246310005", "4222222222222"]
text_of_64 = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64).filter(lambda text: not re.search("[0-9]{12}", text))
PIN = st.one_of(st.builds(lambda block, key: {"block": block, "format": "iso0", "key_id": key}, st.from_regex("[0-9A-Fa-f]{16}", fullmatch=True), text_of_64),
                st.builds(lambda block, ksn: {"block": block, "format": "iso0", "ksn": ksn}, st.from_regex("[0-9A-Fa-f]{16}", fullmatch=True),
                          st.from_regex("[0-9A-Fa-f]{16,24}", fullmatch=True)))


@st.composite
def sound_bodies(draw: st.DrawFn) -> dict[str, Any]:
    """Bodies that the schema allows and whose fields agree with each other: they must be sold, declined or reversed."""
    type_ = draw(st.sampled_from(["purchase", "preauthorization", "cash_advance", "balance_inquiry", "account_verification"]))
    pan = draw(st.sampled_from(PANS))
    card: dict[str, Any] = {"entry_mode": draw(st.sampled_from(["chip", "contactless", "magstripe", "manual", "fallback"])), "pan": pan,
                            "expiry": draw(st.from_regex("[0-9]{2}(0[1-9]|1[0-2])", fullmatch=True))}
    optional = {"track2": st.from_regex(f"{pan}[=D][0-9]{{4,17}}", fullmatch=True), "sequence_number": st.from_regex("[0-9]{1,3}", fullmatch=True),
                "emv": st.sampled_from(["9F2608A1B2C3D4E5F60718", "9a03261123", "00", "9F360200FF" + "00" * 90]), "security_code": st.from_regex("[0-9]{3,4}", fullmatch=True), "pin": PIN}
    card |= {name: draw(st.none() | strategy) for name, strategy in optional.items() if draw(st.booleans())}
    body: dict[str, Any] = {"type": type_, "currency": draw(st.sampled_from(["CNY", "USD", "JPY", "BHD"])), "card": card}
    if type_ not in ("balance_inquiry", "account_verification"):
        body["amount"] = draw(st.integers(1, 999_999_999_999))
        tip = draw(st.integers(0, body["amount"]))
        body |= draw(st.sampled_from([{}, {"tip_amount": tip}, {"tip_amount": tip, "cashback_amount": body["amount"] - tip}]))
    elif draw(st.booleans()):
        body["amount"] = None
    more: dict[str, st.SearchStrategy[Any]] = {
        "partial_approval": st.sampled_from(["accept", "refuse"]), "terminal_trace": st.none() | st.from_regex("[0-9A-Za-z]{1,11}", fullmatch=True),
        "reference": st.none() | text_of_64, "local_time": st.none() | st.just(LOCAL_TIME), "qr": st.none(), "capture_method": st.none()}
    return body | {name: draw(strategy) for name, strategy in more.items() if draw(st.booleans())}


JUNK = st.one_of(st.none(), st.booleans(), st.integers(-(10**14), 10**14), st.text(max_size=20), st.builds(list), st.builds(dict), st.lists(st.integers(0, 9), max_size=2),
                 st.sampled_from(["", " ", "0", "1" * 16, "1" * 40, "purchase ", "CHIP", "cny", "9F", "2026-02-30T00:00:00", "iso4", "٣", "a\u2028"]),
                 st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=2))


@st.composite
def mutated_bodies(draw: st.DrawFn) -> Any:
    """Sound bodies with one to three members taken away, added or replaced, at any level."""
    body = json.loads(json.dumps(draw(sound_bodies())))
    for _ in range(draw(st.integers(1, 3))):
        at = body
        while (inner := [name for name, value in at.items() if isinstance(value, dict)]) and draw(st.booleans()):
            at = at[draw(st.sampled_from(sorted(inner)))]
        names = sorted(at)
        action = draw(st.sampled_from(["remove", "replace", "replace", "add"]))
        if action == "add" or not names:
            at[draw(st.sampled_from(["id", "state", "merchant_id", "Amount", "pin", "amount", "qr", "tip_amount", "local_time", "emv", "ksn", "__proto__", "é"]))] = draw(JUNK)
        elif action == "remove":
            del at[draw(st.sampled_from(names))]
        else:
            at[draw(st.sampled_from(names))] = draw(JUNK)
    return body


EXAMPLES = settings(max_examples=120, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@EXAMPLES
@given(body=sound_bodies())
async def test_what_the_schema_allows_and_agrees_with_itself_is_taken(shop: Shop, file: Any, body: dict[str, Any]) -> None:
    assert faults(file, {"$ref": "#/components/schemas/AuthorizationRequest"}, body) == []
    answer = await shop.post(body)
    assert answer.status in (201, 202), (body["type"], answer.raw)
    fits(file, "post", ROUTE, answer)


@EXAMPLES
@given(body=mutated_bodies())
async def test_what_the_schema_forbids_is_refused_and_what_is_taken_the_schema_allows(shop: Shop, file: Any, body: Any) -> None:
    answer = await shop.post(body)
    wrong = faults(file, {"$ref": "#/components/schemas/AuthorizationRequest"}, body)
    if wrong:
        assert answer.status in (400, 422), (wrong, answer.raw)
    assert answer.status in (201, 202, 400, 422), answer.raw
    fits(file, "post", ROUTE, answer)
