"""Checks of the options of a client and of its calls."""

from __future__ import annotations

import math
import numbers

from mien_client._exceptions import ConfigurationError

_LONGEST_TIMEOUT = 1e8
"""Seconds, three years. The system's clocks cannot represent some numbers that people use for "forever"."""


def checked_timeout(timeout: float) -> float:
    """Return ``timeout`` if it is a positive number of seconds."""
    if not (isinstance(timeout, numbers.Real) and 0 < timeout < math.inf):
        raise ConfigurationError(f"Expected a positive number of seconds for timeout, got {timeout!r}")
    return min(float(timeout), _LONGEST_TIMEOUT)


def checked_count(name: str, count: int) -> int:
    """Return ``count`` if it is a positive integer; ``name`` is the option's name."""
    if not isinstance(count, numbers.Integral) or count < 1:
        raise ConfigurationError(f"Expected a positive integer for {name}, got {count!r}")
    return int(count)


def checked_canary(share: float | str) -> float:
    """Return the share of calls for the canary if it is a number from 0 to 1."""
    if isinstance(share, str) or not (isinstance(share, numbers.Real) and 0 <= share <= 1):
        raise ConfigurationError(f"Expected a number from 0 to 1, or 'auto', for canary, got {share!r}")
    return share


def checked_hedge(share: float | None) -> float | None:
    """Return the share of answers after which to hedge if it is a number from 0.5 to below 1, or None."""
    if share is not None and not (isinstance(share, numbers.Real) and 0.5 <= share < 1):
        raise ConfigurationError(f"Expected a number from 0.5 to below 1 for hedge, such as 0.95, got {share!r}")
    return share
