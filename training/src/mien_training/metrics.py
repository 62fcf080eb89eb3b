"""What is measured of a network's answers."""

import numpy as np
from mien_client.contract import EMOTIONS, KEYPOINTS
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from mien_training.splits import Faces

_EYES = (KEYPOINTS.index("left_eye_center"), KEYPOINTS.index("right_eye_center"))


def emotion_metrics(
    faces: Faces, predicted: NDArray[np.int64], other: NDArray[np.float32] | None = None
) -> dict[str, float]:
    """Measure answers against the file's labels and, where there are votes, against the consensus of the voters.

    Args:
        faces: N of them. Those whose label or consensus is not among the five count only for `other`.
        predicted: int [N], the likeliest of the five emotions.
        other: float32 [N], the probability of none of the five; None where the network has no such output.

    Returns:
        ``accuracy`` and ``macro_f1``, the unweighted mean of the classes' F1, against the labels; with votes the same
        against the consensus, as ``consensus_…``; and ``other_auc``, the area under the ROC curve of `other`, which
        the consensus decides, or else the label.
    """
    found = {"": faces.targets.astype(np.int32)}
    if faces.consensus is not None:
        found["consensus_"] = faces.consensus
    measured: dict[str, float] = {}
    for prefix, truth in found.items():
        five = (truth >= 0) & (truth < len(EMOTIONS))
        measured |= {prefix + key: value for key, value in accuracy_and_f1(truth[five], predicted[five]).items()}
    known = truth >= 0
    none = truth[known] >= len(EMOTIONS)
    if other is not None and 0 < none.sum() < len(none):
        measured["other_auc"] = float(roc_auc_score(none, other[known]))
    return measured


def accuracy_and_f1(labels: NDArray[np.int32], predicted: NDArray[np.int64]) -> dict[str, float]:
    """Return accuracy and macro-F1, the unweighted mean of the classes' F1: both int [N]."""
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro")),
    }


def keypoint_errors(points: NDArray[np.float32], predicted: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return each point's distance from the true one in 48×48 pixels: float [N, 15], NaN where the truth is missing."""
    distances: NDArray[np.float64] = np.linalg.norm(predicted.astype(np.float64) - points, axis=-1)
    return distances


def normalized_errors(points: NDArray[np.float32], predicted: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return each face's mean point error over the distance between its two eye centres (NME), float [N].

    The normalisation is that of the 300-W challenge (Sagonas et al. 2013) with eye centres. A face whose eye centres
    are not both known has none and gets NaN.
    """
    between = np.linalg.norm((points[:, _EYES[0]] - points[:, _EYES[1]]).astype(np.float64), axis=-1)
    errors = keypoint_errors(points, predicted)
    known = ~np.isnan(errors)
    mean = np.where(known, errors, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.where(between > 0, mean / np.where(between > 0, between, 1), np.nan)


def keypoint_metrics(points: NDArray[np.float32], predicted: NDArray[np.float32]) -> dict[str, float]:
    """Return the mean NME, and the RMSE of the coordinates, as Kaggle scores them, in 48×48 and in 96×96 pixels.

    Args:
        points: float32 [N, 15, 2], NaN where missing.
        predicted: float32 [N, 15, 2].
    """
    rmse = float(np.sqrt(np.nanmean((predicted.astype(np.float64) - points) ** 2)))
    return {"nme": float(np.nanmean(normalized_errors(points, predicted))), "rmse_48": rmse, "rmse_96": 2 * rmse}
