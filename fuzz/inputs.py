"""Inputs, made by Hypothesis: valid ones with mistakes in them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final

from hypothesis import strategies as st

_INTERESTING: Final = (
    b"\0",
    b"\xff",
    b"\r\n",
    b'"',
    b"\\",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98\x80",
    b"\xef\xbb\xbf",
    b"-1",
    b"1e999",
    b"NaN",
    b"9" * 25,
    b"9" * 5000,
    b"../",
    b"[" * 2000,
    b"{" * 2000,
    b'{"a":' * 500,
    b"%00",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
)
"""What parsers stumble over."""

_MOST_EDITS: Final = 6
_LONGEST_RUN: Final = 64


def inputs(seeds: Sequence[bytes], tokens: Sequence[bytes] = ()) -> st.SearchStrategy[bytes]:
    """Return a strategy for inputs: seeds with edits, JSON seeds with other values in them, and noise.

    Args:
        seeds: Valid inputs.
        tokens: What their language is made of.
    """
    ways = [_edited(seeds, [*tokens, *_INTERESTING])] * 3
    documents = [document for seed in seeds if (document := _json(seed)) is not None]
    if documents:
        ways += [_changed_documents(documents)] * 3
    return st.one_of(*ways, st.binary(max_size=200), st.sampled_from(seeds))


def _edited(seeds: Sequence[bytes], tokens: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    place = st.floats(0, 1, exclude_max=True)
    length = st.integers(0, _LONGEST_RUN)
    edit = st.one_of(
        st.tuples(st.just("insert"), place, st.just(0), st.sampled_from(tokens) | st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("replace"), place, length, st.sampled_from(tokens) | st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("remove"), place, length, st.just(b"")),
        st.tuples(st.just("cut"), place, st.just(0), st.just(b"")),
        st.tuples(st.just("repeat"), place, length, st.just(b"")),
        st.tuples(st.just("splice"), place, st.just(0), st.sampled_from(seeds)),
    )
    return st.builds(_with_edits, st.sampled_from(seeds), st.lists(edit, min_size=1, max_size=_MOST_EDITS))


def _with_edits(seed: bytes, edits: Sequence[tuple[str, float, int, bytes]]) -> bytes:
    data = seed
    for kind, place, length, piece in edits:
        start = int(place * len(data))
        end = start + length
        match kind:
            case "cut":
                data = data[:start]
            case "repeat":
                data = data[:end] + data[start:end] * 8 + data[end:]
            case "splice":
                data = data[:start] + piece[int(place * len(piece)) :]
            case _:
                data = data[:start] + piece + data[end:]
    return data


_VALUES: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, 10**400]),
    st.floats(),
    st.sampled_from([math.inf, -math.inf, math.nan, 1e308]),
    st.text(max_size=20),
    st.sampled_from(["", "\ud800", "\0", "a" * 5000, "../x", "/", ".", "\x1b[2J", "2026-11-27T00:00:00Z", "9" * 5000]),
    st.just([]),
    st.just({}),
    st.lists(st.integers(0, 300), max_size=5),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
    st.builds(lambda depth: _nested(depth), st.sampled_from([20, 31, 32, 33, 200, 900])),
)


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def _changed_documents(documents: Sequence[Any]) -> st.SearchStrategy[bytes]:
    change = st.tuples(st.lists(st.integers(0, 30), max_size=5), st.sampled_from(["set", "remove", "add"]), _VALUES)
    changes = st.lists(change, min_size=1, max_size=4)
    return st.builds(_with_changes, st.sampled_from([json.dumps(document) for document in documents]), changes)


def _with_changes(text: str, changes: Sequence[tuple[list[int], str, Any]]) -> bytes:
    document = json.loads(text)
    for path, kind, value in changes:
        document = _with_change(document, path, kind, value)
    return json.dumps(document).encode()


def _with_change(value: Any, path: Sequence[int], kind: str, new: Any) -> Any:
    """Return a value with one change, at the place that the numbers of a path lead to."""
    if not isinstance(value, (dict, list)) or not value or not path:
        return new
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[path[0] % len(keys)]
    if len(path) > 1:
        value[key] = _with_change(value[key], path[1:], kind, new)
    elif kind == "set":
        value[key] = new
    elif kind == "remove":
        del value[key]
    elif isinstance(value, dict):
        value[new if isinstance(new, str) else str(key) * 2] = new
    else:
        value.append(new)
    return value


def _json(seed: bytes) -> Any:
    try:
        document = json.loads(seed)
    except ValueError:
        return None
    return document if isinstance(document, (dict, list)) else None
