"""Read files and JSON from untrusted sources, without hanging, filling the memory or recursing.

Opening a named pipe blocks, reading a device never ends, a file can be larger than the memory, and a few kilobytes of
brackets exceed the recursion limit. The functions of this module raise an `OSError` or a `ValueError` instead, whose
text says what was found.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, Final

MEBIBYTE: Final = 2**20

DOCUMENT_LIMIT: Final = 4 * MEBIBYTE
"""Maximum size of a configuration file or manifest in bytes; real ones have a few kilobytes."""

NESTING_LIMIT: Final = 32
"""Maximum depth of lists and objects in JSON; real documents have about four levels."""

_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _flag(name: str) -> int:
    return int(getattr(os, name, 0))  # Windows has only some of them.


_SAFE_FLAGS: Final = _flag("O_NONBLOCK") | _flag("O_CLOEXEC") | _flag("O_NOCTTY") | _flag("O_BINARY")


def open_regular(
    path: str | os.PathLike[str],
    flags: int = os.O_RDONLY,
    *,
    follow_links: bool = True,
    max_bytes: int | None = None,
) -> int:
    """Open a regular file, and nothing else, without blocking.

    Args:
        path: The file.
        flags: As for `os.open`; a file that ``O_CREAT`` creates has mode 0o644.
        follow_links: Whether the path may be a symbolic link to a regular file.
        max_bytes: Maximum size of the file in bytes; None accepts any size.

    Returns:
        The file descriptor.

    Raises:
        OSError: The file cannot be opened, is not a regular file, or is too large.
        ValueError: The path holds a null character.
    """
    try:
        _check_regular(path, Path(path).stat(follow_symlinks=follow_links), max_bytes)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    no_link = 0 if follow_links else _flag("O_NOFOLLOW")
    descriptor = os.open(path, flags | _SAFE_FLAGS | no_link, 0o644)
    try:
        _check_regular(path, os.fstat(descriptor), max_bytes)  # The path may name another file by now.
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def regular_size(path: str | os.PathLike[str], *, follow_links: bool = True) -> int:
    """Return the size of a regular file in bytes.

    Args:
        path: The file.
        follow_links: Whether the path may be a symbolic link to a regular file.

    Raises:
        OSError: There is no such file, or it is not a regular file.
    """
    status = Path(path).stat(follow_symlinks=follow_links)
    _check_regular(path, status, None)
    return status.st_size


def read_file(path: Path, limit: int = DOCUMENT_LIMIT, *, follow_links: bool = True) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file.
        limit: Maximum size in bytes.
        follow_links: Whether the path may be a symbolic link to a regular file.

    Raises:
        OSError: The file cannot be read, is not a regular file, or is too large.
        ValueError: The path holds a null character.
    """
    with os.fdopen(open_regular(path, follow_links=follow_links, max_bytes=limit), "rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:  # It has grown since it was opened.
        raise _too_large(path, limit)
    return content


def sha256(path: Path, *, follow_links: bool) -> str:
    """Return the SHA-256 of a regular file, in hexadecimal.

    Args:
        path: The file, of any size.
        follow_links: Whether the path may be a symbolic link to a regular file.

    Raises:
        OSError: The file cannot be read, or is not a regular file.
        ValueError: The path holds a null character.
    """
    with os.fdopen(open_regular(path, follow_links=follow_links), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def parse_json(text: bytes | str) -> Any:
    """Return the value of a JSON document.

    Raises:
        ValueError: The text is not valid JSON, or is nested too deeply.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_nesting(value, NESTING_LIMIT)
    return value


def _check_regular(path: str | os.PathLike[str], status: os.stat_result, max_bytes: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(status.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))
    if max_bytes is not None and status.st_size > max_bytes:
        raise _too_large(path, max_bytes)


def _too_large(path: str | os.PathLike[str], limit: int) -> OSError:
    return OSError(errno.EFBIG, f"it is larger than {_in_bytes(limit)}", os.fspath(path))


def _in_bytes(count: int) -> str:
    return f"{count / MEBIBYTE:,g} MiB" if count % MEBIBYTE == 0 else f"{count:,} bytes"


def _check_nesting(value: Any, levels: int) -> None:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if children and not levels:
        raise ValueError("it is nested too deeply")
    for child in children:
        if isinstance(child, (dict, list)):
            _check_nesting(child, levels - 1)
