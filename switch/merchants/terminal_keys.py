"""Keys of tills in somebody's database transaction: issued to the device that is bound to one, and ended with its binding."""

from uuid import UUID

from switch.database import Connection
from switch.security import credentials
from switch.security.credentials import Credential

ISSUE = "INSERT INTO api_key (key_id, role, merchant_id, terminal_id, secret_digest) VALUES ($1, 'terminal', $2, $3, $4)"
REVOKE = "UPDATE api_key SET revoked_at = now() WHERE terminal_id = $1 AND revoked_at IS NULL"


ERASE = "UPDATE crypto_key SET state = 'replaced', ended_at = now() WHERE terminal_id = $1 AND state = 'active'"
# What a device was given itself; keys that people loaded for its till stay until the till loses its device.
GIVEN = f"{ERASE} AND source IN ('activation', 'sign_in')"


async def issue(connection: Connection, merchant_id: UUID, terminal_id: UUID) -> Credential:
    """A new key, whose text exists in this answer alone."""
    issued = credentials.issue("terminal")
    await connection.execute(ISSUE, issued.key_id, merchant_id, terminal_id, issued.digest)
    return issued


async def revoke(connection: Connection, terminal_id: UUID) -> None:
    """All keys of a till, also those that were issued by hand."""
    await connection.execute(REVOKE, terminal_id)
    await connection.execute(GIVEN, terminal_id)


async def erase(connection: Connection, terminal_id: UUID) -> None:
    """Every cryptographic key of a till, whoever loaded it: its device was opened, or is its device no more."""
    await connection.execute(ERASE, terminal_id)
