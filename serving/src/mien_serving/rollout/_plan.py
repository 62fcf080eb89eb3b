"""From what is and what a verb wants to a plan, or to the sentence that says why not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from mien_client.cli import CommandError

from mien_serving.rollout import _journal, _repository
from mien_serving.rollout._fleet import Fleet, View
from mien_serving.rollout._journal import Entry
from mien_serving.rollout._models_config import CANARY, STABLE, Desired, ModelsConfig
from mien_serving.rollout._transition import Plan, Survey

Views = Mapping[str, View]

_ENOUGH_S: Final = 60.0
"""For how long a server must have seen no request without a label before that says anything."""

_FINISHES: Final = "This finishes what was begun and not finished."


def missing_base_paths(config: ModelsConfig, repository: Path) -> list[str]:
    """Return a sentence on each model whose base path is not there: TensorFlow Serving would wait for it for ever."""
    return [
        f"{config.path} names the base path of {name}, but there is no folder {folder}, and TensorFlow Serving would "
        "wait for it for ever; say where the repository is with --repository"
        for name in config.models
        if not (folder := config.folder(name, repository)).is_dir()
    ]


def unfit(config: ModelsConfig, name: str, view: View) -> str:
    """Return why a server cannot take a configuration now, as a clause without its name; empty if it can."""
    if view.error or view.versions:
        return view.error
    return (
        f"knows no model {name}, which {config.path} names, and a reload would block for ever if its base path is "
        "missing there; restart it with this file"
    )


def survey(config: ModelsConfig, fleet: Fleet, repository: Path, model: str, *, strict: bool = True) -> Survey:
    """Looks whether a reload would go well everywhere, before anything is changed.

    TensorFlow Serving waits for ever for a base path that is not there, and takes no other configuration meanwhile.

    Args:
        config: What would be reloaded.
        fleet: The servers.
        repository: The folder that stands for ``/models``.
        model: Whose views are wanted.
        strict: Whether one server that does not answer, or lacks a model, is a reason not to begin.

    Returns:
        What every server has of that model, and which of them cannot take part.

    Raises:
        CommandError: It would not.
    """
    for problem in missing_base_paths(config, repository):
        raise CommandError(f"nothing was changed: {problem}")
    labels = sorted({STABLE, CANARY, *config.desired(model).labels})
    views = fleet.views({name: labels if name == model else () for name in config.models})
    reasons: dict[str, str] = {}
    for name, of_model in views.items():
        for address, view in of_model.items():
            if reason := unfit(config, name, view):
                reasons.setdefault(address, reason)
    if reasons and strict:
        told = "; ".join(f"{address} {reason}" for address, reason in reasons.items())
        raise CommandError(f"nothing was changed: {told}. Start or mend it, or leave it out of --servers")
    return Survey(views[model], reasons)


def adopt(model: str, desired: Desired, views: Views, without: int = -1) -> Plan:
    """Names what is served now ``stable``, and keeps it loaded whatever else appears in the repository.

    Args:
        model: The model.
        desired: What is desired of it.
        views: What the servers have of it.
        without: A version that is to become something else.
    """
    if STABLE in desired.labels and desired.versions is not None:
        return Plan(model, desired, desired)
    everywhere = set.intersection(*(view.available() for view in views.values()))
    if desired.versions is not None:
        everywhere &= desired.versions
    if everywhere and STABLE not in desired.labels and not everywhere - {without}:
        raise CommandError(
            f"version {without} of {model} is the only one that is served, so there is nothing beside which to try it; "
            f"`mien rollout adopt {model}` makes it stable"
        )
    everywhere -= {without}
    stable = desired.labels.get(STABLE, max(everywhere, default=None))
    if stable is None:
        states = "; ".join(
            f"{address} has {', '.join(f'{version} {state}' for version, state in view.versions.items())}"
            for address, view in views.items()
        )
        raise CommandError(f"no version of {model} is AVAILABLE on every server: {states}; mend that first")
    versions = desired.versions if desired.versions is not None else frozenset(everywhere)
    return Plan(
        model,
        desired,
        Desired(versions | {stable}, {**desired.labels, STABLE: stable}),
        (
            f"Until now the servers chose what {model} is; from now on version {stable} is stable until you promote "
            "another. The Python client asks for the label stable by itself; other callers must name it, as requests "
            "without a label go to the highest version that is loaded, a canary too.",
        ),
    )


def canary(
    model: str, version: int, desired: Desired, views: Views, folder: Path, *, move_unlabelled: bool = False
) -> Plan:
    """Loads a version beside the stable one and names it ``canary``.

    Args:
        model: The model.
        version: The version to try.
        desired: What is desired of the model.
        views: What the servers have of it.
        folder: Its folder in the repository.
        move_unlabelled: Whether callers that name neither a version nor a label may move to the canary.
    """
    _repository.check_version(folder, version)
    other = desired.labels.get(CANARY, version)
    if other != version:
        raise CommandError(
            f"version {other} of {model} is the canary; `mien rollout promote {model}` makes it stable, "
            f"`mien rollout abort {model}` takes it back"
        )
    if desired.labels.get(STABLE) == version:
        raise CommandError(f"version {version} of {model} is stable already; name another one")
    adopted = adopt(model, desired, views, without=version)
    assert adopted.after.versions is not None
    after = Desired(adopted.after.versions | {version}, {**adopted.after.labels, CANARY: version})
    notes = _unlabelled_callers(version, views, move=move_unlabelled)
    return Plan(model, desired, after, (*notes, *adopted.notes))


def _unlabelled_callers(version: int, views: Views, *, move: bool) -> tuple[str, ...]:
    """Say who gets a version without asking for it: whoever names neither a version nor a label, if it is the highest.

    Raises:
        CommandError: There are such callers, and they must not move.
    """
    below = {address: view for address, view in views.items() if version > max(view.available(), default=-1)}
    if not below:
        return ()
    told = f"ALL callers that name neither a version nor a label move to version {version} as soon as it is loaded"
    counted = {address: view.unlabelled for address, view in below.items() if view.unlabelled}
    shortest = min((seconds for _, seconds in counted.values()), default=0.0)
    if seen := {address: requests for address, (requests, _) in counted.items() if requests}:
        span = _repository.age(max(counted[address][1] for address in seen))
        told += f": {sum(seen.values()):,} such requests in the last {span} on {', '.join(seen)}"
        if not move:
            raise CommandError(
                f"nothing was changed: {told}. Have them ask for the label {STABLE}, as the Python client does by "
                "itself, or move them with --move-unlabelled"
            )
        return (f"{told}.",)
    if uncounted := below.keys() - counted.keys():
        servers = ", ".join(sorted(uncounted))
        return (f"{told}. TensorFlow Serving does not count such requests, so {servers} cannot say if there are any.",)
    if shortest < _ENOUGH_S:
        return (f"{told}. There were none in the {shortest:.0f} s for which the servers have counted them.",)
    return (
        f"In the last {_repository.age(shortest)} all callers named a label or a version, so none moves by itself.",
    )


def promote(model: str, desired: Desired, entries: Iterable[Entry], *, force: bool) -> Plan:
    """Makes the canary stable; the version that was stay loaded, so that a rollback takes no time."""
    target = desired.labels.get(CANARY)
    if target is None:
        begun = _journal.unfinished(entries)
        if begun and begun["verb"] == "promote" and begun["after"]["labels"] == dict(desired.labels):
            return Plan(model, desired, desired, (_FINISHES,))
        done = _journal.last_move(entries, desired.labels.get(STABLE))
        if done and done["verb"] == "promote":
            return Plan(model, desired, desired, (f"{_told(done)}; this makes sure of it.",))
        raise CommandError(
            f"{model} has no canary ({desired}); `mien rollout canary {model} VERSION` tries a version, "
            "and what is tried can be promoted"
        )
    stable = desired.labels.get(STABLE)
    if not force:
        check_compared(model, stable, target, entries)
    labels = {label: version for label, version in desired.labels.items() if label != CANARY}
    notes = ("Forced: no passing comparison is asked for.",) if force else ()
    return Plan(model, desired, Desired(desired.versions, {**labels, STABLE: target}), notes)


def check_compared(model: str, stable: int | None, target: int, entries: Iterable[Entry]) -> None:
    """Refuses a version unless the last comparison of exactly these two passed.

    Raises:
        CommandError: There was none, or it did not.
    """
    compared = None
    for entry in entries:
        if entry["verb"] == "compare" and entry.get("stable") == stable and entry.get("canary") == target:
            compared = entry
    hint = f"run `mien rollout compare {model} --data FILE`, or add --force and --why"
    if compared is None:
        raise CommandError(f"versions {stable} and {target} of {model} were never compared: {hint}")
    if not compared.get("passed"):
        failed = ", ".join(compared.get("failed_gates", ())) or "its gates"
        raise CommandError(f"version {target} of {model} failed {failed} when it was compared with {stable}: {hint}")


def abort(model: str, desired: Desired, entries: Iterable[Entry]) -> Plan:
    """Takes the canary back: no label, not loaded. So is one that was begun and not finished."""
    if desired.versions is None:
        raise CommandError(f"{model} has no canary: the servers choose which versions they load")
    labels = {label: version for label, version in desired.labels.items() if label != CANARY}
    going = {version for label, version in desired.labels.items() if label == CANARY}
    begun = _journal.unfinished(entries)
    if begun and begun["verb"] in ("canary", "abort"):
        going |= set(begun["after"]["versions"]) ^ set(begun["before"]["versions"] or ())
    gone = frozenset(going - set(labels.values()))
    notes = () if going else (f"{model} has no canary.",)
    return Plan(model, desired, Desired(desired.versions - gone, labels), notes, gone)


def rollback(
    model: str, to: int | None, desired: Desired, entries: Iterable[Entry], folder: Path, *, force: bool = False
) -> Plan:
    """Makes the version stable that was so before, and unloads what took its place.

    Args:
        model: The model.
        to: Another version to go back to.
        desired: What is desired of the model.
        entries: Of the journal.
        folder: The model's folder in the repository.
        force: Whether that version may be one that never was stable, or failed its comparison.
    """
    stable = desired.labels.get(STABLE)
    if desired.versions is None or stable is None:
        raise CommandError(f"no version of {model} was ever made stable ({desired}): there is nothing to go back from")
    begun = _journal.unfinished(entries)
    if begun and begun["verb"] == "rollback" and to in (None, begun["after"]["labels"][STABLE]):
        gone = frozenset(begun["before"]["versions"] or ()) - frozenset(begun["after"]["versions"])
        return Plan(model, desired, Desired.read(begun["after"]), (_FINISHES,), gone)
    done = _journal.last_move(entries, stable)
    target: int | None = to
    notes: tuple[str, ...] = ()
    if to is None and done and done["verb"] == "rollback":
        target, notes = stable, (_again(model, done, entries, folder),)
    elif to is None:
        target, notes = _before(model, stable, entries, folder)
    if target is None:
        hint = f"; `mien rollout abort {model}` takes the canary back" if CANARY in desired.labels else ""
        raise CommandError(
            f"{_nothing_before(model, stable, entries)}{hint}; name another version with --to, if you know better"
        )
    _repository.check_version(folder, target)
    if target != stable and not force:
        _check_good(model, target, entries)
    labels = {label: version for label, version in desired.labels.items() if label != CANARY} | {STABLE: target}
    bad = {stable, desired.labels.get(CANARY, stable)} - {*labels.values()}
    return Plan(model, desired, Desired((desired.versions | {target}) - bad, labels), notes)


def _nothing_before(model: str, stable: int, entries: Iterable[Entry]) -> str:
    """Why there is no version to go back to."""
    if before := _journal.stable_before(entries, stable):
        return f"all versions of {model} that were stable before {stable} have been deleted: {_numbers(before)}"
    return f"no version of {model} was stable before {stable}"


def _check_good(model: str, target: int, entries: Iterable[Entry]) -> None:
    """Refuses to go back to a version of which nothing good is known.

    Raises:
        CommandError: It never was stable, or it failed its comparison.
    """
    hint = "add --force to go there all the same"
    if target not in _journal.ever_stable(entries):
        raise CommandError(f"version {target} of {model} never was stable: {hint}")
    if failed := _journal.failed_comparison(entries, target):
        gates = ", ".join(failed.get("failed_gates", ())) or "its gates"
        raise CommandError(
            f"version {target} of {model} failed {gates} when it was compared with {failed.get('stable')}: {hint}, or "
            "name another version with --to"
        )


def _numbers(versions: Iterable[int]) -> str:
    return " and ".join(map(str, versions))


def _told(done: Entry) -> str:
    """What somebody, or the same command, has done already."""
    before, after = (done[side]["labels"].get(STABLE) for side in ("before", "after"))
    return f"{done['who']} has moved stable from {before} to {after} already, at {done['time'][:19]}"


def _again(model: str, done: Entry, entries: Iterable[Entry], folder: Path) -> str:
    """What to say to whoever rolls back what was rolled back already."""
    stable = done["after"]["labels"][STABLE]
    further = _before(model, stable, entries, folder)[0]
    told = f"{_told(done)}; this makes sure of it"
    if further is None:
        return f"{told}. If {stable} is bad, too: {_nothing_before(model, stable, entries)}."
    return f"{told}. If {stable} is bad, too: mien rollout rollback {model} --to {further}"


def _before(model: str, stable: int, entries: Iterable[Entry], folder: Path) -> tuple[int | None, tuple[str, ...]]:
    """The version to go back to: the last one that was stable and is still there; and what to know of it."""
    before = _journal.stable_before(entries, stable)
    there = set(_repository.versions(folder))
    target = next((version for version in before if version in there), None)
    deleted = before[: before.index(target)] if target is not None else []
    if not deleted:
        return target, ()
    gone = _numbers(deleted)
    return target, (f"What was stable last, {gone}, has been deleted; version {target} of {model} was so before it.",)


def retire(
    model: str, versions: Sequence[int], desired: Desired, views: Views, folder: Path, entries: Iterable[Entry]
) -> Plan:
    """Unloads versions that no label names."""
    if desired.versions is None:
        raise CommandError(
            f"the servers choose which versions of {model} they load; `mien rollout adopt {model}` first"
        )
    for version in versions:
        named = [label for label, labelled in desired.labels.items() if labelled == version]
        if named:
            raise CommandError(f"version {version} of {model} is {' and '.join(named)}: it cannot be retired")
    gone = frozenset(versions)
    held = {version for view in views.values() for version in view.held()}
    notes = []
    if strange := gone - held - desired.versions - set(_repository.versions(folder)):
        notes.append(f"There is no version {' nor '.join(map(str, sorted(strange)))} of {model} any more.")
    stable = desired.labels.get(STABLE)
    if stable is not None and (way_back := _before(model, stable, entries, folder)[0]) in gone:
        notes.append(f"`mien rollout rollback {model}` would lead to version {way_back}, which you retire.")
    return Plan(model, desired, Desired(desired.versions - gone, desired.labels), tuple(notes), gone)


def left_out(entries: Iterable[Entry], servers: Collection[str]) -> dict[str, str]:
    """Return the servers that took part in the last change of a model and are not named now, with a clause on each."""
    last = _journal.last_fleet(entries)
    if last is None:
        return {}
    told = (
        f"took part in `{last['verb']}` at {last['time'][:19]} but is not among --servers, so it keeps what it has; "
        f"name it too, or run `mien rollout apply {last['model']}` if it is gone for good"
    )
    return {address: told for address in last["servers"] if address not in servers}


def apply(model: str, desired: Desired, views: Views, entries: Iterable[Entry]) -> Plan:
    """Makes the servers agree with the file."""
    if desired.versions is None:
        raise CommandError(
            f"the servers choose which versions of {model} they load; `mien rollout adopt {model}` first"
        )
    held = frozenset(version for view in views.values() for version in view.held())
    begun = _journal.unfinished(entries)
    notes = (f"{begun['verb']}, begun by {begun['who']}, is not finished by this: run that again.",) if begun else ()
    return Plan(model, desired, desired, notes, held - desired.versions)
