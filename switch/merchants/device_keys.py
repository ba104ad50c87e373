"""Keys that devices are given: a master key with the activation, working keys with each sign-in. Both are made here, and nobody ever reads one."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from switch.database import Connection, Pool, work
from switch.errors import Problem
from switch.merchants.crypto_keys import FORGET, INSERT, REPLACE, new_id
from switch.security.ciphers import CryptoError
from switch.security.hsm import Handle, Hsm, Provided
from switch.security.keystore import Held, KeyStore
from switch.security.provisioning import WORKING

WORKING_NAME = "working"  # of the PIN key: `card.pin.key_id` of a device
PAUSE_S = 10  # between two sign-ins of a terminal

LOCK = "SELECT FROM terminal WHERE terminal_id = $1 FOR NO KEY UPDATE"
MASTER = """SELECT key_id, purpose, algorithm, kcv, storage_key, wrapped FROM crypto_key
WHERE terminal_id = $1 AND coalesce(acquirer_id, terminal_id, merchant_id) = $1 AND purpose = 'tmk' AND state = 'active'"""
LAST = """SELECT extract(epoch FROM clock_timestamp() - max(active_at))::float8 FROM crypto_key
WHERE coalesce(acquirer_id, terminal_id, merchant_id) = $1 AND terminal_id = $1 AND source = 'sign_in' AND state = 'active'"""


class Working(NamedTuple):
    """One working key as the device gets it: `block` of TR-31 under its master key."""

    purpose: str
    name: str
    kcv: str
    block: str


class DeviceKeys:
    """Raises Problem: not_supported (no security module), conflict, too_many_attempts, invalid, not_ready."""

    def __init__(self, pool: Pool, hsm: Hsm | None, store: KeyStore) -> None:
        self.pool, self._hsm, self.store = pool, hsm, store

    @property
    def hsm(self) -> Hsm:
        if self._hsm is None:
            raise Problem("not_supported", "This switch has no security module (SWITCH_HSM).")
        return self._hsm

    async def provide(self, connection: Connection, merchant_id: UUID, terminal_id: UUID, peer: bytes, bound: bytes) -> Provided:
        """A new master key in the place of the one before, in the caller's transaction."""
        try:
            given = self.hsm.provisioned(new_id(), peer, bound)
        except CryptoError:
            raise _no_point() from None
        await _put(connection, merchant_id, terminal_id, given.key, "", "activation")
        return given

    async def signed_in(self, merchant_id: UUID, terminal_id: UUID) -> Sequence[Working]:
        """New working keys in the place of those before, in force in this worker at once and in the others within a second."""
        hsm, given, pins = self.hsm, [], []
        async with work(self.pool) as connection:
            await connection.execute(LOCK, terminal_id)
            row = await connection.fetchrow(MASTER, terminal_id)
            if row is None:
                raise Problem("conflict", "This terminal has no master key: activate its device with a transport_key.")
            since = await connection.fetchval(LAST, terminal_id)
            if since is not None and since < PAUSE_S:
                raise Problem("too_many_attempts", "This terminal has just signed in.", retry_after=max(1, int(PAUSE_S - since) + 1))
            for purpose in WORKING:
                key, block = hsm.worked(new_id(), purpose, Handle(*row))  # type: ignore[arg-type]
                name = WORKING_NAME if purpose == "pin" else ""
                await _put(connection, merchant_id, terminal_id, key, name, "sign_in")
                given.append(Working(purpose, name, key.kcv, block))
                if purpose == "pin":
                    pins.append(Held((terminal_id, "pin", name), key))
            await connection.execute(FORGET, terminal_id)
        for held in pins:
            self.store.adopt(held)
        return given


async def _put(connection: Connection, merchant_id: UUID, terminal_id: UUID, key: Handle, name: str, source: str) -> None:
    await connection.execute(REPLACE, terminal_id, key.purpose, name, None)
    await connection.execute(INSERT, key.key_id, None, merchant_id, terminal_id, key.purpose, name, key.algorithm, key.kcv, key.storage_key,
                             key.wrapped, source, 0, "active", None)


def _no_point() -> Problem:
    return Problem("invalid", "One or more fields are wrong; see errors.",
                   errors=[{"field": "transport_key", "rule": "an uncompressed point of P-256, in hex", "type": "key_malformed"}])
