"""Pictures: from a file, its bytes or a PIL image to faces as the models take them, and back to the picture's pixels.

Needs the extra ``pictures``: ``pip install "mien-client[pictures]"``. ``mien analyze`` does it this way.

Example:
    >>> from mien_client.pictures import find_faces, read_picture
    >>> crops = find_faces(read_picture("astronaut.jpg"))
    >>> for crop, face in zip(crops, client.analyze_iter(crop.image for crop in crops)):
    ...     in_picture = crop.to_picture(face.keypoints)  # of the fifteen points, (x, y) in pixels of astronaut.jpg
"""

from __future__ import annotations

import errno
import io
import os
import stat
import warnings
from dataclasses import dataclass, field
from typing import Any, BinaryIO

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

MAX_PIXELS = 64 * 1024**2
"""Pictures of more pixels than this (64 megapixels) are refused before they are decoded."""

MAX_FILE_BYTES = 256 * 1024**2
"""Larger files are not read."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")

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
    """Read a picture: PNG, JPEG, WebP, GIF, BMP or TIFF, of any colour mode, the first frame of several.

    An EXIF orientation is applied, and transparent parts are shown on white. Grey values of more than eight bits are
    scaled by their range: floats of at most 1 from 0 to 1, other values from 0 to the end of the smallest of 8, 10, 12,
    14 and 16 bits that holds the brightest one.

    Args:
        source: The path of a regular file of at most `MAX_FILE_BYTES` bytes, the bytes of such a file, or a PIL image.
            In all three cases a picture has at most `MAX_PIXELS` pixels; its header is checked before it is decoded.

    Returns:
        The picture, upright.

    Raises:
        PictureError: The file cannot be read, is not a whole picture of these formats, or is too large.

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> by_path = read_picture("astronaut.jpg")
        >>> by_bytes = read_picture(Path("astronaut.jpg").read_bytes())
        >>> by_image = read_picture(Image.open("astronaut.jpg"))
        >>> (by_path.grey == by_bytes.grey).all() and (by_path.grey == by_image.grey).all()
        np.True_
    """
    if isinstance(source, Image.Image):
        return _decode(source, "The picture", in_place=False)
    if isinstance(source, bytes):
        return _decode_stream(io.BytesIO(source), "The picture")
    if not isinstance(source, (str, os.PathLike)):
        kind = type(source).__name__
        raise PictureError(f"Expected the path of a picture, the bytes of a picture file or a PIL image, got {kind}")
    name = os.fspath(source)
    if name.lower().startswith(("http://", "https://")):
        raise PictureError(f"{name} is a URL, which is not fetched: download it first")
    try:
        stream = _open_regular(name)
    except OSError as error:
        raise PictureError(f"{name} cannot be read: {error.strerror}") from None
    except ValueError:  # a zero byte in the name
        raise PictureError(f"{name!r} is not the name of a file") from None
    with stream:
        return _decode_stream(stream, name)


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


def _open_regular(name: str) -> BinaryIO:
    """Open a file for reading, unless it is a pipe, a device or too large, which could block or never end."""
    # A pipe without a writer blocks in open() unless it is told not to.
    descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        facts = os.fstat(descriptor)
        if stat.S_ISDIR(facts.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(facts.st_mode):
            raise PictureError(f"{name} is not a regular file")
        if facts.st_size > MAX_FILE_BYTES:
            raise PictureError(f"{name} is too large: {facts.st_size:,} bytes, at most {MAX_FILE_BYTES:,} are read")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _decode_stream(stream: BinaryIO, name: str) -> Picture:
    start = stream.read(16)
    stream.seek(0)
    if not start:
        raise PictureError(f"{name} is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures and of odd metadata.
            image = Image.open(stream, formats=_FORMATS)
    except UnidentifiedImageError:
        if start.startswith(_SIGNATURES):
            raise PictureError(f"{name} is truncated or damaged: its header cannot be read") from None
        if start[4:8] == b"ftyp":
            raise PictureError(f"{name} is a HEIC, AVIF or video file: convert it to JPEG or PNG first") from None
        raise PictureError(f"{name} is not a PNG, JPEG, WebP, GIF, BMP or TIFF picture") from None
    except Image.DecompressionBombError:
        raise PictureError(f"{name} is too large: more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:
        raise _damage(error, name) from error
    with image:
        return _decode(image, name, in_place=True)


def _decode(image: Image.Image, name: str, *, in_place: bool) -> Picture:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"{name} is too large: {width:,} × {height:,} pixels, at most {MAX_PIXELS:,} in all are read"
        )
    if not width * height:
        raise PictureError(f"{name} is empty: {width} × {height} pixels")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            colour = _to_rgb(image, name, in_place=in_place)
    except PictureError:
        raise
    except Exception as error:
        raise _damage(error, name) from error
    return Picture(np.asarray(colour), np.asarray(colour.convert("L")))


def _damage(error: Exception, name: str) -> PictureError:
    """Describe a file in which Pillow fails, which it does with almost any exception, down to `struct.error`."""
    if "truncat" in str(error).lower():
        return PictureError(f"{name} is truncated: its end is missing")
    if "could not create decoder" in str(error):  # what Pillow says of a cut WebP
        return PictureError(f"{name} is truncated or damaged")
    return PictureError(f"{name} is damaged: {error}")


def _to_rgb(image: Image.Image, name: str, *, in_place: bool) -> Image.Image:
    # Of 16 bits per channel Pillow keeps the upper eight, except in grey pictures. (A BMP's 16 bits are of a pixel.)
    upper_bits_only = image.format in ("PNG", "TIFF") and ";16" in str(getattr(image, "tile", ""))
    if in_place:  # saves a copy of a large picture
        ImageOps.exif_transpose(image, in_place=True)
    else:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        grey = _to_8_bits(np.asarray(image), name)
        if isinstance(image.info.get("transparency"), int):
            grey[np.asarray(image) == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        colour = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    else:
        colour = image if image.mode == "RGB" else image.convert("RGB")
    if upper_bits_only and np.asarray(colour).max() < 64:
        raise PictureError(
            f"{name} has 16 bits per channel, but no value above a quarter of their range: convert it to 8 bits"
        )
    return colour


def _to_8_bits(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    is_float = values.dtype.kind == "f"
    # Floats just above 1 may be of the range 0 to 1 or of 0 to 255: nobody can tell.
    if not (low >= 0 and high <= 65535) or (is_float and 1 < high < 16):  # also if one is NaN
        expected = "from 0 to 1, 255 or 65535" if is_float else "from 0 to 65535"
        raise PictureError(
            f"{name} has grey values from {low:g} to {high:g}, expected a range {expected}: convert it to 8 bits"
        )
    white = 1 if is_float and high <= 1 else next(white for white in (255, 1023, 4095, 16383, 65535) if high <= white)
    scaled: NDArray[np.float32] = np.rint(values.astype(np.float32) * np.float32(255 / white))
    return scaled.astype(np.uint8)


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
