"""The configuration of the edge, run by a real HAProxy in front of real servers: access and limits."""

import base64
import http.server
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import hypothesis
import pytest
import requests
import websockets.sync.client
import websockets.sync.server
from hypothesis import strategies as st
from mien_client import protos
from websockets.typing import Subprotocol

from fuzz.senders import send_each
from fuzz.traffic import Beside, Port, malformed
from tests.ports import free_ports
from tests.tls_scanner import weaknesses
from tests.waiting import until

EDGE = Path(__file__).parents[2] / "deploy" / "edge"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/bin"
SETTINGS = {
    "CPUS": 1,
    "CLIENT_CERTIFICATES": "optional",
    "REQUEST_MEGABYTES": 8,
    "REQUEST_RATE": 1000,
    "REQUESTS_AT_ONCE": 256,
    "LARGE_REQUESTS": 8,
    "REQUEST_THREADS": 128,
}


def answers(port):
    try:
        return requests.get(f"http://127.0.0.1:{port}", timeout=10).status_code == 200
    except requests.ConnectionError:
        return False


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("edge") / "certificates"
    subprocess.run([EDGE / "make-certificates", folder, "localhost", "127.0.0.1"], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def start_edge(server, certificates, tmp_path_factory):
    """Starts HAProxy as the container does, with these settings and replicas, at a free port."""
    if not shutil.which("haproxy", path=PATH):
        pytest.skip("haproxy is not installed (Debian: apt install haproxy)")
    running: list[Any] = []

    def start(*replicas, model="ours", patience="60s", instead=(), gateway=None, **settings):
        replicas = replicas or ((server.grpc_port, server.rest_port),)
        folder = tmp_path_factory.mktemp("haproxy")
        port, health, admin, refuse = free_ports(4)
        config = (EDGE / "haproxy.cfg").read_text(encoding="utf-8")
        for inside, outside in {
            ":8443": f":{port}",
            "127.0.0.1:8080": f"127.0.0.1:{health}",
            "127.0.0.1:8081": f"127.0.0.1:{admin}",
            "127.0.0.1:8082": f"127.0.0.1:{refuse}",
            "/v1/models/emotion": f"/v1/models/{model}",
            "/v1/models/keypoints": f"/v1/models/{model}",
            "timeout check 1s": f"timeout check {patience}",  # On a busy machine nobody is taken for frozen.
            **dict(instead),
        }.items():
            assert inside in config
            config = config.replace(inside, outside)
        for index, inside in enumerate(("serving:8500", "serving:8501")):
            template = re.compile(rf"( +)server-template replica 1-16 {inside}( .*)")
            assert len(template.findall(config)) == 3  # for small requests, large ones, and those of the last resort
            lines = (
                rf"\1server replica{number} 127.0.0.1:{ports[index]} port {ports[1]}\2"
                for number, ports in enumerate(replicas, 1)
            )
            config = template.sub("\n".join(lines), config)
        config = config.replace("http-check connect port 8501", "http-check connect")
        if gateway:
            template = re.compile(r"server-template gateway 1-8 gateway:8080 .*")
            config, count = template.subn(f"server gateway 127.0.0.1:{gateway} check inter 200ms", config)
            assert count == 1
        (folder / "haproxy.cfg").write_text(config, encoding="utf-8")
        for file in ("start.sh", "refuse.lua"):
            shutil.copy(EDGE / file, folder)
        environment = {
            "PATH": PATH,
            "CERTIFICATES": str(certificates / "edge"),
            **{name: str(value) for name, value in (SETTINGS | settings).items()},
        }
        process = subprocess.Popen(
            ["sh", folder / "start.sh"],
            env=environment,
            stdout=(folder / "access.log").open("w", encoding="utf-8"),
            stderr=(folder / "errors").open("w", encoding="utf-8"),
        )
        running.append(process)
        until(lambda: answers(health) or process.poll() is not None)
        assert process.poll() is None, (folder / "errors").read_text(encoding="utf-8")
        return SimpleNamespace(
            port=port,
            grpc=f"127.0.0.1:{port}",
            rest=f"https://127.0.0.1:{port}",
            folder=folder,
            process=process,
            admin=admin,
        )

    yield start
    for process in running:
        process.terminate()
    for process in running:
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def edge(start_edge):
    return start_edge()


@pytest.fixture(params=["grpc", "rest"])
def kind(request):
    return request.param


@pytest.fixture
def ask(certificates):
    """Ask an edge for 1 + 1; return the status (the name of a gRPC code, or an HTTP status) and the message."""

    def over_grpc(edge, key, pair, numbers):
        files = [certificates / "ca.crt", *(reversed(pair) if pair else (None, None))]
        credentials = grpc.ssl_channel_credentials(*(file.read_bytes() if file else None for file in files))
        request = protos.PredictRequest(model_spec={"name": "ours"})
        request.inputs["x"].dtype = protos.DataType.DT_FLOAT
        request.inputs["x"].float_val.extend([1.0] * numbers)
        request.inputs["x"].tensor_shape.dim.add(size=numbers)
        with grpc.secure_channel(edge.grpc, credentials) as channel:
            predict = channel.unary_unary(
                PREDICT, protos.PredictRequest.SerializeToString, protos.PredictResponse.FromString
            )
            try:
                answer = predict(request, timeout=30, metadata=(("x-api-key", key),) if key is not None else None)
            except grpc.RpcError as error:
                return error.code().name, error.details()
            return "OK", answer.outputs["y"].float_val[0]

    def over_rest(edge, key, pair, numbers):
        answer = requests.post(
            f"{edge.rest}/v1/models/ours:predict",
            json={"instances": [1.0] * numbers},
            headers={"x-api-key": key} if key is not None else None,
            cert=(str(pair[0]), str(pair[1])) if pair else None,
            verify=str(certificates / "ca.crt"),
            timeout=30,
        )
        if answer.status_code == 200:
            return 200, answer.json()["predictions"][0]
        assert answer.headers["Content-Type"] == "application/json"
        return answer.status_code, answer.json()["error"]

    def send(edge, kind, *, key=None, pair=None, numbers=1):
        return {"grpc": over_grpc, "rest": over_rest}[kind](edge, key, pair, numbers)

    return send


def answered(kind):
    return ("OK" if kind == "grpc" else 200), 2.0


def refused(kind, code, status, text):
    return (code if kind == "grpc" else status), text


@pytest.fixture(scope="module")
def key(certificates):
    return (certificates / "api-key").read_text(encoding="utf-8").strip()


@pytest.fixture(scope="module")
def pair(certificates):
    return certificates / "client.crt", certificates / "client.key"


def test_a_valid_key_is_accepted(ask, edge, kind, key):
    assert ask(edge, kind, key=key) == answered(kind)


def test_a_valid_certificate_is_accepted(ask, edge, kind, pair):
    assert ask(edge, kind, pair=pair) == answered(kind)


@pytest.mark.parametrize("wrong", [None, "0" * 64, ""])
def test_a_call_without_a_key_or_certificate_is_refused(ask, edge, kind, wrong):
    text = "a client certificate or an API key is needed"
    assert ask(edge, kind, key=wrong) == refused(kind, "UNAUTHENTICATED", 401, text)


def test_a_certificate_of_another_authority_is_refused(ask, edge, kind, key, tmp_path):
    subprocess.run([EDGE / "make-certificates", tmp_path / "other", "localhost"], check=True, capture_output=True)
    pair = (tmp_path / "other/client.crt", tmp_path / "other/client.key")
    text = "a client certificate or an API key is needed"
    assert ask(edge, kind, key=key, pair=pair) == refused(kind, "UNAUTHENTICATED", 401, text)


def test_keys_do_not_replace_certificates_where_those_are_required(start_edge, ask, kind, key, pair):
    strict = start_edge(CLIENT_CERTIFICATES="on")
    assert ask(strict, kind, key=key)[0] == ("UNAUTHENTICATED" if kind == "grpc" else 401)
    assert ask(strict, kind, pair=pair) == answered(kind)


def test_an_unknown_authority_and_outdated_tls_are_refused(edge, certificates):
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{edge.rest}/v1/models/ours", timeout=30)
    old = ssl.create_default_context(cafile=certificates / "ca.crt")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("localhost", edge.port)) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(plain, server_hostname="localhost")


