"""What can go wrong."""

from __future__ import annotations


class MienError(Exception):
    """The root of everything this package raises on purpose."""
