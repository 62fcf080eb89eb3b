"""The faults: each a function that breaks one thing for the time of a block, and yields what it broke."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from soak.bad_link import bad_link
from soak.deployment import CALLERS, EDGES, GATEWAYS, MODELS, OPERATOR, SERVERS, Deployment
from soak.memory_limit import out_of_memory
from soak.processes import Process

_HTTP_PORTS: Final = {**dict.fromkeys(SERVERS, 8501), **dict.fromkeys(GATEWAYS, 8080)}
_FREE_DESCRIPTORS: Final = 4
_CONNECTIONS: Final = 60
_PUBLISHED_S: Final = 120.0


class FaultError(Exception):
    """A fault had another effect than it must have; the text says which."""


def _any_process(deployment: Deployment, chance: random.Random) -> Process:
    return chance.choice(list(deployment.processes.values()))


@contextmanager
def kill(deployment: Deployment, chance: random.Random) -> Iterator[str]:
    """Kill a process; it is started again."""
    process = _any_process(deployment, chance)
    process.kill()
    yield process.name


@contextmanager
def freeze(deployment: Deployment, chance: random.Random) -> Iterator[str]:
    """Freeze a process with SIGSTOP, and later let it go on."""
    process = _any_process(deployment, chance)
    process.send(signal.SIGSTOP)
    try:
        yield process.name
    finally:
        process.send(signal.SIGCONT)


@contextmanager
def loss_and_delay(deployment: Deployment, chance: random.Random) -> Iterator[str]:
    """Let a link lose 5 % of the packets and delay the others by 20 to 80 ms, in both directions."""
    host = deployment.hosts[chance.choice([*deployment.processes, CALLERS])]
    with bad_link(deployment.network, host, delay_s=0.05, jitter_s=0.03, loss=0.05):
        yield host.name


@contextmanager
def partition(deployment: Deployment, chance: random.Random) -> Iterator[str]:
    """Cut a host off: nobody reaches it, and it reaches nobody."""
    host = deployment.hosts[chance.choice(list(deployment.processes))]
    with deployment.network.unplugged(host):
        yield host.name


@contextmanager
def clock_jump(deployment: Deployment, chance: random.Random) -> Iterator[str]:
    """Let a clock be an hour fast or slow at once, and later right again."""
    host = chance.choice([*SERVERS, *GATEWAYS, CALLERS, OPERATOR])
    hours = chance.choice((-1, 1))
    deployment.set_clock(host, hours * 3600)
    try:
        yield f"{host} {hours:+d} h"
    finally:
        deployment.set_clock(host, 0)


@contextmanager
def full_disk(deployment: Deployment, chance: random.Random) -> Iterator[str]:
    """Fill the repository's disk and publish a version, which fails; then make room and publish it again."""
    model = chance.choice(MODELS)
    source = deployment.versions / model / str(chance.choice((1, 2, 3)))
    folder = deployment.site / "models" / model
    before = {path.name for path in folder.iterdir()}
    filler = deployment.site / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(deployment.site).free - 20_000)))
    try:
        result = deployment.rollout("publish", source)
        added = {path.name for path in folder.iterdir()} - before
        if result.returncode != 1 or added or "Traceback" in result.stderr:
            raise FaultError(f"publish on a full disk ended with status {result.returncode}: {result.stderr} {added}")
        yield model
    finally:
        filler.unlink()
    give_up = time.monotonic() + _PUBLISHED_S
    while (result := deployment.rollout("publish", source)).returncode:  # Another rollout may hold the lock.
        if time.monotonic() > give_up:
            raise FaultError(f"publish ended with status {result.returncode}: {result.stderr}")
        time.sleep(1)


@contextmanager
def expired_certificate(deployment: Deployment, chance: random.Random) -> Iterator[str]:
    """Give an edge a certificate that expires in a second, and later a new one."""
    edge = chance.choice(EDGES)
    process = deployment.processes[edge]
    deployment.certificates.issue(edge, timedelta(seconds=1))
    process.signal(signal.SIGUSR2)  # HAProxy reads its files again.
    try:
        yield edge
    finally:
        deployment.certificates.issue(edge)
        process.signal(signal.SIGUSR2)


