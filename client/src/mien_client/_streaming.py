"""Any number of images, asked about in batches: `Client.analyze_iter`, without the client."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from mien_client._analysis import Analysis
from mien_client._exceptions import InvalidImageError
from mien_client._face import Face
from mien_client._images import as_images
from mien_client._threads import in_thread

BATCHES_IN_FLIGHT = 4
"""Batches at the same time. With a request to each model they are eight, which a server on two cores accepts."""


def stream(
    ask: Callable[[NDArray[np.uint8]], Analysis], batches: Iterator[NDArray[np.uint8]], max_in_flight: int
) -> Iterator[Face]:
    """Ask about batches, several at the same time, each in a thread; yield their faces in order.

    Args:
        ask: Asks about one batch, uint8 [n, 48, 48].
        batches: The batches; they are read as needed.
        max_in_flight: Batches at the same time.
    """
    running: deque[tuple[NDArray[np.uint8], Future[Analysis]]] = deque()
    process = os.getpid()
    problem: Exception | None = None
    more = True
    while True:
        while more and len(running) < max_in_flight:
            try:
                batch = next(batches)
                running.append((batch, in_thread(ask, batch)))
            except StopIteration:
                more = False
            except Exception as error:  # The batches before it are answered first.
                more, problem = False, error
            if running and running[0][1].done():
                break  # An answer is not held back while more is read, which may take long.
        if not running:
            break
        yield from running.popleft()[1].result()
        if os.getpid() != process:  # The caller has forked, and the threads are the parent's.
            process = os.getpid()
            running = deque((batch, in_thread(ask, batch)) for batch, _ in running)
    if problem is not None:
        raise problem


def in_batches(images: Iterable[NDArray[np.uint8]], size: int) -> Iterator[NDArray[np.uint8]]:
    """Read images one by one and yield them as arrays of shape (n, 48, 48), with n up to ``size``.

    Raises:
        InvalidImageError: An image is invalid. It is raised after the images before it; the text says which one it is.
        Exception: Reading the images failed, likewise.
    """
    numbered = enumerate(images)
    while True:
        batch, problem = [], None
        try:
            for index, image in islice(numbered, size):
                batch.append(_one_image(image, index))
        except Exception as error:
            problem = error
        if batch:
            yield np.stack(batch)
        if problem is not None:
            raise problem
        if len(batch) < size:
            return


async def in_batches_async(
    images: AsyncIterable[NDArray[np.uint8]] | Iterable[NDArray[np.uint8]], size: int
) -> AsyncGenerator[NDArray[np.uint8], None]:
    """Do what `in_batches` does, also for images from an asynchronous iterable."""
    if isinstance(images, Iterable):
        for batch in in_batches(images, size):
            yield batch
        return
    iterator, index = aiter(images), 0
    while True:
        faces: list[NDArray[np.uint8]] = []
        problem: Exception | None = None
        try:
            while len(faces) < size:
                faces.append(_one_image(await anext(iterator), index))
                index += 1
        except Exception as error:
            problem = error
        if faces:
            yield np.stack(faces)
        if isinstance(problem, StopAsyncIteration):
            return
        if problem is not None:
            raise problem


def _one_image(image: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
    try:
        faces = as_images(image)
    except InvalidImageError as error:
        raise InvalidImageError(f"Image number {index} (from 0) of the iterable: {error}") from None
    if len(faces) != 1:
        raise InvalidImageError(f"Image number {index} (from 0) of the iterable: expected one image, got {len(faces)}")
    face: NDArray[np.uint8] = faces[0]
    return face
