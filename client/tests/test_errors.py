"""Each failure raises the same exception over gRPC and REST, after both requests have ended."""

import contextlib
import gzip
import inspect
import pickle
import re
import socket
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mien_client
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mien_client import (
    AccessDeniedError,
    BadRequestError,
    Client,
    ClientClosedError,
    DeadlineExceededError,
    MienError,
    ModelNotFoundError,
    ServerError,
    UnavailableError,
    UnexpectedResponseError,
    VersionNotFoundError,
    _exceptions,
)
from mien_client._calls import pacing
from mien_client.transports import grpc as grpc_transport


def error_of(client, images, **options):
    with pytest.raises(MienError) as caught:
        client.analyze(images, **options)
    return caught.value


def test_unknown_model(client, backend):
    del backend.versions["keypoints"]
    error = error_of(client, backend.faces(1))
    assert type(error) is ModelNotFoundError
    assert str(error) == f"{error.endpoint} does not serve model 'keypoints'"
    assert (error.model, error.version, error.label, error.retryable) == ("keypoints", None, None, False)


def test_unknown_version(client, backend):
    error = error_of(client, backend.faces(1), emotion_version=9)
    assert type(error) is VersionNotFoundError
    assert str(error) == f"{error.endpoint} does not serve model 'emotion' version 9"
    assert (error.model, error.version, error.label, error.retryable) == ("emotion", 9, None, False)


def test_unknown_label(client, backend):
    error = error_of(client, backend.faces(1), emotion_version="canary")
    assert type(error) is VersionNotFoundError
    assert str(error) == f"{error.endpoint} does not serve model 'emotion' label 'canary'"
    assert (error.model, error.version, error.label, error.retryable) == ("emotion", None, "canary", False)


@pytest.mark.parametrize(
    ("code", "kind", "retryable"),
    [
        ("UNAVAILABLE", UnavailableError, True),
        ("RESOURCE_EXHAUSTED", UnavailableError, True),
        ("DEADLINE_EXCEEDED", DeadlineExceededError, True),
        ("INVALID_ARGUMENT", BadRequestError, False),
        ("FAILED_PRECONDITION", BadRequestError, False),
        ("UNAUTHENTICATED", AccessDeniedError, False),
        ("PERMISSION_DENIED", AccessDeniedError, False),
        ("INTERNAL", ServerError, False),
    ],
)
def test_each_status_code_becomes_its_exception(client, backend, failure, monkeypatch, code, kind, retryable):
    monkeypatch.setattr(pacing, "FIRST_PAUSE", 60)  # At the deadline no request to a full server is under way,
    monkeypatch.setattr(pacing, "LONGEST_PAUSE", 60)  # which would end with another error.
    backend.failures["emotion"] = failure(code, "the reason\n\t[[and a long trace]]")
    error = error_of(client, backend.faces(1), timeout=2 if code == "RESOURCE_EXHAUSTED" else 10)
    assert type(error) is kind
    assert error.endpoint in str(error)
    assert "\n" not in str(error)
    assert error.model == "emotion"
    assert error.retryable is retryable
    if kind is not DeadlineExceededError:
        assert "the reason" in str(error)


def test_no_answer_in_time(client, backend):
    late = threading.Event()
    backend.before_answer = lambda model, version: model == "emotion" or late.wait(60)
    error = error_of(client, backend.faces(1), timeout=1.5)
    late.set()
    assert type(error) is DeadlineExceededError
    assert "no answer for model 'keypoints'" in str(error)
    assert "within 1.5 s" in str(error)
    assert error.retryable


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_no_server_at_the_address(scheme, backend):
    with socket.socket() as reserved:  # Bound but not listening: connections are refused.
        reserved.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{reserved.getsockname()[1]}"
        with Client(address, timeout=5) as client:
            error = error_of(client, backend.faces(1))
    assert type(error) is UnavailableError
    assert "refused" in str(error)
    assert error.endpoint == address
    assert error.retryable


@pytest.fixture
def raw_server():
    """Return a function that starts a server, which hands every connection to a function, and returns its port."""
    listeners = []

    def start(serve):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=[connection], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return listener.getsockname()[1]

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_server_that_closes_the_connection(scheme, raw_server, backend):
    port = raw_server(lambda connection: connection.close())
    with Client(f"{scheme}127.0.0.1:{port}", timeout=5) as client:
        assert type(error_of(client, backend.faces(1))) is UnavailableError


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_server_that_is_frozen(scheme, raw_server, backend):
    frozen = threading.Event()
    port = raw_server(lambda connection: frozen.wait(10))
    with Client(f"{scheme}127.0.0.1:{port}", timeout=0.3) as client:
        assert type(error_of(client, backend.faces(1))) is DeadlineExceededError
    frozen.set()


