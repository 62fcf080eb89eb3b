"""Faces per second of the client, compared with code written by hand, with one local server.

    python -m benchmarks.client_speed [--repository models] [-- FLAG ...]

Every way asks both models about the same 64 faces, one call of each way after the other, so that whatever else the
machine does meets them alike; of all calls the one in the middle counts. The usual script posts lists of numbers
between 0 and 1 as JSON, to one model after the other; for it the same networks are served a second time, with float
inputs, as they usually are. The server computes in bfloat16 where the processor has it, unless other flags are given;
for all ways alike. The stubs by hand send the same tensors as the client, to both models at once, and check
nothing.

The exit status is 1 if a target was missed.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import requests
from mien_client import Client, protos
from mien_client.contract import EMOTION_MODEL, KEYPOINT_MODEL
from mien_serving import LocalModelServer

from benchmarks.workload import MODELS, check_repository, faces, newest

FACES = 64
ROUNDS = 100
OF_USUAL, OF_STUBS = 5.0, 0.95
"""Target speed of the client, as a multiple of the usual script and of the stubs."""


def publish_with_float_input(repository: Path, model: str, folder: Path) -> None:
    """Save the newest version of a model again, for images float32 [N, 48, 48] from 0 to 1."""
    import tensorflow as tf

    module = tf.Module()
    module.served = tf.saved_model.load(str(newest(repository / model)))
    ask = module.served.signatures["serving_default"]

    def predict(images: Any) -> object:
        return ask(images=tf.cast(tf.round(images * 255.0), tf.uint8))

    signature = tf.function(predict, input_signature=[tf.TensorSpec([None, 48, 48], tf.float32, name="images")])
    tf.saved_model.save(module, str(folder / "1"), signatures=signature)


def usual_script(url: str, images: np.ndarray) -> Callable[[], object]:
    """Return a call as most people write it first."""

    def ask(model: str) -> Any:
        body = {"instances": (images / 255.0).tolist()}
        return requests.post(f"{url}/v1/models/{model}:predict", json=body, timeout=60).json()["predictions"]

    def call() -> object:
        emotions, keypoints = ask(f"{EMOTION_MODEL}_float"), ask(f"{KEYPOINT_MODEL}_float")
        return np.array([face["probabilities"] for face in emotions]), np.array(keypoints)

    return call


def stubs_by_hand(address: str, images: np.ndarray) -> Callable[[], object]:
    """Return a call by bare gRPC stubs, the fastest possible."""
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
    """Return the median faces per second and CPU microseconds per face, in this process, of each way."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for call in ways.values():
        for _ in range(3):
            call()
    for _ in range(ROUNDS):
        for name, call in ways.items():
            time.sleep(0.002)  # Work that the previous call left to its threads is not counted here.
            start, cpu = time.perf_counter(), time.process_time()
            call()
            spent[name].append((time.perf_counter() - start, time.process_time() - cpu))
    medians = {
        name: [statistics.median(column) for column in zip(*calls, strict=True)] for name, calls in spent.items()
    }
    return {name: (FACES / seconds, cpu / FACES * 1e6) for name, (seconds, cpu) in medians.items()}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--repository", type=Path, default=Path("models"), metavar="DIR", help="the models (%(default)s)"
    )
    fast = ["--mixed_precision=bfloat16"]
    parser.add_argument(
        "flags", nargs="*", default=fast, metavar="FLAG", help=f"flags of mien serve, after -- (default: {fast[0]})"
    )
    arguments = parser.parse_args()
    check_repository(parser, arguments.repository)
    repository = arguments.repository
    images = faces(FACES)
    models = {model: repository / model for model in MODELS}
    with tempfile.TemporaryDirectory(prefix="mien-bench-") as folder:
        for model in MODELS:
            models[f"{model}_float"] = Path(folder) / model
            # In a process of its own, so that TensorFlow takes no part in what is measured here.
            paths = (repository, model, models[f"{model}_float"])
            process = multiprocessing.get_context("spawn").Process(target=publish_with_float_input, args=paths)
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(f"{model} could not be saved with float inputs")
        with LocalModelServer(models, flags=arguments.flags) as server:
            results = measured(server.grpc_address, server.rest_url, images)
    usual, by_hand = results["usual script"][0], results["stubs by hand"][0]
    print(f"{FACES} faces a call\n{'':16}{'faces/s':>10}{'/ usual':>10}{'/ stubs':>10}{'CPU us/face':>14}")
    for name, (speed, cpu) in results.items():
        print(f"{name:16}{speed:10.0f}{speed / usual:10.2f}{speed / by_hand:10.2f}{cpu:14.1f}")
    client = results["client, gRPC"][0]
    met = client >= OF_USUAL * usual and client >= OF_STUBS * by_hand
    print(
        f"the client over gRPC: {client / usual:.2f} of the usual script, target {OF_USUAL}; "
        f"{client / by_hand:.2f} of the stubs, target {OF_STUBS}: {'met' if met else 'MISSED'}"
    )
    return 0 if met else 1


def measured(grpc_address: str, rest_url: str, images: np.ndarray) -> dict[str, tuple[float, float]]:
    """All ways with one server."""
    with Client(grpc_address) as over_grpc, Client(rest_url) as over_rest:
        return measure(
            {
                "usual script": usual_script(rest_url, images),
                "client, REST": lambda: over_rest.analyze(images),
                "stubs by hand": stubs_by_hand(grpc_address, images),
                "client, gRPC": lambda: over_grpc.analyze(images),
            }
        )


if __name__ == "__main__":
    sys.exit(main())
