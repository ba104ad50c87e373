"""The operator's API over HTTP, with real keys, a real directory and a real PostgreSQL: who may, what is refused, what is shown."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI, Request

from messages import dialect as dialects
from messages.dialect import load
from messages.literals import Folder
from switch import callers, database
from switch.alerts import Alerts
from switch.api import operator, problems
from switch.api.documented import complete, documented
from switch.api.shapes import ProblemDetails
from switch.api.terminal import CancellationRequest
from switch.database import Pool
from switch.directory import Directory
from switch.ids import read, show
from switch.links.acquirer import AcquirerLink, LinkSettings
from switch.links.roster import Roster
from switch.merchants.onboarding import Onboarding

BANK = {"dialect": "iso87_ascii", "host": "127.0.0.1", "port": 5000}


class Desk:
    """An operator's client: it keeps the application's directory fresh, as the follower does in the switch."""

    def __init__(self, app: FastAPI, directory: Directory, url: str, links: dict[UUID, AcquirerLink]) -> None:
        self.app, self.directory, self.url, self.links = app, directory, url, links
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://switch")
        self.key = self.administrator = ""

    async def refresh(self) -> None:
        reader = await database.connect(self.url, "switch_reader")
        await self.directory.refresh(reader)
        await reader.close()

    async def call(self, method: str, path: str, body: Any = None, key: str | None = None, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key if key is None else key}", "content-type": "application/json"}
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        return await self.client.request(method, path, content=content, headers=headers | more.pop("headers", {}), **more)

    async def add(self, kind: str, **body: Any) -> dict[str, Any]:
        response = await self.call("POST", f"/v1/{kind}s", body)
        assert response.status_code == 201, response.text
        added: dict[str, Any] = response.json()
        return added

    async def operator(self, person: str) -> dict[str, Any]:
        response = await self.call("POST", "/v1/keys", {"role": "operator", "person": person}, self.administrator)
        assert response.status_code == 201, response.text
        added: dict[str, Any] = response.json()
        return added

    async def acquirer(self) -> dict[str, Any]:
        return await self.add("acquirer", name=f"bank-{uuid4().hex[:8]}", **BANK)

    async def terminal(self) -> dict[str, Any]:
        organisation = await self.add("organisation", name="Harbour Group")
        merchant = await self.add("merchant", organisation=organisation["id"], name="Harbour Noodles", mcc="5812")
        store = await self.add("store", merchant=merchant["id"], name="Pier 3")
        return await self.add("terminal", store=store["id"], name="Till 1")


@pytest_asyncio.fixture(scope="module")
async def pool(database_url: str) -> AsyncIterator[Pool]:
    writers = await database.pool(database_url, "switch_writer", 4)
    yield writers
    await writers.close()


@pytest_asyncio.fixture(scope="module")
async def desk(database_url: str, pool: Pool) -> AsyncIterator[Desk]:
    directory, onboarding, app, links = Directory(), Onboarding(pool), FastAPI(telemetry={"logs": False, "operation_spans": False}), {}
    roster = Roster(pool, 0, links)
    problems.install(app)
    def identify(request: Request) -> callers.Caller:
        caller = callers.identify(directory, request.headers.get("authorization"))
        return callers.admitted(caller, request.method, request.scope["route"].path)

    app.include_router(operator.router(identify, onboarding, lambda: links, pool, lambda: roster))
    complete(app, [*operator.MODELS, ProblemDetails])
    desk = Desk(app, directory, database_url, links)
    desk.key = (await onboarding.key("operator", person="Li Wei")).text
    desk.administrator = (await onboarding.key("administrator", person="Sun Li")).text
    await desk.refresh()
    yield desk
    await desk.client.aclose()


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    schema = app.openapi()
    return [(method.upper(), path) for path, methods in schema["paths"].items() for method in methods]


def concrete(path: str) -> str:
    return re.sub(r"\{[a-z]+\}", "up", path)


async def test_no_address_answers_anyone_but_an_operator(desk: Desk) -> None:
    terminal = await desk.terminal()
    keys = [(await desk.add("key", role="terminal", terminal=terminal["id"]))["key"],
            (await desk.add("key", role="merchant", merchant=terminal["merchant"]))["key"]]
    await desk.refresh()
    assert len(routes_of(desk.app)) >= 30
    own = {("GET", f"/v1/{kind}{more}") for kind in ("stores", "terminals") for more in ("", "/{ident}")}
    for method, path in routes_of(desk.app):
        assert (await desk.call(method, concrete(path), b"{}", key="")).status_code == 401, path
        for key in keys if (method, path) not in own else keys[:1]:  # an owner reads its own
            response = await desk.call(method, concrete(path), b"{}", key=key)
            assert (response.status_code, response.json()["code"]) == (403, "forbidden"), path


async def test_a_merchant_can_be_onboarded_up_to_its_keys(desk: Desk) -> None:
    acquirer = await desk.acquirer()
    terminal = await desk.terminal()
    assert acquirer["id"] in {each["acquirer"] for each in terminal["numbers"]}
    route = await desk.add("route", acquirer=acquirer["id"], merchant=terminal["merchant"], brand="unionpay", priority=5)
    assert (route["acquirer"], route["merchant"], route["brand"], route["priority"]) == (acquirer["id"], terminal["merchant"], "unionpay", 5)
    key = await desk.add("key", role="terminal", terminal=terminal["id"], expires_at="2099-01-01T08:00:00+08:00")
    assert key["expires_at"] == "2099-01-01T00:00:00.000000Z" and key["merchant"] == terminal["merchant"]
    await desk.refresh()
    assert callers.identify(desk.directory, f"Bearer {key['key']}").terminal_id == read("terminal", terminal["id"])


async def test_a_keys_text_is_only_in_the_answer_that_issues_it(desk: Desk) -> None:
    key = await desk.operator("Wang Fang")
    secret = key["key"].split(".")[1]
    for method, path in (("GET", f"/v1/keys/{key['id']}"), ("GET", "/v1/keys?limit=200"), ("POST", f"/v1/keys/{key['id']}/revoke")):
        response = await desk.call(method, path, key=desk.administrator)
        assert response.status_code == 200 and secret not in response.text and '"key"' not in response.text
        assert response.headers["cache-control"] == "no-store"


async def test_a_revoked_key_opens_nothing(desk: Desk) -> None:
    key = await desk.operator("Wang Fang")
    await desk.refresh()
    assert (await desk.call("GET", "/v1/merchants", key=key["key"])).status_code == 200
    assert (await desk.call("POST", f"/v1/keys/{key['id']}/revoke", key=desk.administrator)).json()["revoked_at"] is not None
    await desk.refresh()
    assert (await desk.call("GET", "/v1/merchants", key=key["key"])).status_code == 401


@pytest.mark.parametrize(("body", "code"), [
    (b"", "json_malformed"), (b"[]", "invalid"), (b'{"name":"a","name":"b"}', "json_duplicate_key"), (b'{"name":1e3}', "json_number"),
    (b'{"name":"a\\u0000"}', "json_nul"), (b'{"name":"\xff"}', "json_encoding"), (b'{"name":7}', "invalid"), (b"{}", "invalid"),
    (b'{"name":"a","colour":"mauve"}', "invalid"), (b'{"name":" "}', "invalid"), (b'{"name":"' + b"x" * 70_000 + b'"}', "body_too_large"),
])
async def test_a_body_that_is_not_strict_is_refused_and_not_echoed(desk: Desk, body: bytes, code: str) -> None:
    response = await desk.call("POST", "/v1/organisations", body)
    assert response.json()["code"] == code and response.headers["content-type"] == "application/problem+json"
    assert "colour" not in response.text and "mauve" not in response.text


async def test_a_body_of_another_type_is_refused(desk: Desk) -> None:
    response = await desk.call("POST", "/v1/organisations", b'{"name":"a"}', headers={"content-type": "text/plain"})
    assert (response.status_code, response.json()["code"]) == (415, "content_type")


@pytest.mark.parametrize(("kind", "field", "value"), [
    ("merchant", "mcc", "58x2"), ("merchant", "time_zone", "Mars/Base"), ("store", "country", "china"), ("acquirer", "dialect", "morse"),
    ("acquirer", "port", 70000), ("acquirer", "port", "5000"), ("route", "priority", -1), ("key", "expires_at", "2020-01-01T00:00:00Z"),
    ("key", "expires_at", "2099-01-01"), ("key", "expires_at", "2099-13-01T00:00:00Z"), ("key", "role", "auditor"),
])
async def test_a_wrong_field_is_named_by_its_name_in_the_body(desk: Desk, kind: str, field: str, value: Any) -> None:
    response = await desk.call("POST", f"/v1/{kind}s", operator.SENT[kind] | {field: value})
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [field]


async def test_an_acquirer_of_an_unsound_dialect_is_refused_with_what_to_do(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halting.py").write_text('DIALECT = {"name": "halting"}\n')
    with monkeypatch.context() as patched:
        patched.setattr(dialects, "LITERALS", Folder(tmp_path))
        response = await desk.call("POST", "/v1/acquirers", operator.SENT["acquirer"] | {"name": "halting-bank", "dialect": "halting"})
    assert response.status_code == 422
    assert response.json()["errors"] == [{"field": "dialect", "type": "rule", "rule": (
        "a sound one: dialect literal: framing: missing ((kind, bytes[, polls])); see switch dialect check, mend the file, start anew")}]
    made = await desk.call("POST", "/v1/acquirers", operator.SENT["acquirer"] | {"name": "sound-bank"})
    changed = await desk.call("PATCH", f"/v1/acquirers/{made.json()['id']}", {"dialect": "halting"})
    assert (changed.status_code, changed.json()["errors"][0]["field"]) == (422, "(unknown field)"), "an acquirer keeps its dialect"


def absent(method: str, path: str, body: Any = None) -> Any:
    return pytest.param(method, path, body, id=f"{method} {path}")


GONE = UUID("01900000-0000-7000-8000-00000000dead")


@pytest.mark.parametrize("ident", ["{}" + str(GONE), "nothing", "txn_" + str(GONE), "{}%00", "{}" + "9" * 36, "%F0%9F%92%A5"])
@pytest.mark.parametrize(("method", "path", "body"), [
    *[absent("GET", f"/v1/{kind}s/{prefix}") for kind, prefix in (("organisation", "org_"), ("merchant", "mer_"), ("store", "sto_"),
                                                                 ("terminal", "trm_"), ("acquirer", "acq_"), ("route", "rte_"), ("key", ""))],
    absent("PATCH", "/v1/merchants/mer_", {"status": "suspended"}), absent("PATCH", "/v1/terminals/trm_", {"status": "suspended"}),
    absent("PATCH", "/v1/acquirers/acq_", {"status": "down"}), absent("POST", "/v1/keys/revoke"), absent("POST", "/v1/alerts/alr_/acknowledge"),
    absent("POST", "/v1/links/acq_/down"), absent("POST", "/v1/terminals/trm_/numbers", operator.SENT["terminal"]["numbers"][0]),
])
async def test_what_does_not_exist_is_the_same_404_whatever_its_id_looks_like(desk: Desk, method: str, path: str, body: Any, ident: str) -> None:
    head, prefix, tail = re.fullmatch(r"(/v1/[a-z]+/)((?:[a-z]{3}_)?)(.*)", path).groups()  # type: ignore[union-attr]
    tail = f"/{tail.lstrip('/')}" if tail else ""
    response = await desk.call(method, head + ident.format(prefix) + tail, body)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert response.json()["detail"] == "Check the id; objects of others look the same as absent ones."


@pytest.mark.parametrize("kind", ["merchant", "store", "terminal", "route", "key"])
async def test_a_reference_to_nobody_is_not_found(desk: Desk, kind: str) -> None:
    body = {name: value for name, value in operator.SENT[kind].items() if name not in ("numbers", "expires_at")}
    assert (await desk.call("POST", f"/v1/{kind}s", body)).json()["code"] == "not_found"


async def test_lists_are_paged_newest_first(desk: Desk) -> None:
    made = [(await desk.add("organisation", name=f"Group {n}"))["id"] for n in range(3)]
    first = (await desk.call("GET", "/v1/organisations?limit=2")).json()
    found = [each["id"] for each in first["items"]]
    second = (await desk.call("GET", f"/v1/organisations?limit=1&after={first['next']}")).json()
    found += [each["id"] for each in second["items"]]
    assert first["next"] == found[1] and set(found) == set(made) and found == sorted(found, reverse=True)


async def test_stores_and_terminals_are_listed_by_their_owner(desk: Desk) -> None:
    mine, other = [await desk.terminal() for _ in range(2)]
    second = await desk.add("store", merchant=mine["merchant"], name="Second")
    more = [await desk.add("terminal", store=second["id"], name=f"Till {n}") for n in range(3)]

    async def listed(path: str) -> list[str]:
        found, after = [], ""
        while after is not None:
            page = (await desk.call("GET", f"{path}&limit=2{after and '&after=' + after}")).json()
            found, after = found + [each["id"] for each in page["items"]], page["next"]
        return found

    assert await listed(f"/v1/stores?merchant={mine['merchant']}") == [second["id"], mine["store"]]
    assert await listed(f"/v1/terminals?store={second['id']}") == [each["id"] for each in reversed(more)]
    assert await listed(f"/v1/terminals?merchant={mine['merchant']}") == [each["id"] for each in (*reversed(more), mine)]
    assert await listed(f"/v1/terminals?merchant={other['merchant']}&store={other['store']}") == [other["id"]]
    for query in (f"terminals?merchant={other['merchant']}&store={mine['store']}", f"terminals?store={mine['merchant']}", "stores?merchant=mer_x",
                  f"stores?merchant=mer_{UUID(int=7)}", f"terminals?store=sto_{UUID(int=7)}"):
        response = await desk.call("GET", f"/v1/{query}")
        assert (response.status_code, response.json()["code"]) == (404, "not_found"), query


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=many", "after=17"])
async def test_a_page_outside_its_limits_is_refused(desk: Desk, query: str) -> None:
    assert (await desk.call("GET", f"/v1/merchants?{query}")).status_code in (404, 422)


@pytest.mark.parametrize(("kind", "steps", "final"), [("merchant", ("suspended", "active", "closed"), "closed"),
                                                      ("terminal", ("suspended", "active", "retired"), "retired")])
async def test_a_status_changes_until_its_end(desk: Desk, kind: str, steps: tuple[str, ...], final: str) -> None:
    terminal = await desk.terminal()
    path = f"/v1/{kind}s/{terminal['id'] if kind == 'terminal' else terminal['merchant']}"
    for status in steps:
        assert (await desk.call("PATCH", path, {"status": status})).json()["status"] == status
    refused = await desk.call("PATCH", path, {"status": "active"})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")


async def test_an_acquirer_moves_and_goes_down_for_every_worker(desk: Desk) -> None:
    acquirer = await desk.acquirer()
    changed = (await desk.call("PATCH", f"/v1/acquirers/{acquirer['id']}", {"status": "down", "port": 6000})).json()
    assert changed == acquirer | {"status": "down", "port": 6000}
    await desk.refresh()
    known = desk.directory.acquirers[UUID(acquirer["id"][4:])]
    assert (known.status, [line[1:3] for line in known.lines]) == ("down", [("127.0.0.1", 6000)])


async def test_numbers_the_acquirer_gave_are_taken_once(desk: Desk) -> None:
    acquirer = await desk.acquirer()
    terminal = await desk.terminal()
    bare = await desk.add("terminal", store=terminal["store"], name="Till 2", numbers=[])
    body = {"acquirer": acquirer["id"], "card_acceptor_terminal": "88000001", "card_acceptor": "898411258120001"}
    first = await desk.call("POST", f"/v1/terminals/{bare['id']}/numbers", body)
    assert (first.status_code, first.json()["numbers"]) == (201, [body])
    assert (await desk.call("POST", f"/v1/terminals/{bare['id']}/numbers", body)).json()["code"] == "already_exists"


@pytest.mark.parametrize(("verb", "state"), [("down", "down"), ("drain", "down"), ("up", "disconnected"), ("sign-on", "disconnected")])
async def test_an_operator_turns_a_line(desk: Desk, verb: str, state: str) -> None:
    acquirer = await desk.acquirer()
    link = AcquirerLink(acquirer["id"][4:], acquirer["name"], load("iso87_ascii"), LinkSettings("127.0.0.1", 1), next_stan=lambda: None,
                        on_unmatched=lambda _: None, on_cut_over=lambda _: None)
    desk.links[UUID(acquirer["id"][4:])] = link
    response = await desk.call("POST", f"/v1/links/{acquirer['id']}/{verb}")
    assert (response.status_code, response.json()["state"], response.json()["acquirer"]) == (200, state, acquirer["id"])
    assert {**response.json(), "as_of": None} in [{**line, "as_of": None} for line in (await desk.call("GET", "/v1/links")).json()["items"]]
    assert (await desk.call("POST", f"/v1/links/{acquirer['id']}/fly")).status_code == 422
    assert set(response.json()) == set(operator.EXAMPLES["line"])
    desk.links.clear()


async def test_an_alert_is_taken_on_by_a_named_person(desk: Desk, pool: Pool) -> None:
    alarm, object_ = Alerts(pool), show("transaction", uuid4())
    await alarm.raise_("reversal_parked", object_)
    alert = next(each for each in (await desk.call("GET", "/v1/alerts")).json()["items"] if each["object"] == object_)
    assert set(alert) == set(operator.EXAMPLES["alert"]) and alert["acknowledged_by"] is None and "reversal" in alert["meaning"]
    taken = (await desk.call("POST", f"/v1/alerts/{alert['id']}/acknowledge")).json()
    assert taken["acknowledged_by"] == "Li Wei" and taken["acknowledged_at"] is not None
    other = await desk.operator("Wang Fang")
    await desk.refresh()
    assert (await desk.call("POST", f"/v1/alerts/{alert['id']}/acknowledge", key=other["key"])).json() == taken
    await alarm.raise_("reversal_parked", object_)
    again = next(each for each in (await desk.call("GET", "/v1/alerts")).json()["items"] if each["object"] == object_)
    assert (again["acknowledged_by"], again["count"]) == (None, 2)


async def test_unmatched_answers_are_listed_newest_first(desk: Desk, pool: Pool) -> None:
    acquirer_id, transaction_id = uuid4(), uuid4()
    for reason, message, transaction in (("undecodable", None, None), ("late", '{"0": "0210", "39": "00"}', transaction_id)):
        await pool.execute("INSERT INTO unmatched_answer (acquirer_id, received_at, reason, message, transaction_id) VALUES ($1, now(), $2, $3, $4)",
                           acquirer_id, reason, message, transaction)
    first = (await desk.call("GET", "/v1/unmatched-answers?limit=1")).json()
    rest = (await desk.call("GET", f"/v1/unmatched-answers?limit=1&after={first['next']}")).json()
    assert (first["items"][0]["reason"], first["items"][0]["message"]) == ("late", {"0": "0210", "39": "00"})
    assert first["items"][0]["transaction"] == show("transaction", transaction_id) and rest["items"][0]["transaction"] is None
    assert set(first["items"][0]) == set(operator.EXAMPLES["unmatched answer"]) and rest["items"][0]["reason"] == "undecodable"


async def test_the_examples_show_what_is_sent_and_answered(desk: Desk) -> None:
    models = {kind: next(model for model in operator.MODELS if model.__name__ == f"{kind.title()}Request") for kind in operator.SENT}
    answered = {"acquirer": await desk.acquirer(), "terminal": await desk.terminal()}
    answered |= {"route": await desk.add("route", acquirer=answered["acquirer"]["id"], priority=9)}
    for kind in ("organisation", "merchant", "store", "key"):
        answered[kind] = (await desk.call("GET", f"/v1/{kind}s?limit=1")).json()["items"][0]
    for kind, sent in operator.SENT.items():
        models[kind].model_validate(sent)
        assert set(answered[kind]) == set(operator.EXAMPLES[kind]), kind


def test_every_route_is_documented_with_summary_and_examples(desk: Desk) -> None:
    schema = desk.app.openapi()
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"] and operation["tags"], path
            good = next(answer for code, answer in operation["responses"].items() if code in ("200", "201"))
            assert good["content"]["application/json"]["example"], path
            assert {"401", "403", "404"} <= set(operation["responses"]), path
            if method == "patch" or (method == "post" and not path.endswith(("/revoke", "/acknowledge", "/{verb}"))):
                assert operation["requestBody"]["content"]["application/json"]["example"], path
    assert schema["components"]["schemas"]["KeyRequest"]["additionalProperties"] is False
    assert schema["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert "HTTPValidationError" not in json.dumps(schema["paths"])


def test_a_schema_that_nobody_gave_is_noticed() -> None:
    app = FastAPI()

    @app.post("/cancel", openapi_extra=documented(CancellationRequest))
    async def cancel() -> None: ...

    complete(app, [])
    with pytest.raises(LookupError, match="CancellationRequest"):
        app.openapi()


async def test_a_database_that_is_gone_is_503(database_url: str, desk: Desk) -> None:
    gone = await database.pool(database_url, "switch_writer", 1)
    await gone.close()
    app = FastAPI()
    problems.install(app)
    app.include_router(operator.router(lambda request: callers.identify(desk.directory, request.headers.get("authorization")), Onboarding(gone),
                                       dict, gone, lambda: Roster(gone, 0, {})))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://switch") as client:
        for path in ("/v1/merchants", "/v1/alerts"):
            response = await client.get(path, headers={"authorization": f"Bearer {desk.key}"})
            assert (response.status_code, response.json()["code"], response.headers["retry-after"]) == (503, "not_ready", "2")