@pytest.mark.parametrize("part", ["status line", "body"])
def test_a_rest_server_that_sends_one_byte_now_and_then(part, raw_server, backend):
    """No single byte is late, but the deadline is for the whole answer."""
    stop = threading.Event()

    def drip(connection):
        if part == "body":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        with connection, contextlib.suppress(ConnectionError):  # The client hangs up at its deadline.
            while not stop.wait(0.05):
                connection.sendall(b"H")

    with Client(f"http://127.0.0.1:{raw_server(drip)}", timeout=0.3) as client:
        assert type(error_of(client, backend.faces(1))) is DeadlineExceededError
        stop.set()


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 15\r\n\r\n<h1>Nothing</h1>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b'HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{"model_spec":{"version":"?"}}',
        b"HTTP/1.1 999 Denied\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100_000,
        b"HTTP/1.1 400 Bad\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"7" * 5000,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n{}",
    ],
)
def test_another_web_server(reply, raw_server, backend):
    def serve(connection):
        connection.recv(65536)
        connection.sendall(reply)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):  # What is unread when it is closed makes a reset of the answer.
            pass
        connection.close()

    with Client(f"http://127.0.0.1:{raw_server(serve)}", timeout=5) as client:
        assert type(error_of(client, backend.faces(1))) is UnexpectedResponseError
        with pytest.raises(UnexpectedResponseError):
            client.status()


@pytest.mark.parametrize("compressed", [False, True])
def test_a_rest_answer_that_is_too_large_is_not_read_to_its_end(compressed, raw_server, backend):
    sent = 0
    block = gzip.compress(bytes(2**20)) if compressed else bytes(2**20)

    def serve(connection):
        nonlocal sent
        connection.recv(65536)
        encoding = b"Content-Encoding: gzip\r\n" if compressed else b""
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + encoding + b"Content-Length: 1000000000\r\n\r\n")
            for _ in range(1000):
                connection.sendall(block)
                sent += 1

    with Client(f"http://127.0.0.1:{raw_server(serve)}", timeout=60, max_attempts=1) as client:
        error = error_of(client, backend.faces(1))
    assert type(error) is UnexpectedResponseError
    assert str(error).endswith("is larger than 64 MiB")
    assert compressed or sent < 200


def test_the_proxy_of_the_environment_is_used(raw_server, backend, monkeypatch):
    asked = []

    def refuse(connection):
        asked.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    for name in ("http_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{raw_server(refuse)}")
    with Client("http://mien.example:8501", timeout=10) as client:
        assert type(error_of(client, backend.faces(1))) is AccessDeniedError
    assert asked[0].startswith(b"GET http://mien.example:8501/v1/models/")


def test_each_transport_on_the_port_of_the_other(grpc_address, rest_address, backend):
    with Client(rest_address.removeprefix("http://"), timeout=2) as client:
        assert isinstance(error_of(client, backend.faces(1)), MienError)
    with Client(f"http://{grpc_address}", timeout=2) as client:
        assert isinstance(error_of(client, backend.faces(1)), MienError)


@pytest.mark.parametrize(
    ("model", "distortion", "message"),
    [
        ("emotion", lambda values: None, "lacks the output 'probabilities'"),
        ("emotion", lambda values: values[:-1], r"shape \(2, 5\), not \(3, 5\)"),
        ("emotion", lambda values: np.vstack([values, values[:1]]), r"shape \(4, 5\), not \(3, 5\)"),
        ("emotion", lambda values: values[:, :4], r"shape \(3, 4\), not \(3, 5\)"),
        ("emotion", lambda values: values * np.float32("nan"), "NaN or infinite"),
        ("emotion", lambda values: np.log(values), "not between 0 and 1"),
        ("emotion", lambda values: values * 3, "not between 0 and 1"),
        ("keypoints", lambda values: values[0], r"shape \(15, 2\), not \(3, 15, 2\)"),
        ("keypoints", lambda values: values.transpose(0, 2, 1), r"shape \(3, 2, 15\), not \(3, 15, 2\)"),
        ("keypoints", lambda values: values + np.float32("inf"), "NaN or infinite"),
    ],
)
def test_an_invalid_answer_is_an_error(client, backend, model, distortion, message):
    backend.distortions[model] = distortion
    error = error_of(client, backend.faces(3))
    assert type(error) is UnexpectedResponseError
    assert re.search(message, str(error))
    assert error.model == model
    assert not error.retryable


