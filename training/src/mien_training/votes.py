"""What ten people saw in each face of FER2013: the FER+ votes (Barsoum et al. 2016).

``fer2013new.csv`` has one row for each row of ``fer2013.csv``, in the same order: ``Usage``, ``Image name``, and how
many of ten people chose each of eight emotions, "unknown" or "not a face" (``NF``).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from mien_client import DataError
from mien_client.contract import EMOTIONS
from mien_client.kaggle import USAGES, EmotionData, open_kind
from mien_client.tables import RowError
from numpy.typing import NDArray

VOTE_COLUMNS: Final = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "NF",
)
_COLUMN_OF: Final = {
    "Angry": ("anger",),
    "Disgust": ("disgust",),
    "Sad": ("sadness",),
    "Happy": ("happiness",),
    "Surprise": ("surprise",),
    "Fear": ("fear",),
    "Neutral": ("neutral", "contempt", "NF"),
}
NONE_OF_FIVE: Final = len(EMOTIONS)
"""The consensus that a face shows none of the five emotions."""
NO_CONSENSUS: Final = -1
MAX_OUT_OF_ORDER: Final = 0.01
"""Share of the image names that may be lower than the name before."""


@dataclass(frozen=True)
class Votes:
    """Votes for each row of a faces file.

    Attributes:
        source: The votes file.
        usage: str [R], the ``Usage`` of each row.
        counts: int32 [R, 10], votes in the order of `VOTE_COLUMNS`.
    """

    source: str
    usage: NDArray[np.str_]
    counts: NDArray[np.int32]


def read_votes(path: Path, faces: EmotionData) -> Votes:
    """Read ``fer2013new.csv`` and check that it belongs to a faces file.

    Args:
        path: The votes file.
        faces: What was read from the faces file.

    Raises:
        DataError: The file cannot be read, is not of this kind, holds a bad row, or has other rows than the faces file.
    """
    with open_kind(path, "votes") as table:
        column = {name: index for index, name in enumerate(table.header)}
        missing = [name for name in ("Usage", "Image name", *VOTE_COLUMNS) if name.lower() not in column]
        if missing:
            raise DataError(f"{table.where} lacks the column {missing[0]} of a votes file (FER+)")
        name, usage = column["image name"], column["usage"]
        votes = [column[each.lower()] for each in VOTE_COLUMNS]

        def parse(cells: list[str]) -> tuple[str, int, list[int]]:
            number = re.fullmatch(r"(?:fer([0-9]{7})\.png)?", cells[name].strip())
            if not number:
                raise RowError(f"Image name is '{cells[name].strip()[:20]}', expected 'fer', seven digits and '.png'")
            if cells[usage].strip() not in USAGES:
                raise RowError(f"Usage is '{cells[usage].strip()[:20]}', expected one of {', '.join(USAGES)}")
            counts = [cells[index].strip() for index in votes]
            for each, count in zip(VOTE_COLUMNS, counts, strict=True):
                if not re.fullmatch("[0-9]{1,3}", count):
                    raise RowError(f"{each} is '{count[:20]}', expected a number of votes")
            if not any(int(count) for count in counts):
                raise RowError("expected at least one vote, found none")
            return cells[usage].strip(), -1 if number[1] is None else int(number[1]), [int(count) for count in counts]

        rows = [row for _, row in table.rows(parse, skip_bad_rows=False)]
    found = Votes(table.where, np.array([row[0] for row in rows]), np.array([row[2] for row in rows], np.int32))
    _check_rows(found, np.array([row[1] for row in rows]), faces)
    return found


def _check_rows(votes: Votes, numbers: NDArray[np.int64], faces: EmotionData) -> None:
    """Refuse votes that are not of the rows of a faces file, in the same order."""
    parts = [faces] if faces.others is None else [faces, faces.others]
    count = 1 + max(int(part.rows.max()) for part in parts)
    if len(votes.counts) < count or (len(votes.counts) > count and not faces.skipped):
        raise DataError(
            f"{votes.source} has {len(votes.counts):,} rows, but {faces.source} has {count:,}: "
            "the votes must be those of the same rows, in the same order"
        )
    # Names are numbered in the order of the challenge. A few are out of order, or stand twice, in the published file.
    named = numbers[numbers >= 0]
    if (np.diff(named) < 0).sum() > MAX_OUT_OF_ORDER * len(named):
        raise DataError(
            f"{votes.source} does not have its images in the order of the challenge: expected ascending image names; "
            f"the votes must be those of the same rows as {faces.source}, in the same order"
        )
    for part in parts:
        if part.usage is None:
            continue
        differs = np.flatnonzero(votes.usage[part.rows] != part.usage)
        if len(differs):
            row = int(part.rows[differs[0]])
            raise DataError(
                f"{votes.source} and {faces.source} are not of the same rows: in row {row + 2} (the header is row 1) "
                f"the Usage is {votes.usage[row]} in the first and {part.usage[differs[0]]} in the second"
            )


def class_votes(counts: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the votes for each class of training, int32 [N, 7]; those for "unknown" count for none of them."""
    columns = [[VOTE_COLUMNS.index(name) for name in names] for names in _COLUMN_OF.values()]
    return np.stack([counts[:, index].sum(axis=1) for index in columns], axis=1)


def consensus(counts: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return what more than half of a face's voters agree on.

    Args:
        counts: int32 [N, 10], votes in the order of `VOTE_COLUMNS`.

    Returns:
        int32 [N]: an index into ``EMOTIONS``, `NONE_OF_FIVE` where more than half chose other classes than these, else
        `NO_CONSENSUS`.
    """
    votes, half = class_votes(counts), counts.sum(axis=1) / 2
    five = votes[:, : len(EMOTIONS)]
    agreed = np.where(votes[:, len(EMOTIONS) :].sum(axis=1) > half, NONE_OF_FIVE, NO_CONSENSUS)
    return np.where(five.max(axis=1) > half, five.argmax(axis=1), agreed).astype(np.int32)


def not_a_face(counts: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return which pictures more than half of their voters called "not a face": bool [N]."""
    called: NDArray[np.bool_] = counts[:, VOTE_COLUMNS.index("NF")] > counts.sum(axis=1) / 2
    return called


def blend(
    labels: NDArray[np.int32], counts: NDArray[np.int32], share: float, classes: int = len(_COLUMN_OF)
) -> NDArray[np.float32]:
    """Return training targets: the distribution of the votes, blended with the file's own label.

    Args:
        labels: int32 [N], indices into the classes.
        counts: int32 [N, 10], votes in the order of `VOTE_COLUMNS`.
        share: Weight of the votes, 0 to 1. The label has the rest, and all of it where nobody voted for any of the
            classes.
        classes: 7, or 5 to leave out the votes for other classes than ``EMOTIONS``.

    Returns:
        float32 [N, classes], each row summing to 1.
    """
    label = np.eye(classes, dtype=np.float32)[labels]
    votes = class_votes(counts)[:, :classes]
    total = votes.sum(axis=1, keepdims=True)
    seen = np.where(total > 0, votes / np.maximum(total, 1), label)
    return (share * seen + (1 - share) * label).astype(np.float32)
