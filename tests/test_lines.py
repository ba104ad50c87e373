"""Which day a host means that says only month and day; how lines follow the directory is shown by the flows."""

from datetime import date

import pytest

from switch.lines import day_meant


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
