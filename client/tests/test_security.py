"""TLS, client certificates, tokens and API keys, over gRPC and REST, with nginx in front of the server."""

import asyncio
import logging
import shutil
import socket
import subprocess
import time
from typing import Any

import numpy as np
import pytest
from mien_client import AccessDeniedError, AsyncClient, Client, ConfigurationError, MienError, UnavailableError

from tests.ports import free_ports

TOKEN, API_KEY = "t0ken-that-nobody-sees", "k3y-that-nobody-sees"

SERVER = """
server {{
    listen 127.0.0.1:{port} ssl http2;
    {rule}
    location /tensorflow.serving. {{ grpc_pass grpc://{grpc}; }}
    location /v1/ {{ proxy_pass {rest}; }}
}}
"""
CONFIG = """
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_max_body_size 64m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    ssl_certificate {folder}/server.pem;
    ssl_certificate_key {folder}/server.key;
    {servers}
}}
"""
RULES = {
    "open": "",
    "token": f'if ($http_authorization != "Bearer {TOKEN}") {{{{ return 401; }}}}',
    "api_key": f'if ($http_x_api_key != "{API_KEY}") {{{{ return 403; }}}}',
    "certificate": (
        "ssl_client_certificate {folder}/ca.pem; ssl_verify_client optional; "
        "if ($ssl_client_verify != SUCCESS) {{ return 403; }}"
    ),
}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """Return a folder with the certificates of an authority, a server and a client, and of an unknown authority."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for name in ("ca", "stranger"):
        openssl("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1", encoding="utf-8")
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        authority = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *authority)
    return folder


@pytest.fixture
def nginx(certificates, grpc_address, rest_address):
    """Run nginx in front of the stand-in; yield the port of each kind of server."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if not program:
        pytest.skip("nginx is not installed")
    ports = dict(zip(RULES, free_ports(len(RULES)), strict=True))
    servers = [
        SERVER.format(
            port=ports[name],
            rule=rule.format(folder=certificates),
            grpc=grpc_address,
            rest=rest_address,
        )
        for name, rule in RULES.items()
    ]
    config = certificates / "nginx.conf"
    config.write_text(CONFIG.format(folder=certificates, servers="".join(servers)), encoding="utf-8")
    options = "daemon off; master_process off;"
    process = subprocess.Popen(
        [program, "-p", certificates, "-c", config, "-e", certificates / "error.log", "-g", options]
    )
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", ports["open"]), 1).close()
            break
        except OSError:
            assert process.poll() is None, (certificates / "error.log").read_text(encoding="utf-8")
            time.sleep(0.02)
    yield ports
    process.terminate()
    process.wait()


@pytest.fixture(params=["grpc", "aio", "rest"])
def open_at(request, nginx, monkeypatch):
    """Return a function that makes one call through one of nginx's servers."""
    for name in ("TLS", "CA_FILE", "CERT_FILE", "KEY_FILE", "TOKEN", "API_KEY"):
        monkeypatch.delenv(f"MIEN_{name}", raising=False)

    def ask(server, images, **options):
        address = f"127.0.0.1:{nginx[server]}"  # Not localhost: nginx is not on its other address, ::1.
        options = {"timeout": 10, "max_attempts": 1} | options
        if request.param == "aio":

            async def analyze():
                async with AsyncClient(address, **options) as client:
                    return await client.analyze(images)

            return asyncio.run(analyze())
        with Client(address if request.param == "grpc" else f"https://{address}", **options) as client:
            return client.analyze(images)

    return ask


def test_tls(open_at, certificates, backend):
    images = backend.faces(300)
    analysis = open_at("open", images, ca_file=certificates / "ca.pem")
    np.testing.assert_allclose(analysis.keypoints, backend.values("keypoints", 1, images), atol=1e-5)


@pytest.mark.parametrize("options", [{"tls": True}, {"ca_file": "stranger.pem"}])
def test_a_server_with_an_untrusted_certificate_is_not_asked(open_at, certificates, backend, options):
    options = {name: certificates / value if name == "ca_file" else value for name, value in options.items()}
    with pytest.raises(UnavailableError, match=r"(?i)certificate.verify.failed"):
        open_at("open", backend.faces(1), token=TOKEN, **options)
    assert backend.asked == []


def test_a_clients_certificate(open_at, certificates, backend):
    files = {f"{kind}_file": certificates / f"client.{end}" for kind, end in [("cert", "pem"), ("key", "key")]}
    assert len(open_at("certificate", backend.faces(2), ca_file=certificates / "ca.pem", **files)) == 2
    with pytest.raises(AccessDeniedError):
        open_at("certificate", backend.faces(2), ca_file=certificates / "ca.pem")


