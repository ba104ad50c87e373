"""Exports and statements over HTTP: complete, exact, streamed, and nobody else's."""

import asyncio
import csv
import hashlib
import importlib
import io
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import openpyxl
import pypdf
import pytest
import pytest_asyncio

from switch.api import download
from switch.ids import read, show
from switch.settlement.exports import files, paper
from tests.flows import Shop, eventually, new_key, open_shop
from tests.rows import new_id
from tests.settlements import DAY, settle

EVIL = '<script>alert(1)</script>"\'&=cmd'


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("exports")) as opened:
        opened.switch.places.limit = opened.switch.places.limit_of_one = 50  # but where it is the question
        yield opened


async def settled(shop: Shop, count: int, **more: Any) -> UUID:
    """Settles for merchant one. Each settlement has a day of its own."""
    taken = await shop.sql("SELECT min(business_date) AS day FROM settlement")
    day = (taken[0]["day"] or DAY).fromordinal((taken[0]["day"] or DAY).toordinal() - 1)
    return await settle(shop.url, shop.ids["merchant.one"], shop.ids["acquirer.single"], shop.ids["store.first"], shop.ids["terminal.till"], count,
                        **{"day": day, **more})


async def got(shop: Shop, path: str, key: str = "merchant.one", **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        return await client.get(f"{shop.base}{path}", headers={"Authorization": f"Bearer {shop.keys.get(key, key)}", **headers})


async def asked(shop: Shop, body: Any, key: str = "merchant.one", status: int = 202, **headers: str) -> Any:
    answer = await shop.ask("POST", "/v1/exports", body, key, **headers)
    assert answer.status == status, answer.raw
    return answer.body


async def done(shop: Shop, ident: str, key: str = "merchant.one") -> Any:
    async def ended() -> Any:
        found = (await shop.ask("GET", f"/v1/exports/{ident}", key=key)).body
        assert found["state"] not in ("failed", "cancelled"), found
        return found if found["state"] == "done" else None

    return await eventually(ended, "the export is not done", 30)


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


# Streams


async def test_the_lines_charges_and_tax_of_a_csv_sum_to_the_settlement(shop: Shop) -> None:
    identity = await settled(shop, 250, tax=86, charges=(("terminal rent", 3000),), reference="=1+1")
    answer = await got(shop, f"/v1/settlements/{show('settlement', identity)}/export")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/csv; charset=utf-8; header=present")
    assert answer.headers["cache-control"] == "no-store" and answer.headers["content-disposition"].startswith("attachment")
    (whole,) = await shop.sql("SELECT * FROM settlement WHERE settlement_id = $1", identity)
    rows = parsed(answer.text)
    assert len(rows) == 252 and [row["kind"] for row in rows[250:]] == ["charge", "tax"]
    sums = {name: sum(int(row[name]) for row in rows) for name in ("sales", "refunds", "adjustments", "gross", "fee", "tax", "net")}
    assert sums == {"sales": whole["sales"], "refunds": -whole["refunds"], "adjustments": 0, "gross": whole["sales"] - whole["refunds"], "fee": whole["fees"],
                    "tax": 86, "net": whole["net"]}
    first = next(row for row in rows if row["kind"] == "sale")
    assert (first["gross"], first["gross_decimal"], first["fee_decimal"], first["net_decimal"]) == ("1050", "10.50", "0.06", "10.44")
    assert first["captured_at (Asia/Shanghai)"].startswith("2026-11-25T16:00:00") and first["captured_at (Asia/Shanghai)"].endswith("+08:00")
    assert first["reference"] == "'=1+1" and '"\'=1+1"' in answer.text
    assert (first["store_name"], first["terminal_name"], first["fee_rule"]) == ("Store first", "till", "standard: 0.60 %")
    assert first["transaction"].startswith("txn_") and first["store"] == shop.shown("store.first")
    assert not {"interchange", "margin", "acquirer_fee", "scheme_fee"} & set(first), "what the acquirer takes is not the merchant's business"


@pytest.mark.parametrize(("currency", "gross"), [("JPY", "1050"), ("CNY", "10.50"), ("BHD", "1.050")])
async def test_decimals_follow_the_currencys_exponent(shop: Shop, currency: str, gross: str) -> None:
    identity = await settled(shop, 1, currency=currency)
    (row,) = parsed((await got(shop, f"/v1/settlements/{show('settlement', identity)}/export")).text)
    assert (row["gross"], row["gross_decimal"], row["currency"]) == ("1050", gross, currency)


@pytest.mark.parametrize(("query", "begins"), [("", b"kind,"), ("?bom=false", b"kind,"), ("?bom=true", b"\xef\xbb\xbfkind,"), ("?format=json&bom=true", b"{")])
async def test_a_byte_order_mark_only_where_it_is_asked_for(shop: Shop, query: str, begins: bytes) -> None:
    identity = await settled(shop, 1)
    assert (await got(shop, f"/v1/settlements/{show('settlement', identity)}/export{query}")).content.startswith(begins)


async def test_json_says_what_it_is_and_how_many_items_there_are(shop: Shop) -> None:
    identity = await settled(shop, 205, reference="=1+1", tax=10)
    answer = await got(shop, f"/v1/settlements/{show('settlement', identity)}/export?format=json")
    body = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert (body["id"], body["time_zone"], body["count"], len(body["items"])) == (show("settlement", identity), "Asia/Shanghai", 206, 206)
    assert sum(item["net"] for item in body["items"]) == body["net"] and body["net_decimal"] == f"{body['net'] / 100:.2f}"
    assert body["items"][0]["reference"] == "=1+1", "JSON is not run by anybody"


async def test_an_empty_settlement_is_a_header_and_an_empty_list(shop: Shop) -> None:
    shown = show("settlement", await settled(shop, 0))
    assert len((await got(shop, f"/v1/settlements/{shown}/export")).text.splitlines()) == 1
    assert (await got(shop, f"/v1/settlements/{shown}/export?format=json")).json()["items"] == []


ROUTES = ("export", "export?format=json", "statement", "statement?format=pdf")


@pytest.mark.parametrize("route", ROUTES)
async def test_another_merchants_settlement_is_as_absent_as_none(shop: Shop, route: str) -> None:
    shown = show("settlement", await settled(shop, 1))
    foreign, none = await got(shop, f"/v1/settlements/{shown}/{route}", "merchant.two"), await got(shop, f"/v1/settlements/set_{UUID(int=7)}/{route}")
    assert (foreign.status_code, none.status_code) == (404, 404)
    assert {**foreign.json(), "request_id": ""} == {**none.json(), "request_id": ""}
    assert (await got(shop, f"/v1/settlements/{shown}/{route}", "till")).status_code == 403
    assert (await got(shop, f"/v1/settlements/{shown}/{route}", "operator")).status_code == 200
    assert (await got(shop, f"/v1/settlements/{shown}/{route}", "nobody")).status_code == 401


async def test_a_client_that_does_not_read_is_cut_off_and_frees_its_place(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline of the whole; that of a single write is the edge's. Meanwhile the switch reads no further than the socket takes."""
    shown = show("settlement", await settled(shop, 60_000))
    read = 0
    lines = files.statements.lines

    async def counted(*arguments: Any) -> AsyncIterator[Any]:
        nonlocal read
        async for rows in lines(*arguments):
            read += len(rows)
            yield rows

    monkeypatch.setattr(files.statements, "lines", counted)
    monkeypatch.setattr(download.Download.__init__, "__defaults__", (6.0,))
    reader, writer = await asyncio.open_connection(*shop.base.removeprefix("http://").split(":"), limit=1024)
    writer.write(f"GET /v1/settlements/{shown}/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {shop.keys['merchant.one']}\r\n\r\n".encode())
    places = shop.switch.places

    async def taken() -> bool:
        return places.taken.total() == 1

    await eventually(taken, "it does not begin")

    async def still() -> bool:
        before = read
        await asyncio.sleep(0.4)
        return read == before > 0

    await eventually(still, "it never stops", 5)
    assert read < 60_000, "it reads on although nobody takes it"

    async def free() -> bool:
        return places.taken.total() == 0

    await eventually(free, "its place is held for ever", 8)
    body = b""
    try:
        while piece := await asyncio.wait_for(reader.read(1 << 16), 40):
            body += piece
    except ConnectionError:
        pass
    assert not body.endswith(b"0\r\n\r\n"), "a file that was cut must not look whole"
    writer.close()
    assert await shop.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'switch_reader' AND state = 'idle in transaction' AND datname = current_database()") == []


async def test_a_client_that_hangs_up_frees_its_place_at_once(shop: Shop) -> None:
    shown = show("settlement", await settled(shop, 60_000))
    _, writer = await asyncio.open_connection(*shop.base.removeprefix("http://").split(":"), limit=1024)
    writer.write(f"GET /v1/settlements/{shown}/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {shop.keys['merchant.one']}\r\n\r\n".encode())
    await asyncio.sleep(0.5)
    assert shop.switch.places.taken.total() == 1
    writer.transport.abort()

    async def free() -> bool:
        return shop.switch.places.taken.total() == 0

    await eventually(free, "its place is held", 2)


async def test_downloads_are_limited_over_all_and_for_one(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, places = show("settlement", await settled(shop, 1)), shop.switch.places
    monkeypatch.setattr(places, "limit_of_one", 1)
    places.taken[shop.ids["merchant.one"]] = 1
    try:
        answer = await got(shop, f"/v1/settlements/{shown}/export")
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "overloaded", "5")
        assert (await got(shop, f"/v1/settlements/{shown}/export", "operator")).status_code == 200
        monkeypatch.setattr(places, "limit", 1)
        assert (await got(shop, f"/v1/settlements/{shown}/export", "operator")).status_code == 503
    finally:
        places.taken.clear()


async def test_payments_go_on_beside_a_download(shop: Shop) -> None:
    shown = show("settlement", await settled(shop, 60_000))
    running = asyncio.create_task(got(shop, f"/v1/settlements/{shown}/export"))
    longest = 0.0
    while not running.done():
        begun = time.monotonic()
        assert (await shop.pay(5000)).status == 201
        longest = max(longest, time.monotonic() - begun)
    assert len((await running).text.splitlines()) == 60_001
    assert longest < 1.0


# The list of transactions as a file


async def test_an_authorization_that_has_expired_is_so_in_the_file(shop: Shop) -> None:
    reference = new_key()[:20]
    held = (await shop.pay(7300, reference=reference, capture_method="manual", key="dual")).body["id"]
    for status, expires_at in (("authorized", "now() + interval '1 hour'"), ("expired", "now() - interval '1 second'")):
        await shop.sql(f"UPDATE transaction SET expires_at = {expires_at}, version = version + 1 WHERE transaction_id = $1", UUID(held[4:]))
        rows = parsed((await got(shop, f"/v1/transactions?format=csv&reference={reference}&payment_status={status}", "operator")).text)
        assert [(row["transaction"], row["payment_status"]) for row in rows] == [(held, status)]


async def test_the_list_of_transactions_as_csv_has_the_same_filters_and_no_pages(shop: Shop) -> None:
    reference = new_key()[:20]
    made = [(await shop.pay(7000 + at * 100, reference=reference)).body["id"] for at in range(4)]
    made.append((await shop.pay(7051, reference=reference)).body["id"])
    answer = await got(shop, f"/v1/transactions?format=csv&reference={reference}&limit=1")
    rows = parsed(answer.text)
    assert [row["transaction"] for row in rows] == made[::-1]
    assert [row["status"] for row in rows] == ["declined", *["approved"] * 4]
    assert (rows[1]["amount"], rows[1]["amount_decimal"], rows[1]["payment_status"], rows[1]["masked_pan"][-4:]) == ("7300", "73.00", "captured", "0003")
    assert rows[0]["created_at (Asia/Shanghai)"].endswith("+08:00")
    approved = parsed((await got(shop, f"/v1/transactions?format=csv&bom=true&reference={reference}&status=approved", "operator")).content.decode("utf-8-sig"))
    assert len(approved) == 4 and "created_at (UTC)" in approved[0]
    assert parsed((await got(shop, f"/v1/transactions?format=csv&reference={reference}", "merchant.two")).text) == []
    assert parsed((await got(shop, f"/v1/transactions?format=csv&reference={reference}", "branch")).text) == [], "a terminal sees its store"
    assert (await got(shop, f"/v1/transactions?format=csv&store={shop.shown('store.second')}", "till")).status_code == 404


async def test_what_was_declined_or_reversed_is_no_approved_amount_in_a_file_either(shop: Shop) -> None:
    reference = f"undone-{new_key()[:8]}"
    for amount, wanted in ((10_100, "approved"), (10_051, "declined"), (10_200, "approved")):
        sold = await shop.pay(amount, reference=reference)
        assert sold.body["status"] == wanted, sold.raw
    assert (await shop.ask("POST", f"/v1/authorizations/{sold.body['id']}/reversals", {}, Idempotency_Key=new_key())).status in (201, 202)

    async def undone() -> bool:
        return (await shop.ask("GET", f"/v1/transactions/{sold.body['id']}")).body["status"] == "reversed"

    await eventually(undone, "the sale is not reversed")
    told = (await got(shop, f"/v1/transactions?reference={reference}")).json()["items"]
    listed = {each["id"]: each["approved_amount"] for each in told}
    assert sorted(listed.values()) == [0, 0, 10_100]
    text = (await got(shop, f"/v1/transactions?format=csv&reference={reference}")).text
    table = [line for line in csv.DictReader(io.StringIO(text.lstrip("\ufeff"))) if line.get("transaction")]
    assert {line["transaction"]: int(line["approved_amount"]) for line in table} == listed


async def test_no_export_holds_a_card_number(shop: Shop) -> None:
    await shop.pay(5000)
    assert "6212345678900000003" not in (await got(shop, "/v1/transactions?format=csv")).text


# Files


async def test_a_workbook_is_written_by_a_job_and_opens(shop: Shop, tmp_path: Path) -> None:
    identity = await settled(shop, 230, tax=86, charges=(("rent", 300),), reference="=1+1")
    shown = show("settlement", identity)
    queued = await asked(shop, {"of": "settlement", "settlement": shown, "format": "xlsx"})
    assert queued["id"].startswith("exp_") and queued["file"] is None
    ready = await done(shop, queued["id"])
    answer = await got(shop, ready["file"])
    assert answer.headers["content-type"] == "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    assert (len(answer.content), hashlib.sha256(answer.content).hexdigest(), answer.headers["etag"]) == (ready["bytes"], ready["sha256"], f'"{ready["sha256"]}"')
    (tmp_path / "book.xlsx").write_bytes(answer.content)
    book = openpyxl.load_workbook(tmp_path / "book.xlsx")
    header, *rows = book.active.iter_rows()
    names = [cell.value for cell in header]
    assert names == list(parsed((await got(shop, f"/v1/settlements/{shown}/export")).text)[0])
    assert (len(rows), ready["rows"], ready["progress"]) == (232, 232, {"done": 232, "total": 232})
    (whole,) = await shop.sql("SELECT net FROM settlement WHERE settlement_id = $1", identity)
    assert sum(row[names.index("net")].value for row in rows) == whole["net"]
    sale = next(row for row in rows if row[0].value == "sale")
    reference, decimal = sale[names.index("reference")], sale[names.index("gross_decimal")]
    assert (reference.value, reference.data_type, decimal.value, decimal.data_type) == ("=1+1", "s", "10.50", "s"), "a text, never a formula"
    path = shop.switch.exports.folder / str(shop.ids["merchant.one"]) / f"{UUID(ready['id'][4:])}.xlsx"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir() if each.suffix == ".part"] == []


@pytest.mark.parametrize("form", ["csv", "json"])
async def test_a_file_is_what_the_stream_is(shop: Shop, form: str) -> None:
    shown = show("settlement", await settled(shop, 120))
    ready = await done(shop, (await asked(shop, {"of": "settlement", "settlement": shown, "format": form}))["id"])
    assert (await got(shop, ready["file"])).content == (await got(shop, f"/v1/settlements/{shown}/export?format={form}")).content


async def test_transactions_are_exported_with_the_filters_of_the_list(shop: Shop) -> None:
    made = [(await shop.pay(8000 + at * 100)).body for at in range(3)]
    await shop.pay(8051)
    body = {"of": "transactions", "format": "csv", "from": made[0]["created_at"], "status": "approved", "store": shop.shown("store.first"), "type": "purchase"}
    ready = await done(shop, (await asked(shop, body))["id"])
    rows = parsed((await got(shop, ready["file"])).text)
    assert [row["transaction"] for row in rows] == [each["id"] for each in made[::-1]]
    other = await done(shop, (await asked(shop, {"of": "transactions", "format": "json", "merchant": shop.shown("merchant.four")}, "operator"))["id"], "operator")
    assert (await got(shop, other["file"], "operator")).json()["items"] == []


async def test_an_export_is_its_merchants_alone(shop: Shop) -> None:
    shown = show("settlement", await settled(shop, 3))
    ready = await done(shop, (await asked(shop, {"of": "settlement", "settlement": shown, "format": "csv"}))["id"])
    for path in (ready["file"], f"/v1/exports/{ready['id']}"):
        assert (await got(shop, path, "merchant.two")).status_code == 404
        assert (await got(shop, path, "till")).status_code == 403
        assert (await got(shop, path, "operator")).status_code == 200
    await asked(shop, {"of": "settlement", "settlement": shown, "format": "csv"}, "merchant.two", 404)
    await asked(shop, {"of": "transactions", "format": "csv", "merchant": shop.shown("merchant.one")}, "merchant.two", 404)
    await asked(shop, {"of": "transactions", "format": "csv"}, "operator", 404)
    for body in ({"of": "settlement", "format": "csv"}, {"of": "settlement", "settlement": shown, "format": "pdf"}, {"of": "transactions", "format": "csv", "settlement": shown},
                 {"of": "settlement", "settlement": shown, "format": "csv", "status": "approved"}, {"of": "settlement", "settlement": shown, "format": "csv", "path": "/etc"}):
        await asked(shop, body, "merchant.one", 422)
    other_job = await shop.sql("SELECT job_id FROM job WHERE kind <> 'export' LIMIT 1")
    for row in other_job:
        assert (await got(shop, f"/v1/exports/{show('export', row['job_id'])}", "operator")).status_code == 404


async def test_a_merchants_exports_are_listed_newest_first_page_by_page_and_nobody_elses(shop: Shop) -> None:
    made = [(await asked(shop, {"of": "transactions", "format": "csv"}))["id"] for _ in range(3)]
    other = (await asked(shop, {"of": "transactions", "format": "csv"}, "merchant.two"))["id"]
    first = (await shop.ask("GET", "/v1/exports?limit=2", key="merchant.one")).body
    second = (await shop.ask("GET", f"/v1/exports?limit=2&after={first['next']}", key="merchant.one")).body
    assert [each["id"] for each in [*first["items"], *second["items"]]][:3] == made[::-1]
    assert (await shop.ask("GET", "/v1/exports", key="merchant.two")).body["items"][0]["id"] == other
    ours = (await shop.ask("GET", "/v1/exports?limit=200", key="merchant.one")).body["items"]
    assert {each["merchant"] for each in ours} == {shop.shown("merchant.one")} and all(each["asked"] for each in ours)
    of_two = await shop.ask("GET", f"/v1/exports?merchant={shop.shown('merchant.two')}", key="operator")
    assert other in [each["id"] for each in of_two.body["items"]] and made[0] not in [each["id"] for each in of_two.body["items"]]
    assert (await shop.ask("GET", f"/v1/exports?merchant={shop.shown('merchant.two')}", key="merchant.one")).status == 404
    assert (await shop.ask("GET", "/v1/exports", key="till")).status == 403
    for query in ("limit=0", "after=exp_x", "state=gone"):
        assert (await shop.ask("GET", f"/v1/exports?{query}", key="merchant.one")).status in (404, 422)


async def test_a_part_of_a_file_is_answered_and_a_range_that_is_none_is_told(shop: Shop) -> None:
    made = (await asked(shop, {"of": "transactions", "format": "csv"}))["id"]
    path = f"/v1/exports/{made}/file"

    async def there() -> bytes | None:
        answer = await got(shop, path)
        return answer.content if answer.status_code == 200 else None

    whole = await eventually(there, "no file")
    part = await got(shop, path, Range="bytes=3-9")
    assert (part.status_code, part.content) == (206, whole[3:10])
    for wrong in ("bytes=abc", "bytes=9-3", "bytes=", "lines=1-2", "bytes=1-2,x"):
        answer = await got(shop, path, Range=wrong)
        assert (answer.status_code, answer.json()["code"]) == (400, "request_malformed"), wrong
    assert (await got(shop, path, Range=f"bytes={len(whole)}-")).status_code == 416


async def test_the_same_key_is_the_same_export(shop: Shop) -> None:
    shown, key = show("settlement", await settled(shop, 3)), new_key()
    body = {"of": "settlement", "settlement": shown, "format": "csv"}
    first = await asked(shop, body, Idempotency_Key=key)
    assert (await asked(shop, body, Idempotency_Key=key))["id"] == first["id"]
    assert (await asked(shop, body))["id"] != first["id"]
    assert (await asked(shop, body | {"format": "json"}, "merchant.one", 422, Idempotency_Key=key))["code"] == "idempotency_key_reused"
    await asked(shop, body, "merchant.one", 400, Idempotency_Key="x")
    await done(shop, first["id"])


async def test_a_merchant_has_a_limited_number_of_open_exports(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "OPEN_MAX", 0)
    shown = show("settlement", await settled(shop, 1))
    assert (await asked(shop, {"of": "settlement", "settlement": shown, "format": "csv"}, status=409))["code"] == "conflict"


async def test_a_file_ends_after_its_time_and_a_dead_workers_parts_too(shop: Shop) -> None:
    shown = show("settlement", await settled(shop, 1))
    ready = await done(shop, (await asked(shop, {"of": "settlement", "settlement": shown, "format": "csv"}))["id"])
    kept, folder = shop.switch.exports, shop.switch.exports.folder / str(shop.ids["merchant.one"])
    part = folder / ".left.1.part"
    part.write_text("x")
    (folder / ".sheets.part").mkdir()
    (folder / ".sheets.part" / "sheet").write_text("x")
    for left in (part, folder / ".sheets.part"):
        os.utime(left, (time.time() - 90_000,) * 2)
    assert kept.sweep(time.time()) == 2 and not part.exists()
    assert (await got(shop, ready["file"])).status_code == 200
    kept.sweep(time.time() + 7 * 86_400 + 1)
    gone = await got(shop, ready["file"])
    assert (gone.status_code, gone.json()["detail"]) == (404, "The file is no longer kept; ask for a new export.")


async def test_an_export_that_cannot_be_written_fails_with_words(shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = show("settlement", await settled(shop, 1))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(shop.switch.exports, "folder", tmp_path / "file")
    made = await asked(shop, {"of": "settlement", "settlement": shown, "format": "csv"})

    async def waits() -> Any:
        found = (await shop.ask("GET", f"/v1/exports/{made['id']}", key="merchant.one")).body
        return found if found["state"] == "waiting" else None

    assert (await eventually(waits, "it does not wait"))["error"].startswith("NotADirectoryError at ")
    assert (await got(shop, f"/v1/exports/{made['id']}/file")).status_code == 409
    job = f"/v1/jobs/job_{made['id'][4:]}"
    assert (await shop.ask("GET", job, key="operator")).body["state"] == "waiting"
    assert (await shop.ask("GET", job, key="merchant.one")).status == 403
    monkeypatch.undo()
    assert (await shop.ask("POST", f"{job}/retry", {}, "operator")).body["state"] == "queued"
    await done(shop, made["id"])
    assert (await shop.ask("POST", f"{job}/retry", {}, "operator")).status == 409
    assert (await shop.ask("POST", f"{job}/cancel", {}, "operator")).status == 409
    listed = (await shop.ask("GET", "/v1/jobs?state=done&kind=export&limit=200", key="operator")).body
    assert f"job_{made['id'][4:]}" in [item["id"] for item in listed["items"]] and listed["next"] is None


async def test_housekeeping_removes_the_queues_old_log(shop: Shop) -> None:
    owner = await asyncpg.connect(shop.url)
    await owner.execute("INSERT INTO queue.pgqueuer_log (created, job_id, status, priority, entrypoint) VALUES (now() - interval '31 days', -1, 'queued', 0, 'x'),"
                        "(now() - interval '29 days', -2, 'queued', 0, 'x')")
    kind = shop.switch.foreman.kinds["housekeeping"]
    told = await kind.do(None)  # type: ignore[arg-type]
    assert told is not None and told["log_rows"] == 1
    assert [row["job_id"] for row in await owner.fetch("SELECT job_id FROM queue.pgqueuer_log WHERE job_id < 0")] == [-2]
    await owner.close()


# Statements


async def test_a_statement_for_print_explains_the_fees_and_escapes_what_others_named(shop: Shop) -> None:
    await shop.sql("UPDATE merchant SET name = $2 WHERE merchant_id = $1", shop.ids["merchant.one"], EVIL)
    try:
        shown = show("settlement", await settled(shop, 20, tax=7, charges=(("rent", 300),), reserve=1000))
        answer = await got(shop, f"/v1/settlements/{shown}/statement")
        chinese = (await got(shop, f"/v1/settlements/{shown}/statement?language=zh")).text
    finally:
        await shop.sql("UPDATE merchant SET name = 'Merchant one' WHERE merchant_id = $1", shop.ids["merchant.one"])
    assert answer.headers["content-type"] == "text/html; charset=utf-8" and answer.headers["content-security-policy"].startswith("default-src 'none'")
    page = answer.text
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;=cmd" in page
    for text in ("Settlement statement", "standard: 0.60 %", "rent", "189.00", "-10.00", "-4.08", "-0.07", "174.85", "164.85", "@page", shown, "Asia/Shanghai"):
        assert text in page, text
    assert "结算单" in chinese and "手续费明细" in chinese and "Settlement statement" not in chinese


async def test_what_is_not_posted_is_called_provisional(shop: Shop) -> None:
    for state, said in (("priced", True), ("posted", False)):
        shown = show("settlement", await settled(shop, 1, state=state))
        assert ("Provisional" in (await got(shop, f"/v1/settlements/{shown}/statement")).text) is said


needs_typst = pytest.mark.skipif(not paper.can_print(), reason="PDF needs the optional extra `reports` (typst), which is not installed")


@needs_typst
async def test_a_statement_as_pdf_by_format_or_by_accept(shop: Shop) -> None:
    await shop.sql("UPDATE merchant SET name = $2 WHERE merchant_id = $1", shop.ids["merchant.one"], "#panic() = $ * _ [x] " + EVIL)
    try:
        shown = show("settlement", await settled(shop, 20, tax=7))
        for query, headers in (("?format=pdf", {}), ("", {"Accept": "application/pdf"})):
            answer = await got(shop, f"/v1/settlements/{shown}/statement{query}", **headers)
            assert (answer.status_code, answer.headers["content-type"], answer.content[:5]) == (200, "application/pdf", b"%PDF-")
    finally:
        await shop.sql("UPDATE merchant SET name = 'Merchant one' WHERE merchant_id = $1", shop.ids["merchant.one"])
    text = "".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(answer.content)).pages)
    for words in ("Settlement statement", "#panic() = $ * _ [x] <script>", "standard: 0.60 %", "189.00", "-1.08", "177.85", shown):
        assert words in text, (words, text)


