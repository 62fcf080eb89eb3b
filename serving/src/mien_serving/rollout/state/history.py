"""What the journal tells about a model's past."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mien_client.contract import STABLE_LABEL

from mien_serving.rollout.state.journal import BEGUN, DONE, Entry


def unfinished(entries: Iterable[Entry]) -> Entry | None:
    """Return the last change of a model, if it neither ended nor was reverted, because its process has died.

    An ``apply`` since then does not finish it.
    """
    last = None
    for entry in entries:
        if "after" in entry and entry["verb"] != "apply":
            last = entry
    return last if last and (last["event"] == BEGUN or last.get("resume")) else None


def last_move(entries: Iterable[Entry], now: int | None) -> Entry | None:
    """Return the change that made version ``now`` stable, if the journal has it."""
    last = None
    for entry in entries:
        if "after" in entry and entry["event"] == DONE and _stable(entry, "before") != _stable(entry, "after"):
            last = entry
    return last if last and _stable(last, "after") == now else None


def ever_stable(entries: Iterable[Entry]) -> set[int]:
    """Return every version that a model's label ``stable`` has named, according to the journal."""
    found: set[int | None] = set()
    for entry in entries:
        if "after" in entry:
            found |= {_stable(entry, "before"), _stable(entry, "after") if entry["event"] == DONE else None}
    return {version for version in found if version is not None}


def failed_comparison(entries: Iterable[Entry], version: int) -> Entry | None:
    """Return the comparison that a version failed, if it did.

    The last comparison before the version was promoted counts: losing against a better version later does not matter.
    """
    last = verdict = None
    promoted = False
    for entry in entries:
        if entry["verb"] == "compare" and entry.get("canary") == version:
            last = entry
        elif entry["verb"] == "promote" and entry["event"] == DONE and _stable(entry, "after") == version:
            verdict, promoted = last, True
    counts = verdict if promoted else last
    return counts if counts and not counts.get("passed") else None


def last_fleet(entries: Iterable[Entry]) -> Entry | None:
    """Return the last change that was carried out, if the journal has the servers that took part in it."""
    last = None
    for entry in entries:
        if "after" in entry and entry["event"] == DONE:
            last = entry
    return last if last and "servers" in last else None


def _stable(entry: Entry, side: str) -> int | None:
    """Return the version that was stable before or after a change, if there was one."""
    labels: Mapping[str, int] = entry.get(side, {}).get("labels", {})
    return labels.get(STABLE_LABEL)


def stable_before(entries: Iterable[Entry], now: int) -> list[int]:
    """Return the versions that were stable before the current one, the latest first.

    A rollback removes the version that it rolls back: two in a row go back two steps. A change whose end is not in the
    journal, because its process died or somebody edited models.config, shows in what the next change began from; if it
    led to an earlier version, it counts as a rollback.

    Args:
        entries: The entries of one model.
        now: The version that is stable now.
    """
    history: list[int] = []

    def moved(version: int | None, *, back: bool) -> None:
        if version is None or version in history[-1:]:
            return
        if back and version in history:
            del history[len(history) - history[::-1].index(version) :]
        else:
            history.append(version)

    for entry in entries:
        if "after" not in entry:
            continue
        moved(_stable(entry, "before"), back=True)
        if entry["event"] == DONE:
            moved(_stable(entry, "after"), back=entry["verb"] == "rollback")
    moved(now, back=True)
    return history[-2::-1]
