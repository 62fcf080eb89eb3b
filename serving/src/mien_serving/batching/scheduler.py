"""The batch scheduler: requests that arrive together run together."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import numpy as np

from mien_serving.batching.parameters import BatchingOptions
from mien_serving.core.metrics import NO_METRICS, Metrics
from mien_serving.core.status import Code, StatusError, invalid_argument, value_of

logger = logging.getLogger(__name__)

Feeds = Mapping[str, np.ndarray]
Run = Callable[[Feeds, Sequence[str], float], list[np.ndarray]]
"""Runs a graph: feeds, fetches and deadline to one array for each fetch."""


Outcome = list[np.ndarray] | StatusError
"""The outputs of a request, or its error, which is a value here: see `mien_serving.model_servers.workers`."""

Promise = Future[Outcome] | asyncio.Future[Outcome]
"""Where a thread, or an event loop, waits for the outcome of a request."""

_MAX_PADDING: Final = 64 << 20
"""By how many bytes a batch may be larger than its requests, since one row of many megabytes lengthens all others."""

P = TypeVar("P", bound=Promise)


@dataclass(slots=True, eq=False)
class _Task(Generic[P]):
    """A request, or a part of a large one, that waits for its batch."""

    feeds: Feeds
    size: int
    deadline: float
    outputs: P
    queued: float = field(default_factory=time.monotonic)


@dataclass
class _Batch:
    """What will run together."""

    tasks: list[_Task[Any]] = field(default_factory=list)
    size: int = 0
    opened: float = 0.0

    def add(self, task: _Task[Any]) -> None:
        if not self.tasks:
            self.opened = time.monotonic()
        self.tasks.append(task)
        self.size += task.size


class _Queue:
    """Batches of one signature of one servable; the last one is open for more tasks."""

    def __init__(self, run: Run, fetches: Sequence[str], options: BatchingOptions) -> None:
        self.run = run
        self.fetches = fetches
        self.options = options
        self.batches: deque[_Batch] = deque([_Batch()])

    def put(self, feeds: Feeds, size: int, deadline: float, promise: Callable[[], P]) -> list[_Task[P]]:
        """Appends a request, cut where batches end.

        Args:
            feeds: Its values by tensor name.
            size: How many examples it has.
            deadline: When nobody waits for it any more.
            promise: Makes what its outputs are given to, once for each part.

        Raises:
            StatusError: UNAVAILABLE; there is no room for it.
        """
        open_batch, limit = self.batches[-1], self.options.batch_size
        if 0 < size <= limit - open_batch.size:
            tasks = [_Task(feeds, size, deadline, promise())]
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
            tasks.append(_Task(part, end - begin, deadline, promise()))
            self.batches[-1].add(tasks[-1])
            begin = end
        return tasks

    def due(self) -> float:
        """When the first batch may run: at once (0) if it is full, otherwise when its time to wait is over."""
        first = self.batches[0]
        if len(self.batches) > 1 or first.size >= self.options.batch_size:
            return 0.0
        return first.opened + self.options.batch_timeout_s

    def take(self) -> _Batch:
        """The first batch, which is no longer in the queue."""
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


class BatchScheduler:
    """Forms batches of concurrent requests and runs them in threads of its own.

    Requests share a batch if they go to the same signature of the same servable and fit together: a request of another
    type or shape starts a batch of its own instead of spoiling that of others. A batch that fails is run again request
    by request, so that each gets the answer that it would have got alone.

    Args:
        threads: Batches that run at the same time.
        metrics: Counts the batches and how long their requests wait.
    """

    def __init__(self, threads: int, metrics: Metrics = NO_METRICS) -> None:
        self._metrics = metrics
        self._changed = threading.Condition()
        # Only queues with something in them; the first is served first and then goes to the end.
        self._queues: OrderedDict[Hashable, _Queue] = OrderedDict()
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(
        self, owner: Hashable, run: Run, feeds: Feeds, fetches: Sequence[str], deadline: float, options: BatchingOptions
    ) -> list[np.ndarray]:
        """Runs a request together with others; returns when it is done.

        Args:
            owner: What `run` belongs to; requests of different owners are never mixed.
            run: Runs a batch.
            feeds: Values by tensor name; the first dimension of each counts the examples.
            fetches: Tensor names.
            deadline: When nobody waits for the result any more.
            options: How batches of this owner are formed.

        Raises:
            StatusError: The request cannot be batched, there is no room for it, its time was over before its batch
                ran, or what `run` raised.
        """
        parts: list[Future[Outcome]] = self._submit(owner, run, feeds, fetches, deadline, options, Future)
        return _joined([part.result() for part in parts])

    async def run_async(
        self, owner: Hashable, run: Run, feeds: Feeds, fetches: Sequence[str], deadline: float, options: BatchingOptions
    ) -> list[np.ndarray]:
        """As `run`, but no thread waits: with many small requests, waking one for each costs more than its answer."""
        promise = asyncio.get_running_loop().create_future
        parts = self._submit(owner, run, feeds, fetches, deadline, options, promise)
        return _joined([await parts[0]] if len(parts) == 1 else await asyncio.gather(*parts))

    def _submit(
        self,
        owner: Hashable,
        run: Run,
        feeds: Feeds,
        fetches: Sequence[str],
        deadline: float,
        options: BatchingOptions,
        promise: Callable[[], P],
    ) -> list[P]:
        """Queues a request; gives what its parts will come to."""
        size = _size(feeds)
        if options.input_limit is not None and size > options.input_limit:
            raise invalid_argument(f"Task size {size} is larger than maximum input batch size {options.input_limit}")
        self._metrics.batched(size)
        key = (owner, _kind(feeds, options.pad_variable_length_inputs), tuple(fetches))
        with self._changed:
            if self._stopped:
                raise StatusError(Code.UNAVAILABLE, "The batch scheduler has stopped")
            queue = self._queues.get(key)
            new = queue is None
            if queue is None:
                queue = self._queues[key] = _Queue(run, fetches, options)
            tasks = queue.put(feeds, size, deadline, promise)
            # Whoever waits for this queue knows until when; only a batch that is full changes that.
            if new or not queue.due():
                self._changed.notify()
        return [task.outputs for task in tasks]

    def stop(self) -> None:
        """Runs what is queued, then ends the threads."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Runs a batch, of which nothing is kept while this thread waits for another; False if there will be none."""
        taken = self._next()
        if taken is not None:
            queue, batch = taken
            now = time.monotonic()
            wanted = [task for task in batch.tasks if _is_wanted(task.outputs)]
            waiting = [task for task in wanted if task.deadline > now]
            expired = StatusError(Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue")
            _settle((task.outputs, expired) for task in wanted if task.deadline <= now)
            if waiting:
                size = sum(task.size for task in waiting)
                padded = queue.options.padded(size)
                waited_s = [now - task.queued for task in waiting]
                self._metrics.batch_run(queue.options.thread_pool_name, waited_s, padded, padded - size)
                _settle(_run_together(queue, waiting))
        return taken is not None

    def _next(self) -> tuple[_Queue, _Batch] | None:
        """Waits for the next batch that is due; None if there will be no more."""
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


def _joined(outcomes: Sequence[Outcome]) -> list[np.ndarray]:
    parts = [value_of(outcome) for outcome in outcomes]
    return parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]


