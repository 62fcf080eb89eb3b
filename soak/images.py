"""Images that can be recognised in answers: each carries the number of its call, and the answer gives it back."""

from __future__ import annotations

import numpy as np
from mien_client.contract import EMOTION_MODEL, KEYPOINT_MODEL
from numpy.typing import NDArray

from tests.tiny_models import SIDE, answers

_DIGITS = 8


def image(number: int) -> NDArray[np.uint8]:
    """Return the image with a number, uint8 [48, 48]: its digits in the pixels that the key points depend on."""
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE), np.uint8)
    pixels[1, :_DIGITS] = np.frombuffer(number.to_bytes(_DIGITS), np.uint8)
    return pixels


def verdict(
    number: int, versions: dict[str, int], probabilities: NDArray[np.float32], keypoints: NDArray[np.float32]
) -> str:
    """Judge one answer.

    Args:
        number: The number of the image that was sent.
        versions: The version of each model that is said to have answered.
        probabilities: float32 [5].
        keypoints: float32 [15, 2], pixels.

    Returns:
        ``right``, ``somebody else's`` (the answer to the image of another call) or ``wrong``.
    """
    sent = image(number)[None]
    right = np.allclose(probabilities, answers(EMOTION_MODEL, sent, versions[EMOTION_MODEL])[0], atol=1e-5)
    right &= np.allclose(keypoints, answers(KEYPOINT_MODEL, sent, versions[KEYPOINT_MODEL])[0], atol=1e-3)
    if right:
        return "right"
    pixels = np.rint((keypoints.reshape(-1)[:_DIGITS] - versions[KEYPOINT_MODEL] / 10) / 47 * 255)
    other = int.from_bytes(np.clip(pixels, 0, 255).astype(np.uint8).tobytes())
    theirs = answers(KEYPOINT_MODEL, image(other)[None], versions[KEYPOINT_MODEL])[0]
    return "somebody else's" if np.allclose(keypoints, theirs, atol=1e-3) and other != number else "wrong"
