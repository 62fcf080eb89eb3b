"""Write files that appear whole or not at all, and flush and hash them."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from mien_client.reading import open_regular


def write_atomically(path: Path, text: str, like: Path | None = None) -> None:
    """Replace the content of a file in one step; its owner and permissions stay the same.

    The text is written to a new file next to it, flushed to disk, and renamed.

    Args:
        path: The file.
        text: The new content.
        like: Another file, whose owner and permissions a new file gets.

    Raises:
        OSError: The file cannot be written; it is unchanged.
    """
    path = path.resolve()  # A symbolic link stays one.
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.unlink(missing_ok=True)
        with aside.open("x", encoding="utf-8", newline="") as stream:  # Never through a symbolic link of that name.
            stream.write(text)
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


def flush_to_disk(path: Path) -> None:
    """Flush a file or folder to disk, so that a rename cannot reach the disk before the content does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file, in hexadecimal.

    Raises:
        OSError: The file cannot be read, or is a symbolic link or anything else but a regular file.
    """
    with os.fdopen(open_regular(path, follow_links=False), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
