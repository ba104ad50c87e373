"""DUKPT: AES keys against those of X9.24-3, serial numbers that are none; TDES is in test_crypto_vectors.py."""

import pytest

from switch.security import dukpt
from switch.security.ciphers import ClearKey, CryptoError

BASE = ClearKey("aes", bytes.fromhex("FEDCBA9876543210F1F1F1F1F1F1F1F1"))
TDES = ClearKey("tdes", bytes.fromhex("0123456789ABCDEFFEDCBA9876543210"))


@pytest.mark.parametrize(("serial", "use", "expected"), [
    ("123456789012345600000001", "pin", "AF8CB133A78F8DC2D1359F18527593FB"),
    ("123456789012345600000001", "mac_request", "A2DC23DE6FDE0824A2BC321E08E4B8B7"),
    ("123456789012345600000002", "pin", "D30BDC73EC9714B000BEC66BDB7B6D09"),
])
def test_the_keys_of_the_standard_come_out(serial: str, use: dukpt.Use, expected: str) -> None:
    """X9.24-3:2017, the published test vectors."""
    assert dukpt.derived(BASE, dukpt.ksn(serial), use).reveal().hex().upper() == expected


def test_each_counter_and_each_use_has_its_own_key() -> None:
    uses: tuple[dukpt.Use, ...] = ("pin", "mac_request", "mac_response")
    for base, start, width in ((BASE, "1234567890123456", 8), (TDES, "FFFF98765432", 8)):
        keys = {dukpt.derived(base, dukpt.ksn(f"{start}{(0xE00000 if base is TDES else 0) + counter:0{width}X}"[:24 if base is BASE else 20]), use).reveal()
                for counter in range(1, 20) for use in uses}
        assert len(keys) == 57


@pytest.mark.parametrize("text", ["", "0", "XY", "00" * 11, "00" * 13])
def test_what_is_no_serial_number_is_refused(text: str) -> None:
    if text == "":
        assert dukpt.ksn(text) == b"\xff" * 10
        return
    with pytest.raises(CryptoError) as caught:
        dukpt.ksn(text)
    assert caught.value.code == "ksn"


@pytest.mark.parametrize(("base", "serial"), [(TDES, "123456789012345600000001"), (BASE, "FFFF9876543210E00001"), (BASE, "123456789012345600000000"),
                                              (BASE, "12345678901234560001FFFF"), (ClearKey("tdes", bytes(24)), "FFFF9876543210E00001")])
def test_a_serial_number_of_another_kind_of_key_or_without_a_counter_is_refused(base: ClearKey, serial: str) -> None:
    with pytest.raises(CryptoError) as caught:
        dukpt.derived(base, dukpt.ksn(serial), "pin")
    assert caught.value.code == "ksn"


def test_the_key_set_is_the_start_of_the_serial_number() -> None:
    assert dukpt.key_set(dukpt.ksn("FFFF9876543210E00001")) == "FFFF987654"
    assert dukpt.key_set(dukpt.ksn("9876543210E00001")) == "FFFF987654"
    assert dukpt.key_set(dukpt.ksn("123456789012345600000001")) == "12345678"
