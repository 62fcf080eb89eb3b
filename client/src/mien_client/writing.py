"""Write files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], like: Path | None = None) -> None:
    """Replace the content of a file in one step; its owner and permissions stay the same.

    The content is written to a new file next to it, flushed to disk, and renamed.

    Args:
        path: The file, or a symbolic link to it, which stays one.
        write: Writes the content to the stream that it is given.
        like: Another file, whose owner and permissions a new file gets.

    Raises:
        OSError: The file cannot be written; it is unchanged.
    """
    path = path.resolve()
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.unlink(missing_ok=True)
        with aside.open("xb") as stream:  # Never through a symbolic link of that name.
            write(stream)
            stream.flush()
            model = path if path.exists() else like
            if model is not None:
                status = model.stat()
                with contextlib.suppress(PermissionError):  # Only root may change the owner.
                    os.fchown(stream.fileno(), status.st_uid, status.st_gid)
                os.fchmod(stream.fileno(), status.st_mode & 0o7777)
            os.fsync(stream.fileno())
        aside.replace(path)
        flush_to_disk(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically.

    Raises:
        OSError: The file cannot be written; it is unchanged.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda stream: stream.write(text.encode()))


def flush_to_disk(path: Path) -> None:
    """Flush a file or folder to disk, so that a rename cannot reach the disk before the content does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
