"""Versions of models, and their states."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mien_serving.core.status import StatusError


class State(enum.IntEnum):
    """The state of a version, with the numbers of ``ModelVersionStatus.State``."""

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
    """The last known state of a version, kept after it has ended.

    Attributes:
        state: The state.
        error: Why the version ended, if loading it failed.
        sequence: A number that grows with every change of any version's state.
    """

    state: State
    error: StatusError | None
    sequence: int
