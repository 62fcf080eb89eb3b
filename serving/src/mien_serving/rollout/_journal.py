"""The journal: who changed what, when and why. It lies next to the repository and is only ever appended to."""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from mien_client.cli import CommandError
from mien_client.reading import MEBIBYTE, open_regular, parse_json

from mien_serving.core.source import MAX_VERSION
from mien_serving.rollout._models_config import CANARY, STABLE

Entry = Mapping[str, Any]
"""One line: ``time``, ``who``, ``verb``, ``model``, ``event`` and, by verb, ``before``, ``after``, ``why``, …"""

BEGUN, DONE, FAILED = "begun", "done", "failed"

_LINE_LIMIT: Final = MEBIBYTE
"""Longest line in bytes that can be an entry; real ones have some hundred."""


def whoami() -> str:
    """The user and the machine, as ``user@host``; behind sudo, the one who has called it."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


class Journal:
    """JSON lines, each written and synced in one step.

    Args:
        repository: The model repository; the journal of ``models`` is ``models.journal`` beside it.

    Attributes:
        path: The file.
        skipped: Number of damaged lines that were found when the entries were last read to the end.
    """

    def __init__(self, repository: Path) -> None:
        repository = repository.absolute()
        self.path = repository.with_name(f"{repository.name}.journal")
        self.skipped = 0

    def entries(self, model: str = "") -> Iterable[Entry]:
        """Return all entries, of one model if named, in the order in which they were written.

        The file is read anew, line by line, each time the entries are iterated over, so that a large journal does not
        fill the memory. Lines that are not entries, such as one that a crash cut short, are skipped and counted in
        `skipped`.

        Raises:
            CommandError: On iteration: the file is there but cannot be read.
        """
        return _Entries(self, model)

    def damage(self) -> str:
        """Return a sentence on the lines that were skipped when the entries were last read; empty if there are none."""
        if not self.skipped:
            return ""
        lines = "1 damaged line was" if self.skipped == 1 else f"{self.skipped} damaged lines were"
        return f"{self.path}: {lines} skipped"

    def append(self, verb: str, model: str, event: str, **facts: Any) -> Entry:
        """Adds an entry and returns it.

        Raises:
            CommandError: The disk refused; the journal is as it was.
        """
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "who": whoami(),
            "verb": verb,
            "model": model,
            "event": event,
            **{name: fact for name, fact in facts.items() if fact not in ("", None)},
        }
        # An argument that is not UTF-8 holds surrogates, which only escapes can express; JSON has the same ones.
        line = json.dumps(entry, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        try:
            descriptor = open_regular(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line  # Behind a line that a crash cut short.
                if os.write(descriptor, line) != len(line):
                    os.ftruncate(descriptor, size)
                    raise OSError(28, "No space left on device")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise CommandError(f"{self.path} cannot be written: {error.strerror}") from None
        return entry

    def begin(self, verb: str, model: str, **facts: Any) -> Action:
        """Notes that something begins; how it ended is noted by the `Action`."""
        action = Action(self, verb, model, secrets.token_hex(4))
        self.append(verb, model, BEGUN, id=action.id, **facts)
        action.facts = facts
        return action


class _Entries:
    """The entries of a journal, read anew for each iteration."""

    def __init__(self, journal: Journal, model: str) -> None:
        self._journal = journal
        self._model = model

    def __iter__(self) -> Iterator[Entry]:
        path, skipped = self._journal.path, 0
        try:
            with os.fdopen(open_regular(path), "rb") as stream:
                for line in _lines(stream):
                    entry = _entry(line)
                    if entry is None:
                        skipped += 1
                    elif self._model in ("", entry["model"]):
                        yield entry
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}") from None
        self._journal.skipped = skipped


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines that are not blank; of a line that is too long to be an entry, only its beginning."""
    while line := stream.readline(_LINE_LIMIT + 1):
        rest = line
        while len(rest) > _LINE_LIMIT and not rest.endswith(b"\n"):
            rest = stream.readline(_LINE_LIMIT + 1)
        if line.strip():
            yield line


