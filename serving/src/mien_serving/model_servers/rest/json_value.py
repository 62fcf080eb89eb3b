"""JSON values, parsed, printed and named as in TensorFlow Serving, with the same RapidJSON."""

from __future__ import annotations

import base64
import binascii
import codecs
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

import numpy as np
import rapidjson

from mien_serving.core.status import invalid_argument
from mien_serving.model_servers.rest.json_response import decimals

_MAX_FLOAT32: Final = float(np.finfo(np.float32).max)

_MAX_PRINTED: Final = 10_000
"""Limit on the characters of a JSON value in an error message."""

_MAX_PRINTED_VALUES: Final = 5_000
"""Limit on the values that are printed for these characters."""


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a body that must be a JSON object; ``NaN``, ``Infinity`` and 64-bit integers are allowed.

    RapidJSON reads the numbers: larger integers become floating-point numbers, and numbers too large for those are an
    error.

    Raises:
        StatusError: The body is not a JSON object.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    mark = len(codecs.BOM_UTF8) if body.startswith(codecs.BOM_UTF8) else 0
    try:
        document = rapidjson.loads(body[mark:] if mark else body, number_mode=rapidjson.NM_NAN | rapidjson.NM_NATIVE)
    except rapidjson.JSONDecodeError as error:
        offset, _, reason = str(error).removeprefix("Parse error at offset ").partition(": ")
        raise invalid_argument(f"JSON Parse error: {reason} at offset: {int(offset) + mark}") from error
    except UnicodeDecodeError as error:
        raise invalid_argument(f"JSON Parse error: Invalid encoding in string. at offset: {error.start}") from error
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {text(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """Return the name of the signature in a request; empty if there is none.

    Raises:
        StatusError: The name is not a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {text(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def text(value: object) -> str:
    """Return a JSON value as TensorFlow Serving prints it in errors; only the beginning of a large one."""
    if isinstance(value, float):
        return decimals(np.array([value], np.float32 if abs(value) <= _MAX_FLOAT32 else np.float64))[0]
    printed: str = rapidjson.dumps(
        _beginning(value, iter(range(_MAX_PRINTED_VALUES))),
        indent=4,
        ensure_ascii=False,
        number_mode=rapidjson.NM_NAN,
        write_mode=rapidjson.WM_SINGLE_LINE_ARRAY,
    )
    return printed if len(printed) <= _MAX_PRINTED else f"{printed[:_MAX_PRINTED]}…"


def _beginning(value: Any, numbers: Iterator[int]) -> Any:
    """Return the first values of a document, as many as there are numbers: indentation would make it many times larger.

    Finite floats are in RapidJSON's format, since its Python binding uses Python's.
    """
    match value:
        case float() if np.isfinite(value):
            return rapidjson.RawJSON(_number(value))
        case list():
            return [_beginning(element, numbers) for element, _ in zip(value, numbers)]  # noqa: B905
        case dict():
            return {
                name[: _MAX_PRINTED + 1]: _beginning(element, numbers)
                for (name, element), _ in zip(value.items(), numbers)  # noqa: B905
            }
        case str():
            return value[: _MAX_PRINTED + 1]
        case _:
            return value


def _number(value: float) -> str:
    """Return the shortest decimals of a number; with an exponent only beyond 21 digits or below a millionth."""
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    numerals, point = "".join(map(str, digits)), len(digits) + int(exponent)
    if 0 < point <= 21:
        printed = f"{numerals[:point]:0<{point}}.{numerals[point:] or 0}"
    elif -6 < point <= 0:
        printed = f"0.{'0' * -point}{numerals}"
    else:
        printed = f"{numerals[0]}{'.' + numerals[1:] if numerals[1:] else ''}e{point - 1}"
    return "-" + printed if sign else printed


def json_type(value: Any) -> str:
    """Return TensorFlow Serving's name for the type of a JSON value."""
    match value:
        case None:
            return "Null"
        case bool():
            return str(value)
        case dict():
            return "Object"
        case list():
            return "Array"
        case str():
            return "String"
        case _:
            return "Number"


def is_base64(value: Mapping[str, Any]) -> bool:
    """Return whether a JSON object stands for bytes."""
    return len(value) == 1 and isinstance(value.get("b64"), str)


def decode_base64(value: Mapping[str, Any]) -> bytes:
    """Return the bytes that a JSON object stands for.

    Raises:
        StatusError: The object does not stand for bytes, or its base64 is invalid.
    """
    if not is_base64(value):
        raise invalid_argument(f"JSON Value: {text(value)} not formatted correctly for base64 data")
    digits = value["b64"]
    try:
        return base64.b64decode(digits, validate=True)
    except (binascii.Error, ValueError):
        # White space and missing or dotted padding are allowed, too.
        digits = "".join(digits.split()).rstrip("=.")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_argument("Unable to base64 decode") from error
