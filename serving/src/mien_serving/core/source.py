"""The source, which reads from the file system which versions of each model to load."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from mien_client.protos import ModelConfig

from mien_serving.core.status import Code, StatusError, invalid_argument

logger = logging.getLogger(__name__)

AspiredVersions = Mapping[int, Path]
"""The versions to load, with the folder of each."""

MAX_VERSION: Final = 2**63 - 1
"""The highest version number."""


def aspired_versions(model: ModelConfig) -> AspiredVersions:
    """Return the versions of one model to load, by its version policy.

    Args:
        model: A model whose base path is a folder of this machine.

    Raises:
        StatusError: The base path cannot be read. This differs from "no versions": a file system that is unavailable
            for a moment must not unload anything.
    """
    base_path = Path(model.base_path)
    try:
        folders = sorted(entry for entry in base_path.iterdir() if entry.is_dir())
    except (OSError, ValueError) as error:  # ValueError: a null character in the path.
        reason = getattr(error, "strerror", None) or "not readable"
        raise invalid_argument(
            f"Could not find base path {base_path} for servable {model.name} with error NOT_FOUND: "
            f"{base_path} {reason.lower()}"
        ) from error
    found = {version: folder for folder in folders if (version := version_number(folder.name)) is not None}
    policy = model.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return found
        case "specific":
            return {version: folder for version, folder in found.items() if version in policy.specific.versions}
        case _:
            newest = sorted(found, reverse=True)[: max(policy.latest.num_versions, 1)]
            return {version: found[version] for version in newest}


def version_number(name: str) -> int | None:
    """Return the version number that a folder name stands for; None if servers ignore a folder of that name."""
    if not (name.isascii() and name.isdigit()):
        return None
    version = int(name)
    return version if version <= MAX_VERSION else None


class Source:
    """Polls the file system and reports the aspired versions, those that should be loaded.

    Every poll reports all aspired versions of every model; a version that is missing from the report is unloaded. A
    model that leaves the configuration is reported once more, with no versions.

    Args:
        aspire: Called with a model's name and its aspired versions; must return quickly.
        poll_wait_seconds: Pause between two polls. 0 polls only when the configuration changes.
    """

    def __init__(self, aspire: Callable[[str, AspiredVersions], None], poll_wait_seconds: float) -> None:
        self._aspire = aspire
        self._poll_wait_seconds = poll_wait_seconds
        self._models: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._complaint = ""

    def start(self) -> None:
        """Start polling."""
        if self._poll_wait_seconds > 0:
            threading.Thread(target=self._run, name="source", daemon=True).start()

    def stop(self) -> None:
        """Stop polling; nothing is reported after it returns."""
        self._stopped.set()
        with self._lock:
            self._models = {}

    def set_models(self, models: Mapping[str, ModelConfig]) -> None:
        """Watch these models from now on, unload those that are no longer among them, and poll once."""
        with self._lock:
            removed = self._models.keys() - models.keys()
            self._models = dict(models)
            for name in removed:
                self._aspire(name, {})
        self.poll()

    def poll(self) -> None:
        """Poll once and report what was found; nothing at all if any base path cannot be read."""
        with self._lock:
            try:
                found = {name: aspired_versions(model) for name, model in self._models.items()}
            except StatusError as error:
                self._complain(f"The source cannot read the file system: {error.message}")
                return
            empty = [name for name, versions in found.items() if not versions]
            self._complain(
                "; ".join(
                    f"No versions of servable {name} found under base path {self._models[name].base_path}; "
                    "is there a folder whose name is a number?"
                    for name in empty
                )
            )
            for name, versions in found.items():
                self._aspire(name, versions)

    def _run(self) -> None:
        while not self._stopped.wait(self._poll_wait_seconds):
            self.poll()

    def _complain(self, complaint: str) -> None:
        """Log a complaint when it is new, not at every poll."""
        if complaint and complaint != self._complaint:
            logger.warning("%s", complaint)
        self._complaint = complaint


def check_loadable(model: ModelConfig) -> None:
    """Check that a poll right now would find a version of a model.

    Raises:
        StatusError: The base path cannot be read, or holds no version that the model's policy selects.
    """
    if not aspired_versions(model):
        raise StatusError(
            Code.NOT_FOUND, f"Unable to find a numerical version path for servable {model.name} at: {model.base_path}"
        )
