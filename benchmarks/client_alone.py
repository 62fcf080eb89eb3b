"""The cost of the client itself: processor time per face, and memory while faces stream through `analyze_iter`.

    python -m benchmarks.client_alone [--faces 1000000]

The server, in a process of its own, answers at once with numbers that were prepared; what is measured is the client.
The exit status is 1 if a target was missed.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import numpy as np
from mien_client import Client, protos

from benchmarks.client_speed import stubs_by_hand

BATCH = 256
FACES = 64
CALLS = 500
CPU_TARGET = 30.0
"""Microseconds per face."""
GROWTH_TARGET = 1.1
"""Resident memory at the end, as a multiple of that after a tenth of the faces."""


def canned(model: str, output: str, shape: tuple[int, ...]) -> bytes:
    """Return the bytes of an answer."""
    response = protos.PredictResponse()
    response.model_spec.name = model
    response.model_spec.version.value = 1
    tensor = response.outputs[output]
    tensor.dtype = protos.DataType.DT_FLOAT
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = np.full(shape, 0.2, np.float32).tobytes()
    return bytes(response.SerializeToString())


class Server(grpc.GenericRpcHandler):
    """Answer every request with prepared bytes for a number of faces."""

    def __init__(self, faces: int) -> None:
        self.emotion = canned("emotion", "probabilities", (faces, 5))
        self.keypoints = canned("keypoints", "keypoints", (faces, 15, 2))

    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return the handler."""
        return grpc.unary_unary_rpc_method_handler(
            lambda request, _: self.emotion if b"emotion" in request[:64] else self.keypoints
        )


def serve(parent: Connection, faces: int) -> None:
    """Serve until the parent ends."""
    server = grpc.server(
        futures.ThreadPoolExecutor(8), handlers=[Server(faces)], options=[("grpc.max_receive_message_length", -1)]
    )
    parent.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    parent.poll(None)


def faces(count: int) -> Iterator[np.ndarray]:
    """Yield synthetic faces."""
    few = np.random.default_rng(0).integers(0, 256, (1000, 48, 48), np.uint8)
    for number in range(count):
        yield few[number % 1000]


def resident() -> float:
    """Return the resident memory of this process in MB."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    except OSError:  # Not Linux: return the peak instead.
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return pages * 4096 / 1e6


@contextmanager
def a_server(faces: int) -> Iterator[str]:
    """Run the server; yield its address."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=[there, faces], daemon=True)
    process.start()
    yield f"127.0.0.1:{here.recv()}"
    here.send(None)
    process.join(5)


def processor_time(call: Callable[[], object], calls: int) -> float:
    """Return the microseconds of processor time, of all threads of this process, per face of a call."""
    for _ in range(10):
        call()
    start = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - start) / calls / FACES * 1e6


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--faces", type=int, default=1_000_000)
    count = parser.parse_args().faces // BATCH * BATCH
    images = np.random.default_rng(0).integers(0, 256, (FACES, 48, 48), np.uint8)
    with a_server(FACES) as address, Client(address) as client:
        by_hand = stubs_by_hand(address, images)
        rounds = [
            (processor_time(lambda: client.analyze(images), CALLS // 5), processor_time(by_hand, CALLS // 5))
            for _ in range(5)
        ]
        own, least = (statistics.median(column) for column in zip(*rounds, strict=True))
    thrifty = own < CPU_TARGET
    print(f"{own:.1f} us of CPU per face, {FACES} faces a call (stubs by hand: {least:.1f}),", end=" ")
    print(f"target {CPU_TARGET:g}: {'met' if thrifty else 'MISSED'}\n")
    readings = []
    with a_server(BATCH) as address, Client(address) as client:
        start = time.perf_counter()
        print(f"{'faces':>12}{'MB resident':>14}")
        for number, _ in enumerate(client.analyze_iter(faces(count), batch_size=BATCH), start=1):
            if number % (count // 10) == 0:
                readings.append(resident())
                print(f"{number:12,}{readings[-1]:14.1f}")
        seconds = time.perf_counter() - start
    growth = readings[-1] / readings[0]
    flat = growth <= GROWTH_TARGET
    print(f"{count / seconds:,.0f} faces/s; last reading / first: {growth:.3f}, target {GROWTH_TARGET}:", end=" ")
    print("met" if flat else "MISSED")
    return 0 if thrifty and flat else 1


if __name__ == "__main__":
    sys.exit(main())
