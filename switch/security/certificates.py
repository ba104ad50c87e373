"""X.509 certificates in files: how long they hold."""

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509


class CertificateError(ValueError):
    """The file cannot be read, or holds no certificate."""


def ends_at(path: str) -> datetime:
    """When the first certificate of a chain ends: ours. Raises CertificateError."""
    try:
        ends: datetime = x509.load_pem_x509_certificates(Path(path).read_bytes())[0].not_valid_after_utc
    except (OSError, ValueError) as error:
        raise CertificateError(f"it cannot be read as certificates ({type(error).__name__})") from None
    return ends.astimezone(UTC)
