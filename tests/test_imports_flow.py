"""Imports over HTTP: checked whole, written in pieces, once however often, and carried on by another worker."""

import asyncio
import csv
import gzip
import io
import json
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from switch.cli import main
from switch.ids import read as read_id
from switch.merchants.bulk import imports
from tests.flows import Shop, eventually, open_shop

HEAD = "merchant,merchant_name,mcc,store,store_name,terminal,terminal_name,acquirer,card_acceptor_terminal,card_acceptor"


@pytest_asyncio.fixture(scope="module")
async def shop(tmp_path_factory: Any, database_url: str) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("imports")) as opened:
        yield opened


def sheet(prefix: str, count: int, *more: str) -> str:
    rows = (f"{prefix}{n // 5},Merchant {prefix}{n // 5},5812,1,Store,{n % 5},Till {n % 5},single,{prefix}{n:05d},{prefix}SHOP" for n in range(count))
    return "\r\n".join((HEAD, *rows, *more)) + "\r\n"


async def bring(shop: Shop, text: str | bytes, **asked: str) -> Any:
    """The import when it has ended, or its refusal."""
    path = "/v1/imports?" + "&".join(f"{name}={value}" for name, value in asked.items())
    answer = await shop.ask("POST", path, text.encode() if isinstance(text, str) else text, "operator")
    if answer.status != 202:
        return answer

    async def ended() -> Any:
        found = (await shop.ask("GET", f"/v1/imports/{answer.body['id']}", key="operator")).body
        return found if found["ended_at"] else None

    return await eventually(ended, "the import does not end", 30)


async def faults(shop: Shop, found: Any) -> list[tuple[int, str]]:
    answer = await shop.ask("GET", f"/v1/imports/{found['id']}/faults", key="operator")
    return [(each["line"], each["column"]) for each in answer.body["items"]]


async def count(shop: Shop) -> tuple[int, ...]:
    async with shop.switch.writers.acquire() as connection:
        return tuple([await connection.fetchval(f"SELECT count(*) FROM {table}") for table in ("merchant", "store", "terminal", "acquirer_terminal")])


def exported(shop: Shop) -> bytes:
    asked = urllib.request.Request(f"{shop.base}/v1/directory/export", headers={"Authorization": f"Bearer {shop.keys['operator']}"})
    with urllib.request.urlopen(asked, timeout=30) as response:
        return bytes(response.read())


async def test_a_dry_run_writes_nothing_and_the_file_twice_changes_nothing(shop: Shop) -> None:
    text, before = sheet("A", 600), await count(shop)
    checked = await bring(shop, text, dry_run="true")
    assert (checked["state"], checked["faults"], checked["made"]) == ("checked", 0, {})
    assert await count(shop) == before
    done = await bring(shop, gzip.compress(text.encode()), name="north.csv")
    assert (done["state"], done["lines"], done["written_to"]) == ("done", 601, 601)
    assert done["made"] == {"merchant": 120, "store": 120, "terminal": 600, "number": 600}
    after = await count(shop)
    assert [one - other for one, other in zip(after, before, strict=True)] == [120, 120, 600, 600]
    again = await bring(shop, text)
    assert (again["state"], again["made"]) == ("done", {"merchant": 0, "store": 0, "terminal": 0, "number": 0})
    assert await count(shop) == after


async def test_what_was_imported_is_served_and_exported_as_it_came(shop: Shop) -> None:
    await bring(shop, sheet("B", 5))
    async with shop.switch.writers.acquire() as connection:
        terminal = await connection.fetchval("SELECT subject_id FROM external_reference WHERE kind = 'terminal' AND reference = 'B0/3'")

    async def served() -> Any:
        return shop.switch.directory.terminals.get(terminal)

    found = await eventually(served, "the directory does not know the terminal")
    assert found.numbers[shop.ids["acquirer.single"]] == ("B00003  ", "BSHOP          ")
    raw = await asyncio.to_thread(exported, shop)
    rows = [row for row in csv.DictReader(io.StringIO(raw.decode())) if row["merchant"] == "B0"]
    assert [(row["terminal"], row["card_acceptor_terminal"], row["card_acceptor"]) for row in rows] == [(str(n), f"B{n:05d}", "BSHOP") for n in range(5)]
    before = await count(shop)
    assert (await bring(shop, raw))["state"] == "done", "an export is an import that changes nothing"
    assert await count(shop) == before


async def test_one_bad_row_in_a_hundred_refuses_the_file_unless_it_is_to_be_skipped(shop: Shop) -> None:
    text, before = sheet("C", 99, "C0,Merchant C0,58x2,1,Store,9,Till,single,C99999,CSHOP"), await count(shop)
    refused = await bring(shop, text)
    assert (refused["state"], refused["faults"], await faults(shop, refused)) == ("refused", 1, [(101, "mcc")])
    assert await count(shop) == before, "nothing half done"
    skipped = await bring(shop, text, skip_bad="true")
    assert (skipped["state"], skipped["faults"], skipped["made"]["terminal"]) == ("done", 1, 99)


