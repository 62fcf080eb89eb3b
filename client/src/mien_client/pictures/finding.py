"""The faces in a picture, each cut out and turned upright."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import cv2.data
import numpy as np
from numpy.typing import NDArray

from mien_client.contract import IMAGE_SIZE
from mien_client.pictures.decoding import Picture

MIN_SCORE = 0.5
"""Faces with a lower score are doubtful; `find_faces` drops them by default."""

# How much of a picture the models expect around a face: the square whose side is FACE_CROP_SCALE times that of the
# cascade's box, and whose centre lies FACE_CROP_DOWN of the box's sides below the box's. Measured with this cascade on
# the pictures that the models were trained on: in the median of 300 emotion faces the box's side is 0.96 of the
# picture's and its centre 0.01 of it above the picture's; in the median of 300 key point faces, 0.90 and 0.03.
FACE_CROP_SCALE = 1.08
FACE_CROP_DOWN = 0.02

# The cascade sees a face only with some room around it. In pictures cut close, repeating the border gives it that.
_DETECTION_MARGIN = 0.15

# The smallest face that the cascade sees has this many pixels a side.
_SMALLEST = 24

# A picture with no side longer than this is searched as it is. In a larger one, upright faces are looked for in a copy
# of at least three quarters of its size, and tilted ones, which take four passes, in a copy of this size.
_DETECTION_SIDE = 1280

# The cascade sees faces that are tilted by up to 15 degrees or so; turning the picture shows it the others.
_ANGLES = (0, 22, -22, 44, -44)

# How many overlapping boxes of the second cascade make a score of a half. Of composed faces and of what the search
# finds in pictures without faces, `benchmarks/face_finder.py` counts how many are on which side of it.
_HALF_SCORE_BOXES = 16


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """A square part of a picture with one face in it.

    Attributes:
        image: The face as the models take it, uint8 [48, 48].
        colour: The same square with the picture's own pixels, uint8 [side, side, 3].
        left: The first column of the square in the picture; negative if the square extends beyond the border.
        top: The first row of the square in the picture.
        side: The side of the square in pixels of the picture.
        score: The certainty that this is a face, from 0 to 1; below 0.5 is doubtful. A picture of 48x48 has 1.
        angle: The tilt of the face in the picture, in degrees clockwise. The square is turned back by this angle around
            its centre.

    Example:
        >>> [crop] = find_faces(read_picture("astronaut.jpg"))
        >>> crop.image.shape
        (48, 48)
        >>> crop.colour.shape == (crop.side, crop.side, 3)
        True
    """

    image: NDArray[np.uint8] = field(repr=False)
    colour: NDArray[np.uint8] = field(repr=False)
    left: int
    top: int
    side: int
    score: float = 1.0
    angle: float = 0.0

    def to_picture(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Map points from the 48x48 image to the picture.

        Args:
            points: (x, y) in pixels of `image`, shape [..., 2]. Pixel centres are whole numbers in both.

        Returns:
            (x, y) in pixels of the picture, the same shape.

        Example:
            >>> [crop] = find_faces(read_picture("astronaut.jpg"))
            >>> [face] = client.analyze(crop.image)
            >>> crop.to_picture(face.keypoints).shape
            (15, 2)
        """
        scale = self.side / IMAGE_SIZE
        corner = np.array([self.left, self.top], np.float64)
        middle = (self.side - 1) / 2
        from_middle = (np.asarray(points, np.float64) + 0.5) * scale - 0.5 - middle
        return from_middle @ _rotation(self.angle).T + middle + corner


def find_faces(picture: Picture, *, min_score: float = MIN_SCORE) -> list[FaceCrop]:
    """Find the faces in a picture; a picture of 48x48 pixels is one face, whatever it shows.

    Frontal faces are found, upright or tilted by up to about 50 degrees. In a picture of up to about 1,000 pixels
    they may be as small as 24 pixels a side, though half of those below 40 are missed. In larger pictures the smallest
    upright face has 32 pixels a side, and the smallest tilted one a fortieth of the picture's longer side. Profiles,
    faces that are turned further and covered ones are missed.

    Args:
        picture: The picture.
        min_score: Faces with a lower score are dropped; 0 keeps doubtful ones.

    Returns:
        The faces from left to right, each turned upright.

    Example:
        >>> [face] = find_faces(read_picture("astronaut.jpg"))
        >>> face.score > 0.5
        True
    """
    if picture.grey.shape == (IMAGE_SIZE, IMAGE_SIZE):
        return [FaceCrop(picture.grey, picture.colour, left=0, top=0, side=IMAGE_SIZE)]
    return [_crop(picture, found) for found in _search(picture.grey) if found.score >= min_score]


class _Found(NamedTuple):
    """A square in which the cascade sees a face, in pixels of the picture; see `FaceCrop`."""

    left: float
    top: float
    side: float
    angle: float = 0.0
    score: float = 1.0


class _Cascades(threading.local):
    """The two cascades, which no two threads may use at the same time."""

    @cached_property
    def search(self) -> Any:
        return cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_alt2.xml")

    @cached_property
    def check(self) -> Any:
        return cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_alt.xml")


_cascades = _Cascades()


