"""Statements of banks and their CSV answers are read as they are, or refused whole with line and reason."""

import re
from datetime import date
from operator import attrgetter
from pathlib import Path

import pytest
import xmlschema
from hypothesis import given, settings
from hypothesis import strategies as st

from switch.settlement.payouts import bank_csv, camt053
from switch.settlement.payouts.answered import Answer
from switch.settlement.reconciliation.clearing import Refused
from tests.bank import DAY, OUR_IBAN, Booked, answer_csv, as_version, statement

ID = "0" * 31 + "1"
BOOKED = (Booked("R1", 12_345, ID), Booked("R2", 500, came=True, text="SETTLEMENT 12345678 2026-11-25"), Booked("R3", 12_345, ID, came=True, reason="closed"))
PLAIN = statement(BOOKED)
SCHEMAS = Path(__file__).parent / "vectors" / "iso20022"
SCHEMA = xmlschema.XMLSchema(str(SCHEMAS / "camt.053.001.08.xsd"))


def read(data: bytes, piece: int = 1 << 14) -> Answer:
    reader = camt053.Reader()
    for at in range(0, len(data), piece):
        reader.feed(data[at:at + piece])
    return reader.end()


def replaced(old: str, new: str, count: int = 1) -> bytes:
    text = PLAIN.decode()
    assert old in text, old
    return text.replace(old, new, count).encode()


@pytest.mark.parametrize("piece", [1, 7, 1 << 14])
def test_a_statement_of_the_standards_own_classes_is_read(piece: int) -> None:
    answer = read(PLAIN, piece)
    assert (answer.account, answer.currency, answer.statement, answer.number, answer.day, answer.books) == (OUR_IBAN, "EUR", "STMT-1", 1, DAY, True)
    assert [(said.fact, said.end_to_end_id, said.credit, said.amount, said.bank_reference, said.reason) for said in answer.said] == [
        ("confirmed", ID, False, 12_345, "R1", ""), (None, "", True, 500, "R2", "SETTLEMENT 12345678 2026-11-25"), ("returned", ID, True, 12_345, "R3", "AC04 closed")]
    assert [said.line for said in answer.said] == sorted(said.line for said in answer.said)


@pytest.mark.parametrize("version", ["02", "08", "14"])
def test_statements_of_the_published_schemas_say_the_same_to_us(version: str) -> None:
    data = as_version(PLAIN, version)
    xmlschema.XMLSchema(str(SCHEMAS / f"camt.053.001.{version}.xsd")).validate(data.decode())
    plain = read(PLAIN).said
    assert [said._replace(line=0) for said in read(data).said] == [said._replace(line=0) for said in plain]


def test_the_schema_that_the_statements_are_held_against_refuses_what_is_none() -> None:
    for broken in (replaced("<CdtDbtInd>DBIT", "<CdtDbtInd>DEBIT"), replaced("<IBAN>DE", "<IBAN>de"), replaced('Ccy="EUR"', 'Ccy="euro"')):
        assert not SCHEMA.is_valid(broken.decode())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.builds(Booked, st.uuids().map(attrgetter("hex")), st.integers(1, 10**12), st.sampled_from(["", ID]), st.booleans(), st.just(""), st.just("")), max_size=8), st.integers(-10**12, 10**12))
def test_what_the_bank_booked_is_what_is_read(booked: list[Booked], opening: int) -> None:
    data = statement(booked, opening=opening)
    SCHEMA.validate(data.decode())
    answer = read(data)
    assert [(said.bank_reference, said.amount, said.credit, said.end_to_end_id) for said in answer.said] == [
        (each.reference, each.amount, each.came, each.end_to_end_id) for each in booked]


def test_a_booking_of_several_payments_is_its_payments() -> None:
    one = re.search(r"<NtryDtls>.*?</NtryDtls>", PLAIN.decode(), re.DOTALL)
    assert one is not None
    two = one[0].replace(ID, "a" * 32).replace("123.45", "100.00") + one[0].replace("123.45", "23.45")
    said = read(PLAIN.decode().replace(one[0], two, 1).encode()).said
    assert [(each.end_to_end_id, each.amount, each.bank_reference) for each in said[:2]] == [("a" * 32, 10_000, "R1/1"), (ID, 2_345, "R1/2")]
    with pytest.raises(Refused, match="not its amount"):
        read(PLAIN.decode().replace(one[0], two.replace("23.45", "23.44"), 1).encode())


