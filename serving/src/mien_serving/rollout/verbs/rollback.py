"""``rollback``: make the previous version stable again, now."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mien_client.contract import CANARY_LABEL, STABLE_LABEL

from mien_serving.repository import layout
from mien_serving.rollout.errors import RolloutError, only_rollout_errors
from mien_serving.rollout.fleet.survey import Views
from mien_serving.rollout.progress import Progress
from mien_serving.rollout.requests import RollbackRequest
from mien_serving.rollout.state import history
from mien_serving.rollout.state.desired import Desired, Plan
from mien_serving.rollout.state.journal import Entry, Journal
from mien_serving.rollout.state.models_config import ModelsConfig
from mien_serving.rollout.verbs.change import FINISHES, already_moved, change
from mien_serving.rollout.wording import numbers


@only_rollout_errors()
def rollback(request: RollbackRequest, progress: Progress) -> Plan:
    """Make the previous version stable again, whatever state the servers are in.

    Running it again is safe: it does not go back another step.

    Raises:
        RolloutError: No server was changed, or not all of them; the text says what is in force.
    """
    model = request.model

    def plan(config: ModelsConfig, _: Views, journal: Journal) -> Plan:
        folder = config.folder(model, request.deployment.repository)
        entries = journal.entries(model)
        return plan_rollback(model, request.to, config.desired(model), entries, folder, force=request.force)

    return change(request, progress, verb="rollback", doing=f"rollback {model}", plan_of=plan, forward_only=True)


def plan_rollback(
    model: str, to: int | None, desired: Desired, entries: Iterable[Entry], folder: Path, *, force: bool = False
) -> Plan:
    """Plan to make the version stable that was so before, and to unload the one that replaced it.

    Args:
        model: The model.
        to: The version to go back to; None is the one that was stable before.
        desired: What is desired of the model.
        entries: Its entries in the journal.
        folder: Its folder in the repository.
        force: Whether that version may be one that was never stable, or that failed its comparison.

    Raises:
        RolloutError: There is no version to go back to, or it may not be used.
        RepositoryError: The version is not in the repository.
    """
    stable = desired.labels.get(STABLE_LABEL)
    if desired.versions is None or stable is None:
        raise RolloutError(f"No version of {model} was ever made stable ({desired}), so there is nothing to roll back")
    begun = history.unfinished(entries)
    if begun and begun["verb"] == "rollback" and to in (None, begun["after"]["labels"][STABLE_LABEL]):
        gone = frozenset(begun["before"]["versions"] or ()) - frozenset(begun["after"]["versions"])
        return Plan(model, desired, Desired.from_document(begun["after"]), (FINISHES,), gone)
    done = history.last_move(entries, stable)
    target: int | None = to
    notes: tuple[str, ...] = ()
    if to is None and done and done["verb"] == "rollback":
        target, notes = stable, (_again(model, done, entries, folder),)
    elif to is None:
        target, notes = version_before(model, stable, entries, folder)
    if target is None:
        hint = f", `mien rollout abort {model}` to remove the canary" if CANARY_LABEL in desired.labels else ""
        raise RolloutError(f"{_nothing_before(model, stable, entries)}; use --to VERSION to name one{hint}")
    layout.check_version(folder, target)
    if target != stable and not force:
        _check_good(model, target, entries)
    labels = {label: version for label, version in desired.labels.items() if label != CANARY_LABEL}
    labels |= {STABLE_LABEL: target}
    bad = {stable, desired.labels.get(CANARY_LABEL, stable)} - {*labels.values()}
    return Plan(model, desired, Desired((desired.versions | {target}) - bad, labels), notes)


def version_before(
    model: str, stable: int, entries: Iterable[Entry], folder: Path
) -> tuple[int | None, tuple[str, ...]]:
    """Return the last version that was stable before and still exists, and notes on it."""
    before = history.stable_before(entries, stable)
    stored = set(layout.versions(folder))
    target = next((version for version in before if version in stored), None)
    deleted = before[: before.index(target)] if target is not None else []
    if not deleted:
        return target, ()
    gone = numbers(deleted)
    return target, (f"Version {gone} was stable last but is deleted; version {target} of {model} was stable before.",)


def _nothing_before(model: str, stable: int, entries: Iterable[Entry]) -> str:
    """Return why there is no version to go back to."""
    if before := history.stable_before(entries, stable):
        return f"All versions of {model} that were stable before {stable} have been deleted: {numbers(before)}"
    return f"No version of {model} was stable before {stable}"


def _check_good(model: str, target: int, entries: Iterable[Entry]) -> None:
    """Raise an error for a version of which nothing good is known.

    Raises:
        RolloutError: It was never stable, or it failed its comparison.
    """
    hint = "add --force to use it anyway"
    if target not in history.ever_stable(entries):
        raise RolloutError(f"Version {target} of {model} was never stable: {hint}")
    if failed := history.failed_comparison(entries, target):
        gates = ", ".join(failed.get("failed_gates", ())) or "its gates"
        raise RolloutError(
            f"Version {target} of {model} failed {gates} when it was compared with {failed.get('stable')}: {hint}, or "
            "name another version with --to"
        )


def _again(model: str, done: Entry, entries: Iterable[Entry], folder: Path) -> str:
    """Return what to say when the rollback was done already."""
    stable = done["after"]["labels"][STABLE_LABEL]
    further = version_before(model, stable, entries, folder)[0]
    text = f"{already_moved(done)}; running it again is safe: it does not go back another step"
    if further is None:
        return f"{text}. If version {stable} is bad too: {_nothing_before(model, stable, entries)}."
    return f"{text}. If version {stable} is bad too: mien rollout rollback {model} --to {further}"
