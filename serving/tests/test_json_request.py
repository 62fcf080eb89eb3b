"""JSON predict requests: which values are accepted, and the errors for others.

The recorded cases cover the common errors word by word; here is what they leave out.
"""

import base64
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mien_client.protos import TensorInfo
from mien_serving.core.status import Code, StatusError
from mien_serving.model_servers.rest.json_request import predict_inputs
from mien_serving.model_servers.rest.json_value import parse_object, text


def infos(**types):
    return {name: TensorInfo(dtype=f"DT_{data_type}") for name, data_type in types.items()}


def rows(instances, data_type="FLOAT", **kwargs):
    inputs, row_format = predict_inputs({"instances": instances}, infos(x=data_type), **kwargs)
    assert row_format
    return inputs["x"]


def nested(elements):
    return st.recursive(elements, lambda inner: st.lists(inner, max_size=3), max_leaves=12)


JSON_VALUES = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.just(2**31),
    st.just(-1),
    st.just(True),
    st.none(),
    st.text(max_size=2),
)


@given(
    st.lists(nested(JSON_VALUES), min_size=1, max_size=3),
    st.sampled_from(["FLOAT", "DOUBLE", "UINT8", "INT32", "INT64", "UINT64"]),
)
def test_the_fast_reader_gives_the_same_result_as_the_careful_one(instances, data_type):
    """Requests with booleans excepted, which the fast reader is never given."""

    def read(may_hold_booleans):
        try:
            array = rows(instances, data_type, may_hold_booleans=may_hold_booleans)
        except StatusError as error:
            return str(error)
        return array.dtype, array.shape, array.tobytes()

    holds_booleans = any(word in json.dumps(instances) for word in ("true", "false"))
    assert read(holds_booleans) == read(True)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.booleans())
def test_integers_are_exact_to_64_bits(numbers, may_hold_booleans):
    document = parse_object(json.dumps({"instances": numbers}).encode())
    inputs, _ = predict_inputs(document, infos(x="INT64"), may_hold_booleans)
    assert inputs["x"].tolist() == numbers


@pytest.mark.parametrize(
    ("data_type", "largest"), [("UINT64", 2**64 - 1), ("UINT32", 2**32 - 1), ("INT32", 2**31 - 1), ("INT64", 2**63 - 1)]
)
@pytest.mark.parametrize("quick", [False, True])
def test_an_integer_beyond_its_type_is_refused(data_type, largest, quick):
    assert rows([largest], data_type, may_hold_booleans=not quick).tolist() == [largest]
    with pytest.raises(StatusError, match=f"JSON Value: {largest + 1} Type: Number is not of expected type"):
        rows([largest + 1], data_type, may_hold_booleans=not quick)


def test_small_integer_types_wrap_around_as_in_tensorflow_serving():
    assert rows([256, -1, 300], "UINT8").tolist() == [0, 255, 44]
    assert rows([128], "INT8", may_hold_booleans=False).tolist() == [-128]


def test_nan_and_infinity_are_accepted():
    document = parse_object(b'{"instances": [NaN, Infinity, -Infinity, 1e50]}')
    inputs, _ = predict_inputs(document, infos(x="FLOAT"))
    np.testing.assert_array_equal(inputs["x"], np.array([np.nan, np.inf, -np.inf, np.inf], np.float32))


@given(st.binary())
def test_bytes_come_in_base64(data):
    text = base64.b64encode(data).decode()
    for variant in (text, text.rstrip("="), text.replace("=", "."), f" {text[:3]}\n{text[3:]} "):
        assert rows([{"b64": variant}], "STRING").tolist() == [data]


def test_strings_are_sent_as_utf_8():
    assert rows(["abc", "hé"], "STRING").tolist() == [b"abc", "hé".encode()]


def test_column_format_takes_any_shape_and_several_inputs():
    document = {"inputs": {"a": [[1, 2], [3, 4]], "b": 5}}
    inputs, row_format = predict_inputs(document, infos(a="FLOAT", b="INT64"))
    assert not row_format
    assert (inputs["a"].shape, inputs["b"].shape) == ((2, 2), ())


def test_bytes_without_a_name_go_to_the_first_input_and_the_others_are_missing():
    inputs, _ = predict_inputs({"instances": [{"b64": "YQ=="}]}, infos(a="STRING", b="STRING"))
    assert {name: values.tolist() for name, values in inputs.items()} == {"a": [b"a"]}


def test_more_dimensions_than_numpy_supports_are_refused():
    deep: Any = 1
    for _ in range(70):
        deep = [deep]
    for document in ({"instances": deep}, {"inputs": deep}):
        with pytest.raises(StatusError, match="INVALID_ARGUMENT: tensor parsing error: x"):
            predict_inputs(document, infos(x="FLOAT"))


