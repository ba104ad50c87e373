"""Key blocks of TR-31 (X9.143): versions B (TDES) and D (AES), which derive their keys. A and C, which the standard withdrew, are refused. Pure."""

import hmac
import re
from collections.abc import Callable
from typing import NamedTuple

from switch.security.ciphers import BLOCK, Algorithm, ClearKey, CryptoError, cmac, decrypt_chained, encrypt_chained

HEAD = re.compile(r"(?P<version>[BD])(?P<length>[0-9]{4})(?P<usage>[A-Z0-9]{2})(?P<algorithm>[A-Z])(?P<mode>[A-Z])(?P<key_version>[0-9A-Za-z]{2})"
                  r"(?P<exportability>[ENS])(?P<blocks>[0-9]{2})00", re.ASCII)
HEAD_LENGTH = 16
LENGTH_MAX = 1024
ALGORITHMS: dict[str, Algorithm] = {"T": "tdes", "A": "aes", "D": "des"}
# bytes of the protecting key -> its indicator in derivation data
_TDES, _AES = {16: 0, 24: 1}, {16: 2, 24: 3, 32: 4}
_ENCRYPTION, _AUTHENTICATION = 0, 1


class Header(NamedTuple):
    """`version` B or D; `usage` such as P0; `algorithm` T, A or D; `mode` such as N; `exportability` E, N or S."""

    version: str
    usage: str
    algorithm: str
    mode: str
    key_version: str = "00"
    exportability: str = "N"


class Opened(NamedTuple):
    header: Header
    key: ClearKey


def wrap(header: Header, key: ClearKey, under: ClearKey, draw: Callable[[int], bytes]) -> str:
    """The key block. `draw`: so many random bytes. Raises CryptoError key_block: a version that is not for `under`."""
    if header.version != _version(under):
        raise CryptoError("key_block")
    size, octets = BLOCK[under.algorithm], key.reveal()
    clear = (8 * len(octets)).to_bytes(2, "big") + octets
    clear += draw(-len(clear) % size)
    length = HEAD_LENGTH + 2 * len(clear) + 2 * size
    head = f"{header.version}{length:04d}{header.usage}{header.algorithm}{header.mode}{header.key_version}{header.exportability}0000"
    code = cmac(_derived(under, _AUTHENTICATION), head.encode() + clear)
    return head + encrypt_chained(_derived(under, _ENCRYPTION), code, clear).hex().upper() + code.hex().upper()


def unwrap(text: str, under: ClearKey) -> Opened:
    """The key in a block. Raises CryptoError key_block for whatever is not exactly a block of this protecting key."""
    try:
        return _opened(text, under)
    except (ValueError, LookupError):  # CryptoError too: one refusal, whatever was wrong
        raise CryptoError("key_block") from None


def _opened(text: str, under: ClearKey) -> Opened:
    found = HEAD.match(text)
    size = BLOCK[under.algorithm]
    if found is None or found["version"] != _version(under) or not HEAD_LENGTH < len(text) == int(found["length"]) <= LENGTH_MAX:
        raise CryptoError("key_block")
    start = _after_blocks(text, int(found["blocks"]))
    body, code = bytes.fromhex(text[start:-2 * size]), bytes.fromhex(text[-2 * size:])
    if text[start:] != text[start:].upper() or len(code) != size or not body or len(body) % size:
        raise CryptoError("key_block")
    clear = decrypt_chained(_derived(under, _ENCRYPTION), code, body)
    if not hmac.compare_digest(cmac(_derived(under, _AUTHENTICATION), text[:start].encode("ascii") + clear), code):
        raise CryptoError("key_block")
    bits = int.from_bytes(clear[:2], "big")
    if bits % 8 or 2 + bits // 8 > len(clear):
        raise CryptoError("key_block")
    header = Header(*(found[name] for name in ("version", "usage", "algorithm", "mode", "key_version", "exportability")))
    return Opened(header, ClearKey(ALGORITHMS[header.algorithm], clear[2:2 + bits // 8]))


def _after_blocks(text: str, count: int) -> int:
    """Where the optional blocks end: two characters of identity, two of length (or 00, then how many hex digits and those), content."""
    at = HEAD_LENGTH
    for _ in range(count):
        length = int(text[at + 2:at + 4], 16)
        if not length:
            digits = int(text[at + 4:at + 6], 16)
            length = int(text[at + 6:at + 6 + digits], 16)
        if length < 4 or at + length > len(text):
            raise CryptoError("key_block")
        at += length
    return at


def _version(under: ClearKey) -> str:
    return {"tdes": "B", "aes": "D"}.get(under.algorithm, "")


def _derived(under: ClearKey, use: int) -> ClearKey:
    """CMAC over: number of the block, use, 00, algorithm, bits (X9.143, 8.2)."""
    size = len(under.reveal())
    kind = (_TDES if under.algorithm == "tdes" else _AES)[size]
    tail = use.to_bytes(2, "big") + b"\0" + kind.to_bytes(2, "big") + (8 * size).to_bytes(2, "big")
    count = -(-size // BLOCK[under.algorithm])
    return ClearKey(under.algorithm, b"".join(cmac(under, bytes([number]) + tail) for number in range(1, count + 1))[:size])