@contextmanager
def moved_address(deployment: Deployment, chance: random.Random) -> Iterator[str]:
    """Give a server's name another address, and remove the old one two seconds later."""
    host = deployment.hosts[chance.choice(SERVERS)]
    old, new = host.address, deployment.network.spare_address()
    host.move(new)
    deployment.names.table = deployment.table()
    time.sleep(2)
    host.drop(old)
    yield f"{host.name} to {new}"


@contextmanager
def silent_names(deployment: Deployment, _: random.Random) -> Iterator[str]:
    """Let the name server answer nothing."""
    deployment.names.silent = True
    try:
        yield "every host"
    finally:
        deployment.names.silent = False


@contextmanager
def slow_readers(deployment: Deployment, chance: random.Random) -> Iterator[str]:
    """Open many connections that send half a request, or ask and hardly read."""
    name = chance.choice([*SERVERS, *GATEWAYS])
    address = (deployment.hosts[name].address, _HTTP_PORTS[name])
    half = f"GET /v1/models HTTP/1.1\r\nHost: {name}\r\nX-Slow: ".encode()
    stopped = threading.Event()

    def connect() -> list[socket.socket]:
        return [socket.create_connection(address, timeout=5) for _ in range(_CONNECTIONS)]

    def trickle(connections: list[socket.socket]) -> None:
        while not stopped.wait(0.5):
            for number, one in enumerate(connections):
                with suppress(OSError):  # The server has closed it, as it may.
                    if number % 2:
                        one.sendall(b"x")
                    else:
                        one.recv(1)

    with ExitStack() as stack:
        connections = [stack.enter_context(one) for one in deployment.hosts[CALLERS].run(connect)]
        for number, one in enumerate(connections):
            one.setblocking(False)
            one.send(half if number % 2 else half + b"x\r\n\r\n")
        thread = threading.Thread(target=trickle, args=(connections,))
        thread.start()
        try:
            yield name
        finally:
            stopped.set()
            thread.join()


@contextmanager
def few_descriptors(deployment: Deployment, chance: random.Random) -> Iterator[str]:
    """Let a process open hardly any more files, while strangers connect to it."""
    name = chance.choice([*SERVERS, *GATEWAYS])
    pid = deployment.processes[name].pid
    address = (deployment.hosts[name].address, _HTTP_PORTS[name])
    opened = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    _, hard = before = resource.prlimit(pid, resource.RLIMIT_NOFILE)

    def connect() -> list[socket.socket]:
        connections = []
        for _ in range(_CONNECTIONS):
            with suppress(OSError):
                connections.append(socket.create_connection(address, timeout=1))
        return connections

    resource.prlimit(pid, resource.RLIMIT_NOFILE, (opened + _FREE_DESCRIPTORS, hard))
    try:
        with ExitStack() as stack:
            for one in deployment.hosts[CALLERS].run(connect):
                stack.enter_context(one)
            yield name
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextmanager
def memory(deployment: Deployment, chance: random.Random) -> Iterator[str]:
    """Let a server need more memory than it has, so that the kernel kills it; it is started again."""
    process = deployment.processes[chance.choice(SERVERS)]
    yield f"{process.name}, {out_of_memory(process, deployment.hosts[CALLERS])}"


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: What it is called in the table.
        breaks: The function.
        an_hour: How often it happens in an hour; at least once in any run.
        lasts_s: The shortest and the longest time that it lasts.
    """

    name: str
    breaks: Callable[[Deployment, random.Random], AbstractContextManager[str]]
    an_hour: int
    lasts_s: tuple[float, float]


KINDS: Final = (
    Kind("kill", kill, 20, (0, 0)),
    Kind("freeze", freeze, 10, (3, 10)),
    Kind("loss and delay", loss_and_delay, 4, (5, 20)),
    Kind("partition", partition, 3, (4, 12)),
    Kind("clock jump", clock_jump, 4, (5, 15)),
    Kind("full disk", full_disk, 2, (2, 5)),
    Kind("expired certificate", expired_certificate, 2, (5, 15)),
    Kind("moved address", moved_address, 2, (5, 10)),
    Kind("silent name server", silent_names, 2, (5, 15)),
    Kind("slow readers", slow_readers, 3, (5, 15)),
    Kind("few file descriptors", few_descriptors, 2, (5, 15)),
    Kind("out of memory", memory, 3, (0, 0)),
)
