"""Files of acquirers and banks: what a sound one gives, and that one with any fault is refused whole, with its line and the reason."""

import gzip
import zlib
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acquirer_stubs.clearing import LINES, Item, plant, statement_lines
from switch.files.csv_line import RULE
from switch.settlement.reconciliation.clearing import KINDS, LINE_BYTES_MAX, Entry, Line, Reader, Refused
from switch.settlement.reconciliation.formats import FORMATS
from switch.settlement.reconciliation.unpacking import Unpacker

DAY = "2026-11-25"
WHO = "00010344"


def item(number: int, **changes: Any) -> Item:
    values: dict[str, Any] = {"rrn": f"6329{number:08d}", "stan": f"{number:06d}", "terminal": "T0000001", "acceptor": "M00000000000001", "approval": f"A{number:05d}",
                              "kind": "S", "amount": 1000 + number, "currency": "156", "fee": 6, "date": DAY, "reference": f"REF{number}"}
    return Item(**values | changes)


ITEMS = [item(1), item(2, kind="R", currency="392", fee=0), item(3, currency="414", amount=1, approval="", rrn="")]


def written(form: str, items: list[Item] | None = None) -> bytes:
    return "".join(LINES[form](ITEMS if items is None else items, WHO, DAY, 7)).encode()


def statement(**changes: Any) -> bytes:
    return "".join(statement_lines({"156": 990_000, "840": -500}, WHO, DAY, "2026-11-26", account="CN0012345678", number=3, **changes)).encode()


def read(data: bytes, document: str = "clearing", institutions: list[str] | None = None, piece: int = 1 << 16) -> tuple[Any, Any, list[Any]]:
    reader, unpacker, lines = Reader(document, [WHO] if institutions is None and document == "clearing" else institutions), Unpacker(), []
    for start in range(0, max(len(data), 1), piece):
        for part in unpacker.feed(data[start:start + piece]):
            lines += reader.feed(part)
    for part in unpacker.end():
        lines += reader.feed(part)
    return *reader.end(), lines


def refusal(data: bytes, document: str = "clearing", **more: Any) -> tuple[int, str]:
    with pytest.raises(Refused) as refused:
        read(data, document, **more)
    return refused.value.line, refused.value.reason


@pytest.mark.parametrize("form", ["csv", "fixed"])
@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_a_sound_file_gives_every_line_whatever_pieces_it_comes_in(form: str, piece: int, packed: Callable[[bytes], bytes]) -> None:
    header, totals, lines = read(packed(written(form)), piece=piece)
    assert header == (f"clearing_{form}", "clearing", WHO, date(2026, 11, 25), 7)
    assert totals == (3, 1001 - 1002 + 1, 12, {date(2026, 11, 25)})
    assert lines == [
        Line(1, "632900000001", "000001", "T0000001", "M00000000000001", "A00001", "sale", 1001, "CNY", 6, date(2026, 11, 25), "REF1"),
        Line(2, "632900000002", "000002", "T0000001", "M00000000000001", "A00002", "refund", 1002, "JPY", 0, date(2026, 11, 25), "REF2"),
        Line(3, "", "000003", "T0000001", "M00000000000001", "", "sale", 1, "KWD", 6, date(2026, 11, 25), "REF3")]


def test_a_bank_statement_gives_its_entries_signed() -> None:
    header, totals, entries = read(statement(), "statement")
    assert (header.document, header.institution, header.number, totals.total) == ("statement", "CN0012345678", 3, 989_500)
    assert entries == [Entry(1, date(2026, 11, 26), date(2026, 11, 26), 990_000, "CNY", "5678202611260030001", f"SETTLEMENT {WHO} {DAY}"),
                       Entry(2, date(2026, 11, 26), date(2026, 11, 26), -500, "USD", "5678202611260030002", f"SETTLEMENT {WHO} {DAY}")]


def test_a_cell_in_quotes_is_what_stands_in_them() -> None:
    assert read(written("csv").replace(b"REF1", b'"a, ""b"""'))[2][0].reference == 'a, "b"'


def test_windows_line_ends_are_taken() -> None:
    assert read(written("csv").replace(b"\n", b"\r\n"))[1].lines == 3


@pytest.mark.parametrize("form", ["csv", "fixed"])
def test_a_file_without_lines_is_sound(form: str) -> None:
    assert read(written(form, []))[1] == (0, 0, 0, frozenset())


@pytest.mark.parametrize("form", ["csv", "fixed"])
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_a_file_cut_at_any_byte_is_refused(form: str, packed: Callable[[bytes], bytes]) -> None:
    data = packed(written(form))
    for end in range(len(data)):
        refusal(data[:end])


