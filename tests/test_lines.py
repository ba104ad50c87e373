"""Which day a host means that says only month and day; how lines follow the directory is shown by the flows."""

from datetime import date
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from switch.lines import Lines, day_meant


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


async def test_an_acquirer_that_comes_while_the_lines_are_closed_ends_no_drain() -> None:
    closed: list[str] = []

    async def nothing(*_: Any) -> None:
        pass

    def line(name: str) -> Any:
        async def drain(_: float) -> None:
            links[UUID(int=len(links) + 1)] = line("late")

        async def close() -> None:
            closed.append(name)

        return SimpleNamespace(drain=drain, close=close)

    links: dict[UUID, Any] = {}
    links |= {UUID(int=1): line("first"), UUID(int=2): line("second")}
    lines: Any = SimpleNamespace(links=links, holder=SimpleNamespace(close=nothing))
    await Lines.stop(lines, 1.0)
    assert closed == ["first", "second"]
