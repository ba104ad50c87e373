"""PIN blocks of ISO 9564-1 and of SM4 (the ISO-0 block in 16 bytes), and the one thing that is done with them: translation from key to key. Pure.

The clear block lives inside `translate` and what it calls here; what comes out is encrypted, or a refusal that says nothing of it.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from switch.security.ciphers import BLOCK, ClearKey, CryptoError, decrypt, encrypt, xor
from switch.security.pan import Pan

PIN_MIN, PIN_MAX = 4, 12
BYTES: Mapping[str, int] = MappingProxyType({"iso0": 8, "iso1": 8, "iso3": 8, "iso4": 16, "sm4": 16})
WITH_PAN = ("iso0", "iso3", "iso4", "sm4")
# What may become what (ISO 9564-1, 9.3.3; PCI PIN 3-3): never from a block with the PAN to one without it. There is one PAN, so it cannot change.
PAIRS = frozenset({*((source, target) for source in (*WITH_PAN, "iso1") for target in WITH_PAN), ("iso1", "iso1")})
CONTROLS: Mapping[str, str] = MappingProxyType({"iso0": "0", "iso1": "1", "iso3": "3", "sm4": "0"})  # ISO-4 is encrypted twice, see below
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
    """ISO-4 is for AES, sm4 for SM4, the others for ciphers of 8 bytes."""
    return BLOCK[key.algorithm] == BYTES[form] and (form == "sm4") == (key.algorithm == "sm4")


def pan_field(account: str, form: str = "iso0") -> bytes:
    """The 12 digits left of the check digit, in the length of the block."""
    return bytes.fromhex(account[:-1][-12:].zfill(2 * BYTES[form]))


def clear_block(digits: str, form: str, account: str, draw: Draw) -> bytes:
    """A block before it is encrypted, of a format that is encrypted once."""
    control = CONTROLS[form]
    head = f"{control}{len(digits):X}{digits}"
    missing = 2 * BYTES[form] - len(head)
    if form in ("iso0", "sm4"):
        fill = "F" * missing
    else:
        drawn = draw(missing)
        fill = "".join(f"{10 + byte % 6 if form == 'iso3' else byte % 16:X}" for byte in drawn)
    block = bytes.fromhex(head + fill)
    return block if form == "iso1" else xor(block, pan_field(account, form))


def _digits(block: bytes, form: str, account: str) -> str | None:
    """The PIN, or None for what is no block of this format and account."""
    text = (block if form == "iso1" else xor(block, pan_field(account, form))).hex().upper()
    fills = {"iso0": "F", "iso1": "0123456789ABCDEF", "iso3": "ABCDEF", "sm4": "F"}[form]
    length = int(text[1], 16)
    digits, fill = text[2:2 + length], text[2 + length:]
    sound = text[0] == CONTROLS[form] and PIN_MIN <= length <= PIN_MAX and digits.isdecimal() and not fill.strip(fills)
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
