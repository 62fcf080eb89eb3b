"""Which faces are for training and which are held out for validation."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from mien_client import DataError
from mien_client.contract import EMOTIONS
from mien_client.kaggle import EmotionData, KeypointData
from mien_client.splits import BY_USAGE, TRAINING_USAGE, VALIDATION_USAGE, by_share, split_by_person
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from mien_training.votes import Votes, class_votes, consensus, not_a_face


@dataclass(frozen=True)
class Faces:
    """Faces and what is known of them.

    Attributes:
        images: uint8 [N, 48, 48].
        targets: int32 [N] emotions, those of `OTHER_EMOTIONS` counting on from the last of ours; or float32
            [N, 15, 2] key points with NaN where one is missing.
        votes: int32 [N, 10], what ten people saw, in the order of `votes.VOTE_COLUMNS`; None where that is not known.
    """

    images: NDArray[np.uint8]
    targets: NDArray[np.int32] | NDArray[np.float32]
    votes: NDArray[np.int32] | None = None

    @property
    def consensus(self) -> NDArray[np.int32] | None:
        """What more than half of the voters agree on, int32 [N]; see `votes.consensus`. None without votes."""
        return None if self.votes is None else consensus(self.votes)

    @property
    def truth(self) -> NDArray[np.int32]:
        """Emotions to be measured against: the consensus of the voters or, without votes, the labels; int32 [N]."""
        return self.targets.astype(np.int32) if self.votes is None else consensus(self.votes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> "Faces":
        votes = None if self.votes is None else self.votes[index]
        return Faces(self.images[index], self.targets[index], votes)


@dataclass(frozen=True)
class Split:
    """Training and validation faces, and a sentence that says how they were parted."""

    training: Faces
    validation: Faces
    how: str

    @property
    def knows_others(self) -> bool:
        """Whether training faces, or their votes, show anything but the five emotions."""
        votes = self.training.votes
        seen = self.training.targets if votes is None else np.flatnonzero(class_votes(votes).sum(axis=0))
        return bool(seen.max() >= len(EMOTIONS))


def emotion_faces(data: EmotionData, votes: Votes | None = None) -> tuple[Faces, NDArray[np.str_] | None]:
    """Join a file's faces, also those of emotions that are not among ours, with what ten people saw in them.

    Returns:
        The faces in the order of the file, and the ``Usage`` of each, or None where the file has no such column.
    """
    parts = [data] if data.others is None else [data, data.others]
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows)
    images, labels = (
        np.concatenate(found)[order] for found in zip(*((p.images, p.labels) for p in parts), strict=True)
    )
    usage = None if data.usage is None else np.concatenate([part.usage for part in parts])[order]
    return Faces(images, labels, None if votes is None else votes.counts[rows[order]]), usage


def split_emotion(data: EmotionData, share: float, seed: int, *, others: bool, votes: Votes | None = None) -> Split:
    """Part faces as their ``Usage`` says (PublicTest validates), or else at random with every emotion in proportion.

    Pictures that most voters called "not a face" are not trained on.

    Args:
        data: The faces.
        share: The share that validates where the file does not say so.
        seed: Decides which, there.
        others: Whether to take the faces of emotions that are not among ours, too.
        votes: What ten people saw in each row of the file.

    Raises:
        DataError: One of the two parts would be empty, or an emotion has fewer than two faces to part.
    """
    faces, usage = emotion_faces(data if others else replace(data, others=None), votes)
    first, second, how = np.arange(len(faces)), np.arange(0), BY_USAGE
    if usage is not None:
        first, second = np.flatnonzero(usage == TRAINING_USAGE), np.flatnonzero(usage == VALIDATION_USAGE)
        if not len(first):
            raise DataError("No face has the Usage Training; there is nothing to train on.")
    if not len(second):
        try:
            first, second = train_test_split(first, test_size=share, random_state=seed, stratify=faces.targets[first])
        except ValueError as error:
            raise DataError(f"The faces cannot be parted with every emotion on both sides: {error}") from None
        how = by_share(share, "faces of every emotion", seed)
    if faces.votes is not None:
        first = first[~not_a_face(faces.votes[first])]
    return Split(faces[first], faces[second], how)


def split_keypoints(data: KeypointData, people: NDArray[np.int64] | None, share: float, seed: int) -> Split:
    """Part faces by person, so that nobody is on both sides; where nobody's name is known, by row.

    Raises:
        DataError: There are fewer than two people, or rows.
    """
    faces = Faces(data.images, data.keypoints)
    first, second = split_by_person(np.arange(len(faces)) if people is None else people, share, seed)
    how = by_share(share, "rows" if people is None else "people", seed)
    return Split(faces[first], faces[second], how)


def batches(faces: Faces, size: int, seed: int, epoch: int, first: int = 0) -> Iterator[Faces]:
    """Yield an epoch's batches, from number `first` on, in an order that only `seed` and `epoch` decide.

    Args:
        faces: N of them.
        size: Faces a batch; the N mod `size` last of the order wait for another epoch.
        seed: Of the run.
        epoch: From 0.
        first: Batches to leave out, as they were trained before an interruption.
    """
    order = order_of(len(faces), seed, epoch)
    for start in range(first * size, max(len(faces) - size, 0) + 1, size):
        yield faces[np.sort(order[start : start + size])]


def order_of(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order, int64 [count], in which a run of this `seed` sees its faces in an epoch, from 0."""
    return np.random.default_rng((seed, epoch)).permutation(count)
