"""What a server measures of itself: the interface, and an object that measures nothing."""
# ruff: noqa: ARG002 -- methods that measure nothing use no arguments

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Final


class Metrics:
    """Measures nothing. `PrometheusMetrics` overrides every method.

    So whatever is measured calls its metrics without asking whether they are switched on.
    """

    def request(self, model: str, api: str, entrypoint: str) -> AbstractContextManager[None]:
        """Count one request by its outcome, and measure its latency if it succeeds.

        Args:
            model: The model that the request names.
            api: ``Predict``, ``Classify``, …; for REST the verb of the path, empty for status and metadata.
            entrypoint: ``GRPC`` or ``REST``.
        """
        return nullcontext()

    def unlabelled(self, model: str) -> None:
        """Count one request that names neither a version nor a label."""

    def load(self, path: str) -> AbstractContextManager[None]:
        """Count one attempt to load the SavedModel in a folder, and measure it if it succeeds."""
        return nullcontext()

    def warm_up(self, path: str) -> AbstractContextManager[None]:
        """Measure the warm-up of the SavedModel in a folder, if it succeeds."""
        return nullcontext()

    def warm_up_record(self, path: str) -> None:
        """Count one warm-up request that was read."""

    def run(self, model: str, api: str) -> AbstractContextManager[None]:
        """Measure the time that a request spends in TensorFlow and in a batching queue, if it succeeds."""
        return nullcontext()

    def graph_run(self) -> AbstractContextManager[None]:
        """Count and measure one run of a graph, if it succeeds."""
        return nullcontext()

    def batched(self, size: int) -> None:
        """Count one request that joins a batch.

        Args:
            size: Number of its examples.
        """

    def batch_run(self, thread_pool: str, waited_s: Iterable[float], size: int, padding: int) -> None:
        """Count one run of a batch.

        Args:
            thread_pool: Name of the batch threads.
            waited_s: How long each request has waited for the batch, in seconds.
            size: Number of examples, padding included.
            padding: Number of padding examples.
        """

    def count(self, name: str) -> int:
        """Return the value of a counter by TensorFlow's name for it, such as ``/tensorflow/core/graph_runs``.

        An unknown counter, and every counter while metrics are off, is 0.
        """
        return 0

    def page(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return b""


NO_METRICS: Final = Metrics()
"""The metrics of a server for which they are switched off."""
