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

from mien_serving.rollout._journal import whoami

OLDEST_S: Final = 3600.0
"""A lock that is older than an hour belongs to nobody any more: no verb takes that long, for ``--wait`` is limited."""

_POLL_S: Final = 0.1


@contextmanager
def locked(path: Path, doing: str, *, patience_s: float = 0.0) -> Iterator[None]:
    """Holds a lock while a block runs.

    The file's content is the owner; who reads or changes it holds the kernel's lock on the file for that moment. An
    owner on this machine whose process has ended has lost the lock, and so has one elsewhere after an hour.

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


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
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
        owner = json.loads(os.pread(descriptor, 1 << 16, 0))
        complete = isinstance(owner, dict) and {"who", "host", "pid", "doing", "since", "token"} <= owner.keys()
    except ValueError:  # Empty, or its owner died while it wrote.
        return None
    return owner if complete else None


def stale(owner: dict[str, Any]) -> bool:
    """Whether a lock's owner has lost it."""
    if time.time() - owner["since"] >= OLDEST_S:
        return True
    if owner["host"] != socket.gethostname():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _refusal(path: Path, owner: dict[str, Any]) -> str:
    age = time.time() - owner["since"]
    who = f"{owner['who']} (process {owner['pid']})"
    told = f"{who} is at it: {owner['doing']}, for {age:.0f} s; wait until that has ended"
    if owner["host"] == socket.gethostname():
        return told
    return (
        f"{told}. If that process is gone, its lock {path} ends by itself after {OLDEST_S / 60:.0f} minutes; remove "
        "the file to go on at once"
    )
