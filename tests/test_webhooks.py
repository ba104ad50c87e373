"""The rules of webhooks: signature, schedule, what an answer means, what is shown of one, and what docs/webhooks.md says of it all."""

import base64
import json
import re
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.notices import delivery, endpoints, post, sweep, webhooks
from switch.notices.events import body_of
from switch.notices.webhooks import APPROVED, BUSY, DECIDED, GIVE_UP_AFTER, SCHEDULE, TYPES, Result, decided, headers, outcomes, signature, verdict
from switch.payments.transaction import STATUS
from switch.security.vault import Keyring, Vault, VaultError

# The vector that the standard's own libraries test with.
SECRET, MESSAGE, AT, BODY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNED = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
KEY = base64.b64decode(SECRET.removeprefix("whsec_"))
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
GUIDE = (Path(__file__).resolve().parent.parent / "docs" / "webhooks.md").read_text()


def test_the_signature_is_that_of_the_public_vector() -> None:
    assert signature(KEY, MESSAGE, AT, BODY) == SIGNED
    assert webhooks.shown_secret(KEY) == SECRET
    assert headers([KEY], MESSAGE, AT, BODY) == {"webhook-id": MESSAGE, "webhook-timestamp": str(AT), "webhook-signature": SIGNED}


@pytest.mark.parametrize("other", [(KEY + b"x", MESSAGE, AT, BODY), (KEY, MESSAGE + "x", AT, BODY), (KEY, MESSAGE, AT + 1, BODY), (KEY, MESSAGE, AT, BODY + b" ")])
def test_whatever_is_signed_changes_the_signature(other: Any) -> None:
    assert signature(*other) != SIGNED


def test_while_a_secret_is_rotated_both_sign_and_the_newest_first() -> None:
    assert headers([b"new", KEY], MESSAGE, AT, BODY)["webhook-signature"].split(" ") == [signature(b"new", MESSAGE, AT, BODY), SIGNED]


def test_a_sealed_secret_opens_for_its_own_endpoint_alone() -> None:
    vault = Vault(Keyring("k1", "t1", {"k1": bytes(31) + b"k", "t1": bytes(31) + b"t"}))
    key_id, sealed = vault.seal_row("webhook", KEY, UUID(int=1).bytes)
    assert vault.open_row("webhook", key_id, sealed, UUID(int=1).bytes) == KEY and KEY not in sealed
    for other in (UUID(int=2).bytes, b""):
        with pytest.raises(VaultError, match="seal_broken"):
            vault.open_row("webhook", key_id, sealed, other)
    with pytest.raises(VaultError, match="seal_truncated"):
        vault.open_row("webhook", key_id, sealed[:20], UUID(int=1).bytes)


