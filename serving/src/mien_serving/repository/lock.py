"""A lock in a file that names its owner and expires when the owner has died."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mien_client.reading import open_regular, parse_json

from mien_serving.repository.errors import RepositoryError

OLDEST_S: Final = 3600.0
"""Seconds after which a lock from another machine expires. No verb takes an hour, as ``--wait`` is limited."""

_MOST_PROCESSES: Final = 2**31
_END_OF_TIME: Final = 2**40
_ENDED: Final = "ended"

_POLL_S: Final = 0.1


def whoami() -> str:
    """Return the user and the machine, as ``user@host``; under sudo, the user who called it."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def lock_path(repository: Path) -> Path:
    """Return the lock that rollouts hold; it is next to the repository."""
    repository = repository.absolute()
    return repository.with_name(f"{repository.name}.lock")


@contextmanager
def locked(path: Path, doing: str, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock while a block runs.

    The content of the file is the owner; whoever reads or changes it holds the kernel's lock on the file for that
    moment. On this machine the lock lasts as long as its owner's process, whatever the clock says; from another
    machine, an hour.

    Args:
        path: The lock's file. It remains, empty, when nobody holds the lock.
        doing: What the owner does, for others to read, such as ``promote emotion``.
        wait_s: Seconds to wait for another owner.

    Raises:
        RepositoryError: Another owner holds the lock, or the file cannot be written.
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
    deadline = time.monotonic() + wait_s
    try:
        while other := _take(path, owner):
            if time.monotonic() >= deadline:
                raise RepositoryError(_refusal(path, other))
            time.sleep(_POLL_S)
    except OSError as error:
        raise RepositoryError(f"The lock {path} cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        _release(path, owner["token"])


def holder(path: Path) -> dict[str, Any] | None:
    """Return the owner of a lock, with ``who``, ``pid``, ``doing`` and ``since``; None if nobody holds it."""
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        owner = _owner(descriptor)
    finally:
        os.close(descriptor)
    return None if owner is None or is_stale(owner) else owner


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = open_regular(path, os.O_RDWR | os.O_CREAT, follow_links=False)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _take(path: Path, owner: dict[str, Any]) -> dict[str, Any] | None:
    """Take the lock, or return its owner."""
    with _opened(path) as descriptor:
        other = _owner(descriptor)
        if other and not is_stale(other):
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
    except ValueError:  # It is empty, or its owner died while writing it.
        return None
    return owner if isinstance(owner, dict) and _is_complete(owner) else None


def _is_complete(owner: dict[str, Any]) -> bool:
    texts, pid, since = ("who", "host", "doing", "token"), owner.get("pid"), owner.get("since")
    return (
        all(isinstance(owner.get(name), str) for name in texts)
        and (isinstance(pid, int) and 0 < pid < _MOST_PROCESSES)
        and (isinstance(since, (int, float)) and 0 <= since < _END_OF_TIME)
    )


def is_stale(owner: dict[str, Any]) -> bool:
    """Return whether a lock's owner has lost it."""
    if owner["host"] == socket.gethostname():
        return not _is_alive(owner)
    return bool(time.time() - owner["since"] >= OLDEST_S)


def _is_alive(owner: dict[str, Any]) -> bool:
    """Return whether the process that took a lock on this machine still runs."""
    if not is_running(owner["pid"]):
        return False
    then, now = owner.get("started"), _started(owner["pid"])
    if now == _ENDED:
        return False
    return not then or not now or then == now  # Otherwise another process has this number by now.


def is_running(pid: int) -> bool:
    """Return whether a process with this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since the machine started; empty where that is unknown.

    A process that has ended, but whose parent has not waited for it, is still listed.
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
    text = f"{owner['who']} (process {owner['pid']}) has held the lock for {age:.0f} s: {owner['doing']}; wait for it"
    if owner["host"] == socket.gethostname():
        return f"{text}. If process {owner['pid']} is not a rollout, remove {path}"
    return (
        f"{text}. If that process no longer runs, its lock expires after {OLDEST_S / 60:.0f} minutes; remove {path} to "
        "continue at once"
    )
