"""The rules of disputes: their life, what they cost, when they end, and notices as files."""

import importlib
from datetime import UTC, date, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.errors import PROBLEMS
from switch.settlement.disputes import life
from switch.settlement.disputes.life import CHARGED, CLOSED, EVENTS, LIFE, STATES, TO_ANSWER, About, Fee, Term, postings, refusal, times
from switch.settlement.disputes.notices import HEAD, LINES_MAX, Notice, Refused, is_reference, parse

ABOUT = About(UUID(int=1), "dsp_1", UUID(int=2), UUID(int=3), "CNY", 1000, 1)
DAY = date(2026, 11, 23)
r0013 = importlib.import_module("migrations.versions.r0013_disputes")


def test_the_database_allows_exactly_the_steps_of_the_life() -> None:
    assert {tuple(step.split(">")) for step in r0013.STEPS} == {(was, state) for (was, _), state in LIFE.items() if was is not None}
    assert set(r0013.CHARGED) == CHARGED and set(r0013.STATES) == STATES


def test_a_state_comes_at_most_once_in_a_life() -> None:
    """Steps, postings and webhooks are named after states."""
    def reach(state: str, seen: frozenset[str]) -> None:
        assert state not in seen
        for (was, _), follows in LIFE.items():
            if was == state:
                reach(follows, seen | {state})

    reach("retrieval", frozenset())


@pytest.mark.parametrize("state", [None, *sorted(STATES)])
@pytest.mark.parametrize("event", sorted(EVENTS))
def test_a_step_that_is_not_in_the_life_is_refused_by_name(state: str | None, event: str) -> None:
    refused = refusal(state, event)
    if (state, event) in LIFE:
        assert refused is None
        return
    assert refused is not None and refused.code in PROBLEMS
    if state in CLOSED:
        assert refused.code == "dispute_closed"
    elif event in ("represent", "accept") and state not in TO_ANSWER:
        assert refused.code == "dispute_waits"
    else:
        assert refused.code == "dispute_move"
    with pytest.raises(LookupError):
        life.step(state, event)


@pytest.mark.parametrize(("was", "state", "fee", "moves"), [
    (None, "retrieval", Fee(50, 20), [("dispute_fee", "merchant", "fee", 50), ("dispute_cost", "cost", "acquirer", 20)]),
    (None, "chargeback", Fee(), [("chargeback", "merchant", "dispute", 1000), ("chargeback_acquirer", "dispute", "acquirer", 1000)]),
    ("retrieval", "answered", Fee(), []), ("chargeback", "represented", Fee(), []), ("represented", "lost", Fee(), []), ("chargeback", "accepted", Fee(), []),
    ("represented", "won", Fee(), [("chargeback_won", "dispute", "merchant", 1000), ("chargeback_won_acquirer", "acquirer", "dispute", 1000)]),
    ("lost", "won", Fee(), [("chargeback_won", "dispute", "merchant", 1000), ("chargeback_won_acquirer", "acquirer", "dispute", 1000)]),
    ("retrieval", "withdrawn", Fee(), []), ("represented", "pre_arbitration", Fee(30), [("dispute_fee", "merchant", "fee", 30)]),
])
def test_what_a_step_moves(was: str | None, state: str, fee: Fee, moves: list[tuple[str, str, str, int]]) -> None:
    assert [(t.cause, t.debit.kind, t.credit.kind, t.amount) for t in postings(ABOUT, was, state, fee, DAY)] == moves


@given(st.data())
def test_over_any_life_the_dispute_account_is_even_and_the_merchant_has_lost_what_is_charged(data: st.DataObject) -> None:
    state: str | None = None
    balance = {"merchant": 0, "dispute": 0, "acquirer": 0}
    keys: set[str] = set()
    step = 1
    while follows := [each for each in LIFE.items() if each[0][0] == state]:
        (_, _), after = data.draw(st.sampled_from(sorted(follows, key=str)))
        for transfer in postings(ABOUT._replace(step=step), state, after, Fee(), DAY):
            balance[transfer.debit.kind] -= transfer.amount
            balance[transfer.credit.kind] += transfer.amount
            assert transfer.posting_key not in keys
            keys.add(transfer.posting_key)
        state, step = after, step + 1
        charged = 1000 if state in CHARGED else 0
        assert balance == {"merchant": -charged, "dispute": 0, "acquirer": charged}


def test_the_time_ends_with_a_day_of_the_acquirers_zone() -> None:
    assert times(date(2026, 3, 1), Term(20, 5), ZoneInfo("Asia/Shanghai")) == (
        datetime(2026, 3, 21, 16, tzinfo=UTC), datetime(2026, 3, 16, 16, tzinfo=UTC))
    until, _ = times(date(2026, 10, 20), Term(5, 1), ZoneInfo("Europe/Berlin"))  # a wall clock went back on the last day
    assert until == datetime(2026, 10, 25, 23, tzinfo=UTC)
    assert not life.overdue("represent", until, until - timedelta(microseconds=1)) and life.overdue("represent", until, until)
    assert not life.overdue("win", until, until + timedelta(days=9))


