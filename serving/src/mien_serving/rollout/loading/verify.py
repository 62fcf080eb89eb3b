"""Check that a SavedModel keeps the contract, by loading it as a server does.

This module runs as a program, ``python -m mien_serving.rollout.loading.verify FOLDER MODEL TOLERANCE``, so that the
rollout's own process need not load TensorFlow, and survives a SavedModel that crashes its loader. It prints one JSON
document.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from mien_client import contract
from mien_client.protos import DataType, ModelSpec
from mien_client.reading import MEBIBYTE, open_regular
from numpy.typing import NDArray

from mien_serving.core.status import StatusError
from mien_serving.rollout.arrays import read_arrays
from mien_serving.servables.session_options import SessionOptions
from mien_serving.servables.without_keras import import_tensorflow

_GOLDEN_LIMIT: Final = 16 * MEBIBYTE
"""Maximum unpacked size of the golden images and answers in bytes; a thousand faces have 2.4 MB."""

_SIDE: Final = contract.IMAGE_SIZE
_IMAGES: Final = ("DT_UINT8", [-1, _SIDE, _SIDE])
_BYTES: Final = ("DT_STRING", [-1])
_INPUTS: Final = {
    contract.SIGNATURE_DEFAULT: {contract.IMAGES_INPUT: _IMAGES},
    contract.SIGNATURE_RAW: {contract.IMAGE_BYTES_INPUT: _BYTES},
    contract.SIGNATURE_ENCODED: {contract.IMAGE_BYTES_INPUT: _BYTES},
}
_OUTPUTS: Final = {
    contract.EMOTION_MODEL: {contract.PROBABILITIES_OUTPUT: "DT_FLOAT", contract.LABEL_OUTPUT: "DT_STRING"},
    contract.KEYPOINT_MODEL: {contract.KEYPOINTS_OUTPUT: "DT_FLOAT"},
}
_OPTIONAL: Final = {contract.EMOTION_MODEL: {contract.OTHER_OUTPUT: "DT_FLOAT"}, contract.KEYPOINT_MODEL: {}}
"""Outputs that a version may lack: clients work without them."""
_SHAPES: Final = {
    contract.PROBABILITIES_OUTPUT: (len(contract.EMOTIONS),),
    contract.KEYPOINTS_OUTPUT: (len(contract.KEYPOINTS), 2),
}


def verify(folder: Path, model: str, tolerance: float) -> dict[str, Any]:
    """Load a SavedModel and call every signature.

    Args:
        folder: The SavedModel.
        model: The model of the contract that it should be.
        tolerance: Maximum distance of its answers from the golden ones, relative to values above 1.

    Returns:
        ``problem``, a sentence, empty if there is none; ``golden``, the number of images that were compared; and
        ``difference``, the largest.
    """
    try:
        return _verify(folder, model, tolerance)
    except StatusError as error:
        return {"problem": f"The SavedModel cannot be loaded and called: {error}"}
    except _GoldenError as error:
        return {"problem": f"{contract.GOLDEN_ANSWERS} is not valid: {error}"}


class _GoldenError(Exception):
    """The file of golden answers is not valid."""


def _verify(folder: Path, model: str, tolerance: float) -> dict[str, Any]:
    if model not in _OUTPUTS:
        return {"problem": f"The manifest names the model {model!r}, which is not in the contract"}
    import_tensorflow()
    from mien_serving.servables.predictor import Predictor
    from mien_serving.servables.servable import Servable
    from mien_serving.servables.warmup import has_warm_up, warm_up

    servable = Servable(folder, SessionOptions())
    predictor = Predictor.of_version(servable)
    if problem := next(_signature_problems(servable.signatures, model), ""):
        return {"problem": problem}
    images, golden = _golden(folder)
    output = next(name for name in _OUTPUTS[model] if name in _SHAPES)
    difference = 0.0
    for signature, inputs in _requests(images).items():
        _, answers = predictor.predict(ModelSpec(signature_name=signature), inputs)
        answer = answers[output]
        other = answers.get(contract.OTHER_OUTPUT, np.zeros(len(images)))
        if other.shape != (len(images),) or not ((other >= 0) & (other <= 1)).all():
            return {"problem": f"{signature} returns {contract.OTHER_OUTPUT} that is not a probability for each face"}
        if answer.shape != (len(images), *_SHAPES[output]) or not np.isfinite(answer).all():
            return {
                "problem": f"{signature} returns {output} of shape {answer.shape} for {len(images)} faces, or "
                "values that are not finite"
            }
        if golden is None:
            continue
        if golden.shape != answer.shape:
            return {
                "problem": f"{contract.GOLDEN_ANSWERS} has answers of shape {golden.shape}, expected {answer.shape}"
            }
        far = float((np.abs(answer - golden) / np.maximum(np.abs(golden), 1.0)).max())
        if not far <= tolerance:
            return {
                "problem": f"{signature} differs by {far:.2g} from the golden answers, at most {tolerance:g} is allowed"
            }
        difference = max(difference, far)
    if has_warm_up(folder):
        warm_up(predictor, folder)
    return {"problem": "", "golden": 0 if golden is None else len(images), "difference": difference}


def _signature_problems(signatures: Mapping[str, Any], model: str) -> Iterator[str]:
    for name, inputs in _INPUTS.items():
        if name not in signatures:
            yield f"The SavedModel has no signature {name}"
            return
        found = {key: _described(info) for key, info in sorted(signatures[name].inputs.items())}
        if found != inputs:
            yield f"{name} takes {found}, expected {inputs}"
        types = {key: DataType.Name(info.dtype) for key, info in sorted(signatures[name].outputs.items())}
        expected = _OUTPUTS[model] | {key: kind for key, kind in _OPTIONAL[model].items() if key in types}
        if types != expected:
            yield f"{name} returns {types}, expected {expected}"


def _described(info: Any) -> tuple[str, list[int]]:
    return DataType.Name(info.dtype), [dim.size for dim in info.tensor_shape.dim]


def _golden(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """Read the golden images and answers; without such a file, make up images.

    Raises:
        _GoldenError: The file is not valid.
    """
    file = folder / contract.GOLDEN_ANSWERS
    if not file.exists():
        return np.random.default_rng(0).integers(0, 256, (4, _SIDE, _SIDE), np.uint8), None
    try:
        with os.fdopen(open_regular(file), "rb") as stream:
            arrays, _ = read_arrays(stream, ("images", "answers"), _GOLDEN_LIMIT)
        images, answers = arrays["images"], arrays["answers"]
    except KeyError as error:
        raise _GoldenError(f"it has no array {error}") from None
    except (OSError, ValueError) as error:
        raise _GoldenError(getattr(error, "strerror", None) or str(error)) from None
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (_SIDE, _SIDE) or not len(images):
        raise _GoldenError(f"its images are {images.dtype} {images.shape}, expected uint8 (N, {_SIDE}, {_SIDE})")
    if answers.dtype.kind != "f":
        raise _GoldenError(f"its answers are {answers.dtype}, expected floating-point numbers")
    return images, answers


def _requests(images: NDArray[np.uint8]) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the same images in the form that each signature takes."""
    import tensorflow as tf

    raw = [image.tobytes() for image in images]
    encoded = [tf.io.encode_png(image[..., None]).numpy() for image in images]
    return {
        contract.SIGNATURE_DEFAULT: {contract.IMAGES_INPUT: images},
        contract.SIGNATURE_RAW: {contract.IMAGE_BYTES_INPUT: np.array(raw, object)},
        contract.SIGNATURE_ENCODED: {contract.IMAGE_BYTES_INPUT: np.array(encoded, object)},
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(verify(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))) + "\n")
