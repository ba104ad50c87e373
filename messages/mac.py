"""Where the MAC of a message stands, and what it is over: all before it, from the MTI on, its own bit set. Pure; keys are elsewhere."""

from messages.dialect import Dialect
from messages.grammar import MacRule
from messages.headers import size

MAC_BYTES = 8
NONE = "0" * 2 * MAC_BYTES  # what stands in its place until it is known


def carried(dialect: Dialect, mti: str) -> MacRule | None:
    """The rule, where messages of this class have a MAC."""
    rule = dialect.mac
    return rule if rule is not None and mti[1] in rule.classes else None


def covered(dialect: Dialect, payload: bytes) -> bytes:
    """What the MAC of a whole message is over."""
    start = size(dialect.header, payload) if dialect.header is not None else 0
    return payload[start:-_length(dialect)]


def placed(dialect: Dialect, payload: bytes, mac: bytes) -> bytes:
    """The message with its MAC in the place at its end."""
    length = _length(dialect)
    return payload[:-length] + (mac if length == MAC_BYTES else mac.hex().upper().encode(dialect.coding.text))


def _length(dialect: Dialect) -> int:
    assert dialect.mac is not None
    return MAC_BYTES if dialect.fields[dialect.mac.field].code == "binary" else 2 * MAC_BYTES
