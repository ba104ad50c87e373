"""JSON bodies: one reading of every text, integers only, and no refusal that shows the body."""

import json
import time
import traceback
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.api.strict import StrictError, parse, plain
from switch.api.terminal import AuthorizationRequest, authorization_of, model_of
from switch.errors import PROBLEMS, Problem

PAN = "4111111111111111"
BODY = json.dumps({
    "type": "purchase", "amount": 125000, "currency": "IDR",
    "card": {"entry_mode": "chip", "pan": PAN, "expiry": "2812", "sequence_number": 1,
             "emv": "9F2608A1B2C3D4E5F607089F2701809F100706010A03A000009F37041A2B3C4D9F360200FF950500000080009A032611239C01005F2A020360"},
    "terminal_trace": "000123", "reference": "INV-2026-0001", "local_time": "2026-11-23T10:11:12"}).encode()


def refusal(raw: bytes) -> str:
    with pytest.raises(StrictError) as caught:
        parse(raw)
    error = caught.value
    assert error.code in PROBLEMS and PROBLEMS[error.code].status == 400 and error.args == (error.code,)
    assert error.detail == PROBLEMS[error.code].remedy
    assert error.__context__ is None and error.__cause__ is None
    return error.code


@pytest.mark.parametrize(("raw", "value"), [
    (b"{}", {}), (b"[]", []), (b' \t\r\n{ "a" : 1 } \n', {"a": 1}), (b"null", None), (b"true", True), (b'"x"', "x"), (b"0", 0),
    (b"-1", -1), (b"999999999999999", 999999999999999), (b"-999999999999999", -999999999999999),
    (b'{"a": {"a": 1}, "b": {"a": 2}}', {"a": {"a": 1}, "b": {"a": 2}}),
    ('{"ключ": "收据 😀"}'.encode(), {"ключ": "收据 😀"}), (b'"\\ud83d\\ude00 \\u0001 \\u2028"', "😀 \x01 \u2028"),
    (b'"\\\\u0000 \\\\ud800"', "\\u0000 \\ud800"), (b'"{[{[{[{[{[{[{[{[{[{["', "{[" * 10),
    (b"[" * 16 + b"]" * 16, [[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]), (b'{"a":' * 16 + b"7" + b"}" * 16, None),
    (b"[" + b"[[1],{}]," * 50 + b"1]", [[[1], {}]] * 50 + [1]),
])
def test_well_formed_json_is_read(raw: bytes, value: Any) -> None:
    assert parse(raw) == (value if value is not None else json.loads(raw))


REFUSED = {
    "json_malformed": [
        b"", b" ", b"{", b"}", b'{"a"}', b'{"a":}', b'{"a":1,}', b"[1,]", b"{'a':1}", b"{} {}", b"{}x", b'{"a":1}\0', b"nul", b"True",
        b"01", b"+1", b".5", b'"a\nb"', b'"a\0b"', b'"\\x"', b'"\\u12"', b'"\\uD8zz"', b"//x\n{}", b"[1 2]", b"0x10", b"1_000",
        "٣".encode(), '{"a": ١٢}'.encode(), "\u00a0{}".encode(), '{"a": 1'.encode("utf-16-le"), b"-", b"--1",
        b"a" * 60_000, b'"' + b"a" * 60_000,
    ],
    "json_encoding": [
        b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b"\xfe\xff\0{\0}", b'"\xff"', b'"\xc3"', b'"\xc0\x80"', b'"\xed\xa0\x80"',
        b'"\xf4\x90\x80\x80"', '"é"'.encode("latin-1"), b"\x80",
    ],
    "json_duplicate_key": [
        b'{"amount":1,"amount":2}', b'{"a":1,"a":1}', b'{"a":1,"\\u0061":2}', b'{"x":[{"a":{"b":1,"b":2}}]}', b'{"":1,"":2}',
    ],
    "json_number": [
        b"1.0", b"1e3", b"1E3", b"1e-3", b"-1.5", b"0.0", b"NaN", b"Infinity", b"-Infinity", b'{"amount": 12.00}', b"1e999999", b"-0",
        b"[-0]", b"1000000000000000", b"-1000000000000000", b"9223372036854775808", b"9" * 5000, b"-" + b"9" * 60_000,
        b"1." + b"0" * 60_000,
    ],
    "json_depth": [
        b"[" * 17 + b"]" * 17, b'{"a":' * 17 + b"1" + b"}" * 17, b"[" * 200_000 + b"]" * 200_000, b"[" * 200_000, b'{"a":' * 100_000,
        b'[{"a":' * 9 + b"1" + b"}]" * 9, b"[" + b"1," * 40 + b"[" * 16 + b"]" * 17,
    ],
    "json_surrogate": [
        b'"\\ud800"', b'"\\udc00\\ud800"', b'{"\\udfff":1}', b'{"a":["\\uD83D"]}', b'["x",{"y":"\\ud83d\\u0041"}]', b'"\\ud83d \\ude00"',
    ],
    "json_nul": [b'"\\u0000"', b'{"\\u0000":1}', b'{"a":["b",{"c":"d\\u0000"}]}', b'{"a\\u0000b":{}}'],
}


@pytest.mark.parametrize(("code", "raw"), [(code, raw) for code, texts in REFUSED.items() for raw in texts],
                         ids=lambda value: value if isinstance(value, str) else repr(value[:24]))
def test_what_has_two_readings_or_none_is_refused_by_name(code: str, raw: bytes) -> None:
    assert refusal(raw) == code


def test_every_code_of_the_reader_is_a_known_problem() -> None:
    assert set(REFUSED) == {code for code in PROBLEMS if code.startswith("json_")}


SPOILT = [
    BODY[:-1], BODY + b"x", b"\xff" + BODY, BODY.replace(b"125000", b"1.5"), BODY.replace(b"{", b'{"pan":"4111111111111111","pan":1,', 1),
    BODY.replace(b"INV-", b"\\ud800"), BODY.replace(b"INV-", b"\\u0000"), b"[" * 20 + BODY + b"]" * 20, b"[" * 5000 + BODY,
    BODY.replace(b'"2812"', PAN.encode() * 90),
]


@pytest.mark.parametrize("raw", SPOILT)
def test_neither_the_error_nor_its_traceback_with_locals_shows_the_body(raw: bytes) -> None:
    def route(raw: bytes) -> None:
        text = [raw]
        del raw
        parse(text.pop())

    with pytest.raises(StrictError) as caught:
        route(raw)
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack[1:]
    shown = repr([(frame.name, frame.locals) for frame in frames]) + str(caught.value) + caught.value.detail
    assert [frame.name for frame in frames] == ["route", "parse"] and PAN not in shown and "pan" not in shown


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-10**15 + 1, 10**15 - 1) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12)


