"""Batch normalisation as TensorFlow trains it fastest; other backends take Keras's own."""

from typing import Any

import tensorflow as tf
from keras import layers


def normalization(name: str) -> Any:
    """Return the layer for this many devices: with several, the batch's statistics are those of all of them."""
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return layers.BatchNormalization(synchronized=True, name=name)
    return BatchNormalization(name=name)


class BatchNormalization(layers.BatchNormalization):  # type: ignore[misc]  # Keras has no types
    """Keras's batch normalisation, which in training is one operation of TensorFlow instead of a dozen.

    All of training takes two thirds of the time with it. It has Keras's name because Keras's files of weights go by the
    names of classes: a network may be trained with one kind and used with the other.
    """

    def call(self, x: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise each channel: float [N, h, w, c] to the same."""
        if not training:
            return super().call(x, training=training, mask=mask)
        y, mean, variance = tf.compat.v1.nn.fused_batch_norm(x, self.gamma, self.beta, epsilon=self.epsilon)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return y
