"""Tensors on the wire (`TensorProto`) and in memory (numpy arrays)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Final

import ml_dtypes
import numpy as np
from mien_client.protos import DataType, TensorProto

NUMPY_TYPES: Final[dict[int, Any]] = {
    DataType.Value(name): np.dtype(numpy_type)
    for name, numpy_type in {
        "DT_FLOAT": np.float32,
        "DT_DOUBLE": np.float64,
        "DT_HALF": np.float16,
        "DT_BFLOAT16": ml_dtypes.bfloat16,
        "DT_INT8": np.int8,
        "DT_INT16": np.int16,
        "DT_INT32": np.int32,
        "DT_INT64": np.int64,
        "DT_UINT8": np.uint8,
        "DT_UINT16": np.uint16,
        "DT_UINT32": np.uint32,
        "DT_UINT64": np.uint64,
        "DT_BOOL": np.bool_,
        "DT_COMPLEX64": np.complex64,
        "DT_COMPLEX128": np.complex128,
        "DT_FLOAT8_E5M2": ml_dtypes.float8_e5m2,
        "DT_FLOAT8_E4M3FN": ml_dtypes.float8_e4m3fn,
        "DT_INT4": ml_dtypes.int4,
        "DT_UINT4": ml_dtypes.uint4,
        "DT_STRING": np.object_,
    }.items()
}
"""The numpy type of each `DataType` that can be served; strings are arrays of `bytes` objects."""

MAX_DIMENSIONS: Final = 64
"""The highest number of dimensions of a numpy array."""

DATA_TYPES: Final = {numpy_type: data_type for data_type, numpy_type in NUMPY_TYPES.items()}
"""The `DataType` of each numpy type that can be served."""

# The repeated field that holds a type's values, and the numpy type of the numbers in it.
_FIELDS: Final[dict[int, tuple[str, Any]]] = {
    DataType.Value(f"DT_{name}"): (field, numpy_type)
    for names, field, numpy_type in [
        ("FLOAT", "float_val", np.float32),
        ("DOUBLE", "double_val", np.float64),
        ("HALF BFLOAT16", "half_val", np.uint16),
        ("FLOAT8_E5M2 FLOAT8_E4M3FN", "float8_val", np.uint8),
        ("INT4 UINT4 INT8 INT16 INT32 UINT8 UINT16", "int_val", np.int32),
        ("INT64", "int64_val", np.int64),
        ("UINT32", "uint32_val", np.uint32),
        ("UINT64", "uint64_val", np.uint64),
        ("BOOL", "bool_val", np.bool_),
        ("COMPLEX64", "scomplex_val", np.float32),
        ("COMPLEX128", "dcomplex_val", np.float64),
        ("STRING", "string_val", np.object_),
    ]
    for name in names.split()
}
# The wire holds parts of these types: the bits of a small float, the real and the imaginary number.
_IN_PARTS: Final = {"half_val", "float8_val", "scomplex_val", "dcomplex_val"}

_MAX_BYTES: Final = 2**31 - 1
"""The largest tensor in bytes: a message cannot hold more."""

MAX_FILL: Final = 2 << 20
"""By how many bytes a tensor may be larger than the values sent for it, since the last value stands for the rest."""

_MIN_STRING: Final = 1024
"""Bytes that a string counts for at least when it stands for others: what it unpacks to may be larger than itself."""

_SLICE: Final = 1 << 16
"""Values converted at once. Other threads run between two slices, and only one slice is there as Python objects."""

_MAX_SHIFT: Final = 28  # Lengths have 32 bits.


class TooLargeToFillError(ValueError):
    """A shape asks for far more values than were sent."""


def type_name(data_type: int) -> str:
    """Return the name that TensorFlow prints for a `DataType`, such as ``float`` or ``uint8``."""
    return str(DataType.Name(data_type)).removeprefix("DT_").lower()


def array_from_proto(proto: TensorProto, expected: Sequence[int] | None = None) -> np.ndarray:
    """Return a tensor from the wire as an array, as TensorFlow's ``Tensor::FromProto`` does.

    Typed fields may hold fewer values than the shape asks for: the last one then fills the rest, and zero if there is
    none; it may fill up `MAX_FILL` bytes. The array of a tensor with ``tensor_content`` shares its memory with the
    message and is read-only.

    Args:
        proto: The message.
        expected: The shape that the values must have if they are not all sent; -1 stands for any size, None for any
            shape.

    Raises:
        TooLargeToFillError: The shape asks for far more values than were sent, or for values that were not sent and
            do not fit the expected shape.
        ValueError: The message is not a tensor that can be served.
    """
    dims = proto.tensor_shape.dim
    # Counted before anything is computed from them: a message has room for millions of dimensions.
    if len(dims) > MAX_DIMENSIONS:
        raise ValueError(f"{len(dims)} dimensions are more than {MAX_DIMENSIONS}")
    shape = tuple([dim.size for dim in dims])
    if proto.dtype not in NUMPY_TYPES or proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise ValueError("neither type nor shape may be unknown")
    size, numpy_type = math.prod(shape), NUMPY_TYPES[proto.dtype]
    if size * numpy_type.itemsize > _MAX_BYTES:
        raise ValueError("too large")
    if not size:
        check_empty(shape, numpy_type.itemsize, expected)
        return np.empty(shape, numpy_type)
    if proto.tensor_content:
        return _values_from_content(proto.tensor_content, size, numpy_type).reshape(shape)
    values = _values_from_field(proto, size)
    if values.size < size:
        last: Any = values[-1] if values.size else (b"" if numpy_type == np.object_ else numpy_type.type(0))
        value_bytes = max(len(last), _MIN_STRING) if numpy_type == np.object_ else numpy_type.itemsize
        _check_shape(shape, expected)
        _check_fill(shape, values.size, value_bytes)
        values = np.concatenate([values, np.full(size - values.size, last, numpy_type)])
    return values.reshape(shape)


def check_empty(shape: Sequence[int], value_bytes: int, expected: Sequence[int] | None = None) -> None:
    """Refuse a tensor without values whose shape is large, since the outputs may be as large as its other dimensions.

    Args:
        shape: Its shape.
        value_bytes: The size of a value.
        expected: The signature's shape, which a large one must fit; the sizes that it fixes do not count.

    Raises:
        TooLargeToFillError: The shape is too large.
    """
    if math.prod(size for size in shape if size) * value_bytes <= MAX_FILL:
        return
    _check_shape(shape, expected)
    free = [size for size, fixed in zip(shape, expected or [-1] * len(shape), strict=True) if size and fixed < 0]
    if math.prod(free) * value_bytes > MAX_FILL:
        raise TooLargeToFillError(f"shape [{','.join(map(str, shape))}] is too large for a tensor without values")


def _check_shape(shape: Sequence[int], expected: Sequence[int] | None) -> None:
    if expected is None:
        return
    if len(shape) != len(expected) or any(0 <= fixed != size for size, fixed in zip(shape, expected, strict=True)):
        raise TooLargeToFillError(
            f"not all values were sent, and shape [{','.join(map(str, shape))}] does not fit the signature's "
            f"[{','.join(map(str, expected))}]"
        )


def _check_fill(shape: Sequence[int], sent: int, value_bytes: int) -> None:
    """Refuse a shape that asks for far more values than were sent, before anything is filled."""
    size = math.prod(shape)
    if (size - sent) * value_bytes > MAX_FILL:
        raise TooLargeToFillError(
            f"shape [{','.join(map(str, shape))}] has {size} values, but {sent} were sent; the last value may fill up "
            f"{MAX_FILL // value_bytes}"
        )


def _values_from_content(content: bytes, size: int, numpy_type: Any) -> np.ndarray:
    if numpy_type == np.object_:
        return np.array(_strings_from_content(content, size), np.object_)
    if len(content) != size * numpy_type.itemsize:
        raise ValueError(f"{len(content)} bytes cannot hold {size} values")
    return np.frombuffer(content, numpy_type)


def _values_from_field(proto: TensorProto, size: int) -> np.ndarray:
    """Return the values that were sent, at most as many as the tensor has."""
    field, part_type = _FIELDS[proto.dtype]
    written, numpy_type = getattr(proto, field), NUMPY_TYPES[proto.dtype]
    if field == "float8_val":
        return np.frombuffer(written, numpy_type)[:size]
    together = numpy_type.itemsize // np.dtype(part_type).itemsize if field in _IN_PARTS else 1
    parts = _sliced(written, min(len(written) // together, size) * together, field, part_type)
    return parts.view(numpy_type) if field in _IN_PARTS else parts.astype(numpy_type, copy=False)


def _sliced(written: Sequence[Any], count: int, field: str, part_type: Any) -> np.ndarray:
    parts = np.empty(count, part_type)
    for begin in range(0, count, _SLICE):
        values = written[begin : min(begin + _SLICE, count)]
        # The 16 bits of a half are in 32.
        parts[begin : begin + len(values)] = (
            np.array(values, np.int32).astype(part_type) if field == "half_val" else np.array(values, part_type)
        )
    return parts


def _strings_from_content(content: bytes, count: int) -> list[bytes]:
    """Return strings that are packed as TensorFlow does: all lengths, seven bits a byte, then all strings."""
    lengths, position = [], 0
    for _ in range(count):
        length, shift = 0, 0
        while position < len(content) and content[position] >= 0x80 and shift <= _MAX_SHIFT:
            length |= (content[position] & 0x7F) << shift
            position, shift = position + 1, shift + 7
        if position == len(content) or shift > _MAX_SHIFT:
            raise ValueError(f"no lengths of {count} strings")
        lengths.append(length | content[position] << shift)
        position += 1
    if position + sum(lengths) != len(content):
        raise ValueError(f"{len(content)} bytes do not hold {count} strings")
    ends = [*itertools.accumulate(lengths, initial=position)]
    return [content[begin:end] for begin, end in itertools.pairwise(ends)]


def _content_from_strings(strings: Sequence[bytes]) -> bytes:
    content = bytearray()
    for string in strings:
        length = len(string)
        while length >= 0x80:
            content.append(length & 0x7F | 0x80)
            length >>= 7
        content.append(length)
    return b"".join([content, *strings])


def write_proto(array: np.ndarray, proto: TensorProto, *, as_tensor_content: bool = False) -> None:
    """Write an array to an empty message.

    Args:
        array: An array of one of the `NUMPY_TYPES`.
        proto: The message.
        as_tensor_content: Whether to write bytes, which is faster, instead of the typed field.
    """
    proto.dtype = DATA_TYPES[array.dtype]  # type: ignore[assignment]  # A number of the enum.
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    values = np.ascontiguousarray(array).reshape(-1)
    field, part_type = _FIELDS[proto.dtype]
    if as_tensor_content:
        proto.tensor_content = _content_from_strings(values.tolist()) if array.dtype == np.object_ else values.tobytes()
    elif field == "float8_val":
        proto.float8_val = values.tobytes()
    else:
        getattr(proto, field).extend((values.view(part_type) if field in _IN_PARTS else values).tolist())
