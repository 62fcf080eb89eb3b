"""The result for one picture, whose faces also have their place in the picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from mien_client._analysis import Analysis
from mien_client._exceptions import MienError
from mien_client._face import Face, named
from mien_client.documents import PictureFaceDocument

if TYPE_CHECKING:
    from mien_client.pictures import FaceCrop


class PictureFace(Face):
    """A `Face` that was found in a picture.

    Attributes:
        crop: The part of the picture that was analysed, a `pictures.FaceCrop`.

    Example:
        >>> [face] = client.analyze_pictures("astronaut.jpg")
        >>> face.emotion, face.crop.side > 48
        ('Happy', True)
    """

    __slots__ = ("crop",)

    def __init__(self, face: Face, crop: FaceCrop) -> None:
        super().__init__(face._probabilities, face._keypoints, face.versions, face._errors, face._other)
        self.crop = crop

    @property
    def keypoints_in_picture(self) -> NDArray[np.float64]:
        """(x, y) of the fifteen points in pixels of the picture, float64 [15, 2].

        Raises:
            MienError: The result is partial and lacks them.

        Example:
            >>> [face] = client.analyze_pictures("astronaut.jpg")
            >>> face.keypoints_in_picture.shape
            (15, 2)
        """
        return self.crop.to_picture(self.keypoints)

    def to_dict(self) -> PictureFaceDocument:
        """Return the face as plain JSON types: what `Face.to_dict` returns, and where it is in the picture.

        Returns:
            Also ``crop`` (``left``, ``top`` and ``side`` of the square, in pixels of the picture, and the ``angle`` in
            degrees by which it is turned clockwise around its centre) and ``keypoints_in_picture`` ([x, y] by name, in
            pixels of the picture).

        Example:
            >>> [face] = client.analyze_pictures("astronaut.jpg")
            >>> list(face.to_dict()["crop"])
            ['left', 'top', 'side', 'angle']
        """
        known = not isinstance(self._keypoints, MienError)
        return {
            **super().to_dict(),
            "crop": {
                "left": self.crop.left,
                "top": self.crop.top,
                "side": self.crop.side,
                "angle": self.crop.angle,
            },
            "keypoints_in_picture": named(self.keypoints_in_picture) if known else None,
        }


class PictureAnalysis(Analysis):
    """The faces of one picture: an `Analysis` with one `PictureFace` for each face, from left to right.

    Example:
        >>> analysis = client.analyze_pictures("astronaut.jpg")
        >>> len(analysis), list(analysis.to_dict())
        (1, ['faces', 'versions', 'errors'])
    """

    __slots__ = ("_crops",)

    def __init__(self, analysis: Analysis, crops: Sequence[FaceCrop]) -> None:
        super().__init__(
            analysis._probabilities, analysis._keypoints, analysis.versions, analysis.errors, analysis._other
        )
        self._crops = crops

    @overload
    def __getitem__(self, index: int) -> PictureFace: ...
    @overload
    def __getitem__(self, index: slice) -> PictureAnalysis: ...
    def __getitem__(self, index: int | slice) -> PictureFace | PictureAnalysis:
        if isinstance(index, slice):
            return PictureAnalysis(super().__getitem__(index), self._crops[index])
        return PictureFace(super().__getitem__(index), self._crops[index])

    def __iter__(self) -> Iterator[PictureFace]:
        return map(PictureFace, super().__iter__(), self._crops)
