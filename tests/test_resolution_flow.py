"""Parked reversals and the people who end them: listed, sent again, resolved by two; who asked, who decided and why stays written."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from switch import database, logs
from switch.api import resolving
from switch.cli import main
from switch.ids import show
from switch.merchants.onboarding import Onboarding
from tests.flows import Shop, eventually, new_key, open_shop
from tests.processes import Answer
from tests.test_reversals_flow import duty, owed, sent

REASON = "The acquirer settled it by hand, see its letter 17"


@pytest_asyncio.fixture(scope="module")
async def opened(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("resolution")) as shop:
        pool = await database.pool(database_url, "switch_writer", 2)
        for key, person in (("li", "Li Wei"), ("li2", " ".join(("LI", "WEI"))), ("wang", "Wang Fang"), ("zhao", "Zhao Lei")):
            shop.keys[key] = (await Onboarding(pool).key("operator", person=person)).text
        await pool.close()
        await shop.caught_up()
        yield shop


@pytest_asyncio.fixture
async def shop(opened: Shop) -> AsyncIterator[Shop]:
    yield opened
    for host in (opened.host, opened.dual):
        await host.forget()


async def parked(shop: Shop, key: str = "till", **changed: Any) -> str:
    """A sale whose reversal the acquirer cannot do."""
    await shop.host_of(key).order("code", "21", match={"0": "0420"})
    answer = await shop.pay(changed.pop("amount", 1096), key=key, **changed)
    await shop.until(answer.body["id"], "parked")
    return str(answer.body["id"])


async def ask(shop: Shop, shown: str, key: str = "li", **changed: Any) -> Answer:
    body = {"resolution": "reversed", "reason": REASON, **changed}
    return await shop.ask("POST", f"/v1/reversals/{shown}/resolve", body, key)


async def decide(shop: Shop, approval: str, key: str, verb: str = "") -> Answer:
    return await shop.ask("POST", f"/v1/approvals/{approval}{verb}", None, key)


async def resolved(shop: Shop, shown: str, resolution: str, **changed: Any) -> Any:
    asked = await ask(shop, shown, resolution=resolution, **changed)
    assert asked.status == 202, asked.raw
    assert (await decide(shop, asked.body["id"], "wang")).status == 200
    return await shop.get(shown)


async def test_the_list_shows_what_waits_with_its_age_and_last_code(shop: Shop) -> None:
    first, second = await parked(shop), await parked(shop, "dual")
    single, dual = shop.shown("acquirer.single"), shop.shown("acquirer.dual")
    (newest, older) = (await shop.ask("GET", "/v1/reversals?state=parked&limit=2", key="li")).body["items"]
    assert [each["transaction"] for each in (newest, older)] == [second, first]
    assert (newest["state"], newest["last_code"], newest["parked_reason"], newest["next_attempt_at"], newest["acquirer"]) == ("parked", "21", "code", None, dual)
    assert 0 <= newest["age_s"] < 60 and set(newest) == set(resolving.EXAMPLES["reversal"])
    mine = (await shop.ask("GET", f"/v1/reversals?acquirer={single}", key="li")).body["items"]
    assert first in [each["transaction"] for each in mine] and {each["acquirer"] for each in mine} == {single}
    assert (await shop.ask("GET", "/v1/reversals?state=open", key="li")).body["items"] == []
    page = (await shop.ask("GET", "/v1/reversals?limit=1", key="li")).body
    assert page["next"] == second and (await shop.ask("GET", f"/v1/reversals?after={second}", key="li")).body["items"][0]["transaction"] == first
    for wrong, status in (("state=done", 422), ("acquirer=acq_1", 404), ("after=x", 404), ("limit=0", 422)):
        assert (await shop.ask("GET", f"/v1/reversals?{wrong}", key="li")).status == status, wrong


@pytest.mark.parametrize("key", ["till", "merchant.one"])
async def test_only_operators_see_or_touch_reversals_and_approvals(shop: Shop, key: str) -> None:
    for method, path in (("GET", "/v1/reversals"), ("POST", "/v1/reversals/x/retry"), ("POST", "/v1/reversals/x/resolve"), ("GET", "/v1/approvals"),
                         ("POST", "/v1/approvals/x"), ("POST", "/v1/approvals/x/refuse")):
        assert (await shop.ask(method, path, {} if method == "POST" else None, key)).status == 403, path
        assert (await shop.ask(method, path, {} if method == "POST" else None, "nobody")).status == 401, path


async def test_a_parked_reversal_that_is_sent_again_is_a_repeat_with_its_own_numbers(shop: Shop) -> None:
    shown = await parked(shop)
    before = await shop.duty(shown)
    answer = await shop.ask("POST", f"/v1/reversals/{shown}/retry", None, "li")
    assert (answer.status, answer.body["state"], answer.body["parked_reason"]) == (200, "open", None)
    now = await shop.until(shown, "reversed")
    assert (now["reversal"]["closed_by"], [message["0"] for message in await sent(shop, shown)]) == ("ack", ["0420", "0421"])
    after = await shop.duty(shown)
    assert before is not None and after is not None
    assert {name: after[name] for name in ("stan", "transmitted_at", "match_key")} == {name: before[name] for name in ("stan", "transmitted_at", "match_key")}
    steps = {step["what"]: step["detail"] for step in (await shop.story(shown))["steps"]}
    assert steps["reversal_sent_again_by_a_person"]["by"] == "Li Wei"
    done = await shop.ask("POST", f"/v1/reversals/{shown}/retry", None, "li")
    assert (done.status, done.body["code"]) == (409, "conflict")


async def test_an_open_one_is_brought_forward_but_never_before_its_grace(shop: Shop) -> None:
    await shop.host.order("code", "96", match={"0": "0420"})
    shown = await owed(shop)
    await duty(shop, shown, last_code="96", leased_until=None)
    await shop.sql("UPDATE duty SET next_attempt_at = now() + interval '1 hour' WHERE transaction_id = $1", UUID(shown[4:]))
    assert (await shop.ask("POST", f"/v1/reversals/{shown}/retry", None, "li")).body["state"] == "open"
    await shop.until(shown, "reversed")
    await shop.sql("UPDATE acquirer SET reversal_grace_ms = 60000")
    await shop.caught_up()
    try:
        await shop.host.order("silence", match={"0": "0200"})
        shown = str((await shop.pay(1000)).body["id"])
        at = (await duty(shop, shown))["next_attempt_at"]
        assert (await shop.ask("POST", f"/v1/reversals/{shown}/retry", None, "li")).status == 200
        assert (await duty(shop, shown))["next_attempt_at"] == at
    finally:
        await shop.sql("UPDATE acquirer SET reversal_grace_ms = 200")
        await shop.sql("UPDATE duty SET next_attempt_at = now() WHERE state = 'open'")
        await shop.caught_up()
    await shop.until(shown, "reversed")


async def test_what_has_no_reversal_is_not_found(shop: Shop) -> None:
    sold = (await shop.pay(1000)).body["id"]
    for shown in (sold, f"txn_{uuid4()}", "txn_1", "acq_1"):
        assert (await shop.ask("POST", f"/v1/reversals/{shown}/retry", None, "li")).status == 404
        assert (await ask(shop, shown)).status == 404


async def test_one_person_asks_and_another_decides(shop: Shop) -> None:
    shown = await parked(shop)
    asked = await ask(shop, shown)
    assert (asked.status, asked.body["state"], asked.body["requested_by"], asked.body["object"]) == (202, "waiting", "Li Wei", shown)
    assert set(asked.body) == set(resolving.EXAMPLES["approval"])
    assert (await shop.get(shown))["status"] == "parked", "asking does nothing"
    approval = asked.body["id"]
    assert approval in [each["id"] for each in (await shop.ask("GET", "/v1/approvals", key="zhao")).body["items"]]
    for same in ("li", "li2"):  # another key of the same person is no second person
        refused = await decide(shop, approval, same)
        assert (refused.status, refused.body["code"]) == (409, "same_person")
    again = await ask(shop, shown, "zhao")
    assert (again.status, again.body["code"], again.body["approval"]) == (409, "conflict", approval)
    decided = await decide(shop, approval, "wang")
    assert (decided.status, decided.body["state"], decided.body["decided_by"]) == (200, "approved", "Wang Fang")
    now = await shop.get(shown)
    assert (now["status"], now["reversal"]["closed_by"], now["payment_status"], now["approved_amount"]) == ("reversed", "person", "none", 0)
    steps = {step["what"]: step["detail"] for step in (await shop.story(shown))["steps"]}
    told = steps["resolved_by_two_people_as_reversed"]
    assert (told["requested_by"], told["decided_by"], told["reason"], told["approval"]) == ("Li Wei", "Wang Fang", REASON, approval)
    assert (await decide(shop, approval, "wang")).body == decided.body, "the same again changes nothing"
    other = await decide(shop, approval, "zhao")
    assert (other.status, other.body["code"]) == (409, "conflict")
    assert (await decide(shop, approval, "zhao", "/refuse")).status == 409
    assert approval not in [each["id"] for each in (await shop.ask("GET", "/v1/approvals", key="zhao")).body["items"]]
    kept = next(each for each in (await shop.ask("GET", "/v1/approvals?state=approved", key="zhao")).body["items"] if each["id"] == approval)
    assert kept == decided.body


async def test_a_person_waits_for_the_original_before_the_follow_up_is_locked(shop: Shop) -> None:
    """Else a person and an outcome of another follow-up would each hold what the other wants."""
    sold = (await shop.pay(1000)).body["id"]
    await shop.host.order("code", "96", match={"0": "0200", "3": "020000"})
    await shop.host.order("code", "21", match={"0": "0420"})
    void = (await shop.ask("POST", f"/v1/authorizations/{sold}/voids", {}, Idempotency_Key=new_key())).body["id"]
    await shop.until(void, "parked")
    approval = (await ask(shop, void)).body["id"]
    other = await asyncpg.connect(shop.url)

    async def waits() -> bool:
        return bool(await shop.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"))

    try:
        async with other.transaction():
            await other.execute("SELECT 1 FROM transaction WHERE transaction_id = $1 FOR NO KEY UPDATE", UUID(sold[4:]))
            decided = asyncio.create_task(decide(shop, approval, "wang"))
            await eventually(waits, "nobody waits for the original")
            await other.execute("SELECT 1 FROM transaction WHERE transaction_id = $1 FOR NO KEY UPDATE NOWAIT", UUID(void[4:]))
        assert (await decided).status == 200
    finally:
        await other.close()
    assert (await shop.get(void))["status"] == "reversed"


async def test_two_people_at_once_do_it_once(shop: Shop) -> None:
    shown = await parked(shop)
    approval = (await ask(shop, shown)).body["id"]
    answers = await asyncio.gather(*(decide(shop, approval, key) for key in ("wang", "zhao", "wang", "zhao")))
    assert sorted({answer.status for answer in answers}) == [200, 409]
    events = await shop.sql("SELECT 1 FROM transaction_event WHERE transaction_id = $1 AND kind LIKE 'resolved%'", UUID(shown[4:]))
    assert len(events) == 1


async def test_what_was_refused_is_not_done_and_may_be_asked_again(shop: Shop) -> None:
    shown = await parked(shop)
    first = (await ask(shop, shown)).body["id"]
    refused = await decide(shop, first, "li", "/refuse")  # taken back by who asked
    assert (refused.status, refused.body["state"], refused.body["decided_by"]) == (200, "refused", "Li Wei")
    assert (await shop.get(shown))["status"] == "parked"
    assert (await decide(shop, first, "wang")).status == 409
    second = await ask(shop, shown, "zhao")
    assert second.status == 202 and second.body["id"] != first
    assert (await decide(shop, second.body["id"], "li")).status == 200
    assert (await shop.get(shown))["status"] == "reversed"


async def test_an_approval_that_nobody_decided_ends_by_time(shop: Shop) -> None:
    shown, old = await parked(shop), uuid4()
    await shop.sql("""INSERT INTO approval (approval_id, kind, object, payload, reason, requested_by, requested_key, requested_at, expires_at)
        VALUES ($1, 'resolve_reversal', $2, '{"resolution": "reversed"}', 'a reason of last week', 'Li Wei', 'k', now() - interval '2 days',
        now() - interval '1 day')""", old, shown)
    late = await decide(shop, show("approval", old), "wang")
    assert (late.status, late.body["code"], (await shop.get(shown))["status"]) == (409, "conflict", "parked")
    assert show("approval", old) in [each["id"] for each in (await shop.ask("GET", "/v1/approvals?state=expired", key="li")).body["items"]]
    assert (await ask(shop, shown)).status == 202
    (row,) = await shop.sql("SELECT state, decided_by FROM approval WHERE approval_id = $1", old)
    assert tuple(row.values()) == ("expired", None)


async def test_an_acknowledgement_that_came_first_leaves_nothing_to_resolve(shop: Shop) -> None:
    shown = await parked(shop)
    approval = (await ask(shop, shown, resolution="confirmed")).body["id"]
    assert (await shop.ask("POST", f"/v1/reversals/{shown}/retry", None, "li")).status == 200
    await shop.until(shown, "reversed")
    decided = await decide(shop, approval, "wang")
    assert (decided.status, decided.body["code"], (await shop.get(shown))["status"]) == (409, "conflict", "reversed")
    (row,) = await shop.sql("SELECT state FROM approval WHERE object = $1", shown)
    assert row["state"] == "waiting", "what was not done is not called approved"
    assert (await ask(shop, shown, "zhao")).status == 409


async def test_one_that_was_sent_again_and_parked_again_is_not_what_was_looked_at(shop: Shop) -> None:
    shown = await parked(shop)
    stale = (await ask(shop, shown, resolution="confirmed")).body["id"]
    await shop.host.order("code", "21", match={"0": "0421"})
    assert (await shop.ask("POST", f"/v1/reversals/{shown}/retry", None, "li")).status == 200
    await shop.until(shown, "parked")
    decided = await decide(shop, stale, "wang")
    assert (decided.status, decided.body["code"], (await shop.get(shown))["status"]) == (409, "conflict", "parked")
    assert "ask anew" in decided.raw.decode()
    assert (await decide(shop, stale, "wang", "/refuse")).status == 200
    assert (await resolved(shop, shown, "confirmed"))["status"] == "confirmed"


@pytest.mark.parametrize(("changed", "place"), [
    ({"reason": "short"}, "reason"), ({"reason": " " + REASON}, "reason"), ({"reason": REASON + "\n"}, "reason"), ({"reason": "x" * 501}, "reason"),
    ({"reason": "it was card 4111111111111111"}, "reason"), ({"reason": "it was 4111 1111 1111 1111"}, "reason"), ({"reason": None}, "reason"),
    ({"resolution": "forgotten"}, "resolution"), ({"approved_amount": 1}, "approved_amount"), ({"resolution": "confirmed", "approved_amount": -1}, "approved_amount"),
    ({"resolution": "confirmed", "approved_amount": 0}, "approved_amount"), ({"resolution": "confirmed", "approved_amount": 1097}, "approved_amount"),
    ({"state": "done"}, "(unknown field)"),
], ids=str)
async def test_what_is_asked_is_checked_before_anybody_decides(shop: Shop, waiting: str, changed: dict[str, Any], place: str) -> None:
    answer = await ask(shop, waiting, **changed)
    assert (answer.status, answer.body["code"]) == (422, "invalid"), answer.raw
    assert [fault["field"] for fault in answer.body["errors"]] == [place]
    assert b"4111" not in answer.raw
    assert await shop.sql("SELECT 1 FROM approval WHERE object = $1", waiting) == []


@pytest_asyncio.fixture(scope="module")
async def waiting(opened: Shop) -> str:
    return await parked(opened)


async def test_a_confirmed_sale_stands_with_the_whole_amount(shop: Shop) -> None:
    now = await resolved(shop, await parked(shop), "confirmed")
    assert (now["status"], now["payment_status"], now["approved_amount"], now["advice"]) == ("confirmed", "captured", 1096, "none")
    assert now["amounts"].items() >= {"authorised": 1096, "capturable": 1096, "captured": 1096, "refunded": 0, "charged_back": 0}.items()
    story = await shop.story(now["id"])
    assert "confirmed by a person" in story["in_short"]


async def test_a_confirmed_part_stands_with_what_the_acquirer_approved(shop: Shop) -> None:
    shown = await parked(shop, amount=1010)  # half is approved, and the terminal takes no half
    missing = await ask(shop, shown, resolution="confirmed")
    assert (missing.status, missing.body["errors"][0]["field"]) == (422, "approved_amount")
    now = await resolved(shop, shown, "confirmed", approved_amount=505)
    assert (now["payment_status"], now["approved_amount"], now["amounts"]["captured"]) == ("captured", 505, 505)


async def test_a_confirmed_approval_stands_as_it_was_approved(shop: Shop) -> None:
    key = new_key()
    await shop.host.order("code", "21", match={"0": "0420"})
    sold = (await shop.pay(1010, key, partial_approval="accept")).body
    assert sold["approved_amount"] == 505
    await shop.cancel(key)
    await shop.until(sold["id"], "parked")
    now = await resolved(shop, sold["id"], "confirmed")
    assert (now["approved_amount"], now["amounts"]["authorised"], now["amounts"]["captured"]) == (505, 505, 505)


async def test_a_confirmed_sale_of_two_messages_is_held_and_not_captured(shop: Shop) -> None:
    now = await resolved(shop, await parked(shop, "dual"), "confirmed")
    assert (now["payment_status"], now["amounts"]["authorised"], now["amounts"]["captured"]) == ("authorized", 1096, 0)


async def test_a_confirmed_sale_of_two_messages_is_captured_by_hand(shop: Shop) -> None:
    await shop.dual.order("silence", match={"0": "0100"})
    shown = (await resolved(shop, await parked(shop, "dual", amount=2300), "confirmed"))["id"]
    captured = await shop.ask("POST", f"/v1/authorizations/{shown}/captures", {}, "dual", Idempotency_Key=new_key())
    assert (captured.body.get("status"), captured.body.get("amount")) == ("approved", 2300), captured.raw
    now = await shop.get(shown)
    assert (now["payment_status"], now["amounts"]["captured"]) == ("captured", 2300)
    assert (await shop.ask("POST", f"/v1/authorizations/{shown}/captures", {}, "dual", Idempotency_Key=new_key())).body["code"] == "not_capturable"


@pytest.mark.parametrize("first", ["sale", "capture"])
async def test_a_sale_and_its_own_capture_are_confirmed_in_any_order(shop: Shop, first: str) -> None:
    key = new_key()
    sold = (await shop.pay(2400, key, key="dual")).body["id"]
    (row,) = await shop.sql("SELECT transaction_id FROM transaction WHERE original_id = $1", UUID(sold[4:]))
    capture = show("transaction", row["transaction_id"])
    await shop.until(capture, "approved")
    await shop.dual.order("code", "21", match={"0": "0420"}, count=2)
    await shop.cancel(key, "dual")
    for each in (sold, capture):
        await shop.until(each, "parked")
    for each in (sold, capture) if first == "sale" else (capture, sold):
        assert (await resolved(shop, each, "confirmed"))["status"] == "confirmed"
    assert (await shop.get(sold))["amounts"]["captured"] == 2400


async def test_of_a_refund_no_part_is_confirmed(shop: Shop) -> None:
    sold = (await shop.pay(2000)).body
    await shop.host.order("code", "10", match={"0": "0200", "3": "200000"})
    await shop.host.order("code", "21", match={"0": "0420"})
    refund = (await shop.ask("POST", "/v1/refunds", {"authorization": sold["id"], "amount": 1000}, Idempotency_Key=new_key())).body["id"]
    await shop.until(refund, "parked")
    part = await ask(shop, refund, resolution="confirmed", approved_amount=505)
    assert (part.status, part.body["errors"][0]["field"]) == (422, "approved_amount")
    assert (await resolved(shop, refund, "confirmed", approved_amount=1000))["status"] == "confirmed"
    assert (await shop.get(sold["id"]))["amounts"]["refunded"] == 1000


async def test_the_database_itself_wants_two_people_and_keeps_what_they_said(shop: Shop, waiting: str) -> None:
    approval = (await ask(shop, waiting)).body["id"]
    identity = UUID(approval[4:])
    decide_ = "UPDATE approval SET state = 'approved', decided_by = $2, decided_key = 'other', decided_at = now() WHERE approval_id = $1"
    with pytest.raises(asyncpg.CheckViolationError):
        await shop.sql(decide_, identity, "li wei")
    for sets in ("reason = 'another'", "payload = '{}'", "requested_by = 'Somebody'", "expires_at = now() + interval '1 year'", "object = 'txn_2'"):
        with pytest.raises(asyncpg.CheckViolationError):
            await shop.sql(f"UPDATE approval SET {sets} WHERE approval_id = $1", identity)
    await decide(shop, approval, "wang", "/refuse")
    with pytest.raises(asyncpg.CheckViolationError):
        await shop.sql("UPDATE approval SET state = 'waiting', decided_by = NULL, decided_key = NULL, decided_at = NULL WHERE approval_id = $1", identity)


async def test_a_capture_that_cannot_be_built_waits_for_a_person_and_is_then_sent(shop: Shop) -> None:
    dual = shop.ids["acquirer.dual"]
    await shop.dual.order("silence", match={"0": "0220"})
    sold = (await shop.pay(1000, key="dual")).body
    (capture,) = await shop.sql("SELECT transaction_id, rrn, pan_sealed FROM transaction WHERE original_id = $1", UUID(sold["id"][4:]))
    shown, put_ = show("transaction", capture["transaction_id"]), "UPDATE transaction SET pan_sealed = $2, version = version + 1 WHERE transaction_id = $1"
    await shop.sql(put_, capture["transaction_id"], b"torn")

    async def wait_over() -> None:
        while True:
            await shop.sql("UPDATE duty SET next_attempt_at = now() WHERE acquirer_id = $1 AND state = 'open'", dual)
            await asyncio.sleep(0.1)

    hurrying = asyncio.create_task(wait_over())
    row = await duty(shop, shown, state="parked")
    hurrying.cancel()
    assert (row["kind"], row["parked_reason"], (await shop.get(shown))["status"]) == ("advice", "unbuildable", "pending")
    assert "advice_parked" in [each["kind"] for each in await shop.sql("SELECT kind FROM alert WHERE object = $1", shown)]
    await shop.sql(put_, capture["transaction_id"], capture["pan_sealed"])
    assert (await shop.ask("POST", f"/v1/reversals/{shown}/retry", None, "li")).status == 200
    await shop.until(shown, "approved")
    assert await shop.dual.effect(capture["rrn"]) == (1000, 0)
    assert (await ask(shop, shown)).status == 409, "an advice is not resolved by hand"


async def command(shop: Shop, capfd: pytest.CaptureFixture[str], key: str, *words: str) -> tuple[int, str, str]:
    before = logs.log.stream, logs.log.level
    capfd.readouterr()
    try:
        code = await asyncio.to_thread(main, [*words, "--url", shop.base, "--key", shop.keys[key]])
    finally:
        logs.log.stream, logs.log.level = before
    said = capfd.readouterr()
    return code, said.out, "".join(line for line in said.err.splitlines() if not line.startswith("{"))


async def test_the_same_on_the_command_line(shop: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = await parked(shop), await parked(shop)
    code, out, _ = await command(shop, capfd, "li", "reversals", "list", "--state", "parked", "--acquirer", shop.shown("acquirer.single"))
    assert code == 0 and {first, second} <= {line.split()[0] for line in out.splitlines()} and "last code 21" in out
    code, out, _ = await command(shop, capfd, "li", "reversals", "retry", first)
    assert code == 0 and f"{first}  open" in out
    await shop.until(first, "reversed")
    code, out, _ = await command(shop, capfd, "li", "reversals", "resolve", second, "confirmed", "--reason", REASON, "--approved-amount", "1000")
    approval = out.split()[0]
    assert code == 0 and approval.startswith("app_") and f"switch approvals approve {approval}" in out
    code, out, _ = await command(shop, capfd, "wang", "approvals", "list")
    assert code == 0 and approval in out and "asked by Li Wei" in out
    code, out, err = await command(shop, capfd, "li2", "approvals", "approve", approval)
    assert (code, out) == (2, "") and "refused with 409: The person who asked may not decide. Another person must approve it" in err
    code, out, _ = await command(shop, capfd, "wang", "approvals", "approve", approval)
    assert code == 0 and "approved by Wang Fang" in out
    assert ((await shop.get(second))["status"], (await shop.get(second))["approved_amount"]) == ("confirmed", 1000)
    code, out, err = await command(shop, capfd, "li", "reversals", "resolve", second, "reversed", "--reason", "short")
    assert (code, out) == (2, "") and "reason" in err
    code, out, err = await command(shop, capfd, "wang", "approvals", "refuse", approval)
    assert code == 2 and "This approval is approved" in err
