"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from mien_client.reading import open_regular


def write_atomically(path: Path, text: str) -> None:
    """Puts a text in the place of a file: written aside, synced, renamed. Its owner and permissions stay the same."""
    path = path.resolve()  # A link stays one.
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.unlink(missing_ok=True)
        with aside.open("x", encoding="utf-8", newline="") as stream:  # Never through a link that lies there.
            stream.write(text)
            stream.flush()
            if path.exists():
                status = path.stat()
                with contextlib.suppress(PermissionError):  # Only root can give files away.
                    os.fchown(stream.fileno(), status.st_uid, status.st_gid)
                os.fchmod(stream.fileno(), status.st_mode & 0o7777)
            os.fsync(stream.fileno())
        aside.replace(path)
        sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Forces a file or folder to disk, so that a rename cannot overtake what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file that is not a link, in hexadecimal.

    Raises:
        OSError: It cannot be read, or is something else.
    """
    with os.fdopen(open_regular(path, follow_links=False), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