@needs_typst
async def test_a_statement_in_chinese_is_printed_where_a_font_has_it_and_refused_where_none_has(shop: Shop) -> None:
    typst, press = importlib.import_module("typst"), importlib.import_module("switch.settlement.exports.press")
    here = set(typst.Fonts(include_system_fonts=True, include_embedded_fonts=True).families()) & set(press.HAN_FAMILIES)
    shown = show("settlement", await settled(shop, 1))
    answer = await got(shop, f"/v1/settlements/{shown}/statement?format=pdf&language=zh")
    if here:
        assert "结算单" in "".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(answer.content)).pages)
    else:
        assert (answer.status_code, answer.json()["code"]) == (501, "no_pdf") and "`fonts`" in answer.json()["detail"]
    page = await got(shop, f"/v1/settlements/{shown}/statement?format=html&language=zh")
    assert page.status_code == 200 and "结算单" in page.text, "as a page it is always there"


TYPST = """
import json, sys
class Fonts:
    def __init__(self, include_system_fonts, include_embedded_fonts, font_paths): self.paths = font_paths
    def families(self): return ["Libertinus Serif", *([{family!r}] if {family!r} else [])]
def compile(template, root, font_paths, format, ppi, sys_inputs):
    return json.dumps([font_paths, sys_inputs["han"]]).encode()
"""


