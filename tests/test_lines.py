"""What is planned of an acquirer's lines; how they follow the directory is shown by tests/test_lines_flow.py."""

from types import SimpleNamespace
from typing import Any
from uuid import UUID

from switch.lines import Lines, planned
from switch.links import Tls
from switch.records import Line


def test_each_connection_of_each_line_is_planned_in_the_order_of_preference() -> None:
    tls = Tls("host.bank.example", "/ca.pem")
    lines = (Line(UUID(int=2), "primary", 5000, 0, 2, tls), Line(UUID(int=1), "secondary", 5001, 10))
    acquirer: Any = SimpleNamespace(lines=lines, max_in_flight=7)
    assert [(each.host, each.port, each.number, each.priority, each.tls, each.window, each.line) for each in planned(acquirer)] == [
        ("primary", 5000, 1, 0, tls, 7, str(UUID(int=2))), ("primary", 5000, 2, 0, tls, 7, str(UUID(int=2))), ("secondary", 5001, 1, 10, None, 7, str(UUID(int=1)))]


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
