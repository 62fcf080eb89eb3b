"""JSON responses: from tensors to the body of a REST answer, in the format of ``json_tensor.cc``."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring
from typing import Final

import numpy as np

from mien_serving.core.status import invalid_argument
from mien_serving.servables.tensor import DATA_TYPES, type_name

_BYTES_SUFFIX: Final = "_bytes"
"""Outputs whose names end so contain bytes, which are answered as base64."""


def error_body(message: str) -> bytes:
    """Return the body that answers a request with an error."""
    return _encoded(f'{{\n    "error": {encode_basestring(message)}\n}}')


def predict_body(outputs: Mapping[str, np.ndarray], row_format: bool) -> bytes:
    """Return the body that answers a predict request.

    Args:
        outputs: Tensors by output name.
        row_format: Whether to answer one element for each row (``predictions``) or one tensor for each output
            (``outputs``).

    Raises:
        StatusError: JSON cannot express the type of an output; or, in row format, the outputs differ in length.
    """
    if not outputs:
        raise invalid_argument("Cannot convert empty tensor map to JSON")
    if row_format:
        return _encoded(_rows(outputs))
    columns = {name: _nested(_tokens(name, value), value.shape) for name, value in outputs.items()}
    if len(columns) == 1:
        return _encoded(f'{{\n    "outputs": {next(iter(columns.values()))}\n}}')
    return _encoded(f'{{\n    "outputs": {_object(columns, indent=8)}\n}}')


def decimals(values: np.ndarray) -> list[str]:
    """Return numbers as text, with six digits if these are exact, otherwise with as many as needed.

    Args:
        values: float32 or float64 [N].
    """
    numbers = values.tolist()
    texts = ("%.6g " * len(numbers) % tuple(numbers)).split()
    inexact = np.flatnonzero(np.array([float(text) for text in texts], values.dtype) != values)
    full = "%.9g" if values.dtype == np.float32 else "%.17g"
    for index in inexact.tolist():
        texts[index] = full % numbers[index]
    return [_SPECIAL.get(text) or (text if "." in text or "e" in text else f"{text}.0") for text in texts]


_SPECIAL: Final = {"nan": "NaN", "-nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _rows(outputs: Mapping[str, np.ndarray]) -> str:
    batch_size = None
    for name, value in outputs.items():
        if not value.ndim:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        if batch_size not in (None, len(value)):
            raise invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: {len(value)} expecting: {batch_size}"
            )
        batch_size = len(value)
    columns = {name: _elements(_tokens(name, value), value.shape) for name, value in outputs.items()}
    if len(columns) == 1:
        return f'{{\n    "predictions": [{", ".join(next(iter(columns.values())))}\n    ]\n}}'
    rows = (
        f"\n        {_object(dict(zip(columns, row, strict=True)), indent=12)}"
        for row in zip(*columns.values(), strict=True)
    )
    return f'{{\n    "predictions": [{",".join(rows)}\n    ]\n}}'


def _object(members: Mapping[str, str], indent: int) -> str:
    lines = ",".join(f"\n{' ' * indent}{encode_basestring(name)}: {value}" for name, value in members.items())
    return f"{{{lines}\n{' ' * (indent - 4)}}}"


def _tokens(name: str, value: np.ndarray) -> list[str]:
    """Return the elements of a tensor as JSON texts, in row-major order."""
    flat = value.reshape(-1)
    match value.dtype.kind:
        case "f" if value.dtype != np.float16:
            return decimals(flat)
        case "i" | "u" if value.dtype != np.uint16:
            return [str(number) for number in flat.tolist()]
        case "b":
            return ["true" if flag else "false" for flag in flat.tolist()]
        case "O" if name.endswith(_BYTES_SUFFIX):
            return [f'{{"b64": "{base64.b64encode(data).decode()}"}}' for data in flat]
        case "O":
            return [encode_basestring(data.decode("utf-8", "surrogateescape")) for data in flat]
        case _:
            raise invalid_argument(f"Failed to write JSON value for tensor type: {type_name(DATA_TYPES[value.dtype])}")


def _nested(tokens: Sequence[str], shape: tuple[int, ...]) -> str:
    """Return a tensor as nested JSON lists."""
    return f"[{', '.join(_elements(tokens, shape))}]" if shape else tokens[0]


def _elements(tokens: Sequence[str], shape: tuple[int, ...]) -> Sequence[str]:
    """Return the elements of a tensor's first dimension, each as nested JSON lists."""
    if not shape[0]:
        return []
    if 0 in shape:
        return [_nested((), shape[1:])] * shape[0]
    for size in reversed(shape[1:]):
        tokens = [f"[{', '.join(tokens[start : start + size])}]" for start in range(0, len(tokens), size)]
    return tokens


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
