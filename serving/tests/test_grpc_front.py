"""gRPC as clients meet it: the stock client, limits, and deadlines."""

import grpc
import numpy as np
import pytest
from mien_client import protos


def test_the_official_client_works_unchanged(server):
    tf = pytest.importorskip("tensorflow")
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    grpc_module = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "tiny"
    request.model_spec.signature_name = "mean"
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(np.uint8([[[0, 255], [10, 20]]])))
    response = grpc_module.PredictionServiceStub(server.channel).Predict(request, timeout=20)
    assert tf.make_ndarray(response.outputs["mean"]).tolist() == [71.25]
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (2, "mean")


def outcome(call, *arguments):
    """The status and the details that a call ends with."""
    try:
        call(*arguments)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def test_one_request_more_than_threads_is_refused_at_once(server, tmp_path):
    exhausted = (grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
    waiting = [server.wait_for_file("ours", tmp_path / "go") for _ in range(4)]
    server.until(lambda: outcome(server.predict, "ours") == exhausted)
    assert outcome(server.call, "GetModelStatus", protos.GetModelStatusRequest()) == exhausted
    (tmp_path / "go").touch()
    assert all(call.result() for call in waiting)
    assert server.predict("ours") == 1


def test_a_request_whose_deadline_passes_frees_its_thread(server, tmp_path):
    for call in [server.wait_for_file("ours", tmp_path / "never", timeout=1) for _ in range(4)]:
        assert outcome(call.result)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    server.until(lambda: outcome(server.predict, "ours")[0] is grpc.StatusCode.OK)


def test_a_message_that_is_none_is_an_error_of_that_request_alone(server):
    call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    assert outcome(call, b"\xff\xff\xff", 20) == (grpc.StatusCode.INTERNAL, "The request is not a PredictRequest")


def test_an_unknown_method_is_unimplemented(server):
    call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Guess")
    assert outcome(call, b"", 20)[0] is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_larger_than_grpc_usually_takes_is_taken(server):
    request = protos.PredictRequest()
    request.model_spec.name = "tiny"
    request.model_spec.signature_name = "mean"
    images = request.inputs["images"]
    images.dtype = protos.DataType.Value("DT_UINT8")
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
