"""The tensors of several requests as those of one batch, and back."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Final

import numpy as np

from mien_serving.core.status import Code, StatusError, invalid_argument

Feeds = Mapping[str, np.ndarray]
"""Values by tensor name; the first dimension of each counts the examples."""

_MAX_PADDING: Final = 64 << 20
"""Limit on the bytes by which padding may enlarge a batch: one row of many megabytes lengthens all others."""


def example_count(feeds: Feeds) -> int:
    """Return the number of examples in a request.

    Raises:
        StatusError: The request cannot be batched.
    """
    if not feeds:
        raise invalid_argument("Batching Run() must have at least one input tensor")
    if any(not value.ndim for value in feeds.values()):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    sizes = {len(value) for value in feeds.values()}
    if len(sizes) > 1:
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


def batching_key(feeds: Feeds, pad_variable_length: bool) -> Hashable:
    """Return what must be equal for requests to share a batch: names, types, and shapes (or only ranks, if padded)."""
    return frozenset(
        (name, value.dtype, value.ndim if pad_variable_length else value.shape[1:]) for name, value in feeds.items()
    )


def padding_fits(requests: Sequence[Feeds], size: int, padded: int, pad_variable_length: bool) -> bool:
    """Return whether a batch stays within the limit on padding.

    Args:
        requests: The requests, all of one `batching_key`.
        size: Number of their examples.
        padded: Number of examples in the batch, padding included.
        pad_variable_length: Whether shorter rows are padded to the longest one.
    """
    if padded == size and not pad_variable_length:
        return True
    total = 0
    for name, first in requests[0].items():
        values = [feeds[name] for feeds in requests]
        shape = np.max([value.shape[1:] for value in values], axis=0) if pad_variable_length else first.shape[1:]
        added = padded * math.prod(map(int, shape)) - sum(value.size for value in values)
        total += added * max(_largest_element(value) for value in values)
    return total <= _MAX_PADDING


def merged(requests: Sequence[Feeds], padding: int, pad_variable_length: bool) -> dict[str, np.ndarray]:
    """Return the feeds of a batch, by tensor name.

    Args:
        requests: The requests, all of one `batching_key`.
        padding: Number of examples to add; each is a copy of the first example of the last request that has any.
        pad_variable_length: Whether shorter rows are padded to the longest one, each array with its first element.
    """
    return {name: _merged([feeds[name] for feeds in requests], padding, pad_variable_length) for name in requests[0]}


def parted(outputs: Sequence[np.ndarray], sizes: Sequence[int], padded: int) -> list[list[np.ndarray]]:
    """Return the outputs of each request of a batch.

    Args:
        outputs: The outputs of the batch.
        sizes: Number of examples in each request.
        padded: Number of examples in the batch, padding included.

    Raises:
        StatusError: An output does not have one element for each example.
    """
    for output in outputs:
        if not output.ndim:
            raise StatusError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
        if len(output) != padded:
            raise StatusError(
                Code.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
                "tensors",
            )
    parts, begin = [], 0
    for size in sizes:
        parts.append([output[begin : begin + size] for output in outputs])
        begin += size
    return parts


def _largest_element(value: np.ndarray) -> int:
    """Return the size of an array's largest element in bytes: strings differ."""
    if value.dtype == np.object_:
        return max(map(len, value.flat), default=0)
    return value.itemsize


def _merged(values: list[np.ndarray], padding: int, pad_variable_length: bool) -> np.ndarray:
    if pad_variable_length:
        longest = np.max([value.shape[1:] for value in values], axis=0)
        values = [_lengthened(value, longest) for value in values]
    if padding:
        row = next(value[:1] for value in reversed(values) if len(value))
        values = [*values, np.repeat(row, padding, axis=0)]
    return values[0] if len(values) == 1 else np.concatenate(values)


def _lengthened(value: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return an array with rows of a larger shape, padded with its first element."""
    if value.shape[1:] == tuple(shape):
        return value
    lengthened = np.full((len(value), *shape), value.flat[0] if value.size else np.zeros((), value.dtype), value.dtype)
    lengthened[tuple(map(slice, value.shape))] = value
    return lengthened
