"""What a host can do wrong: every answer that is none, late, twice or in doubt ends as no sale, with nothing standing (fault rows 13-30)."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import pytest
import pytest_asyncio

from acquirer_stubs.codec import Message
from switch.api.shapes import NotSold
from tests.flows import ANSWER_TIMEOUT_MS, Reply, Shop, answer_to, eventually, new_key, open_shop, scripted_host
from tests.processes import Answer, stub_book

GRACE_MS = 1500  # long enough for a late answer to come before its reversal
TIMEOUT_S, GRACE_S = ANSWER_TIMEOUT_MS / 1000, GRACE_MS / 1000


class Case(NamedTuple):
    """A fault of one answer, and what it must lead to. `unmatched`: reason and field of the row that records the answer."""

    action: str
    value: object
    reason: str
    unmatched: tuple[str, str | None] | None
    stands: int  # of 1000: what the host posted before the reversal


CASES = [
    Case("silence", None, "no_answer", None, 1000),
    Case("garbage", None, "no_answer", ("undecodable", None), 1000),
    Case("late", 1.0, "no_answer", ("late", None), 1000),
    *(Case("wrong", de, "no_answer", ("differs", de), 1000) for de in ("3", "4", "49", "0", "2")),
    *(Case("wrong", f"-{de}", "no_answer", ("differs", de), 1000) for de in ("3", "4", "49", "39", "38")),
    *(Case("wrong", de, "no_answer", ("no_request", de), 1000) for de in ("7", "11", "37", "41", "42")),
    *(Case("wrong", f"-{de}", "no_answer", ("no_request", de), 1000) for de in ("7", "11", "37", "41", "42")),
    *(Case("code", code, reason, None, 0) for code, reason in (
        ("06", "error"), ("09", "in_progress"), ("68", "answered_too_late"), ("94", "duplicate"), ("96", "system_malfunction"),
        ("98", "no_issuer_answer"), ("Z9", "unknown_code"), ("77", "unknown_code"), ("N7", "unknown_code"), ("88", "unknown_code"))),
]


class Told(NamedTuple):
    answer: Answer
    seconds: float
    duty: dict[str, Any]
    row: dict[str, Any]


@pytest_asyncio.fixture(scope="module")
async def shop(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    async with open_shop(database_url, tmp_path_factory.mktemp("link_faults")) as opened:
        for name in ("single", "dual"):
            changed = await opened.ask("PATCH", f"/v1/acquirers/{opened.shown(f'acquirer.{name}')}", {"reversal_grace_ms": GRACE_MS}, "operator")
            assert changed.status == 200
        await opened.caught_up()
        yield opened


def amount_of(at: int) -> int:
    return 100_000 + 100 * at


@pytest_asyncio.fixture(scope="module")
async def told(shop: Shop) -> list[Told]:
    """All cases at once, each told by its amount; what the terminal heard and what was stored at that moment."""
    for at, case in enumerate(CASES):
        await shop.host.order(case.action, case.value, {"0": "0200", "4": f"{amount_of(at):012d}"})

    async def one(at: int) -> Told:
        begun = asyncio.get_running_loop().time()
        # four terminals in turn: an answer with a neighbour's number is then nearer to its own request
        answer = await shop.pay(amount_of(at), key=("till", "neighbour", "branch", "strict")[at % 4])
        seconds = asyncio.get_running_loop().time() - begun
        duty = await shop.sql("SELECT *, xmin::text FROM duty WHERE transaction_id = $1", UUID(answer.body["id"][4:]))
        row = await shop.sql("SELECT *, xmin::text FROM transaction WHERE transaction_id = $1", UUID(answer.body["id"][4:]))
        return Told(answer, seconds, duty[0], row[0])

    return await asyncio.gather(*(one(at) for at in range(len(CASES))))


def not_sold(answer: Answer, reason: str) -> Any:
    assert answer.status == 202, answer.raw
    NotSold.model_validate(answer.body, strict=True)
    assert (answer.body["status"], answer.body["reason"], answer.body["advice"]) == ("reversing", reason, "new_payment_allowed")
    assert answer.body["reversal"]["state"] == "open"
    return answer.body


async def closed(shop: Shop, shown_id: str) -> Any:
    """Reversed by the host's acknowledgement, nothing left there."""
    now = await shop.until(shown_id, "reversed")
    assert (now["reversal"]["closed_by"], now["payment_status"], now["approved_amount"]) == ("ack", "none", 0)
    assert not any(now["amounts"].pop("reserved").values())
    assert set(now["amounts"].values()) == {0} and now["advice"] == "new_payment_allowed"
    assert await shop.host.effect(now["rrn"]) == (0, 0)
    return now


