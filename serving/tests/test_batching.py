"""The batch scheduler: which requests share a batch, how it is formed, and that they do not affect each other."""

import gc
import os
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from mien_client.protos import DataType, ModelServerConfig, TensorProto
from mien_serving.batching.parameters import BatchingOptions
from mien_serving.batching.scheduler import BatchScheduler
from mien_serving.core.status import Code, StatusError
from mien_serving.model_servers.options import ServerOptions
from mien_serving.model_servers.prometheus import PrometheusMetrics
from mien_serving.model_servers.server import ModelServer
from mien_serving.servables.predict import predict

FOREVER = float("inf")
PATIENT = 30.0


class Graph:
    """Doubles `x`, records the batches it was given, and runs only while its gate is open."""

    def __init__(self):
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Semaphore(0)

    def run(self, feeds, fetches, deadline):
        self.batches.append(feeds["x"].tolist())
        self.deadline = deadline
        self.running.release()
        assert self.gate.wait(PATIENT)
        if -1 in feeds["x"]:
            raise StatusError(Code.INVALID_ARGUMENT, "no -1")
        return [feeds["x"] * 2 for _ in fetches]


@pytest.fixture
def graph():
    graph = Graph()
    yield graph
    graph.gate.set()


@pytest.fixture
def batching(graph):
    """Submits requests of these values one right after the other; returns a future of the output of each."""
    schedulers: list[BatchScheduler] = []
    threads = ThreadPoolExecutor(100)

    def begin(*requests, owner="m", deadline=FOREVER, **given):
        options = BatchingOptions(**{"num_batch_threads": 1, "max_batch_size": 4, **given})
        if not schedulers:
            schedulers.append(BatchScheduler(options.num_batch_threads))
        return [submit(np.asarray(values), owner, deadline, options) for values in requests]

    def submit(values, *arguments):
        owner, deadline, options = arguments
        try:
            submitted = schedulers[0].submit(owner, graph.run, {"x": values}, ["y"], deadline, options)
        except StatusError as error:
            refused: Future[Any] = Future()
            refused.set_exception(error)
            return refused
        return threads.submit(lambda: submitted.outputs()[0].tolist())

    yield begin
    graph.gate.set()
    for scheduler in schedulers:
        scheduler.stop()
    threads.shutdown()


def busy(graph, batching, **options):
    """Keeps the one batch thread busy, so that what comes next is queued."""
    graph.gate.clear()
    (first,) = batching([0], **{"owner": "other", **options})
    assert graph.running.acquire(timeout=PATIENT)
    return first


def error_of(future):
    with pytest.raises(StatusError) as error:
        future.result(PATIENT)
    return error.value


def test_requests_that_wait_together_run_together(graph, batching):
    busy(graph, batching)
    answers = batching([1], [2, 3])
    graph.gate.set()
    assert [answer.result(PATIENT) for answer in answers] == [[2], [4, 6]]
    assert graph.batches[1:] == [[1, 2, 3]]


def test_by_default_a_batch_does_not_wait_for_more_requests(graph, batching):
    assert batching([1])[0].result(PATIENT) == [2]


def test_a_batch_waits_its_timeout_for_more(graph, batching):
    answers = batching([1], [2], batch_timeout_s=2)
    assert [answer.result(PATIENT) for answer in answers] == [[2], [4]]
    assert graph.batches == [[1, 2]]


def test_a_full_batch_does_not_wait(graph, batching):
    answers = batching([1, 2], [3, 4], batch_timeout_s=3600)
    assert [answer.result(PATIENT) for answer in answers] == [[2, 4], [6, 8]]
    assert graph.batches == [[1, 2, 3, 4]]


def test_a_request_larger_than_a_batch_is_split_and_its_answer_whole(graph, batching):
    (answer,) = batching(list(range(10)))
    assert answer.result(PATIENT) == [2 * x for x in range(10)]
    assert graph.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_request_fills_the_open_batch_first(graph, batching):
    busy(graph, batching)
    answers = batching([1, 2, 3], [4, 5, 6])
    graph.gate.set()
    assert [answer.result(PATIENT) for answer in answers] == [[2, 4, 6], [8, 10, 12]]
    assert graph.batches[1:] == [[1, 2, 3, 4], [5, 6]]


