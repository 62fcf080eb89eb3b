"""JSON classify and regress: `Example` messages from JSON, and results to JSON, as in ``json_tensor.cc``."""

from __future__ import annotations

from collections.abc import Mapping
from json.encoder import encode_basestring
from typing import Any

import numpy as np
from mien_client.protos import ClassificationResult, Example, Feature, Input, RegressionResult

from mien_serving.core.status import invalid_argument
from mien_serving.model_servers.rest.json_response import decimals
from mien_serving.model_servers.rest.json_value import decode_base64, is_base64, json_type, text

_INT64 = np.iinfo(np.int64)


def read_examples(document: Mapping[str, Any]) -> Input:
    """Return the examples of a classify or regress request, and their common context.

    Raises:
        StatusError: There are no examples, or one is not a valid example.
    """
    result = Input()
    target = result.example_list.examples
    if "context" in document:
        target = result.example_list_with_context.examples
        result.example_list_with_context.context.CopyFrom(_example(document["context"]))
    if "examples" not in document:
        raise invalid_argument(
            f"JSON Value: {text(document)} When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise invalid_argument(f"JSON Value: {text(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid_argument(f"JSON Value: {text(document)} 'examples' value is an empty array")
    target.extend(_example(example) for example in examples)
    return result


def classification_body(result: ClassificationResult) -> bytes:
    """Return the body that answers a classify request: for each example, a list of [label, score]."""
    rows = (
        "[{}]".format(
            ", ".join(f"[{encode_basestring(one.label)}, {_decimal(one.score)}]" for one in classification.classes)
        )
        for classification in result.classifications
    )
    return f'{{\n    "results": [{", ".join(rows)}\n    ]\n}}'.encode()


def regression_body(result: RegressionResult) -> bytes:
    """Return the body that answers a regress request: one number for each example."""
    return f'{{\n    "results": [{", ".join(_decimal(one.value) for one in result.regressions)}]\n}}'.encode()


def _decimal(value: float) -> str:
    return decimals(np.array([value], np.float32))[0]


def _example(value: Any) -> Example:
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {json_type(value)}")
    example = Example()
    for name, content in value.items():
        feature = Feature()
        for element in content if isinstance(content, list) else [content]:
            _add(element, name, feature)
        example.features.feature[name].CopyFrom(feature)
    return example


def _add(value: Any, name: str, feature: Feature) -> None:
    """Add one value to a feature; all values of a feature are of the same kind."""
    kind, element = _kind_and_element(value, name)
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        raise invalid_argument(
            f"Unexpected element type in feature: {name} expecting type: {present.removesuffix('_list')}"
        )
    getattr(feature, kind).value.append(element)


def _kind_and_element(value: Any, name: str) -> tuple[str, Any]:
    match value:
        case bool():
            return "int64_list", int(value)
        case dict() if is_base64(value):
            return "bytes_list", decode_base64(value)
        case str():
            return "bytes_list", value.encode()
        case int() if _INT64.min <= value <= _INT64.max:
            return "int64_list", value
        case int() if _INT64.max < value <= np.iinfo(np.uint64).max:
            raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
        case int() | float():
            return "float_list", _float32(value)
        case _:
            raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")


def _float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))
