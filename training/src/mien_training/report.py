"""Pictures and tables of runs and evaluations, and the page that shows them."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from mien_client.contract import EMOTIONS
from mien_client.writing import write_atomically
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

COLOURS = ("tab:blue", "tab:orange")
POINT_COLOURS = ("lime", "red")
FACES_IN_A_ROW = 6
NAME_CHARACTERS = 45


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


def draw_curves(history: list[dict[str, float]], metric: str, best_epoch: int, title: str) -> Figure:
    """Draw training loss and validation metric over the epochs, the kept epoch marked.

    Args:
        history: A row an epoch, with ``epoch``, ``loss`` and ``val_<metric>``.
        metric: The validation metric to draw.
        best_epoch: The epoch whose weights were kept.
        title: Above both.
    """
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(history) < 10 else None
    figure, every = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    lines = {"training loss": "loss", f"validation {metric}": f"val_{metric}"}
    for axes, (name, key), colour in zip(every, lines.items(), COLOURS, strict=True):
        axes.plot(epochs, [row[key] for row in history], color=colour, marker=marker, label=name)
        axes.axvline(best_epoch, color="grey", linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.set(xlabel="epoch", ylabel=name, xlim=(0.5, len(history) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def draw_confusion(matrices: dict[str, NDArray[np.int64]]) -> Figure:
    """Draw confusion matrices side by side, int [5, 5] each, rows true: colours show shares of the row.

    Args:
        matrices: By the network's name.
    """
    figure, every = _side_by_side("Confusion: number of faces", len(matrices), (5.5, 5.2))
    for axes, (name, matrix) in zip(every, matrices.items(), strict=True):
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        sns.heatmap(
            shares, annot=matrix, fmt="d", cmap="Blues", vmin=0, vmax=1, cbar=False, square=True,
            xticklabels=EMOTIONS, yticklabels=EMOTIONS, ax=axes,
        )  # fmt: skip
        axes.set(xlabel="predicted", title=_shorten(name))
        axes.tick_params(labelleft=axes is every[0])
    every[0].set(ylabel="true")
    figure.colorbar(every[0].collections[0], ax=every, label="share of the true emotion's faces", shrink=0.8)
    return figure


def draw_classes(classes: dict[str, dict[str, dict[str, float]]]) -> Figure:
    """Draw precision, recall and F1 of every emotion as bars, one network beside the other.

    Args:
        classes: By the network's name, then by emotion.
    """
    figure, every = _side_by_side("Precision, recall and F1 of each emotion", len(classes), (6, 4.2))
    for axes, (name, emotions) in zip(every, classes.items(), strict=True):
        for offset, kind in enumerate(("precision", "recall", "f1-score")):
            places = np.arange(len(emotions)) + (offset - 1) * 0.27
            label = kind.replace("f1-score", "F1")
            axes.bar(places, [values[kind] for values in emotions.values()], 0.27, label=label)
        axes.set(ylim=(0, 1), xticks=range(len(emotions)), xticklabels=list(emotions), title=_shorten(name))
        axes.grid(axis="y", alpha=0.3)
    figure.legend(*every[0].get_legend_handles_labels(), ncols=3, loc="outside lower center")
    return figure


def draw_reliability(bins: dict[str, list[tuple[float, float, float]]]) -> Figure:
    """Draw accuracy against confidence, each dot as large as its share of the faces.

    Args:
        bins: By the network's name, (confidence, accuracy, share) each.
    """
    figure, axes = plt.subplots(figsize=(6, 5.5), layout="constrained")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfectly calibrated")
    for (name, one), colour in zip(bins.items(), COLOURS, strict=False):
        confidence, accuracy, share = np.array(one).T
        axes.plot(confidence, accuracy, color=colour, label=_shorten(name))
        axes.scatter(confidence, accuracy, 20 + 800 * share, color=colour, alpha=0.5)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("Calibration; the larger a dot, the more faces")
    axes.grid(alpha=0.3)
    _legend_below(figure, axes)
    return figure


def draw_by_condition(conditions: dict[str, dict[str, list[tuple[float, float]]]], ylabel: str) -> Figure:
    """Draw a score against each condition of the pictures.

    Args:
        conditions: By the network's name, then by the condition's: (condition, score) of groups of faces.
        ylabel: What the score is.
    """
    kinds = list(next(iter(conditions.values())))
    title = f"{ylabel.capitalize()} by condition of the picture; each dot is a fifth of the faces"
    figure, every = _side_by_side(title, len(kinds), (4.5, 4))
    for axes, kind in zip(every, kinds, strict=True):
        for (name, one), colour in zip(conditions.items(), COLOURS, strict=False):
            axes.plot(*zip(*one[kind], strict=True), marker="o", color=colour, label=_shorten(name))
        axes.set(xlabel=kind)
        axes.grid(alpha=0.3)
    every[0].set(ylabel=ylabel)
    _legend_below(figure, every[0])
    return figure


def draw_faces(title: str, faces: "dict[str, list[tuple[NDArray[np.uint8], str, dict[str, Any]]]]") -> Figure:
    """Draw faces in grids, six in a row, one network's below the other's.

    Args:
        title: Above all.
        faces: By the network's name, for each face: the image, uint8 [48, 48]; its caption; and key points, float
            [15, 2], by what they are.
    """
    rows = [-(-len(one) // FACES_IN_A_ROW) for one in faces.values()]
    figure = plt.figure(figsize=(11, 0.9 + sum(2.1 * count + 0.4 for count in rows)), layout="constrained")
    figure.suptitle(title)
    parts = figure.subfigures(len(rows), 1, height_ratios=rows, squeeze=False)
    for part, (name, one), count in zip(parts.flat, faces.items(), rows, strict=True):
        part.suptitle(_shorten(name))
        every = part.subplots(count, FACES_IN_A_ROW, squeeze=False)
        for axes in every.flat:
            axes.axis("off")
        for axes, (image, caption, points) in zip(every.flat, one, strict=False):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            axes.set_title(caption, fontsize=8)
            axes.autoscale(enable=False)  # points beside the face must not shrink it
            for (what, places), colour in zip(points.items(), POINT_COLOURS, strict=False):
                axes.scatter(*places.T, s=7, color=colour, label=what)
        if labels := every[0, 0].get_legend_handles_labels()[1]:
            dots = [Line2D([], [], color=colour, marker="o", linestyle="") for colour in POINT_COLOURS[: len(labels)]]
            part.legend(dots, labels, ncols=len(labels), loc="outside lower center")
    return figure


def draw_other(answers: dict[str, tuple[NDArray[np.bool_], NDArray[np.float32]]]) -> Figure:
    """Draw how well none of the five is told from the five: the ROC curve, and precision against recall.

    Args:
        answers: By the network's name, which faces show none of the five, bool [N], and `other`, float32 [N].
    """
    figure, (roc, precision) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
    figure.suptitle("None of the five")
    for (name, (none, other)), colour in zip(answers.items(), COLOURS, strict=False):
        false_alarms, recall, _ = roc_curve(none, other)
        roc.plot(false_alarms, recall, color=colour, label=_shorten(name))
        right, found, _ = precision_recall_curve(none, other)
        precision.plot(found, right, color=colour)
    roc.set(xlabel="false alarms: share of the faces with one of the five", ylabel="recall", title="ROC curve")
    precision.set(xlabel="recall", ylabel="precision", title="Precision and recall")
    for axes in (roc, precision):
        axes.set(xlim=(0, 1), ylim=(0, 1.01))
        axes.grid(alpha=0.3)
    figure.legend(*roc.get_legend_handles_labels(), ncols=2, loc="outside lower center")
    return figure


def draw_cumulative(normalized: dict[str, NDArray[np.float64]]) -> Figure:
    """Draw the share of faces whose NME is at most that on the axis (cumulative error curve).

    Args:
        normalized: By the network's name, float [N].
    """
    figure, axes = plt.subplots(figsize=(6, 4.8), layout="constrained")
    for (name, errors), colour in zip(normalized.items(), COLOURS, strict=False):
        sns.ecdfplot(x=100 * errors, ax=axes, color=colour, label=_shorten(name))
    axes.set(xlabel="NME, % of the distance of the eye centres", ylabel="share of faces", xlim=(0, 15), ylim=(0, 1))
    axes.set_title("Share of faces with at most this error")
    axes.grid(alpha=0.3)
    _legend_below(figure, axes)
    return figure


def draw_points(errors: dict[str, dict[str, float]]) -> Figure:
    """Draw each point's mean error in pixels of the 48×48 image as bars.

    Args:
        errors: By the network's name, then by the point's.
    """
    figure, axes = plt.subplots(figsize=(7, 3.5 + 1.5 * len(errors)), layout="constrained")
    points = list(next(iter(errors.values())))
    height = 0.8 / len(errors)
    for index, ((name, one), colour) in enumerate(zip(errors.items(), COLOURS, strict=False)):
        places = np.arange(len(points)) + (index - (len(errors) - 1) / 2) * height
        axes.barh(places, [one[point] for point in points], height, color=colour, label=_shorten(name))
    axes.set(xlabel="mean error, pixels of the 48×48 image", yticks=range(len(points)), yticklabels=points)
    axes.set_title("Mean error of each point")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    _legend_below(figure, axes)
    return figure


def _side_by_side(title: str, count: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    """Make axes in a row, with one title and the same ranges."""
    figure, every = plt.subplots(
        1, count, figsize=(size[0] * count, size[1]), layout="constrained", sharey=True, squeeze=False
    )
    figure.suptitle(title)
    return figure, every[0]


def _legend_below(figure: Figure, axes: Any) -> None:
    """Name every line below the axes, where the legend hides none of them, however long the names are."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center")


def _shorten(name: str) -> str:
    """Shorten a long name to its mark and its end, where paths differ."""
    if len(name) <= NAME_CHARACTERS:
        return name
    mark = name[:3] if name[1:3] == ": " else ""
    return f"{mark}…{name[len(mark) + 1 - NAME_CHARACTERS :]}"


def png(figure: Figure) -> bytes:
    """Turn a figure into a PNG file's bytes, and close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def write_picture(path: Path, picture: bytes) -> None:
    """Write a picture, atomically."""
    write_atomically(path, lambda stream: stream.write(picture))


def write_html(
    path: Path, title: str, facts: dict[str, str], tables: "list[Table]", pictures: dict[str, bytes]
) -> None:
    """Write one page that holds everything it shows, atomically.

    Args:
        path: Where to.
        title: Its heading.
        facts: First lines, by name.
        tables: In order.
        pictures: PNG files by name.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mien_training", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    encoded: dict[str, Any] = {name: base64.b64encode(picture).decode() for name, picture in pictures.items()}
    page = environment.get_template("report.html.jinja").render(
        title=title, facts=facts, tables=tables, pictures=encoded
    )
    write_atomically(path, lambda stream: stream.write(page.encode()))
