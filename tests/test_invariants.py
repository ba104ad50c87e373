"""docs/invariants.md: every invariant once, each test that it names exists, and what nothing shows is said."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in (ROOT / "docs" / "invariants.md").read_text(encoding="utf-8").splitlines() if re.match(r"\| [IM]-", line)]


def test_every_invariant_stands_there_once_and_in_order() -> None:
    money = [row[0] for row in ROWS if row[0].startswith("M-")]
    assert [row[0] for row in ROWS] == [f"I-{number}" for number in range(1, 38)] + [f"M-{number}" for number in range(1, len(money) + 1)]
    assert money
    assert all(len(row) == 4 and row[1] for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_an_invariant_names_tests_that_exist_or_says_what_is_missing(row: list[str]) -> None:
    _, _, shown, missing = row
    named = re.findall(r"`(\w+)::(\w+)`", shown)
    assert re.sub(r"`\w+::\w+`", "", shown).strip() == "", "only tests stand here"
    assert named or missing
    for file, name in named:
        functions = {node.name for node in ast.parse((ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in functions, f"{file} has no {name}"
