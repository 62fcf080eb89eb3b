"""What is served where: models.config, the repository and every server side by side; and the journal."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mien_client.cli import CommandError

from mien_serving.rollout import _lock, _plan, _repository
from mien_serving.rollout._changes import lock_path
from mien_serving.rollout._configmap import ConfigMap
from mien_serving.rollout._fleet import END, Fleet, View
from mien_serving.rollout._journal import BEGUN, Entry, Journal, unfinished
from mien_serving.rollout._models_config import CANARY, STABLE, Desired, ModelsConfig

_CLEAR = "\x1b[H\x1b[2J\x1b[3J"

_MOST_COLUMNS = 4
"""Of more servers than these the states are counted; those that disagree are named below the table all the same."""


def status(arguments: argparse.Namespace) -> int:
    """Prints what is served where; the exit status is 1 if a server does not agree with models.config, or could not."""
    with Fleet(arguments.servers, arguments.timeout) as fleet:
        while True:
            document = look(arguments.config, arguments.repository, fleet, arguments.servers)
            text = json.dumps(document, indent=2) + "\n" if arguments.json else "".join(render(document))
            sys.stdout.write(_CLEAR + text if arguments.watch and sys.stdout.isatty() else text)
            sys.stdout.flush()
            if not arguments.watch:
                return 1 if _wrong(document) else 0
            time.sleep(arguments.watch)


def look(config_file: Path | ConfigMap, repository: Path, fleet: Fleet, servers: Collection[str]) -> dict[str, Any]:
    """Looks at everything once.

    Args:
        config_file: models.config.
        repository: The folder that stands for ``/models``.
        fleet: The servers.
        servers: How the operator names them.

    Returns:
        A document: for each model what is desired, its versions in the repository and on every server, the labels on
        every server, what disagrees, what is in progress, and what was begun and not finished; and what is wrong with
        the configuration itself, so that no server could take it.

    Raises:
        CommandError: models.config or the repository cannot be read.
    """
    config = ModelsConfig.read(config_file)
    journal = Journal(repository)
    desired = {model: config.desired(model) for model in config.models}
    views = fleet.views({model: sorted({STABLE, CANARY, *state.labels}) for model, state in desired.items()})
    holder = _lock.holder(lock_path(repository))
    models: dict[str, Any] = {}
    for model, state in desired.items():
        entries = journal.entries(model)
        document = _look_at(state, config.folder(model, repository), views[model], entries)
        stored = _repository.version_folders(config.folder(model, repository))
        document["disagreements"] = [
            *(_repository.ambiguity(version, found) for version, found in stored.items() if len(found) > 1),
            *(f"{address} {reason}" for address, reason in _plan.left_out(entries, servers).items()),
            *(
                f"{address} {problem}"
                for address, view in views[model].items()
                for problem in _disagreements(config, model, state, view, views[model])
            ),
        ]
        document["in_progress"] = _in_progress(model, holder)
        if document["in_progress"]:
            document["unfinished"] = ""
        models[model] = document
    return {
        "config": str(config_file),
        "repository": str(repository),
        "servers": [server.address for server in fleet.servers],
        "problems": _plan.missing_base_paths(config, repository),
        "models": models,
        "journal_damage": journal.damage(),
    }


def _look_at(desired: Desired, folder: Path, views: Mapping[str, View], entries: Iterable[Entry]) -> dict[str, Any]:
    stored = _repository.version_folders(folder)
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
                **_repository.facts(stored.get(version, [folder / str(version)])[0]),
            }
            for version in sorted({*stored, *held, *failed, *(desired.versions or ())})
        },
        "servers": {address: {"error": view.error, "labels": dict(view.labels)} for address, view in views.items()},
        "unfinished": f"{_command(begun)}, begun by {begun['who']} at {begun['time'][:19]}" if begun else "",
    }


def _disagreements(
    config: ModelsConfig, model: str, desired: Desired, view: View, views: Mapping[str, View]
) -> Iterable[str]:
    """Why a server cannot take the configuration, or else what it has otherwise."""
    reason = _plan.unfit(config, model, view)
    return [reason] if reason else disagreements(desired, view, views)


def _in_progress(model: str, holder: Mapping[str, Any] | None) -> str:
    """What somebody does with a model now, who, and for how long."""
    if holder is None or holder["doing"].split()[1:2] != [model]:
        return ""
    age = _repository.age(max(0.0, time.time() - holder["since"]))
    return f"{holder['doing']}, by {holder['who']} (process {holder['pid']}), for {age}"


def _wrong(document: Mapping[str, Any]) -> bool:
    """Whether `mien rollout apply` would have something to do, or to complain about."""
    return bool(document.get("problems")) or any(model["disagreements"] for model in document["models"].values())


def disagreements(desired: Desired, view: View, views: Mapping[str, View]) -> Iterator[str]:
    """What a server has that is not desired, or has not and ought to; a clause each, without the server's name."""
    if view.error:
        yield view.error
        return
    wanted = desired.versions
    if wanted is None:  # The servers choose; then they ought to choose the same.
        wanted = frozenset(version for other in views.values() for version in other.available())
    for version in sorted(wanted - view.available()):
        yield f"has version {version} {view.versions.get(version, 'not at all')}"
    for version in sorted(view.held() - wanted):
        yield f"has version {version} {view.versions[version]}, which is not wanted"
    for label in sorted({STABLE, CANARY, *desired.labels}):
        if view.labels.get(label) != desired.labels.get(label):
            told = view.labels.get(label, "no version")
            yield f"gives {label} to {told}, not to {desired.labels.get(label, 'none')}"


