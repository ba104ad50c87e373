"""PIN blocks of ISO 9564-1, and the one thing that is done with them: translation from key to key. Pure.

The clear block lives inside `translate` and what it calls here; what comes out is encrypted, or a refusal that says nothing of it.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from switch.security.ciphers import BLOCK, ClearKey, CryptoError, decrypt, encrypt, xor
from switch.security.pan import Pan

PIN_MIN, PIN_MAX = 4, 12
BYTES: Mapping[str, int] = MappingProxyType({"iso0": 8, "iso1": 8, "iso3": 8, "iso4": 16})
# What may become what (ISO 9564-1, 9.3.3; PCI PIN 3-3): never from a block with the PAN to one without it. There is one PAN, so it cannot change.
PAIRS = frozenset({
    ("iso0", "iso0"), ("iso0", "iso3"), ("iso0", "iso4"), ("iso3", "iso0"), ("iso3", "iso3"), ("iso3", "iso4"),
    ("iso4", "iso0"), ("iso4", "iso3"), ("iso4", "iso4"), ("iso1", "iso0"), ("iso1", "iso1"), ("iso1", "iso3"), ("iso1", "iso4"),
})
Draw = Callable[[int], bytes]  # so many random bytes


def translate(block: bytes, pan: Pan, source: str, under: ClearKey, target: str, to: ClearKey, draw: Draw) -> bytes:
    """The block of one format and key as a block of another, for the same card.

    Raises CryptoError: pin_pair (the two formats, or a key that is not for its format), pin_block (not a PIN block of this key, format and card).
    """
    if (source, target) not in PAIRS or not _fits(source, under) or not _fits(target, to):
        raise CryptoError("pin_pair")
    if len(block) != BYTES[source]:
        raise CryptoError("pin_block")
    account = pan.reveal()
    digits = _digits_4(block, account, under) if source == "iso4" else _digits(decrypt(under, block), source, account)
    if digits is None:
        del block, under, to
        raise CryptoError("pin_block")
    if target == "iso4":
        return _sealed_4(digits, account, to, draw)
    return encrypt(to, clear_block(digits, target, account, draw))


def _fits(form: str, key: ClearKey) -> bool:
    """ISO-4 is for ciphers of 16 bytes, the others for those of 8."""
    return BLOCK[key.algorithm] == BYTES[form] and key.algorithm != "sm4"


def pan_field(account: str) -> bytes:
    """The 12 digits left of the check digit, in 8 bytes."""
    return bytes.fromhex(account[:-1][-12:].zfill(16))


def clear_block(digits: str, form: str, account: str, draw: Draw) -> bytes:
    """A block of 8 bytes before it is encrypted."""
    control = {"iso0": "0", "iso1": "1", "iso3": "3"}[form]
    head = f"{control}{len(digits):X}{digits}"
    missing = 16 - len(head)
    if form == "iso0":
        fill = "F" * missing
    else:
        drawn = draw(missing)
        fill = "".join(f"{10 + byte % 6 if form == 'iso3' else byte % 16:X}" for byte in drawn)
    block = bytes.fromhex(head + fill)
    return block if form == "iso1" else xor(block, pan_field(account))


def _digits(block: bytes, form: str, account: str) -> str | None:
    """The PIN, or None for what is no block of this format and account."""
    text = (block if form == "iso1" else xor(block, pan_field(account))).hex().upper()
    fills = {"iso0": "F", "iso1": "0123456789ABCDEF", "iso3": "ABCDEF"}[form]
    length = int(text[1], 16)
    digits, fill = text[2:2 + length], text[2 + length:]
    sound = text[0] == {"iso0": "0", "iso1": "1", "iso3": "3"}[form] and PIN_MIN <= length <= PIN_MAX and digits.isdecimal() and not fill.strip(fills)
    return digits if sound else None


def _account_field(account: str) -> bytes:
    return bytes.fromhex(f"{max(len(account) - 12, 0)}{account.zfill(12)}".ljust(32, "0"))


def _sealed_4(digits: str, account: str, key: ClearKey, draw: Draw) -> bytes:
    clear = bytes.fromhex(f"4{len(digits):X}{digits}".ljust(16, "A")) + draw(8)
    return encrypt(key, xor(encrypt(key, clear), _account_field(account)))


def _digits_4(block: bytes, account: str, key: ClearKey) -> str | None:
    text = decrypt(key, xor(decrypt(key, block), _account_field(account))).hex().upper()[:16]
    length = int(text[1], 16)
    digits, fill = text[2:2 + length], text[2 + length:]
    return digits if text[0] == "4" and PIN_MIN <= length <= PIN_MAX and digits.isdecimal() and not fill.strip("A") else None
