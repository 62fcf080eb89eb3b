"""`Client.status` and `Client.wait_ready`."""

import socket
import threading

import pytest
from mien_client import AccessDeniedError, Client, ModelNotFoundError, UnavailableError, VersionStatus


def test_status_lists_the_versions_of_both_models(client, backend):
    backend.versions["emotion"] = {1, 2}
    backend.states["emotion", 3] = ("END", "no such file")
    assert client.status() == {
        "emotion": (
            VersionStatus(3, "END", "no such file"),
            VersionStatus(2, "AVAILABLE"),
            VersionStatus(1, "AVAILABLE"),
        ),
        "keypoints": (VersionStatus(1, "AVAILABLE"),),
    }


def test_status_of_an_unknown_model(client, backend):
    del backend.versions["emotion"]
    with pytest.raises(ModelNotFoundError, match="model 'emotion'"):
        client.status()


def test_ready_at_once(client):
    client.wait_ready(timeout=5)


def test_ready_once_both_models_are_loaded(client, backend):
    backend.versions = {"emotion": {1}}
    threading.Timer(0.3, lambda: backend.versions.update(keypoints={1})).start()
    client.wait_ready(timeout=10)
    client.analyze(backend.faces(1))


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_not_ready_while_nobody_is_there(scheme):
    with socket.socket() as reserved:  # Bound but not listening: connections are refused.
        reserved.bind(("127.0.0.1", 0))
        client = Client(f"{scheme}127.0.0.1:{reserved.getsockname()[1]}")
        with client, pytest.raises(UnavailableError, match=r"not ready after 1 s: .*refused"):
            client.wait_ready(timeout=1)


def test_the_version_that_the_client_asks_for_counts(address, backend):
    with Client(address, emotion_version=2) as client:
        with pytest.raises(UnavailableError, match="model 'emotion' version 2: version 1 is AVAILABLE") as caught:
            client.wait_ready(timeout=1)
        assert (caught.value.model, caught.value.version) == ("emotion", 2)
        backend.load("emotion", 2)
        client.wait_ready(timeout=5)


def test_the_label_that_the_client_asks_for_counts(address, backend):
    with Client(address, keypoint_version="canary") as client:
        with pytest.raises(UnavailableError, match="model 'keypoints' label 'canary': version 1 is AVAILABLE"):
            client.wait_ready(timeout=1)
        backend.labels["keypoints", "canary"] = 1
        client.wait_ready(timeout=5)


def test_what_is_missing_is_told(client, backend):
    backend.versions = {}
    backend.states = {("emotion", 1): ("LOADING", ""), ("keypoints", 4): ("END", "file is broken")}
    with pytest.raises(UnavailableError) as caught:
        client.wait_ready(timeout=1)
    assert str(caught.value) == (
        f"{caught.value.endpoint} is not ready after 1 s: "
        "model 'emotion': version 1 is LOADING; model 'keypoints': version 4 is END (file is broken)"
    )


def test_what_waiting_does_not_help_is_told_at_once(client, backend, failure, monkeypatch):
    def deny(*selection):
        raise failure("PERMISSION_DENIED", "not you")

    monkeypatch.setattr(backend, "metadata", deny)
    with pytest.raises(AccessDeniedError, match="not you"):
        client.wait_ready(timeout=60)
