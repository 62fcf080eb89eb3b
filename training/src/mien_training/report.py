"""Pictures of runs and evaluations, and the page that shows them."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from mien_client.contract import EMOTIONS
from numpy.typing import NDArray

from mien_training.files import write_atomically

if TYPE_CHECKING:
    from mien_training.evaluate import Table


def draw_curves(history: list[dict[str, float]], metric: str, best_epoch: int) -> Figure:
    """Draw training loss and validation metric over the epochs, the kept epoch marked.

    Args:
        history: A row an epoch, with ``epoch``, ``loss`` and ``val_<metric>``.
        metric: The validation metric to draw.
        best_epoch: The epoch whose weights were kept.
    """
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(history) < 10 else None
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    left.plot(epochs, [row["loss"] for row in history], color="tab:blue", marker=marker)
    left.set(xlabel="epoch", ylabel="training loss")
    right.plot(epochs, [row[f"val_{metric}"] for row in history], color="tab:orange", marker=marker)
    right.set(xlabel="epoch", ylabel=f"validation {metric}")
    right.axvline(best_epoch, color="grey", linestyle=":", label=f"kept: epoch {best_epoch}")
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def draw_confusion(matrix: NDArray[np.int64]) -> Figure:
    """Draw a confusion matrix, int [5, 5], rows true: colours show shares of the row, numbers count faces."""
    figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    sns.heatmap(
        shares, annot=matrix, fmt="d", cmap="Blues", vmin=0, vmax=1, xticklabels=EMOTIONS, yticklabels=EMOTIONS, ax=axes
    )
    axes.set(xlabel="predicted", ylabel="true")
    return figure


def draw_classes(classes: dict[str, dict[str, float]]) -> Figure:
    """Draw precision, recall and F1 of every emotion as bars."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    kinds = ("precision", "recall", "f1-score")
    for offset, kind in enumerate(kinds):
        places = np.arange(len(classes)) + (offset - 1) * 0.27
        axes.bar(places, [values[kind] for values in classes.values()], 0.27, label=kind)
    axes.set(ylim=(0, 1), xticks=range(len(classes)), xticklabels=list(classes))
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    axes.grid(axis="y", alpha=0.3)
    return figure


def draw_reliability(bins: list[tuple[float, float, float]]) -> Figure:
    """Draw accuracy against confidence, each dot as large as its share of the faces: (confidence, accuracy, share)."""
    figure, axes = plt.subplots(figsize=(5, 4.5), layout="constrained")
    confidence, accuracy, share = np.array(bins).T
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="what it says is what it is")
    axes.plot(confidence, accuracy, color="tab:blue")
    axes.scatter(confidence, accuracy, 20 + 800 * share, color="tab:blue", alpha=0.5)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def draw_by_condition(conditions: dict[str, list[tuple[float, float]]], ylabel: str) -> Figure:
    """Draw a score against each condition of the pictures: by its name, (condition, score) of groups of faces."""
    figure, every = plt.subplots(1, len(conditions), figsize=(9, 3.6), layout="constrained", sharey=True)
    for axes, (name, groups) in zip(every, conditions.items(), strict=True):
        axes.plot(*zip(*groups, strict=True), marker="o")
        axes.set(xlabel=name)
        axes.grid(alpha=0.3)
    every[0].set(ylabel=ylabel)
    return figure


def draw_faces(images: NDArray[np.uint8], titles: list[str], points: "list[dict[str, Any]]") -> Figure:
    """Draw faces in a grid, six in a row.

    Args:
        images: uint8 [N, 48, 48].
        titles: N of them.
        points: For each face, key points float [15, 2] by colour; empty for none.
    """
    rows = -(-len(images) // 6)
    figure, every = plt.subplots(rows, 6, figsize=(11, 2.1 * rows), layout="constrained", squeeze=False)
    for axes in every.flat:
        axes.axis("off")
    for axes, image, title, marks in zip(every.flat, images, titles, points, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, fontsize=8)
        for colour, places in marks.items():
            axes.scatter(*places.T, s=7, color=colour)
    return figure


def draw_cumulative(normalized: NDArray[np.float64]) -> Figure:
    """Draw the share of faces whose NME is at most that on the axis (cumulative error curve); float [N]."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    sns.ecdfplot(x=100 * normalized, ax=axes)
    axes.set(xlabel="NME, % of the distance of the eye centres", ylabel="share of faces", xlim=(0, 15), ylim=(0, 1))
    axes.grid(alpha=0.3)
    return figure


def draw_points(errors: dict[str, float]) -> Figure:
    """Draw each point's mean error in pixels of the 48×48 image as bars."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    sns.barplot(x=list(errors.values()), y=list(errors), color="tab:blue", ax=axes)
    axes.set(xlabel="mean error, pixels of the 48×48 image", ylabel="")
    axes.grid(axis="x", alpha=0.3)
    return figure


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
