"""Every ablation still applies and names a test that exists; a few of pure rules run here, all of them with `make ablations`."""

import ast
from pathlib import Path

import pytest

from tests.ablations import NOT_BUILT, ROOT, SAFEGUARDS, Ablation, Change, ablations, applied
from tests.ablations.__main__ import ablated, copy, main, verdict

ALL = ablations()
QUICK = [ablation for ablation in ALL if ablation.quick]


def named(ablation: Ablation) -> str:
    return ablation.name


@pytest.mark.parametrize("ablation", ALL, ids=named)
def test_an_ablation_still_applies_changes_something_and_leaves_what_compiles(ablation: Ablation) -> None:
    for file, text in applied(ablation).items():
        assert text != (ROOT / file).read_text(encoding="utf-8")
        if file.endswith(".py"):
            ast.parse(text)


@pytest.mark.parametrize("ablation", ALL, ids=named)
def test_an_ablation_names_one_test_that_exists_and_touches_no_test(ablation: Ablation) -> None:
    file, _, name = ablation.test.partition("::")
    functions = [node.name for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert name.partition("[")[0] in functions
    assert not [change.file for change in ablation.changes if change.file.startswith("tests/")]


def test_every_safeguard_has_its_ablation_or_is_said_to_be_missing() -> None:
    found = {ablation.name for ablation in ALL}
    assert set(NOT_BUILT) <= set(SAFEGUARDS)
    assert [name for name in SAFEGUARDS if (name in found) == (name in NOT_BUILT)] == []


@pytest.fixture(scope="module")
def tree() -> Path:
    with copy() as found:
        yield found


@pytest.mark.parametrize("ablation", QUICK, ids=named)
def test_without_its_safeguard_the_named_test_goes_red(tree: Path, ablation: Ablation) -> None:
    assert ablated(tree, ablation) == "red"


def test_a_text_that_moved_a_test_that_stays_green_and_one_that_is_gone_are_no_proof(tree: Path) -> None:
    test = "tests/test_money.py"
    stays = Ablation("stays", "", test, False, (Change("switch/logs.py", "TEXT_MAX = 300", "TEXT_MAX = 301"),))
    assert ablated(tree, stays) == "green"
    assert (tree / "switch/logs.py").read_bytes() == (ROOT / "switch/logs.py").read_bytes()  # the copy is whole again
    assert ablated(tree, stays._replace(changes=(Change("switch/logs.py", "no such text", ""),))).startswith("no longer applies")
    assert ablated(tree, stays._replace(changes=(Change("switch/gone.py", "x", ""),))).startswith("no longer applies")
    assert verdict(tree, "tests/test_money.py::test_gone").startswith("pytest ended with 4")


def test_a_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["no_such_ablation"])
    assert "no such ablation" in capsys.readouterr().err
