"""With `canary`, a share of the calls asks for the label of that name; the same key always gets the same version."""

import random
import threading

import pytest
from mien_client import Client, ConfigurationError

STABLE, CANARY = {"emotion": 1, "keypoints": 1}, {"emotion": 2, "keypoints": 2}


@pytest.fixture
def rollout(backend):
    """Version 2 of both models is a canary beside version 1."""
    backend.versions = {"emotion": {1, 2}, "keypoints": {1, 2}}
    backend.labels = {(model, label): v for model in backend.versions for label, v in [("stable", 1), ("canary", 2)]}
    return backend


def open_client(address, **options):
    return Client(address, emotion_version="stable", keypoint_version="stable", **options)


def test_about_the_given_share_of_calls_asks_the_canary(address, rollout):
    random.seed(1)
    with open_client(address, canary=0.3) as client:
        versions = [client.analyze(rollout.faces(1)).versions for _ in range(100)]
    assert 15 < versions.count(CANARY) < 45
    assert versions.count(STABLE) + versions.count(CANARY) == 100


@pytest.mark.parametrize(("share", "versions"), [(0, STABLE), (1, CANARY)])
def test_a_share_of_0_or_1_is_no_call_or_every_call(address, rollout, share, versions):
    with open_client(address, canary=share) as client:
        for key in (None, "a", 7):
            assert client.analyze(rollout.faces(1), key=key).versions == versions
            assert [face.versions for face in client.analyze_iter(rollout.faces(2), key=key)] == [versions] * 2


def test_calls_with_the_same_key_ask_the_same_version(address, rollout):
    sides: dict[int, list[dict[str, int]]] = {}
    for _ in range(3):
        with open_client(address, canary=0.5) as client:
            for key in range(10):
                sides.setdefault(key, []).append(client.analyze(rollout.faces(1), key=key).versions)
    assert all(versions in ([STABLE] * 3, [CANARY] * 3) for versions in sides.values())
    assert len({versions[0]["emotion"] for versions in sides.values()}) == 2


def test_a_version_named_by_the_call_takes_precedence(address, rollout):
    with open_client(address, canary=1) as client:
        assert client.analyze(rollout.faces(1), emotion_version=1).versions == {"emotion": 1, "keypoints": 2}


def test_a_model_without_a_canary_is_asked_as_usual(address, rollout):
    del rollout.labels["keypoints", "canary"]
    with open_client(address, canary=1) as client:
        assert client.analyze(rollout.faces(700)).versions == {"emotion": 2, "keypoints": 1}


def test_a_canary_that_is_withdrawn_in_mid_call_fails_no_call(address, rollout):
    def withdraw(model, version):
        if model == "emotion" and sum(name == "emotion" for name, *_ in rollout.answered) >= 2:
            rollout.labels.pop(("emotion", "canary"), None)
            rollout.unload("emotion", 2)

    rollout.before_answer = withdraw
    with open_client(address, canary=1) as client:
        assert client.analyze(rollout.faces(256 * 6)).versions == {"emotion": 1, "keypoints": 2}


@pytest.mark.parametrize("wrong", [-0.1, 1.1, "0.1", None, float("nan")])
def test_an_invalid_share_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="Expected a number from 0 to 1, or 'auto', for canary, got"):
        Client("localhost:8500", canary=wrong)


def test_an_invalid_key_is_refused(client, backend):
    with pytest.raises(ConfigurationError, match="key"):
        client.analyze(backend.faces(1), key=1.5)


def test_a_silent_server_does_not_delay_the_answer_that_there_is_no_canary(replicas):
    """The servers that answer lack the label, so their stable versions answer; nobody waits for the silent one."""
    replicas.adopt()
    thawed, silent = threading.Event(), replicas.backends[0]
    find = silent.find

    def find_late(*target):
        thawed.wait()
        return find(*target)

    silent.find = find_late
    try:
        with open_client(replicas.addresses, canary=1, timeout=20) as client:
            for _ in range(3):
                assert client.analyze(silent.faces(1)).versions == STABLE
    finally:
        thawed.set()
