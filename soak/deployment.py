"""The deployment under stress: three model servers, two gateways and two edges, each on a host of its own."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mien_client.contract import EMOTION_MODEL, KEYPOINT_MODEL

from soak.certificates import Certificates
from soak.names import NameServer
from soak.network import Network, NetworkError
from soak.processes import Process

ROOT: Final = Path(__file__).parent.parent
MIEN: Final = str(Path(sys.executable).with_name("mien"))
MODELS: Final = (EMOTION_MODEL, KEYPOINT_MODEL)

SERVERS: Final = ("server1", "server2", "server3")
GATEWAYS: Final = ("gateway1", "gateway2")
EDGES: Final = ("edge1", "edge2")
CALLERS: Final = "callers"
OPERATOR: Final = "operator"
VERSIONS: Final = (1, 2, 3)
"""The versions of each model that are in the repository from the beginning."""

_DISK: Final = "64m"
_READY_S: Final = 180.0
_EDGE: Final = {
    "CPUS": "1",
    "CLIENT_CERTIFICATES": "optional",
    "REQUEST_MEGABYTES": "8",
    "REQUEST_RATE": "500",
    "REQUESTS_AT_ONCE": "64",
    "LARGE_REQUESTS": "8",
    "REQUEST_THREADS": "128",
}
"""The defaults of docker-compose.yml."""
SERVER_FLAGS: Final = (
    "--host=0.0.0.0",
    "--port=8500",
    "--rest_api_port=8501",
    "--model_config_file_poll_wait_seconds=5",
    "--file_system_poll_wait_seconds=1",
    "--allow_version_labels_for_unavailable_models=true",
    "--num_load_threads=2",
    "--max_num_load_retries=2",
    "--load_retry_interval_micros=1000000",
    "--enable_batching=true",
    "--enable_grpc_healthcheck_service=true",
    "--grpc_max_threads=64",
    "--rest_api_num_threads=64",
    "--tensorflow_intra_op_parallelism=1",
    "--tensorflow_inter_op_parallelism=1",
)


def write_config(path: Path) -> None:
    """Write a ``models.config`` with the first version of each model."""
    policy = f"model_version_policy {{ specific {{ versions: {VERSIONS[0]} }} }}"
    models = "\n".join(
        f'config {{ name: "{model}" base_path: "/models/{model}" model_platform: "tensorflow" {policy} }}'
        for model in MODELS
    )
    path.write_text(f"model_config_list {{\n{models}\n}}\n", encoding="utf-8")


class Deployment:
    """All hosts, and what runs on them; a context manager.

    Args:
        folder: An empty folder for its files.

    Attributes:
        versions: The versions as `mien export` writes them, by model and number.
        site: A file system of its own, with the repository, its journal, models.config and split.json.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = folder / "site"
        self.versions = folder / "versions"
        self.network = Network([*SERVERS, *GATEWAYS, *EDGES, CALLERS, OPERATOR])
        self.hosts = self.network.hosts
        self.certificates = Certificates(folder / "certificates")
        self.processes: dict[str, Process] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._compile_clock()
            self._write_versions()
            self._mount()
            stack.callback(_quietly, "umount", "--lazy", str(self.site))
            self._fill_site()
            stack.enter_context(self.network)
            self.names = NameServer(self.table(), self.hosts.values())
            self.names.start()
            stack.callback(self.names.stop)
            for name in self.hosts:
                self.set_clock(name, 0)
            stack.callback(self._stop)
            self._start()
            self.wait_ready()
            for model in MODELS:
                done = self.rollout("adopt", model)
                if done.returncode:
                    raise NetworkError(f"`mien rollout adopt {model}` failed: {done.stderr.strip()}")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def table(self) -> dict[str, list[str]]:
        """Return the names that hosts can ask for: each host, and the two that stand for several."""
        table = {name: [host.address] for name, host in self.hosts.items()}
        table["serving"] = [self.hosts[name].address for name in SERVERS]
        table["gateway"] = [self.hosts[name].address for name in GATEWAYS]
        return table

    def environment(self, host: str) -> dict[str, str]:
        """Return the environment of a program on a host: its clock is the host's."""
        return {
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "LD_PRELOAD": str(self.folder / "clock.so"),
            "SOAK_CLOCK": str(self._clock(host)),
        }

    def set_clock(self, host: str, seconds: int) -> None:
        """Let the wall clock of a host differ from the right time; its processes notice at once."""
        with self._clock(host).open("r+b" if self._clock(host).exists() else "w+b") as file:
            file.write(struct.pack("q", seconds * 10**9))

    def rollout(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a verb of ``mien rollout`` on the operator's host."""
        command = [MIEN, "rollout", *map(str, arguments), f"--repository={self.site / 'models'}"]
        if arguments[0] != "history":
            servers = ",".join(f"{name}:8500" for name in SERVERS)
            command += [f"--config={self.site / 'models.config'}", f"--servers={servers}"]
        return subprocess.run(  # noqa: S603
            self.hosts[OPERATOR].command(command),
            env=self.environment(OPERATOR),
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    def unready(self) -> list[str]:
        """Return the names of the processes that cannot be used now."""
        return [name for name, process in self.processes.items() if not process.ready.is_set()]

    def wait_ready(self, stopped: threading.Event | None = None) -> None:
        """Wait until every process can be used.

        Raises:
            NetworkError: One is not ready after three minutes.
        """
        give_up = time.monotonic() + _READY_S
        while unready := self.unready():
            if stopped and stopped.is_set():
                return
            if time.monotonic() > give_up:
                raise NetworkError(f"Not ready after {_READY_S:g} s: {', '.join(unready)}; see {self.folder / 'logs'}")
            time.sleep(0.1)

    def _clock(self, host: str) -> Path:
        return self.folder / f"clock-{host}"

    def _write_versions(self) -> None:
        """Write the versions in another process, since TensorFlow would stay in this one's memory."""
        command = [sys.executable, "-m", "soak.versions", str(self.versions)]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, check=True)  # noqa: S603

    def _compile_clock(self) -> None:
        library, source = str(self.folder / "clock.so"), str(Path(__file__).with_name("clock.c"))
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"]
        subprocess.run(command, check=True)  # noqa: S603

    def _mount(self) -> None:
        self.site.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(self.site)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)  # noqa: S603
        if done.returncode:
            raise NetworkError(f"The small disk of the repository cannot be mounted: {done.stderr.strip()}")

    def _fill_site(self) -> None:
        for model in MODELS:
            for version in VERSIONS:
                shutil.copytree(self.versions / model / str(version), self.site / "models" / model / str(version))
        write_config(self.site / "models.config")

    def _start(self) -> None:
        logs = self.folder / "logs"
        logs.mkdir()
        config, repository = f"{self.site / 'models.config'}", f"{self.site / 'models'}"
        commands = {}
        for name in SERVERS:
            files = [f"--model_config_file={config}", f"--model_repository={repository}"]
            commands[name] = [MIEN, "serve", *SERVER_FLAGS, *files]
        for name in GATEWAYS:
            files = [f"--config={config}", f"--repository={repository}", "--workers=2"]
            commands[name] = [MIEN, "gateway", "--host=0.0.0.0", "--server=dns:///serving:8500", *files]
        for name, command in commands.items():
            log = logs / f"{name}.log"
            self.processes[name] = Process(name, self.hosts[name], command, self.environment(name), log)
        for name in EDGES:
            self.certificates.issue(name)
            environment = {**os.environ, **_EDGE, "CERTIFICATES": str(self.certificates.folder(name))}
            command = ["sh", str(ROOT / "deploy" / "edge" / "start.sh")]
            log = logs / f"{name}.log"
            self.processes[name] = Process(name, self.hosts[name], command, environment, log, 8443)
        for process in self.processes.values():
            process.start()

    def _stop(self) -> None:
        threads = [threading.Thread(target=process.stop) for process in self.processes.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _quietly(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=False)  # noqa: S603
