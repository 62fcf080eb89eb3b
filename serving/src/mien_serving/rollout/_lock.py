"""A lock that says whose it is, since when, and can be taken over from the dead."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mien_client.cli import CommandError
from mien_client.reading import open_regular, parse_json

from mien_serving.rollout._journal import whoami

OLDEST_S: Final = 3600.0
"""Age at which a lock from another machine expires: no verb takes an hour, for ``--wait`` is limited."""

_MOST_PROCESSES: Final = 2**31
_END_OF_TIME: Final = 2**40
_ENDED: Final = "ended"

_POLL_S: Final = 0.1


@contextmanager
def locked(path: Path, doing: str, *, patience_s: float = 0.0) -> Iterator[None]:
    """Holds a lock while a block runs.

    The file's content is the owner; who reads or changes it holds the kernel's lock on the file for that moment. On
    this machine the lock lasts as long as its owner's process, whatever the clock says; elsewhere, an hour.

    Args:
        path: The lock's file; it stays there, empty, when nobody holds the lock.
        doing: What the owner does, for others to read, such as ``promote emotion``.
        patience_s: How long to wait for another owner.

    Raises:
        CommandError: Somebody else holds it; the sentence says who.
    """
    owner = {
        "who": whoami(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "doing": doing,
        "since": time.time(),
        "token": secrets.token_hex(8),
    }
    give_up = time.monotonic() + patience_s
    try:
        while other := _take(path, owner):
            if time.monotonic() >= give_up:
                raise CommandError(_refusal(path, other))
            time.sleep(_POLL_S)
    except OSError as error:
        raise CommandError(f"nothing was changed: {path} cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        _release(path, owner["token"])


def holder(path: Path) -> dict[str, Any] | None:
    """Return who holds a lock now, with ``who``, ``pid``, ``doing`` and ``since``; None if nobody does."""
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        owner = _owner(descriptor)
    finally:
        os.close(descriptor)
    return None if owner is None or stale(owner) else owner


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    # What a link names is not ours to write to.
    descriptor = open_regular(path, os.O_RDWR | os.O_CREAT, follow_links=False)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _take(path: Path, owner: dict[str, Any]) -> dict[str, Any] | None:
    """Takes the lock, or returns who holds it."""
    with _opened(path) as descriptor:
        other = _owner(descriptor)
        if other and not stale(other):
            return other
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        os.fsync(descriptor)
        return None


def _release(path: Path, token: object) -> None:
    with _opened(path) as descriptor:
        owner = _owner(descriptor)
        if owner and owner["token"] == token:
            os.ftruncate(descriptor, 0)


def _owner(descriptor: int) -> dict[str, Any] | None:
    try:
        owner = parse_json(os.pread(descriptor, 1 << 16, 0))
    except ValueError:  # Empty, or its owner died while it wrote.
        return None
    return owner if isinstance(owner, dict) and _is_complete(owner) else None


def _is_complete(owner: dict[str, Any]) -> bool:
    texts, pid, since = ("who", "host", "doing", "token"), owner.get("pid"), owner.get("since")
    return (
        all(isinstance(owner.get(name), str) for name in texts)
        and (isinstance(pid, int) and 0 < pid < _MOST_PROCESSES)
        and (isinstance(since, (int, float)) and 0 <= since < _END_OF_TIME)
    )


def stale(owner: dict[str, Any]) -> bool:
    """Whether a lock's owner has lost it."""
    if owner["host"] == socket.gethostname():
        return not _lives(owner)
    return bool(time.time() - owner["since"] >= OLDEST_S)


def _lives(owner: dict[str, Any]) -> bool:
    """Whether the process that took a lock on this machine still runs."""
    if not is_running(owner["pid"]):
        return False
    then, now = owner.get("started"), _started(owner["pid"])
    if now == _ENDED:
        return False
    return not then or not now or then == now  # Otherwise the number is that of another process by now.


def is_running(pid: int) -> bool:
    """Whether a process with this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _started(pid: int) -> str:
    """When a process started, in the kernel's own ticks since the machine did; empty where that is not known.

    A process that has ended, but that its parent has not waited for, is still listed.
    """
    try:
        state, *facts = (
            Path(f"/proc/{pid}/stat").read_text(errors="replace", encoding="utf-8").rpartition(")")[2].split()
        )
        return _ENDED if state in ("Z", "X") else facts[18]
    except (OSError, ValueError, IndexError):
        return ""


def _refusal(path: Path, owner: dict[str, Any]) -> str:
    age = max(time.time() - owner["since"], 0.0)
    who = f"{owner['who']} (process {owner['pid']})"
    told = f"{who} is at it: {owner['doing']}, for {age:.0f} s; wait until that has ended"
    if owner["host"] == socket.gethostname():
        return f"{told}. If process {owner['pid']} is not a rollout, remove {path} to go on"
    return (
        f"{told}. If that process is gone, its lock {path} ends by itself after {OLDEST_S / 60:.0f} minutes; remove "
        "the file to go on at once"
    )
