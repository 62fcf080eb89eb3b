"""Reads files and JSON that somebody else may have written, without hanging, filling the memory or recursing.

A named pipe blocks whoever opens it, a device never ends, a file can be larger than the memory, and a few kilobytes of
brackets exceed the recursion limit. Everything here fails with an `OSError` or a `ValueError` instead, whose text says
what was found.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, Final

MEBIBYTE: Final = 2**20

DOCUMENT_LIMIT: Final = 4 * MEBIBYTE
"""Largest configuration file or manifest in bytes; real ones have a few kilobytes."""

NESTING_LIMIT: Final = 32
"""Deepest nesting of lists and objects in JSON; real documents have about four levels."""

_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: Path, flags: int = os.O_RDONLY, *, follow_links: bool = True) -> int:
    """Open a regular file, and nothing else, without blocking.

    Args:
        path: The file.
        flags: As for `os.open`; a file that ``O_CREAT`` creates has mode 0o644.
        follow_links: Whether the path may be a symbolic link to a regular file.

    Returns:
        The file descriptor.

    Raises:
        OSError: The file cannot be opened, or is not a regular file.
    """
    try:
        _check_regular(path, path.stat(follow_symlinks=follow_links))
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    no_link = 0 if follow_links else os.O_NOFOLLOW
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | no_link, 0o644)
    try:
        _check_regular(path, os.fstat(descriptor))  # The path may name another file by now.
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_file(path: Path, limit: int = DOCUMENT_LIMIT, *, follow_links: bool = True) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file.
        limit: Largest accepted size in bytes.
        follow_links: Whether the path may be a symbolic link to a regular file.

    Raises:
        OSError: The file cannot be read, is not a regular file, or is too large.
    """
    with os.fdopen(open_regular(path, follow_links=follow_links), "rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit / MEBIBYTE:g} MiB", str(path))
    return content


def parse_json(text: bytes | str) -> Any:
    """Return the value of a JSON document.

    Raises:
        ValueError: It is not valid JSON, or is nested too deeply.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_nesting(value, NESTING_LIMIT)
    return value


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(status.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


def _check_nesting(value: Any, levels: int) -> None:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if children and not levels:
        raise ValueError("it is nested too deeply")
    for child in children:
        if isinstance(child, (dict, list)):
            _check_nesting(child, levels - 1)
