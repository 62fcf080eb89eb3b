"""Who shares the work of training."""

import os
from typing import Any

import tensorflow as tf

from mien_training.errors import RunError


def strategy(name: str) -> Any:
    """Build TensorFlow's strategy; ``multi-worker`` does so before anything else is made of TensorFlow.

    Args:
        name: ``single``, ``mirrored`` or ``multi-worker``.

    Raises:
        RunError: ``multi-worker`` without workers.
    """
    if name == "multi-worker":
        if "TF_CONFIG" not in os.environ:
            raise RunError(
                "--strategy multi-worker needs TF_CONFIG, which names the workers and which of them this is."
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.MirroredStrategy() if name == "mirrored" else None