def test_what_is_not_booked_is_no_money() -> None:
    pending = re.sub(r"<Cd>BOOK</Cd>", "<Cd>PDNG</Cd>", PLAIN.decode())
    pending = re.sub(r"<TxsSummry>.*?</TxsSummry>", "", pending, flags=re.DOTALL)
    balance = re.findall(r"<Amt Ccy=\"EUR\">([0-9.]+)</Amt>", pending)
    assert read(pending.replace(balance[1], balance[0]).encode()).said == []


BOMB = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'


@pytest.mark.parametrize(("data", "reason"), [
    (replaced(HEAD, HEAD + BOMB), "document types"), (replaced(HEAD, HEAD + OUTSIDE), "document types"), (replaced(HEAD, HEAD + "<!DOCTYPE a SYSTEM 'x'>"), "document types"),
    (PLAIN[:len(PLAIN) // 2], "cut"), (PLAIN[:-3], "cut"), (b"", "cut"), (b"<a/>", "no camt.053"), (b"plain", "not XML"), (PLAIN + PLAIN, "not XML"),
    (PLAIN.decode().encode("utf-16"), "not XML"), (replaced("UTF-8", "ISO-8859-1"), "UTF-8"), (replaced("AC04", "\xe4").replace(b"\xc3\xa4", b"\xe4"), "not XML"),
    (replaced("camt.053.001.08", "camt.054.001.08"), "no camt.053"), (replaced("<Ntry>", "<Ntry>" + "<x>" * 60 + "</x>" * 60), "too deeply"),
    (replaced("SETTLEMENT", "x" * 3000), "2000 characters"), (replaced(">123.45<", ">123.46<"), "not its amount"), (replaced("<Sum>251.90", "<Sum>251.91"), "total of the summary"),
    (replaced("<NbOfNtries>3", "<NbOfNtries>4"), "count of the summary"), (replaced(">10005.00<", ">10005.01<"), "closing balance"),
    (replaced(">CLBD<", ">ITBD<"), "no closing balance"), (replaced("AcctSvcrRef>R3", "AcctSvcrRef>R3").replace(b"<AcctSvcrRef>R2", b"<AcctSvcrRef>R1"), None),
    (replaced(">123.45<", ">-123.45<"), "without a sign"), (replaced(">123.45<", ">1e2<"), "without a sign"), (replaced(">123.45<", ">123.456<"), "without a sign"),
    (replaced(">123.45<", ">0.00<"), "not zero"), (replaced('Ccy="EUR">123.45', 'Ccy="QQQ">123.45'), "currency"), (replaced(">DBIT<", ">OUT<"), "CRDT or DBIT"),
    (replaced(">BOOK<", ">DONE<"), "needs a status"), (replaced("<IBAN>" + OUR_IBAN + "</IBAN>", ""), "no account"), (replaced("<Id>STMT-1</Id>", ""), "no id"),
    (replaced("<Ntry>", "<Ntry>" + "".join(f"<a{at}>1</a{at}>" for at in range(600))), "500 values"), (replaced("<Bal>", "<Bal></Bal>" * 200 + "<Bal>"), "100 balances"),
    (replaced("<Ntry>", "<Ntry a='" + "a" * (1 << 20) + "'>"), "too long"), (replaced("<Ntry>", "<!--" + "a" * (1 << 20) + "--><Ntry>"), "too long"),
    (replaced("<ElctrncSeqNb>1", "<ElctrncSeqNb>x"), "whole number"), (replaced("<Ccy>EUR", "<Ccy>USD"), "one currency"),
    (statement([Booked("R1", 1, ID), Booked("R1", 1, ID)]), "twice"),
    (replaced("</Stmt>", "</Stmt>" + re.search(rb"<Stmt>.*</Stmt>", PLAIN, re.DOTALL)[0].decode()), "one statement"),  # type: ignore[index]
])
def test_what_is_wrong_is_refused_with_its_line(data: bytes, reason: str | None) -> None:
    if reason is None:
        read(data)
        return
    with pytest.raises(Refused, match=reason) as caught:
        read(data)
    assert caught.value.line >= 1 and "passwd" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(PLAIN) - 1), st.binary(min_size=1, max_size=3))
