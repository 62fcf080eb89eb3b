"""JSON responses: every number, string and shape arrives as it was."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st
from mien_serving.core.status import StatusError
from mien_serving.model_servers.rest.json_response import decimals, error_body, predict_body

NUMERIC = st.sampled_from(
    [np.float32, np.float64, np.int8, np.uint8, np.int32, np.int64, np.uint32, np.uint64, np.bool_]
)
ARRAYS = NUMERIC.flatmap(
    lambda numpy_type: np_st.arrays(numpy_type, np_st.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
)


def same(answered, array):
    return np.array_equal(np.array(answered, array.dtype), array, equal_nan=array.dtype.kind == "f")


@given(ARRAYS)
def test_tensors_arrive_as_they_were_in_both_formats(array):
    assert same(json.loads(predict_body({"y": array}, row_format=False))["outputs"], array)
    assert same(json.loads(predict_body({"y": array}, row_format=True))["predictions"], array)


@given(ARRAYS)
def test_several_outputs_are_named_in_both_formats(array):
    outputs = {"a": array, "b": np.arange(len(array))}
    columns = json.loads(predict_body(outputs, row_format=False))["outputs"]
    assert same(columns["a"], array)
    assert columns["b"] == list(range(len(array)))
    for number, row in enumerate(json.loads(predict_body(outputs, row_format=True))["predictions"]):
        assert same(row["a"], array[number])
        assert row["b"] == number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(0.2), "0.2"),
        (np.float32(0.268941432), "0.268941432"),
        (np.float64(1 / 3), "0.33333333333333331"),
        (np.float32(4), "4.0"),
        (np.float32(-0.0), "-0.0"),
        (np.float32(9_000_000), "9e+06"),
        (np.float32(1.5e-7), "1.5e-07"),
        (np.float32(16_777_216), "16777216.0"),
        (np.float64(np.nan), "NaN"),
        (np.float32(np.inf), "Infinity"),
        (np.float32(-np.inf), "-Infinity"),
    ],
)
def test_decimals_are_as_long_as_tensorflow_serving_writes_them(value, text):
    assert decimals(np.array([value])) == [text]


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3), (2, 0, 2), ()])
def test_columns_of_any_shape_keep_it(shape):
    array = np.zeros(shape, np.float32)
    assert json.loads(predict_body({"y": array}, row_format=False))["outputs"] == array.tolist()


@given(st.lists(st.binary(max_size=4), min_size=1))
def test_strings_of_outputs_whose_name_ends_in_bytes_are_base64(data):
    answer = json.loads(predict_body({"echo_bytes": np.array(data, object)}, row_format=True))
    assert all(set(element) == {"b64"} for element in answer["predictions"])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_other_strings_are_text(texts):
    array = np.array([text.encode() for text in texts], object)
    assert json.loads(predict_body({"label": array}, row_format=True)) == {"predictions": texts}


def test_strings_that_are_not_utf_8_pass_through_as_they_are():
    assert b'"\xff"' in predict_body({"label": np.array([b"\xff"], object)}, row_format=True)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "Cannot convert empty tensor map to JSON"),
        ({"y": np.float32(1)}, "Tensor name: y has no shape information "),
        ({"a": np.zeros(0), "sum": np.zeros(1)}, "Tensor name: sum has inconsistent batch size: 1 expecting: 0"),
        ({"a": np.zeros(2), "sum": np.zeros(1)}, "Tensor name: sum has inconsistent batch size: 1 expecting: 2"),
        ({"y": np.zeros(2, np.float16)}, "Failed to write JSON value for tensor type: half"),
    ],
)
def test_an_output_without_a_row_format_is_an_error(outputs, message):
    with pytest.raises(StatusError) as error:
        predict_body({name: np.asarray(value) for name, value in outputs.items()}, row_format=True)
    assert error.value.message == message


@pytest.mark.parametrize("outputs", [{"y": np.zeros([0, 2])}, {"a": np.zeros(0), "b": np.zeros([0, 3])}])
def test_no_rows_are_an_empty_list(outputs):
    assert json.loads(predict_body(outputs, row_format=True)) == {"predictions": []}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_errors_are_valid_json_for_any_text(message):
    assert json.loads(error_body(message)) == {"error": message}
