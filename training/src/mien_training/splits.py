"""Which faces are for training and which are held out for validation."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from mien_client import DataError
from mien_client.kaggle import EmotionData, KeypointData
from mien_client.splits import BY_USAGE, TRAINING_USAGE, VALIDATION_USAGE, by_share, split_by_person
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split


@dataclass(frozen=True)
class Faces:
    """Faces and what is known of them.

    Attributes:
        images: uint8 [N, 48, 48].
        targets: int32 [N] emotions, or float32 [N, 15, 2] key points with NaN where one is missing.
    """

    images: NDArray[np.uint8]
    targets: NDArray[np.int32] | NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> "Faces":
        return Faces(self.images[index], self.targets[index])


@dataclass(frozen=True)
class Split:
    """Training and validation faces, and a sentence that says how they were parted."""

    training: Faces
    validation: Faces
    how: str


def split_emotion(data: EmotionData, share: float, seed: int) -> Split:
    """Part faces as their ``Usage`` says (PublicTest validates), or else at random with every emotion in proportion.

    Raises:
        DataError: One of the two parts would be empty, or an emotion has fewer than two faces to part.
    """
    faces = Faces(data.images, data.labels)
    if data.usage is not None:
        training, validation = data.usage == TRAINING_USAGE, data.usage == VALIDATION_USAGE
        if not training.any():
            raise DataError("No face has the Usage Training; there is nothing to train on.")
        if validation.any():
            return Split(faces[training], faces[validation], BY_USAGE)
        faces = faces[training]
    try:
        first, second = train_test_split(
            np.arange(len(faces)), test_size=share, random_state=seed, stratify=faces.targets
        )
    except ValueError as error:
        raise DataError(f"The faces cannot be parted with every emotion on both sides: {error}") from None
    return Split(faces[first], faces[second], by_share(share, "faces of every emotion", seed))


def add_others(split: Split, others: EmotionData | None) -> Split:
    """Train on faces of other emotions too, which a file held besides ours: all, or those of its ``Usage`` Training."""
    if others is None:
        return split
    more = Faces(others.images, others.labels)
    if others.usage is not None:
        more = more[others.usage == TRAINING_USAGE]
    images = np.concatenate([split.training.images, more.images])
    targets = np.concatenate([split.training.targets, more.targets])
    return replace(split, training=Faces(images, targets))


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
    order = np.random.default_rng((seed, epoch)).permutation(len(faces))
    for start in range(first * size, max(len(faces) - size, 0) + 1, size):
        yield faces[np.sort(order[start : start + size])]
