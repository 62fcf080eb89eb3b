"""How a client makes sure whom it talks to, and says who it is."""

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
    """What a connection is made with.

    Attributes:
        tls: Whether connections are encrypted. REST says that in its address too.
        ca_file: Certificates (PEM) of those whose word is taken for who a server is; None for the usual ones.
        cert_file: The client's own certificate (PEM), for servers that ask for one.
        key_file: The key (PEM, without a password) of that.
        headers: What requests carry to say who asks. Secret.
    """

    tls: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def is_for(self, address: str, encrypted: bool) -> None:
        """Checks that this fits ``address``, which is one of an ``encrypted`` connection or is not.

        Raises:
            ConfigurationError: If TLS was asked for and would not be used.
        """
        if self.tls and not encrypted:
            raise ConfigurationError(f"{address!r} is not encrypted, but TLS is asked for: say https://")
        if self.headers and not encrypted and not _LOOPBACK.match(address):
            _log.warning("the token or API key goes to %s unencrypted", address)


def security(
    tls: bool | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    cert_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
    token: str | None = None,
    api_key: str | None = None,
) -> Security:
    """Returns what the arguments say, or ``MIEN_TLS``, ``MIEN_CA_FILE`` and so on for those that are None.

    Raises:
        ConfigurationError: If one of them cannot be meant. A secret is not in its text.
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
        raise ConfigurationError("a certificate and its key come together: give both cert_file and key_file, or none")
    if tls is False and (ca or cert):
        raise ConfigurationError("certificates are given, but TLS is switched off")
    _check_files(ca, cert, key)
    return Security(bool(tls or ca or cert), ca, cert, key, tuple(headers))


def _switch(text: str) -> bool:
    if text.lower() not in ("0", "1", "false", "true"):
        raise ConfigurationError(f"MIEN_TLS is {text!r}: say 1 or 0")
    return text.lower() in ("1", "true")


def _secret(name: str, value: str | None) -> str | None:
    """Returns ``value`` if it can stand in a header. The libraries would show it in the error if it could not."""
    if value is not None and not (
        isinstance(value, str) and value.isascii() and value.isprintable() and " " not in value
    ):
        raise ConfigurationError(f"the {name} has characters that no {name} has: a line break, perhaps, or a space")
    return value or None


def _check_files(ca: str | None, cert: str | None, key: str | None) -> None:
    if ca is None and cert is None:
        return
    import ssl  # Which takes a while.

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
        raise ConfigurationError(f"{ca} holds no certificates in PEM form") from None
    try:
        if cert is not None:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError):
        raise ConfigurationError(
            f"{cert} and {key} are no certificate and its key in PEM form, without a password"
        ) from None


def channel_credentials(security: Security) -> grpc.ChannelCredentials:
    """Returns what an encrypted gRPC channel is made with."""
    import grpc  # REST does without it.

    files = (security.ca_file, security.key_file, security.cert_file)
    return grpc.ssl_channel_credentials(*(Path(file).read_bytes() if file else None for file in files))
