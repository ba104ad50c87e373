"""The program that writes workbooks: types, sheets, and nothing left of an input that was cut short."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import openpyxl
import pytest

from switch.settlement.exports import workbook
from switch.settlement.exports.files import WORKBOOK

ABOUT = {"sheet": "lines", "header": ["reference", "amount", "amount_decimal"], "kinds": ["text", "number", "text"]}


def written(path: Path, *lines: object) -> int:
    content = "".join(json.dumps(line) + "\n" for line in lines)
    return subprocess.run([sys.executable, str(WORKBOOK), str(path)], input=content, text=True, capture_output=True, check=False, timeout=60).returncode


def test_texts_stay_texts_and_numbers_numbers(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    hostile = ["=1+1", '=HYPERLINK("http://x")', "http://x", "+1", "-1", "@x", "0012", "1e5", "中文", "\x00\x01", " x ", "<b>&\"'"]
    assert written(path, ABOUT, *([text, -1050, "-10.50"] for text in hostile), [None, 999_999_999_999, None], None) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    header, *rows = openpyxl.load_workbook(path).active.iter_rows()
    assert [cell.value for cell in header] == ABOUT["header"]
    assert [row[0].value for row in rows[:-1] if row[0].value != "_x0000__x0001_"] == [text for text in hostile if text != "\x00\x01"]
    assert {row[0].data_type for row in rows[:-1]} == {"s"} and {row[1].data_type for row in rows} == {"n"}
    assert (rows[0][1].value, rows[0][2].value, rows[-1][0].value, rows[-1][1].value) == (-1050, "-10.50", None, 999_999_999_999)


def test_no_rows_are_a_sheet_with_its_header(tmp_path: Path) -> None:
    assert written(tmp_path / "book.xlsx", ABOUT, None) == 0
    assert [[cell.value for cell in row] for row in openpyxl.load_workbook(tmp_path / "book.xlsx").active.iter_rows()] == [ABOUT["header"]]


@pytest.mark.parametrize("lines", [[ABOUT], [ABOUT, ["x", 1, "1"]], [ABOUT, ["x", 1]], [ABOUT, ["x", "1", "1"], None], []],
                         ids=["no end", "no end after a row", "a row too short", "a number that is none", "nothing"])
def test_an_input_that_is_cut_or_wrong_leaves_no_file(tmp_path: Path, lines: list[object]) -> None:
    assert written(tmp_path / "book.xlsx", *lines) != 0
    assert list(tmp_path.iterdir()) == []


def test_what_a_sheet_does_not_hold_goes_on_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbook, "ROWS_MAX", 3)
    lines = [json.dumps(ABOUT), *(json.dumps([str(number), number, "1"]) for number in range(7)), "null"]
    assert workbook.write(tmp_path / "book.xlsx", lines, tmp_path) == 7
    sheets = openpyxl.load_workbook(tmp_path / "book.xlsx").worksheets
    assert [sheet.title for sheet in sheets] == ["lines", "lines 2", "lines 3"]
    assert [[row[0].value for row in sheet.iter_rows(min_row=2)] for sheet in sheets] == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