def test_a_statement_cut_at_any_byte_is_refused() -> None:
    for end in range(len(statement())):
        refusal(statement()[:end], "statement")


@pytest.mark.parametrize("form", ["csv", "fixed"])
def test_a_line_that_is_lost_doubled_or_moved_is_refused(form: str) -> None:
    head, one, two, three, tail = written(form).splitlines(keepends=True)
    for lines in ((head, one, three, tail), (head, one, two, two, three, tail), (head, two, one, three, tail), (head, one, two, tail), (one, head, two, three, tail),
                  (head, head, one, two, three, tail), (head, one, two, three, tail, tail), (head, one, two, three, tail, b"\n"), (one, two, three, tail)):
        refusal(b"".join(lines))


CSV = written("csv").decode()


@pytest.mark.parametrize(("was", "becomes", "line", "reason"), [
    ("00010344", "99999999", 1, "the file is of another acquirer"),
    ("H,CLEARING,1", "H,CLEARING,2", 1, "the first line is the header of no clearing format that is known here"),
    (",7\n", ",0\n", 1, "number must be: 1 to 9999"),
    ("H,CLEARING,1,00010344,2026-11-25", "H,CLEARING,1,00010344,2026-13-25", 1, "business_date must be: a date YYYY-MM-DD of this century"),
    ("H,CLEARING,1,00010344,2026-11-25", "H,CLEARING,1,00010344,9999-12-31", 1, "business_date must be: a date YYYY-MM-DD of this century"),
    ("H,CLEARING,1,00010344,2026-11-25", "H,CLEARING,1,00010344,0001-01-01", 1, "business_date must be: a date YYYY-MM-DD of this century"),
    ("10.01", "10.1", 2, "an amount with 2 digits after the point"),
    ("10.01", "-10.01", 2, "amount must be: an amount such as 10.50, without a sign"),
    ("10.01", "1e1", 2, "amount must be: an amount such as 10.50, without a sign"),
    ("10.01", "٣.01", 2, "amount must be: an amount such as 10.50, without a sign"),
    ("10.01", "0.00", 2, "amount must be: more than zero"),
    ("10.01", "10.02", 5, "the trailer's total is not that of the lines"),
    ("0.06", "0.07", 5, "the trailer's fees is not that of the lines"),
    ("T,3,", "T,4,", 5, "the trailer's count is not that of the lines"),
    ("CNY", "XXQ", 2, "currency must be: an ISO 4217 code of three letters"),
    (",S,", ",X,", 2, "kind must be: S (sale) or R (refund)"),
    ("632900000001", "63290000000A", 2, "rrn must be: 12 digits, or nothing"),
    ("632900000001", "6329", 2, "rrn must be: 12 digits, or nothing"),
    ("REF1", "=cmd|'/C calc'!A0", 2, "reference must be: a text must not begin like a formula"),
    ("REF1", "+1", 2, "reference must be: a text must not begin like a formula"),
    ("REF1", "@SUM(A1)", 2, "reference must be: a text must not begin like a formula"),
    ("REF1", "-1", 2, "reference must be: a text must not begin like a formula"),
    ("REF1", "\t=1", 2, "the line holds a character that cannot be printed"),
    ("REF1", "a\rb", 2, "the line holds a character that cannot be printed"),
    ("REF1", "a\0b", 2, "the line holds a character that cannot be printed"),
    ("REF1", "a\u202eb", 2, "the line holds a character that cannot be printed"),
    ("REF1", "R" * 141, 2, "reference must be: at most 140 characters"),
    ("REF1", "R" * LINE_BYTES_MAX, 2, f"the line is longer than {LINE_BYTES_MAX} bytes"),
    ("REF1", "a,b", 2, "13 fields"), ("REF1", 'a"b', 2, f"column 13: {RULE}"), ("REF1", '"a', 2, f"column 13: {RULE}"),
    ("D,2,", "Q,2,", 3, "a record of a known mark"),
    ("2026-11-25,REF1", "2026-11-27,REF1", 2, "business_date must be: from 31 days before the file's date to 1 after"),
    ("2026-11-25,REF1", "2026-10-24,REF1", 2, "business_date must be: from 31 days before the file's date to 1 after"),
    ("000003,T0000001", "000003,", 4, "a line needs an RRN, or a STAN with its terminal"),
])
def test_a_fault_is_refused_with_its_line_and_reason(was: str, becomes: str, line: int, reason: str) -> None:
    assert was in CSV
    assert refusal(CSV.replace(was, becomes, 1).encode()) == (line, reason)


