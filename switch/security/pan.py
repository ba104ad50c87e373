"""The card number and other card secrets as values that cannot be printed, pickled or copied by accident (PCI DSS 3.3, 3.4)."""

import re
from typing import NoReturn

from messages.masking import mask_pan

DIGITS_MIN, DIGITS_MAX = 12, 19
CODE_DIGITS_MAX = 32
# ISO/IEC 7812-1 annex B: every second digit from the right is doubled and its digits are added.
_DOUBLED = bytes.maketrans(b"0123456789", b"0246813579")
_ZERO = ord("0")


class PanError(ValueError):
    """Not a card number, or payment code. `code`: pan_not_digits, pan_length (12 to 19 digits), pan_luhn; code_digits. Never holds what was given."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def _refused(self: object, *_: object) -> NoReturn:
    raise TypeError(f"{type(self).__name__} is neither copied nor serialised")


def luhn_valid(digits: str) -> bool:
    """Whether the check digit of a non-empty text of ASCII digits is right (ISO/IEC 7812-1)."""
    raw = digits.encode("ascii")
    return (sum(raw[-1::-2]) + sum(raw[-2::-2].translate(_DOUBLED)) - _ZERO * len(raw)) % 10 == 0


# How numbers of cards begin, with their lengths: what a text is searched for. An order number of other digits is none, whatever its check digit.
_ISSUED = re.compile("|".join((
    "4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})",  # Visa
    "(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}",  # Mastercard
    "3[47][0-9]{13}",  # American Express
    "(?:30[0-59]|36|3[89])[0-9]{11,16}",  # Diners Club
    "35(?:2[89]|[3-8][0-9])[0-9]{12,15}",  # JCB
    "220[0-4][0-9]{12,15}",  # Mir
    "(?:50|5[6-8]|6[0-9])[0-9]{11,17}",  # UnionPay, Discover, Maestro
    "81[0-9]{14,17}",  # UnionPay
)))
TEXT_DIGITS_MIN = 13
_DIGITS = re.compile("[0-9](?:[ -]?[0-9]){12,}")


def holds_card_number(text: str) -> bool:
    """Whether what may be the number of a card stands in a text: in one piece, or in groups with a space or hyphen between them.

    Texts that are stored and shown in clear are asked, also those of sales: a text with fewer digits costs a third of a microsecond at most.
    """
    if len(text) < TEXT_DIGITS_MIN:
        return False
    raw = text.encode("utf-8", "replace")
    if len(raw) - len(raw.translate(None, b"0123456789")) < TEXT_DIGITS_MIN:
        return False
    return any(_issued(found) for found in _DIGITS.findall(text))


def _issued(groups: str) -> bool:
    """Any groups that follow each other: an amount or a date may stand before and behind."""
    parts = groups.replace("-", " ").split(" ")
    for first in range(len(parts)):
        digits = ""
        for part in parts[first:]:
            digits += part
            if len(digits) > DIGITS_MAX:
                break
            if len(digits) >= TEXT_DIGITS_MIN and _ISSUED.fullmatch(digits) and luhn_valid(digits):
                return True
    return False


def _fault(digits: object) -> str | None:
    if not isinstance(digits, str) or not (digits.isascii() and digits.isdigit()):
        return "pan_not_digits"
    if not DIGITS_MIN <= len(digits) <= DIGITS_MAX:
        return "pan_length"
    return None if luhn_valid(digits) else "pan_luhn"


class Pan:
    """A primary account number. Every text form of it is masked; `reveal()` alone gives the digits.

    Raises PanError for anything but 12 to 19 ASCII digits with a right check digit.
    """

    __slots__ = ("__digits",)

    def __init__(self, digits: str) -> None:
        code = _fault(digits)
        if code is not None:
            del self, digits  # a traceback with locals shows this frame, and there is nothing to show of a Pan half made
            raise PanError(code)
        self.__digits = digits

    def reveal(self) -> str:
        """The digits in clear: for the wire to the acquirer and the vault, never for a text."""
        return self.__digits

    @property
    def bin(self) -> str:
        """The issuer's number: 8 digits of a PAN of 16 or more, else 6."""
        return self.__digits[:8 if len(self.__digits) >= 16 else 6]

    @property
    def last4(self) -> str:
        return self.__digits[-4:]

    @property
    def masked(self) -> str:
        """BIN and last four, a star for each digit between; 12 digits are stars only."""
        return mask_pan(self.__digits)

    def __repr__(self) -> str:
        return f"<{self.masked}>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pan) and self.__digits == other.__digits

    def __hash__(self) -> int:
        return hash(self.__digits)

    __reduce__ = __reduce_ex__ = __getstate__ = __copy__ = __deepcopy__ = _refused


class PaymentCode:
    """The one-time code that a payer's phone shows. It is money for a minute: every text form of it is masked, and nothing stores it.

    Raises PanError code_digits for anything but 12 to 32 ASCII digits.
    """

    __slots__ = ("__digits",)
    masked = "*" * DIGITS_MIN

    def __init__(self, digits: str) -> None:
        if not (isinstance(digits, str) and digits.isascii() and digits.isdigit() and DIGITS_MIN <= len(digits) <= CODE_DIGITS_MAX):
            del self, digits
            raise PanError("code_digits")
        self.__digits = digits

    def reveal(self) -> str:
        """The digits in clear: for the wire to the acquirer, never for a text."""
        return self.__digits

    @property
    def last4(self) -> str:
        return self.__digits[-4:]

    def __repr__(self) -> str:
        return f"<{self.masked}>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PaymentCode) and self.__digits == other.__digits

    def __hash__(self) -> int:
        return hash(self.__digits)

    __reduce__ = __reduce_ex__ = __getstate__ = __copy__ = __deepcopy__ = _refused


class Secret:
    """Track 2, a PIN block or a security code: used once, then gone. No text form tells anything, not even the length."""

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        """The secret in clear: for the wire to the acquirer only."""
        return self.__text

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format("<secret>", spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.__text == other.__text

    def __hash__(self) -> int:
        return hash(self.__text)

    __reduce__ = __reduce_ex__ = __getstate__ = __copy__ = __deepcopy__ = _refused
