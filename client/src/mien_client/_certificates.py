"""Certificates and keys that others may have damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509


def readable(certificate: x509.Certificate) -> x509.Certificate:
    """Return a certificate whose parts can be read; the library reads each only when it is asked for.

    Raises:
        Exception: One of `unreadable`.
    """
    certificate.subject.rfc4514_string()
    _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.extensions
    return certificate


def unreadable() -> tuple[type[Exception], ...]:
    """Return what is raised for certificates and keys that are damaged or of an unknown kind."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    return (
        ValueError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    )
