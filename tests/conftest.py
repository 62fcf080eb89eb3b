"""The shipped networks, served by a real ``mien serve``, once for all tests."""

import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MIEN = str(Path(sys.executable).with_name("mien"))


@dataclass(frozen=True)
class Server:
    """A running ``mien serve``."""

    repository: Path
    grpc: str
    rest: str


@contextmanager
def serve(repository, log, *flags):
    command = [MIEN, "serve", "--port=0", "--rest_api_port=0", f"--model_config_file={ROOT / 'models.config'}"]
    command += [f"--model_repository={repository}", *flags]
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8") as process,
    ):
        line = process.stdout.readline()
        ports = re.search(r"gRPC on port (\d+), REST on port (\d+)", line)
        assert ports, log.read_text(encoding="utf-8")
        try:
            yield Server(repository, f"localhost:{ports[1]}", f"http://localhost:{ports[2]}")
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0, log.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def mien():
    """Return a function that runs the installed ``mien`` program."""

    def run(*arguments):
        return subprocess.run([MIEN, *map(str, arguments)], capture_output=True, encoding="utf-8", check=False)

    return run


@pytest.fixture(scope="session")
def server(published, tmp_path_factory):
    """Serve the shipped networks, unchanged."""
    with serve(published, tmp_path_factory.mktemp("log") / "server.log") as running:
        yield running


@pytest.fixture
def bfloat16_server(published, tmp_path):
    """Serve the shipped networks in bfloat16."""
    with serve(published, tmp_path / "server.log", "--mixed_precision=bfloat16") as running:
        yield running


@pytest.fixture
def changing_server(published, tmp_path):
    """Serve a repository of its own, and poll it every second."""
    repository = shutil.copytree(published, tmp_path / "models")
    with serve(repository, tmp_path / "server.log", "--file_system_poll_wait_seconds=1") as running:
        yield running
