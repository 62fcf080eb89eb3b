"""Who shares the work of training, and in which arithmetic."""

import os
from pathlib import Path
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


def native_precision() -> str:
    """``mixed_bfloat16`` where the processor multiplies bfloat16 itself, else ``float32``, which is then far faster."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return "float32"
    return "mixed_bfloat16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "float32"
