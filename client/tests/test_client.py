"""What `Client.analyze` asks for and gives back, the same over gRPC and REST."""

import threading
from typing import Any

import numpy as np
import pytest
from mien_client import EMOTIONS, KEYPOINTS, Client, ConfigurationError


def test_one_image_gives_a_sequence_of_one_face(client, backend):
    image = backend.faces(1)[0]
    analysis = client.analyze(image)
    assert len(analysis) == 1
    np.testing.assert_allclose(analysis[0].keypoints, backend.values("keypoints", 1, image[None])[0], atol=1e-5)
    np.testing.assert_allclose(
        list(analysis[0].probabilities.values()), backend.values("emotion", 1, image[None])[0], atol=1e-6
    )


@pytest.mark.parametrize("channel", [(), (1,)])
def test_many_images_are_answered_in_their_order(client, backend, channel):
    images = backend.faces(7)
    analysis = client.analyze(images.reshape(*images.shape, *channel))
    assert analysis.probabilities.shape == (7, 5)
    assert analysis.probabilities.dtype == np.float32
    assert analysis.keypoints.shape == (7, 15, 2)
    assert analysis.keypoints.dtype == np.float32
    np.testing.assert_allclose(analysis.probabilities, backend.values("emotion", 1, images), atol=1e-6)
    np.testing.assert_allclose(analysis.keypoints, backend.values("keypoints", 1, images), atol=1e-5)


def test_both_transports_give_the_same_numbers(backend, grpc_address, rest_address):
    images = backend.faces(20)
    with Client(grpc_address) as grpc_client, Client(rest_address) as rest_client:
        over_grpc, over_rest = grpc_client.analyze(images), rest_client.analyze(images)
    assert np.abs(over_grpc.probabilities - over_rest.probabilities).max() <= 1e-4
    assert np.abs(over_grpc.keypoints - over_rest.keypoints).max() <= 1e-4
    assert over_grpc.versions == over_rest.versions


def test_no_images_give_an_empty_result_without_a_request(client, backend):
    analysis = client.analyze(np.empty((0, 48, 48), np.uint8))
    assert len(analysis) == 0
    assert list(analysis) == []
    assert analysis.probabilities.shape == (0, 5)
    assert analysis.keypoints.shape == (0, 15, 2)
    assert analysis.versions == {}
    assert backend.asked == []


def test_images_need_not_be_contiguous(client, backend):
    images = backend.faces(6)
    backwards = images[::-2, :, ::-1]
    np.testing.assert_allclose(
        client.analyze(backwards).keypoints, backend.values("keypoints", 1, backwards), atol=1e-5
    )


def test_both_models_are_asked_at_the_same_time(client, backend):
    meeting = threading.Barrier(2, timeout=5)  # Opens only when both requests are being worked on.
    backend.before_answer = lambda model, version: meeting.wait()
    assert len(client.analyze(backend.faces(3))) == 3


def test_ten_thousand_faces_in_one_call(client, backend):
    images = backend.faces(10_000)
    analysis = client.analyze(images, timeout=60)
    np.testing.assert_allclose(analysis.probabilities, backend.values("emotion", 1, images), atol=1e-6)
    np.testing.assert_allclose(analysis.keypoints, backend.values("keypoints", 1, images), atol=1e-5)
    assert {count for _, _, count in backend.asked} == {256, 10_000 % 256}


def test_at_most_two_requests_per_model_are_in_flight(client, backend):
    lock, running, most = threading.Lock(), [], []

    def note(model, version):
        with lock:
            running.append(model)
            most.append(running.count(model))
        threading.Event().wait(0.1)
        with lock:
            running.remove(model)

    backend.before_answer = note
    client.analyze(backend.faces(256 * 6))
    assert max(most) == 2


def test_answers_may_be_packed_as_bytes(grpc_address, backend):
    backend.packed = True
    images = backend.faces(5)
    with Client(grpc_address) as client:
        np.testing.assert_array_equal(client.analyze(images).keypoints, backend.values("keypoints", 1, images))


def test_models_can_have_other_names(address, backend):
    backend.versions = {"emotion-b": {4}, "points": {2}}
    with Client(address, emotion_model="emotion-b", keypoint_model="points") as client:
        assert client.analyze(backend.faces(1)).versions == {"emotion-b": 4, "points": 2}


def test_a_version_or_a_label_is_chosen_per_client(address, backend):
    backend.versions = {"emotion": {1, 2, 3}, "keypoints": {1, 2, 3}}
    backend.labels = {("keypoints", "stable"): 2}
    with Client(address, emotion_version=1, keypoint_version="stable") as client:
        assert client.analyze(backend.faces(1)).versions == {"emotion": 1, "keypoints": 2}


