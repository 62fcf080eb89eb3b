"""How much one caller with large requests slows all others: the ratio of their p99 with it to their p99 without it.

    python -m benchmarks.one_caller --repository models

Prints a line for each kind of large request; the exit status is 1 if a ratio is above 3. What else this machine does
counts too, so close everything else.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import requests
from mien_client.contract import EMOTION_MODEL
from mien_serving import LocalModelServer

from benchmarks.workload import GrpcClient, SteadyLoad, check_repository

_TARGET = 3.0
_SIZE = 16 << 20
_SECONDS = 10.0
_PER_SECOND = 20.0

BODIES = {
    "broken JSON": b'{"instances": [' + b"[1,2]," * (_SIZE // 6),
    "empty lists": b'{"instances": [' + b"[]," * (_SIZE // 3) + b"[]]}",
    "numbers": b'{"instances": [' + b"7," * (_SIZE // 2) + b"7]}",
}


def main() -> int:
    """Measures, and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("models"), help="a folder with both models")
    folder = parser.parse_args().repository
    check_repository(parser, folder)
    missed = False
    with LocalModelServer({EMOTION_MODEL: folder / EMOTION_MODEL}) as server:
        client = GrpcClient(server.grpc_address)
        url = f"{server.rest_url}/v1/models/{EMOTION_MODEL}:predict"
        for name, body in BODIES.items():
            quiet = _p99(client)
            with _sending(url, body) as sent:
                loud = _p99(client)
            missed |= loud > _TARGET * quiet
            sys.stdout.write(
                f"{name}: p99 of others {quiet * 1000:.0f} ms, {loud * 1000:.0f} ms beside {len(sent)} requests of "
                f"{len(body) >> 20} MiB, ratio {loud / quiet:.1f} (at most {_TARGET:.0f})\n"
            )
        client.close()
    return int(missed)


def _p99(client: GrpcClient) -> float:
    load = SteadyLoad(client, _PER_SECOND)
    begin = time.perf_counter()
    time.sleep(_SECONDS)
    load.stop()
    return statistics.quantiles(load.between(begin, begin + _SECONDS), n=100)[-1]


@contextlib.contextmanager
def _sending(url: str, body: bytes) -> Iterator[list[int]]:
    """Send a body repeatedly while the block runs."""
    statuses: list[int] = []
    stopped = threading.Event()

    def send() -> None:
        with requests.Session() as session:
            while not stopped.is_set():
                statuses.append(session.post(url, data=body, timeout=600).status_code)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield statuses
    finally:
        stopped.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
