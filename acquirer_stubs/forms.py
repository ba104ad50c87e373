"""Messages of hosts other than the ASCII one of 1987: field tables and a plain reader and writer for text and for packed (BCD) elements.

Forms as in codec.py: n digits, an/ans text, z track, h binary; ".." and "..." are LLVAR and LLLVAR. `<` behind a form packs an odd number of digits
to the right. In packed tables lengths are BCD and count digits of n and z, bytes of the rest; in text tables they are decimal digits, h is hex
text and r raw bytes, whose length counts bytes.
"""
import re
from typing import NamedTuple

from acquirer_stubs.codec import Message, Undecodable, Unencodable

ISO93: dict[int, str] = {
    2: "n..19", 3: "n6", 4: "n12", 7: "n10", 11: "n6", 12: "n12", 14: "n4", 15: "n6", 22: "an12", 23: "n3", 24: "n3", 25: "n4", 26: "n4", 30: "n24",
    32: "ans..11", 33: "ans..11", 35: "z..37", 37: "an12", 38: "an6", 39: "n3", 41: "ans8", 42: "ans15", 43: "ans..99", 49: "an3", 52: "h16",
    28: "n6", 50: "an3", 54: "an...120", 55: "r...255", 56: "n..35", 74: "n10", 76: "n10", 86: "n16", 88: "n16", 93: "n..11", 94: "n..11",
    96: "r...998", 97: "an17",
    128: "h16",
}
UNIONPAY: dict[int, str] = {
    2: "n..19", 3: "n6", 4: "n12", 11: "n6", 12: "n6", 13: "n4", 14: "n4", 15: "n4", 22: "n3", 23: "n3<", 25: "n2", 26: "n2", 32: "n..11",
    35: "z..37", 36: "z...104", 37: "an12", 38: "an6", 39: "an2", 41: "ans8", 42: "ans15", 44: "ans..25", 48: "n...322",
    49: "an3", 52: "h8", 53: "n16",
    54: "an...20", 55: "h...255", 57: "ans...999", 59: "ans...999", 60: "n...17", 61: "n...29", 62: "h...999", 63: "ans...163", 64: "h8",
}
VISA: dict[int, str] = {
    2: "n..19", 3: "n6", 4: "n12", 7: "n10", 11: "n6", 12: "n6", 13: "n4", 14: "n4", 15: "n4", 18: "n4", 19: "n3", 22: "n4", 23: "n3", 25: "n2",
    32: "n..11", 35: "z..37", 37: "an12", 38: "an6", 39: "an2", 41: "ans8", 42: "ans15", 43: "ans40", 44: "ans..25", 49: "n3", 52: "h8", 53: "n16",
    54: "ans..120", 55: "h..255", 60: "h..12", 62: "h..255", 63: "h..255", 70: "n3", 90: "n42",
}
MASTERCARD: dict[int, str] = {
    2: "n..19", 3: "n6", 4: "n12", 7: "n10", 11: "n6", 12: "n6", 13: "n4", 14: "n4", 15: "n4", 18: "n4", 22: "n3", 23: "n3", 32: "n..11", 33: "n..11",
    35: "z..37", 37: "an12", 38: "an6", 39: "an2", 41: "ans8", 42: "ans15", 43: "ans40", 44: "ans..25", 45: "ans..76", 48: "ans...999", 49: "n3",
    52: "h8", 53: "n16", 54: "ans...120", 55: "h...255", 61: "ans...26", 63: "ans...50", 70: "n3", 90: "n42", 94: "ans7", 95: "n42",
}


class Form(NamedTuple):
    content: str
    prefix: int
    size: int
    right: bool


def form(text: str) -> Form:
    found = re.fullmatch(r"(ans|an|n|z|h|r)(\.{0,3})(\d+)(<?)", text)
    assert found is not None, text
    return Form(found[1], len(found[2]), int(found[3]), bool(found[4]))


