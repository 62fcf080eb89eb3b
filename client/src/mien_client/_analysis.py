"""The result of one call: one face for each image."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from mien_client._exceptions import MienError
from mien_client._face import Face, answered, error_documents
from mien_client.contract import EMOTIONS, KEYPOINTS
from mien_client.documents import AnalysisDocument

if TYPE_CHECKING:
    import pandas


class Analysis(Sequence[Face]):
    """The results of one call, a sequence with one `Face` for each image, in the order of the images.

    The numbers are kept in arrays, which are best for large results; each `Face` is made when it is accessed.

    Attributes:
        versions: The version number of each model that answered, the same for all faces of the call; empty if there
            were no images to ask about.
        errors: Why a model did not answer, by its name; empty unless a partial result was asked for.

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
                # All faces share these arrays: a change to one must not affect another.
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
            MienError: The result is partial and lacks them.

        Example:
            >>> analysis.probabilities[:, EMOTIONS.index("Happy")].shape
            (3,)
        """
        return answered(self._probabilities)

    @property
    def other(self) -> NDArray[np.float32] | None:
        """float32 [N], the probability that the face shows none of `mien_client.EMOTIONS`. Read-only.

        None if the version of the emotion model that answered has no such output.

        Raises:
            MienError: The result is partial and lacks the emotion model's answer.

        Example:
            >>> analysis.other is None or analysis.other.shape == (3,)
            True
        """
        answered(self._probabilities)
        return self._other

    @property
    def keypoints(self) -> NDArray[np.float32]:
        """float32 [N, 15, 2], (x, y) in pixels of the 48x48 images, in the order of `mien_client.KEYPOINTS`. Read-only.

        Raises:
            MienError: The result is partial and lacks them.

        Example:
            >>> analysis.keypoints[:, KEYPOINTS.index("nose_tip")].shape
            (3, 2)
        """
        return answered(self._keypoints)

    def to_frame(self) -> pandas.DataFrame:
        """Return a pandas data frame with one row for each face.

        The columns are ``emotion`` and ``confidence``, a probability under the name of every emotion, ``other`` (if the
        version has it), ``_x`` and ``_y`` (pixels) of every key point, as in ``nose_tip_x``, and the version of each
        model, as in ``emotion_version``. A partial result has no columns of the model that did not answer.

        Raises:
            ImportError: pandas is not installed: ``pip install "mien-client[frames]"``.

        Example:
            >>> analysis.to_frame().shape
            (3, 40)
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

    def to_dict(self) -> AnalysisDocument:
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
            "errors": error_documents(self.errors),
        }

    def __len__(self) -> int:
        half = self._keypoints if isinstance(self._probabilities, MienError) else self._probabilities
        return len(answered(half))

    @overload
    def __getitem__(self, index: int) -> Face: ...
    @overload
    def __getitem__(self, index: slice) -> Analysis: ...
    def __getitem__(self, index: int | slice) -> Face | Analysis:
        index = index if isinstance(index, slice) else operator.index(index)  # An array would select from the arrays.
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
