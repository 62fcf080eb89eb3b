"""The folders of a model repository: which versions of a model exist, and how one is deleted."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from mien_client.writing import flush_to_disk

from mien_serving.core.source import version_number
from mien_serving.repository.errors import RepositoryError


def version_folders(folder: Path) -> Mapping[int, list[Path]]:
    """Return the folders of each version of a model, ordered by version.

    A version has one folder. Because its name may begin with zeros, there can be several by mistake; which one a
    server loads is then undefined.

    Args:
        folder: The model's folder. A missing folder has no versions.

    Raises:
        RepositoryError: The folder exists but cannot be read.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:  # ValueError: a null character in the name.
        raise RepositoryError(f"{folder} cannot be read: {getattr(error, 'strerror', error)}") from None
    found: dict[int, list[Path]] = {}
    for entry in entries:
        version = version_number(entry.name)
        if version is not None:
            found.setdefault(version, []).append(entry)
    return dict(sorted(found.items()))


def versions(folder: Path) -> list[int]:
    """Return the versions in a model's folder, in ascending order."""
    return list(version_folders(folder))


def version_folder(folder: Path, version: int) -> Path:
    """Return the folder that servers load a version from, whether or not it exists.

    Raises:
        RepositoryError: The version has several folders.
    """
    found = version_folders(folder).get(version) or [folder / str(version)]
    if len(found) > 1:
        raise RepositoryError(ambiguity(version, found))
    return found[0]


def ambiguity(version: int, folders: Collection[Path]) -> str:
    """Return a sentence on a version that has several folders."""
    names = " and ".join(map(str, folders))
    return f"{names} are both version {version}, and which one a server loads is undefined; rename or delete one"


def check_version(folder: Path, version: int) -> None:
    """Raise an error if servers could not load a version.

    Raises:
        RepositoryError: The version is not in the repository, has several folders, or is not a SavedModel.
    """
    path = version_folder(folder, version)
    if not path.is_dir():
        stored = ", ".join(map(str, versions(folder))) or "none"
        raise RepositoryError(f"{folder} has no version {version}; it has {stored}")
    if not (path / "saved_model.pb").is_file() and not (path / "saved_model.pbtxt").is_file():
        raise RepositoryError(f"{path} is not a SavedModel: it has no file saved_model.pb")


def check_deletable(folder: Path, versions: Collection[int]) -> None:
    """Raise an error if `remove_version` would refuse one of these versions.

    Raises:
        RepositoryError: A version has several folders, or its folder is a symbolic link.
    """
    for version in versions:
        path = version_folder(folder, version)
        if path.is_symlink():
            raise RepositoryError(
                f"{path} is a symbolic link to {path.readlink()}, which is not deleted; remove it yourself"
            )


def remove_version(folder: Path, version: int) -> Path | None:
    """Delete a version, and whatever a deletion that was killed has left of it.

    The version's folder is renamed first, so that servers never see half of it.

    Returns:
        The folder that was deleted; None if the version does not exist.

    Raises:
        RepositoryError: The version has several folders, or cannot be deleted.
    """
    path = version_folder(folder, version)
    aside = folder / f".retired-{version}"
    try:
        existed = path.is_dir() or aside.is_dir()
        for doomed in (aside, path):
            if doomed.is_dir():
                doomed.rename(aside)
                flush_to_disk(folder)
                shutil.rmtree(aside)
    except OSError as error:
        raise RepositoryError(f"{path} cannot be deleted: {error.strerror}") from None
    return path if existed else None
