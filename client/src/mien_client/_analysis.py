"""What a call returns: one result for each face."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from mien_client._exceptions import MienError
from mien_client.contract import EMOTIONS, KEYPOINTS

if TYPE_CHECKING:
    import pandas

    from mien_client.pictures import FaceCrop


def _answered(half: NDArray[np.float32] | MienError) -> NDArray[np.float32]:
    if isinstance(half, MienError):
        raise half.with_traceback(None)
    return half


def _named(points: NDArray[np.floating[Any]]) -> dict[str, list[float]]:
    return dict(zip(KEYPOINTS, points.tolist(), strict=True))


def _errors_to_dict(errors: Mapping[str, MienError]) -> dict[str, Any]:
    return {model: error.to_dict() for model, error in errors.items()}


class Face:
    """What the two models saw in one face.

    Of a partial result what a model did not answer raises that model's error.

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
        return _answered(self._keypoints)

    @property
    def emotion(self) -> str:
        """The likeliest of `mien_client.EMOTIONS`.

        Example:
            >>> face.emotion in EMOTIONS
            True
        """
        return EMOTIONS[int(_answered(self._probabilities).argmax())]

    @property
    def confidence(self) -> float:
        """The probability of `emotion`, 0 to 1.

        Example:
            >>> face.confidence == max(face.probabilities.values())
            True
        """
        return float(_answered(self._probabilities).max())

    @property
    def probabilities(self) -> dict[str, float]:
        """The probability of every emotion, 0 to 1, in the order of `mien_client.EMOTIONS`.

        Example:
            >>> list(face.probabilities)
            ['Angry', 'Disgust', 'Sad', 'Happy', 'Surprise']
        """
        return dict(zip(EMOTIONS, _answered(self._probabilities).tolist(), strict=True))

    @property
    def other(self) -> float | None:
        """The probability, 0 to 1, that the face shows none of `mien_client.EMOTIONS`; None if the version lacks it.

        Example:
            >>> face.other is None or 0 <= face.other <= 1
            True
        """
        _answered(self._probabilities)
        return self._other

    def keypoint(self, name: str) -> tuple[float, float]:
        """Return (x, y) of one key point.

        Raises:
            ValueError: If ``name`` is none of `mien_client.KEYPOINTS`.

        Example:
            >>> x, y = face.keypoint("nose_tip")
        """
        if name not in KEYPOINTS:
            raise ValueError(f"there is no key point {name!r}: the fifteen are {', '.join(KEYPOINTS)}")
        x, y = self.keypoints[KEYPOINTS.index(name)].tolist()
        return x, y

    def to_dict(self) -> dict[str, Any]:
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
            "keypoints": _named(self.keypoints) if keypoints_known else None,
            "versions": dict(self.versions),
            "errors": _errors_to_dict(self._errors),
        }

    def __repr__(self) -> str:
        versions = ", ".join(f"{model} {version}" for model, version in self.versions.items())
        seen = "?" if isinstance(self._probabilities, MienError) else f"{self.emotion} {self.confidence:.1%}"
        return f"<Face {seen} ({versions})>"


