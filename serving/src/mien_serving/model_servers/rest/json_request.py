"""JSON predict requests: from JSON values to tensors.

Which values are accepted, and the errors about others, follow TensorFlow Serving's ``json_tensor.cc``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import numpy as np
from mien_client.protos import DataType, TensorInfo

from mien_serving.core.status import Code, StatusError, invalid_argument
from mien_serving.model_servers.rest.json_value import decode_base64, is_base64, json_type, text
from mien_serving.servables.tensor import MAX_DIMENSIONS, NUMPY_TYPES, type_name

_FLOATS: Final = {DataType.Value("DT_FLOAT"), DataType.Value("DT_DOUBLE")}
# Integers of these types must be in this range; those that do not fit the type itself wrap around, as in C++.
_INTEGERS: Final[dict[int, Any]] = {
    DataType.Value(f"DT_{name}"): np.iinfo(range_type)
    for names, range_type in (
        ("INT8 INT16 INT32 UINT8", "int32"),
        ("INT64", "int64"),
        ("UINT32", "uint32"),
        ("UINT64", "uint64"),
    )
    for name in names.split()
}
_BOOL: Final = DataType.Value("DT_BOOL")
_STRING: Final = DataType.Value("DT_STRING")


def predict_inputs(
    document: Mapping[str, Any], infos: Mapping[str, TensorInfo], may_hold_booleans: bool = True
) -> tuple[dict[str, np.ndarray], bool]:
    """Return the inputs of a predict request.

    Args:
        document: The request.
        infos: The inputs of the signature.
        may_hold_booleans: Whether the document may contain ``true`` or ``false``.

    Returns:
        The tensors by input name, and whether the request, and so its answer, is in row format.

    Raises:
        StatusError: The request is in neither row nor column format, or its values do not fit the inputs.
    """
    if "instances" not in document:
        if "inputs" not in document:
            raise invalid_argument("Missing 'inputs' or 'instances' key")
        return _from_columns(document["inputs"], infos, may_hold_booleans), False
    instances = document["instances"]
    problem = ""
    if "inputs" in document:
        problem = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
    elif not isinstance(instances, list):
        problem = "Expecting 'instances' to be an list/array"
    elif not instances:
        problem = "No values in 'instances' array"
    if problem:
        raise invalid_argument(f"JSON Value: {text(document)} {problem}")
    return _from_rows(instances, infos, may_hold_booleans), True


def _from_columns(value: Any, infos: Mapping[str, TensorInfo], may_hold_booleans: bool) -> dict[str, np.ndarray]:
    if not isinstance(value, dict) or is_base64(value):
        if len(infos) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        value = dict.fromkeys(infos, value)
    for name in infos:
        if name not in value:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
    return {name: _tensor(value[name], name, info.dtype, may_hold_booleans) for name, info in infos.items()}


def _tensor(value: Any, name: str, dtype: int, may_hold_booleans: bool) -> np.ndarray:
    array = None if may_hold_booleans else _quick_array(value, dtype)
    if array is None:
        tensor = _Tensor(name, dtype)
        shape = tensor.add(value)
        array = tensor.array(shape)
    return array


def _from_rows(
    instances: Sequence[Any], infos: Mapping[str, TensorInfo], may_hold_booleans: bool
) -> dict[str, np.ndarray]:
    if not isinstance(instances[0], dict) and len(infos) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    named = _is_named(instances[0])
    if not may_hold_booleans:
        quick = _quick_rows(instances, infos, named)
        if quick is not None:
            return quick
    tensors = {name: _Tensor(name, info.dtype) for name, info in infos.items()}
    for number, instance in enumerate(instances):
        if named and not _is_named(instance):
            raise invalid_argument(f"Expecting object but got list at item {number} of input list")
        if not named and _is_named(instance):
            raise invalid_argument(f"Expecting value/list but got object at item {number} of input list")
        values = instance if named else {next(iter(infos)): instance}
        for name, value in values.items():
            try:
                if name not in tensors:
                    raise invalid_argument(f"JSON object: does not have named input: {name}")
                tensors[name].add_row(value)
            except StatusError as error:
                where = f"{number} key: {name}" if named else str(number)
                raise invalid_argument(
                    f"Failed to process element: {where} of 'instances' list. Error: {error}"
                ) from error
        if named and values.keys() != infos.keys():
            raise invalid_argument(
                f"Failed to process element: {number} of 'instances' list. JSON object: {text(instance)} keys must be "
                f"equal to: {','.join(sorted(infos))}"
            )
    # Unnamed bytes are the first input; the signature then reports the missing ones.
    return {
        name: tensor.array((len(instances), *tensor.row_shape))
        for name, tensor in tensors.items()
        if tensor.row_size >= 0
    }


def _quick_rows(instances: Sequence[Any], infos: Mapping[str, TensorInfo], named: bool) -> dict[str, np.ndarray] | None:
    arrays = {}
    for name, info in infos.items():
        try:
            rows = [instance[name] for instance in instances] if named else instances
        except (KeyError, TypeError):
            return None
        array = _quick_array(rows, info.dtype)
        if array is None or (named and any(len(instance) != len(infos) for instance in instances)):
            return None
        arrays[name] = array
    return arrays


def _quick_array(value: Any, dtype: int) -> np.ndarray | None:
    """Convert a list of numbers with numpy, many times faster than value by value.

    Returns:
        The array; None if the values must be checked one by one. There must be no booleans, which numpy converts to
        numbers.
    """
    if dtype not in _FLOATS and dtype not in _INTEGERS:
        return None
    try:
        array = np.array(value)
    except (ValueError, OverflowError):
        return None
    if not array.size or array.dtype.kind not in ("fiu" if dtype in _FLOATS else "iu"):
        return None
    if dtype in _INTEGERS and not (
        _INTEGERS[dtype].min <= int(array.min()) and int(array.max()) <= _INTEGERS[dtype].max
    ):
        return None
    with np.errstate(over="ignore"):
        return array.astype(NUMPY_TYPES[dtype])


@dataclass
class _Tensor:
    """A tensor that is built value by value."""

    name: str
    dtype: int
    values: list[Any] = field(default_factory=list)
    row_size: int = -1
    row_shape: tuple[int, ...] = ()

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return all values so far as one array."""
        if len(shape) > MAX_DIMENSIONS:
            raise invalid_argument(f"tensor parsing error: {self.name}")
        numpy_type = NUMPY_TYPES[self.dtype]
        with np.errstate(over="ignore"):
            if self.dtype in _INTEGERS:
                return np.array(self.values, _INTEGERS[self.dtype].dtype).astype(numpy_type).reshape(shape)
            return np.array(self.values, numpy_type).reshape(shape)

    def add_row(self, value: Any) -> None:
        """Add one element of ``instances``, which must have the size and shape of those before."""
        before = len(self.values)
        shape = self.add(value)
        size = len(self.values) - before
        if self.row_size < 0:
            self.row_size, self.row_shape = size, shape
        elif size != self.row_size:
            raise invalid_argument(f"Expecting tensor size: {self.row_size} but got: {size}")
        elif shape != self.row_shape:
            raise invalid_argument(f"Expecting shape {_shape_text(self.row_shape)} but got: {_shape_text(shape)}")

    def add(self, value: Any) -> tuple[int, ...]:
        """Add a value or nested lists of values.

        Returns:
            The shape by the first element of every list; all other elements were checked against it.
        """
        shape: tuple[int, ...] = ()
        first = value
        while isinstance(first, list):
            shape += (len(first),)
            if not first:
                break
            first = first[0]
        self._fill(value, shape, 0)
        return shape

    def _fill(self, value: Any, shape: tuple[int, ...], level: int) -> None:
        if not isinstance(value, list):
            if level != len(shape):
                raise invalid_argument(
                    f"JSON Value: {text(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at "
                    f"level: {len(shape)}"
                )
            self.values.append(_checked(value, self.dtype))
            return
        if level >= len(shape):
            raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
        if len(value) != shape[level]:
            raise invalid_argument(
                f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
            )
        for element in value:
            self._fill(element, shape, level + 1)


def _checked(value: Any, dtype: int) -> Any:
    """Return a single value for numpy, after checking that a tensor of this type may contain it."""
    if isinstance(value, dict):
        if dtype != _STRING:
            _refuse_type(value, dtype)
        return decode_base64(value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if dtype in _FLOATS:
        return float(value) if is_number else _refuse_type(value, dtype)
    if dtype in _INTEGERS:
        fits = is_number and isinstance(value, int) and _INTEGERS[dtype].min <= value <= _INTEGERS[dtype].max
        return value if fits else _refuse_type(value, dtype)
    if dtype == _STRING:
        return value.encode() if isinstance(value, str) else _refuse_type(value, dtype)
    if dtype == _BOOL:
        return value if isinstance(value, bool) else _refuse_type(value, dtype)
    raise StatusError(Code.UNIMPLEMENTED, f"Conversion of JSON Value: {text(value)} to type: {type_name(dtype)}")


def _refuse_type(value: Any, dtype: int) -> NoReturn:
    raise invalid_argument(
        f"JSON Value: {text(value)} Type: {json_type(value)} is not of expected type: {type_name(dtype)}"
    )


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _shape_text(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"
