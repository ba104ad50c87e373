"""Tariffs, costs and estimates over HTTP and on the command line: who may, what is refused and where, and what the figures are."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from switch import logs
from switch.api.edge import EdgeLimits
from switch.api.estimates import BODY_MAX, EXAMPLE, TRANSACTIONS_MAX
from switch.api.tariffs import COSTS_EXAMPLE, TARIFF_EXAMPLE
from switch.cli import main
from switch.settlement.fees.bills import bill
from switch.settlement.fees.charges import Sale
from switch.settlement.fees.terms import costs_from, tariff_from
from tests.flows import Shop, open_shop
from tests.processes import Answer

BACK = "2026-01-01"
TIERED: dict[str, Any] = {
    "name": "Month", "currency": "CNY", "refunds": {"returns": "proportional"}, "tax": {"name": "VAT", "basis_points": 600},
    "rules": [{"name": "All", "price": {"tiers": [{"up_to": 100_000, "basis_points": 60}, {"basis_points": "38.25"}], "minimum": 5}},
              {"name": "Visa", "match": {"brand": "visa"}, "price": {"basis_points": 10, "interchange_plus": "interchange"}}],
    "periodic": [{"name": "Rent", "per": "terminal", "amount": 5000}]}
COST_TERMS = {"name": "Bank", "currency": "CNY", "rules": [{"name": "All", "interchange": {"basis_points": 35}, "acquirer": {"fixed": 2}}]}
ESTIMATES = "/v1/fees/estimates"


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("estimates")) as opened:
        for merchant in ("one", "three"):
            await agreed(opened, tariffs_of(opened, merchant), TIERED)
        await agreed(opened, costs_of(opened), COST_TERMS)
        yield opened


def tariffs_of(shop: Shop, merchant: str) -> str:
    return f"/v1/merchants/{shop.shown(f'merchant.{merchant}')}/tariffs"


def costs_of(shop: Shop, acquirer: str = "single") -> str:
    return f"/v1/acquirers/{shop.shown(f'acquirer.{acquirer}')}/costs"


async def agreed(shop: Shop, path: str, terms: Any, since: str = BACK, **more: Any) -> Any:
    answer = await shop.ask("POST", path, {"effective_from": since, "terms": terms, **more}, "operator")
    assert answer.status == 201, answer.raw
    return answer.body


async def estimated(shop: Shop, *transactions: dict[str, Any], key: str = "merchant.one", **more: Any) -> Any:
    answer = await shop.ask("POST", ESTIMATES, {"transactions": list(transactions), **more}, key)
    assert answer.status == 200, answer.raw
    return answer.body


def one(amount: int = 10_000, **facts: Any) -> dict[str, Any]:
    return {"amount": amount, "currency": "CNY", "captured_at": "2026-03-01T04:00:00Z", **facts}


async def test_an_operator_agrees_and_reads_tariffs_and_costs(shop: Shop) -> None:
    path, answers = tariffs_of(shop, "two"), []
    for since in ("2031-01-01", "2031-03-01", "2031-02-01"):
        answers.append(await agreed(shop, path, TIERED, since))
    better = await agreed(shop, path, {**TIERED, "name": "Better"}, "2031-02-01", replaces=answers[2]["id"])
    assert better["version"] == 2 and better["created_by"] == "Flow Tester" and better["merchant"] == shop.shown("merchant.two")
    assert better["in_words"][0] == "Visa (sales: visa cards, in CNY): 0.10 % plus the interchange."
    page = (await shop.ask("GET", f"{path}?limit=3", key="operator")).body
    assert [each["id"] for each in page["items"]] == [answers[1]["id"], better["id"], answers[2]["id"]]
    rest = (await shop.ask("GET", f"{path}?after={page['next']}", key="operator")).body
    assert [each["id"] for each in rest["items"]] == [answers[0]["id"]] and rest["next"] is None
    costs = await agreed(shop, costs_of(shop, "dual"), COST_TERMS, "2031-01-01")
    assert (await shop.ask("GET", costs_of(shop, "dual"), key="operator")).body["items"] == [costs]


async def test_the_documented_examples_are_taken(shop: Shop) -> None:
    for path, example in ((tariffs_of(shop, "four"), TARIFF_EXAMPLE), (costs_of(shop, "dual"), COSTS_EXAMPLE)):
        answer = await shop.ask("POST", path, example, "operator")
        assert (answer.status, answer.body["terms"]) == (201, example["terms"])
    assert (await estimated(shop, *EXAMPLE["transactions"], month_to_date=EXAMPLE["month_to_date"], periodic=EXAMPLE["periodic"]))["totals"]  # type: ignore[misc]


BAD_TERMS = [
    ({}, "effective_from"), ({"effective_from": BACK}, "terms"), ({"effective_from": "2031-02-30", "terms": TIERED}, "effective_from"), ({"effective_from": 0, "terms": TIERED}, "effective_from"),
    ({"effective_from": "1999-12-31", "terms": TIERED}, "effective_from"), ({"effective_from": "20310101", "terms": TIERED}, "effective_from"), ({"effective_from": "2031-06-01", "terms": []}, "terms"),
    ({"effective_from": "2031-06-01", "terms": {}}, "terms/name"), ({"effective_from": "2031-06-01", "terms": {**TIERED, "rules": [1]}}, "terms/rules/0"),
    ({"effective_from": "2031-06-01", "terms": {**TIERED, "SECRET": 1}}, "terms"), ({"effective_from": "2031-06-01", "terms": TIERED, "SECRET": 1}, "(unknown field)"),
    ({"effective_from": "2031-06-01", "terms": {**TIERED, "rules": [{"name": "v", "match": {"brand": "secret"}, "price": {}}]}}, "terms/rules/0/match/brand"),
]


@pytest.mark.parametrize(("body", "field"), BAD_TERMS)
async def test_bad_terms_are_refused_with_their_place_and_not_repeated(shop: Shop, body: Any, field: str) -> None:
    answer = await shop.ask("POST", tariffs_of(shop, "one"), body, "operator")
    assert (answer.status, answer.body["code"]) == (422, "invalid")
    assert field in [each["field"] for each in answer.body["errors"]] and b"secret" not in answer.raw.lower()


async def test_the_same_date_twice_and_what_is_not_there_are_refused(shop: Shop) -> None:
    absent = "0192f0c4-7c1e-7aaa-8bbb-1234567890ab"
    body = {"effective_from": BACK, "terms": TIERED}
    assert [(answer.status, answer.body["code"]) for answer in (
        await shop.ask("POST", tariffs_of(shop, "one"), body, "operator"), await shop.ask("POST", tariffs_of(shop, "one"), body | {"replaces": f"tar_{absent}"}, "operator"),
        await shop.ask("POST", tariffs_of(shop, "one"), body | {"replaces": "x"}, "operator"), await shop.ask("POST", f"/v1/merchants/mer_{absent}/tariffs", body, "operator"),
        await shop.ask("GET", f"/v1/merchants/mer_{absent}/tariffs", key="operator"), await shop.ask("GET", f"/v1/acquirers/{shop.shown('merchant.one')}/costs", key="operator"))] == [
        (409, "already_exists"), (409, "conflict"), (404, "not_found"), (404, "not_found"), (404, "not_found"), (404, "not_found")]


async def test_a_merchant_reads_its_own_tariff_in_words_and_nobody_elses(shop: Shop) -> None:
    later = await agreed(shop, tariffs_of(shop, "three"), {**TIERED, "name": "Later"}, "2099-01-01")
    body = (await shop.ask("GET", "/v1/tariffs", key="merchant.three")).body
    assert body["in_force"]["terms"] == TIERED and "Rent: 50.00 CNY a month for each terminal." in body["in_force"]["in_words"]
    assert [each["id"] for each in body["later"]] == [later["id"]] and "created_by" not in str(body)
    assert abs((datetime.fromisoformat(body["on"]).date() - datetime.now(UTC).date()).days) <= 1
    on = (await shop.ask("GET", "/v1/tariffs?on=2099-01-01", key="merchant.three")).body
    assert (on["in_force"]["id"], on["later"]) == (later["id"], [])
    before = (await shop.ask("GET", "/v1/tariffs?on=2025-12-31", key="merchant.three")).body
    assert before["in_force"] is None and len(before["later"]) == 2
    for query in ("on=2026-02-30", "on=x"):
        assert (await shop.ask("GET", f"/v1/tariffs?{query}", key="merchant.three")).status == 422


async def test_who_may_not_is_told_so(shop: Shop) -> None:
    found = []
    for key in ("till", "merchant.one", "operator", "x"):
        statuses = [(await shop.ask(method, path, body, key)).status for method, path, body in (
            ("GET", "/v1/tariffs", None), ("POST", ESTIMATES, {"transactions": []}), ("GET", tariffs_of(shop, "one"), None), ("POST", costs_of(shop), {}))]
        found.append(statuses)
    assert found == [[403, 403, 403, 403], [200, 200, 403, 403], [403, 422, 200, 422], [401, 401, 401, 401]]


async def test_an_estimate_says_every_fee_and_how_it_came_about(shop: Shop) -> None:
    body = await estimated(shop, one(20_000, brand="jcb"), one(10_000, brand="visa"), one(100, brand="jcb"), month_to_date={"CNY": 90_000}, periodic={"terminals": 2, "stores": 1})
    first, second, third = body["transactions"]
    assert (first["rule"], first["fee"], first["net"]) == ("Month: All", 98, 19_902)
    assert [(line["words"], line["amount"]) for line in first["lines"]] == [("0.60 % of 100.00 CNY", 60), ("0.3825 % of 100.00 CNY", 38)]
    assert (second["fee"], [line["words"] for line in second["lines"]]) == (45, ["0.10 % of 100.00 CNY", "interchange, passed on as it is"])
    assert (third["fee"], third["lines"][-1]["words"]) == (5, "raised to the minimum of 0.05 CNY")
    assert "costs" not in first or first["costs"] is None
    (total,) = body["totals"]
    assert (total["fees"], total["periodic"], total["taxes"][0]["amount"], total["net"]) == (148, 10_000, 609, 30_100 - 148 - 10_000 - 609)
    assert sum(line["amount"] for line in body["fee_lines"]) == total["fees"] + total["periodic"]
    assert body["month_to_date"] == {"CNY": 120_100}


async def test_an_operator_sees_costs_and_margin_too(shop: Shop) -> None:
    body = await estimated(shop, one(10_000, brand="visa"), key="operator", merchant=shop.shown("merchant.one"))
    assert body["transactions"][0]["costs"] == {"interchange": 35, "scheme_fee": 0, "acquirer_fee": 2, "margin": 8, "rule": "Bank: All"}
    for merchant, status in (("mer_x", 404), ("mer_0192f0c4-7c1e-7aaa-8bbb-1234567890ab", 404)):
        assert (await shop.ask("POST", ESTIMATES, {"transactions": [], "merchant": merchant}, "operator")).status == status
    assert (await shop.ask("POST", ESTIMATES, {"transactions": [], "merchant": shop.shown("merchant.two")}, "merchant.one")).status == 404


async def test_refunds_name_their_sale_in_the_list_or_describe_it(shop: Shop) -> None:
    ids = [f"txn_0198{at:04d}-7a10-7c3e-9f52-3b7a1c0de4f1" for at in range(3)]
    body = await estimated(shop, one(5_000, kind="refund", id=ids[1], refund_of=ids[0], captured_at="2026-03-02T04:00:00Z"), one(10_000, id=ids[0]),
                           one(5_000, kind="refund", original={"amount": 10_000, "fee": 60}))
    assert [(each["id"], each["gross"], each["fee"]) for each in body["transactions"]] == [(ids[1], -5_000, -30), (ids[0], 10_000, 60), (None, -5_000, -30)]


BAD: list[tuple[Any, str]] = [
    ({}, "transactions"), ({"transactions": [{}]}, "transactions.0.amount"), ({"transactions": [one(0)]}, "transactions.0.amount"), ({"transactions": [one(10**12)]}, "transactions.0.amount"),
    ({"transactions": [one(currency="ZZZ")]}, "transactions.0.currency"), ({"transactions": [one(currency="USD")]}, "transactions.0"), ({"transactions": [one(captured_at="2026-03-01")]}, "transactions.0.captured_at"),
    ({"transactions": [one(), one(captured_at="2025-03-01T00:00:00Z")]}, "transactions.1"), ({"transactions": [one(card_type="gold")]}, "transactions.0.card_type"), ({"transactions": [one(mcc="1")]}, "transactions.0.mcc"),
    ({"transactions": [one(business_date="2026-13-01")]}, "transactions.0.business_date"), ({"transactions": [one(refund_of="txn_0192f0c4-7c1e-7aaa-8bbb-1234567890ab")]}, "transactions.0.kind"), ({"transactions": [one(x=1)]}, "transactions.0.(unknown field)"),
    ({"transactions": [one(kind="refund", refund_of="txn_0192f0c4-7c1e-7aaa-8bbb-1234567890ab", original={"amount": 1, "fee": 0})]}, "transactions.0.original"),
    ({"transactions": [one(id="txn_0192f0c4-7c1e-7aaa-8bbb-1234567890ab")] * 2}, "transactions.1.id"), ({"transactions": [], "month_to_date": {"cny": 1}}, "month_to_date"),
    ({"transactions": [], "month_to_date": {"CNY": -1}}, "month_to_date.CNY"), ({"transactions": [], "month_to_date": {"CNY": 1.5}}, ""), ({"transactions": [], "periodic": {"terminals": -1}}, "periodic.terminals"),
    ({"transactions": [one(brand="visa", acquirer="ACQUIRER.dual")]}, "transactions.0"), ({"transactions": [one()] * (TRANSACTIONS_MAX + 1)}, "transactions"),
]


@pytest.mark.parametrize(("body", "field"), BAD)
async def test_a_bad_estimate_is_refused_with_its_place(shop: Shop, body: Any, field: str) -> None:
    text = json.dumps(body).replace("ACQUIRER.dual", shop.shown("acquirer.dual"))
    answer = await shop.ask("POST", ESTIMATES, json.loads(text), "merchant.one")
    assert answer.status == (422 if field else 400), answer.raw
    assert not field or field in [each["field"] for each in answer.body["errors"]], answer.raw


async def test_a_refund_without_an_id_comes_after_the_sale_before_it(shop: Shop) -> None:
    sale = f"txn_{uuid4()}"
    for more in ({}, {"captured_at": "2026-03-02T04:00:00Z"}):
        body = await estimated(shop, one(10_000, id=sale, **more), one(5_000, kind="refund", refund_of=sale, **more))
        assert [each["fee"] for each in body["transactions"]] == [60, -30], more


async def test_ids_of_another_form_are_not_found(shop: Shop) -> None:
    for facts, field in (({"id": "1"}, "transactions.0.id"), ({"kind": "refund", "refund_of": "x"}, "transactions.0.refund_of")):
        answer = await shop.ask("POST", ESTIMATES, {"transactions": [one(**facts)]}, "merchant.one")
        assert (answer.status, [each["field"] for each in answer.body["errors"]]) == (422, [field]), answer.raw
    for facts in ({"acquirer": "x"}, {"acquirer": "acq_0192f0c4-7c1e-7aaa-8bbb-1234567890ab"}):
        assert (await shop.ask("POST", ESTIMATES, {"transactions": [one(**facts)]}, "merchant.one")).status == 404


async def test_a_merchant_without_a_tariff_is_told_so(shop: Shop) -> None:
    answer = await shop.ask("POST", ESTIMATES, {"transactions": [one()]}, "merchant.four")
    assert answer.status == 422 and "no tariff is in force" in answer.body["errors"][0]["rule"]


async def test_ten_thousand_transactions_are_one_estimate_that_equals_the_bill_and_keeps_nobody_waiting(shop: Shop) -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    asked = [one(1 + 37 * number % 90_000, id=f"txn_0198{number:04d}-7a10-7c3e-9f52-3b7a1c0de4f1", brand=("visa", "jcb", "unionpay")[number % 3], business_date="2026-03-01",
                 captured_at=(at + timedelta(seconds=number * 7919 % 5000)).isoformat()) for number in range(TRANSACTIONS_MAX)]
    assert len(json.dumps({"transactions": asked})) > EdgeLimits().body_bytes
    longest, ended = 0.0, False

    async def pulse() -> None:
        nonlocal longest
        loop = asyncio.get_running_loop()
        while not ended:
            before = loop.time()
            await asyncio.sleep(0.005)
            longest = max(longest, loop.time() - before)

    beat, began = asyncio.create_task(pulse()), asyncio.get_running_loop().time()
    first, second = await asyncio.gather(*(shop.ask("POST", ESTIMATES, {"transactions": asked}, "merchant.one") for _ in range(2)))
    took, ended = asyncio.get_running_loop().time() - began, True
    await beat
    assert sorted((first.status, second.status)) == [200, 503], "one of a merchant at once"
    answer: Answer = first if first.status == 200 else second
    acquirer = shop.ids["acquirer.single"]
    sales = [Sale(UUID(each["id"][4:]), datetime.fromisoformat(each["captured_at"]), each["amount"], "sale", "CNY", each["brand"], "unknown", "card", "chip", "5812", at.date(), acquirer)
             for each in asked]
    settled = bill([tariff_from(TIERED)], {acquirer: [costs_from(COST_TERMS)]}, sales, {})
    by_id = {f"txn_{priced.transaction_id}": priced.fee for priced in settled.priced}
    assert {each["id"]: each["fee"] for each in answer.body["transactions"]} == by_id
    assert (answer.body["totals"][0]["fees"], answer.body["totals"][0]["net"]) == (settled.totals["CNY"].fees, settled.totals["CNY"].net)
    assert answer.body["month_to_date"] == {"CNY": sum(each["amount"] for each in asked)}
    assert longest < took / 4, "the loop stood still"


async def test_a_body_of_more_than_four_megabytes_is_refused(shop: Shop) -> None:
    for size, status in ((BODY_MAX + 1, 413), (BODY_MAX - 100, 422)):
        answer = await shop.ask("POST", ESTIMATES, {"transactions": [], "x": "y" * (size - len('{"transactions": [], "x": ""}'))}, "merchant.one")
        assert answer.status == status
    for path in (tariffs_of(shop, "one"), f"{ESTIMATES}/x"):
        assert (await shop.ask("POST", path, {"x": "y" * 70_000}, "operator")).status == 413, "elsewhere 64 kB are the most"


@pytest.fixture
def quiet() -> Iterator[None]:
    before = logs.log.stream, logs.log.level
    yield
    logs.log.stream, logs.log.level = before


async def test_the_command_line_checks_sets_shows_and_estimates(shop: Shop, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, quiet: None) -> None:
    monkeypatch.setenv("SWITCH_HOME", str(tmp_path))

    async def told(*words: str, key: str | None = "operator") -> tuple[int, str, str]:
        capfd.readouterr()
        code = await asyncio.to_thread(main, [*words, *(("--url", shop.base, "--key", shop.keys[key]) if key else ())])
        return code, *capfd.readouterr()

    sound, broken, costs, wanted = (tmp_path / name for name in ("tariff.json", "broken.json", "costs.json", "estimate.json"))
    sound.write_text(json.dumps(TIERED))
    broken.write_text(json.dumps({**TIERED, "rules": [{"name": "a", "price": {"cap": -1}}]}))
    costs.write_text(json.dumps(COST_TERMS))
    wanted.write_text(json.dumps({"transactions": [one(10_000, brand="visa"), one(5_000, kind="refund", original={"amount": 10_000, "fee": 45})]}))
    code, out, _ = await told("tariff", "check", str(sound), key=None)
    assert code == 0 and "Rent: 50.00 CNY a month for each terminal." in out
    code, out, err = await told("tariff", "check", str(broken), key=None)
    assert (code, out) == (2, "") and "/rules/0/price/cap: must be a whole number of minor units" in err
    assert (await told("tariff", "check", str(costs), "--costs", key=None))[0] == 0 and (await told("tariff", "check", str(costs), key=None))[0] == 2
    assert (await told("tariff", "check", str(tmp_path / "none"), key=None))[0] == 2
    sound.write_text('{"a": 1, "a": 2}')
    assert "json_duplicate_key" in (await told("tariff", "check", str(sound), key=None))[2]
    sound.write_text(json.dumps(TIERED))
    two = shop.shown("merchant.two")
    code, out, _ = await told("tariff", "set", two, str(sound), "--from", "2032-01-01")
    assert code == 0 and "from 2032-01-01  version 1  by Flow Tester" in out
    code, _, err = await told("tariff", "set", two, str(broken), "--from", "2032-01-01", "--replaces", out.split()[0])
    assert code == 2 and "terms/rules/0/price/cap" in err
    assert (await told("tariff", "set", two, str(sound), "--from", "2032-01-01", "--replaces", out.split()[0]))[0] == 0
    code, out, _ = await told("tariff", "show", two)
    assert code == 0 and out.count("2032-01-01") == 2 and "0.10 % plus the interchange" in out
    assert (await told("tariff", "set", shop.shown("acquirer.dual"), str(costs), "--from", "2032-01-01"))[0] == 0
    assert "interchange 0.35 %" in (await told("tariff", "show", shop.shown("acquirer.dual")))[1]
    code, out, _ = await told("fees", "estimate", str(wanted), "--merchant", shop.shown("merchant.one"))
    assert code == 0 and "100.00 CNY  fee 0.45 CNY  Month: Visa" in out and "CNY: 1 sales of 100.00 CNY, 1 refunds of 50.00 CNY, fees 0.23 CNY" in out
    assert "net 49.76 CNY" in out
    assert (await told("fees", "estimate", str(wanted), key="merchant.one"))[0] == 0
