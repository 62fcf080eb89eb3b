"""How TensorFlow runs graphs. This module does not import TensorFlow, so that flags are read quickly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SessionOptions:
    """How TensorFlow loads and runs SavedModels.

    Attributes:
        intra_op_parallelism: Threads that share the work of one operation; 0 lets TensorFlow choose.
        inter_op_parallelism: Operations that run at the same time; 0 lets TensorFlow choose.
        saved_model_tags: Which of a SavedModel's graphs is loaded.
        bfloat16: Whether TensorFlow may compute in bfloat16, where the processor supports it.
        config: A serialized ``ConfigProto`` with all other settings.
        gpu_memory_fraction: How much of each GPU's memory to allocate at once, 0 to 1; 0 allocates as needed.
        check_method_names: Whether a signature only answers the calls that its method name stands for.
    """

    intra_op_parallelism: int = 0
    inter_op_parallelism: int = 0
    saved_model_tags: Sequence[str] = ("serve",)
    bfloat16: bool = False
    config: bytes = b""
    gpu_memory_fraction: float = 0.0
    check_method_names: bool = False
