"""What of a message may be printed and stored. Everything not known to be harmless is shown only by its length."""

import re
from collections.abc import Mapping

from messages.dialect import Dialect
from messages.tlv import EMV_STORED, TlvError, keep

PAN_DIGITS_MIN = 13  # below that, first six and last four would leave next to nothing hidden


def mask_pan(digits: str) -> str:
    """BIN and last four with stars between: 8 digits of BIN for 16 or more, else 6. Below 13 only stars."""
    length = len(digits)
    if length < PAN_DIGITS_MIN:
        return "*" * length
    bin_length = 8 if length >= 16 else 6
    return f"{digits[:bin_length]}{'*' * (length - bin_length - 4)}{digits[-4:]}"


def mask(dialect: Dialect, message: Mapping[str, str], stored_emv: str | None = None) -> dict[str, str]:
    """The message as it may be printed and stored, in its own order. `stored_emv`: what may be kept of its DE55, where that is known already.
    Never raises for text values, however wrong they are.
    """
    masked = dict(message)
    for number in message.keys() - dialect.shown:
        if number == "55" and stored_emv is not None:
            masked[number] = stored_emv
        elif number != "0":
            masked[number] = _hidden(dialect, number, masked[number])
    return masked


def _hidden(dialect: Dialect, number: str, value: str) -> str:
    if number in dialect.never_stored:
        return "***"
    if number == "2":
        return mask_pan(value)
    if number == "14":
        return "****"
    if number == "55":
        try:
            return keep(value, EMV_STORED)
        except TlvError:
            pass
    return by_length(value)


def by_length(value: str) -> str:
    """How a value is shown whose content may not be."""
    return f"<{len(value)} characters>"


HIDDEN = re.compile(r"\*{3,}|<[0-9]+ characters>").fullmatch  # what stands for a value that may not be shown
