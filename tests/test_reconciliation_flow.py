"""Reconciliation over HTTP, with the files that the stub writes from its own book: what is planted is found, no more and no less."""

import gzip
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from switch import database
from switch.ids import show
from switch.merchants.onboarding import Onboarding
from switch.settlement import ledger
from switch.settlement.ledger import Account
from tests.conftest import create_database
from tests.flows import Shop, eventually, open_shop
from tests.processes import Answer, ask, environment

WHO = "12345678"
SALES, BASIS_POINTS = 40, 60


@pytest_asyncio.fixture
async def shop(cluster_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    async with open_shop(await create_database(cluster_url), tmp_path) as opened:
        pool = await database.pool(opened.url, "switch_writer", 1)
        opened.keys["second"] = (await Onboarding(pool).key("operator", person="Second Person")).text
        await pool.close()
        await opened.sql("UPDATE acquirer SET institution_code = '87654321' WHERE name = 'dual'")
        await opened.caught_up()
        yield opened


async def sell(shop: Shop, count: int = SALES) -> date:
    """Sales and two refunds; their business date."""
    sold = [(await shop.pay(10_000 + 100 * number)).body["id"] for number in range(count)]
    for number, each in enumerate(sold[:2]):
        answer = await shop.ask("POST", "/v1/refunds", {"authorization": each, "amount": 500}, "till", Idempotency_Key=f"refund-of-the-flow-{number}")
        assert answer.status == 201, answer.raw
    voided = await shop.ask("POST", f"/v1/authorizations/{sold[2]}/voids", {}, "till", Idempotency_Key="void-of-the-flow-0001")
    assert voided.status == 201, voided.raw
    return (await shop.row(sold[0]))["business_date"]  # type: ignore[no-any-return]


def stub_file(shop: Shop, day: date, *options: object, verb: str = "file", name: str = "clearing", host: str = "single", who: str = WHO) -> tuple[bytes, Any]:
    folder = shop.settings.home
    out = folder / f"{name}.out"
    command = [sys.executable, "-m", "acquirer_stubs.clearing", verb, "--book", folder / host / "book.jsonl", "--institution", who, "--date", day,
               "--basis-points", BASIS_POINTS, "--out", out, *options]
    done = subprocess.run([str(each) for each in command], env=environment(folder), capture_output=True, text=True, check=True)
    return out.read_bytes(), json.loads(done.stdout)


async def bring(shop: Shop, data: bytes, key: str = "operator", document: str = "clearing", **query: str) -> Answer:
    asked = {"document": document, **({"acquirer": shop.shown("acquirer.single")} if document == "clearing" else {}), **query}
    path = "/v1/clearing-files?" + "&".join(f"{name}={value}" for name, value in asked.items())
    return await ask(shop.base, "POST", path, shop.keys[key], data)


async def done(shop: Shop) -> None:
    """Waits until no run is due."""
    async def none_due() -> bool:
        return not await shop.sql("SELECT FROM reconciliation_run WHERE state <> 'done'")

    await eventually(none_due, "a run stays due", 20)


async def exceptions(shop: Shop, state: str = "open") -> list[Any]:
    answer = await shop.ask("GET", f"/v1/exceptions?state={state}&limit=200", key="operator")
    assert answer.status == 200, answer.raw
    return list(answer.body["items"])


def by_kind(found: list[Any]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for each in found:
        kinds.setdefault(each["kind"], []).append(each["rrn"])
    return {kind: sorted(rrns) for kind, rrns in kinds.items()}


async def balances(shop: Shop) -> dict[Account, int]:
    connection = await database.connect(shop.url, "switch_reader")
    try:
        return {account: amount for account, amount in (await ledger.balances(connection)).items() if amount}
    finally:
        await connection.close()


async def price(shop: Shop, day: date) -> None:
    """Prices the day's costs as a cut-over does: without them no fee can be held against anything."""
    acquirer = shop.ids["acquirer.single"]
    await shop.sql("INSERT INTO cutover (acquirer_id, business_date, next_date) VALUES ($1, $2, $3)", acquirer, day, day + timedelta(1))
    await shop.sql("""INSERT INTO settlement (merchant_id, settlement_id, acquirer_id, business_date, currency, costs, net, due_on)
        VALUES ($1, $1, $2, $3, 'CNY', 1, 0, $3)""", shop.ids["merchant.one"], acquirer, day)
    await shop.sql("""INSERT INTO settlement_line (merchant_id, settlement_id, business_date, transaction_id, acquirer_id, kind, type, for_date, gross, fee,
        acquirer_fee, currency, rule, store_id, terminal_id, brand, card_type, entry_mode, mcc, card_last4, rrn, stan, captured_at)
        SELECT t.merchant_id, $2, t.business_date, t.transaction_id, t.acquirer_id, m.kind, t.type, t.business_date,
          CASE m.kind WHEN 'sale' THEN m.amount ELSE -m.amount END, 0, round(m.amount * 60 / 10000.0), 'CNY', 'r', t.store_id, t.terminal_id, t.brand, 'debit',
          t.entry_mode, t.mcc, t.card_last4, t.rrn, t.stan, now()
        FROM reconciliation_movement m JOIN transaction t USING (merchant_id, transaction_id) WHERE t.acquirer_id = $1""", acquirer, shop.ids["merchant.one"])


@pytest.mark.parametrize("form", ["csv", "fixed"])
async def test_planted_differences_are_found_no_more_and_no_less(shop: Shop, form: str) -> None:
    day = await sell(shop)
    await price(shop, day)
    data, said = stub_file(shop, day, "--format", form, *["--missing", "2", "--extra", "2", "--amount", "2", "--fee", "2", "--duplicate", "1", "--seed", "3"])
    answer = await bring(shop, data, name="planted")
    assert answer.status == 201, answer.raw
    assert (answer.body["lines"], answer.body["business_date"], answer.body["received_by"]) == (said["lines"], day.isoformat(), "Flow Tester")
    await done(shop)
    planted = said["planted"]
    assert by_kind(await exceptions(shop)) == {"missing_there": sorted(planted["missing"]), "missing_here": sorted(planted["extra"]), "amount": sorted(planted["amount"]),
                                               "fee": sorted(planted["fee"]), "duplicate": planted["duplicate"]}
    (run,) = (await shop.ask("GET", "/v1/reconciliations", key="operator")).body["items"]
    assert (run["state"], run["complete"], run["movements"], run["lines"]) == ("done", True, SALES + 1, said["lines"])
    assert run["matched"] == {"exact": SALES + 1 - 4, "amount": 2}


async def test_captures_of_a_two_message_acquirer_and_what_was_reversed_agree(shop: Shop) -> None:
    sold = (await shop.pay(20_000, key="dual")).body["id"]
    held = (await shop.pay(30_000, key="dual", type="preauthorization")).body["id"]
    dropped = (await shop.pay(40_000, key="dual")).body["id"]

    async def acknowledged() -> bool:
        return not await shop.sql("SELECT FROM duty WHERE state = 'open'")

    for number, (path, body) in enumerate(((f"{held}/captures", {"amount": 12_000}), (f"{held}/captures", {"amount": 5_000}), (f"{dropped}/voids", {}))):
        await eventually(acknowledged, "a duty stays open", 20)
        answer = await shop.ask("POST", f"/v1/authorizations/{path}", body, "dual", Idempotency_Key=f"step-of-the-flow-{number}")
        assert answer.status == 201, answer.raw
    lost = (await shop.ask("POST", "/v1/refunds", {"authorization": sold, "amount": 700}, "dual", Idempotency_Key="refund-of-two-messages"))
    assert lost.status == 201, lost.raw
    day = (await shop.row(sold))["business_date"]
    await eventually(acknowledged, "a duty stays open", 20)
    data, said = stub_file(shop, day, host="dual", who="87654321")
    answer = await bring(shop, data, acquirer=shop.shown("acquirer.dual"))
    assert answer.status == 201, answer.raw
    await done(shop)
    (run,) = (await shop.ask("GET", "/v1/reconciliations", key="operator")).body["items"]
    assert await exceptions(shop) == [] and run["matched"] == {"exact": said["lines"]} and said["lines"] == 4, run


async def test_the_same_file_twice_changes_nothing_and_a_run_repeats_its_result(shop: Shop) -> None:
    day = await sell(shop, 6)
    data, _ = stub_file(shop, day, "--missing", 1, "--extra", 1)
    first = await bring(shop, data)
    await done(shop)
    before = await exceptions(shop), await shop.sql("SELECT count(*) FROM reconciliation_run"), await shop.sql("SELECT count(*) FROM clearing_line")
    for again in (data, gzip.compress(data)):
        answer = await bring(shop, again)
        assert (answer.status, answer.body) == (200, first.body)
    await done(shop)
    assert before == (await exceptions(shop), await shop.sql("SELECT count(*) FROM reconciliation_run"), await shop.sql("SELECT count(*) FROM clearing_line"))
    asked = {"acquirer": shop.shown("acquirer.single"), "business_date": day.isoformat()}
    answer = await shop.ask("POST", "/v1/reconciliations", asked, "operator")
    assert (answer.status, answer.body["state"]) == (202, "due")
    await done(shop)
    newest, oldest = (await shop.ask("GET", "/v1/reconciliations", key="operator")).body["items"]
    assert newest["digest"] == oldest["digest"] and newest["id"] != oldest["id"]
    assert before[0] == await exceptions(shop)


async def test_a_refused_file_leaves_nothing(shop: Shop) -> None:
    day = await sell(shop, 3)
    data, _ = stub_file(shop, day)
    answer = await bring(shop, data.replace(b"T,", b"T,9", 1))
    assert (answer.status, answer.body["code"]) == (422, "file_refused")
    assert answer.body["errors"] == [{"field": "line 6", "rule": "the trailer's count is not that of the lines", "type": "rule"}]
    answer = await bring(shop, data, acquirer=shop.shown("acquirer.dual"))
    assert answer.body["errors"][0]["rule"] == "the file is of another acquirer"
    assert (await bring(shop, b"")).status == 422
    assert (await bring(shop, data, key="merchant.one")).status == 403
    assert (await bring(shop, data, key="till")).status == 403
    assert (await bring(shop, data, acquirer="acq_00000000-0000-7000-8000-000000000000")).status == 404
    assert await shop.sql("SELECT FROM clearing_line") == [] and await shop.sql("SELECT FROM transfer") == []


async def test_another_file_under_the_same_number_is_refused(shop: Shop) -> None:
    day = await sell(shop, 3)
    assert (await bring(shop, stub_file(shop, day)[0])).status == 201
    answer = await bring(shop, stub_file(shop, day, "--missing", 1)[0])
    assert (answer.status, answer.body["code"]) == (409, "conflict")
    assert len(await shop.sql("SELECT FROM clearing_file")) == 1


async def test_a_late_file_changes_the_day_it_speaks_of_and_takes_back_what_was_posted(shop: Shop) -> None:
    day = await sell(shop, 5)
    whole, _ = stub_file(shop, day)
    head, *lines, _ = whole.decode().splitlines(keepends=True)
    late = lines.pop(2)
    cents = int(late.split(",")[8].replace(".", ""))
    rest = [f"D,{number},{line.split(',', 2)[2]}" for number, line in enumerate(lines, 1)]

    def totals(of: list[str]) -> str:
        cells = [line.split(",") for line in of]
        return f"T,{len(of)},{sum(int(c[8].replace('.', '')) * (1 if c[7] == 'S' else -1) for c in cells)},{sum(int(c[10].replace('.', '')) for c in cells)}\n"

    assert (await bring(shop, "".join([head, *rest, totals(rest)]).encode())).status == 201
    await done(shop)
    (missing,) = await exceptions(shop)
    assert (missing["kind"], missing["difference"], missing["expected"], missing["found"]) == ("missing_there", -cents, cents, 0)
    answer = await shop.ask("POST", f"/v1/exceptions/{missing['id']}/resolve", {"resolution": "suspense", "reason": "The acquirer looks for it"}, "operator")
    assert (answer.status, answer.body["state"]) == (200, "resolved"), answer.raw
    acquirer = Account("acquirer", "CNY", acquirer_id=shop.ids["acquirer.single"])
    assert await balances(shop) == {Account("suspense", "CNY"): -cents, acquirer: cents}

    next_day = f"D,1,{late.split(',', 2)[2]}"
    second = f"H,CLEARING,1,{WHO},{day + timedelta(1)},1\n{next_day}{totals([next_day])}"
    assert (await bring(shop, second.encode())).status == 201
    await done(shop)
    assert await exceptions(shop) == []
    (gone,) = await exceptions(shop, "withdrawn")
    assert gone["id"] == missing["id"]
    assert await balances(shop) == {}
    shown = (await shop.ask("GET", f"/v1/exceptions/{missing['id']}", key="operator")).body
    assert [(each["what"], each["by"]) for each in shown["comments"]] == [("resolved", "Flow Tester"), ("withdrawn", "reconciliation")]


async def test_a_line_with_the_next_date_is_one_exception_of_the_day_of_its_sale(shop: Shop) -> None:
    day = await sell(shop, 5)
    data, _ = stub_file(shop, day)
    lines = data.decode().split("\n")
    rrn = lines[1].split(",")[2]
    lines[1] = lines[1].replace(day.isoformat(), (day + timedelta(1)).isoformat())
    assert (await bring(shop, "\n".join(lines).encode())).status == 201
    await done(shop)
    assert by_kind(await exceptions(shop)) == {"date": [rrn]}
    raised = await shop.sql("SELECT object FROM alert WHERE kind = 'reconciliation_exceptions'")
    assert [each["object"] for each in raised] == [f"{shop.shown('acquirer.single')} {day}"]
    (found,) = await exceptions(shop)
    assert (found["business_date"], found["difference"], found["rule"]) == (day.isoformat(), 0, "day_after")
    shown = (await shop.ask("GET", f"/v1/exceptions/{found['id']}", key="operator")).body
    assert shown["explanation"] == ["cleared with the date of the day after", f"business_date: the file has {day + timedelta(1)}, we have {day}"]
    answer = await shop.ask("POST", f"/v1/exceptions/{found['id']}/resolve", {"resolution": "write_off", "reason": "A reason long enough"}, "operator")
    assert (answer.status, answer.body["detail"]) == (409, "There is no difference to move; accept it.")
    answer = await shop.ask("POST", f"/v1/exceptions/{found['id']}/resolve", {"resolution": "accept", "reason": "They cut over earlier"}, "operator")
    assert (answer.status, answer.body["state"], answer.body["resolved_by"]) == (200, "resolved", "Flow Tester")


async def test_people_own_discuss_and_resolve_and_what_is_large_takes_two(shop: Shop) -> None:
    big = (await shop.pay(60_000)).body["id"]
    day = (await shop.row(big))["business_date"]
    await bring(shop, stub_file(shop, day, "--missing", 1)[0])
    await done(shop)
    (found,) = await exceptions(shop)
    path = f"/v1/exceptions/{found['id']}"
    assert (await shop.ask("POST", f"{path}/assign", {"owner": "Li Wei"}, "operator")).body["owner"] == "Li Wei"
    others = await shop.ask("POST", f"{path}/assign", {"owner": "Second Person"}, "second")
    assert (others.status, others.body["code"]) == (409, "taken") and others.body["detail"].startswith("Li Wei has had it since 2")
    over = {"owner": "Second Person", "take_over": "Li Wei is ill"}
    assert (await shop.ask("POST", f"{path}/assign", over, "second")).body["owner"] == "Second Person"
    assert (await shop.ask("POST", f"{path}/assign", {"owner": "Li Wei"}, "second")).body["owner"] == "Li Wei"
    said = [(each["by"], each["text"]) for each in (await shop.ask("GET", path, key="operator")).body["comments"]][1:]
    assert said == [("Second Person", "to Second Person, from Li Wei: Li Wei is ill"), ("Second Person", "to Li Wei, from Second Person")]
    assert (await shop.ask("POST", f"{path}/comments", {"text": "Asked the acquirer"}, "second")).status == 201
    assert (await shop.ask("POST", f"{path}/comments", {"text": "4111 1111 1111 1111"}, "second")).status == 422
    assert (await shop.ask("GET", "/v1/exceptions?owner=Li%20Wei", key="operator")).body["items"][0]["id"] == found["id"]
    assert (await shop.ask("POST", f"{path}/resolve", {"resolution": "claim", "reason": "Claimed with its ticket 4711"}, "operator")).body["state"] == "claimed"
    asked = await shop.ask("POST", f"{path}/resolve", {"resolution": "write_off", "reason": "The acquirer is gone"}, "operator")
    assert (asked.status, asked.body["state"], asked.body["kind"]) == (202, "waiting", "resolve_exception")
    assert await balances(shop) == {}
    assert (await shop.ask("POST", f"/v1/approvals/{asked.body['id']}", {}, "operator")).body["code"] == "same_person"
    assert (await shop.ask("POST", f"/v1/approvals/{asked.body['id']}", {}, "second")).body["state"] == "approved"
    shown = (await shop.ask("GET", path, key="operator")).body
    assert (shown["state"], shown["resolved_by"], shown["approved_by"], shown["difference"]) == ("resolved", "Flow Tester", "Second Person", -60_000)
    assert [each["what"] for each in shown["comments"]] == ["assigned"] * 3 + ["comment", "claimed", "resolved"]
    assert await balances(shop) == {Account("loss", "CNY"): -60_000, Account("acquirer", "CNY", acquirer_id=shop.ids["acquirer.single"]): 60_000}
    assert (await shop.ask("POST", f"{path}/resolve", {"resolution": "suspense", "reason": "Once more, please"}, "operator")).status == 409
    for method, route in (("GET", path), ("GET", "/v1/exceptions"), ("POST", f"{path}/assign"), ("GET", "/v1/reconciliations"), ("GET", "/v1/clearing-files")):
        assert (await shop.ask(method, route, {} if method == "POST" else None, "merchant.one")).status == 403


async def test_the_bank_is_the_third_way(shop: Shop) -> None:
    day = await sell(shop, 4)
    await bring(shop, stub_file(shop, day)[0])
    data, said = stub_file(shop, day, "--short", 300, "--strange", 1, "--booked", day + timedelta(1), verb="statement")
    answer = await bring(shop, data, document="statement")
    assert (answer.status, answer.body["acquirer"]) == (201, None), answer.raw
    assert (await bring(shop, data, document="statement")).status == 200
    await done(shop)
    due = said["sums"]["156"]
    found = {each["kind"]: each for each in await exceptions(shop)}
    assert {kind: (each["expected"], each["found"], each["difference"]) for kind, each in found.items()} == {
        "funding": (due, due - 300, -300), "unknown_entry": (0, 100, 100)}
    acquirer = Account("acquirer", "CNY", acquirer_id=shop.ids["acquirer.single"])
    assert await balances(shop) == {Account("bank", "CNY"): -(due - 300), acquirer: due - 300}
    totals = (await shop.ask("GET", f"/v1/reconciliations/totals?acquirer={shop.shown('acquirer.single')}&business_date={day}", key="operator")).body
    (cny,) = totals["items"]
    assert (cny["booked"], cny["cleared"], cny["to_be_paid"], cny["received"]) == (cny["cleared"], due + cny["fees"], due, due - 300)
    for kind in ("funding", "unknown_entry"):
        answer = await shop.ask("POST", f"/v1/exceptions/{found[kind]['id']}/resolve", {"resolution": "suspense", "reason": "To be looked at"}, "operator")
        assert answer.status == 200, answer.raw
    assert await balances(shop) == {Account("bank", "CNY"): -(due - 200), acquirer: due, Account("suspense", "CNY"): 100 - 300}
    again, _ = stub_file(shop, day, "--short", 299, "--number", 2, verb="statement", name="other")
    again = again.replace(b"0020001", b"0010001")
    answer = await bring(shop, again.replace(day.isoformat().replace("-", "").encode(), (day + timedelta(1)).isoformat().replace("-", "").encode()), document="statement")
    assert (answer.status, answer.body["errors"][0]["rule"]) == (422, "an entry with this bank reference is there already")


async def test_a_file_is_read_as_it_comes_whatever_its_size(shop: Shop) -> None:
    lines = [f"D,{number},{number:012d},{number:06d},T0000001,M00000000000001,A{number:05d},S,10.00,CNY,0.06,2026-11-25,R{number}\n" for number in range(1, 30_001)]
    data = (f"H,CLEARING,1,{WHO},2026-11-25,1\n" + "".join(lines) + "T,30000,30000000,180000\n").encode()
    assert len(data) > 2_000_000
    answer = await bring(shop, data)
    assert (answer.status, answer.body["lines"], answer.body["size"]) == (201, 30_000, len(data)), answer.raw
    assert show("clearing_file", (await shop.sql("SELECT file_id FROM clearing_file"))[0]["file_id"]) == answer.body["id"]
    other = await ask(shop.base, "POST", "/v1/reconciliations", shop.keys["operator"], bytes(100_000))
    assert other.status == 413
