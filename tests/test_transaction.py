"""The life of a transaction: every state with every event, against the table of the design written out by hand."""

import dataclasses
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from switch.payments import transaction
from switch.payments.transaction import FROM_THE_WIRE, STATE_OF, STATUS, Event, IllegalEvent, Step, Transaction, payment_status, step
from tests import rows

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)

# A column per state. Duties: R owe the reversal, > bring it forward, c close it, p park it; ! raises an alert; = evidence, nothing changes;
# . our own code may not send it. "nf" and "ack" are the two ways in which the reversal of a REVERSED one was closed.
REQUEST = """
event               SENT         APPROVED     DECLINED      NOT_SENT      REVERSING     REVERSED-ack  REVERSED-nf   PARKED        CONFIRMED
approve             APPROVED     =            REVERSING-R!  REVERSING-R!  =>            =             REVERSING-R   =             =
decline             DECLINED     =!           =             REVERSING-R!  =>            =             =             =             =
doubt               REVERSING-R  =            =             REVERSING-R!  =             =             =             =             =
bad_mac             REVERSING-R  =            =             =             =             =             =             =             =
silence             REVERSING-R  =            =             =             =             =             =             =             =
line_lost           REVERSING-R  =            =             =             =             =             =             =             =
pending             SENT-q       =            =             =             =             =             =             =             =
acknowledged        =            =            =             =             REVERSED-c    =             =             REVERSED-c    =
not_found           =            =            =             =             REVERSED-c    =             =             =             =
bounce              NOT_SENT     .            .             .             .             .             .             .             .
partial_refused     REVERSING-R  .            .             .             .             .             .             .             .
crash               REVERSING-R  .            .             .             .             .             .             .             .
undo                REVERSING-R  REVERSING-R  .             .             .             .             .             .             .
give_up             .            .            .             .             PARKED-p!     .             .             .             .
retry               .            .            .             .             .             .             .             REVERSING-R   .
resolve_reversed    .            .            .             .             .             .             .             REVERSED-c    .
resolve_confirmed   .            .            .             .             .             .             .             CONFIRMED-c   .
"""
ALERTS = {("DECLINED", "approve"): "contradicting_answer", ("APPROVED", "decline"): "contradicting_answer",
          ("NOT_SENT", "approve"): "answer_to_unsent", ("NOT_SENT", "decline"): "answer_to_unsent", ("NOT_SENT", "doubt"): "answer_to_unsent",
          ("REVERSING", "give_up"): "reversal_parked"}
DUTIES = {"R": "reversal", "q": "query", ">": "expedite", "c": "close", "p": "park"}
# What an advice does otherwise than a request: it stays SENT, and its repeat duty stays.
ADVICE_IN_SENT = {"doubt", "bad_mac", "silence", "line_lost", "crash", "pending"}


def cells() -> list[tuple[str, str | None, Event, str]]:
    head, *lines = [line.split() for line in REQUEST.strip().splitlines()]
    found = []
    for name, *row in lines:
        for column, cell in zip(head[1:], row, strict=True):
            state, _, closed_by = column.partition("-")
            found.append((state, {"": None, "ack": "ack", "nf": "not_found"}[closed_by], Event(name), cell))
    return found


def expected(state: str, event: Event, cell: str) -> Step | None:
    if cell == ".":
        return None
    text = cell.rstrip("!")
    if text.startswith("="):
        target, duty = state, text[1:]
    else:
        target, _, duty = text.partition("-")
    return Step(target, DUTIES.get(duty, ""), ALERTS[state, event.value] if cell.endswith("!") else "")


def outcome(state: str, event: Event, exchange: str, closed_by: str | None) -> Step | None:
    try:
        return step(state, event, exchange, closed_by)
    except IllegalEvent:
        return None


def test_the_table_covers_every_state_and_every_event() -> None:
    assert {(state, event) for state, _, event, _ in cells()} == {(state, event) for state in STATUS for event in Event}


@pytest.mark.parametrize(("state", "closed_by", "event", "cell"), cells(), ids=lambda value: getattr(value, "value", None) or str(value))
def test_a_request_goes_where_the_table_says(state: str, closed_by: str | None, event: Event, cell: str) -> None:
    assert outcome(state, event, "request", closed_by) == expected(state, event, cell)


@pytest.mark.parametrize(("state", "closed_by", "event", "cell"), cells(), ids=lambda value: getattr(value, "value", None) or str(value))
def test_an_advice_goes_the_same_way_but_no_silence_undoes_it(state: str, closed_by: str | None, event: Event, cell: str) -> None:
    wanted = Step("SENT") if state == "SENT" and event.value in ADVICE_IN_SENT else expected(state, event, cell)
    assert outcome(state, event, "advice", closed_by) == wanted


@pytest.mark.parametrize(("state", "closed_by", "event", "cell"), cells(), ids=lambda value: getattr(value, "value", None) or str(value))
def test_what_is_asked_for_goes_the_same_way_but_only_the_hosts_word_or_an_undo_ends_it(state: str, closed_by: str | None, event: Event, cell: str) -> None:
    asked_for = state == "SENT" and event.value in ADVICE_IN_SENT
    assert outcome(state, event, "query", closed_by) == (Step("SENT", "query") if asked_for else expected(state, event, cell))


