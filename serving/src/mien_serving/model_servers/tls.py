"""The key and the certificates of ``--ssl_config_file``, checked before any model is loaded."""

from __future__ import annotations

import contextlib
import re
import ssl
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mien_serving.core.config_files import read_message
from mien_serving.core.status import invalid_argument
from mien_serving.model_servers.options import SslOptions

if TYPE_CHECKING:
    import grpc

_KEY: Final = re.compile("-----BEGIN [A-Z ]*PRIVATE KEY-----")
_ENCRYPTED_KEY: Final = re.compile("-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED", re.MULTILINE)
_CERTIFICATE: Final = re.compile("-----BEGIN (X509 |TRUSTED )?CERTIFICATE-----")
_MISMATCH: Final = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}
"""OpenSSL's reasons for a key that does not match its certificate."""


def read_ssl_options(file: Path) -> SslOptions:
    """Read an ``SSLConfig`` in text form.

    Raises:
        StatusError: The file cannot be read, or its key or certificates cannot be used; the message names the field.
    """
    config = read_message(file, "SSLConfig")
    if not _KEY.search(config.server_key):
        raise invalid_argument(f"{file}: server_key is not in PEM form")
    if _ENCRYPTED_KEY.search(config.server_key):
        raise invalid_argument(
            f"{file}: server_key is encrypted, and the server cannot ask for a password; decrypt it, for example with "
            "openssl pkey"
        )
    if config.client_verify and not config.custom_ca:
        raise invalid_argument(f"{file}: client_verify needs custom_ca, the certificates to trust")
    _check_certificates(file, "server_cert", config.server_cert)
    if config.custom_ca:
        _check_certificates(file, "custom_ca", config.custom_ca)
    options = SslOptions(config.server_key, config.server_cert, config.custom_ca, config.client_verify)
    _check_pair(file, options)
    return options


def server_credentials(options: SslOptions) -> grpc.ServerCredentials:
    """Return the credentials for a secure port."""
    import grpc

    return grpc.ssl_server_credentials(
        [(options.server_key.encode(), options.server_cert.encode())],
        options.custom_ca.encode() or None,
        require_client_auth=options.client_verify,
    )


def _check_certificates(file: Path, field: str, text: str) -> None:
    if not _CERTIFICATE.search(text):
        raise invalid_argument(f"{file}: {field} is not in PEM form")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise invalid_argument(f"{file}: {field} is incomplete or damaged") from error


def _check_pair(file: Path, options: SslOptions) -> None:
    """Refuse a key that cannot be read or does not match the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with contextlib.suppress(ssl.SSLError):
        context.set_ciphers("ALL:@SECLEVEL=0")  # Clients decide whether a key is long enough.
    # OpenSSL reads keys from files only. Without a folder for them, gRPC's own check must suffice.
    with contextlib.suppress(FileNotFoundError), tempfile.TemporaryDirectory(prefix="mien-serve-") as folder:
        key, certificate = Path(folder, "key"), Path(folder, "certificate")
        key.touch(mode=0o600)
        key.write_text(options.server_key, encoding="utf-8")
        certificate.write_text(options.server_cert, encoding="utf-8")
        try:
            context.load_cert_chain(certificate, key, password=lambda: "")
        except ssl.SSLError as error:
            if error.reason in _MISMATCH:
                raise invalid_argument(f"{file}: server_key is not the key of server_cert") from error
            raise invalid_argument(f"{file}: server_key is incomplete or damaged") from error
    _check_with_grpc(file, options)


def _check_with_grpc(file: Path, options: SslOptions) -> None:
    """Refuse keys that OpenSSL supports but gRPC does not, such as rare algorithms."""
    import grpc

    with ThreadPoolExecutor() as threads:
        try:
            grpc.server(threads).add_secure_port("127.0.0.1:0", server_credentials(options))
        except (RuntimeError, ValueError) as error:
            raise invalid_argument(
                f"{file}: gRPC cannot use server_key and server_cert; use RSA or ECDSA (P-256, P-384)"
            ) from error
