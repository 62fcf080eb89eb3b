"""The pictures of `mien describe`."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from mien_client.contract import IMAGE_SIZE, KEYPOINTS
from numpy.typing import NDArray

MOST_DOTS = 2000
"""Faces whose points are drawn in a cloud."""


def draw_class_counts(counts: dict[str, tuple[dict[str, list[int]], list[str]]]) -> Figure:
    """Draw the number of faces of each class as bars, one for each part of the file.

    Args:
        counts: By the file's name: numbers of faces by class, and the names of the parts.
    """
    [(classes, parts)] = counts.values()
    frame = pd.DataFrame(
        [
            {"emotion": emotion, "Usage": part, "faces": count}
            for emotion, each in classes.items()
            for part, count in zip(parts, each, strict=True)
        ]
    )
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    sns.barplot(frame, x="emotion", y="faces", hue="Usage", legend="auto" if len(parts) > 1 else False, ax=axes)
    axes.set(xlabel="", title="Faces by the file's label")
    axes.grid(axis="y", alpha=0.3)
    return figure


def draw_samples(samples: dict[str, NDArray[np.uint8]]) -> Figure:
    """Draw a row of faces for each class.

    Args:
        samples: By class, uint8 [n, 48, 48].
    """
    most = max(len(images) for images in samples.values())
    figure, every = plt.subplots(
        len(samples), most, figsize=(1.2 + 0.9 * most, 0.5 + 0.95 * len(samples)), layout="constrained", squeeze=False
    )
    figure.suptitle("Samples, drawn at random")
    for row, (name, images) in zip(every, samples.items(), strict=True):
        for axes in row:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axes, image in zip(row, images, strict=False):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    return figure


def draw_mean_faces(means: dict[str, NDArray[np.float64]]) -> Figure:
    """Draw the mean of the faces of each class.

    Args:
        means: By class, float [48, 48].
    """
    figure, every = plt.subplots(1, len(means), figsize=(1.6 * len(means), 2.3), layout="constrained", squeeze=False)
    figure.suptitle("Mean faces")
    for axes, (name, mean) in zip(every[0], means.items(), strict=True):
        axes.imshow(mean, cmap="gray")
        axes.set_title(name, fontsize=9)
        axes.axis("off")
    return figure


def draw_brightness(parts: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Figure:
    """Draw how mean grey level and contrast are distributed in each part of the file.

    Args:
        parts: By the part's name, mean and standard deviation of each picture's grey levels, float [n] each.
    """
    figure, every = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    names = ("mean grey level", "standard deviation of the grey levels")
    for axes, which, label in zip(every, (0, 1), names, strict=True):
        frame = pd.concat([pd.DataFrame({label: values[which], "part": part}) for part, values in parts.items()])
        sns.histplot(
            frame, x=label, hue="part", element="step", stat="percent", common_norm=False, bins=50,
            legend=len(parts) > 1, ax=axes,
        )  # fmt: skip
        axes.set(ylabel="% of the faces")
        axes.grid(alpha=0.3)
    figure.suptitle("Brightness and contrast")
    return figure


def draw_verdicts(verdicts: dict[str, tuple[NDArray[np.int64], list[str], Any]]) -> Figure:
    """Draw what most voters saw in the faces of each label.

    Args:
        verdicts: By the file's name: int [labels, verdicts] numbers of faces, and the names of both.
    """
    [(matrix, labels, names)] = verdicts.values()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    sns.heatmap(
        shares, annot=matrix, fmt="d", cmap="Blues", vmin=0, vmax=1, xticklabels=names, yticklabels=labels, ax=axes,
        cbar_kws={"label": "share of the label's faces"},
    )  # fmt: skip
    axes.set(xlabel="what more than half of the voters saw", ylabel="the file's label", title="Labels and votes")
    axes.tick_params(axis="x", rotation=30)
    axes.tick_params(axis="y", rotation=0)
    return figure


def draw_cloud(points: dict[str, tuple[NDArray[np.float64], NDArray[np.float32]]]) -> Figure:
    """Draw the points of many faces over the mean face.

    Args:
        points: By the file's name: the mean face, float [48, 48], and the points, float32 [N, 15, 2].
    """
    [(mean, every)] = points.values()
    chosen = every[np.random.default_rng(0).permutation(len(every))[:MOST_DOTS]]
    figure, axes = plt.subplots(figsize=(8.5, 6.5), layout="constrained")
    axes.imshow(mean, cmap="gray")
    colours = sns.color_palette("husl", len(KEYPOINTS))
    for index, (name, colour) in enumerate(zip(KEYPOINTS, colours, strict=True)):
        axes.scatter(chosen[:, index, 0], chosen[:, index, 1], s=3, color=colour, alpha=0.25)
        x, y = np.nanmean(every[:, index], axis=0)
        axes.scatter(x, y, s=50, color=colour, edgecolor="black", label=name, zorder=3)
    axes.set(xlim=(-0.5, IMAGE_SIZE - 0.5), ylim=(IMAGE_SIZE - 0.5, -0.5), title="Key points over the mean face")
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def draw_missing(shares: dict[str, dict[str, float]]) -> Figure:
    """Draw the share of the faces that lack each point.

    Args:
        shares: By the file's name, then by the point's.
    """
    [points] = shares.values()
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axes.barh(list(points), [100 * share for share in points.values()])
    axes.invert_yaxis()
    axes.set(xlabel="% of the faces that lack it", title="Missing points", xlim=(0, 100))
    axes.grid(axis="x", alpha=0.3)
    return figure
