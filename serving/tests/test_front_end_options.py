"""Options of the front ends besides their ports: a UNIX socket, channel arguments, the health service, CORS…"""

import json

import grpc
import numpy as np
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from mien_client import protos

from tests.ports import free_port

PERMISSION = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def optioned(start_server, conformance_models, tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "grpc.sock"
    server = start_server(
        "--model_name=tiny",
        f"--model_base_path={conformance_models / 'tiny'}",
        f"--port={free_port()}",
        f"--grpc_socket_path={path}",
        "--grpc_channel_arguments=grpc.max_receive_message_length=1000",
        "--enable_grpc_healthcheck_service",
        "--rest_api_enable_cors_support",
        "--enable_serialization_as_tensor_content",
        "--enable_signature_method_name_check",
    )
    server.socket = path
    return server


def status_of(channel):
    request = protos.GetModelStatusRequest(model_spec={"name": "tiny"})
    call = channel.unary_unary(
        "/tensorflow.serving.ModelService/GetModelStatus",
        protos.GetModelStatusRequest.SerializeToString,
        protos.GetModelStatusResponse.FromString,
    )
    return call(request, timeout=20).model_version_status[0].state


def test_a_unix_socket_answers_beside_the_port(optioned):
    with grpc.insecure_channel(f"unix:{optioned.socket}") as channel:
        assert status_of(channel) == status_of(optioned.channel) == 30


def test_channel_arguments_reach_grpc(optioned):
    with pytest.raises(grpc.RpcError) as error:
        optioned.call("GetModelStatus", protos.GetModelStatusRequest(model_spec={"name": "x" * 2000}))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_answers_are_packed_as_bytes_over_grpc_only(optioned):
    request = protos.PredictRequest(model_spec={"name": "tiny"})
    x = request.inputs["x"]
    x.dtype = protos.DataType.DT_FLOAT
    x.float_val.extend([1, 2])
    x.tensor_shape.dim.add(size=1)
    x.tensor_shape.dim.add(size=2)
    (output,) = optioned.call("Predict", request).outputs.values()
    assert np.frombuffer(output.tensor_content, np.float32).tolist() == [4.0, 6.0]
    answer = requests.post(f"{optioned.url}/v1/models/tiny:predict", data='{"instances": [[1, 2]]}', timeout=20)
    assert answer.json() == {"predictions": [[4.0, 6.0]]}


@pytest.mark.parametrize(
    ("verb", "signature", "expected"),
    [
        ("classify", "regress", "classification signature method_name to be tensorflow/serving/classify"),
        ("regress", "classify", "regression signature method_name to be tensorflow/serving/regress"),
    ],
)
def test_with_its_flag_a_signature_answers_only_the_method_that_it_names(optioned, verb, signature, expected):
    def ask(signature):
        body = json.dumps({"signature_name": signature, "examples": [{"x": [1.5, 2.5]}]})
        return requests.post(f"{optioned.url}/v1/models/tiny:{verb}", data=body, timeout=20)

    assert ask(signature).json() == {"error": f"Expected {expected}. Was: tensorflow/serving/{signature}"}


@pytest.mark.parametrize("service", ["", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"])
def test_the_health_service_reports_the_server_and_each_service_as_serving(optioned, service):
    stub = health_pb2_grpc.HealthStub(optioned.channel)
    request = health_pb2.HealthCheckRequest(service=service)
    assert stub.Check(request, timeout=20).status == SERVING
    assert next(iter(stub.Watch(request, timeout=20))).status == SERVING


def test_the_health_of_an_unknown_service_is_not_found(optioned):
    with pytest.raises(grpc.RpcError) as error:
        health_pb2_grpc.HealthStub(optioned.channel).Check(health_pb2.HealthCheckRequest(service="x"), timeout=20)
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_without_its_flag_there_is_no_health_service(server):
    with pytest.raises(grpc.RpcError) as error:
        health_pb2_grpc.HealthStub(server.channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def permission(answer):
    return {name: answer.headers[name] for name in PERMISSION if name in answer.headers}


@pytest.mark.parametrize(("method", "status"), [("OPTIONS", 200), ("POST", 200), ("GET", 400)])
def test_every_rest_answer_carries_the_cors_permission(optioned, method, status):
    answer = requests.request(
        method, f"{optioned.url}/v1/models/tiny:predict", data='{"instances": [[1, 2]]}', timeout=20
    )
    assert answer.status_code == status
    assert permission(answer) == PERMISSION


def test_without_the_flag_there_is_no_cors_permission(server):
    assert permission(requests.get(f"{server.url}/v1/models/tiny", timeout=20)) == {}
