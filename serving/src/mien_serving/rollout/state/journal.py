"""The journal: who changed what, when and why. It is next to the repository, and entries are only ever appended."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from mien_client.contract import CANARY_LABEL, STABLE_LABEL, journal_path
from mien_client.reading import MEBIBYTE, open_regular, parse_json
from mien_client.split import is_percentage

from mien_serving.core.source import MAX_VERSION
from mien_serving.repository.lock import whoami
from mien_serving.rollout.errors import RolloutError

Entry = Mapping[str, Any]
"""One line: ``time``, ``who``, ``verb``, ``model``, ``event`` and, depending on the verb, ``before``, ``after``, …"""

BEGUN, DONE, FAILED = "begun", "done", "failed"

_LINE_LIMIT: Final = MEBIBYTE
"""Maximum length of an entry in bytes; real ones have a few hundred."""


class Journal:
    """JSON lines, each written and flushed to disk in one step.

    Args:
        repository: The model repository; see `journal_path`.

    Attributes:
        path: The file.
        skipped: Number of damaged lines that were found when the entries were last read to the end.
    """

    def __init__(self, repository: Path) -> None:
        self.path = journal_path(repository)
        self.skipped = 0

    def entries(self, model: str = "") -> Iterable[Entry]:
        """Return all entries, or those of one model, in the order in which they were written.

        The file is read line by line, each time the entries are iterated over, so that a large journal does not fill
        the memory. Lines that are not entries, such as one that a crash cut short, are skipped and counted.

        Raises:
            RolloutError: On iteration, if the file exists but cannot be read.
        """
        return _Entries(self, model)

    def damage(self) -> str:
        """Return a sentence on the lines that were skipped when the entries were last read; empty if there are none."""
        if not self.skipped:
            return ""
        lines = "1 damaged line was" if self.skipped == 1 else f"{self.skipped} damaged lines were"
        return f"{self.path}: {lines} skipped"

    def append(self, verb: str, model: str, event: str, **facts: Any) -> Entry:
        """Append an entry and return it.

        Raises:
            RolloutError: The entry cannot be written; the journal is unchanged.
        """
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "who": whoami(),
            "verb": verb,
            "model": model,
            "event": event,
            **{name: fact for name, fact in facts.items() if fact not in ("", None)},
        }
        # An argument that is not UTF-8 holds surrogates, which JSON can only express as escapes.
        line = json.dumps(entry, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        try:
            descriptor = open_regular(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line  # The last line was cut short by a crash.
                if os.write(descriptor, line) != len(line):
                    os.ftruncate(descriptor, size)
                    raise OSError(28, "No space left on device")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise RolloutError(f"{self.path} cannot be written: {error.strerror}") from None
        return entry

    def begin(self, verb: str, model: str, **facts: Any) -> Action:
        """Note that a change begins; the `Action` that is returned notes how it ended."""
        action = Action(self, verb, model, secrets.token_hex(4))
        self.append(verb, model, BEGUN, id=action.id, **facts)
        action.facts = facts
        return action


class _Entries:
    """The entries of a journal, read from the file for each iteration."""

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
            raise RolloutError(f"{path} cannot be read: {error.strerror}") from None
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
    """Return whether an entry holds what its verb always notes."""
    needed = _NEEDED.get(entry["verb"])
    if needed and needed not in entry:
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


def _is_percent_change(value: Any) -> bool:
    return isinstance(value, dict) and all(is_percentage(value.get(side)) for side in ("before", "after"))


_NEEDED: Final = {"publish": "version", "shift": "percent"}
"""What an entry of a verb always has."""

_LABEL: Final = {"canary": CANARY_LABEL, "adopt": STABLE_LABEL, "promote": STABLE_LABEL, "rollback": STABLE_LABEL}
"""The label that exists after a change, by verb."""

_REQUIRED: Final = {"time", "who", "verb", "model", "event"}
_FIELDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    **dict.fromkeys((*_REQUIRED, "id", "why", "detail", "source", "manifest"), _is_text),
    **dict.fromkeys(("before", "after", "in_force"), _is_desired),
    "version": _is_version,
    "percent": _is_percent_change,
    "gone": _is_version_list,
    **dict.fromkeys(("stable", "canary"), _is_version_or_none),
    **dict.fromkeys(("failed_gates", "servers", "left_out"), _is_text_list),
    "without": lambda value: isinstance(value, dict),
}
"""What a field of an entry must hold, if the entry has it."""


class Action:
    """A change that has begun."""

    def __init__(self, journal: Journal, verb: str, model: str, identity: str) -> None:
        self.id = identity
        self.facts: Mapping[str, Any] = {}
        self._journal = journal
        self._verb = verb
        self._model = model

    def done(self, **facts: Any) -> None:
        """Note that the change succeeded."""
        self._journal.append(self._verb, self._model, DONE, id=self.id, **{**self.facts, **facts})

    def failed(self, **facts: Any) -> None:
        """Note that the change failed, and what is in force."""
        self._journal.append(self._verb, self._model, FAILED, id=self.id, **{**self.facts, **facts})