@pytest.mark.parametrize("exchange", ["request", "advice", "query"])
@pytest.mark.parametrize("closed_by", [None, "ack", "not_found", "declined", "person"])
@pytest.mark.parametrize("event", sorted(FROM_THE_WIRE, key=lambda event: event.value), ids=lambda event: event.value)
def test_what_comes_from_the_wire_never_raises(event: Event, closed_by: str | None, exchange: str) -> None:
    for state in STATUS:
        assert step(state, event, exchange, closed_by).state in STATUS


def test_what_is_reversing_or_was_reversed_is_never_approved_again() -> None:
    for state in ("REVERSING", "REVERSED", "PARKED"):
        for event in Event:
            for closed_by in (None, "ack", "not_found"):
                found = outcome(state, event, "request", closed_by)
                assert found is None or found.state != "APPROVED"


def test_whatever_enters_reversing_owes_the_reversal() -> None:
    for state in STATUS:
        for event in Event:
            for exchange in ("request", "advice", "query"):
                for closed_by in (None, "ack", "not_found"):
                    found = outcome(state, event, exchange, closed_by)
                    if found is not None and found.state == "REVERSING" and state != "REVERSING":
                        assert found.duty == "reversal", (state, event, exchange)


def test_the_illegal_event_is_named_with_its_state() -> None:
    with pytest.raises(IllegalEvent, match=r"^BOUNCE is not an event of a transaction that is APPROVED$"):
        step("APPROVED", Event.BOUNCE)


def test_the_life_cannot_be_changed_at_run_time() -> None:
    with pytest.raises(TypeError):
        transaction.LIFE["SENT", Event.CRASH] = Step("APPROVED")  # type: ignore[index]


@pytest.mark.parametrize(("state", "authorised", "captured", "refunded", "charged_back", "status"), [
    ("SENT", 0, 0, 0, 0, "none"),
    ("DECLINED", 0, 0, 0, 0, "none"),
    ("NOT_SENT", 0, 0, 0, 0, "none"),
    ("REVERSING", 1000, 1000, 0, 0, "none"),
    ("PARKED", 1000, 1000, 0, 0, "none"),
    ("REVERSED", 0, 0, 0, 0, "none"),
    ("REVERSED", 1000, 0, 0, 0, "voided"),
    ("APPROVED", 0, 0, 0, 0, "none"),
    ("APPROVED", 1000, 0, 0, 0, "authorized"),
    ("APPROVED", 1000, 999, 0, 0, "partially_captured"),
    ("APPROVED", 1000, 1000, 0, 0, "captured"),
    ("APPROVED", 1000, 1150, 0, 0, "captured"),
    ("APPROVED", 1000, 1000, 1, 0, "partially_refunded"),
    ("APPROVED", 1000, 1000, 1000, 0, "refunded"),
    ("APPROVED", 1000, 500, 500, 0, "refunded"),
    ("APPROVED", 1000, 1000, 400, 600, "charged_back"),
    ("APPROVED", 1000, 1000, 0, 1, "charged_back"),
    ("CONFIRMED", 1000, 1000, 0, 0, "captured"),
    ("CONFIRMED", 1000, 0, 0, 0, "authorized"),
])
def test_payment_status(state: str, authorised: int, captured: int, refunded: int, charged_back: int, status: str) -> None:
    assert payment_status(state, authorised, captured, refunded, charged_back) == status


@pytest.mark.parametrize(("given", "status"), [
    ({}, "authorized"),
    ({"expires_at": NOW + timedelta(microseconds=1)}, "authorized"),
    ({"expires_at": NOW}, "expired"),
    ({"expires_at": NOW, "released": 1000}, "expired"),
    ({"expires_at": NOW, "capture_reserved": 1}, "authorized"),
    ({"expires_at": NOW, "captured": 1}, "partially_captured"),
    ({"expires_at": NOW, "captured": 1000}, "captured"),
    ({"expires_at": NOW, "captured": 500, "refunded": 500}, "refunded"),
    ({"expires_at": NOW, "voided": 1000}, "voided"),
    ({"expires_at": NOW, "state": "CONFIRMED"}, "expired"),
    ({"expires_at": NOW, "state": "REVERSING"}, "none"),
    ({"expires_at": NOW, "state": "REVERSED"}, "voided"),
])
def test_what_is_held_has_expired_when_its_time_is_over_and_no_capture_holds_it(given: dict[str, object], status: str) -> None:
    row = rows.transaction(**{"state": "APPROVED", "authorised": 1000, "capturable": 1000, "capture_method": "manual"} | given)
    assert transaction.payment_status_at(row, NOW) == status


def test_each_state_is_shown_by_a_name_of_its_own() -> None:
    assert {STATE_OF[shown]: shown for shown in STATE_OF} == dict(STATUS)
    assert len(STATE_OF) == len(STATUS) == 8


async def test_the_record_has_exactly_the_columns_of_the_table(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    columns = {row[0] for row in await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'transaction'::regclass AND attnum > 0 AND NOT attisdropped")}
    await connection.close()
    assert {field.name for field in dataclasses.fields(Transaction)} == columns