@pytest.mark.parametrize(("words", "family", "printed"), [
    ("Shop №1, Zürich, Łódź, Ελλάδα, Москва: 12 €", "", True), ("结算单", "", False), ("结算单", "Noto Sans CJK SC", True), ("ร้าน", "Noto Sans CJK SC", False), ("☃", "", False),
])
@pytest.mark.parametrize("escaped", [True, False])
def test_nothing_is_printed_with_gaps(tmp_path: Path, words: str, family: str, printed: bool, escaped: bool) -> None:
    (tmp_path / "typst.py").write_text(TYPST.format(family=family))
    done = subprocess.run([sys.executable, str(paper.PRESS), "pdf", "statement.typ", "the/fonts"], input=json.dumps({"title": words}, ensure_ascii=escaped).encode(),
                          env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, check=False)
    assert done.returncode == (0 if printed else paper.NO_FONT), done.stderr
    assert not printed or json.loads(done.stdout) == [["the/fonts"], family]


async def test_without_typst_a_pdf_is_refused_with_a_reason(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "can_print", lambda: False)
    shown = show("settlement", await settled(shop, 1))
    answer = await got(shop, f"/v1/settlements/{shown}/statement?format=pdf")
    assert (answer.status_code, answer.json()["code"]) == (501, "no_pdf") and "reports" in answer.json()["detail"]
    assert json.loads((await got(shop, "/problems/no_pdf")).text)["status"] == 501


