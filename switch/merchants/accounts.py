"""How we are set up at an acquirer: the options of its plug-in, and the secret that signs what we say, sealed and never shown again."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from switch import acquirers
from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.merchants.rules import refuse
from switch.plug_ins import Account
from switch.security.vault import Vault

SECRET_MAX = 512

ACCOUNT = """SELECT a.name, a.dialect, a.options, a.secret_at, l.host, l.port FROM acquirer a JOIN acquirer_line l USING (acquirer_id)
WHERE a.acquirer_id = $1 ORDER BY l.line_id LIMIT 1"""
SEALED = "SELECT secret_key, secret_sealed FROM acquirer_secret WHERE acquirer_id = $1"
SET = "UPDATE acquirer SET options = $2::jsonb, secret_at = CASE WHEN $3 THEN now() ELSE secret_at END WHERE acquirer_id = $1"
SEAL = """INSERT INTO acquirer_secret (acquirer_id, secret_key, secret_sealed) VALUES ($1, $2, $3)
ON CONFLICT (acquirer_id) DO UPDATE SET secret_key = EXCLUDED.secret_key, secret_sealed = EXCLUDED.secret_sealed"""


class Set(NamedTuple):
    """An acquirer's account as it is shown. `secret_at`: since when it has its secret, None without one."""

    dialect: str
    options: dict[str, str]
    secret_at: datetime | None


async def secret_of(connection: Connection | Pool, vault: Vault, acquirer_id: UUID) -> bytes:
    """Empty without one. Raises VaultError."""
    row = await connection.fetchrow(SEALED, acquirer_id)
    return vault.open_row("acquirer", row["secret_key"], row["secret_sealed"], acquirer_id.bytes) if row is not None else b""


async def account_of(pool: Pool, acquirer_id: UUID) -> Set:
    """Raises Problem: not_found, not_ready."""
    try:
        row = await pool.fetchrow(ACCOUNT, acquirer_id)
    except UNKNOWN:
        raise Problem("not_ready", retry_after=2) from None
    if row is None:
        raise Problem("not_found")
    return Set(row["dialect"], json.loads(row["options"]), row["secret_at"])


class Accounts:
    """Raises Problem: not_found, invalid, not_ready."""

    def __init__(self, pool: Pool, vault: Vault) -> None:
        self.pool, self.vault = pool, vault

    async def get(self, acquirer_id: UUID) -> Set:
        return await account_of(self.pool, acquirer_id)

    async def set(self, acquirer_id: UUID, options: Mapping[str, str], secret: str | None) -> Set:
        """All options anew; without `secret` the one that stands stays. Every worker's host follows within a second."""
        refuse([("secret", f"at most {SECRET_MAX} printable ASCII characters")]
               if secret is not None and not (secret.isascii() and secret.isprintable() and len(secret) <= SECRET_MAX) else [])
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow(ACCOUNT, acquirer_id)
                if row is None:
                    raise Problem("not_found")
                stands = secret.encode() if secret is not None else await secret_of(connection, self.vault, acquirer_id)
                refuse(acquirers.faults(row["dialect"], Account(row["name"], row["host"], row["port"], options, stands)))
                if secret is not None:
                    await connection.execute(SEAL, acquirer_id, *self.vault.seal_row("acquirer", stands, acquirer_id.bytes))
                await connection.execute(SET, acquirer_id, json.dumps(dict(options)), secret is not None)
        except UNKNOWN:
            raise Problem("not_ready", "The database does not answer. Look first whether it was written.", retry_after=2) from None
        return await self.get(acquirer_id)
