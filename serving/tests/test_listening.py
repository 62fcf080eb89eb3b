"""Where the server listens (addresses, ports and sockets), and its errors when it cannot."""

import contextlib
import socket
import sys
import tempfile
from pathlib import Path

import grpc
import pytest
import requests
from mien_client.cli import main
from mien_serving import LocalModelServer, LocalModelServerError
from mien_serving.model_servers.listening import check_socket

ANY_VERSION = "--model_base_path=/models"


def complaint(capsys, *arguments):
    """Return the reason that a failing start prints."""
    assert main(["serve", ANY_VERSION, *map(str, arguments)]) == 255
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("Failed to start server. Error: ")


def answers(server, address):
    """Return whether gRPC and REST answer at an address."""
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


def listening_ports(pid):
    """Return the TCP ports on which a process listens, according to Linux."""
    sockets, ports = set(), set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # It has been closed meanwhile.
            sockets.add(file.readlink().name)
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text(encoding="utf-8").splitlines()[1:]:
            _, local, _, state, *_ = fields = line.split()
            if state == "0A" and f"socket:[{fields[9]}]" in sockets:
                ports.add(int(local.rpartition(":")[2], 16))
    return ports


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
    def test_an_unusable_name_or_address_is_named(self, capsys, host, reason):
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


class TestSocket:
    @pytest.fixture
    def folder(self):
        # The folders that pytest makes have longer names than the path of a socket may have on some systems.
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)

    @pytest.fixture
    def refusal(self, capsys):
        def start(path):
            line = complaint(capsys, f"--grpc_socket_path={path}")
            return line.removeprefix(f"INVALID_ARGUMENT: --grpc_socket_path={path}: ")

        return start

    def test_with_port_0_grpc_listens_only_on_the_socket(self, base_path, folder):
        with LocalModelServer({"m": base_path}, flags=[f"--grpc_socket_path={folder}/s"]) as server:
            assert server.grpc_address == f"unix:{folder}/s"
            with grpc.insecure_channel(server.grpc_address) as channel:
                grpc.channel_ready_future(channel).result(timeout=20)
            with pytest.raises(LocalModelServerError, match=r"Expected a gRPC port, but .* only on unix:"):
                server.grpc_port  # noqa: B018
            if sys.platform == "linux":
                assert listening_ports(server.pid) == {server.rest_port}

    def test_a_path_that_is_too_long_is_named(self, refusal, folder):
        path = f"{folder}/{'s' * 200}"
        assert refusal(path) == (f"a path of {len(path)} bytes is too long for a UNIX socket; choose another path")

    def test_a_folder_that_does_not_exist_is_named(self, refusal, folder):
        assert refusal(folder / "no" / "s") == f"the folder {folder}/no does not exist; choose another path"

    def test_a_file_or_a_folder_in_its_place_is_named_and_kept(self, refusal, folder):
        (folder / "file").write_text("kept", encoding="utf-8")
        assert refusal(folder / "file") == "the path is a file; choose another path"
        assert (folder / "file").read_text(encoding="utf-8") == "kept"
        assert refusal(folder) == "the path is a folder; choose another path"

    def test_a_folder_in_a_file_is_named(self, refusal, folder):
        (folder / "file").touch()
        assert refusal(folder / "file" / "s") == "not a directory; choose another path"

    def test_a_socket_that_a_server_left_behind_is_replaced(self, folder):
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(f"{folder}/s")
        check_socket(f"{folder}/s")
        assert (folder / "s").is_socket()  # gRPC replaces it when the models are loaded, not before.

    def test_checking_a_socket_creates_no_file(self, folder):
        check_socket(f"{folder}/s")
        assert not list(folder.iterdir())
