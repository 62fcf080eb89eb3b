"""``mien repository sync``: copy the versions of a model repository to and from S3-compatible storage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

SCHEME: Final = "s3://"


@dataclass(frozen=True, kw_only=True)
class SyncRequest:
    """What to copy.

    Attributes:
        source: A model repository: a folder, or ``s3://BUCKET/PREFIX``.
        destination: The other one.
        endpoint_url: The URL of the storage; defaults to ``AWS_ENDPOINT_URL`` in the environment, or AWS.
        dry_run: Whether to say what would be copied, and copy nothing.
        only_changes: Whether to say nothing when everything is up to date.
        verify_with: Whose signatures are required: a policy, a public key or the certificates of an authority. None
            means the folder's own policy, if it has one.
    """

    source: str
    destination: str
    endpoint_url: str | None = None
    dry_run: bool = False
    only_changes: bool = False
    verify_with: Path | None = None
