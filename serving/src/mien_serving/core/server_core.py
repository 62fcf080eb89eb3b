"""The server core: configuration, labels, source and manager behind one object."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

from mien_client.contract import STABLE_LABEL
from mien_client.protos import ModelServerConfig, ModelSpec

from mien_serving.core.config import check_config, models_on_disk
from mien_serving.core.manager import Manager, ManagerOptions, S
from mien_serving.core.metrics import NO_METRICS, Metrics
from mien_serving.core.servable_state import ServableId, ServableState, State
from mien_serving.core.source import Source, check_loadable
from mien_serving.core.status import Code, StatusError, invalid_argument
from mien_serving.core.unlabelled import UnlabelledRequests


@dataclass(frozen=True)
class CoreOptions:
    """How models are found and loaded.

    Attributes:
        model_repository: The folder that stands for ``/models`` in base paths; None leaves ``/models`` as it is.
        file_system_poll_wait_seconds: Pause between two polls for new versions; 0 polls only when the configuration
            changes.
        allow_version_labels_for_unavailable_models: Whether a new label may name a version that is not available.
        manager: How versions are loaded.
    """

    model_repository: Path | None = None
    file_system_poll_wait_seconds: float = 1.0
    allow_version_labels_for_unavailable_models: bool = False
    manager: ManagerOptions = field(default_factory=ManagerOptions)


class ServerCore(Generic[S]):
    """Serves the models of a configuration, which can be replaced while it serves.

    Args:
        load: Loads one version from a folder.
        options: How models are found and loaded.
        metrics: Counts requests that name neither a version nor a label.

    Attributes:
        unlabelled: The same count for `mien rollout`, whether or not metrics are on.
    """

    def __init__(
        self, load: Callable[[ServableId, Path], S], options: CoreOptions, metrics: Metrics = NO_METRICS
    ) -> None:
        self.unlabelled = UnlabelledRequests()
        self._metrics = metrics
        self._options = options
        self._manager = Manager(load, options.manager)
        self._source = Source(self._manager.set_aspired_versions, options.file_system_poll_wait_seconds)
        self._models: Mapping[str, object] = {}
        self._labels: Mapping[str, Mapping[str, int]] = {}
        self._reload_lock = threading.Lock()

    def start(self, config: ModelServerConfig) -> None:
        """Load the first configuration; return when every model in it has an available version.

        As in TensorFlow Serving, it returns or raises only when no load is in progress: a broken version beside a good
        one delays the start by all of its retries. It waits for a base path that does not exist yet.

        Raises:
            StatusError: The configuration is invalid, or a model's version could not be loaded.
        """
        with self._reload_lock:
            check_config(config)
            self._set_labels(self._checked_labels(config))
            self._models = models_on_disk(config, self._options.model_repository)
            with self._manager.initial_load():
                self._source.set_models(self._models)
                self._source.start()
                self._manager.wait_until_available(self._models, "servable(s)")

    def reload_config(self, config: ModelServerConfig) -> None:
        """Replace the configuration; return when every model that is new in it has an available version.

        If a new model has no version to load, the configuration is refused and the previous one stays. TensorFlow
        Serving would wait for ever and block every later reload.

        Raises:
            StatusError: The configuration is refused, or a new model's version could not be loaded.
        """
        with self._reload_lock:
            if self._models and not config.HasField("model_config_list"):
                # For example, a file that is empty for a moment because it is being written.
                raise StatusError(
                    Code.FAILED_PRECONDITION,
                    "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to "
                    "another.",
                )
            check_config(config, self._models)
            models = models_on_disk(config, self._options.model_repository)
            new = models.keys() - self._models.keys()
            for name in sorted(new):
                check_loadable(models[name])
            since = self._manager.sequence()
            self._set_labels(self._checked_labels(config))
            self._models = models
            self._source.set_models(models)
            self._manager.wait_until_available(new, "model(s)", since)

    def handle(self, spec: ModelSpec) -> AbstractContextManager[tuple[ServableId, S]]:
        """Hold the version that a request asks for: by number, by label, or the highest available one.

        Raises:
            StatusError: There is no such label; on entering the context, there is no such model or version.
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        match spec.WhichOneof("version_choice"):
            case "version":
                return self._manager.handle(spec.name, spec.version.value)
            case "version_label":
                version = self._labels.get(spec.name, {}).get(spec.version_label)
                if version is None:
                    raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
                return self._manager.handle(spec.name, version)
            case _:
                self.unlabelled.add(spec.name)
                if spec.name in self._models:
                    self._metrics.unlabelled(spec.name)
                return self._manager.handle(spec.name)

    def states(self, name: str) -> Mapping[int, ServableState]:
        """Return the last state of every version of a model, the highest version first; empty for an unknown model."""
        return self._manager.states(name)

    def stop(self) -> None:
        """Unload everything after the requests in flight have finished."""
        self._source.stop()
        self._manager.stop()

    def _set_labels(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        self._labels = labels
        self.unlabelled.set_models([model for model, versions in labels.items() if STABLE_LABEL in versions])

    def _checked_labels(self, config: ModelServerConfig) -> Mapping[str, Mapping[str, int]]:
        """Return the labels of a configuration, each of which must name an available version.

        If the options allow it, a new label may name an unavailable version. An existing label never may: its requests
        would fail.
        """
        for model in config.model_config_list.config:
            states = self._manager.states(model.name)
            for label, version in model.version_labels.items():
                moved = self._labels.get(model.name, {}).get(label, version) != version
                if self._options.allow_version_labels_for_unavailable_models and not moved:
                    continue
                if version not in states or states[version].state is not State.AVAILABLE:
                    raise StatusError(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label to version {version} of model {model.name}, which is not currently "
                        "available for inference",
                    )
        return {model.name: dict(model.version_labels) for model in config.model_config_list.config}