@pytest.mark.parametrize(("kind", "secret"), [("token", TOKEN), ("api_key", API_KEY)])
def test_the_token_or_api_key_is_sent_and_checked(open_at, certificates, backend, kind, secret):
    ca = certificates / "ca.pem"
    assert len(open_at(kind, backend.faces(2), ca_file=ca, **{kind: secret})) == 2
    for wrong in ({}, {kind: f"{secret}-not"}):
        with pytest.raises(AccessDeniedError) as caught:
            open_at(kind, backend.faces(2), ca_file=ca, **wrong)
        assert not caught.value.retryable


def test_the_environment_sets_certificates_token_and_api_key(open_at, certificates, backend, monkeypatch):
    monkeypatch.setenv("MIEN_CA_FILE", str(certificates / "ca.pem"))
    monkeypatch.setenv("MIEN_TOKEN", TOKEN)
    monkeypatch.setenv("MIEN_API_KEY", API_KEY)
    assert len(open_at("token", backend.faces(1))) == 1
    assert len(open_at("api_key", backend.faces(1))) == 1
    with pytest.raises(AccessDeniedError):
        open_at("token", backend.faces(1), token="another")


def test_a_netrc_file_does_not_replace_the_token(nginx, certificates, backend, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine localhost login somebody password else\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "stranger.pem"))
    address = f"https://localhost:{nginx['token']}"
    with Client(address, ca_file=certificates / "ca.pem", token=TOKEN, timeout=10) as client:
        assert len(client.analyze(backend.faces(1))) == 1


def test_secrets_are_in_no_error_and_no_log(open_at, certificates, backend, caplog):
    caplog.set_level(logging.DEBUG)
    secrets: dict[str, Any] = {"token": TOKEN, "api_key": f"{API_KEY}-not"}
    for server, ca in [("api_key", "ca.pem"), ("open", "stranger.pem")]:
        with pytest.raises(MienError) as caught:
            open_at(server, backend.faces(1), ca_file=certificates / ca, **secrets)
        output = f"{caught.value!r} {caught.value} {vars(caught.value)} {getattr(caught.value, '__notes__', '')}"
        assert "nobody-sees" not in output + caplog.text
    client = Client("https://localhost:1", **secrets)
    assert "nobody-sees" not in f"{client!r} {vars(client)}"


@pytest.mark.parametrize("name", ["token", "api_key"])
@pytest.mark.parametrize("wrong", ["nobody-sees\n", "nobody sees", "nobody-sees-é", b"nobody-sees"])
def test_a_secret_that_no_header_can_hold_is_refused_and_not_shown(name, wrong):
    with pytest.raises(ConfigurationError, match="printable ASCII") as caught:
        Client("localhost:8500", **{name: wrong})
    assert "nobody" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "warned"),
    [
        ("http://mien.example:8501", True),
        ("mien.example:8500", True),
        ("http://localhost.example:8501", True),
        ("127.example:8500", True),
        ("dns:///mien:8500", True),
        ("http://localhost:8501", False),
        ("http://127.0.0.1:8501/", False),
        ("localhost:8500", False),
        ("127.0.1.1:8500", False),
        ("[::1]:8500", False),
        ("unix:/run/mien.sock", False),
    ],
)
def test_a_warning_is_logged_when_a_secret_is_sent_unencrypted(address, warned, caplog):
    Client(address, token=TOKEN).close()
    warnings = [f"The token or API key is sent to {address} unencrypted"]
    assert [record.getMessage() for record in caplog.records] == warnings * warned


def test_invalid_certificate_files_are_refused(certificates, tmp_path):
    ca, cert, key = (certificates / name for name in ("ca.pem", "client.pem", "client.key"))
    (tmp_path / "text").write_text("hello", encoding="utf-8")
    for message, options in [
        ("missing.pem cannot be read: No such file", {"ca_file": tmp_path / "missing.pem"}),
        ("certificates in PEM form in .*text, found none", {"ca_file": tmp_path / "text"}),
        ("Expected both cert_file and key_file", {"cert_file": cert}),
        ("Expected both cert_file and key_file", {"key_file": key}),
        ("Expected a certificate and its key in PEM form", {"cert_file": cert, "key_file": certificates / "ca.key"}),
        ("TLS is switched off", {"ca_file": ca, "tls": False}),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            Client("localhost:8500", **options)
    for options in ({"tls": True}, {"ca_file": ca}):
        with pytest.raises(
            ConfigurationError,
            match=r"Expected an https:// address, because TLS is asked for, got 'http://localhost:8501'",
        ):
            Client("http://localhost:8501", **options)


def test_a_switch_in_the_environment(monkeypatch):
    monkeypatch.setenv("MIEN_TLS", "yes please")
    with pytest.raises(ConfigurationError, match="Expected 1 or 0 for MIEN_TLS, got 'yes please'"):
        Client("localhost:8500")
    monkeypatch.setenv("MIEN_TLS", "1")
    with pytest.raises(ConfigurationError, match="Expected an https:// address"):
        Client("http://localhost:8501")
    for off in ("0", ""):
        monkeypatch.setenv("MIEN_TLS", off)
        Client("http://localhost:8501").close()
