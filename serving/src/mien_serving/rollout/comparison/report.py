"""The HTML report of a comparison: one file without scripts that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import jinja2
import numpy as np
import PIL.Image
from mien_client.contract import EMOTIONS, IMAGE_SIZE, KEYPOINTS
from numpy.typing import NDArray

from mien_serving.rollout.comparison.answers import Side
from mien_serving.rollout.comparison.faces import Faces

_MOST_FACES: Final = 40

Rows: TypeAlias = list[Sequence[str]]


@dataclass(frozen=True)
class _Picture:
    """A face of the report: its PNG file as a data URL, what stands below it, and the key points drawn over it."""

    index: int
    source: str
    lines: list[str]
    points: list[tuple[str, str, str]]


def page(document: Mapping[str, Any], faces: Faces, stable: Side, canary: Side) -> str:
    """Return the report as an HTML page.

    Args:
        document: The comparison, as `Comparison.document` returns it.
        faces: The faces that were asked about.
        stable: What the stable version answered.
        canary: What the canary answered.
    """
    emotions = stable.answers.ndim == 2
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mien_serving.rollout.comparison", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.jinja").render(
        title=f"{document['model']}: canary {document['canary']} beside stable {document['stable']}",
        verdict="passed" if document["passed"] else "failed",
        document=document,
        gates=[
            (gate["name"], f"{gate['figure']:.4g}", f"{gate['limit']:g}", "passed" if gate["passed"] else "failed")
            for gate in document["gates"]
        ],
        figures=[(name.replace("_", " "), f"{value:.4g}") for name, value in document["figures"].items()],
        errors=[(error,) for error in document["errors"]],
        accuracies=_accuracies(faces.truth, stable, canary) if emotions and faces.truth is not None else [],
        differences=_confusion(stable, canary) if emotions else _distances(stable, canary),
        pictures=_pictures(faces, stable, canary),
        size=IMAGE_SIZE,
    )


def _accuracies(truth: NDArray[Any], stable: Side, canary: Side) -> Rows:
    both = stable.answered & canary.answered
    rows: Rows = []
    for index, name in enumerate(EMOTIONS):
        chosen = both & (truth == index)
        if chosen.any():
            right = [(side.answers[chosen].argmax(axis=1) == index).mean() for side in (stable, canary)]
            rows.append((name, str(chosen.sum()), *(f"{share:.3f}" for share in right)))
    return rows


def _confusion(stable: Side, canary: Side) -> tuple[Sequence[str], Rows]:
    both = stable.answered & canary.answered
    one, other = stable.answers[both].argmax(axis=1), canary.answers[both].argmax(axis=1)
    counts = np.zeros((len(EMOTIONS), len(EMOTIONS)), int)
    np.add.at(counts, (one, other), 1)
    rows: Rows = [(f"stable: {name}", *map(str, counts[index])) for index, name in enumerate(EMOTIONS)]
    return ("", *(f"canary: {name}" for name in EMOTIONS)), rows


def _distances(stable: Side, canary: Side) -> tuple[Sequence[str], Rows]:
    both = stable.answered & canary.answered
    rows: Rows = []
    if both.any():
        distance = np.linalg.norm(stable.answers[both] - canary.answers[both], axis=-1)
        rows += [
            (name, f"{of_point.mean():.2f}", f"{of_point.max():.2f}")
            for name, of_point in zip(KEYPOINTS, distance.T, strict=True)
        ]
    return ("point", "mean distance in px", "largest"), rows


def _pictures(faces: Faces, stable: Side, canary: Side) -> list[_Picture]:
    emotions = stable.answers.ndim == 2
    apart = stable.answers - canary.answers
    drift = np.abs(apart).mean(axis=1) if emotions else np.linalg.norm(apart, axis=-1).mean(axis=1)
    order = [int(index) for index in np.argsort(-np.nan_to_num(drift, nan=-1.0)) if drift[index] > 0]
    draw = _emotions if emotions else _points
    return [draw(faces, stable, canary, index) for index in order[:_MOST_FACES]]


def _emotions(faces: Faces, stable: Side, canary: Side, index: int) -> _Picture:
    lines = []
    for side in (stable, canary):
        answer = side.answers[index]
        lines.append(f"{side.label}: {EMOTIONS[int(answer.argmax())]} {answer.max():.0%}")
    if faces.truth is not None:
        lines.append(f"labelled {EMOTIONS[int(faces.truth[index])]}")
    return _Picture(index, _source(faces, index), lines, [])


def _points(faces: Faces, stable: Side, canary: Side, index: int) -> _Picture:
    points = [
        (name, f"{x:.2f}", f"{y:.2f}")
        for name, side in (("stable", stable), ("canary", canary))
        for x, y in side.answers[index]
    ]
    apart = np.linalg.norm(stable.answers[index] - canary.answers[index], axis=-1).mean()
    return _Picture(index, _source(faces, index), [f"{apart:.2f} px apart"], points)


def _source(faces: Faces, index: int) -> str:
    file = io.BytesIO()
    PIL.Image.fromarray(faces.images[index]).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
