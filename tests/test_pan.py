"""A card number, and any other secret, leaves no trace in whatever a program prints, keeps or sends by habit."""

import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from switch.security.pan import Pan, PanError, Secret, holds_card_number, luhn_valid

VISA, MASTERCARD, UNIONPAY_19, AMEX = "4111111111111111", "5555555555554444", "6212345678901231234", "378282246310005"
TRACK = "4111111111111111D28121010000012345678"
CLEAR = {"pan": Pan(VISA), "secret": Secret(TRACK)}
both = pytest.mark.parametrize("value", CLEAR.values(), ids=CLEAR)


def check_digit(body: str) -> str:
    """The last digit by the book: doubled digits summed one by one."""
    total = 0
    for place, digit in enumerate(reversed(body)):
        number = int(digit) * (2 if place % 2 == 0 else 1)
        total += number // 10 + number % 10
    return str(-total % 10)


def shows(text: str) -> bool:
    """Whether any text holds more of the card than BIN and last four."""
    return VISA in text or TRACK in text or "1111111" in text.replace("41111111", "")


class Model(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    value: Any


@dataclass(frozen=True, slots=True)
class Record:
    value: Any


@pytest.mark.parametrize(("digits", "bin_", "last4", "masked"), [
    (VISA, "41111111", "1111", "41111111****1111"),
    (MASTERCARD, "55555555", "4444", "55555555****4444"),
    (UNIONPAY_19[:-1] + check_digit(UNIONPAY_19[:-1]), "62123456", None, None),
    (AMEX, "378282", "0005", "378282*****0005"),
    ("30569309025904", "305693", "5904", "305693****5904"),
    ("4222222222222", "422222", "2222", "422222***2222"),
    ("50000000000" + check_digit("50000000000"), "500000", None, "************"),
])
def test_a_pan_shows_its_bin_and_last_four_only(digits: str, bin_: str, last4: str | None, masked: str | None) -> None:
    pan = Pan(digits)
    assert pan.reveal() == digits and pan.bin == bin_ and pan.last4 == (last4 or digits[-4:])
    assert masked is None or pan.masked == masked
    assert str(pan) == repr(pan) == f"{pan}" == f"<{pan.masked}>" and len(pan.masked) == len(digits)


@pytest.mark.parametrize(("given_", "code"), [
    ("", "pan_not_digits"), ("4111 1111 1111 1111", "pan_not_digits"), ("4111111111111111\n", "pan_not_digits"),
    ("٤١١١١١١١١١١١١١١١", "pan_not_digits"), ("411111111111111²", "pan_not_digits"), ("-411111111111111", "pan_not_digits"),
    (None, "pan_not_digits"), (4111111111111111, "pan_not_digits"), (b"4111111111111111", "pan_not_digits"),
    ("41111111111", "pan_length"), ("4" * 20, "pan_length"),
    ("4111111111111112", "pan_luhn"), ("1411111111111111", "pan_luhn"), ("411111111112", "pan_luhn"),
])
def test_what_is_not_a_pan_is_refused_by_a_code_and_never_echoed(given_: Any, code: str) -> None:
    with pytest.raises(PanError) as caught:
        Pan(given_)
    assert caught.value.code == code and str(caught.value) == code and caught.value.args == (code,)


@given(st.from_regex(r"[0-9]{11,18}", fullmatch=True), st.integers(0, 9))
def test_exactly_one_check_digit_is_right(body: str, digit: int) -> None:
    assert luhn_valid(f"{body}{digit}") == (str(digit) == check_digit(body))


def test_pans_are_equal_by_value_and_serve_as_keys() -> None:
    assert Pan(VISA) == Pan(VISA) != Pan(MASTERCARD) and Pan(VISA) != VISA
    assert {Pan(VISA): 1}[Pan(VISA)] == 1
    assert Secret("123") == Secret("123") != Secret("124") and Secret("123") != "123" and len({Secret("1"), Secret("1")}) == 1


def test_a_secret_reveals_its_text_and_shows_not_even_its_length() -> None:
    assert Secret("123").reveal() == "123"
    assert repr(Secret("123")) == str(Secret(TRACK)) == f"{Secret('')}" == "<secret>"


FORMS: dict[str, Callable[[Any], str]] = {
    "str": str, "repr": repr, "ascii": ascii, "f-string": lambda v: f"{v} {v!r} {v!s} {v!a} {v:>60}", "format": "{:^50}".format,
    "percent": lambda v: "%s %r %a" % (v, v, v),  # noqa: UP031
    "list": lambda v: repr([v, {v: v}, (v,)]), "dataclass": lambda v: repr(Record(v)), "pydantic repr": lambda v: repr(Model(value=v)),
    "pydantic str": lambda v: str(Model(value=v)), "pydantic dump": lambda v: repr(Model(value=v).model_dump()),
    "exception": lambda v: "".join(traceback.format_exception(ValueError(v))),
}


@both
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_no_text_form_shows_it(form: Callable[[Any], str], value: Any) -> None:
    text = form(value)
    assert not shows(text) and ("41111111****1111" in text or "<secret>" in text)


@both
def test_a_log_line_does_not_show_it(caplog: pytest.LogCaptureFixture, value: Any) -> None:
    log = logging.getLogger("test_pan")
    log.warning("%s %r %-50s", value, value, value)
    log.warning("%(card)s", {"card": value})
    log.warning("extra", extra={"card": value})
    formatter = logging.Formatter("%(message)s %(card)s", defaults={"card": ""})
    text = "\n".join(formatter.format(record) + repr(record.__dict__) for record in caplog.records)
    assert len(caplog.records) == 3 and not shows(text) and not shows(caplog.text)


@both
def test_a_traceback_with_locals_does_not_show_it(value: Any) -> None:
    def sale(card: Any) -> None:
        cards = [card]
        raise RuntimeError(cards)

    with pytest.raises(RuntimeError) as caught:
        sale(value)
    text = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "cards = " in text and not shows(text)


def test_a_refused_number_is_not_in_the_locals_of_the_frames_that_refused_it() -> None:
    try:
        Pan(VISA[:-1] + "2")
    except PanError as error:
        frames = traceback.TracebackException.from_exception(error, capture_locals=True).stack
        assert frames[-1].name == "__init__" and "digits" not in (frames[-1].locals or {})


HABITS: dict[str, Callable[[Any], object]] = {
    "json": json.dumps, "json in a list": lambda v: json.dumps([{"card": v}]), "json key": lambda v: json.dumps({v: 1}),
    "pickle": pickle.dumps, "pickle 0": lambda v: pickle.dumps(v, 0), "pickle inside": lambda v: pickle.dumps({"card": [v]}),
    "copy": copy.copy, "deepcopy": copy.deepcopy, "deepcopy inside": lambda v: copy.deepcopy([v]), "asdict": lambda v: asdict(Record(v)),
    "vars": vars, "bytes": bytes, "iterate": list, "join": "".join, "add": lambda v: "card " + v, "length": len, "int": int,
    "state": lambda v: v.__getstate__(), "reduce": lambda v: v.__reduce__(),
}


@both
@pytest.mark.parametrize("habit", HABITS.values(), ids=HABITS)
def test_what_would_copy_or_serialise_it_is_refused(habit: Callable[[Any], object], value: Any) -> None:
    with pytest.raises(TypeError) as caught:
        habit(value)
    assert not shows(str(caught.value))


@both
def test_it_has_no_dictionary_and_pydantic_does_not_dump_it_to_json(value: Any) -> None:
    assert not hasattr(value, "__dict__")
    with pytest.raises(ValueError, match="Unable to serialize") as caught:
        Model(value=value).model_dump_json()
    assert not shows(str(caught.value))


@pytest.mark.parametrize("text", [
    VISA, "paid with 4111 1111 1111 1111 12/28", "4111-1111-1111-1111", "12 4111 1111 1111 1111", f"x{MASTERCARD}y", AMEX, "3782 822463 10005", "30569309025904",
    "4222222222222", "6212345678900000003", "6212 3456 7890 0000 003",
])
def test_a_text_that_holds_a_card_number_is_known_by_it(text: str) -> None:
    assert holds_card_number(text)


@pytest.mark.parametrize("text", [
    "", "table 4", "4111 1111 1111 1112", "411111111111111", "632900000001", "2026-11-28 06:37:55 12345", "0000000000000000", "1111111111111111117", "4" * 64,
    "4111 1111  1111 1111", "4111.1111.1111.1111", "\ud800" * 20,
])
def test_other_digits_are_no_card_number(text: str) -> None:
    assert not holds_card_number(text)
