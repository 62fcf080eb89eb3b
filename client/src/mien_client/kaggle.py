"""Read the public Kaggle files: facial expressions (FER2013 and its variants) and facial key points.

A file may be packed in any way that `mien_client.archives` supports. Its header says what it holds.

Key-point images are 96×96 in the file and 48×48 in Mien. Pixel centres lie on whole numbers in both, so pixel ``i`` of
the small image is the mean of pixels ``2i`` and ``2i + 1`` of the large one, whose common centre is ``2i + 0.5``:
a coordinate ``c`` of the file becomes ``(c - 0.5) / 2``.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mien_client._exceptions import DataError
from mien_client.contract import EMOTIONS, IMAGE_SIZE, KEYPOINTS
from mien_client.tables import Progress, RowError, Table, open_table

SEVEN_EMOTIONS: Final = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
"""The challenge's label order (Goodfellow et al. 2013, "Challenges in Representation Learning")."""
OTHER_EMOTIONS: Final = ("Fear", "Neutral")
USAGES: Final = ("Training", "PublicTest", "PrivateTest")
FILE_SIZE: Final = 96
KEYPOINT_HEADER: Final = (*(f"{point}_{axis}" for point in KEYPOINTS for axis in "xy"), "Image")

_EYES: Final = [KEYPOINTS.index("left_eye_center"), KEYPOINTS.index("right_eye_center")]
_POINT_COLUMNS: Final = [name.lower() for name in KEYPOINT_HEADER]
_USAGE_OF: Final = {usage.lower(): usage for usage in USAGES}
_COLUMNS: Final = {
    "emotion": {"emotion", "pixels"},
    "key points": set(_POINT_COLUMNS),
    "votes": {"neutral", "happiness", "contempt", "nf"},
    "people": {"row", "person"},
}
"""The columns by which each kind of file is recognised; others may stand beside them."""
_EXPECTED: Final = {
    "emotion": "'emotion,pixels,Usage' (seven labels) or 'emotion,pixels' (our five)",
    "key points": f"'{KEYPOINT_HEADER[0]},{KEYPOINT_HEADER[1]},…,Image' (31 columns)",
    "votes": "'Usage,Image name,neutral,happiness,…,NF' (12 columns)",
    "people": "'row,person'",
}
_OTHER_FILES: Final = {
    "emotion": "holds faces with emotions, not key points",
    "key points": "holds faces with key points, not emotions",
    "votes": "is a votes file (FER+): it goes with --votes, beside the file of the faces themselves",
    "people": "names the person in each row of a key-point file: it goes with --groups",
}


