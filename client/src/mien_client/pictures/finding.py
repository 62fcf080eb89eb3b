"""The faces in a picture: a search at several sizes and angles, and a second look at each find."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mien_client.contract import IMAGE_SIZE
from mien_client.pictures.cutting import FaceCrop, cut, cut_face, placed, rotation
from mien_client.pictures.decoding import Picture
from mien_client.pictures.detector import detect

MIN_SCORE = 0.8
"""Faces with a lower score are doubtful; `find_faces` drops them by default."""

MAX_FACES = 100
"""Most faces of a picture: the most certain ones. With what is searched, this bounds the work for a picture."""

# How much of a picture the models expect around a face: the square whose side is _CROP_SCALE times that of the
# detector's box, and whose centre lies _CROP_DOWN of the box's sides below the box's. Measured on pictures that the
# models were trained on: in the median of 29 emotion faces the box's side is 0.94 of the picture's and its centre 0.01
# of it below the picture's; in the median of 30 key point faces, 0.90 and 0.01.
_CROP_SCALE = 1.09
_CROP_DOWN = -0.01

# What is searched: copies of the picture of at most so many pixels, each turned by some angles. The first is for small
# faces. The last has a margin, since the detector sees faces that fill the picture better with something around them.
_SEARCHES: tuple[tuple[int, tuple[int, ...], float], ...] = (
    (1_250_000, (0,), 0.0),
    (500_000, (45, -45), 0.0),
    (150_000, (0, 45, 90, 135, 180, -135, -90, -45), 0.2),
)

# The second look: the sides of a square and of the face in it, in pixels. In faces of this size the detector's eyes are
# where the eyes are; in smaller ones they are about level, however tilted the face is.
_LOOK = 288
_LOOK_FACE = 208


class _Found(NamedTuple):
    """A face, in pixels of the picture: its square's centre and side, its tilt in degrees clockwise, its score."""

    centre: NDArray[np.float64]
    side: float
    angle: float
    score: float


def find_faces(picture: Picture, *, min_score: float = MIN_SCORE) -> list[FaceCrop]:
    """Find the faces in a picture; a picture of 48x48 pixels is one face, whatever it shows.

    Faces are found at any tilt, turned to the side by up to about 40 degrees, and in the dark. In pictures of up to a
    megapixel they may be as small as 30 pixels a side; in larger ones, an upright face needs about a fiftieth of the
    longer side, a tilted one somewhat more. Profiles and covered faces are often missed.

    The result depends on nothing but the arguments, and the work for a picture is bounded: at most 3.5 megapixels are
    searched, whatever its size, and each find is looked at twice. Threads and processes may call this at the same time.

    Args:
        picture: The picture.
        min_score: Faces with a lower score are dropped; 0 keeps doubtful ones.

    Returns:
        The faces from left to right, each turned so that its eyes are level, at most `MAX_FACES`.

    Example:
        >>> [face] = find_faces(read_picture("astronaut.jpg"))
        >>> face.score > 0.8
        True
    """
    if picture.grey.shape == (IMAGE_SIZE, IMAGE_SIZE):
        return [FaceCrop(picture.grey, picture.colour, left=0, top=0, side=IMAGE_SIZE)]
    crops = []
    for found in _search(picture.colour):
        if found.score >= min_score:
            centre = found.centre + rotation(found.angle) @ (0, found.side * _CROP_DOWN)
            crops.append(cut_face(picture, centre, found.side * _CROP_SCALE, found.angle, found.score))
    return sorted(crops, key=lambda crop: crop.left)


def _search(pixels: NDArray[np.uint8]) -> list[_Found]:
    """Find faces, doubtful ones too."""
    copies = _halved(pixels)
    found = _without_repetitions([face for view in _views(copies) for face in view.faces()])
    for _ in range(2):  # The first look at a tilted face tells most of its tilt, the second one the rest.
        found = _without_repetitions([face for each in found if (face := _look_again(copies, each))])
    return found


