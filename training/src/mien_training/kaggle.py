"""Reading the public Kaggle files: facial expressions (FER2013 and its variants) and facial key points.

A file may be plain, ``.gz`` or ``.zip``; what it holds is told from its header, never from its name.

Key-point images are 96×96 in the file and 48×48 in Mien. Pixel centres lie on whole numbers in both, so pixel ``i`` of
the small image is the mean of pixels ``2i`` and ``2i + 1`` of the large one, whose common centre is ``2i + 0.5``:
a coordinate ``c`` of the file becomes ``(c - 0.5) / 2``.
"""

import csv
import gzip
import io
import re
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from mien_client.contract import EMOTIONS, IMAGE_SIZE, KEYPOINTS
from numpy.typing import NDArray
from rich import progress
from rich.console import Console

from mien_training.errors import DataError

# The challenge's label order (Goodfellow et al. 2013, "Challenges in Representation Learning").
SEVEN_EMOTIONS = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
OTHER_EMOTIONS = ("Fear", "Neutral")
FILE_SIZE = 96
KEYPOINT_HEADER = (*(f"{point}_{axis}" for point in KEYPOINTS for axis in "xy"), "Image")
USAGES = ("Training", "PublicTest", "PrivateTest")

_EYES = [KEYPOINTS.index("left_eye_center"), KEYPOINTS.index("right_eye_center")]
_EMOTION_HEADERS = ({"emotion", "pixels", "Usage"}, {"emotion", "pixels"})
_EXPECTED_EMOTION = "'emotion,pixels,Usage' (seven labels) or 'emotion,pixels' (our five)"
_EXPECTED_KEYPOINTS = f"the 31 columns '{KEYPOINT_HEADER[0]},{KEYPOINT_HEADER[1]},…,Image'"

Row = TypeVar("Row")


