"""Probabilities that mean what they say: a temperature for a trained emotion network (Guo et al. 2017)."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

BINS = 15


def expected_calibration_error(labels: NDArray[np.int32], probabilities: NDArray[np.float32]) -> float:
    """Mean difference of confidence and accuracy over `BINS` bins of confidence, weighed by their faces.

    Args:
        labels: int32 [N].
        probabilities: float32 [N, 5].
    """
    return float(sum(abs(hits - confidence) * share for confidence, hits, share in reliability(labels, probabilities)))


def reliability(labels: NDArray[np.int32], probabilities: NDArray[np.float32]) -> list[tuple[float, float, float]]:
    """Mean confidence, accuracy and share of the faces of each bin that has any, from the least sure to the surest."""
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        (float(confidence[here].mean()), float(hit[here].mean()), float(here.mean()))
        for here in (place == index for index in range(BINS))
        if here.any()
    ]


def fit_temperature(labels: NDArray[np.int32], logits: NDArray[np.float32]) -> float:
    """Find what to divide the logits by, so that the labels become likeliest: int32 [N], float32 [N, 5]."""
    temperatures = np.geomspace(0.2, 5, 400)
    losses = [
        tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits / temperature, tf.float32))
        )
        for temperature in temperatures
    ]
    return float(temperatures[np.argmin(losses)])


def fold_temperature(network: keras.Model, temperature: float) -> None:
    """Divide a network's logits by `temperature`, by dividing its last layer's weights."""
    last = network.get_layer("logits")
    last.set_weights([weight / temperature for weight in last.get_weights()])


def calibrate(network: keras.Model, labels: NDArray[np.int32], logits: NDArray[np.float32]) -> dict[str, Any]:
    """Fit a temperature on every other face, fold it in, and measure it on the faces between.

    Args:
        network: Whose `logits` they are; its last layer is changed.
        labels: int32 [N].
        logits: float32 [N, 5].

    Returns:
        The temperature, and the expected calibration error without and with it of the faces that it was not fitted on.
    """
    temperature = fit_temperature(labels[::2], logits[::2])
    fold_temperature(network, temperature)
    before, after = (tf.nn.softmax(logits[1::2] / value).numpy() for value in (1.0, temperature))
    return {
        "temperature": temperature,
        "ece_before": expected_calibration_error(labels[1::2], before),
        "ece": expected_calibration_error(labels[1::2], after),
    }
