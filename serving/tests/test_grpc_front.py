"""gRPC over connections: the official client, limits and deadlines."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from mien_client import protos
from mien_serving.core.servable_state import ServableId
from mien_serving.model_servers import grpc_front
from mien_serving.model_servers.grpc_front import GrpcFront
from mien_serving.model_servers.model_service import ModelService
from mien_serving.model_servers.options import GrpcOptions, RestOptions
from mien_serving.model_servers.rest.front import RestFront
from mien_serving.model_servers.rest.routes import HttpAnswer, RestApi
from mien_serving.servables.predictor import Predictor


def test_the_official_client_works_unchanged(server):
    tf = pytest.importorskip("tensorflow")
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    grpc_module = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "tiny"
    request.model_spec.signature_name = "mean"
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(np.array([[[0, 255], [10, 20]]], np.uint8)))
    response = grpc_module.PredictionServiceStub(server.channel).Predict(request, timeout=20)
    assert tf.make_ndarray(response.outputs["mean"]).tolist() == [71.25]
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (2, "mean")


def outcome(call, *arguments):
    """Return the status and the details of a call."""
    try:
        call(*arguments)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def test_with_four_threads_the_fourth_request_is_refused_at_once_since_one_thread_waits_for_requests(server, tmp_path):
    exhausted = (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "Server Threadpool Exhausted: 3 requests are being answered, and more are refused; raise --grpc_max_threads",
    )
    assert server.predict("ours") == 1  # Connects: what gRPC sends when a connection is new has no order.
    waiting = [server.wait_for_file("ours", tmp_path / "go") for _ in range(3)]
    server.until(lambda: outcome(server.predict, "ours") == exhausted)
    assert outcome(server.call, "GetModelStatus", protos.GetModelStatusRequest()) == exhausted
    (tmp_path / "go").touch()
    assert all(call.result() for call in waiting)
    assert server.predict("ours") == 1


def test_a_request_whose_deadline_passes_frees_its_thread(server, tmp_path):
    for call in [server.wait_for_file("ours", tmp_path / "never", timeout=1) for _ in range(3)]:
        assert outcome(call.result)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    server.until(lambda: outcome(server.predict, "ours")[0] is grpc.StatusCode.OK)


def test_an_invalid_message_is_an_error_of_that_request_alone(server):
    call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    assert outcome(call, b"\xff\xff\xff", 20) == (grpc.StatusCode.INTERNAL, "The request is not a PredictRequest")


def test_an_unknown_method_is_unimplemented(server):
    call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Guess")
    assert outcome(call, b"", 20)[0] is grpc.StatusCode.UNIMPLEMENTED


def test_messages_above_the_default_limit_of_grpc_are_accepted(server):
    request = protos.PredictRequest()
    request.model_spec.name = "tiny"
    request.model_spec.signature_name = "mean"
    images = request.inputs["images"]
    images.dtype = protos.DataType.DT_UINT8
    images.tensor_content = bytes(8_000_000)
    for size in (2_000_000, 2, 2):
        images.tensor_shape.dim.add(size=size)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", [("grpc.max_receive_message_length", -1)]) as channel:
        call = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            protos.PredictRequest.SerializeToString,
            protos.PredictResponse.FromString,
        )
        response = call(request, timeout=60)
    assert len(response.outputs["mean"].float_val) == 2_000_000


class TestConcurrency:
    """Both front ends with services of the test behind them, in this process."""

    @staticmethod
    @contextmanager
    def serving(front, port_of):
        """Runs a front end in a thread of its own, as the server does."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()

        def run(coroutine):
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

        async def start():
            made = front()
            address = made.bind()
            await made.start()
            return made, address

        made, address = run(start())
        yield port_of(address)
        run(made.stop(10))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def test_64_callers_who_ask_two_models_each_are_answered_over_grpc_with_the_default_flags(self):
        everybody = threading.Barrier(2 * 64)

        class Meeting(Predictor):
            """Answers predictions once all of them have arrived."""

            def predict(self, *_):
                everybody.wait(60)
                return ServableId("m", 1), {}

        front = self.serving(
            lambda: GrpcFront(Meeting(None), ModelService(None), GrpcOptions(port=0)),
            lambda address: address.removeprefix("port "),
        )
        with front as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            request = protos.PredictRequest(model_spec={"name": "m"}).SerializeToString()
            for answer in [call.future(request, timeout=90) for _ in range(2 * 64)]:
                assert protos.PredictResponse.FromString(answer.result()).model_spec.version.value == 1

    def test_a_request_that_never_arrives_is_refused(self, monkeypatch):
        monkeypatch.setattr(grpc_front, "RECEIVE_S", 0.5)
        front = self.serving(
            lambda: GrpcFront(Predictor(None), ModelService(None), GrpcOptions(port=0)),
            lambda address: address.removeprefix("port "),
        )
        with front as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            # A call whose client sends its requests one by one, and so decides when the first comes.
            call: Any = channel.stream_unary("/tensorflow.serving.PredictionService/Predict")
            never = threading.Event()
            assert outcome(call, (b"" for _ in iter(never.wait, True))) == (
                grpc.StatusCode.DEADLINE_EXCEEDED,
                "The request did not arrive within 120 s; send less at once",
            )
            never.set()
            monkeypatch.setattr(grpc_front, "RECEIVE_S", 60)
            assert outcome(call, iter([])) == (grpc.StatusCode.INTERNAL, "The call ended without a request")

    def test_64_callers_are_answered_over_rest_with_the_default_flags(self):
        everybody = threading.Barrier(64)

        class Meeting(RestApi):
            def answer(self, request):
                everybody.wait(60)
                return HttpAnswer(200, b"{}")

        front = self.serving(lambda: RestFront(Meeting(None, None), RestOptions(port=0)), lambda port: port)
        with front as port, ThreadPoolExecutor(64) as callers:
            url = f"http://127.0.0.1:{port}/v1/models/m"
            answers = [callers.submit(requests.get, url, timeout=90) for _ in range(64)]
            assert {answer.result().status_code for answer in answers} == {200}
