"""JSON values: parsed, printed and named as TensorFlow Serving does, by the same RapidJSON."""

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
"""Characters of a JSON value in an error message."""

_MAX_PRINTED_VALUES: Final = 5_000
"""Values of which those characters are taken."""


def parse_object(body: bytes) -> dict[str, Any]:
    """Parses a body that must be a JSON object; ``NaN``, ``Infinity`` and integers of 64 bits are kept.

    RapidJSON reads the numbers, not Python: larger integers become floating-point numbers, and what is too large for
    those is an error.

    Raises:
        StatusError: It is not one.
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
    """The signature that a request names; empty if it names none.

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
    """Prints a JSON value as TensorFlow Serving does in its error messages; of a large one, only how it begins."""
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
    """As many values of a document as there are numbers, since indentation makes a large one many times larger.

    Every finite float is as RapidJSON prints it, which Python's binding leaves to Python.
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
    """The shortest decimals of a number; with an exponent only beyond 21 digits or below a millionth."""
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
    """What TensorFlow Serving calls the type of a JSON value."""
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
    """Whether a JSON object stands for bytes."""
    return len(value) == 1 and isinstance(value.get("b64"), str)


def decode_base64(value: Mapping[str, Any]) -> bytes:
    """The bytes that a JSON object stands for.

    Raises:
        StatusError: It does not, or its base64 is none.
    """
    if not is_base64(value):
        raise invalid_argument(f"JSON Value: {text(value)} not formatted correctly for base64 data")
    digits = value["b64"]
    try:
        return base64.b64decode(digits, validate=True)
    except (binascii.Error, ValueError):
        # White space and missing or dotted padding are fine too.
        digits = "".join(digits.split()).rstrip("=.")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_argument("Unable to base64 decode") from error
