"""Generate load: clients that call a server, and the same work done in this process for comparison."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import requests
from mien_client import protos
from mien_client.contract import EMOTION_MODEL, KEYPOINT_MODEL

MODELS = (EMOTION_MODEL, KEYPOINT_MODEL)
PREDICT = "/tensorflow.serving.PredictionService/Predict"


def check_repository(parser: argparse.ArgumentParser, folder: Path) -> None:
    """Exit with a message that names the missing models, unless the repository has both."""
    missing = [model for model in MODELS if not (folder / model).is_dir()]
    if missing:
        parser.error(f"{folder} has no {' and no '.join(missing)} model; create it with `mien export`")


def faces(count: int) -> np.ndarray:
    """Return random faces, uint8 [count, 48, 48]; the time of a network does not depend on their content."""
    return np.random.default_rng(count).integers(0, 256, (count, 48, 48), np.uint8)


def predict_request(model: str, images: np.ndarray) -> bytes:
    """Return a gRPC request for the default signature."""
    request = protos.PredictRequest(model_spec={"name": model})
    tensor = request.inputs["images"]
    tensor.dtype = protos.DataType.DT_UINT8
    tensor.tensor_content = images.tobytes()
    for size in images.shape:
        tensor.tensor_shape.dim.add(size=size)
    return bytes(request.SerializeToString())


class InProcess:
    """Both models, loaded in this process, as the baseline for servers."""

    def __init__(self, repository: Path) -> None:
        import tensorflow as tf

        self._constant = tf.constant
        self._models = [tf.saved_model.load(str(newest(repository / model))) for model in MODELS]

    def run(self, number: int, images: np.ndarray) -> None:
        """Run the default signature of one of the two models."""
        outputs = self._models[number].signatures["serving_default"](images=self._constant(images))
        for value in outputs.values():
            value.numpy()

    def throughput(self, calls: int, size: int) -> float:
        """Return the faces per second of both models, each called from a thread of its own."""
        images = faces(size)

        def work(number: int) -> None:
            for _ in range(calls):
                self.run(number, images)

        return calls * size / _seconds([partial(work, number) for number in range(len(MODELS))])


class GrpcClient:
    """Call a server over gRPC."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._predict: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(PREDICT)

    def ask(self, *requests: bytes) -> None:
        """Send requests at the same time and wait for all answers."""
        for call in [self._predict.future(request, timeout=600) for request in requests]:
            protos.PredictResponse.FromString(call.result())

    def ask_in_turn(self, *requests: bytes) -> None:
        """Send requests one after another, each when the one before is answered."""
        for request in requests:
            self.ask(request)

    def throughput(self, calls: int, size: int, clients: int = 2) -> float:
        """Return the faces per second of both models, called by a few clients at the same time."""
        both = [predict_request(model, faces(size)) for model in MODELS]

        def work() -> None:
            for _ in range(calls // clients):
                self.ask(*both)

        return calls // clients * clients * size / _seconds([work] * clients)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def many_clients_throughput(address: str, clients: int, calls: int) -> float:
    """Return the faces per second of both models, called by many clients with one face each.

    The clients are those of h2load if it is installed (Debian: nghttp2-client), so that the server is what is measured;
    otherwise they are written in Python and use a large part of the processors themselves.
    """
    both = [predict_request(model, faces(1)) for model in MODELS]
    program = shutil.which("h2load")
    if program is None:
        return asyncio.run(_python_clients(address, both, clients, calls))
    jobs = [partial(_h2load, program, address, request, clients, calls) for request in both]
    return calls / _seconds(jobs)


async def _python_clients(address: str, requests: Sequence[bytes], clients: int, calls: int) -> float:
    async with grpc.aio.insecure_channel(address) as channel:
        predict: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREDICT)

        async def client() -> None:
            for _ in range(calls // clients):
                await asyncio.gather(*(predict(request, timeout=600) for request in requests))

        start = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return calls // clients * clients / (time.perf_counter() - start)


def _h2load(program: str, address: str, request: bytes, clients: int, calls: int) -> None:
    """Send one request repeatedly; check only the length of the answers, since h2load does not read them."""
    with grpc.insecure_channel(address) as channel:
        predict: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREDICT)
        good = predict(request)
    with tempfile.NamedTemporaryFile() as body:
        body.write(_framed(request))
        body.flush()
        command = [program, f"--clients={clients}", f"--requests={calls}", "--max-concurrent-streams=1"]
        command += ["--header=content-type: application/grpc", "--header=te: trailers", f"--data={body.name}"]
        report = subprocess.run(  # noqa: S603
            [*command, f"http://{address}{PREDICT}"], capture_output=True, encoding="utf-8", check=True
        )
    received = re.search(r"\((\d+)\) data", report.stdout)
    if received is None or int(received[1]) != calls * len(_framed(good)):
        raise RuntimeError(f"Expected a valid answer to each of h2load's requests:\n{report.stdout}")


def _framed(message: bytes) -> bytes:
    """Return a message as gRPC frames it in an HTTP/2 stream: flag, length, message."""
    return b"\0" + len(message).to_bytes(4) + message


def rest_raw_throughput(url: str, calls: int, size: int, clients: int = 2) -> float:
    """Return the faces per second of both models, called over REST with raw bytes."""
    import base64
    import json

    instances = [{"b64": base64.b64encode(face.tobytes()).decode()} for face in faces(size)]
    body = json.dumps({"signature_name": "serving_raw", "instances": instances}).encode()

    def work(model: str) -> None:
        with requests.Session() as session:
            for _ in range(calls // clients):
                answer = session.post(f"{url}/v1/models/{model}:predict", data=body, timeout=600)
                answer.raise_for_status()
                answer.json()

    jobs = [partial(work, model) for model in MODELS] * clients
    return calls // clients * clients * size / _seconds(jobs)


class SteadyLoad:
    """Send requests at a steady rate, whether or not earlier ones are answered."""

    def __init__(self, client: GrpcClient, per_second: float) -> None:
        self._client = client
        self._pause = 1 / per_second
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(64)
        self._request = predict_request(EMOTION_MODEL, faces(1))
        self.latencies: list[tuple[float, float]] = []
        self.failed = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def between(self, begin: float, end: float) -> list[float]:
        """Return the latencies, in seconds, of the requests sent in a period."""
        return [latency for sent, latency in self.latencies if begin <= sent < end]

    def stop(self) -> None:
        """Stop sending and wait for the answers."""
        self._stopped.set()
        self._thread.join()
        self._pool.shutdown()

    def _run(self) -> None:
        start = time.perf_counter()
        for number in itertools.count():
            due = start + number * self._pause
            if self._stopped.wait(max(0.0, due - time.perf_counter())):
                return
            self._pool.submit(self._ask, due)

    def _ask(self, due: float) -> None:
        try:
            self._client.ask(self._request)
        except grpc.RpcError:
            self.failed += 1
        # Counted from when it was to be sent, so that a stalled sender does not hide a slow server.
        self.latencies.append((due, time.perf_counter() - due))


def latency(call: Callable[[], Any], count: int) -> list[float]:
    """Return the seconds that each of several calls in a row takes."""
    found = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


def newest(base_path: Path) -> Path:
    """Return the folder of a model's highest version."""
    return max((path for path in base_path.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def _seconds(jobs: Sequence[Callable[[], None]]) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(len(jobs)) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result()
    return time.perf_counter() - start
