"""The types of what ``to_dict`` returns: plain JSON types, fit for ``json.dumps``."""

from __future__ import annotations

from typing import TypedDict


class ErrorDocument(TypedDict):
    """An error: the name of its class, its text, and whether the same call may succeed a moment later."""

    type: str
    message: str
    retryable: bool


class FaceDocument(TypedDict):
    """One face. In a partial result, what a model did not answer is None.

    ``keypoints`` has [x, y] by name, in pixels of the 48x48 image; ``versions`` and ``errors`` are by model.
    """

    emotion: str | None
    confidence: float | None
    probabilities: dict[str, float] | None
    other: float | None
    keypoints: dict[str, list[float]] | None
    versions: dict[str, int]
    errors: dict[str, ErrorDocument]


class CropDocument(TypedDict):
    """The square of a picture that was analysed, in pixels of the picture.

    It is turned around its centre by ``angle`` degrees clockwise, as the face is.
    """

    left: int
    top: int
    side: int
    angle: float


class PictureFaceDocument(FaceDocument):
    """One face of a picture; ``keypoints_in_picture`` has [x, y] by name, in pixels of the picture."""

    crop: CropDocument
    keypoints_in_picture: dict[str, list[float]] | None


class AnalysisDocument(TypedDict):
    """The results of one call; of a picture, ``faces`` are of the type `PictureFaceDocument`."""

    faces: list[FaceDocument]
    versions: dict[str, int]
    errors: dict[str, ErrorDocument]
