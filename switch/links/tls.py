"""TLS of a line: what it is connected with, the names of refusals, and when certificates end. At least TLS 1.2; nothing turns a check off."""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime

from switch.links import Tls
from switch.security.certificates import CertificateError, ends_at

# OpenSSL's verification codes (X509_V_ERR_*).
REFUSALS = {
    9: "certificate_not_yet_valid", 10: "certificate_expired", 18: "certificate_not_trusted", 19: "certificate_not_trusted",
    20: "certificate_not_trusted", 21: "certificate_not_trusted", 23: "certificate_revoked", 62: "certificate_of_another_name",
    64: "certificate_of_another_name",
}
# What a host says when it does not take ours. TLS 1.3 says it only after the handshake.
ALERTS = ("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "UNSUPPORTED_CERTIFICATE", "CERTIFICATE_REVOKED", "CERTIFICATE_EXPIRED", "CERTIFICATE_UNKNOWN",
          "UNKNOWN_CA", "ACCESS_DENIED")


class Unusable(OSError):
    """A file of ours is missing, unreadable or wrong; the text says which."""


def context(tls: Tls) -> tuple[ssl.SSLContext, datetime | None]:
    """With the end of our own certificate, if we show one. Reads files: not for the event loop. Raises Unusable."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the chain and the name
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.ca_file is None:
        made.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:  # this CA and no other
        _read("ca_file", lambda: made.load_verify_locations(tls.ca_file))
    if tls.certificate_file is None:
        return made, None
    certificate, key = tls.certificate_file, tls.key_file
    _read("certificate_file or key_file", lambda: made.load_cert_chain(certificate, key, _no_password))
    try:
        return made, ends_at(certificate)
    except CertificateError as fault:
        raise Unusable(f"certificate_file: {fault}") from None


def _read(what: str, load: Callable[[], None]) -> None:
    try:
        load()
    except (OSError, ValueError) as fault:  # SSLError is an OSError
        raise Unusable(f"{what}: {getattr(fault, 'reason', None) or getattr(fault, 'strerror', None) or type(fault).__name__}") from None


def _no_password() -> str:
    """A key that asks for one is refused: the terminal of the process must not be asked."""
    raise ValueError("the key is encrypted")


def refusal(error: BaseException | None) -> str | None:
    """The name of a refused certificate, the host's or ours; None when the error is something else."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return REFUSALS.get(error.verify_code, "certificate_not_trusted")
    reason = (getattr(error, "reason", None) or "") if isinstance(error, ssl.SSLError) else ""
    if "ALERT" in reason:
        said = next((alert for alert in ALERTS if alert in reason), None)
        return None if said is None else f"our certificate is refused: {said.lower()}"
    return None  # TLS 1.2 hosts say HANDSHAKE_FAILURE for want of one too, and for much else


def ends(connected: ssl.SSLObject) -> datetime | None:
    """When the host's certificate ends."""
    certificate = connected.getpeercert()
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC) if certificate else None
