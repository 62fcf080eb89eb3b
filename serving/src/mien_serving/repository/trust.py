"""Whether a version may be put into a repository: who has signed it, and whether it is an older one put there again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from mien_client.signing import Policy, SignatureError, verify

from mien_serving.repository import layout
from mien_serving.repository.errors import RepositoryError, VersionError
from mien_serving.repository.manifest import read_manifest

_SUFFIX: Final = ".signers.toml"


def policy_path(repository: Path) -> Path:
    """Return where a repository's policy is, if it has one: the policy of ``models`` is ``models.signers.toml``."""
    repository = repository.absolute()
    return repository.with_name(f"{repository.name}{_SUFFIX}")


def policy_for(repository: Path, verify_with: Path | None) -> Policy | None:
    """Return the policy to apply.

    Args:
        repository: The repository.
        verify_with: A policy, a public key or the certificates of an authority; None for the repository's own policy.

    Returns:
        The policy; None if the repository has none, so that no signature is required.

    Raises:
        RepositoryError: The policy is invalid.
    """
    own = policy_path(repository)
    if verify_with is None and not own.exists():
        return None
    try:
        return Policy.read(verify_with or own)
    except SignatureError as error:
        raise RepositoryError(str(error)) from None


def check(version: Path, model: str, number: int | None, folder: Path, policy: Policy | None) -> str:
    """Check that a version may be put into a repository, before it is there and before anything of it is run.

    Args:
        version: Where the version is now.
        model: The model that it is to be a version of.
        number: The number that it is to have; None for one above all others.
        folder: The model's folder in the repository.
        policy: Whose signature is required; None requires none.

    Returns:
        Who has signed it, as a clause; empty without a policy.

    Raises:
        VersionError: It may not. The text is a clause that says why.
    """
    if policy is None:
        return ""
    try:
        signer = verify(version, policy)
    except SignatureError as error:
        raise VersionError(str(error)) from None
    manifest = read_manifest(version)
    if manifest.get("model") != model:
        raise VersionError(f"it is signed as a version of {manifest.get('model')}, not of {model}")
    created = _moment(manifest)
    if created is None:
        raise VersionError("its manifest does not say when it was created, so an older version could pass for it")
    oldest = policy.not_before.get(model)
    if oldest and created < oldest:
        raise VersionError(f"it was created at {created}, and the policy refuses versions of {model} before {oldest}")
    for other, folders in layout.version_folders(folder).items():
        if number is None or other < number:
            then = max((moment for one in folders if (moment := _moment(read_manifest(one)))), default=None)
            if then and then >= created:
                raise VersionError(
                    f"it was created at {created}, which is not after version {other} ({then}): it may be an older "
                    "version that was put there again"
                )
    return f"signed by {signer.name}"


def _moment(manifest: Mapping[str, Any]) -> datetime | None:
    """Return when a version was created, or None if its manifest does not say that."""
    try:
        created = datetime.fromisoformat(manifest["created"])
    except (KeyError, TypeError, ValueError):
        return None
    return created if created.tzinfo else None
