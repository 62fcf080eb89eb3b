"""From an address to the transport that it calls for."""

from __future__ import annotations

from mien_client.security import Security
from mien_client.transports.addresses import rest_address
from mien_client.transports.base import Transport


def open_transport(address: str, security: Security) -> Transport:
    """Return the transport that ``address`` calls for. Nothing is sent yet.

    The libraries of each are imported here: together they take longer to load than the rest of this package.

    Raises:
        ConfigurationError: The address or the options are invalid.
    """
    if (rest := rest_address(address)) is not None:
        from mien_client.transports.rest import RestTransport

        return RestTransport(rest, security)
    from mien_client.transports.grpc import GrpcTransport

    return GrpcTransport(address, security)
