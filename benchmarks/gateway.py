"""What the gateway costs, with one local server: ready crops, photographs, other callers beside large files, memory.

    python -m benchmarks.gateway [--repository models] [--requests 100000]

Crops are sent to the gateway and, by the Python client, to the server itself, one call of each after the other, so that
whatever else the machine does meets both alike; medians count. Photographs have one megapixel and one face. The
exit status is 1 if a target was missed.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import io
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import requests
from mien_client import Client
from mien_serving import LocalModelServer
from PIL import Image

from benchmarks.workload import MODELS, check_repository, faces

ROOT = Path(__file__).parent.parent
MIEN = str(Path(sys.executable).with_name("mien"))
CROPS = "application/octet-stream"
FACES, ROUNDS = 64, 100

OF_CLIENT = 0.90
"""Target faces per second through the gateway, as a multiple of the client's."""
MORE_MS = 2.0
"""Target of what the gateway adds to the median latency of one crop."""
OF_ALONE = 1.2
"""Target p99 of other callers while one sends large files, as a multiple of that without."""
START_S = 1.5
GROWTH_MB = 20.0
"""How much memory may grow over all requests."""


@contextmanager
def gateway(address: str, *flags: str) -> Iterator[tuple[str, int, float]]:
    """Run a gateway; yield its address, its process and the seconds that its start took."""
    command = [MIEN, "gateway", "--port=0", "--server", address, *flags]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8", env=environment
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
        try:
            found = re.search(r"http://\S+", line)
            assert found, line
            while requests.get(f"{found[0]}/readyz", timeout=10).status_code != requests.codes.ok:
                time.sleep(0.05)
            yield found[0], process.pid, seconds
        finally:
            process.terminate()


class Caller:
    """One caller with a connection of its own.

    It uses `http.client`: the package `requests` would add a millisecond or more to each call, whoever answers.
    """

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(url.removeprefix("http://"), timeout=120)

    def send(self, body: bytes, kind: str) -> None:
        """Send a body and read the answer."""
        self._connection.request("POST", "/v1/analyze", body, {"content-type": kind})
        with self._connection.getresponse() as answer:
            content = answer.read()
        assert answer.status == HTTPStatus.OK, content


def alternating(ways: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Return the seconds of each call of each way."""
    spent: list[list[float]] = [[] for _ in ways]
    for number in range(rounds + 3):
        for way, seconds in zip(ways, spent, strict=True):
            time.sleep(0.002)  # Work that the previous call left to its threads is not counted here.
            start = time.perf_counter()
            way()
            if number >= 3:
                seconds.append(time.perf_counter() - start)
    return spent


def photograph(megapixels: float) -> bytes:
    """Return a JPEG of so many megapixels with one face."""
    side = round((megapixels * 1e6) ** 0.5)
    picture = Image.new("RGB", (side, side), "grey")
    with Image.open(ROOT / "examples" / "astronaut.jpg") as portrait:
        picture.paste(portrait, (side // 3, side // 3))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def pictures_per_second(url: str, content: bytes, callers: int, count: int) -> float:
    """Return how many photographs a second several callers together get answered."""

    def send_some(_: int) -> None:
        caller = Caller(url)
        for _ in range(count // callers):
            caller.send(content, "image/jpeg")

    with ThreadPoolExecutor(callers) as pool:
        start = time.perf_counter()
        list(pool.map(send_some, range(callers)))
        return count / (time.perf_counter() - start)


def p99(url: str, content: bytes, count: int) -> float:
    """Return the 99th percentile of the seconds that a photograph takes a caller who sends four a second."""
    caller, spent = Caller(url), []
    for number in range(count):
        begin = time.perf_counter()
        caller.send(content, "image/jpeg")
        spent.append(time.perf_counter() - begin)
        time.sleep(max(0.0, 0.25 - spent[number]))
    return statistics.quantiles(spent, n=100)[98]


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process in megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def judge(text: str, *, met: bool) -> bool:
    """Print a result and whether it met its target; return that."""
    print(f"{text}: {'met' if met else 'MISSED'}", flush=True)
    return met


def main() -> int:
    """Measure everything, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--repository", type=Path, default=Path("models"), metavar="DIR", help="the models (%(default)s)"
    )
    parser.add_argument(
        "--requests", type=int, default=100_000, metavar="N", help="requests for the memory row (%(default)s)"
    )
    arguments = parser.parse_args()
    check_repository(parser, arguments.repository)
    models = {model: arguments.repository / model for model in MODELS}
    results: list[bool] = []
    with LocalModelServer(models, flags=["--mixed_precision=bfloat16"]) as server:
        with gateway(server.grpc_address):
            pass  # The first start may have to compile modules, which pip does when it installs them.
        results += crops(server.grpc_address)
        results += photographs(server.grpc_address)
        results.append(memory(server.grpc_address, arguments.requests))
    return 0 if all(results) else 1


