"""Picture files of many formats, decoded to upright colour and grey pixels."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mien_client._exceptions import PictureError
from mien_client.reading import open_regular

MAX_PIXELS = 64 * 1024**2
"""Pictures of more pixels than this (64 megapixels) are refused before they are decoded."""

MAX_FILE_BYTES = 256 * 1024**2
"""Larger files are not read."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")


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
        descriptor = open_regular(name, max_bytes=MAX_FILE_BYTES)
    except OSError as error:
        raise PictureError(f"{name} cannot be read: {error.strerror}") from None
    except ValueError:
        raise PictureError(f"{name!r} is not a valid file name: it holds a null character") from None
    with os.fdopen(descriptor, "rb") as stream:
        return _decode_stream(stream, name)


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
    """Return the error for a file in which Pillow fails, which may raise almost any exception."""
    if "truncat" in str(error).lower():
        return PictureError(f"{name} is truncated: its end is missing")
    if "could not create decoder" in str(error):  # Pillow's message for a truncated WebP
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
    # Floats just above 1 may have the range 0 to 1 or 0 to 255: that is ambiguous.
    if not (low >= 0 and high <= 65535) or (is_float and 1 < high < 16):  # also if one is NaN
        expected = "from 0 to 1, 255 or 65535" if is_float else "from 0 to 65535"
        raise PictureError(
            f"{name} has grey values from {low:g} to {high:g}, expected a range {expected}: convert it to 8 bits"
        )
    white = 1 if is_float and high <= 1 else next(white for white in (255, 1023, 4095, 16383, 65535) if high <= white)
    scaled: NDArray[np.float32] = np.rint(values.astype(np.float32) * np.float32(255 / white))
    return scaled.astype(np.uint8)
