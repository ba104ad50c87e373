"""The part of a track that UnionPay terminals encrypt: 8 bytes of BCD, ending one byte before its end. Pure."""

from switch.security.ciphers import ClearKey, encrypt

TDB_BYTES = 8


def block(track: str) -> str:
    """The 16 digits that are encrypted, of a track as it goes on the wire ('=' is D). Raises ValueError: shorter than 18 digits."""
    digits = _wired(track)
    if len(digits) < 2 * TDB_BYTES + 2:
        raise ValueError("track too short")
    return digits[-2 * TDB_BYTES - 2:-2]


def encrypted(key: ClearKey, track: str) -> str:
    """The track with that part under the key, hex characters in its place; as many characters as before."""
    digits = _wired(track)
    part = encrypt(key, bytes.fromhex(block(track))).hex().upper()
    return (digits[:-2 * TDB_BYTES - 2] + part + digits[-2:])[:len(track)]


def _wired(track: str) -> str:
    digits = track.replace("=", "D")
    return digits + "0" if len(digits) % 2 else digits
