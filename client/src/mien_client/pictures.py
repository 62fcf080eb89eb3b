"""Pictures: from a file, its bytes or a PIL image to faces as the models take them, and back to the picture's pixels.

Needs the extra ``pictures``: ``pip install "mien-client[pictures]"``. ``mien analyze`` does it this way.

Example:
    >>> from mien_client.pictures import find_faces, read_picture
    >>> crops = find_faces(read_picture("astronaut.jpg"))
    >>> for crop, face in zip(crops, client.analyze_iter(crop.image for crop in crops)):
    ...     in_picture = crop.to_picture(face.keypoints)  # of the fifteen points, (x, y) in pixels of astronaut.jpg
"""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien_client._exceptions import PictureError
from mien_client.contract import IMAGE_SIZE

try:
    import cv2
    import cv2.data
    from PIL import Image, ImageOps, UnidentifiedImageError

    _Cascade = cv2.CascadeClassifier
    _CASCADE_FILE = f"{cv2.data.haarcascades}haarcascade_frontalface_default.xml"
except (ImportError, AttributeError) as error:
    raise ImportError(
        "finding faces needs Pillow and OpenCV 4, whose cascade classifier OpenCV 5 has dropped: "
        "pip install 'mien-client[pictures]'"
    ) from error

# How much of a picture the models expect around a face: the square whose side is FACE_CROP_SCALE times that of the
# cascade's box, and whose centre lies FACE_CROP_DOWN of the box's sides below the box's. Measured with this cascade on
# the pictures that the models were trained on: in the middle one of 557 emotion faces the box's side is 0.99 of the
# picture's and its centre that of the picture; in the middle one of 559 key point faces, 0.94, and 0.02 above it.
FACE_CROP_SCALE = 1.03
FACE_CROP_DOWN = 0.01

# The cascade sees a face only with some room around it. In pictures cut close, repeating the border gives it that.
_DETECTION_MARGIN = 0.15

_DETECTION_SIDE = 640
"""Faces are looked for in a copy with no side longer than this: in a phone's picture that is many times faster, and a
face that is lost by it is too small to be read."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, upright.

    Attributes:
        colour: uint8 [height, width, 3], red, green and blue.
        grey: uint8 [height, width], 0 black to 255 white.

    Example:
        >>> picture = read_picture("astronaut.jpg")
        >>> picture.colour.shape, picture.grey.shape
        ((320, 320, 3), (320, 320))
    """

    colour: NDArray[np.uint8]
    grey: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """A square piece of a picture with one face in it.

    Attributes:
        image: The face as the models take it, uint8 [48, 48].
        colour: The same piece with the picture's own pixels, uint8 [side, side, 3].
        left: The first of the picture's columns in the piece; negative if it reaches over the border.
        top: The first of the picture's rows in the piece.
        side: How many of the picture's pixels the piece is wide and high.

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

    def to_picture(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Maps points from the 48x48 image to the picture.

        Args:
            points: (x, y) in pixels of `image`, shape [..., 2]. Pixel centres are whole numbers here and there.

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
        return (np.asarray(points, np.float64) + 0.5) * scale - 0.5 + corner


def read_picture(source: str | os.PathLike[str] | bytes | Image.Image) -> Picture:
    """Reads a PNG or JPEG picture of any kind: grey, colour, palette, 16 bits, transparent (shown on white), turned.

    Args:
        source: The path of a file, the bytes of one, or an image of PIL, which may also come from elsewhere.

    Raises:
        PictureError: If the file cannot be read, or is no whole picture of these kinds.

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> by_path = read_picture("astronaut.jpg")
        >>> by_bytes = read_picture(Path("astronaut.jpg").read_bytes())
        >>> by_image = read_picture(Image.open("astronaut.jpg"))
        >>> (by_path.grey == by_bytes.grey).all() and (by_path.grey == by_image.grey).all()
        np.True_
    """
    if not isinstance(source, (str, os.PathLike, bytes, Image.Image)):
        kind = type(source).__name__
        raise PictureError(f"a {kind} is no picture: give the path of a file, the bytes of one, or an image of PIL")
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "the picture"
    try:
        with warnings.catch_warnings():
            # Of pictures that are large but still fine; one that is too large to be meant well is an error.
            warnings.simplefilter("ignore")
            if isinstance(source, Image.Image):
                colour = _to_rgb(ImageOps.exif_transpose(source))
            else:
                with Image.open(
                    io.BytesIO(source) if isinstance(source, bytes) else source, formats=("PNG", "JPEG")
                ) as file:
                    colour = _to_rgb(ImageOps.exif_transpose(file))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise PictureError(f"{name} cannot be read: {error.strerror}") from None
    except UnidentifiedImageError:
        raise PictureError(f"{name} is no PNG or JPEG picture") from None
    except Image.DecompressionBombError:
        raise PictureError(f"{name} is too large: more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from None
    except Exception as error:  # A broken file makes Pillow raise almost anything, down to struct.error.
        raise PictureError(f"{name} is damaged: {error}") from error
    return Picture(np.asarray(colour), np.asarray(colour.convert("L")))


def find_faces(picture: Picture) -> list[FaceCrop]:
    """Finds the faces in a picture; a picture of 48x48 pixels is one face, whatever is in it.

    Returns:
        The faces from left to right.

    Example:
        >>> len(find_faces(read_picture("astronaut.jpg")))
        1
    """
    if picture.grey.shape == (IMAGE_SIZE, IMAGE_SIZE):
        return [FaceCrop(picture.grey, picture.colour, left=0, top=0, side=IMAGE_SIZE)]
    return [_crop(picture, *box) for box in _boxes(picture.grey)]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits per pixel, of which Pillow would keep the wrong ones.
        return Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _boxes(grey: NDArray[np.uint8]) -> list[tuple[float, float, float]]:
    """Returns the left, top and side of the squares in which the cascade sees a face, sorted."""
    margin = round(min(grey.shape) * _DETECTION_MARGIN)
    padded = cv2.copyMakeBorder(grey, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    shrink = min(1.0, _DETECTION_SIDE / max(padded.shape))
    height, width = (max(1, round(size * shrink)) for size in padded.shape)
    # Equalized, a face in the dark is found as well as one in the sun.
    small = cv2.equalizeHist(cv2.resize(padded, (width, height), interpolation=cv2.INTER_AREA))
    boxes = _Cascade(_CASCADE_FILE).detectMultiScale(small, scaleFactor=1.1, minNeighbors=5, minSize=(24, 24))
    return sorted((x / shrink - margin, y / shrink - margin, side / shrink) for x, y, side, _ in boxes)


def _crop(picture: Picture, left: float, top: float, side: float) -> FaceCrop:
    """Cuts out the square that the models expect around one of the cascade's boxes."""
    size = max(1, round(side * FACE_CROP_SCALE))
    left = round(left + (side - size) / 2)
    top = round(top + (side - size) / 2 + side * FACE_CROP_DOWN)
    rows = np.clip(np.arange(top, top + size), 0, picture.grey.shape[0] - 1)
    columns = np.clip(np.arange(left, left + size), 0, picture.grey.shape[1] - 1)
    piece = np.ix_(rows, columns)
    # Area interpolation is for making things smaller; in a face of fewer than 48 pixels it would show the pixels.
    interpolation = cv2.INTER_AREA if size >= IMAGE_SIZE else cv2.INTER_LINEAR
    image = cv2.resize(picture.grey[piece], (IMAGE_SIZE, IMAGE_SIZE), interpolation=interpolation)
    return FaceCrop(image, picture.colour[piece], left=left, top=top, side=size)
