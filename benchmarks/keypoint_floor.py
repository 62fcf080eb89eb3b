"""How well the key-point labels can be known: an estimate of the errors in the labels themselves.

    python -m benchmarks.keypoint_floor --data training.csv.gz --groups people.csv

Two pictures of one person that hardly differ have nearly the same errors of the network, which sees nearly the same
pixels, but independent errors of their labels. So the difference of their residuals (prediction minus label) is the
difference of two label errors, whose size is larger than that of one by the square root of 2. This counts only the part
of the label errors that changes from picture to picture: it is a lower bound. Held-out people only.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
from mien_client import kaggle
from mien_client.splits import split_by_person
from mien_training.configs import CONFIGS
from mien_training.duplicates import near_duplicates
from mien_training.metrics import keypoint_metrics, normalized_errors
from mien_training.prediction import inference, predict
from mien_training.runs import open_pretrained
from numpy.typing import NDArray

ALIKE = (0.8, 0.85, 0.9, 0.95)
"""Correlations of two pictures from which on they count as hardly different."""


def main() -> int:
    """Print the error of the shipped network, its parts, and the estimates of the labels' errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the key-point training.csv")
    parser.add_argument("--groups", type=Path, required=True, help="who is in each row: row,person")
    options = parser.parse_args()
    data = kaggle.read_keypoints(options.data)
    people = kaggle.read_groups(options.groups, data.rows)
    config = CONFIGS["keypoints"]
    _, held_out = split_by_person(people, config.validation, config.seed)
    images, labels, people = data.images[held_out], data.keypoints[held_out], people[held_out]
    predicted = predict(inference(open_pretrained("keypoints").load()), images)
    residuals = predicted - labels
    shift = np.nanmean(residuals, axis=1, keepdims=True)
    whole, rest = (keypoint_metrics(labels, points)["nme"] for points in (predicted, predicted - shift))
    rows = [("shipped network", len(images), whole, rest)]
    for alike in ALIKE:
        pairs = near_duplicates(images, alike)
        pairs = pairs[people[pairs[:, 0]] == people[pairs[:, 1]]]
        if len(pairs):
            rows.append((f"labels, pairs that correlate by {alike}", len(pairs), *floor(labels, residuals, pairs)))
    sys.stdout.write(f"{'NME':40}{'faces or pairs':>15}{'whole':>9}{'without common shift':>23}\n")
    for name, count, whole, rest in rows:
        sys.stdout.write(f"{name:40}{count:15,}{whole:9.2%}{rest:23.2%}\n")
    return 0


def floor(labels: NDArray[np.float32], residuals: NDArray[np.float32], pairs: NDArray[np.int64]) -> tuple[float, float]:
    """Return the NME that the labels' own errors amount to, and that without the shift common to a face's points."""
    first, second = pairs.T
    error = (residuals[first] - residuals[second]) / np.sqrt(2)
    common = np.nanmean(error, axis=1, keepdims=True)
    truth = labels[first]
    whole, rest = (float(np.nanmean(normalized_errors(truth, truth + part))) for part in (error, error - common))
    return whole, rest


if __name__ == "__main__":
    sys.exit(main())