def test_a_byte_order_mark_is_skipped():
    assert parse_object(b'\xef\xbb\xbf{"inputs": 1}') == {"inputs": 1}


def test_column_format_takes_bytes_without_a_list():
    inputs, _ = predict_inputs({"inputs": {"b64": "YQ=="}}, infos(x="STRING"))
    assert inputs["x"].tolist() == b"a"


@pytest.mark.parametrize(
    ("document", "types", "message"),
    [
        (
            {"instances": [1, {"x": 1}]},
            {"x": "FLOAT"},
            "Expecting value/list but got object at item 1 of input list",
        ),
        (
            {"instances": [{"x": 1}, [1]]},
            {"x": "FLOAT"},
            "Expecting object but got list at item 1 of input list",
        ),
        (
            {"instances": [[[1], [2]], [[1, 2]]]},
            {"x": "FLOAT"},
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            "Expecting shape [2,1] but got: [1,2]",
        ),
        (
            {"inputs": [[1], 2]},
            {"x": "FLOAT"},
            "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        (
            {"inputs": [1, [2]]},
            {"x": "FLOAT"},
            "Encountered list at unexpected level: 1 expected < 1",
        ),
        (
            {"inputs": [1]},
            {"x": "FLOAT", "y": "FLOAT"},
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map",
        ),
        (
            {"inputs": [{"b64": "YQ=="}]},
            {"x": "FLOAT"},
            'JSON Value: {\n    "b64": "YQ=="\n} Type: Object is not of expected type: float',
        ),
        (
            {"inputs": [{"b64": 1}]},
            {"x": "STRING"},
            'JSON Value: {\n    "b64": 1\n} not formatted correctly for base64 data',
        ),
        (
            {"inputs": [1.23456789]},
            {"x": "INT32"},
            "JSON Value: 1.23456788 Type: Number is not of expected type: int32",
        ),
        (
            {"inputs": {"x": [{"y": [1e50, 1e-7, 0.00012, 1e20]}]}},
            {"x": "FLOAT"},
            'JSON Value: {\n    "y": [1e50, 1e-7, 0.00012, 100000000000000000000.0]\n} Type: Object is not of expected '
            "type: float",
        ),
    ],
)
def test_an_invalid_request_is_refused_in_tensorflow_servings_words(document, types, message):
    for may_hold_booleans in (True, False):
        with pytest.raises(StatusError) as error:
            predict_inputs(document, infos(**types), may_hold_booleans)
        assert (error.value.code, error.value.message) == (Code.INVALID_ARGUMENT, message)


def test_types_that_json_cannot_express_are_unimplemented():
    with pytest.raises(StatusError) as error:
        predict_inputs({"inputs": [1.5]}, infos(x="HALF"))
    assert (error.value.code, error.value.message) == (
        Code.UNIMPLEMENTED,
        "Conversion of JSON Value: 1.5 to type: half",
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"instances": "\xff"}', "JSON Parse error: Invalid encoding in string. at offset: 15"),
        (b'{"a": 1e999}', "JSON Parse error: Number too big to be stored in double. at offset: 6"),
        (b'{"a": 1%s}' % (b"0" * 400), "JSON Parse error: Number too big to be stored in double. at offset: 6"),
        (b'{"a": -%s}' % (b"9" * 5000), "JSON Parse error: Number too big to be stored in double. at offset: 6"),
        (b"{} {}", "JSON Parse error: The document root must not be followed by other values. at offset: 3"),
        (b"\xef\xbb\xbf{", "JSON Parse error: Missing a name for object member. at offset: 4"),
    ],
)
def test_a_body_that_is_not_json_is_refused(body, message):
    with pytest.raises(StatusError) as error:
        parse_object(body)
    assert error.value.message == message


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**300])
def test_an_integer_of_more_than_64_bits_is_a_floating_point_number(number):
    assert parse_object(b'{"a": %d}' % number) == {"a": pytest.approx(number)}
    [array] = predict_inputs(parse_object(b'{"inputs": [%d]}' % number), infos(x="DOUBLE"))[0].values()
    assert array.tolist() == pytest.approx([number])
    with pytest.raises(StatusError, match="is not of expected type: int64"):
        predict_inputs(parse_object(b'{"inputs": [%d]}' % number), infos(x="INT64"))


def in_objects(document: Any, levels):
    for _ in range(levels):
        document = {"a": document}
    return document


@pytest.mark.parametrize(
    "document",
    [
        "x" * 10**6,
        ["x"] * 10**6,
        {f"{number}": number for number in range(10**5)},
        {"x" * 10**6: 1},
        in_objects(dict.fromkeys(map(str, range(10**5)), 1), 200),
    ],
)
def test_an_error_shows_only_the_beginning_of_a_large_value(document):
    tracemalloc.start()
    try:
        assert len(text(document)) < 11_000
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
