"""The edge's own configuration, run by a real nginx in front of a real server: who gets in, and how much."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
import requests
from mien_client import protos

EDGE = Path(__file__).parents[1] / "edge"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("edge") / "certificates"
    subprocess.run([EDGE / "make-certificates", folder, "localhost", "127.0.0.1"], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def start_edge(server, certificates, tmp_path_factory):
    """Starts nginx as the container does, with these settings, at a free port."""
    if not (shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin") and shutil.which("envsubst")):
        pytest.skip("nginx or envsubst is not installed (Debian: apt install nginx gettext-base)")
    running = []

    def start(backend=None, **settings):
        backend = backend or (server.grpc_port, server.rest_port)
        folder = tmp_path_factory.mktemp("nginx")
        port, health = free_port(), free_port()
        here = {
            "8443": str(port),
            "127.0.0.1:8080": f"127.0.0.1:{health}",
            "serving:8500": f"127.0.0.1:{backend[0]}",
            "serving:8501": f"127.0.0.1:{backend[1]}",
            "/dev/stdout": str(folder / "access.log"),
        }
        template = (EDGE / "nginx.conf.template").read_text(encoding="utf-8")
        for inside, outside in here.items():
            assert inside in template
            template = template.replace(inside, outside)
        if os.getuid() == 0:  # Its workers would be somebody else, who may not write here.
            template = "user root;\n" + template
        (folder / "nginx.conf.template").write_text(template, encoding="utf-8")
        shutil.copy(EDGE / "start.sh", folder)
        usual = {"CLIENT_CERTIFICATES": "optional", "REQUEST_SIZE": "8m", "REQUEST_RATE": 1000, "REQUEST_BURST": 1000}
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/bin:/usr/local/bin",
            "TMPDIR": str(folder),
            "CERTIFICATES": str(certificates / "edge"),
            **{name: str(value) for name, value in (usual | settings).items()},
        }
        process = subprocess.Popen(
            ["sh", folder / "start.sh"], env=environment, stderr=(folder / "errors").open("w", encoding="utf-8")
        )
        running.append(process)
        for _ in range(600):
            try:
                assert requests.get(f"http://127.0.0.1:{health}", timeout=10).status_code == 200
                break
            except requests.ConnectionError:
                assert process.poll() is None, (folder / "errors").read_text(encoding="utf-8")
                threading.Event().wait(0.05)
        return SimpleNamespace(port=port, grpc=f"127.0.0.1:{port}", rest=f"https://127.0.0.1:{port}", folder=folder)

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
    """Asks an edge for 1 + 1, and tells the status (a gRPC code's name, or HTTP's number) and what was said."""

    def over_grpc(edge, key, pair, numbers):
        files = [certificates / "ca.crt", *(reversed(pair) if pair else (None, None))]
        credentials = grpc.ssl_channel_credentials(*(file.read_bytes() if file else None for file in files))
        request = protos.PredictRequest(model_spec={"name": "ours"})
        request.inputs["x"].dtype = protos.DataType.Value("DT_FLOAT")
        request.inputs["x"].float_val.extend([1.0] * numbers)
        request.inputs["x"].tensor_shape.dim.add(size=numbers)
        with grpc.secure_channel(edge.grpc, credentials) as channel:
            predict = channel.unary_unary(
                PREDICT, protos.PredictRequest.SerializeToString, protos.PredictResponse.FromString
            )
            try:
                answer = predict(request, timeout=30, metadata=[("x-api-key", key)] if key is not None else None)
            except grpc.RpcError as error:
                return error.code().name, error.details()
            return "OK", answer.outputs["y"].float_val[0]

    def over_rest(edge, key, pair, numbers):
        answer = requests.post(
            f"{edge.rest}/v1/models/ours:predict",
            json={"instances": [1.0] * numbers},
            headers={"x-api-key": key} if key is not None else None,
            cert=tuple(map(str, pair)) if pair else None,
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


def test_a_key_lets_in(ask, edge, kind, key):
    assert ask(edge, kind, key=key) == answered(kind)


def test_a_certificate_lets_in(ask, edge, kind, pair):
    assert ask(edge, kind, pair=pair) == answered(kind)


@pytest.mark.parametrize("wrong", [None, "0" * 64, ""])
def test_without_either_nobody_gets_in(ask, edge, kind, wrong):
    text = "a client certificate or an API key is needed"
    assert ask(edge, kind, key=wrong) == refused(kind, "UNAUTHENTICATED", 401, text)


def test_a_certificate_by_somebody_else_is_refused(ask, edge, kind, key, tmp_path):
    subprocess.run([EDGE / "make-certificates", tmp_path / "other", "localhost"], check=True, capture_output=True)
    pair = (tmp_path / "other/client.crt", tmp_path / "other/client.key")
    text = "a client certificate or an API key is needed"
    assert ask(edge, kind, key=key, pair=pair) == refused(kind, "UNAUTHENTICATED", 401, text)


def test_keys_do_not_replace_certificates_where_those_are_required(start_edge, ask, kind, key, pair):
    strict = start_edge(CLIENT_CERTIFICATES="on")
    assert ask(strict, kind, key=key)[0] == ("UNAUTHENTICATED" if kind == "grpc" else 401)
    assert ask(strict, kind, pair=pair) == answered(kind)


def test_the_server_is_who_it_says(edge, certificates):
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{edge.rest}/v1/models/ours", timeout=30)
    old = ssl.create_default_context(cafile=certificates / "ca.crt")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("localhost", edge.port)) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(plain, server_hostname="localhost")


def test_a_request_that_is_too_large_is_refused(start_edge, ask, kind, key):
    small = start_edge(REQUEST_SIZE="64k")
    assert ask(small, kind, key=key, numbers=100) == answered(kind)
    # "larger than max" tells clients that there is no use in trying again.
    text = "the request is larger than max (64k)" if kind == "grpc" else "the request is larger than 64k"
    assert ask(small, kind, key=key, numbers=100_000) == refused(kind, "RESOURCE_EXHAUSTED", 413, text)


def test_more_requests_than_allowed_are_refused(start_edge, ask, kind, key, pair):
    slow = start_edge(REQUEST_RATE=1, REQUEST_BURST=3)
    answers = {ask(slow, kind, key=key) for _ in range(20)}
    assert answers == {
        answered(kind),
        refused(kind, "RESOURCE_EXHAUSTED", 429, "more than 1 requests a second"),
    }
    assert ask(slow, kind, pair=pair) == answered(kind)  # Each caller has a rate of its own.


def test_when_no_replica_answers_clients_may_try_again(start_edge, ask, kind, key):
    alone = start_edge((free_port(), free_port()))
    assert ask(alone, kind, key=key) == refused(kind, "UNAVAILABLE", 503, "no replica answers")


def test_orders_do_not_pass(edge, certificates, key):
    """The configuration is changed, and metrics are read, at the replicas only."""
    credentials = grpc.ssl_channel_credentials((certificates / "ca.crt").read_bytes())
    with grpc.secure_channel(edge.grpc, credentials) as channel:
        reload = channel.unary_unary(RELOAD, protos.ReloadConfigRequest.SerializeToString)
        with pytest.raises(grpc.RpcError) as refused:
            reload(protos.ReloadConfigRequest(), timeout=30, metadata=[("x-api-key", key)])
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
        health = channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.RpcError) as refused:
            health(b"", timeout=30)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    session = requests.Session()
    session.trust_env = False  # It would put REQUESTS_CA_BUNDLE before ours.
    session.verify, session.headers["x-api-key"] = str(certificates / "ca.crt"), key
    assert session.get(f"{edge.rest}/monitoring/prometheus/metrics", timeout=30).status_code == 404
    assert session.get(f"{edge.rest}/", timeout=30).status_code == 404
    assert session.delete(f"{edge.rest}/v1/models/ours", timeout=30).status_code == 403
    assert session.get(f"{edge.rest}/v1/models/ours", timeout=30).json()["model_version_status"]


def test_the_log_tells_who_asked_what_and_never_what_was_sent(start_edge, ask, kind, key, pair):
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
        assert line["grpc_status"] == ("0" if kind == "grpc" else "")
        assert line["path"] == (PREDICT if kind == "grpc" else "/v1/models/ours:predict")
        assert line["seconds"] >= 0
        assert line["bytes_in"] > 0
        assert line["replica"]
    for secret in (key, "instances"):
        assert secret not in log.read_text(encoding="utf-8")
        assert secret not in (edge.folder / "errors").read_text(encoding="utf-8")


def test_what_is_missing_is_said(tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "CERTIFICATES": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(["sh", EDGE / "start.sh"], env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert "server.crt is missing in EDGE_CERTIFICATES" in done.stderr
    assert "make-certificates" in done.stderr


def test_certificates_are_readable_by_those_who_need_them_only(certificates):
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
