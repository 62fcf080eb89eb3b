"""Faces per second of the client beside what one would write by hand, all with one local server.

    python benchmarks/client_speed.py [--repository models] [--address GRPC REST]

Every way asks both models about the same 64 faces, again and again, in turns, so that whatever else the machine does
meets them alike. The usual script posts lists of numbers as JSON, to one model after the other. The stubs by hand send
the same tensors as the client, to both models at once, and check nothing.
"""

# ruff: noqa: S603, T201
from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import requests
from mien_client import Client, protos

FACES = 64
ROUNDS = 15
SECONDS = 0.5  # of one way in one round
ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def local_server(repository: Path) -> Iterator[tuple[str, str]]:
    """Runs `mien serve`; gives the gRPC and the REST address."""
    command = [str(Path(sys.executable).parent / "mien"), "serve", "--port=0", "--rest_api_port=0"]
    command += [f"--model_config_file={ROOT / 'models.config'}", f"--model_repository={repository}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        ready = re.search(r"gRPC on port (\d+), REST on port (\d+)", process.stdout.readline())
        if not ready:
            sys.exit(f"mien serve did not start with the models in {repository}: make demo puts some into models/")
        try:
            yield f"127.0.0.1:{ready[1]}", f"http://127.0.0.1:{ready[2]}"
        finally:
            process.terminate()


def usual_script(address: str, images: np.ndarray) -> Callable[[], object]:
    """What most people write first."""

    def ask(model: str) -> object:
        url = f"{address}/v1/models/{model}:predict"
        return requests.post(url, json={"inputs": images.tolist()}, timeout=60).json()["outputs"]

    def call() -> object:
        return np.array(ask("emotion")["probabilities"]), np.array(ask("keypoints"))

    return call


def stubs_by_hand(address: str, images: np.ndarray) -> Callable[[], object]:
    """The quickest there is: the bare calls."""
    channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
    predict = channel.unary_unary(
        "/tensorflow.serving.PredictionService/Predict",
        request_serializer=protos.PredictRequest.SerializeToString,
        response_deserializer=protos.PredictResponse.FromString,
    )

    def call() -> object:
        answers = []
        for model, output in (("emotion", "probabilities"), ("keypoints", "keypoints")):
            request = protos.PredictRequest(output_filter=[output])
            request.model_spec.name = model
            request.model_spec.signature_name = "serving_default"
            tensor = request.inputs["images"]
            tensor.dtype = protos.DataType.DT_UINT8
            for size in images.shape:
                tensor.tensor_shape.dim.add(size=size)
            tensor.tensor_content = images.tobytes()
            answers.append((predict.future(request, timeout=60), output))
        tensors = [answer.result().outputs[output] for answer, output in answers]
        return [
            np.frombuffer(tensor.tensor_content, np.float32) if tensor.tensor_content else np.array(tensor.float_val)
            for tensor in tensors
        ]

    return call


def measure(ways: dict[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """Returns for every way its faces per second and its CPU microseconds per face in this process: the medians."""
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for call in ways.values():
        for _ in range(3):
            call()
    for _ in range(ROUNDS):
        for name, call in ways.items():
            calls, start, cpu = 0, time.perf_counter(), time.process_time()
            while time.perf_counter() - start < SECONDS:
                call()
                calls += 1
            faces = calls * FACES
            seconds = time.perf_counter() - start
            speeds[name].append((faces / seconds, (time.process_time() - cpu) / faces * 1e6))
    return {
        name: (statistics.median(speed for speed, _ in pairs), statistics.median(cpu for _, cpu in pairs))
        for name, pairs in speeds.items()
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repository", type=Path, default=ROOT / "models", help="models for a server of its own")
    parser.add_argument("--address", nargs=2, metavar=("GRPC", "REST"), help="a server that runs already")
    arguments = parser.parse_args()
    images = np.random.default_rng(0).integers(0, 256, (FACES, 48, 48), np.uint8)
    server = contextlib.nullcontext(arguments.address) if arguments.address else local_server(arguments.repository)
    with server as (grpc_address, rest_address), Client(grpc_address) as over_grpc, Client(rest_address) as over_rest:
        results = measure(
            {
                "usual script": usual_script(rest_address, images),
                "client, REST": lambda: over_rest.analyze(images),
                "stubs by hand": stubs_by_hand(grpc_address, images),
                "client, gRPC": lambda: over_grpc.analyze(images),
            }
        )
    usual, by_hand = results["usual script"][0], results["stubs by hand"][0]
    print(f"{FACES} faces a call\n{'':16}{'faces/s':>10}{'/ usual':>10}{'/ stubs':>10}{'CPU us/face':>14}")
    for name, (speed, cpu) in results.items():
        print(f"{name:16}{speed:10.0f}{speed / usual:10.2f}{speed / by_hand:10.2f}{cpu:14.1f}")
    client, cpu = results["client, gRPC"]
    print("asked for: 5 of the usual script, 0.95 of the stubs, less than 30 us; the client over gRPC has", end=" ")
    print(f"{client / usual:.2f}, {client / by_hand:.2f} and {cpu:.1f} us")


if __name__ == "__main__":
    main()
