"""Misbehaving clients do not affect other callers."""

import contextlib
import gzip
import json
import random
import resource
import socket
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

PREDICT = '{"instances": [[1, 2]]}'
PORTS = pytest.mark.parametrize("port", ["rest_port", "grpc_port"])


@pytest.fixture(scope="module")
def attacked(start_server, conformance_models):
    return start_server(
        "--model_name=tiny",
        f"--model_base_path={conformance_models / 'tiny'}",
        "--grpc_max_threads=4",
        "--enable_grpc_healthcheck_service",
    )


@pytest.fixture(autouse=True)
def _others_are_served(attacked):
    yield
    assert_serves(attacked)


def assert_serves(server):
    answer = requests.post(f"{server.url}/v1/models/tiny:predict", data=PREDICT, timeout=30)
    assert answer.json() == {"predictions": [[4.0, 6.0]]}
    from mien_client import protos

    assert server.call("GetModelStatus", protos.GetModelStatusRequest(model_spec={"name": "tiny"}))


@pytest.fixture
def log_lines(attacked):
    """What the server logs during a test."""
    before = len(attacked.log.read_text(encoding="utf-8"))
    return lambda: attacked.log.read_text(encoding="utf-8")[before:].splitlines()


def connect(server, port):
    return socket.create_connection(("127.0.0.1", getattr(server, port)), timeout=30)


