"""What a forked child must not share with its parent.

A child starts with a copy of everything its parent had: connections on which the parent's answers arrive, locks that
some thread of the parent held, notes about threads that the child does not have. Whoever owns such things makes them
anew there, before anything else runs.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """Owns connections or locks."""

    def renew(self) -> None:
        """Makes them anew, in a child that was just forked. The inherited ones may be held or used by the parent."""


_owners: WeakSet[Renewable] = WeakSet()
_left_alone: list[object] = []


def renew_in_children(owner: Renewable) -> None:
    """Sees to it that ``owner.renew()`` is called in every process that is forked from this one."""
    _owners.add(owner)


def leave_alone(inherited: object) -> None:
    """Keeps something of the parent's for as long as this process lives: to close or collect it could disturb it."""
    _left_alone.append(inherited)


def _renew_all() -> None:
    for owner in list(_owners):
        owner.renew()


if hasattr(os, "register_at_fork"):  # Windows does not fork.
    os.register_at_fork(after_in_child=_renew_all)