def _entry(line: bytes) -> Entry | None:
    """Return the entry on a line; None if the line is not one."""
    if len(line) > _LINE_LIMIT:
        return None
    try:
        entry = parse_json(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not entry.keys() >= _REQUIRED:
        return None
    if not all(_FIELDS[name](entry[name]) for name in _FIELDS.keys() & entry.keys()):
        return None
    return entry if _is_complete(entry) else None


def _is_complete(entry: Entry) -> bool:
    """Whether an entry holds what its verb always notes."""
    if entry["verb"] == "publish" and "version" not in entry:
        return False
    if "after" not in entry:
        return "before" not in entry
    if "before" not in entry or entry["after"]["versions"] is None:
        return False
    label = _LABEL.get(entry["verb"])
    return label is None or label in entry["after"]["labels"]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_version(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_VERSION


def _is_version_or_none(value: Any) -> bool:
    return value is None or _is_version(value)


def _is_version_list(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_version, value))


def _is_desired(value: Any) -> bool:
    if not isinstance(value, dict) or not value.keys() >= {"versions", "labels"}:
        return False
    versions, labels = value["versions"], value["labels"]
    return (
        (versions is None or _is_version_list(versions))
        and isinstance(labels, dict)
        and all(map(_is_version, labels.values()))
    )


_LABEL: Final = {"canary": CANARY, "adopt": STABLE, "promote": STABLE, "rollback": STABLE}
"""The label that exists after a change, by verb."""

_REQUIRED: Final = {"time", "who", "verb", "model", "event"}
_FIELDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    **dict.fromkeys((*_REQUIRED, "id", "why", "detail", "source", "manifest"), _is_text),
    **dict.fromkeys(("before", "after", "in_force"), _is_desired),
    "version": _is_version,
    "gone": _is_version_list,
    **dict.fromkeys(("stable", "canary"), _is_version_or_none),
    **dict.fromkeys(("failed_gates", "servers", "left_out"), _is_text_list),
    "without": lambda value: isinstance(value, dict),
}
"""What each field of an entry must hold, if it is there."""


class Action:
    """Something that has begun."""

    def __init__(self, journal: Journal, verb: str, model: str, identity: str) -> None:
        self.id = identity
        self.facts: Mapping[str, Any] = {}
        self._journal = journal
        self._verb = verb
        self._model = model

    def done(self, **facts: Any) -> None:
        """Notes that it has ended well."""
        self._journal.append(self._verb, self._model, DONE, id=self.id, **{**self.facts, **facts})

    def failed(self, **facts: Any) -> None:
        """Notes that it has failed, and what is in force."""
        self._journal.append(self._verb, self._model, FAILED, id=self.id, **{**self.facts, **facts})


def unfinished(entries: Iterable[Entry]) -> Entry | None:
    """The last change of a model, if it neither ended nor was taken back: the process that made it has died.

    That the servers have been made to agree since does not finish it.
    """
    last = None
    for entry in entries:
        if "after" in entry and entry["verb"] != "apply":
            last = entry
    return last if last and (last["event"] == BEGUN or last.get("resume")) else None


def last_move(entries: Iterable[Entry], now: int | None) -> Entry | None:
    """The change that has made the version stable that is so now, if the journal knows it."""
    last = None
    for entry in entries:
        if "after" in entry and entry["event"] == DONE and _stable(entry, "before") != _stable(entry, "after"):
            last = entry
    return last if last and _stable(last, "after") == now else None


def ever_stable(entries: Iterable[Entry]) -> set[int]:
    """Return every version that a model's label ``stable`` has named, as far as the journal knows."""
    found: set[int | None] = set()
    for entry in entries:
        if "after" in entry:
            found |= {_stable(entry, "before"), _stable(entry, "after") if entry["event"] == DONE else None}
    return {version for version in found if version is not None}


def failed_comparison(entries: Iterable[Entry], version: int) -> Entry | None:
    """Return the comparison that a version failed, if it did.

    The one that counts is the last one before the version was promoted: what is compared with a better one later was
    good enough once.
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
    """Return the last change that was carried out, if the journal knows which servers took part in it."""
    last = None
    for entry in entries:
        if "after" in entry and entry["event"] == DONE:
            last = entry
    return last if last and "servers" in last else None


def _stable(entry: Entry, side: str) -> int | None:
    """The version that was stable before or after a change, if there was one."""
    labels: Mapping[str, int] = entry.get(side, {}).get("labels", {})
    return labels.get(STABLE)


def stable_before(entries: Iterable[Entry], now: int) -> list[int]:
    """The versions that were stable before the one that is, the last one first.

    Rollbacks undo what they roll back: two in a row go back two steps, and what was rolled back is no longer among
    these. Changes that the journal does not know the end of, as their process died or somebody wrote models.config by
    hand, show in what the next change began from; one that led to a version from before was a way back, too.

    Args:
        entries: Of one model.
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
