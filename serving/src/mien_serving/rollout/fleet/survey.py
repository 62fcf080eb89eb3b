"""Check, before anything is changed, that every server can take a new configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mien_client.contract import CANARY_LABEL, STABLE_LABEL

from mien_serving.rollout.errors import RolloutError
from mien_serving.rollout.fleet.fleet import Fleet
from mien_serving.rollout.fleet.server import View
from mien_serving.rollout.state.models_config import ModelsConfig

Views = Mapping[str, View]
"""What each server has of a model, by the server's address."""


@dataclass(frozen=True)
class Survey:
    """What the servers have of a model, before anything is changed.

    Attributes:
        views: What each server has, by address.
        unfit: The servers that cannot take a new configuration now, with the reason.
    """

    views: Views
    unfit: Mapping[str, str] = field(default_factory=dict)


def survey(config: ModelsConfig, fleet: Fleet, repository: Path, model: str, *, strict: bool = True) -> Survey:
    """Look at every server, and check that it can reload its configuration.

    TensorFlow Serving waits forever for a base path that is missing, and takes no other configuration meanwhile.

    Args:
        config: The configuration that will change.
        fleet: The servers.
        repository: The folder that stands for ``/models``.
        model: The model whose views are returned.
        strict: Whether to raise an error for a server that does not answer or lacks a model.

    Raises:
        RolloutError: A base path is missing, or, if strict, a server cannot take part.
    """
    for problem in missing_base_paths(config, repository):
        raise RolloutError(f"Nothing was changed: {problem}")
    labels = sorted({STABLE_LABEL, CANARY_LABEL, *config.desired(model).labels})
    views = fleet.views({name: labels if name == model else () for name in config.models})
    reasons: dict[str, str] = {}
    for name, of_model in views.items():
        for address, view in of_model.items():
            if reason := why_unfit(config, name, view):
                reasons.setdefault(address, reason)
    if reasons and strict:
        problems = "; ".join(f"{address} {reason}" for address, reason in reasons.items())
        raise RolloutError(f"Nothing was changed: {problems}. Start or repair it, or leave it out of --servers")
    return Survey(views[model], reasons)


def missing_base_paths(config: ModelsConfig, repository: Path) -> list[str]:
    """Return a sentence on each model whose base path is missing: TensorFlow Serving would wait for it forever."""
    return [
        f"the base path of {name} in {config.path} is missing: there is no folder {folder}, and TensorFlow Serving "
        "would wait for it forever; name the repository with --repository"
        for name in config.models
        if not (folder := config.folder(name, repository)).is_dir()
    ]


def why_unfit(config: ModelsConfig, name: str, view: View) -> str:
    """Return why a server cannot take a configuration now, as a clause without its name; empty if it can."""
    if view.error or view.versions:
        return view.error
    return (
        f"does not have the model {name} of {config.path}, and a reload would block forever if the model's base path "
        "is missing there; restart it with this file"
    )
