"""Threads that nobody has to wait for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from threading import Thread
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_thread(function: Callable[_P, _R], *arguments: _P.args, **options: _P.kwargs) -> Future[_R]:
    """Runs ``function`` in a thread of its own.

    Not in a pool's: those would keep a program that wants to end, on Ctrl-C say, until the server answers.
    """
    future: Future[_R] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(function(*arguments, **options))
        except BaseException as error:
            future.set_exception(error)

    # The caller's context goes along: what traces calls keeps there whose call this is.
    Thread(target=copy_context().run, args=[run], daemon=True).start()
    return future
