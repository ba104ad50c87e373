"""A terminal closes its batch over real HTTP, TCP and PostgreSQL: in balance, out of balance, and while its acquirer says nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from loadtests.terminal import Terminal
from tests.flows import Shop, body_of, eventually, new_key, open_shop
from tests.processes import Answer, stub_book
from tests.test_openapi import faults, fits

ROUTE = "/v1/terminals/{terminal}/batches"


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("batches")) as opened:
        for name in ("single", "dual"):
            assert (await opened.ask("PUT", f"/v1/acquirers/{opened.shown(f'acquirer.{name}')}/batch-terms", {"forward": True}, "operator")).body["forward"] is True
        yield opened


@pytest_asyncio.fixture(scope="module")
async def spec(shop: Shop) -> Any:
    return (await shop.ask("GET", "/openapi.json")).body


def path(shop: Shop, till: str = "till") -> str:
    return f"/v1/terminals/{shop.shown(f'terminal.{till}')}/batches"


async def close(shop: Shop, sales: list[int], refunds: list[int], till: str = "till", key: str | None = None, **more: Any) -> Answer:
    """Closes with what was counted."""
    counted = {"currency": "CNY", "sales_count": len(sales), "sales": sum(sales), "refunds_count": len(refunds), "refunds": sum(refunds)}
    return await shop.ask("POST", path(shop, till), {"totals": [counted], **more}, till, Idempotency_Key=key or new_key())


async def emptied(shop: Shop, till: str = "till") -> None:
    """A batch that begins now, also at the acquirer."""
    await shop.host_of(till).forget()
    answer = await close(shop, [], [], till)
    assert answer.status == 201, answer.raw
    await settled(shop, answer.body["id"], till)


async def settled(shop: Shop, batch: str, till: str = "till", seconds: float = 15.0) -> dict[str, Any]:
    """The batch as soon as no acquirer is waited for."""
    async def answered() -> Any:
        shown = (await shop.ask("GET", f"{path(shop, till)}/{batch}", key=till)).body
        return shown if all(each["state"] != "waiting" for each in shown["acquirers"]) else None

    return dict(await eventually(answered, "the acquirer says nothing", seconds))


async def booked(shop: Shop, till: str = "till") -> list[dict[str, Any]]:
    """The 0500s that the acquirer received, and its decisions on them."""
    lines = await stub_book(shop.host_of(till).control)
    received = {line["seq"]: line for line in lines if line["kind"] == "received" and line.get("mti", "").startswith("05")}
    return [{**received[line["received"]], "decision": line} for line in lines if line["kind"] == "decision" and line["received"] in received]


async def refund(shop: Shop, sale: str, amount: int, till: str = "till") -> str:
    async def given() -> Answer | None:
        answer = await shop.ask("POST", "/v1/refunds", {"authorization": sale, "amount": amount}, till, Idempotency_Key=new_key())
        return None if answer.status == 409 else answer  # its capture is not acknowledged yet

    answer = await eventually(given, "no refund")
    assert answer is not None and answer.status == 201, answer
    return str(answer.body["id"])


async def test_in_balance_here_and_at_the_acquirer(shop: Shop, spec: Any) -> None:
    await emptied(shop)
    sale = (await shop.pay(10_000)).body["id"]
    await shop.pay(20_010, partial_approval="accept")  # 10,005 of it
    await shop.pay(5051)  # declined
    voided = (await shop.pay(7000)).body["id"]
    assert (await shop.ask("POST", f"/v1/authorizations/{voided}/voids", {}, "till", Idempotency_Key=new_key())).status == 201
    held = (await shop.pay(6000, type="preauthorization")).body["id"]
    assert (await shop.ask("POST", f"/v1/authorizations/{held}/captures", {"amount": 4500}, "till", Idempotency_Key=new_key())).status == 201
    await refund(shop, sale, 2500)
    await shop.ask("POST", "/v1/refunds", {"authorization": sale, "amount": 100}, "merchant.one", Idempotency_Key=new_key())  # the office's, not the terminal's
    await shop.pay(9000, key="neighbour")
    answer = await close(shop, [10_000, 10_005, 4500], [2500])
    fits(spec, "post", ROUTE, answer)
    assert (answer.status, answer.body["in_balance"], answer.body["differences"]) == (201, True, []), answer.raw
    assert answer.body["totals"][0]["difference"] == {"sales_count": 0, "sales": 0, "refunds_count": 0, "refunds": 0}
    # The acquirer also knows of the office's refund under this terminal, so it does not agree with the terminal's own figures.
    shown = await settled(shop, answer.body["id"])
    fits(spec, "get", ROUTE + "/{batch}", await shop.ask("GET", f"{path(shop)}/{answer.body['id']}", key="till"))
    assert [(each["acquirer"], each["sales"], each["refunds"], each["state"], each["code"]) for each in shown["acquirers"]] == [
        (shop.shown("acquirer.single"), 24_505, 2500, "out_of_balance", "00")]
    assert (await shop.sql("SELECT kind FROM alert WHERE object = $1", answer.body["id"])) == [{"kind": "batch_out_of_balance"}]


@pytest.mark.parametrize("till", ["till", "dual"])
async def test_the_acquirer_agrees_when_it_knows_the_same(shop: Shop, till: str) -> None:
    await emptied(shop, till)
    sale = (await shop.pay(10_000, key=till)).body["id"]
    await shop.pay(3000, key=till)
    await refund(shop, sale, 1000, till)
    answer = await close(shop, [10_000, 3000], [1000], till)
    assert answer.body["in_balance"] is True, answer.raw
    shown = await settled(shop, answer.body["id"], till)
    assert [(each["state"], each["code"], each["sales_count"], each["refunds_count"]) for each in shown["acquirers"]] == [("in_balance", "00", 2, 1)]
    last = (await booked(shop, till))[-1]
    assert {de: last["fields"][de] for de in ("50", "74", "76", "86", "88", "97")} == {
        "50": "156", "74": "0000000001", "76": "0000000002", "86": f"{1000:016d}", "88": f"{13_000:016d}", "97": f"D{12_000:016d}"}
    assert (last["mti"], last["decision"]["reason"]) == ("0500", "in_balance")


async def test_a_void_of_what_was_closed_counts_as_given_back(shop: Shop) -> None:
    await emptied(shop)
    sale = (await shop.pay(8000)).body["id"]
    first = await close(shop, [8000], [])
    assert first.body["in_balance"]
    await settled(shop, first.body["id"])
    assert (await shop.ask("POST", f"/v1/authorizations/{sale}/voids", {}, "till", Idempotency_Key=new_key())).status == 201
    answer = await close(shop, [], [8000])
    assert answer.body["in_balance"], answer.raw
    assert [each["state"] for each in (await settled(shop, answer.body["id"]))["acquirers"]] == ["in_balance"]
    assert (await close(shop, [], [])).body["in_balance"], "nothing is counted twice"


async def test_out_of_balance_says_by_how_much_and_which(shop: Shop, spec: Any) -> None:
    await emptied(shop)
    first, second = [(await shop.pay(amount)).body["id"] for amount in (10_000, 3000)]
    given = await refund(shop, first, 1200)
    short = await close(shop, [10_000], [1200])
    fits(spec, "post", ROUTE, short)
    assert (short.status, short.body["in_balance"]) == (201, False)
    assert short.body["totals"] == [{
        "currency": "CNY", "terminal": {"sales_count": 1, "sales": 10_000, "refunds_count": 1, "refunds": 1200},
        "books": {"sales_count": 2, "sales": 13_000, "refunds_count": 1, "refunds": 1200},
        "difference": {"sales_count": -1, "sales": -3000, "refunds_count": 0, "refunds": 0}}]
    assert short.body["differences"] == [{"kind": "suspect", "transaction": second, "terminal_amount": None, "books_amount": 3000}]
    third = (await shop.pay(4000)).body["id"]
    listed = [{"transaction": third, "amount": 4001}, {"transaction": given, "amount": -1200}]
    named = await close(shop, [4001], [1200], transactions=listed)
    assert {(each["transaction"], each["kind"], each["terminal_amount"], each["books_amount"]) for each in named.body["differences"]} == {
        (third, "amount", 4001, 4000), (given, "only_terminal", -1200, None)}
    missing = (await shop.pay(500)).body["id"]
    unlisted = await close(shop, [500], [], transactions=[])
    assert (unlisted.body["in_balance"], unlisted.body["differences"][0]["transaction"], unlisted.body["differences"][0]["kind"]) == (False, missing, "only_books")


async def test_the_same_key_closes_once(shop: Shop) -> None:
    await emptied(shop)
    await shop.pay(1000)
    key = new_key()
    answers = await asyncio.gather(*(close(shop, [1000], [], key=key) for _ in range(4)))
    assert {answer.status for answer in answers} == {201} and len({answer.raw for answer in answers}) == 1
    assert (await close(shop, [1001], [], key=key)).body["code"] == "idempotency_key_reused"
    again = await close(shop, [1000], [], key=key)
    assert (again.raw, again.headers["idempotent-replayed"]) == (answers[0].raw, "true")
    other = await asyncio.gather(*(close(shop, [], []) for _ in range(3)))
    assert sorted(answer.body["number"] for answer in other) == [answers[0].body["number"] + each for each in (1, 2, 3)]
    assert all(answer.body["in_balance"] for answer in other)


async def test_a_lost_answer_is_asked_for_again_and_nothing_is_reversed(shop: Shop) -> None:
    await emptied(shop)
    await shop.pay(6000)
    await shop.host.order("silence", None, {"0": "0500"})
    answer = await close(shop, [6000], [])
    shown = await settled(shop, answer.body["id"], seconds=20)
    assert [each["state"] for each in shown["acquirers"]] == ["in_balance"]
    first, second = (await booked(shop))[-2:]
    assert (first["mti"], second["mti"]) == ("0500", "0501")
    assert all(first["fields"][de] == second["fields"][de] for de in ("7", "11", "41", "42", "76", "88"))
    assert (first["decision"]["reason"], second["decision"]["reason"]) == ("in_balance", "duplicate")
    assert not [line for line in await stub_book(shop.host.control) if line.get("mti", "").startswith("04") and line["fields"].get("11") == first["fields"]["11"]]
    (row,) = await shop.sql("SELECT transmissions FROM batch_total WHERE batch_id::text = $1", answer.body["id"][4:])
    assert row["transmissions"] == 2


async def test_the_next_batch_waits_for_the_answer_to_the_one_before(shop: Shop) -> None:
    await emptied(shop)
    await shop.host.order("silence", None, {"0": "0500"})
    closed = []
    for amount in (6000, 7000):
        await shop.pay(amount)
        closed.append((await close(shop, [amount], [])).body["id"])
        await asyncio.sleep(0.3)  # the first one is on its way
    shown = [await settled(shop, batch, seconds=20) for batch in closed]
    assert [[each["state"] for each in batch["acquirers"]] for batch in shown] == [["in_balance"], ["in_balance"]]
    assert [(line["mti"], int(line["fields"]["88"])) for line in (await booked(shop))[-3:]] == [("0500", 6000), ("0501", 6000), ("0500", 7000)]


async def test_a_host_that_is_busy_is_asked_again_and_one_that_refuses_is_not(shop: Shop) -> None:
    await emptied(shop)
    for code, state in (("96", "in_balance"), ("40", "refused")):
        await shop.pay(6000)
        await shop.host.order("code", code, {"0": "0500"})
        shown = await settled(shop, (await close(shop, [6000], [])).body["id"], seconds=20)
        assert [(each["state"], each["code"]) for each in shown["acquirers"]] == [(state, "00" if state == "in_balance" else code)]


async def test_totals_wait_until_nothing_is_owed_to_the_acquirer(shop: Shop) -> None:
    await emptied(shop)
    await shop.pay(2000)
    await shop.host.order("code", "91", {"0": "0420"}, count=2)
    unsold = (await shop.pay(5096)).body["id"]  # in doubt: it is being reversed
    answer = await close(shop, [2000], [])
    assert answer.body["in_balance"], answer.raw
    await settled(shop, answer.body["id"], seconds=20)
    assert (await shop.get(unsold))["status"] == "reversed"


async def test_a_payment_without_an_outcome_keeps_the_batch_open(shop: Shop) -> None:
    await emptied(shop)
    await shop.host.order("delay", 0.3, {"0": "0200"})
    paying = asyncio.create_task(shop.pay(3000))
    await eventually(lambda: shop.sql("SELECT 1 FROM transaction WHERE state = 'SENT' AND exchange = 'request'"), "nothing is on its way")
    refused = await close(shop, [3000], [])
    assert (refused.status, refused.body["code"], refused.headers["retry-after"]) == (409, "follow_up_open", "2")
    assert (await paying).status == 201
    assert (await close(shop, [3000], [])).body["in_balance"]


async def test_what_is_not_forwarded_says_so(shop: Shop) -> None:
    acquirer = f"/v1/acquirers/{shop.shown('acquirer.single')}/batch-terms"
    await emptied(shop)
    await shop.ask("PUT", acquirer, {"forward": False}, "operator")
    before = len(await booked(shop))
    await shop.pay(1000)
    answer = await close(shop, [1000], [])
    assert [each["state"] for each in answer.body["acquirers"]] == ["not_forwarded"]
    await asyncio.sleep(0.7)
    assert len(await booked(shop)) == before
    await shop.ask("PUT", acquirer, {"forward": True}, "operator")


async def test_batches_are_listed_and_seen_by_their_own_alone(shop: Shop, spec: Any) -> None:
    whole = await shop.ask("GET", f"{path(shop)}?limit=200", key="merchant.one")
    fits(spec, "get", ROUTE, whole)
    numbers = [each["number"] for each in whole.body["items"]]
    assert numbers == sorted(numbers, reverse=True) and len(numbers) > 2
    first = (await shop.ask("GET", f"{path(shop)}?limit=1", key="till")).body
    second = (await shop.ask("GET", f"{path(shop)}?limit=1&after={first['next']}", key="operator")).body
    assert [*first["items"], *second["items"]] == whole.body["items"][:2]
    one = f"{path(shop)}/{whole.body['items'][0]['id']}"
    for key in ("neighbour", "branch", "dual", "merchant.two"):
        assert [(await shop.ask("GET", address, key=key)).status for address in (path(shop), one)] == [404, 404], key
    assert (await shop.ask("GET", one.replace(shop.shown("terminal.till"), shop.shown("terminal.neighbour")), key="merchant.one")).status == 404
    for key, status in (("neighbour", 404), ("merchant.one", 403), ("operator", 403), ("x", 401)):
        assert (await shop.ask("POST", path(shop), {"totals": []}, key, Idempotency_Key=new_key())).status == status
    for key in ("till", "merchant.one"):
        assert [(await shop.ask(method, f"/v1/acquirers/{shop.shown('acquirer.single')}/batch-terms", {"forward": True}, key)).status for method in ("GET", "PUT")] == [403, 403]


@pytest.mark.parametrize("body", [
    {}, [], {"totals": {}}, {"totals": [{"currency": "CNY"}]}, {"totals": [{"currency": "cny", "sales_count": 0, "sales": 0, "refunds_count": 0, "refunds": 0}]},
    {"totals": [{"currency": "CNY", "sales_count": -1, "sales": 0, "refunds_count": 0, "refunds": 0}]}, {"totals": [], "x": 1},
    {"totals": [{"currency": "CNY", "sales_count": 0, "sales": 0, "refunds_count": 0, "refunds": 0}] * 2}, {"totals": [], "transactions": [{"transaction": "x", "amount": 1}]},
    {"totals": [], "transactions": [{"transaction": "txn_0192f0c4-7c1e-7aaa-8bbb-1234567890ab", "amount": 1}] * 2}, {"totals": [{"currency": "CNY", "sales_count": "0", "sales": 0,
                                                                                                                                "refunds_count": 0, "refunds": 0}]},
])
async def test_what_makes_no_sense_closes_nothing(shop: Shop, body: Any) -> None:
    before = await shop.sql("SELECT count(*) FROM terminal_batch")
    answer = await shop.ask("POST", path(shop), body, "till", Idempotency_Key=new_key())
    assert answer.status == 422, answer.raw
    assert await shop.sql("SELECT count(*) FROM terminal_batch") == before


async def test_the_examples_fit_and_a_key_is_needed(shop: Shop, spec: Any) -> None:
    for route, method in ((ROUTE, "post"), ("/v1/acquirers/{acquirer}/batch-terms", "put")):
        content = spec["paths"][route][method]["requestBody"]["content"]["application/json"]
        assert faults(spec, content["schema"], content["example"]) == []
    assert (await shop.ask("POST", path(shop), {"totals": []}, "till")).status == 400
    terms = "/v1/acquirers/{acquirer}/batch-terms"
    for caller, acquirer in (("operator", shop.shown("acquirer.single")), ("operator", "acq_x"), ("till", shop.shown("acquirer.single"))):
        fits(spec, "get", terms, await shop.ask("GET", terms.replace("{acquirer}", acquirer), key=caller))
        fits(spec, "put", terms, await shop.ask("PUT", terms.replace("{acquirer}", acquirer), {"forward": True}, caller))


async def test_the_reference_terminal_counts_as_the_books_do(shop: Shop, tmp_path: Any) -> None:
    await emptied(shop)
    terminal = Terminal(shop.base, shop.keys["till"], tmp_path / "journal", patience=20)
    shown = shop.shown("terminal.till")

    def day() -> list[dict[str, Any]]:
        sales = [terminal.pay(body_of(amount)) for amount in (10_000, 3000, 5051, 7000)]
        held = terminal.pay(body_of(6000, type="preauthorization"))
        assert [receipt.sold for receipt in (*sales, held)] == [True, True, False, True, True]
        for verb, sale, body in (("captures", held, {"amount": 4500}), ("refunds", sales[0], {"amount": 1200}), ("voids", sales[1], {})):
            assert terminal.follow(verb, str(sale.id), body).sold
        first = terminal.close_batch(shown)
        assert terminal.follow("voids", str(sales[3].id), {}).sold
        return [first, terminal.close_batch(shown), terminal.close_batch(shown)]

    try:
        first, second, third = await asyncio.to_thread(day)
    finally:
        terminal.journal.file.close()
    assert [each["in_balance"] for each in (first, second, third)] == [True] * 3, (first, second, third)
    assert first["totals"][0]["terminal"] == {"sales_count": 3, "sales": 21_500, "refunds_count": 1, "refunds": 1200}
    assert (second["totals"][0]["terminal"]["refunds"], third["totals"], len(terminal.receipts), terminal.unfinished) == (7000, [], 9, [])
