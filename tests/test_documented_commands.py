"""Every command that a document names exists: verbs of `switch` with their options, modules after `python -m`, files of tests."""

import argparse
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec

from switch.api.acceptance import PlanRequest
from switch.api.applications import ApplicationRequest
from switch.api.choosing import AcquirerOfferRequest, ComparisonRequest, NeedsRequest
from switch.cli import _parser
from tests.test_house import ROOT, text_of, tree

DOCUMENTS = [path for path in tree() if path.endswith(".md") and path != "CHANGELOG.md"]  # which tells of what was
PARSER = _parser()
CODE = re.compile(r"```[^\n]*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
SWITCH = re.compile(r"(?:^|[|(;&/]|\s{2})\s*switch ([a-z](?:(?!\s{2,}switch )[^\n|;])*)", re.MULTILINE)


def code(text: str) -> Iterator[str]:
    for found in CODE.finditer(text):
        yield (found[1] or found[2]).replace("\\\n", " ")


def verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next((dict(action.choices) for action in parser._actions if isinstance(action, argparse._SubParsersAction)), {})


def unknown(command: str) -> str | None:
    """What of the words after `switch` no parser knows. `[--x]` and `a|b` are how documents write what may be left out, or chosen from."""
    parser, words = PARSER, re.split(r"[\s\[\]()]+", command)
    options: set[str] = set()
    for word in words:
        kinds = verbs(parser)
        options |= set(parser._option_string_actions)
        if word == "stub" and kinds:
            return None  # its options are those of python -m acquirer_stubs
        if word in kinds:
            parser = kinds[word]
        elif kinds and re.fullmatch(r"[a-z][a-z-]*", word):
            return word
        elif word.startswith("--") and (option := re.split(r"[=,.:`]", word)[0]) and option not in options | set(parser._option_string_actions):
            return option
    return None


def test_every_verb_and_option_that_a_document_names_exists() -> None:
    named = [(path, found[1]) for path in DOCUMENTS for text in code(text_of(path)) for found in SWITCH.finditer(text)]
    assert len(named) > 100, "the documents are not read any more"
    assert not [f"{path}: switch {command}: {word}" for path, command in named if (word := unknown(command)) is not None]


def test_every_verb_says_what_it_does_in_its_own_help_too() -> None:
    silent, waiting = [], [PARSER]
    while waiting:
        parser = waiting.pop()
        waiting += verbs(parser).values()
        silent += [parser.prog] * (not parser.description or parser.description not in parser.format_help().replace("\n", " "))
    assert not silent


def test_every_module_and_test_that_a_document_names_exists() -> None:
    modules = {(path, name) for path in DOCUMENTS for name in re.findall(r"python -m ([\w.]+\w)", text_of(path))}
    assert not [f"{path}: python -m {name}" for path, name in modules if find_spec(name) is None]
    files = {(path, name) for path in DOCUMENTS for name in re.findall(r"(?<![\w/])tests/[a-z0-9_/]+\.(?:py|toml|json)", text_of(path))}
    assert not [f"{path}: {name}" for path, name in files if not (ROOT / name).exists()]


def test_every_file_that_a_document_shows_is_taken() -> None:
    shown = {"applications": [ApplicationRequest], "choosing": [AcquirerOfferRequest, ComparisonRequest, NeedsRequest], "acceptance": [PlanRequest]}
    for name, models in shown.items():
        files = [file for text in re.findall(r"```json\n(.*?)```", text_of(f"docs/{name}.md"), re.DOTALL) for file in text.split("\n\n")]
        for model, file in zip(models, files, strict=True):
            model.model_validate({"reason": "As documented"} | json.loads(file) if model is PlanRequest else json.loads(file))


def test_what_does_not_exist_is_found() -> None:
    assert unknown("onboard shop --name x") == "shop" and unknown("serve --threads 2") == "--threads" and unknown("tell all") == "tell"
    assert unknown("serve [--workers N]") is None
