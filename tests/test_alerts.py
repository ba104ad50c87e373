"""Alerts: what stands wrong for too long, raised once per beginning; rows that wait for the database; Prometheus' rules."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from switch import database, logs, metrics
from switch.alerts import KINDS, Alerts
from switch.payments.admission import AUTHORIZATION
from switch.payments.watch import After, Standing, Watch
from tests.flows import Row, Shop, eventually, new_key, open_shop
from tests.processes import run
from tests.settlements import settle

ROOT = Path(__file__).resolve().parent.parent


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("alerts")) as opened:
        (watching,) = [task for task in opened.switch.tasks if task.get_name() == "Watch.work"]
        watching.cancel()  # here each test looks itself
        yield opened


def watch_of(shop: Shop, **after: float) -> Watch:
    switch = shop.switch
    return Watch(switch.owed, switch.alarm, switch.directory, switch.links, switch.admission, 1, After(**after))


def now() -> float:
    return asyncio.get_running_loop().time()


async def row_of(shop: Shop, kind: str, object_: str) -> Row | None:
    found = await shop.sql("SELECT * FROM alert WHERE kind = $1 AND object = $2", kind, object_)
    return found[0] if found else None


async def count_of(shop: Shop, standing: Standing) -> int:
    row = await row_of(shop, *standing)
    return row["count"] if row else 0


def raised(kind: str) -> float:
    return metrics.registry.get_sample_value("switch_alerts_total", {"kind": kind}) or 0.0


async def test_a_line_that_does_not_come_up_is_called_once_until_it_was_up_again(shop: Shop) -> None:
    watch, standing, link = watch_of(shop, line_down=60.0), ("line_down", shop.shown("acquirer.single")), shop.switch.links[shop.ids["acquirer.single"]]
    before = raised("line_down")
    state, link.state = link.state, "disconnected"
    try:
        assert standing not in await watch.look(1000.0)
        link.state = "connecting"
        assert standing not in await watch.look(1059.0)
        assert standing in await watch.look(1060.0) and standing in await watch.look(1200.0)
        assert (await count_of(shop, standing), raised("line_down") - before) == (1, 1)
        link.state = "up"
        assert standing not in await watch.look(1205.0)
        link.state = "signing_on"
        assert standing not in await watch.look(1210.0), "its time starts anew"
        assert standing in await watch.look(1271.0)
        assert await count_of(shop, standing) == 2
        for by_a_person in ("down", "draining"):
            link.state = by_a_person
            assert standing not in await watch.look(1400.0)
    finally:
        link.state = state


async def test_an_acquirer_for_which_something_is_shed_at_every_look_is_called(shop: Shop) -> None:
    watch, standing = watch_of(shop, acquirer_overloaded=10.0), ("acquirer_overloaded", shop.shown("acquirer.dual"))
    gate = shop.switch.admission.gates[shop.ids["acquirer.dual"]]
    for at, shed, stands in ((0, 0, False), (5, 3, False), (10, 3, False), (15, 9, False), (20, 10, False), (25, 11, True), (30, 11, False)):
        gate.shed = shed
        assert (standing in await watch.look(float(at))) is stands, at
    gate.shed = 0


async def test_the_gate_counts_what_it_sheds(shop: Shop) -> None:
    gate = shop.switch.admission.gates[shop.ids["acquirer.dual"]]
    before, gate.in_flight = gate.shed, 100_000
    try:
        assert gate.enter(shop.ids["merchant.two"], AUTHORIZATION, now()) is None
        assert (await shop.pay(10_000, key="dual")).status == 503
        assert gate.shed == before + 2
    finally:
        gate.in_flight, gate.shed = 0, before


async def test_a_reversal_that_waits_long_is_called_and_falls_silent_when_it_is_done(shop: Shop) -> None:
    watch, standing = watch_of(shop, reversal_old=900.0), ("reversal_old", shop.shown("acquirer.single"))
    await shop.host.order("silence", count=2, match={"0": "0200"})
    await shop.host.order("silence", match={"0": "0420"}, count=1)
    answer = await shop.pay(10_000)
    assert answer.status == 202
    assert standing not in await watch.look(now())
    await shop.sql("UPDATE duty SET created_at = now() - interval '16 minutes', next_attempt_at = now() + interval '1 hour' WHERE state = 'open'")
    assert standing in await watch.look(now())
    await shop.sql("UPDATE duty SET next_attempt_at = now() WHERE state = 'open'")
    await shop.until(answer.body["id"], "reversed")
    assert standing not in await watch.look(now())
    await shop.host.forget()


async def test_a_payment_without_an_outcome_long_past_its_time_is_called(shop: Shop) -> None:
    standing = ("in_doubt_old", shop.shown("acquirer.single"))
    await shop.host.order("silence")
    key = new_key()
    paying = asyncio.create_task(shop.pay(10_000, key))

    async def sent() -> list[Row]:
        return await shop.sql("SELECT FROM transaction WHERE idempotency_key = $1 AND state = 'SENT'", key)

    await eventually(sent, "it is not sent")
    assert standing not in await watch_of(shop, in_doubt_old=60.0).look(now())
    assert standing in await watch_of(shop, in_doubt_old=-1.0).look(now()), "as if its time had been over a second ago"
    assert (await paying).status == 202


async def test_a_price_that_is_not_corrected_by_a_cut_over_is_called_until_one_has(shop: Shop) -> None:
    standing, watch = ("tier_correction_old", shop.shown("acquirer.dual")), watch_of(shop)
    merchant, dual = shop.ids["merchant.one"], shop.ids["acquirer.dual"]
    cause = await settle(shop.url, merchant, shop.ids["acquirer.single"], shop.ids["store.first"], shop.ids["terminal.till"], 1)
    await shop.sql("""INSERT INTO tier_correction (merchant_id, cause, acquirer_id, currency, from_date, noticed_at)
        VALUES ($1, $2, $3, 'CNY', '2026-11-25', now() - interval '3 days')""", merchant, cause, dual)
    assert standing not in await watch.look(now()), "a weekend is no fault"
    assert standing in await watch_of(shop, tier_correction_old=2 * 86_400.0).look(now()) and await count_of(shop, standing) == 1
    await shop.sql("UPDATE tier_correction SET settled_on = '2026-11-26' WHERE cause = $1", cause)
    assert standing not in await watch_of(shop, tier_correction_old=2 * 86_400.0).look(now())


async def test_a_worker_that_died_is_called_once_by_whoever_sees_it_first(shop: Shop) -> None:
    (lost,) = await shop.sql("INSERT INTO worker (host, pid, lease_until) VALUES ('gone', 1, now() - interval '6 seconds') RETURNING epoch")
    (ended,) = await shop.sql("""INSERT INTO worker (host, pid, lease_until, ended_at) VALUES ('ended', 2, now() - interval '6 seconds', now() - interval '6 seconds')
                                 RETURNING epoch""")
    before = raised("worker_lost")
    for watch in (watch_of(shop), watch_of(shop)):
        await watch.look(now())
        await watch.look(now())
    assert await count_of(shop, ("worker_lost", f"worker {lost['epoch']}")) == 1
    assert await row_of(shop, "worker_lost", f"worker {ended['epoch']}") is None
    (fenced,) = await shop.sql("""INSERT INTO worker (host, pid, lease_until, ended_at) VALUES ('ended by another', 3, now() + interval '9 seconds', now())
                                  RETURNING epoch""")
    await watch_of(shop).look(now())
    assert await count_of(shop, ("worker_lost", f"worker {fenced['epoch']}")) == 1
    assert raised("worker_lost") == before + 2
    await shop.sql("UPDATE worker SET ended_at = now() WHERE epoch = $1", lost["epoch"])


async def test_lost_log_lines_are_called(shop: Shop) -> None:
    watch = watch_of(shop)
    logs.log.lost_lines += 1
    assert ("log_lines_lost", "worker 1") in await watch.look(now())
    assert ("log_lines_lost", "worker 1") not in await watch.look(now())
    logs.log.lost_lines += 1
    assert ("log_lines_lost", "worker 1") in await watch.look(now())


async def test_a_database_that_is_away_is_called_at_once_and_its_row_comes_with_its_return(database_url: str, shop: Shop) -> None:
    pool = await database.pool(database_url, "switch_writer", 1)
    alarm = Alerts(pool)
    watch = Watch(pool, alarm, shop.switch.directory, {}, shop.switch.admission, 77)
    standing, before = ("database_unreachable", "worker 77"), raised("database_unreachable")
    await pool.close()
    assert standing in await watch.look(now()) and standing in await watch.look(now())
    assert (raised("database_unreachable"), alarm.left) == (before + 1, [standing])
    pool = await database.pool(database_url, "switch_writer", 1)
    try:
        watch.pool = alarm.pool = pool
        assert standing not in await watch.look(now())
        assert (await count_of(shop, standing), alarm.left) == (1, [])
    finally:
        await pool.close()


async def test_a_worker_with_stale_records_says_so(shop: Shop) -> None:
    directory = shop.switch.directory
    assert ("database_unreachable", "worker 1") in await watch_of(shop).look(directory.confirmed_at + 3.1)


async def test_an_alert_says_whether_it_still_stands(shop: Shop) -> None:
    watch, link, ours = watch_of(shop, line_down=0.0), shop.switch.links[shop.ids["acquirer.single"]], shop.shown("acquirer.single")
    await shop.switch.alarm.raise_("payout_returned", "pay_one")

    async def listed(query: str = "") -> dict[tuple[str, str], bool | None]:
        items = (await shop.ask("GET", f"/v1/alerts?limit=200{query}", key="operator")).body["items"]
        assert all((item["standing"] is None) is (item["seen_at"] is None) for item in items)
        return {(item["kind"], item["object"]): item["standing"] for item in items}

    state, link.state = link.state, "disconnected"
    try:
        await watch.look(now())
    finally:
        link.state = state
    found = await listed()
    assert (found["line_down", ours], found["payout_returned", "pay_one"]) == (True, None)
    await shop.sql("UPDATE alert SET seen_at = seen_at - interval '46 seconds' WHERE kind = 'line_down'")
    await watch.look(now())
    assert (await listed())["line_down", ours] is False, "no look has found it since"
    assert ("line_down", ours) in await listed("&standing=false") and not await listed("&standing=false&kind=payout_returned")
    assert ("line_down", ours) not in await listed("&standing=true")


async def test_alerts_are_listed_by_kind_and_by_who_has_them(shop: Shop) -> None:
    for object_ in ("acq_one", "acq_two"):
        await shop.switch.alarm.raise_("line_down", object_)
    listed = (await shop.ask("GET", "/v1/alerts?kind=line_down", key="operator")).body["items"]
    (first,) = (item for item in listed if item["object"] == "acq_two")
    assert (first["object"], first["meaning"], first["acknowledged_by"]) == ("acq_two", KINDS["line_down"], None)
    taken = await shop.ask("POST", f"/v1/alerts/{first['id']}/acknowledge", {}, "operator")
    assert taken.body["acknowledged_by"] == "Flow Tester"
    for acknowledged, found in (("true", True), ("false", False)):
        items = (await shop.ask("GET", f"/v1/alerts?acknowledged={acknowledged}", key="operator")).body["items"]
        assert (first["id"] in [item["id"] for item in items]) is found
    await shop.switch.alarm.raise_("line_down", "acq_two")
    listed = (await shop.ask("GET", "/v1/alerts?kind=line_down", key="operator")).body["items"]
    (again,) = (item for item in listed if item["object"] == "acq_two")
    assert (again["count"], again["acknowledged_by"]) == (2, None), "a new occurrence takes the name off"
    assert (await shop.ask("GET", "/v1/alerts?kind=no_such", key="operator")).status == 422


async def test_the_command_line_lists_alerts_and_takes_one_on(shop: Shop, tmp_path: Path) -> None:
    await shop.switch.alarm.raise_("line_away", "lin_one")
    where = ("--url", shop.base, "--key", shop.keys["operator"])
    listed = await asyncio.to_thread(run, tmp_path / "home", "alerts", "list", "--new", "--alert-kind", "line_away", *where)
    assert listed.code == 0 and f"  nobody's: {KINDS['line_away']}\n" in listed.out, listed
    taken = await asyncio.to_thread(run, tmp_path / "home", "alerts", "acknowledge", listed.out.split()[0], *where)
    assert taken.code == 0 and "acknowledged by Flow Tester" in taken.out, taken
    empty = await asyncio.to_thread(run, tmp_path / "home", "alerts", "list", "--new", "--alert-kind", "line_away", *where)
    assert (empty.code, empty.out, empty.err) == (0, "", "nothing is there by what was asked\n")


# Prometheus' rules


def rules() -> list[dict[str, str]]:
    """The rules of docs/alerts.yml; its form is narrow: one `key: value` a line, an expression on one line."""
    found: list[dict[str, str]] = []
    for line in (ROOT / "docs" / "alerts.yml").read_text().splitlines():
        begun = re.fullmatch(r"      - alert: (\w+)", line)
        if begun:
            found.append({"alert": begun[1]})
        elif found and (entry := re.fullmatch(r"\s{8,}(expr|for|severity|summary|runbook): (.+)", line)):
            assert entry[1] not in found[-1], f"{found[-1]['alert']} has two {entry[1]}: the last one would hide the others"
            found[-1][entry[1]] = entry[2].strip("'\"")
    return found


def test_every_rule_asks_for_metrics_that_exist_and_leads_to_the_runbook() -> None:
    exposed = {f"{family.name}{ending}" for family in metrics.registry.collect()
               for ending in {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))}
    found = rules()
    assert len(found) >= 8 and len({rule["alert"] for rule in found}) == len(found)
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    for rule in found:
        assert rule.keys() == {"alert", "expr", "for", "severity", "summary", "runbook"}, rule
        asked = set(re.findall(r"\bswitch_[a-z_]+\b", rule["expr"]))
        assert asked and asked <= exposed, f"{rule['alert']} asks for {asked - exposed}"
        assert re.fullmatch(r"\d+[sm]", rule["for"]) and rule["severity"] in ("page", "ticket")
        anchor = rule["runbook"].removeprefix("docs/runbook.md#")
        headings = {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#{2,3} (.+)$", runbook, re.MULTILINE)}
        assert anchor in headings, f"{rule['alert']} leads to {anchor}"


def test_every_kind_of_alert_reaches_somebody_and_the_urgent_ones_are_named() -> None:
    of_alerts = {rule["expr"]: rule["severity"] for rule in rules() if "switch_alerts_total" in rule["expr"]}
    assert "ticket" in {severity for expression, severity in of_alerts.items() if "{" not in expression}
    named = {kind for expression in of_alerts for kinds in re.findall(r'kind=~?"([^"]+)"', expression) for kind in kinds.split("|")}
    assert named and named <= KINDS.keys()
    assert {"reversal_parked", "mac_fault", "pending_old", "terminal_tampered", "tier_correction_old"} <= named
    exposed = {sample.labels["kind"] for family in metrics.registry.collect() if family.name == "switch_alerts" for sample in family.samples}
    assert exposed >= KINDS.keys(), "a series that begins with its first alert shows no increase"
