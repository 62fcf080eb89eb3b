"""Nested documents as flat names: ``{"network": {"stem": 8}}`` has the name ``network.stem``."""

import json
from collections.abc import Iterator, Mapping
from typing import Any


def texts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each name and its value; other values than text are written as JSON."""
    for name, value in _leaves(values):
        yield name, value if isinstance(value, str) else json.dumps(value)


def numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield each name whose value is a number."""
    for name, value in _leaves(values):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, float(value)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
