"""The picture that ``mien analyze --picture`` writes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mien_client._face import Face
from mien_client.contract import IMAGE_SIZE, KEYPOINTS, OTHER_THRESHOLD
from mien_client.pictures import FaceCrop

MOST_FACES = 60

# Of one face's part of the picture, in inches.
_WIDTH = 6.4
_HEIGHT = 3.3

_OTHER = "None"
_GAP = 0.35

_INK = "#1f2933"
_QUIET = "#9aa5b1"
_BAR = "#b8c2cc"
_TRACK = "#f1f4f7"
_ACCENT = "#e4572e"
# Points of one part of the face share a colour.
_PARTS = {"eyebrow": "#ffd166", "eye": "#4cc9f0", "nose": "#ff8fa3", "mouth": "#80ed99"}
_COLOURS = [next(colour for part, colour in _PARTS.items() if part in name) for name in KEYPOINTS]


def draw_faces(faces: Sequence[tuple[str, FaceCrop, Face]], path: Path) -> None:
    """Write a picture that shows each face with its fifteen points and, beside it, its probabilities.

    Args:
        faces: A title, the part of the picture and the result for each face; the first `MOST_FACES` are shown.
        path: The file to write; the ending of its name determines the format.

    Raises:
        OSError: The file cannot be written.
    """
    faces = faces[:MOST_FACES]
    columns = min(3, math.isqrt(len(faces) - 1) + 1)
    rows = math.ceil(len(faces) / columns)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), dpi=150, facecolor="white")
    for number, (title, crop, face) in enumerate(faces):
        row, column = divmod(number, columns)
        x, y = column * _WIDTH, (rows - 1 - row) * _HEIGHT
        title = title.encode(errors="replace").decode()  # The name of a file may be invalid Unicode.
        _draw_picture(_axes(figure, x + 0.15, y + 0.15, 2.8, 2.8), title, crop, face)
        _draw_bars(_axes(figure, x + 3.8, y + 0.5, 2.45, 2.1), face)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # in a file's name
        figure.savefig(path, format=path.suffix[1:].lower())


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a position in inches. An automatic layout of many faces would take minutes."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _draw_picture(picture: Axes, title: str, crop: FaceCrop, face: Face) -> None:
    # The picture's own pixels are shown, on axes in pixels of the 48x48 image, which covers the same square.
    edges = (-0.5, IMAGE_SIZE - 0.5, IMAGE_SIZE - 0.5, -0.5)
    picture.imshow(crop.colour, extent=edges, interpolation="bicubic")
    points = face.keypoints
    picture.scatter(points[:, 0], points[:, 1], s=34, c=_COLOURS, edgecolors=_INK, linewidths=0.9, zorder=3)
    # Points outside the crop are shown too.
    low, high = np.minimum(points.min(axis=0), -0.5), np.maximum(points.max(axis=0), IMAGE_SIZE - 0.5)
    picture.set_xlim(low[0], high[0])
    picture.set_ylim(high[1], low[1])
    picture.set_axis_off()
    picture.set_title(title, fontsize=9, color=_QUIET, loc="left", parse_math=False)


def _draw_bars(bars: Axes, face: Face) -> None:
    names, values = list(face.probabilities), list(face.probabilities.values())
    rows: list[float] = [*range(len(names))]
    shown, title = face.emotion, face.emotion
    if face.other is not None:
        names, values = [*names, _OTHER], [*values, face.other]
        rows.append(len(rows) + _GAP)  # apart from the five, which sum to 1 without it
        if face.other >= OTHER_THRESHOLD:
            shown, title = _OTHER, "None of the five"
    bars.barh(rows, [1] * len(names), color=_TRACK, height=0.62)
    colours = [_ACCENT if name == shown else _BAR for name in names]
    bars.barh(rows, values, color=colours, height=0.62)
    bars.set_yticks(rows, names)
    for row, name, value in zip(rows, names, values, strict=True):
        weight, colour = ("bold", _INK) if name == shown else ("normal", _QUIET)
        bars.text(1.28, row, f"{value:.1%}", va="center", ha="right", fontsize=9, color=colour, fontweight=weight)
    bars.set_xlim(0, 1.28)
    bars.invert_yaxis()
    bars.set_xticks([])
    bars.tick_params(axis="y", length=0, labelsize=10, labelcolor=_INK)
    bars.spines[:].set_visible(False)
    bars.set_title(title, fontsize=15, fontweight="bold", color=_INK, loc="left")
    told = "   ".join(f"{model} {version}" for model, version in face.versions.items())
    bars.set_xlabel(f"model versions:  {told}", fontsize=7.5, color=_QUIET, loc="left")
