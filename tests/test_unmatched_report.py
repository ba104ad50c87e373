"""The report of answers that matched no open request: what each says, its filters, its sums, and the command line."""

import asyncio
import io
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from switch import logs
from switch.links import Unmatched
from tests.flows import Row, Shop, eventually, open_shop

WHOLE = {"0": "0210", "39": "00", "38": "A00001"}


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("unmatched")) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module")
async def sold(shop: Shop) -> Row:
    return await shop.row((await shop.pay(10_000)).body["id"])


def answer_of(row: Row, **changed: str | None) -> dict[str, str]:
    """The answer to a stored sale as another line brings it, after this one has forgotten the request."""
    whole = {**WHOLE, "3": row["processing_code"], "4": f"{row['amount']:012d}", "7": row["transmitted_at"], "11": row["stan"], "37": row["rrn"],
             "41": row["card_acceptor_terminal"], "42": row["card_acceptor"], "49": "156"}
    return {de: value for de, value in {**whole, **{name.removeprefix("de"): value for name, value in changed.items()}}.items() if value is not None}


async def record(shop: Shop, message: dict[str, str] | None, reason: str = "no_request", field: str | None = None, acquirer: str = "single") -> Row:
    """What is stored of it."""
    before = (await shop.sql("SELECT coalesce(max(unmatched_id), 0) AS newest FROM unmatched_answer"))[0]["newest"]
    shop.switch.evidence.take(Unmatched(str(shop.ids[f"acquirer.{acquirer}"]), message, reason, field, None, 100, datetime.now(UTC)))

    async def stored() -> list[Row]:
        return await shop.sql("SELECT * FROM unmatched_answer WHERE unmatched_id > $1", before)

    return (await eventually(stored, "it is not recorded"))[0]


@pytest.mark.parametrize(("changed", "field", "named"), [
    ({}, None, True), ({"de4": "000000010001"}, "4", True), ({"de49": "840"}, "49", True), ({"de39": None}, "39", True), ({"de38": None}, "38", True),
    ({"de3": "200000"}, "3", True), ({"de0": "0230"}, "0", True), ({"de7": "0101000000"}, "7", False), ({"de11": "999999"}, "11", False),
    ({"de41": "T9999999"}, "41", False), ({"de42": "M99999999999999"}, "42", False), ({"de37": "999999999999"}, None, False),
    ({"de37": None}, None, False), ({"de0": "0430"}, None, False),
])
async def test_an_answer_that_another_line_brings_is_held_against_the_books_and_the_differing_field_is_named(
        shop: Shop, sold: Row, changed: dict[str, Any], field: str | None, named: bool) -> None:
    stored = await record(shop, answer_of(sold, **changed))
    assert (stored["field"], stored["transaction_id"]) == (field, sold["transaction_id"] if named else None)
    assert (await shop.row(f"txn_{sold['transaction_id']}"))["state"] == "APPROVED"


async def test_what_the_line_found_out_goes_before_the_books(shop: Shop, sold: Row) -> None:
    assert (await record(shop, answer_of(sold, de4="000000010001"), "differs", "49"))["field"] == "49"
    assert (await record(shop, None, "undecodable", "55"))["field"] == "55"


