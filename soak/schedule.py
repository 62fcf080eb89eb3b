"""When each fault happens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from soak.faults import Kind


@dataclass(frozen=True)
class Planned:
    """A fault to come.

    Attributes:
        at_s: Seconds from the beginning of the run; it waits until what was before it is healed.
        kind: Which kind.
        lasts_s: How long it lasts.
        seed: Of what chance decides about it.
    """

    at_s: float
    kind: Kind
    lasts_s: float
    seed: int


def plan(kinds: Sequence[Kind], minutes: float, seed: int) -> list[Planned]:
    """Return all faults of a run in order: as many of each kind as its minutes have of an hour, but at least one.

    The same seed gives the same faults in the same order.
    """
    chance = random.Random(seed)  # noqa: S311
    chosen = [kind for kind in kinds for _ in range(max(1, round(kind.an_hour * minutes / 60)))]
    chance.shuffle(chosen)
    pause = minutes * 60 / (len(chosen) + 1)
    return [
        Planned(
            number * pause, kind, chance.uniform(*kind.lasts_s) * min(1.0, 0.3 + minutes / 20), chance.getrandbits(32)
        )
        for number, kind in enumerate(chosen, 1)
    ]
