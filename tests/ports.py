"""TCP ports for servers that cannot choose one themselves."""

from __future__ import annotations

import random
import socket

# The kernel gives ports from 32,768 on to whoever asks for any: one of those could be given to the server of another
# test between the choice here and its use, and with SO_REUSEPORT, as gRPC and HAProxy set it, nobody would notice.
_LOWEST, _HIGHEST = 10_000, 32_000


def free_ports(count: int) -> list[int]:
    """Return that many different ports of this machine at which nothing listens."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(_LOWEST, _HIGHEST), _HIGHEST - _LOWEST):
        if len(ports) == count:
            break
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        ports.append(port)
    assert len(ports) == count, f"{len(ports)} of {count} ports are free"
    return ports


def free_port() -> int:
    """Return a port of this machine at which nothing listens."""
    return free_ports(1)[0]
