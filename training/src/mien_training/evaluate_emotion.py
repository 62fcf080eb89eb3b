"""How good emotions are: against the file's labels and, where there are votes, against what most voters agree on."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from mien_client.contract import EMOTIONS
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, classification_report, confusion_matrix

from mien_training import calibration, metrics, report
from mien_training.evaluation import Evaluation, Picture
from mien_training.report import Table
from mien_training.splits import Faces

SHOWN = 24
CONDITION_GROUPS = 5
MISTAKES = "Least probability for the true emotion (true → predicted)"
THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
_FIVE = len(EMOTIONS)


@dataclass(frozen=True)
class EmotionAnswers:
    """What an emotion network says of N faces.

    Attributes:
        probabilities: float32 [N, 5].
        other: float32 [N], the probability that the face shows none of the five; None where the network has no such
            output.
    """

    probabilities: NDArray[np.float32]
    other: NDArray[np.float32] | None = None


def evaluate_emotion(faces: Faces, answers: EmotionAnswers, name: str) -> Evaluation:
    """Judge emotions.

    The summary shows each truth that is known, the labels and the consensus of the voters. Everything else is measured
    against the consensus where there are votes, else against the labels.

    Args:
        faces: N of them; those that show none of the five count only for `other`.
        answers: Of N faces.
        name: The network's, for the pictures.
    """
    found = metrics.emotion_metrics(faces, answers.probabilities.argmax(axis=1), answers.other)
    truths = {"label": faces.targets.astype(np.int32)}
    if faces.consensus is not None:
        truths["consensus"] = faces.consensus
    by_truth = {which: _measure(truth, answers.probabilities) for which, truth in truths.items()}
    main = [*by_truth][-1]
    measured, truth = by_truth[main], truths[main]
    shown = (truth >= 0) & (truth < _FIVE)
    labels, probabilities = truth[shown], answers.probabilities[shown]
    images = faces.images[shown]
    conditions = _by_condition(images, probabilities.argmax(axis=1) == labels)
    per_class, matrix = measured["classes"], np.array(measured["confusion"])
    numbers = {**by_truth["label"], **({"consensus": by_truth["consensus"]} if "consensus" in by_truth else {})}
    tables = [
        _summary(by_truth),
        Table(f"By emotion, against the {main}", ["emotion", "precision", "recall", "F1", "faces"], _rows(per_class)),
        Table(
            f"Confusion (rows: {main}, columns: predicted)",
            ["", *EMOTIONS],
            [[emotion, *(f"{count:,}" for count in row)] for emotion, row in zip(EMOTIONS, matrix, strict=True)],
        ),
    ]
    pictures = {
        "confusion": Picture(report.draw_confusion, {name: matrix}),
        "classes": Picture(report.draw_classes, {name: per_class}),
        "calibration": Picture(report.draw_reliability, {name: calibration.reliability(labels, probabilities)}),
        "conditions": Picture(partial(report.draw_by_condition, ylabel="accuracy"), {name: conditions}),
        "mistakes": Picture(partial(report.draw_faces, MISTAKES), {name: _mistakes(images, labels, probabilities)}),
    }
    if answers.other is not None and "other_auc" in found:
        known = truth >= 0
        none, other = truth[known] >= _FIVE, answers.other[known]
        numbers["other"] = _measure_other(none, other, found["other_auc"])
        tables += _other_tables(numbers["other"])
        pictures["other"] = Picture(report.draw_other, {name: (none, other)})
    return Evaluation(numbers, tables, pictures)


def five_of(faces: Faces) -> Faces:
    """Return the faces that show one of the five emotions, by the consensus or, without votes, by the label."""
    return faces[(faces.truth >= 0) & (faces.truth < _FIVE)]


def _measure(truth: NDArray[np.int32], probabilities: NDArray[np.float32]) -> dict[str, Any]:
    shown = (truth >= 0) & (truth < _FIVE)
    labels, of_five = truth[shown], probabilities[shown]
    predicted, every = of_five.argmax(axis=1), range(_FIVE)
    classes: dict[str, Any] = classification_report(
        labels, predicted, labels=every, target_names=EMOTIONS, output_dict=True, zero_division=0
    )
    return {
        "faces": int(shown.sum()),
        **metrics.accuracy_and_f1(labels, predicted),
        "ece": calibration.expected_calibration_error(labels, of_five),
        "classes": {emotion: classes[emotion] for emotion in EMOTIONS},
        "confusion": confusion_matrix(labels, predicted, labels=every).tolist(),
    }


def _summary(by_truth: dict[str, dict[str, Any]]) -> Table:
    cells = {
        "faces that show one of the five": ("faces", ","),
        "accuracy": ("accuracy", ".4f"),
        "macro-F1": ("macro_f1", ".4f"),
        f"expected calibration error, {calibration.BINS} bins": ("ece", ".4f"),
    }
    header = [""] if len(by_truth) == 1 else [*by_truth]
    rows = [[what, *(format(one[key], form) for one in by_truth.values())] for what, (key, form) in cells.items()]
    return Table("Summary", ["", *header], rows)


def _rows(classes: dict[str, dict[str, float]]) -> list[list[str]]:
    kinds = ("precision", "recall", "f1-score")
    return [
        [emotion, *(f"{values[kind]:.3f}" for kind in kinds), f"{values['support']:,.0f}"]
        for emotion, values in classes.items()
    ]


def _measure_other(none: NDArray[np.bool_], other: NDArray[np.float32], auc: float) -> dict[str, Any]:
    """Measure the probability of none of the five, `other`, float32 [N], against `none`, bool [N]."""
    two = np.stack([1 - other, other], axis=1)
    at = {}
    for threshold in THRESHOLDS:
        flagged = other >= threshold
        at[str(threshold)] = {
            "recall": float(flagged[none].mean()),
            "false_alarms": float(flagged[~none].mean()),
            "precision": float(none[flagged].mean()) if flagged.any() else None,
        }
    return {
        "faces": {"none of the five": int(none.sum()), "one of the five": int((~none).sum())},
        "auc": auc,
        "average_precision": float(average_precision_score(none, other)),
        "ece": calibration.expected_calibration_error(none.astype(np.int32), two),
        "thresholds": at,
    }


def _other_tables(found: dict[str, Any]) -> list[Table]:
    rows = [
        ["faces that show none of the five", f"{found['faces']['none of the five']:,}"],
        ["faces that show one of the five", f"{found['faces']['one of the five']:,}"],
        ["area under the ROC curve", f"{found['auc']:.4f}"],
        ["average precision", f"{found['average_precision']:.4f}"],
        [f"expected calibration error, {calibration.BINS} bins", f"{found['ece']:.4f}"],
    ]
    thresholds = [
        [
            threshold,
            f"{at['recall']:.3f}",
            f"{at['false_alarms']:.3f}",
            "-" if at["precision"] is None else f"{at['precision']:.3f}",
        ]
        for threshold, at in found["thresholds"].items()
    ]
    return [
        Table("None of the five", ["", ""], rows),
        Table("Thresholds of `other`", ["at least", "recall", "false alarms", "precision"], thresholds),
    ]


def _by_condition(images: NDArray[np.uint8], score: NDArray[Any]) -> dict[str, list[tuple[float, float]]]:
    """Return the mean score of the fifths of the faces, by brightness and by sharpness."""
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


def _mistakes(
    images: NDArray[np.uint8], labels: NDArray[np.int32], probabilities: NDArray[np.float32]
) -> list[tuple[Any, str, dict[str, Any]]]:
    """Return the faces whose true emotion the network gave the least probability."""
    chance = probabilities[np.arange(len(labels)), labels]
    return [
        (
            images[i],
            f"{EMOTIONS[int(labels[i])]} → {EMOTIONS[int(probabilities[i].argmax())]} {probabilities[i].max():.0%}",
            {},
        )
        for i in np.argsort(chance)[:SHOWN]
    ]