# From the till to the accountant


async def captured(shop: Shop, sale: str) -> None:
    async def reached() -> Any:
        return await shop.sql("SELECT FROM transaction WHERE original_id = $1 AND type = 'capture' AND state = 'APPROVED'", read("transaction", sale))

    await eventually(reached, f"{sale} is not captured")


async def test_a_sale_and_a_refund_name_the_batch_that_took_them_and_what_no_batch_took_names_none(shop: Shop) -> None:
    """What settles by its own row is in a batch by its own row."""
    identity, merchant, batch = await settled(shop, 10), shop.ids["merchant.one"], new_id()
    lines = await shop.sql("SELECT transaction_id, type, gross FROM settlement_line WHERE settlement_id = $1 ORDER BY type, transaction_id", identity)
    taken = [lines[0], lines[-1]]
    assert [each["type"] for each in taken] == ["purchase", "refund"]
    await shop.sql("INSERT INTO terminal_batch (merchant_id, batch_id, terminal_id, number, in_balance, totals, differences) VALUES ($1, $2, $3, 4711, true, '[]', '[]')", merchant, batch,
                   shop.ids["terminal.till"])
    for each in taken:
        await shop.sql("INSERT INTO batch_entry (merchant_id, transaction_id, batch_id, amount) VALUES ($1, $2, $3, $4)", merchant, each["transaction_id"], batch, each["gross"])
    rows = parsed((await got(shop, f"/v1/settlements/{show('settlement', identity)}/export")).text)
    assert {row["transaction"]: row["batch"] for row in rows if row["batch"]} == {show("transaction", each["transaction_id"]): "4711" for each in taken}


