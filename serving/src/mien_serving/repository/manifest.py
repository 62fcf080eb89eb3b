"""What a version consists of, as its manifest says."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from mien_client.contract import MANIFEST
from mien_client.reading import parse_json

from mien_serving.rollout._files import sha256

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_LONGEST_KEY: Final = 1024
_NEVER_IN_A_NAME: Final = re.compile(r"[\\\x00-\x1f\x7f\ud800-\udfff]")


class VersionError(Exception):
    """One version cannot be copied; its text is what follows the version's name in a sentence."""


def files(manifest: bytes) -> dict[str, str]:
    """The SHA-256 of each file but the manifest itself.

    A manifest that comes from elsewhere must not be able to name a file outside its version.

    Raises:
        VersionError: It is no manifest, or names such a file.
    """
    try:
        told = parse_json(manifest)["sha256"]
    except (ValueError, TypeError, KeyError):
        told = None
    if not isinstance(told, Mapping) or not told:
        raise VersionError(f"its {MANIFEST} does not tell the sha256 of its files")
    for name, digest in told.items():
        if not _is_inside(name):
            raise VersionError(f"its {MANIFEST} names {name[:100]!r}, which is no file of a version")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise VersionError(f"its {MANIFEST} gives {name} no sha256")
    for name in (together := {*told, MANIFEST}):
        for folder in map(str, PurePosixPath(name).parents):
            if folder in together:
                raise VersionError(f"its {MANIFEST} names {folder!r} as a file and {name!r} in a folder of that name")
    return dict(told)


def _is_inside(name: str) -> bool:
    if len(name) > _LONGEST_KEY:
        return False
    return not {"", ".", ".."} & set(name.split("/")) and not _NEVER_IN_A_NAME.search(name) and name != MANIFEST


def size(path: Path) -> int:
    """Return the size of a file of a version in bytes.

    Raises:
        VersionError: It is missing, or is not a regular file.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise VersionError(f"{path} is missing") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a link" if stat.S_ISLNK(status.st_mode) else "something else"
        raise VersionError(f"{path} is {kind}, not a regular file")
    return status.st_size


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
    for name in sorted(there):
        size(folder / name)
    if strange := sorted(there.symmetric_difference({*wanted, MANIFEST})):
        problem = "is not in its manifest" if strange[0] in there else "is missing"
        raise VersionError(f"{folder / strange[0]} {problem}")
    for name, digest in wanted.items():
        if sha256(folder / name) != digest:
            raise VersionError(f"{folder / name} is not the file that its manifest describes: its sha256 differs")