# Files of notices.

LINE = "chargeback,CB-1,,632700000017,10000,CNY,4853,2026-11-23"
FIRST = "disputes,1,single,7"


def file(*lines: str, first: str = FIRST, total: str | None = None, head: str = ",".join(HEAD)) -> bytes:
    amounts = [int(line.split(",")[4]) for line in lines if line.count(",") == 7 and line.split(",")[4].isdigit()]
    return "\n".join([first, head, *lines, f"total,{len(lines)},{sum(amounts)}" if total is None else total, ""]).encode()


def test_a_sound_file_is_read() -> None:
    won = "won,CB-0,,,500,CNY,4853,2026-12-20"
    found = parse(file(LINE, won), {"single"})
    assert (found.number, found.total) == ("7", 10_500)
    assert found.notices[0] == Notice("chargeback", "CB-1", None, "632700000017", 10_000, "CNY", "4853", DAY, 3)
    assert parse(file(LINE, won).replace(b"\n", b"\r\n"), {"single"}) == found
    assert parse(file(), {"single"}).notices == ()


@pytest.mark.parametrize(("raw", "line"), [
    (b"", 1), (b"\n", 1), (file(LINE)[:-10], 4), (file(LINE).rsplit(b"total", 1)[0], 3), (file(LINE, total="total,2,10000"), 4), (file(LINE, total="total,1,10001"), 4),
    (file(LINE, total="total,1,10000,"), 4), (file(LINE, first="disputes,1,other,7"), 1), (file(LINE, first="disputes,2,single,7"), 1), (file(LINE, first="disputes,1,single,x"), 1),
    (file(LINE, head=",".join(reversed(HEAD))), 2), (b"\xef\xbb\xbf" + file(LINE), 1), (file(LINE).decode().encode("utf-16"), 1), (file(LINE) + b"\xff", 5),
    (file(LINE, LINE), 4), (file(LINE + ","), 3), (file(LINE.replace("10000", "-1")), 3), (file(LINE.replace("10000", "0")), 3), (file(LINE.replace("10000", "1e4")), 3),
    (file(LINE.replace("10000", "10000000000000")), 3), (file(LINE.replace("10000", "10.00")), 3), (file(LINE.replace("10000", "\u0663")), 3), (file(LINE.replace("CNY", "cny")), 3),
    (file(LINE.replace("chargeback", "refund")), 3), (file(LINE.replace("CB-1", "=CMD()")), 3), (file(LINE.replace("CB-1", "@x")), 3), (file(LINE.replace("CB-1", "")), 3),
    (file(LINE.replace("CB-1", "x" * 41)), 3), (file(LINE.replace("CB-1", "4111111111111111")), 3), (file(LINE.replace("CB-1", "4111-1111-1111-1111")), 3),
    (file(LINE.replace("CB-1", '"CB-1"')), 3), (file(LINE.replace("CB-1", "a\0b")), 3), (file(LINE.replace("CB-1", "a\tb")), 3), (file(LINE.replace(",,", ",txn_x,")), 3),
    (file(LINE.replace("632700000017", "")), 3), (file(LINE.replace("632700000017", "63270000001")), 3), (file(LINE.replace("2026-11-23", "2026-02-30")), 3),
    (file(LINE.replace("2026-11-23", "23.11.2026")), 3), (file(LINE.replace("4853", "")), 3), (file(LINE, ""), 4), (file(LINE, "won,CB-1,,632700000017,10000,CNY,4853,2026-12-20"), 4),
    (file(LINE.replace(",,", ",txn_0192f0c4-7c1e-7aaa-8bbb-1234567890ab,")), 3), (file(*[LINE] * LINES_MAX), LINES_MAX + 1), (bytes(5 << 20), 1), (file("x" * 401), 3),
])
def test_a_file_that_is_not_sound_is_refused_whole_with_its_line(raw: bytes, line: int) -> None:
    with pytest.raises(Refused) as refused:
        parse(raw, {"single"})
    assert refused.value.line == line, refused.value.reason
    assert "4111" not in refused.value.reason and "CMD" not in refused.value.reason


@given(st.binary(max_size=300))
def test_any_bytes_are_a_file_or_refused(raw: bytes) -> None:
    for whole in (raw, file(LINE)[:40] + raw, file(LINE)[:-5] + raw):
        try:
            parse(whole, {"single"})
        except Refused as refused:
            assert refused.line >= 0 and refused.reason


def test_a_case_number_whose_check_digit_fits_is_no_card() -> None:
    assert is_reference("CB-18") and is_reference("100000000009") and is_reference("74537604221222222222229")
    assert not is_reference("a4111111111111111") and not is_reference("6212345678900000003")
