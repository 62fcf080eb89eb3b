"""What can be wrong with a model repository."""

from __future__ import annotations


class RepositoryError(Exception):
    """The repository, or a file next to it, cannot be used. The text is a sentence without its full stop."""


class VersionError(RepositoryError):
    """One version cannot be used. The text is a clause that can follow the version's name in a sentence."""
