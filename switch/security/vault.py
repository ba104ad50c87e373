"""Card numbers at rest: a keyed token to find them, an authenticated seal to read them (PCI DSS 3.5.1, 3.6, 3.7).

The keyring is a JSON file that only its owner may read: `{"current": "k1", "token_key": "t1", "keys": {"k1": "<64 hex>", ...}}`.
`current` seals new rows and is rotated; `token_key` makes tokens and fingerprints, which must stay comparable, and is not.
"""

import datetime
import fcntl
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from switch.security.pan import Pan, PaymentCode

Purpose = Literal["token", "seal", "fingerprint", "api", "webhook", "evidence", "bank_account", "payout_file", "hsm", "acquirer",
                  "application", "application_file", "contract_signature", "signature"]
Sealed = Literal["webhook", "evidence", "bank_account", "payout_file", "acquirer", "application", "application_file", "contract_signature",
                 "signature"]
ROW_OF: Mapping[Sealed, bytes] = MappingProxyType({"webhook": b"webhook_endpoint|", "evidence": b"dispute_file|", "bank_account": b"bank_account|",
                                                   "payout_file": b"payout_file|", "acquirer": b"acquirer_secret|",
                                                   "application": b"application_document|", "application_file": b"application_file|",
                                                   "contract_signature": b"contract_signature|", "signature": b"transaction_signature|"})

KEY_BYTES = 32
NONCE_BYTES = 12  # random: one data key a day stays far below the 2^32 seals of NIST SP 800-38D, 8.3
TAG_BYTES = 16
DAY_BYTES = 4
PLAIN_BYTES = 24  # 19 digits, a bar, 4 digits of expiry: always padded, so that neither a length nor a cut tells anything
SEALED_BYTES = DAY_BYTES + NONCE_BYTES + PLAIN_BYTES + TAG_BYTES
EXPIRY_MAX = 4
DAY_KEYS_MAX = 64
TABLE = b"transaction"
CODE_DOMAIN = b"qr|"
_KEY_ID = re.compile(r"[a-z]([1-9][0-9]{0,8})", re.ASCII)
_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)


