"""The shipped networks on a real `mien serve`, and gateways that are real processes in front of it."""

import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import requests
from mien_client import Client
from mien_client.pictures import find_faces, read_picture
from mien_serving import LocalModelServer

from tests.waiting import until

ROOT = Path(__file__).parents[2]
MIEN = str(Path(sys.executable).with_name("mien"))
PORTRAIT = ROOT / "examples" / "astronaut.jpg"
READY = re.compile(r"mien gateway is ready on (https?://\S+) \(console and API\)\.\n")


@dataclass
class RunningGateway:
    """A running `mien gateway`, asked as its callers ask it."""

    process: subprocess.Popen[str]
    log_file: Path
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def get(self, path, **options):
        return requests.get(f"{self.url}{path}", timeout=60, **{"headers": self.headers, **options})

    def post(self, path, data=None, kind=None, **options):
        headers = {**self.headers, **({"content-type": kind} if kind else {}), **options.pop("headers", {})}
        return requests.post(f"{self.url}{path}", data, timeout=60, headers=headers, **options)

    def analyze(self, data=None, kind=None, **query):
        return self.post("/v1/analyze", data, kind, params=query)

    @property
    def stream_url(self):
        return self.url.replace("http", "ws", 1) + "/v1/stream"

    @property
    def workers(self):
        """The processes that read pictures."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="utf-8")
        return [int(pid) for pid in children.split()]

    def log(self):
        return self.log_file.read_text(encoding="utf-8")

    def metric(self, name):
        """The sum of the series of a metric whose name and labels match."""
        lines = [line for line in self.get("/metrics").text.splitlines() if re.match(name, line)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def until_ready(self):
        until(lambda: self.get("/readyz").status_code == 200)
        return self

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def root():
    """The folder of the repository."""
    return ROOT


@pytest.fixture(scope="session", name="until")
def _until():
    return until


@pytest.fixture(scope="session")
def model_server(published):
    with LocalModelServer(ROOT / "models.config", model_repository=published) as server:
        yield server


@contextmanager
def starting_gateways(tmp_path_factory):
    """Yield a function that starts `mien gateway` with flags on a free port; the gateways end with the block."""
    running: list[RunningGateway] = []

    def start(*flags, wait=True):
        log = tmp_path_factory.mktemp("gateway") / "log"
        command = [MIEN, "gateway", "--port=0", *map(str, flags)]
        with log.open("w", encoding="utf-8") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, encoding="utf-8")
        gateway = RunningGateway(process, log)
        running.append(gateway)
        line = process.stdout.readline()
        ready = READY.fullmatch(line)
        assert ready, f"{line!r}\n{gateway.log()}"
        gateway.url = ready[1]
        return gateway.until_ready() if wait else gateway

    yield start
    for gateway in running:
        gateway.process.terminate()
    for gateway in running:
        gateway.stop()
        gateway.process.stdout.close()


@pytest.fixture(scope="session")
def starting(tmp_path_factory):
    """Return `starting_gateways`, for fixtures of any scope."""
    return lambda: starting_gateways(tmp_path_factory)


@pytest.fixture(scope="module")
def start_gateway(starting):
    """Start `mien gateway` with these flags on a free port; it is stopped after the tests of the file."""
    with starting() as start:
        yield start


@pytest.fixture(scope="session")
def gateway(starting, model_server):
    """A gateway with its defaults, in front of the shipped networks."""
    with starting() as start:
        yield start("--server", model_server.grpc_address)


@pytest.fixture(scope="session")
def client(model_server):
    with Client(model_server.grpc_address) as client:
        yield client


@pytest.fixture(scope="session")
def portrait():
    """The bytes of a picture with one happy face."""
    return PORTRAIT.read_bytes()


@pytest.fixture(scope="session")
def face():
    """One happy face, uint8 [48, 48]."""
    return find_faces(read_picture(PORTRAIT))[0].image


@pytest.fixture(scope="session")
def faces(face):
    noise = np.random.default_rng(0).integers(0, 256, (5, 48, 48), np.uint8)
    return np.concatenate([face[None], face[None, :, ::-1], noise])


@pytest.fixture
def is_problem():
    """Check that a response is a problem as RFC 9457 describes it, and return its document."""

    def check(response, status, kind):
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        document = response.json()
        assert document["type"] == f"urn:mien:problem:{kind}"
        assert document["status"] == status
        assert document["title"]
        assert document["detail"]
        assert ("retry-after" in response.headers) == document["retryable"]
        return document

    return check
