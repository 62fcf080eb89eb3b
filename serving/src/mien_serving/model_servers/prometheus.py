"""Metrics under the names and labels of TensorFlow Serving, for Prometheus to scrape."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import prometheus_client

from mien_serving.core.metrics import Metrics
from mien_serving.core.status import Code, StatusError

_LATENCY_BUCKETS: Final = [10 * 1.8**power for power in range(33)]
"""Microseconds: from 10 to about 20 minutes."""

_QUEUING_BUCKETS: Final = [100 * 1.2**power for power in range(52)]
"""Microseconds: from 100 to about 1 second."""

_SIZE_BUCKETS: Final = [2**power for power in range(14)]
"""Examples: from 1 to 8192."""

_MOST_NAMES: Final = 1_000
_LONGEST_NAME: Final = 200
"""Characters."""

_OTHER_NAMES: Final = "(other names)"
"""The model of failed requests that name yet another model, so that callers cannot fill the memory with names."""

_RUNTIME: Final = "TF1"
"""TensorFlow Serving's name for the runtime that runs graphs in sessions."""

_BOUND: Final = re.compile(rb'(?<=\ble=")[0-9][^"]*(?=")')
"""Upper bound of a bucket; the library prints all of its digits, TensorFlow Serving six."""

# The library appends _total to the name of every counter; TensorFlow Serving does not.
_COUNTER_ENDING: Final = re.compile(rb"^((?:# (?:HELP|TYPE) )?:(?:tensorflow|mien):[a-z_:]+?)_total\b", re.MULTILINE)


class PrometheusMetrics(Metrics):
    """Measures, and renders what it measured as a page that Prometheus scrapes."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = prometheus_client.CollectorRegistry()
        self._names: set[str] = set()
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
        """Count one request by its outcome, and measure its latency if it succeeds."""
        start, code = time.perf_counter(), Code.INTERNAL
        try:
            yield
            code = Code.OK
            self._latency.labels(model, api, entrypoint).observe(_micros_since(start))
        except StatusError as error:
            code = error.code
            raise
        finally:
            self._requests.labels(self._counted_name(model, code), code.name).inc()

    def _counted_name(self, model: str, code: Code) -> str:
        """Return the name under which a request is counted; one that fails may name anything."""
        if model not in self._names:
            refused = len(self._names) >= _MOST_NAMES or len(model) > _LONGEST_NAME
            if code is not Code.OK and refused:
                return _OTHER_NAMES
            self._names.add(model)
        return model

    def unlabelled(self, model: str) -> None:
        """Count one request that names neither a version nor a label."""
        self._unlabelled.labels(model).inc()

    @contextmanager
    def load(self, path: str) -> Iterator[None]:
        """Count one attempt to load a SavedModel, and measure it if it succeeds."""
        start, status = time.perf_counter(), "fail"
        try:
            yield
            status = "success"
            self._load_latency.labels(path).inc(_micros_since(start))
        finally:
            self._loads.labels(path, status).inc()

    @contextmanager
    def warm_up(self, path: str) -> Iterator[None]:
        """Measure one warm-up, if it succeeds."""
        start = time.perf_counter()
        yield
        self._warmup.labels(path, Code.OK.name).observe(_micros_since(start))

    def warm_up_record(self, path: str) -> None:
        """Count one warm-up request that was read."""
        self._warmup_records.labels(path).inc()

    @contextmanager
    def run(self, model: str, api: str) -> Iterator[None]:
        """Measure the time that a request spends in TensorFlow and in a batching queue, if it succeeds."""
        start = time.perf_counter()
        yield
        self._runtime.labels(model, api, _RUNTIME).observe(_micros_since(start))

    @contextmanager
    def graph_run(self) -> Iterator[None]:
        """Count and measure one run of a graph, if it succeeds."""
        start = time.perf_counter()
        yield
        self._graph_runs.inc()
        self._graph_run_time.inc(_micros_since(start))

    def batched(self, size: int) -> None:
        """Count one request that joins a batch."""
        self._input_size.observe(size)

    def batch_run(self, thread_pool: str, waited_s: Iterable[float], size: int, padding: int) -> None:
        """Count one run of a batch."""
        self._batch_runs.inc()
        self._processed_size.observe(size)
        self._padding_size.labels(str(size)).observe(padding)
        queuing = self._queuing.labels(thread_pool)
        for seconds in waited_s:
            queuing.observe(seconds * 1_000_000)

    def count(self, name: str) -> int:
        """Return the value of a counter by TensorFlow's name for it; 0 for an unknown counter."""
        for family in self._registry.collect():
            if family.name == name.replace("/", ":") and family.type == "counter" and family.samples:
                return int(family.samples[0].value)
        return 0

    def page(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        page = _COUNTER_ENDING.sub(rb"\1", prometheus_client.generate_latest(self._registry))
        return _BOUND.sub(lambda bound: b"%g" % float(bound[0]), page)


def _micros_since(start: float) -> float:
    return (time.perf_counter() - start) * 1_000_000
