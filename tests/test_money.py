"""Amounts for people, and the currencies."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.money import ALPHA_OF, AMOUNT_MAX, CURRENCIES, text


@pytest.mark.parametrize(("amount", "currency", "shown"), [
    (1050, "CNY", "10.50 CNY"), (5, "CNY", "0.05 CNY"), (0, "CNY", "0.00 CNY"), (100, "EUR", "1.00 EUR"), (-5, "USD", "-0.05 USD"),
    (1050, "JPY", "1050 JPY"), (0, "JPY", "0 JPY"), (-7, "KRW", "-7 KRW"), (1, "KWD", "0.001 KWD"), (1234567, "BHD", "1234.567 BHD"),
    (1, "CLF", "0.0001 CLF"), (AMOUNT_MAX, "CNY", "9999999999.99 CNY"), (AMOUNT_MAX, "JPY", "999999999999 JPY"), (655, "XOF", "655 XOF"),
])
def test_an_amount_is_shown_with_its_currencys_decimals(amount: int, currency: str, shown: str) -> None:
    assert text(amount, currency) == shown


@given(st.integers(-AMOUNT_MAX, AMOUNT_MAX), st.sampled_from(sorted(CURRENCIES)))
def test_no_minor_unit_is_lost_or_made(amount: int, currency: str) -> None:
    digits, shown_currency = text(amount, currency).split()
    exponent = CURRENCIES[currency][1]
    assert shown_currency == currency
    assert len(digits.partition(".")[2]) == exponent
    assert int(digits.replace(".", "")) == amount
    assert re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", digits)


# By their exponents as ISO 4217 lists them; what is not here has two.
WITHOUT = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
THREE = "BHD IQD JOD KWD LYD OMR TND"
FOUR = "CLF UYW"


def test_only_the_currencies_of_the_list_have_other_than_two_decimals() -> None:
    by_exponent = {exponent: " ".join(sorted(code for code, (_, own) in CURRENCIES.items() if own == exponent)) for exponent in (0, 3, 4)}
    assert by_exponent == {0: WITHOUT, 3: THREE, 4: FOUR}
    assert {exponent for _, exponent in CURRENCIES.values()} == {0, 2, 3, 4}


@pytest.mark.parametrize(("alpha", "numeric"), [
    ("CNY", "156"), ("USD", "840"), ("EUR", "978"), ("JPY", "392"), ("GBP", "826"), ("HKD", "344"), ("ALL", "008"), ("AUD", "036"),
    ("XAF", "950"), ("XCD", "951"), ("XOF", "952"), ("XPF", "953"), ("XCG", "532"),
])
def test_the_numeric_code_is_that_of_the_standard(alpha: str, numeric: str) -> None:
    assert CURRENCIES[alpha][0] == numeric
    assert ALPHA_OF[numeric] == alpha


def test_each_code_is_well_formed_and_stands_once() -> None:
    assert all(re.fullmatch("[A-Z]{3}", alpha) and re.fullmatch("[0-9]{3}", numeric) for alpha, (numeric, _) in CURRENCIES.items())
    assert len(ALPHA_OF) == len(CURRENCIES)


@pytest.mark.parametrize("code", ["XTS", "XAU", "XAG", "XDR", "cny", ""])
def test_what_is_no_money_is_no_currency(code: str) -> None:
    assert code not in CURRENCIES
