"""What a forked child must not share with its parent.

A child starts with a copy of its parent's memory: connections on which the parent's answers arrive, locks that a thread
of the parent held, records of threads that the child does not have. The owner of such things replaces them in the child
before anything else runs.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """An owner of connections or locks."""

    def renew(self) -> None:
        """Replace them in a child that was just forked: the parent may hold or use the inherited ones."""


_owners: WeakSet[Renewable] = WeakSet()
_left_alone: list[object] = []


def renew_in_children(owner: Renewable) -> None:
    """Call ``owner.renew()`` in every process that is forked from this one."""
    _owners.add(owner)


def leave_alone(inherited: object) -> None:
    """Keep something of the parent's until this process ends: closing or collecting it could disturb the parent."""
    _left_alone.append(inherited)


def _renew_all() -> None:
    for owner in list(_owners):
        owner.renew()


if hasattr(os, "register_at_fork"):  # Windows does not fork.
    os.register_at_fork(after_in_child=_renew_all)
