"""messages.literals: a dialect's file is read and never run, what is no literal is refused with its line, and a fault has the line that it is about."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from messages import dialect as dialects
from messages.dialect import LITERALS, DialectError, load
from messages.literals import FILE_MAX, Folder, LiteralError, read
from messages.trial import literal_faults

OWN = Path(__file__).parents[1] / "messages" / "dialects"


def written(folder: Path, text: str, name: str = "host") -> Path:
    (path := folder / f"{name}.py").write_text(text)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(LiteralError) as caught:
        read(path)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(("value", "line", "says"), [
    ("len('x')", 3, "len('x') is not a literal but a call: write what it gives; only texts, numbers"),
    ("NAME", 3, "NAME is not a literal but a name: write its value; a text stands in quotes"),
    ("os.sep", 3, "but a name"), ("FIELDS['2']", 3, "but a name"), ("[\n n for n in (1, 2)]", 3, "[... is not a literal but a comprehension: write its entries"),
    ("{n: n for n in ()}", 3, "but a comprehension"), ("(n for n in ())", 3, "but a comprehension"),
    ("f'{stan}'", 3, "but an f-string: write a plain text; the switch itself fills templates such as {stan}"), ("f'x'", 3, "but an f-string"),
    ("'0' * 8", 3, "'0' * 8 is not a literal but an expression: write what comes of it"), ("1 + 2j", 3, "but an expression"), ("not True", 3, "an expression"),
    ("lambda: 1", 3, "an expression"), ("1 if True else 2", 3, "an expression"), ("(x := 1)", 3, "an expression"), ("-'x'", 3, "an expression"),
    ("(*(1, 2),)", 3, "an expression"), ("{'2', '3'}", 3, "but a set: write a tuple, (...)"), ("{**{}}", 3, "but a dict with a key that is none"),
    ("{('a',): 1}", 3, "but a dict with a key that is none: write each entry as key: value"), ("b'x'", 3, "but a value that no key takes"), ("...", 3, "that no key takes"), ("'\\ud800'", 3, "that no key takes"),
    ("0x" + "f" * 5000, 3, "but a value that no key takes: write a text, or a smaller number"), ("9" * 5000, 3, "a number of too many digits"),
    ("{\n'2': 1,\n'3': 2,\n'2': 3}", 6, "'2' is there twice in one dict: the second hides the first"), ("{1: 1, True: 2}", 3, "True is there twice"),
    ("(1,\n2,\nlen('x'), NAME)", 5, "but a call"), ("(1", 4, "closing parenthesis"),
])
def test_what_is_no_literal_is_refused_with_its_line_and_what_to_write_instead(value: str, line: int, says: str, tmp_path: Path) -> None:
    found = refusal(written(tmp_path, f'"""A host."""\nDIALECT = {{\n"a": {value},\n}}\n'))
    assert found.startswith(f"line {line}: ") and says in found


@pytest.mark.parametrize(("text", "says"), [
    ("import os\nDIALECT = {}\n", "line 1: import os must be taken out; it must hold one literal"), ("X = 1\nDIALECT = {}", "line 1: X = 1 must be taken out"),
    ("DIALECT = {}\nDIALECT = {}", "line 2: DIALECT = {} must be taken out"), ("DIALECT: dict = {}", "line 1: DIALECT: dict = {} must be taken out"),
    ("DIALECT = X = {}", "must be called DIALECT"), ("HOST = {}", "line 1: HOST = {} must be called DIALECT"), ("DIALECT = {}\nDIALECT['name'] = 'x'\n", "line 2: DIALECT['name'] = 'x' must be taken out"),
    ("DIALECT = {}\nfor x in ():\n    pass", "line 2: for x in ():... must be taken out"), ("", "line 1: it must hold one literal"),
    ('"""Nothing."""', "it must hold one literal"), ("a\0b", "line 1: a NUL character"), ("(" * 500, "line 1: too many nested"), ("x" * (FILE_MAX + 1), "more than"),
    ("[" * 150 + "]" * 150, ""), ("-" * 90_000 + "1", ""),
])
def test_a_file_holds_one_literal_and_nothing_else(text: str, says: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    if says:
        assert says in refusal(path)
        return
    try:  # deep, and it is the parser that says how deep: a value, or a refusal
        read(path)
    except LiteralError as error:
        assert str(path) in str(error)


def test_what_is_there_is_read_as_it_is(tmp_path: Path) -> None:
    value: dict[str, Any] = {"a": ("x", -1, 2.5, True, None, ["y" "z"]), "b": {}, 2: ()}
    for text in (f'"""A host."""\n# of ours\nDIALECT = {value!r}\n', repr(value), f"\ufeffDIALECT = {value!r}"):
        assert read(written(tmp_path, text)).value == value
    with pytest.raises(LiteralError, match="No such file"):
        read(tmp_path / "none.py")
    (tmp_path / "host.py").write_bytes(b"DIALECT = {'a': '\xff'}")
    assert refusal(tmp_path / "host.py") == "not UTF-8 text"


def test_of_our_own_dialects_those_that_are_spoken_are_read_and_none_is_run(tmp_path: Path) -> None:
    program = ("import sys, messages.dialect as d\nd.load('iso87_ascii')\n"
               "print(sorted(d.LITERALS._read), [m for m in sys.modules if m.startswith('messages.dialects.')])")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=OWN.parents[1], check=True)
    assert done.stdout.strip() == "['iso87_ascii'] []"
    written(tmp_path, f"open({str(tmp_path / 'run')!r}, 'w')\nDIALECT = {{}}\n")
    folder = Folder(tmp_path)
    assert list(folder) == ["host"] and "host" in folder and "other" not in folder and len(folder) == 1
    with pytest.raises(LiteralError, match=r"line 1: open.* must be taken out"):
        folder["host"]
    assert not (tmp_path / "run").exists()


def test_a_file_of_ours_that_cannot_be_read_or_is_called_otherwise_is_no_dialect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = (OWN / "iso87_ascii.py").read_text()
    written(tmp_path, plain, "another")
    written(tmp_path, "DIALECT = dict()", "called")
    written(tmp_path, plain.replace('"iso87_ascii"', '"plain"', 1), "plain")
    monkeypatch.setattr(dialects, "LITERALS", Folder(tmp_path))
    with pytest.raises(DialectError, match="dialect another: name: 'iso87_ascii', and the file is called another"):
        load("another")
    with pytest.raises(DialectError, match=r"called\.py: line 1: dict\(\) is not a literal"):
        load("called")
    assert load("plain").name == "plain"
    child = {**LITERALS["iso87_ascii"], "name": "child"}
    assert literal_faults({**child, "like": "plain"}) == []
    assert literal_faults({**child, "like": "nothing"}) == ["like: 'nothing' is none of another, plain"]
    assert "called.py: line 1: dict()" in literal_faults({**child, "like": "called"})[0]


WIDE = """DIALECT = {
    "name": "wide",
    "network": {
        "sign_on": "001",
    },
    "fields": {
        "39": (
            "code",
            "an",
            2,
        ),
        "41": ("terminal", "ans", 8, 0, {"code": "ascii"}),
    },
    "composed": {"48": "{trace}"},
    "messages": {
        "capture": (
            "0220",
            {"3": "000000",
             "25": "06"},
            ("38",
             "90"),
            {"60": "{batch}"}),
    },
    "network_rule": {
        "echoed": ("7", "11"),
        "composed": {"7": "{stan}",
                     "70": "{code}"},
    },
    "shown":
        "2 3",
}
"""


@pytest.mark.parametrize(("fault", "line"), [
    ("name: 'Wide' is not accepted; small letters", 2), ("fields: 11 (STAN) is missing; every host has it", 6), ("fields 39: length: 2 is not accepted; a number", 10),
    ("fields 39: ('code', 'an', 2) is not accepted; (name, type, length, prefix, [options])", 7), ("field 41: code ascii cannot hold type ans", 12),
    ("composed 48: no name trace; known: mti, stan", 14), ("message capture: MTI 0220 is no request", 17), ("message capture: field 25 cannot be 06: exactly", 19),
    ("message capture: field 90 is required, and nothing makes it", 21), ("message capture: field 60: not exactly 9 characters", 22),
    ("message capture: composed 60: {answer_41}: field 41 is never taken from an answer", 22), ("message capture: field 48: not exactly 9 characters", 14),
    ("message capture: field 41: not exactly 9 characters (and 9 more messages)", 12), ("message capture: field 13: not a field of this dialect", 16),
    ("message capture of an acquirer without an institution_code: field 32: no", 16), ("message void: there is no message refund", 15),
    ("network sign_on: field 70: not exactly 4 characters", 4), ("network sign_on: field 7: not exactly 10 characters", 26),
    ("network_rule approved: our answer '00' to a host: field 39: not exactly 3", 7), ("shown: field 2 is never stored", 30),
    ("mac: missing (...)", 1), ("not a mapping of keys", 1), ("and 85 unknown keys more", 1), ("", 1),
])
def test_a_fault_has_the_line_that_it_is_about(fault: str, line: int, tmp_path: Path) -> None:
    assert read(written(tmp_path, WIDE)).placed(fault) == f"line {line}: {fault}"


def test_what_stands_in_the_dialect_that_it_is_like_has_the_line_that_says_so(tmp_path: Path) -> None:
    literal = read(written(tmp_path, 'DIALECT = {"name": "x",\n"like": "iso87_ascii",\n"reroute_codes": ("05",\n"77")}'))
    assert literal.placed("code 05: not three characters").startswith("line 2: ")
    assert literal.placed("reroute code 77: not declined, so another acquirer may not be asked").startswith("line 4: ")


def test_a_list_has_its_own_line_for_all_that_it_is_not(tmp_path: Path) -> None:
    literal = read(written(tmp_path, "\n['x']"))
    assert [literal.placed(fault) for fault in literal_faults(literal.value)] == ["line 2: not a mapping of keys"]
