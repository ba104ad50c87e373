"""No query of any route is a fault of ours: text that no database holds, times at the end of the calendar, numbers for dates."""

import io
import json
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from switch import logs
from switch.api import problems
from tests.flows import Shop, open_shop
from tests.test_bad_input import filled, refused

ODD = ["a%00b", "0001-01-01", "9999-12-31T23:59:59.999999-23:59", "0001-01-01T00:00:00%2B14:00"]


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("odd_queries")) as opened:
        yield opened


async def test_no_parameter_of_any_list_is_a_fault_of_ours(shop: Shop) -> None:
    for path, methods in (await shop.ask("GET", "/openapi.json")).body["paths"].items():
        names = [parameter["name"] for parameter in methods.get("get", {}).get("parameters", []) if parameter["in"] == "query"]
        who = "merchant.one" if names and (await shop.ask("GET", filled(path), key="operator")).status == 403 else "operator"
        for name, value in [(name, value) for name in names for value in ODD]:
            answer = await shop.ask("GET", f"{filled(path)}?{name}={value}", key=who)
            assert answer.status < 500, (path, name, value, answer.raw)
            assert "%00" not in value or answer.status >= 400, (path, name)


async def test_an_address_with_nul_is_nobodys(shop: Shop) -> None:
    refused(await shop.ask("GET", "/v1/help-articles/%00", key="operator"), 404, "not_found")


@pytest.mark.parametrize("path", ["/v1/exceptions?business_date=", "/v1/reconciliations?business_date=", "/v1/balance/history?from=", "/v1/unmatched-answers?to="])
async def test_a_number_is_no_date(shop: Shop, path: str) -> None:
    who = "merchant.one" if "balance" in path else "operator"
    for value in ("20261127", "0", "1790000000"):
        refused(await shop.ask("GET", path + value, key=who), 422, "invalid")
    assert (await shop.ask("GET", path + "2026-11-27", key=who)).status == 200


@pytest.mark.parametrize("path", ["/v1/transactions", "/v1/settlements", "/v1/balance/history", "/v1/unmatched-answers", "/v1/unmatched-answers/summary"])
async def test_from_after_to_is_not_an_empty_list(shop: Shop, path: str) -> None:
    who = "operator" if "unmatched" in path else "merchant.one"
    refused(await shop.ask("GET", f"{path}?from=2026-11-02&to=2026-11-01", key=who), 422, "invalid")
    same = await shop.ask("GET", f"{path}?from=2026-11-01&to=2026-11-01", key=who)  # of days both are included, of instants not the second
    assert same.status == (200 if path == "/v1/settlements" else 422)


@pytest.mark.parametrize("times", [{"from": "2026-11-02T00:00:00Z", "to": "2026-11-01T00:00:00Z"}, {"from": "9999-12-31T23:59:59-14:00"}])
async def test_an_export_of_no_time_that_there_is_is_refused_at_once(shop: Shop, times: dict[str, str]) -> None:
    asked = {"of": "transactions", "format": "csv", **times}
    refused(await shop.ask("POST", "/v1/exports", key="merchant.one", body=asked), 422, "invalid")


async def test_amounts_that_no_transaction_can_be_between_are_refused(shop: Shop) -> None:
    refused(await shop.ask("GET", "/v1/transactions?min=100&max=50", key="merchant.one"), 422, "invalid")
    assert (await shop.ask("GET", "/v1/transactions?min=50&max=50", key="merchant.one")).status == 200


async def test_a_key_that_ends_beyond_the_calendar_is_refused(shop: Shop) -> None:
    asked = {"role": "operator", "person": "Wu Min", "expires_at": "9999-12-31T23:59:59-14:00"}
    refused(await shop.ask("POST", "/v1/keys", key="administrator", body=asked), 422, "invalid")


@pytest.mark.parametrize("day", ["9999-12-31", "0001-01-01"])
async def test_no_run_is_asked_for_of_a_day_that_the_database_takes_for_infinite(shop: Shop, day: str) -> None:
    asked = {"acquirer": f"acq_{shop.ids['acquirer.single']}", "business_date": day}
    refused(await shop.ask("POST", "/v1/reconciliations", key="operator", body=asked), 422, "invalid")


async def test_a_file_that_is_refused_as_a_whole_has_no_line_0(shop: Shop) -> None:
    body = refused(await shop.ask("POST", f"/v1/clearing-files?document=clearing&acquirer=acq_{shop.ids['acquirer.single']}", key="operator"), 422, "file_refused")
    assert body["errors"] == [{"field": "the file", "rule": "the file is empty", "type": "rule"}]


async def test_a_kind_of_alert_that_does_not_exist_is_not_an_empty_list(shop: Shop) -> None:
    body = refused(await shop.ask("GET", "/v1/alerts?kind=line_downn", key="operator"), 422, "invalid")
    assert "line_down, " in body["errors"][0]["rule"]
    assert (await shop.ask("GET", "/v1/alerts?kind=line_down", key="operator")).status == 200


@pytest.mark.parametrize(("path", "allow"), [("/v1/acquirers", "GET, HEAD, POST"), ("/v1/merchants/mer_x", "GET, HEAD, PATCH"),
                                             ("/v1/authorizations", "GET, HEAD, POST"), ("/v1/cancellations", "POST"),
                                             ("/v1/webhooks/whk_x", "DELETE, GET, HEAD, PATCH"), ("/healthz", "GET, HEAD")])
async def test_a_method_that_is_not_there_says_which_are(shop: Shop, path: str, allow: str) -> None:
    answer = await shop.ask("PUT", path, key="operator")
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/acquirers", "/v1/transactions?limit=1", "/v1/merchants/mer_x", "/v1/transactions?limit=0", "/nowhere"])
async def test_head_answers_as_get_does_without_the_body(shop: Shop, path: str) -> None:
    asked, got = await shop.ask("HEAD", path, key="operator"), await shop.ask("GET", path, key="operator")
    assert (asked.status, asked.raw) == (got.status, b"")
    assert {name: value for name, value in asked.headers.items() if name in ("content-type", "content-length")} == {
        name: value for name, value in got.headers.items() if name in ("content-type", "content-length")}
    assert (await shop.ask("HEAD", path)).status == (await shop.ask("GET", path)).status, "nobody learns more by it"


async def test_head_of_what_only_takes_a_body_is_refused(shop: Shop) -> None:
    asked = await shop.ask("HEAD", "/v1/cancellations", key="till")
    assert (asked.status, asked.headers["allow"], asked.raw) == (405, "POST", b"")


async def test_a_body_that_is_no_object_is_told_so_without_names_of_ours(shop: Shop) -> None:
    for path in ("/v1/organisations", "/v1/authorizations"):
        answer = await shop.ask("POST", path, key="till" if "auth" in path else "operator", body=[], Idempotency_Key="k" * 20)
        assert refused(answer, 422, "invalid")["errors"][0]["rule"] == "Input should be an object"
        assert not re.search(r"[A-Z]\w+Request", answer.raw.decode())


def test_the_log_has_the_request_id_that_the_caller_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(logs.log, "stream", stream)
    told = json.loads(bytes(problems.broken(ValueError("secret"), "/v1/alerts").body))
    line = json.loads(stream.getvalue())
    assert (line["event"], line["request_id"], line["path"]) == ("request_failed", told["request_id"], "/v1/alerts")
    assert "secret" not in stream.getvalue() + str(told)