async def test_an_accountant_sees_which_batch_took_a_sale_and_what_was_charged_back_that_day(shop: Shop) -> None:
    acquirer, till = shop.shown("acquirer.dual"), shop.shown("terminal.dual")
    await shop.sql("INSERT INTO dispute_fee (acquirer_id, kind, currency, fee, cost) VALUES ($1, 'chargeback', 'CNY', 1500, 900)", shop.ids["acquirer.dual"])
    sold = [(await shop.pay(amount, key="dual")).body["id"] for amount in (30_000, 20_000)]
    counted = {"currency": "CNY", "sales_count": 2, "sales": 50_000, "refunds_count": 0, "refunds": 0}
    for each in sold:  # what a dual-message sale owes by itself settles, and is counted with the sale
        await captured(shop, each)
    closed = await shop.ask("POST", f"/v1/terminals/{till}/batches", {"totals": [counted]}, "dual", Idempotency_Key=new_key())
    later = (await shop.pay(10_000, key="dual")).body["id"]
    await captured(shop, later)
    day = (await shop.row(later))["business_date"]
    notice = {"acquirer": acquirer, "kind": "chargeback", "reference": "CB-1", "transaction": sold[0], "amount": 12_000, "currency": "CNY", "reason_code": "4853",
              "noticed_on": day.isoformat()}
    opened = await shop.ask("POST", "/v1/disputes", notice, "operator", Idempotency_Key=new_key())
    assert opened.status == 201, opened.raw
    assert (await shop.ask("POST", f"/v1/acquirers/{acquirer}/cutovers", {"business_date": day.isoformat()}, "operator")).status == 202

    async def stated() -> Any:
        return await shop.sql("SELECT settlement_id, net FROM settlement WHERE business_date = $1 AND merchant_id = $2 AND state = 'stated'", day, shop.ids["merchant.two"])

    ((identity, net),) = [tuple(row.values()) for row in await eventually(stated, "the day is not settled", 30)]
    path = f"/v1/settlements/{show('settlement', identity)}"
    rows = parsed((await got(shop, f"{path}/export", "merchant.two")).text)
    of = {row["original"]: row for row in rows if row["kind"] == "sale"}
    assert [of[each]["batch"] for each in (*sold, later)] == [str(closed.body["number"])] * 2 + [""]
    assert sum(int(row["net"]) for row in rows if row["kind"] != "chargeback") == net
    (taken,) = [row for row in rows if row["kind"] == "chargeback"]
    assert {name: taken[name] for name in ("transaction", "reference", "chargebacks", "gross_decimal", "fee", "net", "terminal")} == {
        "transaction": sold[0], "reference": "CB-1", "chargebacks": "-12000", "gross_decimal": "-120.00", "fee": "1500", "net": "-13500", "terminal": till}
    page = (await got(shop, f"{path}/statement", "merchant.two")).text
    assert "Chargebacks, corrections and charges by contract of that day" in page and "-120.00" in page and "15.00" in page
