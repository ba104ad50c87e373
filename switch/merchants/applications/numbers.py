"""Check digits of the numbers on documents. Pure.

Unified social credit codes are those of GB 32100-2015, resident ids those of GB 11643-1999 (ISO 7064, MOD 11-2).
"""

import re
from datetime import date

CREDIT_CODE_SIGNS = "0123456789ABCDEFGHJKLMNPQRTUWXY"  # without I O S V Z
CREDIT_CODE_WEIGHTS = tuple(pow(3, at, 31) for at in range(17))
CREDIT_CODE = re.compile(f"[{CREDIT_CODE_SIGNS}]{{2}}[0-9]{{6}}[{CREDIT_CODE_SIGNS}]{{10}}", re.ASCII)
RESIDENT_ID = re.compile(r"[1-9][0-9]{5}(?P<born>[0-9]{8})[0-9]{3}[0-9X]", re.ASCII)
RESIDENT_ID_WEIGHTS = tuple(pow(2, 17 - at, 11) for at in range(17))
RESIDENT_ID_CHECKS = "10X98765432"


def credit_code_valid(text: str) -> bool:
    """The check character is what makes the weighted sum a multiple of 31."""
    if not CREDIT_CODE.fullmatch(text):
        return False
    total = sum(CREDIT_CODE_SIGNS.index(sign) * weight for sign, weight in zip(text, CREDIT_CODE_WEIGHTS, strict=False))
    return CREDIT_CODE_SIGNS[-total % 31] == text[17]


def resident_id_valid(text: str) -> bool:
    """Its date of birth is one, and its check character agrees."""
    if born(text) is None:
        return False
    return RESIDENT_ID_CHECKS[sum(int(sign) * weight for sign, weight in zip(text, RESIDENT_ID_WEIGHTS, strict=False)) % 11] == text[17]


def born(resident_id: str) -> date | None:
    """The date of birth in a resident id, or None when there is none in it."""
    found = RESIDENT_ID.fullmatch(resident_id)
    if found is None:
        return None
    digits = found["born"]
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None


def age(born_on: date, on: date) -> int:
    """Whole years."""
    return on.year - born_on.year - ((on.month, on.day) < (born_on.month, born_on.day))