def render(document: Mapping[str, Any]) -> Iterator[str]:
    """Yields the document as lines for people."""
    for name, model in document["models"].items():
        wanted = model["desired"]["versions"]
        policy = f"loaded {', '.join(map(str, wanted)) or 'none'}" if wanted is not None else "the servers' choice"
        labels = ", ".join(
            f"{label} {version}" for label, version in sorted(model["desired"]["labels"].items(), reverse=True)
        )
        yield f"{name}: {labels or 'no labels'}; {policy}\n"
        servers = document["servers"]
        many = len(servers) > _MOST_COLUMNS
        columns = [f"{len(servers)} SERVERS"] if many else servers
        rows = [("VERSION", "LABEL", "REPOSITORY", *columns, "AGE", "METRICS", "DATA")]
        for version, facts in model["versions"].items():
            states = [
                "?" if model["servers"][address]["error"] else _short(facts["servers"][address]) for address in servers
            ]
            if many:
                states = [", ".join(f"{count} {state}" for state, count in Counter(states).most_common())]
            here = "yes" if facts["in_repository"] else "NO"
            metrics = " ".join(f"{metric} {value:.3g}" for metric, value in facts.get("metrics", {}).items())
            age = "" if facts.get("age_s") is None else _repository.age(facts["age_s"])
            rows.append((version, " ".join(facts["labels"]), here, *states, age, metrics, facts.get("data", "")))
        yield from table(rows)
        for disagreement in model["disagreements"]:
            yield f"  ! {disagreement}\n"
        if model.get("in_progress"):
            yield f"  in progress: {model['in_progress']}\n"
        if model["unfinished"]:
            yield f"  ! unfinished: {model['unfinished']}; run it again\n"
        yield "\n"
    if damage := document.get("journal_damage"):
        yield f"{damage}\n"
    for problem in document.get("problems", ()):
        yield f"! {problem}\n"
    if document.get("problems"):
        yield "no server could take this configuration, so `mien rollout apply` would change nothing\n"
        return
    if any(model.get("in_progress") for model in document["models"].values()):
        yield f"a rollout is in progress: until it has ended, servers need not agree with {document['config']}\n"
        return
    wrong = _wrong(document)
    count = len(document["servers"])
    who = "the server agrees" if count == 1 else f"all {count} servers agree"
    yield (
        f"{who} with {document['config']}\n"
        if not wrong
        else (f"not every server agrees with {document['config']}: mend what is marked !, then `mien rollout apply`\n")
    )


