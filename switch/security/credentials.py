"""API keys: `tk_<key id>.<secret>`. The id finds the record, the secret is compared by its digest in constant time."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from typing import Literal, NamedTuple

Role = Literal["terminal", "merchant", "staff", "operator", "applicant", "support", "reviewer", "administrator"]

PREFIXES: dict[Role, str] = {"terminal": "tk", "merchant": "mk", "staff": "fk", "operator": "ok", "applicant": "ak", "support": "sk",
                             "reviewer": "rk", "administrator": "dk"}
KEY_ID_LENGTH = 16
SECRET_BYTES = 32
# The id repeats the first letter of the prefix, so that a key under another role's prefix is malformed.
_TEXT = re.compile(r"(?:tk_t|mk_m|fk_f|ok_o|ak_a|sk_s|rk_r|dk_d)[0-9a-f]{15}\.[A-Za-z0-9_-]{43}", re.ASCII)


class Credential(NamedTuple):
    key_id: str
    text: str  # shown once, never stored
    digest: bytes  # 32 bytes, what is stored


def digest(secret: str) -> bytes:
    """SHA-256. 256 random bits need no slow hash, and a slow one would be a lever to stall the switch."""
    return hashlib.sha256(secret.encode()).digest()


def issue(role: Role) -> Credential:
    """A new key: 16 characters of id, 256 bits of secret in base64url."""
    prefix = PREFIXES[role]
    key_id = prefix[0] + secrets.token_hex(KEY_ID_LENGTH // 2)[1:]
    secret = secrets.token_urlsafe(SECRET_BYTES)
    return Credential(key_id, f"{prefix}_{key_id}.{secret}", digest(secret))


def split(text: bytes | str) -> tuple[str, str] | None:
    """Key id and secret, or None for whatever is not exactly of an issued key's form. Never raises."""
    plain = text if isinstance(text, str) else text.decode("latin-1")
    return (plain[3:19], plain[20:]) if _TEXT.fullmatch(plain) else None


def matches(secret: str, expected: bytes) -> bool:
    return hmac.compare_digest(digest(secret), expected)


_NOBODY = ("", "-" * 43)
_NO_DIGEST = secrets.token_bytes(32)


def authenticate(text: bytes | str, find: Callable[[str], bytes | None]) -> str | None:
    """The key id when the secret is right, else None. `find`: key id -> stored digest, None for unknown, expired or revoked ids.

    A malformed key and an unknown id are compared with a digest that nothing matches: the time does not tell which it was.
    """
    key_id, secret = split(text) or _NOBODY
    expected = find(key_id)
    right = matches(secret, expected or _NO_DIGEST)
    return key_id if right and expected is not None else None
