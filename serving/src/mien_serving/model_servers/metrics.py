"""Metrics, by the names and labels that TensorFlow Serving gives them, for Prometheus to scrape."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import prometheus_client

from mien_serving.core.status import Code, StatusError

_LATENCY_BUCKETS: Final = [10 * 1.8**power for power in range(33)]
"""Microseconds: from 10 to about 20 minutes."""

_QUEUING_BUCKETS: Final = [100 * 1.2**power for power in range(52)]
"""Microseconds: from 100 to about 1 second."""

_SIZE_BUCKETS: Final = [2**power for power in range(14)]
"""Examples: from 1 to 8192."""

_RUNTIME: Final = "TF1"
"""What TensorFlow Serving calls a runtime that runs graphs in sessions."""

_BOUND: Final = re.compile(rb'(?<=\ble=")[0-9][^"]*(?=")')
"""Upper bound of a bucket; the library prints all of its digits, TensorFlow Serving six."""

# The library ends the name of every counter in _total, TensorFlow Serving none.
_COUNTER_ENDING: Final = re.compile(rb"^((?:# (?:HELP|TYPE) )?:(?:tensorflow|mien):[a-z_:]+?)_total\b", re.MULTILINE)


class Metrics:
    """What the server counts of itself."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = prometheus_client.CollectorRegistry()
        self._requests = prometheus_client.Counter(
            ":tensorflow:serving:request_count",
            "The total number of requests.",
            ["model_name", "status"],
            registry=self._registry,
        )
        self._latency = prometheus_client.Histogram(
            ":tensorflow:serving:request_latency",
            "Distribution of wall time (in microseconds) for Tensorflow Serving request.",
            ["model_name", "API", "entrypoint"],
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._unlabelled = prometheus_client.Counter(
            ":mien:serving:unlabelled_request_count",
            "The total number of requests that name neither a version nor a label.",
            ["model_name"],
            registry=self._registry,
        )
        self._runtime = prometheus_client.Histogram(
            ":tensorflow:serving:runtime_latency",
            "Distribution of wall time (in microseconds) for Tensorflow runtime.",
            ["model_name", "API", "runtime"],
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._loads = prometheus_client.Counter(
            ":tensorflow:cc:saved_model:load_attempt_count",
            "The number of times a SavedModel was successfully loaded, or not.",
            ["model_path", "status"],
            registry=self._registry,
        )
        self._load_latency = prometheus_client.Counter(
            ":tensorflow:cc:saved_model:load_latency",
            "Latency in microseconds for SavedModels that were successfully loaded.",
            ["model_path"],
            registry=self._registry,
        )
        self._warmup = prometheus_client.Histogram(
            ":tensorflow:serving:model_warmup_latency",
            "Distribution of wall time (in microseconds) for warming up the model.",
            ["model_path", "status"],
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._warmup_records = prometheus_client.Counter(
            ":tensorflow:serving:model_warmup_records_read",
            "The number of warm-up records read.",
            ["model_path"],
            registry=self._registry,
        )
        self._graph_runs = prometheus_client.Counter(
            ":tensorflow:core:graph_runs",
            "The number of graph executions used to collect graph_run_time_usecs.",
            registry=self._registry,
        )
        self._graph_run_time = prometheus_client.Counter(
            ":tensorflow:core:graph_run_time_usecs",
            "The total time spent on executing graphs in microseconds.",
            registry=self._registry,
        )
        self._queuing = prometheus_client.Histogram(
            ":tensorflow:serving:batching_session:queuing_latency",
            "Distribution of wall time spent (in microseconds) in queuing",
            ["thread_pool_name"],
            buckets=_QUEUING_BUCKETS,
            registry=self._registry,
        )
        self._batch_runs = prometheus_client.Counter(
            ":tensorflow:serving:batching_session:wrapped_run_count",
            "Total count of run calls on the wrapped session",
            registry=self._registry,
        )
        self._input_size = prometheus_client.Histogram(
            ":tensorflow:serving:batching_session:input_batch_size",
            "Tracks the batch size distribution on the inputs.",
            buckets=_SIZE_BUCKETS,
            registry=self._registry,
        )
        self._processed_size = prometheus_client.Histogram(
            ":tensorflow:serving:batching_session:processed_batch_size",
            "Tracks the batch size distribution on processing.",
            buckets=_SIZE_BUCKETS,
            registry=self._registry,
        )
        self._padding_size = prometheus_client.Histogram(
            ":tensorflow:serving:batching_session:padding_size",
            "Tracks the padding size distribution on batches.",
            ["execution_batch_size"],
            buckets=_SIZE_BUCKETS,
            registry=self._registry,
        )

    @contextmanager
    def request(self, model: str, api: str, entrypoint: str) -> Iterator[None]:
        """Counts one request by how it ended, and its latency if it ended well.

        Args:
            model: The model that it asked for.
            api: ``Predict``, ``Classify``, …; the verb of a REST path, which status and metadata have not.
            entrypoint: ``GRPC`` or ``REST``.
        """
        start, code = time.perf_counter(), Code.INTERNAL
        try:
            yield
            code = Code.OK
            self._latency.labels(model, api, entrypoint).observe(_micros_since(start))
        except StatusError as error:
            code = error.code
            raise
        finally:
            self._requests.labels(model, code.name).inc()

    def unlabelled(self, model: str) -> None:
        """Counts one request that names neither a version nor a label."""
        self._unlabelled.labels(model).inc()

    @contextmanager
    def load(self, path: str) -> Iterator[None]:
        """Counts one attempt to load a SavedModel."""
        start, status = time.perf_counter(), "fail"
        try:
            yield
            status = "success"
            self._load_latency.labels(path).inc(_micros_since(start))
        finally:
            self._loads.labels(path, status).inc()

    @contextmanager
    def warm_up(self, path: str) -> Iterator[None]:
        """Measures one warm-up, if it ends well."""
        start = time.perf_counter()
        yield
        self._warmup.labels(path, Code.OK.name).observe(_micros_since(start))

    def warm_up_record(self, path: str) -> None:
        """Counts one warm-up request that was read."""
        self._warmup_records.labels(path).inc()

    @contextmanager
    def run(self, model: str, api: str) -> Iterator[None]:
        """Measures what a request spends in TensorFlow, and waiting for its batch, if it ends well."""
        start = time.perf_counter()
        yield
        self._runtime.labels(model, api, _RUNTIME).observe(_micros_since(start))

    @contextmanager
    def graph_run(self) -> Iterator[None]:
        """Counts one run of a graph."""
        start = time.perf_counter()
        yield
        self._graph_runs.inc()
        self._graph_run_time.inc(_micros_since(start))

    def batched(self, size: int) -> None:
        """Counts one request that will be part of a batch, by its examples."""
        self._input_size.observe(size)

    def batch_run(self, thread_pool: str, waited_s: Iterable[float], size: int, padding: int) -> None:
        """Counts one run of a batch.

        Args:
            thread_pool: What the threads are called.
            waited_s: How long each of its requests has waited for it.
            size: Examples, with those that only fill it up.
            padding: How many of them do.
        """
        self._batch_runs.inc()
        self._processed_size.observe(size)
        self._padding_size.labels(str(size)).observe(padding)
        queuing = self._queuing.labels(thread_pool)
        for seconds in waited_s:
            queuing.observe(seconds * 1_000_000)

    def count(self, name: str) -> int:
        """The first value of the counter that TensorFlow knows by a name such as ``/tensorflow/core/graph_runs``.

        It is 0 if there is none.
        """
        for family in self._registry.collect():
            if family.name == name.replace("/", ":") and family.type == "counter" and family.samples:
                return int(family.samples[0].value)
        return 0

    def page(self) -> bytes:
        """All of it in Prometheus's text format."""
        page = _COUNTER_ENDING.sub(rb"\1", prometheus_client.generate_latest(self._registry))
        return _BOUND.sub(lambda bound: b"%g" % float(bound[0]), page)


def measured(metrics: Metrics | None, model: str, api: str, entrypoint: str) -> AbstractContextManager[None]:
    """Counts one request, if anything is counted at all."""
    return metrics.request(model, api, entrypoint) if metrics else nullcontext()


def _micros_since(start: float) -> float:
    return (time.perf_counter() - start) * 1_000_000
