"""An acquirer's keys for its line: MACs under the working key of now, and the working keys that a sign-on brings."""

import os
from collections.abc import Callable, Mapping
from uuid import UUID

from messages.dialect import Dialect
from messages.grammar import KeyPart
from switch.clock import clock
from switch.ids import uuid7
from switch.security.ciphers import CryptoError
from switch.security.hsm import Handle, Hsm
from switch.security.keystore import Held, KeyStore

GRACE_S = 60.0  # a replaced MAC key is still believed so long: longer than an acquirer may take to answer


class AcquirerKeys:
    """`installed`: is told of working keys that are in force now, to write them down; `refused`: of some that are not, with the reason."""

    def __init__(self, acquirer_id: UUID, dialect: Dialect, store: KeyStore, hsm: Hsm | None, installed: Callable[[list[Handle]], None],
                 refused: Callable[[str], None], grace_s: float = GRACE_S) -> None:
        self.acquirer_id, self.dialect, self.store, self.hsm = acquirer_id, dialect, store, hsm
        self.installed, self.refused, self.grace_s = installed, refused, grace_s

    def required(self) -> bool:
        return self._master() is not None or self.store.find(self.acquirer_id, "mac") is not None

    def ready(self) -> bool:
        return not self.required() or (self.hsm is not None and self.store.find(self.acquirer_id, "mac") is not None)

    def mac(self, data: bytes) -> bytes:
        key = self.store.find(self.acquirer_id, "mac")
        assert self.hsm is not None and key is not None and self.dialect.mac is not None  # ready() was asked
        return self.hsm.mac(key, self.dialect.mac.algorithm, data)

    def right(self, data: bytes, mac: bytes) -> bool:
        hsm, rule = self.hsm, self.dialect.mac
        if hsm is None or rule is None or len(mac) != rule.length:
            return False
        return any(hsm.mac_right(key, rule.algorithm, data, mac) for key in self.store.usable(self.acquirer_id, "mac", self.grace_s))

    def signed_in(self, content: str) -> str | None:
        master, exchange = self._master(), self.dialect.key_exchange
        if master is None or exchange is None:
            return None
        data = bytes.fromhex(content)
        parts = exchange.layouts.get(len(data))
        fault = "none came" if not data else "no security module" if self.hsm is None else None
        if parts is None and fault is None:
            fault = f"{len(data)} bytes are no layout that is known"
        if fault is None and parts is not None:
            try:
                keys = self._downloaded(data, parts, master)
            except CryptoError as error:
                fault = {"kcv": "a check value differs", "mark": "a key is marked as another one"}.get(error.code, error.code)
            else:
                for key in keys:
                    self.store.adopt(Held((self.acquirer_id, key.purpose, ""), key))
                self.installed(keys)
        if fault is not None:
            self.refused(fault)
        return fault

    def changed(self, message: Mapping[str, str]) -> bool:
        """A host's key change, by the rules of a sign-on's answer: whether its keys are in force now."""
        exchange = self.dialect.key_exchange
        return self._master() is not None and exchange is not None and self.signed_in(message.get(exchange.field, "")) is None

    def _master(self) -> Handle | None:
        return self.store.find(self.acquirer_id, "tmk")

    def _downloaded(self, data: bytes, parts: tuple[KeyPart, ...], master: Handle) -> list[Handle]:
        """All of them, or none. Raises CryptoError: kcv, key_length, mark."""
        assert self.hsm is not None
        before = self.store.find(self.acquirer_id, "mac")
        # later than the one before, whatever the clock says: the newest id is in force
        keys, at, now = [], 0, max(int(clock.now().timestamp() * 1000), (before.key_id.int >> 80) + 1 if before is not None else 0)
        for part in parts:
            begin = at + len(part.mark) // 2
            if data[at:begin].hex().upper() != part.mark.upper():
                raise CryptoError("mark")
            at, middle, end = begin, begin + part.length, begin + part.length + part.kcv
            keys.append(self.hsm.downloaded(uuid7(now, os.urandom(10)), part.purpose, part.algorithm,  # type: ignore[arg-type]
                                            data[at:middle], master, data[middle:end].hex().upper()))
            at = end
        for key in keys:
            if key.purpose == "mac" and self.dialect.mac is not None:
                self.hsm.mac(key, self.dialect.mac.algorithm, b"")  # a single key where the rule wants a double one is found out now, not by a sale
        return keys
