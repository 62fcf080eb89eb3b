"""The version policy: which version of a model to load or unload next."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from mien_serving.core.servable_state import State


@dataclass(frozen=True)
class Snapshot:
    """What the version policy is told of one version."""

    version: int
    aspired: bool
    state: State


class Action(enum.Enum):
    """What the version policy can ask for."""

    LOAD = enum.auto()
    UNLOAD = enum.auto()


def next_action(versions: Sequence[Snapshot]) -> tuple[Action, int] | None:
    """TensorFlow Serving's availability-preserving policy: what to do next for one model, if anything.

    The last available version is unloaded only once an aspired one is available (or none is aspired), so that
    requests never find the model gone; the price is the memory of both for a moment.
    """
    aspired = [version for version in versions if version.aspired]
    leftover = [version.version for version in versions if not version.aspired and version.state is State.AVAILABLE]
    replaced = not aspired or any(version.state is State.AVAILABLE for version in aspired)
    if leftover and (replaced or len(leftover) > 1):
        return Action.UNLOAD, min(leftover)
    new = [version.version for version in aspired if version.state is State.START]
    return (Action.LOAD, max(new)) if new else None
