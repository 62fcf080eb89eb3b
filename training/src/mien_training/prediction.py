"""What networks answer."""

from collections.abc import Callable
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
    return convert_variables_to_constants_v2(inference(network).get_concrete_function(images))


def predict(infer: Callable[[Any], Any], images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run a compiled forward pass over any number of images, a batch at a time: uint8 [N, 48, 48] to float32 [N, …]."""
    starts = range(0, len(images), PREDICTION_BATCH)
    return np.concatenate([infer(images[start : start + PREDICTION_BATCH]).numpy() for start in starts])
