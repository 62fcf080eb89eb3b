"""``status``: what is desired, what the repository has and what the servers have, side by side."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mien_client.contract import CANARY_LABEL, STABLE_LABEL

from mien_serving.repository import layout, manifest
from mien_serving.repository.lock import holder, lock_path
from mien_serving.rollout.errors import only_rollout_errors
from mien_serving.rollout.fleet.fleet import Fleet
from mien_serving.rollout.fleet.server import View
from mien_serving.rollout.fleet.survey import Views, missing_base_paths, why_unfit
from mien_serving.rollout.requests import Deployment
from mien_serving.rollout.state.desired import Desired
from mien_serving.rollout.state.history import unfinished
from mien_serving.rollout.state.journal import Entry, Journal
from mien_serving.rollout.state.models_config import ModelsConfig
from mien_serving.rollout.state.split_store import SplitStore
from mien_serving.rollout.verbs.change import left_out
from mien_serving.rollout.wording import duration


@only_rollout_errors()
def overview(deployment: Deployment, fleet: Fleet) -> dict[str, Any]:
    """Look at everything once.

    Args:
        deployment: Where.
        fleet: Its servers.

    Returns:
        A document: for each model what is desired, its canary's percentage of the calls, its versions in the repository
        and on every server, the labels on every server, what disagrees, what is in progress, and what was begun and not
        finished; and what is wrong with the configuration itself, so that no server could take it.

    Raises:
        RolloutError: ``models.config``, the journal or the repository cannot be read.
    """
    config, repository = ModelsConfig.read(deployment.config), deployment.repository
    store, journal = SplitStore(deployment.config), Journal(repository)
    split = store.read()
    desired = {model: config.desired(model) for model in config.models}
    labels = {model: sorted({STABLE_LABEL, CANARY_LABEL, *state.labels}) for model, state in desired.items()}
    views = fleet.views(labels)
    owner = holder(lock_path(repository))
    models: dict[str, Any] = {}
    for model, state in desired.items():
        entries = journal.entries(model)
        document = _of_model(state, config.folder(model, repository), views[model], entries)
        document["canary_percent"] = split.percent(model)
        stored = layout.version_folders(config.folder(model, repository))
        document["disagreements"] = [
            *(layout.ambiguity(version, found) for version, found in stored.items() if len(found) > 1),
            *(f"{address} {reason}" for address, reason in left_out(entries, deployment.servers).items()),
            *(
                f"{address} {problem}"
                for address, view in views[model].items()
                for problem in _problems(config, model, state, view, views[model])
            ),
        ]
        document["in_progress"] = _in_progress(model, owner)
        if document["in_progress"]:
            document["unfinished"] = ""
        models[model] = document
    return {
        "config": str(deployment.config),
        "repository": str(repository),
        "servers": [server.address for server in fleet.servers],
        "problems": missing_base_paths(config, repository),
        "models": models,
        "journal_damage": journal.damage(),
        "split_damage": store.damage,
    }


def disagreements(desired: Desired, view: View, views: Views) -> Iterator[str]:
    """Yield what a server has that is not desired, or lacks: clauses that can follow the server's address."""
    if view.error:
        yield view.error
        return
    wanted = desired.versions
    if wanted is None:  # The servers choose; then they should all choose the same.
        wanted = frozenset(version for other in views.values() for version in other.available())
    for version in sorted(wanted - view.available()):
        state = view.versions.get(version)
        yield f"has version {version} {state}" if state else f"lacks version {version}"
    for version in sorted(view.held() - wanted):
        yield f"has version {version} {view.versions[version]}, which is not desired"
    for label in sorted({STABLE_LABEL, CANARY_LABEL, *desired.labels}):
        if view.labels.get(label) != desired.labels.get(label):
            has = view.labels.get(label, "no version")
            yield f"has label {label} on {has}, expected {desired.labels.get(label, 'none')}"


def command_of(entry: Entry) -> str:
    """Return the command that made an entry in the journal."""
    words = [f"mien rollout {entry['verb']} {entry['model']}"]
    if entry["verb"] == "canary":
        words.append(str(entry["after"]["labels"][CANARY_LABEL]))
        words += ["--move-unlabelled"] if entry.get("move_unlabelled") else []
    if entry["verb"] == "retire":
        words += map(str, entry.get("gone", ()))
        words += ["--delete"] if entry.get("delete") else []
    return " ".join(words)


def _of_model(desired: Desired, folder: Path, views: Views, entries: Iterable[Entry]) -> dict[str, Any]:
    stored = layout.version_folders(folder)
    held = {version for view in views.values() for version in view.held()}
    failed = {version for view in views.values() for version, state in view.versions.items() if state.error}
    begun = unfinished(entries)
    return {
        "desired": desired.document(),
        "versions": {
            str(version): {
                "labels": [label for label, labelled in desired.labels.items() if labelled == version],
                "in_repository": version in stored,
                "servers": {
                    address: str(view.versions[version]) if version in view.versions else ""
                    for address, view in views.items()
                },
                **manifest.facts(stored.get(version, [folder / str(version)])[0]),
            }
            for version in sorted({*stored, *held, *failed, *(desired.versions or ())})
        },
        "servers": {address: {"error": view.error, "labels": dict(view.labels)} for address, view in views.items()},
        "unfinished": f"{command_of(begun)}, begun by {begun['who']} at {begun['time'][:19]}" if begun else "",
    }


def _problems(config: ModelsConfig, model: str, desired: Desired, view: View, views: Views) -> Iterable[str]:
    """Return why a server cannot take the configuration, or else how it differs from it."""
    reason = why_unfit(config, model, view)
    return [reason] if reason else disagreements(desired, view, views)


def _in_progress(model: str, owner: Mapping[str, Any] | None) -> str:
    """Return what is being done with a model now, by whom, and for how long."""
    if owner is None or owner["doing"].split()[1:2] != [model]:
        return ""
    age = duration(max(0.0, time.time() - owner["since"]))
    return f"{owner['doing']}, by {owner['who']} (process {owner['pid']}), for {age}"