def test_without_splitting_a_request_stays_whole_and_may_be_too_large(graph, batching):
    busy(graph, batching)
    answers = batching([1, 2, 3], [4, 5, 6], range(5), enable_large_batch_splitting=False)
    graph.gate.set()
    assert [answer.result(PATIENT) for answer in answers[:2]] == [[2, 4, 6], [8, 10, 12]]
    assert graph.batches[1:] == [[1, 2, 3], [4, 5, 6]]
    assert str(error_of(answers[2])) == "INVALID_ARGUMENT: Task size 5 is larger than maximum input batch size 4"


def test_requests_may_be_larger_than_what_is_executed_at_once(graph, batching):
    small, large = batching(range(3), range(5), max_execution_batch_size=2)
    assert small.result(PATIENT) == [0, 2, 4]
    assert graph.batches == [[0, 1], [2]]
    assert error_of(large).code is Code.INVALID_ARGUMENT


def test_a_full_queue_refuses_at_once(graph, batching):
    busy(graph, batching)
    queued = batching([1, 2, 3, 4], [5, 6, 7], max_enqueued_batches=2)
    (refused,) = batching([8, 9], max_enqueued_batches=2)
    assert str(error_of(refused)) == (
        "UNAVAILABLE: The batch scheduling queue to which this task was submitted is full; task size is 2 but "
        "scheduling capacity is only 1 (num_enqueued_batches=2, max_enqueued_batches=2, open_batch_size=3, "
        "max_execution_batch_size=4)"
    )
    graph.gate.set()
    assert [len(answer.result(PATIENT)) for answer in queued] == [4, 3]


def test_a_full_queue_refuses_whole_requests_too(graph, batching):
    busy(graph, batching)
    batching([1, 2, 3], max_enqueued_batches=1, enable_large_batch_splitting=False)
    (refused,) = batching([1, 2], max_enqueued_batches=1, enable_large_batch_splitting=False)
    assert str(error_of(refused)) == (
        "UNAVAILABLE: The batch scheduling queue to which this task was submitted is full; currently 1 batches "
        "enqueued and max_enqueued_batches is 1"
    )


def test_a_full_queue_does_not_affect_other_servables(graph, batching):
    busy(graph, batching)
    batching([1, 2, 3, 4], max_enqueued_batches=1)
    (other,) = batching([5], owner="another", max_enqueued_batches=1)
    graph.gate.set()
    assert other.result(PATIENT) == [10]


def test_an_invalid_request_does_not_fail_others_of_its_batch(graph, batching):
    busy(graph, batching)
    answers = batching([1], [-1], [3])
    graph.gate.set()
    assert str(error_of(answers[1])) == "INVALID_ARGUMENT: no -1"
    assert [answers[0].result(PATIENT), answers[2].result(PATIENT)] == [[2], [6]]


def test_a_large_request_fails_once_even_if_several_of_its_parts_fail(graph, batching, caplog):
    (answer,) = batching([-1] * 8)
    assert str(error_of(answer)) == "INVALID_ARGUMENT: no -1"
    assert batching([1])[0].result(PATIENT) == [2]
    gc.collect()
    assert not caplog.records


def test_requests_of_other_shapes_and_types_run_apart(graph, batching):
    busy(graph, batching)
    answers = batching([[1, 2]], [[1, 2, 3]], [[1.5, 2]])
    graph.gate.set()
    assert [answer.result(PATIENT) for answer in answers] == [[[2, 4]], [[2, 4, 6]], [[3, 4]]]


def test_variable_lengths_are_padded_with_the_first_element_if_asked(graph, batching):
    busy(graph, batching)
    answers = batching([[1, 2]], [[3, 4, 5]], pad_variable_length_inputs=True)
    graph.gate.set()
    assert [answer.result(PATIENT) for answer in answers] == [[[2, 4, 2]], [[6, 8, 10]]]