@dataclass(frozen=True)
class EmotionData:
    """Faces with an emotion.

    Attributes:
        images: uint8 [N, 48, 48].
        labels: int32 [N], indices into `mien_client.contract.EMOTIONS`.
        usage: The file's ``Usage`` of each face, str [N]; ``None`` where the file has no such column.
        skipped: One sentence for each bad row that was left out.
        others: The faces that were left out, their labels counting `OTHER_EMOTIONS` on from the last of ours.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    usage: NDArray[np.str_] | None
    skipped: list[str] = field(default_factory=list)
    others: "EmotionData | None" = None

    @property
    def dropped(self) -> dict[str, int]:
        """How many faces were left out because their emotion is not one of ours, by emotion."""
        if self.others is None:
            return {}
        return dict(Counter(OTHER_EMOTIONS[label - len(EMOTIONS)] for label in self.others.labels))


@dataclass(frozen=True)
class KeypointData:
    """Faces with key points.

    Attributes:
        images: uint8 [N, 48, 48].
        keypoints: float32 [N, 15, 2], (x, y) pixels of the 48×48 image; NaN where the file has no such point.
        rows: int64 [N], where each face stood in the file, the first below the header being 0.
        skipped: One sentence for each bad row that was left out.
    """

    images: NDArray[np.uint8]
    keypoints: NDArray[np.float32]
    rows: NDArray[np.int64]
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


def read_emotion(path: Path, *, seven_labels: bool | None = None, skip_bad_rows: bool = False) -> EmotionData:
    """Read ``fer2013.csv``, ``icml_face_data.csv`` or the five-class variant.

    Args:
        path: The file.
        seven_labels: Whether the labels are the challenge's seven; by default, whether there is a ``Usage`` column.
        skip_bad_rows: Leave bad rows out and list them, instead of stopping at the first.

    Raises:
        DataError: The file is not readable, is not of this kind, or holds a bad row.
    """
    with _open_table(path, lambda header: set(header) in _EMOTION_HEADERS, _EXPECTED_EMOTION) as table:
        column = {name: index for index, name in enumerate(table.header)}
        seven = "Usage" in column if seven_labels is None else seven_labels
        names = SEVEN_EMOTIONS if seven else EMOTIONS
        hint = "" if seven else "; a file with the challenge's seven labels and no Usage column needs --seven-labels"

        def parse(cells: list[str]) -> tuple[NDArray[np.uint8], str, str]:
            label = cells[column["emotion"]].strip()
            if not label.isdecimal() or int(label) >= len(names):
                raise DataError(f"emotion is '{label[:20]}', expected 0 to {len(names) - 1}{hint}")
            usage = cells[column["Usage"]].strip() if "Usage" in column else ""
            if "Usage" in column and usage not in USAGES:
                raise DataError(f"Usage is '{usage[:20]}', expected one of {', '.join(USAGES)}")
            return _parse_pixels(cells[column["pixels"]], IMAGE_SIZE**2), names[int(label)], usage

        rows = [row for _, row in table.rows(parse, skip_bad_rows)]
    ours, theirs = ([row for row in rows if row[1] in names] for names in (EMOTIONS, OTHER_EMOTIONS))
    if not ours:
        raise DataError(f"{path}: no face with one of the emotions {', '.join(EMOTIONS)}.")

    def faces(rows: list[tuple[NDArray[np.uint8], str, str]], **more: Any) -> EmotionData:
        return EmotionData(
            images=np.stack([pixels for pixels, _, _ in rows]).reshape(-1, IMAGE_SIZE, IMAGE_SIZE),
            labels=np.array([(*EMOTIONS, *OTHER_EMOTIONS).index(name) for _, name, _ in rows], np.int32),
            usage=np.array([usage for _, _, usage in rows]) if "Usage" in column else None,
            **more,
        )

    return faces(
        ours,
        skipped=table.skipped,
        others=faces(theirs) if theirs else None,
    )


def read_keypoints(path: Path, *, skip_bad_rows: bool = False) -> KeypointData:
    """Read the facial key-points ``training.csv``: 96×96 faces, some with only part of their points.

    A point counts as missing unless both its cells are filled.

    Args:
        path: The file.
        skip_bad_rows: Leave bad rows out and list them, instead of stopping at the first.

    Raises:
        DataError: The file is not readable, is not of this kind, or holds a bad row.
    """
    with _open_table(path, lambda header: set(header) == set(KEYPOINT_HEADER), _EXPECTED_KEYPOINTS) as table:
        order = [table.header.index(name) for name in KEYPOINT_HEADER]

        def parse(cells: list[str]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
            values = [cells[index].strip() for index in order]
            coordinates = [_parse_coordinate(*pair) for pair in zip(KEYPOINT_HEADER, values[:-1], strict=False)]
            points = np.array(coordinates, np.float32).reshape(len(KEYPOINTS), 2)
            points[np.isnan(points).any(axis=1)] = np.nan
            if np.isnan(points).all():
                raise DataError("none of the fifteen points is given")
            return points, _parse_pixels(values[-1], FILE_SIZE**2)

        rows = list(table.rows(parse, skip_bad_rows))
    if not rows:
        raise DataError(f"{path}: no face in the file.")
    if not any(np.isfinite(points[_EYES]).all() for _, (points, _) in rows):
        raise DataError(f"{path}: no face has both eye centres, and errors are measured by their distance.")
    images = np.stack([pixels for _, (_, pixels) in rows]).reshape(-1, FILE_SIZE, FILE_SIZE)
    return KeypointData(
        images=halve_images(images),
        keypoints=halve_coordinates(np.stack([points for _, (points, _) in rows])),
        rows=np.array([index for index, _ in rows], np.int64),
        skipped=table.skipped,
    )


def read_groups(path: Path, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Read who is in each row of a key-point file.

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
        if not row.isdecimal() or not person:
            raise DataError(f"expected a row number and a person, found '{row[:20]},{person[:20]}'")
        return int(row), person

    with _open_table(path, lambda header: {"row", "person"} <= set(header), "'row,person'") as table:
        columns = (table.header.index("row"), table.header.index("person"))
        people = dict(parsed for _, parsed in table.rows(parse, skip_bad_rows=False))
    missing = [int(row) for row in rows if int(row) not in people]
    if missing:
        raise DataError(
            f"{path}: says nothing of row {missing[0]} of the key-point file (and {len(missing) - 1} more); "
            "it must name the person of every row, the first below the header being 0."
        )
    number = {person: index for index, person in enumerate(dict.fromkeys(people.values()))}
    return np.array([number[people[int(row)]] for row in rows], np.int64)


class _Table:
    """The rows of one open CSV file, below its header."""

    def __init__(self, path: Path, header: list[str], reader: Iterator[list[str]]) -> None:
        self.path = path
        self.header = header
        self.skipped: list[str] = []
        self._reader = reader

    def rows(self, parse: Callable[[list[str]], Row], skip_bad_rows: bool) -> Iterator[tuple[int, Row]]:
        """Yield each row's number (from 0, below the header) and what `parse` makes of it; blank lines do not count."""
        index = -1
        while True:
            try:
                cells = next(self._reader)
                if not cells:
                    continue
                index += 1
                if len(cells) != len(self.header):
                    raise DataError(f"expected {len(self.header)} columns, found {len(cells)}")
                row = parse(cells)
            except StopIteration:
                return
            except (DataError, csv.Error) as error:
                sentence = f"{self.path}, row {index + 2} (the header is row 1): {error}."
                if not skip_bad_rows:
                    raise DataError(f"{sentence} Mend it, or leave such rows out with --skip-bad-rows.") from None
                self.skipped.append(sentence)
            else:
                yield index, row


