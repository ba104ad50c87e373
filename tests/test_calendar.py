"""Business days, the end of a day in its zone, and due dates; then what is payable and what is held back."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.settlement.funding.calendar import Calendar, NoBusinessDay, business_date_at, cut_over, due
from switch.settlement.funding.payable import Payable, half_even, payable, reserved

WEEKDAYS = Calendar("weekdays", frozenset({6, 7}), {})
# Around the Chinese new year of 2026: off from the 16th to the 23rd of February, and two Saturdays worked for it.
CHINA = Calendar("china", frozenset({6, 7}), {**{date(2026, 2, day): False for day in range(16, 24)}, date(2026, 2, 14): True, date(2026, 2, 28): True})
DAILY = Calendar("daily", frozenset(), {})


@pytest.mark.parametrize(("calendar", "day", "counts"), [
    (WEEKDAYS, "2026-11-27", True), (WEEKDAYS, "2026-11-28", False), (WEEKDAYS, "2026-11-29", False), (DAILY, "2026-11-29", True),
    (CHINA, "2026-02-13", True), (CHINA, "2026-02-14", True), (CHINA, "2026-02-15", False), (CHINA, "2026-02-17", False), (CHINA, "2026-02-24", True),
])
def test_a_business_day_is_no_day_off_unless_an_exception_says_so(calendar: Calendar, day: str, counts: bool) -> None:
    assert calendar.counts(date.fromisoformat(day)) is counts


@pytest.mark.parametrize(("calendar", "sold", "days", "paid"), [
    (WEEKDAYS, "2026-11-26", 0, "2026-11-26"), (WEEKDAYS, "2026-11-28", 0, "2026-11-30"),  # T+0 of a Saturday is Monday
    (WEEKDAYS, "2026-11-26", 1, "2026-11-27"), (WEEKDAYS, "2026-11-27", 1, "2026-11-30"), (WEEKDAYS, "2026-11-28", 1, "2026-11-30"),
    (WEEKDAYS, "2026-11-26", 3, "2026-12-01"), (DAILY, "2026-12-30", 3, "2027-01-02"),
    (CHINA, "2026-02-13", 1, "2026-02-14"), (CHINA, "2026-02-14", 1, "2026-02-24"), (CHINA, "2026-02-27", 2, "2026-03-02"),
])
def test_money_is_due_so_many_business_days_later(calendar: Calendar, sold: str, days: int, paid: str) -> None:
    assert due(date.fromisoformat(sold), days, calendar) == date.fromisoformat(paid)


def test_a_calendar_without_business_days_is_told_and_not_searched_for_ever() -> None:
    with pytest.raises(NoBusinessDay):
        Calendar("never", frozenset(range(1, 8)), {}).after(date(2026, 1, 1))


@pytest.mark.parametrize(("day", "minute", "zone", "ends"), [
    ("2026-11-26", 1440, "UTC", "2026-11-27T00:00"), ("2026-11-26", 1440, "Asia/Shanghai", "2026-11-26T16:00"),
    ("2026-11-26", 1380, "Asia/Shanghai", "2026-11-26T15:00"), ("2026-11-26", 1560, "Europe/Berlin", "2026-11-27T01:00"),
    ("2026-03-28", 1440, "Europe/Berlin", "2026-03-28T23:00"), ("2026-03-29", 1440, "Europe/Berlin", "2026-03-29T22:00"),  # a day of 23 hours
    ("2026-10-25", 1440, "Europe/Berlin", "2026-10-25T23:00"),  # of 25
    ("2026-03-28", 1590, "Europe/Berlin", "2026-03-29T01:30"),  # 02:30 is left out
    ("2026-10-24", 1590, "Europe/Berlin", "2026-10-25T01:30"),  # 02:30 comes twice: the second
    ("2026-09-05", 1440, "America/Santiago", "2026-09-06T04:00"),  # midnight itself is left out
])
def test_a_business_date_ends_by_the_clock_on_the_wall(day: str, minute: int, zone: str, ends: str) -> None:
    assert cut_over(date.fromisoformat(day), minute, ZoneInfo(zone)) == datetime.fromisoformat(ends).replace(tzinfo=UTC)


@given(st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)), st.integers(0, 2879),
       st.sampled_from(["UTC", "Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "Asia/Shanghai", "Pacific/Kiritimati"]))
def test_at_any_instant_one_business_date_runs(at: datetime, minute: int, name: str) -> None:
    instant, zone = at.replace(tzinfo=UTC), ZoneInfo(name)
    found = business_date_at(instant, minute, zone)
    assert cut_over(found - timedelta(days=1), minute, zone) <= instant < cut_over(found, minute, zone)


@pytest.mark.parametrize(("balance", "not_due", "minimum", "held", "expected"), [
    (1000, 0, 0, False, Payable(1000)), (1000, 400, 0, False, Payable(600)), (1000, 1000, 0, False, Payable(0, "nothing_due")),
    (-1, 0, 0, False, Payable(0, "negative_carried")), (300, 400, 0, False, Payable(0, "negative_carried")),
    (999, 0, 1000, False, Payable(0, "below_minimum")), (1000, 0, 1000, False, Payable(1000)), (1000, 0, 0, True, Payable(0, "on_hold")),
    (-500, -200, 0, False, Payable(0, "negative_carried")),  # what will be owed to us later does not make more payable today
    (500, -200, 0, False, Payable(500)),
])
def test_what_is_due_is_paid_unless_it_is_held_negative_or_too_small(balance: int, not_due: int, minimum: int, held: bool, expected: Payable) -> None:
    assert payable(balance, not_due, minimum, held) == expected


@pytest.mark.parametrize(("amount", "basis_points", "expected"), [
    (10_000, 100, 100), (50, 100, 0), (150, 100, 2), (250, 100, 2), (251, 100, 3), (0, 500, 0), (-50, 100, 0), (-150, 100, -2), (1, 10_000, 1),
])
def test_a_part_is_rounded_half_to_even(amount: int, basis_points: int, expected: int) -> None:
    assert half_even(amount, basis_points) == expected


@pytest.mark.parametrize(("sales", "net", "basis_points", "expected"), [
    (100_000, 98_000, 1000, 10_000), (100_000, 4000, 1000, 4000), (100_000, -1, 1000, 0), (0, 5000, 1000, 0), (100_000, 98_000, 0, 0),
])
def test_a_reserve_is_a_part_of_the_sales_and_never_more_than_is_left(sales: int, net: int, basis_points: int, expected: int) -> None:
    assert reserved(sales, net, basis_points) == expected
