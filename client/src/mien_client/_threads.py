"""Threads that do not keep a program from ending."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from threading import Thread
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_thread(function: Callable[_P, _R], *arguments: _P.args, **options: _P.kwargs) -> Future[_R]:
    """Run ``function`` in a thread of its own.

    A pool's threads would keep a program that is to end, on Ctrl-C for example, until the server answers.

    Args:
        function: The function.
        *arguments: Its positional arguments.
        **options: Its keyword arguments.

    Returns:
        The future result.
    """
    future: Future[_R] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(function(*arguments, **options))
        except BaseException as error:
            future.set_exception(error)

    # The thread gets the caller's context, in which tracing libraries keep the current call.
    Thread(target=copy_context().run, args=[run], daemon=True).start()
    return future
