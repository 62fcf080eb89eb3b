"""The manifest of a version: what it says, and whether the version's files are those that it lists."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mien_client.contract import MANIFEST, SIGNATURE
from mien_client.reading import parse_json, read_file, regular_size, sha256

from mien_serving.repository.errors import VersionError

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_LONGEST_KEY: Final = 1024
_NEVER_IN_A_NAME: Final = re.compile(r"[\\\x00-\x1f\x7f\ud800-\udfff]")
_LARGEST_METRIC: Final = 1e300
_LONGEST_TEXT: Final = 80
_NOT_LISTED: Final = (MANIFEST, SIGNATURE)


def read_manifest(version: Path) -> Mapping[str, Any]:
    """Return the manifest in the folder of a version; empty if it is missing or cannot be read."""
    try:
        document = parse_json(read_file(version / MANIFEST))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def facts(version: Path) -> dict[str, Any]:
    """Return the facts of a manifest that people look at: ``created``, ``age_s``, ``metrics``, ``data``."""
    document = read_manifest(version)
    if not document:
        return {}
    found: dict[str, Any] = {"created": _printable(str(document.get("created", "")))}
    try:
        found["age_s"] = round((datetime.now(UTC) - datetime.fromisoformat(found["created"])).total_seconds())
    except (ValueError, TypeError):  # It is not a date, or has no time zone.
        found["age_s"] = None
    metrics = document.get("metrics")
    validation = metrics.get("validation", metrics) if isinstance(metrics, dict) else {}
    found["metrics"] = {
        _printable(name): value
        for name, value in (validation if isinstance(validation, dict) else {}).items()
        if isinstance(value, (int, float)) and abs(value) < _LARGEST_METRIC  # Infinity and NaN are not.
    }
    data = document.get("trained_on")
    found["data"] = _printable(str(data.get("file", "")) if isinstance(data, dict) else str(data or ""))
    return found


def _printable(text: str) -> str:
    """Return the beginning of a text from elsewhere, fit for a table on a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text[:_LONGEST_TEXT])


def listed_files(manifest: bytes) -> dict[str, str]:
    """Return the SHA-256 of every file that a manifest lists, by the file's name.

    A manifest from elsewhere must not be able to name a file outside its version.

    Raises:
        VersionError: It is not a valid manifest, or names such a file.
    """
    try:
        listed = parse_json(manifest)["sha256"]
    except (ValueError, TypeError, KeyError):
        listed = None
    if not isinstance(listed, Mapping) or not listed:
        raise VersionError(f"its {MANIFEST} does not list the sha256 of its files")
    for name, digest in listed.items():
        if not _is_inside(name):
            raise VersionError(f"its {MANIFEST} names {name[:100]!r}, which is not a valid file name in a version")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise VersionError(f"its {MANIFEST} has no valid sha256 for {name}")
    for name in (together := {*listed, MANIFEST, SIGNATURE}):
        for folder in map(str, PurePosixPath(name).parents):
            if folder in together:
                raise VersionError(f"its {MANIFEST} names {folder!r} both as a file and as the folder of {name!r}")
    return dict(listed)


def _is_inside(name: str) -> bool:
    if len(name) > _LONGEST_KEY:
        return False
    return not {"", ".", ".."} & set(name.split("/")) and not _NEVER_IN_A_NAME.search(name) and name not in _NOT_LISTED


def file_size(path: Path) -> int:
    """Return the size of one of a version's files in bytes.

    Raises:
        VersionError: It is missing, or is not a regular file.
    """
    try:
        return regular_size(path, follow_links=False)
    except FileNotFoundError:
        raise VersionError(f"{path} is missing") from None
    except OSError as error:
        raise VersionError(f"{path} cannot be read: {error.strerror}") from None


def check_files(version: Path, listed: Mapping[str, str]) -> None:
    """Compare the files of a version with those that its manifest lists.

    Args:
        version: The version's folder.
        listed: The SHA-256 of each file, as `listed_files` returns it.

    Raises:
        VersionError: A file is missing, is not in the manifest, or has another content.
    """
    found = {
        PurePosixPath(path.relative_to(version)).as_posix()
        for path in version.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    for name in sorted(found):
        file_size(version / name)
    if differing := sorted(found.symmetric_difference({*listed, MANIFEST})):
        problem = "is not in its manifest" if differing[0] in found else "is missing"
        raise VersionError(f"{version / differing[0]} {problem}")
    for name, digest in listed.items():
        if sha256(version / name, follow_links=False) != digest:
            raise VersionError(f"{version / name} is not the file that its manifest describes: its sha256 differs")
