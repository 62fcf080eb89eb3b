"""Faces to compare two versions on: from a Kaggle file, an array file, or recorded requests."""

from __future__ import annotations

import csv
import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, TextIO, cast

import numpy as np
from google.protobuf.message import DecodeError
from mien_client import protos
from mien_client.cli import CommandError
from mien_client.contract import (
    EMOTION_MODEL,
    EMOTIONS,
    IMAGE_BYTES_INPUT,
    IMAGE_SIZE,
    IMAGES_INPUT,
    KEYPOINTS,
)
from numpy.typing import NDArray

_PIXELS: Final = IMAGE_SIZE**2
_SEVEN: Final = {0: "Angry", 1: "Disgust", 3: "Happy", 4: "Sad", 5: "Surprise"}
"""The challenge's labels; 2 and 6, fear and neutral, are none of ours."""


@dataclass(frozen=True)
class Faces:
    """Faces, with the truth where it is known.

    Attributes:
        images: uint8 [N, 48, 48].
        truth: int [N], indices into ``EMOTIONS``; or float32 [N, 15, 2], pixels, NaN where a point is not known; or
            None.
        source: Where they come from, for people.
    """

    images: NDArray[np.uint8]
    truth: NDArray[Any] | None
    source: str

    def spread(self, limit: int) -> Faces:
        """Returns at most ``limit`` of them, from all over the file."""
        if len(self.images) <= limit:
            return self
        chosen = np.linspace(0, len(self.images) - 1, limit).round().astype(int)
        return Faces(self.images[chosen], None if self.truth is None else self.truth[chosen], self.source)


