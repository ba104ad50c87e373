"""The keys of a device: a transport key agreed at the activation, its master key out of a TR-31 block, working keys out of others, PIN blocks.

By psec and `cryptography` alone, so that the switch's own blocks and check values are held against somebody else's.
"""
import warnings
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from psec import des, pinblock, tr31

# Of where psec takes DES from: nothing that a test can do anything about.
warnings.filterwarnings("ignore", "TripleDES has been moved|(Single|Two)-key TripleDES", module="psec")

USAGES = {"tmk": "K0", "pin": "P0", "mac": "M3", "track": "D0"}


class WrongKey(ValueError):
    """A key that is not what the answer says it is: nothing of it is kept."""


class Transport:
    """One activation's half of the agreement; forgotten with it."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        self.point = self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def master(self, serial_number: str, answer: dict[str, Any]) -> str:
        """The master key, hex. Raises WrongKey."""
        theirs = bytes.fromhex(answer["public_key"])
        shared = self._private.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), theirs))
        info = b"|".join((b"terminal transport key", serial_number.encode(), self.point, theirs))
        return opened("tmk", HKDF(SHA256(), 32, None, info).derive(shared), answer)


def opened(purpose: str, under: bytes, given: dict[str, Any]) -> str:
    """The key of a block, hex: of this usage, with its check value. Raises WrongKey."""
    try:
        header, key = tr31.unwrap(under, given["key_block"])
    except (tr31.KeyBlockError, tr31.HeaderError) as error:
        raise WrongKey(f"{purpose}: {error}") from None
    if header.key_usage != USAGES[purpose]:
        raise WrongKey(f"{purpose}: its block is of another usage")
    if des.generate_kcv(key, 3).hex().upper() != given["kcv"]:
        raise WrongKey(f"{purpose}: its check value is another")
    return key.hex()


def pin_block(pin: str, pan: str, key: str) -> dict[str, str]:
    """ISO 9564-1 format 3, encrypted: `card.pin` but for its key's name."""
    clear = pinblock.encode_pinblock_iso_3(pin, pan)
    return {"block": des.encrypt_tdes_ecb(bytes.fromhex(key), clear).hex().upper(), "format": "iso3"}
