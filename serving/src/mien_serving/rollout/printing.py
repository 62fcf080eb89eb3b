"""What verbs report and find, as text on a terminal."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mien_client.contract import CANARY_LABEL, EMOTION_MODEL, STABLE_LABEL

from mien_serving.rollout.requests import P99_GATE
from mien_serving.rollout.state.journal import BEGUN, Entry
from mien_serving.rollout.wording import duration

CLEAR: Final = "\x1b[H\x1b[2J\x1b[3J"
"""Clears a terminal."""

_MOST_COLUMNS: Final = 4
"""With more servers than these, the states are counted; those that disagree are listed below the table anyway."""


def all_agree(document: Mapping[str, Any]) -> bool:
    """Return whether every server agrees with ``models.config``, which every server could take."""
    disagree = any(model["disagreements"] for model in document["models"].values())
    return not disagree and not document.get("problems")


def status(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the document of `overview` as lines for people."""
    for name, model in document["models"].items():
        wanted = model["desired"]["versions"]
        loaded = "the servers' choice" if wanted is None else ", ".join(map(str, wanted)) or "none"
        labels = ", ".join(
            f"{label} {version}" for label, version in sorted(model["desired"]["labels"].items(), reverse=True)
        )
        heading = f"{name}: {labels or 'no labels'}; loaded {loaded}"
        if CANARY_LABEL in model["desired"]["labels"]:
            heading += f"; {model['canary_percent']:g}% of calls to the canary"
        yield f"{heading}\n"
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
            age = "" if facts.get("age_s") is None else duration(facts["age_s"])
            rows.append((version, " ".join(facts["labels"]), here, *states, age, metrics, facts.get("data", "")))
        yield from table(rows)
        for disagreement in model["disagreements"]:
            yield f"  ! {disagreement}\n"
        if model.get("in_progress"):
            yield f"  in progress: {model['in_progress']}\n"
        if model["unfinished"]:
            yield f"  ! unfinished: {model['unfinished']}; run it again\n"
        yield "\n"
    for damage in (document.get("journal_damage"), document.get("split_damage")):
        if damage:
            yield f"{damage}.\n"
    for problem in document.get("problems", ()):
        yield f"! {problem}\n"
    if document.get("problems"):
        yield "No server could take this configuration, so `mien rollout apply` would change nothing.\n"
        return
    if any(model.get("in_progress") for model in document["models"].values()):
        yield f"A rollout is in progress: until it has finished, servers may differ from {document['config']}.\n"
        return
    count = len(document["servers"])
    who = "The server agrees" if count == 1 else f"All {count} servers agree"
    yield (
        f"{who} with {document['config']}.\n"
        if all_agree(document)
        else f"Not every server agrees with {document['config']}: repair what is marked !, then `mien rollout apply`.\n"
    )


def table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield rows in columns, two spaces apart; columns with nothing below their header are omitted.

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


def comparison(document: Mapping[str, Any], report: Path | None = None) -> list[str]:
    """Return a comparison as lines for people.

    Args:
        document: The comparison, as `Comparison.document` returns it.
        report: Where the report was written.
    """
    figures, model = document["figures"], document["model"]
    unit = "" if model == EMOTION_MODEL else " px"
    lines = [
        f"{model}: stable {document['stable']} and canary {document['canary']} on {document['faces']} faces of "
        f"{document['source']}\n"
    ]
    rows = [("", "STABLE", "CANARY")]
    for name, key, form in (
        ("accuracy", "accuracy", "{:.4f}"),
        ("p50", "p50_ms", "{:.1f} ms"),
        ("p99", "p99_ms", "{:.1f} ms"),
        ("errors", "errors", "{}"),
    ):
        if f"{key}_stable" in figures:
            rows.append((name, form.format(figures[f"{key}_stable"]), form.format(figures[f"{key}_canary"])))
    lines += table(rows)
    if "drift" in figures:
        lines.append(f"  drift {figures['drift']:.3g}{unit} on average, {figures['largest_drift']:.3g}{unit} at most\n")
    lines += [f"  ! {error}\n" for error in document["errors"][:5]]
    lines += [f"Note: {note}\n" for note in document["notes"][:5]]
    lines += table(
        [("GATE", "FIGURE", "LIMIT", "")]
        + [
            (gate["name"], f"{gate['figure']:.4g}", f"{gate['limit']:g}", "passed" if gate["passed"] else "FAILED")
            for gate in document["gates"]
        ]
    )
    if report:
        lines.append(f"See {report}.\n")
    if document["passed"]:
        return [*lines, f"Passed. Next: mien rollout promote {model}\n"]
    failed = [gate["name"] for gate in document["gates"] if not gate["passed"]]
    lines.append(f"FAILED: {', '.join(failed)}. To remove the canary: mien rollout abort {model}\n")
    if failed == [P99_GATE]:
        lines.append("The p99 is the slowest face in a hundred: on busy servers, ask about more faces (--limit).\n")
    return lines


class HistoryRows:
    """The table of a journal: a header, and a row for each change. It is made again for each iteration.

    Attributes:
        any: Whether the journal has an entry.
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
        yield "TIME", "WHO", "MODEL", "CHANGE", "RESULT", "WHY"
        for entry in self._entries:
            if entry["event"] != BEGUN or entry.get("id") in self._unfinished:
                time = entry["time"][:19].replace("T", " ")
                yield time, entry["who"], entry["model"], _what(entry), _ended(entry), entry.get("why", "")


def _what(entry: Entry) -> str:
    verb = str(entry["verb"])
    if verb == "publish":
        return f"publish {entry.get('version', '')}".rstrip()
    if verb == "compare":
        return f"compare {entry.get('stable')} with {entry.get('canary')}"
    before, after = (entry.get(side) or {} for side in ("before", "after"))
    percent = entry.get("percent")
    share = [f"share {percent['before']:g}% to {percent['after']:g}%"] if percent else []
    changes = share + [
        f"{label} {old if old is not None else '-'} to {new if new is not None else '-'}"
        for label in (STABLE_LABEL, CANARY_LABEL)
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
        return f"{'unfinished' if entry.get('resume') else 'reverted'}: {entry.get('detail', '')}"
    without, left_out = entry.get("without"), entry.get("left_out")
    result = f"done without {', '.join(without)}" if without else "done"
    return f"{result}, left out {', '.join(left_out)}" if left_out else result


def _numbers(versions: Collection[int]) -> str:
    return ", ".join(map(str, sorted(versions)))


def _short(state: str) -> str:
    """Return a state without its error; ``-`` for a version that ended without one."""
    if state.startswith("END"):
        return "FAILED" if "(" in state else "-"
    return state or "-"
