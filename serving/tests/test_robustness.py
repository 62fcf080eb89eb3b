"""What bad clients can do to a server: nothing that others notice."""

import contextlib
import gzip
import random
import resource
import socket
import sys
from pathlib import Path

import pytest
import requests

PREDICT = '{"instances": [[1, 2]]}'
PORTS = pytest.mark.parametrize("port", ["rest_port", "grpc_port"])


@pytest.fixture(scope="module")
def attacked(start_server, conformance_models):
    return start_server("--model_name=tiny", f"--model_base_path={conformance_models / 'tiny'}", "--grpc_max_threads=4")


@pytest.fixture(autouse=True)
def _others_are_served(attacked):
    yield
    assert_serves(attacked)


def assert_serves(server):
    answer = requests.post(f"{server.url}/v1/models/tiny:predict", data=PREDICT, timeout=30)
    assert answer.json() == {"predictions": [[4.0, 6.0]]}
    from mien_client import protos

    assert server.call("GetModelStatus", protos.GetModelStatusRequest(model_spec={"name": "tiny"}))


def connect(server, port):
    return socket.create_connection(("127.0.0.1", getattr(server, port)), timeout=30)


def resident_megabytes(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


@PORTS
def test_thousands_of_idle_connections(attacked, port):
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(3000, soft // 2)
    with contextlib.ExitStack() as connections:
        for _ in range(count):
            connections.enter_context(connect(attacked, port))
        assert_serves(attacked)


@PORTS
def test_senders_that_never_finish(attacked, port):
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
def test_half_closed_sockets(attacked, port):
    with contextlib.ExitStack() as connections:
        for _ in range(50):
            half = connections.enter_context(connect(attacked, port))
            half.sendall(b"GET /v1/models/tiny HTTP/1.1\r\nHost: x\r\n")
            half.shutdown(socket.SHUT_WR)
        assert_serves(attacked)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the resident memory from /proc")
@PORTS
def test_garbage_leaves_memory_flat(attacked, port):
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
def test_a_head_that_never_ends_is_cut_off(attacked):
    before = resident_megabytes(attacked)
    with connect(attacked, "rest_port") as endless:
        endless.sendall(b"GET /v1/models/tiny HTTP/1.1\r\nX: ")
        with contextlib.suppress(OSError):
            for _ in range(1000):
                endless.sendall(b"x" * 65536)
        with contextlib.suppress(ConnectionError):
            assert b" 400 " in endless.recv(1000)
    assert resident_megabytes(attacked) - before < 20


def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(attacked):
    with connect(attacked, "rest_port") as large:
        large.sendall(b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000000\r\n\r\n{")
        assert large.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_small_body_that_unpacks_to_a_huge_one_is_taken_for_empty(attacked):
    bomb = gzip.compress(b"[" + b" " * (101 << 20) + b"]")
    answer = requests.post(
        f"{attacked.url}/v1/models/tiny:predict", data=bomb, headers={"Content-Encoding": "gzip"}, timeout=60
    )
    assert answer.json() == {"error": "JSON Parse error: The document is empty"}


def test_clients_that_hang_up_while_they_are_served(attacked):
    request = f"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(PREDICT)}\r\n\r\n{PREDICT}"
    for _ in range(100):
        with connect(attacked, "rest_port") as impatient:
            impatient.sendall(request.encode())
