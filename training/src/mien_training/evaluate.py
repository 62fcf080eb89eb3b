"""How good a network's answers are, with pictures: of a run, of the shipped weights, or of a running server."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from mien_client.contract import EMOTION_MODEL, EMOTIONS, KEYPOINTS
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from sklearn.metrics import classification_report, confusion_matrix

from mien_training import calibration, metrics, report, robustness
from mien_training.files import write_json
from mien_training.prediction import inference, predict
from mien_training.runs import PRETRAINED, Run
from mien_training.splits import Faces

SERVER_BATCH = 256
SHOWN = 24
CONDITION_GROUPS = 5


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


def evaluate_emotion(faces: Faces, probabilities: NDArray[np.float32]) -> Evaluation:
    """Judge emotions.

    Args:
        faces: N of them.
        probabilities: float32 [N, 5].
    """
    labels, predicted = faces.targets.astype(np.int32), probabilities.argmax(axis=1)
    every = range(len(EMOTIONS))
    found = metrics.emotion_metrics(labels, predicted)
    bins = calibration.reliability(labels, probabilities)
    error = calibration.expected_calibration_error(labels, probabilities)
    classes: dict[str, Any] = classification_report(
        labels, predicted, labels=every, target_names=EMOTIONS, output_dict=True, zero_division=0
    )
    conditions = _by_condition(faces.images, predicted == labels)
    matrix = confusion_matrix(labels, predicted, labels=every)
    per_class = {name: classes[name] for name in EMOTIONS}
    rows = [
        [name, *(f"{values[key]:.3f}" for key in ("precision", "recall", "f1-score")), f"{values['support']:,.0f}"]
        for name, values in per_class.items()
    ]
    return Evaluation(
        {"faces": len(labels), **found, "ece": error, "classes": per_class, "confusion": matrix.tolist()},
        [
            _summary(
                len(labels),
                {
                    "accuracy": f"{found['accuracy']:.4f}",
                    "macro-F1": f"{found['macro_f1']:.4f}",
                    f"expected calibration error, {calibration.BINS} bins": f"{error:.4f}",
                },
            ),
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
            "calibration": lambda: report.draw_reliability(bins),
            "conditions": lambda: report.draw_by_condition(conditions, "accuracy"),
            "mistakes": lambda: _draw_mistakes(faces, probabilities),
        },
    )


def evaluate_keypoints(faces: Faces, predicted: NDArray[np.float32]) -> Evaluation:
    """Judge key points.

    Args:
        faces: N of them.
        predicted: float32 [N, 15, 2].
    """
    points = faces.targets.astype(np.float32)
    found = metrics.keypoint_metrics(points, predicted)
    errors = metrics.keypoint_errors(points, predicted)
    known = ~np.isnan(errors)
    count = known.sum(axis=0)
    mean = np.where(known, errors, 0).sum(axis=0) / np.maximum(count, 1)
    by_point = {name: float(value) for name, value, n in zip(KEYPOINTS, mean, count, strict=True) if n}
    of_all = metrics.normalized_errors(points, predicted)
    normalized = of_all[~np.isnan(of_all)]
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
            "worst": lambda: _draw_worst(faces, predicted, of_all),
        },
    )


class OfRun:
    """A run's network, asked: uint8 [N, 48, 48] to probabilities float32 [N, 5] or key points float32 [N, 15, 2]."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._infer = inference(run.load())

    def __call__(self, images: NDArray[np.uint8]) -> Any:
        """Answer."""
        outputs = predict(self._infer, images)
        return tf.nn.softmax(outputs).numpy() if self._run.model == EMOTION_MODEL else outputs

    def __str__(self) -> str:
        shipped = self._run.folder == PRETRAINED / self._run.model
        return "shipped weights" if shipped else str(self._run.folder)


