"""`to_dict`: results as plain JSON types."""

import json

import pytest
from mien_client import EMOTIONS, KEYPOINTS


def assert_plain(value):
    """Assert that a value consists of the plain types of JSON; NumPy's numbers are not among them."""
    if type(value) is dict:
        assert all(type(key) is str for key in value)
        value = list(value.values())
    if type(value) is list:
        for each in value:
            assert_plain(each)
    else:
        assert value is None or type(value) in (str, int, float, bool)


def test_a_face(client, backend):
    [face] = client.analyze(backend.faces(1))
    document = face.to_dict()
    assert_plain(document)
    assert document == {
        "emotion": face.emotion,
        "confidence": face.confidence,
        "probabilities": face.probabilities,
        "other": None,
        "keypoints": {name: list(face.keypoint(name)) for name in KEYPOINTS},
        "versions": {"emotion": 1, "keypoints": 1},
        "errors": {},
    }
    assert tuple(document["probabilities"]) == EMOTIONS
    assert json.loads(json.dumps(document)) == document


def test_an_analysis_is_its_faces(client, backend):
    analysis = client.analyze(backend.faces(3))
    document = analysis.to_dict()
    assert_plain(document)
    assert document == {
        "faces": [face.to_dict() for face in analysis],
        "versions": {"emotion": 1, "keypoints": 1},
        "errors": {},
    }
    assert analysis[1:].to_dict()["faces"] == document["faces"][1:]
    assert analysis[:0].to_dict()["faces"] == []
    assert json.loads(json.dumps(document)) == document


@pytest.mark.parametrize(
    ("model", "missing"),
    [("emotion", {"emotion", "confidence", "probabilities", "other"}), ("keypoints", {"keypoints"})],
)
def test_a_partial_analysis(client, backend, failure, model, missing):
    backend.others = {("emotion", 1)}
    backend.failures[model] = failure("UNAVAILABLE", "down")
    analysis = client.analyze(backend.faces(2), partial=True)
    document = analysis.to_dict()
    assert_plain(document)
    error = {"type": "UnavailableError", "message": str(analysis.errors[model]), "retryable": True}
    assert document["errors"] == {model: error}
    for face in document["faces"]:
        assert {name for name, value in face.items() if value is None} == missing
        assert face["errors"] == {model: error}
    assert [face.to_dict() for face in analysis] == document["faces"]
    assert analysis[1].to_dict() == document["faces"][1]


def test_faces_that_come_one_by_one(client, backend):
    images = backend.faces(3)
    documents = [face.to_dict() for face in client.analyze_iter(images, batch_size=2)]
    assert documents == client.analyze(images).to_dict()["faces"]
