"""Requests leave nothing in memory, even without the garbage collector."""

import asyncio
import gc
import logging
import time
import weakref
from pathlib import Path

import grpc
import numpy as np
import pytest
from mien_client import protos
from mien_serving.batching.parameters import BatchingOptions
from mien_serving.batching.scheduler import BatchScheduler
from mien_serving.core.status import StatusError, invalid_argument
from mien_serving.model_servers.workers import Workers

FOREVER = float("inf")


class Tensor:
    """Stands for what a request has in memory."""


@pytest.fixture
def made(monkeypatch):
    """Yield weak references to all tensors, while the garbage collector is off."""
    references = []
    monkeypatch.setattr(Tensor, "__init__", lambda self: references.append(weakref.ref(self)))
    logging.disable()  # What pytest records of a log keeps the tracebacks.
    gc.collect()
    gc.disable()
    yield references
    gc.enable()
    logging.disable(logging.NOTSET)


def refused():
    tensor = Tensor()
    raise invalid_argument("no")
    return tensor


def refused_because_of_another_error():
    tensor = Tensor()
    try:
        raise ValueError("no")
    except ValueError as error:
        raise invalid_argument("no") from error
    return tensor


def failed():
    tensor = Tensor()
    raise ValueError("no")
    return tensor


def alive(references):
    assert references
    return [reference for reference in references if reference() is not None]


@pytest.mark.parametrize("function", [refused, refused_because_of_another_error, failed])
@pytest.mark.parametrize("refusal", [None, "busy"])
def test_a_refused_request_leaves_nothing_in_memory(made, function, refusal):
    async def ask():
        workers = Workers("test", 1, refusal)
        tensor = Tensor()
        with pytest.raises(StatusError):
            await workers.run(function)
        workers.stop()
        return tensor

    asyncio.run(ask())
    assert not alive(made)


@pytest.mark.parametrize("examples", [1, 3, 4, 1000])
@pytest.mark.parametrize("function", [refused, failed])
def test_a_request_whose_batch_is_refused_leaves_nothing_in_memory(made, examples, function):
    scheduler = BatchScheduler(1)
    options = BatchingOptions(max_batch_size=2, max_enqueued_batches=3)

    def ask():
        tensor = Tensor()
        feeds = {"x": np.zeros(examples)}
        try:
            scheduler.submit("model", lambda *_: function(), feeds, ["y"], FOREVER, options).outputs()
        except StatusError:
            return tensor

    ask()
    ask()
    scheduler.stop()
    assert not alive(made)


def test_an_answered_batch_is_freed_before_the_next(made):
    scheduler = BatchScheduler(1)
    feeds = [np.zeros(10)]
    reference = weakref.ref(feeds[0])
    options = BatchingOptions()
    scheduler.submit("model", lambda feeds, *_: [feeds["x"] + 1], {"x": feeds[0]}, ["y"], FOREVER, options).outputs()
    feeds.clear()
    give_up = time.monotonic() + 30
    while reference() is not None:
        assert time.monotonic() < give_up
        time.sleep(0.01)
    scheduler.stop()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the resident memory from /proc")
def test_memory_after_refused_requests_is_within_a_quarter_of_the_memory_before(start_server, conformance_models):
    server = start_server(
        "--model_name=tiny",
        f"--model_base_path={conformance_models / 'tiny'}",
        "--enable_batching",
        "--grpc_max_threads=17",
    )

    def resident_kilobytes():
        status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    before = resident_kilobytes()
    request = protos.PredictRequest(model_spec={"name": "tiny"})
    request.inputs["x"].dtype = protos.DataType.DT_FLOAT
    request.inputs["x"].float_val.extend([1.0] * 2_000_000)
    for size in (1_000_000, 2):
        request.inputs["x"].tensor_shape.dim.add(size=size)
    for call in [server.future("Predict", request, timeout=120) for _ in range(32)]:
        with pytest.raises(grpc.RpcError, match=r"The batch scheduling queue .* is full|Server Threadpool Exhausted"):
            call.result()
    server.until(lambda: resident_kilobytes() < 1.25 * before)
