"""A line of CSV: whatever a careful writer quotes is read back, and quotes that do not match are refused with their column."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.files.csv_line import QuoteError, cells


@pytest.mark.parametrize(("line", "expected"), [
    ("", [""]), ("a,b", ["a", "b"]), (",", ["", ""]), ('""', [""]), ('"a,b",c', ["a,b", "c"]), ('a,"say ""hi""",', ["a", 'say "hi"', ""]), ('""""', ['"']),
    ('"a"', ["a"]), (' a , b', [" a ", " b"]),
])
def test_a_line_is_read(line: str, expected: list[str]) -> None:
    assert cells(line) == expected


@pytest.mark.parametrize(("line", "column"), [
    ('a"b,c', 1), ('a,b"', 2), ('"a"b,c', 1), ('x, "a"', 2), ('x,"a" ,y', 2), ('x,y,"a', 3), ('x,"a,b', 2), ('"', 1), ('"""', 1), ('a,"b""', 2),
])
def test_quotes_that_do_not_match_are_refused_with_their_column(line: str, column: int) -> None:
    with pytest.raises(QuoteError) as refused:
        cells(line)
    assert refused.value.column == column


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), min_size=2), st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
def test_what_is_written_as_csv_is_read_back(row: list[str], quoting: int) -> None:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="", quoting=quoting).writerow(row)  # type: ignore[arg-type]
    assert cells(line.getvalue()) == row