def read_data(path: Path, model: str) -> Faces:
    """Reads a Kaggle file, or ``.npz`` with ``images`` and, where known, ``labels`` or ``keypoints``.

    Of a file with a ``Usage`` column, the faces that are not for training are taken if there are any.

    Args:
        path: The file; ``.gz`` and ``.zip`` are unpacked.
        model: Whose truth is wanted.

    Raises:
        CommandError: It cannot be read, or holds something else.
    """
    try:
        if path.suffix == ".npz":
            return _read_arrays(path, model)
        with _opened(path) as stream:
            rows = csv.DictReader(stream, skipinitialspace=True)
            header = set(rows.fieldnames or ())
            if {"emotion", "pixels"} <= header:
                return _read_emotions(rows, path, model)
            if "Image" in header and {f"{point}_{axis}" for point in KEYPOINTS for axis in "xy"} <= header:
                return _read_keypoints(rows, path, model)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, EOFError, csv.Error, zlib.error, zipfile.BadZipFile) as error:
        raise CommandError(f"{path} is damaged, or not what its header says: {error}") from None
    raise CommandError(
        f"{path} is no file of faces: its header should be `emotion,pixels[,Usage]`, or the thirty columns of key "
        "points and Image"
    )


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A Kaggle file as text; of a ``.zip``, the one ``.csv`` in it."""
    with path.open("rb") as packed, ExitStack() as stack:
        binary: IO[bytes] = packed
        if path.suffix == ".gz":
            binary = cast("IO[bytes]", stack.enter_context(gzip.open(packed)))
        elif path.suffix == ".zip":
            archive = stack.enter_context(zipfile.ZipFile(packed))
            names = [name for name in archive.namelist() if name.endswith(".csv")]
            if len(names) != 1:
                raise ValueError(f"it holds {len(names)} .csv files, not one")
            binary = stack.enter_context(archive.open(names[0]))
        yield stack.enter_context(io.TextIOWrapper(binary, encoding="utf-8", newline=""))


def _read_arrays(path: Path, model: str) -> Faces:
    with np.load(path) as arrays:
        images = arrays["images"]
        if images.dtype != np.uint8 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE) or not len(images):
            raise ValueError(f"images are {images.dtype} {images.shape}, not uint8 (N, 48, 48)")
        name = "labels" if model == EMOTION_MODEL else "keypoints"
        truth = arrays.get(name)
    if truth is None:
        return Faces(images, None, path.name)
    shape = (len(images),) if model == EMOTION_MODEL else (len(images), len(KEYPOINTS), 2)
    if truth.shape != shape:
        raise ValueError(f"{name} have the shape {truth.shape}, not {shape}")
    if model == EMOTION_MODEL and not np.isin(truth, range(len(EMOTIONS))).all():
        raise ValueError(f"{name} are not all numbers from 0 to {len(EMOTIONS) - 1}")
    return Faces(images, truth.astype(int if model == EMOTION_MODEL else np.float32), path.name)


def _read_emotions(rows: csv.DictReader[str], path: Path, model: str) -> Faces:
    images, labels, held_out = [], [], []
    has_usage = "Usage" in (rows.fieldnames or ())
    for row in rows:
        number = int(row["emotion"] or "")
        if number not in range(7 if has_usage else len(EMOTIONS)):
            raise ValueError(f"it has the label {number}")
        name = _SEVEN.get(number) if has_usage else EMOTIONS[number]
        if name:
            images.append(_image(row["pixels"], _PIXELS))
            labels.append(EMOTIONS.index(name))
            held_out.append(has_usage and row["Usage"] != "Training")
    if not images:
        raise ValueError("it holds no face with one of the five emotions")
    some = np.array(held_out) if any(held_out) else np.full(len(images), True)
    pixels = np.stack(images).reshape(-1, IMAGE_SIZE, IMAGE_SIZE)
    truth = np.array(labels)[some] if model == EMOTION_MODEL else None
    return Faces(pixels[some], truth, f"{path.name}{', held out' if any(held_out) else ''}")


def _read_keypoints(rows: csv.DictReader[str], path: Path, model: str) -> Faces:
    images, points = [], []
    for row in rows:
        large = _image(row["Image"], 4 * _PIXELS).reshape(IMAGE_SIZE, 2, IMAGE_SIZE, 2).astype(np.uint16)
        images.append(((large.sum(axis=(1, 3)) + 2) // 4).astype(np.uint8))
        points.append([[float(row[f"{point}_{axis}"] or "nan") for axis in "xy"] for point in KEYPOINTS])
    if not images:
        raise ValueError("it holds no face")
    # Pixel i of the small image is the mean of pixels 2i and 2i + 1 of the large one.
    truth = ((np.array(points, np.float32) - 0.5) / 2) if model != EMOTION_MODEL else None
    return Faces(np.stack(images), truth, path.name)


def _image(text: str | None, size: int) -> NDArray[np.uint8]:
    values = np.array((text or "").split(), int)  # A line that is cut short has none.
    if values.size != size or values.min() < 0 or values.max() > 255:
        raise ValueError(f"an image has {values.size} pixels, not {size} from 0 to 255")
    return values.astype(np.uint8)


def read_recorded(path: Path, model: str) -> Faces:
    """Reads recorded requests: a TFRecord file of ``PredictionLog``, as ``tf_serving_warmup_requests`` is one.

    Requests of both models, with tensors or with raw bytes, are taken; PNG and JPEG files, which need a decoder, and
    requests of other kinds are left out.

    Args:
        path: The file.
        model: Whose requests are wanted, if there are any; else those of the other model, as faces are faces.

    Raises:
        CommandError: It cannot be read, or holds no such request.
    """
    found: dict[str, list[NDArray[np.uint8]]] = {}
    left_out = 0
    try:
        for record in _records(path.read_bytes()):
            request = protos.PredictionLog.FromString(record).predict_log.request
            images = _images_of(request)
            left_out += images is None
            if images is not None:
                found.setdefault(request.model_spec.name, []).append(images)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, DecodeError) as error:
        raise CommandError(f"{path} is no TFRecord file of PredictionLog records: {error}") from None
    chosen = found.get(model) or [images for of_one in found.values() for images in of_one]
    images = np.concatenate([*chosen, np.zeros((0, IMAGE_SIZE, IMAGE_SIZE), np.uint8)])
    if not len(images):
        raise CommandError(f"{path} holds no predict request with 48x48 images; {left_out} others were left out")
    return Faces(images, None, f"{path.name}{f', {left_out} requests left out' if left_out else ''}")


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a TFRecord file: length, its checksum, content, its checksum. Framing alone is checked."""
    position = 0
    while position < len(content):
        if position + 12 > len(content):
            raise ValueError("it is cut short")
        (length,) = struct.unpack_from("<Q", content, position)
        end = position + 12 + length
        if end + 4 > len(content):
            raise ValueError("it is cut short")
        yield content[position + 12 : end]
        position = end + 4


def _images_of(request: Any) -> NDArray[np.uint8] | None:
    """The images of a predict request, uint8 [n, 48, 48]; None if it has none that need no decoder."""
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
