"""Keys as values that cannot be printed, pickled or copied, and what block ciphers make of them. Pure."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NoReturn

from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher, CipherAlgorithm, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4

from switch.security import des
from switch.security.des import Mode

Algorithm = Literal["des", "tdes", "aes", "sm4"]
BLOCK: Mapping[str, int] = MappingProxyType({"des": 8, "tdes": 8, "aes": 16, "sm4": 16})
LENGTHS: Mapping[str, tuple[int, ...]] = MappingProxyType({"des": (8,), "tdes": (16, 24), "aes": (16, 24, 32), "sm4": (16,)})
KCV_BYTES = 3
_LAST = {8: 0x1B, 16: 0x87}  # of the field in which CMAC doubles (NIST SP 800-38B, 5.3)


class CryptoError(ValueError):
    """What an HSM refuses. `code` says what; no text of it ever holds key, PIN or card data.

    key_length, key_malformed, key_unknown, key_purpose, kcv, whole, key_block, component, pin_block, pin_pair, ksn, wrapped_broken
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def _refused(self: object, *_: object) -> NoReturn:
    raise TypeError(f"{type(self).__name__} is neither copied nor serialised")


class ClearKey:
    """A key in clear. Nothing but `reveal()` shows it, and that is called only where a cipher takes it."""

    __slots__ = ("__octets", "algorithm")

    def __init__(self, algorithm: Algorithm, octets: bytes) -> None:
        """Raises CryptoError key_length."""
        if len(octets) not in LENGTHS[algorithm]:
            del self, octets  # a traceback with locals shows this frame
            raise CryptoError("key_length")
        self.algorithm: Algorithm = algorithm
        self.__octets = octets

    def reveal(self) -> bytes:
        return self.__octets

    def __repr__(self) -> str:
        return f"<key {self.algorithm}>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    __reduce__ = __reduce_ex__ = __getstate__ = __copy__ = __deepcopy__ = _refused


def _context(key: ClearKey, mode: modes.ECB | modes.CBC) -> "Cipher[Mode]":
    family: dict[str, type[CipherAlgorithm]] = {"aes": AES, "sm4": SM4}
    algorithm: CipherAlgorithm = family[key.algorithm](key.reveal())  # type: ignore[call-arg]
    assert isinstance(algorithm, BlockCipherAlgorithm)
    return Cipher(algorithm, mode)


def encrypt(key: ClearKey, data: bytes) -> bytes:
    """ECB of whole blocks."""
    if BLOCK[key.algorithm] == des.BLOCK:
        return des.encrypt(key.reveal(), data)
    return _context(key, modes.ECB()).encryptor().update(data)


def decrypt(key: ClearKey, data: bytes) -> bytes:
    """ECB of whole blocks."""
    if BLOCK[key.algorithm] == des.BLOCK:
        return des.decrypt(key.reveal(), data)
    return _context(key, modes.ECB()).decryptor().update(data)


def encrypt_chained(key: ClearKey, iv: bytes, data: bytes) -> bytes:
    """CBC of whole blocks."""
    if BLOCK[key.algorithm] == des.BLOCK:
        return des.encrypt_chained(key.reveal(), iv, data)
    return _context(key, modes.CBC(iv)).encryptor().update(data)


def decrypt_chained(key: ClearKey, iv: bytes, data: bytes) -> bytes:
    """CBC of whole blocks."""
    if BLOCK[key.algorithm] == des.BLOCK:
        return des.decrypt_chained(key.reveal(), iv, data)
    return _context(key, modes.CBC(iv)).decryptor().update(data)


def xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(len(one), "big")


def cmac(key: ClearKey, data: bytes) -> bytes:
    """CMAC, a whole block (NIST SP 800-38B)."""
    size = BLOCK[key.algorithm]
    once = _doubled(encrypt(key, bytes(size)), size)
    head, last = data[:(len(data) - 1) // size * size] if data else b"", data[(len(data) - 1) // size * size:] if data else b""
    last = xor(last, once) if len(last) == size else xor((last + b"\x80").ljust(size, b"\0"), _doubled(once, size))
    return encrypt_chained(key, bytes(size), head + last)[-size:]


def _doubled(block: bytes, size: int) -> bytes:
    value = int.from_bytes(block, "big") << 1
    if value >> 8 * size:
        value = value & (1 << 8 * size) - 1 ^ _LAST[size]
    return value.to_bytes(size, "big")


def kcv(key: ClearKey) -> str:
    """The check value, 6 hex characters: of a zero block under DES and SM4 (as terminals and hosts show it), CMAC of one under AES (X9.24-1)."""
    zeros = bytes(BLOCK[key.algorithm])
    return (cmac(key, zeros) if key.algorithm == "aes" else encrypt(key, zeros))[:KCV_BYTES].hex().upper()


def check_kcv(key: ClearKey, expected: str) -> None:
    """`expected`: 4 to 16 hex characters, as many as the sender gives. Raises CryptoError kcv."""
    zeros = bytes(BLOCK[key.algorithm])
    whole = cmac(key, zeros) if key.algorithm == "aes" else encrypt(key, zeros)
    right = 4 <= len(expected) <= 2 * len(whole) and whole.hex().upper().startswith(expected.upper())
    if not right:
        raise CryptoError("kcv")