class VaultError(Exception):
    """A keyring or a sealed row that cannot be used. Never holds key or card data.

    `code`: keyring_missing, keyring_mode, keyring_malformed, key_in_use, key_unknown (retired or never ours), seal_truncated,
    seal_day (sealed on another day), seal_broken (another row's, or altered).
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Keyring:
    """The master keys by id, and the keys derived from them. Immutable; its text forms show ids only."""

    __slots__ = ("_masters", "current", "token_key")

    def __init__(self, current: str, token_key: str, masters: Mapping[str, bytes]) -> None:
        self.current, self.token_key, self._masters = current, token_key, MappingProxyType(dict(masters))

    def __repr__(self) -> str:
        return f"<Keyring current={self.current} of {sorted(self._masters)}>"

    @property
    def key_ids(self) -> frozenset[str]:
        return frozenset(self._masters)

    def derive(self, purpose: Purpose, key_id: str, info: str = "") -> bytes:
        """32 bytes for one purpose (HKDF-SHA-256, RFC 5869). Raises VaultError key_unknown."""
        master = self._masters.get(key_id)
        if master is None:
            raise VaultError("key_unknown")
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=f"{purpose}|{info}".encode()).derive(master)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises VaultError: keyring_missing, keyring_mode (others may read it), keyring_malformed."""
        try:
            with path.open("rb") as file:
                mode, raw = os.fstat(file.fileno()).st_mode, file.read(1 << 20)
        except FileNotFoundError:
            raise VaultError("keyring_missing") from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            del raw
            raise VaultError("keyring_mode")
        found = _parsed(raw)
        del raw
        if found is None:
            raise VaultError("keyring_malformed")
        return cls(*found)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Makes the file with fresh keys when there is none, then reads it. Several processes may do so at once: one wins."""
        with _alone(path.parent):
            if not path.exists():
                _write(path, cls("k1", "t1", {"k1": secrets.token_bytes(KEY_BYTES), "t1": secrets.token_bytes(KEY_BYTES)}))
            return cls.read(path)

    @classmethod
    def rotate(cls, path: Path) -> Self:
        """Adds a fresh key for new seals; what the others sealed stays readable. Raises as `read`."""
        with _alone(path.parent):
            old = cls.read(path)
            number = 1 + max(int(key_id[1:]) for key_id in old.key_ids)  # the newest key is never retired: no id comes twice
            new = cls(f"k{number}", old.token_key, {**old._masters, f"k{number}": secrets.token_bytes(KEY_BYTES)})
            _write(path, new)
            return new

    @classmethod
    def retire(cls, path: Path, key_id: str) -> Self:
        """Destroys a key: what it sealed can never be read again. Raises as `read`, and VaultError key_unknown, key_in_use."""
        with _alone(path.parent):
            old = cls.read(path)
            if key_id in (old.current, old.token_key):
                raise VaultError("key_in_use")
            if key_id not in old.key_ids:
                raise VaultError("key_unknown")
            new = cls(old.current, old.token_key, {name: key for name, key in old._masters.items() if name != key_id})
            _write(path, new)
            return new


def _parsed(raw: bytes) -> tuple[str, str, dict[str, bytes]] | None:
    try:
        data = json.loads(raw)
        current, token_key, keys = data["current"], data["token_key"], data["keys"]
        whole = data.keys() == {"current", "token_key", "keys"} and current != token_key and current in keys and token_key in keys
        if not whole or not all(_KEY_ID.fullmatch(key_id) and _KEY.fullmatch(key) for key_id, key in keys.items()):
            return None
        return current, token_key, {key_id: bytes.fromhex(key) for key_id, key in keys.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Holds the folder's lock: two rotations at once would lose a key that a worker may already have used."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(path: Path, ring: Keyring) -> None:
    """Durable and whole or not at all: a keyring cut short by a crash would be the loss of every card number."""
    keys = {key_id: key.hex() for key_id, key in ring._masters.items()}
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            json.dump({"current": ring.current, "token_key": ring.token_key, "keys": keys}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class DayKey(NamedTuple):
    cipher: AESGCM
    day: bytes  # the day as it stands in front of the nonce
    place: bytes  # what the seal is bound to, besides the row


class Vault:
    """Tokens, seals and fingerprints under one keyring."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring
        self.token_key_id = keyring.token_key
        self._token = HMAC(keyring.derive("token", keyring.token_key), SHA256())
        self._fingerprint = HMAC(keyring.derive("fingerprint", keyring.token_key), SHA256())
        self._day_key = lru_cache(maxsize=DAY_KEYS_MAX)(self._derived)

    def token(self, pan: Pan | PaymentCode) -> bytes:
        """32 bytes, the same for the same card: HMAC-SHA-256 over the whole PAN (PCI DSS 3.5.1.1). A payment code is never a card's."""
        keyed = self._token.copy()
        if isinstance(pan, PaymentCode):
            keyed.update(CODE_DOMAIN)
        keyed.update(pan.reveal().encode())
        return keyed.finalize()

    def fingerprint(self, data: bytes) -> bytes:
        """32 bytes, HMAC-SHA-256: tells whether two bodies are the same, and nothing else about them."""
        keyed = self._fingerprint.copy()
        keyed.update(data)
        return keyed.finalize()

    def seal(self, pan: Pan, expiry: str, row: bytes, day: datetime.date) -> tuple[str, bytes]:
        """The key id and the blob of a card, readable only for that row id and day.

        Blob, 56 bytes: the day (4, big-endian ordinal), a random nonce (12), AES-256-GCM over `digits|expiry` padded (24 + 16).
        Raises ValueError for an expiry of more than 4 characters.
        """
        if len(expiry) > EXPIRY_MAX:
            raise ValueError("expiry longer than 4 characters")
        key = self._day_key(self.keyring.current, day)
        nonce = os.urandom(NONCE_BYTES)
        plain = f"{pan.reveal()}|{expiry}".encode().ljust(PLAIN_BYTES)
        return self.keyring.current, key.day + nonce + key.cipher.encrypt(nonce, plain, key.place + row)

    def open(self, key_id: str, blob: bytes, row: bytes, day: datetime.date) -> tuple[Pan, str]:
        """The card and expiry. Raises VaultError: key_unknown, seal_truncated, seal_day, seal_broken."""
        key = self._day_key(key_id, day)
        if len(blob) != SEALED_BYTES:
            raise VaultError("seal_truncated")
        if blob[:DAY_BYTES] != key.day:
            raise VaultError("seal_day")
        nonce, sealed = blob[DAY_BYTES:DAY_BYTES + NONCE_BYTES], blob[DAY_BYTES + NONCE_BYTES:]
        try:
            plain = key.cipher.decrypt(nonce, sealed, key.place + row)
        except InvalidTag:
            raise VaultError("seal_broken") from None
        digits, _, expiry = plain.rstrip(b" ").decode().partition("|")
        return Pan(digits), expiry

    def seal_row(self, purpose: Sealed, content: bytes, row: bytes) -> tuple[str, bytes]:
        """The key id and the blob (nonce, AES-256-GCM) of what we must be able to use again, readable only for this purpose and row id."""
        key_id, nonce = self.keyring.current, os.urandom(NONCE_BYTES)
        return key_id, nonce + AESGCM(self.keyring.derive(purpose, key_id)).encrypt(nonce, content, ROW_OF[purpose] + row)

    def open_row(self, purpose: Sealed, key_id: str, blob: bytes, row: bytes) -> bytes:
        """Raises VaultError: key_unknown, seal_truncated, seal_broken."""
        if len(blob) <= NONCE_BYTES + TAG_BYTES:
            raise VaultError("seal_truncated")
        cipher = AESGCM(self.keyring.derive(purpose, key_id))
        try:
            return cipher.decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], ROW_OF[purpose] + row)
        except InvalidTag:
            raise VaultError("seal_broken") from None

    def _derived(self, key_id: str, day: datetime.date) -> DayKey:
        if key_id == self.token_key_id:
            raise VaultError("key_unknown")
        place = b"%b|seal|%b|%b|" % (TABLE, key_id.encode(), day.isoformat().encode())
        key = self.keyring.derive("seal", key_id, f"{key_id}|{day.isoformat()}")
        return DayKey(AESGCM(key), day.toordinal().to_bytes(DAY_BYTES, "big"), place)
