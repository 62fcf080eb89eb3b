"""None of the five: an output that newer versions of the emotion model have, and older ones lack."""

import json

import numpy as np
import pytest
from mien_client import EMOTIONS, Client, Face, UnexpectedResponseError
from mien_client._analyze_command import _shown
from mien_client.transports import Answer, MockTransport


def test_every_face_has_the_output_if_the_version_has_it(client, backend):
    backend.others = {("emotion", 1)}
    images = backend.faces(5)
    analysis = client.analyze(images)
    expected = backend.other("emotion", 1, images)
    np.testing.assert_allclose(analysis.other, expected)
    assert [face.other for face in analysis] == pytest.approx(expected.tolist())
    assert analysis[2].other == pytest.approx(expected[2])
    np.testing.assert_allclose(analysis[1:3].other, expected[1:3])
    assert json.loads(json.dumps(analysis.to_dict()))["faces"][0]["other"] == pytest.approx(expected[0])
    assert not analysis.other.flags.writeable


def test_a_version_without_the_output_gives_none(client, backend):
    analysis = client.analyze(backend.faces(3))
    assert analysis.other is None
    assert [face.other for face in analysis] == [None] * 3
    assert analysis[0].to_dict()["other"] is None


def test_the_output_is_that_of_the_requested_version(client, backend):
    backend.versions["emotion"] = {1, 2}
    backend.others = {("emotion", 2)}
    assert client.analyze(backend.faces(2), emotion_version=1).other is None
    assert client.analyze(backend.faces(2), emotion_version=2).other.shape == (2,)


def test_the_answers_of_many_requests_become_one_array(client, backend):
    backend.others = {("emotion", 1)}
    images = backend.faces(600)
    np.testing.assert_allclose(client.analyze(images).other, backend.other("emotion", 1, images))


def test_no_images_give_an_empty_array(client):
    assert client.analyze(np.empty((0, 48, 48), np.uint8)).other.shape == (0,)


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.1])
def test_a_value_that_is_not_a_probability_is_refused(client, backend, monkeypatch, value):
    backend.others = {("emotion", 1)}
    monkeypatch.setattr(type(backend), "other", lambda *_: np.full(2, value, np.float32))
    with pytest.raises(UnexpectedResponseError, match="'other' that is not between 0 and 1"):
        client.analyze(backend.faces(2))


def test_a_wrong_number_of_values_is_refused(client, backend, monkeypatch):
    monkeypatch.setattr(type(backend), "other", lambda *_: np.full(3, 0.5, np.float32))
    with pytest.raises(UnexpectedResponseError, match=r"'other' of shape \(3,\), not \(2,\)"):
        client.analyze(backend.faces(2))


def test_a_partial_result_without_emotions_raises_their_error(client, backend, failure):
    backend.failures["emotion"] = failure("INTERNAL", "no")
    analysis = client.analyze(backend.faces(2), partial=True)
    with pytest.raises(Exception, match="no"):
        _ = analysis.other
    assert analysis[0].to_dict()["other"] is None


def test_a_table_shows_no_emotion_where_other_is_more_likely_than_not():
    def shown(emotion, other):
        probabilities = np.full(5, 0.05, np.float32)
        probabilities[EMOTIONS.index(emotion)] = 0.8
        return _shown(Face(probabilities, np.zeros((15, 2), np.float32), {}, other=other))

    assert shown("Angry", 0.83) == ("none of the five", "", "83.0%")
    assert shown("Happy", 0.02) == ("Happy", "80.0%", "2.0%")
    assert shown("Happy", None) == ("Happy", "80.0%", "")


def test_a_mock_transport_may_answer_with_the_output():
    def answer(request):
        if request.model == "emotion":
            return Answer(np.full((2, 5), 0.2), version=1, other=[0.25, 0.75])
        return Answer(np.zeros((2, 15, 2)), version=1)

    with Client(transport=MockTransport(answer)) as client:
        assert client.analyze(np.zeros((2, 48, 48), np.uint8)).other.tolist() == [0.25, 0.75]
