"""Processes on hosts, each started again when it ends, as a container's restart policy does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from soak.network import Host

_RESTART_PAUSE_S: Final = 0.5


class Process:
    """A program on a host, in a session of its own.

    Args:
        name: What it is called in tables.
        host: Where it runs.
        command: How it is started.
        environment: Its environment.
        log: The file for what it says.
        port: The port at which it accepts connections when it is ready; None: it says "is ready" on standard output.

    Attributes:
        ready: Whether it is ready now.
        restarts: Seconds from each end that was caused to the moment when it was ready again.
        crashes: How it ended when nobody had caused that.
    """

    def __init__(
        self,
        name: str,
        host: Host,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        port: int | None = None,
    ) -> None:
        self.name = name
        self.host = host
        self.ready = threading.Event()
        self.restarts: list[float] = []
        self.crashes: list[str] = []
        self._command = host.command(command)
        self._environment = dict(environment)
        self._log = log
        self._port = port
        self._caused = False
        self._stopping = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._keep_running, daemon=True)

    @property
    def pid(self) -> int:
        """Its process id; that of its session, too."""
        assert self._process
        return self._process.pid

    def start(self) -> None:
        """Start it; `ready` says when it can be used."""
        self._thread.start()

    def send(self, number: int) -> None:
        """Send a signal to it and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def signal(self, number: int) -> None:
        """Send a signal to it alone."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def expect_end(self) -> None:
        """Note that its next end is caused by us."""
        self._caused = True

    def kill(self) -> None:
        """End it and its children at once; it is started again."""
        self.expect_end()
        self.ready.clear()
        self.send(signal.SIGKILL)

    def stop(self) -> None:
        """End it for good."""
        self._stopping.set()
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        self._thread.join(20)
        if self._thread.is_alive():
            self.send(signal.SIGKILL)
            self._thread.join()

    def _keep_running(self) -> None:
        ended = 0.0
        while not self._stopping.is_set():
            with self._log.open("a", encoding="utf-8") as log:
                self._process = process = subprocess.Popen(  # noqa: S603
                    self._command,
                    env=self._environment,
                    stdout=subprocess.PIPE if self._port is None else log,
                    stderr=log,
                    encoding="utf-8",
                    start_new_session=True,
                )
            if self._wait(process):
                self.ready.set()
                if ended:
                    self.restarts.append(time.monotonic() - ended)
            with process:  # Reads nothing more, since `mien` says nothing more on standard output.
                status = process.wait()
            ended = time.monotonic()
            self.ready.clear()
            self.send(signal.SIGKILL)  # In a container, children do not outlive the first process either.
            if not self._caused and not self._stopping.is_set():
                self.crashes.append(f"{self.name} ended with status {status}")
            self._caused = False
            self._stopping.wait(_RESTART_PAUSE_S)

    def _wait(self, process: subprocess.Popen[str]) -> bool:
        """Wait until it is ready; return False if it ends before."""
        if process.stdout:
            return any("is ready" in line for line in process.stdout)
        while process.poll() is None:
            with suppress(OSError):
                self.host.run(lambda: socket.create_connection(("127.0.0.1", self._port or 0), timeout=1)).close()
                return True
            time.sleep(0.1)
        return False
