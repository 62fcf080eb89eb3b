"""Resident memory of the client while faces stream through `analyze_iter`.

    python benchmarks/client_memory.py [--faces 1000000]

The server, in a process of its own, answers at once with numbers that were prepared; what is measured is the client.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from concurrent import futures
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import numpy as np
from mien_client import Client, protos

BATCH = 256


def canned(model: str, output: str, shape: tuple[int, ...]) -> bytes:
    """Returns the bytes of an answer."""
    response = protos.PredictResponse()
    response.model_spec.name = model
    response.model_spec.version.value = 1
    tensor = response.outputs[output]
    tensor.dtype = protos.DataType.DT_FLOAT
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = np.full(shape, 0.2, np.float32).tobytes()
    return response.SerializeToString()


class Server(grpc.GenericRpcHandler):
    """Answers every request with the prepared bytes."""

    def __init__(self) -> None:
        self.emotion = canned("emotion", "probabilities", (BATCH, 5))
        self.keypoints = canned("keypoints", "keypoints", (BATCH, 15, 2))

    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Tells how to answer."""
        return grpc.unary_unary_rpc_method_handler(
            lambda request, _: self.emotion if b"probabilities" in request[-64:] + request[:64] else self.keypoints
        )


def serve(parent: Connection) -> None:
    """Serves until the parent has gone."""
    server = grpc.server(
        futures.ThreadPoolExecutor(8), handlers=[Server()], options=[("grpc.max_receive_message_length", -1)]
    )
    parent.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    parent.poll(None)


def faces(count: int) -> Iterator[np.ndarray]:
    """Yields synthetic faces."""
    few = np.random.default_rng(0).integers(0, 256, (1000, 48, 48), np.uint8)
    for number in range(count):
        yield few[number % 1000]


def resident() -> float:
    """Returns the resident memory of this process in MB."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # No Linux: the most there was is told instead.
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return pages * 4096 / 1e6


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--faces", type=int, default=1_000_000)
    count = parser.parse_args().faces // BATCH * BATCH
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=[there], daemon=True)
    process.start()
    port = here.recv()
    readings = []
    with Client(f"127.0.0.1:{port}") as client:
        start, cpu = time.perf_counter(), time.process_time()
        print(f"{'faces':>12}{'MB resident':>14}")
        for number, _ in enumerate(client.analyze_iter(faces(count), batch_size=BATCH), start=1):
            if number % (count // 10) == 0:
                readings.append(resident())
                print(f"{number:12,}{readings[-1]:14.1f}")
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    here.send(None)
    process.join(5)
    print(f"{count / seconds:,.0f} faces/s, {cpu / count * 1e6:.1f} us of CPU per face")
    print(f"last reading / first: {readings[-1] / readings[0]:.3f}; asked for: flat")


if __name__ == "__main__":
    main()
