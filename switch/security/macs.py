"""Message authentication codes of 8 bytes: ISO/IEC 9797-1, CMAC, and what UnionPay terminals do. Pure."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from messages.grammar import MAC_BYTES
from switch.security.ciphers import BLOCK, ClearKey, CryptoError, cmac, decrypt, encrypt, encrypt_chained, xor


def padded(data: bytes, size: int, method: int = 1) -> bytes:
    """ISO/IEC 9797-1, 6.3: zeros to whole blocks (1), or a bit of one and then zeros (2)."""
    whole = data + b"\x80" if method == 2 else data
    return whole.ljust(max(size, -(-len(whole) // size) * size), b"\0")


def iso9797_1(key: ClearKey, data: bytes, method: int = 1) -> bytes:
    """Algorithm 1: the last block of CBC, its left 8 bytes."""
    size = BLOCK[key.algorithm]
    return encrypt_chained(key, bytes(size), padded(data, size, method))[-size:][:MAC_BYTES]


def iso9797_3(key: ClearKey, data: bytes, method: int = 1) -> bytes:
    """Algorithm 3, the retail MAC of X9.19: CBC in single DES under the left half, the last block once more through the whole key."""
    octets = key.reveal()
    if key.algorithm != "tdes" or len(octets) != 16:
        raise CryptoError("key_length")
    left, right = ClearKey("des", octets[:8]), ClearKey("des", octets[8:])
    return encrypt(left, decrypt(right, iso9797_1(left, data, method)))


def folded(data: bytes, size: int) -> bytes:
    """All blocks, the last one filled with zeros, one over the other."""
    block = bytes(size)
    whole = padded(data, size)
    for at in range(0, len(whole), size):
        block = xor(block, whole[at:at + size])
    return block


def unionpay_ecb(key: ClearKey, data: bytes) -> bytes:
    """UnionPay POS: the fold written in hex, its halves chained, and of the result in hex the first 8 characters as they are. Under SM4 the same
    in blocks of 16."""
    size = BLOCK[key.algorithm]
    text = folded(data, size).hex().upper().encode()
    return encrypt(key, xor(encrypt(key, text[:size]), text[size:])).hex().upper()[:MAC_BYTES].encode()


def xor_fold(key: ClearKey, data: bytes) -> bytes:
    """The fold, enciphered once: the left 8 bytes."""
    return encrypt(key, folded(data, BLOCK[key.algorithm]))[:MAC_BYTES]


# The names that a dialect's rule may have (messages/grammar.py lists the same).
MACS: Mapping[str, Callable[[ClearKey, bytes], bytes]] = MappingProxyType({
    "iso9797_1": iso9797_1, "iso9797_3": iso9797_3, "cmac": lambda key, data: cmac(key, data)[:MAC_BYTES], "unionpay_ecb": unionpay_ecb,
    "xor_fold": xor_fold,
})
