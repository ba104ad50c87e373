"""Derived unique keys per transaction: TDES (X9.24-1:2009) and AES (X9.24-3:2017), the host's side. Pure."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from switch.security.ciphers import ClearKey, CryptoError, encrypt, xor

Use = Literal["pin", "mac_request", "mac_response"]
KSN_BYTES, AES_KSN_BYTES = 10, 12
COUNTER_BITS = 21
_VARIANT = bytes.fromhex("C0C0C0C000000000")
# What is laid over the transaction's key, for its use (X9.24-1:2009, A.1).
_USES: Mapping[str, int] = MappingProxyType({"pin": 0xFF, "mac_request": 0xFF00, "mac_response": 0xFF000000})
_AES_USES: Mapping[str, int] = MappingProxyType({"pin": 0x1000, "mac_request": 0x2000, "mac_response": 0x2001})
_AES_KINDS: Mapping[int, int] = MappingProxyType({16: 2, 24: 3, 32: 4})  # bytes of a key -> its algorithm indicator
_INITIAL, _DERIVATION = 0x8001, 0x8000
ONES_MAX = 16  # set bits of an AES counter


def ksn(text: str) -> bytes:
    """The serial number, 10 bytes (TDES) or 12 (AES); the shorter forms of TDES are filled with F. Raises CryptoError ksn."""
    try:
        octets = bytes.fromhex(text)
    except ValueError:
        raise CryptoError("ksn") from None
    if len(octets) <= KSN_BYTES:
        octets = octets.rjust(KSN_BYTES, b"\xff")
    if len(octets) not in (KSN_BYTES, AES_KSN_BYTES):
        raise CryptoError("ksn")
    return octets


def key_set(serial: bytes) -> str:
    """Which base key a serial number asks for: its first 5 bytes (TDES), its first 4 (AES); hex."""
    return serial[:4 if len(serial) == AES_KSN_BYTES else 5].hex().upper()


def derived(base: ClearKey, serial: bytes, use: Use) -> ClearKey:
    """The key of one transaction for one use. Raises CryptoError: ksn (not of the base key's kind, or its counter cannot be)."""
    if base.algorithm == "aes" and len(serial) == AES_KSN_BYTES:
        return _aes(base, serial, use)
    if base.algorithm == "tdes" and len(base.reveal()) == 16 and len(serial) == KSN_BYTES:
        variant = _USES[use].to_bytes(8, "big")
        return ClearKey("tdes", xor(transaction_key(base, serial), variant + variant))
    raise CryptoError("ksn")


def transaction_key(base: ClearKey, serial: bytes) -> bytes:
    """Of TDES, before it is made for a use: the initial key moved on by each bit of the counter, the highest first (A.3)."""
    register = int.from_bytes(serial, "big")
    counter = register & (1 << COUNTER_BITS) - 1
    register -= counter
    key = _initial(base.reveal(), register.to_bytes(KSN_BYTES, "big")[:8])
    for bit in reversed(range(COUNTER_BITS)):
        if counter >> bit & 1:
            register |= 1 << bit
            key = _moved_on(key, (register & (1 << 64) - 1).to_bytes(8, "big"))
    return key


def _initial(base: bytes, register: bytes) -> bytes:
    return b"".join(encrypt(ClearKey("tdes", each), register) for each in (base, xor(base, _VARIANT + _VARIANT)))


def _moved_on(key: bytes, register: bytes) -> bytes:
    """The non-reversible step: single DES between two halves, once plain for the right half and once under the variant for the left."""
    halves = []
    for each in (xor(key, _VARIANT + _VARIANT), key):
        left, right = each[:8], each[8:]
        halves.append(xor(encrypt(ClearKey("des", left), xor(register, right)), right))
    return b"".join(halves)


def _aes(base: ClearKey, serial: bytes, use: Use) -> ClearKey:
    counter = int.from_bytes(serial[8:], "big")
    if counter.bit_count() > ONES_MAX or not counter:
        raise CryptoError("ksn")
    size = len(base.reveal())
    key, said = _block(base, _INITIAL, size, serial[:8]), 0
    for bit in reversed(range(32)):
        if counter >> bit & 1:
            said |= 1 << bit
            key = _block(key, _DERIVATION, size, serial[4:8] + said.to_bytes(4, "big"))
    return _block(key, _AES_USES[use], size, serial[4:])


def _block(key: ClearKey, use: int, size: int, context: bytes) -> ClearKey:
    """Derivation data (6.2): version, number of the block, use, algorithm, bits, context."""
    head = use.to_bytes(2, "big") + _AES_KINDS[size].to_bytes(2, "big") + (8 * size).to_bytes(2, "big") + context
    return ClearKey("aes", b"".join(encrypt(key, bytes([1, number]) + head) for number in range(1, -(-size // 16) + 1))[:size])
