"""Acceptance tests over real HTTP, TCP and PostgreSQL: a test passes by what was recorded alone, and no device goes live before."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from switch import database
from switch.cli import main
from tests.fleet import Device, device
from tests.flows import Shop, new_key, open_shop
from tests.processes import CARD, Answer
from tests.test_openapi import fits

NIL_ID = "0192f0c4-7c1e-7aaa-8bbb-1234567890ab"
STEPS = ["chip", "swipe", "contactless", "decline", "timeout", "void", "refund", "receipt"]
CHECKS = [{"code": "paper_loaded", "en": "Paper prints", "zh": "打印正常"}]


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("acceptance")) as opened:
        for model, steps, more in (("A1", STEPS, {"checks": CHECKS, "roles": ["cashier"]}), ("A2", ["chip", "decline"], {}), ("A3", ["chip"], {"checks": CHECKS})):
            answer = await opened.ask("PUT", f"/v1/acceptance-plans/{model}", {"steps": [{"step": each} for each in steps], "reason": "New model", **more}, "operator")
            assert answer.status == 200, answer.raw
        yield opened


@pytest_asyncio.fixture(scope="module")
async def spec(shop: Shop) -> Any:
    return (await shop.ask("GET", "/openapi.json")).body


class Trial:
    """A test of a device as its operator and its terminal see it."""

    def __init__(self, shop: Shop, one: Device) -> None:
        self.shop, self.device, self.id = shop, one, ""

    async def open(self) -> Answer:
        answer = await self.shop.ask("POST", f"/v1/devices/{self.device.id}/acceptance-tests", {"reason": "before opening"}, "operator")
        if answer.status == 201:
            self.id = answer.body["id"]
        return answer

    async def move(self, event: str, key: str = "operator") -> Answer:
        answer = await self.shop.ask("POST", f"/v1/acceptance-tests/{self.id}/moves", {"event": event, "reason": "as seen"}, key)
        if answer.status == 200:
            self.id = answer.body["id"]
            await self.shop.caught_up()
        return answer

    async def show(self, step: str, transaction: str, key: str | None = None, **more: Any) -> Answer:
        return await self.shop.ask("POST", f"/v1/acceptance-tests/{self.id}/showings", {"step": step, "transaction": transaction, **more}, key or self.device.key)

    async def now(self, key: str = "operator") -> Any:
        return (await self.shop.ask("GET", f"/v1/acceptance-tests/{self.id}", key=key)).body

    async def sale(self, amount: int, entry_mode: str = "chip", status: str = "approved") -> Any:
        answer = await self.shop.pay(amount, key=self.device.key, card=CARD | {"entry_mode": entry_mode})
        assert answer.body["status"] == status, answer.raw
        return answer.body

    async def follow(self, verb: str, original: str) -> Any:
        path, body = ("/v1/refunds", {"authorization": original}) if verb == "refunds" else (f"/v1/authorizations/{original}/{verb}", {})
        answer = await self.shop.ask("POST", path, body, self.device.key, Idempotency_Key=new_key())
        assert answer.status == 201, answer.raw
        return answer.body


async def trial(shop: Shop, model: str = "A2", begun: bool = True) -> Trial:
    made = Trial(shop, await device(shop, "activated", model=model))
    assert (await made.open()).status == 201
    if begun:
        assert (await made.move("begin")).body["state"] == "running"
    return made


def paper(sale: Any, **changed: Any) -> dict[str, Any]:
    return {"masked_pan": f"**** **** **** {sale['card']['masked_pan'][-4:]}", "amount": sale["approved_amount"], "currency": sale["currency"], "rrn": sale["rrn"],
            "approval_code": sale["approval_code"], **changed}


async def test_a_device_goes_live_when_everything_was_shown_checked_and_taught(shop: Shop, spec: Any) -> None:
    one = await trial(shop, "A1", begun=False)
    tried = await one.device.tried("go_live")
    fits(spec, "post", "/v1/devices/{device}/moves", tried)
    assert (tried.status, tried.body["code"]) == (409, "device_not_ready")
    assert [each["field"] for each in tried.body["errors"]] == [*(f"steps.{each}" for each in STEPS), "checks.paper_loaded", "roles.cashier"]
    assert not await one.device.sells(), "before the test begins its till sells nothing"
    begun = await one.move("begin")
    fits(spec, "post", "/v1/acceptance-tests/{test}/moves", begun)
    assert begun.body["missing"] == [{"step": each, "dialect": None} for each in STEPS] and (await one.device.now())["sells"] is True
    chip = await one.sale(12_300)
    for step, sale in (("chip", chip), ("swipe", swipe := await one.sale(5000, "magstripe")), ("contactless", touch := await one.sale(6000, "contactless")),
                       ("decline", await one.sale(7051, status="declined"))):
        shown = await one.show(step, sale["id"])
        fits(spec, "post", "/v1/acceptance-tests/{test}/showings", shown)
        assert shown.body["shown"] is True and shown.body["findings"] == [], shown.raw
    await shop.host.order("silence")
    lost = (await shop.pay(8000, key=one.device.key)).body
    assert lost["status"] == "reversing"
    await shop.until(lost["id"], "reversed")
    assert (await one.show("timeout", lost["id"])).body["findings"] == []
    receipt = await one.show("receipt", chip["id"], printed=paper(chip))
    assert receipt.body["shown"] and {each["field"]: each["booked_by"] for each in receipt.body["compared"]} == {
        "masked_pan": None, "amount": "answer", "currency": None, "rrn": "answer", "approval_code": "answer"}
    refused = await one.move("pass")
    fits(spec, "post", "/v1/acceptance-tests/{test}/moves", refused)
    assert (refused.status, refused.body["code"]) == (409, "acceptance_incomplete")
    assert [each["field"] for each in refused.body["errors"]] == ["steps.void", "steps.refund", *(f"transactions.{each['id']}" for each in (chip, swipe, touch))]
    assert (await one.show("void", (await one.follow("voids", chip["id"]))["id"])).body["shown"] is True
    assert (await one.show("refund", (await one.follow("refunds", swipe["id"]))["id"])).body["shown"] is True
    left = (await one.move("pass")).body["errors"]
    assert [each["field"] for each in left] == [f"transactions.{touch['id']}"], "no money of a test is left in the books"
    await one.follow("voids", touch["id"])
    assert (await one.move("pass")).body["state"] == "passed"
    await one.device.until_it_sells(False)
    tried = await one.device.tried("go_live")
    assert [each["field"] for each in tried.body["errors"]] == ["checks.paper_loaded", "roles.cashier"]
    await _taught(shop, spec, one)
    await one.device.move("go_live")
    await one.device.until_it_sells(True)
    whole = await one.now()
    fits(spec, "get", "/v1/acceptance-tests/{test}", await shop.ask("GET", f"/v1/acceptance-tests/{one.id}", key="merchant.one"))
    assert [each["event"] for each in whole["events"]] == ["open", "begin", "pass"] and whole["missing"] == []
    assert [each["event"] for each in await one.device.events()][-4:] == ["activate", "begin_test", "end_test", "go_live"]


async def _taught(shop: Shop, spec: Any, one: Trial) -> None:
    material = await shop.ask("POST", "/v1/training-materials", {"model": "A1", "role": "cashier", "language": "zh", "title": "收银培训", "content": "第一步"}, "operator")
    fits(spec, "post", "/v1/training-materials", material)
    again = await shop.ask("POST", "/v1/training-materials", {"model": "A1", "role": "cashier", "language": "zh", "title": "收银培训", "address": "https://files.example/a"}, "operator")
    assert (material.body["version"], again.body["version"]) == (1, 2)
    body = {"store": shop.shown("store.first"), "model": "A1", "role": "cashier", "trainee": "Wang Fang", "trainer": "Chen Jie", "held_on": "2026-11-20", "materials": [again.body["id"]]}
    for wrong in ({"held_on": "2999-01-01"}, {"role": "manager"}, {"store": f"sto_{NIL_ID}"}, {"trainee": "4111 1111 1111 1111"}):
        assert (await shop.ask("POST", "/v1/trainings", body | wrong, "operator")).status == 422, wrong
    fits(spec, "post", "/v1/trainings", await shop.ask("POST", "/v1/trainings", body, "operator"))
    path = f"/v1/devices/{one.device.id}"
    assert (await shop.ask("POST", f"{path}/checks", {"check": "unheard_of", "done": True, "reason": "x"}, "operator")).status == 422
    for done in (True, False, True):
        said = await shop.ask("POST", f"{path}/checks", {"check": "paper_loaded", "done": done, "reason": "looked"}, "operator")
        fits(spec, "post", "/v1/devices/{device}/checks", said)
        assert said.body["ready"] is done
    fits(spec, "get", "/v1/devices/{device}/readiness", await shop.ask("GET", f"{path}/readiness", key="merchant.one"))
    listed = await shop.ask("GET", "/v1/trainings", key="merchant.one")
    fits(spec, "get", "/v1/trainings", listed)
    assert listed.body["items"][0]["trainee"] == "Wang Fang" and (await shop.ask("GET", "/v1/trainings", key="merchant.two")).body["items"] == []
    fits(spec, "get", "/v1/training-materials", await shop.ask("GET", "/v1/training-materials?model=A1&limit=1", key="merchant.one"))


async def test_a_step_is_shown_by_what_was_recorded_and_never_by_a_word(shop: Shop) -> None:
    one = await trial(shop, "A1")
    chip, elsewhere = await one.sale(5000), (await shop.pay(5000, card=CARD | {"entry_mode": "chip"})).body
    for step, sale, words in (("swipe", chip, "entry mode is chip"), ("decline", chip, "It is approved"), ("void", chip, "It is a purchase"), ("chip", elsewhere, "not made by this till"),
                              ("timeout", chip, "wanted: reversed"), ("receipt", chip, "Send what was printed")):
        shown = (await one.show(step, sale["id"])).body
        assert shown["shown"] is False and any(words in each for each in shown["findings"]), (step, shown)
    assert (await one.show("chip", f"txn_{NIL_ID}")).status == 404
    assert (await one.show("chip", (await shop.pay(5000, key="dual")).body["id"])).status == 404, "another merchant's is absent"
    assert (await one.show("qr", chip["id"])).status == 409, "not asked for"
    assert len((await one.now())["showings"]) == 6, "what did not show its step is on record too"


@pytest.mark.parametrize("changed", [{"amount": 5001}, {"rrn": "999999999999"}, {"approval_code": "ZZZZZZ"}, {"approval_code": None}, {"currency": "USD"},
                                     {"masked_pan": "6212345678900000003"}, {"masked_pan": "621234******0003"}, {"masked_pan": "**** 0004"}])
async def test_paper_that_says_something_else_than_the_books_shows_nothing(shop: Shop, running: Trial, changed: dict[str, Any]) -> None:
    sale = await running.sale(5000)
    answer = await running.show("receipt", sale["id"], printed={name: value for name, value in paper(sale, **changed).items() if value is not None})
    (field,) = changed
    assert answer.body["shown"] is False and [each["field"] for each in answer.body["compared"] if not each["same"]] == [field]
    assert b"62123456789" not in answer.raw and "6212345678900000003" not in str(await shop.sql("SELECT compared FROM acceptance_step"))


@pytest_asyncio.fixture(scope="module")
async def running(shop: Shop) -> Trial:
    return await trial(shop, "A1")


async def test_a_timeout_that_was_answered_or_only_not_found_is_none(shop: Shop, running: Trial) -> None:
    key = new_key()
    sold = (await shop.pay(5000, key, running.device.key)).body
    assert (await shop.cancel(key, running.device.key)).status == 202
    await shop.until(sold["id"], "reversed")
    assert (await running.show("timeout", sold["id"])).body["findings"] == ["The acquirer answered it."]


async def test_a_clearing_file_counts_more_than_an_answer(shop: Shop, running: Trial) -> None:
    sale = await running.sale(5000)
    row = await shop.row(sale["id"])
    acquirer, day, file_id = row["acquirer_id"], row["business_date"], UUID(NIL_ID)
    await shop.sql("""INSERT INTO clearing_line (file_id, line_no, acquirer_id, business_date, rrn, stan, terminal, acceptor, approval_code, kind, amount, currency, fee, reference)
                      VALUES ($1, 1, $2, $3, $4, '', '', '', '', 'sale', 4999, 'CNY', 0, '')""", file_id, acquirer, day, sale["rrn"])
    shown = (await running.show("receipt", sale["id"], printed=paper(sale))).body
    assert [(each["field"], each["recorded"], each["booked"], each["booked_by"]) for each in shown["compared"] if not each["same"]] == [("amount", "5000", "4999", "clearing_file")]


async def test_the_life_refuses_by_name_what_cannot_follow(shop: Shop, spec: Any) -> None:
    one = await trial(shop, begun=False)
    for event in ("pass", "fail", "repeat"):
        refused = await one.move(event)
        assert (refused.status, refused.body["code"]) == (409, "acceptance_move"), refused.raw
    assert refused.body["detail"] == "A test that is open cannot repeat; it can: begin, cancel."
    assert (await one.open()).status == 409, "a device has one test in hand"
    assert (await one.show("chip", f"txn_{NIL_ID}")).body["code"] == "acceptance_move"
    await one.move("begin")
    await one.sale(5000)
    assert (await one.move("fail")).body["state"] == "failed"
    failed = one.id
    assert (await one.move("repeat")).body["repeats"] == failed and one.id != failed
    await one.move("begin")
    old = (await shop.ask("GET", f"/v1/transactions?terminal={one.device.till}", key="operator")).body["items"][0]
    assert (await one.show("chip", old["id"])).body["shown"] is False, "a sale of the test before shows nothing in the next"
    assert (await one.move("cancel")).body["state"] == "cancelled"
    listed = await shop.ask("GET", f"/v1/devices/{one.device.id}/acceptance-tests?limit=1", key="merchant.one")
    fits(spec, "get", "/v1/devices/{device}/acceptance-tests", listed)
    assert [each["state"] for each in listed.body["items"]] == ["cancelled"] and listed.body["next"] == one.id


@pytest.mark.parametrize("event", ["tamper", "return", "activate"])
async def test_a_device_that_moves_ends_its_test_and_its_till_stops(shop: Shop, event: str) -> None:
    one = await trial(shop)
    await one.sale(5000)
    if event == "activate":
        assert (await one.device.activate()).status == 201
    else:
        await one.device.move(event)
    await shop.caught_up()
    whole = await one.now()
    assert (whole["state"], whole["events"][-1]["reason"]) == ("cancelled", f"the device moved: {event}")
    assert not await one.device.sells()
    assert (await one.move("begin")).status == 409


async def test_what_was_tested_at_another_till_counts_no_more(shop: Shop) -> None:
    one = await trial(shop)
    sale = await one.sale(5000)
    for step, shown in (("chip", sale), ("decline", await one.sale(7051, status="declined"))):
        assert (await one.show(step, shown["id"])).body["shown"]
    await one.follow("voids", sale["id"])
    assert (await one.move("pass")).status == 200
    assert (await shop.ask("GET", f"/v1/devices/{one.device.id}/readiness", key="operator")).body["ready"] is True
    for event in ("return", "restock"):
        await one.device.move(event)
    await one.device.be("activated")
    assert (await one.device.tried("go_live")).body["code"] == "device_not_ready"


async def test_a_step_of_one_dialect_is_asked_where_the_till_has_it(shop: Shop) -> None:
    for dialect, asked in (("iso87_ascii", True), ("visa_base1", False)):
        model = f"D {dialect}"
        await shop.ask("PUT", f"/v1/acceptance-plans/{model.replace(' ', '%20')}", {"steps": [{"step": "chip", "dialect": dialect}, {"step": "decline"}], "reason": "x"}, "operator")
        one = await trial(shop, model, begun=False)
        assert (await one.now())["steps"] == [*([{"step": "chip", "dialect": dialect}] if asked else []), {"step": "decline", "dialect": None}]


async def test_a_model_without_a_plan_goes_live_as_before_and_an_empty_plan_asks_nothing_again(shop: Shop, spec: Any) -> None:
    one = await device(shop, "live", model="A9")
    assert (await one.now())["state"] == "live"
    other = await device(shop, "activated", model="A3")
    assert (await other.tried("go_live")).status == 409
    answer = await shop.ask("PUT", "/v1/acceptance-plans/A3", {"steps": [], "reason": "Asked too much", "after": 1}, "operator")
    fits(spec, "put", "/v1/acceptance-plans/{model}", answer)
    assert answer.body["version"] == 2
    await other.move("go_live")
    stale = await shop.ask("PUT", "/v1/acceptance-plans/A3", {"steps": [], "reason": "late", "after": 1}, "operator")
    assert (stale.status, stale.body["code"]) == (409, "conflict")
    page = await shop.ask("GET", "/v1/acceptance-plans/A3", key="merchant.one")
    fits(spec, "get", "/v1/acceptance-plans/{model}", page)
    assert [(each["version"], each["by"]) for each in page.body["items"]] == [(2, "operator"), (1, "operator")]


async def test_of_two_at_once_one_moves(shop: Shop) -> None:
    one = await trial(shop)
    answers = await asyncio.gather(*(shop.ask("POST", f"/v1/acceptance-tests/{one.id}/moves", {"event": "fail", "reason": "x"}, "operator") for _ in range(4)))
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409]


async def test_anothers_is_absent_and_nobody_does_what_is_not_his(shop: Shop, running: Trial, spec: Any) -> None:
    fits(spec, "get", "/v1/terminals/{terminal}/acceptance-test", await shop.ask("GET", f"/v1/terminals/{running.device.till}/acceptance-test", key=running.device.key))
    for key, status in (("merchant.two", 404), ("dual", 404), ("neighbour", 404), ("merchant.one", 200), (running.device.key, 200)):
        assert (await shop.ask("GET", f"/v1/acceptance-tests/{running.id}", key=key)).status == status, key
        assert (await shop.ask("GET", f"/v1/terminals/{running.device.till}/acceptance-test", key=key)).status == status, key
    sale = (await running.sale(5000))["id"]
    for key, status in (("dual", 404), ("neighbour", 404), ("merchant.one", 403), ("nobody", 401)):
        assert (await running.show("chip", sale, key)).status == status, key
    for key in ("merchant.one", running.device.key):
        assert (await running.move("pass", key)).status == 403
    assert (await shop.ask("GET", f"/v1/devices/{running.device.id}/readiness", key="merchant.two")).status == 404
    assert (await shop.ask("GET", f"/v1/devices/{running.device.id}/acceptance-tests", key="merchant.two")).status == 404


async def test_the_verbs_as_a_person_types_them(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def typed(*words: str, code: int = 0) -> str:
        assert await asyncio.to_thread(main, ["acceptance", *words, "--url", shop.base, "--key", shop.keys["operator"]]) == code, capsys.readouterr()
        said = capsys.readouterr()
        return said.out if code == 0 else said.err

    (tmp_path / "plan.json").write_text('{"steps": [{"step": "chip"}], "checks": [{"code": "paper", "en": "Paper prints", "zh": "打印"}], "roles": ["cashier"]}')
    assert "steps: chip  checks: paper  trained: cashier" in await typed("plan", "V1", "--set", str(tmp_path / "plan.json"), "--reason", "x")
    assert "version 1" in await typed("plan", "V1")
    one = await device(shop, "activated", model="V1")
    test = (await typed("open", one.id, "--reason", "x")).split()[0]
    assert "running" in await typed("move", test, "begin", "--reason", "x")
    await shop.caught_up()
    sale = (await shop.pay(5000, key=one.key)).body["id"]
    assert "shown" in await typed("name", test, "chip", sale)
    assert "it still stands" in await typed("move", test, "pass", "--reason", "x", code=2)
    assert f"to undo: {sale}" in await typed("show", test)
    assert "not ready" in await typed("check", one.id, "paper", "--reason", "x")
    trained = ("--store", shop.shown("store.first"), "--model", "V1", "--role", "cashier", "--trainee", "Wang Fang", "--trainer", "Chen Jie", "--held-on", "2026-11-20")
    assert "Wang Fang as cashier" in await typed("trained", *trained) and "Wang Fang" in await typed("trained")
    assert "steps: chip  checks: -" in await typed("lacks", one.id)
    assert "none.json cannot be read: No such file" in await typed("plan", "V1", "--set", str(tmp_path / "none.json"), "--reason", "x", code=2)


async def test_the_database_refuses_moves_that_are_none_and_a_pass_that_was_not_shown(shop: Shop) -> None:
    one = await trial(shop)
    for role in ("switch_writer", "owner"):
        sql = await (asyncpg.connect(shop.url) if role == "owner" else database.connect(shop.url, role))
        try:
            for statement in ("state = 'passed', version = version + 1", "state = 'open', version = version + 1", "state = 'failed', version = version + 1", "state = 'failed'"):
                with pytest.raises(asyncpg.CheckViolationError):
                    await sql.execute(f"UPDATE acceptance_test SET {statement} WHERE test_id = $1", UUID(one.id[4:]))
            with pytest.raises(asyncpg.CheckViolationError, match="when all its steps were shown"):
                async with sql.transaction():
                    await sql.execute("""INSERT INTO acceptance_event (test_id, number, event, was, state, person)
                                         VALUES ($1, 3, 'pass', 'running', 'passed', 'somebody')""", UUID(one.id[4:]))
                    await sql.execute("UPDATE acceptance_test SET state = 'passed', version = 3 WHERE test_id = $1", UUID(one.id[4:]))
            if role == "switch_writer":
                for statement in ("UPDATE acceptance_test SET steps = '[]'", "DELETE FROM acceptance_test", "UPDATE acceptance_step SET shown = true", "DELETE FROM acceptance_event",
                                  "UPDATE acceptance_plan SET content = '{}'", "DELETE FROM device_check", "UPDATE training SET trainee = 'x'", "UPDATE transaction_signature SET size = 1"):
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await sql.execute(statement)
        finally:
            await sql.close()
    assert (await one.now())["state"] == "running"