def test_ten_attempts_over_three_days_each_pause_longer_than_the_one_before() -> None:
    assert [round(pause.total_seconds()) for pause in SCHEDULE] == [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
    assert all(one * (1 + webhooks.JITTER) < other or one >= timedelta(hours=5) for one, other in pairwise(SCHEDULE))
    assert timedelta(days=3) < sum(SCHEDULE, timedelta()) < timedelta(days=4) < GIVE_UP_AFTER
    assert webhooks.LEASE_S > webhooks.DEADLINE_S + post.BODY_S


@pytest.mark.parametrize("step", range(len(SCHEDULE)))
@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
def test_a_failure_is_tried_again_after_its_pause_and_up_to_a_fifth_more(step: int, draw: float) -> None:
    found = verdict(Result(500), step, None, NOW, draw)
    assert not found.delivered and not found.disable and found.resume_at is None and found.again_at is not None
    assert (found.again_at - NOW).total_seconds() == pytest.approx(SCHEDULE[step].total_seconds() * (1 + 0.2 * draw))


def test_after_the_last_pause_a_delivery_has_failed_and_its_endpoint_stays() -> None:
    assert verdict(Result(500), len(SCHEDULE), NOW - timedelta(days=4), NOW, 0.5) == webhooks.Verdict(False, None)


@pytest.mark.parametrize("status", range(100, 600))
def test_every_status_means_delivered_gone_busy_or_again(status: int) -> None:
    found = verdict(Result(status, retry_after="7"), 0, None, NOW, 0.0)
    assert found.delivered is (200 <= status < 300)
    assert found.disable == ("gone" if status == 410 else "")
    assert found.resume_at == (NOW + timedelta(seconds=7) if status in BUSY else None)
    assert (found.again_at is None) is (found.delivered or status == 410)


@pytest.mark.parametrize(("said", "seconds"), [(None, 60), ("0", 0), ("120", 120), ("86400", 86400), ("86401", 86400), ("999999999", 86400),
                                               ("9" * 10, 60), ("-1", 60), ("1.5", 60), ("", 60), ("٣", 60), ("Wed, 21 Oct 2026 07:28:00 GMT", 60)])
def test_a_busy_endpoint_is_left_alone_as_long_as_it_asks_for_and_at_most_a_day(said: str | None, seconds: int) -> None:
    found = verdict(Result(429, retry_after=said), 0, None, NOW, 0.0)
    assert found.resume_at == NOW + timedelta(seconds=seconds)
    assert found.again_at == max(found.resume_at, NOW + SCHEDULE[0])


@pytest.mark.parametrize("result", [Result(500), Result(429, retry_after="9"), Result(302), Result(None, "timeout")])
def test_five_days_without_a_success_disable_and_not_a_moment_less(result: Result) -> None:
    assert verdict(result, 3, NOW - GIVE_UP_AFTER, NOW, 0.5) == webhooks.Verdict(False, None, disable="failing")
    assert not verdict(result, 3, NOW - GIVE_UP_AFTER + timedelta(microseconds=1), NOW, 0.5).disable
    assert verdict(Result(204), 3, NOW - GIVE_UP_AFTER, NOW, 0.5).delivered


def test_every_outcome_has_one_event_and_only_what_is_wanted_is_looked_for() -> None:
    assert {decided(type_, outcome) for type_, outcome in outcomes(["*"])} == {*APPROVED.values(), *DECIDED.values()}
    assert {*APPROVED.values(), *DECIDED.values(), *webhooks.CLOSED.values()} == {name for name in TYPES if name.startswith("transaction.")}
    assert outcomes(["transaction.captured"]) == [("capture", "APPROVED"), ("tip", "APPROVED")]
    assert set(outcomes(["transaction.declined", "payout.sent"])) == {(type_, "DECLINED") for type_ in APPROVED}
    assert outcomes(["transaction.reversed", "webhook.test"]) == []
    assert set(outcomes(TYPES)) == set(outcomes(["*"]))


async def test_every_type_and_outcome_that_the_books_allow_has_its_event(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    allowed = {name: set(re.findall(r"'(\w+)'", await connection.fetchval(
        "SELECT pg_get_constraintdef(c.oid) FROM pg_attribute a JOIN pg_constraint c ON c.contypid = a.atttypid "
        "WHERE a.attrelid = 'transaction'::regclass AND a.attname = $1", name))) for name in ("type", "outcome")}
    await connection.close()
    assert allowed == {"type": set(APPROVED), "outcome": {"APPROVED", *DECIDED}}


@given(st.binary(max_size=3000))
def test_what_is_shown_of_an_answer_is_short_printable_and_has_no_card_number(raw: bytes) -> None:
    shown = webhooks.shown_answer(raw)
    assert len(shown) <= 200 and shown.isprintable()
    assert not re.search(r"[0-9](?:[ -]?[0-9]){7,}", shown)


@pytest.mark.parametrize("text", [b"4111111111111111", b"4111 1111 1111 1111", b"4111-1111-1111-1111", b"x" * 195 + b"4111111111111111"])
def test_a_card_number_in_an_answer_is_not_kept(text: bytes) -> None:
    assert "4111" not in webhooks.shown_answer(text)


def test_a_body_is_ascii_and_says_when_it_happened() -> None:
    body = body_of("webhook.test", NOW, {"name": "快餐"})
    assert body.isascii() and json.loads(body) == {"type": "webhook.test", "timestamp": "2026-11-26T12:00:00.000000Z", "data": {"name": "快餐"}}


# What docs/webhooks.md says, held against the code.


def rows(heading: str, which: int = 0) -> list[list[str]]:
    """Cells of a table below a heading, without its head."""
    text = re.split(r"(?m)^## ", GUIDE.split(f"## {heading}\n", 1)[1])[0].strip()
    table = [block for block in text.split("\n\n") if block.startswith("|")][which]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]


def test_the_guide_names_every_type_and_no_other() -> None:
    assert {name: text for name, text in rows("What comes")} == dict(TYPES)


def test_the_guide_names_every_fault_and_no_other() -> None:
    sources = [Path(module.__file__).read_text() for module in (post, delivery, endpoints)]
    used = {word for text in sources for said in re.findall(r"Result\(None, (.*)\)|last_fault = ('\w+')", text) for word in re.findall(r"[\"'](\w+)[\"']", "".join(said))}
    assert len(used) == 9 and {fault for fault, _ in rows("What your answer means", 1)} == used


def test_the_guide_s_example_has_the_members_that_are_sent() -> None:
    example = json.loads(re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)[0])
    row: dict[str, Any] = dict.fromkeys(("original_id", "response_code", "reason", "approval_code", "rrn", "stan", "reference", "terminal_trace", "masked_pan", "brand"))
    row |= {"transaction_id": UUID(int=1), "store_id": UUID(int=2), "terminal_id": UUID(int=3), "type": "purchase", "amount": 2500, "approved_amount": 2500,
            "currency": "CNY", "business_date": date(2026, 11, 26)}
    data = sweep.data_of(row, "approved")
    assert list(example) == ["type", "timestamp", "data"] and list(example["data"]) == list(data)
    assert list(example["data"]["card"]) == list(data["card"]) and example["data"]["status"] in STATUS.values()


