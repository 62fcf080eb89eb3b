"""What networks answer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mien_training.runs import Run
from mien_training.splits import Faces

PREDICTION_BATCH = 256


def inference(model: keras.Model) -> Any:
    """Compile a network's forward pass, a `tf.function`: uint8 [N, 48, 48] to its outputs."""
    return tf.function(lambda images: model(images, training=False), reduce_retracing=True)


def predict(infer: Callable[[Any], Any], images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run a compiled forward pass over any number of images, a batch at a time: uint8 [N, 48, 48] to float32 [N, …]."""
    starts = range(0, len(images), PREDICTION_BATCH)
    return np.concatenate([infer(images[start : start + PREDICTION_BATCH]).numpy() for start in starts])


def taught_by(teacher: Run, faces: Faces) -> Faces:
    """Add an emotion network's answers: the logarithm of the mean probabilities of a face and its mirror image."""
    infer = inference(teacher.load())
    logits = [predict(infer, images) for images in (faces.images, faces.images[:, :, ::-1])]
    return replace(faces, taught=np.log(tf.nn.softmax(np.stack(logits)).numpy().mean(axis=0)))
