"""Onboarding writes the directory's tables: whole or not at all, checked first, and what it wrote is what the directory loads."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import asyncpg
import pytest
import pytest_asyncio

from messages import dialect as dialects
from messages.literals import Folder
from switch import database
from switch.database import Pool
from switch.directory import Directory
from switch.errors import Problem
from switch.merchants import (
    BRANDS,
    Acquirer,
    BinRange,
    Key,
    Merchant,
    Numbers,
    Organisation,
    Route,
    Store,
    Terminal,
    default_bins,
)
from switch.merchants.onboarding import Onboarding
from switch.security import credentials

NOBODY = UUID(int=0)
LINE = {"dialect": "iso87_ascii", "host": "127.0.0.1", "port": 5000}


@pytest_asyncio.fixture(scope="module")
async def pool(database_url: str) -> AsyncIterator[Pool]:
    writers = await database.pool(database_url, "switch_writer", 8)
    yield writers
    await writers.close()


@pytest.fixture
def onboarding(pool: Pool) -> Onboarding:
    return Onboarding(pool)


@pytest_asyncio.fixture(scope="module")
async def ranges(pool: Pool, database_url: str) -> Directory:
    await Onboarding(pool).install_bins()
    return await loaded(database_url)


def acquirer_name() -> str:
    return f"bank-{uuid4().hex[:8]}"


async def a_merchant(onboarding: Onboarding, **changed: Any) -> Merchant:
    organisation = await onboarding.organisation("Harbour Group")
    return await onboarding.merchant(**{"organisation_id": organisation.organisation_id, "name": "Harbour Noodles", "mcc": "5812"} | changed)


async def a_store(onboarding: Onboarding, merchant: Merchant | None = None) -> Store:
    return await onboarding.store((merchant or await a_merchant(onboarding)).merchant_id, "Pier 3")


def numbers_at(terminal: Terminal, acquirer: Acquirer) -> tuple[str, str]:
    return next((n.card_acceptor_terminal, n.card_acceptor) for n in terminal.numbers if n.acquirer_id == acquirer.acquirer_id)


async def loaded(database_url: str) -> Directory:
    directory = Directory()
    reader = await database.connect(database_url, "switch_reader")
    await directory.load(reader)
    await reader.close()
    return directory


async def refused(work: Awaitable[Any]) -> Problem:
    with pytest.raises(Problem) as raised:
        await work
    return raised.value


async def test_a_store_has_its_merchants_zone_unless_it_names_its_own(onboarding: Onboarding) -> None:
    merchant = await a_merchant(onboarding, time_zone="Asia/Urumqi")
    assert (await onboarding.store(merchant.merchant_id, "Pier 3", "Urumqi")).time_zone == "Asia/Urumqi"
    assert (await onboarding.store(merchant.merchant_id, "Pier 4", time_zone="Asia/Tokyo", country="JP")).time_zone == "Asia/Tokyo"


async def test_what_was_onboarded_is_what_the_directory_loads(onboarding: Onboarding, database_url: str) -> None:
    acquirer = await onboarding.acquirer(acquirer_name(), **LINE, institution_code="00010344", time_zone="Asia/Shanghai")
    merchant = await a_merchant(onboarding, duplicate_policy="refuse")
    terminal = await onboarding.terminal((await a_store(onboarding, merchant)).store_id, "Till 1")
    route = await onboarding.route(acquirer.name, merchant.merchant_id, "visa", 7)
    issued = await onboarding.key("terminal", terminal_id=terminal.terminal_id)
    await onboarding.install_bins()
    directory = await loaded(database_url)
    known = directory.acquirers[acquirer.acquirer_id]
    assert (known.name, [line[1:3] for line in known.lines], known.institution_code, known.message_mode) == (acquirer.name, [("127.0.0.1", 5000)], "00010344", "single")
    assert (known.answer_timeout_s, known.reversal_grace_s, known.max_in_flight) == (30.0, 5.0, 2048)
    assert known.business_date == acquirer.business_date
    assert directory.merchants[merchant.merchant_id].duplicate_policy == "refuse"
    assert directory.terminals[terminal.terminal_id].numbers[acquirer.acquirer_id] == numbers_at(terminal, acquirer)
    assert directory.routes[route.route_id][1:5] == (acquirer.acquirer_id, merchant.merchant_id, "visa", 7)
    assert credentials.authenticate(issued.text, lambda key_id: directory.keys.find(key_id).secret_digest) == issued.key.key_id
    assert directory.brand("621234567890") is not None


@pytest.mark.parametrize(("pan_prefix", "brand"), [
    ("621234567890", "unionpay"), ("620000000000", "unionpay"), ("622126000000", "unionpay"), ("810000000000", "unionpay"),
    ("817199000000", "unionpay"), ("411111111111", "visa"), ("499999999999", "visa"), ("510000000000", "mastercard"),
    ("559999999999", "mastercard"), ("222100000000", "mastercard"), ("272099999999", "mastercard"), ("340000000000", "amex"),
    ("378282246310", "amex"), ("352800000000", "jcb"), ("358999999999", "jcb"), ("300000000000", "diners"), ("305693090259", "diners"),
    ("309500000000", "diners"), ("362272061667", "diners"), ("385200000232", "diners"), ("601111111111", "discover"),
    ("644000000000", "discover"), ("659999999999", "discover"),
    ("222099999999", None), ("272100000000", None), ("352799999999", None), ("359000000000", None), ("500000000000", None),
    ("560000000000", None), ("602000000000", None), ("818000000000", None), ("306000000000", None), ("900000000000", None),
])
async def test_installed_ranges_tell_the_brand(ranges: Directory, pan_prefix: str, brand: str | None) -> None:
    found = ranges.brand(pan_prefix)
    assert (found.brand if found else None) == brand


async def test_ranges_are_installed_once(onboarding: Onboarding) -> None:
    await onboarding.install_bins()
    before = await onboarding.bins()
    assert await onboarding.install_bins() == 0
    assert await onboarding.install_bins([BinRange("62128801", "62128899", "unionpay", "debit", (19,))]) == 1
    assert len(await onboarding.bins()) == len(before) + 1


def test_default_ranges_do_not_overlap_and_name_every_brand() -> None:
    ranges = sorted((each.low, each.high) for each in default_bins())
    assert all(low <= high for low, high in ranges)
    assert all(before[1] < after[0] for before, after in pairwise(ranges))
    assert {"unionpay", "visa", "mastercard", "amex", "jcb", "diners", "discover"} == BRANDS


async def test_a_terminal_gets_numbers_at_every_acquirer_and_its_merchants_card_acceptor(onboarding: Onboarding) -> None:
    first, second = [await onboarding.acquirer(acquirer_name(), **LINE, number_terminals=False) for _ in range(2)]
    merchant, other = await a_merchant(onboarding), await a_merchant(onboarding)
    stores = [await a_store(onboarding, merchant), await a_store(onboarding, merchant), await a_store(onboarding, other)]
    terminals = [await onboarding.terminal(store.store_id, "Till") for store in stores]
    for acquirer in (first, second):
        assert [numbers_at(terminal, acquirer) for terminal in terminals] == [
            ("T0000001", "M00000000000001"), ("T0000002", "M00000000000001"), ("T0000003", "M00000000000002")]


async def test_a_new_acquirer_knows_all_terminals_but_the_retired(onboarding: Onboarding, pool: Pool) -> None:
    store = await a_store(onboarding)
    terminals = [await onboarding.terminal(store.store_id, f"Till {n}") for n in (1, 2, 3)]
    await onboarding.terminal_status(terminals[2].terminal_id, "retired")
    acquirer = await onboarding.acquirer(acquirer_name(), **LINE)
    rows = await pool.fetch("SELECT * FROM acquirer_terminal WHERE acquirer_id = $1", acquirer.acquirer_id)
    assert len(rows) == await pool.fetchval("SELECT count(*) FROM terminal WHERE status <> 'retired'")
    assert len({row["card_acceptor_terminal"] for row in rows}) == len(rows)
    assert {len(row["card_acceptor_terminal"]) for row in rows} == {8} and {len(row["card_acceptor"]) for row in rows} == {15}
    assert len({(row["merchant_id"], row["card_acceptor"]) for row in rows}) == len({row["merchant_id"] for row in rows})
    assert terminals[2].terminal_id not in {row["terminal_id"] for row in rows}


async def test_generated_numbers_skip_those_the_acquirer_gave_itself(onboarding: Onboarding) -> None:
    acquirer = await onboarding.acquirer(acquirer_name(), **LINE, number_terminals=False)
    store, other = await a_store(onboarding), await a_store(onboarding)
    given = await onboarding.terminal(store.store_id, "Till", [Numbers(acquirer.acquirer_id, "T0000001", "898411258120001")])
    highest = await onboarding.terminal(other.store_id, "Till", [Numbers(acquirer.acquirer_id, "T9999999", "M99999999999999")])
    assert numbers_at(given, acquirer) == ("T0000001", "898411258120001")
    assert numbers_at(await onboarding.terminal(store.store_id, "Till"), acquirer) == ("T0000002", "898411258120001")
    assert numbers_at(await onboarding.terminal(other.store_id, "Till"), acquirer) == ("T0000003", numbers_at(highest, acquirer)[1])


async def test_concurrent_terminals_and_acquirers_miss_no_number_and_share_none(onboarding: Onboarding, pool: Pool) -> None:
    store = await a_store(onboarding)
    made = await asyncio.gather(*[onboarding.terminal(store.store_id, f"Till {n}") for n in range(12)],
                                *[onboarding.acquirer(acquirer_name(), **LINE) for _ in range(3)])
    acquirers = [each for each in made if isinstance(each, Acquirer)]
    terminals = [await onboarding.get(Terminal, each.terminal_id) for each in made if isinstance(each, Terminal)]
    for acquirer in acquirers:
        assert len({numbers_at(terminal, acquirer)[0] for terminal in terminals}) == len(terminals)


async def test_given_numbers_are_filled_with_spaces_and_never_changed(onboarding: Onboarding) -> None:
    acquirer = await onboarding.acquirer(acquirer_name(), **LINE)
    terminal = await onboarding.terminal((await a_store(onboarding)).store_id, "Till", [])
    assert terminal.numbers == ()
    numbered = await onboarding.number(terminal.terminal_id, acquirer.acquirer_id, "A1", "SHOP")
    assert numbered.numbers == (Numbers(acquirer.acquirer_id, "A1      ", "SHOP           "),)
    assert (await refused(onboarding.number(terminal.terminal_id, acquirer.acquirer_id, "A2", "SHOP"))).code == "already_exists"
    other = await onboarding.terminal((await a_store(onboarding)).store_id, "Till", [])
    assert (await refused(onboarding.number(other.terminal_id, acquirer.acquirer_id, "A1", "SHOP"))).code == "already_exists"
    assert (await refused(onboarding.number(other.terminal_id, NOBODY, "A1", "SHOP"))).code == "not_found"


async def test_a_terminal_whose_numbers_are_refused_is_not_there(onboarding: Onboarding, pool: Pool) -> None:
    store, before = await a_store(onboarding), await pool.fetchval("SELECT count(*) FROM terminal")
    assert (await refused(onboarding.terminal(store.store_id, "Till", [Numbers(NOBODY, "A1", "SHOP")]))).code == "not_found"
    assert await pool.fetchval("SELECT count(*) FROM terminal") == before


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago", "UTC"])
async def test_the_first_business_day_is_today_where_the_acquirer_is(onboarding: Onboarding, zone: str) -> None:
    before = datetime.now(ZoneInfo(zone)).date()
    acquirer = await onboarding.acquirer(acquirer_name(), **LINE, time_zone=zone)
    assert before <= acquirer.business_date <= datetime.now(ZoneInfo(zone)).date()


async def test_a_cut_over_opens_the_later_day_and_starts_closing_the_earlier(onboarding: Onboarding, pool: Pool) -> None:
    acquirer = await onboarding.acquirer(acquirer_name(), **LINE)
    today, tomorrow = acquirer.business_date, acquirer.business_date + timedelta(days=1)
    for _ in range(2):  # a host may say it twice
        await onboarding.open_business_day(acquirer.acquirer_id, tomorrow)
    days = await pool.fetch("SELECT business_date, state FROM business_day WHERE acquirer_id = $1 ORDER BY 1", acquirer.acquirer_id)
    assert [tuple(day) for day in days] == [(today, "closing"), (tomorrow, "open")]
    assert (await refused(onboarding.open_business_day(acquirer.acquirer_id, today))).code == "conflict"


async def test_an_acquirers_line_status_and_timers_change_alone(onboarding: Onboarding) -> None:
    made = await onboarding.acquirer(acquirer_name(), **LINE, institution_code="1")
    changed = await onboarding.change_acquirer(made.acquirer_id, port=6000)
    assert (changed.host, changed.port, changed.status, changed.answer_timeout_ms) == ("127.0.0.1", 6000, "active", 30_000)
    changed = await onboarding.change_acquirer(made.acquirer_id, status="draining", answer_timeout_ms=3000)
    assert (changed.port, changed.status, changed.answer_timeout_ms, changed.reversal_grace_ms) == (6000, "draining", 3000, 5000)
    assert (changed.reversal_codes, changed.reversal_max_age_s, changed.reversals_per_second, changed.reversals_at_once, changed.reversal_first) == (
        {}, 259_200, 1000, 200, False)
    changed = await onboarding.change_acquirer(made.acquirer_id, reversal_codes={"21": "acknowledged"}, reversal_max_age_s=3600, reversal_first=True)
    assert (changed.reversal_codes, changed.reversal_max_age_s, changed.reversals_at_once, changed.reversal_first) == (
        {"21": "acknowledged"}, 3600, 200, True)
    changed = await onboarding.change_acquirer(made.acquirer_id, reversal_codes={}, reversals_per_second=5, reversals_at_once=7, reversal_first=False)
    assert (changed.reversal_codes, changed.reversal_max_age_s, changed.reversals_per_second, changed.reversals_at_once, changed.reversal_first) == (
        {}, 3600, 5, 7, False)
    assert (await refused(onboarding.change_acquirer(NOBODY, port=1))).code == "not_found"
    assert (await refused(onboarding.change_acquirer(made.acquirer_id, status="gone"))).errors[0]["field"] == "status"


@pytest.mark.parametrize(("dialect", "mode", "wanted"), [("visa_base1", "single", "dual"), ("mastercard_cis", "single", "dual"), ("unionpay_pos", "dual", "single")])
async def test_an_acquirer_that_could_not_say_one_sale_is_refused(onboarding: Onboarding, dialect: str, mode: str, wanted: str) -> None:
    refusal = await refused(onboarding.acquirer(acquirer_name(), **{**LINE, "dialect": dialect}, message_mode=mode))
    assert refusal.errors == [{"field": "message_mode", "rule": f"{wanted}: {dialect} has no sales of {mode} messages", "type": "rule"}]
    assert (await onboarding.acquirer(acquirer_name(), **{**LINE, "dialect": dialect}, message_mode=wanted)).message_mode == wanted


@pytest.mark.parametrize(("name", "right", "wrong", "says"), [
    ("run", '"framing": (', '"framing": tuple(', r"run\.py: line 5: tuple\(.* is not a literal but a call"),
    ("contradictory", '"agree": ("3", ', '"agree": ("1", ', "agree: no field 1 in fields"),
    ("silent", '("terminal_identification", "ans", 8', '("terminal_identification", "ans", 16', "message .*: field 41: not exactly 16"),
])
async def test_an_acquirer_is_not_added_whose_dialect_is_unsound(name: str, right: str, wrong: str, says: str, onboarding: Onboarding, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path("messages/dialects/iso87_ascii.py").read_text().replace('"name": "iso87_ascii"', f'"name": "{name}"')
    assert right in text
    (tmp_path / f"{name}.py").write_text(text.replace(right, wrong))
    monkeypatch.setattr(dialects, "LITERALS", Folder(tmp_path))
    fault, = (await refused(onboarding.acquirer(acquirer_name(), **{**LINE, "dialect": name}))).errors
    assert fault["field"] == "dialect" and re.match(f"a sound one: .*{says}.*; see switch dialect check, mend the file, start anew$", fault["rule"]), fault


async def test_what_a_dialect_wants_of_reversals_is_shown_and_cannot_be_switched_off(onboarding: Onboarding) -> None:
    wants = {**LINE, "dialect": "unionpay_pos"}
    fault = {"field": "reversal_first", "rule": "true: the hosts of this dialect want it", "type": "rule"}
    assert (await refused(onboarding.acquirer(acquirer_name(), **wants, reversal_first=False))).errors == [fault]
    made = await onboarding.acquirer(acquirer_name(), **wants)
    assert made.reversal_first
    assert (await refused(onboarding.change_acquirer(made.acquirer_id, reversal_first=False))).errors == [fault]
    assert (await onboarding.change_acquirer(made.acquirer_id, reversal_first=True, port=6000)).reversal_first


async def test_names_of_acquirers_and_routes_and_tariffs_are_there_once(onboarding: Onboarding) -> None:
    acquirer, merchant = await onboarding.acquirer(acquirer_name(), **LINE), await a_merchant(onboarding)
    assert (await refused(onboarding.acquirer(acquirer.name, **LINE))).code == "already_exists"
    assert await onboarding.acquirer_named(acquirer.name) == acquirer
    assert (await refused(onboarding.acquirer_named("nobody"))).code == "not_found"
    await onboarding.route(acquirer.acquirer_id)
    await onboarding.route(acquirer.acquirer_id, brand="unknown")
    assert (await refused(onboarding.route(acquirer.acquirer_id, priority=1))).code == "already_exists"
    await onboarding.tariff(merchant.merchant_id, date(2026, 1, 1), 60)
    assert (await refused(onboarding.tariff(merchant.merchant_id, date(2026, 1, 1), 38))).code == "already_exists"


async def test_the_same_route_added_twice_at_once_is_there_once(onboarding: Onboarding, database_url: str) -> None:
    acquirer, merchant = await onboarding.acquirer(acquirer_name(), **LINE), await a_merchant(onboarding)
    writer = await database.connect(database_url, "switch_writer")
    async with writer.transaction():
        await writer.execute("SELECT pg_advisory_xact_lock(3583001)")  # the change log's: no insert ends before both have looked
        both = [asyncio.create_task(onboarding.route(acquirer.name, merchant.merchant_id)) for _ in range(2)]
        while await writer.fetchval("""SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())""") < 2:
            await asyncio.sleep(0.01)
    await writer.close()
    ended = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(each).__name__ for each in ended) == ["Problem", "Route"]


async def test_tariffs_come_latest_first_in_pages(onboarding: Onboarding) -> None:
    merchant = await a_merchant(onboarding)
    for month in (1, 3, 2):
        await onboarding.tariff(merchant.merchant_id, date(2026, month, 1), month)
    page = await onboarding.tariffs(merchant.merchant_id, limit=2)
    assert [each.basis_points for each in page.items] == [3, 2]
    rest = await onboarding.tariffs(merchant.merchant_id, after=page.next)
    assert [each.basis_points for each in rest.items] == [1] and rest.next is None


async def test_statuses_change_and_their_end_is_final(onboarding: Onboarding) -> None:
    merchant = await a_merchant(onboarding)
    terminal = await onboarding.terminal((await a_store(onboarding, merchant)).store_id, "Till")
    for change, ident, statuses in ((onboarding.merchant_status, merchant.merchant_id, ("suspended", "active", "closed", "closed")),
                                    (onboarding.terminal_status, terminal.terminal_id, ("suspended", "active", "retired", "retired"))):
        for status in statuses:
            assert (await change(ident, status)).status == status
        assert (await refused(change(ident, "active"))).code == "conflict"
        assert (await refused(change(ident, "asleep"))).errors[0]["field"] == "status"
        assert (await refused(change(NOBODY, "active"))).code == "not_found"


async def test_a_keys_secret_is_shown_once_and_stored_nowhere(onboarding: Onboarding, pool: Pool) -> None:
    merchant = await a_merchant(onboarding)
    issued = await onboarding.key("merchant", merchant_id=merchant.merchant_id)
    secret = issued.text.split(".")[1]
    assert secret not in repr(issued)
    stored = dict(await pool.fetchrow("SELECT * FROM api_key WHERE key_id = $1", issued.key.key_id))
    assert stored["secret_digest"] == credentials.digest(secret) and secret not in str(stored)
    assert issued.key == await onboarding.get(Key, issued.key.key_id)


async def test_a_revoked_key_is_unknown_from_then_on(onboarding: Onboarding, database_url: str) -> None:
    issued = await onboarding.key("operator", person="Li Wei")
    revoked = await onboarding.revoke_key(issued.key.key_id)
    assert revoked.revoked_at is not None and revoked == await onboarding.revoke_key(issued.key.key_id)
    known = (await loaded(database_url)).keys.find(issued.key.key_id)
    assert known.ends_at is not None and known.ends_at <= datetime.now(UTC).timestamp()
    assert (await refused(onboarding.revoke_key("o00000000000000a"))).code == "not_found"


@pytest.mark.parametrize(("role", "subjects", "field"), [
    ("terminal", (), "terminal"), ("terminal", ("merchant_id",), "terminal"), ("terminal", ("terminal_id", "person"), "person"),
    ("merchant", ("terminal_id",), "terminal"), ("merchant", ("person",), "merchant"), ("operator", (), "person"),
    ("operator", ("merchant_id", "person"), "merchant"), ("auditor", ("person",), "role"),
])
async def test_a_key_belongs_to_exactly_what_its_role_names(onboarding: Onboarding, role: Any, subjects: tuple[str, ...], field: str) -> None:
    given: dict[str, Any] = {"terminal_id": NOBODY, "merchant_id": NOBODY, "person": "Li Wei"}
    problem = await refused(onboarding.key(role, **{name: given[name] for name in subjects}))
    assert problem.code == "invalid" and field in {error["field"] for error in problem.errors}


@pytest.mark.parametrize("expires_at", [datetime(2020, 1, 1, tzinfo=UTC), datetime(2999, 1, 1)])
async def test_a_key_expires_in_the_future_at_an_instant(onboarding: Onboarding, expires_at: datetime) -> None:
    assert (await refused(onboarding.key("operator", person="Li Wei", expires_at=expires_at))).errors[0]["field"] == "expires_at"


ACQUIRER = {"name": "bank", **LINE}


@pytest.mark.parametrize(("verb", "changed", "field"), [
    ("organisation", {"name": ""}, "name"), ("organisation", {"name": "x" * 121}, "name"), ("organisation", {"name": "a\x00b"}, "name"),
    ("organisation", {"name": "a\u202eb"}, "name"), ("organisation", {"name": " a"}, "name"), ("organisation", {"name": "\ud800"}, "name"),
    ("merchant", {"mcc": "581"}, "mcc"), ("merchant", {"mcc": "58120"}, "mcc"), ("merchant", {"mcc": "٥٨١٢"}, "mcc"),
    ("merchant", {"mcc": "5812\n"}, "mcc"), ("merchant", {"time_zone": "Mars/Base"}, "time_zone"), ("merchant", {"time_zone": "../UTC"}, "time_zone"),
    ("merchant", {"time_zone": "Europe"}, "time_zone"), ("merchant", {"duplicate_policy": "ask"}, "duplicate_policy"),
    ("store", {"country": "cn"}, "country"), ("store", {"country": "CHN"}, "country"), ("store", {"city": "x" * 41}, "city"),
    ("store", {"time_zone": "nowhere"}, "time_zone"),
    ("acquirer", {"name": "Bank"}, "name"), ("acquirer", {"name": "-bank"}, "name"), ("acquirer", {"dialect": "morse"}, "dialect"),
    ("acquirer", {"host": "a b"}, "host"), ("acquirer", {"host": ""}, "host"), ("acquirer", {"port": 0}, "port"),
    ("acquirer", {"port": 65536}, "port"), ("acquirer", {"port": True}, "port"), ("acquirer", {"message_mode": "triple"}, "message_mode"),
    ("acquirer", {"institution_code": "123456789012"}, "institution_code"), ("acquirer", {"answer_timeout_ms": 99}, "answer_timeout_ms"),
    ("acquirer", {"reversal_grace_ms": -1}, "reversal_grace_ms"), ("acquirer", {"max_in_flight": 0}, "max_in_flight"),
    ("acquirer", {"reversal_codes": {"2": "park"}}, "reversal_codes"), ("acquirer", {"reversal_codes": {"21": "close"}}, "reversal_codes"),
    ("acquirer", {"reversal_codes": {"2\n": "park"}}, "reversal_codes"), ("acquirer", {"reversal_max_age_s": 0}, "reversal_max_age_s"),
    ("acquirer", {"reversals_per_second": 0}, "reversals_per_second"), ("acquirer", {"reversals_at_once": 2001}, "reversals_at_once"),
    ("acquirer", {"reversal_first": 1}, "reversal_first"),
    ("acquirer", {"time_zone": "UTC+8"}, "time_zone"),
    ("number", {"card_acceptor_terminal": "123456789"}, "card_acceptor_terminal"),
    ("number", {"card_acceptor_terminal": " "}, "card_acceptor_terminal"),
    ("number", {"card_acceptor": "x" * 16}, "card_acceptor"), ("number", {"card_acceptor": "é"}, "card_acceptor"),
    ("route", {"priority": 10_001}, "priority"), ("tariff", {"basis_points": 10_001}, "basis_points"),
])
async def test_a_field_that_breaks_its_rule_is_named_and_not_repeated(onboarding: Onboarding, pool: Pool, verb: str,
                                                                      changed: dict[str, Any], field: str) -> None:
    whole: dict[str, dict[str, Any]] = {
        "organisation": {}, "merchant": {"organisation_id": NOBODY, "name": "Shop", "mcc": "5812"}, "store": {"merchant_id": NOBODY, "name": "Shop"},
        "acquirer": ACQUIRER, "number": {"terminal_id": NOBODY, "acquirer_id": NOBODY, "card_acceptor_terminal": "1", "card_acceptor": "1"},
        "route": {"acquirer": NOBODY}, "tariff": {"merchant_id": NOBODY, "effective_from": date(2026, 1, 1)},
    }
    call: Callable[..., Awaitable[Any]] = getattr(onboarding, verb)
    problem = await refused(call(**whole[verb] | changed))
    assert (problem.code, [error["field"] for error in problem.errors]) == ("invalid", [field])
    value = str(next(iter(changed.values())))
    assert len(value) < 4 or value not in str(problem.errors)


async def test_a_brand_that_no_range_names_gets_no_route(onboarding: Onboarding) -> None:
    acquirer = await onboarding.acquirer(acquirer_name(), **LINE)
    assert (await refused(onboarding.route(acquirer.name, brand="Visa"))).errors[0]["field"] == "brand"
    await onboarding.install_bins([BinRange("900100", "900199", "housecard", "prepaid", (16,))])
    assert (await onboarding.route(acquirer.name, brand="housecard")).brand == "housecard"
    assert [(await onboarding.route(acquirer.name, brand=brand)).brand for brand in ("wechat", "alipay", "wallet")] == ["wechat", "alipay", "wallet"]


@pytest.mark.parametrize(("verb", "arguments"), [
    ("merchant", (NOBODY, "Shop", "5812")), ("store", (NOBODY, "Shop")), ("terminal", (NOBODY, "Till")), ("number", (NOBODY, NOBODY, "1", "1")),
    ("route", (NOBODY,)), ("route", ("nobody",)), ("tariff", (NOBODY, date(2026, 1, 1), 38)), ("tariffs", (NOBODY,)),
    ("get", (Organisation, NOBODY)), ("get", (Key, "nobody")), ("open_business_day", (NOBODY, date(2026, 1, 1))),
])
async def test_what_belongs_to_nobody_is_not_found(onboarding: Onboarding, verb: str, arguments: tuple[Any, ...]) -> None:
    assert (await refused(getattr(onboarding, verb)(*arguments))).code == "not_found"


@pytest.mark.parametrize("subject", [{"role": "terminal", "terminal_id": NOBODY}, {"role": "merchant", "merchant_id": NOBODY}])
async def test_nobody_gets_no_key(onboarding: Onboarding, subject: dict[str, Any]) -> None:
    assert (await refused(onboarding.key(**subject))).code == "not_found"


@pytest.mark.parametrize(("record", "ident"), [(Organisation, "organisation_id"), (Merchant, "merchant_id"), (Store, "store_id"),
                                               (Terminal, "terminal_id"), (Acquirer, "acquirer_id"), (Route, "route_id"), (Key, "key_id")])
async def test_lists_give_everything_once_newest_first_in_pages(onboarding: Onboarding, pool: Pool, record: type[Any], ident: str) -> None:
    for n in range(3):
        store = await a_store(onboarding)
        await onboarding.terminal(store.store_id, "Till")
        await onboarding.route((await onboarding.acquirer(acquirer_name(), **LINE)).name)
        await onboarding.key("operator", person=f"Person {n}")
    table = {"key_id": "api_key"}.get(ident, ident.removesuffix("_id"))
    order = "created_at DESC, key_id DESC" if record is Key else f"{ident} DESC"
    expected = [row[0] for row in await pool.fetch(f"SELECT {ident} FROM {table} ORDER BY {order}")]
    found: list[Any] = []
    after = None
    while True:
        page = await onboarding.page(record, 2, after)
        found += [getattr(each, ident) for each in page.items]
        assert len(page.items) <= 2
        if page.next is None:
            break
        after = page.next
    assert found == expected and await onboarding.get(record, found[0]) == (await onboarding.page(record, 1)).items[0]


async def test_pages_hold_1_to_200(onboarding: Onboarding, pool: Pool) -> None:
    rows = [(uuid4(),) for _ in range(205)]
    await pool.executemany("INSERT INTO organisation (organisation_id, name) VALUES ($1, 'Many')", rows)
    assert len((await onboarding.page(Organisation, 1000)).items) == 200
    assert len((await onboarding.page(Organisation, 0)).items) == 1


async def test_a_database_that_is_gone_is_not_ready_and_never_an_empty_answer(database_url: str) -> None:
    writers = await database.pool(database_url, "switch_writer", 1)
    await writers.close()
    problem = await refused(Onboarding(writers).page(Merchant))
    assert problem.code == "not_ready" and problem.retry_after == 2


async def test_the_reader_may_not_onboard(database_url: str) -> None:
    readers = await database.pool(database_url, "switch_reader", 1)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await Onboarding(readers).organisation("Harbour Group")
    await readers.close()