def resident_megabytes(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


@PORTS
def test_callers_are_answered_beside_thousands_of_idle_connections(attacked, port):
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(3000, soft // 2)
    with contextlib.ExitStack() as connections:
        for _ in range(count):
            connections.enter_context(connect(attacked, port))
        assert_serves(attacked)


@PORTS
def test_callers_are_answered_beside_senders_that_never_finish(attacked, port):
    with contextlib.ExitStack() as connections:
        for _ in range(50):
            slow = connections.enter_context(connect(attacked, port))
            slow.sendall(b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert_serves(attacked)


def test_a_slow_sender_is_answered_when_it_is_done(attacked):
    with connect(attacked, "rest_port") as slow:
        request = f"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(PREDICT)}\r\n\r\n{PREDICT}"
        for begin in range(0, len(request), 7):
            slow.sendall(request[begin : begin + 7].encode())
        assert slow.recv(1000).startswith(b"HTTP/1.1 200 OK")


@PORTS
def test_callers_are_answered_beside_half_closed_sockets(attacked, port):
    with contextlib.ExitStack() as connections:
        for _ in range(50):
            half = connections.enter_context(connect(attacked, port))
            half.sendall(b"GET /v1/models/tiny HTTP/1.1\r\nHost: x\r\n")
            half.shutdown(socket.SHUT_WR)
        assert_serves(attacked)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the resident memory from /proc")
@PORTS
def test_invalid_bytes_do_not_fill_memory(attacked, port):
    noise = random.Random(0)

    def send_garbage(count):
        for _ in range(count):
            with connect(attacked, port) as connection, contextlib.suppress(OSError):
                connection.sendall(noise.randbytes(noise.randrange(1, 5000)))
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

    send_garbage(200)
    before = resident_megabytes(attacked)
    send_garbage(1000)
    assert resident_megabytes(attacked) - before < 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the resident memory from /proc")
def test_an_endless_header_is_refused_and_takes_little_memory(attacked):
    before = resident_megabytes(attacked)
    with connect(attacked, "rest_port") as endless:
        endless.sendall(b"GET /v1/models/tiny HTTP/1.1\r\nX: ")
        with contextlib.suppress(OSError):
            for _ in range(1000):
                endless.sendall(b"x" * 65536)
        with contextlib.suppress(ConnectionError):
            assert b" 400 " in endless.recv(1000)
    assert resident_megabytes(attacked) - before < 20


def test_a_body_declared_too_large_is_refused_before_it_is_sent(attacked):
    with connect(attacked, "rest_port") as large:
        large.sendall(b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000000\r\n\r\n{")
        assert large.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_small_body_that_unpacks_to_a_huge_one_is_treated_as_empty(attacked):
    bomb = gzip.compress(b"[" + b" " * (101 << 20) + b"]")
    answer = requests.post(
        f"{attacked.url}/v1/models/tiny:predict", data=bomb, headers={"Content-Encoding": "gzip"}, timeout=60
    )
    assert answer.json() == {"error": "JSON Parse error: The document is empty"}


def test_callers_are_answered_after_clients_that_disconnect(attacked):
    request = f"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(PREDICT)}\r\n\r\n{PREDICT}"
    for _ in range(100):
        with connect(attacked, "rest_port") as impatient:
            impatient.sendall(request.encode())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the resident memory from /proc")
@pytest.mark.parametrize("shape", [[900_000, 48, 48], [2**40], [1] * 60 + [2**30]])
@pytest.mark.parametrize("data_type", ["DT_FLOAT", "DT_UINT8", "DT_STRING", "DT_HALF", "DT_COMPLEX128"])
def test_a_tensor_of_gigabytes_of_which_one_value_was_sent_is_refused(attacked, data_type, shape):
    from mien_client import protos

    request = protos.PredictRequest(model_spec={"name": "tiny"})
    request.inputs["x"].dtype = getattr(protos.DataType, data_type)
    for size in shape:
        request.inputs["x"].tensor_shape.dim.add(size=size)
    with growing_by_less_than(50, attacked), pytest.raises(grpc.RpcError, match="tensor parsing error: x"):
        attacked.call("Predict", request)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the resident memory from /proc")
@pytest.mark.parametrize("shape", [[10**9, 0, 2], [10**9, 2, 0], [0, 2, 10**9], [10**9, 0]])
def test_a_tensor_without_values_whose_outputs_would_have_gigabytes_is_refused(attacked, shape):
    from mien_client import protos

    request = protos.PredictRequest(model_spec={"name": "tiny", "signature_name": "mean"})
    request.inputs["images"].dtype = protos.DataType.DT_UINT8
    for size in shape:
        request.inputs["images"].tensor_shape.dim.add(size=size)
    refused = pytest.raises(grpc.RpcError, match="tensor parsing error: images: not all values were sent, and shape")
    with growing_by_less_than(50, attacked), refused:
        attacked.call("Predict", request)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the resident memory from /proc")
def test_a_json_list_of_empty_lists_whose_outputs_would_be_large_is_refused(attacked):
    body = '{"signature_name": "mean", "inputs": [' + "[]," * 3_000_000 + "[]]}"
    with growing_by_less_than(50, attacked):
        answer = requests.post(f"{attacked.url}/v1/models/tiny:predict", data=body, timeout=60)
    assert answer.status_code == 400
    assert "does not fit the signature's [-1,2,2]" in answer.json()["error"]


def test_a_string_without_dimensions_is_answered(attacked, log_lines):
    from mien_client import protos

    request = protos.PredictRequest(model_spec={"name": "tiny", "signature_name": "raw"})
    request.inputs["image_bytes"].dtype = protos.DataType.DT_STRING
    request.inputs["image_bytes"].tensor_shape.SetInParent()
    request.inputs["image_bytes"].string_val.append(b"\xff")
    echo = attacked.call("Predict", request).outputs["echo_bytes"]
    assert (echo.string_val, len(echo.tensor_shape.dim)) == ([b"\xff"], 0)
    body = '{"signature_name": "words", "inputs": "a"}'
    answer = requests.post(f"{attacked.url}/v1/models/tiny:predict", data=body, timeout=30)
    assert answer.json() == {"outputs": "A"}
    assert log_lines() == []


def test_inputs_that_tensorflow_quotes_in_an_error_need_not_be_text(attacked, log_lines):
    message = bytes.fromhex(
        "0a10 0a0474696e79 1a08636c617373696679 1219 0a17 0a15 0a13 2a11 0a0178 120c 120a f6f7fff6803f00000040"
    )
    assert b"\xf6\xf7" in message
    classify: Any = attacked.channel.unary_unary("/tensorflow.serving.PredictionService/Classify")
    with pytest.raises(grpc.RpcError) as error:
        classify(message, timeout=30)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert log_lines() == []


def test_a_filled_tensor_must_have_the_shape_of_the_signature(attacked):
    from mien_client import protos

    request = protos.PredictRequest(model_spec={"name": "tiny", "signature_name": "mean"})
    request.inputs["images"].dtype = protos.DataType.DT_UINT8
    request.inputs["images"].int_val.append(7)
    for size in (1, 2, 2):
        request.inputs["images"].tensor_shape.dim.add(size=size)
    assert attacked.call("Predict", request).outputs["mean"].float_val == [7]
    request.inputs["images"].tensor_shape.dim[2].size = 1000
    with pytest.raises(grpc.RpcError, match=r"shape \[1,2,1000\] does not fit the signature's \[-1,2,2\]"):
        attacked.call("Predict", request)


@contextlib.contextmanager
def growing_by_less_than(megabytes, server):
    """Assert that the server's peak of resident memory rises by less than this."""
    before = peak_megabytes(server)
    yield
    assert peak_megabytes(server) - before < megabytes


def peak_megabytes(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the resident memory from /proc")
@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_small_message_that_unpacks_to_a_huge_one_is_refused_while_it_is_unpacked(attacked, compression):
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{attacked.grpc_port}", options) as channel:
        predict: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with growing_by_less_than(300, attacked), pytest.raises(grpc.RpcError) as error:
            predict(bytes(512 << 20), compression=compression, timeout=60)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", ["Check", "Watch"])
@pytest.mark.parametrize("message", [b"\xff" * 100, b"\x0a\x7f", b"\x0a\x02\xff\xff"], ids=["noise", "cut", "not text"])
def test_invalid_health_requests_are_answered_and_not_logged(attacked, log_lines, method, message):
    kind = attacked.channel.unary_unary if method == "Check" else attacked.channel.unary_stream
    with pytest.raises(grpc.RpcError) as error:
        next(iter(kind(f"/grpc.health.v1.Health/{method}")(message, timeout=30)))
    assert (error.value.code(), error.value.details()) == (
        grpc.StatusCode.INTERNAL,
        "The request is not a HealthCheckRequest",
    )
    assert log_lines() == []


@pytest.mark.parametrize(
    "request_bytes",
    [
        bytes(100),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://[bad/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT :99999999 HTTP/1.1\r\n\r\n",
        b"GET /v1/models/tiny HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"POST /v1/models/tiny:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    ],
    ids=["zeros", "version", "address", "port", "length", "upgrade", "chunk", "TLS"],
)
def test_an_invalid_request_logs_at_most_one_line(attacked, log_lines, request_bytes):
    with connect(attacked, "rest_port") as connection:
        connection.sendall(request_bytes)
        assert connection.recv(1000).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 "))
    assert len(log_lines()) <= 1


def test_callers_that_disconnect_are_not_logged(start_server, publish, tmp_path):
    publish(tmp_path / "m", 1)
    server = start_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    before = server.log.read_text(encoding="utf-8")
    waits = [tmp_path / f"{number}" for number in range(3)]
    cancelled = server.wait_for_file("m", waits[0])
    server.until((tmp_path / "0.started").exists)  # The first request takes longest, and the next has little time.
    too_late = server.wait_for_file("m", waits[1], timeout=2)
    server.until((tmp_path / "1.started").exists)
    body = json.dumps({"signature_name": "wait_for", "inputs": [str(waits[2])]})
    with connect(server, "rest_port") as leaving:
        leaving.sendall(f"POST /v1/models/m:predict HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        server.until(lambda: all(wait.with_name(f"{wait.name}.started").exists() for wait in waits))
    cancelled.cancel()
    with pytest.raises(grpc.RpcError):
        too_late.result()
    for wait in waits:
        wait.touch()
    server.predict("m")
    assert server.log.read_text(encoding="utf-8") == before
