"""A CA of the tests and what it signs, as files: good ones, and the ways in which one can be wrong."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


class Pair(NamedTuple):
    certificate: Path
    key: Path


class Authority:
    """One CA in a folder; `certificate` is its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key, self.certificate, self.count = ec.generate_private_key(ec.SECP256R1()), folder / f"{name}.pem", 0
        own = self._built(self.name, self.key.public_key(), datetime.now(UTC) - DAY, datetime.now(UTC) + 365 * DAY).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(self.key, hashes.SHA256())
        self.certificate.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def issue(self, host: str, *, begins: timedelta = -DAY, ends: timedelta = 365 * DAY, client: bool = False) -> Pair:
        """For a host's name, or for a client; from now on by `begins` and `ends`."""
        self.count += 1
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        made = self._built(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]), key.public_key(), now + begins, now + ends).add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False).add_extension(
            x509.ExtendedKeyUsage([usage]), critical=False).sign(self.key, hashes.SHA256())
        pair = Pair(self.folder / f"{host}-{self.count}.pem", self.folder / f"{host}-{self.count}.key")
        pair.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return pair

    def _built(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, begins: datetime, ends: datetime) -> x509.CertificateBuilder:
        return x509.CertificateBuilder(subject_name=subject, issuer_name=self.name, public_key=key, serial_number=x509.random_serial_number(),
                                       not_valid_before=begins, not_valid_after=ends)
