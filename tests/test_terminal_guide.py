"""docs/terminal-guide.md tells what the reference terminal does: its tables are compared with the client's, its quotes with the source."""
import re
from pathlib import Path
from typing import Any, cast

import pytest

from acquirer_stubs.behaviours import RULED
from loadtests.terminal import ANSWER_TIMEOUT, CONNECT_TIMEOUT, LONGEST_PAUSE, PATIENCE, PAUSE, TABLE, Action
from messages.dialect import LITERALS

CODES: dict[str, tuple[str, str, str]] = cast(Any, LITERALS["iso87_ascii"]["codes"])
ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs" / "terminal-guide.md").read_text()
SOURCE = (ROOT / "loadtests" / "terminal.py").read_text()
HEADINGS = {"pay": "### To a payment", "ask": "### To the question after a power loss", "cancel": "### To a cancellation",
            "follow": "### To a follow-up"}


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    section = re.split(r"(?m)^#{2,3} ", GUIDE.split(f"{heading}\n", 1)[1])[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("call", HEADINGS)
def test_the_guide_has_a_row_for_every_outcome_and_no_other_and_says_what_the_client_does(call: str) -> None:
    told = {outcome: (action, unsure) for outcome, unsure, action, _ in rows(HEADINGS[call])}
    assert told == {outcome: (step.action.value, "yes" if step.unsure else "no") for outcome, step in TABLE[call].items()}
    assert len(rows(HEADINGS[call])) == len(told)


def test_every_word_for_what_to_do_is_explained_once() -> None:
    assert [word for word, _ in rows("## You got ... you do ...")] == [action.value for action in Action]


def test_code_in_the_guide_stands_in_the_client() -> None:
    quoted = [block for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if "from loadtests.terminal" not in block]
    assert len(quoted) == 6
    assert [block for block in quoted if block not in SOURCE] == []


def test_times_in_the_text_are_the_client_s() -> None:
    assert f"the terminal waits {ANSWER_TIMEOUT:g} s" in GUIDE
    assert f"no answer within {ANSWER_TIMEOUT:g} s" in GUIDE
    assert f"wait {PAUSE:g} s, {PAUSE * 2:g} s, {PAUSE * 4:g} s ... at most {LONGEST_PAUSE:g} s" in GUIDE
    assert CONNECT_TIMEOUT < ANSWER_TIMEOUT < PATIENCE


def test_the_test_amounts_are_the_stub_s_and_their_advice_the_dialect_s() -> None:
    told = {ending: advice for ending, _, advice in rows("## Test amounts") if ending.isdigit()}
    assert told == {f"{ending:02d}": CODES[code][2] for ending, code in RULED.items()}


def test_every_advice_of_the_dialect_is_explained() -> None:
    explained = [word for word, _ in rows("## What the advice says")]
    assert sorted(explained) == sorted({advice for _, _, advice in CODES.values()} | {"ask_again"})
