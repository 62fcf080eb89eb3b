"""A servable that runs its requests in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mien_serving.batching.parameters import BatchingOptions
from mien_serving.batching.scheduler import BatchScheduler
from mien_serving.core.metrics import NO_METRICS, Metrics
from mien_serving.servables.servable import Servable
from mien_serving.servables.session_options import SessionOptions


class BatchingServable(Servable):
    """A servable whose requests run in batches.

    Args:
        path: The folder that holds ``saved_model.pb``.
        options: How to load and run it.
        scheduler: Forms the batches.
        batching: How batches of this servable are formed.
        metrics: Measures its runs.
        name: The name of the model in metrics.
    """

    def __init__(
        self,
        path: Path,
        options: SessionOptions,
        scheduler: BatchScheduler,
        batching: BatchingOptions,
        metrics: Metrics = NO_METRICS,
        name: str = "",
    ) -> None:
        super().__init__(path, options, metrics, name)
        self._scheduler = scheduler
        self._batching = batching
        self.max_examples = batching.input_limit

    def _run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], deadline: float) -> list[np.ndarray]:
        return self._scheduler.submit(self, super()._run, feeds, fetches, deadline, self._batching).outputs()
