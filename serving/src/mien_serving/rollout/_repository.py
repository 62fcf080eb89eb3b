"""The model repository on this machine: which versions are there, and what their manifests say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mien_client.cli import CommandError

from mien_serving.rollout._files import sync

MANIFEST: Final = "assets.extra/manifest.json"


def versions(folder: Path) -> list[int]:
    """The versions in a model's folder, in order; none if there is no such folder."""
    try:
        names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CommandError(f"{folder} cannot be read: {error.strerror}") from None
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


def check_version(folder: Path, version: int) -> None:
    """Refuses a version that servers could not find.

    Raises:
        CommandError: It is not in the repository, or is no SavedModel.
    """
    path = folder / str(version)
    if not path.is_dir():
        there = ", ".join(map(str, versions(folder))) or "none"
        raise CommandError(f"there is no version {version} in {folder}, only {there}; name one of these")
    if not (path / "saved_model.pb").exists() and not (path / "saved_model.pbtxt").exists():
        raise CommandError(f"{path} is no SavedModel: it holds no saved_model.pb")


def manifest(path: Path) -> Mapping[str, Any]:
    """What a version's manifest says; nothing if it has none, or one that cannot be read."""
    try:
        told = json.loads((path / MANIFEST).read_bytes())
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
        name: value
        for name, value in (validation if isinstance(validation, dict) else {}).items()
        if isinstance(value, (int, float))
    }
    data = told.get("trained_on")
    found["data"] = str(data.get("file", "")) if isinstance(data, dict) else str(data or "")
    return found


def age(seconds: float) -> str:
    """Return a time as people say it, in whole days, hours, minutes or seconds."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def remove_version(folder: Path, version: int) -> bool:
    """Deletes a version: out of sight in one step, then from the disk; also what is left of it by a deletion that died.

    Returns:
        Whether there was such a version.

    Raises:
        CommandError: The disk refused.
    """
    path = folder / str(version)
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
    return there
