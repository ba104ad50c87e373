"""Whose money an entry of a bank statement is, and what a day's funding is."""

from datetime import date
from uuid import UUID

import pytest

from switch.settlement.reconciliation.incoming import Named, judged, named, names

ONE, TWO = UUID(int=1), UUID(int=2)
KNOWN = names([(ONE, "harbour-bank", "12345678"), (TWO, "hill-bank", None)])


@pytest.mark.parametrize(("text", "whose"), [
    ("SETTLEMENT 12345678 2026-11-25", Named(ONE, date(2026, 11, 25))),
    ("harbour-bank,20261125", Named(ONE, date(2026, 11, 25))),
    ("SETTLEMENT 12345678 harbour-bank 2026-11-25", Named(ONE, date(2026, 11, 25))),
    ("SETTLEMENT 12345678 hill-bank 2026-11-25", None),
    ("SETTLEMENT 12345678", None),
    ("SETTLEMENT 2026-11-25", None),
    ("SETTLEMENT 12345678 2026-11-25 2026-11-26", None),
    ("SETTLEMENT 12345678 2026-13-25", None),
    ("RENT", None),
])
def test_an_entry_belongs_to_the_one_acquirer_and_date_that_it_names(text: str, whose: Named | None) -> None:
    assert named(text, KNOWN) == whose


def test_a_code_that_two_acquirers_share_names_neither() -> None:
    assert names([(ONE, "a", "1"), (TWO, "b", "1")]) == {"a": ONE, "b": TWO}


@pytest.mark.parametrize(("cleared", "received", "over", "kind"), [
    (100, 100, True, None), (100, 99, False, "funding"), (100, None, False, None), (100, None, True, "funding_missing"), (0, None, True, None),
    (None, 100, True, None), (-5, -5, True, None),
])
def test_a_days_funding_is_judged(cleared: int | None, received: int | None, over: bool, kind: str | None) -> None:
    found = judged(cleared, received, over)
    assert (found and found[0]) == kind
