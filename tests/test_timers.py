"""Timers nest: the rules as a table, and who is told: the operator who changes one, and whoever starts the switch."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from loadtests.terminal import ANSWER_TIMEOUT
from switch.app import LEASE_TRUSTED_S, Switch
from switch.errors import StartError
from switch.payments import timers
from switch.payments.recovery import LEASE_S, RENEW_S
from switch.payments.timers import Lease, Limits, acquirer_faults, send_within, worker_faults
from switch.settings import load
from tests.flows import Shop, eventually, open_shop

PLAIN = Limits()


@pytest.mark.parametrize(("answer_s", "grace_s", "limits", "fields"), [
    (30, 5, PLAIN, []), (3, 1, PLAIN, []), (0.6, 0.2, PLAIN, []), (30.1, 5, PLAIN, ["answer_timeout_ms"]),
    (120, 5, PLAIN, ["answer_timeout_ms"]), (30, 0.1, PLAIN, ["reversal_grace_ms"]), (31, 0, PLAIN, ["answer_timeout_ms", "reversal_grace_ms"]),
    (30, 5, Limits(commit_budget_s=3.1), ["answer_timeout_ms"]), (30, 5, Limits(http_deadline_s=34.9), ["answer_timeout_ms"]),
    (40, 5, Limits(http_deadline_s=45), []),
])
def test_an_acquirer_is_answered_within_the_http_deadline_and_reversed_after_its_original(
        answer_s: float, grace_s: float, limits: Limits, fields: list[str]) -> None:
    assert [field for field, _ in acquirer_faults(answer_s, grace_s, limits)] == fields


@pytest.mark.parametrize(("limits", "lease", "words"), [
    (PLAIN, Lease(10, 6, 2), []), (Limits(http_deadline_s=45), Lease(10, 6, 2), []),
    (Limits(http_deadline_s=45.1), Lease(10, 6, 2), ["45.1 s is more than the 45 s that terminals wait"]),
    (Limits(commit_budget_s=33), Lease(10, 6, 2), ["leave no time for an acquirer"]),
    (PLAIN, Lease(6, 6, 2), ["must last longer than it is trusted"]), (PLAIN, Lease(10, 2, 2), ["must last longer than it is trusted"]),
    (PLAIN, Lease(7.9, 6, 2), ["a message may leave for 2 s after the end of trust"]),
    (Limits(commit_budget_s=60, http_deadline_s=60), Lease(1, 2, 3), ["60 s is more than", "leave no time", "must last longer"]),
])
def test_a_worker_waits_less_than_its_terminals_and_trusts_its_lease_less_than_it_lasts(limits: Limits, lease: Lease, words: list[str]) -> None:
    found = worker_faults(limits, lease)
    assert len(found) == len(words)
    assert all(word in sentence for word, sentence in zip(words, found, strict=True))


@pytest.mark.parametrize("answer_s", [0.1, 0.6, 2.0, 3.0, 30.0])
def test_a_message_leaves_before_its_answer_is_given_up(answer_s: float) -> None:
    assert 0 < send_within(answer_s) < answer_s
    assert send_within(answer_s) <= timers.SEND_WITHIN_S


def test_what_this_release_runs_with_nests() -> None:
    assert worker_faults(PLAIN, Lease(LEASE_S, LEASE_TRUSTED_S, RENEW_S)) == []
    settings = load({"SWITCH_HOME": "."})
    assert (settings.commit_budget_s, settings.http_deadline_s) == (PLAIN.commit_budget_s, PLAIN.http_deadline_s)
    assert ANSWER_TIMEOUT == timers.TERMINAL_S


# Who is told


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("timers")) as opened:
        yield opened


async def test_an_operator_who_breaks_the_order_is_told_the_field_and_the_rule(shop: Shop) -> None:
    path = f"/v1/acquirers/{shop.shown('acquirer.single')}"
    before = (await shop.ask("GET", path, key="operator")).body
    for changed, field in (({"answer_timeout_ms": 30_001}, "answer_timeout_ms"), ({"reversal_grace_ms": 100}, "reversal_grace_ms")):
        refused = await shop.ask("PATCH", path, changed, "operator")
        assert (refused.status, refused.body["code"]) == (422, "invalid")
        (error,) = refused.body["errors"]
        assert error["field"] == field and error["rule"].startswith("the ")
    assert (await shop.ask("GET", path, key="operator")).body == before, "nothing of it was written"
    new = {"name": "slow", "dialect": "iso87_ascii", "host": "127.0.0.1", "port": 1, "answer_timeout_ms": 60_000}
    refused = await shop.ask("POST", "/v1/acquirers", new, "operator")
    assert refused.status == 422
    assert "do not fit into the HTTP deadline of 35 s: at most 30 s" in refused.body["errors"][0]["rule"]


async def test_a_record_that_breaks_the_order_behind_our_back_is_not_used_and_the_old_one_serves(shop: Shop) -> None:
    acquirer_id = shop.ids["acquirer.single"]
    await shop.sql("UPDATE acquirer SET answer_timeout_ms = 60000 WHERE acquirer_id = $1", acquirer_id)
    try:
        async def said() -> bool:
            return bool(await shop.sql("SELECT FROM alert WHERE kind = 'acquirer_not_used' AND object = $1", shop.shown("acquirer.single")))

        await eventually(said, "nobody says so")
        assert shop.switch.directory.acquirers[acquirer_id].answer_timeout_s == 0.6
        assert (await shop.pay(10_000)).status == 201
        path = f"/v1/acquirers/{shop.shown('acquirer.single')}"
        assert (await shop.ask("PATCH", path, {"status": "active"}, "operator")).status == 422
        assert (await shop.ask("PATCH", path, {"answer_timeout_ms": 600}, "operator")).status == 200, "a change that mends it is taken"
    finally:
        await shop.sql("UPDATE acquirer SET answer_timeout_ms = 600 WHERE acquirer_id = $1", acquirer_id)


async def test_the_switch_does_not_start_with_an_active_acquirer_that_breaks_the_order(shop: Shop) -> None:
    other = Switch(shop.settings, shop.url, alone=False)
    await shop.sql("UPDATE acquirer SET answer_timeout_ms = 60000, reversal_grace_ms = 0")
    try:
        with pytest.raises(StartError) as refused:
            await other.start()
        lines = str(refused.value).splitlines()
        assert len(lines) == 4 and all(line.startswith(("acquirer single: the ", "acquirer dual: the ")) for line in lines)
        await shop.sql("UPDATE acquirer SET answer_timeout_ms = 600, reversal_grace_ms = 200 WHERE name = 'dual'")
        await shop.sql("UPDATE acquirer SET status = 'down' WHERE name = 'single'")
        other = Switch(shop.settings, shop.url, alone=False)
        await other.start()
        try:
            assert list(other.links) == [shop.ids["acquirer.dual"]], "one that is down does not stop the start, and is not used"
        finally:
            await other.stop()
    finally:
        await shop.sql("UPDATE acquirer SET answer_timeout_ms = 600, reversal_grace_ms = 200, status = 'active'")


async def test_the_switch_does_not_start_with_settings_that_break_the_order(database_url: str, tmp_path: Path) -> None:
    settings = load({"SWITCH_HOME": str(tmp_path), "SWITCH_DATABASE_URL": database_url, "SWITCH_HTTP_DEADLINE": "50", "SWITCH_COMMIT_BUDGET": "60"})
    with pytest.raises(StartError) as refused:
        await Switch(settings, database_url, alone=False).start()
    assert len(str(refused.value).splitlines()) == 2
