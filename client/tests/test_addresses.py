"""Addresses are checked when a client is made; a server with another protocol at an address is recognised."""

import contextlib
import shutil
import ssl
import subprocess
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mien_client import AsyncClient, Client, ConfigurationError, UnavailableError, UnexpectedResponseError


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("HTTP://localhost:8501", "http://localhost:8501"),
        ("Https://mien.example/", "https://mien.example"),
        ("http://[::1]:8501", "http://[::1]:8501"),
        ("http://mien.example", "http://mien.example"),
        ("localhost:8500", "localhost:8500"),
        ("[::1]:8500", "[::1]:8500"),
        ("127.0.0.1:65535", "127.0.0.1:65535"),
        ("dns:///mien:8500", "dns:///mien:8500"),
        ("ipv4:10.0.0.1:8500,10.0.0.2:8500", "ipv4:10.0.0.1:8500,10.0.0.2:8500"),
        ("unix:/run/mien.sock", "unix:/run/mien.sock"),
    ],
)
def test_an_address_of_either_kind(address, endpoint):
    with Client(address) as client:
        assert client._replicas.endpoint == endpoint


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("grpc://localhost:8500", r"got the scheme 'grpc' in 'grpc://localhost:8500': write 'localhost:8500'"),
        ("grpcs://localhost:8500", r"tls=True"),
        ("ftp://localhost", r"got the scheme 'ftp'"),
        ("a:1,b:1", r"Expected one address, got 'a:1,b:1': give several as a list, \['a:1', 'b:1'\]"),
        ("http://a:1,http://b:1", "Expected one address"),
        ("::1", r"in brackets and a port, as in '\[::1\]:8500', got '::1'"),
        ("::1:8500", r"in brackets"),
        ("fe80::1%eth0", r"in brackets"),
        ("[::1]", "Expected a port, as in"),
        ("[::1:8500", r"as '\[::1\]:8500'"),
        ("[mien]x:8500", "Expected a"),
        ("localhost", "Expected a port, as in 'localhost:8500'"),
        ("localhost:", "Expected a port from 1 to 65535, got ''"),
        ("localhost:abc", "Expected a port from 1 to 65535, got 'abc' in 'localhost:abc'"),
        ("localhost:0", "Expected a port from 1 to 65535, got '0'"),
        ("localhost:65536", "Expected a port"),
        ("localhost:-1", "Expected a port"),
        ("localhost:٨٥٠٠", "Expected a port"),
        ("http://localhost:0", "Expected a port"),
        ("http://localhost:65536", "Expected a port"),
        ("http://localhost:abc", "Expected a port"),
        ("http://[::1]:abc", "Expected a port"),
        (":8500", "Expected a host before the port, as in 'localhost:8500'"),
        ("http://:8501", "Expected an address such as 'http://localhost:8501'"),
        ("http://", "Expected an address such as 'http://localhost:8501'"),
        ("http://[::1", "Expected an address such as 'http://localhost:8501'"),
        ("localhost:8500/v1", "got a path in"),
        ("http://localhost:8501/v1/models", "got a path or a query in"),
        ("http://localhost:8501?model=x", "got a path or a query in"),
        ("local host:8500", "Expected an address such as"),
        ("localhost:8500\n", "Expected an address such as"),
        ("", "Expected an address such as"),
        (None, "Expected an address such as"),
        (8500, "Expected an address such as"),
    ],
)
def test_what_cannot_be_an_address(address, message):
    for kind in (Client, AsyncClient):
        with pytest.raises(ConfigurationError, match=message):
            kind(address)
        with pytest.raises(ConfigurationError, match=message):
            kind(["localhost:8500", address])


@pytest.mark.parametrize("address", ["user:secret@host:8500", "http://user:secret@host:8501", "grpc://u:secret@h:1"])
def test_a_password_in_an_address_is_not_shown(address):
    with pytest.raises(ConfigurationError, match="without a user name and password") as caught:
        Client(address)
    assert "secret" not in str(caught.value)


@given(st.text(st.sampled_from("ab:/[]@.,?#%0189 \n") | st.characters(), max_size=20), st.sampled_from(["", "http://"]))
def test_any_text_is_an_address_or_a_configuration_error(text, scheme):
    with contextlib.suppress(ConfigurationError):
        Client(scheme + text).close()


def error_at(address, images, **options):
    with Client(address, timeout=10, max_attempts=1, **options) as client:
        with pytest.raises((UnavailableError, UnexpectedResponseError)) as caught:
            client.analyze(images)
        return caught.value


@pytest.fixture
def no_proxies(monkeypatch):
    for name in ("grpc_proxy", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("no_proxies")
def test_each_transport_recognises_the_port_of_the_other(grpc_address, rest_address, backend):
    error = error_at(rest_address.removeprefix("http://"), backend.faces(1))
    assert type(error) is UnexpectedResponseError
    assert "does not speak gRPC without TLS. For a REST port, write 'http://' before the address" in str(error)
    error = error_at(f"http://{grpc_address}", backend.faces(1))
    assert type(error) is UnexpectedResponseError
    assert "it speaks gRPC, not REST. Leave 'http://' out of the address" in str(error)


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """Run a gRPC server and a web server with a certificate for another host; yield ports and certificate files."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for name, host in (("known", "mien.example"), ("stranger", "localhost")):
        names = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
        files = ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"]
        subprocess.run(["openssl", "req", "-x509", *key, *files, *names], check=True, capture_output=True)
    pair = ((folder / "known.key").read_bytes(), (folder / "known.pem").read_bytes())
    server = grpc.server(futures.ThreadPoolExecutor(2))
    grpc_port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    web = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    web.handle_error = lambda *request: None  # type: ignore[method-assign]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "known.pem", folder / "known.key")
    web.socket = context.wrap_socket(web.socket, server_side=True)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield {"": f"127.0.0.1:{grpc_port}", "https://": f"127.0.0.1:{web.server_port}", "folder": folder}
    server.stop(None).wait()
    web.shutdown()
    web.server_close()
    thread.join()


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize("scheme", ["", "https://"])
def test_a_tls_mismatch_is_explained(scheme, tls, grpc_address, rest_address, backend):
    images = backend.faces(1)
    error = error_at(scheme.replace("s", "") + tls[scheme], images)
    assert "If this is a TLS port" in str(error)
    plain = {"": grpc_address, "https://": rest_address.removeprefix("http://")}[scheme]
    assert "the client uses TLS, but the server does not on this port" in str(
        error_at(scheme + plain, images, tls=True)
    )
    error = error_at(scheme + tls[scheme], images, ca_file=tls["folder"] / "stranger.pem")
    assert "not from an authority that this client knows. Give that authority as ca_file" in str(error)
    error = error_at(scheme + tls[scheme], images, ca_file=tls["folder"] / "known.pem")
    assert "the server's certificate is for another host name" in str(error)
    assert type(error) is UnavailableError


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("mien.example:8500", "grpc_proxy"),
        ("http://mien.example:8501", "http_proxy"),
        ("https://mien.example", "https_proxy"),
    ],
)
@pytest.mark.parametrize("listens", [True, False])
def test_a_proxy_that_fails_is_named(address, name, listens, rest_address, backend, monkeypatch):
    """The stand-in does not work as a proxy, and no server listens on port 9."""
    proxy = rest_address.removeprefix("http://") if listens else "127.0.0.1:9"
    monkeypatch.setenv(name, f"http://somebody:secret@{proxy}")
    error = error_at(address, backend.faces(1))
    assert f"the proxy http://{proxy}" in str(error)
    assert "secret" not in str(error)
