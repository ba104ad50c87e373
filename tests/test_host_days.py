"""Which day a host means that says only month and day, and what its message does; the rest is shown by tests/test_lines_flow.py."""

from datetime import date

import pytest

from switch.merchants.host_days import Said, day_meant, decide


@pytest.mark.parametrize(("today", "month_day", "meant"), [
    (date(2026, 11, 25), "1126", date(2026, 11, 26)),
    (date(2026, 12, 31), "0101", date(2027, 1, 1)),
    (date(2027, 1, 1), "1231", date(2026, 12, 31)),
    (date(2027, 1, 3), "0103", date(2027, 1, 3)),
    (date(2028, 2, 28), "0229", date(2028, 2, 29)),
    (date(2027, 2, 28), "0229", date(2028, 2, 29)),  # the only one near is a year away: the caller refuses it
    (date(2026, 2, 28), "0230", None),
])
def test_the_year_is_the_one_that_puts_the_day_nearest(today: date, month_day: str, meant: date | None) -> None:
    assert day_meant(today, month_day) == meant


@pytest.mark.parametrize(("month_day", "policy", "said"), [
    ("1126", "open", Said(date(2026, 11, 26), "opened")), ("1126", "record", Said(date(2026, 11, 26), "recorded")),
    ("1126", "cut_over", Said(date(2026, 11, 26), "asked")), ("1202", "open", Said(date(2026, 12, 2), "opened")),
    ("1125", "cut_over", Said(date(2026, 11, 25), "known")), ("1125", "record", Said(date(2026, 11, 25), "known")),
    ("1203", "open", Said(None, "refused")), ("1124", "cut_over", Said(None, "refused")), ("0230", "open", Said(None, "refused")),
])
def test_a_day_within_a_week_is_followed_as_far_as_the_acquirer_allows(month_day: str, policy: str, said: Said) -> None:
    assert decide(date(2026, 11, 25), month_day, policy) == said
