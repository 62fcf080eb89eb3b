"""Metrics, compared with numbers computed by hand."""

import numpy as np
import pytest
from mien_client.contract import KEYPOINTS
from mien_training import metrics

LEFT, RIGHT, NOSE = (KEYPOINTS.index(name) for name in ("left_eye_center", "right_eye_center", "nose_tip"))


def test_accuracy_and_macro_f1():
    found = metrics.accuracy_and_f1(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
    assert found == {"accuracy": 0.75, "macro_f1": pytest.approx((0.8 + 2 / 3) / 2)}


def test_nme_is_the_mean_error_over_the_distance_of_the_eyes():
    points = np.full((1, 15, 2), np.nan, np.float32)
    points[0, LEFT], points[0, RIGHT], points[0, NOSE] = (30, 20), (10, 20), (20, 30)
    predicted = np.zeros((1, 15, 2), np.float32)
    predicted[0, LEFT], predicted[0, RIGHT], predicted[0, NOSE] = (33, 24), (10, 20), (20, 31)
    # Distances 5, 0 and 1 pixels; the eyes are 20 apart.
    assert metrics.normalized_errors(points, predicted)[0] == pytest.approx(2 / 20)
    found = metrics.keypoint_metrics(points, predicted)
    assert found["nme"] == pytest.approx(0.1)
    assert found["rmse_48"] == pytest.approx(np.sqrt((9 + 16 + 1) / 6))
    assert found["rmse_96"] == pytest.approx(2 * found["rmse_48"])


def test_a_face_without_both_eyes_has_no_nme_but_counts_in_the_rmse():
    points = np.zeros((2, 15, 2), np.float32)
    points[:, LEFT] = (20, 0)
    points[1, LEFT] = np.nan
    predicted = points.copy()
    predicted[:, NOSE] += (3, 4)
    predicted[1, LEFT] = 0
    assert np.isnan(metrics.normalized_errors(points, predicted)).tolist() == [False, True]
    found = metrics.keypoint_metrics(points, predicted)
    assert found["nme"] == pytest.approx(5 / 15 / 20)
    assert found["rmse_48"] == pytest.approx(np.sqrt(50 / 58))