@pytest.mark.parametrize(
    "text", ['[["a"]]', "[[1], [1, 2]]", "null", "[[null]]", "true", '[{"b64": "AA=="}]', "[[[1e999]]]"]
)
def test_json_without_numbers_is_refused(rest_address, backend, text):
    backend.distortions["keypoints"] = lambda values: b'{"outputs": %s}' % text.encode()
    with Client(rest_address) as client:
        assert type(error_of(client, backend.faces(1))) is UnexpectedResponseError


def test_grpc_numbers_of_another_type(grpc_address, backend):
    backend.distortions["keypoints"] = lambda values: values.astype(np.float64)
    with Client(grpc_address) as client:
        assert "of type DT_DOUBLE, not DT_FLOAT" in str(error_of(client, backend.faces(1)))


@pytest.mark.parametrize(("version", "message"), [(5, "comes from version 5"), (None, "does not name its version")])
def test_an_answer_of_another_version_is_an_error(grpc_address, backend, monkeypatch, version, message):
    monkeypatch.setattr(backend, "predict", lambda *request: (version, backend.values(request[0], 1, request[3])))
    with Client(grpc_address, emotion_version=1, keypoint_version=1) as client:
        error = error_of(client, backend.faces(1))
    assert type(error) is UnexpectedResponseError
    assert message in str(error)


def test_when_one_model_fails_the_call_raises_after_the_other_has_ended(client, backend, failure):
    backend.failures["emotion"] = failure("INTERNAL", "broken")
    backend.delays["keypoints"] = 0.3
    assert type(error_of(client, backend.faces(1))) is ServerError
    assert backend.answered == [("keypoints", 1, 1)]


def test_when_one_model_fails_the_other_is_not_asked_for_more(client, backend, failure):
    backend.failures["emotion"] = failure("INTERNAL", "broken")
    backend.delays["keypoints"] = 0.2
    error_of(client, backend.faces(256 * 20))
    assert len(backend.answered) < 20


def test_when_both_models_fail_the_error_describes_both(client, backend):
    backend.versions = {}
    error = error_of(client, backend.faces(1))
    assert error.model == "emotion"
    assert "model 'keypoints'" in error.__notes__[0]


def test_a_call_after_a_failure_works(client, backend, failure):
    backend.failures["emotion"] = failure("UNAVAILABLE", "queue full")
    error_of(client, backend.faces(1))
    backend.failures.clear()
    assert len(client.analyze(backend.faces(1))) == 1


def rest_body(version='"1"', outputs="[[0]]"):
    spec = f'{{"name": "emotion", "version": {version}}}'
    states = f'[{{"version": {version}, "state": "AVAILABLE", "status": {{"error_message": ""}}}}]'
    return f'{{"model_spec": {spec}, "model_version_status": {states}, "outputs": {outputs}}}'.encode()


@pytest.mark.parametrize(
    "version",
    ["Infinity", "-1", '"-1"', "1.5", "true", '"9999999999999999999"', '"1e3"', "[]", "null", f'"{"7" * 5000}"'],
)
def test_a_version_that_is_not_a_number(rest_address, backend, version):
    backend.rest_reply = (200, rest_body(version))
    with Client(rest_address, timeout=5) as client:
        assert type(error_of(client, backend.faces(1))) is UnexpectedResponseError
        with pytest.raises(UnexpectedResponseError):
            client.status()


@pytest.mark.parametrize(
    "outputs", ["[" * 70 + "1" + "]" * 70, "[" * 100_000, '{"probabilities": {"deep": 1}}', f"[[{'7' * 400}]]", '""']
)
def test_outputs_that_python_or_numpy_cannot_hold(rest_address, backend, outputs):
    backend.rest_reply = (200, rest_body(outputs=outputs))
    with Client(rest_address, timeout=5) as client:
        assert type(error_of(client, backend.faces(1))) is UnexpectedResponseError


def test_a_long_explanation_is_cut(rest_address, backend):
    backend.rest_reply = (400, b'{"error": "%s"}' % (b"x" * 1_000_000))
    with Client(rest_address, timeout=5) as client:
        assert len(str(error_of(client, backend.faces(1)))) < 1000


def another_model(response):
    response.model_spec.name = "resnet"
    return response


def another_signature(response):
    response.model_spec.signature_name = "serving_other"
    return response


def huge_shape(response):
    for output in getattr(response, "outputs", {}).values():
        output.tensor_shape.Clear()
        for size in (900_000, 48, 48):
            output.tensor_shape.dim.add(size=size)
        del output.float_val[1:]
    return response


