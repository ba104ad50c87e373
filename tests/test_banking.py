"""Bank accounts: what is one, and that their numbers are sealed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.security.vault import Keyring, Vault, VaultError
from switch.settlement.payouts.banking import BankAccount, fault, iban_valid, padded, unpadded

# Examples of the IBAN registry (ISO 13616).
VALID = ("DE89370400440532013000", "GB82WEST12345698765432", "NO9386011117947", "MT84MALT011000012345MTLCAST001S", "FR1420041010050500013M02606",
         "SA0380000000608010167519", "BE68539007547034")


@pytest.mark.parametrize("iban", VALID)
def test_an_iban_is_one(iban: str) -> None:
    assert iban_valid(iban)


@given(st.sampled_from(VALID), st.data())
def test_no_single_character_may_change_and_no_two_neighbours_be_exchanged(iban: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(4, len(iban) - 1))
    other = data.draw(st.sampled_from("0123456789").filter(lambda sign: sign != iban[at]))
    assert not iban[at].isdigit() or not iban_valid(iban[:at] + other + iban[at + 1:])
    if at + 1 < len(iban) and iban[at] != iban[at + 1] and (iban[at] + iban[at + 1]).isdigit():
        assert not iban_valid(iban[:at] + iban[at + 1] + iban[at] + iban[at + 2:])


@pytest.mark.parametrize("iban", ["", "DE8937040044053201300", "de89370400440532013000", "DE89 3704 0044 0532 0130 00", "DE89370400440532013001", "XX00", "D" * 40])
def test_what_is_no_iban_is_none(iban: str) -> None:
    assert not iban_valid(iban)


GOOD = {"holder": "Harbour Bakery", "number": VALID[0], "iban": True, "bank_code": None, "bic": None, "country": "DE"}


@pytest.mark.parametrize(("changed", "field"), [
    ({}, None), ({"bic": "COBADEFFXXX"}, None), ({"number": "6222-0012", "iban": False, "bank_code": "102100099996", "country": "CN"}, None),
    ({"holder": "=cmd()"}, "holder"), ({"holder": "a\nb"}, "holder"), ({"holder": "a" * 71}, "holder"), ({"holder": "a "}, "holder"), ({"country": "de"}, "country"),
    ({"bic": "COBADEFF1"}, "bic"), ({"number": "DE00"}, "iban"), ({"iban": False, "number": "-12"}, "account_number"),
    ({"iban": False, "number": "6212345678900000003", "bank_code": "102100099996", "country": "CN"}, None),
    ({"iban": False, "number": "6212345678900000004", "bank_code": "102100099996", "country": "CN"}, "account_number"),  # its check digit is 3
    ({"iban": False, "number": "12345"}, "bank_code"), ({"iban": False, "number": "12345", "bank_code": "=1"}, "bank_code"),
])
def test_an_account_is_checked_field_by_field(changed: dict[str, object], field: str | None) -> None:
    found = fault(BankAccount(**{**GOOD, **changed}))  # type: ignore[arg-type]
    assert (found and found[0]) == field
    assert VALID[0] not in repr(BankAccount(**GOOD))  # type: ignore[arg-type]


def test_a_number_is_readable_only_for_its_row_purpose_and_key() -> None:
    vault = Vault(Keyring("k1", "t1", {"k1": bytes(range(32)), "t1": bytes(32)}))
    key_id, blob = vault.seal_row("bank_account", padded(VALID[0]), b"row")
    assert VALID[0].encode() not in blob and len(blob) == len(vault.seal_row("bank_account", padded("12345"), b"row")[1])
    assert unpadded(vault.open_row("bank_account", key_id, blob, b"row")) == VALID[0]
    for purpose, row, key, sealed in (("bank_account", b"other", key_id, blob), ("payout_file", b"row", key_id, blob), ("bank_account", b"row", "t1", blob),
                                      ("bank_account", b"row", "k9", blob), ("bank_account", b"row", key_id, blob[:-1]), ("bank_account", b"row", key_id, b"")):
        with pytest.raises(VaultError):
            vault.open_row(purpose, key, sealed, row)  # type: ignore[arg-type]
