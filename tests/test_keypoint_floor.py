"""The estimate of the key-point labels' own errors, on labels whose errors are known."""

import numpy as np
import pytest
from mien_training.metrics import normalized_errors

from benchmarks.keypoint_floor import floor


@pytest.mark.parametrize("bias", [0.0, 3.0])
def test_errors_of_the_labels_are_found_and_errors_of_the_network_are_not(bias):
    random = np.random.default_rng(0)
    truth = np.repeat(random.uniform(10, 40, (1, 15, 2)), 4000, axis=0).astype(np.float32)
    errors = random.normal(0, 0.5, truth.shape).astype(np.float32)
    network = np.repeat(random.normal(0, bias, (2000, 15, 2)), 2, axis=0)  # the same for both pictures of a pair
    pairs = np.arange(4000).reshape(-1, 2)
    whole, _ = floor(truth, (network - errors).astype(np.float32), pairs)
    assert whole == pytest.approx(normalized_errors(truth, truth + errors).mean(), rel=0.03)


def test_a_shift_common_to_all_points_is_recognised():
    random = np.random.default_rng(1)
    truth = np.repeat(random.uniform(10, 40, (1, 15, 2)), 400, axis=0).astype(np.float32)
    shift = np.broadcast_to(random.normal(0, 1, (400, 1, 2)), truth.shape).astype(np.float32)
    whole, rest = floor(truth, shift, np.arange(400).reshape(-1, 2))
    assert whole > 0.02
    assert rest == pytest.approx(0, abs=1e-5)
