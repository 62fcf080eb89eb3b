"""The examples of web services: a picture goes up, the merged answer comes back as JSON, from real models."""

import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from mien_client import EMOTIONS, KEYPOINTS, Client

from tests.ports import free_port

EXAMPLES = Path(__file__).parent.parent / "examples"
COMMANDS = {
    "fastapi": ["uvicorn", "fastapi_app:app", "--port"],
    "flask": ["flask", "--app", "flask_app", "run", "--port"],
}


@contextmanager
def web_service(command, model_server):
    port = free_port()
    environment = os.environ | {"MIEN_SERVER": model_server}
    with subprocess.Popen(
        [sys.executable, "-m", *command, str(port)], cwd=EXAMPLES, env=environment, stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(600):
                assert process.poll() is None
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/faces"
        finally:
            process.terminate()


@pytest.fixture(scope="module", params=COMMANDS)
def url(request, server):
    with web_service(COMMANDS[request.param], server.grpc) as url:
        yield url


def upload(url, name, content):
    return requests.post(url, files={"picture": (name, content)}, timeout=60)


def test_a_picture_becomes_json(url, server):
    content = (EXAMPLES / "astronaut.jpg").read_bytes()
    answer = upload(url, "astronaut.jpg", content)
    assert answer.status_code == 200
    document = answer.json()
    with Client(server.grpc) as client:
        assert document == client.analyze_pictures(content).to_dict()
    [face] = document["faces"]
    assert face["emotion"] == "Happy"
    assert list(face["probabilities"]) == list(EMOTIONS) or set(face["probabilities"]) == set(EMOTIONS)
    assert set(face["keypoints_in_picture"]) == set(KEYPOINTS)
    assert document["versions"] == {"emotion": 1, "keypoints": 1}


@pytest.mark.parametrize(
    ("content", "message"), [(b"hello", "not a PNG, JPEG"), (b"", "empty"), (b"\xff\xd8\xff\xe0", "truncated|damaged")]
)
def test_an_upload_that_is_not_a_picture_is_refused_with_the_reason(url, content, message):
    answer = upload(url, "a.jpg", content)
    assert answer.status_code == 422
    assert re.search(message, answer.text)


def test_a_large_upload_is_refused(url):
    assert upload(url, "a.jpg", bytes(20 * 1024**2 + 1)).status_code == 413


@pytest.mark.parametrize("name", COMMANDS)
def test_an_error_does_not_reveal_the_address_of_the_model_server(name):
    with web_service(COMMANDS[name], "127.0.0.1:1") as url:
        answer = upload(url, "a.jpg", (EXAMPLES / "face48.png").read_bytes())
    assert answer.status_code == 503
    assert "127.0.0.1:1" not in answer.text