class OfServer:
    """A running server, asked through the client; as `OfRun`.

    Args:
        address: As `mien_client.Client` takes it.
        model: ``emotion`` or ``keypoints``.
    """

    def __init__(self, address: str, model: str) -> None:
        self._address, self._model = address, model
        self._versions: set[int] = set()

    def __call__(self, images: NDArray[np.uint8]) -> Any:
        """Answer.

        Raises:
            mien_client.MienError: The server could not be asked.
        """
        from mien_client import Client

        parts = []
        starts = range(0, len(images), SERVER_BATCH)
        with Client(self._address) as client:
            for start in track(starts, "Asking the server", console=Console(stderr=True)):
                analysis = client.analyze(images[start : start + SERVER_BATCH])
                parts.append(analysis.probabilities if self._model == EMOTION_MODEL else analysis.keypoints)
                self._versions.add(analysis.versions[self._model])
        return np.concatenate(parts)

    def __str__(self) -> str:
        return f"{self._address}, version {', '.join(map(str, sorted(self._versions)))}"


def add_robustness(evaluation: Evaluation, model: str, faces: Faces, answer: Callable[[Any], Any]) -> None:
    """Measure the answers to changed faces too, and add them to an evaluation's numbers and tables."""
    name, shown = ("accuracy", ".4f") if model == EMOTION_MODEL else ("NME", ".2%")
    found = robustness.measure(faces, answer, SCORE[model])
    evaluation.metrics["robustness"] = found
    rows = [[what, format(value, shown)] for what, value in found.items()]
    evaluation.tables.append(Table("Changed faces", ["", name], rows))


def _summary(faces: int, values: dict[str, str]) -> Table:
    return Table("Summary", ["", ""], [["faces", f"{faces:,}"], *([name, value] for name, value in values.items())])


def _by_condition(images: NDArray[np.uint8], score: NDArray[Any]) -> dict[str, list[tuple[float, float]]]:
    """Mean score of the fifths of the faces, from the darkest to the brightest and from the most blurred on."""
    grey = images.astype(np.float32)
    inner = grey[:, 1:-1, 1:-1]
    edges = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * inner
    found = {}
    for name, values in {
        "mean grey level": grey.mean(axis=(1, 2)),
        "sharpness (standard deviation of the Laplacian)": edges.std(axis=(1, 2)),
    }.items():
        parts = [part for part in np.array_split(np.argsort(values), CONDITION_GROUPS) if len(part)]
        found[name] = [(float(values[part].mean()), float(score[part].mean())) for part in parts]
    return found


def _draw_mistakes(faces: Faces, probabilities: NDArray[np.float32]) -> Figure:
    """The faces whose true emotion the network gave the least chance."""
    chance = probabilities[np.arange(len(faces)), faces.targets]
    worst = np.argsort(chance)[:SHOWN]
    titles = [
        f"{EMOTIONS[int(faces.targets[i])]} → {EMOTIONS[int(probabilities[i].argmax())]} {probabilities[i].max():.0%}"
        for i in worst
    ]
    return report.draw_faces(faces.images[worst], titles, [{} for _ in worst])


def _draw_worst(faces: Faces, predicted: NDArray[np.float32], errors: NDArray[np.float64]) -> Figure:
    """The faces with the largest errors: truth in green, prediction in red."""
    worst = np.argsort(np.nan_to_num(errors, nan=-1.0))[::-1][:SHOWN]
    marks = [{"lime": faces.targets[i], "red": predicted[i]} for i in worst]
    return report.draw_faces(faces.images[worst], [f"NME {errors[i]:.1%}" for i in worst], marks)


EVALUATE: dict[str, Callable[[Faces, Any], Evaluation]] = {"emotion": evaluate_emotion, "keypoints": evaluate_keypoints}
SCORE: dict[str, Callable[[Any, Any], float]] = {
    "emotion": lambda labels, probabilities: float(np.mean(probabilities.argmax(axis=1) == labels)),
    "keypoints": lambda points, predicted: metrics.keypoint_metrics(points, predicted)["nme"],
}
