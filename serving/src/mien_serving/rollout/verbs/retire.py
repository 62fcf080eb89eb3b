"""``retire``: unload old versions, and delete them if that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mien_client.contract import STABLE_LABEL

from mien_serving.repository import layout
from mien_serving.rollout.errors import RolloutError, only_rollout_errors
from mien_serving.rollout.fleet.survey import Views
from mien_serving.rollout.progress import Progress
from mien_serving.rollout.requests import RetireRequest
from mien_serving.rollout.state.desired import Desired, Plan
from mien_serving.rollout.state.journal import Entry, Journal
from mien_serving.rollout.state.models_config import ModelsConfig
from mien_serving.rollout.verbs.change import change, check_versions_are_chosen
from mien_serving.rollout.verbs.rollback import version_before


@only_rollout_errors()
def retire(request: RetireRequest, progress: Progress) -> Plan:
    """Unload versions, and delete them if that is asked for.

    Raises:
        RolloutError: No server was changed, or not all of them; the text says what is in force.
    """
    model, versions, repository = request.model, request.versions, request.deployment.repository

    def plan(config: ModelsConfig, views: Views, journal: Journal) -> Plan:
        folder = config.folder(model, repository)
        if request.delete:
            layout.check_deletable(folder, versions)
        return plan_retire(model, versions, config.desired(model), views, folder, journal.entries(model))

    def delete(config: ModelsConfig) -> None:
        folder = config.folder(model, repository)
        for version in versions:
            if path := layout.remove_version(folder, version):
                progress.say(f"  {path} is deleted")

    done = change(
        request,
        progress,
        verb="retire",
        doing=f"retire {model} {' '.join(map(str, versions))}",
        plan_of=plan,
        finally_delete=delete if request.delete else None,
    )
    if request.dry_run and request.delete:
        folder = ModelsConfig.read(request.deployment.config).folder(model, repository)
        stored = [str(layout.version_folder(folder, one)) for one in layout.versions(folder) if one in done.gone]
        progress.say(f"  then delete {', '.join(stored) or 'nothing'}")
    return done


def plan_retire(
    model: str, versions: Sequence[int], desired: Desired, views: Views, folder: Path, entries: Iterable[Entry]
) -> Plan:
    """Plan to unload versions that no label names.

    Args:
        model: The model.
        versions: The versions to unload.
        desired: What is desired of the model.
        views: What the servers have of it.
        folder: Its folder in the repository.
        entries: Its entries in the journal.

    Raises:
        RolloutError: A label names one of the versions, or the servers choose which versions they load.
    """
    check_versions_are_chosen(model, desired)
    assert desired.versions is not None
    for version in versions:
        named = [label for label, labelled in desired.labels.items() if labelled == version]
        if named:
            raise RolloutError(f"Version {version} of {model} is {' and '.join(named)}, so it cannot be retired")
    gone = frozenset(versions)
    held = {version for view in views.values() for version in view.held()}
    notes = []
    if missing := gone - held - desired.versions - set(layout.versions(folder)):
        notes.append(f"There is no version {' nor '.join(map(str, sorted(missing)))} of {model} any more.")
    stable = desired.labels.get(STABLE_LABEL)
    if stable is not None and (way_back := version_before(model, stable, entries, folder)[0]) in gone:
        notes.append(f"`mien rollout rollback {model}` would go back to version {way_back}, which this retires.")
    return Plan(model, desired, Desired(desired.versions - gone, desired.labels), tuple(notes), gone)
