"""Without a version in the call, the version labelled ``stable`` answers; without that label, the newest one."""

import json
import time
from typing import Any

import pytest
from mien_client import Client, VersionNotFoundError
from mien_client._calls import halves
from mien_client.cli import main

ONE, TWO = {"emotion": 1, "keypoints": 1}, {"emotion": 2, "keypoints": 2}


@pytest.fixture
def rollout(backend):
    """Version 2 of both models is loaded beside the stable version 1, as a canary is."""
    backend.adopt()
    backend.versions = {"emotion": {1, 2}, "keypoints": {1, 2}}
    return backend


@pytest.fixture
def unlabelled(backend):
    """Two versions of both models, and no labels."""
    backend.versions = {"emotion": {1, 2}, "keypoints": {1, 2}}
    return backend


def times_asked(backend, label, monkeypatch):
    """Count how often the stand-in is asked for a label from now on."""
    seen, find = [], backend.find

    def note(model, version, asked):
        seen.extend([model] if asked == label else [])
        return find(model, version, asked)

    monkeypatch.setattr(backend, "find", note)
    return seen


def test_a_caller_who_names_no_version_stays_with_stable(client, rollout):
    client.wait_ready(5)
    assert client.analyze(rollout.faces(300)).versions == ONE
    assert [face.versions for face in client.analyze_iter(rollout.faces(3), batch_size=2)] == [ONE] * 3


def test_a_hedged_call_stays_with_stable(address, rollout):
    with Client(address, hedge=0.5) as client:
        assert all(client.analyze(rollout.faces(1)).versions == ONE for _ in range(20))


def test_calls_beside_the_canary_stay_with_stable(address, rollout):
    rollout.labels |= {("emotion", "canary"): 2, ("keypoints", "canary"): 2}
    with Client(address, canary=0.5) as client:
        versions = [client.analyze(rollout.faces(1), key=key).versions for key in range(20)]
    assert ONE in versions
    assert TWO in versions
    del rollout.labels["emotion", "canary"], rollout.labels["keypoints", "canary"]
    with Client(address, canary=1) as client:
        assert client.analyze(rollout.faces(1)).versions == ONE


def test_mien_analyze_stays_with_stable(address, rollout, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(rollout.faces(1)[0]).save(tmp_path / "face.png")
    assert main(["analyze", str(tmp_path / "face.png"), "--server", address, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["versions"] == ONE


def test_latest_is_the_newest_version_whatever_is_stable(client, address, rollout):
    latest: dict[str, Any] = {"emotion_version": "latest", "keypoint_version": "latest"}
    assert client.analyze(rollout.faces(1), **latest).versions == TWO
    with Client(address, **latest) as another:
        another.wait_ready(5)
        assert another.analyze(rollout.faces(1)).versions == TWO


@pytest.mark.parametrize("asked", [None, "stable"])
def test_a_model_without_labels_answers_with_its_newest_version(client, unlabelled, asked):
    client.wait_ready(5)
    options = {"emotion_version": asked, "keypoint_version": asked}
    assert client.analyze(unlabelled.faces(300), **options).versions == TWO


def test_a_client_made_for_stable_is_ready_on_a_server_without_labels(address, unlabelled):
    with Client(address, emotion_version="stable", keypoint_version="stable", canary=0.1) as client:
        client.wait_ready(5)
        assert client.analyze(unlabelled.faces(1)).versions == TWO


def test_a_model_without_labels_is_not_asked_for_them_by_every_call(client, unlabelled, monkeypatch):
    monkeypatch.setattr(halves, "_MISSING_SECONDS", 3600)
    asked = times_asked(unlabelled, "stable", monkeypatch)
    for _ in range(5):
        client.analyze(unlabelled.faces(1))
    assert sorted(asked) == ["emotion", "keypoints"]


def test_a_model_without_a_canary_is_not_asked_for_it_by_every_call(address, rollout, monkeypatch):
    monkeypatch.setattr(halves, "_MISSING_SECONDS", 3600)
    asked = times_asked(rollout, "canary", monkeypatch)
    with Client(address, canary=1) as client:
        for _ in range(5):
            assert client.analyze(rollout.faces(1)).versions == ONE
    assert sorted(asked) == ["emotion", "keypoints"]


def test_a_label_that_appears_is_noticed(client, unlabelled):
    assert client.analyze(unlabelled.faces(1)).versions == TWO
    unlabelled.labels = {("emotion", "stable"): 1, ("keypoints", "stable"): 1}
    give_up = time.monotonic() + 30
    while client.analyze(unlabelled.faces(1)).versions != ONE:
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_any_other_label_that_is_missing_is_an_error(client, unlabelled):
    with pytest.raises(VersionNotFoundError, match="label 'canary'"):
        client.analyze(unlabelled.faces(1), emotion_version="canary")


@pytest.mark.usefixtures("patient")
def test_a_server_that_lacks_the_label_leaves_the_request_to_one_that_has_it(replicas):
    replicas.backends[2].adopt()
    for backend in replicas.backends:
        backend.versions = {"emotion": {1, 2}, "keypoints": {1, 2}}
    with Client(replicas.addresses, max_attempts=1) as client:
        for _ in range(6):
            assert client.analyze(backend.faces(1)).versions == ONE
