"""What the edge and its callers need: an authority, the edge's certificate, and an API key."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_LONG: Final = timedelta(days=30)
_SINCE: Final = timedelta(days=1)
"""How long ago certificates became valid, since the clocks of callers are turned back, too."""


class Certificates:
    """An authority, and what it issues, in a folder.

    Attributes:
        ca_file: The authority's certificate.
        key: The callers' API key.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._ca_key = ec.generate_private_key(ec.SECP256R1())
        self._ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mien soak")])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = self._builder(self._ca_name, self._ca_key, _LONG).add_extension(usage, critical=True)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.ca_file = folder / "ca.crt"
        self.ca_file.write_bytes(_pem(builder.sign(self._ca_key, hashes.SHA256())))
        self.key = secrets.token_hex(32)

    def folder(self, edge: str) -> Path:
        """Return the folder of an edge's files, as deploy/edge/start.sh expects them."""
        return self._folder / edge

    def issue(self, edge: str, valid: timedelta = _LONG) -> None:
        """Write a new certificate for an edge, which is valid for this long from now on, and what else it needs."""
        folder = self.folder(edge)
        folder.mkdir(exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, edge)])
        builder = self._builder(name, key, valid)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(edge)]), critical=False)
        certificate = builder.sign(self._ca_key, hashes.SHA256())
        plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / "server.key").write_bytes(key.private_bytes(*plain))
        (folder / "server.crt").write_bytes(_pem(certificate))
        (folder / "clients-ca.crt").write_bytes(self.ca_file.read_bytes())
        (folder / "api-keys").write_text(f"{self.key} soak\n", encoding="utf-8")

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, valid: timedelta) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self._ca_name)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - _SINCE).not_valid_after(now + valid)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
