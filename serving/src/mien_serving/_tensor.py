"""Tensors on the wire and in memory: `TensorProto` and numpy arrays."""

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
"""As many dimensions as numpy's arrays can have."""

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
# Of these types the parts are on the wire: the bits of a small float, the real and the imaginary number.
_IN_PARTS: Final = {"half_val", "float8_val", "scomplex_val", "dcomplex_val"}

_MAX_BYTES: Final = 2**31 - 1
"""As much as a message can hold: a shape that asks for more, with one value to fill it, is an attack."""

_MAX_SHIFT: Final = 28  # Lengths have 32 bits.


def type_name(data_type: int) -> str:
    """The name that TensorFlow prints for a `DataType`, such as ``float`` or ``uint8``."""
    return str(DataType.Name(data_type)).removeprefix("DT_").lower()


def array_from_proto(proto: TensorProto) -> np.ndarray:
    """Reads a tensor from the wire, as TensorFlow's ``Tensor::FromProto`` does.

    Typed fields may hold fewer values than the shape asks for: the last one then fills the rest, and zero if there is
    none. The array of a tensor with ``tensor_content`` shares its memory with the message and is read-only.

    Raises:
        ValueError: The message is not a tensor that can be served.
    """
    shape = tuple([dim.size for dim in proto.tensor_shape.dim])
    if proto.dtype not in NUMPY_TYPES or proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise ValueError("neither type nor shape may be unknown")
    size, numpy_type = math.prod(shape), NUMPY_TYPES[proto.dtype]
    if len(shape) > MAX_DIMENSIONS or size * numpy_type.itemsize > _MAX_BYTES:
        raise ValueError("too large")
    if not size:
        return np.empty(shape, numpy_type)
    if proto.tensor_content:
        return _values_from_content(proto.tensor_content, size, numpy_type).reshape(shape)
    values = _values_from_field(proto)
    if not values.size:
        return np.full(shape, b"" if numpy_type == np.object_ else 0, numpy_type)
    if values.size < size:
        values = np.concatenate([values, np.full(size - values.size, values[-1], numpy_type)])
    return values[:size].reshape(shape)


def _values_from_content(content: bytes, size: int, numpy_type: Any) -> np.ndarray:
    if numpy_type == np.object_:
        return np.array(_strings_from_content(content, size), np.object_)
    if len(content) != size * numpy_type.itemsize:
        raise ValueError(f"{len(content)} bytes cannot hold {size} values")
    return np.frombuffer(content, numpy_type)


def _values_from_field(proto: TensorProto) -> np.ndarray:
    field, part_type = _FIELDS[proto.dtype]
    written, numpy_type = getattr(proto, field), NUMPY_TYPES[proto.dtype]
    if field == "float8_val":
        return np.frombuffer(written, numpy_type)
    # The 16 bits of a half are in 32.
    parts = np.array(written, np.int32).astype(part_type) if field == "half_val" else np.array(written, part_type)
    if field not in _IN_PARTS:
        return parts.astype(numpy_type, copy=False)
    together = numpy_type.itemsize // parts.itemsize
    return parts[: len(parts) // together * together].view(numpy_type)


def _strings_from_content(content: bytes, count: int) -> list[bytes]:
    """Reads strings as TensorFlow packs them: the length of each, seven bits a byte, then all of them."""
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
    """Writes a tensor, with the typed field of its type unless asked otherwise.

    Args:
        array: Of one of the `NUMPY_TYPES`.
        proto: An empty message.
        as_tensor_content: Whether to write bytes instead, which is quicker.
    """
    proto.dtype = DATA_TYPES[array.dtype]
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
