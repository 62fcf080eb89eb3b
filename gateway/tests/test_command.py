"""`mien gateway`: its flags, its start and its end."""

import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

MIEN = str(Path(sys.executable).with_name("mien"))


def run(*arguments):
    return subprocess.run([MIEN, "gateway", *map(str, arguments)], capture_output=True, encoding="utf-8", timeout=60)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--server", "ftp://host"], "Expected 'host:port' for gRPC"),
        (["--server", "host"], "Expected a port"),
        (["--api_keys=/nowhere"], "/nowhere cannot be read: No such file or directory"),
        (["--tls_cert=a.pem"], "Expected both --tls_cert and --tls_key"),
        (["--tls_cert=/nowhere", "--tls_key=/nowhere"], "/nowhere"),
        (["--host=256.0.0.1"], "256.0.0.1"),
    ],
)
def test_what_cannot_work_ends_with_a_sentence(flags, message):
    done = run("--port=0", *flags)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("flag", ["--port=70000", "--workers=0", "--timeout=nan", "--cors_origins=*", "--max_faces=-1"])
def test_invalid_flags_are_usage_errors(flag):
    done = run(flag)
    assert done.returncode == 2
    assert "expected" in done.stderr


def test_a_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(f"--port={port}")
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "Address already in use" in done.stderr


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_asked_and_leaves_no_worker(start_gateway, model_server, until, end):
    gateway = start_gateway("--server", model_server.grpc_address)
    workers = gateway.workers
    gateway.process.send_signal(end)
    assert gateway.process.wait(timeout=60) == 0
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert "Traceback" not in gateway.log()


def test_workers_end_with_a_gateway_that_is_killed(start_gateway, model_server, until):
    gateway = start_gateway("--server", model_server.grpc_address)
    workers = gateway.workers
    gateway.process.kill()
    gateway.process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_tensorflow_is_never_loaded(gateway, portrait):
    assert gateway.analyze(portrait, "image/jpeg").status_code == 200
    for pid in (gateway.process.pid, *gateway.workers):
        assert "tensorflow" not in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")


def test_a_gateway_for_the_network_without_keys_warns(start_gateway, model_server):
    gateway = start_gateway("--server", model_server.grpc_address, "--host=0.0.0.0", wait=False)
    assert "anybody who reaches it may call" in gateway.log()


def test_connections_that_never_finish_a_request_keep_nobody_out(gateway):
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(50)]
    for one in idle:
        one.sendall(b"GET / HT")
    assert gateway.get("/healthz").status_code == 200
    for one in idle:
        one.close()


def test_many_callers_at_once_get_their_own_answers(gateway, client, faces):
    expected = [face.emotion for face in client.analyze(faces)]

    def ask(number):
        start = number % (len(faces) - 2)
        document = gateway.analyze(faces[start : start + 2].tobytes(), "application/octet-stream").json()
        return [face["emotion"] for face in document["faces"]] == expected[start : start + 2]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(100)))