def crops(address: str) -> list[bool]:
    """Compare ready crops through the gateway and by the client, and time the start."""
    with gateway(address, "--workers=1") as (url, _, seconds), Client(address) as client:
        caller, many, one = Caller(url), faces(FACES), faces(1)
        ways = [lambda: client.analyze(many), lambda: caller.send(many.tobytes(), CROPS)]
        direct, through = (FACES / statistics.median(spent) for spent in alternating(ways, ROUNDS))
        ways = [lambda: client.analyze(one), lambda: caller.send(one.tobytes(), CROPS)]
        direct_ms, through_ms = (statistics.median(spent) * 1000 for spent in alternating(ways, ROUNDS * 3))
    share, more = through / direct, through_ms - direct_ms
    return [
        judge(f"start {seconds:.2f} s, target {START_S}", met=seconds < START_S),
        judge(
            f"{FACES} crops: client {direct:.0f}, gateway {through:.0f}, {share:.2f} of it, target {OF_CLIENT}",
            met=share >= OF_CLIENT,
        ),
        judge(
            f"one crop, p50: client {direct_ms:.2f} ms, gateway {through_ms:.2f} ms, {more:.2f} more, target {MORE_MS}",
            met=more <= MORE_MS,
        ),
    ]


def photographs(address: str) -> list[bool]:
    """Measure how finding faces scales with workers, and what large files do to other callers."""
    content, large = photograph(1.0), photograph(50.0)
    found = {}
    for workers in sorted({1, max(2, os.cpu_count() or 1)}):
        with gateway(address, f"--workers={workers}") as (url, _, _):
            found[workers] = pictures_per_second(url, content, callers=2 * workers, count=40 * workers)
    least, most = min(found), max(found)
    print(", ".join(f"{workers} workers {speed:.1f} pictures/s" for workers, speed in found.items()), flush=True)
    print(f"1 megapixel: {found[most] / found[least]:.2f} times as many with {most / least:g} times the workers")
    with gateway(address) as (url, _, _):
        alone = p99(url, content, 200)
        done = threading.Event()

        def send_large() -> None:
            caller = Caller(url)
            while not done.is_set():
                caller.send(large, "image/jpeg")

        sending = threading.Thread(target=send_large)
        sending.start()
        try:
            beside = p99(url, content, 200)
        finally:
            done.set()
            sending.join()
    ratio = beside / alone
    text = f"p99 of 1 megapixel {alone * 1000:.0f} ms, beside 50 megapixels {beside * 1000:.0f} ms, {ratio:.2f} times"
    return [judge(f"{text}, target {OF_ALONE}", met=ratio <= OF_ALONE)]


def memory(address: str, count: int) -> bool:
    """Measure how the memory of the gateway grows over many requests of every kind."""
    picture = io.BytesIO()
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(picture, "PNG")
    bodies = [(faces(1).tobytes(), CROPS), (faces(8).tobytes(), CROPS), (picture.getvalue(), "image/png")]
    with gateway(address) as (url, pid, _), ThreadPoolExecutor(4) as pool:
        everybody = [Caller(url) for _ in range(4)]

        def send(numbers: range) -> None:
            caller = everybody[numbers.start % 4]
            for number in numbers:
                caller.send(*bodies[number % 3])

        def send_all(requests_sent: int) -> None:
            list(pool.map(send, (range(start, requests_sent, 4) for start in range(4))))

        send_all(count // 10)
        before = memory_mb(pid)
        send_all(count)
        growth = memory_mb(pid) - before
    return judge(
        f"memory {before:.0f} MB, {growth:+.1f} MB over {count:,} requests, target {GROWTH_MB:g}",
        met=growth <= GROWTH_MB,
    )


if __name__ == "__main__":
    sys.exit(main())
