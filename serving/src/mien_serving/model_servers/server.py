"""The model server: its parts put together, from start-up to the last answered request."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from mien_serving.batching.batching_servable import BatchingServable
from mien_serving.batching.parameters import read_batching_parameters
from mien_serving.batching.scheduler import BatchScheduler
from mien_serving.core.config import read_config
from mien_serving.core.metrics import NO_METRICS
from mien_serving.core.servable_state import ServableId
from mien_serving.core.server_core import ServerCore
from mien_serving.core.status import StatusError
from mien_serving.model_servers.grpc_front import GrpcFront
from mien_serving.model_servers.listening import port_error
from mien_serving.model_servers.model_service import ModelService
from mien_serving.model_servers.options import ServerOptions
from mien_serving.model_servers.prometheus import PrometheusMetrics
from mien_serving.model_servers.rest.front import RestFront
from mien_serving.model_servers.rest.routes import RestApi
from mien_serving.servables.predictor import Predictor
from mien_serving.servables.servable import Servable, give_memory_back
from mien_serving.servables.warmup import has_warm_up, warm_up

try:
    from uvloop import new_event_loop
except ImportError:  # Windows has none.
    from asyncio import new_event_loop

logger = logging.getLogger(__name__)

_GRACE_S: Final = 30.0
"""Seconds that requests in flight may take after the server was told to stop."""

_GIVE_MEMORY_BACK_S: Final = 30.0
"""Seconds between two returns of free memory to the system.

Without them, much of the memory of refused requests stays with the process, which a test in `test_memory.py` notices.
"""


class ModelServer:
    """A model server in this process."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._metrics = PrometheusMetrics() if options.rest.metrics_path else NO_METRICS
        batching = options.batching
        self._scheduler = BatchScheduler(batching.num_batch_threads, self._metrics) if batching else None
        self._core: ServerCore[Servable] = ServerCore(self._load, options.core, self._metrics)
        self._stopped = threading.Event()

    def run(self, announce: Callable[[str, int], None]) -> None:
        """Serve until SIGTERM or Ctrl-C, then answer the requests in flight.

        Args:
            announce: Called with where gRPC listens, and the REST port, when every model is available.

        Raises:
            StatusError: The server cannot start.
        """
        self._core.start(self._options.config)
        if self._scheduler:
            _let_batches_go_first()
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(self._serve(announce))
        finally:
            self._stopped.set()
            self._core.stop()
            if self._scheduler:
                self._scheduler.stop()

    async def _serve(self, announce: Callable[[str, int], None]) -> None:
        predictor, models = Predictor(self._core.handle), ModelService(self._core, self._metrics)
        grpc_front = GrpcFront(predictor, models, self._options.grpc, self._metrics)
        rest_front = RestFront(RestApi(predictor, models, self._metrics), self._options.rest, self._metrics)
        grpc_address = grpc_front.bind()
        try:
            rest_port = rest_front.bind()
        except OSError as error:
            raise port_error(self._options.rest.port, "--rest_api_port", error) from error
        await grpc_front.start()
        await rest_front.start()
        self._poll_config_file()
        threading.Thread(target=self._give_memory_back_periodically, name="memory", daemon=True).start()
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(ended.set))
        announce(grpc_address, rest_port)
        await ended.wait()
        logger.info("Stopping: requests in flight are answered first")
        await asyncio.gather(grpc_front.stop(_GRACE_S), rest_front.stop(_GRACE_S))

    def _load(self, servable_id: ServableId, path: Path) -> Servable:
        with self._metrics.load(str(path)):
            servable = self.load_saved_model(path, servable_id.name)
        if self._options.enable_model_warmup and has_warm_up(path):
            try:
                with self._metrics.warm_up(str(path)):
                    warm_up(Predictor.of_version(servable), path, self._options.warmup_iterations, self._metrics)
            except BaseException:
                servable.close()
                raise
        return servable

    def load_saved_model(self, path: Path, name: str = "") -> Servable:
        """Load a SavedModel, with batching if the options or its own parameters say so."""
        batching = self._options.batching
        if batching and self._options.per_model_batching:
            file = path / "batching_params.pbtxt"
            batching = read_batching_parameters(file) if file.exists() else None
        if self._scheduler is None or batching is None:
            return Servable(path, self._options.session, self._metrics, name)
        return BatchingServable(path, self._options.session, self._scheduler, batching, self._metrics, name)

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
                logger.error("The previous model configuration stays in use: %s", error)

    def _give_memory_back_periodically(self) -> None:
        while not self._stopped.wait(_GIVE_MEMORY_BACK_S):
            give_memory_back()


def _let_batches_go_first() -> None:
    """Keep this thread, and those that it starts, from interrupting other threads for each event; on Linux only.

    The network's threads then handle the events of several requests at once while a batch runs. With many small
    requests, waking them for each event costs more than answering it: on two cores, 64 clients with one face each get 3
    to 9 % more faces a second. See sched(7), `SCHED_BATCH`.
    """
    if sys.platform == "linux":
        with suppress(PermissionError):  # A sandbox may forbid it.
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
