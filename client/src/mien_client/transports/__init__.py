"""Transports carry the requests of a client to a server, over gRPC, REST or anything else.

The protocol is `Transport`. A client opens the transport that an address calls for, or uses the one that it is given.
"""

from mien_client.transports.base import Answer, Deadline, Pending, Request, Target, Transport, VersionStatus
from mien_client.transports.mock import MockTransport

__all__ = ["Answer", "Deadline", "MockTransport", "Pending", "Request", "Target", "Transport", "VersionStatus"]