def table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yields rows in columns, two blanks apart; columns with nothing below their header are left out.

    Args:
        rows: The header, then the rows; iterated over twice.
    """
    header, *_ = itertools.islice(rows, 1)
    widths = [0] * len(header)
    for row in itertools.islice(rows, 1, None):
        widths = [max(width, len(cell)) for width, cell in zip(widths, row, strict=True)]
    columns = [column for column, width in enumerate(widths) if width]
    widths = [max(width, len(name)) for width, name in zip(widths, header, strict=True)]
    for row in rows:
        yield "  " + "  ".join(f"{row[column]:<{widths[column]}}" for column in columns).rstrip() + "\n"


def _short(state: str) -> str:
    """A state without its error, and without an END that is none."""
    if state.startswith(END):
        return "FAILED" if "(" in state else "-"
    return state or "-"


def history(arguments: argparse.Namespace) -> int:
    """Prints the journal."""
    journal = Journal(arguments.repository)
    entries = journal.entries(arguments.model)
    if arguments.json:
        for entry in entries:
            sys.stdout.write(json.dumps(entry, ensure_ascii=False) + "\n")
    else:
        rows = _HistoryRows(entries)
        if not rows.any:
            raise CommandError(
                journal.damage()
                or f"{journal.path} holds nothing{f' of {arguments.model}' if arguments.model else ''} yet"
            )
        sys.stdout.writelines(table(rows))
    if journal.skipped:
        sys.stderr.write(f"mien rollout: {journal.damage()}\n")
    return 0


class _HistoryRows:
    """The table of a journal, made anew for each iteration: a header, and a row for each change that ended or did not.

    Attributes:
        any: Whether there is a row.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = entries
        self._unfinished: set[object] = set()
        self.any = False
        for entry in entries:
            self.any = True
            change = self._unfinished.add if entry["event"] == BEGUN else self._unfinished.discard
            change(entry.get("id"))

    def __iter__(self) -> Iterator[Sequence[str]]:
        yield "TIME", "WHO", "MODEL", "WHAT", "HOW IT ENDED", "WHY"
        for entry in self._entries:
            if entry["event"] != BEGUN or entry.get("id") in self._unfinished:
                time = entry["time"][:19].replace("T", " ")
                yield time, entry["who"], entry["model"], _what(entry), _ended(entry), entry.get("why", "")


def _command(entry: Entry) -> str:
    """What to run again."""
    words = [f"mien rollout {entry['verb']} {entry['model']}"]
    if entry["verb"] == "canary":
        words.append(str(entry["after"]["labels"][CANARY]))
        words += ["--move-unlabelled"] if entry.get("move_unlabelled") else []
    if entry["verb"] == "retire":
        words += map(str, entry.get("gone", ()))
        words += ["--delete"] if entry.get("delete") else []
    return " ".join(words)


def _what(entry: Entry) -> str:
    verb = str(entry["verb"])
    if verb == "publish":
        return f"publish {entry.get('version', '')}".rstrip()
    if verb == "compare":
        return f"compare {entry.get('stable')} with {entry.get('canary')}"
    before, after = (entry.get(side) or {} for side in ("before", "after"))
    changes = [
        f"{label} {old if old is not None else '-'} to {new if new is not None else '-'}"
        for label in (STABLE, CANARY)
        if (old := before.get("labels", {}).get(label)) != (new := after.get("labels", {}).get(label))
    ]
    gone = {*(before.get("versions") or ()), *entry.get("gone", ())} - set(after.get("versions") or ())
    if gone and after:
        changes.append(f"{'delete' if entry.get('delete') else 'unload'} {_numbers(gone)}")
    return f"{verb}{': ' if changes else ''}{', '.join(changes)}"


def _ended(entry: Entry) -> str:
    if entry.get("event") == BEGUN:
        return "not finished"
    if entry["verb"] == "compare":
        return "passed" if entry.get("passed") else f"failed {', '.join(entry.get('failed_gates', ()))}"
    if entry.get("event") == "failed":
        return f"{'unfinished' if entry.get('resume') else 'taken back'}: {entry.get('detail', '')}"
    without, left_out = entry.get("without"), entry.get("left_out")
    told = f"done without {', '.join(without)}" if without else "done"
    return f"{told}, left out {', '.join(left_out)}" if left_out else told


def _numbers(versions: Collection[int]) -> str:
    return ", ".join(map(str, sorted(versions)))
