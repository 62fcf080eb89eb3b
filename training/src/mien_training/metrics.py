"""What is measured of a network's answers."""

import numpy as np
from mien_client.contract import KEYPOINTS
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score

_EYES = (KEYPOINTS.index("left_eye_center"), KEYPOINTS.index("right_eye_center"))


def emotion_metrics(labels: NDArray[np.int32], predicted: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy and macro-F1, the unweighted mean of the classes' F1: both int [N]."""
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro")),
    }


def keypoint_errors(points: NDArray[np.float32], predicted: NDArray[np.float32]) -> NDArray[np.float64]:
    """Distance of each point from the true one in 48×48 pixels: float [N, 15], NaN where the truth is missing."""
    distances: NDArray[np.float64] = np.linalg.norm(predicted.astype(np.float64) - points, axis=-1)
    return distances


def normalized_errors(points: NDArray[np.float32], predicted: NDArray[np.float32]) -> NDArray[np.float64]:
    """Each face's mean point error over the distance between its two eye centres (NME), float [N].

    The normalisation is that of the 300-W challenge (Sagonas et al. 2013) with eye centres. A face whose eye centres
    are not both known has none and gets NaN.
    """
    between = np.linalg.norm((points[:, _EYES[0]] - points[:, _EYES[1]]).astype(np.float64), axis=-1)
    errors = keypoint_errors(points, predicted)
    known = ~np.isnan(errors)
    mean = np.where(known, errors, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.where(between > 0, mean / np.where(between > 0, between, 1), np.nan)


def keypoint_metrics(points: NDArray[np.float32], predicted: NDArray[np.float32]) -> dict[str, float]:
    """RMSE of the coordinates, as Kaggle scores them, in pixels of the 48×48 and the 96×96 image, and the mean NME.

    Args:
        points: float32 [N, 15, 2], NaN where missing.
        predicted: float32 [N, 15, 2].
    """
    rmse = float(np.sqrt(np.nanmean((predicted.astype(np.float64) - points) ** 2)))
    return {"nme": float(np.nanmean(normalized_errors(points, predicted))), "rmse_48": rmse, "rmse_96": 2 * rmse}
