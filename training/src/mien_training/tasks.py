"""What the two networks do not share in training: how they are built, their loss, and what is measured of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from mien_client.contract import EMOTIONS
from mien_client.kaggle import OTHER_EMOTIONS
from numpy.typing import NDArray

from mien_training import calibration, metrics
from mien_training.configs import Config
from mien_training.models import emotion_network, keypoint_network
from mien_training.splits import Faces
from mien_training.votes import blend

HUBER = 0.25
"""Pixels of the 48×48 image up to which an error counts squared. Most errors lie above, where the loss is the distance
itself: what is measured in the end."""


@dataclass(frozen=True)
class Task:
    """One of the two things that Mien learns.

    Attributes:
        network: Builds the untrained network.
        loss: From targets, the network's outputs, the weight of each class and the recipe to one number.
        answer: From a teacher's outputs to what its pupil learns.
        prepare: From training faces and the recipe to the targets that the loss takes.
        measure: From faces and outputs to named numbers, the validation metrics.
        best: The metric that chooses the weights to keep: the first of these that was measured.
        higher_is_better: Which way that metric improves.
        calibrate: Given the finished network, targets and outputs, makes its probabilities mean what they say, and
            returns what that came to; `None` where there are no probabilities.
    """

    network: Callable[[Config], keras.Model]
    loss: Callable[[Any, Any, Any, Any, Config], Any]
    answer: Callable[[Any], Any]
    prepare: Callable[[Faces, Config], NDArray[np.float32]]
    measure: Callable[[Faces, Any], dict[str, float]]
    best: tuple[str, ...]
    higher_is_better: bool
    calibrate: Callable[[keras.Model, Any, Any], dict[str, Any]] | None = None


def class_weights(targets: NDArray[np.float32], balance: float) -> NDArray[np.float32]:
    """Weigh each class by its frequency to the power of ``-balance``, so that the mean over all faces is 1.

    Args:
        targets: float32 [N, classes], each row summing to 1.
        balance: 0 to 1; see `Config.balance`.

    Returns:
        float32 [classes]; a class without faces gets 0.
    """
    counts = targets.sum(axis=0, dtype=np.float64)
    raw = np.where(counts > 0, np.maximum(counts, 1) ** -balance, 0)
    weights: NDArray[np.float32] = (raw * counts.sum() / (raw * counts).sum()).astype(np.float32)
    return weights


def emotion_targets(faces: Faces, config: Config) -> NDArray[np.float32]:
    """Return what the emotion network learns of each face: float32 [N, 5], or [N, 7] where the recipe has `others`."""
    if faces.votes is not None:
        return blend(faces.targets.astype(np.int32), faces.votes, config.votes, _classes(config))
    return np.eye(_classes(config), dtype=np.float32)[faces.targets.astype(np.int32)]


def emotion_loss(targets: Any, logits: Any, taught: Any, weights: Any, config: Config) -> Any:
    """Return the cross-entropy, smoothed and weighed by class, blended with that to a teacher's answers.

    Args:
        targets: float32 [N, classes], each row summing to 1.
        logits: float32 [N, classes].
        taught: float32 [N, classes], a teacher's probabilities (Hinton et al. 2015, "Distilling the Knowledge in a
            Neural Network"), or `None`.
        weights: float32 [classes].
        config: The recipe.
    """
    smooth = config.label_smoothing
    wanted = targets * (1 - smooth) + smooth / logits.shape[-1]
    loss = ops.categorical_crossentropy(wanted, logits, from_logits=True) * ops.matmul(targets, weights)
    if taught is not None:
        distance = ops.categorical_crossentropy(taught, logits, from_logits=True)
        loss = (1 - config.teacher) * loss + config.teacher * distance
    return ops.mean(loss)


def keypoint_loss(points: Any, predicted: Any, taught: Any, weights: Any, config: Config) -> Any:  # noqa: ARG001
    """Return the Huber loss of the coordinates that are there, blended with that to a teacher's answers.

    Args:
        points: float32 [N, 15, 2], NaN where missing.
        predicted: float32 [N, 15, 2].
        taught: float32 [N, 15, 2], a teacher's points, or `None`.
        weights: Not used; key points have no classes.
        config: The recipe.
    """
    loss = _huber(points, predicted)
    if taught is not None:
        loss = (1 - config.teacher) * loss + config.teacher * _huber(taught, predicted)
    return loss


def _huber(points: Any, predicted: Any) -> Any:
    there = ~ops.isnan(points)
    # The missing are replaced before the difference is taken: a NaN under a mask would still be one in the gradient.
    error = ops.abs(ops.where(there, points, predicted) - predicted)
    huber = ops.where(error < HUBER, 0.5 * error**2 / HUBER, error - 0.5 * HUBER)
    return ops.sum(huber) / ops.maximum(ops.sum(ops.cast(there, "float32")), 1.0)


def _measure_emotion(faces: Faces, logits: Any) -> dict[str, float]:
    other = calibration.other_probability(logits) if logits.shape[1] > len(EMOTIONS) else None
    return metrics.emotion_metrics(faces, np.argmax(logits[:, : len(EMOTIONS)], axis=1), other)


def _classes(config: Config) -> int:
    return len(EMOTIONS) + (len(OTHER_EMOTIONS) if config.others else 0)


TASKS = {
    "emotion": Task(
        lambda config: emotion_network(config.network, _classes(config) - len(EMOTIONS)),
        emotion_loss,
        ops.softmax,
        emotion_targets,
        _measure_emotion,
        ("consensus_accuracy", "accuracy"),
        True,
        calibration.calibrate,
    ),
    "keypoints": Task(
        lambda config: keypoint_network(config.network),
        keypoint_loss,
        lambda points: points,
        lambda faces, _: faces.targets.astype(np.float32),
        lambda faces, points: metrics.keypoint_metrics(faces.targets.astype(np.float32), points),
        ("nme",),
        False,
    ),
}
