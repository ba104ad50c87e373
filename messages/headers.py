"""What stands between the length of a frame and the MTI. Pure: hex in, hex out. A header is checked, kept as hex under "h", and never a field."""

from collections.abc import Mapping
from dataclasses import dataclass

HEADERS: Mapping[str, str] = {
    "tpdu": "5 bytes in BCD (60, destination, source) and whatever fixed bytes the host puts behind them, such as the 6 of UnionPay POS terminals. "
            "Of a host's only the 60 is looked at; in our answers to a host destination and source change places.",
    "vip": "Visa BASE I: 22 bytes, the first of which is their count; bytes 4 and 5 count header and message. 26 bytes are a reject header, "
           "with a code, before the header and the message that were refused.",
    "cups": "46 bytes: 2E, a version, 4 digits that count header and message, destination 11, source 11, reserved 3, batch 1, information 8, user 1, "
            "5 digits that are not zero when a message of ours comes back unprocessed.",
    "plain": "So many bytes as the given ones have, whatever they are.",
}
TPDU_BYTES, VIP_BYTES, REJECT_BYTES, CUPS_BYTES = 5, 22, 26, 46
TPDU_ID = 0x60


@dataclass(frozen=True, slots=True)
class Header:
    """`default` is what our own requests carry, in hex."""

    kind: str
    default: str

    def __post_init__(self) -> None:
        if self.kind not in HEADERS:
            raise ValueError(f"header kind must be one of {', '.join(HEADERS)}")
        fault = _fault(self, bytes.fromhex(self.default))
        if fault:
            raise ValueError(f"header: {fault}")


class HeaderError(ValueError):
    """The bytes do not start with a header of this kind."""


def _fault(header: Header, data: bytes) -> str | None:
    if header.kind in ("plain", "cups"):
        whole = len(header.default) // 2
        if not whole or len(data) < whole or (header.kind == "cups" and (data[0], len(data[:whole])) != (CUPS_BYTES, CUPS_BYTES)):
            return f"it is no {header.kind} header of {whole} bytes"
        return None
    if header.kind == "tpdu":
        size = len(bytes.fromhex(header.default))
        if size < TPDU_BYTES or len(data) < size:
            return f"shorter than {max(size, TPDU_BYTES)} bytes"
        return None if data[0] == TPDU_ID else "no TPDU: the first byte is not 60"
    if not data or data[0] not in (VIP_BYTES, REJECT_BYTES):
        return f"length is neither {VIP_BYTES} nor {REJECT_BYTES}"
    return None if len(data) >= data[0] else "cut"


def size(header: Header, data: bytes) -> int:
    """Bytes of the header at the start of `data`. Raises HeaderError."""
    fault = _fault(header, data)
    if fault:
        raise HeaderError(fault)
    if header.kind in ("tpdu", "plain"):
        return len(header.default) // 2
    if header.kind == "cups":
        if data[2:6] != b"%04d" % len(data):
            raise HeaderError("total length is not that of header and message")
        return CUPS_BYTES
    if int.from_bytes(data[3:5], "big") != len(data):
        raise HeaderError("total length is not that of header and message")
    return data[0]


def reject_code(header: Header, data: bytes) -> str | None:
    """The code of a reject header, or None: the message behind it is then one of ours that the host did not process."""
    if header.kind == "cups":
        code = data[CUPS_BYTES - 5:CUPS_BYTES].decode("latin-1")
        return code if code.strip("0") else None
    return data[24:26].hex().upper() if header.kind == "vip" and len(data) >= REJECT_BYTES and data[0] == REJECT_BYTES else None


def joined(header: Header, text: str | None, body: bytes) -> bytes:
    """Header and message. `text`: the header in hex, None for the default. Raises HeaderError."""
    try:
        data = bytearray.fromhex(header.default if text is None else text)
    except ValueError:
        raise HeaderError("not hexadecimal") from None
    fault = _fault(header, bytes(data))
    if fault or len(data) != (data[0] if header.kind == "vip" else len(header.default) // 2):
        raise HeaderError(fault or "too long")
    if header.kind == "cups":
        if len(data) + len(body) > 9_999:
            raise HeaderError("header and message are longer than 4 digits can say")
        data[2:6] = b"%04d" % (len(data) + len(body))
    if header.kind == "vip":
        data[3:5] = (len(data) + len(body)).to_bytes(2, "big")
    return bytes(data) + body


def answering(header: Header, text: str) -> str:
    """The header of an answer to a message with this one: destination and source change places."""
    if header.kind == "plain":
        return text
    if header.kind == "cups":
        return text[:12] + text[34:56] + text[12:34] + text[56:]
    if header.kind == "tpdu":
        return text[:2] + text[6:10] + text[2:6] + text[10:]
    return text[:10] + text[16:22] + text[10:16] + text[22:]


def explained(header: Header, text: str) -> list[tuple[str, str]]:
    """The parts by name, in order."""
    if header.kind == "plain":
        parts = [("header", len(text))]
    elif header.kind == "cups":
        parts = [("length", 2), ("version", 2), ("total_length", 8), ("destination", 22), ("source", 22), ("reserved", 6), ("batch", 2),
                 ("information", 16), ("user", 2), ("reject_code", 10)]
    elif header.kind == "tpdu":
        parts = [("tpdu", 10)] if len(text) == 10 else [("tpdu", 10), ("header", len(text) - 10)]
        if len(text) == 22:
            parts = [("tpdu", 10), ("application", 2), ("version", 2), ("terminal_state", 1), ("processing_request", 1), ("software", 6)]
    else:
        parts = [("length", 2), ("format", 2), ("text_format", 2), ("total_length", 4), ("destination", 6), ("source", 6), ("round_trip", 2),
                 ("flags", 4), ("status", 6), ("batch", 2), ("reserved", 6), ("user", 2)]
        parts += [("reject_bitmap", 4), ("reject_code", 4)] if len(text) == 2 * REJECT_BYTES else []
    found, at = [], 0
    for name, length in parts:
        found.append((name, text[at:at + length]))
        at += length
    return found