async def test_why_bytes_could_not_be_read_and_where_is_in_the_log_and_in_the_report(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(logs.log, "stream", said)
    fault = "at byte 61: 1 byte too many"
    shop.switch.evidence.take(Unmatched(str(shop.ids["acquirer.single"]), None, "undecodable", "49", None, 62, datetime.now(UTC), fault=fault))

    async def logged() -> list[dict[str, Any]]:
        lines = map(json.loads, said.getvalue().splitlines())
        return [line for line in lines if (line["event"], line["field"]) == ("unmatched_answer", "49")]  # the test before may log late

    (line,) = await eventually(logged, "it is not logged")
    assert (line["reason"], line["field"], line["detail"]) == ("undecodable", "49", fault)
    (item,) = (await page(shop, "", reason="undecodable", limit=1))["items"]
    assert (item["field"], item["detail"], item["message"]) == ("49", fault, None)


async def page(shop: Shop, path: str, **asked: object) -> Any:
    query = "&".join(f"{name.rstrip('_')}={quote(str(value), safe='')}" for name, value in asked.items())
    answer = await shop.ask("GET", f"/v1/unmatched-answers{path}?{query}", key="operator")
    assert answer.status == 200, answer.raw
    return answer.body


async def test_the_list_is_narrowed_by_acquirer_reason_and_time(shop: Shop, sold: Row) -> None:
    first = await record(shop, None, "undecodable", "48", acquirer="dual")
    last = await record(shop, None, "unknown_mti", "0", acquirer="dual")
    dual = shop.shown("acquirer.dual")
    assert [item["id"] for item in (await page(shop, "", acquirer=dual))["items"]] == [last["unmatched_id"], first["unmatched_id"]]
    assert [item["id"] for item in (await page(shop, "", acquirer=dual, reason="undecodable"))["items"]] == [first["unmatched_id"]]
    assert [item["id"] for item in (await page(shop, "", acquirer=dual, to=last["received_at"].isoformat()))["items"]] == [first["unmatched_id"]]
    assert [item["id"] for item in (await page(shop, "", acquirer=dual, from_=last["received_at"].isoformat()))["items"]] == [last["unmatched_id"]]
    newest = await page(shop, "", limit=1)
    assert (newest["items"][0]["id"], newest["next"]) == (last["unmatched_id"], last["unmatched_id"])
    for reason in ("bad_mac", "not_authentic"):
        stored = await record(shop, None, reason, "64", acquirer="dual")
        assert [item["id"] for item in (await page(shop, "", acquirer=dual, reason=reason))["items"]] == [stored["unmatched_id"]]
    for wrong, status in (("acquirer=acq_x", 404), ("reason=whatever", 422), ("from=yesterday", 422)):
        assert (await shop.ask("GET", f"/v1/unmatched-answers?{wrong}", key="operator")).status == status
    assert (await shop.ask("GET", "/v1/unmatched-answers/summary", key="merchant.one")).status == 403


async def test_the_sums_name_acquirer_reason_and_field(shop: Shop, sold: Row) -> None:
    single = shop.shown("acquirer.single")
    since = datetime.now(UTC)
    for de4 in ("000000010001", "000000010002"):
        await record(shop, answer_of(sold, de4=de4))
    await record(shop, answer_of(sold, de41="T9999999"))
    summed = await page(shop, "/summary", from_=since.isoformat(), acquirer=single)
    assert [(item["acquirer"], item["reason"], item["field"], item["count"]) for item in summed["items"]] == [
        (single, "no_request", "4", 2), (single, "no_request", "41", 1)]
    assert (await page(shop, "/summary", from_=(since + timedelta(hours=1)).isoformat(), to=(since + timedelta(hours=2)).isoformat()))["items"] == []
    day = await page(shop, "/summary")
    assert sum(item["count"] for item in day["items"]) == (await shop.sql("SELECT count(*) AS n FROM unmatched_answer"))[0]["n"]


async def test_the_command_line_prints_the_sums(shop: Shop, sold: Row) -> None:
    await record(shop, answer_of(sold, de42="M99999999999999"))
    for field in ("h", "0"):
        await record(shop, None, "undecodable", field)
    asked = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "switch", "unmatched", "--url", shop.base, "--key", shop.keys["operator"], "--acquirer", shop.shown("acquirer.single"),
        env={name: value for name, value in os.environ.items() if not name.startswith("SWITCH_")}, stdout=asyncio.subprocess.PIPE)
    said = (await asked.communicate())[0].decode()
    assert asked.returncode == 0
    (line,) = [line for line in said.splitlines() if "field 42 " in line]
    assert line.split()[1] == "no_request" and line.endswith(shop.shown("acquirer.single"))
    assert "undecodable  field header " in said and "undecodable  field MTI " in said
