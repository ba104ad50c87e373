"""messages.masking: what may be printed and stored of a message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.dialect import load
from messages.masking import mask, mask_pan

DIALECT = load("iso87_ascii")
PAN = "4111111111111111"


@pytest.mark.parametrize(
    ("pan", "masked"),
    [
        (PAN, "41111111****1111"),
        ("6212345678901265", "62123456****1265"),
        ("6212345678901265123", "62123456*******5123"),
        ("378282246310005", "378282*****0005"),
        ("4222222222222", "422222***2222"),
        ("501234567890", "************"),
        ("12345678", "********"),
        ("", ""),
    ],
)
def test_a_pan_shows_its_bin_and_last_four(pan: str, masked: str) -> None:
    assert mask_pan(pan) == masked


@given(st.text("0123456789", max_size=28))
def test_a_masked_pan_keeps_its_length_and_hides_three_digits_at_least(pan: str) -> None:
    masked = mask_pan(pan)
    assert len(masked) == len(pan)
    assert masked.count("*") >= min(3, len(pan))


@pytest.mark.parametrize(
    ("number", "value", "shown"),
    [
        ("0", "0200", "0200"),
        ("2", PAN, "41111111****1111"),
        ("3", "000000", "000000"),
        ("4", "000000012500", "000000012500"),
        ("14", "2812", "****"),
        ("34", PAN, "***"),
        ("35", f"{PAN}=28122010000000000", "***"),
        ("36", f"{PAN}=28122010000000000", "***"),
        ("37", "632709000123", "632709000123"),
        ("39", "00", "00"),
        ("41", "TERM0001", "TERM0001"),
        ("43", "A shop", "<6 characters>"),
        ("44", PAN, "<16 characters>"),
        ("45", f"B{PAN}^DOE/J^2812", "***"),
        ("48", PAN, "<16 characters>"),
        ("52", "0412AC6789ABCDEF", "***"),
        ("53", "0000000000000001", "***"),
        ("54", "0002978C000000010000", "0002978C000000010000"),
        ("55", "5A0841111111111111118A023030", "8A023030"),
        ("55", "5F20", "<4 characters>"),
        ("55", PAN + "X", "<17 characters>"),
        ("60", "secret", "<6 characters>"),
        ("64", "CAFEBABECAFEBABE", "***"),
        ("96", "CAFEBABECAFEBABE", "***"),
        ("102", PAN, "<16 characters>"),
        ("120", "", "<0 characters>"),
        ("127", PAN, "<16 characters>"),
        ("128", "CAFEBABECAFEBABE", "***"),
        ("999", PAN, "<16 characters>"),
    ],
)
def test_each_field_is_shown_only_as_far_as_it_may_be(number: str, value: str, shown: str) -> None:
    assert mask(DIALECT, {number: value}) == {number: shown}


CARD_DATA = ("2", "14", "34", "35", "36", "43", "44", "45", "46", "47", "48", "52", "53", "55", "64", "96", "102", "103")


@pytest.mark.parametrize("number", CARD_DATA)
def test_fields_with_card_data_or_text_are_never_among_the_shown(number: str) -> None:
    assert number not in DIALECT.shown


def test_private_and_reserved_fields_are_never_among_the_shown() -> None:
    free = {str(number) for number in [*range(56, 64), *range(104, 129)]}
    assert not free & DIALECT.shown


def test_masking_leaves_the_message_alone_and_keeps_its_order() -> None:
    message = {"0": "0200", "2": PAN, "11": "000123"}
    assert list(mask(DIALECT, message)) == ["0", "2", "11"]
    assert message["2"] == PAN


@given(st.dictionaries(st.sampled_from(["0", "2", "14", "35", "48", "52", "55", "62", "103"]), st.text(max_size=40)))
def test_any_text_can_be_masked(message: dict[str, str]) -> None:
    assert mask(DIALECT, message).keys() == message.keys()
