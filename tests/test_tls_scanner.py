"""The scanner finds what is wrong with a weak TLS server."""

import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.tls_scanner import weaknesses

MAKER = Path(__file__).parent.parent / "deploy" / "edge" / "make-certificates"


@pytest.fixture
def weak(tmp_path):
    """Serve TLS with old ciphers that OpenSSL still has, and a certificate for another host; return the port."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    subprocess.run([MAKER, tmp_path / "certificates", "mien.example.org"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificates/edge/server.crt", tmp_path / "certificates/edge/server.key")
    context.set_ciphers("ECDHE+AES:@SECLEVEL=0")

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection):
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as encrypted:
            while encrypted.recv(4096):
                encrypted.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_old_ciphers_and_a_certificate_for_another_host_are_found(weak, tmp_path):
    found = weaknesses(weak, tmp_path / "certificates/ca.crt")
    assert found.keys() == {"ciphers", "certificate_path_validation"}
    assert "CBC" in found["ciphers"]