def test_one_long_row_does_not_make_all_others_as_long_if_that_takes_too_much_memory(graph, batching):
    busy(graph, batching)
    answers = batching([[1]] * 90, [[3] * 1_000_000], max_batch_size=100, pad_variable_length_inputs=True)
    graph.gate.set()
    assert [len(answer.result(PATIENT)[0]) for answer in answers] == [1, 1_000_000]
    assert [len(batch) for batch in graph.batches[1:]] == [90, 1]


@pytest.mark.parametrize("row", [np.ones([1, 1_000_000]), np.array(["x" * 8_000_000], object)])
def test_a_large_row_is_not_repeated_to_fill_a_batch_up(graph, batching, row):
    (answer,) = batching(row, allowed_batch_sizes=(1000,), max_batch_size=1000)
    answer.result(PATIENT)
    assert [len(batch) for batch in graph.batches] == [1]


def test_batches_are_filled_up_to_an_allowed_size_with_the_last_ones_first_row(graph, batching):
    (answer,) = batching([1, 2, 3], allowed_batch_sizes=(1, 2, 4))
    assert answer.result(PATIENT) == [2, 4, 6]
    assert graph.batches == [[1, 2, 3, 1]]


def test_a_request_without_examples_joins_others_or_runs_alone(graph, batching):
    busy(graph, batching)
    answers = batching([1], np.zeros(0, int), allowed_batch_sizes=(2, 4))
    graph.gate.set()
    assert [answer.result(PATIENT) for answer in answers] == [[2], []]
    assert graph.batches[1:] == [[1, 1]]
    (alone,) = batching(np.zeros(0, int), allowed_batch_sizes=(2, 4))
    assert alone.result(PATIENT) == []


def test_expired_work_is_not_run(graph, batching):
    busy(graph, batching)
    (expired,) = batching([1], deadline=time.monotonic() + 0.1)
    (alive,) = batching([2])
    time.sleep(0.2)
    graph.gate.set()
    assert str(error_of(expired)) == ("RESOURCE_EXHAUSTED: Run() timeout exceeded while waiting in batching queue")
    assert alive.result(PATIENT) == [4]
    assert graph.batches[1:] == [[2]]


def test_a_batch_runs_as_long_as_its_most_patient_request(graph, batching):
    busy(graph, batching)
    soon, late = time.monotonic() + 100, time.monotonic() + 200
    answers = batching([1], deadline=soon) + batching([2], deadline=late)
    graph.gate.set()
    assert [answer.result(PATIENT) for answer in answers] == [[2], [4]]
    assert graph.deadline == late


def test_batches_and_waiting_are_counted_under_the_names_of_tensorflow_serving(graph):
    metrics = PrometheusMetrics()
    scheduler = BatchScheduler(1, metrics)
    options = BatchingOptions(max_batch_size=4, allowed_batch_sizes=(4,), thread_pool_name="batchers")
    for _ in range(3):
        scheduler.submit("m", graph.run, {"x": np.zeros(3)}, ["y"], FOREVER, options).outputs()
    scheduler.stop()
    page = metrics.page().decode()
    assert ":tensorflow:serving:batching_session:wrapped_run_count 3.0\n" in page
    assert ':tensorflow:serving:batching_session:queuing_latency_count{thread_pool_name="batchers"} 3.0\n' in page
    assert ":tensorflow:serving:batching_session:input_batch_size_sum 9.0\n" in page
    assert ":tensorflow:serving:batching_session:processed_batch_size_sum 12.0\n" in page
    assert ':tensorflow:serving:batching_session:padding_size_sum{execution_batch_size="4"} 3.0\n' in page


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "Batching Run() must have at least one input tensor"),
        ({"x": np.array(1)}, "Batching Run() input tensors must have at least one dimension"),
        ({"x": np.zeros(1), "z": np.zeros(2)}, "Batching Run() input tensors must have equal 0th-dimension size"),
    ],
)
def test_a_request_without_a_batch_dimension_is_refused(graph, feeds, message):
    scheduler = BatchScheduler(1)
    with pytest.raises(StatusError) as error:
        scheduler.submit("m", graph.run, feeds, ["y"], FOREVER, BatchingOptions())
    assert (error.value.code, error.value.message) == (Code.INVALID_ARGUMENT, message)
    scheduler.stop()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.array(1), "Batched output tensor has 0 dimensions"),
        (np.zeros(3), "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes"),
    ],
)
def test_an_output_that_cannot_be_split_is_an_error(output, message):
    scheduler = BatchScheduler(1)
    with pytest.raises(StatusError) as error:
        scheduler.submit("m", lambda *_: [output], {"x": np.zeros(2)}, ["y"], FOREVER, BatchingOptions()).outputs()
    assert error.value.code is Code.FAILED_PRECONDITION
    assert error.value.message.startswith(message)
    scheduler.stop()


