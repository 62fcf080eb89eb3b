"""The edge's own configuration, run by a real nginx in front of the shipped networks: who gets in, and how much."""

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
import numpy as np
import pytest
import requests
from mien_client import AccessDeniedError, BadRequestError, Client, UnavailableError, protos

ROOT = Path(__file__).parent.parent
EDGE = ROOT / "serving" / "edge"
FACE = np.zeros((48, 48), np.uint8)
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

    def start(backend=server, **settings):
        folder = tmp_path_factory.mktemp("nginx")
        port, health = free_port(), free_port()
        here = {
            "8443": str(port),
            "127.0.0.1:8080": f"127.0.0.1:{health}",
            "serving:8500": backend.grpc.replace("localhost", "127.0.0.1"),
            "serving:8501": backend.rest.removeprefix("http://").replace("localhost", "127.0.0.1"),
            "/dev/stdout": str(folder / "access.log"),
        }
        template = (EDGE / "nginx.conf.template").read_text()
        for inside, outside in here.items():
            assert inside in template
            template = template.replace(inside, outside)
        if os.getuid() == 0:  # Its workers would be somebody else, who may not write here.
            template = "user root;\n" + template
        (folder / "nginx.conf.template").write_text(template)
        shutil.copy(EDGE / "start.sh", folder)
        usual = {"CLIENT_CERTIFICATES": "optional", "REQUEST_SIZE": "8m", "REQUEST_RATE": 1000, "REQUEST_BURST": 1000}
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/bin:/usr/local/bin",
            "TMPDIR": str(folder),
            "CERTIFICATES": str(certificates / "edge"),
            **{name: str(value) for name, value in (usual | settings).items()},
        }
        process = subprocess.Popen(["sh", folder / "start.sh"], env=environment, stderr=(folder / "errors").open("w"))
        running.append(process)
        for _ in range(600):
            try:
                assert requests.get(f"http://127.0.0.1:{health}", timeout=10).status_code == 200
                break
            except requests.ConnectionError:
                assert process.poll() is None, (folder / "errors").read_text()
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
def client(certificates):
    """A client of an edge, which shows a key, a certificate or neither."""

    def make(edge, kind, *, key=None, certificate=False):
        shown = (
            {"cert_file": certificates / "client.crt", "key_file": certificates / "client.key"} if certificate else {}
        )
        return Client(getattr(edge, kind), ca_file=certificates / "ca.crt", api_key=key, max_attempts=1, **shown)

    return make


@pytest.fixture(scope="module")
def key(certificates):
    return (certificates / "api-key").read_text().strip()


def test_a_key_lets_in(client, edge, kind, key):
    with client(edge, kind, key=key) as mien:
        assert len(mien.analyze(FACE)) == 1


def test_a_certificate_lets_in(client, edge, kind):
    with client(edge, kind, certificate=True) as mien:
        assert len(mien.analyze(FACE)) == 1


@pytest.mark.parametrize("wrong", [None, "0" * 64, ""])
def test_without_either_nobody_gets_in(client, edge, kind, wrong):
    with client(edge, kind, key=wrong) as mien, pytest.raises(AccessDeniedError, match="certificate or an API key"):
        mien.analyze(FACE)


def test_a_certificate_by_somebody_else_is_refused(edge, certificates, tmp_path):
    subprocess.run([EDGE / "make-certificates", tmp_path / "other", "localhost"], check=True, capture_output=True)
    pair = (tmp_path / "other/client.crt", tmp_path / "other/client.key")
    answer = requests.get(
        f"{edge.rest}/v1/models/emotion", cert=tuple(map(str, pair)), verify=str(certificates / "ca.crt"), timeout=30
    )
    assert answer.status_code == 401


def test_keys_do_not_replace_certificates_where_those_are_required(start_edge, client, kind, key):
    strict = start_edge(CLIENT_CERTIFICATES="on")
    with client(strict, kind, key=key) as mien, pytest.raises(AccessDeniedError):
        mien.analyze(FACE)
    with client(strict, kind, certificate=True) as mien:
        assert len(mien.analyze(FACE)) == 1


def test_the_server_is_who_it_says(edge, certificates):
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{edge.rest}/v1/models/emotion", timeout=30)
    old = ssl.create_default_context(cafile=certificates / "ca.crt")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("localhost", edge.port)) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(plain, server_hostname="localhost")


def test_a_request_that_is_too_large_is_refused_once_and_for_all(start_edge, client, kind, key):
    small = start_edge(REQUEST_SIZE="64k")
    with client(small, kind, key=key) as mien:
        assert len(mien.analyze(np.stack([FACE] * 4))) == 4
        with pytest.raises(BadRequestError, match="larger than"):
            mien.analyze(np.stack([FACE] * 64))


def test_more_requests_than_allowed_are_refused(start_edge, client, kind, key):
    slow = start_edge(REQUEST_RATE=1, REQUEST_BURST=3)
    refused = []
    with client(slow, kind, key=key) as mien:
        for _ in range(10):
            try:
                mien.analyze(FACE)
            except UnavailableError as error:
                refused.append(str(error))
    assert refused
    assert all("more than 1 requests a second" in words for words in refused)
    with client(slow, kind, certificate=True) as other:
        other.analyze(FACE)  # Each caller has a rate of its own.


def test_when_no_replica_answers_clients_may_try_again(start_edge, client, kind, key):
    nobody = SimpleNamespace(grpc=f"127.0.0.1:{free_port()}", rest=f"http://127.0.0.1:{free_port()}")
    with (
        client(start_edge(nobody), kind, key=key) as mien,
        pytest.raises(UnavailableError, match="no replica answers"),
    ):
        mien.analyze(FACE)


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
    assert session.delete(f"{edge.rest}/v1/models/emotion", timeout=30).status_code == 403
    assert session.get(f"{edge.rest}/v1/models/emotion", timeout=30).json()["model_version_status"]


def test_the_log_tells_who_asked_what_and_never_what_was_sent(start_edge, client, kind, key):
    edge = start_edge()
    with client(edge, kind, key=key) as mien:
        mien.analyze(FACE)
    with client(edge, kind, certificate=True) as mien:
        mien.analyze(FACE)
    log = edge.folder / "access.log"
    for _ in range(600):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        if len(lines) >= 4:
            break
        threading.Event().wait(0.05)
    assert {line["caller"] for line in lines} == {"first-key", "CN=first-client"}
    assert {line["status"] for line in lines} == {200}
    assert {line["grpc_status"] for line in lines} == ({"0"} if kind == "grpc" else {""})
    assert all(line["path"].startswith(("/v1/models/", "/tensorflow.serving.")) for line in lines)
    assert all(line["seconds"] >= 0 and line["bytes_in"] > 0 and line["replica"] for line in lines)
    assert key not in log.read_text()
    assert "b64" not in log.read_text()
    assert "b64" not in (edge.folder / "errors").read_text()


def test_what_is_missing_is_said(tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "CERTIFICATES": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(["sh", EDGE / "start.sh"], env=environment, capture_output=True, text=True)
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
    again = subprocess.run([EDGE / "make-certificates", certificates, "localhost"], capture_output=True, text=True)
    assert again.returncode == 1
    assert "is there already" in again.stderr
