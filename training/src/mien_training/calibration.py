"""Calibrated probabilities: a temperature for a trained emotion network (Guo et al. 2017), and a bias for `other`."""

from typing import Any

import keras
import numpy as np
from mien_client.contract import EMOTIONS
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

BINS = 15
_FIVE = len(EMOTIONS)


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
    faces = np.arange(len(labels))
    losses = [-log_softmax(logits / temperature, axis=1)[faces, labels].mean() for temperature in temperatures]
    return float(temperatures[np.argmin(losses)])


def fit_other_bias(none_of_five: NDArray[np.bool_], logits: NDArray[np.float32]) -> float:
    """Find what to add to the logits of the further classes, so that `none_of_five` becomes likeliest.

    Args:
        none_of_five: bool [N].
        logits: float32 [N, 5 + others].
    """
    odds = _log_sum(logits[:, _FIVE:]) - _log_sum(logits[:, :_FIVE])
    biases = np.linspace(-5, 5, 401)
    sign = np.where(none_of_five, -1.0, 1.0)
    losses = [np.logaddexp(0, sign * (odds + bias)).mean() for bias in biases]
    return float(biases[np.argmin(losses)])


def fold(network: keras.Model, temperature: float, other_bias: float = 0.0) -> None:
    """Divide a network's logits by `temperature` and add `other_bias` to those of further classes, in its weights."""
    for layer in network.layers:
        if layer.name in ("logits", "others"):
            kernel, bias = (weight / temperature for weight in layer.get_weights())
            layer.set_weights([kernel, bias + (other_bias if layer.name == "others" else 0.0)])


def calibrate(network: keras.Model, truth: NDArray[np.int32], logits: NDArray[np.float32]) -> dict[str, Any]:
    """Fit a temperature and the bias of `other` on every second face, fold them in, and measure the other half.

    Args:
        network: Whose `logits` they are; its last layers are changed.
        truth: int32 [N]: an emotion, `mien_training.votes.NONE_OF_FIVE` or more for another class, negative where
            nothing is known.
        logits: float32 [N, 5 + others].

    Returns:
        The temperature, and the expected calibration error of the five emotions without and with it; with further
        classes, the bias, and the error of `other` without and with both. Errors are of the half that nothing was
        fitted on.
    """
    emotion = (truth >= 0) & (truth < _FIVE)
    labels, five = truth[emotion], logits[emotion, :_FIVE]
    temperature = fit_temperature(labels[::2], five[::2])
    before, after = (softmax(five[1::2] / value, axis=1) for value in (1.0, temperature))
    found = {
        "temperature": temperature,
        "ece_before": expected_calibration_error(labels[1::2], before),
        "ece": expected_calibration_error(labels[1::2], after),
    }
    bias = 0.0
    known, none = logits[truth >= 0], truth[truth >= 0] >= _FIVE
    if logits.shape[1] > _FIVE and none.any():
        bias = fit_other_bias(none[::2], known[::2] / temperature)
        both = [_two(other_probability(known[1::2])), _two(other_probability(_biased(known[1::2] / temperature, bias)))]
        measured = [expected_calibration_error(none[1::2].astype(np.int32), answer) for answer in both]
        found |= {"other_bias": bias, "other_ece_before": measured[0], "other_ece": measured[1]}
    fold(network, temperature, bias)
    return found


def other_probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability of none of the five, float32 [N], of logits float32 [N, 5 + others]."""
    odds = _log_sum(logits[:, _FIVE:]) - _log_sum(logits[:, :_FIVE])
    return (1 / (1 + np.exp(-odds))).astype(np.float32)


def _log_sum(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.logaddexp.reduce(logits.astype(np.float64), axis=1)
    return total


def _biased(logits: NDArray[np.float32], bias: float) -> NDArray[np.float32]:
    return np.concatenate([logits[:, :_FIVE], logits[:, _FIVE:] + bias], axis=1).astype(np.float32)


def _two(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([1 - probability, probability], axis=1)