@contextmanager
def _open_table(path: Path, accepts: Callable[[list[str]], bool], expected: str) -> Iterator[_Table]:
    console = Console(stderr=True)
    try:
        with progress.open(path, "rb", description=f"Reading {path.name}", console=console) as raw:
            seen = []
            for stream in _streams(raw):
                reader = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
                header = [name.strip() for name in next(reader, [])]
                if accepts(header):
                    yield _Table(path, header, reader)
                    return
                seen.append(",".join(header)[:80])
        raise DataError(f"{path}: the header is '{' and '.join(seen)}', expected {expected}.")
    except OSError as error:
        reason = error.strerror or f"it is damaged ({error})"
        raise DataError(f"{path}: cannot be read: {reason}.") from None
    except (EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: the compressed file is cut short or damaged ({error}); download it again.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: this is not a CSV text file ({error}); expected the header {expected}.") from None


def _streams(raw: IO[bytes]) -> Iterator[Any]:
    """Yield the CSV files in a plain, gzip or zip file, told apart by their first bytes."""
    magic = raw.read(4)
    raw.seek(0)
    if magic[:2] == b"\x1f\x8b":
        with gzip.open(raw) as stream:
            yield stream
    elif magic == b"PK\x03\x04":
        with zipfile.ZipFile(raw) as archive:
            for name in archive.namelist():
                if name.lower().endswith(".csv") and not name.startswith("__MACOSX"):
                    with archive.open(name) as stream:
                        yield stream
    else:
        yield raw


def _parse_pixels(text: str, count: int) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # older NumPy only warns where the text stops being numbers
            values = np.fromstring(text, np.int64, sep=" ")
    except (ValueError, DeprecationWarning):
        strange = next((word for word in text.split() if not word.isdecimal()), text)
        raise DataError(f"pixel value '{strange[:20]}', expected whole numbers from 0 to 255") from None
    if values.size != count:
        raise DataError(f"expected {count:,} pixel values, found {values.size:,}")
    if values.min() < 0 or values.max() > 255:
        raise DataError(f"pixel value {values[(values < 0) | (values > 255)][0]}, expected 0 to 255")
    return values.astype(np.uint8)


def _parse_coordinate(name: str, text: str) -> float:
    if not text:
        return float("nan")
    # Points may lie a little outside the picture, as where the face is cut off; further out is a mistake.
    if not re.fullmatch(r"[-+]?[0-9]*\.?[0-9]+(e[-+]?[0-9]+)?", text, re.IGNORECASE) or not (
        -FILE_SIZE <= float(text) <= 2 * FILE_SIZE
    ):
        raise DataError(f"{name} is '{text[:20]}', expected pixels of the {FILE_SIZE}×{FILE_SIZE} image")
    return float(text)
