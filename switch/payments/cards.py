"""The card of a stored transaction, sealed beside it. A sale by payment code has none: the code is of use once, and nothing keeps it."""

from datetime import date
from uuid import UUID

from switch.payments.transaction import Transaction
from switch.security.pan import Pan, PaymentCode
from switch.security.vault import Vault

QR = "qr"  # the entry mode


def sealed(vault: Vault, pan: Pan | PaymentCode | None, expiry: str, transaction_id: UUID, day: date) -> tuple[str, bytes]:
    """The key id and the blob for a row; of a payment code nothing."""
    return vault.seal(pan, expiry, transaction_id.bytes, day) if isinstance(pan, Pan) else (vault.keyring.current, b"")


def opened(vault: Vault, row: Transaction) -> tuple[Pan | None, str]:
    """The card and its expiry, None for a sale by payment code. Raises VaultError: an emptied seal of a card is not a missing card."""
    if row.entry_mode == QR:
        return None, ""
    return vault.open(row.pan_key, row.pan_sealed, row.transaction_id.bytes, row.pan_sealed_on)
