"""TLS, certificates, tokens and API keys of a client's connections."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mien_client._exceptions import ConfigurationError

if TYPE_CHECKING:
    import grpc

_log = logging.getLogger("mien_client")

_LOOPBACK = re.compile(r"(http://|dns:///)?(localhost|127(\.\d+){3}|\[::1\])(:\d+)?/?$|unix:")


@dataclass(frozen=True)
class Security:
    """The security options of a connection.

    Attributes:
        tls: Whether connections are encrypted. For REST the address says that too.
        ca_file: Certificates (PEM) of the authorities to trust; None for the system's.
        cert_file: The client's own certificate (PEM), for servers that ask for one.
        key_file: The key of that certificate (PEM, without a password).
        headers: The headers that identify the client. Secret.
    """

    tls: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def check(self, address: str, encrypted: bool) -> None:
        """Check that these options fit ``address``, whose connection is ``encrypted`` or not.

        Raises:
            ConfigurationError: TLS is asked for and would not be used.
        """
        if self.tls and not encrypted:
            raise ConfigurationError(f"Expected an https:// address, because TLS is asked for, got {address!r}")
        if self.headers and not encrypted and not _LOOPBACK.match(address):
            _log.warning("The token or API key is sent to %s unencrypted", address)


def security(
    tls: bool | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    cert_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
    token: str | None = None,
    api_key: str | None = None,
) -> Security:
    """Return the security options; ``MIEN_TLS``, ``MIEN_CA_FILE`` and so on replace those that are None.

    Args:
        tls: Whether connections are encrypted.
        ca_file: See `Security`.
        cert_file: See `Security`.
        key_file: See `Security`.
        token: Sent as ``authorization: Bearer ...``.
        api_key: Sent as ``x-api-key``.

    Raises:
        ConfigurationError: An option is invalid. A secret is not in the text.
    """
    if tls is None and (text := os.environ.get("MIEN_TLS")):
        tls = _switch(text)
    ca, cert, key = (
        os.fspath(given) if given is not None else os.environ.get(name) or None
        for given, name in ((ca_file, "MIEN_CA_FILE"), (cert_file, "MIEN_CERT_FILE"), (key_file, "MIEN_KEY_FILE"))
    )
    headers = []
    if token := _secret("token", token if token is not None else os.environ.get("MIEN_TOKEN")):
        headers.append(("authorization", f"Bearer {token}"))
    if api_key := _secret("API key", api_key if api_key is not None else os.environ.get("MIEN_API_KEY")):
        headers.append(("x-api-key", api_key))
    if bool(cert) != bool(key):
        raise ConfigurationError("Expected both cert_file and key_file, or neither, got one of them")
    if tls is False and (ca or cert):
        raise ConfigurationError("Expected no certificates, because TLS is switched off, got ca_file or cert_file")
    _check_files(ca, cert, key)
    return Security(bool(tls or ca or cert), ca, cert, key, tuple(headers))


def _switch(text: str) -> bool:
    if text.lower() not in ("0", "1", "false", "true"):
        raise ConfigurationError(f"Expected 1 or 0 for MIEN_TLS, got {text!r}")
    return text.lower() in ("1", "true")


def _secret(name: str, value: str | None) -> str | None:
    """Return ``value`` if it is valid in a header. Otherwise the libraries would show it in their error message."""
    if value is not None and not (
        isinstance(value, str) and value.isascii() and value.isprintable() and " " not in value
    ):
        raise ConfigurationError(f"Expected the {name} to be printable ASCII without spaces or line breaks, got others")
    return value or None


def _check_files(ca: str | None, cert: str | None, key: str | None) -> None:
    if ca is None and cert is None:
        return
    import ssl  # Importing it takes a while.

    for file in (ca, cert, key):
        if file is not None:
            try:
                Path(file).read_bytes()
            except OSError as error:
                raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None
    try:
        if ca is not None:
            ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise ConfigurationError(f"Expected certificates in PEM form in {ca}, found none") from None
    try:
        if cert is not None:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError):
        raise ConfigurationError(
            f"Expected a certificate and its key in PEM form, without a password, in {cert} and {key}"
        ) from None


def channel_credentials(security: Security) -> grpc.ChannelCredentials:
    """Return the credentials of an encrypted gRPC channel."""
    import grpc  # REST does not need it.

    files = (security.ca_file, security.key_file, security.cert_file)
    return grpc.ssl_channel_credentials(*(Path(file).read_bytes() if file else None for file in files))