def test_a_scanner_finds_no_weakness(edge, certificates):
    assert weaknesses(edge.port, certificates / "ca.crt") == {}


@pytest.mark.parametrize(("path", "status"), [("/v1/models/ours", 200), ("/v1/models/theirs", 404), ("/metrics", 404)])
def test_answers_have_safe_headers(edge, certificates, key, path, status):
    answer = requests.get(f"{edge.rest}{path}", headers={"x-api-key": key}, verify=certificates / "ca.crt", timeout=30)
    assert answer.status_code == status
    assert answer.headers["strict-transport-security"] == "max-age=63072000"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert "server" not in answer.headers


def test_a_request_that_is_too_large_is_refused(start_edge, ask, kind, key):
    small = start_edge(REQUEST_MEGABYTES=1)
    assert ask(small, kind, key=key, numbers=100) == answered(kind)
    # "larger than max" tells clients that there is no use in trying again.
    text = "the request is larger than max: 1 MB"
    assert ask(small, kind, key=key, numbers=400_000) == refused(kind, "RESOURCE_EXHAUSTED", 413, text)


def test_a_request_within_the_limit_passes_however_large(edge, ask, kind, key):
    assert ask(edge, kind, key=key, numbers=1_000_000) == answered(kind)


def test_more_requests_than_allowed_are_refused(start_edge, ask, kind, key, pair):
    slow = start_edge(REQUEST_RATE=1)
    answers = {ask(slow, kind, key=key) for _ in range(20)}
    assert answers == {
        answered(kind),
        refused(kind, "RESOURCE_EXHAUSTED", 429, "more than 1 requests a second"),
    }
    assert ask(slow, kind, pair=pair) == answered(kind)  # Each caller has a rate of its own.


