"""A link that loses and delays packets, in both directions.

The kernel's netem does that, where the kernel has it. Some kernels of virtual machines lack it; there, a thread of this
process takes the place of the cable.
"""

from __future__ import annotations

import heapq
import itertools
import random
import selectors
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, cast

from soak.network import Host, Network, ip, tc

_ETH_P_ALL: Final = 3
_SOL_PACKET: Final = 263
_PACKET_VNET_HDR: Final = 15
_PACKET_OUTGOING: Final = 4
_LARGEST: Final = 2**17


@contextmanager
def bad_link(network: Network, host: Host, *, delay_s: float, jitter_s: float, loss: float) -> Iterator[None]:
    """Make the link of a host bad for the time of the block.

    Args:
        network: The network.
        host: The host.
        delay_s: Mean delay of each packet in each direction, in seconds.
        jitter_s: The most by which a delay differs from the mean, in seconds.
        loss: The share of packets that vanish, 0 to 1.
    """
    netem = ["netem", "delay", f"{delay_s * 1000:g}ms", f"{jitter_s * 1000:g}ms", "loss", f"{loss:%}"]
    ends = [(host.namespace, "eth0"), (network.switch, host.port)]
    if not _has_netem(ends[0]):
        with _Wire(network, host, delay_s, jitter_s, loss):
            yield
        return
    for namespace, device in ends:
        tc("-n", namespace, "qdisc", "replace", "dev", device, "root", *netem)
    try:
        yield
    finally:
        for namespace, device in ends:
            tc("-n", namespace, "qdisc", "del", "dev", device, "root")


def _has_netem(end: tuple[str, str]) -> bool:
    namespace, device = end
    command = ["tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", "netem"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603


class _Wire:
    """A thread between a host's cable and the switch: it carries packets from one to the other, late or not at all."""

    def __init__(self, network: Network, host: Host, delay_s: float, jitter_s: float, loss: float) -> None:
        self._network = network
        self._host = host
        self._delay_s, self._jitter_s, self._loss = delay_s, jitter_s, loss
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._carry)

    def __enter__(self) -> None:
        switch = self._network.switch
        ip("-n", switch, "link", "add", "wire", "type", "veth", "peer", "name", "wire-end")
        ip("-n", switch, "link", "set", "wire", "up")
        ip("-n", switch, "link", "set", self._host.port, "nomaster")
        within = Host(self._network, "switch", "")
        self._ends = [within.run(partial(_packets, device)) for device in (self._host.port, "wire")]
        ip("-n", switch, "link", "set", "wire-end", "master", "bridge", "up")
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        for end in self._ends:
            end.close()
        ip("-n", self._network.switch, "link", "del", "wire")
        ip("-n", self._network.switch, "link", "set", self._host.port, "master", "bridge")

    def _carry(self) -> None:
        under_way: list[tuple[float, int, socket.socket, bytes]] = []
        count = itertools.count()
        with selectors.DefaultSelector() as selector:
            for end, other in (self._ends, reversed(self._ends)):
                selector.register(end, selectors.EVENT_READ, other)
            while not self._stopped.is_set():
                wait_s = under_way[0][0] - time.monotonic() if under_way else 0.1
                for key, _ in selector.select(max(0.0, min(0.1, wait_s))):
                    packet, (_, _, direction, *_) = cast("socket.socket", key.fileobj).recvfrom(_LARGEST)
                    if direction == _PACKET_OUTGOING or random.random() < self._loss:  # noqa: S311
                        continue
                    late = self._delay_s + random.uniform(-self._jitter_s, self._jitter_s)  # noqa: S311
                    heapq.heappush(under_way, (time.monotonic() + late, next(count), key.data, packet))
                while under_way and under_way[0][0] <= time.monotonic():
                    _, _, to, packet = heapq.heappop(under_way)
                    to.send(packet)


def _packets(device: str) -> socket.socket:
    """Return a socket for the packets of a device, with what the kernel knows of their checksums."""
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    packets.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
    packets.bind((device, 0))
    return packets
