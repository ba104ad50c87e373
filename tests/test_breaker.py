"""When a breaker opens and closes, by instants alone."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messages.dialect import load
from messages.grammar import ResponseCode
from messages.soundness import says_outage
from switch.links.breaker import LIFE, SLICES, Breaker, Terms

TERMS = Terms(faults=4, percent=50, window_s=10.0, pause_s=5.0, probes=2, codes=frozenset({"91", "96"}))
START = datetime(2026, 11, 26, tzinfo=UTC)


class Line:
    """A breaker and its clock."""

    def __init__(self, **terms: object) -> None:
        self.now = 1000.0
        self.breaker = Breaker(TERMS._replace(**terms), self.now, self.utc)  # type: ignore[arg-type]

    @property
    def utc(self) -> datetime:
        return START + timedelta(seconds=self.now)

    @property
    def state(self) -> str:
        return self.breaker.state

    def said(self, *codes: str, ago: float = 0.0) -> str:
        """The host answers what was sent `ago` seconds before; "-" is its silence."""
        for code in codes:
            sent_at = self.utc - timedelta(seconds=ago)
            if code == "-":
                self.breaker.timed_out(sent_at, self.now, self.utc)
            else:
                self.breaker.said(code, sent_at, self.now, self.utc)
        return self.state

    def after(self, seconds: float) -> bool:
        """Whether a probe is wanted then."""
        self.now += seconds
        return self.breaker.probe_due(self.now, self.utc)

    def probed(self, answered: bool) -> str:
        self.breaker.probed(answered, self.now, self.utc)
        return self.state


@pytest.mark.parametrize(("codes", "state"), [
    ("- - -", "closed"), ("- - - -", "open"), ("91 96 91 96", "open"), ("- 91 - 96", "open"),
    ("05 51 54 61 14 05 51 54", "closed"), ("00 00 00 00 - - - -", "open"), ("00 00 00 00 00 - - - -", "closed"), ("00 00 00 00 00 - - - - -", "open"),
    ("68 98 90 92 68 98", "closed"), ("51 51 51 51 51 91 91 91 91", "closed"),
])
def test_it_opens_at_so_many_faults_that_are_such_a_share_and_never_for_declines(codes: str, state: str) -> None:
    assert Line().said(*codes.split()) == state


def test_what_is_older_than_the_window_is_forgotten() -> None:
    line = Line()
    line.said("-", "-", "-")
    line.now += TERMS.window_s
    assert line.said("-", "-", "-") == "closed"
    line.now += TERMS.window_s / SLICES
    assert line.said("-") == "open", "the three of a slice before still count"


def test_good_answers_of_long_ago_do_not_hide_an_outage() -> None:
    line = Line()
    line.said(*["00"] * 1000)
    line.now += TERMS.window_s
    assert line.said("-", "-", "-", "-") == "open"


def test_it_is_probed_after_its_pause_and_closes_by_so_many_echoes_in_a_row() -> None:
    line = Line()
    line.said("-", "-", "-", "-")
    assert (line.after(4.9), line.state) == (False, "open")
    assert (line.after(0.1), line.state) == (True, "half_open")
    assert line.probed(True) == "half_open"
    assert line.probed(True) == "closed"
    assert not line.after(100.0)


def test_an_unanswered_echo_opens_it_again_for_longer() -> None:
    line, pauses = Line(), []
    line.said("-", "-", "-", "-")
    for _ in range(6):
        began = line.now
        while not line.after(0.5):
            pass
        pauses.append(line.now - began)
        line.probed(True)
        assert line.probed(False) == "open"
    assert pauses == [5.0, 10.0, 20.0, 40.0, 40.0, 40.0]


def test_an_echo_before_the_pause_is_over_closes_nothing() -> None:
    line = Line()
    line.said("-", "-", "-", "-")
    assert line.probed(True) == line.probed(True) == line.probed(True) == "open"


def test_answers_of_money_neither_close_it_nor_open_it_while_it_is_probed() -> None:
    line = Line()
    line.said("-", "-", "-", "-")
    assert line.said("00", "00", "00") == "open"
    line.after(5.0)
    assert line.said("-", "-", "-", "-", "-") == "half_open"


def test_what_was_sent_before_it_closed_says_nothing_about_the_host_of_now() -> None:
    line = Line()
    line.said("-", "-", "-", "-")
    line.after(5.0)
    line.probed(True)
    line.probed(True)
    assert line.said(*["-"] * 20, ago=0.1) == "closed"
    line.now += 1.0
    assert line.said("-", "-", "-", "-") == "open"


def test_trips_are_counted_and_a_quiet_while_makes_the_next_pause_a_first_one() -> None:
    line = Line()

    def trip_and_close() -> float:
        line.said("-", "-", "-", "-")
        began = line.now
        while not line.after(0.5):
            pass
        line.probed(True)
        line.probed(True)
        return line.now - began

    assert [trip_and_close() for _ in range(3)] == [5.0, 10.0, 20.0]
    line.now += 100.0
    assert trip_and_close() == 5.0
    assert line.breaker.trips == 4


EVENT = st.sampled_from(["00", "51", "91", "-", "pause", "echo", "no echo", "wait"])


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(events=st.lists(EVENT, max_size=80))
def test_whatever_comes_it_moves_by_its_table_and_closes_by_echoes_alone(events: list[str]) -> None:
    line = Line()
    for event in events:
        before, passed = line.state, line.breaker.passed
        if event in ("pause", "wait"):
            line.after(5.0 if event == "pause" else 0.3)
        elif event.endswith("echo"):
            line.probed(event == "echo")
        else:
            line.said(event)
        assert line.state == before or (before, line.state) in {(state, to) for (state, _), to in LIFE.items()}
        if (before, line.state) == ("half_open", "closed"):
            assert event == "echo" and passed == TERMS.probes - 1
        if before == "closed" and line.state == "open":
            assert event in ("91", "-")
        assert sum(ended for ended, _ in line.breaker.counts) <= len(events)


@pytest.mark.parametrize("name", ["iso87_ascii", "iso93_ascii", "unionpay_pos", "visa_base1"])
def test_every_dialect_says_which_codes_are_outages_and_none_is_an_issuers_decision(name: str) -> None:
    dialect = load(name)
    assert dialect.outage_codes and "echo" in dialect.network
    assert all(says_outage(dialect.codes[code]) for code in dialect.outage_codes)


@pytest.mark.parametrize(("verdict", "advice", "outage"), [
    ("declined", "other_card", False), ("declined", "none", False), ("declined", "enter_pin", False), ("approved", "none", False), ("partial", "none", False),
    ("declined", "retry_new_key", True), ("doubt", "new_payment_allowed", True),
])
def test_a_decision_is_no_outage(verdict: str, advice: str, outage: bool) -> None:
    assert says_outage(ResponseCode(verdict, "x", advice)) is outage
    assert not says_outage(None)