def _halved(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return the picture, and copies of half its size, a quarter and so on."""
    copies = [pixels]
    while max(copies[-1].shape) >= 128:
        height, width = (max(1, length // 2) for length in copies[-1].shape[:2])
        copies.append(np.asarray(cv2.resize(copies[-1], (width, height), interpolation=cv2.INTER_AREA), np.uint8))
    return copies


class _View(NamedTuple):
    """What is shown to the detector, and the matrix from (x, y, 1) in it to (x, y) in the picture."""

    pixels: NDArray[np.uint8]
    place: NDArray[np.float64]

    def faces(self) -> list[_Found]:
        """Return the faces that the detector sees, in pixels of the picture."""
        matrix, offset = self.place[:, :2], self.place[:, 2]
        scale = math.hypot(*matrix[0])
        found = []
        for face in detect(self.pixels):
            across, down = matrix @ (face.eyes[1] - face.eyes[0])
            angle = math.degrees(math.atan2(down, across))
            found.append(_Found(matrix @ face.centre + offset, face.side * scale, angle, face.score))
        return found


def _view(
    copies: list[NDArray[np.uint8]], centre: NDArray[np.float64], angle: float, scale: float, width: int, height: int
) -> _View:
    """Show a rectangle of the picture, of that of its copies that is a little finer than needed; see `placed`."""
    place = placed(centre, angle, scale, width, height)
    copy = copies[min(len(copies) - 1, max(0, math.floor(math.log2(scale))))]
    size = np.array(copies[0].shape[1::-1]) / copy.shape[1::-1]  # of a pixel of the copy
    in_copy = place / size[:, None]
    in_copy[:, 2] += 0.5 / size - 0.5
    return _View(cut(copy, in_copy, width, height), place)


def _views(copies: list[NDArray[np.uint8]]) -> Iterator[_View]:
    """Yield what of a picture is searched."""
    height, width = copies[0].shape[:2]
    for most, angles, margin in _SEARCHES:
        for angle in angles:
            cosine, sine = (abs(float(value)) for value in rotation(angle)[:, 0])
            more = 2 * margin * min(width, height)
            across, down = width * cosine + height * sine + more, width * sine + height * cosine + more
            # Of a narrow strip, which would be thousands of pixels long at its full size, less is shown.
            scale = max(1.0, math.sqrt(across * down / most), max(across, down) / math.sqrt(most) / 4)
            middle = np.array([(width - 1) / 2, (height - 1) / 2])
            yield _view(copies, middle, angle, scale, math.ceil(across / scale), math.ceil(down / scale))


def _look_again(copies: list[NDArray[np.uint8]], found: _Found) -> _Found | None:
    """Look at a find again, level and at a size that suits the detector; `None` if it is not a face then."""
    view = _view(copies, found.centre, found.angle, found.side / _LOOK_FACE, _LOOK, _LOOK)
    return max((face for face in view.faces() if _is_same(face, found)), key=lambda face: face.score, default=None)


def _is_same(one: _Found, other: _Found) -> bool:
    """Return whether two finds are of the same face."""
    return bool(_overlap(one.centre, one.side, other)[0])


def _without_repetitions(found: list[_Found]) -> list[_Found]:
    """Keep the best of several finds of the same face, and of all faces the best, which come first."""
    kept: list[_Found] = []
    rest = sorted(found, key=lambda one: one.score, reverse=True)
    centres, sides = np.array([one.centre for one in rest]).reshape(-1, 2), np.array([one.side for one in rest])
    numbers = np.arange(len(rest))
    while len(numbers) and len(kept) < MAX_FACES:
        best = rest[numbers[0]]
        kept.append(best)
        numbers = numbers[~_overlap(centres[numbers], sides[numbers], best)]
    return kept


def _overlap(centres: NDArray[np.float64], sides: NDArray[np.float64] | float, other: _Found) -> NDArray[np.bool_]:
    """Return which squares and another overlap by more than half of the smaller one: bool [N]."""
    smaller = np.minimum(sides, other.side)
    distances = np.abs(centres - other.centre).T
    overlaps = np.clip((sides + other.side) / 2 - distances, 0, smaller)
    return np.atleast_1d(overlaps[0] * overlaps[1] > smaller**2 / 2)