class Table:
    """One host's elements, packed or text. `code` is that of text; `counted`: lengths are one or two bytes in binary instead of BCD;
    `right`: every odd number of digits is packed to the right; `raw`: text with bitmaps and h in bytes, as packed ones have them."""

    def __init__(self, forms: dict[int, str], *, packed: bool, code: str = "latin-1", counted: bool = False, right: bool = False,
                 raw: bool = False) -> None:
        self.forms = {de: form(text)._replace(right=right or text.endswith("<")) for de, text in forms.items()}
        self.packed, self.code, self.counted, self.raw = packed, code, counted, packed or raw

    def decode(self, body: bytes) -> Message:
        """Raises Undecodable, for any bytes that are not exactly one message."""
        width, size = 2 if self.packed else 4, 8 if self.raw else 16
        try:
            head = body[:width].hex() if self.packed else body[:width].decode(self.code)
            bits = self._bits(body[width:width + size], size)
            at = width + size
            if bits >> 63:
                bits = bits << 64 | self._bits(body[at:at + size], size)
                at += size
            else:
                bits <<= 64
        except ValueError:
            raise Undecodable("MTI or bitmap") from None
        if len(head) != 4 or not (head.isascii() and head.isdigit()):
            raise Undecodable("MTI")
        message: Message = {0: head}
        for de in (de for de in range(2, 129) if bits >> (128 - de) & 1):
            if de not in self.forms:
                raise Undecodable(f"DE{de}: not in the table")
            message[de], at = self._element(de, self.forms[de], body, at)
        if at != len(body):
            raise Undecodable(f"{len(body) - at} bytes after the last element")
        return message

    def _bits(self, data: bytes, size: int) -> int:
        if len(data) != size:
            raise Undecodable("bitmap: cut off")
        return int(data.hex() if self.raw else data.decode("ascii"), 16)

    def _element(self, de: int, form: Form, body: bytes, at: int) -> tuple[str, int]:
        count = form.size
        if form.prefix:
            width = (form.prefix + 1) // 2 if self.packed else form.prefix
            digits = body[at:at + width].hex() if self.packed else body[at:at + width].decode(self.code)
            digits = str(int.from_bytes(body[at:at + form.prefix - 1], "big")) if self.counted else digits
            width = form.prefix - 1 if self.counted else width
            if not (digits.isascii() and digits.isdigit()) or len(body) < at + width or int(digits) > form.size:
                raise Undecodable(f"DE{de}: length")
            at, count = at + width, int(digits)
        digital = self.packed and form.content in "nz"
        stop = at + ((count + 1) // 2 if digital else count)
        if stop > len(body):
            raise Undecodable(f"DE{de}: cut off")
        piece = body[at:stop]
        binary = digital or form.content == "r" or (self.raw and form.content == "h")
        value = piece.hex().upper() if binary else piece.decode(self.code)
        if digital and count % 2:
            value = value[1:] if form.right else value[:-1]
        if form.content == "n" and value and not (value.isascii() and value.isdigit()):
            raise Undecodable(f"DE{de}: not digits")
        return value, stop

    def encode(self, message: Message) -> bytes:
        """The MTI stands under 0. Raises Unencodable."""
        present = sorted(de for de in message if de)
        if not set(present) <= self.forms.keys():
            raise Unencodable(f"elements {present}: not in the table")
        wide = bool(present) and present[-1] > 64
        bits = sum(1 << (128 - de) for de in present) | (1 << 127 if wide else 0)
        bitmap = f"{bits:032X}"[:32 if wide else 16]
        kind = bytes.fromhex(message[0]) if self.packed else message[0].encode(self.code)
        head = kind + (bytes.fromhex(bitmap) if self.raw else bitmap.encode("ascii"))
        return head + b"".join(self._written(de, self.forms[de], message[de]) for de in present)

    def _written(self, de: int, form: Form, value: str) -> bytes:
        digital = self.packed and form.content in "nz"
        binary = form.content == "r" or (self.raw and form.content == "h")
        count = len(value) // 2 if binary else len(value)
        if (form.prefix and count > form.size) or (not form.prefix and count != form.size):
            raise Unencodable(f"DE{de}: {count} of {form.size}")
        odd = ("0" + value if form.right else value + "0") if digital and len(value) % 2 else value
        data = bytes.fromhex(odd.replace("=", "D")) if digital or binary else value.encode(self.code)
        if not form.prefix:
            return data
        if self.counted:
            return count.to_bytes(form.prefix - 1, "big") + data
        digits = f"{count:0{form.prefix + form.prefix % 2 if self.packed else form.prefix}d}"
        return (bytes.fromhex(digits) if self.packed else digits.encode(self.code)) + data
