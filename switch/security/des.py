"""DES, in one place: whoever needs it comes through here. Keys of 8, 16 and 24 bytes; what the library gets is always 24."""

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

BLOCK = 8
_HALF = 8
Mode = modes.ModeWithNonce | modes.ModeWithTweak | modes.ECB | modes.ModeWithInitializationVector | None  # those without a tag


def _context(key: bytes, mode: modes.ECB | modes.CBC) -> "Cipher[Mode]":
    """A key of 8 bytes three times over is single DES; of 16, its first half comes again (ANSI X9.52)."""
    return Cipher(TripleDES(key * 3 if len(key) == _HALF else key if len(key) == 3 * _HALF else key + key[:_HALF]), mode)


def encrypt(key: bytes, data: bytes) -> bytes:
    """ECB."""
    return _context(key, modes.ECB()).encryptor().update(data)


def decrypt(key: bytes, data: bytes) -> bytes:
    """ECB."""
    return _context(key, modes.ECB()).decryptor().update(data)


def encrypt_chained(key: bytes, iv: bytes, data: bytes) -> bytes:
    """CBC."""
    return _context(key, modes.CBC(iv)).encryptor().update(data)


def decrypt_chained(key: bytes, iv: bytes, data: bytes) -> bytes:
    """CBC."""
    return _context(key, modes.CBC(iv)).decryptor().update(data)


def odd(key: bytes) -> bytes:
    """The key with odd parity in every byte."""
    return bytes(byte & 0xFE | (byte >> 1).bit_count() + 1 & 1 for byte in key)
