"""The keys of a device: a transport key agreed at the activation, its master key out of a TR-31 block, working keys out of others, PIN blocks.

Written from the standards and apart from the switch: what one wraps the other opens.
"""
import hmac
from typing import Any

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

USAGES = {"tmk": "K0", "pin": "P0", "mac": "M3", "track": "D0"}
HEAD = 16
# Version of a block -> bytes of a cipher's block, and how derivation names a key of 32 or 16 bytes (X9.143, 8.2).
VERSIONS = {"D": (16, b"\0\4"), "B": (8, b"\0\0")}


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


def _cipher(version: str, key: bytes) -> AES | TripleDES:
    return AES(key) if version == "D" else TripleDES((key + key)[:24])


def _cmac(version: str, key: bytes, data: bytes) -> bytes:
    made = CMAC(_cipher(version, key))
    made.update(data)
    return made.finalize()


def _derived(version: str, under: bytes, use: bytes) -> bytes:
    size, kind = VERSIONS[version]
    tail = use + b"\0" + kind + (8 * len(under)).to_bytes(2, "big")
    return b"".join(_cmac(version, under, bytes([number]) + tail) for number in range(1, len(under) // size + 1))


def unwrapped(under: bytes, block: str) -> tuple[str, bytes]:
    """Usage and key of a TR-31 block without optional blocks. Raises WrongKey."""
    version = {32: "D", 16: "B"}[len(under)]
    size = VERSIONS[version][0]
    if block[:1] != version or len(block) <= HEAD + 2 * size or len(block) != int(block[1:5]):
        raise WrongKey("no block of this version")
    head, body, code = block[:HEAD], bytes.fromhex(block[HEAD:-2 * size]), bytes.fromhex(block[-2 * size:])
    clear = Cipher(_cipher(version, _derived(version, under, b"\0\0")), modes.CBC(code)).decryptor().update(body)
    if not hmac.compare_digest(_cmac(version, _derived(version, under, b"\0\1"), head.encode() + clear), code):
        raise WrongKey("its MAC is wrong")
    return head[5:7], clear[2:2 + int.from_bytes(clear[:2], "big") // 8]


def encrypted(key: bytes, data: bytes) -> bytes:
    """TDES, ECB."""
    return Cipher(TripleDES((key + key)[:24]), modes.ECB()).encryptor().update(data)


def opened(purpose: str, under: bytes, given: dict[str, Any]) -> str:
    """The key of a block, hex: of this usage, with its check value. Raises WrongKey."""
    try:
        usage, key = unwrapped(under, given["key_block"])
    except ValueError as error:
        raise WrongKey(f"{purpose}: {error}") from None
    if usage != USAGES[purpose]:
        raise WrongKey(f"{purpose}: its block is of another usage")
    if encrypted(key, bytes(8))[:3].hex().upper() != given["kcv"]:
        raise WrongKey(f"{purpose}: its check value is another")
    return key.hex()


def pin_block(pin: str, pan: str, key: str) -> dict[str, str]:
    """ISO 9564-1 format 0, encrypted: `card.pin` but for its key's name."""
    filled, card = int(f"0{len(pin):X}{pin}".ljust(16, "F"), 16), int(f"0000{pan[-13:-1]}", 16)
    return {"block": encrypted(bytes.fromhex(key), (filled ^ card).to_bytes(8, "big")).hex().upper(), "format": "iso0"}
