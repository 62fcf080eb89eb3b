"""The source: reads from the file system which versions of each model ought to be loaded."""

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
"""The versions that ought to be loaded, with the folder that holds each."""

MAX_VERSION: Final = 2**63 - 1
"""Greatest number of a version."""


def aspired_versions(model: ModelConfig) -> AspiredVersions:
    """Reads which versions of one model ought to be loaded, by its version policy.

    Args:
        model: Its base path is a folder of this machine.

    Raises:
        StatusError: The base path does not exist. That is not the same as "no versions": a file system that is
            away for a moment must not unload anything.
    """
    base_path = Path(model.base_path)
    try:
        folders = sorted(entry for entry in base_path.iterdir() if entry.is_dir())
    except OSError as error:
        raise invalid_argument(
            f"Could not find base path {base_path} for servable {model.name} with error NOT_FOUND: "
            f"{base_path} {(error.strerror or 'not readable').lower()}"
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
    """Return the version that a folder with this name holds; None if servers do not take it for one."""
    if not (name.isascii() and name.isdigit()):
        return None
    version = int(name)
    return version if version <= MAX_VERSION else None


class Source:
    """Polls the file system and states aspired versions, each time anew.

    It keeps no memory of what it said before: every poll states every model's aspired versions in full, and a version
    that is left out is thereby told to unload. A model that leaves the configuration is stated once more, with none.

    Args:
        aspire: Told a model's name and its aspired versions; must return quickly.
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
        """Begins to poll."""
        if self._poll_wait_seconds > 0:
            threading.Thread(target=self._run, name="source", daemon=True).start()

    def stop(self) -> None:
        """Stops polling; nothing is stated after it returns."""
        self._stopped.set()
        with self._lock:
            self._models = {}

    def set_models(self, models: Mapping[str, ModelConfig]) -> None:
        """Watches these models from now on, unloads those that are no longer among them, and polls once."""
        with self._lock:
            removed = self._models.keys() - models.keys()
            self._models = dict(models)
            for name in removed:
                self._aspire(name, {})
        self.poll()

    def poll(self) -> None:
        """Looks once and states what was found; on an unreadable base path it states nothing at all."""
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
        """Logs what is wrong when it begins, not at every poll."""
        if complaint and complaint != self._complaint:
            logger.warning("%s", complaint)
        self._complaint = complaint


def check_loadable(model: ModelConfig) -> None:
    """Refuses a model that a poll right now would find nothing for.

    Raises:
        StatusError: Its base path does not exist or holds no version that its policy wants.
    """
    if not aspired_versions(model):
        raise StatusError(
            Code.NOT_FOUND, f"Unable to find a numerical version path for servable {model.name} at: {model.base_path}"
        )