def test_a_version_or_a_label_is_chosen_per_call(client, backend):
    backend.versions = {"emotion": {1, 2, 3}, "keypoints": {1, 2, 3}}
    backend.labels = {("emotion", "canary"): 2}
    images = backend.faces(2)
    analysis = client.analyze(images, emotion_version="canary", keypoint_version=np.int64(1))
    assert analysis.versions == {"emotion": 2, "keypoints": 1}
    np.testing.assert_allclose(analysis.keypoints, backend.values("keypoints", 1, images), atol=1e-5)
    assert client.analyze(images).versions == {"emotion": 3, "keypoints": 3}


def test_a_client_is_shared_by_threads(client, backend):
    images = backend.faces(24)
    results = {}

    def ask(index):
        results[index] = [client.analyze(images[index]).keypoints[0] for _ in range(5)]

    threads = [threading.Thread(target=ask, args=[index]) for index in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = backend.values("keypoints", 1, images)
    for index in range(len(images)):
        np.testing.assert_allclose(results[index], [expected[index]] * 5, atol=1e-5)


def test_a_call_of_a_closed_client_is_an_error_that_says_so(address, backend):
    client = Client(address)
    with client:
        client.analyze(backend.faces(1))
    client.close()
    assert "closed" in repr(client)
    with pytest.raises(RuntimeError, match="closed"):
        client.analyze(backend.faces(1))


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        " localhost:8500",
        "localhost",
        "http://",
        "http://localhost:port",
        "http://user:secret@host:8501",
        8500,
        None,
    ],
)
def test_an_invalid_address_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=r"address|port"):
        Client(wrong)


def test_one_name_for_both_models_is_refused():
    with pytest.raises(ConfigurationError, match="Expected two different models, got 'faces' for both"):
        Client("localhost:8500", emotion_model="faces", keypoint_model="faces")


def test_numpy_numbers_are_accepted_as_options(address, backend):
    options: dict[str, Any] = {"timeout": np.float32(9), "max_attempts": np.int64(2), "canary": np.float32(0)}
    sizes: dict[str, Any] = {"batch_size": np.int64(2), "max_in_flight": np.uint8(1)}
    with Client(address, hedge=np.float64(0.9), **options) as client:
        assert len(list(client.analyze_iter(backend.faces(3), **sizes))) == 3


def test_a_timeout_larger_than_any_clock_is_accepted(client, backend):
    assert len(client.analyze(backend.faces(1), timeout=1e300)) == 1
    client.wait_ready(timeout=1e300)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "10"])
def test_an_invalid_timeout_is_refused(client, backend, wrong):
    with pytest.raises(ConfigurationError, match="timeout"):
        Client("localhost:8500", timeout=wrong)
    with pytest.raises(ConfigurationError, match="timeout"):
        client.analyze(backend.faces(1), timeout=wrong)


@pytest.mark.parametrize("wrong", [-1, 2**63, 1.0, "", object()])
def test_an_invalid_version_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="version"):
        Client("localhost:8500", emotion_version=wrong)


def test_a_face_has_its_emotion_confidence_probabilities_points_and_versions(client, backend):
    backend.versions["emotion"] = {3}
    image = backend.faces(1)
    image[0, 0, :5] = [0, 0, 0, 255, 0]
    [face] = client.analyze(image)
    assert face.emotion == "Happy"
    assert face.confidence == pytest.approx(258 / 270)
    assert list(face.probabilities) == list(EMOTIONS)
    assert face.probabilities["Happy"] == face.confidence
    assert face.keypoint("nose_tip") == tuple(face.keypoints[KEYPOINTS.index("nose_tip")])
    assert face.versions == {"emotion": 3, "keypoints": 1}
    assert repr(face) == "<Face Happy 95.6% (emotion 3, keypoints 1)>"
    with pytest.raises(ValueError, match=r"nose_tip.*got 'nose'"):
        face.keypoint("nose")


def test_an_analysis_is_a_sequence(client, backend):
    analysis = client.analyze(backend.faces(5))
    assert [face.confidence for face in analysis] == [analysis[index].confidence for index in range(5)]
    assert analysis[-1].confidence == analysis[4].confidence
    assert [face.confidence for face in analysis[1:3]] == [analysis[1].confidence, analysis[2].confidence]
    assert repr(analysis) == "<Analysis of 5 faces (emotion 1, keypoints 1)>"
    assert repr(analysis[:1]) == "<Analysis of 1 face (emotion 1, keypoints 1)>"
    assert analysis[np.int64(2)].confidence == analysis[2].confidence
    with pytest.raises(IndexError):
        analysis[5]
    for wrong in ([0, 2], np.array([0, 2]), np.ones(5, bool), "0", 1.0):  # In NumPy the first three choose faces.
        with pytest.raises(TypeError):
            analysis[wrong]


def test_results_cannot_be_changed_by_accident(client, backend):
    analysis = client.analyze(backend.faces(2))
    with pytest.raises(ValueError, match="read-only"):
        analysis[0].keypoints += 10