async def unmatched(shop: Shop, rrn: str) -> list[dict[str, Any]]:
    return await shop.sql("SELECT u.* FROM unmatched_answer u WHERE u.message ->> '37' = $1 ORDER BY unmatched_id", rrn)


@pytest.mark.parametrize(("at", "case"), list(enumerate(CASES)), ids=[f"{case.action}-{case.value}" for case in CASES])
async def test_what_is_no_certain_answer_is_not_sold_and_reversed(shop: Shop, told: list[Told], at: int, case: Case) -> None:
    answer, seconds, duty, row = told[at]
    body = not_sold(answer, case.reason)
    if case.action == "code":
        assert row["response_code"] == case.value and row["outcome"] is None
    else:  # the timer decides, not the strange answer
        assert TIMEOUT_S <= seconds < TIMEOUT_S + 2 and row["response_code"] is None and row["answered_at"] is None
    assert (duty["kind"], duty["cause"]) == ("reversal", "doubt" if case.action == "code" else "silence")
    assert row["outcome"] is None and row["approved_amount"] is None
    await closed(shop, body["id"])
    sent = await shop.host.received(body["rrn"])
    assert [message["0"] for message in sent] == ["0200", "0420"]
    decided = [line for line in await stub_book(shop.host.control) if line["kind"] == "decision" and line["rrn"] == body["rrn"]]
    assert decided[0]["net"] == (amount_of(at) if case.stands else 0)


async def test_the_reversal_was_owed_by_the_commit_that_gave_the_sale_up(told: list[Told]) -> None:
    together = [each for each in told if each.duty["transmissions"] == 0]  # a reversal that is under way has changed its row since
    assert len(together) >= 15
    for each in together:
        assert each.duty["xmin"] == each.row["xmin"]


async def _sent(shop: Shop, each: Told) -> dict[str, Any] | None:
    duty = await shop.duty(each.answer.body["id"])
    return duty if duty is not None and duty["first_sent_at"] is not None else None


async def test_no_reversal_leaves_while_its_original_could_still_be_written(shop: Shop, told: list[Told]) -> None:
    for case, each in zip(CASES, told, strict=True):
        if each.row["answered_at"] is None and case.action != "late" and case.unmatched is None:
            duty = await eventually(lambda: _sent(shop, each), "the reversal did not leave")  # noqa: B023  awaited at once
            assert duty["first_sent_at"] >= each.row["send_not_after"] + timedelta(seconds=GRACE_S)


@pytest.mark.parametrize(("at", "case"), [(at, case) for at, case in enumerate(CASES) if case.unmatched and case.unmatched[1]],
                         ids=[f"{case.action}-{case.value}" for case in CASES if case.unmatched and case.unmatched[1]])
async def test_the_record_of_a_strange_answer_names_the_field(shop: Shop, told: list[Told], at: int, case: Case) -> None:
    amount = f"{amount_of(at):012d}"

    async def recorded() -> list[dict[str, Any]]:
        rows = await shop.sql("SELECT reason, field, message FROM unmatched_answer")
        shown = [row | {"message": json.loads(row["message"] or "{}")} for row in rows]
        return [row for row in shown if row["message"].get("4", amount)[:11] == amount[:11]
                and ("4" in row["message"] or row["message"].get("37") == told[at].answer.body["rrn"])]

    row, = await eventually(recorded, "the answer was not recorded")
    assert (row["reason"], row["field"]) == case.unmatched
    assert row["message"].get("2", "621234*****")[8] == "*"


async def test_garbage_is_recorded_without_its_bytes(shop: Shop, told: list[Told]) -> None:
    rows = await shop.sql("SELECT message, transaction_id FROM unmatched_answer WHERE reason = 'undecodable'")
    assert rows and all(row["message"] is None and row["transaction_id"] is None for row in rows)


async def test_a_late_approval_is_recorded_hastens_the_reversal_and_is_never_a_sale(shop: Shop, told: list[Told]) -> None:
    at = next(at for at, case in enumerate(CASES) if case.action == "late")
    body = told[at].answer.body
    now = await closed(shop, body["id"])
    (record,) = await unmatched(shop, body["rrn"])
    assert (record["reason"], record["field"], str(record["transaction_id"])) == ("late", None, body["id"][4:])
    duty, row = await shop.duty(body["id"]), await shop.row(body["id"])
    assert duty is not None and duty["first_sent_at"] < row["send_not_after"] + timedelta(seconds=GRACE_S)  # not before, but earlier than owed
    assert row["outcome"] is None and now["status"] == "reversed"
    steps = (await shop.story(body["id"]))["steps"]
    assert [step["detail"]["response_code"] for step in steps if step["what"] == "late_answer"] == ["00"]


