"""While versions change, no call fails or mixes versions, and each result names the version that answered."""

import threading
import time

import numpy as np
import pytest
from mien_client import Client, VersionNotFoundError

CHUNKS = 6
FACES = 256 * CHUNKS


def swap(backend, model, old, new):
    backend.load(model, new)
    backend.unload(model, old)


def assert_all_from(analysis, backend, images, emotion, keypoints):
    assert analysis.versions == {"emotion": emotion, "keypoints": keypoints}
    np.testing.assert_allclose(analysis.probabilities, backend.values("emotion", emotion, images), atol=1e-6)
    np.testing.assert_allclose(analysis.keypoints, backend.values("keypoints", keypoints, images), atol=1e-5)


def test_a_new_version_shows_in_the_next_call(client, backend):
    images = backend.faces(2)
    assert_all_from(client.analyze(images), backend, images, 1, 1)
    swap(backend, "emotion", 1, 2)
    assert_all_from(client.analyze(images), backend, images, 2, 1)


def test_a_call_of_many_requests_starts_again_when_its_version_is_unloaded(client, backend):
    images = backend.faces(FACES)

    def swap_from_third_answer_on(model, version):
        if model == "emotion" and version == 1 and sum(name == "emotion" for name, *_ in backend.answered) >= 2:
            swap(backend, "emotion", 1, 2)

    backend.before_answer = swap_from_third_answer_on
    assert_all_from(client.analyze(images), backend, images, 2, 1)
    assert ("emotion", 1, 256) in backend.answered


def test_a_call_of_many_requests_stays_with_its_version_while_that_is_loaded(client, backend):
    backend.labels = {("emotion", "stable"): 1}
    backend.versions["emotion"] = {1, 2}
    images = backend.faces(FACES)

    def move_label_once_emotion_was_found_by_it(model, version):
        if model == "emotion":
            backend.labels = {("emotion", "stable"): 2}

    backend.before_answer = move_label_once_emotion_was_found_by_it
    assert_all_from(client.analyze(images, emotion_version="stable"), backend, images, 1, 1)


def test_swaps_under_load_fail_no_call(client, backend):
    """Versions follow each other quickly, each loaded before the one before it is unloaded, as the server does it."""
    images = backend.faces(3)
    stop = threading.Event()

    def keep_swapping():
        version = 1
        while not stop.wait(0.1):
            swap(backend, "emotion", version, version + 1)
            version += 1

    thread = threading.Thread(target=keep_swapping)
    thread.start()
    try:
        seen: set[tuple[int, int]] = set()
        while len(seen) < 10:
            analysis = client.analyze(images)
            seen.add(analysis.versions["emotion"])
            assert_all_from(analysis, backend, images, analysis.versions["emotion"], 1)
    finally:
        stop.set()
        thread.join()


def test_a_version_requested_by_number_is_not_replaced_by_another(client, backend):
    def unload(model, version):
        if model == "emotion" and version == 1:
            swap(backend, "emotion", 1, 2)

    backend.before_answer = unload
    with pytest.raises(VersionNotFoundError) as caught:
        client.analyze(backend.faces(FACES), emotion_version=1)
    assert caught.value.version == 1


def test_replicas_that_never_agree_end_in_an_error(client, backend):
    """The version that answers the first request is never available for the next one, as behind a bad load balancer."""

    def vanish(model, version):
        if model == "emotion":
            swap(backend, "emotion", version, version + 1)

    backend.before_answer = vanish
    with pytest.raises(VersionNotFoundError, match="does not serve model 'emotion' version"):
        client.analyze(backend.faces(FACES))


def test_over_rest_calls_share_requests_for_the_version(rest_address, backend):
    images = backend.faces(1)
    with Client(rest_address) as client:
        for _ in range(20):
            client.analyze(images)
    assert backend.metadata_requests < 20  # of the 40 it would take to ask each time


def test_rest_follows_a_label_within_about_a_second(rest_address, backend):
    backend.versions["emotion"] = {1, 2}
    backend.labels = {("emotion", "stable"): 1}
    images = backend.faces(1)
    with Client(rest_address, emotion_version="stable") as client:
        assert client.analyze(images).versions["emotion"] == 1
        backend.labels = {("emotion", "stable"): 2}
        time.sleep(1.05)
        assert client.analyze(images).versions["emotion"] == 2
