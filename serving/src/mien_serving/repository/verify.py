"""Verify the files and signatures of all versions in a repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mien_client.contract import MANIFEST, SIGNATURE
from mien_client.reading import read_file, sha256

from mien_serving.repository import layout, trust
from mien_serving.repository.errors import RepositoryError, VersionError
from mien_serving.repository.manifest import check_files, listed_files


def verify(repository: Path, verify_with: Path | None, say: Callable[[str], None]) -> list[str]:
    """Verify every version.

    Args:
        repository: The model repository.
        verify_with: A policy, a public key or the certificates of an authority; None for the repository's own policy.
        say: Receives a sentence about each version that may be trusted.

    Returns:
        A sentence, without its full stop, about each version that may not.

    Raises:
        RepositoryError: The repository has no version, or no policy.
    """
    policy = trust.policy_for(repository, verify_with)
    if policy is None:
        raise RepositoryError(
            f"There is no policy {trust.policy_path(repository)}; write one, or name a policy, a key or an authority "
            "with --verify-with"
        )
    models = sorted(path for path in repository.glob("*") if path.is_dir() and not path.name.startswith("."))
    versions = [(model, number, folder) for model in models for number, folder in _folders(model)]
    if not versions:
        raise RepositoryError(f"{repository} has no folder MODEL/VERSION; name a model repository")
    problems = []
    for model, number, folder in versions:
        try:
            check_files(folder, _files(folder))
            say(f"{model.name}/{number}: {trust.check(folder, model.name, number, model, policy)}")
        except VersionError as error:
            problems.append(f"{model.name}/{number}: {error}")
    return problems


def _folders(model: Path) -> list[tuple[int, Path]]:
    return [(number, folder) for number, folders in layout.version_folders(model).items() for folder in folders]


def _files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that a version is to have, except that of its manifest."""
    try:
        files = listed_files(read_file(folder / MANIFEST, follow_links=False))
    except (OSError, ValueError) as error:
        raise VersionError(f"its {MANIFEST} cannot be read: {getattr(error, 'strerror', error)}") from None
    if (folder / SIGNATURE).is_file():
        files[SIGNATURE] = sha256(folder / SIGNATURE, follow_links=False)
    return files