@given(json_values, st.booleans())
def test_every_value_within_the_limits_is_read_as_any_json_reader_would(value: Any, escaped: bool) -> None:
    assert parse(json.dumps(value, ensure_ascii=escaped).encode()) == value


@given(st.binary() | st.text().map(str.encode) | st.text('{}[]",:\\u0dD8e1.-+ \0', max_size=40).map(str.encode))
def test_any_bytes_give_a_value_or_a_named_refusal(raw: bytes) -> None:
    try:
        parse(raw)
    except StrictError as error:
        assert error.code in REFUSED


def test_a_hostile_body_does_not_hang_the_reader() -> None:
    for hostile in (b"[" * 65_000, b"9" * 65_000, b'"' + b"\\u0041" * 10_000 + b'"', b"[" + b"[]," * 20_000 + b"1]", b'{"a":1,' * 9_000):
        began = time.perf_counter()
        with suppress(StrictError):
            parse(hostile)
        assert time.perf_counter() - began < 5


# The short way: what it reads, it reads as the long one does.


def read(reader: Any, raw: bytes) -> Any:
    """What a terminal is told: the value, or the refusal with all that it says."""
    try:
        model, value = reader(raw)
        return model.model_dump(), value
    except Problem as problem:
        return problem.code, problem.detail, problem.errors


@given(json_values | st.floats(), st.sampled_from([None, 1]), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_the_short_way_reads_the_same_value_or_leaves_it_to_the_long_one(value: Any, indent: int | None, separators: tuple[str, str]) -> None:
    found = plain(json.dumps(value, ensure_ascii=False, indent=indent, separators=separators).encode())
    assert found is None or found == value


SALE = {"type": "purchase", "amount": 1000, "currency": "CNY", "reference": "a b", "card": {"entry_mode": "manual", "pan": PAN, "expiry": "2812"}}
WRITTEN = [json.dumps(SALE, separators=separators).encode() for separators in ((",", ":"), (", ", ": "))]


def test_a_plain_sale_is_read_on_the_short_way() -> None:
    for raw in WRITTEN:
        assert plain(raw) == SALE and read(authorization_of, raw) == read(lambda text: model_of(AuthorizationRequest, text), raw)


@pytest.mark.parametrize("raw", [
    *SPOILT, *(text for texts_ in REFUSED.values() for text in texts_), *WRITTEN,
    *(raw.replace(b"1000", number) for raw in WRITTEN for number in (
        b"1000.0", b"1e3", b"-0", b"1" * 16, b"9" * 19, b"18446744073709551615", b"9" * 40, b"-1", b"0", b"true", b"null", b'"1000"', b"1" + b"0" * 12)),
    *(raw.replace(b'"currency"', again + b'"currency"', 1) for raw in WRITTEN for again in (
        b'"currency":"CNY",', b'"currency" :"CNY", ', b'"curr\\u0065ncy":"CNY",', b'"cur rency":"CNY",', b'"amount":1000,')),
    *(raw.replace(b'"card"', extra + b',"card"', 1) for raw in WRITTEN for extra in (
        b'"x":' + b"[" * 30 + b"]" * 30, b'"x":1.5', b'"x":-0', b'"x":12345678901234567', b'"x":{"a":1,"a":1}')),
    *(raw.replace(b"a b", text) for raw in WRITTEN for text in (b"a  b", b"a\\u0020b", b"a\\/b", "é".encode(), b"\xff", b"a\tb")),
])
def test_whatever_is_wrong_with_a_sale_is_told_as_on_the_long_way(raw: bytes) -> None:
    assert read(authorization_of, raw) == read(lambda text: model_of(AuthorizationRequest, text), raw)


@given(st.sampled_from(WRITTEN), st.integers(0, 200), st.integers(0, 6), st.text('{}[]",:\\u0dD8e1.-+ 4\0amount', max_size=12))
def test_a_sale_with_any_part_overwritten_is_told_as_on_the_long_way(raw: bytes, at: int, gone: int, put: str) -> None:
    spoilt = raw[:at] + put.encode() + raw[at + gone:]
    assert read(authorization_of, spoilt) == read(lambda text: model_of(AuthorizationRequest, text), spoilt)
