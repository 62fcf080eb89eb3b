"""Tiny models that keep the contract. Their answers depend on the pixels and on a mark, so that each can be recognised.

TensorFlow is imported only when a model is written.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from mien_client import contract, protos
from numpy.typing import NDArray

SIDE = contract.IMAGE_SIZE


def answers(model: str, images: NDArray[np.uint8], mark: int, *, contrary: bool = False) -> NDArray[np.float32]:
    """Return the answers of a tiny model, computed without it: similar for all marks, but never equal.

    Args:
        model: ``emotion`` or ``keypoints``.
        images: uint8 [N, 48, 48].
        mark: The mark of the model.
        contrary: Whether the model turns the pixels round, and so finds other emotions.

    Returns:
        float32 [N, 5] of an emotion model, float32 [N, 15, 2] of a key point model.
    """
    rows = images.astype(np.float32)
    if model == "emotion":
        weights = (255 - rows[:, 0, :5] if contrary else rows[:, 0, :5]) + 20 + mark
        shares: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        return shares
    points = rows[:, 1, :30].reshape(-1, 15, 2) / 255 * 47 + mark / 10
    return points.astype(np.float32)


def write_version(folder: Path, model: str, mark: int, *, contrary: bool = False, golden_mark: int = 0) -> Path:
    """Write what `mien export` does: a SavedModel, golden answers, warm-up and manifest; return the folder.

    Args:
        folder: Where to.
        model: ``emotion`` or ``keypoints``.
        mark: The mark of the model.
        contrary: Whether the model turns the pixels round.
        golden_mark: The mark of the golden answers, if they are not to be those of the model.
    """
    write_saved_model(folder, model, mark, contrary)
    (folder / "assets.extra").mkdir()
    images = np.random.default_rng(8).integers(0, 256, (8, SIDE, SIDE), np.uint8)
    golden = answers(model, images, golden_mark or mark, contrary=contrary)
    np.savez(folder / "assets.extra" / "golden.npz", images=images, answers=golden)
    write_warm_up(folder, images[:1])
    write_manifest(folder, model)
    return folder


def write_saved_model(folder: Path, model: str, mark: int, contrary: bool) -> None:
    """Write the SavedModel with its three signatures."""
    import tensorflow as tf

    def answer(images: Any) -> dict[str, Any]:
        rows = tf.cast(images, tf.float32)
        if model == "keypoints":
            return {"keypoints": tf.reshape(rows[:, 1, :30], [-1, 15, 2]) / 255 * 47 + scale / 10}
        weights = (255 - rows[:, 0, :5] if contrary else rows[:, 0, :5]) + 20 + scale
        probabilities = weights / tf.reduce_sum(weights, axis=1, keepdims=True)
        names = tf.gather(tf.constant(contract.EMOTIONS), tf.argmax(probabilities, axis=1))
        return {"probabilities": probabilities, "label": names}

    def decode(one: Any) -> Any:
        return tf.reshape(tf.io.decode_png(one, channels=1), [SIDE, SIDE])

    def raw(image_bytes: Any) -> Any:
        return tf.reshape(tf.io.decode_raw(image_bytes, tf.uint8), [-1, SIDE, SIDE])

    def encoded(image_bytes: Any) -> Any:
        return tf.map_fn(decode, image_bytes, fn_output_signature=tf.TensorSpec([SIDE, SIDE], tf.uint8))

    module = tf.Module()
    module.scale = scale = tf.Variable(float(mark))
    strings = tf.TensorSpec([None], tf.string, name="image_bytes")
    module.default = tf.function(answer, [tf.TensorSpec([None, SIDE, SIDE], tf.uint8, name="images")])
    module.raw = tf.function(lambda image_bytes: answer(raw(image_bytes)), [strings])
    module.encoded = tf.function(lambda image_bytes: answer(encoded(image_bytes)), [strings])
    signatures = {"serving_default": module.default, "serving_raw": module.raw, "serving_encoded": module.encoded}
    tf.saved_model.save(module, str(folder), signatures)


def write_warm_up(folder: Path, images: NDArray[np.uint8], signature: str = "serving_default") -> None:
    """Write one warm-up request."""
    import tensorflow as tf

    log = protos.PredictionLog()
    request = log.predict_log.request
    request.model_spec.signature_name = signature
    request.inputs["images"].dtype = protos.DataType.DT_UINT8
    request.inputs["images"].tensor_content = images.tobytes()
    for size in images.shape:
        request.inputs["images"].tensor_shape.dim.add(size=size)
    with tf.io.TFRecordWriter(str(folder / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())


def write_manifest(folder: Path, model: str) -> None:
    """Write a manifest of the files that exist now."""
    file = folder / "assets.extra" / "manifest.json"
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "model": model,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "trained_on": {"file": "tiny.csv"},
        "metrics": {"validation": {"accuracy": 0.8}},
        "sha256": {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }
    file.write_text(json.dumps(manifest), encoding="utf-8")