def test_what_is_declined_or_undone_says_no_approved_amount() -> None:
    row: dict[str, Any] = dict.fromkeys(("original_id", "response_code", "reason", "approval_code", "rrn", "stan", "reference", "terminal_trace", "masked_pan", "brand"))
    row |= {"transaction_id": UUID(int=1), "store_id": UUID(int=2), "terminal_id": UUID(int=3), "type": "purchase", "amount": 9, "approved_amount": 9,
            "currency": "CNY", "business_date": date(2026, 11, 26)}
    assert {status: sweep.data_of(row, status)["approved_amount"] for status in ("approved", "confirmed", "declined", "not_sent", "reversed")} == {
        "approved": 9, "confirmed": 9, "declined": 0, "not_sent": 0, "reversed": 0}


def test_the_guide_s_figures_are_the_switch_s() -> None:
    assert "5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h and 24 h" in GUIDE
    assert f"within {webhooks.DEADLINE_S:g} s" in GUIDE and f"without one {webhooks.THROTTLED_S} s" in GUIDE
    assert ", ".join(map(str, sorted(BUSY))) in GUIDE
    assert f"over {webhooks.HEAD_MAX // 1024} KiB" in GUIDE


def genuine(*arguments: Any, **named: Any) -> Any:
    """The function that the guide gives to merchants, as it stands there."""
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    space: dict[str, Any] = {}
    exec(compile(code, "docs/webhooks.md", "exec"), space)
    return space["genuine"](*arguments, **named)


def test_the_guide_s_snippet_takes_what_is_genuine_and_nothing_else() -> None:
    good = headers([KEY], MESSAGE, AT, BODY)
    assert genuine([SECRET], good, BODY, AT)
    assert genuine(["whsec_" + base64.b64encode(b"old").decode(), SECRET], good, BODY, AT + 299)
    assert genuine([SECRET], headers([b"new", KEY], MESSAGE, AT, BODY), BODY, AT)
    assert not genuine([SECRET], good, BODY + b" ", AT)
    assert not genuine([SECRET], good | {"webhook-id": "msg_x"}, BODY, AT)
    assert not genuine([SECRET], good, BODY, AT + 301)
    assert not genuine([SECRET], good | {"webhook-timestamp": "soon"}, BODY, AT)
    assert not genuine(["whsec_" + base64.b64encode(b"other").decode()], good, BODY, AT)
    assert not genuine([SECRET], {}, BODY, AT)
