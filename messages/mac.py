"""Where the MAC of a message stands, and what it is over: all before it, from the MTI on, its own bit set. Pure; keys are elsewhere."""

from collections.abc import Mapping

from messages.dialect import Dialect
from messages.grammar import MAC_BYTES, MacRule
from messages.headers import size

NONE = "0" * 2 * MAC_BYTES  # what stands in its place until it is known


def carried(dialect: Dialect, mti: str) -> MacRule | None:
    """The rule, where messages of this class have a MAC."""
    rule = dialect.mac
    return rule if rule is not None and mti[1] in rule.classes else None


def place(rule: MacRule, message: Mapping[str, str]) -> str:
    """The field of a message's MAC: of two, the last one that its bitmaps reach without it (ISO 8583:1987, DE64 and DE128)."""
    first, last = rule.fields[0], rule.fields[-1]
    if first == last or any(len(number) > 1 and int(number) > 64 for number in message if number != last):
        return last
    return first


def heard(rule: MacRule, message: Mapping[str, str]) -> bytes | None:
    """The MAC that a message came with. None: it has none in its place, one more in the other, or something else than zeros behind it."""
    number = place(rule, message)
    if number not in message or any(other in message for other in rule.fields if other != number):
        return None
    octets = bytes.fromhex(message[number])
    return octets[:rule.length] if not any(octets[rule.length:]) else None


def covered(dialect: Dialect, payload: bytes) -> bytes:
    """What the MAC of a whole message is over."""
    start = size(dialect.header, payload) if dialect.header is not None else 0
    return payload[start:-_length(dialect)]


def placed(dialect: Dialect, payload: bytes, mac: bytes) -> bytes:
    """The message with its MAC in the place at its end, as much of it as the dialect says (AS 2805.4, ANSI X9.9: the left 4 bytes, then zeros)."""
    assert dialect.mac is not None
    length, said = _length(dialect), mac[:dialect.mac.length].ljust(MAC_BYTES, b"\0")
    return payload[:-length] + (said if length == MAC_BYTES else said.hex().upper().encode(dialect.coding.text))


def _length(dialect: Dialect) -> int:
    assert dialect.mac is not None
    return MAC_BYTES if dialect.fields[dialect.mac.fields[0]].code == "binary" else 2 * MAC_BYTES
