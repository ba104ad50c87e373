"""The issuer behind the host: the cryptogram of a chip is verified and answered. Everything comes from one master key, that of a test.

Known versions (tag 9F10): 0A and 12 of Visa (CVN 10, CVN 18), 01 of PBOC, A5 of the common core definitions. The keys of a card come from its
number and sequence number (DE23) by EMV book 2, A1.4, option A for 0A and 01 and B for the others; scripts are MACed under the same master key.
Nothing of it is kept or printed.
"""
import hmac
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pyemv import ac, kd, sm

from acquirer_stubs.behaviours import MONEY_MOVES, Decision
from acquirer_stubs.codec import Message
from acquirer_stubs.keys import encrypted

# pyemv asks for DES where cryptography had it first, and is told so each time; the switch itself does not do that (switch/security/des.py).
warnings.filterwarnings("ignore", "TripleDES has been moved|(Single|Two)-key TripleDES", module="pyemv")

CRYPTOGRAM_WRONG = {"visa_base1": "82", "mastercard_cis": "88"}  # the dialect's word for it; 63, security violation, where it has none of its own
SECURITY_VIOLATION = "63"
SIGNED = ("9F02", "9F03", "9F1A", "95", "5F2A", "9A", "9C", "9F37", "82", "9F36")   # EMV book 2, 8.1.1, then what the version adds
SIZES = {"9F02": 6, "9F03": 6, "9F1A": 2, "95": 5, "5F2A": 2, "9A": 3, "9C": 1, "9F37": 4, "82": 2, "9F36": 2, "9F26": 8}
APPROVED_UPDATE = bytes.fromhex("00800000")  # card status update: the issuer approves
BLOCK = "841E000008"                         # APPLICATION BLOCK with a MAC of eight bytes
APPLICATION_BLOCK = "9F180400000001"         # the script's own name, before its command


class Version(NamedTuple):
    """How a cryptogram of this version is made. `added`: what of 9F10 is signed beside SIGNED; `status`: the answer is over a card status update."""
    added: slice
    padding: ac.PaddingType
    status: bool
    card_key: Callable[[bytes, str, str], bytes]
    session: Callable[[bytes, bytes], bytes]  # of the card's key and its counter


def _of_the_card(card: bytes, counter: bytes) -> bytes:
    return card


def _common(card: bytes, counter: bytes) -> bytes:
    return kd.derive_common_sk(card, counter + bytes(6))


def _pboc(card: bytes, counter: bytes) -> bytes:
    """JR/T 0025: the counter at the end of a block, and its complement there, both under the card's key."""
    return encrypted(card, bytes(6) + counter + bytes(6) + bytes(byte ^ 0xFF for byte in counter))


VERSIONS = {"0A": Version(slice(3, 7), ac.PaddingType.VISA, False, kd.derive_icc_mk_a, _of_the_card),
            "01": Version(slice(3, 7), ac.PaddingType.EMV, False, kd.derive_icc_mk_a, _pboc),
            **dict.fromkeys(("12", "0FA5"), Version(slice(None), ac.PaddingType.EMV, True, kd.derive_icc_mk_b, _common))}


@dataclass(frozen=True, slots=True, repr=False)
class Chip:
    """What an answer needs of a request whose cryptogram was right."""
    version: Version
    key: bytes
    script_key: bytes
    cryptogram: bytes
    counter: bytes


def elements(text: str) -> dict[str, bytes]:
    """BER-TLV of one level. Raises ValueError."""
    data, found, at = bytes.fromhex(text), dict[str, bytes](), 0
    while at < len(data):
        if not data[at]:    # fill
            at += 1
            continue
        start = at
        at += 1
        if data[start] & 0x1F == 0x1F:
            while data[at:at + 1] and data[at] & 0x80:
                at += 1
            at += 1
        tag, length = data[start:at].hex().upper(), data[at:at + 1]
        at += 1
        if length and length[0] & 0x80:
            wide = length[0] & 0x7F
            length, at = data[at:at + wide], at + wide
        size = int.from_bytes(length, "big")
        if not length or at + size > len(data) or tag in found:
            raise ValueError("not BER-TLV")
        found[tag] = data[at:at + size]
        at += size
    return found


def element(tag: str, value: bytes) -> str:
    """Of at most 127 bytes, as all that is said here."""
    return f"{tag}{len(value):02X}{value.hex().upper()}"


def _version(issuer_data: bytes) -> Version | None:
    """By format: a leading length of 6 or more, key index, version (Visa); or 0F and the common core identifier, which is format and version."""
    if len(issuer_data) < 7:
        return None
    return VERSIONS.get(issuer_data[:2].hex().upper() if issuer_data[0] == 0x0F else issuer_data[2:3].hex().upper())


class Issuer:
    """`master`: of all keys of all cards, 16 bytes."""

    def __init__(self, master: bytes, dialect: str = "iso87_ascii") -> None:
        if len(master) != 16:
            raise ValueError("the issuer master key has 16 bytes")
        self.master, self.refusal = master, CRYPTOGRAM_WRONG.get(dialect, SECURITY_VIOLATION)

    def verified(self, message: Message) -> Chip | str:
        """What the answer needs; or, in a word, why there is none: chip_data_malformed, chip_data_incomplete, cryptogram_version,
        cryptogram_wrong. The message has DE55."""
        try:
            data = elements(message[55])
        except ValueError:
            return "chip_data_malformed"
        if any(len(data.get(tag, b"")) != size for tag, size in SIZES.items()) or "9F10" not in data:
            return "chip_data_incomplete"
        issuer_data, counter = data["9F10"], data["9F36"]
        version = _version(issuer_data)
        if version is None:
            return "cryptogram_version"
        number = message.get(2) or message.get(35, "").replace("D", "=").partition("=")[0]
        card = version.card_key(self.master, number, message.get(23, "0")[-2:].zfill(2))
        key = version.session(card, counter)
        signed = b"".join(data[tag] for tag in SIGNED) + issuer_data[version.added]
        if not hmac.compare_digest(ac.generate_ac(key, signed, version.padding), data["9F26"]):
            return "cryptogram_wrong"
        return Chip(version, key, kd.derive_visa_sm_sk(card, counter), data["9F26"], counter)

    def answered(self, reply: Message, decision: Decision, chip: Chip, how: str = "", script: str = "") -> Message:
        """The answer with DE55, if it approves. `how`: wrong (an ARPC that no card takes), missing; `script`: 71 or 72 with what is ordered."""
        if decision.code not in MONEY_MOVES:
            return reply
        code = decision.code.encode("ascii")
        if chip.version.status:
            proof, rest = ac.generate_arpc_2(chip.key, chip.cryptogram, APPROVED_UPDATE), APPROVED_UPDATE
        else:
            proof, rest = ac.generate_arpc_1(chip.key, chip.cryptogram, code), code
        if how == "wrong":
            proof = bytes([proof[0] ^ 1]) + proof[1:]
        said = ("" if how == "missing" else element("91", proof + rest)) + element("8A", code)
        return reply | {55: said + (self._script(script, chip) if script else "")}

    def _script(self, tag: str, chip: Chip) -> str:
        """APPLICATION BLOCK, with its MAC as CVN 10 and 18 make it: header, counter and cryptogram."""
        command = bytes.fromhex(BLOCK)
        mac = sm.generate_command_mac(chip.script_key, command + chip.counter + chip.cryptogram)
        return element(tag, bytes.fromhex(APPLICATION_BLOCK + element("86", command + mac)))

