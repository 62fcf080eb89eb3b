"""Hosts of our own: network namespaces, joined by a switch in yet another one; nothing of the machine changes."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

T = TypeVar("T")

SWITCH: Final = "switch"
RESOLVER: Final = "127.0.0.11"
"""Where each host asks for names; Docker's containers ask there, too, so the edge's configuration fits as it is."""

_NAMED: Final = Path("/run/netns")
_ETC: Final = Path("/etc/netns")
_KEEP_OTHERS: Final = Path("/proc/sys/net/ipv4/conf/all/promote_secondaries")
"""By default a host that loses its first address loses the others, too."""
_CLONE_NEWNET: Final = 0x40000000


class NetworkError(Exception):
    """The network could not be made; the text says why."""


def ip(*arguments: object) -> None:
    """Run ``ip``.

    Raises:
        NetworkError: It failed.
    """
    _run("ip", *arguments)


def tc(*arguments: object) -> None:
    """Run ``tc``.

    Raises:
        NetworkError: It failed.
    """
    _run("tc", *arguments)


def _run(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", check=False)  # noqa: S603
    if done.returncode:
        raise NetworkError(f"`{' '.join(map(str, command))}` failed: {done.stderr.strip()}")


class Host:
    """A network namespace with one address."""

    def __init__(self, network: Network, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.namespace = network.namespace(name)
        self.port = f"to-{name}"
        """The switch's end of its cable."""

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command line that runs a command on this host."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def run(self, function: Callable[[], T]) -> T:
        """Call a function in a thread of its own on this host; what it opens stays there."""

        def inside() -> T:
            _enter(self.namespace)
            return function()

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(inside).result()

    def move(self, address: str) -> None:
        """Give it one more address, which is its address from now on."""
        ip("-n", self.namespace, "address", "add", f"{address}/24", "dev", "eth0")
        self.address = address

    def drop(self, address: str) -> None:
        """Remove an address."""
        ip("-n", self.namespace, "address", "del", f"{address}/24", "dev", "eth0")


class Network:
    """Hosts on one switch; a context manager, which removes them.

    Args:
        names: The names of the hosts.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._prefix = f"mien-soak-{os.getpid()}-"
        self.switch = self.namespace(SWITCH)
        self.hosts = {name: Host(self, name, f"10.0.0.{number}") for number, name in enumerate(names, 10)}
        self._spare = 100

    def namespace(self, name: str) -> str:
        """Return the name of a host's namespace."""
        return f"{self._prefix}{name}"

    def spare_address(self) -> str:
        """Return an address that no host has had."""
        self._spare += 1
        return f"10.0.0.{self._spare}"

    @contextmanager
    def unplugged(self, host: Host) -> Iterator[None]:
        """Cut a host off for the time of the block: what it sends and what is sent to it vanishes."""
        ip("-n", self.switch, "link", "set", host.port, "nomaster")
        try:
            yield
        finally:
            ip("-n", self.switch, "link", "set", host.port, "master", "bridge")

    def __enter__(self) -> Self:
        _remove_leftovers()
        try:
            ip("netns", "add", self.switch)
            ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
            ip("-n", self.switch, "link", "set", "bridge", "up")
            for host in self.hosts.values():
                self._plug_in(host)
        except BaseException:
            self._remove()
            raise
        return self

    def _plug_in(self, host: Host) -> None:
        etc = _ETC / host.namespace
        etc.mkdir(parents=True)
        (etc / "resolv.conf").write_text(f"nameserver {RESOLVER}\noptions timeout:1 attempts:3\n", encoding="utf-8")
        ip("netns", "add", host.namespace)
        cable = ("type", "veth", "peer", "name", host.port, "netns", self.switch)
        ip("link", "add", "eth0", "netns", host.namespace, *cable)
        ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", host.namespace, "link", "set", device, "up")
        ip("-n", self.switch, "link", "set", host.port, "master", "bridge", "up")
        host.run(lambda: _KEEP_OTHERS.write_text("1", encoding="ascii"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        for name in [*self.hosts, SWITCH]:
            _remove(self.namespace(name))


def _enter(namespace: str) -> None:
    """Move this thread into a namespace."""
    with (_NAMED / namespace).open("rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def _remove(namespace: str) -> None:
    shutil.rmtree(_ETC / namespace, ignore_errors=True)
    if (_NAMED / namespace).exists():
        ip("netns", "del", namespace)


def _remove_leftovers() -> None:
    """Remove the namespaces of a run that was killed."""
    for path in _NAMED.glob("mien-soak-*"):
        owner = re.match(r"mien-soak-(\d+)-", path.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            _remove(path.name)
