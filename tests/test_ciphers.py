"""Keys that cannot be shown or copied, CMAC and check values against published ones."""

import copy
import pickle

import pytest

from switch.security import des
from switch.security.ciphers import ClearKey, CryptoError, check_kcv, cmac, decrypt, decrypt_chained, encrypt, encrypt_chained, kcv

OCTETS = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
MESSAGE = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710")
AES_KEY, TDES_KEY = "2b7e151628aed2a6abf7158809cf4f3c", "8aa83bf8cbda10620bc1bf19fbb6cd58bc313d4a371ca8b5"


def test_a_key_has_no_text_form_that_tells_it() -> None:
    key = ClearKey("tdes", OCTETS)
    for text in (repr(key), str(key), f"{key}", f"{key:>40}", repr({"key": key})):
        assert OCTETS.hex() not in text.lower() and "<key tdes>" in text
    with pytest.raises(AttributeError):
        key.octets  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, pickle.dumps, lambda key: key.__getstate__()], ids=["copy", "deepcopy", "pickle", "state"])
def test_a_key_is_neither_copied_nor_pickled(take: object) -> None:
    with pytest.raises(TypeError):
        take(ClearKey("aes", OCTETS))  # type: ignore[operator]


@pytest.mark.parametrize(("algorithm", "length"), [("des", 16), ("tdes", 8), ("aes", 8), ("sm4", 24), ("tdes", 0)])
def test_a_key_of_a_length_that_its_cipher_does_not_have_is_refused_without_showing_it(algorithm: str, length: int) -> None:
    with pytest.raises(CryptoError) as caught:
        ClearKey(algorithm, b"\xabSECRET"[:length] * 3)  # type: ignore[arg-type]
    assert caught.value.code == "key_length"
    frame = caught.value.__traceback__
    while frame is not None:
        assert b"SECRET" not in repr([value for name, value in frame.tb_frame.f_locals.items() if name == "octets"]).encode()
        frame = frame.tb_next


@pytest.mark.parametrize(("algorithm", "key", "length", "expected"), [
    ("aes", AES_KEY, 0, "bb1d6929e95937287fa37d129b756746"), ("aes", AES_KEY, 16, "070a16b46b4d4144f79bdd9dd04a287c"),
    ("aes", AES_KEY, 40, "dfa66747de9ae63030ca32611497c827"), ("aes", AES_KEY, 64, "51f0bebf7e3b9d92fc49741779363cfe"),
    ("tdes", TDES_KEY, 0, "b7a688e122ffaf95"), ("tdes", TDES_KEY, 8, "8e8f293136283797"),
], ids=str)
def test_cmac_is_that_of_the_standard(algorithm: str, key: str, length: int, expected: str) -> None:
    """Examples of NIST SP 800-38B, annex D."""
    assert cmac(ClearKey(algorithm, bytes.fromhex(key)), MESSAGE[:length]).hex() == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [ClearKey("des", OCTETS[:8]), ClearKey("tdes", OCTETS), ClearKey("tdes", OCTETS + OCTETS[:8]), ClearKey("aes", OCTETS),
                                 ClearKey("sm4", OCTETS)], ids=["des", "tdes", "tdes3", "aes", "sm4"])
def test_what_is_encrypted_is_decrypted(key: ClearKey) -> None:
    for blocks in (1, 3):
        data = MESSAGE[:16 * blocks]
        assert decrypt(key, encrypt(key, data)) == data != encrypt(key, data)
        iv = MESSAGE[-16:][:16 if key.algorithm in ("aes", "sm4") else 8]
        assert decrypt_chained(key, iv, encrypt_chained(key, iv, data)) == data


def test_single_des_is_triple_des_of_one_key() -> None:
    """FIPS 81: "Now is t" under 0123456789ABCDEF."""
    assert des.encrypt(OCTETS[:8], b"Now is t").hex() == "3fa40e8a984d4815"
    assert des.encrypt(OCTETS[:8] * 2, b"Now is t") == des.encrypt(OCTETS[:8], b"Now is t")


def test_parity_makes_every_byte_odd_and_leaves_the_rest() -> None:
    made = des.odd(bytes(range(256)))
    assert all(byte.bit_count() % 2 for byte in made) and all(one >> 1 == other >> 1 for one, other in zip(made, bytes(range(256)), strict=True))


def test_a_check_value_is_compared_as_far_as_it_is_given() -> None:
    key = ClearKey("tdes", OCTETS)
    assert kcv(key) == "08D7B4"
    for right in ("08D7", "08d7b4", "08D7B4FB"):
        check_kcv(key, right)
    for wrong in ("", "08", "08D", "08D7B5", "18D7B4", "08D7B4FB629D0885FF"):
        with pytest.raises(CryptoError):
            check_kcv(key, wrong)
