"""The journal: who changed what, when and why. It lies next to the repository and is only ever appended to."""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mien_client.cli import CommandError

from mien_serving.rollout._models_config import STABLE

Entry = Mapping[str, Any]
"""One line: ``time``, ``who``, ``verb``, ``model``, ``event`` and, by verb, ``before``, ``after``, ``why``, …"""

BEGUN, DONE, FAILED = "begun", "done", "failed"

_ALWAYS: Final = {"time", "who", "verb", "model", "event"}


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
    """

    def __init__(self, repository: Path) -> None:
        repository = repository.absolute()
        self.path = repository.with_name(f"{repository.name}.journal")

    def entries(self, model: str = "") -> list[Entry]:
        """Reads all entries, of one model if named. A line that a crash cut short, or that is none, is left out.

        Raises:
            CommandError: The file is there but cannot be read.
        """
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CommandError(f"{self.path} cannot be read: {error.strerror}") from None
        entries: list[Entry] = []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.keys() >= _ALWAYS and (not model or entry["model"] == model):
                entries.append(entry)
        return entries

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
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
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


def unfinished(entries: Sequence[Entry]) -> Entry | None:
    """The last change of a model, if it neither ended nor was taken back: the process that made it has died.

    That the servers have been made to agree since does not finish it.
    """
    changes = [entry for entry in entries if "after" in entry and entry["verb"] != "apply"]
    last = changes[-1] if changes else None
    return last if last and (last["event"] == BEGUN or last.get("resume")) else None


def last_move(entries: Sequence[Entry], now: int | None) -> Entry | None:
    """The change that has made the version stable that is so now, if the journal knows it."""
    for entry in reversed(entries):
        if "after" in entry and entry["event"] == DONE:
            before, after = (entry[side]["labels"].get(STABLE) for side in ("before", "after"))
            if before != after:
                return entry if after == now else None
    return None


def stable_before(entries: Sequence[Entry], now: int) -> list[int]:
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
        before, after = (entry.get(side, {}).get("labels", {}).get(STABLE) for side in ("before", "after"))
        moved(before, back=True)
        if entry["event"] == DONE:
            moved(after, back=entry["verb"] == "rollback")
    moved(now, back=True)
    return history[-2::-1]
