"""One line of a CSV file as RFC 4180 has it: a cell that is quoted is quoted whole, and a quote within it is doubled. Pure.

The csv module of the library takes a quote in the midst of a cell as it comes, and does not say where a line is wrong.
"""

import re

RULE = "a quote stands around a whole cell, and within it twice; no cell holds a line break"
CELL = re.compile(r'"((?:[^"]|"")*)"|[^",]*')


class QuoteError(ValueError):
    """The quotes of a line do not match. `column`: of the cell, from 1."""

    def __init__(self, column: int) -> None:
        super().__init__(f"column {column}")
        self.column = column


def cells(line: str) -> list[str]:
    """What stands in a line without its line break, which no cell may hold. Raises QuoteError."""
    if '"' not in line:
        return line.split(",")
    found: list[str] = []
    at = 0
    while True:
        cell = CELL.match(line, at)
        assert cell is not None  # it matches nothing, too
        if cell.end() < len(line) and line[cell.end()] != ",":
            raise QuoteError(len(found) + 1)
        found.append(cell[0] if cell[1] is None else cell[1].replace('""', '"'))
        if cell.end() == len(line):
            return found
        at = cell.end() + 1
