"""The batch scheduler, which runs concurrent requests together."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mien_serving.batching.merging import Feeds, batching_key, example_count, merged, padding_fits, parted
from mien_serving.batching.parameters import BatchingOptions
from mien_serving.core.metrics import NO_METRICS, Metrics
from mien_serving.core.status import Code, StatusError, invalid_argument, value_of

logger = logging.getLogger(__name__)

Run = Callable[[Feeds, Sequence[str], float], list[np.ndarray]]
"""Runs a graph: feeds, fetches and deadline to one array for each fetch."""


Outcome = list[np.ndarray] | StatusError
"""The outputs of a request, or its error, which is a value here: see `mien_serving.model_servers.workers`."""


class _Task:
    """A request, or a part of a large one, that waits for its batch."""

    __slots__ = ("_outcome", "_settled", "deadline", "feeds", "queued", "size")

    def __init__(self, feeds: Feeds, size: int, deadline: float) -> None:
        self.feeds = feeds
        self.size = size
        self.deadline = deadline
        self.queued = time.monotonic()
        self._outcome: Outcome | None = None
        self._settled = threading.Lock()  # A future would work, too, but costs several times as much.
        self._settled.acquire()

    def settle(self, outcome: Outcome) -> None:
        """Give the waiting thread its outcome; called once."""
        self._outcome = outcome
        self._settled.release()

    def wait(self) -> list[np.ndarray]:
        """Return the outputs when they are there; called once.

        Raises:
            StatusError: The task failed.
        """
        self._settled.acquire()
        assert self._outcome is not None
        return value_of(self._outcome)


@dataclass
class _Batch:
    """Tasks that will run together."""

    tasks: list[_Task] = field(default_factory=list)
    size: int = 0
    opened: float = 0.0

    def add(self, task: _Task) -> None:
        if not self.tasks:
            self.opened = time.monotonic()
        self.tasks.append(task)
        self.size += task.size


class _Queue:
    """Batches of one signature of one servable; the last one accepts more tasks."""

    def __init__(self, run: Run, fetches: Sequence[str], options: BatchingOptions) -> None:
        self.run = run
        self.fetches = fetches
        self.options = options
        self.batches: deque[_Batch] = deque([_Batch()])

    def put(self, feeds: Feeds, size: int, deadline: float) -> list[_Task]:
        """Append a request, split where batches end.

        Args:
            feeds: Its values by tensor name.
            size: Number of its examples.
            deadline: When the result is no longer needed.

        Raises:
            StatusError: UNAVAILABLE, because the queue is full.
        """
        open_batch, limit = self.batches[-1], self.options.batch_size
        if 0 < size <= limit - open_batch.size:
            tasks = [_Task(feeds, size, deadline)]
            open_batch.add(tasks[0])
            return tasks
        self._check_room(size)
        tasks, begin = [], 0
        whole = not self.options.enable_large_batch_splitting
        while begin < size or not tasks:
            if self.batches[-1].size + (size if whole else 1) > limit:
                self.batches.append(_Batch())
            end = min(begin + limit - self.batches[-1].size, size)
            part = feeds if end - begin == size else {name: value[begin:end] for name, value in feeds.items()}
            tasks.append(_Task(part, end - begin, deadline))
            self.batches[-1].add(tasks[-1])
            begin = end
        return tasks

    def due(self) -> float:
        """Return when the first batch may run: at once (0) if it is full, otherwise when its timeout is over."""
        first = self.batches[0]
        if len(self.batches) > 1 or first.size >= self.options.batch_size:
            return 0.0
        return first.opened + self.options.batch_timeout_s

    def take(self) -> _Batch:
        """Remove and return the first batch."""
        return self.batches.popleft()

    def _check_room(self, size: int) -> None:
        limit, most, count = self.options.batch_size, self.options.max_enqueued_batches, len(self.batches)
        open_size = self.batches[-1].size
        full = "The batch scheduling queue to which this task was submitted is full; "
        if not self.options.enable_large_batch_splitting:
            if open_size + size > limit and count >= most:
                raise StatusError(
                    Code.UNAVAILABLE, f"{full}currently {count} batches enqueued and max_enqueued_batches is {most}"
                )
            return
        capacity = (most - count) * limit + limit - open_size
        if size > capacity:
            raise StatusError(
                Code.UNAVAILABLE,
                f"{full}task size is {size} but scheduling capacity is only {capacity} (num_enqueued_batches={count}, "
                f"max_enqueued_batches={most}, open_batch_size={open_size}, max_execution_batch_size={limit})",
            )


class Submitted:
    """A request in the queue."""

    def __init__(self, tasks: Sequence[_Task]) -> None:
        self._tasks = tasks

    def outputs(self) -> list[np.ndarray]:
        """Wait for the batches of the request; return its outputs. Called once.

        Raises:
            StatusError: The deadline passed before a batch ran, or what running it raised.
        """
        parts = [task.wait() for task in self._tasks]
        return parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]


class BatchScheduler:
    """Forms batches of concurrent requests and runs them in threads of its own.

    Requests share a batch if they call the same signature of the same servable, with the same types and shapes. If a
    batch fails, its requests run again one by one, so that each gets the answer that it would have got alone.

    Args:
        threads: Number of batches that run at the same time.
        metrics: Counts the batches and measures how long requests wait.
    """

    def __init__(self, threads: int, metrics: Metrics = NO_METRICS) -> None:
        self._metrics = metrics
        self._changed = threading.Condition()
        # Only queues that are not empty. The first one is served first and then moves to the end.
        self._queues: OrderedDict[Hashable, _Queue] = OrderedDict()
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, owner: Hashable, run: Run, feeds: Feeds, fetches: Sequence[str], deadline: float, options: BatchingOptions
    ) -> Submitted:
        """Queue a request that is to run together with others.

        Args:
            owner: What `run` belongs to; requests of different owners are never mixed.
            run: Runs a batch.
            feeds: Values by tensor name; the first dimension of each counts the examples.
            fetches: Tensor names.
            deadline: When the result is no longer needed, in seconds on the monotonic clock.
            options: How batches of this owner are formed.

        Raises:
            StatusError: The request cannot be batched, or the queue is full.
        """
        size = example_count(feeds)
        if options.input_limit is not None and size > options.input_limit:
            raise invalid_argument(f"Task size {size} is larger than maximum input batch size {options.input_limit}")
        self._metrics.batched(size)
        key = (owner, batching_key(feeds, options.pad_variable_length_inputs), tuple(fetches))
        with self._changed:
            if self._stopped:
                raise StatusError(Code.UNAVAILABLE, "The batch scheduler has stopped")
            queue = self._queues.get(key)
            new = queue is None
            if queue is None:
                queue = self._queues[key] = _Queue(run, fetches, options)
            tasks = queue.put(feeds, size, deadline)
            # A thread that waits for this queue knows until when. Only a full batch changes that.
            if new or not queue.due():
                self._changed.notify()
        return Submitted(tasks)

    def stop(self) -> None:
        """Run what is queued, then end the threads."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Run one batch and drop all references to it; return False if there will be no more."""
        taken = self._next()
        if taken is not None:
            queue, batch = taken
            now = time.monotonic()
            waiting = [task for task in batch.tasks if task.deadline > now]
            expired = StatusError(Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue")
            for task in batch.tasks:
                if task.deadline <= now:
                    task.settle(expired)
            if waiting:
                size = sum(task.size for task in waiting)
                padded = queue.options.padded(size)
                waited_s = [now - task.queued for task in waiting]
                self._metrics.batch_run(queue.options.thread_pool_name, waited_s, padded, padded - size)
                _run_together(queue, waiting)
        return taken is not None

    def _next(self) -> tuple[_Queue, _Batch] | None:
        """Wait for the next batch that is due and return it; None if there will be no more."""
        with self._changed:
            while self._queues or not self._stopped:
                now, soonest = time.monotonic(), math.inf
                for key, queue in self._queues.items():
                    due = queue.due()
                    if due <= now or self._stopped:
                        batch = queue.take()
                        if queue.batches:
                            self._queues.move_to_end(key)
                        else:
                            del self._queues[key]
                        if self._queues:
                            self._changed.notify()
                        return queue, batch
                    soonest = min(soonest, due)
                self._changed.wait(None if soonest == math.inf else soonest - now)
        return None


def _run_together(queue: _Queue, tasks: Sequence[_Task]) -> None:
    """Run tasks as one batch, or one by one if that fails, and give each its part or its own error."""
    try:
        parts = _parts(queue, tasks)
    except Exception as error:
        if len(tasks) > 1:
            for task in tasks:
                _run_together(queue, [task])
        elif isinstance(error, StatusError):
            tasks[0].settle(error.without_traceback())
        else:
            logger.exception("Unexpected failure of a batch")
            tasks[0].settle(StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}"))
        return
    for task, part in zip(tasks, parts, strict=True):
        task.settle(part)


def _parts(queue: _Queue, tasks: Sequence[_Task]) -> list[list[np.ndarray]]:
    """Return the outputs of each task, from one run."""
    requests, sizes = [task.feeds for task in tasks], [task.size for task in tasks]
    size, pad_variable_length = sum(sizes), queue.options.pad_variable_length_inputs
    padded = queue.options.padded(size)
    if not padding_fits(requests, size, padded, pad_variable_length):
        if len(tasks) > 1:
            raise StatusError(Code.RESOURCE_EXHAUSTED, "These requests differ too much in length to share a batch")
        padded = size
    feeds = merged(requests, padded - size, pad_variable_length)
    outputs = queue.run(feeds, queue.fetches, max(task.deadline for task in tasks))
    return parted(outputs, sizes, padded)
