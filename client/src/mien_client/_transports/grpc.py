"""gRPC: TensorFlow Serving's PredictionService and ModelService."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from mien_client import protos
from mien_client._exceptions import ConfigurationError, MienError
from mien_client._transports import Answer, Target, VersionStatus
from mien_client._transports.failures import failure, unexpected
from mien_client.contract import IMAGES_INPUT, SIGNATURE_DEFAULT

_MESSAGE_LIMIT = 64 * 2**20
_OPTIONS = [
    ("grpc.max_send_message_length", _MESSAGE_LIMIT),
    ("grpc.max_receive_message_length", _MESSAGE_LIMIT),
    # After a lost connection gRPC waits before it tries again, by default up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


class GrpcTransport:
    """One channel to one server."""

    def __init__(self, address: str) -> None:
        if ":" not in address:
            raise ConfigurationError(f"{address!r} names no port: TensorFlow Serving's gRPC port is '{address}:8500'")
        self.endpoint = address
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._predict = self._method("PredictionService", "Predict")
        self._metadata = self._method("PredictionService", "GetModelMetadata")
        self._status = self._method("ModelService", "GetModelStatus")

    def predict(self, target: Target, images: NDArray[np.uint8], output: str, timeout: float) -> Callable[[], Answer]:
        """See `Transport.predict`."""
        call = self._send(self._predict, predict_request(target, images, output), target, timeout)

        def wait() -> Answer:
            response = self._result(call, target, timeout)
            if output not in response.outputs:
                raise unexpected(f"lacks the output {output!r}", endpoint=self.endpoint, target=target)
            try:
                values = to_array(response.outputs[output])
            except ValueError as error:
                raise unexpected(f"has an output {output!r} {error}", endpoint=self.endpoint, target=target) from None
            return Answer(values, self._version(response, target))

        return wait

    def resolve(self, target: Target, timeout: float) -> int:
        """See `Transport.resolve`."""
        request = protos.GetModelMetadataRequest(model_spec=_model_spec(target), metadata_field=["signature_def"])
        return self._version(self._ask(self._metadata, request, target, timeout), target)

    def status(self, model: str, timeout: float) -> tuple[VersionStatus, ...]:
        """See `Transport.status`."""
        target = Target(model)
        request = protos.GetModelStatusRequest(model_spec=_model_spec(target))
        response = self._ask(self._status, request, target, timeout)
        return tuple(
            VersionStatus(entry.version, protos.ModelVersionStatus.State.Name(entry.state), entry.status.error_message)
            for entry in response.model_version_status
        )

    def close(self) -> None:
        """See `Transport.close`."""
        self._channel.close()

    def _method(self, service: str, name: str) -> Any:
        method = protos.POOL.FindServiceByName(f"tensorflow.serving.{service}").methods_by_name[name]
        return self._channel.unary_unary(
            f"/{method.containing_service.full_name}/{name}",
            request_serializer=getattr(protos, method.input_type.name).SerializeToString,
            response_deserializer=getattr(protos, method.output_type.name).FromString,
        )

    def _send(self, method: Any, request: Any, target: Target, timeout: float) -> Any:
        try:
            return method.future(request, timeout=timeout)
        except ValueError:  # The channel is closed.
            raise self._failure(grpc.StatusCode.CANCELLED, "the client was closed", target, timeout) from None

    def _result(self, call: Any, target: Target, timeout: float) -> Any:
        try:
            return call.result()
        except (grpc.RpcError, grpc.FutureCancelledError):
            raise self._failure(call.code(), call.details(), target, timeout) from None

    def _ask(self, method: Any, request: Any, target: Target, timeout: float) -> Any:
        return self._result(self._send(method, request, target, timeout), target, timeout)

    def _failure(self, code: grpc.StatusCode, details: str | None, target: Target, timeout: float) -> MienError:
        return failure(code.name, details or "", endpoint=self.endpoint, target=target, timeout=timeout)

    def _version(self, response: Any, target: Target) -> int:
        if not response.model_spec.HasField("version"):
            raise unexpected("does not name its version", endpoint=self.endpoint, target=target)
        return int(response.model_spec.version.value)


def predict_request(target: Target, images: NDArray[np.uint8], output: str) -> Any:
    """Returns the ``PredictRequest`` that asks ``target`` for one output of ``images``, uint8 [n, 48, 48]."""
    request = protos.PredictRequest(model_spec=_model_spec(target), output_filter=[output])
    request.model_spec.signature_name = SIGNATURE_DEFAULT
    tensor = request.inputs[IMAGES_INPUT]
    tensor.dtype = protos.DataType.DT_UINT8
    for size in images.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = images.tobytes()
    return request


def to_array(tensor: Any) -> NDArray[np.float32]:
    """Returns the numbers of a float ``TensorProto``, whose values are packed or in a typed field.

    Raises:
        ValueError: With a clause that says what is wrong with the tensor.
    """
    if tensor.dtype != protos.DataType.DT_FLOAT:
        names = protos.DataType.DESCRIPTOR.values_by_number
        raise ValueError(f"of type {names[tensor.dtype].name if tensor.dtype in names else tensor.dtype}, not DT_FLOAT")
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    size = math.prod(shape)
    values: NDArray[np.float32]
    if tensor.tensor_content:
        whole = len(tensor.tensor_content) // 4 * 4
        values = np.frombuffer(tensor.tensor_content[:whole], "<f4").astype(np.float32)
    else:
        values = np.fromiter(tensor.float_val, np.float32, len(tensor.float_val))
        if 0 < values.size < size:  # The last value of a typed field stands for all that follow.
            values = np.pad(values, (0, size - values.size), mode="edge")
    if values.size != size or len(tensor.tensor_content) % 4:
        raise ValueError(f"whose values do not fill its shape {shape}")
    return values.reshape(shape)


def _model_spec(target: Target) -> Any:
    spec = protos.ModelSpec(name=target.model)
    if target.version is not None:
        spec.version.value = target.version
    elif target.label is not None:
        spec.version_label = target.label
    return spec
