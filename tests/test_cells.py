"""Cells of exports: exact decimals, zones with their offset, and no text of others that a table program would run."""

import csv
import io
import json
import re
import unicodedata
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.money import CURRENCIES
from switch.settlement.exports import cells
from switch.settlement.exports.cells import Column

SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(("amount", "currency", "text"), [
    (0, "JPY", "0"), (1050, "JPY", "1050"), (-1, "JPY", "-1"), (0, "CNY", "0.00"), (5, "CNY", "0.05"), (-5, "CNY", "-0.05"), (1050, "CNY", "10.50"),
    (-1050, "CNY", "-10.50"), (1, "BHD", "0.001"), (-12345, "KWD", "-12.345"), (999_999_999_999, "USD", "9999999999.99"), (7, "CLF", "0.0007"),
])
def test_an_amount_as_decimal_text(amount: int, currency: str, text: str) -> None:
    assert cells.decimal(amount, currency) == text


@given(st.integers(-10**15, 10**15), st.sampled_from(sorted(CURRENCIES)))
def test_decimal_text_says_exactly_the_amount(amount: int, currency: str) -> None:
    text, exponent = cells.decimal(amount, currency), CURRENCIES[currency][1]
    assert re.fullmatch(rf"-?[0-9]+{rf'[.][0-9]{{{exponent}}}' if exponent else ''}", text)
    assert int(text.replace(".", "")) == amount


HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\u00a0=1", "\ufeff=1", "\u200b=1", "＝1+1", "＋1", "－1", "＠x", "﹢1", "﹣1", "﹦1", "﹫1", "−1", "|cmd", "%0A",
           "=cmd|'/c calc'!A1", '=HYPERLINK("x","y")', "\x00=1", "\u202e=1", "\u0600=1", "\t", "-"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_that_begins_like_a_formula_gets_an_apostrophe_and_is_quoted(text: str) -> None:
    assert cells.harmless(text) == f"'{text}"
    assert cells.line([cells.harmless(text)]).startswith("\"'")


@pytest.mark.parametrize("text", ["", "Harbour Noodles", "table 4", "a=b", "1-2", "中文", "'quoted'", '"x"', "3+4"])
def test_another_text_stays_as_it_is(text: str) -> None:
    assert cells.harmless(text) == text


COLUMNS = (Column("reference"), Column("amount", "amount"), Column("at", "time"), Column("count", "number"), Column("store"))
DANGEROUS = set("=+-@|%\t\r\n")


@given(st.text(), st.integers(-10**12, 10**12), st.text(st.characters(categories=("Zs", "Cc", "Cf", "Sm", "Po", "Pd", "Nd"))))
def test_no_cell_of_a_line_runs_and_each_comes_back(reference: str, amount: int, store: str) -> None:
    row = {"reference": reference, "amount": amount, "at": datetime(2026, 11, 25, tzinfo=UTC), "count": 3, "store": store, "currency": "CNY"}
    text = cells.line(cells.cells(COLUMNS, row, SHANGHAI))
    (parsed,) = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert len(parsed) == len(cells.header(COLUMNS, SHANGHAI)) == 6
    assert parsed[0] in (reference, f"'{reference}") and parsed[5] in (store, f"'{store}")
    assert parsed[1:5] == [str(amount), cells.decimal(amount, "CNY"), "2026-11-25T08:00:00+08:00", "3"]
    for cell in (parsed[0], parsed[5]):
        shown = "".join(each for each in cell if not each.isspace() and unicodedata.category(each) not in ("Cc", "Cf"))
        folded = unicodedata.normalize("NFKC", shown[:1]).replace("\u2212", "-")
        assert folded not in DANGEROUS or shown == "", "a table program would take it for a formula"
        assert cell[:1] not in DANGEROUS


def test_the_header_names_the_zone_and_both_forms_of_an_amount() -> None:
    assert cells.header(COLUMNS, SHANGHAI) == ["reference", "amount", "amount_decimal", "at (Asia/Shanghai)", "count", "store"]


def test_the_hour_that_comes_twice_is_told_apart() -> None:
    twice = [cells.local(datetime(2026, 10, 25, hour, 30, tzinfo=UTC), BERLIN) for hour in (0, 1)]
    assert twice == ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"]


def test_a_row_for_json_is_left_as_it_is() -> None:
    columns = (Column("reference"), Column("amount", "amount"), Column("at", "time"), Column("day", "date"))
    row = {"reference": "=1", "amount": -5, "at": datetime(2026, 11, 25, tzinfo=UTC), "day": date(2026, 11, 25), "currency": "BHD"}
    assert json.loads(json.dumps(cells.plain(columns, row, SHANGHAI))) == {
        "reference": "=1", "amount": -5, "amount_decimal": "-0.005", "at": "2026-11-25T08:00:00+08:00", "day": "2026-11-25"}
    assert cells.plain(columns, row | {"amount": None, "at": None}, SHANGHAI)["amount_decimal"] is None
