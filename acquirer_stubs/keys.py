"""The host's keys: working keys under a terminal master key, MACs, PIN blocks. Its own code, so that no mistake is mirrored.

A sign-in gets new keys in DE62 (DE96 in 1993): PIN key, MAC key, in some layouts a track key, each with its check value. The keys before them are
accepted for the grace. Keys that the host sends unasked are in force for what it receives at once, for what it sends when they are acknowledged.
The simulated issuer knows one PIN.
"""
import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from acquirer_stubs.codec import Message

MACED = "124"          # second digits of the MTIs that carry a MAC
PIN = "1234"
MAC_ERROR, PIN_ERROR, WRONG_PIN = "A0", "99", "55"
# (bytes of the key, bytes in its place, bytes of its check value) of PIN, MAC and track key, by the length of all; 40s: a single MAC key, filled up
LAYOUTS = {"24": ((8, 8, 4),) * 2, "40": ((16, 16, 4),) * 2, "40s": ((16, 16, 4), (8, 16, 4)), "56": ((16, 16, 4), (16, 16, 4), (16, 16, 0)),
           "57": ((16, 16, 3),) * 3, "60": ((16, 16, 4),) * 3}


def _cipher(key: bytes) -> "Cipher[modes.ECB]":
    return Cipher(TripleDES((key * 3)[:24]), modes.ECB())


def encrypted(key: bytes, data: bytes) -> bytes:
    return _cipher(key).encryptor().update(data)


def decrypted(key: bytes, data: bytes) -> bytes:
    return _cipher(key).decryptor().update(data)


def _over(left: bytes, right: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(left, right, strict=True))


def retail(key: bytes, data: bytes) -> bytes:
    """X9.19: eight bytes."""
    block = bytes(8)
    for at in range(0, len(data), 8):
        block = encrypted(key[:8], _over(block, data[at:at + 8].ljust(8, b"\0")))
    return encrypted(key[:8], decrypted(key[8:16], block))


def unionpay(key: bytes, data: bytes) -> bytes:
    """UnionPay ECB: eight characters of hex."""
    block = bytes(8)
    for at in range(0, len(data), 8):
        block = _over(block, data[at:at + 8].ljust(8, b"\0"))
    text = block.hex().upper().encode()
    first = encrypted(key, text[:8])
    return encrypted(key, _over(first, text[8:])).hex().upper()[:8].encode()


class Form(NamedTuple):
    """Where a dialect has its MAC, and how it is made."""
    header: int            # bytes before the MTI
    field: int
    text: bool             # MTI, bitmap and MAC are characters
    mac: Callable[[bytes, bytes], bytes]


FORMS = {"unionpay_pos": Form(11, 64, False, unionpay), "iso93_ascii": Form(0, 128, True, retail)}


class Keys:
    """`grace`: seconds in which keys that were replaced are still good."""

    def __init__(self, master: bytes, grace: float = 60.0, dialect: str = "unionpay_pos") -> None:
        self.master, self.grace, self.form = master, grace, FORMS[dialect]
        self.pin = self.mac = b""
        self.offered: tuple[bytes, bytes] | None = None      # sent unasked, and not acknowledged yet: PIN key, MAC key
        self.former: list[tuple[float, bytes, bytes]] = []   # until when, PIN key, MAC key

    def issue(self, how: str = "") -> str:
        """New keys as DE62. `how`: kcv (the last check value is wrong), none (nothing is said of them), or one of LAYOUTS."""
        keys, said = self._drawn(how)
        self._take(*keys)
        return said if how != "none" else ""

    def offer(self, how: str = "") -> str:
        """Keys that the host sends unasked, as `issue` writes them."""
        self.offered, said = self._drawn(how)
        return said

    def settled(self, accepted: bool) -> None:
        """What became of the keys that were offered; the first answer counts."""
        if self.offered is not None and accepted:
            self._take(*self.offered)
        self.offered = None

    def _take(self, pin: bytes, mac: bytes) -> None:
        if self.mac:
            self.former = [*self.former, (time.monotonic() + self.grace, self.pin, self.mac)][-4:]
        self.pin, self.mac = pin, mac

    def _drawn(self, how: str) -> tuple[tuple[bytes, bytes], str]:
        said, keys = b"", list[bytes]()
        for size, place, count in LAYOUTS.get(how, LAYOUTS["40"]):
            keys.append(secrets.token_bytes(size))
            said += encrypted(self.master, keys[-1]).ljust(place, b"\0") + encrypted(keys[-1], bytes(8))[:count]
        if how == "kcv":
            said = said[:-1] + bytes([said[-1] ^ 1])
        return (keys[0], keys[1]), said.hex().upper()

    def forget(self) -> None:
        """As a host that was set up anew: nothing that was made with the old keys is good."""
        self.issue()
        self.former = []

    def fault(self, wire: Message, body: bytes) -> str:
        """DE39 of a message that is refused unprocessed: its MAC or its PIN block is wrong. Empty: it is sound."""
        good = [(self.pin, self.mac), *((self.offered,) if self.offered else ()),
                *((pin, key) for until, pin, key in self.former if until > time.monotonic())]
        if wire[0][1] not in MACED:
            return ""
        data, said = body[self.form.header:-16 if self.form.text else -8], bytes.fromhex(wire.get(self.form.field, ""))
        pin_keys = [pin for pin, key in good if key and said and self.form.mac(key, data) == said]
        if not pin_keys:
            return MAC_ERROR
        if 52 not in wire:
            return ""
        found = [_pin(decrypted(pin, bytes.fromhex(wire[52])), wire) for pin, _ in good if pin]
        return "" if PIN in found else WRONG_PIN if any(found) else PIN_ERROR

    def sealed(self, body: bytes, mti: str, how: str = "") -> bytes:
        """An answer with its MAC. `how`: wrong, missing, or former (under the key before)."""
        if how == "missing" or mti[1] not in MACED:
            return body
        data = self._marked(body)
        key = self.former[-1][2] if how == "former" else self.mac
        code = self.form.mac(key, data[self.form.header:]) if key else bytes(8)
        code = code if how != "wrong" else code[:-1] + bytes([code[-1] ^ 1])
        return data + (code.hex().upper().encode() if self.form.text else code)

    def _marked(self, body: bytes) -> bytes:
        """With the bit of the MAC in its bitmap: the last one of the first, or of the second, which may have to be put in."""
        if not self.form.text:
            at = self.form.header + 2 + 7
            return body[:at] + bytes([body[at] | 1]) + body[at + 1:]
        first = int(body[4:20], 16)
        second, rest = (int(body[20:36], 16), body[36:]) if first >> 63 else (0, body[20:])
        return body[:4] + b"%016X%016X" % (first | 1 << 63, second | 1) + rest


def _pin(block: bytes, wire: Message) -> str:
    """The PIN in an ISO-0 block of this card; empty when it is none."""
    number = wire.get(2) or wire.get(35, "").replace("D", "=").partition("=")[0]
    text = _over(block, bytes.fromhex(number[:-1][-12:].rjust(16, "0"))).hex().upper()
    length = int(text[1], 16)
    digits, rest = text[2:2 + length], text[2 + length:]
    return digits if text[0] == "0" and digits.isdigit() and 4 <= length <= 12 and set(rest) <= {"F"} else ""
