"""Which versions of the models a call asks for."""

from __future__ import annotations

import operator

from mien_client._exceptions import ConfigurationError
from mien_client.contract import STABLE_LABEL
from mien_client.transports.base import Target

LATEST = "latest"
"""Given instead of a label: the newest version that is loaded, whatever the labels say."""


def checked_target(model: str, version: int | str | None) -> Target:
    """Return the target that a model's name and a version stand for.

    Args:
        model: The model's name.
        version: A number, a label, ``"latest"``, or None for the label ``stable``.

    Raises:
        ConfigurationError: One of them is invalid.
    """
    if not isinstance(model, str) or not model:
        raise ConfigurationError(f"Expected the name of a model, got {model!r}")
    if version is None:
        return Target(model, label=STABLE_LABEL)
    if isinstance(version, str) and version == LATEST:
        return Target(model)
    if isinstance(version, str) and version:
        return Target(model, label=version)
    try:
        number = operator.index(version)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if not 0 <= number < 2**63:
        raise ConfigurationError(f"Expected a version number, or a label such as 'stable', got {version!r}")
    return Target(model, version=number)


def preferences(target: Target) -> list[Target]:
    """Return what to ask for, in order: a model without the label ``stable`` is asked for its newest version."""
    return [target, Target(target.model)] if target.label == STABLE_LABEL else [target]