async def test_the_story_of_a_silence_tells_what_was_owed_and_how_it_ended(shop: Shop, told: list[Told]) -> None:
    body = told[0].answer.body
    await closed(shop, body["id"])
    told_story = await shop.story(body["id"])
    whats = [step["what"] for step in told_story["steps"]]
    assert whats == ["received at the door", "written down, before anything was sent", "sent to single", "outcome written: not known, reversal owed",
                     "reversal owed because of silence", "reversal first sent", "reversal closed by ack, code 00"]
    assert "reversed" in told_story["in_short"] and "no_answer" in told_story["in_short"]


async def test_an_answer_that_comes_twice_counts_once(shop: Shop) -> None:
    await shop.host.order("duplicate", match={"0": "0200"})
    sold = (await shop.pay(7000)).body
    assert sold["status"] == "approved"
    rows = await eventually(lambda: unmatched(shop, sold["rrn"]), "the second answer was not recorded")
    assert [row["reason"] for row in rows] == ["duplicate"]
    row = await shop.row(sold["id"])
    assert (row["state"], row["version"], row["captured"]) == ("APPROVED", 2, 7000)
    assert await shop.host.effect(sold["rrn"]) == (7000, 0)


async def test_an_answer_within_the_time_is_an_answer(shop: Shop) -> None:
    await shop.host.order("delay", TIMEOUT_S * 0.6)
    assert (await shop.pay(7100)).body["status"] == "approved"


LINE_FAULTS = [("cut", None, "line_lost"), ("garbage", "frame", "line_lost"), ("half_open", None, "no_answer")]


@pytest.mark.parametrize(("action", "value", "reason"), LINE_FAULTS)
async def test_a_line_that_breaks_under_a_sale_is_rebuilt_and_the_sale_reversed(shop: Shop, action: str, value: object, reason: str) -> None:
    await shop.host.order(action, value)
    begun = asyncio.get_running_loop().time()
    body = not_sold(await shop.pay(7200), reason)
    if reason == "line_lost":
        assert asyncio.get_running_loop().time() - begun < TIMEOUT_S  # known at once: nobody waits for an answer on a dead line
    await shop.host.forget()
    await closed(shop, body["id"])
    assert (await shop.pay(7300)).body["status"] == "approved"


async def test_a_cut_before_the_host_booked_is_reversed_too_and_not_found_closes_only_after_its_time(shop: Shop) -> None:
    await shop.host.order("cut", "before")
    body = not_sold(await shop.pay(7400), "line_lost")

    async def not_found() -> Any:
        duty = await shop.duty(body["id"])
        return duty if duty and duty["last_code"] == "25" else None

    duty = await eventually(not_found, "the host was not asked")
    row = await shop.row(body["id"])
    assert (duty["state"], row["state"]) == ("open", "REVERSING")
    assert duty["next_attempt_at"] >= row["send_not_after"] + timedelta(seconds=60 + TIMEOUT_S)
    assert [message["0"] for message in await shop.host.received(body["rrn"])] == ["0420"]
    transaction = UUID(body["id"][4:])
    await shop.sql("UPDATE transaction SET send_not_after = now() - interval '2 minutes', version = version + 1 WHERE transaction_id = $1", transaction)
    await shop.sql("UPDATE duty SET next_attempt_at = now() WHERE transaction_id = $1", transaction)
    now = await shop.until(body["id"], "reversed")
    assert now["reversal"]["closed_by"] == "not_found"
    assert [message["0"] for message in await shop.host.received(body["rrn"])] == ["0420", "0421"]


async def test_a_reversal_that_is_never_answered_stays_owed_and_is_repeated(shop: Shop) -> None:
    for mti in ("0420", "0421"):
        await shop.host.order("silence", match={"0": mti}, count=None)
    await shop.host.order("silence", match={"0": "0200"})
    body = not_sold(await shop.pay(7500), "no_answer")

    async def sent_twice() -> Any:
        duty = await shop.duty(body["id"])
        return duty if duty and duty["transmissions"] >= 2 else None

    duty = await eventually(sent_twice, "it is not sent again")
    assert duty["state"] == "open"
    await shop.host.forget()
    await closed(shop, body["id"])
    mtis = [message["0"] for message in await shop.host.received(body["rrn"])]
    assert mtis[:3] == ["0200", "0420", "0421"] and set(mtis[3:]) <= {"0421"}


