"""What a version consists of, as its manifest says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from mien_serving.rollout._files import sha256
from mien_serving.rollout._repository import MANIFEST

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class VersionError(Exception):
    """One version cannot be copied; its text is what follows the version's name in a sentence."""


def files(manifest: bytes) -> dict[str, str]:
    """The SHA-256 of each file but the manifest itself.

    A manifest that comes from elsewhere must not be able to name a file outside its version.

    Raises:
        VersionError: It is no manifest, or names such a file.
    """
    try:
        told = json.loads(manifest)["sha256"]
    except (ValueError, TypeError, KeyError):
        told = None
    if not isinstance(told, Mapping) or not told:
        raise VersionError(f"its {MANIFEST} does not tell the sha256 of its files")
    for name, digest in told.items():
        if not _is_inside(name):
            raise VersionError(f"its {MANIFEST} names {name!r}, which is no file of a version")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise VersionError(f"its {MANIFEST} gives {name} no sha256")
    return dict(told)


def _is_inside(name: str) -> bool:
    parts = name.split("/")
    return not {"", ".", ".."} & set(parts) and not re.search(r"[\\\0]", name) and name != MANIFEST


def check(folder: Path, wanted: Mapping[str, str]) -> None:
    """Compares a version on this machine with its manifest.

    Raises:
        VersionError: A file is missing, is not in the manifest, or is another one.
    """
    there = {
        PurePosixPath(path.relative_to(folder)).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    if strange := sorted(there.symmetric_difference({*wanted, MANIFEST})):
        problem = "is not in its manifest" if strange[0] in there else "is missing"
        raise VersionError(f"{folder / strange[0]} {problem}")
    for name, digest in wanted.items():
        if sha256(folder / name) != digest:
            raise VersionError(f"{folder / name} is not the file that its manifest describes: its sha256 differs")
