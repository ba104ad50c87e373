"""The file of an import: what is taken, what is a fault of a row, and what refuses the whole file."""

import gzip
import re
from pathlib import Path

import pytest

from switch.merchants.bulk.sheet import COLUMNS, STEPS, Fault, Reader, Row
from switch.settlement.reconciliation.clearing import Refused
from switch.settlement.reconciliation.unpacking import Unpacker

HEAD = "merchant,merchant_name,mcc,store,store_name,city,terminal,terminal_name,acquirer,card_acceptor_terminal,card_acceptor"
GOOD = "M1,Noodles,5812,1,Main street,Shanghai,1,Till 1,bank,A1,SHOP1"
SOUND = {"merchant": "M1", "merchant_name": "Noodles", "mcc": "5812", "store": "1", "store_name": "Main street", "city": "Shanghai", "terminal": "1",
         "terminal_name": "Till 1", "acquirer": "bank", "card_acceptor_terminal": "A1", "card_acceptor": "SHOP1"}


def read(text: str | bytes, piece: int = 7) -> list[Row | Fault]:
    data, reader = text.encode() if isinstance(text, str) else text, Reader()
    found = [each for at in range(0, len(data), piece) for each in reader.feed(data[at:at + piece])]
    reader.end()
    return found


def row(**changed: str) -> str:
    return ",".join((SOUND | changed).values())


def faults(*rows: str) -> list[tuple[int, str]]:
    return [(found.line, found.column) for found in read("\n".join((HEAD, *rows)) + "\n") if isinstance(found, Fault)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_row_is_a_terminal_with_its_store_merchant_and_numbers(end: str) -> None:
    found = read(HEAD + end + row() + end + row(terminal="2", card_acceptor_terminal="A2") + end)
    assert [each.line for each in found] == [2, 3] and all(isinstance(each, Row) for each in found)
    first = found[0]
    assert isinstance(first, Row)
    assert dict(first.values) == dict.fromkeys(COLUMNS, "") | SOUND | {"time_zone": "Asia/Shanghai", "country": "CN"}
    assert [first.key(kind) for kind in ("merchant", "store", "terminal")] == ["M1", "M1/1", "M1/1"]


def test_a_quoted_cell_is_what_stands_in_it() -> None:
    (found,) = read(f"{HEAD}\n" + row(merchant_name='"Noodles, ""the best"""', city='"Shanghai"') + "\n")
    assert isinstance(found, Row) and (found.values["merchant_name"], found.values["city"]) == ('Noodles, "the best"', "Shanghai")


@pytest.mark.parametrize(("changed", "column"), [
    ({"merchant": ""}, "merchant"), ({"merchant": "a/b"}, "merchant"), ({"merchant": "M" * 65}, "merchant"), ({"mcc": "58 2"}, "mcc"),
    ({"merchant_name": ""}, "merchant_name"), ({"merchant_name": "x" * 121}, "merchant_name"), ({"merchant_name": "=HYPERLINK(1)"}, "merchant_name"),
    ({"city": "@sum"}, "city"), ({"city": "-1+1"}, "city"), ({"store_name": "a\x07b"}, "store_name"), ({"terminal_name": " x"}, "terminal_name"),
    ({"acquirer": ""}, "card_acceptor_terminal"), ({"card_acceptor_terminal": "A12345678"}, "card_acceptor_terminal"),
    ({"card_acceptor": ""}, "card_acceptor"), ({"card_acceptor": "é"}, "card_acceptor"),
])
def test_what_is_wrong_in_a_row_is_named_by_line_and_column(changed: dict[str, str], column: str) -> None:
    assert (2, column) in faults(row(**changed))
    assert (3, column) in faults(row(merchant="M2", card_acceptor_terminal="A2"), row(**changed))


@pytest.mark.parametrize(("second", "column"), [
    (row(merchant_name="Other", terminal="2", card_acceptor_terminal="A2"), "merchant"),
    (row(city="Beijing", terminal="2", card_acceptor_terminal="A2"), "store"),
    (row(terminal_name="Other", acquirer="second"), "terminal"),
    (row(card_acceptor_terminal="A2"), "acquirer"), (row(terminal="2"), "acquirer"), (row() + ",more", "row"),
])
def test_rows_that_contradict_those_before_are_faults(second: str, column: str) -> None:
    assert faults(row(), second) == [(3, column)]


def test_a_terminal_has_rows_at_several_acquirers_and_a_merchant_several_stores() -> None:
    assert faults(row(), row(acquirer="second"), row(store="2", store_name="Other", terminal="2", card_acceptor_terminal="A2")) == []


def test_nothing_of_a_wrong_row_is_remembered() -> None:
    assert faults(row(mcc="x"), row()) == [(2, "mcc")]


def test_a_fault_repeats_nothing_of_the_row() -> None:
    found = read(f"{HEAD}\n{row(merchant_name='=SECRET()', mcc='6212345678900000003')}\n")
    assert len(found) == 2 and "SECRET" not in repr(found) and "62123" not in repr(found)


@pytest.mark.parametrize(("data", "line", "reason"), [
    (b"", 1, "no rows"), (HEAD.encode() + b"\n", 1, "no rows"), (HEAD.encode(), 1, "cut"),
    (f"{HEAD}\n{GOOD}\n{GOOD}".encode(), 3, "cut"), (f"{HEAD},city\n{GOOD},x\n".encode(), 1, "named twice"),
    (f"{HEAD},colour\n{GOOD},red\n".encode(), 1, "none of"), (HEAD.replace("mcc,", "").encode() + b"\nx\n", 1, "missing: mcc"),
    (f"{HEAD}\n{GOOD}\n".encode() + b"\xff\xfe\n", 3, "UTF-8"), (f"{HEAD}\n{GOOD}\n".encode("utf-16"), 1, "NUL|UTF-8"),
    (f"{HEAD}\nM1,\0\n".encode(), 2, "NUL"), (f"{HEAD}\n{'x' * 20_000}\n".encode(), 2, "16384"), (f"{HEAD}\n{'x' * 40_000}".encode(), 2, "16384"),
    (f'{HEAD}\n"M1,x\n'.encode(), 2, "column 1, merchant: .*quote"), (f'{HEAD}\nM1,Noo"dles,x\n'.encode(), 2, "column 2, merchant_name: .*quote"),
    (f'{HEAD}\n{GOOD},,"a"b\n'.encode(), 2, "column 13: .*quote"), (f'{HEAD},"x\n'.encode(), 1, "column 12: .*quote"), (f"{HEAD}\nM1,a\rb\n".encode(), 2, "line break"), (f"{HEAD}\n" .encode() + b"x\n" * 100_001, 100_002, "at most 100000"),
])
def test_what_cannot_be_read_refuses_the_file_with_its_line(data: bytes, line: int, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        read(data, 4096)
    assert refused.value.line == line and re.search(reason, refused.value.reason)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    packed, given = gzip.compress(b"x" * (200 << 20), 9), 0
    with pytest.raises(Refused, match="expands"):
        for piece in Unpacker().feed(packed):
            given += len(piece)
    assert given < 25 << 20


def test_the_database_holds_the_same_steps() -> None:
    text = Path("migrations/versions/r0030_imports.py").read_text()
    assert set(re.findall(r'"(\w+>\w+)"', text)) == {f"{state}>{after}" for state, steps in STEPS.items() for after in steps}
