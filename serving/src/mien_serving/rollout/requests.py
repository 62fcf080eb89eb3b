"""What is asked of each verb."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mien_serving.rollout.state.configmap import ConfigMap


P99_GATE: Final = "p99 ratio"
"""The name of the gate on `Limits.max_p99_ratio`."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What rollouts change.

    Attributes:
        repository: The model repository, which stands for ``/models``; journal and lock are next to it.
        config: Where the desired state is: ``models.config`` in a file, or in a ConfigMap of Kubernetes.
        servers: gRPC addresses, ``host:port``; a DNS name stands for all its addresses.
        timeout_s: Seconds that a server may take to answer.
    """

    repository: Path
    config: Path | ConfigMap
    servers: Sequence[str]
    timeout_s: float = 10.0


@dataclass(frozen=True, kw_only=True)
class ChangeRequest:
    """What is asked of the verbs that change what is served; ``abort`` and ``adopt`` need no more.

    Attributes:
        deployment: Where.
        model: The model's name, as ``models.config`` has it.
        why: The reason, for the journal.
        dry_run: Whether to report the plan and change nothing.
        wait_s: Seconds that loading or unloading may take on any server.
    """

    deployment: Deployment
    model: str
    why: str = ""
    dry_run: bool = False
    wait_s: float = 120.0


@dataclass(frozen=True, kw_only=True)
class ApplyRequest(ChangeRequest):
    """What is asked of ``apply``; without a model, all models are meant."""

    model: str = ""


@dataclass(frozen=True, kw_only=True)
class CanaryRequest(ChangeRequest):
    """What is asked of ``canary``.

    Attributes:
        version: The version to try.
        move_unlabelled: Whether callers that name neither a version nor a label may move to it.
    """

    version: int
    move_unlabelled: bool = False


@dataclass(frozen=True, kw_only=True)
class ShiftRequest(ChangeRequest):
    """What is asked of ``shift``.

    Attributes:
        percent: The canary's percentage of the calls, 0 to 100.
    """

    percent: float


@dataclass(frozen=True, kw_only=True)
class PromoteRequest(ChangeRequest):
    """What is asked of ``promote``.

    Attributes:
        force: Whether the canary need not have passed a comparison; requires ``why``.
    """

    force: bool = False


@dataclass(frozen=True, kw_only=True)
class RollbackRequest(ChangeRequest):
    """What is asked of ``rollback``.

    Attributes:
        to: The version to go back to; None is the one that was stable before.
        force: Whether that version may be one that was never stable, or that failed its comparison.
    """

    to: int | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class RetireRequest(ChangeRequest):
    """What is asked of ``retire``.

    Attributes:
        versions: The versions to unload.
        delete: Whether to delete them from the repository, too.
    """

    versions: Sequence[int]
    delete: bool = False


@dataclass(frozen=True, kw_only=True)
class PublishRequest(ChangeRequest):
    """What is asked of ``publish``, which learns the model's name from the source.

    Attributes:
        source: A run of `mien train`, or a SavedModel of `mien export`.
        max_mb: Maximum size in megabytes.
        tolerance: Maximum distance of answers from the golden ones, relative to values above 1.
        verify_with: Whose signature is required: a policy, a public key or the certificates of an authority. None
            means the repository's own policy, if it has one.
    """

    source: Path
    model: str = ""
    max_mb: float = 1024.0
    tolerance: float = 1e-3
    verify_with: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The gates of a comparison.

    Attributes:
        min_accuracy_delta: Minimum of canary's accuracy less stable's.
        min_agreement: Minimum share of answers that agree.
        max_p99_ratio: Maximum of canary's p99 latency divided by stable's.
    """

    min_accuracy_delta: float = -0.01
    min_agreement: float = 0.9
    max_p99_ratio: float = 1.5


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """What is asked of ``compare``: either `data` or `recorded` is given.

    Attributes:
        deployment: Where.
        model: The model's name, as ``models.config`` has it.
        data: A Kaggle file, or ``.npz`` with images and labels or key points.
        recorded: Recorded requests: a TFRecord file of ``PredictionLog``.
        seven_labels: Whether labels are the challenge's seven; None means that a ``Usage`` column decides.
        groups: A CSV file that names the person in each row of a key-point file.
        skip_bad_rows: Whether to skip invalid rows.
        limit: Maximum number of faces to ask about.
        limits: The gates.
        report: Where to write an HTML report.
    """

    deployment: Deployment
    model: str
    data: Path | None = None
    recorded: Path | None = None
    seven_labels: bool | None = None
    groups: Path | None = None
    skip_bad_rows: bool = False
    limit: int = 1000
    limits: Limits = Limits()
    report: Path | None = None
