"""The faces of a comparison: from a Kaggle file, an array file, or recorded requests."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from mien_client import DataError, protos
from mien_client.contract import (
    EMOTION_MODEL,
    EMOTIONS,
    IMAGE_BYTES_INPUT,
    IMAGE_SIZE,
    IMAGES_INPUT,
    KEYPOINTS,
)
from mien_client.kaggle import read_emotion, read_groups, read_keypoints
from mien_client.splits import BY_USAGE, VALIDATION_USAGE, by_share, split_by_person
from mien_client.tables import MAX_BYTES, open_file
from numpy.typing import NDArray

from mien_serving.rollout.arrays import read_arrays

_PIXELS: Final = IMAGE_SIZE**2
_UNTRAINED_USAGE: Final = "PrivateTest"


@dataclass(frozen=True)
class Faces:
    """Faces, with the truth where it is known.

    Attributes:
        images: uint8 [N, 48, 48].
        truth: int [N], indices into ``EMOTIONS``; or float32 [N, 15, 2], pixels, NaN for unknown points; or None.
        source: Where the faces come from, for people.
        split: How the file was split into training faces and these, in the words of a version's manifest; or "".
        notes: Sentences that people should read before they trust the figures.
    """

    images: NDArray[np.uint8]
    truth: NDArray[Any] | None
    source: str
    split: str = ""
    notes: list[str] = field(default_factory=list)

    def spread(self, limit: int) -> Faces:
        """Return at most ``limit`` faces, spread evenly over the file."""
        if len(self.images) <= limit:
            return self
        chosen = np.linspace(0, len(self.images) - 1, limit).round().astype(int)
        return replace(self, images=self.images[chosen], truth=None if self.truth is None else self.truth[chosen])


@dataclass(frozen=True)
class Reading:
    """How a file of faces is to be read.

    Attributes:
        seven_labels: Whether labels are the challenge's seven; None means that a ``Usage`` column decides.
        groups: A CSV file that names the person in each row of a key-point file.
        skip_bad_rows: Whether to skip invalid rows.
        share: The share of the people in a key-point file that training holds out.
        seed: The seed of the random choice of these people.
    """

    seven_labels: bool | None = None
    groups: Path | None = None
    skip_bad_rows: bool = False
    share: float = 0.15
    seed: int = 0


def read_data(path: Path, model: str, reading: Reading) -> Faces:
    """Read a Kaggle file, or ``.npz`` with ``images`` and, where known, ``labels`` or ``keypoints``.

    From a Kaggle file the faces are read that `mien train` holds out, as `mien evaluate` does. The random split of
    emotion files without a ``Usage`` column is unknown here, so all their faces are read.

    Args:
        path: The file.
        model: The model whose truth is read.
        reading: How to read the file.

    Raises:
        DataError: The file cannot be read, or has other content.
    """
    if path.suffix.lower() == ".npz":
        return _read_arrays(path, model)
    return _read_emotions(path, reading) if model == EMOTION_MODEL else _read_keypoints(path, reading)


def _read_emotions(path: Path, reading: Reading) -> Faces:
    if reading.groups:
        raise DataError("--groups only applies to key points; emotion faces are split by Usage or at random")
    data = read_emotion(path, seven_labels=reading.seven_labels, skip_bad_rows=reading.skip_bad_rows)
    notes = [f"Skipped: {sentence}" for sentence in data.skipped]
    for usage in (VALIDATION_USAGE, _UNTRAINED_USAGE):
        if data.usage is not None and (chosen := data.usage == usage).any():
            return Faces(
                data.images[chosen],
                data.labels[chosen],
                f"{_name(path, data.source)} ({chosen.sum():,} faces of the Usage {usage})",
                BY_USAGE if usage == VALIDATION_USAGE else "",
                notes,
            )
    notes.append(
        f"{path.name} has no held-out faces, so all its faces were used: a version that was trained on this file has "
        "seen most of them."
    )
    return Faces(data.images, data.labels, f"{_name(path, data.source)} (all {len(data.images):,} faces)", "", notes)


def _read_keypoints(path: Path, reading: Reading) -> Faces:
    if reading.seven_labels:
        raise DataError("--seven-labels only applies to emotion; key-point files have no labels")
    data = read_keypoints(path, skip_bad_rows=reading.skip_bad_rows)
    people = read_groups(reading.groups, data.rows) if reading.groups else np.arange(len(data.rows))
    what = "people" if reading.groups else "rows"
    _, chosen = split_by_person(people, reading.share, reading.seed)
    split = by_share(reading.share, what, reading.seed)
    notes = [f"Skipped: {sentence}" for sentence in data.skipped]
    if not reading.groups:
        notes.append(
            f"Without --groups the split of {path.name} is by row: a version that was trained with another split, or "
            "on other faces of the same people, looks better than it is."
        )
    used = f"{len(chosen):,} faces of {len(np.unique(people[chosen])):,} {what}: {split}"
    return Faces(data.images[chosen], data.keypoints[chosen], f"{_name(path, data.source)} ({used})", split, notes)


def _name(path: Path, source: str) -> str:
    """Return the name of the file, and of the table if it was packed, without the folders above."""
    return f"{path.name}{source.removeprefix(str(path))}"


def _read_arrays(path: Path, model: str) -> Faces:
    name, other = ("labels", "keypoints") if model == EMOTION_MODEL else ("keypoints", "labels")
    try:
        with open_file(path) as stream:
            arrays, there = read_arrays(stream, ("images", name), MAX_BYTES)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{path} is not a valid .npz file: {error}") from None
    images, truth = arrays.get("images"), arrays.get(name)
    if images is None:
        listed = ", ".join(there) or "no array"
        raise DataError(f"{path} has {listed[:80]}; expected images and, where known, {name}")
    if images.dtype != np.uint8 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE) or not len(images):
        raise DataError(f"{path}: images are {images.dtype} {images.shape}, expected uint8 (N, 48, 48)")
    source = f"{path.name} (all {len(images):,} faces)"
    if truth is None:
        if other in there:
            raise DataError(f"{path} has {other}; expected {name} for the model {model}")
        return Faces(images, None, source)
    shape = (len(images),) if model == EMOTION_MODEL else (len(images), len(KEYPOINTS), 2)
    if truth.shape != shape or truth.dtype.kind not in "iuf":
        raise DataError(f"{path}: {name} are {truth.dtype} {truth.shape}, expected numbers {shape}")
    if model == EMOTION_MODEL and not np.isin(truth, range(len(EMOTIONS))).all():
        raise DataError(f"{path}: {name} are not all integers from 0 to {len(EMOTIONS) - 1}")
    return Faces(images, truth.astype(int if model == EMOTION_MODEL else np.float32), source)


def read_recorded(path: Path, model: str) -> Faces:
    """Read recorded requests: a TFRecord file of ``PredictionLog``, such as ``tf_serving_warmup_requests``.

    Predict requests with tensors or with raw bytes are read; requests with PNG or JPEG files, which need a decoder, and
    requests of other kinds are skipped.

    Args:
        path: The file.
        model: The model whose requests are read; without any, those of the other model are.

    Raises:
        DataError: The file cannot be read, or has no such request.
    """
    found: dict[str, list[NDArray[np.uint8]]] = {}
    skipped = 0
    try:
        with open_file(path) as stream:
            content = stream.read()
        for record in _records(content):
            request = protos.PredictionLog.FromString(record).predict_log.request
            images = _images_of(request)
            skipped += images is None
            if images is not None:
                found.setdefault(request.model_spec.name, []).append(images)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, DecodeError) as error:
        raise DataError(f"{path} is not a valid TFRecord file of PredictionLog records: {error}") from None
    chosen = found.get(model) or [images for of_one in found.values() for images in of_one]
    images = np.concatenate([*chosen, np.zeros((0, IMAGE_SIZE, IMAGE_SIZE), np.uint8)])
    if not len(images):
        raise DataError(f"{path} has no predict request with 48x48 images; {skipped} others were skipped")
    return Faces(images, None, f"{path.name}{f', {skipped} requests skipped' if skipped else ''}")


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a TFRecord file: length, checksum, content, checksum. The checksums are ignored."""
    position = 0
    while position < len(content):
        if position + 12 > len(content):
            raise ValueError("it is truncated")
        (length,) = struct.unpack_from("<Q", content, position)
        end = position + 12 + length
        if end + 4 > len(content):
            raise ValueError("it is truncated")
        yield content[position + 12 : end]
        position = end + 4


def _images_of(request: Any) -> NDArray[np.uint8] | None:
    """Return the images of a predict request, uint8 [n, 48, 48]; None if it has none, or they need a decoder."""
    if IMAGES_INPUT in request.inputs:
        tensor = request.inputs[IMAGES_INPUT]
        content = tensor.tensor_content or bytes(tensor.int_val)
        return _shaped(content)
    if IMAGE_BYTES_INPUT in request.inputs:
        strings = request.inputs[IMAGE_BYTES_INPUT].string_val
        if strings and all(len(string) == _PIXELS for string in strings):
            return _shaped(b"".join(strings))
    return None


def _shaped(content: bytes) -> NDArray[np.uint8] | None:
    if not content or len(content) % _PIXELS:
        return None
    return np.frombuffer(content, np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE)
