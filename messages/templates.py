"""Templates such as "22{batch}000" or "{terminal:<16}": what they may say, what they name, what comes of them. Pure."""

import re
from collections.abc import Mapping

# A name with a width, of 1 to 99 and with a fill, in Python's own words for text; {answer_62_2} is part 62.2 of an answer.
_NAMED = r"\{([a-z_]+|answer_[0-9]{1,3}(?:_[0-9]{1,2})?)(?::(?:[ -z|~]?[<>])?[1-9][0-9]?)?\}"
TEMPLATE = re.compile(rf"(?:[^{{}}]|{_NAMED})*").fullmatch
NAMED = re.compile(_NAMED).findall
ANSWER = "answer_"
LENGTH, NO_LENGTH = "{institution_length}", "00"


def answered(name: str) -> str:
    """The field, or the part of one, that {answer_N} or {answer_N_P} is of: "31", "62.2"; "" for any other name."""
    return name.removeprefix(ANSWER).replace("_", ".") if name.startswith(ANSWER) and name[-1].isdigit() else ""


def filled(template: str, names: Mapping[str, str]) -> str:
    """The text; "" where all that it names is empty and it says nothing else, or nothing but how long that is."""
    text = template.format_map(names)
    return "" if text == NO_LENGTH and LENGTH in template else text
