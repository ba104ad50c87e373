"""Small secrets at rest that are no card numbers, such as account numbers: sealed for one purpose and one row."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from switch.security.vault import NONCE_BYTES, Keyring, VaultError


class Seals:
    """AES-256-GCM under the keyring's current key; which row a blob belongs to is authenticated with it."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring

    @property
    def current(self) -> str:
        return self.keyring.current

    def seal(self, purpose: str, row: bytes, plain: bytes) -> tuple[str, bytes]:
        """The key id and the blob: a random nonce (12), then the sealed bytes with their tag (16)."""
        nonce, key_id = os.urandom(NONCE_BYTES), self.keyring.current
        return key_id, nonce + self._cipher(key_id, purpose).encrypt(nonce, plain, _place(purpose, key_id, row))

    def open(self, purpose: str, row: bytes, key_id: str, blob: bytes) -> bytes:
        """Raises VaultError: key_unknown, seal_broken."""
        try:
            return self._cipher(key_id, purpose).decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], _place(purpose, key_id, row))
        except (InvalidTag, ValueError):
            raise VaultError("seal_broken") from None

    def _cipher(self, key_id: str, purpose: str) -> AESGCM:
        return AESGCM(self.keyring.derive("bank", key_id, purpose))


def _place(purpose: str, key_id: str, row: bytes) -> bytes:
    return b"%b|%b|%b" % (purpose.encode(), key_id.encode(), row)
