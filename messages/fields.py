"""What a data element may contain: one table from type to characters, and the check compiled from it."""

import re
from collections.abc import Callable

Check = Callable[[str], re.Match[str] | None]


# Character sets of ISO 8583:1987 as regular expressions over the text on our side. `{n}` is replaced by the allowed count.
CONTENT = {
    "n": "[0-9]{n}",
    "an": "[0-9A-Za-z ]{n}",  # the space is the fill character of a fixed field
    "ans": "[ -~]{n}",
    "z": "[0-9=D]{n}",  # track 2 and 3: the separator is '=' or 'D'
    "b": "(?:[0-9A-Fa-f]{2}){n}",  # hex text; the case is folded to upper by the codec
    "x+n": "[CD][0-9]{n}",  # a credit or debit sign, then digits
    "ansb": "[\\x00-\\xff]{n}",  # text of a national code such as GBK, a character of ours per byte of theirs (latin-1)
}
_UNIT = {"b": 2}  # characters that one repetition takes
_HEAD = {"x+n": 1}  # characters before the repetition


def check(type_: str, length: int, prefix: int) -> Check:
    """A function that is truthy for allowed text of a whole field: content by type, exact length when prefix is 0, else at most that."""
    most = (length - _HEAD.get(type_, 0)) // _UNIT.get(type_, 1)
    count = f"{{0,{most}}}" if prefix else f"{{{most}}}"
    return re.compile(CONTENT[type_].replace("{n}", count)).fullmatch


MTI = re.compile("[0-9]{4}").fullmatch
BITMAP = re.compile("[0-9A-F]{16}").fullmatch  # upper case only (docs/wire.md)
