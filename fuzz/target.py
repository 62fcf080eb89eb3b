"""A target: one parser, and what may come out of it."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

Check = Callable[[bytes], str]
"""Gives an input to a parser, and returns how that ended: a status, or the documented error in its own words.

It raises `Fault`, or whatever else the parser raises, if the parser is at fault.
"""

_VARIABLE: Final = re.compile(r"'[^']*'|\"[^\"]*\"|[0-9][0-9a-fx.,_]*|[^ -~]+")
_OUTCOME_WORDS: Final = 5


class Fault(Exception):
    """The parser did something that its documentation does not allow."""


@dataclass(frozen=True)
class Target:
    """A parser to fuzz.

    Attributes:
        name: Its name.
        prepare: Make a `Check`, for the time of a block; takes a folder for files.
        seeds: Make valid inputs, which are mutated.
        tokens: What the parser's language is made of, to insert into inputs.
        seconds: Seconds of a processor that one input may take.
        megabytes: How much memory one input may take.
    """

    name: str
    prepare: Callable[[Path], AbstractContextManager[Check]]
    seeds: Callable[[], Sequence[bytes]]
    tokens: Sequence[bytes] = ()
    seconds: float = 5.0
    megabytes: int = 300


def checked(target: Target, check: Check, data: bytes) -> str:
    """Give one input to a parser; return how that ended, without what differs from input to input.

    Raises:
        Fault: It took too much time or memory.
        Exception: What `check` raises.
    """
    peak, started = peak_megabytes(), time.process_time()
    outcome = check(data)
    used, grown = time.process_time() - started, peak_megabytes() - peak
    if used > target.seconds:
        raise Fault(f"It took {used:.1f} s of a processor; at most {target.seconds:g} s are expected")
    if grown > target.megabytes:
        raise Fault(f"It took {grown:.0f} MB of memory; at most {target.megabytes} MB are expected")
    return " ".join(_VARIABLE.sub("…", outcome).split()[:_OUTCOME_WORDS]) or "…"


def peak_megabytes() -> float:
    """Return the highest amount of memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