def negative_shape(response):
    for output in getattr(response, "outputs", {}).values():
        for dim in output.tensor_shape.dim:
            dim.size = -dim.size
    return response


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (another_model, "comes from the model 'resnet'"),
        (another_signature, "comes from the signature 'serving_other'"),
        (huge_shape, r"of shape \(900000, 48, 48\), which no model of Mien answers with"),
        (negative_shape, r"do not fill its shape \(-1, -5\)"),
        (lambda response: b"\xff\xff\xff", "is not a message of this method"),
    ],
)
@pytest.mark.parametrize("kind", ["grpc", "aio"])
def test_an_invalid_grpc_answer_is_an_error(grpc_address, backend, awaited, kind, reply, message):
    backend.grpc_reply = reply
    with (awaited if kind == "aio" else Client)(grpc_address, timeout=5) as client:
        error = error_of(client, backend.faces(1))
    assert type(error) is UnexpectedResponseError
    assert re.search(message, str(error))
    assert (error.retryable, error.attempts) == (False, 1)


def test_a_rest_answer_of_another_model(rest_address, backend):
    backend.rest_reply = (200, rest_body().replace(b"emotion", b"resnet"))
    with Client(rest_address, timeout=5) as client:
        error = error_of(client, backend.faces(1))
    assert type(error) is UnexpectedResponseError
    assert "comes from the model 'resnet'" in str(error)


@given(st.binary(max_size=300))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_invalid_bytes_raise_a_mien_error(grpc_address, rest_address, backend, body):
    backend.grpc_reply, backend.rest_reply = lambda response: body, (200, body)
    for address in (grpc_address, rest_address):
        with Client(address, timeout=5) as client:
            assert isinstance(error_of(client, backend.faces(1)), UnexpectedResponseError | ModelNotFoundError)
            try:
                client.status()
            except MienError as error:
                assert not error.retryable  # noqa: PT017  # An empty message is an answer without versions.


@pytest.mark.parametrize("kind", ["grpc", "aio", "rest"])
def test_a_call_after_close(request, backend, awaited, kind):
    address = request.getfixturevalue("rest_address" if kind == "rest" else "grpc_address")
    with (awaited if kind == "aio" else Client)(address, timeout=5) as client:
        client.analyze(backend.faces(1))
        faces = client.analyze_iter(iter(backend.faces(9)), batch_size=1, max_in_flight=2)
        next(faces)
        client.close()
        for call in (
            lambda: client.analyze(backend.faces(1)),
            lambda: list(client.analyze_iter(backend.faces(1))),
            lambda: client.analyze_pictures([]),
            client.status,
            client.wait_ready,
        ):
            with pytest.raises(ClientClosedError, match="This client is closed: make a new one") as caught:
                call()
            assert isinstance(caught.value, RuntimeError)
            assert (caught.value.retryable, caught.value.endpoint) == (False, address)
        with pytest.raises((ClientClosedError, UnavailableError)):
            list(faces)


def test_closing_the_client_ends_a_running_call(client, backend):
    asked, closed = threading.Event(), threading.Event()

    def before_answer(model, version):
        asked.set()
        assert closed.wait(60)

    backend.before_answer = before_answer
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(error_of, client, backend.faces(256 * 4))
        assert asked.wait(60)
        client.close()
        closed.set()
        assert type(running.result()) is UnavailableError


def test_closing_does_not_wait_for_grpc_for_ever(grpc_address, backend, monkeypatch):
    """It would wait if Ctrl-C interrupted gRPC at the start of a request."""
    monkeypatch.setattr(grpc_transport, "_CLOSING_TAKES", 0.1)
    client, released, ended = Client(grpc_address), threading.Event(), []
    client.analyze(backend.faces(1))
    transport: Any = client._replicas.transports[0]
    channel = transport._channel
    transport._channel = types.SimpleNamespace(close=lambda: ended.append(released.wait(60)))
    client.close()
    assert ended == []
    released.set()
    channel.close()


def test_errors_survive_pickling(client, backend):
    error = error_of(client, backend.faces(1), emotion_version=9)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.endpoint, copy.model, copy.version) == (
        type(error),
        str(error),
        error.endpoint,
        "emotion",
        9,
    )


def test_the_docstring_shows_the_tree_of_exceptions():
    drawn: dict[str, tuple[str, bool]] = {}
    path: list[str] = []
    for line in _exceptions.__doc__.splitlines():
        if match := re.match(r"    ([│ ├└─]*)(\w+Error)\b(.*)", line):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            drawn[match[2]] = (path[depth - 1] if depth else "Exception", "retryable" in match[3])
    members = inspect.getmembers(_exceptions, inspect.isclass)
    classes: list[tuple[str, Any]] = [(name, cls) for name, cls in members if cls.__module__ == _exceptions.__name__]
    assert drawn == {name: (cls.__bases__[0].__name__, cls.retryable) for name, cls in classes}
    assert set(drawn) <= set(mien_client.__all__)