@dataclass(frozen=True)
class EmotionData:
    """Faces with an emotion.

    Attributes:
        images: uint8 [N, 48, 48].
        labels: int32 [N], indices into `mien_client.contract.EMOTIONS`.
        usage: The file's ``Usage`` of each face, str [N]; `None` where the file has no such column.
        rows: int64 [N], where each face is in the file; the first row below the header is 0.
        source: The file and, where it was packed, its name in the archive.
        skipped: One sentence for each invalid row that was skipped.
        others: The faces with an emotion that is not among ours; their labels continue ours with `OTHER_EMOTIONS`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    usage: NDArray[np.str_] | None
    rows: NDArray[np.int64]
    source: str = ""
    skipped: list[str] = field(default_factory=list)
    others: EmotionData | None = None

    @property
    def dropped(self) -> dict[str, int]:
        """How many faces have an emotion that is not among ours, by emotion."""
        if self.others is None:
            return {}
        return dict(Counter(OTHER_EMOTIONS[label - len(EMOTIONS)] for label in self.others.labels))


@dataclass(frozen=True)
class KeypointData:
    """Faces with key points.

    Attributes:
        images: uint8 [N, 48, 48].
        keypoints: float32 [N, 15, 2], (x, y) pixels of the 48×48 image; NaN where the file has no such point.
        rows: int64 [N], where each face is in the file; the first row below the header is 0.
        source: The file and, where it was packed, its name in the archive.
        skipped: One sentence for each invalid row that was skipped.
    """

    images: NDArray[np.uint8]
    keypoints: NDArray[np.float32]
    rows: NDArray[np.int64]
    source: str = ""
    skipped: list[str] = field(default_factory=list)


def halve_images(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale images to half their side by the mean of every 2×2 block, rounded: uint8 [..., 2h, 2w] to [..., h, w]."""
    *lead, height, width = images.shape
    blocks = images.reshape(*lead, height // 2, 2, width // 2, 2).astype(np.uint16)
    sums: NDArray[np.uint64] = blocks.sum(axis=(-3, -1))
    return ((sums + 2) // 4).astype(np.uint8)


def halve_coordinates(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Move pixel coordinates of a 96×96 image to its 48×48 half (see the module's first paragraphs)."""
    return ((points - 0.5) / 2).astype(np.float32)


def read_emotion(
    path: Path, *, seven_labels: bool | None = None, skip_bad_rows: bool = False, progress: Progress | None = None
) -> EmotionData:
    """Read ``fer2013.csv``, ``icml_face_data.csv`` or the five-class variant.

    Args:
        path: The file.
        seven_labels: Whether the labels are the challenge's seven; by default, whether there is a ``Usage`` column.
        skip_bad_rows: Whether to skip invalid rows and list them, instead of raising an error.
        progress: Called while the file is read.

    Raises:
        DataError: The file cannot be read, is not of this kind, or holds a bad row.
    """
    with open_kind(path, "emotion", progress) as table:
        column = {name: index for index, name in enumerate(table.header)}
        has_usage = "usage" in column
        seven = has_usage if seven_labels is None else seven_labels
        names = SEVEN_EMOTIONS if seven else EMOTIONS

        def parse(cells: list[str]) -> tuple[NDArray[np.uint8], str, str]:
            label = cells[column["emotion"]].strip()
            found = re.fullmatch(r"([0-9]+)(?:\.0*)?", label)
            if not found or int(found[1][:9]) >= len(names):
                hint = "; a file with the challenge's seven labels and no Usage column needs --seven-labels"
                raise RowError(
                    f"emotion is '{label[:20]}', expected 0 to {len(names) - 1}"
                    f"{hint if found and int(found[1][:9]) < len(SEVEN_EMOTIONS) else ''}"
                )
            told = cells[column["usage"]].strip() if has_usage else ""
            usage = _USAGE_OF.get(told.lower(), "")
            if has_usage and not usage:
                raise RowError(f"Usage is '{told[:20]}', expected one of {', '.join(USAGES)}")
            return _parse_pixels(cells[column["pixels"]], IMAGE_SIZE**2), names[int(found[1])], usage

        rows = [(*row, index) for index, row in table.rows(parse, skip_bad_rows=skip_bad_rows)]

    def faces(rows: list[tuple[NDArray[np.uint8], str, str, int]], **more: Any) -> EmotionData:
        return EmotionData(
            images=np.stack([pixels for pixels, *_ in rows]).reshape(-1, IMAGE_SIZE, IMAGE_SIZE),
            labels=np.array([(*EMOTIONS, *OTHER_EMOTIONS).index(name) for _, name, *_ in rows], np.int32),
            usage=np.array([usage for _, _, usage, _ in rows]) if has_usage else None,
            rows=np.array([index for *_, index in rows], np.int64),
            source=table.where,
            **more,
        )

    ours, theirs = ([row for row in rows if row[1] in wanted] for wanted in (EMOTIONS, OTHER_EMOTIONS))
    if not ours:
        raise DataError(f"{table.where} holds no face with one of the emotions {', '.join(EMOTIONS)}")
    return faces(ours, skipped=table.skipped, others=faces(theirs) if theirs else None)


def read_keypoints(path: Path, *, skip_bad_rows: bool = False, progress: Progress | None = None) -> KeypointData:
    """Read the facial key-points ``training.csv``: 96×96 faces, some with only part of their points.

    A point counts as missing unless both its cells are filled.

    Args:
        path: The file.
        skip_bad_rows: Whether to skip invalid rows and list them, instead of raising an error.
        progress: Called while the file is read.

    Raises:
        DataError: The file cannot be read, is not of this kind, or holds a bad row.
    """
    with open_kind(path, "key points", progress) as table:
        order = [table.header.index(name) for name in _POINT_COLUMNS]

        def parse(cells: list[str]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
            values = [cells[index].strip() for index in order]
            coordinates = [_parse_coordinate(*pair) for pair in zip(KEYPOINT_HEADER, values[:-1], strict=False)]
            points = np.array(coordinates, np.float32).reshape(len(KEYPOINTS), 2)
            points[np.isnan(points).any(axis=1)] = np.nan
            if np.isnan(points).all():
                raise RowError("none of the fifteen points is given")
            return points, _parse_pixels(values[-1], FILE_SIZE**2)

        rows = list(table.rows(parse, skip_bad_rows=skip_bad_rows))
    if not rows:
        raise DataError(f"{table.where} holds no face")
    if not any(np.isfinite(points[_EYES]).all() for _, (points, _) in rows):
        raise DataError(f"{table.where} holds no face with both eye centres, and errors are measured by their distance")
    images = np.stack([pixels for _, (_, pixels) in rows]).reshape(-1, FILE_SIZE, FILE_SIZE)
    return KeypointData(
        images=halve_images(images),
        keypoints=halve_coordinates(np.stack([points for _, (points, _) in rows])),
        rows=np.array([index for index, _ in rows], np.int64),
        source=table.where,
        skipped=table.skipped,
    )


def read_groups(path: Path, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Read the person in each row of a key-point file.

    Args:
        path: A file with the columns ``row`` (the first row below the key-point file's header is 0) and ``person``.
        rows: int64 [N], the rows that are wanted.

    Returns:
        int64 [N], a number for each person.

    Raises:
        DataError: The file is not of this kind, or lacks one of the rows.
    """

    def parse(cells: list[str]) -> tuple[int, str]:
        row, person = cells[columns[0]].strip(), cells[columns[1]].strip()
        if not re.fullmatch("[0-9]{1,9}", row) or not person:
            raise RowError(f"expected a row number and a person, found '{row[:20]},{person[:20]}'")
        return int(row), person

    with open_kind(path, "people") as table:
        columns = (table.header.index("row"), table.header.index("person"))
        people = dict(parsed for _, parsed in table.rows(parse, skip_bad_rows=False))
    missing = [int(row) for row in rows if int(row) not in people]
    if missing:
        raise DataError(
            f"{table.where} says nothing of row {missing[0]} of the key-point file (and {len(missing) - 1} more); "
            "it must name the person of every row, the first below the header being 0"
        )
    number = {person: index for index, person in enumerate(dict.fromkeys(people.values()))}
    return np.array([number[people[int(row)]] for row in rows], np.int64)


def recognise(path: Path) -> str:
    """Say what a faces file holds by its header: ``emotion`` or ``key points``.

    Raises:
        DataError: The file cannot be read, or holds neither.
    """
    found: list[str] = []

    def judge(header: list[str]) -> str:
        reasons = {kind: _judge(header, kind) for kind in ("emotion", "key points")}
        found.extend(kind for kind, reason in reasons.items() if not reason)
        return "" if found else reasons["emotion"]

    with open_table(path, judge, f"{_EXPECTED['emotion']}, or {_EXPECTED['key points']}", None):
        return found[0]


def open_kind(path: Path, kind: str, progress: Progress | None = None) -> AbstractContextManager[Table]:
    """Open a file that must be of one kind: ``emotion``, ``key points``, ``votes`` or ``people``.

    Raises:
        DataError: The file cannot be read, or its header is that of another kind.
    """
    return open_table(path, lambda header: _judge(header, kind), _EXPECTED[kind], progress)


def _judge(header: list[str], wanted: str) -> str:
    """Return why a file with this header is not of the kind that is wanted, or ""."""
    names = {name.lower() for name in header}
    if _COLUMNS[wanted] <= names:
        return ""
    for kind, columns in _COLUMNS.items():
        if columns <= names:
            return _OTHER_FILES[kind]
    shown = ",".join(header)[:80]
    there = len(_COLUMNS["key points"] & names)
    if names & {"pixels", "image"} and there <= 1:
        return f"holds faces without labels: its header is '{shown}'"
    if there > 1:
        missing = next(name for name in KEYPOINT_HEADER if name.lower() not in names)
        return f"lacks the column {missing} and {len(KEYPOINT_HEADER) - there - 1} others of key points"
    return f"has the header '{shown}'"


def _parse_pixels(text: str, count: int) -> NDArray[np.uint8]:
    try:
        values = np.fromstring(text, np.int64, sep=" ")
    except (ValueError, DeprecationWarning):
        strange = next((word for word in text.split() if not re.fullmatch("[0-9]+", word)), text)
        raise RowError(f"pixel value '{strange[:20]}', expected whole numbers from 0 to 255") from None
    if values.size != count:
        raise RowError(f"expected {count:,} pixel values, found {values.size:,}")
    if values.min() < 0 or values.max() > 255:
        raise RowError(f"pixel value {values[(values < 0) | (values > 255)][0]}, expected 0 to 255")
    return values.astype(np.uint8)


def _parse_coordinate(name: str, text: str) -> float:
    if not text:
        return float("nan")
    # Points may lie a little outside the picture, as where the face is cut off; further out is a mistake.
    if not re.fullmatch(r"[-+]?[0-9]*\.?[0-9]+(e[-+]?[0-9]+)?", text, re.IGNORECASE) or not (
        -FILE_SIZE <= float(text) <= 2 * FILE_SIZE
    ):
        raise RowError(f"{name} is '{text[:20]}', expected pixels of the {FILE_SIZE}×{FILE_SIZE} image")
    return float(text)
