"""The log: one JSON line per event, fields by allowlist, and never in the way of a payment."""

import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.logs import FIELDS, LEVELS, LINE_MAX, TEXT_MAX, Log

PAN = "4111111111111111"


def written(event: str = "tested", level: str = "info", least: str = "debug", **fields: Any) -> tuple[list[dict[str, Any]], Log]:
    stream = io.StringIO()
    log = Log(stream, least)
    log.write(level, event, fields)
    return [json.loads(line) for line in stream.getvalue().split("\n")[:-1]], log


def test_a_line_has_time_level_event_and_fields() -> None:
    [line], _ = written("line_up", "warning", acquirer="bank", rows=3, ms=1.5, transaction_id=UUID(int=1), reason=None, state=True)
    at = datetime.fromisoformat(line.pop("at"))
    assert abs((datetime.now(UTC) - at).total_seconds()) < 5
    assert line == {"level": "warning", "event": "line_up", "acquirer": "bank", "rows": 3, "ms": 1.5,
                    "transaction_id": "00000000-0000-0000-0000-000000000001", "reason": None, "state": True}


@pytest.mark.parametrize("name", ["pan", "card", "track2", "pin", "body", "headers", "authorization", "message", "value", "secret", "key", "sql"])
def test_a_field_that_is_not_listed_is_left_out_and_counted(name: str) -> None:
    [line], log = written(**{name: PAN, "reason": "kept"})
    assert PAN not in json.dumps(line)
    assert name not in line
    assert line["reason"] == "kept"
    assert log.refused_fields == 1


def test_no_listed_field_is_named_after_card_data() -> None:
    assert not FIELDS & {"pan", "card", "track", "track1", "track2", "pin", "pin_block", "cvv", "security_code", "expiry", "body", "message", "emv"}


LINE_BREAKS = ("\r\n", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")


@pytest.mark.parametrize("text", [
    *(f'x{mark}{{"level": "error", "event": "forged"}}' for mark in LINE_BREAKS), "\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "\0", "\ud800", "\u202eevil",
])
def test_a_value_cannot_forge_a_line_or_speak_to_a_terminal(text: str) -> None:
    stream = io.StringIO()
    log = Log(stream)
    log.write("info", "tested", {"reason": text})
    assert len(stream.getvalue().splitlines()) == 1
    assert stream.getvalue().isascii()
    assert stream.getvalue()[:-1].isprintable()
    assert json.loads(stream.getvalue())["reason"] == text
    assert log.lost_lines == 0


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), st.one_of(st.text(max_size=400), st.binary(), st.integers(), st.floats(), st.lists(st.text()))))
def test_any_fields_give_one_line_or_a_lost_one(fields: dict[str, Any]) -> None:
    lines, log = written(**fields)
    assert len(lines) + log.lost_lines == 1
    assert all(set(line) <= FIELDS | {"at", "level", "event"} for line in lines)


def test_a_long_text_is_cut_and_a_line_that_is_too_long_is_lost_and_counted() -> None:
    [line], _ = written(reason="a" * 10_000)
    assert line["reason"] == "a" * TEXT_MAX
    lines, log = written(**dict.fromkeys(FIELDS, "é" * 300))
    assert not lines
    assert log.lost_lines == 1


@pytest.mark.parametrize("least", LEVELS)
def test_what_is_below_the_level_is_not_written(least: str) -> None:
    found = [level for level in LEVELS if written(level=level, least=least)[0]]
    assert found == list(LEVELS[LEVELS.index(least):])


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "no space left")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [Broken(), closed(), io.TextIOWrapper(io.FileIO("/dev/full", "w"), encoding="ascii")],
                         ids=["a full disk", "a closed stream", "a full device"])
def test_a_broken_stream_loses_the_line_and_not_the_process(stream: Any) -> None:
    log = Log(stream)
    for _ in range(3):
        log.write("error", "tested", {})
    assert log.lost_lines == 3
    if isinstance(stream, io.TextIOWrapper):
        stream.detach().close()


@contextmanager
def ended_after(seconds: int, unblock: Callable[[], None]) -> Iterator[None]:
    """What blocks the whole process fails the test instead."""
    def give_up(*_: object) -> None:
        unblock()
        raise AssertionError("the process stands still")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_pipe_that_nobody_reads_loses_lines_and_does_not_stop_the_process() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as stream:
        log = Log(stream)
        with ended_after(10, lambda: os.close(read_end)):
            for _ in range(2000):  # far more than a pipe holds
                log.write("info", "tested", {"reason": "a" * 200})
        assert 0 < log.lost_lines < 2000
        received = b""
        while len(chunk := os.read(read_end, 65536)) == 65536:
            received += chunk
        lines = (received + chunk).decode().splitlines()
        assert len(lines) == 2000 - log.lost_lines
        assert all(json.loads(line)["event"] == "tested" for line in lines), "no line is cut"
        lost = log.lost_lines
        log.write("info", "again", {})
        assert log.lost_lines == lost
        assert json.loads(os.read(read_end, 65536))["event"] == "again"
    os.close(read_end)


def test_a_pipe_whose_reader_is_gone_loses_the_line() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    stream = os.fdopen(write_end, "w")
    log = Log(stream)
    log.write("info", "tested", {})
    assert log.lost_lines == 1
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_a_line_fits_into_what_a_pipe_takes_at_once() -> None:
    assert os.pathconf("/", "PC_PIPE_BUF") >= LINE_MAX
