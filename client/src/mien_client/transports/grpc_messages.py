"""What a gRPC request and its answer are made of, with or without asyncio."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien_client import protos
from mien_client.contract import IMAGES_INPUT, SIGNATURE_DEFAULT
from mien_client.transports import Answer, Target, VersionStatus
from mien_client.transports.failures import unexpected


def signature(service: str, name: str) -> tuple[str, Callable[[Any], bytes], Callable[[bytes], Any]]:
    """Returns a method's path, and how its request is written and its response read."""
    method = protos.POOL.FindServiceByName(f"tensorflow.serving.{service}").methods_by_name[name]
    return (
        f"/{method.containing_service.full_name}/{name}",
        getattr(protos, method.input_type.name).SerializeToString,
        getattr(protos, method.output_type.name).FromString,
    )


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


def metadata_request(target: Target) -> Any:
    """Returns the ``GetModelMetadataRequest`` whose answer says which version ``target`` is."""
    return protos.GetModelMetadataRequest(model_spec=_model_spec(target), metadata_field=["signature_def"])


def status_request(model: str) -> Any:
    """Returns the ``GetModelStatusRequest`` for all versions of a model."""
    return protos.GetModelStatusRequest(model_spec=_model_spec(Target(model)))


def read_answer(response: Any, output: str, endpoint: str, target: Target) -> Answer:
    """Returns what a ``PredictResponse`` says.

    Raises:
        UnexpectedResponseError: If that is not what was asked for.
    """
    if output not in response.outputs:
        raise unexpected(f"lacks the output {output!r}", endpoint=endpoint, target=target)
    try:
        values = to_array(response.outputs[output])
    except ValueError as error:
        raise unexpected(f"has an output {output!r} {error}", endpoint=endpoint, target=target) from None
    return Answer(values, answering_version(response, endpoint, target))


def answering_version(response: Any, endpoint: str, target: Target) -> int:
    """Returns the version that a response names.

    Raises:
        UnexpectedResponseError: If it names none.
    """
    if not response.model_spec.HasField("version"):
        raise unexpected("does not name its version", endpoint=endpoint, target=target)
    return int(response.model_spec.version.value)


def version_statuses(response: Any) -> tuple[VersionStatus, ...]:
    """Returns what a ``GetModelStatusResponse`` says."""
    return tuple(
        VersionStatus(entry.version, protos.ModelVersionStatus.State.Name(entry.state), entry.status.error_message)
        for entry in response.model_version_status
    )


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
