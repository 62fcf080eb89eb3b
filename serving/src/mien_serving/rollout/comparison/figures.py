"""What the answers of two versions come to, and whether the new version may take the place of the old one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from mien_client.contract import KEYPOINTS
from numpy.typing import NDArray

from mien_serving.rollout.comparison.answers import Side
from mien_serving.rollout.requests import P99_GATE, Limits

NEAR: Final = 0.1
"""Two positions of a key point agree if their distance is at most this share of the distance between the eyes."""

_EYES: Final = (KEYPOINTS.index("left_eye_center"), KEYPOINTS.index("right_eye_center"))


@dataclass(frozen=True)
class Gate:
    """A condition on one figure.

    Attributes:
        name: For people.
        figure: What was measured.
        limit: The limit.
        passed: Whether the figure is within the limit.
    """

    name: str
    figure: float
    limit: float
    passed: bool


def measure(stable: Side, canary: Side, truth: NDArray[Any] | None) -> dict[str, float]:
    """Compute the figures from the faces that both versions have answered.

    Args:
        stable: What the stable version answered.
        canary: What the canary answered.
        truth: int [N], indices into ``EMOTIONS``; or float32 [N, 15, 2], pixels; None if it is unknown.

    Returns:
        ``errors_stable`` and ``errors_canary``; ``agreement``, ``drift`` (mean) and ``largest_drift``, in probability
        or in pixels; with the truth ``accuracy_stable``, ``accuracy_canary`` and ``accuracy_delta``, the share of right
        emotions, or of points whose error is at most a tenth of the distance between the eyes; ``p50_ms_stable`` and
        so on in milliseconds; and ``p99_ratio``.
    """
    both = stable.answered & canary.answered
    figures: dict[str, float] = {"errors_stable": len(stable.errors), "errors_canary": len(canary.errors)}
    if not both.any():
        return figures
    one, other = stable.answers[both], canary.answers[both]
    if one.ndim == 2:
        drift = np.abs(one - other).sum(axis=1) / 2
        figures["agreement"] = float((one.argmax(axis=1) == other.argmax(axis=1)).mean())
    else:
        distance = np.linalg.norm(one - other, axis=-1)
        drift = distance.mean(axis=1)
        figures["agreement"] = float((distance <= NEAR * _eyes(one)[:, None]).mean())
    figures |= {"drift": float(drift.mean()), "largest_drift": float(drift.max())}
    if truth is not None:
        right = [_accuracy(answers, truth[both]) for answers in (one, other)]
        if np.isfinite(right).all():
            figures |= {
                "accuracy_stable": right[0],
                "accuracy_canary": right[1],
                "accuracy_delta": right[1] - right[0],
            }
    for side in (stable, canary):
        for quantile in (50, 99):
            figures[f"p{quantile}_ms_{side.label}"] = float(np.percentile(side.seconds[both], quantile)) * 1000
    return figures | {"p99_ratio": figures["p99_ms_canary"] / figures["p99_ms_stable"]}


def _accuracy(answers: NDArray[np.float32], truth: NDArray[Any]) -> float:
    if answers.ndim == 2:
        return float((answers.argmax(axis=1) == truth).mean())
    distance, eyes = np.linalg.norm(answers - truth, axis=-1), _eyes(truth)[:, None]
    known = np.isfinite(distance) & np.isfinite(eyes)
    return float((distance <= NEAR * eyes)[known].mean()) if known.any() else float("nan")


def _eyes(points: NDArray[Any]) -> NDArray[Any]:
    """Return the distance between the eyes in pixels: [N]."""
    distance: NDArray[Any] = np.linalg.norm(points[:, _EYES[0]] - points[:, _EYES[1]], axis=-1)
    return distance


def judge(figures: Mapping[str, float], limits: Limits) -> list[Gate]:
    """Apply the gates. Without answers the comparison fails; without the truth there is no gate on accuracy."""
    errors = figures["errors_canary"] + figures["errors_stable"]
    gates = [Gate("errors", errors, 0, errors == 0)]
    if "agreement" not in figures:
        return [*gates, Gate("agreement", 0.0, limits.min_agreement, passed=False)]
    agreement, ratio = figures["agreement"], figures["p99_ratio"]
    if "accuracy_delta" in figures:
        delta = figures["accuracy_delta"]
        gates.append(Gate("accuracy delta", delta, limits.min_accuracy_delta, delta >= limits.min_accuracy_delta))
    gates.append(Gate("agreement", agreement, limits.min_agreement, agreement >= limits.min_agreement))
    gates.append(Gate(P99_GATE, ratio, limits.max_p99_ratio, ratio <= limits.max_p99_ratio))
    return gates
