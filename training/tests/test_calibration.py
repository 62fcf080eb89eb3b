"""Calibration of probabilities, and its error."""

import numpy as np
import pytest
import tensorflow as tf
from mien_training.calibration import (
    calibrate,
    expected_calibration_error,
    fit_other_bias,
    fit_temperature,
    other_probability,
    reliability,
)
from mien_training.configs import Network
from mien_training.models import emotion_network

RANDOM = np.random.default_rng(0)
HONEST = RANDOM.normal(size=(4000, 5)).astype(np.float32)
LABELS = np.array([RANDOM.choice(5, p=p / p.sum()) for p in tf.nn.softmax(HONEST).numpy().astype(float)], np.int32)


def test_the_error_is_how_far_confidence_is_from_accuracy():
    probabilities = np.array([[0.9, 0.1, 0, 0, 0]] * 4 + [[0.6, 0.4, 0, 0, 0]] * 4, np.float32)
    labels = np.array([0, 0, 0, 1, 0, 0, 1, 1], np.int32)
    assert expected_calibration_error(labels, probabilities) == pytest.approx((0.15 + 0.1) / 2, abs=1e-6)
    assert [share for _, _, share in reliability(labels, probabilities)] == [0.5, 0.5]


def test_a_confidence_of_1_is_in_the_last_bin():
    assert expected_calibration_error(np.array([2], np.int32), np.eye(5, dtype=np.float32)[[2]]) == 0


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_fitted_temperature_undoes_a_scaling_of_the_logits(factor):
    assert fit_temperature(LABELS, HONEST * factor) == pytest.approx(factor, rel=0.1)


def test_a_calibrated_network_answers_the_same_with_honest_confidence():
    network = emotion_network(Network("basic", 4, True, (8,), (1,), 0.0, mirror=False))
    images = RANDOM.integers(0, 256, (16, 48, 48), np.uint8)
    before = network(images, training=False).numpy()
    found = calibrate(network, LABELS, HONEST * 3)
    assert found["ece"] < 0.05 < found["ece_before"]
    np.testing.assert_allclose(network(images, training=False), before / found["temperature"], rtol=1e-3, atol=1e-5)


def test_other_is_the_share_of_the_further_classes():
    logits = RANDOM.normal(size=(50, 7)).astype(np.float32)
    np.testing.assert_allclose(other_probability(logits), tf.nn.softmax(logits).numpy()[:, 5:].sum(axis=1), rtol=1e-5)


def test_a_bias_makes_none_of_the_five_as_likely_as_it_is():
    logits = RANDOM.normal(size=(4000, 7)).astype(np.float32)
    none = RANDOM.uniform(size=4000) < other_probability(logits)
    assert fit_other_bias(none, logits) == pytest.approx(0, abs=0.2)
    logits[:, 5:] -= 1.5
    assert fit_other_bias(none, logits) == pytest.approx(1.5, abs=0.2)


def test_calibration_covers_other_and_skips_faces_without_a_truth():
    network = emotion_network(Network("basic", 4, True, (8,), (1,), 0.0, mirror=False), 2)
    images = RANDOM.integers(0, 256, (16, 48, 48), np.uint8)
    before = network(images, training=False).numpy()
    logits = 2 * RANDOM.normal(size=(4000, 7)).astype(np.float32)
    honest = tf.nn.softmax(logits / 2).numpy()
    truth = np.array([RANDOM.choice(7, p=p / p.sum()) for p in honest.astype(float)], np.int32)
    truth[::5] = -1
    logits[:, 5:] -= 2
    found = calibrate(network, truth, logits)
    assert found["temperature"] == pytest.approx(2, rel=0.1)
    assert found["other_ece"] < 0.05 < found["other_ece_before"]
    expected = before / found["temperature"] + np.array([0] * 5 + [found["other_bias"]] * 2)
    np.testing.assert_allclose(network(images, training=False), expected, rtol=1e-3, atol=1e-5)