@asynccontextmanager
async def hosted(shop: Shop, name: str, script: Any) -> AsyncIterator[None]:
    """Merchant four sells through a scripted host while the body runs."""
    async with scripted_host(script) as port:
        body = {"name": name, "dialect": "iso87_ascii", "host": "127.0.0.1", "port": port, "answer_timeout_ms": ANSWER_TIMEOUT_MS,
                "reversal_grace_ms": GRACE_MS}
        acquirer = await shop.ask("POST", "/v1/acquirers", body, "operator")
        assert acquirer.status == 201, acquirer.raw
        route = await shop.ask("POST", "/v1/routes", {"acquirer": acquirer.body["id"], "merchant": shop.shown("merchant.four"), "priority": 1}, "operator")
        assert route.status == 201, route.raw

        await shop.caught_up()
        await eventually(lambda: line_is(shop, name, "up"), "the scripted host is not connected")
        try:
            yield
        finally:
            changed = await shop.ask("PATCH", f"/v1/acquirers/{acquirer.body['id']}", {"status": "down"}, "operator")
            assert changed.status == 200
            await eventually(lambda: line_is(shop, name, "down"), "the scripted host is not given up")


async def line_is(shop: Shop, name: str, state: str) -> bool:
    links = (await shop.ask("GET", "/v1/links", key="operator")).body["items"]
    return any(link["name"] == name and link["state"] == state for link in links)