async def test_what_contradicts_the_books_is_a_fault_and_nothing_is_overwritten(shop: Shop) -> None:
    await bring(shop, sheet("D", 2))
    taken, unknown = (f"E{n},Other,5812,1,Store,1,Till,{acquirer},{number},DSHOP" for n, (acquirer, number) in
                      enumerate((("single", "D00001"), ("nobody", "D00008"))))
    found = await bring(shop, "\n".join((HEAD, taken, unknown, "D0,Merchant D0,5812,1,Store,1,Till 1,single,D00007,DSHOP", "")))
    assert found["state"] == "refused"
    assert await faults(shop, found) == [(2, "card_acceptor_terminal"), (3, "acquirer"), (4, "acquirer")]
    renamed = await bring(shop, f"{HEAD}\nD0,Other,5812,1,Store,1,Till 1,single,D00001,DSHOP\n", skip_bad="true")
    assert (renamed["state"], renamed["made"]["merchant"], await faults(shop, renamed)) == ("done", 0, [(2, "merchant")])
    assert renamed["faults"] == 1, "what the check has found is not counted again"


async def test_a_job_that_is_begun_anew_carries_on_behind_its_last_piece(shop: Shop) -> None:
    """The worker dies after the first piece: what it wrote is there once, and what it did not write comes."""
    written, calls = imports._write, 0

    async def dying(connection: Any, import_id: Any, piece: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise asyncpg.InterfaceError("gone")
        await written(connection, import_id, piece)

    imports._write = dying  # type: ignore[assignment]
    try:
        answer = await shop.ask("POST", "/v1/imports", sheet("F", 600).encode(), "operator")

        async def stuck() -> Any:
            return calls >= 2

        await eventually(stuck, "the second piece is not reached", 30)
    finally:
        imports._write = written
    found = (await shop.ask("GET", f"/v1/imports/{answer.body['id']}", key="operator")).body
    assert (found["state"], found["written_to"], found["made"]["terminal"]) == ("writing", 251, 250)
    async with shop.switch.writers.acquire() as connection:
        job = await connection.fetchval("SELECT job_id FROM job WHERE kind = 'import' AND key = $1", str(read_id("import", found["id"])))

    async def waiting() -> Any:
        shown = (await shop.ask("GET", f"/v1/jobs/job_{job}", key="operator")).body
        return shown if shown["state"] == "waiting" else None

    await eventually(waiting, "the failed attempt is not recorded", 30)
    assert (await shop.ask("POST", f"/v1/jobs/job_{job}/retry", {}, "operator")).status == 200

    async def ended() -> Any:
        shown = (await shop.ask("GET", f"/v1/imports/{found['id']}", key="operator")).body
        return shown if shown["state"] == "done" else None

    done = await eventually(ended, "the import does not end", 30)
    assert done["made"] == {"merchant": 120, "store": 120, "terminal": 600, "number": 600}


async def test_the_verbs_bring_a_file_tell_its_faults_and_give_it_back(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def verb(*arguments: str) -> tuple[int, list[str], str]:
        code = await asyncio.to_thread(main, [*arguments, "--url", shop.base, "--key", shop.keys["operator"]])
        told = capsys.readouterr()
        return code, told.out.splitlines(), told.err

    file, back = tmp_path / "north.csv", tmp_path / "back.csv"
    file.write_text(sheet("G", 300, "G0,Merchant G0,58x2,1,Store,9,Till,single,G99999,GSHOP"), newline="")
    before = await count(shop)
    for asked, code, state in (((), 1, "refused"), (("--dry-run",), 1, "checked")):
        found, lines, _ = await verb("import", "merchants", str(file), *asked)
        assert (found, json.loads(lines[-1])["state"], lines[-2]) == (code, state, "line 302, mcc: four digits (ISO 18245)")
        assert await count(shop) == before
    found, lines, _ = await verb("import", "merchants", str(file), "--skip-bad")
    assert (found, json.loads(lines[-1])["name"], json.loads(lines[-1])["made"]["terminal"]) == (1, "north.csv", 300), "1: not all of it is in"
    assert (await verb("export", "merchants", str(back)))[:2] == (0, [json.dumps({"file": str(back)})])
    assert back.stat().st_mode & 0o777 == 0o600 and "G59/4" not in back.read_text() and "G59,Merchant G59" in back.read_text()
    found, lines, _ = await verb("import", "merchants", str(back))
    assert (found, set(json.loads(lines[-1])["made"].values())) == (0, {0}), "an export is an import that changes nothing"
    file.write_bytes(b"\xff\xfe")
    for wrong, told in ((file, "Line 1"), (tmp_path / "none.csv", "cannot be read")):
        code, lines, err = await verb("import", "merchants", str(wrong))
        assert code != 0 and told in err, err
    code, _, err = await verb("export", "merchants", str(tmp_path / "none" / "back.csv"))
    assert code != 0 and "cannot be written" in err


async def test_a_hostile_file_is_refused_at_once_and_only_operators_bring_files(shop: Shop) -> None:
    refused = await bring(shop, f"{HEAD}\nM1,\0\n")
    assert refused.status == 422 and refused.body["code"] == "file_refused" and refused.body["errors"][0]["field"] == "line 2"
    assert (await bring(shop, gzip.compress(b"x" * (200 << 20), 9))).status == 422
    for key, status in (("till", 403), ("merchant.one", 403), ("nobody", 401)):
        for method, path in (("POST", "/v1/imports"), ("GET", "/v1/imports"), ("GET", "/v1/directory/export")):
            assert (await shop.ask(method, path, b"x" if method == "POST" else None, key)).status == status
