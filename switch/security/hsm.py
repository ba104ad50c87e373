"""The door to keys: what a hardware security module does for the switch, and keys as the switch holds them, wrapped.

A module takes and gives wrapped keys; clear ones exist inside it alone. Calls are short and synchronous, as PKCS#11 is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from switch.security.ciphers import Algorithm
from switch.security.pan import Pan, Secret

Purpose = Literal["kek", "tmk", "pin", "mac", "track", "bdk", "component"]
# Usage of a TR-31 header -> what such a key may be here.
USAGES: Mapping[str, frozenset[str]] = MappingProxyType({
    "kek": frozenset({"K0", "K1"}), "tmk": frozenset({"K0"}), "pin": frozenset({"P0"}), "track": frozenset({"D0"}), "bdk": frozenset({"B0"}),
    "mac": frozenset({"M0", "M1", "M3", "M6", "M7"}),
})
MODES = frozenset("BENXGCVD")
COMPONENTS = (2, 3)


@dataclass(frozen=True, slots=True)
class Handle:
    """A key: what it is for, its check value, and itself under the module's storage key, bound to all of this."""

    key_id: UUID
    purpose: Purpose
    algorithm: Algorithm
    kcv: str  # 6 hex characters
    storage_key: str  # which of the module's
    wrapped: bytes = field(repr=False)


class Provided(NamedTuple):
    """A terminal's new master key: in a TR-31 block under the key that was agreed, with our public point, hex free of spaces."""

    key: Handle
    block: str = ""
    public: str = ""


class Hsm(Protocol):
    """Each raises CryptoError; its code is all that is said of what was wrong. A key is used for its purpose and for nothing else."""

    def component(self, key_id: UUID, algorithm: Algorithm, content: Secret, kcv: str) -> Handle:
        """One part of a key, as a person keyed it in (hex), with its check value. Raises: key_malformed, key_length, kcv."""

    def combined(self, key_id: UUID, purpose: Purpose, components: Sequence[Handle], kcv: str) -> Handle:
        """The key that its components make; `kcv` is that of the whole. Raises: component, kcv."""

    def unwrapped(self, key_id: UUID, purpose: Purpose, algorithm: Algorithm, block: Secret, under: Handle, kcv: str) -> Handle:
        """The key in a TR-31 block. Raises: key_block, key_purpose, kcv."""

    def downloaded(self, key_id: UUID, purpose: Purpose, algorithm: Algorithm, content: bytes, under: Handle, kcv: str) -> Handle:
        """A working key as a sign-in brings it: in ECB under the terminal master key; `kcv` "" for a track key that comes without one.
        Raises: key_length, key_purpose, kcv."""

    def provisioned(self, key_id: UUID, peer: bytes, bound: bytes) -> Provided:
        """A new terminal master key, for the terminal whose public point `peer` is (provisioning.agreed). Raises: key_malformed."""

    def worked(self, key_id: UUID, purpose: Purpose, under: Handle) -> tuple[Handle, str]:
        """A new working key and its TR-31 block under a terminal's master key. Raises: key_purpose, wrapped_broken."""

    def rewrapped(self, key: Handle) -> Handle:
        """The same key under the storage key of today. Raises: wrapped_broken."""

    def mac(self, key: Handle, algorithm: str, data: bytes) -> bytes:
        """8 bytes; `algorithm` is one of macs.MACS."""

    def mac_right(self, key: Handle, algorithm: str, data: bytes, mac: bytes) -> bool:
        """Compared inside, in constant time; a shorter one, of 4 bytes at least, with as many on the left (ISO/IEC 9797-1, truncation)."""

    def translated(self, block: Secret, form: str, pan: Pan, under: Handle, serial: bytes | None, to: Handle, target: str) -> Secret:
        """The PIN block (hex) for another key and, where that is allowed, in another format; `serial` when `under` is a base key of DUKPT.
        Raises: pin_pair, pin_block, ksn, key_purpose."""
