"""Where the server listens: addresses, ports and sockets, and what it says when it cannot."""

import socket
import sys

import grpc
import pytest
import requests
from mien_client.cli import main

ANY_VERSION = "--model_base_path=/models"


def complaint(capsys, *arguments):
    """The reason that a start that fails prints."""
    assert main(["serve", ANY_VERSION, *map(str, arguments)]) == 255
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("Failed to start server. Error: ")


def answers(server, address):
    """Whether gRPC and REST answer at an address."""
    literal = f"[{address}]" if ":" in address else address
    with grpc.insecure_channel(f"{literal}:{server.grpc_port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=5)
            over_grpc = True
        except grpc.FutureTimeoutError:
            over_grpc = False
    try:
        over_rest = requests.get(f"http://{literal}:{server.rest_port}/v1/models/m", timeout=5).status_code == 200
    except requests.ConnectionError:
        over_rest = False
    assert over_grpc is over_rest
    return over_grpc


@pytest.fixture(scope="module")
def base_path(tmp_path_factory, publish):
    base_path = tmp_path_factory.mktemp("models") / "m"
    publish(base_path, 1)
    return base_path


@pytest.fixture(scope="module")
def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


class TestHost:
    # On Linux every address that begins with 127 is this machine's, and a server on 127.0.0.1 has only that one.
    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux has more than one loopback address")
    def test_the_server_listens_on_localhost_unless_told_otherwise(self, start_server, base_path):
        server = start_server("--model_name=m", f"--model_base_path={base_path}")
        assert answers(server, "127.0.0.1")
        assert not answers(server, "127.0.0.2")

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux has more than one loopback address")
    @pytest.mark.parametrize("host", ["0.0.0.0", "::"])
    def test_it_listens_on_every_address_of_both_kinds_if_asked(self, start_server, base_path, host, has_ipv6):
        server = start_server("--model_name=m", f"--model_base_path={base_path}", f"--host={host}")
        assert answers(server, "127.0.0.1")
        assert answers(server, "127.0.0.2")
        assert answers(server, "::1") is has_ipv6

    def test_an_address_of_version_6_can_be_the_only_one(self, start_server, base_path, has_ipv6):
        if not has_ipv6:
            pytest.skip("this machine has no IPv6")
        server = start_server("--model_name=m", f"--model_base_path={base_path}", "--host=::1")
        assert answers(server, "::1")
        assert not answers(server, "127.0.0.1")

    @pytest.mark.parametrize(
        ("host", "reason"),
        [
            ("no-such-name.invalid", "--host=no-such-name.invalid: "),
            ("192.0.2.1", "--host=192.0.2.1: cannot assign requested address; "),
            ("256.0.0.1", "--host=256.0.0.1: "),
            ("", "--host is empty; "),
        ],
    )
    def test_a_name_or_an_address_of_no_use_is_named(self, capsys, host, reason):
        line = complaint(capsys, f"--host={host}")
        assert line.startswith(f"INVALID_ARGUMENT: {reason}")
        assert "expected an address or a name of this machine, or 0.0.0.0 for all" in line


@pytest.mark.parametrize("flag", ["--port", "--rest_api_port"])
@pytest.mark.parametrize("taken_at", ["127.0.0.1", ""])
def test_a_port_in_use_is_named_before_anything_is_loaded(capsys, flag, taken_at):
    with socket.create_server((taken_at, 0)) as taken:
        port = taken.getsockname()[1]
        other = "--rest_api_port=0" if flag == "--port" else "--port=0"
        assert complaint(capsys, f"{flag}={port}", other) == (
            f"UNAVAILABLE: port {port} cannot be used (address already in use); choose another with {flag}, or 0 for "
            "any free one"
        )
