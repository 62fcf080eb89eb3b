"""Keys of callers and operators: hashed in files, read again when these change, and never logged."""

import base64
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import websockets.sync.client
from mien_gateway.keys import KeyFile, KeyFileError, new_key

MIEN = str(Path(sys.executable).with_name("mien"))
CROPS = "application/octet-stream"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of callers and operators, and their keys by name."""
    folder, keys = tmp_path_factory.mktemp("keys"), {}
    for file, names in {"callers": ("shop", "kiosk"), "operators": ("ada",)}.items():
        lines = ["# Who may call", ""]
        for name in names:
            keys[name], line = new_key(name)
            lines.append(line)
        (folder / file).write_text("\n".join(lines), encoding="utf-8")
    return folder, keys


@pytest.fixture(scope="module")
def keyed(start_gateway, model_server, files):
    folder, _ = files
    flags = [f"--api_keys={folder / 'callers'}", f"--operator_keys={folder / 'operators'}"]
    return start_gateway("--server", model_server.grpc_address, *flags)


def ask(gateway, faces, **headers):
    return gateway.post("/v1/analyze", faces.tobytes(), CROPS, headers=headers)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/live", "/v1/journal"])
def test_what_is_behind_keys_says_which_header_is_missing(keyed, faces, is_problem, path):
    for response in (ask(keyed, faces), keyed.get(path)):
        assert "Authorization: Bearer" in is_problem(response, 401, "AccessDeniedError")["detail"]
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("name", ["shop", "kiosk", "ada"])
def test_a_key_opens_by_either_header(keyed, faces, files, name):
    key = files[1][name]
    assert ask(keyed, faces, authorization=f"Bearer {key}").status_code == 200
    assert ask(keyed, faces, **{"x-api-key": key}).status_code == 200


@pytest.mark.parametrize("key", ["0" * 64, "shop", "é".encode().decode("latin-1"), " "])
def test_another_key_does_not(keyed, faces, is_problem, key):
    is_problem(ask(keyed, faces, authorization=f"Bearer {key}"), 401, "AccessDeniedError")


def test_health_and_the_console_need_no_key(keyed):
    for path in ("/healthz", "/readyz", "/metrics", "/", "/openapi.json", "/docs"):
        assert keyed.get(path).status_code == 200


def test_the_access_log_has_the_callers_name_and_neither_key_nor_query(keyed, faces, files, until):
    keyed.post(
        "/v1/analyze", faces.tobytes(), CROPS, params={"key": "customer-7"}, headers={"x-api-key": files[1]["shop"]}
    )
    until(lambda: '"caller": "shop"' in keyed.log())
    line = next(line for line in keyed.log().splitlines() if '"caller": "shop"' in line)
    assert f'"faces": {len(faces)}' in line
    assert '"path": "/v1/analyze"' in line
    assert not any(key in keyed.log() for key in files[1].values())
    assert "customer-7" not in keyed.log()


class TestChange:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "keys"

    def test_a_file_is_read_again_when_it_changes(self, path, until):
        first, line = new_key("first")
        path.write_text(line, encoding="utf-8")
        keys = KeyFile(path)
        second, line = new_key("second")
        assert (keys.name_of(first), keys.name_of(second)) == ("first", None)
        path.write_text(line, encoding="utf-8")
        until(lambda: keys.name_of(second) == "second")
        assert keys.name_of(first) is None

    @pytest.mark.parametrize("damage", ["", "first plain-text-key", "\udc80"])
    def test_a_damaged_file_leaves_the_keys_as_they_are(self, path, until, caplog, damage):
        key, line = new_key("first")
        path.write_text(line, encoding="utf-8")
        keys = KeyFile(path)
        path.write_bytes(damage.encode("utf-8", "surrogateescape"))
        if damage:
            until(lambda: keys.name_of(key) and "stay valid" in caplog.text)
            assert "plain-text-key" not in caplog.text
        else:  # An empty file is a valid one: nobody has a key any more.
            until(lambda: keys.name_of(key) is None)

    def test_a_missing_file_stops_the_start(self, path):
        with pytest.raises(KeyFileError, match="No such file"):
            KeyFile(path)

    def test_a_plain_key_in_the_file_is_refused_and_not_shown(self, path):
        path.write_text("shop 0123456789abcdef", encoding="utf-8")
        with pytest.raises(KeyFileError, match="line 1: expected a name and sha256:HASH") as raised:
            KeyFile(path)
        assert "0123456789abcdef" not in str(raised.value)


def test_a_new_key_is_shown_once_and_its_hash_goes_into_the_file(tmp_path):
    done = subprocess.run([MIEN, "gateway", "--new_key", "shop"], capture_output=True, encoding="utf-8", check=True)
    path = tmp_path / "keys"
    path.write_text(done.stdout, encoding="utf-8")
    [key] = re.findall("[0-9a-f]{64}", done.stderr)
    assert key not in done.stdout
    assert KeyFile(path).name_of(key) == "shop"


def test_a_name_is_one_word():
    with pytest.raises(KeyFileError, match="Expected a name"):
        new_key("two words")


def test_a_stream_takes_the_key_as_a_header_or_as_a_subprotocol(keyed, files, portrait):
    key = files[1]["kiosk"]
    encoded = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
    ways: Any = ({"additional_headers": {"x-api-key": key}}, {"subprotocols": ["mien", f"key.{encoded}"]})
    for way in ways:
        with websockets.sync.client.connect(keyed.stream_url, **way) as socket:
            socket.send(portrait)
            assert '"Happy"' in socket.recv()
    ways = ({}, {"subprotocols": ["mien", "key.AAAA"]}, {"subprotocols": ["mien", "key.%"]})
    for way in ways:
        with pytest.raises(websockets.exceptions.InvalidStatus, match="401"):
            websockets.sync.client.connect(keyed.stream_url, **way)
