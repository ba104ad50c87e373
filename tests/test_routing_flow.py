"""Rules over HTTP with two acquirers: they take effect, are explained and tried; a sale is tried elsewhere when nothing of it can stand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from switch import database
from switch.ids import show
from switch.links import Bounced
from tests.flows import ANSWER_TIMEOUT_MS, Shop, body_of, eventually, new_key, open_shop

PAN_BIN = "411111"
VISA = {"entry_mode": "chip", "pan": "4111111111111111", "expiry": "3012"}


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("routing")) as shop:
        await second(shop)
        yield shop


async def second(shop: Shop) -> None:
    """Merchant one may go to the dual-message acquirer too, when the other one does not do."""
    await add(shop, acquirer=shop.shown("acquirer.dual"), merchant=shop.shown("merchant.one"), priority=200, name="Second")
    await shop.caught_up()


async def add(shop: Shop, **said: Any) -> Any:
    answer = await shop.ask("POST", "/v1/routes", said, key="operator")
    assert answer.status == 201, answer.raw
    return answer.body


async def switch_rule(shop: Shop, rule: str, verb: str, **body: Any) -> Any:
    answer = await shop.ask("POST", f"/v1/routes/{rule}/{verb}", body, key="operator")
    assert answer.status == 200, answer.raw
    return answer.body


@asynccontextmanager
async def in_force(shop: Shop, **said: Any) -> AsyncIterator[Any]:
    rule = await add(shop, **said)
    await shop.caught_up()
    yield rule
    await switch_rule(shop, rule["id"], "retire")
    await shop.caught_up()


async def sold_at(shop: Shop, **changed: Any) -> str:
    answer = await shop.pay(10_000, **changed)
    assert (answer.status, answer.body["status"]) == (201, "approved"), answer.raw
    return next(name for name in ("single", "dual") if answer.body["acquirer"] == shop.shown(f"acquirer.{name}"))


async def attempts(shop: Shop, key: str) -> list[tuple[str, str, str | None]]:
    """Every transaction ever made under a key: acquirer, state, advice."""
    names = {shop.ids["acquirer.single"]: "single", shop.ids["acquirer.dual"]: "dual"}
    return [(names[row["acquirer_id"]], row["state"], row["advice"]) for row in await shop.by_key(key)]


# rules


async def test_a_rule_takes_effect_within_a_second_when_a_person_switches_it_on_and_ends_the_same_way(shop: Shop) -> None:
    draft = await add(shop, acquirer=shop.shown("acquirer.dual"), bin_low=PAN_BIN, bin_high=PAN_BIN, priority=1, state="draft", name="Visa elsewhere")
    assert (draft["state"], draft["created_by"], draft["activated_by"]) == ("draft", "Flow Tester", None)
    await shop.caught_up()
    assert await sold_at(shop, card=VISA) == "single", "a draft is none yet"
    active = await switch_rule(shop, draft["id"], "activate")
    assert (active["state"], active["activated_by"]) == ("active", "Flow Tester") and active["activated_at"]

    async def moved(to: str) -> bool:
        return await sold_at(shop, card=VISA) == to

    begun = asyncio.get_running_loop().time()
    await eventually(lambda: moved("dual"), "the rule does not fire", 1.5)
    assert asyncio.get_running_loop().time() - begun < 1.5
    assert await sold_at(shop) == "single", "another card"
    retired = await switch_rule(shop, draft["id"], "retire")
    assert (retired["state"], retired["retired_by"], retired["activated_at"]) == ("retired", "Flow Tester", active["activated_at"])
    await eventually(lambda: moved("single"), "the rule still fires", 1.5)
    refused = await shop.ask("POST", f"/v1/routes/{draft['id']}/activate", {}, key="operator")
    assert (refused.status, refused.body["code"]) == (409, "conflict"), "what is retired stays so"
    stored = await shop.ask("GET", f"/v1/routes/{draft['id']}", key="operator")
    assert stored.body == retired and stored.body["name"] == "Visa elsewhere"


async def test_one_rule_takes_anothers_place_in_one_commit_or_nothing_changes(shop: Shop) -> None:
    old = await add(shop, acquirer=shop.shown("acquirer.dual"), brand="jcb", name="Old")
    new = await add(shop, acquirer=shop.shown("acquirer.dual"), brand="jcb", priority=5, mccs=["5812"], state="draft", name="New")
    absent = f"rte_{UUID(int=5)}"
    refused = await shop.ask("POST", f"/v1/routes/{new['id']}/activate", {"retires": [old["id"], absent]}, key="operator")
    assert refused.status == 409
    states = {each["id"]: each["state"] for each in (await shop.ask("GET", "/v1/routes?limit=200", key="operator")).body["items"]}
    assert (states[old["id"]], states[new["id"]]) == ("active", "draft")
    await switch_rule(shop, new["id"], "activate", retires=[old["id"]])
    states = {each["id"]: each["state"] for each in (await shop.ask("GET", "/v1/routes?limit=200", key="operator")).body["items"]}
    assert (states[old["id"]], states[new["id"]]) == ("retired", "active")
    await switch_rule(shop, new["id"], "retire")


@pytest.mark.parametrize(("said", "field"), [
    ({"bin_low": "4111"}, "bin_high"), ({"bin_low": "4112", "bin_high": "4111"}, "bin_high"), ({"bin_low": "41", "bin_high": "42"}, "bin_low"),
    ({"amount_min": 2, "amount_max": 1, "currencies": ["CNY"]}, "amount_max"), ({"amount_min": 1}, "currencies"),
    ({"cost_fixed": 1, "currencies": ["CNY", "USD"]}, "currencies"), ({"currencies": ["ZZZ"]}, "currencies"), ({"currencies": []}, "currencies"),
    ({"mccs": ["581"]}, "mccs"), ({"entry_modes": ["swipe"]}, "entry_modes"), ({"weekdays": [0]}, "weekdays"), ({"weekdays": [1, 1]}, "weekdays"),
    ({"time_from": "24:00", "time_until": "01:00"}, "time_from"), ({"time_from": "08:00"}, "time_until"), ({"time_from": "08:00", "time_until": "08:00"}, "time_until"),
    ({"weight": -1}, "weight"), ({"cost_basis_points": 10_001}, "cost_basis_points"), ({"healthy_percent": 0}, "healthy_percent"),
    ({"healthy_percent": 101}, "healthy_percent"), ({"priority": -1}, "priority"), ({"name": " x"}, "name"), ({"brand": "nobody"}, "brand"),
])
async def test_a_rule_that_cannot_be_is_refused_by_its_field(shop: Shop, said: dict[str, Any], field: str) -> None:
    refused = await shop.ask("POST", "/v1/routes", {"acquirer": shop.shown("acquirer.dual"), **said}, key="operator")
    assert (refused.status, refused.body["code"]) == (422, "invalid")
    assert field in [fault["field"] for fault in refused.body["errors"]], refused.raw


async def test_two_rules_that_say_the_same_are_never_in_force_at_once(shop: Shop) -> None:
    said = {"acquirer": shop.shown("acquirer.dual"), "brand": "diners", "currencies": ["USD", "CNY"]}
    old = await add(shop, **said)
    twin = await shop.ask("POST", "/v1/routes", said | {"priority": 3, "name": "Twin", "currencies": ["CNY", "USD"]}, key="operator")
    assert (twin.status, twin.body["code"]) == (409, "already_exists")
    draft = await add(shop, **said, priority=3, state="draft")
    alone = await shop.ask("POST", f"/v1/routes/{draft['id']}/activate", {}, key="operator")
    assert (alone.status, alone.body["code"]) == (409, "already_exists")
    assert (await switch_rule(shop, draft["id"], "activate", retires=[old["id"]]))["priority"] == 3
    await switch_rule(shop, draft["id"], "retire")
    await switch_rule(shop, (await add(shop, **said))["id"], "retire")


async def test_only_operators_ask_about_rules(shop: Shop) -> None:
    for method, path in (("POST", "/v1/routes/explain"), ("GET", f"/v1/routes/explain?transaction=txn_{UUID(int=1)}"), ("POST", "/v1/routes/try"),
                         ("POST", f"/v1/routes/rte_{UUID(int=1)}/activate"), ("POST", f"/v1/routes/rte_{UUID(int=1)}/retire")):
        body = {} if method == "POST" else None
        assert [(await shop.ask(method, path, body, key=key)).status for key in ("till", "merchant.one")] == [403, 403], path


# explain and try


async def test_a_sale_in_the_books_is_explained_by_the_rules_of_its_time(shop: Shop) -> None:
    async with in_force(shop, acquirer=shop.shown("acquirer.dual"), bin_low=PAN_BIN, bin_high=PAN_BIN, priority=1, name="Visa to the dual one") as rule:
        sold = (await shop.pay(10_000, card=VISA)).body
        asked = await shop.ask("GET", f"/v1/routes/explain?transaction={sold['id']}", key="operator")
    later = await shop.ask("GET", f"/v1/routes/explain?transaction={sold['id']}", key="operator")
    for answer in (asked, later):
        assert answer.status == 200, answer.raw
        first = answer.body["alternatives"][0]
        assert (first["route"], first["route_name"], first["acquirer"]) == (rule["id"], "Visa to the dual one", sold["acquirer"])
        assert answer.body["recorded"] == {"acquirer": sold["acquirer"], "status": "approved", "attempt": 1, "as_explained": True}
        everything = (await shop.ask("GET", "/v1/routes?limit=200", key="operator")).body["items"]
        told = [each["route"] for each in answer.body["alternatives"] + answer.body["others"]]
        assert sorted(told) == sorted(each["id"] for each in everything), "every rule is told of, once"
        assert all(each["why_not"] for each in answer.body["others"])
        assert VISA["pan"] not in answer.raw.decode()
    assert asked.body["others"] == later.body["others"], "what came later changes nothing of it"


async def test_a_sale_that_might_be_made_is_explained_with_lines_and_answers(shop: Shop) -> None:
    asked = {"terminal": shop.shown("terminal.till"), "bin": PAN_BIN, "amount": 10_000, "currency": "CNY"}
    answer = await shop.ask("POST", "/v1/routes/explain", asked, key="operator")
    assert answer.status == 200, answer.raw
    assert [each["name"] for each in answer.body["alternatives"]] == ["single", "dual"]
    assert {each["line"] for each in answer.body["alternatives"]} == {"up"} and answer.body["sale"]["brand"] == "visa"
    assert answer.body["alternatives"][0]["asked"] >= answer.body["alternatives"][0]["answered"] >= 0
    night = await shop.ask("POST", "/v1/routes/explain", asked | {"at": "2026-11-24T19:00:00Z"}, key="operator")
    assert night.body["sale"]["at"].startswith("2026-11-24T19:00:00")
    for wrong in ({"bin": "41111"}, {"bin": VISA["pan"]}, {"amount": -1}, {"currency": "cny"}, {"entry_mode": "swipe"}, {"pan": "1"}):
        refused = await shop.ask("POST", "/v1/routes/explain", asked | wrong, key="operator")
        assert (refused.status, refused.body["code"]) == (422, "invalid") and VISA["pan"] not in refused.raw.decode()
    assert (await shop.ask("POST", "/v1/routes/explain", asked | {"terminal": f"trm_{UUID(int=9)}"}, key="operator")).status == 404


async def test_a_rule_is_tried_against_what_was_sold_and_nothing_is_written(shop: Shop) -> None:
    since = datetime.now(UTC).isoformat()
    for number in range(6):
        await sold_at(shop, card=VISA) if number % 3 else await sold_at(shop)
    until = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    draft = await add(shop, acquirer=shop.shown("acquirer.dual"), brand="visa", priority=1, state="draft", name="Tried")
    await shop.caught_up()
    before = await shop.sql("SELECT (SELECT count(*) FROM transaction) AS t, (SELECT max(version) FROM directory_change) AS v")
    period = {"from": since, "to": until, "merchant": shop.shown("merchant.one")}
    answer = await shop.ask("POST", "/v1/routes/try", {"activate": [draft["id"]], **period}, key="operator")
    assert answer.status == 200, answer.raw
    told = answer.body
    assert (told["looked_at"], told["whole"], told["moved"], told["moved_basis_points"]) == (6, True, 4, 6666)
    assert [(each["name"], each["sales"]) for each in told["recorded"]] == [(each["name"], each["sales"]) for each in told["before"]] == [("single", 6)]
    assert [(each["name"], each["sales"], each["share_basis_points"]) for each in told["after"]] == [("dual", 4, 6666), ("single", 2, 3333)]
    assert len(told["examples"]) == 4 and {each["route"] for each in told["examples"]} == {draft["id"]}
    assert {(each["before"], each["after"]) for each in told["examples"]} == {(shop.shown("acquirer.single"), shop.shown("acquirer.dual"))}
    assert sum(each["sales"] for each in told["fired"]) == 6
    few = await shop.ask("POST", "/v1/routes/try", {"activate": [draft["id"]], "limit": 3, **period}, key="operator")
    assert (few.body["looked_at"], few.body["whole"]) == (3, False)
    assert before == await shop.sql("SELECT (SELECT count(*) FROM transaction) AS t, (SELECT max(version) FROM directory_change) AS v")
    await switch_rule(shop, draft["id"], "retire")
    await shop.caught_up()
    gone = await shop.ask("POST", "/v1/routes/try", {"activate": [draft["id"]], **period}, key="operator")
    assert (gone.status, gone.body["code"]) == (409, "conflict")
    nobody = await shop.ask("POST", "/v1/routes/try", {"retire": [f"rte_{UUID(int=7)}"], **period}, key="operator")
    assert nobody.status == 404


# tried elsewhere


class Bouncing:
    """A line that looks usable and takes nothing: what is lost between the choice and the write."""

    state = "up"

    def __init__(self, line: Any, reason: str) -> None:
        self.line, self.reason, self.asked = line, reason, 0

    def usable(self) -> bool:
        return True

    async def request(self, message: Any, **limits: float) -> Bounced:
        self.asked += 1
        return Bounced(self.reason)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.line, name)


@asynccontextmanager
async def bouncing(shop: Shop, reason: str, *names: str) -> AsyncIterator[list[Bouncing]]:
    links = shop.switch.links
    kept = {shop.ids[f"acquirer.{name}"]: links[shop.ids[f"acquirer.{name}"]] for name in names or ("single",)}
    doubles = [Bouncing(link, reason) for link in kept.values()]
    links.update(zip(kept, doubles, strict=True))  # type: ignore[arg-type]
    yield doubles
    links.update(kept)


async def code_91(shop: Shop) -> None:
    await shop.host.order("code", "91", {"0": "0200"})


async def test_a_decline_whose_code_allows_it_is_tried_at_the_next_acquirer_and_is_one_sale(shop: Shop) -> None:
    await code_91(shop)
    key, body = new_key(), body_of(10_000)
    answer = await shop.post(body, key)
    assert (answer.status, answer.body["status"], answer.body["acquirer"]) == (201, "approved", shop.shown("acquirer.dual"))
    assert await attempts(shop, key) == [("single", "DECLINED", "ask_again"), ("dual", "APPROVED", "none")]
    first, last = await shop.by_key(key)
    assert last["attempt_of"] == first["transaction_id"] and show("transaction", last["transaction_id"]) == answer.body["id"]
    again = await shop.post(body, key)
    assert (again.status, again.raw, again.headers["idempotent-replayed"]) == (201, answer.raw, "true")
    by_key = await shop.ask("GET", f"/v1/authorizations?idempotency_key={key}")
    assert (by_key.body["id"], by_key.body["attempt_of"]) == (answer.body["id"], show("transaction", first["transaction_id"]))
    late = await shop.switch.history.sale(first["transaction_id"])
    assert late is not None and late.transaction_id == last["transaction_id"], "a key that was read before it moved"
    assert await shop.host.effect(first["rrn"]) == (0, 0), "nothing stands where it was declined"
    told = await shop.story(show("transaction", first["transaction_id"]))
    assert "another acquirer was asked instead" in told["in_short"]
    assert next(step["detail"] for step in told["steps"] if step["what"] == "rerouted") == {
        "to": answer.body["id"], "cause": "code_91", "acquirer": shop.shown("acquirer.dual")}
    explained = await shop.ask("GET", f"/v1/routes/explain?transaction={answer.body['id']}", key="operator")
    assert explained.body["recorded"] == {"acquirer": shop.shown("acquirer.dual"), "status": "approved", "attempt": 2, "as_explained": True}
    assert explained.body["sale"]["transaction"] == show("transaction", first["transaction_id"]), "the id of the first attempt draws"


@pytest.mark.parametrize("reason", ["line_down", "window_full", "draining", "duplicate_key", "not_encodable"])
async def test_what_provably_never_left_is_tried_at_the_next_acquirer(shop: Shop, reason: str) -> None:
    key = new_key()
    async with bouncing(shop, reason) as (line,):
        answer = await shop.pay(10_000, key)
    assert (answer.status, answer.body["status"], line.asked) == (201, "approved", 1), answer.raw
    assert await attempts(shop, key) == [("single", "NOT_SENT", "ask_again"), ("dual", "APPROVED", "none")]


@pytest.mark.parametrize("reason", ["too_late", "lease_lost"])
async def test_what_nobody_may_send_any_more_is_not_tried_again(shop: Shop, reason: str) -> None:
    key = new_key()
    async with bouncing(shop, reason):
        answer = await shop.pay(10_000, key)
    assert (answer.status, answer.body["status"], answer.body["reason"], answer.body["advice"]) == (201, "not_sent", reason, "retry_new_key")
    assert await attempts(shop, key) == [("single", "NOT_SENT", "retry_new_key")]


async def test_when_nobody_takes_it_the_last_attempt_is_the_answer(shop: Shop) -> None:
    key = new_key()
    async with bouncing(shop, "line_down", "single", "dual"):
        answer = await shop.pay(10_000, key)
    assert (answer.status, answer.body["status"], answer.body["advice"]) == (201, "not_sent", "retry_new_key")
    assert await attempts(shop, key) == [("single", "NOT_SENT", "ask_again"), ("dual", "NOT_SENT", "retry_new_key")]


@pytest.mark.parametrize(("action", "value", "status"), [("code", "51", "declined"), ("code", "05", "declined"), ("code", "96", "reversing"),
                                                         ("silence", None, "reversing"), ("cut", None, "reversing"), ("code", "Z9", "reversing")])
async def test_what_may_stand_and_what_was_really_declined_is_never_tried_elsewhere(shop: Shop, action: str, value: object, status: str) -> None:
    await shop.host.order(action, value)
    key = new_key()
    answer = await shop.pay(10_000, key)
    assert answer.body["status"] == status, answer.raw
    assert [name for name, _, _ in await attempts(shop, key)] == ["single"]
    if status == "reversing":
        await shop.until(answer.body["id"], "reversed")
    await eventually(lambda: is_up(shop), "the line does not come back")


async def is_up(shop: Shop) -> bool:
    return shop.switch.links[shop.ids["acquirer.single"]].usable()


async def test_the_acquirers_own_codes_go_before_its_dialects(shop: Shop) -> None:
    path = f"/v1/acquirers/{shop.shown('acquirer.single')}"
    for codes, code, rerouted in (([], "91", False), (["61"], "61", True), (["61"], "91", False), (["91", "92"], "91", True)):
        changed = await shop.ask("PATCH", path, {"reroute_codes": codes}, key="operator")
        assert (changed.status, changed.body["reroute_codes"]) == (200, codes), changed.raw
        await shop.caught_up()
        await shop.host.order("code", code)
        answer = await shop.pay(10_000)
        assert (answer.body["acquirer"] == shop.shown("acquirer.dual")) is rerouted, (codes, code, answer.raw)
    assert (await shop.ask("PATCH", path, {"reroute_codes": ["9"]}, key="operator")).status == 422


async def test_many_at_once_under_one_key_are_one_sale_wherever_it_was_tried(shop: Shop) -> None:
    await code_91(shop)
    await shop.dual.order("delay", 0.1)
    key, body = new_key(), body_of(10_000)
    answers = await asyncio.gather(*(shop.post(body, key) for _ in range(9)))
    assert {answer.raw for answer in answers if answer.status == 201} == {answers[0].raw} and {answer.status for answer in answers} <= {201, 409}
    assert await attempts(shop, key) == [("single", "DECLINED", "ask_again"), ("dual", "APPROVED", "none")]


async def test_a_cancellation_finds_the_attempt_that_is_on_its_way(shop: Shop) -> None:
    path = f"/v1/acquirers/{shop.shown('acquirer.dual')}"
    assert (await shop.ask("PATCH", path, {"answer_timeout_ms": 10_000}, key="operator")).status == 200
    await shop.caught_up()
    await code_91(shop)
    await shop.dual.order("delay", 5.0, {"0": "0100"})  # long enough for a cancellation on a busy machine
    key = new_key()
    sold = asyncio.ensure_future(shop.pay(10_000, key))

    async def second_is_sent() -> bool:
        return len(await shop.by_key(key)) == 2

    await eventually(second_is_sent, "no second attempt")
    first, last = (show("transaction", row["transaction_id"]) for row in await shop.by_key(key))
    cancelled = await shop.cancel(key)
    assert (cancelled.status, cancelled.body["id"]) == (202, last), cancelled.raw
    assert (await sold).body["status"] in ("reversing", "reversed")
    await shop.until(last, "reversed")
    assert (await shop.get(first))["status"] == "declined"
    row = await shop.row(last)
    assert await shop.dual.effect(row["rrn"]) == (0, 0)
    assert (await shop.ask("PATCH", path, {"answer_timeout_ms": ANSWER_TIMEOUT_MS}, key="operator")).status == 200
    await shop.caught_up()


async def test_a_reversal_of_the_first_attempt_undoes_the_one_that_followed(shop: Shop) -> None:
    await code_91(shop)
    key = new_key()
    sold = (await shop.pay(10_000, key)).body
    first = (await shop.by_key(key))[0]["transaction_id"]
    undone = await shop.switch.cancellations.undone(first)
    assert show("transaction", undone.transaction_id) == sold["id"]
    await shop.until(sold["id"], "reversed")


async def test_the_next_attempt_leaves_only_when_it_is_durable(shop: Shop) -> None:
    """Its commit hangs until the terminal was told "pending": it is never sent, and says so when it is in the books after all."""
    await code_91(shop)
    key, held = new_key(), await asyncpg.connect(shop.url)
    try:
        async with held.transaction():
            await held.execute("SELECT pg_advisory_xact_lock(3583010, day_lock(acquirer_id, business_date)) FROM business_day "
                               "WHERE acquirer_id = $1 AND state = 'open'", shop.ids["acquirer.dual"])
            sent = (await shop.dual.stats())["received"].get("0100", 0)
            answer = await shop.pay(10_000, key)
            assert (answer.status, answer.body["status"], answer.body["advice"]) == (202, "pending", "ask_again"), answer.raw
            assert (await shop.dual.stats())["received"].get("0100", 0) == sent

        async def settled() -> bool:
            return await attempts(shop, key) == [("single", "DECLINED", "ask_again"), ("dual", "NOT_SENT", "retry_new_key")]

        await eventually(settled, "the attempt that was never sent does not end")
    finally:
        await held.close()
    again = await shop.pay(10_000, key)
    assert (again.status, again.body["status"], again.body["advice"]) == (201, "not_sent", "retry_new_key")


async def test_an_attempt_that_the_books_refuse_leaves_the_first_one_as_the_last(shop: Shop) -> None:
    owner = await asyncpg.connect(shop.url)
    try:
        await owner.execute("""CREATE OR REPLACE FUNCTION refuse_attempts() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN RAISE EXCEPTION 'no attempts' USING ERRCODE = '23514'; END $$""")
        await owner.execute("CREATE TRIGGER no_attempts BEFORE INSERT ON transaction FOR EACH ROW WHEN (NEW.attempt_of IS NOT NULL) EXECUTE FUNCTION refuse_attempts()")
        await code_91(shop)
        key = new_key()
        answer = await shop.pay(10_000, key)
        assert (answer.status, answer.body["status"], answer.body["advice"]) == (201, "declined", "retry_new_key")
        assert await attempts(shop, key) == [("single", "DECLINED", "retry_new_key")]
        assert (await shop.pay(10_000, key)).raw == answer.raw
    finally:
        await owner.execute("DROP TRIGGER IF EXISTS no_attempts ON transaction")
        await owner.close()


async def test_follow_ups_stay_with_the_acquirer_that_authorised(shop: Shop) -> None:
    async with in_force(shop, acquirer=shop.shown("acquirer.dual"), bin_low=PAN_BIN, bin_high=PAN_BIN, priority=1, name="For this sale"):
        sold = (await shop.pay(20_000, card=VISA, type="preauthorization", capture_method="manual")).body
    assert sold["acquirer"] == shop.shown("acquirer.dual")
    assert await sold_at(shop, card=VISA) == "single"
    captured = await shop.ask("POST", f"/v1/authorizations/{sold['id']}/captures", {"amount": 20_000}, Idempotency_Key=new_key())
    assert (captured.status, captured.body["acquirer"]) == (201, sold["acquirer"]), captured.raw
    refunded = await shop.ask("POST", "/v1/refunds", {"authorization": sold["id"], "amount": 500}, Idempotency_Key=new_key())
    assert (refunded.status, refunded.body["acquirer"]) == (201, sold["acquirer"]), refunded.raw
    refused = await shop.ask("GET", f"/v1/routes/explain?transaction={refunded.body['id']}", key="operator")
    assert (refused.status, refused.body["code"]) == (409, "conflict")


async def test_an_acquirer_that_does_not_answer_stands_behind_where_the_rule_asks_for_health(shop: Shop) -> None:
    alternatives = shop.switch.authorizations.alternatives
    single = shop.ids["acquirer.single"]
    alternatives.answers.clear()
    async with in_force(shop, acquirer=shop.shown("acquirer.single"), merchant=shop.shown("merchant.two"), priority=1, healthy_percent=90):
        assert await sold_at(shop, key="dual") == "single"
        asked = {"terminal": shop.shown("terminal.dual"), "bin": PAN_BIN, "amount": 10_000, "currency": "CNY"}
        for _ in range(2000):
            alternatives.note(single, False)
        places = [await sold_at(shop, key="dual") for _ in range(32)]
        told = (await shop.ask("POST", "/v1/routes/explain", asked, key="operator")).body
        alternatives.answers.clear()
        assert await sold_at(shop, key="dual") == "single", "forgotten"
    assert places.count("dual") >= 22, "one in sixteen tries it"
    assert any("its acquirer is not well (answered" in why for each in told["alternatives"] for why in each["why"])


async def test_what_becomes_of_requests_is_measured(shop: Shop) -> None:
    alternatives, single = shop.switch.authorizations.alternatives, shop.ids["acquirer.single"]
    alternatives.answers.clear()
    await shop.pay(10_000)
    await shop.pay(10_051)
    assert alternatives.health(single)[1:] == (2, 2), "a decline is an answer"
    await code_91(shop)
    await shop.pay(10_000)
    assert alternatives.health(single)[1:] == (3, 2), "a host that reached nobody could not answer"
    await shop.host.order("silence")
    unsold = await shop.pay(10_000)
    assert alternatives.health(single)[1:] == (4, 2)
    await shop.until(unsold.body["id"], "reversed")


# what the books refuse


@asynccontextmanager
async def as_writer(shop: Shop) -> AsyncIterator[asyncpg.Connection]:
    connection = await database.connect(shop.url, "switch_writer")
    try:
        yield connection
    finally:
        await connection.close()


async def test_a_key_never_moves_to_another_sale_or_from_one_that_may_stand(shop: Shop) -> None:
    """Hand-written statements, as the writer: two approvals under one key are not to be had."""
    keys = [new_key() for _ in range(3)]
    await code_91(shop)
    rerouted = (await shop.pay(10_000, keys[0])).body
    approved, other = [(await shop.pay(10_000, key)).body for key in keys[1:]]
    first, last = await shop.by_key(keys[0])
    move = "UPDATE idempotency SET transaction_id = $2 WHERE idempotency_key = $1"
    async with as_writer(shop) as writer:
        for key, to in ((keys[1], other["id"]), (keys[1], rerouted["id"]), (keys[0], show("transaction", first["transaction_id"])), (keys[0], other["id"])):
            with pytest.raises(asyncpg.CheckViolationError) as refused:
                await writer.execute(move, key, UUID(to[4:]))
            assert refused.value.constraint_name == "one_sale_per_key"
        for statement in ("UPDATE idempotency SET fingerprint = $2 WHERE idempotency_key = $1", "UPDATE idempotency SET route = 'x' WHERE $2 = $1"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await writer.execute(statement, keys[0], keys[0].encode() if "fingerprint" in statement else keys[0])
    owner = await asyncpg.connect(shop.url)
    try:
        with pytest.raises(asyncpg.UniqueViolationError):
            await owner.execute("UPDATE transaction SET attempt_of = $1, version = version + 1 WHERE transaction_id = $2",
                                first["transaction_id"], UUID(approved["id"][4:]))
    finally:
        await owner.close()
    assert [row["transaction_id"] for row in await shop.sql("SELECT transaction_id FROM idempotency WHERE idempotency_key = $1", keys[0])] == [
        last["transaction_id"]]


@pytest.mark.parametrize("change", ["priority = 1", "acquirer_id = gen_random_uuid()", "bin_low = '400000'", "weight = 5", "created_by = 'me'", "state = 'draft'",
                                    "state = 'retired', retired_by = 'me', retired_at = now(), activated_at = now() - interval '1 day'"])
async def test_what_a_rule_says_never_changes(shop: Shop, change: str) -> None:
    rule = await add(shop, acquirer=shop.shown("acquirer.dual"), brand="amex", bin_low="340000", bin_high="349999", priority=9)
    owner = await asyncpg.connect(shop.url)
    try:
        with pytest.raises(asyncpg.PostgresError) as refused:
            await owner.execute(f"UPDATE route SET {change} WHERE route_id = $1", UUID(rule["id"][4:]))
        assert refused.value.constraint_name == "route_stays"
    finally:
        await owner.close()
        await switch_rule(shop, rule["id"], "retire")


# who could, and is away


async def test_a_sale_that_only_a_line_that_is_down_can_say_may_be_tried_again(shop: Shop) -> None:
    dual, key = shop.shown("acquirer.dual"), new_key()
    assert (await shop.ask("POST", f"/v1/links/{dual}/down", {}, key="operator")).status == 200
    try:
        async def told(status: int) -> bool:
            return (await shop.pay(10_000, key, capture_method="manual")).status == status

        await eventually(lambda: told(503), "no 503 while the line is down")
        answer = await shop.pay(10_000, key, capture_method="manual")
        assert (answer.status, answer.body["code"], answer.body["processed"]) == (503, "acquirer_unavailable", False), answer.raw
        assert await shop.by_key(key) == []
    finally:
        assert (await shop.ask("POST", f"/v1/links/{dual}/up", {}, key="operator")).status == 200
    await eventually(lambda: told(201), "the same key does not sell when the line is up again")