def test_when_no_replica_answers_clients_may_try_again(start_edge, ask, kind, key):
    alone = start_edge(free_ports(2))
    assert ask(alone, kind, key=key) == refused(kind, "UNAVAILABLE", 503, "no replica answers")


def test_calls_that_change_or_inspect_replicas_are_refused(edge, certificates, key):
    """Reloading the configuration and reading metrics is possible only at the replicas."""
    credentials = grpc.ssl_channel_credentials((certificates / "ca.crt").read_bytes())
    with grpc.secure_channel(edge.grpc, credentials) as channel:
        reload: Any = channel.unary_unary(RELOAD, protos.ReloadConfigRequest.SerializeToString)
        with pytest.raises(grpc.RpcError) as refused:
            reload(protos.ReloadConfigRequest(), timeout=30, metadata=(("x-api-key", key),))
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
        health: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.RpcError) as refused:
            health(b"", timeout=30)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    session = requests.Session()
    session.trust_env = False  # It would put REQUESTS_CA_BUNDLE before ours.
    session.verify, session.headers["x-api-key"] = str(certificates / "ca.crt"), key
    assert session.get(f"{edge.rest}/monitoring/prometheus/metrics", timeout=30).status_code == 404
    assert session.get(f"{edge.rest}/nowhere", timeout=30).status_code == 404
    assert session.delete(f"{edge.rest}/v1/models/ours", timeout=30).status_code == 405
    assert session.get(f"{edge.rest}/v1/models/ours", timeout=30).json()["model_version_status"]


GOOD = ["/v1/models/ours", "/v1/models/ours/versions/1", "/v1/models/ours/labels/stable/metadata"]
ALMOST = [
    "/v1/models/ours/../ours",
    "/v1/models/../models/ours",
    "/v1/models/%2e%2e/models/ours",
    "/v1/models/..%2fmodels/ours",
    "/v1/models//ours",
    "//v1/models/ours",
    "/v1/./models/ours",
    "/V1/models/ours",
    "/v1/models/ours/",
    "/v1/models/ours%0a",
    "/v1/models/ours%00",
    "/v1/models/ours\x00",
    "/v1/models/ours\x0b",
    "/v1/models/ours\x7f",
    "/v1/models/our\xdf",
    "/v1/models/ours;x=1",
    "/v1/models/ours?x=1",
    "/v1/models/ours#x",
    "/v1/models/%6furs",
    "/v1\\models\\ours",
    "/v1/models/..",
    "/v1/models/ours/versions/-1",
    "/v1/models/ours:predict",  # asked with GET
    "/v1/models/ours:reload",
    "/monitoring/prometheus/metrics",
    "/v1/models/../../monitoring/prometheus/metrics",
    "*",
    "http://localhost/v1/models/ours/../ours",
]
PIECES = [
    "/",
    "//",
    ".",
    "..",
    "%2e",
    "%2f",
    "%0a",
    "%00",
    ";",
    "?",
    "v1",
    "models",
    "ours",
    "labels",
    "versions",
    "1",
    ":",
]


