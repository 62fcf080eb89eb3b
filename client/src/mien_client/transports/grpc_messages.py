"""From requests to the messages of gRPC, and from its messages to answers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mien_client import protos
from mien_client.contract import IMAGES_INPUT, OTHER_OUTPUT, PROBABILITIES_OUTPUT, SIGNATURE_DEFAULT
from mien_client.transports.base import Answer, Target, VersionStatus
from mien_client.transports.failures import unexpected

_MOST_DIMENSIONS = 8
_MOST_VALUES = 2**24
"""In one answer: 64 MiB. A tensor of one value can claim to be of any size."""


def predict_request(target: Target, images: NDArray[np.uint8], output: str) -> bytes:
    """Return the ``PredictRequest`` that asks ``target`` for an output of ``images``, uint8 [n, 48, 48], as bytes.

    With ``probabilities``, all other outputs are requested: naming ``other`` fails where a version lacks it.

    The pixels are copied once, into these bytes. A message object would copy them when they are set and again when it
    is serialized, and allocating that much memory each time costs more than everything else that a client does.
    """
    spec = _model_spec(target)
    spec.signature_name = SIGNATURE_DEFAULT
    tensor = protos.TensorProto(dtype=protos.DataType.DT_UINT8)
    for size in images.shape:
        tensor.tensor_shape.dim.add(size=size)
    # From the inside out: each message without the pixels, which are its end.
    inside = tensor.SerializeToString() + _head(protos.TensorProto.TENSOR_CONTENT_FIELD_NUMBER, images.nbytes)
    entry = protos.PredictRequest.InputsEntry
    key = entry(key=IMAGES_INPUT).SerializeToString()
    inside = key + _head(entry.VALUE_FIELD_NUMBER, len(inside) + images.nbytes) + inside
    inside = _head(protos.PredictRequest.INPUTS_FIELD_NUMBER, len(inside) + images.nbytes) + inside
    before = protos.PredictRequest(model_spec=spec).SerializeToString()
    wanted = [] if output == PROBABILITIES_OUTPUT else [output]
    after = protos.PredictRequest(output_filter=wanted).SerializeToString()
    return b"".join((before, inside, images.data, after))


def status_request(model: str) -> bytes:
    """Return the ``GetModelStatusRequest`` for all versions of a model, as bytes."""
    return protos.GetModelStatusRequest(model_spec=_model_spec(Target(model))).SerializeToString()


def read_answer(response: protos.PredictResponse, output: str, endpoint: str, target: Target) -> Answer:
    """Return the answer in a ``PredictResponse``.

    Raises:
        UnexpectedResponseError: It is not what was asked for.
    """
    version = _answering_version(response, endpoint, target)
    signature = response.model_spec.signature_name
    if signature not in ("", SIGNATURE_DEFAULT):
        raise unexpected(f"comes from the signature {signature[:100]!r}", endpoint=endpoint, target=target)
    if output not in response.outputs:
        raise unexpected(f"lacks the output {output!r}", endpoint=endpoint, target=target)
    arrays = {}
    for name in (output, OTHER_OUTPUT):
        if name in response.outputs:
            try:
                arrays[name] = to_array(response.outputs[name])
            except ValueError as error:
                raise unexpected(f"has an output {name!r} {error}", endpoint=endpoint, target=target) from None
    return Answer(arrays[output], version, arrays.get(OTHER_OUTPUT))


def _answering_version(response: protos.PredictResponse, endpoint: str, target: Target) -> int:
    """Return the version that a response names.

    Raises:
        UnexpectedResponseError: It names no version, or another model.
    """
    if response.model_spec.name != target.model:
        told = response.model_spec.name[:100]
        raise unexpected(f"comes from the model {told!r}", endpoint=endpoint, target=target)
    if not response.model_spec.HasField("version"):
        raise unexpected("does not name its version", endpoint=endpoint, target=target)
    return response.model_spec.version.value


def version_statuses(response: protos.GetModelStatusResponse) -> tuple[VersionStatus, ...]:
    """Return the states in a ``GetModelStatusResponse``."""
    names = protos.ModelVersionStatus.State.DESCRIPTOR.values_by_number
    return tuple(
        VersionStatus(
            entry.version,
            names[entry.state].name if entry.state in names else str(entry.state),
            entry.status.error_message,
        )
        for entry in response.model_version_status
    )


def to_array(tensor: protos.TensorProto) -> NDArray[np.float32]:
    """Return the numbers of a float ``TensorProto``, whose values are packed or in a typed field.

    Raises:
        ValueError: The tensor is invalid. The text is a clause that says why.
    """
    if tensor.dtype != protos.DataType.DT_FLOAT:
        names = protos.DataType.DESCRIPTOR.values_by_number
        raise ValueError(f"of type {names[tensor.dtype].name if tensor.dtype in names else tensor.dtype}, not DT_FLOAT")
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    size = math.prod(shape)
    if any(length < 0 for length in shape):
        raise ValueError(f"whose values do not fill its shape {str(shape)[:100]}")
    if len(shape) > _MOST_DIMENSIONS or size > _MOST_VALUES:
        raise ValueError(f"of shape {str(shape)[:100]}, which no model of Mien answers with")
    values: NDArray[np.float32]
    if tensor.tensor_content:
        whole = len(tensor.tensor_content) // 4 * 4
        values = np.frombuffer(tensor.tensor_content[:whole], "<f4").astype(np.float32)
    else:
        values = np.array(tensor.float_val, np.float32)
        if 0 < values.size < size:  # The last value of a typed field stands for all that follow.
            values = np.pad(values, (0, size - values.size), mode="edge")
    if values.size != size or len(tensor.tensor_content) % 4:
        raise ValueError(f"whose values do not fill its shape {shape}")
    return values.reshape(shape)


def _head(number: int, size: int) -> bytes:
    """Return what precedes the ``size`` bytes of a field that holds a string, bytes or a message."""
    head = bytearray([number << 3 | 2])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head)


def _model_spec(target: Target) -> protos.ModelSpec:
    spec = protos.ModelSpec(name=target.model)
    if target.version is not None:
        spec.version.value = target.version
    elif target.label is not None:
        spec.version_label = target.label
    return spec