class Analysis(Sequence[Face]):
    """The results of one call, a sequence with one `Face` for each image, in the order of the images.

    The numbers stay in arrays, which is how large results are best worked on; a `Face` is made when it is asked for.

    Attributes:
        versions: The version number of each model that answered, the same for all faces of the call; empty if there
            were no images to ask about.
        errors: Why a model did not answer, by its name: empty unless a partial result was asked for.

    Example:
        >>> analysis = client.analyze(images)
        >>> analysis.probabilities.shape, analysis.keypoints.shape
        ((3, 5), (3, 15, 2))
        >>> analysis[1:]
        <Analysis of 2 faces (emotion 1, keypoints 1)>
    """

    __slots__ = ("_keypoints", "_other", "_probabilities", "errors", "versions")

    def __init__(
        self,
        probabilities: NDArray[np.float32] | MienError,
        keypoints: NDArray[np.float32] | MienError,
        versions: Mapping[str, int],
        errors: Mapping[str, MienError] | None = None,
        other: NDArray[np.float32] | None = None,
    ) -> None:
        for array in (probabilities, keypoints, other):
            if isinstance(array, np.ndarray):
                # Every face looks into these arrays: a change to one result must not reach another.
                array.flags.writeable = False
        self._probabilities = probabilities
        self._other = other
        self._keypoints = keypoints
        self.versions = versions
        self.errors = errors or {}

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """float32 [N, 5], columns in the order of `mien_client.EMOTIONS`. Read-only.

        Raises:
            MienError: If the result is partial and lacks them.

        Example:
            >>> analysis.probabilities[:, EMOTIONS.index("Happy")].shape
            (3,)
        """
        return _answered(self._probabilities)

    @property
    def other(self) -> NDArray[np.float32] | None:
        """float32 [N], the probability that the face shows none of `mien_client.EMOTIONS`. Read-only.

        None if the version of the emotion model that answered has no such output.

        Raises:
            MienError: If the result is partial and lacks the emotion model's answer.

        Example:
            >>> analysis.other is None or analysis.other.shape == (3,)
            True
        """
        _answered(self._probabilities)
        return self._other

    @property
    def keypoints(self) -> NDArray[np.float32]:
        """float32 [N, 15, 2], (x, y) in pixels of the 48x48 images, in the order of `mien_client.KEYPOINTS`. Read-only.

        Raises:
            MienError: If the result is partial and lacks them.

        Example:
            >>> analysis.keypoints[:, KEYPOINTS.index("nose_tip")].shape
            (3, 2)
        """
        return _answered(self._keypoints)

    def to_frame(self) -> pandas.DataFrame:
        """Return a pandas data frame with one row for each face.

        The columns are ``emotion`` and ``confidence``, a probability under the name of every emotion, ``other`` (if the
        version has it), ``_x`` and ``_y`` (pixels) of every key point, as in ``nose_tip_x``, and the version of each
        model, as in ``emotion_version``. Of a partial result those of the model that did not answer are missing.

        Raises:
            ImportError: If pandas is not there: ``pip install "mien-client[frames]"``.

        Example:
            >>> analysis.to_frame().shape
            (3, 39)
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_frame needs pandas: pip install 'mien-client[frames]'") from error
        columns: dict[str, Any] = {}
        if not isinstance(self._probabilities, MienError):
            columns["emotion"] = np.array(EMOTIONS, object)[self.probabilities.argmax(axis=1)]
            columns["confidence"] = self.probabilities.max(axis=1)
            columns |= {name: self.probabilities[:, index] for index, name in enumerate(EMOTIONS)}
            if self._other is not None:
                columns["other"] = self._other
        if not isinstance(self._keypoints, MienError):
            for index, name in enumerate(KEYPOINTS):
                columns[f"{name}_x"], columns[f"{name}_y"] = self.keypoints[:, index].T
        columns |= {f"{model}_version": version for model, version in self.versions.items()}
        return pd.DataFrame(columns, index=range(len(self)))

    def to_dict(self) -> dict[str, Any]:
        """Return the results as plain JSON types, fit for ``json.dumps``.

        Returns:
            ``faces`` (a list of `Face.to_dict`), ``versions`` and ``errors`` (both by model; see `MienError.to_dict`).

        Example:
            >>> document = analysis.to_dict()
            >>> len(document["faces"]), document["versions"], document["errors"]
            (3, {'emotion': 1, 'keypoints': 1}, {})
        """
        return {
            "faces": [face.to_dict() for face in self],
            "versions": dict(self.versions),
            "errors": _errors_to_dict(self.errors),
        }

    def __len__(self) -> int:
        half = self._keypoints if isinstance(self._probabilities, MienError) else self._probabilities
        return len(_answered(half))

    @overload
    def __getitem__(self, index: int) -> Face: ...
    @overload
    def __getitem__(self, index: slice) -> Analysis: ...
    def __getitem__(self, index: int | slice) -> Face | Analysis:
        index = index if isinstance(index, slice) else operator.index(index)  # An array would choose among the numbers.
        probabilities, keypoints = (
            half if isinstance(half, MienError) else half[index] for half in (self._probabilities, self._keypoints)
        )
        if isinstance(index, slice):
            other = None if self._other is None else self._other[index]
            return Analysis(probabilities, keypoints, self.versions, self.errors, other)
        one = None if self._other is None else float(self._other[index])
        return Face(probabilities, keypoints, self.versions, self.errors, one)

    def __iter__(self) -> Iterator[Face]:
        halves = [
            repeat(half, len(self)) if isinstance(half, MienError) else half
            for half in (self._probabilities, self._keypoints)
        ]
        others: Iterable[float | None] = repeat(None, len(self)) if self._other is None else self._other.tolist()
        for probabilities, keypoints, other in zip(*halves, others, strict=True):
            yield Face(probabilities, keypoints, self.versions, self.errors, other)

    def __repr__(self) -> str:
        versions = ", ".join(f"{model} {version}" for model, version in self.versions.items()) or "no model asked"
        return f"<Analysis of {len(self)} face{'' if len(self) == 1 else 's'} ({versions})>"


class PictureFace(Face):
    """A `Face` that was found in a picture.

    Attributes:
        crop: The piece of the picture that was analysed, a `pictures.FaceCrop`.

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

    def to_dict(self) -> dict[str, Any]:
        """Return the face as plain JSON types: what `Face.to_dict` returns, and where it is in the picture.

        Returns:
            Also ``crop`` (``left``, ``top`` and ``side`` of the square, in pixels of the picture) and
            ``keypoints_in_picture`` ([x, y] by name, in pixels of the picture).

        Example:
            >>> [face] = client.analyze_pictures("astronaut.jpg")
            >>> list(face.to_dict()["crop"])
            ['left', 'top', 'side']
        """
        known = not isinstance(self._keypoints, MienError)
        return super().to_dict() | {
            "crop": {"left": self.crop.left, "top": self.crop.top, "side": self.crop.side},
            "keypoints_in_picture": _named(self.keypoints_in_picture) if known else None,
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
