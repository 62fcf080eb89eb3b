"""How good a network's answers are, with pictures: of a run, of the shipped weights, or of a running server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from mien_client.contract import EMOTION_MODEL, EMOTIONS, KEYPOINTS
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.metrics import classification_report, confusion_matrix

from mien_training import calibration, metrics, report, robustness
from mien_training.files import write_json
from mien_training.prediction import PREDICTION_BATCH, inference, predict
from mien_training.runs import PRETRAINED, Run
from mien_training.splits import Faces

SHOWN = 24
CONDITION_GROUPS = 5
MISTAKES = "Least probability for the true emotion (true → predicted)"
WORST = "Largest errors"


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
class Picture:
    """A picture that is drawn only when asked for, of one network or of two to compare them.

    Attributes:
        draw: Draws everything in one figure, given what to draw by the network's name.
        of: What to draw, by the network's name.
    """

    draw: Callable[[dict[str, Any]], Figure]
    of: dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        metrics: Named numbers, ready for JSON.
        tables: For people, the summary first.
        pictures: By their name.
    """

    metrics: dict[str, Any]
    tables: list[Table]
    pictures: dict[str, Picture]

    def write(self, folder: Path, title: str, facts: dict[str, str]) -> None:
        """Write ``metrics.json``, a PNG file for each picture, and ``report.html``, which needs no other file.

        Args:
            folder: Made if it is not there.
            title: The report's heading.
            facts: What was evaluated on what, for the report's first lines.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "metrics.json", {"evaluated": facts, **self.metrics})
        pictures = {name: report.png(picture.draw(picture.of)) for name, picture in self.pictures.items()}
        for name, picture in pictures.items():
            report.write_picture(folder / f"{name}.png", picture)
        report.write_html(folder / "report.html", title, facts, self.tables, pictures)


def evaluate_emotion(faces: Faces, probabilities: NDArray[np.float32], name: str) -> Evaluation:
    """Judge emotions.

    Args:
        faces: N of them.
        probabilities: float32 [N, 5].
        name: The network's, for the pictures.
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
    per_class = {emotion: classes[emotion] for emotion in EMOTIONS}
    rows = [
        [emotion, *(f"{values[key]:.3f}" for key in ("precision", "recall", "f1-score")), f"{values['support']:,.0f}"]
        for emotion, values in per_class.items()
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
                [[emotion, *(f"{count:,}" for count in row)] for emotion, row in zip(EMOTIONS, matrix, strict=True)],
            ),
        ],
        {
            "confusion": Picture(report.draw_confusion, {name: matrix}),
            "classes": Picture(report.draw_classes, {name: per_class}),
            "calibration": Picture(report.draw_reliability, {name: bins}),
            "conditions": Picture(partial(report.draw_by_condition, ylabel="accuracy"), {name: conditions}),
            "mistakes": Picture(partial(report.draw_faces, MISTAKES), {name: _mistakes(faces, probabilities)}),
        },
    )


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


class Network(Protocol):
    """What can be asked: uint8 [N, 48, 48] to probabilities float32 [N, 5] or key points float32 [N, 15, 2].

    Its `str` is its name, for people.
    """

    def __call__(self, images: NDArray[np.uint8], advance: Callable[[int], None]) -> Any:
        """Answer, and call `advance` with the number of faces of each batch."""


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on standard error how many of `total` faces are done: a bar on a terminal, elsewhere one line.

    Yields:
        A function to call with the number of faces of each batch that is done.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(what, highlight=False, markup=False, soft_wrap=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield partial(bar.advance, task)


class OfRun:
    """A run's network; see `Network`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._infer = inference(run.load())

    def __call__(self, images: NDArray[np.uint8], advance: Callable[[int], None]) -> Any:
        """Answer."""
        outputs = predict(self._infer, images, advance)
        return tf.nn.softmax(outputs).numpy() if self._run.model == EMOTION_MODEL else outputs

    def __str__(self) -> str:
        shipped = self._run.folder == PRETRAINED / self._run.model
        return "shipped weights" if shipped else str(self._run.folder)


class OfServer:
    """A running server, asked through the client; see `Network`.

    Args:
        address: As `mien_client.Client` takes it.
        model: ``emotion`` or ``keypoints``.
    """

    def __init__(self, address: str, model: str) -> None:
        self._address, self._model = address, model
        self._versions: set[int] = set()

    def __call__(self, images: NDArray[np.uint8], advance: Callable[[int], None]) -> Any:
        """Answer.

        Raises:
            mien_client.MienError: The server could not be asked.
        """
        from mien_client import Client

        parts = []
        with Client(self._address) as client:
            for start in range(0, len(images), PREDICTION_BATCH):
                analysis = client.analyze(images[start : start + PREDICTION_BATCH])
                advance(len(analysis.probabilities))
                parts.append(analysis.probabilities if self._model == EMOTION_MODEL else analysis.keypoints)
                self._versions.add(analysis.versions[self._model])
        return np.concatenate(parts)

    def __str__(self) -> str:
        if not self._versions:
            return self._address
        return f"{self._address}, version {', '.join(map(str, sorted(self._versions)))}"


def add_robustness(evaluation: Evaluation, model: str, faces: Faces, network: Network) -> None:
    """Measure the answers to changed faces too, and add them to an evaluation's numbers and tables."""
    name, shown = ("accuracy", ".4f") if model == EMOTION_MODEL else ("NME", ".2%")
    every = robustness.changes(faces)
    found = {}
    for number, (what, sets) in enumerate(every.items(), start=1):
        with progress(f"{network}: {what} ({number} of {len(every)})", len(sets) * len(faces)) as advance:
            found[what] = robustness.measure(sets, partial(network, advance=advance), SCORE[model])
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


def _mistakes(faces: Faces, probabilities: NDArray[np.float32]) -> list[tuple[Any, str, dict[str, Any]]]:
    """The faces whose true emotion the network gave the least probability."""
    chance = probabilities[np.arange(len(faces)), faces.targets]
    return [
        (
            faces.images[i],
            f"{EMOTIONS[int(faces.targets[i])]} → {EMOTIONS[int(probabilities[i].argmax())]} "
            f"{probabilities[i].max():.0%}",
            {},
        )
        for i in np.argsort(chance)[:SHOWN]
    ]


def _worst(
    faces: Faces, predicted: NDArray[np.float32], errors: NDArray[np.float64]
) -> list[tuple[Any, str, dict[str, Any]]]:
    """The faces with the largest errors, with the true and the predicted points."""
    return [
        (faces.images[i], f"NME {errors[i]:.1%}", {"true": faces.targets[i], "predicted": predicted[i]})
        for i in np.argsort(np.nan_to_num(errors, nan=-1.0))[::-1][:SHOWN]
    ]


EVALUATE: dict[str, Callable[[Faces, Any, str], Evaluation]] = {
    "emotion": evaluate_emotion,
    "keypoints": evaluate_keypoints,
}
SCORE: dict[str, Callable[[Any, Any], float]] = {
    "emotion": lambda labels, probabilities: float(np.mean(probabilities.argmax(axis=1) == labels)),
    "keypoints": lambda points, predicted: metrics.keypoint_metrics(points, predicted)["nme"],
}
