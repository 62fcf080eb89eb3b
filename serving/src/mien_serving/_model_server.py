"""The model server: the parts put together, from start-up to the last answered request."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mien_client.protos import ModelServerConfig

from mien_serving._config import read_config
from mien_serving._grpc_front import GrpcFront
from mien_serving._manager import ServableId
from mien_serving._rest_api import RestApi
from mien_serving._rest_front import RestFront
from mien_serving._servable import Servable, SessionOptions
from mien_serving._server_core import CoreOptions, ServerCore
from mien_serving._services import Services
from mien_serving._status import Code, StatusError
from mien_serving._warmup import warm_up

try:
    from uvloop import new_event_loop
except ImportError:  # Windows has none.
    from asyncio import new_event_loop

logger = logging.getLogger(__name__)

_GRACE_S: Final = 30.0
"""How long requests in flight may take when the server is told to end."""


@dataclass(frozen=True)
class ServerOptions:
    """What the flags of ``mien serve`` say.

    Attributes:
        config: The models to serve.
        config_file: Where that was read from, if it is to be looked at again.
        config_file_poll_wait_seconds: Pause between two looks at it; 0 never looks again.
        grpc_port: Port for gRPC; 0 takes a free one.
        rest_port: Port for REST; 0 takes a free one.
        grpc_max_threads: gRPC requests computed at the same time.
        rest_threads: REST requests computed at the same time.
        rest_timeout_s: How long a model may take for a REST request.
        enable_model_warmup: Whether versions run their warm-up requests before they are available.
        warmup_iterations: How often each of those runs.
        core: How models are found and kept.
        session: How TensorFlow runs them.
    """

    config: ModelServerConfig
    config_file: Path | None = None
    config_file_poll_wait_seconds: float = 0.0
    grpc_port: int = 8500
    rest_port: int = 8501
    grpc_max_threads: int = 4 * (os.cpu_count() or 1)
    rest_threads: int = 4 * (os.cpu_count() or 1)
    rest_timeout_s: float = 30.0
    enable_model_warmup: bool = True
    warmup_iterations: int = 1
    core: CoreOptions = field(default_factory=CoreOptions)
    session: SessionOptions = field(default_factory=SessionOptions)


class ModelServer:
    """A model server in this process."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._core: ServerCore[Servable] = ServerCore(self._load, options.core)
        self._stopped = threading.Event()

    def run(self, announce: Callable[[int, int], None]) -> None:
        """Serves until the process is told to end (SIGTERM, Ctrl-C), then answers what is in flight.

        Args:
            announce: Called with the gRPC and the REST port when every model can be asked.

        Raises:
            StatusError: The server cannot start.
        """
        for port, flag in ((self._options.grpc_port, "--port"), (self._options.rest_port, "--rest_api_port")):
            _check_free(port, flag)
        self._core.start(self._options.config)
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(self._serve(announce))
        finally:
            self._stopped.set()
            self._core.stop()

    async def _serve(self, announce: Callable[[int, int], None]) -> None:
        services = Services(self._core)
        grpc_front = GrpcFront(services, self._options.grpc_max_threads)
        rest_front = RestFront(RestApi(services, self._options.rest_timeout_s), self._options.rest_threads)
        grpc_port = grpc_front.bind(self._options.grpc_port)
        rest_port = rest_front.bind(self._options.rest_port)
        await grpc_front.start()
        await rest_front.start()
        self._poll_config_file()
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        announce(grpc_port, rest_port)
        await ended.wait()
        logger.info("Told to end: requests in flight are answered first")
        await asyncio.gather(grpc_front.stop(_GRACE_S), rest_front.stop(_GRACE_S))

    def _load(self, _: ServableId, path: Path) -> Servable:
        servable = Servable(path, self._options.session)
        if self._options.enable_model_warmup:
            try:
                warm_up(servable, path, self._options.warmup_iterations)
            except BaseException:
                servable.close()
                raise
        return servable

    def _poll_config_file(self) -> None:
        if self._options.config_file and self._options.config_file_poll_wait_seconds > 0:
            threading.Thread(
                target=self._reload_periodically, args=(self._options.config_file,), name="config file", daemon=True
            ).start()

    def _reload_periodically(self, file: Path) -> None:
        while not self._stopped.wait(self._options.config_file_poll_wait_seconds):
            try:
                self._core.reload_config(read_config(file))
            except StatusError as error:
                logger.error("The model configuration stays as it was: %s", error)


def _check_free(port: int, flag: str) -> None:
    """Finds out now, not after the models are loaded, that a port is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise StatusError(
                Code.UNAVAILABLE,
                f"port {port} cannot be used ({(error.strerror or str(error)).lower()}); choose another with {flag}, "
                "or 0 for any free one",
            ) from error
