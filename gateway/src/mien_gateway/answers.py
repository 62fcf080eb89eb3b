"""From pictures to the documents that callers get."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import repeat
from typing import Any, Final

import numpy as np
from mien_client import EMOTIONS, KEYPOINTS, Analysis, MienError
from mien_client.contract import EMOTION_MODEL, IMAGE_SIZE
from numpy.typing import NDArray

from mien_gateway.backend import Asked, Backend
from mien_gateway.bodies import File
from mien_gateway.measures import Measures
from mien_gateway.options import Options
from mien_gateway.pictures.pool import Found, PicturePool
from mien_gateway.problems import Problem, problem, too_large
from mien_gateway.settings import Limits

_CROP: Final = {"width": IMAGE_SIZE, "height": IMAGE_SIZE, "faces": 1}


class Analyzer:
    """Find the faces in pictures, have both models read them, and describe the result.

    Args:
        backend: The model servers.
        pool: The processes that find faces.
        limits: The limits on a request.
        measures: The metrics.
    """

    def __init__(self, backend: Backend, pool: PicturePool, limits: Limits, measures: Measures) -> None:
        self._backend = backend
        self._pool = pool
        self._limits = limits
        self._measures = measures

    async def crops(self, images: NDArray[np.uint8], options: Options) -> dict[str, Any]:
        """Return the document about ready crops.

        Args:
            images: uint8 [N, 48, 48].
            options: The options.

        Raises:
            Problem: There is no answer.
        """
        asked = await self._ask(images, options, self._timeout(options))
        faces = _faces(asked.analysis, range(len(images)), None, asked.keypoints)
        return _document(asked, faces, [_CROP] * len(images))

    async def pictures(self, files: Sequence[File], options: Options, caller: str) -> dict[str, Any]:
        """Return the document about pictures.

        Args:
            files: The pictures.
            options: The options.
            caller: Whose they are.

        Raises:
            Problem: There is no answer.
        """
        timeout = self._timeout(options)
        deadline = time.monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                found = await self._found(files, options, caller)
        except TimeoutError:
            raise Problem(
                504, f"The faces were not found within {timeout:g} s", "DeadlineExceededError", retryable=True
            ) from None
        images = np.concatenate([one.images for one in found])
        if len(images) > self._limits.faces:
            raise too_large(f"The pictures show {len(images):,} faces; at most {self._limits.faces:,} are analysed")
        asked = await self._ask(images, options, max(0.001, deadline - time.monotonic()))
        numbers = [number for number, one in enumerate(found) for _ in one.boxes]
        keypoints = _in_picture(asked.keypoints, np.concatenate([one.to_picture for one in found]))
        boxes = [box for one in found for box in one.boxes]
        sizes = [{"width": one.width, "height": one.height, "faces": len(one.boxes)} for one in found]
        return _document(asked, _faces(asked.analysis, numbers, boxes, keypoints), sizes)

    def _timeout(self, options: Options) -> float:
        longest = self._limits.timeout_s
        return longest if options.timeout is None else min(options.timeout, longest)

    async def _found(self, files: Sequence[File], options: Options, caller: str) -> list[Found]:
        """Return what is found in each picture; after the first refusal, no other picture is waited for."""

        async def find(file: File) -> Found:
            return await self._pool.find(file.content, format=file.format, detect=options.detect, caller=caller)

        tasks = [asyncio.ensure_future(find(file)) for file in files]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for number, task in enumerate(tasks):
                if task.done() and isinstance(refused := task.exception(), Problem):
                    if len(tasks) > 1:
                        refused.document |= {"detail": f"Picture {number} (from 0): {refused}", "picture": number}
                    raise refused
            return [await task for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, images: NDArray[np.uint8], options: Options, timeout: float) -> Asked:
        try:
            asked = await self._backend.analyze(
                images, versions=options.versions, key=options.key, timeout=timeout, partial=options.partial
            )
        except MienError as error:
            raise problem(error) from None
        self._measures.faces.inc(len(images))
        return asked


def _in_picture(points: NDArray[np.float32] | None, to_picture: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Map points [N, 15, 2], if there are any, from the images to the pictures, by the affine maps [N, 3, 2]."""
    if points is None:
        return None
    mapped: NDArray[np.float64] = points @ to_picture[:, :2] + to_picture[:, 2:]
    return mapped


def _document(asked: Asked, faces: list[dict[str, Any]], pictures: list[dict[str, int]]) -> dict[str, Any]:
    analysis = asked.analysis
    return {
        "faces": faces,
        "pictures": pictures,
        "versions": dict(analysis.versions),
        "labels": asked.labels,
        "errors": _errors(analysis),
    }


def _errors(analysis: Analysis) -> dict[str, Any]:
    """Return why models did not answer, in the words for callers."""
    told = {model: problem(error) for model, error in analysis.errors.items()}
    return {
        model: {"type": one.kind, "message": one.document["detail"], "retryable": one.document["retryable"]}
        for model, one in told.items()
    }


def _faces(
    analysis: Analysis,
    numbers: Sequence[int],
    boxes: Sequence[dict[str, float]] | None,
    keypoints: NDArray[np.floating[Any]] | None,
) -> list[dict[str, Any]]:
    """Return the faces of a document.

    Args:
        analysis: What the models answered.
        numbers: The number of each face's picture.
        boxes: The square of each face; None for crops.
        keypoints: [N, 15, 2], in pixels of the pictures; None if the model did not answer.
    """
    errors, versions = _errors(analysis), dict(analysis.versions)
    emotion_known = EMOTION_MODEL not in analysis.errors
    probabilities = analysis.probabilities.tolist() if emotion_known else repeat(None)
    others = analysis.other.tolist() if emotion_known and analysis.other is not None else repeat(None)
    points = keypoints.tolist() if keypoints is not None else repeat(None)
    return [
        {
            "picture": number,
            "box": box,
            "emotion": None if shares is None else EMOTIONS[shares.index(max(shares))],
            "confidence": None if shares is None else max(shares),
            "probabilities": None if shares is None else dict(zip(EMOTIONS, shares, strict=True)),
            "other": other,
            "keypoints": None
            if named is None
            else {name: {"x": x, "y": y} for name, (x, y) in zip(KEYPOINTS, named, strict=True)},
            "versions": versions,
            "errors": errors,
        }
        for number, box, shares, other, named in zip(
            numbers, boxes if boxes is not None else repeat(None), probabilities, others, points, strict=False
        )
    ]
