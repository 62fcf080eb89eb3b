"""Squares cut out of pictures, turned upright, and the way back from their pixels to the picture's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien_client.contract import IMAGE_SIZE
from mien_client.pictures.decoding import Picture


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """A square part of a picture with one face in it.

    Attributes:
        image: The face as the models take it, uint8 [48, 48].
        colour: The same square with the picture's own pixels, uint8 [side, side, 3].
        left: The first column of the square in the picture; negative if the square extends beyond the border.
        top: The first row of the square in the picture.
        side: The side of the square in pixels of the picture.
        score: The certainty that this is a face, from 0 to 1. A picture of 48x48 has 1.
        angle: The tilt of the face in the picture: that of the line through its eyes, in degrees clockwise, from -180
            to 180. The square is turned back by this angle around its centre, so the eyes in it are level.

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
        return from_middle @ rotation(self.angle).T + middle + corner


def rotation(angle: float) -> NDArray[np.float64]:
    """Return the matrix that turns (x, y), with y down, clockwise by degrees: float64 [2, 2]."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.array([[cosine, -sine], [sine, cosine]])


def placed(centre: NDArray[np.float64], angle: float, scale: float, width: int, height: int) -> NDArray[np.float64]:
    """Return where the pixels of a rectangle lie in a picture.

    Args:
        centre: (x, y) of its centre in the picture.
        angle: By how much it is turned, in degrees clockwise.
        scale: The side of one of its pixels, in pixels of the picture.
        width: Its width, in pixels of its own.
        height: Its height.

    Returns:
        The matrix from (x, y, 1) in the rectangle to (x, y) in the picture, float64 [2, 3].
    """
    matrix = rotation(angle) * scale
    return np.column_stack([matrix, centre - matrix @ ((width - 1) / 2, (height - 1) / 2)])


def cut(pixels: NDArray[np.uint8], place: NDArray[np.float64], width: int, height: int) -> NDArray[np.uint8]:
    """Cut a rectangle out; what lies beyond the border repeats it.

    Args:
        pixels: uint8 [rows, columns] or [rows, columns, 3].
        place: The matrix from (x, y, 1) in the rectangle to (x, y) in them, float64 [2, 3]. Where one pixel of the
            rectangle is much larger than two of theirs, pixels are skipped.
        width: The rectangle's width, in pixels of its own.
        height: Its height.
    """
    corners = np.array([[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1]]) @ place.T
    # Only what is needed: OpenCV turns nothing that is wider or higher than 32,766 pixels.
    last = np.array(pixels.shape[1::-1]) - 1
    left, top = np.clip(np.floor(corners.min(axis=0)) - 1, 0, last).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, last).astype(int)
    rectangle = cv2.warpAffine(
        pixels[top : bottom + 1, left : right + 1],
        place - [[0, 0, left], [0, 0, top]],
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(rectangle, np.uint8)


def cut_face(picture: Picture, centre: NDArray[np.float64], side: float, angle: float, score: float) -> FaceCrop:
    """Cut a face out of a picture, upright.

    Args:
        picture: The picture.
        centre: (x, y) of the square's centre in pixels of the picture.
        side: The square's side in pixels of the picture; both are rounded to whole pixels.
        angle: The tilt of the face, in degrees clockwise.
        score: The certainty that it is one.
    """
    size = max(1, round(side))
    left, top = (round(float(middle) - (size - 1) / 2) for middle in centre)
    place = placed(np.array([left, top]) + (size - 1) / 2, angle, 1.0, size, size)
    grey, colour = (cut(pixels, place, size, size) for pixels in (picture.grey, picture.colour))
    # Area interpolation is for making things smaller; in a face of fewer than 48 pixels it would show the pixels.
    interpolation = cv2.INTER_AREA if size >= IMAGE_SIZE else cv2.INTER_LINEAR
    image: Any = cv2.resize(grey, (IMAGE_SIZE, IMAGE_SIZE), interpolation=interpolation)
    return FaceCrop(image, colour, left=left, top=top, side=size, score=score, angle=angle)
