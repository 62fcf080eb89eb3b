"""What networks answer."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from mien_client.contract import IMAGE_SIZE, IMAGES_INPUT
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

PREDICTION_BATCH = 256


def inference(model: keras.Model) -> Any:
    """Compile a network's forward pass, a `tf.function`: uint8 [N, 48, 48] to its outputs."""
    return tf.function(lambda images: model(images, training=False), reduce_retracing=True)


def freeze(network: keras.Model) -> Any:
    """Make a network's weights constants, which can be folded into each other (normalisations into convolutions).

    Returns:
        A function from uint8 [N, 48, 48] to a list of one tensor, the network's outputs.
    """
    images = tf.TensorSpec([None, IMAGE_SIZE, IMAGE_SIZE], tf.uint8, name=IMAGES_INPUT)
    function = inference(network).get_concrete_function(images)
    with _remarks_hidden():
        return convert_variables_to_constants_v2(function)


def predict(
    infer: Callable[[Any], Any], images: NDArray[np.uint8], advance: Callable[[int], None] = lambda _: None
) -> NDArray[np.float32]:
    """Run a compiled forward pass over any number of images, a batch at a time: uint8 [N, 48, 48] to float32 [N, …].

    Args:
        infer: The forward pass.
        images: uint8 [N, 48, 48].
        advance: Called with the number of images of each batch that is done.
    """
    parts = []
    for start in range(0, len(images), PREDICTION_BATCH):
        parts.append(infer(images[start : start + PREDICTION_BATCH]).numpy())
        advance(len(parts[-1]))
    return np.concatenate(parts)


@contextmanager
def _remarks_hidden() -> Iterator[None]:
    """Hide what TensorFlow's optimiser writes to standard error at any log level, unless a level was asked for."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3":
        yield
        return
    sys.stderr.flush()
    standard_error = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)
