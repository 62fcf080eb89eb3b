"""`analyze(..., partial=True)` returns the answers of one model when the other has failed."""

import numpy as np
import pytest
from mien_client import EMOTIONS, MienError, ServerError, UnavailableError


def test_when_both_models_answer_the_result_is_that_of_a_whole_call(client, backend):
    images = backend.faces(3)
    partial, whole = client.analyze(images, partial=True), client.analyze(images)
    np.testing.assert_array_equal(partial.probabilities, whole.probabilities)
    assert partial.errors == whole.errors == {}


def test_without_the_emotions(client, backend, failure):
    backend.failures["emotion"] = failure("INTERNAL", "broken")
    images = backend.faces(300)
    analysis = client.analyze(images, partial=True)
    assert len(analysis) == len(list(analysis)) == 300
    np.testing.assert_allclose(analysis.keypoints, backend.values("keypoints", 1, images), atol=1e-5)
    np.testing.assert_array_equal(analysis[-1].keypoints, analysis.keypoints[-1])
    assert analysis.versions == {"keypoints": 1}
    assert type(analysis.errors["emotion"]) is ServerError
    for ask in (
        lambda: analysis.probabilities,
        lambda: analysis[0].emotion,
        lambda: analysis[0].confidence,
        lambda: next(iter(analysis)).probabilities,
        lambda: analysis[:2].probabilities,
    ):
        with pytest.raises(ServerError, match="broken"):
            ask()
    assert repr(analysis[0]) == "<Face ? (keypoints 1)>"


def test_without_the_key_points(client, backend, failure):
    backend.failures["keypoints"] = failure("UNAVAILABLE", "down")
    analysis = client.analyze(backend.faces(2), partial=True)
    assert [face.emotion in EMOTIONS for face in analysis] == [True, True]
    assert analysis.versions == {"emotion": 1}
    assert (analysis.errors["keypoints"].attempts, analysis.errors["keypoints"].retryable) == (5, True)
    for ask in (lambda: analysis.keypoints, lambda: analysis[0].keypoints, lambda: analysis[0].keypoint("nose_tip")):
        with pytest.raises(UnavailableError, match="down"):
            ask()


def test_the_other_model_answers_all_its_chunks(client, backend, failure):
    backend.failures["emotion"] = failure("INTERNAL", "broken")
    backend.hiccups["keypoints"] = [failure("UNAVAILABLE", "once")]
    images = backend.faces(256 * 5)
    analysis = client.analyze(images, partial=True)
    np.testing.assert_allclose(analysis.keypoints, backend.values("keypoints", 1, images), atol=1e-5)


def test_when_neither_answers_it_is_an_error(client, backend):
    backend.versions = {}
    with pytest.raises(MienError) as caught:
        client.analyze(backend.faces(1), partial=True)
    assert caught.value.model == "emotion"
    assert "model 'keypoints'" in caught.value.__notes__[0]


def test_a_frame_lacks_what_was_not_answered(client, backend, failure):
    pytest.importorskip("pandas")
    backend.failures["keypoints"] = failure("INTERNAL", "broken")
    columns = client.analyze(backend.faces(2), partial=True).to_frame().columns
    assert {"emotion", "emotion_version"} <= set(columns)
    assert not {"nose_tip_x", "keypoints_version"} & set(columns)
