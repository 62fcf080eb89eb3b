"""JSON classify and regress: from JSON to examples, and the errors for values that an example cannot have."""

import json

import pytest
from mien_client.protos import ClassificationResult, RegressionResult
from mien_serving.core.status import Code, StatusError
from mien_serving.model_servers.rest.json_examples import classification_body, read_examples, regression_body


def features(example):
    return {
        name: (feature.WhichOneof("kind"), list(getattr(feature, feature.WhichOneof("kind")).value))
        for name, feature in example.features.feature.items()
        if feature.WhichOneof("kind")
    }


@pytest.mark.parametrize(
    ("value", "kind", "values"),
    [
        (3, "int64_list", [3]),
        ([1, True, False, -(2**63)], "int64_list", [1, 1, 0, -(2**63)]),
        ([8.0, 9.5, float("inf"), 1e50], "float_list", [8, 9.5, float("inf"), float("inf")]),
        (2**70, "float_list", [2.0**70]),
        (["foo", {"b64": "aGVsbG8="}, "é"], "bytes_list", [b"foo", b"hello", "é".encode()]),
    ],
)
def test_a_value_or_a_list_becomes_a_feature_of_its_kind(value, kind, values):
    (example,) = read_examples({"examples": [{"x": value}]}).example_list.examples
    assert features(example) == {"x": (kind, values)}


def test_an_empty_list_is_a_feature_without_values():
    (example,) = read_examples({"examples": [{"x": []}]}).example_list.examples
    assert features(example) == {}
    assert list(example.features.feature) == ["x"]


def test_the_context_is_not_part_of_the_examples():
    read = read_examples({"context": {"query": "pizza"}, "examples": [{"x": 1}, {}]}).example_list_with_context
    assert features(read.context) == {"query": ("bytes_list", [b"pizza"])}
    assert [features(example) for example in read.examples] == [{"x": ("int64_list", [1])}, {}]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"inputs": 1},
            "JSON Value: {\n    \"inputs\": 1\n} When method is classify, key 'examples' is expected and was not found",
        ),
        ({"examples": {}}, "JSON Value: {\n    \"examples\": {}\n} Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array"),
        ({"examples": [[1]]}, "Example must be JSON object but got JSON Array"),
        ({"examples": [None]}, "Example must be JSON object but got JSON Null"),
        ({"context": 1, "examples": [{}]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
        ({"examples": [{"x": [[1]]}]}, "Feature: x has element with unexpected JSON type: Array"),
        ({"examples": [{"x": {"y": 1}}]}, "Feature: x has element with unexpected JSON type: Object"),
        ({"examples": [{"x": [1, 2.0]}]}, "Unexpected element type in feature: x expecting type: int64"),
        ({"examples": [{"x": [2.0, 1]}]}, "Unexpected element type in feature: x expecting type: float"),
        ({"examples": [{"x": ["a", 1]}]}, "Unexpected element type in feature: x expecting type: bytes"),
        ({"examples": [{"x": 2**64 - 1}]}, "Feature: x has uint64 element. Only int64 is supported."),
        ({"examples": [{"x": {"b64": "***"}}]}, "Unable to base64 decode"),
    ],
)
def test_an_invalid_example_is_refused_in_tensorflow_servings_words(document, message):
    with pytest.raises(StatusError) as error:
        read_examples(document)
    assert (error.value.code, error.value.message) == (Code.INVALID_ARGUMENT, message)


def test_results_are_pairs_for_classes_and_numbers_for_regressions():
    classified = ClassificationResult()
    classes = classified.classifications.add().classes
    classes.add(label='a "b"', score=0.2)
    classes.add(score=float("nan"))
    assert json.loads(classification_body(classified)) == {
        "results": [[['a "b"', 0.2], ["", pytest.approx(float("nan"), nan_ok=True)]]]
    }
    regressed = RegressionResult(regressions=[{"value": 0.2}, {"value": float("-inf")}, {"value": 1}])
    assert json.loads(regression_body(regressed)) == {"results": [0.2, float("-inf"), 1.0]}
