"""Business days: which days count, which follows, when one ends in a zone, and when money is due. Pure: days in, days out."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

ONE = timedelta(days=1)
SEARCH_DAYS = 400  # a calendar without a business day in more than a year is a mistake
DAY_MINUTES = 1440


class NoBusinessDay(ValueError):
    """A calendar has no business day for more than a year: a person must look at it."""


class Calendar(NamedTuple):
    """`weekend`: ISO numbers of the days off; `exceptions`: day -> whether it is a business day after all."""

    name: str
    weekend: frozenset[int]
    exceptions: Mapping[date, bool]

    def counts(self, day: date) -> bool:
        """Whether it is a business day."""
        return self.exceptions.get(day, day.isoweekday() not in self.weekend)

    def on_or_after(self, day: date) -> date:
        """The day itself, or the next business day. Raises NoBusinessDay."""
        for ahead in range(SEARCH_DAYS):
            if self.counts(day + ahead * ONE):
                return day + ahead * ONE
        raise NoBusinessDay(f"the calendar {self.name} has no business day for {SEARCH_DAYS} days from {day}")

    def after(self, day: date, count: int = 1) -> date:
        """The count-th business day after a day; with 0 the day itself, or the next business day."""
        found = self.on_or_after(day) if count == 0 else day
        for _ in range(count):
            found = self.on_or_after(found + ONE)
        return found


def due(business_date: date, funding_days: int, calendar: Calendar) -> date:
    """When what was sold on a business date is paid out: T+n in business days."""
    return calendar.after(business_date, funding_days)


def common(day: date, calendars: Iterable[Calendar]) -> date:
    """The day itself, or the next one that is a business day in all of them. Raises NoBusinessDay."""
    known = tuple(calendars)
    for ahead in range(SEARCH_DAYS):
        if all(each.counts(day + ahead * ONE) for each in known):
            return day + ahead * ONE
    raise NoBusinessDay(f"{', '.join(each.name for each in known)} have no business day in common for {SEARCH_DAYS} days from {day}")


def cut_over(business_date: date, minute: int, zone: ZoneInfo) -> datetime:
    """The instant, in UTC, at which a business date ends: `minute` minutes of the wall clock after its first midnight.

    A wall clock that shows the time twice ends the day at the second, one that leaves it out where it would have been: a day never ends early.
    """
    day = business_date + minute // DAY_MINUTES * ONE
    wall = datetime(day.year, day.month, day.day, minute % DAY_MINUTES // 60, minute % 60, tzinfo=zone)
    first, second = wall.replace(fold=0), wall.replace(fold=1)
    return max(first.astimezone(UTC), second.astimezone(UTC))


def business_date_at(instant: datetime, minute: int, zone: ZoneInfo) -> date:
    """The business date that runs at an instant."""
    found = instant.astimezone(zone).date() - 3 * ONE
    while cut_over(found, minute, zone) <= instant:
        found += ONE
    return found
