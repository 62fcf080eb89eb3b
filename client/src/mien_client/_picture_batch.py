"""From pictures to the faces that a client asks about, and from their results to one result for each picture."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mien_client._analysis import Analysis
from mien_client._exceptions import PictureError
from mien_client._picture_analysis import PictureAnalysis
from mien_client.contract import IMAGE_SIZE

if TYPE_CHECKING:
    from PIL import Image

    from mien_client.pictures import FaceCrop

    PictureSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image
    """A path, the bytes of a picture file, or a PIL image."""


class PictureBatch:
    """The faces that were found in one picture or in several.

    Args:
        pictures: One picture, or an iterable of pictures.

    Raises:
        ImportError: The extra ``pictures`` is not installed.
        PictureError: A picture cannot be read. Of several, the text names the position.
    """

    def __init__(self, pictures: PictureSource | Iterable[PictureSource]) -> None:
        from mien_client.pictures import find_faces, read_picture

        self._is_one = _is_one(pictures)
        self._crops: list[Sequence[FaceCrop]] = []
        each: Any = [pictures] if self._is_one else pictures
        for number, picture in enumerate(each):
            try:
                if not _is_picture(picture):
                    raise PictureError(_not_a_picture(picture))
                self._crops.append(find_faces(read_picture(picture)))
            except PictureError as error:
                if self._is_one:
                    raise
                raise PictureError(f"Picture number {number} (from 0): {error}") from None

    @property
    def images(self) -> NDArray[np.uint8]:
        """All faces, uint8 [N, 48, 48]."""
        images = [crop.image for crops in self._crops for crop in crops]
        return np.array(images, np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE)

    def results(self, analysis: Analysis) -> PictureAnalysis | list[PictureAnalysis]:
        """Return the result for the one picture, or a list with a result for each picture.

        Args:
            analysis: The result for `images`.
        """
        results, start = [], 0
        for crops in self._crops:
            results.append(PictureAnalysis(analysis[start : start + len(crops)], crops))
            start += len(crops)
        return results[0] if self._is_one else results


def _is_one(pictures: object) -> bool:
    """Return whether this is one picture, perhaps an invalid one, and not an iterable of pictures."""
    if isinstance(pictures, (bytearray, memoryview, np.ndarray)) or hasattr(pictures, "read"):
        return True  # Iterable, but not an iterable of pictures.
    return _is_picture(pictures) or not isinstance(pictures, Iterable)


def _is_picture(thing: object) -> bool:
    from PIL import Image

    return isinstance(thing, (str, os.PathLike, bytes, Image.Image))


def _not_a_picture(thing: Any) -> str:
    hint = ""
    if isinstance(thing, np.ndarray):
        hint = ": for face crops call analyze, for a picture use PIL.Image.fromarray(picture)"
    elif isinstance(thing, (bytearray, memoryview)):
        hint = ": convert with bytes(picture)"
    elif hasattr(thing, "read"):
        hint = ": pass its content, file.read()"
    kind = type(thing).__name__
    return f"Expected the path of a picture, the bytes of a picture file or a PIL image, got {kind}{hint}"
