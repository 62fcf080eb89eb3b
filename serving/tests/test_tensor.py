"""Tensors in messages: we read what TensorFlow writes, and TensorFlow reads what we write."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st
from mien_client.protos import DataType, TensorProto
from mien_serving.servables.tensor import (
    MAX_FILL,
    NUMPY_TYPES,
    TooLargeToFillError,
    array_from_proto,
    type_name,
    write_proto,
)

tf = pytest.importorskip("tensorflow")
tensor_pb2 = pytest.importorskip("tensorflow.core.framework.tensor_pb2")

SHAPES = np_st.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


def arrays(numpy_type):
    if numpy_type == np.object_:
        return np_st.arrays(object, SHAPES, elements=st.binary(max_size=200), fill=st.nothing())
    if numpy_type in (ml_dtypes.int4, ml_dtypes.uint4):
        return np_st.arrays(np.int8, SHAPES, elements=st.integers(0, 7)).map(lambda array: array.astype(numpy_type))
    if numpy_type.type.__module__ == "ml_dtypes":
        bits = np.dtype(f"u{numpy_type.itemsize}")
        return np_st.arrays(bits, SHAPES).map(lambda array: array.view(numpy_type))
    return np_st.arrays(numpy_type, SHAPES)


def same(left, right):
    if left.dtype == np.object_:
        return left.shape == right.shape and left.tolist() == right.tolist()
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@pytest.mark.parametrize("data_type", NUMPY_TYPES, ids=type_name)
@settings(max_examples=30)
@given(st.data())
def test_every_type_is_written_as_tensorflow_reads_it_and_read_as_tensorflow_writes_it(data_type, data):
    array = data.draw(arrays(NUMPY_TYPES[data_type]))
    written = TensorProto()
    write_proto(array, written)
    assert not written.tensor_content
    assert same(array_from_proto(written), array)
    official = tensor_pb2.TensorProto.FromString(written.SerializeToString())
    assert same(tf.make_ndarray(official) if array.size else array, array)
    by_tensorflow = tf.make_tensor_proto(array, dtype=data_type, shape=array.shape)
    assert same(array_from_proto(TensorProto.FromString(by_tensorflow.SerializeToString())), array)


@pytest.mark.parametrize("data_type", NUMPY_TYPES, ids=type_name)
@settings(max_examples=10)
@given(st.data())
def test_every_type_is_packed_into_bytes_as_tensorflow_unpacks_it(data_type, data):
    array = data.draw(arrays(NUMPY_TYPES[data_type]))
    written = TensorProto()
    write_proto(array, written, as_tensor_content=True)
    assert bool(written.tensor_content) == bool(array.size)
    assert same(array_from_proto(written), array)
    unpacked = tf.io.parse_tensor(written.SerializeToString(), tf.DType(data_type)).numpy()
    assert same(np.array(unpacked, array.dtype), array)


def tensor(shape, data_type="DT_FLOAT", **fields):
    proto = TensorProto(dtype=data_type, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    ("values", "read"), [([], [0, 0, 0]), ([7], [7, 7, 7]), ([1, 2], [1, 2, 2]), ([1, 2, 3, 4], [1, 2, 3])]
)
def test_missing_values_are_repetitions_of_the_last_one(values, read):
    assert array_from_proto(tensor([3], float_val=values)).tolist() == read


def test_missing_strings_are_empty():
    assert array_from_proto(tensor([2], "DT_STRING")).tolist() == [b"", b""]


@pytest.mark.parametrize(
    ("data_type", "fields", "read"),
    [
        ("DT_UINT8", {"int_val": [256, -1]}, [0, 255]),
        ("DT_HALF", {"half_val": [0x13C00, 0x4000]}, [1, 2]),
        ("DT_COMPLEX64", {"scomplex_val": [1, 2, 3]}, [1 + 2j, 1 + 2j]),
        ("DT_COMPLEX64", {"scomplex_val": [1]}, [0, 0]),
    ],
)
def test_values_are_cut_to_the_range_of_their_type_as_in_tensorflow(data_type, fields, read):
    proto = tensor([2], data_type, **fields)
    assert array_from_proto(proto).tolist() == read
    assert tf.io.parse_tensor(proto.SerializeToString(), tf.DType(proto.dtype)).numpy().tolist() == read


def test_a_tensor_without_elements_ignores_values_that_are_sent():
    assert array_from_proto(tensor([0, 2], tensor_content=b"ab")).shape == (0, 2)
    assert array_from_proto(tensor([3, 0], float_val=[1])).shape == (3, 0)


@pytest.mark.parametrize(
    "proto",
    [
        tensor([3], tensor_content=b"ab"),
        tensor([3], tensor_content=b"1234" * 4),
        tensor([-1]),
        tensor([2], "DT_INVALID"),
        tensor([2], "DT_RESOURCE"),
        tensor([2], "DT_QINT8", int_val=[1, 2]),
        tensor([1], "DT_STRING", tensor_content=b"\x03ab"),
        tensor([2], "DT_STRING", tensor_content=b"\x01a"),
        tensor([1], "DT_STRING", tensor_content=b"\x80" * 20),
        tensor([2**62, 2**62]),
        tensor([2**31], "DT_UINT8", int_val=[1]),
        tensor([1] * 65, float_val=[1]),
    ],
)
def test_an_invalid_tensor_is_refused(proto):
    with pytest.raises(ValueError):
        array_from_proto(proto)


def test_a_tensor_of_unknown_rank_is_refused():
    proto = tensor([])
    proto.tensor_shape.unknown_rank = True
    with pytest.raises(ValueError):
        array_from_proto(proto)


EVERY_TYPE = [DataType.Name(data_type) for data_type in NUMPY_TYPES]
ONE_VALUE = {
    "DT_HALF": {"half_val": [1]},
    "DT_BFLOAT16": {"half_val": [1]},
    "DT_COMPLEX64": {"scomplex_val": [1, 2]},
    "DT_STRING": {"string_val": [b"a"]},
    "DT_UINT8": {"int_val": [1]},
}


def allocated(function):
    """Return the peak memory of a function in bytes, including NumPy's."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data_type", EVERY_TYPE)
