"""Malformed requests on every port of a running server and gateway, beside callers who send well-formed ones."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import hypothesis
import numpy as np
import requests
import websockets.sync.client
from mien_client import protos
from mien_client.contract import EMOTION_MODEL
from mien_serving import LocalModelServer

from fuzz.inputs import inputs
from fuzz.senders import METHODS, PATIENCE_S, Send, flood, send_each, send_frames, send_messages
from fuzz.targets import TARGETS

ROOT: Final = Path(__file__).parents[1]
COUNT: Final = 10_000
"""Malformed requests for each port."""

_DISTINCT: Final = 500
_QUIET_S: Final = 10.0
_PAUSE_S: Final = 0.02
_SLOWER: Final = 2.0
"""How many times as long well-formed calls may take beside malformed ones, at the 99th percentile."""
_GROWTH_MB: Final = 100.0
"""By how much a process may grow during the last four fifths of the malformed requests."""

_READY: Final = re.compile(r"mien gateway is ready on http://127\.0\.0\.1:(\d+) ")


@dataclass(frozen=True)
class Port:
    """A port that strangers reach.

    Attributes:
        name: Its name.
        pid: The process behind it.
        ask: Make one well-formed call; raises an error if its answer is not the right one.
        send: Sends malformed requests.
        requests: The malformed requests.
    """

    name: str
    pid: int
    ask: Callable[[], None]
    send: Send
    requests: Sequence[bytes]

    def flood(self, count: int) -> None:
        """Send that many malformed requests."""
        flood(self.send, self.requests, count)


@dataclass
class Beside:
    """Well-formed calls that are made while a block runs: how long each took, and what went wrong."""

    ask: Callable[[], None]
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __enter__(self) -> Beside:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._call)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _call(self) -> None:
        while not self._stopped.wait(_PAUSE_S):
            began = time.perf_counter()
            try:
                self.ask()
            except Exception as error:  # whatever it is, the call has failed
                self.errors.append(f"{type(error).__name__}: {error}"[:300])
            self.seconds.append(time.perf_counter() - began)

    @property
    def p99(self) -> float:
        """The 99th percentile of the calls, in seconds."""
        return statistics.quantiles(self.seconds, n=100)[-1] if len(self.seconds) > 1 else 0.0


def resident_megabytes(pid: int) -> float:
    """Return the memory of a process; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def malformed(*names: str) -> list[bytes]:
    """Return inputs of targets, always the same ones."""
    found: list[bytes] = []
    for name in names:
        target = TARGETS[name]

        @hypothesis.settings(
            max_examples=_DISTINCT,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(inputs(target.seeds(), target.tokens))
        def collect(data: bytes) -> None:
            found.append(data)

        collect()
    return found


def _refused_pictures() -> list[bytes]:
    """Return the inputs that the gateway refuses; in the others it can find a face, which is work like any other."""
    with TARGETS["pictures_gateway"].prepare(Path()) as check:
        return [data for data in malformed("pictures_gateway") if check(data) != "read"]


def _as_http(payloads: Sequence[bytes]) -> list[bytes]:
    """Return REST requests as bytes: inputs of ``rest_json`` are bodies, those of ``rest_routes`` the rest as well."""
    found = []
    for number, payload in enumerate(payloads):
        head, _, body = payload.partition(b"\n")
        if number % 2:
            head, body = b"POST /v1/models/emotion:predict", payload
        found.append(b"%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body))
    return found


def _expect(condition: object, answer: object) -> None:
    if not condition:
        raise ValueError(f"It was answered {answer!r}"[:300])


@contextlib.contextmanager
def ports(repository: Path) -> Iterator[list[Port]]:
    """Start a server of the shipped networks, and a gateway in front of it; yield their ports.

    Args:
        repository: A model repository with both networks.
    """
    with contextlib.ExitStack() as stack:
        flags = ["--enable_grpc_healthcheck_service"]
        config = ROOT / "models.config"
        server = stack.enter_context(LocalModelServer(config, model_repository=repository, flags=flags))
        gateway, url = stack.enter_context(_gateway(server.grpc_address))
        channel = stack.enter_context(grpc.insecure_channel(server.grpc_address))
        session, caller = stack.enter_context(requests.Session()), stack.enter_context(requests.Session())
        face = np.zeros((1, 48, 48), np.uint8)
        message = protos.PredictRequest(model_spec={"name": EMOTION_MODEL})
        message.inputs["images"].dtype = protos.DataType.DT_UINT8
        message.inputs["images"].tensor_content = face.tobytes()
        for size in face.shape:
            message.inputs["images"].tensor_shape.dim.add(size=size)
        predict: Any = channel.unary_unary(METHODS[0], response_deserializer=protos.PredictResponse.FromString)
        picture = (ROOT / "examples" / "face48.png").read_bytes()

        def ask_rest() -> None:
            body = {"instances": face.tolist()}
            answer = session.post(f"{server.rest_url}/v1/models/emotion:predict", json=body, timeout=PATIENCE_S)
            _expect(answer.status_code == 200 and len(answer.json()["predictions"]) == 1, answer.text)

        def ask_grpc() -> None:
            answer = predict(message.SerializeToString(), timeout=PATIENCE_S)
            _expect(len(answer.outputs["probabilities"].float_val) == 5, answer)

        def ask_gateway() -> None:
            headers = {"content-type": "application/octet-stream"}
            answer = caller.post(f"{url}/v1/analyze", face.tobytes(), headers=headers, timeout=PATIENCE_S)
            _expect(answer.status_code == 200 and len(answer.json()["faces"]) == 1, answer.text)

        stream = stack.enter_context(websockets.sync.client.connect(url.replace("http", "ws", 1) + "/v1/stream"))

        def ask_stream() -> None:
            stream.send(picture)
            answer = json.loads(stream.recv(PATIENCE_S))
            _expect(len(answer.get("faces", ())) == 1, answer)

        rest, grpc_at = ("127.0.0.1", server.rest_port), ("127.0.0.1", server.grpc_port)
        http = ("127.0.0.1", int(url.rpartition(":")[2]))
        yield [
            Port(
                "server REST",
                server.pid,
                ask_rest,
                partial(send_each, rest),
                _as_http(malformed("rest_json", "rest_routes")),
            ),
            Port("server gRPC", server.pid, ask_grpc, partial(send_messages, grpc_at), malformed("grpc_messages")),
            Port("gateway HTTP", gateway, ask_gateway, partial(send_each, http), malformed("gateway_connections")),
            Port("gateway WebSocket", gateway, ask_stream, partial(send_frames, http), _refused_pictures()),
        ]


@contextlib.contextmanager
def _gateway(server: str) -> Iterator[tuple[int, str]]:
    """Start a gateway; yield its process and its URL."""
    program = Path(sys.executable).with_name("mien")
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(  # noqa: S603 -- our own program
            [program, "gateway", "--port=0", "--server", server], stdout=subprocess.PIPE, stderr=log, encoding="utf-8"
        )
        try:
            assert process.stdout is not None
            ready = _READY.match(process.stdout.readline())
            if not ready:
                log.seek(0)
                raise RuntimeError(f"The gateway has not started: {log.read()[-500:]}")
            url = f"http://127.0.0.1:{ready[1]}"
            while requests.get(f"{url}/readyz", timeout=PATIENCE_S).status_code != 200:
                time.sleep(0.1)
            yield process.pid, url
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE_S)


def measure(say: Callable[[str], None]) -> int:
    """Send malformed requests to every port, and print a table; return the number of faults.

    Args:
        say: Prints a line.
    """
    faults = 0
    say(
        f"\n{'port':18} {'malformed':>9} {'/s':>6} {'calls':>6} {'failed':>6} {'p99 alone':>10} {'beside':>8} "
        f"{'ratio':>6} {'memory':>8}"
    )
    with ports(ROOT / "models") as opened:
        for port in opened:
            port.flood(COUNT // 5)  # Whatever is made only once is there afterwards.
            with Beside(port.ask) as alone:
                time.sleep(_QUIET_S)
            before, began = resident_megabytes(port.pid), time.perf_counter()
            with Beside(port.ask) as beside:
                port.flood(COUNT)
            took, grown = time.perf_counter() - began, resident_megabytes(port.pid) - before
            ratio = beside.p99 / alone.p99
            failed = [*alone.errors, *beside.errors]
            say(
                f"{port.name:18} {COUNT:>9,} {COUNT / took:>6,.0f} {len(alone.seconds + beside.seconds):>6,} "
                f"{len(failed):>6} {alone.p99 * 1000:>7.0f} ms {beside.p99 * 1000:>5.0f} ms "
                f"{ratio:>6.1f} {grown:>+5.0f} MB"
            )
            for error in failed[:3]:
                say(f"    {error}")
            faults += bool(failed) + (ratio > _SLOWER) + (grown > _GROWTH_MB)
    return faults
