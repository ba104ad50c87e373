"""Tickets over real HTTP and PostgreSQL: who sees and does what, deadlines, causes from recorded sales, devices that are swapped, ratings."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
import pytest_asyncio

from switch import database
from switch.merchants.support.overdue import Overdue
from tests.fleet import Device, device, new_till
from tests.flows import Shop, open_shop, staffed
from tests.processes import Answer
from tests.test_openapi import fits

NIL = "tkt_0192f0c4-7c1e-7aaa-8bbb-1234567890ab"


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("tickets")) as opened:
        await staffed(opened, database_url)
        await opened.caught_up()
        yield opened


@pytest_asyncio.fixture(scope="module")
async def spec(shop: Shop) -> Any:
    return (await shop.ask("GET", "/openapi.json")).body


class Ticket:
    """One ticket as a person sees it."""

    def __init__(self, shop: Shop, ident: str) -> None:
        self.shop, self.id = shop, ident

    async def ask(self, method: str, path: str = "", body: object = None, key: str = "support") -> Answer:
        return await self.shop.ask(method, f"/v1/tickets/{self.id}{path}", body, key)

    async def tried(self, event: str, key: str = "support", **more: Any) -> Answer:
        return await self.ask("POST", "/steps", {"event": event, "text": "as told"} | more, key)

    async def step(self, event: str, key: str = "support", **more: Any) -> Any:
        answer = await self.tried(event, key, **more)
        assert answer.status == 200, answer.raw
        return answer.body

    async def now(self, key: str = "support") -> Any:
        answer = await self.ask("GET", key=key)
        assert answer.status == 200, answer.raw
        return answer.body

    async def causes(self) -> dict[str, Any]:
        return {each["kind"]: each["evidence"] for each in (await self.ask("GET", "/causes")).body["items"]}


async def opened(shop: Shop, key: str = "owner", **more: Any) -> Ticket:
    answer = await shop.ask("POST", "/v1/tickets", {"subject": "No sales", "text": "Since nine"} | more, key)
    assert answer.status == 201, answer.raw
    return Ticket(shop, answer.body["id"])


async def test_the_whole_life_is_recorded_with_who_when_and_what_was_said(shop: Shop, spec: Any) -> None:
    ticket = await opened(shop, terminal=(await new_till(shop)))
    first = await ticket.step("assign")
    assert (first["assignee"], first["store"], first["merchant"]) == ("Wu Min", shop.shown("store.first"), shop.shown("merchant.one"))
    await ticket.step("ask", text="Which lamp is on?")
    await ticket.step("answer", "owner", text="The red one")
    fits(spec, "post", "/v1/tickets/{ticket}/steps", await ticket.tried("resolve", text="Plugged in again"))
    await ticket.step("reopen", "owner", text="Red again")
    await ticket.step("assign", assignee="Chen Jie")
    await ticket.step("resolve", text="Cable changed")
    await ticket.step("close", "owner")
    now = await ticket.now("operator")
    assert [(each["number"], each["event"], each["was"], each["state"]) for each in now["events"]] == [
        (1, "open", None, "open"), (2, "assign", "open", "assigned"), (3, "ask", "assigned", "waiting_for_merchant"),
        (4, "answer", "waiting_for_merchant", "assigned"), (5, "resolve", "assigned", "resolved"), (6, "reopen", "resolved", "open"),
        (7, "assign", "open", "assigned"), (8, "resolve", "assigned", "resolved"), (9, "close", "resolved", "closed")]
    assert [each["by"] for each in now["events"]][:4] == [shop.shown("merchant.one"), "Wu Min", "Wu Min", shop.shown("merchant.one")]
    assert (now["reopened"], now["assignee"], now["answer_by"], now["resolve_by"], now["overdue"]) == (1, "Chen Jie", None, None, False)
    seen = await ticket.now("owner")
    assert {each["by"] for each in seen["events"]} == {"support", shop.shown("merchant.one")} and seen["assignee"] == "support"
    fits(spec, "get", "/v1/tickets/{ticket}", await ticket.ask("GET"))


async def test_what_a_colleague_has_is_taken_over_only_in_so_many_words(shop: Shop) -> None:
    ticket = await opened(shop)
    held = (await ticket.step("assign"))["events"][-1]
    refused = await ticket.tried("assign", "operator")
    assert (refused.status, refused.body["code"], refused.body["detail"]) == (409, "taken", f"Wu Min has had it since {held['at']}.")
    assert (await ticket.tried("assign", "operator", assignee="Chen Jie")).body["code"] == "taken"  # nor is it given away by others
    over = await ticket.step("take_over", "operator", text="Wu Min is ill")
    assert over["assignee"] == "Flow Tester" and [over["events"][-1][name] for name in ("event", "by", "text")] == ["take_over", "Flow Tester", "Wu Min is ill"]
    assert (await ticket.step("assign", "operator", assignee="Wu Min"))["assignee"] == "Wu Min"
    assert (await ticket.tried("take_over", "owner")).body["code"] == "ticket_move"
    assert (await ticket.tried("take_over", "operator", assignee="Chen Jie")).status == 422
    await ticket.step("ask")
    await ticket.step("answer", "owner")
    assert (await ticket.tried("assign", "operator")).body["detail"].startswith("Wu Min has had it since ")


@pytest.mark.parametrize("name", ["", " ", "\u3000", " Wu", "Wu ", "a\tb", "a\nb", "\x7f", "\u202eb", "x" * 121, "x" * 10_000, "4111 1111 1111 1111"])
async def test_who_shall_have_something_is_a_name_or_it_is_refused_by_field(shop: Shop, name: str) -> None:
    ticket = await opened(shop)
    for path, body, field in ((f"/v1/tickets/{ticket.id}/steps", {"event": "assign", "text": "x", "assignee": name}, "assignee"),
                              (f"/v1/exceptions/{NIL.replace('tkt', 'exc')}/assign", {"owner": name}, "owner")):
        refused = await shop.ask("POST", path, body, "operator")
        assert (refused.status, [each["field"] for each in refused.body["errors"]]) == (422, [field]), refused.raw
    refused = await shop.ask("POST", "/v1/keys", {"role": "operator", "person": name}, "administrator")
    assert (refused.status, [each["field"] for each in refused.body["errors"]]) == (422, ["person"]), refused.raw
    for path in (f"/v1/ticket-queue?assignee={quote(name)}", f"/v1/exceptions?owner={quote(name)}", f"/v1/reviews?reviewer={quote(name)}"):
        assert (await shop.ask("GET", path, key="operator")).status in (200, 422)


async def test_a_name_that_is_looked_for_may_hold_no_nul(shop: Shop) -> None:
    for path in ("/v1/ticket-queue?assignee=%00", "/v1/exceptions?owner=a%00b", "/v1/reviews?reviewer=%00", "/v1/contracts?name=%00"):
        assert 400 <= (await shop.ask("GET", path, key="operator")).status < 500, path


async def test_an_illegal_step_is_refused_by_name_and_changes_nothing(shop: Shop) -> None:
    ticket = await opened(shop)
    refused = await ticket.tried("resolve")
    assert (refused.status, refused.body["code"]) == (409, "ticket_move")
    assert refused.body["detail"] == "A ticket that is open cannot resolve; it can: assign."
    assert (await ticket.tried("assign", "owner")).body["detail"] == "assign is not for the merchant."
    assert (await ticket.tried("swap", replacement=None)).status == 422 and (await ticket.tried("ask", assignee="Wu Min")).status == 422
    now = await ticket.now()
    assert (now["state"], now["version"], len(now["events"])) == ("open", 1, 1)


@pytest.mark.parametrize("statement", [
    "UPDATE ticket SET state = 'resolved', version = version + 1, resolve_by = NULL WHERE ticket_id = $1",  # no step of the life
    "UPDATE ticket SET state = 'assigned', assignee = 'x', version = version + 1 WHERE ticket_id = $1",  # without its row
    "UPDATE ticket SET severity = 'low' WHERE ticket_id = $1", "UPDATE ticket SET subject = 'x' WHERE ticket_id = $1",
    "DELETE FROM ticket WHERE ticket_id = $1", "UPDATE ticket_event SET text = 'x' WHERE ticket_id = $1", "DELETE FROM ticket_event WHERE ticket_id = $1",
])
async def test_the_database_holds_the_life_too(shop: Shop, statement: str) -> None:
    ticket = await opened(shop)
    connection = await database.connect(shop.url, "switch_writer")
    try:
        with pytest.raises((asyncpg.CheckViolationError, asyncpg.InsufficientPrivilegeError)):
            await connection.execute(statement, ticket.id.removeprefix("tkt_"))
    finally:
        await connection.close()


async def test_others_see_nothing_and_terminals_what_is_of_their_store(shop: Shop) -> None:
    ticket = await opened(shop, store=shop.shown("store.first"))
    for method, path, body in (("GET", "", None), ("POST", "/steps", {"event": "withdraw", "text": "x"}), ("POST", "/comments", {"text": "x"}),
                               ("POST", "/rating", {"stars": 1})):
        assert (await ticket.ask(method, path, body, "stranger")).status == 404, path
        assert (await Ticket(shop, NIL).ask(method, path, body, "owner")).status == 404, path
    assert ticket.id not in str((await shop.ask("GET", "/v1/tickets", key="stranger")).body)
    till, elsewhere = await opened(shop, "till"), await opened(shop, store=shop.shown("store.second"))
    assert (await till.now("owner"))["store"] == shop.shown("store.first")
    assert (await ticket.now("till"))["id"] == ticket.id and (await elsewhere.ask("GET", key="till")).status == 404
    for about in ({"merchant": shop.shown("merchant.two")}, {"store": shop.shown("store.second")}, {"terminal": NIL}):
        assert (await shop.ask("POST", "/v1/tickets", {"subject": "x", "text": "x"} | about, "till")).status == 404, about
    assert (await shop.ask("POST", "/v1/tickets", {"subject": "x", "text": "x", "store": shop.shown("store.first")}, "stranger")).status == 404


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/v1/transactions"), ("GET", "/v1/devices"), ("POST", "/v1/terminals"), ("GET", "/v1/alerts"), ("GET", "/v1/disputes"),
    ("GET", "/v1/applications"), ("PUT", "/v1/ticket-terms/low"),
])
async def test_a_key_of_support_is_for_tickets_alone(shop: Shop, method: str, path: str) -> None:
    assert (await shop.ask(method, path, None if method == "GET" else {}, "support")).status == 403


@pytest.mark.parametrize(("method", "path", "key"), [
    ("GET", "/v1/ticket-queue", "owner"), ("GET", f"/v1/tickets/{NIL}/causes", "owner"), ("POST", f"/v1/tickets/{NIL}/rating", "support"),
    ("PUT", "/v1/ticket-terms/low", "owner"), ("GET", "/v1/ticket-queue", "till"),
])
async def test_what_is_for_others_is_refused(shop: Shop, method: str, path: str, key: str) -> None:
    assert (await shop.ask(method, path, None if method == "GET" else {}, key)).status == 403


async def test_internal_words_are_not_for_the_merchant_and_no_answer(shop: Shop) -> None:
    ticket = await opened(shop)
    assert (await ticket.ask("POST", "/comments", {"text": "The third this week", "internal": True})).status == 201
    assert "third" not in (await ticket.ask("GET", key="owner")).raw.decode() and "third" in (await ticket.ask("GET")).raw.decode()
    assert (await ticket.now())["answer_by"] is not None
    assert (await ticket.ask("POST", "/comments", {"text": "x", "internal": True}, "owner")).status == 403
    assert (await ticket.ask("POST", "/comments", {"text": "Card 4111 1111 1111 1111"}, "owner")).status == 422
    assert (await ticket.ask("POST", "/comments", {"text": "We look at it"})).body["answer_by"] is None


async def test_what_is_overdue_is_called_once_and_stands_first_in_the_queue(shop: Shop, spec: Any) -> None:
    late, urgent = await opened(shop, severity="low"), await opened(shop, severity="critical")
    await shop.sql("UPDATE ticket SET answer_by = now() - interval '1 minute' WHERE ticket_id = $1::text::uuid", late.id.removeprefix("tkt_"))
    await Overdue(shop.switch.owed).look()  # or the switch's own has looked already: once in all
    queue = await shop.ask("GET", "/v1/ticket-queue?limit=200", key="support")
    fits(spec, "get", "/v1/ticket-queue", queue)
    order = [each["id"] for each in queue.body["items"]]
    assert order.index(late.id) < order.index(urgent.id) and queue.body["items"][order.index(late.id)]["overdue"]
    await Overdue(shop.switch.owed).look()
    (alert,) = await shop.sql("SELECT count FROM alert WHERE kind = 'ticket_overdue' AND object = $1", late.id)
    assert alert["count"] == 1


async def test_terms_are_data_for_tickets_from_now_on(shop: Shop, spec: Any) -> None:
    before = await opened(shop, severity="low")
    answer = await shop.ask("PUT", "/v1/ticket-terms/low", {"answer_minutes": 5, "resolve_minutes": 10}, "operator")
    fits(spec, "put", "/v1/ticket-terms/{severity}", answer)
    fits(spec, "get", "/v1/ticket-terms", await shop.ask("GET", "/v1/ticket-terms", key="support"))
    assert (await shop.ask("PUT", "/v1/ticket-terms/low", {"answer_minutes": 11, "resolve_minutes": 10}, "operator")).status == 422
    assert (await (await opened(shop, severity="low")).now())["resolve_by"] < (await before.now())["resolve_by"]


async def test_causes_come_from_recorded_sales_and_heartbeats(shop: Shop, spec: Any) -> None:
    one = await device(shop, "live")
    await one.beat(paper="out", battery_percent=9, charging=False)
    for _ in range(3):
        assert (await shop.pay(1051, key=one.key)).body["response_code"] == "51"
    ticket = await opened(shop, terminal=one.till)
    assert (await ticket.ask("GET", "/causes", key="owner")).status == 403
    fits(spec, "get", "/v1/tickets/{ticket}/causes", await ticket.ask("GET", "/causes"))
    found = await ticket.causes()
    assert {"paper_out", "battery_low", "declined"} <= found.keys()
    assert found["declined"]["response_code"] == "51" and found["declined"]["count"] == 3 and found["declined"]["last"].startswith("txn_")
    assert found["paper_out"]["device"] == one.id and not {"line_down", "merchant_not_active", "terminal_without_key"} & found.keys()


async def test_support_reads_the_transaction_that_a_ticket_names_and_no_other(shop: Shop, spec: Any) -> None:
    sale = (await shop.pay(1234)).body
    ticket, other = await opened(shop, transaction=sale["id"]), await opened(shop)
    answer = await ticket.ask("GET", "/transaction")
    fits(spec, "get", "/v1/tickets/{ticket}/transaction", answer)
    assert {name: answer.body[name] for name in ("id", "amount", "rrn", "status")} == {
        "id": sale["id"], "amount": 1234, "rrn": sale["rrn"], "status": "approved"}
    assert (await other.ask("GET", "/transaction")).status == 404
    assert (await ticket.ask("GET", "/transaction", key="owner")).status == 403
    assert (await shop.ask("GET", f"/v1/transactions/{sale['id']}", key="support")).status == 403


async def test_a_swap_gives_the_till_to_the_replacement_in_the_ticket_s_commit(shop: Shop) -> None:
    old, new = await device(shop, "live"), await Device(shop, "").register()
    ticket = await opened(shop, terminal=old.till)
    await ticket.step("assign")
    await ticket.step("repair")
    assert (await old.now())["state"] == "maintenance"
    refused = await ticket.tried("swap", replacement=old.id)
    assert refused.status == 409 and (await ticket.now())["version"] == 3
    after = await ticket.step("swap", replacement=new.id)
    assert (after["events"][-1]["device"], after["events"][-1]["replacement"], after["state"]) == (old.id, new.id, "assigned")
    assert ((await old.now())["state"], (await new.now())["state"], (await new.now())["terminal"]) == ("returned", "installed", old.till)
    assert ticket.id in (await new.events())[-1]["reason"]
    await old.until_it_sells(False)  # its keys ended with it
    await new.activate()
    await new.move("go_live")
    await ticket.step("repair")
    await ticket.step("give_back")
    assert (await new.now())["state"] == "live"


async def test_a_ticket_is_rated_once_by_its_merchant_when_it_is_closed(shop: Shop) -> None:
    ticket = await opened(shop)
    assert (await ticket.ask("POST", "/rating", {"stars": 5}, "owner")).body["code"] == "ticket_move"
    await ticket.step("withdraw", "owner")
    assert (await ticket.ask("POST", "/rating", {"stars": 6}, "owner")).status == 422
    assert (await ticket.ask("POST", "/rating", {"stars": 4, "text": "Good"}, "owner")).body["rating"]["stars"] == 4
    assert (await ticket.ask("POST", "/rating", {"stars": 1}, "owner")).body["code"] == "ticket_rated"
    assert (await ticket.now())["rating"] == {"stars": 4, "text": "Good", "at": (await ticket.now())["rating"]["at"]}