def test_many_requests_of_many_sizes_all_get_their_own_answers(batching):
    sent = [[10 * number + row for row in range(number % 7)] for number in range(60)]
    answers = batching(*sent, max_enqueued_batches=1000, num_batch_threads=3)
    assert [answer.result(PATIENT) for answer in answers] == [[2 * x for x in request] for request in sent]


@pytest.fixture(scope="module")
def batching_server(start_server, conformance_models, tmp_path_factory):
    file = tmp_path_factory.mktemp("batching") / "batching.config"
    file.write_text(
        "max_batch_size { value: 4 } batch_timeout_micros { value: 20000 } num_batch_threads { value: 2 }\n"
        "max_enqueued_batches { value: 50 } allowed_batch_sizes: 2 allowed_batch_sizes: 4",
        encoding="utf-8",
    )
    return start_server(
        f"--model_config_file={conformance_models / 'models.config'}",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_batching",
        f"--batching_parameters_file={file}",
        "--grpc_max_threads=64",
    )


def mean_request(protos, images):
    request = protos.PredictRequest(model_spec={"name": "tiny", "signature_name": "mean"})
    tensor = request.inputs["images"]
    tensor.dtype = protos.DataType.DT_UINT8
    tensor.tensor_content = images.tobytes()
    for size in images.shape:
        tensor.tensor_shape.dim.add(size=size)
    return request


def test_a_server_with_batching_answers_each_request_as_one_without(batching_server):
    from mien_client import protos

    images = [np.full((size, 2, 2), value, np.uint8) for value, size in enumerate([1, 3, 9, 2, 4] * 8)]
    bad = mean_request(protos, np.zeros((1, 2, 2), np.uint8))
    bad.inputs["images"].dtype = protos.DataType.DT_INT8
    calls = [batching_server.future("Predict", mean_request(protos, image)) for image in images]
    failing = batching_server.future("Predict", bad)
    for image, call in zip(images, calls, strict=True):
        assert list(call.result().outputs["mean"].float_val) == [image.flat[0]] * len(image)
    assert failing.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "to be uint8 but int8 is provided" in failing.details()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this scheduling policy")
def test_with_batching_the_server_has_the_batch_scheduler_class(server, batching_server):
    assert os.sched_getscheduler(server.process.pid) == os.SCHED_OTHER
    assert os.sched_getscheduler(batching_server.process.pid) == os.SCHED_BATCH


def test_each_model_can_bring_its_own_parameters(publish, tmp_path):
    options = ServerOptions(ModelServerConfig(), batching=BatchingOptions(), per_model_batching=True)
    server = ModelServer(options)
    with_parameters, without = publish(tmp_path / "with", 1), publish(tmp_path / "without", 1)
    (with_parameters / "batching_params.pbtxt").write_text(
        "max_batch_size { value: 2 } enable_large_batch_splitting { value: false }", encoding="utf-8"
    )
    three = {"x": np.array([1, 2, 3], np.float32)}
    with pytest.raises(StatusError, match="Task size 3 is larger than maximum input batch size 2"):
        predict(server.load_saved_model(with_parameters), "", three)
    # Refused before it is filled: the number in the message is the one that was declared.
    declared = TensorProto(dtype=DataType.DT_FLOAT, tensor_shape={"dim": [{"size": 10**12}]}, float_val=[1])
    with pytest.raises(StatusError, match=f"Task size {10**12} is larger than maximum input batch size 2"):
        predict(server.load_saved_model(with_parameters), "", {"x": declared})
    assert predict(server.load_saved_model(without), "", three)["y"].tolist() == [2, 3, 4]