def test_a_file_in_another_encoding_is_refused() -> None:
    assert refusal(CSV.replace("REF1", "Grün").encode("latin-1")) == (2, "the line is not utf-8")
    assert refusal(CSV.encode("utf-16"))[0] in (0, 1)
    assert refusal(b"\xef\xbb\xbf" + CSV.encode())[0] == 0
    assert refusal(written("fixed").replace(b"REF1", "RÉF".encode())) == (2, "the line is not ascii")


def test_a_refusal_holds_nothing_of_the_file() -> None:
    assert "4111" not in str(refusal(CSV.replace("10.01", "4111111111111111").encode()))


@pytest.mark.parametrize(("was", "stands"), [
    ("4111111111111111", "41111111****1111"), ("R 4111 1111 1111 1111 X", "R 41111111****1111 X"), ("4111111111111112", "4111111111111112"),
    ("12345678 2026-11-24", "12345678 2026-11-24"), ("x5555555555554444", "x55555555****4444"),
])
def test_what_may_be_a_card_number_is_masked(was: str, stands: str) -> None:
    assert read(CSV.replace("REF1", was).encode())[2][0].reference == stands


def test_a_record_of_another_width_is_refused() -> None:
    assert refusal(written("fixed").replace(b"REF1", b"REF11", 1)) == (2, "a record of 120 characters")


@pytest.mark.parametrize("data", [b"", b"\n", b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]>\n", b"PK\x03\x04" + bytes(50), b"BZh91AY", b"x" * 5000, bytes(5000)])
def test_what_is_no_such_file_is_refused(data: bytes) -> None:
    refusal(data)
    refusal(data, "statement")


def test_a_statement_in_the_place_of_a_clearing_file_is_refused_and_the_reverse() -> None:
    assert refusal(statement()) == (1, "this is a statement file, a clearing file is expected")
    assert refusal(written("csv"), "statement") == (1, "this is a clearing file, a statement file is expected")


def test_a_gzip_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    data = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(50)) + bomb.flush()
    given_ = 0
    unpacker = Unpacker()
    with pytest.raises(Refused, match="expands to more than 100 times"):
        for piece in unpacker.feed(data):
            given_ += len(piece)
    assert given_ < len(data) * 100 + (2 << 20)


def test_a_damaged_gzip_file_or_one_with_something_behind_it_is_refused() -> None:
    data = gzip.compress(written("csv"))
    assert refusal(data + b"x") == (0, "something follows the end of the gzip file")
    assert refusal(data + data) == (0, "something follows the end of the gzip file")
    assert refusal(data[:-6] + bytes(6)) == (0, "the gzip file is damaged")


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    for start in (b"", written("csv")[:35], written("fixed")[:121], statement()[:41]):
        for document in ("clearing", "statement"):
            with pytest.raises(Refused):
                read(start + data, document)


@given(data=st.data(), form=st.sampled_from(["csv", "fixed"]))
@settings(max_examples=300, deadline=None)
def test_a_file_with_a_byte_changed_is_refused_or_tells_the_same_sums(data: st.DataObject, form: str) -> None:
    whole = bytearray(written(form))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        _, totals, lines = read(bytes(whole))
    except Refused:
        return
    assert (totals.lines, totals.total, totals.fees) == (3, 0, 12)
    assert sum(line.amount if line.kind == "sale" else -line.amount for line in lines) == 0


def test_the_formats_are_whole() -> None:
    for form in FORMATS.values():
        for _, fields in (form["header"], form["line"], form["trailer"]):
            assert all(kind in KINDS for _, kind, *_ in fields)
            if "width" in form:
                places = [(start, start + length) for _, _, start, length in fields]
                assert all(end <= start for (_, end), (start, _) in pairwise(places)) and places[-1][1] <= form["width"]


# What the stub plants.


@given(st.integers(0, 2**32), st.fixed_dictionaries({kind: st.integers(0, 3) for kind in ("missing", "extra", "amount", "fee", "duplicate", "date")}))
def test_the_stub_plants_what_it_says_and_nothing_else(seed: int, counts: dict[str, int]) -> None:
    items = [item(number) for number in range(1, 31)]
    changed, planted = plant(items, counts, seed)
    assert {kind: len(planted.get(kind, [])) for kind in counts} == counts
    of = {each.rrn: each for each in items}
    assert sorted(each.rrn for each in changed if each.rrn not in of) == sorted(planted.get("extra", []))
    assert sorted(of.keys() - {each.rrn for each in changed}) == sorted(planted.get("missing", []))
    for name, field in (("amount", "amount"), ("fee", "fee"), ("date", "date")):
        assert {each.rrn for each in changed if each.rrn in of and getattr(each, field) != getattr(of[each.rrn], field)} == set(planted.get(name, []))
    assert {each.rrn for each in changed if changed.count(each) > 1} == set(planted.get("duplicate", []))
    assert plant(items, counts, seed) == (changed, planted)
