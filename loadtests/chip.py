"""A chip card of a test: it signs what a terminal asks it to pay, and takes an answer only from its issuer.

Its keys come from the same test master key as the stub's (`--imk`). The card is made of pyemv's whole cards (CVN 10, CVN 18), the stub of its
single functions, so that each is held against the other. No real card's number or key belongs here.
"""
import hmac
import secrets
import warnings
from datetime import UTC, datetime

from pyemv.cvn import VisaCVN10, VisaCVN18

# Of where pyemv takes DES from: nothing that a test can do anything about.
warnings.filterwarnings("ignore", "TripleDES has been moved|(Single|Two)-key TripleDES", module="pyemv")

MASTER = "0123456789ABCDEFFEDCBA9876543210"  # the key of published examples: worth nothing
COUNTRY, NO_VERIFICATION, PROFILE = "0156", "0000008000", "1800"
ISSUER_DATA = {10: "06010A03A0B800", 18: "06011203A0B800"}
NUMBERS = {"CNY": "0156", "USD": "0840", "EUR": "0978", "JPY": "0392"}
SCRIPTS = ("71", "72")
APPROVES = 0x80  # second byte of a card status update


class ChipCard:
    """One payment at a time: `ask` gives DE55, `takes` says whether the card goes along with the answer. `scripts`: the commands it carried out."""

    def __init__(self, master: str, pan: str, expiry: str = "3012", sequence: str = "01", version: int = 18) -> None:
        keys = (bytes.fromhex(master),) * 3
        self.card = (VisaCVN10 if version == 10 else VisaCVN18)(*keys, pan, sequence)
        self.pan, self.expiry, self.sequence, self.issuer_data = pan, expiry, sequence, bytes.fromhex(ISSUER_DATA[version])
        self.counter = secrets.randbelow(60_000)
        self.cryptogram = b""
        self.scripts: list[str] = []

    def ask(self, amount: int, currency: str = "CNY") -> dict[str, str]:
        """The card member of an authorization, over `amount` in minor units."""
        self.counter += 1
        signed = {"9F02": f"{amount:012d}", "9F03": "0" * 12, "9F1A": COUNTRY, "95": NO_VERIFICATION, "5F2A": NUMBERS[currency],
                  "9A": f"{datetime.now(UTC):%y%m%d}", "9C": "00", "9F37": secrets.token_hex(4).upper(), "82": PROFILE,
                  "9F36": f"{self.counter:04X}"}
        data = {f"tag_{tag.lower()}": bytes.fromhex(value) for tag, value in signed.items()}
        if isinstance(self.card, VisaCVN10):
            self.cryptogram = self.card.generate_ac(**data, cvr=self.issuer_data[3:7])
        else:
            self.cryptogram = self.card.generate_ac(**data, tag_9f10=self.issuer_data)
        told = signed | {"9F26": self.cryptogram.hex().upper(), "9F27": "80", "9F10": self.issuer_data.hex().upper()}
        return {"entry_mode": "chip", "pan": self.pan, "expiry": self.expiry, "sequence_number": self.sequence,
                "emv": "".join(f"{tag}{len(value) // 2:02X}{value}" for tag, value in told.items())}

    def takes(self, emv: str | None) -> bool:
        """Whether the answer is the issuer's: false without tag 91, or with one that the card does not compute itself. A script that is not the
        issuer's is left undone, and decides nothing."""
        said = elements(emv or "")
        proof, counter = bytes.fromhex("".join(value for tag, value in said if tag == "91")), self.counter.to_bytes(2, "big")
        if isinstance(self.card, VisaCVN10):
            right = len(proof) == 10 and hmac.compare_digest(self.card.generate_arpc(self.cryptogram, proof[8:]), proof[:8])
        else:
            right = (len(proof) == 8 and hmac.compare_digest(self.card.generate_arpc(self.cryptogram, counter, proof[4:]), proof[:4])
                     and bool(proof[5] & APPROVES))
        if right:
            self.scripts += [command for tag, value in said if tag in SCRIPTS for name, command in elements(value) if name == "86"
                             and self._is_ours(bytes.fromhex(command), counter)]
        return right

    def _is_ours(self, command: bytes, counter: bytes) -> bool:
        return hmac.compare_digest(self.card.generate_command_mac(command[:5], self.cryptogram, counter), command[5:])


def elements(text: str) -> list[tuple[str, str]]:
    """Tags of one or two bytes, lengths below 128, as all that this card hears."""
    found, at = list[tuple[str, str]](), 0
    while at < len(text):
        end = at + (4 if int(text[at:at + 2], 16) & 0x1F == 0x1F else 2)
        value = end + 2
        stop = value + 2 * int(text[end:value], 16)
        found.append((text[at:end], text[value:stop]))
        at = stop
    return found
