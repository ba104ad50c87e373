"""Bank accounts as values: what is one, and how it is shown. Pure."""

import re
from dataclasses import dataclass

from switch.security.pan import luhn_valid

# Countries whose IBAN has this length (the IBAN registry of ISO 13616); an IBAN of another country is checked by its digits alone.
LENGTHS = {
    "AD": 24, "AE": 23, "AT": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "EE": 20, "ES": 24,
    "FI": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26, "IT": 27, "KW": 30, "KZ": 20,
    "LB": 28, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MT": 31, "NL": 18, "NO": 15, "PK": 24, "PL": 28,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24, "TR": 26, "UA": 29, "VA": 22,
}
IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}", re.ASCII)
NUMBER = re.compile(r"[A-Z0-9][A-Z0-9-]{2,33}", re.ASCII)
BANK_CODE = re.compile(r"[A-Z0-9]{2,28}", re.ASCII)
CARD = re.compile(r"62[0-9]{14,17}", re.ASCII)  # an account named by its UnionPay card
BIC = re.compile(r"[A-Z]{4}[A-Z]{2}[A-Z0-9]{2}([A-Z0-9]{3})?", re.ASCII)
COUNTRY = re.compile(r"[A-Z]{2}", re.ASCII)
HOLDER_MAX = 70  # as much as banks read of a name
PADDED = 40  # sealed at one length: a blob's length tells nothing


@dataclass(frozen=True, slots=True, repr=False)
class BankAccount:
    """`number` is an IBAN, or what the bank calls the account beside its `bank_code`. Not printed whole by mistake."""

    holder: str
    number: str
    iban: bool
    bank_code: str | None
    bic: str | None
    country: str

    def __repr__(self) -> str:
        return f"BankAccount({masked(self.number[-4:])} {self.country})"


def iban_valid(text: str) -> bool:
    """ISO 13616: the country's length, and the remainder of 97."""
    if not IBAN.fullmatch(text) or LENGTHS.get(text[:2], len(text)) != len(text):
        return False
    return int("".join(str(int(sign, 36)) for sign in text[4:] + text[:4])) % 97 == 1


def fault(account: BankAccount) -> tuple[str, str] | None:
    """The field and the rule that it breaks, or None."""
    holder = account.holder
    if not 1 <= len(holder) <= HOLDER_MAX or not holder.isprintable() or not holder[0].isalnum() or holder != holder.strip():
        return "holder", f"1 to {HOLDER_MAX} printable characters that begin with a letter or digit"
    if not COUNTRY.fullmatch(account.country):
        return "country", "two letters of ISO 3166"
    if account.bic is not None and not BIC.fullmatch(account.bic):
        return "bic", "8 or 11 characters of ISO 9362"
    if account.iban:
        if not iban_valid(account.number):
            return "iban", "an IBAN without spaces whose check digits agree"
        return None
    if not NUMBER.fullmatch(account.number):
        return "account_number", "3 to 34 of A-Z, 0-9 and -, the first no -"
    if CARD.fullmatch(account.number) and not luhn_valid(account.number):
        return "account_number", "the number of a bank card whose check digit agrees (ISO 7812)"
    if account.bank_code is None or not BANK_CODE.fullmatch(account.bank_code):
        return "bank_code", "2 to 28 of A-Z and 0-9, needed beside an account number"
    return None


def masked(last4: str) -> str:
    return f"****{last4}"


def padded(number: str) -> bytes:
    return number.encode("ascii").ljust(PADDED)


def unpadded(plain: bytes) -> str:
    return plain.decode("ascii").rstrip(" ")
