"""Waiting in tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(condition: Callable[..., Any], timeout_s: float = 60, pause_s: float = 0.02) -> Any:
    """Wait until a function returns something true, and return that.

    Args:
        condition: The function, which is called again and again.
        timeout_s: Seconds after which the test fails.
        pause_s: Seconds between two calls.
    """
    give_up = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(pause_s)
    return found
