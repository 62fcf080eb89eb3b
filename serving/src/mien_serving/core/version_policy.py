"""The version policy: which version of a model to load or unload next."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from mien_serving.core.servable_state import State


@dataclass(frozen=True)
class Snapshot:
    """One version as the version policy sees it."""

    version: int
    aspired: bool
    state: State


class Action(enum.Enum):
    """What the version policy can request."""

    LOAD = enum.auto()
    UNLOAD = enum.auto()


def next_action(versions: Sequence[Snapshot]) -> tuple[Action, int] | None:
    """Return what to do next for one model, if anything: TensorFlow Serving's availability-preserving policy.

    The last available version is unloaded only when an aspired one is available, or if none is aspired. So the model
    always answers; the price is that both versions are in memory for a moment.
    """
    aspired = [version for version in versions if version.aspired]
    leftover = [version.version for version in versions if not version.aspired and version.state is State.AVAILABLE]
    replaced = not aspired or any(version.state is State.AVAILABLE for version in aspired)
    if leftover and (replaced or len(leftover) > 1):
        return Action.UNLOAD, min(leftover)
    new = [version.version for version in aspired if version.state is State.START]
    return (Action.LOAD, max(new)) if new else None
