"""The journal of `mien rollout`, which is next to the repository."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any, Final

from mien_client.contract import journal_path
from mien_client.reading import MEBIBYTE, open_regular, parse_json

from mien_gateway.problems import Problem

_TAIL_BYTES: Final = 8 * MEBIBYTE
"""How much of the end of the journal is read; an entry has a few hundred bytes."""


def latest(repository: Path, limit: int) -> list[dict[str, Any]]:
    """Return the latest entries, the newest first. Lines that are not entries are skipped.

    Args:
        repository: The model repository.
        limit: Maximum number of entries.

    Raises:
        Problem: The journal cannot be read.
    """
    path = journal_path(repository)
    try:
        with os.fdopen(open_regular(path), "rb") as stream:
            start = max(0, os.fstat(stream.fileno()).st_size - _TAIL_BYTES)
            stream.seek(start)
            lines = deque(stream.read(_TAIL_BYTES).splitlines()[1 if start else 0 :], maxlen=limit)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Problem(501, f"The journal cannot be read: {error.strerror}", "NotAvailableError") from None
    entries = []
    for line in reversed(lines):
        try:
            entry = parse_json(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries
