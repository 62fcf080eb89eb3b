"""Faces that stand in a file more than once, exactly or nearly."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

SIDE = 16
"""Side of the reduced pictures that are compared."""
NEAR = 0.95
"""Correlation of two reduced pictures from which on they count as near-duplicates."""
FLAT = 1e-3
_CHUNK = 2048


def exact_duplicates(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Give every distinct picture a number.

    Args:
        images: uint8 [N, 48, 48].

    Returns:
        int64 [N]; pictures with the same number are equal in every pixel.
    """
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(image.tobytes(), len(numbers)) for image in images], np.int64)


def near_duplicates(images: NDArray[np.uint8], near: float = NEAR) -> NDArray[np.int64]:
    """Find the pairs of pictures that differ little, whatever their brightness and contrast.

    Pictures of one grey level are left out: they correlate with nothing.

    Args:
        images: uint8 [N, 48, 48].
        near: Correlation from which on a pair counts.

    Returns:
        int64 [P, 2], indices of each pair, the lower one first. Exact duplicates are among them.
    """
    count, size, _ = images.shape
    step = size // SIDE
    small = images.reshape(count, SIDE, step, SIDE, step).mean(axis=(2, 4), dtype=np.float32).reshape(count, -1)
    small -= small.mean(axis=1, keepdims=True)
    length = np.linalg.norm(small, axis=1, keepdims=True)
    small /= np.where(length > FLAT, length, np.inf)
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, count, _CHUNK):
        close = np.argwhere(small[start : start + _CHUNK] @ small[start:].T >= near)
        pairs.append(close[close[:, 0] < close[:, 1]] + start)
    return np.concatenate(pairs)


def groups(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Join pairs to groups: int64 [P, 2] to int64 [count], the same number for all that are linked."""
    links = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    numbers: NDArray[np.int64] = connected_components(links, directed=False)[1].astype(np.int64)
    return numbers