@pytest.mark.parametrize("fields", [{}, None])
@pytest.mark.parametrize("shape", [[900_000, 48, 48], [3_000_000], [1, 1, 5_000_000]])
def test_a_shape_far_beyond_the_values_sent_is_refused_before_memory_is_allocated(data_type, fields, shape):
    fields = ONE_VALUE.get(data_type, {}) if fields is None else fields
    proto = tensor(shape, data_type, **fields)

    def read():
        with pytest.raises(ValueError):
            array_from_proto(proto)

    assert allocated(read) < 1e6


@pytest.mark.parametrize("expected", [[-1, -1], [-1, 3], None])
@pytest.mark.parametrize("shape", [[10**9, 0], [0, 10**9]])
def test_a_large_shape_without_values_is_refused(shape, expected):
    with pytest.raises(TooLargeToFillError):
        array_from_proto(tensor(shape), expected)


def test_a_shape_without_values_may_be_as_large_as_the_signature_fixes_it():
    assert array_from_proto(tensor([0, 4000, 4000]), [-1, 4000, 4000]).shape == (0, 4000, 4000)


@pytest.mark.parametrize("length", [1, 1024, 100_000])
def test_a_string_that_stands_for_many_counts_each_time(length):
    many = MAX_FILL // max(length, 1024)
    proto = tensor([many + 1], "DT_STRING", string_val=[b"x" * length])
    assert array_from_proto(proto).size == many + 1
    with pytest.raises(TooLargeToFillError, match=rf"has {many + 2} values, but 1 were sent; .* fill up {many}$"):
        array_from_proto(tensor([many + 2], "DT_STRING", string_val=[b"x" * length]))


@pytest.mark.parametrize("data_type", EVERY_TYPE)
@pytest.mark.parametrize("content", [b"", b"a", b"\0" * 1000])
def test_too_few_bytes_are_refused_before_memory_is_allocated(data_type, content):
    proto = tensor([900_000, 48, 48], data_type, tensor_content=content)

    def read():
        with pytest.raises(ValueError):
            array_from_proto(proto)

    assert allocated(read) < 1e6


def test_a_shape_of_a_million_dimensions_is_refused_before_they_are_multiplied():
    with pytest.raises(ValueError, match="1000000 dimensions are more than 64"):
        array_from_proto(tensor([2**62] * 1_000_000))


@pytest.mark.parametrize(
    ("data_type", "fields"),
    [
        ("DT_UINT8", {"int_val": [1] * 1_000_000}),
        ("DT_HALF", {"half_val": [1] * 1_000_000}),
        ("DT_FLOAT", {"float_val": [1] * 1_000_000}),
        ("DT_COMPLEX64", {"scomplex_val": [1] * 2_000_000}),
    ],
)
def test_values_are_converted_without_an_object_for_each(data_type, fields):
    proto = tensor([1_000_000], data_type, **fields)
    values = array_from_proto(proto)
    assert values.tolist() == [values[0]] * 1_000_000
    assert allocated(lambda: array_from_proto(proto)) < 16e6
    assert allocated(lambda: array_from_proto(tensor([1], data_type, **fields))) < 1e6


def test_content_is_not_copied():
    pixels = array_from_proto(tensor([2, 2], "DT_UINT8", tensor_content=b"\x00\x01\x02\xff"))
    assert pixels.tolist() == [[0, 1], [2, 255]]
    assert not pixels.flags.owndata


@pytest.mark.parametrize(
    ("data_type", "name"), [("DT_FLOAT", "float"), ("DT_UINT8", "uint8"), ("DT_STRING", "string"), ("DT_HALF", "half")]
)
def test_types_have_the_names_of_tensorflow(data_type, name):
    assert type_name(DataType.Value(data_type)) == name
