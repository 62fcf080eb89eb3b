"""TensorFlow Serving's ``PredictionService``: each request message to its response message."""

from __future__ import annotations

from typing import Any, Final

from mien_client.protos import (
    ClassificationRequest,
    ClassificationResponse,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    ModelSpec,
    MultiInferenceRequest,
    MultiInferenceResponse,
    PredictRequest,
    PredictResponse,
    RegressionRequest,
    RegressionResponse,
    SignatureDefMap,
)

from mien_serving.core.servable_state import ServableId
from mien_serving.core.status import invalid_argument
from mien_serving.servables.predict import DEFAULT_SIGNATURE
from mien_serving.servables.predictor import Predictor
from mien_serving.servables.servable import NO_DEADLINE
from mien_serving.servables.tensor import write_proto

_SIGNATURE_DEF: Final = "signature_def"
"""The only supported metadata field."""


class PredictionService:
    """Answers messages with a predictor.

    Every method takes the request and the deadline, in seconds on the monotonic clock, and raises `StatusError`.

    Args:
        predictor: Runs the models.
        as_tensor_content: Whether predictions are written as bytes instead of typed fields.
    """

    def __init__(self, predictor: Predictor, *, as_tensor_content: bool = False) -> None:
        self._predictor = predictor
        self._as_tensor_content = as_tensor_content

    def predict(self, request: PredictRequest, deadline: float = NO_DEADLINE) -> PredictResponse:
        """Run any signature of a model on tensors."""
        spec = required_model_spec(request)
        servable_id, outputs = self._predictor.predict(spec, request.inputs, request.output_filter, deadline)
        response = PredictResponse(model_spec=_answered_by(servable_id, spec))
        for name, value in outputs.items():
            write_proto(value, response.outputs[name], as_tensor_content=self._as_tensor_content)
        return response

    def classify(self, request: ClassificationRequest, deadline: float = NO_DEADLINE) -> ClassificationResponse:
        """Run a classification signature of a model on examples."""
        spec = required_model_spec(request)
        servable_id, result = self._predictor.classify(spec, request.input, deadline)
        return ClassificationResponse(model_spec=_answered_by(servable_id, spec), result=result)

    def regress(self, request: RegressionRequest, deadline: float = NO_DEADLINE) -> RegressionResponse:
        """Run a regression signature of a model on examples."""
        spec = required_model_spec(request)
        servable_id, result = self._predictor.regress(spec, request.input, deadline)
        return RegressionResponse(model_spec=_answered_by(servable_id, spec), result=result)

    def multi_inference(self, request: MultiInferenceRequest, deadline: float = NO_DEADLINE) -> MultiInferenceResponse:
        """Run several classification and regression signatures of a model on the same examples."""
        return self._predictor.multi_inference(request, deadline)

    def get_model_metadata(self, request: GetModelMetadataRequest, _: float = NO_DEADLINE) -> GetModelMetadataResponse:
        """Return the signatures of a model."""
        spec = required_model_spec(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != _SIGNATURE_DEF:
                raise invalid_argument(f"Metadata field {field} is not supported")
        servable_id, signatures = self._predictor.signatures(spec)
        response = GetModelMetadataResponse()
        response.model_spec.name = servable_id.name
        response.model_spec.version.value = servable_id.version
        response.metadata[_SIGNATURE_DEF].Pack(SignatureDefMap(signature_def=signatures))
        return response


def required_model_spec(request: Any) -> ModelSpec:
    """Return the model spec of a request.

    Raises:
        StatusError: The request has none.
    """
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    spec: ModelSpec = request.model_spec
    return spec


def _answered_by(servable_id: ServableId, asked: ModelSpec) -> ModelSpec:
    return ModelSpec(
        name=servable_id.name,
        signature_name=asked.signature_name or DEFAULT_SIGNATURE,
        version={"value": servable_id.version},
    )