def test_any_bytes_are_read_or_refused(at: int, other: bytes) -> None:
    try:
        read(PLAIN[:at] + other + PLAIN[at + len(other):])
    except Refused as refused:
        assert refused.reason


ROWS = [(ID, "confirmed", "123.45", "R1", ""), ("b" * 32, "returned", "5.00", "R2", "account closed")]


def test_a_csv_answer_is_read() -> None:
    answer = bank_csv.read(answer_csv(ROWS))
    assert (answer.account, answer.currency, answer.statement, answer.day, answer.books) == (OUR_IBAN, "EUR", "ANSWER-1", DAY, False)
    assert [(said.line, said.fact, said.amount, said.reason) for said in answer.said] == [(2, "confirmed", 12_345, ""), (3, "returned", 500, "account closed")]
    assert bank_csv.read(answer_csv(ROWS).replace(b"\n", b"\r\n")) == answer
    quoted = bank_csv.read(answer_csv(ROWS).replace(b"account closed", b'"account ""closed"", gone"'))
    assert quoted.said[1].reason == 'account "closed", gone'
    assert bank_csv.read(answer_csv([(ID, "confirmed", "100", "R", "")], currency="JPY", total="100")).said[0].amount == 100


@pytest.mark.parametrize(("data", "line", "reason"), [
    (b"", 1, "must begin with H"), (b"a,b\n", 1, "must begin with H"), (b"H,ANSWER,2,a,EUR,2026-11-26,n\nT,0,0\n", 1, "first line"), (answer_csv(ROWS)[:-10], 4, "columns|total|count"),
    (answer_csv(ROWS, total="128.44"), 4, "total"), (answer_csv(ROWS).replace(b"T,2", b"T,3"), 4, "count"), (answer_csv(ROWS).rsplit(b"T,", 1)[0], 3, "cut"),
    (answer_csv([ROWS[0], ROWS[0]]), 3, "twice"), (answer_csv([("=1+1", "confirmed", "1.00", "R", "")]), 2, "formula"), (answer_csv([(ID, "paid", "1.00", "R", "")]), 2, "confirmed"),
    (answer_csv([(ID, "returned", "1.00", "R", "")]), 2, "reason"), (answer_csv([(ID, "confirmed", "1.00", "", "")]), 2, "reference"),
    (answer_csv([(ID, "confirmed", "-1.00", "R", "")]), 2, "formula"), (answer_csv([(ID, "confirmed", "1.001", "R", "")]), 2, "amount"),
    (answer_csv([(ID, "confirmed", "0.00", "R", "")]), 2, "not zero"), (answer_csv(ROWS).replace(b"A,2,", b"A,3,"), 3, "numbered"),
    (answer_csv(ROWS).replace(b"closed", b"\xff"), 3, "UTF-8"), (answer_csv(ROWS).replace(b"closed", b"\x00"), 3, "printable"),
    (answer_csv(ROWS).replace(b"account closed", b'"closed'), 3, "column 9: .*quote"),
    (answer_csv(ROWS).replace(b"account closed", b'account "closed"'), 3, "column 9: .*quote"), (answer_csv(ROWS).replace(b"closed", b"x" * 2000), 3, "1000"),
    (answer_csv(ROWS, currency="EUX"), 1, "4217"), (answer_csv(ROWS).replace(b"5.00,EUR", b"5.00,USD"), 3, "header's"),
    (answer_csv(ROWS, day=date(2026, 1, 1)).replace(b"2026-01-01", b"2026-02-30"), 1, "date"),
])
def test_a_wrong_csv_answer_is_refused_with_its_line(data: bytes, line: int, reason: str) -> None:
    with pytest.raises(Refused, match=reason) as caught:
        bank_csv.read(data)
    assert caught.value.line == line
