"""TensorFlow Serving's ``ModelService``: which versions there are, and which models to serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mien_client.protos import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ReloadConfigRequest,
    ReloadConfigResponse,
)

from mien_serving.core.metrics import NO_METRICS, Metrics
from mien_serving.core.servable_state import ServableState
from mien_serving.core.server_core import ServerCore
from mien_serving.core.status import Code, StatusError, invalid_argument
from mien_serving.core.unlabelled import COUNT_HEADER, SECONDS_HEADER
from mien_serving.model_servers.prediction_service import required_model_spec
from mien_serving.servables.servable import NO_DEADLINE


class ModelService:
    """Answers messages about the models of a server.

    Every method for a message takes the request and the deadline, which does not matter here, and raises `StatusError`.

    Args:
        core: Serves the models.
        metrics: Holds the counters that a reload request may ask for.
    """

    def __init__(self, core: ServerCore[Any], metrics: Metrics = NO_METRICS) -> None:
        self._core = core
        self._metrics = metrics

    def get_model_status(self, request: GetModelStatusRequest, _: float = NO_DEADLINE) -> GetModelStatusResponse:
        """Return the state of every version of a model, or of one; a label in the request is ignored."""
        name = required_model_spec(request).name
        states: Mapping[int, ServableState] = self._core.states(name)
        if request.model_spec.HasField("version"):
            version = request.model_spec.version.value
            if version not in states:
                raise StatusError(Code.NOT_FOUND, f"Could not find version {version} of model {name}")
            states = {version: states[version]}
        if not states:
            raise StatusError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        response = GetModelStatusResponse()
        for version, state in states.items():
            status = response.model_version_status.add(version=version, state=state.state).status
            status.SetInParent()
            if state.error:
                status.error_code = state.error.code  # type: ignore[assignment]  # The same numbers.
                status.error_message = state.error.message
        return response

    def status_trailers(self, request: GetModelStatusRequest) -> tuple[tuple[str, str], ...]:
        """Return the trailing metadata of an answer about a model's status: its requests without version and label."""
        seen = self._core.unlabelled.seen(request.model_spec.name)
        return ((COUNT_HEADER, str(seen[0])), (SECONDS_HEADER, f"{seen[1]:.0f}")) if seen else ()

    def handle_reload_config_request(
        self, request: ReloadConfigRequest, _: float = NO_DEADLINE
    ) -> ReloadConfigResponse:
        """Replace the model configuration; return when all models that are new in it are available.

        The answer contains the increase of each counter that the request names.
        """
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        before = {name: self._metrics.count(name) for name in request.metric_names}
        self._core.reload_config(request.config)
        response = ReloadConfigResponse()
        response.status.SetInParent()
        for name, count in before.items():
            response.metric.add(name=name, int64_value_increase=self._metrics.count(name) - count)
        return response