def _is_wanted(promise: Promise) -> bool:
    """Whether somebody still waits for the outputs."""
    return promise.set_running_or_notify_cancel() if isinstance(promise, Future) else not promise.cancelled()


def _settle(outcomes: Iterable[tuple[Promise, Outcome]]) -> None:
    """Hands out what requests came to; an event loop is woken once for all of its requests."""
    by_loop = defaultdict(list)
    for promise, outcome in outcomes:
        if isinstance(promise, Future):
            promise.set_result(outcome)
        else:
            by_loop[promise.get_loop()].append((promise, outcome))
    for loop, its_outcomes in by_loop.items():
        with suppress(RuntimeError):  # The loop has ended; nobody waits.
            loop.call_soon_threadsafe(_fulfil_all, its_outcomes)


def _fulfil_all(outcomes: Iterable[tuple[asyncio.Future[Outcome], Outcome]]) -> None:
    for promise, outcome in outcomes:
        if not promise.done():
            promise.set_result(outcome)


def _run_together(queue: _Queue, tasks: Sequence[_Task[Any]]) -> Iterable[tuple[Promise, Outcome]]:
    """Runs tasks as one batch; gives each its part, or its own error."""
    try:
        return zip([task.outputs for task in tasks], _parts(queue, tasks), strict=True)
    except Exception as error:
        if len(tasks) > 1:
            return [outcome for task in tasks for outcome in _run_together(queue, [task])]
        if not isinstance(error, StatusError):
            logger.exception("A batch failed in a way that it should not")
            return [(tasks[0].outputs, StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}"))]
        return [(tasks[0].outputs, error.without_traceback())]


def _parts(queue: _Queue, tasks: Sequence[_Task[Any]]) -> list[list[np.ndarray]]:
    """The outputs of each task, from one run."""
    size = sum(task.size for task in tasks)
    padded = queue.options.padded(size)
    if _padding_bytes(tasks, padded, queue.options.pad_variable_length_inputs) > _MAX_PADDING:
        if len(tasks) > 1:
            raise StatusError(Code.RESOURCE_EXHAUSTED, "These requests are too different in length to share a batch")
        padded = size
    feeds = {
        name: _merged([task.feeds[name] for task in tasks], padded - size, queue.options.pad_variable_length_inputs)
        for name in tasks[0].feeds
    }
    outputs = queue.run(feeds, queue.fetches, max(task.deadline for task in tasks))
    for output in outputs:
        if not output.ndim:
            raise StatusError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
        if len(output) != padded:
            raise StatusError(
                Code.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
                "tensors",
            )
    parts, begin = [], 0
    for task in tasks:
        parts.append([output[begin : begin + task.size] for output in outputs])
        begin += task.size
    return parts


def _padding_bytes(tasks: Sequence[_Task[Any]], padded: int, pad_variable_length: bool) -> int:
    """By how many bytes a batch is larger than its requests, at most."""
    missing = padded - sum(task.size for task in tasks)
    if not missing and not pad_variable_length:
        return 0
    total = 0
    for name, first in tasks[0].feeds.items():
        values = [task.feeds[name] for task in tasks]
        shape = np.max([value.shape[1:] for value in values], axis=0) if pad_variable_length else first.shape[1:]
        added = padded * math.prod(map(int, shape)) - sum(value.size for value in values)
        total += added * max(_longest(value) for value in values)
    return total


def _longest(value: np.ndarray) -> int:
    """The bytes of an array's largest element, since strings differ."""
    if value.dtype == np.object_:
        return max(map(len, value.flat), default=0)
    return value.itemsize


def _merged(values: list[np.ndarray], padding: int, pad_variable_length: bool) -> np.ndarray:
    """One array of all, filled up with copies of a row: the first of the last one that has any."""
    if pad_variable_length:
        longest = np.max([value.shape[1:] for value in values], axis=0)
        values = [_lengthened(value, longest) for value in values]
    if padding:
        row = next(value[:1] for value in reversed(values) if len(value))
        values = [*values, np.repeat(row, padding, axis=0)]
    return values[0] if len(values) == 1 else np.concatenate(values)


def _lengthened(value: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The array with rows of a larger shape, filled up with its first element."""
    if value.shape[1:] == tuple(shape):
        return value
    lengthened = np.full((len(value), *shape), value.flat[0] if value.size else np.zeros((), value.dtype), value.dtype)
    lengthened[tuple(map(slice, value.shape))] = value
    return lengthened


def _size(feeds: Feeds) -> int:
    if not feeds:
        raise invalid_argument("Batching Run() must have at least one input tensor")
    if any(not value.ndim for value in feeds.values()):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    sizes = {len(value) for value in feeds.values()}
    if len(sizes) > 1:
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


def _kind(feeds: Feeds, pad_variable_length: bool) -> Hashable:
    """What requests must have in common to share a batch."""
    return frozenset(
        (name, value.dtype, value.ndim if pad_variable_length else value.shape[1:]) for name, value in feeds.items()
    )
