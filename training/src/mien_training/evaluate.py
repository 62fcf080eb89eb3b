"""How good a network's answers are, with pictures: of a run, of the shipped weights, or of a running server."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from mien_client.contract import EMOTIONS, KEYPOINTS
from numpy.typing import NDArray
from sklearn.metrics import classification_report, confusion_matrix

from mien_training import metrics, report
from mien_training.files import write_json
from mien_training.splits import Faces

SERVER_BATCH = 256


@dataclass(frozen=True)
class Table:
    """A table as people read it.

    Attributes:
        title: What it shows.
        header: Column names.
        rows: Cells, as text.
    """

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        metrics: Named numbers, ready for JSON.
        tables: For people, the summary first.
        figures: Pictures by name; drawn only when asked for.
    """

    metrics: dict[str, Any]
    tables: list[Table]
    figures: dict[str, Callable[[], Figure]]

    def write(self, folder: Path, title: str, facts: dict[str, str]) -> None:
        """Write ``metrics.json``, a PNG file for each picture, and ``report.html``, which needs no other file.

        Args:
            folder: Made if it is not there.
            title: The report's heading.
            facts: What was evaluated on what, for the report's first lines.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "metrics.json", {"evaluated": facts, **self.metrics})
        pictures = {name: report.png(draw()) for name, draw in self.figures.items()}
        for name, picture in pictures.items():
            report.write_picture(folder / f"{name}.png", picture)
        report.write_html(folder / "report.html", title, facts, self.tables, pictures)


def evaluate_emotion(labels: NDArray[np.int32], probabilities: NDArray[np.float32]) -> Evaluation:
    """Judge emotions.

    Args:
        labels: int32 [N].
        probabilities: float32 [N, 5], or logits.
    """
    predicted = probabilities.argmax(axis=1)
    every = range(len(EMOTIONS))
    found = metrics.emotion_metrics(labels, predicted)
    classes: dict[str, Any] = classification_report(
        labels, predicted, labels=every, target_names=EMOTIONS, output_dict=True, zero_division=0
    )
    matrix = confusion_matrix(labels, predicted, labels=every)
    per_class = {name: classes[name] for name in EMOTIONS}
    rows = [
        [name, *(f"{values[key]:.3f}" for key in ("precision", "recall", "f1-score")), f"{values['support']:,.0f}"]
        for name, values in per_class.items()
    ]
    return Evaluation(
        {"faces": len(labels), **found, "classes": per_class, "confusion": matrix.tolist()},
        [
            _summary(len(labels), {"accuracy": f"{found['accuracy']:.4f}", "macro-F1": f"{found['macro_f1']:.4f}"}),
            Table("By emotion", ["emotion", "precision", "recall", "F1", "faces"], rows),
            Table(
                "Confusion (rows: true, columns: predicted)",
                ["", *EMOTIONS],
                [[name, *(f"{count:,}" for count in row)] for name, row in zip(EMOTIONS, matrix, strict=True)],
            ),
        ],
        {
            "confusion": lambda: report.draw_confusion(matrix),
            "classes": lambda: report.draw_classes(per_class),
        },
    )


def evaluate_keypoints(points: NDArray[np.float32], predicted: NDArray[np.float32]) -> Evaluation:
    """Judge key points.

    Args:
        points: float32 [N, 15, 2] pixels of the 48×48 image, NaN where missing.
        predicted: float32 [N, 15, 2].
    """
    found = metrics.keypoint_metrics(points, predicted)
    errors = metrics.keypoint_errors(points, predicted)
    known = ~np.isnan(errors)
    count = known.sum(axis=0)
    mean = np.where(known, errors, 0).sum(axis=0) / np.maximum(count, 1)
    by_point = {name: float(value) for name, value, n in zip(KEYPOINTS, mean, count, strict=True) if n}
    normalized = metrics.normalized_errors(points, predicted)
    normalized = normalized[~np.isnan(normalized)]
    return Evaluation(
        {"faces": len(points), **found, "faces_with_nme": len(normalized), "mean_error_48": by_point},
        [
            _summary(
                len(points),
                {
                    "NME (mean error / distance of the eye centres)": f"{found['nme']:.2%}",
                    "RMSE, pixels of 48×48": f"{found['rmse_48']:.3f}",
                    "RMSE, pixels of 96×96": f"{found['rmse_96']:.3f}",
                    "faces with an NME above 10 %": f"{np.mean(normalized > 0.1):.2%}" if len(normalized) else "-",
                },
            ),
            Table(
                "By point",
                ["point", "mean error, pixels of 48×48", "faces"],
                [[name, f"{by_point[name]:.3f}", f"{n:,}"] for name, n in zip(KEYPOINTS, count, strict=True) if n],
            ),
        ],
        {
            "cumulative": lambda: report.draw_cumulative(normalized),
            "points": lambda: report.draw_points(by_point),
        },
    )


def answers_of_server(address: str, model: str, faces: Faces, advance: Callable[[int], None]) -> Any:
    """Ask a running server through the client.

    Args:
        address: As `mien_client.Client` takes it.
        model: ``emotion`` or ``keypoints``.
        faces: N of them.
        advance: Told how many more faces were answered.

    Returns:
        Probabilities float32 [N, 5] or key points float32 [N, 15, 2], and the versions that answered, as text.

    Raises:
        mien_client.MienError: The server could not be asked.
    """
    from mien_client import Client

    parts, versions = [], set()
    with Client(address) as client:
        for start in range(0, len(faces), SERVER_BATCH):
            analysis = client.analyze(faces.images[start : start + SERVER_BATCH])
            parts.append(analysis.probabilities if model == "emotion" else analysis.keypoints)
            versions.add(analysis.versions[model])
            advance(len(analysis))
    return np.concatenate(parts), ", ".join(map(str, sorted(versions)))


def _summary(faces: int, values: dict[str, str]) -> Table:
    return Table("Summary", ["", ""], [["faces", f"{faces:,}"], *([name, value] for name, value in values.items())])


EVALUATE: dict[str, Callable[[Any, Any], Evaluation]] = {"emotion": evaluate_emotion, "keypoints": evaluate_keypoints}
