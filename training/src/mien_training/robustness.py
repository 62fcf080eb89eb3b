"""How much worse a network answers when faces are moved, lit otherwise, compressed, blurred or partly covered."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from mien_client.contract import IMAGE_SIZE, KEYPOINTS
from numpy.typing import NDArray

from mien_training.augmentation import warp
from mien_training.splits import Faces

Images = NDArray[np.uint8]

SHIFT, ANGLE, GREY_LEVELS, JPEG_QUALITY, BLUR_SIGMA, COVER = 3, 15, 40, 20, 1.5, 16


def changes(faces: Faces) -> dict[str, list[Faces]]:
    """Change faces in every way that is measured.

    Args:
        faces: N of them; key points move with the image.

    Returns:
        By what was done, one or more sets of N faces, such as one turned left and one turned right.
    """
    turn = math.radians(ANGLE)
    sides = [(x, y) for x in (-SHIFT, 0, SHIFT) for y in (-SHIFT, 0, SHIFT) if x or y]
    images = faces.images.astype(np.float32)
    mean = images.mean(axis=(1, 2), keepdims=True)

    def seen(changed: Any) -> Faces:
        return replace(faces, images=np.clip(np.round(changed), 0, 255).astype(np.uint8))

    return {
        "unchanged": [faces],
        f"shifted by {SHIFT} pixels, eight ways": [_moved(faces, shift=side) for side in sides],
        f"turned by {ANGLE}°, both ways": [_moved(faces, angle=angle) for angle in (-turn, turn)],
        f"{GREY_LEVELS} grey levels darker": [seen(images - GREY_LEVELS)],
        f"{GREY_LEVELS} grey levels brighter": [seen(images + GREY_LEVELS)],
        "half the contrast": [seen((images - mean) * 0.5 + mean)],
        "one and a half the contrast": [seen((images - mean) * 1.5 + mean)],
        f"JPEG of quality {JPEG_QUALITY}": [seen(_jpeg(faces.images))],
        f"blurred, Gaussian of {BLUR_SIGMA} pixels": [seen(_blurred(images))],
        f"covered by a grey square of {COVER} pixels": [seen(_covered(faces.images))],
    }


def measure(sets: list[Faces], answer: Callable[[Images], Any], score: Callable[[Faces, Any], float]) -> float:
    """Measure a network's answers to faces that were changed in one way.

    Args:
        sets: One or more sets of N faces.
        answer: From uint8 [N, 48, 48] to the network's answers.
        score: From faces and answers to one number.

    Returns:
        The mean score of the sets.
    """
    return float(np.mean([score(changed, answer(changed.images)) for changed in sets]))


def _moved(faces: Faces, angle: float = 0.0, shift: tuple[int, int] = (0, 0)) -> Faces:
    count = len(faces)
    has_points = faces.targets.ndim == 3
    points = faces.targets if has_points else np.zeros((count, len(KEYPOINTS), 2), np.float32)
    ones = tf.ones([count])
    images, moved = warp(faces.images, points, ones, angle * ones, ones, tf.tile([[*map(float, shift)]], [count, 1]))
    changed = np.clip(np.round(images.numpy()), 0, 255).astype(np.uint8)
    return replace(faces, images=changed, targets=moved.numpy() if has_points else faces.targets)


def _jpeg(images: Images) -> Images:
    return np.stack(
        [
            tf.io.decode_jpeg(tf.io.encode_jpeg(image[..., None], quality=JPEG_QUALITY)).numpy()[..., 0]
            for image in images
        ]
    )


def _blurred(images: NDArray[np.float32]) -> NDArray[np.float32]:
    reach = math.ceil(3 * BLUR_SIGMA)
    weights = np.exp(-np.square(np.arange(-reach, reach + 1)) / (2 * BLUR_SIGMA**2))
    weights /= weights.sum()
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    rows = sum(weight * padded[:, index : index + IMAGE_SIZE] for index, weight in enumerate(weights))
    blurred: NDArray[np.float32] = sum(
        weight * rows[:, :, index : index + IMAGE_SIZE] for index, weight in enumerate(weights)
    )
    return blurred


def _covered(images: Images) -> Images:
    covered = images.copy()
    corners = np.random.default_rng(0).integers(0, IMAGE_SIZE - COVER + 1, (len(images), 2))
    for image, (row, column) in zip(covered, corners, strict=True):
        image[row : row + COVER, column : column + COVER] = 128
    return covered
