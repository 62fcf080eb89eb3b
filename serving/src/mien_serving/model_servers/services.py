"""The services: each request message to its response message, whichever front end it came through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from mien_client.protos import (
    ClassificationRequest,
    ClassificationResponse,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    MultiInferenceRequest,
    MultiInferenceResponse,
    PredictRequest,
    PredictResponse,
    RegressionRequest,
    RegressionResponse,
    ReloadConfigRequest,
    ReloadConfigResponse,
    SignatureDefMap,
)

from mien_serving.core.metrics import NO_METRICS, Metrics
from mien_serving.core.servable_state import ServableId, ServableState
from mien_serving.core.server_core import ServerCore
from mien_serving.core.status import Code, StatusError, invalid_argument
from mien_serving.servables.classify_regress import classify, multi_inference, regress
from mien_serving.servables.predict import DEFAULT_SIGNATURE, predict, prepare
from mien_serving.servables.servable import NO_DEADLINE, Servable
from mien_serving.servables.tensor import write_proto

SIGNATURE_DEF: Final = "signature_def"
"""The one metadata field that can be asked for."""


class Services:
    """TensorFlow Serving's PredictionService and ModelService.

    Every method takes the request and the deadline, in seconds on the monotonic clock, and raises `StatusError`.

    Args:
        core: Has the models.
        metrics: Counts what they do.
        as_tensor_content: Whether predictions are written as bytes instead of typed fields.
    """

    def __init__(
        self, core: ServerCore[Servable], metrics: Metrics = NO_METRICS, *, as_tensor_content: bool = False
    ) -> None:
        self.core = core
        self._metrics = metrics
        self._as_tensor_content = as_tensor_content

    def predict(self, request: PredictRequest, deadline: float = NO_DEADLINE) -> PredictResponse:
        """Runs a signature of a model."""
        _require_model_spec(request)
        spec = request.model_spec
        with self.core.handle(spec) as (servable_id, servable):
            outputs = predict(servable, spec.signature_name, request.inputs, request.output_filter, deadline)
        return self._predicted(servable_id, spec, outputs)

    async def predict_async(self, request: PredictRequest, deadline: float = NO_DEADLINE) -> PredictResponse:
        """As `predict`, for an event loop and requests that wait for a batch more than they compute."""
        _require_model_spec(request)
        spec = request.model_spec
        with self.core.handle(spec) as (servable_id, servable):
            prediction = prepare(servable, spec.signature_name, request.inputs, request.output_filter)
            fetched = await servable.run_async(prediction.feeds, prediction.fetches, deadline)
        return self._predicted(servable_id, spec, prediction.outputs(fetched))

    def _predicted(
        self, servable_id: ServableId, asked: ModelSpec, outputs: Mapping[str, np.ndarray]
    ) -> PredictResponse:
        response = PredictResponse()
        _tell_who_answered(response.model_spec, servable_id, asked)
        for name, value in outputs.items():
            write_proto(value, response.outputs[name], as_tensor_content=self._as_tensor_content)
        return response

    def classify(self, request: ClassificationRequest, deadline: float = NO_DEADLINE) -> ClassificationResponse:
        """Runs a classification signature of a model."""
        _require_model_spec(request)
        spec = request.model_spec
        with self.core.handle(spec) as (servable_id, servable):
            result = classify(servable, spec.signature_name, request.input, deadline)
        response = ClassificationResponse(result=result)
        _tell_who_answered(response.model_spec, servable_id, spec)
        return response

    def regress(self, request: RegressionRequest, deadline: float = NO_DEADLINE) -> RegressionResponse:
        """Runs a regression signature of a model."""
        _require_model_spec(request)
        spec = request.model_spec
        with self.core.handle(spec) as (servable_id, servable):
            result = regress(servable, spec.signature_name, request.input, deadline)
        response = RegressionResponse(result=result)
        _tell_who_answered(response.model_spec, servable_id, spec)
        return response

    def multi_inference(self, request: MultiInferenceRequest, deadline: float = NO_DEADLINE) -> MultiInferenceResponse:
        """Runs several classification and regression signatures of a model on the same examples."""
        spec = request.tasks[0].model_spec if request.tasks else ModelSpec()
        with self.core.handle(spec) as (servable_id, servable):
            return multi_inference(servable, servable_id.version, request, deadline)

    def get_model_metadata(self, request: GetModelMetadataRequest, _: float = NO_DEADLINE) -> GetModelMetadataResponse:
        """Tells the signatures of a model."""
        _require_model_spec(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise invalid_argument(f"Metadata field {field} is not supported")
        signatures = SignatureDefMap()
        with self.core.handle(request.model_spec) as (servable_id, servable):
            for name, signature in servable.signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
        response = GetModelMetadataResponse()
        response.model_spec.name = servable_id.name
        response.model_spec.version.value = servable_id.version
        response.metadata[SIGNATURE_DEF].Pack(signatures)
        return response

    def get_model_status(self, request: GetModelStatusRequest, _: float = NO_DEADLINE) -> GetModelStatusResponse:
        """Tells the state of each version of a model, or of one; a label is not looked at."""
        _require_model_spec(request)
        name = request.model_spec.name
        states: Mapping[int, ServableState] = self.core.states(name)
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

    def handle_reload_config_request(
        self, request: ReloadConfigRequest, _: float = NO_DEADLINE
    ) -> ReloadConfigResponse:
        """Replaces the model configuration; answers when the models that are new in it are available.

        The answer tells by how much the counters that the request names have grown meanwhile.
        """
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        before = {name: self._metrics.count(name) for name in request.metric_names}
        self.core.reload_config(request.config)
        response = ReloadConfigResponse()
        response.status.SetInParent()
        for name, count in before.items():
            response.metric.add(name=name, int64_value_increase=self._metrics.count(name) - count)
        return response


def _tell_who_answered(spec: ModelSpec, servable_id: ServableId, asked: ModelSpec) -> None:
    spec.name = servable_id.name
    spec.signature_name = asked.signature_name or DEFAULT_SIGNATURE
    spec.version.value = servable_id.version


def _require_model_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
