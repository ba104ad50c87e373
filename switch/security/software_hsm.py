"""A security module in software, for the demo and for tests: keys are in clear in this process's memory while they are used.

Its storage key comes from the keyring, so what it wrapped is as readable as card numbers are: to whoever has the key file.
"""

import hmac
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from messages.grammar import MAC_BYTES_LEAST
from switch.security import dukpt, keyblocks, provisioning
from switch.security.ciphers import BLOCK, Algorithm, ClearKey, CryptoError, check_kcv, decrypt, kcv, xor
from switch.security.hsm import COMPONENTS, USAGES, Handle, Provided, Purpose
from switch.security.macs import MACS
from switch.security.pan import Pan, Secret
from switch.security.pinblocks import translate
from switch.security.vault import NONCE_BYTES, Keyring, VaultError

OPEN_MAX = 4096  # keys kept in clear, so that not every message unwraps its own
WHY_NOT = ("SWITCH_HSM=software keeps clear keys in the memory of this process. It is for `switch demo` and for tests (SWITCH_TESTING=1) and "
           "refused here: leave SWITCH_HSM unset, and keys stay outside until a hardware module is connected")


class SoftwareHsm:
    """One of the kind that hsm.Hsm describes. `draw`: random bytes."""

    def __init__(self, keyring: Keyring, draw: Callable[[int], bytes] = os.urandom) -> None:
        self._keyring, self._draw = keyring, draw
        self._opened = lru_cache(maxsize=OPEN_MAX)(self._unsealed)

    def __repr__(self) -> str:
        return "<SoftwareHsm>"

    def component(self, key_id: UUID, algorithm: Algorithm, content: Secret, kcv: str) -> Handle:
        try:
            octets = bytes.fromhex(content.reveal())
        except ValueError:
            del content
            raise CryptoError("key_malformed") from None
        return self._taken(key_id, "component", ClearKey(algorithm, octets), kcv)

    def combined(self, key_id: UUID, purpose: Purpose, components: Sequence[Handle], kcv: str) -> Handle:
        parts = [self._of(each, "component") for each in components]
        if len(parts) not in COMPONENTS or len({(part.algorithm, len(part.reveal())) for part in parts}) != 1:
            raise CryptoError("component")
        whole = parts[0].reveal()
        for part in parts[1:]:
            whole = xor(whole, part.reveal())
        return self._taken(key_id, purpose, ClearKey(parts[0].algorithm, whole), kcv)

    def unwrapped(self, key_id: UUID, purpose: Purpose, algorithm: Algorithm, block: Secret, under: Handle, kcv: str) -> Handle:
        opened = keyblocks.unwrap(block.reveal(), self._of(under, "kek"))
        if opened.header.usage not in USAGES[purpose] or opened.key.algorithm != algorithm:
            raise CryptoError("key_purpose")
        return self._taken(key_id, purpose, opened.key, kcv)

    def downloaded(self, key_id: UUID, purpose: Purpose, algorithm: Algorithm, content: bytes, under: Handle, kcv: str) -> Handle:
        master = self._of(under, "tmk")
        if algorithm == "tdes" and content[8:] == bytes(8):  # a MAC key of 8 bytes in a place for 16
            algorithm, content = "des", content[:8]
        if not content or len(content) % BLOCK[master.algorithm]:
            raise CryptoError("key_length")
        key = ClearKey(algorithm, decrypt(master, content))
        return self._sealed(key_id, purpose, key) if (purpose, kcv) == ("track", "") else self._taken(key_id, purpose, key, kcv)

    def provisioned(self, key_id: UUID, peer: bytes, bound: bytes) -> Provided:
        under, ours = provisioning.agreed(peer, bound)
        key = provisioning.made(self._draw)
        return Provided(self._sealed(key_id, "tmk", key), provisioning.block(key, provisioning.MASTER, under, self._draw), ours.hex().upper())

    def worked(self, key_id: UUID, purpose: Purpose, under: Handle) -> tuple[Handle, str]:
        master = self._of(under, "tmk")
        if purpose not in provisioning.WORKING:
            raise CryptoError("key_purpose")
        key = provisioning.made(self._draw)
        return self._sealed(key_id, purpose, key), provisioning.block(key, provisioning.WORKING[purpose], master, self._draw)

    def rewrapped(self, key: Handle) -> Handle:
        return key if key.storage_key == self._keyring.current else self._sealed(key.key_id, key.purpose, self._opened(key))

    def mac(self, key: Handle, algorithm: str, data: bytes) -> bytes:
        return MACS[algorithm](self._of(key, "mac"), data)

    def mac_right(self, key: Handle, algorithm: str, data: bytes, mac: bytes) -> bool:
        return len(mac) >= MAC_BYTES_LEAST and hmac.compare_digest(self.mac(key, algorithm, data)[:len(mac)], mac)

    def translated(self, block: Secret, form: str, pan: Pan, under: Handle, serial: bytes | None, to: Handle, target: str) -> Secret:
        source = self._of(under, "pin") if serial is None else dukpt.derived(self._of(under, "bdk"), serial, "pin")
        made = translate(bytes.fromhex(block.reveal()), pan, form, source, target, self._of(to, "pin"), self._draw)
        return Secret(made.hex().upper())

    def _of(self, key: Handle, purpose: Purpose) -> ClearKey:
        if key.purpose != purpose:
            raise CryptoError("key_purpose")
        return self._opened(key)

    def _taken(self, key_id: UUID, purpose: Purpose, key: ClearKey, expected: str) -> Handle:
        check_kcv(key, expected)
        return self._sealed(key_id, purpose, key)

    def _sealed(self, key_id: UUID, purpose: Purpose, key: ClearKey) -> Handle:
        current, nonce, value = self._keyring.current, self._draw(NONCE_BYTES), kcv(key)
        cipher = AESGCM(self._keyring.derive("hsm", current))
        return Handle(key_id, purpose, key.algorithm, value, current,
                      nonce + cipher.encrypt(nonce, key.reveal(), _place(key_id, purpose, key.algorithm, value)))

    def _unsealed(self, key: Handle) -> ClearKey:
        place = _place(key.key_id, key.purpose, key.algorithm, key.kcv)
        try:
            cipher = AESGCM(self._keyring.derive("hsm", key.storage_key))
            return ClearKey(key.algorithm, cipher.decrypt(key.wrapped[:NONCE_BYTES], key.wrapped[NONCE_BYTES:], place))
        except (InvalidTag, VaultError, ValueError):  # another row's, altered, or its storage key is gone
            raise CryptoError("wrapped_broken") from None


def _place(key_id: UUID, purpose: str, algorithm: str, value: str) -> bytes:
    """What a wrapped key is bound to: a row cannot make another key, or another use, of it."""
    return b"crypto_key|%b|%b" % (key_id.bytes, f"{purpose}|{algorithm}|{value}".encode())
