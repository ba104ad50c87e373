"""Breakers, several lines, TLS and what hosts say of themselves: over HTTP, real TCP and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from switch import metrics
from switch.ids import show
from switch.payments.watch import After, Watch
from tests.certificates import DAY, Authority
from tests.flows import Host, Row, Shop, eventually, new_key, open_shop
from tests.processes import run, stub, stub_book

BREAKER = {"faults": 3, "percent": 50, "window_ms": 10_000, "pause_ms": 300, "probes": 2, "codes": None}
TILLS = {"single": "till", "dual": "dual"}


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("lines")) as opened:
        next(task for task in opened.switch.tasks if task.get_name() == "Watch.work").cancel()  # the tests look themselves
        yield opened


async def put(shop: Shop, path: str, body: object, method: str = "PUT") -> Any:
    """What an operator arranges of the single-message acquirer, once every worker knows it."""
    answer = await shop.ask(method, f"/v1/acquirers/{shop.shown('acquirer.single')}/{path}", body, "operator")
    assert answer.status in (200, 201), answer.raw
    await shop.caught_up()
    return answer.body


async def lines_of(shop: Shop, name: str = "single") -> list[Any]:
    return list((await shop.ask("GET", f"/v1/acquirers/{shop.shown(f'acquirer.{name}')}/lines", key="operator")).body["items"])


async def shown(shop: Shop, name: str = "single") -> Any:
    items = (await shop.ask("GET", "/v1/links", key="operator")).body["items"]
    return next(item for item in items if item["acquirer"] == shop.shown(f"acquirer.{name}"))


async def becomes(shop: Shop, what: str, value: object, seconds: float = 8.0) -> Any:
    async def reached() -> Any:
        link = await shown(shop)
        return link if link[what] == value else None

    return await eventually(reached, f"{what} is not {value}", seconds)


def watch_of(shop: Shop, **after: float) -> Watch:
    switch = shop.switch
    return Watch(switch.owed, switch.alarm, switch.directory, switch.links, switch.admission, 1, After(**after))


def gauge(name: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"acquirer": "single"})


# the breaker


@pytest_asyncio.fixture
async def broken(shop: Shop) -> AsyncIterator[Shop]:
    """A breaker that silence has opened; the host answers no echo either until it is told to forget."""
    await put(shop, "breaker", BREAKER)
    await shop.host.order("silence", None, {"0": "0800", "70": "301"}, None)
    await shop.host.order("silence", None, {"0": "0200"}, 3)
    assert [(await shop.pay(5000 + n)).status for n in range(3)] == [202, 202, 202]
    yield shop
    await shop.host.forget()
    await put(shop, "breaker", BREAKER | {"faults": 0})


async def test_an_open_breaker_refuses_sales_before_anything_is_written_and_lets_reversals_out(broken: Shop) -> None:
    shop, key = broken, new_key()
    refused = await shop.pay(6000, key)
    assert (refused.status, refused.body["code"], refused.body["processed"]) == (503, "acquirer_unavailable", False)
    assert await shop.by_key(key) == []
    assert (await shown(shop))["breaker"] in ("open", "half_open") and (await shown(shop))["state"] == "up"
    reversing = await shop.sql("SELECT 'txn_' || transaction_id AS id FROM transaction WHERE state IN ('REVERSING', 'REVERSED') AND amount BETWEEN 5000 AND 5002")
    assert len(reversing) == 3
    for row in reversing:
        await shop.until(row["id"], "reversed")
    assert (await shown(shop))["breaker"] in ("open", "half_open"), "reversals go, and do not close it"
    shop.switch.lines.gauge()
    assert (gauge("switch_breakers_open"), gauge("switch_link_up")) == (1, 1)


async def test_it_is_probed_with_echoes_alone_and_sells_again_when_they_are_answered(broken: Shop) -> None:
    shop, key = broken, new_key()
    assert (await shop.pay(6100, key)).status == 503
    before = (await shop.host.stats())["received"]
    await asyncio.sleep(0.4)
    await shop.host.forget()
    await becomes(shop, "breaker", "closed")
    after = (await shop.host.stats())["received"]
    assert (after["0200"], after["0800"] > before["0800"]) == (before["0200"], True)
    assert (await shop.pay(6100, key)).status == 201, "the key stayed free"


async def test_while_it_is_open_another_acquirer_takes_the_sale_where_routing_allows(broken: Shop) -> None:
    shop = broken
    route = await shop.ask("POST", "/v1/routes", {"acquirer": shop.shown("acquirer.dual"), "merchant": shop.shown("merchant.one"), "priority": 900}, "operator")
    assert route.status == 201
    await shop.caught_up()
    sold = await shop.pay(6200)
    assert (sold.status, (await shop.row(sold.body["id"]))["acquirer_id"]) == (201, shop.ids["acquirer.dual"])
    await shop.host.forget()
    await becomes(shop, "breaker", "closed")
    sold = await shop.pay(6201)
    assert (await shop.row(sold.body["id"]))["acquirer_id"] == shop.ids["acquirer.single"]
    assert (await shop.ask("POST", f"/v1/routes/{route.body['id']}/retire", {}, "operator")).status == 200
    await shop.caught_up()


async def test_follow_ups_that_ask_are_refused_and_those_that_tell_are_taken(shop: Shop) -> None:
    held = (await shop.pay(7000, type="preauthorization")).body["id"]
    sold = (await shop.pay(7200)).body["id"]
    await put(shop, "breaker", BREAKER)
    await shop.host.order("silence", None, {"0": "0800", "70": "301"}, None)
    await shop.host.order("silence", None, {"0": "0200"}, 3)
    for n in range(3):
        await shop.pay(7010 + n)
    void = await shop.ask("POST", f"/v1/authorizations/{sold}/voids", {}, "till", Idempotency_Key=new_key())
    assert (void.status, void.body["code"]) == (503, "acquirer_unavailable")
    capture = await shop.ask("POST", f"/v1/authorizations/{held}/captures", {}, "till", Idempotency_Key=new_key())
    assert capture.status == 201 and (await shown(shop))["breaker"] != "closed"
    await shop.host.forget()
    await put(shop, "breaker", BREAKER | {"faults": 0})


@pytest.mark.parametrize(("code", "status", "opens"), [("91", 201, True), ("96", 202, True), ("51", 201, False), ("05", 201, False), ("68", 202, False)])
async def test_codes_of_an_outage_open_it_and_declines_never_do(shop: Shop, code: str, status: int, opens: bool) -> None:
    await put(shop, "breaker", BREAKER | {"pause_ms": 60_000})
    await shop.host.order("code", code, {"0": "0200"}, 6)
    answers = [(await shop.pay(8000 + n)).status for n in range(6)]
    assert answers == ([status] * 3 + [503] * 3 if opens else [status] * 6)
    await shop.host.forget()
    await put(shop, "breaker", BREAKER | {"faults": 0})
    assert (await shop.pay(8100)).status == 201, "without its breaker the line sells"


async def test_the_codes_of_an_acquirer_go_before_the_dialects(shop: Shop) -> None:
    await put(shop, "breaker", BREAKER | {"codes": ["92"], "pause_ms": 60_000})
    await shop.host.order("code", "91", {"0": "0200"}, 3)
    assert [(await shop.pay(8200 + n)).status for n in range(3)] == [201] * 3
    await shop.host.order("code", "92", {"0": "0200"}, 3)
    assert [(await shop.pay(8210 + n)).status for n in range(4)] == [201, 201, 201, 503]
    await put(shop, "breaker", BREAKER | {"faults": 0})


async def test_an_open_breaker_calls_somebody_even_if_it_closed_between_two_looks(shop: Shop) -> None:
    watch, standing = watch_of(shop), ("breaker_open", shop.shown("acquirer.single"))
    await watch.look(0.0)
    await put(shop, "breaker", BREAKER | {"pause_ms": 100, "probes": 1})
    await shop.host.order("code", "91", {"0": "0200"}, 3)
    for n in range(3):
        await shop.pay(8300 + n)
    await becomes(shop, "breaker", "closed")
    assert standing in await watch.look(5.0)
    assert standing not in await watch.look(10.0)
    assert (await shop.sql("SELECT count FROM alert WHERE kind = $1 AND object = $2", *standing))[0]["count"] >= 1
    await put(shop, "breaker", BREAKER | {"faults": 0})


@pytest.mark.parametrize(("body", "field"), [
    ({"faults": -1}, "faults"), ({"faults": 1, "percent": 0}, "percent"), ({"faults": 1, "probes": 0}, "probes"), ({"faults": 1, "window_ms": 1}, "window_ms"),
    ({"faults": 1, "codes": ["51"]}, "codes"), ({"faults": 1, "codes": ["00"]}, "codes"), ({"faults": 1, "codes": []}, "codes"),
    ({"faults": 1, "codes": ["91", "91"]}, "codes"), ({"faults": 1, "codes": ["ZZ"]}, "codes"), ({}, "faults"), ({"faults": 1, "x": 1}, "(unknown field)"),
])
async def test_terms_of_a_breaker_that_make_no_sense_are_refused(shop: Shop, body: Any, field: str) -> None:
    answer = await shop.ask("PUT", f"/v1/acquirers/{shop.shown('acquirer.single')}/breaker", body, "operator")
    assert (answer.status, answer.body["code"], [error["field"] for error in answer.body["errors"]]) == (422, "invalid", [field])


# several lines


@pytest_asyncio.fixture
async def second(shop: Shop, tmp_path: Path) -> AsyncIterator[tuple[Host, Row]]:
    """Another host of the acquirer and the line to it, preferred to the first; it is retired afterwards."""
    with stub(tmp_path) as host:
        line = await put(shop, "lines", {"host": "127.0.0.1", "port": host[0]}, "POST")
        (first,) = [each for each in await lines_of(shop) if each["first"]]
        await put(shop, f"lines/{first['id']}", {"priority": 10}, "PATCH")
        await eventually(lambda: up(shop, 2), "the second line does not come up")
        yield Host(*host), line
        await put(shop, f"lines/{first['id']}", {"priority": 0, "status": "active"}, "PATCH")
        await put(shop, f"lines/{line['id']}", {"status": "retired"}, "PATCH")
        await eventually(lambda: up(shop, 1), "the first line does not come up")


async def up(shop: Shop, count: int) -> bool:
    return [line["state"] for line in (await shown(shop))["lines"]] == ["up"] * count


async def test_the_preferred_host_takes_sales_and_the_other_one_stands_by(shop: Shop, second: tuple[Host, Row]) -> None:
    host, line = second
    sold = await shop.pay(5000)
    assert sold.status == 201 and len(await host.received(sold.body["rrn"])) == 1 and await shop.host.received(sold.body["rrn"]) == []
    link = await shown(shop)
    assert (link["port"], next(each["line"] for each in link["lines"])) == (host.port, line["id"])
    shop.switch.lines.gauge()
    assert gauge("switch_lines_up") == 2


async def test_a_line_that_is_taken_down_hands_over_and_takes_back_and_loses_nothing(shop: Shop, second: tuple[Host, Row]) -> None:
    host, line = second
    stop, sold = asyncio.Event(), []

    async def sell() -> None:
        while not stop.is_set():
            sold.append(await shop.pay(5100))

    tills = [asyncio.create_task(sell()) for _ in range(4)]
    await put(shop, f"lines/{line['id']}", {"status": "down"}, "PATCH")
    await eventually(lambda: up(shop, 1), "the line is not gone")
    elsewhere = await shop.pay(5101)
    assert elsewhere.status == 201 and len(await shop.host.received(elsewhere.body["rrn"])) == 1
    await put(shop, f"lines/{line['id']}", {"status": "active"}, "PATCH")
    await eventually(lambda: up(shop, 2), "the line is not back")
    back = await shop.pay(5102)
    stop.set()
    await asyncio.gather(*tills)
    assert back.status == 201 and len(await host.received(back.body["rrn"])) == 1
    assert {answer.status for answer in sold} == {201}, [answer.body for answer in sold if answer.status != 201][:3]


async def test_a_host_that_dies_is_taken_over_and_what_it_had_is_reversed_over_the_other(shop: Shop, tmp_path: Path) -> None:
    with stub(tmp_path) as dying:
        host = Host(*dying)
        line = await put(shop, "lines", {"host": "127.0.0.1", "port": host.port}, "POST")
        (first,) = [each for each in await lines_of(shop) if each["first"]]
        await put(shop, f"lines/{first['id']}", {"priority": 10}, "PATCH")
        await eventually(lambda: up(shop, 2), "the second line does not come up")
        await host.order("cut", None, {"0": "0200"})
        lost = await shop.pay(5200)
        assert (lost.status, lost.body.get("reason", "line_lost")) == (202, "line_lost")
    watch, standing = watch_of(shop, line_down=0.0), ("line_away", line["id"])
    await eventually(lambda: settled(shop), "the line still counts as up")
    sold = await shop.pay(5201)
    assert sold.status == 201 and len(await shop.host.received(sold.body["rrn"])) == 1
    rrn = (await shop.row(lost.body["id"]))["rrn"]  # the two stubs share no book: what counts here is that it is told over this line
    await eventually(lambda: shop.host.received(rrn), "its reversal does not come over the other line")
    assert [message["0"] for message in await shop.host.received(rrn)][:1] == ["0420"]
    assert standing in await watch.look(100.0) and ("line_down", shop.shown("acquirer.single")) not in await watch.look(200.0)
    with stub(tmp_path, "--port", str(host.port)) as again:
        await eventually(lambda: up(shop, 2), "the host is not connected again", 15)
        assert standing not in await watch.look(300.0)
        sold = await shop.pay(5202)
        assert len(await Host(*again).received(sold.body["rrn"])) == 1
    await put(shop, f"lines/{line['id']}", {"status": "retired"}, "PATCH")
    await put(shop, f"lines/{first['id']}", {"priority": 0}, "PATCH")
    await eventually(lambda: up(shop, 1), "the first line does not come up")


async def settled(shop: Shop) -> bool:
    return next(line["state"] for line in (await shown(shop))["lines"] if line["port"] != shop.host.port) != "up"


async def test_several_connections_to_one_host_share_its_traffic(shop: Shop) -> None:
    (first,) = await lines_of(shop)
    await put(shop, f"lines/{first['id']}", {"connections": 3}, "PATCH")
    await eventually(lambda: up(shop, 3), "not all three are up")
    assert (await shop.host.stats())["signed_on_lines"] == 3
    await shop.host.order("delay", 0.1, "any", 9)
    answers = await asyncio.gather(*(shop.pay(5300 + n) for n in range(9)))
    assert {answer.status for answer in answers} == {201}
    used = {line["line"] for line in await stub_book(shop.host.control) if line["kind"] == "received" and line.get("mti") == "0200"
            and 5300 <= int(line["fields"]["4"]) < 5330}
    assert len(used) == 3, "each carried something"
    await put(shop, f"lines/{first['id']}", {"connections": 1}, "PATCH")
    await eventually(lambda: up(shop, 1), "two are not gone")


@pytest.mark.parametrize(("body", "code", "field"), [
    ({"host": "127.0.0.1"}, "invalid", "port"), ({"host": "a b", "port": 1}, "invalid", "host"), ({"host": "h", "port": 0}, "invalid", "port"),
    ({"host": "h", "port": 1, "priority": -1}, "invalid", "line_priority"), ({"host": "h", "port": 1, "connections": 33}, "invalid", "connections"),
    ({"host": "h", "port": 1, "ca_file": "/ca"}, "invalid", "ca_file"), ({"host": "h", "port": 1, "server_name": "s", "ca_file": "ca"}, "invalid", "ca_file"),
    ({"host": "h", "port": 1, "server_name": "s", "certificate_file": "/c"}, "invalid", "certificate_file"),
    ({"host": "h", "port": 1, "connections": 32}, "conflict", ""),
])
async def test_a_line_that_makes_no_sense_is_refused(shop: Shop, body: Any, code: str, field: str) -> None:
    answer = await shop.ask("POST", f"/v1/acquirers/{shop.shown('acquirer.single')}/lines", body, "operator")
    assert (answer.body["code"], [error["field"] for error in answer.body["errors"]]) == (code, [field] if field else [])
    assert len(await lines_of(shop)) == 1


async def test_the_first_line_stays_and_the_last_active_one_too(shop: Shop) -> None:
    (first,), acquirer = await lines_of(shop), f"/v1/acquirers/{shop.shown('acquirer.single')}"
    for status in ("retired", "down"):
        assert (await shop.ask("PATCH", f"{acquirer}/lines/{first['id']}", {"status": status}, "operator")).body["code"] == "conflict"
    same = {"host": first["host"], "port": first["port"]}
    assert (await shop.ask("POST", f"{acquirer}/lines", same, "operator")).body["code"] == "already_exists"
    elsewhere = f"/v1/acquirers/{shop.shown('acquirer.dual')}/lines/{first['id']}"
    assert (await shop.ask("PATCH", elsewhere, {"port": 1}, "operator")).status == 404


# TLS, end to end


async def test_a_line_over_mutual_tls_sells_and_what_is_wrong_with_it_is_named_and_called(shop: Shop, tmp_path: Path) -> None:
    ca, other = Authority(tmp_path, "ca"), Authority(tmp_path, "other")
    host, ours = ca.issue("host.bank.example", ends=10 * DAY), ca.issue("switch", client=True)
    with stub(tmp_path, "--tls-cert", str(host.certificate), "--tls-key", str(host.key), "--tls-ca", str(ca.certificate)) as secured:
        line = await put(shop, "lines", {"host": "127.0.0.1", "port": secured[0], "server_name": "host.bank.example", "ca_file": str(ca.certificate),
                                         "certificate_file": str(ours.certificate), "key_file": str(ours.key)}, "POST")
        (first,) = [each for each in await lines_of(shop) if each["first"]]
        await put(shop, f"lines/{first['id']}", {"priority": 10}, "PATCH")
        await eventually(lambda: up(shop, 2), "the secured line does not come up")
        sold = await shop.pay(5400)
        assert sold.status == 201 and len(await Host(*secured).received(sold.body["rrn"])) == 1
        mine = next(each for each in (await shown(shop))["lines"] if each["line"] == line["id"])
        assert mine["tls"] and mine["certificate_ends_at"][:10] == f"{datetime.now(UTC) + 10 * DAY:%Y-%m-%d}"
        watch = watch_of(shop)
        assert ("certificate_ends", line["id"]) in await watch.look(0.0)
        for change, error in (({"ca_file": str(other.certificate)}, "certificate_not_trusted"),
                              ({"ca_file": str(ca.certificate), "server_name": "host.other.example"}, "certificate_of_another_name"),
                              ({"server_name": "host.bank.example", "certificate_file": str(tmp_path / "none"), "key_file": str(ours.key)}, "certificate_file or key_file")):
            await put(shop, f"lines/{line['id']}", change, "PATCH")
            await eventually(lambda error=error: names(shop, line["id"], error), error)  # type: ignore[misc]
            assert ("certificate_refused", line["id"]) in await watch.look(10.0)
            elsewhere = await shop.pay(5401)
            assert elsewhere.status == 201 and len(await shop.host.received(elsewhere.body["rrn"])) == 1
        told = await asyncio.to_thread(run, tmp_path / "home", "links", "--url", shop.base, "--key", shop.keys["operator"])
        assert told.code == 0 and "certificate_unusable" in told.out and line["id"] in told.out, told.err
        await put(shop, f"lines/{line['id']}", {"status": "retired"}, "PATCH")
        await put(shop, f"lines/{first['id']}", {"priority": 0}, "PATCH")
        await eventually(lambda: up(shop, 1), "the first line does not come up")


async def names(shop: Shop, line: str, error: str) -> bool:
    found = [each for each in (await shown(shop))["lines"] if each["line"] == line]
    return bool(found) and found[0]["state"].startswith("certificate_") and error in (found[0]["last_error"] or "")


# what hosts initiate


async def test_a_host_that_signs_off_is_sent_nothing_until_it_signs_on_again(shop: Shop) -> None:
    await shop.host.order("silence", None, {"0": "0800", "70": "001"}, 1)
    await shop.host.act(sign_off=True)
    await becomes(shop, "state", "signing_on")
    assert (await shop.pay(5500)).status == 503
    await becomes(shop, "state", "up", 15)
    assert (await shop.pay(5500)).status == 201


async def test_a_key_change_goes_to_whoever_installs_keys_and_is_refused_without(shop: Shop) -> None:
    async def answers() -> list[str]:
        return [line["fields"]["39"] for line in await stub_book(shop.host.control)
                if line["kind"] == "received" and line["mti"] == "0810" and line["fields"].get("70") == "101"]

    async def told(count: int) -> Any:
        found = await answers()
        return found if len(found) == count else None

    await eventually(lambda: alone(shop), "more lines than one are left")
    await shop.host.act(key_change=True)
    assert await eventually(lambda: told(1), "not answered") == ["30"]
    heard: list[Any] = []

    async def install(message: Any) -> str:
        heard.append(message["70"])
        if len(heard) == 2:
            raise RuntimeError("no room")
        return "00"

    before, shop.switch.lines.installer_of = shop.switch.lines.installer_of, lambda _: install
    (first,) = await lines_of(shop)
    await put(shop, f"lines/{first['id']}", {"priority": 5}, "PATCH")  # another line, which knows of it
    await eventually(lambda: alone(shop), "the line does not come up, or the one before it stays")
    for count in (2, 3):
        await shop.host.act(key_change=True)
        await eventually(lambda count=count: told(count), "not answered")  # type: ignore[misc]
    assert sorted(await answers()) == ["00", "30", "30"] and heard == ["101"] * 2
    shop.switch.lines.installer_of = before
    await put(shop, f"lines/{first['id']}", {"priority": 0}, "PATCH")
    await eventually(lambda: up(shop, 1), "the line does not come up")


async def alone(shop: Shop) -> bool:
    return (await shop.host.stats())["lines"] == 1 and await up(shop, 1)


async def open_date(shop: Shop) -> date:
    rows = await shop.sql("SELECT max(business_date) AS day FROM business_day WHERE acquirer_id = $1 AND state = 'open'", shop.ids["acquirer.single"])
    found: date = rows[0]["day"]
    return found


async def notice(shop: Shop, action: str) -> Any:
    path = f"/v1/acquirers/{shop.shown('acquirer.single')}/host-cut-overs"

    async def kept() -> Any:
        items = (await shop.ask("GET", path, key="operator")).body["items"]
        return next((item for item in items if item["action"] == action), None)

    return await eventually(kept, f"no notice is {action}")


async def test_a_cut_over_of_the_host_is_kept_and_opens_the_day_only_where_that_is_arranged(shop: Shop) -> None:
    today = await open_date(shop)
    tomorrow, later = today + timedelta(days=1), today + timedelta(days=2)
    await eventually(lambda: alone(shop), "more lines than one are left")
    await put(shop, "host-cut-over", {"host_cut_over": "record"})
    await shop.host.act(cutover=f"{tomorrow:%m%d}")
    kept = await notice(shop, "recorded")
    assert (kept["business_date"], kept["open_date"], kept["count"]) == (tomorrow.isoformat(), today.isoformat(), 1)
    await shop.host.act(cutover=f"{tomorrow:%m%d}")

    async def counted() -> bool:
        return bool((await notice(shop, "recorded"))["count"] == 2)

    await eventually(counted, "the second message is not counted")
    alert = await shop.sql("SELECT count FROM alert WHERE kind = 'host_cut_over' AND object = $1", shop.shown("acquirer.single"))
    assert [row["count"] for row in alert] == [1] and await open_date(shop) == today
    await put(shop, "host-cut-over", {"host_cut_over": "open"})
    await shop.host.act(cutover=f"{tomorrow:%m%d}")
    await notice(shop, "opened")
    await eventually(lambda: opened(shop, tomorrow), "the day is not opened")
    assert await shop.sql("SELECT FROM job WHERE kind = 'cutover'") == []
    await put(shop, "host-cut-over", {"host_cut_over": "cut_over"})
    await shop.host.act(cutover=f"{later:%m%d}")
    await notice(shop, "asked")
    await eventually(lambda: opened(shop, later), "the later day is not opened")
    (job,) = await shop.sql("SELECT key, asked_by, arguments FROM job WHERE kind = 'cutover'")
    assert (job["key"], job["asked_by"]) == (f"{show('acquirer', shop.ids['acquirer.single'])}:{tomorrow}", "the acquirer's host")
    await shop.host.act(cutover=f"{later - timedelta(days=5):%m%d}")
    assert (await notice(shop, "refused"))["business_date"] is None
    alert = await shop.sql("SELECT count FROM alert WHERE kind = 'host_cut_over' AND object = $1", shop.shown("acquirer.single"))
    assert [row["count"] for row in alert] == [2], "the host believes that the day has changed, and a person is told that ours has not"
    states = await shop.sql("SELECT state FROM business_day WHERE acquirer_id = $1 AND business_date = $2", shop.ids["acquirer.single"], today)
    assert states[0]["state"] in ("closing", "closed")
    await put(shop, "host-cut-over", {"host_cut_over": "open"})


async def opened(shop: Shop, day: date) -> bool:
    return await open_date(shop) == day


async def test_lines_and_breakers_are_arranged_on_the_command_line(shop: Shop, tmp_path: Path) -> None:
    def switch(*words: str) -> Any:
        done = run(tmp_path / "home", *words, SWITCH_DATABASE_URL=shop.url)
        return done if done.code else done.out

    made = await asyncio.to_thread(switch, "line", "add", "dual", "--host", "127.0.0.1", "--port", "9", "--priority", "50")
    (_, second) = await lines_of(shop, "dual")
    assert second["id"] in made and (second["port"], second["priority"], second["status"], second["first"]) == (9, 50, "active", False)
    await asyncio.to_thread(switch, "line", "change", "dual", second["id"], "--status", "down", "--tls-server-name", "host.bank.example", "--tls-ca", "/ca.pem")
    assert second["id"] in await asyncio.to_thread(switch, "line", "list", "dual")
    (_, second) = await lines_of(shop, "dual")
    assert (second["status"], second["server_name"], second["ca_file"]) == ("down", "host.bank.example", "/ca.pem")
    await asyncio.to_thread(switch, "line", "change", "dual", second["id"], "--status", "retired")
    assert len(await lines_of(shop, "dual")) == 1
    said = await asyncio.to_thread(switch, "breaker", "set", "dual", "--faults", "9", "--codes", "91,92")
    assert said == await asyncio.to_thread(switch, "breaker", "show", "dual") and "at 9 faults" in said and "91, 92" in said
    await asyncio.to_thread(switch, "breaker", "set", "dual", "--faults", "0")
    for words, complaint in ((("line", "add", "nobody", "--host", "h", "--port", "1"), "No acquirer has this name"),
                             (("line", "change", "dual", "lin_x", "--port", "1"), "is not the id of a line"),
                             (("breaker", "set", "dual", "--faults", "3", "--codes", "51"), "codes: response codes")):
        done = await asyncio.to_thread(switch, *words)
        assert done.code == 2 and complaint in done.err and len(done.err.splitlines()) == 1, done.err
