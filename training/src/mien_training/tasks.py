"""What the two networks do not share in training: how they are built, their loss, and what is measured of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from mien_client.contract import EMOTIONS
from mien_client.kaggle import OTHER_EMOTIONS
from numpy.typing import NDArray

from mien_training import metrics
from mien_training.calibration import calibrate
from mien_training.configs import Config
from mien_training.models import emotion_network, keypoint_network

HUBER = 0.25
"""Pixels of the 48×48 image up to which an error counts squared. Most errors lie above, where the loss is the distance
itself: what is measured in the end."""


@dataclass(frozen=True)
class Task:
    """One of the two things that Mien learns.

    Attributes:
        network: Builds the untrained network.
        loss: From targets, the network's outputs, the weight of each class and the recipe to one number.
        measure: From targets and outputs to named numbers, the validation metrics.
        best: The metric that chooses the weights to keep.
        higher_is_better: Which way that metric improves.
        calibrate: Given the finished network, targets and outputs, makes its probabilities mean what they say, and
            returns what that came to; `None` where there are no probabilities.
    """

    network: Callable[[Config], keras.Model]
    loss: Callable[[Any, Any, Any, Any, Config], Any]
    measure: Callable[[Any, Any], dict[str, float]]
    best: str
    higher_is_better: bool
    calibrate: Callable[[keras.Model, Any, Any], dict[str, Any]] | None = None


def class_weights(labels: NDArray[Any], classes: int, balance: float) -> NDArray[np.float32]:
    """Weigh each class by its frequency to the power of ``-balance``, so that the mean over all faces is 1.

    Args:
        labels: int32 [N].
        classes: How many there are.
        balance: 0 to 1; see `Config.balance`.

    Returns:
        float32 [classes]; a class without faces gets 0.
    """
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    raw = np.where(counts > 0, np.maximum(counts, 1) ** -balance, 0)
    weights: NDArray[np.float32] = (raw * counts.sum() / (raw * counts).sum()).astype(np.float32)
    return weights


def emotion_loss(labels: Any, logits: Any, taught: Any, weights: Any, config: Config) -> Any:
    """Cross-entropy, smoothed and weighed by class, and that with a teacher's answers.

    Args:
        labels: int32 [N].
        logits: float32 [N, 5], or more where the recipe has `others`.
        taught: float32 [N, 5], a teacher's probabilities (Hinton et al. 2015, "Distilling the Knowledge in a Neural
            Network"), or `None`.
        weights: float32, one for each class.
        config: The recipe.
    """
    smooth = config.label_smoothing
    classes = logits.shape[-1]
    wanted = tf.one_hot(labels, classes) * (1 - smooth) + smooth / classes
    loss = tf.nn.softmax_cross_entropy_with_logits(wanted, logits) * tf.gather(weights, labels)
    if taught is not None:
        distance = tf.nn.softmax_cross_entropy_with_logits(taught, logits[:, : len(EMOTIONS)])
        loss = (1 - config.teacher) * loss + config.teacher * distance
    return tf.reduce_mean(loss)


def keypoint_loss(points: Any, predicted: Any, taught: Any, weights: Any, config: Config) -> Any:  # noqa: ARG001
    """Huber loss of the coordinates that are there: both float32 [N, 15, 2], `points` NaN where missing."""
    there = ~tf.math.is_nan(points)
    # The missing are replaced before the difference is taken: a NaN under a mask would still be one in the gradient.
    error = tf.abs(tf.where(there, points - predicted, 0.0))
    huber = tf.where(error < HUBER, 0.5 * error**2 / HUBER, error - 0.5 * HUBER)
    return tf.reduce_sum(huber) / tf.maximum(tf.reduce_sum(tf.cast(there, tf.float32)), 1.0)


def _measure_emotion(labels: Any, logits: Any) -> dict[str, float]:
    return metrics.emotion_metrics(labels, np.argmax(logits, axis=1))


TASKS = {
    "emotion": Task(
        lambda config: emotion_network(config.network, len(OTHER_EMOTIONS) if config.others else 0),
        emotion_loss,
        _measure_emotion,
        "accuracy",
        True,
        calibrate,
    ),
    "keypoints": Task(
        lambda config: keypoint_network(config.network),
        keypoint_loss,
        metrics.keypoint_metrics,
        "nme",
        False,
    ),
}