def _rotation(angle: float) -> NDArray[np.float64]:
    """Return the matrix that turns (x, y), with y down, clockwise by degrees."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.array([[cosine, -sine], [sine, cosine]])


def _turned(
    pixels: NDArray[Any],
    middle: NDArray[np.float64],
    angle: float,
    scale: float,
    size: int,
    border: int = cv2.BORDER_REPLICATE,
) -> Any:
    """Cut out a square, turned counter-clockwise, whose side is `scale` times `size` pixels of the picture."""
    matrix = _rotation(angle) * scale
    offset = middle - matrix @ np.full(2, (size - 1) / 2)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pixels, np.column_stack([matrix, offset]), (size, size), flags=flags, borderMode=border)


def _search(grey: NDArray[np.uint8]) -> list[_Found]:
    """Find faces from left to right, doubtful ones too."""
    margin = round(min(grey.shape) * _DETECTION_MARGIN)
    padded = cv2.copyMakeBorder(grey, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    found = []
    for angle in _ANGLES:
        shrink = min(1.0, _DETECTION_SIDE / max(padded.shape))
        if angle == 0:
            shrink = max(0.75, shrink)
        height, width = (max(1, round(size * shrink)) for size in padded.shape)
        # Equalized, a face in the dark is found as well as one in the sun.
        small = cv2.equalizeHist(cv2.resize(padded, (width, height), interpolation=cv2.INTER_AREA))
        middle = np.array([width - 1, height - 1]) / 2
        turned, turned_middle = small, middle
        if angle:
            side = math.ceil(math.hypot(width, height))
            turned, turned_middle = (
                _turned(small, middle, angle, 1.0, side, cv2.BORDER_CONSTANT),
                np.full(2, (side - 1) / 2),
            )
        boxes = _cascades.search.detectMultiScale(
            turned, scaleFactor=1.2 if angle else 1.1, minNeighbors=3, minSize=(_SMALLEST, _SMALLEST)
        )
        for x, y, size, _ in boxes:
            centre = _rotation(angle) @ (np.array([x, y]) + (size - 1) / 2 - turned_middle) + middle
            left, top = (centre + 0.5 - size / 2) / shrink - margin
            score = _score(padded, (centre + 0.5) / shrink - 0.5, angle, size / shrink)
            found.append(_Found(left, top, size / shrink, angle, score))
    return sorted(_without_repetitions(found))


def _score(grey: NDArray[np.uint8], centre: NDArray[np.float64], angle: float, side: float) -> float:
    """Return the score of a face: the more boxes of another cascade overlap there, the higher it is."""
    # The face takes up 64 of 120 pixels. A larger one is cut out as it is first, and then made smaller by area.
    finer = max(1, round(side / 64))
    piece = _turned(grey, centre, angle, side / 64 / finer, 120 * finer)
    piece = cv2.resize(piece, (120, 120), interpolation=cv2.INTER_AREA)
    boxes, counts = _cascades.check.detectMultiScale2(
        cv2.equalizeHist(piece), scaleFactor=1.05, minNeighbors=1, minSize=(44, 44), maxSize=(90, 90)
    )
    inside = [
        count
        for (x, y, side, _), count in zip(boxes, counts, strict=True)
        if max(abs(x + side / 2 - 60), abs(y + side / 2 - 60)) < 16
    ]
    boxes_there = int(max(inside, default=0))
    return boxes_there / (boxes_there + _HALF_SCORE_BOXES)


def _without_repetitions(found: list[_Found]) -> list[_Found]:
    """Keep the best of several finds of the same face in the picture turned by different angles."""
    kept: list[_Found] = []
    for one in sorted(found, key=lambda one: one.score, reverse=True):
        middle = np.array([one.left, one.top]) + one.side / 2
        if all(
            np.hypot(*(middle - (other.left + other.side / 2, other.top + other.side / 2)))
            > 0.5 * max(one.side, other.side)
            for other in kept
        ):
            kept.append(one)
    return kept


def _crop(picture: Picture, found: _Found) -> FaceCrop:
    """Cut out the square that the models expect around a found face, and turn it upright."""
    size = max(1, round(found.side * FACE_CROP_SCALE))
    down = _rotation(found.angle) @ np.array([0, found.side * FACE_CROP_DOWN])
    left = round(found.left + (found.side - size) / 2 + down[0])
    top = round(found.top + (found.side - size) / 2 + down[1])
    if found.angle:
        middle = np.array([left, top]) + (size - 1) / 2
        grey, colour = (_turned(pixels, middle, found.angle, 1.0, size) for pixels in (picture.grey, picture.colour))
    else:
        rows = np.clip(np.arange(top, top + size), 0, picture.grey.shape[0] - 1)
        columns = np.clip(np.arange(left, left + size), 0, picture.grey.shape[1] - 1)
        grey, colour = picture.grey[np.ix_(rows, columns)], picture.colour[np.ix_(rows, columns)]
    # Area interpolation is for making things smaller; in a face of fewer than 48 pixels it would show the pixels.
    interpolation = cv2.INTER_AREA if size >= IMAGE_SIZE else cv2.INTER_LINEAR
    image = cv2.resize(grey, (IMAGE_SIZE, IMAGE_SIZE), interpolation=interpolation)
    return FaceCrop(image, colour, left=left, top=top, side=size, score=found.score, angle=float(found.angle))
