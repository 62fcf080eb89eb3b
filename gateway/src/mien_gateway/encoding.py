"""Documents as JSON."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticSerializationError, to_json


def json_bytes(document: Any) -> bytes:
    """Return a document as JSON that every client can read.

    Numbers that are not finite become null. Halves of surrogate pairs, which manifests and journals may hold since
    JSON can express them, become question marks: UTF-8 cannot express them.

    Args:
        document: Plain values: dictionaries, lists, strings, numbers.
    """
    try:
        return to_json(document, inf_nan_mode="null")
    except PydanticSerializationError:
        text = json.dumps(document, ensure_ascii=False).encode(errors="replace")
        return to_json(json.loads(text), inf_nan_mode="null")