async def test_a_host_that_says_no_and_yes_in_one_breath_is_taken_at_its_yes_and_told_on(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second answer comes while the first is being committed: nobody may be charged for what was declined."""
    journal = shop.switch.authorizations.journal
    committed = journal.outcome

    async def slowly(*arguments: Any) -> Any:
        await asyncio.sleep(0.2)
        return await committed(*arguments)

    monkeypatch.setattr(journal, "outcome", slowly)

    def script(message: Message) -> list[Reply]:
        codes = ("00", "05") if message[4] == "000000008200" else ("05", "00")
        return [(0.0, answer_to(message, code)) for code in codes] if message[0] == "0200" else [(0.0, answer_to(message, "00"))]

    async with hosted(shop, "breathless", script):
        sold = [await shop.pay(8100, key="lost") for _ in range(3)]
        for each in sold:
            assert each.body["status"] == "declined"
            await shop.until(each.body["id"], "reversed")
        stands = await shop.pay(8200, key="lost")
        assert stands.body["status"] == "approved"

        async def called() -> bool:
            alerts = (await shop.ask("GET", "/v1/alerts?kind=contradicting_answer&limit=200", key="operator")).body["items"]
            return {each.body["id"] for each in (*sold, stands)} <= {alert["object"] for alert in alerts}

        await eventually(called, "nobody is told")
        assert (await shop.get(stands.body["id"]))["status"] == "approved"


async def test_a_decline_that_an_approval_contradicts_is_reversed_alerts_and_replays_as_the_decline_it_was(shop: Shop) -> None:
    def script(message: Message) -> list[Reply]:
        if message[0] == "0200":
            return [(0.0, answer_to(message, "05")), (0.1, answer_to(message, "00"))]
        return [(0.0, answer_to(message, "00"))]

    async with hosted(shop, "contrary", script):
        key = new_key()
        first = await shop.pay(8000, key, "lost")
        assert (first.status, first.body["status"], first.body["reason"]) == (201, "declined", "do_not_honour")
        await shop.until(first.body["id"], "reversed")
        alerts = (await shop.ask("GET", "/v1/alerts", key="operator")).body["items"]
        assert any(alert["kind"] == "contradicting_answer" and first.body["id"] in str(alert) for alert in alerts)
        again = await shop.pay(8000, key, "lost")
        assert (again.status, again.raw) == (201, first.raw)


async def test_an_approval_that_a_decline_contradicts_stands_and_alerts(shop: Shop) -> None:
    def script(message: Message) -> list[Reply]:
        return [(0.0, answer_to(message, "00")), (0.1, answer_to(message, "05"))]

    async with hosted(shop, "turncoat", script):
        sold = await shop.pay(8100, key="lost")
        assert sold.body["status"] == "approved"

        async def alerted() -> bool:
            alerts = (await shop.ask("GET", "/v1/alerts", key="operator")).body["items"]
            return any(alert["kind"] == "contradicting_answer" and sold.body["id"] in str(alert) for alert in alerts)

        await eventually(alerted, "nobody is told")
        assert (await shop.get(sold.body["id"]))["status"] == "approved"


async def test_an_approval_after_a_reversal_closed_as_not_found_opens_the_reversal_again(shop: Shop) -> None:
    original: list[Message] = []

    def script(message: Message) -> list[Reply]:
        if message[0] == "0200":
            original.append(message)
            return []
        code = "25" if len(original) == 1 else "00"
        replies = [(0.0, answer_to(message, code))]
        if message[0] == "0421" and len(original) == 1:
            original.append(message)
            replies.append((0.3, answer_to(original[0], "00")))
        return replies

    async with hosted(shop, "sleeper", script):
        body = not_sold(await shop.pay(8200, key="lost"), "no_answer")
        transaction = UUID(body["id"][4:])

        async def not_found() -> bool:
            duty = await shop.duty(body["id"])
            return duty is not None and duty["last_code"] == "25"

        await eventually(not_found, "the host was not asked")
        await shop.sql("UPDATE transaction SET send_not_after = now() - interval '2 minutes', version = version + 1 WHERE transaction_id = $1",
                       transaction)
        await shop.sql("UPDATE duty SET next_attempt_at = now() WHERE transaction_id = $1", transaction)

        async def by_ack() -> Any:
            duty = await shop.duty(body["id"])
            return duty if duty and duty["closed_by"] == "ack" else None

        duty = await eventually(by_ack, "the reversal was not opened again")
        assert duty["transmissions"] >= 3 and (await shop.get(body["id"]))["status"] == "reversed"


HOSTILE = "'; DROP TABLE x;--%s {0} <b>"


async def test_text_from_the_host_is_data_everywhere(shop: Shop) -> None:
    def script(message: Message) -> list[Reply]:
        return [(0.0, answer_to(message, "00", de44=HOSTILE[:25], de38="';-- ") | {63: HOSTILE})]

    async with hosted(shop, "hostile", script):
        answer = await shop.pay(8300, key="lost")
        body = answer.body
        story = await shop.story(body["id"])
        assert answer.status in (201, 202) and story["id"] == body["id"]
        assert HOSTILE not in json.dumps(story)


async def test_an_inquiry_answered_without_balances_is_still_an_answer(shop: Shop) -> None:
    def script(message: Message) -> list[Reply]:
        answer = answer_to(message, "00")
        del answer[38]
        return [(0.0, answer)]

    async with hosted(shop, "terse", script):
        answer = await shop.pay(None, key="lost", type="balance_inquiry")
        assert (answer.status, answer.body["status"]) == (201, "approved") and "balances" not in answer.body


DE54 = [("0002156C000000000500", [("00", "02", "156", 500)]), ("0002156D000000000500", [("00", "02", "156", -500)]),
        ("0002156C0000000005001001840C000000000007", [("00", "02", "156", 500), ("10", "01", "840", 7)]), ("0002156C00000000050010", [("00", "02", "156", 500)]),
        ("short", []), ("0002156CABCDEFGHIJKL", [])]


async def test_balances_of_any_form_are_read_as_far_as_they_go(shop: Shop) -> None:
    waiting = [text for text, _ in DE54]

    def script(message: Message) -> list[Reply]:
        return [(0.0, answer_to(message, "00") | {54: waiting.pop(0)})]

    async with hosted(shop, "teller", script):
        for _, expected in DE54:
            answer = await shop.pay(None, key="lost", type="balance_inquiry")
            assert answer.status in (201, 202), answer.raw
            if answer.status == 201:
                shown = [tuple(each.values()) for each in answer.body.get("balances", [])]
                assert shown == expected


async def test_after_all_of_this_what_stands_at_the_host_is_what_the_switch_calls_approved(shop: Shop) -> None:
    async def quiet() -> bool:
        rows = await shop.sql("SELECT 1 FROM duty WHERE state = 'open' AND last_code IS DISTINCT FROM '25' AND acquirer_id = $1",
                              shop.ids["acquirer.single"])
        return not rows

    await eventually(quiet, "reversals are left")
    (approved,) = await shop.sql("SELECT coalesce(sum(approved_amount), 0)::bigint AS total FROM transaction WHERE state = 'APPROVED' AND acquirer_id = $1"
                                 " AND currency = 'CNY'", shop.ids["acquirer.single"])
    assert (await shop.host.stats())["net"].get("156", 0) == approved["total"]
