"""Checks of addresses."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from mien_client._exceptions import ConfigurationError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_RESOLVED_BY_GRPC = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock):")
_HIGHEST_PORT = 65535


def rest_address(address: str) -> str | None:
    """Return ``address`` with its scheme in lower case if it is for REST, or None if it is for gRPC.

    Raises:
        ConfigurationError: It is not an address of either kind. A password is not in the text.
    """
    if not isinstance(address, str) or not address or re.search(r"[\s\x00-\x1f]", address):
        raise ConfigurationError(
            f"Expected an address such as 'localhost:8500' (gRPC) or 'http://localhost:8501' (REST), got {address!r}"
        )
    if "@" in address:
        raise ConfigurationError(
            "Expected an address without a user name and password, got one with '@': use token or api_key instead"
        )
    if "," in address and not _RESOLVED_BY_GRPC.match(address):
        raise ConfigurationError(f"Expected one address, got {address!r}: give several as a list, {address.split(',')}")
    scheme = _SCHEME.match(address)
    if scheme and scheme[1].lower() in ("http", "https"):
        address = scheme[1].lower() + address[len(scheme[1]) :].rstrip("/")
        _check_rest(address)
        return address
    if not _RESOLVED_BY_GRPC.match(address):
        _check_grpc(address, scheme[1] if scheme else None)
    return None


def _check_rest(address: str) -> None:
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:  # Brackets that do not match.
        host = None
    if not host:
        raise ConfigurationError(f"Expected an address such as 'http://localhost:8501', got {address!r}")
    if parts.path or parts.query or parts.fragment:
        raise ConfigurationError(f"Expected a host and a port after '://', got a path or a query in {address!r}")
    rest = parts.netloc.rpartition("]")[2] if "]" in parts.netloc else parts.netloc
    _check_host_and_port(address, rest, required=False)


def _check_grpc(address: str, scheme: str | None) -> None:
    if scheme:
        host = address.partition("://")[2] or "localhost:8500"
        raise ConfigurationError(
            f"Expected 'host:port' for gRPC, or 'http://' or 'https://' for REST, got the scheme {scheme!r} in "
            f"{address!r}: write {host!r} (and tls=True if the connection is encrypted)"
        )
    if "/" in address or "?" in address or "#" in address:
        raise ConfigurationError(f"Expected 'host:port' for gRPC, got a path in {address!r}")
    if address.count(":") > 1 and not address.startswith("["):
        raise ConfigurationError(
            f"Expected an IPv6 address in brackets and a port, as in '[::1]:8500', got {address!r}"
        )
    if not address.startswith("["):
        _check_host_and_port(address, address, required=True)
    elif re.match(r"\[[0-9A-Fa-f:.]+(%\w+)?\](:|$)", address):
        _check_host_and_port(address, address.partition("]")[2], required=True)
    else:
        raise ConfigurationError(f"Expected an address such as '[::1]:8500', got {address!r}")


def _check_host_and_port(address: str, rest: str, *, required: bool) -> None:
    """Check ``rest``, which is the host and port, or what follows an IPv6 host in brackets."""
    host, colon, port = rest.partition(":")
    if not colon and not required:
        return
    if not colon:
        raise ConfigurationError(
            f"Expected a port, as in '{address}:8500' (TensorFlow Serving's gRPC port), got {address!r}"
        )
    if not host and rest == address:
        raise ConfigurationError(f"Expected a host before the port, as in 'localhost{address}', got {address!r}")
    if not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) <= _HIGHEST_PORT):
        raise ConfigurationError(f"Expected a port from 1 to {_HIGHEST_PORT}, got {port[:20]!r} in {address!r}")
