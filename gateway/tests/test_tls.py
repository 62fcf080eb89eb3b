"""`mien gateway --tls_cert`: the TLS that it speaks, and what it tells browsers."""

import shutil
import subprocess

import pytest

from tests.tls_scanner import weaknesses


@pytest.fixture(scope="module")
def certificates(tmp_path_factory, root):
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("gateway") / "certificates"
    maker = root / "deploy" / "edge" / "make-certificates"
    subprocess.run([maker, folder, "localhost", "127.0.0.1"], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def secure(start_gateway, model_server, certificates):
    """A gateway with a certificate."""
    files = [
        f"--tls_{kind}={certificates / 'edge' / f'server.{name}'}" for kind, name in (("cert", "crt"), ("key", "key"))
    ]
    return start_gateway("--server", model_server.grpc_address, *files, wait=False)


def test_pictures_are_read_under_tls(secure, certificates, faces):
    assert secure.url.startswith("https://")
    answer = secure.post("/v1/analyze", faces.tobytes(), "application/octet-stream", verify=certificates / "ca.crt")
    assert answer.status_code == 200


def test_a_scanner_finds_no_weakness(secure, certificates):
    assert weaknesses(int(secure.url.rpartition(":")[2]), certificates / "ca.crt") == {}


@pytest.mark.parametrize("path", ["/", "/console/main.js", "/v1/models", "/nowhere"])
def test_browsers_are_told_to_come_back_with_tls(secure, gateway, certificates, path):
    with_tls = secure.get(path, verify=certificates / "ca.crt")
    assert with_tls.headers["strict-transport-security"] == "max-age=63072000"
    assert "strict-transport-security" not in gateway.get(path).headers