@pytest.fixture(scope="module")
def status_of(edge, certificates, key):
    """The status that the edge gives to a path, sent as it is."""
    context = ssl.create_default_context(cafile=certificates / "ca.crt")

    def get(path, method="GET"):
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key}\r\nConnection: close\r\n\r\n"
        with (
            socket.create_connection(("127.0.0.1", edge.port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(head.encode("latin-1"))
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        return int(answer.split(b" ", 2)[1])

    return get


@pytest.mark.parametrize("path", GOOD)
def test_paths_of_the_api_pass(status_of, path):
    assert status_of(path) in (200, 400, 404) if "labels" in path else status_of(path) == 200


@pytest.mark.parametrize("path", ALMOST)
def test_other_spellings_of_a_path_are_refused(status_of, path):
    assert status_of(path) in (400, 404, 405)


@hypothesis.given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join))
@hypothesis.settings(max_examples=200)
def test_only_paths_of_the_api_pass(edge, status_of, path):
    if status_of(f"/{path}") not in (400, 404, 405):
        # A list of models is the gateway's, whose API has queries.
        assert re.fullmatch(r"v1/models(\?.*)?|v1/models/\w+(/versions/\d+|/labels/\w+)?(/metadata)?", path)


@pytest.mark.parametrize(
    "path",
    [
        RELOAD,
        f"{RELOAD}/../GetModelStatus",
        "/tensorflow.serving.ModelService//GetModelStatus",
        "/tensorflow.serving.ModelService/GetModelStatus%0a",
        "/tensorflow.serving.ModelService/GetModelStatus?x",
        "/tensorflow.serving.ModelService/GetModelStatus;x",
        "/tensorflow.serving.ModelService/%47etModelStatus",
        "/tensorflow.serving.modelservice/GetModelStatus",
        "/tensorflow.serving.PredictionService/predict",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
)
def test_calls_of_other_services_are_refused(edge, certificates, key, path):
    credentials = grpc.ssl_channel_credentials((certificates / "ca.crt").read_bytes())
    with grpc.secure_channel(edge.grpc, credentials) as channel:
        call: Any = channel.unary_unary(path)
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=30, metadata=(("x-api-key", key),))
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "404" in refused.value.details()  # the edge's own


def test_compressed_messages_are_refused_because_their_size_is_unknown(edge, certificates, key):
    credentials = grpc.ssl_channel_credentials((certificates / "ca.crt").read_bytes())
    message, metadata = bytes(1_000_000), (("x-api-key", key),)
    with grpc.secure_channel(edge.grpc, credentials) as channel:
        call: Any = channel.unary_unary(PREDICT)
        with pytest.raises(grpc.RpcError) as refused:
            call(message, timeout=30, metadata=metadata, compression=grpc.Compression.Gzip)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert refused.value.details() == "compressed requests are not accepted"


@pytest.mark.parametrize(
    ("headers", "data", "status"),
    [
        ({"Content-Encoding": "gzip"}, b"x", 415),
        ({}, iter([b"x"]), 411),  # in chunks, without a Content-Length
    ],
)
def test_bodies_of_unknown_size_are_refused(edge, certificates, key, headers, data, status):
    answer = requests.post(
        f"{edge.rest}/v1/models/ours:predict",
        data=data,
        headers={"x-api-key": key, **headers},
        verify=str(certificates / "ca.crt"),
        timeout=30,
    )
    assert answer.status_code == status


def test_keys_are_read_again_on_sighup(start_edge, certificates, ask, kind):
    edge = start_edge()
    added = f"{kind}-0123456789abcdef"
    assert ask(edge, kind, key=added)[0] in ("UNAUTHENTICATED", 401)
    with (certificates / "edge" / "api-keys").open("a", encoding="utf-8") as keys:
        keys.write(f"{added} another\n")

    def let_in():
        edge.process.send_signal(signal.SIGHUP)  # again and again: one that comes while it still starts is lost
        return ask(edge, kind, key=added) == answered(kind)

    until(let_in)


@pytest.fixture(scope="module")
def two_replicas(start_server, publish, tmp_path_factory):
    repository = tmp_path_factory.mktemp("replicas")
    publish(repository / "ours", 1)
    return [start_server("--model_name=ours", f"--model_base_path={repository / 'ours'}") for _ in range(2)]


def waiting(channel, key, file):
    """Begins a call that is answered once the file exists."""
    request = protos.PredictRequest(model_spec={"name": "ours", "signature_name": "wait_for"})
    request.inputs["file"].dtype = protos.DataType.DT_STRING
    request.inputs["file"].string_val.append(str(file).encode())
    request.inputs["file"].tensor_shape.dim.add(size=1)
    call = channel.unary_unary(PREDICT, protos.PredictRequest.SerializeToString, protos.PredictResponse.FromString)
    return call.future(request, timeout=60, metadata=(("x-api-key", key),))


@pytest.fixture
def channel(certificates):
    """Opens gRPC channels to an edge."""
    credentials = grpc.ssl_channel_credentials((certificates / "ca.crt").read_bytes())
    with ExitStack() as opened:
        yield lambda edge: opened.enter_context(grpc.secure_channel(edge.grpc, credentials))


def test_requests_are_spread_and_a_frozen_replica_gets_none(start_edge, two_replicas, ask, kind, key):
    """A frozen process accepts connections, because the kernel does, and answers nothing."""
    edge = start_edge(*((it.grpc_port, it.rest_port) for it in two_replicas), patience="1s")

    def replicas(calls):
        before = len(lines(edge))
        for _ in range(calls):
            assert ask(edge, kind, key=key) == answered(kind)
        until(lambda: len(lines(edge)) == before + calls)
        return {line["replica"] for line in lines(edge)[before:]}

    assert len(replicas(10)) == 2
    two_replicas[0].process.send_signal(signal.SIGSTOP)
    try:
        # One request waits for it, until it has not answered three times; its caller is asked to retry.
        answers = {ask(edge, kind, key=key) for _ in range(2)}
        assert answers <= {answered(kind), refused(kind, "UNAVAILABLE", 503, "no replica answers")}
        until(lambda: len(lines(edge)) >= 12)  # Their lines must not count as those of the next ones.
        assert len(replicas(20)) == 1
    finally:
        two_replicas[0].process.send_signal(signal.SIGCONT)
    until(lambda: len(replicas(4)) == 2)


def test_a_replica_is_used_if_none_has_both_models(start_edge, server, ask, kind, key):
    half = start_edge(model="no-such-model")
    until(lambda: "has no server available" in (half.folder / "errors").read_text(encoding="utf-8"))
    assert ask(half, kind, key=key) == answered(kind)


def lines(edge):
    return [
        json.loads(line)
        for line in (edge.folder / "access.log").read_text(encoding="utf-8").splitlines()
        if line[0] == "{"
    ]


def test_an_answer_may_take_longer_than_the_timeout_between_parts_of_a_body(
    start_edge, two_replicas, channel, key, tmp_path
):
    replicas = [(it.grpc_port, it.rest_port) for it in two_replicas]
    impatient = start_edge(*replicas, instead={"timeout client 10s": "timeout client 2s"})
    call = waiting(channel(impatient), key, tmp_path / "go")
    time.sleep(3)
    (tmp_path / "go").touch()
    call.result()


def test_a_caller_has_a_limited_number_of_requests_at_once(start_edge, two_replicas, channel, ask, key, pair, tmp_path):
    edge = start_edge(*((it.grpc_port, it.rest_port) for it in two_replicas), REQUESTS_AT_ONCE=2)
    files = [tmp_path / "first", tmp_path / "second"]
    calls = [waiting(channel(edge), key, file) for file in files]
    until(lambda: all(file.with_name(f"{file.name}.started").exists() for file in files))
    text = "more than 2 requests at once"
    for kind in ("grpc", "rest"):
        until(lambda kind=kind: ask(edge, kind, key=key) == refused(kind, "RESOURCE_EXHAUSTED", 429, text))
        assert ask(edge, kind, pair=pair) == answered(kind)
    for file in files:
        file.touch()
    for call in calls:
        call.result()
    for kind in ("grpc", "rest"):
        until(lambda kind=kind: ask(edge, kind, key=key) == answered(kind))


def test_unfinished_large_bodies_do_not_delay_other_callers(edge, certificates, ask, key, pair):
    context = ssl.create_default_context(cafile=certificates / "ca.crt")
    head = f"POST /v1/models/ours:predict HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key}\r\n"
    with ExitStack() as opened:
        for _ in range(20):
            plain = opened.enter_context(socket.create_connection(("127.0.0.1", edge.port), timeout=30))
            connection = opened.enter_context(context.wrap_socket(plain, server_hostname="localhost"))
            connection.sendall(f"{head}Content-Length: 8000000\r\n\r\n".encode() + bytes(100_000))
        for kind in ("grpc", "rest"):
            assert ask(edge, kind, key=key) == answered(kind)  # small ones, even of the same caller
            assert ask(edge, kind, pair=pair, numbers=1_000_000) == answered(kind)  # a large one, of another


@pytest.mark.slow
def test_well_formed_calls_succeed_beside_malformed_ones(start_edge, certificates, ask, kind, key):
    edge = start_edge(REQUEST_RATE=100_000)
    port = Port(
        name="edge",
        pid=edge.process.pid,
        ask=lambda: expect(ask(edge, kind, key=key), answered(kind)),
        send=partial(send_each, ("127.0.0.1", edge.port), authority=certificates / "ca.crt"),
        requests=malformed("rest_connections", "gateway_connections"),
    )
    with Beside(port.ask) as beside:
        port.flood(10_000)
    assert beside.errors == []
    assert beside.seconds


def expect(answer, right):
    assert answer == right


def test_the_edge_does_not_wait_for_the_end_of_a_refused_body(start_edge, certificates):
    impatient = start_edge(instead={"timeout server 10s": "timeout server 500ms"})
    context = ssl.create_default_context(cafile=certificates / "ca.crt")
    head = "POST /v1/models/ours:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", impatient.port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(head.encode() + bytes(100_000))
        while connection.recv(65536):
            pass


def test_the_log_has_caller_and_request_but_no_content(start_edge, ask, kind, key, pair):
    edge = start_edge()
    ask(edge, kind, key=key)
    ask(edge, kind, pair=pair)
    log = edge.folder / "access.log"
    for _ in range(600):
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        if len(lines) == 2:
            break
        threading.Event().wait(0.05)
    assert {line["caller"] for line in lines} == {"first-key", "CN=first-client"}
    for line in lines:
        assert line["status"] == 200
        assert line["grpc_status"] == ("0" if kind == "grpc" else "-")
        assert line["path"] == (PREDICT if kind == "grpc" else "/v1/models/ours:predict")
        assert line["milliseconds"] >= 0
        assert line["bytes_in"] > 0
        assert line["replica"]
    for secret in (key, "instances"):
        assert secret not in log.read_text(encoding="utf-8")
        assert secret not in (edge.folder / "errors").read_text(encoding="utf-8")


def test_a_missing_certificate_is_named_with_what_to_do(tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "CERTIFICATES": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(["sh", EDGE / "start.sh"], env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert "server.crt is missing in EDGE_CERTIFICATES" in done.stderr
    assert "make-certificates" in done.stderr


def test_certificates_are_readable_only_by_their_owner_and_never_overwritten(certificates):
    for file in certificates.rglob("*"):
        assert file.stat().st_mode & 0o077 == 0, file
    assert {file.name for file in (certificates / "edge").iterdir()} == {
        "server.crt",
        "server.key",
        "clients-ca.crt",
        "api-keys",
    }
    again = subprocess.run(
        [EDGE / "make-certificates", certificates, "localhost"], capture_output=True, encoding="utf-8"
    )
    assert again.returncode == 1
    assert "is there already" in again.stderr


class StandIn(http.server.BaseHTTPRequestHandler):
    """Stands in for a gateway: answers with what reached it."""

    def do_GET(self):
        length = int(self.headers.get("content-length", 0))
        received = {"path": self.path, "headers": dict(self.headers.items()), "bytes": len(self.rfile.read(length))}
        body = json.dumps(received).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-security-policy", "default-src 'self'")
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def fronted(start_edge):
    stand_in = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=stand_in.serve_forever, daemon=True).start()
    edge = start_edge(gateway=stand_in.server_address[1])
    yield edge
    stand_in.shutdown()
    stand_in.server_close()


class TestGateway:
    @pytest.fixture
    def call(self, fronted, certificates):
        def call(method, path, **options):
            return requests.request(
                method, f"{fronted.rest}{path}", verify=certificates / "ca.crt", timeout=30, **options
            )

        until(lambda: call("GET", "/samples").status_code == 200)
        return call

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/v1/analyze"),
            ("POST", "/v1/analyze?detect=never&key=a%20b"),
            ("GET", "/v1/models"),
            ("GET", "/v1/live"),
            ("GET", "/v1/journal?limit=3"),
        ],
    )
    def test_its_api_is_for_those_with_a_key(self, call, key, pair, method, path):
        assert call(method, path, data=b"x" if method == "POST" else None).status_code == 401
        for who in ({"x-api-key": key}, {"Authorization": f"Bearer {key}"}):
            output = call(method, path, headers=who, data=b"x" if method == "POST" else None).json()
            assert output["path"] == path
            assert not {"x-api-key", "authorization"} & {name.lower() for name in output["headers"]}
        assert (
            call(method, path, cert=tuple(map(str, pair)), data=b"x" if method == "POST" else None).status_code == 200
        )
        assert call(method, path, headers={"Authorization": "Bearer 123"}, data=b"x").status_code == 401

    @pytest.mark.parametrize(
        "path", ["/", "/console/try.js", "/console/samples/a.jpg", "/samples", "/docs", "/openapi.json"]
    )
    def test_its_pages_are_for_everybody(self, call, path):
        assert call("GET", path).json()["path"] == path
        assert call("POST", path, data=b"x").status_code == 405

    def test_its_pages_keep_their_own_policy(self, call):
        headers = call("GET", "/").headers
        assert headers["content-security-policy"] == "default-src 'self'"
        assert headers["strict-transport-security"] == "max-age=63072000"
        assert "server" not in headers

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/v1/rollout/shift"),
            ("GET", "/metrics"),
            ("GET", "/healthz"),
            ("GET", "/readyz"),
            ("GET", "/console/"),
            ("GET", "/console/.env"),
            ("GET", "/console/../metrics"),
            ("GET", "/console/%2e%2e/metrics"),
            ("GET", "/?x"),
            ("GET", "/v1//models"),
        ],
    )
    def test_nothing_else_of_it_passes(self, fronted, certificates, key, method, path):
        """Sent as they are: libraries would tidy the paths."""
        context = ssl.create_default_context(cafile=certificates / "ca.crt")
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key}\r\n"
        head += "Content-Length: 0\r\nConnection: close\r\n\r\n"
        with (
            socket.create_connection(("127.0.0.1", fronted.port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(head.encode())
            assert connection.recv(100).split(b" ")[1] == b"404"

    def test_the_limit_on_bodies_holds(self, call, key):
        response = call("POST", "/v1/analyze", headers={"x-api-key": key}, data=bytes(8 * 2**20))
        assert response.status_code == 413

    def test_without_a_gateway_callers_may_try_again(self, edge, certificates, key):
        response = requests.post(
            f"{edge.rest}/v1/analyze", b"x", headers={"x-api-key": key}, verify=certificates / "ca.crt", timeout=30
        )
        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["retryable"] is True

    def test_a_stream_passes_with_its_key_as_a_subprotocol(self, start_edge, certificates, key):
        def answer(connection):
            for message in connection:
                connection.send(message)

        def health(connection, request):
            return connection.respond(200, "ok") if request.path == "/readyz" else None

        context = ssl.create_default_context(cafile=certificates / "ca.crt")
        with websockets.sync.server.serve(
            answer, "127.0.0.1", 0, subprotocols=[Subprotocol("mien")], process_request=health
        ) as stand_in:
            threading.Thread(target=stand_in.serve_forever, daemon=True).start()
            edge = start_edge(gateway=stand_in.socket.getsockname()[1])
            encoded = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
            url = f"wss://127.0.0.1:{edge.port}/v1/stream?detect=never"

            def connect(*subprotocols):
                return websockets.sync.client.connect(url, ssl=context, subprotocols=subprotocols)

            def passes():
                try:
                    with connect("mien", f"key.{encoded}") as socket:
                        socket.send(b"frame")
                        return socket.recv() == b"frame"
                except websockets.exceptions.InvalidStatus:  # The edge has not seen it yet.
                    return False

            def is_refused():
                try:
                    with pytest.raises(websockets.exceptions.InvalidStatus, match="401"):
                        connect("mien", "key.AAAA")
                except TimeoutError:  # Seen once, after the 10 s of this client, on a busy machine.
                    return False
                return True

            until(passes)
            until(is_refused)
