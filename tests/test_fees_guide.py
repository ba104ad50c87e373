"""docs/fees.md is calculated: its tariff and costs are read from its text, and every figure of its example is compared with the engine's."""

import json
import re
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pytest

from switch.settlement.fees import wording
from switch.settlement.fees.bills import Bill, bill
from switch.settlement.fees.charges import ROUNDINGS, Sale
from switch.settlement.fees.matching import WEIGHT
from switch.settlement.fees.terms import CARD_TYPES, ENTRY_MODES, METHODS, PER, RETURNS, RULES_MAX, costs_from, tariff_from

GUIDE = (Path(__file__).resolve().parent.parent / "docs" / "fees.md").read_text()
EXAMPLE = GUIDE.split("## An example\n", 1)[1]
TARIFF, COSTS = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", EXAMPLE, re.DOTALL))


def table(first_cell: str) -> list[list[str]]:
    """The cells of the table whose head begins so."""
    lines = EXAMPLE.split(f"\n| {first_cell} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


ROWS = table("| captured")


@pytest.fixture(scope="module")
def month() -> Bill:
    facts = []
    for number, at, kind, amount, brand, card_type, method, original, *_ in ROWS:
        hour, minute = map(int, at.split(":"))
        facts.append(Sale(UUID(int=int(number)), datetime(2030, 1, 7, hour, minute, tzinfo=UTC), int(amount), kind, "CNY", brand, card_type, method, "chip", "5812", date(2030, 1, 7),
                          None, UUID(int=int(original)) if original else None))
    return bill([tariff_from(TARIFF)], {None: [costs_from(COSTS)]}, facts[::-1], {}, {"terminal": 2, "store": 1})


def test_every_figure_of_the_example_is_the_engine_s(month: Bill) -> None:
    found = [[priced.rule, str(priced.fee), "; ".join(f"{wording.line(line, 'CNY')}: {line.amount}" for line in priced.lines),
              f"{priced.interchange} + {priced.scheme_fee} + {priced.acquirer_fee}", str(priced.margin)] for priced in month.priced]
    assert [row[8:] for row in ROWS] == found
    assert len(ROWS) == 8 and {kind for _, _, kind, *_ in ROWS} == {"sale", "refund"}


def test_every_rule_of_the_example_prices_something(month: Bill) -> None:
    assert {priced.rule.partition(": ")[2] for priced in month.priced} == {rule["name"] for rule in TARIFF["rules"]}


def test_the_statement_of_the_example_adds_up(month: Bill) -> None:
    totals = month.totals["CNY"]
    told = {what.split(",")[0]: int(amount) for what, amount in table("of the statement")}
    assert told == {"sales": totals.sales, "refunds": totals.refunds, "fees of transactions": totals.fees, "terminal rent": totals.periodic, "VAT": totals.tax, "net": totals.net,
                    "costs": totals.fees - totals.margin, "margin": totals.margin}
    assert told["net"] == told["sales"] - told["refunds"] - told["fees of transactions"] - told["terminal rent"] - told["VAT"]
    assert f"VAT, 6.00 % of {told['fees of transactions'] + told['terminal rent']}" in EXAMPLE


def test_every_word_that_a_document_may_use_stands_in_the_guide() -> None:
    description = GUIDE.split("## The document\n", 1)[1].split("## An example", 1)[0]
    for word in (*CARD_TYPES, *METHODS, *ENTRY_MODES, *RETURNS, *PER, *ROUNDINGS, *WEIGHT, str(RULES_MAX)):
        assert re.search(rf"\b{word}\b", description), word


def test_the_order_of_weight_is_the_engine_s() -> None:
    said = re.search(r"in this order: (.*?)\.", GUIDE, re.DOTALL)
    assert said
    places = [said[1].lower().replace(" ", "_").replace(",_", " ").replace(",\n", " ").split().index(name) for name in (*WEIGHT, "amount")]
    assert all(low < high for low, high in pairwise(places))
