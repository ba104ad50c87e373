"""The host's keys: working keys under a terminal master key, MACs of UnionPay messages, PIN blocks. Its own code, so that no mistake is mirrored.

A sign-in gets new keys in DE62: PIN key and its check value, MAC key and its check value (16 + 4 bytes each). The keys before them are accepted for
the grace. The simulated issuer knows one PIN.
"""
import secrets
import time

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from acquirer_stubs.codec import Message

HEADER_BYTES = 11
MACED = "124"          # second digits of the MTIs that carry DE64
PIN = "1234"
MAC_ERROR, PIN_ERROR, WRONG_PIN = "A0", "99", "55"


def _cipher(key: bytes) -> "Cipher[modes.ECB]":
    return Cipher(TripleDES((key + key[:8])[:24]), modes.ECB())


def encrypted(key: bytes, data: bytes) -> bytes:
    return _cipher(key).encryptor().update(data)


def decrypted(key: bytes, data: bytes) -> bytes:
    return _cipher(key).decryptor().update(data)


def _over(left: bytes, right: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(left, right, strict=True))


def mac(key: bytes, data: bytes) -> bytes:
    """UnionPay ECB: eight characters of hex."""
    block = bytes(8)
    for at in range(0, len(data), 8):
        block = _over(block, data[at:at + 8].ljust(8, b"\0"))
    text = block.hex().upper().encode()
    first = encrypted(key, text[:8])
    return encrypted(key, _over(first, text[8:])).hex().upper()[:8].encode()


class Keys:
    """`grace`: seconds in which keys that were replaced are still good."""

    def __init__(self, master: bytes, grace: float = 60.0) -> None:
        self.master, self.grace = master, grace
        self.pin = self.mac = b""
        self.former: list[tuple[float, bytes, bytes]] = []   # until when, PIN key, MAC key

    def issue(self, how: str = "") -> str:
        """New keys as DE62. `how`: kcv (a wrong check value), none (nothing is said of them)."""
        if self.mac:
            self.former = [*self.former, (time.monotonic() + self.grace, self.pin, self.mac)][-4:]
        self.pin, self.mac = secrets.token_bytes(16), secrets.token_bytes(16)
        said = b""
        for key in (self.pin, self.mac):
            value = encrypted(key, bytes(8))[:4]
            said += encrypted(self.master, key) + (_over(value, b"\1\0\0\0") if how == "kcv" else value)
        return said.hex().upper() if how != "none" else ""

    def forget(self) -> None:
        """As a host that was set up anew: nothing that was made with the old keys is good."""
        self.issue()
        self.former = []

    def fault(self, wire: Message, body: bytes) -> str:
        """DE39 of a message that is refused unprocessed: its MAC or its PIN block is wrong. Empty: it is sound."""
        good = [(self.pin, self.mac), *((pin, key) for until, pin, key in self.former if until > time.monotonic())]
        if wire[0][1] not in MACED:
            return ""
        pin_keys = [pin for pin, key in good if key and 64 in wire and mac(key, body[HEADER_BYTES:-8]) == bytes.fromhex(wire[64])]
        if not pin_keys:
            return MAC_ERROR
        if 52 not in wire:
            return ""
        found = [_pin(decrypted(pin, bytes.fromhex(wire[52])), wire) for pin, _ in good if pin]
        return "" if PIN in found else WRONG_PIN if any(found) else PIN_ERROR

    def sealed(self, body: bytes, how: str = "") -> bytes:
        """An answer with its DE64. `how`: wrong, missing, or former (under the key before)."""
        if how == "missing" or body[HEADER_BYTES:HEADER_BYTES + 2].hex()[1] not in MACED:
            return body
        at = HEADER_BYTES + 2 + 7       # the last byte of the bitmap
        data = body[:at] + bytes([body[at] | 1]) + body[at + 1:]
        key = self.former[-1][2] if how == "former" else self.mac
        code = mac(key, data[HEADER_BYTES:]) if key else bytes(8)
        return data + (code if how != "wrong" else code[1:] + b"!")


def _pin(block: bytes, wire: Message) -> str:
    """The PIN in an ISO-0 block of this card; empty when it is none."""
    number = wire.get(2) or wire.get(35, "").replace("D", "=").partition("=")[0]
    text = _over(block, bytes.fromhex(number[:-1][-12:].rjust(16, "0"))).hex().upper()
    length = int(text[1], 16)
    digits, rest = text[2:2 + length], text[2 + length:]
    return digits if text[0] == "0" and digits.isdigit() and 4 <= length <= 12 and set(rest) <= {"F"} else ""
