"""`Client.status` and `Client.wait_ready`."""

import socket
import threading

import pytest
from mien_client import (
    AccessDeniedError,
    Client,
    ModelNotFoundError,
    UnavailableError,
    UnexpectedResponseError,
    VersionStatus,
)


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
def test_not_ready_while_no_server_listens(scheme):
    with socket.socket() as reserved:  # Bound but not listening: connections are refused.
        reserved.bind(("127.0.0.1", 0))
        client = Client(f"{scheme}127.0.0.1:{reserved.getsockname()[1]}")
        with client, pytest.raises(UnavailableError, match=r"not ready after 2 s: .*refused"):
            client.wait_ready(timeout=2)


def test_the_version_that_the_client_asks_for_counts(address, backend):
    with Client(address, emotion_version=2) as client:
        with pytest.raises(UnavailableError, match="model 'emotion' version 2: version 1 is AVAILABLE") as caught:
            client.wait_ready(timeout=2)
        assert (caught.value.model, caught.value.version) == ("emotion", 2)
        backend.load("emotion", 2)
        client.wait_ready(timeout=5)


def test_the_label_that_the_client_asks_for_counts(address, backend):
    with Client(address, keypoint_version="canary") as client:
        with pytest.raises(UnavailableError, match="model 'keypoints' label 'canary': version 1 is AVAILABLE"):
            client.wait_ready(timeout=2)
        backend.labels["keypoints", "canary"] = 1
        client.wait_ready(timeout=5)


def test_the_error_names_what_is_not_ready(client, backend):
    backend.versions = {}
    backend.states = {("emotion", 1): ("LOADING", ""), ("keypoints", 4): ("END", "file is broken")}
    with pytest.raises(UnavailableError) as caught:
        client.wait_ready(timeout=2)
    assert str(caught.value) == (
        f"{caught.value.endpoint} is not ready after 2 s: "
        "model 'emotion': version 1 is LOADING; model 'keypoints': version 4 is END (file is broken)"
    )


def test_a_permanent_error_is_raised_at_once(client, backend, failure):
    backend.failures["emotion"] = failure("PERMISSION_DENIED", "not you")
    with pytest.raises(AccessDeniedError, match="not you"):
        client.wait_ready(timeout=60)


def test_a_server_that_loads_models_but_cannot_compute_is_not_ready(client, backend, failure):
    backend.failures["keypoints"] = failure("UNAVAILABLE", "no more memory")
    with pytest.raises(UnavailableError, match=r"not ready after 2 s: .*no more memory"):
        client.wait_ready(timeout=2)


def test_a_server_that_is_full_is_ready(client, backend, failure):
    backend.failures["keypoints"] = failure("RESOURCE_EXHAUSTED", "queue full")
    client.wait_ready(timeout=5)


def test_models_of_another_kind_are_reported_at_once(client, backend):
    backend.distortions["keypoints"] = lambda values: values[:, :3]
    with pytest.raises(UnexpectedResponseError, match=r"shape \(1, 3, 2\), not \(1, 15, 2\)"):
        client.wait_ready(timeout=60)
