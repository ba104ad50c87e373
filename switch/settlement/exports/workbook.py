"""Writes a workbook (XLSX) from rows on its standard input, as a program of its own: `python workbook.py PATH`.

What this costs in time and in the interpreter's lock is then not the worker's. Imports nothing of ours. The first line is an object (`sheet`,
`header`, `kinds`), each further one the cells of a row, the last `null`: input that ends without it was cut short, and no file is left.
"""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import xlsxwriter

ROWS_MAX = 1_048_575  # of a sheet, below its header
KINDS = {"number": "write_number", "text": "write_string"}  # never `write`, which would make formulas and links out of texts


def write(path: Path, lines: Iterable[str | bytes], folder: Path) -> int:
    """How many rows were written; -1: the input was cut short. `folder` holds the sheets until they are put together."""
    source = iter(lines)
    about = json.loads(next(source))
    book = xlsxwriter.Workbook(str(path), {"constant_memory": True, "tmpdir": str(folder), "strings_to_formulas": False,
                                           "strings_to_urls": False, "strings_to_numbers": False})
    bold, sheet, at, rows, whole = book.add_format({"bold": True}), None, 0, 0, False
    for line in source:
        cells = json.loads(line)
        if cells is None:
            whole = True
            break
        if sheet is None or at == ROWS_MAX:
            sheet, at = _sheet(book, about, bold, 1 + rows // ROWS_MAX), 0
        at, rows = at + 1, rows + 1
        for number, (cell, kind) in enumerate(zip(cells, about["kinds"], strict=True)):
            if cell is not None:
                getattr(sheet, KINDS[kind])(at, number, cell)
    if sheet is None:
        _sheet(book, about, bold, 1)
    book.close()
    return rows if whole else -1


def _sheet(book: xlsxwriter.Workbook, about: dict[str, object], bold: object, number: int) -> object:
    name = str(about["sheet"])
    sheet = book.add_worksheet(name if number == 1 else f"{name} {number}")
    sheet.freeze_panes(1, 0)
    for place, title in enumerate(about["header"]):  # type: ignore[arg-type, var-annotated]
        sheet.write_string(0, place, title, bold)
    return sheet


def main() -> int:
    os.umask(0o077)
    os.nice(10)  # payments come first
    path = Path(sys.argv[1])
    try:
        with TemporaryDirectory(prefix=".", suffix=".part", dir=path.parent) as folder:
            rows = write(path, sys.stdin.buffer, Path(folder))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if rows < 0:
        path.unlink(missing_ok=True)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
