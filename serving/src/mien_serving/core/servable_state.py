"""Versions of models, and where each is in its life."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mien_serving.core.status import StatusError


class State(enum.IntEnum):
    """Where a version is in its life, by the numbers of ``ModelVersionStatus.State``."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class ServableId:
    """One version of one model."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.version}}}"


@dataclass(frozen=True)
class ServableState:
    """What is known of a version; kept after it has ended.

    Attributes:
        state: Where it is in its life.
        error: Why it ended, if not because it was asked to.
        sequence: Grows with every change of any version's state.
    """

    state: State
    error: StatusError | None
    sequence: int
