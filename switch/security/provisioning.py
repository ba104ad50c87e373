"""How a terminal gets its keys: a transport key agreed with it, its master key in a TR-31 block under that, working keys in blocks under the master
key. ECDH over P-256 (NIST SP 800-56A) with HKDF-SHA256 (RFC 5869); blocks of X9.143."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from switch.security import des, keyblocks
from switch.security.ciphers import ClearKey, CryptoError
from switch.security.keyblocks import Header

LABEL = b"terminal transport key"
TRANSPORT_BYTES, KEY_BYTES = 32, 16
POINT_BYTES = 65  # 04, x, y
# Purpose -> usage and mode of its TR-31 block: a PIN and a track key encrypt and decrypt, a MAC key (ISO 9797-1, algorithm 3) makes and checks.
WORKING: Mapping[str, tuple[str, str]] = MappingProxyType({"pin": ("P0", "B"), "mac": ("M3", "C"), "track": ("D0", "B")})
MASTER = ("K0", "B")


def agreed(peer: bytes, bound: bytes) -> tuple[ClearKey, bytes]:
    """The transport key, and our public point for the terminal to make the same: HKDF over the shared x, its info LABEL | bound | theirs | ours.

    `peer`: the terminal's point, uncompressed; `bound`: what both know besides. Raises CryptoError key_malformed: no point of the curve.
    """
    try:
        other = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), peer)
    except ValueError:
        raise CryptoError("key_malformed") from None
    mine = ec.generate_private_key(ec.SECP256R1())
    ours = mine.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    derive = HKDF(SHA256(), TRANSPORT_BYTES, None, b"|".join((LABEL, bound, peer, ours)))
    return ClearKey("aes", derive.derive(mine.exchange(ec.ECDH(), other))), ours


def made(draw: Callable[[int], bytes]) -> ClearKey:
    """A TDES key of double length, with odd parity."""
    return ClearKey("tdes", des.odd(draw(KEY_BYTES)))


def block(key: ClearKey, usage: tuple[str, str], under: ClearKey, draw: Callable[[int], bytes]) -> str:
    """Version D under AES, B under TDES; never exported again."""
    return keyblocks.wrap(Header({"aes": "D"}.get(under.algorithm, "B"), usage[0], "T", usage[1]), key, under, draw)
