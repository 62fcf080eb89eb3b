"""What is desired of one model, and a plan to change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from mien_serving.rollout.wording import versions


@dataclass(frozen=True)
class Desired:
    """What is desired of one model.

    Attributes:
        versions: The versions that are kept loaded; None if the policy leaves the choice to the server, as "latest"
            does.
        labels: The version that each label names.
    """

    versions: frozenset[int] | None
    labels: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        labels = [f"{label} {version}" for label, version in sorted(self.labels.items(), reverse=True)]
        loaded = "the latest" if self.versions is None else ", ".join(map(str, sorted(self.versions))) or "none"
        return f"{', '.join(labels) or 'no labels'}; loaded {loaded}"

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Return what the journal notes of a model."""
        versions = document["versions"]
        return cls(None if versions is None else frozenset(versions), document["labels"])

    def document(self) -> dict[str, Any]:
        """Return what the journal notes of the model."""
        return {"versions": None if self.versions is None else sorted(self.versions), "labels": dict(self.labels)}


@dataclass(frozen=True)
class Plan:
    """A change of what is desired of a model.

    Attributes:
        model: The model.
        before: What is desired now.
        after: What is to be desired.
        notes: Sentences that people should read before they agree.
        gone: Versions that no server may have loaded at the end, besides those that ``after`` drops.
    """

    model: str
    before: Desired
    after: Desired
    notes: tuple[str, ...] = ()
    gone: frozenset[int] = field(default_factory=frozenset)

    @property
    def kept(self) -> frozenset[int]:
        """The versions that are loaded at the end."""
        assert self.after.versions is not None
        return self.after.versions

    @property
    def unloaded(self) -> frozenset[int]:
        """The versions that are not loaded at the end."""
        return (self.gone | (self.before.versions or frozenset())) - self.kept

    def steps(self, servers: int) -> list[str]:
        """Return what will be done, for people to read.

        Args:
            servers: Number of servers.
        """
        everywhere = "the server" if servers == 1 else f"all {servers} servers"
        new, labels = sorted(self.kept - (self.before.versions or frozenset())), self.after.labels
        steps = []
        if self.before.versions is None:
            steps.append(f"models.config: keep {versions(self.kept)} loaded, instead of the latest")
        elif new:
            steps.append(f"models.config: load {versions(new)} beside {versions(self.before.versions)}")
        steps.append(f"{everywhere}: reload, and wait until {versions(self.kept)} can answer")
        for label in sorted(self.before.labels.keys() | labels.keys(), reverse=True):
            old, now = self.before.labels.get(label), labels.get(label)
            if old != now:
                came = f" instead of {old}" if old is not None else ""
                steps.append(
                    f"models.config and {everywhere}: "
                    + (
                        f"label {label} names {now}{came}"
                        if now is not None
                        else f"remove label {label}, which names {old}"
                    )
                )
        if self.unloaded:
            steps.append(f"models.config and {everywhere}: unload {versions(self.unloaded)}")
        return steps
