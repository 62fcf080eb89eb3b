"""How batches are formed: TensorFlow Serving's ``BatchingParameters``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien_serving.core.config_files import read_message
from mien_serving.core.status import invalid_argument


@dataclass(frozen=True)
class BatchingOptions:
    """How batches are formed.

    Attributes:
        max_batch_size: Highest number of examples in a batch.
        batch_timeout_s: How long a batch that is not full waits for more requests, in seconds.
        max_enqueued_batches: Number of batches of one signature that may wait; a request that needs more is refused.
        num_batch_threads: Number of batches, of all models, that run at the same time.
        thread_pool_name: The name of the batch threads in metrics.
        allowed_batch_sizes: If not empty, batches are padded to one of these sizes.
        pad_variable_length_inputs: Whether requests of different shapes may share a batch, padded to the longest.
        enable_large_batch_splitting: Whether a request larger than a batch is split; otherwise it is refused.
        max_execution_batch_size: Highest number of examples in a batch, if `max_batch_size` limits only the requests.
    """

    max_batch_size: int = 1000
    batch_timeout_s: float = 0.0
    max_enqueued_batches: int = 10
    num_batch_threads: int = os.cpu_count() or 1
    thread_pool_name: str = ""
    allowed_batch_sizes: Sequence[int] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = True
    max_execution_batch_size: int | None = None

    @property
    def batch_size(self) -> int:
        """Highest number of examples in a batch."""
        return self.max_execution_batch_size or self.max_batch_size

    @property
    def input_limit(self) -> int | None:
        """Highest number of examples in a request; None for any number."""
        return None if self.enable_large_batch_splitting and not self.max_execution_batch_size else self.max_batch_size

    def padded(self, size: int) -> int:
        """Return the number of examples in a batch after padding to an allowed size; an empty batch is not padded."""
        return min((allowed for allowed in self.allowed_batch_sizes if allowed >= size > 0), default=size)


def read_batching_parameters(path: Path) -> BatchingOptions:
    """Read a ``BatchingParameters`` message in text form; missing parameters have their defaults.

    Raises:
        StatusError: The file cannot be read, or a parameter is invalid.
    """
    message = read_message(path, "BatchingParameters")
    given: dict[str, Any] = {
        name: getattr(message, name).value
        for name in (
            "max_batch_size",
            "max_enqueued_batches",
            "num_batch_threads",
            "thread_pool_name",
            "enable_large_batch_splitting",
            "max_execution_batch_size",
        )
        if message.HasField(name)
    }
    for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads", "max_execution_batch_size"):
        if given.get(name, 1) < 1:
            raise invalid_argument(f"{name} must be positive; was {given[name]}")
    if message.batch_timeout_micros.value < 0:
        raise invalid_argument(f"batch_timeout_micros must be non-negative; was {message.batch_timeout_micros.value}")
    options = BatchingOptions(
        **given,
        batch_timeout_s=message.batch_timeout_micros.value / 1_000_000,
        allowed_batch_sizes=tuple(message.allowed_batch_sizes),
        pad_variable_length_inputs=message.pad_variable_length_inputs,
    )
    sizes = options.allowed_batch_sizes
    if list(sizes) != sorted(set(sizes)):
        raise invalid_argument("allowed_batch_sizes entries must be monotonically increasing")
    if sizes and sizes[-1] != options.batch_size:
        raise invalid_argument(
            f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {sizes[-1]}; expected "
            f"{options.batch_size}"
        )
    return options
