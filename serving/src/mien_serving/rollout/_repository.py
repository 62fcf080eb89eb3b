"""The model repository on this machine: which versions are there, and what their manifests say."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mien_client.cli import CommandError
from mien_client.contract import MANIFEST
from mien_client.reading import parse_json, read_file

from mien_serving.core.source import version_number
from mien_serving.rollout._files import sync

_LARGEST: Final = 1e300
_LONGEST: Final = 80


def version_folders(folder: Path) -> Mapping[int, list[Path]]:
    """Return the folders of each version in a model's folder, in the order of the versions.

    A version has one folder. Its name may begin with zeros, so that there can be more of them by mistake; which one
    servers load is then not defined.

    Raises:
        CommandError: The folder is there but cannot be read.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name.
        raise CommandError(f"{folder} cannot be read: {getattr(error, 'strerror', error)}") from None
    found: dict[int, list[Path]] = {}
    for entry in entries:
        version = version_number(entry.name)
        if version is not None:
            found.setdefault(version, []).append(entry)
    return dict(sorted(found.items()))


def versions(folder: Path) -> list[int]:
    """The versions in a model's folder, in order; none if there is no such folder."""
    return list(version_folders(folder))


def version_folder(folder: Path, version: int) -> Path:
    """Return the folder that servers load a version from, or would if it were there.

    Raises:
        CommandError: There is more than one.
    """
    found = version_folders(folder).get(version) or [folder / str(version)]
    if len(found) > 1:
        raise CommandError(ambiguity(version, found))
    return found[0]


def ambiguity(version: int, folders: Collection[Path]) -> str:
    """Return the sentence on a version that has several folders."""
    names = " and ".join(map(str, folders))
    return (
        f"{names} are both version {version}, and which one servers load is not defined; rename or delete one of them"
    )


def check_version(folder: Path, version: int) -> None:
    """Refuses a version that servers could not find.

    Raises:
        CommandError: It is not in the repository, has several folders, or is not a SavedModel.
    """
    path = version_folder(folder, version)
    if not path.is_dir():
        there = ", ".join(map(str, versions(folder))) or "none"
        raise CommandError(f"there is no version {version} in {folder}, only {there}; name one of these")
    if not (path / "saved_model.pb").is_file() and not (path / "saved_model.pbtxt").is_file():
        raise CommandError(f"{path} is no SavedModel: it holds no saved_model.pb")


def check_deletable(folder: Path, versions: Collection[int]) -> None:
    """Refuses versions that `remove_version` would not delete.

    Raises:
        CommandError: A version has several folders, or its folder is a link.
    """
    for version in versions:
        path = version_folder(folder, version)
        if path.is_symlink():
            raise CommandError(f"{path} is a link to {path.readlink()}, which is not deleted; remove the link yourself")


def manifest(path: Path) -> Mapping[str, Any]:
    """What a version's manifest says; nothing if it has none, or one that cannot be read."""
    try:
        told = parse_json(read_file(path / MANIFEST))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def facts(path: Path) -> dict[str, Any]:
    """The facts of a manifest that people look at: ``created``, ``age_s``, ``metrics``, ``data``."""
    told = manifest(path)
    if not told:
        return {}
    found: dict[str, Any] = {"created": str(told.get("created", ""))}
    try:
        found["age_s"] = round((datetime.now(UTC) - datetime.fromisoformat(found["created"])).total_seconds())
    except (ValueError, TypeError):  # No date, or one without a time zone.
        found["age_s"] = None
    metrics = told.get("metrics")
    validation = metrics.get("validation", metrics) if isinstance(metrics, dict) else {}
    found["metrics"] = {
        _printable(name): value
        for name, value in (validation if isinstance(validation, dict) else {}).items()
        if isinstance(value, (int, float)) and abs(value) < _LARGEST  # Infinity and NaN are not.
    }
    data = told.get("trained_on")
    found["data"] = _printable(str(data.get("file", "")) if isinstance(data, dict) else str(data or ""))
    return found


def age(seconds: float) -> str:
    """Return a time as people say it, in whole days, hours, minutes or seconds."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _printable(text: str) -> str:
    """The beginning of a text that somebody else wrote, fit for a table on a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text[:_LONGEST])


def remove_version(folder: Path, version: int) -> Path | None:
    """Deletes a version: out of sight in one step, then from the disk; also what is left of it by a deletion that died.

    Returns:
        The folder that was deleted; None if there was no such version.

    Raises:
        CommandError: The version has several folders, or the disk refused.
    """
    path = version_folder(folder, version)
    aside = folder / f".retired-{version}"
    try:
        there = path.is_dir() or aside.is_dir()
        for doomed in (aside, path):
            if doomed.is_dir():
                doomed.rename(aside)
                sync(folder)
                shutil.rmtree(aside)
    except OSError as error:
        raise CommandError(f"{path} cannot be deleted: {error.strerror}") from None
    return path if there else None
