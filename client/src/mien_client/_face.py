"""The result for one face."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien_client._exceptions import MienError
from mien_client.contract import EMOTIONS, KEYPOINTS
from mien_client.documents import ErrorDocument, FaceDocument


def answered(half: NDArray[np.float32] | MienError) -> NDArray[np.float32]:
    """Return what a model answered.

    Raises:
        MienError: The model did not answer.
    """
    if isinstance(half, MienError):
        raise half.with_traceback(None)
    return half


def named(points: NDArray[np.floating[Any]]) -> dict[str, list[float]]:
    """Return points [15, 2] by name."""
    return dict(zip(KEYPOINTS, points.tolist(), strict=True))


def error_documents(errors: Mapping[str, MienError]) -> dict[str, ErrorDocument]:
    """Return errors as plain JSON types."""
    return {model: error.to_dict() for model, error in errors.items()}


class Face:
    """What the two models say about one face.

    In a partial result, an attribute of the model that did not answer raises that model's error.

    Attributes:
        versions: The version number of each model that answered.

    Example:
        >>> [face] = client.analyze(images[0])
        >>> face.emotion in EMOTIONS, face.versions
        (True, {'emotion': 1, 'keypoints': 1})
    """

    __slots__ = ("_errors", "_keypoints", "_other", "_probabilities", "versions")

    def __init__(
        self,
        probabilities: NDArray[np.float32] | MienError,
        keypoints: NDArray[np.float32] | MienError,
        versions: Mapping[str, int],
        errors: Mapping[str, MienError] | None = None,
        other: float | None = None,
    ) -> None:
        self._probabilities = probabilities
        self._keypoints = keypoints
        self._other = other
        self._errors = errors or {}
        self.versions = versions

    @property
    def keypoints(self) -> NDArray[np.float32]:
        """(x, y) of the fifteen points of `mien_client.KEYPOINTS`, float32 [15, 2], in pixels of the 48x48 image.

        x to the right, y down, and (0, 0) the centre of the first pixel. Read-only.

        Example:
            >>> face.keypoints.shape
            (15, 2)
        """
        return answered(self._keypoints)

    @property
    def emotion(self) -> str:
        """The most likely of `mien_client.EMOTIONS`.

        Example:
            >>> face.emotion in EMOTIONS
            True
        """
        return EMOTIONS[int(answered(self._probabilities).argmax())]

    @property
    def confidence(self) -> float:
        """The probability of `emotion`, 0 to 1.

        Example:
            >>> face.confidence == max(face.probabilities.values())
            True
        """
        return float(answered(self._probabilities).max())

    @property
    def probabilities(self) -> dict[str, float]:
        """The probability of every emotion, 0 to 1, in the order of `mien_client.EMOTIONS`.

        Example:
            >>> list(face.probabilities)
            ['Angry', 'Disgust', 'Sad', 'Happy', 'Surprise']
        """
        return dict(zip(EMOTIONS, answered(self._probabilities).tolist(), strict=True))

    @property
    def other(self) -> float | None:
        """The probability, 0 to 1, that the face shows none of `mien_client.EMOTIONS`; None if the version lacks it.

        Example:
            >>> face.other is None or 0 <= face.other <= 1
            True
        """
        answered(self._probabilities)
        return self._other

    def keypoint(self, name: str) -> tuple[float, float]:
        """Return (x, y) of one key point.

        Raises:
            ValueError: ``name`` is not one of `mien_client.KEYPOINTS`.

        Example:
            >>> x, y = face.keypoint("nose_tip")
        """
        if name not in KEYPOINTS:
            raise ValueError(f"Expected the name of a key point ({', '.join(KEYPOINTS)}), got {name!r}")
        x, y = self.keypoints[KEYPOINTS.index(name)].tolist()
        return x, y

    def to_dict(self) -> FaceDocument:
        """Return the face as plain JSON types, fit for ``json.dumps``.

        Returns:
            ``emotion``, ``confidence``, ``probabilities`` (by emotion), ``other``, ``keypoints`` ([x, y] by name, in
            pixels of the 48x48 image), ``versions`` (by model), and ``errors`` (by model, see `MienError.to_dict`). In
            a partial result, what a model did not answer is None.

        Example:
            >>> document = face.to_dict()
            >>> list(document)
            ['emotion', 'confidence', 'probabilities', 'other', 'keypoints', 'versions', 'errors']
            >>> len(document["keypoints"]), document["errors"]
            (15, {})
        """
        emotion_known = not isinstance(self._probabilities, MienError)
        keypoints_known = not isinstance(self._keypoints, MienError)
        return {
            "emotion": self.emotion if emotion_known else None,
            "confidence": self.confidence if emotion_known else None,
            "probabilities": self.probabilities if emotion_known else None,
            "other": self.other if emotion_known else None,
            "keypoints": named(self.keypoints) if keypoints_known else None,
            "versions": dict(self.versions),
            "errors": error_documents(self._errors),
        }

    def __repr__(self) -> str:
        versions = ", ".join(f"{model} {version}" for model, version in self.versions.items())
        seen = "?" if isinstance(self._probabilities, MienError) else f"{self.emotion} {self.confidence:.1%}"
        return f"<Face {seen} ({versions})>"
