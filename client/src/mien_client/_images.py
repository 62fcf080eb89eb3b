"""Images as the models take them, and clear errors for everything else."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien_client._exceptions import InvalidImageError
from mien_client.contract import IMAGE_SIZE

_WANTED = "one uint8 array of shape (48, 48) or (N, 48, 48)"


def as_images(images: Any) -> NDArray[np.uint8]:
    """Check images and bring them to one shape.

    Args:
        images: A uint8 array of shape (48, 48), (48, 48, 1), (N, 48, 48) or (N, 48, 48, 1), values 0 to 255.

    Returns:
        The same pixels as a C-contiguous array of shape (N, 48, 48), without a copy where that is possible.

    Raises:
        InvalidImageError: The images are anything else. The text says how to convert them.
    """
    if not isinstance(images, np.ndarray):
        raise InvalidImageError(_not_an_array(images))
    shape = _batch_shape(images.shape)
    if shape is None:
        raise InvalidImageError(_wrong_shape(images.shape))
    if images.dtype != np.uint8:
        raise InvalidImageError(_wrong_dtype(images))
    if np.ma.is_masked(images):
        raise InvalidImageError("Expected images without masked pixels, got some: fill them with images.filled(0)")
    return np.ascontiguousarray(images).reshape(shape)


def _batch_shape(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    one = (IMAGE_SIZE, IMAGE_SIZE)
    if shape in (one, (*one, 1)):
        return (1, *one)
    if shape[1:] in (one, (*one, 1)):
        return (shape[0], *one)
    return None


def _not_an_array(images: Any) -> str:
    kind = type(images).__name__
    first = images[0] if isinstance(images, (list, tuple)) and images else images
    if isinstance(first, (str, os.PathLike, bytes, bytearray)):
        hint = "to find the faces in a picture call analyze_pictures, with a path or the bytes of a picture file"
    elif type(first).__module__.startswith("PIL."):
        hint = (
            "to find the faces in a picture call analyze_pictures; convert an image that is one upright face with "
            'np.asarray(image.convert("L").resize((48, 48)))'
        )
    elif hasattr(first, "read"):
        hint = "to find the faces in a picture call analyze_pictures, with the content of the file, file.read()"
    elif isinstance(images, (list, tuple)):
        hint = "convert with " + (
            "np.stack(images)" if isinstance(first, np.ndarray) else "np.array(images, dtype=np.uint8)"
        )
    else:
        hint = "convert with np.asarray(images)"
    return f"Expected {_WANTED}, got {kind}: {hint}"


def _wrong_shape(shape: tuple[int, ...]) -> str:
    size = IMAGE_SIZE
    hint = "put one face, cropped and scaled to 48x48, in each image"
    if shape[-1:] == (size * size,) and len(shape) <= 2:
        hint = "unfold the pixels with images.reshape(-1, 48, 48)"
    elif len(shape) in (3, 4) and shape[-1] in (3, 4):
        hint = "turn colour into grey first, with cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)"
        if shape[-3:-1] != (size, size):
            hint += " and scale to 48x48, with cv2.resize(grey, (48, 48), interpolation=cv2.INTER_AREA)"
    elif len(shape) == 4 and shape[1:] == (1, size, size):
        hint = "drop the channel axis with images[:, 0]"
    elif len(shape) in (2, 3) and 0 not in shape:
        hint = "scale each image with cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA)"
    return f"Expected images of shape (48, 48) or (N, 48, 48), got {shape}: {hint}"


def _wrong_dtype(images: NDArray[Any]) -> str:
    found = f"Expected images of type uint8, got {images.dtype}"
    if images.dtype == np.bool_:
        return f"{found}: convert with images.astype(np.uint8) * 255"
    if images.dtype.kind not in "iuf":
        return f"{found}: convert with np.array(images.tolist(), dtype=np.uint8)"
    if not images.size:
        return f"{found}: convert with images.astype(np.uint8)"
    if not np.isfinite(images).all():
        return f"{found}, and some values are NaN or infinite: correct these, scale to 0..255 and convert to np.uint8"
    low, high = images.min(), images.max()
    if low < 0 or high > 255:
        return f"{found}, with values from {low:g} to {high:g}: scale them to 0..255 and convert with .astype(np.uint8)"
    if images.dtype.kind == "f" and high <= 1:
        return f"{found}, with values from 0 to 1: convert with (images * 255).round().astype(np.uint8)"
    rounded = ".round()" if images.dtype.kind == "f" else ""
    return f"{found}: the values fit, so convert with images{rounded}.astype(np.uint8)"
