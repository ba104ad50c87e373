"""What is planned of an acquirer's lines; how they follow the directory is shown by tests/test_lines_flow.py."""

import io
import json
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from switch import logs
from switch.commands.inquiries import _lines
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


def test_why_a_line_was_lost_is_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(logs.log, "stream", said)
    lines: Any = SimpleNamespace(on_state=lambda: None)
    line, acquirer = planned(SimpleNamespace(lines=(Line(UUID(int=1), "host", 5000, 0),), max_in_flight=7))[0], SimpleNamespace(name="bank")  # type: ignore[arg-type]
    Lines._heard(lines, acquirer, line)("acq", "disconnected", "framing lost: length 65535")  # type: ignore[arg-type]
    told = json.loads(said.getvalue())
    assert (told["acquirer"], told["state"], told["error"]) == ("bank", "disconnected", "framing lost: length 65535")


@pytest.mark.parametrize(("state", "shown"), [("signing_on", True), ("disconnected", True), ("up", False)])
def test_what_is_wrong_with_a_line_is_printed_until_it_is_up(state: str, shown: bool) -> None:
    item = {"name": "bank", "state": state, "host": "host", "port": 5000, "pending": 0, "window": 7, "sent": 0, "answered": 0, "timeouts": 0, "late": 0,
            "worker": 1, "machine": "here", "age_ms": 0, "acquirer": "acq_1", "breaker": "none", "last_error": "sign-on refused: 91",
            "lines": [{"tls": False}]}
    (text,) = _lines({"items": [item]})
    assert ("sign-on refused: 91" in text) is shown and text.endswith("  acq_1")
