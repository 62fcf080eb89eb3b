"""The addresses, ports and sockets of the server, checked before any model is loaded."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from pathlib import Path

from mien_serving.core.status import Code, StatusError, invalid_argument


def resolved_host(host: str) -> str:
    """Return the IP address of ``--host``; IPv4 if the name has both.

    Raises:
        StatusError: The name is unknown, or the address does not belong to this machine.
    """
    expected = "expected an address or a name of this machine, or 0.0.0.0 for all of its addresses"
    if not host:
        raise invalid_argument(f"--host is empty; {expected}")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        address = str(min(found, key=lambda one: one[0] != socket.AF_INET)[4][0])
        if not _is_any(address):
            listen(address, 0).close()
    except (OSError, UnicodeError) as error:
        raise invalid_argument(f"--host={host}: {_reason(error)}; {expected}") from error
    return address


def grpc_target(host: str, port: int) -> str:
    """Return an address and a port in gRPC's form."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a port of an address; 0.0.0.0 and :: both mean every address, IPv4 and IPv6.

    Raises:
        OSError: The port cannot be used.
    """
    if _is_any(host) and socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server((host, port), family=_family(host))


def check_port(host: str, port: int, flag: str) -> None:
    """Check that a port can be used.

    Raises:
        StatusError: The port cannot be used; the message names the flag.
    """
    try:
        listen(host, port).close()
    except OSError as error:
        raise port_error(port, flag, error) from error


def port_error(port: int, flag: str, error: Exception) -> StatusError:
    """Return the error for a port that cannot be used."""
    return StatusError(
        Code.UNAVAILABLE,
        f"port {port} cannot be used ({_reason(error)}); choose another with {flag}, or 0 for any free one",
    )


def check_socket(path: str) -> None:
    """Check that a UNIX socket can be created.

    Raises:
        StatusError: The socket cannot be created; the message names the path.
    """
    try:
        kind = Path(path).stat().st_mode
    except (OSError, ValueError):
        kind = None
    if kind is not None and not stat.S_ISSOCK(kind):
        raise socket_error(path, f"the path is a {'folder' if stat.S_ISDIR(kind) else 'file'}")
    if kind is not None:
        return  # gRPC replaces a socket that another server has left behind.
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(path)
        except OSError as error:
            reason = _reason(error)
            if error.errno == errno.ENOENT:
                reason = f"the folder {Path(path).parent} does not exist"
            elif not error.errno:
                reason = f"a path of {len(os.fsencode(path))} bytes is too long for a UNIX socket"
            raise socket_error(path, reason) from error
    Path(path).unlink()


def socket_error(path: str, reason: str) -> StatusError:
    """Return the error for a UNIX socket that cannot be created."""
    return invalid_argument(f"--grpc_socket_path={path}: {reason}; choose another path")


def _is_any(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_unspecified


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        return os.strerror(error.errno).lower()  # The message of create_server() repeats the address.
    return str(error.strerror if isinstance(error, OSError) else error).lower()
