"""MACs beside the published ones (test_crypto_vectors.py): padding, lengths, and that a dialect can name each and no other."""

import re
from pathlib import Path

import pytest

from messages.grammar import MAC_ALGORITHMS
from switch.security.ciphers import ClearKey, CryptoError, encrypt
from switch.security.macs import MACS, folded, iso9797_3, padded, unionpay_ecb

KEYS = {"des": ClearKey("des", bytes(range(8))), "tdes": ClearKey("tdes", bytes(range(16))), "aes": ClearKey("aes", bytes(range(16))),
        "sm4": ClearKey("sm4", bytes(range(16)))}


def test_a_dialect_may_name_exactly_the_macs_that_there_are() -> None:
    assert set(MACS) == set(MAC_ALGORITHMS)


def test_who_writes_a_host_reads_how_each_is_made_and_an_example_that_holds() -> None:
    text = Path("docs/keys.md").read_text()
    told = text.partition("\n## MACs\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", told, re.MULTILINE)) == set(MACS)
    example = re.search(r"DES key `(\w+)` over the bytes `(\w+)` gives the characters `(\w+)`, which are DE64 `(\w+)`", told)
    assert example
    key, data, characters, field = example.groups()
    assert unionpay_ecb(ClearKey("des", bytes.fromhex(key)), bytes.fromhex(data)) == characters.encode() == bytes.fromhex(field)


@pytest.mark.parametrize("name", sorted(MACS))
@pytest.mark.parametrize("algorithm", sorted(KEYS))
def test_a_mac_has_8_bytes_and_depends_on_key_and_data(name: str, algorithm: str) -> None:
    if name == "iso9797_3" and algorithm != "tdes":
        with pytest.raises(CryptoError):
            MACS[name](KEYS[algorithm], b"data")
        return
    made = {MACS[name](KEYS[algorithm], data) for data in (b"data", b"Data", b"data" * 20, b"data" * 20 + b"!")}
    made.add(MACS[name](ClearKey(algorithm, bytes(range(1, 1 + len(KEYS[algorithm].reveal())))), b"data"))  # type: ignore[arg-type]
    assert len(made) == 5 and {len(mac) for mac in made} == {8}


@pytest.mark.parametrize(("data", "method", "expected"), [(b"", 1, bytes(8)), (b"12345678", 1, b"12345678"), (b"123456789", 1, b"123456789".ljust(16, b"\0")),
                                                          (b"", 2, b"\x80".ljust(8, b"\0")), (b"12345678", 2, b"12345678\x80".ljust(16, b"\0"))])
def test_padding_is_that_of_iso_9797(data: bytes, method: int, expected: bytes) -> None:
    assert padded(data, 8, method) == expected


def test_the_fold_of_unionpay_is_hex_of_all_blocks_laid_over_each_other() -> None:
    assert folded(bytes.fromhex("1234567890ABCDEFABCDEF1234567890"), 8).hex().upper() == "B9F9B96AA4FDB57F"
    assert folded(b"", 8) == bytes(8) and folded(b"\xff" * 9, 8) == b"\0" + b"\xff" * 7


def test_the_mac_of_unionpay_is_text_under_every_cipher() -> None:
    for key in KEYS.values():
        assert bytes.fromhex(unionpay_ecb(key, b"message").decode())


def test_a_retail_mac_of_one_block_is_triple_des() -> None:
    assert iso9797_3(KEYS["tdes"], b"12345678") == encrypt(KEYS["tdes"], b"12345678")


def test_the_left_4_bytes_are_those_of_ansi_x9_9() -> None:
    """The example of FIPS PUB 113: a DAC of 32 bits, which is what X9.9 and AS 2805.4 say of a MAC."""
    made = MACS["iso9797_1"](ClearKey("des", bytes.fromhex("0123456789ABCDEF")), b"7654321 Now is the time for ")
    assert made[:4].hex().upper() == "F1D30F68"
