"""How far key points are from the true ones."""

from functools import partial
from typing import Any

import numpy as np
from mien_client.contract import KEYPOINTS
from numpy.typing import NDArray

from mien_training import metrics, report
from mien_training.evaluation import Evaluation, Picture
from mien_training.report import Table
from mien_training.splits import Faces

SHOWN = 24
WORST = "Largest errors"


def evaluate_keypoints(faces: Faces, predicted: NDArray[np.float32], name: str) -> Evaluation:
    """Judge key points.

    Args:
        faces: N of them.
        predicted: float32 [N, 15, 2].
        name: The network's, for the pictures.
    """
    points = faces.targets.astype(np.float32)
    found = metrics.keypoint_metrics(points, predicted)
    errors = metrics.keypoint_errors(points, predicted)
    known = ~np.isnan(errors)
    count = known.sum(axis=0)
    mean = np.where(known, errors, 0).sum(axis=0) / np.maximum(count, 1)
    by_point = {point: float(value) for point, value, n in zip(KEYPOINTS, mean, count, strict=True) if n}
    of_all = metrics.normalized_errors(points, predicted)
    normalized = of_all[~np.isnan(of_all)]
    return Evaluation(
        {"faces": len(points), **found, "faces_with_nme": len(normalized), "mean_error_48": by_point},
        [
            Table(
                "Summary",
                ["", ""],
                [
                    ["faces", f"{len(points):,}"],
                    ["NME (mean error / distance of the eye centres)", f"{found['nme']:.2%}"],
                    ["RMSE, pixels of 48×48", f"{found['rmse_48']:.3f}"],
                    ["RMSE, pixels of 96×96", f"{found['rmse_96']:.3f}"],
                    ["faces with an NME above 10 %", f"{np.mean(normalized > 0.1):.2%}" if len(normalized) else "-"],
                ],
            ),
            Table(
                "By point (mean error in pixels of 48×48)",
                ["point", "mean error", "faces"],
                [[point, f"{by_point[point]:.3f}", f"{n:,}"] for point, n in zip(KEYPOINTS, count, strict=True) if n],
            ),
        ],
        {
            "cumulative": Picture(report.draw_cumulative, {name: normalized}),
            "points": Picture(report.draw_points, {name: by_point}),
            "worst": Picture(partial(report.draw_faces, WORST), {name: _worst(faces, predicted, of_all)}),
        },
    )


def _worst(
    faces: Faces, predicted: NDArray[np.float32], errors: NDArray[np.float64]
) -> list[tuple[Any, str, dict[str, Any]]]:
    """Return the faces with the largest errors, with the true and the predicted points."""
    return [
        (faces.images[i], f"NME {errors[i]:.1%}", {"true": faces.targets[i], "predicted": predicted[i]})
        for i in np.argsort(np.nan_to_num(errors, nan=-1.0))[::-1][:SHOWN]
    ]
